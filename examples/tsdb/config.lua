-- How the nodes of the demo are configured: three replicas, written on two at least, read from two.
return function(id, port, prefix, folder)
  return {
    node_id = id,
    port = port,
    replication_factor = 3,
    write_quorum = 2,
    read_quorum = 2,
    path = folder .. "/" .. id .. ".sqlite",
    cluster_options = { profile = "fast", nodes_prefix = prefix .. "nodes/" },
  }
end
