-- Three processes keep a time series database: points are written on two of three nodes at least, one
-- process is killed in the middle, and each of the others gives back everything that was acknowledged.
-- Every figure was measured in the run. It leaves nothing behind.
--
--   make demo-tsdb                            (on consul-sim)
--   make demo-tsdb CONSUL=1.21 POINTS=5000
--   CONSUL_HTTP_ADDR=127.0.0.1:8500 make demo-tsdb

local Engine = require("examples.tsdb.engine")
local compare = require("examples.tsdb.compare")
local config_of = require("examples.tsdb.config")
local Store = require("examples.tsdb.store")
local support = require("examples.support")

local say, now = support.say, support.now
local points = tonumber(arg[1] or 20000)

-- A fixed time, so that each run writes the same.
local BEGIN_S = 1700000000

-- When the process is killed, as a part of all points.
local KILLED_AT = 0.5

local BAR = 40

-- How many in what time.
local function rate(count, begun)
  return ("%d points in %.2f s, %.0f/s"):format(count, now() - begun, count / math.max(now() - begun, 0.01))
end

-- Point number `i`: a metric, or a price when `i` is even. One a second of each.
local function value_of(i)
  return i * 0.25
end

local function time_of(i)
  return BEGIN_S + math.floor((i - 1) / 2)
end

local function put(engine, i)
  if i % 2 == 1 then
    return engine:put_metric_data("cpu.load", time_of(i), value_of(i), { host = "a" })
  end
  return engine:put_stock_data("600519", time_of(i), { price = value_of(i), volume = i }, "SH")
end

local function show_progress(done, acknowledged)
  local filled = math.floor(BAR * done / points)
  io.write(("\r  [%s%s] %d of %d, %d acknowledged"):format(
    ("#"):rep(filled), ("."):rep(BAR - filled), done, points, acknowledged))
  io.flush()
end

local function write_directly(path)
  local store, begun = Store.open(path), now()
  for i = 1, points do
    assert(store:write({ { shard = 0, series = "metric/cpu.load", timestamp = i, tags = "host=sa",
      fields = "value=n" .. i, version = i } }))
  end
  say("directly into SQLite: %s", rate(points, begun))
  store:close()
end

-- Starts a node as a process.
local function process(folder, name, port)
  local command = "exec %s examples/tsdb/node.lua %s %d %s %s"
  local output = assert(io.popen(command:format(arg[-1], name, port, support.prefix, folder)))
  local pid = output:read("*l")
  assert(pid and pid:match("^%d+$"), pid or "a node has not started")
  return { pid = pid, output = output }
end

-- Whether all three nodes have the data of all shards.
local function is_settled(cluster)
  local shards = cluster.data_shards
  for shard = 0, cluster.total_shards - 1 do
    local replicas = shards[shard] or {}
    for _, replica in ipairs(replicas) do
      if replica.state ~= "available" then
        return false
      end
    end
    if #replicas < 3 then
      return false
    end
  end
  return true
end

-- Writes all points, killing a process on the way. Gives which were acknowledged.
local function write(engine, victim)
  local acknowledged, count, refused, begun = {}, 0, nil, now()
  for i = 1, points do
    if i == math.floor(points * KILLED_AT) then
      say("\n  n2 is killed (kill -9) while n1 writes")
      -- In the background, so that it happens between any two steps of a write.
      support.sh(("(sleep 0.05; kill -9 %s) &"):format(victim.pid))
    end
    local written, why = put(engine, i)
    acknowledged[i] = written
    count = count + (written and 1 or 0)
    refused = refused or not written and why
    if i % 100 == 0 or i == points then
      show_progress(i, count)
    end
  end
  print()
  say("through the cluster: %s", rate(points, begun))
  if refused then
    say("not acknowledged: %d, the first because %s", points - count, refused)
  end
  return acknowledged
end

-- The two series: the number of the first point, and what a row's point was.
local SERIES = {
  { method = "get_metric_data", name = "cpu.load", first = 1, value = function(row)
    return row.value
  end },
  { method = "get_stock_data", name = "600519", first = 2, value = function(row)
    return row.data.price
  end },
}

-- Reads everything by `read(method, name, from, to)` and says what is wrong with it.
local function check(who, acknowledged, read)
  local begun, total, wrong = now(), 0, { lost = 0, doubled = 0, disordered = 0, altered = 0 }
  for _, series in ipairs(SERIES) do
    local written, found = {}, {}
    for i = series.first, points, 2 do
      written[time_of(i)] = { value = value_of(i), acknowledged = acknowledged[i] }
    end
    for i, row in ipairs(read(series.method, series.name, BEGIN_S, time_of(points))) do
      found[i] = { timestamp = row.timestamp, value = series.value(row) }
    end
    total = total + #found
    for name, count in pairs(compare(found, written)) do
      wrong[name] = wrong[name] + count
    end
  end
  say("read through %s: %s; %d lost, %d doubled, %d out of order, %d other than written", who,
    rate(total, begun), wrong.lost, wrong.doubled, wrong.disordered, wrong.altered)
  return wrong.lost + wrong.doubled + wrong.disordered + wrong.altered == 0
end

local function demo(folder)
  print(("%d points, 3 replicas, written on 2 at least"):format(points))
  write_directly(folder .. "/direct.sqlite")
  local n2, n3 = process(folder, "n2", 9002), process(folder, "n3", 9003)
  local engine = Engine.new(config_of("n1", 9001, support.prefix, folder))
  assert(engine:start())
  support.wait_for("all shards on three nodes", function()
    return is_settled(engine.cluster)
  end, function()
    engine:poll(50)
  end)
  say("n1, n2 and n3 have all shards")
  local acknowledged = write(engine, n2)
  assert(acknowledged[points], "writing did not go on after the kill")
  local here = check("n1", acknowledged, function(method, ...)
    local _, rows = assert(engine[method](engine, ...))
    return rows
  end)
  local there = check("n3", acknowledged, function(method, name, start_time, end_time)
    local _, rows = assert(engine.cluster:call("n3", "read_through",
      { method = method, name = name, start_time = start_time, end_time = end_time }, { timeout_ms = 60000 }))
    return rows
  end)
  assert(engine.cluster:call("n3", "stop"))
  n3.output:close()
  n2.output:close()
  assert(engine:stop())
  assert(here and there, "what was read is not what was acknowledged")
  say("all that was acknowledged is there")
end

support.run(function()
  local folder = os.tmpname()
  os.remove(folder)
  support.sh("mkdir " .. folder)
  local finished, why = pcall(demo, folder)
  support.sh("rm -r " .. folder)
  assert(finished, why)
end)
