-- Batches: many calls at once, with an outcome for each.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("a batch", function()
  local client, prefix

  support.each_test(function(given, key)
    client, prefix = given, key .. "/"
  end)

  it("returns the outcomes in the order of the calls #smoke", function()
    local success, results = client:batch({
      { "kv_put", prefix .. "a", "1", { flags = 3 } },
      { "status_leader" },
      { "kv_get", prefix .. "none" },
    })
    assert.is_true(success)
    assert.equal(3, #results)
    assert.same({ true, true }, { results[1].ok, results[1].value })
    assert.is_string(results[2].value)
    assert.is_true(results[3].ok)
    assert.is_nil(results[3].value)

    results = select(2, client:batch({ { "kv_get", prefix .. "a" } }))
    assert.equal("1", results[1].value)
    assert.equal(3, results[1].meta.flags)
    assert.is_number(results[1].meta.request_ms)
  end)

  it("returns a failure for each failed call only #smoke", function()
    client:kv_put(prefix .. "a", "1")
    local success, results = client:batch({
      { "kv_get", prefix .. "a" },
      { "kv_put", prefix .. "a", "2", { cas = 1 } },
      { "kv_get", "/dirty" },
      { "kv_get", prefix .. "a" },
    })
    assert.is_true(success)
    assert.equal("1", results[1].value)
    assert.is_false(results[2].ok)
    assert.equal("conflict", results[2].err.kind)
    assert.equal(results[2].message, results[2].err.message)
    assert.equal("argument", results[3].err.kind)
    assert.equal("1", results[4].value)
  end)

  it("makes more calls than may be in flight at once", function()
    local puts, gets = {}, {}
    for i = 1, 500 do
      puts[i] = { "kv_put", prefix .. i, tostring(i) }
      gets[i] = { "kv_get", prefix .. i }
    end
    local _, written = client:batch(puts)
    local _, read = client:batch(gets, { concurrency = 8 })
    for i = 1, 500 do
      assert.is_true(written[i].ok, written[i].message)
      assert.equal(tostring(i), read[i].value)
    end
  end)

  it("of no calls returns an empty list", function()
    local success, results = client:batch({})
    assert.is_true(success)
    assert.same({}, results)
  end)

  it("takes any method, http_request included", function()
    local _, results = client:batch({
      { "http_request", "PUT", "/v1/kv/" .. prefix .. "raw", "bytes\0" },
      { "session_list" },
    })
    assert.is_true(results[1].ok, results[1].message)
    assert.is_table(results[2].value)
    assert.equal("bytes\0", (select(2, client:kv_get(prefix .. "raw"))))
  end)

  it("takes nil arguments before others", function()
    local _, results = client:batch({ { "http_request", "GET", "/v1/kv/" .. prefix, nil, { keys = true } } })
    assert.is_true(results[1].ok or results[1].err.status == 404, results[1].message)
  end)

  it("raises for misuse before any request, naming the call's position #smoke", function()
    for _, case in ipairs({
      { { "kv_gte", "a" }, 'call #2: unknown method "kv_gte"; did you mean "kv_get"?' },
      { { "kv_get" }, "call #2: kv_get: argument #1 (key) is missing" },
      { { "kv_put", "a", "b", { csa = 1 } }, 'call #2: kv_put: unknown option "csa"; did you mean "cas"?' },
      { { "kv_get", "a", stale = true }, "call #2: a call must be a list of its method" },
      { {}, "call #2: method must be the name of a method, got nil" },
      { "kv_get", 'call #2: a call must be a table such as { "kv_get", "key" }' },
    }) do
      support.raises(case[2], client.batch, client, { { "kv_put", prefix .. "a", "1" }, case[1] })
    end
    assert.is_nil((select(2, client:kv_get(prefix .. "a"))))
  end)

  it("raises unless calls is a list, and for unknown options", function()
    local get = { "kv_get", "a" }
    for _, arguments in ipairs({
      {},
      { "kv_get" },
      { get },
      { { kv_get = "a" } },
      { { [2] = get } },
      { { get, kv = get } },
      { {}, { concurency = 1 } },
      { {}, 5 },
    }) do
      assert.has_error(function()
        client:batch(arguments[1], arguments[2])
      end)
    end
    assert.has_error(function()
      consul_ffi.ConsulClient.batch({})
    end)
  end)

  it("returns an argument error unless concurrency is 1 to 64", function()
    for _, concurrency in ipairs({ 0, 65 }) do
      local kind = support.kind(client:batch({ { "kv_get", "a" } }, { concurrency = concurrency }))
      assert.equal("argument", kind)
    end
  end)

  it("fails entirely on a closed client", function()
    client:close()
    assert.equal("closed", support.kind(client:batch({ { "kv_get", "a" } })))
  end)
end)

describe("a batch on a slow agent", function()
  local sim, client, connect

  before_each(function()
    sim, connect = support.manual_agent()
    client = connect({ client_name = "one" })
    sim:fault({ latency_ms = 100 })
  end)

  local function gets(count)
    local calls = {}
    for i = 1, count do
      calls[i] = { "kv_get", "k" .. i }
    end
    return calls
  end

  local function took_ms(calls, options)
    local before = sim:now()
    assert(client:batch(calls, options))
    return math.floor((sim:now() - before) * 1000 + 0.5)
  end

  it("takes as long as one call", function()
    assert.equal(100, took_ms(gets(64)))
  end)

  it("has up to `concurrency` calls in flight, by default 64", function()
    assert.equal(200, took_ms(gets(65)))
    assert.equal(500, took_ms(gets(10), { concurrency = 2 }))
    assert.equal(1000, took_ms(gets(10), { concurrency = 1 }))
    client = connect({ max_connections = 5 })
    assert.equal(200, took_ms(gets(10)))
  end)

  it("ends after its timeout with the outcomes that it has", function()
    local before = sim:now()
    local success, results = client:batch(gets(10), { concurrency = 4, timeout_ms = 250 })
    assert.is_true(success)
    assert.equal(250, math.floor((sim:now() - before) * 1000 + 0.5))
    for i = 1, 10 do
      assert.equal(i <= 8, results[i].ok)
    end
    assert.equal("timeout", results[9].err.kind)
    assert.matches('kv_get "k9": no answer within the batch\'s 250 ms', results[9].message, 1, true)
  end)
end)
