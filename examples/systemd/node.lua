-- The program of node.service: a node that keeps the records of a store in a SQLite file.
--
--   CONFIGURATION_DIRECTORY=/etc/tsdb STATE_DIRECTORY=/var/lib/tsdb luajit examples/systemd/node.lua
--
-- The first folder has node.toml, with the options of ConsulHACluster and the address of the status server
-- (`status_address = "10.0.0.1:9100"`), and what is rotated: consul-token, cluster-key (one secret in each line),
-- node.pem, node.key and cluster-ca.pem. Each of these may be missing. On SIGTERM the node stops, and keeps its shards.

-- From any folder, with the modules of this checkout unless others are installed.
local own_folder = arg[0]:match("^.*/") or "./"
package.path = own_folder .. "../../?.lua;" .. package.path .. ";" .. own_folder .. "../../lua/?.lua"

local ffi = require("ffi")
local consul_ffi = require("consul_ffi")
local Storage = require("examples.tsdb.storage")

local SIGTERM, SIG_BLOCK = 15, 0

ffi.cdef([[
  typedef struct { unsigned long bits[16]; } node_signals;
  int sigemptyset(node_signals *set);
  int sigaddset(node_signals *set, int signal);
  int sigismember(const node_signals *set, int signal);
  int sigprocmask(int how, const node_signals *set, node_signals *before);
  int sigpending(node_signals *set);
]])

-- Blocked before the library starts its threads, the signal stays pending until the program looks.
local signals = ffi.new("node_signals")
ffi.C.sigemptyset(signals)
ffi.C.sigaddset(signals, SIGTERM)
ffi.C.sigprocmask(SIG_BLOCK, signals, nil)

local function is_asked_to_stop()
  ffi.C.sigpending(signals)
  return ffi.C.sigismember(signals, SIGTERM) == 1
end

local configuration = assert(os.getenv("CONFIGURATION_DIRECTORY"), "CONFIGURATION_DIRECTORY is not set")
local state = assert(os.getenv("STATE_DIRECTORY"), "STATE_DIRECTORY is not set")

-- Returns the path of a file of the configuration, or nil if there is none.
local function file(name)
  local path = configuration .. "/" .. name
  local found = io.open(path)
  if found then
    found:close()
    return path
  end
end

-- Returns the lines of a file.
local function lines_of(path)
  local lines = {}
  for line in io.lines(path) do
    lines[#lines + 1] = line:match("%S+")
  end
  return lines
end

local _, options = assert(consul_ffi.toml_decode(assert(consul_ffi.read_file(configuration .. "/node.toml"))))
options.notify = true
options.token_file = file("consul-token")
options.cluster_key = file("cluster-key") and lines_of(file("cluster-key"))
options.data_tls = file("node.pem")
  and { cert_file = file("node.pem"), key_file = file("node.key"), ca_file = file("cluster-ca.pem") }
local store_options, status_address = options.store, options.status_address
options.store, options.status_address = nil, nil
-- It shows the node also while that starts; a reference keeps it open.
local status = status_address and assert(consul_ffi.serve_status(status_address))

local storage = Storage.open(state .. "/" .. options.node_id .. ".sqlite", "machine")
local node = consul_ffi.ConsulHACluster:new(options)
node:replicate("points", storage, store_options)
assert(node:start())

-- The reason why the node has stopped by itself, such as `consul-ha leave`.
local function reason_of_end()
  for event, detail in node.poll_event, node do
    if event == "stopped" then
      return detail
    end
  end
end

local reason
repeat
  node:poll(200)
  reason = reason_of_end()
until reason or is_asked_to_stop()
node:stop()
storage:close()
if status then
  status:close()
end
print(reason or "stopped")
