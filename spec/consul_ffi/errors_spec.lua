local consul_ffi = require("consul_ffi")
local support = require("spec.support")

-- What is no endpoint's own method but made of others, and takes their arguments.
local COMPOSED = {
  new = true,
  close = true,
  destroy = true,
  register_service = true,
  deregister_service = true,
  discover_services = true,
  create_session = true,
  destroy_session = true,
}

describe("misuse", function()
  local client

  setup(function()
    client = support.client()
  end)

  local function raised(...)
    local success, message = pcall(...)
    assert.is_false(success)
    assert.equal("string", type(message))
    return message
  end

  for name in pairs(consul_ffi.ConsulClient) do
    if not COMPOSED[name] then
      it("of " .. name .. " is raised, naming it", function()
        local call = consul_ffi.ConsulClient[name]
        assert.matches(name, raised(call, client, print, print, print, print, print), 1, true)
        assert.matches(name .. ": call it with a colon", raised(call, "a key"), 1, true)
        assert.matches(name .. ": call it with a colon", raised(call), 1, true)
      end)
    end
  end

  it("is raised at the caller's line", function()
    local message = raised(function()
      client:kv_get(1)
    end)
    assert.matches("errors_spec.lua:%d+: kv_get: key must be a non%-empty string, got a number 1", message)
  end)

  it("names a missing argument and what it takes", function()
    local message = raised(client.kv_put, client, "k")
    assert.matches("kv_put: argument #2 (value) is missing: a string, number", message, 1, true)
  end)

  it("suggests the nearest option and field", function()
    assert.matches('did you mean "cas"?', raised(client.kv_put, client, "k", "v", { csa = 1 }), 1, true)
    local message = raised(client.agent_service_register, client, { nmae = "web" })
    assert.matches('did you mean "Name"?', message, 1, true)
  end)

  it("is a table nested without end, not a hang", function()
    local cycle = {}
    cycle.cycle = cycle
    assert.matches("contain itself", raised(client.txn, client, cycle), 1, true)
  end)

  it("says no more of a wrong value on a closed client than on an open one", function()
    local closed = support.client()
    closed:close()
    assert.matches("key must be", raised(closed.kv_get, closed, 1), 1, true)
    assert.equal("argument", support.kind(closed:kv_get("/k")))
  end)
end)

describe("a wrong value", function()
  it("is returned as an argument error before any request", function()
    local client = support.client({ endpoint = "http://127.0.0.1:1", simulate = false })
    local cases = {
      { "kv_get", "/k" },
      { "kv_get", "k", { index = -1 } },
      { "kv_get", "k", { index = 1.5 } },
      { "kv_get", "k", { index = 0 / 0 } },
      { "kv_get", "k", { index = "x" } },
      { "kv_get", "k", { wait = "soon" } },
      { "kv_get", "k", { wait = "11m" } },
      { "kv_get", "k", { stale = true, consistent = true } },
      { "kv_get", "k", { timeout_ms = 0 } },
      { "kv_put", "k", "v", { cas = "18446744073709551616" } },
      { "kv_put", "k", "v", { cas = 1, acquire = "s" } },
      { "session_create", { ttl = 1 } },
      { "session_create", { behavior = "keep" } },
      { "session_info", "" },
      { "health_state", "fine" },
      { "agent_check_update", "c", { status = "fine" } },
      { "agent_service", "a\nb" },
      { "txn", { { KV = { Verb = "put", Key = "k" } } } },
    }
    for _, case in ipairs(cases) do
      local method = table.remove(case, 1)
      local unpack_args = rawget(_G, "unpack") or table.unpack
      local success, message, err = client[method](client, unpack_args(case))
      assert.equal("argument", support.kind(success, message, err))
      assert.matches("^" .. method .. ": ", message)
      assert.is_nil(err.status)
      assert.equal(0, err.attempts)
    end
  end)
end)

describe("a host", function()
  local function failure(endpoint)
    local client = consul_ffi.new({ endpoint = endpoint, timeout = 2000, simulate = false })
    local started = os.time()
    local success, message, err = client:kv_get("k")
    assert.is_true(os.time() - started <= 3, "it took longer than its timeout")
    assert.equal("connect", support.kind(success, message, err))
    assert.is_true(err.retryable)
    assert.equal(endpoint, err.endpoint)
    assert.matches(endpoint, message, 1, true)
    return message
  end

  it("that refuses is named", function()
    assert.matches("refused", failure("http://127.0.0.1:1"))
  end)

  it("that has no address is named", function()
    failure("http://no.such.host.invalid:8500")
  end)
end)
