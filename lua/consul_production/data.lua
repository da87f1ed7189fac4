-- Stores and reads values in Consul and, with replicas, on the cluster's nodes.
local connection = require("consul_production.connection")
local values = require("consul_production.values")
local as_error = require("consul_ffi.failure")

local data = {}

-- A copy of what kv_get has answered, also if there is no such key.
local function copy_of(full, bytes, meta)
  return { key = full, bytes = bytes, flags = meta.flags, index = bytes and meta.modify_index or meta.index }
end

-- Copies the key's current value to the nodes of the key, or that it was deleted; `done` says what was done in Consul.
-- Reads the key first, so that value and index belong to the same write. Returns true and the ids of the nodes.
local function copy_to_nodes(session, full, done, timeout_ms)
  local success, bytes, meta = session:call("kv_get", full, { consistent = true, timeout_ms = timeout_ms })
  if not success then
    meta.message, meta.maybe_applied = ("%s in Consul, but not on the nodes: %s"):format(done, bytes), true
    return false, meta.message, meta
  end
  local copy = copy_of(full, bytes, meta)
  copy.origin = session.replicas:origin()
  local written, message, err = session.replicas:write(copy, timeout_ms)
  if not written then
    err.message, err.maybe_applied = ("%s in Consul, but not on enough nodes: %s"):format(done, message), true
    return false, err.message, err
  elseif bytes == nil and done == "stored" then
    message = "stored in Consul, but another client deleted the key before it was copied to the nodes"
    return false, message, as_error({ kind = "not_found", message = message, retryable = false, maybe_applied = true })
  end
  return true, session.replicas:nodes(full), copy
end

-- The same after a value was stored, and records in Consul which nodes these are.
local function replicate(session, full, timeout_ms)
  local success, nodes, copy = copy_to_nodes(session, full, "stored", timeout_ms)
  if not success then
    return false, nodes, copy
  end
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
  message = message:format(...)
  return false, message, as_error({ kind = "argument", message = message, retryable = false, maybe_applied = false })
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

local NAMES_NODES = 'the key %q has "/replicas/": such keys name the nodes with replicas of a value'

local function names_nodes(key)
  return key:find("/replicas/", 1, true)
end

-- Returns true and { nodes }, the ids of the nodes with replicas, with `not_in_force` when another number of them was
-- requested; else false, a message and an error table.
function data.store(session, key, value, given)
  if names_nodes(key) then
    return refused("store_data: " .. NAMES_NODES, key)
  end
  local full = session.values["storage.kv_prefix"] .. key
  local timeout_ms = session.values["cluster.write_timeout"] * 1000
  local factor = given.replication_factor or session.values["cluster.replication_factor"]
  local has_copies, quorum = session.replicas and factor > 1, session.values["cluster.write_quorum"]
  if has_copies and quorum > factor then
    return refused("store_data: replication_factor is %d, less than cluster.write_quorum, which is %d; "
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

-- Deletes a key, also its copies. Returns true and { nodes }, the ids of the nodes with replicas; else false, a message
-- and an error table.
function data.delete(session, key)
  if names_nodes(key) then
    return refused("delete_data: " .. NAMES_NODES, key)
  end
  local full = session.values["storage.kv_prefix"] .. key
  local timeout_ms = session.values["cluster.write_timeout"] * 1000
  local operations = {
    { KV = { Verb = "delete", Key = full } },
    { KV = { Verb = "delete-tree", Key = full .. "/replicas/" } },
  }
  local nodes = {}
  local success, message, err = session:call("txn", operations, { timeout_ms = timeout_ms })
  if success and session.replicas then
    success, message, err = copy_to_nodes(session, full, "deleted", timeout_ms)
    nodes = success and message or nodes
  end
  session:record("delete_data", key, success and "ok" or err.kind)
  if success then
    return true, { nodes = nodes }
  end
  return false, message, err
end

-- Returns that there is no such key.
local function missing(full)
  local message = ("there is no key %q"):format(full)
  return nil, message, as_error({ kind = "not_found", message = message, retryable = false })
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
  end
  if session.replicas then
    session.replicas:follow(copy_of(full, bytes, extra), session.now(), timeout_ms)
  end
  if bytes == nil then
    return missing(full)
  end
  return values.decode(bytes, extra.flags)
end

-- Kinds of errors after which a replica may answer instead: Consul has not answered.
local UNANSWERED = { connect = true, timeout = true, no_leader = true, http = true, tls = true, rate_limited = true }

-- Returns the value; nil, a message and an error table when there is none. When Consul does not answer, returns the
-- newest copy and { nodes, without_consul }: the ids of the nodes with replicas, and why Consul has not answered.
function data.read(session, key, given)
  local full = session.values["storage.kv_prefix"] .. key
  local timeout_ms = session.values["cluster.read_timeout"] * 1000
  local value, message, err = read(session, full, given, timeout_ms)
  local result = err and err.kind or "ok"
  if value == nil and session.replicas and UNANSWERED[err.kind] then
    local copy, why = session.replicas:read(full, timeout_ms)
    result = copy and "replica" or result
    if copy and copy.bytes then
      value = values.decode(copy.bytes, copy.flags)
      message, err = { nodes = session.replicas:nodes(full), without_consul = message }, nil
    elseif copy then
      local failure = message
      value, message, err = missing(full)
      message = ("%s; Consul has not answered: %s"):format(message, failure)
      err.message = message
    elseif why then
      message = message .. "; " .. why
      err.message = message
    end
  end
  session:record("read_data", key, result)
  return value, message, err
end

return data
