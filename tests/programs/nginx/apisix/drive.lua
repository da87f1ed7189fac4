-- The common parts of the programs of this folder: one of them runs in a timer of an nginx's first worker, has Consul
-- change, and waits until the workers see it. Nothing depends on how long something takes: each wait has a limit that
-- only a mistake reaches.
local cjson = require("cjson")

local drive = {}

-- The limit of each wait, in seconds.
local PATIENCE_S = 300

-- How often a condition is looked at, in seconds.
local LOOK_S = 0.05

local HOST, PORT = os.getenv("CONSUL_HOST"), 8500
local PREFIX = ngx.config.prefix()

local log = assert(io.open(PREFIX .. "results", "a"))
log:setvbuf("line")

-- Writes a line of the results.
function drive.say(...)
  log:write(table.concat({ ... }, " "), "\n")
end

-- Waits until `condition` returns true; its second result is shown when it does not.
function drive.wait_until(what, condition)
  local ends, is_met, shown = ngx.now() + PATIENCE_S
  repeat
    is_met, shown = condition()
    if is_met then
      return
    end
    ngx.sleep(LOOK_S)
  until ngx.now() > ends
  error(("%s: it did not happen within %d s: %s"):format(what, PATIENCE_S, tostring(shown)), 2)
end

-- Sends a request to Consul. Returns the status and the body, or nil and the reason.
function drive.consul(method, path, body, token)
  local socket = ngx.socket.tcp()
  socket:settimeout(1000 * PATIENCE_S)
  local is_there, why = socket:connect(HOST, PORT)
  if not is_there then
    return nil, why
  end
  body = body and (type(body) == "table" and cjson.encode(body) or body) or ""
  socket:send(("%s %s HTTP/1.0\r\nX-Consul-Token: %s\r\nContent-Length: %d\r\n\r\n%s"):format(
    method, path, token or os.getenv("TOKEN") or "", #body, body))
  local answer
  answer, why = socket:receive("*a")
  socket:close()
  local status = answer and tonumber(answer:match("^HTTP/1.. (%d+)"))
  if not status then
    return nil, why or "no status"
  end
  return status, answer:match("\r\n\r\n(.*)$")
end

-- The same, for a request that Consul must take.
function drive.done(...)
  local status, body = drive.consul(...)
  assert(status == 200, ("%s %s: %s %s"):format((...), select(2, ...), tostring(status), tostring(body)))
  return body
end

-- Registers an instance with a check that passes; `more` has further members of the registration.
function drive.register(service, id, address, port, more)
  local body = {
    Name = service, ID = id, Address = address, Port = port, Check = { TTL = "24h", Status = "passing" },
  }
  for name, value in pairs(more or {}) do
    body[name] = value
  end
  drive.done("PUT", "/v1/agent/service/register", body)
end

function drive.deregister(id)
  drive.done("PUT", "/v1/agent/service/deregister/" .. id)
end

function drive.check(id, state)
  drive.done("PUT", ("/v1/agent/check/%s/service:%s"):format(state, id))
end

-- Ends Consul. nginx takes the end of each child for itself, so that a status is worth nothing here.
function drive.stop_consul()
  os.execute("kill -KILL $(cat " .. PREFIX .. "consul.pid)")
  drive.wait_until("Consul ends", function()
    return drive.consul("GET", "/v1/status/leader") == nil
  end)
end

-- Starts Consul, which knows nothing, where it was.
function drive.start_consul()
  os.execute(PREFIX .. "consul.sh")
  drive.wait_until("Consul has a leader and its node", function()
    local status, body = drive.consul("GET", "/v1/catalog/nodes")
    return status == 200 and body:find('"Node"', 1, true)
  end)
end

-- Nodes as text, in their order.
function drive.text_of(nodes)
  local texts = {}
  for i, node in ipairs(nodes or {}) do
    texts[i] = ("%s:%s*%s"):format(node.host, tostring(node.port), tostring(node.weight))
  end
  return nodes and table.concat(texts, " ") or "none"
end

-- Runs a program; the file `done` says how it ended.
function drive.start(program)
  local function run(premature)
    if premature then
      return
    end
    local ran, why = xpcall(program, debug.traceback)
    local file = assert(io.open(PREFIX .. "done", "w"))
    file:write(ran and "ok" or tostring(why), "\n")
    file:close()
  end
  assert(ngx.timer.at(0, run))
end

return drive
