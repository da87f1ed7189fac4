-- A node is left running when its state ends: the node of the next state has the name long before the
-- check of a dead process fails, and is the only member.
local consul_ffi = require("consul_ffi")

local node = consul_ffi.ConsulHACluster:new({
  node_id = "n1",
  node_address = "127.0.0.1:9000",
  profile = { check_ttl_ms = 60000 },
})
local begun = os.time()
assert(node:start())
assert(os.time() - begun <= 30, "the name was not given up")
assert(node:is_leader_node() and node:get_node_count() == 1)
