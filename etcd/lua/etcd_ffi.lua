-- The client of programs that were written for etcd, on Consul. docs/migrating-from-etcd.md says what
-- it does otherwise than etcd.
local consul_ffi = require("consul_ffi")

local etcd_ffi = {}

-- The options that name etcd's own servers.
local ETCD_ENDPOINTS = { "endpoints", "endpoint", "etcd_endpoints", "etcd_endpoint" }
local ETCD_PORT = "2379"

-- A key with a TTL has its end in its flags: this mark, and Unix time in seconds in the lower 33 bits.
-- The sum is below 2^53, which every engine holds exactly.
local TIMES = 8589934592
local MARK = 0xE7CD * TIMES

-- Consul's shortest TTL of a session, in seconds.
local SHORTEST_TTL = 10

-- Consul's endpoints for etcd's, by a table from the one to the other; nil and why when one is missing.
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

-- The options of consul_ffi for those of an old program; nil and why when they do not say where Consul
-- is. Nothing is ever sent to the endpoints that are etcd's.
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
      return nil, "nothing says where Consul is: give consul_endpoint or consul_endpoints, or set CONSUL_HTTP_ADDR"
    end
  end
  for _, endpoint in ipairs(type(given) == "table" and given or { given }) do
    if (tostring(endpoint) .. "/"):find(":" .. ETCD_PORT .. "/", 1, true) then
      return nil, ('"%s" has etcd\'s port, and Consul is asked (its own port is 8500)'):format(endpoint)
    end
  end
  return consul
end

-- The key that an etcd key is in Consul, where none begins with `/`.
local function stripped(key)
  return (key:gsub("^/", ""))
end

-- When a key with such flags ends, in Unix time; nil when it has no TTL.
local function end_of(flags)
  if type(flags) == "number" and flags >= MARK and flags < MARK + TIMES then
    return flags - MARK
  end
end

-- Whether a key with such flags had a TTL that is over. Consul itself deletes the key later.
local function is_over(flags)
  local ends = end_of(flags)
  return ends ~= nil and os.time() >= ends
end

-- Raises, at the caller of the method, when a value has not one of the types.
local function check(method, name, value, ...)
  for _, allowed in ipairs({ ... }) do
    if type(value) == allowed then
      return
    end
  end
  error(("%s: %s must be a %s, got a %s"):format(method, name, table.concat({ ... }, " or "), type(value)), 3)
end

-- The TTL of `set`'s options in seconds; nil when they have none.
local function ttl_of(options)
  for name in pairs(options or {}) do
    if name ~= "ttl" then
      error(('set: unknown option "%s"; known is ttl'):format(tostring(name)), 3)
    end
  end
  local ttl = options and options.ttl
  if ttl ~= nil and not (type(ttl) == "number" and ttl > 0 and ttl < math.huge) then
    error(("set: ttl must be a positive number of seconds, got %s"):format(tostring(ttl)), 3)
  end
  return ttl and math.ceil(ttl)
end

-- true and the session of a key's TTL, which is nil when it has none; false, message, err when the key
-- cannot be read or is locked, because to replace it would free the lock.
local function session_of(consul, key)
  local success, message, meta = consul:kv_get(key)
  if not success then
    return false, message, meta
  end
  if meta.session and not end_of(meta.flags) then
    message = ('"%s" is locked by the session %s, which is of no TTL'):format(key, meta.session)
    return false, message, { kind = "conflict", message = message, retryable = true, maybe_applied = false }
  end
  return true, meta.session
end

-- Ends a session that holds nothing any more. If that fails it ends by itself.
local function forget(consul, session)
  if session then
    consul:session_destroy(session)
  end
end

local Client = {}
Client.__index = Client

-- value, nil; nil, nil when there is no such key; nil, message, err.
function Client:get(key)
  check("get", "key", key, "string")
  local success, value, meta = self.consul:kv_get(stripped(key))
  if not success then
    return nil, value, meta
  elseif is_over(meta.flags) then
    return nil, nil
  end
  return value, nil
end

-- true; nil, message, err. With options.ttl in seconds the key is gone when they are over, or a second
-- later, unless it was set again. Without it a TTL that the key had is over.
function Client:set(key, value, options)
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
      ttl = math.max(ttl, SHORTEST_TTL),
      behavior = "delete",
      lock_delay = 0,
      node_checks = {},
    })
    if not success then
      return nil, session, err
    end
    write.Verb, write.Session, write.Flags = "lock", session, MARK + os.time() + ttl + 1
  end

  -- A write alone would leave the key with the session that it had.
  local message
  success, message, err = self.consul:txn({ { KV = { Verb = "delete", Key = key } }, { KV = write } })
  if not success then
    if err.maybe_applied == false then
      forget(self.consul, session)
    end
    return nil, message, err
  end
  forget(self.consul, before)
  return true
end

-- true, also when there was no such key; nil, message, err.
function Client:delete(key)
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
  forget(self.consul, before)
  return true
end

-- A list of { key, value } of the keys that begin with a prefix, in the order of their bytes; nil,
-- message, err. The keys begin with `/` when the prefix does.
function Client:list(prefix)
  check("list", "prefix", prefix, "string")
  local success, entries, err = self.consul:kv_list(stripped(prefix))
  if not success then
    return nil, entries, err
  end
  local slash, found = prefix:match("^/?"), {}
  for _, entry in ipairs(entries) do
    if not is_over(entry.Flags) then
      found[#found + 1] = { key = slash .. entry.Key, value = entry.Value }
    end
  end
  return found, nil
end

-- true; nil, message, err. `info` has name, address, port, tags, and what else consul_ffi's
-- register_service takes.
function Client:register_service(id, info)
  check("register_service", "id", id, "string")
  check("register_service", "info", info, "table")
  local definition = {}
  for name, value in pairs(info) do
    definition[name] = value
  end
  definition.id = id
  local success, message, err = self.consul:register_service(definition)
  if not success then
    return nil, message, err
  end
  return true
end

-- true, also when there is no such instance; nil, message, err.
function Client:deregister_service(id)
  check("deregister_service", "id", id, "string")
  local success, message, err = self.consul:deregister_service(id)
  if not success and err.kind ~= "not_found" then
    return nil, message, err
  end
  return true
end

-- A list of { id, name, address, port, tags, meta, node } of the passing instances, nil; nil, message,
-- err.
function Client:discover_services(name)
  check("discover_services", "name", name, "string")
  local success, instances, err = self.consul:discover_services(name)
  if not success then
    return nil, instances, err
  end
  return instances, nil
end

function Client:close()
  self.consul:close()
end

-- A client; its field `consul` is the client of consul_ffi that it speaks through. Raises when the
-- options are not acceptable. Reads are linearizable, as etcd's are, unless `consistency` says else.
function etcd_ffi.new(options)
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
