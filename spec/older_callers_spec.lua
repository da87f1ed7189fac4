-- The findings of callers of the older modules with ours; each has its number in the list of findings.
local consistent_hash_cluster = require("consistent_hash_cluster")
local consul_ffi = require("consul_ffi")
local consul_ha_cluster = require("consul_ha_cluster")
local managers = require("spec.consul_production.support")
local production = require("consul_production_config")
local support = require("spec.support")

local HighAvailabilityCluster = consistent_hash_cluster.HighAvailabilityCluster
local asks_metatables = _VERSION >= "Lua 5.3"

-- The objects that the tests have opened, and the prefix of their keys.
local opened, prefix

local function keep(made)
  opened[#opened + 1] = made
  return made
end

-- An engine's node on a port at which no Consul answers.
local function away(config)
  return keep(HighAvailabilityCluster:new(support.merged({
    node_id = "engine",
    cluster_name = prefix,
    consul_endpoints = { "127.0.0.1:1" },
    cluster_options = { start_timeout_ms = 200, timeout = 500 },
  }, config)))
end

-- A node of the older module on the Consul under test.
local function old_node(id, config)
  return keep(consul_ha_cluster.new(support.merged({
    consul_url = os.getenv("CONSUL_HTTP_ADDR") or "http://127.0.0.1:8500",
    node_id = id,
    node_address = "10.0.0.1:9000",
    nodes_prefix = prefix .. "/nodes/",
    simulate = support.simulated,
  }, config)))
end

local function assert_not_ready(reason, success, message, err)
  assert.equal("not_ready", support.kind(success, message, err))
  assert.matches(reason, message, 1, true)
end

describe("a caller of the older modules", function()
  before_each(function()
    opened, prefix = {}, support.name("older")
  end)

  after_each(function()
    support.clean_up(opened, prefix)
    managers.close()
  end)

  describe("F1 without a Consul", function()
    it("has errors as values from an engine whose start has failed", function()
      local engine = away()
      local joined, message = engine:initialize()
      assert.is_false(joined)
      assert.matches("127.0.0.1:1", message, 1, true)
      local reason = "the node has not joined its cluster: " .. message
      assert.is_nil((engine:get_target_node("key", 1)))
      assert.is_nil((engine:get_shard_for_key("key")))
      local data = { type = "stock_data", stock_code = "600519" }
      for _, id in ipairs({ false, "engine", "other" }) do
        assert_not_ready(reason, engine:forward_data(id or nil, data))
        assert_not_ready(reason, engine:fetch_data(id or nil, data))
      end
      assert_not_ready(reason, engine:broadcast("name", {}))
      assert_not_ready(reason, engine:rebalance_shards())
      assert.same({ success = false, error = reason }, engine:route_request("key", "get"))
      assert_not_ready("not started within", engine:initialize())
      assert.same({ false, 0, {} }, { engine.is_running, engine:poll(), engine:get_replicas("key") })
      assert.is_true(engine:stop())
    end)

    it("has its engine join when Consul comes", function()
      local agent = support.name("agent")
      local sim = consul_ffi.simulator(agent, { clock = "manual", seed = 1 })
      sim:fault({ partition = true })
      local engine = away({ simulate = agent, cluster_options = {} })
      assert.is_false((engine:start()))
      assert.is_false(engine.is_running)
      sim:clear_faults()
      sim:advance(10)
      assert.is_true(engine.is_running)
      assert.equal("engine", engine:get_target_node("key"))
      engine:handle("stock_data", function(message)
        return message.stock_code
      end)
      assert.same({ true, "600519" }, {
        engine:forward_data(engine:get_target_node("key"), { type = "stock_data", stock_code = "600519" }) })
      assert_not_ready("the key has no node yet", engine:forward_data(nil, { type = "stock_data" }))
      assert.is_true(engine:initialize())
      assert.is_true(engine:stop())
      assert_not_ready("it was not started", engine:forward_data(nil, { type = "stock_data" }))
    end)

    it("can start an engine that names none, which is alone", function()
      if not support.simulated then
        return
      end
      for _ = 1, 2 do
        local engine = keep(HighAvailabilityCluster:new({ node_id = "n1", data_port = 9091 }))
        assert.is_true(engine:start())
        assert.same({ true, true, "leader" }, { engine.is_running, engine.is_leader, engine.local_node.role })
        assert.equal("n1", engine:get_target_node("key", os.time()))
        engine:handle("get", function(data)
          return data .. "!"
        end)
        assert.same({ success = true, data = "x!", node_id = "n1" }, engine:route_request("key", "get", "x"))
        assert.equal(1, #engine:get_active_nodes())
      end
    end)

    it("reads of one error for a port in use, with the port and the cure", function()
      local first = keep(HighAvailabilityCluster:new({
        node_id = "n1", cluster_name = prefix, consul_endpoints = { "a" }, simulate = true,
      }))
      assert(first:start())
      local _, entry = next(first:get_active_nodes())
      assert.is_table(entry)
      local client = support.client({ endpoint = "a", simulate = true })
      local _, record = client:kv_get("tsdb/" .. prefix .. "/nodes/n1")
      client:close()
      local port = tonumber(record:match('"data_address":"127.0.0.1:(%d+)"'))
      local second = away({ data_port = port })
      local started, message, err = second:start()
      assert.equal("config", support.kind(started, message, err))
      assert.matches((":%d\" is in use"):format(port), message, 1, true)
      assert.matches("choose another port, or port 0 for any free one", message, 1, true)
      assert_not_ready(message, second:forward_data(nil, { type = "stock_data" }))
    end)
  end)

  it("F2 sees the name of an older consul_ffi that Lua finds first", function()
    local folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir " .. folder))
    managers.write(folder .. "/consul_ffi.lua", "return { new = function() end, ConsulClient = {} }")
    local before = { package.path, package.loaded.consul_ffi, package.loaded.consul_native }
    package.path = folder .. "/?.lua;" .. package.path
    for _, name in ipairs({ "consul_ha_cluster", "consistent_hash_cluster", "consul_production_config" }) do
      local loaded = {}
      for module in pairs(package.loaded) do
        if module:match("^consul") or module == "consistent_hash_cluster" then
          loaded[module], package.loaded[module] = package.loaded[module], nil
        end
      end
      local found, message = pcall(require, name)
      for module in pairs(package.loaded) do
        if module:match("^consul") or module == "consistent_hash_cluster" then
          package.loaded[module] = nil
        end
      end
      for module, value in pairs(loaded) do
        package.loaded[module] = value
      end
      assert.is_false(found, name)
      assert.matches(folder .. "/consul_ffi.lua is an older consul_ffi", message, 1, true)
      assert.matches("delete that file", message, 1, true)
    end
    package.path, package.loaded.consul_ffi, package.loaded.consul_native = before[1], before[2], before[3]
    os.execute("rm -r " .. folder)
  end)

  describe("F3 may leave out node_id and node_address", function()
    it("and gets other names for two nodes", function()
      local first, second = consul_ha_cluster.ConsulHACluster:new({}), consul_ha_cluster.new({ simulate = true })
      assert.matches("^node_%d+_%x+$", first.node_id)
      assert.matches("^node_%d+_%x+$", second.node_id)
      assert.are_not.equal(first.node_id, second.node_id)
      assert.equal("127.0.0.1:8080", first.node_address)
      support.raises("node_id is required", consul_ffi.ConsulHACluster.new, {})
    end)

    it("but not with data that must survive a restart", function()
      support.raises("node_id is required with hand_off", consul_ha_cluster.new, { hand_off = true })
      support.raises("node_id is required with receive_shard", HighAvailabilityCluster.new, { receive_shard = print })
      assert.equal("n1", consul_ha_cluster.new({ hand_off = true, node_id = "n1" }).node_id)
      local unnamed = consul_ha_cluster.new({ simulate = true })
      local engine = HighAvailabilityCluster:new({ simulate = true })
      for _, one in ipairs({ unnamed, engine }) do
        support.raises("node_id is required with replicate", one.replicate, one, "points", "memory")
      end
      local named = consul_ha_cluster.new({ node_id = "n1", simulate = true })
      assert.is_truthy(named:replicate("points", "memory"))
    end)
  end)

  it("F4 sees a missing handler in the error of a call", function()
    local nodes = {}
    for i = 1, 2 do
      nodes[i] = keep(HighAvailabilityCluster:new({
        node_id = "n" .. i,
        cluster_name = prefix,
        consul_endpoints = { os.getenv("CONSUL_HTTP_ADDR") or "127.0.0.1:8500" },
        simulate = support.simulated,
      }))
      assert(nodes[i]:start())
    end
    local message
    support.eventually(function()
      message = select(2, nodes[1]:forward_data("n2", { type = "stock_data" }))
      return message:find("handler", 1, true)
    end)
    assert.matches("it has no handler of this name", message, 1, true)
  end)

  it("F5 has sessions of 30 s that delete their keys", function()
    local client = keep(support.client())
    local _, session = client:create_session(prefix)
    local _, info = client:session_info(session)
    assert.same({ "30s", "delete" }, { info.TTL, info.Behavior })
    _, session = client:create_session(prefix, "15s")
    assert.equal("15s", select(2, client:session_info(session)).TTL)
  end)

  describe("F6 F7 gets Consul's text", function()
    it("from lists", function()
      local client = keep(support.client())
      assert.equal("[]", tostring(select(2, client:kv_get(prefix, true))))
      assert.equal("found: []", "found: " .. select(2, client:discover_services(prefix)))
      client:kv_put(prefix .. "/a", "\0\255")
      local _, entries = client:kv_get(prefix, true)
      assert.equal("\0\255", entries[1].Value)
      assert.equal(prefix .. "/a", entries:match('"Key":"([^"]+)"'))
      assert.equal("AP8=", tostring(entries):match('"Value":"([^"]+)"'))
      assert.equal(1, #entries)
      client:register_service(prefix .. "-1", prefix, "10.0.0.1", "8080", { "a" })
      local instances
      support.eventually(function()
        instances = select(2, client:discover_services(prefix))
        return #instances == 1
      end)
      assert.same({ prefix .. "-1", 8080 }, { instances[1].id, instances[1].port })
      assert.equal(prefix .. "-1", ("text: " .. instances):match('"ID":"([^"]+' .. "-1" .. ')"'))
      assert.equal('"Port":8080', instances:match('"Port":%d+'))
      client:deregister_service(prefix .. "-1")
    end)

    it("from writes", function()
      local client = keep(support.client())
      local _, session = client:create_session(prefix)
      for what, response in pairs({
        register = select(2, client:register_service(prefix, "10.0.0.1", 80)),
        deregister = select(2, client:deregister_service(prefix)),
        put = select(2, client:kv_put(prefix .. "/a", "x")),
        delete = select(2, client:kv_delete(prefix .. "/a")),
        tree = select(2, client:kv_delete(prefix .. "/", true)),
        destroy = select(2, client:destroy_session(session)),
      }) do
        assert.equal(what .. ": true", what .. ": " .. response)
      end
      -- With options they are not the older calls.
      assert.is_true((select(2, client:kv_put(prefix .. "/a", "x", {}))))
    end)
  end)

  it("F8 finds the older status, last_seen, session_id and timestamp", function()
    local one, two = old_node("n1"), old_node("n2")
    assert(one:start() and two:start())
    support.eventually(function()
      return #one:get_live_nodes() == 2
    end)
    local before = os.time()
    for _, node in ipairs(one:get_live_nodes()) do
      assert.equal("alive", node.status)
      assert.is_true(node.last_seen >= before and node.last_seen <= os.time())
      assert.is_string(node.session_id)
    end
    local leader = one:get_leader_info()
    assert.equal(leader.session_id, one.cluster_nodes[leader.node_id].session_id)
    assert.equal(leader.elected_at, leader.timestamp)
    assert.is_number(leader.timestamp)
    assert.equal("alive", select(2, one:get_node_for_key("key")).status)
    assert.equal("alive", one:get_replica_nodes("key", 2)[1].status)
    assert.equal('ConsulHACluster("n1", ' .. one:status().state .. ")", tostring(one))
    assert.equal("conflict", support.kind(one:start()))
    support.raises("start: call it with a colon", one.start, nil)
    assert.is_true(two:stop())
    assert.same({}, two:get_live_nodes())
  end)

  it("F8 finds a dead node failed, and when it was last seen", function()
    local agent = support.name("agent")
    local sim = consul_ffi.simulator(agent, { clock = "manual", seed = 1 })
    local one, two = old_node("n1", { simulate = agent }), old_node("n2", { simulate = agent, client_name = "n2" })
    assert(one:start() and two:start())
    sim:advance(2)
    local seen = one.cluster_nodes.n2.last_seen
    sim:fault({ clients = { "n2" }, partition = true })
    sim:advance(10)
    local node = one.cluster_nodes.n2
    assert.same({ "failed", seen }, { node.status, node.last_seen })
    assert.equal(1, #one:get_live_nodes())
  end)

  it("F9 F21 uses nodes and sessions as text as far as Lua allows", function()
    local ring = consul_ha_cluster.ConsistentHashRing:new()
    ring:add_node("node1", {})
    ring:add_node("node2", {})
    local replicas = ring:get_replica_nodes("key", 2)
    table.sort(replicas)
    local one, two = replicas[1], replicas[2]
    assert.equal("node1, node2", one .. ", " .. two)
    assert.same({ "1", 5 }, { one:match("%d"), one:len() })
    assert.is_true(one < two and one <= two and one ~= two)
    assert.is_true(one == ring:get_replica_nodes("key", 2)[1] or one == ring:get_replica_nodes("key", 2)[2])
    -- A comparison that Lua does not allow, as the documentation says.
    assert.is_false(one == "node1")
    assert.is_false((pcall(table.concat, replicas, ",")))
    if asks_metatables then
      assert.equal(5, #one)
    end
    assert.equal(asks_metatables, (pcall(function()
      return one < "node2"
    end)))

    local client = keep(support.client())
    local _, session = client:create_session(prefix)
    assert.is_true((client:session_renew(session)))
    assert.is_true((client:kv_put(prefix .. "/lock", "mine", { acquire = session })))
    assert.equal(session.id, select(3, client:kv_get(prefix .. "/lock")).session)
    assert.is_true((client:kv_put(prefix .. "/lock", "", { release = session })))
    if asks_metatables then
      assert.equal(#tostring(session), #session)
    end
    assert.is_true((client:destroy_session(session)))
  end)

  it("F11 can set the key of the deployment guide, and leave secrets empty", function()
    local manager = managers.manager()
    manager.config.consul.encryption_key = ""
    manager.config.consul.acl_token = ""
    assert.is_true(manager:init())
    manager:cleanup()
    manager = managers.manager({ consul = { encryption_key = "sixteen bytes or more" } })
    assert.is_true(manager:init())
    manager:cleanup()
    manager = managers.manager({
      consul = { encryption_key = "sixteen bytes or more" },
      security = { encryption_key = "sixteen other bytes" },
    })
    local message = select(2, pcall(manager.init, manager))
    assert.matches("encryption_key must not differ from", message, 1, true)
    assert.is_nil(message:find("sixteen", 1, true))
    manager.config.security.encryption_key = "sixteen bytes or more"
    assert.is_true(manager:init())
  end)

  describe("F12 need not initialise the manager", function()
    it("for a call that works on Consul", function()
      local manager = managers.manager()
      assert.is_nil(manager:get_cluster_info())
      assert.is_nil(manager:get_consistent_node("key"))
      assert.same({ false, {} }, { manager.is_initialized, manager.clients })
      assert.equal("not_ready", support.kind(manager:monitor_health()))
      assert.is_true((manager:store_data("key", 1)))
      assert.equal(1, (manager:read_data("key")))
      assert.is_true(manager.is_initialized)
      assert.equal(manager:get_healthy_client(), manager.clients[1])
      local info = manager:get_cluster_info()
      assert.equal(manager.cluster.node_id, info.nodes[info.current_node].id)
      local node, details = manager:get_consistent_node("key")
      assert.equal(node, details)
      manager:cleanup()
      assert.is_nil(manager:get_cluster_info())
      assert.equal(1, (manager:read_data("key")))
    end)

    it("and has its failure as a value", function()
      local manager = managers.manager({ consul = { servers = { "127.0.0.1:1" }, timeout = 0.2, simulate = false } })
      assert_not_ready("store_data: consul_production_config: init: no server answered",
        manager:store_data("key", 1))
      local value, message, err = manager:read_data("key")
      assert.same({ nil, "not_ready", message }, { value, err.kind, err.message })
      assert.is_nil(manager:get_healthy_client())
    end)
  end)

  it("F13 can run a second program on a host without a node_id", function()
    local agent = support.name("agent")
    consul_ffi.simulator(agent, { clock = "manual", seed = 1 })
    local first, prefix_of_keys = managers.manager({ consul = { simulate = agent } })
    first.config.cluster.node_id = nil
    first:init()
    local second = managers.manager({ consul = { simulate = agent } }, prefix_of_keys)
    second.config.cluster.node_id = nil
    second:init()
    local one, other = first:get_cluster_info().current_node, second:get_cluster_info().current_node
    assert.equal(one .. "-", other:sub(1, #one + 1))
    assert.equal(second.config.cluster.node_id, other)
  end)

  it("F14 reads facts in the tables of an engine's node", function()
    local engine = keep(HighAvailabilityCluster:new({
      node_id = "n1", host = "127.0.0.1", port = 6000, cluster_name = prefix, role = "follower",
      consul_endpoints = { os.getenv("CONSUL_HTTP_ADDR") or "127.0.0.1:8500" },
      simulate = support.simulated,
    }))
    assert.equal("starting", engine.local_node.status)
    assert(engine:start())
    local me, active = engine.local_node, engine:get_active_nodes()[1]
    assert.same({ "leader", "running" }, { me.role, me.status })
    assert.same({ "127.0.0.1", 6000, "running" }, { active.host, active.port, active.status })
    assert.is_true(os.time() - active.last_heartbeat <= 300 and os.time() - me.last_heartbeat <= 300)
    assert.equal("shard 0 is on n1", "shard 0 is on " .. engine.data_shards[0])
    local started, message, err = engine:start()
    assert.equal("conflict", support.kind(started, message, err))
    engine:stop()
    assert.equal("stopped", engine.local_node.status)
  end)

  it("F15 finds one line about a node that cannot join in the log", function()
    local program, log = os.tmpname(), os.tmpname()
    managers.write(program, [[
      local node = require("consul_ha_cluster").new({
        consul_url = "127.0.0.1:1", node_id = "n1", node_address = "a:1", start_timeout_ms = 3000,
      })
      assert(node:start() == false)
    ]])
    local status = os.execute(("%s %s 2>%s"):format(support.interpreter, program, log))
    assert.is_true(status == true or status == 0)
    assert.equal(1, select(2, managers.read(log):gsub("\n", "")))
    assert.matches("not joined yet", managers.read(log), 1, true)
    os.remove(program)
    os.remove(log)
  end)

  it("F16 can copy the configuration with pairs", function()
    local config = production.new().config
    local copied = {}
    for section, options in pairs(config) do
      for name, value in pairs(options) do
        copied[section .. "." .. name] = value
      end
    end
    assert.same({ 10, 3, "consistent", "stock-tsdb/" }, {
      copied["consul.timeout"], copied["consul.retry_attempts"], copied["cluster.consistency_mode"],
      copied["storage.kv_prefix"],
    })
    local manager = managers.manager()
    manager.config.consul.timeout = nil
    assert.equal(10, manager.config.consul.timeout)
    local servers = manager.config.consul.servers
    servers[1] = os.getenv("CONSUL_HTTP_ADDR") or servers[1]
    table.insert(servers, "http://127.0.0.1:2")
    manager:init()
    assert.equal(2, #manager.config.consul.servers)
    assert.equal(2, #manager.session.values["consul.servers"])
  end)

  it("F17 has extra names ignored and ports taken as text", function()
    local node = old_node("n1", { foo = 1, bar = 2 })
    assert.is_true(node:start())
    local client = keep(consul_ffi.new({ consul_url = "http://127.0.0.1:8500", foo = 1, simulate = true }))
    assert.is_true(client.initialized)
    support.raises('unknown option "foo"', consul_ffi.new, { endpoint = "a", foo = 1 })
    support.raises('unknown option "foo"', consul_ffi.ConsulHACluster.new, { node_id = "a", foo = 1 })
  end)

  it("F19 is refused a number of copies below the quorum, and can ask for none", function()
    local manager = managers.started({ cluster = { replication_factor = 3, write_quorum = 2 } })
    assert.is_true((manager:store_data("key", 1, { replication_factor = 1 })))
    manager.session.values["cluster.write_quorum"] = 3
    assert.equal("argument", support.kind(manager:store_data("key", 1, { replication_factor = 2 })))
  end)

  it("F20 sees no address that nobody can reach", function()
    local manager = managers.started()
    assert.is_nil(tostring(manager:get_consistent_node("key").address):match(":0$"))
  end)

  it("F22 runs our programs from inside their folder", function()
    local cpath = package.cpath:gsub("%./", "../"):gsub(";$", "") .. ";;"
    local command = "cd examples && LUA_PATH=';;' LUA_CPATH='%s' %s debug_consul_ffi.lua >/dev/null"
    local status = os.execute(command:format(cpath, support.interpreter))
    assert.is_true(status == true or status == 0)
  end)

  it("F23 reads in a message what was given", function()
    local manager = managers.manager({ storage = { kv_prefix = "" } })
    assert.matches("got an empty string", select(2, pcall(manager.init, manager)), 1, true)
  end)

  it("F24 finds an engine among the examples, which the documentation names", function()
    local page = managers.read("docs/migrating.md")
    assert.matches("tsdb_storage_engine_integrated", page, 1, true)
    assert.is_string(managers.read(page:match("`(examples/tsdb/engine.lua)`")))
  end)
end)
