-- Names and result shapes that older programs depend on.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("an older program's", function()
  local client, name

  before_each(function()
    client = consul_ffi.ConsulClient:new({
      consul_url = os.getenv("CONSUL_HTTP_ADDR") or "http://127.0.0.1:8500",
      timeout = 5000,
      retry_count = 3,
      log_level = "WARN",
      simulate = support.simulated,
    })
    name = support.name("old")
  end)

  after_each(function()
    client:kv_delete_tree(name)
    client:destroy()
  end)

  it("kv_get(key, true) is kv_list, and kv_get(key, false) is kv_get", function()
    client:kv_put(name .. "/a", "1")
    client:kv_put(name .. "/b", "2")
    local success, entries = client:kv_get(name, true)
    assert.is_true(success)
    assert.equal("1", entries[1].Value)
    assert.equal("2", entries[2].Value)
    assert.equal(2, #select(2, client:kv_get(name, { recurse = true })))
    assert.equal("1", select(2, client:kv_get(name .. "/a", false)))
    assert.equal("1", select(2, client:kv_get(name .. "/a", { recurse = false })))
  end)

  it("kv_delete(key, true) is kv_delete_tree", function()
    client:kv_put(name .. "/a", "1")
    client:kv_put(name .. "/b", "2")
    assert.is_true((client:kv_delete(name, true)))
    assert.same({}, select(2, client:kv_get(name, true)))
  end)

  it("values can be printed with tostring, nil included", function()
    client:kv_put(name, 42)
    assert.equal("42", tostring(select(2, client:kv_get(name))))
    assert.equal("nil", tostring(select(2, client:kv_get(name .. "/none"))))
  end)

  local function first_instance()
    local found
    support.eventually(function()
      found = select(2, client:discover_services(name))
      return #found == 1
    end)
    return found[1]
  end

  it("register_service(id, name, address, port, tags) registers no check", function()
    assert.is_true((client:register_service(name .. "-1", name, "10.0.0.1", 8080, { "a", "b" })))
    local instance = first_instance()
    assert.equal(name .. "-1", instance.id)
    assert.equal(name, instance.name)
    assert.equal("10.0.0.1", instance.address)
    assert.equal(8080, instance.port)
    assert.same({ "a", "b" }, instance.tags)
    assert.same({}, select(2, client:health_checks(name)))
    assert.is_true((client:deregister_service(name .. "-1")))
    assert.same({}, select(2, client:discover_services(name)))
  end)

  it("register_service(name, address, port, tags) uses the name as id", function()
    assert.is_true((client:register_service(name, "10.0.0.2", 80, { "a" })))
    assert.equal(name, first_instance().id)
    client:deregister_service(name)
  end)

  it("register_service takes a table, optionally with a check", function()
    assert.is_true((client:register_service({
      id = name .. "-1",
      name = name,
      address = "10.0.0.3",
      port = 80,
      check = { ttl = "1m" },
    })))
    assert.equal("critical", select(2, client:health_checks(name))[1].Status)
    assert.same({}, select(2, client:discover_services(name)))
    client:deregister_service(name .. "-1")
  end)

  it("create_session returns an object that reads as JSON and has an id", function()
    local success, response = client:create_session(name, "30s")
    assert.is_true(success)
    local id = response:match('"ID":"([^"]+)"')
    assert.equal(id, tostring(response):match('"ID":"([^"]+)"'))
    assert.equal(id, response.id)
    assert.equal(id, response.ID)
    assert.equal('{"ID":"' .. id .. '"}!', response .. "!")
    assert.equal("session: " .. tostring(response), "session: " .. response)
    assert.equal(#tostring(response), response:len())
    assert.equal("30s", select(2, client:session_info(id)).TTL)
    assert.is_true((client:destroy_session(response)))
    assert.is_nil(select(2, client:session_info(id)))
    assert.is_true((client:destroy_session(id)))
  end)

  it("create_session returns errors like all methods", function()
    assert.equal("argument", support.kind(client:create_session(name, "1s")))
  end)

  it("http_request requests any path", function()
    client:kv_put(name, "v")
    local success, body = client:http_request("GET", "/v1/kv/" .. name, nil, { raw = true })
    assert.is_true(success)
    assert.equal("v", body)
    assert.is_true((client:http_request("PUT", "/v1/kv/" .. name, "w", { flags = 3 })))
    assert.equal(3, select(3, client:kv_get(name)).flags)
    assert.equal("not_found", support.kind(client:http_request("GET", "/v1/kv/" .. name .. "/none")))
    assert.equal("unsupported", support.kind(client:http_request("GET", "/v1/no/such/path")))
    assert.equal("argument", support.kind(client:http_request("GET", "v1/kv/a")))
    assert.has_error(function()
      client:http_request("FETCH", "/v1/kv/a")
    end)
  end)

  it("http_request returns the whole answer, whatever its status", function()
    client:kv_put(name, "v\0")
    local whole = { full_response = true }
    local _, response, meta = assert(client:http_request("GET", "/v1/kv/" .. name, nil, { raw = true }, whole))
    assert.same({ 200, "v\0" }, { response.status, response.body })
    assert.equal(tostring(meta.index), response.headers["x-consul-index"])
    _, response = assert(client:http_request("GET", "/v1/kv/" .. name .. "/none", nil, nil, whole))
    assert.same({ 404, "" }, { response.status, response.body })
    assert.equal("argument", support.kind(client:http_request("GET", "v1/kv/a", nil, nil, whole)))
  end)

  it("calls, from new to destroy, run unmodified", function()
    assert(client.initialized)
    local quote = { symbol = "AAPL", price = 150.25, volume = 1000, timestamp = os.time() }
    local ok = client:kv_put(name .. "/stocks/AAPL/20241012", quote)
    assert.is_true(ok)
    local success, value = client:kv_get(name .. "/stocks/AAPL/20241012")
    assert.is_true(success)
    assert.matches('"price":150.25', tostring(value), 1, true)
    assert.is_true((client:kv_delete(name .. "/stocks/AAPL/20241012")))
    client:register_service(name, "stock-tsdb-" .. name, "127.0.0.1", 8080, { "tsdb", "stock", "v1" })
    assert.is_true((client:discover_services("stock-tsdb-" .. name)))
    client:deregister_service(name)
    local created, response = client:create_session(name, "30s")
    assert.is_true(created)
    assert.is_true((client:destroy_session(tostring(response):match('"ID":"([^"]+)"'))))
    client:destroy()
    client:destroy()
    local alive, message = client:kv_get(name)
    assert.is_false(alive)
    assert.matches("closed", message, 1, true)
  end)
end)
