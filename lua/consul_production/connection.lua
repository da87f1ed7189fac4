-- Makes the client and the cluster node from option values, and finds the options that have no effect.
local consul_ffi = require("consul_native")
local options = require("consul_production.options")

local connection = {}

local function uses_tls(values)
  if values["consul.tls_enabled"] then
    return true
  end
  for _, server in ipairs(values["consul.servers"]) do
    if server:find("^https://") then
      return true
    end
  end
  return false
end

-- Returns the options of the client, and the additional ones of the cluster node.
local function settings(values)
  local of_client, of_cluster = {}, {}
  for _, option in ipairs(options.list) do
    local value = values[option.path]
    if value ~= nil then
      if option.factor then
        value = value * option.factor
      elseif option.suffix then
        value = value .. option.suffix
      end
      if option.client then
        of_client[option.client] = value
      elseif option.tls and uses_tls(values) then
        of_client[option.tls] = value
      elseif option.member then
        of_cluster[option.cluster] = of_cluster[option.cluster] or {}
        of_cluster[option.cluster][option.member] = value
      elseif option.cluster then
        of_cluster[option.cluster] = value
      end
    end
  end
  if values["consul.tls_enabled"] then
    of_client.tls = true
  end
  return of_client, of_cluster
end

-- Why options about replicas have no effect when there are none.
connection.NO_REPLICAS = "cluster.replication_factor is 1, so values are stored in Consul only"

function connection.has_replicas(values)
  return values["cluster.replication_factor"] > 1
end

-- Returns the number of replicas and the quorums of writes and reads. Quorums that would not meet are raised to
-- a majority.
function connection.quorums(values)
  local factor, write = values["cluster.replication_factor"], values["cluster.write_quorum"]
  local read = values["cluster.read_quorum"]
  if write + read <= factor then
    local majority = math.floor(factor / 2) + 1
    write, read = math.max(write, majority), math.max(read, majority)
  end
  return factor, write, read
end

local function has_any(values, paths)
  for _, path in ipairs(paths) do
    if values[path] then
      return true
    end
  end
  return false
end

-- Returns why options in `configured`, a set of paths, are not in force with these values, by path.
function connection.not_in_force(values, configured)
  local why, quorums, _ = {}, {}, nil
  _, quorums["cluster.write_quorum"], quorums["cluster.read_quorum"] = connection.quorums(values)
  for _, option in ipairs(options.list) do
    local path = option.path
    if configured[path] then
      if option.idle then
        why[path] = option.idle
      elseif option.tls and not uses_tls(values) then
        why[path] = "no server uses TLS"
      elseif option.replicas and not connection.has_replicas(values) then
        why[path] = connection.NO_REPLICAS
      elseif quorums[path] and quorums[path] ~= values[path] then
        why[path] = ("it is %d, so that each read meets each write"):format(quorums[path])
      elseif option.needs and not has_any(values, option.needs) then
        why[path] = "it requires " .. table.concat(option.needs, " or ")
      end
    end
  end
  return why
end

-- Whether two sets of values require different clients or nodes.
function connection.differs(one, other)
  local function text(values)
    local parts = {}
    for _, option in ipairs(options.list) do
      if option.client or option.tls or option.cluster or option.path == "consul.tls_enabled" then
        local value = values[option.path]
        parts[#parts + 1] = type(value) == "table" and table.concat(value, "\n") or tostring(value)
      end
    end
    return table.concat(parts, "\0")
  end
  return text(one) ~= text(other)
end

-- Returns a client that has reached a server; nil and a message when no server answers, or when it refuses.
function connection.client(values)
  local made, client = pcall(consul_ffi.new, (settings(values)))
  if not made then
    return nil, client
  end
  local success, message, err = client:status_leader({ timeout_ms = values["consul.timeout"] * 1000 })
  if not success then
    client:close()
    local what = err.status and "no server can be used" or "no server answered"
    if err.kind == "timeout" then
      what = what .. (" within %g s"):format(values["consul.timeout"])
    end
    return nil, ("%s (%s): %s"):format(what, table.concat(values["consul.servers"], ", "), message)
  end
  return client
end

-- Returns a node that is not started; nil and a message when its options are invalid.
function connection.node(values)
  local of_client, all = settings(values)
  for name, value in pairs(of_client) do
    all[name] = value
  end
  all.node_address = all.node_address or false
  -- The timeout of the program's calls must not slow down the node's recovery.
  all.timeout = nil
  local made, node = pcall(consul_ffi.ConsulHACluster.new, all)
  if not made then
    return nil, node
  end
  return node
end

-- Returns a function that returns the time in seconds, on the clock of client and node.
function connection.clock(values)
  local simulated = values["consul.simulate"]
  if type(simulated) ~= "string" then
    return os.time
  end
  local agent = consul_ffi.simulator(simulated)
  return function()
    return agent:now()
  end
end

return connection
