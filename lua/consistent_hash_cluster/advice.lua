-- Warnings about names in a node's configuration that look like options and have no effect there. An engine
-- passes its own configuration, so no name is refused.
local older = require("consul_native")._internal

-- The options that a node of consistent_hash_cluster has.
local OWN = {
  "capacity", "cluster_key", "cluster_name", "cluster_options", "cluster_port", "consul_endpoints", "data_port",
  "data_tls", "encrypt_traffic", "host", "node_id", "port", "receive_shard", "replication_factor", "role",
  "simulate", "time_partition_s", "virtual_nodes_per_physical",
}

-- Options of a client or of a ConsulHACluster for which a node has other ones.
local INSTEAD = {
  data_address = "host and data_port",
  endpoints = "consul_endpoints",
  node_address = "host and port",
  nodes_prefix = "cluster_name",
  replicas = "replication_factor",
  weight = "capacity, which is 1000 for a weight of 1",
}

local is_own = {}
for _, name in ipairs(OWN) do
  is_own[name] = true
end

-- Returns the warning about a name; nil when it is a node's option or like none.
local function warning(name)
  local option, is_exact = older.option_like(name, OWN)
  if not option or is_exact and is_own[option] then
    return nil
  end
  local right = is_own[option] and option or INSTEAD[option] or ("cluster_options = { %s = … }"):format(option)
  return ("HighAvailabilityCluster: the option %s has no effect here; likely meant: %s"):format(name, right)
end

-- Writes each warning to the log, once in a process.
return function(config)
  for name in pairs(config) do
    local text = type(name) == "string" and name ~= "" and warning(name)
    if text then
      older.warn_once(text)
    end
  end
end
