-- The defaults of the options `now` and `random`.
local clock = {}

-- The time in seconds: in OpenResty its cached time, which costs no system call, elsewhere whole seconds.
function clock.default()
  local ngx = rawget(_G, "ngx")
  return ngx and ngx.now or os.time
end

-- Returns a function that returns random numbers from 0 up to 1. nginx workers are forks, in which `math.random` of
-- LuaJIT has the same state; seeding it here would change the program's own random numbers. The generator is
-- Marsaglia's congruential one with the factor 69069, whose upper bits alone matter here.
function clock.random_numbers(now)
  local ngx = rawget(_G, "ngx")
  local seed = math.floor(now * 1000) + (ngx and ngx.worker and ngx.worker.pid() or 0) * 7919
  for digit in tostring({}):gmatch("%x") do
    seed = (seed * 69069 + tonumber(digit, 16)) % 4294967296
  end
  local state = seed
  return function()
    state = (state * 69069 + 1) % 4294967296
    return state / 4294967296
  end
end

return clock
