-- Builds the module's table from the native functions: classes, the names of older programs, and
-- errors for misuse, which are raised as plain strings at the caller's line.
local native = ...

local ConsulClient = {}

-- Raises what a native function could not do: `position` is the caller's level for misuse.
--
-- It gave nil, a message and perhaps a level of its own; nothing at all when there was no memory for
-- a message; or mlua raised a userdata, which neither concatenates nor is printed by interpreters.
local function raise(position, ran, success, message, level)
  if ran then
    error(message or "not enough memory", message and (level or position) or 0)
  elseif type(success) == "userdata" then
    local text = tostring(success)
    error(text:match("not enough memory") or text:match("^(.-)\nstack traceback:") or text, 0)
  end
  error(success, 0)
end

-- This is no tail call, so that the error's position is the caller's.
local function method(call)
  return function(...)
    local ran, success, response, extra = pcall(call, ...)
    if not ran or success == nil then
      raise(3, ran, success, response, extra)
    end
    return success, response, extra
  end
end

for name, call in pairs(native.methods) do
  ConsulClient[name] = method(call)
end

ConsulClient.batch = method(native.batch)

-- A call in the background, and the handle on it.
local Handle = {}

function ConsulClient.start(...)
  local ran, handle, message, level = pcall(native.handle.start, ...)
  if not ran or not handle then
    raise(3, ran, handle, message, level)
  end
  return handle
end

for name, call in pairs(native.handle.methods) do
  local gives_results = name == "poll" or name == "wait"
  Handle[name] = function(...)
    local ran, success, response, extra = pcall(call, ...)
    if not ran or success == nil then
      raise(3, ran, success, response, extra)
    elseif extra == nil then
      return success
    elseif gives_results then
      return true, success, response, extra
    end
    return success, response, extra
  end
end

native.handle.set_index(Handle)

-- A lock or a semaphore.
local Lock = {}

local function maker(make)
  return function(...)
    local ran, lock, message, err = pcall(make, ...)
    if not ran or lock == nil then
      raise(3, ran, lock, message, err)
    elseif lock then
      return lock
    end
    return lock, message, err
  end
end

ConsulClient.lock = maker(native.lock.lock)
ConsulClient.semaphore = maker(native.lock.semaphore)

for name, call in pairs(native.lock.methods) do
  Lock[name] = method(call)
end

for name, call in pairs(native.lock.getters) do
  Lock[name] = function(...)
    local ran, success, value, detail = pcall(call, ...)
    if not ran or not success then
      raise(3, ran, success, value, success == nil and detail or nil)
    end
    return value, detail
  end
end

-- The events as they happen, until no more come: for event, detail in lock:events() do
function Lock.events(lock)
  return function()
    return Lock.next_event(lock)
  end
end

native.lock.set_index(Lock)

local FIELDS = { initialized = true, consul_url = true, timeout = true, simulate = true }

native.set_index(function(client, name)
  local member = ConsulClient[name]
  if member == nil and FIELDS[name] then
    return native.field(client, name)
  end
  return member
end)

local function new(config)
  local ran, client, message, level = pcall(native.new, config)
  if not ran or not client then
    raise(4, ran, client, message, level)
  end
  return client
end

-- Both ConsulClient:new(config) and ConsulClient.new(config) are in use.
function ConsulClient.new(class, config)
  if class == ConsulClient then
    return (new(config))
  end
  return (new(class))
end

setmetatable(ConsulClient, {
  __call = function(_, config)
    return (new(config))
  end,
})

ConsulClient.close = method(native.close)
ConsulClient.destroy = ConsulClient.close

-- The names of older programs.

-- No metamethod of the caller's runs.
local function copy(options)
  local copied = {}
  for name, value in next, options do
    copied[name] = value
  end
  return copied
end

local get, delete = native.methods.kv_get, native.methods.kv_delete
local list, delete_tree = native.methods.kv_list, native.methods.kv_delete_tree

-- kv_get(key, true) and kv_get(key, { recurse = true }) are kv_list(key).
local function or_tree(one, tree)
  return method(function(client, key, options, ...)
    if options == true then
      return tree(client, key, ...)
    elseif type(options) == "table" and rawget(options, "recurse") ~= nil then
      local rest = copy(options)
      rest.recurse = nil
      return (rawget(options, "recurse") and tree or one)(client, key, rest, ...)
    elseif options == false then
      options = nil
    end
    return one(client, key, options, ...)
  end)
end

ConsulClient.kv_get = or_tree(get, list)
ConsulClient.kv_delete = or_tree(delete, delete_tree)

-- register_service(id, name, address, port, tags), (name, address, port, tags) or one table.
function ConsulClient.register_service(client, id, name, address, port, tags)
  local definition = id
  if type(id) ~= "table" then
    if type(address) == "number" then
      id, name, address, port, tags = nil, id, name, address, port
    end
    definition = { ID = id, Name = name, Address = address, Port = port, Tags = tags }
  end
  return ConsulClient.agent_service_register(client, definition)
end

function ConsulClient.deregister_service(client, id)
  return ConsulClient.agent_service_deregister(client, id)
end

-- The instances that pass their checks, as { id, name, address, port, tags, meta, node }.
function ConsulClient.discover_services(client, name, options)
  if options == nil then
    options = { passing = true }
  elseif type(options) == "table" then
    options = copy(options)
    if options.passing == nil then
      options.passing = true
    end
  end
  local success, response, extra = ConsulClient.health_service(client, name, options)
  if not success then
    return success, response, extra
  end
  for i, entry in ipairs(response) do
    local service, node = entry.Service, entry.Node
    local address = service.Address
    response[i] = {
      id = service.ID,
      name = service.Service,
      address = (address and address ~= "") and address or node.Address,
      port = service.Port or 0,
      tags = service.Tags or {},
      meta = service.Meta or {},
      node = node.Node,
    }
  end
  return success, response, extra
end

-- A session's id that also reads as the JSON text it came in.
local Session = {}

function Session.__tostring(session)
  return '{"ID":"' .. session.id .. '"}'
end

function Session.__concat(left, right)
  return tostring(left) .. tostring(right)
end

function Session.__index(_, name)
  local of_string = string[name]
  return of_string and function(session, ...)
    return of_string(tostring(session), ...)
  end
end

function ConsulClient.create_session(client, name, ttl)
  local success, response, extra = ConsulClient.session_create(client, { Name = name, TTL = ttl })
  if success then
    response = setmetatable({ id = response, ID = response }, Session)
  end
  return success, response, extra
end

function ConsulClient.destroy_session(client, session)
  return ConsulClient.session_destroy(client, type(session) == "table" and rawget(session, "id") or session)
end

-- A simulated agent for tests; what a method was misused for is raised.
local Simulator = {}

for name, call in pairs(native.simulator.methods) do
  Simulator[name] = function(...)
    local ran, success, value, level = pcall(call, ...)
    if not ran or success == nil then
      raise(3, ran, success, value, level)
    end
    return value
  end
end

native.simulator.set_index(Simulator)

local function simulator(name, options)
  local ran, agent, message, level = pcall(native.simulator.open, name, options)
  if not ran or not agent then
    raise(3, ran, agent, message, level)
  end
  return agent
end

return {
  _VERSION = native._VERSION,
  simulator = simulator,
  ConsulClient = ConsulClient,
  new = function(config)
    return (new(config))
  end,
}
