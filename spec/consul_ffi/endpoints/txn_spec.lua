-- Transactions: all operations apply, or none.
local support = require("spec.support")

describe("a transaction", function()
  local client, key

  support.each_test(function(...)
    client, key = ...
  end)

  it("applies all its operations", function()
    local success, results = client:txn({
      { KV = { Verb = "set", Key = key .. "/a", Value = "\0\255", Flags = 7 } },
      { kv = { verb = "get", key = key .. "/a" } },
    })
    assert.is_true(success)
    assert.equal(2, #results)
    assert.equal("\0\255", results[2].KV.Value)
    assert.equal(7, results[1].KV.Flags)
    assert.equal("\0\255", select(2, client:kv_get(key .. "/a")))
  end)

  it("stores values as kv_put does, and refuses what it refuses", function()
    for _, value in ipairs({ 2 ^ 53, 0.1 + 0.2, 3.0, -1, true, false, "", { a = { 1, 2 } }, {} }) do
      assert(client:kv_put(key .. "/put", value))
      assert(client:txn({ { KV = { Verb = "set", Key = key, Value = value } } }))
      assert.equal(select(2, client:kv_get(key .. "/put")), select(2, client:kv_get(key)))
    end
    local success, message, err = client:txn({ { KV = { Verb = "set", Key = key, Value = 1 / 0 } } })
    assert.equal("argument", support.kind(success, message, err))
    assert.matches("operations.1.KV.Value is inf: it is not finite", message, 1, true)
    support.raises("operations.1.KV.Value must be a string, number, boolean or table, got a function", client.txn,
      client, { { KV = { Verb = "set", Key = key, Value = print } } })
  end)

  it("that is refused names the failed operation and applies none", function()
    local success, message, err = client:txn({
      { KV = { Verb = "set", Key = key, Value = "1" } },
      { KV = { Verb = "cas", Key = key .. "/none", Index = 7, Value = "2" } },
    })
    assert.equal("txn_failed", support.kind(success, message, err))
    assert.equal(409, err.status)
    assert.equal(1, #err.operations)
    assert.equal(2, err.operations[1].index)
    assert.matches("index is stale", err.operations[1].what, 1, true)
    assert.is_nil(select(2, client:kv_get(key)))
  end)

  it("locks a key and returns its modify index", function()
    local _, session = client:session_create()
    local _, results = client:txn({ { KV = { Verb = "lock", Key = key, Session = session } } })
    local _, _, meta = client:kv_get(key)
    assert.equal(meta.modify_index, results[1].KV.ModifyIndex)
    assert.equal(session, meta.session)
    client:session_destroy(session)
  end)

  it("may be empty", function()
    local success, results = client:txn({})
    assert.is_true(success)
    assert.same({}, results)
  end)
end)
