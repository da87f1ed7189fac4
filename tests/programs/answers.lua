-- answers.lua URL COUNT: reads COUNT random answers from the server at URL and compares each with the
-- expected value, which the server returns as Lua code.
local client = require("consul_ffi").new({ consul_url = arg[1] })
local load = loadstring or load -- luacheck: globals loadstring
-- The server's name for an empty list; the module's lists have a metatable that tables lack.
-- luacheck: globals EMPTY_LIST
EMPTY_LIST = {}

-- Lua 5.4 distinguishes integers from floats.
local type_of = rawget(math, "type")
local function kind_of(value)
  return type_of and type_of(value) or type(value)
end

local function same(found, expected, path)
  if expected == EMPTY_LIST then
    local mark = getmetatable(found)
    assert(mark and mark.__jsontype == "array" and next(found) == nil, path)
    return
  end
  assert(kind_of(found) == kind_of(expected), path .. ": " .. tostring(found))
  if type(expected) ~= "table" then
    assert(found == expected, path .. ": " .. tostring(found) .. " is not " .. tostring(expected))
    return
  end
  assert(getmetatable(found) == nil, path)
  for name, member in pairs(expected) do
    same(found[name], member, path .. "." .. tostring(name))
  end
  for name in pairs(found) do
    assert(expected[name] ~= nil, path .. "." .. tostring(name) .. " is not expected")
  end
end

for place = 1, tonumber(arg[2]) do
  local success, found, extra = client:agent_self({ retry = false })
  local known, code = client:http_request("GET", "/v1/expected")
  assert(known, code)
  local expected = assert(load(code))()
  if expected == "decode" then
    assert(success == false and extra.kind == "decode", place .. ": " .. tostring(found))
  else
    assert(success, found)
    same(found.Any, expected, place .. ": value")
    assert(extra.attempts == 1 and type(extra.request_ms) == "number")
  end
end
