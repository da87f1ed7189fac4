-- Values in Consul and, when there are replicas, on the cluster's nodes.
local connection = require("consul_production.connection")
local replicas = require("consul_production.replicas")
local values = require("consul_production.values")

local data = {}

-- Has what a key now has on the nodes of the key, and notes in Consul which of them have it. It is read first,
-- because only so value and index belong together.
local function replicate(session, full, factor, timeout_ms)
  local success, bytes, meta = session:call("kv_get", full, { consistent = true, timeout_ms = timeout_ms })
  if not success then
    return false, "stored in Consul, but not on the nodes: " .. bytes, meta
  elseif bytes == nil then
    local message = "stored in Consul, and deleted by somebody at once"
    return false, message, { kind = "not_found", message = message, retryable = false, maybe_applied = true }
  end
  local copy = { key = full, bytes = bytes, flags = meta.flags, index = meta.modify_index }
  local done, outcome, lists = replicas.write(session.node, copy, factor, {
    quorum = session.values["cluster.write_quorum"],
    timeout_ms = timeout_ms,
  })
  local notes = { { KV = { Verb = "delete-tree", Key = full .. "/replicas/" } } }
  for _, id in ipairs((done and outcome or lists).acknowledged) do
    table.insert(notes, {
      KV = { Verb = "set", Key = full .. "/replicas/" .. id, Value = tostring(copy.index) },
    })
  end
  session:call("txn", notes, { timeout_ms = timeout_ms })
  if not done then
    local message = "stored in Consul, but not on enough nodes: " .. outcome
    return false, message, { kind = "timeout", message = message, retryable = true, maybe_applied = true }
  end
  return true, outcome
end

-- Gives true and { acknowledged, missing }, ids of nodes, with `not_in_force` when copies were asked for and there
-- are none; else false, a message and an error table.
function data.store(session, key, value, given)
  local full = session.values["storage.kv_prefix"] .. key
  local timeout_ms = session.values["cluster.write_timeout"] * 1000
  local success, outcome, err = session:call("kv_put", full, value, {
    flags = values.flags(value),
    timeout_ms = timeout_ms,
  })
  if success then
    outcome = {
      acknowledged = {},
      missing = {},
      not_in_force = given.replication_factor and connection.NO_REPLICAS or nil,
    }
    if session.replicas then
      local factor = given.replication_factor or session.values["cluster.replication_factor"]
      success, outcome, err = replicate(session, full, factor, timeout_ms)
    end
  end
  session:record("store_data", key, success and "ok" or err.kind)
  if success then
    return true, outcome
  end
  return false, outcome, err
end

-- What Consul has; nil, a message and an error table when there is nothing or it cannot be read.
local function read(session, full, given, timeout_ms)
  local mode = given.consistency or session.values["storage.kv_consistency"]
    or session.values["cluster.consistency_mode"]
  local asked = { timeout_ms = timeout_ms }
  -- The default is said too, because the client may have another one.
  asked[mode == "default" and "stale" or mode] = mode ~= "default"
  local success, bytes, extra = session:call("kv_get", full, asked)
  if not success then
    return nil, bytes, extra
  elseif bytes == nil then
    local message = ("there is no key %q"):format(full)
    return nil, message, { kind = "not_found", message = message, retryable = false }
  end
  return values.decode(bytes, extra.flags)
end

-- Kinds of errors for which another copy may be asked: Consul has said nothing.
local SILENT = { connect = true, timeout = true, no_leader = true, http = true, tls = true, rate_limited = true }

-- Gives the value; nil, a message and an error table when there is none. When Consul says nothing, the newest
-- copy of the nodes and { complete, answered, missing }.
function data.read(session, key, given)
  local full = session.values["storage.kv_prefix"] .. key
  local timeout_ms = session.values["cluster.read_timeout"] * 1000
  local value, message, err = read(session, full, given, timeout_ms)
  local result = err and err.kind or "ok"
  if value == nil and session.replicas and SILENT[err.kind] then
    local copy, outcome = replicas.read(session.node, full, session.values["cluster.replication_factor"], {
      quorum = session.values["cluster.read_quorum"],
      timeout_ms = timeout_ms,
    })
    if copy then
      value, message, err, result = values.decode(copy.bytes, copy.flags), outcome, nil, "replica"
    elseif type(outcome) == "string" then
      message = message .. "; " .. outcome
      err.message = message
    end
  end
  session:record("read_data", key, result)
  return value, message, err
end

return data
