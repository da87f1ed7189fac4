-- Replicas of values on the nodes of a cluster, whose managers are in one process. None of them polls.
local consul_ffi = require("consul_ffi")
local managers = require("spec.consul_production.support")
local support = require("spec.support")

-- The options of manager i: three replicas; two must answer.
local function options_of(i, options)
  return support.merged({
    cluster = support.merged({
      node_id = "n" .. i, replication_factor = 3, write_quorum = 2, read_quorum = 2, read_timeout = 2,
    }, options and options.cluster),
    consul = options and options.consul,
  })
end

local function is_healthy(made)
  support.sleep_ms(20)
  for _, manager in ipairs(made) do
    local health = manager:monitor_health()
    local reasons = health.reasons
    if reasons.replicas or reasons.not_ready or health.node_count ~= #made then
      return false
    end
  end
  return true
end

-- Managers of one cluster with these options, once replicas have their places.
local function cluster(count, options)
  local made, prefix = {}, nil
  for i = 1, count do
    made[i], prefix = managers.started(options_of(i, options), prefix)
  end
  support.eventually(function()
    return is_healthy(made)
  end)
  return made, prefix
end

local function sorted(list)
  table.sort(list)
  return table.concat(list, " ")
end

describe("replicas", function()
  after_each(managers.close)

  it("F4 need no poll, are on the nodes of their key, and Consul lists these nodes", function()
    local made, prefix = cluster(3)
    for i = 1, 9 do
      local success, outcome = made[i % 3 + 1]:store_data("key" .. i, { price = i })
      assert.is_true(success, outcome)
      assert.equal("n1 n2 n3", sorted(outcome.nodes))
    end
    local _, listed = made[1]:get_healthy_client():kv_keys(prefix .. "/data/key1/replicas/")
    local expected = {}
    for i = 1, 3 do
      expected[i] = prefix .. "/data/key1/replicas/n" .. i
    end
    assert.equal(sorted(expected), sorted(listed))
    assert.same({ price = 1 }, (made[2]:read_data("key1")))
    local health = made[1]:monitor_health()
    assert.is_true(health.is_healthy, table.concat(health.issues, "; "))
  end)

  it("have keys of their own, which are refused for values", function()
    local manager = managers.started()
    local success, message, err = manager:store_data("stocks/replicas/count", 17)
    assert.is_false(success)
    assert.equal("argument", err.kind)
    assert.matches('has "/replicas/"', message, 1, true)
  end)

  it("are as many as the configuration says, or none, whatever a call says", function()
    local made = cluster(3)
    local success, outcome = made[1]:store_data("key", 1, { replication_factor = 2 })
    assert.is_true(success, outcome)
    assert.equal(3, #outcome.nodes)
    assert.equal("cluster.replication_factor is 3, and each value has as many replicas", outcome.not_in_force)
    assert.is_nil(select(2, assert(made[1]:store_data("key", 1, { replication_factor = 3 }))).not_in_force)
    assert.same({ nodes = {} }, select(2, assert(made[1]:store_data("other", 1, { replication_factor = 1 }))))
  end)

  it("do not exist with replication_factor 1, and store_data reports that", function()
    local manager, prefix = managers.started()
    local _, outcome = assert(manager:store_data("key", 1, { replication_factor = 3 }))
    assert.same({ nodes = {},
      not_in_force = "cluster.replication_factor is 1, so values are stored in Consul only" }, outcome)
    assert.same({}, (select(2, manager:get_healthy_client():kv_keys(prefix .. "/data/key/replicas/"))))
  end)

  it("have quorums that meet: others are raised to a majority, which init says", function()
    local manager = managers.manager({ cluster = { replication_factor = 5, write_quorum = 2 } })
    local _, outcome = manager:init()
    assert.same({ ["cluster.write_quorum"] = "it is 3, so that each read meets each write" }, outcome.not_in_force)
    for _, quorums in ipairs({ { 5, 1 }, { 1, 5 }, { 3, 3 } }) do
      local new = { cluster = { replication_factor = 5, write_quorum = quorums[1], read_quorum = quorums[2] } }
      assert.same({}, select(2, assert(manager:reload_config(new))).not_in_force)
    end
  end)

  it("are at most 16", function()
    local manager = managers.manager({ cluster = { replication_factor = 17 } })
    local initialised, message = pcall(manager.init, manager)
    assert.is_false(initialised)
    assert.matches("cluster.replication_factor is 17: at most 16", message, 1, true)
  end)

  it("start and end with a change of the configuration", function()
    local made = cluster(2, { cluster = { replication_factor = 1, write_quorum = 1, read_quorum = 1 } })
    for _, manager in ipairs(made) do
      assert(manager:reload_config({ cluster = { replication_factor = 2 } }))
    end
    support.eventually(function()
      return is_healthy(made)
    end)
    assert.equal(2, #select(2, assert(made[1]:store_data("key", 1))).nodes)
    assert(made[1]:reload_config({ cluster = { replication_factor = 1 } }))
    assert.same({}, select(2, assert(made[1]:store_data("key", 1))).nodes)
    assert.is_nil(made[1]:monitor_health().reasons.replicas)
  end)

  it("F4 are not written with fewer nodes than write_quorum, and the health says so", function()
    local manager = managers.started(options_of(1, { cluster = { write_timeout = 0.3 } }))
    assert.matches("^no node has replicas yet: ", manager:monitor_health().reasons.replicas)
    local success, message, err = manager:store_data("key", 1)
    assert.equal("not_ready", support.kind(success, message, err))
    assert.is_true(err.maybe_applied)
    assert.matches("stored in Consul, but not on enough nodes: ", message, 1, true)
    assert.equal(1, (manager:read_data("key")))
  end)

  it("survive a node, and those of a whole cluster that was started again are written", function()
    local made, prefix = cluster(3)
    assert(made[1]:store_data("key", "first"))
    made[3]:get_node():close()
    assert(made[1]:store_data("key", "second"))
    for i = 1, 3 do
      made[i]:cleanup()
    end
    for i = 1, 3 do
      made[i] = managers.started(options_of(i), prefix)
    end
    support.eventually(function()
      return made[2]:store_data("key", "third")
    end)
    assert.equal("third", (made[1]:read_data("key")))
  end)

  it("are written again after more nodes than tolerated were started again, one right after the other", function()
    local made, prefix = cluster(3)
    assert(made[1]:store_data("key", "first"))
    for i = 2, 3 do
      made[i]:cleanup()
      made[i] = managers.started(options_of(i), prefix)
    end
    support.eventually(function()
      return made[2]:store_data("key", "second")
    end)
    support.eventually(function()
      return is_healthy(made)
    end)
  end)

  it("are read from each node while Consul is unreachable", function()
    local agent = support.name("away")
    local sim = consul_ffi.simulator(agent)
    local made = cluster(3, { cluster = { read_timeout = 0.5 }, consul = { simulate = agent } })
    local values = { text = "text", bytes = "\0\255\r\n", number = 2.5, table = { price = 1 }, flag = false }
    for name, value in pairs(values) do
      assert(made[1]:store_data(name, "older"))
      assert(made[2]:store_data(name, value))
    end
    support.eventually(function()
      return is_healthy(made)
    end)
    sim:fault({ partition = true })
    local reader = 0
    for name, value in pairs(values) do
      reader = reader % 3 + 1
      local read, outcome
      support.eventually(function()
        read, outcome = made[reader]:read_data(name)
        return type(outcome) == "table"
      end)
      assert.same(value, read)
      assert.equal("n1 n2 n3", sorted(outcome.nodes))
    end
    local value, message, err = made[3]:read_data("missing")
    assert.is_nil(value)
    assert.equal("timeout", err.kind)
    assert.is_string(message)
    sim:clear_faults()
  end)

  -- The changes of a key in Consul, and its value then.
  local changes = {
    ["delete_data of the same node"] = function(made, key)
      assert.equal("n1 n2 n3", sorted(select(2, assert(made[1]:delete_data(key))).nodes))
    end,
    ["delete_data of another node"] = function(made, key)
      assert(made[3]:delete_data(key))
    end,
    ["a deletion by another program, which a node has read"] = function(made, key, full)
      assert(made[3]:get_healthy_client():kv_delete(full))
      assert.equal("not_found", select(3, made[1]:read_data(key)).kind)
    end,
    ["a value of another program, which a node has read"] = function(made, key, full)
      assert(made[3]:get_healthy_client():kv_put(full, "changed"))
      assert.equal("changed", (made[1]:read_data(key)))
      return "changed"
    end,
    ["a deletion and a new value"] = function(made, key)
      assert(made[1]:delete_data(key))
      assert(made[3]:store_data(key, "new"))
      return "new"
    end,
    ["a new value and a deletion"] = function(made, key)
      assert(made[3]:store_data(key, "new"))
      assert(made[1]:delete_data(key))
    end,
    ["a deletion of a key that was deleted"] = function(made, key)
      assert(made[3]:delete_data(key))
      assert(made[1]:delete_data(key))
    end,
    ["two deletions by another program, which a node has read, and a value between them"] = function(made, key, full)
      local client = made[2]:get_healthy_client()
      for _ = 1, 2 do
        assert(made[3]:store_data(key, "between"))
        assert(client:kv_delete(full))
        assert.equal("not_found", select(3, made[1]:read_data(key)).kind)
      end
    end,
    nothing = function()
      return "old"
    end,
  }

  it("are what Consul had last, whatever changed it, but for a Consul that has lost its data", function()
    local agent = support.name("changed")
    local sim = consul_ffi.simulator(agent)
    local made, prefix = cluster(3, { cluster = { read_timeout = 0.5 }, consul = { simulate = agent } })
    local function assert_kept(what, wanted)
      for _, manager in ipairs(made) do
        local value, outcome, err
        support.eventually(function()
          value, outcome, err = manager:read_data(what)
          return value or err.kind == "not_found"
        end)
        assert.equal(wanted, value, what)
        assert.matches("no answer from", wanted and outcome.without_consul or outcome, 1, true)
      end
    end
    local all = {}
    for what, change in pairs(changes) do
      assert(made[1]:store_data(what, "old"))
      assert.equal("old", (made[2]:read_data(what)))
      all[what] = { wanted = change(made, what, prefix .. "/data/" .. what) }
    end
    -- Nodes that are cut off from Consul do not learn that a check passes again, which failed on a busy machine.
    support.eventually(function()
      sim:clear_faults()
      support.eventually(function()
        return is_healthy(made)
      end)
      sim:fault({ partition = true })
      for _, manager in ipairs(made) do
        if manager:monitor_health().node_count ~= #made then
          return false
        end
      end
      return true
    end)
    for what, expected in pairs(all) do
      assert_kept(what, expected.wanted)
    end
    sim:clear_faults()
    for what, expected in pairs(all) do
      assert.equal(expected.wanted, (made[2]:read_data(what)), what)
    end
    -- Its index is soon higher than the copies' indexes, and the nodes have not yet put back what they know.
    sim:restart({ wipe = true })
    local client = made[1]:get_healthy_client()
    for i = 1, 500 do
      assert(client:kv_put(prefix .. "/other", tostring(i)))
    end
    for _, manager in ipairs(made) do
      assert.equal("not_found", select(3, manager:read_data("nothing")).kind)
    end
    local copy
    support.eventually(function()
      copy = made[3].session.replicas:read(prefix .. "/data/nothing", 500)
      return copy
    end)
    assert.equal("old", copy.bytes)
  end)

  it("written after a data loss are newer than those before it, whose index was higher", function()
    local epoch, records = 1, {}
    local node = {
      get_live_nodes = function()
        return { "n1", "n2" }
      end,
      status = function()
        return { map_epoch = epoch }
      end,
      replicate = function()
        return {
          status = function()
            return true, {}
          end,
          write = function(_, _, written)
            records[written[1].id] = written[1].data
            return true
          end,
          read = function()
            local id
            return function()
              local data
              id, data = next(records, id)
              return data and { data = data }
            end
          end,
        }
      end,
    }
    local values = {
      ["cluster.replication_factor"] = 3, ["cluster.write_quorum"] = 2, ["cluster.read_quorum"] = 2,
      ["storage.metadata_prefix"] = "cluster/",
    }
    local opened = assert(require("consul_production.replicas").open(nil, node, values))
    local function store(writer, bytes, index)
      node.node_id = writer
      assert(opened:write({ key = "key", bytes = bytes, flags = 0, index = index }, 1000))
      return opened:read("key").bytes
    end
    assert.equal("second", store("n2", "second", 20))
    assert.equal("second", store("n1", "first, delivered late", 10))
    epoch = 2
    assert.equal("third", store("n2", "third", 30))
    epoch = 1
    assert.equal("fourth, by an older map", store("n1", "fourth, by an older map", 40))
    epoch = 1002
    assert.equal("after the data loss", store("n2", "after the data loss", 3))
  end)
end)
