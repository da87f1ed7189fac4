-- etcd_ffi: old programs' calls, with the shapes of their results.
local consul_ffi = require("consul_ffi")
local etcd = require("etcd_ffi")
local support = require("spec.support")

local CONSUL = os.getenv("CONSUL_HTTP_ADDR")

local compile = rawget(_G, "loadstring") or load

-- Numbers of each kind that this engine has: fractions, integers, also of 64 bits, and those beyond them.
local function numbers()
  local found = {
    0, -0.0, 1, -1, 3.0, 42, 0.1, 0.1 + 0.2, 1 / 3, -1.5e-7, 5e-324, 2 ^ 31, 2 ^ 53 - 1, 2 ^ 53, -2 ^ 53, 2 ^ 53 + 2,
    2 ^ 62, 2 ^ 63, -2 ^ 63, 2 ^ 64, 1e14, 1e15, 1e16, 1e22, 1e100, 1.7976931348623157e308, 1764028800123456,
    1764028800.1234567, math.pi, rawget(math, "maxinteger"), rawget(math, "mininteger"),
  }
  if support.interpreter == "luajit" then
    for _, boxed in ipairs(assert(compile("return { 0ULL, 18446744073709551615ULL, -9223372036854775807LL }"))()) do
      found[#found + 1] = boxed
    end
  end
  for i = 1, 20 do
    found[#found + 1] = (math.random() - 0.5) * 10 ^ (i * 2)
  end
  return found
end

local function assert_own(method, message)
  assert.equal(method, message:match("^[%w_.]+"), message)
  assert.is_nil(message:find("etcd_ffi.lua", 1, true), message)
end

-- Returns a client as old programs create it; on the simulated agent it has the option `simulate`.
local function old_client(config)
  config = config or { endpoints = { "http://127.0.0.1:2379" }, timeout = 5000 }
  if config.simulate == nil then
    config.simulate = support.simulated
  end
  return etcd.new(config)
end

describe("etcd_ffi", function()
  local client, consul, name, key

  before_each(function()
    client, consul = old_client(), support.client()
    name = support.name("etcd")
    key = "/" .. name .. "/config"
  end)

  after_each(function()
    consul:kv_delete_tree(name)
    consul:close()
    client:close()
  end)

  -- All results of a call, trailing nils included.
  local function all(...)
    return { n = select("#", ...), ... }
  end

  it("raises an error for a method that is called with a dot, and for options that are not a table", function()
    for _, method in ipairs({
      "get", "set", "delete", "list", "register_service", "deregister_service", "discover_services", "close",
    }) do
      local raised = support.raises(method .. ": call it with a colon, as in object:" .. method .. "(", function()
        local result = client[method]("key", "value")
        return result
      end)
      assert.matches("etcd_ffi_spec.lua:%d+: ", raised)
    end
    support.raises("etcd_ffi.new: options must be a table, got a string", etcd.new, "127.0.0.1:8500")
  end)

  it("sets, gets and deletes a key with a leading slash #smoke", function()
    assert.same({ n = 1, true }, all(client:set(key, "data")))
    assert.same({ n = 2, "data", nil }, all(client:get(key)))
    assert.equal("data", select(2, consul:kv_get(name .. "/config")))
    assert.equal("data", (client:get(name .. "/config")))
    assert.same({ n = 1, true }, all(client:delete(key)))
    assert.same({ n = 2, nil, nil }, all(client:get(key)))
  end)

  it("deletes a key that does not exist", function()
    assert.same({ n = 1, true }, all(client:delete(key)))
  end)

  it("never deletes more than one key", function()
    assert(client:set(key, "data"))
    for _, empty in ipairs({ "", "/" }) do
      local deleted, _, err = client:delete(empty)
      assert.is_nil(deleted)
      assert.equal("argument", err.kind)
    end
    assert.equal("data", (client:get(key)))
  end)

  it("names itself, the call and the key in an error, which has all members, whatever has made it", function()
    local function fails(kind, words, success, message, err)
      assert.is_nil(success)
      assert.equal(kind, err.kind)
      assert.equal(err.message, message)
      assert.is_truthy(message:find(words, 1, true), message)
      assert.same({ "number", "boolean", "boolean" }, {
        type(err.attempts), type(err.retryable), type(err.maybe_applied),
      })
    end
    for _, odd in ipairs({ "/", "//", "//a", "a//b", "/a//b", "/../a", "a/./b", "" }) do
      local words = (' is "%s": '):format((odd:gsub("^/", "")))
      fails("argument", "set: kv_get: key" .. words, client:set(odd, "v"))
      fails("argument", "set: kv_get: key" .. words, client:set(odd, "v", { ttl = 60 }))
      fails("argument", "get: kv_get: key" .. words, client:get(odd))
      fails("argument", "delete: kv_get: key" .. words, client:delete(odd))
      if odd ~= "/" and odd ~= "" then
        fails("argument", "list: kv_list: key" .. words, client:list(odd))
      end
    end
    fails("argument", "set: ttl must be at most 86400 seconds", client:set(key, "v", { ttl = 86401 }))
    local session = select(2, assert(consul:session_create({ name = name, lock_delay = 0 })))
    assert(consul:kv_put(name .. "/config", "theirs", { acquire = session }))
    for _, own in ipairs({ key, (key:gsub("^/", "")) }) do
      fails("conflict", ('set: "%s" is locked by'):format(own), client:set(own, "v"))
      fails("conflict", ('delete: "%s" is locked by'):format(own), client:delete(own))
    end
    consul:session_destroy(session)
  end)

  it("stores all bytes, the empty value, and booleans as text", function()
    for value, text in pairs({ ["\0\255\n"] = "\0\255\n", [""] = "", [true] = "true", [false] = "false" }) do
      assert.is_true((client:set(key, value)))
      assert.equal(text, (client:get(key)))
    end
  end)

  it("stores each number as kv_put does", function()
    for _, options in ipairs({ {}, { ttl = 60 } }) do
      for _, number in ipairs(numbers()) do
        assert(consul:kv_put(name .. "/put", number))
        assert.is_true((client:set(key, number, options)))
        assert.equal(select(2, consul:kv_get(name .. "/put")), (client:get(key)))
      end
    end
    for text, number in pairs({
      ["9007199254740992"] = 2 ^ 53, ["1764028800123456"] = 1764028800123456, ["0.30000000000000004"] = 0.1 + 0.2,
      ["3"] = 3.0,
    }) do
      assert.is_true((client:set(key, number)))
      assert.equal(text, (client:get(key)))
    end
  end)

  it("refuses what is not a finite number", function()
    assert(client:set(key, "before"))
    for _, number in ipairs({ 1 / 0, -1 / 0, 0 / 0 }) do
      for _, options in ipairs({ {}, { ttl = 60 } }) do
        local set, message, err = client:set(key, number, options)
        assert.is_nil(set)
        assert.equal("argument", err.kind)
        assert.matches("^set: .* is %-?%a+: it is not finite$", message)
      end
    end
    assert.equal("before", (client:get(key)))
  end)

  it("lists the keys below a prefix, with a leading slash when the prefix has one", function()
    client:set(key .. "/b", "2")
    client:set(key .. "/a", "")
    client:set("/" .. name .. "/other", "3")
    local shown = { { key = key .. "/a", value = "" }, { key = key .. "/b", value = "2" } }
    assert.same({ n = 2, shown, nil }, all(client:list(key)))
    assert.equal(name .. "/config/a", client:list(name .. "/config")[1].key)
    assert.same({ n = 2, {}, nil }, all(client:list(key .. "/none")))
    assert.is_true(#client:list("/") >= 3)
  end)

  it("returns nil, a message and an error for keys and values that Consul cannot store", function()
    for _, wrong in ipairs({ "", "/", "//a", "a//b", "a/../b", "a\nb", "a\255" }) do
      for _, method in ipairs({ "get", "delete" }) do
        local result, message, err = client[method](client, wrong)
        assert.is_nil(result)
        assert.equal(message, err.message)
        assert.equal("argument", err.kind)
      end
      assert.equal("argument", select(3, client:set(wrong, "v")).kind)
      assert.equal("argument", select(3, client:set(wrong, "v", { ttl = 10 })).kind)
    end
    assert.equal("too_large", select(3, client:set(key, ("x"):rep(400000))).kind)
    assert.is_nil((client:get(key)))
    assert.equal("argument", select(3, client:set(key, "v", { ttl = 86401 })).kind)
  end)

  it("returns an error for a value of any type that a server with low limits does not take", function()
    local own = old_client()
    local real = own.consul
    own.consul = {
      kv_get = function()
        return true, nil, {}
      end,
      txn = function()
        local text = "txn: too large"
        return nil, text, { kind = "too_large", message = text, retryable = false, maybe_applied = false }
      end,
    }
    for _, case in ipairs({ { 17, 2 }, { true, 4 }, { "12345", 5 }, { "", 0 } }) do
      local result, message, err = own:set(key, case[1])
      assert.is_nil(result)
      assert.equal(("set: a value of %d bytes is too large for a transaction of Consul"):format(case[2]), message)
      assert.equal("too_large", err.kind)
    end
    own.consul = real
    own:close()
  end)

  it("returns nil and an error within the timeout when Consul does not answer", function()
    local away = old_client({ consul_endpoint = "http://127.0.0.1:1", timeout = 1000, simulate = false })
    local begun = support.clock()
    for _, result in ipairs({
      all(away:get(key)),
      all(away:set(key, "v")),
      all(away:set(key, "v", { ttl = 10 })),
      all(away:delete(key)),
      all(away:list(key)),
      all(away:register_service("id", { name = "name" })),
      all(away:deregister_service("id")),
      all(away:discover_services("name")),
    }) do
      assert.is_nil(result[1])
      assert.equal("string", type(result[2]))
      assert.equal("connect", result[3].kind)
    end
    assert.is_true(support.clock() - begun < 8 * 2)
  end)

  it("reads linearizably by default, like etcd", function()
    local new = spy.on(consul_ffi, "new")
    for _, consistency in ipairs({ "consistent", "default" }) do
      old_client({ consul_endpoint = CONSUL, consistency = consistency ~= "consistent" and consistency or nil }):close()
      assert.equal(consistency, new.calls[#new.calls].vals[1].consistency)
    end
    new:revert()
  end)

  it("returns nil and an error when it is closed", function()
    client:close()
    client:close()
    assert.equal("closed", select(3, client:get(key)).kind)
    assert.equal("closed", select(3, client:set(key, "v")).kind)
  end)

  it("raises at the caller's line, in its own words, for each wrong argument of each method", function()
    local userdata, coroutine_of = io.stdout, coroutine.create(function() end)
    local wrong = {
      get = { {}, { false }, { 1 }, { {} }, { print }, { userdata }, { coroutine_of } },
      delete = { {}, { false }, { 1 }, { {} }, { print } },
      list = { {}, { false }, { 1 }, { {} }, { print } },
      set = {
        {}, { 1, "v" }, { {}, "v" }, { key }, { key, {} }, { key, print }, { key, userdata }, { key, coroutine_of },
        { key, "v", 10 }, { key, "v", "10" }, { key, "v", true }, { key, "v", print }, { key, "v", { tll = 1 } },
        { key, "v", { 10 } }, { key, "v", { ttl = 0 } }, { key, "v", { ttl = -1 } }, { key, "v", { ttl = "9" } },
        { key, "v", { ttl = {} } }, { key, "v", { ttl = 1 / 0 } }, { key, "v", { ttl = 0 / 0 } },
      },
      register_service = {
        {}, { 1, {} }, { "id" }, { "id", "name" }, { "id", { name = 1 } }, { "id", { name = {} } },
        { "id", { name = "w", metadata = {} } }, { "id", { name = "w", enable_tags_override = true } },
        { "id", { name = "w", meta = { a = {} } } }, { "id", { name = "w", meta = { "x" } } },
        { "id", { name = "w", tags = 1 } }, { "id", { name = "w", tags = { 1 } } },
        { "id", { name = "w", tags = print } }, { "id", { name = "w", tags = { "a", nil, "c" } } },
        { "id", { name = "w", address = 1 } },
        { "id", { name = "w", port = {} } }, { "id", { name = "w", id = "id", ID = "other" } }, { "id", { "w" } },
        { "id", { name = "w", "x" } }, { "id", { name = "w", [{}] = 1 } }, { "id", { name = "w", ["a\255"] = 1 } },
        { "id", { name = "w", check = "x" } }, { "id", { name = "w", check = { tll = "5s" } } },
        { "id", { name = "w", check = { http = "http://x", interval = {} } } },
        { "id", { name = "w", checks = { { deregister_critical_services_after = "5s" } } } },
        { "id", { name = "w", tagged_addresses = { lan = 1 } } }, { "id", { name = "w", enable_tag_override = "x" } },
        { "id", { name = "w", weights = 1 } },
      },
      deregister_service = { {}, { 1 }, { {} } },
      discover_services = { {}, { 1 }, { {} } },
    }
    for method, calls in pairs(wrong) do
      for _, arguments in ipairs(calls) do
        local _, message = pcall(function()
          local result = client[method](client, arguments[1], arguments[2], arguments[3])
          return result
        end)
        assert.equal("string", type(message), method)
        local at, text = message:match("^([^ ]*etcd_ffi_spec.lua:%d+: )(.*)$")
        assert.truthy(at, message)
        assert_own(method, text)
      end
    end
    for call, text in pairs({
      [function() client:get(nil) end] = "get: key must be a string, got a nil",
      [function() client:set(key, {}) end] = "set: value must be a string or number or boolean, got a table",
      [function() client:set(key, "v", { tll = 1 }) end] = 'set: unknown option "tll"; the only option is ttl',
      [function() client:register_service("id", { name = "w", metadata = {} }) end] =
        'register_service: unknown field in definition "metadata"; known are Name, ID, Tags, Meta, Address, Port, ',
      [function() client:register_service("id", { name = "w", check = { tll = "5s" } }) end] =
        'register_service: unknown field in definition.check "tll"; did you mean "TTL"?',
    }) do
      support.raises(text, call)
    end
  end)

  it("returns refusals that begin with its name", function()
    local calls = { set = { { key, ("x"):rep(400000) }, { key, "v", { ttl = 86401 } }, { key, 1 / 0 } } }
    for _, wrong in ipairs({ "", "//a", "a//b", "a/../b", "a\nb", "a\255" }) do
      for method, arguments in pairs({ get = {}, list = {}, delete = {}, set = { "v" } }) do
        if method ~= "list" or wrong ~= "" then
          calls[method] = calls[method] or {}
          table.insert(calls[method], { wrong, arguments[1] })
          table.insert(calls[method], { wrong, arguments[1], method == "set" and { ttl = 10 } or nil })
        end
      end
    end
    calls.register_service = { { "", { name = "w" } } }
    for _, info in ipairs({
      { name = "" }, { name = "w", port = 99999 }, { name = "w", port = -1 }, { name = "w", port = 1.5 },
      { name = "w", port = "x" }, { name = "w", check = { ttl = "5x" } }, { name = "w", weights = { passing = "x" } },
    }) do
      table.insert(calls.register_service, { "id", info })
    end
    calls.deregister_service = { { "" }, { "a\nb" }, { "a\255" } }
    calls.discover_services = { { "" }, { "a\nb" }, { "a\255" } }
    for method, list in pairs(calls) do
      for _, arguments in ipairs(list) do
        local result, message, err = client[method](client, arguments[1], arguments[2], arguments[3])
        assert.is_nil(result)
        assert.equal(message, err.message)
        assert_own(method, message)
      end
    end
    client:close()
    for method in pairs(calls) do
      local _, message, err = client[method](client, "a", method == "register_service" and { name = "w" } or "v")
      assert.equal("closed", err.kind)
      assert_own(method, message)
    end
  end)

  describe("set with a TTL", function()
    -- The key's session.
    local function session()
      local _, _, meta = consul:kv_get(name .. "/config")
      return meta.session
    end

    it("expires the key after the TTL, up to a second later #smoke", function()
      local begun = support.clock()
      assert.same({ n = 1, true }, all(client:set(key, "v", { ttl = 1 })))
      while client:get(key) do
        assert.is_true(support.clock() - begun < 10)
        support.sleep_ms(20)
      end
      local after = support.clock() - begun
      assert.is_true(after >= 1, "after " .. after)
      assert.is_true(after < 5, "after " .. after) -- 2 s, and 3 more on a busy machine; Consul alone takes 10 s
      assert.same({}, client:list(key))
    end)

    it("creates a session that deletes the key, without a lock delay and without checks", function()
      client:set(key, "v", { ttl = 3 })
      local _, info = consul:session_info(session())
      assert.same({ "10s", "delete", 0 }, { info.TTL, info.Behavior, info.LockDelay })
      assert.same(0, #(info.NodeChecks or {}))
      client:set(key, "v", { ttl = 30 })
      assert.equal("30s", select(2, consul:session_info(session())).TTL)
    end)

    it("is cancelled by a later set without a TTL, which destroys the session", function()
      client:set(key, "v", { ttl = 1 })
      local before = session()
      assert.is_true((client:set(key, "w")))
      assert.is_nil(session())
      assert.is_nil(select(2, consul:session_info(before)))
      support.sleep_ms(2100)
      assert.equal("w", (client:get(key)))
    end)

    it("keeps one session over repeated sets, and none after the key is deleted", function()
      local function sessions()
        local count = 0
        for _, one in ipairs(select(2, consul:session_list())) do
          count = count + (one.Name == "etcd_ffi " .. name .. "/config" and 1 or 0)
        end
        return count
      end
      for _ = 1, 5 do
        assert.is_true((client:set(key, "v", { ttl = 60 })))
      end
      assert.equal(1, sessions())
      assert.is_true((client:delete(key)))
      assert.equal(0, sessions())
    end)

    -- Each call of another writer comes between the read of the key and its write.
    it("leaves no other session than the key's, whatever others write at the same time", function()
      local writes = {
        set = function(of, value) return of:set(key, value) end,
        with_ttl = function(of, value) return of:set(key, value, { ttl = 60 }) end,
        delete = function(of) return of:delete(key) end,
      }
      local function sessions()
        local found = {}
        for _, one in ipairs(select(2, consul:session_list())) do
          if one.Name == "etcd_ffi " .. name .. "/config" then
            found[#found + 1] = one.ID
          end
        end
        return found
      end
      local others = { old_client(), old_client() }
      for before, first in pairs(writes) do
        for between, second in pairs(writes) do
          for own, last in pairs(writes) do
            assert(first(client, "before"))
            local real, is_late = client.consul, true
            client.consul = setmetatable({}, {
              __index = function(_, method)
                return function(_, ...)
                  if (method == "txn" or method == "kv_delete") and is_late then
                    is_late = false
                    for _, other in ipairs(others) do
                      assert(second(other, "between"))
                    end
                  end
                  return real[method](real, ...)
                end
              end,
            })
            local done, message = last(client, "own")
            client.consul = real
            local case = before .. ", " .. between .. ", " .. own
            assert.is_true(done, case .. ": " .. tostring(message))
            assert.equal(own ~= "delete" and "own" or nil, (client:get(key)), case)
            assert.same({ session() }, sessions(), case)
          end
        end
      end
      for _, other in ipairs(others) do
        other:close()
      end
    end)

    it("ends without a session beside a program that creates and deletes the key all the time", function()
      local real, count = client.consul, 0
      client.consul = setmetatable({}, {
        __index = function(_, method)
          return function(_, ...)
            if method == "txn" then
              count = count + 1
              assert(select(2, consul:kv_get(name .. "/config")) and consul:kv_delete(name .. "/config")
                or consul:kv_put(name .. "/config", "theirs"))
            end
            return real[method](real, ...)
          end
        end,
      })
      local set, message, err = client:set(key, "v", { ttl = 60 })
      client.consul = real
      assert.is_nil(set)
      assert.equal(message, err.message)
      assert_own("set", message)
      assert.is_false(err.maybe_applied)
      assert.is_true(count > 1)
      for _, one in ipairs(select(2, consul:session_list())) do
        assert.not_equal("etcd_ffi " .. name .. "/config", one.Name)
      end
    end)

    it("destroys neither its own session when a transaction is repeated, nor that of another program", function()
      local real, between = client.consul, nil
      client.consul = setmetatable({}, {
        __index = function(_, method)
          return function(_, ...)
            if method == "txn" then
              between(...)
            end
            return real[method](real, ...)
          end
        end,
      })
      assert(client.consul:kv_put(name .. "/config", "before"))
      between = function(operations) assert(consul:txn(operations)) end
      assert.is_true((client:set(key, "own", { ttl = 60 })))
      assert.equal("own", (client:get(key)))
      assert.truthy(session())
      assert.is_true((client:delete(key)))

      local _, holder = consul:session_create()
      assert(consul:kv_put(name .. "/config", "before"))
      between = function() assert(consul:kv_put(name .. "/config", "theirs", { acquire = holder })) end
      assert.is_true((client:set(key, "own")))
      client.consul = real
      assert.equal("own", (client:get(key)))
      assert.equal(holder, select(2, consul:session_info(holder)).ID)
      consul:session_destroy(holder)
    end)

    it("leaves the session of a key that may be set, and asks for a key's state without delay", function()
      local real, asked = client.consul, nil
      client.consul = setmetatable({}, {
        __index = function(_, method)
          return function(_, ...)
            if method == "kv_get" then
              asked = select(2, ...)
            elseif method == "txn" then
              assert(real:txn(...))
              local err = { kind = "timeout", message = "txn: lost", retryable = true, maybe_applied = true }
              return nil, "txn: lost", err
            end
            return real[method](real, ...)
          end
        end,
      })
      local set, message = client:set(key, "v", { ttl = 60 })
      client.consul = real
      assert.is_nil(set)
      assert.equal("set: txn: lost", message)
      assert.is_true(asked.consistent)
      assert.equal("v", (client:get(key)))
      assert.truthy(session())
    end)

    it("takes each TTL that Consul takes", function()
      for _, ttl in ipairs({ 0.001, 10, 86399.5, 86400 }) do
        assert.is_true((client:set(key, "v", { ttl = ttl })))
      end
      assert.equal("argument", select(3, client:set(key, "v", { ttl = 86400.5 })).kind)
    end)

    it("does not release another program's lock of the key", function()
      local _, holder = consul:session_create()
      consul:kv_put(name .. "/config", "theirs", { acquire = holder, flags = 0xE7CE * 8589934592 })
      for _, result in ipairs({
        all(client:set(key, "mine")),
        all(client:set(key, "mine", { ttl = 10 })),
        all(client:delete(key)),
      }) do
        assert.is_nil(result[1])
        assert.equal("conflict", result[3].kind)
      end
      assert.equal("theirs", (client:get(key)))
      assert.equal(holder, session())
      consul:session_destroy(holder)
    end)

    -- On a simulated agent with a manual clock, and with a stub of os.time.
    describe("on a manual clock", function()
      local now, agent, sim, timed, plain, time

      before_each(function()
        agent = support.name("manual")
        sim = consul_ffi.simulator(agent, { clock = "manual", seed = 1 })
        timed, plain = etcd.new({ simulate = agent }), consul_ffi.new({ simulate = agent })
        now = 1800000000
        time = stub(os, "time", function() return now end)
      end)

      after_each(function()
        time:revert()
        timed:close()
        plain:close()
      end)

      it("keeps the key for the whole TTL, then hides it from all clients", function()
        local other = etcd.new({ simulate = agent })
        timed:set("/k", "v", { ttl = 5 })
        now = now + 5
        assert.equal("v", (other:get("/k")))
        assert.equal(1, #other:list("/"))
        now = now + 1
        assert.same({ n = 2, nil, nil }, all(other:get("/k")))
        assert.same({}, other:list("/"))
        assert.equal("v", select(2, plain:kv_get("k")))
        other:close()
      end)

      it("has Consul delete the key between one and two times the session's TTL", function()
        timed:set("/k", "v", { ttl = 5 })
        sim:advance(9)
        assert.equal("v", select(2, plain:kv_get("k")))
        sim:advance(12)
        assert.is_nil(select(2, plain:kv_get("k")))
      end)

      it("is extended by another set before its end", function()
        for _ = 1, 10 do
          assert.is_true((timed:set("/k", "v", { ttl = 10 })))
          now = now + 8
          sim:advance(8)
          assert.equal("v", (timed:get("/k")))
        end
      end)

      it("does not apply to keys with other programs' flags", function()
        for _, flags in ipairs({ 1, 1800000000, "3304740253564472344", 0xE7CD * 8589934592 - 1 }) do
          plain:kv_put("k", "v", { flags = flags })
          assert.equal("v", (timed:get("/k")))
        end
      end)
    end)
  end)

  describe("services", function()
    it("can be registered, discovered and deregistered #smoke", function()
      local info = { name = name, address = "10.0.0.1", port = 8080, tags = { "a", "b" } }
      assert.same({ n = 1, true }, all(client:register_service(name .. "-1", info)))
      assert.is_nil(info.id)
      local services, err
      support.eventually(function()
        services, err = client:discover_services(name)
        return #services == 1
      end)
      assert.is_nil(err)
      local one = services[1]
      assert.same({ name .. "-1", name, "10.0.0.1", 8080 }, { one.id, one.name, one.address, one.port })
      assert.same({ "a", "b" }, one.tags)
      for _ = 1, 2 do
        assert.same({ n = 1, true }, all(client:deregister_service(name .. "-1")))
      end
      assert.same({ n = 2, {}, nil }, all(client:discover_services(name)))
    end)

    it("require a name", function()
      local result, message, err = client:register_service(name, { port = 1 })
      assert.is_nil(result)
      assert.equal(message, err.message)
      assert.equal("argument", err.kind)
    end)
  end)
end)

describe("the address of Consul in etcd_ffi", function()
  -- Returns the options for Consul, with this value of CONSUL_HTTP_ADDR.
  local function options(environment, config)
    local real = os.getenv
    local getenv = stub(os, "getenv", function(variable)
      if variable == "CONSUL_HTTP_ADDR" then
        return environment
      end
      return real(variable)
    end)
    local found, why = etcd.consul_options(config)
    getenv:revert()
    return found, why
  end

  local ETCD = { "http://127.0.0.1:2379", "http://10.0.0.2:2379" }

  it("comes from one of its own options, never from etcd's endpoints", function()
    for _, own in ipairs({ "endpoints", "endpoint", "etcd_endpoints", "etcd_endpoint" }) do
      assert.same({ endpoint = "c:8500" }, (options(nil, { [own] = ETCD, consul_endpoint = "c:8500" })))
      local list = { "c:8500", "d:8500" }
      assert.same({ consul_endpoints = list }, (options(nil, { [own] = ETCD, consul_endpoints = list })))
      assert.same({ consul_url = "c:8500" }, (options(nil, { [own] = ETCD, consul_url = "c:8500" })))
      assert.same({ simulate = true }, (options(nil, { [own] = ETCD, simulate = true })))
      assert.same({ timeout = 9 }, (options("c:8500", { [own] = ETCD, timeout = 9 })))
    end
    assert.same({}, (options("c:8500", nil)))
  end)

  it("can be a table that maps etcd's endpoints to Consul's", function()
    local map = { [ETCD[1]] = "http://127.0.0.1:8500", [ETCD[2]] = "http://10.0.0.2:8500" }
    local found = options(nil, { endpoints = ETCD, consul_endpoints = map })
    assert.same({ consul_endpoints = { "http://127.0.0.1:8500", "http://10.0.0.2:8500" } }, found)
    map[ETCD[2]] = nil
    local _, why = options(nil, { endpoints = ETCD, consul_endpoints = map })
    assert.equal('consul_endpoints has nothing for "http://10.0.0.2:2379"', why)
  end)

  it("is required", function()
    for _, environment in ipairs({ "", false }) do
      for _, config in ipairs({ {}, { endpoints = ETCD } }) do
        local found, why = options(environment or nil, config)
        assert.is_nil(found)
        assert.matches("give consul_endpoint or consul_endpoints, or set CONSUL_HTTP_ADDR", why, 1, true)
      end
    end
  end)

  it("cannot have etcd's port", function()
    assert.same({ endpoint = "http://c:23790" }, (options(nil, { consul_endpoint = "http://c:23790" })))
    for _, config in ipairs({
      { consul_endpoint = "http://127.0.0.1:2379" },
      { consul_endpoints = { "127.0.0.1:8500", "127.0.0.1:2379" } },
      { consul_endpoints = { [ETCD[1]] = ETCD[1] }, endpoints = ETCD[1] },
      { consul_url = "https://etcd:2379/" },
    }) do
      assert.matches("has etcd's port", select(2, options(nil, config)), 1, true)
    end
    assert.matches("has etcd's port", select(2, options("127.0.0.1:2379", {})), 1, true)
  end)

  it("is checked at the caller's line, like unknown options", function()
    for text, config in pairs({
      ["has etcd's port"] = { consul_endpoint = "127.0.0.1:2379" },
      ['the option "username" is etcd\'s: Consul has tokens'] = { consul_endpoint = "127.0.0.1:8500", username = "u" },
      ['the option "user" is etcd\'s: Consul has tokens'] = { consul_endpoint = "127.0.0.1:8500", user = "root" },
      ['the option "password" is etcd\'s: Consul has tokens'] = { consul_endpoint = "127.0.0.1:8500", password = "s" },
      ['etcd_ffi.new: ConsulClient: unknown option "serializer"; known'] = { simulate = true, serializer = "json" },
      ['etcd_ffi.new: ConsulClient: unknown option "timout"; did you mean "timeout"?'] = {
        simulate = true,
        timout = 1,
      },
      ["etcd_ffi.new: the address of Consul must be a string, got a number"] = { consul_endpoint = 1 },
      ["etcd_ffi.new: ConsulClient: timeout must be a positive number"] = { simulate = true, timeout = "x" },
    }) do
      local _, message = pcall(function()
        etcd.new(config)
      end)
      assert.matches("etcd_ffi_spec.lua:%d+: ", message)
      assert.matches(text, message, 1, true)
    end
  end)

  if CONSUL then
    it("can be CONSUL_HTTP_ADDR, with which old programs run unchanged #smoke", function()
      local client = etcd.new({ endpoints = { "http://127.0.0.1:2379" }, timeout = 5000 })
      assert.is_nil((client:get("/" .. support.name("none"))))
      assert.matches(CONSUL, tostring(client.consul), 1, true)
      client:close()
    end)
  end
end)
