-- The old integration test: a key, and three nodes in one process, which see each other and the same leader
-- and place keys alike.
--
--   make test-consul-integration [CONSUL=1.21]

-- From any folder, with the modules of this checkout unless others are installed.
local own_folder = arg[0]:match("^.*/") or "./"
package.path = own_folder .. "../?.lua;" .. package.path .. ";" .. own_folder .. "../lua/?.lua"

local consul_ffi = require("consul_ffi")
local consul_ha_cluster = require("consul_ha_cluster")
local support = require("examples.support")

local chapter, say = support.chapter, support.say

local function key_and_value()
  chapter("A key")
  local client = consul_ffi.new({
    endpoint = support.url,
    timeout = 5000,
    retry_count = 3,
    simulate = support.simulate,
  })
  local key = support.prefix .. "test/key"
  assert(client:kv_put(key, "test_value"))
  local _, value = assert(client:kv_get(key))
  say("stored and read back: %s", value)
  assert(value == "test_value", "the value differs")
  client:destroy()
end

local function start_nodes()
  local nodes = {}
  for number = 1, 3 do
    nodes[number] = consul_ha_cluster.new({
      node_id = "node" .. number,
      node_address = "127.0.0.1:" .. 8080 + number,
      consul_endpoints = { support.url },
      leader_key = support.prefix .. "cluster/leader",
      nodes_prefix = support.prefix .. "cluster/nodes/",
      config_key = support.prefix .. "cluster/config",
      simulate = support.simulate,
    })
    assert(nodes[number]:start() == true)
  end
  return nodes
end

-- Waits until all have the same shard map, with shards for each of them.
local function wait_for_map(nodes)
  local function epoch(node)
    return node:status().map_epoch
  end
  support.wait_for("shards on all nodes", function()
    for _, node in ipairs(nodes) do
      for _, other in ipairs(nodes) do
        if #node:get_shards(other.node_id) == 0 or epoch(node) ~= epoch(nodes[1]) then
          return false
        end
      end
    end
    return true
  end, function()
    nodes[1]:next_event(20)
  end)
end

local function show_members(nodes)
  chapter("Three nodes")
  local leading = 0
  for _, node in ipairs(nodes) do
    local leader = node:get_leader_info()
    local count, live = node:get_node_count(), #node:get_live_nodes()
    say(node.node_id .. ": leader " .. leader .. ", " .. count .. " nodes, " .. live .. " live")
    assert(count == 3 and live == 3, node.node_id .. " does not see three nodes")
    assert(leader.node_id == nodes[1]:get_leader_info().node_id, "the nodes disagree about the leader")
    leading = leading + (node:is_leader_node() and 1 or 0)
  end
  assert(leading == 1, leading .. " nodes lead")
end

-- Returns the ids and addresses of a key's replicas as text, as one node places them.
local function replicas(node, key)
  local places = {}
  for i, replica in ipairs(node:get_replica_nodes(key, 2)) do
    places[i] = replica.id .. " at " .. replica.address
  end
  assert(#places == 2 and places[1] ~= places[2], key .. " is not on two nodes")
  return table.concat(places, " and ")
end

local function show_owners(nodes)
  chapter("The owners of keys")
  for _, key in ipairs({ "stock:AAPL", "stock:GOOGL", "stock:MSFT", "metric:cpu", "metric:memory", "metric:disk" }) do
    local id, owner = nodes[1]:get_node_for_key(key)
    local places = replicas(nodes[1], key)
    say("%s is on %s", key, places)
    assert(places:find(id .. " at " .. owner.address, 1, true) == 1, key .. ": its first replica is not its owner")
    for _, node in ipairs(nodes) do
      assert(node:get_node_for_key(key) == id and replicas(node, key) == places, "the nodes disagree about " .. key)
    end
  end
end

support.run(function()
  key_and_value()
  local nodes = start_nodes()
  wait_for_map(nodes)
  show_members(nodes)
  show_owners(nodes)
  for _, node in ipairs(nodes) do
    assert(node:stop())
  end
end)
