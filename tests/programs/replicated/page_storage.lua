-- Runs the two programs of docs/data.md, a storage and a node with it, on three processes: writes through
-- them, kills each once, and reads everything through each.
--
--   CONSUL_HTTP_ADDR=… luajit tests/programs/replicated/page_storage.lua STORAGE NODE

local own_folder = arg[0]:match("^.*/")
package.path = own_folder .. "../../?.lua;" .. package.path

local consul_ffi = require("consul_ffi")
local support = require("examples.support")

support.simulate = false
local observer, pids

local function save(name, text)
  local file = assert(io.open(name, "w"))
  file:write(text)
  file:close()
end

-- Starts a node, whose output is shown if the test fails.
local function start(folder, name)
  local command = "LUA_PATH='%s/?.lua;./lua/?.lua;;' luajit %s/node.lua %s %s/%s.log >>%s/out 2>&1 & echo $! >%s/pid"
  support.sh(command:format(folder, folder, name, folder, name, folder, folder))
  local file = assert(io.open(folder .. "/pid"))
  pids[name] = file:read("*l")
  file:close()
end

-- Makes a call until it succeeds, and returns the reply.
local function ask(...)
  local called, reply
  local arguments = { ... }
  support.wait_for("an answer to " .. tostring(arguments[2]), function()
    called, reply = observer:call(unpack(arguments))
    return called
  end, function()
    observer:poll(20)
  end)
  return reply
end

local function test(folder)
  for number = 1, 3 do
    start(folder, "n" .. number)
  end
  observer = consul_ffi.ConsulHACluster:new({ observer = true, node_id = "test", start_timeout_ms = 30000 })
  assert(observer:start())
  local count = 0
  local function write(through)
    for _ = 1, 20 do
      count = count + 1
      ask(through, "put", { key = "key/" .. count, value = "value " .. count })
    end
  end
  local function check()
    for number = 1, 3 do
      for i = 1, count do
        local value = ask("n" .. number, "get", "key/" .. i)
        assert(value == "value " .. i, ("n%d has %s for key %d"):format(number, tostring(value), i))
      end
    end
  end
  write("n1")
  for number = 1, 3 do
    local name = "n" .. number
    support.sh("kill -9 " .. pids[name])
    write("n" .. number % 3 + 1)
    start(folder, name)
    ask(name, "get", "key/1")
  end
  check()
end

support.run(function()
  local folder = os.tmpname()
  os.remove(folder)
  support.sh("mkdir " .. folder)
  save(folder .. "/storage.lua", arg[1])
  save(folder .. "/node.lua", arg[2])
  pids = {}
  local finished, why = pcall(test, folder)
  for _, pid in pairs(pids) do
    support.sh("kill -9 " .. pid)
  end
  local output = io.open(folder .. "/out")
  why = finished or tostring(why) .. "\n" .. output:read("*a")
  output:close()
  support.sh("rm -r " .. folder)
  -- The keys of the page's program are not below the prefix of this run.
  local client = consul_ffi.new({ consul_url = support.url })
  client:kv_delete_tree("tsdb/cluster/")
  client:close()
  assert(finished, why)
end)
