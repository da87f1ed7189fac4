-- Requests to the nodes that hold replicas, which succeed when enough of them answered. A node's
-- handler decides what a replica is; here is only who answered and what follows from it.
local quorum = {}

-- Asks all nodes at once. Gives the ids that answered and those that did not, both in the order of
-- `node_ids`, the replies by id, and why each of the others did not.
local function ask(cluster, node_ids, name, body, options)
  local success, results = cluster:broadcast(name, body, { timeout_ms = options.timeout_ms, nodes = node_ids })
  local answered, missing, replies, reasons = {}, {}, {}, {}
  for _, id in ipairs(node_ids) do
    local result = success and results[id]
    if result and result.success then
      answered[#answered + 1], replies[id] = id, result.data
    else
      missing[#missing + 1] = id
      reasons[id] = not success and results or result and result.error or "it was not asked"
    end
  end
  return answered, missing, replies, reasons
end

-- Why too few answers are too few: who did not answer, each with its reason.
local function too_few(name, wanted, node_ids, answered, missing, reasons)
  if #node_ids < wanted then
    return ("%s: the quorum is %d, and there are %d nodes to ask"):format(name, wanted, #node_ids)
  end
  local silent = {}
  for i, id in ipairs(missing) do
    silent[i] = ("%s (%s)"):format(id, tostring(reasons[id]))
  end
  return ("%s: %d of %d nodes answered, and the quorum is %d; no answer from %s"):format(
    name, #answered, #node_ids, wanted, table.concat(silent, ", "))
end

-- Gives true and { acknowledged = ids, missing = ids } when `quorum` nodes (default all) answered;
-- else false, a message that names who did not, and the same lists: a replica that was written stays.
function quorum.write(cluster, node_ids, name, body, options)
  local wanted = options and options.quorum or #node_ids
  local answered, missing, _, reasons = ask(cluster, node_ids, name, body, options or {})
  local outcome = { acknowledged = answered, missing = missing }
  if #answered < wanted then
    return false, too_few(name, wanted, node_ids, answered, missing, reasons), outcome
  end
  return true, outcome
end

-- Gives what `newest(one, other)` makes of the replies, one after the other, and { complete, answered,
-- missing } when `quorum` nodes (default all) answered; replies that are nil are passed over. Else nil
-- and a message that names who did not answer. The second result tells the two apart: a table or a string.
function quorum.read(cluster, node_ids, name, body, options)
  local wanted = options.quorum or #node_ids
  local answered, missing, replies, reasons = ask(cluster, node_ids, name, body, options)
  if #answered < wanted then
    return nil, too_few(name, wanted, node_ids, answered, missing, reasons)
  end
  local value
  for _, id in ipairs(answered) do
    local reply = replies[id]
    if value == nil then
      value = reply
    elseif reply ~= nil then
      value = options.newest(value, reply)
    end
  end
  return value, { complete = #missing == 0, answered = answered, missing = missing }
end

return quorum
