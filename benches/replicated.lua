-- Writes to replicated shards: N 3, W 2, on three processes. benches/replicated.sh runs it.
--
--   luajit benches/replicated.lua                             the benchmark, which is the node n1
--   luajit benches/replicated.lua NODE PREFIX FOLDER PARENT   another node, until the process PARENT ends
--   luajit benches/replicated.lua reader PREFIX               an observer that reads the long range
local consul_ffi = require("consul_ffi")
local Storage = require("examples.tsdb.storage")
local ffi = require("ffi")
local support = require("examples.support")

local BATCH, ROUNDS, SINGLES = 1000, 15, 2000

-- The writes whose times give a p99, and how much longer each takes on a slow replica, in seconds. A replica is
-- also stopped (SIGSTOP) and killed.
local MANY, SLOWNESS = 200, 0.05

-- The records of a long range, each of a hundred bytes.
local LONG = 1000000

-- The bounds; memory in MB.
local MOST_OF_DIRECT, LEAST_OF_CALLS, MOST_WITH_A_BAD_ONE, MOST_MEMORY = 2.5, 0.5, 1.3, 32

ffi.cdef([[
  struct timespec { long s, ns; };
  int clock_gettime(int, struct timespec *);
  int getpid(void);
  int usleep(unsigned);
]])

local function now()
  local time = ffi.new("struct timespec")
  ffi.C.clock_gettime(1, time)
  return tonumber(time.s) + tonumber(time.ns) / 1e9
end

local own, prefix, folder, parent = arg[1], arg[2] or support.prefix, arg[3], arg[4]
local is_benchmark, is_reader = not own, own == "reader"
if is_benchmark then
  own, folder = "n1", os.tmpname()
  os.remove(folder)
  support.sh("mkdir " .. folder)
end

local cluster = consul_ffi.ConsulHACluster:new({
  consul_url = support.url,
  leader_key = prefix .. "leader",
  nodes_prefix = prefix .. "nodes/",
  shards_prefix = prefix .. "shards/",
  config_key = prefix .. "config",
  node_id = own,
  node_address = "127.0.0.1:900" .. (own:match("%d") or 9),
  shards = 8,
  replicas = 3,
  observer = is_reader,
})

if is_reader then
  -- The most memory that this process has had, in MB.
  local function peak()
    local file = assert(io.open("/proc/self/status"))
    local kilobytes = file:read("*a"):match("VmHWM:%s*(%d+) kB")
    file:close()
    return kilobytes / 1024
  end
  local points = cluster:replicate("points")
  assert(cluster:start())
  -- The first pages need the library's buffers.
  local before, begun, count, bytes = nil, now(), 0, 0
  for record, message in points:read("long", { from = "long/", to = "long0", timeout_ms = 20000 }) do
    assert(record, message)
    count, bytes = count + 1, bytes + #record.id + #record.data
    if count == LONG / 100 then
      before = peak()
    end
  end
  assert(count == LONG, count .. " records")
  print(("%.1f %.1f %.1f %.1f"):format(bytes / 2 ^ 20, now() - begun, before, peak()))
  os.exit(0)
end

assert(cluster:handle("nothing", function(body)
  return body
end))
local slowness = 0
assert(cluster:handle("be_slow", function(seconds)
  slowness = seconds
  return true
end))
assert(cluster:handle("pid", function()
  return ffi.C.getpid()
end))
assert(cluster:handle("is_ready", function()
  return cluster:status().ready
end))
local disk = Storage.open(folder .. "/" .. own)
local apply = disk.apply
function disk:apply(shard, records)
  local result = apply(self, shard, records)
  ffi.C.usleep(slowness * 1e6)
  return result
end
local points = cluster:replicate("points", disk)
local cache = cluster:replicate("cache", "memory")
assert(cluster:start())

if not is_benchmark then
  local function is_alive()
    local file = io.open("/proc/" .. parent .. "/stat")
    return file and file:close()
  end
  while is_alive() do
    cluster:poll(100)
  end
  assert(cluster:stop())
  return
end

-- Returns the time of each round of several ways, which take turns: lists of seconds.
local function rounds(ways)
  local times = {}
  for round = 0, ROUNDS do
    for name, way in pairs(ways) do
      local begun = now()
      way(round)
      times[name] = times[name] or {}
      -- The first round warms up.
      if round > 0 then
        table.insert(times[name], now() - begun)
      end
    end
  end
  return times
end

local function median(times)
  table.sort(times)
  return times[math.ceil(#times / 2)]
end

local failed = false

-- Each part is shown when it ends, also in a file.
io.stdout:setvbuf("line")

local function say(what, ratio, bound, holds)
  print(("  %s: %.2f (%s)"):format(what, ratio, bound))
  failed = failed or not holds
end

local function start_node(name)
  support.sh(("luajit benches/replicated.lua %s %s %s %d >>%s/%s.log 2>&1 &"):format(
    name, prefix, folder, ffi.C.getpid(), folder, name))
end

start_node("n2")
start_node("n3")
support.wait_for("three nodes with all shards", function()
  return points:write("any", { { id = "any", data = "" } }) and cache:write("any", { { id = "any", data = "" } })
end, function()
  cluster:poll(100)
end)

local direct = {}
for i = 1, 3 do
  direct[i] = Storage.open(folder .. "/direct" .. i)
end

local function batch(round)
  local records = {}
  for i = 1, BATCH do
    records[i] = { id = ("cpu/%06d"):format(round * BATCH + i), data = "0.123456789" }
  end
  return records
end

local times = rounds({
  direct = function(round)
    local records = batch(round)
    for _, record in ipairs(records) do
      record.version = ("%032x"):format(round + 1)
    end
    for _, storage in ipairs(direct) do
      assert(storage:apply(0, records))
    end
  end,
  replicated = function(round)
    assert(points:write("cpu", batch(round)))
  end,
})
print(("a write of %d records, median of %d rounds"):format(BATCH, ROUNDS))
print(("  three storages directly    %8.2f ms"):format(median(times.direct) * 1e3))
print(("  replicated, N 3 and W 2    %8.2f ms"):format(median(times.replicated) * 1e3))
local ratio = median(times.replicated) / median(times.direct)
say("replicated / direct", ratio, ("at most %.2f, aim 1.50"):format(MOST_OF_DIRECT), ratio <= MOST_OF_DIRECT)

times = rounds({
  call = function()
    for _ = 1, SINGLES / ROUNDS do
      assert(cluster:call("n2", "nothing", "x"))
    end
  end,
  write = function()
    for i = 1, SINGLES / ROUNDS do
      assert(cache:write("key" .. i, { { id = "key" .. i, data = "x" } }))
    end
  end,
})
local per_call, per_write = median(times.call) * ROUNDS / SINGLES, median(times.write) * ROUNDS / SINGLES
print(("single writes on the memory storage, median of %d rounds"):format(ROUNDS))
print(("  a call of another node     %8.1f us"):format(per_call * 1e6))
print(("  a write, N 3 and W 2       %8.1f us"):format(per_write * 1e6))
ratio = per_call / per_write
say("rate of writes / rate of calls", ratio, ("at least %.2f"):format(LEAST_OF_CALLS), ratio >= LEAST_OF_CALLS)

-- The longest but one of a hundred.
local function p99()
  local taken = {}
  for i = 1, MANY do
    local begun = now()
    assert(points:write("p99", { { id = "p99/" .. i, data = "x" } }))
    taken[i] = now() - begun
  end
  table.sort(taken)
  return taken[math.ceil(0.99 * #taken)]
end

-- Waits until the third replica has answered `name`.
local function ask_third(name, argument)
  local success, answer
  support.wait_for("n3, which answers", function()
    success, answer = cluster:call("n3", name, argument, { timeout_ms = 20000 })
    return success
  end, function()
    cluster:poll(100)
  end)
  return answer
end

-- The fault of the third replica, how that begins, and how it ends.
local pid
local troubles = {
  { ("slower by %d ms"):format(SLOWNESS * 1e3), function()
    ask_third("be_slow", SLOWNESS)
  end, function()
    ask_third("be_slow", 0)
  end },
  { "stopped", function()
    pid = ask_third("pid")
    support.sh("kill -STOP " .. pid)
  end, function()
    support.sh("kill -CONT " .. pid)
    ask_third("is_ready")
  end },
  { "killed", function()
    support.sh("kill -KILL " .. ask_third("pid"))
  end, function()
    start_node("n3")
    ask_third("is_ready")
  end },
}
print(("single writes on SQLite, p99 of %d, median of 5 rounds"):format(MANY))
for _, trouble in ipairs(troubles) do
  local name, begin, finish = unpack(trouble)
  local without, with = {}, {}
  for _ = 1, 5 do
    without[#without + 1] = p99()
    begin()
    with[#with + 1] = p99()
    finish()
  end
  print(("  three replicas alike       %8.2f ms"):format(median(without) * 1e3))
  print(("  one %-22s %8.2f ms"):format(name, median(with) * 1e3))
  ratio = median(with) / median(without)
  say(name .. " / alike", ratio, ("at most %.2f"):format(MOST_WITH_A_BAD_ONE), ratio <= MOST_WITH_A_BAD_ONE)
end

local begun = now()
for first = 1, LONG, BATCH do
  local records = {}
  for i = first, first + BATCH - 1 do
    records[#records + 1] = { id = ("long/%07d"):format(i), data = ("x"):rep(88) }
  end
  assert(points:write("long", records, { timeout_ms = 20000 }))
end
local written = now() - begun
print(("a range of %d records, written in %.0f s, %.0f a second"):format(LONG, written, LONG / written))
local report = folder .. "/reader.txt"
support.sh(("luajit benches/replicated.lua reader %s >%s 2>&1 &"):format(prefix, report))
local read
repeat
  cluster:poll(100)
  local file = assert(io.open(report))
  read = file:read("*l")
  file:close()
until read
local megabytes, seconds, before, after = read:match("^([%d.]+) ([%d.]+) ([%d.]+) ([%d.]+)$")
assert(megabytes, read)
print(("  %s MB, read in pages in %s s"):format(megabytes, seconds))
print(("  memory of the reader: %s MB after the first hundredth, %s MB at most"):format(before, after))
say("growth in MB", after - before, ("at most %d"):format(MOST_MEMORY), after - before <= MOST_MEMORY)

assert(cluster:stop())
support.sh("rm -r " .. folder)
os.exit(failed and 1 or 0)
