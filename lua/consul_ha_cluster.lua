-- The API of the older module with this name: nodes of consul_ffi with the defaults and the node tables that
-- older programs know. consul_ffi.ConsulHACluster is the same without them.
local consul_ffi = require("consul_native")

local native, older = consul_ffi.ConsulHACluster, consul_ffi._internal

---A node of a cluster, with the node tables of the older module.
---@class consul_ha_cluster.ConsulHACluster: consul_ffi.ConsulHACluster
---@field cluster_nodes table<string, consul_ha_cluster.Node> all known nodes by id
local ConsulHACluster = {}

---A node of a cluster. As text it reads as the id.
---@class consul_ha_cluster.Node
---@field id string
---@field address string
---@field status "alive"|"failed"|"draining"|"maintenance"
---@field zone string empty if it has none
---@field weight number
---@field meta table<string, string>
---@field started_at integer seconds of Unix time
---@field last_seen integer seconds of Unix time
---@field session_id string empty if it is not the leader

---The leader of a cluster. As text it reads as the node's id.
---@class consul_ha_cluster.Leader: consul_ffi.ClusterLeader
---@field timestamp integer seconds of Unix time

-- The states of a node under their older names; the other two, draining and maintenance, are new.
local STATUS = { up = "alive", down = "failed" }

-- Makes the table of a node one of the older module. It belongs to this node's object.
local function as_before(self, node)
  if node and node.id then
    node.status = STATUS[node.status] or node.status
    if node.status ~= "failed" then
      self.seen[node.id] = os.time()
    end
    node.last_seen = self.seen[node.id] or node.started_at
    if not node.session_id then
      local leader = self.node:get_leader_info()
      node.session_id = leader and leader.node_id == node.id and leader.session_id or ""
    end
  end
  return node
end

local function all_as_before(self, nodes)
  for _, node in pairs(nodes) do
    -- An older program may have put in what it likes.
    if type(node) == "table" then
      as_before(self, node)
    end
  end
  return nodes
end

local function node_of(self)
  return type(self) == "table" and rawget(self, "node") or self
end

for name in pairs(native) do
  ConsulHACluster[name] = function(self, ...)
    return native[name](node_of(self), ...)
  end
end

---The live nodes.
---@return consul_ha_cluster.Node[] nodes
function ConsulHACluster:get_live_nodes()
  return all_as_before(self, native.get_live_nodes(node_of(self)))
end

---The nodes with replicas of a key's shard, the owner first.
---@param key string
---@param count? integer how many
---@return consul_ha_cluster.Node[]|false nodes
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:get_replica_nodes(key, count)
  local nodes, message, err = native.get_replica_nodes(node_of(self), key, count)
  if not nodes then
    return nodes, message, err
  end
  return all_as_before(self, nodes)
end

---The node that owns a key.
---@param key string
---@return string? id
---@return consul_ha_cluster.Node? node
function ConsulHACluster:get_node_for_key(key)
  local id, node = native.get_node_for_key(node_of(self), key)
  return id, as_before(self, node)
end

function ConsulHACluster:replicate(...)
  if type(self) == "table" and self.is_unnamed then
    older.node_id("replicate")
  end
  return native.replicate(node_of(self), ...)
end

---The leader; nil if there is none.
---@return consul_ha_cluster.Leader? leader
function ConsulHACluster:get_leader_info()
  local leader = native.get_leader_info(node_of(self))
  if leader then
    leader.timestamp = leader.elected_at
  end
  return leader
end

older.raise_at_caller(ConsulHACluster, "consul_ha_cluster", function(self)
  return type(node_of(self)) == "userdata"
end)

local metatable = {
  __tostring = function(self)
    return tostring(self.node)
  end,
  __close = ConsulHACluster.close,
}

function metatable.__index(self, name)
  local method = ConsulHACluster[name]
  if method ~= nil then
    return method
  elseif name == "cluster_nodes" then
    return all_as_before(self, self.node.cluster_nodes)
  end
  -- Not a tail call, so that an unknown name is raised at the line of the caller.
  local member = older.member(self.node, name)
  return member
end

-- The options with the older defaults, without names that are not options; warns of both.
local function completed(config)
  local options, ignored = {}, {}
  for name, value in pairs(config) do
    if older.options[name] then
      options[name] = value
    else
      ignored[#ignored + 1] = tostring(name)
    end
  end
  -- A configuration may have defaults in a metatable.
  for name in pairs(older.options) do
    if options[name] == nil then
      options[name] = config[name]
    end
  end
  local warnings = {}
  if #ignored > 0 then
    table.sort(ignored)
    warnings[1] = "these names are not options and are ignored: " .. table.concat(ignored, ", ")
  end
  if options.node_id == nil then
    local found, id = pcall(older.node_id, options.hand_off and "hand_off")
    if not found then
      return nil, id
    end
    options.node_id = id
    warnings[#warnings + 1] = ("node_id is not given: until it stops the node is %q"):format(options.node_id)
  end
  if options.node_address == nil then
    options.node_address = "127.0.0.1:8080"
    warnings[#warnings + 1] = "node_address is not given: the other nodes see " .. options.node_address
  end
  return options, warnings
end

-- Raises at the caller of the function that calls this.
local function create(config)
  local options, warnings = config, {}
  if config == nil or type(config) == "table" then
    options, warnings = completed(config or {})
  end
  if not options and config then
    error(warnings, 3)
  end
  local made, node = pcall(native.new, options)
  if not made then
    error(node, 3)
  end
  for _, warning in ipairs(warnings) do
    older.warn("ConsulHACluster: " .. warning)
  end
  return setmetatable({ node = node, seen = {}, is_unnamed = config == nil or config.node_id == nil }, metatable)
end

function ConsulHACluster.new(this, config)
  local made = create(not rawequal(this, ConsulHACluster) and this or config)
  return made
end

setmetatable(ConsulHACluster, {
  __call = function(_, config)
    local made = create(config)
    return made
  end,
})

---@class consul_ha_cluster
---@field ConsistentHashRing consul_ffi.ConsistentHashRing
---@field ConsulHACluster consul_ha_cluster.ConsulHACluster
local module = {
  ConsulHACluster = ConsulHACluster,
  ConsistentHashRing = consul_ffi.ConsistentHashRing,
}

---Creates a node, which is not started; without `node_id` and `node_address` it has defaults, with a warning. Names
---that are not options are ignored, with a warning. Raises an error for an invalid option.
---@param config? table as consul_ffi.ClusterConfig; the names of other programs' options are allowed
---@return consul_ha_cluster.ConsulHACluster node
function module.new(config)
  local made = create(config)
  return made
end

return module
