-- Smooth weighted round robin, as nginx's upstream module has it (src/http/ngx_http_upstream_round_robin.c): at each
-- pick every instance gains its weight, the one with the most is picked and pays the sum of all weights. Of weights 5,
-- 1 and 1 each seven picks in a row return the first one five times, and never five times in succession.
local round_robin = {}

function round_robin.prepare(pool)
  local is_first = pool.balances == nil
  local balances = {}
  for i, entry in ipairs(pool.active) do
    balances[i] = pool.balances and entry.balance or 0
    entry.balance = nil
  end
  pool.balances = balances
  if is_first then
    -- Processes that start together start at different instances.
    for _ = 1, math.floor(pool.random() * pool.count) do
      round_robin.pick(pool)
    end
  end
end

-- Puts the balances into the instances, whose places are about to change.
function round_robin.suspend(pool)
  for i, entry in ipairs(pool.active) do
    entry.balance = pool.balances[i]
  end
end

function round_robin.pick(pool)
  local weights, balances = pool.weights, pool.balances
  local best, most = 1, -math.huge
  for i = 1, pool.count do
    local balance = balances[i] + weights[i]
    balances[i] = balance
    if balance > most then
      best, most = i, balance
    end
  end
  balances[best] = most - pool.total_weight
  return pool.active[best]
end

return round_robin
