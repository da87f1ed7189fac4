-- The sources of options, by precedence: assigned in Lua, environment, keys in Consul, TOML file, default.
local consul_ffi = require("consul_native")
local config = require("consul_production.config")
local options = require("consul_production.options")

local sources = {}

-- Returns the options from the environment, by path; nil and a message when a variable is invalid. An empty
-- variable counts as unset.
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

-- Returns the options in a TOML text, by path; nil and a message with file, line and name when one is
-- invalid.
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
        return nil, ("%s:%d: %s can only be set in Lua"):format(path, lines[name], name)
      end
    end
  end
  return found, why
end

-- Returns the options in keys below a prefix, given as texts by key; nil and a message with the key when one
-- is invalid. Skips keys that end in `/`: folders that Consul's web interface creates.
function sources.keys(prefix, texts)
  local found = {}
  for key, text in pairs(texts) do
    if key:sub(-1) ~= "/" then
      local path = key:sub(#prefix + 1):gsub("/", ".")
      local option = options.by_path[path]
      if not option or option.from then
        return nil, ("the key %s is not the name of an option"):format(key)
      end
      local value = option.kind.read(text)
      local why = options.put(found, option, value == nil and text or value)
      if why then
        return nil, ("the key %s %s"):format(key, why)
      end
    end
  end
  return found
end

-- Merges the options of several sources, highest precedence first, with the defaults. Returns the values by
-- path, and the set of paths that a source has configured.
function sources.merge(...)
  local values, configured = {}, {}
  for _, option in ipairs(options.list) do
    values[option.path] = option.default
  end
  for i = select("#", ...), 1, -1 do
    for path, value in pairs((select(i, ...))) do
      values[path], configured[path] = value, true
    end
  end
  return values, configured
end

-- The files of mutual TLS between nodes: all of them, or none.
local FILES = { "security.data_tls.cert_file", "security.data_tls.key_file", "security.data_tls.ca_file" }

-- Returns a message when values contradict each other, else nil.
function sources.contradiction(values)
  local factor = values["cluster.replication_factor"]
  if factor > 16 then
    return ("cluster.replication_factor is %d: at most 16"):format(factor)
  end
  for _, name in ipairs({ "write_quorum", "read_quorum" }) do
    local quorum = values["cluster." .. name]
    if quorum > factor then
      return ("cluster.%s is %d, more than cluster.replication_factor, which is %d"):format(name, quorum, factor)
    end
  end
  if values["security.enable_acl"] and not values["consul.acl_token"] then
    return "security.enable_acl is true, but consul.acl_token is not set"
  elseif values["security.audit_enabled"] and not values["security.audit_log_file"] then
    return "security.audit_enabled is true, but security.audit_log_file is not set"
  end
  local reason = values["security.encrypt_traffic"] and "security.encrypt_traffic is true"
  for _, name in ipairs(FILES) do
    reason = reason or values[name] and name .. " is set"
  end
  for _, name in ipairs(FILES) do
    if reason and not values[name] then
      return ("%s, but %s is not set"):format(reason, name)
    end
  end
end

return sources
