-- A client and a cluster node for production, configured by one table: docs/production.md.
local Manager = require("consul_production.manager")

local ConsulManager = Manager.new()

---@class consul_production_config
---@field ConsulManager consul_production.Manager
---@field config consul_production.Config
---@field new fun(sections?: consul_production.Config): consul_production.Manager another manager
local module = {
  ConsulManager = ConsulManager,
  config = ConsulManager.config,
  new = Manager.new,
}

return module
