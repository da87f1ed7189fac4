-- The state of a manager between init and cleanup, made from one set of option values: client, node, logs
-- and health.
local older = require("consul_native")._internal
local config = require("consul_production.config")
local connection = require("consul_production.connection")
local health = require("consul_production.health")
local log = require("consul_production.log")
local replicas = require("consul_production.replicas")

local session = {}
session.__index = session

local MB = 1024 * 1024

-- Kinds of errors with which a healthy Consul answers.
local ANSWERS = { argument = true, conflict = true, not_found = true, permission_denied = true }

local function close(...)
  for i = 1, select("#", ...) do
    local opened = select(i, ...)
    if opened then
      opened:close()
    end
  end
end

-- Opens the log and, if enabled, the audit log; nil and a message when one cannot be opened.
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

-- Returns a client that has reached a server, and a node that is not started; nil and a message.
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

-- A longer timeout is more likely one in milliseconds than one in seconds.
local LONGEST_LIKELY_TIMEOUT_S = 600

-- Puts values and the logs opened for them in force.
function session:_use(logs, values, configured)
  close(self.log, self.audit)
  self.log, self.audit = logs.log, logs.audit
  self.values, self.not_in_force = values, connection.not_in_force(values, configured)
  self.now = connection.clock(values)
  self.health.now = self.now
  for _, path in ipairs(health.sorted(self.not_in_force)) do
    self.log:write("WARN", ("%s is not in force: %s"):format(path, self.not_in_force[path]))
  end
  local timeout = values["consul.timeout"]
  if timeout > LONGEST_LIKELY_TIMEOUT_S then
    self.log:write("WARN", ("consul.timeout is %g seconds, the limit of a call; if milliseconds are meant: %g"):format(
      timeout, timeout / 1000))
  end
end

-- Returns the sets of ids of services and checks that the program has registered by the client, and by those that
-- it replaced.
function session:registered()
  for kind, ids in pairs(self.client:registered()) do
    for _, id in ipairs(ids) do
      self.ids[kind][id] = true
    end
  end
  return self.ids
end

function session:_connect(client, node)
  if self.client then
    self:registered()
  end
  close(self.watch, self.client, self.node)
  self.client, self.node, self.watch, self.stores = client, node, nil, {}
end

-- Puts values and logs in force, takes part in replicas, and starts or stops the watch of the configuration's keys, as
-- the values require; nil and a message, with the previous values still in force, when that is not possible.
function session:_adopt(logs, values, configured)
  local store, why
  if connection.has_replicas(values) then
    local name = replicas.name(values)
    store, why = self.stores[name], nil
    if not store then
      store, why = replicas.open(self.client, self.node, values)
      self.stores[name] = store
    end
    if not store then
      return nil, why
    end
  end
  self.replicas = store
  self:_use(logs, values, configured)
  local prefix = self.values["sources.kv_prefix"]
  if self.watch and prefix ~= self.watched then
    close(self.watch)
    self.watch = nil
  end
  if prefix and not self.watch then
    self.watch, self.watched = self.client:watch("kv_list", prefix), prefix
  end
  return true
end

-- Opens logs, client and node and joins the cluster; nil and a message, with everything closed again, when
-- that fails. `configured` is the set of paths that a source has configured.
function session.open(values, configured)
  local logs, why = open_logs(values)
  if not logs then
    return nil, why
  end
  local client, node = open_connection(values)
  local started = false
  if client then
    started, why = node:start()
    -- Another program of this host has the default name.
    if not started and why:find(" is taken: ", 1, true) and not configured["cluster.node_id"]
      and not connection.has_replicas(values) then
      node:close()
      values["cluster.node_id"] = values["cluster.node_id"] .. "-" .. older.node_id():match("%x+$")
      logs.log:write("WARN", ("%s; this node is %q until it stops"):format(why, values["cluster.node_id"]))
      node = connection.node(values)
      started, why = node:start()
    end
  else
    why = node
  end
  if not started then
    close(client and node, client, logs.audit, logs.log)
    return nil, why
  end
  local self = setmetatable({ health = health.new(), ids = { services = {}, checks = {} } }, session)
  self:_connect(client, node)
  local adopted
  adopted, why = self:_adopt(logs, values, configured)
  if not adopted then
    close(node, client, logs.audit, logs.log)
    return nil, why
  end
  self.checked = self.now()
  return self
end

-- Puts other values in force; nil and a message, with the previous ones still in force, when that fails.
function session:apply(values, configured)
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
    -- The old node stops first, because two live nodes cannot have the same name.
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
  local adopted
  adopted, why = self:_adopt(logs, values, configured)
  if not adopted then
    close(logs.audit, logs.log)
  end
  return adopted, why
end

-- Returns the configuration's keys, texts by key: `keys` with the changes that the watch has seen.
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
      self.log:write("WARN", "the configuration's keys are gone after an outage; their last values stay in force")
    else
      keys = session.by_key(change.value)
    end
  end
  return keys
end

-- Converts entries of kv_list to texts by key.
function session.by_key(entries)
  local texts = {}
  for _, entry in ipairs(entries) do
    texts[entry.Key] = entry.Value
  end
  return texts
end

-- Calls a method of the client, and counts the call for the health.
function session:call(method, ...)
  local success, response, extra = self.client[method](self.client, ...)
  self.health:count(success or ANSWERS[extra.kind], success and extra.request_ms or nil)
  return success, response, extra
end

-- Writes a line to the audit log: node, operation, key and result, but no values and no tokens.
function session:record(operation, key, result)
  if self.audit then
    self.audit:line(("who=%s operation=%s%s result=%s"):format(
      self.values["cluster.node_id"], operation, key and (" key=%q"):format(key) or "", result))
  end
end

-- Leaves the cluster gracefully and closes everything.
function session:close()
  local stopped, message = self.node:stop()
  if not stopped then
    self.log:write("WARN", message)
  end
  self:record("cleanup", nil, stopped and "ok" or "left")
  close(self.watch, self.node, self.client, self.audit, self.log)
end

return session
