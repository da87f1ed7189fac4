-- Lua code that runs while a call is under way: hooks while it waits, finalizers while its answer
-- is made into tables.
local support = require("spec.support")

describe("while a call is under way", function()
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

  -- A blocking query, during which a hook runs `action` once.
  local function wait_while(action)
    local _, _, meta = assert(client:kv_get(key .. "/1"))
    local options = { index = meta.index, wait = "300ms" }
    return support.with_hook(action, client.kv_get, client, key .. "/1", options)
  end

  it("a hook ends it by an error, which is raised as it is", function()
    local ran, message = wait_while(function()
      error("a hook's own", 0)
    end)
    assert.is_false(ran)
    assert.equal("a hook's own", message)
    assert.is_true((client:kv_get(key .. "/1")))
  end)

  it("a hook uses the same client", function()
    local inner
    local ran, success, value = wait_while(function()
      inner = select(2, client:kv_get(key .. "/1"))
    end)
    assert.equal("value", inner)
    assert.same({ true, true, "value" }, { ran, success, value })
  end)

  it("a hook waits for the same client, and raises there", function()
    local ran, success = wait_while(function()
      local _, _, meta = client:kv_get(key .. "/1")
      assert(client:kv_get(key .. "/1", { index = meta.index, wait = "200ms" }))
    end)
    assert.same({ true, true }, { ran, success })
  end)

  it("a hook closes the client, and the call still has its outcome", function()
    local ran, success, value = wait_while(function()
      client:close()
    end)
    assert.same({ true, true, "value" }, { ran, success, value })
    assert.equal("closed", support.kind(client:kv_get(key .. "/1")))
  end)

  local newproxy = rawget(_G, "newproxy")

  -- An object that is garbage at once, and runs `action` when it is collected.
  local function garbage(action)
    if newproxy then
      getmetatable(newproxy(true)).__gc = action
    else
      setmetatable({}, { __gc = action })
    end
  end

  it("a finalizer uses the same client", function()
    local operations = {}
    for i = 1, 50 do
      operations[i] = { KV = { Verb = "set", Key = key .. "/" .. i, Value = "v" } }
    end
    assert(client:txn(operations))
    collectgarbage()
    local during, inner, failure = false, 0, nil
    local function finalizer()
      if during then
        local ran, success, value = pcall(client.kv_get, client, key .. "/1")
        inner = inner + 1
        failure = not (ran and success) and tostring(success) .. tostring(value) or failure
      end
    end
    local pause, speed = collectgarbage("setpause", 1), collectgarbage("setstepmul", 1000)
    local success, listed
    for _ = 1, 200 do
      -- New ones for each call: how many are left depends on what ran before this spec.
      for _ = 1, 100 do
        garbage(finalizer)
      end
      during = true
      success, listed = client:kv_list(key .. "/")
      during = false
      if inner > 0 or not success then
        break
      end
    end
    collectgarbage("setpause", pause)
    collectgarbage("setstepmul", speed)
    assert.is_true(success)
    assert.equal(50, #listed)
    assert.is_nil(failure)
    assert.is_true(inner > 0, "no finalizer ran during a call")
  end)
end)
