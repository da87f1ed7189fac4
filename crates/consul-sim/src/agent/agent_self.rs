//! `/v1/agent/self`: the agent's configuration, member and figures.

use crate::acl::DefaultPolicy;
use crate::settings::Ports;
use crate::store::State;
use crate::store::catalog::TextMap;
use crate::{VERSION, operator};
use consul_process::sync::lock;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct About {
    config: Config,
    debug_config: Map<String, Value>,
    coord: Coord,
    member: Member,
    stats: BTreeMap<&'static str, BTreeMap<&'static str, String>>,
    meta: TextMap,
    #[serde(rename = "xDS", skip_serializing_if = "Option::is_none")]
    xds: Option<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    datacenter: String,
    primary_datacenter: String,
    node_name: String,
    #[serde(rename = "NodeID")]
    node_id: String,
    revision: &'static str,
    server: bool,
    version: &'static str,
    build_date: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Coord {
    vec: [u8; 8],
    error: f64,
    adjustment: u8,
    height: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Member {
    name: String,
    addr: IpAddr,
    port: u16,
    tags: BTreeMap<&'static str, String>,
    status: u8,
    protocol_min: u8,
    protocol_max: u8,
    protocol_cur: u8,
    delegate_min: u8,
    delegate_max: u8,
    delegate_cur: u8,
}

/// The body of `agent/self`.
pub(crate) fn about(state: &State) -> About {
    let name = state.node_name.clone();
    let datacenter = &state.settings.datacenter;
    let node = state.local.node.as_ref();
    let id = node.map(|node| node.id.clone()).unwrap_or_default();
    About {
        config: Config {
            datacenter: datacenter.clone(),
            primary_datacenter: datacenter.clone(),
            node_name: name.clone(),
            node_id: id.clone(),
            revision: "",
            server: true,
            version: VERSION,
            build_date: "1970-01-01T00:00:01Z",
        },
        debug_config: debug_config(state, &id),
        coord: Coord { vec: [0; 8], error: 1.5, adjustment: 0, height: 0.000_01 },
        member: member(state),
        stats: stats(state),
        meta: node.and_then(|node| node.meta.clone()).unwrap_or_default(),
        xds: xds(&state.settings.ports),
    }
}

/// The values that Consul 1.21.0 shows of a configuration that sets nothing.
pub(crate) static STANDARD: LazyLock<Map<String, Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("debug_config.json")).unwrap_or_default());

/// The configuration with every member that Consul shows.
fn debug_config(state: &State, id: &str) -> Map<String, Value> {
    let (settings, name) = (&state.settings, state.node_name.as_str());
    let (datacenter, ports) = (settings.datacenter.as_str(), &settings.ports);
    let number = |port: Option<u16>| port.map_or(-1, i32::from);
    let url = |port: u16| format!("tcp://{}", SocketAddr::new(settings.address, port));
    let urls = |port: Option<u16>| port.map(url).into_iter().collect::<Vec<_>>();
    let tagged = state.local.node.as_ref().and_then(|node| node.tagged_addresses.clone());
    let acls = state.acl.is_enabled();
    let policy = match state.acl.default_policy() {
        DefaultPolicy::Allow => "allow",
        DefaultPolicy::Deny => "deny",
    };
    let own = json!({
        "ACLsEnabled": acls,
        "AdvertiseAddrLAN": settings.address,
        "AdvertiseAddrWAN": settings.address,
        "ConnectEnabled": state.connect,
        "ConnectSidecarMaxPort": ports.sidecars.end(),
        "ConnectSidecarMinPort": ports.sidecars.start(),
        "Datacenter": datacenter,
        "GRPCAddrs": urls(ports.grpc),
        "GRPCPort": number(ports.grpc),
        "GRPCTLSAddrs": urls(ports.grpc_tls),
        "GRPCTLSPort": number(ports.grpc_tls),
        "NodeID": id,
        "NodeName": name,
        "PrimaryDatacenter": datacenter,
        "RPCAdvertiseAddr": url(ports.server),
        "RPCBindAddr": url(ports.server),
        "SerfAdvertiseAddrLAN": url(ports.serf_lan),
        "SerfAdvertiseAddrWAN": ports.serf_wan.map(url).unwrap_or_default(),
        "SerfBindAddrLAN": url(ports.serf_lan),
        "SerfBindAddrWAN": ports.serf_wan.map(url).unwrap_or_default(),
        "SerfPortLAN": ports.serf_lan,
        "SerfPortWAN": number(ports.serf_wan),
        "ServerPort": ports.server,
        "TaggedAddresses": tagged,
    });
    let mut all = STANDARD.clone();
    for (path, value) in &settings.shown {
        put(&mut all, path, value);
    }
    if let Value::Object(own) = own {
        all.extend(own);
    }
    all.extend(lock(&settings.sockets).clone());
    for (member, inner) in [
        ("ACLResolverSettings", json!({"ACLDefaultPolicy": policy, "ACLsEnabled": acls})),
        ("ACLResolverSettings", json!({"Datacenter": datacenter, "NodeName": name})),
        ("Cloud", json!({ "NodeID": id, "NodeName": name })),
        ("TLS", json!({ "NodeName": name })),
        ("Telemetry", json!({"DisableHostname": settings.telemetry.without_host})),
        ("Telemetry", json!({"MetricsPrefix": settings.telemetry.prefix})),
    ] {
        if let (Some(Value::Object(members)), Value::Object(inner)) = (all.get_mut(member), inner) {
            members.extend(inner);
        }
    }
    all
}

/// Sets a member at a path, within the objects that are there.
fn put(members: &mut Map<String, Value>, path: &str, value: &Value) {
    match path.split_once('.') {
        Some((name, rest)) => {
            if let Some(Value::Object(inner)) = members.get_mut(name) {
                put(inner, rest, value);
            }
        }
        None => drop(members.insert(path.to_owned(), value.clone())),
    }
}

/// The port for proxies of the mesh, if the agent has one.
fn xds(ports: &Ports) -> Option<Value> {
    let port = ports.grpc_tls.or(ports.grpc)?;
    let number = |port: Option<u16>| port.map_or(-1, i32::from);
    Some(json!({
        "SupportedProxies": {"envoy": ["1.29.7", "1.28.5", "1.27.7", "1.26.8"]},
        "Port": port,
        "Ports": {"Plaintext": number(ports.grpc), "TLS": number(ports.grpc_tls)},
    }))
}

/// The agent as a member of its datacenter.
pub(crate) fn member(state: &State) -> Member {
    let id = state.local.node.as_ref().map(|node| node.id.clone()).unwrap_or_default();
    let ports = &state.settings.ports;
    let mut tags = texts(&[
        ("acls", if state.acl.is_enabled() { "1" } else { "0" }),
        ("build", "1.21.0:"),
        ("dc", &state.settings.datacenter),
        ("ft_fs", "1"),
        ("ft_si", "1"),
        ("id", &id),
        ("port", &ports.server.to_string()),
        ("raft_vsn", "3"),
        ("role", "consul"),
        ("segment", ""),
        ("vsn", "2"),
        ("vsn_max", "3"),
        ("vsn_min", "2"),
    ]);
    tags.extend(ports.of_grpc());
    tags.extend(ports.serf_wan.map(|port| ("wan_join_port", port.to_string())));
    Member {
        name: state.node_name.clone(),
        addr: state.settings.address,
        port: ports.serf_lan,
        tags,
        status: 1,
        protocol_min: 1,
        protocol_max: 5,
        protocol_cur: 2,
        delegate_min: 2,
        delegate_max: 5,
        delegate_cur: 4,
    }
}

/// The agent as a member of the pool of servers of all datacenters, if it is one.
pub(super) fn wan_member(state: &State) -> Option<Member> {
    let port = state.settings.ports.serf_wan?;
    let mut own = Member { name: state.wan_name(), port, ..member(state) };
    own.tags.remove("wan_join_port");
    Some(own)
}

/// The tags of the only member of a pool.
const POOL: &[(&str, &str)] = &[
    ("coordinate_resets", "0"),
    ("encrypted", "false"),
    ("event_queue", "0"),
    ("event_time", "1"),
    ("failed", "0"),
    ("health_score", "0"),
    ("intent_queue", "0"),
    ("left", "0"),
    ("member_time", "1"),
    ("members", "1"),
    ("query_queue", "0"),
    ("query_time", "1"),
];

fn stats(state: &State) -> BTreeMap<&'static str, BTreeMap<&'static str, String>> {
    let (services, checks) = (state.local.services.len(), state.local.checks.len());
    let index = state.index().to_string();
    let ttls = state.local.checks.values().filter(|check| check.ttl.is_some()).count();
    let processors = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let configuration = format!(
        "[{{Suffrage:Voter ID:{} Address:{}}}]",
        operator::server_id(state),
        state.server_address()
    );
    let wan = state.settings.ports.serf_wan.map(|_| ("serf_wan", texts(POOL)));
    let mut stats = BTreeMap::from([
        (
            "agent",
            texts(&[
                ("check_monitors", "0"),
                ("check_ttls", &ttls.to_string()),
                ("checks", &checks.to_string()),
                ("services", &services.to_string()),
            ]),
        ),
        (
            "build",
            texts(&[
                ("prerelease", ""),
                ("revision", ""),
                ("version", VERSION),
                ("version_metadata", ""),
            ]),
        ),
        (
            "consul",
            texts(&[
                ("acl", if state.acl.is_enabled() { "enabled" } else { "disabled" }),
                ("bootstrap", "false"),
                ("known_datacenters", "1"),
                ("leader", "true"),
                ("leader_addr", &state.server_address()),
                ("server", "true"),
            ]),
        ),
        (
            "raft",
            texts(&[
                ("applied_index", &index),
                ("commit_index", &index),
                ("fsm_pending", "0"),
                ("last_contact", "0"),
                ("last_log_index", &index),
                ("last_log_term", "2"),
                ("last_snapshot_index", "0"),
                ("last_snapshot_term", "0"),
                ("latest_configuration", &configuration),
                ("latest_configuration_index", "0"),
                ("num_peers", "0"),
                ("protocol_version", "3"),
                ("protocol_version_max", "3"),
                ("protocol_version_min", "0"),
                ("snapshot_version_max", "1"),
                ("snapshot_version_min", "0"),
                ("state", "Leader"),
                ("term", "2"),
            ]),
        ),
        (
            "runtime",
            texts(&[
                ("arch", if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" }),
                ("cpu_count", &processors),
                ("goroutines", "1"),
                ("max_procs", &processors),
                ("os", std::env::consts::OS),
                ("version", "simulated"),
            ]),
        ),
        ("serf_lan", texts(POOL)),
    ]);
    stats.extend(wan);
    stats
}

fn texts(pairs: &[(&'static str, &str)]) -> BTreeMap<&'static str, String> {
    BTreeMap::from_iter(pairs.iter().map(|(name, text)| (*name, (*text).to_owned())))
}
