-- One of two processes that benches/builds.sh compares: for each line of its input it makes as many calls of kv_get as
-- that says, and prints the microseconds of one.
--
--   LUA_CPATH=… luajit benches/builds.lua ENDPOINT
local ffi = require("ffi")

ffi.cdef("struct timespec { long s, ns; }; int clock_gettime(int, struct timespec *);")
local time = ffi.new("struct timespec")
local function now_us()
  ffi.C.clock_gettime(1, time)
  return tonumber(time.s) * 1e6 + tonumber(time.ns) / 1e3
end

local client = require("consul_ffi").new({ endpoint = arg[1] })
for line in io.lines() do
  local calls = tonumber(line)
  local begun = now_us()
  for _ = 1, calls do
    assert(client:kv_get("bench/key"))
  end
  io.write(("%.3f\n"):format((now_us() - begun) / calls))
  io.flush()
end
