-- The sources of the manager's options, and changes of them while it runs.
local consul_ffi = require("consul_ffi")
local managers = require("spec.consul_production.support")
local sources = require("consul_production.sources")
local support = require("spec.support")

-- A function like os.getenv.
local function environment(variables)
  return function(name)
    return variables[name]
  end
end

describe("the manager's options", function()
  local file

  before_each(function()
    file = os.tmpname()
  end)

  after_each(function()
    managers.close()
    os.remove(file)
  end)

  describe("from the environment", function()
    it("come from the documented variables", function()
      assert.same({
        ["consul.servers"] = { "http://a:1", "b:2" },
        ["consul.acl_token"] = "for the manager",
        ["cluster.node_id"] = "n1",
        ["cluster.datacenter"] = "dc2",
        ["security.encryption_key"] = "key",
      }, sources.environment(environment({
        CONSUL_HTTP_ADDR = "http://a:1, b:2",
        CONSUL_ACL_TOKEN = "for the manager",
        CONSUL_HTTP_TOKEN = "for all",
        NODE_ID = "n1",
        DATACENTER = "dc2",
        CONSUL_ENCRYPTION_KEY = "key",
      })))
    end)

    it("ignore empty variables", function()
      assert.same({ ["consul.acl_token"] = "for all" }, sources.environment(environment({
        CONSUL_ACL_TOKEN = "", CONSUL_HTTP_TOKEN = "for all", NODE_ID = "",
      })))
    end)
  end)

  describe("from a TOML file", function()
    it("are in force", function()
      managers.write(file, '[cluster]\nmin_nodes = 3\n[monitoring.alert_threshold]\nresponse_time_ms = 77\n')
      local manager = managers.started({ sources = { file = file } })
      assert.equal(3, manager.config.cluster.min_nodes)
      assert.equal(77, manager.config.monitoring.alert_threshold.response_time_ms)
      assert.is_string(manager:monitor_health().reasons.too_few_nodes)
    end)

    it("are refused when invalid, with file, line, name and reason", function()
      for text, message in pairs({
        ["[cluster]\n\nmin_nodes = 0\n"] = ":3: cluster.min_nodes must be an integer, 1 or more, got 0",
        ["[cluster]\nmin_node = 1\n"] = ":2: cluster.min_node is unknown; cluster has: node_id",
        ["[consul]\ntimeout = \n"] = ": line 2, column 11: ",
        ["cluster = 1\n"] = ":1: cluster must be a table, got 1",
        ["[clusters]\n"] = ":1: clusters is unknown; the sections are: consul, cluster",
        ['[sources]\nfile = "x"\n'] = ":2: sources.file can only be set in Lua",
        ['[consul]\nacl_token = 12345\n'] = ":2: consul.acl_token must be a non-empty string, got a number",
      }) do
        managers.write(file, text)
        local success, raised = pcall(managers.started, { sources = { file = file } })
        assert.is_false(success)
        assert.matches("init: " .. file .. message, raised, 1, true)
      end
    end)

    it("are refused when the file does not exist", function()
      local success, raised = pcall(managers.started, { sources = { file = "/nonexistent/config.toml" } })
      assert.is_false(success)
      assert.matches("init: sources.file: /nonexistent/config.toml: No such file", raised, 1, true)
    end)

    it("are refused when the file is a pipe", function()
      os.remove(file)
      assert(os.execute("mkfifo " .. file))
      local success, raised = pcall(managers.started, { sources = { file = file } })
      assert.is_false(success)
      assert.matches("init: sources.file: " .. file .. ": it is not a regular file but a pipe", raised, 1, true)
    end)

    it("are in force soon after a change, and stay when the change is invalid", function()
      managers.write(file, "[cluster]\nmin_nodes = 1\n")
      local manager = managers.started({ sources = { file = file } })
      managers.write(file, "[cluster]\nmin_nodes = 2\n")
      support.eventually(function()
        support.sleep_ms(20)
        manager:get_cluster_info()
        return manager.config.cluster.min_nodes == 2
      end)

      managers.write(file, "[cluster]\nmin_nodes = 3\nmax = 1\n")
      local success, message = manager:reload_config()
      assert.is_false(success)
      assert.equal(1, (message:find(file .. ":3: cluster.max is unknown", 1, true)))
      assert.equal(2, manager.config.cluster.min_nodes)
      assert.equal(message, manager:monitor_health().reasons.configuration)

      managers.write(file, "[cluster]\nmin_nodes = 1\n")
      assert.is_true(manager:reload_config())
      assert.equal(1, manager.config.cluster.min_nodes)
      assert.is_nil(manager:monitor_health().reasons.configuration)
    end)

    it("stay when the file is removed", function()
      managers.write(file, "[cluster]\nmin_nodes = 2\n")
      local manager = managers.started({ sources = { file = file } })
      os.remove(file)
      local success, message = manager:reload_config()
      assert.is_false(success)
      assert.matches("No such file", message, 1, true)
      assert.equal(2, manager.config.cluster.min_nodes)
    end)
  end)

  describe("from keys in Consul", function()
    local client, prefix

    before_each(function()
      client, prefix = support.client(), support.name("config") .. "/"
    end)

    after_each(function()
      client:kv_delete_tree(prefix)
      client:close()
    end)

    it("are in force, converted from text", function()
      assert(client:kv_put(prefix .. "cluster/min_nodes", "2"))
      assert(client:kv_put(prefix .. "monitoring/metrics_enabled", "false"))
      assert(client:kv_put(prefix .. "monitoring/alert_threshold/error_rate_percent", "7.5"))
      assert(client:kv_put(prefix .. "storage/", ""))
      local manager = managers.started({ sources = { kv_prefix = prefix } })
      assert.equal(2, manager.config.cluster.min_nodes)
      assert.is_false(manager.config.monitoring.metrics_enabled)
      assert.equal(7.5, manager.config.monitoring.alert_threshold.error_rate_percent)
    end)

    it("are refused when invalid, with the key and the reason", function()
      for key, case in pairs({
        ["cluster/min_nodes"] = { "two", "cluster/min_nodes must be an integer, 1 or more, got the string \"two\"" },
        ["cluster/nodes"] = { "2", "cluster/nodes is not the name of an option" },
        ["sources/file"] = { "x", "sources/file is not the name of an option" },
      }) do
        assert(client:kv_put(prefix .. key, case[1]))
        local success, raised = pcall(managers.started, { sources = { kv_prefix = prefix } })
        assert.is_false(success)
        assert.matches("init: the key " .. prefix .. case[2], raised, 1, true)
        assert(client:kv_delete(prefix .. key))
      end
    end)

    it("are in force soon after a change, and stay when the change is invalid", function()
      local manager = managers.started({ sources = { kv_prefix = prefix } })
      local function soon(condition)
        support.eventually(function()
          support.sleep_ms(10)
          manager:get_cluster_info()
          return condition()
        end)
      end
      assert(client:kv_put(prefix .. "cluster/min_nodes", "3"))
      soon(function()
        return manager.config.cluster.min_nodes == 3
      end)
      assert(client:kv_put(prefix .. "cluster/min_nodes", "none"))
      soon(function()
        return manager:monitor_health().reasons.configuration ~= nil
      end)
      assert.equal(3, manager.config.cluster.min_nodes)
      assert(client:kv_delete(prefix .. "cluster/min_nodes"))
      soon(function()
        return manager.config.cluster.min_nodes == 1
      end)
      assert.is_nil(manager:monitor_health().reasons.configuration)
    end)
  end)

  it("have the precedence Lua, environment, keys in Consul, file, default", function()
    local path = "cluster.min_nodes"
    local function merged(...)
      return sources.merge(...)[path]
    end
    local function min_nodes(value)
      return { [path] = value }
    end
    assert.equal(2, merged(min_nodes(2), min_nodes(3), min_nodes(4), min_nodes(5)))
    assert.equal(3, merged({}, min_nodes(3), min_nodes(4), min_nodes(5)))
    assert.equal(4, merged({}, {}, min_nodes(4), min_nodes(5)))
    assert.equal(5, merged({}, {}, {}, min_nodes(5)))
    assert.equal(1, merged({}, {}, {}, {}))
  end)

  it("assigned in Lua win over all other sources, also when assigned their default", function()
    managers.write(file, "[consul]\ntimeout = 3\nretry_attempts = 9\n[cluster]\nread_timeout = 3\n")
    local manager = managers.manager({ consul = { timeout = 10 }, sources = { file = file } })
    manager:init()
    -- Only Lua 5.3 and 5.4 can notice the assignment of a value that pairs shows.
    assert.equal(_VERSION >= "Lua 5.3" and 10 or 3, manager.config.consul.timeout)
    assert.equal(3, manager.config.cluster.read_timeout)
    manager:cleanup()
    manager.config.consul = { timeout = 10, simulate = support.simulated }
    manager:init()
    assert.same({ 10, 9 }, { manager.config.consul.timeout, manager.config.consul.retry_attempts })
    assert.is_true(manager:reload_config({ cluster = { read_timeout = 3 } }))
    managers.write(file, "[cluster]\nread_timeout = 4\n")
    assert.is_true(manager:reload_config())
    assert.equal(3, manager.config.cluster.read_timeout)
  end)

  describe("reload_config", function()
    it("puts new options in force immediately, also those of the client", function()
      local manager = managers.started()
      assert.is_true(manager:reload_config({ consul = { timeout = 3 }, cluster = { min_nodes = 2 } }))
      assert.equal(3000, manager:get_healthy_client().timeout)
      assert.equal(2, manager.config.cluster.min_nodes)
      assert.equal(1, manager:get_cluster_info().node_count)
      assert(manager:store_data("key", 1))
    end)

    it("changes nothing when an option is invalid", function()
      local manager = managers.started()
      for message, new in pairs({
        ["reload_config: cluster.min_nodes must be"] = { consul = { timeout = 3 }, cluster = { min_nodes = 0 } },
        ["reload_config: nonsense is unknown"] = { nonsense = 1 },
        ["cluster.read_quorum is 3"] = { cluster = { read_quorum = 3 } },
        ["no server answered"] = {
          consul = { servers = "http://127.0.0.1:1", timeout = 0.3, simulate = false },
        },
        ["monitoring.log_file: /nonexistent/log"] = { monitoring = { log_file = "/nonexistent/log" } },
      }) do
        local success, why = manager:reload_config(new)
        assert.is_false(success)
        assert.matches(message, why, 1, true)
        assert.equal(10, manager.config.consul.timeout)
        assert(manager:store_data("key", 1))
        assert.equal(1, manager:get_cluster_info().node_count)
      end
    end)

    it("keeps the node when another live node has the new name", function()
      local first, prefix = managers.started()
      local second = managers.started(nil, prefix)
      local id = second.config.cluster.node_id
      local success, why = second:reload_config({ cluster = { node_id = first.config.cluster.node_id } })
      assert.is_false(success)
      assert.is_string(why)
      assert.equal(id, second:get_cluster_info().current_node)
      support.eventually(function()
        return second:get_cluster_info().node_count == 2
      end)
    end)

    it("moves to another server, which gets what is stored from then on", function()
      local other = support.name("other")
      local manager = managers.started({ consul = { simulate = support.name("one") } })
      assert.is_true(manager:reload_config({ consul = { simulate = other } }))
      assert(manager:store_data("moved", "value"))
      local client = consul_ffi.new({ simulate = other })
      assert.equal("value", (select(2, client:kv_get(manager.config.storage.kv_prefix .. "moved"))))
      client:close()
    end)
  end)
end)
