-- A tour of consul_ffi: keys, a service with a health check, discovery, a lock, a transaction and a
-- blocking query. It runs on the simulated agent, or with CONSUL_HTTP_ADDR set on that Consul. It leaves
-- nothing behind.
--
--   make demo                              (simulated)
--   CONSUL_HTTP_ADDR=127.0.0.1:8500 make demo

local consul_ffi = require("consul_ffi")

local simulate = not os.getenv("CONSUL_HTTP_ADDR")
local client = consul_ffi.new({ simulate = simulate })

local run = os.time() .. "-" .. tostring({}):match("0x(%x+)")
local prefix = "consul_ffi-demo-" .. run .. "/"
local service = "demo-web-" .. run
local check = "service:" .. service

local function chapter(title)
  print("\n" .. title)
end

local function say(...)
  print("  " .. string.format(...))
end

-- Every method returns false, a message and an error table on failure.
local function tour()
  chapter("Keys and values")
  assert(client:kv_put(prefix .. "greeting", "hello"))
  say("stored greeting and read back: %s", select(2, assert(client:kv_get(prefix .. "greeting"))))

  local every_byte = {}
  for byte = 0, 255 do
    every_byte[#every_byte + 1] = string.char(byte)
  end
  every_byte = table.concat(every_byte)
  assert(client:kv_put(prefix .. "binary", every_byte))
  local _, binary = assert(client:kv_get(prefix .. "binary"))
  say("all 256 byte values read back unchanged: %s", tostring(binary == every_byte))

  local _, nothing = assert(client:kv_get(prefix .. "missing"))
  say("a missing key is not an error; its value is %s", tostring(nothing))

  chapter("Compare and set")
  assert(client:kv_put(prefix .. "counter", "1", { cas = 0 }))
  say("created counter, which did not exist")
  local created, _, refusal = client:kv_put(prefix .. "counter", "1", { cas = 0 })
  say("creating it again: success %s, the error's kind is %s", tostring(created), refusal.kind)
  local _, count, meta = assert(client:kv_get(prefix .. "counter"))
  assert(client:kv_put(prefix .. "counter", count + 1, { cas = meta.modify_index }))
  local _, counted = assert(client:kv_get(prefix .. "counter"))
  say("incremented it from %s to %s, with no other change in between", count, counted)

  chapter("A service with a health check")
  assert(client:agent_service_register({
    name = service,
    address = "10.0.0.1",
    port = 8080,
    tags = { "demo" },
    check = { ttl = "1s", status = "passing" },
  }))
  say("registered; its check must be updated every second")
  local index
  -- Returns the healthy instances, once there are `wanted` of them. Each iteration is one blocking query,
  -- which Consul answers as soon as there is something newer than the index.
  local function healthy(wanted)
    local instances
    repeat
      local _, found, about = assert(client:health_service(service, { passing = true, index = index, wait = "10s" }))
      instances, index = found, about.index
    until #instances == wanted
    return instances
  end
  local found = healthy(1)[1].Service
  say("discovered 1 healthy instance at %s:%d", found.Address, found.Port)

  chapter("A blocking query")
  say("waiting for a change of the service's health: the expiry of its check ...")
  say("woken by the change: %d healthy instances", #healthy(0))
  assert(client:agent_check_pass(check, { note = "back again" }))
  say("its check passes again: %d healthy instance", #healthy(1))
  assert(client:agent_service_deregister(service))
  say("deregistered")

  chapter("A session and a lock between two clients")
  local other = consul_ffi.new({ simulate = simulate })
  local _, mine = assert(client:session_create({ name = "demo-1", ttl = "30s" }))
  local _, theirs = assert(other:session_create({ name = "demo-2", ttl = "30s" }))
  local lock = prefix .. "lock"
  say("client 1 acquires the lock: %s", tostring((client:kv_put(lock, "one", { acquire = mine }))))
  local acquired, _, why = other:kv_put(lock, "two", { acquire = theirs })
  say("client 2 tries: %s, %s", tostring(acquired), why.kind)
  say("client 1 releases it: %s", tostring((client:kv_put(lock, "free", { release = mine }))))
  say("client 2 tries again: %s", tostring((other:kv_put(lock, "two", { acquire = theirs }))))
  assert(other:session_destroy(theirs))
  assert(client:session_destroy(mine))
  other:destroy()

  chapter("A transaction")
  local stock = prefix .. "stock"
  assert(client:txn({
    { KV = { Verb = "set", Key = stock .. "/apples", Value = "3" } },
    { KV = { Verb = "set", Key = stock .. "/pears", Value = "5" } },
  }))
  say("wrote two keys at once")
  local applied, _, failure = client:txn({
    { KV = { Verb = "set", Key = stock .. "/apples", Value = "0" } },
    { KV = { Verb = "check-not-exists", Key = stock .. "/pears" } },
  })
  local failed = failure.operations[1].index
  say("a second one: success %s, %s because of operation %d", tostring(applied), failure.kind, failed)
  say("so stock/apples is still %s", select(2, client:kv_get(stock .. "/apples")))
end

local where = simulate and "the simulated agent" or client.consul_url
print("consul_ffi " .. consul_ffi._VERSION .. " on " .. where)
local finished, message = pcall(tour)

-- Cleans up, also after a failure.
client:agent_service_deregister(service)
client:kv_delete_tree(prefix)
client:destroy()
if not finished then
  io.stderr:write("the demo failed: " .. tostring(message) .. "\n")
  os.exit(1)
end

if simulate then
  print("\nThis needed no server. To run the same on a real Consul: make demo CONSUL=1.21")
else
  print("\nThis ran on a real Consul. To run the tests: make test")
end
