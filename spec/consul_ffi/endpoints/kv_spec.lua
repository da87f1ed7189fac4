-- Keys and values.
local support = require("spec.support")

local LARGEST = "18446744073709551615" -- 2^64-1, which a Lua number cannot represent

describe("kv #smoke", function()
  local client, key

  support.each_test(function(...)
    client, key = ...
  end)

  it("stores all 256 byte values unchanged", function()
    local bytes = {}
    for byte = 0, 255 do
      bytes[#bytes + 1] = string.char(byte)
    end
    local value = table.concat(bytes)
    assert.is_true((client:kv_put(key, value)))
    assert.equal(value, select(2, client:kv_get(key)))
    assert.equal(value, select(2, client:kv_list(key))[1].Value)
  end)

  it("distinguishes the empty value from a missing key", function()
    client:kv_put(key, "")
    assert.equal("", select(2, client:kv_get(key)))
    local success, value, meta = client:kv_get(key .. "/none")
    assert.is_true(success)
    assert.is_nil(value)
    assert.equal("number", type(meta.index))
  end)

  it("stores numbers and booleans as text and tables as JSON", function()
    for _, case in ipairs({
      { 42, "42" },
      { 1.5, "1.5" },
      { -3, "-3" },
      { true, "true" },
      { { 1, 2, 3 }, "[1,2,3]" },
      { {}, "{}" },
      { { symbol = "AAPL" }, '{"symbol":"AAPL"}' },
      { { deep = { { a = "é" } } }, '{"deep":[{"a":"é"}]}' },
    }) do
      assert.is_true((client:kv_put(key, case[1])))
      assert.equal(case[2], select(2, client:kv_get(key)))
    end
  end)

  it("refuses values that it cannot store", function()
    assert.equal("argument", support.kind(client:kv_put(key, 0 / 0)))
    assert.equal("argument", support.kind(client:kv_put(key, { price = 1 / 0 })))
    assert.equal("argument", support.kind(client:kv_put(key, { name = "\255" })))
    assert.equal("too_large", support.kind(client:kv_put(key, ("x"):rep(524289))))
    local cycle = {}
    cycle.self = cycle
    for _, value in ipairs({ print, cycle, { 1, x = 2 }, { [1] = 1, [3] = 3 }, { [{}] = 1 } }) do
      assert.has_error(function()
        client:kv_put(key, value)
      end)
    end
  end)

  it("stores flags up to 2^64-1 exactly", function()
    for _, flags in ipairs({ "0", "9007199254740993", "3304740253564472344", LARGEST }) do
      assert.is_true((client:kv_put(key, "v", { flags = flags })))
      local _, _, meta = client:kv_get(key)
      local shown = type(meta.flags) == "string" and meta.flags or ("%d"):format(meta.flags)
      assert.equal(flags, shown)
    end
    client:kv_put(key, "v", { flags = 7 })
    assert.equal(7, select(3, client:kv_get(key)).flags)
  end)

  if rawget(_G, "jit") then
    it("takes LuaJIT's 64-bit integers", function()
      local largest = require("ffi").new("uint64_t", 0) - 1
      assert.is_true((client:kv_put(key, "v", { flags = largest })))
      assert.equal(LARGEST, select(3, client:kv_get(key)).flags)
    end)
  end

  it("takes keys with special characters", function()
    for _, name in ipairs({ "a b", "é", "q?x", "h#1", "100%", "a+b", "a&=b", "a:b", "slash/" }) do
      assert.is_true((client:kv_put(key .. "/" .. name, name)))
      assert.equal(name, select(2, client:kv_get(key .. "/" .. name)))
    end
    assert.equal(9, #select(2, client:kv_keys(key .. "/")))
  end)

  it("deletes exactly one key, or a tree with kv_delete_tree", function()
    for _, name in ipairs({ "/t", "/t1", "/t/2" }) do
      client:kv_put(key .. name, "v")
    end
    assert.is_true((client:kv_delete(key .. "/t")))
    assert.same({ key .. "/t/2", key .. "/t1" }, select(2, client:kv_keys(key)))
    assert.is_true((client:kv_delete_tree(key .. "/t")))
    assert.same({}, select(2, client:kv_keys(key)))
  end)

  it("deletes every key only with the option everything", function()
    -- A separate agent, so that no other test loses its keys.
    local _, new_client = support.manual_agent()
    local own = new_client()
    local tree = { { KV = { Verb = "delete-tree", Key = "" } } }
    local option = { everything = true }
    for _, delete in ipairs({
      function(options)
        return own:kv_delete_tree("", options)
      end,
      function(options)
        return own:kv_delete("", true, options)
      end,
      function(options)
        return own:kv_delete("", { recurse = true, everything = options and options.everything })
      end,
      function(options)
        return own:txn(tree, options)
      end,
    }) do
      assert(own:kv_put(key, "v"))
      local success, message, err = delete(nil)
      assert.is_false(success)
      assert.equal("argument", err.kind)
      assert.matches("everything = true", message, 1, true)
      assert.same({ key }, select(2, own:kv_keys("")))
      assert(delete(option))
      assert.same({}, select(2, own:kv_keys("")))
    end
    assert(own:kv_put(key, "v"))
    assert(own:http_request("DELETE", "/v1/kv/?recurse"))
    assert.same({}, select(2, own:kv_keys("")))
    own:close()
  end)

  it("creates a key once with cas = 0", function()
    assert.is_true((client:kv_put(key, "1", { cas = 0 })))
    assert.equal("conflict", support.kind(client:kv_put(key, "2", { cas = 0 })))
    local _, value, meta = client:kv_get(key)
    assert.equal("1", value)
    assert.is_true((client:kv_put(key, "2", { cas = meta.modify_index })))
    assert.equal("conflict", support.kind(client:kv_put(key, "3", { cas = meta.modify_index })))
  end)

  it("keeps the modify index when the same value is written again", function()
    client:kv_put(key, "same")
    local before = select(3, client:kv_get(key)).modify_index
    client:kv_put(key, "same")
    assert.equal(before, select(3, client:kv_get(key)).modify_index)
  end)

  it("lists entries with Consul's names and decoded values", function()
    client:kv_put(key .. "/a", "1", { flags = 5 })
    local _, entries, meta = client:kv_list(key .. "/")
    assert.equal(1, #entries)
    local entry = entries[1]
    assert.equal(key .. "/a", entry.Key)
    assert.equal("1", entry.Value)
    assert.equal(5, entry.Flags)
    assert.equal(0, entry.LockIndex)
    assert.is_nil(entry.Session)
    assert.equal(entry.ModifyIndex, meta.index)
  end)

  it("returns empty lists for an unused prefix", function()
    assert.same({}, select(2, client:kv_list(key)))
    assert.same({}, select(2, client:kv_keys(key)))
  end)

  it("waits for a change up to the requested time", function()
    client:kv_put(key, "v")
    local _, _, meta = client:kv_get(key)
    local success, value, after = client:kv_get(key, { index = meta.index, wait = "300ms" })
    assert.is_true(success)
    assert.equal("v", value)
    assert.equal(meta.index, after.index)
    assert.is_true(after.request_ms >= 299, after.request_ms .. " ms")
    -- A sixteenth more at the most; the rest is for a busy machine.
    assert.is_true(after.request_ms < 5000, after.request_ms .. " ms")
  end)

  it("returns metadata about the answer: leader, age, attempts, endpoint", function()
    client:kv_put(key, "v")
    local _, _, meta = client:kv_get(key, { consistent = true })
    assert.is_true(meta.known_leader)
    assert.is_nil(meta.filtered_by_acl)
    -- Consul reports it since 1.9.
    assert.equal("allow", meta.default_acl_policy or not support.simulated and "allow")
    assert.equal(0, meta.last_contact_ms)
    assert.equal(1, meta.attempts)
    assert.equal("number", type(meta.request_ms))
    assert.equal("string", type(meta.endpoint))
    assert.equal("blocking-query", meta.backend or "blocking-query") -- Consul 1.8 does not send it
  end)

  it("refuses keys that the server would store under another name", function()
    for _, dirty in ipairs({ "/k", "a//b", "a/../b", "" }) do
      assert.equal("argument", support.kind(client:kv_get(dirty)))
      assert.equal("argument", support.kind(client:kv_put(dirty, "v")))
    end
  end)

  it("removes a leading slash with strip_leading_slash", function()
    local stripping = support.client({ strip_leading_slash = true })
    assert.is_true((stripping:kv_put("/" .. key, "v")))
    assert.equal("v", select(2, client:kv_get(key)))
    assert.equal("v", select(2, stripping:kv_get("/" .. key)))
    assert(stripping:txn({ { KV = { Verb = "set", Key = "/" .. key, Value = "/w" } } }))
    assert.equal("/w", select(2, client:kv_get(key)))
  end)
end)
