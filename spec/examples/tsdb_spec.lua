-- The example of a time series database, in one process; tests/demo_tsdb.rs kills one of three.
local support = require("spec.support")

if not pcall(require, "luasql.sqlite3") then
  it("examples/tsdb", function()
    pending("SKIPPED: there is no lua-sql-sqlite3")
  end)
  return
end

local compare = require("examples.tsdb.compare")
local Engine = require("examples.tsdb.engine")
local fields = require("examples.tsdb.fields")
local merge = require("examples.tsdb.merge")
local Store = require("examples.tsdb.store")

-- What ends and goes after each test.
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
    it("are the same text for the same table, and the table again", function()
      local values = { price = 0.1, volume = 1e15, name = "A&B=\0\195\164 '%", up = true, empty = "", down = false }
      assert.same(values, fields.decode(fields.encode(values)))
      assert.equal("a=n1&b=n2", fields.encode({ b = 2, a = 1 }))
      assert.equal("", fields.encode(nil))
      assert.same({}, fields.decode(""))
    end)

    it("are refused when text would not give them again", function()
      for _, value in ipairs({ 0 / 0, math.huge, {} }) do
        local text, why = fields.encode({ price = value })
        assert.is_nil(text)
        assert.matches("^price is .*: it must be a string, a finite number or a boolean$", why)
      end
    end)
  end)

  describe("a store", function()
    local function point(timestamp, more)
      local all = { shard = 7, series = "metric/o'clock", tags = "", fields = "value=n1", version = 1 }
      all.timestamp = timestamp
      for name, value in pairs(more or {}) do
        all[name] = value
      end
      return all
    end

    it("gives a range in order, page by page, and outlives its closing", function()
      local path = new_path()
      local store = Store.open(path)
      for _, timestamp in ipairs({ 30, 10, 20.5, 40 }) do
        assert.is_true(store:write({ point(timestamp) }))
      end
      store:close()
      store = Store.open(path)
      local query = { series = "metric/o'clock", start_time = 10, end_time = 30, limit = 2 }
      local page = store:range(query)
      assert.same({ 10, 20.5 }, { page[1].timestamp, page[2].timestamp })
      query.after = page[2]
      page = store:range(query)
      assert.same({ 1, 30 }, { #page, page[1].timestamp })
      assert.equal(4, #store:shard({ shard = 7, limit = 10 }))
      assert.equal(0, #store:shard({ shard = 8, limit = 10 }))
      store:close()
    end)

    it("keeps the newest of a point, whichever comes last", function()
      local store = Store.open(new_path())
      assert.is_true(store:write({ point(1, { fields = "value=n2", version = 2 }), point(1) }))
      local points = store:range({ series = "metric/o'clock", start_time = 0, end_time = 9, limit = 9 })
      assert.same({ 1, "value=n2" }, { #points, points[1].fields })
      store:close()
    end)
  end)

  it("merges sorted streams, each point once and the newest", function()
    local function stream(points)
      local place = 0
      return function()
        place = place + 1
        return points[place]
      end
    end
    local function point(timestamp, tags, version)
      return { timestamp = timestamp, tags = tags, version = version }
    end
    local given = {}
    for it in merge({
      stream({ point(1, "a", 1), point(3, "a", 1), point(4, "a", 1) }),
      stream({}),
      stream({ point(1, "a", 1), point(1, "b", 1), point(3, "a", 2) }),
    }) do
      given[#given + 1] = it.timestamp .. it.tags .. it.version
    end
    assert.equal("1a1 1b1 3a2 4a1", table.concat(given, " "))
  end)

  it("notices what was lost, doubled, out of order and altered", function()
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
      return { it.lost, it.doubled, it.disordered, it.altered }
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
        write_quorum = 2,
        read_quorum = 2,
        path = new_path(),
        cluster_options = { profile = "fast", replace_after_s = 0 },
      }
      for name, value in pairs(config or {}) do
        all[name] = value
      end
      local made = Engine.new(all)
      opened[#opened + 1] = made
      assert(made:start())
      return made
    end

    -- Waits until each has shards, all of them available on so many nodes, as all engines know.
    local function settle(count)
      support.eventually(function()
        for _, one in ipairs(opened) do
          one:poll(10)
        end
        for _, one in ipairs(opened) do
          local replicas = one.cluster.data_shards
          if one.cluster.local_node.load == 0 then
            return false
          end
          for shard = 0, 1023 do
            local on = replicas[shard] or {}
            for _, replica in ipairs(on) do
              if replica.state ~= "available" then
                return false
              end
            end
            if #on ~= count then
              return false
            end
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

    it("gives back what was put, through any node #smoke", function()
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

    it("gives a point that was put twice once, as it was put last", function()
      local all = engines(3)
      assert.is_true(all[1]:put_metric_data("cpu", 100, 1))
      assert.is_true(all[1]:put_metric_data("cpu", 100, 2))
      local _, rows = all[2]:get_metric_data("cpu", 0, 200)
      assert.same({ { timestamp = 100, value = 2, tags = {} } }, rows)
    end)

    it("goes on without one of three, and refuses without two, naming who is missing", function()
      local all = engines(3, { cluster_options = { profile = "fast", min_nodes = 3 } })
      assert.is_true(all[1]:put_metric_data("cpu", 100, 1))
      assert.is_true(table.remove(all):stop())
      assert.is_true(all[1]:put_metric_data("cpu", 101, 2))
      local success, rows = all[1]:get_metric_data("cpu", 0, 200)
      assert.same({ true, 2 }, { success, #rows })
      assert.is_true(table.remove(all):stop())
      local message
      success, message = all[1]:put_metric_data("cpu", 102, 3)
      assert.is_false(success)
      assert.matches("n2", message, 1, true)
      assert.matches("n3", message, 1, true)
      success, message = all[1]:get_metric_data("cpu", 0, 200)
      assert.is_false(success)
      assert.matches("n2", message, 1, true)
    end)

    it("refuses a writer that does not know who has the shard now", function()
      local all = engines(2, { replication_factor = 2 })
      local cluster, key = all[1].cluster, { metric_name = "cpu", timestamp = 100, value = 1, type = "metric_data" }
      local _, _, placement, map = all[1]:placement("cpu", 100)
      key.map, key.placement = map - 1, placement
      assert.is_true((cluster:forward_data("n2", key)))
      key.placement = "n9 available"
      local success, message = cluster:forward_data("n2", key)
      assert.is_false(success)
      assert.matches("the writer's shard map is too old", message, 1, true)
      -- Nor does a node give a shard away to one that knows more.
      success, message = cluster:fetch_data("n2", { type = "shard_query", shard = 0, map = map + 1, limit = 1 })
      assert.is_false(success)
      assert.matches("its shard map is older", message, 1, true)
    end)

    it("takes the messages and queries of older programs", function()
      local all = engines(2, { replication_factor = 2, read_quorum = 1, write_quorum = 2 })
      local cluster = all[1].cluster
      assert.is_true((cluster:forward_data("n2",
        { type = "stock_data", stock_code = "600519", timestamp = 100, data = { price = 1 }, market = "SH" })))
      local query = { type = "stock_query", stock_code = "600519", start_time = 0, end_time = 200, market = "SH" }
      local success, rows = cluster:fetch_data("n2", query)
      assert.same({ true, 1, 100 }, { success, #rows, rows[1].timestamp })
      query.market = "SZ"
      assert.same({ true, {} }, { cluster:fetch_data("n2", query) })
    end)

    it("refuses what it could not give back", function()
      local all = engines(1, { replication_factor = 1, write_quorum = 1, read_quorum = 1 })
      local success, message = all[1]:put_metric_data("cpu", 100, "one" and {})
      assert.is_false(success)
      assert.matches("value is table", message, 1, true)
    end)

    it("copies shards to a new node before they are read there", function()
      local all = engines(1, { replication_factor = 1, write_quorum = 1, read_quorum = 1 })
      for i = 1, 200 do
        assert.is_true(all[1]:put_metric_data("cpu", i * 30, i))
      end
      engine("n2", { replication_factor = 1, write_quorum = 1, read_quorum = 1 })
      local during = select(2, all[1]:get_metric_data("cpu", 0, 6000))
      assert.equal(200, #during)
      settle(1)
      -- What is read now of the second node's shards, it has itself.
      local own = 0
      for i = 1, 200 do
        if all[1].cluster:get_target_node("cpu", i * 30) == "n2" then
          local _, rows = all[2]:get_metric_data("cpu", i * 30, i * 30)
          assert.same({ { timestamp = i * 30, value = i, tags = {} } }, rows)
          own = own + 1
        end
      end
      assert.is_true(own > 50, own)
      assert.equal(own, #all[2].store:read({ "1" }, nil, 1000))
    end)
  end)
end)
