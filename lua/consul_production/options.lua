-- Every option of the manager, declared once: its type, default, environment variables, the option of
-- consul_ffi that it sets, or why it has no effect. docs/production.md has them as a table, which a spec
-- compares with this list. Times are in seconds unless the name has another unit.
local options = {}

local option_types = require("consul_ffi.option_types")

local types = option_types.types

-- The host's name, the default of `cluster.node_id`.
local function host_name()
  local file = io.open("/etc/hostname")
  local name = file and file:read("*l")
  if file then
    file:close()
  end
  return types.text.accepts(name) and name or "node"
end

-- { path, type, default } and: `client`, `tls` or `cluster`, the option of consul_ffi that it sets, or its
-- `member`, multiplied by `factor` or with `suffix`; `idle`, why an option never has an effect; `needs`, options;
-- without any of them this one has no effect; `replicas`, an option that needs replicas; `from`, the only source that
-- may set it; `shown`, the default in the documentation when it depends on the host.
local LOGS, METRICS = { "monitoring.log_file", "security.audit_enabled" }, { "monitoring.metrics_enabled" }

options.list = {
  { "consul.servers", "urls", { "http://127.0.0.1:8500" }, env = { "CONSUL_HTTP_ADDR" }, client = "endpoints",
    doc = "The agents or servers. When one fails, the client uses the next one." },
  { "consul.timeout", "seconds", 10, client = "timeout", factor = 1000,
    doc = "The timeout of a call, and of `init`'s search for a server." },
  { "consul.retry_attempts", "count", 3, client = "retry_count",
    doc = "How many times the client repeats a call after a transient failure." },
  { "consul.retry_interval", "seconds", 1, idle = "the client chooses its own pauses: short, growing and random" },
  { "consul.health_check_interval", "seconds", 30,
    doc = "How often `poll` checks the health." },
  { "consul.health_check_timeout", "seconds", 5,
    doc = "How long `monitor_health` waits for each answer of Consul." },
  { "consul.acl_token", "text", nil, env = { "CONSUL_ACL_TOKEN", "CONSUL_HTTP_TOKEN" }, client = "token",
    secret = true, doc = "The ACL token." },
  { "consul.encryption_key", "secrets", nil, alias = "security.encryption_key", secret = true,
    doc = "Another name of `security.encryption_key`." },
  { "consul.tls_enabled", "flag", false,
    doc = "Uses TLS for every server; a server's `https://` URL alone does the same." },
  { "consul.tls_verify", "flag", true, tls = "tls_verify", doc = "Whether the servers' certificates are verified." },
  { "consul.tls_cert_file", "text", nil, tls = "tls_cert_file", doc = "The file with the client certificate, in PEM." },
  { "consul.tls_key_file", "text", nil, tls = "tls_key_file", doc = "The file with its private key, in PEM." },
  { "consul.tls_ca_file", "text", nil, tls = "tls_ca_file",
    doc = "The file with the trusted certificate authorities, in PEM." },
  { "consul.simulate", "simulate", false, client = "simulate",
    doc = "Uses a simulated agent in memory instead of a server; a name selects one of several." },

  { "cluster.node_id", "text", host_name(), env = { "NODE_ID" }, cluster = "node_id", shown = "the host's name",
    doc = "The node's name, unique among the live nodes." },
  { "cluster.node_address", "text", nil, cluster = "node_address",
    doc = "The program's address, `host:port`, which `get_consistent_node` returns on all nodes; without it an empty "
      .. "string." },
  { "cluster.data_address", "text", "127.0.0.1:0", cluster = "data_address",
    doc = "Where the node listens for replicas, `host:port`; beyond loopback it requires `security.encryption_key` or "
      .. "`security.data_tls`." },
  { "cluster.datacenter", "text", nil, env = { "DATACENTER" }, client = "datacenter", doc = "The datacenter." },
  { "cluster.min_nodes", "nodes", 1, cluster = "min_nodes",
    doc = "With fewer live nodes the shard map does not change, and the health reports `too_few_nodes`." },
  { "cluster.notify", "flag", false, cluster = "notify",
    doc = "Whether the node tells systemd that it takes part, and that its program polls (docs/cluster.md)." },
  { "cluster.max_nodes", "nodes", 9, idle = "a cluster has no upper limit" },
  { "cluster.heartbeat_interval", "seconds", 5, cluster = "heartbeat_interval",
    doc = "How often the node verifies its own key. Its liveness check is updated more often." },
  { "cluster.heartbeat_timeout", "seconds", 15,
    idle = "the cluster's profile determines how soon a crash is detected" },
  { "cluster.election_timeout", "seconds", 10, cluster = "start_timeout_ms", factor = 1000,
    doc = "How long `init` waits until the node is a member and the cluster has a leader." },
  { "cluster.leader_lease_duration", "seconds", 60, cluster = "lease_ttl",
    doc = "The TTL of the leader's session, which ends the leadership when both node and agent are lost." },
  { "cluster.consistency_mode", "consistency", "consistent", client = "consistency",
    doc = "The consistency mode of the client's reads; a call can override it." },
  { "cluster.read_timeout", "seconds", 5, doc = "The timeout of `read_data`." },
  { "cluster.write_timeout", "seconds", 5,
    doc = "The timeout of `store_data` for Consul, and again for the replicas." },
  { "cluster.failover_timeout", "seconds", 300, cluster = "replace_after_s",
    doc = "How long a node may be down before other nodes get its shards. Requests avoid it immediately." },
  { "cluster.recovery_interval", "seconds", 60, idle = "client and cluster reconnect by themselves" },
  { "cluster.replication_factor", "nodes", 1, replicas = true,
    doc = "How many nodes store a value in addition to Consul, up to 16; 1 means Consul only." },
  { "cluster.write_quorum", "nodes", 1, replicas = true,
    doc = "How many of these nodes must acknowledge a value before `store_data` succeeds. If it and "
      .. "`cluster.read_quorum` together are not more than the factor, both are at least a majority." },
  { "cluster.read_quorum", "nodes", 1, replicas = true,
    doc = "How many of these nodes must answer for `read_data` to succeed without Consul; see "
      .. "`cluster.write_quorum`." },

  { "storage.kv_prefix", "text", "stock-tsdb/", doc = "The prefix of the keys of values." },
  { "storage.kv_consistency", "consistency", nil,
    doc = "The default consistency mode of `read_data`; without it `cluster.consistency_mode`." },
  { "storage.metadata_prefix", "text", "stock-tsdb-cluster/", cluster = "nodes_prefix", suffix = "nodes/",
    doc = "The prefix of the cluster's keys." },
  { "storage.lock_prefix", "text", "stock-tsdb-cluster/", cluster = "leader_key", suffix = "leader",
    doc = "The prefix of the leader's key." },
  { "storage.session_prefix", "text", "sessions/", idle = "sessions have no keys" },

  { "monitoring.metrics_enabled", "flag", true,
    doc = "Whether response times and errors are measured, which the health needs to report `slow` and `error_rate`." },
  { "monitoring.metrics_interval", "seconds", 60, needs = METRICS, doc = "The period over which they are measured." },
  { "monitoring.all_checks", "flag", false,
    doc = "Whether the health counts every critical check of the agent, also of other programs, and not only "
      .. "the checks of the node and of what the program has registered by the manager's client." },
  { "monitoring.log_level", "level", "WARN", client = "log_level", doc = "The least severe level that is logged." },
  { "monitoring.log", "callback", nil, from = "Lua", client = "log",
    doc = "The program's function for lines of the log, `log(level, message, fields)`, instead of standard error." },
  { "monitoring.log_format", "format", "text", client = "log_format",
    doc = "How lines are written to standard error: as text, or as JSON objects." },
  { "monitoring.log_file", "text", nil,
    doc = "A file for the manager's lines; without it they go where the library's go." },
  { "monitoring.log_max_size", "number", 100, needs = LOGS, doc = "The size in MB at which a log file is rotated." },
  { "monitoring.log_max_backups", "count", 10, needs = LOGS, doc = "How many rotated files are kept." },
  { "monitoring.log_max_age", "number", 30, needs = LOGS, doc = "How many days a rotated file is kept." },
  { "monitoring.alert_enabled", "flag", true, doc = "Whether changes of the health queue alerts." },
  { "monitoring.on_alert", "callback", nil, from = "Lua",
    doc = "The program's function that `poll` calls with each alert, so that none is left for `next_alert`." },
  { "monitoring.alert_threshold.node_down_count", "nodes", 2,
    doc = "The health reports `nodes_down` from this number of down nodes on." },
  { "monitoring.alert_threshold.response_time_ms", "number", 5000, needs = METRICS,
    doc = "The health reports `slow` when the mean response time is above this number of milliseconds." },
  { "monitoring.alert_threshold.error_rate_percent", "number", 5, needs = METRICS,
    doc = "The health reports `error_rate` when more than this percentage of the calls fail." },

  { "security.enable_acl", "flag", false, doc = "Whether `init` requires an ACL token." },
  { "security.acl_policy_file", "text", nil, idle = "an administrator creates the policies (docs/production.md)" },
  { "security.encrypt_traffic", "flag", false, cluster = "encrypt_traffic",
    doc = "Whether `init` requires the three files of `security.data_tls`, which encrypt the traffic between nodes. "
      .. "`consul.tls_enabled` encrypts the connections to Consul." },
  { "security.data_tls.cert_file", "text", nil, cluster = "data_tls", member = "cert_file",
    doc = "The file with the node's certificate for mutual TLS between the nodes, in PEM." },
  { "security.data_tls.key_file", "text", nil, cluster = "data_tls", member = "key_file",
    doc = "The file with its private key, in PEM." },
  { "security.data_tls.ca_file", "text", nil, cluster = "data_tls", member = "ca_file",
    doc = "The file with the authorities, in PEM. Each certificate that they have signed is one of a member." },
  { "security.encryption_key", "secrets", nil, env = { "CONSUL_ENCRYPTION_KEY" }, cluster = "cluster_key",
    secret = true,
    doc = "The shared key with which the nodes of the cluster authenticate each other. With a list, nodes "
      .. "call each other if their lists have a key in common, so that it can be rotated." },
  { "security.audit_enabled", "flag", false,
    doc = "Whether the audit log records each operation with node, key and result." },
  { "security.audit_log_file", "text", nil, needs = { "security.audit_enabled" },
    doc = "The audit log's file." },

  { "sources.file", "text", nil, from = "Lua", doc = "A TOML file with options." },
  { "sources.kv_prefix", "text", nil, from = "Lua",
    doc = "A prefix of keys in Consul with options: `<prefix>cluster/min_nodes`." },
}

-- `by_path`: the options; `sections`: by path, the names of a section's options and inner sections;
-- `order`: the paths of the sections, the outer ones first.
options.by_path, options.sections, options.order = {}, {}, {}

for _, option in ipairs(options.list) do
  option.path, option.kind, option.default = option[1], types[option[2]], option[3]
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

local function text_of(value)
  return type(value) == "table" and table.concat(value, "\n") or tostring(value)
end

-- Puts a value into `found`, by the path of its option; an empty secret is none. Returns why that is not
-- possible, else nil.
function options.put(found, option, value)
  if option.secret and value == "" then
    return nil
  end
  local why = options.refusal(option, value)
  if why then
    return why
  end
  local path = option.alias or option.path
  if found[path] ~= nil and text_of(found[path]) ~= text_of(value) then
    return ("must not differ from %s, its other name"):format(option.alias and path or "consul.encryption_key")
  end
  found[path] = value
end

-- Returns why an option does not accept a value; nil when it does.
function options.refusal(option, value)
  return option_types.refusal(option.kind, value, option.secret)
end

-- Lists the names in a section, for messages about unknown ones.
function options.known(section)
  if section == "" then
    return "the sections are: consul, cluster, storage, monitoring, security, sources"
  end
  return ("%s has: %s"):format(section, table.concat(options.sections[section], ", "))
end

return options
