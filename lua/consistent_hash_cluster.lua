-- The names of the older module: a node that sends requests to whoever has a key's shard, and asks
-- others for what they have. docs/tsdb.md says how an engine uses it.
local consul_ffi = require("consul_ffi")

-- This much `capacity` is the weight 1 of a node.
local CAPACITY = 1000

-- How often a start looks for the first shard map, which is there a moment after the first leader is,
-- and how long it waits in between.
local LOOKS, PAUSE_MS = 40, 50

local HighAvailabilityCluster = {}

-- Those that are current at each read.
local fields = {}

-- The options of the node underneath.
local function options_of(config)
  local host = config.host or "127.0.0.1"
  local options = {
    node_id = config.node_id,
    node_address = host .. ":" .. (config.port or 0),
    nodes_prefix = "tsdb/" .. (config.cluster_name or "cluster") .. "/nodes/",
    consul_endpoints = config.consul_endpoints,
    simulate = config.simulate,
    replicas = config.replication_factor,
    weight = config.capacity and config.capacity / CAPACITY,
    -- The nodes of a simulated cluster are in this process, whatever their hosts are called.
    data_address = (config.simulate and "127.0.0.1" or host) .. ":" .. (config.data_port or 0),
    hand_off = config.receive_shard ~= nil,
  }
  for name, value in pairs(config.cluster_options or {}) do
    options[name] = value
  end
  return options
end

-- A node that is not started; nothing is sent. Names that are not known here are the engine's.
function HighAvailabilityCluster.new(this, config)
  config = config or this ~= HighAvailabilityCluster and this or {}
  local options = options_of(config)
  return setmetatable({
    node = consul_ffi.ConsulHACluster:new(options),
    config = config,
    node_id = config.node_id,
    total_shards = options.shards or 1024,
    counts = { served = 0, forwarded = 0, failed = 0 },
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

function fields.is_running(self)
  return rawget(self, "serves") == true and self.node:status().state ~= "stopped"
end

function fields.local_node(self)
  local config, shards = self.config, self.node:get_shards()
  local known = self.node.cluster_nodes[self.node_id]
  return {
    id = self.node_id,
    host = config.host or "127.0.0.1",
    port = config.port or 0,
    cluster_port = config.cluster_port,
    status = known and known.status or "stopped",
    role = config.role or (self.is_leader and "leader" or "follower"),
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
      shards[shard] = epoch and self.node:get_shard_replicas(shard) or nil
    end
    self.shards_epoch, self.shards_shown = epoch, shards
  end
  return self.shards_shown
end

function fields.metadata(self)
  return {
    version = self.node:status().map_epoch or 0,
    total_shards = self.total_shards,
    nodes_count = self.node:get_node_count(),
  }
end

-- A ring of the live nodes. Where keys go is what the shard map says.
function fields.hash_ring(self)
  local ring = consul_ffi.ConsistentHashRing:new(self.config.virtual_nodes_per_physical)
  for _, node in ipairs(self.node:get_live_nodes()) do
    ring:add_node(node.id, { address = node.address })
  end
  return ring
end

-- Joins the cluster; once it has, it does nothing more.
function HighAvailabilityCluster:initialize()
  if self.node:status().state ~= "stopped" then
    return true
  end
  local joined, message, err = self.node:start()
  if not joined then
    return false, message, err
  end
  for _ = 1, LOOKS do
    if self.node:status().map_epoch then
      break
    end
    self.node:next_event(PAUSE_MS)
  end
  return true
end

function HighAvailabilityCluster:start()
  local joined, message, err = self:initialize()
  if not joined then
    return false, message, err
  end
  self.serves = true
  return true
end

function HighAvailabilityCluster:stop()
  self.serves = false
  return self.node:stop()
end

function HighAvailabilityCluster:close()
  self.serves = false
  return self.node:close()
end

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

function HighAvailabilityCluster:get_active_nodes()
  return self.node:get_live_nodes()
end

-- What a key and a time (in seconds) are routed by: without `time_partition_s` the key alone.
function HighAvailabilityCluster:partition(key, timestamp)
  local span = self.config.time_partition_s
  if span and timestamp then
    return ("%s@%.0f"):format(key, math.floor(timestamp / span))
  end
  return key
end

function HighAvailabilityCluster:get_shard_for_key(key)
  return self.node:get_shard_for_key(key)
end

function HighAvailabilityCluster:get_target_node(key, timestamp)
  return (self.node:get_node_for_key(self:partition(key, timestamp)))
end

-- Who has a key's shard, those with its data first: a list of { id, state, source } that read as ids.
function HighAvailabilityCluster:get_replicas(key, timestamp)
  local shard, owner = self.node:get_shard_for_key(self:partition(key, timestamp))
  local first, others = {}, {}
  for _, replica in ipairs(shard and self.node:get_shard_replicas(shard) or {}) do
    if replica.id == owner then
      table.insert(first, 1, replica)
    else
      table.insert(replica.state == "initializing" and others or first, replica)
    end
  end
  for _, replica in ipairs(others) do
    first[#first + 1] = replica
  end
  return first
end

-- The shards whose data this node has yet to get, each with the node to ask.
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

-- Lets this node get the data of the shards that the map has given it: `receive_shard` of its
-- configuration is called for each, with the shard and the node to ask, and gives true when it has
-- them. Until then the shard is initializing here, and who had it keeps it. A node that did not give
-- one shard is not asked for the others this time.
function HighAvailabilityCluster:rebalance_shards()
  local received, silent, waiting, why = {}, {}, 0, nil
  for _, shard in ipairs(self.config.receive_shard and initializing(self) or {}) do
    local got, message = false, nil
    if not silent[shard.source] then
      got, message = self.config.receive_shard(shard.number, shard.source)
    end
    if got then
      received[#received + 1] = shard.number
    else
      silent[shard.source], waiting = true, waiting + 1
      why = why or ("shard %d from %s: %s"):format(shard.number, shard.source, tostring(message))
    end
  end
  if #received > 0 then
    local told, message, err = self.node:shards_ready(received)
    if not told then
      return false, message, err
    end
  end
  if waiting > 0 then
    return false, ("%d shards wait for their data: %s"):format(waiting, why)
  end
  return true, { received = #received }
end

-- Answers requests of a name, from this node and others: fn(data, request) gives the reply, or nil
-- and a message; `request.key` is that of route_request. nil takes the function away.
function HighAvailabilityCluster:handle(name, fn)
  return self.node:handle(name, fn and function(body, request)
    self.counts.served = self.counts.served + 1
    request.key = body.key
    return fn(body.data, request)
  end)
end

local function ask(self, node_id, name, body, options)
  local success, reply, err = self.node:call(node_id, name, body, options)
  local counted = success and "forwarded" or "failed"
  self.counts[counted] = self.counts[counted] + 1
  return success, reply, err
end

-- Asks one node.
function HighAvailabilityCluster:call(node_id, name, data, options)
  return ask(self, node_id, name, { data = data }, options)
end

-- Asks several at once.
function HighAvailabilityCluster:broadcast(name, data, options)
  return self.node:broadcast(name, { data = data }, options)
end

-- Lets the node that a key belongs to do something; never raises for what others did.
function HighAvailabilityCluster:route_request(key, operation, data)
  local target = self:get_target_node(key)
  if not target then
    return { success = false, error = ("no node is there for the key %q"):format(key) }
  end
  local success, reply = ask(self, target, operation, { key = key, data = data })
  if not success then
    return { success = false, error = reply, node_id = target }
  end
  return { success = true, data = reply, node_id = target }
end

-- A message or a query goes to the function that handles its type.
local function send(self, node_id, message)
  if type(message) ~= "table" or type(message.type) ~= "string" then
    error("a message must be a table with a type, such as { type = \"metric_data\", ... }", 3)
  end
  return self:call(node_id, message.type, message)
end

function HighAvailabilityCluster:forward_data(node_id, message)
  local success, reply, err = send(self, node_id, message)
  return success, reply, err
end

function HighAvailabilityCluster:fetch_data(node_id, query)
  local success, rows, err = send(self, node_id, query)
  return success, rows, err
end

-- Requests of others wait until these, or a call to another node, serve them.
for _, name in ipairs({ "poll", "run", "fd" }) do
  HighAvailabilityCluster[name] = function(self, ...)
    return self.node[name](self.node, ...)
  end
end

return {
  ConsistentHashRing = consul_ffi.ConsistentHashRing,
  HighAvailabilityCluster = HighAvailabilityCluster,
}
