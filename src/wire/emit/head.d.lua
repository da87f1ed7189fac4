---@meta consul_ffi
-- Made from the table in src/wire by `make docs`; do not edit.

---What a success says about itself.
---@class consul_ffi.Meta
---@field index? integer|string the index to wait for a change from
---@field known_leader? boolean
---@field last_contact_ms? integer
---@field content_hash? string
---@field cache? "HIT"|"MISS"
---@field age_s? integer
---@field backend? string
---@field request_ms number
---@field endpoint string
---@field attempts integer
---@field stale boolean whether any server may be its source (`stale_if_error`)
---@field flags? integer|string
---@field session? string
---@field lock_index? integer|string
---@field create_index? integer|string
---@field modify_index? integer|string

---Why a call failed.
---@class consul_ffi.Error
---@field kind "argument"|"config"|"connect"|"timeout"|"tls"|"http"|"not_found"|"permission_denied"|"acl_not_found"|"rate_limited"|"no_leader"|"not_ready"|"conflict"|"txn_failed"|"session_invalid"|"too_large"|"decode"|"closed"|"unsupported"
---@field message string
---@field status? integer
---@field retryable boolean whether the same call may succeed later
---@field maybe_applied boolean false when the request certainly changed nothing
---@field endpoint? string
---@field attempts integer
---@field operations? { index: integer, what: string }[]

---@class consul_ffi.KvEntry
---@field Key string
---@field Value string
---@field Flags integer|string
---@field Session? string
---@field LockIndex integer|string
---@field CreateIndex integer|string
---@field ModifyIndex integer|string

---@class consul_ffi.ConsulClient
---@field initialized boolean true until the client is closed
---@field consul_url string
---@field timeout integer milliseconds
---@field simulate boolean
local ConsulClient = {}

---A client; the same as consul_ffi.new.
---@param config? consul_ffi.ConsulConfig
---@return consul_ffi.ConsulClient
function ConsulClient:new(config) end

---Closes the client; calls after it fail. It may be called again.
function ConsulClient:close() end

---The older name of close.
function ConsulClient:destroy() end

---Any request; gives the answer's body.
---@param method "GET"|"PUT"|"POST"|"DELETE"
---@param path string the path as it goes to the server, encoded
---@param body? string|number|boolean|table
---@param params? table<string, any> the query's parameters; true stands for one without a value
---@param options? consul_ffi.Options
---@return boolean success
---@return string response the body, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:http_request(method, path, body, params, options) end

---@class consul_ffi.batch.options
---@field concurrency? integer how many calls are in flight at once, 1 to 64; default 64
---@field timeout_ms? number the longest the batch may take

---What came of one call of a batch.
---@class consul_ffi.Outcome
---@field ok boolean
---@field value any of a success
---@field meta? consul_ffi.Meta of a success
---@field message? string of a failure
---@field err? consul_ffi.Error of a failure

---Makes many calls on the calling thread, some of them in flight at once. Raises when any of them is misused,
---before anything is sent.
---@param calls any[][] each a method's name and its arguments: { "kv_get", "key", { stale = true } }
---@param options? consul_ffi.batch.options
---@return boolean success
---@return consul_ffi.Outcome[]|string response the outcomes in the order of the calls, or the message of a failure
---@return consul_ffi.Error? err
function ConsulClient:batch(calls, options) end

---Starts a call in the background.
---@param method string the method's name
---@param ... any its arguments
---@return consul_ffi.Handle
function ConsulClient:start(method, ...) end

---A call in the background.
---@class consul_ffi.Handle
local Handle = {}

---Whether the call is done, and then its results.
---@return boolean done
---@return boolean? success
---@return any response
---@return consul_ffi.Meta|consul_ffi.Error|nil extra
function Handle:poll() end

---Waits for the call, then as poll.
---@param timeout_ms? number the longest wait; nil: until the call is done
---@return boolean done
---@return boolean? success
---@return any response
---@return consul_ffi.Meta|consul_ffi.Error|nil extra
function Handle:wait(timeout_ms) end

---A descriptor that is readable once the call is done; it is not to be read or closed.
---@return integer|false fd
---@return string? message
---@return consul_ffi.Error? err
function Handle:fd() end

---Ends the call: unless it is done already it has failed with kind closed.
---@return true
function Handle:cancel() end

---Cancels, and gives the descriptor back.
---@return true
function Handle:close() end

---@class consul_ffi.Change
---@field type "initial"|"put"|"delete"|"resynchronised"
---@field id? string which of several things has changed
---@field value any what it is, or was before a delete; the whole value for initial and resynchronised

---Watches what a method with blocking queries reads.
---@param method string the method's name
---@param ... any its arguments; the last one is a table of its options, with rate_per_s and wait of the watch
---@return consul_ffi.Watch|false watch
---@return string? message
---@return consul_ffi.Error? err
function ConsulClient:watch(method, ...) end

---What becomes of what a method reads.
---@class consul_ffi.Watch
local Watch = {}

---The next change, after waiting for it; success alone when the time is over first.
---@param timeout_ms? number the longest wait; nil: until there is one
---@return boolean success false when an outage begins, or with kind closed when the watch has ended
---@return consul_ffi.Change|string|nil response the change, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error|nil extra
function Watch:next(timeout_ms) end

---The next change when there is one, as next.
---@return boolean success
---@return consul_ffi.Change|string|nil response
---@return consul_ffi.Meta|consul_ffi.Error|nil extra
function Watch:poll() end

---The changes until the watch ends; outages are passed over.
---@return fun(): consul_ffi.Change?, consul_ffi.Meta?
function Watch:changes() end

---A descriptor that is readable as long as there is something; it is not to be read or closed.
---@return integer|false fd
---@return string? message
---@return consul_ffi.Error? err
function Watch:fd() end

---Ends the watch.
---@return true
function Watch:close() end

---@class consul_ffi.service_view.options: consul_ffi.health_service.options
---@field empty_hold_s? number|string how long an answer without instances is not believed right after an outage; default 30

---The instances of a service, kept up to date in the background.
---@param service string
---@param options? consul_ffi.service_view.options
---@return consul_ffi.ServiceView|false view
---@return string? message
---@return consul_ffi.Error? err
function ConsulClient:service_view(service, options) end

---An instance of a service; not to be changed.
---@class consul_ffi.Instance
---@field id string
---@field name string
---@field address string its own, or its node's
---@field port integer 0 when it registered none
---@field tags string[]
---@field meta table<string, string>
---@field node string
---@field status "passing"|"warning"
---@field weight integer

---A service's instances, without a request for each answer.
---@class consul_ffi.ServiceView
local ServiceView = {}

---Waits for Consul's first answer.
---@param timeout_ms? number the longest wait; nil: until there is one
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ServiceView:ready(timeout_ms) end

---The instance whose turn it is by weight, or the one that a key belongs to.
---@param key? string
---@return consul_ffi.Instance|false instance
---@return string? message
---@return consul_ffi.Error? err
function ServiceView:pick(key) end

---The instances that pass or warn.
---@return consul_ffi.Instance[]|false instances
---@return string? message
---@return consul_ffi.Error? err
function ServiceView:all() end

---How many seconds ago Consul said that these are the instances.
---@return number|false age_s
---@return string? message
---@return consul_ffi.Error? err
function ServiceView:age_s() end

---Ends the view.
---@return true
function ServiceView:close() end

---@class consul_ffi.profile
---@field beat_ms? number
---@field check_ttl_ms? number
---@field drift? number
---@field in_flight_ms? number
---@field lease_ms? number
---@field lock_delay_ms? number
---@field session_ttl_s? number

---@class consul_ffi.lock.options
---@field value? string|number|boolean|table the key's value while the lock is held
---@field profile? "default"|"fast"|"wan"|consul_ffi.profile

---@class consul_ffi.acquire.options
---@field wait_s? number how long to wait; nil: for ever
---@field try? boolean true: not to wait at all

---A lock on a key; nothing is sent yet.
---@param key string
---@param options? consul_ffi.lock.options
---@return consul_ffi.Lock|false lock
---@return string? message
---@return consul_ffi.Error? err
function ConsulClient:lock(key, options) end

---A permit of the semaphore under a prefix; nothing is sent yet.
---@param prefix string
---@param limit integer how many permits there are; all contenders must say the same
---@param options? consul_ffi.lock.options
---@return consul_ffi.Lock|false semaphore
---@return string? message
---@return consul_ffi.Error? err
function ConsulClient:semaphore(prefix, limit, options) end

---A lock, or a permit of a semaphore.
---@class consul_ffi.Lock
local Lock = {}

---Waits until it is held.
---@param options? consul_ffi.acquire.options
---@return boolean success
---@return number|string response the fencing token, or the message of a failure
---@return consul_ffi.Error? err
function Lock:acquire(options) end

---Waits in the background; acquired or failed is an event.
---@param options? consul_ffi.acquire.options
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function Lock:start(options) end

---Whether it may be acted upon now; asks nobody.
---@return boolean
function Lock:is_held() end

---For how long it may be acted upon without a further proof.
---@return number
function Lock:remaining_ms() end

---The fencing token; nil when nothing is held.
---@return number|string|nil
function Lock:token() end

---Writes another key on condition that this is held, which Consul itself checks.
---@param key string
---@param value string|number|boolean|table
---@return boolean success
---@return number|string response the modify index of the write, or the message of a failure
---@return consul_ffi.Error? err
function Lock:fenced_put(key, value) end

---Gives it up, or waits for it no more.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function Lock:release() end

---The next event, when there is one.
---@return "acquired"|"failed"|"suspended"|"resumed"|"lost"|nil event
---@return any detail the token, the error, or why it was lost
function Lock:poll() end

---The next event, after waiting for it.
---@param timeout_ms? number the longest wait; nil: until there is one or nothing is held or waited for
---@return "acquired"|"failed"|"suspended"|"resumed"|"lost"|nil event
---@return any detail the token, the error, or why it was lost
function Lock:next_event(timeout_ms) end

---The events as they happen, until nothing is held or waited for.
---@return fun(): string?, any
function Lock:events() end

---A descriptor that is readable as long as there is an event; it is not to be read or closed.
---@return integer|false fd
---@return string? message
---@return consul_ffi.Error? err
function Lock:fd() end

---All times that it goes by, chosen and derived.
---@return table<string, string|number>
function Lock:profile() end

---Releases it, waiting a second for that at most.
---@return true
function Lock:close() end

---What a ring knows of a node: what it was told, and the id. In text it reads as the id.
---@class consul_ffi.RingNode
---@field id string
---@field weight? number
---@field [string] any

---A consistent hash ring: which of some nodes a key belongs to.
---@class consul_ffi.ConsistentHashRing
---@field nodes table<string, consul_ffi.RingNode> the nodes by id; to be read only
---@field virtual_nodes integer how many points a node of weight 1 has
---@operator len: integer
local ConsistentHashRing = {}

---A ring without nodes.
---@param virtual_nodes? integer 1 to 10000; default 160
---@return consul_ffi.ConsistentHashRing
function ConsistentHashRing:new(virtual_nodes) end

---Adds a node, or replaces what is known of it.
---@param id string
---@param info? { weight?: number, [string]: any } copied; a node of weight 0 gets no keys; default weight 1
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsistentHashRing:add_node(id, info) end

---Removes a node if it is there.
---@param id string
---@return true
function ConsistentHashRing:remove_node(id) end

---The node that a key belongs to; nil when no node has a share.
---@param key string
---@return string? id
---@return consul_ffi.RingNode? node
function ConsistentHashRing:get_node(key) end

---The ids of the nodes that keys belong to; nil when no node has a share.
---@param keys string[]
---@return string[]? ids
function ConsistentHashRing:get_nodes(keys) end

---The nodes that copies of what a key stands for belong on, the owner first.
---@param key string
---@param n? integer how many; default 2
---@return consul_ffi.RingNode[]|false nodes
---@return string? message
---@return consul_ffi.Error? err
function ConsistentHashRing:get_replica_nodes(key, n) end

---A node of a cluster, as another one knows it; not to be changed. In text it reads as the id.
---@class consul_ffi.ClusterNode
---@field id string
---@field address string
---@field status "up"|"down"|"draining"|"maintenance"
---@field zone string empty when it said none
---@field weight number
---@field meta table<string, string>
---@field started_at integer seconds of Unix time

---A node's part of a shard. In text it reads as the node's id.
---@class consul_ffi.ShardReplica
---@field id string
---@field state "available"|"initializing"|"leaving"
---@field source? string the node that an initializing replica is to get the data from

---Who leads a cluster. In text it reads as the node's id.
---@class consul_ffi.ClusterLeader
---@field node_id string
---@field address string
---@field session_id string
---@field elected_at integer seconds of Unix time

---@class consul_ffi.ClusterStatus
---@field state "stopped"|"joining"|"follower"|"candidate"|"leader"|"suspended"|"draining"|"maintenance"
---@field ready? boolean whether the program polls often enough for its handlers
---@field in_touch boolean whether Consul answers
---@field map_epoch? integer the epoch of the shard map
---@field frozen string[] the members whose absence has frozen the shard map

---This process's node of a cluster.
---@class consul_ffi.ConsulHACluster
---@field node_id string
---@field node_address string
---@field is_leader boolean as is_leader_node
---@field cluster_nodes table<string, consul_ffi.ClusterNode> the nodes by id, as they are at each read
---@field profile table<string, string|number> all times that it goes by
local ConsulHACluster = {}

---A node that is not started; nothing is sent.
---@param config consul_ffi.ClusterConfig
---@return consul_ffi.ConsulHACluster
function ConsulHACluster:new(config) end

---Takes part; waits until the others can see this node and somebody leads.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:start() end

---Takes part no more, and waits until Consul knows.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:stop() end

---Takes part no more, and waits a second at most.
---@return true
function ConsulHACluster:close() end

---Whether this node leads and may act as the leader at this moment; asks nobody.
---@return boolean
function ConsulHACluster:is_leader_node() end

---Who leads; nil when nobody does or Consul is away.
---@return consul_ffi.ClusterLeader?
function ConsulHACluster:get_leader_info() end

---How many nodes are members, those that are down included.
---@return integer
function ConsulHACluster:get_node_count() end

---The nodes whose check does not fail.
---@return consul_ffi.ClusterNode[]
function ConsulHACluster:get_live_nodes() end

---The node that a key belongs to.
---@param key string
---@return string? node_id
---@return consul_ffi.ClusterNode? node
function ConsulHACluster:get_node_for_key(key) end

---The ids of the nodes that keys belong to.
---@param keys string[]
---@return string[]? node_ids
function ConsulHACluster:get_nodes_for_keys(keys) end

---The first nodes for a key, the one it belongs to first.
---@param key string
---@param n? integer how many; default 2
---@return consul_ffi.ClusterNode[]|false nodes
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:get_replica_nodes(key, n) end

---A key's shard; nil before there is a shard map.
---@param key string
---@return integer? shard from 0
---@return string? node_id the node that it belongs to
function ConsulHACluster:get_shard_for_key(key) end

---The shards that a node has.
---@param node_id? string default: this node
---@return integer[]
function ConsulHACluster:get_shards(node_id) end

---Who has a shard by the shard map, whether they live or not.
---@param shard integer from 0
---@return consul_ffi.ShardReplica[]
function ConsulHACluster:get_shard_replicas(shard) end

---Says that this node has got the data of these shards.
---@param shards integer[]
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:shards_ready(shards) end

---What there is to say of this node and its cluster.
---@return consul_ffi.ClusterStatus
function ConsulHACluster:status() end

---The fencing token of the leadership while this node has it.
---@return number|string|nil
function ConsulHACluster:token() end

---Writes a key on condition that this node leads, which Consul itself checks.
---@param key string
---@param value string|number|boolean|table
---@return number|string|false index the modify index of the write
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:fenced_put(key, value) end

---Lets another node lead.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:hand_over() end

---Lets a node's shards go to others, or lets it take part again.
---@param on? boolean default true
---@param node_id? string default: this node
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:drain(on, node_id) end

---Routes nothing to a node, which keeps its shards, or lets it take part again.
---@param on? boolean default true
---@param node_id? string default: this node
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:maintenance(on, node_id) end

---Lets the shard map change again after it was frozen.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:resume() end

---The next event, when there is one.
---@return "leader_changed"|"node_joined"|"node_left"|"shards_changed"|"suspended"|"resumed"|"frozen"|"thawed"|"stopped"|nil event
---@return any detail an id, an epoch, a list of ids, or why it stopped
function ConsulHACluster:poll_event() end

---The next event, after waiting for it.
---@param timeout_ms? number the longest wait; nil: until there is one or the node is stopped
---@return "leader_changed"|"node_joined"|"node_left"|"shards_changed"|"suspended"|"resumed"|"frozen"|"thawed"|"stopped"|nil event
---@return any detail an id, an epoch, a list of ids, or why it stopped
function ConsulHACluster:next_event(timeout_ms) end

---The events as they happen, until the node is stopped.
---@return fun(): string?, any
function ConsulHACluster:events() end

---A descriptor that is readable as long as there is an event or a request; it is not to be read or
---closed.
---@return integer|false fd
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:fd() end

---A request of another node.
---@class consul_ffi.ClusterRequest
---@field from string the node that calls
---@field name string what it calls
---@field deadline_ms integer how long it still waits
---@field shard? integer the shard that the call is about
---@field epoch integer the epoch of the caller's shard map; 0: it has none
---@field idempotency_key string the same when the same call is made again

---Answers calls of this name by a function, or no more.
---@param name string
---@param fn? fun(body: any, request: consul_ffi.ClusterRequest): any, string?
---@return true
function ConsulHACluster:handle(name, fn) end

---@class consul_ffi.ClusterCallOptions
---@field timeout_ms? number the whole time that it may take; default 5000
---@field shard? integer the shard that the call is about: a node with a newer shard map refuses it
---@field idempotency_key? string tells the handler which calls are the same one

---Calls a handler of a node, which may be this one; answers requests meanwhile.
---@param node_id string
---@param name string
---@param body? any a string or what JSON can hold
---@param options? consul_ffi.ClusterCallOptions
---@return boolean success
---@return any reply or the message
---@return consul_ffi.Error? err
function ConsulHACluster:call(node_id, name, body, options) end

---Calls a handler of many nodes at once; answers requests meanwhile.
---@param name string
---@param body? any a string or what JSON can hold
---@param options? { timeout_ms?: number, nodes?: string[] } default: 5000, all live nodes
---@return boolean success
---@return table<string, { success: boolean, data: any, error: string? }>|string results or the message
---@return consul_ffi.Error? err
function ConsulHACluster:broadcast(name, body, options) end

---Answers requests that wait.
---@param timeout_ms? number how long to wait for the first one; default 0
---@param max? integer how many at most; default 64
---@return integer|false count
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:poll(timeout_ms, max) end

---Answers requests until the node is stopped.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:run() end
