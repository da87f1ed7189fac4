-- APISIX's own discovery watches Consul in nginx's privileged agent, which only a patched nginx has: here its one
-- worker. Our module watches in a worker.
local config = require("apisix.core.config_local").local_conf()

return {
  type = function()
    return config.discovery.consul_ffi and "worker" or "privileged agent"
  end,
}
