-- Peak EWMA, as Finagle's balancer has it (finagle-core, loadbalancer/PeakEwma.scala): of two random instances the one
-- with the lower cost, which is a moving average of its response times multiplied by its requests in flight and the
-- next one. A slower answer than the average replaces it at once; faster ones lower it gradually. Two choices are
-- nearly as good as looking at all, and do not send all requests to the best one (Mitzenmacher, "The Power of Two
-- Choices in Randomized Load Balancing", IEEE Transactions on Parallel and Distributed Systems 12, 2001).
--
-- Weights, which Finagle does not have: an instance is drawn by its weight, and its requests in flight count by it.
local least_time = { counts_in_flight = true }

local exp, floor = math.exp, math.floor

-- The mean lifetime of an observation, in seconds; Finagle's default.
local DECAY_S = 10

-- The offset of each average: half of nginx's resolution, in which a fast answer takes 0 ms.
local LEAST_MS = 0.5

-- How much one answer counts in the share of an instance's answers that are errors, and how much greater than another
-- instance's that share may be before the instance counts as faulty.
local ERROR_WEIGHT, MORE_ERRORS = 1 / 8, 0.1

-- Builds the tables from which one random number draws an instance by its weight (Walker's alias method, by Vose: "A
-- linear algorithm for generating random numbers with a given distribution", IEEE Transactions on Software Engineering
-- 17, 1991).
local function with_draws(side)
  local count, weights = #side.active, side.weights
  local mean = side.total_weight / count
  local chances, aliases, small, large = {}, {}, {}, {}
  for i, entry in ipairs(side.active) do
    chances[i], aliases[i] = weights[i] / mean, i
    entry.pressure = mean / weights[i]
    local list = chances[i] < 1 and small or large
    list[#list + 1] = i
  end
  while #small > 0 and #large > 0 do
    local less, more = table.remove(small), large[#large]
    aliases[less] = more
    chances[more] = chances[more] - (1 - chances[less])
    if chances[more] < 1 then
      small[#small + 1] = table.remove(large)
    end
  end
  -- The rest differs from 1 by rounding only.
  for _, list in ipairs({ small, large }) do
    for _, i in ipairs(list) do
      chances[i] = 1
    end
  end
  side.count, side.chances, side.aliases = count, chances, aliases
  return side
end

-- The instances of the own zone and the others are drawn from by themselves: of one each, the cheaper one would change
-- the zone's share.
function least_time.prepare(pool)
  local own = { active = {}, weights = {}, total_weight = 0 }
  local others = { active = {}, weights = {}, total_weight = 0 }
  for i, entry in ipairs(pool.active) do
    local side, weight = entry.is_local and own or others, pool.weights[i]
    local place = #side.active + 1
    side.active[place], side.weights[place], side.total_weight = entry, weight, side.total_weight + weight
  end
  pool.own = #own.active > 0 and with_draws(own) or nil
  pool.others = #others.active > 0 and with_draws(others) or nil
end

local function draw(pool, side)
  local place = pool.random() * side.count
  local i = floor(place)
  if place - i < side.chances[i + 1] then
    return i + 1
  end
  return side.aliases[i + 1]
end

-- The own zone's instances or the others, by their weights.
local function side_of(pool)
  local own, others = pool.own, pool.others
  if own and others then
    return pool.random() * pool.total_weight < own.total_weight and own or others
  end
  return own or others
end

-- The average of the response times in milliseconds, which decays towards 0 while no answer comes, so that a slow
-- instance is tried again.
local function average(entry, time)
  if entry.decayed_at ~= time then
    entry.decayed_at = time
    entry.decayed_ms = entry.ms * exp((entry.observed_at - time) / DECAY_S)
  end
  return entry.decayed_ms
end

-- Whether an instance costs less than another one. Of one without an average the requests in flight alone are compared:
-- it gets as many at once as others. (In Finagle it gets one at a time until that ends, which a session of hours does
-- not.)
local function is_cheaper(entry, other, time)
  local cost, its_cost = entry.in_flight * entry.pressure + 1, other.in_flight * other.pressure + 1
  if entry.ms and other.ms then
    cost, its_cost = cost * (average(entry, time) + LEAST_MS), its_cost * (average(other, time) + LEAST_MS)
  end
  return cost < its_cost
end

function least_time.pick(pool)
  local side = side_of(pool)
  local active = side.active
  if side.count == 1 then
    return active[1]
  end
  local i, j = draw(pool, side), draw(pool, side)
  if i == j then
    j = i % side.count + 1
  end
  local one, other = active[i], active[j]
  -- An instance that answers errors at once has few requests in flight, so that it would get nearly all: it gets those
  -- for which it was drawn first, which is its share by weight, and none instead of an instance with fewer errors.
  if other.errors > one.errors + MORE_ERRORS or not is_cheaper(other, one, pool.time) then
    return one
  end
  return other
end

-- Takes into account whether an answer was an error.
function least_time.count_error(entry, is_error)
  local errors = entry.errors + ((is_error and 1 or 0) - entry.errors) * ERROR_WEIGHT
  entry.errors = errors > 0.001 and errors or 0
end

-- An error that comes fast must not make an instance attractive: it never lowers the average.
function least_time.observe(entry, succeeded, ms, time)
  if not entry.ms or ms >= entry.ms then
    entry.ms = (succeeded or entry.ms) and ms or nil
  elseif succeeded then
    local kept = exp((entry.observed_at - time) / DECAY_S)
    entry.ms = entry.ms * kept + ms * (1 - kept)
  else
    return
  end
  entry.observed_at, entry.decayed_at = time, nil
end

return least_time
