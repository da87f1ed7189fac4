-- Hashes text to an integer from 0 to 2^32 - 1, the same on every engine. Each four bytes are added to 65599 times the
-- value before, the factor of sdbm's hash; two rounds then mix the bits: the value is multiplied, and the product of
-- its upper and its lower half added, which is not linear, so that texts that differ by a digit get independent values.
local byte = string.byte

local FACTOR, FIRST, SECOND = 65599, 741103, 597399

-- The arithmetic modulo 2^32 with LuaJIT's `bit`, which compiles to integer instructions: four bytes as one integer,
-- the next value, a round of the mixing, and the result.
local function with_bit(bit)
  local lshift, rshift, band, tobit = bit.lshift, bit.rshift, bit.band, bit.tobit
  local arithmetic = {}
  function arithmetic.join(a, b, c, d)
    return a + lshift(b, 8) + lshift(c, 16) + lshift(d, 24)
  end
  function arithmetic.add(hash, value)
    return tobit(hash * FACTOR + value)
  end
  function arithmetic.mix(hash, factor)
    hash = tobit(hash * factor)
    return tobit(hash + rshift(hash, 16) * band(hash, 65535))
  end
  function arithmetic.finish(hash)
    hash = tobit(hash * FIRST)
    return hash < 0 and hash + 4294967296 or hash
  end
  return arithmetic
end

-- The same with doubles, in which no value reaches 2^53.
local function with_doubles()
  local arithmetic = {}
  function arithmetic.join(a, b, c, d)
    return a + b * 256 + c * 65536 + d * 16777216
  end
  function arithmetic.add(hash, value)
    return (hash * FACTOR + value) % 4294967296
  end
  function arithmetic.mix(hash, factor)
    hash = hash * factor % 4294967296
    local lower = hash % 65536
    return (hash + (hash - lower) / 65536 * lower) % 4294967296
  end
  function arithmetic.finish(hash)
    return hash * FIRST % 4294967296
  end
  return arithmetic
end

local function with(arithmetic)
  local join, add, mix, finish = arithmetic.join, arithmetic.add, arithmetic.mix, arithmetic.finish

  local function add_eight(hash, text, i)
    local a, b, c, d, e, f, g, h = byte(text, i, i + 7)
    return add(add(hash, join(a, b, c, d)), join(e, f, g, h))
  end

  return function(text)
    local hash, length = #text, #text
    if length < 8 then
      for i = 1, length do
        hash = add(hash, byte(text, i))
      end
    else
      -- The last eight bytes overlap those before, so that up to 16 bytes need no loop, which would end a trace.
      hash = add_eight(hash, text, 1)
      for i = 9, length - 8, 8 do
        hash = add_eight(hash, text, i)
      end
      hash = add_eight(hash, text, length - 7)
    end
    return finish(mix(mix(hash, FIRST), SECOND))
  end
end

local has_bit, bit = pcall(require, "bit")
return with(has_bit and rawget(_G, "jit") and with_bit(bit) or with_doubles())
