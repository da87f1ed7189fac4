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
