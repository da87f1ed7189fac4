-- The messages in the headings of docs/faq.md are those that the module prints: a reader searches for them.
local consul_ffi = require("consul_ffi")
local socket = require("socket")
local support = require("spec.support")

-- These are compared by tests of whole programs: tests/programs/logs.rs and packaging.rs.
local ELSEWHERE = {
  ["HighAvailabilityCluster: the option endpoint has no effect here"] = true,
  ["this build of consul_ffi is for LuaJIT, but Lua 5.1 loads it"] = true,
}

-- The messages, of which `…` stands for any text.
local function messages()
  local file = assert(io.open("docs/faq.md"))
  local found = {}
  for line in file:lines() do
    for message in line:sub(1, 4) == "## `" and line:gmatch("`(.-)`") or function() end do
      found[#found + 1] = message
    end
  end
  file:close()
  return found
end

-- Without the marks of code and in small letters, as a search compares.
local function plain(text)
  return (text:gsub("`", ""):lower())
end

-- No message depends on the server that the specs run against.
if not support.simulated then
  return
end

describe("a message in a heading of the questions", function()
  local agent, opened

  before_each(function()
    agent, opened = support.name("questions"), {}
  end)

  after_each(function()
    for _, object in ipairs(opened) do
      object:close()
    end
  end)

  local function keep(object)
    opened[#opened + 1] = object
    return object
  end

  local function client(config)
    return keep(consul_ffi.new(support.merged({ simulate = agent }, config)))
  end

  local function unreachable()
    return keep(consul_ffi.new({ endpoint = "127.0.0.1:1", retry_count = 0 }))
  end

  local function node(id, port, config)
    return keep(consul_ffi.ConsulHACluster:new(support.merged({
      node_id = id,
      node_address = "127.0.0.1:" .. port,
      simulate = agent,
    }, config)))
  end

  -- What a call says to this answer, which a program on the port of the agent sends.
  local function said_to(answer)
    local server = keep(assert(socket.bind("127.0.0.1", 0)))
    local _, port = server:getsockname()
    local handle = keep(consul_ffi.new({ endpoint = "127.0.0.1:" .. port, retry_count = 0 })):start("kv_get", "key")
    local connection = keep(assert(server:accept()))
    repeat
      local line = assert(connection:receive("*l"))
    until line == ""
    assert(connection:send(answer))
    return select(3, handle:wait())
  end

  local function message_of(_, message)
    return message
  end

  local function raised(called, ...)
    return tostring(select(2, pcall(called, ...)))
  end

  -- What the module says after each mistake.
  local said = {
    ["connection refused"] = function()
      return message_of(unreachable():kv_get("key"))
    end,
    ["the server does not support it"] = function()
      return message_of(client():http_request("GET", "/agent/services"))
    end,
    ['simulate is "false"'] = function()
      return raised(consul_ffi.new, { simulate = "false" })
    end,
    ["value is a table with only names of options"] = function()
      local one = client()
      return raised(one.kv_put, one, "key", { cas = 0 })
    end,
    ['node_id "…" is taken'] = function()
      assert(node("n1", 9001, { profile = "fast" }):start())
      return message_of(node("n1", 9002, { profile = "fast" }):start())
    end,
    ["the cluster has shards = … and replicas = …"] = function()
      assert(node("n1", 9001):start())
      return message_of(node("n2", 9002, { shards = 8 }):start())
    end,
    ["not applied: the key has another modify index"] = function()
      local one = client()
      assert(one:kv_put("key", "value"))
      return message_of(one:kv_put("key", "value", { cas = 1 }))
    end,
    ["not acquired within … ms; session … holds it"] = function()
      assert(assert(client():lock("key")):acquire())
      return message_of(assert(client():lock("key")):acquire({ wait_s = 0.1 }))
    end,
    ["no answer from Consul yet"] = function()
      local silent = keep(assert(socket.bind("127.0.0.1", 0)))
      local _, port = silent:getsockname()
      local one = keep(consul_ffi.new({ endpoint = "127.0.0.1:" .. port }))
      return message_of(assert(one:service_view("web")):pick())
    end,
    ["no answer yet: …"] = function()
      local view = assert(unreachable():service_view("web"))
      local message
      support.eventually(function()
        message = message_of(view:pick())
        return not message:find("from Consul yet", 1, true)
      end)
      return message
    end,
    ["Consul's keys have no leading /"] = function()
      return message_of(client():kv_put("/key", "value"))
    end,
    ["Request body(… bytes) too large, max size: 524288 bytes"] = function()
      return message_of(client():kv_put("key", ("x"):rep(524289)))
    end,
    ["there is no such node in the cluster"] = function()
      local one = node("n1", 9001)
      assert(one:start())
      return message_of(one:call("n2", "name", "body"))
    end,
    ["the answer is not Consul's"] = function()
      return said_to("HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n<html>Log in</html>")
    end,
    ["a proxy before Consul demands credentials"] = function()
      return said_to("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
    end,
    ["attempt to yield across … boundary"] = function()
      local luasocket = require("consul_ffi.luasocket")
      local one, loop, message = keep(luasocket.new({ simulate = agent })), luasocket.loop(), nil
      loop:spawn(function()
        message = raised(table.sort, { 2, 1 }, function()
          return (one:kv_get("key"))
        end)
      end)
      repeat
        local _, are_left = loop:step(1)
      until not are_left
      return message
    end,
    ["it is not started"] = function()
      return message_of(node("n1", 9001):call("n2", "name", "body"))
    end,
  }

  for _, message in ipairs(messages()) do
    if not ELSEWHERE[message] then
      it("is printed: " .. message, function()
        local provoke = assert(said[message], "no mistake has this message here")
        local pattern = plain(message):gsub("[%p]", "%%%0"):gsub("…", ".+")
        assert.matches(pattern, plain(provoke()))
      end)
    end
  end

  it("belongs to each mistake here", function()
    local headings = {}
    for _, message in ipairs(messages()) do
      headings[message] = true
    end
    for message in pairs(said) do
      assert.is_true(headings[message], message)
    end
  end)
end)
