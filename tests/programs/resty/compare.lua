-- Compares what lua-resty-consul and resty.consul return: makes the calls of calls.lua with each of them, in nginx.
--
--   luajit compare.lua NGINX SUITE CONSUL
--
-- NGINX is the folder that scripts/nginx.sh prints, SUITE the folder of scripts/lua-resty-consul.sh, CONSUL the name of
-- the agent at
-- CONSUL_HTTP_ADDR: 1.21 or consul-sim. A difference that differences.lua does not have is a failure, and so is an
-- entry of it that is not seen. SHOW=NAME prints what a call has returned.
local cjson = require("cjson")
local socket = require("socket")

local nginx, suite, agent = arg[1], arg[2], arg[3]
local here = arg[0]:match("^(.*)/") or "."
package.path = here .. "/?.lua;" .. package.path

local function read(path)
  local file = io.open(path, "rb")
  local text = file and file:read("*a")
  if file then
    file:close()
  end
  return text
end

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

local function sh(command)
  local status = os.execute(command)
  return status == true or status == 0
end

local folder = os.tmpname()
os.remove(folder)
assert(sh("mkdir -p " .. folder .. "/temp"))
local cwd = assert(io.popen("pwd")):read("*l")

-- A certificate for example.com of an authority of its own.
local certificates = [[
  cd %s && exec >certificates.log 2>&1 &&
  openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority &&
  openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=example.com &&
  echo subjectAltName=DNS:example.com >names &&
  openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -set_serial 1 -extfile names -out cert.pem]]
assert(sh(certificates:format(folder)), "openssl failed")

-- Ports: of servers in nginx; that nothing listens on; of a server that accepts and does not answer; of one whose
-- queue of
-- connections is full.
local held = {}
local function port_of(server)
  local _, port = server:getsockname()
  return tonumber(port)
end
local function free_port()
  local server = assert(socket.bind("127.0.0.1", 0))
  local port = port_of(server)
  server:close()
  return port
end
local function server(backlog)
  local one = assert(socket.bind("127.0.0.1", 0, backlog))
  held[#held + 1] = one
  return port_of(one)
end
local consul = assert(os.getenv("CONSUL_HTTP_ADDR"), "CONSUL_HTTP_ADDR is not set")
local env = {
  consul_port = tonumber(consul:match(":(%d+)$")),
  echo_port = free_port(),
  raw_port = free_port(),
  tls_port = free_port(),
  served_port = free_port(),
  refused_port = 1,
  silent_port = server(100),
  full_port = server(0),
  socket = folder .. "/consul",
  echo_socket = folder .. "/echo",
  tls_socket = folder .. "/tls",
  ca = folder .. "/ca.pem",
  token = os.getenv("CONSUL_HTTP_TOKEN") or "any",
  results = folder .. "/results",
}
for _ = 1, 4 do
  local more = socket.tcp()
  more:settimeout(0)
  more:connect("127.0.0.1", env.full_port)
  held[#held + 1] = more
end

local lines = { "return {" }
for name, value in pairs(env) do
  lines[#lines + 1] = ("  %s = %s,"):format(name, type(value) == "string" and ("%q"):format(value) or value)
end
lines[#lines + 1] = "}"
write(folder .. "/env.lua", table.concat(lines, "\n"))
local names = { FOLDER = folder, NGINX = nginx, CONSUL = consul, ECHO_PORT = env.echo_port, RAW_PORT = env.raw_port }
names.TLS_PORT, names.SERVED_PORT = env.tls_port, env.served_port
write(folder .. "/nginx.conf", (read(here .. "/servers.conf"):gsub("%u[%u_]+", names)))

-- The results of all calls with a module, by name, in order.
local function run(what, paths)
  local path = { folder .. "/?.lua", here .. "/?.lua", nginx .. "/usr/share/lua/5.1/?.lua" }
  for _, one in ipairs(paths) do
    path[#path + 1] = one
  end
  os.remove(env.results)
  local command = "LD_LIBRARY_PATH=%s/libraries LUA_PATH='%s;;' LUA_CPATH='%s/target/lua/luajit/?.so;;' "
    .. "%s/usr/sbin/nginx -p %s -c %s/nginx.conf >%s/%s.log 2>&1"
  sh(command:format(nginx, table.concat(path, ";"), cwd, nginx, folder, folder, folder, what))
  local text = read(env.results)
  if not text then
    io.stderr:write(read(folder .. "/" .. what .. ".log") or "", (read(folder .. "/error.log") or ""):sub(-3000))
    error(what .. ": nginx has written no results")
  end
  os.rename(folder .. "/error.log", ("%s/%s-error.log"):format(folder, what))
  local decoded = cjson.decode(text)
  assert(not decoded.why, ("%s: %s"):format(what, decoded.why))
  return decoded.calls
end

local theirs = run("lua-resty-consul", { suite .. "/lua-resty-consul/lib/?.lua", suite .. "/lua-resty-http/lib/?.lua" })
local ours = run("resty.consul", { cwd .. "/lua/?.lua", cwd .. "/resty/lua/?.lua" })

-- A result as text, without what is compared in kind alone: messages other than `timeout`.
local function text_of(value)
  if type(value) ~= "table" then
    return tostring(value)
  end
  local keys, parts = {}, {}
  for key in pairs(value) do
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    return tostring(a) < tostring(b)
  end)
  for _, key in ipairs(keys) do
    parts[#parts + 1] = ("%s=%s"):format(tostring(key), text_of(value[key]))
  end
  return "{" .. table.concat(parts, " ") .. "}"
end
local function compared(result)
  return text_of({
    kind = result.kind, timeout = result.timeout, status = result.status, headers = result.headers, body = result.body,
  })
end

local differences, seen, failures, listed = require("differences")(agent), {}, 0, 0
for i, their in ipairs(theirs) do
  local our = ours[i]
  assert(our and our.name == their.name, "the calls differ")
  if os.getenv("SHOW") == their.name then
    print(cjson.encode(their), cjson.encode(our))
  end
  if compared(their) ~= compared(our) then
    local reason = differences[their.name]
    if reason then
      seen[their.name], listed = true, listed + 1
    else
      failures = failures + 1
      print(("FAILED: %s\n  lua-resty-consul: %s %s\n  resty.consul:     %s %s"):format(
        their.name, compared(their), their.message or "", compared(our), our.message or ""))
    end
  end
end
for name, reason in pairs(differences) do
  if not seen[name] then
    failures = failures + 1
    print(("FAILED: %s: differences.lua has it (%s), and it does not differ"):format(name, reason))
  end
end
print(("%s: %d calls, %d alike, %d differ as listed, %d failures"):format(
  agent, #theirs, #theirs - listed - failures, listed, failures))
if os.getenv("KEEP") then
  print(folder)
else
  sh("rm -r " .. folder)
end
os.exit(failures == 0 and 0 or 1)
