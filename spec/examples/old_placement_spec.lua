-- F10: the placement of the older modules, which examples/old_ring.lua computes for a migration.
local placements = require("spec.older_placements")
local support = require("spec.support")

describe("the placement of the older modules", function()
  if _VERSION == "Lua 5.1" and not rawget(_G, "jit") then
    it("F10 cannot be computed on Lua 5.1", function()
      assert.error_matches(function()
        require("examples.old_ring")
      end, "use LuaJIT, Lua 5.3 or Lua 5.4")
    end)
    return
  end

  local OldRing = require("examples.old_ring")

  it("F10 is that of 1,000 recorded keys", function()
    local ring, other = OldRing.new(placements.ids), OldRing.new(placements.other_ids, 100)
    for i = 1, placements.count do
      local key = placements.key(i)
      local replicas = ring:get_replica_nodes(key, 2)
      assert.same({
        placements.ids[tonumber(placements.owners:sub(i, i))],
        placements.other_ids[tonumber(placements.other_owners:sub(i, i))],
        tonumber(placements.shards:sub(3 * i - 2, 3 * i), 16),
        placements.ids[tonumber(placements.seconds:sub(i, i))],
      }, { ring:get_node(key), other:get_node(key), OldRing.shard(key), replicas[2] }, key)
      assert.equal(ring:get_node(key), replicas[1])
    end
    assert.is_nil(OldRing.new({}):get_node("key"))
    assert.same({}, OldRing.new({}):get_replica_nodes("key"))
  end)

  it("F10 is another one for two thirds of the keys of a store, which a script lists", function()
    local keys, moved = os.tmpname(), os.tmpname()
    local file = assert(io.open(keys, "w"))
    for i = 1, placements.count do
      file:write(placements.key(i), "\n")
    end
    file:close()
    local command = "%s examples/old_placement.lua node1,node2,node3 <%s >%s 2>%s.count"
    local status = os.execute(command:format(support.interpreter, keys, moved, moved))
    assert.is_true(status == true or status == 0)
    local lines = {}
    for line in io.lines(moved) do
      lines[#lines + 1] = line
    end
    local count = tonumber(io.lines(moved .. ".count")():match("^(%d+) of 1000 keys move$"))
    assert.equal(#lines, count)
    assert.is_true(count > 600 and count < 730)
    local key, before, now = lines[1]:match("^(.-)\t(node%d)\t(node%d)$")
    assert.is_string(key)
    assert.are_not.equal(before, now)
    os.remove(keys)
    os.remove(moved)
    os.remove(moved .. ".count")
  end)
end)
