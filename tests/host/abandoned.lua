-- abandoned.lua URL: 1,000 waits that nobody waits for any longer leave nothing behind.
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new({ endpoint = ... })
local _, _, meta = assert(client:kv_get("k"))

local function abandon(count)
  for _ = 1, count do
    local success, _, err = client:kv_get("k", { index = meta.index, wait = "60s", timeout_ms = 1, retry = false })
    assert(success == false and err.kind == "timeout", err and err.message)
  end
  assert(client:kv_get("k"))
  collectgarbage()
end

abandon(200)
local descriptors, threads, resident_kb = host.held()
abandon(1000)
local descriptors_after, threads_after, resident_kb_after = host.held()
assert(descriptors_after <= descriptors, descriptors .. " descriptors became " .. descriptors_after)
assert(threads_after <= threads, threads .. " threads became " .. threads_after)
assert(resident_kb_after <= resident_kb + 4096, resident_kb .. " kB became " .. resident_kb_after)
