-- Processes with replicated shards are stopped, killed, stalled and cut off, and lose their disks while this one
-- writes. Then every acknowledged point is looked for through each node and on the disks. Ends with status 0 if none
-- is missing or older.
--
--   CONSUL_HTTP_ADDR=… luajit tests/programs/replicated/scenarios.lua SCENARIO FACTOR
--
-- FACTOR makes it longer: more nodes, more rounds. A cut needs a network namespace of its own (islands.lua), `upgrades`
-- the folder OLD_RELEASE, a checkout of an older release with its build for LuaJIT; `numbers` OPERATOR, the path of
-- consul-ha.

local own_folder = arg[0]:match("^.*/")
package.path = own_folder .. "../../?.lua;" .. package.path

local consul_ffi = require("consul_ffi")
local Engine = require("examples.tsdb.engine")
local Storage = require("examples.tsdb.storage")
local config_of = require("examples.tsdb.config")
local fields = require("examples.tsdb.fields")
local processes = require("examples.tsdb.processes")
local support = require("examples.support")
local islands = require("tests.programs.replicated.islands")
local shards = require("tests.programs.replicated.shards")

support.simulate = false
local now = support.now
local factor = tonumber(arg[2] or 1)

-- Points that are written again and again, each time with a higher value; a call writes some of one series.
local SERIES, TIMES, BATCH = 60, 20, 10

-- The time limit of a write where some are to fail.
local SHORT_MS = 300

-- The most points per second.
local RATE = 400

-- The nodes that are cut off one after the other.
local CUT_NODES = 4

-- How long a long run of a scenario without rounds takes.
local LONG_S = 180

local SHARDS, REPLICAS, WRITE_QUORUM = 64, 3, 2

-- The older release, where its module is, and what the command of a node with it begins with.
local OLD_RELEASE = os.getenv("OLD_RELEASE")
local OLD_MODULE = OLD_RELEASE and OLD_RELEASE .. "/target/lua/luajit/consul_ffi.so"
local WITH_OLD_RELEASE = OLD_RELEASE and ("env LUA_PATH='%s/lua/?.lua;;' LUA_CPATH='%s;;'"):format(
  OLD_RELEASE, (OLD_MODULE:gsub("consul_ffi%.so$", "?.so")))

local World = {}
World.__index = World

-- Makes the writer; no node runs yet.
function World.new(folder, network)
  local old = {}
  local function around(name)
    return network and network.around(name) or old[name] and WITH_OLD_RELEASE or ""
  end
  return setmetatable({
    nodes = processes.new(folder, support.prefix, SHARDS, around),
    network = network,
    old = old,
    engine = Engine.new(config_of("writer", nil, support.prefix, SHARDS)),
    replicas = REPLICAS,
    write_quorum = WRITE_QUORUM,
    live = {},
    attempted = {},
    acknowledged = {},
    number = 0,
    written = 0,
    stored = 0,
    refused = 0,
    longest = 0,
  }, World)
end

-- Starts the first nodes, and waits until they have all shards.
function World:begin(count)
  for i = 1, count do
    self.nodes.start("n" .. i)
    self.live["n" .. i] = true
  end
  self:wait("shards on all nodes", function()
    return (self.engine.cluster.is_running or self.engine:start()) and self:is_settled()
  end, true)
  self.begun = now()
end

-- Writes some points, unless they are ahead of the rate.
function World:step()
  if self.written > (now() - self.begun) * RATE then
    self.engine:poll(5)
    return
  end
  local batch, ids, name = {}, {}, "s" .. math.random(SERIES)
  for i = 1, BATCH do
    self.number = self.number + 1
    local timestamp = math.random(TIMES)
    batch[i] = { metric_name = name, timestamp = timestamp, value = self.number }
    ids[i] = name .. " " .. timestamp
    self.attempted[ids[i]] = self.number
  end
  local begun = now()
  local written, why = self.engine:put_many(batch, "metric")
  self.longest = math.max(self.longest, now() - begun)
  self.written = self.written + BATCH
  for i, id in ipairs(written and ids or {}) do
    self.acknowledged[id] = batch[i].value
  end
  if written then
    self.stored = self.stored + BATCH
  else
    self.refused, self.why, self.refusal = self.refused + BATCH, why, why
  end
end

-- Waits until `holds`, under load unless it is idle.
function World:wait(what, holds, is_idle)
  local begun = now()
  while not holds() do
    assert(now() - begun < 300, "not within five minutes: " .. what .. "; " .. tostring(self.why))
    if is_idle then
      self.engine:poll(50)
    else
      self:step()
    end
  end
end

-- Writes until this many more points are acknowledged.
function World:load(count)
  local enough = self.stored + count
  self:wait("load", function()
    return self.stored >= enough
  end)
end

-- Writes for this number of seconds, or until `is_over`.
function World:load_for(seconds, is_over)
  local ending = now() + seconds
  while now() < ending and not (is_over and is_over()) do
    self:step()
  end
end

-- Writes until a node that was away answers again, and for up to two seconds more, so that no two are away at once.
function World:load_until_ready(name)
  self:wait_until_ready(name)
  self:load_for(2 * math.random())
end

-- The name of a live node.
function World:any()
  local names = {}
  for name in pairs(self.live) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names[math.random(#names)]
end

-- Whether all shards have all replicas, on live nodes, and nothing moves.
function World:is_settled()
  for _, shard in ipairs(self.engine:shards()) do
    for _, holder in ipairs(shard.holders) do
      if not self.live[holder] then
        return false
      end
    end
  end
  for name in pairs(self.live) do
    if self.engine:holds(name) == 0 then
      return false
    end
  end
  return self.engine:is_replicated(self.replicas)
end

-- The shards that are not settled, for errors.
function World:unsettled()
  local texts = {}
  for _, shard in ipairs(self.engine:shards()) do
    local targets = {}
    for name, kind in pairs(shard.targets) do
      targets[#targets + 1] = kind .. " to " .. name
    end
    if #targets > 0 or #shard.holders ~= self.replicas then
      texts[#texts + 1] = ("shard %d, epoch %d: on %s; %s\n"):format(
        shard.shard, shard.epoch, table.concat(shard.holders, " "), table.concat(targets, ", "))
    end
  end
  return table.concat(texts)
end

-- Writes until a node answers.
function World:wait_until_ready(name)
  self:wait(name .. " is ready", function()
    local called, ready = self.engine.cluster:call(name, "is_ready", nil, { timeout_ms = 1000, retries = 0 })
    return called and ready
  end)
end

function World:start(...)
  for _, name in ipairs({ ... }) do
    self.nodes.start(name)
  end
  for _, name in ipairs({ ... }) do
    self:wait_until_ready(name)
    self.live[name] = true
  end
end

-- Asks nodes to "stop" or "leave", all at once, and waits for their ends.
function World:finish(how, ...)
  for _, name in ipairs({ ... }) do
    assert(self.engine.cluster:call(name, "finish", how))
  end
  for _, name in ipairs({ ... }) do
    self:wait("the end of " .. name, function()
      return not self.nodes.is_alive(name)
    end)
    self.live[name] = nil
  end
end

function World:kill(name)
  self.nodes.kill(name)
  self.live[name] = nil
end

-- Kills a node, starts it without its disk and waits until its shards are settled again.
function World:lose_disk(name)
  local are_remade = shards.remade(self.engine, name)
  self:kill(name)
  self.nodes.lose_disk(name)
  self:start(name)
  self:wait("the failover of each shard of the lost disk", function()
    return are_remade() and self:is_settled()
  end)
end

-- Returns the number of acknowledged points that a read through a node does not have, or has in an older version or in
-- one never written.
function World:wrong_through(node)
  local missing, wrong = 0, 0
  for series = 1, SERIES do
    local name, values = "s" .. series, {}
    local called, rows
    self:wait("a read through " .. node, function()
      called, rows = self.engine.cluster:call(node, "read_through",
        { name = name, start_time = 0, end_time = TIMES }, { timeout_ms = 10000 })
      self.why = rows
      return called
    end, true)
    for _, row in ipairs(rows) do
      values[row.timestamp] = row.value
    end
    for timestamp = 1, TIMES do
      local id, value = name .. " " .. timestamp, values[timestamp]
      local least, most = self.acknowledged[id] or 0, self.attempted[id] or 0
      missing = missing + (least > 0 and not value and 1 or 0)
      wrong = wrong + (value and (value < least or value > most) and 1 or 0)
    end
  end
  return missing, wrong
end

-- Returns the number of acknowledged points with too few copies on the disks of their holders.
function World:too_few_copies()
  local holders, copies = {}, {}
  for _, shard in ipairs(self.engine:shards()) do
    holders[shard.shard] = {}
    for _, holder in ipairs(shard.holders) do
      holders[shard.shard][holder] = true
    end
  end
  for name in pairs(self.live) do
    local disk = Storage.open(self.nodes.disk(name))
    for _, record in ipairs(disk:run("SELECT shard, id, data FROM records WHERE data IS NOT NULL")) do
      local series, timestamp = record.id:match("^metric/([^/]+)/([%d.]+)/")
      local id = ("%s %d"):format(series, tonumber(timestamp))
      local is_current = fields.decode(record.data).value >= (self.acknowledged[id] or 0)
      if holders[record.shard][name] and is_current then
        copies[id] = (copies[id] or 0) + 1
      end
    end
    disk:close()
  end
  local few = 0
  for id in pairs(self.acknowledged) do
    few = few + ((copies[id] or 0) < self.write_quorum and 1 or 0)
  end
  return few
end

-- Looks for all acknowledged points through each node and on the disks.
function World:check()
  self:wait("settled shards", function()
    return self:is_settled()
  end, true)
  local count = 0
  for _ in pairs(self.acknowledged) do
    count = count + 1
  end
  assert(count > SERIES, count .. " points were acknowledged, too few to tell")
  local missing, wrong = 0, 0
  for name in pairs(self.live) do
    local of_node, wrong_of_node = self:wrong_through(name)
    missing, wrong = missing + of_node, wrong + wrong_of_node
  end
  local few
  self:wait("enough copies of each point after a repair", function()
    few = self:too_few_copies()
    return few == 0 or missing + wrong > 0
  end, true)
  print(("%d points acknowledged, %d writes, %d refused, the longest took %.2f s"):format(
    count, self.written, self.refused, self.longest))
  print(("%d missing, %d wrong, %d with too few copies"):format(missing, wrong, few))
  assert(missing + wrong + few == 0, "acknowledged points are lost")
end

-- Whether one node that is away stops no writes. A call may fail that meets a second one, since a node that is back may
-- be avoided for some seconds.
function World:check_service()
  assert(self.refused <= 2 * BATCH + self.written / 100, self.refusal)
end

local scenarios = {}

-- A deployment: half of the nodes are told to stop at once.
function scenarios.stops(world)
  world:begin(6)
  world.engine.timeout_ms = SHORT_MS
  for _ = 1, factor do
    world:load(400)
    world:finish("stop", "n1", "n3", "n5")
    world:load(400)
    world:start("n1", "n3", "n5")
  end
  world:check()
end

-- A node is killed and comes back, then the next one: no two miss the same writes.
function scenarios.returns(world)
  world:begin(3)
  for round = 1, 2 * factor do
    local name = "n" .. round % 3 + 1
    world:load(400)
    world:kill(name)
    world:load(400)
    world:start(name)
  end
  world:check()
end

-- A node comes back without its disk.
function scenarios.lost_disk(world)
  world:begin(4)
  for round = 1, factor do
    world:load(400)
    world:lose_disk("n" .. round % 4 + 1)
    world:check()
  end
end

-- Starts a node with the old release or with this one, and looks which module it has loaded.
local function start_with(world, name, is_old)
  world.old[name] = is_old
  world:start(name)
  assert(world.nodes.has_loaded(name, OLD_MODULE) == is_old, name .. " has the module of the other release")
end

-- Restarts the nodes n1 to n`count` with the other release, one after the other under load; no write fails. Half way, a
-- node of each release loses its disk.
local function roll(world, count, to_old)
  for i = 1, count do
    world:load(200)
    world:finish("stop", "n" .. i)
    start_with(world, "n" .. i, to_old)
    if i == count / 2 then
      world:load(200)
      assert(world.refused == 0, world.refusal)
      world:check()
      world:lose_disk("n1")
      world:lose_disk("n" .. count)
      world:check()
      world.refused = 0
    end
  end
  assert(world.refused == 0, world.refusal)
  world:check()
end

-- The nodes of an older release are upgraded one after the other, and taken back to it. The writer has this release.
function scenarios.upgrades(world)
  assert(OLD_RELEASE, "OLD_RELEASE is not set")
  local count = 4
  for i = 1, count do
    world.old["n" .. i] = true
  end
  world:begin(count)
  for i = 1, count do
    assert(world.nodes.has_loaded("n" .. i, OLD_MODULE), "this is not the module of the old release")
  end
  for _ = 1, factor do
    roll(world, count, false)
    roll(world, count, true)
  end
end

-- Each node is restarted, and no write fails.
function scenarios.rolling(world)
  local count = factor == 1 and 3 or 6
  world:begin(count)
  for round = 1, factor * count do
    local name = "n" .. round % count + 1
    world:load(100)
    world:finish("stop", name)
    world:start(name)
  end
  world:check()
  assert(world.refused == 0, world.refusal)
end

-- A node hands its shards over and leaves, another one joins, and no write fails.
function scenarios.leaves(world)
  world:begin(4)
  for round = 1, factor do
    world:load(400)
    world:finish("leave", "n" .. round)
    assert(world.engine:holds("n" .. round) == 0, "it has left, and has shards")
    world:start("n" .. round + 4)
    world:wait("the shards of the new node", function()
      return world:is_settled()
    end)
  end
  world:check()
  assert(world.refused == 0, world.refusal)
end

-- Nodes are stopped, killed and started at random; up to a quarter is away at once, so that most keys can be written.
function scenarios.churn(world)
  local count, most_away = 4, 1
  if factor > 1 then
    count, most_away = 12, 3
  end
  local away = 0
  world:begin(count)
  world.engine.timeout_ms = SHORT_MS
  local ending = now() + (factor == 1 and 6 or LONG_S)
  while now() < ending do
    local name = "n" .. math.random(count)
    if not world.live[name] then
      world:start(name)
      away = away - 1
    elseif away < most_away then
      if math.random(2) == 1 then
        world:kill(name)
      else
        world:finish("stop", name)
      end
      away = away + 1
    end
    world:load(math.random(20) * BATCH)
  end
  for i = 1, count do
    if not world.live["n" .. i] then
      world:start("n" .. i)
    end
  end
  world:check()
end

-- How long a scenario goes on that has no rounds, in seconds.
local function duration(short)
  return factor == 1 and short or LONG_S
end

-- A node stalls again and again, for up to two seconds, whatever it does at that moment.
function scenarios.stalls(world)
  world:begin(4)
  local stalls, stored, ending = 0, 0, now() + duration(4)
  while now() < ending do
    local name, before = world:any(), world.stored
    world.nodes.signal(name, "STOP")
    world:load_for(0.5 + 1.5 * math.random())
    world.nodes.signal(name, "CONT")
    stalls, stored = stalls + 1, stored + world.stored - before
    world:load_until_ready(name)
  end
  world:check()
  world:check_service()
  print(("%d points acknowledged in %d stalls"):format(stored, stalls))
  -- A writer that waits for the stalled node makes up to one call in each stall.
  assert(stored > BATCH * stalls, "writes wait for a node that stalls")
end

-- Cuts one node after the other off and connects it again: cut(name, is_cut).
local function cuts(world, cut)
  world:begin(CUT_NODES)
  local ending = now() + duration(6)
  while now() < ending do
    local name = world:any()
    cut(name, true)
    world:load_for((factor == 1 and 3 or 20) * math.random())
    cut(name, false)
    world:load_until_ready(name)
  end
  world:check()
  world:check_service()
end

function scenarios.cuts_from_peers(world)
  cuts(world, world.network.cut_from_peers)
end

function scenarios.cuts_from_consul(world)
  cuts(world, world.network.cut_from_consul)
end

-- Lets a node kill itself before or after one of the next calls of its storage (mortal.lua).
local function condemn(world, name)
  local calls = { "apply", "scan", "drop", "keep" }
  local file = assert(io.open(world.nodes.disk(name) .. ".die", "w"))
  file:write(math.random(60), " ", calls[math.random(#calls)])
  file:close()
end

-- Kills a condemned node unless it has died, counts when that was, and starts it again.
local function restart(world, name, deaths)
  local disk = world.nodes.disk(name)
  os.remove(disk .. ".die")
  world:kill(name)
  local died = io.open(disk .. ".died")
  local when = "at another moment"
  if died then
    when = died:read("*a")
    died:close()
    os.remove(disk .. ".died")
  end
  deaths[when] = (deaths[when] or 0) + 1
  world:start(name)
end

-- Shards move away from a node and back, while it or another one, a source or a target, dies in a step of a move.
function scenarios.kills_in_moves(world)
  world:begin(4)
  world.engine.timeout_ms = SHORT_MS
  local deaths, ending = {}, now() + duration(8)
  repeat
    local moving = world:any()
    for _, drains in ipairs({ true, false }) do
      local victim = math.random(2) == 1 and moving or world:any()
      world:load_for(math.random())
      condemn(world, victim)
      world:wait("a change of mode", function()
        return (world.engine.cluster.node:drain(drains, moving))
      end)
      world:load_for((factor == 1 and 3 or 9) * math.random(), function()
        return not world.nodes.is_alive(victim)
      end)
      restart(world, victim, deaths)
    end
    world:wait("settled shards", function()
      return world:is_settled()
    end)
  until now() >= ending
  for when, count in pairs(deaths) do
    print(("%d died %s"):format(count, when))
  end
  world:check()
end

-- Runs consul-ha as an operator does. Returns what it prints; what it logs is not that.
local function consul_ha(arguments)
  local command = ("%s --prefix %s %s"):format(os.getenv("OPERATOR"), support.prefix, arguments)
  local output = assert(io.popen(command))
  local text = output:read("*a")
  output:close()
  return text
end

-- Whether consul-ha says that all shards of the store have the numbers that are wanted.
local function have_numbers(world)
  if not world.engine:is_replicated(world.replicas) then
    return false
  end
  world.why = consul_ha("--json shards")
  local decoded, shown = consul_ffi.json_decode(world.why)
  local store = decoded and shown.stores and shown.stores[1]
  return store ~= nil and store.replicas == world.replicas and not store.changing
end

-- How many shards have another epoch than before: steps of a change were made.
local function steps_since(world, before)
  local count = 0
  for _, shard in ipairs(world.engine:shards()) do
    count = count + (shard.epoch ~= before[shard.shard] and 1 or 0)
  end
  return count
end

-- Lets an operator change the numbers, and kills a node when the first steps were made. Under load it waits, for as
-- long as that takes, until the change has ended. Returns whether it had not when the node died.
local function change_numbers(world, replicas, write_quorum, read_quorum, victim)
  local before = {}
  for _, shard in ipairs(world.engine:shards()) do
    before[shard.shard] = shard.epoch
  end
  local said = consul_ha(("store-set points --replicas %d --write-quorum %d --read-quorum %d"):format(
    replicas, write_quorum, read_quorum))
  assert(said:find("gets N/W/R", 1, true), said)
  world.replicas, world.write_quorum = replicas, write_quorum
  while steps_since(world, before) == 0 do
    world:step()
  end
  local name = victim()
  local in_progress = not have_numbers(world)
  world:kill(name)
  print(("%s was killed %s"):format(name, in_progress and "during the change" or "after it"))
  world:load_for(math.random())
  world:start(name)
  while not have_numbers(world) do
    world:step()
  end
  world:check()
  return in_progress
end

-- N and W grow and shrink while the leader or another node is killed.
function scenarios.numbers(world)
  local function leader()
    local found
    world:wait("a leader", function()
      found = world.engine.cluster.node:get_leader_info()
      return found and world.live[found.node_id]
    end)
    return found.node_id
  end
  local function another()
    local name = leader()
    return name == "n1" and "n2" or "n1"
  end
  world:begin(3)
  world.engine.timeout_ms = SHORT_MS
  local during = 0
  for _ = 1, factor do
    world:load(400)
    for _, change in ipairs({ { 2, 1, 2, another }, { 3, 2, 2, leader }, { 2, 1, 2, leader }, { 3, 2, 2, another } }) do
      during = during + (change_numbers(world, unpack(change)) and 1 or 0)
      world:load(200)
    end
  end
  assert(during > 0, "no node was killed during a change")
end

support.run(function()
  local seed = tonumber(os.getenv("SEED")) or os.time()
  math.randomseed(seed)
  local folder = os.tmpname()
  os.remove(folder)
  support.sh("mkdir " .. folder)
  local network = arg[1]:find("^cuts_") and islands.new(CUT_NODES)
  local world = World.new(folder, network)
  local finished, why = xpcall(scenarios[arg[1]], debug.traceback, world)
  local output = finished and "" or ("\nSEED=%d\n%s%s"):format(seed, world:unsettled(), world.nodes.output())
  world.nodes.end_all()
  world.engine:stop()
  if network then
    network.close()
  end
  support.sh("rm -r " .. folder)
  assert(finished, tostring(why) .. output)
end)
