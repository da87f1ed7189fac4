-- One of the compared clients, as a process that takes commands and prints seconds:
--
--   luajit worker.lua NAME ADDRESS       NAME is one of the clients below, ADDRESS is host:port
--
--   get N | put N       N sequential reads or writes of one key
--   batch N LIMIT       N reads, up to LIMIT of them in flight
--   decode PATH         three figures: fetching PATH as text, fetching it as Lua values, and decoding the
--                       text with lua-cjson
--   paced RATE SECONDS  reads that are due at a fixed rate, also before the previous one has ended; p50,
--                       p99, p99.9 and the longest time from a read's due time to its end
local ffi = require("ffi")

ffi.cdef [[
  struct timespec { long sec; long nsec; };
  int clock_gettime(int clock, struct timespec *time);
  int usleep(unsigned microseconds);
]]

local KEY, VALUE = "bench/key", ("v"):rep(100)
local name, address = arg[1], arg[2]
local host, port = address:match("^(.*):(%d+)$")

local time = ffi.new("struct timespec")
local function now()
  ffi.C.clock_gettime(1, time) -- CLOCK_MONOTONIC
  return tonumber(time.sec) + tonumber(time.nsec) * 1e-9
end

-- Each client has get(key), which returns the value, and put(key, value).
local clients = {}

function clients.raw()
  local client = require("raw").connect(host, tonumber(port))
  return {
    get = function(key)
      local _, value = client:get(key)
      return value
    end,
    put = function(key, value)
      client:put(key, value)
    end,
  }
end

function clients.consul_ffi()
  local client = require("consul_ffi").new({ consul_url = "http://" .. address })
  return {
    client = client,
    get = function(key)
      local _, value = assert(client:kv_get(key))
      return value
    end,
    put = function(key, value)
      assert(client:kv_put(key, value))
    end,
  }
end

-- libcurl as users of the FFI call it: one handle, which keeps the connection. libc's memory stream collects
-- the body, because a callback into Lua is slower. lua-cjson and LuaSocket's mime decode the response.
function clients.libcurl()
  ffi.cdef [[
    typedef void CURL;
    struct slist;
    CURL *curl_easy_init(void);
    int curl_easy_setopt(CURL *, int option, ...);
    int curl_easy_perform(CURL *);
    int curl_easy_getinfo(CURL *, int info, ...);
    struct slist *curl_slist_append(struct slist *, const char *);
    typedef struct FILE FILE;
    FILE *open_memstream(char **, size_t *);
    int fflush(FILE *);
    void rewind(FILE *);
  ]]
  local WRITEDATA, URL, POSTFIELDS, HTTPHEADER = 10001, 10002, 10015, 10023
  local CUSTOMREQUEST, HTTPGET, POSTFIELDSIZE, NOSIGNAL = 10036, 80, 60, 99
  local RESPONSE_CODE = 0x200002
  local curl = ffi.load("libcurl.so.4")
  local cjson, mime = require("cjson"), require("mime")
  local body, length = ffi.new("char *[1]"), ffi.new("size_t[1]")
  local file = ffi.C.open_memstream(body, length)
  local code = ffi.new("long[1]")

  local function option(handle, number, value)
    assert(curl.curl_easy_setopt(handle, number, value) == 0)
  end
  local function long(handle, number, value)
    option(handle, number, ffi.cast("long", value))
  end
  local function perform(handle)
    ffi.C.rewind(file)
    assert(curl.curl_easy_perform(handle) == 0)
    ffi.C.fflush(file)
    curl.curl_easy_getinfo(handle, RESPONSE_CODE, code)
    assert(code[0] == 200)
    return ffi.string(body[0], length[0])
  end
  local function handle()
    local new = curl.curl_easy_init()
    long(new, NOSIGNAL, 1)
    option(new, WRITEDATA, file)
    return new
  end

  local reader, writer = handle(), handle()
  long(reader, HTTPGET, 1)
  option(writer, CUSTOMREQUEST, "PUT")
  option(writer, HTTPHEADER, curl.curl_slist_append(nil, "Content-Type:"))
  return {
    get = function(key)
      option(reader, URL, "http://" .. address .. "/v1/kv/" .. key)
      return mime.unb64(cjson.decode(perform(reader))[1].Value)
    end,
    put = function(key, value)
      option(writer, URL, "http://" .. address .. "/v1/kv/" .. key)
      option(writer, POSTFIELDS, value)
      long(writer, POSTFIELDSIZE, #value)
      assert(perform(writer):match("^true"))
    end,
  }
end

-- LuaSocket's http with its defaults: a connection per request.
function clients.luasocket()
  local http, ltn12 = require("socket.http"), require("ltn12")
  local cjson, mime = require("cjson"), require("mime")
  local function request(method, key, value)
    local parts = {}
    local success, code = http.request({
      url = "http://" .. address .. "/v1/kv/" .. key,
      method = method,
      headers = value and { ["content-length"] = #value },
      source = value and ltn12.source.string(value),
      sink = ltn12.sink.table(parts),
    })
    assert(success and code == 200, code)
    return table.concat(parts)
  end
  return {
    get = function(key)
      return mime.unb64(cjson.decode(request("GET", key))[1].Value)
    end,
    put = function(key, value)
      assert(request("PUT", key, value):match("^true"))
    end,
  }
end

local worker = clients[name]()
local commands = {}

local function timed(work)
  local begun = now()
  work()
  return now() - begun
end

function commands.get(count)
  return timed(function()
    for _ = 1, count do
      assert(#worker.get(KEY) == #VALUE)
    end
  end)
end

function commands.put(count)
  return timed(function()
    for _ = 1, count do
      worker.put(KEY, VALUE)
    end
  end)
end

local function batch(count, limit)
  local calls = {}
  for i = 1, count do
    calls[i] = { "kv_get", KEY }
  end
  local results = select(2, assert(worker.client:batch(calls, { concurrency = limit })))
  for i = 1, count do
    assert(results[i].ok and #results[i].value == #VALUE)
  end
end

function commands.batch(count, limit)
  return timed(function()
    batch(count, limit)
  end)
end

function commands.decode(path)
  local client, cjson = worker.client, require("cjson")
  local body, ours, theirs
  local prefix, service = path:match("^/v1/kv/([^?]*)"), path:match("^/v1/health/service/(.*)")
  local function clean(work)
    collectgarbage()
    collectgarbage()
    return timed(work)
  end
  local fetching = clean(function()
    body = select(2, assert(client:http_request("GET", path)))
  end)
  local reading = clean(function()
    if prefix then
      ours = select(2, assert(client:kv_list(prefix)))
    else
      ours = select(2, assert(client:health_service(service)))
    end
  end)
  local count = #ours
  ours = nil
  local decoding = clean(function()
    theirs = cjson.decode(body)
  end)
  assert(count == #theirs and ours == nil)
  return fetching, reading, decoding
end

function commands.paced(rate, seconds)
  local count = rate * seconds
  local late = ffi.new("double[?]", count)
  local begun = now()
  local done = 0
  while done < count do
    local due = math.min(count, math.floor((now() - begun) * rate) + 1)
    if due == done then
      ffi.C.usleep(math.max(0, begun + done / rate - now()) * 1e6)
    elseif due == done + 1 then
      worker.get(KEY)
    else
      -- All reads that are due by now go into one batch.
      batch(due - done, 64)
    end
    local ended = now()
    for read = done, due - 1 do
      late[read] = ended - (begun + read / rate)
    end
    done = due
  end
  local sorted = {}
  for i = 0, count - 1 do
    sorted[i + 1] = late[i]
  end
  table.sort(sorted)
  local function quantile(part)
    return sorted[math.max(1, math.ceil(part * count))]
  end
  return quantile(0.5), quantile(0.99), quantile(0.999), sorted[count]
end

for line in io.lines() do
  local words = {}
  for word in line:gmatch("%S+") do
    words[#words + 1] = tonumber(word) or word
  end
  local figures = { commands[words[1]](unpack(words, 2)) }
  for i, figure in ipairs(figures) do
    figures[i] = ("%.9f"):format(figure)
  end
  print(table.concat(figures, " "))
  io.flush()
end
