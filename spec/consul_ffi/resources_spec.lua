-- Many calls leak no file descriptors, threads or memory.
local lfs = require("lfs")
local managers = require("spec.consul_production.support")
local support = require("spec.support")

-- The free memory that the allocators of engine and library may keep.
local SLACK_KB = 4096

local function entries(folder)
  local found = {}
  for name in lfs.dir(folder) do
    found[#found + 1] = name
  end
  return found
end

local function resources()
  collectgarbage()
  collectgarbage()
  local status = assert(io.open("/proc/self/status"))
  local resident_kb = tonumber(status:read("*a"):match("VmRSS:%s*(%d+)"))
  status:close()
  return { descriptors = #entries("/proc/self/fd"), threads = #entries("/proc/self/task"), resident_kb = resident_kb }
end

-- Asserts that `work(count)` leaks nothing after a warm-up.
local function assert_no_leak(count, work)
  work(math.floor(count / 5))
  local before = resources()
  work(count)
  local after
  -- Threads and connections take a moment to end.
  support.eventually(function()
    after = resources()
    return after.descriptors <= before.descriptors and after.threads <= before.threads
  end)
  local grown = after.resident_kb - before.resident_kb
  assert.is_true(grown <= SLACK_KB, ("%d kB more after %d"):format(grown, count))
end

-- The set of this process's sockets, by their unique inode.
local function sockets()
  local found = {}
  for _, name in ipairs(entries("/proc/self/fd")) do
    local target = lfs.symlinkattributes("/proc/self/fd/" .. name, "target")
    if target and target:match("^socket:") then
      found[target] = true
    end
  end
  return found
end

describe("a process", function()
  if not lfs.attributes("/proc/self/task") then
    pending("SKIPPED: this system has no /proc/self")
    return
  end

  local client
  local key = support.name("resources")

  setup(function()
    client = support.client()
    assert(client:kv_put(key, "value"))
  end)

  teardown(function()
    client:kv_delete(key)
    client:close()
  end)

  local function get(count)
    for _ = 1, count do
      assert(client:kv_get(key))
    end
  end

  it("makes 10,000 calls over one connection, and leaks nothing", function()
    get(1)
    local before = sockets()
    assert_no_leak(10000, get)
    -- Sockets of earlier tests may be closed meanwhile.
    for socket in pairs(sockets()) do
      assert.is_true(before[socket], socket .. " is another connection")
    end
  end)

  it("leaks nothing in 1,000 abandoned blocking queries", function()
    local _, _, meta = assert(client:kv_get(key))
    -- A real agent keeps an abandoned connection for the wait of its query, and refuses the 201st
    -- connection: so it gets 100 queries that wait for a second.
    local timeout_ms = support.simulated and 1 or 10
    assert_no_leak(support.simulated and 1000 or 100, function(count)
      for _ = 1, count do
        local waiting = { index = meta.index, wait = "1s", timeout_ms = timeout_ms, retry = false }
        assert.equal("timeout", support.kind(client:kv_get(key, waiting)))
      end
    end)
  end)

  it("leaks nothing in 1,000 abandoned watches", function()
    -- As above, a real agent gets 100. Idle connections of answered queries are closed soon.
    local watching = support.client({ idle_timeout_ms = 100 })
    assert_no_leak(support.simulated and 1000 or 100, function(count)
      for i = 1, count do
        local watch = assert(watching:watch("kv_get", key, { wait = "1s" }))
        assert(watch:fd())
        if i % 10 == 0 then
          assert(watch:next())
        end
      end
    end)
    watching:close()
  end)

  it("closes the descriptors of what is closed and of locks that are released, without the collector", function()
    local function eventfds()
      local count = 0
      for _, name in ipairs(entries("/proc/self/fd")) do
        local target = lfs.symlinkattributes("/proc/self/fd/" .. name, "target")
        count = count + (target and target:match("eventfd") and 1 or 0)
      end
      return count
    end
    local looks = {
      watch = { "kv_get", key, look = "next" },
      service_view = { "consul", look = "ready" },
      service_views = { { "consul" }, look = "next" },
      lock = { key .. "-lock", look = "acquire" },
      semaphore = { key .. "-semaphore", 1, look = "acquire" },
    }
    collectgarbage("stop")
    for method, how in pairs(looks) do
      local function opened()
        local object = assert(client[method](client, support.unpack(how)))
        local before = eventfds()
        assert(object:fd())
        assert.equal(before + 1, eventfds(), method)
        -- The descriptor reports it.
        assert(object[how.look](object))
        return object, before
      end
      local object, before = opened()
      local has = {}
      for _, name in ipairs(object:methods()) do
        has[name] = true
      end
      object:close()
      assert.equal(before, eventfds(), method)
      if has.release then
        object, before = opened()
        assert(object:release())
        assert.equal(before, eventfds(), method .. ":release")
        -- The next one has another descriptor.
        assert(object:acquire())
        assert(object:fd())
        object:close()
      end
      -- Somebody may wait for this one, also while others look: it stays, and can be read, until another close.
      object, before = opened()
      local fd = object:fd()
      for _, look in ipairs({ "poll", "pick", "all", "age_s" }) do
        if has[look] then
          object[look](object)
        end
      end
      object:close()
      assert.equal(before + 1, eventfds(), method)
      assert.is_true(support.readable == nil or support.readable(fd, 0))
      object:close()
      assert.equal(before, eventfds(), method)
    end
    collectgarbage("restart")
  end)

  it("leaks nothing with 1,000 garbage-collected clients", function()
    assert_no_leak(1000, function(count)
      for i = 1, count do
        assert(support.client():kv_get(key))
        if i % 50 == 0 then
          collectgarbage()
        end
      end
    end)
  end)

  it("has no descriptors for 3,000 idle clients, and collects those of dropped ones without any left", function()
    local program, output = os.tmpname(), os.tmpname()
    managers.write(program, [[
      collectgarbage("stop")
      local consul_ffi, kept = require("consul_ffi"), {}
      local function client()
        return assert(consul_ffi.new({ simulate = true }))
      end
      for i = 1, 3000 do
        kept[i] = client()
      end
      for _ = 1, 300 do
        assert(client():kv_get("key"))
      end
      for i = 1, 300 do
        local success, message, err = kept[i]:kv_get("key")
        if not success then
          io.write(err.kind, ": ", message)
          return
        end
      end
    ]])
    os.execute(("ulimit -n 64; %s %s > %s 2>&1"):format(support.interpreter, program, output))
    local said = managers.read(output)
    assert.matches("^config: .*Too many open files.* keeps descriptors until it is closed$", said)
    os.remove(program)
    os.remove(output)
  end)

  it("leaks nothing with 50 cluster nodes that were stopped or garbage-collected", function()
    local prefix = support.name("nodes")
    assert_no_leak(50, function(count)
      for i = 1, count do
        local node = support.node(prefix, "n1", { idle_timeout_ms = 100 })
        assert(node:start())
        assert(node:fd())
        if i % 2 == 0 then
          assert(node:stop())
        else
          node = nil -- luacheck: ignore
          collectgarbage()
          collectgarbage()
        end
      end
    end)
    client:kv_delete_tree(prefix .. "/")
  end)
end)
