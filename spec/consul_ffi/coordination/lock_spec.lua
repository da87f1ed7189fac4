-- Locks: acquiring and releasing, leases, and the events that report a loss.
local support = require("spec.support")

describe("a lock", function()
  local client, other, key, opened

  before_each(function()
    client, other = support.client(), support.client()
    key = support.name("lock")
    opened = { client, other }
  end)

  after_each(function()
    support.clean_up(opened, key)
  end)

  -- Returns an acquired lock and its token. The reference in `opened` keeps it from being collected.
  local function held(options)
    local lock = assert(client:lock(key, options))
    opened[#opened + 1] = lock
    local success, token = assert(lock:acquire({ wait_s = 10 }))
    assert.is_true(success)
    return lock, token
  end

  -- The session that holds the key.
  local function holder()
    return select(3, assert(client:kv_get(key, { consistent = true }))).session
  end

  it("is held from acquire to release #smoke", function()
    local lock = assert(client:lock(key))
    assert.is_false(lock:is_held())
    assert.is_nil(lock:token())
    assert.equal(0, lock:remaining_ms())
    local success, token = lock:acquire()
    assert.is_true(success)
    assert.is_true(lock:is_held())
    assert.equal(token, lock:token())
    assert.is_true(lock:remaining_ms() > 0 and lock:remaining_ms() <= lock:profile().lease_ms)
    assert.is_string(holder())
    assert.is_true((lock:release()))
    assert.is_false(lock:is_held())
    assert.is_nil(lock:token())
    assert.is_nil(holder())
  end)

  it("has one holder at a time, and a higher token for each grant #smoke", function()
    local first, token = held()
    local second = assert(other:lock(key))
    local success, message, err = second:acquire({ try = true })
    assert.equal("conflict", support.kind(success, message, err))
    assert.matches("session " .. holder() .. " holds it", message, 1, true)
    assert.is_true((first:release()))
    local _, later = assert(second:acquire({ try = true }))
    assert.is_true(later > token)
    assert.is_false(first:is_held())
    assert.equal("conflict", support.kind(first:acquire({ try = true })))
  end)

  it("is waited for up to wait_s", function()
    held()
    local second = assert(other:lock(key))
    local success, message, err = second:acquire({ wait_s = 0.3 })
    assert.equal("timeout", support.kind(success, message, err))
    assert.matches("not acquired within 300 ms; session " .. holder() .. " holds it", message, 1, true)
    assert.is_true(err.retryable)
  end)

  it("is handed over to a waiter #smoke", function()
    local first, token = held()
    local second = assert(other:lock(key))
    assert.is_true((second:start()))
    assert.is_nil(second:next_event(100))
    assert.equal(('Lock(%q, waiting)'):format(key), tostring(second))
    assert.is_true((first:release()))
    local event, later = support.event(second)
    assert.equal("acquired", event)
    assert.is_true(later > token)
    assert.is_true(second:is_held())
  end)

  it("is no longer waited for after the waiter's release", function()
    held()
    local second = assert(other:lock(key))
    assert.is_true((second:start()))
    assert.equal("conflict", support.kind(second:start()))
    assert.is_true((second:release()))
    local event, err = support.event(second)
    assert.same({ "failed", "closed" }, { event, err.kind })
    assert.is_nil(second:next_event())
  end)

  it("cannot be acquired by a client that holds it or waits for it already", function()
    local lock, token = held()
    for _, again in ipairs({ lock, assert(client:lock(key)) }) do
      local success, message, err = again:acquire({ wait_s = 1 })
      assert.equal("conflict", support.kind(success, message, err))
      assert.matches("this client holds it or waits for it already", message, 1, true)
    end
    assert.equal(token, lock:token())
    assert.is_true(lock:is_held())
  end)

  it("can be acquired again immediately after a release", function()
    local lock, token = held()
    for _ = 1, 20 do
      assert(lock:release())
      local _, later = assert(lock:acquire({ try = true }))
      assert.is_true(later > token)
      token = later
    end
  end)

  it("can be released by its holder only", function()
    local lock = held()
    local stranger = assert(other:lock(key))
    local success, message, err = stranger:release()
    assert.equal("conflict", support.kind(success, message, err))
    assert.matches("it is not held", message, 1, true)
    assert.is_true(lock:is_held())
    assert.is_true((lock:release()))
    success, message, err = lock:release()
    assert.equal("conflict", support.kind(success, message, err))
    assert.matches("it was released", message, 1, true)
  end)

  it("leaves no session behind when a single attempt fails", function()
    held()
    local function sessions()
      local names = {}
      for _, session in ipairs(select(2, assert(client:session_list()))) do
        if session.Name:find(key, 1, true) then
          names[#names + 1] = session.Name
        end
      end
      return names
    end
    assert.same({ ("lock %s"):format(key) }, sessions())
    assert.equal("conflict", support.kind(other:lock(key):acquire({ try = true })))
    assert.same({ ("lock %s"):format(key) }, sessions())
  end)

  it("keeps the key's value, or sets a configured one", function()
    client:kv_put(key, "before", { flags = "3304740253564472344" })
    local lock = held()
    assert.equal("before", (select(2, client:kv_get(key))))
    assert(lock:release())
    assert.equal("before", (select(2, client:kv_get(key))))
    lock:close()
    lock = held({ value = { node = "one" } })
    assert.equal('{"node":"one"}', (select(2, client:kv_get(key))))
    assert(lock:release())
    assert.equal('{"node":"one"}', (select(2, client:kv_get(key))))
  end)

  it("sets the flags of the Go client's locks on its key", function()
    held()
    assert.equal("3304740253564472344", tostring(select(3, client:kv_get(key)).flags))
  end)

  it("does not touch a key that is not a lock", function()
    assert(client:kv_put(key, "mine", { flags = 7 }))
    local success, message, err = client:lock(key):acquire({ wait_s = 5 })
    assert.equal("conflict", support.kind(success, message, err))
    local why = "lock %q: the key exists and is not a lock: if no program needs it, `consul kv delete %s` makes room"
    assert.equal(why:format(key, key), message)
    local _, value, meta = client:kv_get(key)
    assert.same({ "mine", 7 }, { value, meta.flags })
  end)

  -- Asserts that `act`, called with the holder's session, makes the holder lose the lock, and that the
  -- event names the reason.
  local function assert_lost_by(act, why)
    local lock = held()
    act(holder())
    local event, reason = support.event(lock)
    assert.equal("lost", event)
    assert.matches(why, reason, 1, true)
    assert.is_false(lock:is_held())
    assert.is_nil(lock:token())
    assert.is_nil(lock:next_event(100))
    assert.equal("conflict", support.kind(lock:release()))
    return lock
  end

  it("is lost when its session is destroyed, and can be acquired again", function()
    local lock = assert_lost_by(function(session)
      assert(other:session_destroy(session))
    end, "its session ended")
    assert.is_true((lock:acquire({ wait_s = 10 })))
  end)

  it("is lost when its key is deleted", function()
    assert_lost_by(function()
      assert(other:kv_delete(key))
    end, "its key was deleted")
  end)

  it("is lost when another client writes its key", function()
    assert_lost_by(function()
      assert(other:kv_put(key, "other"))
    end, "another client wrote its key")
  end)

  it("reports its loss once, and no events after it", function()
    local lock = held()
    assert(other:session_destroy(holder()))
    local seen = {}
    for event in lock:events() do
      seen[#seen + 1] = event
    end
    assert.equal("lost", seen[#seen])
    assert.is_nil(lock:poll())
  end)

  it("stays held in an idle program for longer than all times of its profile", function()
    local lock, token = held({ profile = "fast" })
    assert.is_nil(lock:next_event(lock:profile().check_ttl_ms + 1000))
    assert.is_true(lock:is_held())
    assert.equal(token, lock:token())
  end)

  it("writes other keys only while it is held #smoke", function()
    local lock = held()
    local success, index = lock:fenced_put(key .. "-data", "1")
    assert.is_true(success)
    assert.equal(index, select(3, client:kv_get(key .. "-data")).modify_index)
    assert(other:session_destroy(holder()))
    assert.equal("conflict", support.kind(lock:fenced_put(key .. "-data", "2")))
    assert.equal("1", (select(2, client:kv_get(key .. "-data"))))
    lock:release()
    assert.equal("conflict", support.kind(lock:fenced_put(key .. "-data", "3")))
  end)

  it("cannot write its own key", function()
    local lock = held()
    local success, message, err = lock:fenced_put(key, "x")
    assert.equal("argument", support.kind(success, message, err))
    assert.is_true(lock:is_held())
  end)

  it("is released when it is closed", function()
    local lock = held()
    lock:close()
    lock:close()
    assert.is_false(lock:is_held())
    assert.equal("closed", support.kind(lock:acquire()))
    assert.equal("closed", support.kind(lock:release()))
    assert.is_nil(lock:next_event())
    assert.is_true((other:lock(key):acquire({ try = true })))
  end)

  it("is released with its session when it is garbage-collected", function()
    local session
    do
      local lock = assert(client:lock(key))
      assert(lock:acquire())
      session = holder()
    end
    support.eventually(function()
      collectgarbage()
      return select(2, client:session_info(session)) == nil
    end)
    assert.is_true((other:lock(key):acquire({ try = true })))
  end)

  it("waits for nothing when it is garbage, and for one second in all when its client is closed", function()
    local consul_ffi = require("consul_ffi")
    local sim = consul_ffi.simulator("garbage")
    local locked, locks = consul_ffi.new({ simulate = "garbage", log_level = "OFF" }), {}
    for i = 1, 20 do
      -- A worker for each profile.
      local profile = { check_ttl_ms = 3000 + i }
      locks[i] = assert(locked:lock("garbage/" .. i, { profile = profile }))
      locks[20 + i] = assert(locked:lock("garbage/" .. 20 + i, { profile = profile }))
      assert(locks[i]:acquire())
      assert(locks[20 + i]:acquire())
    end
    sim:fault({ partition = true })
    -- With a wait of 1 s for each this would take 20 s.
    local begun = support.clock()
    for i = 1, 20 do
      locks[i] = nil
    end
    collectgarbage()
    collectgarbage()
    assert.is_true(support.clock() - begun < 10)
    begun = support.clock()
    locked:close()
    assert.is_true(support.clock() - begun < 10)
    sim:clear_faults()
  end)

  it("is released when its client is closed, which also deregisters its service", function()
    local lock = held()
    local session = holder()
    local checks = select(2, other:session_info(session)).ServiceChecks
    local service = checks[1].ID
    client:close()
    assert.is_false(lock:is_held())
    local success, message, err = lock:acquire()
    assert.equal("closed", support.kind(success, message, err))
    assert.is_nil(select(2, other:session_info(session)))
    assert.is_nil(select(2, other:agent_checks())[service])
    assert.is_true((other:lock(key):acquire({ try = true })))
    client = other
  end)

  it("is no longer waited for when the waiter's client is closed", function()
    held()
    local second = assert(other:lock(key))
    second:start()
    other:close()
    local event, err = support.event(second)
    assert.same({ "failed", "closed" }, { event, err.kind })
  end)

  it("stays held when its client is garbage-collected", function()
    local lock
    do
      local one = support.client()
      lock = one:lock(key)
      assert(lock:acquire())
    end
    collectgarbage()
    collectgarbage()
    assert.is_nil(lock:next_event(500))
    assert.is_true(lock:is_held())
    lock:close()
  end)

  it("shares one service with the other locks of its client", function()
    held()
    local second = assert(client:lock(key .. "-second"))
    assert(second:acquire())
    local function check(name)
      local session = select(3, client:kv_get(name)).session
      return select(2, client:session_info(session)).ServiceChecks[1].ID
    end
    assert.equal(check(key), check(key .. "-second"))
  end)

  if _VERSION >= "Lua 5.4" then
    it("is closed at the end of its scope", function()
      local lock = support.scoped(function()
        local made = assert(client:lock(key))
        assert(made:acquire())
        return made
      end)
      assert.equal(('Lock(%q, closed)'):format(key), tostring(lock))
      assert.is_nil(holder())
    end)
  end

  it("shows its key and its state as a string", function()
    local lock = assert(client:lock(key))
    assert.equal(('Lock(%q, not held)'):format(key), tostring(lock))
    assert(lock:acquire())
    assert.equal(('Lock(%q, held)'):format(key), tostring(lock))
    lock:close()
    assert.equal(('Lock(%q, closed)'):format(key), tostring(lock))
  end)

  it("has a file descriptor until it is closed", function()
    local lock = held()
    local fd = lock:fd()
    assert.is_true(fd > 2)
    assert.equal(fd, lock:fd())
    lock:close()
    assert.equal("closed", support.kind(lock:fd()))
  end)

  it("returns all times of its profile", function()
    local profile = client:lock(key, { profile = "fast" }):profile()
    assert.same({ "fast", 2000, 400, 1000, 1270 }, {
      profile.name,
      profile.check_ttl_ms,
      profile.beat_ms,
      profile.lease_ms,
      profile.lock_delay_ms,
    })
    local custom = client:lock(key, { profile = { lease_ms = 1600 } }):profile()
    assert.same({ "custom", 3000, 200, 2130 }, {
      custom.name,
      custom.check_ttl_ms,
      custom.proof_interval_ms,
      custom.lock_delay_ms,
    })
  end)

  it("returns an argument error for invalid values, before any request", function()
    for _, case in ipairs({
      { "a//b", nil, "lock: key is" },
      { "/a", nil, "lock: key is" },
      { "", nil, "lock: key is" },
      { "a", { profile = "fats" }, 'did you mean "fast"?' },
      { "a", { profile = { beat_ms = 1500 } }, "beat_ms is 1500; it must be at most a third of check_ttl_ms" },
      { "a", { profile = { lock_delay_ms = 100 } }, "lock_delay_ms is 100; it must be at least" },
    }) do
      local success, message, err = client:lock(case[1], case[2])
      assert.equal("argument", support.kind(success, message, err))
      assert.matches(case[3], message, 1, true)
    end
    local success, message, err = client:lock("a"):acquire({ wait_s = -1 })
    assert.equal("argument", support.kind(success, message, err))
  end)

  it("raises for misuse, naming what is allowed", function()
    local lock = assert(client:lock(key))
    local raises = support.raises
    raises("lock: key must be a non-empty string, got nil", client.lock, client, nil)
    raises('lock: unknown option "valu"; did you mean "value"?', client.lock, client, "k", { valu = 1 })
    raises("profile must be the name of a profile or a table of times", client.lock, client, "k", { profile = 1 })
    raises('did you mean "lease_ms"?', client.lock, client, "k", { profile = { lease = 1 } })
    raises("lock: call it with a colon", client.lock, nil, "k")
    raises('acquire: unknown option "wait"; did you mean "wait_s"?', lock.acquire, lock, { wait = 1 })
    raises("try and wait_s contradict each other", lock.acquire, lock, { try = true, wait_s = 1 })
    raises("start: options must be a table", lock.start, lock, 5)
    raises("is_held: call it with a colon", lock.is_held, nil)
    raises("next_event: timeout_ms must be a number of milliseconds", lock.next_event, lock, "soon")
    raises("fenced_put: value must be a string, number, boolean or table", lock.fenced_put, lock, "k", nil)
  end)

  -- Calls that wait for the outcome of an attempt, each with the kind of the error that it may return.
  local WAITS = {
    acquire = function(object)
      return object:acquire({ wait_s = 0.3 })
    end,
    next_event = function(object)
      assert(object:start({ wait_s = 0.3 }))
      return object:next_event()
    end,
  }

  -- The calls of a hook meanwhile with the same object.
  local TAKES = {
    ["the outcome"] = function(object)
      object:next_event(5000)
    end,
    ["all events"] = function(object)
      while object:next_event(5000) do
      end
    end,
    ["those of another attempt too"] = function(object)
      object:release()
      assert(object:start({ wait_s = 0.1 }))
      while object:next_event(5000) do
      end
    end,
    ["the outcome of another attempt"] = function(object)
      object:release()
      assert.equal("timeout", support.kind(object:acquire({ wait_s = 0.1 })))
    end,
    ["nothing, and releases it"] = function(object)
      object:release()
    end,
    ["nothing, and closes it"] = function(object)
      object:close()
    end,
  }

  for wait, waits in pairs(WAITS) do
    for what, takes in pairs(TAKES) do
      it(wait .. " returns although a hook takes " .. what, function()
        held()
        local permit = assert(client:semaphore(key .. "/permits", 1))
        assert(permit:acquire())
        opened[#opened + 1] = permit
        for _, object in ipairs({ other:lock(key), other:semaphore(key .. "/permits", 1) }) do
          opened[#opened + 1] = object
          local ran, success, message, err = support.with_hook(function()
            takes(object)
          end, waits, object)
          assert.is_true(ran, success)
          if wait == "acquire" then
            local kind = support.kind(success, message, err)
            assert.is_true(kind == "timeout" or kind == "closed", message)
          end
        end
      end)
    end
  end

  it("an acquire that a hook's error ends keeps nothing", function()
    local permits = key .. "/permits"
    for name, make in pairs({
      lock = function(of)
        return of:lock(key)
      end,
      semaphore = function(of)
        return of:semaphore(permits, 1)
      end,
    }) do
      local first, ended = make(client), make(other)
      opened[#opened + 1], opened[#opened + 2] = first, ended
      assert(first:acquire())
      local ran, message = support.with_hook(function()
        error("of the hook")
      end, ended.acquire, ended, { wait_s = 10 })
      assert.is_false(ran)
      assert.matches("of the hook", message)
      assert(first:release())
      assert(first:acquire({ wait_s = 10 }), name)
      assert.is_false(ended:is_held())
    end
  end)

  it("acquire returns the token although a hook takes it", function()
    local first = held()
    local second = other:lock(key)
    opened[#opened + 1] = second
    local ran, success, token = support.with_hook(function()
      assert(first:release())
      assert.equal("acquired", (second:next_event(support.PATIENCE_MS)))
    end, second.acquire, second, { wait_s = 300 })
    assert.is_true(ran and success)
    assert.equal(second:token(), token)
    assert.is_true(second:is_held())
  end)
end)

-- On a manual clock there is no background thread: beats, proofs and renewals run while the program's
-- calls, waits and `advance` move the time.
describe("a lock on a manual clock", function()
  local sim, client, connect, lock, token

  before_each(function()
    sim, connect = support.manual_agent()
    client = connect({ client_name = "one" })
    lock = assert(client:lock("k"))
    token = select(2, assert(lock:acquire()))
  end)

  after_each(function()
    sim:clear_faults()
    client:close()
  end)

  local function other()
    return assert(connect({ client_name = "two" }):lock("k"))
  end

  it("stays held while the agent answers", function()
    sim:advance(3600)
    assert.is_true(lock:is_held())
    assert.equal(token, lock:token())
    assert.is_nil(lock:poll())
  end)

  it("is held until its last proof is two seconds old, and no longer", function()
    sim:fault({ clients = { "one" }, partition = true })
    local remaining_s = lock:remaining_ms() / 1000
    assert.is_true(remaining_s > 1.74 and remaining_s <= 2)
    sim:advance(remaining_s - 0.001)
    assert.is_true(lock:is_held())
    assert.is_nil(lock:poll())
    sim:advance(0.001)
    assert.is_false(lock:is_held())
    assert.equal("suspended", (lock:poll()))
    assert.is_nil(lock:poll())
    assert.equal('Lock("k", suspended)', tostring(lock))
    assert.equal("conflict", support.kind(lock:fenced_put("data", "1")))
    assert.equal(token, lock:token())
  end)

  it("is resumed by a proof of the same grant", function()
    sim:fault({ clients = { "one" }, partition = true })
    sim:advance(2.2)
    assert.equal("suspended", (lock:poll()))
    sim:clear_faults()
    sim:advance(1)
    assert.equal("resumed", (lock:poll()))
    assert.is_true(lock:is_held())
    assert.equal(token, lock:token())
  end)

  it("survives stalls of the agent of two seconds", function()
    local waiting = other()
    waiting:start()
    for _ = 1, 5 do
      sim:fault({ latency_ms = 2000 })
      sim:advance(2)
      sim:clear_faults()
      sim:advance(3)
      assert.is_true(lock:is_held())
      assert.equal(token, lock:token())
      assert.is_nil(waiting:poll())
    end
  end)

  it("is lost when the agent is unreachable for longer than the check's TTL", function()
    local waiting = other()
    waiting:start()
    sim:fault({ clients = { "one" }, partition = true })
    local event, later, before = nil, nil, sim:now()
    while event ~= "acquired" do
      sim:advance(0.01)
      event, later = waiting:poll()
      assert.is_false(event == "acquired" and lock:is_held())
    end
    assert.is_true(later > token)
    assert.is_true(sim:now() - before <= lock:profile().takeover_ms / 1000 + 0.1)
    assert.equal("suspended", (lock:poll()))
    sim:clear_faults()
    sim:advance(3)
    local lost, why = lock:poll()
    assert.equal("lost", lost)
    assert.is_string(why)
    assert.is_nil(lock:poll())
  end)

  it("tolerates errors of the agent until its last proof expires, then is suspended", function()
    sim:fault({ clients = { "one" }, status = 500 })
    sim:advance(1.5)
    assert.is_true(lock:is_held())
    sim:clear_faults()
    sim:advance(1)
    assert.is_nil(lock:poll())
    sim:fault({ clients = { "one" }, status = 500 })
    sim:advance(2.1)
    assert.equal("suspended", (lock:poll()))
    sim:clear_faults()
    sim:advance(0.5)
    assert.equal("resumed", (lock:poll()))
    assert.equal(token, lock:token())
  end)

  it("fails a single attempt when the agent returns errors, but keeps waiters waiting", function()
    assert(lock:release())
    sim:fault({ status = 500 })
    local success, message, err = other():acquire({ try = true })
    assert.is_false(success)
    assert.equal(500, err.status, message)
    local waiting = other()
    waiting:start()
    sim:advance(3)
    assert.is_nil(waiting:poll())
    sim:clear_faults()
    assert.equal("acquired", (waiting:next_event(2000)))
  end)

  it("survives a restart of the agent, and is lost with the agent's state", function()
    sim:restart()
    sim:advance(2)
    assert.is_true(lock:is_held())
    assert.equal(token, lock:token())
    sim:restart({ wipe = true })
    assert.equal("lost", (lock:next_event(3000)))
    assert.is_true((lock:acquire({ wait_s = 10 })))
  end)

  it("is lost with the sessions of the agent", function()
    sim:restart({ lose_sessions = true })
    assert.equal("lost", (lock:next_event(3000)))
  end)

  it("has the same trace for the same seed", function()
    local function trace()
      sim:reset()
      sim:fault({ drop_before = 0.2, drop_after = 0.2, jitter_ms = 100 })
      local started, seen, clients, locks = sim:now(), {}, {}, {}
      for i = 1, 3 do
        clients[i] = connect()
        locks[i] = assert(clients[i]:lock("traced"))
        locks[i]:start()
      end
      for step = 1, 200 do
        sim:advance(0.1)
        for i, one in ipairs(locks) do
          local event, detail = one:poll()
          if event then
            seen[#seen + 1] = ("%.1f %d %s %s"):format(sim:now() - started, i, event, tostring(detail))
          end
          if step % 20 == 0 and one:is_held() then
            one:release()
            one:start()
          end
        end
      end
      sim:clear_faults()
      for _, one in ipairs(clients) do
        one:close()
      end
      return table.concat(seen, "\n")
    end
    client:close()
    local first = trace()
    assert.is_true(#first > 100, first)
    assert.equal(first, trace())
  end)
end)
