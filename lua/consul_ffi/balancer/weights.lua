-- Which instances are picked now, and with what weights: by their health, slow start and zone.
local health = require("consul_ffi.balancer.health")

local weights = {}

-- The least share of its weight that an instance in slow start has, and how often the weights grow meanwhile: Envoy's
-- `min_weight_percent` (its page "Slow start mode"), and each tenth of a second.
local LEAST_RAMP, RAMP_STEP_S = 0.1, 0.1

-- Envoy's overprovisioning factor (its page "Overprovisioning factor"): a zone serves all of its requests until less
-- than 1 / 1.4, that is 71 %, of what it needs is healthy.
local OVERPROVISIONING = 1.4

-- The share of its weight that an instance in slow start has: the share of the window that is over.
local function ramp(self, entry)
  if not entry.ramp_from then
    return 1
  end
  local share = (self.time - entry.ramp_from) / self.options.slow_start_s
  if share >= 1 then
    entry.ramp_from = nil
    return 1
  end
  self.due_at = math.min(self.due_at, self.time + RAMP_STEP_S)
  return math.max(share, LEAST_RAMP)
end

-- The sums of the weights of all entries and of those in the own zone.
local function sums_of(entries, weight_of)
  local all, own = 0, 0
  for i, entry in ipairs(entries) do
    local weight = weight_of(entry, i)
    all, own = all + weight, own + (entry.is_local and weight or 0)
  end
  return all, own
end

local function registered(entry)
  return entry.weight
end

local function one()
  return 1
end

-- The share of requests that the own zone serves: all while its healthy weight, times 1.4, is at least the mean weight
-- of a zone; less in proportion below that, and the rest goes to the other zones. That is Envoy's zone-aware routing
-- for gateways that are evenly spread over the zones. Instances that Consul has taken out of the list count as missing
-- too, since the mean is that of all zones.
local function local_share(self, usable, weight_of)
  local all, own = sums_of(usable, weight_of)
  if own == 0 or own == all then
    return own == all and 1 or 0
  end
  local zones, count = {}, 0
  for _, entry in ipairs(self.entries) do
    local zone = entry.zone or ""
    count, zones[zone] = count + (zones[zone] and 0 or 1), true
  end
  return math.min(1, OVERPROVISIONING * own * count / (sums_of(self.entries, weight_of)))
end

-- The instances that may be picked; all of them if there would be none.
local function usable_of(entries)
  local usable = {}
  for _, entry in ipairs(entries) do
    entry.share = 0
    if health.is_usable(entry) then
      usable[#usable + 1] = entry
    end
  end
  return #usable > 0 and usable or entries
end

-- Takes the instances with a weight as `active`.
local function activate(self, usable, weight_of)
  self.active, self.weights, self.count, self.total_weight = {}, {}, 0, 0
  for i, entry in ipairs(usable) do
    local weight = weight_of(entry, i)
    if weight > 0 then
      self.count = self.count + 1
      self.active[self.count], self.weights[self.count] = entry, weight
      self.total_weight = self.total_weight + weight
    end
  end
  for i, entry in ipairs(self.active) do
    entry.share = self.weights[i] / self.total_weight
  end
end

-- Computes `active` and the weights, and when that is due again.
function weights.refresh(self)
  local policy = self.policy
  if policy.suspend then
    policy.suspend(self)
  end
  self.due_at = health.advance(self)
  local usable = usable_of(self.entries)
  -- Instances of weight 0 are picked only if no other is left, as by Consul's DNS.
  local weight_of = sums_of(usable, registered) > 0 and registered or one
  self.local_share = self.options.zone and local_share(self, usable, weight_of) or 1
  local ramped = {}
  for i, entry in ipairs(usable) do
    ramped[i] = weight_of(entry) * ramp(self, entry)
  end
  local function ramped_weight(_, i)
    return ramped[i]
  end
  -- Without zones the weights stay integers, whose sums are exact.
  if self.options.zone then
    local all, own = sums_of(usable, ramped_weight)
    local inside = own > 0 and self.local_share / own or 0
    local outside = all > own and (1 - self.local_share) / (all - own) or 0
    activate(self, usable, function(entry, i)
      return ramped[i] * (entry.is_local and inside or outside)
    end)
  else
    activate(self, usable, ramped_weight)
  end
  if self.count > 0 then
    policy.prepare(self)
  end
end

return weights
