-- Runs cluster nodes as processes (cluster_node.lua). Expressions go to a process's standard input, and
-- their values come back through a fifo.
local support = require("examples.support")

local own_folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

-- Starts a node, whose fifo is in `folder`.
local function start(folder, name, address)
  local fifo = folder .. "/" .. name
  support.sh(("rm -f %s; mkfifo %s"):format(fifo, fifo))
  local command = "exec %s %scluster_node.lua %s %s %s >%s"
  local input = assert(io.popen(command:format(arg[-1], own_folder, name, address, support.prefix, fifo), "w"))
  local output = assert(io.open(fifo))
  local node = { pid = output:read("*l") }
  assert(node.pid and node.pid:match("^%d+$"), node.pid or "a node has not started")

  -- Returns the value of an expression with `cluster` in the process, as text.
  function node.ask(expression, ...)
    input:write(expression:format(...), "\n")
    input:flush()
    return (assert(output:read("*l"), "a node has ended"))
  end
  function node.leader()
    return node.ask("(cluster:get_leader_info() or {}).node_id")
  end
  function node.status(id)
    local live = "(function() for _, node in ipairs(cluster:get_live_nodes()) do "
      .. "if node.id == %q then return node.status end end return 'down' end)()"
    return node.ask(live, id)
  end
  function node.shards(id)
    return tonumber(node.ask("#cluster:get_shards(%q)", id))
  end
  function node.epoch()
    return tonumber(node.ask("cluster:status().map_epoch or 0"))
  end
  function node.token()
    return node.ask("cluster:token()")
  end
  function node.pause()
    node.ask("cluster:next_event(20)")
  end
  function node.hand_over()
    assert(node.ask("cluster:hand_over()") == "true", "the leadership was not handed over")
  end
  function node.kill()
    support.sh("kill -9 " .. node.pid)
  end
  function node.close()
    input:close()
    output:close()
  end
  return node
end

-- Calls `program(nodes, start)`, where start(name, address) starts a node and adds it to `nodes`; then ends
-- all nodes.
return function(program)
  -- Processes cannot share a simulated agent: these use the one on the default port, or at CONSUL_HTTP_ADDR.
  support.simulate = false
  local folder = os.tmpname()
  os.remove(folder)
  support.sh("mkdir " .. folder)
  local nodes = {}
  local finished, why = pcall(program, nodes, function(name, address)
    nodes[name] = start(folder, name, address)
    return nodes[name]
  end)
  for _, node in pairs(nodes) do
    pcall(node.close)
  end
  support.sh("rm -r " .. folder)
  assert(finished, why)
end
