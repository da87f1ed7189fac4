-- A time series database on replicated shards. A series is divided into blocks of time; a block is a key,
-- whose shard has its points as records, in the order of time. The library writes to a quorum, reads from
-- one, and moves and repairs the shards; this file says what a point is.
local fields = require("examples.tsdb.fields")
local Storage = require("examples.tsdb.storage")
local HighAvailabilityCluster = require("consistent_hash_cluster").HighAvailabilityCluster

local BLOCK_S = 600

-- The most blocks of a query, and the number of points that expire() looks at together.
local MAX_BLOCKS, PAGE = 10000, 1000

-- The times of points, in seconds: their ids have them with microseconds and as many digits.
local MAX_TIME_S, TIME = 99999999999, "%018.6f"

-- A time as ids have it, and without the sign of -0.
local function rounded(timestamp)
  return tonumber(TIME:format(timestamp)) + 0
end

local Engine = {}
Engine.__index = Engine

-- The kinds of points: how a point of the kind has its name, tags and fields, and how it becomes a row.
local KINDS = {
  metric = {
    name = "metric_name",
    tags = function(point)
      return point.tags
    end,
    fields = function(point)
      return { value = point.value }
    end,
    row = function(timestamp, tags, values)
      return { timestamp = timestamp, value = values.value, tags = tags }
    end,
  },
  stock = {
    name = "stock_code",
    tags = function(point)
      return point.market and { market = point.market }
    end,
    fields = function(point)
      return point.data
    end,
    row = function(timestamp, tags, values)
      return { timestamp = timestamp, data = values, market = tags.market }
    end,
  },
}

-- `config` has the options of HighAvailabilityCluster, `path` (the SQLite file; without it the process keeps
-- no data), `points`, the options of the replicated shards (`write_quorum`, `read_quorum`, …) and `timeout_ms`
-- of a write or a read.
function Engine.new(config)
  local engine = setmetatable({
    storage = config.path and Storage.open(config.path, config.survives),
    timeout_ms = config.timeout_ms,
  }, Engine)
  local cluster = HighAvailabilityCluster:new(config)
  engine.cluster = cluster
  engine.points = cluster:replicate("points", engine.storage, config.points)
  if not config.path then
    return engine
  end
  -- The messages of older programs: a point, and a query.
  for kind_name in pairs(KINDS) do
    cluster:handle(kind_name .. "_data", function(message)
      local written, why = engine:put_many({ message }, kind_name)
      return written or nil, why
    end)
    cluster:handle(kind_name .. "_query", function(query)
      local read, rows = engine:get(kind_name, query)
      return read and rows or nil, rows
    end)
  end
  return engine
end

function Engine:start()
  return self.cluster:start()
end

-- Serves requests of other nodes for up to `timeout_ms`.
function Engine:poll(timeout_ms)
  return self.cluster:poll(timeout_ms)
end

-- Stops the node, which keeps its shards; `leave` hands them to the others first.
function Engine:stop(leave)
  local stopped, message = self.cluster[leave and "leave" or "stop"](self.cluster)
  if self.storage then
    self.storage:close()
  end
  return stopped, message
end

-- The prefix of the ids of a series, and of the keys of its blocks.
local function series_of(kind_name, name)
  return kind_name .. "/" .. fields.escape(name) .. "/"
end

local function key_of(series, timestamp)
  return ("%s%.0f"):format(series, math.floor(timestamp / BLOCK_S))
end

-- Returns the key and the record of a point; nil and a message if it cannot be stored.
local function record_of(kind_name, point)
  local kind = KINDS[kind_name]
  local timestamp, series = point.timestamp, series_of(kind_name, point[kind.name])
  if type(timestamp) ~= "number" or not (timestamp >= 0 and timestamp <= MAX_TIME_S) then
    return nil, ("the timestamp is %s: it must be from 0 to %.0f"):format(tostring(timestamp), MAX_TIME_S)
  end
  timestamp = rounded(timestamp)
  local tags, why = fields.encode(kind.tags(point))
  local values, why_not = fields.encode(kind.fields(point))
  if not (tags and values) then
    return nil, why or why_not
  end
  return key_of(series, timestamp), { id = series .. TIME:format(timestamp) .. "/" .. tags, data = values }
end

-- Writes points, each to a quorum of its block. `kind_name` is the kind of all, else each point has its
-- `kind`. Returns true, or false and a message; then some of them may be stored.
function Engine:put_many(points, kind_name)
  local writes, of_key = {}, {}
  for _, point in ipairs(points) do
    local key, record = record_of(kind_name or point.kind, point)
    if not key then
      return false, record
    end
    local write = of_key[key]
    if not write then
      write = { key, {} }
      of_key[key], writes[#writes + 1] = write, write
    end
    table.insert(write[2], record)
  end
  local written, message = self.points:write_many(writes, { timeout_ms = self.timeout_ms })
  return written, message
end

-- Calls fn(key, from, to) for each block of a range of time, both ends included, until it returns false; the
-- ids are from `from` to before `to`, since other blocks can be in the same shard. Returns true, or false and
-- its message.
local function each_block(series, start_time, end_time, fn)
  local first, last = math.floor(start_time / BLOCK_S), math.floor(end_time / BLOCK_S)
  if last - first >= MAX_BLOCKS then
    return false, ("the range has %.0f blocks of %d s, more than %d"):format(last - first + 1, BLOCK_S, MAX_BLOCKS)
  end
  for block = first, last do
    local from = TIME:format(math.max(start_time, block * BLOCK_S))
    -- "0" comes after "/", which is behind the time.
    local to = block == last and TIME:format(end_time) .. "0" or TIME:format((block + 1) * BLOCK_S)
    local done, message = fn(key_of(series, block * BLOCK_S), series .. from, series .. to)
    if not done then
      return false, message
    end
  end
  return true
end

-- Calls fn(record, key) for each record of a range of time, in order.
function Engine:each(series, start_time, end_time, fn)
  return each_block(series, math.max(start_time, 0), math.min(end_time, MAX_TIME_S), function(key, from, to)
    for record, message in self.points:read(key, { from = from, to = to, timeout_ms = self.timeout_ms }) do
      if not record then
        return false, message
      end
      fn(record, key)
    end
    return true
  end)
end

-- Reads the points of a range of time, both ends included, in order. With tags only those with equal tags.
-- Returns true and the rows, or false and a message: what is read is complete.
function Engine:get(kind_name, query)
  local kind, rows = KINDS[kind_name], {}
  local wanted = kind.tags(query)
  wanted = wanted and fields.encode(wanted)
  local read, message = self:each(series_of(kind_name, query[kind.name]), query.start_time, query.end_time,
    function(record)
      local timestamp, tags = record.id:match("/([%d.]+)/([^/]*)$")
      if not wanted or tags == wanted then
        rows[#rows + 1] = kind.row(tonumber(timestamp), fields.decode(tags), fields.decode(record.data))
      end
    end)
  return read, read and rows or message
end

-- Deletes records by the keys of their blocks: { [key] = ids }.
function Engine:delete_ids(ids_of_key)
  local count = 0
  for key, ids in pairs(ids_of_key) do
    local deleted, message = self.points:delete(key, ids)
    if not deleted then
      return false, message
    end
    count = count + #ids
  end
  return true, count
end

-- Deletes the points of a range of time. Returns true and their number, or false and a message.
function Engine:delete(kind_name, name, start_time, end_time)
  local ids_of_key = {}
  local read, message = self:each(series_of(kind_name, name), start_time, end_time, function(record, key)
    ids_of_key[key] = ids_of_key[key] or {}
    table.insert(ids_of_key[key], record.id)
  end)
  if not read then
    return false, message
  end
  return self:delete_ids(ids_of_key)
end

-- Deletes the points of one series in a shard before a time, a page at a time.
function Engine:expire_series(shard, series, before)
  local count, after = 0, nil
  repeat
    local ids_of_key = {}
    local page = self.storage:scan(shard, series, series .. TIME:format(before), after, PAGE)
    for _, record in ipairs(page) do
      after = record.id
      if record.data then
        local key = key_of(series, tonumber(record.id:match("/([%d.]+)/[^/]*$")))
        ids_of_key[key] = ids_of_key[key] or {}
        table.insert(ids_of_key[key], record.id)
      end
    end
    local deleted, number = self:delete_ids(ids_of_key)
    if not deleted then
      return false, number
    end
    count = count + number
  until #page < PAGE
  return true, count
end

-- Retention: deletes the points before a time of which this node has a replica. Each node is to call it from
-- time to time; what another one has deleted is skipped. Returns true and their number, or false and a message.
function Engine:expire(before)
  local count = 0
  for shard = 0, self.cluster.total_shards - 1 do
    -- From series to series, past the points of each.
    local first = self.storage:scan(shard, "", nil, nil, 1)[1]
    while first do
      local series = first.id:match("^[^/]*/[^/]*/")
      local expired, number = self:expire_series(shard, series, before)
      if not expired then
        return false, number
      end
      count = count + number
      first = self.storage:scan(shard, series:sub(1, -2) .. "0", nil, nil, 1)[1]
    end
  end
  return true, count
end

-- Returns the status of all shards; an empty list while this process has none.
function Engine:shards()
  local known, shards = self.points:status()
  return known and shards or {}
end

-- Whether all shards have this number of replicas, and none is being moved.
function Engine:is_replicated(count)
  local shards = self:shards()
  for _, shard in ipairs(shards) do
    if #shard.holders ~= count or next(shard.targets) then
      return false
    end
  end
  return #shards > 0
end

-- The number of shards that a node has a replica of.
function Engine:holds(node_id)
  local count = 0
  for _, shard in ipairs(self:shards()) do
    for _, holder in ipairs(shard.holders) do
      count = count + (holder == node_id and 1 or 0)
    end
  end
  return count
end

function Engine:put_metric_data(name, timestamp, value, tags)
  return self:put_many({ { metric_name = name, timestamp = timestamp, value = value, tags = tags } }, "metric")
end

function Engine:get_metric_data(name, start_time, end_time, tags)
  return self:get("metric", { metric_name = name, start_time = start_time, end_time = end_time, tags = tags })
end

function Engine:put_stock_data(code, timestamp, data, market)
  return self:put_many({ { stock_code = code, timestamp = timestamp, data = data, market = market } }, "stock")
end

function Engine:get_stock_data(code, start_time, end_time, market)
  return self:get("stock", { stock_code = code, start_time = start_time, end_time = end_time, market = market })
end

return Engine
