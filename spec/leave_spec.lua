-- cluster:leave(), of nodes that cannot leave. spec/replicated_shards_spec.lua has those that can.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("a node leaves", function()
  local cluster = support.each_cluster("leave")

  -- Starts nodes that each take part in a store in memory; returns its ends and the nodes.
  local function started(count, options, config)
    local stores, nodes = {}, {}
    for i = 1, count do
      local own = { client_name = "n" .. i, shards = 8, profile = "wan", timeout = 20000 }
      nodes[i] = cluster.new_node("n" .. i, support.merged(own, config))
      stores[i] = nodes[i]:replicate("points", nil, options)
      assert(nodes[i]:start())
    end
    assert(stores[1]:write("k", { { id = "a", data = "1" } }, { timeout_ms = 20000 }))
    return stores, nodes
  end

  it("not if one of its stores cannot be used", function()
    started(1, { replicas = 1 })
    local other = cluster.new_node("n2", { shards = 8, profile = "wan" })
    other:replicate("points", nil, { replicas = 1, shards = 4 })
    assert(other:start())
    local success, message, err = other:leave()
    assert.equal("conflict", support.kind(success, message, err))
    assert.matches('it cannot hand its shards over: store "points": the store has shards = 8', message, 1, true)
    assert.equal("follower", other:status().state)
    assert.is_true(other:stop())
  end)

  it("not while it cannot know whether a store needs it, and says why", function()
    local _, nodes = started(2, { replicas = 1 })
    local client = support.client()
    assert(client:kv_put(cluster.prefix() .. "/shards/maps/other", '{"format": 99}'))
    client:close()
    local success, message, err = nodes[2]:leave({ timeout_s = 60 })
    assert.equal("unsupported", support.kind(success, message, err))
    assert.matches("it stays, and drains: ", message, 1, true)
    assert.matches("/shards/maps/other", message, 1, true)
  end)

  it("not if its shards have no target because another node leaves at the same moment", function()
    if not support.simulated then
      return
    end
    local name = support.name("agent")
    local sim = consul_ffi.simulator(name)
    local stores, nodes = started(4, { replicas = 3, write_quorum = 2, read_quorum = 2 }, { simulate = name })
    support.eventually(function()
      local named = {}
      for _, shard in ipairs(select(2, stores[1]:status())) do
        for _, holder in ipairs(next(shard.targets) and {} or shard.holders) do
          named[holder] = true
        end
      end
      support.sleep_ms(50)
      return named.n1 and named.n2 and named.n3 and named.n4
    end)
    -- Neither sees the other's change before its own.
    sim:fault({ clients = { "n2", "n3" }, latency_ms = 200 })
    local second
    local _, left, why = support.with_hook(function()
      second = { nodes[3]:leave({ timeout_s = 60 }) }
    end, nodes[2].leave, nodes[2], { timeout_s = 60 })
    sim:clear_faults()
    -- On a busy machine each may see that the other one leaves.
    assert.is_false(left and second[1])
    assert.matches("no_target", left and second[2] or why, 1, true)
    local found
    for record, message in stores[1]:read("k", { timeout_ms = 20000 }) do
      found = assert(record, message).data
    end
    assert.equal("1", found)
  end)
end)
