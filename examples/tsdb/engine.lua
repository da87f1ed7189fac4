-- A time series database on replicated shards. A series is divided into blocks of time; a block is a key,
-- whose shard has its points as records, in the order of time. The library writes to a quorum, reads from
-- one, and moves and repairs the shards; this file says what a point is.
local fields = require("examples.tsdb.fields")
local Storage = require("examples.tsdb.storage")
local HighAvailabilityCluster = require("consistent_hash_cluster").HighAvailabilityCluster

-- The length of a block, in seconds, unless `block_s` of Engine.new has another one.
local BLOCK_S = 600

-- The most blocks of a query, the number of points that expire() looks at together, and that of a write of
-- downsample().
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
      if point.value == nil then
        return nil, "the value"
      end
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
      return point.data, "the table data"
    end,
    row = function(timestamp, tags, values)
      return { timestamp = timestamp, data = values, market = tags.market }
    end,
  },
}

-- `config` has the options of HighAvailabilityCluster, `path` (the SQLite file; without it the process keeps
-- no data), `points`, the options of the replicated shards (`write_quorum`, `read_quorum`, …), `timeout_ms` of a
-- write or a read, and `block_s`, the length of a block by kind: one read is made for each block of a query, so daily
-- data have longer ones. It is the same on all nodes, and stays as long as the data.
function Engine.new(config)
  local engine = setmetatable({
    block_s = {},
    storage = config.path and Storage.open(config.path, config.survives),
    timeout_ms = config.timeout_ms,
  }, Engine)
  for kind_name in pairs(KINDS) do
    local length = config.block_s and config.block_s[kind_name] or BLOCK_S
    assert(type(length) == "number" and length > 0 and length % 1 == 0, "block_s must be whole seconds")
    engine.block_s[kind_name] = length
  end
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

-- The key of the block of a time.
function Engine:key_of(series, timestamp)
  local length = self.block_s[series:match("^[^/]*")]
  return ("%s%.0f"):format(series, math.floor(timestamp / length))
end

-- Returns the key and the record of a point; nil and a message if it cannot be stored.
function Engine:record_of(kind_name, point)
  local kind = KINDS[kind_name]
  local timestamp, name = point.timestamp, kind and point[kind.name]
  if not kind then
    return nil, ("the kind is %s: it must be metric or stock"):format(tostring(kind_name))
  elseif type(name) ~= "string" or name == "" then
    return nil, ("%s is %s: it must be a string with characters"):format(kind.name, tostring(name))
  elseif type(timestamp) ~= "number" or not (timestamp >= 0 and timestamp <= MAX_TIME_S) then
    return nil, ("the timestamp is %s: it must be from 0 to %.0f"):format(tostring(timestamp), MAX_TIME_S)
  end
  timestamp = rounded(timestamp)
  local series, given, lacking = series_of(kind_name, name), kind.fields(point)
  if given == nil then
    return nil, ("the point of %s at %s lacks %s"):format(name, tostring(point.timestamp), lacking)
  end
  local tags, why = fields.encode(kind.tags(point))
  local values, why_not = fields.encode(given)
  if not (tags and values) then
    return nil, why or why_not
  end
  return self:key_of(series, timestamp), { id = series .. TIME:format(timestamp) .. "/" .. tags, data = values }
end

-- Writes points, each to a quorum of its block. `kind_name` is the kind of all, else each point has its
-- `kind`. Returns true, or false and a message; then some of them may be stored.
function Engine:put_many(points, kind_name)
  local writes, of_key = {}, {}
  for _, point in ipairs(points) do
    local key, record = self:record_of(kind_name or point.kind, point)
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

-- Returns an iterator over the blocks of a range of time, both ends included, each as its key, and the ids from `from`
-- to before `to`, since other blocks can be in the same shard; then the number of blocks.
function Engine:blocks(series, start_time, end_time)
  start_time, end_time = math.max(start_time, 0), math.min(end_time, MAX_TIME_S)
  local length = self.block_s[series:match("^[^/]*")]
  local block, last = math.floor(start_time / length) - 1, math.floor(end_time / length)
  return function()
    block = block + 1
    if block <= last then
      local from = TIME:format(math.max(start_time, block * length))
      -- "0" comes after "/", which is behind the time.
      local to = block == last and TIME:format(end_time) .. "0" or TIME:format((block + 1) * length)
      return self:key_of(series, block * length), series .. from, series .. to
    end
  end, last - block
end

-- Returns an iterator over the records of a range of time, in order: the record and its key, or false and a message as
-- the last turn. It holds one page of one block.
function Engine:each(series, start_time, end_time)
  local blocks = self:blocks(series, start_time, end_time)
  local key, records
  local has_ended = false
  return function()
    while not has_ended do
      if not records then
        local from, to
        key, from, to = blocks()
        if not key then
          return nil
        end
        records = self.points:read(key, { from = from, to = to, timeout_ms = self.timeout_ms })
      end
      local record, message = records()
      if record then
        return record, key
      elseif message then
        has_ended = true
        return false, message
      end
      records = nil
    end
  end
end

-- Returns an iterator over the points of any range of time, both ends included, in order, in the memory of one page.
-- With tags only those with equal tags. The last turn may be false and a message: then not all were read.
function Engine:rows(kind_name, query)
  local kind = KINDS[kind_name]
  local wanted = kind.tags(query)
  wanted = wanted and fields.encode(wanted)
  local records = self:each(series_of(kind_name, query[kind.name]), query.start_time, query.end_time)
  return function()
    while true do
      local record, message = records()
      if not record then
        return record, message
      end
      local timestamp, tags = record.id:match("/([%d.]+)/([^/]*)$")
      if not wanted or tags == wanted then
        return kind.row(tonumber(timestamp), fields.decode(tags), fields.decode(record.data))
      end
    end
  end
end

-- Returns why a range of time is too long for one call, or nil.
function Engine:too_long(kind_name, start_time, end_time)
  local _, count = self:blocks(kind_name .. "/", start_time, end_time)
  if count > MAX_BLOCKS then
    return ("the range has %.0f blocks of %d s, more than %d"):format(count, self.block_s[kind_name], MAX_BLOCKS)
  end
end

-- Reads all points of a range of time. Returns true and the rows, or false and a message: what is read is complete.
function Engine:get(kind_name, query)
  local rows, why = {}, self:too_long(kind_name, query.start_time, query.end_time)
  if why then
    return false, why
  end
  for row, message in self:rows(kind_name, query) do
    if not row then
      return false, message
    end
    rows[#rows + 1] = row
  end
  return true, rows
end

-- The ways to make a point of downsample(): fn(total, value, count) with the value before it, nil at first.
local WAYS = {
  sum = function(total, value)
    return (total or 0) + value
  end,
  min = function(total, value)
    return math.min(total or value, value)
  end,
  max = function(total, value)
    return math.max(total or value, value)
  end,
  last = function(_, value)
    return value
  end,
  count = function(total)
    return (total or 0) + 1
  end,
  mean = function(total, value, count)
    return ((total or 0) * (count - 1) + value) / count
  end,
}

-- Writes one point of the metric `into` for each `step_s` seconds that have points of the metric `metric_name` with
-- equal tags, at the beginning of the step: their sum, min, max, last, count or mean (`how`, by default). Steps are
-- read whole, so a range that is repeated, or that overlaps an earlier one, gives the same. Returns true and the
-- number of points, or false and a message; then some of them may be stored.
function Engine:downsample(query)
  local way, step_s, count = WAYS[query.how or "mean"], query.step_s, 0
  if not way then
    return false, ("how is %s: it must be sum, min, max, last, count or mean"):format(tostring(query.how))
  elseif type(step_s) ~= "number" or not (step_s > 0 and step_s < math.huge) then
    return false, ("step_s is %s: it must be a number of seconds above 0"):format(tostring(step_s))
  elseif query.into == query.metric_name then
    return false, "into is the metric itself, whose points would be replaced"
  end
  local why = self:too_long("metric", query.start_time, query.end_time)
  if why then
    return false, why
  end
  local function begin(timestamp)
    return math.floor(timestamp / step_s) * step_s
  end
  local writes, by_tags, step = {}, {}, nil
  -- Takes the points of the step, and writes the points of all steps if they are enough.
  local function finish(is_end)
    for _, one in pairs(by_tags) do
      writes[#writes + 1] = { metric_name = query.into, timestamp = step, value = one.value, tags = one.tags }
    end
    by_tags = {}
    if #writes < PAGE and not is_end then
      return true
    end
    local written, message = self:put_many(writes, "metric")
    count, writes = count + #writes, {}
    return written, message
  end
  local whole = { metric_name = query.metric_name, tags = query.tags, start_time = begin(query.start_time),
    end_time = begin(query.end_time) + step_s - 1e-6 }
  for row, message in self:rows("metric", whole) do
    local done = row
    if row and begin(row.timestamp) ~= step then
      done, message = finish()
      step = begin(row.timestamp)
    end
    if not done then
      return false, message
    elseif type(row.value) ~= "number" and type(row.value) ~= "cdata" then
      return false, ("the value at %s is %s, no number"):format(tostring(row.timestamp), tostring(row.value))
    end
    local tags = fields.encode(row.tags)
    local one = by_tags[tags] or { tags = row.tags, count = 0 }
    one.count = one.count + 1
    one.value = way(one.value, tonumber(row.value), one.count)
    by_tags[tags] = one
  end
  local written, message = finish(true)
  return written, written and count or message
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

-- Deletes the points of a range of time, a page at a time. Returns true and their number, or false and a message.
function Engine:delete(kind_name, name, start_time, end_time)
  local ids_of_key, size, count = {}, 0, 0
  local why = self:too_long(kind_name, start_time, end_time)
  if why then
    return false, why
  end
  local function finish()
    local deleted, number = self:delete_ids(ids_of_key)
    ids_of_key, size, count = {}, 0, count + (deleted and number or 0)
    return deleted, number
  end
  for record, key in self:each(series_of(kind_name, name), start_time, end_time) do
    if not record then
      return false, key
    end
    ids_of_key[key] = ids_of_key[key] or {}
    table.insert(ids_of_key[key], record.id)
    size = size + 1
    if size == PAGE then
      local deleted, message = finish()
      if not deleted then
        return false, message
      end
    end
  end
  local deleted, message = finish()
  return deleted, deleted and count or message
end

-- Deletes the points of one series in a shard before a time, a page at a time.
function Engine:expire_series(shard, series, before)
  local count, after = 0, nil
  -- "0" comes after "/", so that this is the end of the series.
  local to = before > MAX_TIME_S and series:sub(1, -2) .. "0" or series .. TIME:format(before)
  repeat
    local ids_of_key = {}
    local page = self.storage:scan(shard, series, to, after, PAGE)
    for _, record in ipairs(page) do
      after = record.id
      if record.data then
        local key = self:key_of(series, tonumber(record.id:match("/([%d.]+)/[^/]*$")))
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

-- Retention: deletes the points before a time if this node has a replica of them. Each node is to call it from
-- time to time; points that another one has deleted are skipped. Returns true and their number, or false and a message.
function Engine:expire(before)
  local count = 0
  if type(before) ~= "number" or before ~= before or before < 0 then
    return false, ("the time is %s: it must be a number from 0 on"):format(tostring(before))
  end
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
