-- The old simulation demo: a quote, a service, a session, and a cluster of one node.
--
--   make consul-simulation-demo [CONSUL=1.21]

-- From any folder, with the modules of this checkout unless others are installed.
local own_folder = arg[0]:match("^.*/") or "./"
package.path = own_folder .. "../?.lua;" .. package.path .. ";" .. own_folder .. "../lua/?.lua"

local consul_ffi = require("consul_ffi")
local consul_ha_cluster = require("consul_ha_cluster")
local support = require("examples.support")

local chapter, say = support.chapter, support.say

local function keys(client)
  chapter("Keys")
  local key = support.prefix .. "stocks/AAPL/20241012"
  local quote = { symbol = "AAPL", price = 150.25, volume = 1000000, timestamp = os.time() }
  assert(client:kv_put(key, quote))
  local _, stored = assert(client:kv_get(key))
  say("%s is %s", key, stored)
  assert(stored:match('"symbol":"(%w+)"') == quote.symbol, "the stored symbol differs")
  for _, name in ipairs({ "price", "volume", "timestamp" }) do
    assert(tonumber(stored:match(('"%s":([%%d.]+)'):format(name))) == quote[name], "the stored " .. name .. " differs")
  end
  assert(client:kv_delete(key))
  local _, deleted = assert(client:kv_get(key))
  say("after the deletion it is %s", tostring(deleted))
  assert(deleted == nil, "the key still exists")
end

local function services(client)
  chapter("Services")
  local id, name = support.name .. "node1", support.name .. "stock-tsdb"
  assert(client:register_service(id, name, "127.0.0.1", 8080, { "tsdb", "stock", "v1" }))
  local found
  local function wait_for_instances(count)
    support.wait_for(count .. " instances of the service", function()
      local _, instances = assert(client:discover_services(name))
      found = instances
      return #found == count
    end)
  end
  wait_for_instances(1)
  local tags = table.concat(found[1].tags, ", ")
  say("discovered %s at %s:%d, tagged %s", found[1].id, found[1].address, found[1].port, tags)
  assert(found[1].id == id and found[1].address == "127.0.0.1" and found[1].port == 8080, "another service was found")
  assert(tags == "tsdb, stock, v1", "the tags differ")
  assert(client:deregister_service(id))
  wait_for_instances(0)
  say("deregistered")
end

local function session(client)
  chapter("A session")
  local _, response = assert(client:create_session(support.name .. "session", "30s"))
  say("created: %s", tostring(response))
  local id = response:match('"ID":"([^"]+)"')
  local _, info = assert(client:session_info(id))
  assert(info and info.TTL == "30s", "the session does not exist")
  assert(client:destroy_session(id))
  local _, after = assert(client:session_info(id))
  assert(after == nil, "the session still exists")
  say("destroyed")
end

local function cluster()
  chapter("A cluster")
  local node = consul_ha_cluster.new({
    consul_url = support.url,
    node_id = "simulation-node-1",
    node_address = "127.0.0.1:9090",
    nodes_prefix = support.prefix .. "nodes/",
    heartbeat_interval = 5,
    simulate = support.simulate,
  })
  assert(node:start())
  support.wait_for("leadership of the only node", function()
    return node:is_leader_node()
  end, function()
    node:next_event(20)
  end)
  local leader = node:get_leader_info()
  say("%d node, is leader: %s", node:get_node_count(), tostring(node:is_leader_node()))
  say("the leader is " .. leader .. " at " .. leader.address)
  assert(node:get_node_count() == 1 and leader.node_id == node.node_id, "the node is not alone or not the leader")
  for _, symbol in ipairs({ "AAPL", "GOOGL", "MSFT", "TSLA", "AMZN" }) do
    local owner = node:get_node_for_key(symbol)
    local replicas = node:get_replica_nodes(symbol, 2)
    say(symbol .. " is on " .. owner .. "; 2 replicas requested, nodes for them: " .. #replicas .. ", " .. replicas[1])
    assert(owner == node.node_id and #replicas == 1, "a key is on an unknown node")
  end
  assert(node:stop())
end

support.run(function()
  local client = consul_ffi.new({ consul_url = support.url, timeout = 5000, simulate = support.simulate })
  assert(client.initialized, "the client is not initialised")
  keys(client)
  services(client)
  session(client)
  cluster()
  client:destroy()
  assert(not client.initialized, "the client is not closed")
end)
