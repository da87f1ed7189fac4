---Watches a method that supports blocking queries. The last argument is a table with options of the method and of the
---watch; `index`, `hash`, `timeout_ms` and `retry` are set by the watch itself. Misuse raises an error. Fails with
---`argument`, `closed`, and with `config` if the client has as many watches and views as connections.
---@param method string the method's name
---@param ... any|consul_ffi.watch.options the method's arguments; the last one may be a table of options
---@return consul_ffi.Watch watch
function ConsulClient:watch(method, ...) end

---@class consul_ffi.watch.options
---@field rate_per_s? number the most states read in a second; default 20
---@field wait? number|string the longest wait of one query on the server: seconds or a string such as `"1m30s"`, up to 10 minutes; default 50 s

---A blocking query that is repeated in the background.
---@class consul_ffi.Watch
local Watch = {}

---Waits for the next change. Fails once when an outage begins, after which the watch continues, and with `closed` after
---its end.
---@param timeout_ms? number the longest wait, in milliseconds; default: until there is a change
---@return boolean success
---@return consul_ffi.Change? change nil if there was none in time
---@return consul_ffi.Meta|consul_ffi.Error|nil meta
function Watch:next(timeout_ms) end

---The next change, without waiting; the same as `next(0)`.
---@return boolean success
---@return consul_ffi.Change? change nil if there is none
---@return consul_ffi.Meta|consul_ffi.Error|nil meta
function Watch:poll() end

---For a loop over the changes until the watch ends; outages are skipped: `for change, meta in watch:changes() do`.
---@return fun(): consul_ffi.Change?, consul_ffi.Meta? iterator
function Watch:changes() end

---A descriptor for poll(2), readable while `poll` has something to return. Do not read or close it. `close` closes it,
---unless it was asked for and `poll` found nothing since: then it stays, and is readable, until the garbage collector or a
---second `close`.
---@return integer|false fd
---@return string? message
---@return consul_ffi.Error? err
function Watch:fd() end

---A unix socket of this process and a line to write there, for event loops that wait only for their own sockets, as
---OpenResty's. An empty line is the answer once `poll` has something to return. An empty line written meanwhile is
---answered at once.
---A limit in milliseconds may follow the numbers in the line, after a space.
---@return string|false path
---@return string line_or_message
---@return consul_ffi.Error? err
function Watch:unix_socket() end

---Ends the watch. `client:close()`, the garbage collector and, in Lua 5.4, the end of a `<close>` variable's scope do the
---same.
---@return true
function Watch:close() end

---The names of its methods, as `client:methods` of a client has them.
---@param prefix? string such as `"kv_"`
---@return string[] names in their order; as text one on each line
function Watch:methods(prefix) end

---A change of what a watch reads.
---@class consul_ffi.Change
---@field type "initial"|"put"|"delete"|"resynchronised"
---@field id? string the item that changed; nil if the value is one item, and for `initial` and `resynchronised`
---@field value any the item's new value, or its last one for `delete`; the whole value for `initial` and `resynchronised`

---Keeps the instances of a service in memory, up to date in the background. Fails as `watch`.
---@param service string the service's name
---@param options? consul_ffi.service_view.options
---@return consul_ffi.ServiceView view
function ConsulClient:service_view(service, options) end

---The options of `health_service`, except the options of a blocking query, and:
---@class consul_ffi.service_view.options: consul_ffi.health_service.options
---@field empty_hold_s? number|string how long after an outage an empty answer must stay empty to be accepted, in seconds; default 30

---The instances of a service. Only `ready` waits, and no method sends a request. Before the first answer they fail with
---the reason (`timeout` while it is on its way), and after the end with `closed`.
---@class consul_ffi.ServiceView
local ServiceView = {}

---Waits for Consul's first answer.
---@param timeout_ms? number the longest wait, in milliseconds; default: until there is an answer
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ServiceView:ready(timeout_ms) end

---Picks the next instance, round robin by weight, or the instance that a key belongs to on a consistent hash ring. Fails
---with `not_found` if there is no instance; the message says so if ACLs hide some.
---@param key? string
---@return consul_ffi.Instance|false instance
---@return string? message
---@return consul_ffi.Error? err
function ServiceView:pick(key) end

---The instances that pass or warn, in Consul's order.
---@return consul_ffi.Instance[]|false instances
---@return string? message
---@return consul_ffi.Error? err
function ServiceView:all() end

---The time since Consul last confirmed the list.
---@return number|false age_s in seconds
---@return string? message
---@return consul_ffi.Error? err
function ServiceView:age_s() end

---A descriptor for poll(2), readable once Consul has answered. Do not read or close it. `close` closes it, unless
---it was asked for and `ready` was not true since: then it stays, and is readable, until the garbage collector or a second
---`close`.
---@return integer|false fd
---@return string? message
---@return consul_ffi.Error? err
function ServiceView:fd() end

---A unix socket of this process and a line to write there, for event loops that wait only for their own sockets, as
---OpenResty's. An empty line is the answer once Consul has answered. An empty line written meanwhile is answered at
---once.
---A limit in milliseconds may follow the numbers in the line, after a space.
---@return string|false path
---@return string line_or_message
---@return consul_ffi.Error? err
function ServiceView:unix_socket() end

---Ends the view. `client:close()`, the garbage collector and, in Lua 5.4, the end of a `<close>` variable's scope do the
---same.
---@return true
function ServiceView:close() end

---The names of its methods, as `client:methods` of a client has them.
---@param prefix? string such as `"kv_"`
---@return string[] names in their order; as text one on each line
function ServiceView:methods(prefix) end

---Views of many services over two waiting queries, however many services there are. A change of a service's name, tags or
---checks is read at once; any other one (an address, a weight, metadata) within 5 s. Requires `service:read` and
---`node:read` of what it is to show. Fails as `watch`.
---@param filter string[]|fun(name: string, tags: string[]): boolean the services' names, or a function that chooses each service that Consul lists by its name and all tags of its instances; it is called in `ready`, `next`, `names` and `view`
---@return consul_ffi.ServiceViews views
function ConsulClient:service_views(filter) end

---Views of services. Only `ready` and `next` wait, and no method sends a request.
---@class consul_ffi.ServiceViews
local ServiceViews = {}

---Waits until Consul has answered for each service.
---@param timeout_ms? number the longest wait, in milliseconds; default: until it has
---@return boolean success
---@return string? message
---@return consul_ffi.Error? err
function ServiceViews:ready(timeout_ms) end

---Waits for a service that is new, has changed or is gone since `next` returned it, or since the beginning.
---@param timeout_ms? number the longest wait, in milliseconds; default: until there is one
---@return boolean success
---@return string? name nil if there was none in time
---@return consul_ffi.Error? err
function ServiceViews:next(timeout_ms) end

---The names of the services, in order. If a function chose them, a name that Consul no longer lists is left out.
---@return string[]|false names
---@return string? message
---@return consul_ffi.Error? err
function ServiceViews:names() end

---The view of a service. Its `ready` does not wait.
---@param service string the service's name
---@return consul_ffi.ServiceView? view nil if there is none
function ServiceViews:view(service) end

---A descriptor for poll(2), readable while there is news for `ready` or `next`. Do not read or close it. `close` closes
---it, unless it was asked for and neither found anything since: then it stays, and is readable, until the garbage collector
---or a second `close`.
---@return integer|false fd
---@return string? message
---@return consul_ffi.Error? err
function ServiceViews:fd() end

---A unix socket of this process and a line to write there, for event loops that wait only for their own sockets, as
---OpenResty's. An empty line is the answer once there is news. An empty line written meanwhile is answered at once.
---A limit in milliseconds may follow the numbers in the line, after a space.
---@return string|false path
---@return string line_or_message
---@return consul_ffi.Error? err
function ServiceViews:unix_socket() end

---Ends all views. `client:close()`, the garbage collector and, in Lua 5.4, the end of a `<close>` variable's scope do the
---same.
---@return true
function ServiceViews:close() end

---The names of its methods, as `client:methods` of a client has them.
---@param prefix? string such as `"kv_"`
---@return string[] names in their order; as text one on each line
function ServiceViews:methods(prefix) end

---An instance of a service; read-only.
---@class consul_ffi.Instance
---@field id string
---@field name string the service's name
---@field address string its own address, or that of its node
---@field port integer 0 if it registered none
---@field tags string[]
---@field meta table<string, string>
---@field node string the node's name
---@field status "passing"|"warning" the worst state of its checks
---@field weight integer the weight that it registered for that state
