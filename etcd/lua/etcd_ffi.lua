-- The client of programs that were written for etcd, on Consul. docs/migrating-from-etcd.md has the
-- differences from etcd.
local consul_ffi = require("consul_ffi")

---@class etcd_ffi
local etcd_ffi = {}

-- The options with the endpoints of etcd's servers.
local ETCD_ENDPOINTS = { "endpoints", "endpoint", "etcd_endpoints", "etcd_endpoint" }
local ETCD_PORT = "2379"

-- The options with etcd's users, which Consul does not have.
local ETCD_USERS = { "user", "username", "password" }

-- A key with a TTL has its expiry in its flags: this mark plus the Unix time in seconds, which has 33 bits.
-- The sum is below 2^53, so every engine represents it exactly.
local TIME_LIMIT = 8589934592 -- 2^33, an integer in Lua 5.4 too
local MARK = 0xE7CD * TIME_LIMIT

-- Consul's limits of a session's TTL, in seconds.
local MIN_SESSION_TTL, MAX_SESSION_TTL = 10, 86400

-- How often a write begins if the key is created or deleted in the middle.
local ATTEMPTS = 20

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

---Converts an old program's options to consul_ffi's; nil and a message without an address of Consul.
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
  for _, name in ipairs(ETCD_USERS) do
    if consul[name] ~= nil then
      return nil, ('the option "%s" is etcd\'s: Consul has tokens in place of users, give token'):format(name)
    end
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
    if type(endpoint) ~= "string" then
      return nil, "the address of Consul must be a string, got a " .. type(endpoint)
    end
    if (endpoint .. "/"):find(":" .. ETCD_PORT .. "/", 1, true) then
      return nil, ('"%s" has etcd\'s port; give the address of a Consul agent (default port 8500)'):format(endpoint)
    end
  end
  return consul
end

-- Converts a key to Consul's form, without a leading slash; returns also that slash.
local function stripped(key)
  return key:gsub("^/", ""), key:match("^/?")
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

-- Whether a value is a 64-bit integer of LuaJIT.
local function is_boxed_integer(value)
  return type(value) == "cdata" and tostring(value):find("^%-?%d+U?LL$") ~= nil
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

-- Returns nil, a message and an error of a kind, of a call that has sent nothing.
local function refused(kind, message)
  local err = { kind = kind, message = message, retryable = kind == "conflict", maybe_applied = false, attempts = 0 }
  return nil, message, err
end

-- Calls a method of consul_ffi for one of ours: true and its results; nil, message, err. Raises at the caller of our
-- method. A message of another method begins with the names of both.
local function call(client, method, called, ...)
  local ran, success, value, meta = pcall(client.consul[called], client.consul, ...)
  if ran and success then
    return true, value, meta
  end
  local message = ran and value or success
  if called ~= method then
    message = method .. ": " .. message
  end
  if not ran then
    error(message, 3)
  end
  meta.message = message
  return nil, message, meta
end

-- Converts the results of a call whose success has no value: true; nil, message, err.
local function done(success, message, err)
  if success then
    return true
  end
  return nil, message, err
end

-- Destroys the session of a replaced TTL, if any. After a failure Consul expires it later.
local function destroy(client, session)
  if session then
    client.consul:session_destroy(session)
  end
end

-- Has a write lock its key with a new session for a TTL: true; nil, message, err.
local function add_session(client, write, ttl)
  local success, session, err = call(client, "set", "session_create", {
    name = "etcd_ffi " .. write.Key,
    ttl = math.max(ttl, MIN_SESSION_TTL),
    behavior = "delete",
    lock_delay = 0,
    node_checks = {},
  })
  if not success then
    return nil, session, err
  end
  write.Verb, write.Session, write.Flags = "lock", session, MARK + os.time() + ttl + 1
  return true
end

-- Deletes a key and applies `write`, if any, in one transaction: true; nil, message, err when it fails or when another
-- program has locked the key, because replacing the key would release that lock.
-- Others may write the key at the same time: the transaction itself reads the session that it replaces.
local function replace(client, method, given, write, ttl)
  local key = stripped(given)
  local success, value, meta, results
  for _ = 1, ATTEMPTS do
    success, value, meta = call(client, method, "kv_get", key, { consistent = true })
    if not success then
      return nil, value, meta
    elseif meta.session and not expiry(meta.flags) then
      return refused("conflict", ('%s: "%s" is locked by the session %s of another program'):format(
        method, given, meta.session))
    elseif value == nil and not write then
      return true
    end
    if ttl and not write.Session then
      local added, message, err = add_session(client, write, ttl)
      if not added then
        return nil, message, err
      end
    end
    local verbs = value == nil and { "check-not-exists" } or { "get", "delete" }
    local operations = {}
    for i, verb in ipairs(verbs) do
      operations[i] = { KV = { Verb = verb, Key = key } }
    end
    operations[#operations + 1] = write and { KV = write }
    success, results, meta = call(client, method, "txn", operations)
    if success then
      local before = value ~= nil and results[1].KV
      if before and before.Session ~= (write and write.Session) and expiry(before.Flags) then
        destroy(client, before.Session)
      end
      return true
    elseif not (meta.operations and meta.operations[1].index == 1) then
      break
    end
  end
  return nil, results, meta
end

---Returns a key's value; nil when there is no such key.
---@param key string
---@return string? value
---@return string? message
---@return consul_ffi.Error? err
function Client:get(key)
  check_self("get", self)
  check("get", "key", key, "string")
  local success, value, meta = call(self, "get", "kv_get", (stripped(key)))
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
  if not is_boxed_integer(value) then
    check("set", "value", value, "string", "number", "boolean")
  end
  if options ~= nil then
    check("set", "options", options, "table")
  end
  local ttl = ttl_of(options)
  if ttl and ttl > MAX_SESSION_TTL then
    return refused("argument", ("set: ttl must be at most %d seconds, got %s"):format(MAX_SESSION_TTL, options.ttl))
  end

  local write = { Verb = "set", Key = (stripped(key)), Value = value }
  local success, message, err = replace(self, "set", key, write, ttl)
  if success then
    return true
  end
  if err.maybe_applied == false then
    destroy(self, write.Session)
  end
  if err.kind == "too_large" then
    err.message = ("set: a value of %d bytes is too large for a transaction of Consul"):format(
      #tostring(value))
    message = err.message
  end
  return nil, message, err
end

---Deletes a key; succeeds also when there was no such key.
---@param key string
---@return true? success
---@return string? message
---@return consul_ffi.Error? err
function Client:delete(key)
  check_self("delete", self)
  check("delete", "key", key, "string")
  return replace(self, "delete", key)
end

---Returns the keys with a prefix, in byte order. They have a leading slash when the prefix has one.
---@param prefix string
---@return { key: string, value: string }[]? entries
---@return string? message
---@return consul_ffi.Error? err
function Client:list(prefix)
  check_self("list", self)
  check("list", "prefix", prefix, "string")
  local bare, slash = stripped(prefix)
  local success, entries, err = call(self, "list", "kv_list", bare)
  if not success then
    return nil, entries, err
  end
  local found = {}
  for _, entry in ipairs(entries) do
    if not has_expired(entry.Flags) then
      found[#found + 1] = { key = slash .. entry.Key, value = entry.Value }
    end
  end
  return found, nil
end

---Registers an instance. `definition` has name, address, port, tags and the other fields of consul_ffi's
---register_service.
---@param service_id string
---@param definition table
---@return true? success
---@return string? message
---@return consul_ffi.Error? err
function Client:register_service(service_id, definition)
  check_self("register_service", self)
  check("register_service", "service_id", service_id, "string")
  check("register_service", "definition", definition, "table")
  local own = {}
  for name, value in pairs(definition) do
    own[name] = value
  end
  own.id = service_id
  return done(call(self, "register_service", "register_service", own))
end

---Deregisters an instance; succeeds also when there is no such instance.
---@param service_id string
---@return true? success
---@return string? message
---@return consul_ffi.Error? err
function Client:deregister_service(service_id)
  check_self("deregister_service", self)
  check("deregister_service", "service_id", service_id, "string")
  return done(call(self, "deregister_service", "deregister_service", service_id))
end

---Returns the passing instances of a service.
---@param service string
---@return etcd_ffi.Instance[]? instances
---@return string? message
---@return consul_ffi.Error? err
function Client:discover_services(service)
  check_self("discover_services", self)
  check("discover_services", "service", service, "string")
  local success, instances, err = call(self, "discover_services", "discover_services", service)
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
    error("etcd_ffi.new: " .. consul, 2)
  end
  return setmetatable({ consul = consul }, Client)
end

return etcd_ffi
