-- A program is tested without waiting: its agent is simulated, on a clock that the spec moves.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("a simulated agent on a manual clock", function()
  local sim, client, connect

  before_each(function()
    sim, connect = support.manual_agent()
    client = connect({ client_name = "one" })
  end)

  local function statuses(service)
    local found = {}
    for _, check in ipairs(select(2, client:health_checks(service))) do
      found[#found + 1] = check.Status
    end
    return table.concat(found, ",")
  end

  it("lets a TTL check turn critical", function()
    client:agent_service_register({ name = "web", check = { ttl = "30s", status = "passing" } })
    sim:advance(29)
    assert.equal("passing", statuses("web"))
    sim:advance(1)
    assert.equal("critical", statuses("web"))
    client:agent_check_pass("service:web")
    assert.equal("passing", statuses("web"))
  end)

  it("lets a session expire and its lock delay pass", function()
    local _, first = client:session_create({ ttl = "10s", lock_delay = "15s" })
    local _, second = client:session_create()
    assert.is_true((client:kv_put("lock", "first", { acquire = first })))
    sim:advance(19)
    assert.is_not_nil((select(2, client:session_info(first))))
    sim:advance(1)
    assert.is_nil((select(2, client:session_info(first))))
    sim:advance(14.9)
    assert.equal("conflict", support.kind(client:kv_put("lock", "second", { acquire = second })))
    sim:advance(0.2)
    assert.is_true((client:kv_put("lock", "second", { acquire = second })))
  end)

  it("lets a blocking query time out, by itself and at once", function()
    client:kv_put("k", "v")
    local _, _, meta = client:kv_get("k")
    local started, before = os.time(), sim:now()
    local success, value = client:kv_get("k", { index = meta.index, wait = "5m" })
    assert.is_true(success)
    assert.equal("v", value)
    assert.is_true(sim:now() - before >= 300)
    assert.is_true(sim:now() - before <= 300 * 17 / 16)
    assert.is_true(os.time() - started < 5)
  end)

  it("wakes a blocking query when a check expires meanwhile", function()
    client:agent_service_register({ name = "web", check = { ttl = "1m", status = "passing" } })
    local _, _, meta = client:health_service("web", { passing = true })
    local before = sim:now()
    local _, passing = client:health_service("web", { passing = true, index = meta.index, wait = "10m" })
    assert.same({}, passing)
    assert.equal(60, math.floor(sim:now() - before + 0.5))
  end)

  it("is slow when asked, and the client's timeout is the agent's time", function()
    sim:fault({ latency_ms = 200 })
    local before = sim:now()
    assert.is_true((client:kv_put("k", "v")))
    assert.equal(200, math.floor((sim:now() - before) * 1000 + 0.5))
    sim:fault({ latency_ms = 60000 })
    before = sim:now()
    assert.equal("timeout", support.kind(client:kv_put("k", "w")))
    assert.equal(5000, math.floor((sim:now() - before) * 1000 + 0.5))
  end)

  it("loses requests before they are applied, or answers after", function()
    sim:fault({ drop_before = 1 })
    assert.equal("connect", support.kind(client:kv_put("k", "v", { cas = 0 })))
    sim:clear_faults()
    assert.is_nil((select(2, client:kv_get("k"))))
    sim:fault({ drop_after = 1 })
    assert.equal("connect", support.kind(client:kv_put("k", "v", { cas = 0 })))
    sim:clear_faults()
    assert.equal("v", (select(2, client:kv_get("k"))))
  end)

  it("is lossy and a retried read comes through", function()
    client:kv_put("k", "v")
    sim:fault({ drop_before = 0.3 })
    local patient = connect({ retry_count = 20 })
    for _ = 1, 20 do
      assert.equal("v", (select(2, patient:kv_get("k"))))
    end
  end)

  it("concerns one client alone when asked", function()
    sim:fault({ clients = { "two" }, partition = true })
    local two = connect({ client_name = "two" })
    assert.equal("timeout", support.kind(two:kv_get("k")))
    assert.is_true((client:kv_get("k")))
  end)

  it("has no leader when asked, but stale reads", function()
    client:kv_put("k", "v")
    sim:fault({ no_leader = true })
    local patient = connect({ timeout = 20000, retry_count = 0 })
    assert.equal("no_leader", support.kind(patient:kv_get("k")))
    assert.equal("v", (select(2, patient:kv_get("k", { stale = true }))))
    assert.equal("", (select(2, patient:status_leader())))
  end)

  it("answers with a status when asked", function()
    sim:fault({ status = 500 })
    local success, message, err = client:kv_get("k")
    assert.equal("http", support.kind(success, message, err))
    assert.equal(500, err.status)
  end)

  it("restarts, and forgets what it is told to", function()
    client:kv_put("k", "v")
    local _, session = client:session_create()
    sim:restart()
    assert.equal("v", (select(2, client:kv_get("k"))))
    assert.is_not_nil((select(2, client:session_info(session))))
    sim:restart({ lose_sessions = true })
    assert.is_nil((select(2, client:session_info(session))))
    local _, _, before = client:kv_get("k")
    sim:restart({ wipe = true })
    local _, value, after = client:kv_get("k")
    assert.is_nil(value)
    assert.is_true(after.index < before.index)
  end)

  it("counts what it does", function()
    client:kv_put("k", "v")
    local stats = sim:stats()
    assert.equal(1, stats.keys)
    assert.equal(1, stats.requests)
    assert.equal(0, stats.waiting)
  end)

  it("gives the same trace for the same seed", function()
    local function trace()
      sim:reset()
      sim:fault({ drop_before = 0.2, drop_after = 0.2, jitter_ms = 50 })
      local seen = {}
      for i = 1, 30 do
        local success, response, extra = client:session_create({ name = "s" .. i })
        seen[#seen + 1] = table.concat({ tostring(success), tostring(response), tostring(extra.kind) }, " ")
      end
      return table.concat(seen, "\n")
    end
    assert.equal(trace(), trace())
  end)

  it("raises for misuse, naming what is allowed", function()
    for _, case in ipairs({
      { "advance", "soon", "seconds is" },
      { "advance", -1, "seconds is" },
      { "fault", { drop = 1 }, 'unknown option "drop"' },
      { "fault", { drop_before = 2 }, "from 0 to 1" },
      { "restart", { wipe = 1 }, "wipe must be true or false" },
      { "restart", { forget = true }, 'unknown option "forget"' },
    }) do
      local method, argument, wanted = case[1], case[2], case[3]
      local raised, message = pcall(sim[method], sim, argument)
      assert.is_false(raised)
      assert.matches(wanted, message, 1, true)
    end
    assert.has_error(function()
      sim.advance(1)
    end)
  end)
end)

describe("a simulated agent", function()
  it("goes by real time unless asked, and then its time cannot be moved", function()
    local name = support.name("real")
    local sim = consul_ffi.simulator(name)
    local moved, message = pcall(sim.advance, sim, 1)
    assert.is_false(moved)
    assert.matches('clock = "manual"', message, 1, true)
    assert.has_error(function()
      consul_ffi.simulator(name, { clock = "manual" })
    end)
    assert.equal("Simulator(" .. name .. ")", tostring(sim))
  end)

  it("needs a name", function()
    assert.has_error(consul_ffi.simulator)
    assert.has_error(function()
      consul_ffi.simulator("")
    end)
    assert.has_error(function()
      consul_ffi.simulator("x", { clok = "manual" })
    end)
  end)
end)
