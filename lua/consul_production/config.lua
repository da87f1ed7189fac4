-- The `config` table of a manager: sections of options, which the program reads and assigns. An option
-- that it has not assigned reads as the value in force, before `init` as the default. Assigning nil
-- removes the assignment.
local options = require("consul_production.options")

local config = {}

-- Whether `pairs` asks a metatable, as in Lua 5.3 and 5.4. In the other engines the sections have to contain every
-- option, so an assignment of the value that is there already is not noticed.
local asks_metatable = false
for _ in pairs(setmetatable({}, { __pairs = function() return next, { true }, nil end })) do
  asks_metatable = true
end

local function copy(value)
  if type(value) ~= "table" then
    return value
  end
  local copied = {}
  for name, member in pairs(value) do
    copied[name] = copy(member)
  end
  return copied
end

local function equal(one, other)
  if type(one) ~= "table" or type(other) ~= "table" then
    return one == other
  end
  for name, member in pairs(one) do
    if not equal(member, other[name]) then
      return false
    end
  end
  for name in pairs(other) do
    if one[name] == nil then
      return false
    end
  end
  return true
end

config.copy, config.equal = copy, equal

-- The metatable of a section reads unassigned options from `view.values`, by path. The program gets a
-- copy of each list, which it may change in place; `view.lists` has these copies by path.
local function metatable(view, section)
  local function read(name)
    local path = section .. "." .. name
    local value = view.lists[path]
    if value == nil then
      value = view.values[path]
      if type(value) == "table" then
        value = copy(value)
        view.lists[path] = value
      end
    end
    return value
  end
  return {
    __index = function(_, name)
      if type(name) == "string" then
        return read(name)
      end
    end,
    __pairs = function(assigned)
      local all = {}
      for _, name in ipairs(options.sections[section]) do
        all[name] = rawget(assigned, name)
        if all[name] == nil then
          all[name] = read(name)
        end
      end
      return next, all, nil
    end,
  }
end

-- Creates missing sections and sets our metatables on tables that the program has assigned as sections.
local function adopt(sections, view)
  for _, section in ipairs(options.order) do
    local outer, inner = section:match("^(.*)%.([^.]*)$")
    local holder, name = outer and rawget(sections, outer) or sections, inner or section
    if type(holder) == "table" then
      local own = rawget(holder, name)
      if own == nil then
        own = {}
        rawset(holder, name, own)
      end
      if type(own) == "table" and getmetatable(own) == nil then
        for _, option in ipairs(options.sections[section]) do
          view.explicit[section .. "." .. option] = rawget(own, option) ~= nil or nil
        end
        setmetatable(own, view.metatables[section])
      end
    end
  end
end

-- Calls `each` with the table of a section and the name and path of each option.
local function each_option(sections, each)
  for _, option in ipairs(options.list) do
    local section = sections
    for name in option.path:gmatch("([^.]+)%.") do
      section = type(section) == "table" and rawget(section, name)
    end
    if type(section) == "table" then
      each(section, option.path:match("[^.]+$"), option.path)
    end
  end
end

-- Whether the program has assigned the value of an option, rather than `fill`.
local function is_assigned(view, path, value)
  return view.explicit[path] or not equal(value, view.filled[path])
end

-- Puts the values in force into the sections, where the program has assigned none.
local function fill(sections, view)
  if asks_metatable then
    return
  end
  each_option(sections, function(section, name, path)
    local value = rawget(section, name)
    if value == nil or not is_assigned(view, path, value) then
      view.explicit[path] = nil
      view.filled[path] = copy(view.values[path])
      -- The program may hold a list that it is about to change.
      if not equal(value, view.values[path]) then
        rawset(section, name, copy(view.values[path]))
      end
    end
  end)
end

-- Returns a new table of sections, and the view that it reads from.
function config.new()
  local sections, view = {}, { values = {}, lists = {}, metatables = {}, explicit = {}, filled = {} }
  for _, option in ipairs(options.list) do
    view.values[option.path] = option.default
  end
  for _, section in ipairs(options.order) do
    view.metatables[section] = metatable(view, section)
  end
  adopt(sections, view)
  fill(sections, view)
  return sections, view
end

-- Puts the options of a tree of sections into `found`, by path, and returns it; nil and a message when
-- an option is unknown or invalid. `where(path)` returns the beginning of the message.
function config.flatten(tree, where, found, section)
  for name, value in next, tree do
    local path = (section and section .. "." or "") .. tostring(name)
    local option = options.by_path[path]
    if options.sections[path] then
      if type(value) ~= "table" then
        return nil, ("%s must be a table, got %s"):format(where(path), tostring(value))
      end
      local flattened, why = config.flatten(value, where, found, path)
      if not flattened then
        return nil, why
      end
    elseif not option then
      return nil, ("%s is unknown; %s"):format(where(path), options.known(section or ""))
    else
      if option.path == "consul.servers" and type(value) == "string" then
        value = { value }
      end
      local why = options.put(found, option, value)
      if why then
        return nil, ("%s %s"):format(where(path), why)
      end
    end
  end
  return found
end

-- Returns the options that the program has assigned, by path; nil and a message when one is invalid.
function config.assigned(sections, view)
  if type(sections) ~= "table" then
    return nil, "config must be a table of sections, got " .. tostring(sections)
  end
  adopt(sections, view)
  local found, why = config.flatten(sections, function(path)
    return "config." .. path
  end, {})
  if not found then
    return nil, why
  end
  for path, value in pairs(found) do
    if not is_assigned(view, path, value) then
      found[path] = nil
    end
  end
  fill(sections, view)
  -- Lists that were changed in place.
  for path, list in pairs(view.lists) do
    if found[path] == nil and not equal(list, view.values[path]) then
      found[path] = list
    end
  end
  return found
end

-- Assigns an option by path, as the program would.
function config.set(sections, view, path, value)
  local section = sections
  for name in path:gmatch("([^.]+)%.") do
    section = section[name]
  end
  rawset(section, path:match("[^.]+$"), value)
  view.explicit[path] = value ~= nil or nil
end

-- Makes unassigned options read as these values.
function config.show(sections, view, values)
  for path, list in pairs(view.lists) do
    if equal(list, view.values[path]) then
      view.lists[path] = nil
    end
  end
  view.values = values
  fill(sections, view)
end

return config
