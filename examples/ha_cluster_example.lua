-- The example of the old documentation: one node, as it is configured there.
--
--   make ha-cluster-example [CONSUL=1.21]

local consul_ffi = require("consul_ffi")
local ConsulHACluster = require("consul_ha_cluster").ConsulHACluster
local support = require("examples.support")

-- Where a cluster is when nobody says so.
local default_prefix = "tsdb/cluster/"

support.run(function()
  local client = consul_ffi.new({ consul_url = support.url, simulate = support.simulate })
  local _, others = assert(client:kv_keys(default_prefix))
  assert(#others == 0, "a cluster is there already, which this example would join")

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
  assert(cluster:get_node_count() == 1 and #cluster:get_live_nodes() == 1, "the node is not alone")
  assert(id == "node-1" and node.address == "127.0.0.1:9090", "the key is on another node")
  assert(node.status == "up", "the node is not up")
  assert(cluster:stop())

  local _, nodes = assert(client:kv_keys(default_prefix .. "nodes/"))
  assert(#nodes == 0, "the node is still there")
  support.say("stopped")
  assert(client:kv_delete_tree(default_prefix))
  client:close()
end)
