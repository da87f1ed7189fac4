-- A parent that holds a lock and waits for another, and a child, which inherits neither and has its own
-- lock. Neither the child's calls nor its end change anything for the parent.
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new()

local function is_the_parents(lock)
  assert(lock:is_held() == false and lock:token() == nil and lock:remaining_ms() == 0)
  assert(tostring(lock):find("of the parent process", 1, true), tostring(lock))
  assert(lock:poll() == nil and lock:next_event() == nil)
  for _, method in ipairs({ "acquire", "start", "release", "fd" }) do
    local success, message, err = lock[method](lock)
    assert(success == false and err.kind == "closed", method)
    assert(message:find("it belongs to the parent of this process", 1, true), message)
  end
  local success, _, err = lock:fenced_put("data", "child")
  assert(success == false and err.kind == "closed")
end

local held = assert(client:lock("held", { profile = "fast" }))
local _, token = assert(held:acquire())
local waiting = assert(consul_ffi.new():lock("held"))
assert(waiting:start())
local dropped = assert(client:lock("dropped"))
assert(dropped:acquire())

local id = host.fork()
if id == 0 then
  is_the_parents(held)
  is_the_parents(waiting)
  waiting:close()
  dropped = nil -- luacheck: ignore
  collectgarbage()
  collectgarbage()
  local own = assert(client:lock("child"))
  assert(own:acquire())
  local success, _, err = client:lock("held"):acquire({ try = true })
  assert(success == false and err.kind == "conflict")
  held:close()
  assert(tostring(held):find("of the parent process", 1, true), tostring(held))
  client:close()
  return
end

local status = host.wait(id)
assert(status == 0, "the child ended with " .. status)
-- Longer than the TTL of its check. A busy machine may suspend it for a moment.
local event = held:next_event(3000)
while event == "suspended" or event == "resumed" or event == nil and not held:is_held() do
  event = held:next_event(3000)
end
assert(event == nil and held:token() == token, event)
assert(dropped:is_held())
assert(held:release())
assert(waiting:next_event(60000) == "acquired")
assert(client:lock("child"):acquire({ try = true }))
