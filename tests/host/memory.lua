-- Returns a function that makes calls with large replies, for an engine that runs out of memory in them at
-- every point in turn.
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new({ simulate = true })
for i = 1, 40 do
  assert(client:kv_put("tree/" .. i, ("value %d "):format(i):rep(10)))
end
for i = 1, 10 do
  assert(client:agent_service_register({
    ID = "web-" .. i,
    Name = "web",
    Port = 8000 + i,
    Tags = { "a", "b" },
    Meta = { version = "1", number = tostring(i) },
    Check = { TTL = "24h", Status = "passing" },
  }))
end

-- The failure to keep an object is visible to the caller, and the collector must get the dropped object.
return function()
  local success, entries = client:kv_list("tree/")
  assert(success and #entries == 40)
  local found, instances = client:health_service("web", { passing = true })
  assert(found and #instances == 10 and instances[10].Service.Meta.version == "1")
  local refused, _, err = client:kv_get("//")
  assert(refused == false and err.kind == "argument")
  consul_ffi.new({ simulate = true }):close()
end
