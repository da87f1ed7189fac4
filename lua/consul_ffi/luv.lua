-- Consul in a libuv loop (luv): calls yield their coroutine while the loop runs.
local uv = require("luv")
local yielding = require("consul_ffi.yielding")

-- How soon a coroutine looks again that cannot poll, in milliseconds.
local AGAIN_MS = 10

-- Returns the coroutine that calls this.
local function check(level)
  local thread, is_main = coroutine.running()
  if not thread or is_main then
    error("a call that yields must be made in a coroutine: coroutine.wrap(function() … end)()", level)
  end
  return thread
end

-- Starts a poll of libuv, or a timer, which calls `continue` once.
local function wait(object, limit_ms)
  local thread = check(4)
  local fd, message, err = object:fd()
  if not fd then
    return false, message, err
  end
  -- libuv refuses a second poll of a descriptor: another coroutine waits for the same object.
  local poll = uv.new_poll(fd)
  local limit = poll and limit_ms or AGAIN_MS
  local timer = (limit_ms or not poll) and uv.new_timer()
  local function continue()
    if poll then
      poll:close()
    end
    if timer then
      timer:close()
    end
    local ran, why = coroutine.resume(thread)
    if not ran then
      error(debug.traceback(thread, why), 0)
    end
  end
  if poll then
    poll:start("r", continue)
  end
  if timer then
    timer:start(math.max(0, math.floor(limit)), 0, continue)
  end
  coroutine.yield()
end

return yielding(wait, function()
  return uv.hrtime() / 1e9
end, check)
