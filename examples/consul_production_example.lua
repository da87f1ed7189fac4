-- The old production example: a manager, the cluster's health, and quotes that are stored on three nodes
-- and read back. The two other nodes are also managers in this process.
--
--   make consul-production-example [CONSUL=1.21]

-- From any folder, with the modules of this checkout unless others are installed.
local own_folder = arg[0]:match("^.*/") or "./"
package.path = own_folder .. "../?.lua;" .. package.path .. ";" .. own_folder .. "../lua/?.lua"

local production = require("consul_production_config")
local support = require("examples.support")

local chapter, say = support.chapter, support.say
local ConsulManager = production.ConsulManager

local QUOTES = {
  AAPL = { symbol = "AAPL", price = 150.25, volume = 1000000 },
  AMZN = { symbol = "AMZN", price = 3300.5, volume = 250000 },
  GOOGL = { symbol = "GOOGL", price = 2750.75, volume = 500000 },
  MSFT = { symbol = "MSFT", price = 305.1, volume = 800000 },
  TSLA = { symbol = "TSLA", price = 850.4, volume = 1200000 },
}
local SYMBOLS = { "AAPL", "AMZN", "GOOGL", "MSFT", "TSLA" }

-- Configures a manager, before init().
local function configure(config, number)
  config.consul.servers = { support.url }
  config.consul.simulate = support.simulate
  config.cluster.node_id = "production-" .. number
  config.cluster.node_address = "127.0.0.1:" .. 9000 + number
  config.cluster.min_nodes = 3
  config.cluster.replication_factor = 3
  config.cluster.write_quorum = 2
  config.cluster.read_quorum = 2
  config.storage.kv_prefix = support.prefix .. "data/"
  config.storage.metadata_prefix = support.prefix .. "cluster/"
  config.storage.lock_prefix = support.prefix .. "cluster/"
end

-- `info` and `health` are of the moment when the cluster was ready: on a busy machine it can be late again.
local function show_cluster(info, health)
  chapter("The cluster")
  say(info.node_count .. " nodes, the leader is " .. info.leader_node .. ", this is " .. info.current_node)
  assert(info.node_count == 3 and #info.nodes == 3, "there are not three nodes")
  assert(tostring(info.leader_node):match("^production%-[123]$"), "the cluster has no leader")

  local issues = table.concat(health.issues, "; ")
  say("healthy at %s: %s", os.date("%H:%M:%S", health.timestamp), tostring(health.is_healthy))
  assert(health.is_healthy and issues == "", "the cluster is not healthy: " .. issues)
end

local function show_quotes()
  chapter("Quotes")
  local time = os.time()
  for _, symbol in ipairs(SYMBOLS) do
    local key = ("stocks/%s/%d"):format(symbol, time)
    local stored, outcome = ConsulManager:store_data(key, QUOTES[symbol], {
      consistency = "consistent",
      replication_factor = 3,
    })
    assert(stored, outcome)
    local node = ConsulManager:get_consistent_node(symbol)
    say(symbol .. " is on " .. node.id .. " at " .. node.address .. "; nodes with a copy: " .. #outcome.nodes)
    assert(#outcome.nodes >= 2, "the quote is not on a quorum of nodes")
  end
  for _, symbol in ipairs(SYMBOLS) do
    local key = ("stocks/%s/%d"):format(symbol, time)
    local quote = assert(ConsulManager:read_data(key, { consistency = "consistent" }))
    for name, value in pairs(QUOTES[symbol]) do
      assert(quote[name] == value, ("the %s of %s differs"):format(name, symbol))
    end
    say("%s: price %s, volume %d", symbol, quote.price, quote.volume)
  end
end

support.run(function()
  local managers = { ConsulManager, production.new(), production.new() }
  local finished, why = pcall(function()
    for number, manager in ipairs(managers) do
      configure(manager.config, number)
      local ready, message = pcall(manager.init, manager)
      assert(ready, message)
    end
    local info, health
    support.wait_for("three healthy nodes", function()
      info, health = ConsulManager:get_cluster_info(), ConsulManager:monitor_health()
      return info.node_count == 3 and info.leader_node and health.is_healthy
    end, function()
      for _, manager in ipairs(managers) do
        manager:poll(20)
      end
    end)
    show_cluster(info, health)
    show_quotes()
  end)
  for _, manager in ipairs(managers) do
    assert(manager:cleanup())
  end
  assert(finished, why)
end)
