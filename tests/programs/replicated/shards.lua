-- The shards of a node, as evidence about its disk.
local shards = {}

-- Returns the epochs of the shards of a node by their numbers.
local function epochs(engine, name)
  local found = {}
  for _, shard in ipairs(engine:shards()) do
    for _, holder in ipairs(shard.holders) do
      if holder == name then
        found[shard.shard] = shard.epoch
      end
    end
  end
  return found
end

-- Returns a function that tells whether each shard that the node has now was made again since.
function shards.remade(engine, name)
  local before = epochs(engine, name)
  return function()
    for shard, epoch in pairs(epochs(engine, name)) do
      if epoch == before[shard] then
        return false
      end
    end
    return true
  end
end

return shards
