-- APISIX's own discovery/consul and discovery/consul_kv, on the client of the Lua path: what they say of services that
-- come, change and go. The results are the same lines on each client that answers as lua-resty-consul does.
local cjson = require("cjson")
local drive = require("drive")
local config = require("apisix.core.config_local").local_conf()

local kind = next(config.discovery)
local discovery = require("apisix.discovery." .. kind)

-- The configuration that is in use, for the parts of the program that depend on it.
local options = config.discovery[kind]

local MANY = 500

-- The name of a service in consul_kv: the URL of the folder of its keys.
local function folder(service)
  return ("%s/v1/kv/upstreams/%s/"):format(options.servers[1], service)
end

local function name_of(service)
  return kind == "consul_kv" and folder(service) or service
end

-- All services and their nodes in one line, without the address of Consul.
local function everything()
  local lines = {}
  for service, nodes in pairs(discovery.all_nodes()) do
    lines[#lines + 1] = ("%s=[%s]"):format(service:gsub("^http://[%d.:]+", ""), drive.text_of(nodes))
  end
  table.sort(lines)
  return table.concat(lines, " ")
end

-- Waits until a service has these nodes; writes them, and all others.
local function step(what, service, nodes)
  local function now()
    local text = drive.text_of(discovery.nodes(name_of(service)))
    return text == nodes, text
  end
  local ran, why = pcall(drive.wait_until, what, now)
  drive.say(("%s: %s: %s; all: %s"):format(what, service, select(2, now()), everything()))
  assert(ran, why)
end

local function put_node(service, address, value)
  drive.done("PUT", ("/v1/kv/upstreams/%s/%s"):format(service, address), value)
end

-- The dump file, but for its time.
local function dump()
  local text, file
  drive.wait_until("the dump file", function()
    file = io.open(options.dump.path)
    text = file and file:read("*a")
    return file and file:close() and text:find("services", 1, true), text
  end)
  local decoded, lines = cjson.decode(text), {}
  for service, nodes in pairs(decoded.services) do
    lines[#lines + 1] = ("%s=[%s]"):format(service:gsub("^http://[%d.:]+", ""), drive.text_of(nodes))
  end
  table.sort(lines)
  drive.say(("the dump file: expire %d; %s"):format(decoded.expire, table.concat(lines, " ")))
end

local programs = {}

function programs.consul()
  drive.register("last", "last", "10.0.0.9", 9000)
  step("an instance comes", "last", "10.0.0.9:9000*1")
  step("no instance", "web", "none")
  drive.register("web", "web1", "10.0.0.1", 8001, { Weights = { Passing = 10, Warning = 1 }, Meta = { weight = "7" } })
  step("the first comes", "web", "10.0.0.1:8001*1")
  drive.register("web", "web2", "10.0.0.2", 8002)
  step("a second comes", "web", "10.0.0.1:8001*1 10.0.0.2:8002*1")
  drive.register("web", "web1", "10.0.0.1", 8011)
  drive.check("web2", "warn")
  step("a port changes and a check warns", "web", "10.0.0.1:8011*1")
  drive.register("web", "web1", "10.0.0.11", 8011)
  drive.check("web2", "pass")
  step("an address changes and a check passes", "web", "10.0.0.11:8011*1 10.0.0.2:8002*1")
  drive.check("web1", "fail")
  step("a check fails", "web", "10.0.0.2:8002*1")
  drive.check("web1", "pass")
  step("it passes", "web", "10.0.0.11:8011*1 10.0.0.2:8002*1")
  drive.register("web", "web3", "10.0.0.2", 8002)
  drive.register("bare", "bare1", "10.0.0.3")
  step("an instance without a port", "bare", "10.0.0.3:80*1")
  step("two of one address", "web", "10.0.0.11:8011*1 10.0.0.2:8002*1")
  drive.deregister("web1")
  step("one goes", "web", "10.0.0.2:8002*1")
  drive.deregister("web2")
  drive.deregister("web3")
  step("all go", "web", "none")
  drive.register("web", "web1", "10.0.0.1", 8001)
  step("one is back", "web", "10.0.0.1:8001*1")
  drive.stop_consul()
  -- More than one of the attempts to reach it, and longer than a list is cached.
  ngx.sleep(3)
  step("Consul is gone", "web", "10.0.0.1:8001*1")
  drive.start_consul()
  drive.register("api", "api1", "10.0.0.4", 8004)
  step("Consul is there, and has lost all", "api", "10.0.0.4:8004*1")
  step("what it lost", "web", "none")
  drive.register("web", "web1", "10.0.0.1", 8001)
  step("an instance registers again", "web", "10.0.0.1:8001*1")
end

function programs.consul_many()
  local begun = ngx.now()
  for i = 1, MANY do
    drive.register("s" .. i, "s" .. i, "10.1.0.1", 10000 + i)
  end
  drive.register("last", "last", "10.0.0.9", 9000)
  for i = 1, MANY do
    drive.wait_until("all services", function()
      local text = drive.text_of(discovery.nodes("s" .. i))
      return text == ("10.1.0.1:%d*1"):format(10000 + i), text
    end)
  end
  drive.say("500 services: " .. everything())
  ngx.log(ngx.NOTICE, ("took: %d services in %.1f s"):format(MANY, ngx.now() - begun))
  begun = ngx.now()
  drive.check("s250", "fail")
  step("a check of one of them fails", "s250", "none")
  ngx.log(ngx.NOTICE, ("took: a check of one in %.1f s"):format(ngx.now() - begun))
end

-- With skip_services, default_service, weight, sort_type, dump, and requests instead of waiting queries.
function programs.consul_options()
  drive.register("hidden", "hidden1", "10.0.0.5", 8005)
  drive.register("web", "web1", "10.0.0.2", 8002)
  drive.register("web", "web2", "10.0.0.1", 8001)
  drive.register("web", "web3", "10.0.0.1", 8000)
  step("sorted", "web", "10.0.0.1:8000*5 10.0.0.1:8001*5 10.0.0.2:8002*5")
  step("skipped", "hidden", "10.0.0.99:9999*5")
  step("unknown", "none", "10.0.0.99:9999*5")
  dump()
end

function programs.consul_token()
  drive.register("web", "web1", "10.0.0.1", 8001)
  step("with the token", "web", "10.0.0.1:8001*1")
end

-- Consul denies, so that there is nothing; a node with the management token shows that time has passed.
function programs.consul_wrong_token()
  drive.register("web", "web1", "10.0.0.1", 8001)
  ngx.sleep(5)
  step("with another token", "web", "none")
end

function programs.consul_kv()
  put_node("web", "10.0.0.1:8001", '{"weight": 3, "max_fails": 2}')
  step("the first comes", "web", "10.0.0.1:8001*3")
  put_node("web", "10.0.0.2:8002", "{}")
  step("a second comes", "web", "10.0.0.1:8001*3 10.0.0.2:8002*1")
  put_node("web", "10.0.0.1:8001", '{"weight": 9}')
  step("a weight changes", "web", "10.0.0.1:8001*9 10.0.0.2:8002*1")
  put_node("web", "10.0.0.1:8001", '{"weight": 9, "check_status": false}')
  step("one is unhealthy", "web", "10.0.0.2:8002*1")
  put_node("web", "10.0.0.1:8001", "not JSON")
  put_node("api", "10.0.0.3:8003", "{}")
  step("another service", "api", "10.0.0.3:8003*1")
  drive.done("DELETE", "/v1/kv/upstreams/web/10.0.0.2:8002")
  step("the last of a service goes", "web", "none")
  drive.stop_consul()
  ngx.sleep(3)
  step("Consul is gone", "api", "10.0.0.3:8003*1")
  drive.start_consul()
  put_node("web", "10.0.0.1:8001", "{}")
  step("Consul is there, and has lost all", "web", "10.0.0.1:8001*1")
  step("what it lost", "api", "none")
end

function programs.consul_kv_many()
  for first = 1, MANY, 50 do
    local operations = {}
    for i = first, first + 49 do
      local key = ("upstreams/s%d/10.1.0.1:%d"):format(i, 10000 + i)
      operations[#operations + 1] = { KV = { Verb = "set", Key = key, Value = ngx.encode_base64("{}") } }
    end
    drive.done("PUT", "/v1/txn", operations)
  end
  for i = 1, MANY do
    drive.wait_until("all services", function()
      local text = drive.text_of(discovery.nodes(folder("s" .. i)))
      return text == ("10.1.0.1:%d*1"):format(10000 + i), text
    end)
  end
  drive.say("500 services: " .. everything())
end

function programs.consul_kv_token()
  put_node("web", "10.0.0.1:8001", "{}")
  step("with the token", "web", "10.0.0.1:8001*1")
end

return function()
  drive.start(function()
    drive.start_consul()
    discovery.init_worker()
    programs[os.getenv("PROGRAM")]()
  end)
end
