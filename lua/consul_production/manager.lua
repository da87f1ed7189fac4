-- The manager: a client and a cluster node from one configuration, which may change while they run.
-- docs/production.md has its guarantees.
local consul_ffi = require("consul_native")
local config = require("consul_production.config")
local connection = require("consul_production.connection")
local data = require("consul_production.data")
local health = require("consul_production.health")
local options = require("consul_production.options")
local session = require("consul_production.session")
local sources = require("consul_production.sources")
local as_error = require("consul_ffi.failure")

---@class consul_production.Manager
---@field config consul_production.Config its options, which the program reads and assigns
---@field is_initialized boolean
---@field init fun(self: any): true, { not_in_force: table<string, string> } connects and joins; raises an error
local Manager = {}

---An alert: the health has changed.
---@class consul_production.Alert
---@field state "raised"|"cleared"
---@field reason string
---@field message string
---@field timestamp integer seconds of Unix time

---@class consul_production.Health
---@field timestamp integer seconds of Unix time
---@field is_healthy boolean
---@field issues string[] a message for each reason
---@field reasons table<string, string> the messages by reason
---@field node_count integer
---@field leader_node consul_ffi.ClusterLeader|string "none" if there is none
---@field metrics? table

---@class consul_production.ClusterInfo
---@field node_count integer
---@field leader_node consul_ffi.ClusterLeader|string "none" if there is none
---@field current_node string
---@field is_leader boolean
---@field nodes consul_ffi.ClusterNode[] the nodes, also by id

---@class consul_production.store.options
---@field consistency? "default"|"stale"|"consistent"
---@field replication_factor? integer

---@class consul_production.read.options
---@field consistency? "default"|"stale"|"consistent"

-- Fields of older programs, which are computed at each read.
local fields = {}

function fields.is_initialized(self)
  return rawget(self, "session") ~= nil
end

function fields.cluster(self)
  local now = rawget(self, "session")
  return now and now.node
end

function fields.clients(self)
  local now = rawget(self, "session")
  return { now and now.client }
end

function Manager:__index(name)
  if fields[name] then
    return fields[name](self)
  end
  return Manager[name]
end

local function is_manager(object)
  return getmetatable(object) == Manager
end

-- Returns a manager that is not connected; the program configures it by its field `config`, or by the argument, a
-- table of sections. Raises when that is invalid.
local function new_manager(this, given)
  if given == nil and not is_manager(this) and not (type(this) == "table" and this.ConsulManager) then
    given = this
  end
  if given ~= nil and type(given) ~= "table" then
    error(("consul_production_config: new: the configuration must be a table of sections, got a %s"):format(
      type(given)), 2)
  end
  local sections, view = config.new()
  local assigned, why = config.flatten(given or {}, function(path)
    return "consul_production_config: new: " .. path
  end, {})
  if not assigned then
    error(why, 2)
  end
  for path, value in pairs(assigned) do
    config.set(sections, view, path, value)
  end
  return setmetatable({ config = sections, view = view }, Manager)
end

function Manager:__tostring()
  return ("ConsulManager(%s)"):format(self.session and self.session.values["cluster.node_id"] or "not initialised")
end

-- Returns the manager's session; raises when it is not initialised.
local function opened(self, method)
  if not self.session then
    error(("%s: the manager is not initialised: call init() first"):format(method))
  end
  return self.session
end

-- Returns the manager's session; when it is not initialised, initialises it first, as the older module did.
-- Returns nil, a message and an error table when that fails.
local function opened_by_itself(self, method)
  if not self.session then
    local initialised, why = pcall(self.init, self)
    if not initialised then
      local message = ("%s: %s"):format(method, why)
      return nil, message, as_error({ kind = "not_ready", message = message, retryable = true, maybe_applied = false })
    end
  end
  return opened(self, method)
end

local function check_key(method, key)
  if type(key) ~= "string" or key == "" then
    error(("%s: key must be a non-empty string, got %s"):format(
      method, key == "" and "an empty string" or type(key)))
  end
end

local STORED = { string = true, number = true, boolean = true, table = true }

-- Returns the options of a call; raises when one is unknown or invalid. `known` maps each name to the path
-- of the configuration option with the same type.
local function check_options(method, given, known)
  if given ~= nil and type(given) ~= "table" then
    error(("%s: options must be a table, got a %s"):format(method, type(given)))
  end
  for name, value in pairs(given or {}) do
    if not known[name] then
      error(("%s: unknown option %q; the options are: %s"):format(
        method, tostring(name), table.concat(health.sorted(known), ", ")))
    end
    local why = options.refusal(options.by_path[known[name]], value)
    if why then
      error(("%s: %s %s"):format(method, name, why))
    end
  end
  return given or {}
end

-- Merges all sources. Returns the values by path and the set of configured paths; nil and a message when a
-- source is invalid. `texts` has the texts of the file and of the keys; `new` wins over all sources.
function Manager:_merge_sources(texts, new)
  local of_lua, why = config.assigned(self.config, self.view)
  if not of_lua then
    return nil, why
  end
  for path, value in pairs(new or {}) do
    of_lua[path] = value
  end
  local of_environment, of_keys, of_file
  of_environment, why = sources.environment(os.getenv)
  if not of_environment then
    return nil, why
  end
  local file, prefix = of_lua["sources.file"], of_lua["sources.kv_prefix"]
  of_file = {}
  if file then
    if not texts.file then
      return nil, texts.read_error
    end
    of_file, why = sources.toml(file, texts.file)
  end
  of_keys = {}
  if of_file and prefix and texts.keys then
    of_keys, why = sources.keys(prefix, texts.keys)
  end
  if not of_file or not of_keys then
    return nil, why
  end
  local all, configured = sources.merge(of_lua, of_environment, of_keys, of_file)
  why = sources.contradiction(all)
  if why then
    return nil, why
  end
  return all, configured
end

local function read_file(path, texts)
  if path then
    local why
    texts.file, why = consul_ffi.read_file(path)
    texts.read_error = why and "sources.file: " .. why
  end
end

-- Merges all sources for init: reads the keys in Consul first, when a prefix is configured. Calls `fail`
-- with a message, which must raise, when a source is invalid or cannot be read.
function Manager:_read_sources(texts, fail)
  local values, configured = self:_merge_sources(texts)
  local prefix = values and values["sources.kv_prefix"]
  if prefix then
    local client, why = connection.client(values)
    if not client then
      fail(why)
    end
    local success, entries = client:kv_list(prefix, { timeout_ms = values["consul.timeout"] * 1000 })
    client:close()
    if not success then
      fail(entries)
    end
    texts.keys = session.by_key(entries)
    values, configured = self:_merge_sources(texts)
  end
  if not values then
    fail(configured)
  end
  return values, configured
end

-- Connects and joins the cluster. Returns true and { not_in_force = reasons by option }; raises when the
-- configuration is invalid, no server answers or the node cannot join.
local function init(self)
  if not is_manager(self) then
    error("init: call it with a colon, as in object:init(…)", 2)
  elseif not self.session then
    local function fail(why)
      error("consul_production_config: init: " .. why, 0)
    end
    local of_lua, texts = config.assigned(self.config, self.view), {}
    read_file(of_lua and of_lua["sources.file"], texts)
    local values, configured = self:_read_sources(texts, fail)
    local now, why = session.open(values, configured)
    if not now then
      fail(why)
    end
    self.session, self.texts, self.file_read_at = now, texts, os.time()
    config.show(self.config, self.view, values)
    now.log:write("INFO", ("node %q has joined the cluster"):format(values["cluster.node_id"]))
    now:record("init", nil, "ok")
  end
  return true, { not_in_force = self.session.not_in_force }
end

-- Puts the current options of all sources in force, with `new` above them; nil and a message, with everything
-- unchanged, when that fails.
function Manager:_reload(new)
  local now = self.session
  local applied, why
  local values, configured = self:_merge_sources(self.texts, new)
  if values then
    applied, why = now:apply(values, configured)
  else
    why = configured
  end
  if applied then
    config.show(self.config, self.view, values)
    now.log:write("INFO", "the configuration has changed")
  else
    now.log:write("ERROR", "the configuration is unchanged: " .. why)
  end
  now.bad_config = why
  now:record("reload_config", nil, applied and "ok" or "config")
  return applied, why
end

-- Reloads when a source has changed. Checks the keys at each call, the file once a second.
function Manager:_refresh()
  local now, texts = self.session, self.texts
  local keys, file = texts.keys, texts.file
  texts.keys = now:read_keys(keys)
  local path, second = now.values["sources.file"], os.time()
  if path and second ~= self.file_read_at then
    self.file_read_at = second
    read_file(path, texts)
  end
  if texts.file ~= file or texts.keys ~= keys and not config.equal(texts.keys, keys) then
    self:_reload()
  end
end

---Returns the client, which asks a healthy server first. Initialises the manager if that has not been done.
---@return consul_ffi.ConsulClient? client
---@return string? message
---@return consul_ffi.Error? err
function Manager:get_healthy_client()
  local now, message, err = opened_by_itself(self, "get_healthy_client")
  if not now then
    return nil, message, err
  end
  self:_refresh()
  return now.client
end

---Returns this process's cluster node, for events, calls between nodes and an operator's commands.
---@return consul_ffi.ConsulHACluster node
function Manager:get_node()
  local now = opened(self, "get_node")
  self:_refresh()
  return now.node
end

local STORE_OPTIONS = {
  consistency = "cluster.consistency_mode",
  replication_factor = "cluster.replication_factor",
}

---Stores a value in Consul and, with replicas, on the nodes of its key, whose ids it returns.
---@param key string
---@param value string|number|boolean|table
---@param given? consul_production.store.options
---@return boolean success
---@return { nodes: string[] } stored
---@return consul_ffi.Error? err
function Manager:store_data(key, value, given)
  check_key("store_data", key)
  if not STORED[type(value)] then
    error(("store_data: value must be a string, number, boolean or table, got %s"):format(type(value)))
  end
  given = check_options("store_data", given, STORE_OPTIONS)
  local now, message, err = opened_by_itself(self, "store_data")
  if not now then
    return false, message, err
  end
  self:_refresh()
  return data.store(now, key, value, given)
end

---Deletes a key in Consul, also if there is none, and with replicas on the nodes of the key, whose ids it returns.
---@param key string
---@return boolean success
---@return string|{ nodes: string[] } deleted
---@return consul_ffi.Error? err
function Manager:delete_data(key)
  check_key("delete_data", key)
  local now, message, err = opened_by_itself(self, "delete_data")
  if not now then
    return false, message, err
  end
  self:_refresh()
  return data.delete(now, key)
end

local READ_OPTIONS = { consistency = "cluster.consistency_mode" }

---Returns a key's value, as the type that was stored; nil, a message and an error table when there is no such
---key or the read fails. While Consul is unreachable and with replicas, returns the newest replica of
---`read_quorum` nodes, the ids of the nodes with replicas, and why Consul has not answered.
---@param key string
---@param given? consul_production.read.options
---@return any value
---@return string|{ nodes: string[], without_consul: string }|nil message
---@return consul_ffi.Error? err
function Manager:read_data(key, given)
  check_key("read_data", key)
  given = check_options("read_data", given, READ_OPTIONS)
  local now, message, err = opened_by_itself(self, "read_data")
  if not now then
    return nil, message, err
  end
  self:_refresh()
  return data.read(now, key, given)
end

---Returns the node that owns a key, twice, since older programs take the table from the second place; nil when there
---is none, and before init.
---@param key string
---@return consul_ffi.ClusterNode? node
---@return consul_ffi.ClusterNode? node
function Manager:get_consistent_node(key)
  check_key("get_consistent_node", key)
  if not self.session then
    return nil
  end
  local now = opened(self, "get_consistent_node")
  self:_refresh()
  local _, node = now.node:get_node_for_key(key)
  return node, node
end

-- Returns the leader, which converts to its id as a string; "none" when there is no leader.
local function leader_of(node)
  return node:get_leader_info() or "none"
end

---Returns what the node knows of its cluster; nil before init.
---@return consul_production.ClusterInfo? info
function Manager:get_cluster_info()
  if not self.session then
    return nil
  end
  local now = opened(self, "get_cluster_info")
  self:_refresh()
  local by_id = now.node.cluster_nodes
  local nodes = setmetatable({}, { __index = by_id })
  for i, id in ipairs(health.sorted(by_id)) do
    nodes[i] = by_id[id]
  end
  return {
    node_count = now.node:get_node_count(),
    leader_node = leader_of(now.node),
    current_node = now.values["cluster.node_id"],
    is_leader = now.node:is_leader_node(),
    nodes = nodes,
  }
end

---Checks the health; fails before init.
---@return consul_production.Health|false health
---@return string? message
---@return consul_ffi.Error? err
function Manager:monitor_health()
  if not self.session then
    local message = "monitor_health: the manager is not initialised: call init() first"
    return false, message, as_error({ kind = "not_ready", message = message, retryable = true, maybe_applied = false })
  end
  local now = opened(self, "monitor_health")
  self:_refresh()
  now.checked = now.now()
  local seen = health.observe(now)
  local reasons = health.reasons(now.values, seen)
  for _, alert in ipairs(now.health:update(reasons, now.values["monitoring.alert_enabled"])) do
    local level = alert.state == "raised" and "WARN" or "INFO"
    now.log:write(level, ("health: %s %s: %s"):format(alert.state, alert.reason, alert.message))
  end
  local issues = {}
  for i, reason in ipairs(health.sorted(reasons)) do
    issues[i] = ("%s: %s"):format(reason, reasons[reason])
  end
  return {
    timestamp = os.time(),
    is_healthy = #issues == 0,
    issues = issues,
    reasons = reasons,
    node_count = seen.known,
    leader_node = leader_of(now.node),
    metrics = now.values["monitoring.metrics_enabled"] and seen.measured or nil,
  }
end

---Takes the oldest alert from the queue; nil when it is empty.
---@return consul_production.Alert? alert
function Manager:next_alert()
  return opened(self, "next_alert").health:next_alert()
end

-- Calls the program's function with the alerts of the queue, also of earlier checks. It may do anything with the
-- manager; what it raises is logged once.
local function tell_alerts(now)
  local on_alert = now.values["monitoring.on_alert"]
  if not on_alert or now.is_telling then
    return
  end
  now.is_telling = true
  for _ = 1, #now.health.alerts do
    local alert = now.health:next_alert()
    local called, why = true, nil
    if alert then
      called, why = consul_ffi._internal.call(on_alert, alert)
    end
    if not called and now.failed ~= on_alert then
      now.failed = on_alert
      now.log:write("ERROR", "monitoring.on_alert raised an error: " .. why)
    end
  end
  now.is_telling = false
end

---Serves other nodes' requests, applies a changed configuration, checks the health when it is due, and tells alerts.
---Returns the number of requests served; false when the node is no longer a member.
---@param timeout_ms? number
---@param most? integer
---@return integer|false served
function Manager:poll(timeout_ms, most)
  local now = opened(self, "poll")
  self:_refresh()
  local served = now.node:poll(timeout_ms, most)
  if now.now() - now.checked >= now.values["consul.health_check_interval"] then
    self:monitor_health()
  end
  tell_alerts(now)
  return served
end

---Puts new options in force above the assigned ones; without them reads all sources again. Fails, with everything
---unchanged, when they are invalid.
---@param new? consul_production.Config
---@return boolean success
---@return string|{ not_in_force: table<string, string> } message
function Manager:reload_config(new)
  local now = opened(self, "reload_config")
  if new ~= nil and type(new) ~= "table" then
    error(("reload_config: new must be a table of sections, got %s"):format(type(new)))
  end
  local assigned, why = config.flatten(new or {}, function(path)
    return "reload_config: " .. path
  end, {})
  if not assigned then
    now:record("reload_config", nil, "config")
    return false, why
  end
  self.texts.keys = now:read_keys(self.texts.keys)
  read_file(assigned["sources.file"] or now.values["sources.file"], self.texts)
  local applied
  applied, why = self:_reload(assigned)
  if not applied then
    return false, why
  end
  for path, value in pairs(assigned) do
    config.set(self.config, self.view, path, value)
  end
  return true, { not_in_force = now.not_in_force }
end

---Leaves the cluster gracefully and closes everything. May be called again; init() may follow.
---@return true success
function Manager:cleanup()
  if self.session then
    self.session:close()
    self.session = nil
  end
  return true
end

consul_ffi._internal.raise_at_caller(Manager, "consul_production/[%w_]+", is_manager)

-- The first is not called on a manager, and the errors of the second say where they come from.
Manager.new, Manager.init = new_manager, init

return Manager
