-- What the specs share. They run on the simulated agent, or on the real Consul that
-- CONSUL_HTTP_ADDR names.
local consul_ffi = require("consul_ffi")
local system = require("system")

local support = { simulated = not os.getenv("CONSUL_HTTP_ADDR") }

-- A client of the Consul under test.
function support.client(config)
  config = config or {}
  if config.simulate == nil and not config.endpoint then
    config.simulate = support.simulated
  end
  return consul_ffi.new(config)
end

-- A simulated agent of its own on a clock that the spec moves, and what makes clients of it.
function support.manual_agent(seed)
  local name = support.name("manual")
  local sim = consul_ffi.simulator(name, { clock = "manual", seed = seed or 1 })
  return sim, function(config)
    config = config or {}
    config.simulate = name
    return consul_ffi.new(config)
  end
end

-- A configuration with what a test says of its own.
function support.merged(config, own)
  for name, value in pairs(own or {}) do
    config[name] = value
  end
  return config
end

-- Closes what a test opened, and deletes what it wrote under a prefix.
function support.clean_up(opened, prefix)
  for _, one in ipairs(opened) do
    one:close()
  end
  local client = support.client()
  client:kv_delete_tree(prefix)
  client:close()
end

local names = 0

-- A name that nothing else in this run uses.
function support.name(name)
  names = names + 1
  return ("spec-%d-%d-%s"):format(os.time(), names, name)
end

-- Calls `condition` until it is true, 10 s at most.
function support.eventually(condition)
  local limit = os.time() + 10
  while not condition() do
    assert(os.time() < limit, "not within 10 s")
  end
end

-- Seconds on a clock that never goes back.
support.clock = system.monotime

-- Waits for real.
function support.sleep_ms(ms)
  system.sleep(ms / 1000)
end

-- Waits by poll(2) until a descriptor is readable; false when the time is over first. Plain Lua has
-- no such call.
if rawget(_G, "jit") then
  local ffi = require("ffi")
  ffi.cdef([[
    struct spec_pollfd { int fd; short events, revents; };
    int spec_poll(struct spec_pollfd *, unsigned long, int) __asm__("poll");
  ]])
  function support.readable(fd, timeout_ms)
    local POLLIN = 1
    return ffi.C.spec_poll(ffi.new("struct spec_pollfd", { fd, POLLIN }), 1, timeout_ms) == 1
  end
end

-- Calls a function, and `action` once while it waits: by a hook, which counts as one of the call's
-- when the module's own empty function is what it was called for. Gives what pcall gives.
function support.with_hook(action, called, ...)
  local has_run = false
  debug.sethook(function()
    local info = debug.getinfo(2, "S")
    if not has_run and info.short_src == "consul_ffi" and info.what == "main" then
      has_run = true
      action()
    end
  end, "c")
  local results = { pcall(called, ...) }
  debug.sethook()
  assert(has_run, "no hook ran during the call")
  return (rawget(_G, "unpack") or table.unpack)(results)
end

-- The kind of a failure's error table, after the shape of the failure was checked.
function support.kind(success, message, err)
  assert(success == false, "the call did not fail")
  assert(type(message) == "string" and message == err.message, "the message is the second result")
  return err.kind
end

return support
