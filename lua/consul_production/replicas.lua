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

-- A copy as one string, because JSON does not hold all bytes; and back.
local function packed(copy)
  return ("%d %d %d %d\n"):format(copy.epoch, copy.index, copy.flags, #copy.key) .. copy.key .. copy.bytes
end

local function unpacked(text)
  local epoch, index, flags, length, from = text:match("^(%d+) (%d+) (%d+) (%d+)\n()")
  local bytes_from = from + length
  return {
    epoch = tonumber(epoch),
    index = tonumber(index),
    flags = tonumber(flags),
    key = text:sub(from, bytes_from - 1),
    bytes = text:sub(bytes_from),
  }
end

-- Answers the other nodes.
function replicas:serve(cluster)
  cluster:handle(PUT, function(text)
    local copy = unpacked(text)
    local known = self.copies[copy.key]
    self.copies[copy.key] = known and newest(copy, known) or copy
    return true
  end)
  cluster:handle(GET, function(key)
    local copy = self.copies[key]
    return copy and packed(copy)
  end)
end

-- Answers them no more.
function replicas.withdraw(cluster)
  cluster:handle(PUT, nil)
  cluster:handle(GET, nil)
end

local function ids(cluster, key, factor)
  local found = {}
  for i, node in ipairs(cluster:get_replica_nodes(key, factor)) do
    found[i] = node.id
  end
  return found
end

-- Has a copy on the nodes of its key; gives what quorum.write gives.
function replicas.write(cluster, copy, factor, options)
  copy.epoch = cluster:status().map_epoch or 0
  return quorum.write(cluster, ids(cluster, copy.key, factor), PUT, packed(copy), options)
end

-- The newest copy of a key's nodes; gives what quorum.read gives.
function replicas.read(cluster, key, factor, options)
  function options.newest(one, other)
    return packed(newest(unpacked(one), unpacked(other)))
  end
  local text, outcome = quorum.read(cluster, ids(cluster, key, factor), GET, key, options)
  return text and unpacked(text), outcome
end

return replicas
