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

-- As method, for what gives one value when it succeeds.
local function getter(call)
  return function(...)
    local ran, value, message, extra = pcall(call, ...)
    if not ran or value == nil then
      raise(3, ran, value, message, extra)
    elseif extra == nil then
      return value
    end
    return value, message, extra
  end
end

-- As getter, for what may be nil: a native function gives true before it.
local function getter_or_nil(call)
  return function(...)
    local ran, success, value, detail = pcall(call, ...)
    if not ran or not success then
      raise(3, ran, success, value, success == nil and detail or nil)
    end
    return value, detail
  end
end

local module = {
  _VERSION = native._VERSION,
}

-- A class whose objects `create` makes: a colon, a dot and a call are all in use.
local function constructed(class, create)
  local function make(argument)
    local ran, object, message, level = pcall(create, argument)
    if not ran or not object then
      raise(4, ran, object, message, level)
    end
    return object
  end
  function class.new(this, argument)
    if rawequal(this, class) or rawequal(this, module) then
      return (make(argument))
    end
    return (make(this))
  end
  setmetatable(class, {
    __call = function(_, argument)
      return (make(argument))
    end,
  })
end

-- A call in the background, and the handle on it.
local Handle = {}

ConsulClient.start = getter(native.handle.start)

for name, call in pairs(native.handle.methods) do
  Handle[name] = getter(call)
end

for _, name in ipairs({ "poll", "wait" }) do
  local call = native.handle.methods[name]
  Handle[name] = function(...)
    local ran, success, response, extra = pcall(call, ...)
    if not ran or success == nil then
      raise(3, ran, success, response, extra)
    elseif extra == nil then
      return success
    end
    return true, success, response, extra
  end
end

native.handle.set_index(Handle)

-- What becomes of what an endpoint reads, change by change.
local Watch = {}

ConsulClient.watch = getter(native.watch.open)
Watch.fd, Watch.close = getter(native.watch.methods.fd), getter(native.watch.methods.close)
Watch.next, Watch.poll = method(native.watch.methods.next), method(native.watch.methods.poll)

-- The changes until the watch is closed. What begins an outage is passed over.
function Watch.changes(watch)
  return function()
    while true do
      local success, change, extra = Watch.next(watch)
      if success then
        return change, extra
      elseif extra.kind == "closed" then
        return nil
      end
    end
  end
end

native.watch.set_index(Watch)

-- A service's instances, without a request for each answer.
local ServiceView = { pick = getter(native.view.pick) }

ConsulClient.service_view = getter(native.view.open)

for name, call in pairs(native.view.methods) do
  ServiceView[name] = getter(call)
end

native.view.set_index(ServiceView)

-- A lock or a semaphore.
local Lock = {}

ConsulClient.lock = getter(native.lock.lock)
ConsulClient.semaphore = getter(native.lock.semaphore)

for name, call in pairs(native.lock.methods) do
  Lock[name] = method(call)
end

for name, call in pairs(native.lock.getters) do
  Lock[name] = getter_or_nil(call)
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

constructed(ConsulClient, native.new)

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

-- What is known of a node, or of the leader: in text it is the node's id.
local Node = {}

function Node.__tostring(node)
  return tostring(node.id or node.node_id)
end

function Node.__concat(left, right)
  return tostring(left) .. tostring(right)
end

native.set_node_metatable(Node)

-- Which of some nodes a key belongs to.
local ConsistentHashRing = {
  get_node = getter_or_nil(native.ring.methods.get_node),
  get_nodes = getter_or_nil(native.ring.methods.get_nodes),
}

for _, name in ipairs({ "add_node", "remove_node", "get_replica_nodes" }) do
  ConsistentHashRing[name] = getter(native.ring.methods[name])
end

native.ring.set_index(function(ring, name)
  local member = ConsistentHashRing[name]
  if member == nil then
    return native.ring.field(ring, name)
  end
  return member
end)

constructed(ConsistentHashRing, native.ring.new)

-- A node of a cluster.
local ConsulHACluster = {}

for name, call in pairs(native.cluster.methods) do
  ConsulHACluster[name] = getter(call)
end

for name, call in pairs(native.cluster.getters) do
  ConsulHACluster[name] = getter_or_nil(call)
end

for name, call in pairs(native.cluster.replies) do
  ConsulHACluster[name] = method(call)
end

-- The events as they happen, until the node is stopped: for event, detail in cluster:events() do
function ConsulHACluster.events(cluster)
  return function()
    return ConsulHACluster.next_event(cluster)
  end
end

local cluster_field = getter_or_nil(native.cluster.field)

native.cluster.set_index(function(cluster, name)
  local member = ConsulHACluster[name]
  if member == nil then
    return (cluster_field(cluster, name))
  end
  return member
end)

constructed(ConsulHACluster, native.cluster.new)

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

module.simulator = simulator
module.json_decode = method(native.text.json_decode)
module.toml_decode = method(native.text.toml_decode)
module.ConsulClient = ConsulClient
module.ConsistentHashRing = ConsistentHashRing
module.ConsulHACluster = ConsulHACluster
module.new = ConsulClient.new
return module
