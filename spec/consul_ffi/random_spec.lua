-- Random values of all types as arguments of all functions: a call returns an outcome or raises a string
-- that names the method. SEED=… and CALLS=… select another run.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

local SEED = tonumber(os.getenv("SEED")) or os.time()
local CALLS = tonumber(os.getenv("CALLS")) or 100000

local KINDS = {}
local annotations = assert(io.open("lua/meta/library/consul_ffi.d.lua"))
local alias = annotations:read("*a"):match("@alias consul_ffi.ErrorKind\n(.-)\n\n")
annotations:close()
for kind in alias:gmatch('| "([%l_]+)"') do
  KINDS[kind] = true
end

-- Methods that call another method, which their errors may name.
local CALLS_METHOD = {
  kv_get = "kv_list",
  kv_delete = "kv_delete_tree",
}

-- Words with a meaning to some method, and some without one.
local WORDS = {}
for word in
  ([[index wait stale consistent cached recurse everything keys separator cas acquire release flags timeout_ms token dc
    filter near tag passing node service retry stale_if_error max_age default any raw http_request GET PUT POST DELETE
    /v1/kv/k /v1/status/leader /v1/kv/?keys ../x //x a/b k web redis passing warning critical 10s 0s -1s 1m30s 999h
    name id Name ID TTL ttl LockDelay Behavior behavior delete Tags tags Meta meta Address address Port port Check
    check Checks Status status Notes Weights KV Session Verb verb Key key Value value set get lock unlock Service
    Node Node/meta Datacenter Rules Policies Description policy write read endpoint endpoints timeout simulate
    retry_count client_name token_file ca_file cert_file key_file namespace partition log_level datacenter clock
    manual real seed latency drop before after client wipe lose_sessions times probability method path
    127.0.0.1 http://127.0.0.1:1 https://[::1]:8501 unix:///tmp/none localhost:x
    9f1d2c3b-0000-4000-8000-000000000001 18446744073709551615 18446744073709551616 -9223372036854775808 1e3 0x10]])
    :gmatch("%S+")
do
  WORDS[#WORDS + 1] = word
end

local random_number = support.random_numbers(SEED)
local function random(limit)
  return math.floor(random_number() * limit) + 1
end

local function chance(percent)
  return random(100) <= percent
end

local function fails()
  error("the caller's metamethod")
end

local METATABLES = {
  {},
  { __index = fails, __newindex = fails },
  { __len = fails, __pairs = fails, __ipairs = fails, __tostring = fails, __eq = fails, __call = fails },
  { __mode = "kv" },
  { __metatable = false },
  { __index = { id = "of the metatable" } },
}

local NUMBERS = { 0, -0.0, 1, -1, 0.5, 7, 100, 2 ^ 31, 2 ^ 53 - 1, 2 ^ 53, 2 ^ 53 + 2, -2 ^ 53, 2 ^ 63, -2 ^ 63 }
NUMBERS[#NUMBERS + 1] = 2 ^ 64
NUMBERS[#NUMBERS + 1] = 1e308
NUMBERS[#NUMBERS + 1] = 5e-324
NUMBERS[#NUMBERS + 1] = 1 / 0
NUMBERS[#NUMBERS + 1] = -1 / 0
NUMBERS[#NUMBERS + 1] = 0 / 0
NUMBERS[#NUMBERS + 1] = rawget(math, "maxinteger")
NUMBERS[#NUMBERS + 1] = rawget(math, "mininteger")

-- Functions, coroutines, userdata and LuaJIT's C data.
local FOREIGN = { print, fails, coroutine.create(fails), io.stdout, coroutine.running() or fails }
if rawget(debug, "upvalueid") then
  FOREIGN[#FOREIGN + 1] = rawget(debug, "upvalueid")(chance, 1)
end
local proxy = rawget(_G, "newproxy")
if proxy then
  FOREIGN[#FOREIGN + 1] = proxy(true)
end
if rawget(_G, "jit") then
  local ffi = require("ffi")
  for _, of in ipairs({ "1ULL", "-1LL", "0x7fffffffffffffffLL", "18446744073709551615ULL", "1i" }) do
    FOREIGN[#FOREIGN + 1] = support.load("return " .. of)()
  end
  FOREIGN[#FOREIGN + 1] = ffi.new("struct { int x; }")
  FOREIGN[#FOREIGN + 1] = ffi.new("void *")
  FOREIGN[#FOREIGN + 1] = ffi.typeof("int")
  FOREIGN[#FOREIGN + 1] = ffi.C
end

local function text()
  local kind = random(10)
  if kind <= 6 then
    return WORDS[random(#WORDS)]
  elseif kind == 7 then
    return ""
  elseif kind == 8 then
    return WORDS[random(#WORDS)]:rep(random(chance(2) and 100000 or 20))
  end
  local bytes = {}
  for i = 1, random(12) do
    bytes[i] = string.char(random(256) - 1)
  end
  return table.concat(bytes)
end

local value

local function nested(depth)
  local found = {}
  for _ = 1, depth do
    found = chance(50) and { found } or { [text()] = found }
  end
  return found
end

local function some_table(depth)
  local found = {}
  local kind = random(12)
  if kind <= 6 then
    for _ = 1, random(4) do
      found[text()] = value(depth + 1)
    end
  elseif kind <= 9 then
    for i = 1, random(4) do
      found[i] = value(depth + 1)
    end
  elseif kind == 10 then
    found = nested(chance(10) and 150 or 5)
  elseif kind == 11 then
    found.itself = found
  else
    for _ = 1, random(3) do
      local key = value(depth + 1)
      if key ~= nil and key == key then
        found[key] = value(depth + 1)
      end
    end
  end
  if chance(10) then
    setmetatable(found, METATABLES[random(#METATABLES)])
  end
  return found
end

function value(depth)
  local kind = random(depth < 4 and 12 or 8)
  if kind == 1 then
    return nil
  elseif kind == 2 then
    return chance(50)
  elseif kind == 3 then
    return NUMBERS[random(#NUMBERS)]
  elseif kind == 4 then
    return FOREIGN[random(#FOREIGN)]
  elseif kind <= 8 then
    return text()
  end
  return some_table(depth)
end

local unpack_args = support.unpack

-- Arguments that some method accepts.
local OPTIONS = {
  {},
  { dc = "dc1" },
  { stale = true },
  { consistent = true, timeout_ms = 50 },
  { index = 3, wait = "2s" },
  { cas = 1, flags = 7 },
  { passing = true, near = "_agent" },
  { filter = 'Meta.version == "1"' },
}
local DEFINITIONS = {
  { id = "one", name = "web", port = 80, tags = { "a" }, meta = { version = "1" }, check = { ttl = "30s" } },
  { name = "check", ttl = "10s", status = "passing", service_id = "one" },
  { name = "session", ttl = "10s", lock_delay = "1s", behavior = "delete" },
  { node = "n", address = "10.0.0.1", service = { service = "web", port = 80 } },
  { node = "n", service_id = "web" },
  { name = "policy", rules = 'key_prefix "" { policy = "read" }' },
  { description = "token", policies = { { name = "policy" } } },
  { { KV = { Verb = "set", Key = "k", Value = "v" } }, { KV = { Verb = "get", Key = "k" } } },
  { simulate = true, endpoint = "http://127.0.0.1:1", timeout = 100 },
  { latency = 0.1, times = 2 },
}

-- Returns a copy with some random changes.
local function like(valid)
  if type(valid) ~= "table" then
    return chance(90) and valid or value(1)
  end
  local copied = {}
  for name, member in pairs(valid) do
    copied[name] = like(member)
  end
  if chance(5) then
    copied[text()] = value(1)
  end
  return copied
end

-- Half of the calls get random values, half get likely arguments: words, perhaps a definition, perhaps
-- options.
local function arguments()
  local list, count = {}, 0
  local function add(argument)
    count = count + 1
    list[count] = argument
  end
  if chance(50) then
    for _ = 1, chance(1) and 200 or random(6) - 1 do
      add(value(0))
    end
    return unpack_args(list, 1, count)
  end
  for _ = 1, random(3) - 1 do
    add(like(WORDS[random(#WORDS)]))
  end
  if chance(40) then
    add(like(DEFINITIONS[random(#DEFINITIONS)]))
  end
  if chance(30) then
    add(like(OPTIONS[random(#OPTIONS)]))
  end
  return unpack_args(list, 1, count)
end

-- Whether a call's three results are a success or a failure; else also what is wrong.
local function check_outcome(success, response, extra)
  if success == true then
    return type(extra) == "table", "no metadata"
  end
  local is_failure = success == false and type(response) == "string" and type(extra) == "table"
  return is_failure and extra.message == response and KINDS[extra.kind], "neither a success nor a failure"
end

-- The same for a batch and each of its results.
local function check_batch(success, results, extra)
  if success ~= true then
    return check_outcome(success, results, extra)
  end
  for _, result in ipairs(results) do
    local fine, what
    if result.ok then
      fine, what = check_outcome(true, result.value, result.meta)
    else
      fine, what = check_outcome(result.ok, result.message, result.err)
    end
    if not fine then
      return fine, what
    end
  end
  return true
end

local function check_any()
  return true
end

describe("random values", function()
  if not support.simulated then
    return
  end

  -- Waits advance the manual clock and take no real time.
  local agent, connect = support.manual_agent()
  local client = connect({ retry_count = 0 })

  -- All functions, in an order that does not depend on the engine.
  local calls = {}
  local function add(name, call, self, check)
    calls[#calls + 1] = { name = name, call = call, self = self, check = check }
  end
  local methods = {}
  local OTHERS = {
    new = true,
    close = true,
    destroy = true,
    batch = true,
    start = true,
    lock = true,
    semaphore = true,
    watch = true,
    service_view = true,
    service_views = true,
    registered = true,
    methods = true,
  }
  for name, call in pairs(consul_ffi.ConsulClient) do
    if not OTHERS[name] then
      methods[#methods + 1] = name
      add(name, call, client, check_outcome)
    end
  end
  table.sort(methods)
  add("batch", function(self, ...)
    if chance(80) then
      return client.batch(self, { { methods[random(#methods)], ... }, { methods[random(#methods)] } })
    end
    return client.batch(self, ...)
  end, client, check_batch)
  add("start", function(self, ...)
    local handle
    if chance(80) then
      handle = client.start(self, methods[random(#methods)], ...)
    else
      handle = client.start(self, ...)
    end
    return select(2, handle:wait())
  end, client, check_outcome)
  local function check_made(made, ...)
    return type(made) == "userdata" or check_outcome(made, ...)
  end
  add("lock", client.lock, client, check_made)
  add("semaphore", client.semaphore, client, check_made)
  -- Closes what it has made, because a client has a limited number of connections.
  local function closing(make)
    return function(...)
      local made, message, err = make(...)
      if made then
        made:close()
      end
      return made, message, err
    end
  end
  for _, name in ipairs({ "watch", "service_view", "service_views" }) do
    add(name, closing(client[name]), client, check_made)
  end
  local function check_done(success, ...)
    return success == true or check_outcome(success, ...)
  end
  -- On its own clock, because a lock works four times a second, and the other clock advances by years.
  local _, connect_holder = support.manual_agent()
  local lock = assert(connect_holder():lock("locked"))
  for _, name in ipairs({ "fenced_put", "release" }) do
    add(name, lock[name], lock, check_done)
  end
  for _, name in ipairs({ "is_held", "token", "remaining_ms", "profile", "poll", "fd" }) do
    add(name, lock[name], lock, check_any)
  end
  -- Without a limit these would wait forever.
  add("acquire", function(self, options)
    return lock.acquire(self, type(options) == "table" and next(options) and options or { wait_s = 0.5 })
  end, lock, check_done)
  add("next_event", function(self, limit_ms)
    return lock.next_event(self, type(limit_ms) == "string" and limit_ms or 100)
  end, lock, check_any)
  -- Objects that are open during the call only, because a watch works in each minute by which other calls
  -- advance the clock.
  local OPENED = {}
  local function opened(make, name)
    return function(self, ...)
      local one = make()
      local results = { pcall(one[name], rawequal(self, OPENED) and one or self, ...) }
      one:close()
      if not results[1] then
        error(results[2], 0)
      end
      return unpack_args(results, 2, 4)
    end
  end
  local function watched()
    return assert(client:watch("kv_get", "watched"))
  end
  local function viewed()
    local view = assert(client:service_view("viewed"))
    view:ready(100)
    return view
  end
  local next_change = opened(watched, "next")
  add("next", function(self, limit_ms)
    return next_change(self, type(limit_ms) == "string" and limit_ms or 100)
  end, OPENED, check_done)
  add("poll", opened(watched, "poll"), OPENED, check_done)
  add("fd", opened(watched, "fd"), OPENED, check_any)
  for _, name in ipairs({ "all", "pick", "age_s" }) do
    add(name, opened(viewed, name), OPENED, check_any)
  end
  local ready = opened(viewed, "ready")
  add("ready", function(self, limit_ms)
    return ready(self, type(limit_ms) == "string" and limit_ms or 100)
  end, OPENED, check_done)
  for _, name in ipairs({ "advance", "now", "fault", "clear_faults", "restart", "reset", "stats" }) do
    add(name, agent[name], agent, check_any)
  end
  table.sort(calls, function(a, b)
    return a.name < b.name
  end)
  add("ConsulClient", consul_ffi.new, nil, check_any)
  add("ConsulClient", consul_ffi.ConsulClient.new, consul_ffi.ConsulClient, check_any)
  add("simulator", consul_ffi.simulator, nil, check_any)
  add("close", function(self, ...)
    return client.close(self, ...)
  end, connect({ retry_count = 0 }), check_any)

  local answered = 0

  local function one(call, ...)
    local results
    if call.self and not chance(5) then
      results = { pcall(call.call, call.self, ...) }
    else
      results = { pcall(call.call, ...) }
    end
    if results[1] then
      answered = answered + (results[2] and 1 or 0)
      return call.check(results[2], results[3], results[4])
    end
    local message = results[2]
    if type(message) ~= "string" then
      return false, "raised a " .. type(message) .. ": " .. tostring(message)
    elseif message:find("a defect of consul_ffi", 1, true) then
      return false, message
    end
    local also = CALLS_METHOD[call.name]
    return message:find(call.name, 1, true) or also and message:find(also, 1, true), "raised " .. message
  end

  it("return an outcome or raise a string that names the method", function()
    for number = 1, CALLS do
      if number % 1000 == 0 then
        agent:reset()
        agent:clear_faults()
      end
      local call = calls[random(#calls)]
      local fine, what = one(call, arguments())
      if not fine then
        error(("%s: %s\nreproduce it with SEED=%d CALLS=%d"):format(call.name, what, SEED, number), 0)
      end
    end
    assert.is_true((client:kv_put("after", "all")))
    assert.is_true(answered > CALLS / 50, answered .. " calls succeeded: the values are too wild to test much")
  end)
end)
