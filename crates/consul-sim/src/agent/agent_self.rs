//! `/v1/agent/self`: the agent's configuration, member and figures.

use crate::store::State;
use crate::store::catalog::TextMap;
use crate::{SERVER_PORT, VERSION};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// The gossip port of the members of a datacenter.
pub(super) const SERF_PORT: u16 = 8301;

/// The gossip port of the servers of all datacenters.
pub(super) const SERF_WAN_PORT: u16 = 8302;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct About {
    config: Config,
    debug_config: Value,
    coord: Coord,
    member: Member,
    stats: BTreeMap<&'static str, BTreeMap<&'static str, String>>,
    meta: TextMap,
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
    let node = state.local.node();
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
        debug_config: json!({
            "ACLsEnabled": state.acl.is_enabled(),
            "Datacenter": datacenter,
            "NodeID": id,
            "NodeName": name,
            "PrimaryDatacenter": datacenter,
            "SerfAdvertiseAddrLAN": serf_address(state, SERF_PORT),
            "SerfAdvertiseAddrWAN": serf_address(state, SERF_WAN_PORT),
            "ServerMode": true,
            "Version": VERSION,
        }),
        coord: Coord { vec: [0; 8], error: 1.5, adjustment: 0, height: 0.000_01 },
        member: member(state),
        stats: stats(state),
        meta: node.and_then(|node| node.meta.clone()).unwrap_or_default(),
    }
}

fn serf_address(state: &State, port: u16) -> String {
    format!("tcp://{}", SocketAddr::new(state.settings.address, port))
}

/// The agent as a member of its datacenter.
pub(crate) fn member(state: &State) -> Member {
    let id = state.local.node().map(|node| node.id.clone()).unwrap_or_default();
    let tags = [
        ("acls", if state.acl.is_enabled() { "1" } else { "0" }),
        ("build", "1.21.0:"),
        ("dc", &state.settings.datacenter),
        ("ft_fs", "1"),
        ("ft_si", "1"),
        ("id", &id),
        ("port", &SERVER_PORT.to_string()),
        ("raft_vsn", "3"),
        ("role", "consul"),
        ("segment", ""),
        ("vsn", "2"),
        ("vsn_max", "3"),
        ("vsn_min", "2"),
        ("wan_join_port", &SERF_WAN_PORT.to_string()),
    ];
    Member {
        name: state.node_name.clone(),
        addr: state.settings.address,
        port: SERF_PORT,
        tags: texts(&tags),
        status: 1,
        protocol_min: 1,
        protocol_max: 5,
        protocol_cur: 2,
        delegate_min: 2,
        delegate_max: 5,
        delegate_cur: 4,
    }
}

/// The agent as a member of the pool of servers of all datacenters.
pub(super) fn wan_member(state: &State) -> Member {
    let mut own = member(state);
    own.name = state.wan_name();
    own.port = SERF_WAN_PORT;
    own.tags.remove("wan_join_port");
    own
}

fn stats(state: &State) -> BTreeMap<&'static str, BTreeMap<&'static str, String>> {
    let (services, checks) = (state.local.services.len(), state.local.checks.len());
    let index = state.index().to_string();
    BTreeMap::from([
        ("agent", texts(&[("checks", &checks.to_string()), ("services", &services.to_string())])),
        ("build", texts(&[("prerelease", ""), ("revision", ""), ("version", VERSION)])),
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
                ("last_log_index", &index),
                ("num_peers", "0"),
                ("state", "Leader"),
            ]),
        ),
        ("serf_lan", texts(&[("failed", "0"), ("left", "0"), ("members", "1")])),
        ("serf_wan", texts(&[("failed", "0"), ("left", "0"), ("members", "1")])),
    ])
}

fn texts(pairs: &[(&'static str, &str)]) -> BTreeMap<&'static str, String> {
    BTreeMap::from_iter(pairs.iter().map(|(name, text)| (*name, (*text).to_owned())))
}
