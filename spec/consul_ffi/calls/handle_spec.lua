-- Handles: calls that run while the program does something else.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("a handle", function()
  local client, key

  support.each_test(function(...)
    client, key = ...
    assert(client:kv_put(key, "1"))
  end)

  -- Starts a call that waits until the key changes.
  local function waiting()
    local _, _, meta = assert(client:kv_get(key))
    return client:start("kv_get", key, { index = meta.index, wait = "5m" })
  end

  it("returns a call's results once it is done #smoke", function()
    local handle = client:start("kv_get", key)
    local done, success, value, meta = handle:wait()
    assert.same({ true, true, "1" }, { done, success, value })
    assert.is_number(meta.modify_index)
  end)

  it("returns the same results each time", function()
    local handle = client:start("kv_list", key)
    local _, _, first = handle:wait()
    local done, success, again = handle:poll()
    assert.same({ true, true }, { done, success })
    assert.equal(first, again)
  end)

  it("is not done while the call waits, and the program can make other calls #smoke", function()
    local handle = waiting()
    assert.is_false((handle:poll()))
    assert.is_false((handle:wait(20)))
    assert.is_true((client:kv_put(key, "2")))
    local done, success, value = handle:wait(support.PATIENCE_MS)
    assert.same({ true, true, "2" }, { done, success, value })
  end)

  it("returns a failure like the call itself", function()
    local done, success, message, err = client:start("kv_put", key, "2", { cas = 1 }):wait()
    assert.is_true(done)
    assert.equal("conflict", support.kind(success, message, err))
  end)

  it("is done immediately when an argument is invalid", function()
    local done, success, message, err = client:start("kv_get", "/dirty"):poll()
    assert.is_true(done)
    assert.equal("argument", support.kind(success, message, err))
  end)

  it("waits concurrently with many others #smoke", function()
    local handles = {}
    for i = 1, 60 do
      handles[i] = waiting()
    end
    assert.is_true((client:kv_put(key, "2")))
    for _, handle in ipairs(handles) do
      local done, success, value = handle:wait(support.PATIENCE_MS)
      assert.same({ true, true, "2" }, { done, success, value })
    end
  end)

  it("may wait for others when more calls are started than may be in flight", function()
    local handles = {}
    for i = 1, 300 do
      handles[i] = client:start("kv_get", key)
    end
    for _, handle in ipairs(handles) do
      local done, success, value = handle:wait()
      assert.same({ true, true, "1" }, { done, success, value })
    end
  end)

  it("has a file descriptor until it is closed", function()
    local handle = waiting()
    local fd = handle:fd()
    assert.is_true(fd > 2)
    assert.equal(fd, handle:fd())
    handle:close()
    assert.equal("closed", support.kind(handle:fd()))
  end)

  it("can be cancelled, also repeatedly", function()
    local handle = waiting()
    handle:cancel()
    handle:cancel()
    local done, success, message, err = handle:poll()
    assert.is_true(done)
    assert.equal("closed", support.kind(success, message, err))
    assert.matches("cancelled", message, 1, true)
  end)

  it("keeps its results when it is cancelled after the end of the call", function()
    local handle = client:start("kv_get", key)
    handle:wait()
    handle:cancel()
    assert.equal("1", (select(3, handle:poll())))
  end)

  it("can be closed, also repeatedly, and then is done", function()
    local handle = waiting()
    handle:close()
    handle:close()
    local done, success, message, err = handle:wait()
    assert.is_true(done)
    assert.equal("closed", support.kind(success, message, err))
  end)

  it("can be closed by a hook during its wait", function()
    local handle = waiting()
    local ran, done, success, message, err = support.with_hook(function()
      handle:close()
    end, handle.wait, handle)
    assert.same({ true, true }, { ran, done })
    assert.equal("closed", support.kind(success, message, err))
  end)

  it("ends when its client is closed", function()
    local handle = waiting()
    client:close()
    local done, success, message, err = handle:wait(support.PATIENCE_MS)
    assert.is_true(done)
    assert.equal("closed", support.kind(success, message, err))
    assert.matches("the client was closed", message, 1, true)
  end)

  it("of a closed client is done immediately", function()
    client:close()
    local done, success, message, err = client:start("kv_get", key):poll()
    assert.is_true(done)
    assert.equal("closed", support.kind(success, message, err))
  end)

  it("continues when its client is garbage-collected", function()
    local handle = support.client():start("kv_get", key)
    collectgarbage()
    collectgarbage()
    assert.equal("1", (select(3, handle:wait())))
  end)

  it("ends its call when it is garbage-collected", function()
    local name = support.name("collected")
    local sim = consul_ffi.simulator(name)
    local one = consul_ffi.new({ simulate = name })
    local _, _, meta = one:kv_get(key)
    local held = { one:start("kv_get", key, { index = meta.index, wait = "5m" }) }
    support.eventually(function()
      return sim:stats().waiting == 1
    end)
    assert.is_false((held[1]:poll()))
    held[1] = nil
    support.eventually(function()
      collectgarbage()
      return sim:stats().waiting == 0
    end)
  end)

  it("shows its call and its state as a string #smoke", function()
    local handle = waiting()
    assert.equal(('Handle(kv_get "%s", running)'):format(key), tostring(handle))
    client:kv_put(key, "2")
    handle:wait(support.PATIENCE_MS)
    assert.equal(('Handle(kv_get "%s", done)'):format(key), tostring(handle))
    handle:close()
    assert.equal(('Handle(kv_get "%s", closed)'):format(key), tostring(handle))
  end)

  if _VERSION >= "Lua 5.4" then
    it("is closed at the end of its scope", function()
      local handle = support.scoped(function()
        return client:start("kv_get", key)
      end)
      assert.matches("closed", tostring(handle), 1, true)
    end)
  end

  it("raises for misuse, naming what is allowed", function()
    local handle = client:start("kv_get", key)
    local raises = support.raises
    raises('start: unknown method "kv_gte"; did you mean "kv_get"?', client.start, client, "kv_gte")
    raises("start: kv_get: argument #1 (key) is missing", client.start, client, "kv_get")
    raises("start: method must be the name of a method, got nil", client.start, client, nil)
    raises("start: call it with a colon", client.start, nil, "kv_get")
    raises("wait: timeout_ms must be a number of milliseconds", handle.wait, handle, "soon")
    raises("wait: timeout_ms must be a number of milliseconds", handle.wait, handle, 0 / 0)
    raises("poll: call it with a colon", handle.poll, nil)
    raises("poll: call it with a colon", handle.poll, client)
  end)

  it("takes a timeout that is negative, zero or infinite", function()
    assert.is_false((waiting():wait(-5)))
    assert.is_false((waiting():wait(0)))
    assert.is_true((client:start("kv_get", key):wait(math.huge)))
  end)
end)

-- On a manual clock there is no background thread: a handle's call proceeds while the program's other
-- calls, its waits and `advance` move the time.
describe("a handle on a manual clock", function()
  local sim, client, connect

  before_each(function()
    sim, connect = support.manual_agent()
    client = connect({ client_name = "one" })
  end)

  local function ms_since(before)
    return math.floor((sim:now() - before) * 1000 + 0.5)
  end

  it("is done exactly when its call's latency has passed", function()
    sim:fault({ latency_ms = 200 })
    local handle = client:start("kv_get", "k")
    assert.is_false((handle:poll()))
    sim:advance(0.199)
    assert.is_false((handle:poll()))
    sim:advance(0.001)
    assert.is_true((handle:poll()))
  end)

  it("advances the clock by the time that it waits", function()
    sim:fault({ latency_ms = 200 })
    local handle, before = client:start("kv_get", "k"), sim:now()
    assert.is_false((handle:wait(50)))
    assert.equal(50, ms_since(before))
    assert.is_true((handle:wait()))
    assert.equal(200, ms_since(before))
  end)

  it("proceeds during another call", function()
    sim:fault({ clients = { "one" }, latency_ms = 200 })
    sim:fault({ clients = { "two" }, latency_ms = 300 })
    local handle = client:start("kv_put", "k", "v")
    local two = connect({ client_name = "two" })
    assert.equal("v", (select(2, two:kv_get("k"))))
    local _, _, _, meta = handle:poll()
    assert.equal(200, math.floor(meta.request_ms + 0.5))
  end)

  it("is woken immediately by a change", function()
    client:kv_put("k", "1")
    local _, _, meta = client:kv_get("k")
    local handle, before = client:start("kv_get", "k", { index = meta.index, wait = "5m" }), sim:now()
    assert.is_false((handle:poll()))
    client:kv_put("k", "2")
    assert.equal("2", (select(3, handle:poll())))
    assert.equal(0, ms_since(before))
  end)

  it("is woken when a session expires during advance", function()
    local _, session = client:session_create({ ttl = "10s", lock_delay = "0s" })
    assert(client:kv_put("lock", "me", { acquire = session }))
    local _, _, meta = client:kv_get("lock")
    local handle = client:start("kv_get", "lock", { index = meta.index, wait = "5m" })
    sim:advance(60)
    local done, success, _, after = handle:poll()
    assert.same({ true, true }, { done, success })
    assert.is_nil(after.session)
    assert.equal(20000, math.floor(after.request_ms + 0.5))
  end)

  it("times out like the call itself", function()
    sim:fault({ partition = true })
    local handle, before = client:start("kv_get", "k"), sim:now()
    local done, success, message, err = handle:wait()
    assert.is_true(done)
    assert.equal("timeout", support.kind(success, message, err))
    assert.equal(5000, ms_since(before))
  end)

  it("waits up to its timeout for one of the client's connections", function()
    sim:fault({ latency_ms = 100 })
    local few = connect({ max_connections = 4 })
    local handles, before = {}, sim:now()
    for i = 1, 5 do
      handles[i] = few:start("kv_get", "k", { timeout_ms = 1000 })
    end
    handles[4]:wait()
    assert.equal(100, ms_since(before))
    assert.is_false((handles[5]:poll()))
    handles[5]:wait()
    assert.equal(200, ms_since(before))

    sim:clear_faults()
    local _, _, meta = client:kv_get("k")
    for i = 1, 4 do
      handles[i] = few:start("kv_get", "k", { index = meta.index })
    end
    local _, success, message, err = few:start("kv_get", "k", { timeout_ms = 1000 }):wait()
    assert.equal("timeout", support.kind(success, message, err))
    assert.matches("4 other calls of this client are in flight", message, 1, true)
  end)

  it("ends its blocking query when it is cancelled", function()
    local _, _, meta = client:kv_get("k")
    local handle = client:start("kv_get", "k", { index = meta.index, wait = "5m" })
    assert.equal(1, sim:stats().waiting)
    handle:cancel()
    assert.equal(0, sim:stats().waiting)
  end)

  it("has the same trace for the same seed", function()
    local function trace()
      sim:reset()
      local started = sim:now()
      sim:fault({ drop_before = 0.2, drop_after = 0.2, jitter_ms = 50 })
      local one = connect({ client_name = "one" })
      local seen, handles = {}, {}
      for i = 1, 30 do
        handles[i] = one:start("session_create", { name = "s" .. i })
        one:kv_get("k")
      end
      for i, handle in ipairs(handles) do
        local _, success, response = handle:wait()
        seen[i] = ("%s %s after %.3f s"):format(tostring(success), response, sim:now() - started)
      end
      return table.concat(seen, "\n")
    end
    assert.equal(trace(), trace())
  end)
end)
