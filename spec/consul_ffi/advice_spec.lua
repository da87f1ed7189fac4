-- Errors name the cure as well as the cause, and what is likely not meant is not done silently.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("an error", function()
  local client, key

  support.each_test(function(new_client, new_key)
    client, key = new_client, new_key
  end)

  it("of a refused connection says where the address comes from, and what works without a server #smoke", function()
    local away = consul_ffi.new({ consul_url = "127.0.0.1:1", retry_count = 0 })
    local success, message, err = away:kv_get(key)
    assert.equal("connect", support.kind(success, message, err))
    local from = "; the option consul_url names this address; without a server: simulate = true"
    assert.equal(from, message:sub(-#from))
    away:close()
  end)

  it("of a path without /v1 names it", function()
    local success, message, err = client:http_request("GET", "/agent/services")
    assert.equal("unsupported", support.kind(success, message, err))
    assert.matches("the paths of Consul's API begin with /v1/", message, 1, true)
  end)

  it("of the check of a service by the service's name names the check's id", function()
    assert(client:agent_service_register({ name = key, check = { ttl = "60s" } }))
    local success, message, err = client:agent_check_pass(key)
    assert.equal("not_found", support.kind(success, message, err))
    assert.matches('has the id "service:<id of the service>"', message, 1, true)
    assert(client:agent_check_pass("service:" .. key))
    message = select(2, client:agent_check_pass("service:none" .. key))
    assert.is_nil(message:find("<id of", 1, true))
    assert(client:agent_service_deregister(key))
  end)

  it("of a view without an instance says whether there is none or their checks fail", function()
    local view = assert(client:service_view(key))
    assert(view:ready(support.PATIENCE_MS))
    assert.matches("there is no instance whose checks pass: Consul lists none", select(2, view:pick()), 1, true)
    assert(client:agent_service_register({ name = key, check = { ttl = "60s" } }))
    support.eventually(function()
      return select(2, view:pick("key")):find("no instance whose checks pass: of 1 the checks fail", 1, true)
    end)
    view:close()
    assert(client:agent_service_deregister(key))
  end)

  it("of a port names the range, at each registration", function()
    for _, port in ipairs({ 65536, -1, 80.5, "x", "65536" }) do
      for _, call in ipairs({
        { "agent_service_register", { name = key, port = port } },
        { "agent_service_register", { name = key, tagged_addresses = { wan = { address = "a", port = port } } } },
        { "catalog_register", { node = key, address = "a", service = { service = key, port = port } } },
        { "txn", { { Service = { verb = "set", node = key, service = { service = key, port = port } } } } },
      }) do
        local success, message, err = client[call[1]](client, call[2])
        assert.equal("argument", support.kind(success, message, err))
        assert.is_nil(err.status)
        assert.matches("[Pp]ort is", message)
      end
    end
    local message = select(2, client:register_service("i", key, "127.0.0.1", 70000))
    assert.matches("port is 70000: it must be a port, an integer from 0 to 65535", message:lower(), 1, true)
    for _, port in ipairs({ 65535, "8080" }) do
      assert(client:agent_service_register({ name = key, port = port }))
      assert.equal(tonumber(port), select(2, client:agent_service(key)).Port)
    end
    assert(client:agent_service_deregister(key))
  end)

  it("of the text of a flag as the name of a simulated agent is raised", function()
    for _, name in ipairs({ "false", "FALSE", "true", "0", "1" }) do
      support.raises(('simulate is "%s": it would be the name of a simulated agent'):format(name), consul_ffi.new,
        { simulate = name })
    end
    support.raises("simulate", consul_ffi.new, { simulate = "" })
  end)
end)

describe("a client", function()
  it("lists the services and checks that it has registered", function()
    local client, name = support.client(), support.name("own")
    assert.same({ services = {}, checks = {} }, client:registered())
    assert(client:agent_service_register({ name = name, id = name .. "/1 %" }))
    assert(client:batch({
      { "agent_service_register", { name = name } },
      { "agent_check_register", { name = name, ttl = "9s" } },
    }))
    assert(client:start("agent_check_register", { id = name .. "2", name = name, ttl = "9s" }):wait())
    assert.same({ services = { name, name .. "/1 %" }, checks = { name, name .. "2" } }, client:registered())
    assert(client:agent_check_deregister(name))
    assert(client:agent_check_deregister(name .. "2"))
    assert(client:agent_service_deregister(name .. "/1 %"))
    assert(client:deregister_service(name))
    assert.same({ services = {}, checks = {} }, client:registered())
    client:close()
    support.raises("registered: call it with a colon", client.registered)
  end)
end)
