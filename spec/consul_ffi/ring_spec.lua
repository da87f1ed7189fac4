-- Consistent hash rings, which are local: they make no requests.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

local ConsistentHashRing = consul_ffi.ConsistentHashRing

-- A ring of node-1 to node-`count`, each with an address.
local function ring_of(count, virtual_nodes)
  local ring = ConsistentHashRing:new(virtual_nodes)
  for i = 1, count do
    assert(ring:add_node("node-" .. i, { address = "10.0.0." .. i .. ":9000" }))
  end
  return ring
end

local function keys(count)
  local list = {}
  for i = 1, count do
    list[i] = "key " .. i
  end
  return list
end

-- Counts how often each value is in a list.
local function counted(list)
  local counts = {}
  for _, value in ipairs(list) do
    counts[value] = (counts[value] or 0) + 1
  end
  return counts
end

describe("a ring", function()
  it("returns a key's node, with the information given for it #smoke", function()
    local ring = ring_of(3)
    local id, node = ring:get_node("AAPL")
    assert.equal("node-1", id)
    assert.same({ id = "node-1", address = "10.0.0.1:9000" }, { id = node.id, address = node.address })
    assert.equal(node, ring.nodes[id])
    assert.equal(id, (ring:get_node("AAPL")))
  end)

  it("has the same owners in all processes, engines and releases #smoke", function()
    local owners = {}
    for i = 0, 15 do
      owners[i + 1] = ring_of(5):get_node("key-" .. i):match("%d+")
    end
    assert.equal("1322415424515145", table.concat(owners))
  end)

  it("is created with a colon, with a dot and by a call, with 160 virtual nodes by default #smoke", function()
    for _, ring in ipairs({
      ConsistentHashRing:new(100),
      ConsistentHashRing.new(100),
      ConsistentHashRing(100),
    }) do
      assert.equal(100, ring.virtual_nodes)
      assert.equal("ConsistentHashRing(0 nodes, 100 virtual nodes)", tostring(ring))
    end
    for _, ring in ipairs({ ConsistentHashRing:new(), ConsistentHashRing.new(), ConsistentHashRing() }) do
      assert.equal(160, ring.virtual_nodes)
    end
  end)

  it("has its nodes by id, and their number as its length", function()
    local ring = ring_of(2)
    assert.equal(2, #ring)
    assert.equal("10.0.0.1:9000", ring.nodes["node-1"].address)
    assert.equal("10.0.0.2:9000", ring.nodes["node-2"].address)
    assert.is_nil(ring.nodes["node-3"])
    for id in pairs(ring.nodes) do
      assert.is_true(ring:remove_node(id))
    end
    assert.equal(0, #ring)
    assert.is_nil(next(ring.nodes))
    support.raises("anything_else: a ConsistentHashRing has no method or field of this name", function()
      return ring.anything_else
    end)
  end)

  it("has nodes that convert to their ids as strings", function()
    local ring = ring_of(3)
    local _, node = ring:get_node("AAPL")
    assert.equal("node-1", tostring(node))
    assert.equal("on node-1!", "on " .. node .. "!")
    assert.equal("node-1node-1", node .. node)
  end)

  it("copies a node's information, and does not change the given table", function()
    local ring = ConsistentHashRing:new()
    local info = { address = "10.0.0.1:9000" }
    assert(ring:add_node("a", info))
    assert.same({ address = "10.0.0.1:9000" }, info)
    info.address = "elsewhere"
    assert.equal("10.0.0.1:9000", ring.nodes.a.address)
  end)

  it("requires only the id of a node", function()
    local ring = ConsistentHashRing:new()
    assert(ring:add_node("a"))
    local id, node = ring:get_node("key")
    assert.same({ "a", "a" }, { id, node.id })
  end)

  it("without nodes has no owners", function()
    local ring = ConsistentHashRing:new()
    assert.equal(0, #ring)
    assert.is_nil(ring:get_node("key"))
    assert.is_nil(ring:get_nodes({ "key" }))
    assert.same({}, ring:get_replica_nodes("key", 2))
    assert(ring:add_node("a"))
    assert(ring:remove_node("a"))
    assert.is_nil(ring:get_node("key"))
  end)

  it("of one node places all keys on it", function()
    local ring = ring_of(1)
    assert.same({ ["node-1"] = 500 }, counted(ring:get_nodes(keys(500))))
    assert.equal(1, #ring:get_replica_nodes("key", 5))
  end)

  it("takes keys and ids of any bytes", function()
    local ring = ConsistentHashRing:new()
    assert(ring:add_node("\0\255"))
    for _, key in ipairs({ "", "\0", "a\0b", "\255\254", ("long"):rep(10000) }) do
      assert.equal("\0\255", (ring:get_node(key)))
    end
  end)

  it("moves keys only to an added node and from a removed one #smoke", function()
    local ring, list = ring_of(10), keys(2000)
    local before = ring:get_nodes(list)
    assert(ring:add_node("new"))
    local with = ring:get_nodes(list)
    assert(ring:remove_node("node-3"))
    local without = ring:get_nodes(list)
    local gained, lost = 0, 0
    for i = 1, #list do
      if with[i] == "new" then
        gained = gained + 1
      else
        assert.equal(before[i], with[i])
      end
      if with[i] == "node-3" then
        lost = lost + 1
      else
        assert.equal(with[i], without[i])
      end
    end
    assert.is_true(gained > 100 and gained < 300, gained .. " of 2,000 gained")
    assert.is_true(lost > 100 and lost < 300, lost .. " of 2,000 lost")
    assert(ring:remove_node("new"))
    assert(ring:add_node("node-3"))
    assert.same(before, ring:get_nodes(list))
  end)

  it("replaces the information and the weight of a node that is added again", function()
    local ring, list = ring_of(2), keys(3000)
    local before = ring:get_nodes(list)
    assert(ring:add_node("node-1", { address = "moved" }))
    assert.same({ 2, "moved" }, { #ring, ring.nodes["node-1"].address })
    assert.same(before, ring:get_nodes(list))
    assert(ring:add_node("node-1", { weight = 2 }))
    assert.is_nil(ring.nodes["node-1"].address)
    local share = counted(ring:get_nodes(list))["node-1"] / #list
    assert.is_true(share > 0.58 and share < 0.75, share)
  end)

  it("places keys in proportion to weights, and none on a node of weight 0", function()
    local ring = ConsistentHashRing:new()
    assert(ring:add_node("a", { weight = 1 }))
    assert(ring:add_node("b", { weight = 3 }))
    assert(ring:add_node("none", { weight = 0 }))
    local counts = counted(ring:get_nodes(keys(4000)))
    assert.is_true(counts.b > 2600 and counts.b < 3400, counts.b)
    assert.equal(4000, counts.a + counts.b)
    assert.equal(0, ring.nodes.none.weight)
    assert.equal(2, #ring:get_replica_nodes("key", 3))
    assert(ring:remove_node("a"))
    assert(ring:remove_node("b"))
    assert.is_nil(ring:get_node("key"))
  end)

  it("ignores the removal of an unknown node", function()
    local ring = ring_of(1)
    assert.is_true(ring:remove_node("unknown"))
    assert.equal(1, #ring)
  end)

  it("returns the nodes of many keys at once #smoke", function()
    local ring, list = ring_of(7), keys(1000)
    local owners = ring:get_nodes(list)
    assert.equal(1000, #owners)
    for i, key in ipairs(list) do
      assert.equal(ring:get_node(key), owners[i])
    end
    assert.same({}, ring:get_nodes({}))
  end)

  it("returns replicas on distinct nodes, the owner first #smoke", function()
    local ring = ring_of(5)
    for _, key in ipairs(keys(200)) do
      local replicas = ring:get_replica_nodes(key, 3)
      assert.equal(3, #replicas)
      assert.equal(ring:get_node(key), replicas[1].id)
      local seen = {}
      for _, node in ipairs(replicas) do
        assert.is_nil(seen[node.id])
        seen[node.id] = true
        assert.equal(ring.nodes[node.id], node)
      end
      local all = ring:get_replica_nodes(key, 100)
      assert.equal(5, #all)
      for i = 1, 3 do
        assert.equal(replicas[i], all[i])
      end
    end
    assert.equal(2, #ring:get_replica_nodes("key"))
    assert.same({}, ring:get_replica_nodes("key", 0))
    assert.equal("node-3", ring:get_replica_nodes("key-1", 1)[1] .. "")
  end)

  it("has the second replica where the key moves when its owner is removed", function()
    local ring = ring_of(6)
    for _, key in ipairs(keys(50)) do
      local first, second = support.unpack(ring:get_replica_nodes(key, 2))
      assert(ring:remove_node(first.id))
      assert.equal(second.id, (ring:get_node(key)))
      assert(ring:add_node(first.id, first))
    end
  end)

  it("spreads keys more evenly with more virtual nodes", function()
    local function greatest(virtual_nodes)
      local most = 0
      for _, count in pairs(counted(ring_of(10, virtual_nodes):get_nodes(keys(5000)))) do
        most = math.max(most, count)
      end
      return most
    end
    assert.is_true(greatest(1000) < greatest(2))
  end)

  it("returns an argument error for an invalid value, and does not change", function()
    local ring = ring_of(2)
    for _, case in ipairs({
      { "", {}, 'add_node: id is "": it must not be empty' },
      { "a", { weight = 0 / 0 }, "add_node: info.weight is NaN: it must be a number that is not below 0" },
      { "a", { weight = -1 }, "add_node: info.weight is -1: it must be" },
      { "a", { weight = math.huge }, "add_node: info.weight is inf: it must be" },
      { "a", { weight = 1e9 }, "add_node: with info.weight 1000000000 the ring would have more than 4194304 points" },
      { "a", { weight = 26213 }, "with info.weight 26213 the ring would have more than 4194304 points" },
      { "node-1", { weight = 1e9 }, "with info.weight 1000000000 the ring" },
    }) do
      local success, message, err = ring:add_node(case[1], case[2])
      assert.equal("argument", support.kind(success, message, err))
      assert.matches(case[3], message, 1, true)
    end
    assert.same({ 2, "10.0.0.1:9000" }, { #ring, ring.nodes["node-1"].address })
    assert.equal("argument", support.kind(ring:get_replica_nodes("key", -1)))
    assert.equal("argument", support.kind(ring:get_replica_nodes("key", 1.5)))
  end)

  it("raises for misuse at the caller's line, naming what is allowed", function()
    local ring = ring_of(2)
    local function call(method, ...)
      local args = { ... }
      return function()
        ring[method](ring, support.unpack(args, 1, 2))
      end
    end
    for _, case in ipairs({
      { call("get_node"), "get_node: key must be a string, got nil" },
      { call("get_node", 600519), "get_node: key must be a string, got a number 600519" },
      { call("get_nodes", "key"), "get_nodes: keys must be a list of strings, got a string" },
      { call("get_nodes", { "a", 2 }), "get_nodes: keys[2] must be a string, got a number 2" },
      { call("get_nodes", { "a", false }), "get_nodes: keys[2] must be a string, got a boolean false" },
      { call("get_replica_nodes", {}), "get_replica_nodes: key must be a string, got a table" },
      { call("get_replica_nodes", "key", "2"), 'get_replica_nodes: n must be an integer, got a string "2"' },
      { call("add_node"), "add_node: id must be a string, got nil" },
      { call("add_node", 5), "add_node: id must be a string, got a number 5" },
      { call("add_node", "a", "10.0.0.1"), 'add_node: info must be a table, got a string "10.0.0.1"' },
      { call("add_node", "a", { weight = "2" }), 'add_node: info.weight must be a number that is not below 0, got a' },
      { call("remove_node"), "remove_node: id must be a string, got nil" },
      {
        function()
          ring.get_node("key")
        end,
        "get_node: call it with a colon",
      },
    }) do
      assert.matches("ring_spec.lua:%d+: ", support.raises(case[2], case[1]))
    end
    for _, virtual_nodes in ipairs({ 0, -1, 1.5, 10001, 1e300, 0 / 0, "160", {}, false }) do
      support.raises("ConsistentHashRing: virtual_nodes must be an integer from 1 to 10000, got",
        ConsistentHashRing.new, ConsistentHashRing, virtual_nodes)
    end
  end)

  it("is garbage-collected although its nodes refer to it", function()
    local seen = setmetatable({}, { __mode = "v" })
    do
      local ring = ring_of(3)
      assert(ring:add_node("self", { ring = ring }))
      assert.is_string((ring:get_node("key")))
      seen[1] = ring.nodes.self
    end
    collectgarbage()
    collectgarbage()
    assert.is_nil(seen[1])
  end)
end)
