-- Service views: a service's instances, kept current without a request per lookup.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("a service view", function()
  local client, name, view

  before_each(function()
    client = support.client()
    name = support.name("web")
  end)

  after_each(function()
    if view then
      view:close()
      view = nil
    end
    for i = 1, 5 do
      client:agent_service_deregister(name .. i)
    end
    client:close()
  end)

  -- Registers an instance, whose check passes unless `fields` has another one.
  local function register(number, fields)
    local definition = {
      ID = name .. number,
      Name = name,
      Address = "10.0.0." .. number,
      Port = 8000 + number,
      Check = { CheckID = name .. number, TTL = "1h", Status = "passing" },
    }
    for field, value in pairs(fields or {}) do
      definition[field] = value
    end
    assert(client:agent_service_register(definition))
  end

  local function open(options)
    view = assert(client:service_view(name, options))
    assert(view:ready(support.PATIENCE_MS))
    return view
  end

  -- Returns the addresses and weights of the list as a string: `10.0.0.1*1 10.0.0.2*5`.
  local function shown()
    local found = {}
    for i, instance in ipairs(assert(view:all())) do
      found[i] = instance.address .. "*" .. instance.weight
    end
    table.sort(found)
    return table.concat(found, " ")
  end

  -- A change in Consul arrives soon;
  -- crates/consul-client/tests/client/view.rs has the time, on a clock that it advances.
  local function soon(wanted)
    support.eventually(function()
      support.sleep_ms(5)
      return shown() == wanted
    end)
  end

  it("lists the instances with address, port, tags, metadata, status and weight #smoke", function()
    register(1, { Tags = { "a", "b" }, Meta = { version = "2" }, Weights = { Passing = 3, Warning = 2 } })
    local instance = assert(open():all())[1]
    assert.is_string(instance.node)
    instance.node = nil
    assert.same({
      id = name .. "1",
      name = name,
      address = "10.0.0.1",
      port = 8001,
      tags = { "a", "b" },
      meta = { version = "2" },
      status = "passing",
      weight = 3,
    }, instance)
  end)

  it("has the node's address for an instance without an address, and port 0", function()
    register(1, { Address = "", Port = 0 })
    local instance = assert(open():pick())
    local _, nodes = assert(client:catalog_nodes())
    assert.same({ nodes[1].Address, 0 }, { instance.address, instance.port })
  end)

  it("follows registrations, check statuses, weights and deregistrations #smoke", function()
    open()
    assert.same({}, view:all())
    register(1)
    soon("10.0.0.1*1")
    register(2, { Weights = { Passing = 5, Warning = 2 } })
    soon("10.0.0.1*1 10.0.0.2*5")
    assert(client:agent_check_fail(name .. "1"))
    soon("10.0.0.2*5")
    assert(client:agent_check_warn(name .. "2"))
    soon("10.0.0.2*2")
    assert.equal("warning", view:pick().status)
    assert(client:agent_check_pass(name .. "1"))
    assert(client:agent_check_pass(name .. "2"))
    soon("10.0.0.1*1 10.0.0.2*5")
    register(1, { Weights = { Passing = 7, Warning = 1 } })
    soon("10.0.0.1*7 10.0.0.2*5")
    assert(client:agent_service_deregister(name .. "2"))
    soon("10.0.0.1*7")
    assert(client:agent_service_deregister(name .. "1"))
    soon("")
  end)

  it("takes the options of health_service", function()
    register(1, { Tags = { "v1" } })
    register(2, { Tags = { "v2" } })
    register(3, { Tags = { "v2" } })
    assert(client:agent_check_warn(name .. "3"))
    open({ tag = "v2", passing = true, near = "_agent", stale = true })
    soon("10.0.0.2*1")
  end)

  it("picks instances in turn, by weight #smoke", function()
    register(1, { Weights = { Passing = 1, Warning = 1 } })
    register(2, { Weights = { Passing = 3, Warning = 1 } })
    open()
    local counts = {}
    for _ = 1, 4000 do
      local address = view:pick().address
      counts[address] = (counts[address] or 0) + 1
    end
    assert.same({ ["10.0.0.1"] = 1000, ["10.0.0.2"] = 3000 }, counts)
  end)

  it("picks the same instance for a key until that instance leaves #smoke", function()
    for i = 1, 5 do
      register(i)
    end
    open()
    local function owners()
      local found = {}
      for key = 1, 1000 do
        found[key] = view:pick("key " .. key).address
      end
      return found
    end
    local before = owners()
    assert.same(before, owners())
    assert(client:agent_check_fail(name .. "3"))
    soon("10.0.0.1*1 10.0.0.2*1 10.0.0.4*1 10.0.0.5*1")
    local moved = 0
    for key, address in ipairs(owners()) do
      if before[key] == "10.0.0.3" then
        moved = moved + 1
      else
        assert.equal(before[key], address)
      end
    end
    assert.is_true(moved > 100, moved .. " of 1,000 moved")
  end)

  it("returns the same instance tables until a change, in a new list each time", function()
    register(1)
    open()
    local list = view:all()
    assert.equal(list[1], view:pick())
    list[1] = nil
    assert.equal(view:pick(), view:all()[1])
  end)

  it("returns a not_found error when the service has no instances", function()
    open()
    assert.same({}, view:all())
    local instance, message, err = view:pick()
    assert.equal("not_found", support.kind(instance, message, err))
    assert.matches(('service_view "%s": there is no instance'):format(name), message, 1, true)
    assert.equal("not_found", support.kind(view:pick("key")))
  end)

  it("returns the age of its list", function()
    open()
    local age_s = view:age_s()
    assert.is_true(age_s >= 0 and age_s < 5, age_s)
  end)

  it("returns an error, not an empty list, before the first answer", function()
    local away = consul_ffi.new({ endpoint = "127.0.0.1:1", timeout = 500 })
    view = assert(away:service_view(name))
    local begun = support.clock()
    local success, message, err = view:ready(700)
    assert.equal("connect", support.kind(success, message, err))
    assert.matches("no answer yet", message, 1, true)
    assert.is_true(support.clock() - begun >= 0.7)
    for _, call in ipairs({ view.all, view.pick, view.age_s }) do
      assert.equal("connect", support.kind(call(view)))
    end
    away:close()
  end)

  it("can be closed, also repeatedly, and ends when its client is closed", function()
    register(1)
    open()
    local text = ('ServiceView(service_view "%s", %%s)'):format(name)
    assert.equal(text:format("open"), tostring(view))
    assert.is_true(view:close())
    assert.is_true(view:close())
    assert.equal(text:format("closed"), tostring(view))
    for _, call in ipairs({ view.all, view.pick, view.age_s, view.ready }) do
      assert.equal("closed", support.kind(call(view)))
    end
    local other = support.client()
    view = assert(other:service_view(name))
    assert(view:ready(support.PATIENCE_MS))
    other:close()
    support.eventually(function()
      return not view:pick()
    end)
    assert.equal("closed", support.kind(view:pick()))
    assert.equal("closed", support.kind(other:service_view(name)))
  end)

  it("raises for misuse, naming what is allowed", function()
    open()
    local raises = support.raises
    raises("service_view: health_service: argument #1 (service) is missing", client.service_view, client, nil)
    local message = "service_view: health_service: the watch sets wait itself"
    raises(message, client.service_view, client, name, { wait = "1s" })
    raises('service_view: unknown option "empty_hold"; did you mean "empty_hold_s"?',
      client.service_view, client, name, { empty_hold = 1 })
    raises("service_view: empty_hold_s must be a duration", client.service_view, client, name, { empty_hold_s = {} })
    raises("service_view: call it with a colon", client.service_view, nil, name)
    raises("pick: key must be a string, got a number 5", view.pick, view, 5)
    raises("pick: call it with a colon", view.pick, nil)
    raises("ready: timeout_ms must be a number of milliseconds", view.ready, view, "soon")
    raises("all: call it with a colon", view.all, client)
    assert.equal("argument", support.kind(client:service_view(name, { empty_hold_s = -1 })))
  end)
end)

-- Outages, on a manual clock.
describe("a service view on a manual clock", function()
  local sim, client, view

  before_each(function()
    local connect
    sim, connect = support.manual_agent()
    client = connect()
    assert(client:agent_service_register({ Name = "web", Address = "10.0.0.1" }))
  end)

  local function open(options)
    view = assert(client:service_view("web", options))
    assert(view:ready())
  end

  it("makes no requests for 10,000 picks", function()
    open()
    local before = sim:stats().requests
    for i = 1, 5000 do
      assert(view:pick())
      assert(view:pick("key " .. i))
    end
    assert.equal(before, sim:stats().requests)
  end)

  it("keeps the last list and returns its age while Consul is unreachable", function()
    open()
    sim:advance(0.1)
    sim:fault({ partition = true })
    sim:restart()
    sim:advance(120)
    assert.equal("10.0.0.1", assert(view:pick()).address)
    assert.is_true(view:age_s() >= 120 and view:age_s() < 121)
  end)

  it("keeps the last list for empty_hold_s when it becomes empty after a restart of Consul", function()
    open({ empty_hold_s = 15 })
    sim:advance(0.1)
    sim:restart({ wipe = true })
    sim:advance(14)
    assert.equal(1, #view:all())
    sim:advance(2)
    assert.equal(0, #view:all())
  end)
end)
