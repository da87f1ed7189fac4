-- The manager, including what callers of the older module depend on. docs/production.md has its guarantees.
local consul_ffi = require("consul_ffi")
local managers = require("spec.consul_production.support")
local options = require("consul_production.options")
local production = require("consul_production_config")
local support = require("spec.support")

describe("consul_production_config", function()
  after_each(managers.close)

  it("exports a manager and its configuration #smoke", function()
    assert.equal(production.config, production.ConsulManager.config)
    assert.equal("ConsulManager(not initialised)", tostring(production.ConsulManager))
  end)

  describe("config", function()
    it("has every option, with its default", function()
      local config = production.new().config
      for _, option in ipairs(options.list) do
        local value = config
        for name in option.path:gmatch("[^.]+") do
          value = value[name]
        end
        assert.same(option.default, value, option.path)
      end
      assert.same({ "http://127.0.0.1:8500" }, config.consul.servers)
      assert.same({ 10, 1, "stock-tsdb/" }, {
        config.consul.timeout, config.cluster.min_nodes, config.storage.kv_prefix,
      })
      assert.same({ 1, 1, 1, false }, {
        config.cluster.replication_factor, config.cluster.write_quorum, config.cluster.read_quorum,
        config.consul.tls_enabled,
      })
    end)

    it("can be changed before init: options, whole sections and lists in place", function()
      local manager, prefix = managers.manager()
      manager.config.storage.kv_prefix = prefix .. "/other/"
      manager.config.cluster = { node_id = "renamed", node_address = "10.0.0.1:9000" }
      manager.config.monitoring.alert_threshold.response_time_ms = 250
      assert.is_true(manager:init())
      assert(manager:store_data("key", "value"))
      local _, value = manager:get_healthy_client():kv_get(prefix .. "/other/key")
      assert.equal("value", value)
      assert.equal("renamed", manager:get_cluster_info().current_node)
      assert.equal("10.0.0.1:9000", manager:get_consistent_node("key").address)
      assert.equal(250, manager.config.monitoring.alert_threshold.response_time_ms)
    end)

    it("is refused by init when a name or a value is invalid, and init can be called again", function()
      for _, case in ipairs({
        { "consul", "timout", 5, "config.consul.timout is unknown; consul has: servers, timeout" },
        { "consul", "timeout", "5", 'config.consul.timeout must be a positive number of seconds, got the string "5"' },
        { "cluster", "min_nodes", 0, "config.cluster.min_nodes must be an integer, 1 or more, got 0" },
        { "cluster", "consistency_mode", "strong", '"default", "stale" or "consistent", got the string "strong"' },
        { "consul", "acl_token", 12345, "config.consul.acl_token must be a non-empty string, got a number" },
        { "cluster", "write_quorum", 2, "cluster.write_quorum is 2, more than cluster.replication_factor, which is 1" },
        { "security", "audit_enabled", true, "security.audit_enabled is true, but security.audit_log_file is not set" },
        { "security", "enable_acl", true, "security.enable_acl is true, but consul.acl_token is not set" },
        { "monitoring", "log_file", "/nonexistent/log", "monitoring.log_file: /nonexistent/log" },
      }) do
        local manager = managers.manager()
        local before = rawget(manager.config[case[1]], case[2])
        manager.config[case[1]][case[2]] = case[3]
        local success, message = pcall(manager.init, manager)
        assert.is_false(success)
        assert.matches(case[4], message, 1, true)
        manager.config[case[1]][case[2]] = before
        assert.is_true(manager:init())
      end
    end)
  end)

  describe("before init", function()
    it("calls that no older program makes raise that init is missing, but cleanup does nothing", function()
      local manager = managers.manager()
      for _, call in ipairs({ "get_node", "reload_config", "poll", "next_alert" }) do
        local success, message = pcall(manager[call], manager, "key", "value")
        assert.is_false(success)
        assert.matches(call .. ": the manager is not initialised: call init() first", message, 1, true)
      end
      assert.is_true(manager:cleanup())
      support.raises("init: call it with a colon", manager.init)
    end)
  end)

  describe("init", function()
    it("connects with the default options and no file #smoke", function()
      local manager = managers.started()
      assert.is_true(manager:init())
      assert.matches("^ConsulManager%(spec", tostring(manager))
    end)

    it("needs neither a server nor TLS files when the agent is simulated", function()
      local manager = production.new()
      manager.config.consul.simulate = support.name("fresh")
      assert.is_true(manager:init())
      manager:cleanup()
    end)

    it("raises within consul.timeout when no server can be reached", function()
      local manager = managers.manager({
        consul = { servers = { "http://127.0.0.1:1", "http://127.0.0.1:2" }, timeout = 0.5, simulate = false },
      })
      local begun = support.clock()
      local success, message = pcall(manager.init, manager)
      assert.is_false(success)
      assert.matches("consul_production_config: init: no server answered", message, 1, true)
      assert.matches(" (http://127.0.0.1:1, http://127.0.0.1:2): ", message, 1, true)
      -- Half a second; the rest is for a busy machine.
      assert.is_true(support.clock() - begun < 5)
    end)

    it("names no time limit when the servers refuse before it", function()
      local manager = managers.manager({ consul = { servers = { "http://127.0.0.1:1" }, simulate = false } })
      local success, message = pcall(manager.init, manager)
      assert.is_false(success)
      assert.matches("init: no server answered (http://127.0.0.1:1): ", message, 1, true)
    end)

    it("raises within consul.timeout when the servers do not answer", function()
      local agent = support.name("silent")
      local sim = consul_ffi.simulator(agent, { clock = "manual" })
      sim:fault({ partition = true })
      local manager = managers.manager({ consul = { simulate = agent, timeout = 3 } })
      local success, message = pcall(manager.init, manager)
      assert.is_false(success)
      assert.matches("no server answered within 3 s", message, 1, true)
      assert.is_true(sim:now() <= 3)
      sim:clear_faults()
      assert.is_true(manager:init())
    end)

    it("raises with the answer of a server that is not a working Consul", function()
      local agent = support.name("refusing")
      consul_ffi.simulator(agent, { clock = "manual" }):fault({ status = 404 })
      local manager = managers.manager({ consul = { simulate = agent } })
      local success, message = pcall(manager.init, manager)
      assert.is_false(success)
      assert.matches("init: no server can be used (", message, 1, true)
      assert.matches("(HTTP 404)", message, 1, true)
    end)

    it("raises when a live node has the same name", function()
      local first, prefix = managers.started()
      local second = managers.manager({ cluster = { node_id = first:get_cluster_info().current_node } }, prefix)
      local success, message = pcall(second.init, second)
      assert.is_false(success)
      assert.matches("init: cluster node", message, 1, true)
    end)

    it("lists no option that nobody has set #smoke", function()
      local _, outcome = managers.started():init()
      assert.same({}, outcome.not_in_force)
    end)

    it("lists the options that are set and never in force", function()
      local manager = managers.manager()
      for _, option in ipairs(options.list) do
        if option.idle then
          local section, name = option.path:match("^(.*)%.(.*)$")
          manager.config[section][name] = type(option.default) == "number" and option.default + 1 or "another"
        end
      end
      local _, outcome = manager:init()
      for _, option in ipairs(options.list) do
        assert.equal(option.idle, outcome.not_in_force[option.path])
      end
    end)

    it("warns of a timeout that is likely in milliseconds, naming the unit", function()
      local function warned(timeout)
        local path = os.tmpname()
        managers.started({ consul = { timeout = timeout }, monitoring = { log_file = path } })
        local log = managers.read(path)
        os.remove(path)
        local warning = "WARN  consul.timeout is 5000 seconds, the limit of a call; if milliseconds are meant: 5\n"
        return select(2, log:gsub(warning, ""))
      end
      assert.same({ 1, 0 }, { warned(5000), warned(600) })
    end)

    it("refuses texts of a flag as the name of a simulated agent", function()
      for _, name in ipairs({ "false", "True", "0", "1", "" }) do
        local manager = managers.manager()
        manager.config.consul.simulate = name
        support.raises("config.consul.simulate must be true, false or the name of a simulated agent, got", manager.init,
          manager)
      end
    end)

    it("lists and logs the configured options that have no effect", function()
      local path = os.tmpname()
      local manager = managers.started({
        consul = { tls_ca_file = "/nonexistent/ca.pem", retry_interval = 2 },
        cluster = { write_quorum = 1 },
        monitoring = {
          log_file = path, log_level = "WARN", log_max_age = 3, metrics_enabled = false, metrics_interval = 9,
        },
        security = { audit_log_file = "/nonexistent/audit" },
      })
      local idle = select(2, manager:init()).not_in_force
      assert.equal("no server uses TLS", idle["consul.tls_ca_file"])
      -- Elsewhere the assignment of a default is not noticed.
      if _VERSION >= "Lua 5.3" then
        assert.is_string(idle["cluster.write_quorum"])
      end
      assert.equal("it requires security.audit_enabled", idle["security.audit_log_file"])
      assert.is_nil(idle["monitoring.log_max_age"])
      assert.equal("it requires monitoring.metrics_enabled", idle["monitoring.metrics_interval"])
      local logged = managers.read(path)
      assert.matches("WARN  consul.tls_ca_file is not in force: no server", logged, 1, true)
      assert.matches("WARN  consul.retry_interval is not in force: the client", logged, 1, true)
      assert.is_nil(logged:find("cluster.max_nodes", 1, true))
      os.remove(path)
    end)
  end)

  describe("a manager", function()
    if not support.simulated then
      it("uses the next server when the first does not answer", function()
        local manager = managers.started({
          consul = { servers = { "http://127.0.0.1:1", os.getenv("CONSUL_HTTP_ADDR") } },
        })
        assert(manager:store_data("key", 1))
        assert.equal(1, (manager:read_data("key")))
        assert.is_true(manager:get_cluster_info().is_leader)
      end)
    end

    it("returns the client, whose timeout in ms is the configured one in seconds", function()
      local client = managers.started({ consul = { timeout = 2.5 } }):get_healthy_client()
      assert.equal(2500, client.timeout)
      assert.is_true(client:status_leader())
    end)

    it("returns nodes and leader as tables that concatenate as their ids #smoke", function()
      local manager = managers.started({ cluster = { node_address = "10.0.0.1:9000" } })
      local info, id = manager:get_cluster_info(), manager.config.cluster.node_id
      assert.equal(1, info.node_count)
      assert.equal("leader: " .. id, "leader: " .. info.leader_node)
      assert.equal(id, info.current_node)
      assert.is_true(info.is_leader)
      assert.same({ 1, id .. "!", "10.0.0.1:9000" }, { #info.nodes, info.nodes[1] .. "!", info.nodes[1].address })
    end)

    it("returns its node, and serves other nodes' calls in poll", function()
      local first, prefix = managers.started()
      local second = managers.started(nil, prefix)
      first:get_node():handle("echo", function(body)
        return body
      end)
      local id, reply = first.config.cluster.node_id, nil
      support.eventually(function()
        reply = select(2, second:get_node():call(id, "echo", "text"))
        return reply == "text"
      end)
      assert.equal(0, first:poll())
    end)

    it("publishes no address if none is configured #smoke", function()
      local manager = managers.started()
      assert.equal("", manager:get_consistent_node("AAPL").address)
      assert.is_nil(manager.config.cluster.node_address)
    end)

    it("refuses an address without a port", function()
      local manager = managers.manager({ cluster = { node_address = "10.0.0.1" } })
      local wanted = 'node_address is "10.0.0.1": it must be `host:port` with a port from 1 to 65535'
      support.raises(wanted, manager.init, manager)
    end)

    it("returns the node that owns a key", function()
      local manager = managers.started({ cluster = { node_address = "10.0.0.1:9000" } })
      local node = manager:get_consistent_node("AAPL")
      assert.equal(manager.config.cluster.node_id .. "@10.0.0.1:9000", node.id .. "@" .. node.address)
    end)

    it("reads a value back with the type that was stored #smoke", function()
      local manager, prefix = managers.started()
      for i, value in ipairs({ "text", "42", '{"text":1}', "", 42, 2.5, true, false, { 1, 2 }, { price = 9.5 } }) do
        assert.is_true(manager:store_data("key" .. i, value, { consistency = "consistent", replication_factor = 3 }))
        assert.same(value, (manager:read_data("key" .. i, { consistency = "consistent" })))
      end
      local client = manager:get_healthy_client()
      local _, stored = client:kv_get(prefix .. "/data/key10")
      assert.equal('{"price":9.5}', stored)
    end)

    it("reads values of other programs: JSON objects and lists as tables, all others as strings", function()
      local manager, prefix = managers.started()
      local client = manager:get_healthy_client()
      local values = { ['{"a":1}'] = { a = 1 }, ["[1,2]"] = { 1, 2 }, ["42"] = "42", ["{broken"] = "{broken" }
      for text, value in pairs(values) do
        assert(client:kv_put(prefix .. "/data/foreign", text))
        assert.same(value, (manager:read_data("foreign")))
      end
    end)

    it("returns nil and a message when there is no such key", function()
      local manager = managers.started()
      local value, message, err = manager:read_data("missing")
      assert.is_nil(value)
      assert.matches('there is no key "spec.*/data/missing"', message)
      assert.equal("not_found", err.kind)
    end)

    it("returns false and a message when Consul refuses a key", function()
      local success, message, err = managers.started():store_data("/leading", 1)
      assert.equal("argument", support.kind(success, message, err))
      assert.matches("kv_put", message, 1, true)
    end)

    it("raises for misuse, naming what is allowed", function()
      local manager = managers.started()
      for message, call in pairs({
        ["store_data: key must be a non-empty string, got nil"] = { "store_data" },
        ["read_data: key must be a non-empty string, got an empty string"] = { "read_data", "" },
        ["delete_data: key must be a non-empty string, got table"] = { "delete_data", {} },
        ["store_data: value must be a string, number, boolean or table, got nil"] = { "store_data", "k" },
        ['read_data: unknown option "mode"; the options are: consistency'] = { "read_data", "k", { mode = "stale" } },
        ['store_data: consistency must be "default", "stale" or "consistent", got the string "strong"'] = {
          "store_data", "k", 1, { consistency = "strong" } },
        ["reload_config: new must be a table of sections, got number"] = { "reload_config", 1 },
      }) do
        local success, raised = pcall(manager[call[1]], manager, call[2], call[3], call[4])
        assert.is_false(success)
        assert.matches(message, raised, 1, true)
      end
    end)

    it("reports its health with the time of the check #smoke", function()
      -- The check of another spec's service, which was not deregistered, may still be critical.
      local client = support.client()
      for _, check in pairs(select(2, assert(client:agent_checks()))) do
        if check.Status == "critical" then
          client:deregister_service(check.ServiceID)
        end
      end
      client:close()
      local manager = managers.started()
      local health = manager:monitor_health()
      assert.same({ true, {}, 1 }, { health.is_healthy, health.issues, health.node_count })
      assert.equal(manager.config.cluster.node_id, "" .. health.leader_node)
      assert.is_true(math.abs(health.timestamp - os.time()) <= 300)
      assert.is_string(os.date("%c", health.timestamp))
    end)

    it("ends with cleanup, which may be called twice, and starts again with init", function()
      local manager, prefix = managers.started()
      assert.is_true(manager:cleanup())
      assert.is_true(manager:cleanup())
      assert.is_nil(manager:get_cluster_info())
      local client = support.client()
      assert.same({}, (select(2, client:kv_keys(prefix .. "/cluster/nodes/"))))
      client:close()
      assert.is_true(manager:init())
      assert.equal(1, manager:get_cluster_info().node_count)
    end)

    it("is in one cluster with the managers of the same prefix", function()
      local first, prefix = managers.started()
      local second = managers.started(nil, prefix)
      support.eventually(function()
        return first:get_cluster_info().node_count == 2 and second:get_cluster_info().node_count == 2
      end)
      local one, other = first:get_cluster_info(), second:get_cluster_info()
      assert.equal(tostring(one.leader_node), tostring(other.leader_node))
      assert.is_true(one.is_leader ~= other.is_leader)
      -- Both get the same shard map soon.
      support.eventually(function()
        return first:get_consistent_node("AAPL").id == second:get_consistent_node("AAPL").id
      end)
    end)
  end)
end)
