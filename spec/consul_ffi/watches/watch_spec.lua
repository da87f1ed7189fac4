-- Watches: the changes of what an endpoint returns.
local support = require("spec.support")

-- The wait of one query. A real server keeps the connection of an abandoned watch for as long, and
-- limits the number of connections.
local WAIT = "2s"

describe("a watch", function()
  local client, key

  support.each_test(function(...)
    client, key = ...
  end)

  local function watch(method, name, options)
    options = options or {}
    options.wait = WAIT
    return assert(client:watch(method, name, options))
  end

  -- Returns the next change, which must arrive within 5 s.
  local function next_of(changes)
    local _, change, meta = assert(changes:next(support.PATIENCE_MS))
    assert.is_table(change, "no change within 5 s")
    return change, meta
  end

  it("reports a key's value, then its changes #smoke", function()
    local changes = watch("kv_get", key)
    assert.same({ type = "initial" }, (next_of(changes)))
    assert(client:kv_put(key, "1", { flags = 7 }))
    local change, meta = next_of(changes)
    assert.same({ type = "put", value = "1" }, change)
    assert.equal(7, meta.flags)
    assert.is_number(meta.index)
    assert(client:kv_delete(key))
    assert.same({ type = "delete", value = "1" }, (next_of(changes)))
  end)

  it("reports the changed keys below a prefix #smoke", function()
    for _, name in ipairs({ "/a", "/b", "/c" }) do
      assert(client:kv_put(key .. name, "1"))
    end
    local changes = watch("kv_list", key .. "/")
    local change = next_of(changes)
    assert.equal("initial", change.type)
    assert.equal(3, #change.value)
    assert(client:kv_put(key .. "/b", "2"))
    change = next_of(changes)
    assert.same({ "put", key .. "/b", "2" }, { change.type, change.id, change.value.Value })
    assert(client:kv_delete(key .. "/c"))
    change = next_of(changes)
    assert.same({ "delete", key .. "/c", "1" }, { change.type, change.id, change.value.Value })
  end)

  it("reports a service's instances and their checks", function()
    local name = support.name("web")
    local changes = watch("health_service", name)
    assert.same({ type = "initial", value = {} }, (next_of(changes)))
    assert(client:agent_service_register({ Name = name, Check = { TTL = "1m", Status = "critical" } }))
    local change = next_of(changes)
    assert.matches("/" .. name, change.id, 1, true)
    assert.equal("put", change.type)
    assert(client:agent_check_pass("service:" .. name))
    repeat
      change = next_of(changes)
      local status = {}
      for _, check in ipairs(change.value.Checks) do
        status[check.CheckID] = check.Status
      end
    until status["service:" .. name] == "passing"
    assert(client:agent_service_deregister(name))
    repeat
      change = next_of(changes)
    until change.type == "delete"
  end)

  it("reports nodes, services and checks", function()
    for method, name in pairs({ catalog_nodes = false, catalog_services = false, health_state = "any" }) do
      local changes = name and watch(method, name) or assert(client:watch(method, { wait = WAIT }))
      local change = next_of(changes)
      assert.equal("initial", change.type)
      assert.is_not_nil(next(change.value))
      changes:close()
    end
  end)

  -- An event's index is a hash, so it may be lower than the last one, and is seldom below 2^53.
  it("reports each event once", function()
    local name = support.name("deploy")
    assert(client:event_fire(name, "0"))
    local changes = assert(client:watch("event_list", { name = name, wait = WAIT }))
    local initial, meta = next_of(changes)
    local seen = #initial.value
    local is_exact = tonumber(meta.index) < 2 ^ (_VERSION >= "Lua 5.3" and 63 or 53)
    assert.equal(is_exact and "number" or "string", type(meta.index))
    for i = 1, 5 do
      assert(client:event_fire(name, tostring(i)))
    end
    local payloads = {}
    while seen < 6 do
      local change = next_of(changes)
      assert.equal("put", change.type)
      assert.is_nil(payloads[change.value.Payload])
      payloads[change.value.Payload] = true
      seen = seen + 1
    end
    assert.same({ true }, { changes:next(500) })
  end)

  it("returns no change from poll and after a timeout while nothing has changed", function()
    local changes = watch("kv_get", key)
    next_of(changes)
    assert.same({ true }, { changes:poll() })
    assert.same({ true }, { changes:next(20) })
    assert.same({ true }, { changes:next(0) })
  end)

  it("iterates over its changes until it is closed #smoke", function()
    local changes = watch("kv_get", key)
    local seen = {}
    for change, meta in changes:changes() do
      assert.is_number(meta.request_ms)
      seen[#seen + 1] = ("%s %s"):format(change.type, tostring(change.value))
      if #seen == 3 then
        changes:close()
      else
        assert(client:kv_put(key, tostring(#seen)))
      end
    end
    assert.same({ "initial nil", "put 1", "put 2" }, seen)
  end)

  it("reports the last of many writes, and stays within its rate", function()
    local rate_per_s = 10
    local changes = watch("kv_get", key, { rate_per_s = rate_per_s })
    next_of(changes)
    local seen, states = {}, 0
    local function take(change)
      if change then
        assert.equal("put", change.type)
        assert.is_nil(seen[change.value], "a state was reported twice")
        seen[change.value] = true
        states = states + 1
      end
    end
    local clock = support.clock
    local begun, writes = clock(), support.simulated and 30000 or 3000
    for i = 1, writes do
      assert(client:kv_put(key, tostring(i)))
      if i % 100 == 0 then
        take(select(2, changes:poll()))
      end
    end
    local written = clock()
    while not seen[tostring(writes)] do
      take(next_of(changes))
    end
    local ended = clock()
    -- A second; the rest is for a busy machine.
    assert.is_true(ended - written < 5, ("%.3f s later"):format(ended - written))
    local most = rate_per_s * (ended - begun) + 2
    assert.is_true(states <= most, ("%d states in %.3f s"):format(states, ended - begun))
  end)

  it("keeps a limited number of old states for a slow program, then reports the last one", function()
    local changes = watch("kv_get", key, { rate_per_s = 1000 })
    for i = 1, 500 do
      assert(client:kv_put(key, tostring(i)))
      if i % 10 == 0 then
        support.sleep_ms(5)
      end
    end
    local taken = 0
    repeat
      local change = next_of(changes)
      taken = taken + 1
    until change.value == "500"
    -- Up to 16 are queued, and one was in flight.
    assert.is_true(taken <= 18, taken .. " states were queued")
  end)

  if support.readable then
    it("makes its file descriptor readable when it has a change", function()
      local changes = watch("kv_get", key)
      next_of(changes)
      local fd = assert(changes:fd())
      assert.equal(fd, changes:fd())
      assert.is_false(support.readable(fd, 0))
      local other = support.client()
      local handle = other:start("kv_put", key, "1")
      assert.is_true(support.readable(fd, support.PATIENCE_MS))
      assert.is_true(support.readable(fd, 0))
      assert.equal("1", next_of(changes).value)
      assert.is_false(support.readable(fd, 0))
      handle:close()
      changes:close()
      assert.equal("closed", support.kind(changes:fd()))
    end)

    it("makes its file descriptor readable when it ends", function()
      local changes = watch("kv_get", key)
      next_of(changes)
      local fd = assert(changes:fd())
      client:close()
      assert.is_true(support.readable(fd, support.PATIENCE_MS))
      assert.equal("closed", support.kind(changes:next(support.PATIENCE_MS)))
    end)
  end

  it("can be closed, also repeatedly, and then returns closed errors", function()
    local changes = watch("kv_get", key)
    assert.is_true(changes:close())
    assert.is_true(changes:close())
    for _, call in ipairs({ changes.next, changes.poll, changes.fd }) do
      assert.equal("closed", support.kind(call(changes)))
    end
    assert.is_nil(changes:changes()())
  end)

  -- During a wait only debug hooks run, and the coroutines that they resume.
  it("can be closed by another coroutine during a wait, which then ends #smoke", function()
    local changes = watch("kv_get", key)
    next_of(changes)
    local closing = coroutine.create(function()
      changes:close()
    end)
    local begun = support.clock()
    local ran, success, message, err = support.with_hook(function()
      assert(coroutine.resume(closing))
    end, changes.next, changes, 20000)
    local took = support.clock() - begun
    assert.is_true(ran, success)
    assert.equal("closed", support.kind(success, message, err))
    -- The hook runs every 50 ms; the rest is for a busy machine.
    assert.is_true(took < 5, ("%.3f s"):format(took))
  end)

  it("ends when its client is closed, but continues when the client is garbage-collected", function()
    local changes = watch("kv_get", key)
    next_of(changes)
    client:close()
    assert.equal("closed", support.kind(changes:next(support.PATIENCE_MS)))
    assert.equal("closed", support.kind(client:watch("kv_get", key)))

    local orphan = assert(support.client():watch("kv_get", key, { wait = WAIT }))
    collectgarbage()
    collectgarbage()
    next_of(orphan)
    assert(support.client():kv_put(key, "1"))
    assert.equal("1", next_of(orphan).value)
    orphan:close()
  end)

  it("uses one of its client's connections until it is closed or garbage-collected", function()
    local few = support.client({ max_connections = 3 })
    local open = {}
    for i = 1, 3 do
      open[i] = assert(few:watch("kv_get", key, { wait = WAIT }))
    end
    local success, message, err = few:watch("kv_get", key)
    assert.equal("config", support.kind(success, message, err))
    assert.matches("3 watches of this client are open", message, 1, true)
    assert.is_true((few:kv_put(key, "1")))
    open[1]:close()
    open[1] = assert(few:watch("kv_get", key, { wait = WAIT }))
    open[2] = nil
    assert(few:watch("kv_get", key, { wait = WAIT }))
    few:close()
  end)

  it("shows its call and its state as a string #smoke", function()
    local changes = watch("kv_get", key)
    assert.equal(('Watch(kv_get "%s", open)'):format(key), tostring(changes))
    changes:close()
    assert.equal(('Watch(kv_get "%s", closed)'):format(key), tostring(changes))
  end)

  if _VERSION >= "Lua 5.4" then
    it("is closed at the end of its scope", function()
      local changes = support.scoped(function()
        return client:watch("kv_get", key)
      end)
      assert.matches("closed", tostring(changes), 1, true)
    end)
  end

  it("raises for misuse, naming what is allowed", function()
    local changes = watch("kv_get", key)
    local raises = support.raises
    raises('watch: unknown method "kv_gte"; did you mean "kv_get"?', client.watch, client, "kv_gte")
    raises("watch: kv_get: argument #1 (key) is missing", client.watch, client, "kv_get")
    raises("watch: kv_put: it has no blocking queries", client.watch, client, "kv_put", "a", "b")
    raises("watch: kv_get: the watch sets index itself", client.watch, client, "kv_get", "a", { index = 1 })
    raises('unknown option "rate_per_sec"; did you mean "rate_per_s"?',
      client.watch, client, "kv_get", "a", { rate_per_sec = 1 })
    raises('watch: kv_get: rate_per_s must be a number above 0, got a string "fast"',
      client.watch, client, "kv_get", "a", { rate_per_s = "fast" })
    raises("watch: call it with a colon", client.watch, nil)
    raises("next: timeout_ms must be a number of milliseconds", changes.next, changes, "soon")
    raises("poll: call it with a colon", changes.poll, nil)
    raises("next: call it with a colon", changes.next, client)
    raises("next: call it with a colon", changes.changes(), nil)
  end)

  it("returns an argument error for invalid options, before any request", function()
    for wanted, options in pairs({
      ["rate_per_s is 0"] = { rate_per_s = 0 },
      ["rate_per_s is -1"] = { rate_per_s = -1 },
      ["rate_per_s is NaN"] = { rate_per_s = 0 / 0 },
      ["rate_per_s is inf"] = { rate_per_s = math.huge },
      ["rate_per_s is 0.00"] = { rate_per_s = 1e-300 },
      ["wait is 0"] = { wait = 0 },
      ["wait is 601"] = { wait = 601 },
    }) do
      local success, message, err = client:watch("kv_get", key, options)
      assert.equal("argument", support.kind(success, message, err))
      assert.matches(wanted, message, 1, true)
    end
    assert.equal("argument", support.kind(client:watch("kv_get", "/dirty")))
  end)
end)

-- Outages on a manual clock, which `next` advances by the time that it waits.
describe("a watch on a manual clock", function()
  local sim, client, connect

  before_each(function()
    sim, connect = support.manual_agent()
    client = connect({ client_name = "one" })
  end)

  -- Returns a watch on a prefix with one key, past its initial change and with a query waiting.
  local function watch()
    assert(client:kv_put("p/a", "1"))
    local changes = assert(client:watch("kv_list", "p/"))
    assert.equal("initial", (select(2, assert(changes:next()))).type)
    sim:advance(0.1)
    assert.equal(1, sim:stats().waiting)
    return changes
  end

  local function values(change)
    local found = {}
    for i, entry in ipairs(change.value) do
      found[i] = entry.Value
    end
    return table.concat(found, " ")
  end

  it("reports an outage of 30 s once, then the current state", function()
    local changes = watch()
    sim:fault({ clients = { "one" }, partition = true })
    sim:restart()
    assert.equal("timeout", support.kind(changes:next()))
    local others = connect()
    assert(others:kv_put("p/b", "2"))
    assert.same({ true }, { changes:next(30000) })
    sim:clear_faults()
    -- The lost query times out after 5 s, and the pause after it is up to 5 s.
    local _, change = assert(changes:next(10000))
    assert.same({ "resynchronised", "1 2" }, { change.type, values(change) })
    assert(client:kv_put("p/b", "3"))
    _, change = assert(changes:next(1000))
    assert.same({ "put", "p/b" }, { change.type, change.id })
  end)

  it("reports nothing after a restart of the agent that has changed nothing", function()
    local changes = watch()
    sim:restart()
    assert.same({ true }, { changes:next(1000) })
    assert(client:kv_put("p/a", "2"))
    local _, change = assert(changes:next(1000))
    assert.same({ "put", "p/a", "2" }, { change.type, change.id, change.value.Value })
  end)

  it("is resynchronised when the index goes backwards", function()
    local changes = watch()
    for i = 1, 20 do
      assert(client:kv_put("other", tostring(i)))
    end
    -- The second change comes within the pause between two queries, so that none waits and breaks off at
    -- the reset, which would be a resynchronisation too.
    for _, value in ipairs({ "2", "3" }) do
      assert(client:kv_put("p/a", value))
      assert.equal("put", (select(2, assert(changes:next()))).type)
    end
    assert.equal(0, sim:stats().waiting)
    sim:reset()
    assert(client:kv_put("p/c", "3"))
    -- The next query waits for an index that is far, up to its 50 s and a sixteenth.
    local _, change = assert(changes:next(70000))
    assert.same({ "resynchronised", "3" }, { change.type, values(change) })
    assert(client:kv_put("p/c", "4"))
    _, change = assert(changes:next(1000))
    assert.same({ "put", "p/c", "4" }, { change.type, change.id, change.value.Value })
  end)

  it("iterates across an outage", function()
    local changes = watch()
    sim:fault({ clients = { "one" }, drop_before = 1 })
    sim:restart()
    sim:advance(30)
    sim:clear_faults()
    for change in changes:changes() do
      assert.equal("resynchronised", change.type)
      changes:close()
    end
  end)

  it("reports the last of 10,000 writes in a second within its rate, and no state twice", function()
    local changes = assert(client:watch("kv_get", "k", { rate_per_s = 10 }))
    assert(changes:next())
    local begun, seen, states = sim:now(), {}, 0
    local function take(change)
      if change then
        assert.is_nil(seen[change.value], "a state was reported twice")
        seen[change.value] = true
        states = states + 1
      end
    end
    for i = 1, 10000 do
      assert(client:kv_put("k", tostring(i)))
      sim:advance(0.0001)
      if i % 10 == 0 then
        take(select(2, changes:poll()))
      end
    end
    local written = sim:now()
    assert.is_true(math.abs(written - begun - 1) < 1e-6)
    while not seen["10000"] do
      take(select(2, assert(changes:next(1000))))
    end
    assert.is_true(sim:now() - written < 1)
    assert.is_true(states >= 10 and states <= 12, states .. " states")
  end)

  it("stays within its rate", function()
    local changes = assert(client:watch("kv_get", "k", { rate_per_s = 2 }))
    local states, begun = 0, sim:now()
    while sim:now() - begun < 10 do
      assert(client:kv_put("k", tostring(states)))
      if select(2, changes:next(100)) then
        states = states + 1
      end
    end
    assert.is_true(states >= 19 and states <= 21, states .. " states in 10 s")
  end)

  it("makes one query per wait while nothing changes", function()
    local changes = assert(client:watch("kv_get", "k", { wait = "1m" }))
    assert(changes:next())
    local before = sim:stats().requests
    assert.is_nil((select(2, changes:next(600000))))
    local asked = sim:stats().requests - before
    assert.is_true(asked <= 10, asked .. " queries in ten minutes")
  end)

  it("that waits forever runs debug hooks, which can close it", function()
    local changes = watch()
    local ran, success, message, err = support.with_hook(function()
      changes:close()
    end, changes.next, changes)
    assert.is_true(ran, success)
    assert.equal("closed", support.kind(success, message, err))
  end)
end)
