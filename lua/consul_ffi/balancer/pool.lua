-- The instances of a balancer, with what it knows of each. An instance keeps its state while the list changes around
-- it; it is known by its id, address and port, because the tables of a view are new after a change.
local weights = require("consul_ffi.balancer.weights")

local pool = {}

-- The least time between two looks at the list, in seconds: a look calls into the view.
local LOOK_S = 0.01

local function key_of(instance)
  return ("%s\0%s\0%s"):format(tostring(instance.id or ""), tostring(instance.address), tostring(instance.port))
end

function pool.new(source, options, policy, random)
  return {
    source = source, options = options, policy = policy, random = random, load_factor = options.load_factor,
    -- The list as it was read; its entries in the same order, by its tables, and by id, address and port.
    seen = {}, entries = {}, by_table = {}, by_key = {},
    -- Those that are picked now, their effective weights, and the sum of these.
    active = {}, weights = {}, count = 0, total_weight = 0,
    in_flight = 0, ejected = 0, time = 0, look_at = -math.huge, due_at = 0, forget_at = 0, stamp = 0, local_share = 1,
  }
end

-- Returns the state of an instance; nil if it is not in the list.
function pool.entry_of(self, instance)
  return self.by_table[instance] or self.by_key[key_of(instance)]
end

-- The current list, or nil if it did not change. Sets `failure` if there is none.
local function read(self)
  local source = self.source
  local list, message, err = source, nil, nil
  if self.has_version then
    local version = source:version()
    if version ~= nil and version == self.version then
      return nil
    end
    self.version = version
  end
  if self.is_view then
    list, message, err = source:all()
  end
  if not list then
    self.failure, self.version = { message, err }, nil
    -- The last list stays, unless the view says that it is too old.
    return err and err.expired and #self.seen > 0 and {} or nil
  end
  self.failure = nil
  local seen = self.seen
  local is_same = #list == #seen
  for i = 1, is_same and #list or 0 do
    is_same = is_same and list[i] == seen[i]
  end
  return not is_same and list or nil
end

local function new_entry(instance, key, ramp_from)
  return {
    instance = instance, key = key, ramp_from = ramp_from, fails = 0, ejections = 0, in_flight = 0, overdue = 0,
    errors = 0, errors_at = -math.huge,
    share = 0, tried = 0, is_local = true, state = "active",
  }
end

-- Takes a new list over.
local function replace(self, list)
  local options, old = self.options, self.by_key
  -- Slow start is for an instance that joins others: all at once are equal.
  local ramp_from = options.slow_start_s > 0 and #self.entries > 0 and self.time or nil
  local count_before, has_changed = #self.entries, false
  self.seen, self.entries, self.by_table, self.by_key, self.in_flight, self.ejected = {}, {}, {}, {}, 0, 0
  for i, instance in ipairs(list) do
    self.seen[i] = instance
    local key = key_of(instance)
    if not self.by_key[key] then
      local entry = old[key] or new_entry(instance, key, ramp_from)
      has_changed = has_changed or entry.weight ~= (instance.weight or 1)
      entry.instance, entry.weight = instance, instance.weight or 1
      if options.zone then
        entry.zone = instance.meta and instance.meta[options.zone_meta]
        entry.is_local = entry.zone == options.zone
      end
      self.by_table[instance], self.by_key[key] = entry, entry
      self.entries[#self.entries + 1] = entry
      self.in_flight = self.in_flight + entry.in_flight
      self.ejected = self.ejected + (entry.state == "ejected" and 1 or 0)
    end
  end
  self.due_at = 0
  if self.policy.rebuild and (has_changed or #self.entries ~= count_before) then
    self.policy.rebuild(self)
  end
end

-- Requests that were picked more than `report_within_s` ago and never reported do not count any more. A count of
-- requests has no time for each, so this happens after one to two such times.
local function forget_overdue(self)
  self.forget_at = self.time + self.options.report_within_s
  for _, entry in ipairs(self.entries) do
    self.in_flight = self.in_flight - entry.overdue
    entry.in_flight = entry.in_flight - entry.overdue
    entry.overdue = entry.in_flight
  end
end

-- Called when the clock has moved; does the work that is due.
function pool.tick(self, time)
  self.time = time
  if time >= self.look_at then
    self.look_at = time + LOOK_S
    local list = read(self)
    if list then
      replace(self, list)
    end
  end
  if time >= self.forget_at then
    forget_overdue(self)
  end
  if time >= self.due_at then
    weights.refresh(self)
  end
end

function pool.answered(self, entry)
  if entry.in_flight > 0 then
    entry.in_flight, self.in_flight = entry.in_flight - 1, self.in_flight - 1
    entry.overdue = entry.overdue > 0 and entry.overdue - 1 or 0
  end
end

return pool
