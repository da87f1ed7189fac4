-- Lua values as the bytes of a key. The key's flags hold their type; for a key without such flags, from
-- another program, a JSON object or list is a table and everything else a string.
local consul_ffi = require("consul_native")

local values = {}

-- The letters JSON and TEXT in ASCII.
local JSON, TEXT = 0x4A534F4E, 0x54455854

function values.flags(value)
  return type(value) == "string" and TEXT or JSON
end

-- Returns the value that a key's bytes encode.
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
