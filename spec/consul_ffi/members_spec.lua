-- The members that objects show: methods(), pairs, the error for a name that they do not have; errors and metadata as
-- text. Over all classes.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

-- Whether this engine has __pairs.
local HAS_PAIRS = false
for _ in pairs(setmetatable({}, { __pairs = function() return next, { true }, nil end })) do
  HAS_PAIRS = true
end

describe("an object", function()
  -- One of each class, by the name of the class; and what is to be closed.
  local objects, path

  setup(function()
    local sim, new_client = support.manual_agent()
    local client = new_client()
    path = os.tmpname()
    local serving = support.node(support.name("members"), "n1")
    local store = assert(serving:replicate("notes"))
    assert(serving:start())
    objects = {
      ConsulClient = client,
      Handle = assert(client:start("kv_get", "a")),
      Watch = assert(client:watch("kv_get", "a")),
      ServiceView = assert(client:service_view("web")),
      ServiceViews = assert(client:service_views({ "web" })),
      Lock = client:lock("a"),
      ConsulHACluster = serving,
      ReplicatedStore = store,
      ConsistentHashRing = consul_ffi.ConsistentHashRing:new(),
      Simulator = sim,
      LogFile = assert(consul_ffi.log_file(path)),
      StatusServer = assert(consul_ffi.serve_status("127.0.0.1:0")),
      semaphore = client:semaphore("a", 1),
    }
  end)

  teardown(function()
    for _, class in ipairs({ "ServiceView", "ServiceViews", "StatusServer", "ConsulHACluster", "ConsulClient" }) do
      objects[class]:close()
    end
    os.remove(path)
  end)

  it("is here for each class that the annotations have #smoke", function()
    local file = assert(io.open("lua/meta/library/consul_ffi.d.lua"))
    local count = 0
    for class in file:read("*a"):gmatch("\nfunction (%w+):methods%(") do
      assert.equal("userdata", type(objects[class]), class)
      count = count + 1
    end
    file:close()
    assert.equal(12, count)
  end)

  it("lists its methods, in order, also by a prefix #smoke", function()
    for class, object in pairs(objects) do
      local names = object:methods()
      assert.is_true(#names > 1, class)
      for place, name in ipairs(names) do
        assert.is_function(object[name])
        assert.is_true(place == 1 or names[place - 1] < name, name)
      end
      assert.equal(table.concat(names, "\n"), tostring(names))
      assert.same({ "methods" }, { support.unpack(object:methods("methods")) })
      assert.same({}, { support.unpack(object:methods("no_such")) })
      support.raises("methods: call it with a colon", object.methods)
      support.raises("methods: call it with a colon", object.methods, "kv")
      support.raises("methods: prefix must be a string, got a number", object.methods, object, 1)
    end
    local of_keys = objects.ConsulClient:methods("kv")
    assert.equal("kv_delete\nkv_delete_tree\nkv_get", tostring(of_keys):sub(1, 31))
    for _, name in ipairs(of_keys) do
      assert.equal("kv_", name:sub(1, 3))
    end
  end)

  it("is walked by pairs, where the engine has __pairs", function()
    for class, object in pairs(objects) do
      if not HAS_PAIRS then
        support.raises("table expected", pairs, object)
      else
        local seen = {}
        for name, member in pairs(object) do
          assert.equal(type(object[name]), type(member))
          seen[name] = true
        end
        for _, name in ipairs(object:methods()) do
          assert.is_true(seen[name], class .. ":" .. name)
        end
      end
    end
  end)

  it("raises for a name that it does not have, at the caller's line, with the nearest names #smoke", function()
    for class, object in pairs(objects) do
      for place, name in ipairs(object:methods()) do
        -- One letter twice, in another case, or, of more words than one, in another order.
        local first, rest = name:match("^(%a+)_([%a_]+)$")
        local others = { name .. name:sub(-1), name:upper(), first and rest .. "_" .. first or "." .. name }
        local wrong = others[place % 3 + 1]
        if not pcall(function() return object[wrong] end) then
          local raised = support.raises(wrong .. ": a ", function()
            local found = object[wrong]
            return found
          end)
          assert.matches("members_spec.lua:%d+: " .. wrong, raised)
          assert.matches("did you mean .*%f[%w_]" .. name .. "%f[^%w_]", raised, 1, false, class)
        end
      end
      support.raises("; its methods() has them all", function()
        return object.qqqqqqqqqqqqqqqqqq
      end)
      for _, key in ipairs({ 1, true, ("x"):rep(1000), "\255" }) do
        assert.is_false(pcall(function() return object[key] end))
      end
      -- A name that libraries look for in any value.
      assert.is_nil(object._NAME)
      assert.is_nil(object.__call)
    end
  end)

  it("names the parts that a short name may be of", function()
    local raised = support.raises("snapshot: a ConsulClient has no method", function()
      return objects.ConsulClient.snapshot
    end)
    assert.matches("snapshot_", raised, 1, true)
  end)
end)

describe("an error as text", function()
  it("is its message, in each place where errors come from #smoke", function()
    local client = support.client()
    local name = support.name("as-text")
    local lock = client:lock(name)
    local closed = consul_ffi.new({ simulate = true })
    closed:close()
    local away = consul_ffi.new({ consul_url = "127.0.0.1:1", retry_count = 0 })
    local handle = away:start("kv_get", name)
    local cases = {
      { closed:kv_get(name) },
      { away:kv_get(name) },
      { select(2, handle:wait()) },
      { client:kv_get("/" .. name) },
      { client:agent_check_pass(name) },
      { client:kv_put(name, "x", { cas = 99999 }) },
      { client:session_renew("adf4238a-882b-9ddc-4a9d-5b6758e4159e") },
      { lock:fenced_put(name, "x") },
      { consul_ffi.json_decode("{") },
      { consul_ffi.ConsistentHashRing:new():add_node("n", { weight = 1e9 }) },
      { require("consul_ffi.balancer").new({}):pick() },
    }
    local outcomes = assert(select(2, away:batch({ { "kv_get", name } })))
    cases[#cases + 1] = { false, outcomes[1].message, outcomes[1].err }
    local kinds = {}
    for place, case in ipairs(cases) do
      local message, err = case[2], case[3]
      assert.is_false(case[1], place)
      kinds[err.kind] = true
      assert.equal(message, tostring(err))
      assert.equal("failed: " .. message, "failed: " .. err)
      assert.equal(message .. "!", err .. "!")
      local _, raised = pcall(error, err)
      assert.equal(message, tostring(raised))
    end
    for _, kind in ipairs({ "closed", "connect", "argument", "not_found", "decode" }) do
      assert.is_true(kinds[kind], kind)
    end
    lock:close()
    away:close()
    client:close()
  end)

  -- The interpreter of Lua 5.1 prints no error that is not a string.
  local it_prints = (rawget(_G, "jit") or _VERSION ~= "Lua 5.1") and it or pending
  it_prints("is also what an interpreter prints for one that nobody catches", function()
    local file = assert(io.popen(support.interpreter .. [[ -e '
      local client = require("consul_ffi").new({ simulate = true })
      client:close()
      error(select(3, client:kv_get("a")))' 2>&1]]))
    local printed = file:read("*a")
    file:close()
    assert.matches("closed", printed)
    assert.not_matches("table value", printed)
  end)
end)

describe("metadata as text", function()
  it("shows its members in order", function()
    local client = support.client()
    local _, _, meta = assert(client:kv_get(support.name("meta")))
    local text = tostring(meta)
    assert.matches("^{ .*attempts = 1, .*index = .*request_ms = .* }$", text)
    for name, value in pairs(meta) do
      assert.matches(("%s = %s"):format(name, tostring(value)), text, 1, true)
    end
    client:close()
  end)
end)
