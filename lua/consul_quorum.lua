-- Requests to the nodes with replicas, which succeed when a quorum of them answers. The nodes' handlers
-- store and read the replicas; this module counts answers.
---@class consul_quorum
local quorum = {}

---@class consul_quorum.options
---@field quorum? integer how many nodes must answer; default: all
---@field timeout_ms? number

---@class consul_quorum.read.options: consul_quorum.options
---@field newest fun(one: any, other: any): any returns the newer of two replies

---@class consul_quorum.Acknowledged
---@field acknowledged string[] the ids of the nodes that answered
---@field missing string[] the ids of the others

---@class consul_quorum.Answered
---@field answered string[] the ids of the nodes that answered
---@field missing string[] the ids of the others
---@field complete boolean whether all have answered

-- Asks all nodes at once. Returns the ids with and without an answer, both in the order of `node_ids`,
-- the replies by id, and the failures by id.
local function ask(cluster, node_ids, name, body, options)
  local success, results = cluster:broadcast(name, body, { timeout_ms = options.timeout_ms, nodes = node_ids })
  local answered, missing, replies, reasons = {}, {}, {}, {}
  for _, id in ipairs(node_ids) do
    local result = success and results[id]
    if result and result.success then
      answered[#answered + 1], replies[id] = id, result.data
    else
      missing[#missing + 1] = id
      reasons[id] = not success and results or result and result.error or "not asked"
    end
  end
  return answered, missing, replies, reasons
end

-- The message when the quorum is not reached: names each node without an answer, and its failure.
local function not_reached(name, wanted, node_ids, answered, missing, reasons)
  if #node_ids < wanted then
    return ("%s: the quorum is %d, but only %d nodes can be asked"):format(name, wanted, #node_ids)
  end
  local failures = {}
  for i, id in ipairs(missing) do
    failures[i] = ("%s (%s)"):format(id, tostring(reasons[id]))
  end
  return ("%s: %d of %d nodes answered, and the quorum is %d; no answer from %s"):format(
    name, #answered, #node_ids, wanted, table.concat(failures, ", "))
end

---Returns true and the ids when `options.quorum` nodes (default all) answered; else false, a message that names the
---nodes without an answer, and the ids: written replicas stay.
---@param cluster consul_ffi.ConsulHACluster
---@param node_ids string[]
---@param name string the name of the requests
---@param body any
---@param options? consul_quorum.options
---@return boolean success
---@return consul_quorum.Acknowledged outcome
---@return consul_quorum.Acknowledged? outcome after a failure
function quorum.write(cluster, node_ids, name, body, options)
  local wanted = options and options.quorum or #node_ids
  local answered, missing, _, reasons = ask(cluster, node_ids, name, body, options or {})
  local outcome = { acknowledged = answered, missing = missing }
  if #answered < wanted then
    return false, not_reached(name, wanted, node_ids, answered, missing, reasons), outcome
  end
  return true, outcome
end

---Returns the newest of the replies and the ids when `options.quorum` nodes (default all) answered; nil replies are
---ignored. Else returns nil and a message that names the nodes without an answer. The type of the second result, table
---or string, tells "no value" from "no quorum".
---@param cluster consul_ffi.ConsulHACluster
---@param node_ids string[]
---@param name string the name of the requests
---@param body any
---@param options consul_quorum.read.options
---@return any newest
---@return consul_quorum.Answered|string outcome
function quorum.read(cluster, node_ids, name, body, options)
  local wanted = options.quorum or #node_ids
  local answered, missing, replies, reasons = ask(cluster, node_ids, name, body, options)
  if #answered < wanted then
    return nil, not_reached(name, wanted, node_ids, answered, missing, reasons)
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
