-- Writes a history of single records as JSON, one operation per line, for checker/, whose main.go has the format:
-- clients write, delete and read them on four processes that are killed, stalled, cut off, have wrong clocks and full
-- disks, lose power or a disk.
--
--   CONSUL_HTTP_ADDR=… luajit tests/programs/replicated/histories.lua FILE
--
-- SEED chooses the disturbances and operations, HISTORY_SECONDS is how long it goes on (300). FILE.events says when
-- each disturbance begins and ends, by the clock of the history. With CUTS=1 this process and Consul are in a network
-- namespace of their own (islands.lua), and nodes are cut off. Without cc no clock is wrong, no disk is full and no
-- machine loses power; without mount namespaces a machine that loses power has the same boot id after it. Missing parts
-- are in a line that begins with SKIPPED. With FORGETFUL=writes storages drop some: then the check must find
-- violations. With FORGETFUL=power they do not sync: then it must, or shards wait in the end for disks that are gone.
--
-- All of it is within the promise of docs/data.md: disks keep what was synced, one disk at a time is lost and the next
-- one after a repair, and the clocks of two nodes differ by less than max_skew_s, but for a node that is an hour ahead.
-- Of such nodes there is one at a time, and a while between two.

local own_folder = arg[0]:match("^.*/")
package.path = own_folder .. "../../?.lua;" .. package.path

local ffi = require("ffi")
local Engine = require("examples.tsdb.engine")
local config_of = require("examples.tsdb.config")
local processes = require("examples.tsdb.processes")
local support = require("examples.support")
local islands = require("tests.programs.replicated.islands")
local shards = require("tests.programs.replicated.shards")

support.simulate = false

local SECONDS = tonumber(os.getenv("HISTORY_SECONDS") or 300)
local NODES, REPLICAS, SHARDS = 4, 3, 16
-- In seconds, as config.lua has it.
local REPAIR_S = SHARDS / 4

local CLIENTS, KEYS, IDS = 16, 12, 3
-- Of the records, some have most operations for a while.
local HOT, HOT_S = 5, 8
-- The longest pause of a client, the time limit of a call of the store, and that of a call through a node, which also
-- outlasts a stall.
local PAUSE_MS, STORE_MS, NODE_MS = 120, 2000, 12000

-- The most by which a clock is off, so that two differ by less than max_skew_s; and a clock that is far ahead.
local OFF_US, FAR_US = 950000, 3600 * 1000000
-- The pause after a node was far ahead, so that no other one still counts with its time.
local FAR_PAUSE_S = 10

ffi.cdef([[
  typedef struct { long seconds, nanoseconds; } histories_time;
  int clock_gettime(int clock, histories_time *time);
]])
local MONOTONIC, time = 1, ffi.new("histories_time")

-- The time in microseconds, by one clock for all clients.
local function now_us()
  ffi.C.clock_gettime(MONOTONIC, time)
  return tonumber(time.seconds) * 1000000 + math.floor(tonumber(time.nanoseconds) / 1000)
end

local function now()
  return now_us() / 1000000
end

local function succeeds(command)
  local status = os.execute(command .. " >/dev/null 2>&1")
  return status == true or status == 0
end

local function skip(what, why)
  print(("SKIPPED: %s: %s"):format(what, why))
end

-- Texts as JSON: those here have no control characters but in messages, which are not written.
local function quoted(text)
  return text and '"' .. text:gsub('[\\"]', "\\%0") .. '"' or "null"
end

-- Writes a file whole.
local function save(name, bytes)
  local file = assert(io.open(name, "wb"))
  file:write(bytes)
  file:close()
end

local World = {}
World.__index = World

function World.new(folder, output)
  local world = setmetatable({
    folder = folder,
    output = assert(io.open(output, "w")),
    events = assert(io.open(output .. ".events", "w")),
    live = {},
    busy = {},
    active = {},
    clock_us = {},
    disturbances = {},
    counts = {},
    number = 0,
    clients = {},
    records = {},
  }, World)
  if os.getenv("CUTS") == "1" then
    world.network = islands.new(NODES)
  else
    skip("cuts", "CUTS is not 1, this is not a network namespace of its own")
  end
  local library = folder .. "/disturbed.so"
  if succeeds(("cc -O1 -shared -fPIC -o %s %sdisturbed.c -ldl"):format(library, own_folder)) then
    world.library = library
  else
    skip("clocks, full disks and machines that lose power", "cc is missing, or cannot make a library")
  end
  world.has_boots = succeeds("unshare --mount true")
  if not world.has_boots then
    skip("boot ids", "a mount namespace cannot be had")
  end
  world.nodes = processes.new(folder, support.prefix, SHARDS, function(name)
    return world:around(name)
  end)
  for i = 1, NODES do
    local name = "n" .. i
    world.clock_us[name] = 0
    save(folder .. "/" .. name .. ".disturbed", ("\0"):rep(32))
    world:new_boot(name)
  end
  for key = 1, KEYS do
    for id = 1, IDS do
      table.insert(world.records, { key = "k" .. key, id = ("k%d/%d"):format(key, id) })
    end
  end
  for i = 1, CLIENTS do
    world.clients[i] = { number = i, free = 0 }
  end
  world.engine = Engine.new(config_of("clients", nil, support.prefix, SHARDS))
  return world
end

-- The beginning of a node's command.
function World:around(name)
  local file = self.folder .. "/" .. name
  local parts = { self.network and self.network.around(name) or "" }
  if self.has_boots then
    local bind = "mount --bind %s.boot /proc/sys/kernel/random/boot_id"
    table.insert(parts, ("unshare --mount sh -c '" .. bind .. " && exec \"$@\"' sh"):format(file))
  end
  table.insert(parts, ("env LUA_INIT=@%sdisturbed.lua DISTURBED=%s.disturbed"):format(own_folder, file))
  if self.library then
    table.insert(parts, "LD_PRELOAD=" .. self.library)
  end
  return table.concat(parts, " ")
end

-- The next start of a node is after one of its machine.
function World:new_boot(name)
  local digits = {}
  for i = 1, 32 do
    digits[i] = ("%x"):format(math.random(0, 15))
  end
  local id = table.concat(digits):gsub("^(........)(....)(....)(....)", "%1-%2-%3-%4-")
  save(self.folder .. "/" .. name .. ".boot", id .. "\n")
end

-- Sets one of the numbers of disturbed.c, or returns it: 0 is the clock, 1 the full disk, 3 what is synced.
function World:disturb(name, index, value)
  local file = assert(io.open(self.folder .. "/" .. name .. ".disturbed", "r+b"))
  file:seek("set", 8 * index)
  local number = ffi.new("int64_t[1]", value or 0)
  if value then
    file:write(ffi.string(number, 8))
  else
    ffi.copy(number, file:read(8), 8)
  end
  file:close()
  return tonumber(number[0])
end

function World:count(what)
  self.counts[what] = (self.counts[what] or 0) + 1
end

-- Writes an operation that has ended; without `ending` it had no answer.
function World:log(client, op, record, value, begun, ending, result, version)
  local line = '{"client":%d,"op":"%s","key":%s,"id":%s,"value":%s,"start_us":%.0f,"end_us":%s,"result":"%s",'
    .. '"through":%s,"version":%s}\n'
  self.output:write(line:format(client.number, op, quoted(record.key), quoted(record.id), quoted(value), begun,
    ending and ("%.0f"):format(ending) or "null", result, quoted(client.through), quoted(version)))
  self:count(op .. " " .. result)
end

-- Begins a call: through the node `through`, or from this process. `finish(ending, result, response)` is called at its
-- end. A read that has another page was not complete in one call: its deadline has come meanwhile.
function World:call(client, through, method, key, what, finish)
  local handle
  client.through = through
  if through then
    handle = self.engine.cluster.node:start("call", through, "record",
      { method = method, key = key, what = what, timeout_ms = STORE_MS }, { timeout_ms = NODE_MS, retries = 0 })
  elseif method == "read" then
    what.timeout_ms = STORE_MS
    handle = self.engine.points:start("read", key, what)
  else
    handle = self.engine.points:start(method, key, what, { timeout_ms = STORE_MS })
  end
  client.running = function()
    local done, success, response, err = handle:poll()
    if not done then
      return
    end
    local ending = now_us()
    handle:close()
    client.running = nil
    if success and not through then
      response = { ok = true, response = response, next = method == "read" and err and err.next }
    elseif not through then
      success, response = true, { is_refused = err ~= nil and err.maybe_applied == false }
    end
    if success and response.next then
      self:count("reads with another page")
      finish(ending, "incomplete")
    elseif success then
      finish(ending, response.ok and "ok" or response.is_refused and "refused" or "failed", response.response)
    elseif err and err.maybe_applied == false then
      -- The call did not reach the node.
      finish(ending, "refused")
    else
      finish(nil, "unknown")
    end
  end
end

-- Begins a read of one record, or of all of its key, and logs it.
function World:read(client, through, record, is_whole, is_done)
  local what = { from = record.id, to = record.id .. "\0" }
  if is_whole then
    what = { from = record.key .. "/", to = record.key .. "0" }
  end
  local begun = now_us()
  self:call(client, through, "read", record.key, what, function(ending, result, records)
    local found = {}
    for _, one in ipairs(result == "ok" and records or {}) do
      found[one.id] = one
    end
    result = result == "ok" and "ok" or result == "unknown" and "unknown" or "incomplete"
    for _, one in ipairs(self.records) do
      if one == record or is_whole and one.key == record.key then
        local it = found[one.id] or {}
        self:log(client, "read", one, it.data, begun, ending, result, it.version)
      end
    end
    if is_done then
      is_done(result == "ok")
    end
  end)
end

-- Begins the next operation of a client, at random.
function World:operate(client)
  local record = self.records[math.random(#self.records)]
  if math.random() < 0.7 then
    record = self.hot[math.random(#self.hot)]
  end
  local through = math.random() < 0.6 and "n" .. math.random(NODES) or nil
  local kind, begun = math.random(), now_us()
  if kind < 0.5 then
    self:read(client, through, record, math.random() < 0.2)
  elseif kind < 0.92 then
    self.number = self.number + 1
    local value = "v" .. self.number
    local records = { { id = record.id, data = value } }
    self:call(client, through, "write", record.key, records, function(ending, result, version)
      self:log(client, "write", record, value, begun, ending, result, version)
    end)
  else
    self:call(client, through, "delete", record.key, { record.id }, function(ending, result, version)
      self:log(client, "delete", record, nil, begun, ending, result, version)
    end)
  end
end

-- Goes on with all clients, which begin new operations unless they are to end; returns whether any is at work.
function World:step(is_ending)
  self.engine:poll(2)
  local is_any = false
  for _, client in ipairs(self.clients) do
    if client.running then
      client.running()
    elseif not is_ending and now() >= client.free then
      self:operate(client)
    end
    if client.running then
      is_any = true
      client.free = now() + math.random() * PAUSE_MS / 1000
    end
  end
  return is_any
end

-- Waits until `holds`, for up to `limit` seconds, without new operations unless it is under load. Returns whether it
-- holds.
function World:wait(limit, holds, is_under_load)
  local ending = now() + limit
  while not holds() do
    if now() > ending then
      return false
    end
    self:step(not is_under_load)
  end
  return true
end

-- Whether all shards have all replicas, on live nodes, and nothing moves.
function World:is_settled()
  for i = 1, NODES do
    if not self.live["n" .. i] or self.engine:holds("n" .. i) == 0 then
      return false
    end
  end
  return self.engine:is_replicated(REPLICAS)
end

function World:start(name)
  self.nodes.start(name)
  self.live[name] = true
end

function World:kill(name)
  self.nodes.kill(name)
  self.live[name] = false
  while self.nodes.is_alive(name) do
    support.sh("sleep 0.01")
  end
end

-- Ends a node as the end of its machine does: what was not synced to its disk is gone.
function World:cut_power(name)
  self:kill(name)
  local log = self.nodes.disk(name) .. "-wal"
  local synced = self:disturb(name, 3)
  local file = io.open(log)
  if file then
    local size = file:seek("end")
    file:close()
    if size > synced then
      -- A log that was written over has older bytes behind; they do not count.
      self:count("logs cut")
      support.sh(("truncate --size %d %s"):format(synced, log))
    end
  end
  -- A map of the log in shared memory.
  os.remove(self.nodes.disk(name) .. "-shm")
  self:new_boot(name)
end

-- Whether a node has reported that it is ready; asks it in the background.
function World:is_ready(name)
  self.asked = self.asked or {}
  local handle = self.asked[name]
  if not handle then
    self.asked[name] = self.engine.cluster.node:start("call", name, "ready", {}, { timeout_ms = 1000, retries = 0 })
    return false
  end
  local done, success, response = handle:poll()
  if done then
    handle:close()
    self.asked[name] = nil
  end
  return done and success and response == true
end

-- The disturbances. Each function begins one of a node, and returns how many seconds it lasts, and what ends it;
-- `is_over` then tells when the next one may have the node.
local kinds = {}

local function back(world, name)
  return function()
    world:start(name)
  end, function()
    return world:is_ready(name)
  end
end

function kinds.kill(world, name)
  world:kill(name)
  return 3 * math.random(), back(world, name)
end

-- The node ends itself within a call of its storage.
function kinds.die(world, name)
  local calls = { "apply", "apply", "apply", "scan", "keep" }
  save(world.nodes.disk(name) .. ".die", ("%d %s"):format(math.random(20), calls[math.random(#calls)]))
  local start, is_ready = back(world, name)
  return 3, function()
    os.remove(world.nodes.disk(name) .. ".die")
    world:count(world.nodes.is_alive(name) and "killed outside of a call" or "killed in a call of the storage")
    world:kill(name)
    start()
  end, is_ready
end

function kinds.stall(world, name)
  world.nodes.signal(name, "STOP")
  return 0.3 + 4 * math.random(), function()
    world.nodes.signal(name, "CONT")
  end
end

function kinds.cut_from_peers(world, name)
  world.network.cut_from_peers(name, true)
  return 6 * math.random(), function()
    world.network.cut_from_peers(name, false)
  end
end

function kinds.cut_from_consul(world, name)
  world.network.cut_from_consul(name, true)
  return 6 * math.random(), function()
    world.network.cut_from_consul(name, false)
  end
end

-- The clock jumps, and stays so.
function kinds.clock(world, name)
  world.clock_us[name] = math.random(-OFF_US, OFF_US)
  world:disturb(name, 0, world.clock_us[name])
  return 0, function() end
end

function kinds.clock_far_ahead(world, name)
  world:disturb(name, 0, FAR_US)
  return 0.5 + 3 * math.random(), function()
    world:disturb(name, 0, world.clock_us[name])
    world.far_ahead_from = now() + FAR_PAUSE_S
  end
end

function kinds.full_disk(world, name)
  world:disturb(name, 1, math.random(2))
  return 0.5 + 3 * math.random(), function()
    world:disturb(name, 1, 0)
  end
end

function kinds.machine(world, name)
  world:cut_power(name)
  return 3 * math.random(), back(world, name)
end

-- All machines lose power at once.
function kinds.all_machines(world)
  for i = 1, NODES do
    world:cut_power("n" .. i)
  end
  return 2 * math.random(), function()
    for i = 1, NODES do
      world:start("n" .. i)
    end
  end, function()
    return world:is_settled()
  end
end

-- A node comes back without its disk. It is over when each of its replicas was made again, and after a repair.
function kinds.lost_disk(world, name)
  local are_remade, settled = shards.remade(world.engine, name)
  world:kill(name)
  world.nodes.lose_disk(name)
  return 0, function()
    world:start(name)
  end, function()
    settled = settled or are_remade() and world:is_settled() and now()
    return settled and now() > settled + 3 * REPAIR_S
  end
end

-- How often each is chosen, and those that have all nodes for themselves.
local WEIGHTS = { kill = 3, die = 3, stall = 3, cut_from_peers = 4, cut_from_consul = 2, clock = 6, clock_far_ahead = 2,
  full_disk = 4, machine = 4, all_machines = 1, lost_disk = 1 }
local IS_ALONE = { all_machines = true, lost_disk = true }
-- Those that only one node has at once. Of two nodes that are far ahead, each would take the other's versions of the
-- future; and two that are cut from their peers share what is cut (islands.lua).
local IS_SINGLE = { clock_far_ahead = true, cut_from_peers = true }
-- How long the nodes may take after one, in seconds; a longer time is told at the end.
local OVER_S = 60

function World:choices()
  local names = {}
  for kind, weight in pairs(WEIGHTS) do
    local needs_network = kind:find("^cut") ~= nil
    local needs_library = kind:find("clock") or kind == "full_disk" or kind:find("machine")
    if (self.network or not needs_network) and (self.library or not needs_library) then
      for _ = 1, weight do
        names[#names + 1] = kind
      end
    end
  end
  table.sort(names)
  return names
end

-- Notes what happens to a node, for those who look for the cause of a violation.
function World:note(kind, name, what)
  self.events:write(("%.6f s: %s of %s %s\n"):format(now(), kind, name, what))
end

-- Begins a disturbance if it is time, and ends those whose time is over. Up to two nodes are disturbed at once.
function World:disturb_at_random(is_ending)
  for i = #self.active, 1, -1 do
    local one = self.active[i]
    if one.finish and now() >= one.ending then
      one.finish()
      self:note(one.kind, one.name, "ends")
      one.finish, one.limit = nil, now() + OVER_S
    elseif not one.finish and (not one.is_over or one.is_over() or now() > one.limit) then
      if one.is_over and now() > one.limit then
        self:count("not over in time: " .. one.kind)
      end
      self:note(one.kind, one.name, "is over")
      table.remove(self.active, i)
      self.busy[one.name] = nil
    end
  end
  if is_ending or now() < (self.next or 0) then
    return
  end
  self.chosen = self.chosen or self.all_choices[math.random(#self.all_choices)]
  local name = "n" .. math.random(NODES)
  local is_alone = IS_ALONE[self.chosen]
  local alone = self.active[1] and IS_ALONE[self.active[1].kind]
  for _, one in ipairs(self.active) do
    alone = alone or IS_SINGLE[one.kind] and one.kind == self.chosen
  end
  alone = alone or self.chosen == "clock_far_ahead" and now() < (self.far_ahead_from or 0)
  if self.busy[name] or alone or #self.active >= (is_alone and 1 or 2) then
    return
  end
  local kind = self.chosen
  local seconds, finish, is_over = kinds[kind](self, name)
  self.busy[name] = true
  table.insert(self.active, { kind = kind, name = name, ending = now() + seconds, finish = finish, is_over = is_over })
  self:note(kind, name, ("begins, for %.3f s"):format(seconds))
  self.disturbances[kind] = (self.disturbances[kind] or 0) + 1
  self.chosen, self.next = nil, now() + 2 * math.random()
end

-- Reads each record through each node and from here, until all reads are complete.
function World:read_all()
  local left = {}
  for i = 0, NODES do
    for _, record in ipairs(self.records) do
      table.insert(left, { through = i > 0 and "n" .. i or nil, record = record })
    end
  end
  local pending = #left
  return self:wait(60, function()
    for _, client in ipairs(self.clients) do
      local one = not client.running and table.remove(left)
      if one then
        self:read(client, one.through, one.record, false, function(is_complete)
          pending = pending - (is_complete and 1 or 0)
          if not is_complete then
            table.insert(left, one)
          end
        end)
      end
    end
    return pending == 0
  end)
end

local function listed(counts)
  local names, texts = {}, {}
  for name in pairs(counts) do
    names[#names + 1] = name
  end
  table.sort(names)
  for i, name in ipairs(names) do
    texts[i] = ("%d %s"):format(counts[name], name)
  end
  return table.concat(texts, ", ")
end

function World:run()
  for i = 1, NODES do
    self:start("n" .. i)
  end
  local function polled(holds)
    return function()
      self.engine:poll(20)
      return holds()
    end
  end
  assert(self:wait(300, polled(function()
    return (self.engine.cluster.is_running or self.engine:start()) and self:is_settled()
  end)), "the nodes have not all shards within five minutes")
  self.all_choices = self:choices()
  local ending, told, hot = now() + SECONDS, now() + 30, 0
  while now() < ending do
    if now() >= hot then
      hot, self.hot = now() + HOT_S, {}
      for i = 1, HOT do
        self.hot[i] = self.records[math.random(#self.records)]
      end
    end
    self:step()
    self:disturb_at_random()
    if now() > told then
      told = now() + 30
      print(("%.0f s left: %s"):format(ending - now(), listed(self.disturbances)))
      io.stdout:flush()
    end
  end
  assert(self:wait(2 * OVER_S, function()
    self:disturb_at_random(true)
    return #self.active == 0
  end, true), "the disturbances are not over")
  for i = 1, NODES do
    if self.library then
      self:disturb("n" .. i, 0, 0)
    end
  end
  assert(self:wait(60, function()
    return self:is_settled()
  end), "the shards have not all replicas a minute after the last disturbance")
  local ready = now() + 2 * REPAIR_S
  self:wait(4 * REPAIR_S, function()
    return now() > ready
  end)
  assert(self:wait(NODE_MS / 500, function()
    return not self:step(true)
  end), "calls do not end")
  assert(self:read_all(), "not every record can be read a minute after all is healed")
  print("operations: " .. listed(self.counts))
  print("disturbances: " .. listed(self.disturbances))
end

support.run(function()
  local seed = tonumber(os.getenv("SEED")) or os.time()
  math.randomseed(seed)
  local folder = os.tmpname()
  os.remove(folder)
  support.sh("mkdir " .. folder)
  local world = World.new(folder, assert(arg[1], "the name of a file for the history is missing"))
  local finished, why = xpcall(world.run, debug.traceback, world)
  world.output:close()
  world.events:close()
  local output = finished and "" or ("\nSEED=%d\n%s"):format(seed, world.nodes.output())
  world.nodes.end_all()
  world.engine:stop()
  if world.network then
    world.network.close()
  end
  support.sh("rm -r " .. folder)
  assert(finished, tostring(why) .. output)
end)
