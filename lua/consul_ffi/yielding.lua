-- Clients whose methods yield: the calling coroutine waits for Consul while others run. The modules for the event
-- loops (consul_ffi.openresty, .luv, .cqueues, .luasocket) are made of this; each says only how to wait.
local consul_ffi = require("consul_native")

local internal = consul_ffi._internal

-- The longest wait, in milliseconds. The loops take no more: luv integers, LuaSocket a timeval, cosockets 31 bits.
local LONGEST_MS = 2 ^ 31 - 1

-- Methods of a client that ask Consul nothing.
local LOCAL = { close = true, destroy = true, start = true, registered = true, methods = true }

local unpack = rawget(_G, "unpack") or rawget(table, "unpack")

-- The results of a native function that ran in pcall; its error is raised where our caller was called.
local function raising(ran, ...)
  if not ran then
    error((...), 3)
  end
  return ...
end

-- A metatable for objects that stand for one of the native module, in the field `object`: `methods`, and the object's
-- other methods.
local function class_of(methods)
  return {
    __index = function(this, name)
      local method = methods[name]
      if method ~= nil then
        return method
      end
      local original = internal.member(this.object, name)
      if type(original) ~= "function" then
        return original
      end
      method = function(self, ...)
        return raising(pcall(original, self.object, ...))
      end
      methods[name] = method
      return method
    end,
    __tostring = function(this)
      return tostring(this.object)
    end,
  }
end

-- An object of a class that stands for a native one, or the results of a failure to make that.
local function made(class, object, ...)
  if type(object) ~= "userdata" then
    return object, ...
  end
  return setmetatable({ object = object }, class)
end

-- The number of values in a call of a batch; some may be nil. Raises an error where the batch was called.
local function count_of(i, call)
  if type(call) ~= "table" then
    error(([[batch: call #%d: a call must be a table such as { "kv_get", "key" }, got a %s]]):format(i, type(call)), 3)
  end
  local count = 0
  for place in pairs(call) do
    if type(place) ~= "number" then
      local words = "batch: call #%d: a call must be a list of its method, its arguments and a table of options, got %q"
      error(words:format(i, tostring(place)), 3)
    end
    count = math.max(count, place)
  end
  return count
end

-- The functions of the module for an event loop. `wait(object, limit_ms)` yields until a handle, watch, view, lock or
-- cluster is ready, or up to a limit in milliseconds, or for a shorter time; it returns false, a message and an error
-- if nothing more can come. `now_s()` is a clock in seconds. `check(level)` raises an error at that level if the caller
-- cannot wait; what is begun without a check has its effect although the caller gets an error. `over()`, if there is
-- one, returns false, a message and an error when a loop of waits is to end, also a loop that always finds something.
-- `carry(call)`, if there is one, sends and receives what a call of the native module asks for, on sockets of the loop,
-- and returns the call's results.
return function(wait, now_s, check, over, carry)
  over = over or function() end
  local Watch, View, Views, Lock, Client = {}, {}, {}, {}, {}
  local watch_class, view_class, views_class = class_of(Watch), class_of(View), class_of(Views)
  local lock_class, client_class = class_of(Lock), class_of(Client)

  -- Returns a limit in milliseconds, which the native methods do not see.
  local function limit_of(method, limit_ms)
    if limit_ms ~= nil and (type(limit_ms) ~= "number" or limit_ms ~= limit_ms) then
      local got = type(limit_ms) == "number" and "a number NaN" or "a " .. type(limit_ms)
      error(("%s: timeout_ms must be a number of milliseconds, got %s"):format(method, got), 3)
    end
    return limit_ms
  end

  -- The results of a call in the background, when it is done.
  local function finished(handle)
    while true do
      local ready, message, err = wait(handle)
      local done, success, response, extra = handle:poll()
      if done or ready == false then
        handle:close()
      end
      if done then
        return success, response, extra
      elseif ready == false then
        return false, message, err
      end
    end
  end

  -- Waits once, without a limit if there is none, or for a shorter time.
  local function wait_up_to(object, limit_ms)
    return wait(object, limit_ms and math.min(limit_ms, LONGEST_MS))
  end

  -- Waits until `look` returns something, or the limit is over.
  local function wait_for(object, limit_ms, look)
    local ends = limit_ms and now_s() + limit_ms / 1000
    while true do
      local found, first, second, third = look()
      local left = ends and (ends - now_s()) * 1000
      if found or left and left <= 0 then
        return first, second, third
      end
      local ready, message, err = wait_up_to(object, left)
      if ready == false then
        return false, message, err
      end
    end
  end

  -- The method `next` of an object whose changes `look` finds.
  local function next_of(look)
    return function(this, limit_ms)
      limit_ms = limit_of("next", limit_ms)
      local goes_on, message, err = over()
      if goes_on == false then
        return false, message, err
      end
      return wait_for(this.object, limit_ms, function()
        local success, change, extra = look(this.object)
        return not success or change ~= nil, success, change, extra
      end)
    end
  end

  Watch.next = next_of(function(watch)
    return watch:poll()
  end)

  Watch.changes = internal.changes_of(Watch)

  function View.ready(this, limit_ms)
    return wait_for(this.object, limit_of("ready", limit_ms), function()
      local success, message, err = this.object:ready(0)
      return success or err.kind == "closed", success, message, err
    end)
  end

  Views.ready = View.ready

  Views.next = next_of(function(views)
    return views:next(0)
  end)

  function Lock.acquire(this, options)
    check(3)
    local lock = this.object
    local started, message, err = raising(pcall(lock.start, lock, options))
    while started ~= false do
      local event, detail = lock:poll()
      if event == "acquired" then
        return true, detail
      elseif event == "failed" then
        return false, detail.message, detail
      elseif event == nil then
        started, message, err = wait(lock)
      end
    end
    return false, message, err
  end

  function Lock.next_event(this, limit_ms)
    limit_ms = limit_of("next_event", limit_ms)
    local event, detail = this.object:poll()
    if event == nil and wait_up_to(this.object, limit_ms) ~= false then
      event, detail = this.object:poll()
    end
    return event, detail
  end

  Lock.events = internal.events_of(Lock)

  function Lock.fenced_put(this, ...)
    check(3)
    return finished(raising(pcall(this.object.start, this.object, "fenced_put", ...)))
  end

  -- It begins also where a caller cannot wait for its end: other holders would wait for the session's end.
  function Lock.release(this, ...)
    local handle = raising(pcall(this.object.start, this.object, "release", ...))
    local can_wait, why = pcall(check, 0)
    if not can_wait then
      -- A handle that is collected ends its call.
      this.releasing = handle
      error(why .. "; the release has begun", 2)
    end
    return finished(handle)
  end

  local classes = {
    watch = watch_class,
    service_view = view_class,
    service_views = views_class,
    lock = lock_class,
    semaphore = lock_class,
  }
  for name, class in pairs(classes) do
    Client[name] = function(this, ...)
      return made(class, raising(pcall(this.object[name], this.object, ...)))
    end
  end

  -- As the native method, without its options: the calls run like calls of handles.
  function Client.batch(this, calls)
    if type(calls) ~= "table" then
      error(("batch: calls must be a list of calls, got %s"):format(type(calls)), 2)
    end
    check(3)
    local handles, counts, results = {}, {}, {}
    for i, call in ipairs(calls) do
      counts[i] = count_of(i, call)
    end
    for i, call in ipairs(calls) do
      local started, handle = pcall(this.object.start, this.object, unpack(call, 1, counts[i]))
      if not started then
        for _, earlier in ipairs(handles) do
          earlier:close()
        end
        error(("batch: call #%d: %s"):format(i, handle:gsub("^start: ", "")), 2)
      end
      handles[i] = handle
    end
    for i, handle in ipairs(handles) do
      local success, response, extra = finished(handle)
      if success then
        results[i] = { ok = true, value = response, meta = extra }
      else
        results[i] = { ok = false, message = response, err = extra }
      end
    end
    return true, results
  end

  -- All other methods are calls of Consul.
  setmetatable(Client, {
    __index = function(methods, name)
      if LOCAL[name] or type(name) ~= "string" or type(rawget(consul_ffi.ConsulClient, name)) ~= "function" then
        return nil
      end
      local function call(this, ...)
        if getmetatable(this) ~= client_class then
          error(("%s: call it with a colon, as in object:%s(…)"):format(name, name), 2)
        end
        check(3)
        if not carry then
          return finished(raising(pcall(this.object.start, this.object, name, ...)))
        end
        local begun = raising(pcall(internal.in_loop, this.object, name, ...))
        return (internal.is_loop_call(begun) and carry or finished)(begun)
      end
      methods[name] = call
      return call
    end,
  })

  ---@class consul_ffi.Yielding
  local adapter = { wait = wait }

  ---A client whose methods yield, from one whose methods block.
  ---@param client consul_ffi.ConsulClient
  ---@return consul_ffi.ConsulClient client
  function adapter.client(client)
    return setmetatable({ object = client }, client_class)
  end

  ---A new client whose methods yield.
  ---@param options? consul_ffi.ConsulConfig
  ---@return consul_ffi.ConsulClient client
  function adapter.new(options)
    return made(client_class, raising(pcall(consul_ffi.new, options)))
  end

  return adapter
end
