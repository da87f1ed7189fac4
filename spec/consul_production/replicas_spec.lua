-- Copies of values on the nodes: managers that are three nodes of a cluster in one process.
local consul_ffi = require("consul_ffi")
local managers = require("spec.consul_production.support")
local replicas = require("consul_production.replicas")
local support = require("spec.support")

-- Managers of one cluster with these options, when each of them knows that all live.
local function cluster(count, options)
  local made, prefix = {}, nil
  for i = 1, count do
    local all = { cluster = { node_id = "n" .. i, replication_factor = 3, write_timeout = 2, read_timeout = 2 } }
    for section, values in pairs(options or {}) do
      all[section] = all[section] or {}
      for name, value in pairs(values) do
        all[section][name] = value
      end
    end
    made[i], prefix = managers.started(all, prefix)
  end
  support.eventually(function()
    for _, manager in ipairs(made) do
      if #manager:get_node():get_live_nodes() ~= count then
        return false
      end
    end
    return true
  end)
  return made, prefix
end

local function sorted(list)
  table.sort(list)
  return table.concat(list, " ")
end

describe("replicas", function()
  after_each(managers.close)

  it("stand on the nodes of their key, and Consul says on which", function()
    local made, prefix = cluster(3, { cluster = { write_quorum = 3 } })
    local success, outcome = made[1]:store_data("key", { price = 1 })
    assert.is_true(success, outcome)
    assert.same({ "n1 n2 n3", "" }, { sorted(outcome.acknowledged), sorted(outcome.missing) })
    local _, notes = made[1]:get_healthy_client():kv_keys(prefix .. "/data/key/replicas/")
    local expected = {}
    for i = 1, 3 do
      expected[i] = prefix .. "/data/key/replicas/n" .. i
    end
    assert.equal(sorted(expected), sorted(notes))
    assert.same({ price = 1 }, (made[2]:read_data("key")))
  end)

  it("are as many as a call says", function()
    local made, prefix = cluster(3)
    local success, outcome = made[1]:store_data("key", 1, { replication_factor = 2 })
    assert.is_true(success, outcome)
    assert.equal(2, #outcome.acknowledged)
    assert.equal(2, #select(2, made[1]:get_healthy_client():kv_keys(prefix .. "/data/key/replicas/")))
  end)

  it("are none with replication_factor 1, which is said and not pretended", function()
    local manager, prefix = managers.started()
    local _, outcome = assert(manager:store_data("key", 1, { replication_factor = 3 }))
    assert.same({ acknowledged = {}, missing = {},
      not_in_force = "cluster.replication_factor is 1, so Consul alone has the values" }, outcome)
    assert.same({}, (select(2, manager:get_healthy_client():kv_keys(prefix .. "/data/key/replicas/"))))
  end)

  it("come and go with the configuration", function()
    local agent = support.name("coming")
    local sim = consul_ffi.simulator(agent, { clock = "manual" })
    local manager = managers.started({ consul = { simulate = agent } })
    for factor, copies in ipairs({ 0, 1 }) do
      assert(manager:reload_config({ cluster = { replication_factor = factor } }))
      assert.equal(copies, #select(2, assert(manager:store_data("key", 1))).acknowledged)
    end
    assert(manager:reload_config({ cluster = { replication_factor = 1 } }))
    assert.same({}, select(2, assert(manager:store_data("key", 1))).acknowledged)
    -- Nobody asks it, so it need not poll.
    sim:advance(10)
    assert.is_nil(manager:monitor_health().reasons.host_not_polling)
  end)

  describe("with a node that has no copies", function()
    local made, prefix

    -- The third node is another program's, which answers no manager.
    local function with(options)
      made, prefix = cluster(2, options)
      local third = consul_ffi.ConsulHACluster:new({
        node_id = "n3",
        node_address = "a:1",
        simulate = support.simulated,
        nodes_prefix = prefix .. "/cluster/nodes/",
        leader_key = prefix .. "/cluster/leader",
      })
      assert(third:start())
      managers.keep(third)
      support.eventually(function()
        return #made[1]:get_node():get_live_nodes() == 3
      end)
    end

    it("are enough when write_quorum nodes have acknowledged", function()
      with({ cluster = { write_quorum = 2 } })
      local success, outcome = made[1]:store_data("key", 1)
      assert.is_true(success, outcome)
      assert.same({ "n1 n2", "n3" }, { sorted(outcome.acknowledged), sorted(outcome.missing) })
      assert.equal(2, #select(2, made[1]:get_healthy_client():kv_keys(prefix .. "/data/key/replicas/")))
    end)

    it("are not enough when fewer have, and the message names who did not answer", function()
      with({ cluster = { write_quorum = 3 } })
      local success, message, err = made[1]:store_data("key", 1)
      assert.equal("timeout", support.kind(success, message, err))
      assert.is_true(err.maybe_applied)
      assert.matches("stored in Consul, but not on enough nodes: ", message, 1, true)
      assert.matches("2 of 3 nodes answered, and the quorum is 3; no answer from n3 (", message, 1, true)
      assert.equal(1, (made[1]:read_data("key")))
    end)
  end)

  it("are read while Consul is away, and say whether all nodes answered", function()
    local agent = support.name("away")
    local sim = consul_ffi.simulator(agent)
    local made = cluster(3, {
      cluster = { write_quorum = 2, read_quorum = 2, read_timeout = 0.2 }, consul = { simulate = agent },
    })
    local values = { text = "text", bytes = "\0\255\r\n", number = 2.5, table = { price = 1 }, flag = false }
    for name, value in pairs(values) do
      assert(made[1]:store_data(name, "older"))
      assert(made[2]:store_data(name, value))
    end
    sim:fault({ partition = true })
    for name, value in pairs(values) do
      local read, outcome = made[3]:read_data(name)
      assert.same(value, read)
      assert.is_true(outcome.complete)
      assert.equal("n1 n2 n3", sorted(outcome.answered))
    end
    local value, message, err = made[3]:read_data("missing")
    assert.is_nil(value)
    assert.equal("timeout", err.kind)
    assert.is_string(message)
    sim:clear_faults()
  end)

  it("make a node poll, whose health says so when it does not", function()
    local agent = support.name("polling")
    local sim = consul_ffi.simulator(agent, { clock = "manual" })
    local manager = managers.started({ consul = { simulate = agent }, cluster = { replication_factor = 2 } })
    assert.is_true(manager:monitor_health().is_healthy)
    sim:advance(10)
    assert.is_string(manager:monitor_health().reasons.host_not_polling)
    assert.equal("host_not_polling", manager:next_alert().reason)
    manager:poll()
    assert.is_nil(manager:monitor_health().reasons.host_not_polling)
    assert.equal("cleared", manager:next_alert().state)
  end)

  it("of a wiped Consul are newer than those before, whose index was higher", function()
    local epoch, handlers = 1, {}
    local node = {
      handle = function(_, name, handler)
        handlers[name] = handler
      end,
      status = function()
        return { map_epoch = epoch }
      end,
      get_replica_nodes = function()
        return { { id = "n1" } }
      end,
      broadcast = function(_, name, body)
        return true, { n1 = { success = true, data = handlers[name](body) } }
      end,
    }
    replicas.new():serve(node)
    local function store(bytes, index)
      assert(replicas.write(node, { key = "key", bytes = bytes, flags = 0, index = index }, 1, {}))
      return replicas.read(node, "key", 1, {}).bytes
    end
    assert.equal("second", store("second", 20))
    assert.equal("second", store("first, late", 10))
    epoch = 1002
    assert.equal("after the wipe", store("after the wipe", 3))
  end)
end)
