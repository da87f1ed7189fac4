-- Calls between nodes, from Lua. docs/cluster.md describes them;
-- crates/consul-cluster/tests/cluster/data_plane has hostile peers.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

local function echo(body)
  return body
end

describe("calls between nodes", function()
  local cluster = support.each_cluster("calls")
  local new_node, node, two, prefix = cluster.new_node, cluster.node, cluster.two, cluster.prefix

  it("return the handler's reply #smoke", function()
    local one, other = two()
    local seen
    assert.is_true(other:handle("add", function(body, request)
      seen = request
      return { sum = body[1] + body[2] }
    end))
    local success, reply = one:call("n2", "add", { 1, 2 }, { timeout_ms = 2000, idempotency_key = "k" })
    assert.is_true(success, reply)
    assert.same({ sum = 3 }, reply)
    assert.same({ "n1", "add", "k" }, { seen.from, seen.name, seen.idempotency_key })
    assert.is_true(seen.deadline_ms > 0 and seen.deadline_ms <= 2000)
    assert.is_nil(seen.shard)
  end)

  it("carry strings unchanged, and all values that JSON can represent", function()
    local one, other = two({ cluster_key = "a secret of the cluster" })
    other:handle("echo", echo)
    local bytes = {}
    for byte = 0, 255 do
      bytes[byte + 1] = string.char(byte)
    end
    for _, body in ipairs({ table.concat(bytes), "", "{}", true, false, 0, -1.5, { "a", { b = {} } } }) do
      local success, reply = one:call("n2", "echo", body)
      assert.is_true(success, reply)
      assert.same(body, reply)
    end
    local success, reply = one:call("n2", "echo")
    assert.is_true(success, reply)
    assert.is_nil(reply)
    assert.equal("argument", support.kind(one:call("n2", "echo", { 0 / 0 })))
    assert.equal("argument", support.kind(one:call("n2", "echo", { "\255" })))
  end)

  it("fail with the handler's message or error, naming node and handler #smoke", function()
    local one, other = two()
    other:handle("says", function()
      return nil, "no such metric"
    end)
    other:handle("raises", function()
      error("a defect", 0)
    end)
    other:handle("raises a table", function()
      error(setmetatable({}, {
        __tostring = function()
          return "a described defect"
        end,
      }))
    end)
    other:handle("raises no text", function()
      error({})
    end)
    other:handle("says no text", function()
      return nil, function() end
    end)
    other:handle("yields", function()
      coroutine.yield()
    end)
    other:handle("replies nonsense", function()
      return print
    end)
    for name, why in pairs({
      says = "no such metric",
      raises = "a defect",
      ["raises a table"] = "a described defect",
      ["raises no text"] = "an error object of type table",
      ["says no text"] = "an error object of type function",
      yields = "yield",
      ["replies nonsense"] = "a function",
    }) do
      local success, message, err = one:call("n2", name)
      assert.equal("http", support.kind(success, message, err))
      assert.matches(why, message, 1, true)
      assert.matches(('node "n2": call %q'):format(name), message, 1, true)
      assert.is_true(err.maybe_applied)
    end
    local success, message, err = one:call("n2", "nothing")
    assert.equal("not_found", support.kind(success, message, err))
    assert.is_false(err.maybe_applied)
    assert.equal("not_found", support.kind(one:call("n3", "says")))
    assert.is_true(other:handle("says", nil))
    assert.equal("not_found", support.kind(one:call("n2", "says")))
  end)

  it("fail without the files and lines of the handler's program", function()
    local one, other = two()
    other:handle("raises", function()
      error("no such series")
    end)
    other:handle("has a defect", function(body)
      return body.series.name
    end)
    other:handle("is in a string", support.load("error('no such series')"))
    other:handle("passes on", function()
      local ok, why = pcall(error, "no such series")
      return ok or nil, debug.getinfo(1, "S").short_src .. ":1: " .. why
    end)
    for _, name in ipairs({ "raises", "has a defect", "is in a string", "passes on" }) do
      local success, message, err = one:call("n2", name, {})
      assert.equal("http", support.kind(success, message, err))
      local words = name == "has a defect" and "index" or "no such series"
      assert.matches(words, message, 1, true)
      assert.is_nil(message:find("data_plane_spec", 1, true), message)
      assert.is_nil(message:find("[string", 1, true), message)
      assert.is_nil(message:find(":%d+: "), message)
    end
  end)

  it("keep the words of a handler's error, whatever position is in it", function()
    local one, other = two()
    other:handle("returns", function(text)
      return nil, text
    end)
    other:handle("has a name", support.load("error('no such series')", "=main chunk"))
    local _, named = one:call("n2", "has a name")
    assert.equal('cluster node "n1": node "n2": call "has a name": no such series', (named:gsub(" %(from .*", "")))
    for text, expected in pairs({
      ["/srv/db/node.lua:8: no such series"] = "no such series",
      ["/srv/my db/node.lua:8: no such series"] = "no such series",
      ["./node.lua:8: node.lua:9: no such series"] = "no such series",
      ["...a/long/path/node.lua:12: no such series"] = "no such series",
      ['[string "return 1"]:1: no such series'] = "no such series",
      ["points: /srv/my db/node.lua:8: no such series"] = "points: no such series",
      ["failed (node.lua:8)"] = "failed ()",
      ["/srv/bin/database:8: no such series"] = "no such series",
      ["stack traceback:\n\t/srv/a.lua:8: in function"] = "stack traceback:\n\tin function",
      ["redis://cache:6379: refused"] = "redis://cache:6379: refused",
      ["cache:6379: refused"] = "cache:6379: refused",
      ["cannot read node.lua: no such file"] = "cannot read node.lua: no such file",
    }) do
      local _, message = one:call("n2", "returns", text)
      local found = message:gsub("^.-call \"returns\": ", ""):gsub(" %(from [^()]*%)$", "")
      assert.equal(expected, found)
    end
  end)

  it("do not keep the program busy with a handler's long message", function()
    local one, other = two()
    other:handle("returns", function(text)
      return nil, text
    end)
    local begun = os.clock()
    local _, message = one:call("n2", "returns", " " .. ("b.lua:1:"):rep(100000), { timeout_ms = 20000 })
    -- A quarter of that took 9 s.
    assert.is_true(os.clock() - begun < 5)
    assert.is_true(#message < 9000)
  end)

  it("refuse a table with a key that is not UTF-8, of which another one could be the same", function()
    local one = two()
    local called, message = pcall(one.call, one, "n2", "echo", { ["k\255"] = 1, ["k\254"] = 2 })
    assert.is_false(called)
    assert.matches("which is not UTF-8", tostring(message), 1, true)
  end)

  it("take up to 3 retries", function()
    local one, other = two()
    other:handle("echo", echo)
    for retries = 0, 3 do
      assert.is_true(one:call("n2", "echo", "x", { retries = retries }))
    end
    local success, message, err = one:call("n2", "echo", "x", { retries = 4 })
    assert.equal("argument", support.kind(success, message, err))
    assert.matches("an integer from 0 to 3", message, 1, true)
  end)

  it("are accepted with any of the keys of a list, so that keys rotate", function()
    local one = node("n1", { cluster_key = { "the secret of the first", "the secret of the second" } })
    local other = node("n2", { cluster_key = { "the secret of the second", "the secret of the first" } })
    one:handle("echo", echo)
    other:handle("echo", echo)
    support.eventually(function()
      return #one:get_live_nodes() == 2 and #other:get_live_nodes() == 2
    end)
    assert.is_true(one:call("n2", "echo", "x"))
    assert.is_true(other:call("n1", "echo", "x"))
    local config = { node_id = "n", node_address = "a:1", cluster_key = { "the secret of the first", "short" } }
    support.raises("cluster_key is too short: it must have at least 16 bytes", consul_ffi.ConsulHACluster.new, config)
    for i = 1, 8 do
      config.cluster_key[i] = "the secret of number " .. i
    end
    consul_ffi.ConsulHACluster.new(config):close()
    config.cluster_key[9] = "the secret of number 9"
    local why = "cluster_key is a list of 9 secrets: it can have up to 8"
    support.raises(why, consul_ffi.ConsulHACluster.new, config)
  end)

  it("can be made by a handler, also back to the caller #smoke", function()
    local one, other = two()
    one:handle("down", function(level, request)
      if level == 0 then
        return "bottom"
      end
      local success, reply = one:call(request.from, "down", level - 1)
      return success and reply or nil, reply
    end)
    other:handle("down", function(level, request)
      local success, reply = other:call(request.from, "down", level - 1)
      return success and reply or nil, reply
    end)
    local success, reply = one:call("n2", "down", 5)
    assert.is_true(success, reply)
    assert.equal("bottom", reply)
  end)

  it("nest up to 8 deep, then fail immediately", function()
    local one = node("n1")
    one:handle("again", function(level)
      local success, reply = one:call("n1", "again", level + 1)
      return success and reply or nil, reply
    end)
    local success, message = one:call("n1", "again", 1)
    assert.is_false(success)
    assert.matches("nested 8 deep", message, 1, true)
    one:handle("echo", echo)
    assert.same({ true, "again" }, { one:call("n1", "echo", "again") })
  end)

  it("reach the node itself", function()
    local one = node("n1")
    one:handle("echo", echo)
    assert.same({ true, "x" }, { one:call("n1", "echo", "x") })
  end)

  it("are broadcast to all live nodes, or to selected ones #smoke", function()
    local one, other = two()
    one:handle("name", function()
      return "one"
    end)
    other:handle("name", function()
      return nil, "unnamed"
    end)
    local success, results = one:broadcast("name")
    assert.is_true(success)
    assert.same({ success = true, data = "one" }, results.n1)
    assert.is_false(results.n2.success)
    assert.matches("unnamed", results.n2.error, 1, true)
    success, results = one:broadcast("name", nil, { nodes = { "n2", "n9" }, timeout_ms = 2000 })
    assert.is_true(success)
    assert.is_nil(results.n1)
    assert.matches("no such node", results.n9.error, 1, true)
    success, results = one:broadcast("name", nil, { nodes = {} })
    assert.is_true(success)
    assert.same({}, results)
  end)

  it("end after their timeout, without a call of the handler if it was over before", function()
    local one = node("n1")
    local called = false
    one:handle("late", function()
      called = true
      local limit = support.clock() + 0.1
      while support.clock() < limit do
        support.sleep_ms(5)
      end
    end)
    -- On a busy machine the timeout can be over before the handler begins, or nobody looks at the clock before it ends.
    support.eventually(function()
      called = false
      local success, message, err = one:call("n1", "late", nil, { timeout_ms = 50 })
      return called and not success and assert.equal("timeout", support.kind(success, message, err))
    end)
    called = false
    assert.equal("timeout", support.kind(one:call("n1", "late", nil, { timeout_ms = 0.001 })))
    assert.is_false(called)
  end)

  -- Calls `action` in the handler of one request, while another one waits.
  local function while_one_waits(action)
    local one, other = two()
    local has_begun, found = false, nil
    local function first()
      if not has_begun then
        has_begun = true
        found = { action(other) }
      end
      return true
    end
    one:handle("look", first)
    other:handle("look", first)
    local success, results = one:broadcast("look")
    assert.is_true(success)
    assert.same({ n1 = { success = true, data = true }, n2 = { success = true, data = true } }, results)
    return other, support.unpack(found)
  end

  it("are served by poll, which returns their number #smoke", function()
    local other, served, none = while_one_waits(function(other)
      local served = other:poll(support.PATIENCE_MS)
      return served, other:poll()
    end)
    assert.same({ 1, 0 }, { served, none })
    assert.equal(0, other:poll(0, 0))
    local begun = support.clock()
    assert.equal(0, other:poll(50))
    assert.is_true(support.clock() - begun >= 0.05)
  end)

  it("are served during any call that waits", function()
    local client = support.client()
    local during
    local one, other = two()
    -- Before the requests, since one of them is served during any call.
    local meta = select(3, client:kv_get(prefix() .. "/nothing"))
    local function look()
      local is_first = during == nil
      if not is_first then
        -- The waiting client can be used by the handler.
        during = during + 1
        assert(client:kv_put(prefix() .. "/nothing", "ends the wait"))
        return
      end
      during = 0
      client:kv_get(prefix() .. "/nothing", { index = meta.index, wait = "20s", timeout_ms = 30000 })
      assert(during == 1, "the other request was not served meanwhile")
    end
    one:handle("look", look)
    other:handle("look", look)
    local _, results = one:broadcast("look", nil, { timeout_ms = 60000 })
    client:close()
    assert.is_nil(results.n1.error)
    assert.is_nil(results.n2.error)
  end)

  it("make the node's file descriptor readable while they wait", function()
    if not support.readable then
      return pending("SKIPPED: plain Lua has no poll(2)")
    end
    local fd
    local other, is_readable = while_one_waits(function(other)
      fd = other:fd()
      while other:poll_event() do -- luacheck: ignore 542
      end
      return support.readable(fd, support.PATIENCE_MS)
    end)
    assert.is_true(is_readable)
    support.eventually(function()
      while other:poll_event() do -- luacheck: ignore 542
      end
      return not support.readable(fd, 100)
    end)
  end)

  it("can be made while the start of the node has not ended", function()
    local one, before = two({ profile = "fast" })
    one:handle("echo", echo)
    local again = new_node("n2", { profile = "fast", node_address = "127.0.0.1:9001" })
    -- It waits for the name that another node has.
    local ran, started = support.with_hook(function()
      assert.is_true(before:stop())
      support.eventually(function()
        support.sleep_ms(5)
        local seen = one.cluster_nodes.n2
        return seen and seen.address == "127.0.0.1:9001" and seen.status == "up"
      end)
      support.eventually(function()
        support.sleep_ms(5)
        -- It may not have seen yet that the other one is up.
        return (again:call("n1", "echo", 0))
      end)
      for i = 1, 50 do
        assert.same({ true, i }, { again:call("n1", "echo", i) })
        support.sleep_ms(5)
      end
    end, again.start, again)
    assert.same({ true, true }, { ran, started })
  end)

  it("are served by run until the node is stopped #smoke", function()
    local one, other = two()
    other:handle("stop", function()
      other:stop()
    end)
    local success = select(2, support.with_hook(function()
      one:broadcast("stop", nil, { nodes = { "n2" }, timeout_ms = 500 })
    end, other.run, other))
    assert.is_true(success)
    assert.equal("closed", support.kind(other:run()))
    assert.equal("closed", support.kind(other:poll()))
  end)

  it("raise for misuse at the caller's line, naming the argument", function()
    local one = node("n1")
    for wanted, misuse in pairs({
      ["handle: name"] = function()
        one:handle(nil, echo)
      end,
      ["handle: the handler must be a function or nil"] = function()
        one:handle("x", 1)
      end,
      ["call: node_id"] = function()
        one:call(nil, "x")
      end,
      ["call: name"] = function()
        one:call("n1", {})
      end,
      ["call: body: .*got a function"] = function()
        one:call("n1", "x", print)
      end,
      ["call: .*timeout_ms"] = function()
        one:call("n1", "x", nil, { timeout = 1 })
      end,
      ["call: options must be a table"] = function()
        one:call("n1", "x", nil, 5)
      end,
      ["broadcast: .*nodes"] = function()
        one:broadcast("x", nil, { nodes = 1 })
      end,
      ["poll: timeout_ms"] = function()
        one:poll({})
      end,
    }) do
      local ran, message = pcall(misuse)
      assert.is_false(ran, wanted)
      assert.matches("data_plane_spec.lua", message, 1, true)
      assert.matches(wanted, message)
    end
  end)

  it("fail before the start and after the stop, which both keep the handlers", function()
    local one = new_node("n1")
    one:handle("echo", echo)
    assert.equal("closed", support.kind(one:call("n1", "echo")))
    assert.equal("closed", support.kind(one:broadcast("echo")))
    assert(one:start())
    assert.is_true((one:call("n1", "echo")))
    assert(one:stop())
    assert.equal("closed", support.kind(one:call("n1", "echo")))
    assert(one:start())
    assert.is_true((one:call("n1", "echo")))
  end)

  -- Another process with a node `n2`, which makes calls to `n1` in its handler and in its main program.
  local PROCESS = [[
    local prefix = ...
    local cluster = require("consul_ffi").ConsulHACluster:new({
      node_id = "n2", node_address = "127.0.0.1:9000", nodes_prefix = prefix .. "/nodes/",
    })
    cluster:handle("echo", function(body)
      return body
    end)
    cluster:handle("exit", function()
      os.exit(1)
    end)
    assert(cluster:start())
    -- Handlers run during a start, which must be over for calls.
    cluster:handle("there and back", function(body, request)
      local success, reply = cluster:call(request.from, "echo", body)
      return success and reply or nil, reply
    end)
    -- Until both nodes see each other; not forever, since the spec of the other may have failed.
    local tries, is_known = 0, nil
    repeat
      tries = tries + 1
      assert(tries < 2000, "the other node is not there")
      cluster:poll(10)
      _, is_known = cluster:call("n1", "knows both")
    until is_known == true
    for i = 1, 200 do
      local success, reply = cluster:call("n1", "there and back", i)
      assert(success and reply == i, reply)
    end
    -- Also ends with the other node, whose spec may have failed.
    repeat
      cluster:poll(100)
    until #cluster:get_live_nodes() < 2
  ]]

  it("between processes do not block each other, and fail when a process ends #smoke", function()
    if support.simulated then
      return pending("SKIPPED: another process needs a Consul that both reach")
    end
    local one = node("n1")
    one:handle("echo", echo)
    one:handle("knows both", function()
      return #one:get_live_nodes() == 2
    end)
    local answered = 0
    one:handle("there and back", function(body, request)
      answered = answered + 1
      return select(2, one:call(request.from, "echo", body))
    end)
    local script = os.tmpname()
    local file = assert(io.open(script, "w"))
    assert(file:write(PROCESS))
    file:close()
    local engine = rawget(_G, "jit") and "luajit" or _VERSION:lower():gsub(" ", "")
    local process = assert(io.popen(("%s %s %s 2>&1"):format(engine, script, prefix())))
    -- Also until the other node has its handler.
    support.eventually(function()
      one:poll(10)
      return #one:get_live_nodes() == 2 and (one:call("n2", "there and back", 0))
    end)
    for i = 1, 200 do
      local success, reply = one:call("n2", "there and back", i)
      assert.is_true(success, reply)
      assert.equal(i, reply)
    end
    support.eventually(function()
      one:poll(10)
      return answered == 200
    end)
    local begun = support.clock()
    local success, message, err = one:call("n2", "exit", nil, { timeout_ms = 10000 })
    assert.equal("connect", support.kind(success, message, err))
    assert.is_true(err.maybe_applied)
    assert.is_true(support.clock() - begun < 5)
    assert.equal("", process:read("*a"))
    process:close()
    os.remove(script)
  end)

  it("require a cluster_key on all addresses but loopback #smoke", function()
    local success, message, err = new_node("open", { data_address = "0.0.0.0:0" }):start()
    assert.equal("config", support.kind(success, message, err))
    assert.matches('data_address is "0.0.0.0:0"', message, 1, true)
    assert.matches("cluster_key", message, 1, true)
  end)

  it("are refused by a node with another cluster_key, without showing a key", function()
    local one = node("n1", { cluster_key = "the secret of the first" })
    local other = node("n2", { cluster_key = "the secret of the second" })
    other:handle("echo", echo)
    support.eventually(function()
      return #one:get_live_nodes() == 2
    end)
    local success, message, err = one:call("n2", "echo")
    assert.equal("permission_denied", support.kind(success, message, err))
    assert.is_nil(message:find("secret of", 1, true))
    local config = { node_id = "n", node_address = "a:1", cluster_key = "short" }
    support.raises("cluster_key is too short: it must have at least 16 bytes", consul_ffi.ConsulHACluster.new, config)
  end)

  it("are refused above a size limit, which the message names", function()
    local one, other = two({ max_request_bytes = 100, max_reply_bytes = 200 })
    other:handle("grow", function()
      return ("x"):rep(201)
    end)
    local success, message, err = one:call("n2", "grow", ("x"):rep(101))
    assert.equal("too_large", support.kind(success, message, err))
    assert.matches("max_request_bytes is 100", message, 1, true)
    success, message, err = one:call("n2", "grow", "")
    assert.equal("too_large", support.kind(success, message, err))
    assert.matches("max_reply_bytes is 200", message, 1, true)
  end)

  it("show a node that does not poll as live, but not ready", function()
    local one, other = two({ profile = "fast" })
    other:handle("echo", echo)
    assert.is_true(other:status().ready)
    local limit = support.clock() + 2 * 2 + 0.5
    while support.clock() < limit do
      support.sleep_ms(100)
    end
    assert.is_false(other:status().ready)
    assert.equal(2, #one:get_live_nodes())
    assert.is_true((one:call("n2", "echo")), "a waiting call serves all nodes of its Lua state")
    assert.is_true(other:status().ready)
  end)
end)
