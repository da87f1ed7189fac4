-- A parent that leads a cluster and is a second node of it, and a child, which is neither, and a node
-- of its own. Whatever the child does, and its end, changes nothing for the parent.
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
  for _, method in ipairs({ "start", "hand_over", "drain", "resume", "fd" }) do
    local success, message, err = node[method](node)
    assert(success == false and err.kind == "closed", method)
    assert(message:find("it belongs to this process's parent", 1, true), message)
  end
end

local leader, dropped = started("leader"), started("dropped")
local token = assert(leader:token())

local id = host.fork()
if id == 0 then
  is_the_parents(leader)
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
-- For longer than its check lives.
local limit = os.time() + 4
while os.time() < limit do
  leader:next_event(500)
end
assert(leader:is_leader_node() and leader:token() == token)
assert(leader:get_node_count() == 2 and #leader:get_live_nodes() == 2)
assert(dropped:stop() and leader:stop())
