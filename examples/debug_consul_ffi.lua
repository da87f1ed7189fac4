-- Calls every method of the client once and prints the result. It deletes in the end all that it creates, also
-- after a failure; calls that would change the servers go to a simulated agent.
--
--   make debug-consul-ffi [CONSUL=1.21]
--
-- `must` is for calls that must succeed, `may` for those that can be `unsupported`: by an older Consul, a
-- Consul without ACLs, a Consul that is not Consul Enterprise, or the simulated agent.

-- From any folder, with the modules of this checkout unless others are installed.
local own_folder = arg[0]:match("^.*/") or "./"
package.path = own_folder .. "../?.lua;" .. package.path .. ";" .. own_folder .. "../lua/?.lua"

local consul_ffi = require("consul_ffi")
local support = require("examples.support")

local chapter, prefix, name = support.chapter, support.prefix, support.name
local unknown_id = "5d2c1b1e-0000-4000-8000-000000000000"

local client = consul_ffi.new({ consul_url = support.url, simulate = support.simulate })
local in_memory = consul_ffi.new({ simulate = "debug_consul_ffi" })

-- The methods that have not been called yet.
local missing = {}
for method in pairs(consul_ffi.ConsulClient) do
  missing[method] = true
end

-- Summarizes a result: of a table the names of its fields, because the values may be secret.
local function summary(value)
  if type(value) == "string" then
    return value:find("[^\32-\126]") and #value .. " bytes" or value:sub(1, 100)
  elseif type(value) ~= "table" or (getmetatable(value) or {}).__tostring then
    return tostring(value)
  elseif value[1] and type(value[1]) ~= "table" then
    return #value .. " such as " .. tostring(value[1])
  elseif value[1] then
    return #value .. " with " .. summary(value[1])
  end
  local fields = {}
  for field in pairs(value) do
    fields[#fields + 1] = tostring(field)
  end
  table.sort(fields)
  return #fields > 0 and "{ " .. table.concat(fields, ", "):sub(1, 80) .. " }" or "{}"
end

-- Calls a method and prints the result; a failure must be of one of these kinds.
local function call(on, kinds, method, ...)
  missing[method] = nil
  local success, value, err = on[method](on, ...)
  print(("  %-40s %s"):format(method, success and summary(value) or err.kind .. ": " .. value:match(": (.*) %(from ")))
  assert(success or kinds[err.kind], ("%s failed: %s"):format(method, tostring(value)))
  if success then
    return value
  end
end

local function must(...)
  return call(client, {}, ...)
end

local function may(...)
  return call(client, { unsupported = true }, ...)
end

-- For calls that also need what a test Consul does not have.
local function may_fail(kinds, ...)
  kinds.unsupported = true
  return call(client, kinds, ...)
end

-- For calls about something that does not exist.
local function cannot(kind, method, ...)
  assert(may_fail({ [kind] = true }, method, ...) == nil, method .. " succeeded")
end

local function simulated(method, ...)
  return call(in_memory, { unsupported = true, http = true }, method, ...)
end

-- The calls that delete what was created, the last one first.
local undo_calls = {}

local function undo_by(...)
  table.insert(undo_calls, 1, { ... })
end

-- Creates something that is deleted by its id in the end. Returns the id, or an unused one.
local function create(method, delete, definition, field)
  local created = may(method, definition)
  local id = type(created) == "table" and created[field or "ID"] or created or unknown_id
  undo_by(delete, id)
  return id
end

local function keys()
  chapter("Keys, transactions, anything")
  must("kv_put", prefix .. "a", "value")
  assert(must("kv_get", prefix .. "a") == "value", "the value differs")
  assert(#must("kv_list", prefix) == 1 and #must("kv_keys", prefix) == 1, "there are unexpected keys")
  must("txn", { { KV = { Verb = "set", Key = prefix .. "b", Value = "1" } } })
  must("kv_delete", prefix .. "b")
  must("http_request", "GET", "/v1/kv/" .. prefix .. "a", nil, { raw = true })
  must("kv_delete_tree", prefix .. "a")
  assert(client:kv_get(prefix .. "a") and select(2, client:kv_get(prefix .. "a")) == nil, "the key still exists")
end

local function sessions()
  chapter("Sessions, locks")
  local session = must("session_create", { name = name, ttl = "30s", behavior = "delete" })
  undo_by("session_destroy", session)
  assert(must("session_info", session).ID == session, "the session differs")
  must("session_renew", session)
  must("session_list")
  must("session_node", must("agent_self").Config.NodeName)
  local old = must("create_session", name, "30s")
  undo_by("destroy_session", old)
  for method, limit in pairs({ lock = false, semaphore = 2 }) do
    local held = client[method](client, prefix .. method, limit or nil)
    assert(held:acquire({ wait_s = 10 }))
    assert(held:is_held())
    print(("  %-40s %s"):format(method, tostring(held)))
    assert(held:release() and held:close())
    missing[method] = nil
  end
end

local function agent()
  chapter("This agent")
  local service = name .. "web"
  must("agent_service_register", { id = service, name = service, port = 80, check = { ttl = "1m" } })
  undo_by("agent_service_deregister", service)
  must("agent_check_register", { id = service .. "-check", name = "a check", ttl = "1m" })
  undo_by("agent_check_deregister", service .. "-check")
  must("agent_check_warn", service .. "-check")
  must("agent_check_fail", service .. "-check")
  must("agent_check_update", service .. "-check", { Status = "passing", Output = "well" })
  must("agent_check_pass", "service:" .. service)
  must("agent_checks")
  must("agent_services")
  must("agent_service", service)
  must("agent_health_service_id", service)
  must("agent_health_service_name", service)
  must("agent_service_maintenance", service, true)
  must("agent_service_maintenance", service, false)
  must("register_service", service .. "-2", service, "127.0.0.1", 81, { "old" })
  undo_by("deregister_service", service .. "-2")
  must("agent_members")
  must("agent_metrics")
  must("agent_host")
  may("agent_version")
  may("agent_connect_ca_roots")
  may_fail({ http = true }, "agent_connect_ca_leaf", service)
  may_fail({ http = true }, "agent_connect_authorize", {
    Target = service,
    ClientCertURI = "spiffe://00000000-0000-4000-8000-000000000000.consul/ns/default/dc/dc1/svc/web",
    ClientCertSerial = "01",
  })
  return service
end

local function catalog(service)
  chapter("The catalog, health")
  local node = name .. "node"
  must("catalog_register", { Node = node, Address = "127.0.0.1", Service = { Service = node } })
  undo_by("catalog_deregister", { Node = node })
  must("catalog_datacenters")
  must("catalog_nodes")
  must("catalog_services")
  assert(#must("catalog_service", node) == 1, "the service does not exist")
  must("catalog_node", node)
  may("catalog_node_services", node)
  must("catalog_connect", service)
  may("catalog_gateway_services", service)
  support.wait_for("two instances of the service", function()
    return #select(2, assert(client:health_service(service))) == 2
  end)
  assert(#must("health_service", service) == 2, "an instance is missing")
  assert(#must("discover_services", service, { passing = true }) == 2, "an instance is not passing")
  must("health_connect", service)
  may("health_ingress", service)
  must("health_node", node)
  must("health_checks", service)
  must("health_state", "passing")
  must("event_fire", name .. "event", "payload")
  must("event_list")
  must("coordinate_datacenters")
  must("coordinate_nodes")
  must("coordinate_node", node)
  must("coordinate_update", {
    Node = node,
    Coord = { Vec = { 0, 0, 0, 0, 0, 0, 0, 0 }, Error = 1.5, Adjustment = 0, Height = 0.00001 },
  })
  must("status_leader")
  must("status_peers")
end

local function background(service)
  chapter("Batches, handles, watches, views")
  local function shown(method, value)
    missing[method] = nil
    print(("  %-40s %s"):format(method, summary(value)))
  end
  local outcomes = must("batch", { { "status_leader" }, { "status_peers" } })
  assert(outcomes[1].ok and outcomes[2].ok, "a call of the batch failed")
  local handle = client:start("status_leader")
  local done, success, leader = handle:wait(5000)
  assert(done and success, "the call did not end")
  shown("start", leader)
  handle:close()
  local watch = client:watch("kv_list", prefix)
  local seen, change = watch:next(5000)
  assert(seen and change.type == "initial", "the watch has no initial change")
  shown("watch", change)
  watch:close()
  local view = client:service_view(service)
  assert(view:ready(5000))
  assert(view:pick().name == service, "the view has a wrong service")
  shown("service_view", view)
  view:close()
  local views = client:service_views({ service })
  assert(views:ready(5000))
  assert(views:view(service):pick().name == service, "the views have a wrong service")
  shown("service_views", views)
  views:close()
end

local function access()
  chapter("Access control")
  local rules = 'key "x" { policy = "read" }'
  local policy = create("acl_policy_create", "acl_policy_delete", { Name = name .. "p", Rules = rules })
  may("acl_policy_list")
  may("acl_policy_read", policy)
  may("acl_policy_read_by_name", name .. "p")
  may("acl_policy_update", policy, { Name = name .. "p" })
  local token = create("acl_token_create", "acl_token_delete", { Description = name }, "AccessorID")
  may("acl_token_list")
  may("acl_token_self")
  may("acl_token_read", token)
  may("acl_token_update", token, { Description = name .. "2" })
  local copy = may("acl_token_clone", token, {})
  undo_by("acl_token_delete", copy and copy.AccessorID or unknown_id)
  local role = create("acl_role_create", "acl_role_delete", { Name = name .. "r" })
  may("acl_role_list")
  may("acl_role_read", role)
  may("acl_role_read_by_name", name .. "r")
  may("acl_role_update", role, { Name = name .. "r", Description = "changed" })
  may("acl_auth_method_list")
  cannot("not_found", "acl_auth_method_read", name .. "none")
  cannot("http", "acl_auth_method_create", { Name = name .. "none", Type = "none" })
  cannot("http", "acl_auth_method_update", name .. "none", { Type = "none" })
  may("acl_auth_method_delete", name .. "none")
  may("acl_binding_rule_list")
  cannot("not_found", "acl_binding_rule_read", unknown_id)
  cannot("http", "acl_binding_rule_create", { AuthMethod = name .. "none", BindType = "service", BindName = "x" })
  cannot("http", "acl_binding_rule_update", unknown_id, { AuthMethod = name .. "none" })
  may("acl_binding_rule_delete", unknown_id)
  may("acl_templated_policy_list")
  may("acl_templated_policy_read", "builtin/service")
  may("acl_templated_policy_preview", "builtin/service", { Name = "api" })
  may("acl_authorize", { { Resource = "key", Segment = "x", Access = "read" } })
  may("acl_replication")
end

local function mesh(service)
  chapter("Prepared queries, configuration, the mesh")
  local query = create("query_create", "query_delete", { Name = name .. "q", Service = { Service = service } })
  may("query_list")
  may("query_read", query)
  may("query_update", query, { Name = name .. "q", Service = { Service = service } })
  may("query_execute", query)
  may("query_explain", query)
  may("config_write", { Kind = "service-defaults", Name = service, Protocol = "http" })
  undo_by("config_delete", "service-defaults", service)
  may("config_read", "service-defaults", service)
  may("config_list", "service-defaults")
  may("connect_ca_roots")
  may("connect_ca_configuration")
  may("connect_intention_list")
  may("connect_intention_check", service, service)
  may("connect_intention_match", "source", { service })
  -- Consul 1.8 has them by id only, and takes the last part of the path as one.
  local no_id = { http = true, argument = true, permission_denied = true }
  may_fail(no_id, "connect_intention_upsert", service, service .. "-2", { Action = "allow" })
  may_fail(no_id, "connect_intention_exact", service, service .. "-2")
  may_fail(no_id, "connect_intention_delete", service, service .. "-2")
  local intention = { SourceName = service, DestinationName = service .. "-3", SourceType = "consul", Action = "allow" }
  local id = create("connect_intention_create", "connect_intention_delete_by_id", intention)
  may("connect_intention_read", id)
  may("connect_intention_update", id, intention)
  may("discovery_chain", service)
  may("exported_services")
end

local function servers()
  chapter("The servers")
  may("operator_raft_configuration")
  local autopilot = may("operator_autopilot_configuration")
  may("operator_autopilot_configuration_update", autopilot or {}, { cas = autopilot and autopilot.ModifyIndex or 0 })
  may("operator_autopilot_health")
  may("operator_autopilot_state")
  may("operator_usage")
  may("snapshot_save")
  may("peering_list")
  may("peering_read", name .. "none")
  for _, kind in ipairs({ "namespace", "partition" }) do
    may(kind .. "_create", { Name = "debug-consul-ffi" })
    undo_by(kind .. "_delete", "debug-consul-ffi")
    may(kind .. "_list")
    may(kind .. "_read", "debug-consul-ffi")
    may(kind .. "_update", "debug-consul-ffi", { Description = "changed" })
  end

  chapter("Calls that would change the servers, on a simulated agent")
  simulated("acl_bootstrap")
  simulated("acl_login", { AuthMethod = "none", BearerToken = "x" })
  simulated("acl_logout")
  simulated("agent_token", "default", { Token = "" })
  simulated("agent_maintenance", true)
  simulated("agent_reload")
  simulated("agent_join", "127.0.0.1")
  simulated("agent_force_leave", "none")
  simulated("connect_ca_configuration_update", { Provider = "consul", Config = {} })
  simulated("operator_raft_peer_delete", { id = unknown_id })
  simulated("operator_raft_transfer_leader")
  for _, what in ipairs({ "list", "install", "use", "remove" }) do
    simulated("operator_keyring_" .. what, what ~= "list" and { Key = "AAAAAAAAAAAAAAAAAAAAAA==" } or nil)
  end
  simulated("snapshot_restore", "no snapshot")
  simulated("peering_token", { PeerName = "none" })
  simulated("peering_establish", { PeerName = "none", PeeringToken = "x" })
  simulated("peering_delete", "none")
  simulated("agent_leave")
end

local function undo()
  chapter("Deleting what was created")
  local failure
  for _, step in ipairs(undo_calls) do
    local finished, why = pcall(may, (rawget(_G, "unpack") or table.unpack)(step))
    failure = failure or not finished and why
  end
  assert(not failure, failure)
end

local function tour()
  keys()
  sessions()
  local service = agent()
  catalog(service)
  background(service)
  access()
  mesh(service)
  servers()
end

local function close()
  chapter("The client")
  for _, method in ipairs({ "new", "close", "destroy" }) do
    local other = consul_ffi.ConsulClient:new({ simulate = "debug_consul_ffi" })
    if method ~= "new" then
      assert(other[method](other))
      assert(not other.initialized, "the client is still open")
    end
    print(("  %-40s %s"):format(method, tostring(other)))
    missing[method] = nil
  end
  assert(#client:registered().services == 0, "a service is registered still")
  missing.registered = nil
  assert(#client:methods("kv_") > 3, "methods of keys are not listed")
  missing.methods = nil
  local names = {}
  for method in pairs(missing) do
    names[#names + 1] = method
  end
  table.sort(names)
  assert(#names == 0, "not called: " .. table.concat(names, ", "))
end

support.run(function()
  local finished, why = pcall(tour)
  undo()
  assert(finished, why)
  close()
  client:close()
end)
