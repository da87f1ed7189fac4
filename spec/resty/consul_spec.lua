-- resty.consul: the behaviours that lua-resty-consul's tests show, each named after its file and title there, with a
-- server that repeats requests; then the same methods on Consul.
local cjson = require("cjson")
local consul_ffi = require("consul_ffi")
local resty_consul = require("resty.consul")
local socket = require("socket")
local support = require("spec.support")

local engine = support.interpreter

-- Waits until a file has a line, and returns what `pattern` finds in it.
local function found_in(path, pattern)
  local found
  support.eventually(function()
    local file = io.open(path)
    found = file and file:read("*a"):match(pattern)
    if file then
      file:close()
    end
    support.sleep_ms(5)
    return found
  end)
  return found
end

-- Starts the server of server.lua; returns its address, a function that sets its answers, another that ends it, and a
-- third that sets the answer of another program.
local function start_server()
  local path = os.tmpname()
  os.remove(path)
  os.execute(("%s spec/resty/server.lua %s </dev/null &"):format(engine, path))
  local port = found_in(path, "^%d+$")
  os.remove(path)
  local control = consul_ffi.new({ endpoint = "127.0.0.1:" .. port })
  local function answers(body, content_type)
    assert(control:http_request("PUT", "/answer?" .. (content_type or "application/json"), body or ""))
  end
  local function foreign(status, body)
    assert(control:http_request("PUT", "/foreign?" .. status, body))
  end
  local function quit()
    assert(control:http_request("PUT", "/quit"))
    control:close()
  end
  return tonumber(port), answers, quit, foreign
end

-- The arguments of a query, by name; true for those without a value.
local function args_of(response)
  local args = {}
  for pair in (response.headers["X-Args"] or ""):gmatch("[^&]+") do
    local name, value = pair:match("^([^=]*)=(.*)$")
    args[name or pair] = value or true
  end
  return args
end

describe("resty.consul, as lua-resty-consul's", function()
  local port, answers, quit, foreign, c

  setup(function()
    port, answers, quit, foreign = start_server()
  end)

  teardown(function()
    quit()
  end)

  before_each(function()
    c = resty_consul:new({ port = port })
    answers("true")
  end)

  -- The response of a call that succeeds.
  local function ok(response, err)
    assert.is_nil(err)
    assert.equal(200, response.status)
    return response
  end

  describe("t/01-basic.t", function()
    it("TEST 1: Module loads", function()
      assert.equal("string", type(resty_consul._VERSION))
      assert.equal("table", type(resty_consul:new()))
    end)

    it("TEST 2: Get Request #smoke", function()
      answers('"CONSUL OK"')
      local response = ok(c:get("/dummy/foobar"))
      assert.equal("CONSUL OK", response.body)
      assert.equal("/v1/dummy/foobar", response.headers["X-URI"])
      response = ok(c:get("/dummy/foobar2", { keys = true, test = 123 }))
      assert.equal("/v1/dummy/foobar2", response.headers["X-URI"])
      assert.same({ keys = true, test = "123" }, args_of(response))
    end)

    it("TEST 3: PUT Request", function()
      local response = ok(c:put("/dummy/foobar", {}))
      assert.is_true(response.body)
      assert.equal("PUT", response.headers["X-Method"])
      assert.equal("/v1/dummy/foobar", response.headers["X-URI"])
      assert.equal("{}", response.headers["X-Body"])
    end)

    it("TEST 4: DELETE Request", function()
      local response = ok(c:delete("/dummy/foobar", { recurse = true }))
      assert.is_true(response.body)
      assert.equal("DELETE", response.headers["X-Method"])
      assert.equal("/v1/dummy/foobar", response.headers["X-URI"])
      assert.equal("recurse", response.headers["X-Args"])
    end)

    it("TEST 5: Default args come through", function()
      c = resty_consul:new({ port = port, default_args = { default = "123" } })
      assert.same({ default = "123" }, args_of(ok(c:get("/dummy/foobar"))))
    end)

    it("TEST 6: Default args are merged", function()
      local defaults = { default = "123", override_me = "bad" }
      c = resty_consul:new({ port = port, default_args = defaults })
      local response = ok(c:get("/dummy/foobar2", { test = 123, override_me = "good" }))
      assert.same({ test = "123", default = "123", override_me = "good" }, args_of(response))
    end)

    it("TEST 6: Token is only sent by header", function()
      c = resty_consul:new({ port = port, default_args = { token = "123" } })
      local response = ok(c:get("/dummy/foobar"))
      assert.is_nil(response.headers["X-Args"])
      assert.equal("123", response.headers["X-Token"])
      assert.equal("456", ok(c:put("/dummy", "v", { token = "456" })).headers["X-Token"])
    end)

    it("TEST 7: Get Request with wait", function()
      c = resty_consul:new({ port = port, read_timeout = 100 })
      local begun = support.clock()
      local response, message, err = c:get("/silent", { wait = 0.1 })
      assert.is_nil(response)
      assert.equal("timeout", message)
      assert.equal("timeout", err.kind)
      assert.is_true(support.clock() - begun >= 0.206)
      c.read_timeout = 60000
      assert.equal("0.1s", args_of(ok(c:get("/dummy", { wait = 0.1 }))).wait)
    end)

    it("TEST 7: Missing params", function()
      for _, method in ipairs({ "get", "put", "delete" }) do
        for _, path in ipairs({ {}, 1, true }) do
          local response, message = c[method](c, path)
          assert.is_nil(response)
          assert.matches("^Path %(string%)", message)
        end
        assert.is_nil((c[method](c)))
      end
      assert.is_nil((c:put("foo")))
    end)
  end)

  describe("t/02-kv.t", function()
    it("TEST 1: KV Get Request - decoded #smoke", function()
      answers('[{"ModifyIndex":2,"CreateIndex":1,"Value":"dGVzdCB2YWw=","Flags":0,"Key":"foobar","LockIndex":0}]')
      local response = ok(c:get_key("foobar"))
      assert.equal("test val", response.body[1].Value)
      assert.equal("2", response.headers["X-Consul-Index"])
      assert.equal("/v1/kv/foobar", response.headers["X-URI"])
    end)

    it("TEST 2: KV PUT Request", function()
      local response = ok(c:put_key("foobar", {}))
      assert.is_true(response.body)
      assert.equal("PUT", response.headers["X-Method"])
      assert.equal("/v1/kv/foobar", response.headers["X-URI"])
    end)

    it("TEST 3: KV DELETE Request", function()
      local response = ok(c:delete_key("foobar", { recurse = true }))
      assert.is_true(response.body)
      assert.equal("DELETE", response.headers["X-Method"])
      assert.equal("/v1/kv/foobar", response.headers["X-URI"])
      assert.equal("recurse", response.headers["X-Args"])
    end)

    it("TEST 4: KV list keys Request", function()
      answers('["key1","key2","key1/nested"]')
      local response = ok(c:list_keys())
      assert.same({ "key1", "key2", "key1/nested" }, response.body)
      assert.equal("2", response.headers["X-Consul-Index"])
      assert.equal("keys", response.headers["X-Args"])
    end)

    it("TEST 4: KV list keys Request - additional args", function()
      local response = ok(c:list_keys("key1", { dc = "foo1" }))
      assert.equal("/v1/kv/key1", response.headers["X-URI"])
      assert.same({ keys = true, dc = "foo1" }, args_of(response))
    end)

    it("TEST 5: KV missing params", function()
      for _, method in ipairs({ "get_key", "put_key", "delete_key" }) do
        assert.is_nil((c[method](c)))
        assert.matches("^Key %(string%)", select(2, c[method](c, {})))
      end
      assert.is_nil((c:put_key("foo")))
      assert.equal("non-string prefix", select(2, c:list_keys({})))
    end)

    it("TEST 6: KV Get Request - decoded, broken response", function()
      answers("not json", "text/html")
      assert.equal("not json", ok(c:get_key("foobar")).body)
    end)

    it("TEST 7: KV PUT Request - types", function()
      answers("")
      for text, value in pairs({ ["1234"] = 1234, ["true"] = true }) do
        local response = ok(c:put_key("foobar", value))
        assert.equal(text, response.headers["X-Body"])
        assert.equal(value, response.body)
      end
    end)
  end)

  describe("t/03-txn.t", function()
    local ANSWER = '{"Results":[{"KV":{"Key":"foobar","Value":null}},{"KV":{"Key":"foobar","Value":"%s"}}],'
      .. '"Errors":null}'
    local payload

    before_each(function()
      payload = {
        { KV = { Verb = "set", Key = "foobar", Value = "test val" } },
        { KV = { Verb = "get", Key = "foobar" } },
      }
      answers(ANSWER:format("dGVzdCB2YWw="))
    end)

    local function sent(response)
      return cjson.decode(response.headers["X-Body"])
    end

    it("TEST 1: TXN Request, table input #smoke", function()
      local response = ok(c:txn(payload))
      assert.equal("test val", response.body.Results[2].KV.Value)
      assert.equal(cjson.null, response.body.Results[1].KV.Value)
      assert.equal("/v1/txn", response.headers["X-URI"])
      assert.equal("dGVzdCB2YWw=", sent(response)[1].KV.Value)
    end)

    it("TEST 2: TXN Request, json input does not encode", function()
      local response = ok(c:txn(cjson.encode(payload)))
      assert.equal("test val", response.body.Results[2].KV.Value)
      assert.equal("test val", sent(response)[1].KV.Value)
    end)

    it("TEST 3: TXN Request args pass through", function()
      assert.same({ test = "123" }, args_of(ok(c:txn(payload, { test = "123" }))))
    end)

    it("TEST 4: TXN Request, error response", function()
      answers('{"Results":null,"Errors":{"Foo":"Bar"}}')
      assert.equal("Bar", ok(c:txn(payload)).body.Errors.Foo)
    end)

    it("TEST 5: TXN Request, table input, types", function()
      payload[1].KV.Value = 1234
      payload[2] = { KV = { Verb = "set", Key = "foobar2", Value = true } }
      answers(ANSWER:format("dHJ1ZQ=="))
      local response = ok(c:txn(payload))
      assert.equal("true", response.body.Results[2].KV.Value)
      assert.equal("MTIzNA==", sent(response)[1].KV.Value)
      assert.equal("dHJ1ZQ==", sent(response)[2].KV.Value)
    end)
  end)

  describe("t/04-ssl.t", function()
    local folder, pid, https

    -- With a certificate for example.com of an authority of its own.
    local function serve()
      folder = os.tmpname()
      os.remove(folder)
      local made = os.execute(([[
        mkdir %s && cd %s && exec >log 2>&1 &&
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority &&
        openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=example.com &&
        echo subjectAltName=DNS:example.com >names &&
        openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -set_serial 1 -extfile names -out cert.pem &&
        { timeout 120 openssl s_server -accept 127.0.0.1:0 -cert cert.pem -key key.pem -www </dev/null >said 2>&1 &
          echo $! >pid; }]]):format(folder, folder))
      assert(made == true or made == 0, "openssl failed")
      pid = found_in(folder .. "/pid", "%d+")
      https = tonumber(found_in(folder .. "/said", "ACCEPT [^\n]*:(%d+)"))
    end

    before_each(function()
      local none = os.execute("command -v openssl >/dev/null")
      if none ~= true and none ~= 0 then
        pending("SKIPPED: openssl is missing")
      end
      serve()
    end)

    after_each(function()
      if pid then
        os.execute(("kill %s; rm -r %s"):format(pid, folder))
        pid = nil
      end
    end)

    it("TEST 1: HTTPS Request", function()
      c = resty_consul:new({ port = https, ssl = true, ssl_verify = false })
      assert.matches("Ciphers supported", ok(c:get("/dummy/foobar")).body)
      local response, _, err = resty_consul:new({ port = https, ssl = true }):get("/dummy/foobar")
      assert.is_nil(response)
      assert.equal("tls", err.kind)
    end)

    it("TEST 2: HTTPS Request verified", function()
      local options = { port = https, ssl = true, ssl_verify = true, tls_ca_file = folder .. "/ca.pem" }
      assert.equal("tls", select(3, resty_consul:new(options):get("/dummy/foobar")).kind)
      options.sni_host = "example.com"
      assert.matches("Ciphers supported", ok(resty_consul:new(options):get("/dummy/foobar")).body)
    end)
  end)

  describe("besides its tests", function()
    it("changes no table of the caller", function()
      local args = { wait = 1, token = "t" }
      local payload = { { KV = { Verb = "set", Key = "k", Value = "v" } } }
      c = resty_consul:new({ port = port, default_args = { dc = "d" } })
      for _ = 1, 2 do
        assert.same({ wait = "1s", dc = "d", keys = true }, args_of(ok(c:list_keys("p", args))))
        answers('{"Results":[]}')
        ok(c:txn(payload, args))
      end
      assert.same({ wait = 1, token = "t" }, args)
      assert.same({ { KV = { Verb = "set", Key = "k", Value = "v" } } }, payload)
    end)

    it("finds headers in any case, and lists them as Consul spells them", function()
      local headers = ok(c:get("/dummy")).headers
      assert.equal("2", headers["x-consul-index"])
      assert.equal("2", headers["X_Consul_Index"])
      assert.is_nil(headers["x-none"])
      assert.is_nil(headers[1])
      local names = {}
      for name in pairs(headers) do
        names[name] = true
      end
      assert.is_true(names["X-Consul-Index"] and names["Vary"] and names["Content-Length"])
    end)

    it("sends lists, escapes bytes that a request line cannot have, and omits false", function()
      local response = ok(c:get("/kv/a b?raw", { tag = { "x y", "z" }, no = false }))
      assert.equal("/v1/kv/a%20b", response.headers["X-URI"])
      assert.equal("raw&tag=x%20y&tag=z", response.headers["X-Args"])
    end)

    it("joins the pieces of a reader", function()
      local pieces = { "a", "b" }
      local response = ok(c:put_key("k", function()
        return table.remove(pieces, 1)
      end))
      assert.equal("ab", response.headers["X-Body"])
      local failed, message = c:put_key("k", function()
        return nil, "closed"
      end)
      assert.is_nil(failed)
      assert.equal("closed", message)
    end)

    it("reads changes of read_timeout and default_args", function()
      c.default_args.token = "new"
      assert.equal("new", ok(c:get("/dummy")).headers["X-Token"])
      c.read_timeout = 50
      assert.equal("timeout", select(2, c:get("/silent")))
    end)

    it("sends numbers exactly, and refuses what is not finite by name", function()
      local numbers = { [5] = "5", [-1] = "-1", [0.1] = "0.1", [1 / 3] = ("%.16g"):format(1 / 3) }
      numbers[123456789012345], numbers[2 ^ 53 - 1] = "123456789012345", "9007199254740991"
      numbers[1e14] = "100000000000000"
      for number, text in pairs(numbers) do
        assert.equal(text, args_of(ok(c:get("/dummy", { cas = number }))).cas)
        assert.same({ cas = text }, args_of(ok(c:get("/dummy", { cas = { number } }))))
      end
      assert.equal("123456789012345s", args_of(ok(c:get("/dummy", { wait = "123456789012345" }))).wait)
      local ull = support.load("return 18446744073709551615ULL, -5LL")
      if ull then
        local large, small = ull()
        local args = args_of(ok(c:get("/dummy", { a = large, b = { small } })))
        assert.same({ a = "18446744073709551615", b = "-5" }, args)
      end
      local not_finite = "args.cas must be a finite number, got "
      for _, number in ipairs({ math.huge, -math.huge, 0 / 0 }) do
        for _, cas in ipairs({ number, { number } }) do
          assert.matches(not_finite, select(2, c:get("/dummy", { cas = cas })), 1, true)
        end
        assert.equal("wait must be a number of seconds, without a unit", select(2, c:get("/dummy", { wait = number })))
        assert.matches("the body must be a finite number, got ", select(2, c:put_key("k", number)), 1, true)
      end
      for _, value in ipairs({ print, io.stdout }) do
        local _, message = c:get("/dummy", { x = value })
        assert.equal("args.x must be a string, a number or a boolean, got a " .. type(value), message)
      end
    end)

    it("refuses a wait with a unit", function()
      assert.equal("wait must be a number of seconds, without a unit", select(2, c:get("/dummy", { wait = "10s" })))
    end)

    it("refuses an argument without a name", function()
      local response, message = c:get("/dummy", { "x" })
      assert.is_nil(response)
      assert.equal("args must have names, got one with the key 1", message)
    end)

    it("takes an empty token for none, as an argument and as a default one", function()
      for _, with in ipairs({ {}, { token = "t" } }) do
        c = resty_consul:new({ port = port, default_args = with })
        for _, method in ipairs({ "get", "delete", "get_key", "delete_key", "list_keys" }) do
          assert.is_true((ok(c[method](c, "/dummy", { token = "" })).headers["X-Token"] or "") == "")
        end
        assert.is_true((ok(c:put("/dummy", "", { token = "" })).headers["X-Token"] or "") == "")
        assert.is_true((ok(c:txn("[]", { token = "" })).headers["X-Token"] or "") == "")
      end
      c = resty_consul:new({ port = port, default_args = { token = "" } })
      assert.is_true((ok(c:get("/dummy")).headers["X-Token"] or "") == "")
    end)

    it("returns nil and a message for arguments of another type, and never raises an error", function()
      local others = { 5, true, function() end, io.stdout, coroutine.create(function() end), { {} } }
      for _, other in ipairs(others) do
        local response, message
        if type(other) ~= "number" and type(other) ~= "boolean" then
          response, message = c:get("/dummy", { token = other })
          assert.is_nil(response)
          assert.matches("^token must be a string, a number or a boolean, got a ", message)
          c.default_args.token = other
          assert.is_nil((c:get("/dummy")))
          c.default_args.token = nil
        end
        if type(other) ~= "table" then
          for _, method in ipairs({ "get", "delete", "get_key", "delete_key", "list_keys" }) do
            response, message = c[method](c, "k", other)
            assert.is_nil(response)
            assert.matches("^args must be a table, got a ", message)
          end
          local with = resty_consul:new({ port = port })
          with.default_args = other
          assert.is_nil((with:get("/dummy")))
        end
        for _, name in ipairs({ "wait", "index", "cas", "stale", "dc", "x" }) do
          assert.is_true(pcall(c.get, c, "/dummy", { [name] = other }))
        end
        assert.is_true(pcall(c.put, c, "/dummy", type(other) ~= "function" and other or ""))
        assert.is_true(pcall(c.txn, c, { other }))
      end
      local response, message = c:put("/dummy", { io.stdout })
      assert.is_nil(response)
      assert.is_string(message)
    end)

    it("sends a token that is a number or a boolean as text", function()
      for text, token in pairs({ ["5"] = 5, ["true"] = true, ["false"] = false }) do
        assert.equal(text, ok(c:get("/dummy", { token = token })).headers["X-Token"])
        c.default_args.token = token
        assert.equal(text, ok(c:put("/dummy", "v")).headers["X-Token"])
        c.default_args.token = nil
      end
      c.default_args.token = "t"
      assert.equal("t", ok(c:get("/dummy", { token = false })).headers["X-Token"])
    end)

    it("sends a wait that is a text as it is", function()
      for _, wait in ipairs({ "1", " 1 ", "0x1", "1.50" }) do
        assert.equal((wait .. "s"):gsub(" ", "%%20"), args_of(ok(c:get("/dummy", { wait = wait }))).wait)
      end
    end)

    it("sends the values of a table, false excluded, and takes false for no arguments and no prefix", function()
      local response = ok(c:get("/dummy", { x = { false, "b", true }, y = { name = "v" }, ["a b"] = { 1 } }))
      assert.same({ x = true, y = "v", ["a%20b"] = "1" }, args_of(response))
      assert.equal("keys", ok(c:list_keys("p", false)).headers["X-Args"])
      assert.equal("/v1/kv/", ok(c:list_keys(false)).headers["X-URI"])
    end)

    it("takes timeouts as cosockets do: as texts, and the default for what is not a number or less than 1", function()
      for _, timeout in ipairs({ "60000", 60000.5, 0, 0.5, "x", {}, false }) do
        for _, name in ipairs({ "read_timeout", "connect_timeout" }) do
          ok(resty_consul:new({ port = port, [name] = timeout }):get("/dummy"))
          local other = resty_consul:new({ port = port })
          other[name] = timeout
          ok(other:get("/dummy"))
        end
      end
      for _, name in ipairs({ "read_timeout", "connect_timeout" }) do
        for _, timeout in ipairs({ -1, "-1", -math.huge, math.huge, 0 / 0 }) do
          local response, message = resty_consul:new({ port = port, [name] = timeout }):get("/dummy")
          assert.is_nil(response)
          assert.matches("^" .. name .. " must be a number of milliseconds, got ", message)
        end
      end
      c.read_timeout = "50"
      assert.equal("timeout", select(2, c:get("/silent")))
    end)

    it("uses the fields of an object as they are at a call", function()
      local other = resty_consul:new({ host = "127.0.0.1", port = 65535 })
      local first = other.consul
      assert.matches("refused", select(2, other:get("/dummy")))
      other.port = port
      ok(other:get("/dummy"))
      assert.are_not.equal(first, other.consul)
      local second = other.consul
      ok(other:get("/dummy"))
      assert.equal(second, other.consul)
      other.host = "unix:/no/such/socket"
      assert.equal("connect", select(3, other:get("/dummy")).kind)
      other.host, other.port, other.ssl = "127.0.0.1", 65535, true
      assert.is_nil((other:get("/dummy")))
      assert.matches("https://127.0.0.1:65535", tostring(other.consul), 1, true)
      other.ssl, other.port = false, tostring(port)
      ok(other:get("/dummy"))
      other.port = "x"
      assert.is_nil((other:get("/dummy")))
      assert.is_nil(other.consul)
      other.port = port
      ok(other:get("/dummy"))
    end)

    it("returns `timeout` after one attempt if no connection is made within connect_timeout", function()
      -- A server whose queue of connections is full.
      local server = assert(socket.bind("127.0.0.1", 0, 0))
      local full, waiting = tonumber((select(2, server:getsockname()))), {}
      for i = 1, 4 do
        waiting[i] = socket.tcp()
        waiting[i]:settimeout(0)
        waiting[i]:connect("127.0.0.1", full)
      end
      for _, with in ipairs({ {}, { ssl = true } }) do
        local other = resty_consul:new({ port = full, connect_timeout = 100, ssl = with.ssl })
        for _, method in ipairs({ "get", "delete", "get_key", "list_keys", "put_key", "txn" }) do
          local response, message, err = other[method](other, "/dummy", method == "put_key" and "v" or nil)
          assert.is_nil(response)
          assert.same({ "timeout", "connect", 1 }, { message, err.kind, err.attempts })
        end
      end
      for _, open in ipairs(waiting) do
        open:close()
      end
      server:close()
      -- Not what a key says.
      local refusing = resty_consul:new({ port = 65535, retry_count = 0 })
      assert.matches("refused", select(2, refusing:get_key("operation timed out")))
      assert.matches("refused", select(2, refusing:put_key("deadline has elapsed", "v")))
    end)

    it("repeats a GET after a connection that breaks, and no write", function()
      ok(c:get("/cut"))
      -- The server answers the second of two requests.
      assert.is_nil((resty_consul:new({ port = port, retry_count = 0 }):get("/cut")))
      ok(c:get("/cut"))
      local response, _, err = c:put("/cut", "v")
      assert.is_nil(response)
      assert.same({ "connect", 1, true }, { err.kind, err.attempts, err.maybe_applied })
      ok(c:put("/cut", "v"))
    end)

    it("fails at each call, not in `new`, for a wrong option of lua-resty-consul", function()
      local wrong = {
        { host = "" }, { host = "a b" }, { host = {} }, { host = true }, { port = "x" }, { port = -1 },
        { port = 65536 }, { port = {} }, { host = "127.0.0.1", port = 0 },
      }
      for _, options in ipairs(wrong) do
        local response, message = resty_consul:new(options):get("/dummy")
        assert.is_nil(response)
        assert.is_string(message)
      end
      assert.equal("127.0.0.1", resty_consul:new("no table").host)
      assert.equal("no", resty_consul:new({ ssl_verify = "no" }).ssl_verify)
    end)

    it("takes a server and TLS from the environment if it has no server of its own, and the token always", function()
      local program = ("package.path, package.cpath = %q, %q ")
        .. "local r = require('resty.consul') local c = r:new({ %s }) io.write(tostring(c.consul)) "
        .. "local response = %s and c:get('/dummy', %s) io.write(response and response.headers['X-Token'] or '')"
      local function printed(environment, options, calls, args)
        local path = os.tmpname()
        local file = assert(io.open(path, "w"))
        file:write(program:format(package.path, package.cpath, options, tostring(calls), args or "nil"))
        file:close()
        local run = assert(io.popen(("env %s %s %s"):format(environment, engine, path)))
        local text = run:read("*a")
        run:close()
        os.remove(path)
        return text
      end
      local url = "http://127.0.0.1:" .. port
      local tls = "CONSUL_HTTP_ADDR=192.0.2.1:80 CONSUL_HTTP_SSL=true"
      assert.matches("https://192.0.2.1:80", printed(tls, "", false), 1, true)
      assert.matches(url .. ",", printed(tls, "port = " .. port, false), 1, true)
      local token = "CONSUL_HTTP_TOKEN=secret"
      assert.matches("secret$", printed(token, "port = " .. port, true))
      assert.matches("%)$", printed(token, "port = " .. port, true, "{ token = '' }"))
    end)

    it("takes no default arguments for none", function()
      c.default_args = nil
      assert.is_truthy(c:get("/dummy"))
    end)

    it("returns nil and a message for a reader whose pieces are not text", function()
      for _, piece in ipairs({ {}, true, print, io.stdout }) do
        local pieces = { "a", piece }
        local called, response, message = pcall(c.put, c, "/dummy", function() return table.remove(pieces, 1) end)
        assert.is_true(called, response)
        assert.is_nil(response)
        assert.matches("^the body's pieces must be strings, got a ", message)
      end
    end)

    it("raises an error for each option of the wrong type, also after a client was made without it", function()
      for _ = 1, 2 do
        resty_consul:new({ port = port })
        for _, other in ipairs({ {}, { "t" }, { x = 1 }, 5, true, print }) do
          assert.is_false((pcall(resty_consul.new, resty_consul, { port = port, token = other })))
        end
      end
      resty_consul:new({ port = port, token = "t" })
      assert.is_false((pcall(resty_consul.new, resty_consul, { port = port, token = { "t" } })))
    end)

    it("shares a client among objects with equal options", function()
      local with = { port = port, connect_timeout = 1000, consul_endpoints = nil }
      assert.equal(resty_consul:new(with).consul, resty_consul:new(with).consul)
      assert.are_not.equal(c.consul, resty_consul:new(with).consul)
    end)

    it("shares no client among objects whose lists are in another order", function()
      local function with(...)
        return resty_consul:new({ endpoints = { ... } }).consul
      end
      assert.are.equal(with("127.0.0.1:1", "127.0.0.1:2"), with("127.0.0.1:1", "127.0.0.1:2"))
      assert.are_not.equal(with("127.0.0.1:1", "127.0.0.1:2"), with("127.0.0.1:2", "127.0.0.1:1"))
    end)

    it("keeps the clients of the last sixteen kinds of objects", function()
      local first = resty_consul:new({ port = 1 }).consul
      for other = 2, 16 do
        resty_consul:new({ port = other })
      end
      assert.are.equal(first, resty_consul:new({ port = 1 }).consul)
      resty_consul:new({ port = 17 })
      assert.are_not.equal(first, resty_consul:new({ port = 1 }).consul)
    end)

    it("raises an error for a wrong option", function()
      support.raises("resty.consul: ", resty_consul.new, resty_consul, { read_timeot = 1 })
    end)

    it("connects to an IPv6 address, with brackets and without", function()
      for _, host in ipairs({ "::1", "[::1]" }) do
        assert.matches("http://[::1]:8500", tostring(resty_consul:new({ host = host }).consul), 1, true)
      end
    end)

    it("connects to a unix socket", function()
      c = resty_consul:new({ host = "unix:/run/consul.sock", port = 0 })
      assert.matches("unix:///run/consul.sock", tostring(c.consul), 1, true)
      assert.equal("unix:/run/consul.sock", c.host)
      local secure = resty_consul:new({ host = "unix:/run/consul.sock", port = 0, ssl = true })
      assert.matches("https+unix:///run/consul.sock", tostring(secure.consul), 1, true)
      assert.is_nil(c.port)
    end)

    it("returns nil, a message and an error for what no Consul answers", function()
      local wrong = {
        { "404 page not found", 404 },
        { '{"message":"no Route matched with those values"}', 404 },
        { "<html>Request blocked</html>", 403 },
        { "RBAC: access denied", 403 },
        { "Unauthorized", 401 },
        { "", 500 },
        { "Misdirected Request", 421 },
        { "[]", 200 },
        { "{}", 200 },
      }
      for _, answer in ipairs(wrong) do
        foreign(answer[2], answer[1])
        for _, method in ipairs({ "get_key", "list_keys" }) do
          local response, message, err = c[method](c, "a")
          assert.is_nil(response, answer[1])
          assert.matches("the answer is not Consul's", message, 1, true)
          assert.equal("decode", err.kind)
        end
      end
    end)

    it("returns nil, a message and an error when the server does not answer", function()
      local response, message, err = resty_consul:new({ port = 1, retry_count = 0 }):get("/dummy")
      assert.is_nil(response)
      assert.matches("refused", message)
      assert.equal("connect", err.kind)
    end)
  end)

  -- The module as it is loaded in nginx; tests/programs/nginx.rs has the real one.
  describe("in nginx", function()
    local stub, loaded, lines

    before_each(function()
      lines = {}
      stub = { DEBUG = "debug", WARN = "warn", ERR = "error", slept = 0, sent = 0, phase = "content" }
      function stub.get_phase()
        return stub.phase
      end
      -- A cosocket that blocks, and connects to no unix socket, for which a wait sleeps.
      function stub.tcp()
        local cosocket, connection, limit_s = {}, assert(socket.tcp()), nil
        function cosocket.settimeouts(_, _, _, read_ms)
          limit_s = read_ms / 1000
        end
        function cosocket.settimeout(_, ms)
          limit_s = ms / 1000
        end
        function cosocket.connect(_, host, at)
          return type(at) == "number" and connection:connect(host, at)
        end
        function cosocket.send(_, bytes)
          stub.sent = stub.sent + 1
          return connection:send(bytes)
        end
        function cosocket.receiveany(_, most)
          connection:settimeout(limit_s)
          local first, why = connection:receive(1)
          if not first then
            return nil, why
          end
          connection:settimeout(0)
          local all, _, part = connection:receive(most - 1)
          return first .. (all or part)
        end
        function cosocket.close(_)
          return connection:close()
        end
        function cosocket.getreusedtimes()
          return 0
        end
        cosocket.setkeepalive = cosocket.close
        return cosocket
      end
      stub.socket = { tcp = stub.tcp }
      function stub.sleep(seconds)
        stub.slept = stub.slept + 1
        support.sleep_ms(seconds * 1000)
      end
      stub.now = support.clock
      function stub.update_time() end
      function stub.log(level, ...)
        lines[#lines + 1] = level .. ": " .. table.concat({ ... })
      end
      rawset(_G, "ngx", stub)
      package.loaded["resty.consul"] = nil
      loaded = require("resty.consul")
      c = loaded:new({ port = port })
    end)

    after_each(function()
      rawset(_G, "ngx", nil)
      package.loaded["resty.consul"] = resty_consul
    end)

    it("calls by a cosocket, waits for changes in the background, and blocks in the phases before requests", function()
      c.read_timeout = 100
      assert.is_true(ok(c:get("/dummy")).body)
      assert.equal("timeout", select(2, c:get("/silent")))
      assert.is_true(stub.sent >= 2)
      stub.sent = 0
      assert.equal("timeout", select(2, c:get("/silent", { index = 1, wait = 0.1 })))
      assert.is_true(stub.sent == 0 and stub.slept > 0)
      stub.slept, c.read_timeout = 0, 60000
      for _, phase in ipairs({ "init", "init_worker" }) do
        stub.phase = phase
        assert.is_true(ok(c:get("/dummy")).body)
      end
      assert.equal(0, stub.slept + stub.sent)
    end)

    it("sends a read again when a kept connection has ended, or has what answers no request", function()
      c = loaded:new({ port = port, retry_count = 0 })
      local timed_out = "HTTP/1.%d 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"
      local odd = { false, timed_out:format(0), timed_out:format(1), timed_out:format(1):sub(1, 20), "\r\n", "x" }
      for _, old in ipairs(odd) do
        for reused = 0, 1 do
          local count = 0
          stub.socket.tcp = function()
            local cosocket = stub.tcp()
            count = count + 1
            if count == 1 then
              function cosocket.getreusedtimes()
                return reused
              end
              function cosocket.receiveany()
                return old or nil, "closed"
              end
            end
            return cosocket
          end
          local response = c:get("/dummy")
          assert.same({ reused + 1, reused == 1 }, { count, response ~= nil and response.body == true })
        end
      end
    end)

    it("refuses a request in a phase that cannot wait", function()
      for _, phase in ipairs({ "log", "header_filter", "body_filter", "balancer" }) do
        stub.phase = phase
        local response, message = c:get("/dummy")
        assert.is_nil(response)
        local wanted = "a request to Consul cannot wait in the phase %s; make it in ngx.timer.at"
        assert.equal(wanted:format(phase), message)
      end
    end)

    it("writes debug lines when they are switched on, and one for a body that is not JSON", function()
      answers("{")
      assert.is_nil(ok(c:get("/dummy")).body)
      assert.equal(1, #lines)
      assert.matches("^error: %[Consul%] ", lines[1])
      loaded._debug(true)
      c.read_timeout = 100
      c:get("/silent", { wait = 0.1 })
      assert.equal("debug: [Consul] Blocking query timeout: 206.25", lines[2])
      loaded._debug(false)
      assert.is_nil((c:get("/silent", { wait = 0.1 })))
      assert.equal(2, #lines)
    end)

    it("reads the body of the request that nginx serves", function()
      local path = os.tmpname()
      stub.req = {
        read_body = function() end,
        get_body_data = function() end,
        get_body_file = function() end,
      }
      assert.is_nil(c:get_client_body_reader())
      stub.req.get_body_data = function() return "abc" end
      local reader = c:get_client_body_reader(2)
      assert.same({ "ab", "c" }, { reader(), reader(), reader() })
      stub.req.get_body_file = function() return path end
      local file = assert(io.open(path, "wb"))
      file:write("of a file")
      file:close()
      assert.equal("of a file", ok(c:put("/dummy", c:get_client_body_reader())).headers["X-Body"])
      os.remove(path)
      assert.matches(path, select(2, c:get_client_body_reader()), 1, true)
    end)
  end)
end)

describe("resty.consul on Consul", function()
  local c, key, client

  support.each_test(function(made, name)
    client, key = made, name
    -- The agent under test, which the specs name by the environment or the option `simulate`.
    c = resty_consul:new({ simulate = support.simulated or nil })
  end)

  it("gets, puts, lists and deletes keys #smoke", function()
    assert.same({ 404, "" }, { c:get_key(key).status, c:get_key(key).body })
    for value, text in pairs({ ["\0\255"] = "\0\255", [1234] = "1234", [true] = "true" }) do
      local response = c:put_key(key, value)
      assert.same({ 200, true }, { response.status, response.body })
      local read = c:get_key(key)
      assert.equal(text, read.body[1].Value)
      assert.equal(("%d"):format(read.body[1].ModifyIndex), read.headers["X-Consul-Index"])
    end
    c:put_key(key .. "/nested", { a = 1 })
    assert.same({ key, key .. "/nested" }, c:list_keys(key).body)
    assert.equal('{"a":1}', select(2, client:kv_get(key .. "/nested")))
    assert.is_true(c:delete_key(key, { recurse = true }).body)
    assert.equal(404, c:list_keys(key).status)
  end)

  it("names the key that the caller named, whatever bytes it has", function()
    for byte = 0, 255 do
      local char = string.char(byte)
      -- Lua 5.1 ends a text in a format at the byte 0.
      local name = ("%s/%02x-"):format(key, byte) .. char .. "z"
      -- A part that is cut off takes the arguments with it.
      local written = c:put_key(name, "v", { cas = 0 })
      if char ~= "%" and char ~= "?" and byte > 32 and byte ~= 127 or char == " " then
        assert.same({ byte, 200, true }, { byte, written.status, written.body })
        assert.same({ byte, "v" }, { byte, c:get_key(name).body[1].Value })
        assert.is_false(c:put_key(name, "w", { cas = 0 }).body)
        assert.same({ byte, 1 }, { byte, #c:list_keys(name).body })
        assert.is_true(c:delete_key(name, { recurse = true }).body)
        assert.same({ byte, 404 }, { byte, c:get_key(name).status })
      elseif char ~= "?" then
        assert.is_true(written == nil or written.status == 400)
      end
      local cut = client:kv_keys(("%s/%02x"):format(key, byte))
      assert.is_true(cut)
      local _, left = client:kv_keys(("%s/%02x"):format(key, byte))
      assert.equal(char == "?" and 1 or 0, #left)
    end
    assert.equal(200, c:put("/agent/service/register", { Name = "s", ID = key .. "#2" }).status)
    assert.equal(200, c:put("/agent/service/deregister/" .. key .. "#2", "").status)
    assert.is_nil(c:get("/agent/services").body[key .. "#2"])
  end)

  it("answers a conditional write that is not applied with false", function()
    c:put_key(key, "1")
    assert.same({ 200, false }, { c:put_key(key, "2", { cas = 1 }).status, c:put_key(key, "2", { cas = 1 }).body })
    assert.equal("1", c:get_key(key).body[1].Value)
  end)

  it("keeps null for an empty value", function()
    c:put_key(key, "")
    assert.equal(cjson.null, c:get_key(key).body[1].Value)
  end)

  it("runs transactions #smoke", function()
    local operations = {
      { KV = { Verb = "set", Key = key, Value = "bar\0" } },
      { KV = { Verb = "get", Key = key } },
    }
    local response = c:txn(operations)
    assert.equal(200, response.status)
    assert.equal("bar\0", response.body.Results[2].KV.Value)
    operations[1].KV.Verb, operations[1].KV.Index = "cas", 1
    response = c:txn(operations)
    assert.equal(409, response.status)
    assert.equal(0, response.body.Errors[1].OpIndex)
    assert.equal(400, c:txn("no JSON").status)
  end)

  it("waits for a change", function()
    c:put_key(key, "1")
    local index = c:get_key(key).headers["X-Consul-Index"]
    local begun = support.clock()
    local response = c:get_key(key, { index = index, wait = 1 })
    assert.is_true(support.clock() - begun >= 1)
    assert.same({ 200, "1" }, { response.status, response.body[1].Value })
  end)

  it("registers services, and answers errors with their status and text", function()
    assert.equal(200, c:put("/agent/service/register", { Name = key, Port = 80, Tags = { "a" } }).status)
    local service = c:get("/agent/services").body[key]
    assert.same({ 80, { "a" } }, { service.Port, service.Tags })
    assert.equal(200, c:put("/agent/service/deregister/" .. key, "").status)
    local response = c:get("/no/such/path")
    assert.equal(404, response.status)
    assert.equal("string", type(response.body))
    assert.equal(400, c:get("/catalog/nodes", { index = "x" }).status)
  end)
end)
