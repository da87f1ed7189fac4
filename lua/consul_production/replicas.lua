-- Copies of values in the memory of the cluster's nodes, for reads while Consul is away. Each has a
-- version: the shard map's epoch, which grows even when Consul loses its data, then Consul's index.
local quorum = require("consul_quorum")

local replicas = {}
replicas.__index = replicas

local PUT, GET = "consul_production/put", "consul_production/get"

function replicas.new()
  return setmetatable({ copies = {} }, replicas)
end

local function newest(one, other)
  if one.epoch ~= other.epoch then
    return one.epoch > other.epoch and one or other
  end
  return one.index >= other.index and one or other
end

-- Answers the other nodes.
function replicas:serve(cluster)
  cluster:handle(PUT, function(copy)
    local known = self.copies[copy.key]
    self.copies[copy.key] = known and newest(copy, known) or copy
    return true
  end)
  cluster:handle(GET, function(asked)
    return self.copies[asked.key]
  end)
end

local function ids(cluster, key, factor)
  local found = {}
  for i, node in ipairs(cluster:get_replica_nodes(key, factor)) do
    found[i] = node.id
  end
  return found
end

-- Has a value on the nodes of its key; gives what quorum.write gives.
function replicas.write(cluster, copy, factor, options)
  copy.epoch = cluster:status().map_epoch or 0
  return quorum.write(cluster, ids(cluster, copy.key, factor), PUT, copy, options)
end

-- The newest copy of a key's nodes; gives what quorum.read gives.
function replicas.read(cluster, key, factor, options)
  options.newest = newest
  return quorum.read(cluster, ids(cluster, key, factor), GET, { key = key }, options)
end

return replicas
