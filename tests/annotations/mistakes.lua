-- Wrong uses of the module: a language server marks each line with `!`; `make lint-annotations`.
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new({ endpoint = "127.0.0.1:8500" })
client:kv_fetch("key") -- !
client:kv_get(12) -- !
client:kv_get() -- !
client:lock("key"):lock() -- !
client:service_view("web"):next() -- !
client:kv_put("key", "value", 5) -- !
local cluster = consul_ffi.ConsulHACluster:new({ node_id = "n1", node_address = "127.0.0.1:9000" })
cluster:begin() -- !
cluster:handle("name", "function") -- !
cluster:replicate("points"):put("key", {}) -- !
consul_ffi.client() -- !
for _, entry in ipairs(select(2, client:health_service("web"))) do
  print(entry.Service.Prt) -- !
end
local _, nodes = client:catalog_nodes()
for _, node in ipairs(nodes) do
  print(node.Adress) -- !
end
for name, tags in pairs(select(2, client:catalog_services())) do
  print(name.tags, tags) -- !
end
