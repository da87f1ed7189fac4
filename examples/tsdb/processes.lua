-- Nodes of the database (node.lua) as processes in the background, and how one looks at them.
local support = require("examples.support")

local own_folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

local processes = {}

-- Returns the fields of /proc/PID/stat that follow the name: the state first.
local function stat(pid)
  local file = io.open("/proc/" .. pid .. "/stat")
  local line = file and file:read("*l")
  if file then
    file:close()
  end
  return line and line:match("%) (.*)")
end

-- Whether a process runs; a process that has ended and was not waited for does not.
function processes.is_alive(pid)
  local state = stat(pid)
  return state ~= nil and not state:find("^[ZX]")
end

-- The id of this process.
function processes.own_pid()
  local file = assert(io.open("/proc/self/stat"))
  local pid = file:read("*l"):match("^%d+")
  file:close()
  return pid
end

-- Returns processes whose files are in `folder`, and whose nodes have these keys and this number of shards.
-- `around(name)` returns what a node's command begins with, if anything.
function processes.new(folder, prefix, shards, around)
  local pids, ports, count = {}, {}, 0
  local all = {}

  -- Starts a node; does not wait for it.
  function all.start(name)
    if not ports[name] then
      count = count + 1
      ports[name] = 9000 + count
    end
    local file = folder .. "/" .. name
    local command = around and around(name) .. " " .. arg[-1] or arg[-1]
    support.sh(("%s %snode.lua %s %d %s %d %s %s >>%s.log 2>&1 & echo $! >%s.pid"):format(
      command, own_folder, name, ports[name], prefix, shards, folder, processes.own_pid(), file, file))
    local pid = assert(io.open(file .. ".pid"))
    pids[name] = pid:read("*l")
    pid:close()
  end

  function all.signal(name, signal)
    support.sh(("kill -%s %s"):format(signal, pids[name]))
  end

  -- Does nothing to a process that has ended.
  function all.kill(name)
    support.sh(("kill -9 %s 2>/dev/null || true"):format(pids[name]))
  end

  function all.is_alive(name)
    return processes.is_alive(pids[name])
  end

  -- Whether a node's process has loaded this module.
  function all.has_loaded(name, module)
    local maps = assert(io.open("/proc/" .. pids[name] .. "/maps"))
    local text = maps:read("*a")
    maps:close()
    return text:find(module, 1, true) ~= nil
  end

  -- Deletes the disk of a node that has ended.
  function all.lose_disk(name)
    for _, ending in ipairs({ "", "-wal", "-shm" }) do
      os.remove(folder .. "/" .. name .. ".sqlite" .. ending)
    end
  end

  -- The path of a node's disk.
  function all.disk(name)
    return folder .. "/" .. name .. ".sqlite"
  end

  -- The output of the processes, for errors.
  function all.output()
    local texts = {}
    for name in pairs(pids) do
      local file = assert(io.open(folder .. "/" .. name .. ".log"))
      texts[#texts + 1] = name .. ":\n" .. file:read("*a")
      file:close()
    end
    return table.concat(texts)
  end

  function all.end_all()
    for name in pairs(pids) do
      all.kill(name)
    end
  end

  return all
end

return processes
