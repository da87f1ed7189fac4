-- Three nodes of a cluster in one process, without a server. In your own program each process has one
-- node, and `endpoint` instead of `simulate`.
local ConsulHACluster = require("consul_ffi").ConsulHACluster

local nodes = {}
for number = 1, 3 do
  local address = "127.0.0.1:" .. 9000 + number
  nodes[number] = ConsulHACluster:new({ node_id = "node-" .. number, node_address = address, simulate = true })
  assert(nodes[number]:start())
end

-- The leader assigns the shards when nodes join; every node is notified.
while #nodes[3]:get_shards() == 0 do
  nodes[3]:next_event(5000)
end

for _, node in ipairs(nodes[3]:get_live_nodes()) do
  local leads = nodes[3]:get_leader_info().node_id == node.id and "leads" or ""
  print(node.id, node.address, node.status, #nodes[3]:get_shards(node.id) .. " shards", leads)
end
local owner = nodes[1]:get_node_for_key("stocks/AAPL")
print("stocks/AAPL is on " .. owner)

for _, node in ipairs(nodes) do
  assert(node:stop())
end
