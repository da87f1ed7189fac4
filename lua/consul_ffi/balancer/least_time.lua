-- Peak EWMA, as Finagle's balancer has it (finagle-core, loadbalancer/PeakEwma.scala): of two random instances the one
-- with the lower cost, which is a moving average of its response times multiplied by its requests in flight and the
-- next one. A slower answer than the average replaces it at once; faster ones lower it gradually. Two choices are
-- nearly as good as looking at all, and do not send all requests to the best one (Mitzenmacher, "The Power of Two
-- Choices in Randomized Load Balancing", IEEE Transactions on Parallel and Distributed Systems 12, 2001).
--
-- Weights, which Finagle does not have: an instance is drawn by its weight, and its requests in flight count by it.
local least_time = { counts_in_flight = true }

local exp, floor, max = math.exp, math.floor, math.max

-- The mean lifetime of an observation, in seconds; Finagle's default.
local DECAY_S = 10

-- The offset of each average: half of nginx's resolution, in which a fast answer takes 0 ms.
local LEAST_MS = 0.5

-- How much one answer counts in the share of an instance's answers that are errors, how much greater than another
-- instance's that share may be at no cost, so that failures in a row do eject, and with how much more an instance gets
-- its share by weight at most.
local ERROR_WEIGHT, FEW_MORE, MANY_MORE = 1 / 8, 0.35, 0.75

-- How much errors cost: an instance with nothing but errors as much as if it were eleven times slower, and half of them
-- less than twice the time. With more, instances with some errors would leave their requests to an instance that hangs.
local ERROR_COST, ERROR_POWER = 10, 4

-- Builds the tables from which one random number draws an instance by its weight (Walker's alias method, by Vose: "A
-- linear algorithm for generating random numbers with a given distribution", IEEE Transactions on Software Engineering
-- 17, 1991).
function least_time.prepare(pool)
  local count, mean = pool.count, pool.total_weight / pool.count
  local chances, aliases, small, large = {}, {}, {}, {}
  for i, entry in ipairs(pool.active) do
    chances[i], aliases[i] = pool.weights[i] / mean, i
    entry.pressure = mean / pool.weights[i]
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
  pool.chances, pool.aliases, pool.draws = chances, aliases, count
end

local function draw(pool)
  local place = pool.random() * pool.draws
  local i = floor(place)
  if place - i < pool.chances[i + 1] then
    return i + 1
  end
  return pool.aliases[i + 1]
end

-- The average of the response times in milliseconds, which decays towards 0 while no answer comes, so that a slow
-- instance is tried again. An error is an answer, too.
local function average(entry, time)
  if entry.decayed_at ~= time then
    entry.decayed_at = time
    entry.decayed_ms = entry.ms * exp((max(entry.observed_at, entry.errors_at) - time) / DECAY_S)
  end
  return entry.decayed_ms
end

-- The share of an instance's answers that are errors, which decays while no answer comes, too.
local function errors_of(entry, time)
  return entry.errors > 0 and entry.errors * exp((entry.errors_at - time) / DECAY_S) or 0
end

-- By how much it raises an instance's cost that its share of errors is greater than another one's by so much.
local function error_cost(more)
  return more > FEW_MORE and 1 + ERROR_COST * more ^ ERROR_POWER or 1
end

-- Whether an instance costs less than another one. Of one without an average the requests in flight alone are compared:
-- it gets as many at once as others. (In Finagle it gets one at a time until that ends, which a session of hours does
-- not.)
--
-- An instance that answers errors at once has few requests in flight, so that it would get nearly all. Its errors raise
-- its cost; with many more than the other one has it gets no request for which that was drawn first.
local function is_cheaper(entry, other, time)
  local cost, its_cost = entry.in_flight * entry.pressure + 1, other.in_flight * other.pressure + 1
  if entry.ms and other.ms then
    cost, its_cost = cost * (average(entry, time) + LEAST_MS), its_cost * (average(other, time) + LEAST_MS)
  end
  local more = errors_of(entry, time) - errors_of(other, time)
  return more <= MANY_MORE and cost * error_cost(more) < its_cost * error_cost(-more)
end

function least_time.pick(pool)
  local active = pool.active
  if pool.count == 1 then
    return active[1]
  end
  local i, j = draw(pool), draw(pool)
  if i == j then
    j = i % pool.count + 1
  end
  local one, other = active[i], active[j]
  return is_cheaper(other, one, pool.time) and other or one
end

-- Takes into account whether an answer was an error.
function least_time.count_error(entry, is_error, time)
  local errors = errors_of(entry, time)
  errors = errors + ((is_error and 1 or 0) - errors) * ERROR_WEIGHT
  entry.errors, entry.errors_at, entry.decayed_at = errors > 0.001 and errors or 0, time, nil
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
