-- A Lua state with a log function, one of several in its process, that ends with lines waiting; and its children, which
-- go on with the function, but not with the lines that wait for their parent's.
local consul_ffi = require("consul_ffi")

local taken = {}
local client = consul_ffi.new({
  simulate = true,
  log_level = "DEBUG",
  log = function(level, message, fields)
    taken[#taken + 1] = { level, message, fields }
    if #taken == 7 then
      error("on purpose")
    end
  end,
})

-- Other states take some of the lines of these calls.
for _ = 1, 100 do
  assert(client:kv_get("key"))
end
client:start("kv_get", "key"):wait()
for _, line in ipairs(taken) do
  -- A warning is the last line of a state that has ended.
  assert((line[1] == "DEBUG" or line[1] == "WARN") and type(line[2]) == "string" and line[3].at_ms > 0)
end
consul_ffi._internal.log("WARN", "waits for the end of the state, or for another one")
kept = client -- luacheck: ignore
