-- Errors: misuse raises, invalid values and failures are returned.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

-- Methods that call others, which check their arguments.
local COMPOSED = {
  new = true,
  close = true,
  destroy = true,
  register_service = true,
  deregister_service = true,
  discover_services = true,
  create_session = true,
  destroy_session = true,
  registered = true,
}

-- Usual wrong names of methods, each with the right one.
local WRONG = {
  get = "kv_get",
  put = "kv_put",
  set = "kv_put",
  delete = "kv_delete",
  kv_set = "kv_put",
  kv_del = "kv_delete",
  register = "agent_service_register",
  lookup = "health_service",
}

describe("misuse", function()
  local client

  setup(function()
    client = support.client()
  end)

  it("of the number of arguments is raised, naming the maximum", function()
    for method, max in pairs({ session_list = 1, kv_get = 2, kv_put = 3, lock = 2, semaphore = 3 }) do
      local wanted = ("%s: got 6 arguments: the maximum is %d, the last one a table of options"):format(method, max)
      support.raises(wanted, client[method], client, 1, 2, 3, 4, 5, 6)
    end
  end)

  for name in pairs(consul_ffi.ConsulClient) do
    if not COMPOSED[name] then
      it("of " .. name .. " is raised, naming the method", function()
        local call = consul_ffi.ConsulClient[name]
        support.raises(name, call, client, print, print, print, print, print)
        support.raises(name .. ": call it with a colon", call, "a key")
        support.raises(name .. ": call it with a colon", call)
      end)
    end
  end

  it("includes usual wrong names of methods, which raise with the right one #smoke", function()
    for wrong, right in pairs(WRONG) do
      local words = "%s: a ConsulClient has no method or field of this name; did you mean %s?"
      local message = support.raises(words:format(wrong, right), function()
        client[wrong](client, "key")
      end)
      assert.matches("errors_spec.lua:%d+: " .. wrong, message)
      assert.is_function(client[right])
      assert.is_nil(consul_ffi.ConsulClient[wrong])
    end
  end)

  it("includes options where the value belongs", function()
    local wanted = "value is a table with only names of options (cas): a value comes before the options"
    support.raises("kv_put: " .. wanted, client.kv_put, client, "k", { cas = 0 })
    support.raises("kv_put: " .. wanted, client.kv_put, client, "k", { cas = 0 }, nil)
    support.raises("call #1: kv_put: " .. wanted, client.batch, client, { { "kv_put", "k", { cas = 0 } } })
    support.raises("kv_put: " .. wanted, client.start, client, "kv_put", "k", { cas = 0 })
    support.raises("payload is a table with only names", client.event_fire, client, "deploy", { service = "web" })
    local key = support.name("options")
    local json_decode = require("consul_ffi").json_decode
    for value, options in pairs({ [{ token = "x" }] = {}, [{ cas = 1, price = 2 }] = false, [{}] = {} }) do
      assert(client:kv_put(key, value, options or nil))
      assert.same(value, select(2, assert(json_decode(select(2, client:kv_get(key))))))
    end
    client:kv_delete(key)
  end)

  it("is raised at the caller's line", function()
    local message = support.raises("kv_get: key must be a non-empty string, got a number 1", function()
      client:kv_get(1)
    end)
    assert.matches("errors_spec.lua:%d+: kv_get", message)
  end)

  it("is raised with the name and the types of a missing argument", function()
    support.raises("kv_put: argument #2 (value) is missing: a string, number", client.kv_put, client, "k")
  end)

  it("is raised with the most similar option or field", function()
    support.raises('did you mean "cas"?', client.kv_put, client, "k", "v", { csa = 1 })
    support.raises('did you mean "Name"?', client.agent_service_register, client, { nmae = "web" })
  end)

  it("includes a table that contains itself, which is raised", function()
    local cycle = {}
    cycle.cycle = cycle
    support.raises("contain itself", client.txn, client, cycle)
  end)

  it("is checked before the client is found closed", function()
    local closed = support.client()
    closed:close()
    support.raises("key must be", closed.kv_get, closed, 1)
    assert.equal("argument", support.kind(closed:kv_get("/k")))
  end)
end)

describe("an invalid value", function()
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
      local success, message, err = client[method](client, support.unpack(case))
      assert.equal("argument", support.kind(success, message, err))
      assert.matches("^" .. method .. ": ", message)
      assert.is_nil(err.status)
      assert.equal(0, err.attempts)
    end
  end)
end)

describe("an unreachable host", function()
  local function failure(endpoint)
    local client = consul_ffi.new({ endpoint = endpoint, timeout = 2000, simulate = false })
    local started = os.time()
    local success, message, err = client:kv_get("k")
    assert.is_true(os.time() - started <= 10, "it took much longer than its timeout")
    assert.equal("connect", support.kind(success, message, err))
    assert.is_true(err.retryable)
    assert.equal(endpoint, err.endpoint)
    assert.matches(endpoint, message, 1, true)
    return message
  end

  it("that refuses connections is named", function()
    assert.matches("refused", failure("http://127.0.0.1:1"))
  end)

  it("that has no address is named", function()
    failure("http://no.such.host.invalid:8500")
  end)
end)
