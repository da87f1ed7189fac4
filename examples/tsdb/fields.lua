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

-- Returns the text; nil and a message for a table that cannot be encoded.
function fields.encode(values)
  local parts = {}
  for name, value in pairs(values or {}) do
    local kind = type(value)
    if type(name) ~= "string" then
      return nil, ("the name %s is not a string"):format(tostring(name))
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
    return tonumber(unescaped(text))
  end,
  b = function(text)
    return text == "true"
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
