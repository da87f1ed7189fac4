-- Every option of the manager, declared once: what it takes, its default, the environment variables
-- that say it, where it goes, or why it is not in force. docs/production.md has them as a table, which
-- a spec compares. Times are in seconds unless the name says otherwise.
local options = {}

-- What an option takes: words for messages, a test, and how text (of the environment, of a key in
-- Consul) becomes such a value.
local function is_text(value)
  return type(value) == "string" and value ~= ""
end

local function is_finite(value)
  return type(value) == "number" and value == value and value < math.huge
end

local function same(text)
  return text
end

local takes = {
  text = { words = "a non-empty string", accepts = is_text, read = same },
  flag = {
    words = "true or false",
    accepts = function(value)
      return type(value) == "boolean"
    end,
    read = function(text)
      local read = { ["true"] = true, ["1"] = true, ["false"] = false, ["0"] = false }
      return read[text:lower()]
    end,
  },
  seconds = {
    words = "a positive number of seconds",
    accepts = function(value)
      return is_finite(value) and value > 0
    end,
    read = tonumber,
  },
  number = {
    words = "a positive number",
    accepts = function(value)
      return is_finite(value) and value > 0
    end,
    read = tonumber,
  },
  count = {
    words = "an integer, 0 or more",
    accepts = function(value)
      return is_finite(value) and value >= 0 and value % 1 == 0
    end,
    read = tonumber,
  },
  nodes = {
    words = "an integer, 1 or more",
    accepts = function(value)
      return is_finite(value) and value >= 1 and value % 1 == 0
    end,
    read = tonumber,
  },
  urls = {
    words = "a list of URLs",
    accepts = function(value)
      if type(value) ~= "table" or #value == 0 then
        return false
      end
      for _, url in ipairs(value) do
        if not is_text(url) then
          return false
        end
      end
      return true
    end,
    read = function(text)
      local urls = {}
      for url in text:gmatch("[^,%s]+") do
        urls[#urls + 1] = url
      end
      return urls
    end,
  },
  simulate = {
    words = "true, false or the name of a simulated agent",
    accepts = function(value)
      return type(value) == "boolean" or is_text(value)
    end,
    read = function(text)
      local read = { ["true"] = true, ["false"] = false }
      return read[text] == nil and text or read[text]
    end,
  },
  consistency = { words = '"default", "stale" or "consistent"', names = { "default", "stale", "consistent" } },
  level = { words = '"DEBUG", "INFO", "WARN" or "ERROR"', names = { "DEBUG", "INFO", "WARN", "ERROR" } },
}

for _, kind in pairs(takes) do
  if kind.names then
    kind.read = same
    kind.accepts = function(value)
      for _, name in ipairs(kind.names) do
        if name == value then
          return true
        end
      end
      return false
    end
  end
end

-- The machine's name, by which its node is known when nobody says another.
local function machine()
  local file = io.open("/etc/hostname")
  local name = file and file:read("*l")
  if file then
    file:close()
  end
  return is_text(name) and name or "node"
end

-- `client` and `cluster` are the names of the options of consul_ffi that a value becomes, times
-- `factor`. An option with `idle` is never in force, and that is why. `shown` is how the documentation says
-- a default that depends on the machine. One of those that it `needs` must be there for it to have an effect.
local LOGS, METRICS = { "monitoring.log_file", "security.audit_enabled" }, { "monitoring.metrics_enabled" }

options.list = {
  { "consul.servers", "urls", { "http://127.0.0.1:8500" }, env = { "CONSUL_HTTP_ADDR" }, client = "endpoints",
    doc = "The agents or servers; the client asks the next one when one fails." },
  { "consul.timeout", "seconds", 10, client = "timeout", factor = 1000,
    doc = "The longest that a call, and `init`'s search for a server, may take." },
  { "consul.retry_attempts", "count", 3, client = "retry_count",
    doc = "How many times the client makes a call again after a failure that may pass." },
  { "consul.retry_interval", "seconds", 1, idle = "the client chooses its pauses itself: short, growing, by chance" },
  { "consul.health_check_interval", "seconds", 10,
    doc = "How often `poll` looks at the health by itself." },
  { "consul.health_check_timeout", "seconds", 2,
    doc = "How long `monitor_health` waits for Consul." },
  { "consul.acl_token", "text", nil, env = { "CONSUL_ACL_TOKEN", "CONSUL_HTTP_TOKEN" }, client = "token", secret = true,
    doc = "The ACL token." },
  { "consul.tls_enabled", "flag", false, doc = "Every server is spoken to over TLS; `https://` alone does so too." },
  { "consul.tls_verify", "flag", true, tls = "tls_verify", doc = "Servers' certificates are checked." },
  { "consul.tls_cert_file", "text", nil, tls = "tls_cert_file", doc = "The certificate that is shown to servers." },
  { "consul.tls_key_file", "text", nil, tls = "tls_key_file", doc = "The key of that certificate." },
  { "consul.tls_ca_file", "text", nil, tls = "tls_ca_file", doc = "The authorities that servers are trusted by." },
  { "consul.simulate", "simulate", false, client = "simulate", doc = "An agent in memory instead of a server." },

  { "cluster.node_id", "text", machine(), env = { "NODE_ID" }, cluster = "node_id", shown = "the machine's name",
    doc = "The node's name, which no other live node has." },
  { "cluster.node_address", "text", "127.0.0.1:0", cluster = "node_address",
    doc = "Where others find the program, `host:port`; `get_consistent_node` gives it." },
  { "cluster.data_address", "text", "127.0.0.1:0", cluster = "data_address",
    doc = "Where the node listens for replicas, `host:port`; beyond loopback it takes `security.encryption_key`." },
  { "cluster.datacenter", "text", nil, env = { "DATACENTER" }, client = "datacenter", doc = "The datacenter." },
  { "cluster.min_nodes", "nodes", 1, cluster = "min_nodes",
    doc = "With fewer live nodes the shard map stays as it is, and the health says `too_few_nodes`." },
  { "cluster.max_nodes", "nodes", 100, idle = "a cluster has no upper bound" },
  { "cluster.heartbeat_interval", "seconds", 5, cluster = "heartbeat_interval",
    doc = "How often the node reads its own key back. Its sign of life is its check, more often." },
  { "cluster.heartbeat_timeout", "seconds", 30, idle = "how soon a crash is noticed is said by the cluster's profile" },
  { "cluster.election_timeout", "seconds", 10, cluster = "start_timeout_ms", factor = 1000,
    doc = "How long `init` waits until the node is a member and somebody leads." },
  { "cluster.leader_lease_duration", "seconds", 30, cluster = "lease_ttl",
    doc = "The TTL of the leader's session: the backstop when node and agent are both gone." },
  { "cluster.consistency_mode", "consistency", "default", client = "consistency",
    doc = "How fresh the reads of the client are unless a call says otherwise." },
  { "cluster.read_timeout", "seconds", 5, doc = "The longest that `read_data` may take." },
  { "cluster.write_timeout", "seconds", 5,
    doc = "The longest that `store_data` may wait for Consul, and then for the replicas." },
  { "cluster.failover_timeout", "seconds", 300, cluster = "replace_after_s",
    doc = "How long a node may be away before others get its shards. Requests avoid it at once." },
  { "cluster.recovery_interval", "seconds", 10, idle = "client and cluster look for Consul by themselves" },
  { "cluster.replication_factor", "nodes", 1, replicas = true,
    doc = "On how many nodes a value stands besides Consul." },
  { "cluster.write_quorum", "nodes", 1, replicas = true,
    doc = "How many of them must have acknowledged a value before `store_data` succeeds." },
  { "cluster.read_quorum", "nodes", 1, replicas = true,
    doc = "How many of them must answer when Consul cannot, so that `read_data` succeeds." },

  { "storage.kv_prefix", "text", "stock-tsdb/", doc = "What the keys of values begin with." },
  { "storage.kv_consistency", "consistency", nil,
    doc = "How fresh `read_data` is unless it says otherwise; without it `cluster.consistency_mode`." },
  { "storage.metadata_prefix", "text", "stock-tsdb-cluster/", cluster = "nodes_prefix", suffix = "nodes/",
    doc = "What the keys of the cluster begin with." },
  { "storage.lock_prefix", "text", "stock-tsdb-cluster/", cluster = "leader_key", suffix = "leader",
    doc = "What the key of the leadership begins with." },
  { "storage.session_prefix", "text", "stock-tsdb-sessions/", idle = "sessions have no keys" },

  { "monitoring.metrics_enabled", "flag", true,
    doc = "Response times and errors are counted, so that the health can say `slow` and `error_rate`." },
  { "monitoring.metrics_interval", "seconds", 60, needs = METRICS, doc = "The time over which they are counted." },
  { "monitoring.log_level", "level", "WARN", client = "log_level", doc = "What is logged." },
  { "monitoring.log_file", "text", nil, doc = "Where the manager logs to; without it standard error." },
  { "monitoring.log_max_size", "number", 100, needs = LOGS, doc = "The size in MB at which a log file is put aside." },
  { "monitoring.log_max_backups", "count", 10, needs = LOGS, doc = "How many of those are kept." },
  { "monitoring.log_max_age", "number", 30, needs = LOGS, doc = "How many days they are kept." },
  { "monitoring.alert_enabled", "flag", true, doc = "Changes of the health become alerts." },
  { "monitoring.alert_threshold.node_down_count", "nodes", 1,
    doc = "So many nodes that are down are said as `nodes_down`." },
  { "monitoring.alert_threshold.response_time_ms", "number", 1000, needs = METRICS,
    doc = "A mean response time above this is said as `slow`, in milliseconds." },
  { "monitoring.alert_threshold.error_rate_percent", "number", 5, needs = METRICS,
    doc = "A share of failed calls above this is said as `error_rate`, in percent." },

  { "security.enable_acl", "flag", false, doc = "`init` insists on an ACL token." },
  { "security.acl_policy_file", "text", nil, idle = "policies are made by an administrator (docs/production.md)" },
  { "security.encrypt_traffic", "flag", false,
    idle = "the way to Consul is encrypted by consul.tls_enabled, and replicas are authenticated, not encrypted" },
  { "security.encryption_key", "text", nil, env = { "CONSUL_ENCRYPTION_KEY" }, cluster = "cluster_key",
    secret = true,
    doc = "The key by which the nodes of the cluster know each other." },
  { "security.audit_enabled", "flag", false, doc = "Who did what with which key is written down." },
  { "security.audit_log_file", "text", nil, needs = { "security.audit_enabled" }, doc = "Where to." },

  { "sources.file", "text", nil, from = "Lua", doc = "A TOML file with options." },
  { "sources.kv_prefix", "text", nil, from = "Lua",
    doc = "A prefix of keys in Consul with options: `<prefix>cluster/min_nodes`." },
}

-- By path; for each section its members' names, of options and of sections within; and the sections in
-- order, the outer ones first.
options.by_path, options.sections, options.order = {}, {}, {}

for _, option in ipairs(options.list) do
  option.path, option.kind, option.default = option[1], takes[option[2]], option[3]
  options.by_path[option.path] = option
  local section, name = option.path:match("^(.*)%.([^.]*)$")
  if not options.sections[section] then
    options.sections[section] = {}
    table.insert(options.order, section)
    local outer, inner = section:match("^(.*)%.([^.]*)$")
    if outer then
      table.insert(options.sections[outer], inner)
    end
  end
  table.insert(options.sections[section], name)
end

-- Why an option does not take a value; nil when it does.
function options.refusal(option, value)
  if not option.kind.accepts(value) then
    local shown = type(value) == "table" and "a table" or option.secret and "another value" or tostring(value)
    return ("must be %s, got %s"):format(option.kind.words, shown)
  end
end

-- What a section knows, for messages about what it does not.
function options.known(section)
  if section == "" then
    return "known are consul, cluster, storage, monitoring, security and sources"
  end
  return ("%s has %s"):format(section, table.concat(options.sections[section], ", "))
end

return options
