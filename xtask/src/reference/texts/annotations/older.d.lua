---Registers an instance, as `agent_service_register`, without a check. Also `(name, address, port, tags)`, or one table with
---the definition.
---@param id string|table|nil the instance's id, or the definition
---@param name? string
---@param address? string
---@param port? integer|string
---@param tags? string[]
---@param options? consul_ffi.agent_service_register.options also the argument after a definition
---@return boolean success
---@return string response the text `true`
---@return consul_ffi.Meta|consul_ffi.Error meta
function ConsulClient:register_service(id, name, address, port, tags, options) end

---The name of `agent_service_deregister` in older programs.
---@param id string
---@param options? consul_ffi.agent_service_deregister.options
---@return boolean success
---@return string response the text `true`
---@return consul_ffi.Meta|consul_ffi.Error meta
function ConsulClient:deregister_service(id, options) end

---The instances of a service, as `health_service` with `passing = true` by default.
---@param name string
---@param options? consul_ffi.health_service.options
---@return boolean success
---@return consul_ffi.Discovered[] instances as text they read as Consul's JSON
---@return consul_ffi.Meta|consul_ffi.Error meta
function ConsulClient:discover_services(name, options) end

---@class consul_ffi.Discovered
---@field id string
---@field name string the service's name
---@field address string its own address, or that of its node
---@field port integer 0 if it registered none
---@field tags string[]
---@field meta table<string, string>
---@field node string the node's name

---The result of `create_session`.
---@class consul_ffi.SessionText: string
---@field id string
---@field ID string

---Creates a session, as `session_create` with `Behavior = "delete"`: when it ends, its keys are deleted.
---@param name? string
---@param ttl? number|string seconds, or a string such as `"15s"`; default `"30s"`
---@param options? consul_ffi.session_create.options
---@return boolean success
---@return consul_ffi.SessionText session as text it reads as Consul's JSON, `{"ID":"…"}`, and it has the methods of a string. `session_renew`, `session_info`, `session_destroy`, and `acquire` and `release` of `kv_put` take it as an id
---@return consul_ffi.Meta|consul_ffi.Error meta
function ConsulClient:create_session(name, ttl, options) end

---Ends a session, as `session_destroy`.
---@param session string|{ id: string } its id, or the result of `create_session`
---@param options? consul_ffi.session_destroy.options
---@return boolean success
---@return string response the text `true`
---@return consul_ffi.Meta|consul_ffi.Error meta
function ConsulClient:destroy_session(session, options) end
