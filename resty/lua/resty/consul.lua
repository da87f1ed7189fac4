-- The client of programs that were written for lua-resty-consul, on consul_ffi.
-- docs/migrating-from-lua-resty-consul.md has the differences.
local cjson = require("cjson")
local consul_ffi = require("consul_ffi")

-- Nil outside of OpenResty.
local ngx = rawget(_G, "ngx")
local openresty = ngx and require("consul_ffi.openresty")

-- The time in seconds, for the rest of a time limit.
local now_s = ngx and require("consul_ffi.openresty.clock") or os.time

---@class resty.consul
---@field consul? consul_ffi.ConsulClient the client that it uses; nil if there is none with these fields
---@field host string
---@field port? integer
---@field connect_timeout number in milliseconds
---@field read_timeout number in milliseconds
---@field default_args? table
---@field ssl boolean
---@field ssl_verify boolean
---@field sni_host? string
---@field made table the clients, and the fields that they were made with
local Consul = { _VERSION = "0.4.0" }
Consul.__index = Consul

local API = "/v1"

-- The defaults of lua-resty-consul; the times are in milliseconds.
local HOST, PORT, TIMEOUT = "127.0.0.1", 8500, 60000

-- The wait of a blocking query without `wait`, in milliseconds.
local DEFAULT_WAIT = 300000

-- The names of `new` that are not options of consul_ffi.
local OPTIONS = { "host", "port", "connect_timeout", "read_timeout", "default_args", "ssl", "ssl_verify", "sni_host" }

-- The fields among them that a client is made with. A program may change these fields after `new`.
local FIELDS = { "host", "port", "connect_timeout", "ssl", "ssl_verify", "sni_host" }

-- How often clients of consul_ffi repeat a request by default.
local RETRIES = 3

-- The most pairs of clients of consul_ffi that a process keeps for objects with equal options.
local MAX_CLIENTS = 16

local logs_debug = false

---Switches debug lines in nginx's log on or off, for all objects of the process.
---@param on boolean
function Consul._debug(on)
  logs_debug = on
end

-- Writes a line to nginx's log, if there is one. `level` is its name.
local function log(level, ...)
  if ngx and (level ~= "DEBUG" or logs_debug) then
    ngx.log(ngx[level], "[Consul] ", ...)
  end
end

-- A table with room for this number of names; LuaJIT has a function for that.
local has_new, new_table = pcall(require, "table.new")
if not has_new then
  new_table = function()
    return {}
  end
end

local function copied(given)
  local copy = {}
  for name, value in pairs(given or {}) do
    copy[name] = value
  end
  return copy
end

-- The phases of nginx before any request is served, in which a call may block the process.
local STARTS = { init = true, init_worker = true }

-- A client with its blocking calls and, in nginx, with those that yield.
local function both(consul)
  return { blocking = consul, yielding = openresty and openresty.client(consul) }
end

-- Sends a request; in nginx only the request or timer that calls this waits. Returns the results of http_request;
-- nil and a message in a phase that cannot wait.
local function call(client, ...)
  local phase = ngx and ngx.get_phase()
  if phase and not STARTS[phase] then
    if not openresty.can_wait(phase) then
      return nil, ("a request to Consul cannot wait in the phase %s; make it in ngx.timer.at"):format(phase)
    end
    return client.yielding:http_request(...)
  end
  return client.blocking:http_request(...)
end

-- As many headers as Consul's answers have mostly.
local ROOM = 14

-- The most names of headers whose spelling is kept.
local MAX_NAMES = 200

-- The names of headers in any case, and with underscores, as Consul spells them: X-Consul-Index.
local spellings, count = {}, 0

local function spelt(name)
  local as_consul = spellings[name]
  if not as_consul then
    as_consul = ("-" .. name:lower():gsub("_", "-")):gsub("%-%l", string.upper):sub(2)
    if count >= MAX_NAMES then
      spellings, count = {}, 0
    end
    spellings[name], count = as_consul, count + 1
  end
  return as_consul
end

local of_headers = {
  __index = function(headers, name)
    return type(name) == "string" and rawget(headers, spelt(name)) or nil
  end,
}

-- The response's headers, whose names are found in any case.
local function headers_of(received)
  local headers = new_table(0, ROOM)
  for name, value in pairs(received) do
    headers[spellings[name] or spelt(name)] = value
  end
  return setmetatable(headers, of_headers)
end

-- A plain value as the text that is sent, numbers exactly; nil and what it must be for any other.
local function plain_text(value)
  local kind = type(value)
  if kind == "string" or kind == "boolean" then
    return tostring(value)
  elseif kind == "cdata" then
    -- LuaJIT's integers of 64 bits.
    local digits = tostring(value):match("^(%-?%d+)U?LL$")
    return digits, "a number"
  elseif kind ~= "number" then
    return nil, "a string, a number or a boolean"
  elseif value ~= value or value == math.huge or value == -math.huge then
    return nil, "a finite number"
  elseif value % 1 == 0 then
    return ("%.0f"):format(value)
  end
  local digits = 14
  while tonumber(("%." .. digits .. "g"):format(value)) ~= value do
    digits = digits + 1
  end
  return ("%." .. digits .. "g"):format(value)
end

-- The message for a value that cannot be sent.
local function refused(name, wanted, value)
  local given = type(value) == "number" and tostring(value) or "a " .. type(value)
  return ("%s must be %s, got %s"):format(name, wanted, given)
end

-- A timeout in whole milliseconds, as cosockets take it: any other value, or less than 1, is the default. A
-- negative one is nil and a message.
local function milliseconds(name, value)
  local number = tonumber(value) or 0
  if number < 0 or number ~= number or number == math.huge then
    return nil, ("%s must be a number of milliseconds, got %s"):format(name, tostring(value))
  end
  return number >= 1 and math.floor(number) or TIMEOUT
end

-- A body as the text that is sent. The pieces of a reader, such as that of get_client_body_reader, are joined.
local function text_of(body)
  local kind = type(body)
  if kind == "table" then
    local encoded, text = pcall(cjson.encode, body)
    return encoded and text or nil, text
  elseif kind ~= "function" then
    local text, wanted = plain_text(body)
    if not text and kind ~= "number" then
      wanted = "a string, a number, a boolean, a table or a function"
    end
    return text, not text and refused("the body", wanted, body) or nil
  end
  local pieces = {}
  repeat
    local piece, err = body()
    if err then
      return nil, err
    elseif piece and type(piece) ~= "string" and type(piece) ~= "number" then
      return nil, ("the body's pieces must be strings, got a %s"):format(type(piece))
    end
    pieces[#pieces + 1] = piece
  until not piece
  return table.concat(pieces)
end

-- Escapes the bytes of a text that a pattern matches.
local function escaped(text, pattern)
  if not text:find(pattern) then
    return text
  end
  return (text:gsub(pattern, function(byte)
    return ("%%%02X"):format(byte:byte())
  end))
end

-- The characters that a name or a value of a query's parameter cannot have.
local ESCAPED = "[^%w_.~-]"

-- Adds an argument with several values to a path, false excluded; nil and a message for a value that cannot be sent.
local function with_values(path, name, values)
  for _, value in pairs(values) do
    local text, wanted = plain_text(value)
    if not text then
      return nil, refused("args." .. name, wanted, value)
    elseif value ~= false then
      local pair = escaped(name, ESCAPED) .. (value == true and "" or "=" .. escaped(text, ESCAPED))
      path = path .. (path:find("?", 1, true) and "&" or "?") .. pair
    end
  end
  return path
end

-- Returns the target, the parameters of its query and the options of the call; nil and a message for arguments that
-- cannot be sent.
local function arguments(self, path, args)
  local defaults = self.default_args or {}
  if type(args) ~= "table" or type(defaults) ~= "table" then
    local wrong = type(args) ~= "table" and "args" or "default_args"
    return nil, ("%s must be a table, got a %s"):format(wrong, type(wrong == "args" and args or defaults))
  end
  -- A key is sent as it is: what a request line cannot have is escaped, here and by http_request.
  path = escaped(path, "[^!-~]")
  local merged = copied(args)
  for name, value in pairs(defaults) do
    merged[name] = merged[name] or value
  end
  local timeout, why = milliseconds("read_timeout", self.read_timeout)
  if not timeout then
    return nil, why
  end
  local token, wanted = plain_text(merged.token)
  if merged.token ~= nil and not token then
    return nil, refused("token", wanted, merged.token)
  end
  merged.token = nil
  if merged.wait or merged.index then
    local wait = DEFAULT_WAIT
    if merged.wait then
      wait = tonumber(merged.wait)
      local text = wait and plain_text(wait)
      if not text then
        return nil, "wait must be a number of seconds, without a unit"
      end
      wait, merged.wait = wait * 1000, (type(merged.wait) == "string" and merged.wait or text) .. "s"
    end
    timeout = wait + wait / 16 + timeout
    log("DEBUG", "Blocking query timeout: ", timeout)
  end
  for name, value in pairs(merged) do
    if type(name) ~= "string" then
      return nil, ("args must have names, got one with the key %s"):format(tostring(name))
    elseif type(value) == "table" then
      path, why = with_values(path, name, value)
      if not path then
        return nil, why
      end
      merged[name] = nil
    elseif type(value) ~= "boolean" then
      local text
      text, wanted = plain_text(value)
      if not text then
        return nil, refused("args." .. name, wanted, value)
      end
      merged[name] = text
    end
  end
  -- A table without names costs as much as one with some.
  local params = next(merged) ~= nil and merged or nil
  return path, params, { full_response = true, timeout_ms = math.ceil(timeout), token = token }
end

-- Parts of messages if no connection was made within connect_timeout, which has no kind of its own: of HTTP, of the
-- system's connect within that, and of HTTPS.
local UNCONNECTED = { "no connection within", "deadline has elapsed", "operation timed out" }

local function is_unconnected(err)
  local endpoint = err.endpoint and err.endpoint .. ": "
  local _, last = err.message:find(endpoint or "", 1, true)
  for _, text in ipairs(UNCONNECTED) do
    -- Not what the path says, which is before the endpoint.
    if err.kind == "connect" and err.message:find(text, last or 1, true) then
      return true
    end
  end
  return false
end

-- Sends a request, as `call` does, and again if it failed before Consul can have seen it, or if it reads. A connection
-- that was not made within connect_timeout is the end. The first attempt is made with a client without retries, because
-- that of the program would try such a connection again.
local function send(clients, method, target, text, params, options)
  local begun = now_s()
  local success, response, err = call(clients.once, method, target, text, params, options)
  if success or not err or not err.retryable or err.kind == "timeout" or is_unconnected(err) then
    return success, response, err
  end
  local left = options.timeout_ms - math.ceil((now_s() - begun) * 1000)
  if clients.once == clients.consul or left < 1 or method ~= "GET" and err.maybe_applied then
    return success, response, err
  end
  options.timeout_ms = left
  return call(clients.consul, method, target, text, params, options)
end

-- Declared here, because it makes clients, as `new` does.
local clients_of

-- Makes a request. Returns the response; nil, a message and, unless the arguments are wrong, the error of consul_ffi.
local function request(self, method, path, args, body)
  local target, params, options = arguments(self, API .. path, args or {})
  if not target then
    return nil, params
  end
  local clients, why = clients_of(self)
  if not clients then
    return nil, why
  end
  local text
  if body ~= nil then
    text, why = text_of(body)
    if not text then
      return nil, why
    end
  end
  -- A wrong type raises an error there.
  local called, success, response, err = pcall(send, clients, method, target, text, params, options)
  if not called then
    return nil, tostring(success)
  elseif not success then
    -- The text that callers compare.
    local is_timeout = err and (err.kind == "timeout" or is_unconnected(err))
    return nil, is_timeout and "timeout" or response, err
  end
  if logs_debug then
    log("DEBUG", "Status: ", response.status)
    log("DEBUG", "Headers:\n", cjson.encode(response.headers))
    log("DEBUG", "Body:\n", response.body)
  end
  if response.headers["content-type"] == "application/json" then
    local decoded, value = pcall(cjson.decode, response.body)
    if decoded then
      response.body = value
    else
      log("ERR", value)
      response.body = nil
    end
  end
  response.headers = headers_of(response.headers)
  return response
end

-- Replaces the base64 in an entry's `Value` by its bytes.
local function decode_value(entry)
  if type(entry) ~= "table" or type(entry.Value) ~= "string" then
    return
  end
  local decoded, bytes = consul_ffi.base64_decode(entry.Value)
  if decoded then
    entry.Value = bytes
  else
    log("WARN", "Could not decode Value")
  end
end

-- The methods' checks of a path or a key.
local function is_text(value)
  return type(value) == "string"
end

---@class resty.consul.Response
---@field status integer
---@field headers table<string, string> the names in any case
---@field body any decoded, if it is JSON

---Sends GET.
---@param path string without `/v1`
---@param args? table
---@return resty.consul.Response? response
---@return string? message
---@return consul_ffi.Error? err
function Consul:get(path, args)
  if not is_text(path) then
    return nil, "Path (string) required"
  end
  return request(self, "GET", path, args)
end

---Sends PUT.
---@param path string without `/v1`
---@param body string|number|boolean|table|function a table is sent as JSON, the pieces of a reader as one text
---@param args? table
---@return resty.consul.Response? response
---@return string? message
---@return consul_ffi.Error? err
function Consul:put(path, body, args)
  if not is_text(path) or not body then
    return nil, "Path (string) and body required"
  end
  return request(self, "PUT", path, args, body)
end

---Sends DELETE.
---@param path string without `/v1`
---@param args? table
---@return resty.consul.Response? response
---@return string? message
---@return consul_ffi.Error? err
function Consul:delete(path, args)
  if not is_text(path) then
    return nil, "Path (string) required"
  end
  return request(self, "DELETE", path, args)
end

---Reads a key: the entries in the body have their values as bytes.
---@param key string
---@param args? table
---@return resty.consul.Response? response
---@return string? message
---@return consul_ffi.Error? err
function Consul:get_key(key, args)
  if not is_text(key) then
    return nil, "Key (string) required"
  end
  local response, message, err = request(self, "GET", "/kv/" .. key, args)
  if response and type(response.body) == "table" then
    for _, entry in ipairs(response.body) do
      decode_value(entry)
    end
  end
  return response, message, err
end

---Writes a key.
---@param key string
---@param value string|number|boolean|table|function
---@param args? table
---@return resty.consul.Response? response
---@return string? message
---@return consul_ffi.Error? err
function Consul:put_key(key, value, args)
  if not is_text(key) or not value then
    return nil, "Key (string) and value required"
  end
  return request(self, "PUT", "/kv/" .. key, args, value)
end

---Deletes a key.
---@param key string
---@param args? table
---@return resty.consul.Response? response
---@return string? message
---@return consul_ffi.Error? err
function Consul:delete_key(key, args)
  if not is_text(key) then
    return nil, "Key (string) required"
  end
  return request(self, "DELETE", "/kv/" .. key, args)
end

---Lists the keys with a prefix.
---@param prefix? string
---@param args? table
---@return resty.consul.Response? response
---@return string? message
---@return consul_ffi.Error? err
function Consul:list_keys(prefix, args)
  prefix = prefix or ""
  if not is_text(prefix) then
    return nil, "non-string prefix"
  end
  if not args or type(args) == "table" then
    args = copied(args or {})
    args.keys = true
  end
  return request(self, "GET", "/kv/" .. prefix, args)
end

-- A copy of the operations of a transaction with base64 values.
local function encoded(operations)
  local copies = {}
  for i, operation in ipairs(operations) do
    local copy = type(operation) == "table" and copied(operation) or {}
    local value = type(copy.KV) == "table" and copy.KV.Value
    local kind = type(copy.KV) == "table" and type(copy.KV.Value)
    if kind == "string" or kind == "number" or kind == "boolean" then
      copy.KV = copied(copy.KV)
      copy.KV.Value = consul_ffi.base64_encode(plain_text(value) or tostring(value))
    end
    copies[i] = type(operation) == "table" and copy or operation
  end
  return copies
end

---Executes a transaction. A table's values are bytes; a text is sent as it is.
---@param payload table|string
---@param args? table
---@return resty.consul.Response? response
---@return string? message
---@return consul_ffi.Error? err
function Consul:txn(payload, args)
  if not payload then
    return nil, "Payload required"
  end
  if type(payload) == "table" then
    payload = encoded(payload)
  end
  local response, message, err = request(self, "PUT", "/txn", args, payload)
  local results = response and type(response.body) == "table" and response.body.Results
  for _, entry in ipairs(type(results) == "table" and results or {}) do
    decode_value(type(entry) == "table" and entry.KV)
  end
  return response, message, err
end

---A function that returns the body of the request that nginx serves in pieces of up to `size` bytes, then nil; nil
---for a request without a body. nginx reads the body first, as its limits allow it.
---@param size? integer
---@return (fun(): string?)? reader
---@return string? message
function Consul.get_client_body_reader(_, size)
  ngx.req.read_body()
  local text, path = ngx.req.get_body_data(), ngx.req.get_body_file()
  if path then
    local file, why = io.open(path, "rb")
    if not file then
      return nil, why
    end
    text = file:read("*a")
    file:close()
  end
  if not text then
    return nil
  end
  local at = 1
  return function()
    local piece = text:sub(at, at + (size or 65536) - 1)
    at = at + #piece
    return piece ~= "" and piece or nil
  end
end

-- The endpoint for host and port: a socket's path if the host is `unix:/path`.
local function endpoint_of(fields)
  local host = tostring(fields.host)
  local path = host:match("^unix:/*(/.*)")
  if path then
    return "unix://" .. path
  elseif host:find(":", 1, true) and not host:find("[", 1, true) then
    host = "[" .. host .. "]"
  end
  return ("%s://%s:%s"):format(fields.ssl and "https" or "http", host, tostring(fields.port or PORT))
end

-- The options of consul_ffi for the fields of an object and its other options: without a server of its own it has
-- that of the environment. Nil and a message for fields that cannot be used.
local function options_of(fields, others, has_server)
  local options, why = copied(others), nil
  if has_server then
    if type(fields.host) ~= "string" and type(fields.host) ~= "number" then
      return nil, ("host must be a string, got a %s"):format(type(fields.host))
    end
    options.endpoint = endpoint_of(fields)
    -- Not what the environment says of TLS.
    options.tls = options.tls or fields.ssl and true or false
  end
  if fields.ssl then
    options.tls_verify = fields.ssl_verify ~= false
    options.tls_server_name = fields.sni_host
  end
  if options.connect_timeout_ms == nil then
    options.connect_timeout_ms, why = milliseconds("connect_timeout", fields.connect_timeout)
  end
  return not why and options or nil, why
end

-- Options as a text that is equal for equal options; nil when one of them is not a plain value or a list of these.
local function text_of_options(options)
  local lines = {}
  for name, value in pairs(options) do
    -- A line for the option itself: a table without items, or with one, is another option than none or that item.
    lines[#lines + 1] = ("%q=%s"):format(name, type(value))
    local values = type(value) == "table" and value or { value }
    for i, one in pairs(values) do
      if type(one) ~= "string" and type(one) ~= "number" and type(one) ~= "boolean" then
        return nil
      end
      lines[#lines + 1] = ("%q.%q=%s:%q"):format(name, tostring(i), type(one), tostring(one))
    end
  end
  table.sort(lines)
  return table.concat(lines, "\n")
end

local kept, order = {}, {}

-- A client of consul_ffi, and one without retries. Programs call `new` in each request: objects with equal options
-- share both and their connections. Nil and a message for wrong options.
local function clients_for(options)
  local text = text_of_options(options)
  if text and kept[text] then
    return kept[text]
  end
  local made, consul = pcall(consul_ffi.new, options)
  if not made then
    return nil, "resty.consul: " .. tostring(consul)
  end
  local clients = { consul = both(consul) }
  clients.once = clients.consul
  if (options.retry_count or RETRIES) > 0 then
    local without = copied(options)
    without.retry_count = 0
    clients.once = both(consul_ffi.new(without))
  end
  if text then
    if #order >= MAX_CLIENTS then
      kept[table.remove(order, 1)] = nil
    end
    kept[text], order[#order + 1] = clients, text
  end
  return clients
end

-- Makes the clients for the fields of an object as they are now; `others` are its options of consul_ffi.
local function make_clients(self, others, has_server)
  local made = { others = others, has_server = has_server }
  for _, name in ipairs(FIELDS) do
    made[name] = self[name]
  end
  local options
  options, made.why = options_of(made, others, has_server)
  if options then
    made.clients, made.why = clients_for(options)
  end
  self.made, self.consul = made, made.clients and made.clients.consul.blocking
end

-- The clients of an object; nil and a message if there are none with its fields.
function clients_of(self)
  local made = self.made
  for _, name in ipairs(FIELDS) do
    if self[name] ~= made[name] then
      local other_server = self.host ~= made.host or self.port ~= made.port or self.ssl ~= made.ssl
      make_clients(self, made.others, made.has_server or other_server)
      break
    end
  end
  return self.made.clients, self.made.why
end

---Creates an object. Options besides lua-resty-consul's are consul_ffi's; with one of these a wrong
---option raises an error, else each call fails.
---@param given? table
---@return resty.consul consul
function Consul.new(_, given)
  given = type(given) == "table" and given or {}
  local self = setmetatable({
    host = given.host or HOST,
    port = given.port ~= 0 and (given.port or PORT) or nil,
    connect_timeout = given.connect_timeout or TIMEOUT,
    read_timeout = given.read_timeout or TIMEOUT,
    default_args = given.default_args or {},
    ssl = given.ssl or false,
    ssl_verify = given.ssl_verify == nil or given.ssl_verify,
    sni_host = given.sni_host,
  }, Consul)
  local others = copied(given)
  for _, name in ipairs(OPTIONS) do
    others[name] = nil
  end
  make_clients(self, others, (given.host or given.port or given.ssl) and true or false)
  if not self.consul and next(others) ~= nil then
    error(self.made.why, 2)
  end
  return self
end

return Consul
