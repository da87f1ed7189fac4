-- Three nodes of a cluster: first in this process without a server, then as processes on the Consul at
-- CONSUL_HTTP_ADDR, where the leader is killed and restarted. All figures are measured in the run. It
-- leaves nothing behind.
--
--   make demo-cluster                            (the second half on consul-sim)
--   make demo-cluster CONSUL=1.21
--   CONSUL_HTTP_ADDR=127.0.0.1:8500 make demo-cluster

-- From any folder, with the modules of this checkout unless others are installed.
local own_folder = arg[0]:match("^.*/") or "./"
package.path = own_folder .. "../?.lua;" .. package.path .. ";" .. own_folder .. "../lua/?.lua"

local consul_ffi = require("consul_ffi")
local support = require("examples.support")
local with_processes = require("examples.node_process")

local chapter, say, now, wait_for = support.chapter, support.say, support.now, support.wait_for
local names = { "node-1", "node-2", "node-3" }

local function address(number)
  return "127.0.0.1:" .. 9000 + number
end

-- Prints the members as `node` sees them; a dead one is down.
local function show(node)
  local leader = node.leader()
  say("%-8s %-7s %6s   %-8s shard map %d", "node", "status", "shards", "leader", node.epoch())
  for _, name in ipairs(names) do
    say("%-8s %-7s %6d   %s", name, node.status(name), node.shards(name), name == leader and "yes" or "")
  end
end

-- Returns the functions of a node process for a node in this process. None of them makes a request.
local function in_process(cluster)
  return {
    leader = function()
      return tostring((cluster:get_leader_info() or {}).node_id)
    end,
    status = function(name)
      for _, node in ipairs(cluster:get_live_nodes()) do
        if node.id == name then
          return node.status
        end
      end
      return "down"
    end,
    shards = function(name)
      return #cluster:get_shards(name)
    end,
    epoch = function()
      return cluster:status().map_epoch or 0
    end,
  }
end

local function is_even(node, count)
  local least, most, holders = math.huge, 0, 0
  for _, name in ipairs(names) do
    local shards = node.shards(name)
    if shards > 0 then
      least, most, holders = math.min(least, shards), math.max(most, shards), holders + 1
    end
  end
  return holders == count and most - least <= 1
end

local function in_one_process()
  print("Three nodes in one process, without a server")
  local begun = now()
  local clusters = {}
  for number, name in ipairs(names) do
    clusters[number] = consul_ffi.ConsulHACluster:new({
      node_id = name,
      node_address = address(number),
      simulate = "demo-cluster",
    })
    assert(clusters[number]:start())
  end
  say("all three have joined after %.2f s", now() - begun)
  local last = clusters[3]
  wait_for("shards on three nodes", function()
    return is_even(in_process(last), 3)
  end, function()
    last:next_event(100)
  end)
  say("all have shards after %.2f s", now() - begun)
  show(in_process(last))

  local leaders = {}
  for number, cluster in ipairs(clusters) do
    assert(cluster:get_node_count() == 3, "a node does not see all three")
    leaders[number] = in_process(cluster).leader()
  end
  say("the leader, as each node sees it: %s", table.concat(leaders, ", "))
  local shard, owner = last:get_shard_for_key("stocks/AAPL")
  say("the key stocks/AAPL is in shard %d, on %s", shard, owner)
  for _, cluster in ipairs(clusters) do
    assert(cluster:stop())
  end
end

local function in_three_processes(nodes, start_node)
  local function start(number)
    return start_node(names[number], address(number))
  end
  local begun = now()
  for number = 1, 3 do
    start(number)
  end
  local one = nodes["node-1"]
  wait_for("shards on three nodes", function()
    return is_even(one, 3)
  end, one.pause)
  say("all have joined and have shards after %.2f s", now() - begun)
  show(one)

  local old = one.leader()
  local witness = nodes[old == "node-1" and "node-2" or "node-1"]
  local token = nodes[old].token()
  chapter(("The leader %s is killed (kill -9)"):format(old))
  nodes[old].kill()
  local without = wait_for("a new leader", function()
    local leader = witness.leader()
    return leader ~= "nil" and leader ~= old and nodes[leader].token() ~= "nil"
  end, witness.pause)
  local new = witness.leader()
  say("%s leads after %.2f s; the fencing token grew from %s to %s", new, without, token, nodes[new].token())
  show(witness)
  local moved = wait_for("shards on two nodes", function()
    return witness.shards(old) == 0
  end, witness.pause)
  say("the others have its shards %.2f s later", moved)
  show(witness)

  chapter(("%s is restarted"):format(old))
  nodes[old].close()
  local back = now()
  start(tonumber(old:match("%d")))
  say("it has joined after %.2f s", now() - back)
  wait_for("shards on three nodes", function()
    return is_even(witness, 3)
  end, witness.pause)
  say("it has its shards after %.2f s", now() - back)
  show(witness)

  chapter(("%s hands the leadership over"):format(new))
  nodes[new].hand_over()
  local handed = wait_for("another leader", function()
    local leader = witness.leader()
    return leader ~= "nil" and leader ~= new and nodes[leader].token() ~= "nil"
  end, witness.pause)
  say("%s leads after %.2f s", witness.leader(), handed)
  show(witness)
end

local function demo()
  in_one_process()
  if not support.simulate then
    chapter("Three processes on " .. support.url)
    with_processes(in_three_processes)
  end
end

support.run(demo)
