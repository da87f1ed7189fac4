-- Consul in a cqueues controller: calls yield their coroutine while the others of the controller run.
local cqueues = require("cqueues")
local yielding = require("consul_ffi.yielding")

local function check(level)
  if not cqueues.running() then
    error("a call that yields must be made in a coroutine of a controller: controller:wrap(function() … end)", level)
  end
end

local function wait(object, limit_ms)
  check(4)
  local fd, message, err = object:fd()
  if not fd then
    return false, message, err
  end
  cqueues.poll({ pollfd = fd, events = "r" }, limit_ms and limit_ms / 1000)
  -- The controller must not keep a descriptor that is closed later.
  cqueues.cancel(fd)
end

return yielding(wait, cqueues.monotime, check)
