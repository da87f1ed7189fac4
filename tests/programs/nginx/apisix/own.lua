-- Our discovery module for APISIX in all workers of an nginx: what they say of services while Consul changes, is gone
-- and is back.
local drive = require("drive")
local cjson = require("cjson")
local discovery = require("apisix.discovery.consul_ffi")

local seen = ngx.shared.seen
local DEFAULT = "10.0.0.99:9999*1"
local MANY = 500

-- The answer of a worker about a service; its nodes must be the same table until they change.
local function answer_of(service)
  local nodes, why = discovery.nodes(service)
  if nodes ~= discovery.nodes(service) then
    return "another table"
  end
  return nodes and drive.text_of(nodes) or "none: " .. tostring(why)
end

-- Has each worker answer the question in the dict, again and again.
local function answer()
  local asked = seen:get("asked")
  if asked then
    seen:set("answer" .. ngx.worker.id(), asked .. "=" .. answer_of(asked))
  end
end

-- Waits until all workers say this of a service.
local function step(what, service, nodes)
  seen:set("asked", service)
  drive.wait_until(what, function()
    local answers, are_right = {}, true
    for id = 0, ngx.worker.count() - 1 do
      answers[#answers + 1] = tostring(seen:get("answer" .. id))
      are_right = are_right and answers[#answers] == service .. "=" .. nodes
    end
    return are_right, table.concat(answers, "; ")
  end)
  drive.say(("%s: %s: %s"):format(what, service, nodes:sub(1, 100)))
end

-- The lines of nginx's log with this text.
local function logged(text)
  local lines = {}
  for line in io.lines(ngx.config.prefix() .. "error.log") do
    if line:find(text, 1, true) then
      lines[#lines + 1] = line
    end
  end
  return lines
end

-- The connections to Consul that are established. The system has addresses as numbers with their last byte first.
local function connections()
  local a, b, c, d = os.getenv("CONSUL_HOST"):match("(%d+).(%d+).(%d+).(%d+)")
  local count, wanted = 0, (" %02X%02X%02X%02X:%04X 01 "):format(d, c, b, a, 8500)
  for line in io.lines("/proc/net/tcp") do
    count = count + (line:find(wanted, 1, true) and 1 or 0)
  end
  return count
end

local function wait_for_dump(text)
  drive.wait_until("the dump file", function()
    local status, body = discovery.control_api()[1].handler()
    return status == 200 and body:find(text, 1, true), body
  end)
end

local programs = {}

function programs.follows()
  step("before Consul is there", "web", DEFAULT)
  assert(not discovery.check_discovery_ready())
  drive.start_consul()
  drive.wait_until("it is ready", discovery.check_discovery_ready)
  drive.register("web", "web1", "10.0.0.1", 8001, { Weights = { Passing = 10, Warning = 1 } })
  step("the first comes", "web", "10.0.0.1:8001*10")
  drive.register("web", "web2", "10.0.0.2", 8002)
  step("a second comes", "web", "10.0.0.1:8001*10 10.0.0.2:8002*1")
  drive.register("web", "web1", "10.0.0.1", 8011, { Weights = { Passing = 20, Warning = 1 } })
  step("a port and a weight change", "web", "10.0.0.1:8011*20 10.0.0.2:8002*1")
  drive.check("web1", "warn")
  step("a check warns", "web", "10.0.0.2:8002*1")
  drive.check("web1", "pass")
  step("it passes", "web", "10.0.0.1:8011*20 10.0.0.2:8002*1")
  drive.check("web2", "fail")
  step("a check fails", "web", "10.0.0.1:8011*20")
  drive.register("web", "web3", "10.0.0.1", 8011)
  drive.register("bare", "bare1", nil, nil)
  local member = cjson.decode(drive.done("GET", "/v1/catalog/nodes"))[1]
  step("an instance without address and port", "bare", member.Address .. ":80*1")
  step("two of one address", "web", "10.0.0.1:8011*20")
  drive.register("six", "six1", "fd00::1", 8006)
  step("an IPv6 address", "six", "[fd00::1]:8006*1")
  drive.register("hidden", "hidden1", "10.0.0.5", 8005)
  drive.register("last", "last1", "10.0.0.6", 8006)
  step("the last one is there", "last", "10.0.0.6:8006*1")
  step("a service that is skipped", "hidden", DEFAULT)
  step("Consul's own service", "consul", DEFAULT)
  step("an unknown service", "none", DEFAULT)
  drive.deregister("web1")
  drive.deregister("web3")
  step("all go", "web", DEFAULT)
  drive.register("web", "web1", "10.0.0.1", 8001)
  step("one is back", "web", "10.0.0.1:8001*1")
  -- Two queries that wait, and up to four that read, of one worker, but for a moment in which another one takes over.
  drive.wait_until("one worker watches", function()
    return connections() <= 6, connections()
  end)
  local dump = cjson.decode(cjson.encode(discovery.dump_data()))
  assert(dump.config.token == nil and dump.config.weight == nil)
  assert(#dump.services.web == 1 and dump.services.hidden == nil and dump.services.consul == nil)
  assert(type(dump.ages_s.web) == "number")
  wait_for_dump('"web"')
end

-- Consul ends; nothing of that shows but one line in the log. Then it is back without services.
function programs.consul_goes()
  local OLD, NEW = "has not confirmed the nodes", "confirms the nodes again"
  drive.start_consul()
  drive.register("web", "web1", "10.0.0.1", 8001)
  step("an instance comes", "web", "10.0.0.1:8001*1")
  -- On a busy machine a list may have been old before.
  local warnings = #logged(OLD)
  drive.stop_consul()
  drive.wait_until("a warning", function()
    return #logged(OLD) > warnings
  end)
  step("Consul is gone", "web", "10.0.0.1:8001*1")
  -- Longer than it takes to look again.
  ngx.sleep(8)
  local age_s = discovery.dump_data().ages_s.web
  assert(age_s > 30, age_s)
  assert(#logged(OLD) == warnings + 1, "warned again")
  step("it is still gone", "web", "10.0.0.1:8001*1")
  drive.start_consul()
  drive.register("web", "web1", "10.0.0.1", 8001)
  drive.register("api", "api1", "10.0.0.4", 8004)
  step("Consul is back", "api", "10.0.0.4:8004*1")
  step("and has what registered again", "web", "10.0.0.1:8001*1")
  drive.wait_until("it says so", function()
    return #logged(NEW) > 0
  end)
end

function programs.many()
  drive.start_consul()
  local begun = ngx.now()
  for i = 1, MANY do
    drive.register("s" .. i, "s" .. i, "10.1.0.1", 10000 + i)
  end
  for i = 1, MANY do
    drive.wait_until("all services", function()
      local text = drive.text_of(discovery.nodes("s" .. i))
      return text == ("10.1.0.1:%d*1"):format(10000 + i), text
    end)
  end
  ngx.log(ngx.NOTICE, ("took: %d services in %.1f s"):format(MANY, ngx.now() - begun))
  step("500 services", "s500", "10.1.0.1:10500*1")
  begun = ngx.now()
  drive.check("s250", "fail")
  step("a check of one of them fails", "s250", DEFAULT)
  ngx.log(ngx.NOTICE, ("took: a check of one in %.1f s"):format(ngx.now() - begun))
end

-- A service with 500 instances: the events that APISIX's workers send each other would have no room for it.
function programs.large()
  drive.start_consul()
  for i = 1, MANY do
    drive.register("web", "web" .. i, "10.1.0.1", 10000 + i)
  end
  drive.wait_until("all instances", function()
    local nodes = discovery.nodes("web")
    return #nodes == MANY, #nodes
  end)
  step("500 instances of one service", "web", drive.text_of(discovery.nodes("web")))
end

function programs.token()
  drive.start_consul()
  drive.register("web", "web1", "10.0.0.1", 8001)
  step("with the token", "web", "10.0.0.1:8001*1")
  assert(discovery.dump_data().config.token == "hidden")
end

-- Writes a dump file, with which the next program begins.
function programs.dumps()
  drive.start_consul()
  drive.register("web", "web1", "10.0.0.1", 8001)
  step("an instance comes", "web", "10.0.0.1:8001*1")
  wait_for_dump('"web"')
end

function programs.starts()
  step("without Consul", "web", "10.0.0.1:8001*1")
  assert(discovery.check_discovery_ready())
  drive.start_consul()
  drive.register("web", "web2", "10.0.0.2", 8002)
  step("with Consul", "web", "10.0.0.2:8002*1")
end

-- Without a default service, and with one weight for all.
function programs.weight()
  drive.start_consul()
  drive.register("web", "web1", "10.0.0.1", 8001, { Weights = { Passing = 10, Warning = 1 } })
  step("one weight for all", "web", "10.0.0.1:8001*5")
  step("an unknown service", "none", 'none: Consul has no passing instance of "none"')
end

return function()
  discovery.init_worker()
  assert(ngx.timer.every(0.05, answer))
  if ngx.worker.id() == 0 then
    drive.start(programs[os.getenv("PROGRAM")])
  end
end
