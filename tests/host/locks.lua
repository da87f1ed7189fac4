-- Acquires a lock long before the check of a dead process fails, because the end of the previous state
-- released it, and leaves the release to the end of this state.
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new()
local profile = { check_ttl_ms = 60000 }
local lock = assert(client:lock("of-a-state", { profile = profile }))
assert(lock:acquire({ wait_s = 30 }))
assert(client:semaphore("permits-of-a-state", 1, { profile = profile }):acquire({ wait_s = 30 }))
