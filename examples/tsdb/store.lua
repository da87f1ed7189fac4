-- Points of time series in one SQLite file. A point is { shard, series, timestamp, tags, fields,
-- version }; of two with the same series, timestamp and tags the higher version stays.
local luasql = require("luasql.sqlite3")

local Store = {}
Store.__index = Store

-- A commit is on the disk at the next checkpoint, and in the system's hands at once: it outlives the
-- process, not the machine. What the machine loses, the other replicas have.
local SETUP = {
  "PRAGMA journal_mode = WAL",
  "PRAGMA synchronous = NORMAL",
  [[CREATE TABLE IF NOT EXISTS points (
    shard INTEGER NOT NULL, series TEXT NOT NULL, timestamp REAL NOT NULL, tags TEXT NOT NULL,
    fields TEXT NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (series, timestamp, tags)) WITHOUT ROWID]],
  "CREATE INDEX IF NOT EXISTS points_by_shard ON points (shard)",
}

local PUT = [[INSERT INTO points VALUES (%.0f, '%s', %.17g, '%s', '%s', %.0f)
  ON CONFLICT (series, timestamp, tags) DO UPDATE SET fields = excluded.fields, version = excluded.version
  WHERE excluded.version > version]]

local SELECT = "SELECT * FROM points WHERE %s ORDER BY series, timestamp, tags LIMIT %d"

function Store.open(path)
  local environment = luasql.sqlite3()
  local connection = assert(environment:connect(path))
  for _, statement in ipairs(SETUP) do
    local result = assert(connection:execute(statement))
    if type(result) == "userdata" then
      result:close()
    end
  end
  return setmetatable({ environment = environment, connection = connection }, Store)
end

-- Writes all of these points, or none.
function Store:write(points)
  local connection = self.connection
  local done, message = connection:execute("BEGIN")
  for _, point in ipairs(points) do
    done, message = done and connection:execute(PUT:format(point.shard, connection:escape(point.series),
      point.timestamp, connection:escape(point.tags), connection:escape(point.fields), point.version)), message
  end
  done, message = done and connection:execute("COMMIT"), message
  if not done then
    connection:execute("ROLLBACK")
    return false, message
  end
  return true
end

-- The first `limit` points that all conditions hold for, in order, after the point `after`.
function Store:read(conditions, after, limit)
  if after then
    conditions[#conditions + 1] = ("(series, timestamp, tags) > ('%s', %.17g, '%s')"):format(
      self.connection:escape(after.series), after.timestamp, self.connection:escape(after.tags))
  end
  local cursor, message = self.connection:execute(SELECT:format(table.concat(conditions, " AND "), limit))
  if not cursor then
    return nil, message
  end
  local points = {}
  local point = cursor:fetch({}, "a")
  while point do
    points[#points + 1] = point
    point = cursor:fetch({}, "a")
  end
  cursor:close()
  return points
end

-- Points of a series from one time to another, both included; `tags` nil: whatever their tags.
function Store:range(query)
  local conditions = {
    ("series = '%s'"):format(self.connection:escape(query.series)),
    ("timestamp BETWEEN %.17g AND %.17g"):format(query.start_time, query.end_time),
  }
  if query.tags then
    conditions[3] = ("tags = '%s'"):format(self.connection:escape(query.tags))
  end
  return self:read(conditions, query.after, query.limit)
end

function Store:shard(query)
  return self:read({ ("shard = %.0f"):format(query.shard) }, query.after, query.limit)
end

function Store:close()
  self.connection:close()
  self.environment:close()
end

return Store
