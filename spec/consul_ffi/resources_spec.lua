-- What a process holds is the same after many calls as before: descriptors, threads, memory.
local consul_ffi = require("consul_ffi")
local lfs = require("lfs")
local support = require("spec.support")

-- What the allocators of the engine and of the library may keep for later.
local SLACK_KB = 4096

local function entries(folder)
  local found = {}
  for name in lfs.dir(folder) do
    found[#found + 1] = name
  end
  return found
end

local function held()
  collectgarbage()
  collectgarbage()
  local status = assert(io.open("/proc/self/status"))
  local resident_kb = tonumber(status:read("*a"):match("VmRSS:%s*(%d+)"))
  status:close()
  return { descriptors = #entries("/proc/self/fd"), threads = #entries("/proc/self/task"), resident_kb = resident_kb }
end

-- Works a little, then a lot: the latter must leave nothing.
local function leaves_nothing(count, work)
  work(math.floor(count / 5))
  local before = held()
  work(count)
  local after
  -- A thread that was told to end, and a connection's last words, take a moment.
  support.eventually(function()
    after = held()
    return after.descriptors <= before.descriptors and after.threads <= before.threads
  end)
  local grown = after.resident_kb - before.resident_kb
  assert.is_true(grown <= SLACK_KB, ("%d kB more after %d"):format(grown, count))
end

-- The sockets of this process, each by a name that no other one ever has.
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
    pending("shows what it holds only in Linux's /proc")
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

  it("makes 10,000 calls over one connection", function()
    get(1)
    local before = sockets()
    get(10000)
    assert.same(before, sockets())
  end)

  it("keeps nothing of 10,000 calls", function()
    leaves_nothing(10000, get)
  end)

  it("keeps nothing of 1,000 waits that were abandoned", function()
    local _, _, meta = assert(client:kv_get(key))
    -- A real agent holds an abandoned connection for as long as the query would have waited, and
    -- refuses the 201st: it gets a hundred in a second, and not for long.
    local timeout_ms = support.simulated and 1 or 10
    leaves_nothing(support.simulated and 1000 or 100, function(count)
      for _ = 1, count do
        local waiting = { index = meta.index, wait = "1s", timeout_ms = timeout_ms, retry = false }
        assert.equal("timeout", support.kind(client:kv_get(key, waiting)))
      end
    end)
  end)

  it("keeps nothing of 1,000 watches that were abandoned", function()
    -- As above: a real agent gets a tenth, whose queries do not wait for long. Connections of those
    -- that were answered are kept for others, here for a moment only.
    local watching = support.client({ idle_timeout_ms = 100 })
    leaves_nothing(support.simulated and 1000 or 100, function(count)
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

  it("keeps nothing of 1,000 clients that were made and collected", function()
    leaves_nothing(1000, function(count)
      for i = 1, count do
        assert(support.client():kv_get(key))
        if i % 50 == 0 then
          collectgarbage()
        end
      end
    end)
  end)

  it("keeps nothing of 50 nodes of a cluster that were started and stopped or collected", function()
    local prefix = support.name("nodes") .. "/"
    leaves_nothing(50, function(count)
      for i = 1, count do
        local node = consul_ffi.ConsulHACluster:new({
          node_id = "n1",
          node_address = "127.0.0.1:9000",
          nodes_prefix = prefix .. "nodes/",
          simulate = support.simulated,
          idle_timeout_ms = 100,
        })
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
    client:kv_delete_tree(prefix)
  end)
end)
