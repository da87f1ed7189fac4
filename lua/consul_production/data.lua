-- Stores and reads values in Consul and, with replicas, on the cluster's nodes.
local connection = require("consul_production.connection")
local values = require("consul_production.values")

local data = {}

-- Copies the key's current value to the nodes of the key, and records in Consul which nodes these are. Reads the key
-- first, so that value and index belong to the same write. Returns true and the ids of the nodes.
local function replicate(session, full, timeout_ms)
  local success, bytes, meta = session:call("kv_get", full, { consistent = true, timeout_ms = timeout_ms })
  if not success then
    return false, "stored in Consul, but not on the nodes: " .. bytes, meta
  elseif bytes == nil then
    local message = "stored in Consul, but another client deleted the key before it was copied to the nodes"
    return false, message, { kind = "not_found", message = message, retryable = false, maybe_applied = true }
  end
  local copy = { key = full, bytes = bytes, flags = meta.flags, index = meta.modify_index }
  local written, message, err = session.replicas:write(copy, timeout_ms)
  if not written then
    err.message, err.maybe_applied = "stored in Consul, but not on enough nodes: " .. message, true
    return false, err.message, err
  end
  local nodes = session.replicas:nodes(full)
  local operations = { { KV = { Verb = "delete-tree", Key = full .. "/replicas/" } } }
  for _, id in ipairs(nodes) do
    table.insert(operations, {
      KV = { Verb = "set", Key = full .. "/replicas/" .. id, Value = tostring(copy.index) },
    })
  end
  session:call("txn", operations, { timeout_ms = timeout_ms })
  return true, nodes
end

-- Returns false, the message and an error table for an argument that is not allowed.
local function refused(message, ...)
  message = ("store_data: " .. message):format(...)
  return false, message, { kind = "argument", message = message, retryable = false, maybe_applied = false }
end

-- Returns why the replication_factor of a call has no effect, or nil.
local function not_in_force(session, given)
  local factor = session.values["cluster.replication_factor"]
  if not given or given == 1 or session.replicas and given == factor then
    return nil
  end
  return session.replicas and ("cluster.replication_factor is %d, and each value has as many replicas"):format(factor)
    or connection.NO_REPLICAS
end

-- Returns true and { nodes }, the ids of the nodes with replicas, with `not_in_force` when another number of them was
-- requested; else false, a message and an error table.
function data.store(session, key, value, given)
  if key:find("/replicas/", 1, true) then
    return refused('the key %q has "/replicas/": such keys name the nodes with replicas of a value', key)
  end
  local full = session.values["storage.kv_prefix"] .. key
  local timeout_ms = session.values["cluster.write_timeout"] * 1000
  local factor = given.replication_factor or session.values["cluster.replication_factor"]
  local has_copies, quorum = session.replicas and factor > 1, session.values["cluster.write_quorum"]
  if has_copies and quorum > factor then
    return refused("replication_factor is %d, less than cluster.write_quorum, which is %d; "
      .. "1 stores the value in Consul only", factor, quorum)
  end
  local success, outcome, err = session:call("kv_put", full, value, {
    flags = values.flags(value),
    timeout_ms = timeout_ms,
  })
  if success then
    outcome = {}
    if has_copies then
      success, outcome, err = replicate(session, full, timeout_ms)
    end
  end
  session:record("store_data", key, success and "ok" or err.kind)
  if success then
    return true, { nodes = outcome, not_in_force = not_in_force(session, given.replication_factor) }
  end
  return false, outcome, err
end

-- Returns the value in Consul; nil, a message and an error table when there is no such key or the read fails.
local function read(session, full, given, timeout_ms)
  local mode = given.consistency or session.values["storage.kv_consistency"]
    or session.values["cluster.consistency_mode"]
  -- Both are passed, because the client may be configured otherwise.
  local read_options = { timeout_ms = timeout_ms, stale = mode == "stale", consistent = mode == "consistent" }
  local success, bytes, extra = session:call("kv_get", full, read_options)
  if not success then
    return nil, bytes, extra
  elseif bytes == nil then
    local message = ("there is no key %q"):format(full)
    return nil, message, { kind = "not_found", message = message, retryable = false }
  end
  return values.decode(bytes, extra.flags)
end

-- Kinds of errors after which a replica may answer instead: Consul has not answered.
local UNANSWERED = { connect = true, timeout = true, no_leader = true, http = true, tls = true, rate_limited = true }

-- Returns the value; nil, a message and an error table when there is none. When Consul does not answer,
-- returns the newest replica and { nodes }, the ids of the nodes with replicas of the key.
function data.read(session, key, given)
  local full = session.values["storage.kv_prefix"] .. key
  local timeout_ms = session.values["cluster.read_timeout"] * 1000
  local value, message, err = read(session, full, given, timeout_ms)
  local result = err and err.kind or "ok"
  if value == nil and session.replicas and UNANSWERED[err.kind] then
    local copy, why = session.replicas:read(full, timeout_ms)
    if copy then
      value, message, err = values.decode(copy.bytes, copy.flags), { nodes = session.replicas:nodes(full) }, nil
      result = "replica"
    elseif why then
      message = message .. "; " .. why
      err.message = message
    end
  end
  session:record("read_data", key, result)
  return value, message, err
end

return data
