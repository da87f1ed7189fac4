-- The names of the older module of this name.
local consul_ffi = require("consul_ffi")

return {
  ConsulHACluster = consul_ffi.ConsulHACluster,
  ConsistentHashRing = consul_ffi.ConsistentHashRing,
  new = consul_ffi.ConsulHACluster.new,
}
