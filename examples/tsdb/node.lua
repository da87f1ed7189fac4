-- A node of the database as a process of its own. It says its process id when it has started, and ends
-- when its parent does.
--
--   luajit examples/tsdb/node.lua n2 9002 demo/ FOLDER

local Engine = require("examples.tsdb.engine")
local config_of = require("examples.tsdb.config")

local id, port, prefix, folder = arg[1], tonumber(arg[2]), arg[3], arg[4]

-- The process id and that of the parent.
local function pids()
  local file = assert(io.open("/proc/self/stat"))
  local pid, parent = file:read("*l"):match("^(%d+) %(.*%) %S (%d+)")
  file:close()
  return pid, parent
end

local engine = Engine.new(config_of(id, port, prefix, folder))

-- What another process wants to read by way of this one.
engine.cluster:handle("read_through", function(query)
  local read, rows = engine[query.method](engine, query.name, query.start_time, query.end_time)
  if not read then
    return nil, rows
  end
  return rows
end)

local stopping = false
engine.cluster:handle("stop", function()
  stopping = true
  return true
end)

local started, why = engine:start()
local pid, parent = pids()
io.write(started and pid or "failed: " .. why, "\n")
io.flush()
while started and not stopping and select(2, pids()) == parent do
  engine:poll(500)
end
engine:stop()
