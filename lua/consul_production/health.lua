-- What is wrong, each cause by its own reason, and the alerts that say when a cause comes and goes.
local health = {}
health.__index = health

-- The newest alerts are kept.
local MOST_ALERTS = 1024
-- Fewer calls say nothing about a share of errors.
local FEWEST_CALLS = 5

function health.new(now)
  return setmetatable({ now = now, seconds = {}, alerts = {}, raised = {} }, health)
end

-- Counts a call: how long it took, or that it failed.
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

-- Of the last `interval` seconds: how many calls, the mean of their times in ms, the share of failed ones
-- in percent. Both are 0 when there is too little to say it by.
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
    error_rate_percent = calls >= FEWEST_CALLS and failed * 100 / calls or 0,
  }
end

-- What there is to see of Consul and of the cluster.
function health.look(session)
  local node, timeout_ms = session.node, session.values["consul.health_check_timeout"] * 1000
  local status, nodes = node:status(), node.cluster_nodes
  local reached, message = session:call("status_leader", { timeout_ms = timeout_ms })
  local has_checks, checks = false, nil
  if reached then
    has_checks, checks = session:call("agent_checks", { timeout_ms = timeout_ms })
  end
  local critical, down = {}, {}
  for _, id in ipairs(has_checks and health.sorted(checks) or {}) do
    if checks[id].Status == "critical" then
      table.insert(critical, id)
    end
  end
  for _, id in ipairs(health.sorted(nodes)) do
    if nodes[id].status == "down" then
      table.insert(down, id)
    end
  end
  return {
    unreachable = not reached and message or not status.in_touch and "the node gets no answer" or nil,
    live = #node:get_live_nodes(),
    known = node:get_node_count(),
    down = down,
    leader = node:get_leader_info(),
    state = status.state,
    frozen = status.frozen,
    critical = critical,
    is_polling = status.ready,
    measured = session.health:measured(session.values["monitoring.metrics_interval"]),
    bad_config = session.bad_config,
  }
end

-- The reasons for which a cluster is not well, with a message each, from its node's `seen` state.
function health.causes(values, seen)
  local causes = {}
  local threshold = "monitoring.alert_threshold."
  if seen.unreachable then
    causes.consul_unreachable = seen.unreachable
  else
    if seen.live < values["cluster.min_nodes"] then
      causes.too_few_nodes = ("%d live nodes, and cluster.min_nodes is %d"):format(
        seen.live, values["cluster.min_nodes"])
    end
    if seen.known - seen.live >= values[threshold .. "node_down_count"] then
      causes.nodes_down = table.concat(seen.down, ", ")
    end
    if not seen.leader and seen.state ~= "suspended" then
      causes.no_leader = "nobody leads the cluster"
    end
  end
  if seen.state == "suspended" then
    causes.suspended = "this node leads, and Consul gives no proof that it still may"
  elseif seen.state == "stopped" then
    causes.stopped = "this node takes part in the cluster no more"
  end
  if #seen.frozen > 0 then
    causes.frozen = "the shard map waits for " .. table.concat(seen.frozen, ", ")
  end
  if #seen.critical > 0 then
    causes.critical_check = table.concat(seen.critical, ", ")
  end
  if not seen.is_polling then
    causes.host_not_polling = "other nodes' requests are refused, because the program polls too seldom"
  end
  if values["monitoring.metrics_enabled"] then
    local slowest, most = values[threshold .. "response_time_ms"], values[threshold .. "error_rate_percent"]
    if seen.measured.response_time_ms > slowest then
      causes.slow = ("a call takes %.0f ms, and the threshold is %g ms"):format(
        seen.measured.response_time_ms, slowest)
    end
    if seen.measured.error_rate_percent > most then
      causes.error_rate = ("%.1f %% of the calls failed, and the threshold is %g %%"):format(
        seen.measured.error_rate_percent, most)
    end
  end
  if seen.bad_config then
    causes.configuration = seen.bad_config
  end
  return causes
end

-- Tells what changed since the causes before, once each.
function health:tell(causes, enabled)
  local alerts = {}
  local function compare(state, one, other)
    for _, reason in ipairs(health.sorted(one)) do
      if not other[reason] then
        table.insert(alerts, { state = state, reason = reason, message = one[reason], timestamp = os.time() })
      end
    end
  end
  compare("raised", causes, self.raised)
  compare("cleared", self.raised, causes)
  self.raised = causes
  for _, alert in ipairs(enabled and alerts or {}) do
    table.insert(self.alerts, alert)
  end
  while #self.alerts > MOST_ALERTS do
    table.remove(self.alerts, 1)
  end
  return alerts
end

-- The names in a table, in order.
function health.sorted(by_name)
  local names = {}
  for name in pairs(by_name) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

-- The oldest alert that was not taken; nil when there is none.
function health:next_alert()
  return table.remove(self.alerts, 1)
end

return health
