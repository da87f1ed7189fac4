---This process's node of a cluster, or, with `observer = true`, a process that routes and calls and is not a member. Its work goes on in the background; methods that only read answer from what the node
---knows, without a request.
---@class consul_ffi.ConsulHACluster
---@field node_id string
---@field node_address string
---@field is_leader boolean as `is_leader_node()`
---@field cluster_nodes table<string, consul_ffi.ClusterNode> the nodes by id, current at each read
---@field profile table<string, string|number> all times of its profile, chosen and derived
local ConsulHACluster = {}

---Makes a node. Nothing is sent before `start`. Raises an error for an invalid configuration.
---@param config consul_ffi.ClusterConfig the options of a client and [of a node](configuration.md#options-of-a-clusters-node)
---@return consul_ffi.ConsulHACluster cluster
function ConsulHACluster:new(config) end

---Joins the cluster, and waits until the other nodes can see this one and there is a leader. Fails after
---`start_timeout_ms`, with a message that says what is missing and whether ACLs hide it. Fails with `conflict` if another live
---node has the name, if the cluster has other `shards` or
---`replicas`, or if the node is started already. With `keep_joining` a node whose start has timed out goes on trying in the
---background: its `status().state` is `joining` until it is a member, or `stop`.
---
---With the name of a method, `"call"` or `"broadcast"`, and its arguments it starts that call in the background instead, and
---returns its [handle](#class-handle), like `client:start`: `cluster:start("call", "n2", "read", body)`. A call ends when its
---handle is closed or its node is stopped. Misuse raises an error; any other failure is the result of the handle.
---@overload fun(self: consul_ffi.ConsulHACluster, method: "call"|"broadcast", ...: any): consul_ffi.Handle
---@param options? { keep_joining?: boolean }
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:start(options) end

---Leaves the cluster: hands the leadership over and deletes the node's key and service. Fails if Consul cannot be reached
---within `timeout`; then the node counts as down, and its name is free, once its check has expired. It may be called again,
---and followed by `start`.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:stop() end

---Stops the node, for up to a second, and never fails. In Lua 5.4, the end of a `<close>` variable's scope does the same;
---the garbage collector waits for nothing.
---@return true
function ConsulHACluster:close() end

---Whether this node is the leader and may act as such now.
---@return boolean is_leader
function ConsulHACluster:is_leader_node() end

---The current leader.
---@return consul_ffi.ClusterLeader? leader nil if there is none or Consul is unreachable
function ConsulHACluster:get_leader_info() end

---The number of members, including those that are down.
---@return integer count
function ConsulHACluster:get_node_count() end

---The nodes whose check does not fail.
---@return consul_ffi.ClusterNode[] nodes
function ConsulHACluster:get_live_nodes() end

---The node that requests for a key go to first.
---@param key string
---@return string? node_id nil if there is none
---@return consul_ffi.ClusterNode? node
function ConsulHACluster:get_node_for_key(key) end

---The nodes that requests for many keys go to first.
---@param keys string[]
---@return string[]? node_ids nil if there is none
function ConsulHACluster:get_nodes_for_keys(keys) end

---The nodes that requests for a key go to, in this order.
---@param key string
---@param n? integer the number of nodes; default 2
---@return consul_ffi.ClusterNode[]|false nodes fewer than `n` if there are fewer
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:get_replica_nodes(key, n) end

---The shard of a key.
---@param key string
---@return integer? shard counted from 0; nil before there is a shard map
---@return string? node_id the node that requests for it go to first
function ConsulHACluster:get_shard_for_key(key) end

---The shards of a node.
---@param node_id? string default: this node
---@return integer[] shards
function ConsulHACluster:get_shards(node_id) end

---The nodes that have a shard by the shard map, live or not. `get_replica_nodes` has those that requests go to.
---@param shard integer counted from 0
---@return consul_ffi.ShardReplica[] replicas empty before there is a shard map
function ConsulHACluster:get_shard_replicas(shard) end

---Reports that this node, made with `hand_off = true`, has the data of these shards: the next map has them as available.
---@param shards integer[]
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:shards_ready(shards) end

---The state of this node and of the shard map.
---@return consul_ffi.ClusterStatus status
function ConsulHACluster:status() end

---The fencing token of the leadership.
---@return number|string|nil token nil if this node is not the leader
function ConsulHACluster:token() end

---Writes a key in one transaction with Consul's check that this node is the leader. Fails with `conflict` if it is not.
---@param key string the key to write
---@param value string|number|boolean|table its value
---@return boolean success
---@return number|string modify_index the modify index of the write
---@return consul_ffi.Error? err
function ConsulHACluster:fenced_put(key, value) end

---Hands the leadership over to another node. Fails with `conflict` if this node is not the leader.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:hand_over() end

---Moves the shards of a node to other nodes and keeps it from being the leader, or ends that. Fails with `not_found` if
---there is no such node.
---@param on? boolean false: the node takes part again; default true
---@param node_id? string default: this node
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:drain(on, node_id) end

---Routes no requests to a node, which keeps its shards, and keeps it from being the leader, or ends that. Fails with
---`not_found` if there is no such node.
---@param on? boolean false: the node takes part again; default true
---@param node_id? string default: this node
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:maintenance(on, node_id) end

---Lets a frozen shard map change again: accepts the loss of the members that vanished.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:thaw() end

---The name of `thaw` in older releases.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:resume() end

---Stops all automatic moves of shards until `resume_moves`, also over restarts and changes of the leader. A pause that was ordered
---before stays as it is.
---@param why? string why, for those who see the pause
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:pause_moves(why) end

---Ends a pause.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:resume_moves() end

---Asks the leader to remove a store that nobody uses any more from Consul. Fails with `conflict` while a live node has it open,
---and with `not_found` if there is no such store.
---@param store string the store's name
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:forget_store(store) end

---Lets a node make its replicas of a store again from other nodes, one after the other, since its records are damaged or wrong.
---Fails with `conflict` where that has a risk, and names the cure.
---@param node_id string the node
---@param store string the store's name
---@param shards? integer[] only the replicas of these shards; default: all
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:reinit(node_id, store, shards) end

---The next event, without waiting.
---@return "leader_changed"|"node_joined"|"node_left"|"shards_changed"|"suspended"|"resumed"|"frozen"|"thawed"|"store_changes"|"store_changed"|"disk_in_doubt"|"stopped"|nil event nil if there is none
---@return any detail see the table of events
function ConsulHACluster:poll_event() end

---Waits for the next event.
---@param timeout_ms? number the longest wait, in milliseconds; default: until there is an event, or the node is stopped
---@return "leader_changed"|"node_joined"|"node_left"|"shards_changed"|"suspended"|"resumed"|"frozen"|"thawed"|"store_changes"|"store_changed"|"disk_in_doubt"|"stopped"|nil event nil if there was none
---@return any detail see the table of events
function ConsulHACluster:next_event(timeout_ms) end

---For a loop over the events until the node is stopped: `for event, detail in cluster:events() do`.
---@return fun(): string?, any iterator
function ConsulHACluster:events() end

---A descriptor for poll(2), readable while there is an event or a request, until the node is stopped. Do not read or close
---it.
---@return integer|false fd
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:fd() end

---A unix socket of this process and a line to write there, for event loops that wait only for their own sockets, as
---OpenResty's. An empty line is the answer once there is an event or a request. An empty line written meanwhile is
---answered at once.
---A limit in milliseconds may follow the numbers in the line, after a space.
---@return string|false path
---@return string line_or_message
---@return consul_ffi.Error? err
function ConsulHACluster:unix_socket() end

---Sets the handler of the calls with this name. Its return value is the reply; if it returns `nil, message` or raises an
---error, the call fails with `http`. A raised error is logged with its file and line, which the caller does not see; a
---returned message is an answer, is not logged, and reaches the caller in words.
---@param name string
---@param fn (fun(body: any, request: consul_ffi.ClusterRequest): any, string?)|nil nil, which may not be left out, removes the handler
---@return true
function ConsulHACluster:handle(name, fn) end

---A request of another node, as its handler gets it. The result of the handler is the reply, unless it calls `defer`: then
---the request waits for `reply` or `fail`, which the program may call at any time, also in a coroutine. A request that the
---program drops without an answer fails, so keep it. An answer for a caller that no longer waits, or after the end of the
---node, is returned as an error and does no harm.
---@class consul_ffi.ClusterRequest
---@field from string the id of the caller's node
---@field name string the name of the handler
---@field deadline_ms integer how long the caller still waits, in milliseconds
---@field shard? integer the shard that the call names
---@field epoch integer the epoch of the caller's shard map; 0 if it has none
---@field idempotency_key string the same for each retry of a call
local ClusterRequest = {}

---Lets the request wait for `reply` or `fail`. The result of the handler is ignored then; an error that it raises still
---fails the request. Raises an error if the handler has returned.
---@return consul_ffi.ClusterRequest request the same
function ClusterRequest:defer() end

---Answers a deferred request. Raises an error if it is answered already, or not deferred. Fails with `timeout` if the caller
---no longer waits, and with `closed` if the node was stopped or the handler raised an error.
---@param value any a string, which arrives as the same bytes, or a value that JSON can represent
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ClusterRequest:reply(value) end

---Fails a deferred request, as a handler does that returns `nil, message`: the call fails with `http`. Otherwise as `reply`.
---@param message string
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ClusterRequest:fail(message) end

---Calls a handler of a node, which may be this one, and answers requests meanwhile.
---@param node_id string|{ id: string } the id of a node, or its table
---@param name string the name of the handler
---@param body? any a string, which arrives as the same bytes, or a value that JSON can represent
---@param options? consul_ffi.ClusterCallOptions
---@return boolean success
---@return any reply
---@return consul_ffi.Error? err
function ConsulHACluster:call(node_id, name, body, options) end

---@class consul_ffi.ClusterCallOptions
---@field timeout_ms? number the time limit of the call, retries included, in milliseconds; default 5000
---@field shard? integer the shard that the call is about: a node with a newer shard map refuses the call
---@field idempotency_key? string by which the handler recognizes a repeated call; default: a random one
---@field retries? integer 0 to 3: how often the call is retried if no handler can have seen it, within the node's retry budget; default 3

---Calls a handler of many nodes at once, and answers requests meanwhile.
---@param name string the name of the handler
---@param body? any as for `call`
---@param options? consul_ffi.BroadcastOptions
---@return boolean success
---@return table<string, consul_ffi.BroadcastResult> results by the id of the node
---@return consul_ffi.Error? err
function ConsulHACluster:broadcast(name, body, options) end

---@class consul_ffi.BroadcastOptions
---@field timeout_ms? number the time limit of each call, in milliseconds; default 5000
---@field nodes? string[] the ids of the nodes; default: all live nodes, including this one

---The result of one call of a broadcast.
---@class consul_ffi.BroadcastResult
---@field success boolean
---@field data any the reply of a success
---@field error? string the message of a failure

---Answers requests that wait.
---@param timeout_ms? number the longest wait for the first one, in milliseconds; default 0
---@param max? integer the most requests to answer; default 64
---@return integer|false count how many were answered
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:poll(timeout_ms, max) end

---Answers requests until the node is stopped.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:run() end

---The names of its methods, as `client:methods` of a client has them.
---@param prefix? string such as `"kv_"`
---@return string[] names in their order; as text one on each line
function ConsulHACluster:methods(prefix) end

---A node of a cluster; read-only. As text it reads as the id.
---@class consul_ffi.ClusterNode
---@field id string
---@field address string
---@field status "up"|"down"|"draining"|"maintenance"
---@field zone string empty if it has none
---@field weight number
---@field meta table<string, string>
---@field started_at integer seconds of Unix time

---A replica of a shard. As text it reads as the node's id.
---@class consul_ffi.ShardReplica
---@field id string the id of the node
---@field state "available"|"initializing"|"leaving" initializing: it has yet to copy the data from `source`; leaving: it keeps the data until other nodes have it
---@field source? string the node from which an initializing replica copies the data

---The leader of a cluster. As text it reads as the node's id.
---@class consul_ffi.ClusterLeader
---@field node_id string
---@field address string
---@field session_id string
---@field elected_at integer seconds of Unix time

---The state of a node.
---@class consul_ffi.ClusterStatus
---@field state "stopped"|"joining"|"follower"|"candidate"|"leader"|"suspended"|"draining"|"maintenance"|"observer"
---@field ready? boolean false if the program has handlers and does not poll often enough, or a store of the node does not serve: it cannot be used, its storage is not open or fails, or a replica that the map gives to the node is missing
---@field not_ready_because? string the reason if it is not ready
---@field polled? boolean false if the program has handlers and does not poll often enough: requests of other nodes are refused
---@field in_touch boolean whether Consul answers
---@field cannot_lead? string why Consul refuses what this node has to write as the leader
---@field map_epoch? integer the epoch of the shard map
---@field frozen string[] the members whose absence has frozen the shard map
---@field service_id string the id of the node's service in Consul
