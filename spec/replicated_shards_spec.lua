-- Replicated shards from Lua: cluster:replicate() and its stores.
-- crates/consul-cluster/tests/simulation has the protocol under faults,
-- spec/examples/storage_contract.lua what a storage must do.
local consul_ffi = require("consul_ffi")
local contract = require("spec.examples.storage_contract")
local support = require("spec.support")

-- A storage in a Lua table. `content` is its disk, which an engine that is opened again has still.
local function table_storage(content)
  content = content or {}
  content.shards, content.kept = content.shards or {}, content.kept or {}
  local storage = { survives = "machine", content = content, calls = {} }

  local function counted(name)
    storage.calls[name] = (storage.calls[name] or 0) + 1
  end

  -- Whether a record replaces another one.
  local function replaces(new, old)
    if not old or new.version ~= old.version then
      return not old or new.version > old.version
    end
    return new.data ~= nil and (old.data == nil or new.data > old.data)
  end

  function storage.apply(_, shard, records)
    counted("apply")
    local stored = content.shards[shard] or {}
    content.shards[shard] = stored
    local newer = {}
    for i, record in ipairs(records) do
      local old = stored[record.id]
      if replaces(record, old) then
        stored[record.id] = { id = record.id, version = record.version, data = record.data }
      elseif old.version ~= record.version or old.data ~= record.data then
        newer[#newer + 1] = { i, old.version }
      end
    end
    return #newer == 0 or newer
  end

  function storage.scan(_, shard, from, to, after, limit)
    counted("scan")
    local ids = {}
    for id in pairs(content.shards[shard] or {}) do
      if id >= from and not (to and id >= to) and not (after and id <= after) then
        ids[#ids + 1] = id
      end
    end
    table.sort(ids)
    local page = {}
    for i = 1, math.min(limit, #ids) do
      page[i] = content.shards[shard][ids[i]]
    end
    return page
  end

  function storage.drop(_, shard)
    content.shards[shard] = nil
    return true
  end

  function storage.purge(_, shard, below)
    for id, record in pairs(content.shards[shard] or {}) do
      if not record.data and record.version < below then
        content.shards[shard][id] = nil
      end
    end
    return true
  end

  function storage.keep(_, name, bytes)
    content.kept[name] = bytes
    return true
  end

  function storage.kept(_, name)
    counted("kept")
    return content.kept[name]
  end

  function storage.close() end

  return storage
end

describe("a storage in a table", function()
  local disks
  before_each(function()
    disks = {}
  end)
  contract(function(path)
    disks[path] = disks[path] or {}
    return table_storage(disks[path])
  end, function()
    return support.name("path")
  end)
end)

-- The storages of a test: each call makes the storage of one node.
local storages = {
  ["in memory"] = function()
    return nil
  end,
  ["of functions"] = function()
    return table_storage()
  end,
}

describe("replicated shards", function()
  local cluster = support.each_cluster("shards")

  -- A node that tolerates the stalls of a busy machine.
  local function new_node(id, config)
    local patient = { shards = 8, replicas = 3, replace_after_s = 60, profile = "wan", timeout = 20000 }
    return cluster.new_node(id, support.merged(patient, config))
  end

  -- Starts nodes that each take part in a store; returns its ends and the nodes.
  local function started(count, options, make, config)
    local stores, nodes = {}, {}
    for i = 1, count do
      nodes[i] = new_node("n" .. i, config)
      stores[i] = nodes[i]:replicate("points", make and make(i), options)
    end
    for _, node in ipairs(nodes) do
      assert(node:start())
    end
    return stores, nodes
  end

  local function one(make, config)
    local stores, nodes = started(1, { replicas = 1 }, make, config)
    return stores[1], nodes[1]
  end

  -- The records of a read as text, "id=data id=data"; fails if it is incomplete.
  local function read(store, key, options)
    local found = {}
    for record, message in store:read(key, options) do
      assert(record, message)
      found[#found + 1] = record.id .. "=" .. record.data
    end
    return table.concat(found, " ")
  end

  local function write(store, key, id, data)
    local success, version, err = store:write(key, { { id = id, data = data } }, { timeout_ms = 20000 })
    assert(success, version)
    assert.is_nil(err)
    return version
  end

  for kind, make in pairs(storages) do
    describe(kind, function()
      it("return what was written, in the order of ids #smoke", function()
        local store = one(make)
        local bytes = {}
        for byte = 0, 255 do
          bytes[byte + 1] = string.char(byte)
        end
        bytes = table.concat(bytes)
        local version = write(store, "k", "b", bytes)
        assert.matches("^%x+$", version)
        assert.equal(32, #version)
        local others = { { id = "c", data = "" }, { id = "\255", data = "last" }, { id = "a", data = "1" } }
        assert.is_true((store:write("k", others)))
        local found = {}
        for record in store:read("k") do
          found[#found + 1] = record
        end
        assert.same({ "a", "b", "c", "\255" }, { found[1].id, found[2].id, found[3].id, found[4].id })
        assert.same({ id = "b", version = version, data = bytes }, found[2])
        assert.equal("c=", read(store, "k", { from = "c", to = "d" }))
        assert.equal("", read(store, "another key in another shard or not", { from = "x", to = "y" }))
      end)

      it("have the last write of a record, and no deleted ones", function()
        local store = one(make)
        local first = write(store, "k", "a", "1")
        assert.is_true(write(store, "k", "a", "2") > first)
        assert.is_true((store:write("k", { { id = "b", data = "1" }, { id = "b", data = "2" } })))
        assert.equal("a=2 b=2", read(store, "k"))
        local success, version = store:delete("k", { "a", "never written" })
        assert.is_true(success)
        assert.is_true(version > first)
        assert.equal("b=2", read(store, "k"))
        write(store, "k", "a", "3")
        assert.equal("a=3 b=2", read(store, "k"))
        assert.same({ true, true }, { store:write("k", {}) })
        assert.same({ true, true }, { store:delete("k", {}) })
      end)

      it("are written for many keys at once", function()
        local store = one(make)
        local writes = {}
        for i = 1, 40 do
          writes[i] = { "key" .. i, { { id = "key" .. i, data = tostring(i) } } }
        end
        writes[41] = { "key7", { { id = "key7", data = "again" } } }
        assert.same({ true, true }, { store:write_many(writes, { timeout_ms = 20000 }) })
        for i = 1, 40 do
          local key, data = "key" .. i, i == 7 and "again" or tostring(i)
          assert.equal(key .. "=" .. data, read(store, key, { from = key, to = key .. "\0" }))
        end
        assert.same({ true, true }, { store:write_many({}) })
      end)

      it("are read in pages up to a limit, or after an id", function()
        local store = one(make)
        local records, all = {}, {}
        for i = 1, 25 do
          records[i] = { id = ("%02d"):format(i), data = "x" }
          all[i] = records[i].id .. "=x"
        end
        assert.is_true((store:write("k", records)))
        assert.is_true((store:delete("k", { "11", "12", "13" })))
        for _ = 1, 3 do
          table.remove(all, 11)
        end
        for _, page in ipairs({ 1, 2, 7, 25, 1000 }) do
          assert.equal(table.concat(all, " "), read(store, "k", { page = page }))
        end
        assert.equal("01=x 02=x 03=x", read(store, "k", { limit = 3, page = 2 }))
        assert.equal("10=x 14=x", read(store, "k", { after = "09", limit = 2, page = 1 }))
        assert.equal("", read(store, "k", { limit = 0 }))
      end)

      it("can be written and read by handles", function()
        local store = one(make)
        local handle = store:start("write", "k", { { id = "a", data = "1" } })
        local done, success, version = handle:wait(support.PATIENCE_MS)
        assert.same({ true, true }, { done, success })
        assert.equal(32, #version)
        local more = store:start("write_many", { { "k", { { id = "b", data = "2" }, { id = "c", data = "3" } } } })
        assert.same({ true, true, true }, { more:wait(support.PATIENCE_MS) })
        assert.is_true((select(2, store:start("delete", "k", { "c" }):wait(support.PATIENCE_MS))))
        local pages, after = {}, nil
        repeat
          local reading = store:start("read", "k", { limit = 1, after = after })
          local _, read_ok, records, extra = reading:wait(support.PATIENCE_MS)
          assert.is_true(read_ok, records)
          for _, record in ipairs(records) do
            pages[#pages + 1] = record.id
          end
          after = extra.next
        until not after
        assert.same({ "a", "b" }, pages)
        assert.matches('^Handle%(store "points": write "k", done%)$', tostring(handle))
        support.raises('did you mean "write"', store.start, store, "wrte", "k")
        support.raises("key must be a string, got nil", store.start, store, "write")
      end)

      it("stay when their node stops and starts again", function()
        local store, node = one(make)
        write(store, "k", "a", "1")
        assert.is_true(node:stop())
        assert.equal("closed", support.kind(store:write("k", { { id = "a", data = "2" } })))
        assert.equal("closed", support.kind(store:status()))
        assert(node:start())
        local found
        support.eventually(function()
          local records = select(3, store:start("read", "k"):wait(support.PATIENCE_MS))
          found = type(records) == "table" and records[1]
          return found
        end)
        assert.equal("1", found.data)
      end)

      it("have three replicas, of which two are enough #smoke", function()
        local stores, nodes = started(3, { write_quorum = 2, read_quorum = 2 }, make)
        write(stores[1], "k", "a", "1")
        assert.equal("a=1", read(stores[2], "k", { timeout_ms = 20000 }))
        write(stores[3], "k", "a", "2")
        assert.equal("a=2", read(stores[1], "k"))
        local _, shards = stores[2]:status()
        assert.equal(8, #shards)
        for i, shard in ipairs(shards) do
          table.sort(shard.holders)
          assert.same({ "n1", "n2", "n3" }, shard.holders)
          assert.same({ i - 1, {}, false }, { shard.shard, shard.targets, shard.at_risk })
          assert.is_true(shard.epoch > 0)
        end
        nodes[3]:close()
        write(stores[1], "k", "b", "3")
        assert.equal("a=2 b=3", read(stores[2], "k"))
        nodes[2]:close()
        local success, message, err = stores[1]:write("k", { { id = "c", data = "4" } }, { timeout_ms = 300 })
        assert.equal("not_ready", support.kind(success, message, err))
        assert.matches('store "points": write "k"', message, 1, true)
        assert.matches("has no quorum", message, 1, true)
        local turns = {}
        for record, why, extra in stores[1]:read("k", { timeout_ms = 300 }) do
          turns[#turns + 1] = { record, why, extra }
        end
        assert.equal(1, #turns)
        assert.equal("not_ready", support.kind(support.unpack(turns[1])))
      end)
    end)
  end

  it("move to another node when theirs leaves", function()
    local stores, nodes = started(2, { replicas = 1 }, function()
      return table_storage()
    end)
    local keys = {}
    for i = 1, 30 do
      keys[i] = "key" .. i
      write(stores[1], keys[i], keys[i], "x")
    end
    support.eventually(function()
      nodes[1]:poll(50)
      local of_second, moves = 0, 0
      for _, shard in ipairs(select(2, stores[1]:status())) do
        of_second = of_second + (shard.holders[1] == "n2" and 1 or 0)
        moves = moves + (next(shard.targets) and 1 or 0)
      end
      return of_second > 0 and moves == 0
    end)
    assert.same({ true }, { nodes[2]:leave({ timeout_s = 30 }) })
    assert.equal("stopped", nodes[2]:status().state)
    for _, key in ipairs(keys) do
      assert.equal(key .. "=x", read(stores[1], key, { from = key, to = key .. "\0" }))
    end
    local success, message, err = nodes[1]:leave()
    assert.equal("conflict", support.kind(success, message, err))
    assert.matches("no_target", message, 1, true)
    assert.equal("leader", nodes[1]:status().state)
    support.raises('did you mean "timeout_s"', nodes[1].leave, nodes[1], { timeout = 1 })
  end)

  -- Two nodes with all shards, and a third, which can take none, since its storage does not open.
  local function without_a_target()
    local stores, nodes = started(2, { replicas = 2 })
    write(stores[1], "k", "a", "1")
    local third = new_node("n3")
    local storage = table_storage()
    storage.kept = function()
      return nil, "no such disk"
    end
    third:replicate("points", storage, { replicas = 2 })
    assert(third:start())
    support.eventually(function()
      third:poll(10)
      return #nodes[2]:get_live_nodes() == 3
    end)
    return nodes
  end

  it("stay a node's own if they have not moved within the time limit of its leave", function()
    local nodes = without_a_target()
    local success, message, err = nodes[2]:leave({ timeout_s = 0.2 })
    assert.equal("timeout", support.kind(success, message, err))
    assert.matches("8 of its shards have not moved within 0.2 s", message, 1, true)
    assert.equal("stopped", nodes[2]:status().state)
  end)

  it("stay a node's own, and the node goes on, if its drain is taken back", function()
    local nodes = without_a_target()
    local begun, since = support.clock(), nil
    assert(nodes[2]:handle("stay", function()
      if not since and nodes[2]:status().state == "draining" then
        since = support.clock()
      end
      if not since or support.clock() - since < 0.3 then
        nodes[1]:start("call", "n2", "stay")
        return false
      end
      return assert(nodes[2]:drain(false))
    end))
    nodes[1]:start("call", "n2", "stay")
    local success, message, err = nodes[2]:leave({ timeout_s = 60 })
    assert.equal("conflict", support.kind(success, message, err))
    assert.matches("it stays: an operator has made it active", message, 1, true)
    assert.is_true(support.clock() - begun < 30)
    assert.is_true(nodes[2]:status().state ~= "stopped")
  end)

  for _, method in ipairs({ "close", "stop" }) do
    it(("stay a node's own if its %s comes before they have moved"):format(method), function()
      local nodes = without_a_target()
      local begun, ended = support.clock(), nil
      assert(nodes[2]:handle("end", function()
        ended = ended or { nodes[2][method](nodes[2]) }
        return true
      end))
      nodes[1]:start("call", "n2", "end")
      local success, message, err = nodes[2]:leave({ timeout_s = 60 })
      assert.is_truthy(ended)
      assert.equal("closed", support.kind(success, message, err))
      assert.matches("it was stopped before its shards had moved", message, 1, true)
      assert.is_true(support.clock() - begun < 30)
    end)
  end

  it("are read and written by an observer, which keeps none", function()
    local store = one()
    write(store, "k", "a", "1")
    local observer = new_node("gateway", { observer = true })
    local remote = observer:replicate("points", nil, { replicas = 1 })
    assert(observer:start())
    assert.equal("a=1", read(remote, "k", { timeout_ms = 20000 }))
    write(remote, "k", "b", "2")
    assert.equal("a=1 b=2", read(store, "k"))
    support.raises("an observer keeps no records", observer.replicate, observer, "other", table_storage())
  end)

  it("accept a loss within the time limit, and name a shard that does not exist as it was given", function()
    if not support.simulated then
      return
    end
    local name = support.name("agent")
    local node = new_node("n1", { simulate = name })
    local store = node:replicate("points", "memory", { replicas = 1, shards = 4 })
    assert(node:start())
    write(store, "k", "a", "1")
    local success, message, err = store:accept_loss(2 ^ 40)
    assert.equal("argument", support.kind(success, message, err))
    assert.matches("shard is 1099511627776: it must be from 0 to 3", message, 1, true)
    -- A process that has no map of a store has to ask Consul.
    local observer = new_node("gateway", { simulate = name, observer = true, client_name = "gateway" })
    local remote = observer:replicate("another", nil, { replicas = 1, shards = 4 })
    assert(observer:start())
    consul_ffi.simulator(name):fault({ clients = { "gateway" }, latency_ms = 60000 })
    local begun = support.clock()
    success, message, err = remote:accept_loss(1, { timeout_ms = 300 })
    assert.equal("timeout", support.kind(success, message, err))
    assert.is_true(support.clock() - begun < 3)
  end)

  it("can be declared after the start of the node", function()
    local node = new_node("n1")
    assert(node:start())
    local store = node:replicate("late", "memory", { replicas = 1, shards = 2 })
    write(store, "k", "a", "1")
    assert.equal("a=1", read(store, "k"))
    assert.equal('ReplicatedStore("late", leader)', tostring(store))
    support.raises('it has a store "late" already', node.replicate, node, "late")
  end)

  describe("fail with words that name store and function", function()
    local node

    -- Writes to a store with one function replaced; returns the message.
    local function failed(name, replacement)
      local storage = table_storage()
      local store
      store, node = one(function()
        return storage
      end)
      write(store, "k", "a", "1")
      storage[name] = replacement
      local message
      -- The last attempt of a call may end without an answer, and has no reason then.
      support.eventually(function()
        local success, err
        if name == "scan" then
          for record, why, extra in store:read("k", { timeout_ms = 200 }) do
            success, message, err = record, why, extra
          end
        else
          success, message, err = store:write("k", { { id = "b", data = "1" } }, { timeout_ms = 200 })
        end
        assert.equal("not_ready", support.kind(success, message, err))
        return message:find(('store "points": the storage\'s function "%s": '):format(name), 1, true)
      end)
      return message
    end

    for why, case in pairs({
      ["an error of apply"] = { "apply", function() error("the disk is full", 0) end, "the disk is full" },
      ["a message of apply"] = { "apply", function() return nil, "read-only" end, "read-only" },
      ["a yield"] = { "apply", function() coroutine.yield() end, "yield" },
      ["no result of apply"] = { "apply", function() end, "it returned nil: it must be true or a list" },
      ["a wrong result of apply"] = { "apply", function() return { { 9, "x" } } end, "not the index (1 to 1)" },
      ["a call of a node"] = {
        "apply",
        function() error(select(2, pcall(node.call, node, "n1", "x")), 0) end,
        "must not call nodes",
      },
      ["an error of scan"] = { "scan", function() error({}) end, "an error object of type table" },
      ["no list"] = { "scan", function() return "x" end, "it must be a list of records" },
      ["wrong order"] = {
        "scan",
        function()
          local version = ("0"):rep(32)
          return { { id = "b", version = version }, { id = "a", version = version } }
        end,
        "record 2 of its result: its id is not after",
      },
      ["a hole"] = {
        "scan",
        function()
          local version = ("0"):rep(32)
          return { { id = "a", version = version }, nil, { id = "b", version = version } }
        end,
        "record 2 of its result: it is nil: it must be a table",
      },
      ["a wrong version"] = {
        "scan",
        function() return { { id = "b", version = "7" } } end,
        "32 hexadecimal digits",
      },
      ["an id outside of the range"] = {
        "scan",
        function(_, _, _, _, after) return { { id = after or "", version = ("0"):rep(32), data = 5 } } end,
        "its data is a number",
      },
    }) do
      it(why, function()
        local message = failed(case[1], case[2])
        assert.matches(case[3], message, 1, true)
        assert.is_nil(message:find("replicated_shards_spec", 1, true), message)
      end)
    end
  end)

  -- The faults of a storage's function that does not do its work.
  local wrongs = {
    ["raises an error"] = function()
      error("disk is full", 0)
    end,
    ["returns false"] = function()
      return false
    end,
    ["returns false and a reason"] = function()
      return false, "disk is full"
    end,
    ["returns something else"] = function()
      return 7
    end,
  }

  -- A node alone drops nothing.
  for _, name in ipairs({ "apply", "scan", "purge", "keep", "kept" }) do
    for what, wrong in pairs(wrongs) do
      it(("make their node not ready while %s of its storage %s"):format(name, what), function()
        local storage, fails = table_storage(), true
        local right = storage[name]
        storage[name] = function(...)
          return (fails and wrong or right)(...)
        end
        local node = new_node("n1", { replicas = 1 })
        local store = node:replicate("points", storage, { replicas = 1, repair_s = 1 })
        assert(node:start())
        local counted = 'consul_ffi_store_storage_errors_total{cluster="[^"]+/nodes/",store="points",function="'
          .. name .. '"}'
        support.eventually(function()
          node:poll(20)
          store:write("k", { { id = "a", data = "1" } }, { timeout_ms = 100 })
          store:start("read", "k"):wait(100)
          local status = node:status()
          local told = status.not_ready_because or ""
          return status.ready == false and consul_ffi.metrics():find(counted)
            and (told:find("its storage fails in .*" .. name) or told:find("cannot be used"))
        end)
        fails = false
        support.eventually(function()
          node:poll(20)
          return node:status().ready
        end)
        write(store, "k", "a", "2")
      end)
    end
  end

  it("name the function of a storage whose metatable raises an error", function()
    local storage = table_storage()
    local store = one(function()
      return storage
    end)
    write(store, "k", "a", "1")
    storage.apply = nil
    setmetatable(storage, { __index = function() error("a defect", 2) end })
    local message
    support.eventually(function()
      local success, why, err = store:write("k", { { id = "b", data = "1" } }, { timeout_ms = 200 })
      message = why
      assert.equal("not_ready", support.kind(success, why, err))
      return message:find("a defect", 1, true)
    end)
    local told = 'store "points": the storage\'s function "apply": reading it raised an error: a defect'
    assert.matches(told, message, 1, true)
    assert.is_nil(message:find("traceback", 1, true), message)
    local node = new_node("n2")
    local raised = support.raises("storage.apply: ", node.replicate, node, "points",
      setmetatable({}, { __index = function() error("a defect", 0) end }))
    assert.matches("storage%.apply: a defect$", raised)
  end)

  it("tell that a record was overtaken, so that the library writes above it", function()
    local storage = table_storage()
    local store = one(function()
      return storage
    end)
    write(store, "k", "a", "1")
    local ahead = ("%012x"):format((os.time() + 30) * 1000) .. ("0"):rep(20)
    for _, shard in pairs(storage.content.shards) do
      if shard.a then
        shard.a = { id = "a", version = ahead, data = "ahead" }
      end
    end
    assert.is_true(write(store, "k", "a", "2") > ahead)
    assert.equal("a=2", read(store, "k"))
  end)

  it("are opened quickly while the program waits for something else", function()
    local storage = table_storage()
    local _, node = one(function()
      return storage
    end, { shards = 1024 })
    local function opened()
      return storage.calls.kept or 0
    end
    support.eventually(function()
      node:poll(10)
      return storage.content.kept.map
    end)
    assert.is_true(node:stop())
    storage.calls = {}
    assert(node:start())
    -- One for each pause of 50 ms would take 51 s.
    support.eventually(function()
      node:next_event(500)
      return opened() >= 1024
    end)
  end)

  it("need a storage of their own", function()
    local node, storage = new_node("n1"), table_storage()
    node:replicate("points", storage)
    support.raises('store "points" has this storage', node.replicate, node, "others", storage)
  end)

  it("need a storage with all of its functions", function()
    local node = new_node("n1")
    for _, name in ipairs({ "apply", "scan", "drop", "purge", "keep", "kept" }) do
      local storage = table_storage()
      storage[name] = nil
      support.raises(("storage.%s must be a function, got nil"):format(name), node.replicate, node, "points", storage)
    end
    local storage = table_storage()
    storage.survives = "everything"
    support.raises("machine, process, nothing", node.replicate, node, "points", storage)
    support.raises("storage must be a table of functions", node.replicate, node, "points", 5)
  end)

  it("refuse wrong options and arguments", function()
    local node = new_node("n1")
    for why, given in pairs({
      ['did you mean "replicas"'] = { "points", nil, { replica = 3 } },
      ["together they must be more than replicas"] = { "points", nil, { read_quorum = 1, write_quorum = 2 } },
      ["write_quorum is 4"] = { "points", nil, { write_quorum = 4 } },
      ["shards is 0"] = { "points", nil, { shards = 0 } },
      ["without `/`"] = { "a/b" },
      ["name must be a non-empty string"] = {},
      ["options must be a table"] = { "points", nil, 5 },
    }) do
      support.raises(why, node.replicate, node, given[1], given[2], given[3])
    end
    local store = node:replicate("points", nil, { replicas = 1 })
    assert.equal("closed", support.kind(store:write("k", { { id = "a", data = "1" } })))
    local function raises(why, method, ...)
      support.raises(why, store[method], store, ...)
    end
    raises("key must be a string, got a number 5", "write", 5, {})
    raises("records must be a list of records", "write", "k", "a")
    raises("records.2.data must be a string, got nil", "write", "k", { { id = "a", data = "" }, { id = "b" } })
    raises("records.1.id must be a string, got nil", "write", "k", { { data = "" } })
    raises('unknown field of a record "dat"', "write", "k", { { id = "a", dat = "" } })
    raises("ids must be a list of strings", "delete", "k", "a")
    raises("writes must be a list of { key, records }", "write_many", 5)
    raises("writes[1] must be { key, records }", "write_many", { { "k" } })
    raises('unknown option "timeout"', "write", "k", {}, { timeout = 5 })
    raises('unknown option "form"', "read", "k", { form = "a" })
    raises("read: key must be a string, got nil", "read")
    local large = { { id = "a", data = ("x"):rep(5000000) } }
    assert(node:start())
    assert.equal("too_large", support.kind(store:write("k", large, { timeout_ms = 20000 })))
    assert.is_false(select(3, store:write("k", large)).maybe_applied)
    assert.equal("argument", support.kind(store:delete("k", {}, { timeout_ms = 0 })))
    assert.equal("argument", support.kind(select(2, store:start("read", "k", { page = 0 }):wait())))
  end)

  it("tell the node's check that the program does not poll", function()
    local _, node = one(storages["of functions"], { profile = "fast" })
    local function polls()
      node:poll()
      local status = node:status()
      return status.ready and status.polled and not status.not_ready_because
    end
    support.eventually(polls)
    support.eventually(function()
      support.sleep_ms(200)
      return node:status().ready == false
    end)
    -- The program's storage is not called either, so a store may be the first reason.
    support.eventually(function()
      local status = node:status()
      return status.polled == false and status.not_ready_because == "the program does not poll often enough"
    end)
    support.eventually(polls)
  end)
end)

describe("a store on a simulated agent with a manual clock", function()
  it("is refused", function()
    local _, client = support.manual_agent()
    client():close()
    local sim = support.name("manual")
    consul_ffi.simulator(sim, { clock = "manual" })
    local node = consul_ffi.ConsulHACluster:new({ node_id = "n1", node_address = "127.0.0.1:9000", simulate = sim })
    node:replicate("points", nil, { replicas = 1 })
    local success, message, err = node:start()
    assert.equal("unsupported", support.kind(success, message, err))
    assert.matches("manual", message, 1, true)
    node:close()
  end)
end)

describe("the copy of docs/data.md into a store with another number of shards", function()
  local page = assert(io.open("docs/data.md"))
  local copy
  for program in page:read("*a"):gmatch("\n```lua\n(.-)\n```\n") do
    if program:find("local function copy(", 1, true) then
      copy = assert(support.load(program .. "\nreturn copy"))()
    end
  end
  page:close()

  it("copies all that was there before, once, and leaves what is newer", function()
    local node = consul_ffi.ConsulHACluster:new({
      node_id = "n1",
      node_address = "127.0.0.1:9000",
      simulate = support.name("copy"),
      replicas = 1,
      shards = 4,
    })
    local from = assert(node:replicate("points", "memory", { shards = 3 }))
    local to = assert(node:replicate("points2", "memory", { shards = 7 }))
    assert(node:start())
    local keys = {}
    for i = 1, 60 do
      keys[i] = ("key%02d"):format(i)
      local records = { { id = keys[i] .. "/1", data = "old" }, { id = keys[i] .. "/2", data = "" } }
      assert.is_true((from:write(keys[i], records)))
    end
    assert.is_true((to:write("key07", { { id = "key07/1", data = "new" } })))
    local function key_of(id)
      return (id:match("^(.-)/"))
    end
    assert.equal(119, copy(from, to, keys, key_of))
    assert.equal(0, copy(from, to, keys, key_of))
    for i, key in ipairs(keys) do
      local found = {}
      for record in to:read(key, { from = key .. "/", to = key .. "0" }) do
        found[#found + 1] = record.data
      end
      assert.same({ i == 7 and "new" or "old", "" }, found)
    end
    assert(node:stop())
  end)
end)
