-- Every option is documented, and has an effect or says that it has none.
local connection = require("consul_production.connection")
local managers = require("spec.consul_production.support")
local options = require("consul_production.options")
local sources = require("consul_production.sources")

local PAGE = "docs/production.md"

local function shown(value)
  if type(value) == "table" then
    return table.concat(value, ", ")
  elseif value == nil then
    return "none"
  end
  return tostring(value):gsub("%.0$", "")
end

-- The table of options as the page should have it.
local function documented()
  local lines = { "| option | takes | default | environment | |", "|---|---|---|---|---|" }
  for _, option in ipairs(options.list) do
    local variables = {}
    for i, name in ipairs(option.env or {}) do
      variables[i] = ("`%s`"):format(name)
    end
    local doc = option.idle and "Not in force: " .. option.idle .. "." or option.doc
    table.insert(lines, ("| `%s` | %s | %s | %s | %s |"):format(
      option.path, option.kind.words, option.shown or shown(option.default), table.concat(variables, ", "), doc))
  end
  return table.concat(lines, "\n") .. "\n"
end

describe("the manager's options", function()
  after_each(managers.close)

  it("are those of the documentation", function()
    local text, wanted = managers.read(PAGE), documented()
    local first, last = text:find("\n| option | takes .-\n\n")
    if os.getenv("UPDATE_REFERENCE") then
      text = text:sub(1, first) .. wanted .. text:sub(last)
      managers.write(PAGE, text)
      first, last = text:find("\n| option | takes .-\n\n")
    end
    assert.equal(wanted, text:sub(first + 1, last - 1), "`make docs` writes it anew")
  end)

  -- A value that is not the default.
  local function another(option)
    local default = option.default
    if option[2] == "flag" or option[2] == "simulate" then
      return not default
    elseif type(default) == "number" then
      return default + 1
    elseif option.kind.names then
      return default == "stale" and "consistent" or default == "WARN" and "ERROR" or "stale"
    end
    return option[2] == "urls" and { "http://a:1" } or "another"
  end

  it("make another client or node, are idle, or are what a spec here is about", function()
    -- Those that the manager itself goes by, each with the spec that shows it.
    local own = {}
    for _, name in ipairs({
      "consul.health_check_interval", "consul.health_check_timeout", "cluster.read_timeout", "cluster.write_timeout",
      "storage.kv_prefix", "storage.kv_consistency", "monitoring.metrics_enabled", "monitoring.metrics_interval",
      "monitoring.log_file", "monitoring.log_max_size", "monitoring.log_max_backups", "monitoring.log_max_age",
      "monitoring.alert_enabled", "monitoring.alert_threshold.node_down_count",
      "monitoring.alert_threshold.response_time_ms", "monitoring.alert_threshold.error_rate_percent",
      "security.enable_acl", "security.audit_enabled", "security.audit_log_file", "sources.file", "sources.kv_prefix",
      "cluster.replication_factor", "cluster.write_quorum", "cluster.read_quorum",
    }) do
      own[name] = true
    end
    for _, option in ipairs(options.list) do
      local before = sources.merge({ ["consul.servers"] = { option.tls and "https://a" or "http://a" } })
      local after = sources.merge(before)
      after[option.path] = another(option)
      assert.equal(not (own[option.path] or option.idle), connection.differs(before, after), option.path)
    end
  end)

  it("have the types that they say", function()
    for _, option in ipairs(options.list) do
      assert.is_nil(options.refusal(option, another(option)), option.path)
      assert.is_string(options.refusal(option, print), option.path)
      if option.default ~= nil then
        assert.is_nil(options.refusal(option, option.default), option.path)
      end
    end
  end)

  it("of a log are megabytes, files and days", function()
    local path = os.tmpname()
    local manager = managers.started({ monitoring = {
      log_file = path, log_level = "INFO", log_max_size = 0.0005, log_max_backups = 1,
    } })
    for i = 1, 20 do
      manager:reload_config({ cluster = { read_timeout = i } })
    end
    -- 0.0005 MB are 524 bytes.
    assert.is_true(#managers.read(path) <= 524)
    assert.is_true(#managers.read(path .. ".1") <= 524)
    assert.is_nil(managers.read(path .. ".2"))
    managers.write(path .. ".1", "2020-01-01T00:00:00Z INFO  old\n")
    manager:reload_config({ monitoring = { log_max_age = 30 } })
    assert.is_nil(managers.read(path .. ".1"))
    os.remove(path)
  end)

  it("of TLS are in force when a server is spoken to over TLS, and not looked at when none is", function()
    local files = { tls_ca_file = "/nonexistent/ca.pem" }
    assert.is_true(managers.manager({ consul = files }):init())
    for _, with in ipairs({ { tls_enabled = true }, { servers = { "https://127.0.0.1:1" } } }) do
      local manager = managers.manager({ consul = files })
      manager.config.consul.simulate = false
      for name, value in pairs(with) do
        manager.config.consul[name] = value
      end
      local success, message = pcall(manager.init, manager)
      assert.is_false(success)
      assert.matches("/nonexistent/ca.pem", message, 1, true)
    end
  end)
end)
