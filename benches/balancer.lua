-- The cost of a pick, compared with smooth weighted round robin in plain Lua over the same 20 instances.
--
--   LUA_PATH='lua/?.lua;;' luajit benches/balancer.lua
--
-- Fails when a pick takes more than 1.5 times as long.
local balancer = require("consul_ffi.balancer")

-- A batch is picked, then reported: as many requests are in flight.
local INSTANCES, BATCH, BATCHES, ROUNDS, BOUND = 20, 200, 5000, 9, 1.5

local list = {}
for i = 1, INSTANCES do
  list[i] = { id = "web-" .. i, address = "10.0.0." .. i, port = 80, weight = 1 + i % 5 }
end

-- Keys of 11 bytes, as for users or sessions.
local keys = {}
for i = 1, BATCH do
  keys[i] = ("user-%06d"):format(i * 7919 % 1000000)
end

local function plain_round_robin()
  local peers, total = {}, 0
  for i, instance in ipairs(list) do
    peers[i], total = { instance = instance, weight = instance.weight, current = 0 }, total + instance.weight
  end
  return function()
    local best, most = nil, -math.huge
    for i = 1, #peers do
      local peer = peers[i]
      local current = peer.current + peer.weight
      peer.current = current
      if current > most then
        best, most = peer, current
      end
    end
    best.current = most - total
    return best.instance
  end
end

local clock, picked = 0, {}

local function pick_batch(pick)
  for i = 1, BATCH do
    picked[i] = pick(keys[i])
  end
end

local function report_batch(report)
  for i = 1, BATCH do
    report(picked[i])
  end
end

-- Returns the CPU time of a pick and of a report in nanoseconds. The clock moves by a millisecond with each batch.
local function time(way)
  local picks, reports = 0, 0
  for _ = 1, BATCHES do
    clock = clock + 0.001
    local begun = os.clock()
    pick_batch(way.pick)
    local ended = os.clock()
    report_batch(way.report)
    picks, reports = picks + ended - begun, reports + os.clock() - ended
  end
  return picks * 1e9 / BATCH / BATCHES, reports * 1e9 / BATCH / BATCHES
end

local ways = { { name = "plain Lua", pick = plain_round_robin(), report = function() end } }
for _, policy in ipairs({ "round_robin", "least_time", "hash" }) do
  local web = balancer.new(list, {
    policy = policy,
    now = function()
      return clock
    end,
  })
  ways[#ways + 1] = {
    name = policy,
    pick = function(key)
      return web:pick(key)
    end,
    report = function(instance)
      web:report(instance, true, 5)
    end,
  }
end

for _, way in ipairs(ways) do
  way.picks, way.reports = {}, {}
end
for round = 1, ROUNDS do
  for _, way in ipairs(ways) do
    way.picks[round], way.reports[round] = time(way)
  end
end

local function median(times)
  table.sort(times)
  return times[math.ceil(#times / 2)]
end

print(("nanoseconds among %d instances, the median of %d rounds of %d picks:"):format(
  INSTANCES, ROUNDS, BATCH * BATCHES))
local plain, failed = median(ways[1].picks), false
for _, way in ipairs(ways) do
  local pick = median(way.picks)
  local is_missed = pick > BOUND * plain
  failed = failed or is_missed
  print(("  %-12s a pick %6.1f, %.2f times (at most %.1f)%s; a report %.1f"):format(
    way.name, pick, pick / plain, BOUND, is_missed and "  MISSED" or "", median(way.reports)))
end
os.exit(failed and 1 or 0)
