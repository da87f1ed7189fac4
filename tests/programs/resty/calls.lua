-- The calls that compare.sh makes with lua-resty-consul and with resty.consul: the same functions, in nginx, with
-- the same
-- servers. A call has a name, and a function that returns what a method has returned.
--
--   make(options)   an object, for the Consul under test unless the options name another server
--   env             the addresses of servers.conf

local cjson = require("cjson")

local calls, names = {}, {}

---@param name string
---@param run fun(make: function, env: table): any, any
local function call(name, run)
  assert(not names[name], name .. " is there twice")
  names[name] = true
  calls[#calls + 1] = { name = name, run = run }
end

-- The prefix of all keys, which is removed before the calls.
local K = "resty-compare/"

-- The pairs of a table, in the order of its names: each run has the same order.
local function sorted(values)
  local order, at = {}, 0
  for name in pairs(values) do
    order[#order + 1] = name
  end
  table.sort(order)
  return function()
    at = at + 1
    return order[at], values[order[at]]
  end
end

-- A text for the name of a call.
local function shown(text)
  return (text:gsub("[^!-~]", function(byte)
    return ("\\x%02x"):format(byte:byte())
  end))
end

-- Calls with an object for the Consul under test.
local function consul(name, run)
  call(name, function(make, env)
    return run(make(), env)
  end)
end

-- Calls with an object for the server that repeats a request.
local function echo(name, run, options)
  call(name, function(make, env)
    local given = { port = env.echo_port }
    for option, value in pairs(options or {}) do
      given[option] = value
    end
    return run(make(given), env)
  end)
end

---- Keys

consul("kv: an absent key", function(c) return c:get_key(K .. "none") end)
consul("kv: put and get", function(c)
  c:put_key(K .. "a", "one")
  return c:get_key(K .. "a")
end)
consul("kv: put answers true", function(c) return c:put_key(K .. "a", "two") end)
for name, value in sorted({
  ["an empty text"] = "",
  ["a number"] = 1234,
  ["a negative number"] = -1.5,
  ["zero"] = 0,
  ["true"] = true,
  ["a table"] = { a = { 1, 2 } },
  ["an empty table"] = {},
  ["a list"] = { 1, "b", false },
  ["all bytes"] = (function()
    local bytes = {}
    for byte = 0, 255 do
      bytes[#bytes + 1] = string.char(byte)
    end
    return table.concat(bytes)
  end)(),
  ["UTF-8"] = "käse 鍵",
  ["100 KB"] = ("x"):rep(100000),
  ["600 KB, which is more than Consul takes"] = ("x"):rep(600000),
  ["line ends"] = "a\r\nb\r\n\r\n",
  ["JSON"] = '{"a":1}',
}) do
  consul("kv: the value is " .. name, function(c)
    local res, err = c:put_key(K .. "value", value)
    if not res or res.status ~= 200 then
      return res, err
    end
    return c:get_key(K .. "value")
  end)
end
consul("kv: a value that is false", function(c) return c:put_key(K .. "a", false) end)
consul("kv: a value that is nil", function(c) return c:put_key(K .. "a", nil) end)
consul("kv: flags", function(c)
  c:put_key(K .. "flags", "v", { flags = 42 })
  return c:get_key(K .. "flags")
end)
consul("kv: raw", function(c)
  c:put_key(K .. "a", "raw value")
  return c:get_key(K .. "a", { raw = true })
end)
consul("kv: raw as a text in the key", function(c) return c:get_key(K .. "a?raw") end)
consul("kv: raw as an empty text", function(c) return c:get_key(K .. "a", { raw = "" }) end)
consul("kv: cas of an absent key", function(c)
  c:delete_key(K .. "cas")
  return c:put_key(K .. "cas", "v", { cas = 0 })
end)
consul("kv: cas that is not applied", function(c) return c:put_key(K .. "cas", "w", { cas = 1 }) end)
consul("kv: cas as a text", function(c) return c:put_key(K .. "cas", "w", { cas = "1" }) end)
consul("kv: cas with the index", function(c)
  local read = c:get_key(K .. "cas")
  return c:put_key(K .. "cas", "w", { cas = read.body[1].ModifyIndex })
end)
consul("kv: cas that is not a number", function(c) return c:put_key(K .. "cas", "w", { cas = "x" }) end)
consul("kv: delete with cas that is not applied", function(c) return c:delete_key(K .. "cas", { cas = 1 }) end)
consul("kv: delete", function(c) return c:delete_key(K .. "cas") end)
consul("kv: delete an absent key", function(c) return c:delete_key(K .. "cas") end)
consul("kv: recurse", function(c)
  for _, name in ipairs({ "x", "x/1", "x/2", "y" }) do
    c:put_key(K .. "tree/" .. name, name)
  end
  return c:get_key(K .. "tree/x", { recurse = true })
end)
consul("kv: recurse with an empty result", function(c) return c:get_key(K .. "none/", { recurse = true }) end)
consul("kv: a folder", function(c)
  c:put_key(K .. "folder/", "")
  return c:get_key(K .. "folder/")
end)
consul("kv: list_keys", function(c) return c:list_keys(K .. "tree/") end)
consul("kv: list_keys with a separator", function(c) return c:list_keys(K .. "tree/", { separator = "/" }) end)
consul("kv: list_keys of nothing", function(c) return c:list_keys(K .. "none/") end)
consul("kv: list_keys with args that say keys = false", function(c)
  return c:list_keys(K .. "tree/", { keys = false })
end)
consul("kv: get with keys", function(c) return c:get("/kv/" .. K .. "tree/", { keys = true }) end)
consul("kv: get without decoding", function(c) return c:get("/kv/" .. K .. "tree/x") end)
consul("kv: delete with recurse", function(c)
  c:delete_key(K .. "tree/x", { recurse = true })
  return c:list_keys(K .. "tree/")
end)
consul("kv: an empty key, get", function(c) return c:get_key("") end)
consul("kv: an empty key, put", function(c) return c:put_key("", "v") end)
consul("kv: an empty key, delete", function(c) return c:delete_key("") end)
consul("kv: a long key", function(c)
  local key = K .. ("k"):rep(2000)
  c:put_key(key, "v")
  return c:get_key(key)
end)
consul("kv: a key of 9,000 bytes", function(c) return c:put_key(K .. ("k"):rep(9000), "v") end)
consul("kv: a key that begins with /", function(c)
  c:put_key("/" .. K .. "slash", "v")
  return c:get_key("/" .. K .. "slash")
end)
consul("kv: a key with //", function(c)
  c:put_key(K .. "a//b", "v")
  return c:get_key(K .. "a//b")
end)
for _, key in ipairs({ "./a", "a/./b", "a/../b", "../b", "a/..", "a/.", "a/...", ".a", "..a", "a%2e%2e/b" }) do
  consul("kv: the key " .. key .. ", put", function(c) return c:put_key(K .. "dots/" .. key, "") end)
  consul("kv: the key " .. key .. ", get", function(c) return c:get_key(K .. "dots/" .. key) end)
end
-- Without a body: a server that refuses a request line ends the connection, and its answer is lost if there is more to
-- read.
for _, byte in ipairs({
  0, 1, 7, 9, 10, 13, 27, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 42, 43, 44, 58, 59, 60, 61, 62, 63, 64, 91, 92, 93,
  94, 95, 96, 123, 124, 125, 126, 127, 128, 195, 255,
}) do
  local key = "byte/" .. string.char(byte) .. "z"
  consul(("kv: the byte %02x, put with cas"):format(byte), function(c) return c:put_key(K .. key, "", { cas = 0 }) end)
  consul(("kv: the byte %02x, get"):format(byte), function(c) return c:get_key(K .. key) end)
  consul(("kv: the byte %02x, which keys there are"):format(byte), function(c)
    local res, err = c:list_keys(K .. "byte/")
    c:delete_key(K .. "byte/", { recurse = true })
    return res, err
  end)
end
for _, key in ipairs({ "a%20b", "a%2Fb", "a%zz", "käse", "鍵", "a b/c d", "a?x=1", "a#b?c", "a+b", "%", "a%" }) do
  consul("kv: the key " .. shown(key), function(c)
    local put, put_err = c:put_key(K .. "text/" .. key, "")
    local res, err = c:list_keys(K .. "text/")
    c:delete_key(K .. "text/", { recurse = true })
    if not put then
      return put, put_err
    end
    return { status = put.status, headers = res and res.headers, body = { put.body, res and res.body, err } }
  end)
end
for name, key in sorted({
  ["a number"] = 1, ["a table"] = {}, ["true"] = true, ["false"] = false, ["a function"] = print,
}) do
  for _, method in ipairs({ "get_key", "delete_key", "list_keys", "get", "delete" }) do
    consul(method .. ": the key is " .. name, function(c) return c[method](c, key) end)
  end
  consul("put_key: the key is " .. name, function(c) return c:put_key(key, "v") end)
  consul("put: the path is " .. name, function(c) return c:put(key, "v") end)
end
for _, method in ipairs({ "get_key", "delete_key", "put_key", "list_keys", "get", "put", "delete", "txn" }) do
  consul(method .. " without arguments", function(c)
    if method == "list_keys" then
      local res, err = c:list_keys()
      return res and { status = res.status, headers = res.headers, body = type(res.body) }, err
    end
    return c[method](c)
  end)
end

---- Waiting queries

consul("wait: an index that has passed", function(c)
  c:put_key(K .. "wait", "1")
  return c:get_key(K .. "wait", { index = 1, wait = 30 })
end)
consul("wait: until the end of the wait", function(c)
  c:put_key(K .. "wait", "1")
  local index = c:get_key(K .. "wait").headers["X-Consul-Index"]
  return c:get_key(K .. "wait", { index = index, wait = 0.2 })
end)
consul("wait: wait as a text", function(c)
  local index = c:get_key(K .. "wait").headers["X-Consul-Index"]
  return c:get_key(K .. "wait", { index = index, wait = "0.2" })
end)
consul("wait: wait without an index", function(c) return c:get_key(K .. "wait", { wait = 1 }) end)
consul("wait: an index that is not a number", function(c) return c:get_key(K .. "wait", { index = "x", wait = 1 }) end)
consul("wait: a negative index", function(c) return c:get_key(K .. "wait", { index = -1, wait = 1 }) end)
for name, wait in sorted({ ["10s"] = "10s", ["true"] = true, ["a table"] = {}, ["an empty text"] = "", ["x"] = "x" }) do
  echo("wait: it is " .. name, function(c) return c:get("/a", { wait = wait }) end)
end
for name, wait in sorted({
  ["false"] = false, ["0"] = 0, ["0.5"] = 0.5, ["10"] = 10, ["-1"] = -1, [" 5 "] = " 5 ", ["0x10"] = "0x10",
}) do
  echo("wait: it is " .. name, function(c) return c:get("/a", { wait = wait }) end)
end
echo("wait: index alone", function(c) return c:get("/a", { index = 5 }) end)
echo("wait: index = false", function(c) return c:get("/a", { index = false }) end)
echo("wait: as a default argument", function(c) return c:get("/a") end, { default_args = { wait = 3, index = 7 } })
echo("wait: with a put", function(c) return c:put("/a", "v", { wait = 3 }) end)
echo("wait: its server does not answer", function(c) return c:get("/silent", { wait = 0.1 }) end,
  { read_timeout = 100 })

---- Other parts of the API

for _, path in ipairs({
  "/status/leader", "/status/peers", "/catalog/datacenters", "/catalog/nodes", "/catalog/services",
  "/catalog/service/none", "/catalog/node/none", "/health/service/none", "/health/node/none", "/health/state/any",
  "/health/checks/none", "/agent/services", "/agent/checks", "/agent/members", "/session/list", "/session/info/none",
  "/event/list?name=none", "/coordinate/nodes", "/query", "/acl/tokens", "/acl/policies",
  "/operator/raft/configuration", "/connect/intentions", "/config/service-defaults", "/internal/none",
  "/no/such/path", "", "/", "/kv", "/agent/service/none", "/agent/health/service/name/none", "/session/node/none",
  "/query/none", "/discovery-chain/none",
}) do
  consul("GET " .. path, function(c) return c:get(path) end)
end
consul("GET without a leading slash", function(c) return c:get("status/leader") end)
consul("GET with a query in the path", function(c) return c:get("/catalog/nodes?near=_agent") end)
consul("GET with a query in the path and arguments", function(c)
  return c:get("/kv/" .. K .. "?recurse", { keys = true })
end)
consul("GET with an unknown datacenter", function(c) return c:get("/catalog/nodes", { dc = "no-such-dc" }) end)
consul("GET stale", function(c) return c:get("/catalog/datacenters", { stale = true }) end)
consul("GET stale, with the index", function(c) return c:get("/catalog/nodes", { stale = true }) end)
consul("GET consistent", function(c) return c:get("/catalog/nodes", { consistent = true }) end)
consul("GET stale and consistent", function(c) return c:get("/catalog/nodes", { stale = true, consistent = true }) end)
consul("GET stale = false", function(c) return c:get("/catalog/nodes", { stale = false }) end)
consul("GET with a filter", function(c) return c:get("/catalog/nodes", { filter = 'Node == "none"' }) end)
consul("GET with a wrong filter", function(c) return c:get("/catalog/nodes", { filter = "Node ==" }) end)
consul("GET pretty", function(c) return c:get("/catalog/datacenters", { pretty = true }) end)
consul("a service is registered", function(c)
  return c:put("/agent/service/register", { Name = "resty", ID = "resty-1", Port = 80, Tags = { "a", "b" } })
end)
consul("a service is read", function(c) return c:get("/catalog/service/resty") end)
consul("a service's instances with a tag", function(c) return c:get("/health/service/resty", { tag = "a" }) end)
consul("a service's instances with two tags", function(c)
  return c:get("/health/service/resty", { tag = { "a", "b" } })
end)
consul("a service's instances with an unknown tag", function(c)
  return c:get("/health/service/resty", { tag = "z" })
end)
consul("a service's passing instances", function(c) return c:get("/health/service/resty", { passing = true }) end)
consul("a service of the agent", function(c) return c:get("/agent/service/resty-1") end)
consul("a service is deregistered", function(c) return c:put("/agent/service/deregister/resty-1", "") end)
consul("a service is deregistered without a body", function(c) return c:put("/agent/service/deregister/resty-1") end)
consul("an absent service is deregistered", function(c) return c:put("/agent/service/deregister/none", "") end)
consul("a service with # in its id", function(c)
  c:put("/agent/service/register", { Name = "resty", ID = "resty" })
  c:put("/agent/service/register", { Name = "resty", ID = "resty#2" })
  c:put("/agent/service/deregister/resty#2", "")
  local res, err = c:get("/agent/services")
  c:put("/agent/service/deregister/resty", "")
  return res, err
end)
consul("a registration that is not JSON", function(c) return c:put("/agent/service/register", "{") end)
consul("a registration without a name", function(c) return c:put("/agent/service/register", { ID = "x" }) end)
consul("a check is registered, passed and deregistered", function(c)
  c:put("/agent/check/register", { Name = "resty-check", TTL = "1h" })
  local passed = c:put("/agent/check/pass/resty-check", "", { note = "all is well" })
  local res = c:get("/agent/checks")
  c:put("/agent/check/deregister/resty-check", "")
  return { status = passed.status, headers = res.headers, body = { passed.body, res.body["resty-check"] } }
end)
consul("a check that is not there", function(c) return c:put("/agent/check/pass/none", "") end)
consul("a session, a lock and its release", function(c)
  local session = c:put("/session/create", { Name = "resty", LockDelay = "0s" }).body.ID
  local held = c:put_key(K .. "lock", "me", { acquire = session })
  local again = c:put_key(K .. "lock", "me", { acquire = session })
  local released = c:put_key(K .. "lock", "me", { release = session })
  local ended = c:put("/session/destroy/" .. session, "")
  return { status = held.status, headers = held.headers, body = { held.body, again.body, released.body, ended.body } }
end)
consul("an acquire with a session that is not there", function(c)
  return c:put_key(K .. "lock", "me", { acquire = "00000000-0000-0000-0000-000000000000" })
end)
consul("a session is created without a body", function(c) return c:put("/session/create", "") end)
consul("an event is fired", function(c)
  local res, err = c:put("/event/fire/resty", "payload")
  if res and type(res.body) == "table" then
    res.body.ID, res.body.LTime = nil, nil
  end
  return res, err
end)
consul("a prepared query", function(c)
  local made = c:put("/query", { Name = "resty", Service = { Service = "none" } })
  return made
end)
consul("a path that takes no PUT", function(c) return c:put("/catalog/nodes", "") end)
consul("a path that takes no DELETE", function(c) return c:delete("/catalog/nodes") end)
consul("a path that takes no GET", function(c) return c:get("/agent/service/register") end)
consul("metrics as text", function(c)
  local res, err = c:get("/agent/metrics", { format = "x" })
  return res and { status = res.status, headers = res.headers, body = type(res.body) }, err
end)
consul("a catalog entry is registered and deregistered", function(c)
  local put = c:put("/catalog/register", { Node = "resty-node", Address = "10.0.0.1", Service = { Service = "far" } })
  local res, err = c:get("/catalog/node/resty-node")
  c:put("/catalog/deregister", { Node = "resty-node" })
  return put.status == 200 and res, err
end)

---- Transactions

consul("txn: set and get", function(c)
  return c:txn({
    { KV = { Verb = "set", Key = K .. "txn", Value = "one" } },
    { KV = { Verb = "get", Key = K .. "txn" } },
  })
end)
for name, value in sorted({
  ["a number"] = 12, ["true"] = true, ["false"] = false, ["bytes"] = "\0\255", ["an empty text"] = "",
}) do
  consul("txn: the value is " .. name, function(c)
    return c:txn({
      { KV = { Verb = "set", Key = K .. "txn", Value = value } },
      { KV = { Verb = "get", Key = K .. "txn" } },
    })
  end)
end
consul("txn: the value is a table", function(c)
  return c:txn({ { KV = { Verb = "set", Key = K .. "txn", Value = { 1 } } } })
end)
consul("txn: as JSON", function(c)
  local operations = [=[[{"KV":{"Verb":"set","Key":"%stxn","Value":"dHdv"}},{"KV":{"Verb":"get","Key":"%stxn"}}]]=]
  return c:txn(operations:format(K, K))
end)
consul("txn: it is refused", function(c)
  return c:txn({ { KV = { Verb = "cas", Key = K .. "txn", Value = "v", Index = 1 } } })
end)
consul("txn: an unknown verb", function(c) return c:txn({ { KV = { Verb = "x", Key = K .. "txn" } } }) end)
consul("txn: a text that is not JSON", function(c) return c:txn("no JSON") end)
consul("txn: an empty text", function(c) return c:txn("") end)
consul("txn: an empty list", function(c) return c:txn({}) end)
consul("txn: delete-tree", function(c) return c:txn({ { KV = { Verb = "delete-tree", Key = K .. "txn" } } }) end)
consul("txn: 65 operations", function(c)
  local all = {}
  for i = 1, 65 do
    all[i] = { KV = { Verb = "set", Key = K .. "txn/" .. i, Value = "v" } }
  end
  local res, err = c:txn(all)
  return res and { status = res.status, headers = res.headers, body = type(res.body) }, err
end)
consul("txn: get-tree", function(c) return c:txn({ { KV = { Verb = "get-tree", Key = K .. "txn" } } }) end)
consul("txn: a check and a node", function(c)
  return c:txn({ { Node = { Verb = "get", Node = { Node = "none" } } } })
end)
consul("txn: services in the results", function(c)
  return c:txn({ { Node = { Verb = "set", Node = { Node = "resty-txn", Address = "10.0.0.2" } } } })
end)
consul("txn: services are removed", function(c)
  return c:txn({ { Node = { Verb = "delete", Node = { Node = "resty-txn" } } } })
end)
consul("txn: with arguments", function(c)
  return c:txn({ { KV = { Verb = "get", Key = K .. "txn" } } }, { dc = "none" })
end)
for name, payload in sorted({
  ["false"] = false, ["a number"] = 5, ["true"] = true, ["a list of numbers"] = { 1, 2 },
}) do
  consul("txn: the payload is " .. name, function(c) return c:txn(payload) end)
end
echo("txn: what is sent", function(c)
  return c:txn({ { KV = { Verb = "set", Key = "k", Value = 1.5 } } }, { token = "t" })
end)

---- Arguments

for name, token in sorted({
  ["a text"] = "secret",
  ["an empty text"] = "",
  ["false"] = false,
  ["a number"] = 5,
  ["true"] = true,
  ["a list of one"] = { "t" },
  ["a function"] = print,
  ["a text with a line end"] = "a\nb",
  ["UTF-8"] = "ä",
  ["a text with blanks"] = " t ",
}) do
  for _, method in ipairs({ "get", "delete", "put" }) do
    echo("token: " .. name .. ", " .. method, function(c)
      local args = { token = token }
      if method == "put" then
        return c:put("/a", "v", args)
      end
      return c[method](c, "/a", args)
    end)
  end
  echo("token: " .. name .. ", as a default argument", function(c) return c:get("/a") end,
    { default_args = { token = token } })
end
echo("token: an empty text beside a default one", function(c)
  return c:get("/a", { token = "" })
end, { default_args = { token = "d" } })
echo("token: false beside a default one", function(c)
  return c:get("/a", { token = false })
end, { default_args = { token = "d" } })
consul("token: an empty text, on Consul", function(c) return c:get("/catalog/datacenters", { token = "" }) end)
consul("token: the right one", function(c, env) return c:get("/catalog/datacenters", { token = env.token }) end)
consul("token: the right one, as a default argument", function(c, env)
  c.default_args = { token = env.token }
  c:put_key(K .. "token", "v")
  return c:get_key(K .. "token")
end)
consul("token: the right one, overridden by a wrong one", function(c, env)
  c.default_args = { token = env.token }
  return c:get_key(K .. "token", { token = "wrong" })
end)
consul("token: the right one, and an empty one", function(c, env)
  c.default_args = { token = env.token }
  return c:get_key(K .. "token", { token = "" })
end)
consul("token: in the path", function(c, env) return c:get("/kv/" .. K .. "token?token=" .. env.token) end)
consul("token: a transaction", function(c, env)
  return c:txn({ { KV = { Verb = "get", Key = K .. "token" } } }, { token = env.token })
end)
consul("token: one that Consul does not know", function(c) return c:get_key(K .. "none", { token = "unknown" }) end)
for name, value in sorted({
  ["a text"] = "v", ["an empty text"] = "", ["true"] = true, ["false"] = false, ["a number"] = 5,
  ["a fraction"] = 0.1, ["a third"] = 1 / 3, ["1e15"] = 1e15, ["123456789012345"] = 123456789012345,
  ["2^53"] = 2 ^ 53, ["-0"] = -0, ["1e300"] = 1e300, ["NaN"] = 0 / 0, ["infinity"] = math.huge,
  ["a list"] = { "a", "b c" }, ["an empty table"] = {}, ["a list with true"] = { true, "b" },
  ["a list with false"] = { false, "b" }, ["a list with numbers"] = { 1, 2.5 }, ["a table with names"] = { x = "y" },
  ["a nested list"] = { { "a" } }, ["a function"] = print, ["special bytes"] = "a b&c=d#e?f/g%h+i~j'k(l)",
  ["UTF-8"] = "ä鍵", ["control bytes"] = "\0\1\n\r", ["null"] = cjson.null,
}) do
  echo("argument: " .. name, function(c) return c:get("/a", { x = value }) end)
end
for name, args in sorted({
  ["none"] = {}, ["a list"] = { "x" }, ["a number as a name"] = { [5] = "x" }, ["true as a name"] = { [true] = "x" },
  ["a name with special bytes"] = { ["a b&c=d"] = "v" }, ["an empty name"] = { [""] = "v" },
}) do
  echo("arguments: " .. name, function(c) return c:get("/a", args) end)
end
for name, args in sorted({
  ["false"] = false, ["a text"] = "x=1", ["a number"] = 5, ["true"] = true, ["a function"] = print,
}) do
  for _, method in ipairs({ "get", "delete", "get_key", "delete_key", "list_keys" }) do
    echo("arguments: " .. name .. ", " .. method, function(c) return c[method](c, "/a", args) end)
  end
  echo("arguments: " .. name .. ", put", function(c) return c:put("/a", "v", args) end)
end
for name, defaults in sorted({
  ["a text"] = "x=1", ["a number"] = 5, ["true"] = true, ["false"] = false, ["a list"] = { "x" },
}) do
  echo("default_args: " .. name, function(c) return c:get("/a") end, { default_args = defaults })
end
echo("default_args: merged", function(c) return c:get("/a", { a = 1 }) end, { default_args = { a = 2, b = 3 } })
echo("default_args: false does not override", function(c)
  return c:get("/a", { a = false })
end, { default_args = { a = 2 } })
echo("default_args: changed after new", function(c)
  c.default_args.later = "yes"
  return c:get("/a")
end)
echo("default_args: replaced after new", function(c)
  c.default_args = { other = "yes" }
  return c:get("/a")
end)
echo("default_args: nil after new", function(c)
  c.default_args = nil
  return c:get("/a")
end)
echo("the same arguments twice", function(c)
  local args = { token = "t", wait = 1, index = 5 }
  c:get("/a", args)
  return c:get("/a", args)
end)
echo("the same transaction twice", function(c)
  local payload = { { KV = { Verb = "set", Key = "k", Value = "v" } } }
  c:txn(payload)
  return c:txn(payload)
end)

---- Bodies

for name, body in sorted({
  ["a text"] = "v", ["a number"] = 1234, ["a large number"] = 123456789012345678, ["a fraction"] = 0.1,
  ["a third"] = 1 / 3, ["NaN"] = 0 / 0, ["infinity"] = math.huge, ["true"] = true, ["a table"] = { a = 1 },
  ["an empty table"] = {}, ["a list"] = { 1, 2 }, ["a table with a function"] = { print },
  ["a sparse table"] = { [1] = 1, [100] = 2 }, ["null"] = cjson.null,
  ["a thread"] = coroutine.create(function() end),
}) do
  echo("body: " .. name, function(c) return c:put("/a", body) end)
end
echo("body: a function", function(c)
  local pieces = { "a", "b" }
  return c:put("/a", function() return table.remove(pieces, 1) end)
end)
echo("body: a function that fails", function(c)
  return c:put("/a", function() return nil, "closed" end)
end)
echo("body: a megabyte", function(c)
  local res, err = c:put("/length", ("x"):rep(2 ^ 20))
  return res, err
end)

---- Paths

for _, path in ipairs({
  "/a b", "/a?b", "/a?b=c", "/a#b", "/a<b>", "/a%20b", "/a%", "/a\\b", "/a\"b", "/a|b", "/a^b", "/a`b", "/a{b}",
  "/ä", "/a\r\nX: y", "/a\0b", "/a\127b", "/a//b", "/a;b", "/a&b", "/a'b", "/a[b]", "/a?b c", "/a?b#c", "/a?x=ä",
  "a", "?a",
}) do
  echo("path: " .. shown(path), function(c) return c:get(path) end)
end

---- Answers

for _, kind in ipairs({
  "json", "json-charset", "json-broken", "json-empty", "json-null", "json-number", "json-text", "text", "none",
  "chunked", "chunked-empty", "twice", "no-length", "204", "304", "301", "400", "404", "429", "500", "503",
  "value-not-base64", "value-number", "value-null", "entry-number", "lower-case", "index-0", "cut", "garbage",
  "http10", "extra", "json-bom", "json-upper", "folded", "folded-chunked", "stalls", "reset",
}) do
  for _, method in ipairs({ "get", "get_key" }) do
    call(("answer: %s, %s"):format(kind, method), function(make, env)
      local c = make({ port = env.raw_port, read_timeout = kind == "stalls" and 200 or 60000 })
      return c[method](c, "/" .. kind)
    end)
  end
end
call("answer: of a transaction, no Results", function(make, env)
  return make({ port = env.raw_port }):txn("[]", { kind = 1 })
end)
call("answer: a PUT's, 500", function(make, env) return make({ port = env.raw_port }):put("/500", "v") end)
call("answer: a PUT's, cut", function(make, env) return make({ port = env.raw_port }):put("/cut", "v") end)
call("answer: headers of any case", function(make, env)
  local res, err = make({ port = env.raw_port }):get("/json")
  if not res then
    return res, err
  end
  local headers = res.headers
  return { status = res.status, headers = headers, body = {
    headers["X-Consul-Index"], headers["x-consul-index"], headers["X-CONSUL-INDEX"], headers["X-None"] or "none",
    headers["content-type"], type(headers["X_Consul_Index"]),
  } }
end)
call("answer: a header that is there twice", function(make, env)
  local res, err = make({ port = env.raw_port }):get("/twice")
  return res and { status = res.status, headers = {}, body = res.headers["X-Twice"] }, err
end)
call("answer: what a response has", function(make, env)
  local res, err = make({ port = env.raw_port }):get("/json")
  if not res then
    return res, err
  end
  local has = {}
  for name, value in pairs(res) do
    has[name] = type(value)
  end
  return { status = res.status, headers = res.headers, body = has }
end)
call("answer: its reason", function(make, env)
  local res, err = make({ port = env.raw_port }):get("/404")
  return res and { status = res.status, headers = {}, body = res.reason or "none" }, err
end)

---- Servers

-- Fields that are set at `new`, or later.
local function both(name, options, run)
  call(name .. ", at new", function(make, env)
    return run(make(options(env)), env)
  end)
  call(name .. ", after new", function(make, env)
    local given = options(env)
    local c = make({ port = env.echo_port, ssl = given.tls_ca_file and true, tls_ca_file = given.tls_ca_file })
    for field, value in pairs(given) do
      c[field] = value
    end
    -- The value that `new` makes of it.
    c.port = c.port ~= 0 and c.port or nil
    return run(c, env)
  end)
end

local function get_a(c)
  return c:get("/a")
end

both("host and port", function(env) return { host = "127.0.0.1", port = env.echo_port } end, get_a)
both("port as a text", function(env) return { port = tostring(env.echo_port) } end, get_a)
both("a refused port", function(env) return { port = env.refused_port } end, get_a)
both("a refused port, put", function(env) return { port = env.refused_port } end, function(c)
  return c:put("/a", "v")
end)
both("a server that does not answer", function(env)
  return { port = env.silent_port, read_timeout = 200 }
end, get_a)
both("a server that does not answer, put", function(env)
  return { port = env.silent_port, read_timeout = 200 }
end, function(c) return c:put("/a", "v") end)
both("a server that takes no connection", function(env)
  return { port = env.full_port, connect_timeout = 200 }
end, get_a)
both("a server that takes no connection, put", function(env)
  return { port = env.full_port, connect_timeout = 200 }
end, function(c) return c:put("/a", "v") end)
both("a server that does not answer, a long connect_timeout", function(env)
  return { port = env.silent_port, connect_timeout = 20000, read_timeout = 200 }
end, get_a)
both("a slow answer within read_timeout", function(env)
  return { port = env.echo_port, read_timeout = 60000 }
end, function(c) return c:get("/slow") end)
both("no answer within read_timeout", function(env)
  return { port = env.echo_port, read_timeout = 100 }
end, function(c) return c:get("/silent") end)
both("read_timeout as a text", function(env) return { port = env.echo_port, read_timeout = "60000" } end, get_a)
both("read_timeout as a text, a silent server", function(env)
  return { port = env.silent_port, read_timeout = "200" }
end, get_a)
both("read_timeout = 0", function(env) return { port = env.echo_port, read_timeout = 0 } end, get_a)
both("read_timeout = -1", function(env) return { port = env.echo_port, read_timeout = -1 } end, get_a)
both("read_timeout = false", function(env) return { port = env.echo_port, read_timeout = false } end, get_a)
both("read_timeout = 0.5", function(env) return { port = env.echo_port, read_timeout = 0.5 } end, get_a)
both("read_timeout = 1e12", function(env) return { port = env.echo_port, read_timeout = 1e12 } end, get_a)
both("read_timeout is a table", function(env) return { port = env.echo_port, read_timeout = {} } end, get_a)
both("connect_timeout as a text", function(env) return { port = env.echo_port, connect_timeout = "60000" } end, get_a)
both("connect_timeout as a text, no connection", function(env)
  return { port = env.full_port, connect_timeout = "200" }
end, get_a)
both("connect_timeout = 0", function(env) return { port = env.echo_port, connect_timeout = 0 } end, get_a)
both("connect_timeout = -1", function(env) return { port = env.echo_port, connect_timeout = -1 } end, get_a)
both("connect_timeout = false", function(env) return { port = env.echo_port, connect_timeout = false } end, get_a)
both("connect_timeout = 0.5", function(env) return { port = env.echo_port, connect_timeout = 0.5 } end, get_a)
both("connect_timeout = 1e12", function(env) return { port = env.echo_port, connect_timeout = 1e12 } end, get_a)
both("connect_timeout is a table", function(env) return { port = env.echo_port, connect_timeout = {} } end, get_a)
both("a socket", function(env) return { host = "unix:" .. env.socket, port = 0 } end, function(c)
  return c:get("/catalog/datacenters")
end)
both("a socket without a port", function(env) return { host = "unix:" .. env.socket, port = false } end, function(c)
  return c:get("/catalog/datacenters")
end)
both("a socket with slashes", function(env) return { host = "unix://" .. env.socket, port = 0 } end, function(c)
  return c:get("/catalog/datacenters")
end)
both("a socket that is not there", function() return { host = "unix:/no/such/socket", port = 0 } end, get_a)
both("a socket, its Host", function(env) return { host = "unix:" .. env.echo_socket, port = 0 } end, get_a)
both("host is an address of IPv6", function(env) return { host = "[::1]", port = env.echo_port } end, get_a)
both("host is an address of IPv6 without brackets", function(env) return { host = "::1", port = env.echo_port } end,
  get_a)
for _, host in ipairs({ "localhost", "no.such.host.invalid", "256.1.1.1", "", "a b", "127.0.0.1/x", "127.1" }) do
  both("host is '" .. host .. "'", function(env) return { host = host, port = env.echo_port } end, get_a)
end
for name, host in sorted({ ["a number"] = 5, ["true"] = true, ["a table"] = {} }) do
  both("host is " .. name, function(env) return { host = host, port = env.echo_port } end, get_a)
end
for name, port in sorted({
  ["65536"] = 65536, ["-1"] = -1, ["0.5"] = 0.5, ["a text"] = "x", ["true"] = true, ["a table"] = {},
}) do
  both("port is " .. name, function() return { port = port } end, get_a)
end
both("port = 0 with a host that is not a socket", function() return { host = "127.0.0.1", port = 0 } end, get_a)
both("TLS, unverified", function(env)
  return { port = env.tls_port, ssl = true, ssl_verify = false }
end, function(c) return c:get("/catalog/datacenters") end)
both("TLS, verified", function(env)
  return { port = env.tls_port, ssl = true, ssl_verify = true, sni_host = "example.com", tls_ca_file = env.ca }
end, function(c) return c:get("/catalog/datacenters") end)
both("TLS, verified by default", function(env)
  return { port = env.tls_port, ssl = true, sni_host = "example.com", tls_ca_file = env.ca }
end, function(c) return c:get("/catalog/datacenters") end)
both("TLS, another name", function(env)
  return { port = env.tls_port, ssl = true, sni_host = "example.org", tls_ca_file = env.ca }
end, function(c) return c:get("/catalog/datacenters") end)
both("TLS, no name", function(env) return { port = env.tls_port, ssl = true, tls_ca_file = env.ca } end, function(c)
  return c:get("/catalog/datacenters")
end)
both("TLS with a server without it", function(env)
  return { port = env.echo_port, ssl = true, ssl_verify = false }
end, get_a)
both("no TLS with a server with it", function(env) return { port = env.tls_port } end, get_a)
both("TLS on a socket, unverified", function(env)
  return { host = "unix:" .. env.tls_socket, port = 0, ssl = true, ssl_verify = false }
end, function(c) return c:get("/catalog/datacenters") end)
both("TLS on a socket, verified", function(env)
  return { host = "unix:" .. env.tls_socket, port = 0, ssl = true, ssl_verify = true, sni_host = "example.com",
    tls_ca_file = env.ca }
end, function(c) return c:get("/catalog/datacenters") end)
both("ssl = false", function(env) return { port = env.echo_port, ssl = false } end, get_a)
both("ssl as a text", function(env) return { port = env.tls_port, ssl = "yes", ssl_verify = false } end, function(c)
  return c:get("/catalog/datacenters")
end)

---- new and _debug

call("new: what it has", function(make)
  local c = make({})
  return { status = 0, headers = {}, body = {
    c.host, type(c.port), c.connect_timeout, c.read_timeout, type(c.default_args), c.ssl, c.ssl_verify,
      type(c.sni_host),
  } }
end)
call("new: without a table", function(_, env)
  local c = env.module:new()
  return { status = 0, headers = {}, body = { c.host, c.port, c.connect_timeout, c.read_timeout, c.ssl_verify } }
end)
call("new: false", function(_, env)
  local c = env.module:new(false)
  return { status = 0, headers = {}, body = { c.host, c.port } }
end)
call("new: with a dot", function(_, env)
  local c = env.module.new(nil, { port = 5 })
  return { status = 0, headers = {}, body = { c.host, c.port } }
end)
call("new: a text", function(_, env)
  local c = env.module:new("x")
  return { status = 0, headers = {}, body = { c.host, c.port } }
end)
call("new: an unknown option", function(make, env)
  return make({ port = env.echo_port, no_such_option = 1 }):get("/a")
end)
call("new: host = false and port = false", function(_, env)
  local c = env.module:new({ host = false, port = false })
  return { status = 0, headers = {}, body = { c.host, c.port } }
end)
for name, verify in sorted({ ["false"] = false, ["a text"] = "no" }) do
  call("new: ssl_verify is " .. name, function(_, env)
    return { status = 0, headers = {}, body = { env.module:new({ ssl_verify = verify }).ssl_verify } }
  end)
end
call("the module's names", function(_, env)
  local found = {}
  for _, name in ipairs({
    "_VERSION", "_debug", "new", "get", "put", "delete", "get_key", "put_key", "delete_key", "list_keys", "txn",
    "get_client_body_reader",
  }) do
    found[name] = type(env.module[name])
  end
  return { status = 0, headers = {}, body = { found, env.module._VERSION } }
end)
echo("_debug: on", function(c, env)
  env.module._debug(true)
  local res, err = c:get("/a", { wait = 1 })
  env.module._debug(false)
  return res, err
end)
echo("a method with a dot", function(c) return c.get("/a") end)
echo("two objects at once", function(c, env)
  local other = env.module:new({ port = env.echo_port, default_args = { other = "o" } })
  local threads = { ngx.thread.spawn(c.get, c, "/slow"), ngx.thread.spawn(other.get, other, "/slow") }
  local _, first = ngx.thread.wait(threads[1])
  local _, second = ngx.thread.wait(threads[2])
  return { status = first.status, headers = {}, body = { first.body, second.body } }
end)

---- Requests that nginx serves

for _, name in ipairs({ "none", "small", "sized", "large", "chunked", "put", "put-sized" }) do
  call("the body of a client's request: " .. name, function(_, env) return env.served("reader", name) end)
end
for _, phase in ipairs({ "set", "rewrite", "access", "content", "header_filter", "body_filter", "log" }) do
  call("in the phase " .. phase, function(_, env) return env.served("phase", phase) end)
end

return calls
