//! The agent's host, version and metrics: numbers of the right form, and correct ones where they
//! are cheap.

use crate::VERSION;
use crate::acl::{Access, Resource};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{JSON, Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use consul_api::api::agent as wire;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

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
        let reply = Reply::empty(StatusCode::OK).with(CONTENT_TYPE, JSON);
        let why = "Prometheus is not enabled since its retention time is not positive";
        return Ok(reply.with_text("x-consul-reason", why));
    }
    let prefix = format!("consul.{}", host_name(state));
    let gauge = |name: &str, value: u64| json!({"Name": name, "Value": value, "Labels": {}});
    let own = |name: &str, value: u64| gauge(&format!("{prefix}.{name}"), value);
    let nodes = state.catalog.nodes().count() as u64;
    let instances = state.catalog.nodes().map(|record| record.services.len() as u64).sum();
    let mut gauges: Vec<Value> = vec![
        own("autopilot.failure_tolerance", 0),
        own("autopilot.healthy", 1),
        own("members.servers", 1),
        own("raft.applied_index", state.index()),
        own("raft.last_index", state.index()),
        own("server.isLeader", 1),
        own("session_ttl.active", state.sessions.with_ttl() as u64),
        own("state.kv_entries", state.kv.under(b"").count() as u64),
        own("state.nodes", nodes),
        own("state.service_instances", instances),
    ];
    gauges.extend(runtime().into_iter().map(|(name, value)| own(name, value)));
    let metrics = json!({
        "Timestamp": TIMESTAMP, "Gauges": gauges, "Points": [], "Counters": [], "Samples": [],
    });
    Ok(Reply::json(call.style, &metrics))
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

/// The interval of the numbers; a simulated agent has no date.
const TIMESTAMP: &str = "1970-01-01 00:00:00 +0000 UTC";
