//! `/v1/exported-services`: the services that other clusters may use, by the entry of that kind.

use super::kinds::EXPORTED;
use crate::acl::{Access, Resource};
use crate::blocking::{Headers, Read, ResultIndex};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::watch::Topic;
use consul_api::api::connect as wire;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

pub(super) static ROUTES: &[Route] = &[Route(&wire::EXPORTED_SERVICES, Handler::Read(&LIST))];

static LIST: Read = Read {
    check: |_| Ok(()),
    topics: |state, _| {
        let entry = Topic::Entry(EXPORTED.to_owned());
        let services = exports_all(state).then_some(Topic::Services);
        [entry].into_iter().chain(services).collect()
    },
    index: |state, _| {
        let (value, changed) = (state.entries.newest(), state.entries.changed(EXPORTED));
        match exports_all(state) {
            true => ResultIndex::new(value.max(state.catalog.services_newest)),
            false => ResultIndex { changed, ..ResultIndex::new(value) },
        }
    },
    answer: |state, call| {
        check_metadata(state, call)?;
        state.authority(call).check(Resource::Mesh, "", Access::Read)?;
        let peers = |(service, peers): (String, BTreeSet<String>)| {
            let consumers = if peers.is_empty() { json!({}) } else { json!({ "Peers": peers }) };
            json!({ "Service": service, "Consumers": consumers })
        };
        let exported: Vec<_> = exported(state).into_iter().map(peers).collect();
        Ok(Reply::json(call.style, &exported))
    },
    headers: Headers::Deferred,
};

/// Refuses what the agent cannot send to the server, which it asks by gRPC: in its metadata there are printable characters of ASCII.
fn check_metadata(state: &State, call: &Call) -> Result<(), Refusal> {
    let is_printable = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let token = state.given_secret(call);
    let can_send = [
        ("filter", is_printable(call.query.get("filter"))),
        ("x-consul-token", token.is_none_or(|token| token.holds(is_printable))),
    ];
    if let Some((name, _)) = can_send.into_iter().find(|(_, can)| !can) {
        return Err(Refusal::server(format!(
            "header key \"{name}\" contains value with non-printable ASCII characters"
        )));
    }
    Ok(())
}

/// The entries' services with their names and the peers that may use them.
fn entries(state: &State) -> impl Iterator<Item = (&str, BTreeSet<String>)> {
    let services = state.entries.of_kind(EXPORTED);
    let services = services.flat_map(|(_, entry)| entry.body.at("Services").items());
    services.map(|service| {
        let peers = service.at("Consumers").items().iter().map(|it| it.at("Peer").as_text());
        let peers = peers.filter(|peer| !peer.is_empty()).map(str::to_owned).collect();
        (service.at("Name").as_text(), peers)
    })
}

/// Whether every service of the catalog is exported, by the name `*`.
fn exports_all(state: &State) -> bool {
    entries(state).any(|(name, _)| name == "*")
}

fn exported(state: &State) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, peers) in entries(state).filter(|(name, _)| *name != "consul") {
        if name != "*" {
            all.entry(name.to_owned()).or_default().extend(peers);
            continue;
        }
        let typical = state.catalog.nodes().flat_map(|record| record.services.values());
        for service in typical.filter(|it| it.kind.is_empty() && it.name != "consul") {
            all.entry(service.name.clone()).or_default().extend(peers.clone());
        }
    }
    all
}
