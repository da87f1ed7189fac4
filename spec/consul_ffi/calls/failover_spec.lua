-- Lost answers and a lost leader.
local support = require("spec.support")

describe("when answers are lost", function()
  local sim, connect = support.manual_agent(5)
  local client

  before_each(function()
    sim:reset()
    sim:clear_faults()
    client = connect()
  end)

  it("a failure reports whether the request may have been applied", function()
    sim:fault({ drop_after = 1 })
    local _, _, lost = client:kv_put("k", "v", { cas = 0 })
    assert.is_true(lost.maybe_applied)
    assert.equal(1, lost.attempts)
    local _, _, read = client:kv_get("k")
    assert.is_false(read.maybe_applied)
    sim:clear_faults()
    local _, _, conflict = client:kv_put("k", "w", { cas = 0 })
    assert.equal("conflict", conflict.kind)
    assert.is_false(conflict.maybe_applied)
    local _, _, wrong = client:kv_put("/k", "v")
    assert.is_false(wrong.maybe_applied)
  end)

  it("an acquire returns success only when the session holds the lock", function()
    local _, session = assert(client:session_create({ name = "worker" }))
    local direct = connect({ client_name = "direct" })
    client = connect({ client_name = "lossy" })
    sim:fault({ clients = { "lossy" }, drop_before = 0.3, drop_after = 0.3 })
    local held, open = 0, 0
    for attempt = 1, 200 do
      local key = "lock/" .. attempt
      local success, _, result = client:kv_put(key, "v", { acquire = session })
      local _, _, meta = assert(direct:kv_get(key))
      if success then
        held = held + 1
        assert.equal(session, meta.session)
      else
        open = open + 1
        assert.is_true(result.maybe_applied)
      end
    end
    assert.is_true(held > 100 and open > 0, held .. " held, " .. open .. " open")
  end)
end)

describe("without a leader", function()
  local sim, connect = support.manual_agent(6)
  local client

  before_each(function()
    sim:reset()
    sim:clear_faults()
    client = connect({ stale_if_error = true })
    assert(client:kv_put("k", "v"))
  end)

  it("stale_if_error reads stale after half of the timeout", function()
    local _, _, meta = assert(client:kv_get("k"))
    assert.is_false(meta.stale)
    sim:fault({ no_leader = true })
    local _, value
    _, value, meta = assert(client:kv_get("k"))
    assert.equal("v", value)
    assert.is_true(meta.stale)
    assert.equal(2500, meta.request_ms)
  end)

  it("a call can override the client's stale_if_error", function()
    sim:fault({ no_leader = true })
    assert.equal("timeout", support.kind(client:kv_get("k", { stale_if_error = false })))
    assert.equal("timeout", support.kind(client:kv_get("k", { consistent = true })))
    local plain = connect()
    assert.equal("timeout", support.kind(plain:kv_get("k")))
    assert.is_true((select(3, assert(plain:kv_get("k", { stale_if_error = true })))).stale)
  end)

  it("a read cannot be both consistent and stale", function()
    local kind = support.kind(client:kv_get("k", { consistent = true, stale_if_error = true }))
    assert.equal("argument", kind)
  end)
end)
