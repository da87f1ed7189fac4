-- A balancer: picks an instance of a service for each request, and learns from the reports about them; see
-- docs/balancer.md. It is plain Lua, because a call into C ends a trace of LuaJIT; no pick allocates memory or waits.
-- A balancer's knowledge belongs to its Lua state: each nginx worker has its own.
local clock = require("consul_ffi.balancer.clock")
local health = require("consul_ffi.balancer.health")
local OPTIONS = require("consul_ffi.balancer.options")
local option_types = require("consul_ffi.option_types")
local pool = require("consul_ffi.balancer.pool")
local as_error = require("consul_ffi.failure")

local policies = {
  round_robin = require("consul_ffi.balancer.round_robin"),
  least_time = require("consul_ffi.balancer.least_time"),
  hash = require("consul_ffi.balancer.hash"),
}

local balancer = {}

---Options of a balancer; times are in seconds.
---@class consul_ffi.balancer.options
---@field policy? "round_robin"|"least_time"|"hash" default "round_robin"
---@field zone? string the own zone, whose instances are preferred
---@field zone_meta? string the name in `meta` of an instance's zone; default "zone"
---@field max_failures? integer after how many failures in a row an instance is ejected; default 3
---@field ejection_s? number how long its first ejection lasts; default 10
---@field max_ejected? number the share of the instances that may be ejected at once, from 0 (none) to 1; default 0.5
---@field slow_start_s? number how long the weight of a new instance grows; default 0, at once
---@field load_factor? number for "hash": how far the requests of an instance may exceed its share; default 1.25
---@field report_within_s? number after this time a request without a report no longer counts as in flight; default 60
---@field now? fun(): number the time in seconds; default `ngx.now`, or `os.time` outside OpenResty
---@field random? fun(): number random numbers from 0 up to 1

---The fields of an instance that a balancer reads: of a view's, or of a table of the program.
---@class consul_ffi.balancer.Instance
---@field id? string
---@field address string
---@field port integer
---@field weight? number default 1
---@field meta? table<string, string>
---@field [string] any

---An instance in a balancer, as `status` returns it.
---@class consul_ffi.balancer.Status
---@field instance consul_ffi.balancer.Instance
---@field state "active"|"doubtful"|"ejected"|"probing"
---@field share number the share of the requests that it gets by weight, from 0 to 1
---@field in_flight? integer picked and not reported yet; nil for "round_robin"
---@field ms? number for "least_time": the average response time; nil before the first answer

---@class consul_ffi.Balancer
local Balancer = {}
Balancer.__index = Balancer

-- The method of a view; nil if the source has none.
local function method_of(source, name)
  local has, method = pcall(function()
    return source[name]
  end)
  return has and type(method) == "function" and method or nil
end

---Returns a balancer. `source` is a view (an object with `all()`, which returns a list of instances or false and a
---message; with a `version()` too, the list is read only when that changes) or a list of instances. Raises an error if
---an argument is not allowed.
---@param source table|userdata
---@param options? consul_ffi.balancer.options
---@return consul_ffi.Balancer
function balancer.new(source, options)
  local is_view = (type(source) == "table" or type(source) == "userdata") and method_of(source, "all") ~= nil
  if not is_view and type(source) ~= "table" then
    error(("balancer.new: the source must be a view or a list of instances, got a %s"):format(type(source)), 2)
  end
  local chosen = option_types.read("balancer.new", OPTIONS, options)
  local now = chosen.now or clock.default()
  local self = pool.new(source, chosen, policies[chosen.policy], chosen.random or clock.random_numbers(now()))
  self.is_view, self.has_version = is_view, is_view and method_of(source, "version") ~= nil
  return setmetatable({
    pool = self, choose = self.policy.pick, now = now, read_at = -math.huge, offset = 0,
    counts_in_flight = self.policy.counts_in_flight,
  }, Balancer)
end

-- Does the work that is due when the clock has moved; a clock that is set back does not take time back.
local function tick(self, read_at)
  if read_at < self.read_at then
    self.offset = self.offset + self.read_at - read_at
  end
  self.read_at = read_at
  pool.tick(self.pool, read_at + self.offset)
end

-- Returns an instance without the mark `stamp`: the policy's choice, or an instance in use, or any.
local function another(self, key, stamp)
  local pooled = self.pool
  for _ = 1, pooled.count do
    local entry = self.choose(pooled, key, stamp)
    if entry and entry.tried ~= stamp then
      return entry
    end
  end
  for _, list in ipairs({ pooled.active, pooled.entries }) do
    for _, entry in ipairs(list) do
      if entry.tried ~= stamp then
        return entry
      end
    end
  end
end

local function mark(self, tried)
  local pooled = self.pool
  pooled.stamp = pooled.stamp + 1
  for _, instance in ipairs(tried) do
    local entry = pool.entry_of(pooled, instance)
    if entry then
      entry.tried = pooled.stamp
    end
  end
  return pooled.stamp
end

-- The results of a pick without an instance.
local function nothing(self)
  local failure, count = self.pool.failure, #self.pool.entries
  if count == 0 and failure then
    return false, failure[1], failure[2]
  end
  local message = count == 0 and "there is no instance" or ("the request has tried all %d instances"):format(count)
  return false, message, as_error({ kind = "not_found", message = message, retryable = true, maybe_applied = false })
end

---Picks an instance; the tables are the source's. Fails with the view's error while it has no list, and with
---`not_found` if there is no instance, or none that is not in `tried`.
---@param key? string for "hash": what the instance is chosen by; without it a random one
---@param tried? consul_ffi.balancer.Instance[] the instances that this request has tried
---@return consul_ffi.balancer.Instance|false instance
---@return string? message
---@return consul_ffi.Error? err
function Balancer:pick(key, tried)
  if key ~= nil and type(key) ~= "string" then
    error(("balancer:pick: key must be a string, got a %s"):format(type(key)), 2)
  end
  local now, pooled = self.now(), self.pool
  if now ~= self.read_at or pooled.due_at == 0 then
    tick(self, now)
  end
  local entry
  if tried and tried[1] then
    entry = another(self, key, mark(self, tried))
  elseif pooled.count > 0 then
    entry = self.choose(pooled, key) or another(self, key)
  end
  if not entry then
    return nothing(self)
  end
  if entry.state ~= "active" then
    health.spend(pooled, entry)
  end
  if self.counts_in_flight then
    entry.in_flight, pooled.in_flight = entry.in_flight + 1, pooled.in_flight + 1
  end
  return entry.instance
end

---Returns whether a report with a time of at most `at_most_ms` may change the instance's average: for a caller that
---knows such a bound, and to whom the time itself is costly.
---@param instance consul_ffi.balancer.Instance as `pick` returned it
---@param at_most_ms number
---@return boolean
function Balancer:needs_ms(instance, at_most_ms)
  local now, pooled = self.now(), self.pool
  if now ~= self.read_at then
    tick(self, now)
  end
  if not pooled.policy.observe then
    return false
  end
  local entry = pool.entry_of(pooled, instance)
  return entry ~= nil and not (entry.ms and entry.observed_at == pooled.time and at_most_ms <= entry.ms)
end

-- Takes the result of a request into account.
local function judge(pooled, entry, succeeded, ms, is_error)
  local policy = pooled.policy
  if policy.observe then
    is_error = is_error or not succeeded
    if is_error or entry.errors > 0 then
      policy.count_error(entry, is_error, pooled.time)
    end
    if ms then
      policy.observe(entry, not is_error, ms, pooled.time)
    end
  end
  if not succeeded or entry.state ~= "active" or entry.fails > 0 then
    health.report(pooled, entry, succeeded)
  end
end

---Reports the end of a request: once for each pick. Ignores an instance that has left the list.
---@param instance consul_ffi.balancer.Instance as `pick` returned it
---@param succeeded boolean? false if the instance failed; nil if that is unknown, as when the client went away
---@param ms? number the response time in milliseconds
---@param is_error? boolean true if the answer was an error that does not eject, as a 500
---@param has_ended? boolean true if the request was reported with nil before, when its end could not be awaited
function Balancer:report(instance, succeeded, ms, is_error, has_ended)
  if type(instance) ~= "table" then
    error(("balancer:report: instance must be a table that pick returned, got a %s"):format(type(instance)), 2)
  end
  if ms ~= nil and not (type(ms) == "number" and ms >= 0 and ms < math.huge) then
    error(("balancer:report: ms must be a number of milliseconds, got %s"):format(tostring(ms)), 2)
  end
  local now, pooled = self.now(), self.pool
  if now ~= self.read_at then
    tick(self, now)
  end
  local entry = pool.entry_of(pooled, instance)
  if not entry then
    return
  end
  if self.counts_in_flight and not has_ended then
    pool.answered(pooled, entry)
  end
  if succeeded ~= nil then
    judge(pooled, entry, succeeded, ms, is_error)
  end
end

---Returns the instances with their states, in the source's order, for a status page.
---@return consul_ffi.balancer.Status[]
function Balancer:status()
  tick(self, self.now())
  local list = {}
  for i, entry in ipairs(self.pool.entries) do
    list[i] = {
      instance = entry.instance,
      state = entry.state,
      share = entry.share,
      in_flight = self.counts_in_flight and entry.in_flight or nil,
      ms = entry.ms,
    }
  end
  return list
end

return balancer
