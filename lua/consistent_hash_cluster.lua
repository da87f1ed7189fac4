-- The API of the older module: a node that routes requests to the node with a key's shard, and queries
-- other nodes. docs/data.md shows how an engine uses it.
local consul_ffi = require("consul_native")
local advise = require("consistent_hash_cluster.advice")
local as_error = require("consul_ffi.failure")

local older = consul_ffi._internal

-- The `capacity` of a node with weight 1.
local CAPACITY = 1000

-- A start waits for the first shard map, which the leader writes right after its election: up to
-- MAP_POLLS times this pause.
local MAP_POLLS, PAUSE_MS = 40, 50

---A node that routes requests to the node with a key's shard.
---@class consistent_hash_cluster.HighAvailabilityCluster
---@field node consul_ffi.ConsulHACluster the node that it uses
---@field node_id string
---@field config consistent_hash_cluster.Config
---@field total_shards integer
---@field is_leader boolean
---@field is_running boolean
---@field local_node consistent_hash_cluster.LocalNode
---@field data_shards table<integer, consul_ffi.ShardReplica[]> the replicas of each shard by its number, from 0
---@field metadata { version: integer, total_shards: integer, nodes_count: integer }
---@field hash_ring consul_ffi.ConsistentHashRing a ring of the live nodes; requests are routed by the shard map
---@field new fun(this: any, config?: consistent_hash_cluster.Config): consistent_hash_cluster.HighAvailabilityCluster
---@field rebalance_shards fun(self: any): boolean, { received: integer }|string, consul_ffi.Error?
---@field poll fun(self: any, timeout_ms?: number, max?: integer): integer|false
---@field run fun(self: any): boolean, string?, consul_ffi.Error?
---@field fd fun(self: any): integer|false, string?, consul_ffi.Error?
local HighAvailabilityCluster = {}

---Options of a node. Others are ignored, with a warning if they look like ours.
---@class consistent_hash_cluster.Config
---@field node_id? string default: a random one
---@field host? string default 127.0.0.1
---@field port? integer|string the program's port
---@field data_port? integer|string the port for calls between nodes; default: any free one
---@field cluster_name? string default "cluster"
---@field consul_endpoints? string|string[]
---@field simulate? boolean|string
---@field replication_factor? integer
---@field capacity? number 1000 is the weight 1
---@field virtual_nodes_per_physical? integer
---@field time_partition_s? number
---@field receive_shard? fun(shard: integer, source: string): boolean, string?
---@field cluster_key? string|string[]
---@field data_tls? table
---@field encrypt_traffic? boolean
---@field cluster_options? consul_ffi.ClusterConfig options of the node that it uses
---@field [string] any

---@class consistent_hash_cluster.LocalNode
---@field id string
---@field host string
---@field port integer|string
---@field cluster_port? integer|string
---@field status string
---@field last_heartbeat integer
---@field role string
---@field shards integer[]
---@field load integer
---@field capacity number

---@class consistent_hash_cluster.Node: consul_ffi.ClusterNode
---@field host? string
---@field port? integer
---@field last_heartbeat integer
---@field status string

---@class consistent_hash_cluster.Stats
---@field node_id string
---@field state string
---@field is_leader boolean
---@field is_running boolean
---@field nodes_count integer
---@field active_nodes integer
---@field total_shards integer
---@field local_shards integer
---@field map_version integer
---@field served integer
---@field forwarded integer
---@field failed integer

-- Fields that are computed at each read.
local fields = {}

local function is_node(object)
  return type(object) == "table" and rawget(object, "counts") ~= nil
end

local function is_port(value)
  local port = tonumber(value)
  return port and port >= 0 and port <= 65535 and port % 1 == 0
end

local function is_positive(value)
  return type(value) == "number" and value > 0 and value < math.huge
end

local function has_type(wanted)
  return function(value)
    return type(value) == wanted
  end
end

-- The types of the options that are used here; others are checked at their use.
local KINDS = {
  capacity = { "a number", tonumber },
  cluster_name = { "a string", has_type("string") },
  cluster_options = { "a table", has_type("table") },
  data_port = { "a port, an integer from 0 to 65535", is_port },
  host = { "a string", has_type("string") },
  port = { "a port, an integer from 0 to 65535", is_port },
  receive_shard = { "a function", has_type("function") },
  time_partition_s = { "a positive number of seconds", is_positive },
}

local function check(config)
  for name, kind in pairs(KINDS) do
    local value = config[name]
    if value ~= nil and not kind[2](value) then
      local shown = type(value) == "string" and ("a string %q"):format(value) or tostring(value)
      error(("%s must be %s, got %s"):format(name, kind[1], shown), 0)
    end
  end
end

-- The options of the ConsulHACluster that the node wraps.
local function options_of(config)
  local host = config.host or "127.0.0.1"
  host = host:find(":", 1, true) and not host:find("[", 1, true) and "[" .. host .. "]" or host
  local options = {
    node_id = config.node_id,
    node_address = config.port and host .. ":" .. config.port or false,
    nodes_prefix = "tsdb/" .. (config.cluster_name or "cluster") .. "/nodes/",
    consul_endpoints = config.consul_endpoints,
    simulate = config.simulate,
    replicas = config.replication_factor,
    weight = config.capacity and config.capacity / CAPACITY,
    -- The nodes of a simulated cluster are in this process, so their configured hosts do not matter.
    data_address = (config.simulate and "127.0.0.1" or host) .. ":" .. (config.data_port or 0),
    hand_off = config.receive_shard ~= nil,
    -- Ignored, they would leave the calls between nodes unprotected.
    cluster_key = config.cluster_key,
    data_tls = config.data_tls,
    encrypt_traffic = config.encrypt_traffic,
  }
  for name, value in pairs(config.cluster_options or {}) do
    options[name] = value
  end
  return options
end

local ENDPOINTS = { "consul_endpoints", "consul_url", "endpoint", "endpoints", "simulate" }

-- Whether no Consul is named: the node is then a cluster of its own.
local function is_alone(options)
  for _, name in ipairs(ENDPOINTS) do
    if options[name] then
      return false
    end
  end
  return (os.getenv("CONSUL_HTTP_ADDR") or "") == ""
end

-- The replicas of a shard as text: the id of the first, which alone an older program knew.
local Replicas = older.of_text(function(replicas)
  return tostring(replicas[1])
end)

-- The table of a node with the fields of the older module.
local function as_before(node)
  local host, port = node.address:match("^(.*):(%d+)$")
  node.host, node.port = host, tonumber(port)
  node.status = node.status == "up" and "running" or node.status
  node.last_heartbeat = os.time()
  return node
end

-- Creates the ConsulHACluster. Returns it, its options, what is to be warned of, if anything, and whether the node
-- is alone, and has a default as its name.
local function create(config)
  check(config)
  local options, warning, unnamed = options_of(config), nil, false
  if options.node_id == nil then
    options.node_id, unnamed = older.node_id(options.hand_off and "receive_shard"), true
    warning = ("node_id is not given: until it stops the node is %q"):format(options.node_id)
  end
  local alone = is_alone(options)
  if alone then
    options.simulate, options.data_address = "alone " .. older.node_id(), "127.0.0.1:0"
    warning = (warning and warning .. "; " or "")
      .. ("consul_endpoints is not given: the node %q is alone and joins no cluster"):format(options.node_id)
  end
  -- Refuses a number of points here, and not when the ring is read.
  consul_ffi.ConsistentHashRing.new(config.virtual_nodes_per_physical)
  return consul_ffi.ConsulHACluster:new(options), options, warning, alone, unnamed
end

-- A node that is not started; sends nothing. Ignores options that are unknown here, with a warning if they look
-- like ours: an engine passes its own configuration.
local function new(this, config)
  config = config or this ~= HighAvailabilityCluster and this or {}
  if type(config) ~= "table" then
    error(("HighAvailabilityCluster: the configuration must be a table, got a %s"):format(type(config)), 2)
  end
  local made, node, options, warning, alone, unnamed = pcall(create, config)
  if not made then
    local why = node:gsub("^[^\n]-consistent_hash_cluster%.lua:%d+: ", ""):gsub("^ConsulHACluster: ", "")
    error("HighAvailabilityCluster: " .. why, 2)
  end
  if warning then
    older.warn("HighAvailabilityCluster: " .. warning)
  end
  advise(config)
  return setmetatable({
    node = node,
    config = config,
    node_id = options.node_id,
    total_shards = options.shards or 1024,
    counts = { served = 0, forwarded = 0, failed = 0 },
    -- The names of requests that have a handler; the data that a node which is alone keeps.
    handled = {},
    kept = alone and {} or nil,
    is_unnamed = unnamed,
  }, {
    __index = function(self, name)
      local field = fields[name]
      if field then
        return field(self)
      end
      return HighAvailabilityCluster[name]
    end,
  })
end

function fields.is_leader(self)
  return self.node:is_leader_node()
end

-- Whether the node has joined its cluster; else also why not. The answer while it joins can change by itself.
local function has_joined(self)
  if not rawget(self, "joined") then
    local state = self.node:status().state
    self.joined = state ~= "joining" and state ~= "stopped"
    if not self.joined then
      return false, "the node has not joined its cluster: " .. (rawget(self, "failure") or "it was not started")
    end
  end
  return true
end

-- The results of a call that the node cannot make.
local function not_ready(message)
  return false, message, as_error({ kind = "not_ready", message = message, retryable = true, maybe_applied = false })
end

function fields.is_running(self)
  return rawget(self, "serves") == true and has_joined(self) and self.node:status().state ~= "stopped"
end

function fields.local_node(self)
  local config, shards = self.config, self.node:get_shards()
  local role, status = config.role, rawget(self, "serves") == false and "stopped" or "starting"
  if self.is_leader then
    role = "leader"
  elseif not role or role == "leader" then
    role = "follower"
  end
  return {
    id = self.node_id,
    host = config.host or "127.0.0.1",
    port = config.port or 0,
    cluster_port = config.cluster_port,
    status = self.is_running and "running" or status,
    last_heartbeat = os.time(),
    role = role,
    shards = shards,
    load = #shards,
    capacity = config.capacity or CAPACITY,
  }
end

-- The replicas of each shard by its number, from 0.
function fields.data_shards(self)
  local epoch = self.node:status().map_epoch
  if rawget(self, "shards_epoch") ~= epoch or not epoch then
    local shards = {}
    for shard = 0, self.total_shards - 1 do
      shards[shard] = epoch and setmetatable(self.node:get_shard_replicas(shard), Replicas) or nil
    end
    self.shards_epoch, self.cached_shards = epoch, shards
  end
  return self.cached_shards
end

function fields.metadata(self)
  return {
    version = self.node:status().map_epoch or 0,
    total_shards = self.total_shards,
    nodes_count = self.node:get_node_count(),
  }
end

-- A ring of the live nodes. It is informational: requests are routed by the shard map.
function fields.hash_ring(self)
  local ring = consul_ffi.ConsistentHashRing:new(self.config.virtual_nodes_per_physical)
  for _, node in ipairs(self.node:get_live_nodes()) do
    ring:add_node(node.id, { address = node.address })
  end
  return ring
end

---Joins the cluster; does nothing when it is a member already. When no Consul answers it fails, and the node
---joins by itself when one does.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function HighAvailabilityCluster:initialize()
  if has_joined(self) then
    return true
  elseif self.node:status().state == "joining" then
    return not_ready(select(2, has_joined(self)))
  end
  local joined, message, err = self.node:start({ keep_joining = true })
  if not joined then
    self.failure = message
    older.warn("HighAvailabilityCluster: " .. message)
    return false, message, err
  end
  self.failure = nil
  for _ = 1, MAP_POLLS do
    if self.node:status().map_epoch then
      break
    end
    self.node:next_event(PAUSE_MS)
  end
  return true
end

---Joins the cluster and serves requests; fails with `conflict` if it is running.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function HighAvailabilityCluster:start()
  if self.is_running then
    local message = "the node is running already"
    return false, message, as_error({ kind = "conflict", message = message, retryable = false, maybe_applied = false })
  end
  self.serves = true
  return self:initialize()
end

---Leaves the cluster; it can be started again.
---@return boolean? success
---@return string? message
---@return consul_ffi.Error? err
function HighAvailabilityCluster:stop()
  local joined = has_joined(self)
  self.serves, self.joined, self.failure = false, false, nil
  -- A node that has not joined has nothing in Consul.
  return self.node[joined and "stop" or "close"](self.node)
end

---Hands the replicas of its stores over to other nodes, then stops.
---@param options? { timeout_s?: number|string }
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function HighAvailabilityCluster:leave(options)
  if not has_joined(self) then
    return self:stop()
  end
  local left, message, err = self.node:leave(options)
  if self.node:status().state == "stopped" then
    self.serves, self.joined, self.failure = false, false, nil
  end
  return left, message, err
end

---Keeps records in replicated shards on the nodes of the cluster; docs/data.md describes it.
---@param name string
---@param storage? consul_ffi.Storage|"memory"
---@param options? consul_ffi.ReplicateOptions
---@return consul_ffi.ReplicatedStore store
function HighAvailabilityCluster:replicate(name, storage, options)
  if self.is_unnamed then
    older.node_id("replicate")
  end
  return self.node:replicate(name, storage, options)
end

---Closes the node without waiting.
---@return true success
function HighAvailabilityCluster:close()
  self.serves, self.joined, self.failure = false, false, nil
  return self.node:close()
end

---Counts.
---@return consistent_hash_cluster.Stats stats
function HighAvailabilityCluster:get_stats()
  local status, counts = self.node:status(), self.counts
  return {
    node_id = self.node_id,
    state = status.state,
    is_leader = self.is_leader,
    is_running = self.is_running,
    nodes_count = self.node:get_node_count(),
    active_nodes = #self.node:get_live_nodes(),
    total_shards = self.total_shards,
    local_shards = #self.node:get_shards(),
    map_version = status.map_epoch or 0,
    served = counts.served,
    forwarded = counts.forwarded,
    failed = counts.failed,
  }
end

---The live nodes.
---@return consistent_hash_cluster.Node[] nodes
function HighAvailabilityCluster:get_active_nodes()
  local nodes = self.node:get_live_nodes()
  for _, node in ipairs(nodes) do
    as_before(node)
  end
  return nodes
end

---The routing key of a key and a time in seconds; without `time_partition_s` it is the key.
---@param key string
---@param timestamp? number
---@return string key
function HighAvailabilityCluster:partition(key, timestamp)
  local span = self.config.time_partition_s
  if span and timestamp then
    return ("%s@%.0f"):format(key, math.floor(timestamp / span))
  end
  return key
end

---The number of a key's shard, from 0, and the node that owns it.
---@param key string
---@return integer? shard
---@return string? id
function HighAvailabilityCluster:get_shard_for_key(key)
  return self.node:get_shard_for_key(key)
end

---The id of the node that owns a key.
---@param key string
---@param timestamp? number
---@return string? id
function HighAvailabilityCluster:get_target_node(key, timestamp)
  if type(key) ~= "string" then
    error("get_target_node: key must be a string, got a " .. type(key))
  end
  return (self.node:get_node_for_key(self:partition(key, timestamp)))
end

---The replicas of a key's shard, the owner first and those without the data last.
---@param key string
---@param timestamp? number
---@return consul_ffi.ShardReplica[] replicas
function HighAvailabilityCluster:get_replicas(key, timestamp)
  local shard, owner = self.node:get_shard_for_key(self:partition(key, timestamp))
  local replicas, without_data = {}, {}
  for _, replica in ipairs(shard and self.node:get_shard_replicas(shard) or {}) do
    if replica.id == owner then
      table.insert(replicas, 1, replica)
    else
      table.insert(replica.state == "initializing" and without_data or replicas, replica)
    end
  end
  for _, replica in ipairs(without_data) do
    replicas[#replicas + 1] = replica
  end
  return replicas
end

-- The shards whose data this node does not have yet, each with the node to copy from.
local function initializing(self)
  local shards = {}
  for _, shard in ipairs(self.node:get_shards()) do
    for _, replica in ipairs(self.node:get_shard_replicas(shard)) do
      if replica.id == self.node_id and replica.state == "initializing" then
        shards[#shards + 1] = { number = shard, source = replica.source }
      end
    end
  end
  return shards
end

-- Copies the data of the shards that the map has assigned to this node: calls the option
-- `receive_shard` for each, with the shard and the node to copy from; it returns true when the data are
-- here, else false and a message. Until then the shard is initializing here, and the previous replica
-- stays. After one failure a node is not asked for its other shards in this call.
-- Returns true and { received = count }; false and a message when shards are missing.
local function rebalance_shards(self)
  if not is_node(self) then
    error("rebalance_shards: call it with a colon, as in object:rebalance_shards(…)", 2)
  end
  local ready, reason = has_joined(self)
  if not ready then
    return not_ready(reason)
  end
  local received, failed_sources, pending, why = {}, {}, 0, nil
  for _, shard in ipairs(self.config.receive_shard and initializing(self) or {}) do
    local got, message = false, nil
    if not failed_sources[shard.source] then
      got, message = self.config.receive_shard(shard.number, shard.source)
    end
    if got then
      received[#received + 1] = shard.number
    else
      failed_sources[shard.source], pending = true, pending + 1
      why = why or ("shard %d from %s: %s"):format(shard.number, shard.source, tostring(message))
    end
  end
  if #received > 0 then
    local written, message, err = self.node:shards_ready(received)
    if not written then
      return false, message, err
    end
  end
  if pending > 0 then
    return false, ("%d shards wait for their data: %s"):format(pending, why)
  end
  return true, { received = #received }
end

---Sets the handler of requests with a name, from this node and others: fn(data, request) returns the
---reply, or nil and a message; `request.key` is the key given to route_request. nil removes the handler.
---@param name string
---@param ... fun(data: any, request: consul_ffi.ClusterRequest): any, string?|nil
---@return true success
function HighAvailabilityCluster:handle(name, ...)
  local fn = ...
  if select("#", ...) == 0 or type(fn) ~= "function" then
    -- Refuses a value that is not a function, and removes the handler for nil.
    self.node:handle(name, ...)
    self.handled[name] = nil
    return true
  end
  self.handled[name] = true
  return self.node:handle(name, function(body, request)
    self.counts.served = self.counts.served + 1
    request.key = body.key
    return fn(body.data, request)
  end)
end

-- A call to a node, counted.
local function call(self, node_id, name, body, options)
  local ready, reason = has_joined(self)
  local success, reply, err
  if not ready then
    success, reply, err = not_ready(reason)
  elseif node_id == nil then
    success, reply, err = not_ready("the key has no node yet: the cluster has no shard map")
  else
    success, reply, err = self.node:call(node_id, name, body, options)
  end
  local counted = success and "forwarded" or "failed"
  self.counts[counted] = self.counts[counted] + 1
  return success, reply, err
end

---Calls a node.
---@param node_id string|{ id: string }
---@param name string
---@param data? any
---@param options? consul_ffi.ClusterCallOptions
---@return boolean success
---@return any reply
---@return consul_ffi.Error? err
function HighAvailabilityCluster:call(node_id, name, data, options)
  return call(self, node_id, name, { data = data }, options)
end

---Calls all live nodes at once, or the nodes in `options.nodes`.
---@param name string
---@param data? any
---@param options? consul_ffi.BroadcastOptions
---@return boolean success
---@return table<string, consul_ffi.BroadcastResult> results by id
---@return consul_ffi.Error? err
function HighAvailabilityCluster:broadcast(name, data, options)
  local ready, reason = has_joined(self)
  if not ready then
    return not_ready(reason)
  end
  return self.node:broadcast(name, { data = data }, options)
end

-- The operations without a handler that remove what a node that is alone keeps.
local REMOVES = { del = true, delete = true, remove = true }

-- Has a node that is alone answer requests of this name, which have no handler: it keeps their data by key.
local function keep_data(self, name)
  older.warn_once(("HighAvailabilityCluster: %q has no handler; the node is alone and keeps the data in memory"):format(
    name))
  self:handle(name, function(data, request)
    local kept = self.kept[request.key]
    if data ~= nil or REMOVES[name] then
      self.kept[request.key] = data
    end
    return data == nil and kept or data
  end)
end

---Calls the node that owns a key; raises only for misuse.
---@param key string
---@param operation string the name of the request
---@param data? any
---@return { success: boolean, data?: any, error?: string, node_id?: string } result
function HighAvailabilityCluster:route_request(key, operation, data)
  local target = self:get_target_node(key)
  if rawget(self, "kept") and target and type(operation) == "string" and not self.handled[operation] then
    keep_data(self, operation)
  end
  local success, reply = call(self, target, operation, { key = key, data = data })
  if not success then
    return { success = false, error = reply, node_id = target }
  end
  return { success = true, data = reply, node_id = target }
end

-- Sends a message or query to the handler of its type.
local function send(self, method, node_id, message)
  if type(message) ~= "table" or type(message.type) ~= "string" then
    error(method .. ": a message must be a table with a type, such as { type = \"metric_data\", ... }")
  end
  return self:call(node_id, message.type, message)
end

---Sends a message to the handler of its type.
---@param node_id string
---@param message table with the field `type`
---@return boolean success
---@return any reply
---@return consul_ffi.Error? err
function HighAvailabilityCluster:forward_data(node_id, message)
  local success, reply, err = send(self, "forward_data", node_id, message)
  return success, reply, err
end

---Sends a query to the handler of its type.
---@param node_id string
---@param query table with the field `type`
---@return boolean success
---@return any reply
---@return consul_ffi.Error? err
function HighAvailabilityCluster:fetch_data(node_id, query)
  local success, rows, err = send(self, "fetch_data", node_id, query)
  return success, rows, err
end

-- These serve the waiting requests of other nodes; so does any call to another node.
for _, name in ipairs({ "poll", "run", "fd" }) do
  HighAvailabilityCluster[name] = function(self, ...)
    return self.node[name](self.node, ...)
  end
end

older.raise_at_caller(HighAvailabilityCluster, "consistent_hash_cluster", is_node)

-- The first is not called on a node, and the second calls a function of the program.
HighAvailabilityCluster.new, HighAvailabilityCluster.rebalance_shards = new, rebalance_shards

---@class consistent_hash_cluster
---@field ConsistentHashRing consul_ffi.ConsistentHashRing
---@field HighAvailabilityCluster consistent_hash_cluster.HighAvailabilityCluster
local module = {
  ConsistentHashRing = consul_ffi.ConsistentHashRing,
  HighAvailabilityCluster = HighAvailabilityCluster,
}

return module
