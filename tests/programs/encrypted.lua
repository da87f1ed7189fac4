-- Nodes with mutual TLS between them: from options in Lua, and from a TOML file of the manager. The
-- environment has the files: CERT, KEY, CA, and TOML, which names the same ones.
local consul_ffi = require("consul_ffi")
local production = require("consul_production_config")

local data_tls = { cert_file = os.getenv("CERT"), key_file = os.getenv("KEY"), ca_file = os.getenv("CA") }

local function node(id, options)
  local all = {
    node_id = id,
    node_address = "a:1",
    simulate = "encrypted",
    nodes_prefix = "stock-tsdb-cluster/nodes/",
    leader_key = "stock-tsdb-cluster/leader",
  }
  for name, value in pairs(options) do
    all[name] = value
  end
  return consul_ffi.ConsulHACluster.new(all)
end

local function started(id, options)
  local made = node(id, options)
  assert(made:start())
  made:handle("echo", function(body)
    return body
  end)
  return made
end

local function wait_for(count, one)
  local limit = os.time() + 300
  while #one:get_live_nodes() < count do
    assert(os.time() < limit, "the nodes do not see each other")
    one:poll(20)
  end
end

local one = started("n1", { data_tls = data_tls, encrypt_traffic = true })
local plain = started("n2", {})
local manager = production.new()
manager.config.consul.simulate = "encrypted"
manager.config.cluster.node_id = "n3"
manager.config.sources.file = os.getenv("TOML")
assert(manager:init())
wait_for(3, one)
wait_for(3, plain)
wait_for(3, manager:get_node())

manager:get_node():handle("echo", function(body)
  return body
end)
assert(select(2, assert(one:call("n3", "echo", "hello"))) == "hello")
assert(select(2, assert(manager:get_node():call("n1", "echo", "hello"))) == "hello")
for from, to in pairs({ [one] = "n2", [plain] = "n3", [manager:get_node()] = "n2" }) do
  local success, message, err = from:call(to, "echo", "hello")
  assert(not success and err.kind == "tls" and not err.maybe_applied, message)
end
manager:cleanup()
plain:stop()
one:stop()

-- Without files there is no start.
local made, why = pcall(node, "n4", { encrypt_traffic = true })
assert(not made and why:find("encrypt_traffic is true: data_tls is required", 1, true), why)
local success, message, err = node("n5", { data_tls = { cert_file = "/x", key_file = "/y", ca_file = "/z" } }):start()
assert(not success and err.kind == "config" and message:find("data_tls.cert_file: /x: No such file", 1, true), message)
made, why = pcall(node, "n6", { data_tls = { cert_file = "/x" } })
assert(not made and why:find("data_tls.key_file must be a path", 1, true), why)
local other = production.new()
other.config.consul.simulate = "encrypted"
other.config.security.encrypt_traffic = true
made, why = pcall(other.init, other)
local missing = "security.encrypt_traffic is true, but security.data_tls.cert_file is not set"
assert(not made and why:find(missing, 1, true), why)
