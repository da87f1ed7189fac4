---Takes part in a store of replicated shards. Raises an error for an invalid argument or option, for a function that the storage
---lacks, and if the node has a store of that name already.
---@param name string the same on all nodes; without `/`
---@param storage? consul_ffi.Storage|"memory" where this node keeps its records; default `"memory"`, which ends with the process; an observer has none
---@param options? consul_ffi.ReplicateOptions [its options](configuration.md#options-of-replicated-shards), the same on all nodes
---@return consul_ffi.ReplicatedStore store
function ConsulHACluster:replicate(name, storage, options) end

---Hands the replicas of this node over to other nodes, then stops it. Answers requests meanwhile. `status()` of the stores shows
---what is left, and `drain()`, that and `stop()` do the same step by step. Fails at once with `conflict` and the word `no_target`
---if no other node can take a shard: nothing has changed then. Other nodes that are drained or leave take none: of several that leave
---at once and would leave too few, at least one fails so, after some seconds. Fails at once, too, if one of its stores cannot be
---used, with the store's error, since its shards cannot be handed over. Fails with `timeout` if shards are left after the time
---limit: the node is stopped then, and they stay its own until `replace_after_s` is over.
---@param options? { timeout_s?: number|string } default 300
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ConsulHACluster:leave(options) end

---A store of replicated shards, from `cluster:replicate`. It has no `close`: it belongs to its node.
---@class consul_ffi.ReplicatedStore
local ReplicatedStore = {}

---Writes records of one shard. Of records with one id the last one counts. Not atomic: after a failure some may be stored.
---@param key string chooses the shard
---@param records { id: string, data: string }[]
---@param options? consul_ffi.StoreCallOptions
---@return boolean success
---@return string|true version that of the records; true for an empty list
---@return consul_ffi.Error? err
function ReplicatedStore:write(key, records, options) end

---Writes records of many keys, for each shard at once.
---@param writes any[][] a list of `{ key, records }`
---@param options? consul_ffi.StoreCallOptions
---@return boolean success
---@return true|string done
---@return consul_ffi.Error? err
function ReplicatedStore:write_many(writes, options) end

---Deletes records of one shard, whether they exist or not.
---@param key string chooses the shard
---@param ids string[]
---@param options? consul_ffi.StoreCallOptions
---@return boolean success
---@return string|true version that of the deletions; true for an empty list
---@return consul_ffi.Error? err
function ReplicatedStore:delete(key, ids, options) end

---@class consul_ffi.StoreCallOptions
---@field timeout_ms? number the time limit of the call, retries included, in milliseconds; default 5000

---For a loop over the records of a range in the order of their ids, with one page of them in memory: `for record, message, err in
---store:read(key) do`. If a page cannot be read, the last turn of the loop has `false, message, err`: what was read is incomplete.
---@param key string chooses the shard
---@param options? consul_ffi.StoreReadOptions
---@return fun(): consul_ffi.Record|false|nil, string?, consul_ffi.Error? iterator
function ReplicatedStore:read(key, options) end

---@class consul_ffi.StoreReadOptions
---@field from? string the first id; default: from the beginning
---@field to? string the end, whose id is not read; default: to the end
---@field after? string only ids after this one
---@field limit? integer the most records; default: all
---@field page? integer the most records that each replica sends at once, 1 to 10000; default 1000
---@field timeout_ms? number the time limit of a page, retries included, in milliseconds; default 5000

---The shards as this node knows them, or the one of a key. Makes no request. Before there is a map, a third value says what
---the first one waits for.
---@param key? string
---@return boolean success
---@return consul_ffi.ShardStatus[] shards empty before there is a map
---@return consul_ffi.Error? err
function ReplicatedStore:status(key) end

---Lets a shard that has lost too many replicas go on with what can be reached: acknowledged writes may be lost, older ones may
---come back. For operators, when the nodes will not return. It is about the replicas that this node knows to be missing now, and
---logs a warning if there are none; for what is missing later, call it again.
---@param shard integer counted from 0
---@param options? consul_ffi.StoreCallOptions
---@return boolean success
---@return true|string done
---@return consul_ffi.Error? err
function ReplicatedStore:accept_loss(shard, options) end

---Starts a call in the background. Misuse raises an error; any other failure is the result of the handle.
---@param method "write"|"write_many"|"delete"|"read"|"accept_loss"
---@param ... any the method's arguments
---@return consul_ffi.Handle handle
function ReplicatedStore:start(method, ...) end

---The names of its methods, as `client:methods` of a client has them.
---@param prefix? string such as `"kv_"`
---@return string[] names in their order; as text one on each line
function ReplicatedStore:methods(prefix) end

---A record of a store.
---@class consul_ffi.Record
---@field id string any bytes, unique in the shard
---@field version string 32 hexadecimal digits; the higher one wins
---@field data? string any bytes; nil, for a storage: it is deleted

---A shard of a store.
---@class consul_ffi.ShardStatus
---@field shard integer counted from 0
---@field epoch integer the version of its places
---@field holders string[] the nodes whose replicas count
---@field targets table<string, "move"|"failover"> the nodes that copy a replica, by id: a replica that moves, or a replica whose node or disk is gone
---@field unrecovered boolean whether Consul went back and too few of its nodes have reported since who has it: until then none is replaced, and nodes that have answered may refuse its reads and writes; `accept_loss` goes on without those that are down
---@field repaired_s? integer how long ago a repair began that found all replicas equal, in seconds; nil if this node has no replica, or knows of no such repair
---@field at_risk boolean whether so few of the holders live that a lost one cannot be replaced before another comes back

---Where a node keeps its records: a table with these functions.
---@class consul_ffi.Storage
---@field survives "machine"|"process"|"nothing"
---@field apply fun(self: consul_ffi.Storage, shard: integer, records: consul_ffi.Record[]): true|any[][]|nil, string?
---@field scan fun(self: consul_ffi.Storage, shard: integer, from: string, to: string?, after: string?, limit: integer): consul_ffi.Record[]?, string?
---@field drop fun(self: consul_ffi.Storage, shard: integer): true?, string?
---@field purge fun(self: consul_ffi.Storage, shard: integer, below: string): true?, string?
---@field keep fun(self: consul_ffi.Storage, name: string, bytes: string): true?, string?
---@field kept fun(self: consul_ffi.Storage, name: string): string?, string?
---@field flush? (fun(self: consul_ffi.Storage): true?, string?) brings all to the disk, in a stop
