-- Clusters for programs that were written for etcd, by consul_ha_cluster.
local consul_ffi = require("consul_ffi")
local etcd_ffi = require("etcd_ffi")

---@class etcd_ha
local etcd_ha = {}

---Creates a node of a cluster; finds Consul's address like etcd_ffi.new. Raises an error for an invalid option.
---@param options? table as consul_ffi.ClusterConfig; the options with etcd's endpoints are allowed
---@return consul_ffi.ConsulHACluster node
function etcd_ha.new(options)
  local config, why = etcd_ffi.consul_options(options)
  if not config then
    error("etcd_ha.new: " .. why, 2)
  end
  local made, node = pcall(consul_ffi.ConsulHACluster.new, config)
  if not made then
    error(node, 2)
  end
  return node
end

return etcd_ha
