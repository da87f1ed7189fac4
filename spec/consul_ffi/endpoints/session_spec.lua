-- Sessions, and the keys that they lock.
local support = require("spec.support")

local UNKNOWN = "5d2c1b1e-0000-4000-8000-000000000000"

describe("sessions", function()
  local client, key

  support.each_test(function(...)
    client, key = ...
  end)

  it("can be created, read, renewed and destroyed", function()
    local _, id = client:session_create({ name = "worker", ttl = "30s", lock_delay = 0 })
    assert.equal("string", type(id))
    local _, session = client:session_info(id)
    assert.equal(id, session.ID)
    assert.equal("worker", session.Name)
    assert.equal("30s", session.TTL)
    assert.equal(0, session.LockDelay)
    assert.equal(id, select(2, client:session_renew(id)).ID)
    assert.is_true((client:session_destroy(id)))
    assert.is_nil(select(2, client:session_info(id)))
  end)

  it("need no definition", function()
    local success, id = client:session_create()
    assert.is_true(success)
    client:session_destroy(id)
  end)

  it("that do not exist read as nil and cannot be renewed", function()
    local success, session = client:session_info(UNKNOWN)
    assert.is_true(success)
    assert.is_nil(session)
    assert.equal("session_invalid", support.kind(client:session_renew(UNKNOWN)))
    assert.is_true((client:session_destroy(UNKNOWN)))
  end)

  it("are in session_list", function()
    local _, id = client:session_create()
    local found = false
    for _, session in ipairs(select(2, client:session_list())) do
      found = found or session.ID == id
    end
    assert.is_true(found)
    client:session_destroy(id)
  end)

  it("lock a key exclusively", function()
    local _, mine = client:session_create()
    local _, theirs = client:session_create()
    assert.is_true((client:kv_put(key, "mine", { acquire = mine })))
    assert.equal("conflict", support.kind(client:kv_put(key, "theirs", { acquire = theirs })))
    assert.equal(mine, select(3, client:kv_get(key)).session)
    assert.is_true((client:kv_put(key, "free", { release = mine })))
    assert.is_true((client:kv_put(key, "theirs", { acquire = theirs })))
    client:session_destroy(mine)
    client:session_destroy(theirs)
  end)

  it("cannot lock a key after they were destroyed", function()
    local _, id = client:session_create()
    client:session_destroy(id)
    assert.equal("session_invalid", support.kind(client:kv_put(key, "v", { acquire = id })))
  end)

  it("with a lock delay of 0 release a lock immediately", function()
    local _, first = client:session_create({ lock_delay = 0 })
    local _, second = client:session_create({ lock_delay = 0 })
    client:kv_put(key, "1", { acquire = first })
    client:session_destroy(first)
    assert.is_true((client:kv_put(key, "2", { acquire = second })))
    client:session_destroy(second)
  end)

  it("cannot have a TTL or lock delay that is out of range", function()
    for _, definition in ipairs({ { ttl = 5 }, { ttl = "25h" }, { ttl = "x" }, { lock_delay = 61 } }) do
      assert.equal("argument", support.kind(client:session_create(definition)))
    end
  end)
end)
