-- The client of programs that were written for etcd, on Consul. docs/migrating-from-etcd.md has the
-- differences from etcd.
local consul_ffi = require("consul_ffi")

---@class etcd_ffi
local etcd_ffi = {}

-- The options with the endpoints of etcd's servers.
local ETCD_ENDPOINTS = { "endpoints", "endpoint", "etcd_endpoints", "etcd_endpoint" }
local ETCD_PORT = "2379"

-- A key with a TTL has its expiry in its flags: this mark plus the Unix time in seconds, which has 33 bits.
-- The sum is below 2^53, so every engine represents it exactly.
local TIME_LIMIT = 8589934592 -- 2^33, an integer in Lua 5.4 too
local MARK = 0xE7CD * TIME_LIMIT

-- Consul's minimum session TTL, in seconds.
local MIN_SESSION_TTL = 10

-- Maps etcd's endpoints to Consul's; nil and a message when the map has no entry for one.
local function mapped(by_etcd, etcd)
  local found = {}
  for i, endpoint in ipairs(type(etcd) == "table" and etcd or { etcd }) do
    if not by_etcd[endpoint] then
      return nil, ('consul_endpoints has nothing for "%s"'):format(tostring(endpoint))
    end
    found[i] = by_etcd[endpoint]
  end
  return found
end

---Converts an old program's options to those of consul_ffi; nil and a message without an address of Consul.
---Never uses etcd's endpoints.
---@param options? table
---@return table? options
---@return string? message
function etcd_ffi.consul_options(options)
  local etcd, consul = nil, {}
  for name, value in pairs(options or {}) do
    consul[name] = value
  end
  for _, name in ipairs(ETCD_ENDPOINTS) do
    etcd, consul[name] = etcd or consul[name], nil
  end
  consul.endpoint, consul.consul_endpoint = consul.consul_endpoint, nil
  local list = consul.consul_endpoints
  if type(list) == "table" and list[1] == nil then
    local why
    consul.consul_endpoints, why = mapped(list, etcd)
    if why then
      return nil, why
    end
  end

  local given = consul.endpoint or consul.consul_endpoints or consul.consul_url
  if given == nil and not consul.simulate then
    given = os.getenv("CONSUL_HTTP_ADDR")
    if not given or given == "" then
      return nil, "no address of Consul: give consul_endpoint or consul_endpoints, or set CONSUL_HTTP_ADDR"
    end
  end
  for _, endpoint in ipairs(type(given) == "table" and given or { given }) do
    if (tostring(endpoint) .. "/"):find(":" .. ETCD_PORT .. "/", 1, true) then
      return nil, ('"%s" has etcd\'s port; give the address of a Consul agent (default port 8500)'):format(endpoint)
    end
  end
  return consul
end

-- Converts a key to Consul's form, without a leading slash.
local function stripped(key)
  return (key:gsub("^/", ""))
end

-- Returns the expiry in a key's flags, in Unix time; nil when the key has no TTL.
local function expiry(flags)
  if type(flags) == "number" and flags >= MARK and flags < MARK + TIME_LIMIT then
    return flags - MARK
  end
end

-- Whether a key with these flags has expired. Consul itself deletes the key later.
local function has_expired(flags)
  local at = expiry(flags)
  return at ~= nil and os.time() >= at
end

---@class etcd_ffi.Client
---@field consul consul_ffi.ConsulClient the client that it uses
local Client = {}
Client.__index = Client

---@class etcd_ffi.Instance
---@field id string
---@field name string
---@field address string
---@field port integer
---@field tags string[]
---@field meta table<string, string>
---@field node string

-- Raises at the caller of the method unless it is called on a client.
local function check_self(method, self)
  if getmetatable(self) ~= Client then
    error(("%s: call it with a colon, as in object:%s(…)"):format(method, method), 3)
  end
end

-- Raises at the caller of the method unless a value has one of the types.
local function check(method, name, value, ...)
  for _, allowed in ipairs({ ... }) do
    if type(value) == allowed then
      return
    end
  end
  error(("%s: %s must be a %s, got a %s"):format(method, name, table.concat({ ... }, " or "), type(value)), 3)
end

-- Returns the TTL in the options of `set`, rounded up to seconds; nil without one.
local function ttl_of(options)
  for name in pairs(options or {}) do
    if name ~= "ttl" then
      error(('set: unknown option "%s"; the only option is ttl'):format(tostring(name)), 3)
    end
  end
  local ttl = options and options.ttl
  if ttl ~= nil and not (type(ttl) == "number" and ttl > 0 and ttl < math.huge) then
    error(("set: ttl must be a positive number of seconds, got %s"):format(tostring(ttl)), 3)
  end
  return ttl and math.ceil(ttl)
end

-- Returns true and the session of a key's TTL, nil without one; false, message, err when the read fails or
-- when another session has locked the key, because replacing the key would release that lock.
local function session_of(consul, key)
  local success, message, meta = consul:kv_get(key)
  if not success then
    return false, message, meta
  end
  if meta.session and not expiry(meta.flags) then
    message = ('"%s" is locked by the session %s of another program'):format(key, meta.session)
    return false, message, { kind = "conflict", message = message, retryable = true, maybe_applied = false }
  end
  return true, meta.session
end

-- Destroys the session of a replaced TTL, if any. After a failure Consul expires it later.
local function destroy(consul, session)
  if session then
    consul:session_destroy(session)
  end
end

-- Converts the results of a call of consul_ffi whose success has no value: true; nil, message, err.
local function done(success, message, err)
  if success then
    return true
  end
  return nil, message, err
end

---Returns a key's value; nil when there is no such key.
---@param key string
---@return string? value
---@return string? message
---@return consul_ffi.Error? err
function Client:get(key)
  check_self("get", self)
  check("get", "key", key, "string")
  local success, value, meta = self.consul:kv_get(stripped(key))
  if not success then
    return nil, value, meta
  elseif has_expired(meta.flags) then
    return nil, nil
  end
  return value, nil
end

---Writes a key. With options.ttl in seconds the key expires after them, or a second later, unless it is set again.
---Without it a previous TTL of the key is cancelled.
---@param key string
---@param value string|number|boolean
---@param options? { ttl?: number }
---@return true? success
---@return string? message
---@return consul_ffi.Error? err
function Client:set(key, value, options)
  check_self("set", self)
  check("set", "key", key, "string")
  check("set", "value", value, "string", "number", "boolean")
  if options ~= nil then
    check("set", "options", options, "table")
  end
  local ttl = ttl_of(options)
  key = stripped(key)

  local success, before, err = session_of(self.consul, key)
  if not success then
    return nil, before, err
  end
  local write, session = { Verb = "set", Key = key, Value = tostring(value) }, nil
  if ttl then
    success, session, err = self.consul:session_create({
      name = "etcd_ffi " .. key,
      ttl = math.max(ttl, MIN_SESSION_TTL),
      behavior = "delete",
      lock_delay = 0,
      node_checks = {},
    })
    if not success then
      return nil, session, err
    end
    write.Verb, write.Session, write.Flags = "lock", session, MARK + os.time() + ttl + 1
  end

  -- Without the delete the key would keep its previous session.
  local message
  success, message, err = self.consul:txn({ { KV = { Verb = "delete", Key = key } }, { KV = write } })
  if not success then
    if err.maybe_applied == false then
      destroy(self.consul, session)
    end
    return nil, message, err
  end
  destroy(self.consul, before)
  return true
end

---Deletes a key; succeeds also when there was no such key.
---@param key string
---@return true? success
---@return string? message
---@return consul_ffi.Error? err
function Client:delete(key)
  check_self("delete", self)
  check("delete", "key", key, "string")
  key = stripped(key)
  local success, before, err = session_of(self.consul, key)
  if not success then
    return nil, before, err
  end
  local message
  success, message, err = self.consul:kv_delete(key)
  if not success then
    return nil, message, err
  end
  destroy(self.consul, before)
  return true
end

---Returns the keys with a prefix, in byte order. They have a leading slash when the prefix has one.
---@param prefix string
---@return { key: string, value: string }[]? entries
---@return string? message
---@return consul_ffi.Error? err
function Client:list(prefix)
  check_self("list", self)
  check("list", "prefix", prefix, "string")
  local success, entries, err = self.consul:kv_list(stripped(prefix))
  if not success then
    return nil, entries, err
  end
  local slash, found = prefix:match("^/?"), {}
  for _, entry in ipairs(entries) do
    if not has_expired(entry.Flags) then
      found[#found + 1] = { key = slash .. entry.Key, value = entry.Value }
    end
  end
  return found, nil
end

---Registers an instance. `info` has name, address, port, tags and the other fields of consul_ffi's register_service.
---@param id string
---@param info table
---@return true? success
---@return string? message
---@return consul_ffi.Error? err
function Client:register_service(id, info)
  check_self("register_service", self)
  check("register_service", "id", id, "string")
  check("register_service", "info", info, "table")
  local definition = {}
  for name, value in pairs(info) do
    definition[name] = value
  end
  definition.id = id
  return done(self.consul:register_service(definition))
end

---Deregisters an instance; succeeds also when there is no such instance.
---@param id string
---@return true? success
---@return string? message
---@return consul_ffi.Error? err
function Client:deregister_service(id)
  check_self("deregister_service", self)
  check("deregister_service", "id", id, "string")
  local success, message, err = self.consul:deregister_service(id)
  return done(success or err.kind == "not_found", message, err)
end

---Returns the passing instances of a service.
---@param name string
---@return etcd_ffi.Instance[]? instances
---@return string? message
---@return consul_ffi.Error? err
function Client:discover_services(name)
  check_self("discover_services", self)
  check("discover_services", "name", name, "string")
  local success, instances, err = self.consul:discover_services(name)
  if not success then
    return nil, instances, err
  end
  return instances, nil
end

---Closes the client.
function Client:close()
  check_self("close", self)
  self.consul:close()
end

---Creates a client. Raises an error for an invalid option. Reads are linearizable by default, like etcd's;
---`consistency` changes that.
---@param options? table as consul_ffi.ConsulConfig; the options with etcd's endpoints are allowed
---@return etcd_ffi.Client client
function etcd_ffi.new(options)
  if options ~= nil and type(options) ~= "table" then
    error("etcd_ffi.new: options must be a table, got a " .. type(options), 2)
  end
  local config, why = etcd_ffi.consul_options(options)
  if not config then
    error("etcd_ffi.new: " .. why, 2)
  end
  config.consistency = config.consistency or "consistent"
  local made, consul = pcall(consul_ffi.new, config)
  if not made then
    error(consul, 2)
  end
  return setmetatable({ consul = consul }, Client)
end

return etcd_ffi
