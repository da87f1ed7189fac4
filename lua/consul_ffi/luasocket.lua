-- Consul beside LuaSocket: a loop of coroutines around socket.select, for programs that have no other loop.
local socket = require("socket")
local yielding = require("consul_ffi.yielding")

-- A coroutine of a loop yields this to wait: for socket.select, an object with a descriptor.
local Wait = {}
Wait.__index = Wait

function Wait:getfd()
  return self.fd
end

function Wait.dirty()
  return false
end

-- A clock in seconds that is never set back, which that of the machine can be.
local read_at, offset = 0, 0
local function now_s()
  local read = socket.gettime()
  offset, read_at = offset + math.max(0, read_at - read), read
  return read + offset
end

-- The loop that runs the current coroutine.
local running

local function check(level)
  local thread, is_main = coroutine.running()
  if not (running and thread) or is_main then
    error("a call that yields must be made in a coroutine of a loop: loop:spawn(function() … end)", level)
  end
end

local function wait(object, limit_ms)
  check(4)
  local fd, message, err = object:fd()
  if not fd then
    return false, message, err
  end
  coroutine.yield(setmetatable({ fd = fd, ends = limit_ms and now_s() + limit_ms / 1000 }, Wait))
end

---@class consul_ffi.luasocket.Loop
local Loop = {}
Loop.__index = Loop

local function resume(loop, thread)
  local before = running
  running, loop.waits[thread] = loop, nil
  local ran, waits = coroutine.resume(thread)
  running = before
  if not ran then
    error(debug.traceback(thread, waits), 0)
  end
  loop.waits[thread] = waits
end

---Runs a function as a coroutine, in which calls yield. An error in it is raised by the step in which it happens.
---@param work fun()
function Loop:spawn(work)
  resume(self, coroutine.create(work))
end

---Waits for up to timeout_s seconds until a coroutine can continue or one of the program's own sockets can be read, and
---runs the coroutines. Returns the sockets that can be read, and whether coroutines are left.
---@param timeout_s? number
---@param sockets? table[]
---@return table[] readable
---@return boolean left
function Loop:step(timeout_s, sockets)
  local readable, now, left = {}, now_s(), timeout_s
  for i, own in ipairs(sockets or {}) do
    readable[i] = own
  end
  for _, waits in pairs(self.waits) do
    readable[#readable + 1] = waits
    if waits.ends then
      left = math.min(left or math.huge, math.max(0, waits.ends - now))
    end
  end
  local ready = socket.select(readable, nil, left)
  now = now_s()
  local threads, own = {}, {}
  for thread, waits in pairs(self.waits) do
    if ready[waits] or waits.ends and waits.ends <= now then
      threads[#threads + 1] = thread
    end
  end
  for _, one in ipairs(ready) do
    if getmetatable(one) ~= Wait then
      own[#own + 1] = one
    end
  end
  for _, thread in ipairs(threads) do
    resume(self, thread)
  end
  return own, next(self.waits) ~= nil
end

---Steps until all coroutines have ended.
function Loop:run()
  while next(self.waits) do
    self:step()
  end
end

---@class consul_ffi.luasocket: consul_ffi.Yielding
local luasocket = yielding(wait, now_s, check)

---A loop without coroutines.
---@return consul_ffi.luasocket.Loop loop
function luasocket.loop()
  return setmetatable({ waits = {} }, Loop)
end

return luasocket
