-- What a manager has between init and cleanup: client, node, logs, health, by one set of values.
local config = require("consul_production.config")
local connection = require("consul_production.connection")
local health = require("consul_production.health")
local log = require("consul_production.log")
local replicas = require("consul_production.replicas")

local session = {}
session.__index = session

local MB = 1024 * 1024

-- Kinds of errors that say nothing about Consul's health.
local ANSWERS = { argument = true, conflict = true, not_found = true, permission_denied = true }

local function close(...)
  for i = 1, select("#", ...) do
    local opened = select(i, ...)
    if opened then
      opened:close()
    end
  end
end

-- The log and the audit log; nil and why.
local function open_logs(values)
  local function open(path, level)
    return log.open({
      path = path,
      level = level,
      max_bytes = values["monitoring.log_max_size"] * MB,
      max_backups = values["monitoring.log_max_backups"],
      max_age_days = values["monitoring.log_max_age"],
    })
  end
  local logging, why = open(values["monitoring.log_file"], values["monitoring.log_level"])
  if not logging then
    return nil, "monitoring.log_file: " .. why
  end
  local audit
  if values["security.audit_enabled"] then
    audit, why = open(values["security.audit_log_file"])
    if not audit then
      close(logging)
      return nil, "security.audit_log_file: " .. why
    end
  end
  return { log = logging, audit = audit }
end

-- A client that has a server, and a node that is not started; nil and why.
local function open_connection(values)
  local client, why = connection.client(values)
  if not client then
    return nil, why
  end
  local node
  node, why = connection.node(values)
  if not node then
    close(client)
    return nil, why
  end
  return client, node
end

-- Takes over what was opened by values.
function session:_use(logs, values, said)
  close(self.log, self.audit)
  self.log, self.audit = logs.log, logs.audit
  self.values, self.not_in_force = values, connection.not_in_force(values, said)
  self.now = connection.clock(values)
  self.health.now = self.now
  for _, path in ipairs(health.sorted(self.not_in_force)) do
    if said[path] then
      self.log:write("WARN", ("%s is not in force: %s"):format(path, self.not_in_force[path]))
    end
  end
end

function session:_connect(client, node)
  close(self.watch, self.client, self.node)
  self.client, self.node, self.watch = client, node, nil
end

-- Answers other nodes, when there are replicas, and watches the configuration's keys, when there are any.
function session:_attend()
  if connection.has_replicas(self.values) then
    self.replicas = self.replicas or replicas.new()
    self.replicas:serve(self.node)
  elseif self.replicas then
    replicas.withdraw(self.node)
    self.replicas = nil
  end
  local prefix = self.values["sources.kv_prefix"]
  if self.watch and prefix ~= self.watched then
    close(self.watch)
    self.watch = nil
  end
  if prefix and not self.watch then
    self.watch, self.watched = self.client:watch("kv_list", prefix), prefix
  end
end

-- Opens all that values need, and takes part in the cluster; nil and why, with nothing left open, when that
-- is not possible. `said` has the paths that somebody said.
function session.open(values, said)
  local logs, why = open_logs(values)
  if not logs then
    return nil, why
  end
  local client, node = open_connection(values)
  local started = false
  if client then
    started, why = node:start()
  else
    why = node
  end
  if not started then
    close(client and node, client, logs.audit, logs.log)
    return nil, why
  end
  local self = setmetatable({ health = health.new() }, session)
  self:_use(logs, values, said)
  self:_connect(client, node)
  self:_attend()
  self.checked = self.now()
  return self
end

-- Has other values in force; nil and why, with those before still in force, when that is not possible.
function session:apply(values, said)
  local logs, why = open_logs(values)
  if not logs then
    return nil, why
  end
  if connection.differs(self.values, values) then
    local client, node = open_connection(values)
    if not client then
      close(logs.audit, logs.log)
      return nil, node
    end
    -- First, because two nodes of one name would refuse each other.
    self.node:stop()
    local started
    started, why = node:start()
    if not started then
      close(node, client, logs.audit, logs.log)
      self.node:start()
      return nil, why
    end
    self:_connect(client, node)
  end
  self:_use(logs, values, said)
  self:_attend()
  return true
end

-- What the watch of the configuration's keys saw, taken into `keys`, texts by key; gives those of now.
function session:read_keys(keys)
  while self.watch do
    local success, change = self.watch:poll()
    if not success or not change then
      break
    elseif change.type == "put" or change.type == "delete" then
      keys = config.copy(keys or {})
      keys[change.id] = change.type == "put" and change.value.Value or nil
    elseif change.type == "resynchronised" and #change.value == 0 and keys and next(keys) then
      -- Consul may have lost its data.
      self.log:write("WARN", "the configuration's keys are gone after an outage; what they said stays")
    else
      keys = session.by_key(change.value)
    end
  end
  return keys
end

-- Entries of Consul as texts by key.
function session.by_key(entries)
  local texts = {}
  for _, entry in ipairs(entries) do
    texts[entry.Key] = entry.Value
  end
  return texts
end

-- Makes a call of the client, and counts it.
function session:call(method, ...)
  local success, response, extra = self.client[method](self.client, ...)
  self.health:count(success or ANSWERS[extra.kind], success and extra.request_ms or nil)
  return success, response, extra
end

-- Writes down who did what with which key, and how it ended; never values or tokens.
function session:record(operation, key, result)
  if self.audit then
    self.audit:line(("who=%s operation=%s%s result=%s"):format(
      self.values["cluster.node_id"], operation, key and (" key=%q"):format(key) or "", result))
  end
end

-- Leaves the cluster in order, and closes everything.
function session:close()
  local stopped, message = self.node:stop()
  if not stopped then
    self.log:write("WARN", message)
  end
  self:record("cleanup", nil, stopped and "ok" or "left")
  close(self.watch, self.node, self.client, self.audit, self.log)
end

return session
