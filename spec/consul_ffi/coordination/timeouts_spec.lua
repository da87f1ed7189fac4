-- No call blocks longer than its timeout, in whatever way Consul does not answer: exact, on a clock that the calls
-- advance.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

local TIMEOUT_S = 2

-- Ways not to answer the client "p". Others are answered.
local SILENCES = {
  ["no answer"] = { partition = true },
  ["broken connections"] = { drop_before = 1 },
  ["lost answers"] = { drop_after = 1 },
  ["slow answers"] = { latency_ms = 60000 },
  ["an error"] = { status = 500 },
  ["a refusal"] = { status = 403 },
  ["no leader"] = { no_leader = true },
  ["a leader that is cut off"] = { isolated_leader = true },
}

for name, fault in pairs(SILENCES) do
  describe("no call blocks longer than its timeout: " .. name, function()
    local simulate, sim, client

    local function connect(client_name)
      return consul_ffi.new({
        simulate = simulate,
        client_name = client_name,
        timeout = TIMEOUT_S * 1000,
        log_level = "OFF",
      })
    end

    local function begin()
      simulate = support.name("silent")
      sim = consul_ffi.simulator(simulate, { clock = "manual", seed = 1 })
      client = connect("p")
    end

    before_each(begin)

    -- Fails if the call takes longer than the limit while Consul does not answer.
    local function takes_at_most(limit_s, call)
      sim:fault(support.merged(fault, { clients = { "p" } }))
      local before = sim:now()
      call()
      local took = sim:now() - before
      assert.is_true(took <= limit_s + 0.05, ("%.3f s of %s s"):format(took, limit_s))
      sim:clear_faults()
    end

    local function objects()
      return { client:lock("dir/k"), client:semaphore("permits", 1) }
    end

    it("acquire, with wait_s and one try", function()
      for _, object in ipairs(objects()) do
        for _, wait_s in ipairs({ 0.5, 1, 3, 8 }) do
          takes_at_most(wait_s, function()
            object:acquire({ wait_s = wait_s })
          end)
          object:release()
        end
        takes_at_most(TIMEOUT_S, function()
          object:acquire({ try = true })
        end)
        object:release()
      end
    end)

    it("acquire of what another holds", function()
      local other = connect("other")
      for i, object in ipairs({ other:lock("dir/k"), other:semaphore("permits", 1) }) do
        assert(object:acquire())
        for _, wait_s in ipairs({ 1, 7 }) do
          takes_at_most(wait_s, function()
            assert.is_false((objects()[i]:acquire({ wait_s = wait_s })))
          end)
        end
      end
    end)

    it("release and fenced_put", function()
      for _, object in ipairs(objects()) do
        assert(object:acquire())
        takes_at_most(TIMEOUT_S, function()
          object:fenced_put("data", "1")
        end)
        takes_at_most(TIMEOUT_S, function()
          object:release()
        end)
      end
    end)

    it("close, and garbage", function()
      local held = {}
      for i = 1, 20 do
        held[i] = client:lock("dir/" .. i)
        assert(held[i]:acquire())
      end
      takes_at_most(0, function()
        held[1]:close()
        held = nil
        collectgarbage()
        collectgarbage()
        client:close()
      end)
    end)

    it("hand_over, stop, leave and close of a node", function()
      local limits = { hand_over = 0, stop = TIMEOUT_S, leave = 1 + TIMEOUT_S, close = 1 }
      for verb, limit in pairs(limits) do
        begin()
        local node = support.node("nodes", "n1", {
          simulate = simulate,
          client_name = "p",
          timeout = TIMEOUT_S * 1000,
          log_level = "OFF",
        })
        assert(node:start())
        sim:advance(3)
        assert.is_true(node:is_leader_node())
        takes_at_most(limit, function()
          node[verb](node, verb == "leave" and { timeout_s = 1 } or nil)
        end)
        node:close()
      end
    end)
  end)
end

describe("what serves requests while it waits, on a manual clock,", function()
  local sim, nodes

  before_each(function()
    local simulate = support.name("served")
    sim = consul_ffi.simulator(simulate, { clock = "manual", seed = 1 })
    nodes = {}
    for _, id in ipairs({ "n1", "n2" }) do
      nodes[id] = support.node("nodes", id, { simulate = simulate, timeout = TIMEOUT_S * 1000, log_level = "OFF" })
      assert(nodes[id]:start())
    end
    sim:advance(5)
  end)

  after_each(function()
    for _, node in pairs(nodes) do
      node:close()
    end
  end)

  -- The results of a call, and how long it took by the clock.
  local function timed(call, ...)
    local before = sim:now()
    local ok, err = call(...)
    return sim:now() - before, ok, err
  end

  it("leave returns, with the node stopped", function()
    local took, left = timed(nodes.n2.leave, nodes.n2, { timeout_s = 3 })
    assert.is_true(left)
    assert.is_true(took <= 3 + TIMEOUT_S, took)
    sim:advance(1)
    assert.equal(1, nodes.n1:get_node_count())
  end)

  it("call and broadcast return what the handlers do", function()
    for _, node in pairs(nodes) do
      node:handle("echo", function(body)
        return body
      end)
    end
    local took, answered, reply = timed(nodes.n1.call, nodes.n1, "n2", "echo", "text")
    assert.is_true(answered)
    assert.equal("text", reply)
    assert.is_true(took <= TIMEOUT_S, took)
    took, answered = timed(nodes.n1.broadcast, nodes.n1, "echo", "text")
    assert.is_true(answered)
    assert.is_true(took <= TIMEOUT_S, took)
  end)

  it("a call that nobody answers ends when its time is over", function()
    local held
    nodes.n2:handle("never", function(_, request)
      held = request:defer()
    end)
    local took, answered = timed(nodes.n1.call, nodes.n1, "n2", "never", "", { timeout_ms = 1000 })
    assert.is_false(answered)
    assert.is_not_nil(held)
    -- The clock moves in steps of the wait; a busy machine makes fewer.
    assert.is_true(took > 0 and took <= 3, took)
  end)

  it("poll and next_event move the clock as far as they wait", function()
    while nodes.n1:next_event(0) do
    end
    assert.is_true(math.abs(timed(nodes.n1.poll, nodes.n1, 1500) - 1.5) < 0.001)
    assert.equal(0, (timed(nodes.n1.poll, nodes.n1)))
    local took = timed(nodes.n1.next_event, nodes.n1, 1500)
    assert.is_true(took <= 1.501, took)
  end)

  it("run returns when the node has ended", function()
    nodes.n2:handle("end", function()
      nodes.n2:stop()
      return true
    end)
    local handle = nodes.n1:start("call", "n2", "end", "")
    nodes.n2:run()
    assert.is_not_nil(handle)
  end)
end)
