//! The catalog of nodes and services.

use super::store::State;
use super::store::catalog::{Check, Node, Service, TextMap, Weights};
use super::{ADDRESS, DATACENTER, SERF_HEALTH, SERVER_PORT, VERSION};
use serde_json::json;
use std::collections::BTreeMap;

/// Registers what a fresh server has: its own node, healthy, with the service `consul`.
pub(super) fn register_server(state: &mut State) {
    let index = state.next_index();
    let node = state.node_name.clone();
    let id = state.new_id();
    state.ensure_node(own_node(id, &node), index);
    // The node was just put in, so that neither can be refused.
    let _ = state.ensure_service(&node, own_service(), index);
    let _ = state.ensure_check(serf_health(node), index);
}

fn text_map(pairs: &[(&str, &str)]) -> TextMap {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn own_node(id: String, name: &str) -> Node {
    let addresses = ["lan", "lan_ipv4", "wan", "wan_ipv4"].map(|name| (name, ADDRESS));
    Node {
        id,
        node: name.to_owned(),
        address: ADDRESS.to_owned(),
        datacenter: DATACENTER.to_owned(),
        tagged_addresses: Some(text_map(&addresses)),
        meta: Some(text_map(&[("consul-network-segment", ""), ("consul-version", VERSION)])),
        create_index: 0,
        modify_index: 0,
    }
}

fn own_service() -> Service {
    Service {
        kind: String::new(),
        id: "consul".to_owned(),
        name: "consul".to_owned(),
        tags: Some(Vec::new()),
        address: String::new(),
        tagged_addresses: BTreeMap::new(),
        meta: Some(text_map(&[
            ("non_voter", "false"),
            ("raft_version", "3"),
            ("read_replica", "false"),
            ("serf_protocol_current", "2"),
            ("serf_protocol_max", "5"),
            ("serf_protocol_min", "1"),
            ("version", VERSION),
        ])),
        port: SERVER_PORT,
        socket_path: String::new(),
        weights: Weights { passing: 1, warning: 1 },
        enable_tag_override: false,
        proxy: None,
        connect: None,
        locality: None,
        create_index: 0,
        modify_index: 0,
    }
}

fn serf_health(node: String) -> Check {
    Check {
        node,
        check_id: SERF_HEALTH.to_owned(),
        name: "Serf Health Status".to_owned(),
        status: "passing".to_owned(),
        notes: String::new(),
        output: "Agent alive and reachable".to_owned(),
        service_id: String::new(),
        service_name: String::new(),
        service_tags: Some(Vec::new()),
        kind: String::new(),
        interval: String::new(),
        timeout: String::new(),
        exposed_port: 0,
        definition: json!({}),
        create_index: 0,
        modify_index: 0,
    }
}
