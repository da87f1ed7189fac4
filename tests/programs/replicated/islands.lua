-- Network namespaces for the nodes of a test, connected by a bridge in the namespace of this process, where Consul
-- is, too. A connection is cut by a wrong hardware address, so that packets get lost in silence.
local support = require("examples.support")

-- The addresses of this process and of Consul, and the beginning of the nodes' addresses.
local OWN, CONSUL, NODE = "10.78.0.253", "10.78.0.254", "10.78.0."
local NOWHERE = "02:00:00:00:00:01"

local islands = {}

-- Runs a command in a namespace.
local function inside(pid, command)
  support.sh(("nsenter --net --target %s %s"):format(pid, command))
end

-- Makes namespaces for the nodes n1 to n`count`.
function islands.new(count)
  local port = assert(os.getenv("CONSUL_HTTP_ADDR")):match(":(%d+)$")
  local pids, all = {}, {}
  support.sh(("ip link add bridge type bridge && ip link set bridge up && ip address add %s/24 dev bridge"
    .. " && ip address add %s/24 dev bridge"):format(OWN, CONSUL))
  for i = 1, count do
    local started = io.popen("unshare --net sleep 3600 >/dev/null & echo $!")
    local pid = started:read("*l")
    started:close()
    pids[i] = pid
    support.sh(("until [ $(readlink /proc/%s/ns/net) != $(readlink /proc/self/ns/net) ]; do sleep 0.01; done")
      :format(pid))
    support.sh(("ip link add port%d type veth peer name eth0 netns %s && ip link set port%d master bridge up"):format(
      i, pid, i))
    inside(pid, ("sh -c 'ip link set lo up && ip link set eth0 up && ip address add %s%d/24 dev eth0'"):format(NODE, i))
  end

  local function number(name)
    return tonumber(name:match("%d+"))
  end

  -- The beginning of a node's command.
  function all.around(name)
    local i = number(name)
    return ("nsenter --net --target %s env TSDB_HOST=%s%d CONSUL_HTTP_ADDR=%s:%s"):format(
      pids[i], NODE, i, CONSUL, port)
  end

  -- Sends what a node sends to an address nowhere, or no longer.
  local function lose(pid, device, address, is_lost)
    local change = is_lost and ("replace %s lladdr %s nud permanent"):format(address, NOWHERE) or "del " .. address
    inside(pid, ("ip neigh %s dev %s"):format(change, device))
  end

  -- Cuts a node off from Consul, or connects it again.
  function all.cut_from_consul(name, is_cut)
    lose(pids[number(name)], "eth0", CONSUL, is_cut)
  end

  local deaf = {}

  -- Cuts a node off from all other nodes and from this process, or connects it again. Bytes that the node sends are
  -- lost, and at random also what other nodes send to it.
  function all.cut_from_peers(name, is_cut)
    local own = number(name)
    local is_deaf = deaf[own]
    if is_cut then
      is_deaf = math.random(2) == 1
      deaf[own] = is_deaf
    end
    lose(pids[own], "eth0", OWN, is_cut)
    for i, pid in ipairs(pids) do
      if i ~= own then
        lose(pids[own], "eth0", NODE .. i, is_cut)
        if is_deaf then
          lose(pid, "eth0", NODE .. own, is_cut)
        end
      end
    end
  end

  function all.close()
    support.sh("kill " .. table.concat(pids, " "))
  end

  return all
end

return islands
