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
    accepts = function(value)
      return type(value) == "string" and ngx.shared[value] ~= nil
    end,
  } },
  { "filter", {
    words = "a function or a list of services' names",
    accepts = function(value)
      return type(value) == "function" or type(value) == "table"
    end,
  } },
  { "config", {
    words = "a table",
    accepts = function(value)
      return value == nil or type(value) == "table"
    end,
  } },
  { "dump_file", {
    words = "the path of a file",
    accepts = function(value)
      return value == nil or type(value) == "string" and value ~= ""
    end,
  } },
}

local function check(options)
  if type(options) ~= "table" then
    error(("views.new: the options must be a table, got a %s"):format(type(options)), 3)
  end
  local names, is_known = {}, {}
  for i, option in ipairs(OPTIONS) do
    names[i], is_known[option[1]] = option[1], true
    local why = option_types.refusal(option[2], options[option[1]])
    if why then
      error(("views.new: %s %s"):format(option[1], why), 3)
    end
  end
  for name in pairs(options) do
    if not is_known[name] then
      error(("views.new: unknown option %s; the options are: %s"):format(
        tostring(name), table.concat(names, ", ")), 3)
    end
  end
end

local View, Views = {}, {}
View.__index, Views.__index = View, Views

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

-- Takes the lists of the dump file over if the dict has none.
local function load(self)
  if not self.dump_file or self.dict:get(NAMES) then
    return
  end
  local file, why = io.open(self.dump_file, "r")
  local text = file and file:read("*a")
  if file then
    file:close()
  end
  local decoded, dump = false, why
  if text then
    decoded, dump = consul_ffi.json_decode(text)
  end
  if not decoded or type(dump) ~= "table" or type(dump.services) ~= "table" then
    ngx.log(ngx.NOTICE, "consul_ffi: starts without ", self.dump_file, ": ", tostring(dump))
    return
  end
  local names = {}
  for name, service in pairs(dump.services) do
    names[#names + 1] = name
    write(self.dict, name, select(2, assert(consul_ffi.json_encode(service.instances))))
    self.dict:set(CONFIRMED .. name, service.confirmed)
  end
  self.dict:set(NAMES, select(2, assert(consul_ffi.json_encode(names))))
end

-- Writes the dump file: as another one that is then renamed, so that no reader finds half of it.
local function dump(self)
  local services, dict = {}, self.dict
  for _, name in ipairs(names_of(dict) or {}) do
    local json, confirmed = dict:get(INSTANCES .. name), dict:get(CONFIRMED .. name)
    if json and confirmed then
      local key = select(2, assert(consul_ffi.json_encode(name)))
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
  local instances = view and view:all()
  if instances then
    write(self.dict, name, select(2, assert(consul_ffi.json_encode(instances))))
  elseif not view then
    remove(self.dict, name)
  end
  self.dump_at = self.dump_at or ngx.now() + DUMP_S
end

-- Writes the names, and how old each list is; removes what another worker left.
local function beat(self, all)
  if not (self.is_ready or all:ready(0)) then
    return
  end
  local names, is_named = all:names(), {}
  for _, name in ipairs(names) do
    is_named[name] = true
    local age_s = all:view(name):age_s()
    if age_s then
      self.dict:set(CONFIRMED .. name, ngx.now() - age_s)
    end
  end
  for _, name in ipairs(not self.is_ready and names_of(self.dict) or {}) do
    if not is_named[name] then
      remove(self.dict, name)
    end
  end
  self.is_ready = true
  self.dict:set(NAMES, select(2, assert(consul_ffi.json_encode(names))))
  if self.dump_file and self.dump_at and self.dump_at <= ngx.now() then
    self.dump_at = nil
    dump(self)
  end
end

-- Watches as long as this worker has the lease.
local function watch(self)
  self.client = self.client or openresty.new(self.config)
  local all, message = self.client:service_views(self.filter)
  if not all then
    return ngx.log(ngx.ERR, "consul_ffi: ", message)
  end
  self.is_ready = false
  while holds_lease(self) do
    local success, name = all:next(BEAT_S * 1000)
    if not success then
      break
    end
    while name do
      take(self, all, name)
      name = select(2, all:next(0))
    end
    beat(self, all)
  end
  all:close()
  if self.dict:get(LEASE) == self.token then
    self.dict:delete(LEASE)
  end
end

local function tick(premature, self)
  if premature or self.is_watching or ngx.worker.exiting() then
    return
  end
  self.renew_at = 0
  if holds_lease(self) then
    self.is_watching = true
    local ran, why = pcall(watch, self)
    self.is_watching = false
    if not ran then
      ngx.log(ngx.ERR, "consul_ffi: ", tostring(why))
    end
  end
end

local views = {}

---Returns the views; in init_by_lua or init_worker_by_lua. Raises an error if an option is not allowed.
---@param options consul_ffi.openresty.views.options
---@return consul_ffi.openresty.Views
function views.new(options)
  check(options)
  local self = setmetatable({
    dict = ngx.shared[options.dict], filter = options.filter, config = options.config, dump_file = options.dump_file,
    views = {},
  }, Views)
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
    self.views[service] = view
  end
  return view
end

---Changes with the list.
function View:version()
  return self.dict:get(VERSION .. self.service)
end

-- The results while there is no list.
local function missing(self)
  local is_listed = self.dict:get(NAMES) ~= nil
  local message = ("service_view %q: %s"):format(
    self.service, is_listed and "Consul lists no such service" or "no answer from Consul yet")
  local kind = is_listed and "not_found" or "timeout"
  return false, message, { kind = kind, message = message, retryable = true, maybe_applied = false }
end

---The instances; the same tables until they change. They belong to the view: do not modify them.
---@return consul_ffi.Instance[]|false instances
---@return string? message
---@return consul_ffi.Error? err
function View:all()
  local version = self:version()
  if not version or version ~= self.read_version then
    local json = self.dict:get(INSTANCES .. self.service)
    self.list = json and select(2, assert(consul_ffi.json_decode(json)))
    self.read_version = version
  end
  if not self.list then
    return missing(self)
  end
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
