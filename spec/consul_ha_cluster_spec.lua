-- Clusters, also by the older module's API. docs/cluster.md describes them.
local consul_ffi = require("consul_ffi")
local consul_ha_cluster = require("consul_ha_cluster")
local support = require("spec.support")

local ConsulHACluster = consul_ffi.ConsulHACluster

-- The nodes of a test, which are closed after it, and the prefix of their keys.
local opened, prefix

-- Returns a node of this test's cluster, not started.
local function node(id, config)
  local address = "127.0.0.1:9" .. ("%03d"):format(#opened)
  opened[#opened + 1] = support.node(prefix, id, support.merged({ node_address = address }, config))
  return opened[#opened]
end

-- Starts the nodes n1 to n`count`.
local function started(count, config)
  local nodes = {}
  for i = 1, count do
    nodes[i] = node("n" .. i, config)
    assert(nodes[i]:start())
  end
  return nodes
end

-- Waits until each node sees all of them live, the same leader, and the same shard map with shards for all.
local function settle(nodes)
  support.eventually(function()
    support.sleep_ms(10)
    local leader, epoch
    for _, one in ipairs(nodes) do
      local info, now = one:get_leader_info(), one:status().map_epoch
      if #one:get_live_nodes() ~= #nodes or not info or not now then
        return false
      end
      leader, epoch = leader or info.node_id, epoch or now
      if info.node_id ~= leader or now ~= epoch or #one:get_shards("n" .. #nodes) == 0 then
        return false
      end
    end
    return true
  end)
end

-- Waits for events of all these names; returns the detail of each by name, true without one.
local function events(of, ...)
  local limit, seen, missing = support.clock() + 10, {}, select("#", ...)
  local wanted = {}
  for _, name in ipairs({ ... }) do
    wanted[name] = true
  end
  while missing > 0 do
    assert(support.clock() < limit, "not within 10 s: " .. table.concat({ ... }, ", "))
    local name, detail = of:next_event(1000)
    if wanted[name] and not seen[name] then
      seen[name], missing = detail or true, missing - 1
    end
  end
  return seen
end

local function ids(nodes)
  local found = {}
  for i, one in ipairs(nodes) do
    found[i] = one.id
  end
  table.sort(found)
  return table.concat(found, " ")
end

describe("consul_ha_cluster", function()
  before_each(function()
    opened, prefix = {}, support.name("cluster")
  end)

  after_each(function()
    support.clean_up(opened, prefix)
  end)

  it("exports the classes by the old names #smoke", function()
    assert.is_function(consul_ha_cluster.ConsulHACluster.new)
    assert.equal(consul_ffi.ConsistentHashRing, consul_ha_cluster.ConsistentHashRing)
  end)

  it("creates a node with a colon, with a dot, by a call and by the module's new", function()
    local config = { node_id = "n1", node_address = "127.0.0.1:9000" }
    for _, made in ipairs({
      ConsulHACluster:new(config),
      ConsulHACluster.new(config),
      ConsulHACluster(config),
      consul_ha_cluster.ConsulHACluster:new(config),
      consul_ha_cluster.ConsulHACluster.new(config),
      consul_ha_cluster.ConsulHACluster(config),
      consul_ha_cluster.new(config),
    }) do
      assert.equal('ConsulHACluster("n1", stopped)', tostring(made))
      assert.same({ "n1", "127.0.0.1:9000" }, { made.node_id, made.node_address })
      local raised = support.raises("anything_else: a ConsulHACluster has no method or field of this name", function()
        return made.anything_else
      end)
      assert.matches("^[^\n]*consul_ha_cluster_spec.lua:%d+: anything_else: ", raised)
    end
  end)

  it("runs the example of the old documentation unchanged #smoke", function()
    local example = consul_ha_cluster.ConsulHACluster:new({
      consul_url = os.getenv("CONSUL_HTTP_ADDR") or "http://127.0.0.1:8500",
      node_id = prefix,
      node_address = "127.0.0.1:9000",
      heartbeat_interval = 5,
      simulate = support.simulated,
    })
    opened[1] = example
    assert.is_true(example:start())
    assert.equal(1, example:get_node_count())
    assert.equal(prefix, (example:get_node_for_key("AAPL")))
    assert.is_true(example:stop())
    local client = support.client()
    assert(client:kv_delete_tree("tsdb/cluster/"))
    client:close()
  end)

  it("takes the old options for keys and times, with leading slashes #smoke", function()
    local old = node("old", {
      leader_key = "/" .. prefix .. "/leader",
      nodes_prefix = "/" .. prefix .. "/nodes/",
      shards_prefix = "/" .. prefix .. "/shards/",
      config_key = "/" .. prefix .. "/config",
      heartbeat_interval = 5,
      lease_ttl = 30,
      min_nodes = 1,
      datacenter = "dc1",
    })
    assert.equal(30, old.profile.session_ttl_s)
    assert.is_true(old:start())
    local client = support.client()
    for _, name in ipairs({ "leader", "nodes/old", "config" }) do
      assert.is_string((select(2, client:kv_get(prefix .. "/" .. name))), name)
    end
    client:close()
  end)

  it("with one node has this node as its leader #smoke", function()
    local one = started(1)[1]
    assert.is_true(one:is_leader_node())
    assert.is_true(one.is_leader)
    assert.equal(1, one:get_node_count())
    assert.equal("n1", ids(one:get_live_nodes()))
    local info = one:get_leader_info()
    assert.equal("n1", info.node_id)
    assert.equal("127.0.0.1:9000", info.address)
    assert.equal(36, #info.session_id)
    assert.is_true(math.abs(os.time() - info.elected_at) < 300)
    assert.is_string(os.date("%c", info.elected_at))
    assert.equal("leader: n1", "leader: " .. info)
    assert.equal("n1", tostring(info))
  end)

  it("with three nodes has three live nodes and one leader on each #smoke", function()
    local nodes = started(3)
    settle(nodes)
    local leaders = 0
    for _, one in ipairs(nodes) do
      assert.equal(3, one:get_node_count())
      assert.equal("n1 n2 n3", ids(one:get_live_nodes()))
      assert.equal("n1", tostring(one:get_leader_info()))
      assert.equal(one.is_leader, one:is_leader_node())
      leaders = leaders + (one.is_leader and 1 or 0)
    end
    assert.equal(1, leaders)
    assert.equal("leader", nodes[1]:status().state)
    assert.equal("follower", nodes[2]:status().state)
  end)

  it("has its current nodes by id in cluster_nodes", function()
    local nodes = started(1, { zone = "a", weight = 2, meta = { rack = "7" } })
    local first = nodes[1].cluster_nodes
    local n1 = first.n1
    assert.same(
      { "n1", "127.0.0.1:9000", "up", "a", 2, "7" },
      { n1.id, n1.address, n1.status, n1.zone, n1.weight, n1.meta.rack }
    )
    assert.is_true(math.abs(os.time() - n1.started_at) < 300)
    assert.equal("n1!", n1 .. "!")
    local second = node("n2")
    assert(second:start())
    support.eventually(function()
      return nodes[1].cluster_nodes.n2
    end)
    assert.is_nil(first.n2)
    assert.is_true(second:stop())
    support.eventually(function()
      return not nodes[1].cluster_nodes.n2
    end)
  end)

  it("places keys alike on each node #smoke", function()
    local nodes = started(3)
    settle(nodes)
    local keys = { "AAPL", "GOOGL", "MSFT", "000001.SZ", "", "\0\255" }
    local owners = nodes[2]:get_nodes_for_keys(keys)
    for i, key in ipairs(keys) do
      local id, owner = nodes[1]:get_node_for_key(key)
      assert.same({ id, id, "up" }, { owner.id, tostring(owner), owner.status })
      assert.equal(owner, nodes[1].cluster_nodes[id])
      assert.equal(id, (nodes[3]:get_node_for_key(key)))
      assert.equal(id, owners[i])
      local replicas = nodes[1]:get_replica_nodes(key)
      assert.equal(2, #replicas)
      assert.equal(id, replicas[1].id)
      assert.are_not.equal(id, replicas[2].id)
      assert.equal(replicas[2].id .. "@" .. replicas[2].address, replicas[2] .. "@" .. replicas[2].address)
      assert.equal(3, #nodes[1]:get_replica_nodes(key, 9))
      assert.same({}, nodes[1]:get_replica_nodes(key, 0))
      local shard, holder = nodes[1]:get_shard_for_key(key)
      assert.is_true(shard >= 0 and shard < 1024 and shard == math.floor(shard))
      assert.equal(id, holder)
    end
  end)

  it("spreads shards evenly, and lists those of a node", function()
    local nodes = started(3, { shards = 90, replicas = 1 })
    settle(nodes)
    local seen, count = {}, 0
    for i = 1, 3 do
      local shards = nodes[1]:get_shards("n" .. i)
      assert.equal(30, #shards)
      for _, shard in ipairs(shards) do
        assert.is_nil(seen[shard])
        seen[shard], count = true, count + 1
      end
    end
    assert.equal(90, count)
    assert.same(nodes[1]:get_shards(), nodes[3]:get_shards("n1"))
    assert.same({}, nodes[1]:get_shards("unknown"))
  end)

  it("lists the replicas of a shard, and a node makes its replica available with shards_ready", function()
    local one = started(1)[1]
    settle({ one })
    local replicas = one:get_shard_replicas(0)
    assert.same({ 1, "n1", "available" }, { #replicas, replicas[1].id, replicas[1].state })
    assert.equal("n1!", replicas[1] .. "!")
    assert.is_nil(replicas[1].source)
    assert.same({}, one:get_shard_replicas(1024))
    assert.error_matches(function()
      one:shards_ready({ 0 })
    end, "hand_off = true")
    local second = node("n2", { hand_off = true })
    assert(second:start())
    support.eventually(function()
      return second:get_shard_replicas(0)[2]
    end)
    local new = second:get_shard_replicas(0)[2]
    assert.same({ "n2", "initializing", "n1" }, { new.id, new.state, new.source })
    assert.is_true(second:shards_ready({ 0, 1 }))
    support.eventually(function()
      local replica = one:get_shard_replicas(0)[2]
      return replica and replica.state == "available"
    end)
    assert.equal("initializing", one:get_shard_replicas(2)[2].state)
    for _, wrong in ipairs({ "0", { "x" }, { -1 } }) do
      assert.is_false(pcall(second.shards_ready, second, wrong) and second:shards_ready(wrong))
    end
  end)

  it("hands the leadership over when the leader stops or calls hand_over #smoke", function()
    local nodes = started(3, { profile = "fast" })
    settle(nodes)
    assert.is_true(nodes[1]:stop())
    assert.is_false(nodes[1]:is_leader_node())
    support.eventually(function()
      return nodes[2].is_leader or nodes[3].is_leader
    end)
    local leader, other = nodes[2], nodes[3]
    if other.is_leader then
      leader, other = other, leader
    end
    support.eventually(function()
      return other:get_leader_info() and other:get_node_count() == 2
    end)
    assert.equal("conflict", support.kind(other:hand_over()))
    assert.is_true(leader:hand_over())
    support.eventually(function()
      return other.is_leader and not leader.is_leader
    end)
    assert.is_number(tonumber(other:token()))
    support.eventually(function()
      return leader:token() == nil
    end)
  end)

  it("reports membership, leadership and shard changes as events #smoke", function()
    local first = node("n1")
    assert.is_nil(first:poll_event())
    assert(first:start())
    local seen = events(first, "node_joined", "leader_changed", "shards_changed")
    assert.same({ "n1", "n1" }, { seen.node_joined, seen.leader_changed })
    assert.is_true(seen.shards_changed >= 1)
    local fd = first:fd()
    assert.is_number(fd)
    assert.equal(fd, first:fd())
    local name
    repeat
      name = first:poll_event()
    until not name
    local second = node("n2")
    assert(second:start())
    if support.readable then
      assert.is_true(support.readable(fd, support.PATIENCE_MS))
    end
    assert.equal("n2", events(first, "node_joined").node_joined)
    assert(second:stop())
    assert.equal("n2", events(first, "node_left").node_left)
    assert(first:stop())
    for _ in first:events() do
      error("an event after the stop")
    end
    assert.equal("closed", support.kind(first:fd()))
  end)

  it("waits for events up to the timeout", function()
    local one = started(1)[1]
    support.eventually(function()
      return one:status().map_epoch
    end)
    local name
    repeat
      name = one:next_event(100)
    until not name
    local begun = support.clock()
    assert.is_nil(one:next_event(200))
    local waited = support.clock() - begun
    assert.is_true(waited >= 0.2 and waited < 10, waited)
  end)

  it("drains a node and takes it back, on the request of any node", function()
    local nodes = started(3)
    settle(nodes)
    assert.is_true(nodes[1]:drain(true, "n3"))
    support.eventually(function()
      return #nodes[2]:get_shards("n3") == 0 and nodes[2].cluster_nodes.n3.status == "draining"
    end)
    assert.is_true(nodes[3]:drain(false))
    support.eventually(function()
      return #nodes[2]:get_shards("n3") > 0 and nodes[2].cluster_nodes.n3.status == "up"
    end)
    assert.equal("not_found", support.kind(nodes[1]:drain(true, "unknown")))
  end)

  it("routes around a node in maintenance, which keeps its shards", function()
    local nodes = started(3)
    settle(nodes)
    local before = #nodes[1]:get_shards("n2")
    assert.is_true(nodes[2]:maintenance(true))
    support.eventually(function()
      return nodes[1].cluster_nodes.n2.status == "maintenance"
    end)
    local keys = {}
    for i = 1, 300 do
      keys[i] = "key " .. i
    end
    for _, id in ipairs(nodes[1]:get_nodes_for_keys(keys)) do
      assert.are_not.equal("n2", id)
    end
    assert.equal(before, #nodes[1]:get_shards("n2"))
    assert.is_true(nodes[2]:maintenance(false))
    support.eventually(function()
      return nodes[1].cluster_nodes.n2.status == "up"
    end)
  end)

  it("lets only the leader write with fenced_put", function()
    local nodes = started(2)
    local key = prefix .. "/work"
    local written, index = nodes[1]:fenced_put(key, "by the leader")
    assert.is_true(written)
    assert.is_truthy(index)
    local client = support.client()
    assert.equal("by the leader", (select(2, client:kv_get(key))))
    client:close()
    local success, message, err = nodes[2]:fenced_put(key, "by another")
    assert.equal("conflict", support.kind(success, message, err))
    assert.matches('cluster node "n2": it is not the leader', message, 1, true)
  end)

  it("takes part without an address, if that is said", function()
    local one = node("n1", { node_address = false })
    assert(one:start())
    assert.same({ "", "", "" }, { one.node_address, one.cluster_nodes.n1.address, one:get_leader_info().address })
    local everywhere = node("n2", { node_address = false, data_address = "0.0.0.0:0", cluster_key = ("k"):rep(16) })
    local success, message, err = everywhere:start()
    assert.equal("config", support.kind(success, message, err))
    assert.matches("node_address must be `host:port`", message, 1, true)
  end)

  it("can be stopped and started repeatedly", function()
    local one = node("n1")
    assert.is_true(one:stop())
    for _ = 1, 2 do
      assert.is_true(one:start())
      assert.is_true(one:is_leader_node())
      assert.is_true(one:stop())
      assert.is_true(one:stop())
      assert.equal('ConsulHACluster("n1", stopped)', tostring(one))
    end
    assert.is_true(one:close())
  end)

  it("returns nothing from a stopped node", function()
    local one = node("n1")
    local function returns_nothing()
      assert.same({ false, false, 0 }, { one:is_leader_node(), one.is_leader, one:get_node_count() })
      assert.is_nil(one:get_leader_info())
      assert.is_nil(one:get_node_for_key("key"))
      assert.is_nil(one:get_nodes_for_keys({ "key" }))
      assert.is_nil(one:get_shard_for_key("key"))
      assert.is_nil(one:token())
      assert.same({}, one:get_live_nodes())
      assert.same({}, one:get_replica_nodes("key", 2))
      assert.same({}, one:get_shards())
      assert.same({}, one.cluster_nodes)
      local service_id = prefix:gsub("/", "-") .. "-nodes-n1"
      assert.same({ state = "stopped", in_touch = false, frozen = {}, service_id = service_id }, one:status())
      for _, name in ipairs({ "hand_over", "drain", "leave", "maintenance", "thaw", "resume", "resume_moves", "fd" }) do
        local success, message, err = one[name](one)
        assert.equal("closed", support.kind(success, message, err))
        assert.matches('cluster node "n1": it is not started', message, 1, true)
      end
    end
    returns_nothing()
    assert(one:start())
    assert(one:stop())
    returns_nothing()
  end)

  it("leaves neither node keys nor services behind when its nodes stop #smoke", function()
    local nodes = started(2)
    assert.is_true(nodes[2]:stop())
    assert.is_true(nodes[1]:stop())
    local client = support.client()
    for _, key in ipairs((select(2, assert(client:kv_keys(prefix .. "/"))))) do
      assert.is_nil(key:match("/nodes/"), key)
    end
    assert.is_nil((select(3, assert(client:kv_get(prefix .. "/leader")))).session)
    -- An agent tells the catalog in the background.
    support.eventually(function()
      return #select(2, assert(client:health_service(prefix .. "-nodes"))) == 0
    end)
    client:close()
  end)

  it("is left gracefully by a node that is garbage-collected without a stop", function()
    local staying = started(1)[1]
    local config = { node_id = "lost", node_address = "x:1", nodes_prefix = prefix .. "/nodes/" }
    config.simulate = support.simulated
    do
      local lost = ConsulHACluster:new(config)
      assert(lost:start())
    end
    support.eventually(function()
      return staying:get_node_count() == 2
    end)
    collectgarbage()
    collectgarbage()
    support.eventually(function()
      return staying:get_node_count() == 1
    end)
  end)

  it("refuses a node with the name of a live node, and names that node's address", function()
    local first = node("twin", { profile = "fast" })
    assert(first:start())
    local second = node("twin", { profile = "fast" })
    local success, message, err = second:start()
    assert.equal("conflict", support.kind(success, message, err))
    assert.matches('node_id "twin" is taken: the node at 127.0.0.1:9000 has it', message, 1, true)
    support.eventually(function()
      return first:is_leader_node()
    end)
    assert.equal('ConsulHACluster("twin", stopped)', tostring(second))
  end)

  it("refuses a node with another number of shards, and one whose key has another program's data", function()
    local first = node("n1")
    assert(first:start())
    local success, message, err = node("n2", { shards = 64 }):start()
    assert.equal("conflict", support.kind(success, message, err))
    assert.matches("shards = 1024", message, 1, true)
    local client = support.client()
    assert(client:kv_put(prefix .. "/nodes/n3", "not a node"))
    success, message, err = node("n3"):start()
    assert.equal("conflict", support.kind(success, message, err))
    assert.matches("another program's data", message, 1, true)
    assert.equal("not a node", (select(2, client:kv_get(prefix .. "/nodes/n3"))))
    client:close()
    support.eventually(function()
      return first:is_leader_node()
    end)
  end)

  it("has no leader while another program's session holds the leader's key, and has one afterwards", function()
    local client = support.client()
    local _, session = assert(client:session_create({ LockDelay = 0 }))
    assert(client:kv_put(prefix .. "/leader", "not ours", { acquire = session }))
    local one = node("n1", { start_timeout_ms = 1000 })
    local success, message, err = one:start()
    assert.equal("timeout", support.kind(success, message, err))
    assert.matches("not started within 1000 ms: ", message, 1, true)
    assert.equal("not ours", (select(2, client:kv_get(prefix .. "/leader"))))
    assert(client:session_destroy(session))
    assert(client:kv_delete(prefix .. "/leader"))
    assert(one:start())
    -- A stall of the machine for longer than a lease ends the leadership for a moment.
    support.eventually(function()
      return one:is_leader_node()
    end)
    client:close()
  end)

  it("returns an error from a stop during an outage, and can start again", function()
    local agent = support.name("away")
    local one = started(1, { timeout = 300, simulate = agent, profile = "fast" })[1]
    local simulator = consul_ffi.simulator(agent)
    simulator:fault({ partition = true })
    local begun = support.clock()
    local success, message, err = one:stop()
    simulator:clear_faults()
    assert.is_false(success)
    assert.is_table(err, message)
    assert.is_true(support.clock() - begun < 5)
    assert.equal('ConsulHACluster("n1", stopped)', tostring(one))
    assert(one:start())
  end)

  it("refuses to start a started node", function()
    local one = started(1)[1]
    local success, message, err = one:start()
    assert.equal("conflict", support.kind(success, message, err))
    assert.matches('cluster node "n1": it is started already', message, 1, true)
    assert.is_true(one:is_leader_node())
  end)

  it("fails to start within start_timeout_ms while Consul is unreachable, and stops without it", function()
    local away = node("n1", { simulate = false, consul_url = "127.0.0.1:1", start_timeout_ms = 300, timeout = 500 })
    local begun = support.clock()
    local success, message, err = away:start()
    assert.equal("timeout", support.kind(success, message, err))
    assert.matches('cluster node "n1": not started within 300 ms: ', message, 1, true)
    assert.matches("127.0.0.1:1", message, 1, true)
    assert.is_true(away:stop())
    assert.is_true(support.clock() - begun < 5)
  end)

  it("ends the start of a node that is stopped during it", function()
    local away = node("n1", { simulate = false, consul_url = "127.0.0.1:1" })
    local ran, success, message, err = support.with_hook(function()
      away:close()
    end, away.start, away)
    assert.is_true(ran)
    assert.equal("closed", support.kind(success, message, err))
    assert.matches("it was stopped during its start", message, 1, true)
  end)

  it("raises for misuse, naming what is allowed", function()
    for _, case in ipairs({
      { "n1", "the configuration must be a table, got a string" },
      { {}, "node_id is required" },
      { { node_id = "n1" }, "node_address is required" },
      { { node_idd = "n1" }, 'unknown option "node_idd"; did you mean "node_id"?' },
      { { consul_ur = "x" }, 'unknown option "consul_ur"; did you mean "consul_url"?' },
      { { node_id = "a/b", node_address = "x:1" }, 'node_id is "a/b": it must be a name' },
      { { node_id = 5, node_address = "x:1" }, "node_id must be a non-empty string, got a number 5" },
      { { node_id = "n1", node_address = "x:1", weight = 0 / 0 }, "weight is NaN: it must be" },
      { { node_id = "n1", node_address = "x:1", profile = { beat_ms = 5000 } }, "a third of check_ttl_ms" },
      { { node_id = "n1", node_address = "x:1", endpoint = "ftp://x" }, "endpoint" },
      { { node_id = "n1", node_address = "your-ip:port" }, "must be `host:port` with a port from 1 to 65535" },
      { { node_id = "n1", node_address = 9000 }, "node_address must be a non-empty string, got a number 9000" },
      { { replica_count = 2 }, 'unknown option "replica_count"; did you mean "replicas"?' },
      { { node_id = "n1", node_address = "x:1", simulate = "false" }, 'simulate is "false": it would be the name' },
    }) do
      local message = support.raises(case[2], ConsulHACluster.new, ConsulHACluster, case[1])
      assert.matches("ConsulHACluster: ", message, 1, true)
    end
    local one = node("n1")
    local raises = support.raises
    raises("get_node_for_key: key must be a string, got nil", one.get_node_for_key, one, nil)
    raises("get_node_for_key: key must be a string, got a number 600519", one.get_node_for_key, one, 600519)
    raises("get_nodes_for_keys: keys must be a list of strings", one.get_nodes_for_keys, one, "key")
    raises('maintenance: on must be true or false, got a string "yes"', one.maintenance, one, "yes")
    raises("next_event: timeout_ms must be a number of milliseconds", one.next_event, one, "soon")
    raises('handle: "x" has no handler: a function is required', one.handle, one, "x")
    raises("handle: the handler must be a function or nil, got a string", one.handle, one, "x", "y")
    raises("start: call it with a colon", one.start, nil)
    raises("start: call it with a colon", one.start, {})
    assert.equal("argument", support.kind(one:get_replica_nodes("key", -1)))
  end)
end)

-- The cases that take long, on a manual clock.
describe("consul_ha_cluster on a manual clock", function()
  local sim, agent

  before_each(function()
    opened, prefix, agent = {}, "c", support.name("manual")
    sim = consul_ffi.simulator(agent, { clock = "manual", seed = 1 })
  end)

  after_each(function()
    for _, one in ipairs(opened) do
      one:close()
    end
  end)

  -- Starts nodes whose clients have their names, so that faults can select them.
  local function connected(count)
    local nodes = {}
    for i = 1, count do
      nodes[i] = node("n" .. i, { simulate = agent, client_name = "n" .. i })
      assert(nodes[i]:start())
    end
    sim:advance(2)
    return nodes
  end

  it("elects a new leader within the profile's takeover time", function()
    local nodes = connected(3)
    assert.is_true(nodes[1].is_leader)
    local token = nodes[1]:token()
    sim:fault({ clients = { "n1" }, partition = true })
    local limit = nodes[1].profile.takeover_ms / 1000
    sim:advance(nodes[1].profile.lease_ms / 1000)
    assert.is_false(nodes[1].is_leader)
    sim:advance(limit + 1)
    assert.is_true(nodes[2].is_leader or nodes[3].is_leader)
    assert.is_true((nodes[2]:token() or nodes[3]:token()) > token)
    local seen = {}
    for name in nodes[1].poll_event, nodes[1] do
      seen[name] = true
    end
    assert.is_true(seen.suspended)
    assert.equal("down", nodes[2].cluster_nodes.n1.status)
    assert.same({ 3, "n2 n3" }, { nodes[2]:get_node_count(), ids(nodes[2]:get_live_nodes()) })
  end)

  it("routes around a dead node immediately, and moves no shard for a restart", function()
    local nodes = connected(3)
    local before = nodes[1]:status().map_epoch
    sim:fault({ clients = { "n3" }, partition = true })
    sim:advance(5)
    for i = 1, 200 do
      assert.are_not.equal("n3", (nodes[1]:get_node_for_key("key " .. i)))
    end
    assert.equal(before, nodes[1]:status().map_epoch)
    sim:clear_faults()
    sim:advance(10)
    assert.equal("up", nodes[1].cluster_nodes.n3.status)
    assert.equal(before, nodes[1]:status().map_epoch)
  end)

  it("routes by the last shard map without a leader while Consul is unreachable", function()
    local nodes = connected(3)
    local owner = nodes[2]:get_node_for_key("key")
    sim:fault({ partition = true })
    -- Ends the blocking queries.
    sim:restart()
    sim:advance(30)
    assert.equal(owner, (nodes[2]:get_node_for_key("key")))
    assert.is_nil(nodes[2]:get_leader_info())
    assert.is_false(nodes[1].is_leader)
    assert.is_false(nodes[2]:status().in_touch)
    sim:clear_faults()
    sim:advance(30)
    assert.is_string(nodes[2]:get_leader_info().node_id)
    assert.equal(owner, (nodes[2]:get_node_for_key("key")))
  end)

  it("moves no shard from pause_moves to resume_moves", function()
    local nodes = connected(3)
    assert.is_true(nodes[2]:pause_moves("a rack is moved"))
    sim:advance(5)
    local before = #nodes[1]:get_shards("n3")
    assert.is_true(nodes[1]:drain(true, "n3"))
    sim:advance(30)
    assert.equal(before, #nodes[1]:get_shards("n3"))
    assert.is_true(nodes[2]:resume_moves())
    assert.is_true(nodes[2]:resume_moves())
    sim:advance(30)
    assert.equal(0, #nodes[1]:get_shards("n3"))
  end)

  it("forgets no store that is not there", function()
    local nodes = connected(1)
    local kind, message = support.kind(nodes[1]:forget_store("points"))
    assert.equal("not_found", kind)
    assert.matches('there is no store "points"', message or select(2, nodes[1]:forget_store("points")), 1, true)
    assert.has_error(function() nodes[1]:forget_store() end)
  end)

  it("makes no replica again of a store or a node that is not there", function()
    local nodes = connected(1)
    local kind, message = support.kind(nodes[1]:reinit("n1", "points"))
    assert.equal("not_found", kind)
    assert.matches("points", message or select(2, nodes[1]:reinit("n1", "points")), 1, true)
    assert.equal("not_found", (support.kind(nodes[1]:reinit("n9", "points", { 1 }))))
    assert.has_error(function() nodes[1]:reinit("n1", "points", "1") end)
    -- A list of no shard, or of a number that no shard can have, does not mean all.
    assert.has_error(function() nodes[1]:reinit("n1", "points", {}) end)
    assert.has_error(function() nodes[1]:reinit("n1", "points", { 4294967296 }) end)
    assert.has_error(function() nodes[1]:reinit("n1") end)
  end)

  -- `resume` is the name of `thaw` in older releases.
  for _, thaw in ipairs({ "thaw", "resume" }) do
    it(("freezes the shard map when too many nodes fail at once, until %s is called"):format(thaw), function()
      local nodes = connected(6)
      sim:fault({ clients = { "n4", "n5", "n6" }, partition = true })
      sim:advance(20)
      local frozen = nodes[1]:status().frozen
      table.sort(frozen)
      assert.equal("n4 n5 n6", table.concat(frozen, " "))
      local seen
      for name, detail in nodes[2].poll_event, nodes[2] do
        seen = name == "frozen" and detail or seen
      end
      assert.equal(3, #seen)
      assert.is_true(nodes[2][thaw](nodes[2]))
      sim:advance(5)
      assert.same({}, nodes[1]:status().frozen)
    end)
  end
end)
