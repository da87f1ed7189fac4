-- Lua code that runs during a call: debug hooks while it waits, finalizers while its answer becomes
-- tables.
local support = require("spec.support")

describe("during a call", function()
  local client
  local key = support.name("waiting")

  before_each(function()
    client = support.client()
    assert(client:kv_put(key .. "/1", "value"))
  end)

  after_each(function()
    local other = support.client()
    other:kv_delete_tree(key)
  end)

  -- Makes a blocking query, during which a hook runs `action` once.
  local function wait_while(action)
    local _, _, meta = assert(client:kv_get(key .. "/1"))
    local options = { index = meta.index, wait = "300ms" }
    return support.with_hook(action, client.kv_get, client, key .. "/1", options)
  end

  it("an error in a hook ends the call and is raised unchanged", function()
    local ran, message = wait_while(function()
      error("a hook's own", 0)
    end)
    assert.is_false(ran)
    assert.equal("a hook's own", message)
    assert.is_true((client:kv_get(key .. "/1")))
  end)

  it("a hook can use the same client", function()
    local inner
    local ran, success, value = wait_while(function()
      inner = select(2, client:kv_get(key .. "/1"))
    end)
    assert.equal("value", inner)
    assert.same({ true, true, "value" }, { ran, success, value })
  end)

  it("a hook can make a blocking query on the same client", function()
    local ran, success = wait_while(function()
      local _, _, meta = client:kv_get(key .. "/1")
      assert(client:kv_get(key .. "/1", { index = meta.index, wait = "200ms" }))
    end)
    assert.same({ true, true }, { ran, success })
  end)

  it("a hook can close the client, and the call still returns its results", function()
    local ran, success, value = wait_while(function()
      client:close()
    end)
    assert.same({ true, true, "value" }, { ran, success, value })
    assert.equal("closed", support.kind(client:kv_get(key .. "/1")))
  end)

  local newproxy = rawget(_G, "newproxy")

  -- Makes a garbage object that runs `action` when it is collected.
  local function garbage(action)
    if newproxy then
      getmetatable(newproxy(true)).__gc = action
    else
      setmetatable({}, { __gc = action })
    end
  end

  it("a finalizer can use the same client", function()
    local operations = {}
    for i = 1, 50 do
      operations[i] = { KV = { Verb = "set", Key = key .. "/" .. i, Value = "v" } }
    end
    assert(client:txn(operations))
    -- The collector works only while a call is made, so that each finalizer runs during one.
    local speed = collectgarbage("setstepmul", 1000)
    finally(function()
      collectgarbage("setstepmul", speed)
      collectgarbage("restart")
    end)
    collectgarbage()
    collectgarbage("stop")
    local during, inner, failure = false, 0, nil
    local function finalizer()
      if during then
        local ran, success, value = pcall(client.kv_get, client, key .. "/1")
        inner = inner + 1
        failure = not (ran and success) and tostring(success) .. tostring(value) or failure
      end
    end
    for _ = 1, 100 do
      garbage(finalizer)
    end
    local prefix, calls = key .. "/", 0
    local success, listed
    repeat
      calls, during = calls + 1, true
      collectgarbage("restart")
      success, listed = client:kv_list(prefix)
      collectgarbage("stop")
      during = false
    until inner > 0 or not success or calls == 5000
    assert.is_true(success)
    assert.equal(50, #listed)
    assert.is_nil(failure)
    assert.is_true(inner > 0, "no finalizer ran during a call")
  end)
end)
