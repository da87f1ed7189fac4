-- A status server and a node that it shows are left running when their state ends.
local consul_ffi = require("consul_ffi")

local server = assert(consul_ffi.serve_status())
local node = consul_ffi.ConsulHACluster:new({ node_id = "n1", node_address = "127.0.0.1:9000", simulate = true })
assert(node:start())
local answer = io.popen(("curl -s -m 10 http://%s/ready"):format(server.address))
assert(answer:read("*a") == "ready\n")
answer:close()
