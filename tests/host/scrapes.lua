-- Scrapes of a status server with a node leave the memory and the descriptors of their process as they were.
local consul_ffi = require("consul_ffi")

local SCRAPES = 1000
-- An answer that was kept each time would leave much more.
local SLACK_KB = 1024

local node = consul_ffi.ConsulHACluster:new({
  node_id = "n1", node_address = "127.0.0.1:9000", simulate = true, shards = 64, log_level = "ERROR",
})
assert(node:start())
local server = assert(consul_ffi.serve_status())

local function read(path, pattern)
  local file = assert(io.open(path))
  local found = file:read("*a"):match(pattern)
  file:close()
  return found
end

local id = read("/proc/self/stat", "^%d+")

local function lines(command)
  local count, output = 0, io.popen(command)
  for line in output:lines() do
    count = count + (line ~= "" and 1 or 0)
  end
  output:close()
  return count
end

-- As many requests for each path, on one connection, and some on one each.
local function scrape(count)
  for _, path in ipairs({ "metrics", "cluster" }) do
    for header, times in pairs({ ["Connection: keep-alive"] = count, ["Connection: close"] = 50 }) do
      local command = "curl -sf -m 100 -H '%s' -o /dev/null -w '%%{http_code}\\n' 'http://%s/%s?[1-%d]' | grep '^200$'"
      local good = lines(command:format(header, server.address, path, times))
      assert(good == times, ("%s: %d of %d answers"):format(path, good, times))
    end
  end
end

local function resident_kb()
  collectgarbage()
  return tonumber(read("/proc/self/status", "VmRSS:%s*(%d+) kB"))
end

local function descriptors()
  return lines("ls /proc/" .. id .. "/fd")
end

scrape(SCRAPES / 2)
local kb, open = resident_kb(), descriptors()
scrape(SCRAPES)
local grown = resident_kb() - kb
assert(grown <= SLACK_KB, ("the process has grown by %d kB"):format(grown))
local limit = os.time() + 300
while descriptors() > open do
  assert(os.time() < limit, ("%d descriptors were open, and now %d"):format(open, descriptors()))
end
assert(server:close())
node:stop()
