//! The agent's host, version and metrics: numbers of the right form, and correct ones where they
//! are cheap.

use super::samples::Sample;
use crate::VERSION;
use crate::acl::{Access, Resource};
use crate::go;
use crate::http::handler::{Handler, Route};
use crate::http::reply::{JSON, Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use consul_api::api::agent as wire;
use consul_process::sync::lock;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::VERSION, Handler::Now(version)),
    Route(&wire::HOST, Handler::Now(host)),
    Route(&wire::METRICS, Handler::Now(metrics)),
];

fn version(_: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let version = json!({
        "SHA": "", "BuildDate": "1970-01-01T00:00:01Z", "HumanVersion": VERSION, "FIPS": "",
    });
    Ok(Reply::json(call.style, &version))
}

/// An invented host with enough of everything.
fn host(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Operator, "", Access::Read)?;
    const GIB: u64 = 1 << 30;
    let nanos = u64::try_from(state.now.since_origin().as_nanos()).unwrap_or(u64::MAX);
    let host = json!({
        "Memory": {
            "total": 8 * GIB, "available": 6 * GIB, "used": 2 * GIB, "usedPercent": 25.0,
            "free": 6 * GIB,
        },
        "CPU": [{
            "cpu": 0, "vendorId": "", "family": "", "model": "", "stepping": 0, "physicalId": "0",
            "coreId": "0", "cores": 1, "modelName": "simulated", "mhz": 1000.0, "cacheSize": 0,
            "flags": [],
        }],
        "Host": {
            "hostname": state.node_name, "uptime": nanos / 1_000_000_000, "bootTime": 0,
            "procs": 1, "os": std::env::consts::OS, "platform": "simulated", "platformFamily": "",
            "platformVersion": "", "kernelVersion": "", "kernelArch": std::env::consts::ARCH,
            "virtualizationSystem": "", "virtualizationRole": "", "hostId": "",
        },
        "Disk": {
            "path": "/", "fstype": "", "total": 64 * GIB, "free": 48 * GIB, "used": 16 * GIB,
            "usedPercent": 25.0,
        },
        "CollectionTime": nanos,
        "Errors": null,
    });
    Ok(Reply::json(call.style, &host))
}

fn metrics(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Agent, &state.node_name, Access::Read)?;
    if call.query.get("format") == "prometheus" {
        if !state.settings.telemetry.has_prometheus {
            let reply = Reply::empty(StatusCode::OK).with(CONTENT_TYPE, JSON);
            let why = "Prometheus is not enabled since its retention time is not positive";
            return Ok(reply.with_text("x-consul-reason", why));
        }
        const TEXT: HeaderValue =
            HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        return Ok(Reply::text(StatusCode::OK, for_prometheus(state)).with(CONTENT_TYPE, TEXT));
    }
    let gauges: Vec<Value> = gauges(state)
        .into_iter()
        .map(|(name, value)| json!({"Name": name, "Value": value, "Labels": {}}))
        .collect();
    let prefix = state.settings.telemetry.prefix.clone();
    let epoch = state.since_1970().saturating_sub(state.now.since_origin());
    let samples = Arc::clone(&state.samples);
    let mut samples = lock(&samples);
    let (begun, last) = samples.last(state.now);
    let one = |name: &str, sample: &Sample, labels: Value| {
        json!({
            "Name": format!("{prefix}.{name}"), "Count": sample.count, "Rate": sample.rate(),
            "Sum": sample.sum, "Min": sample.min, "Max": sample.max, "Mean": sample.mean(),
            "Stddev": sample.deviation(), "Labels": labels,
        })
    };
    let shown: Vec<Value> = last
        .iter()
        .map(|((method, path), sample)| {
            one("api.http", sample, json!({"method": method, "path": label(path)}))
        })
        .collect();
    let count = last.values().map(|sample| sample.count).sum();
    let total = count as f64;
    let requests = Sample { count, sum: total, squares: total, min: 1.0, max: 1.0 };
    let counters: Vec<Value> =
        (count > 0).then(|| one("client.rpc", &requests, json!({}))).into_iter().collect();
    let date = go::date_text(epoch + begun).replace('T', " ");
    let second = date.split(['.', 'Z']).next().unwrap_or_default();
    let metrics = json!({
        "Timestamp": format!("{second} +0000 UTC"), "Gauges": gauges, "Points": [],
        "Counters": counters, "Samples": shown,
    });
    Ok(Reply::json(call.style, &metrics))
}

/// The path of an endpoint as a label.
fn label(path: &str) -> String {
    path.trim_start_matches('/').replace('/', "_")
}

/// The numbers that are not counted, by their names.
fn gauges(state: &State) -> Vec<(String, u64)> {
    let telemetry = &state.settings.telemetry;
    let prefix = match telemetry.without_host {
        true => telemetry.prefix.clone(),
        false => format!("{}.{}", telemetry.prefix, host_name(state)),
    };
    let nodes = state.catalog.nodes().count() as u64;
    let instances = state.catalog.nodes().map(|record| record.services.len() as u64).sum();
    let own = [
        ("autopilot.failure_tolerance", 0),
        ("autopilot.healthy", 1),
        ("members.servers", 1),
        ("raft.applied_index", state.index()),
        ("raft.last_index", state.index()),
        ("raft.peers", 1),
        ("rpc.queries_blocking", state.watches.waiters() as u64),
        ("server.isLeader", 1),
        ("session_ttl.active", state.sessions.with_ttl() as u64),
        ("state.kv_entries", state.kv.len() as u64),
        ("state.nodes", nodes),
        ("state.service_instances", instances),
    ];
    let all = own.into_iter().chain(runtime());
    all.map(|(name, value)| (format!("{prefix}.{name}"), value)).collect()
}

/// The metrics in Prometheus' text format.
fn for_prometheus(state: &State) -> String {
    let name = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric() && c != ':', "_");
    let head = |name: &str, kind: &str| format!("# HELP {name} {name}\n# TYPE {name} {kind}\n");
    let mut text = String::new();
    for (gauge, value) in gauges(state) {
        let gauge = name(&gauge);
        text += &format!("{}{gauge} {value}\n", head(&gauge, "gauge"));
    }
    let prefix = name(&state.settings.telemetry.prefix);
    let samples = lock(&state.samples);
    let count: u64 = samples.all.values().map(|sample| sample.count).sum();
    let requests = format!("{prefix}_client_rpc");
    text += &format!("{}{requests} {count}\n", head(&requests, "counter"));
    let http = format!("{prefix}_api_http");
    text += &head(&http, "summary");
    for ((method, path), sample) in &samples.all {
        let labels = format!("method=\"{method}\",path=\"{}\"", label(path));
        // Numbers of the last seconds, which are not kept.
        for quantile in ["0.5", "0.9", "0.99"] {
            text += &format!("{http}{{{labels},quantile=\"{quantile}\"}} NaN\n");
        }
        text += &format!("{http}_sum{{{labels}}} {}\n", sample.sum);
        text += &format!("{http}_count{{{labels}}} {}\n", sample.count);
    }
    text
}

/// The name in front of the metrics: the machine's.
fn host_name(state: &State) -> String {
    if let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        return name.trim().to_owned();
    }
    state.node_name.clone()
}

/// The memory of the process in bytes, resident and mapped, and its tasks.
fn runtime() -> Vec<(&'static str, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |field: &str| {
        let kib = status.lines().find_map(|line| line.strip_prefix(field))?;
        let kib: u64 = kib.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024)
    };
    let tasks = tokio::runtime::Handle::try_current();
    let tasks = tasks.ok().map(|handle| handle.metrics().num_alive_tasks() as u64);
    let gauges = [
        ("runtime.alloc_bytes", bytes("VmRSS:")),
        ("runtime.sys_bytes", bytes("VmSize:")),
        ("runtime.num_goroutines", tasks),
    ];
    gauges.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}
