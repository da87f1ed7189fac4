---A simulated agent as a test controls it. All errors are raised.
---@class consul_ffi.Simulator
local Simulator = {}

---Advances the time of an agent with a manual clock; timers that fall due fire in order.
---@param seconds number|string seconds, or a string such as `"1m30s"`
function Simulator:advance(seconds) end

---The agent's time.
---@return number seconds since its clock started
function Simulator:now() end

---Injects a fault from now on; faults accumulate.
---@param options? consul_ffi.fault
function Simulator:fault(options) end

---@class consul_ffi.fault
---@field clients? string|string[] only clients with one of these as their `client_name`; default: all clients
---@field latency_ms? number how much later requests arrive, in milliseconds
---@field jitter_ms? number up to how much later still, at random, in milliseconds
---@field drop_before? number the probability, 0 to 1, that a request is lost before it is applied
---@field drop_after? number the probability, 0 to 1, that the answer is lost after the request was applied
---@field status? integer an HTTP status that is returned instead of an answer, 401 and 403 with Consul's text; the request is not applied
---@field status_chance? number the probability of that, 0 to 1; default 1
---@field partition? boolean true: no request arrives and no answer returns
---@field no_leader? boolean true: the servers have no Raft leader; stale reads and the agent's own endpoints still work
---@field isolated_leader? boolean true: the clients use a leader that is cut off from the other servers; for 2.4 s it answers reads that are not consistent and renews sessions by its old state, then it has no leader

---Ends all faults.
function Simulator:clear_faults() end

---Restarts the agent: waiting calls fail, lock delays are forgotten, sessions and TTL checks start their full time again.
---@param options? consul_ffi.restart.options
function Simulator:restart(options) end

---@class consul_ffi.restart.options
---@field lose_sessions? boolean true: ends all sessions
---@field wipe? boolean true: deletes all data and restarts the index

---Replaces the agent by a fresh one with the original seed and without faults.
function Simulator:reset() end

---Counts requests and what the agent stores.
---@return consul_ffi.SimulatorStats stats
function Simulator:stats() end

---The names of its methods, as `client:methods` of a client has them.
---@param prefix? string such as `"kv_"`
---@return string[] names in their order; as text one on each line
function Simulator:methods(prefix) end

---@class consul_ffi.SimulatorStats
---@field requests integer the requests that arrived
---@field index integer the newest index
---@field keys integer
---@field sessions integer
---@field waiting integer blocking queries that wait
