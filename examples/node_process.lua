-- A node of a cluster as a process of its own (cluster_node.lua): what is asked of it goes to its input,
-- and its answer comes by a fifo.
local support = require("examples.support")

-- Starts the node; its fifo is put into `folder`.
local function start(folder, name, address)
  local fifo = folder .. "/" .. name
  support.sh(("rm -f %s; mkfifo %s"):format(fifo, fifo))
  local command = "exec %s examples/cluster_node.lua %s %s %s >%s"
  local input = assert(io.popen(command:format(arg[-1], name, address, support.prefix, fifo), "w"))
  local output = assert(io.open(fifo))
  local node = { pid = output:read("*l") }
  assert(node.pid and node.pid:match("^%d+$"), node.pid or "a node has not started")

  -- What an expression about `cluster` is there, as text.
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
  function node.end_it()
    input:close()
    output:close()
  end
  return node
end

-- Runs `program` with a function that starts nodes by name and address, and ends all of them.
return function(program)
  local folder = os.tmpname()
  os.remove(folder)
  support.sh("mkdir " .. folder)
  local nodes = {}
  local finished, why = pcall(program, nodes, function(name, address)
    nodes[name] = start(folder, name, address)
    return nodes[name]
  end)
  for _, node in pairs(nodes) do
    pcall(node.end_it)
  end
  support.sh("rm -r " .. folder)
  assert(finished, why)
end
