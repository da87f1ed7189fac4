-- The storages of examples/tsdb and of docs/data.md, without a cluster.
local contract = require("spec.examples.storage_contract")

-- Files to remove after each test.
local paths

before_each(function()
  paths = {}
end)

after_each(function()
  for _, path in ipairs(paths) do
    for _, ending in ipairs({ "", "-wal", "-shm" }) do
      os.remove(path .. ending)
    end
  end
end)

local function new_path()
  local path = os.tmpname()
  os.remove(path)
  paths[#paths + 1] = path
  return path
end

describe("the storage of docs/data.md", function()
  -- The program that the page shows.
  local page = assert(io.open("docs/data.md"))
  local open
  for program in page:read("*a"):gmatch("\n```lua\n(.-)\n```\n") do
    if program:find("function change.apply", 1, true) then
      open = assert((rawget(_G, "loadstring") or load)(program))()
    end
  end
  page:close()

  contract(function(path)
    local storage = open(path)
    function storage.close() end
    return storage
  end, new_path)

  it("leaves out a change that was cut off", function()
    local path = new_path()
    local records = {}
    for i = 1, 3 do
      records[i] = { id = "id" .. i, version = ("%032x"):format(i), data = "x" }
      assert.is_true(open(path):apply(7, { records[i] }))
    end
    local file = assert(io.open(path, "rb"))
    local text = file:read("*a")
    file:close()
    file = assert(io.open(path, "wb"))
    file:write(text:sub(1, -20))
    file:close()
    assert.is_true(open(path):apply(7, { { id = "id4", version = records[3].version, data = "y" } }))
    local ids = {}
    for _, record in ipairs(open(path):scan(7, "", nil, nil, 9)) do
      ids[#ids + 1] = record.id
    end
    assert.same({ "id1", "id2", "id4" }, ids)
  end)
end)

if not pcall(require, "luasql.sqlite3") then
  it("examples/tsdb/storage.lua", function()
    pending("SKIPPED: lua-sql-sqlite3 is missing")
  end)
  return
end

local Storage = require("examples.tsdb.storage")

describe("the SQLite storage of examples/tsdb", function()

  contract(Storage.open, new_path)

  it("has its commits on the disk if it is to survive the machine", function()
    for survives, synchronous in pairs({ process = 1, machine = 2 }) do
      local storage = Storage.open(new_path(), survives)
      assert.equal(survives, storage.survives)
      assert.equal(synchronous, storage:run("PRAGMA synchronous")[1].synchronous)
      assert.equal("wal", storage:run("PRAGMA journal_mode")[1].journal_mode)
      storage:close()
    end
  end)

  it("survives the machine unless it is told otherwise", function()
    local storage = Storage.open(new_path())
    assert.equal("machine", storage.survives)
    assert.equal(2, storage:run("PRAGMA synchronous")[1].synchronous)
    storage:close()
  end)

  it("has all on the disk after a flush, also what is stored later", function()
    local path = new_path()
    local storage = Storage.open(path, "process")
    assert.is_true(storage:apply(1, { { id = "a", version = ("%032x"):format(1), data = "x" } }))
    assert.is_true(storage:flush())
    assert.equal(2, storage:run("PRAGMA synchronous")[1].synchronous)
    local rows = storage:run("PRAGMA wal_checkpoint(PASSIVE)")[1]
    assert.equal(rows.log, rows.checkpointed)
    storage:close()
  end)

  it("returns a late page of many records as fast as the first one", function()
    local storage = Storage.open(new_path())
    local count = 100000
    for first = 1, count, 1000 do
      local records = {}
      for i = first, first + 999 do
        records[#records + 1] = { id = ("id/%06d"):format(i), version = ("%032x"):format(1), data = "x" }
      end
      assert.is_true(storage:apply(7, records))
    end
    -- The least processor time of a page after this record.
    local function least(after)
      local taken = math.huge
      for _ = 1, 10 do
        local begun = os.clock()
        assert.equal(50, #storage:scan(7, "id/", "id0", ("id/%06d"):format(after), 50))
        taken = math.min(taken, os.clock() - begun)
      end
      return taken
    end
    local early, late = least(1), least(count - 100)
    assert.is_true(late < 10 * early, ("%.6f s and %.6f s"):format(early, late))
    storage:close()
  end)

  it("stores all records of a call or none", function()
    local storage = Storage.open(new_path())
    -- Invalid SQL, after a whole statement of valid records.
    local records = {}
    for i = 1, 501 do
      records[i] = { id = "id" .. i, version = ("%032x"):format(i), data = "x" }
    end
    records[501].version = "'"
    assert.has_error(function()
      storage:apply(7, records)
    end)
    assert.same({}, storage:scan(7, "", nil, nil, 10))
    assert.is_true(storage:apply(7, { records[1] }))
    storage:close()
  end)
end)
