-- Three processes run a time series database, while this one writes points through an observer. One node is
-- killed and comes back, each is restarted, a fourth joins, and one leaves, all under load; then all points
-- are read through each node and compared with those that were acknowledged. All figures are measured in
-- the run. It leaves nothing behind.
--
--   make demo-tsdb                            (on consul-sim)
--   make demo-tsdb CONSUL=1.21 POINTS=5000
--   CONSUL_HTTP_ADDR=127.0.0.1:8500 make demo-tsdb

-- From any folder, with the modules of this checkout unless others are installed.
local own_folder = arg[0]:match("^.*/") or "./"
package.path = own_folder .. "../../?.lua;" .. package.path .. ";" .. own_folder .. "../../lua/?.lua"

local consul_ffi = require("consul_ffi")
local Engine = require("examples.tsdb.engine")
local compare = require("examples.tsdb.compare")
local config_of = require("examples.tsdb.config")
local processes = require("examples.tsdb.processes")
local support = require("examples.support")

-- Processes cannot share a simulated agent: these use the one on the default port, or at CONSUL_HTTP_ADDR.
support.simulate = false

local say, now = support.say, support.now
local points, shards = tonumber(arg[1] or 100000), tonumber(arg[2] or 1024)

-- A fixed time, so that each run writes the same points. Each series has a point per second.
local BEGIN_S, SERIES = 1700000400, 100

-- The points of a call, all of one series. Until the nodes have gone through everything, the last part is
-- written slowly, so that nothing happens without load.
local BATCH, LAST_PART = 100, 0.05

-- The time of the last points.
local END_S = BEGIN_S + math.ceil(points / (SERIES * BATCH)) * BATCH - 1

-- Points per second until then, so that the load lasts.
local RATE = points / 50

-- The width of the progress bar on a terminal, and the number of progress lines elsewhere.
local BAR, LINES = 40, 10
local on_terminal = support.is_terminal()

-- Returns the number of a point's series, and its time.
local function place_of(i)
  local batch = math.floor((i - 1) / BATCH)
  return batch % SERIES, BEGIN_S + math.floor(batch / SERIES) * BATCH + (i - 1) % BATCH
end

local function point_of(i)
  local series, timestamp = place_of(i)
  return { metric_name = "cpu." .. series, timestamp = timestamp, value = i * 0.25, tags = { host = "a" } }
end

local function show_progress(done, count)
  local acknowledged = ("%d of %d, %d acknowledged"):format(done, points, count)
  if on_terminal then
    local filled = math.floor(BAR * done / points)
    io.write(("\r  [%s%s] %s"):format(("#"):rep(filled), ("."):rep(BAR - filled), acknowledged))
    io.flush()
  elseif math.floor(done * LINES / points) > math.floor((done - BATCH) * LINES / points) then
    say("%s", acknowledged)
  end
end

local function tell(...)
  io.write(on_terminal and "\n" or "")
  say(...)
end

-- The events of the nodes, as a coroutine: pause() goes on with the load.
local function script(engine, nodes, pause)
  -- Looks now and then, so that the load goes on.
  local function wait_for(what, holds)
    local begun = now()
    while not holds() do
      assert(now() - begun < 300, "not within five minutes: " .. what)
      local looked = now()
      repeat
        pause()
      until now() - looked > 0.1
    end
    return now() - begun
  end
  local function is_ready(name)
    local called, ready = engine.cluster:call(name, "is_ready", nil, { timeout_ms = 1000, retries = 0 })
    return called and ready
  end
  local function start(name)
    nodes.start(name)
    return wait_for(name .. " is ready", function()
      return is_ready(name)
    end)
  end
  local function finish(name, how)
    assert(engine.cluster:call(name, "finish", how))
    return wait_for(name .. " has ended", function()
      return not nodes.is_alive(name)
    end)
  end
  local function is_settled()
    return engine:is_replicated(3)
  end

  tell("n2 is killed (kill -9)")
  nodes.kill("n2")
  local killed = now()
  wait_for("4 s", function()
    return now() - killed > 4
  end)
  tell("n2 is back, %.1f s after its start", start("n2"))
  for _, name in ipairs({ "n1", "n2", "n3" }) do
    local stopped = finish(name, "stop")
    tell("%s is restarted: stopped in %.1f s, back in %.1f s", name, stopped, start(name))
  end
  local begun = now()
  start("n4")
  wait_for("n4 has its shards", function()
    return engine:holds("n4") > 0 and is_settled()
  end)
  tell("n4 has joined and has %d shards, after %.1f s", engine:holds("n4"), now() - begun)
  begun = now()
  finish("n1", "leave")
  wait_for("the shards of n1 are on others", function()
    return engine:holds("n1") == 0 and is_settled()
  end)
  tell("n1 has handed its shards over and left, after %.1f s", now() - begun)
end

-- Writes all points. Returns which were acknowledged, how many were refused, and the longest time without
-- an acknowledgement.
local function write(engine, nodes)
  local acknowledged, count, refused, gap, why = {}, 0, 0, 0, nil
  local events = coroutine.wrap(function()
    script(engine, nodes, coroutine.yield)
    return true
  end)
  local done, are_over, begun = 0, false, now()
  local last = begun
  while done < points do
    are_over = are_over or events()
    local is_last_part = done >= points * (1 - LAST_PART)
    if are_over or not is_last_part and done <= (now() - begun) * RATE or is_last_part and now() - last > 0.2 then
      local batch = {}
      for i = done + 1, math.min(done + (is_last_part and not are_over and 1 or BATCH), points) do
        batch[#batch + 1] = point_of(i)
      end
      local written, message = engine:put_many(batch, "metric")
      if written then
        gap, last = math.max(gap, now() - last), now()
        count = count + #batch
      else
        refused, why = refused + #batch, why or message
      end
      for i = done + 1, done + #batch do
        acknowledged[i] = written
      end
      done = done + #batch
      show_progress(done, count)
    else
      engine:poll(5)
    end
  end
  assert(are_over, "the points were written before everything had happened")
  tell("%d points in %.1f s", points, now() - begun)
  return acknowledged, refused, gap, why
end

-- Reads all points through a node and adds the errors to `wrong`.
local function check(engine, node, acknowledged, wrong)
  local begun, total, all = now(), 0, {}
  for i = 1, points do
    local series, timestamp = place_of(i)
    all[series] = all[series] or {}
    all[series][timestamp] = { value = i * 0.25, acknowledged = acknowledged[i] }
  end
  for series, written in pairs(all) do
    local found = {}
    local _, rows = assert(engine.cluster:call(node, "read_through",
      { name = "cpu." .. series, start_time = BEGIN_S, end_time = END_S }, { timeout_ms = 20000 }))
    for i, row in ipairs(rows) do
      found[i] = { timestamp = row.timestamp, value = row.value }
    end
    total = total + #found
    for name, count in pairs(compare(found, written)) do
      wrong[name] = wrong[name] + count
    end
  end
  say("read through %s: %d points in %.1f s", node, total, now() - begun)
end

local function demo(nodes)
  local client = consul_ffi.new({ consul_url = support.url })
  assert(client:status_leader())
  client:close()
  print(("%d points in %d series, %d shards, 3 replicas, write and read quorum 2"):format(points, SERIES, shards))
  for _, name in ipairs({ "n1", "n2", "n3" }) do
    nodes.start(name)
  end
  local engine = Engine.new(config_of("writer", nil, support.prefix, shards))
  local waited = support.wait_for("three nodes with all shards", function()
    return (engine.cluster.is_running or engine:start()) and engine:is_replicated(3)
  end, function()
    engine:poll(50)
  end)
  say("n1, n2 and n3 have all shards, after %.1f s", waited)
  local acknowledged, refused, gap, why = write(engine, nodes)
  local wrong = { lost = 0, duplicate = 0, disordered = 0, altered = 0 }
  for _, name in ipairs({ "n2", "n3", "n4" }) do
    check(engine, name, acknowledged, wrong)
  end
  for _, name in ipairs({ "n2", "n3", "n4" }) do
    assert(engine.cluster:call(name, "finish", "stop"))
  end
  support.wait_for("the end of all nodes", function()
    return not (nodes.is_alive("n2") or nodes.is_alive("n3") or nodes.is_alive("n4"))
  end)
  assert(engine:stop())
  say("%d acknowledged; %d lost, %d doubled, %d out of order, %d altered, %d refused; longest gap %.2f s",
    points - refused, wrong.lost, wrong.duplicate, wrong.disordered, wrong.altered, refused, gap)
  assert(refused == 0, why)
  assert(wrong.lost + wrong.duplicate + wrong.disordered + wrong.altered == 0,
    "the points read differ from the acknowledged ones")
  say("all acknowledged points are there")
end

support.run(function()
  local folder = os.tmpname()
  os.remove(folder)
  support.sh("mkdir " .. folder)
  local nodes = processes.new(folder, support.prefix, shards)
  local finished, why = pcall(demo, nodes)
  nodes.end_all()
  local output = finished and "" or "\n" .. nodes.output()
  support.sh("rm -r " .. folder)
  assert(finished, tostring(why) .. output)
end)
