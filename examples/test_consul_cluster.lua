-- The old cluster test: three processes, whose leader is killed. Another one takes over, and the remaining
-- nodes place keys alike.
--
--   make test-consul-cluster                     (on consul-sim)
--   make test-consul-cluster CONSUL=1.21

-- From any folder, with the modules of this checkout unless others are installed.
local own_folder = arg[0]:match("^.*/") or "./"
package.path = own_folder .. "../?.lua;" .. package.path .. ";" .. own_folder .. "../lua/?.lua"

local support = require("examples.support")
local with_processes = require("examples.node_process")

local chapter, say = support.chapter, support.say
-- The time that a busy machine may add to the takeover time.
local slack_s = 5
local names = { "node1", "node2", "node3" }
local keys = { "stock:AAPL", "stock:GOOGL", "stock:MSFT", "metric:cpu", "metric:memory", "metric:disk" }

-- Returns the value of an expression on all nodes; fails when it differs.
local function agreed(nodes, expression, ...)
  local common, first
  for name, node in pairs(nodes) do
    local value = node.ask(expression, ...)
    first = first or name
    common = common or value
    assert(value == common, ("%s is %s on %s and %s on %s"):format(expression, common, first, value, name))
  end
  return common
end

local function wait_for(what, nodes, holds)
  return support.wait_for(what, function()
    for _, node in pairs(nodes) do
      if not holds(node) then
        return false
      end
    end
    return true
  end, function()
    for _, node in pairs(nodes) do
      node.pause()
    end
  end)
end

-- Prints the leader; fails when a node disagrees.
local function show_leader(nodes)
  local leader = agreed(nodes, "cluster:get_leader_info().node_id")
  for name, node in pairs(nodes) do
    assert(node.ask("cluster:is_leader_node()") == tostring(name == leader), name .. " has a wrong is_leader_node()")
  end
  say("%s leads, with fencing token %s", leader, nodes[leader].token())
  return leader, tonumber(nodes[leader].token())
end

local function show_owners(nodes)
  for _, key in ipairs(keys) do
    local owner = agreed(nodes, "cluster:get_node_for_key(%q)", key)
    say("%s is on %s", key, owner)
    assert(nodes[owner], key .. " is on a dead node")
  end
end

support.run(function()
  with_processes(function(nodes, start)
    chapter("Three processes on " .. support.url)
    for number, name in ipairs(names) do
      start(name, "127.0.0.1:" .. 9000 + number)
    end
    wait_for("shards on three nodes", nodes, function(node)
      for _, name in ipairs(names) do
        if node.shards(name) == 0 or node.status(name) ~= "up" then
          return false
        end
      end
      return true
    end)
    local count = agreed(nodes, "cluster:get_node_count()")
    assert(count == "3", "there are " .. count .. " nodes")
    local killed, token = show_leader(nodes)
    show_owners(nodes)

    chapter(killed .. " is killed")
    local takeover_ms = tonumber(nodes[killed].ask("cluster.profile.takeover_ms"))
    nodes[killed].kill()
    nodes[killed].close()
    nodes[killed] = nil
    local without = wait_for("a new leader", nodes, function(node)
      return nodes[node.leader()] and nodes[node.leader()].token() ~= "nil" and node.status(killed) == "down"
    end)
    local leader, next_token = show_leader(nodes)
    say("after %.2f s; the profile's limit is %.2f s", without, takeover_ms / 1000)
    assert(leader ~= killed and next_token > token, "the token has not grown")
    assert(without < takeover_ms / 1000 + slack_s, "the takeover took too long")
    wait_for("its shards on the others", nodes, function(node)
      return node.shards(killed) == 0
    end)
    show_owners(nodes)
  end)
end)
