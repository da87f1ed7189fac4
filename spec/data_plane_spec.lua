-- Calls between nodes as programs make them. docs/cluster.md says how they work; tests/data_plane has
-- what other nodes cannot do to one.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

local opened, prefix

-- A node of this spec's cluster, which has started.
local function node(id, config)
  local made = consul_ffi.ConsulHACluster:new(support.merged({
    node_id = id,
    node_address = "127.0.0.1:9000",
    nodes_prefix = prefix .. "/nodes/",
    simulate = support.simulated,
  }, config))
  opened[#opened + 1] = made
  assert(made:start())
  return made
end

-- Two nodes that see each other.
local function two(config)
  local one, other = node("n1", config), node("n2", config)
  support.eventually(function()
    support.sleep_ms(5)
    return #one:get_live_nodes() == 2 and #other:get_live_nodes() == 2
  end)
  return one, other
end

local function echo(body)
  return body
end

describe("calls between nodes", function()
  before_each(function()
    opened, prefix = {}, support.name("calls")
  end)

  after_each(function()
    support.clean_up(opened, prefix)
  end)

  it("bring a handler's reply #smoke", function()
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

  it("carry strings as they are and whatever JSON can hold", function()
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

  it("fail with what the handler says or raises, by node and name #smoke", function()
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

  it("go both ways at once, and a handler may call #smoke", function()
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

  it("nest only so deep, and say so at once", function()
    local one = node("n1")
    one:handle("again", function(level)
      local success, reply = one:call("n1", "again", level + 1)
      return success and reply or nil, reply
    end)
    local success, message = one:call("n1", "again", 1)
    assert.is_false(success)
    assert.matches("nested 8 deep", message, 1, true)
    one:handle("echo", echo)
    assert.same({ true, "whole again" }, { one:call("n1", "echo", "whole again") })
  end)

  it("reach the node itself", function()
    local one = node("n1")
    one:handle("echo", echo)
    assert.same({ true, "x" }, { one:call("n1", "echo", "x") })
  end)

  it("go to all live nodes, or to some #smoke", function()
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

  it("end when their time is over, and their handler is not called then", function()
    local one = node("n1")
    local called = false
    one:handle("late", function()
      called = true
      local limit = support.clock() + 0.1
      while support.clock() < limit do
        support.sleep_ms(5)
      end
    end)
    assert.equal("timeout", support.kind(one:call("n1", "late", nil, { timeout_ms = 50 })))
    assert.is_true(called)
    assert.equal("timeout", support.kind(one:call("n1", "late", nil, { timeout_ms = 0.001 })))
  end)

  -- While the first of two requests is answered, the other one waits.
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
    return other, (rawget(_G, "unpack") or table.unpack)(found)
  end

  it("are served by poll, which says how many #smoke", function()
    local other, served, none = while_one_waits(function(other)
      local served = other:poll(5000)
      return served, other:poll()
    end)
    assert.same({ 1, 0 }, { served, none })
    assert.equal(0, other:poll(0, 0))
    local begun = support.clock()
    assert.equal(0, other:poll(50))
    assert.is_true(support.clock() - begun >= 0.05)
  end)

  it("are served in the pauses of any call that waits", function()
    local client = support.client()
    local during
    local one, other = two()
    local function look()
      local is_first = during == nil
      if not is_first then
        -- The client that waits can be used meanwhile.
        assert(client:kv_get(prefix .. "/nothing"))
        during = during + 1
        return
      end
      during = 0
      local meta = select(3, client:kv_get(prefix .. "/nothing"))
      client:kv_get(prefix .. "/nothing", { index = meta.index, wait = "1s" })
      assert(during == 1, "the other request was not served within the second")
    end
    one:handle("look", look)
    other:handle("look", look)
    local _, results = one:broadcast("look")
    client:close()
    assert.is_nil(results.n1.error)
    assert.is_nil(results.n2.error)
  end)

  it("make the descriptor readable while they wait", function()
    if not support.readable then
      return pending("plain Lua has no poll(2)")
    end
    local fd
    local other, is_readable = while_one_waits(function(other)
      fd = other:fd()
      while other:poll_event() do -- luacheck: ignore 542
      end
      return support.readable(fd, 5000)
    end)
    assert.is_true(is_readable)
    support.eventually(function()
      while other:poll_event() do -- luacheck: ignore 542
      end
      return not support.readable(fd, 100)
    end)
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

  it("name what they cannot take", function()
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

  it("fail before the start and after the stop, and handlers outlive both", function()
    local one = consul_ffi.ConsulHACluster:new({
      node_id = "n1",
      node_address = "127.0.0.1:9000",
      nodes_prefix = prefix .. "/nodes/",
      simulate = support.simulated,
    })
    opened[1] = one
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

  -- A process of its own: a node `n2`, which calls `n1` back, and also by itself.
  local PROCESS = [[
    local prefix = ...
    local cluster = require("consul_ffi").ConsulHACluster:new({
      node_id = "n2", node_address = "127.0.0.1:9000", nodes_prefix = prefix .. "/nodes/",
    })
    cluster:handle("there and back", function(body, request)
      local success, reply = cluster:call(request.from, "echo", body)
      return success and reply or nil, reply
    end)
    cluster:handle("echo", function(body)
      return body
    end)
    cluster:handle("exit", function()
      os.exit(1)
    end)
    assert(cluster:start())
    -- Each hears of the other when Consul says so.
    repeat
      cluster:poll(10)
      local _, is_known = cluster:call("n1", "knows both")
    until is_known == true
    for i = 1, 200 do
      local success, reply = cluster:call("n1", "there and back", i)
      assert(success and reply == i, reply)
    end
    cluster:run()
  ]]

  it("do not wait for each other between processes, and end when one does #smoke", function()
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
    local process = assert(io.popen(("%s %s %s 2>&1"):format(engine, script, prefix)))
    support.eventually(function()
      one:poll(10)
      return #one:get_live_nodes() == 2
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

  it("take no key to loopback, and a key to any other address #smoke", function()
    local open = consul_ffi.ConsulHACluster:new({
      node_id = "open",
      node_address = "127.0.0.1:9000",
      nodes_prefix = prefix .. "/nodes/",
      simulate = support.simulated,
      data_address = "0.0.0.0:0",
    })
    opened[#opened + 1] = open
    local success, message, err = open:start()
    assert.equal("config", support.kind(success, message, err))
    assert.matches('data_address is "0.0.0.0:0"', message, 1, true)
    assert.matches("cluster_key", message, 1, true)
  end)

  it("do not reach a node with another key, and no message shows one", function()
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
    local ran, why = pcall(consul_ffi.ConsulHACluster.new, config)
    assert.is_false(ran)
    assert.matches("cluster_key is too short: it must have 16 bytes", why, 1, true)
  end)

  it("refuse what is larger than a limit, by its name", function()
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

  it("leave a node that does not poll alive and not ready", function()
    local one, other = two({ profile = "fast" })
    other:handle("echo", echo)
    assert.is_true(other:status().ready)
    local limit = support.clock() + 2 * 2 + 0.5
    while support.clock() < limit do
      support.sleep_ms(100)
    end
    assert.is_false(other:status().ready)
    assert.equal(2, #one:get_live_nodes())
    assert.is_true((one:call("n2", "echo")), "the state of both polls again")
    assert.is_true(other:status().ready)
  end)
end)
