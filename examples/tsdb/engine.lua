-- A time series database on the nodes of a cluster: each point is on all nodes of its series' block of
-- 30 s, written when a quorum of them has it, and read from as many that none can be missed.
local fields = require("examples.tsdb.fields")
local merge = require("examples.tsdb.merge")
local Store = require("examples.tsdb.store")
local HighAvailabilityCluster = require("consistent_hash_cluster").HighAvailabilityCluster
local quorum = require("consul_quorum")

local BLOCK_S = 30

-- How many points a page of a stream has.
local PAGE = 1000

local Engine = {}
Engine.__index = Engine

-- How the points of each kind are asked for and shown: their messages, and what of a message is the
-- name, the tags and the fields.
local KINDS = {
  metric = {
    name = "metric_name",
    tags = function(message)
      return message.tags
    end,
    fields = function(message)
      return { value = message.value }
    end,
    show = function(point)
      local value, tags = fields.decode(point.fields).value, fields.decode(point.tags)
      return { timestamp = point.timestamp, value = value, tags = tags }
    end,
  },
  stock = {
    name = "stock_code",
    tags = function(message)
      return message.market and { market = message.market }
    end,
    fields = function(message)
      return message.data
    end,
    show = function(point)
      return {
        timestamp = point.timestamp,
        data = fields.decode(point.fields),
        market = fields.decode(point.tags).market,
      }
    end,
  },
}

-- `config` is the cluster node's, with `path` (the SQLite file), `write_quorum` and `read_quorum`; the
-- two are together more than `replication_factor`, or reads could miss what was written.
function Engine.new(config)
  local engine = setmetatable({
    replicas = config.replication_factor or 2,
    write_quorum = config.write_quorum or 1,
    read_quorum = config.read_quorum or 1,
    version = 0,
  }, Engine)
  engine.store = Store.open(config.path)
  local of_cluster = { time_partition_s = BLOCK_S }
  for name, value in pairs(config) do
    of_cluster[name] = value
  end
  function of_cluster.receive_shard(shard, source)
    return engine:copy_shard(shard, source)
  end
  local cluster = HighAvailabilityCluster:new(of_cluster)
  engine.cluster = cluster
  for name, kind in pairs(KINDS) do
    cluster:handle(name .. "_data", function(message)
      return engine:keep(name, kind, message)
    end)
    cluster:handle(name .. "_query", function(query)
      return engine:own_page(name, kind, query)
    end)
  end
  cluster:handle("shard_query", function(query)
    if cluster.metadata.version < query.map then
      return nil, "its shard map is older"
    end
    return engine.store:shard(query)
  end)
  return engine
end

function Engine:start()
  return self.cluster:start()
end

-- Serves the other nodes, and copies what the shard map has newly given to this one.
function Engine:poll(timeout_ms)
  local served = self.cluster:poll(timeout_ms)
  local version = self.cluster.metadata.version
  if version ~= self.balanced then
    local done = self.cluster:rebalance_shards()
    self.balanced = done and version or nil
  end
  return served
end

function Engine:stop()
  local stopped, message = self.cluster:stop()
  self.store:close()
  return stopped, message
end

-- Who has the block of a point: the replicas, their ids, and both as text, by the map of this version.
function Engine:placement(name, timestamp)
  local replicas, ids, parts = self.cluster:get_replicas(name, timestamp), {}, {}
  for i, replica in ipairs(replicas) do
    ids[i], parts[i] = replica.id, replica.id .. " " .. replica.state
  end
  table.sort(parts)
  return replicas, ids, table.concat(parts, ", "), self.cluster.metadata.version
end

-- Keeps a point here. A writer that does not know yet that the shard moves is refused: who gets the
-- shard's data may have them already, and would not have this point.
function Engine:keep(kind_name, kind, message)
  local _, _, placement, map = self:placement(message[kind.name], message.timestamp)
  if message.map and message.map < map and message.placement ~= placement then
    return nil, "the writer's shard map is too old"
  end
  local tags, why = fields.encode(kind.tags(message))
  local values = tags and fields.encode(kind.fields(message))
  if not values then
    return nil, why or select(2, fields.encode(kind.fields(message)))
  end
  local name = message[kind.name]
  local shard = self.cluster:get_shard_for_key(self.cluster:partition(name, message.timestamp))
  local point = {
    shard = shard or 0,
    series = kind_name .. "/" .. name,
    timestamp = message.timestamp,
    tags = tags,
    fields = values,
    version = message.version or self:next_version(),
  }
  local written, trouble = self.store:write({ point })
  if not written then
    return nil, trouble
  end
  return true
end

-- The points that this node has of a query.
function Engine:own_page(kind_name, kind, query)
  local tags = kind.tags(query)
  return self.store:range({
    series = kind_name .. "/" .. query[kind.name],
    start_time = query.start_time,
    end_time = query.end_time,
    tags = tags and fields.encode(tags),
    after = query.after,
    limit = query.limit or PAGE,
  })
end

-- Newer than all versions that this process has given, and than those of others as far as clocks agree.
function Engine:next_version()
  self.version = math.max(self.version + 1, os.time() * 1000000)
  return self.version
end

local function count(ids, replicas, without)
  local states, counted = {}, 0
  for _, replica in ipairs(replicas) do
    states[replica.id] = replica.state
  end
  for _, id in ipairs(ids) do
    counted = counted + (states[id] ~= without and 1 or 0)
  end
  return counted
end

-- Writes to all nodes of a block. While it moves, both those that had it and those that will have it
-- must be a quorum.
function Engine:put(kind_name, message)
  local replicas, ids
  replicas, ids, message.placement, message.map = self:placement(message[KINDS[kind_name].name], message.timestamp)
  message.type, message.version = kind_name .. "_data", self:next_version()
  local written, outcome = quorum.write(self.cluster, ids, message.type, message, { quorum = self.write_quorum })
  if not written then
    return false, outcome
  end
  local had = count(outcome.acknowledged, replicas, "initializing")
  local will_have = count(outcome.acknowledged, replicas, "leaving")
  if math.min(had, will_have) < self.write_quorum then
    return false, ("%s: its shard moves, and no answer came from %s"):format(message.type,
      table.concat(outcome.missing, ", "))
  end
  return true
end

-- What a node has of a query, page by page; `failed` is told when it does not answer.
function Engine:stream(node_id, query, failed)
  local page, place = {}, 0
  local ended = false
  return function()
    place = place + 1
    if place > #page and not ended then
      query.after = page[#page]
      local answered, points = self.cluster:fetch_data(node_id, query)
      if answered then
        page, place, ended = points, 1, #points < query.limit
      else
        page, place, ended = {}, 1, true
        failed(points)
      end
    end
    return page[place]
  end
end

-- The nodes that have a block of the range.
function Engine:holders(name, start_time, end_time)
  local ids, seen, all = {}, {}, self.cluster.metadata.nodes_count
  for block = math.floor(start_time / BLOCK_S), math.floor(end_time / BLOCK_S) do
    for _, replica in ipairs(self.cluster:get_replicas(name, block * BLOCK_S)) do
      if not seen[replica.id] then
        seen[replica.id], ids[#ids + 1] = true, replica.id
      end
    end
    if #ids >= all then
      break
    end
  end
  return ids
end

-- Merges what the nodes of the query's blocks have.
function Engine:get(kind_name, query)
  local kind, streams, missing = KINDS[kind_name], {}, {}
  query.type, query.limit = kind_name .. "_query", PAGE
  for i, id in ipairs(self:holders(query[kind.name], query.start_time, query.end_time)) do
    local of_node = {}
    for name, value in pairs(query) do
      of_node[name] = value
    end
    streams[i] = self:stream(id, of_node, function(why)
      missing[#missing + 1] = ("%s (%s)"):format(id, tostring(why))
    end)
  end
  local rows = {}
  for point in merge(streams) do
    rows[#rows + 1] = kind.show(point)
  end
  if #missing > self.replicas - self.read_quorum then
    return false, ("%s: no answer from %s"):format(query.type, table.concat(missing, ", "))
  end
  return true, rows
end

-- Copies a shard from the node that has it.
function Engine:copy_shard(shard, source)
  local query = { type = "shard_query", shard = shard, map = self.cluster.metadata.version, limit = PAGE }
  repeat
    local answered, points = self.cluster:fetch_data(source, query)
    if not answered then
      return false, points
    end
    local written, message = self.store:write(points)
    if not written then
      return false, message
    end
    query.after = points[#points]
  until #points < PAGE
  return true
end

function Engine:put_metric_data(name, timestamp, value, tags)
  return self:put("metric", { metric_name = name, timestamp = timestamp, value = value, tags = tags })
end

function Engine:get_metric_data(name, start_time, end_time, tags)
  return self:get("metric", { metric_name = name, start_time = start_time, end_time = end_time, tags = tags })
end

function Engine:put_stock_data(code, timestamp, data, market)
  return self:put("stock", { stock_code = code, timestamp = timestamp, data = data, market = market })
end

function Engine:get_stock_data(code, start_time, end_time, market)
  return self:get("stock", { stock_code = code, start_time = start_time, end_time = end_time, market = market })
end

return Engine
