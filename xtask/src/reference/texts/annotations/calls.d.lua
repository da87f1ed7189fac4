---Makes many calls on the calling thread, some of them in flight at once, and returns when all are done. Arguments are
---checked before anything is sent; misuse of any call raises an error.
---@param calls any[][] each a method's name and its arguments: `{ "kv_put", "key", "value", { cas = 1 } }`
---@param options? consul_ffi.batch.options
---@return boolean success
---@return consul_ffi.Outcome[] outcomes one for each call, in their order
---@return consul_ffi.Error? err
function ConsulClient:batch(calls, options) end

---@class consul_ffi.batch.options
---@field concurrency? integer the most calls in flight, 1 to 64; default 64
---@field timeout_ms? number the time limit of the batch, in milliseconds: a call without an answer by then has failed with `timeout`; default: the calls' own timeouts

---The result of one call of a batch.
---@class consul_ffi.Outcome
---@field ok boolean whether the call succeeded
---@field value any the value of a success
---@field meta? consul_ffi.Meta of a success
---@field message? string of a failure
---@field err? consul_ffi.Error of a failure

---Starts a call in the background. Up to `max_connections` calls of a client are in flight there; further ones wait, up to
---their timeout. Misuse raises an error; any other failure is the result of the handle.
---@param method string the method's name
---@param ... any the method's arguments
---@return consul_ffi.Handle handle
function ConsulClient:start(method, ...) end

---A call in the background, of a client or between the nodes of a cluster.
---@class consul_ffi.Handle
local Handle = {}

---The result of the call if it is done; may be called again.
---@return boolean done false while the call runs, and then the only value
---@return boolean? success as the method returns it, like the next two
---@return any response
---@return consul_ffi.Meta|consul_ffi.Error|{ next?: string }|nil extra
function Handle:poll() end

---Waits for the call, then returns what `poll` does.
---@param timeout_ms? number the longest wait, in milliseconds; default: until the call is done
---@return boolean done false if the call still runs, and then the only value
---@return boolean? success as the method returns it, like the next two
---@return any response
---@return consul_ffi.Meta|consul_ffi.Error|{ next?: string }|nil extra
function Handle:wait(timeout_ms) end

---A descriptor for poll(2), readable once the call is done. Do not read or close it.
---@return integer|false fd
---@return string? message
---@return consul_ffi.Error? err
function Handle:fd() end

---A unix socket of this process and a line to write there, for event loops that wait only for their own sockets, as
---OpenResty's. An empty line is the answer once the call is done. An empty line written meanwhile is answered at once.
---A connection that ends while it waits cancels the call.
---A limit in milliseconds may follow the numbers in the line, after a space.
---@return string|false path
---@return string line_or_message
---@return consul_ffi.Error? err
function Handle:unix_socket() end

---Ends the call: unless it is done already, it has failed with `closed`. A write may have been applied.
---@return true
function Handle:cancel() end

---Cancels the call and closes the descriptor. The garbage collector and, in Lua 5.4, the end of a `<close>` variable's
---scope do the same.
---@return true
function Handle:close() end

---The names of its methods, as `client:methods` of a client has them.
---@param prefix? string such as `"kv_"`
---@return string[] names in their order; as text one on each line
function Handle:methods(prefix) end
