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

---What a client is made with; docs/configuration.md says more.
---@class consul_ffi.ConsulConfig
---@field endpoints? string|string[] The agents to speak to; the next one is asked when one does not answer. `host:port`, `http://host:port`, `https://host:port`, each with a path when Consul is behind a proxy, or `unix:///path` of a socket. Default: http://127.0.0.1:8500.
---@field endpoint? string|string[] Another name of endpoints.
---@field consul_url? string|string[] Another name of endpoints.
---@field consul_endpoints? string|string[] Another name of endpoints.
---@field timeout? number The whole time that one call may take, in milliseconds, all attempts together; a blocking query gets its wait in addition. Default: 5000.
---@field timeout_ms? number Another name of timeout.
---@field connect_timeout_ms? number How long making one connection may take, the TLS handshake included. Default: 2000.
---@field retry_count? integer How many times a call is made again after a failure that may pass, when each endpoint has been asked once. Default: 3.
---@field stale_if_error? boolean When the leader does not answer a read within half of its time, any server may; `meta.stale` then says so. Default: false.
---@field max_connections? integer How many requests may be under way to one endpoint at a time, each on a connection of its own; more wait for their turn, at most `connect_timeout_ms`. An agent refuses more than 200 connections from one address. Default: 64.
---@field max_idle_connections? integer How many connections to one endpoint are kept for later requests. Default: 64.
---@field idle_timeout_ms? number A connection that was idle for longer is not used again, and closed within the same time once more. Default: 90000.
---@field token? string The ACL token. Default: none.
---@field acl_token? string Another name of token.
---@field token_file? string A file that holds the ACL token; it is read again when it changes. Default: none.
---@field http_auth? string User and password for a proxy in front of Consul that asks for HTTP basic authentication. Default: none.
---@field datacenter? string The datacenter that calls go to unless they say another. Default: the agent's own.
---@field dc? string Another name of datacenter.
---@field namespace? string The namespace (Consul Enterprise). Default: none.
---@field partition? string The admin partition (Consul Enterprise). Default: none.
---@field consistency? "default"|"stale"|"consistent" How fresh reads are unless they say otherwise. Default: default.
---@field tls? boolean True: every endpoint but unix sockets is spoken to over TLS, also one without a scheme or with `http://`. Default: as the endpoint's scheme says.
---@field tls_enabled? boolean Another name of tls.
---@field tls_verify? boolean False: any certificate of a server is accepted, so that who sits between can read and change everything. Default: true.
---@field tls_ca_file? string A PEM file with the certificates of the authorities that servers are trusted by, and no others. Default: the system's store.
---@field tls_ca_path? string A folder of such files; with `tls_ca_file` both are trusted. Default: the system's store.
---@field tls_cert_file? string A PEM file with the certificate that this client shows to servers, then those that signed it. Default: none.
---@field tls_key_file? string A PEM file with the key of that certificate, not encrypted. Default: none.
---@field tls_server_name? string The host name that a server's certificate must be for, such as `server.dc1.consul`. Default: the endpoint's host.
---@field guard? boolean Start a program of its own, `consul-guard`, with the first lock or semaphore, which frees what this process holds as soon as it dies, however it does. Default: false.
---@field guard_program? string The file of that program. Default: where it was installed with the module.
---@field simulate? boolean|string Speak to an agent in this process's memory instead of a server. Clients with the same endpoints share one; a name makes one of its own. Default: false.
---@field client_name? string A name by which faults of a simulated agent can concern this client alone. Default: none.
---@field strip_leading_slash? boolean Take one leading `/` off keys, as etcd's keys have it, instead of refusing them. Default: false.
---@field log_level? "DEBUG"|"INFO"|"WARN"|"ERROR" What is written to standard error. The first client of a process decides. Default: WARN.

---What a node of a cluster is made with; docs/configuration.md says more.
---@class consul_ffi.ClusterConfig: consul_ffi.ConsulConfig
---@field node_id? string The node's name in the cluster, which no other live node has. Default: none; it must be said.
---@field node_address? string Where the other nodes find it, `host:port`. Default: none; it must be said.
---@field zone? string Replicas of a shard are in different zones as long as there are enough of them. Default: none.
---@field weight? number The node's share of the shards beside the others'; 0: it gets none. Default: 1.
---@field meta? table<string, string> What else the other nodes shall know of it. Default: none.
---@field profile? string|table How fast a crash is noticed against how long a stall is borne: check, beat, lease and lock delay come from it (docs/coordination.md). Default: default.
---@field lease_ttl? number|string The TTL of the leader's session in seconds, 10 or more: the backstop when neither the node nor its agent is there to end it. It delays no ordinary failover. Default: 10.
---@field heartbeat_interval? number|string How often the node reads its own key back, in seconds; it writes only when the key differs. That the node lives is told by its check, more often. Default: 5.
---@field shards? integer How many shards there are; the same on all nodes. At least 50 replicas of shards for each node keep the loads even. Default: 1024.
---@field replicas? integer How many nodes have each shard; the same on all nodes. Default: 2.
---@field replication_factor? integer Another name of replicas.
---@field hand_off? boolean Whether the program gets the data of the node's new shards from who has them, and says so by `shards_ready`. Until then they are initializing, and who had them keeps them. Default: false.
---@field min_nodes? integer With fewer live nodes the shard map stays as it is. Default: 1.
---@field replace_after_s? number|string How long a node may be away before others get its shards, in seconds. Requests avoid it at once. Default: 300.
---@field forget_after_s? number|string How long a node may be away before it is no member any more, in seconds. Default: 3600.
---@field start_timeout_ms? number How long `start` waits for the node to be a member and for a leader, in milliseconds. Default: 10000.
---@field data_address? string Where the node listens for requests of the others, `host:port`, 0 for any port; its key says where that is. What other machines can reach takes a `cluster_key`. `0.0.0.0` is every address of the machine; the others then find it at the host of `node_address`. Default: 127.0.0.1:0.
---@field cluster_key? string The secret that requests between nodes are signed with, 16 bytes or more; the same on all nodes. What is sent is not encrypted. Default: none.
---@field max_request_bytes? integer The largest request that the node makes or takes, in bytes. Default: 4194304.
---@field max_reply_bytes? integer The largest reply that the node gives or takes, in bytes. Default: 16777216.
---@field max_in_flight? integer How many calls to one other node may be under way; a further one fails at once. Default: 64.
---@field max_waiting_requests? integer How many requests of other nodes may wait for the program; further ones are refused. Default: 256.
---@field leader_key? string The key whose lock is the leadership. When it is not said it stands beside `nodes_prefix`, as do the next two. Default: tsdb/cluster/leader.
---@field nodes_prefix? string The prefix of the nodes' keys. The name of the nodes' service is made of it. Default: tsdb/cluster/nodes/.
---@field shards_prefix? string The prefix of the shard map's keys. Default: tsdb/cluster/shards/.
---@field config_key? string The key of what all nodes must agree on. Default: tsdb/cluster/config.

---@class consul_ffi.Options
---@field timeout_ms? number The longest the call may take, all attempts together.
---@field retry? boolean False: the request is sent at most once, and its fate is not looked up.
---@field token? string The ACL token for this call instead of the client's.

---@class consul_ffi.Scope
---@field dc? string The datacenter; default: the agent's own.
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---@class consul_ffi.Consistency
---@field stale? boolean Any server may answer, even one that has no leader.
---@field consistent? boolean The leader confirms its leadership before it answers: linearizable.
---@field stale_if_error? boolean True: when the leader does not answer, any server may; `meta.stale` then says so.

---@class consul_ffi.Blocking
---@field index? integer|string Wait until the result is newer than this index.
---@field wait? number|string The longest wait; Consul adds up to a sixteenth. Default 5 minutes.

---@class consul_ffi.Filter
---@field filter? string A filter expression that the server evaluates.

---@class consul_ffi.Nodes
---@field near? string Sort by distance from this node, or from `_agent`.
---@field node_meta? table<string, string> Only nodes that have all this metadata.

-- Keys and values

---@class consul_ffi.kv_get.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking

---Reads one key; nil when it does not exist.
---@param key string The key.
---@param options? consul_ffi.kv_get.options
---@return boolean success
---@return string? response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:kv_get(key, options) end

---@class consul_ffi.kv_list.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking

---Reads all entries whose key begins with a prefix.
---@param key string The prefix: plain text, of which `/` is no special part.
---@param options? consul_ffi.kv_list.options
---@return boolean success
---@return consul_ffi.KvEntry[]|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:kv_list(key, options) end

---@class consul_ffi.kv_keys.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field separator? string Cut keys after this text beyond the prefix.

---Lists the keys that begin with a prefix.
---@param key string The prefix: plain text, of which `/` is no special part.
---@param options? consul_ffi.kv_keys.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:kv_keys(key, options) end

---@class consul_ffi.kv_put.options: consul_ffi.Options, consul_ffi.Scope
---@field flags? integer|string A number that is stored beside the value.
---@field cas? integer|string Write only if the key's modify index is this; 0: only if it does not exist.
---@field acquire? string Write and lock the key with this session.
---@field release? string Write and give up this session's lock on the key.

---Writes one key.
---@param key string The key.
---@param value string|number|boolean|table The value: a string of bytes; a number or boolean is stored as its text, a table as JSON.
---@param options? consul_ffi.kv_put.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:kv_put(key, value, options) end

---@class consul_ffi.kv_delete.options: consul_ffi.Options, consul_ffi.Scope
---@field cas? integer|string Delete only if the key's modify index is this.

---Deletes one key, and no other that begins with it; a missing one is deleted already.
---@param key string The key.
---@param options? consul_ffi.kv_delete.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:kv_delete(key, options) end

---@class consul_ffi.kv_delete_tree.options: consul_ffi.Options, consul_ffi.Scope

---Deletes all keys that begin with a prefix; the empty prefix means every key.
---@param key string The prefix: plain text, of which `/` is no special part.
---@param options? consul_ffi.kv_delete_tree.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:kv_delete_tree(key, options) end

-- Transactions

---@class consul_ffi.txn.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency

---Applies all operations or none; deletes and check-not-exists give no result.
---@param operations { KV?: { Verb?: "set"|"cas"|"lock"|"unlock"|"get"|"get-or-empty"|"get-tree"|"check-index"|"check-session"|"check-not-exists"|"delete"|"delete-tree"|"delete-cas", Key?: string, Value?: string, Flags?: integer|string, Index?: integer|string, Session?: string }, Node?: { Verb?: "set"|"cas"|"get"|"delete"|"delete-cas", Node?: { ID?: string, Node?: string, Address?: string, TaggedAddresses?: table<string, string>, Meta?: table<string, string>, ModifyIndex?: integer|string } }, Service?: { Verb?: "set"|"cas"|"get"|"delete"|"delete-cas", Node?: string, Service?: { ID?: string, Service?: string, Tags?: string|string[], Meta?: table<string, string>, Address?: string, Port?: integer, TaggedAddresses?: table, Weights?: table, EnableTagOverride?: boolean, ModifyIndex?: integer|string } }, Check?: { Verb?: "set"|"cas"|"get"|"delete"|"delete-cas", Check?: { Node?: string, CheckID?: string, Name?: string, Notes?: string, Status?: "passing"|"warning"|"critical", Output?: string, ServiceID?: string, ModifyIndex?: integer|string } } }[] The operations, applied in order.
---@param options? consul_ffi.txn.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:txn(operations, options) end

-- Sessions

---@class consul_ffi.session_create.options: consul_ffi.Options, consul_ffi.Scope

---Creates a session and returns its id.
---@param definition? { Name?: string, Node?: string, LockDelay?: number|string, Behavior?: "release"|"delete", TTL?: number|string, NodeChecks?: string|string[], ServiceChecks?: { ID?: string }[], Checks?: string|string[] } What the session is to be.
---@param options? consul_ffi.session_create.options
---@return boolean success
---@return string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:session_create(definition, options) end

---@class consul_ffi.session_destroy.options: consul_ffi.Options, consul_ffi.Scope

---Ends a session; its locks are released or deleted, as it was created for.
---@param session string The session's id.
---@param options? consul_ffi.session_destroy.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:session_destroy(session, options) end

---@class consul_ffi.session_renew.options: consul_ffi.Options, consul_ffi.Scope

---Starts a session's TTL anew.
---@param session string The session's id.
---@param options? consul_ffi.session_renew.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:session_renew(session, options) end

---@class consul_ffi.session_info.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking

---Reads one session; nil when it does not exist.
---@param session string The session's id.
---@param options? consul_ffi.session_info.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:session_info(session, options) end

---@class consul_ffi.session_node.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking

---Lists the sessions of one node.
---@param node string The node's name.
---@param options? consul_ffi.session_node.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:session_node(node, options) end

---@class consul_ffi.session_list.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking

---Lists all sessions.
---@param options? consul_ffi.session_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:session_list(options) end

-- The agent

---@class consul_ffi.agent_self.options: consul_ffi.Options

---The agent's configuration and state.
---@param options? consul_ffi.agent_self.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_self(options) end

---@class consul_ffi.agent_services.options: consul_ffi.Options, consul_ffi.Filter
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---The instances registered with this agent, by id.
---@param options? consul_ffi.agent_services.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_services(options) end

---@class consul_ffi.agent_service.options: consul_ffi.Options
---@field hash? string Wait until the content is other than this content hash.
---@field wait? number|string The longest wait; Consul adds up to a sixteenth. Default 5 minutes.
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---Reads one instance of this agent; nil when it does not exist.
---@param service_id string The instance's id (not the service's name).
---@param options? consul_ffi.agent_service.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_service(service_id, options) end

---@class consul_ffi.agent_checks.options: consul_ffi.Options, consul_ffi.Filter
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---The checks registered with this agent, by id.
---@param options? consul_ffi.agent_checks.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_checks(options) end

---@class consul_ffi.agent_service_register.options: consul_ffi.Options
---@field replace_existing_checks? boolean Remove the instance's checks that the definition does not name.
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---Registers an instance with this agent, or changes it.
---@param definition { Name?: string, ID?: string, Tags?: string|string[], Meta?: table<string, string>, Address?: string, Port?: integer, SocketPath?: string, TaggedAddresses?: table<string, { Address?: string, Port?: integer }>, Weights?: { Passing?: integer|string, Warning?: integer|string }, EnableTagOverride?: boolean, Check?: { CheckID?: string, Name?: string, Notes?: string, Status?: "passing"|"warning"|"critical", TTL?: number|string, Interval?: number|string, Timeout?: number|string, HTTP?: string, Method?: string, Header?: table<string, string[]>, Body?: string, DisableRedirects?: boolean, TCP?: string, TCPUseTLS?: boolean, UDP?: string, GRPC?: string, GRPCUseTLS?: boolean, H2PING?: string, H2PingUseTLS?: boolean, OSService?: string, Args?: string|string[], DockerContainerID?: string, Shell?: string, AliasNode?: string, AliasService?: string, TLSServerName?: string, TLSSkipVerify?: boolean, OutputMaxSize?: integer|string, SuccessBeforePassing?: integer|string, FailuresBeforeWarning?: integer|string, FailuresBeforeCritical?: integer|string, DeregisterCriticalServiceAfter?: number|string, Namespace?: string }, Checks?: { CheckID?: string, Name?: string, Notes?: string, Status?: "passing"|"warning"|"critical", TTL?: number|string, Interval?: number|string, Timeout?: number|string, HTTP?: string, Method?: string, Header?: table<string, string[]>, Body?: string, DisableRedirects?: boolean, TCP?: string, TCPUseTLS?: boolean, UDP?: string, GRPC?: string, GRPCUseTLS?: boolean, H2PING?: string, H2PingUseTLS?: boolean, OSService?: string, Args?: string|string[], DockerContainerID?: string, Shell?: string, AliasNode?: string, AliasService?: string, TLSServerName?: string, TLSSkipVerify?: boolean, OutputMaxSize?: integer|string, SuccessBeforePassing?: integer|string, FailuresBeforeWarning?: integer|string, FailuresBeforeCritical?: integer|string, DeregisterCriticalServiceAfter?: number|string, Namespace?: string }[], Kind?: string, Proxy?: table, Connect?: table, Locality?: table, Namespace?: string, Partition?: string } The instance.
---@param options? consul_ffi.agent_service_register.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_service_register(definition, options) end

---@class consul_ffi.agent_service_deregister.options: consul_ffi.Options
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---Removes an instance and its checks from this agent; a missing one is gone already.
---@param service_id string The instance's id (not the service's name).
---@param options? consul_ffi.agent_service_deregister.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_service_deregister(service_id, options) end

---@class consul_ffi.agent_check_register.options: consul_ffi.Options
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---Registers a check with this agent, or changes it.
---@param definition { ServiceID?: string, ID?: string, Name?: string, Notes?: string, Status?: "passing"|"warning"|"critical", TTL?: number|string, Interval?: number|string, Timeout?: number|string, HTTP?: string, Method?: string, Header?: table<string, string[]>, Body?: string, DisableRedirects?: boolean, TCP?: string, TCPUseTLS?: boolean, UDP?: string, GRPC?: string, GRPCUseTLS?: boolean, H2PING?: string, H2PingUseTLS?: boolean, OSService?: string, Args?: string|string[], DockerContainerID?: string, Shell?: string, AliasNode?: string, AliasService?: string, TLSServerName?: string, TLSSkipVerify?: boolean, OutputMaxSize?: integer|string, SuccessBeforePassing?: integer|string, FailuresBeforeWarning?: integer|string, FailuresBeforeCritical?: integer|string, DeregisterCriticalServiceAfter?: number|string, Namespace?: string } The check.
---@param options? consul_ffi.agent_check_register.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_check_register(definition, options) end

---@class consul_ffi.agent_check_deregister.options: consul_ffi.Options
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---Removes a check from this agent; a missing one is gone already.
---@param check_id string The check's id (not its name).
---@param options? consul_ffi.agent_check_deregister.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_check_deregister(check_id, options) end

---@class consul_ffi.agent_check_pass.options: consul_ffi.Options
---@field note? string What the check says.
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---Sets a TTL check to passing and starts its TTL anew.
---@param check_id string The check's id (not its name).
---@param options? consul_ffi.agent_check_pass.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_check_pass(check_id, options) end

---@class consul_ffi.agent_check_warn.options: consul_ffi.Options
---@field note? string What the check says.
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---Sets a TTL check to warning and starts its TTL anew.
---@param check_id string The check's id (not its name).
---@param options? consul_ffi.agent_check_warn.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_check_warn(check_id, options) end

---@class consul_ffi.agent_check_fail.options: consul_ffi.Options
---@field note? string What the check says.
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---Sets a TTL check to critical and starts its TTL anew.
---@param check_id string The check's id (not its name).
---@param options? consul_ffi.agent_check_fail.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_check_fail(check_id, options) end

---@class consul_ffi.agent_check_update.options: consul_ffi.Options
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---Sets a TTL check to a state and starts its TTL anew.
---@param check_id string The check's id (not its name).
---@param update { Status?: "passing"|"warning"|"critical", Output?: string } The state and what it says.
---@param options? consul_ffi.agent_check_update.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_check_update(check_id, update, options) end

---@class consul_ffi.agent_health_service_id.options: consul_ffi.Options
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---The aggregated health of one instance of this agent; nil when it does not exist.
---@param service_id string The instance's id (not the service's name).
---@param options? consul_ffi.agent_health_service_id.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_health_service_id(service_id, options) end

---@class consul_ffi.agent_health_service_name.options: consul_ffi.Options
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---The aggregated health of this agent's instances of a service.
---@param service string The service's name.
---@param options? consul_ffi.agent_health_service_name.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_health_service_name(service, options) end

---@class consul_ffi.agent_service_maintenance.options: consul_ffi.Options
---@field reason? string Why, for people.
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---Turns an instance's maintenance mode on or off: a critical check.
---@param service_id string The instance's id (not the service's name).
---@param enable boolean On or off.
---@param options? consul_ffi.agent_service_maintenance.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_service_maintenance(service_id, enable, options) end

---@class consul_ffi.agent_maintenance.options: consul_ffi.Options
---@field reason? string Why, for people.

---Turns the node's maintenance mode on or off: a critical check.
---@param enable boolean On or off.
---@param options? consul_ffi.agent_maintenance.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_maintenance(enable, options) end

---@class consul_ffi.agent_members.options: consul_ffi.Options, consul_ffi.Filter
---@field wan? boolean The pool of servers of all datacenters.
---@field segment? string The network segment (Consul Enterprise).

---The members of the gossip pool.
---@param options? consul_ffi.agent_members.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_members(options) end

---@class consul_ffi.agent_metrics.options: consul_ffi.Options

---The agent's metrics of the last interval.
---@param options? consul_ffi.agent_metrics.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_metrics(options) end

---@class consul_ffi.agent_host.options: consul_ffi.Options

---The agent's host: memory, processors, disks.
---@param options? consul_ffi.agent_host.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_host(options) end

---@class consul_ffi.agent_version.options: consul_ffi.Options

---The agent's version.
---From Consul 1.16.
---@param options? consul_ffi.agent_version.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_version(options) end

---@class consul_ffi.agent_reload.options: consul_ffi.Options

---Makes the agent read its configuration files again.
---@param options? consul_ffi.agent_reload.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_reload(options) end

---@class consul_ffi.agent_join.options: consul_ffi.Options
---@field wan? boolean Join the pool of servers of all datacenters.

---Makes the agent join a cluster.
---@param address string The address of a member.
---@param options? consul_ffi.agent_join.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_join(address, options) end

---@class consul_ffi.agent_leave.options: consul_ffi.Options

---Makes the agent leave the cluster and end.
---@param options? consul_ffi.agent_leave.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_leave(options) end

---@class consul_ffi.agent_force_leave.options: consul_ffi.Options
---@field prune? boolean Forget the member altogether.
---@field wan? boolean In the pool of servers of all datacenters (from 1.11).

---Makes a failed member one that has left.
---@param node string The member's name.
---@param options? consul_ffi.agent_force_leave.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_force_leave(node, options) end

---@class consul_ffi.agent_token.options: consul_ffi.Options

---Sets one of the agent's own tokens.
---@param kind string Which one: default, agent, agent_recovery, replication, ....
---@param token { Token?: string } The token.
---@param options? consul_ffi.agent_token.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_token(kind, token, options) end

---@class consul_ffi.agent_connect_authorize.options: consul_ffi.Options
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---Whether a mesh connection is allowed.
---@param connection { Target?: string, ClientCertURI?: string, ClientCertSerial?: string } The connection.
---@param options? consul_ffi.agent_connect_authorize.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_connect_authorize(connection, options) end

---@class consul_ffi.agent_connect_ca_roots.options: consul_ffi.Options, consul_ffi.Blocking

---The mesh's root certificates, as the agent caches them.
---@param options? consul_ffi.agent_connect_ca_roots.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_connect_ca_roots(options) end

---@class consul_ffi.agent_connect_ca_leaf.options: consul_ffi.Options, consul_ffi.Blocking
---@field namespace? string The namespace (Consul Enterprise).
---@field partition? string The admin partition (Consul Enterprise).

---A service's mesh certificate with its private key.
---@param service string The service's name.
---@param options? consul_ffi.agent_connect_ca_leaf.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:agent_connect_ca_leaf(service, options) end

-- The catalog

---@class consul_ffi.catalog_register.options: consul_ffi.Options, consul_ffi.Scope

---Registers a node, an instance and checks in the catalog, with no agent behind them.
---@param registration { Node?: string, Address?: string, ID?: string, NodeMeta?: table<string, string>, TaggedAddresses?: table<string, string>, Service?: { ID?: string, Service?: string, Tags?: string|string[], Meta?: table<string, string>, Address?: string, Port?: integer, TaggedAddresses?: table<string, { Address?: string, Port?: integer }>, Weights?: { Passing?: integer|string, Warning?: integer|string }, EnableTagOverride?: boolean }, Check?: { Node?: string, CheckID?: string, Name?: string, Notes?: string, Status?: "passing"|"warning"|"critical", Output?: string, ServiceID?: string, Definition?: table }, Checks?: { Node?: string, CheckID?: string, Name?: string, Notes?: string, Status?: "passing"|"warning"|"critical", Output?: string, ServiceID?: string, Definition?: table }[], SkipNodeUpdate?: boolean } What to register.
---@param options? consul_ffi.catalog_register.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:catalog_register(registration, options) end

---@class consul_ffi.catalog_deregister.options: consul_ffi.Options, consul_ffi.Scope

---Removes a node, an instance or a check from the catalog.
---@param deregistration { Node?: string, ServiceID?: string, CheckID?: string } What to remove.
---@param options? consul_ffi.catalog_deregister.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:catalog_deregister(deregistration, options) end

---@class consul_ffi.catalog_datacenters.options: consul_ffi.Options
---@field cached? boolean The agent may answer from its cache.

---Lists the known datacenters, the nearest first.
---@param options? consul_ffi.catalog_datacenters.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:catalog_datacenters(options) end

---@class consul_ffi.catalog_nodes.options: consul_ffi.Options, consul_ffi.Nodes, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field peer? string The peer to read from (from 1.13).

---Lists the nodes.
---@param options? consul_ffi.catalog_nodes.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:catalog_nodes(options) end

---@class consul_ffi.catalog_services.options: consul_ffi.Options, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field node_meta? table<string, string> Only nodes that have all this metadata.
---@field cached? boolean The agent may answer from its cache.

---The tags in use by service name.
---@param options? consul_ffi.catalog_services.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:catalog_services(options) end

---@class consul_ffi.catalog_service.options: consul_ffi.Options, consul_ffi.Nodes, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field tag? string|string[] Only instances that have all these tags.
---@field cached? boolean The agent may answer from its cache.
---@field peer? string The peer to read from (from 1.13).
---@field merge_central_config? boolean Merge the central proxy configuration into each instance (from 1.13).

---Lists a service's instances, whatever their health.
---@param service string The service's name.
---@param options? consul_ffi.catalog_service.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:catalog_service(service, options) end

---@class consul_ffi.catalog_node.options: consul_ffi.Options, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field peer? string The peer to read from (from 1.13).

---Reads a node and its instances by id; nil when it does not exist.
---@param node string The node's name.
---@param options? consul_ffi.catalog_node.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:catalog_node(node, options) end

---@class consul_ffi.catalog_node_services.options: consul_ffi.Options, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field peer? string The peer to read from (from 1.13).
---@field merge_central_config? boolean Merge the central proxy configuration into each instance (from 1.13).

---Reads a node and the list of its instances; `Node` is nil when it does not exist.
---@param node string The node's name.
---@param options? consul_ffi.catalog_node_services.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:catalog_node_services(node, options) end

---@class consul_ffi.catalog_connect.options: consul_ffi.Options, consul_ffi.Nodes, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field tag? string|string[] Only instances that have all these tags.
---@field cached? boolean The agent may answer from its cache.
---@field peer? string The peer to read from (from 1.13).
---@field merge_central_config? boolean Merge the central proxy configuration into each instance (from 1.13).

---Lists the mesh-capable instances of a service, proxies included.
---@param service string The service's name.
---@param options? consul_ffi.catalog_connect.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:catalog_connect(service, options) end

---@class consul_ffi.catalog_gateway_services.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking

---Lists the services that a gateway serves.
---@param gateway string The gateway's name.
---@param options? consul_ffi.catalog_gateway_services.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:catalog_gateway_services(gateway, options) end

-- Health

---@class consul_ffi.health_service.options: consul_ffi.Options, consul_ffi.Nodes, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field tag? string|string[] Only instances that have all these tags.
---@field passing? boolean Only instances all of whose checks pass.
---@field cached? boolean The agent may answer from its cache.
---@field peer? string The peer to read from (from 1.13).
---@field merge_central_config? boolean Merge the central proxy configuration into each instance (from 1.13).

---Lists a service's instances, each with its node and checks.
---@param service string The service's name.
---@param options? consul_ffi.health_service.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:health_service(service, options) end

---@class consul_ffi.health_connect.options: consul_ffi.Options, consul_ffi.Nodes, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field tag? string|string[] Only instances that have all these tags.
---@field passing? boolean Only instances all of whose checks pass.
---@field cached? boolean The agent may answer from its cache.
---@field peer? string The peer to read from (from 1.13).
---@field merge_central_config? boolean Merge the central proxy configuration into each instance (from 1.13).

---Lists the mesh-capable instances of a service, each with its node and checks.
---@param service string The service's name.
---@param options? consul_ffi.health_connect.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:health_connect(service, options) end

---@class consul_ffi.health_ingress.options: consul_ffi.Options, consul_ffi.Nodes, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field tag? string|string[] Only instances that have all these tags.
---@field passing? boolean Only instances all of whose checks pass.
---@field cached? boolean The agent may answer from its cache.
---@field peer? string The peer to read from (from 1.13).
---@field merge_central_config? boolean Merge the central proxy configuration into each instance (from 1.13).

---Lists the ingress gateways of a service, each with its node and checks.
---@param service string The service's name.
---@param options? consul_ffi.health_ingress.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:health_ingress(service, options) end

---@class consul_ffi.health_node.options: consul_ffi.Options, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field peer? string The peer to read from (from 1.13).

---Lists the checks of one node.
---@param node string The node's name.
---@param options? consul_ffi.health_node.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:health_node(node, options) end

---@class consul_ffi.health_checks.options: consul_ffi.Options, consul_ffi.Nodes, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field peer? string The peer to read from (from 1.13).

---Lists the checks of a service's instances.
---@param service string The service's name.
---@param options? consul_ffi.health_checks.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:health_checks(service, options) end

---@class consul_ffi.health_state.options: consul_ffi.Options, consul_ffi.Nodes, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field peer? string The peer to read from (from 1.13).

---Lists the checks in one state.
---@param state "any"|"passing"|"warning"|"critical" The state, or any.
---@param options? consul_ffi.health_state.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:health_state(state, options) end

-- Events

---@class consul_ffi.event_fire.options: consul_ffi.Options
---@field dc? string The datacenter; default: the agent's own.
---@field node? string Only nodes whose name matches this regular expression.
---@field service? string Only nodes with a service that matches this.
---@field tag? string Only services with a tag that matches this.

---Sends a small message to all agents.
---@param name string The event's name.
---@param payload? string|number|boolean|table Bytes that go with it; about 400 at most.
---@param options? consul_ffi.event_fire.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:event_fire(name, payload, options) end

---@class consul_ffi.event_list.options: consul_ffi.Options, consul_ffi.Blocking
---@field name? string Only events of this name.

---Lists the last events that reached this agent, 256 at most; the index is a hash.
---@param options? consul_ffi.event_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:event_list(options) end

-- Coordinates

---@class consul_ffi.coordinate_datacenters.options: consul_ffi.Options

---The coordinates of the servers of all datacenters.
---@param options? consul_ffi.coordinate_datacenters.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:coordinate_datacenters(options) end

---@class consul_ffi.coordinate_nodes.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field segment? string The network segment (Consul Enterprise).

---The coordinates of all nodes.
---@param options? consul_ffi.coordinate_nodes.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:coordinate_nodes(options) end

---@class consul_ffi.coordinate_node.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field segment? string The network segment (Consul Enterprise).

---The coordinates of one node.
---@param node string The node's name.
---@param options? consul_ffi.coordinate_node.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:coordinate_node(node, options) end

---@class consul_ffi.coordinate_update.options: consul_ffi.Options, consul_ffi.Scope

---Sets a node's coordinate.
---@param update { Node?: string, Segment?: string, Coord?: table } The node and its coordinate.
---@param options? consul_ffi.coordinate_update.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:coordinate_update(update, options) end

-- Raft status

---@class consul_ffi.status_leader.options: consul_ffi.Options
---@field dc? string The datacenter; default: the agent's own.

---The Raft leader's address, as "ip:port"; empty when there is none.
---@param options? consul_ffi.status_leader.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:status_leader(options) end

---@class consul_ffi.status_peers.options: consul_ffi.Options
---@field dc? string The datacenter; default: the agent's own.

---The addresses of all Raft peers.
---@param options? consul_ffi.status_peers.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:status_peers(options) end

-- Access control

---@class consul_ffi.acl_bootstrap.options: consul_ffi.Options

---Creates the first management token; possible once.
---@param secret? { BootstrapSecret?: string } The secret to use instead of a new one.
---@param options? consul_ffi.acl_bootstrap.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_bootstrap(secret, options) end

---@class consul_ffi.acl_replication.options: consul_ffi.Options
---@field dc? string The datacenter; default: the agent's own.

---The state of ACL replication.
---@param options? consul_ffi.acl_replication.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_replication(options) end

---@class consul_ffi.acl_login.options: consul_ffi.Options, consul_ffi.Scope

---Exchanges a bearer token for an ACL token.
---@param login { AuthMethod?: string, BearerToken?: string, Meta?: table<string, string> } The auth method and its token.
---@param options? consul_ffi.acl_login.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_login(login, options) end

---@class consul_ffi.acl_logout.options: consul_ffi.Options

---Destroys the token that the call is made with, if it came from a login.
---@param options? consul_ffi.acl_logout.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_logout(options) end

---@class consul_ffi.acl_token_list.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field policy? string Only tokens with the policy of this id.
---@field role? string Only tokens with the role of this id.
---@field auth_method? string Only tokens from this auth method.
---@field service_name? string Only tokens with this service identity (from 1.17.1).

---Lists the tokens.
---@param options? consul_ffi.acl_token_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_token_list(options) end

---@class consul_ffi.acl_token_self.options: consul_ffi.Options, consul_ffi.Consistency

---Reads the token that the call is made with.
---@param options? consul_ffi.acl_token_self.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_token_self(options) end

---@class consul_ffi.acl_token_create.options: consul_ffi.Options, consul_ffi.Scope

---Creates a token.
---@param token { AccessorID?: string, SecretID?: string, Description?: string, Policies?: { ID?: string, Name?: string }[], Roles?: { ID?: string, Name?: string }[], ServiceIdentities?: { ServiceName?: string, Datacenters?: string|string[] }[], NodeIdentities?: { NodeName?: string, Datacenter?: string }[], TemplatedPolicies?: { TemplateName?: string, TemplateVariables?: table, Datacenters?: string|string[] }[], Local?: boolean, ExpirationTime?: string, ExpirationTTL?: number|string, AuthMethod?: string } The token.
---@param options? consul_ffi.acl_token_create.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_token_create(token, options) end

---@class consul_ffi.acl_token_read.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency
---@field expanded? boolean With the rules behind it (from 1.12).

---Reads a token.
---@param accessor string The token's accessor id.
---@param options? consul_ffi.acl_token_read.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_token_read(accessor, options) end

---@class consul_ffi.acl_token_update.options: consul_ffi.Options, consul_ffi.Scope

---Replaces a token.
---@param accessor string The token's accessor id.
---@param token { AccessorID?: string, SecretID?: string, Description?: string, Policies?: { ID?: string, Name?: string }[], Roles?: { ID?: string, Name?: string }[], ServiceIdentities?: { ServiceName?: string, Datacenters?: string|string[] }[], NodeIdentities?: { NodeName?: string, Datacenter?: string }[], TemplatedPolicies?: { TemplateName?: string, TemplateVariables?: table, Datacenters?: string|string[] }[], Local?: boolean, ExpirationTime?: string, ExpirationTTL?: number|string, AuthMethod?: string } The token.
---@param options? consul_ffi.acl_token_update.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_token_update(accessor, token, options) end

---@class consul_ffi.acl_token_delete.options: consul_ffi.Options, consul_ffi.Scope

---Deletes a token; a missing one is gone already.
---@param accessor string The token's accessor id.
---@param options? consul_ffi.acl_token_delete.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_token_delete(accessor, options) end

---@class consul_ffi.acl_token_clone.options: consul_ffi.Options, consul_ffi.Scope

---Creates a token with the same rights.
---@param accessor string The token's accessor id.
---@param clone? { Description?: string } What differs.
---@param options? consul_ffi.acl_token_clone.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_token_clone(accessor, clone, options) end

---@class consul_ffi.acl_policy_list.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking

---Lists the policies.
---@param options? consul_ffi.acl_policy_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_policy_list(options) end

---@class consul_ffi.acl_policy_create.options: consul_ffi.Options, consul_ffi.Scope

---Creates a policy.
---@param policy { Name?: string, Description?: string, Rules?: string, Datacenters?: string|string[] } The policy.
---@param options? consul_ffi.acl_policy_create.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_policy_create(policy, options) end

---@class consul_ffi.acl_policy_read.options: consul_ffi.Options, consul_ffi.Scope

---Reads a policy.
---@param policy string The policy's id.
---@param options? consul_ffi.acl_policy_read.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_policy_read(policy, options) end

---@class consul_ffi.acl_policy_update.options: consul_ffi.Options, consul_ffi.Scope

---Replaces a policy.
---@param policy string The policy's id.
---@param policy { Name?: string, Description?: string, Rules?: string, Datacenters?: string|string[] } The policy.
---@param options? consul_ffi.acl_policy_update.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_policy_update(policy, policy, options) end

---@class consul_ffi.acl_policy_delete.options: consul_ffi.Options, consul_ffi.Scope

---Deletes a policy; a missing one is gone already.
---@param policy string The policy's id.
---@param options? consul_ffi.acl_policy_delete.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_policy_delete(policy, options) end

---@class consul_ffi.acl_policy_read_by_name.options: consul_ffi.Options, consul_ffi.Scope

---Reads the policy of this name.
---@param name string The name.
---@param options? consul_ffi.acl_policy_read_by_name.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_policy_read_by_name(name, options) end

---@class consul_ffi.acl_role_list.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field policy? string Only roles with the policy of this id.

---Lists the roles.
---@param options? consul_ffi.acl_role_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_role_list(options) end

---@class consul_ffi.acl_role_create.options: consul_ffi.Options, consul_ffi.Scope

---Creates a role.
---@param role { Name?: string, Description?: string, Policies?: { ID?: string, Name?: string }[], ServiceIdentities?: { ServiceName?: string, Datacenters?: string|string[] }[], NodeIdentities?: { NodeName?: string, Datacenter?: string }[], TemplatedPolicies?: { TemplateName?: string, TemplateVariables?: table, Datacenters?: string|string[] }[] } The role.
---@param options? consul_ffi.acl_role_create.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_role_create(role, options) end

---@class consul_ffi.acl_role_read.options: consul_ffi.Options, consul_ffi.Scope

---Reads a role.
---@param role string The role's id.
---@param options? consul_ffi.acl_role_read.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_role_read(role, options) end

---@class consul_ffi.acl_role_update.options: consul_ffi.Options, consul_ffi.Scope

---Replaces a role.
---@param role string The role's id.
---@param role { Name?: string, Description?: string, Policies?: { ID?: string, Name?: string }[], ServiceIdentities?: { ServiceName?: string, Datacenters?: string|string[] }[], NodeIdentities?: { NodeName?: string, Datacenter?: string }[], TemplatedPolicies?: { TemplateName?: string, TemplateVariables?: table, Datacenters?: string|string[] }[] } The role.
---@param options? consul_ffi.acl_role_update.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_role_update(role, role, options) end

---@class consul_ffi.acl_role_delete.options: consul_ffi.Options, consul_ffi.Scope

---Deletes a role; a missing one is gone already.
---@param role string The role's id.
---@param options? consul_ffi.acl_role_delete.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_role_delete(role, options) end

---@class consul_ffi.acl_role_read_by_name.options: consul_ffi.Options, consul_ffi.Scope

---Reads the role of this name.
---@param name string The name.
---@param options? consul_ffi.acl_role_read_by_name.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_role_read_by_name(name, options) end

---@class consul_ffi.acl_auth_method_list.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking

---Lists the auth methods.
---@param options? consul_ffi.acl_auth_method_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_auth_method_list(options) end

---@class consul_ffi.acl_auth_method_create.options: consul_ffi.Options, consul_ffi.Scope

---Creates an auth method.
---@param auth_method table The auth method.
---@param options? consul_ffi.acl_auth_method_create.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_auth_method_create(auth_method, options) end

---@class consul_ffi.acl_auth_method_read.options: consul_ffi.Options, consul_ffi.Scope

---Reads an auth method.
---@param method string The auth method's name.
---@param options? consul_ffi.acl_auth_method_read.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_auth_method_read(method, options) end

---@class consul_ffi.acl_auth_method_update.options: consul_ffi.Options, consul_ffi.Scope

---Replaces an auth method.
---@param method string The auth method's name.
---@param auth_method table The auth method.
---@param options? consul_ffi.acl_auth_method_update.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_auth_method_update(method, auth_method, options) end

---@class consul_ffi.acl_auth_method_delete.options: consul_ffi.Options, consul_ffi.Scope

---Deletes an auth method; a missing one is gone already.
---@param method string The auth method's name.
---@param options? consul_ffi.acl_auth_method_delete.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_auth_method_delete(method, options) end

---@class consul_ffi.acl_binding_rule_list.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field auth_method? string Only rules of this auth method.

---Lists the binding rules.
---@param options? consul_ffi.acl_binding_rule_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_binding_rule_list(options) end

---@class consul_ffi.acl_binding_rule_create.options: consul_ffi.Options, consul_ffi.Scope

---Creates a binding rule.
---@param binding_rule table The binding rule.
---@param options? consul_ffi.acl_binding_rule_create.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_binding_rule_create(binding_rule, options) end

---@class consul_ffi.acl_binding_rule_read.options: consul_ffi.Options, consul_ffi.Scope

---Reads a binding rule.
---@param rule string The binding rule's id.
---@param options? consul_ffi.acl_binding_rule_read.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_binding_rule_read(rule, options) end

---@class consul_ffi.acl_binding_rule_update.options: consul_ffi.Options, consul_ffi.Scope

---Replaces a binding rule.
---@param rule string The binding rule's id.
---@param binding_rule table The binding rule.
---@param options? consul_ffi.acl_binding_rule_update.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_binding_rule_update(rule, binding_rule, options) end

---@class consul_ffi.acl_binding_rule_delete.options: consul_ffi.Options, consul_ffi.Scope

---Deletes a binding rule; a missing one is gone already.
---@param rule string The binding rule's id.
---@param options? consul_ffi.acl_binding_rule_delete.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_binding_rule_delete(rule, options) end

---@class consul_ffi.acl_templated_policy_list.options: consul_ffi.Options

---Lists the templates of policies.
---From Consul 1.17.
---@param options? consul_ffi.acl_templated_policy_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_templated_policy_list(options) end

---@class consul_ffi.acl_templated_policy_read.options: consul_ffi.Options

---Reads a template of policies.
---From Consul 1.17.
---@param name string The name.
---@param options? consul_ffi.acl_templated_policy_read.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_templated_policy_read(name, options) end

---@class consul_ffi.acl_templated_policy_preview.options: consul_ffi.Options

---Shows the policy that a template makes.
---From Consul 1.17.
---@param name string The name.
---@param variables? table The template's variables.
---@param options? consul_ffi.acl_templated_policy_preview.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:acl_templated_policy_preview(name, variables, options) end

-- Prepared queries

---@class consul_ffi.query_list.options: consul_ffi.Options, consul_ffi.Consistency, consul_ffi.Blocking
---@field dc? string The datacenter; default: the agent's own.

---Lists the prepared queries.
---@param options? consul_ffi.query_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:query_list(options) end

---@class consul_ffi.query_create.options: consul_ffi.Options
---@field dc? string The datacenter; default: the agent's own.

---Creates a prepared query and returns its id.
---@param definition table The query.
---@param options? consul_ffi.query_create.options
---@return boolean success
---@return string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:query_create(definition, options) end

---@class consul_ffi.query_read.options: consul_ffi.Options, consul_ffi.Consistency, consul_ffi.Blocking
---@field dc? string The datacenter; default: the agent's own.

---Reads a prepared query; nil when it does not exist.
---@param query string The query's id.
---@param options? consul_ffi.query_read.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:query_read(query, options) end

---@class consul_ffi.query_update.options: consul_ffi.Options
---@field dc? string The datacenter; default: the agent's own.

---Replaces a prepared query.
---@param query string The query's id.
---@param definition table The query.
---@param options? consul_ffi.query_update.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:query_update(query, definition, options) end

---@class consul_ffi.query_delete.options: consul_ffi.Options
---@field dc? string The datacenter; default: the agent's own.

---Deletes a prepared query; a missing one is gone already.
---@param query string The query's id.
---@param options? consul_ffi.query_delete.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:query_delete(query, options) end

---@class consul_ffi.query_execute.options: consul_ffi.Options, consul_ffi.Consistency
---@field near? string Sort by distance from this node, or from `_agent`.
---@field limit? integer|string The most instances to give.
---@field connect? boolean Mesh-capable instances.
---@field cached? boolean The agent may answer from its cache.
---@field dc? string The datacenter; default: the agent's own.

---Runs a prepared query.
---@param query string The query's id or name.
---@param options? consul_ffi.query_execute.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:query_execute(query, options) end

---@class consul_ffi.query_explain.options: consul_ffi.Options, consul_ffi.Consistency
---@field dc? string The datacenter; default: the agent's own.

---Shows the query that a template makes of a name.
---@param query string The query's id or name.
---@param options? consul_ffi.query_explain.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:query_explain(query, options) end

-- Central configuration

---@class consul_ffi.config_list.options: consul_ffi.Options, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking

---Lists the entries of a kind.
---@param kind string The kind: service-defaults, proxy-defaults, ....
---@param options? consul_ffi.config_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:config_list(kind, options) end

---@class consul_ffi.config_read.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking

---Reads an entry; nil when it does not exist.
---@param kind string The kind: service-defaults, proxy-defaults, ....
---@param name string The entry's name.
---@param options? consul_ffi.config_read.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:config_read(kind, name, options) end

---@class consul_ffi.config_write.options: consul_ffi.Options, consul_ffi.Scope
---@field cas? integer|string Only if the entry's modify index is this; 0: only if it does not exist.

---Writes an entry; its Kind and Name are in it.
---@param entry table The entry.
---@param options? consul_ffi.config_write.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:config_write(entry, options) end

---@class consul_ffi.config_delete.options: consul_ffi.Options, consul_ffi.Scope

---Deletes an entry; a missing one is gone already.
---@param kind string The kind: service-defaults, proxy-defaults, ....
---@param name string The entry's name.
---@param options? consul_ffi.config_delete.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:config_delete(kind, name, options) end

-- The mesh

---@class consul_ffi.connect_ca_roots.options: consul_ffi.Options, consul_ffi.Blocking

---The mesh's root certificates.
---@param options? consul_ffi.connect_ca_roots.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:connect_ca_roots(options) end

---@class consul_ffi.connect_ca_configuration.options: consul_ffi.Options
---@field dc? string The datacenter; default: the agent's own.

---The configuration of the mesh's certificate authority.
---@param options? consul_ffi.connect_ca_configuration.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:connect_ca_configuration(options) end

---@class consul_ffi.connect_ca_configuration_update.options: consul_ffi.Options
---@field dc? string The datacenter; default: the agent's own.

---Replaces the configuration of the mesh's certificate authority.
---@param configuration table The configuration.
---@param options? consul_ffi.connect_ca_configuration_update.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:connect_ca_configuration_update(configuration, options) end

---@class consul_ffi.connect_intention_list.options: consul_ffi.Options, consul_ffi.Filter, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking

---Lists the intentions.
---@param options? consul_ffi.connect_intention_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:connect_intention_list(options) end

---@class consul_ffi.connect_intention_exact.options: consul_ffi.Options, consul_ffi.Scope

---Reads the intention between two services; nil when there is none.
---From Consul 1.9.
---@param source string The calling service.
---@param destination string The called service.
---@param options? consul_ffi.connect_intention_exact.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:connect_intention_exact(source, destination, options) end

---@class consul_ffi.connect_intention_upsert.options: consul_ffi.Options, consul_ffi.Scope

---Writes the intention between two services.
---From Consul 1.9.
---@param source string The calling service.
---@param destination string The called service.
---@param intention table The intention.
---@param options? consul_ffi.connect_intention_upsert.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:connect_intention_upsert(source, destination, intention, options) end

---@class consul_ffi.connect_intention_delete.options: consul_ffi.Options, consul_ffi.Scope

---Deletes the intention between two services.
---From Consul 1.9.
---@param source string The calling service.
---@param destination string The called service.
---@param options? consul_ffi.connect_intention_delete.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:connect_intention_delete(source, destination, options) end

---@class consul_ffi.connect_intention_check.options: consul_ffi.Options, consul_ffi.Scope
---@field source_type? string The kind of source; default consul.

---Whether one service may call another.
---@param source string The calling service.
---@param destination string The called service.
---@param options? consul_ffi.connect_intention_check.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:connect_intention_check(source, destination, options) end

---@class consul_ffi.connect_intention_match.options: consul_ffi.Options, consul_ffi.Scope

---Lists the intentions that match services, by source or destination.
---@param by "source"|"destination" Which end the names are.
---@param names string|string[] The services' names.
---@param options? consul_ffi.connect_intention_match.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:connect_intention_match(by, names, options) end

---@class consul_ffi.connect_intention_create.options: consul_ffi.Options, consul_ffi.Scope

---Creates an intention and returns its id; deprecated since 1.9.
---@param intention table The intention.
---@param options? consul_ffi.connect_intention_create.options
---@return boolean success
---@return string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:connect_intention_create(intention, options) end

---@class consul_ffi.connect_intention_read.options: consul_ffi.Options, consul_ffi.Scope

---Reads an intention by id; deprecated since 1.9.
---@param intention_id string The intention's id.
---@param options? consul_ffi.connect_intention_read.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:connect_intention_read(intention_id, options) end

---@class consul_ffi.connect_intention_update.options: consul_ffi.Options, consul_ffi.Scope

---Replaces an intention by id; deprecated since 1.9.
---@param intention_id string The intention's id.
---@param intention table The intention.
---@param options? consul_ffi.connect_intention_update.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:connect_intention_update(intention_id, intention, options) end

---@class consul_ffi.connect_intention_delete_by_id.options: consul_ffi.Options, consul_ffi.Scope

---Deletes an intention by id; deprecated since 1.9.
---@param intention_id string The intention's id.
---@param options? consul_ffi.connect_intention_delete_by_id.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:connect_intention_delete_by_id(intention_id, options) end

---@class consul_ffi.discovery_chain.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking
---@field compile_dc? string The datacenter to compile for.
---@field cached? boolean The agent may answer from its cache.

---The compiled discovery chain of a service.
---@param service string The service's name.
---@param options? consul_ffi.discovery_chain.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:discovery_chain(service, options) end

---@class consul_ffi.exported_services.options: consul_ffi.Options, consul_ffi.Scope, consul_ffi.Consistency, consul_ffi.Blocking

---Lists the services exported to other clusters.
---From Consul 1.17.3.
---@param options? consul_ffi.exported_services.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:exported_services(options) end

-- Operating the servers

---@class consul_ffi.operator_raft_configuration.options: consul_ffi.Options
---@field stale? boolean Any server may answer, even one that has no leader.
---@field dc? string The datacenter; default: the agent's own.

---The Raft peers.
---@param options? consul_ffi.operator_raft_configuration.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:operator_raft_configuration(options) end

---@class consul_ffi.operator_raft_peer_delete.options: consul_ffi.Options
---@field id? string The peer's id.
---@field address? string The peer's address.
---@field dc? string The datacenter; default: the agent's own.

---Removes a Raft peer, by id or address.
---@param options? consul_ffi.operator_raft_peer_delete.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:operator_raft_peer_delete(options) end

---@class consul_ffi.operator_raft_transfer_leader.options: consul_ffi.Options
---@field id? string The server to move to.
---@field dc? string The datacenter; default: the agent's own.

---Moves the Raft leadership to another server.
---From Consul 1.15.
---@param options? consul_ffi.operator_raft_transfer_leader.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:operator_raft_transfer_leader(options) end

---@class consul_ffi.operator_autopilot_configuration.options: consul_ffi.Options
---@field stale? boolean Any server may answer, even one that has no leader.
---@field dc? string The datacenter; default: the agent's own.

---The configuration of autopilot.
---@param options? consul_ffi.operator_autopilot_configuration.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:operator_autopilot_configuration(options) end

---@class consul_ffi.operator_autopilot_configuration_update.options: consul_ffi.Options
---@field cas? integer|string Only if the modify index is this.
---@field dc? string The datacenter; default: the agent's own.

---Replaces the configuration of autopilot.
---@param configuration table The configuration.
---@param options? consul_ffi.operator_autopilot_configuration_update.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:operator_autopilot_configuration_update(configuration, options) end

---@class consul_ffi.operator_autopilot_health.options: consul_ffi.Options
---@field dc? string The datacenter; default: the agent's own.

---The health of the servers.
---@param options? consul_ffi.operator_autopilot_health.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:operator_autopilot_health(options) end

---@class consul_ffi.operator_autopilot_state.options: consul_ffi.Options
---@field stale? boolean Any server may answer, even one that has no leader.
---@field dc? string The datacenter; default: the agent's own.

---The state of autopilot.
---From Consul 1.9.
---@param options? consul_ffi.operator_autopilot_state.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:operator_autopilot_state(options) end

---@class consul_ffi.operator_keyring_list.options: consul_ffi.Options
---@field local_only? boolean Only this agent's.
---@field relay_factor? integer|string How many nodes relay each answer, 0 to 5.

---Lists the gossip keys.
---@param options? consul_ffi.operator_keyring_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:operator_keyring_list(options) end

---@class consul_ffi.operator_keyring_install.options: consul_ffi.Options
---@field relay_factor? integer|string How many nodes relay each answer, 0 to 5.

---Adds a gossip key.
---@param key { Key?: string } The key.
---@param options? consul_ffi.operator_keyring_install.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:operator_keyring_install(key, options) end

---@class consul_ffi.operator_keyring_use.options: consul_ffi.Options
---@field relay_factor? integer|string How many nodes relay each answer, 0 to 5.

---Makes a gossip key the one to encrypt with.
---@param key { Key?: string } The key.
---@param options? consul_ffi.operator_keyring_use.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:operator_keyring_use(key, options) end

---@class consul_ffi.operator_keyring_remove.options: consul_ffi.Options
---@field relay_factor? integer|string How many nodes relay each answer, 0 to 5.

---Removes a gossip key.
---@param key { Key?: string } The key.
---@param options? consul_ffi.operator_keyring_remove.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:operator_keyring_remove(key, options) end

---@class consul_ffi.operator_usage.options: consul_ffi.Options
---@field global? boolean In all datacenters.
---@field stale? boolean Any server may answer, even one that has no leader.
---@field dc? string The datacenter; default: the agent's own.

---How many nodes, services and instances there are.
---From Consul 1.15.
---@param options? consul_ffi.operator_usage.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:operator_usage(options) end

---@class consul_ffi.snapshot_save.options: consul_ffi.Options
---@field stale? boolean Any server may answer, even one that has no leader.
---@field dc? string The datacenter; default: the agent's own.

---The servers' whole state as bytes (gzip).
---@param options? consul_ffi.snapshot_save.options
---@return boolean success
---@return string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:snapshot_save(options) end

---@class consul_ffi.snapshot_restore.options: consul_ffi.Options
---@field dc? string The datacenter; default: the agent's own.

---Replaces the servers' whole state.
---@param snapshot string|number|boolean|table What snapshot_save gave.
---@param options? consul_ffi.snapshot_restore.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:snapshot_restore(snapshot, options) end

-- Peering, partitions, namespaces

---@class consul_ffi.peering_token.options: consul_ffi.Options

---Makes a token for another cluster and returns it.
---From Consul 1.13.
---@param request { PeerName?: string, Partition?: string, Meta?: table<string, string>, ServerExternalAddresses?: string|string[] } Whom it is for.
---@param options? consul_ffi.peering_token.options
---@return boolean success
---@return string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:peering_token(request, options) end

---@class consul_ffi.peering_establish.options: consul_ffi.Options

---Joins a cluster that made a token.
---From Consul 1.13.
---@param request { PeerName?: string, PeeringToken?: string, Partition?: string, Meta?: table<string, string> } The token and the name.
---@param options? consul_ffi.peering_establish.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:peering_establish(request, options) end

---@class consul_ffi.peering_read.options: consul_ffi.Options
---@field partition? string The admin partition (Consul Enterprise).

---Reads a peering; nil when it does not exist.
---From Consul 1.13.
---@param name string The name.
---@param options? consul_ffi.peering_read.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:peering_read(name, options) end

---@class consul_ffi.peering_delete.options: consul_ffi.Options
---@field partition? string The admin partition (Consul Enterprise).

---Deletes a peering; it goes in the background.
---From Consul 1.13.
---@param name string The name.
---@param options? consul_ffi.peering_delete.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:peering_delete(name, options) end

---@class consul_ffi.peering_list.options: consul_ffi.Options
---@field partition? string The admin partition (Consul Enterprise).

---Lists the peerings.
---From Consul 1.13.
---@param options? consul_ffi.peering_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:peering_list(options) end

---@class consul_ffi.partition_list.options: consul_ffi.Options

---Lists the partitions (Consul Enterprise).
---From Consul 1.11.
---@param options? consul_ffi.partition_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:partition_list(options) end

---@class consul_ffi.partition_create.options: consul_ffi.Options

---Creates an admin partition (Consul Enterprise).
---From Consul 1.11.
---@param definition table The definition.
---@param options? consul_ffi.partition_create.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:partition_create(definition, options) end

---@class consul_ffi.partition_read.options: consul_ffi.Options

---Reads an admin partition (Consul Enterprise).
---From Consul 1.11.
---@param name string The name.
---@param options? consul_ffi.partition_read.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:partition_read(name, options) end

---@class consul_ffi.partition_update.options: consul_ffi.Options

---Replaces an admin partition (Consul Enterprise).
---From Consul 1.11.
---@param name string The name.
---@param definition table The definition.
---@param options? consul_ffi.partition_update.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:partition_update(name, definition, options) end

---@class consul_ffi.partition_delete.options: consul_ffi.Options

---Deletes an admin partition (Consul Enterprise).
---From Consul 1.11.
---@param name string The name.
---@param options? consul_ffi.partition_delete.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:partition_delete(name, options) end

---@class consul_ffi.namespace_list.options: consul_ffi.Options

---Lists the namespaces (Consul Enterprise).
---@param options? consul_ffi.namespace_list.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:namespace_list(options) end

---@class consul_ffi.namespace_create.options: consul_ffi.Options

---Creates a namespace (Consul Enterprise).
---@param definition table The definition.
---@param options? consul_ffi.namespace_create.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:namespace_create(definition, options) end

---@class consul_ffi.namespace_read.options: consul_ffi.Options

---Reads a namespace (Consul Enterprise).
---@param name string The name.
---@param options? consul_ffi.namespace_read.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:namespace_read(name, options) end

---@class consul_ffi.namespace_update.options: consul_ffi.Options

---Replaces a namespace (Consul Enterprise).
---@param name string The name.
---@param definition table The definition.
---@param options? consul_ffi.namespace_update.options
---@return boolean success
---@return any response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:namespace_update(name, definition, options) end

---@class consul_ffi.namespace_delete.options: consul_ffi.Options

---Deletes a namespace (Consul Enterprise).
---@param name string The name.
---@param options? consul_ffi.namespace_delete.options
---@return boolean success
---@return true|string response the value, or the message of a failure
---@return consul_ffi.Meta|consul_ffi.Error extra
function ConsulClient:namespace_delete(name, options) end

---@class consul_ffi
---@field _VERSION string
---@field ConsulClient consul_ffi.ConsulClient
---@field ConsistentHashRing consul_ffi.ConsistentHashRing
---@field ConsulHACluster consul_ffi.ConsulHACluster
local consul_ffi = {}

---A client; raises when the configuration is not acceptable, and touches no network.
---@param config? consul_ffi.ConsulConfig
---@return consul_ffi.ConsulClient
function consul_ffi.new(config) end

---A JSON text as a value.
---@param text string
---@return boolean success
---@return any value
---@return consul_ffi.Error? err
function consul_ffi.json_decode(text) end

---A TOML text as a table, and the line of each value by its path.
---@param text string
---@return boolean success
---@return table|string value
---@return table<string, integer>|consul_ffi.Error lines
function consul_ffi.toml_decode(text) end

return consul_ffi
