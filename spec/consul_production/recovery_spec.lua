-- A manager recovers from Consul's restarts, data losses and outages within 10 s, without any call.
local consul_ffi = require("consul_ffi")
local health = require("consul_production.health")
local managers = require("spec.consul_production.support")
local support = require("spec.support")

local BACK_S = 10

describe("a manager", function()
  local sim, manager, prefix, keys

  before_each(function()
    local agent = support.name("recovery")
    sim = consul_ffi.simulator(agent, { clock = "manual" })
    keys = support.name("config") .. "/"
    local client = consul_ffi.new({ simulate = agent })
    assert(client:kv_put(keys .. "cluster/read_timeout", "1"))
    client:close()
    manager, prefix = managers.started({
      consul = { simulate = agent },
      cluster = { node_id = "n1", write_timeout = 1 },
      sources = { kv_prefix = keys },
      monitoring = { metrics_enabled = false },
    })
    assert(manager:store_data("before", 1))
    sim:advance(5)
  end)

  after_each(function()
    sim:clear_faults()
    managers.close()
  end)

  local function has_recovered()
    local info = manager:get_cluster_info()
    assert.same({ 1, "n1", true }, { info.node_count, "" .. info.leader_node, info.is_leader })
    assert.equal("", table.concat(health.sorted(manager:monitor_health().reasons), " "))
    assert.is_true(manager:store_data("after", 2))
    assert.equal(2, (manager:read_data("after")))
    assert.equal(1, manager.config.cluster.read_timeout)
  end

  it("recovers after a restart of Consul", function()
    sim:restart()
    sim:advance(BACK_S)
    has_recovered()
    assert.equal(1, (manager:read_data("before")))
  end)

  it("recovers after Consul has lost its sessions", function()
    sim:restart({ lose_sessions = true })
    sim:advance(BACK_S)
    has_recovered()
  end)

  it("recovers after Consul has lost all its data, and keeps its configuration", function()
    sim:restart({ wipe = true })
    sim:advance(BACK_S)
    has_recovered()
    local value, _, err = manager:read_data("before")
    assert.is_nil(value)
    assert.equal("not_found", err.kind)
    assert.equal(prefix .. "/data/", manager.config.storage.kv_prefix)
  end)

  for name, fault in pairs({ ["unreachable"] = "partition", ["without a leader"] = "no_leader" }) do
    it(("fails within its timeouts while Consul is %s for two minutes, then recovers"):format(name), function()
      sim:fault({ [fault] = true })
      for _ = 1, 4 do
        sim:advance(30)
        local begun = sim:now()
        local success, message, err = manager:store_data("during", 1)
        assert.matches("timeout", support.kind(success, message, err):gsub("no_leader", "timeout"))
        local value
        value, message, err = manager:read_data("before")
        assert.is_nil(value)
        assert.equal(message, err.message)
        assert.matches("timeout", (err.kind:gsub("no_leader", "timeout")))
        -- Each takes up to its timeout of a second.
        assert.is_true(sim:now() - begun <= 2.1)
        assert.equal("none", "" .. manager:get_cluster_info().leader_node)
        assert.is_false(manager:monitor_health().is_healthy)
      end
      sim:clear_faults()
      sim:advance(BACK_S)
      has_recovered()
    end)
  end
end)
