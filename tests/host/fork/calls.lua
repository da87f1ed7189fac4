-- calls.lua [URL]: a parent, two children and a grandchild continue with one client, on a real
-- connection or on a simulated agent. Each reads the key of its name.
local url = ...
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new(url and { endpoint = url } or { simulate = true })

local function gets(name, count)
  for _ = 1, count do
    local success, message = client:kv_get(name)
    assert(success, message)
  end
end

-- Runs `work` in a child and then returns true there, so that its program ends; false in the parent.
local children = {}
local function child(work)
  local id = host.fork()
  if id ~= 0 then
    children[#children + 1] = id
    return false
  end
  children = {}
  work()
  return true
end

local function wait()
  for _, id in ipairs(children) do
    local status = host.wait(id)
    assert(status == 0, "a child ended with " .. status)
  end
end

gets("parent", 10)
local is_child = child(function()
  gets("child", 1000)
  -- One of these is a grandchild whose parent never used the client after the fork.
  child(function()
    gets("grandchild", 100)
    host.exit(0)
  end)
  gets("child", 10)
  wait()
  client:close()
end)
if is_child then
  return
end
is_child = child(function()
  child(function()
    gets("nephew", 100)
    host.exit(0)
  end)
  wait()
end)
if is_child then
  -- This child never used the client: the end of its state must not touch the parent's connection.
  return
end
gets("parent", 1000)
wait()
gets("parent", 1000)

-- A hook that forks while the call waits: the child leaves the call to its parent.
local _, _, meta = assert(client:kv_get("parent"))
local forked
debug.sethook(function()
  local caller = debug.getinfo(2, "S")
  if not forked and caller.short_src == "consul_ffi" and caller.what == "main" then
    forked = host.fork()
  end
end, "c")
local success, message, err = client:kv_get("parent", { index = meta.index, wait = "1s" })
debug.sethook()
if forked == 0 then
  assert(success == false and err.kind == "closed", message)
  gets("hooked", 10)
  return
end
assert(forked, "no hook ran during the call")
assert(success, message)
assert(host.wait(forked) == 0, "the child of the hook failed")
gets("parent", 10)
