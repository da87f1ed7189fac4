-- The guard process, as a running program sees it;
-- crates/consul-guard/tests/coordination/guard tests programs that are killed.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("a client with a guard", function()
  it("finds the guard's program in the module's folder", function()
    consul_ffi.new({ endpoint = "http://127.0.0.1:1", guard = true }):close()
  end)

  it("starts no guard for a simulated agent, which ends with the process", function()
    local client = consul_ffi.new({
      simulate = support.name("guard"),
      guard = true,
      guard_program = "/no/such/program",
    })
    local lock = assert(client:lock("k"))
    assert.is_true((lock:acquire({ try = true })))
    assert.is_true((lock:release()))
    client:close()
  end)

  it("cannot be created without the guard's program, and names its path", function()
    support.raises("guard: there is no program /no/such/program", consul_ffi.new, {
      endpoint = "http://127.0.0.1:1",
      guard = true,
      guard_program = "/no/such/program",
    })
  end)

  if not support.simulated then
    it("cannot acquire a lock when the program is not a guard, and names the reason", function()
      local client = support.client({ guard = true, guard_program = "/bin/true" })
      local lock = assert(client:lock(support.name("guard")))
      local success, message, err = lock:acquire({ try = true })
      assert.equal("config", support.kind(success, message, err))
      assert.matches("the guard /bin/true cannot be started: it ended without an answer", message, 1, true)
      client:close()
    end)

    it("acquires and releases a lock", function()
      local client = support.client({ guard = true })
      local key = support.name("guard")
      local lock = assert(client:lock(key))
      assert.is_true((lock:acquire({ wait_s = 10 })))
      assert.is_true(lock:is_held())
      assert.is_true((lock:release()))
      assert(client:kv_delete(key))
      client:close()
    end)
  end
end)
