---A consistent hash ring: assigns keys to nodes, without any request. When a node comes or goes, only keys that it gains or
---loses change their owner. The assignment is the same in each process, on each engine and in each release. `#ring` is the
---number of nodes.
---@class consul_ffi.ConsistentHashRing
---@field nodes table<string, consul_ffi.RingNode> the nodes by id; read-only
---@field virtual_nodes integer the number of points of a node of weight 1
---@operator len: integer
local ConsistentHashRing = {}

---Makes a ring without nodes. Raises an error for an invalid number.
---@param virtual_nodes? integer the number of points of a node of weight 1, from 1 to 10,000; default 160. With more points shares are closer to the weights and the ring is larger
---@return consul_ffi.ConsistentHashRing ring
function ConsistentHashRing:new(virtual_nodes) end

---Adds a node, or replaces it. Fails with `argument` for an empty id, for a weight that is negative, infinite or NaN, and if
---the ring would have more than 4,194,304 points.
---@param id string
---@param info? { weight?: number, [string]: any } what the ring stores of the node, copied; `weight` is its share of the keys, default 1; a node of weight 0 gets no keys
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsistentHashRing:add_node(id, info) end

---Removes a node if it is there.
---@param id string
---@return true
function ConsistentHashRing:remove_node(id) end

---The owner of a key.
---@param key string
---@return string? id nil if no node has a share
---@return consul_ffi.RingNode? node
function ConsistentHashRing:get_node(key) end

---The owners of many keys, several times faster than one by one.
---@param keys string[]
---@return string[]? ids nil if no node has a share
function ConsistentHashRing:get_nodes(keys) end

---The nodes for copies of a key's data, distinct, the owner first. Fails with `argument` if `n` is negative or not an integer.
---@param key string
---@param n? integer the number of nodes; default 2
---@return consul_ffi.RingNode[]|false nodes fewer than `n` if fewer nodes have a share
---@return string? message
---@return consul_ffi.Error? err
function ConsistentHashRing:get_replica_nodes(key, n) end

---The names of its methods, as `client:methods` of a client has them.
---@param prefix? string such as `"kv_"`
---@return string[] names in their order; as text one on each line
function ConsistentHashRing:methods(prefix) end

---A node of a ring: its `info` and its id. As text it reads as the id.
---@class consul_ffi.RingNode
---@field id string
---@field weight? number
---@field [string] any
