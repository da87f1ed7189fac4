-- The client and the cluster's node that values make, and what of the values is not in force.
local consul_ffi = require("consul_ffi")
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

-- The options of a client, and those that a cluster's node has besides.
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

-- Why nothing that is said of replicas is in force without them.
connection.NO_REPLICAS = "cluster.replication_factor is 1, so Consul alone has the values"

-- Whether values hold copies of values on the nodes.
function connection.has_replicas(values)
  return values["cluster.replication_factor"] > 1
end

local function has_any(values, paths)
  for _, path in ipairs(paths) do
    if values[path] then
      return true
    end
  end
  return false
end

-- Why options are not in force, by path: those that never are, and those that were said and have no effect
-- with these values.
function connection.not_in_force(values, said)
  local why = {}
  for _, option in ipairs(options.list) do
    local path = option.path
    if option.idle then
      why[path] = option.idle
    elseif said[path] then
      if option.tls and not uses_tls(values) then
        why[path] = "no server is spoken to over TLS"
      elseif option.replicas and not connection.has_replicas(values) then
        why[path] = connection.NO_REPLICAS
      elseif option.needs and not has_any(values, option.needs) then
        why[path] = "it takes " .. table.concat(option.needs, " or ")
      end
    end
  end
  return why
end

-- Whether two sets of values make different clients or nodes.
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

-- A client whose servers answer; nil and why when there is none.
function connection.client(values)
  local made, client = pcall(consul_ffi.new, (settings(values)))
  if not made then
    return nil, client
  end
  local success, message = client:status_leader({ timeout_ms = values["consul.timeout"] * 1000 })
  if not success then
    client:close()
    return nil, ("no server can be reached within %g s (%s): %s"):format(
      values["consul.timeout"], table.concat(values["consul.servers"], ", "), message)
  end
  return client
end

-- A node that is not started; nil and why when there is none.
function connection.node(values)
  local of_client, all = settings(values)
  for name, value in pairs(of_client) do
    all[name] = value
  end
  -- How soon a node is back does not depend on how long the program waits for an answer.
  all.timeout = nil
  local made, node = pcall(consul_ffi.ConsulHACluster.new, all)
  if not made then
    return nil, node
  end
  return node
end

-- What gives the time that client and node go by, in seconds.
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
