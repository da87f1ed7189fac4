-- Children with clients of their own, whatever their parent has done with its client before: each has a service of
-- its own in Consul, so the end of one takes nothing from the others.
local consul_ffi = require("consul_ffi")

local function services(client)
  local found = {}
  for id in pairs(select(2, assert(client:agent_services()))) do
    if id:find("^consul_ffi%-") then
      found[#found + 1] = id
    end
  end
  return #found, table.concat(found, " ")
end

local BEFORE = {
  unused = function() end,
  after_a_call = function(client)
    assert(client:kv_put("called", "yes"))
  end,
  with_a_lock = function(client)
    local lock = client:lock("parent")
    assert(lock:acquire())
    return lock
  end,
}

local function child(name, number)
  local id = host.fork()
  if id ~= 0 then
    return id
  end
  local client = consul_ffi.new()
  local lock = client:lock(name .. "/lock/" .. number)
  assert(lock:acquire())
  assert(client:kv_put(name .. "/ready/" .. number, lock:token()))
  while not select(2, client:kv_get(name .. "/end/" .. number)) do
    local event = lock:next_event(20)
    assert(event ~= "lost", event)
  end
  client:close()
  host.exit(0)
end

for name, before in pairs(BEFORE) do
  local client = consul_ffi.new()
  local own = before(client) and 1 or 0
  local children = { child(name, 1), child(name, 2), child(name, 3) }
  local looking = consul_ffi.new()
  local pause = looking:lock(name .. "/pause")
  assert(pause:acquire())
  for number = 1, #children do
    while not select(2, client:kv_get(name .. "/ready/" .. number)) do
      pause:next_event(20)
    end
  end
  for number, id in ipairs(children) do
    local count, which = services(client)
    local expected = own + 1 + #children + 1 - number
    assert(count == expected, name .. ": " .. count .. " services, not " .. expected .. ": " .. which)
    assert(client:kv_put(name .. "/end/" .. number, "now"))
    local status = host.wait(id)
    assert(status == 0, name .. ": child " .. number .. " ended with " .. status)
  end
  looking:close()
  client:close()
end
