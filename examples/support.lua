-- What the programs share: they tell what they do, wait, and leave nothing behind. They run on the
-- simulated agent, or on the Consul of CONSUL_HTTP_ADDR.
local consul_ffi = require("consul_ffi")

local support = {
  simulate = not os.getenv("CONSUL_HTTP_ADDR"),
  url = os.getenv("CONSUL_HTTP_ADDR") or "http://127.0.0.1:8500",
  -- What every key of a run begins with.
  prefix = "consul_ffi-demo-" .. os.time() .. "-" .. tostring({}):match("0x(%x+)") .. "/",
}

-- Consul names no service and no session with a slash.
support.name = support.prefix:gsub("/", "-")

function support.chapter(title)
  print("\n" .. title)
end

function support.say(...)
  print(("  " .. string.format(...)):match("^.*%S"))
end

-- Runs a command of the shell.
function support.sh(command)
  local status = os.execute(command)
  assert(status == true or status == 0, command .. " failed")
end

-- Seconds since the machine's start, in steps of 0.01.
function support.now()
  local file = assert(io.open("/proc/uptime"))
  local seconds = tonumber(file:read("*l"):match("^[%d.]+"))
  file:close()
  return seconds
end

-- Waits until `holds` gives true, and gives how long that took. `pause` is what to do between two looks.
function support.wait_for(what, holds, pause)
  local begun = support.now()
  while not holds() do
    assert(support.now() - begun < 60, "not within a minute: " .. what)
    if pause then
      pause()
    end
  end
  return support.now() - begun
end

-- Takes away what the nodes of a cluster share, which none of them may take from the others, and what a
-- killed one has left. Gives what is there nevertheless.
local function tidy_up()
  local client = consul_ffi.new({ consul_url = support.url, simulate = support.simulate })
  local function is_ours(name)
    return name:sub(1, #support.name) == support.name
  end
  local _, services = assert(client:agent_services())
  for id, about in pairs(services) do
    if is_ours(about.Service) then
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

-- Runs a program and tidies up, whatever happened. What was wrong, or is left, is its exit status 1.
function support.run(program)
  local finished, why = pcall(program)
  local tidied, left = pcall(tidy_up)
  if finished and tidied and left == "nothing" then
    support.chapter("Left behind: nothing")
    return
  end
  io.stderr:write(("%s failed: %s\n"):format(arg[0], tostring(finished and "left behind: " .. left or why)))
  os.exit(1)
end

return support
