-- The duties of a storage of replicated shards (docs/data.md), for any storage.
local busted = require("busted")
local assert = require("luassert")

local it, before_each, after_each = busted.it, busted.before_each, busted.after_each

-- A version as text.
local function version(number)
  return ("%032x"):format(number)
end

local function record(id, number, data)
  return { id = id, version = version(number), data = data }
end

-- Defines the tests. open(path) opens a storage, new_path() returns the path of a file that is not there.
return function(open, new_path)
  local path, storage

  before_each(function()
    path = new_path()
    storage = open(path)
  end)

  after_each(function()
    storage:close()
  end)

  local function reopen()
    storage:close()
    storage = open(path)
  end

  -- The ids of a scan, with the data.
  local function scanned(shard, from, to, after, limit)
    local found = {}
    for i, one in ipairs(storage:scan(shard, from or "", to, after, limit or 1000)) do
      found[i] = one.id .. "=" .. (one.data or "deleted")
    end
    return table.concat(found, " ")
  end

  it("can be flushed, and then keeps what is stored", function()
    if storage.flush then
      assert.is_true(storage:apply(3, { record("a", 1, "x") }))
      assert.is_true(storage:flush())
      assert.is_true(storage:keep("disk", "mark"))
      assert.is_true(storage:apply(3, { record("b", 2, "y") }))
      reopen()
      assert.equal("a=x b=y", scanned(3))
      assert.equal("mark", storage:kept("disk"))
    end
  end)

  it("says what its records survive", function()
    local known = { machine = true, process = true, nothing = true }
    assert.is_true(known[storage.survives])
  end)

  it("returns a record as it was stored, also after it was reopened", function()
    local bytes = {}
    for byte = 0, 255 do
      bytes[#bytes + 1] = string.char(byte)
    end
    bytes = table.concat(bytes)
    local all = { record("", 1, ""), record(bytes, 2, bytes), record("deleted", 3) }
    assert.is_true(storage:apply(1023, all))
    reopen()
    assert.same(all[1], storage:scan(1023, "", nil, nil, 1)[1])
    assert.same({ all[1], all[2], all[3] }, storage:scan(1023, "", nil, nil, 9))
  end)

  it("is not changed by records that it has", function()
    local all = { record("a", 1, "one"), record("b", 1), record("c", 2, "") }
    assert.is_true(storage:apply(7, all))
    assert.is_true(storage:apply(7, all))
    assert.is_true(storage:apply(7, {}))
    assert.equal("a=one b=deleted c=", scanned(7))
  end)

  it("keeps the higher version, in any order, and names those that it kept", function()
    assert.is_true(storage:apply(7, { record("a", 5, "five"), record("b", 5), record("c", 5, "x") }))
    assert.same({ { 1, version(5) }, { 3, version(5) } },
      storage:apply(7, { record("a", 4, "four"), record("new", 1, "x"), record("b", 4, "four"), record("c", 9, "y") }))
    assert.equal("a=five b=deleted c=y new=x", scanned(7))
    assert.is_true(storage:apply(7, { record("a", 6), record("b", 6, "six") }))
    assert.equal("a=deleted b=six c=y new=x", scanned(7))
  end)

  it("compares versions as text, beyond the numbers of Lua", function()
    local low, high = "7fffffffffffffff0000000000000001", "7fffffffffffffff0000000000000002"
    assert.is_true(storage:apply(7, { { id = "a", version = high, data = "high" } }))
    assert.same({ { 1, high } }, storage:apply(7, { { id = "a", version = low, data = "low" } }))
    assert.equal(high, storage:scan(7, "", nil, nil, 1)[1].version)
  end)

  it("keeps the greater data of equal versions, a deletion being the least", function()
    assert.is_true(storage:apply(7, { record("a", 1, "b") }))
    assert.same({ { 1, version(1) } }, storage:apply(7, { record("a", 1, "a") }))
    assert.same({ { 1, version(1) } }, storage:apply(7, { record("a", 1) }))
    assert.is_true(storage:apply(7, { record("a", 1, "c") }))
    assert.equal("a=c", scanned(7))
  end)

  it("keeps the highest version of an id that is twice among the records", function()
    storage:apply(7, { record("a", 2, "two"), record("a", 3, "three"), record("a", 1, "one") })
    assert.equal("a=three", scanned(7))
  end)

  it("scans in the order of bytes, from an id to before another, after an id, in pages", function()
    for _, id in ipairs({ "b", "\255", "a", "B", "ab", "a\0", "\0" }) do
      assert.is_true(storage:apply(7, { record(id, 1, "x") }))
    end
    assert.equal("\0=x B=x a=x a\0=x ab=x b=x \255=x", scanned(7))
    assert.equal("a=x a\0=x ab=x", scanned(7, "a", "b"))
    assert.equal("ab=x", scanned(7, "a", "b", "a\0"))
    assert.equal("a=x", scanned(7, "a", "b", "B", 1))
    assert.equal("", scanned(7, "c", "d"))
    local seen, after = {}, nil
    repeat
      local page = storage:scan(7, "", nil, after, 2)
      for _, one in ipairs(page) do
        seen[#seen + 1], after = one.id, one.id
      end
    until #page < 2
    assert.equal("\0 B a a\0 ab b \255", table.concat(seen, " "))
  end)

  it("keeps shards apart", function()
    assert.is_true(storage:apply(0, { record("a", 1, "zero") }))
    assert.is_true(storage:apply(1, { record("a", 2, "one") }))
    assert.equal("a=zero", scanned(0))
    assert.equal("a=one", scanned(1))
    storage:drop(0)
    assert.equal("", scanned(0))
    assert.equal("a=one", scanned(1))
  end)

  it("has more records of one write than Lua has constants of a function, after it was reopened", function()
    local many = {}
    for i = 1, 70000 do
      many[i] = record(("%05d"):format(i), 1, tostring(i))
    end
    assert.is_true(storage:apply(7, many))
    reopen()
    assert.equal(70000, #storage:scan(7, "", nil, nil, 80000))
  end)

  it("stores more records at once than a statement or a page has", function()
    local many = {}
    for i = 1, 1234 do
      many[i] = record(("%05d"):format(i), i, ("x"):rep(100))
    end
    assert.is_true(storage:apply(7, many))
    assert.equal(1234, #storage:scan(7, "", nil, nil, 5000))
    many[1], many[700] = record("00001", 0, "old"), record("00700", 0, "old")
    assert.same({ { 1, version(1) }, { 700, version(700) } }, storage:apply(7, many))
  end)

  it("purges the deleted records below a version, and nothing else", function()
    assert.is_true(storage:apply(7, { record("a", 1), record("b", 2), record("c", 1, "x"), record("d", 3) }))
    assert.is_true(storage:apply(8, { record("a", 1) }))
    storage:purge(7, version(2))
    reopen()
    assert.equal("b=deleted c=x d=deleted", scanned(7))
    assert.equal("a=deleted", scanned(8))
  end)

  it("has what was kept, also after it was reopened and its shards were dropped", function()
    assert.is_nil(storage:kept("shard/7"))
    storage:keep("shard/7", "\0 bytes '\255")
    storage:keep("shard/7/other", "")
    assert.is_true(storage:apply(7, { record("a", 1, "x") }))
    storage:drop(7)
    storage:purge(7, version(9))
    reopen()
    assert.equal("\0 bytes '\255", storage:kept("shard/7"))
    assert.equal("", storage:kept("shard/7/other"))
    storage:keep("shard/7", "new")
    assert.equal("new", storage:kept("shard/7"))
    assert.equal("", scanned(7))
  end)
end
