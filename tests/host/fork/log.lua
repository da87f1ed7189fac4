-- A log function in a parent and its children.
local consul_ffi = require("consul_ffi")

local taken, child = {}, nil
local client = consul_ffi.new({
  simulate = true,
  log_level = "INFO",
  log = function(_, message)
    taken[#taken + 1] = message
    -- Nothing else of the parent's waits by then.
    if message == "forks" then
      child = host.fork()
    end
  end,
})

local function line(message)
  consul_ffi._internal.log("INFO", message)
end

local function is(wanted)
  local found = table.concat(taken, " ")
  assert(found == wanted, found)
  taken = {}
end

line("one")
is("one")
local id = host.fork()
if id == 0 then
  -- The first call of a child has the function for its own lines.
  line("child")
  is("child")
  local nephew = host.fork()
  if nephew == 0 then
    line("nephew")
    client:close()
    is("nephew")
    return
  end
  assert(host.wait(nephew) == 0)
  line("child")
  is("child")
  return
end
assert(host.wait(id) == 0)
line("parent")
is("parent")

line("forks")
if child == 0 then
  line("of the function's child")
  line("second")
  is("forks of the function's child second")
  return
end
assert(host.wait(child) == 0)
line("parent")
is("forks parent")
