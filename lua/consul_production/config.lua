-- The table that a program reads and changes: sections of options. What was not changed reads as what
-- is in force, before `init` as the default. Assigning nil takes back what was said.
local options = require("consul_production.options")

local config = {}

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

-- The sections' metatables read what is not said from `view`: `view.values` by path. A list that a
-- program got to read is its own copy, so that it can be changed in place; `view.given` has those.
local function metatable(view, section)
  local function read(name)
    local path = section .. "." .. name
    local given = view.given[path]
    if given == nil then
      given = view.values[path]
      if type(given) == "table" then
        given = copy(given)
        view.given[path] = given
      end
    end
    return given
  end
  return {
    __index = function(_, name)
      if type(name) == "string" then
        return read(name)
      end
    end,
    -- Lua 5.4 alone asks for it.
    __pairs = function(said)
      local all = {}
      for _, name in ipairs(options.sections[section]) do
        all[name] = rawget(said, name)
        if all[name] == nil then
          all[name] = read(name)
        end
      end
      return next, all, nil
    end,
  }
end

-- Makes the sections ours: those that are missing, and those that a program has put in place of ours.
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
        setmetatable(own, view.metatables[section])
      end
    end
  end
end

-- A new table of sections, and the view that it reads from.
function config.new()
  local sections, view = {}, { values = {}, given = {}, metatables = {} }
  for _, option in ipairs(options.list) do
    view.values[option.path] = option.default
  end
  for _, section in ipairs(options.order) do
    view.metatables[section] = metatable(view, section)
  end
  adopt(sections, view)
  return sections, view
end

-- Puts the options of a tree of sections into `found`, by path; nil and why when it has others. `where`
-- gives, for a path, the words that a message begins with.
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
      local why = options.refusal(option, value)
      if why then
        return nil, ("%s %s"):format(where(path), why)
      end
      found[path] = value
    end
  end
  return found
end

-- What a program said in its table, by path; nil and why when that is not acceptable.
function config.said(sections, view)
  adopt(sections, view)
  local found, why = config.flatten(sections, function(path)
    return "config." .. path
  end, {})
  if not found then
    return nil, why
  end
  -- Lists that were changed in place.
  for path, given in pairs(view.given) do
    if found[path] == nil and not equal(given, view.values[path]) then
      found[path] = given
    end
  end
  return found
end

-- Says an option in the table.
function config.set(sections, path, value)
  local section = sections
  for name in path:gmatch("([^.]+)%.") do
    section = section[name]
  end
  rawset(section, path:match("[^.]+$"), value)
end

-- From now on these values are what the table reads as.
function config.show(view, values)
  for path, given in pairs(view.given) do
    if equal(given, view.values[path]) then
      view.given[path] = nil
    end
  end
  view.values = values
end

return config
