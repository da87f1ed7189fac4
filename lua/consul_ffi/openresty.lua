-- Consul in OpenResty, and in nginx with the Lua module: a call blocks its request alone, not the worker, and a request
-- that ends cancels its calls.
local yielding = require("consul_ffi.yielding")
local now_s = require("consul_ffi.openresty.clock")

-- The phases of a request that can wait; the others have no cosockets.
local YIELDS = {
  rewrite = true,
  server_rewrite = true,
  access = true,
  content = true,
  timer = true,
  preread = true,
  ssl_cert = true,
  ssl_client_hello = true,
  ssl_session_fetch = true,
}

-- How long a connection to the unix socket of the worker stays open for the next wait, in milliseconds.
local IDLE_MS = 60000

-- A timer looks this often whether its worker is exiting, in milliseconds.
local EXIT_MS = 1000

-- The longest that a cosocket waits, in milliseconds.
local LONGEST_MS = 2 ^ 31 - 1

-- How much later than a wait is to end its cosocket has its timeout, which nginx logs as an error, in milliseconds.
local LATER_MS = 60000

-- The pause when a wait fails, for example without a free connection, in seconds.
local PAUSE_S = 0.05

local function check(level)
  local phase = ngx.get_phase()
  if not YIELDS[phase] then
    error(("a call cannot wait in the phase %s: make it in a timer (ngx.timer.at), or use a view"):format(phase), level)
  end
end

-- Returns what ends a timer of a worker that exits, or nil.
local function over()
  if ngx.get_phase() == "timer" and ngx.worker.exiting() then
    local message = "the worker is exiting"
    return false, message, { kind = "closed", message = message }
  end
end

local function wait(object, limit_ms)
  check(4)
  local path, line, err = object:unix_socket()
  if not path then
    return false, line, err
  end
  local socket = ngx.socket.tcp()
  if not socket:connect("unix:" .. path) then
    return ngx.sleep(PAUSE_S)
  end
  if ngx.get_phase() == "timer" then
    limit_ms = math.min(limit_ms or EXIT_MS, EXIT_MS)
  end
  local timeout_ms = LONGEST_MS
  if limit_ms then
    -- The other end of the socket ends the wait.
    limit_ms = math.ceil(math.max(limit_ms, 0))
    timeout_ms = math.min(limit_ms + LATER_MS, LONGEST_MS)
    line = ("%s %d\n"):format(line:sub(1, -2), limit_ms)
  end
  socket:settimeout(timeout_ms)
  socket:send(line)
  if socket:receive() then
    socket:setkeepalive(IDLE_MS)
  end
  return over()
end

---@class consul_ffi.openresty: consul_ffi.Yielding
local openresty = yielding(wait, now_s, check, over)

---Whether a call can be made in a phase of nginx.
---@param phase string as `ngx.get_phase()` returns it
---@return boolean can_wait
function openresty.can_wait(phase)
  return YIELDS[phase] == true
end

return openresty
