-- Views of many services over two waiting queries.
local support = require("spec.support")

describe("views of many services", function()
  local client, key, registered, views

  support.each_test(function(...)
    client, key = ...
    registered, views = {}, nil
  end)

  after_each(function()
    if views then
      views:close()
    end
    local other = support.client()
    for node in pairs(registered) do
      assert(other:catalog_deregister({ Node = node }))
    end
    other:close()
  end)

  -- Registers an instance on a node of its own, in the catalog, with a check unless `status` is nil.
  local function register(name, number, status, own)
    local node = ("%s-%s-%d"):format(key, name, number)
    registered[node] = true
    local service = support.merged({ ID = name .. number, Service = name, Port = number }, own)
    local check = status and { Name = "check", CheckID = node, Status = status, ServiceID = service.ID }
    assert(client:catalog_register({ Node = node, Address = "10.0.0." .. number, Service = service, Check = check }))
    return node
  end

  -- The ports of a service's instances, in order.
  local function ports(name)
    local view = views:view(name)
    local list = view and view:all()
    if not list then
      return nil
    end
    local found = {}
    for i, instance in ipairs(list) do
      found[i] = instance.port
    end
    table.sort(found)
    return table.concat(found, ",")
  end

  local function watch(wanted)
    views = assert(client:service_views(wanted))
    assert.is_true(views:ready(support.PATIENCE_MS))
  end

  local function become(name, wanted)
    support.eventually(function()
      views:next(100)
      return ports(name) == wanted
    end)
  end

  it("are those of the names in a list, also of services that there are not yet #smoke", function()
    local web, api = key .. "-web", key .. "-api"
    register(web, 1, "passing")
    register(web, 2, "passing")
    watch({ web, api })
    assert.same({ api, web }, views:names())
    assert.equal("1,2", ports(web))
    assert.equal("", ports(api))
    register(api, 3, "passing")
    become(api, "3")
    assert.equal(3, views:view(api):pick().port)
    assert.is_true(views:view(web):age_s() < 30)
  end)

  it("follow checks, new instances and instances that go", function()
    local web = key .. "-web"
    register(web, 1, "passing")
    watch({ web })
    register(web, 2, "passing")
    become(web, "1,2")
    local node = register(web, 2, "critical")
    become(web, "1")
    register(web, 2, "passing")
    become(web, "1,2")
    assert(client:catalog_deregister({ Node = node }))
    registered[node] = nil
    become(web, "1")
  end)

  it("follow the check of a node", function()
    local web = key .. "-web"
    local node = register(web, 1)
    watch({ web })
    assert.equal("1", ports(web))
    for _, state in ipairs({ { "critical", "" }, { "passing", "1" } }) do
      local check = { Name = "node", CheckID = "node", Status = state[1] }
      assert(client:catalog_register({ Node = node, Address = "10.0.0.1", Check = check }))
      become(web, state[2])
    end
  end)

  it("find an address, a weight and metadata that change without a check", function()
    local web = key .. "-web"
    register(web, 1, "passing")
    watch({ web })
    register(web, 1, nil, { Address = "10.9.9.9", Meta = { version = "2" }, Weights = { Passing = 7, Warning = 1 } })
    support.eventually(function()
      views:next(100)
      local instance = views:view(web):pick()
      return instance.address == "10.9.9.9" and instance.meta.version == "2" and instance.weight == 7
    end)
  end)

  it("find such a change also between changes that are named", function()
    local web, busy = key .. "-web", key .. "-busy"
    register(web, 1, "passing")
    register(busy, 2, "passing")
    watch({ web, busy })
    for i = 1, 20 do
      register(busy, 2, nil, { Tags = { "v" .. i } })
      if i == 10 then
        register(web, 1, nil, { Address = "10.9.9.9" })
      end
    end
    support.eventually(function()
      views:next(100)
      return views:view(web):pick().address == "10.9.9.9"
    end)
  end)

  it("are those that a function chooses by name and tags", function()
    local web, api, batch = key .. "-web", key .. "-api", key .. "-batch"
    register(web, 1, "passing", { Tags = { "public" } })
    register(batch, 2, "passing")
    local asked = {}
    views = assert(client:service_views(function(name, tags)
      asked[name] = (asked[name] or 0) + 1
      return tags[1] == "public"
    end))
    assert.is_true(views:ready(support.PATIENCE_MS))
    assert.same({ web }, views:names())
    assert.is_nil(views:view(batch))
    register(api, 3, "passing", { Tags = { "public" } })
    become(api, "3")
    assert.same({ api, web }, views:names())
    -- A service that is gone has no view any more.
    local node = ("%s-%s-%d"):format(key, api, 3)
    assert(client:catalog_deregister({ Node = node }))
    registered[node] = nil
    support.eventually(function()
      views:next(100)
      return #views:names() == 1
    end)
    assert.equal(1, asked[web])
    -- A refused service is offered again only after it was gone.
    register(batch, 2, "passing", { Tags = { "public" } })
    register(api, 3, "passing", { Tags = { "public" } })
    become(api, "3")
    assert.equal(1, asked[batch])
    assert(client:catalog_deregister({ Node = ("%s-%s-%d"):format(key, batch, 2) }))
    assert(client:catalog_deregister({ Node = node }))
    support.eventually(function()
      views:next(100)
      return #views:names() == 1
    end)
    register(batch, 2, "passing", { Tags = { "public" } })
    become(batch, "2")
    assert.equal(2, asked[batch])
  end)

  it("tell each service that changed", function()
    local web, api = key .. "-web", key .. "-api"
    register(web, 1, "passing")
    register(api, 2, "passing")
    watch({ web, api })
    local first = {}
    for _ = 1, 2 do
      local _, name = assert(views:next(support.PATIENCE_MS))
      first[name] = true
    end
    assert.same({ [web] = true, [api] = true }, first)
    register(api, 3, "passing")
    support.eventually(function()
      local _, name = assert(views:next(support.PATIENCE_MS))
      return name == api
    end)
  end)

  it("raise what the function raises", function()
    register(key .. "-web", 1, "passing")
    views = assert(client:service_views(function()
      error("a defect", 0)
    end))
    support.raises("a defect", views.ready, views, 10000)
  end)

  it("take two connections for any number of services, and end with the client", function()
    local other = support.client({ max_connections = 2 })
    views = assert(other:service_views({ key }))
    local failed, message = other:service_views({ key })
    assert.is_false(failed)
    assert.truthy(message:find("max_connections", 1, true))
    other:close()
    -- A change may have come before the end.
    support.eventually(function()
      local success, why, err = views:next(1000)
      return success == false and support.kind(success, why, err) == "closed"
    end)
  end)

  it("refuse anything but a function or a list of names", function()
    for _, filter in ipairs({ 1, "web", true, { web = true }, { 1 } }) do
      support.raises("filter", client.service_views, client, filter)
    end
    support.raises("filter", client.service_views, client)
  end)
end)
