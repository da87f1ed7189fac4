-- The example of the old documentation, with its options: one node.
--
--   make ha-cluster-example [CONSUL=1.21]

-- From any folder, with the modules of this checkout unless others are installed.
local own_folder = arg[0]:match("^.*/") or "./"
package.path = own_folder .. "../?.lua;" .. package.path .. ";" .. own_folder .. "../lua/?.lua"

local consul_ffi = require("consul_ffi")
local ConsulHACluster = require("consul_ha_cluster").ConsulHACluster
local support = require("examples.support")

-- The default prefix of a cluster's keys.
local default_prefix = "tsdb/cluster/"

support.run(function()
  local client = consul_ffi.new({ consul_url = support.url, simulate = support.simulate })
  local _, others = assert(client:kv_keys(default_prefix))
  assert(#others == 0, "another cluster uses the default prefix, and this example would join it")

  local cluster = ConsulHACluster:new{
    consul_url = support.url,
    node_id = "node-1",
    node_address = "127.0.0.1:9090",
    heartbeat_interval = 5,
    simulate = support.simulate,
  }
  assert(cluster:start())
  support.wait_for("leadership of the only node", function()
    return cluster:is_leader_node()
  end, function()
    cluster:next_event(20)
  end)
  local id, node = cluster:get_node_for_key("stocks/AAPL")
  support.say("%d node; stocks/AAPL is on %s at %s", cluster:get_node_count(), id, node.address)
  assert(cluster:get_node_count() == 1 and #cluster:get_live_nodes() == 1, "the node is not the only one")
  assert(id == "node-1" and node.address == "127.0.0.1:9090", "the key is on another node")
  assert(node.status == "alive", "the node is not alive")
  assert(cluster:stop())

  local _, nodes = assert(client:kv_keys(default_prefix .. "nodes/"))
  assert(#nodes == 0, "the node's key still exists")
  support.say("stopped")
  assert(client:kv_delete_tree(default_prefix))
  client:close()
end)
