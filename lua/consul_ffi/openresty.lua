-- Consul in OpenResty, and in nginx with the Lua module: a call blocks its request alone, not the worker, and a request
-- that ends cancels its calls. A cosocket carries a read, unless it has TLS, a name, or a wait for a change. Other
-- calls run in the background, and a cosocket to the worker's own unix socket waits for them.
local yielding = require("consul_ffi.yielding")
local now_s = require("consul_ffi.openresty.clock")
local as_error = require("consul_ffi.failure")

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

-- nginx's message without a free one of its `worker_connections`: the text of a connection that is being made.
local NO_FREE_CONNECTION = "operation now in progress"

-- A timer looks this often whether its worker is exiting, in milliseconds.
local EXIT_MS = 1000

-- The longest that a cosocket waits, in milliseconds.
local LONGEST_MS = 2 ^ 31 - 1

-- How much later than a wait is to end its cosocket has its timeout, which nginx logs as an error, in milliseconds.
local LATER_MS = 60000

-- How an answer begins, and one with which a server gives up a connection that had no request.
local ANSWER, GIVES_UP = "HTTP/", { ["HTTP/1.1 408"] = true, ["HTTP/1.0 408"] = true }

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
    return false, message, as_error({ kind = "closed", message = message })
  end
end

-- A limit as cosockets take it.
local function whole_ms(ms)
  return math.min(math.max(math.ceil(ms), 1), LONGEST_MS)
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
    timeout_ms = whole_ms(limit_ms + LATER_MS)
    line = ("%s %d\n"):format(line:sub(1, -2), limit_ms)
  end
  socket:settimeout(timeout_ms)
  socket:send(line)
  if socket:receive() then
    socket:setkeepalive(IDLE_MS)
  end
  return over()
end

local function left_ms(ends)
  return (ends - now_s()) * 1000
end

-- Where the requests of a pool of connections go to, by the pool's name. A call into the module costs more than this.
local places = setmetatable({}, { __mode = "v" })

-- Returns the place of a call's request, and the time limit of a new connection.
local function place_of(call)
  local pool, connect_ms = call:pool()
  local place = places[pool]
  if not place then
    local address, port = call:address()
    place = { address = address, port = port, options = { pool = pool } }
    places[pool] = place
  end
  return place, connect_ms
end

-- Waits until the limit; in a timer returns true when its worker exits.
local function sleep_until(ends)
  local in_timer = ngx.get_phase() == "timer"
  repeat
    local ms = left_ms(ends)
    ngx.sleep(whole_ms(in_timer and math.min(ms, EXIT_MS) or ms) / 1000)
    if over() == false then
      return true
    end
  until left_ms(ends) <= 0
end

-- Connects a cosocket. Returns nil and why there is none, without a reason if the limit is over. `noted_s` is the time
-- as nginx has it.
local function connect(call, ends, noted_s)
  local place, connect_ms = place_of(call)
  -- nginx knows what has come on kept connections, and the time from which its timers count, as of its last turn. While
  -- the worker was busy a connection may have ended, or have got what answers no request: that turn comes first.
  ngx.update_time()
  local now = now_s()
  if now > noted_s then
    ngx.sleep(0.001)
  end
  repeat
    local socket, limit_ms = ngx.socket.tcp(), (ends - now) * 1000
    local whole_limit_ms = whole_ms(limit_ms)
    socket:settimeouts(whole_ms(math.min(connect_ms, limit_ms)), whole_limit_ms, whole_limit_ms)
    local connected, why
    if place.port then
      connected, why = socket:connect(place.address, place.port, place.options)
    else
      connected, why = socket:connect(place.address, place.options)
    end
    if connected then
      return socket
    elseif why == NO_FREE_CONNECTION then
      ngx.sleep(PAUSE_S)
    elseif why ~= "timeout" then
      return nil, why
    elseif connect_ms < limit_ms then
      return nil, ("no connection within %g ms"):format(connect_ms)
    end
    now = now_s()
  until now >= ends
end

local function receive(socket, ends)
  socket:settimeout(whole_ms(left_ms(ends)))
  local bytes, why = socket:receiveany(MOST_BYTES)
  return bytes, why
end

-- The next bytes on a cosocket; nil and why there are none. The third result is true in a timer whose worker exits.
local function next_bytes(socket, ends, in_timer)
  if not in_timer then
    return receive(socket, ends)
  end
  local reader, limit = ngx.thread.spawn(receive, socket, ends), ngx.thread.spawn(sleep_until, ends)
  local done, bytes, why = ngx.thread.wait(reader, limit)
  ngx.thread.kill(limit)
  ngx.thread.kill(reader)
  if bytes == true then
    return nil, nil, true
  elseif not done then
    return nil, tostring(bytes)
  end
  return bytes, why
end

-- Whether bytes are not HTTP, or say that the server has given the connection up: they came before the request.
local function is_old(bytes)
  return bytes:sub(1, #ANSWER) ~= ANSWER:sub(1, #bytes) or GIVES_UP[bytes:sub(1, 12)]
end

-- Sends a request and receives the first bytes of its answer, again if a kept connection has ended instead, or has what
-- answers no request. Returns the cosocket, if there is one, and what `next_bytes` returns.
local function exchange(call, request, ends, noted_s, in_timer)
  while true do
    local socket, failure = connect(call, ends, noted_s)
    if not socket then
      return nil, nil, failure
    end
    local bytes, why, exits = nil, "closed", nil
    if socket:send(request) then
      bytes, why, exits = next_bytes(socket, ends, in_timer)
    end
    local is_kept = socket:getreusedtimes() > 0
    if exits or why == "timeout" or not is_kept or bytes and not is_old(bytes) then
      return socket, bytes, why, exits
    end
    socket:close()
    noted_s = now_s()
  end
end

-- Sends and receives what a call asks for, and returns its results.
local function carry(call)
  local socket, in_timer = nil, ngx.get_phase() == "timer"
  local limit_ms, wanted, response, extra = call:step()
  while limit_ms ~= true do
    local noted_s = now_s()
    local ends = noted_s + limit_ms / 1000
    local bytes, why, exits, sent
    if socket and wanted ~= true then
      socket:close()
      socket = nil
    end
    if type(wanted) == "string" then
      socket, bytes, why, exits = exchange(call, wanted, ends, noted_s, in_timer)
      sent = socket ~= nil
    elseif wanted and socket then
      bytes, why, exits = next_bytes(socket, ends, in_timer)
      sent = true
    else
      exits = sleep_until(ends)
    end
    if exits then
      if socket then
        socket:close()
      end
      return over()
    end
    limit_ms, wanted, response, extra = call:step(bytes, why ~= "timeout" and why or nil, sent)
  end
  local idle_ms, max_idle = call:can_reuse()
  if socket and idle_ms then
    socket:setkeepalive(whole_ms(idle_ms), max_idle)
  elseif socket then
    socket:close()
  end
  return wanted, response, extra
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
