-- Ends with locks of several clients and nodes, behind a Consul that does not answer any more.
local consul_ffi = require("consul_ffi")

local sim = consul_ffi.simulator("last-work")
for i = 1, 15 do
  local client = consul_ffi.new({ simulate = "last-work", log_level = "OFF" })
  assert(client:lock("of-a-state/" .. i):acquire())
  assert(client:semaphore("permits-of-a-state/" .. i, 1):acquire())
end
sim:fault({ partition = true })
