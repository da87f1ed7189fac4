-- Service discovery of APISIX by Consul: one worker watches, and all read its lists from a shared dict of nginx. APISIX
-- loads this module for `discovery.consul_ffi` in its config.yaml; docs/apisix.md has the options.
local config_local = require("apisix.core.config_local")
local consul_ffi = require("consul_ffi")
local openresty_views = require("consul_ffi.openresty.views")

-- Consul's own service, which routes have no use for; as in APISIX's discovery/consul.
local SKIPPED = "consul"

-- The port of an instance that registered none; as in APISIX's discovery/consul.
local DEFAULT_PORT = 80

local DEFAULT_DICT = "consul_ffi"

-- Lists that Consul has not confirmed for this long are warned of, in seconds, and how often that is looked at. While
-- Consul answers, an age is 10 s or less.
local OLD_S, LOOK_S = 30, 5

---@class apisix.Node
---@field host string
---@field port integer
---@field weight integer
---@field priority integer

local conf, views, default_nodes
-- The services that are left out, also when the dump file has them.
local is_skipped = {}
-- Whether old lists have been warned of.
local is_old = false
-- The nodes of each list of a view, which is the same table until it changes, and the last ones of each service while
-- APISIX has them. It compares the nodes of each request with the last ones, which costs nothing for the same table.
local nodes_by_list, nodes_by_service = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "v" })

-- The reason that nodes() returns while there are no views.
local missing = "discovery.consul_ffi is not in config.yaml"

local discovery = { version = 0.1 }

-- Whether a host is an IPv6 address without brackets.
local function is_ipv6(host)
  return host:find("^[%x:.]+$") and (host:find("::", 1, true) or select(2, host:gsub(":", "")) >= 6)
end

-- A node as APISIX has it in use. Of one without a priority, or with an IPv6 address without brackets, it would put a
-- changed copy into our table, and take the next list for other nodes although it has the same ones.
local function node_of(host, port, weight)
  if is_ipv6(host) then
    host = "[" .. host .. "]"
  end
  return { host = host, port = port, weight = weight, priority = 0 }
end

local function nodes_from(list)
  local nodes, is_there = {}, {}
  for _, instance in ipairs(list) do
    local port = instance.port ~= 0 and instance.port or DEFAULT_PORT
    local node = node_of(instance.address, port, conf.weight or instance.weight or 1)
    local address = node.host:lower() .. " " .. port
    -- APISIX's balancer knows a node by its address, so that a second one would only take the first one's weight.
    if instance.status ~= "warning" and not is_there[address] then
      is_there[address] = true
      nodes[#nodes + 1] = node
    end
  end
  return nodes
end

-- Whether two lists have the same nodes, in any order: APISIX sorts those that it has.
local function are_equal(nodes, others)
  if #nodes ~= #others then
    return false
  end
  local weights = {}
  for _, node in ipairs(nodes) do
    weights[node.host .. " " .. node.port] = node.weight
  end
  for _, node in ipairs(others) do
    if weights[node.host .. " " .. node.port] ~= node.weight then
      return false
    end
  end
  return true
end

-- The nodes of a service's new list: the same table as before if they are equal, as after a change of metadata.
local function changed_nodes(service, list)
  local nodes, last = nodes_from(list), nodes_by_service[service]
  if last and are_equal(last, nodes) then
    nodes = last
  end
  nodes_by_list[list], nodes_by_service[service] = nodes, #nodes > 0 and nodes or nil
  return nodes
end

-- The nodes of a service, and nil and the reason if there are none.
local function nodes_of(service)
  if is_skipped[service] then
    return nil, ("%q is a service that is left out"):format(service)
  end
  local list, why = views:view(service):all()
  if not list then
    return nil, why
  end
  local nodes = nodes_by_list[list] or changed_nodes(service, list)
  if #nodes == 0 then
    return nil, ("Consul has no passing instance of %q"):format(service)
  end
  return nodes
end

---The nodes of a service, the same table until they change; without one, the default service.
---@param service string
---@return apisix.Node[]? nodes
---@return string? message why there are none
function discovery.nodes(service)
  if not views then
    return nil, missing
  end
  local nodes, why = nodes_of(service)
  if nodes then
    return nodes
  end
  return default_nodes, not default_nodes and why or nil
end

---The nodes of all services that have some.
---@return table<string, apisix.Node[]>
function discovery.all_nodes()
  local all = {}
  for _, service in ipairs(views and views:names() or {}) do
    all[service] = nodes_of(service)
  end
  return all
end

-- The ages of all lists, in seconds.
local function ages()
  local by_service = {}
  for _, service in ipairs(views and views:names() or {}) do
    by_service[service] = not is_skipped[service] and views:view(service):age_s() or nil
  end
  return by_service
end

-- The configuration without its secrets.
local function shown()
  local copy = {}
  for name, value in pairs(conf or {}) do
    copy[name] = value
  end
  copy.token = copy.token and "hidden" or nil
  copy.client = copy.client and "hidden" or nil
  return copy
end

---The answer of APISIX's control API to `GET /v1/discovery/consul_ffi/dump`.
---@return table
function discovery.dump_data()
  return { config = shown(), services = discovery.all_nodes(), ages_s = ages() }
end

local function show_dump_file()
  if not (conf and conf.dump) then
    return 503, "discovery.consul_ffi.dump.path is not set"
  end
  local text, why = consul_ffi.read_file(conf.dump.path)
  return text and 200 or 503, text or why
end

---The further paths in APISIX's control API, below `/v1/discovery/consul_ffi`.
---@return table[]
function discovery.control_api()
  return { { methods = { "GET" }, uris = { "/show_dump_file" }, handler = show_dump_file } }
end

---Whether there are lists, for APISIX's `/status/ready`.
---@return boolean is_ready
---@return string? message
function discovery.check_discovery_ready()
  local names, why = {}, nil
  if views then
    names, why = views:names()
  end
  if not names then
    return false, "consul_ffi: " .. why
  end
  return true
end

-- Warns of old lists once, and says when they are confirmed again.
local function look_at_ages(premature)
  if premature then
    return
  end
  local oldest, its_name = 0, nil
  for service, age_s in pairs(ages()) do
    if age_s > oldest then
      oldest, its_name = age_s, service
    end
  end
  if oldest > OLD_S and not is_old then
    ngx.log(ngx.WARN, ("consul_ffi: Consul (%s) has not confirmed the nodes for %d s, at least of %q: APISIX goes on"
      .. " with the last ones"):format(table.concat(conf.servers, ", "), oldest, its_name))
  elseif oldest <= OLD_S and is_old then
    ngx.log(ngx.NOTICE, "consul_ffi: Consul confirms the nodes again")
  end
  is_old = oldest > OLD_S
end

-- The options of consul_ffi.new.
local function client_options()
  local options = {}
  for name, value in pairs(conf.client or {}) do
    options[name] = value
  end
  options.endpoints = conf.servers
  -- An empty token is none, as in APISIX's discovery/consul.
  options.token = conf.token ~= "" and conf.token or options.token
  if conf.timeout then
    options.connect_timeout_ms, options.timeout = conf.timeout.connect, conf.timeout.read
  end
  return options
end

local function in_prefix(path)
  return path:sub(1, 1) == "/" and path or ngx.config.prefix() .. path
end

---APISIX calls it in each worker. Raises an error for an option that cannot be used.
function discovery.init_worker()
  local all = config_local.local_conf()
  local given = all and all.discovery and all.discovery.consul_ffi
  if not given then
    return
  elseif ngx.config.subsystem ~= "http" then
    missing = "discovery.consul_ffi serves routes alone, not stream routes"
    return
  end
  conf = {}
  for name, value in pairs(given) do
    conf[name] = value
  end
  conf.shared_dict = conf.shared_dict or DEFAULT_DICT
  if not ngx.shared[conf.shared_dict] then
    error(("discovery.consul_ffi.shared_dict: nginx has no lua_shared_dict %q: add it to "
      .. "nginx_config.http.custom_lua_shared_dict in config.yaml"):format(conf.shared_dict))
  end
  conf.dump = conf.dump and { path = in_prefix(conf.dump.path) }
  local default = conf.default_service
  default_nodes = default and { node_of(default.host, default.port, 1) }
  is_skipped = { [SKIPPED] = true }
  for _, service in ipairs(conf.skip_services or {}) do
    is_skipped[service] = true
  end
  views = openresty_views.new({
    dict = conf.shared_dict,
    filter = function(service)
      return not is_skipped[service]
    end,
    config = client_options(),
    dump_file = conf.dump and conf.dump.path,
  })
  views:start()
  if ngx.worker.id() == 0 then
    assert(ngx.timer.every(LOOK_S, look_at_ages))
  end
end

return discovery
