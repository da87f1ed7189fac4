-- Keeps the records of replicated shards in a SQLite file: the storage that cluster:replicate() takes.
-- A record is { id, version, data }: `id` and `data` are any bytes, `version` is text whose order is that of
-- the versions, and without data the record is deleted. docs/data.md says what each function must do.
local luasql = require("luasql.sqlite3")

local Storage = {}
Storage.__index = Storage

-- A commit survives with FULL the end of the machine, with NORMAL the end of the process
-- (https://www.sqlite.org/pragma.html#pragma_synchronous).
local SYNCHRONOUS = { machine = "FULL", process = "NORMAL" }

local SETUP = {
  "PRAGMA journal_mode = WAL",
  [[CREATE TABLE IF NOT EXISTS records (
    shard INTEGER NOT NULL, id BLOB NOT NULL, version TEXT NOT NULL, data BLOB,
    PRIMARY KEY (shard, id)) WITHOUT ROWID]],
  "CREATE INDEX IF NOT EXISTS deleted ON records (shard, version) WHERE data IS NULL",
  "CREATE TABLE IF NOT EXISTS kept (name BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
}

-- Of two records with one id the higher version stays; of equal versions, that with the greater data.
local PUT = [[INSERT INTO records VALUES %s ON CONFLICT (shard, id)
  DO UPDATE SET version = excluded.version, data = excluded.data
  WHERE (excluded.version, excluded.data IS NOT NULL, excluded.data) > (version, data IS NOT NULL, data)]]

local KEEP = "INSERT INTO kept VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value"

-- The number of records in a statement.
local ROWS = 500

local HEX = {}
for byte = 0, 255 do
  HEX[string.char(byte)] = ("%02x"):format(byte)
end

-- Bytes as SQL, whose blobs are in the order of bytes.
local function blob(bytes)
  return bytes and "X'" .. bytes:gsub(".", HEX) .. "'" or "NULL"
end

-- Opens the file at `path`. `survives` is "machine" (the default) or "process".
function Storage.open(path, survives)
  survives = survives or "machine"
  local environment = luasql.sqlite3()
  local storage = setmetatable({
    survives = survives,
    environment = environment,
    connection = assert(environment:connect(path)),
  }, Storage)
  storage:run("PRAGMA synchronous = " .. SYNCHRONOUS[survives])
  for _, statement in ipairs(SETUP) do
    storage:run(statement)
  end
  return storage
end

-- Runs a statement. Returns the number of rows that it changed, or its rows. An error tells the library that
-- the call has failed.
function Storage:run(statement)
  local result, message = self.connection:execute(statement)
  if type(result) ~= "userdata" then
    return result or error(message, 0)
  end
  local rows = {}
  local row = result:fetch({}, "a")
  while row do
    rows[#rows + 1] = row
    row = result:fetch({}, "a")
  end
  result:close()
  return rows
end

-- Runs `change` in a transaction: all of it or nothing.
function Storage:transaction(change)
  self:run("BEGIN")
  local done, result = pcall(function()
    local result = change()
    self:run("COMMIT")
    return result
  end)
  if not done then
    self.connection:execute("ROLLBACK")
    error(result, 0)
  end
  return result
end

-- Returns the { index, version } of the records that the file has in a newer version.
function Storage:overtaken(shard, records)
  local newer = {}
  for i, record in ipairs(records) do
    local row = self:run(("SELECT version, data FROM records WHERE shard = %d AND id = %s"):format(
      shard, blob(record.id)))[1]
    if row.version ~= record.version or row.data ~= record.data then
      newer[#newer + 1] = { i, row.version }
    end
  end
  return newer
end

-- Stores all of these records, or none. Returns true, or the { index, version } of those that newer ones
-- have overtaken.
function Storage:apply(shard, records)
  return self:transaction(function()
    local changed = 0
    for first = 1, #records, ROWS do
      local rows = {}
      for i = first, math.min(first + ROWS - 1, #records) do
        local record = records[i]
        rows[#rows + 1] = ("(%d,%s,'%s',%s)"):format(shard, blob(record.id), record.version, blob(record.data))
      end
      changed = changed + self:run(PUT:format(table.concat(rows, ",")))
    end
    -- A record that has not changed was there already, or in a newer version.
    local newer = changed < #records and self:overtaken(shard, records) or {}
    return #newer == 0 or newer
  end)
end

-- Returns up to `limit` records in the order of ids, deleted ones too: those with from <= id < to that come
-- after the id `after`.
function Storage:scan(shard, from, to, after, limit)
  -- One lower bound: of two, SQLite may begin at the first one, and a page pass over all pages before it.
  local lowest = after and after >= from and "id > " .. blob(after) or "id >= " .. blob(from)
  local conditions = { ("shard = %d AND %s"):format(shard, lowest) }
  if to then
    conditions[#conditions + 1] = "id < " .. blob(to)
  end
  return self:run(("SELECT id, version, data FROM records WHERE %s ORDER BY id LIMIT %d"):format(
    table.concat(conditions, " AND "), limit))
end

-- Removes the deleted records with lower versions for good.
function Storage:purge(shard, below)
  self:run(("DELETE FROM records WHERE shard = %d AND data IS NULL AND version < '%s'"):format(shard, below))
  return true
end

-- Removes all records of a shard; what was kept stays.
function Storage:drop(shard)
  self:run(("DELETE FROM records WHERE shard = %d"):format(shard))
  return true
end

-- Stores bytes under a name, in the file of the records and as durable.
function Storage:keep(name, bytes)
  self:run(KEEP:format(blob(name), blob(bytes)))
  return true
end

-- Returns the bytes under a name, or nil.
function Storage:kept(name)
  local row = self:run(("SELECT value FROM kept WHERE name = %s"):format(blob(name)))[1]
  return row and row.value
end

-- Brings all commits to the disk: what was stored survives the machine from then on. The library calls it in a stop.
function Storage:flush()
  self:run("PRAGMA synchronous = FULL")
  local row = self:run("PRAGMA wal_checkpoint(FULL)")[1]
  assert(tonumber(row.busy) == 0, "the file is in use elsewhere")
  return true
end

function Storage:close()
  self.connection:close()
  self.environment:close()
end

return Storage
