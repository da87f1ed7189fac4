-- The answers of the agent of `simulate = true` in all its areas: it is consul-sim's agent, which the contract compares
-- with real Consuls.
local support = require("spec.support")

describe("the agent of the module", function()
  local sim, client

  before_each(function()
    local connect
    sim, connect = support.manual_agent()
    client = connect()
  end)

  after_each(function()
    client:close()
  end)

  -- The value of a call that succeeds.
  local function value(success, found)
    assert(success, found)
    return found
  end

  -- Asserts that a call is refused with this text.
  local function refused(wanted, success, message, err)
    assert.is_false(success)
    assert.matches(wanted, message, 1, true)
    return err
  end

  local function is_kind(wanted, ...)
    assert.equal(wanted, support.kind(...))
  end

  -- Adds a behaviour for each name: a function, or a table of the entry that is written and the text that refuses it.
  local function behaviours(area, all)
    describe(area, function()
      for name, behaviour in pairs(all) do
        it(name, function()
          if type(behaviour) == "function" then
            behaviour()
          else
            refused(behaviour[2], client:config_write(behaviour[1]))
          end
        end)
      end
    end)
  end

  local function gateway(members)
    local listener = support.merged({ Name = "l", Port = 80, Protocol = "http" }, members)
    return { Kind = "api-gateway", Name = "g", Listeners = { listener } }
  end

  local function speaks_http(name)
    assert(client:config_write({ Kind = "service-defaults", Name = name, Protocol = "http" }))
  end

  behaviours("keys", {
    ["a key is read as it was written"] = function()
      assert(client:kv_put("a", "1"))
      assert.equal("1", value(client:kv_get("a")))
    end,
    ["an absent key is nil"] = function()
      assert.is_nil(value(client:kv_get("none")))
    end,
    ["a key is created once"] = function()
      assert(client:kv_put("a", "1", { cas = 0 }))
      is_kind("conflict", client:kv_put("a", "2", { cas = 0 }))
    end,
    ["a tree is deleted"] = function()
      assert(client:kv_put("t/a", "1"))
      assert(client:kv_put("t/b", "2"))
      assert(client:kv_delete_tree("t/"))
      assert.same({}, value(client:kv_keys("t/")))
    end,
    ["a value over the limit is refused"] = function()
      is_kind("too_large", client:kv_put("a", ("x"):rep(512 * 1024 + 1)))
    end,
    ["a transaction is whole"] = function()
      is_kind("txn_failed", client:txn({
        { KV = { Verb = "set", Key = "a", Value = "1" } },
        { KV = { Verb = "check-not-exists", Key = "a" } },
      }))
      assert.is_nil(value(client:kv_get("a")))
    end,
  })

  behaviours("sessions", {
    ["a lock has one holder"] = function()
      local one, other = value(client:session_create()), value(client:session_create())
      assert(client:kv_put("l", "", { acquire = one }))
      is_kind("conflict", client:kv_put("l", "", { acquire = other }))
    end,
    ["a session ends after its TTL"] = function()
      local id = value(client:session_create({ ttl = "10s" }))
      sim:advance(20)
      assert.is_nil(value(client:session_info(id)))
    end,
    ["a session that is renewed stays"] = function()
      local id = value(client:session_create({ ttl = "10s" }))
      for _ = 1, 3 do
        sim:advance(9)
        assert(client:session_renew(id))
      end
      assert.equal(id, value(client:session_info(id)).ID)
    end,
    ["a session that ended is not renewed"] = function()
      is_kind("session_invalid", client:session_renew("6a1253d2-1785-24fd-91c2-f8e78c745511"))
    end,
    ["the sessions are listed"] = function()
      value(client:session_create({ name = "mine" }))
      assert.equal("mine", value(client:session_list())[1].Name)
    end,
    ["a destroyed session releases its locks"] = function()
      local id = value(client:session_create())
      assert(client:kv_put("l", "", { acquire = id }))
      assert(client:session_destroy(id))
      assert.is_nil(value(client:kv_list("l"))[1].Session)
    end,
  })

  behaviours("services and checks", {
    ["a service is registered"] = function()
      assert(client:agent_service_register({ Name = "web", Port = 80 }))
      assert.equal(80, value(client:agent_services()).web.Port)
    end,
    ["a service without a name is refused"] = function()
      refused("Missing service name", client:agent_service_register({ ID = "a" }))
    end,
    ["weights of 0 are refused"] = function()
      refused(
        "Passing must be greater than 0",
        client:agent_service_register({ Name = "web", Weights = { Passing = 0 } })
      )
    end,
    ["the hash of a service changes with it"] = function()
      assert(client:agent_service_register({ Name = "web", Port = 80 }))
      local before = value(client:agent_service("web")).ContentHash
      assert(client:agent_service_register({ Name = "web", Port = 81 }))
      assert.not_equal(before, value(client:agent_service("web")).ContentHash)
    end,
    ["a sidecar is registered with its service"] = function()
      assert(client:agent_service_register({ Name = "web", Port = 80, Connect = { SidecarService = {} } }))
      assert.equal("connect-proxy", value(client:agent_services())["web-sidecar-proxy"].Kind)
    end,
    ["a check expires"] = function()
      assert(client:agent_check_register({ Name = "c", TTL = "5s", Status = "passing" }))
      sim:advance(5)
      assert.equal("critical", value(client:agent_checks()).c.Status)
    end,
    ["a check is set"] = function()
      assert(client:agent_check_register({ Name = "c", TTL = "5s" }))
      assert(client:agent_check_warn("c"))
      assert.equal("warning", value(client:agent_checks()).c.Status)
    end,
    ["an unknown check is refused"] = function()
      refused("Unknown check ID", client:agent_check_pass("none"))
    end,
    ["scripts are not run for remote calls"] = function()
      refused("Scripts are disabled", client:agent_check_register({ Name = "c", Args = { "true" }, Interval = "5s" }))
    end,
    ["maintenance is a critical check"] = function()
      assert(client:agent_service_register({ Name = "web" }))
      assert(client:agent_service_maintenance("web", true))
      assert.equal("critical", support.statuses(client, "web"))
    end,
    ["a deregistered service is gone"] = function()
      assert(client:agent_service_register({ Name = "web" }))
      assert(client:agent_service_deregister("web"))
      assert.is_nil(value(client:agent_services()).web)
    end,
  })

  behaviours("the agent", {
    ["it describes itself"] = function()
      assert.equal("1.21.0", value(client:agent_self()).Config.Version)
    end,
    ["it is its only member"] = function()
      assert.equal(1, #value(client:agent_members()))
    end,
    ["it has metrics"] = function()
      assert(#value(client:agent_metrics()).Gauges > 0)
    end,
    ["it has a version"] = function()
      assert.is_string(value(client:agent_version()).HumanVersion)
    end,
    ["it reloads"] = function()
      assert(client:agent_reload())
    end,
  })

  behaviours("the catalog", {
    ["another node is registered"] = function()
      assert(client:catalog_register({ Node = "n", Address = "10.0.0.1", Service = { Service = "db", Port = 1 } }))
      assert.equal("10.0.0.1", value(client:catalog_service("db"))[1].Address)
    end,
    ["a registration without an address is refused"] = function()
      is_kind("http", client:catalog_register({ Node = "n" }))
    end,
    ["another datacenter is refused"] = function()
      refused("No path to datacenter", client:catalog_services({ dc = "none" }))
    end,
    ["a filter selects"] = function()
      for _, name in ipairs({ "a", "b" }) do
        assert(client:catalog_register({ Node = name, Address = "10.0.0.1", NodeMeta = { rack = name } }))
      end
      local found = value(client:catalog_nodes({ filter = "Meta.rack == a" }))
      assert.equal("a", found[1].Node)
      assert.is_nil(found[2])
    end,
    ["a filter matches a pattern"] = function()
      assert(client:catalog_register({ Node = "web7", Address = "10.0.0.1" }))
      assert.equal("web7", value(client:catalog_nodes({ filter = 'Node matches "^web[0-9]$"' }))[1].Node)
    end,
    ["an invalid pattern is refused"] = function()
      refused("error parsing regexp", client:catalog_nodes({ filter = 'Node matches "["' }))
    end,
    ["an unknown selector is refused"] = function()
      refused('Selector "Nope" is not valid', client:catalog_nodes({ filter = "Nope == a" }))
    end,
    ["a deregistered node is gone"] = function()
      assert(client:catalog_register({ Node = "n", Address = "10.0.0.1" }))
      assert(client:catalog_deregister({ Node = "n" }))
      assert.is_nil(value(client:catalog_node("n")))
    end,
    ["instances that do not pass are left out"] = function()
      assert(client:agent_service_register({ Name = "web", Check = { TTL = "1m" } }))
      assert.same({}, value(client:health_service("web", { passing = true })))
      assert.equal(1, #value(client:health_service("web")))
    end,
    ["proxies stand for a service in the mesh"] = function()
      assert(client:agent_service_register({ Name = "web", Port = 80, Connect = { SidecarService = {} } }))
      assert.equal("web-sidecar-proxy", value(client:catalog_connect("web"))[1].ServiceName)
    end,
  })

  behaviours("events and coordinates", {
    ["an event is listed"] = function()
      value(client:event_fire("deploy", "v1"))
      assert.equal("v1", value(client:event_list())[1].Payload)
    end,
    ["a tag needs a service"] = function()
      refused("Cannot provide tag filter without service filter", client:event_fire("e", "", { tag = "x" }))
    end,
    ["an event over the limit is refused"] = function()
      refused("event exceeds", client:event_fire("e", ("x"):rep(600)))
    end,
    ["the node has a coordinate"] = function()
      assert.equal(1, #value(client:coordinate_nodes()))
    end,
    ["the datacenter has its server"] = function()
      assert.equal("dc1", value(client:coordinate_datacenters())[1].Datacenter)
    end,
  })

  behaviours("prepared queries", {
    ["a query finds its service"] = function()
      assert(client:agent_service_register({ Name = "web", Port = 80 }))
      local id = value(client:query_create({ Name = "q", Service = { Service = "web" } }))
      assert.equal(80, value(client:query_execute("q")).Nodes[1].Service.Port)
      assert.equal("q", value(client:query_read(id)).Name)
    end,
    ["a template makes a query"] = function()
      value(client:query_create({
        Name = "", Template = { Type = "name_prefix_match" }, Service = { Service = "${name.full}" },
      }))
      assert.equal("api", value(client:query_explain("api")).Query.Service.Service)
    end,
    ["a query without a service is refused"] = function()
      refused("Must provide a Service name", client:query_create({ Name = "q", Service = {} }))
    end,
    ["a template of an unknown type is refused"] = function()
      refused("Bad Template.Type", client:query_create({
        Name = "q", Template = { Type = "bad" }, Service = { Service = "x" },
      }))
    end,
    ["a name is taken once"] = function()
      value(client:query_create({ Name = "q", Service = { Service = "a" } }))
      is_kind("http", client:query_create({ Name = "q", Service = { Service = "b" } }))
    end,
  })

  behaviours("gateways, their routes, certificates and providers of tokens", {
    ["an unknown kind"] = { { Kind = "nope", Name = "a" }, "invalid config entry kind: nope" },
    ["an entry without a name"] = { { Kind = "http-route" }, "Name is required" },
    ["a port above 65535"] = { gateway({ Port = 99999 }), "listener port 99999 not in the range 1-65535" },
    ["no port"] = { gateway({ Port = 0 }), "listener port 0 not in the range 1-65535" },
    ["an unknown protocol"] = { gateway({ Protocol = "nonsense" }), 'unsupported listener protocol "nonsense"' },
    ["members have their types, and others are refused"] = function()
      for kind, case in pairs({
        ["api-gateway"] = { gateway({ Port = "80" }), function(entry)
          return entry.Listeners[1].Port == 80
        end },
        ["http-route"] = { { Hostnames = { "a.test" } }, function(entry)
          return entry.Hostnames[1] == "a.test"
        end },
        ["tcp-route"] = { { Services = { { Name = "web" } } }, function(entry)
          return entry.Services[1].Name == "web"
        end },
        ["inline-certificate"] = { { Certificate = "c", PrivateKey = "k" }, function(entry)
          return entry.Certificate == "c"
        end },
        ["jwt-provider"] = { { Issuer = "i" }, function(entry)
          return entry.Issuer == "i"
        end },
      }) do
        local entry = case[1]
        entry.Kind, entry.Name = kind, "g"
        assert(client:config_write(entry))
        assert.is_true(case[2](value(client:config_read(kind, "g"))), kind)
        refused('invalid config key "Other"', client:config_write({ Kind = kind, Name = "g", Other = 1 }))
      end
    end,
  })

  behaviours("configuration entries", {
    ["a splitter of 90 %"] = {
      { Kind = "service-splitter", Name = "web", Splits = { { Weight = 90 } } },
      "the sum of all split weights must be 100",
    },
    ["a splitter of TCP"] = {
      { Kind = "service-splitter", Name = "web", Splits = { { Weight = 100 } } }, "does not permit advanced routing",
    },
    ["a name of the defaults of proxies"] = { { Kind = "proxy-defaults", Name = "a" }, '"global"' },
    ["a name of the mesh's settings"] = { { Kind = "mesh", Name = "a" }, 'invalid config key "Name"' },
    ["a name of exported services"] = { { Kind = "exported-services", Name = "a" }, 'Name must be "default"' },
    ["an unknown mode of failovers"] = {
      { Kind = "proxy-defaults", Name = "global", FailoverPolicy = { Mode = "x" } },
      "Failover-policy mode must be one of",
    },
    ["a default subset that is not there"] = {
      { Kind = "service-resolver", Name = "web", DefaultSubset = "v1" }, 'DefaultSubset "v1" is not a valid subset',
    },
    ["a preference for what is near"] = {
      { Kind = "service-resolver", Name = "web", PrioritizeByLocality = { Mode = "failover" } },
      "requires Consul Enterprise",
    },
    ["a group of clusters"] = { { Kind = "sameness-group", Name = "a" }, "enterprise-only" },
    ["an intention without sources"] = {
      { Kind = "service-intentions", Name = "web" },
      "At least one source is required",
    },
    ["a mode that the mesh does not allow"] = {
      { Kind = "service-defaults", Name = "web", MutualTLSMode = "permissive" }, "cannot set MutualTLSMode=permissive",
    },
    ["an entry is read"] = function()
      speaks_http("web")
      assert.equal("http", value(client:config_read("service-defaults", "web")).Protocol)
    end,
    ["an absent entry is nil"] = function()
      assert.is_nil(value(client:config_read("service-defaults", "none")))
    end,
    ["the entries of a kind are listed"] = function()
      speaks_http("a")
      speaks_http("b")
      assert.equal(2, #value(client:config_list("service-defaults")))
    end,
    ["an entry is deleted"] = function()
      speaks_http("web")
      assert(client:config_delete("service-defaults", "web"))
      assert.same({}, value(client:config_list("service-defaults")))
    end,
    ["defaults that a router needs stay"] = function()
      speaks_http("web")
      assert(client:config_write({ Kind = "service-router", Name = "web" }))
      refused("does not permit advanced routing", client:config_delete("service-defaults", "web"))
    end,
    ["a write with an old index does nothing"] = function()
      speaks_http("web")
      is_kind("conflict", client:config_write({ Kind = "service-defaults", Name = "web" }, { cas = 1 }))
    end,
  })

  behaviours("the mesh", {
    ["it has a root"] = function()
      local found = value(client:connect_ca_roots())
      assert.equal(found.ActiveRootID, found.Roots[1].ID)
      assert.matches("BEGIN CERTIFICATE", found.Roots[1].RootCert, 1, true)
    end,
    ["it signs a certificate for a service"] = function()
      local leaf = value(client:agent_connect_ca_leaf("web"))
      assert.matches("BEGIN CERTIFICATE", leaf.CertPEM, 1, true)
      assert.matches("/svc/web$", leaf.ServiceURI)
    end,
    ["a service keeps its certificate"] = function()
      local one, other = value(client:agent_connect_ca_leaf("web")), value(client:agent_connect_ca_leaf("web"))
      assert.equal(one.SerialNumber, other.SerialNumber)
    end,
    ["the configuration of its authority is read"] = function()
      assert.equal("consul", value(client:connect_ca_configuration()).Provider)
    end,
    ["the lifetime of certificates is set"] = function()
      assert(client:connect_ca_configuration_update({ Provider = "consul", Config = { LeafCertTTL = "2h" } }))
      assert.equal("2h", value(client:connect_ca_configuration()).Config.LeafCertTTL)
    end,
    ["a lifetime under an hour is refused"] = function()
      is_kind("http", client:connect_ca_configuration_update({ Provider = "consul", Config = { LeafCertTTL = "1m" } }))
    end,
    ["an unknown provider is refused"] = function()
      is_kind("http", client:connect_ca_configuration_update({ Provider = "vault", Config = {} }))
    end,
    ["services may connect"] = function()
      local uri = value(client:agent_connect_ca_leaf("web")).ServiceURI
      assert.is_true(value(client:agent_connect_authorize({ Target = "db", ClientCertURI = uri })).Authorized)
    end,
    ["an intention denies"] = function()
      assert(client:connect_intention_upsert("web", "db", { Action = "deny" }))
      assert.is_false(value(client:connect_intention_check("web", "db")).Allowed)
      assert.equal("deny", value(client:connect_intention_exact("web", "db")).Action)
    end,
    ["intentions are matched"] = function()
      assert(client:connect_intention_upsert("*", "db", { Action = "deny" }))
      assert.equal("*", value(client:connect_intention_match("destination", "db")).db[1].SourceName)
    end,
    ["an unknown action is refused"] = function()
      is_kind("http", client:connect_intention_upsert("web", "db", { Action = "maybe" }))
    end,
    ["an intention is deleted"] = function()
      assert(client:connect_intention_upsert("web", "db", { Action = "deny" }))
      assert(client:connect_intention_delete("web", "db"))
      assert.is_true(value(client:connect_intention_check("web", "db")).Allowed)
    end,
  })

  behaviours("the servers", {
    ["there is a leader"] = function()
      assert.equal("127.0.0.1:8300", value(client:status_leader()))
    end,
    ["there is one server"] = function()
      assert.same({ "127.0.0.1:8300" }, value(client:status_peers()))
      assert.is_true(value(client:operator_raft_configuration()).Servers[1].Leader)
    end,
    ["they are healthy"] = function()
      assert.is_true(value(client:operator_autopilot_health()).Healthy)
    end,
    ["a snapshot brings back what it has"] = function()
      assert(client:kv_put("a", "1"))
      local snapshot = value(client:snapshot_save())
      assert(client:kv_put("a", "2"))
      assert(client:snapshot_restore(snapshot))
      assert.equal("1", value(client:kv_get("a")))
    end,
    ["a snapshot of another agent is taken over"] = function()
      speaks_http("web")
      local snapshot = value(client:snapshot_save())
      local _, connect = support.manual_agent()
      local other = connect()
      assert(other:snapshot_restore(snapshot))
      assert.equal("http", value(other:config_read("service-defaults", "web")).Protocol)
      other:close()
    end,
    ["what is not a snapshot is refused"] = function()
      refused("failed to decompress snapshot", client:snapshot_restore("no snapshot"))
    end,
    ["usage is counted"] = function()
      assert.is_table(value(client:operator_usage()).Usage)
    end,
  })

  behaviours("access control, which is off", {
    ["policies are refused"] = function()
      refused("ACL support disabled", client:acl_policy_list())
    end,
    ["roles are refused"] = function()
      refused("ACL support disabled", client:acl_role_list())
    end,
    ["auth methods are refused"] = function()
      refused("ACL support disabled", client:acl_auth_method_list())
    end,
    ["binding rules are refused"] = function()
      refused("ACL support disabled", client:acl_binding_rule_list())
    end,
    ["logins are refused"] = function()
      refused("ACL support disabled", client:acl_login({ AuthMethod = "m", BearerToken = "t" }))
    end,
  })

  behaviours("what it does not have", {
    ["other clusters"] = function()
      is_kind("unsupported", client:peering_list())
      is_kind("unsupported", client:peering_token({ PeerName = "other" }))
    end,
    ["what proxies and gateways of a mesh ask for"] = function()
      is_kind("unsupported", client:discovery_chain("web"))
      is_kind("unsupported", client:catalog_gateway_services("gateway"))
      is_kind("unsupported", client:health_ingress("web"))
    end,
    ["other servers"] = function()
      is_kind("unsupported", client:operator_autopilot_configuration())
      is_kind("unsupported", client:operator_raft_transfer_leader())
    end,
    ["keys of gossip"] = function()
      is_kind("unsupported", client:operator_keyring_list())
    end,
    ["namespaces and partitions"] = function()
      is_kind("unsupported", client:namespace_list())
      is_kind("unsupported", client:partition_list())
    end,
  })
end)
