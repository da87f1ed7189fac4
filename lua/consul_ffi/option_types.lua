-- The types that options of our Lua modules have, and the messages about values that they refuse.
local option_types = {}

local function is_text(value)
  return type(value) == "string" and value ~= ""
end

local function is_finite(value)
  return type(value) == "number" and value == value and value < math.huge
end

local function is_positive(value)
  return is_finite(value) and value > 0
end

local function is_integer_from(least)
  return function(value)
    return is_finite(value) and value >= least and value % 1 == 0
  end
end

-- Whether a value is a list of non-empty strings.
local function is_list(value)
  if type(value) ~= "table" or #value == 0 then
    return false
  end
  for _, text in ipairs(value) do
    if not is_text(text) then
      return false
    end
  end
  return true
end

local function as_flag(text)
  local flags = {
    ["true"] = true, yes = true, on = true, ["1"] = true,
    ["false"] = false, no = false, off = false, ["0"] = false,
  }
  return flags[text:lower()]
end

local function same(text)
  return text
end

-- The types of options: `words` for messages, `accepts` checks a value, `read` converts text from the
-- environment or from a key in Consul.
local types = {
  text = { words = "a non-empty string", accepts = is_text, read = same },
  -- The environment and a key in Consul have one secret.
  secrets = {
    words = "a non-empty string or a list of them",
    accepts = function(value)
      return is_text(value) or is_list(value)
    end,
    read = same,
  },
  flag = {
    words = "true or false",
    accepts = function(value)
      return type(value) == "boolean"
    end,
    read = as_flag,
  },
  seconds = { words = "a positive number of seconds", accepts = is_positive, read = tonumber },
  number = { words = "a positive number", accepts = is_positive, read = tonumber },
  count = { words = "an integer, 0 or more", accepts = is_integer_from(0), read = tonumber },
  nodes = { words = "an integer, 1 or more", accepts = is_integer_from(1), read = tonumber },
  urls = {
    words = "a list of URLs",
    accepts = is_list,
    read = function(text)
      local urls = {}
      for url in text:gmatch("[^,%s]+") do
        urls[#urls + 1] = url
      end
      return urls
    end,
  },
  simulate = {
    words = "true, false or the name of a simulated agent",
    -- The client refuses names such as "false", which the text of a key may well mean.
    accepts = function(value)
      return type(value) == "boolean" or is_text(value) and as_flag(value) == nil
    end,
    read = function(text)
      local read = as_flag(text)
      return read == nil and text or read
    end,
  },
  consistency = { words = '"default", "stale" or "consistent"', names = { "default", "stale", "consistent" } },
  share = {
    words = "a number from 0 to 1",
    accepts = function(value)
      return is_finite(value) and value >= 0 and value <= 1
    end,
    read = tonumber,
  },
  duration = {
    words = "a number of seconds, 0 or more",
    accepts = function(value)
      return is_finite(value) and value >= 0
    end,
    read = tonumber,
  },
  factor = {
    words = "a number above 1",
    accepts = function(value)
      return is_finite(value) and value > 1
    end,
    read = tonumber,
  },
  policy = { words = '"round_robin", "least_time" or "hash"', names = { "round_robin", "least_time", "hash" } },
  level = { words = '"DEBUG", "INFO", "WARN", "ERROR" or "OFF"', names = { "DEBUG", "INFO", "WARN", "ERROR", "OFF" } },
  format = { words = '"text" or "json"', names = { "text", "json" } },
  -- Only Lua has functions.
  callback = {
    words = "a function",
    accepts = function(value)
      return type(value) == "function"
    end,
    read = same,
  },
}

for _, kind in pairs(types) do
  if kind.names then
    kind.read = same
    kind.accepts = function(value)
      for _, name in ipairs(kind.names) do
        if name == value then
          return true
        end
      end
      return false
    end
  end
end

option_types.types = types

-- Returns why a type does not accept a value, without the value of a secret; nil when it does.
function option_types.refusal(kind, value, is_secret)
  if kind.accepts(value) then
    return nil
  end
  local shown = tostring(value)
  if value == "" then
    shown = "an empty string"
  elseif type(value) == "table" or is_secret then
    shown = "a " .. type(value)
  elseif type(value) == "string" then
    shown = ("the string %q"):format(value)
  end
  return ("must be %s, got %s"):format(kind.words, shown)
end

-- Returns options with their defaults. `list` declares them: { name, type, default }, where a type may be one of
-- `types` by name; an option whose type says `is_required` must be given. Raises an error about a name or value that is
-- not allowed, where the caller of `what` is called.
function option_types.read(what, list, given)
  if type(given) ~= "table" and given ~= nil then
    error(("%s: the options must be a table, got a %s"):format(what, type(given)), 3)
  end
  given = given or {}
  local names, is_known, options = {}, {}, {}
  for i, option in ipairs(list) do
    names[i], is_known[option[1]] = option[1], true
  end
  for name in pairs(given) do
    if not is_known[name] then
      local known = table.concat(names, ", ")
      error(("%s: unknown option %s; the options are: %s"):format(what, tostring(name), known), 3)
    end
  end
  for _, option in ipairs(list) do
    local name, kind, default = option[1], types[option[2]] or option[2], option[3]
    local value = given[name]
    if value == nil then
      value = default
    end
    if value ~= nil or kind.is_required then
      local why = option_types.refusal(kind, value)
      if why then
        error(("%s: %s %s"):format(what, name, why), 3)
      end
    end
    options[name] = value
  end
  return options
end

return option_types
