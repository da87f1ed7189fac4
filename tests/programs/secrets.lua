-- Uses the library with secrets in each place that takes one, successfully and not, and logs at DEBUG. The environment
-- has the ADDRESS of Consul with ACLs, a token of all rights (ADMIN), the files CERT, KEY and CA of nodes, and FOLDER.
-- FORM is text, json or function: where the lines go. Prints "secret …" for each token, "address …" of its status
-- server, and, after a line of input, "lines …" with the lines that its function got.
local consul_ffi = require("consul_ffi")
local production = require("consul_production_config")

local address, folder, form = os.getenv("ADDRESS"), os.getenv("FOLDER"), os.getenv("FORM")
local LIMIT_S = 300

local function say(what, text)
  io.write(what, " ", text, "\n")
  io.flush()
end

local lines = {}
local function keep(level, message, fields)
  local parts = { level, message }
  for name, value in pairs(fields) do
    table.insert(parts, name .. "=" .. tostring(value))
  end
  table.insert(lines, (table.concat(parts, " "):gsub("%c", " ")))
end

local function new(options)
  options.endpoint = not options.endpoints and (options.endpoint or address) or nil
  options.log_level, options.log_format = "DEBUG", form == "json" and "json" or "text"
  options.log = form == "function" and keep or nil
  return consul_ffi.new(options)
end

local admin = new({ token = os.getenv("ADMIN") })

local function token()
  local _, created = assert(admin:acl_token_create({ policies = { { name = "global-management" } } }))
  say("secret", created.SecretID)
  return created.SecretID
end

local function write(name, content)
  local path = folder .. "/" .. name
  local file = assert(io.open(path, "w"))
  file:write(content)
  file:close()
  return path
end

-- Calls that succeed, and that fail in each way.
local function call(client)
  assert(client:kv_put("planted-key/a b", "planted-value"))
  assert(client:kv_get("planted-key/a b"))
  assert(client:kv_list("planted-key/"))
  assert(client:kv_keys("planted-key/"))
  assert(client:txn({ { KV = { Verb = "set", Key = "planted-key/t", Value = "planted-value" } } }))
  assert(not client:txn({ { KV = { Verb = "get", Key = "planted-key/none" } } }))
  client:kv_get("planted-key/none")
  assert(client:http_request("GET", "/v1/kv/planted-key/t?planted-param=planted-param&raw"))
  assert(not client:http_request("GET", "/v1/planted-key?planted-param=planted-param"))
  client:http_request("GET", "/v1/kv//planted-key")
  client:kv_get("planted-key", { dc = "planted-param" })
  client:kv_get("planted-key", { token = "planted-token" })
  assert(not client:kv_put("planted-key", "planted-value", { token = "planted-token", acquire = "planted-session" }))
  assert(client:batch({ { "kv_get", "planted-key/t" }, { "kv_get", "planted-key/none" } }))
  local watch = assert(client:watch("kv_get", "planted-key/t"))
  assert(watch:next(10000))
  watch:close()
end

call(new({ token = token() }))
call(new({ token_file = write("token", token()), http_auth = "user:planted-password" }))
call(new({}))

-- Two endpoints that fail, one after the other: lines at WARN.
local failing = new({ endpoints = { "127.0.0.1:1", address }, token = "planted-token", retry_count = 1 })
for _ = 1, 5 do
  failing:kv_get("planted-key")
  failing:kv_put("planted-key", "planted-value")
end
local lost = assert(new({ endpoint = "127.0.0.1:1", retry_count = 0 }):watch("kv_get", "planted-key"))
lost:next(200)
lost:close()

local node = consul_ffi.ConsulHACluster:new({
  endpoint = address, token = token(), node_id = "n1", node_address = "127.0.0.1:9000", shards = 16, profile = "fast",
  cluster_key = "planted-cluster-key", log_level = "DEBUG",
  data_tls = { cert_file = os.getenv("CERT"), key_file = os.getenv("KEY"), ca_file = os.getenv("CA") },
})
local store = node:replicate("points", "memory", { shards = 4, replicas = 1 })
assert(node:start())
node:handle("echo", function(body)
  return body
end)
local limit = os.time() + LIMIT_S
repeat
  assert(os.time() < limit, "the store cannot be used")
  node:poll(20)
until store:write("planted-key", { { id = "planted-key/1", data = "planted-value" } })
for record, message in store:read("planted-key", { limit = 1 }) do
  assert(record.data == "planted-value", message)
end
assert(node:call("n1", "echo", "planted-value"))
assert(not node:call("n1", "no such handler", "planted-value"))

local manager = production.new()
manager.config.consul.servers = { address }
manager.config.consul.acl_token = token()
manager.config.cluster.node_id = "m1"
manager.config.monitoring.log_file = folder .. "/manager.log"
manager.config.monitoring.log_level = "DEBUG"
manager.config.security.audit_enabled = true
manager.config.security.audit_log_file = folder .. "/audit.log"
assert(manager:init())
assert(manager:store_data("audited-key", "planted-value"))
assert(manager:read_data("audited-key"))
assert(not manager:read_data("audited-key/none"))

local server = assert(consul_ffi.serve_status())
say("address", server.address)
assert(io.read())
manager:cleanup()
assert(server:close())
node:stop()
for _, line in ipairs(lines) do
  say("line", line)
end
