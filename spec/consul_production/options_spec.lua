-- Every option is documented, and has an effect or declares that it has none.
local connection = require("consul_production.connection")
local managers = require("spec.consul_production.support")
local options = require("consul_production.options")
local sources = require("consul_production.sources")

local PAGE, ANNOTATIONS = "docs/production.md", "lua/meta/library/consul_production.d.lua"

local function shown(value)
  if type(value) == "table" then
    return table.concat(value, ", ")
  elseif value == nil then
    return "none"
  end
  return tostring(value):gsub("%.0$", "")
end

-- The table of options that the page should have.
local function documented()
  local lines = { "| option | type | default | environment | |", "|---|---|---|---|---|" }
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

-- How the annotations name the types of options; those with names have these.
local TYPES = {
  callback = "function", count = "integer", flag = "boolean", nodes = "integer", number = "number", seconds = "number",
  secrets = "string|string[]", simulate = "boolean|string", text = "string", urls = "string[]",
}

-- The annotations that the options should have.
local function annotated()
  local lines = {
    "---@meta consul_production", "",
    "---The options of a manager: docs/production.md. Sections are tables.", "---@class consul_production.Config",
  }
  for _, section in ipairs({ "consul", "cluster", "storage", "monitoring", "security", "sources" }) do
    table.insert(lines, ("---@field %s? consul_production.%s"):format(section, section))
  end
  for _, section in ipairs(options.order) do
    table.insert(lines, "")
    table.insert(lines, ("---@class consul_production.%s"):format(section))
    for _, name in ipairs(options.sections[section]) do
      local option = options.by_path[section .. "." .. name]
      local names = option and option.kind.names
      local kind = ("consul_production.%s.%s"):format(section, name)
      if option then
        kind = names and '"' .. table.concat(names, '"|"') .. '"' or assert(TYPES[option[2]])
      end
      table.insert(lines, ("---@field %s? %s"):format(name, kind))
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

describe("the manager's options", function()
  after_each(managers.close)

  it("are documented in docs/production.md", function()
    local text, wanted = managers.read(PAGE), documented()
    local first, last = text:find("\n| option | .-\n\n")
    if os.getenv("UPDATE_REFERENCE") then
      text = text:sub(1, first) .. wanted .. text:sub(last)
      managers.write(PAGE, text)
      first, last = text:find("\n| option | .-\n\n")
    end
    assert.equal(wanted, text:sub(first + 1, last - 1), "`make docs` regenerates it")
  end)

  it("are annotated in lua/meta", function()
    local wanted = annotated()
    if os.getenv("UPDATE_REFERENCE") then
      managers.write(ANNOTATIONS, wanted)
    end
    assert.equal(wanted, managers.read(ANNOTATIONS), "`make docs` regenerates it")
  end)

  -- A value that is not the default.
  local function another(option)
    local default = option.default
    if option[2] == "flag" or option[2] == "simulate" then
      return not default
    elseif type(default) == "number" then
      return default + 1
    elseif option.kind.names then
      return option.kind.names[1] == default and option.kind.names[2] or option.kind.names[1]
    elseif option[2] == "callback" then
      return print
    end
    return option[2] == "urls" and { "http://a:1" } or "another"
  end

  it("change the client or the node, are not in force, or are the subject of another spec", function()
    -- The manager's own options; each has another spec.
    local own = {}
    for _, name in ipairs({
      "consul.health_check_interval", "consul.health_check_timeout", "cluster.read_timeout", "cluster.write_timeout",
      "storage.kv_prefix", "storage.kv_consistency", "monitoring.metrics_enabled", "monitoring.metrics_interval",
      "monitoring.log_file", "monitoring.log_max_size", "monitoring.log_max_backups", "monitoring.log_max_age",
      "monitoring.alert_enabled", "monitoring.alert_threshold.node_down_count",
      "monitoring.alert_threshold.response_time_ms", "monitoring.alert_threshold.error_rate_percent",
      "security.enable_acl", "security.audit_enabled", "security.audit_log_file", "sources.file", "sources.kv_prefix",
      "cluster.replication_factor", "cluster.write_quorum", "cluster.read_quorum", "consul.encryption_key",
      "monitoring.all_checks", "monitoring.on_alert",
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

  it("accept values of their declared types only", function()
    for _, option in ipairs(options.list) do
      assert.is_nil(options.refusal(option, another(option)), option.path)
      assert.is_string(options.refusal(option, io.stdout), option.path)
      if option.default ~= nil then
        assert.is_nil(options.refusal(option, option.default), option.path)
      end
    end
  end)

  it("of logs are in megabytes, files and days", function()
    local path = os.tmpname()
    local manager = managers.started({ monitoring = {
      log_file = path, log_level = "INFO", log_max_size = 0.0005, log_max_backups = 1, log = function() end,
    } })
    for i = 1, 20 do
      manager:reload_config({ cluster = { read_timeout = i } })
    end
    -- 0.0005 MB are 524 bytes.
    assert.is_true(#managers.read(path) <= 524)
    assert.is_true(#managers.read(path .. ".1") <= 524)
    assert.is_nil(managers.read(path .. ".2"))
    assert(os.execute("touch -d '31 days ago' " .. path .. ".1"))
    manager:reload_config({ monitoring = { log_max_age = 30 } })
    assert.is_nil(managers.read(path .. ".1"))
    os.remove(path)
  end)

  it("of TLS are in force when a server uses TLS, and their files are not read otherwise", function()
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

-- The defaults of the older module, which was used as a file that one edits.
local OLDER = {
  ["consul.servers"] = "three names", ["consul.timeout"] = 10, ["consul.retry_attempts"] = 3,
  ["consul.retry_interval"] = 1, ["consul.health_check_interval"] = 30, ["consul.health_check_timeout"] = 5,
  ["consul.tls_enabled"] = true, ["consul.tls_verify"] = true, ["consul.tls_cert_file"] = "/etc/consul/client.crt",
  ["consul.tls_key_file"] = "/etc/consul/client.key", ["consul.tls_ca_file"] = "/etc/consul/ca.crt",
  ["consul.simulate"] = false, ["cluster.node_id"] = "node-<time>", ["cluster.datacenter"] = "dc1",
  ["cluster.min_nodes"] = 3, ["cluster.max_nodes"] = 9, ["cluster.heartbeat_interval"] = 5,
  ["cluster.heartbeat_timeout"] = 15, ["cluster.election_timeout"] = 10, ["cluster.leader_lease_duration"] = 60,
  ["cluster.consistency_mode"] = "consistent", ["cluster.read_timeout"] = 30, ["cluster.write_timeout"] = 60,
  ["cluster.failover_timeout"] = 30, ["cluster.recovery_interval"] = 60, ["cluster.replication_factor"] = 3,
  ["cluster.write_quorum"] = 2, ["cluster.read_quorum"] = 2, ["storage.kv_prefix"] = "stock-tsdb/",
  ["storage.kv_consistency"] = "consistent", ["storage.metadata_prefix"] = "metadata/",
  ["storage.lock_prefix"] = "locks/", ["storage.session_prefix"] = "sessions/", ["monitoring.metrics_enabled"] = true,
  ["monitoring.metrics_interval"] = 60, ["monitoring.log_level"] = "INFO",
  ["monitoring.log_file"] = "/var/log/stock-tsdb/consul.log", ["monitoring.log_max_size"] = 100,
  ["monitoring.log_max_backups"] = 10, ["monitoring.log_max_age"] = 30, ["monitoring.alert_enabled"] = true,
  ["monitoring.alert_threshold.node_down_count"] = 2, ["monitoring.alert_threshold.response_time_ms"] = 5000,
  ["monitoring.alert_threshold.error_rate_percent"] = 5, ["security.enable_acl"] = true,
  ["security.acl_policy_file"] = "/etc/consul/acl-policy.hcl", ["security.encrypt_traffic"] = true,
  ["security.audit_enabled"] = true, ["security.audit_log_file"] = "/var/log/stock-tsdb/audit.log",
}

it("F18 the defaults are the older ones, or the page about them has a row with both and a reason", function()
  local page, rows = managers.read("docs/migrating.md"), {}
  for path, before, now, why in page:gmatch("\n| `([%w_.]+)` | ([^|]+) | ([^|]+) | ([^|]+) |%f[\n]") do
    rows[path] = { before, now, why }
  end
  for path, before in pairs(OLDER) do
    local option = options.by_path[path]
    if shown(option.default) ~= shown(before) then
      assert.is_table(rows[path], path)
      assert.same({ shown(before), option.shown or shown(option.default) }, { rows[path][1], rows[path][2] }, path)
      rows[path] = nil
    end
  end
  assert.same({}, rows)
end)
