-- Managers for the specs: each with names of its own on the Consul under test, and what ends them.
local production = require("consul_production_config")
local support = require("spec.support")

local managers = { opened = {}, kept = {} }

-- A manager of its own that is not initialised; `options` are its sections. `prefix` (default a new name)
-- is what its keys begin with, so that managers of one prefix are one cluster.
function managers.manager(options, prefix)
  prefix = prefix or support.name("production")
  local manager = production.new()
  local all = {
    consul = { simulate = support.simulated },
    cluster = { node_id = support.name("node") },
    storage = { kv_prefix = prefix .. "/data/", metadata_prefix = prefix .. "/cluster/",
      lock_prefix = prefix .. "/cluster/" },
    -- What a node says by itself is not read by the specs.
    monitoring = { log_file = os.tmpname() },
  }
  local function say(section, values)
    for name, value in pairs(values) do
      if type(value) == "table" and type(section[name]) == "table" and not value[1] then
        say(section[name], value)
      else
        section[name] = value
      end
    end
  end
  say(manager.config, all)
  say(manager.config, options or {})
  table.insert(managers.opened, { manager, prefix, all.monitoring.log_file })
  return manager, prefix
end

-- The same, initialised.
function managers.started(options, prefix)
  local manager, used = managers.manager(options, prefix)
  manager:init()
  return manager, used
end

-- Has `close` end this too.
function managers.keep(opened)
  table.insert(managers.kept, opened)
end

-- Ends all managers, and removes what they wrote.
function managers.close()
  for _, each in ipairs(managers.opened) do
    each[1]:cleanup()
    os.remove(each[3])
  end
  for _, opened in ipairs(managers.kept) do
    opened:close()
  end
  local client = support.client()
  for _, each in ipairs(managers.opened) do
    client:kv_delete_tree(each[2] .. "/")
  end
  client:close()
  managers.opened, managers.kept = {}, {}
end

-- The text of a file; nil when there is none.
function managers.read(path)
  local file = io.open(path, "rb")
  local text = file and file:read("*a")
  if file then
    file:close()
  end
  return text
end

-- Writes a file.
function managers.write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  file:close()
end

return managers
