-- Consul in OpenResty, and in nginx with the Lua module: a call blocks its request alone, not the worker, and a request
-- that ends cancels its calls. A cosocket carries each call, but those with TLS, a host's name, or a wait for a change:
-- these run in the background, and a cosocket to the worker's own unix socket waits for them.
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

-- How long a connection, to Consul or to the unix socket of the worker, stays open for the next use, in milliseconds.
local IDLE_MS = 60000

-- The most bytes of an answer that are taken at once.
local MOST_BYTES = 65536

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

-- The options of connections by address and port: the pool of those that are kept, which no other code uses.
local pools = {}

local function pool_of(address, port)
  local ports = pools[address]
  if not ports then
    ports = {}
    pools[address] = ports
  end
  local options = ports[port or 0]
  if not options then
    options = { pool = ("consul_ffi %s %s"):format(address, port or "") }
    ports[port or 0] = options
  end
  return options
end

-- Sends a request on a kept connection or a new one. Returns the cosocket; nil, why and whether Consul may have got it.
-- Without a reason the limit is over.
local function send(call, request, limit_ms)
  local socket, address, port = ngx.socket.tcp(), call:address()
  local connect_ms = call:connect_timeout_ms()
  socket:settimeouts(math.min(connect_ms, limit_ms), limit_ms, limit_ms)
  local done, why
  if port then
    done, why = socket:connect(address, port, pool_of(address, port))
  else
    done, why = socket:connect(address, pool_of(address))
  end
  if done then
    done, why = socket:send(request)
    if done then
      return socket
    end
    socket:close()
    return nil, why ~= "timeout" and why or nil, true
  elseif why ~= "timeout" then
    return nil, why, false
  elseif connect_ms < limit_ms then
    return nil, ("no connection within %d ms"):format(connect_ms), false
  end
end

-- The next bytes on a cosocket; nil and why there are none, without a reason if the limit is over.
local function receive(socket, limit_ms)
  socket:settimeout(limit_ms)
  local bytes, why = socket:receiveany(MOST_BYTES)
  if not bytes then
    socket:close()
  end
  return bytes, why ~= "timeout" and why or nil
end

-- Sends and receives what a call asks for, and returns its results.
local function carry(call)
  local socket
  local limit_ms, request, response, extra = call:step()
  while limit_ms ~= true do
    limit_ms = math.max(limit_ms, 1)
    local bytes, why, sent
    if request then
      if socket then
        socket:close()
      end
      socket, why, sent = send(call, request, limit_ms)
    end
    if socket then
      sent = true
      bytes, why = receive(socket, limit_ms)
      socket = bytes and socket
    elseif not request then
      ngx.sleep(limit_ms / 1000)
    end
    limit_ms, request, response, extra = call:step(bytes, why, sent)
  end
  if socket then
    if call:can_reuse() then
      socket:setkeepalive(IDLE_MS)
    else
      socket:close()
    end
  end
  return request, response, extra
end

---@class consul_ffi.openresty: consul_ffi.Yielding
local openresty = yielding(wait, now_s, check, over, carry)

---Whether a call can be made in a phase of nginx.
---@param phase string as `ngx.get_phase()` returns it
---@return boolean can_wait
function openresty.can_wait(phase)
  return YIELDS[phase] == true
end

return openresty
