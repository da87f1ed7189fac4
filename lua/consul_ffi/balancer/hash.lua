-- Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, arXiv:1608.01350): a key belongs to the next
-- instance on a ring that has room. An instance has room while its requests in flight, the new one included, are at
-- most `load_factor` times its share of all, or at most the next integer above its share, since with a few requests
-- nothing lower is possible. All instances stay on the ring: the keys of an ejected or full instance go to the next
-- ones, and come back.
local text_hash = require("consul_ffi.balancer.text_hash")

local hash = { counts_in_flight = true }

local floor = math.floor

-- Points on the ring for each unit of weight; half as many, as often as needed, when there would be more than MOST.
local POINTS, MOST = 128, 16384

local RANGE = 4294967296

local function points_per_weight(entries)
  local weight = 0
  for _, entry in ipairs(entries) do
    weight = weight + math.max(entry.weight, 1)
  end
  local points = POINTS
  while points * weight > MOST do
    points = points / 2
  end
  return points
end

-- The sorted points of all instances, the instance of each, and for each of equal parts of the range the first point
-- in or after it, so that a lookup takes the same time on each ring.
local function ring(entries)
  local each, points, owners = points_per_weight(entries), {}, {}
  for _, entry in ipairs(entries) do
    for k = 1, math.max(1, floor(each * math.max(entry.weight, 1))) do
      local point = text_hash(entry.key .. "\0" .. k)
      -- Which of two instances has a point must not depend on the order of the list.
      local owner = owners[point]
      if not owner then
        points[#points + 1] = point
      end
      if not owner or entry.key < owner.key then
        owners[point] = entry
      end
    end
  end
  table.sort(points)
  local parts, first, next_point = #points, {}, 1
  local width = RANGE / parts
  for part = 0, parts - 1 do
    while points[next_point] and points[next_point] < part * width do
      next_point = next_point + 1
    end
    first[part] = next_point
  end
  local sorted = {}
  for i, point in ipairs(points) do
    sorted[i] = owners[point]
  end
  return { points = points, owners = sorted, first = first, width = width, count = #points }
end

-- Called when instances or weights have changed.
function hash.rebuild(pool)
  pool.ring = #pool.entries > 0 and ring(pool.entries) or nil
end

function hash.prepare() end

-- The place of a hash on the ring.
local function place_of(found, position)
  local points, count = found.points, found.count
  local i = found.first[floor(position / found.width)]
  while i <= count and points[i] < position do
    i = i + 1
  end
  return i <= count and i or 1
end

-- Whether an instance is within its bound with one more request of now `all`.
local function has_room(entry, all, factor)
  local share = all * entry.share
  return entry.in_flight + 1 <= share * factor or entry.in_flight < share
end

-- Returns the instance that a key, or a random number without one, belongs to, and is not marked with `stamp`; nil if
-- there is none with room.
function hash.pick(pool, key, stamp)
  local position = key and text_hash(key) or floor(pool.random() * RANGE)
  local found, all, factor = pool.ring, pool.in_flight + 1, pool.load_factor
  local owners, count = found.owners, found.count
  -- The lowest bits, which hardly affect the place, choose the keys that another zone serves.
  local is_local = position % 1024 < pool.local_share * 1024
  local i = place_of(found, position)
  for _ = 1, count do
    local entry = owners[i]
    if entry.share > 0 and entry.is_local == is_local and entry.tried ~= stamp and has_room(entry, all, factor) then
      return entry
    end
    i = i < count and i + 1 or 1
  end
end

return hash
