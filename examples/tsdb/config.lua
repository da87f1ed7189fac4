-- The configuration of the processes of the demo and of the tests: three replicas, write and read quorum two.
-- Without a folder the process keeps no data: an observer, which routes, reads and writes. TSDB_HOST is the
-- host of a node that is not on loopback, and CLUSTER_KEY the secret that the calls between nodes need then.
local support = require("examples.support")

return function(id, port, prefix, shards, folder)
  return {
    node_id = id,
    host = os.getenv("TSDB_HOST"),
    port = port,
    cluster_key = os.getenv("CLUSTER_KEY"),
    consul_endpoints = { support.url },
    replication_factor = 3,
    path = folder and folder .. "/" .. id .. ".sqlite",
    -- Four shards are compared in a second.
    points = { write_quorum = 2, read_quorum = 2, repair_s = shards / 4, drop_after_s = 5 },
    cluster_options = {
      profile = "fast",
      nodes_prefix = prefix .. "nodes/",
      shards = shards,
      observer = not folder or nil,
    },
  }
end
