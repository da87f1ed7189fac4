---@class consul_ffi
---@field _VERSION string
---@field ConsulClient consul_ffi.ConsulClient
---@field ConsistentHashRing consul_ffi.ConsistentHashRing
---@field ConsulHACluster consul_ffi.ConsulHACluster
local consul_ffi = {}

---A client; raises when the configuration is not acceptable, and touches no network.
---@param config? consul_ffi.ConsulConfig
---@return consul_ffi.ConsulClient
function consul_ffi.new(config) end

return consul_ffi
