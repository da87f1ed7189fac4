-- Mistakes of newcomers, in the modules with the names of older ones: errors name the method that was called and
-- are raised at the line of the caller, and nothing is dropped silently.
local consistent_hash_cluster = require("consistent_hash_cluster")
local consul_ha_cluster = require("consul_ha_cluster")
local managers = require("spec.consul_production.support")
local production = require("consul_production_config")
local support = require("spec.support")

local HighAvailabilityCluster = consistent_hash_cluster.HighAvailabilityCluster

-- The objects that the tests have opened, and the prefix of their keys.
local opened, prefix

local function keep(made)
  opened[#opened + 1] = made
  return made
end

-- Asserts that each function raises its message at a line of this file.
local function raise_here(calls)
  for message, call in pairs(calls) do
    local raised = support.raises(message, call)
    assert.matches("misuse_spec.lua:%d+: ", raised)
    assert.is_nil(raised:find("%.lua:%d+: .*%.lua:%d+: "), raised)
    assert.is_nil(raised:find("consul_ffi:%d+: "), raised)
  end
end

-- Functions that call each method with a dot, by the message of the error.
local function with_a_dot(object, methods)
  local calls = {}
  for _, name in ipairs(methods) do
    calls[name .. ": call it with a colon, as in object:" .. name .. "("] = function()
      local result = object[name]("key", {}, {})
      return result
    end
  end
  return calls
end

local function node(id, config)
  return keep(consul_ha_cluster.new(support.merged({
    consul_url = os.getenv("CONSUL_HTTP_ADDR") or "http://127.0.0.1:8500",
    node_id = id,
    node_address = "10.0.0.1:9000",
    nodes_prefix = prefix .. "/nodes/",
    simulate = support.simulated,
  }, config)))
end

local function alone()
  return keep(HighAvailabilityCluster:new({ node_id = "n1" }))
end

describe("a newcomer's mistake", function()
  before_each(function()
    opened, prefix = {}, support.name("misuse")
  end)

  after_each(function()
    support.clean_up(opened, prefix)
    managers.close()
  end)

  it("in a call of an older name has an error with that name", function()
    local client = keep(support.client())
    raise_here(with_a_dot(client, {
      "register_service", "deregister_service", "discover_services", "create_session", "destroy_session",
    }))
    raise_here({
      ["register_service: definition.Tags must be a string or a list"] = function()
        client:register_service("id", prefix, "127.0.0.1", 80, { 1 })
      end,
      ["discover_services: argument #1 (service) is missing"] = function()
        client:discover_services()
      end,
      ['discover_services: unknown option "tags"; did you mean "tag"?'] = function()
        client:discover_services(prefix, { tags = "a" })
      end,
    })
    local success, message, err = client:create_session(prefix, "5s")
    assert.equal("argument", support.kind(success, message, err))
    assert.matches("^create_session: ", message)
    client:destroy()
    success, message, err = client:discover_services(prefix)
    assert.equal("closed", support.kind(success, message, err))
    assert.matches("^discover_services ", message)
  end)

  it("does not have options of an older name dropped", function()
    local client = keep(support.client())
    local wrong = { tokn = "x" }
    raise_here({
      ['register_service: unknown option "tokn"'] = function()
        client:register_service({ name = prefix }, wrong)
      end,
      ['deregister_service: unknown option "tokn"'] = function()
        client:deregister_service(prefix, wrong)
      end,
      ['create_session: unknown option "tokn"'] = function()
        client:create_session(prefix, "15s", wrong)
      end,
      ['destroy_session: unknown option "tokn"'] = function()
        client:destroy_session(prefix, wrong)
      end,
    })
    for _, arguments in ipairs({
      { "id", prefix, "127.0.0.1", 80, {}, wrong },
      { prefix, "127.0.0.1", 80, {}, wrong },
    }) do
      support.raises('register_service: unknown option "tokn"', client.register_service, client,
        support.unpack(arguments))
    end
    assert.is_true((client:register_service("id", prefix, "127.0.0.1", 80, {}, { timeout_ms = 5000 })))
    assert.is_true((client:register_service("id", prefix, "127.0.0.1", 80, { "a" }, nil)))
    assert.same({ "a" }, select(2, client:agent_service("id")).Tags)
    assert.is_true((client:deregister_service("id", {})))
  end)

  it("in a call of an older node is raised at its line", function()
    local one = node("n1")
    assert(one:start())
    raise_here(with_a_dot(one, {
      "start", "stop", "is_leader_node", "get_leader_info", "get_node_count", "get_live_nodes", "get_node_for_key",
      "get_replica_nodes",
    }))
    raise_here({
      ["get_node_for_key: key must be a string, got nil"] = function()
        one:get_node_for_key()
      end,
      ['get_replica_nodes: n must be an integer, got a string "2"'] = function()
        one:get_replica_nodes("key", "2")
      end,
      ["get_live_nodes: call it with a colon"] = function()
        consul_ha_cluster.ConsulHACluster:get_live_nodes()
      end,
    })
    one.cluster_nodes.mine = 1
    assert.equal("alive", one.cluster_nodes.n1.status)
  end)

  it("is not a node's table in place of its id", function()
    local one = node("n1")
    assert(one:start())
    one:handle("get", function(body)
      return body.key
    end)
    local replica = one:get_replica_nodes("key", 1)[1]
    for _, given in ipairs({ "n1", one:get_live_nodes()[1], replica, one:get_leader_info() }) do
      assert.same({ true, "key" }, { one:call(given, "get", { key = "key" }) })
    end
    support.raises("node_id must be a non-empty string, got a table", one.call, one, {}, "get")
  end)

  it("does not close an older node twice at the end of its scope", function()
    if _VERSION == "Lua 5.4" then
      local one = support.scoped(function()
        local made = node("n1")
        assert(made:start())
        return made
      end)
      assert.equal("stopped", one:status().state)
    end
  end)

  it("in a call of an engine's node is raised at its line", function()
    local engine = alone()
    raise_here(with_a_dot(engine, {
      "initialize", "start", "stop", "close", "get_stats", "get_active_nodes", "get_shard_for_key", "get_target_node",
      "get_replicas", "route_request", "forward_data", "fetch_data", "handle", "call", "broadcast", "poll",
      "rebalance_shards",
    }))
    raise_here({
      ["get_target_node: key must be a string, got a number"] = function()
        engine:get_target_node(600519)
      end,
      ["forward_data: a message must be a table with a type"] = function()
        engine:forward_data({ type = "metric_data" }, "n1")
      end,
      ["handle: the handler must be a function or nil, got a string"] = function()
        engine:handle("get", "handler")
      end,
      ['handle: "get" has no handler'] = function()
        engine:handle("get")
      end,
    })
  end)

  it("in the configuration of an engine's node names the option", function()
    for message, config in pairs({
      ["the configuration must be a table, got a string"] = "n1",
      ['port must be a port, an integer from 0 to 65535, got a string "http"'] = { port = "http" },
      ["data_port must be a port, an integer from 0 to 65535, got 70000"] = { data_port = 70000 },
      ["host must be a string, got 127"] = { host = 127 },
      ["cluster_name must be a string, got 5"] = { cluster_name = 5 },
      ["time_partition_s must be a positive number of seconds, got 0"] = { time_partition_s = 0 },
      ["receive_shard must be a function, got a string"] = { receive_shard = "copy" },
      ["cluster_options must be a table, got a string"] = { cluster_options = "fast" },
      ["virtual_nodes must be an integer from 1 to 10000, got a string"] = { virtual_nodes_per_physical = "x" },
    }) do
      raise_here({ [message] = function()
        HighAvailabilityCluster:new(config)
      end })
    end
    local engine = keep(HighAvailabilityCluster:new({ node_id = "n1", host = "::1", port = "6379", data_port = "0" }))
    assert(engine:start())
    assert.equal(6379, engine:get_active_nodes()[1].port)
  end)

  it("in a call of a manager is raised at its line", function()
    local manager = managers.manager()
    raise_here(with_a_dot(manager, {
      "init", "store_data", "read_data", "get_consistent_node", "get_cluster_info", "get_healthy_client", "get_node",
      "monitor_health", "reload_config", "poll", "next_alert", "cleanup",
    }))
    manager:init()
    raise_here({
      ["store_data: options must be a table, got a string"] = function()
        manager:store_data("key", "value", "consistent")
      end,
      ["read_data: options must be a table, got a boolean"] = function()
        manager:read_data("key", true)
      end,
      ["kv_put: a table has both names and list items"] = function()
        manager:store_data("key", { 1, a = 2 })
      end,
    })
    manager = production.new()
    manager.config = nil
    support.raises("init: config must be a table of sections, got nil", manager.init, manager)
  end)

  it("is not a configuration that is given to a new manager", function()
    local name = support.name("agent")
    local given = { consul = { simulate = name }, monitoring = { alert_threshold = { node_down_count = 7 } } }
    for _, manager in ipairs({
      production.new(given), production:new(given), production.ConsulManager:new(given),
      production.ConsulManager.new(given),
    }) do
      assert.equal(name, manager.config.consul.simulate)
      assert.same({ 7, 10 }, {
        manager.config.monitoring.alert_threshold.node_down_count, manager.config.consul.timeout,
      })
    end
    assert.is_false(production:new().config.consul.simulate)
    raise_here({
      ["new: the configuration must be a table of sections, got a string"] = function()
        production.new("127.0.0.1:8500")
      end,
      ["new: consul.tiemout is unknown; consul has: "] = function()
        production.new({ consul = { tiemout = 5 } })
      end,
    })
  end)
end)

-- An engine that finds a Consul in its environment is not alone.
if support.simulated then
  it("a node that is alone keeps the data of requests without a handler", function()
    opened = {}
    local engine = alone()
    local function route(operation, data)
      local result = engine:route_request("key", operation, data)
      assert.same({ true, "n1" }, { result.success, result.node_id })
      return result.data
    end
    assert.is_false(engine:route_request("key", "put", 1).success)
    assert(engine:start())
    assert.is_nil(route("get"))
    assert.same({ price = 1 }, route("put", { price = 1 }))
    assert.same({ price = 1 }, route("get"))
    assert.is_nil(engine:route_request("other", "get").data)
    assert.same({ price = 1 }, route("delete"))
    assert.is_nil(route("get"))
    engine:handle("get", function()
      return "mine"
    end)
    assert.equal("mine", route("get"))
    engine:handle("get", nil)
    route("put", 2)
    assert.equal(2, route("get"))
    support.raises("call: name must be a non-empty string, got nil", engine.route_request, engine, "key")
    engine:close()
  end)
end

it("a native module of another version is named", function()
  local loaded = { package.loaded.consul_ffi, package.loaded.consul_native }
  for name, own in pairs({ _internal = {}, _older = { revision = 3 } }) do
    package.loaded.consul_ffi, package.loaded.consul_native = { [name] = own }, nil
    local found, message = pcall(require, "consul_native")
    package.loaded.consul_ffi, package.loaded.consul_native = loaded[1], loaded[2]
    assert.is_false(found)
    assert.matches("consul_ffi.so", message, 1, true)
    assert.matches("are of different versions: install both from one build", message, 1, true)
    assert.matches("start this process again, since a reload of nginx keeps the module", message, 1, true)
  end
  -- Lua modules before revision 4 look here, for revision 3.
  assert.same({ revision = 6 }, loaded[1]._older)
end)
