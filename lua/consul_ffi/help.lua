-- consul_ffi.help: the reference of a function, for a REPL. It reads the annotations, which are generated from the
-- rows of the endpoints, and prints what they say of a name.

-- Where the file of annotations is: as a module of the rock, and in a checkout.
local PLACES = { "consul_ffi/meta", "meta/library/consul_ffi.d" }

-- The names that the examples give to objects.
local VARIABLES = {
  ConsulClient = "client", ConsulHACluster = "cluster", ConsistentHashRing = "ring", Handle = "handle", Watch = "watch",
  ServiceView = "view", ServiceViews = "views", Lock = "lock", ClusterRequest = "request", ReplicatedStore = "store",
  Simulator = "sim", StatusServer = "server", LogFile = "log",
}

local USAGE = [[
consul_ffi.help(name) prints the reference of a function or of an object's functions:

  consul_ffi.help("kv_put")       every function of this name
  consul_ffi.help("lock:acquire") the one of an object
  consul_ffi.help("lock")         the functions of an object
]]

-- The lines of the file of annotations.
local function annotations()
  for template in package.path:gmatch("[^;]+") do
    for _, place in ipairs(PLACES) do
      local file = io.open((template:gsub("%?", (place:gsub("%%", "%%%%")))))
      if file then
        local text = file:read("*a")
        file:close()
        return text:gmatch("[^\r\n]*")
      end
    end
  end
  error("consul_ffi.help: the annotations are not on package.path: lua/meta/library/consul_ffi.d.lua of the sources", 0)
end

-- A type ends at the first space that is outside of brackets and not behind a comma or a colon, as in
-- `fun(key: string): boolean`.
local function split_type(text)
  local depth = 0
  for position = 1, #text do
    local char = text:sub(position, position)
    if char:find("[<({%[]") then
      depth = depth + 1
    elseif char:find("[>)}%]]") then
      depth = depth - 1
    elseif char == " " and depth == 0 and not text:sub(position - 1, position - 1):find("[,:|]") then
      return text:sub(1, position - 1), text:sub(position + 1)
    end
  end
  return text, ""
end

-- "name? type text" as a table.
local function named(text)
  local name, rest = text:match("^(%S+)%s+(.*)$")
  local kind, doc = split_type(rest or "")
  local plain = (name or text):gsub("%?$", "")
  return { name = plain, optional = plain ~= name, kind = kind, doc = doc }
end

-- The functions in the order of the file, and the classes by name.
local function read()
  local functions, classes = {}, {}
  local block = { doc = {}, params = {}, returns = {} }
  local class
  for line in annotations() do
    local tag, rest = line:match("^%-%-%-@(%a+)%s*(.*)$")
    if tag == "class" then
      local name, parents = rest:match("^([^:%s]+):?%s*(.*)$")
      class = { fields = {}, parents = {}, doc = block.doc }
      for parent in parents:gmatch("[^,%s]+") do
        class.parents[#class.parents + 1] = parent
      end
      classes[name] = class
      block = { doc = {}, params = {}, returns = {} }
    elseif tag == "field" and class then
      class.fields[#class.fields + 1] = named(rest)
    elseif tag == "param" then
      block.params[#block.params + 1] = named(rest)
    elseif tag == "return" then
      local kind, doc = split_type(rest)
      local name, text = doc:match("^(%S+)%s*(.*)$")
      block.returns[#block.returns + 1] = { kind = kind, name = name or "", doc = text or "" }
    elseif not tag and line:find("^%-%-%-") then
      block.doc[#block.doc + 1] = line:sub(4)
    elseif not tag and line ~= "" then
      local object, sign, name, arguments = line:match("^function ([%w_]+)([.:])([%w_]+)(%b())")
      if name then
        block.object, block.sign, block.name, block.arguments = object, sign, name, arguments
        functions[#functions + 1] = block
      end
      block, class = { doc = {}, params = {}, returns = {} }, nil
    end
  end
  return functions, classes
end

local function of_object(object)
  return VARIABLES[object] or object
end

local function title(entry)
  return of_object(entry.object) .. entry.sign .. entry.name .. entry.arguments
end

-- Adds a line for each parameter or option.
local function list(lines, indent, params)
  local width = 0
  for _, param in ipairs(params) do
    width = math.max(width, #param.name)
  end
  for _, param in ipairs(params) do
    local kind = param.kind .. (param.optional and ", optional" or "")
    lines[#lines + 1] = ("%s%-" .. width .. "s  (%s) %s"):format(indent, param.name, kind, param.doc)
  end
end

-- The options of a class and of those that it extends, in their order.
local function options_of(classes, name, found)
  local class = classes[name] or { fields = {}, parents = {} }
  for _, field in ipairs(class.fields) do
    found[#found + 1] = field
  end
  for _, parent in ipairs(class.parents) do
    options_of(classes, parent, found)
  end
  return found
end

local function describe(lines, entry, classes)
  lines[#lines + 1] = title(entry)
  lines[#lines + 1] = ""
  for _, line in ipairs(entry.doc) do
    lines[#lines + 1] = "  " .. line
  end
  if #entry.params > 0 then
    lines[#lines + 1] = ""
    list(lines, "  ", entry.params)
  end
  for _, param in ipairs(entry.params) do
    local fields = options_of(classes, param.kind, {})
    if #fields > 0 then
      lines[#lines + 1] = ""
      lines[#lines + 1] = ("  fields of %s:"):format(param.name)
      list(lines, "    ", fields)
    end
  end
  local returns = {}
  for _, result in ipairs(entry.returns) do
    local doc = result.doc ~= "" and "  " .. result.doc or ""
    returns[#returns + 1] = ("    %s: %s%s"):format(result.name, result.kind, doc)
  end
  if #returns > 0 then
    lines[#lines + 1] = ""
    lines[#lines + 1] = "  returns"
    for _, line in ipairs(returns) do
      lines[#lines + 1] = line
    end
  end
  lines[#lines + 1] = ""
end

-- Adds the functions of an object, each with the first sentence of its text.
local function describe_object(lines, object, functions)
  for _, entry in ipairs(functions) do
    if entry.object == object then
      lines[#lines + 1] = "  " .. title(entry)
      local text = table.concat(entry.doc, " ")
      lines[#lines + 1] = text ~= "" and "      " .. (text:match("^.-%.%f[%s]") or text) or nil
    end
  end
end

-- The names that a mistyped one may mean: those with most of its pairs of letters.
local function near(name, functions)
  local pairs_of = {}
  for position = 1, #name - 1 do
    pairs_of[name:sub(position, position + 1):lower()] = true
  end
  local best, most = {}, 0.5
  for _, entry in ipairs(functions) do
    local same = 0
    for position = 1, #entry.name - 1 do
      same = same + (pairs_of[entry.name:sub(position, position + 1):lower()] and 1 or 0)
    end
    local share = 2 * same / math.max(1, #entry.name + #name - 2)
    if share > most then
      best, most = {}, share
    end
    if share == most then
      best[#best + 1] = of_object(entry.object) .. entry.sign .. entry.name
    end
  end
  return table.concat(best, " or ")
end

-- Returns the reference of a name; nil and a message if nothing has it.
local function text_of(name)
  local functions, classes = read()
  local object, method = name:match("^([%w_]+)[.:]([%w_]+)$")
  local lines = {}
  for _, entry in ipairs(functions) do
    local is_of = object == nil or object == entry.object or object == of_object(entry.object)
    if is_of and entry.name == (method or name) then
      describe(lines, entry, classes)
    end
  end
  for _, entry in ipairs(functions) do
    if name == entry.object or name == of_object(entry.object) then
      describe_object(lines, entry.object, functions)
      break
    end
  end
  if #lines == 0 then
    local meant = near(method or name, functions)
    meant = meant ~= "" and ("; did you mean %s?"):format(meant) or ""
    return nil, ("consul_ffi.help: nothing is called %q%s"):format(name, meant)
  end
  return table.concat(lines, "\n")
end

-- Prints the reference of a name, or how to ask. An unknown name raises an error with the nearest one.
return function(name)
  if name ~= nil and type(name) ~= "string" then
    error(("consul_ffi.help: name must be a string, not %s"):format(type(name)), 3)
  end
  if name == nil or name == "" then
    print(USAGE)
    return
  end
  local text, message = text_of(name)
  if not text then
    error(message, 3)
  end
  print(text)
end
