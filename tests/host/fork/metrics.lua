-- The numbers of a parent and its child, which begins with zeros although the fork came while other threads of the
-- parent counted.
local consul_ffi = require("consul_ffi")

local function requests(method)
  local pattern = 'consul_ffi_client_requests_total{endpoint="' .. method .. '",outcome="ok"} (%d+)'
  return tonumber(consul_ffi.metrics():match(pattern)) or 0
end

local client = consul_ffi.new({ simulate = "fork-metrics" })
for _ = 1, 3 do
  assert(client:kv_put("key", "value"))
end
local server = assert(consul_ffi.serve_status())
assert(requests("kv_put") == 3)

for round = 1, 20 do
  local handles = {}
  for number = 1, 8 do
    handles[number] = client:start("kv_get", "key")
  end
  local id = host.fork()
  if id == 0 then
    assert(requests("kv_put") == 0 and requests("kv_get") == 0, consul_ffi.metrics())
    local own = consul_ffi.new({ simulate = "fork-metrics-of-child" })
    assert(own:kv_put("key", "value"))
    assert(requests("kv_put") == 1)
    return
  end
  for _, handle in ipairs(handles) do
    assert(handle:wait())
  end
  local status = host.wait(id)
  assert(status == 0, "the child ended with " .. status)
  assert(requests("kv_put") == 3 and requests("kv_get") == 8 * round)
end
assert(server:close())
