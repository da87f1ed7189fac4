-- A gateway, which only observes: writes records until it is ended, each once, and notes which were acknowledged.
-- With `check` it reads all of those, and fails if one is missing.
--
--   luajit crates/consul-ha/tests/tools/recipes/gateway.lua CONFIGURATION FILE [check]

local consul_ffi = require("consul_ffi")

local configuration, path, mode = arg[1], arg[2], arg[3]

local KEYS, WRITE_MS, PAUSE_MS = 40, 10000, 10

local function lines_of(name)
  local lines = {}
  for line in io.lines(name) do
    lines[#lines + 1] = line
  end
  return lines
end

local _, options = assert(consul_ffi.toml_decode(assert(consul_ffi.read_file(configuration .. "/node.toml"))))
options.observer = true
options.status_address = nil
options.token_file = configuration .. "/consul-token"
options.cluster_key = lines_of(configuration .. "/cluster-key")
options.data_tls = {
  cert_file = configuration .. "/node.pem",
  key_file = configuration .. "/node.key",
  ca_file = configuration .. "/cluster-ca.pem",
}
local store_options = options.store
options.store = nil
local cluster = consul_ffi.ConsulHACluster:new(options)
local points = cluster:replicate("points", nil, store_options)
assert(cluster:start())

local function write()
  local file = assert(io.open(path, "a"))
  local number = #lines_of(path)
  while true do
    number = number + 1
    local key = "k" .. number % KEYS
    local id = ("%s/%09d"):format(key, number)
    local written, why = points:write(key, { { id = id, data = tostring(number) } }, { timeout_ms = WRITE_MS })
    file:write(written and id or "refused " .. tostring(why), "\n")
    file:flush()
    cluster:poll(PAUSE_MS)
  end
end

local function check()
  local missing, count = {}, 0
  for _, line in ipairs(lines_of(path)) do
    if not line:find("^refused ") then
      missing[line], count = true, count + 1
    end
  end
  for number = 0, KEYS - 1 do
    local key = "k" .. number
    for record, why in points:read(key, { from = key .. "/", to = key .. "0", timeout_ms = 20000 }) do
      assert(record, why)
      missing[record.id] = nil
    end
  end
  assert(count > 0, "no write was acknowledged")
  for id in pairs(missing) do
    error(id .. " is missing, of " .. count .. " acknowledged records")
  end
  print(count)
end

if mode == "check" then
  check()
else
  write()
end
