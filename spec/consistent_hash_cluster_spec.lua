-- The TSDB's older module: nodes that route requests to each other. docs/data.md describes it.
local consistent_hash_cluster = require("consistent_hash_cluster")
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

local HighAvailabilityCluster = consistent_hash_cluster.HighAvailabilityCluster

-- Nodes on the Consul under test, and the name of their cluster.
local opened, cluster_name

-- A node that is not started, with the options that the old engine passed.
local function node(id, config)
  local made = HighAvailabilityCluster:new(support.merged({
    node_id = id,
    host = "127.0.0.1",
    port = 6000 + #opened,
    cluster_port = 7000 + #opened,
    gossip_port = 8000 + #opened,
    cluster_name = cluster_name,
    seed_nodes = { "127.0.0.1:7000" },
    consul_endpoints = { os.getenv("CONSUL_HTTP_ADDR") or "127.0.0.1:8500" },
    simulate = support.simulated,
    cluster_options = { profile = "fast" },
    block_size = 30,
  }, config))
  opened[#opened + 1] = made
  return made
end

-- Starts the nodes n1 to n`count`, and waits until they have the same map.
local function started(count, config)
  local nodes = {}
  for i = 1, count do
    nodes[i] = node("n" .. i, config)
    assert(nodes[i]:start())
  end
  support.eventually(function()
    local version = nodes[1].metadata.version
    for _, one in ipairs(nodes) do
      one:poll(10)
      if one.metadata.version ~= version or #one.local_node.shards == 0 then
        return false
      end
    end
    return #nodes[1]:get_active_nodes() == count
  end)
  return nodes
end

-- A key that a node owns.
local function key_of(one, id)
  for i = 1, 1000 do
    if one:get_target_node("key " .. i) == id then
      return "key " .. i
    end
  end
end

describe("consistent_hash_cluster", function()
  before_each(function()
    opened, cluster_name = {}, support.name("hash-cluster")
  end)

  after_each(function()
    support.clean_up(opened, "tsdb/" .. cluster_name)
  end)

  it("does not ignore the options that protect the calls between nodes", function()
    for _, config in ipairs({ { cluster_key = "short" }, { data_tls = {} }, { encrypt_traffic = true } }) do
      assert.has_error(function()
        node("n1", config)
      end)
    end
  end)

  it("exports the ring and the cluster #smoke", function()
    assert.equal(consul_ffi.ConsistentHashRing, consistent_hash_cluster.ConsistentHashRing)
    assert.is_function(HighAvailabilityCluster.new)
  end)

  it("starts one node, which owns all shards #smoke", function()
    local one = node("n1", { capacity = 500, virtual_nodes_per_physical = 100, replication_factor = 1 })
    assert.same({ false, "starting" }, { one.is_running, one.local_node.status })
    assert.is_true(one:initialize())
    assert.is_false(one.is_running)
    assert.is_true(one:start())
    assert.is_true(one.is_running)
    assert.is_true(one.is_leader)
    local me = one.local_node
    assert.same({ "n1", "127.0.0.1", 6000, 7000, "running", "leader", 1024, 1024, 500 }, {
      me.id, me.host, me.port, me.cluster_port, me.status, me.role, #me.shards, me.load, me.capacity,
    })
    local metadata = one.metadata
    assert.same({ 1024, 1 }, { metadata.total_shards, metadata.nodes_count })
    assert.is_true(metadata.version >= 1)
    local ring = one.hash_ring
    assert.equal(100, ring.virtual_nodes)
    assert.equal("n1", (ring:get_node("key")))
    assert.equal("n1", one.data_shards[0][1].id)
    assert.is_true(one:stop())
    assert.same({ false, "stopped" }, { one.is_running, one.local_node.status })
    assert.is_true(one:start())
    assert.is_true(one:close())
    assert.is_false(one.is_running)
  end)

  it("is created with a colon and with a dot", function()
    local config = { node_id = "n1" }
    assert.equal("n1", HighAvailabilityCluster:new(config).node_id)
    assert.equal("n1", HighAvailabilityCluster.new(config).node_id)
    assert.matches("^node_%d+_%x+$", HighAvailabilityCluster:new().node_id)
    for given, wanted in pairs({
      [{ node_id = "n1", cluster_key = "short" }] = "cluster_key is too short",
      [{ receive_shard = print }] = "node_id is required with receive_shard",
    }) do
      local message = support.raises("HighAvailabilityCluster: " .. wanted, function()
        HighAvailabilityCluster:new(given)
      end)
      assert.matches("consistent_hash_cluster_spec.lua:%d+: ", message)
    end
  end)

  it("knows the name of each option that it reads, for its warnings", function()
    local advice = io.open("lua/consistent_hash_cluster/advice.lua"):read("*a")
    local own = advice:match("local OWN = (%b{})")
    for name in io.open("lua/consistent_hash_cluster.lua"):read("*a"):gmatch("config%.([%w_]+)") do
      assert.is_truthy(own:find('"' .. name .. '"', 1, true), name)
    end
  end)

  it("has no address without a port", function()
    assert.equal("", HighAvailabilityCluster:new({ node_id = "n1" }).node.node_address)
    assert.equal("127.0.0.1:6000", HighAvailabilityCluster:new({ node_id = "n1", port = 6000 }).node.node_address)
  end)

  it("refuses a handler that is left out", function()
    local one = node("n1")
    support.raises('handle: "x" has no handler: a function is required', one.handle, one, "x")
    support.raises("the handler must be a function or nil", one.node.handle, one.node, "x", "y")
    assert.is_true(one:handle("x", print))
    assert.is_true(one:handle("x", nil))
  end)

  it("has the configured role unless it contradicts the fact", function()
    assert.equal("storage", node("n1", { role = "storage" }).local_node.role)
    local one = node("n2", { role = "follower" })
    assert.equal("follower", node("n3", { role = "leader" }).local_node.role)
    assert(one:start())
    assert.same({ true, "leader" }, { one.is_leader, one.local_node.role })
  end)

  it("places keys alike on each node #smoke", function()
    local nodes = started(3)
    for _, key in ipairs({ "cpu.load", "600519", "", "\0\255" }) do
      local shard, owner = nodes[1]:get_shard_for_key(key)
      assert.is_true(shard >= 0 and shard <= 1023)
      for _, one in ipairs(nodes) do
        assert.equal(owner, one:get_target_node(key))
        -- Without time_partition_s the owner does not depend on the time.
        assert.equal(owner, one:get_target_node(key, 1700000000))
      end
    end
    local active = nodes[2]:get_active_nodes()
    table.sort(active, function(a, b)
      return a.id < b.id
    end)
    assert.equal("n1 n2 n3", active[1] .. " " .. active[2] .. " " .. active[3])
    assert.equal("127.0.0.1:6000", active[1].address)
  end)

  it("places keys by time too with time_partition_s", function()
    local nodes = started(3, { time_partition_s = 30 })
    local owners = {}
    for block = 0, 50 do
      local owner = nodes[1]:get_target_node("cpu.load", block * 30)
      assert.equal(owner, nodes[2]:get_target_node("cpu.load", block * 30 + 29.5))
      owners[owner] = true
    end
    assert.is_true(owners.n1 and owners.n2 and owners.n3)
  end)

  it("assigns shards to nodes in proportion to their capacity", function()
    node("n1", { capacity = 3000, replication_factor = 1 })
    node("n2", { capacity = 1000, replication_factor = 1 })
    for _, one in ipairs(opened) do
      assert(one:start())
    end
    support.eventually(function()
      opened[1]:poll(10)
      return opened[1].local_node.load == 768
    end)
  end)

  it("routes a request to the node that owns its key #smoke", function()
    local nodes = started(2)
    for i, one in ipairs(nodes) do
      one:handle("append", function(data, request)
        return { text = request.key .. data.text, by = i, from = request.from }
      end)
    end
    for _, id in ipairs({ "n1", "n2" }) do
      local key = key_of(nodes[1], id)
      local reply = { text = key .. "!", by = tonumber(id:sub(2)), from = "n1" }
      assert.same({ success = true, node_id = id, data = reply },
        nodes[1]:route_request(key, "append", { text = "!" }))
    end
  end)

  it("returns the error of a failed request", function()
    local nodes = started(2)
    nodes[2]:handle("refuse", function()
      return nil, "not today"
    end)
    nodes[2]:handle("break", function()
      error("a bug")
    end)
    local key = key_of(nodes[1], "n2")
    for operation, why in pairs({ refuse = "not today", ["break"] = "a bug", unknown = "unknown" }) do
      local answer = nodes[1]:route_request(key, operation, {})
      assert.is_false(answer.success)
      assert.equal("n2", answer.node_id)
      assert.matches(why, answer.error, 1, true)
      assert.is_nil(answer.data)
    end
  end)

  it("cannot route a request before it has started", function()
    local answer = node("n1"):route_request("key", "get", {})
    assert.same({ success = false, error = "the node has not joined its cluster: it was not started" }, answer)
  end)

  it("carries messages and queries between nodes #smoke", function()
    local nodes = started(2)
    local kept = {}
    for _, type in ipairs({ "metric_data", "stock_data" }) do
      nodes[2]:handle(type, function(message)
        kept[#kept + 1] = message
        return #kept
      end)
    end
    for _, type in ipairs({ "metric_query", "stock_query" }) do
      nodes[2]:handle(type, function(query)
        assert.same({ 0, 100 }, { query.start_time, query.end_time })
        return kept
      end)
    end
    local messages = {
      { type = "metric_data", metric_name = "cpu", timestamp = 10, value = 0.5, tags = { host = "a" } },
      { type = "stock_data", stock_code = "600519", timestamp = 20, data = { price = 1700.5 }, market = "SH" },
    }
    assert.same({ true, 1 }, { nodes[1]:forward_data("n2", messages[1]) })
    assert.same({ true, 2 }, { nodes[1]:forward_data("n2", messages[2]) })
    for _, query in ipairs({
      { type = "metric_query", metric_name = "cpu", start_time = 0, end_time = 100 },
      { type = "stock_query", stock_code = "600519", start_time = 0, end_time = 100 },
    }) do
      local success, rows = nodes[1]:fetch_data("n2", query)
      assert.is_true(success)
      assert.same(messages, rows)
    end
    -- Also to itself.
    nodes[1]:handle("metric_query", function()
      return { "mine" }
    end)
    assert.same({ true, { "mine" } }, { nodes[1]:fetch_data("n1", { type = "metric_query" }) })
    local stats = nodes[1]:get_stats()
    assert.same({ "n1", true, 2, 2, 1024, 1024, 5, 0, 1 }, {
      stats.node_id, stats.is_running, stats.nodes_count, stats.active_nodes, stats.total_shards,
      stats.local_shards, stats.forwarded, stats.failed, stats.served,
    })
    assert.equal(stats.is_leader and "leader" or "follower", stats.state)
    assert.equal(4, nodes[2]:get_stats().served)
  end)

  it("returns false and a message for an unknown node", function()
    local nodes = started(1)
    local success, message = nodes[1]:forward_data("n9", { type = "metric_data" })
    assert.is_false(success)
    assert.matches("n9", message, 1, true)
    success, message = nodes[1]:fetch_data("n9", { type = "metric_query" })
    assert.is_false(success)
    assert.matches("n9", message, 1, true)
    assert.equal(2, nodes[1]:get_stats().failed)
  end)

  it("raises for a message without a type", function()
    local one = node("n1")
    for _, message in ipairs({ {}, "text", 1 }) do
      assert.error_matches(function()
        one:forward_data("n2", message)
      end, "a message must be a table with a type")
    end
  end)

  it("refuses to serve other hosts without a cluster_key", function()
    local started_it, message = node("n1", { host = "192.0.2.1", data_port = 7100, simulate = false }):start()
    assert.is_false(started_it)
    assert.matches("cluster_key", message, 1, true)
  end)

  it("has available shards at once without receive_shard", function()
    local nodes = started(2)
    assert.same({ true, { received = 0 } }, { nodes[2]:rebalance_shards() })
    for _, replicas in pairs(nodes[1].data_shards) do
      assert.same({ "available", "available" }, { replicas[1].state, replicas[2].state })
    end
  end)

  it("makes a shard available on a new node once its data are there", function()
    local copied, ready = {}, false
    local function receive_shard(shard, source)
      copied[shard] = source
      if not ready then
        return false, "the disk is full"
      end
      return true
    end
    local nodes = started(2, { receive_shard = receive_shard })
    local function states()
      local replicas = nodes[2]:get_replicas("key")
      return replicas[1] .. " " .. replicas[1].state, replicas[2] .. " " .. replicas[2].state
    end
    assert.same({ "n1 available", "n2 initializing" }, { states() })
    assert.equal("n1", nodes[2]:get_replicas("key")[2].source)
    assert.equal("n1", nodes[2]:get_target_node("key"))
    local success, message = nodes[2]:rebalance_shards()
    assert.is_false(success)
    assert.matches("1024 shards wait for their data: shard 0 from n1: the disk is full", message, 1, true)
    -- After the first failure n1 is not asked for the other shards.
    assert.same({ [0] = "n1" }, copied)
    assert.same({ "n1 available", "n2 initializing" }, { states() })
    ready = true
    assert.same({ true, { received = 1024 } }, { nodes[2]:rebalance_shards() })
    support.eventually(function()
      nodes[2]:poll(10)
      local one, other = states()
      return one:match(" available") and other:match(" available")
    end)
    assert.same({ true, { received = 0 } }, { nodes[2]:rebalance_shards() })
  end)
end)
