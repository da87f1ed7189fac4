-- handles.lua [URL]: a parent with handles, a child and a grandchild with their own, on real
-- connections or on a simulated agent. Each reads the key of its name.
local url = ...
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new(url and { endpoint = url } or { simulate = "forked" })

local function gets(name, count)
  for _ = 1, count do
    local done, success, message = client:start("kv_get", name):wait(10000)
    assert(done and success, message)
  end
end

local function wait(id)
  local status = host.wait(id)
  assert(status == 0, "a child ended with " .. status)
end

local function is_the_parents(handle)
  local done, success, message, err = handle:wait(10000)
  assert(done and success == false and err.kind == "closed", message)
  assert(message:find("parent", 1, true), message)
  assert(tostring(handle):find("of the parent process", 1, true), tostring(handle))
  assert(select(3, handle:fd()).kind == "closed")
  handle:cancel()
end

gets("parent", 10)
local _, _, meta = assert(client:kv_get("parent"))
local running = client:start("kv_get", "parent", { index = meta.index, wait = "1s" })
local closed = client:start("kv_get", "parent", { index = meta.index, wait = "1s" })
local dropped = client:start("kv_get", "parent", { index = meta.index, wait = "1s" })
assert(running:fd() and closed:fd())

-- A fork during the work of a simulated agent is not supported: the agent must be idle.
local agent = not url and consul_ffi.simulator("forked")
while agent and agent:stats().waiting < 3 do
  running:wait(1)
end

local id = host.fork()
if id == 0 then
  is_the_parents(running)
  closed:close()
  dropped = nil -- luacheck: ignore
  collectgarbage()
  gets("child", 100)
  local grandchild = host.fork()
  if grandchild == 0 then
    is_the_parents(running)
    gets("grandchild", 100)
    client:close()
    host.exit(0)
  end
  wait(grandchild)
  gets("child", 10)
  return
end
gets("parent", 100)
wait(id)
-- The child's calls with them changed nothing here.
for _, handle in ipairs({ running, closed, dropped }) do
  local done, success, message = handle:wait(10000)
  assert(done and success, message)
end
