-- A gateway to the instances of a service: picks one for each request, retries on another, ejects those that fail.
local balancer = require("consul_ffi.balancer")
local ffi = require("ffi")
local get_request = require("resty.core.base").get_request
local peer = require("ngx.balancer")
local views = require("consul_ffi.openresty.views")

local SERVICE = os.getenv("SERVICE") or "web"

-- How many other instances a request tries, and how long it waits for the first list.
local MORE_TRIES, LONGEST_WAIT_MS = 2, 2000

-- As many connections as `keepalive` in gateway.conf keeps, and how often connections to gone instances are forgotten.
local KEEPALIVE, FORGET_EACH_S = 256, 60

-- A WebSocket or a long answer counts as in flight for this long.
local LONGEST_SESSION_S = 24 * 3600

-- The answers that say that an instance cannot serve. A 500 may be due to the request.
local FAILURES = { [502] = true, [503] = true, [504] = true }

local gateway = {}

local view, web

-- How many other instances a request may try: as many as a request can be sent to, as an upstream of nginx has it. With
-- more, nginx gives an instance's answer up for a try that has no instance.
local more_tries = 0

-- Whether nginx takes an address, which must be an IP address.
local function is_ip(address)
  return address:find(":", 1, true) or address:find("^[%d.]+$")
end

-- The view as a source of the balancer, which reads the list when that has changed.
local source = {}

function source.version()
  return view:version()
end

function source.all()
  local list, message, err = view:all()
  local others = -1
  for _, instance in ipairs(list or {}) do
    others = is_ip(instance.address) and others + 1 or others
  end
  more_tries = list and math.max(0, math.min(MORE_TRIES, others)) or more_tries
  return list, message, err
end

-- By an address and port: how many connections to it nginx keeps at most, since it tells neither that nor whether a
-- request goes on one of them, and when the first attempt since the last success failed, if one has.
local kept = {}

-- Forgets the connections to addresses that are gone.
local function forget_gone()
  local listed = {}
  for _, instance in ipairs(view:all() or {}) do
    listed[instance.address] = kept[instance.address]
  end
  kept = listed
end

-- In init_worker_by_lua: one of the workers watches for all. Sends nothing and does not wait.
function gateway.start()
  local dump_file = os.getenv("DUMP_FILE") or ngx.config.prefix() .. "instances.json"
  local all = views.new({ dict = "consul", filter = { SERVICE }, dump_file = dump_file })
  all:start()
  view = all:view(SERVICE)
  web = balancer.new(source, {
    policy = "least_time", slow_start_s = 10, report_within_s = LONGEST_SESSION_S, zone = os.getenv("ZONE"),
  })
  ngx.timer.every(FORGET_EACH_S, forget_gone)
end

local function unavailable()
  ngx.header["Retry-After"] = 1
  return ngx.exit(503)
end

-- In access_by_lua, for a request that found no instance: waits while there is no list, and answers 503 if that is
-- empty. Other requests have no such phase, which costs a coroutine.
function gateway.wait()
  if view:age_s() or not view:ready(LONGEST_WAIT_MS) or not view:pick() then
    return unavailable()
  end
end

-- The requests on their way, by their addresses: the instance of each and since when, and those that it tried before.
-- ngx.ctx is for that, but costs a table and its release for each request. A table here serves later requests, too.
local requests, unused = {}, {}

local function address_of_request()
  -- A variable, because LuaJIT does not compile a function that ends in a call of tonumber.
  local address = tonumber(ffi.cast("uintptr_t", get_request()))
  return address
end

local function new_request(is_subrequest)
  return { instance = nil, picked_at = 0, tried = nil, is_on_kept = false, is_subrequest = is_subrequest }
end

-- The table of the request that is balanced.
local function request_at(address)
  local request = requests[address]
  if not request then
    request = table.remove(unused) or new_request(false)
    requests[address] = request
  end
  return request
end

-- The table of the subrequest that is balanced, as `mirror`, `slice`, `auth_request` and the background
-- updates of the cache: they end in no phase that Lua sees, so that their tables are nginx's to release.
local function subrequest()
  local context = ngx.ctx
  local request = context.gateway
  if not request then
    request = new_request(true)
    context.gateway = request
  end
  return request
end

-- The kept connections to an instance.
local function connections_to(instance)
  local address, port = instance.address, instance.port
  local ports = kept[address]
  if not ports then
    ports = {}
    kept[address] = ports
  end
  local connections = ports[port]
  if not connections then
    connections = { count = 0 }
    ports[port] = connections
  end
  return connections
end

-- Adds to the number of kept connections; returns what it was.
local function keep(connections, more)
  local before = connections.count
  connections.count = math.max(0, math.min(before + more, KEEPALIVE))
  return before
end

-- The address of an instance as nginx has it.
local function host_of(instance)
  local address = instance.address
  if address:find(":", 1, true) and address:sub(1, 1) ~= "[" then
    address = "[" .. address .. "]"
  end
  return address
end

-- The values of a variable of nginx that has one for each attempt, such as "0.250, 0.001 : 0.100".
local function values_of(text)
  local values = {}
  for value in (text:gsub(" : ", ", ") .. ", "):gmatch("(.-), ") do
    values[#values + 1] = value
  end
  return values
end

-- The number in such a variable for the last attempt on a request's instance; nil for "-". There may be later attempts,
-- of another upstream to which error_page has led.
local function number_of(request, variable)
  local text = ngx.var[variable]
  local number = tonumber(text)
  if number or not text then
    return number
  end
  local values, names = values_of(text), values_of(ngx.var.upstream_addr or "")
  local name = ("%s:%d"):format(host_of(request.instance), request.instance.port):lower()
  for place = #names, 1, -1 do
    if names[place] == name then
      number = tonumber(values[place])
      return number
    end
  end
end

-- The verdict of a request without an answer on its instance: nil, which is nothing, for a kept connection, since the
-- instance may have closed that before the request came; otherwise false. An instance that has failed since its last
-- success may be dead, and each connection kept to it would fail once; those that were on their way say no more than
-- the first.
local function without_answer(request, connections)
  local connect_s = number_of(request, "upstream_connect_time")
  if not connect_s then
    -- It does not listen.
    keep(connections, -KEEPALIVE)
  end
  local is_first = not connections.failed_at or request.picked_at < connections.failed_at
  if request.is_on_kept and connect_s == 0 and is_first then
    return nil
  end
  return false
end

-- Whether the last attempt on a request's instance succeeded, by its own status: the client's may be that of a page of
-- error_page. nil if it says nothing, as when the client went away. And whether its answer was an error, which a 404 is
-- not.
local function verdict(request)
  local connections, status, succeeded = connections_to(request.instance), number_of(request, "upstream_status"), nil
  if status == 502 and not number_of(request, "upstream_header_time") then
    succeeded = without_answer(request, connections)
    connections.failed_at = connections.failed_at or ngx.now()
  elseif status then
    succeeded = not FAILURES[status]
    connections.failed_at = not succeeded and (connections.failed_at or ngx.now()) or nil
  end
  return succeeded, status and status >= 500
end

-- Reports a request's instance, which it tries no more.
local function leave(request, succeeded, is_error)
  local instance, tried = request.instance, request.tried or {}
  web:report(instance, succeeded, nil, is_error, request.is_subrequest)
  tried[#tried + 1], request.tried = instance, tried
end

-- Has nginx send a request to an instance that it has not tried, or with `may_repeat` to the last one again if there is
-- no other: nginx adds a try for a kept connection that has ended. A loop here would keep LuaJIT from compiling all of
-- `balance`.
local function attempt(request, may_repeat)
  local instance = web:pick(nil, request.tried)
  if not instance and may_repeat then
    table.remove(request.tried)
    instance = web:pick(nil, request.tried)
  end
  request.instance, request.picked_at = instance or nil, ngx.now()
  if not instance then
    -- nginx answers 500 whatever the balancer's status is, which gateway.conf directs to `wait`.
    return ngx.exit(500)
  end
  if request.is_subrequest then
    -- Its end is not seen: it is not in flight.
    web:report(instance, nil)
  end
  local sent, why = peer.set_current_peer(host_of(instance), instance.port)
  if not sent then
    ngx.log(ngx.ERR, "no request can be sent to ", instance.address, ":", instance.port, ": ", why)
    leave(request, false)
    return attempt(request)
  end
  local connections = connections_to(instance)
  request.is_on_kept = keep(connections, -1) > 0
  if request.is_subrequest then
    -- Its connection is kept, as far as is known.
    keep(connections, 1)
  end
end

-- In balancer_by_lua, for each attempt of a request.
function gateway.balance()
  local request = ngx.is_subrequest and subrequest() or request_at(address_of_request())
  if request.instance then
    -- It failed, or its answer has led here again, as X-Accel-Redirect does.
    leave(request, verdict(request))
  end
  if peer.get_last_failure() then
    return attempt(request, request.tried ~= nil)
  end
  request.tried = nil
  attempt(request)
  peer.set_more_tries(more_tries)
end

-- The table of the request or subrequest that ends.
local function ended_request()
  if ngx.is_subrequest then
    return ngx.ctx.gateway
  end
  local address = address_of_request()
  local request = requests[address]
  if request then
    requests[address], unused[#unused + 1] = nil, request
  end
  return request
end

-- In log_by_lua: reports the last attempt. A subrequest has no such phase: its location may have this in
-- header_filter_by_lua.
function gateway.report()
  local request = ended_request()
  local instance = request and request.instance
  if not instance then
    return
  end
  local seconds
  local succeeded, is_error = verdict(request)
  if succeeded and not request.is_subrequest then
    keep(connections_to(instance), 1)
  end
  -- The variable costs more than a pick, and of many answers in the same millisecond few say something new.
  if web:needs_ms(instance, (ngx.now() - request.picked_at) * 1000) then
    seconds = number_of(request, "upstream_header_time")
  end
  request.instance = nil
  web:report(instance, succeeded, seconds and seconds * 1000, is_error, request.is_subrequest)
end

-- Answers with the instances as this worker knows them, a line for each; the header Age is that of the list.
function gateway.show()
  local age_s = view:age_s()
  ngx.header["Age"] = age_s and math.floor(age_s) or nil
  for _, status in ipairs(web:status()) do
    local instance = status.instance
    ngx.say(("%s:%d %s %.3f of the requests, %d in flight, %.1f ms"):format(
      instance.address, instance.port, status.state, status.share, status.in_flight, status.ms or 0))
  end
end

return gateway
