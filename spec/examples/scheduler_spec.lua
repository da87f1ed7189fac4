-- examples/scheduler.lua: coroutines whose calls wait concurrently.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")
local run = dofile("examples/scheduler.lua")

describe("the scheduler of coroutines", function()
  it("runs 100 coroutines at once #smoke", function()
    local client = support.client()
    local prefix = support.name("scheduler") .. "/"
    local works, read = {}, {}
    for i = 1, 100 do
      works[i] = function(call)
        assert(call("kv_put", prefix .. i, tostring(i)))
        read[i] = select(2, assert(call("kv_get", prefix .. i)))
      end
    end
    run(client, works)
    client:kv_delete_tree(prefix)
    for i = 1, 100 do
      assert.equal(tostring(i), read[i])
    end
  end)

  it("lets all coroutines wait concurrently", function()
    local name = support.name("slow")
    local sim = consul_ffi.simulator(name)
    sim:fault({ latency_ms = 200 })
    local works, done = {}, 0
    for i = 1, 100 do
      works[i] = function(call)
        assert(call("kv_get", "key"))
        done = done + 1
      end
    end
    local started = sim:now()
    run(consul_ffi.new({ simulate = name }), works)
    local took = sim:now() - started
    assert.equal(100, done)
    -- 64 calls are in flight at once, so 100 take twice as long as one; sequentially they would take 20 s.
    assert.is_true(took >= 0.4 and took < 5, ("it took %.3f s"):format(took))
  end)

  it("runs one coroutine while another one waits #smoke", function()
    local client = support.client()
    local key = support.name("scheduler")
    assert(client:kv_put(key, "1"))
    local _, _, meta = assert(client:kv_get(key))
    local steps = {}
    run(client, {
      function(call)
        local _, value = assert(call("kv_get", key, { index = meta.index, wait = "5m" }))
        steps[#steps + 1] = "woken by " .. value
      end,
      function(call)
        assert(call("kv_get", key))
        steps[#steps + 1] = "writing"
        assert(call("kv_put", key, "2"))
      end,
    })
    client:kv_delete(key)
    assert.same({ "writing", "woken by 2" }, steps)
  end)
end)
