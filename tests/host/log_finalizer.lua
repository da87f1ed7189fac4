-- Finalizers of the program that call the log function and have lines arise: within a line, within a call, and at the
-- end of the state.
local consul_ffi = require("consul_ffi")

-- Runs `finalizer` when the collector finds that nothing has the result.
local function finalized(finalizer)
  if not newproxy then
    return setmetatable({}, { __gc = finalizer })
  end
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = finalizer
  return proxy
end

local function collect()
  collectgarbage()
  collectgarbage()
end

local taken, runs = {}, 0
local function log(_, message)
  taken[#taken + 1] = message
  if message == "collects" then
    collect()
  end
end

local client = consul_ffi.new({ simulate = true, log_level = "INFO", log = log })
local function line(message)
  consul_ffi._internal.log("INFO", message)
end

local function finalizer()
  runs = runs + 1
  line("arises in a finalizer")
  assert(client:kv_put("key", "value"))
  log("INFO", "called by a finalizer")
end

local function is(count, wanted)
  local found = table.concat(taken, ", ")
  assert(runs == count and found == wanted, runs .. ": " .. found)
  taken = {}
end

-- A line that arises while the function runs does not wait for it: it goes to standard error.
finalized(finalizer)
line("collects")
is(1, "collects, called by a finalizer")

finalized(finalizer)
collect()
is(2, "arises in a finalizer, called by a finalizer")

AT_END = finalized(function() -- luacheck: ignore
  line("arises at the end")
  log("INFO", "called at the end")
  pcall(client.kv_get, client, "key")
  -- Lua 5.1 and 5.4 never finalize what a finalizer makes at the end of a state, so its descriptors stay.
  if rawget(_G, "jit") then
    pcall(consul_ffi.new, { simulate = true, log = log })
  end
end)
