-- Writes and reads that succeed with a quorum of the nodes, on a stub of a cluster.
local quorum = require("consul_quorum")

-- A stub of a cluster. `answers` has for each node a function that returns its reply, or an error message.
local function cluster(answers)
  return {
    broadcast = function(_, name, body, options)
      local results = {}
      for _, id in ipairs(options.nodes) do
        local answer = answers[id]
        if type(answer) == "function" then
          results[id] = { success = true, data = answer(name, body, options) }
        else
          results[id] = { success = false, error = answer }
        end
      end
      return true, results
    end,
  }
end

local function replies(value)
  return function()
    return value
  end
end

local function newest(one, other)
  return other.version > one.version and other or one
end

describe("a quorum", function()
  describe("of a write", function()
    it("is reached when enough nodes acknowledge, and lists those that did not", function()
      local asked
      local of = cluster({
        a = function(...)
          asked = { ... }
          return "ok"
        end,
        b = "timeout",
        c = replies("ok"),
      })
      local success, outcome = quorum.write(of, { "a", "b", "c" }, "put", { v = 1 }, { quorum = 2, timeout_ms = 700 })
      assert.is_true(success)
      assert.same({ acknowledged = { "a", "c" }, missing = { "b" } }, outcome)
      assert.same({ "put", { v = 1 }, { timeout_ms = 700, nodes = { "a", "b", "c" } } }, asked)
    end)

    it("that is not reached fails, and names each node without an answer and the reason", function()
      local of = cluster({ a = replies("ok"), b = "timeout", c = "refused" })
      local success, message, outcome = quorum.write(of, { "a", "b", "c" }, "put", {}, { quorum = 2 })
      assert.is_false(success)
      assert.equal(
        "put: 1 of 3 nodes answered, and the quorum is 2; no answer from b (timeout), c (refused)", message)
      assert.same({ acknowledged = { "a" }, missing = { "b", "c" } }, outcome)
    end)

    it("is all nodes by default", function()
      assert.is_true(quorum.write(cluster({ a = replies(1), b = replies(1) }), { "a", "b" }, "put", {}))
      assert.is_false((quorum.write(cluster({ a = replies(1), b = "gone" }), { "a", "b" }, "put", {})))
    end)

    it("larger than the number of nodes is an error", function()
      local success, message = quorum.write(cluster({ a = replies(1) }), { "a" }, "put", {}, { quorum = 2 })
      assert.is_false(success)
      assert.equal("put: the quorum is 2, but only 1 nodes can be asked", message)
    end)

    it("fails with the cluster's message when no node could be asked", function()
      local closed = {
        broadcast = function()
          return false, "it is not started"
        end,
      }
      local success, message = quorum.write(closed, { "a" }, "put", {}, { quorum = 1 })
      assert.is_false(success)
      assert.matches("no answer from a %(it is not started%)", message)
    end)
  end)

  describe("of a read", function()
    it("returns the newest reply, and whether all nodes answered", function()
      local of = cluster({ a = replies({ version = 1 }), b = replies({ version = 3 }), c = replies({ version = 2 }) })
      local value, outcome = quorum.read(of, { "a", "b", "c" }, "get", {}, { quorum = 2, newest = newest })
      assert.same({ version = 3 }, value)
      assert.same({ complete = true, answered = { "a", "b", "c" }, missing = {} }, outcome)
    end)

    it("without an answer of some nodes is not complete", function()
      local of = cluster({ a = replies({ version = 1 }), b = "timeout", c = replies({ version = 2 }) })
      local value, outcome = quorum.read(of, { "a", "b", "c" }, "get", {}, { quorum = 2, newest = newest })
      assert.same({ version = 2 }, value)
      assert.same({ complete = false, answered = { "a", "c" }, missing = { "b" } }, outcome)
    end)

    it("ignores nodes without a value", function()
      local of = cluster({ a = replies(nil), b = replies({ version = 1 }) })
      assert.same({ version = 1 }, (quorum.read(of, { "a", "b" }, "get", {}, { newest = newest })))
      local value, outcome = quorum.read(of, { "a" }, "get", {}, { newest = newest })
      assert.is_nil(value)
      assert.is_true(outcome.complete)
    end)

    it("that is not reached returns nil and a message", function()
      local of = cluster({ a = replies({ version = 1 }), b = "timeout" })
      local value, message = quorum.read(of, { "a", "b" }, "get", {}, { quorum = 2, newest = newest })
      assert.is_nil(value)
      assert.equal("get: 1 of 2 nodes answered, and the quorum is 2; no answer from b (timeout)", message)
    end)
  end)
end)
