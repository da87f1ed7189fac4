-- A node of a cluster as a process. It prints its process id when it has started, then the value of each
-- line of its input, which is an expression with `cluster`.
--
--   luajit examples/cluster_node.lua node-1 127.0.0.1:9001 demo/

local id, address, prefix = arg[1], arg[2], arg[3]
local cluster = require("consul_ffi").ConsulHACluster:new({
  node_id = id,
  node_address = address,
  nodes_prefix = prefix .. "nodes/",
  profile = "fast",
  replace_after_s = 2,
})

local function answer(text)
  io.write(tostring(text), "\n")
  io.flush()
end

local function pid()
  local file = assert(io.open("/proc/self/stat"))
  local number = file:read("*l"):match("^%d+")
  file:close()
  return number
end

local started, why = cluster:start()
answer(started and pid() or "failed: " .. why)
for line in io.lines() do
  local evaluate = assert((loadstring or load)("local cluster = ... return " .. line))
  answer(evaluate(cluster))
end
cluster:stop()
