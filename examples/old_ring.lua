-- The placement of the older consul_ha_cluster and consistent_hash_cluster, to find which keys of a store have
-- another node now. It is not a part of the module: nothing places keys by it any more.
--
-- The older module computed a hash of 32 bits, in the manner of MurmurHash3, in doubles: products above 2^53 are
-- rounded, and LuaJIT on x86-64 takes the low 32 bits of a double's mantissa after it has added 1.5 * 2^52. The
-- placement includes both effects, so this file repeats them, on LuaJIT, Lua 5.3 and Lua 5.4.
local OldRing = {}
OldRing.__index = OldRing

local SHARDS = 1024

-- Integer operations on 32 bits, with signed results: of(double), xor(a, b), rotate(a, n), shift(a, n).
local bits
if rawget(_G, "jit") then
  local bit = require("bit")
  bits = { of = bit.tobit, xor = bit.bxor, rotate = bit.rol, shift = bit.rshift }
else
  -- LuaJIT and Lua 5.1 cannot parse these operators.
  bits = assert((rawget(_G, "loadstring") or load)([[
    local MAGIC = 1.5 * 2.0 ^ 52
    local function of(double)
      return (string.unpack("<i4", string.pack("<d", double + MAGIC)))
    end
    local function signed(integer)
      integer = integer & 0xffffffff
      return integer < 0x80000000 and integer or integer - 0x100000000
    end
    return {
      of = of,
      xor = function(a, b) return signed(a ~ b) end,
      rotate = function(a, n) a = a & 0xffffffff return signed(a << n | a >> (32 - n)) end,
      shift = function(a, n) return (a & 0xffffffff) >> n end,
    }
  ]], "old_ring"), "Lua 5.1 has no integers of 32 bits: use LuaJIT, Lua 5.3 or Lua 5.4")()
end

-- The product of a 32-bit integer and a constant, rounded to a double.
local function times(integer, constant)
  return bits.of((integer + 0.0) * constant)
end

function OldRing.hash(key)
  local state = 0
  for at = 1, #key do
    local mixed = bits.rotate(times(key:byte(at), 3432918353), 15)
    state = bits.rotate(bits.xor(state, times(mixed, 461845907)), 13)
    state = bits.of((state + 0.0) * 5 + 3864292196)
  end
  state = bits.xor(state, #key)
  state = times(bits.xor(state, bits.shift(state, 16)), 2246822507)
  state = times(bits.xor(state, bits.shift(state, 13)), 3266489909)
  return bits.xor(state, bits.shift(state, 16))
end

-- The number of a key's shard, 0 to 1023.
function OldRing.shard(key)
  return OldRing.hash(key) % SHARDS
end

-- Returns the ring of a list of ids, in the order in which the older program added them.
function OldRing.new(ids, virtual_nodes)
  local ring = setmetatable({ owners = {}, points = {} }, OldRing)
  for _, id in ipairs(ids) do
    for number = 1, virtual_nodes or 160 do
      local point = OldRing.hash(id .. "#" .. number)
      ring.owners[point] = id
      table.insert(ring.points, point)
    end
  end
  table.sort(ring.points)
  return ring
end

-- The place of the first point that is not before a key's hash; one more than the number of points if there is
-- none.
function OldRing:place(key)
  local hash = OldRing.hash(key)
  local first, after = 1, #self.points + 1
  while first < after do
    local middle = math.floor((first + after) / 2)
    if self.points[middle] < hash then
      first = middle + 1
    else
      after = middle
    end
  end
  return first
end

-- The id of a key's node; nil without nodes.
function OldRing:get_node(key)
  local count = #self.points
  return count > 0 and self.owners[self.points[(self:place(key) - 1) % count + 1]] or nil
end

-- The ids of up to `count` nodes (default 2): the owner, and the next points' nodes, which may be the same node.
function OldRing:get_replica_nodes(key, count)
  local owner, place = self:get_node(key), self:place(key)
  local found, seen = { owner }, {}
  if owner then
    seen[owner] = true
  end
  for step = 1, owner and (count or 2) - 1 or 0 do
    local id = self.owners[self.points[(place + step - 1) % #self.points + 1]]
    if not seen[id] then
      seen[id] = true
      table.insert(found, id)
    end
  end
  return found
end

return OldRing
