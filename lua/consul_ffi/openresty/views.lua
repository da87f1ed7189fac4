-- Views of services for all workers of an nginx: one worker watches and writes a shared dict, from which all workers
-- read without a request. Another one takes over when it ends.
local consul_ffi = require("consul_ffi")
local openresty = require("consul_ffi.openresty")
local balancer = require("consul_ffi.balancer")
local dump = require("consul_ffi.openresty.dump")
local lease = require("consul_ffi.openresty.lease")
local option_types = require("consul_ffi.option_types")
local scope = require("consul_ffi.openresty.scope")
local texts = require("consul_ffi.openresty.texts")
local now_s = require("consul_ffi.openresty.clock")
local as_error = require("consul_ffi.failure")

-- How often a changed list is written to the dump file at most, and when that is tried again after a failure, in
-- seconds; and how often it is written although nothing has changed, for the ages in it.
local DUMP_S, DUMP_AGAIN_S, DUMP_AGES_S = 2, 10, 60

-- How long a worker that comes to watch keeps lists that another one has written and Consul does not confirm, in
-- seconds: after an outage Consul may know no instances until they register again.
local HOLD_S = 30

-- The least `age_max_s`: Consul confirms a list that does not change each 10 s, or later if it is slow.
local LEAST_AGE_S = 30

-- How long a worker that comes to watch waits for Consul until it says that the lists are as they were, and for the
-- services that are still to be read until it names them without, in seconds.
local SILENT_S = 5

-- How often a request looks whether the first list has come, in seconds.
local LOOK_S = 0.02

-- The greatest weight in the ring for keys, to which greater ones are scaled down.
local MAX_RING_WEIGHT = 16

-- The part of a shared dict that nginx needs for itself, in KiB.
local OVERHEAD_K = 32

-- The texts in the shared dict: the services' names as JSON, and of each service its instances as JSON. Beside them,
-- when Consul last confirmed a service's list, by the machine's monotonic clock.
local NAMES, LIST, CONFIRMED = "names", "s:", "c:"

-- A text that keeps room for the names, which the lists would take.
local ROOM = "room"

-- The filter for which Consul has confirmed all names; none while they come from the dump file only.
local FILTER = "filter"

-- The part of Consul that the lists are of; a version before noted none, and its lists are of the same one.
local SCOPE = "scope"

-- While the dict has no room for all texts, the size in KiB that the log names; else 0.
local FULL = "full"

-- The path of the file that a worker is writing, to be renamed to the dump file.
local WRITING = "writing"

-- A size that is larger by this factor is told again.
local LARGER = 1.5

-- The factor by which lists may grow in a dict of the size in the log, and the room for gaps.
local GROWTH, GAPS = 1.5, 1.25

---@class consul_ffi.openresty.views.options
---@field dict string the name of the lua_shared_dict
---@field filter string[]|fun(name: string, tags: string[]): boolean as for client:service_views
---@field config? consul_ffi.ConsulConfig the options of consul_ffi.new
---@field dump_file? string a file with the last lists, to start from while Consul is unreachable; the workers write it
---@field age_max_s? number the greatest age of a list that is served, in seconds, at least 30; default: any age

local function is_filter(value)
  if type(value) ~= "table" then
    return type(value) == "function"
  end
  for place, name in pairs(value) do
    if type(place) ~= "number" or type(name) ~= "string" or name == "" then
      return false
    end
  end
  return true
end

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
    accepts = is_filter,
  } },
  { "config", {
    words = "a table",
    accepts = function(value)
      return type(value) == "table"
    end,
  } },
  { "dump_file", {
    words = "the path of a regular file",
    accepts = function(value)
      return type(value) == "string" and value ~= "" and not dump.not_regular(value)
    end,
  } },
  { "age_max_s", {
    words = ("a number of at least %d seconds"):format(LEAST_AGE_S),
    accepts = function(value)
      return type(value) == "number" and value >= LEAST_AGE_S
    end,
  } },
}

-- After this time of work on lists the requests of the worker have their turn, in seconds. A list of 100 instances
-- takes half a millisecond.
local TURN_S = 0.001

-- How many keys of the dict are looked at between two looks at the time.
local SWEPT = 20

---The view of a service in OpenResty.
---@class consul_ffi.openresty.View
local View = {}

---Views of many services, which one worker of nginx writes for all.
---@class consul_ffi.openresty.Views
local Views = {}
View.__index, Views.__index = View, Views

-- Lets the requests of the worker have their turn when it is due.
local function give_turn(self)
  ngx.update_time()
  if now_s() >= self.turn_ends then
    -- nginx would look for a timer of 0 ms again and again until its clock has moved.
    ngx.sleep(0.001)
    self.turn_ends = now_s() + TURN_S
  end
end

local function json_of(value)
  return select(2, assert(consul_ffi.json_encode(value)))
end

-- Writes the names of the services. Returns what texts.write does.
local function put_names(dict, json)
  if texts.read(dict, ROOM) ~= json or texts.read(dict, NAMES) ~= json then
    texts.remove(dict, ROOM)
  end
  local version = texts.write(dict, NAMES, json)
  texts.write(dict, ROOM, json)
  return version
end

local function names_of(dict)
  local json = texts.read(dict, NAMES)
  return json and select(2, assert(consul_ffi.json_decode(json)))
end

-- Notes that Consul confirmed a service's list, unless it did later. A time to come is of a clock that was set back.
-- Returns false if there is no room.
local function confirmed_at(dict, name, confirmed)
  local last = dict:get(CONFIRMED .. name)
  return last and last >= confirmed and last <= now_s() or dict:safe_set(CONFIRMED .. name, confirmed)
end

-- Writes a service's list, and when Consul confirmed it. Returns its version; false if there is no room, nil if another
-- worker wrote it meanwhile.
local function write(dict, name, json, confirmed)
  local last = texts.version(dict, LIST .. name)
  local version = texts.write(dict, LIST .. name, json)
  if not version then
    return version
  elseif version ~= last then
    return dict:safe_set(CONFIRMED .. name, confirmed) and version or false
  end
  return confirmed_at(dict, name, confirmed) and version or false
end

-- Adds a service's list, and when Consul confirmed it, if there is none. Returns false if there is no room.
local function add(dict, name, json, confirmed)
  if not texts.add(dict, LIST .. name, json) then
    return false
  end
  local is_added, why = dict:safe_add(CONFIRMED .. name, confirmed)
  return is_added or why == "exists"
end

local function remove(dict, name)
  texts.remove(dict, LIST .. name)
  dict:delete(CONFIRMED .. name)
end

-- The same text for filters that choose the same services, as far as one can tell.
local function text_of(filter)
  if type(filter) == "function" then
    return "function"
  end
  local names = {}
  for i, name in ipairs(filter) do
    names[i] = json_of(name)
  end
  table.sort(names)
  return table.concat(names)
end

-- The size in KiB with which the dict has room for these lists, by their names, also when all are longer by a half.
local function enough_k(self, jsons)
  local names, bytes, largest = {}, 0, 0
  for name, json in pairs(jsons) do
    local size = texts.size_of(LIST .. name, math.ceil(GROWTH * #json))
    names[#names + 1], largest = name, math.max(largest, size)
    bytes = bytes + size + texts.size_of_entry(#CONFIRMED + #name, 8)
  end
  bytes = bytes + 2 * texts.size_of(NAMES, #json_of(names)) + texts.size_of_entry(#FILTER, #text_of(self.filter))
    + texts.size_of_entry(#SCOPE, #self.scope)
  -- A list is written before the last one is removed. A quarter more, since entries of different sizes do not share a
  -- page.
  local size_k = math.ceil(GAPS * (bytes + largest) / 1024) + OVERHEAD_K
  local has_k = self.dict.capacity and self.dict:capacity() / 1024 or 0
  -- A size that has been too small is never enough.
  return size_k > has_k and size_k or math.ceil(LARGER * has_k), #names
end

-- Says that the dict is too small for these lists, by their names: once, of all workers, until it is not any more.
local function say_full(self, jsons)
  local size_k, count = enough_k(self, jsons)
  if size_k < LARGER * (self.dict:get(FULL) or 0) then
    return
  end
  self.dict:safe_set(FULL, size_k)
  ngx.log(ngx.ERR, ("consul_ffi: the lists of %d services do not fit into the lua_shared_dict %q: some are missing, or "
    .. "are not up to date; it must have at least %dk"):format(
    count, self.dict_name, size_k))
end

-- Whether the lists in the dict are of the part of Consul that these views have.
local function is_own(self)
  return (self.dict:get(SCOPE) or self.scope) == self.scope
end

-- The number of lists in the dict, and the age of the oldest one.
local function oldest(dict)
  local count, age_s = 0, 0
  for _, name in ipairs(names_of(dict) or {}) do
    local confirmed = dict:get(CONFIRMED .. name)
    if confirmed then
      count, age_s = count + 1, math.max(age_s, now_s() - confirmed)
    end
  end
  return count, age_s
end

-- Which services of a dump file the filter may choose; by a function only Consul can tell, since it has the tags.
local function chosen_of(services, filter)
  if type(filter) == "function" then
    return services
  end
  local chosen = {}
  for _, name in ipairs(filter) do
    chosen[name] = services[name]
  end
  return chosen
end

-- Takes the lists of the dump file over that the dict does not have: another worker may write Consul's meanwhile. Their
-- times are of the machine's clock.
local function load(self)
  if not self.dump_file or names_of(self.dict) or not is_own(self) then
    return
  end
  local services, why = dump.read(self.dump_file, self.scope, self.age_max_s)
  if not services then
    return ngx.log(ngx.NOTICE, "consul_ffi: starts without ", self.dump_file, ": ", why)
  end
  local names, jsons, fits = {}, {}, true
  local chosen = chosen_of(services, self.filter)
  if next(chosen) == nil then
    return ngx.log(ngx.NOTICE, "consul_ffi: starts without ", self.dump_file, ": it has no list that is wanted")
  end
  for name in pairs(chosen) do
    names[#names + 1] = name
  end
  texts.add(self.dict, ROOM, json_of(names))
  names = {}
  for name, service in pairs(chosen) do
    local age_s = math.max(0, ngx.now() - service.confirmed)
    jsons[name] = json_of(service.instances)
    if add(self.dict, name, jsons[name], now_s() - age_s) then
      names[#names + 1] = name
    else
      fits = false
    end
  end
  texts.remove(self.dict, ROOM)
  if not (texts.add(self.dict, NAMES, json_of(names)) and fits) then
    say_full(self, jsons)
  end
  ngx.log(ngx.NOTICE, ("consul_ffi: starts with %s: the lists of %d services, the oldest %.0f s old"):format(
    self.dump_file, #names, select(2, oldest(self.dict))))
end

-- Writes the dump file if it is due: as another file that is then renamed, so that no reader finds half of it.
local function write_dump(self)
  local dict = self.dict
  local is_due = self.dump_file and self.dump_at <= now_s()
  -- It includes names that came from the file alone.
  local names = is_due and (self.is_answered or dict:get(FILTER)) and names_of(dict)
  if not names or not is_own(self) or not self.lease:is_kept() then
    return
  end
  self.dump_at = now_s() + DUMP_AGES_S
  local path = ("%s.%d"):format(self.dump_file, ngx.worker.pid())
  local left = dict:get(WRITING)
  if left then
    -- Its worker was killed, or is so slow that its lists are older than these.
    os.remove(left)
  end
  dict:safe_set(WRITING, path)
  local place = 0
  local function next_list()
    give_turn(self)
    while names[place + 1] do
      place = place + 1
      local json, confirmed = texts.read(dict, LIST .. names[place]), dict:get(CONFIRMED .. names[place])
      if json and confirmed then
        return json_of(names[place]), ngx.now() - (now_s() - confirmed), json
      end
    end
  end
  local written, why = dump.write(path, self.scope, next_list)
  if not self.lease:is_kept() then
    -- Another worker's lists are newer, and the path is its own.
    return os.remove(path)
  elseif written then
    written, why = os.rename(path, self.dump_file)
  end
  dict:delete(WRITING)
  if not written then
    os.remove(path)
    self.dump_at = now_s() + DUMP_AGAIN_S
    if not self.dump_failed then
      ngx.log(ngx.ERR, "consul_ffi: cannot write ", self.dump_file, ": ", why)
    end
  end
  self.dump_failed = not written
end

-- Whether a service has instances that another worker has written.
local function has_anothers(self, name)
  local json = not self.written[name] and texts.read(self.dict, LIST .. name)
  return json and #json > #"{}"
end

-- Writes a service that is new, has changed or is gone.
local function take(self, all, name)
  local view = all:view(name)
  local instances = {}
  if view then
    instances = view:all()
  end
  if not instances then
    return
  end
  if #instances == 0 and now_s() < self.hold_until and has_anothers(self, name) then
    self.held[name] = true
    return
  end
  local json = json_of(instances)
  if not self.lease:is_kept() then
    return
  end
  self.held[name] = nil
  if view then
    self.written[name] = write(self.dict, name, json, now_s() - (view:age_s() or 0))
  else
    self.written[name] = nil
    remove(self.dict, name)
  end
  self.dump_at = math.min(self.dump_at, now_s() + DUMP_S)
end

-- Writes how old the list of a service is; that list too unless it is the one in the dict, where a worker that has lost
-- the lease may have written last. Returns whether there is room for it, and the age of Consul's answer; false without
-- one.
local function confirm(self, all, name)
  local written = self.written[name]
  if not self.held[name] and (not written or texts.version_of_text(self.dict, LIST .. name) ~= written) then
    take(self, all, name)
  end
  local view = all:view(name)
  local age_s = view and view:age_s()
  if age_s and self.written[name] and self.lease:is_kept() then
    confirmed_at(self.dict, name, now_s() - age_s)
  end
  return self.written[name] ~= false, age_s
end

-- The lists of all services as JSON, by name.
local function jsons_of(self, all)
  local jsons = {}
  for _, name in ipairs(all:names()) do
    give_turn(self)
    local view = all:view(name)
    jsons[name] = json_of(view and view:all() or {})
  end
  return jsons
end

-- Removes what no service has: a worker was killed, or it was slow to load the dump file.
local function sweep(self, names)
  local is_name = { [NAMES] = true, [ROOM] = true }
  for _, name in ipairs(names) do
    is_name[LIST .. name] = true
  end
  local looked = 0
  local function goes_on()
    looked = looked + 1
    if looked % SWEPT ~= 0 then
      return true
    end
    give_turn(self)
    return self.lease:is_kept()
  end
  texts.sweep(self.dict, is_name, goes_on)
  for _, key in ipairs(self.dict:get_keys(0)) do
    if not goes_on() then
      return
    elseif key:sub(1, #CONFIRMED) == CONFIRMED and not is_name[LIST .. key:sub(#CONFIRMED + 1)] then
      self.dict:delete(key)
    end
  end
end

-- Says once that Consul has confirmed no list to this worker, and why.
local function say_silent(self, why)
  if now_s() < self.silent_at then
    return
  end
  self.silent_at = math.huge
  local count, age_s = oldest(self.dict)
  if count == 0 then
    return ngx.log(ngx.WARN, "consul_ffi: no answer from Consul since this worker began to watch: ", tostring(why))
  end
  ngx.log(ngx.WARN, ("consul_ffi: no answer from Consul since this worker began to watch: the lists of %d services are "
    .. "served as they were, the oldest %.0f s old: %s"):format(count, age_s, tostring(why)))
end

-- Says once that Consul answers for some services only. Returns whether the others have come to be late.
local function is_late(self, all, late, count)
  if #late == 0 or #late == count or #late < self.late then
    self.late_at = now_s() + SILENT_S
  elseif now_s() >= self.late_at and not self.is_late_said then
    self.is_late_said = true
    local view, list, why = all:view(late[1]), nil, nil
    if view then
      list, why = view:all()
    end
    ngx.log(ngx.WARN, ("consul_ffi: Consul has not answered for %d of %d services, such as %q: %s"):format(
      #late, count, late[1], not list and why or "its list is as it was"))
  end
  self.late, self.is_late_said = #late, #late > 0 and self.is_late_said
  return now_s() >= self.late_at
end

-- Writes how old each list is. Returns the names of the services, and whether there is room for all lists; nil until
-- they can be named.
local function confirm_all(self, all)
  local names, late, fits, unread = all:names(), {}, true, 0
  for _, name in ipairs(names) do
    give_turn(self)
    local has_room, age_s = confirm(self, all, name)
    fits = has_room and fits
    unread = unread + (age_s and 0 or 1)
    if not age_s or age_s > LEAST_AGE_S then
      late[#late + 1] = name
    end
  end
  local is_read, why = all:ready(0)
  self.is_answered = self.is_answered or is_read or unread < #names
  if not self.is_answered then
    return say_silent(self, why)
  end
  -- Those that are still to be read come within seconds, or they cannot be read.
  local is_complete = is_late(self, all, late, #names) or is_read
  return (is_complete or texts.version(self.dict, NAMES)) and names, fits
end

-- Writes the names, and how old each list is; removes what another worker left, after a while. All that watches asks
-- before each write whether it still has the lease: a worker that was paused may have old lists.
local function write_names(self, all)
  local names, fits = confirm_all(self, all)
  if not names or not self.lease:is_kept() then
    return
  end
  local is_named, is_held = {}, now_s() < self.hold_until
  for _, name in ipairs(names) do
    is_named[name] = true
  end
  for _, name in ipairs(names_of(self.dict) or {}) do
    if not is_named[name] and is_held and has_anothers(self, name) then
      self.held[name] = true
      names[#names + 1] = name
    elseif not is_named[name] then
      remove(self.dict, name)
    end
  end
  for name in pairs(is_held and {} or self.held) do
    take(self, all, name)
  end
  local version = put_names(self.dict, json_of(names))
  if version and self.dict:safe_set(FILTER, text_of(self.filter)) and fits then
    self.dict:safe_set(FULL, 0)
  elseif version ~= nil and (self.has_news or self.dict:get(FULL) == 0) then
    say_full(self, jsons_of(self, all))
  end
  self.has_news = false
  if not is_held and not self.is_swept and self.lease:is_kept() then
    self.is_swept = true
    sweep(self, names)
  end
end

-- Removes the lists of another part of Consul, which the configuration before had. They are gone before the scope is
-- another one: no worker serves them as its own.
local function own(self)
  local dict = self.dict
  if is_own(self) then
    return
  end
  ngx.log(ngx.NOTICE, ("consul_ffi: removes the lists of the lua_shared_dict %q: they are of %s, not of %s"):format(
    self.dict_name, scope.words(dict:get(SCOPE)), scope.words(self.scope)))
  texts.remove(dict, NAMES)
  texts.remove(dict, ROOM)
  sweep(self, {})
  if not self.lease:is_kept() then
    return
  end
  dict:delete(FILTER)
  dict:safe_set(FULL, 0)
  dict:safe_set(SCOPE, self.scope)
  load(self)
end

-- Watches as long as this worker has the lease and does not exit. Returns the reason when it cannot.
local function watch(self, all)
  -- The version of each list that this worker has written: false without room, nil before Consul's answer.
  self.written = {}
  self.is_answered, self.is_swept, self.held = false, false, {}
  self.late, self.late_at, self.is_late_said = math.huge, now_s() + SILENT_S, false
  self.turn_ends = now_s() + TURN_S
  -- The worker before may have ended with changes that are not in the file.
  self.hold_until, self.silent_at, self.dump_at = now_s() + HOLD_S, now_s() + SILENT_S, now_s()
  if self.lease:is_kept() then
    own(self)
  end
  while not ngx.worker.exiting() and self.lease:is_kept() do
    local success, name = all:next(lease.RENEW_S * 1000)
    if not success then
      return name
    end
    self.said = nil
    if name and self.lease:is_kept() then
      texts.write(self.dict, ROOM, json_of(all:names()))
    end
    self.turn_ends = now_s() + TURN_S
    while success and name do
      give_turn(self)
      take(self, all, name)
      self.has_news = true
      success, name = all:next(0)
    end
    write_names(self, all)
    write_dump(self)
  end
end

-- The filter; if it raises an error, it chooses nothing.
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

-- Watches, with a client and views of its own. Returns the reason when it cannot, or raises it.
local function serve(self)
  self.client = self.client or openresty.new(self.config)
  local all, message = self.client:service_views(filter_of(self))
  if not all then
    return message
  end
  local _, why = pcall(watch, self, all)
  all:close()
  return why
end

local function tick(premature, self)
  if premature or self.is_watching or ngx.worker.exiting() or not self.lease:is_held() then
    return
  end
  self.is_watching = true
  local _, why = pcall(serve, self)
  self.is_watching = false
  self.lease:release()
  if why and why ~= self.said and not ngx.worker.exiting() then
    -- Once, although it is tried again each second.
    self.said = why
    ngx.log(ngx.ERR, "consul_ffi: cannot watch: ", tostring(why))
  end
end

local views = {}

---Returns the views; in init_by_lua or init_worker_by_lua. Raises an error if an option is not allowed.
---@param options consul_ffi.openresty.views.options
---@return consul_ffi.openresty.Views
function views.new(options)
  local read = option_types.read("views.new", OPTIONS, options)
  local self = setmetatable({
    dict_name = read.dict,
    dict = ngx.shared[read.dict],
    filter = read.filter,
    config = read.config,
    scope = scope.of(read.config),
    dump_file = read.dump_file,
    age_max_s = read.age_max_s,
    views = {},
  }, Views)
  self.dict:safe_add(FULL, 0)
  self.dict:safe_add(SCOPE, self.scope)
  -- Before the lists, which may take all the room.
  if not lease.is_there(self.dict) then
    ngx.log(ngx.ERR, ("consul_ffi: the lua_shared_dict %q is full: no worker can watch"):format(read.dict))
  end
  load(self)
  return self
end

-- Tries the folder of the dump file, while the operator looks: otherwise the next outage shows that it fails.
local function try_dump(self)
  local path = self.dump_file and ("%s.%d"):format(self.dump_file, ngx.worker.pid())
  if not path then
    return
  end
  local file, why = io.open(path, "a")
  if file then
    file:close()
    os.remove(path)
  else
    self.dump_failed = true
    local cure = ": the user of the workers needs its folder"
    ngx.log(ngx.ERR, "consul_ffi: cannot write ", self.dump_file, ": ", why, cure)
  end
end

-- Whether this process serves requests. The privileged agent does not, and its dump file would be root's, which no
-- worker can read.
local function is_worker()
  local has, process = pcall(require, "ngx.process")
  local kind = has and process.type() or "worker"
  return kind == "worker" or kind == "single"
end

---Has this worker watch when no other does; in init_worker_by_lua. A process that is not a worker only reads.
function Views:start()
  if not is_worker() then
    return
  end
  try_dump(self)
  self.lease = lease.new(self.dict)
  assert(ngx.timer.at(0, tick, self))
  assert(ngx.timer.every(lease.RENEW_S, tick, self))
end

---The names of the services; nil before the first lists.
---@return string[]? names
---@return string? message
function Views:names()
  local names = is_own(self) and names_of(self.dict)
  if names then
    return names
  elseif (self.dict:get(FULL) or 0) > 0 then
    return nil, ("there is no room for the names of the services in the lua_shared_dict %q"):format(self.dict_name)
  end
  return nil, "no answer from Consul yet"
end

-- Whether a service is among the names; nil before these are known.
local function is_named(self, service)
  local version = texts.version(self.dict, NAMES)
  if version ~= self.names_version then
    local names = names_of(self.dict)
    self.named, self.names_version = names and {}, names and version
    for _, name in ipairs(names or {}) do
      self.named[name] = true
    end
  end
  return self.named and self.named[service] == true
end

-- When Consul last confirmed a list; nil if there is none.
local function last_confirmed(self)
  local last
  for name in pairs(self.named) do
    local confirmed = self.dict:get(CONFIRMED .. name)
    last = last and math.max(last, confirmed or last) or confirmed
  end
  return last
end

---The view of a service, with the methods of a service view. A service that there is not has a view without instances.
---@param service string
---@return consul_ffi.openresty.View
function Views:view(service)
  if type(service) ~= "string" then
    error(("views:view: service must be a string, got a %s"):format(type(service)), 2)
  end
  local view = self.views[service]
  if not view then
    view = setmetatable({ dict = self.dict, service = service, all_views = self }, View)
    view.picks = balancer.new(view)
    -- Names that come from requests are not kept.
    self.views[service] = texts.version(self.dict, LIST .. service) and view
  end
  return view
end

-- Whether Consul lists no such service.
local function is_unlisted(self)
  return (self.dict:get(FULL) or 0) == 0 and self.dict:get(FILTER) == text_of(self.all_views.filter)
    and is_named(self.all_views, self.service) == false
end

-- The results while there is no list.
local function missing(self)
  local kind, why = "timeout", "no answer from Consul yet"
  if (self.dict:get(FULL) or 0) > 0 then
    kind, why = "config", "there is no room for its list in the lua_shared_dict"
  end
  local message = ("service_view %q: %s"):format(self.service, why)
  return false, message, { kind = kind, message = message, retryable = true, maybe_applied = false }
end

-- The results while the list is older than is allowed; nil while it is not.
local function too_old(self)
  local most_s = self.all_views.age_max_s
  local age_s = most_s and self:age_s()
  if age_s and age_s > most_s then
    local message = ("service_view %q: Consul confirmed its list %.0f s ago, and age_max_s is %s"):format(
      self.service, age_s, most_s)
    return false, message,
      as_error({ kind = "timeout", message = message, retryable = true, maybe_applied = false, expired = true })
  end
end

---Changes with the list; nil while there is none that is served.
---@return any version
function View:version()
  if not is_own(self.all_views) or self.all_views.age_max_s and too_old(self) == false then
    return nil
  end
  return texts.version(self.dict, LIST .. self.service)
end

---The instances; the same tables until they change. They belong to the view: do not modify them.
---@return consul_ffi.Instance[]|false instances
---@return string? message
---@return consul_ffi.Error? err
function View:all()
  if not is_own(self.all_views) then
    return missing(self)
  end
  local is_served, message, err = too_old(self)
  if is_served == false then
    return false, message, err
  end
  local version = texts.version(self.dict, LIST .. self.service)
  if not version or version ~= self.read_version then
    local json
    json, self.read_version = texts.read(self.dict, LIST .. self.service)
    self.list = json and select(2, assert(consul_ffi.json_decode(json))) or nil
  end
  if self.list then
    return self.list
  elseif not is_unlisted(self) then
    return missing(self)
  end
  self.list = {}
  return self.list
end

-- The ring of a list, and its instances by the ids in the ring, as in a service view.
local function ring_of(list)
  local greatest = 0
  for _, instance in ipairs(list) do
    greatest = math.max(greatest, instance.weight or 1)
  end
  local scale = 1
  while scale * MAX_RING_WEIGHT < greatest do
    scale = scale * 2
  end
  local ring, instances = consul_ffi.ConsistentHashRing:new(), {}
  for _, instance in ipairs(list) do
    local id = ("%s/%s"):format(instance.node or "", instance.id or "")
    assert(ring:add_node(id, { weight = (instance.weight or 1) / scale }))
    instances[id] = instance
  end
  return ring, instances
end

---Picks an instance: round robin by weight, or the instance that a key belongs to, as a service view does.
---@param key? string
---@return consul_ffi.Instance|false instance
---@return string? message
---@return consul_ffi.Error? err
function View:pick(key)
  if key == nil then
    return self.picks:pick()
  elseif type(key) ~= "string" then
    error(("view:pick: key must be a string, got a %s"):format(type(key)), 2)
  end
  local list, message, err = self:all()
  if not list then
    return false, message, err
  end
  if list ~= self.ring_list then
    self.ring_list, self.ring, self.by_id = list, ring_of(list)
  end
  local instance = self.by_id[self.ring:get_node(key) or false]
  if instance then
    return instance
  end
  return self.picks:pick()
end

---The time since Consul last confirmed the list; of a service that it does not list, since it last confirmed any list.
---@return number|false age_s in seconds
---@return string? message
---@return consul_ffi.Error? err
function View:age_s()
  local confirmed
  if not is_own(self.all_views) then
    confirmed = nil
  elseif texts.version(self.dict, LIST .. self.service) then
    confirmed = self.dict:get(CONFIRMED .. self.service)
  elseif is_unlisted(self) then
    confirmed = last_confirmed(self.all_views)
  end
  if not confirmed then
    return missing(self)
  end
  return math.max(0, now_s() - confirmed)
end

---Waits for the first list.
---@param timeout_ms? number the longest wait, in milliseconds; default: until there is one
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function View:ready(timeout_ms)
  if timeout_ms ~= nil and (type(timeout_ms) ~= "number" or timeout_ms ~= timeout_ms) then
    error(("ready: timeout_ms must be a number of milliseconds, got %s"):format(tostring(timeout_ms)), 2)
  end
  local ends = timeout_ms and now_s() + timeout_ms / 1000
  while true do
    local list, message, err = self:all()
    if list then
      return true
    elseif ends and now_s() >= ends or ngx.worker.exiting() then
      return false, message, err
    end
    ngx.sleep(LOOK_S)
  end
end

return views
