-- Copies of values in the memory of the cluster's nodes, for reads while Consul is unreachable: replicated shards,
-- which the library serves in the background, so that the program need not poll. A copy is { key, bytes, flags,
-- index, origin }; that of a key which was deleted has no bytes.
local connection = require("consul_production.connection")

local replicas = {}
replicas.__index = replicas

-- The values of a manager are few, and a node that has lost its memory gets a few shards back sooner than many.
local SHARDS = 16

-- How long a write waits for its quorum before the shards are looked at again.
local ATTEMPT_MS = 1000

-- The epoch of the cluster's shard map grows by steps of at least this when Consul has lost its data.
local EPOCH_GAP = 1000

-- Of two copies of a key the one with the higher index is newer, as long as Consul has not lost its data between them.
-- The nodes' epochs may differ a little at any moment.
local function newest(one, other)
  if math.abs(one.epoch - other.epoch) >= EPOCH_GAP then
    return one.epoch > other.epoch and one or other
  end
  return one.index >= other.index and one or other
end

-- Encodes a copy as one string, because JSON cannot hold all bytes.
local function packed(copy)
  local flags = copy.bytes and ("%d"):format(copy.flags) or "deleted"
  return ("%d %d %s %s\n"):format(copy.epoch, copy.index, flags, copy.origin or "-") .. (copy.bytes or "")
end

local function unpacked(text)
  local epoch, index, flags, origin, from = text:match("^(%d+) (%d+) (%w+) (%S+)\n()")
  return { epoch = tonumber(epoch), index = tonumber(index), flags = tonumber(flags), origin = origin,
    bytes = flags ~= "deleted" and text:sub(from) or nil }
end

-- The most keys whose copies a process remembers as equal to Consul's.
local MAX_KNOWN = 10000

-- How long copies are not compared with Consul after that has failed, in seconds.
local PAUSE_S = 10

-- The name of the store: nodes with other numbers of replicas have another one.
function replicas.name(values)
  return ("values-%d-%d-%d"):format(connection.quorums(values))
end

-- Removes what Consul knows of the store of an earlier cluster, all of whose nodes are gone, with their memory.
local function forget(client, values, name)
  local nodes_prefix = (values["storage.metadata_prefix"] .. "nodes"):gsub("^/+", "")
  local prefix = (nodes_prefix:match("^.*/") or "") .. "shards/"
  client:kv_delete(prefix .. "maps/" .. name)
  client:kv_delete_tree(prefix .. "members/" .. name .. "/")
end

-- Takes part in the store with a node that is started; nil and a message when that is not possible.
function replicas.open(client, node, values)
  local name, factor, write_quorum, read_quorum = replicas.name(values), connection.quorums(values)
  if #node:get_live_nodes() == 1 then
    forget(client, values, name)
  end
  local opened, store = pcall(node.replicate, node, name, nil, {
    shards = SHARDS,
    replicas = factor,
    write_quorum = write_quorum,
    read_quorum = read_quorum,
  })
  if not opened then
    return nil, store
  end
  local origin_key = (values["storage.metadata_prefix"] .. "origin"):gsub("^/+", "")
  return setmetatable({ client = client, node = node, store = store, origin_key = origin_key,
    known = {}, count = 0, failed_at = -PAUSE_S }, replicas)
end

-- Lets shards that have lost too many replicas go on with the remaining ones, because the values are in Consul.
function replicas:_go_on()
  local success, shards = self.store:status()
  for _, shard in ipairs(success and shards or {}) do
    local is_stuck = false
    for _, change in pairs(shard.targets) do
      is_stuck = is_stuck or change == "failover"
    end
    if shard.at_risk and is_stuck and not self.store:accept_loss(shard.shard) then
      return
    end
  end
end

-- Returns a text that Consul loses with all its data: a key of a copy of another origin was not deleted. nil if Consul
-- does not answer.
function replicas:origin()
  local options = { consistent = true, timeout_ms = ATTEMPT_MS }
  for _ = 1, 2 do
    local success, text = self.client:kv_get(self.origin_key, options)
    if not success or text then
      return success and text or nil
    end
    local id = self.node.node_id:gsub("%s", "_")
    local random = ("%s-%d-%d"):format(id, os.time(), math.random(2 ^ 30))
    self.client:kv_put(self.origin_key, random, { cas = 0, timeout_ms = ATTEMPT_MS })
  end
end

-- Notes that the copy of a key is of this index. A deleted key has none: it may be there again and be
-- deleted again without that this process reads it.
function replicas:_note(copy)
  if self.count >= MAX_KNOWN then
    self.known, self.count = {}, 0
  end
  self.count = self.count + (self.known[copy.key] and 0 or 1)
  self.known[copy.key] = copy.bytes and copy.index or 0
end

-- Replaces the older copy of a key, if it has one, by what Consul has answered at `now` seconds: another program may
-- have written or deleted the key.
function replicas:follow(seen, now, timeout_ms)
  local epoch = self.node:status().map_epoch
  if not epoch or seen.bytes and self.known[seen.key] == seen.index or now < self.failed_at + PAUSE_S then
    return
  end
  local copy, message = self:read(seen.key, math.min(timeout_ms, ATTEMPT_MS))
  local is_written = true
  if copy and (copy.bytes or seen.bytes) then
    seen.origin = self:origin()
    local has_lost_data = seen.origin ~= copy.origin
    local is_newer = copy.index < seen.index or math.abs(copy.epoch - epoch) >= EPOCH_GAP
    if not seen.origin or not (is_newer or has_lost_data) then
      -- Or a server that lags has answered.
      return
    elseif seen.bytes or not has_lost_data then
      is_written = self:write(seen, math.min(timeout_ms, ATTEMPT_MS))
    end
  end
  if message or not is_written then
    self.failed_at = now
  else
    self:_note(seen)
  end
end

-- Writes a copy. Returns true; false, a message and an error table.
function replicas:write(copy, timeout_ms)
  copy.epoch = self.node:status().map_epoch or 0
  -- Each node has a record of its own, so that none replaces the copy of a later value by that of an earlier one.
  local record = { id = copy.key .. "\0" .. self.node.node_id, data = packed(copy) }
  local written, message, err
  repeat
    local attempt_ms = math.min(timeout_ms, ATTEMPT_MS)
    timeout_ms = timeout_ms - attempt_ms
    written, message, err = self.store:write(copy.key, { record }, { timeout_ms = attempt_ms })
    if not written and err.kind == "not_ready" then
      self:_go_on()
    end
  until written or err.kind ~= "not_ready" or timeout_ms <= 0
  if written then
    self:_note(copy)
  end
  return written, message, err
end

-- Returns the newest copy of a key, which has no NUL, if there is one; nil, a message and an error table when it cannot
-- be read.
function replicas:read(key, timeout_ms)
  local found
  local range = { from = key .. "\0", to = key .. "\1", timeout_ms = timeout_ms }
  for record, message, err in self.store:read(key, range) do
    if not record then
      return nil, message, err
    end
    local copy = unpacked(record.data)
    found = found and newest(copy, found) or copy
  end
  return found
end

-- Returns the ids of the nodes that have the replicas of a key.
function replicas:nodes(key)
  local success, shards = self.store:status(key)
  return success and shards[1] and shards[1].holders or {}
end

-- Returns why values cannot be replicated now, or nil.
function replicas:trouble()
  local success, shards = self.store:status()
  if not success then
    return shards
  elseif #shards == 0 then
    return "no node has replicas yet: the nodes have just started, or there are fewer than the quorums require"
  end
  local at_risk = 0
  for _, shard in ipairs(shards) do
    at_risk = at_risk + (shard.at_risk and 1 or 0)
  end
  if at_risk > 0 then
    return ("%d of %d shards have too few live replicas"):format(at_risk, #shards)
  end
end

return replicas
