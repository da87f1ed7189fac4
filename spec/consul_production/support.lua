-- Managers for the specs, each with unique names on the Consul under test; `managers.close` closes them.
local production = require("consul_production_config")
local support = require("spec.support")

local managers = { opened = {}, kept = {} }

-- Returns a manager that is not initialised, with these sections of options, and the prefix of its keys
-- (default a new name). Managers with the same prefix are one cluster.
function managers.manager(options, prefix)
  prefix = prefix or support.name("production")
  local manager = production.new()
  local all = {
    consul = { simulate = support.simulated },
    cluster = { node_id = support.name("node") },
    storage = { kv_prefix = prefix .. "/data/", metadata_prefix = prefix .. "/cluster/",
      lock_prefix = prefix .. "/cluster/" },
    -- Keeps the managers' log lines out of the specs' output.
    monitoring = { log_file = os.tmpname() },
  }
  local function assign(section, values)
    for name, value in pairs(values) do
      if type(value) == "table" and type(section[name]) == "table" and not value[1] then
        assign(section[name], value)
      else
        section[name] = value
      end
    end
  end
  assign(manager.config, all)
  assign(manager.config, options or {})
  table.insert(managers.opened, { manager, prefix, all.monitoring.log_file })
  return manager, prefix
end

-- The same, but initialised.
function managers.started(options, prefix)
  local manager, used = managers.manager(options, prefix)
  manager:init()
  return manager, used
end

-- Registers an object that managers.close closes too.
function managers.keep(opened)
  table.insert(managers.kept, opened)
end

-- Closes all managers and deletes their keys.
function managers.close()
  for _, each in ipairs(managers.opened) do
    each[1]:cleanup()
    os.remove(each[3])
  end
  for _, opened in ipairs(managers.kept) do
    opened:close()
  end
  local client = support.client({ log = false, log_level = "WARN" })
  for _, each in ipairs(managers.opened) do
    client:kv_delete_tree(each[2] .. "/")
  end
  client:close()
  managers.opened, managers.kept = {}, {}
end

-- Returns the text of a file; nil when there is no such file.
function managers.read(path)
  local file = io.open(path, "rb")
  local text = file and file:read("*a")
  if file then
    file:close()
  end
  return text
end

function managers.write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  file:close()
end

return managers
