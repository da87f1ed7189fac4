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

---A JSON text as a value.
---@param text string
---@return boolean success
---@return any value
---@return consul_ffi.Error? err
function consul_ffi.json_decode(text) end

---A TOML text as a table, and the line of each value by its path.
---@param text string
---@return boolean success
---@return table|string value
---@return table<string, integer>|consul_ffi.Error lines
function consul_ffi.toml_decode(text) end

return consul_ffi
