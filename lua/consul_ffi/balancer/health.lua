-- Ejection of instances by the caller's reports.
--
-- After `max_failures` failures in a row an instance is ejected: outlier detection by consecutive failures, as in Envoy
-- (its page "Outlier detection") and by `max_fails` in nginx. Each ejection in a row is longer by `ejection_s`, up to
-- five minutes, as in Envoy; for each ten healthy seconds one is forgotten. No more than `max_ejected` of the instances
-- are ejected at once: the rest could not bear the load, and if all fail it is rarely their fault. Envoy has a second
-- rule for that, its panic threshold, which uses even the ejected ones; here the limit leaves enough in use.
--
-- An instance in doubt gets few requests: after a failure as many as may still fail before the ejection, until one
-- succeeds; after an ejection one, as in nginx, whose page of `max_fails` calls that probing with live requests.
local health = {}

-- Failures count for this long, in seconds: nginx's default `fail_timeout`.
local FAILURES_COUNT_S = 10

-- The longest ejection, and the healthy time for which one ejection is forgotten, in seconds: Envoy's
-- `max_ejection_time` and its `interval`.
local MAX_EJECTION_S, FORGIVE_S = 300, 10

-- The states: `active`; `doubtful` after a failure; `ejected`; `probing` after an ejection. `trials` is how many more
-- requests a doubtful or probing instance gets.

function health.is_usable(entry)
  return entry.state == "active" or entry.state ~= "ejected" and entry.trials > 0
end

local function is_ejection_allowed(self)
  local count = #self.entries
  local limit = math.floor(self.options.max_ejected * count)
  -- As in Envoy one may always be ejected, but not the only one.
  if limit == 0 and self.options.max_ejected > 0 and count > 1 then
    limit = 1
  end
  return self.ejected < limit
end

local function eject(self, entry)
  if not is_ejection_allowed(self) then
    entry.state = "active"
    return
  end
  local forgiven = entry.healthy_from and math.floor((self.time - entry.healthy_from) / FORGIVE_S) or 0
  entry.ejections = math.max(0, entry.ejections - forgiven) + 1
  entry.state, entry.healthy_from, self.ejected = "ejected", nil, self.ejected + 1
  entry.until_time = self.time + math.min(self.options.ejection_s * entry.ejections, MAX_EJECTION_S)
end

local function fail(self, entry)
  if entry.state == "ejected" then
    return
  end
  local was_usable, limit = health.is_usable(entry), self.options.max_failures
  local is_old = entry.state ~= "probing" and entry.failed_at and self.time - entry.failed_at >= FAILURES_COUNT_S
  entry.fails = math.min(is_old and 1 or entry.fails + 1, limit)
  entry.failed_at = self.time
  if entry.fails >= limit then
    eject(self, entry)
  elseif entry.state == "active" then
    entry.state, entry.trials = "doubtful", limit - entry.fails
    entry.until_time = self.time + FAILURES_COUNT_S
    self.due_at = math.min(self.due_at, entry.until_time)
  end
  if was_usable ~= health.is_usable(entry) then
    self.due_at = 0
  end
end

local function succeed(self, entry)
  entry.fails = 0
  if entry.state == "active" or entry.state == "ejected" then
    return
  end
  if entry.state == "probing" then
    entry.healthy_from = self.time
    -- As in nginx, an instance that comes back starts slowly.
    entry.ramp_from = self.options.slow_start_s > 0 and self.time or nil
  end
  entry.state, self.due_at = "active", 0
end

-- Takes the result of a request into account.
function health.report(self, entry, succeeded)
  if succeeded then
    succeed(self, entry)
  else
    fail(self, entry)
  end
end

-- Counts a request to an instance that is not `active`.
function health.spend(self, entry)
  if entry.state ~= "ejected" then
    entry.trials = entry.trials - 1
    if entry.trials <= 0 then
      self.due_at = 0
    end
  end
end

-- Ends what is over: ejections, doubts, and probes that were never answered. Returns when the next one is.
function health.advance(self)
  local due_at = math.huge
  for _, entry in ipairs(self.entries) do
    if entry.state ~= "active" and self.time >= entry.until_time then
      if entry.state == "doubtful" then
        entry.state, entry.fails = "active", 0
      else
        self.ejected = self.ejected - (entry.state == "ejected" and 1 or 0)
        entry.state, entry.trials = "probing", 1
        entry.fails = self.options.max_failures - 1
        entry.until_time = self.time + FAILURES_COUNT_S
      end
    end
    if entry.state ~= "active" then
      due_at = math.min(due_at, entry.until_time)
    end
  end
  return due_at
end

return health
