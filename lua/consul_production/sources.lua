-- Where options come from: what the program says in Lua, then the environment, then keys in Consul, then
-- a TOML file, then the default.
local consul_ffi = require("consul_ffi")
local config = require("consul_production.config")
local options = require("consul_production.options")

local sources = {}

-- What the environment says, by path; nil and why when a variable is not acceptable. An empty variable
-- is none.
function sources.environment(getenv)
  local found = {}
  for _, option in ipairs(options.list) do
    for _, name in ipairs(option.env or {}) do
      local text = getenv(name)
      if text and text ~= "" and found[option.path] == nil then
        local value = option.kind.read(text)
        local why = options.refusal(option, value == nil and text or value)
        if why then
          return nil, ("the environment variable %s (%s) %s"):format(name, option.path, why)
        end
        found[option.path] = value
      end
    end
  end
  return found
end

-- The text of a file; nil and why when it cannot be read.
function sources.text(path)
  local file, why = io.open(path, "rb")
  if not file then
    return nil, why
  end
  local text, trouble = file:read("*a")
  file:close()
  return text, trouble and ("%s: %s"):format(path, trouble)
end

-- What a TOML text says, by path; nil and why, with file, line and name, when that is not acceptable.
function sources.toml(path, text)
  local success, tree, lines = consul_ffi.toml_decode(text)
  if not success then
    return nil, ("%s: %s"):format(path, tree)
  end
  local found, why = config.flatten(tree, function(name)
    return ("%s:%d: %s"):format(path, lines[name] or 1, name)
  end, {})
  if found then
    for name in pairs(found) do
      if options.by_path[name].from then
        return nil, ("%s:%d: %s can be said in Lua alone"):format(path, lines[name], name)
      end
    end
  end
  return found, why
end

-- What keys below a prefix say, given as texts by key; nil and why, with the key, when that is not
-- acceptable. A key that ends in `/` is a folder of Consul's web page.
function sources.keys(prefix, texts)
  local found = {}
  for key, text in pairs(texts) do
    if key:sub(-1) ~= "/" then
      local path = key:sub(#prefix + 1):gsub("/", ".")
      local option = options.by_path[path]
      if not option or option.from then
        return nil, ("the key %s names no option"):format(key)
      end
      local value = option.kind.read(text)
      local why = options.refusal(option, value == nil and text or value)
      if why then
        return nil, ("the key %s %s"):format(key, why)
      end
      found[path] = value
    end
  end
  return found
end

-- The values by path that several sources say, the first one first, with the defaults; and what was said
-- at all.
function sources.merge(...)
  local values, said = {}, {}
  for _, option in ipairs(options.list) do
    values[option.path] = option.default
  end
  for i = select("#", ...), 1, -1 do
    for path, value in pairs((select(i, ...))) do
      values[path], said[path] = value, true
    end
  end
  return values, said
end

-- Why values do not go together; nil when they do.
function sources.contradiction(values)
  local factor = values["cluster.replication_factor"]
  for _, name in ipairs({ "write_quorum", "read_quorum" }) do
    local quorum = values["cluster." .. name]
    if quorum > factor then
      return ("cluster.%s is %d, more than cluster.replication_factor, which is %d"):format(name, quorum, factor)
    end
  end
  if values["security.enable_acl"] and not values["consul.acl_token"] then
    return "security.enable_acl is true, and there is no consul.acl_token"
  elseif values["security.audit_enabled"] and not values["security.audit_log_file"] then
    return "security.audit_enabled is true, and there is no security.audit_log_file"
  end
end

return sources
