-- Lists the keys of a store that have another node now than with the older modules. It reads the keys from its
-- standard input, one in each line, and prints those that move: key, node before, node now.
--
--   luajit examples/old_placement.lua node1,node2,node3 [VIRTUAL_NODES] <keys >moved
--
-- The nodes stand in the order in which the older program added them; VIRTUAL_NODES is 160 by default. It needs
-- LuaJIT, Lua 5.3 or Lua 5.4. The node now is ConsistentHashRing's; a program whose nodes are processes of a
-- cluster compares OldRing:get_node(key), of examples/old_ring.lua, with cluster:get_node_for_key(key) instead, and a
-- program that stored shards OldRing.shard(key) with cluster:get_shard_for_key(key).

-- From any folder, with the modules of this checkout unless others are installed.
local own_folder = arg[0]:match("^.*/") or "./"
package.path = own_folder .. "../?.lua;" .. package.path .. ";" .. own_folder .. "../lua/?.lua"

local consul_ffi = require("consul_ffi")
local OldRing = require("examples.old_ring")

local ids, virtual_nodes = {}, tonumber(arg[2] or 160)
for id in (arg[1] or ""):gmatch("[^,]+") do
  table.insert(ids, id)
end
if #ids == 0 or not virtual_nodes then
  io.stderr:write("usage: old_placement.lua node1,node2,node3 [VIRTUAL_NODES] <keys\n")
  os.exit(2)
end

local before, now = OldRing.new(ids, virtual_nodes), consul_ffi.ConsistentHashRing:new(virtual_nodes)
for _, id in ipairs(ids) do
  now:add_node(id, {})
end

local keys, moved = 0, 0
for key in io.lines() do
  local old, new = before:get_node(key), now:get_node(key)
  keys = keys + 1
  if old ~= new then
    moved = moved + 1
    print(key .. "\t" .. old .. "\t" .. new)
  end
end
io.stderr:write(("%d of %d keys move\n"):format(moved, keys))
