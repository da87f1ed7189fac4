-- Services and checks, in the agent and in the catalog.
local support = require("spec.support")

describe("services", function()
  local client, service

  before_each(function()
    client = support.client()
    service = support.name("web")
  end)

  after_each(function()
    client:agent_service_deregister(service)
    client:close()
  end)

  it("can be registered, read and deregistered", function()
    assert.is_true((client:agent_service_register({
      name = service,
      address = "10.0.0.1",
      port = 8080,
      tags = { "a", "b" },
      meta = { version = "2" },
    })))
    local _, own = client:agent_service(service)
    assert.equal(service, own.Service)
    assert.same({ "a", "b" }, own.Tags)
    assert.same({ version = "2" }, own.Meta)
    assert.equal(8080, own.Port)
    assert.equal(service, select(2, client:agent_services())[service].ID)
    assert.is_true((client:agent_service_deregister(service)))
    assert.is_nil(select(2, client:agent_service(service)))
  end)

  it("can be registered with the tags and metadata that were read", function()
    client:agent_service_register({ name = service, port = 1 })
    local _, own = client:agent_service(service)
    assert.same({}, own.Tags)
    assert.is_true((client:agent_service_register({
      Name = own.Service,
      Tags = own.Tags,
      Meta = own.Meta,
      Port = 2,
    })))
    assert.equal(2, select(2, client:agent_service(service)).Port)
  end)

  it("are in the catalog with their node", function()
    client:agent_service_register({ name = service, port = 8080, tags = { "blue" } })
    local _, instances = client:catalog_service(service, { tag = "blue" })
    assert.equal(1, #instances)
    assert.equal(8080, instances[1].ServicePort)
    local _, node = client:catalog_node(instances[1].Node)
    assert.equal(service, node.Services[service].Service)
    assert.same({}, select(2, client:catalog_service(service, { tag = "green" })))
    assert.same({ "blue" }, select(2, client:catalog_services())[service])
  end)

  it("have the status of their TTL check", function()
    local check = "service:" .. service
    client:agent_service_register({ name = service, check = { ttl = "1m" } })
    for _, case in ipairs({
      { client.agent_check_pass, "passing", 1 },
      { client.agent_check_warn, "warning", 0 },
      { client.agent_check_fail, "critical", 0 },
    }) do
      assert.is_true((case[1](client, check, { note = "because" })))
      support.eventually(function()
        return support.statuses(client, service) == case[2]
      end)
      local _, passing = client:health_service(service, { passing = true })
      assert.equal(case[3], #passing)
      assert.equal("because", select(2, client:agent_checks())[check].Output)
    end
  end)

  it("become critical when the TTL expires, which wakes a blocking query", function()
    local check = "service:" .. service
    client:agent_service_register({ name = service, check = { ttl = "1s", status = "passing" } })
    local index
    support.eventually(function()
      local _, found, meta = client:health_service(service, { passing = true })
      index = meta.index
      return #found == 1
    end)
    local _, passing, meta = client:health_service(service, { passing = true, index = index, wait = "10s" })
    assert.equal(0, #passing)
    assert.is_true(meta.request_ms < 9000, meta.request_ms .. " ms")
    client:agent_check_pass(check)
    support.eventually(function()
      return #select(2, client:health_service(service, { passing = true })) == 1
    end)
  end)

  it("that do not exist read as nil or as empty lists", function()
    assert.is_nil(select(2, client:agent_service(service)))
    assert.same({}, select(2, client:catalog_service(service)))
    assert.same({}, select(2, client:health_service(service)))
    assert.is_nil(select(2, client:catalog_node(service)))
    assert.is_true((client:agent_service_deregister(service)))
  end)

  it("can get additional checks", function()
    client:agent_service_register({ name = service })
    local id = support.name("check")
    assert.is_true((client:agent_check_register({ id = id, name = "extra", ttl = 60, service_id = service })))
    assert.equal(service, select(2, client:agent_checks())[id].ServiceID)
    assert.is_true((client:agent_check_update(id, { status = "passing", output = "fine" })))
    assert.is_true((client:agent_check_deregister(id)))
    assert.equal("not_found", support.kind(client:agent_check_pass(id)))
  end)

  it("on other nodes can be registered in the catalog", function()
    local node = support.name("node")
    assert.is_true((client:catalog_register({
      node = node,
      address = "10.9.9.9",
      service = { service = service, port = 5 },
      check = { name = "alive", status = "passing", service_id = service },
    })))
    local _, instances = client:health_service(service)
    assert.equal(node, instances[1].Node.Node)
    assert.equal("passing", instances[1].Checks[1].Status)
    assert.is_true((client:catalog_deregister({ node = node })))
    assert.same({}, select(2, client:catalog_service(service)))
  end)
end)

describe("status and the agent", function()
  it("report the leader, the peers and the datacenter", function()
    local client = support.client()
    local _, leader = client:status_leader()
    assert.matches(":%d+$", leader)
    assert.same({ leader }, select(2, client:status_peers()))
    assert.equal("dc1", select(2, client:agent_self()).Config.Datacenter)
    assert.same({ "dc1" }, select(2, client:catalog_datacenters()))
  end)
end)
