local consul_ffi = require("consul_ffi")
local Worker = dofile("examples/worker.lua")

describe("two workers", function()
  local sim, first, second

  before_each(function()
    sim = consul_ffi.simulator("workers", { clock = "manual", seed = 7 })
    sim:reset()
    first = Worker.new(consul_ffi.new({ simulate = "workers", client_name = "first" }), "first")
    second = Worker.new(consul_ffi.new({ simulate = "workers", client_name = "second" }), "second")
  end)

  it("take turns when one of them dies", function()
    assert.equal("leading", first:turn())
    assert.equal("waiting", second:turn())
    -- The first worker stops: its session lives for twice its TTL, then the lock delay runs.
    for _ = 1, 4 do
      sim:advance(5)
      assert.equal("waiting", second:turn())
    end
    sim:advance(4)
    assert.equal("waiting", second:turn())
    sim:advance(2)
    assert.equal("leading", second:turn())
  end)

  it("notice that their check expired", function()
    sim:advance(10)
    local client = consul_ffi.new({ simulate = "workers" })
    assert.same({}, (select(2, client:health_service("first", { passing = true }))))
    first:turn()
    assert.equal(1, #select(2, client:health_service("first", { passing = true })))
  end)

  it("never work twice on a lost answer", function()
    sim:fault({ clients = { "first" }, drop_after = 1 })
    assert.equal("connect", first:turn())
    assert.equal(0, first.jobs)
    sim:clear_faults()
    assert.equal("leading", first:turn())
  end)

  it("go on after the agent was restarted", function()
    assert.equal("leading", first:turn())
    sim:restart({ lose_sessions = true })
    assert.equal("leading", first:turn())
    assert.equal(2, first.jobs)
  end)

  it("do the same for the same seed", function()
    local function trace()
      sim:reset()
      local started = sim:now()
      local worker = Worker.new(consul_ffi.new({ simulate = "workers" }), "third")
      sim:fault({ drop_before = 0.2, drop_after = 0.2, jitter_ms = 100 })
      local done = {}
      for turn = 1, 20 do
        done[turn] = ("%s after %.3f s"):format(worker:turn(), sim:now() - started)
        sim:advance(3)
      end
      return table.concat(done, "\n")
    end
    assert.equal(trace(), trace())
  end)
end)
