---Makes a lock on a key. Nothing is sent before `acquire` or `start`.
---@param key string the key
---@param options? consul_ffi.lock.options
---@return consul_ffi.Lock lock
function ConsulClient:lock(key, options) end

---Makes a contender for one of the permits of a semaphore. Nothing is sent before `acquire` or `start`.
---@param prefix string the prefix of the semaphore's keys
---@param limit integer the number of permits, the same for all holders; another one counts when nobody holds a permit
---@param options? consul_ffi.lock.options
---@return consul_ffi.Lock semaphore an object with the methods of a lock
function ConsulClient:semaphore(prefix, limit, options) end

---@class consul_ffi.lock.options
---@field value? string|number|boolean|table the value of the key (of a semaphore: of the contender's key) while it is held; default: the value that the key has
---@field profile? consul_ffi.ProfileName|consul_ffi.profile how soon a crash is noticed against how long a stall is tolerated; a table changes single values of `default`

---A lock, or a permit of a semaphore.
---@class consul_ffi.Lock
local Lock = {}

---Waits until it is held. Fails with `conflict` if others hold it and `try` is set, if this object holds it or waits for it
---already, and if the key has data and never was a lock's. Fails with `timeout` at the end of `wait_s`, otherwise as `txn`.
---@param options? consul_ffi.acquire.options
---@return boolean success
---@return number|string token the fencing token
---@return consul_ffi.Error? err
function Lock:acquire(options) end

---Waits in the background; the event `acquired` or `failed` reports the result. `start("release")` and
---`start("fenced_put", key, value)` return a handle, as `client:start` does.
---@param options? consul_ffi.acquire.options
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
---@overload fun(self: consul_ffi.Lock, method: "release"): consul_ffi.Handle
---@overload fun(self: consul_ffi.Lock, method: "fenced_put", key: string, value: string|number|boolean|table): consul_ffi.Handle
function Lock:start(options) end

---@class consul_ffi.acquire.options
---@field wait_s? number the longest wait, in seconds; 0: one attempt, as `try`; default: forever
---@field try? boolean true: one attempt, without a wait

---Whether the holder may act now. Sends no request: the last proof determines until when it is true.
---@return boolean held
function Lock:is_held() end

---The time for which the holder may act without a further proof.
---@return number remaining_ms in milliseconds; 0 if it is not held
function Lock:remaining_ms() end

---The fencing token, which grows with every grant, to any holder. It stays the same during a suspension.
---@return number|string|nil token a number if this Lua represents it exactly, otherwise a decimal string; nil if it is not held
function Lock:token() end

---Writes another key in one transaction with Consul's check that this is still held. Fails with `conflict` if it is not.
---@param key string the key to write
---@param value string|number|boolean|table its value
---@return boolean success
---@return number|string modify_index the modify index of the write
---@return consul_ffi.Error? err
function Lock:fenced_put(key, value) end

---Releases it, so that the next waiter has it at once, or ends the wait for it. Fails with `conflict` if it is not held.
---After another error the release goes on in the background, and can be called again to wait for it.
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function Lock:release() end

---The next event, without waiting.
---@return "acquired"|"failed"|"suspended"|"resumed"|"lost"|nil event nil if there is none
---@return any detail see the table of events
function Lock:poll() end

---Waits for the next event.
---@param timeout_ms? number the longest wait, in milliseconds; default: until there is an event, or nothing is held or waited for
---@return "acquired"|"failed"|"suspended"|"resumed"|"lost"|nil event nil if there was none
---@return any detail see the table of events
function Lock:next_event(timeout_ms) end

---For a loop over the events until nothing is held or waited for: `for event, detail in lock:events() do`.
---@return fun(): string?, any iterator
function Lock:events() end

---A descriptor for poll(2), readable while `poll` has an event to return. Do not read or close it. `release` and `close`
---close it, unless it was asked for and nothing was found since; after a release ask again.
---@return integer|false fd
---@return string? message
---@return consul_ffi.Error? err
function Lock:fd() end

---A unix socket of this process and a line to write there, for event loops that wait only for their own sockets, as
---OpenResty's. An empty line is the answer once `poll` has an event to return. An empty line written meanwhile is
---answered at once. The line is of the last attempt: call it after `start`. A connection that ends before `poll` has
---returned the outcome of the attempt cancels that, and releases the lock if it was acquired.
---A limit in milliseconds may follow the numbers in the line, after a space.
---@return string|false path
---@return string line_or_message
---@return consul_ffi.Error? err
function Lock:unix_socket() end

---All times of its profile, chosen and derived ([coordination.md](coordination.md#profiles) has them).
---@return table<string, string|number> profile
function Lock:profile() end

---Releases it, for up to a second. `client:close()` and, in Lua 5.4, the end of a `<close>` variable's scope do the same.
---The garbage collector releases it and waits for nothing; the end of the Lua state waits for up to a second for all.
---@return true
function Lock:close() end

---The names of its methods, as `client:methods` of a client has them.
---@param prefix? string such as `"kv_"`
---@return string[] names in their order; as text one on each line
function Lock:methods(prefix) end
