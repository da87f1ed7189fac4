-- Acquires a lock and a permit long before the check of a dead process fails, because the end of the previous state
-- released them, and leaves the release to the end of this state. One state after the other has another kind of
-- background job beside them.
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new({ log_level = "OFF" })
local jobs = {
  { "nothing", function() end },
  { "a watch", function()
    local watch = client:watch("kv_get", "other")
    watch:next(50)
    return watch
  end },
  { "a view", function()
    local view = client:service_view("web")
    view:ready(500)
    return view
  end },
  { "views", function()
    local views = client:service_views({ "web" })
    views:ready(500)
    return views
  end },
  { "a call", function() return client:start("kv_get", "other", { index = 1, wait = 20 }) end },
  { "a wait", function()
    local other = client:lock("of-another")
    other:start()
    return other
  end },
}

local _, count = client:kv_get("number-of-states")
local number = tonumber(count) or 0
assert(client:kv_put("number-of-states", tostring(number + 1)))
local before, beside = jobs[(number - 1) % #jobs + 1], jobs[number % #jobs + 1]

local options = { profile = { check_ttl_ms = 60000 } }
local lock = client:lock("of-a-state", options)
local permit = client:semaphore("permits-of-a-state", 1, options)
for _, claim in ipairs({ lock, permit }) do
  local acquired, err = claim:acquire({ wait_s = 10 })
  assert(acquired, ("after a state with %s: %s"):format(before[1], tostring(err)))
end
_G.job = beside[2]()
