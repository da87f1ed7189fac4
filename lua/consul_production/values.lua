-- Values of Lua as the bytes of a key. What they were is in the key's flags; without such flags, as other
-- programs write keys, an object or a list of JSON is a table and all else a string.
local consul_ffi = require("consul_ffi")

local values = {}

-- The letters JSON and TEXT in ASCII.
local JSON, TEXT = 0x4A534F4E, 0x54455854

-- The flags of a value.
function values.flags(value)
  return type(value) == "string" and TEXT or JSON
end

-- The value that a key's bytes stand for.
function values.decode(bytes, flags)
  if flags ~= TEXT and (flags == JSON or bytes:find("^%s*[%[{]")) then
    local success, value = consul_ffi.json_decode(bytes)
    if success then
      return value
    end
  end
  return bytes
end

return values
