-- A helper of busted: watches all calls of the module and of our Lua modules while specs run, and compares the types of
-- arguments and results with the annotations. At the end it prints a line for each that differs, and a last line
-- with the number of functions that were called and of those that are annotated. Calls that raise are not compared.
--
--   busted --helper=spec/seen_types.lua spec/consul_ffi
--
-- spec/annotations_spec.lua runs it.
local FILES = {
  consul_ffi = "lua/meta/library/consul_ffi.d.lua",
  ["consul_ffi.balancer"] = "lua/consul_ffi/balancer.lua",
  consul_ha_cluster = "lua/consul_ha_cluster.lua",
  consul_production_config = "lua/consul_production_config.lua",
  consul_quorum = "lua/consul_quorum.lua",
  consistent_hash_cluster = "lua/consistent_hash_cluster.lua",
  etcd_ffi = "etcd/lua/etcd_ffi.lua",
  etcd_ha = "etcd/lua/etcd_ha.lua",
  ["resty.consul"] = "resty/lua/resty/consul.lua",
}

-- Sources with classes of these modules.
local MORE = { "lua/consul_production/manager.lua", "lua/meta/library/consul_production.d.lua" }

local busted = require("busted")

local unpack = rawget(_G, "unpack") or rawget(table, "unpack")

-- The classes by name, { fields, bases, methods }; the names of types that are texts.
local classes, aliases = {}, {}

-- Types: texts -> trees.

local parse_type

-- Returns the end of a name, a literal or what stands in brackets at `at`.
local function closing(text, at)
  local depth = 0
  for i = at, #text do
    local c = text:sub(i, i)
    if c:find("[({<]") then
      depth = depth + 1
    elseif c:find("[)}>]") then
      depth = depth - 1
      if depth == 0 then
        return i
      end
    end
  end
  error("no end: " .. text:sub(at))
end

-- Divides a text at a separator outside of brackets.
local function divided(text, separator)
  local parts, depth, start = {}, 0, 1
  for i = 1, #text do
    local c = text:sub(i, i)
    if c:find("[({<]") then
      depth = depth + 1
    elseif c:find("[)}>]") then
      depth = depth - 1
    elseif c == separator and depth == 0 then
      parts[#parts + 1], start = text:sub(start, i - 1), i + 1
    end
  end
  parts[#parts + 1] = text:sub(start)
  return parts
end

local function trimmed(text)
  return (text:match("^%s*(.-)%s*$"))
end

local function parse_fields(text)
  local tree = { kind = "record", fields = {}, others = nil }
  for _, part in ipairs(divided(text, ",")) do
    part = trimmed(part)
    local name, mark, of = part:match("^([%w_]+)(%??):%s*(.*)$")
    if name then
      tree.fields[name] = parse_type(mark == "?" and "(" .. of .. ")?" or of)
    elseif part ~= "" then
      tree.others = parse_type(part:match("^%[.-%]:%s*(.*)$"))
    end
  end
  return tree
end

local function parse_one(text)
  local tree, at
  if text:find("^%(") then
    at = closing(text, 1)
    tree = parse_type(text:sub(2, at - 1))
  elseif text:find("^{") then
    at = closing(text, 1)
    tree = parse_fields(text:sub(2, at - 1))
  elseif text:find("^table<") then
    at = closing(text, 6)
    local inner = divided(text:sub(7, at - 1), ",")
    tree = { kind = "map", key = parse_type(trimmed(inner[1])), value = parse_type(trimmed(inner[2])) }
  elseif text:find("^fun%(") then
    return { kind = "name", name = "function" }
  elseif text:find('^"') then
    at = text:find('"', 2, true)
    tree = { kind = "literal", value = text:sub(2, at - 1) }
  else
    at = select(2, text:find("^[%w_.]+"))
    tree = { kind = "name", name = assert(at, "no type: " .. text) and text:sub(1, at) }
  end
  while at < #text do
    local mark = text:sub(at + 1)
    if mark:find("^%[%]") then
      tree, at = { kind = "list", of = tree }, at + 2
    elseif mark:find("^%?") then
      tree, at = { kind = "union", { kind = "name", name = "nil" }, tree }, at + 1
    else
      error("not a type: " .. text)
    end
  end
  return tree
end

local parsed = {}

function parse_type(text)
  if not parsed[text] then
    local tree = { kind = "union" }
    local parts = text:find("^fun%(") and { text } or divided(text, "|")
    for i, part in ipairs(parts) do
      tree[i] = parse_one(trimmed(part))
    end
    parsed[text] = #tree == 1 and tree[1] or tree
  end
  return parsed[text]
end

-- Returns a type and what follows it: a type has spaces only in brackets and after a colon or a comma.
local function type_and_rest(text)
  local depth, before = 0, " "
  for i = 1, #text do
    local c = text:sub(i, i)
    if c:find("[({<]") then
      depth = depth + 1
    elseif c:find("[)}>]") then
      depth = depth - 1
    elseif c == " " and depth == 0 and not before:find("[:,]") then
      return text:sub(1, i - 1), text:sub(i + 1)
    end
    before = c
  end
  return text, ""
end

-- Annotations.

local function class_of(name)
  classes[name] = classes[name] or { name = name, fields = {}, bases = {}, methods = {} }
  return classes[name]
end

-- Reads the annotations of a file. Returns the functions of the module, by name.
local function read(path, module)
  local of_module, by_local = {}, {}
  local block = {}
  local file = assert(io.open(path))
  for line in file:lines() do
    local tag, rest = line:match("^%-%-%-@(%w+)%s*(.*)$")
    if tag == "class" then
      local name, bases = rest:match("^([%w_.]+):?%s*(.*)$")
      block.class = class_of(name)
      for _, base in ipairs(divided(bases, ",")) do
        table.insert(block.class.bases, base ~= "" and trimmed(base) or nil)
      end
    elseif tag == "alias" then
      local name, of = rest:match("^([%w_.]+)%s*(.*)$")
      aliases[name], block.alias = of ~= "" and of or nil, name
    elseif line:find("^%-%-%-| ") then
      local literal = line:match('^%-%-%-| (".-")')
      aliases[block.alias] = (aliases[block.alias] and aliases[block.alias] .. "|" or "") .. literal
    elseif tag == "field" then
      local name, mark, of = rest:match("^([%w_]+)(%??) (.*)$")
      if name then
        of = type_and_rest(of)
        block.class.fields[name] = parse_type(mark == "?" and "(" .. of .. ")?" or of)
      else
        block.class.others = parse_type((type_and_rest(rest:match("^%[.-%] (.*)$"))))
      end
    elseif tag == "param" then
      local name, mark, of = rest:match("^([%w_.]+)(%??) ?(.*)$")
      of = type_and_rest(of)
      block.params = block.params or {}
      table.insert(block.params, { name = name, of = parse_type(mark == "?" and "(" .. of .. ")?" or of) })
    elseif tag == "return" then
      block.returns = block.returns or {}
      table.insert(block.returns, { of = parse_type((type_and_rest(rest))), text = (type_and_rest(rest)) })
    elseif line:find("^%-%-%-") then
      block.is_annotated = true
    else
      local owner, colon, name = line:match("^function ([%w_]+)([.:])([%w_]+)%(")
      local made = line:match("^local ([%w_]+) =")
      if made and block.class then
        by_local[made] = block.class
      end
      if name and next(block) then
        local signature = {
          params = block.params or {},
          returns = block.returns or {},
          is_method = colon == ":",
          is_constructor = name == "new",
          is_iterator = name == "poll_event" or name == "next_event",
        }
        local class = by_local[owner]
        if class and class.name ~= module then
          signature.name = class.name .. ":" .. name
          class.methods[name] = signature
        else
          signature.name = module .. "." .. name
          of_module[name] = signature
        end
      end
      block = {}
    end
  end
  file:close()
  return of_module
end

-- Comparison.

local found, called = {}, {}

local function report(text)
  found[text] = true
end

local fits

local register

-- All fields and methods of a class and its bases.
local function member(class, kind, name)
  if class[kind][name] then
    return class[kind][name]
  end
  for _, base in ipairs(class.bases) do
    local of_base = classes[base] and member(classes[base], kind, name)
    if of_base then
      return of_base
    end
  end
end

local function each_field(class, visit)
  for name, of in pairs(class.fields) do
    visit(name, of)
  end
  for _, base in ipairs(class.bases) do
    if classes[base] then
      each_field(classes[base], function(name, of)
        if not class.fields[name] then
          visit(name, of)
        end
      end)
    end
  end
end

local function has_methods(class)
  if next(class.methods) then
    return true
  end
  for _, base in ipairs(class.bases) do
    if classes[base] and has_methods(classes[base]) then
      return true
    end
  end
  return false
end

-- Returns nil if a table has the fields; else what differs.
local function differs(value, others, each, known)
  local why
  each(function(name, of)
    local reason = not why and fits(of, value[name])
    why = why or reason and ("%s: %s"):format(name, reason) or nil
  end)
  for name, one in next, value do
    if why then
      break
    elseif known(name) == nil then
      local reason = "is not annotated"
      if others then
        reason = fits(others, one)
      end
      why = reason and ("%s %s"):format(tostring(name), reason)
    end
  end
  return why
end

local BASIC = {
  string = "string", number = "number", boolean = "boolean", table = "table", ["nil"] = "nil",
  ["function"] = "function", userdata = "userdata", thread = "thread",
}

local function described(value)
  if type(value) == "string" then
    return ("%q"):format(value:sub(1, 40))
  elseif type(value) == "table" then
    local names = {}
    for name in pairs(value) do
      names[#names + 1] = tostring(name)
      if #names == 6 then
        break
      end
    end
    table.sort(names)
    return "a table with " .. table.concat(names, ", ")
  end
  return type(value) .. " " .. tostring(value):gsub("0x%x+", "")
end

-- Returns nil if a value has the type; else why not.
function fits(tree, value)
  local kind = tree.kind
  if kind == "union" then
    local why
    for _, one in ipairs(tree) do
      local reason = fits(one, value)
      if not reason then
        return nil
      end
      why = why and why .. "; " .. reason or reason
    end
    return why
  elseif kind == "literal" then
    return value ~= tree.value and "got " .. described(value) or nil
  elseif kind == "list" or kind == "map" then
    if type(value) ~= "table" then
      return "got " .. described(value)
    end
    for name, one in next, value do
      local why = kind == "list" and type(name) ~= "number" and "has the name " .. tostring(name)
        or kind == "map" and fits(tree.key, name) or fits(tree.of or tree.value, one)
      if why then
        return ("[%s] %s"):format(kind == "list" and "" or type(name) == "number" and "n" or tostring(name), why)
      end
    end
    return nil
  elseif kind == "record" then
    if type(value) ~= "table" then
      return "got " .. described(value)
    end
    -- The fields of Consul's bodies may have their names in small letters: ServiceID is service_id.
    local plain = {}
    for name in pairs(tree.fields) do
      plain[name:lower():gsub("_", "")] = true
    end
    return differs(value, tree.others, function(visit)
      for name, of in pairs(tree.fields) do
        visit(name, of)
      end
    end, function(name)
      return type(name) == "string" and plain[name:lower():gsub("_", "")] or nil
    end)
  end
  local name = tree.name
  if name == "any" or name == "self" then
    return nil
  elseif (name == "integer" or name == "number") and type(value) == "cdata" then
    return nil
  elseif name == "integer" then
    return (type(value) ~= "number" or value % 1 ~= 0) and "got " .. described(value) or nil
  elseif name == "true" or name == "false" then
    return value ~= (name == "true") and "got " .. described(value) or nil
  elseif BASIC[name] then
    return type(value) ~= BASIC[name] and "got " .. described(value) or nil
  elseif aliases[name] then
    return fits(parse_type(aliases[name]), value)
  end
  local class = classes[name]
  if not class then
    return "the type " .. name .. " is not annotated"
  elseif has_methods(class) then
    return register(class, value)
  elseif type(value) ~= "table" then
    -- A node's table stands for its id in older programs, and the other way round.
    return not (member(class, "bases", 1) == "string" and type(value) == "string") and "got " .. described(value) or nil
  end
  return differs(value, class.others, function(visit)
    each_field(class, visit)
  end, function(field)
    return member(class, "fields", field)
  end)
end

-- Watching.

-- The exceptions: older programs' forms, which a language server should mark, tables that are changed later, and
-- functions with more than one form.
local exempt = {}
for _, name in ipairs({
  "ConsulClient:kv_get", "ConsulClient:kv_delete",
  "ConsulHACluster:start", "ConsulHACluster:get_live_nodes", "ConsulHACluster:get_node_for_key",
  "ConsulHACluster:get_replica_nodes",
}) do
  exempt["consul_ffi." .. name] = true
end

local function check_arguments(signature, first, ...)
  local arguments, count = { ... }, select("#", ...)
  -- A constructor is called with a dot or a colon.
  local has_owner = signature.is_method
  if signature.is_constructor then
    has_owner = type(first) == "table" and rawget(first, "new") ~= nil
  end
  if not has_owner then
    arguments, count = { first, ... }, count + 1
  end
  for i, param in ipairs(signature.params) do
    if param.name == "..." then
      return
    end
    local why = fits(param.of, arguments[i])
    if why then
      report(("%s: the argument %s: %s"):format(signature.name, param.name, why))
    end
  end
  -- A loop calls an iterator with its last result.
  for i = #signature.params + 1, signature.is_iterator and 0 or count do
    if arguments[i] ~= nil then
      report(("%s: argument %d is not annotated: %s"):format(signature.name, i, described(arguments[i])))
    end
  end
end

local ERROR = parse_type("consul_ffi.Error")

-- Compares what a call returned. After `false` as success come a message and an error.
local function check_results(signature, ...)
  local results, count = { ... }, select("#", ...)
  local first = signature.returns[1]
  local has_failed = first and results[1] == false and type(results[2]) == "string" and first.text ~= "true"
  if has_failed and #signature.returns == 1 then
    -- The results of a failure are left out where the object alone makes more sense to a language server.
    count = 1
    local why = fits(ERROR, results[3])
    if why then
      report(("%s: the error: %s"):format(signature.name, why))
    end
  end
  for i, returned in ipairs(signature.returns) do
    local why
    if has_failed and (i == 2 or #signature.returns == 1) then
      why = nil
    elseif has_failed and i == 3 and results[3] ~= nil then
      why = fits(ERROR, results[3])
    else
      why = fits(returned.of, results[i])
    end
    if why then
      report(("%s: result %d: %s"):format(signature.name, i, why))
    end
  end
  for i = #signature.returns + 1, count do
    if results[i] ~= nil then
      report(("%s: result %d is not annotated: %s"):format(signature.name, i, described(results[i])))
    end
  end
end

-- The watched functions. Calls that our Lua modules make themselves are compared too.
local wrapped = setmetatable({}, { __mode = "k" })

local function watched(signature, fn)
  if wrapped[fn] then
    return fn
  end
  local function finished(arguments, ran, ...)
    if not ran then
      local raised = ...
      local has_place = type(raised) ~= "string" or raised:find("^[^\n]-%.lua:%d+: ")
      error(raised, has_place and 0 or 3)
    end
    called[signature.name] = true
    if exempt[signature.name] then
      return ...
    end
    -- A call may refuse an argument by its results.
    if (...) then
      check_arguments(signature, unpack(arguments, 1, arguments.n))
    end
    check_results(signature, ...)
    return ...
  end
  local function watching(...)
    local arguments = { n = select("#", ...), ... }
    return finished(arguments, pcall(fn, ...))
  end
  wrapped[watching] = true
  return watching
end

-- The tables of methods that were compared, with their classes.
local registered = {}

-- The table with an object's methods.
local function methods_of(value)
  local metatable = debug.getmetatable(value)
  local index = type(metatable) == "table" and rawget(metatable, "__index")
  if type(index) ~= "function" then
    return type(index) == "table" and index or nil
  end
  for i = 1, math.huge do
    local name, held = debug.getupvalue(index, i)
    if not name or type(held) == "table" and (name == "class" or name:find("^%u")) then
      return held
    end
  end
end

local function watch_methods(class, methods)
  for name, signature in pairs(class.methods) do
    local method = rawget(methods, name)
    if type(method) == "function" then
      rawset(methods, name, watched(signature, method))
    end
  end
end

-- Returns nil if a value is an object of a class, whose methods are watched from then on; else why not.
function register(class, value)
  if type(value) ~= "userdata" and type(value) ~= "table" then
    return "got " .. described(value)
  end
  local methods = methods_of(value)
  if not methods then
    return "has no methods"
  elseif registered[methods] then
    return registered[methods] ~= class and "is an object of " .. registered[methods].name or nil
  end
  for name in pairs(class.methods) do
    if type(methods[name]) ~= "function" then
      return "has no method " .. name
    end
  end
  for name, method in pairs(methods) do
    if type(name) == "string" and type(method) == "function" and not name:find("^_") and name ~= "new"
      and not member(class, "methods", name) and not member(class, "fields", name) then
      report(("%s: the method %s is not annotated"):format(class.name, name))
    end
  end
  registered[methods] = class
  watch_methods(class, methods)
end

local function watch_module(name, functions, module)
  for function_name, fn in pairs(module) do
    local signature = functions[function_name]
    if signature then
      module[function_name] = watched(signature, fn)
    elseif type(fn) == "function" and not function_name:find("^_")
      and not (classes[name] and classes[name].fields[function_name]) then
      report(("%s: the function %s is not annotated"):format(name, function_name))
    end
  end
  for function_name in pairs(functions) do
    if type(module[function_name]) ~= "function" then
      report(("%s: there is no function %s"):format(name, function_name))
    end
  end
  -- Classes, and objects that the module has made.
  for field, tree in pairs(classes[name] and classes[name].fields or {}) do
    local class, value = classes[tree.name], module[field]
    if class and has_methods(class) and getmetatable(value) and methods_of(value) ~= nil then
      register(class, value)
    elseif class and type(value) == "table" then
      watch_methods(class, value)
    end
  end
end

for _, path in ipairs(MORE) do
  read(path, path)
end

local functions = {}
for name, path in pairs(FILES) do
  functions[name] = read(path, name)
end

-- The native module first: the others take its methods when they are loaded.
watch_module("consul_ffi", functions.consul_ffi, require("consul_ffi"))
for name in pairs(FILES) do
  if name ~= "consul_ffi" then
    watch_module(name, functions[name], require(name))
  end
end

busted.subscribe({ "suite", "end" }, function()
  local lines, seen, all = {}, 0, 0
  for line in pairs(found) do
    lines[#lines + 1] = line
  end
  table.sort(lines)
  local function count(signature)
    all = all + 1
    if called[signature.name] then
      seen = seen + 1
    else
      lines[#lines + 1] = "NOT CALLED " .. signature.name
    end
  end
  for _, of_module in pairs(functions) do
    for _, signature in pairs(of_module) do
      count(signature)
    end
  end
  for _, class in pairs(classes) do
    for _, signature in pairs(class.methods) do
      count(signature)
    end
  end
  for _, line in ipairs(lines) do
    io.stdout:write("TYPES ", line, "\n")
  end
  io.stdout:write(("TYPES %d of %d functions were called\n"):format(seen, all))
  return nil, true
end)
