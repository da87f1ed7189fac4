-- A node of a cluster with replicated shards, which serves the page. Prints the address of its status server, then the
-- value of each line of its input, which is an expression with `cluster`.
--
--   CONSUL_HTTP_ADDR=… luajit tests/programs/page/node.lua NODE ZONE PORT

local id, zone, port = arg[1], arg[2], arg[3]
local consul_ffi = require("consul_ffi")
local cluster = consul_ffi.ConsulHACluster:new({
  node_id = id,
  node_address = "127.0.0.1:" .. port,
  zone = zone,
  log_level = "ERROR",
  profile = "fast",
  shards = 1024,
  replicas = 2,
  replace_after_s = 2,
})
cluster:replicate("points", "memory", { shards = 64 })

local function answer(text)
  io.write(tostring(text), "\n")
  io.flush()
end

assert(cluster:start())
local server = assert(consul_ffi.serve_status("127.0.0.1:" .. port))
answer(server.address)
for line in io.lines() do
  answer(assert((loadstring or load)("local cluster = ... return " .. line))(cluster))
end
server:close()
cluster:stop()
