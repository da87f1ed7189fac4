-- A Lua state that ends while calls are in flight: handles, watches and views that are kept, dropped, or
-- have a descriptor, and a client that is not closed.
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new({ simulate = true })
assert(client:kv_put("a/key", "value"))
local _, _, meta = assert(client:kv_get("a/key"))

local function waiting()
  return client:start("kv_get", "a/key", { index = meta.index, wait = "60s" })
end

local handles = {}
for i = 1, 20 do
  handles[i] = waiting()
  if i % 2 == 0 then
    assert(handles[i]:fd())
  end
  waiting()
end
local done, success, value = client:start("kv_get", "a/key"):wait(10000)
assert(done and success and value == "value")
local _, results = assert(client:batch({ { "kv_get", "a/key" }, { "kv_get", "none" } }))
assert(results[1].value == "value" and results[2].ok)

assert(client:agent_service_register({ Name = "web" }))
for i = 1, 3 do
  local watch = assert(client:watch("kv_get", "a/key"))
  assert(select(2, assert(watch:next(10000))).value == "value")
  assert(watch:fd())
  local view = assert(client:service_view("web"))
  assert(view:ready(10000) and view:pick() and view:pick("key"))
  handles["watch" .. i], handles["view" .. i] = watch, view
  assert(client:watch("kv_get", "a/key") and client:service_view("web"))
end

-- A connection that is never accepted.
local refused = consul_ffi.new({ endpoint = "http://127.0.0.1:1", simulate = false, retry_count = 0 })
handles.refused = refused:start("kv_get", "k")
kept = handles -- luacheck: ignore
