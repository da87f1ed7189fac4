-- Lookups in the hash ring from LuaJIT: one call per key, one call for all keys, and a typical ring in plain
-- Lua (FNV-1a, a sorted list, binary search). benches/ring.sh runs it.
local bit = require("bit")
local consul_ffi = require("consul_ffi")

local POINTS, KEYS, ROUNDS = 160, 100000, 15

local function fnv1a(text)
  local hash = 2166136261
  for i = 1, #text do
    hash = bit.bxor(hash, text:byte(i))
    -- Multiplies by 16777619 modulo 2^32 with shifts, because a double cannot represent the product.
    local low = hash + bit.lshift(hash, 1) + bit.lshift(hash, 4) + bit.lshift(hash, 7)
    hash = bit.tobit(low + bit.lshift(hash, 8) + bit.lshift(hash, 24))
  end
  return hash % 2 ^ 32
end

local function plain_ring(ids)
  local points, owners = {}, {}
  for _, id in ipairs(ids) do
    for k = 1, POINTS do
      local point = fnv1a(id .. ":" .. k)
      points[#points + 1], owners[point] = point, id
    end
  end
  table.sort(points)
  return function(key)
    local hash = fnv1a(key)
    local low, high = 1, #points + 1
    while low < high do
      local middle = math.floor((low + high) / 2)
      if points[middle] < hash then
        low = middle + 1
      else
        high = middle
      end
    end
    return owners[points[low] or points[1]]
  end
end

local function median(times)
  table.sort(times)
  return times[math.ceil(#times / 2)]
end

local keys = {}
math.randomseed(1)
for i = 1, KEYS do
  keys[i] = ("stock-%08d"):format(math.random(0, 99999999))
end

-- Returns the CPU time per key in nanoseconds.
local function time(look_up)
  local begun = os.clock()
  look_up()
  return (os.clock() - begun) * 1e9 / KEYS
end

print(("nanoseconds for a lookup from LuaJIT, the median of %d rounds of %d random keys:"):format(ROUNDS, KEYS))
for _, count in ipairs({ 10, 100, 1000 }) do
  local ids, ring = {}, consul_ffi.ConsistentHashRing:new(POINTS)
  for i = 1, count do
    ids[i] = "node-" .. i
    assert(ring:add_node(ids[i]))
  end
  local plain = plain_ring(ids)
  local ways = {
    function()
      for i = 1, KEYS do
        ring:get_node(keys[i])
      end
    end,
    function()
      ring:get_nodes(keys)
    end,
    function()
      for i = 1, KEYS do
        plain(keys[i])
      end
    end,
  }
  local times = { {}, {}, {} }
  for round = 1, ROUNDS do
    for way, look_up in ipairs(ways) do
      times[way][round] = time(look_up)
    end
  end
  print(
    ("%d nodes: get_node %.0f, get_nodes %.0f, plain Lua %.0f"):format(
      count,
      median(times[1]),
      median(times[2]),
      median(times[3])
    )
  )
end
