-- A parent with watches and service views, and a child, which inherits none and has its own. Neither the
-- child's calls nor its end change anything for the parent.
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new({ simulate = "forked" })

local function is_the_parents(object, ...)
  assert(tostring(object):find("of the parent process", 1, true), tostring(object))
  for _, method in ipairs({ ... }) do
    local success, message, err = object[method](object)
    assert(success == false and err.kind == "closed", method)
    assert(message:find("it belongs to the parent of this process", 1, true), message)
  end
end

local function next_of(watch)
  local _, change = assert(watch:next(10000))
  return assert(change, "nothing in 10 s")
end

local function open(key)
  local watch = assert(client:watch("kv_get", key))
  assert(next_of(watch).type == "initial")
  local view = assert(client:service_view(key))
  assert(view:ready(10000))
  return watch, view
end

assert(client:agent_service_register({ Name = "parent", Address = "10.0.0.1" }))
local watch, view = open("parent")
local closed, closed_view = open("parent")
local dropped, dropped_view = open("parent")
assert(watch:fd() and closed:fd())
assert(view:pick().address == "10.0.0.1" and closed_view:pick("key"))

-- A fork during the work of a simulated agent is not supported: the agent must be idle.
local agent = consul_ffi.simulator("forked")
while agent:stats().waiting < 6 do
  watch:next(1)
end

local id = host.fork()
if id == 0 then
  is_the_parents(watch, "next", "poll", "fd")
  is_the_parents(view, "ready", "all", "pick", "age_s")
  assert(watch:changes()() == nil)
  closed:close()
  closed_view:close()
  dropped, dropped_view = nil, nil -- luacheck: ignore
  collectgarbage()
  collectgarbage()
  local own, own_view = open("child")
  assert(client:kv_put("child", "1"))
  assert(next_of(own).value == "1")
  assert(#own_view:all() == 0)
  client:close()
  return
end

local status = host.wait(id)
assert(status == 0, "the child ended with " .. status)
assert(client:kv_put("parent", "2"))
for _, one in ipairs({ watch, closed, dropped }) do
  assert(next_of(one).value == "2")
end
assert(client:agent_service_deregister("parent"))
for _, one in ipairs({ view, closed_view, dropped_view }) do
  repeat until not one:pick()
end
