---@class consul_ffi
---@field _VERSION string
---@field ConsulClient consul_ffi.ConsulClient
---@field ConsistentHashRing consul_ffi.ConsistentHashRing
---@field ConsulHACluster consul_ffi.ConsulHACluster
local consul_ffi = {}

---Makes a client. It sends no request, and raises an error for an invalid configuration.
---@param config? consul_ffi.ConsulConfig the [options](configuration.md)
---@return consul_ffi.ConsulClient client
function consul_ffi.new(config) end

---Opens the simulated agent that clients with `simulate = name` use, or creates it. Misuse raises an error.
---@param name string
---@param options? consul_ffi.simulator.options
---@return consul_ffi.Simulator sim
function consul_ffi.simulator(name, options) end

---Prints the reference of a function, for a REPL: of `"kv_put"` each function of this name, of `"lock:acquire"` the one
---of an object, of `"lock"` the functions of an object. Without a name it prints how to ask. An unknown name raises an
---error with the nearest one.
---@param name? string
function consul_ffi.help(name) end

---@class consul_ffi.simulator.options
---@field clock? "real"|"manual" manual: its time stands still until `advance`; set it before the first client uses the name. Default real
---@field key_names? "1.21.0"|"1.21.5"|"1.22" the release whose rules for the names of keys hold: newer servers [refuse some](testing-your-program.md#names-of-keys-that-newer-servers-refuse). Set it before the first client uses the name. Default 1.21.0
---@field seed? integer|string the seed of ids, jitter and random faults; default: a random one

---Decodes JSON. Null is nil, so it is missing from tables. Fails with `decode`.
---@param text string
---@return boolean success
---@return any value
---@return consul_ffi.Error? err
function consul_ffi.json_decode(text) end

---Encodes a value as JSON; a table without keys becomes `{}`, one of `consul_ffi.array` `[]`. Fails with `argument` for what JSON cannot represent.
---@param value any
---@return boolean success
---@return string json
---@return consul_ffi.Error? err
function consul_ffi.json_encode(value) end

---Marks a list, so that it is sent as one to Consul also while it is empty, where `{}` could be either: in bodies
---that are sent as given, such as `http_request`'s. The methods know the lists of Consul's objects, and lists
---that `json_decode` and answers return are marked.
---@generic T
---@param list? T[] default: a new one
---@return T[] list the same table
function consul_ffi.array(list) end

---Decodes TOML; dates and times become strings. Fails with `decode`; the message begins with line and column.
---@param text string
---@return boolean success
---@return table value
---@return table<string, integer>|consul_ffi.Error lines the number of the line of each value, by its path: `lines["cluster.min_nodes"]`
function consul_ffi.toml_decode(text) end

---Encodes bytes in base64, with padding.
---@param text string
---@return string encoded
function consul_ffi.base64_encode(text) end

---Decodes base64 with padding. Fails with `decode`.
---@param text string
---@return boolean success
---@return string bytes
---@return consul_ffi.Error? err
function consul_ffi.base64_decode(text) end

---The numbers of this process as text for Prometheus, as [monitoring](monitoring.md) describes them: of all clients and
---nodes of all Lua states. Sends nothing and waits for nothing.
---@param options? consul_ffi.metrics.options
---@return string text
---@return string content_type the header `Content-Type` with which an HTTP server returns the text
function consul_ffi.metrics(options) end

---@class consul_ffi.metrics.options
---@field format? "prometheus"|"openmetrics" default prometheus

---Starts a server for operators in the background: the page of the clusters at `/`, `/metrics` for Prometheus, and
---[more](status.md). It shows the nodes of the process that run, of all Lua states, whether they started before or after
---it. It only reads, and asks nobody for a password: other machines reach it only at an address of theirs.
---@param address? string `host:port`; default `127.0.0.1:0`, any free port
---@param options? consul_ffi.serve_status.options
---@return consul_ffi.StatusServer|false server
---@return string? message
---@return consul_ffi.Error? err `config`: the address is in use, or not one of this machine
function consul_ffi.serve_status(address, options) end

---@class consul_ffi.serve_status.options
---@field hosts? string|string[] names, without a port, under which it answers besides its address and `localhost`; a request for another name is refused

---A server for operators. It ends with its last reference, and a forked child does not have it.
---@class consul_ffi.StatusServer
---@field address string the address with the port at which it listens
local StatusServer = {}

---Closes it and its connections; its address is free then. It may be closed again.
---@return true success
function StatusServer:close() end

---The names of its methods, as `client:methods` of a client has them.
---@param prefix? string such as `"kv_"`
---@return string[] names in their order; as text one on each line
function StatusServer:methods(prefix) end

---Reads a regular file of up to 1 MiB, such as a configuration. It never waits: pipes and devices are refused.
---@param path string
---@return string? text nil for a file that cannot be read
---@return string? message the reason, with the path
function consul_ffi.read_file(path) end

---Opens a log file to append to: a regular file, a character device or a pipe. Neither this nor a write waits.
---A regular file is rotated to `path.1`, and so on; of a symbolic link, the file that it names. If another program,
---such as logrotate, has renamed or removed the file, the next line goes to a new one. Only one process may write a file.
---@param path string
---@param limits? consul_ffi.log_file.limits
---@return consul_ffi.LogFile? file nil for a file that cannot be opened, and for a directory, a block device or a socket
---@return string? message the reason, with the path
function consul_ffi.log_file(path, limits) end

---@class consul_ffi.log_file.limits
---@field max_bytes? integer the size at which the file is rotated; by default it is not
---@field max_backups? integer how many rotated files are kept; default 0
---@field max_age_s? number the age in seconds at which rotated files are removed; by default they are not

---@class consul_ffi.LogFile
local LogFile = {}

---Writes a line, which must end with a line break; others in it are written as `\n` and `\r`. A pipe that is full, or that no process reads, does not take
---it; then it is counted, and the next line that the pipe takes ends with `left_out=` and the count.
---@param line string of up to 4,000 bytes, which a pipe takes as a whole or not at all
---@return boolean? success nil when the line cannot be written for another reason
---@return string? message the reason
function LogFile:write(line) end

---Closes the file.
---@return boolean success
function LogFile:close() end

---The names of its methods, as `client:methods` of a client has them.
---@param prefix? string such as `"kv_"`
---@return string[] names in their order; as text one on each line
function LogFile:methods(prefix) end

return consul_ffi
