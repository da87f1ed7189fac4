-- The time series database of examples/tsdb, in one process; `make demo-tsdb` kills one of three.
local support = require("spec.support")

if not pcall(require, "luasql.sqlite3") then
  it("examples/tsdb", function()
    pending("SKIPPED: lua-sql-sqlite3 is missing")
  end)
  return
end

local compare = require("examples.tsdb.compare")
local Engine = require("examples.tsdb.engine")
local fields = require("examples.tsdb.fields")

-- Engines to stop and files to remove after each test.
local opened, paths, cluster_name

local function new_path()
  paths[#paths + 1] = os.tmpname()
  return paths[#paths]
end

describe("examples/tsdb", function()
  before_each(function()
    opened, paths, cluster_name = {}, {}, support.name("tsdb")
  end)

  after_each(function()
    for _, one in ipairs(opened) do
      one:stop()
    end
    local client = support.client()
    client:kv_delete_tree("tsdb/" .. cluster_name)
    client:close()
    for _, path in ipairs(paths) do
      for _, ending in ipairs({ "", "-wal", "-shm" }) do
        os.remove(path .. ending)
      end
    end
  end)

  describe("fields", function()
    it("encode equal tables as equal text, and decode it to the same table", function()
      local values = { price = 0.1, volume = 1e15, name = "A&B=\0\195\164 '%", up = true, empty = "", down = false }
      assert.same(values, fields.decode(fields.encode(values)))
      assert.equal("a=n1&b=n2", fields.encode({ b = 2, a = 1 }))
      assert.equal("", fields.encode(nil))
      assert.same({}, fields.decode(""))
    end)

    it("keep integers exactly on each engine", function()
      for _, text in ipairs({
        "9007199254740993", "-9007199254740993", "9223372036854775807", "-9223372036854775808",
      }) do
        local encoded = "volume=i" .. text
        local read = fields.decode(encoded).volume
        -- An integer of LuaJIT is its digits with LL, that of Lua 5.1 is the text.
        assert.equal(text, (tostring(read):gsub("LL$", "")))
        if type(read) ~= "string" then
          assert.equal(encoded, fields.encode({ volume = read }))
        end
      end
      assert.equal("a=n1&b=n10000000000000000", fields.encode({ a = 1, b = 1e16 }))
      assert.same({ a = 1, b = 1e16 }, fields.decode("a=n1&b=n10000000000000000"))
      for _, value in ipairs({ 1, 0.1, 1e15, 2 ^ 53, -2 ^ 53, 1e16, 1e17, -1e300 }) do
        local text = fields.encode({ a = value })
        assert.equal(text, fields.encode(fields.decode(text)))
      end
    end)

    it("are refused when the text could not be decoded to the same value", function()
      for _, value in ipairs({ 0 / 0, math.huge, {} }) do
        local text, why = fields.encode({ price = value })
        assert.is_nil(text)
        assert.matches("^price is .*: it must be a string, a finite number or a boolean$", why)
      end
      assert.is_nil(fields.encode({ [""] = "x" }))
      assert.is_nil(fields.encode({ "x" }))
      assert.is_nil(fields.encode("host=a"))
    end)
  end)

  it("detects lost, duplicate, disordered and altered points", function()
    local written = {
      { value = 10, acknowledged = true },
      { value = 20, acknowledged = true },
      { value = 30, acknowledged = false },
    }
    local function row(timestamp, value)
      return { timestamp = timestamp, value = value or timestamp * 10 }
    end
    local function wrong(found)
      local it = compare(found, written)
      return { it.lost, it.duplicate, it.disordered, it.altered }
    end
    assert.same({ 0, 0, 0, 0 }, wrong({ row(1), row(2) }))
    assert.same({ 0, 0, 0, 0 }, wrong({ row(1), row(2), row(3) }))
    assert.same({ 1, 0, 0, 0 }, wrong({ row(1) }))
    assert.same({ 0, 1, 0, 0 }, wrong({ row(1), row(2), row(2) }))
    assert.same({ 0, 0, 1, 0 }, wrong({ row(2), row(1) }))
    assert.same({ 0, 0, 0, 1 }, wrong({ row(1), row(2, 21) }))
    assert.same({ 0, 0, 0, 1 }, wrong({ row(1), row(2), row(9) }))
  end)

  describe("an engine", function()
    local function engine(id, config)
      local all = {
        node_id = id,
        cluster_name = cluster_name,
        simulate = support.simulated,
        consul_endpoints = { os.getenv("CONSUL_HTTP_ADDR") or "127.0.0.1:8500" },
        replication_factor = 3,
        path = new_path(),
        points = { write_quorum = 2, read_quorum = 2, repair_s = 1 },
        -- A busy machine may be slow.
        timeout_ms = 60000,
        cluster_options = { profile = "fast", shards = 64 },
      }
      for name, value in pairs(config or {}) do
        all[name] = value
      end
      local made = Engine.new(all)
      opened[#opened + 1] = made
      assert(made:start())
      return made
    end

    -- Serves all nodes until `condition` is true.
    local function serve_until(condition)
      support.eventually(function()
        for _, one in ipairs(opened) do
          one:poll(10)
        end
        return condition()
      end)
    end

    -- Waits until each node has shards, and each shard this number of replicas.
    local function settle(count)
      serve_until(function()
        for _, one in ipairs(opened) do
          if one:holds(one.cluster.node_id) == 0 or not one:is_replicated(count) then
            return false
          end
        end
        return true
      end)
    end

    local function engines(count, config)
      for i = 1, count do
        engine("n" .. i, config)
      end
      settle(math.min(count, 3))
      return opened
    end

    it("reads points back through any node #smoke", function()
      local all = engines(3)
      assert.is_true(all[1]:put_metric_data("cpu", 100, 0.5, { host = "a" }))
      assert.is_true(all[2]:put_metric_data("cpu", 40.5, 0.25, { host = "b" }))
      assert.is_true(all[3]:put_stock_data("600519", 70, { price = 1700.5, name = "x" }, "SH"))
      for _, one in ipairs(all) do
        local success, rows = one:get_metric_data("cpu", 0, 100)
        assert.is_true(success)
        assert.same({
          { timestamp = 40.5, value = 0.25, tags = { host = "b" } },
          { timestamp = 100, value = 0.5, tags = { host = "a" } },
        }, rows)
        assert.same({ true, { rows[2] } }, { one:get_metric_data("cpu", 0, 100, { host = "a" }) })
        assert.same({ true, {} }, { one:get_metric_data("cpu", 41, 99) })
        assert.same({ true, { { timestamp = 70, data = { price = 1700.5, name = "x" }, market = "SH" } } },
          { one:get_stock_data("600519", 0, 100, "SH") })
        assert.same({ true, {} }, { one:get_stock_data("600519", 0, 100, "SZ") })
      end
    end)

    it("returns the last version of a point that was written twice", function()
      local all = engines(3)
      assert.is_true(all[1]:put_metric_data("cpu", 100, 1))
      assert.is_true(all[1]:put_metric_data("cpu", 100, 2))
      local _, rows = all[2]:get_metric_data("cpu", 0, 200)
      assert.same({ { timestamp = 100, value = 2, tags = {} } }, rows)
    end)

    it("writes points of many series at once", function()
      local all, points = engines(3), {}
      for i = 1, 600 do
        points[i] = { kind = "metric", metric_name = "cpu/" .. i % 7, timestamp = i * 10, value = i }
      end
      points[601] = { kind = "stock", stock_code = "600519", timestamp = 1, data = { price = 1 } }
      assert.is_true(all[1]:put_many(points))
      local count = 0
      for series = 0, 6 do
        local _, rows = assert(all[2]:get_metric_data("cpu/" .. series, 0, 6000))
        for _, row in ipairs(rows) do
          assert.equal(row.timestamp, row.value * 10)
          assert.equal(series, row.value % 7)
          count = count + 1
        end
      end
      assert.equal(600, count)
      assert.equal(1, #select(2, all[3]:get_stock_data("600519", 0, 10)))
    end)

    it("deletes points, and those that are too old", function()
      local all = engines(3)
      for i = 1, 20 do
        -- The second node misses a point: it has it after a repair.
        all[2].storage.apply = i == 3 and function()
          error("a full disk")
        end or nil
        assert.is_true(all[1]:put_metric_data("cpu", i * 100, i))
        assert.is_true(all[1]:put_metric_data("cpu-b", i * 100, i))
      end
      assert.same({ true, 3 }, { all[1]:delete("metric", "cpu", 1800, 2000) })
      -- Each node deletes what it has. A point that comes with a repair may be counted again.
      local expired = 0
      serve_until(function()
        local count = select(2, assert(all[2]:expire(1000)))
        expired = expired + count
        return count == 0 and expired >= 18
      end)
      local _, rows = all[3]:get_metric_data("cpu", 0, 5000)
      assert.same({ 8, 1000, 1700 }, { #rows, rows[1].timestamp, rows[8].timestamp })
      _, rows = all[3]:get_metric_data("cpu-b", 0, 5000)
      assert.same({ 11, 1000, 2000 }, { #rows, rows[1].timestamp, rows[11].timestamp })
    end)

    it("works without one of three nodes, and fails without two, naming the shard", function()
      local all = engines(3, { cluster_options = { profile = "fast", shards = 64, min_nodes = 3 } })
      assert.is_true(all[1]:put_metric_data("cpu", 100, 1))
      assert.is_true(table.remove(all):stop())
      assert.is_true(all[1]:put_metric_data("cpu", 101, 2))
      local success, rows = all[1]:get_metric_data("cpu", 0, 200)
      assert.same({ true, 2 }, { success, #rows })
      assert.is_true(table.remove(all):stop())
      all[1].timeout_ms = 1000
      local message
      success, message = all[1]:put_metric_data("cpu", 102, 3)
      assert.is_false(success)
      assert.matches("shard %d+", message)
      success, message = all[1]:get_metric_data("cpu", 0, 200)
      assert.is_false(success)
      assert.matches("shard %d+", message)
    end)

    it("takes the messages and queries of older programs", function()
      local all = engines(2, { replication_factor = 2 })
      local cluster = all[1].cluster
      assert.is_true((cluster:forward_data("n2",
        { type = "stock_data", stock_code = "600519", timestamp = 100, data = { price = 1 }, market = "SH" })))
      local query = { type = "stock_query", stock_code = "600519", start_time = 0, end_time = 200, market = "SH" }
      local success, rows = cluster:fetch_data("n2", query)
      assert.same({ true, 1, 100 }, { success, #rows, rows[1].timestamp })
      query.market = "SZ"
      assert.same({ true, {} }, { cluster:fetch_data("n2", query) })
    end)

    it("has a point where its time is rounded to, also at the end of a block and at -0", function()
      local all = engines(1, { replication_factor = 1, points = {} })
      for i, timestamp in ipairs({ 1700000399.9999998, 1e8 - 100 - 1e-7, 599.9999999, -0.0 }) do
        local name, near = "cpu" .. i, math.floor(timestamp + 0.5)
        assert.is_true(all[1]:put_metric_data(name, timestamp, i))
        local _, rows = all[1]:get_metric_data(name, near - 300, near + 300)
        assert.same({ near }, { rows[1] and rows[1].timestamp })
      end
    end)

    it("refuses values that it could not read back", function()
      local all = engines(1, { replication_factor = 1, points = {} })
      local success, message = all[1]:put_metric_data("cpu", 100, {})
      assert.is_false(success)
      assert.matches("value is table", message, 1, true)
      success, message = all[1]:put_metric_data("cpu", -1, 1)
      assert.is_false(success)
      assert.matches("the timestamp is -1: it must be from 0 to 99999999999", message, 1, true)
      success, message = all[1]:get_metric_data("cpu", 0, 1e10)
      assert.is_false(success)
      assert.matches("blocks of 600 s, more than 10000", message, 1, true)
      for why, point in pairs({
        ["lacks the value"] = { metric_name = "m", timestamp = 1 },
        ["metric_name is nil"] = { timestamp = 1, value = 1 },
        ["metric_name is "] = { metric_name = "", timestamp = 1, value = 1 },
        ["host=a must be a table"] = { metric_name = "m", timestamp = 1, value = 1, tags = "host=a" },
        ["x must be a table"] = { kind = "stock", stock_code = "A", timestamp = 1, data = "x" },
        ["lacks the table data"] = { kind = "stock", stock_code = "A", timestamp = 1 },
        ["the kind is other"] = { kind = "other", timestamp = 1 },
      }) do
        success, message = all[1]:put_many({ point }, not point.kind and "metric" or nil)
        assert.is_false(success)
        assert.matches(why, message, 1, true)
      end
      for _, before in ipairs({ -1, 0 / 0, "1" }) do
        assert.is_false((all[1]:expire(before)))
      end
    end)

    it("reads any range a page at a time, with blocks as long as the kind has them", function()
      local all = engines(1, { replication_factor = 1, points = {}, block_s = { stock = 30 * 86400 } })
      local points, begin = {}, 1600000000
      for day = 1, 2500 do
        points[day] = { stock_code = "600519", timestamp = begin + day * 86400, data = { price = day } }
      end
      assert(all[1]:put_many(points, "stock"))
      assert.equal(2500, #select(2, assert(all[1]:get_stock_data("600519", begin, begin + 2501 * 86400))))
      local count = 0
      local query = { stock_code = "600519", start_time = begin, end_time = begin + 1e9 }
      for row, message in all[1]:rows("stock", query) do
        assert(row, message)
        count = count + 1
        assert.equal(count, row.data.price)
      end
      assert.equal(2500, count)
      assert.same({ true, 2500 }, { all[1]:delete("stock", "600519", begin, begin + 1e9) })
      assert.same({ true, {} }, { all[1]:get_stock_data("600519", begin, begin + 2501 * 86400) })
      assert(all[1]:put_many(points, "stock"))
      assert.same({ true, 2500 }, { all[1]:expire(math.huge) })
      assert.same({ true, {} }, { all[1]:get_stock_data("600519", begin, begin + 2501 * 86400) })
    end)

    it("downsamples by time, the same again for a range that overlaps", function()
      local all = engines(1, { replication_factor = 1, points = {} })
      local points = {}
      for i = 0, 299 do
        local tags = { host = i % 2 == 0 and "a" or "b" }
        points[#points + 1] = { metric_name = "cpu", timestamp = i * 10, value = i, tags = tags }
      end
      assert(all[1]:put_many(points, "metric"))
      for how, expected in pairs({ sum = 6, count = 3, min = 0, max = 4, last = 4, mean = 2 }) do
        local query = { metric_name = "cpu", into = "cpu_" .. how, how = how, step_s = 60 }
        query.start_time, query.end_time = 0, 2999
        assert.same({ true, 100 }, { all[1]:downsample(query) })
        query.start_time, query.end_time = 70, 100
        assert.same({ true, 2 }, { all[1]:downsample(query) })
        local _, rows = assert(all[1]:get_metric_data("cpu_" .. how, 0, 3000, { host = "a" }))
        assert.equal(50, #rows)
        assert.same({ timestamp = 0, value = expected, tags = { host = "a" } }, rows[1])
        assert.equal(2940, rows[50].timestamp)
      end
      assert.is_false((all[1]:downsample({ metric_name = "cpu", into = "x", how = "median", step_s = 1 })))
      assert.is_false((all[1]:downsample({ metric_name = "cpu", into = "x", step_s = 0 })))
    end)

    it("has its points on a new node", function()
      local all = engines(1, { replication_factor = 1, points = {} })
      for i = 1, 100 do
        assert.is_true(all[1]:put_metric_data("cpu", i * 600, i))
      end
      engine("n2", { replication_factor = 1, points = {} })
      settle(1)
      for _, one in ipairs(all) do
        assert.equal(100, #select(2, one:get_metric_data("cpu", 0, 60000)))
      end
      local own = all[2].storage:run("SELECT count(*) AS count FROM records")[1].count
      assert.is_true(own > 20 and own < 80, own)
    end)
  end)
end)
