-- Encodes flat tables of strings, numbers and booleans as text; equal tables have equal text.
local fields = {}

-- Returns the text without "/", "&", "=" and bytes that are not printable, so that these can separate texts.
function fields.escape(text)
  return (text:gsub("[^%w._-]", function(byte)
    return ("%%%02x"):format(byte:byte())
  end))
end

local function unescaped(text)
  return (text:gsub("%%(%x%x)", function(byte)
    return string.char(tonumber(byte, 16))
  end))
end

local function is_finite(number)
  return number == number and math.abs(number) < math.huge
end

-- LuaJIT's 64-bit integers; the integers of Lua 5.3 and later.
local ffi = rawget(_G, "jit") and require("ffi")
local int64 = ffi and ffi.typeof("int64_t")
local number_type = rawget(math, "type")

-- Below this a float has each integer.
local EXACT = 2 ^ 53

local function is_integer(value)
  if ffi then
    return type(value) == "cdata" and ffi.istype(int64, value)
  end
  return number_type and number_type(value) == "integer"
end

-- Returns the digits of an integer that a float may not have exactly; nil for other values.
local function digits(value)
  return is_integer(value) and not (value < EXACT and value > -EXACT) and tostring(value):match("^-?%d+") or nil
end

-- Returns the integer with these digits; Lua 5.1 has none, and gets the digits.
local function integer(text)
  if not int64 then
    return number_type and tonumber(text) or text
  end
  local sign, found = text:sub(1, 1) == "-" and -1 or 1, int64(0)
  for digit in text:gmatch("%d") do
    found = found * 10 + sign * tonumber(digit)
  end
  return found
end

-- Returns the text; nil and a message for a table that cannot be encoded.
function fields.encode(values)
  local parts = {}
  if values ~= nil and type(values) ~= "table" then
    return nil, ("%s must be a table of values by name"):format(tostring(values))
  end
  for name, value in pairs(values or {}) do
    local kind, exact = type(value), digits(value)
    if type(name) ~= "string" or name == "" then
      return nil, ("the name %q is not a string with characters"):format(tostring(name))
    elseif exact then
      kind, value = "integer", exact
    elseif kind == "cdata" and is_integer(value) then
      kind, value = "number", ("%d"):format(tonumber(value))
    elseif kind == "number" and is_finite(value) then
      value = ("%.17g"):format(value)
    elseif kind == "boolean" then
      value = tostring(value)
    elseif kind ~= "string" then
      return nil, ("%s is %s: it must be a string, a finite number or a boolean"):format(name, tostring(value))
    end
    parts[#parts + 1] = fields.escape(name) .. "=" .. kind:sub(1, 1) .. fields.escape(value)
  end
  table.sort(parts)
  return table.concat(parts, "&")
end

local decoders = {
  n = function(text)
    local value = tonumber(unescaped(text))
    local is_float = number_type and not (value < EXACT and value > -EXACT)
    return is_float and value + 0.0 or value
  end,
  b = function(text)
    return text == "true"
  end,
  i = function(text)
    return integer(unescaped(text))
  end,
  s = unescaped,
}

function fields.decode(text)
  local values = {}
  for name, kind, value in text:gmatch("([^=&]+)=(%a)([^&]*)") do
    values[unescaped(name)] = decoders[kind](value)
  end
  return values
end

return fields
