-- A client and a cluster's node for production, by one table of options: docs/production.md.
local Manager = require("consul_production.manager")

local ConsulManager = Manager.new()

return {
  ConsulManager = ConsulManager,
  config = ConsulManager.config,
  -- A manager of its own, with a `config` of its own.
  new = Manager.new,
}
