-- Right uses of the module; a language server may mark none of them; `make lint-annotations`.
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new({ endpoint = "127.0.0.1:8500", timeout = 1000 })
local other = consul_ffi.ConsulClient:new({ consul_url = "127.0.0.1:8500", simulate = true })

local success, value, meta = client:kv_get("key")
if success and value and meta then
  print(value:upper(), meta.modify_index)
end
print(client:kv_put("key", { price = 1 }, { cas = 0 }))
for _, entry in ipairs(select(2, client:kv_list("prefix/"))) do
  print(entry.Key, entry.Value)
end
local found, instances = client:health_service("web", { passing = true })
for _, instance in ipairs(found and instances or {}) do
  print(instance.Service.Port, instance.Node.Node)
end
local created, session = other:create_session("name", "30s")
if created then
  print("session " .. session, session:match("%w+"), other:destroy_session(session))
end
print(select(2, client:batch({ { "kv_get", "key" }, { "kv_put", "key", "value" } })))

local lock = client:lock("locks/key", { profile = "fast" })
if lock:acquire({ wait_s = 5 }) and lock:is_held() then
  print(lock:fenced_put("key", "value"), lock:release())
end
for event, detail in lock:events() do
  print(event, detail)
end
print(client:semaphore("permits", 3):acquire({ try = true }))

local watch = client:watch("kv_list", "prefix/", { wait = "30s" })
for change, about in watch:changes() do
  print(change.type, change.id, about)
end
local view = client:service_view("web")
local instance, message, err = view:pick("key")
if instance then
  print(instance.address .. ":" .. instance.port)
elseif err then
  print(message, err.kind, err.retryable)
end
local handle = client:start("kv_get", "key")
print(handle:wait(100))

local cluster = consul_ffi.ConsulHACluster:new({ node_id = "n1", node_address = "127.0.0.1:9000", replicas = 3 })
cluster:handle("echo", function(body)
  return body
end)
print(cluster:start(), cluster:call("n2", "echo", { 1 }, { timeout_ms = 100 }))
local leader = cluster:get_leader_info()
if leader then
  print("leader: " .. leader, leader.node_id)
end
local id, node = cluster:get_node_for_key("key")
if node then
  print(id, node.address)
end
for _, replica in ipairs(cluster:get_replica_nodes("key", 2)) do
  print("replica: " .. replica, replica.id)
end
local points = cluster:replicate("points")
print(points:write("key", { { id = "key/1", data = "1" } }), points:delete("key", { "key/1" }))
for record, why in points:read("key", { from = "key/", limit = 10 }) do
  print(record and record.id, why)
end
print(points:status("key"), cluster:poll(100), cluster:stop())

local ring = consul_ffi.ConsistentHashRing:new(100)
ring:add_node("n1", { address = "127.0.0.1:9000" })
print(ring:get_node("key"))
consul_ffi.simulator("name", { clock = "manual" }):advance(5)

local listed, services = client:catalog_services()
if listed then
  for name, tags in pairs(services) do
    print(name:upper(), tags[1])
  end
end
local healthy, entries, reason = client:health_service("web", { passing = true })
if not healthy then
  error("health: " .. tostring(entries) .. reason.kind)
end
local first = entries[1]
print(first.Service.Port + 1, first.Service.Meta.version, first.Node.Address, first.Checks[1].Status)
print(select(2, client:session_info("id")).TTL)
