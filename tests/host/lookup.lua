-- Leaves name look-ups in flight, which cannot be cancelled and must not delay anything.
local consul_ffi = require("consul_ffi")

for _ = 1, 3 do
  local client = consul_ffi.new({ endpoint = "http://no.such.host.invalid:8500", timeout = 20, retry_count = 0 })
  local success, _, err = client:kv_get("k")
  assert(success == false and (err.kind == "timeout" or err.kind == "connect"))
end
