-- Runs at the start of each process (LUA_INIT): a storage whose process kills itself in a call that a test chooses.
-- The file DISK.die has the number of calls until then, and which function's; DISK.died gets what happened.
local processes = require("examples.tsdb.processes")
local Storage = require("examples.tsdb.storage")

-- Counts a call of a storage, and ends the process if it is the one.
local function count(storage, name, when)
  local order = io.open(storage.path .. ".die")
  if not order then
    storage.left = nil
    return
  end
  local left, wanted = order:read("*n", "*l")
  order:close()
  if wanted ~= " " .. name then
    return
  end
  storage.left = (storage.left or left) - 1
  if storage.left <= 0 then
    local died = assert(io.open(storage.path .. ".died", "w"))
    died:write(when, name)
    died:close()
    os.remove(storage.path .. ".die")
    os.execute("kill -9 " .. processes.own_pid())
  end
end

local open = Storage.open
function Storage.open(path, ...)
  local storage = open(path, ...)
  storage.path = path
  return storage
end

for _, name in ipairs({ "apply", "scan", "drop", "keep" }) do
  local call = Storage[name]
  Storage[name] = function(storage, ...)
    count(storage, name, "before ")
    local result, message = call(storage, ...)
    count(storage, name, "after ")
    return result, message
  end
end
