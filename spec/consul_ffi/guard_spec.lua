-- The crash guard, as far as a program sees it that lives; tests/guard.rs has those that die.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("a client with a guard", function()
  it("is made when its program is beside the module", function()
    consul_ffi.new({ endpoint = "http://127.0.0.1:1", guard = true }):close()
  end)

  it("needs none for a simulated agent, which ends with the process", function()
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

  it("is not made without its program, and says where it looked", function()
    local made, message = pcall(consul_ffi.new, {
      endpoint = "http://127.0.0.1:1",
      guard = true,
      guard_program = "/no/such/program",
    })
    assert.is_false(made)
    assert.matches("guard: there is no program /no/such/program", message, 1, true)
  end)

  if not support.simulated then
    it("says why its lock is not acquired when the program is no guard", function()
      local client = support.client({ guard = true, guard_program = "/bin/true" })
      local lock = assert(client:lock(support.name("guard")))
      local success, message, err = lock:acquire({ try = true })
      assert.equal("config", support.kind(success, message, err))
      assert.matches("the guard /bin/true cannot be started: it ended without a word", message, 1, true)
      client:close()
    end)

    it("holds and releases a lock", function()
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
