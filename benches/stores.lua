-- The example database on three processes, its storage alone, and Redis: the same points. benches/stores.sh runs it.
--
--   luajit benches/stores.lua ROUNDS FOLDER [SOCKET]    SOCKET is that of a Redis
package.path = "./?.lua;" .. package.path

local Engine = require("examples.tsdb.engine")
local Storage = require("examples.tsdb.storage")
local compare = require("examples.tsdb.compare")
local config_of = require("examples.tsdb.config")
local fields = require("examples.tsdb.fields")
local processes = require("examples.tsdb.processes")
local support = require("examples.support")
local ffi = require("ffi")

local ROUNDS, FOLDER, SOCKET = tonumber(arg[1]), arg[2], arg[3]

-- The work of each store in a round. The series of the many have a point per second, like the others.
local SINGLES, BATCHES, BATCH, SERIES, LATEST = 100, 10, 1000, 100, 100

-- The time of the first points, and the seconds before the last one in which the newest point is looked for.
local BEGIN_S, LAST_S = 1700000400, 60

-- As many as the demo has.
local SHARDS = 1024

-- The seconds before a turn, so that what a store does behind its answers does not take the next one's time.
local PAUSE_S = 0.1

ffi.cdef([[
  struct timespec { long s, ns; };
  int clock_gettime(int, struct timespec *);
]])

local function now()
  local time = ffi.new("struct timespec")
  ffi.C.clock_gettime(1, time)
  return tonumber(time.s) + tonumber(time.ns) / 1e9
end

-- A store has put(points), range(name, from, to) and latest(name, time): the newest point, which is not older than a
-- minute before that time.
local stores = {}

local function of_engine(engine)
  local function range(name, from, to)
    local read, rows = engine:get_metric_data(name, from, to)
    return assert(read and rows, rows)
  end
  return {
    put = function(points)
      assert(engine:put_many(points, "metric"))
    end,
    range = range,
    -- The example has no other way.
    latest = function(name, time)
      local rows = range(name, time - LAST_S, time)
      return rows[#rows]
    end,
  }
end

-- An engine whose records are in one file of this process: what the example does with points, without a cluster.
local function sqlite()
  local storage, version = Storage.open(FOLDER .. "/alone.sqlite"), 0
  local points = {}
  function points.write_many(_, writes)
    local records = {}
    version = version + 1
    for _, write in ipairs(writes) do
      for _, record in ipairs(write[2]) do
        record.version = ("%032x"):format(version)
        records[#records + 1] = record
      end
    end
    return storage:apply(0, records) == true
  end
  function points.read(_, _, range)
    local i, page = 0, storage:scan(0, range.from, range.to, nil, 100000)
    return function()
      i = i + 1
      return page[i]
    end
  end
  return of_engine(setmetatable({ points = points, block_s = { metric = 600 } }, Engine))
end

-- A series is a sorted set by time, whose members are the text that the example stores. Unlike the example's points,
-- a point that is written again with another value would be a second member.
local function redis()
  local unix = require("socket.unix")
  local socket = (type(unix) == "table" and unix.stream or unix)()
  assert(socket:connect(SOCKET))
  local client = require("redis").connect({ socket = socket })
  local encoder = setmetatable({ block_s = { metric = 600 } }, Engine)
  local function row_of(member)
    local time, tags, values = member:match("^([^/]*)/([^/]*)/(.*)$")
    return { timestamp = tonumber(time), tags = fields.decode(tags), value = fields.decode(values).value }
  end
  return {
    put = function(points)
      local names, of_name = {}, {}
      for _, point in ipairs(points) do
        local _, record = assert(encoder:record_of("metric", point))
        local list = of_name[point.metric_name]
        if not list then
          list = {}
          of_name[point.metric_name], names[#names + 1] = list, point.metric_name
        end
        list[#list + 1] = point.timestamp
        list[#list + 1] = record.id:match("[^/]*/[^/]*$") .. "/" .. record.data
      end
      if #names == 1 then
        client:zadd(names[1], unpack(of_name[names[1]]))
        return
      end
      client:pipeline(function(pipeline)
        for _, name in ipairs(names) do
          pipeline:zadd(name, unpack(of_name[name]))
        end
      end)
    end,
    range = function(name, from, to)
      local rows = client:zrangebyscore(name, from, to)
      for i, member in ipairs(rows) do
        rows[i] = row_of(member)
      end
      return rows
    end,
    latest = function(name)
      return row_of(client:zrevrange(name, 0, 0)[1])
    end,
  }
end

-- All points that were written, by series and time.
local written = {}

local function point(name, timestamp, value)
  written[name] = written[name] or {}
  written[name][timestamp] = { value = value, acknowledged = true }
  return { metric_name = name, timestamp = timestamp, value = value, tags = { host = "a" } }
end

-- The points of a round: lists of what is written at once. Round 0 warms up.
local function points_of(round)
  local singles, ones, many = {}, {}, {}
  for i = 1, SINGLES do
    singles[i] = { point("single." .. i % SERIES, BEGIN_S + round * SINGLES + i, i * 0.25) }
  end
  for batch = 1, BATCHES do
    local one, wide = {}, {}
    for i = 1, BATCH do
      one[i] = point(("one.%d.%d"):format(round, batch), BEGIN_S + i, i * 0.25)
      local seconds = ((round * BATCHES + batch) * BATCH + i - 1) / SERIES
      wide[i] = point("many." .. i % SERIES, BEGIN_S + math.floor(seconds), i * 0.5)
    end
    ones[batch], many[batch] = one, wide
  end
  return singles, ones, many
end

local function check(store, series, rows)
  for what, count in pairs(compare(rows, written[series])) do
    assert(count == 0, ("%s: %s has %d points %s"):format(store.name, series, count, what))
  end
end

local function median(list)
  table.sort(list)
  return list[math.ceil(#list / 2)]
end

-- The measurements: what is shown of the seconds that one takes, and its runs.
local function per_second(count)
  return function(seconds)
    return ("%.0f points/s"):format(count / seconds)
  end
end

local function milliseconds(seconds)
  return ("%.3f ms"):format(seconds * 1e3)
end

local function writes(lists)
  return function(store)
    for _, points in ipairs(lists) do
      store.put(points)
    end
  end
end

-- Returns what is measured in a round, in turns: { name, number of operations, how it is shown, run(store) }. A run
-- returns what it has read, by series.
local function measurements(round)
  local singles, ones, many = points_of(round)
  return {
    { "a single write", SINGLES, milliseconds, writes(singles) },
    { "batches of 1,000 of one series", BATCHES, per_second(BATCH), writes(ones) },
    { "batches of 1,000 of 100 series", BATCHES, per_second(BATCH), writes(many) },
    { "a range of 1,000 points", BATCHES, milliseconds, function(store)
      local found = {}
      for _, points in ipairs(ones) do
        local name = points[1].metric_name
        found[name] = store.range(name, points[1].timestamp, points[BATCH].timestamp)
      end
      return found
    end },
    { "the newest point of a series", LATEST, milliseconds, function(store)
      for i = 1, LATEST do
        local points = ones[i % BATCHES + 1]
        local row = store.latest(points[1].metric_name, points[BATCH].timestamp)
        assert(row.timestamp == points[BATCH].timestamp and row.value == points[BATCH].value)
      end
    end },
  }
end

local function measure(engine)
  -- By measurement: the seconds of an operation, by store, each a list.
  local results = {}
  for round = 0, ROUNDS do
    for i, measurement in ipairs(measurements(round)) do
      local what, count, show, run = unpack(measurement)
      results[i] = results[i] or { what = what, show = show, times = {} }
      for turn = 1, #stores do
        local store = stores[(round + turn) % #stores + 1]
        local until_s = now() + PAUSE_S
        repeat
          engine:poll(20)
        until now() >= until_s
        collectgarbage()
        local begun = now()
        local found = run(store)
        local seconds = (now() - begun) / count
        local times = results[i].times[store.name] or {}
        results[i].times[store.name] = times
        if round > 0 then
          times[round] = seconds
        end
        for series, rows in pairs(found or {}) do
          check(store, series, rows)
        end
      end
    end
  end
  return results
end

local function show(results)
  print(("\n%d rounds; medians, and the median of the ratios of the times within a round"):format(ROUNDS))
  local names = {}
  for i, store in ipairs(stores) do
    names[i] = store.name
  end
  for _, result in ipairs(results) do
    print(result.what)
    for _, name in ipairs(names) do
      local ratios = {}
      for round, seconds in ipairs(result.times[name]) do
        ratios[round] = result.times[names[1]][round] / seconds
      end
      local ratio = median(ratios)
      -- ratios is sorted from here on.
      local compared = name ~= names[1] and ("  the example takes %.2f times as long (%.2f to %.2f)"):format(
        ratio, ratios[1], ratios[#ratios]) or ""
      -- A copy, since median() sorts, and the next store's ratios need the order of the rounds.
      print(("  %-12s %18s%s"):format(name, result.show(median({ unpack(result.times[name]) })), compared))
    end
  end
end

local function benchmark(nodes)
  for _, name in ipairs({ "n1", "n2", "n3" }) do
    nodes.start(name)
  end
  local engine = Engine.new(config_of("writer", nil, support.prefix, SHARDS))
  support.wait_for("three nodes with all shards", function()
    return (engine.cluster.is_running or engine:start()) and engine:is_replicated(3)
  end, function()
    engine:poll(50)
  end)
  local function add(name, store)
    store.name = name
    stores[#stores + 1] = store
  end
  add("the example", of_engine(engine))
  add("SQLite", sqlite())
  if SOCKET and SOCKET ~= "" then
    add("Redis", redis())
  end
  local results = measure(engine)
  local count = 0
  for series, points in pairs(written) do
    local last = 0
    for timestamp in pairs(points) do
      count, last = count + 1, math.max(last, timestamp)
    end
    for _, store in ipairs(stores) do
      check(store, series, store.range(series, BEGIN_S, last))
    end
  end
  show(results)
  print(("each store has returned all of %d points"):format(count))
  for _, name in ipairs({ "n1", "n2", "n3" }) do
    assert(engine.cluster:call(name, "finish", "stop"))
  end
  assert(engine:stop())
  support.wait_for("the end of all nodes", function()
    return not (nodes.is_alive("n1") or nodes.is_alive("n2") or nodes.is_alive("n3"))
  end)
end

-- Processes cannot share a simulated agent.
support.simulate = false
support.run(function()
  local nodes = processes.new(FOLDER, support.prefix, SHARDS)
  local finished, why = pcall(benchmark, nodes)
  nodes.end_all()
  assert(finished, tostring(why) .. (finished and "" or "\n" .. nodes.output()))
end)
