-- The old test of the time series database's cluster: a hash ring, then three nodes of the database in this
-- process. Points are read through each node, also after one has stopped.
--
--   make test-tsdb-cluster [CONSUL=1.21]

-- From any folder, with the modules of this checkout unless others are installed.
local own_folder = arg[0]:match("^.*/") or "./"
package.path = own_folder .. "../?.lua;" .. package.path .. ";" .. own_folder .. "../lua/?.lua"

local ConsistentHashRing = require("consistent_hash_cluster").ConsistentHashRing
local Engine = require("examples.tsdb.engine")
local support = require("examples.support")

local chapter, say = support.chapter, support.say
local names = { "node1", "node2", "node3" }

-- A fixed time, so that each run has the same points: a metric and a quote per second in four blocks.
local BEGIN_S, COUNT = 1700000010, 120

local function owners(ring, keys)
  local found = {}
  for _, key in ipairs(keys) do
    found[key] = ring:get_node(key)
  end
  return found
end

local function show_ring()
  chapter("A ring of 100 virtual nodes")
  local ring = ConsistentHashRing:new(100)
  for number, name in ipairs(names) do
    assert(ring:add_node(name, { address = "127.0.0.1:" .. 9000 + number }))
  end
  local keys, count = {}, {}
  for i = 1, 3000 do
    keys[i] = "metric:" .. i
  end
  local before = owners(ring, keys)
  for _, key in ipairs(keys) do
    count[before[key]] = (count[before[key]] or 0) + 1
    local replicas = ring:get_replica_nodes(key, 2)
    assert(replicas[1] .. "" == before[key] and replicas[2] .. "" ~= before[key], key .. " has wrong replicas")
  end
  say("of 3000 keys node1 has %d, node2 %d, node3 %d", count.node1, count.node2, count.node3)
  assert(math.min(count.node1, count.node2, count.node3) > 500, "the keys are spread unevenly")

  assert(ring:remove_node("node2"))
  local after, moved = owners(ring, keys), 0
  for _, key in ipairs(keys) do
    assert(after[key] ~= "node2", key .. " is on a removed node")
    moved = moved + (after[key] ~= before[key] and 1 or 0)
  end
  say("node2 is removed: %d keys have moved", moved)
  assert(moved == count.node2, "keys of other nodes have moved")
end

local function new_engine(number, folder)
  return Engine.new({
    node_id = names[number],
    host = "127.0.0.1",
    port = 9000 + number,
    consul_endpoints = { support.url },
    simulate = support.simulate,
    replication_factor = 3,
    points = { write_quorum = 2, read_quorum = 2 },
    path = folder .. "/" .. names[number] .. ".sqlite",
    cluster_options = { nodes_prefix = support.prefix .. "nodes/" },
  })
end

-- Serves requests until all nodes have all shards with their data.
local function settle(engines)
  support.wait_for("all shards on three nodes", function()
    for _, engine in ipairs(engines) do
      if not engine:is_replicated(#names) then
        return false
      end
    end
    return true
  end, function()
    for _, engine in ipairs(engines) do
      engine:poll(20)
    end
  end)
end

local function write(engines)
  for i = 1, COUNT do
    local engine = engines[i % #engines + 1]
    assert(engine:put_metric_data("cpu.usage", BEGIN_S + i, i * 0.5, { host = "server1" }))
    assert(engine:put_stock_data("000001", BEGIN_S + i, { price = i * 0.25, volume = i }, "SZ"))
  end
  say("%d points written, a third through each node", 2 * COUNT)
end

-- Reads all points through one node and compares them with those written.
local function read(name, engine)
  local _, metrics = assert(engine:get_metric_data("cpu.usage", BEGIN_S + 1, BEGIN_S + COUNT, { host = "server1" }))
  local _, quotes = assert(engine:get_stock_data("000001", BEGIN_S + 1, BEGIN_S + COUNT, "SZ"))
  say("read through %s: %d of a metric, %d of a stock", name, #metrics, #quotes)
  assert(#metrics == COUNT and #quotes == COUNT, "points are lost or duplicate")
  for i = 1, COUNT do
    local metric, quote = metrics[i], quotes[i]
    assert(metric.timestamp == BEGIN_S + i and metric.value == i * 0.5, "a metric differs")
    assert(quote.timestamp == BEGIN_S + i and quote.data.price == i * 0.25, "a quote differs")
  end
end

local function show_engines(engines, folder)
  chapter("Three nodes of the database")
  for number, name in ipairs(names) do
    engines[number] = new_engine(number, folder)
    assert(engines[number]:start())
    say("%s has started", name)
  end
  settle(engines)
  write(engines)
  for number, name in ipairs(names) do
    read(name, engines[number])
  end
  chapter("node2 stops")
  assert(table.remove(engines, 2):stop())
  read("node1", engines[1])
  read("node3", engines[2])
end

support.run(function()
  show_ring()
  local folder, engines = os.tmpname(), {}
  os.remove(folder)
  support.sh("mkdir " .. folder)
  local finished, why = pcall(show_engines, engines, folder)
  support.sh("rm -r " .. folder)
  for _, engine in pairs(engines) do
    assert(engine:stop())
  end
  assert(finished, why)
end)
