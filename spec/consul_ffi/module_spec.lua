local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("the module #smoke", function()
  it("says its version", function()
    assert.matches("^%d+%.%d+%.%d+$", consul_ffi._VERSION)
  end)

  it("gives the same class under each name", function()
    local client = consul_ffi.new({ simulate = true })
    assert.equal(consul_ffi.ConsulClient.kv_get, client.kv_get)
  end)
end)

describe("making a client", function()
  local makers = {
    ["consul_ffi.new(config)"] = consul_ffi.new,
    ["ConsulClient:new(config)"] = function(config)
      return consul_ffi.ConsulClient:new(config)
    end,
    ["ConsulClient.new(config)"] = function(config)
      return consul_ffi.ConsulClient.new(config)
    end,
    ["ConsulClient(config)"] = function(config)
      return consul_ffi.ConsulClient(config)
    end,
  }

  for form, make in pairs(makers) do
    it("works as " .. form, function()
      local client = make({ simulate = true, timeout = 1234 })
      assert.equal(1234, client.timeout)
    end)

    it("raises at the caller's line as " .. form, function()
      local _, message = pcall(make, { tiemout = 1 })
      assert.equal("string", type(message))
      assert.matches('unknown option "tiemout"; did you mean "timeout"?', message, 1, true)
    end)
  end

  it("takes a nil and an empty configuration", function()
    for _, client in ipairs({ consul_ffi.new(), consul_ffi.new({}) }) do
      assert.is_true(client.initialized)
      assert.is_false(client.simulate)
      assert.equal(5000, client.timeout)
    end
  end)

  it("touches no network", function()
    assert.is_true(consul_ffi.new({ endpoint = "http://no.such.host.invalid" }).initialized)
  end)

  it("takes one endpoint or several, with a scheme or without", function()
    for _, config in ipairs({
      { endpoint = "10.0.0.1:8500" },
      { consul_url = "http://10.0.0.1:8500" },
      { endpoints = { "10.0.0.1:8500", "10.0.0.2:8500" } },
      { consul_endpoints = { "http://10.0.0.1:8500/" } },
    }) do
      assert.equal("http://10.0.0.1:8500", consul_ffi.new(config).consul_url)
    end
  end)

  it("takes every log level and refuses others", function()
    for _, level in ipairs({ "DEBUG", "INFO", "WARN", "ERROR" }) do
      assert.is_true(consul_ffi.new({ log_level = level, simulate = true }).initialized)
    end
    assert.has_error(function()
      consul_ffi.new({ log_level = "LOUD" })
    end)
  end)

  it("raises for a wrong type and for an unacceptable value, naming both", function()
    for _, case in ipairs({
      { { timeout = "soon" }, "timeout must be a positive number of milliseconds, got a string \"soon\"" },
      { { timeout = 0 }, "timeout is 0" },
      { { timeout = 0 / 0 }, "timeout is" },
      { { retry_count = -1 }, "retry_count is -1" },
      { { endpoint = 8500 }, "endpoint must be" },
      { { endpoint = "ftp://x" }, "the scheme must be http, https or unix" },
      { { endpoints = {} }, "at least one endpoint" },
      { { simulate = 1 }, "simulate must be" },
      { { strip_leading_slash = "yes" }, "strip_leading_slash must be true or false" },
      { { consistency = "eventual" }, "consistency is" },
      { { endpoint = "a", consul_url = "b" }, "twice" },
      { { endpoint = "http://user:s3cret@a" }, "endpoint must be a URL without credentials" },
      { { http_auth = "nobody" }, "http_auth must be a string `user:password`" },
      { { token = "t", token_file = "/f" }, "both token and token_file say the token" },
      { { consistency = "consistent", stale_if_error = true }, "contradict each other" },
      { { endpoint = "https://a", tls_cert_file = "/c" }, "needs the key of the certificate: tls_key_file" },
      { { tls_server_name = "n" }, "tls_server_name has no effect" },
      { { endpoint = "https://a", tls_ca_file = "/no/such/file" }, "tls_ca_file: /no/such/file: No such file" },
      { { simulate = true, token_file = "/no/such/file" }, "token_file: /no/such/file: No such file" },
      { "http://127.0.0.1:8500", "must be a table" },
    }) do
      local made, message = pcall(consul_ffi.new, case[1])
      assert.is_false(made)
      assert.matches(case[2], message, 1, true)
    end
  end)

  it("never shows the token", function()
    local client = consul_ffi.new({ simulate = true, acl_token = "s3cret" })
    assert.not_matches("s3cret", tostring(client), 1, true)
    local _, message = pcall(consul_ffi.new, { token = { "s3cret" } })
    assert.not_matches("s3cret", message, 1, true)
  end)
end)

describe("a client", function()
  it("has the fields of older programs", function()
    local client = consul_ffi.new({ consul_url = "http://10.0.0.1:8500", simulate = true })
    assert.is_true(client.initialized)
    assert.equal("http://10.0.0.1:8500", client.consul_url)
    assert.is_true(client.simulate)
    assert.is_nil(client.no_such_field)
  end)

  it("names the unix socket that nobody listens on", function()
    local client = consul_ffi.new({ endpoint = "unix:///no/such/socket", retry_count = 0 })
    assert.equal("ConsulClient(unix:///no/such/socket, open)", tostring(client))
    local success, message, err = client:kv_get("k")
    assert.equal("connect", support.kind(success, message, err))
    assert.equal("unix:///no/such/socket", err.endpoint)
    assert.matches("No such file", message, 1, true)
  end)

  it("prints its endpoint and state", function()
    local client = consul_ffi.new({ endpoint = "10.0.0.1:8500" })
    assert.equal("ConsulClient(http://10.0.0.1:8500, open)", tostring(client))
    client:close()
    assert.equal("ConsulClient(http://10.0.0.1:8500, closed)", tostring(client))
  end)

  it("may be destroyed twice, and then refuses calls", function()
    local client = support.client()
    client:destroy()
    client:destroy()
    assert.is_false(client.initialized)
    assert.equal("closed", support.kind(client:kv_get("a")))
  end)

  it("is collected while it is open", function()
    for _ = 1, 20 do
      support.client():kv_get("a")
    end
    collectgarbage()
    collectgarbage()
  end)

  it("closes at the end of its block on Lua 5.4", function()
    local load_block = rawget(_G, "loadstring") or load
    local block = load_block("local make = ... local held <close> = make() return held")
    if not block then
      return -- this Lua has no <close>
    end
    assert.is_false(block(support.client).initialized)
  end)
end)

describe("simulated clients", function()
  it("with the same endpoints share an agent, in any order", function()
    local name = support.name("a")
    local one = consul_ffi.new({ endpoints = { "a:1", "b:1" }, simulate = true })
    local other = consul_ffi.new({ endpoints = { "b:1", "a:1" }, simulate = true })
    local stranger = consul_ffi.new({ endpoint = "c:1", simulate = true })
    one:kv_put(name, "here")
    assert.equal("here", select(2, other:kv_get(name)))
    assert.is_nil(select(2, stranger:kv_get(name)))
  end)

  it("with a name have an agent of their own", function()
    local name = support.name("a")
    local one = consul_ffi.new({ simulate = name })
    one:kv_put("k", "here")
    assert.equal("here", select(2, consul_ffi.new({ simulate = name }):kv_get("k")))
    assert.is_nil(select(2, consul_ffi.new({ simulate = name .. "2" }):kv_get("k")))
    assert.is_true(one.simulate)
  end)
end)
