-- A parent with the leader and another node of a cluster, and a child, which inherits neither and has its
-- own node. Neither the child's calls nor its end change anything for the parent, whose node has a call in
-- flight that the other one answers later.
local consul_ffi = require("consul_ffi")

local function started(id)
  local node = consul_ffi.ConsulHACluster:new({ node_id = id, node_address = "127.0.0.1:9000", profile = "fast" })
  assert(node:start())
  return node
end

local function is_the_parents(node)
  assert(node:is_leader_node() == false and node.is_leader == false and node:token() == nil)
  assert(node:get_node_count() == 0 and node:get_leader_info() == nil and node:get_node_for_key("key") == nil)
  assert(node:poll_event() == nil and node:next_event() == nil)
  assert(tostring(node):find("of the parent process", 1, true), tostring(node))
  for _, method in ipairs({ "start", "hand_over", "drain", "leave", "resume", "fd" }) do
    local success, message, err = node[method](node)
    assert(success == false and err.kind == "closed", method)
    assert(message:find("it belongs to the parent of this process", 1, true), message)
  end
end

local leader, dropped = started("leader"), started("dropped")
local token = assert(leader:token())

local points = leader:replicate("points", nil, { replicas = 1, shards = 4 })
-- The first map waits for the other node, which has no store, for up to 15 s.
assert(points:write("key", { { id = "a", data = "1" } }, { timeout_ms = 60000 }))

local request
leader:handle("later", function(_, deferred)
  request = deferred:defer()
end)
local call = dropped:start("call", "leader", "later", nil, { timeout_ms = 60000 })
while not request do
  leader:poll(50)
end

local id = host.fork()
if id == 0 then
  is_the_parents(leader)
  local success, message, err = request:reply("the child's")
  assert(success == false and err.kind == "closed", message)
  assert(message:find("belongs to the parent of this process", 1, true), message)
  success, message, err = points:write("key", { { id = "a", data = "the child's" } })
  assert(success == false and err.kind == "closed", message)
  assert(message:find("belongs to the parent of this process", 1, true), message)
  assert(select(4, call:poll()).kind == "closed")
  request, call = nil, nil -- luacheck: ignore
  dropped = nil -- luacheck: ignore
  collectgarbage()
  collectgarbage()
  local own = started("child")
  assert(tostring(own:get_leader_info()) == "leader")
  assert(own:get_node_count() == 3)
  assert(own:stop())
  assert(leader:stop() and leader:close())
  return
end

local status = host.wait(id)
assert(status == 0, "the child ended with " .. status)
-- Longer than the TTL of its check.
local is_over = os.time() + 4
while os.time() < is_over do
  leader:next_event(500)
end
assert(leader:is_leader_node() and leader:token() == token)
assert(leader:get_node_count() == 2 and #leader:get_live_nodes() == 2)
assert(request:reply("the parent's"))
assert(select(3, call:wait(10000)) == "the parent's")
for record, message in points:read("key") do
  assert(record and record.data == "1", message)
end
assert(dropped:stop() and leader:stop())
