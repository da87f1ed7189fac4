//! Requests that few clients send, with their answers on a real Consul 1.21.

use crate::served::{Outcome, PATIENCE, ask, shown};
use crate::support::authority::Folder;
use crate::support::consul::{self, RealConsul};
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let what = "requests that few clients send, on Consul 1.21";
    let missing = consul::is_missing(consul::SIM, what) || consul::is_missing("1.21", what);
    trials.add_unless(missing, "they_get_the_same_answers [1.21]", they_get_the_same_answers);
    trials.add_unless(missing, "before_the_bootstrap_too [1.21]", before_the_bootstrap_too);
    let name = "metrics_for_prometheus_have_consuls_names [1.21]";
    trials.add_unless(missing, name, metrics_for_prometheus_have_consuls_names);
    let name = "they_say_the_same_of_themselves [1.21]";
    trials.add_unless(missing, name, they_say_the_same_of_themselves);
    let name = "they_show_the_same_of_their_configuration [1.21]";
    trials.add_unless(missing, name, they_show_the_same_of_their_configuration);
    trials
}

const REQUESTS: &[(&str, &str, &str)] = &[
    ("PUT", "/v1/agent/service/register", r#"{"Name": "a", "Check": {"TTL": "0s"}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name": "b", "Check": {}}"#),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name": "c", "Check": {"TTL": "0s", "Status": "passing"}}"#,
    ),
    ("PUT", "/v1/agent/service/register", r#"{"Name": "d", "Check": {"Name": "x"}}"#),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name": "e", "Checks": [{"TTL": "0s"}, {"TTL": "5s"}]}"#,
    ),
    ("GET", "/v1/agent/services", ""),
    ("GET", "/v1/agent/checks", ""),
    (
        "PUT",
        "/v1/catalog/register",
        r#"{"Node": "n", "Address": "10.0.0.1", "Service": {"Service": "s", "Address": "0.0.0.0"}}"#,
    ),
    (
        "PUT",
        "/v1/catalog/register",
        r#"{"Node": "n", "Address": "10.0.0.1", "Service": {"Service": "s", "Address": "::"}}"#,
    ),
    (
        "PUT",
        "/v1/catalog/register",
        r#"{"Node": "n", "Address": "0.0.0.0", "Service": {"Service": "s", "Weights": {"Passing": 0}}}"#,
    ),
    ("GET", "/v1/catalog/service/s", ""),
    (
        "PUT",
        "/v1/catalog/register",
        r#"{"Node": "n", "Address": "10.0.0.1", "Service": {"Service": "s", "Weights": {"Passing": 0, "Warning": 3}}}"#,
    ),
    (
        "PUT",
        "/v1/catalog/register",
        r#"{"Node": "n", "Address": "10.0.0.1", "Service": {"Service": "t", "Weights": {"Passing": 3}}}"#,
    ),
    ("GET", "/v1/catalog/node/n", ""),
    ("GET", "/v1/health/service/s?peer=x", ""),
    ("GET", "/v1/health/connect/s?peer=x", ""),
    ("GET", "/v1/health/service/s?sg=x", ""),
    ("GET", "/v1/health/connect/s?sg=x", ""),
    ("GET", "/v1/health/service/s?sg=x&peer=y", ""),
    ("GET", "/v1/health/checks/s?peer=x", ""),
    ("GET", "/v1/catalog/service/s?peer=x", ""),
    (
        "PUT",
        "/v1/catalog/register",
        r#"{"Node": "n", "Address": "10.0.0.1", "Locality": {"Region": "r", "Zone": "z"}, "Service": {"Service": "u", "Locality": {"Region": "r"}}}"#,
    ),
    ("GET", "/v1/catalog/node/n", ""),
    ("GET", "/v1/catalog/service/u", ""),
    ("GET", "/v1/health/service/u", ""),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name": "f", "Locality": {"Region": "r"}, "Check": {"TTL": "1h"}}"#,
    ),
    ("GET", "/v1/agent/service/f", ""),
    // Empty lists, and null in their place.
    ("GET", "/v1/agent/health/service/id/f", ""),
    ("GET", "/v1/agent/health/service/name/f", ""),
    ("GET", "/v1/agent/health/service/name/none", ""),
    ("GET", "/v1/catalog/node-services/n?filter=Port==1", ""),
    ("GET", "/v1/catalog/node-services/none?filter=Port==1", ""),
    ("GET", "/v1/catalog/node/n?filter=Port==1", ""),
    ("GET", "/v1/catalog/service/u?filter=ServicePort==1", ""),
    ("GET", "/v1/health/service/u?filter=Service.Port==1", ""),
    ("GET", "/v1/health/node/n?filter=Status==passing", ""),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name": "g", "Check": {"TTL": "1h", "Interval": "-90s", "Timeout": -1}}"#,
    ),
    ("PUT", "/v1/agent/service/register", r#"{"Name": "h", "Check": {"Method": "PUT"}}"#),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name": "i", "Check": {"TTL": true, "Interval": 0.5}}"#,
    ),
    ("GET", "/v1/agent/checks", ""),
    ("PUT", "/v1/catalog/register", r#"{"Node": "n", "Address": "10.0.0.1", "Namespace": "x"}"#),
    ("PUT", "/v1/catalog/deregister", r#"{"Node": "n", "Address": 1}"#),
    ("PUT", "/v1/catalog/deregister", r#"{"Node": "n", "CheckID": 1}"#),
    ("PUT", "/v1/agent/force-leave/n?partition=x", ""),
];

/// Of agents with ACLs that nobody has bootstrapped.
const NOT_BOOTSTRAPPED: &[(&str, &str, &str)] = &[
    ("GET", "/v1/kv/a?token=none", ""),
    ("PUT", "/v1/kv/a?token=none", "x"),
    ("GET", "/v1/agent/services?token=none", ""),
    ("GET", "/v1/catalog/nodes?token=none", ""),
    ("GET", "/v1/acl/tokens?token=none", ""),
    ("GET", "/v1/acl/tokens", ""),
    ("DELETE", "/v1/acl/policy/5d2c1b1e-0000-4000-8000-000000000000?token=none", ""),
    ("PUT", "/v1/acl/bootstrap", "x"),
];

/// The names of all members, down to the last, with the type of each. Neither has a port for gRPC, so neither has `xDS`.
fn they_say_the_same_of_themselves() -> Outcome {
    let [ours, real] = [consul::SIM, "1.21"].map(|version| {
        let mut members = BTreeSet::new();
        add_types("", &of_itself(&RealConsul::start(version)?)?, &mut members);
        Ok::<_, Failed>(members)
    });
    let (ours, real) = (ours?, real?);
    let different: Vec<_> = ours.symmetric_difference(&real).collect();
    match different.is_empty() {
        true => Ok(()),
        false => Err(format!("{different:#?}").into()),
    }
}

/// Keys of the configuration whose values an agent shows.
const CONFIGURATION: &str = r#"
node_name = "n1"
session_ttl_min = "5s" default_query_time = "7s" max_query_time = "70s" check_output_max_size = 100
discard_check_output = true enable_debug = false leave_on_terminate = true skip_leave_on_interrupt = false
translate_wan_addrs = true domain = "test." alt_domain = "alt" enable_script_checks = true log_level = "warn"
node_meta { a = "b" } check_update_interval = "1m" enable_central_service_config = false reconnect_timeout = "9h"
reconnect_timeout_wan = "10h" retry_interval = "31s" retry_max = 3 segment_limit = 5 syslog_facility = "LOCAL3"
log_json = true disable_coordinates = true disable_anonymous_signature = false disable_remote_exec = false
use_streaming_backend = false raft_snapshot_threshold = 5 raft_snapshot_interval = "7s" raft_trailing_logs = 9
default_intention_policy = "allow" enable_agent_tls_for_checks = true encrypt_verify_incoming = false
encrypt_verify_outgoing = false rejoin_after_leave = true server_rejoin_age_max = "200h" recursors = ["127.0.0.1"]
limits {
  kv_max_value_size = 1000 txn_max_req_len = 5000 http_max_conns_per_client = 77 https_handshake_timeout = "9s"
  rpc_rate = 100 rpc_max_burst = 50 request_limits { mode = "permissive" read_rate = 1000 write_rate = 2000 }
}
http_config {
  response_headers { X = "y" } block_endpoints = ["/v1/xx"] use_cache = false
  allow_write_http_from = ["127.0.0.0/8"] max_header_bytes = 10000
}
dns_config {
  node_ttl = "3s" service_ttl { web = "5s" "*" = "90s" } only_passing = true udp_answer_limit = 5 a_record_limit = 2
  enable_truncate = true disable_compression = true allow_stale = false max_stale = "5s" use_cache = true
  cache_max_age = "9s" enable_additional_node_meta_txt = false recursor_timeout = "3s" recursor_strategy = "random"
  soa { min_ttl = 5 refresh = 6 retry = 7 expire = 8 }
}
telemetry {
  metrics_prefix = "mm" disable_hostname = true prometheus_retention_time = "60s" prefix_filter = ["+a", "-b"]
  dogstatsd_tags = ["x"] enable_host_metrics = false
}
autopilot {
  cleanup_dead_servers = false last_contact_threshold = "3s" max_trailing_logs = 5
  server_stabilization_time = "4s" min_quorum = 3
}
performance { leave_drain_time = "6s" rpc_hold_timeout = "8s" }
ports { sidecar_min_port = 30000 sidecar_max_port = 30100 expose_min_port = 31000 expose_max_port = 31010 }
acl {
  default_policy = "allow" down_policy = "deny" token_ttl = "31s" policy_ttl = "32s" role_ttl = "33s"
  enable_token_persistence = true enable_token_replication = true enable_key_list_policy = true
}
rpc { enable_streaming = false }
gossip_lan { gossip_nodes = 5 probe_interval = "3s" }
unix_sockets { mode = "0700" }
ui_config { enabled = true content_path = "/x/" }
xds { update_max_per_second = 5 }
locality { region = "r" zone = "z" }
peering { enabled = false }
"#;

fn they_show_the_same_of_their_configuration() -> Outcome {
    let folder = Folder::new();
    let given = folder.file("given.hcl", CONFIGURATION);
    let empty = folder.file("empty.hcl", "node_name = \"n1\"");
    let mut different = Vec::new();
    for file in [&given, &empty] {
        let [ours, real] = [consul::SIM, "1.21"].map(|version| {
            let agent = RealConsul::start_with_config(version, file)?;
            let own = of_itself(&agent)?["DebugConfig"].clone();
            let mut values = BTreeSet::new();
            // Each has ports and an id of its own.
            let ports = ["HTTPPort", "DNSPort", "ServerPort", "SerfPortLAN", "SerfPortWAN"];
            let own_texts =
                ports.iter().map(|name| (format!(":{}\"", own[*name]), format!(":{name}\"")));
            let mut text = own.to_string();
            for (from, to) in own_texts {
                text = text.replace(&from, &to);
            }
            text = text.replace(own["NodeID"].as_str().unwrap_or_default(), "NodeID");
            let mut own: Value = serde_json::from_str(&text)?;
            for name in ports {
                own[name] = Value::Null;
            }
            add_values("", &own, &mut values);
            Ok::<_, Failed>(values)
        });
        let (ours, real) = (ours?, real?);
        let names = |one: &BTreeSet<String>, other: &BTreeSet<String>, whose: &str| {
            one.difference(other).map(|line| format!("{whose}: {line}")).collect::<Vec<_>>()
        };
        different.extend(names(&ours, &real, "consul-sim"));
        different.extend(names(&real, &ours, "1.21"));
    }
    match different.is_empty() {
        true => Ok(()),
        false => Err(different.join("\n").into()),
    }
}

fn add_values(path: &str, value: &Value, values: &mut BTreeSet<String>) {
    match value {
        Value::Object(inner) => {
            for (name, value) in inner {
                add_values(&format!("{path}/{name}"), value, values);
            }
        }
        _ => {
            values.insert(format!("{path} {value}"));
        }
    }
}

fn add_types(path: &str, value: &Value, members: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(inner) => {
            for (name, value) in inner {
                add_types(&format!("{path}/{name}"), value, members);
            }
            "object"
        }
    };
    members.insert(format!("{path} {kind}"));
}

/// Those here are a part of Consul's, of the same types.
fn metrics_for_prometheus_have_consuls_names() -> Outcome {
    let folder = Folder::new();
    let config = "telemetry { prometheus_retention_time = \"30s\" disable_hostname = true }";
    let file = folder.file("telemetry.hcl", config);
    let types = |version| {
        let agent = RealConsul::start_with_config(version, &file)?;
        for _ in 0..3 {
            ask(&agent.address, "GET", "/v1/catalog/nodes", "")?;
        }
        let read = || ask(&agent.address, "GET", "/v1/agent/metrics?format=prometheus", "");
        let end = Instant::now() + PATIENCE;
        let mut text = read()?.text;
        // Consul measures its memory at intervals.
        while !text.contains("consul_runtime_alloc_bytes") && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100));
            text = read()?.text;
        }
        let lines = text.lines().filter(|line| line.starts_with("# TYPE "));
        let of_nodes = r#"consul_api_http_count{method="GET",path="v1_catalog_nodes"} "#;
        let count = text.lines().find_map(|line| line.strip_prefix(of_nodes)?.trim().parse().ok());
        let is_counted = count >= Some(3);
        let is_text = text.contains("text/plain; version=0.0.4");
        Ok::<_, Failed>((lines.map(str::to_owned).collect::<BTreeSet<_>>(), is_counted, is_text))
    };
    let (ours, real) = (types(consul::SIM)?, types("1.21")?);
    let own: Vec<_> = ours.0.difference(&real.0).collect();
    match own.is_empty()
        && ours.0.len() > 10
        && (ours.1, ours.2, real.1, real.2) == (true, true, true, true)
    {
        true => Ok(()),
        false => Err(format!("{own:?} {ours:?} {:?}", (real.1, real.2)).into()),
    }
}

fn they_get_the_same_answers() -> Outcome {
    compare(&[RealConsul::start(consul::SIM)?, RealConsul::start("1.21")?], REQUESTS)
}

fn before_the_bootstrap_too() -> Outcome {
    let name = format!("consul_ffi-acl-{:016x}.hcl", fastrand::u64(..));
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, "acl { enabled = true, default_policy = \"allow\" }")?;
    let path = file.to_str().ok_or("a path that is text")?;
    let start = |version| RealConsul::start_with_config(version, path);
    let outcome = compare(&[start(consul::SIM)?, start("1.21")?], NOT_BOOTSTRAPPED);
    std::fs::remove_file(&file)?;
    outcome
}

fn compare([ours, real]: &[RealConsul; 2], requests: &[(&str, &str, &str)]) -> Outcome {
    let names = [own_name(ours)?, own_name(real)?];
    let mut different = Vec::new();
    for (method, path, body) in requests {
        let shown = |agent: &RealConsul, name: &str| {
            let text = shown(&agent.address, method, path, body)?;
            Ok::<_, Failed>(text.replace(&format!("\"Node\": \"{name}\""), "\"Node\": its own"))
        };
        let [ours, theirs] = [shown(ours, &names[0])?, shown(real, &names[1])?];
        if ours != theirs {
            different.push(format!("{method} {path} {body}\n{ours}\n\non 1.21:\n{theirs}"));
        }
    }
    if different.is_empty() { Ok(()) } else { Err(different.join("\n\n").into()) }
}

fn own_name(agent: &RealConsul) -> Result<String, Failed> {
    let own = of_itself(agent)?;
    Ok(own["Config"]["NodeName"].as_str().unwrap_or_default().to_owned())
}

fn of_itself(agent: &RealConsul) -> Result<Value, Failed> {
    let said = ask(&agent.address, "GET", "/v1/agent/self", "")?.text;
    let body = said.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(serde_json::from_str(body)?)
}
