-- Takes a lock at once, which the state before this one gave up when it was closed, and leaves it to the
-- end of this state.
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new()
local lock = assert(client:lock("of-a-state"))
assert(lock:acquire({ try = true }))
assert(client:semaphore("permits-of-a-state", 1):acquire({ try = true }))
