-- The manager: a client and a cluster's node by one configuration, kept as the configuration says while it
-- changes. docs/production.md says what is promised.
local config = require("consul_production.config")
local connection = require("consul_production.connection")
local data = require("consul_production.data")
local health = require("consul_production.health")
local options = require("consul_production.options")
local session = require("consul_production.session")
local sources = require("consul_production.sources")

local Manager = {}
Manager.__index = Manager

-- A manager that is not connected, with a table `config` to configure it by.
function Manager.new()
  local sections, view = config.new()
  return setmetatable({ config = sections, view = view }, Manager)
end

function Manager:__tostring()
  return ("ConsulManager(%s)"):format(self.session and self.session.values["cluster.node_id"] or "not initialised")
end

-- What it has between init and cleanup; raises, at the caller of `method`, when it has nothing.
local function opened(self, method)
  if getmetatable(self) ~= Manager then
    error(("%s: call it with a colon"):format(method), 3)
  elseif not self.session then
    error(("%s: the manager is not initialised; call init() first"):format(method), 3)
  end
  return self.session
end

local function check_key(method, key)
  if type(key) ~= "string" or key == "" then
    error(("%s: key must be a non-empty string, got %s"):format(
      method, key == "" and "an empty one" or type(key)), 3)
  end
end

local STORED = { string = true, number = true, boolean = true, table = true }

-- The options of a call; raises when one is unknown or not acceptable. `known` has the option of the
-- configuration that takes the same, by name.
local function check_options(method, given, known)
  for name, value in pairs(given or {}) do
    if not known[name] then
      error(("%s: unknown option %q; known are %s"):format(
        method, tostring(name), table.concat(health.sorted(known), ", ")), 3)
    end
    local why = options.refusal(options.by_path[known[name]], value)
    if why then
      error(("%s: %s %s"):format(method, name, why), 3)
    end
  end
  return given or {}
end

-- What all sources say together, by path, and what was said at all; nil and why. `texts` are those of the
-- file and of the keys, `new` is said above all else.
function Manager:_gather(texts, new)
  local of_lua, why = config.said(self.config, self.view)
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
      return nil, texts.trouble
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
  local all, said = sources.merge(of_lua, of_environment, of_keys, of_file)
  why = sources.contradiction(all)
  if why then
    return nil, why
  end
  return all, said
end

local function read_file(path, texts)
  if path then
    texts.file, texts.trouble = sources.text(path)
  end
end

-- The same when the keys are to be read first; raises.
function Manager:_gather_all(texts, refuse)
  local values, said = self:_gather(texts)
  local prefix = values and values["sources.kv_prefix"]
  if prefix then
    local client, why = connection.client(values)
    if not client then
      refuse(why)
    end
    local success, entries = client:kv_list(prefix, { timeout_ms = values["consul.timeout"] * 1000 })
    client:close()
    if not success then
      refuse(entries)
    end
    texts.keys = session.by_key(entries)
    values, said = self:_gather(texts)
  end
  if not values then
    refuse(said)
  end
  return values, said
end

-- Connects, and takes part in the cluster. Gives true and { not_in_force = why by option }; raises when the
-- configuration is not acceptable, no server can be reached or the node cannot take part.
function Manager:init()
  if getmetatable(self) ~= Manager then
    error("init: call it with a colon", 2)
  elseif not self.session then
    local function refuse(why)
      error("consul_production_config: init: " .. why, 0)
    end
    local of_lua, texts = config.said(self.config, self.view), {}
    read_file(of_lua and of_lua["sources.file"], texts)
    local values, said = self:_gather_all(texts, refuse)
    local made, why = session.open(values, said)
    if not made then
      refuse(why)
    end
    self.session, self.texts, self.looked = made, texts, os.time()
    config.show(self.view, values)
    made.log:write("INFO", ("node %q takes part in the cluster"):format(values["cluster.node_id"]))
    made:record("init", nil, "ok")
  end
  return true, { not_in_force = self.session.not_in_force }
end

-- Has what the sources say now in force, `new` above all else; nil and why, with everything as before, when
-- that is not possible.
function Manager:_reload(new)
  local now = self.session
  local applied, why
  local values, said = self:_gather(self.texts, new)
  if values then
    applied, why = now:apply(values, said)
  else
    why = said
  end
  if applied then
    config.show(self.view, values)
    now.log:write("INFO", "the configuration was changed")
  else
    now.log:write("ERROR", "the configuration stays as it was: " .. why)
  end
  now.bad_config = why
  now:record("reload_config", nil, applied and "ok" or "config")
  return applied, why
end

-- Looks whether the sources have changed: the keys at each call, the file once a second.
function Manager:_refresh()
  local now, texts = self.session, self.texts
  local keys, file = texts.keys, texts.file
  texts.keys = now:read_keys(keys)
  local path, second = now.values["sources.file"], os.time()
  if path and second ~= self.looked then
    self.looked = second
    read_file(path, texts)
  end
  if texts.file ~= file or texts.keys ~= keys and not config.equal(texts.keys, keys) then
    self:_reload()
  end
end

-- The client, which asks the healthy one of its servers first.
function Manager:get_healthy_client()
  local now = opened(self, "get_healthy_client")
  self:_refresh()
  return now.client
end

-- This process's node of the cluster: its events, calls between nodes, what an operator asks of it.
function Manager:get_node()
  local now = opened(self, "get_node")
  self:_refresh()
  return now.node
end

local STORE_OPTIONS = {
  consistency = "cluster.consistency_mode",
  replication_factor = "cluster.replication_factor",
}

-- Stores a value in Consul and, when there are replicas, on the nodes of its key. Gives true and
-- { acknowledged, missing }, ids of nodes; false, a message and an error table.
function Manager:store_data(key, value, given)
  local now = opened(self, "store_data")
  check_key("store_data", key)
  if not STORED[type(value)] then
    error(("store_data: value must be a string, number, boolean or table, got %s"):format(type(value)), 2)
  end
  given = check_options("store_data", given, STORE_OPTIONS)
  self:_refresh()
  return data.store(now, key, value, given)
end

local READ_OPTIONS = { consistency = "cluster.consistency_mode" }

-- What a key has: a table for what was stored as one; nil, a message and an error table when there is no such
-- key or it cannot be read. When Consul cannot be asked and there are replicas, the newest copy of
-- `read_quorum` nodes, and { complete, answered, missing }.
function Manager:read_data(key, given)
  local now = opened(self, "read_data")
  check_key("read_data", key)
  given = check_options("read_data", given, READ_OPTIONS)
  self:_refresh()
  return data.read(now, key, given)
end

-- The node that a key belongs to, with `id` and `address`; nil when there is none.
function Manager:get_consistent_node(key)
  local now = opened(self, "get_consistent_node")
  check_key("get_consistent_node", key)
  self:_refresh()
  return (select(2, now.node:get_node_for_key(key)))
end

-- Who leads; in text the leader's id, and "none" when nobody does.
local function leader_of(node)
  return node:get_leader_info() or "none"
end

function Manager:get_cluster_info()
  local now = opened(self, "get_cluster_info")
  self:_refresh()
  local nodes, by_id = {}, now.node.cluster_nodes
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

-- What is wrong: { timestamp, is_healthy, issues, reasons, node_count, leader_node, metrics }. `issues` are
-- strings, `reasons` the same by reason.
function Manager:monitor_health()
  local now = opened(self, "monitor_health")
  self:_refresh()
  now.checked = now.now()
  local seen = health.look(now)
  local causes = health.causes(now.values, seen)
  for _, change in ipairs(now.health:tell(causes, now.values["monitoring.alert_enabled"])) do
    local level = change.state == "raised" and "WARN" or "INFO"
    now.log:write(level, ("health: %s %s: %s"):format(change.state, change.reason, change.message))
  end
  local issues = {}
  for i, reason in ipairs(health.sorted(causes)) do
    issues[i] = ("%s: %s"):format(reason, causes[reason])
  end
  return {
    timestamp = os.time(),
    is_healthy = #issues == 0,
    issues = issues,
    reasons = causes,
    node_count = seen.known,
    leader_node = leader_of(now.node),
    metrics = now.values["monitoring.metrics_enabled"] and seen.measured or nil,
  }
end

-- The oldest alert that was not taken, { state, reason, message, timestamp }; nil when there is none.
function Manager:next_alert()
  return opened(self, "next_alert").health:next_alert()
end

-- Serves other nodes' requests, applies what has changed, and looks at the health when it is time. Gives
-- the number of requests that were served; false and a message when the node takes part no more.
function Manager:poll(timeout_ms, most)
  local now = opened(self, "poll")
  self:_refresh()
  local served = now.node:poll(timeout_ms, most)
  if now.now() - now.checked >= now.values["consul.health_check_interval"] then
    self:monitor_health()
  end
  return served
end

-- Has new options in force, a table of sections over what the program said before; without it all sources are
-- read again. false and why, with everything as before, when they are not acceptable.
function Manager:reload_config(new)
  local now = opened(self, "reload_config")
  if new ~= nil and type(new) ~= "table" then
    error(("reload_config: new must be a table of sections, got %s"):format(type(new)), 2)
  end
  local said, why = config.flatten(new or {}, function(path)
    return "reload_config: " .. path
  end, {})
  if not said then
    now:record("reload_config", nil, "config")
    return false, why
  end
  self.texts.keys = now:read_keys(self.texts.keys)
  read_file(said["sources.file"] or now.values["sources.file"], self.texts)
  local applied
  applied, why = self:_reload(said)
  if not applied then
    return false, why
  end
  for path, value in pairs(said) do
    config.set(self.config, path, value)
  end
  return true, { not_in_force = now.not_in_force }
end

-- Leaves the cluster in order and closes everything. It may be called again, and followed by init.
function Manager:cleanup()
  if self.session then
    self.session:close()
    self.session = nil
  end
  return true
end

return Manager
