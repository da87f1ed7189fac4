-- A parent with a status server, and a child, which inherits neither the server nor its address and has one of
-- its own.
local consul_ffi = require("consul_ffi")

local marker = os.tmpname()
assert(os.remove(marker))

local function exists()
  local file = io.open(marker)
  return file and file:close()
end

local function answers(server)
  local answer = io.popen(("curl -s -m 10 http://%s/live"):format(server.address))
  local text = answer:read("*a")
  answer:close()
  return text == "live\n"
end

local server, dropped = assert(consul_ffi.serve_status()), assert(consul_ffi.serve_status())

local id = host.fork()
if id == 0 then
  assert(tostring(server):find("of the parent process", 1, true), tostring(server))
  assert(server:close() and server.address)
  dropped = nil -- luacheck: ignore
  collectgarbage()
  collectgarbage()
  local own = assert(consul_ffi.serve_status())
  assert(answers(own))
  local limit = os.time() + 300
  while not exists() do
    assert(os.time() < limit, "the parent did not go on")
  end
  assert(own:close())
  return
end

assert(answers(server) and answers(dropped))
-- While the child runs its parent's addresses are the parent's alone.
local address = server.address
assert(server:close())
server = assert(consul_ffi.serve_status(address))
assert(answers(server))
assert(io.open(marker, "w")):close()
local status = host.wait(id)
assert(os.remove(marker))
assert(status == 0, "the child ended with " .. status)
assert(answers(server) and answers(dropped))
assert(server:close() and dropped:close())
