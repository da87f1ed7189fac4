-- Flat tables of strings, numbers and booleans as text, the same text for the same table.
local fields = {}

local function escaped(text)
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

-- Gives nil and what is wrong with a table that is not like that.
function fields.encode(values)
  local parts = {}
  for name, value in pairs(values or {}) do
    local kind = type(value)
    if type(name) ~= "string" then
      return nil, ("the name %s is no string"):format(tostring(name))
    elseif kind == "number" and is_finite(value) then
      value = ("%.17g"):format(value)
    elseif kind == "boolean" then
      value = tostring(value)
    elseif kind ~= "string" then
      return nil, ("%s is %s: it must be a string, a finite number or a boolean"):format(name, tostring(value))
    end
    parts[#parts + 1] = escaped(name) .. "=" .. kind:sub(1, 1) .. escaped(value)
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
