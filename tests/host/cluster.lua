-- A node that is left running when its state ends: the next state's has the name at once, and is the
-- only one.
local consul_ffi = require("consul_ffi")

local node = consul_ffi.ConsulHACluster:new({ node_id = "n1", node_address = "127.0.0.1:9000" })
local begun = os.time()
assert(node:start())
assert(os.time() - begun <= 2, "the name was not given up")
assert(node:is_leader_node() and node:get_node_count() == 1)
