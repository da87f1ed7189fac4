-- Each heading of docs/faq.md is provoked. A message in one is as the module prints it: a reader searches for it.
local consul_ffi = require("consul_ffi")
local managers = require("spec.consul_production.support")
local socket = require("socket")
local support = require("spec.support")

-- These are compared by tests of whole programs: tests/programs/logs.rs, packaging.rs and nginx.rs.
local ELSEWHERE = {
  ["HighAvailabilityCluster: the option endpoint has no effect here"] = true,
  ["this build of consul_ffi is for LuaJIT, but Lua 5.1 loads it"] = true,
  ["Why does nginx log `lua tcp socket read timed out`?"] = true,
  ["Why does nginx log `connect() failed` several times for one call?"] = true,
}

-- The headings and their texts, in their order.
local function sections()
  local found = {}
  for line in io.lines("docs/faq.md") do
    local heading = line:match("^## (.*)")
    if heading then
      found[#found + 1] = { heading = heading, text = "" }
    elseif #found > 0 then
      found[#found].text = found[#found].text .. line .. "\n"
    end
  end
  return found
end

-- The messages in a heading, where `…` stands for any text; none in a question.
local function messages(heading)
  local found = {}
  for message in heading:sub(1, 1) == "`" and heading:gmatch("`(.-)`") or function() end do
    found[#found + 1] = message
  end
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

describe("a heading of the questions", function()
  local agent, opened

  before_each(function()
    agent, opened = support.name("questions"), {}
  end)

  after_each(function()
    for _, object in ipairs(opened) do
      object:close()
    end
    managers.close()
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

  -- A server on the port of an agent.
  local function server()
    local listening = keep(assert(socket.bind("127.0.0.1", 0)))
    listening:settimeout(support.PATIENCE_MS / 1000)
    return listening, select(2, listening:getsockname())
  end

  -- Takes the next connection to a server. Returns it, the first line of its request and its headers.
  local function take(listening)
    local connection = keep(assert(listening:accept()))
    connection:settimeout(support.PATIENCE_MS / 1000)
    local request = assert(connection:receive("*l"))
    local head = ""
    repeat
      local line = assert(connection:receive("*l"))
      head = head .. line .. "\n"
    until line == ""
    return connection, request, head
  end

  local function send(connection, status, headers, body)
    local head = "HTTP/1.1 %s\r\n%sConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    assert(connection:send(head:format(status, headers, #body, body)))
    connection:close()
  end

  -- Sends Consul's answer: the entry of the key `key`.
  local function send_entry(connection, index, value)
    local entry = '[{"LockIndex":0,"Key":"key","Flags":0,"Value":"%s","CreateIndex":1,"ModifyIndex":%d}]'
    local headers = "Content-Type: application/json\r\nX-Consul-Index: " .. index .. "\r\n"
    send(connection, "200 OK", headers, entry:format(value, index))
  end

  -- The message of a call for this answer.
  local function said_to(status, headers, body)
    local listening, port = server()
    local handle = keep(consul_ffi.new({ endpoint = "127.0.0.1:" .. port, retry_count = 0 })):start("kv_get", "key")
    send(take(listening), status, headers, body)
    return select(3, handle:wait())
  end

  local function message_of(_, message)
    return message
  end

  local function raised(called, ...)
    return tostring(select(2, pcall(called, ...)))
  end

  -- The message of the module after each mistake.
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
      return said_to("200 OK", "", "<html>Log in</html>")
    end,
    ["404 page not found"] = function()
      return said_to("404 Not Found", "Content-Type: text/plain\r\n", "404 page not found")
    end,
    ["a proxy before Consul demands credentials"] = function()
      return said_to("401 Unauthorized", "WWW-Authenticate: Basic\r\n", "")
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

  -- The treatment of each status that the questions name as a proxy's.
  local function is_retried(status)
    return function()
      local listening, port = server()
      local one = keep(consul_ffi.new({ endpoint = "127.0.0.1:" .. port, retry_count = 1 }))
      local handle = one:start("kv_get", "key")
      send(take(listening), status, "", "")
      send_entry(take(listening), 7, "dg==")
      local _, success, value, meta = handle:wait()
      assert.same({ true, "v", 2 }, { success, value, meta.attempts })
    end
  end

  local function is_a_redirect(status)
    return function()
      local target = "https://consul.example/v1/kv/key"
      local message = said_to(status, "Location: " .. target .. "\r\n", "")
      assert.matches(target, message, 1, true)
    end
  end

  local by_status = {
    ["301"] = is_a_redirect("301 Moved Permanently"),
    ["308"] = is_a_redirect("308 Permanent Redirect"),
    ["401"] = function()
      assert.matches("demands credentials", said_to("401 Unauthorized", "WWW-Authenticate: Basic\r\n", ""), 1, true)
    end,
    ["408"] = is_retried("408 Request Timeout"),
    ["413"] = function()
      local page = "<html>413 Request Entity Too Large</html>"
      assert.matches("the answer is not Consul's", said_to("413 Payload Too Large", "", page), 1, true)
    end,
    ["425"] = is_retried("425 Too Early"),
    ["520"] = is_retried("520 Unknown"),
    ["529"] = is_retried("529 Overloaded"),
  }

  -- The lines of the log at WARN while `called` makes a client.
  local function warnings(called)
    local lines = {}
    local one = called(function(level, message)
      lines[#lines + 1] = level .. " " .. message
    end)
    one:kv_get("key")
    client({ log = false }):kv_get("key")
    return table.concat(lines, "\n")
  end

  -- The effects in the questions without a message.
  local shown = {
    ["Why is my lock, watch or instance nil?"] = function()
      local one = client()
      assert(one:agent_service_register({ name = "web", address = "10.0.0.1", port = 80 }))
      local view = assert(one:service_view("web"))
      assert(view:ready(support.PATIENCE_MS))
      local _, lock = one:lock("key")
      local _, watch = one:watch("kv_get", "key")
      local _, instance = view:pick()
      assert.same({}, { lock, watch, instance })
      assert.equal("10.0.0.1", assert(view:pick()).address)
      local value = one:kv_put("key", "value")
      assert.is_true(value)
    end,
    ["Requests go to port 80"] = function()
      local logged = warnings(function(log)
        local config = { endpoint = "127.0.0.1", retry_count = 0, timeout = 1000, log_level = "WARN", log = log }
        return keep(consul_ffi.new(config))
      end)
      assert.matches("WARN the endpoint http://127.0.0.1 has no port, so requests go to port 80", logged, 1, true)
    end,
    ["Which unit has a timeout?"] = function()
      local logged = warnings(function(log)
        return client({ timeout = 5, log_level = "WARN", log = log })
      end)
      assert.matches("WARN timeout is 5 milliseconds", logged, 1, true)
    end,
    ["Why `meta.modify_index` here and `entry.ModifyIndex` there?"] = function()
      local one = client()
      assert(one:kv_put("key", "value"))
      local _, _, meta = assert(one:kv_get("key"))
      local _, entries = assert(one:kv_list("key"))
      assert.is_number(meta.modify_index)
      assert.equal(meta.modify_index, entries[1].ModifyIndex)
      for _, definition in ipairs({ { Name = "web", Port = 80 }, { name = "web", port = 80 } }) do
        assert(one:agent_service_register(definition))
      end
    end,
    ["Is my program unhealthy because of another one?"] = function()
      assert(client():agent_service_register({ name = "batch", check = { ttl = "600s", status = "critical" } }))
      local manager = managers.started({ consul = { simulate = agent } })
      assert.is_nil(manager:monitor_health().reasons.critical_check)
      assert(manager:reload_config({ monitoring = { all_checks = true } }))
      assert.equal("service:batch", manager:monitor_health().reasons.critical_check)
    end,
    ["Why is a key that does not exist no error?"] = function()
      local success, value, meta = client():kv_get("none")
      assert.same({ true }, { success, value })
      assert.is_number(meta.index)
      local refused, message, err = unreachable():kv_get("none")
      assert.same({ false, message }, { refused, err.message })
    end,
    ["May a key have `#`, `?` or `%`?"] = function()
      local one = client()
      local names = { "jobs/#1", "jobs/%41", "jobs/?raw" }
      for _, name in ipairs(names) do
        assert(one:kv_put(name, "v"))
      end
      assert.same(names, (select(2, one:kv_keys("jobs/"))))
      local sent = { ["raw/#1"] = "raw/#1", ["raw/%3F"] = "raw/?", ["raw/%25"] = "raw/%", ["raw/2?x"] = "raw/2" }
      for path, name in pairs(sent) do
        assert(one:http_request("PUT", "/v1/kv/" .. path, name))
        assert.equal(name, select(2, one:kv_get(name)))
      end
    end,
    ["What does an empty token do?"] = function()
      local listening, port = server()
      local tokens = {}
      for _, call in ipairs({ { nil, "nil" }, { '""', "nil" }, { nil, '""' } }) do
        local config = ("{ endpoint = '127.0.0.1:%d', retry_count = 0, token = %s }"):format(port, tostring(call[1]))
        local program = 'require("consul_ffi").new(%s):kv_get("key", { token = %s })'
        program = program:format(config, call[2]):gsub("'", "'\\''")
        local command = "CONSUL_HTTP_TOKEN=set %s -e '%s' 2>&1"
        local child = assert(io.popen(command:format(support.interpreter, program)))
        local connection, _, head = take(listening)
        tokens[#tokens + 1] = head:lower():match("x%-consul%-token: *(%S*)") or ""
        send_entry(connection, 7, "dg==")
        child:close()
      end
      assert.same({ "set", "", "" }, tokens)
    end,
    ["Why is `GLIBC_…` not found?"] = function()
      local names
      for pattern in package.cpath:gmatch("[^;]+") do
        local file = not names and io.open((pattern:gsub("?", "consul_ffi")), "rb")
        if file then
          names = file:read("*a"):match("GLIBC_2%.%d+")
          file:close()
        end
      end
      assert.is_string(names, "the module asks for no version of the C library")
    end,
    ["Why does my load balancer end my waits?"] = function()
      local listening, port = server()
      local watch = keep(assert(consul_ffi.new({ endpoint = "127.0.0.1:" .. port }):watch("kv_get", "key")))
      send_entry(take(listening), 7, "dg==")
      assert.equal("v", select(2, watch:next(support.PATIENCE_MS)).value)
      for _, ended in ipairs({ "504 Gateway Timeout", "408 Request Timeout" }) do
        local connection, request = take(listening)
        -- A query that is sent again waits for what is left of the 50 s.
        assert.matches("wait=50s", (request:gsub("wait=4%d%d%d%dms", "wait=50s")), 1, true)
        send(connection, ended, "Content-Type: text/html\r\n", "<html>")
        send_entry(take(listening), 7, "dg==")
      end
      -- The next event is the change, and no state has been reported again.
      local connection = take(listening)
      send_entry(connection, 8, "dw==")
      local _, change = watch:next(support.PATIENCE_MS)
      assert.same({ "put", "w" }, { change.type, change.value })
    end,
    ["Is `HTTP_PROXY` used?"] = function()
      local set = {}
      for _, name in ipairs({ "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY" }) do
        local value = name == "NO_PROXY" and "" or "http://127.0.0.1:1"
        set[#set + 1] = name .. "=" .. value
        set[#set + 1] = name:lower() .. "=" .. value
      end
      local listening, port = server()
      local config = ("{ endpoint = '127.0.0.1:%d', retry_count = 0 }"):format(port)
      local program = ('print((select(2, require("consul_ffi").new(%s):kv_get("key"))))'):format(config)
      local command = "env %s %s -e '%s' 2>&1"
      program = program:gsub("'", "'\\''")
      local child = assert(io.popen(command:format(table.concat(set, " "), support.interpreter, program)))
      send_entry(take(listening), 7, "dg==")
      assert.equal("v", child:read("*l"))
      child:close()
    end,
  }

  for _, section in ipairs(sections()) do
    local found = messages(section.heading)
    for _, message in ipairs(found) do
      if not ELSEWHERE[message] then
        it("is printed: " .. message, function()
          local provoke = assert(said[message], "no mistake has this message here")
          local pattern = plain(message):gsub("[%p]", "%%%0"):gsub("…", ".+")
          assert.matches(pattern, plain(provoke()))
        end)
      end
    end
    if #found == 0 and not ELSEWHERE[section.heading] then
      it("is shown: " .. section.heading, function()
        assert(shown[section.heading], "nothing here shows it")()
      end)
    end
    for status in section.text:gmatch("%f[%w][345]%d%d%f[%W]") do
      if section.text:find("tatuses", 1, true) then
        it("has the status " .. status .. " as its text says", function()
          assert(by_status[status], "nothing here sends it")()
        end)
      end
    end
  end

  it("belongs to each mistake and each status here", function()
    local headings, texts = {}, {}
    for _, section in ipairs(sections()) do
      headings[section.heading] = true
      texts[#texts + 1] = section.text
      for _, message in ipairs(messages(section.heading)) do
        headings[message] = true
      end
    end
    for _, known in ipairs({ said, shown }) do
      for heading in pairs(known) do
        assert.is_true(headings[heading], heading)
      end
    end
    for status in pairs(by_status) do
      assert.matches(status, table.concat(texts), 1, true)
    end
  end)
end)
