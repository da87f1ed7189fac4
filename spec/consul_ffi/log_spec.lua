-- The program's log function. Standard error is in tests/programs/logs.rs.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("log", function()
  local key, lines, client

  -- Keeps lines as { level, message, fields }.
  local function keep(...)
    lines[#lines + 1] = { ... }
  end

  before_each(function()
    key, lines = support.name("log"), {}
    client = support.client()
  end)

  after_each(function()
    support.client({ log = false, log_level = "WARN" })
    client:kv_delete(key)
    client:close()
  end)

  -- The first line whose message is this.
  local function line(message)
    for _, found in ipairs(lines) do
      if found[2] == message then
        return found
      end
    end
  end

  it("gets the lines of a call in this call, with the values of each by name", function()
    support.client({ log = keep, log_level = "DEBUG" })
    assert(client:kv_put(key, "body-s3cret", { token = "t0ken-s3cret" }))
    local answered = line("answered")
    assert.is_table(answered)
    assert.equal("DEBUG", answered[1])
    local fields = answered[3]
    assert.equal(1, fields.attempts)
    assert.matches("kv_put", fields.call, 1, true)
    assert.matches("^consul_client::", fields.target)
    assert.is_true(math.abs(fields.at_ms / 1000 - os.time()) < 300)
    for _, found in ipairs(lines) do
      assert.equal(3, #found)
      for _, value in pairs(found[3]) do
        assert.is_nil(tostring(value):find("s3cret", 1, true))
      end
      assert.is_nil(found[2]:find("s3cret", 1, true))
    end
  end)

  it("is the last one that was given, at the last level, until it is false", function()
    local others = 0
    support.client({ log = keep, log_level = "DEBUG" })
    support.client({ log = function()
      others = others + 1
    end })
    assert(client:kv_get(key))
    assert.same({}, lines)
    assert.is_true(others > 0)
    support.client({ log = keep })
    lines = {}
    support.client({ log_level = "off" })
    local before = #lines
    assert(client:kv_get(key))
    assert.equal(before, #lines)
    support.client({ log_level = "debug" })
    assert(client:kv_get(key))
    assert.is_true(#lines > before)
    support.client({ log_level = "INFO" })
    before = #lines
    assert(client:kv_get(key))
    assert.equal(before, #lines)
  end)

  it("gets the lines of background work at the next call, and while a call waits", function()
    local thread, others = coroutine.running(), 0
    support.client({ log_level = "DEBUG", log = function(...)
      others = others + (coroutine.running() == thread and 0 or 1)
      keep(...)
    end })
    lines = {}
    local handle = client:start("kv_get", key)
    handle:wait()
    handle:close()
    support.eventually(function()
      support.sleep_ms(5)
      client:registered()
      return line("answered")
    end)
    lines = {}
    local watch = client:watch("kv_get", key)
    assert(watch:next(support.PATIENCE_MS))
    -- A call that is answered before the wait begins has its lines at the end of its start.
    support.eventually(function()
      local waiting = client:start("kv_get", key)
      local started = #lines
      watch:next(200)
      waiting:close()
      return #lines > started
    end)
    watch:close()
    assert.equal(0, others)
  end)

  it("is not called inside itself, and calls that it makes do not make it loop", function()
    local depth, deepest, calls = 0, 0, 0
    -- Its own lines would go to standard error, which is the output of the specs.
    support.client({ log_level = "INFO", log = function()
      depth, calls = depth + 1, calls + 1
      deepest = math.max(depth, deepest)
      support.client({ log_level = "OFF" })
      consul_ffi._internal.log("INFO", "not written")
      client:kv_get(key)
      support.client({ log_level = "INFO" })
      depth = depth - 1
    end })
    consul_ffi._internal.log("INFO", "one")
    consul_ffi._internal.log("WARN", "two")
    client:kv_get(key)
    assert.same({ 1, 2 }, { deepest, calls })
  end)

  it("gets up to 1,000 lines at once, and the number of those lost after a line", function()
    local lost, count = 0, 0
    support.client({ log_level = "DEBUG", log = function(_, _, fields)
      lost, count = lost + (fields.lost or 0), count + 1
    end })
    assert(client:kv_get(key))
    local of_one = count
    assert.is_true(of_one > 0)
    lost, count = 0, 0
    local calls = {}
    for i = 1, 3000 do
      calls[i] = { "kv_get", key }
    end
    assert(client:batch(calls))
    support.client({ log_level = "WARN" })
    support.eventually(function()
      client:registered()
      return count + lost >= 3000 * of_one
    end)
    assert.equal(3000 * of_one, count + lost)
  end)

  it("is a function or false, and not one of a metatable", function()
    for _, wrong in ipairs({ "print", 1, true, setmetatable({}, { __call = print }) }) do
      assert.has_error(function()
        consul_ffi.new({ log = wrong })
      end)
    end
    support.client({ log_level = "DEBUG" })
    support.client({ log = keep })
    lines = {}
    local config = setmetatable({ simulate = support.simulated }, { __index = { log = error } })
    consul_ffi.new(config):close()
    assert(client:kv_get(key))
    assert.is_table(line("answered"))
  end)

  it("is an option of a cluster's node too, and is called by its poll", function()
    local prefix = support.name("log")
    local node = support.node(prefix, "n1", { log = keep, log_level = "INFO" })
    assert(node:start())
    node:handle("fail", function()
      error("on purpose")
    end)
    assert.is_false((node:call("n1", "fail")))
    node:poll(0)
    local raised = line("a handler raised an error")
    assert.is_table(raised)
    assert.equal("WARN", raised[1])
    assert.equal("fail", raised[3].handler)
    support.clean_up({ node }, prefix)
  end)

  it("may close the client of the call, and collect garbage", function()
    support.client({ log_level = "DEBUG", log = function()
      client:close()
      collectgarbage()
    end })
    assert(client:kv_get(key))
    local ok, _, err = client:kv_get(key)
    assert.is_false(ok)
    assert.equal("closed", err.kind)
    support.client({ log = false, log_level = "WARN" })
    client = support.client()
  end)
end)
