-- A manager's health: the problems by reason, and the alerts that report when a reason begins and ends.
local health = {}
health.__index = health

-- Only the newest alerts are kept.
local MAX_ALERTS = 1024
-- With fewer calls there is no error rate.
local MIN_CALLS = 5

function health.new(now)
  return setmetatable({ now = now, seconds = {}, alerts = {}, raised = {} }, health)
end

-- Counts a call: whether it succeeded and, if known, how long it took.
function health:count(succeeded, ms)
  local second = math.floor(self.now())
  local last = self.seconds[#self.seconds]
  if not last or last.second ~= second then
    last = { second = second, calls = 0, failed = 0, ms = 0, timed = 0 }
    table.insert(self.seconds, last)
  end
  last.calls = last.calls + 1
  if not succeeded then
    last.failed = last.failed + 1
  end
  if ms then
    last.ms, last.timed = last.ms + ms, last.timed + 1
  end
end

-- Returns the metrics of the last `interval` seconds: the number of calls, their mean time in ms and the
-- share of failed ones in percent. Without enough calls the latter two are 0.
function health:measured(interval)
  local since = self.now() - interval
  while self.seconds[1] and self.seconds[1].second < since do
    table.remove(self.seconds, 1)
  end
  local calls, failed, ms, timed = 0, 0, 0, 0
  for _, second in ipairs(self.seconds) do
    calls, failed = calls + second.calls, failed + second.failed
    ms, timed = ms + second.ms, timed + second.timed
  end
  return {
    calls = calls,
    response_time_ms = timed > 0 and ms / timed or 0,
    error_rate_percent = calls >= MIN_CALLS and failed * 100 / calls or 0,
  }
end

-- Returns the ids of the critical checks in `checks`, of all of them or of this program's: of its node and of what
-- its client has registered.
local function critical_checks(session, node_service, checks)
  local all, own, critical = session.values["monitoring.all_checks"], session:registered(), {}
  for _, id in ipairs(health.sorted(checks)) do
    local check = checks[id]
    local is_own = check.ServiceID == node_service or own.services[check.ServiceID] or own.checks[id]
    if check.Status == "critical" and (all or is_own) then
      table.insert(critical, id)
    end
  end
  return critical
end

-- Asks a server and the agent, and reads the node's state.
function health.observe(session)
  local node, timeout_ms = session.node, session.values["consul.health_check_timeout"] * 1000
  local status, nodes = node:status(), node.cluster_nodes
  local reached, message = session:call("status_leader", { timeout_ms = timeout_ms })
  local has_checks, checks = false, nil
  if reached then
    has_checks, checks = session:call("agent_checks", { timeout_ms = timeout_ms })
  end
  local down = {}
  for _, id in ipairs(health.sorted(nodes)) do
    if nodes[id].status == "down" then
      table.insert(down, id)
    end
  end
  return {
    unreachable = not reached and message or not status.in_touch and "the node gets no answer from Consul" or nil,
    live = #node:get_live_nodes(),
    known = node:get_node_count(),
    down = down,
    leader = node:get_leader_info(),
    state = status.state,
    frozen = status.frozen,
    critical = has_checks and critical_checks(session, status.service_id, checks) or {},
    is_polled = status.polled,
    not_ready_because = status.not_ready_because,
    replicas = session.replicas and session.replicas:trouble(),
    measured = session.health:measured(session.values["monitoring.metrics_interval"]),
    bad_config = session.bad_config,
  }
end

-- Returns the problems, messages by reason, from the result of `observe`.
function health.reasons(values, seen)
  local reasons = {}
  local threshold = "monitoring.alert_threshold."
  if seen.unreachable then
    reasons.consul_unreachable = seen.unreachable
  else
    if seen.live < values["cluster.min_nodes"] then
      reasons.too_few_nodes = ("%d live nodes, and cluster.min_nodes is %d"):format(
        seen.live, values["cluster.min_nodes"])
    end
    if seen.known - seen.live >= values[threshold .. "node_down_count"] then
      reasons.nodes_down = table.concat(seen.down, ", ")
    end
    if not seen.leader and seen.state ~= "suspended" then
      reasons.no_leader = "the cluster has no leader"
    end
  end
  if seen.state == "suspended" then
    reasons.suspended = "this node leads, but cannot verify with Consul that it still does"
  elseif seen.state == "stopped" then
    reasons.stopped = "this node is no longer a member of the cluster"
  end
  if #seen.frozen > 0 then
    reasons.frozen = "the shard map waits for " .. table.concat(seen.frozen, ", ")
  end
  if #seen.critical > 0 then
    reasons.critical_check = table.concat(seen.critical, ", ")
  end
  if seen.is_polled == false then
    reasons.host_not_polling = "other nodes' requests are refused, because the program does not poll often enough"
  elseif seen.not_ready_because then
    reasons.not_ready = seen.not_ready_because
  end
  if seen.replicas then
    reasons.replicas = seen.replicas
  end
  if values["monitoring.metrics_enabled"] then
    local max_ms, max_percent = values[threshold .. "response_time_ms"], values[threshold .. "error_rate_percent"]
    if seen.measured.response_time_ms > max_ms then
      reasons.slow = ("the mean call takes %.0f ms, and the threshold is %g ms"):format(
        seen.measured.response_time_ms, max_ms)
    end
    if seen.measured.error_rate_percent > max_percent then
      reasons.error_rate = ("%.1f %% of the calls failed, and the threshold is %g %%"):format(
        seen.measured.error_rate_percent, max_percent)
    end
  end
  if seen.bad_config then
    reasons.configuration = seen.bad_config
  end
  return reasons
end

-- Compares with the reasons of the last call, queues an alert for each change if `enabled`, and returns
-- the alerts.
function health:update(reasons, enabled)
  local alerts = {}
  local function compare(state, one, other)
    for _, reason in ipairs(health.sorted(one)) do
      if not other[reason] then
        table.insert(alerts, { state = state, reason = reason, message = one[reason], timestamp = os.time() })
      end
    end
  end
  compare("raised", reasons, self.raised)
  compare("cleared", self.raised, reasons)
  self.raised = reasons
  for _, alert in ipairs(enabled and alerts or {}) do
    table.insert(self.alerts, alert)
  end
  while #self.alerts > MAX_ALERTS do
    table.remove(self.alerts, 1)
  end
  return alerts
end

-- Returns a table's keys, sorted.
function health.sorted(by_name)
  local names = {}
  for name in pairs(by_name) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

-- Takes the oldest alert from the queue; nil when it is empty.
function health:next_alert()
  return table.remove(self.alerts, 1)
end

return health
