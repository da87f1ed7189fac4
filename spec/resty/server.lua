-- A server that repeats its requests in the headers of its answers, for consul_spec.lua. It writes its port to
-- the file that is its argument, and ends when it has no request for ten minutes.
--
--   PUT /answer?TYPE   the body of this request is the body of all answers from now on, of this content type; an
--                      empty body: each answer repeats the body of its request
--   PUT /foreign?STATUS  the answers from now on have this status and body, and none of Consul's headers
--   PUT /quit          it ends
--   /v1/silent…        is not answered
--   /v1/cut…           is not answered, and its connection ends, each first of two times
local socket = require("socket")

local server = assert(socket.bind("127.0.0.1", 0))
server:settimeout(60)
local file = assert(io.open(arg[1] .. ".new", "w"))
file:write((select(2, server:getsockname())))
file:close()
assert(os.rename(arg[1] .. ".new", arg[1]))

local content_type, body, status = "application/json", "true", nil
-- The connections of requests that are not answered.
local silent = {}
-- Whether the next request of that kind is answered.
local uncut = false

-- Reads a request; nil when the connection ends before.
local function read(connection)
  local line = connection:receive()
  local method, target = (line or ""):match("^(%u+) (%S+)")
  local request = { method = method, headers = {} }
  repeat
    line = connection:receive()
    local name, value = (line or ""):match("^([^:]+): (.*)")
    request.headers[(name or ""):lower()] = value
  until not line or line == ""
  request.path, request.args = (target or ""):match("^([^?]*)%??(.*)")
  local length = tonumber(request.headers["content-length"] or 0)
  request.body = length == 0 and "" or connection:receive(length)
  return method and request.body and request
end

local function answer(request)
  if status and request.path:find("^/v1/") then
    local lines = { "HTTP/1.1 " .. status .. " Foreign", "Connection: close", "Content-Length: " .. #body }
    return table.concat(lines, "\r\n") .. "\r\n\r\n" .. body
  end
  local lines = {
    "HTTP/1.1 200 OK",
    "Connection: close",
    "Vary: Accept-Encoding",
    "X-Consul-Index: 2",
    "X-Method: " .. request.method,
    "X-URI: " .. request.path,
    "X-Body: " .. request.body,
    "Content-Type: " .. content_type,
  }
  if request.args ~= "" then
    lines[#lines + 1] = "X-Args: " .. request.args
  end
  if request.headers["x-consul-token"] then
    lines[#lines + 1] = "X-Token: " .. request.headers["x-consul-token"]
  end
  local text = body ~= "" and body or request.body
  lines[#lines + 1] = "Content-Length: " .. #text
  return table.concat(lines, "\r\n") .. "\r\n\r\n" .. text
end

-- Serves a request; true if it was the last one.
local function serve(connection)
  connection:settimeout(10)
  local request = read(connection)
  if request and request.path:find("^/v1/silent") then
    silent[#silent + 1] = connection
  elseif request and request.path:find("^/v1/cut") and not uncut then
    uncut = true
    connection:close()
  else
    uncut = uncut and not (request and request.path:find("^/v1/cut"))
    if request and request.path == "/answer" then
      content_type, body, status = request.args, request.body, nil
    elseif request and request.path == "/foreign" then
      status, body = request.args, request.body
    end
    if request then
      connection:send(answer(request))
    end
    connection:close()
    return request and request.path == "/quit"
  end
end

-- How many times it has waited for a minute; a machine that stood still has one such minute.
local idle_minutes, is_over = 0, false
while idle_minutes < 10 and not is_over do
  local connection = server:accept()
  idle_minutes = connection and 0 or idle_minutes + 1
  is_over = connection and serve(connection)
end
for _, open in ipairs(silent) do
  open:close()
end
