-- Watches: what becomes of what an endpoint reads, change by change.
local support = require("spec.support")

-- What a server waits at most in one query. A real one holds the connection of a watch that was
-- dropped for as long, and takes only so many.
local WAIT = "2s"

describe("a watch", function()
  local client, key

  before_each(function()
    client = support.client()
    key = support.name("watch")
  end)

  after_each(function()
    support.client():kv_delete_tree(key)
    client:close()
  end)

  local function watch(method, name, options)
    options = options or {}
    options.wait = WAIT
    return assert(client:watch(method, name, options))
  end

  -- The next change, which comes within seconds.
  local function next_of(changes)
    local _, change, meta = assert(changes:next(5000))
    assert.is_table(change, "there is no change within 5 s")
    return change, meta
  end

  it("tells a key as it is, then as it changes #smoke", function()
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

  it("tells of a prefix what changed, by key #smoke", function()
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

  it("tells a service by its instances, and their checks", function()
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

  it("tells nodes, services and checks", function()
    for method, name in pairs({ catalog_nodes = false, catalog_services = false, health_state = "any" }) do
      local changes = name and watch(method, name) or assert(client:watch(method, { wait = WAIT }))
      local change = next_of(changes)
      assert.equal("initial", change.type)
      assert.is_not_nil(next(change.value))
      changes:close()
    end
  end)

  -- An event's index is a hash: as often below the last one as above it, and seldom below 2^53.
  it("tells events once each, and asks only when there are new ones", function()
    local name = support.name("deploy")
    assert(client:event_fire(name, "0"))
    local changes = assert(client:watch("event_list", { name = name, wait = WAIT }))
    local initial, meta = next_of(changes)
    local seen = #initial.value
    local is_exact = tonumber(meta.index) < 2 ^ (_VERSION >= "Lua 5.4" and 63 or 53)
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

  it("says at once that there is nothing yet, and when a wait is over", function()
    local changes = watch("kv_get", key)
    next_of(changes)
    assert.same({ true }, { changes:poll() })
    assert.same({ true }, { changes:next(20) })
    assert.same({ true }, { changes:next(0) })
  end)

  it("is a loop over its changes, until it is closed #smoke", function()
    local changes = watch("kv_get", key)
    local told = {}
    for change, meta in changes:changes() do
      assert.is_number(meta.request_ms)
      told[#told + 1] = ("%s %s"):format(change.type, tostring(change.value))
      if #told == 3 then
        changes:close()
      else
        assert(client:kv_put(key, tostring(#told)))
      end
    end
    assert.same({ "initial nil", "put 1", "put 2" }, told)
  end)

  it("tells the last state within a second of the last of very many writes, within its rate", function()
    local rate_per_s = 10
    local changes = watch("kv_get", key, { rate_per_s = rate_per_s })
    next_of(changes)
    local told, states = {}, 0
    local function take(change)
      if change then
        assert.equal("put", change.type)
        assert.is_nil(told[change.value], "a state came twice")
        told[change.value] = true
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
    while not told[tostring(writes)] do
      take(next_of(changes))
    end
    local ended = clock()
    assert.is_true(ended - written < 1, ("%.3f s later"):format(ended - written))
    local most = rate_per_s * (ended - begun) + 2
    assert.is_true(states <= most, ("%d states in %.3f s"):format(states, ended - begun))
  end)

  it("tells a program that looks away for long a few old states at most, then the last one", function()
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
    -- 16 wait, and one was under way.
    assert.is_true(taken <= 18, taken .. " states waited")
  end)

  if support.readable then
    it("wakes a poll(2) on its descriptor", function()
      local changes = watch("kv_get", key)
      next_of(changes)
      local fd = assert(changes:fd())
      assert.equal(fd, changes:fd())
      assert.is_false(support.readable(fd, 0))
      local other = support.client()
      local handle = other:start("kv_put", key, "1")
      assert.is_true(support.readable(fd, 5000))
      assert.is_true(support.readable(fd, 0))
      assert.equal("1", next_of(changes).value)
      assert.is_false(support.readable(fd, 0))
      handle:close()
      changes:close()
      assert.equal("closed", support.kind(changes:fd()))
    end)

    it("wakes it for an end too", function()
      local changes = watch("kv_get", key)
      next_of(changes)
      local fd = assert(changes:fd())
      client:close()
      assert.is_true(support.readable(fd, 5000))
      assert.equal("closed", support.kind(changes:next(5000)))
    end)
  end

  it("can be closed, again and again, and then says so", function()
    local changes = watch("kv_get", key)
    assert.is_true(changes:close())
    assert.is_true(changes:close())
    for _, call in ipairs({ changes.next, changes.poll, changes.fd }) do
      assert.equal("closed", support.kind(call(changes)))
    end
    assert.is_nil(changes:changes()())
  end)

  -- Nothing else of a Lua state runs while it waits: a hook does, and what the hook resumes.
  it("that waits is ended by a close from another coroutine within 100 ms #smoke", function()
    local changes = watch("kv_get", key)
    next_of(changes)
    local closing = coroutine.create(function()
      changes:close()
    end)
    local closed_at
    local begun = support.clock()
    local ran, success, message, err = support.with_hook(function()
      assert(coroutine.resume(closing))
      closed_at = support.clock()
    end, changes.next, changes, 10000)
    local ended = support.clock()
    assert.is_true(ran, success)
    assert.equal("closed", support.kind(success, message, err))
    assert.is_true(ended - closed_at < 0.1, ("%.3f s after the close"):format(ended - closed_at))
    -- The hook itself runs every 50 ms.
    assert.is_true(ended - begun < 1, ("%.3f s in all"):format(ended - begun))
  end)

  it("ends when its client is closed, and goes on when that is collected", function()
    local changes = watch("kv_get", key)
    next_of(changes)
    client:close()
    assert.equal("closed", support.kind(changes:next(5000)))
    assert.equal("closed", support.kind(client:watch("kv_get", key)))

    local orphan = assert(support.client():watch("kv_get", key, { wait = WAIT }))
    collectgarbage()
    collectgarbage()
    next_of(orphan)
    assert(support.client():kv_put(key, "1"))
    assert.equal("1", next_of(orphan).value)
    orphan:close()
  end)

  it("is one of as many as its client may have connections, until one is closed or collected", function()
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

  it("tells what it watches and whether it is open #smoke", function()
    local changes = watch("kv_get", key)
    assert.equal(('Watch(kv_get "%s", open)'):format(key), tostring(changes))
    changes:close()
    assert.equal(('Watch(kv_get "%s", closed)'):format(key), tostring(changes))
  end)

  if _VERSION >= "Lua 5.4" then
    it("is closed at the end of its scope", function()
      local make = load([[
        local client, key = ...
        local changes
        do
          local scoped <close> = client:watch("kv_get", key)
          changes = scoped
        end
        return changes
      ]])
      assert.matches("closed", tostring(make(client, key)), 1, true)
    end)
  end

  it("raises for misuse, naming what is allowed", function()
    local changes = watch("kv_get", key)
    for _, case in ipairs({
      { client.watch, client, { "kv_gte" }, 'watch: unknown method "kv_gte"; did you mean "kv_get"?' },
      { client.watch, client, { "kv_get" }, "watch: kv_get: argument #1 (key) is missing" },
      { client.watch, client, { "kv_put", "a", "b" }, "watch: kv_put: it has no blocking queries" },
      { client.watch, client, { "kv_get", "a", { index = 1 } }, "watch: kv_get: index is the watch's own" },
      {
        client.watch,
        client,
        { "kv_get", "a", { rate_per_sec = 1 } },
        'watch: kv_get: unknown option "rate_per_sec"; did you mean "rate_per_s"?',
      },
      {
        client.watch,
        client,
        { "kv_get", "a", { rate_per_s = "fast" } },
        'watch: kv_get: rate_per_s must be a number above 0, got a string "fast"',
      },
      { client.watch, nil, {}, "watch: call it with a colon" },
      { changes.next, changes, { "soon" }, "next: timeout_ms must be a number of milliseconds" },
      { changes.poll, nil, {}, "poll: call it with a colon" },
      { changes.next, client, {}, "next: call it with a colon" },
      { changes.changes(), nil, {}, "next: call it with a colon" },
    }) do
      local raised, message = pcall(case[1], case[2], (rawget(_G, "unpack") or table.unpack)(case[3]))
      assert.is_false(raised)
      assert.matches(case[4], message, 1, true)
    end
  end)

  it("is refused for what is not acceptable, before anything is sent", function()
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

-- Outages, on a clock that the test moves: `next` moves it as far as it waits.
describe("a watch on a manual clock", function()
  local sim, client, connect

  before_each(function()
    sim, connect = support.manual_agent()
    client = connect({ client_name = "one" })
  end)

  -- A watch on a prefix with a key, whose first change was taken and which waits for the next one.
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

  it("cut off for 30 s says so once, and then what there is", function()
    local changes = watch()
    sim:fault({ clients = { "one" }, partition = true })
    sim:restart()
    assert.equal("timeout", support.kind(changes:next()))
    local others = connect()
    assert(others:kv_put("p/b", "2"))
    assert.same({ true }, { changes:next(30000) })
    sim:clear_faults()
    -- The query that is lost on its way takes 5 s, the pause after it 5 s at most.
    local _, change = assert(changes:next(10000))
    assert.same({ "resynchronised", "1 2" }, { change.type, values(change) })
    assert(client:kv_put("p/b", "3"))
    _, change = assert(changes:next(1000))
    assert.same({ "put", "p/b" }, { change.type, change.id })
  end)

  it("says that it is resynchronised when the agent restarts, also when a retry hides it", function()
    local changes = watch()
    sim:restart()
    local _, change = assert(changes:next(1000))
    assert.same({ "resynchronised", "1" }, { change.type, values(change) })
  end)

  it("says so when the index goes back, and is right", function()
    local changes = watch()
    for i = 1, 20 do
      assert(client:kv_put("other", tostring(i)))
    end
    assert(client:kv_put("p/a", "2"))
    assert.equal("put", (select(2, assert(changes:next()))).type)
    sim:advance(0.1)
    sim:reset()
    assert(client:kv_put("p/c", "3"))
    local _, change = assert(changes:next(1000))
    assert.same({ "resynchronised", "" }, { change.type, values(change) })
    _, change = assert(changes:next(1000))
    assert.same({ "put", "p/c", "3" }, { change.type, change.id, change.value.Value })
  end)

  it("loops on over an outage", function()
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

  it("tells the last of 10,000 writes in a second within its rate, and no state twice", function()
    local changes = assert(client:watch("kv_get", "k", { rate_per_s = 10 }))
    assert(changes:next())
    local begun, told, states = sim:now(), {}, 0
    local function take(change)
      if change then
        assert.is_nil(told[change.value], "a state came twice")
        told[change.value] = true
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
    while not told["10000"] do
      take(select(2, assert(changes:next(1000))))
    end
    assert.is_true(sim:now() - written < 1)
    assert.is_true(states >= 10 and states <= 12, states .. " states")
  end)

  it("asks no more often than its rate says", function()
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

  it("costs no queries but one for each wait while nothing changes", function()
    local changes = assert(client:watch("kv_get", "k", { wait = "1m" }))
    assert(changes:next())
    local before = sim:stats().requests
    assert.is_nil((select(2, changes:next(600000))))
    local asked = sim:stats().requests - before
    assert.is_true(asked <= 10, asked .. " queries in ten minutes")
  end)

  it("that waits for ever lets hooks run, which can end it", function()
    local changes = watch()
    local ran, success, message, err = support.with_hook(function()
      changes:close()
    end, changes.next, changes)
    assert.is_true(ran, success)
    assert.equal("closed", support.kind(success, message, err))
  end)
end)
