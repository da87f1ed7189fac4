-- An observer from Lua: it routes and calls, and is not a member. crates/consul-sim/tests/contract has its permissions.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("an observer of a cluster", function()
  local opened, prefix, node, observer

  before_each(function()
    opened, prefix = {}, support.name("observer")
    node = support.node(prefix, "n1")
    observer = consul_ffi.ConsulHACluster:new({
      observer = true,
      node_id = "gateway",
      nodes_prefix = prefix .. "/nodes/",
      simulate = support.simulated,
    })
    opened = { observer, node }
    assert(node:start())
    node:handle("echo", function(body, request)
      return { body = body, from = request.from }
    end)
    assert(observer:start())
  end)

  after_each(function()
    support.clean_up(opened, prefix)
  end)

  it("routes and calls #smoke", function()
    assert.equal("n1", (observer:get_node_for_key("key")))
    assert.equal("n1", observer:get_replica_nodes("key", 1)[1].id)
    assert.equal("n1", observer:get_leader_info().node_id)
    assert.equal((node:get_shard_for_key("key")), (observer:get_shard_for_key("key")))
    assert.same({ true, { body = "x", from = "gateway" } }, { observer:call("n1", "echo", "x") })
    local handle = observer:start("call", "n1", "echo", "y")
    assert.same({ true, true, { body = "y", from = "gateway" } }, { handle:wait() })
    local success, results = observer:broadcast("echo", "z")
    assert.is_true(success)
    assert.same({ n1 = { success = true, data = { body = "z", from = "gateway" } } }, results)
    -- The leader may be seen first.
    local kind, id
    repeat
      kind, id = observer:next_event(support.PATIENCE_MS)
    until kind ~= "leader_changed"
    assert.same({ "node_joined", "n1" }, { kind, id })
  end)

  it("is not a member #smoke", function()
    assert.equal(1, node:get_node_count())
    assert.equal(1, observer:get_node_count())
    assert.equal("observer", observer:status().state)
    assert.is_false(observer:is_leader_node())
    assert.is_nil(observer:token())
    assert.same({}, observer:get_shards())
    assert.equal("not_found", support.kind(node:call("gateway", "echo")))
    assert.is_true(observer:stop())
    assert.equal(1, node:get_node_count())
    assert.equal("closed", support.kind(observer:call("n1", "echo")))
    assert.is_true(observer:start())
    assert.is_true((observer:call("n1", "echo", "x")))
  end)

  it("refuses in words what only members do", function()
    local why = "this is an observer: it serves no requests, has no shards and does not lead"
    for _, misuse in ipairs({
      { "handle", "echo", print },
      { "hand_over" },
      { "leave" },
      { "drain" },
      { "maintenance" },
      { "fenced_put", "key", "value" },
      { "shards_ready", { 1 } },
    }) do
      local method = misuse[1]
      support.raises(method .. ": " .. why, observer[method], observer, misuse[2], misuse[3])
    end
  end)

  it("can set the mode of a node, with the permission to write its key", function()
    assert.is_true(observer:drain(true, "n1"))
    support.eventually(function()
      support.sleep_ms(5)
      return observer.cluster_nodes.n1.status == "draining"
    end)
  end)

  it("says which cluster it waits for", function()
    local lonely = support.node(prefix .. "/other", "gateway", { observer = true, start_timeout_ms = 300 })
    local success, message, err = lonely:start()
    assert.equal("timeout", support.kind(success, message, err))
    assert.matches("the cluster has no nodes", message, 1, true)
  end)
end)
