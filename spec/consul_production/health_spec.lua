-- The manager's health: the reasons that it reports, on a simulated agent with faults and a manual clock.
local consul_ffi = require("consul_ffi")
local health = require("consul_production.health")
local managers = require("spec.consul_production.support")
local support = require("spec.support")

-- The reasons of a manager's health, sorted.
local function reasons(manager)
  return table.concat(health.sorted(manager:monitor_health().reasons), " ")
end

-- The queued alerts, oldest first, as "raised slow, cleared slow".
local function alerts(manager)
  local found = {}
  for alert in manager.next_alert, manager do
    assert.is_string(alert.message)
    assert.is_number(alert.timestamp)
    table.insert(found, alert.state .. " " .. alert.reason)
  end
  return table.concat(found, ", ")
end

describe("the manager's health", function()
  local sim, agent

  -- A manager on the simulated agent.
  local function on_agent(options, prefix)
    local given = options or {}
    given.consul = given.consul or {}
    given.consul.simulate = agent
    return managers.started(given, prefix)
  end

  before_each(function()
    agent = support.name("health")
    sim = consul_ffi.simulator(agent, { clock = "manual" })
  end)

  after_each(function()
    sim:clear_faults()
    managers.close()
  end)

  it("reports too_few_nodes until min_nodes nodes are live", function()
    local manager, prefix = on_agent({ cluster = { node_id = "n1", min_nodes = 2 } })
    assert.equal("too_few_nodes", reasons(manager))
    assert.equal("too_few_nodes: 1 live nodes, and cluster.min_nodes is 2", manager:monitor_health().issues[1])
    on_agent({ cluster = { node_id = "n2", min_nodes = 2 } }, prefix)
    sim:advance(2)
    assert.equal("", reasons(manager))
    assert.equal("raised too_few_nodes, cleared too_few_nodes", alerts(manager))
  end)

  it("reports nodes_down from node_down_count down nodes on", function()
    local manager, prefix = on_agent({ cluster = { node_id = "n1" }, monitoring = {
      alert_threshold = { node_down_count = 2 },
    } })
    for _, id in ipairs({ "n2", "n3" }) do
      -- Its check fails, like that of a killed process.
      local other = consul_ffi.ConsulHACluster:new({
        node_id = id, node_address = "a:1", simulate = agent, client_name = id,
        nodes_prefix = prefix .. "/cluster/nodes/", leader_key = prefix .. "/cluster/leader",
      })
      assert(other:start())
      managers.keep(other)
      sim:advance(1)
      sim:fault({ clients = { id }, partition = true })
      sim:advance(10)
      assert.equal(id == "n3", manager:monitor_health().reasons.nodes_down ~= nil)
    end
    assert.equal("n2, n3", manager:monitor_health().reasons.nodes_down)
  end)

  it("reports no_leader while a session of another program holds the leader's key", function()
    local manager, prefix = on_agent({ cluster = { node_id = "n1" } })
    local client = manager:get_healthy_client()
    local key = prefix .. "/cluster/leader"
    local _, entry, meta = client:kv_get(key)
    assert.is_string(entry)
    assert(client:session_destroy(meta.session))
    local session = select(2, assert(client:session_create({ ttl = "600s", lock_delay = "0s" })))
    repeat
      sim:advance(0.01)
    until client:kv_put(key, "not ours", { acquire = session })
    sim:advance(3)
    assert.equal("no_leader", reasons(manager))
    assert.equal("none", "" .. manager:get_cluster_info().leader_node)
    assert(client:session_destroy(session))
    assert(client:kv_delete(key))
    sim:advance(5)
    assert.equal("", reasons(manager))
    assert.equal("raised no_leader, cleared no_leader", alerts(manager))
  end)

  it("reports suspended and consul_unreachable during an outage, with one alert each, then clears them", function()
    local manager = on_agent({ cluster = { node_id = "n1" }, monitoring = { metrics_enabled = false } })
    assert.equal("", reasons(manager))
    sim:fault({ partition = true })
    sim:advance(3)
    for _ = 1, 3 do
      local found = manager:monitor_health()
      assert.is_string(found.reasons.suspended)
      assert.is_string(found.reasons.consul_unreachable)
      assert.is_nil(found.reasons.no_leader)
    end
    assert.equal("raised consul_unreachable, raised suspended", alerts(manager))
    sim:clear_faults()
    -- Ends the blocking queries.
    sim:restart()
    sim:advance(10)
    assert.equal("", reasons(manager))
    assert.equal("cleared consul_unreachable, cleared suspended", alerts(manager))
  end)

  it("waits up to health_check_timeout for Consul", function()
    local manager = on_agent({ consul = { health_check_timeout = 0.5 } })
    sim:fault({ partition = true })
    local begun = sim:now()
    assert.is_string(manager:monitor_health().reasons.consul_unreachable)
    local taken = sim:now() - begun
    assert.is_true(taken >= 0.5 and taken < 0.6)
  end)

  it("reports frozen when too many nodes fail at once", function()
    local manager, prefix = on_agent({ cluster = { node_id = "n1" } })
    local names = {}
    for i = 2, 6 do
      names[i] = "n" .. i
      local other = consul_ffi.ConsulHACluster:new({
        node_id = names[i], node_address = "a:1", simulate = agent, client_name = names[i],
        nodes_prefix = prefix .. "/cluster/nodes/", leader_key = prefix .. "/cluster/leader",
      })
      assert(other:start())
      managers.keep(other)
    end
    sim:advance(5)
    assert.equal("", reasons(manager))
    sim:fault({ clients = { "n4", "n5", "n6" }, partition = true })
    sim:advance(20)
    assert.equal("frozen nodes_down", reasons(manager))
    sim:clear_faults()
    sim:advance(20)
    assert.equal("", reasons(manager))
  end)

  it("reports slow while the mean over metrics_interval is above response_time_ms", function()
    local manager = on_agent({ monitoring = {
      metrics_interval = 20, alert_threshold = { response_time_ms = 100 },
    } })
    sim:fault({ latency_ms = 300 })
    assert.equal("slow", reasons(manager))
    assert.is_true(manager:monitor_health().metrics.response_time_ms > 100)
    sim:clear_faults()
    sim:advance(21)
    assert.equal("", reasons(manager))
    assert.equal("raised slow, cleared slow", alerts(manager))
  end)

  it("reports error_rate above error_rate_percent, once enough calls were made", function()
    local manager = on_agent({
      consul = { retry_attempts = 0 },
      monitoring = { metrics_interval = 20, alert_threshold = { error_rate_percent = 50 } },
    })
    sim:fault({ status = 500 })
    assert.is_nil((manager:read_data("key")))
    assert.is_nil((manager:read_data("key")))
    sim:clear_faults()
    assert.equal("", reasons(manager))
    sim:fault({ status = 500 })
    for _ = 1, 10 do
      assert.is_nil((manager:read_data("key")))
    end
    sim:clear_faults()
    sim:advance(10)
    assert.equal("error_rate", reasons(manager))
    sim:advance(21)
    assert.equal("", reasons(manager))
    assert.equal("raised error_rate, cleared error_rate", alerts(manager))
  end)

  it("measures nothing when metrics_enabled is false", function()
    local manager = on_agent({ monitoring = { metrics_enabled = false, alert_threshold = { response_time_ms = 100 } } })
    sim:fault({ latency_ms = 300 })
    local found = manager:monitor_health()
    assert.is_nil(found.reasons.slow)
    assert.is_nil(found.metrics)
  end)

  it("reports critical_check with the critical checks of what the program registered, also before a reload", function()
    local manager = on_agent()
    local client = manager:get_healthy_client()
    assert(client:agent_service_register({ name = "db", check = { ttl = "600s", status = "critical" } }))
    assert(client:agent_check_register({ id = "disk", name = "space", ttl = "600s", service_id = "db" }))
    assert.equal("disk, service:db", manager:monitor_health().reasons.critical_check)
    assert(client:agent_check_deregister("disk"))
    assert(manager:reload_config({ consul = { timeout = 7 } }))
    sim:advance(2)
    assert.are_not.equal(client, manager:get_healthy_client())
    assert.equal("service:db", manager:monitor_health().reasons.critical_check)
    assert(manager:get_healthy_client():agent_check_pass("service:db"))
    assert.equal("", reasons(manager))
    assert.equal("raised critical_check, cleared critical_check", alerts(manager))
  end)

  it("reports critical_check of other programs on the agent only with all_checks", function()
    local prefix = support.name("shared")
    local manager = on_agent(nil, prefix)
    local other = consul_ffi.new({ simulate = agent })
    managers.keep(other)
    assert(other:agent_service_register({ name = "batch", check = { ttl = "600s", status = "critical" } }))
    assert(other:agent_check_register({ name = "disk", ttl = "600s", service_id = "batch" }))
    sim:advance(2)
    assert.equal("", reasons(manager))
    assert(manager:reload_config({ monitoring = { all_checks = true } }))
    assert.equal("disk, service:batch", manager:monitor_health().reasons.critical_check)
  end)

  it("reports critical_check when its own node's check fails", function()
    local manager = on_agent()
    local client = manager:get_healthy_client()
    local check = "service:" .. manager:get_node():status().service_id
    assert(client:agent_check_fail(check))
    assert.equal(check, manager:monitor_health().reasons.critical_check)
  end)

  it("is checked by poll every health_check_interval", function()
    local manager = on_agent({ cluster = { min_nodes = 2 }, consul = { health_check_interval = 5 } })
    assert.equal(0, manager:poll())
    assert.equal("", alerts(manager))
    sim:advance(5)
    manager:poll()
    manager:poll()
    assert.equal("raised too_few_nodes", alerts(manager))
  end)

  it("queues no alerts when alert_enabled is false, but still logs changes", function()
    local path = os.tmpname()
    local manager = on_agent({ cluster = { min_nodes = 2 }, monitoring = { alert_enabled = false, log_file = path } })
    assert.equal("too_few_nodes", reasons(manager))
    assert.equal("", alerts(manager))
    assert.matches("WARN  health: raised too_few_nodes: 1 live nodes", managers.read(path), 1, true)
    os.remove(path)
  end)

  it("calls on_alert at poll with each alert, once", function()
    local told, depth, manager = {}, 0, nil
    manager = on_agent({ cluster = { min_nodes = 2 }, consul = { health_check_interval = 5 }, monitoring = {
      on_alert = function(alert)
        depth = depth + 1
        assert(depth == 1)
        table.insert(told, ("%s %s"):format(alert.state, alert.reason))
        -- Neither is told in this call.
        manager.session.health.alerts[1] = { state = "raised", reason = "later", message = "", timestamp = 0 }
        manager:poll()
        depth = depth - 1
      end,
    } })
    manager:monitor_health()
    assert.same({}, told)
    manager:poll()
    assert.same({ "raised too_few_nodes" }, told)
    manager:poll()
    assert.same({ "raised too_few_nodes", "raised later" }, told)
  end)

  it("logs what on_alert raises once for each function, and takes the alerts", function()
    local path, raised = os.tmpname(), 0
    local manager = on_agent({ monitoring = { log_file = path, on_alert = function()
      raised = raised + 1
      error({})
    end } })
    local of = manager.session.health
    for _ = 1, 3 do
      of:update({ slow = "it is slow" }, true)
      of:update({}, true)
      assert.equal(0, manager:poll())
    end
    assert.equal(6, raised)
    assert.is_nil(manager:next_alert())
    local _, lines = managers.read(path):gsub("ERROR monitoring.on_alert raised an error: an error object", "")
    assert.equal(1, lines)
    -- It cannot yield: the program's coroutine goes on.
    manager:reload_config({ monitoring = { on_alert = coroutine.yield } })
    manager.session.health:update({ slow = "it is slow" }, true)
    local ended = { coroutine.wrap(function()
      manager:poll()
      return "ended"
    end)() }
    assert.same({ "ended" }, ended)
    _, lines = managers.read(path):gsub("ERROR monitoring.on_alert raised an error: ", "")
    assert.equal(2, lines)
    os.remove(path)
  end)

  it("may clean the manager up in on_alert", function()
    local manager
    manager = on_agent({ monitoring = { on_alert = function()
      manager:cleanup()
    end } })
    manager.session.health:update({ slow = "it is slow" }, true)
    manager:poll()
    assert.is_false(manager.is_initialized)
  end)

  it("logs to the program's function", function()
    local lines = {}
    local manager = on_agent({ cluster = { min_nodes = 2 }, monitoring = { log = function(level, message, fields)
      table.insert(lines, ("%s %s %s"):format(level, message, fields.target))
    end } })
    manager.config.monitoring.log_file = nil
    manager:reload_config()
    manager:monitor_health()
    assert.same({ "WARN health: raised too_few_nodes: 1 live nodes, and cluster.min_nodes is 2 consul_ffi::manager" },
      lines)
  end)

  it("reports stopped when the node is no longer a member", function()
    local manager = on_agent()
    manager:get_node():stop()
    assert.is_string(manager:monitor_health().reasons.stopped)
  end)

  it("keeps the newest 1,024 alerts", function()
    local of = health.new(os.time)
    for i = 1, 600 do
      of:update({ slow = "alert " .. i }, true)
      of:update({}, true)
    end
    local count, first = 0, nil
    for alert in of.next_alert, of do
      count, first = count + 1, first or alert
    end
    assert.equal(1024, count)
    assert.equal("alert 89", first.message)
  end)
end)
