-- Runs functions as coroutines, whose calls look like blocking calls and wait concurrently.
--
--   run(client, { function(call) print(call("kv_get", "a")) end, function(call) … end })

-- Sleeps until a call may be done. Plain Lua has no poll(2), so there it waits up to 10 ms for the first
-- call.
local function sleep(waiting)
  waiting[1].handle:wait(10)
end

if rawget(_G, "jit") then
  local ffi = require("ffi")
  ffi.cdef("struct pollfd { int fd; short events, revents; }; int poll(struct pollfd *, unsigned long, int);")
  function sleep(waiting)
    local fds = ffi.new("struct pollfd[?]", #waiting)
    for i, call in ipairs(waiting) do
      fds[i - 1].fd, fds[i - 1].events = assert(call.handle:fd()), 1 -- POLLIN
    end
    ffi.C.poll(fds, #waiting, -1)
  end
end

-- Returns when all functions have ended.
local function run(client, works)
  local waiting = {}
  -- Resumes a coroutine until its next call.
  local function resume(thread, ...)
    local alive, handle = coroutine.resume(thread, ...)
    assert(alive, handle)
    if handle then
      table.insert(waiting, { thread = thread, handle = handle })
    end
  end
  local function continue(call, done, ...)
    if done then
      call.handle:close()
      return resume(call.thread, ...)
    end
    table.insert(waiting, call)
  end
  for _, work in ipairs(works) do
    resume(coroutine.create(work), function(...)
      return coroutine.yield(client:start(...))
    end)
  end
  while #waiting > 0 do
    sleep(waiting)
    local calls = waiting
    waiting = {}
    for _, call in ipairs(calls) do
      continue(call, call.handle:poll())
    end
  end
end

return run
