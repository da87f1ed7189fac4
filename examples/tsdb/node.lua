-- A node of the database as a process. It ends when it is asked to, or with the process `parent`.
--
--   luajit examples/tsdb/node.lua n2 9002 demo/ 1024 FOLDER PARENT

-- From any folder, with the modules of this checkout unless others are installed.
local own_folder = arg[0]:match("^.*/") or "./"
package.path = own_folder .. "../../?.lua;" .. package.path .. ";" .. own_folder .. "../../lua/?.lua"

local Engine = require("examples.tsdb.engine")
local config_of = require("examples.tsdb.config")
local processes = require("examples.tsdb.processes")

local id, port, prefix, shards, folder, parent = arg[1], tonumber(arg[2]), arg[3], tonumber(arg[4]), arg[5], arg[6]

local engine = Engine.new(config_of(id, port, prefix, shards, folder))

-- Reads through this node on behalf of another process.
engine.cluster:handle("read_through", function(query)
  local read, rows = engine:get_metric_data(query.name, query.start_time, query.end_time)
  if not read then
    return nil, rows
  end
  return rows
end)

engine.cluster:handle("is_ready", function()
  return #engine:shards() > 0
end)

-- How the node is to end: "stop" or "leave".
local ending
engine.cluster:handle("finish", function(how)
  ending = how
  return true
end)

assert(engine:start())
while not ending and processes.is_alive(parent) do
  engine:poll(200)
end
assert(engine:stop(ending == "leave"))
