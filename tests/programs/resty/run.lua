-- In the nginx of compare.lua: makes the calls, writes what they return to a file, and is the servers that they go to.
local cjson = require("cjson")
local ffi = require("ffi")
local env = require("env")

local M = {}

-- A module that resty.http 0.17 loads for a client's certificate alone, which lua-resty-consul does not pass.
package.preload["resty.string"] = function()
  return { to_hex = function() error("not here") end }
end

local module = require("resty.consul")
env.module = module

local function make(options)
  options = options or {}
  options.port = options.port == nil and not options.host and env.consul_port or options.port
  return module:new(options)
end

-- A value as JSON can have it, in a form that is the same in each run: no indexes, times, ids and ports.
local function settled(value, name)
  local kind = type(value)
  if value == cjson.null then
    return "(null)"
  elseif kind == "number" and type(name) == "string" and (name:find("Index$") or name:find("^LTime$")) then
    return value > 0 and "(index)" or "(zero)"
  elseif kind == "number" then
    return value ~= value and "(NaN)" or ("(number) %.17g"):format(value)
  elseif kind == "string" then
    value = value:gsub("%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x", "(uuid)")
    value = value:gsub("%d%d%d%d%-%d%d%-%d%dT[%d:.]+Z?", "(time)")
    if #value > 400 then
      return ("(text of %d bytes) %s"):format(#value, ngx.md5(value))
    end
    return (value:gsub("[^ -~]", function(byte)
      return ("\\x%02x"):format(byte:byte())
    end))
  elseif kind ~= "table" then
    return kind == "boolean" and tostring(value) or "(" .. kind .. ")"
  end
  local copy = {}
  for key, item in pairs(value) do
    copy[type(key) == "string" and key or ("[%s]"):format(tostring(key))] = settled(item, key)
  end
  return next(copy) and copy or "(empty table)"
end

local HEADERS = { "Content-Type", "Vary", "X-Consul-KnownLeader", "X-Consul-Effective-Consistency" }

local function described(returned, res, err)
  if not returned then
    return { kind = "raises", message = tostring(res) }
  elseif not res then
    local message = err
    return { kind = "fails", message = tostring(message), timeout = message == "timeout" }
  elseif type(res) ~= "table" then
    return { kind = "returns", body = settled(res) }
  end
  local headers = {}
  for _, name in ipairs(HEADERS) do
    local value = (res.headers or {})[name]
    headers[name] = settled(value or "(none)")
  end
  local index = (res.headers or {})["X-Consul-Index"]
  headers.index = tostring(index and tonumber(index) ~= nil)
  return { kind = "response", status = tostring(res.status), headers = headers, body = settled(res.body) }
end

-- Sends a request to the server of this nginx that makes a call while it serves it; returns what the call returned.
local outcome
function env.served(what, name)
  local sock = ngx.socket.tcp()
  sock:settimeout(20000)
  assert(sock:connect("127.0.0.1", env.served_port))
  local body = name == "none" and "" or ("x"):rep(name == "large" and 100000 or 100)
  local head = name == "none" and "" or "Content-Length: " .. #body .. "\r\n"
  if name == "chunked" then
    head, body = "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
  end
  outcome = nil
  local method = what == "reader" and "PUT" or "GET"
  if what == "phase" then
    head, body = "", ""
  end
  assert(sock:send(("%s /%s/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n%s"):format(method, what, name,
    head, body)))
  sock:receive("*a")
  sock:close()
  while not outcome do
    ngx.sleep(0.01)
  end
  return outcome
end

function M.reader()
  local name = ngx.var.uri:match("[^/]+$")
  local reader, err = module:get_client_body_reader(name:find("sized") and 30 or nil)
  local c = make({ port = env.echo_port })
  if name:find("^put") then
    local got, why = c:put("/a", reader)
    outcome = got and { status = got.status, headers = {}, body = got.body } or { status = 0, headers = {},
      body = { "nil", why and "why" } }
    return
  end
  local pieces = {}
  while reader do
    local piece, why = reader()
    if why then
      pieces[#pieces + 1] = "failed"
    end
    if not piece then
      break
    end
    pieces[#pieces + 1] = #piece
  end
  outcome = { status = 0, headers = {}, body = { type(reader), type(err), pieces } }
end

function M.phase()
  if outcome then
    return
  end
  local returned, res, err = pcall(function()
    return make({ port = env.echo_port }):get("/a")
  end)
  local body = returned and (res and { "response", res.body } or { "fails", err and "why" }) or { "raises" }
  outcome = { status = 0, headers = {}, body = body }
end

function M.echo()
  ngx.req.read_body()
  local body = ngx.req.get_body_data() or ""
  local path = ngx.req.get_body_file()
  if path then
    local file = assert(io.open(path, "rb"))
    body = file:read("*a")
    file:close()
  end
  local uri = ngx.var.request_uri
  if uri:find("^/v1/silent") then
    ngx.sleep(3600)
  elseif uri:find("^/v1/slow") then
    ngx.sleep(1)
  end
  -- A query's parameters have no order.
  local path_sent, query = uri:match("^([^?]*)%??(.*)$")
  local params = {}
  for param in query:gmatch("[^&]+") do
    params[#params + 1] = param
  end
  table.sort(params)
  -- The members of an object have no order either.
  local is_json, members = pcall(cjson.decode, body)
  local headers = ngx.req.get_headers()
  local token = headers["X-Consul-Token"]
  ngx.header["Content-Type"] = "application/json"
  ngx.header["Vary"] = "Accept-Encoding"
  ngx.header["X-Consul-Index"] = "2"
  ngx.print(cjson.encode({
    method = ngx.req.get_method(),
    path = ngx.unescape_uri((path_sent:gsub("+", "%%2B"))),
    query = ngx.unescape_uri(table.concat(params, "&")),
    token = token or "none",
    host = (headers.host or "none"):gsub("%d+$", "PORT"),
    body = #body > 400 and #body or is_json and type(members) == "table" and members or body,
  }))
end

local HEAD = "HTTP/1.1 %s\r\nConnection: close\r\nVary: Accept-Encoding\r\nX-Consul-Index: 7\r\n"
  .. "Content-Type: %s\r\n%s\r\n%s"

local function whole(status, content_type, body)
  return HEAD:format(status, content_type, ("Content-Length: %d\r\n"):format(#body), body)
end

local ENTRY = '[{"Key":"k","Value":%s,"ModifyIndex":7}]'

local answers = {
  json = whole("200 OK", "application/json", ENTRY:format('"dmFsdWU="')),
  ["json-charset"] = whole("200 OK", "application/json; charset=utf-8", ENTRY:format('"dmFsdWU="')),
  ["json-upper"] = whole("200 OK", "Application/JSON", ENTRY:format('"dmFsdWU="')),
  ["json-broken"] = whole("200 OK", "application/json", "[{"),
  ["json-empty"] = whole("200 OK", "application/json", ""),
  ["json-null"] = whole("200 OK", "application/json", "null"),
  ["json-number"] = whole("200 OK", "application/json", "5"),
  ["json-text"] = whole("200 OK", "application/json", '"text"'),
  ["json-bom"] = whole("200 OK", "application/json", "\239\187\191[]"),
  text = whole("200 OK", "text/plain", "text"),
  none = "HTTP/1.1 200 OK\r\nConnection: close\r\nX-Consul-Index: 7\r\nContent-Length: 4\r\n\r\ntext",
  chunked = HEAD:format("200 OK", "application/json", "Transfer-Encoding: chunked\r\n",
    "1\r\n[\r\n1\r\n]\r\n0\r\n\r\n"),
  ["chunked-empty"] = HEAD:format("200 OK", "application/json", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
  twice = HEAD:format("200 OK", "application/json", "X-Twice: a\r\nX-Twice: b\r\nContent-Length: 4\r\n", "true"),
  ["no-length"] = HEAD:format("200 OK", "application/json", "", "true"),
  ["204"] = HEAD:format("204 No Content", "application/json", "", ""),
  ["304"] = HEAD:format("304 Not Modified", "application/json", "", ""),
  ["301"] = whole("301 Moved Permanently", "text/html", '<a href="/v1/kv/a">Moved</a>'),
  ["400"] = whole("400 Bad Request", "text/plain", "Bad request"),
  ["404"] = whole("404 Not Found", "text/plain", ""),
  ["429"] = whole("429 Too Many Requests", "text/plain", "Your IP is issuing too many concurrent connections"),
  ["500"] = whole("500 Internal Server Error", "text/plain", "No cluster leader"),
  ["503"] = whole("503 Service Unavailable", "text/plain", "busy"),
  ["value-not-base64"] = whole("200 OK", "application/json", ENTRY:format('"???"')),
  ["value-number"] = whole("200 OK", "application/json", ENTRY:format("5")),
  ["value-null"] = whole("200 OK", "application/json", ENTRY:format("null")),
  ["entry-number"] = whole("200 OK", "application/json", "[5]"),
  ["lower-case"] = "HTTP/1.1 200 OK\r\nconnection: close\r\nvary: Accept-Encoding\r\nx-consul-index: 7\r\n"
    .. "content-type: application/json\r\ncontent-length: 4\r\n\r\ntrue",
  ["index-0"] = "HTTP/1.1 200 OK\r\nConnection: close\r\nVary: Accept-Encoding\r\nX-Consul-Index: 0\r\n"
    .. "Content-Type: application/json\r\nContent-Length: 4\r\n\r\ntrue",
  cut = HEAD:format("200 OK", "application/json", "Content-Length: 100\r\n", "[{"),
  garbage = "nonsense\r\n\r\n",
  http10 = "HTTP/1.0 200 OK\r\nVary: Accept-Encoding\r\nX-Consul-Index: 7\r\n"
    .. "Content-Type: application/json\r\n\r\ntrue",
  extra = whole("200 OK", "application/json", "true") .. "more",
  folded = whole("200 OK", "application/json\r\nX-Folded: a,\r\n b,TE: ", "true"),
  ["folded-chunked"] = HEAD:format("200 OK", "application/json\r\nX-Folded: a,\r\n b",
    "Transfer-Encoding: chunked\r\n", "4\r\ntrue\r\n0\r\n\r\n"),
  stalls = "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Type: application/json\r\n\r\n[",
  txn = whole("200 OK", "application/json", "{}"),
}

function M.raw()
  local sock = assert(ngx.req.socket(true))
  local kind = ngx.var.uri:match("[^/]*$")
  sock:send(answers[kind] or "")
  if kind == "stalls" then
    ngx.sleep(3600)
  end
end

-- Removes what an earlier run has left.
local function clean()
  local c = make()
  c:delete_key("resty-compare/", { recurse = true })
  c:delete_key("/resty-compare/", { recurse = true })
  local res = c:get("/session/list")
  for _, session in ipairs(res and type(res.body) == "table" and res.body or {}) do
    c:put("/session/destroy/" .. session.ID, "")
  end
  res = c:get("/query")
  for _, query in ipairs(res and type(res.body) == "table" and res.body or {}) do
    c:delete("/query/" .. query.ID)
  end
end

local function run()
  local results = {}
  local returned, why = pcall(function()
    clean()
    for _, one in ipairs(require("calls")) do
      local found = described(pcall(one.run, make, env))
      found.name = one.name
      results[#results + 1] = found
    end
    clean()
  end)
  local file = assert(io.open(env.results .. ".new", "w"))
  file:write(cjson.encode({ calls = results, why = not returned and tostring(why) or nil }))
  file:close()
  os.rename(env.results .. ".new", env.results)
  ffi.cdef("int kill(int, int);")
  ffi.C.kill(ngx.worker.pid(), 15)
end

function M.start()
  assert(ngx.timer.at(0, run))
end

return M
