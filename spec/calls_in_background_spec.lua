-- Calls between nodes that do not block: handles on the calling side, requests that are answered later on
-- the other side. spec/data_plane_spec.lua has the calls themselves.
local support = require("spec.support")

describe("a call between nodes in the background", function()
  local cluster = support.each_cluster("calls")
  local node, two = cluster.node, cluster.two

  it("has a handle with its reply #smoke", function()
    local one, other = two()
    other:handle("add", function(body)
      return { sum = body[1] + body[2] }
    end)
    local handles = {}
    for i = 1, 20 do
      handles[i] = one:start("call", "n2", "add", { i, 1 }, { timeout_ms = 10000 })
    end
    assert.equal('Handle(node "n2": call "add", running)', tostring(handles[1]))
    for i, handle in ipairs(handles) do
      assert.same({ true, true, { sum = i + 1 } }, { handle:wait() })
      assert.same({ true, true, { sum = i + 1 } }, { handle:poll() })
    end
  end)

  it("can be a broadcast #smoke", function()
    local one, other = two()
    one:handle("name", function()
      return nil, "no name here"
    end)
    other:handle("name", function()
      return "two"
    end)
    local handle = one:start("broadcast", "name", nil, { timeout_ms = 10000 })
    assert.equal('Handle(broadcast "name", running)', tostring(handle))
    local done, success, results = handle:wait()
    assert.same({ true, true }, { done, success })
    assert.same({ success = true, data = "two" }, results.n2)
    assert.matches("no name here", results.n1.error, 1, true)
    assert.same({ true, true, {} }, { one:start("broadcast", "name", nil, { nodes = {} }):wait() })
  end)

  it("fails as without a handle", function()
    local one, other = two()
    other:handle("says", function()
      return nil, "no such metric"
    end)
    local done, success, message, err = one:start("call", "n2", "says"):wait()
    assert.is_true(done)
    assert.equal("http", support.kind(success, message, err))
    assert.equal((select(2, one:call("n2", "says"))), message)
    assert.equal("not_found", support.kind(select(2, one:start("call", "n9", "says"):wait())))
    local stopped = cluster.new_node("n3")
    assert.equal("closed", support.kind(select(2, stopped:start("call", "n2", "says"):poll())))
  end)

  it("raises for misuse, naming the argument", function()
    local one, raises = node("n1"), support.raises
    raises('start: unknown method "cal"; did you mean "call"?', one.start, one, "cal")
    raises("start: options must be", one.start, one, 1)
    raises("start: call: node_id", one.start, one, "call")
    raises("start: broadcast: name", one.start, one, "broadcast")
    raises("start: call: body", one.start, one, "call", "n1", "x", print)
  end)

  -- Starts a call whose handler has deferred it and has the request in `held`.
  local function waiting(one, other, held)
    other:handle("wait", function(_, request)
      held.request = request:defer()
    end)
    local handle = one:start("call", "n2", "wait", nil, { timeout_ms = 60000 })
    support.eventually(function()
      other:poll(10)
      return held.request
    end)
    return handle
  end

  it("is not done while its handler works, and can be cancelled", function()
    local one, other = two()
    local handle = waiting(one, other, {})
    assert.is_false((handle:poll()))
    assert.is_false((handle:wait(1)))
    if support.readable then
      assert.is_false(support.readable(handle:fd(), 0))
    end
    handle:cancel()
    local done, success, message, err = handle:poll()
    assert.is_true(done)
    assert.equal("closed", support.kind(success, message, err))
    assert.equal('node "n2": call "wait": it was cancelled', message)
    assert.is_true(support.readable == nil or support.readable(handle:fd(), 0))
  end)

  it("ends when its handle is garbage-collected", function()
    local one, other = two()
    support.eventually(function()
      local held = {}
      waiting(one, other, held)
      collectgarbage()
      collectgarbage()
      support.sleep_ms(50)
      local success, message, err = held.request:reply("late")
      return not success and support.kind(success, message, err) == "timeout"
    end)
  end)

  it("ends when its node is stopped", function()
    local one, other = two()
    local handle = waiting(one, other, {})
    one:stop()
    local done, success, message, err = handle:wait(support.PATIENCE_MS)
    assert.is_true(done)
    assert.equal("closed", support.kind(success, message, err))
    assert.matches('cluster node "n1": node "n2": call "wait": the node was stopped', message, 1, true)
  end)
end)

describe("a request that is answered after its handler", function()
  local two = support.each_cluster("calls").two

  -- Calls n2 from n1 in the background, and returns the handle and the request, which is deferred.
  local function deferred(one, other, options)
    local held
    other:handle("later", function(_, request)
      held = request:defer()
      assert(held == request)
      return nil, "what a handler returns after that is not a reply"
    end)
    local handle = one:start("call", "n2", "later", nil, options)
    support.eventually(function()
      other:poll(10)
      return held
    end)
    return handle, held
  end

  it("has the reply that it is given later #smoke", function()
    local one, other = two({ cluster_key = "a secret of the cluster" })
    local handle, request = deferred(one, other)
    assert.equal("later", request.name)
    assert.is_false((handle:poll()))
    support.raises("got a function", request.reply, request, print)
    assert.is_true(request:reply({ sum = 3 }))
    assert.same({ true, true, { sum = 3 } }, { handle:wait() })
  end)

  it("can be answered by a coroutine", function()
    local one, other = two()
    local work
    other:handle("later", function(body, request)
      request:defer()
      work = coroutine.create(function()
        coroutine.yield()
        assert(request:reply(body .. "!"))
      end)
      coroutine.resume(work)
    end)
    local handle = one:start("call", "n2", "later", "done")
    support.eventually(function()
      other:poll(10)
      return work
    end)
    assert.is_true(coroutine.resume(work))
    assert.same({ true, true, "done!" }, { handle:wait() })
  end)

  it("can fail later, in words", function()
    local one, other = two()
    local handle, request = deferred(one, other)
    assert.is_true(request:fail("no such series"))
    local done, success, message, err = handle:wait()
    assert.is_true(done)
    assert.equal("http", support.kind(success, message, err))
    assert.matches("no such series", message, 1, true)
    assert.is_true(err.maybe_applied)
  end)

  it("is answered once", function()
    local one, other = two()
    local handle, request = deferred(one, other)
    assert.is_true(request:reply("first"))
    support.raises('reply: the request "later" of node "n1" is answered already', request.reply, request, "second")
    support.raises('fail: the request "later" of node "n1" is answered already', request.fail, request, "second")
    assert.same({ true, true, "first" }, { handle:wait() })
  end)

  it("fails when the program has dropped it", function()
    local one, other = two()
    local handle, request = deferred(one, other, { timeout_ms = 60000 })
    assert.is_table(request)
    request = nil -- luacheck: ignore
    other:handle("later", nil)
    local done, success, message, err
    support.eventually(function()
      collectgarbage()
      done, success, message, err = handle:wait(10)
      return done
    end)
    assert.equal("http", support.kind(success, message, err))
    assert.matches("its program dropped the request without a reply", message, 1, true)
    assert.is_true(err.maybe_applied)
  end)

  it("may be answered too late", function()
    local one, other = two()
    local handle, request = deferred(one, other, { timeout_ms = 2000 })
    assert.equal("timeout", support.kind(select(2, handle:wait())))
    local success, message, err = request:reply("late")
    -- The other node may not know yet that the caller has given up.
    assert.is_true(success or support.kind(success, message, err) == "timeout", message)
    assert.equal("timeout", support.kind(select(2, handle:poll())))
  end)

  it("ends with its node #smoke", function()
    local one, other = two()
    local handle, request = deferred(one, other, { timeout_ms = 60000 })
    other:close()
    local done, success, message, err = handle:wait(support.PATIENCE_MS)
    assert.is_true(done)
    -- The node may still say that it has stopped, before its connections end.
    local kind = support.kind(success, message, err)
    assert.is_true(kind == "connect" or kind == "closed", kind)
    assert.is_true(err.maybe_applied)
    success, message, err = request:reply("late")
    assert.equal("closed", support.kind(success, message, err))
    assert.matches("its node was stopped", message, 1, true)
  end)

  it("fails with the error that its handler raises", function()
    local one, other = two()
    local held
    other:handle("raises", function(_, request)
      held = request:defer()
      error("a defect", 0)
    end)
    local success, message, err = one:call("n2", "raises")
    assert.equal("http", support.kind(success, message, err))
    assert.matches("a defect", message, 1, true)
    assert.equal("closed", support.kind(held:reply("late")))
  end)

  it("does not keep its body while it waits for its reply", function()
    local status = io.open("/proc/self/status")
    if not status then
      return pending("SKIPPED: there is no /proc")
    end
    status:close()
    -- In bytes.
    local function memory()
      collectgarbage()
      collectgarbage()
      local file = assert(io.open("/proc/self/status"))
      local kilobytes = file:read("*a"):match("VmRSS:%s*(%d+) kB")
      file:close()
      return kilobytes * 1024
    end
    local one, other = two()
    local held, handles, size, count = {}, {}, 3000000, 20
    other:handle("later", function(_, request)
      held[#held + 1] = request:defer()
    end)
    local before = memory()
    for i = 1, count do
      handles[i] = one:start("call", "n2", "later", ("x"):rep(size), { timeout_ms = 60000 })
    end
    support.eventually(function()
      other:poll(10)
      return #held == count
    end)
    -- The callers have theirs, for another try, and malloc keeps a part of what was freed; with the bodies of the
    -- requests it is 2.5 and more.
    local bodies = (memory() - before) / size / count
    assert.is_true(bodies < 2.4, ("%.2f times the bodies"):format(bodies))
    for i, request in ipairs(held) do
      assert(request:reply(i))
    end
    for _, handle in ipairs(handles) do
      assert.is_true((select(2, handle:wait(support.PATIENCE_MS))))
    end
  end)

  it("is deferred in words, by its handler alone", function()
    local one, other = two()
    local kept
    other:handle("returns", function(_, request)
      kept = request
      support.raises("reply: call request:defer() first", request.reply, request, 1)
      support.raises("fail: call request:defer() first", request.fail, request, "why")
      support.raises("defer: call request:defer() in the handler", request.defer)
      support.raises("reply: call request:defer() first", request.reply)
      return "returned"
    end)
    assert.same({ true, "returned" }, { one:call("n2", "returns") })
    support.raises("defer: call request:defer() in the handler", kept.defer, kept)
    other:handle("twice", function(_, request)
      support.raises("defer: the request is deferred already", request:defer().defer, request)
      request:reply("twice")
    end)
    assert.same({ true, "twice" }, { one:call("n2", "twice") })
  end)
end)
