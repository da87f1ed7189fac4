-- Clusters of programs that were written for etcd: those of consul_ha_cluster.
local consul_ffi = require("consul_ffi")
local etcd_ffi = require("etcd_ffi")

local etcd_ha = {}

-- A node, as consul_ha_cluster makes it, with Consul's endpoints found as etcd_ffi.new finds them.
-- Raises when the options are not acceptable.
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
