//! The node, service and check that a server registers of itself.

use super::State;
use super::catalog::{Check, Node, Service, TextMap};
use crate::settings::Settings;
use crate::{SERF_HEALTH, VERSION};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Registers the node of a fresh server, healthy, with the service `consul`.
pub(super) fn register(state: &mut State, id: String, meta: &TextMap) {
    let node = state.node_name.clone();
    let settings = Arc::clone(&state.settings);
    // The server finds the agent by gossip first; then the agent adds its addresses and metadata.
    let index = state.next_index();
    let mut own = own_node(id, &node, &settings);
    own.meta.get_or_insert_default().extend(meta.clone());
    state.local.node = Some(own);
    restore(state, index);
    state.sync_all();
}

/// Restores the server's node, and its service and check there, if they are missing.
pub(crate) fn restore(state: &mut State, index: u64) {
    let node = state.node_name.clone();
    if state.catalog.node(&node).is_none()
        && let Some(own) = state.local.node.clone()
    {
        let meta = Some(text_map(&[("consul-version", VERSION)]));
        state.ensure_node(Node { tagged_addresses: None, meta, ..own }, index);
    }
    // Neither can be refused, since the node exists.
    if state.catalog.service(&node, "consul").is_none() {
        let own = own_service(&state.settings);
        let _ = state.ensure_service(&node, own, index);
    }
    if state.catalog.check(&node, SERF_HEALTH).is_none() {
        let _ = state.ensure_check(serf_health(node), index);
    }
}

fn text_map(pairs: &[(&str, &str)]) -> TextMap {
    BTreeMap::from_iter(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn own_node(id: String, name: &str, settings: &Settings) -> Node {
    let address = settings.address.to_string();
    let version = if settings.address.is_ipv4() { "ipv4" } else { "ipv6" };
    let names =
        ["lan".to_owned(), format!("lan_{version}"), "wan".to_owned(), format!("wan_{version}")];
    let addresses = names.map(|name| (name, address.clone()));
    Node {
        id,
        node: name.to_owned(),
        address,
        datacenter: settings.datacenter.clone(),
        tagged_addresses: Some(BTreeMap::from_iter(addresses)),
        meta: Some(text_map(&[("consul-network-segment", ""), ("consul-version", VERSION)])),
        ..Node::default()
    }
}

fn own_service(settings: &Settings) -> Service {
    let ports = &settings.ports;
    let mut meta = text_map(&[
        ("non_voter", "false"),
        ("raft_version", "3"),
        ("read_replica", "false"),
        ("serf_protocol_current", "2"),
        ("serf_protocol_max", "5"),
        ("serf_protocol_min", "1"),
        ("version", VERSION),
    ]);
    meta.extend(ports.of_grpc().map(|(name, port)| (name.to_owned(), port)));
    Service {
        id: "consul".to_owned(),
        name: "consul".to_owned(),
        tags: Some(Vec::new()),
        meta: Some(meta),
        port: ports.server.into(),
        ..Service::default()
    }
}

fn serf_health(node: String) -> Check {
    Check {
        node,
        check_id: SERF_HEALTH.to_owned(),
        name: "Serf Health Status".to_owned(),
        status: "passing".to_owned(),
        output: "Agent alive and reachable".to_owned(),
        service_tags: Some(Vec::new()),
        ..Check::default()
    }
}
