-- A client and a cluster node for production, configured by one table: docs/production.md.
local Manager = require("consul_production.manager")

local ConsulManager = Manager.new()

return {
  ConsulManager = ConsulManager,
  config = ConsulManager.config,
  -- Makes another manager, with its own `config`.
  new = Manager.new,
}
