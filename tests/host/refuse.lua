-- Gives two functions for an engine that runs out of memory in them at every point in turn: one loads
-- the module, the other creates an object of each class, the first of its kind.

local unpack = table.unpack or unpack

-- LuaJIT itself breaks when compiled code that calls C functions finds no memory.
if jit then
  jit.off()
end

local many = {}
for i = 1, 200 do
  many[i] = {}
end

-- Creates an object of each class and uses what its metatable has.
local create = {
  ConsulClient = function(consul_ffi)
    local client = consul_ffi.new({ simulate = true })
    assert(client.initialized == true)
    -- Rust holds all of these at once.
    assert(not pcall(client.kv_get, client, unpack(many)))
    return client
  end,
  Handle = function(consul_ffi)
    return consul_ffi.new({ simulate = true }):start("kv_get", "k")
  end,
  Watch = function(consul_ffi)
    return consul_ffi.new({ simulate = true }):watch("kv_get", "k")
  end,
  ServiceView = function(consul_ffi)
    return consul_ffi.new({ simulate = true }):service_view("web")
  end,
  ServiceViews = function(consul_ffi)
    return consul_ffi.new({ simulate = true }):service_views({ "web" })
  end,
  Lock = function(consul_ffi)
    local client = consul_ffi.new({ simulate = true })
    client:semaphore("permits", 2):close()
    return client:lock("k")
  end,
  ConsulHACluster = function(consul_ffi)
    local node = consul_ffi.ConsulHACluster.new({
      simulate = true,
      node_id = "n1",
      node_address = "127.0.0.1:1",
    })
    assert(node.node_id == "n1")
    return node
  end,
  ReplicatedStore = function(consul_ffi)
    local node = consul_ffi.ConsulHACluster.new({
      simulate = true,
      node_id = "n1",
      node_address = "127.0.0.1:1",
    })
    return node:replicate("points")
  end,
  ConsistentHashRing = function(consul_ffi)
    local ring = consul_ffi.ConsistentHashRing.new(8)
    assert(#ring == 0 and ring.virtual_nodes == 8)
    return ring
  end,
  LoopCall = function(consul_ffi)
    return (consul_ffi._internal.in_loop(consul_ffi.new({ endpoint = "127.0.0.1:1" }), "kv_get", "key"))
  end,
  LogFile = function(consul_ffi)
    return assert(consul_ffi.log_file("/dev/null"))
  end,
  StatusServer = function(consul_ffi)
    local server = assert(consul_ffi.serve_status())
    assert(server.address and server:close())
    return server
  end,
  Simulator = function(consul_ffi)
    return consul_ffi.simulator("refused")
  end,
}

-- A node that starts at each of thousands of points would take hours. Their metatables are made with the
-- others when the module is loaded.
local needs_a_running_node = { DeferredRequest = true }

local function load()
  -- Lua 5.1 and LuaJIT remember that a module failed.
  package.loaded.consul_ffi = nil
  require("consul_ffi")
end

local function objects()
  local consul_ffi = require("consul_ffi")
  local first_error
  -- In every state the registry says which classes there are.
  for name in pairs(debug.getregistry()) do
    local class = type(name) == "string" and name:match("^consul_ffi%.metamethods%.(.*)$")
    if class and not needs_a_running_node[class] then
      assert(create[class], class)
      -- The other classes come to their first object although one was refused.
      local created, object = pcall(create[class], consul_ffi)
      local is_text, text = pcall(tostring, object)
      if not created then
        first_error = first_error or object
      elseif not is_text then
        first_error = first_error or text
      elseif not text:find("^" .. class .. "%(") then
        error(text)
      end
    end
  end
  if first_error ~= nil then
    error(first_error, 0)
  end
end

return load, objects
