-- The common parts of the specs. They run on the simulated agent, or on the real Consul at CONSUL_HTTP_ADDR.
local busted = require("busted")
local consul_ffi = require("consul_ffi")
local system = require("system")

local support = { simulated = not os.getenv("CONSUL_HTTP_ADDR") }

-- How long a test waits for what has to come: longer than a busy machine takes. As PATIENCE of consul-test-support.
support.PATIENCE_MS = 300000

-- The interpreter that runs the specs.
support.interpreter = rawget(_G, "jit") and "luajit" or "lua" .. _VERSION:match("%d.*")

support.unpack = rawget(_G, "unpack") or rawget(table, "unpack")
support.load = rawget(_G, "loadstring") or load

-- Returns a client of the Consul under test.
function support.client(config)
  config = config or {}
  if config.simulate == nil and not config.endpoint then
    config.simulate = support.simulated
  end
  return consul_ffi.new(config)
end

-- Returns a new simulated agent with a manual clock, and a function that makes clients of it.
function support.manual_agent(seed)
  local name = support.name("manual")
  local sim = consul_ffi.simulator(name, { clock = "manual", seed = seed or 1 })
  return sim, function(config)
    config = config or {}
    config.simulate = name
    return consul_ffi.new(config)
  end
end

-- Returns a cluster node on the Consul under test, not started, whose keys have the prefix.
function support.node(prefix, id, config)
  return consul_ffi.ConsulHACluster:new(support.merged({
    node_id = id,
    node_address = "127.0.0.1:9000",
    nodes_prefix = prefix .. "/nodes/",
    simulate = support.simulated,
  }, config))
end

-- Has a cluster of its own for each test of the block, whose nodes are closed after it. Returns functions:
-- `new_node(id, config)`, `node(id, config)`, which starts it, `two(config)`, which returns two nodes that see
-- each other as live, and `prefix()`, the prefix of the cluster's keys.
function support.each_cluster(name)
  local opened, prefix
  busted.before_each(function()
    opened, prefix = {}, support.name(name)
  end)
  busted.after_each(function()
    support.clean_up(opened, prefix)
  end)
  local cluster = {}
  function cluster.prefix()
    return prefix
  end
  function cluster.new_node(id, config)
    opened[#opened + 1] = support.node(prefix, id, config)
    return opened[#opened]
  end
  function cluster.node(id, config)
    local made = cluster.new_node(id, config)
    assert(made:start())
    return made
  end
  function cluster.two(config)
    local one, other = cluster.node("n1", config), cluster.node("n2", config)
    support.eventually(function()
      support.sleep_ms(5)
      return #one:get_live_nodes() == 2 and #other:get_live_nodes() == 2
    end)
    return one, other
  end
  return cluster
end

-- Adds the options of `own` to `config`, and returns it.
function support.merged(config, own)
  for name, value in pairs(own or {}) do
    config[name] = value
  end
  return config
end

-- Calls `set(client, key)` before each test of the block, with a client and a key that no other test
-- uses; afterwards closes the client and deletes all keys with this prefix.
function support.each_test(set)
  local client, key
  busted.before_each(function()
    client, key = support.client(), support.name("key")
    set(client, key)
  end)
  busted.after_each(function()
    support.clean_up({ client }, key)
  end)
end

-- Closes what a test opened, and deletes the keys with a prefix.
function support.clean_up(opened, prefix)
  for _, one in ipairs(opened) do
    one:close()
  end
  local client = support.client()
  client:kv_delete_tree(prefix)
  client:close()
end

local names = 0

-- Returns a name that nothing else in this run uses.
function support.name(name)
  names = names + 1
  -- Each file of specs counts from one.
  return ("spec-%.6f-%d-%s"):format(system.gettime(), names, name)
end

-- Returns the next event of a lock or a semaphore but its suspension, which a busy machine can cause.
function support.event(of)
  local event, detail
  repeat
    event, detail = of:next_event(support.PATIENCE_MS)
  until event ~= "suspended" and event ~= "resumed"
  return event, detail
end

-- Calls `condition` until it is true.
function support.eventually(condition)
  local limit = os.time() + support.PATIENCE_MS / 1000
  while not condition() do
    assert(os.time() < limit, "it did not happen")
  end
end

-- Returns the seconds of a monotonic clock.
support.clock = system.monotime

-- Returns a function that returns random numbers from 0 up to 1, which are the same in each run and on each engine.
function support.random_numbers(seed)
  local state = seed
  return function()
    state = (state * 69069 + 1) % 4294967296
    return state / 4294967296
  end
end

-- Sleeps in real time.
function support.sleep_ms(ms)
  system.sleep(ms / 1000)
end

-- Waits with poll(2) until a descriptor is readable; false after the timeout. Plain Lua has no such call.
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

-- Calls a function, and `action` once while it waits: in a debug hook, which recognises a wait by the
-- empty function that the module then calls. Returns the results of pcall.
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
  return support.unpack(results)
end

-- Returns what `make` returns, after the end of its scope as a <close> variable, which Lua 5.4 has.
function support.scoped(make)
  return load("local make = ... local scoped <close> = make() return scoped")(make)
end

-- Asserts that a call raises a string with the text `wanted`; returns the string.
function support.raises(wanted, called, ...)
  local finished, message = pcall(called, ...)
  assert(not finished, "the call did not raise: " .. wanted)
  local is_wanted = type(message) == "string" and message:find(wanted, 1, true)
  assert(is_wanted, ("the call raised %q, expected %q"):format(tostring(message), wanted))
  return message
end

-- Asserts the shape of a failure, and returns the kind in its error table.
function support.kind(success, message, err)
  assert(success == false, "the call did not fail")
  assert(type(message) == "string" and message == err.message, "the message is the second result")
  return err.kind
end

-- Returns the statuses of a service's checks as one string, such as "passing,critical".
function support.statuses(client, service)
  local found = {}
  for _, check in ipairs(select(2, client:health_checks(service))) do
    found[#found + 1] = check.Status
  end
  return table.concat(found, ",")
end

return support
