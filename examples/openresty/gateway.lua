-- A gateway to the instances of a service: picks one for each request, retries on another, ejects those that fail.
local balancer = require("consul_ffi.balancer")
local peer = require("ngx.balancer")
local views = require("consul_ffi.openresty.views")

local SERVICE = os.getenv("SERVICE") or "web"

-- How many other instances a request tries, and how long it waits for the first list.
local MORE_TRIES, LONGEST_WAIT_MS = 2, 2000

-- The answers that say that an instance cannot serve. A 500 may be due to the request.
local FAILURES = { [502] = true, [503] = true, [504] = true }

local gateway = {}

local view, web

-- In init_worker_by_lua: one of the workers watches for all. Sends nothing and does not wait.
function gateway.start()
  local all = views.new({ dict = "consul", filter = { SERVICE }, dump_file = ngx.config.prefix() .. "instances.json" })
  all:start()
  view = all:view(SERVICE)
  web = balancer.new(view, { policy = "least_time", slow_start_s = 10, zone = os.getenv("ZONE") })
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

-- The instances that a request has tried, after a failure of the last one.
local function tried_by(request)
  web:report(request.instance, false)
  local tried = request.tried or {}
  tried[#tried + 1], request.tried = request.instance, tried
  return tried
end

-- In balancer_by_lua, for each attempt of a request.
function gateway.balance()
  local request, tried = ngx.ctx, nil
  if request.instance then
    tried = tried_by(request)
  else
    peer.set_more_tries(MORE_TRIES)
  end
  local instance = web:pick(nil, tried)
  request.instance = instance or nil
  if not instance then
    -- nginx answers 500 whatever the balancer's status is, which gateway.conf directs to `wait`.
    return ngx.exit(500)
  end
  assert(peer.set_current_peer(instance.address, instance.port))
end

-- The last number of a variable with one for each attempt, such as "0.250, 0.001".
local function last_of(text)
  return tonumber(text) or text and tonumber(text:match("[%d.]+$"))
end

-- In log_by_lua: reports the last attempt.
function gateway.report()
  local instance, status = ngx.ctx.instance, ngx.status
  if not instance then
    return
  end
  -- The client went away (499): the instance may be well or not.
  local succeeded = nil
  if status ~= 499 then
    succeeded = not FAILURES[status]
  end
  local seconds = last_of(ngx.var.upstream_header_time)
  web:report(instance, succeeded, seconds and seconds * 1000)
end

-- Answers with the instances as this worker knows them, a line for each.
function gateway.show()
  for _, status in ipairs(web:status()) do
    local instance = status.instance
    ngx.say(("%s:%d %s %.3f of the requests, %d in flight, %.1f ms"):format(
      instance.address, instance.port, status.state, status.share, status.in_flight, status.ms or 0))
  end
end

return gateway
