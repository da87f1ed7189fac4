-- Builds the table of the module from the native functions: classes, and the names of older programs.
-- Errors for misuse are raised as strings at the line of the caller.
local native = ...

-- The kinds of what native functions return; see Returned in runtime/native.rs.
local kinds = native.kinds
local SUCCESS, FAILURE = kinds.success, kinds.failure
local FINISHED_SUCCESS, FINISHED_FAILURE = kinds.finished_success, kinds.finished_failure
local VALUE, PAIR, MISUSE = kinds.value, kinds.pair, kinds.misuse

-- The text of the engines.
local NO_MEMORY = "not enough memory"

-- The error of a function that raised one itself. mlua raises a userdata, which neither concatenates
-- nor is printed by interpreters.
local function text_of(raised)
  if type(raised) ~= "userdata" then
    return raised
  end
  local is_text, text = pcall(tostring, raised)
  if not is_text or text:match("not enough memory") then
    return NO_MEMORY
  end
  return text:match("^(.-)\nstack traceback:") or text
end

-- Returns a function with the results of a native function: its values, or an error that is raised.
local function wrap(call)
  return function(...)
    local ran, kind, first, second = pcall(call, ...)
    if kind == SUCCESS then
      return true, first, second
    elseif kind == VALUE then
      return first
    elseif kind == PAIR then
      return first, second
    elseif kind == FAILURE then
      return false, first, second
    elseif kind == FINISHED_SUCCESS then
      return true, true, first, second
    elseif kind == FINISHED_FAILURE then
      return true, false, first, second
    elseif kind == MISUSE then
      error(first, 2)
    end
    -- Without memory for a message there is none.
    error(ran and (first or NO_MEMORY) or text_of(kind), 0)
  end
end

-- Errors and metadata as text: in ngx.log, print and the messages of interpreters.
local errors, metas = native.error_metatable, native.meta_metatable

function errors.__tostring(err)
  return tostring(err.message)
end

function errors.__concat(left, right)
  return tostring(left) .. tostring(right)
end

function metas.__tostring(meta)
  local members = {}
  for name, value in next, meta do
    members[#members + 1] = ("%s = %s"):format(tostring(name), tostring(value))
  end
  table.sort(members)
  return "{ " .. table.concat(members, ", ") .. " }"
end

-- The names of a table that begin with a prefix, in their order.
local function names_of(members, prefix, names)
  names = names or {}
  for name in next, members do
    if name:sub(1, #prefix) == prefix then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  return names
end

-- The metatable of lists of names, which print one on each line.
local Names = {
  __tostring = function(names)
    return table.concat(names, "\n")
  end,
}

-- Names of other libraries, for which the nearest names here are others.
local mistaken = {
  ConsulClient = {
    get = "kv_get",
    put = "kv_put",
    set = "kv_put",
    delete = "kv_delete",
    kv_set = "kv_put",
    kv_del = "kv_delete",
    register = "agent_service_register",
    lookup = "health_service",
  },
}

local nearest = wrap(native.nearest)

-- The result of an object without a member of a name for it: nothing for a name that is private by custom, which
-- libraries look for. For other names it raises an error, `level` levels above this function.
local function unknown(class_name, name, members, fields, level)
  if type(name) == "string" and name:find("^_") then
    return nil
  end
  local is_text = type(name) == "string"
  local hint = mistaken[class_name] and mistaken[class_name][name]
  if not hint and is_text then
    local near = nearest(name, names_of(fields, "", names_of(members, "")))
    hint = table.concat(near, ", "):gsub("(.*), ", "%1 or ")
  end
  hint = hint and hint ~= "" and ("; did you mean %s?"):format(hint) or ""
  error(("%s: a %s has no method or field of this name%s; its methods() has them all"):format(
    is_text and name or ("[%s]"):format(tostring(name)), class_name, hint), level + 1)
end

-- Returns a class with the methods of its native part, and gives its objects their metamethods.
local function class_of(part)
  local class, class_name, fields = {}, part.name, {}
  local metamethods = {}
  for name, call in pairs(part.methods) do
    (name:find("^__") and metamethods or class)[name] = wrap(call)
  end
  for name, call in pairs(part.fields or {}) do
    fields[name] = wrap(call)
  end
  metamethods.__close = class.close
  function metamethods.__index(object, name)
    local method = class[name]
    if method ~= nil then
      return method
    end
    local field = fields[name]
    if field then
      return field(object)
    end
    -- Not a tail call, which Lua 5.1 counts as a level of the stack.
    local none = unknown(class_name, name, class, fields, 2)
    return none
  end

  -- The names of its methods that begin with a prefix.
  function class.methods(object, prefix)
    if not part.is_object(object) then
      error("methods: call it with a colon, as in object:methods(…)", 2)
    elseif prefix ~= nil and type(prefix) ~= "string" then
      error("methods: prefix must be a string, got a " .. type(prefix), 2)
    end
    return setmetatable(names_of(class, prefix or ""), Names)
  end

  -- Its methods, then its fields, by name.
  function metamethods.__pairs(object)
    local names, place = names_of(class, ""), 0
    for _, name in ipairs(names_of(fields, "")) do
      names[#names + 1] = name
    end
    return function()
      place = place + 1
      local name = names[place]
      if name then
        return name, object[name]
      end
    end, object, nil
  end

  part.set_metamethods(metamethods)
  return class
end

local module = {
  _VERSION = native._VERSION,
}

-- Prints the reference of a name. Its file is loaded when somebody asks.
function module.help(name)
  local help = require("consul_ffi.help")
  help(name)
end

-- Lets programs create objects of a class with a colon, a dot or a call: all are in use.
local function constructed(class, create)
  class.new = wrap(function(this, argument)
    if rawequal(this, class) or rawequal(this, module) then
      return create(argument)
    end
    return create(this)
  end)
  setmetatable(class, {
    __call = wrap(function(_, argument)
      return create(argument)
    end),
  })
end

local ConsulClient = class_of(native.client)
ConsulClient.destroy = ConsulClient.close
constructed(ConsulClient, native.client.new)

class_of(native.handle)
class_of(native.loop_call)

local Watch = class_of(native.watch)

-- A function that returns the changes until the watch is closed: for change, meta in watch:changes() do. Errors, which
-- begin an outage, are skipped.
local function changes_of(class)
  return function(watch)
    return function()
      while true do
        local success, change, extra = class.next(watch)
        if success then
          return change, extra
        elseif extra.kind == "closed" then
          return nil
        end
      end
    end
  end
end

Watch.changes = changes_of(Watch)

class_of(native.view)

class_of(native.views)

-- The events until there are no more: for event, detail in lock:events() do
local function events_of(class)
  return function(object)
    return function()
      return class.next_event(object)
    end
  end
end

local Lock = class_of(native.lock)
Lock.events = events_of(Lock)

-- The names of older programs.

-- A copy without the metamethods of the caller.
local function copy(options)
  local copied = {}
  for name, value in next, options do
    copied[name] = value
  end
  return copied
end

local methods = native.client.methods

-- A metatable for tables that older programs use as text. They print, concatenate and have the methods of a
-- string; Lua does not let them be used in table.concat or as the key of a string.
local function of_text(text)
  return {
    __tostring = text,
    __concat = function(left, right)
      return tostring(left) .. tostring(right)
    end,
    __index = function(_, name)
      local of_string = string[name]
      return of_string and function(this, ...)
        return of_string(tostring(this), ...)
      end
    end,
  }
end

-- The same for tables that are not lists. They also compare as text, with each other and, where Lua calls
-- these for different types, with strings; Lua 5.3 and 5.4 take their length.
local function of_id(text)
  local metatable = of_text(text)
  function metatable.__eq(left, right)
    return tostring(left) == tostring(right)
  end
  function metatable.__lt(left, right)
    return tostring(left) < tostring(right)
  end
  function metatable.__le(left, right)
    return tostring(left) <= tostring(right)
  end
  function metatable.__len(this)
    return #tostring(this)
  end
  return metatable
end

-- The entries from which discover_services made its list, by that list.
local entries_of = setmetatable({}, { __mode = "k" })

-- The metatable of lists that read as the JSON that Consul answered.
local List = of_text(function(list)
  local entries = entries_of[list] or list
  return #entries == 0 and "[]" or wrap(native.older.json)(entries)
end)

-- The results of a native function, with the text that Consul answered instead of true.
local function as_text(kind, first, second)
  if kind == SUCCESS and first == true then
    first = "true"
  end
  return kind, first, second
end

local function as_list(kind, first, second)
  if kind == SUCCESS and type(first) == "table" then
    setmetatable(first, List)
  end
  return kind, first, second
end

local function as_it_is(...)
  return ...
end

-- kv_get(key, true) and kv_get(key, { recurse = true }) are kv_list(key). In the old form, without a table of
-- options, `old` converts the results of `one`, and `old_tree` the results of `tree`.
local function or_tree(one, old, tree, old_tree)
  return wrap(function(client, key, options, ...)
    if options == nil or options == false then
      return old(one(client, key, nil, ...))
    elseif options == true then
      return old_tree(tree(client, key, ...))
    elseif type(options) == "table" and rawget(options, "recurse") ~= nil then
      local rest = copy(options)
      rest.recurse = nil
      if rawget(options, "recurse") then
        return old_tree(tree(client, key, rest, ...))
      end
      return one(client, key, rest, ...)
    end
    return one(client, key, options, ...)
  end)
end

ConsulClient.kv_get = or_tree(methods.kv_get, as_it_is, methods.kv_list, as_list)
ConsulClient.kv_delete = or_tree(methods.kv_delete, as_text, methods.kv_delete_tree, as_text)

-- The metatable of the id of a session, which as text is the JSON that Consul answered.
local Session = of_id(function(session)
  return '{"ID":"' .. session.id .. '"}'
end)

-- The id of a session or a node, also when it is given as the result of create_session or as the node's table.
local function id_of(given)
  return type(given) == "table" and (rawget(given, "id") or rawget(given, "node_id")) or given
end

local SESSION_OPTIONS = { "acquire", "release" }

ConsulClient.kv_put = wrap(function(client, key, value, options, ...)
  if options == nil then
    return as_text(methods.kv_put(client, key, value, nil, ...))
  end
  for _, name in ipairs(type(options) == "table" and SESSION_OPTIONS or {}) do
    if type(rawget(options, name)) == "table" then
      options = copy(options)
      options[name] = id_of(options[name])
    end
  end
  return methods.kv_put(client, key, value, options, ...)
end)

for _, name in ipairs({ "session_renew", "session_info", "session_destroy" }) do
  ConsulClient[name] = wrap(function(client, session, ...)
    return methods[name](client, id_of(session), ...)
  end)
end

-- register_service(id, name, address, port, tags), (name, address, port, tags) or one table; then options.
ConsulClient.register_service = wrap(function(client, id, ...)
  if type(id) == "table" then
    return as_text(methods.register_service(client, id, ...))
  end
  local name, address, port, tags = ...
  local others = 5
  if type(address) == "number" then
    id, name, address, port, tags = nil, id, name, address, port
    others = 4
  end
  local definition = { ID = id, Name = name, Address = address, Port = tonumber(port) or port, Tags = tags }
  return as_text(methods.register_service(client, definition, select(others, ...)))
end)

ConsulClient.deregister_service = wrap(function(client, ...)
  return as_text(methods.deregister_service(client, ...))
end)

-- The instances that pass their checks, as { id, name, address, port, tags, meta, node }.
ConsulClient.discover_services = wrap(function(client, name, options, ...)
  if options == nil then
    options = { passing = true }
  elseif type(options) == "table" then
    options = copy(options)
    if options.passing == nil then
      options.passing = true
    end
  end
  local kind, response, extra = methods.discover_services(client, name, options, ...)
  if kind ~= SUCCESS then
    return kind, response, extra
  end
  local instances = setmetatable({}, List)
  for i, entry in ipairs(response) do
    local service, node = entry.Service, entry.Node
    local address = service.Address
    instances[i] = {
      id = service.ID,
      name = service.Service,
      address = (address and address ~= "") and address or node.Address,
      port = service.Port or 0,
      tags = service.Tags or {},
      meta = service.Meta or {},
      node = node.Node,
    }
  end
  entries_of[instances] = response
  return kind, instances, extra
end)

-- Keeps the session's TTL of 30 s and the end of its keys with it, as the older module did.
ConsulClient.create_session = wrap(function(client, name, ttl, ...)
  local definition = { Name = name, TTL = ttl or "30s", Behavior = "delete" }
  local kind, first, second = methods.create_session(client, definition, ...)
  if kind == SUCCESS then
    first = setmetatable({ id = first, ID = first }, Session)
  end
  return kind, first, second
end)

ConsulClient.destroy_session = wrap(function(client, session, ...)
  return as_text(methods.destroy_session(client, id_of(session), ...))
end)

-- The metatable of the table of a node, or of the leader: as text it is the id of the node.
local Node = of_id(function(node)
  return tostring(node.id or node.node_id)
end)

native.set_node_metatable(Node)

local ConsistentHashRing = class_of(native.ring)
constructed(ConsistentHashRing, native.ring.new)

local ConsulHACluster = class_of(native.cluster)
ConsulHACluster.events = events_of(ConsulHACluster)
constructed(ConsulHACluster, native.cluster.new)

local ReplicatedStore = class_of(native.store)
local page = native.store.methods.read

-- The records of a range, read in pages: for record, message, err in store:read(key, options) do. The first page is
-- read at once. After an error, which comes as false, message, err, there are no more.
ReplicatedStore.read = wrap(function(store, key, options)
  local kind, records, extra = page(store, key, options)
  if kind ~= SUCCESS and kind ~= FAILURE then
    return kind, records
  end
  local index, taken = 0, 0
  return VALUE, wrap(function()
    while kind == SUCCESS do
      index = index + 1
      if records[index] ~= nil then
        return VALUE, records[index]
      elseif extra.next == nil then
        return VALUE, nil
      end
      taken, index = taken + #records, 0
      kind, records, extra = page(store, key, options, extra.next, taken)
    end
    local failed, message, err = kind, records, extra
    kind, records, extra = SUCCESS, {}, {}
    return failed, message, err
  end)
end)

-- Older programs have the id of a node where a node's table is now.
ConsulHACluster.call = wrap(function(cluster, node, ...)
  return native.cluster.methods.call(cluster, id_of(node), ...)
end)

-- A request of another node, as its handler gets it.
local Request = {}

-- The deferred requests. A request that the program has dropped fails at its caller.
local deferred = setmetatable({}, { __mode = "k" })

Request.defer = wrap(function(request)
  local kind, first = native.request.defer(request)
  if kind ~= VALUE then
    return kind, first
  end
  deferred[request] = first
  return VALUE, request
end)

for name, answer in pairs(native.request.methods) do
  Request[name] = wrap(function(request, ...)
    local open = request ~= nil and deferred[request]
    if not open then
      return MISUSE, name .. ": call request:defer() first, in the handler of the request"
    end
    return answer(open, ...)
  end)
end

native.request.set_metamethods({})
native.request.set_metatable({ __index = Request })

class_of(native.simulator)

class_of(native.file)

class_of(native.status)

module.simulator = wrap(native.simulator.open)
module.json_decode = wrap(native.decode.json_decode)
module.json_encode = wrap(native.decode.json_encode)
module.array = wrap(native.decode.array)
module.toml_decode = wrap(native.decode.toml_decode)
module.base64_encode = wrap(native.decode.base64_encode)
module.base64_decode = wrap(native.decode.base64_decode)
module.metrics = wrap(native.metrics)
module.serve_status = wrap(native.status.open)
module.read_file = wrap(native.file.read)
module.log_file = wrap(native.file.open)
module.ConsulClient = ConsulClient
module.ConsistentHashRing = ConsistentHashRing
module.ConsulHACluster = ConsulHACluster
module.new = ConsulClient.new
-- Lua 5.1 counts a tail call as a level of the stack.
local BEFORE_TAIL_CALL = _VERSION == "Lua 5.1" and not rawget(_G, "jit") and 3 or 2

-- Has the methods of a class of our Lua modules raise an error at the line of the caller, also an error that a native
-- method has raised in `file`, the module's; none of them may call a function of the program. `is_object` recognises
-- their objects.
local function raise_at_caller(class, file, is_object)
  local place = "^[^\n]-" .. file .. "%.lua:%d+: "
  local function finished(ran, ...)
    if ran then
      return ...
    end
    local raised = ...
    local is_text = type(raised) == "string" and raised ~= NO_MEMORY
    error(is_text and raised:gsub(place, "") or raised, is_text and BEFORE_TAIL_CALL or 0)
  end
  for name, method in pairs(class) do
    class[name] = name:find("^_") and method or function(object, ...)
      if not is_object(object) then
        error(("%s: call it with a colon, as in object:%s(…)"):format(name, name), 2)
      end
      return finished(pcall(method, object, ...))
    end
  end
end

-- A member of an object as `object[name]`, but an unknown name is raised at the line of the function that looks for it
-- in the caller's object.
local function member(object, name)
  local found, value = pcall(function()
    return object[name]
  end)
  if not found then
    error(type(value) == "string" and value:gsub("^consul_ffi:%d+: ", "") or value, 3)
  end
  return value
end

-- For our own Lua modules, not for programs.
module._internal = {
  -- Differs when our Lua modules need another native module than before; the same as in consul_native.lua.
  revision = 6,
  in_loop = wrap(native.client.in_loop),
  log = wrap(native.older.log),
  call = wrap(native.older.call),
  warn = wrap(native.older.warn),
  warn_once = wrap(native.older.warn_once),
  option_like = wrap(native.older.option_like),
  node_id = wrap(native.older.node_id),
  of_text = of_text,
  member = member,
  is_loop_call = native.loop_call.is_object,
  changes_of = changes_of,
  events_of = events_of,
  raise_at_caller = raise_at_caller,
  options = native.older.options,
}
-- For Lua modules before revision 4, which say by it that this native module is of another version.
module._older = { revision = module._internal.revision }
return module
