-- The module and its constructors.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("the module #smoke", function()
  it("has a version", function()
    assert.matches("^%d+%.%d+%.%d+$", consul_ffi._VERSION)
  end)

  it("exports one class under both of its names", function()
    local client = consul_ffi.new({ simulate = true })
    assert.equal(consul_ffi.ConsulClient.kv_get, client.kv_get)
  end)
end)

describe("a new client", function()
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
    it("can be created by " .. form, function()
      local client = make({ simulate = true, timeout = 1234 })
      assert.equal(1234, client.timeout)
    end)

    it("cannot have unknown options in " .. form, function()
      support.raises('unknown option "tiemout"; did you mean "timeout"?', make, { tiemout = 1 })
    end)
  end

  it("needs no configuration", function()
    for _, client in ipairs({ consul_ffi.new(), consul_ffi.new({}) }) do
      assert.is_true(client.initialized)
      assert.is_false(client.simulate)
      assert.equal(5000, client.timeout)
    end
  end)

  it("makes no request", function()
    assert.is_true(consul_ffi.new({ endpoint = "http://no.such.host.invalid" }).initialized)
  end)

  it("takes one endpoint or several, with or without a scheme", function()
    for _, config in ipairs({
      { endpoint = "10.0.0.1:8500" },
      { consul_url = "http://10.0.0.1:8500" },
      { endpoints = { "10.0.0.1:8500", "10.0.0.2:8500" } },
      { consul_endpoints = { "http://10.0.0.1:8500/" } },
    }) do
      assert.equal("http://10.0.0.1:8500", consul_ffi.new(config).consul_url)
    end
  end)

  it("takes the log levels only, in capitals or small letters, and two formats", function()
    for _, level in ipairs({ "DEBUG", "info", "ERROR", "OFF", "off", "WARN" }) do
      assert.is_true(consul_ffi.new({ log_level = level, simulate = true }).initialized)
    end
    for _, format in ipairs({ "json", "text" }) do
      assert.is_true(consul_ffi.new({ log_format = format, simulate = true }).initialized)
    end
    for name, wrong in pairs({ log_level = "LOUD", log_format = "xml" }) do
      assert.has_error(function()
        consul_ffi.new({ [name] = wrong })
      end)
    end
  end)

  it("raises for a wrong type and an invalid value, naming the option and the value", function()
    for _, case in ipairs({
      { { timeout = "soon" }, "timeout must be a positive number of milliseconds, got a string \"soon\"" },
      { { timeout = 0 }, "timeout is 0" },
      { { timeout = 0 / 0 }, "timeout is" },
      { { retry_count = -1 }, "retry_count is -1" },
      { { endpoint = 8500 }, "endpoint must be" },
      { { endpoint = "ftp://x" }, "the scheme must be http, https, unix or https+unix" },
      { { endpoints = {} }, "at least one endpoint" },
      { { simulate = 1 }, "simulate must be" },
      { { strip_leading_slash = "yes" }, "strip_leading_slash must be true or false" },
      { { consistency = "eventual" }, "consistency is" },
      { { endpoint = "a", consul_url = "b" }, "are the same option; set one of them" },
      { { endpoint = "http://user:s3cret@a" }, "endpoint must be a URL without credentials" },
      { { http_auth = "nobody" }, "http_auth must be a string `user:password`" },
      { { token = "t", token_file = "/f" }, "token and token_file both set the token" },
      { { consistency = "consistent", stale_if_error = true }, "contradict each other" },
      { { endpoint = "https://a", tls_cert_file = "/c" }, "requires the key of the certificate: tls_key_file" },
      { { tls_server_name = "n" }, "tls_server_name has no effect" },
      { { endpoint = "https://a", tls_ca_file = "/no/such/file" }, "tls_ca_file: /no/such/file: No such file" },
      { { simulate = true, token_file = "/no/such/file" }, "token_file: /no/such/file: No such file" },
      { "http://127.0.0.1:8500", "must be a table" },
    }) do
      support.raises(case[2], consul_ffi.new, case[1])
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
    support.raises("no_such_field: a ConsulClient has no method or field of this name", function()
      return client.no_such_field
    end)
  end)

  it("names the unix socket that it cannot connect to", function()
    local client = consul_ffi.new({ endpoint = "unix:///no/such/socket", retry_count = 0 })
    assert.equal("ConsulClient(unix:///no/such/socket, open)", tostring(client))
    local success, message, err = client:kv_get("k")
    assert.equal("connect", support.kind(success, message, err))
    assert.equal("unix:///no/such/socket", err.endpoint)
    assert.matches("No such file", message, 1, true)
  end)

  it("shows its endpoint and state as a string", function()
    local client = consul_ffi.new({ endpoint = "10.0.0.1:8500" })
    assert.equal("ConsulClient(http://10.0.0.1:8500, open)", tostring(client))
    client:close()
    assert.equal("ConsulClient(http://10.0.0.1:8500, closed)", tostring(client))
  end)

  it("can be destroyed twice, and then returns closed errors", function()
    local client = support.client()
    client:destroy()
    client:destroy()
    assert.is_false(client.initialized)
    assert.equal("closed", support.kind(client:kv_get("a")))
  end)

  it("can be garbage-collected while it is open", function()
    for _ = 1, 20 do
      support.client():kv_get("a")
    end
    collectgarbage()
    collectgarbage()
  end)

  if _VERSION >= "Lua 5.4" then
    it("is closed at the end of its scope", function()
      assert.is_false(support.scoped(support.client).initialized)
    end)
  end
end)

describe("simulated clients", function()
  it("with the same endpoints, in any order, share an agent", function()
    local name = support.name("a")
    local one = consul_ffi.new({ endpoints = { "a:1", "b:1" }, simulate = true })
    local other = consul_ffi.new({ endpoints = { "b:1", "a:1" }, simulate = true })
    local stranger = consul_ffi.new({ endpoint = "c:1", simulate = true })
    one:kv_put(name, "here")
    assert.equal("here", select(2, other:kv_get(name)))
    assert.is_nil(select(2, stranger:kv_get(name)))
  end)

  it("with a name share the agent of that name", function()
    local name = support.name("a")
    local one = consul_ffi.new({ simulate = name })
    one:kv_put("k", "here")
    assert.equal("here", select(2, consul_ffi.new({ simulate = name }):kv_get("k")))
    assert.is_nil(select(2, consul_ffi.new({ simulate = name .. "2" }):kv_get("k")))
    assert.is_true(one.simulate)
  end)
end)

describe("options with a metatable", function()
  local defaults = setmetatable({ timeout = 1234, __index = "x", method = print }, {
    __index = { timeout = 1, retry_count = 7, simulate = true },
  })

  local function with_defaults(own)
    return setmetatable(own, { __index = defaults })
  end

  it("have the names of the tables at __index, except for functions and metamethods", function()
    local client = consul_ffi.new(with_defaults({ retry_count = 0 }))
    assert.same({ 1234, true }, { client.timeout, client.simulate })
    client:close()
    client = consul_ffi.new(with_defaults({ timeout = 99 }))
    assert.equal(99, client.timeout)
    client:close()
  end)

  it("have them in calls", function()
    local client = consul_ffi.new({ simulate = true })
    local key = support.name("defaults")
    assert.is_true(client:kv_put(key, "first", setmetatable({}, { __index = { cas = 0 } })))
    local success, message, err = client:kv_put(key, "second", setmetatable({}, { __index = { cas = 0 } }))
    assert.equal("conflict", support.kind(success, message, err))
    client:kv_delete(key)
    client:close()
  end)

  it("have them in nodes", function()
    local own = setmetatable({ node_id = "n1", simulate = true }, { __index = { node_address = "10.0.0.1:9000" } })
    local node = consul_ffi.ConsulHACluster:new(own)
    assert.equal("10.0.0.1:9000", node.node_address)
    node:close()
    node = require("consul_ha_cluster").new(own)
    assert.equal("10.0.0.1:9000", node.node_address)
    node:close()
    support.raises('unknown option "tiemout"', function()
      consul_ffi.ConsulHACluster:new(setmetatable({ node_id = "n1" }, { __index = { tiemout = 1 } }))
    end)
  end)

  it("are refused when __index is a function, whose names cannot be listed", function()
    local config = setmetatable({ simulate = true }, { __index = function() end })
    support.raises("a table of options has a metatable whose __index is a function: it must be a table of defaults",
      consul_ffi.new, config)
    local circle = {}
    setmetatable(circle, { __index = circle })
    support.raises("goes round in a circle", consul_ffi.new, circle)
  end)

  it("do not concern values", function()
    local client = consul_ffi.new({ simulate = true })
    local key = support.name("object")
    assert(client:kv_put(key, setmetatable({ price = 1 }, { __index = { volume = 2 } })))
    assert.equal('{"price":1}', select(2, client:kv_get(key)))
    client:kv_delete(key)
    client:close()
  end)
end)

describe("simulate", function()
  it("refuses the text of a flag", function()
    for _, text in ipairs({ "true", "FALSE", "yes", "No", "on", "off", "1", "0" }) do
      support.raises(('simulate is "%s": it would be the name of a simulated agent'):format(text), consul_ffi.new,
        { simulate = text })
    end
  end)
end)
