-- abandoned.lua URL: 1,000 abandoned blocking queries leave nothing behind.
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new({ endpoint = ... })
local _, _, meta = assert(client:kv_get("k"))

local function abandon(count)
  while count > 0 do
    local success, _, err = client:kv_get("k", { index = meta.index, wait = "60s", timeout_ms = 1, retry = false })
    -- To a busy machine the answer can come before it looks at the time.
    assert(success or err.kind == "timeout", err and err.message)
    count = success and count or count - 1
  end
  assert(client:kv_get("k"))
  collectgarbage()
end

abandon(200)
local descriptors, threads, resident_kb = host.held()
abandon(1000)
local descriptors_after, threads_after, resident_kb_after
local limit = os.time() + 300
repeat
  -- Threads end and connections close in the background.
  descriptors_after, threads_after, resident_kb_after = host.held()
until descriptors_after <= descriptors and threads_after <= threads or os.time() > limit
assert(descriptors_after <= descriptors, descriptors .. " descriptors became " .. descriptors_after)
assert(threads_after <= threads, threads .. " threads became " .. threads_after)
assert(resident_kb_after <= resident_kb + 4096, resident_kb .. " kB became " .. resident_kb_after)
