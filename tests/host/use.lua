-- A Lua state that creates clients, uses them, and leaves some open, some unreachable and some closed when
-- it ends.
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new({ simulate = true })
assert(client:kv_put("a/key", "value"))
local _, value, meta = assert(client:kv_get("a/key"))
assert(value == "value")

-- Abandoned waits.
for _ = 1, 3 do
  local success, _, err = client:kv_get("a/key", { index = meta.index, wait = "60s", timeout_ms = 1 })
  assert(success == false and err.kind == "timeout")
end

local nobody = consul_ffi.new({ endpoint = "http://127.0.0.1:1", simulate = false, timeout = 20, retry_count = 0 })
assert(nobody:kv_get("k") == false)

consul_ffi.new({ simulate = true }):close()
kept = client -- luacheck: ignore
