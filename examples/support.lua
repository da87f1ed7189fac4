-- The common parts of the programs: output, waiting, cleaning up. They run on the simulated agent, or on the Consul
-- at CONSUL_HTTP_ADDR.
local consul_ffi = require("consul_ffi")

local support = {
  simulate = not os.getenv("CONSUL_HTTP_ADDR"),
  url = os.getenv("CONSUL_HTTP_ADDR") or "http://127.0.0.1:8500",
  -- The prefix of all keys of a run.
  prefix = "consul_ffi-demo-" .. os.time() .. "-" .. tostring({}):match("0x(%x+)") .. "/",
}

-- The same for names of services and sessions, which cannot have a slash.
support.name = support.prefix:gsub("/", "-")

function support.chapter(title)
  print("\n" .. title)
end

function support.say(...)
  print(("  " .. string.format(...)):match("^.*%S"))
end

-- Whether the standard output is a terminal. Plain Lua cannot ask, a shell can.
function support.is_terminal()
  local status = os.execute("test -t 1")
  return status == true or status == 0
end

function support.sh(command)
  local status = os.execute(command)
  assert(status == true or status == 0, command .. " failed")
end

-- Returns the seconds since the machine's start, to 0.01 s.
function support.now()
  local file = assert(io.open("/proc/uptime"))
  local seconds = tonumber(file:read("*l"):match("^[%d.]+"))
  file:close()
  return seconds
end

-- Waits until `holds` returns true, for up to five minutes, and returns the seconds that it took. Calls `pause`
-- between two checks.
function support.wait_for(what, holds, pause)
  local begun = support.now()
  while not holds() do
    assert(support.now() - begun < 300, "not within five minutes: " .. what)
    if pause then
      pause()
    end
  end
  return support.now() - begun
end

-- Deletes the keys that a cluster's nodes share, and what killed nodes have left. Returns a list of what
-- remains, or "nothing".
local function clean_up()
  local client = consul_ffi.new({ consul_url = support.url, simulate = support.simulate })
  local function is_ours(name)
    return name:sub(1, #support.name) == support.name
  end
  local _, services = assert(client:agent_services())
  for id, instance in pairs(services) do
    if is_ours(instance.Service) then
      assert(client:agent_service_deregister(id))
    end
  end
  assert(client:kv_delete_tree(support.prefix))
  local _, left = assert(client:kv_keys(support.prefix))
  local _, sessions = assert(client:session_list())
  for _, session in ipairs(sessions) do
    if is_ours(session.Name) then
      left[#left + 1] = "session " .. session.Name
    end
  end
  client:close()
  return #left == 0 and "nothing" or table.concat(left, ", ")
end

-- Runs a program, then cleans up. Exits with status 1 when the program fails or something remains.
function support.run(program)
  local finished, why = pcall(program)
  local cleaned, left = pcall(clean_up)
  if finished and cleaned and left == "nothing" then
    support.chapter("Left behind: nothing")
    return
  end
  io.stderr:write(("%s failed: %s\n"):format(arg[0], tostring(finished and "left behind: " .. left or why)))
  os.exit(1)
end

return support
