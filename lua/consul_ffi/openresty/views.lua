-- Views of services for all workers of an nginx: one worker watches and writes a shared dict, from which all workers
-- read without a request. Another one takes over when it ends.
local consul_ffi = require("consul_ffi")
local openresty = require("consul_ffi.openresty")
local balancer = require("consul_ffi.balancer")
local option_types = require("consul_ffi.option_types")

-- How long the lease of the worker that watches is valid without a renewal, and how often it renews it, in seconds.
local LEASE_S, BEAT_S = 5, 1

-- How often a changed list is written to the dump file at most, in seconds.
local DUMP_S = 2

-- How long a worker that comes to watch keeps lists that another one has written and Consul does not confirm, in
-- seconds: after an outage Consul may know no instances until they register again.
local HOLD_S = 30

-- How often a request looks whether the first list has come, in seconds.
local LOOK_S = 0.02

-- The keys of the shared dict: the lease, the names as JSON; and of each service its instances as JSON, the number of
-- this version of them, and when Consul last confirmed them, in seconds of Unix time.
local LEASE, NAMES, INSTANCES, VERSION, CONFIRMED = "lease", "names", "i:", "v:", "c:"

---@class consul_ffi.openresty.views.options
---@field dict string the name of the lua_shared_dict
---@field filter string[]|fun(name: string, tags: string[]): boolean as for client:service_views
---@field config? consul_ffi.config the options of consul_ffi.new
---@field dump_file? string a file with the last lists, to start from while Consul is unreachable; the workers write it

-- { name, type }
local OPTIONS = {
  { "dict", {
    words = "the name of a lua_shared_dict",
    is_required = true,
    accepts = function(value)
      return type(value) == "string" and ngx.shared[value] ~= nil
    end,
  } },
  { "filter", {
    words = "a function or a list of services' names",
    is_required = true,
    accepts = function(value)
      return type(value) == "function" or type(value) == "table"
    end,
  } },
  { "config", {
    words = "a table",
    accepts = function(value)
      return type(value) == "table"
    end,
  } },
  { "dump_file", {
    words = "the path of a file",
    accepts = function(value)
      return type(value) == "string" and value ~= ""
    end,
  } },
}

local View, Views = {}, {}
View.__index, Views.__index = View, Views

local function json_of(value)
  return select(2, assert(consul_ffi.json_encode(value)))
end

-- Writes a service's instances, if they are others. Without room in the dict nothing else is evicted.
local function write(dict, name, json)
  if dict:get(INSTANCES .. name) == json then
    return true
  end
  local written, why = dict:safe_set(INSTANCES .. name, json)
  if not written then
    ngx.log(ngx.ERR, "consul_ffi: no room for the instances of ", name, ": ", why, "; make lua_shared_dict larger")
    return false
  end
  dict:incr(VERSION .. name, 1, 0)
  return true
end

local function names_of(dict)
  local json = dict:get(NAMES)
  return json and select(2, assert(consul_ffi.json_decode(json)))
end

local function remove(dict, name)
  dict:delete(INSTANCES .. name)
  dict:delete(CONFIRMED .. name)
  dict:incr(VERSION .. name, 1, 0)
end

-- Returns the services of a dump file, or nil and the reason.
local function read_dump(path)
  local file, why = io.open(path, "r")
  if not file then
    return nil, why
  end
  local text
  text, why = file:read("*a")
  file:close()
  if not text then
    return nil, why
  end
  local decoded, dump = consul_ffi.json_decode(text)
  if not decoded then
    return nil, dump
  end
  local services = type(dump) == "table" and dump.services
  if type(services) ~= "table" then
    return nil, "it has no services"
  end
  for name, service in pairs(services) do
    local instances = type(service) == "table" and type(service.confirmed) == "number" and service.instances
    if type(name) ~= "string" or type(instances) ~= "table" then
      return nil, ("its service %s is not one"):format(tostring(name))
    end
    for _, instance in pairs(instances) do
      if type(instance) ~= "table" or type(instance.address) ~= "string" or type(instance.port) ~= "number" then
        return nil, ("an instance of its service %s is not one"):format(name)
      end
    end
  end
  return services
end

-- Takes the lists of the dump file over if the dict has none.
local function load(self)
  if not self.dump_file or self.dict:get(NAMES) then
    return
  end
  local services, why = read_dump(self.dump_file)
  if not services then
    return ngx.log(ngx.NOTICE, "consul_ffi: starts without ", self.dump_file, ": ", why)
  end
  local names = {}
  for name, service in pairs(services) do
    if write(self.dict, name, json_of(service.instances)) then
      names[#names + 1] = name
      self.dict:safe_set(CONFIRMED .. name, service.confirmed)
    end
  end
  self.dict:safe_set(NAMES, json_of(names))
end

-- Writes the dump file: as another one that is then renamed, so that no reader finds half of it.
local function dump(self)
  local services, dict = {}, self.dict
  for _, name in ipairs(names_of(dict) or {}) do
    local json, confirmed = dict:get(INSTANCES .. name), dict:get(CONFIRMED .. name)
    if json and confirmed then
      local key = json_of(name)
      services[#services + 1] = ('%s:{"confirmed":%.3f,"instances":%s}'):format(key, confirmed, json)
    end
  end
  local path = ("%s.%d"):format(self.dump_file, ngx.worker.pid())
  local file, why = io.open(path, "w")
  local written = file and file:write('{"services":{', table.concat(services, ","), "}}\n")
  local closed = file and file:close()
  if not (written and closed) then
    os.remove(path)
  else
    closed, why = os.rename(path, self.dump_file)
  end
  if not closed then
    ngx.log(ngx.ERR, "consul_ffi: cannot write ", self.dump_file, ": ", why or "the disk may be full")
  end
end

-- Whether this worker watches; renews its lease.
local function holds_lease(self)
  local dict, now = self.dict, ngx.now()
  if now < self.renew_at then
    return true
  end
  self.renew_at = now + BEAT_S
  if dict:get(LEASE) == self.token then
    return dict:set(LEASE, self.token, LEASE_S)
  end
  return (dict:safe_add(LEASE, self.token, LEASE_S))
end

-- Writes a service that is new, has changed or is gone.
local function take(self, all, name)
  local view = all:view(name)
  local instances = view and view:all() or {}
  local is_anothers = not self.is_written[name] and self.dict:get(INSTANCES .. name)
  if #instances == 0 and is_anothers and ngx.now() < self.hold_until then
    self.held[name] = true
    return
  end
  self.held[name] = nil
  if view then
    self.is_written[name] = write(self.dict, name, json_of(instances))
  else
    self.is_written[name] = nil
    remove(self.dict, name)
  end
  self.dump_at = self.dump_at or ngx.now() + DUMP_S
end

-- Writes the names, and how old each list is; removes what another worker left, after a while.
local function beat(self, all)
  self.is_ready = self.is_ready or all:ready(0)
  if not self.is_ready then
    return
  end
  local names, is_named, is_held = all:names(), {}, ngx.now() < self.hold_until
  for _, name in ipairs(names) do
    is_named[name] = true
    local view = all:view(name)
    local age_s = view and view:age_s()
    if age_s and self.is_written[name] then
      self.dict:safe_set(CONFIRMED .. name, ngx.now() - age_s)
    end
  end
  for _, name in ipairs(names_of(self.dict) or {}) do
    if not is_named[name] and is_held and not self.is_written[name] then
      self.held[name] = true
      names[#names + 1] = name
    elseif not is_named[name] then
      remove(self.dict, name)
    end
  end
  for name in pairs(is_held and {} or self.held) do
    take(self, all, name)
  end
  self.dict:safe_set(NAMES, json_of(names))
  if self.dump_file and self.dump_at and self.dump_at <= ngx.now() then
    self.dump_at = nil
    dump(self)
  end
end

-- Watches as long as this worker has the lease.
local function watch(self, all)
  self.is_ready, self.held, self.is_written, self.hold_until = false, {}, {}, ngx.now() + HOLD_S
  while holds_lease(self) do
    local success, name = all:next(BEAT_S * 1000)
    if not success then
      return
    end
    while name do
      take(self, all, name)
      name = select(2, all:next(0))
    end
    beat(self, all)
  end
end

-- The filter, but one that raises an error chooses nothing.
local function filter_of(self)
  if type(self.filter) == "table" then
    return self.filter
  end
  return function(name, tags)
    local ran, is_wanted = pcall(self.filter, name, tags)
    if not ran then
      ngx.log(ngx.ERR, "consul_ffi: the filter of views raised an error for ", name, ": ", tostring(is_wanted))
    end
    return ran and is_wanted
  end
end

local function tick(premature, self)
  if premature or self.is_watching or ngx.worker.exiting() then
    return
  end
  self.renew_at = 0
  if not holds_lease(self) then
    return
  end
  self.client = self.client or openresty.new(self.config)
  local all, message = self.client:service_views(filter_of(self))
  if not all then
    return ngx.log(ngx.ERR, "consul_ffi: ", message)
  end
  self.is_watching = true
  local ran, why = pcall(watch, self, all)
  self.is_watching = false
  all:close()
  if self.dict:get(LEASE) == self.token then
    self.dict:delete(LEASE)
  end
  if not ran then
    ngx.log(ngx.ERR, "consul_ffi: ", tostring(why))
  end
end

local views = {}

---Returns the views; in init_by_lua or init_worker_by_lua. Raises an error if an option is not allowed.
---@param options consul_ffi.openresty.views.options
---@return consul_ffi.openresty.Views
function views.new(options)
  local self = setmetatable(option_types.read("views.new", OPTIONS, options), Views)
  self.dict, self.views = ngx.shared[self.dict], {}
  load(self)
  return self
end

---Has this worker watch when no other does; in init_worker_by_lua.
function Views:start()
  self.token = ("%d.%d"):format(ngx.worker.pid(), math.random(0, 2 ^ 30))
  assert(ngx.timer.at(0, tick, self))
  assert(ngx.timer.every(BEAT_S, tick, self))
end

---The names of the services; nil before the first list.
function Views:names()
  return names_of(self.dict)
end

---The view of a service, with the methods of a service view. A service that there is not has a view without instances.
---@param service string
---@return consul_ffi.openresty.View
function Views:view(service)
  local view = self.views[service]
  if not view then
    view = setmetatable({ dict = self.dict, service = service }, View)
    view.picks = balancer.new(view)
    -- Names that come from requests are not kept.
    self.views[service] = view:version() and view
  end
  return view
end

---Changes with the list.
function View:version()
  return self.dict:get(VERSION .. self.service)
end

-- The results before the first list.
local function missing(self)
  local message = ("service_view %q: no answer from Consul yet"):format(self.service)
  return false, message, { kind = "timeout", message = message, retryable = true, maybe_applied = false }
end

---The instances; the same tables until they change. They belong to the view: do not modify them.
---@return consul_ffi.Instance[]|false instances
---@return string? message
---@return consul_ffi.Error? err
function View:all()
  local version = self:version()
  if not version or version ~= self.read_version then
    local json = self.dict:get(INSTANCES .. self.service)
    self.list = json and select(2, assert(consul_ffi.json_decode(json))) or nil
    self.read_version = version
  end
  if self.list then
    return self.list
  elseif not self.dict:get(NAMES) then
    return missing(self)
  end
  -- Consul lists no such service.
  self.list = {}
  return self.list
end

---Picks an instance, round robin by weight.
---@return consul_ffi.Instance|false instance
---@return string? message
---@return consul_ffi.Error? err
function View:pick()
  return self.picks:pick()
end

---The time since Consul last confirmed the list.
---@return number|false age_s in seconds
---@return string? message
---@return consul_ffi.Error? err
function View:age_s()
  local confirmed = self.dict:get(CONFIRMED .. self.service)
  if not confirmed then
    return missing(self)
  end
  return math.max(0, ngx.now() - confirmed)
end

---Waits for the first list.
---@param timeout_ms? number the longest wait, in milliseconds; default: until there is one
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function View:ready(timeout_ms)
  local ends = timeout_ms and ngx.now() + timeout_ms / 1000
  while true do
    local list, message, err = self:all()
    if list then
      return true
    elseif ends and ngx.now() >= ends or ngx.worker.exiting() then
      return false, message, err
    end
    ngx.sleep(LOOK_S)
  end
end

return views
