-- Calls in the event loops of others: each yields its coroutine while the loop runs.
local cqueues = require("cqueues")
local socket = require("socket")
local support = require("spec.support")
local uv = require("luv")

-- The loops: each has the module for it, and runs functions as coroutines, with a `tick` every 10 ms.
local LOOPS = {
  luv = {
    module = require("consul_ffi.luv"),
    run = function(works, tick)
      local left = #works
      local timer = uv.new_timer()
      timer:start(10, 10, tick)
      for _, work in ipairs(works) do
        coroutine.wrap(function()
          work()
          left = left - 1
          if left == 0 then
            timer:close()
          end
        end)()
      end
      uv.run()
    end,
  },
  cqueues = {
    module = require("consul_ffi.cqueues"),
    run = function(works, tick)
      local controller, left = cqueues.new(), #works
      for _, work in ipairs(works) do
        controller:wrap(function()
          work()
          left = left - 1
        end)
      end
      controller:wrap(function()
        while left > 0 do
          cqueues.sleep(0.01)
          tick()
        end
      end)
      assert(controller:loop())
    end,
  },
  luasocket = {
    module = require("consul_ffi.luasocket"),
    run = function(works, tick)
      local loop = require("consul_ffi.luasocket").loop()
      for _, work in ipairs(works) do
        loop:spawn(work)
      end
      local due, are_left = socket.gettime() + 0.01, true
      while are_left do
        local _
        _, are_left = loop:step(math.max(0, due - socket.gettime()))
        if socket.gettime() >= due then
          tick()
          due = socket.gettime() + 0.01
        end
      end
    end,
  },
}

for name, loop in pairs(LOOPS) do
  describe("in a loop of " .. name, function()
    local blocking, key, client

    support.each_test(function(...)
      blocking, key = ...
      client = loop.module.client(blocking)
    end)

    -- Runs functions as coroutines; fails with the error of any.
    local function run(works, tick)
      loop.run(works, tick or function() end)
    end

    it("50 calls, a watch and a lock wait at the same time, and no timer is late", function()
      -- A call that stopped the loop would do so until the key changes, after 2 s. A machine that is busy with other
      -- work may make any timer late, so one round of ten must be without.
      local latest
      for round = 1, 10 do
        latest = 0
        local before = uv.hrtime()
        local function tick()
          local now = uv.hrtime()
          latest = math.max(latest, (now - before) / 1e6 - 10)
          before = now
        end
        local place, got, works = key .. round, {}, {}
        assert(blocking:kv_put(place, "old"))
        for i = 1, 50 do
          works[i] = function()
            local _, _, meta = assert(client:kv_get(place))
            local _, value = assert(client:kv_get(place, { index = meta.index, wait = "1m" }))
            got[i] = value
          end
        end
        works[51] = function()
          local watch = assert(client:watch("kv_get", place))
          local _, first = assert(watch:next())
          local _, second = assert(watch:next())
          got.watch = { first.type, second.type }
          watch:close()
        end
        works[52] = function()
          local other = support.client()
          local held = assert(other:lock(place .. "-lock"))
          assert(held:acquire())
          local lock = assert(client:lock(place .. "-lock"))
          local handle = held:start("release")
          assert(lock:acquire({ wait_s = 60 }))
          assert(handle:wait(support.PATIENCE_MS))
          got.token = lock:token()
          assert(lock:release())
          other:close()
        end
        works[53] = function()
          local watch = assert(client:watch("kv_get", place))
          assert(watch:next())
          assert.same({ true }, { watch:next(2000) })
          assert(client:kv_put(place, "new"))
          watch:close()
        end
        run(works, tick)
        assert.equal(50, #got)
        for i = 1, 50 do
          assert.equal("new", got[i])
        end
        assert.same({ "initial", "put" }, got.watch)
        assert.is_number(tonumber(got.token))
        if latest <= 1000 then
          return
        end
      end
      error(("a timer of 10 ms was late by %.0f ms"):format(latest))
    end)

    it("calls return what they return elsewhere", function()
      run({
        function()
          assert.is_true((client:kv_put(key, "1")))
          local success, value, meta = client:kv_get(key)
          assert.same({ true, "1" }, { success, value })
          assert.is_number(meta.modify_index)
          assert.equal("conflict", support.kind(client:kv_put(key, "2", { cas = 1 })))
          local _, results = assert(client:batch({ { "kv_get", key }, { "kv_put", key, "2", { cas = 1 } } }))
          assert.equal("1", results[1].value)
          assert.equal("conflict", results[2].err.kind)
        end,
      })
    end)

    it("locks are held and written under, and say why they are not", function()
      run({
        function()
          local lock, other = assert(client:lock(key)), assert(client:lock(key))
          assert(lock:acquire())
          assert.is_true(lock:is_held())
          assert.is_true((lock:fenced_put(key .. "-data", "1")))
          assert.equal("conflict", support.kind(other:acquire({ try = true })))
          assert(lock:release())
          assert.equal("conflict", support.kind(lock:release()))
          lock:close()
          assert.equal("closed", support.kind(lock:acquire()))
        end,
      })
    end)

    it("what another coroutine closes ends its waits", function()
      local waiting = {
        watch = function()
          local watch = assert(client:watch("kv_get", key))
          assert(watch:next())
          return watch, watch.next, "closed"
        end,
        views = function()
          local views = assert(client:service_views({ key }))
          assert(views:ready())
          assert(views:next())
          return views, views.next, "closed"
        end,
        lock = function()
          local lock = assert(client:lock(key .. "-lock"))
          assert(lock:acquire())
          return lock, lock.next_event
        end,
        semaphore = function()
          local semaphore = assert(client:semaphore(key .. "-semaphore", 1))
          assert(semaphore:acquire())
          return semaphore, semaphore.next_event
        end,
      }
      for what, begin in pairs(waiting) do
        local object, kind
        run({
          function()
            local opened, wait, expected = begin()
            object = opened
            local results = { wait(opened) }
            kind = results[1] == false and results[3].kind
            assert.equal(expected, kind or nil, what)
          end,
          function()
            repeat
              assert(client:kv_get(key))
            until object
            local _, _, meta = assert(client:kv_get(key))
            client:kv_get(key, { index = meta.index, wait = "1s" })
            object:close()
          end,
        })
      end
    end)

    it("views of many services become ready, and tell what changed", function()
      run({
        function()
          local views = assert(client:service_views({ "consul", key }))
          assert.is_true(views:ready(support.PATIENCE_MS))
          assert.same({ true, "consul" }, { views:next(support.PATIENCE_MS) })
          assert.same({ true, key }, { views:next(support.PATIENCE_MS) })
          assert.same({ true }, { views:next(50) })
          assert.is_table(views:view("consul"):all())
          views:close()
        end,
      })
    end)

    it("two coroutines can wait for the same watch", function()
      local watch, kinds, begun = nil, {}, socket.gettime()
      run({
        function()
          watch = assert(client:watch("kv_get", key))
          for _ = 1, 2 do
            local _, change = assert(watch:next())
            kinds[#kinds + 1] = change.type
          end
          watch:close()
        end,
        function()
          repeat
            assert(client:kv_get(key))
          until kinds[1]
          local waited, _, err = watch:next(support.PATIENCE_MS)
          kinds[#kinds + 1] = waited and "put" or err.kind
        end,
        function()
          repeat
            assert(client:kv_get(key))
          until kinds[1]
          local _, _, meta = assert(client:kv_get(key))
          client:kv_get(key, { index = meta.index, wait = "100ms" })
          assert(client:kv_put(key, "1"))
          client:kv_get(key, { index = meta.index + 1000, wait = "100ms" })
          assert(client:kv_put(key, "2"))
        end,
      })
      assert.is_true(socket.gettime() - begun < 300, "a wait went on to its limit")
      assert.equal("initial", kinds[1])
      assert.equal("put", kinds[2])
      assert.equal(3, #kinds)
    end)

    it("a limit may be as long as one likes", function()
      local kinds = {}
      run({
        function()
          for i, limit in ipairs({ math.huge, 1e300, 2 ^ 53 }) do
            local watch = assert(client:watch("kv_get", key))
            local _, change = assert(watch:next(limit))
            kinds[i] = change.type
            watch:close()
          end
        end,
      })
      assert.same({ "initial", "initial", "initial" }, kinds)
    end)

    it("a view becomes ready", function()
      run({
        function()
          local view = assert(client:service_view("consul"))
          assert.is_true(view:ready(support.PATIENCE_MS) or support.simulated)
          view:close()
        end,
      })
    end)

    it("misuse is raised at the line of the caller", function()
      local raised
      run({
        function()
          raised = select(2, pcall(client.kv_put, client))
          local _, method = pcall(client.kv_get, client, {})
          raised = { raised, method }
        end,
      })
      for _, message in ipairs(raised) do
        assert.is_nil(message:find("yielding.lua", 1, true), message)
        assert.truthy(message:find("kv_", 1, true), message)
      end
    end)

    it("wrong arguments are refused in words, as by the native methods", function()
      run({
        function()
          local watch, lock = assert(client:watch("kv_get", key)), assert(client:lock(key))
          local view, views = assert(client:service_view(key)), assert(client:service_views({ key }))
          for _, limit in ipairs({ "1", 0 / 0, {} }) do
            for method, object in pairs({ next = watch, next_event = lock, ready = view }) do
              local words = method .. ": timeout_ms must be a number of milliseconds, got a"
              assert.error_matches(function()
                object[method](object, limit)
              end, words)
            end
            assert.error_matches(function()
              views:next(limit)
            end, "next: timeout_ms must be")
          end
          for words, calls in pairs({
            ["calls must be a list of calls"] = false,
            ["call #1: a call must be a table"] = { 1 },
            ["call #2: a call must be a list of its method"] = { { "kv_put", key, "1" }, { "kv_get", key = "x" } },
            ["call #2: method must be"] = { { "kv_get", key }, {} },
          }) do
            assert.error_matches(function()
              client:batch(calls)
            end, "batch: " .. words)
          end
          assert.error_matches(function()
            client.kv_get(key)
          end, "kv_get: call it with a colon")
          assert.is_nil(select(2, assert(client:kv_get(key))))
          for _, object in ipairs({ watch, lock, view, views }) do
            object:close()
          end
        end,
      })
    end)

    it("what is refused outside of a coroutine is not done", function()
      local lock = assert(client:lock(key .. "-lock"))
      local refused = {
        function()
          client:kv_put(key, "1")
        end,
        function()
          client:batch({ { "kv_put", key, "1" } })
        end,
        function()
          lock:acquire()
        end,
        function()
          lock:fenced_put(key, "1")
        end,
      }
      for _, call in ipairs(refused) do
        assert.error_matches(call, "a call that yields must be made in a coroutine")
      end
      assert.is_nil(lock:poll())
      local other = assert(blocking:lock(key .. "-lock"))
      assert(other:acquire({ try = true }))
      assert(other:release())
      assert.is_nil(select(2, assert(blocking:kv_get(key))))
      lock:close()
    end)
  end)
end

describe("in a phase of nginx that cannot wait", function()
  local OPENRESTY, CLOCK = "consul_ffi.openresty", "consul_ffi.openresty.clock"
  local blocking, key, ngx_before

  support.each_test(function(...)
    blocking, key = ...
    ngx_before = rawget(_G, "ngx")
    rawset(_G, "ngx", {
      now = socket.gettime,
      get_phase = function()
        return "log"
      end,
    })
  end)

  after_each(function()
    rawset(_G, "ngx", ngx_before)
    package.loaded[OPENRESTY], package.loaded[CLOCK] = nil, nil
  end)

  it("what is refused is not done", function()
    local client = require(OPENRESTY).client(blocking)
    local lock = assert(client:lock(key))
    for _, call in ipairs({
      function()
        client:kv_put(key, "1")
      end,
      function()
        lock:acquire()
      end,
    }) do
      assert.error_matches(call, "a call cannot wait in the phase log")
    end
    local other = assert(blocking:lock(key))
    assert(other:acquire({ try = true }))
    other:close()
    lock:close()
  end)

  it("a lock is released although the caller cannot wait for it", function()
    local lock = assert(require(OPENRESTY).client(blocking):lock(key))
    assert(lock.object:acquire({ try = true })) -- as in a phase that can wait
    local _, why = pcall(function()
      lock:release()
    end)
    assert.matches("loops_spec.lua:%d+: a call cannot wait in the phase log: .*; the release has begun$", why)
    collectgarbage()
    local other = assert(blocking:lock(key))
    support.eventually(function()
      return (other:acquire({ try = true }))
    end)
    other:close()
    lock:close()
  end)
end)

describe("a loop of luasocket", function()
  local client, key

  support.each_test(function(...)
    client, key = ...
  end)

  it("ends a wait at its limit when nothing else happens", function()
    local luasocket, ended, waited_s = require("consul_ffi.luasocket"), false, nil
    local loop = luasocket.loop()
    loop:spawn(function()
      local watch = assert(luasocket.client(client):watch("kv_get", key))
      assert(watch:next())
      local begun = socket.gettime()
      ended = watch:next(50)
      waited_s = socket.gettime() - begun
      watch:close()
    end)
    local before = socket.gettime()
    while not ended and socket.gettime() - before < 300 do
      local _, are_left = loop:step(5)
      assert.is_true(are_left or ended)
    end
    assert.is_true(ended)
    assert.is_true(waited_s > 0.045, waited_s)
  end)

  it("tells which of the program's own sockets can be read, and none that is not the program's", function()
    local luasocket = require("consul_ffi.luasocket")
    local loop, server = luasocket.loop(), assert(socket.bind("127.0.0.1", 0))
    loop:spawn(function()
      assert(luasocket.client(client):kv_get(key))
    end)
    local are_left = true
    while are_left do
      local readable
      readable, are_left = loop:step(5, { server })
      assert.same({}, readable)
    end
    local _, port = server:getsockname()
    local connection = assert(socket.connect("127.0.0.1", port))
    assert.same({ server }, (loop:step(5, { server })))
    connection:close()
    server:close()
  end)

  it("takes no wait of a coroutine that is not its own, also after it has run", function()
    local luasocket = require("consul_ffi.luasocket")
    local yielding, loop = luasocket.client(client), luasocket.loop()
    loop:spawn(function()
      assert(yielding:kv_get(key))
    end)
    loop:run()
    local ran, why = coroutine.resume(coroutine.create(function()
      yielding:kv_get(key)
    end))
    assert.is_false(ran)
    assert.matches("a call that yields must be made in a coroutine of a loop", why)
  end)

  it("goes on after an error in a coroutine", function()
    local luasocket = require("consul_ffi.luasocket")
    local yielding, loop, got = luasocket.client(client), luasocket.loop(), nil
    loop:spawn(function()
      assert(yielding:kv_get(key))
      error("a defect", 0)
    end)
    loop:spawn(function()
      got = yielding:kv_get(key)
    end)
    local raised = 0
    support.eventually(function()
      local ran, why, are_left = pcall(loop.step, loop, 1)
      if not ran then
        assert.truthy(why:find("a defect", 1, true), why)
        raised = raised + 1
      end
      return ran and not are_left
    end)
    assert.same({ 1, true }, { raised, got })
  end)
end)

describe("a unix socket", function()
  local client, key

  support.each_test(function(...)
    client, key = ...
    assert(client:kv_put(key, "1"))
  end)

  local function connect(object)
    local path, line = assert(object:unix_socket())
    local connection = require("socket.unix")()
    assert(connection:connect(path))
    connection:settimeout(support.PATIENCE_MS / 1000)
    assert(connection:send(line))
    return connection
  end

  local function waiting()
    local _, _, meta = assert(client:kv_get(key))
    return client:start("kv_get", key, { index = meta.index, wait = "5m" })
  end

  it("answers when a call is done", function()
    local handle = waiting()
    local connection = connect(handle)
    connection:settimeout(0.05)
    assert.same({ nil, "timeout" }, { (connection:receive()), (select(2, connection:receive())) })
    assert(client:kv_put(key, "2"))
    connection:settimeout(support.PATIENCE_MS / 1000)
    assert.equal("", connection:receive())
    assert.same({ true, true, "2" }, { support.unpack({ handle:poll() }, 1, 3) })
    -- The same connection serves the next wait.
    local other = client:start("kv_get", key)
    assert(connection:send((select(2, other:unix_socket()))))
    assert.equal("", connection:receive())
    connection:close()
  end)

  it("cancels a call whose connection ends, and not one that says goodbye", function()
    local cancelled, kept = waiting(), waiting()
    local first, second = connect(cancelled), connect(kept)
    assert(second:send("\n"))
    assert.equal("", second:receive())
    first:close()
    second:close()
    local done, success, _, err = cancelled:wait(support.PATIENCE_MS)
    assert.same({ true, false, "closed" }, { done, success, err and err.kind })
    assert.is_false((kept:poll()))
    kept:close()
  end)

  -- A held lock that the program does not know of yet.
  local function acquired()
    local lock = client:lock(key .. "/lock")
    assert(lock:start())
    local connection = connect(lock)
    assert.equal("", connection:receive())
    support.eventually(function()
      return lock:is_held()
    end)
    return lock, connection
  end

  it("releases a lock whose connection ends before the program knows of it", function()
    local lock, connection = acquired()
    connection:close()
    support.eventually(function()
      return not lock:is_held()
    end)
    local other = support.client()
    local next_one = other:lock(key .. "/lock")
    assert(next_one:acquire({ wait_s = 5 }))
    next_one:release()
    other:close()
  end)

  it("leaves a lock whose connection ends when the program knows of it", function()
    local lock, connection = acquired()
    assert.equal("acquired", (lock:poll()))
    connection:close()
    assert.is_nil((lock:next_event(300)))
    assert.is_true(lock:is_held())
    assert(lock:release())
  end)

  it("leaves a watch open whose connection ends", function()
    local watch = assert(client:watch("kv_get", key))
    assert(watch:next(support.PATIENCE_MS))
    connect(watch):close()
    assert(client:kv_put(key, "2"))
    local _, change = assert(watch:next(support.PATIENCE_MS))
    assert.equal("put", change.type)
    watch:close()
  end)

  it("answers at once for what is gone or was never there", function()
    local handle = waiting()
    local path, line = assert(handle:unix_socket())
    handle:close()
    local connection = require("socket.unix")()
    assert(connection:connect(path))
    connection:settimeout(support.PATIENCE_MS / 1000)
    for _, written in ipairs({ line, "123456789 0\n" }) do
      assert(connection:send(written))
      assert.equal("", connection:receive())
    end
    connection:close()
    assert.equal("closed", support.kind(handle:unix_socket()))
  end)

  it("is made again when its file is gone", function()
    local handle = waiting()
    local path = assert(handle:unix_socket())
    assert(os.remove(path))
    local connection = connect(handle)
    assert(client:kv_put(key, "2"))
    assert.equal("", connection:receive())
    connection:close()
  end)

  -- The output of another process that runs this program.
  local function printed(program)
    local script = os.tmpname()
    local file = assert(io.open(script, "w"))
    assert(file:write(program))
    file:close()
    local engine = rawget(_G, "jit") and "luajit" or _VERSION:lower():gsub(" ", "")
    local process = assert(io.popen(("%s %s 2>&1"):format(engine, script)))
    local text = process:read("*a")
    process:close()
    os.remove(script)
    return text
  end

  it("refuses another process, also of the same user", function()
    local handle = waiting()
    local path, line = assert(handle:unix_socket())
    local why = printed(([[
      local connection = require("socket.unix")()
      assert(connection:connect(%q))
      connection:settimeout(300)
      connection:send(%q)
      io.write(select(2, connection:receive()) or "an answer")
    ]]):format(path, "0\n" .. line))
    assert.equal("closed", why)
    assert.is_false((handle:poll()))
    handle:close()
  end)

  it("is gone with its folder when its process exits", function()
    local path = printed([[
      local client = require("consul_ffi").new({ endpoint = "http://127.0.0.1:1" })
      io.write(assert(client:start("kv_get", "key"):unix_socket()), "")
    ]])
    local folder = path:match("^(/.+)/[^/\n]+$")
    assert.truthy(folder, path)
    assert.is_nil((os.rename(folder, folder)))
  end)
end)
