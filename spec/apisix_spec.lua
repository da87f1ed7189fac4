-- The discovery module for Apache APISIX, with views, a configuration and an nginx of the spec's own.
-- tests/programs/nginx/apisix has it in nginx.
local consul_ffi = require("consul_ffi")

local VIEWS, CONFIG = "consul_ffi.openresty.views", "apisix.core.config_local"

describe("apisix.discovery.consul_ffi", function()
  -- The lists by service, their age, the options of views.new, whether the views were started; the log, the timers.
  local lists, age_s, given, is_started, logged, timers
  local discovery, options, ngx_before, loaded_before

  local function instance(port, more)
    local made = { address = "10.0.0.1", port = port, weight = 1, status = "passing" }
    for name, value in pairs(more or {}) do
      made[name] = value
    end
    return made
  end

  local function view_of(_, service)
    return {
      all = function()
        if not lists then
          return false, "no answer from Consul yet"
        end
        return lists[service] or {}
      end,
      age_s = function()
        return lists and age_s or false
      end,
    }
  end

  local function names()
    if not lists then
      return nil, "no answer from Consul yet"
    end
    local all = {}
    for name in pairs(lists) do
      all[#all + 1] = name
    end
    return all
  end

  local function node(port, weight, host)
    return { host = host or "10.0.0.1", port = port, weight = weight, priority = 0 }
  end

  -- Loads the module in a worker of its own, with these options.
  local function start(with)
    options = with
    discovery = dofile("lua/apisix/discovery/consul_ffi/init.lua")
    discovery.init_worker()
  end

  before_each(function()
    lists, age_s, given, is_started, logged, timers = { web = { instance(8001) } }, 1, nil, false, {}, {}
    ngx_before = rawget(_G, "ngx")
    loaded_before = { [VIEWS] = package.loaded[VIEWS], [CONFIG] = package.loaded[CONFIG] }
    rawset(_G, "ngx", {
      config = { subsystem = "http", prefix = function() return "/usr/local/apisix/" end },
      shared = { consul_ffi = {}, other = {} },
      worker = { id = function() return 0 end },
      timer = {
        every = function(_, timer)
          timers[#timers + 1] = timer
          return true
        end,
      },
      WARN = "WARN", NOTICE = "NOTICE",
      log = function(level, ...)
        logged[#logged + 1] = level .. ": " .. table.concat({ ... })
      end,
    })
    package.loaded[VIEWS] = {
      new = function(got)
        given = got
        return {
          view = view_of,
          names = names,
          start = function()
            is_started = true
          end,
        }
      end,
    }
    package.loaded[CONFIG] = {
      local_conf = function()
        return { discovery = { consul_ffi = options } }
      end,
    }
  end)

  after_each(function()
    rawset(_G, "ngx", ngx_before)
    package.loaded[VIEWS], package.loaded[CONFIG] = loaded_before[VIEWS], loaded_before[CONFIG]
  end)

  it("has nodes of the passing instances, in Consul's order and with their weights", function()
    start({ servers = { "http://127.0.0.1:8500" } })
    assert.is_true(is_started)
    lists.web = { instance(8001, { weight = 10 }), instance(8002, { status = "warning" }), instance(0) }
    assert.same({ node(8001, 10), node(80, 1) }, discovery.nodes("web"))
  end)

  it("has the same table while the nodes are equal, whatever else changes, and another one for each change", function()
    start({ servers = { "http://127.0.0.1:8500" } })
    local one, two, three = instance(8001), instance(8002), instance(8001, { address = "10.0.0.2" })
    local function changed(more)
      local made = { meta = { build = "77" }, tags = { "v2" }, id = "other", tagged_addresses = {} }
      for name, value in pairs(more or {}) do
        made[name] = value
      end
      return made
    end
    lists.web = { one, two, three }
    local nodes = discovery.nodes("web")
    for _, list in ipairs({
      { one, two, three }, { three, two, one }, { two, one, three }, { one, two, three, one },
      { instance(8001, changed()), two, three }, { one, instance(8002, changed()), instance(8001, changed({
        address = "10.0.0.2" })) },
      { one, two, three, instance(8003, { status = "warning" }) },
    }) do
      lists.web = list
      assert.equal(nodes, discovery.nodes("web"))
      assert.equal(nodes, discovery.all_nodes().web)
      -- As APISIX does with a route's nodes.
      table.sort(nodes, function(node_a, node_b)
        return node_a.port > node_b.port
      end)
    end
    for _, list in ipairs({
      { one, two }, { one, two, three, instance(8003) }, { one, two, instance(8003) }, { one, three },
      { instance(8001, { weight = 5 }), two, three }, { instance(8001, { address = "10.0.0.3" }), two, three },
      { one, instance(8002, { status = "warning" }), three }, { two, three, two },
    }) do
      lists.web = { one, two, three }
      local before = discovery.nodes("web")
      lists.web = list
      local after = discovery.nodes("web")
      assert.not_equal(before, after)
      assert.equal(after, discovery.nodes("web"))
      local ports = {}
      for _, shown in ipairs(after) do
        ports[shown.host .. ":" .. shown.port .. "*" .. shown.weight] = true
      end
      for _, listed in ipairs(list) do
        local is_listed = ports[listed.address .. ":" .. listed.port .. "*" .. listed.weight] == true
        assert.equal(listed.status ~= "warning", is_listed)
      end
    end
    -- One fails and passes again between two requests, and a service goes and comes.
    lists.web = { one, two, three }
    local last = discovery.nodes("web")
    lists.web = { one, two, three }
    assert.equal(last, discovery.nodes("web"))
    lists.web = {}
    assert.is_nil((discovery.nodes("web")))
    lists.web = { one }
    assert.equal(1, #discovery.nodes("web"))
  end)

  it("forgets the nodes of services that are gone, which no one has", function()
    start({ servers = { "http://127.0.0.1:8500" } })
    local seen = setmetatable({}, { __mode = "v" })
    local kept = discovery.nodes("web")
    for i = 1, 100 do
      local name = "web-" .. i
      lists[name] = { instance(8000 + i) }
      seen[i] = discovery.nodes(name)
      lists[name] = nil
    end
    lists.web = { instance(8001) }
    collectgarbage()
    collectgarbage()
    assert.is_nil((next(seen)))
    assert.equal(kept, discovery.nodes("web"))
  end)

  it("has one node for each address", function()
    start({ servers = { "http://127.0.0.1:8500" } })
    lists.web = { instance(8001, { weight = 2 }), instance(8001), instance(8002) }
    assert.same({ node(8001, 2), node(8002, 1) }, discovery.nodes("web"))
  end)

  it("has IPv6 addresses in brackets", function()
    start({ servers = { "http://127.0.0.1:8500" }, default_service = { host = "::1", port = 9000 } })
    lists.web = { instance(8001, { address = "fd00::1" }), instance(8002, { address = "[fd00::2]" }) }
    assert.same({ node(8001, 1, "[fd00::1]"), node(8002, 1, "[fd00::2]") }, discovery.nodes("web"))
    assert.same({ node(9000, 1, "[::1]") }, discovery.nodes("none"))
  end)

  it("has one node for an address in other spellings", function()
    start({ servers = { "http://127.0.0.1:8500" } })
    local hosts = { "::1", "[::1]", "FD00::A", "[fd00::a]", "web.example", "WEB.Example" }
    lists.web = {}
    for i, host in ipairs(hosts) do
      lists.web[i] = instance(8001, { address = host })
    end
    local nodes = { node(8001, 1, "[::1]"), node(8001, 1, "[FD00::A]"), node(8001, 1, "web.example") }
    assert.same(nodes, discovery.nodes("web"))
  end)

  it("puts no brackets around a host name with a colon", function()
    start({ servers = { "http://127.0.0.1:8500" } })
    for host, shown in pairs({ ["web:80"] = "web:80", ["abc:80"] = "abc:80", ["1:2:3:4:5:6:7:8"] = "[1:2:3:4:5:6:7:8]",
      ["::ffff:10.0.0.1"] = "[::ffff:10.0.0.1]", ["1:2:3:4:5:6:10.0.0.1"] = "[1:2:3:4:5:6:10.0.0.1]" }) do
      lists.web = { instance(8001, { address = host }) }
      assert.equal(shown, discovery.nodes("web")[1].host)
    end
  end)

  it("leaves services out that the dump file has", function()
    start({ servers = { "http://127.0.0.1:8500" }, skip_services = { "hidden" } })
    lists = { web = { instance(8001) }, hidden = { instance(8002) }, consul = { instance(8300) } }
    assert.same({ nil, '"hidden" is a service that is left out' }, { discovery.nodes("hidden") })
    assert.same({ web = { node(8001, 1) } }, discovery.all_nodes())
    assert.same({ web = 1 }, discovery.dump_data().ages_s)
  end)

  it("gives all nodes the weight of the option", function()
    start({ servers = { "http://127.0.0.1:8500" }, weight = 7 })
    lists.web = { instance(8001, { weight = 10 }) }
    assert.equal(7, discovery.nodes("web")[1].weight)
  end)

  it("says why there is no node", function()
    start({ servers = { "http://127.0.0.1:8500" } })
    assert.same({ nil, 'Consul has no passing instance of "none"' }, { discovery.nodes("none") })
    lists = nil
    assert.same({ nil, "no answer from Consul yet" }, { discovery.nodes("web") })
  end)

  it("falls back to the default service, which is one table", function()
    start({ servers = { "http://127.0.0.1:8500" }, default_service = { host = "10.0.0.9", port = 9000 } })
    assert.same({ node(9000, 1, "10.0.0.9") }, discovery.nodes("none"))
    assert.equal(discovery.nodes("none"), discovery.nodes("other"))
    lists = nil
    assert.equal("10.0.0.9", discovery.nodes("web")[1].host)
  end)

  it("passes its options on", function()
    start({
      servers = { "https://10.0.0.1:8501", "https://10.0.0.2:8501" }, token = "secret",
      timeout = { connect = 1000, read = 3000 }, skip_services = { "hidden" }, shared_dict = "other",
      dump = { path = "logs/consul.json" }, client = { tls_ca_file = "/etc/ca.pem" },
    })
    assert.same({
      endpoints = { "https://10.0.0.1:8501", "https://10.0.0.2:8501" }, token = "secret",
      connect_timeout_ms = 1000, timeout = 3000, tls_ca_file = "/etc/ca.pem",
    }, given.config)
    assert.equal("other", given.dict)
    assert.equal("/usr/local/apisix/logs/consul.json", given.dump_file)
    assert.same({ true, false, false }, { given.filter("web"), given.filter("hidden"), given.filter("consul") })
  end)

  it("takes an empty token for none, and an absolute path as it is", function()
    start({ servers = { "http://127.0.0.1:8500" }, token = "", dump = { path = "/var/lib/consul.json" } })
    assert.is_nil(given.config.token)
    assert.equal("/var/lib/consul.json", given.dump_file)
  end)

  it("refuses a shared dict that nginx does not have", function()
    local ran, message = pcall(start, { servers = { "http://127.0.0.1:8500" }, shared_dict = "absent" })
    assert.is_false(ran)
    assert.matches('discovery.consul_ffi.shared_dict: nginx has no lua_shared_dict "absent"', message, 1, true)
    assert.matches("custom_lua_shared_dict", message, 1, true)
  end)

  it("starts nothing without its options, and for stream routes", function()
    start(nil)
    assert.same({ nil, "discovery.consul_ffi is not in config.yaml" }, { discovery.nodes("web") })
    assert.same({}, discovery.all_nodes())
    assert.is_true(discovery.check_discovery_ready())
    rawget(_G, "ngx").config.subsystem = "stream"
    start({ servers = { "http://127.0.0.1:8500" } })
    assert.matches("not stream routes", select(2, discovery.nodes("web")))
    assert.is_false(is_started)
  end)

  it("shows its nodes, their ages and its options without secrets", function()
    start({ servers = { "http://127.0.0.1:8500" }, token = "secret", client = { http_auth = "user:password" } })
    lists.empty = {}
    local shown = discovery.dump_data()
    assert.same({ web = { node(8001, 1) } }, shown.services)
    assert.same({ web = 1, empty = 1 }, shown.ages_s)
    local _, text = consul_ffi.json_encode(shown.config)
    assert.is_nil(text:find("secret", 1, true) or text:find("password", 1, true))
  end)

  it("shows the dump file", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write("{}")
    file:close()
    start({ servers = { "http://127.0.0.1:8500" }, dump = { path = path } })
    local route = discovery.control_api()[1]
    assert.same({ { "GET" }, { "/show_dump_file" } }, { route.methods, route.uris })
    assert.same({ 200, "{}" }, { route.handler() })
    os.remove(path)
    assert.equal(503, (route.handler()))
    start({ servers = { "http://127.0.0.1:8500" } })
    assert.same({ 503, "discovery.consul_ffi.dump.path is not set" }, { discovery.control_api()[1].handler() })
  end)

  it("makes its routes again for each router, which changes them", function()
    start({ servers = { "http://127.0.0.1:8500" } })
    assert.not_equal(discovery.control_api()[1], discovery.control_api()[1])
  end)

  it("is ready with the first lists", function()
    start({ servers = { "http://127.0.0.1:8500" } })
    assert.is_true(discovery.check_discovery_ready())
    lists = nil
    assert.same({ false, "consul_ffi: no answer from Consul yet" }, { discovery.check_discovery_ready() })
  end)

  it("warns once of old lists, and says when they are confirmed again", function()
    start({ servers = { "http://127.0.0.1:8500" } })
    local look = timers[1]
    look(false)
    assert.same({}, logged)
    age_s = 31
    look(false)
    look(false)
    look(true)
    assert.equal(1, #logged)
    assert.matches("WARN: consul_ffi: Consul %(http://127.0.0.1:8500%) has not confirmed the nodes for 31 s, "
      .. 'at least of "web"', logged[1])
    age_s = 1
    look(false)
    look(false)
    assert.same({ "NOTICE: consul_ffi: Consul confirms the nodes again" }, { logged[2] })
    assert.equal(2, #logged)
  end)

  it("has in its schema what docs/apisix.md has", function()
    local schema = dofile("lua/apisix/discovery/consul_ffi/schema.lua")
    local file = assert(io.open("docs/apisix.md"))
    local page, of_page, of_schema = file:read("*a"), {}, {}
    file:close()
    for name in page:match("\n## Options\n(.-)\n## "):gmatch("\n| `([%w_]+)") do
      of_page[name] = true
    end
    for name in pairs(schema.properties) do
      of_schema[name] = true
    end
    assert.same(of_schema, of_page)
  end)
end)
