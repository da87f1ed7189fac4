//! `/v1/operator`: the only server, as Raft and autopilot see it, and the numbers of services.

use super::acl::{Access, Resource};
use super::blocking::{Headers, Read, ResultIndex};
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::store::State;
use super::store::watch::Topic;
use consul_api::api::operator as wire;
use serde_json::json;
use std::collections::BTreeSet;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::RAFT_CONFIGURATION, Handler::Checked(raft)),
    Route(&wire::AUTOPILOT_HEALTH, Handler::Checked(health)),
    Route(&wire::AUTOPILOT_STATE, Handler::Checked(autopilot_state)),
    Route(&wire::USAGE, Handler::Read(&USAGE)),
];

fn permit(state: &State, call: &Call, access: Access) -> Result<(), Refusal> {
    state.authority(call).check(Resource::Operator, "", access)
}

/// The id of the server, which is that of its node.
pub(super) fn server_id(state: &State) -> &str {
    state.local.node.as_ref().map_or("", |node| &node.id)
}

fn raft(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    permit(state, call, Access::Read)?;
    let server = json!({
        "ID": server_id(state),
        "Node": state.node_name,
        "Address": state.server_address(),
        "Leader": true,
        "ProtocolVersion": "3",
        "Voter": true,
        "LastIndex": state.index(),
    });
    Ok(Reply::json(call.style, &json!({"Servers": [server], "Index": 0})))
}

/// The term of the only leader so far.
const TERM: u64 = 2;

fn health(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    permit(state, call, Access::Read)?;
    let server = json!({
        "ID": server_id(state),
        "Name": state.node_name,
        "Address": state.server_address(),
        "SerfStatus": "alive",
        "Version": super::VERSION,
        "Leader": true,
        "LastContact": "0s",
        "LastTerm": TERM,
        "LastIndex": state.index(),
        "Healthy": true,
        "Voter": true,
        "StableSince": state.start_date(),
    });
    let health = json!({"Healthy": true, "FailureTolerance": 0, "Servers": [server]});
    Ok(Reply::json(call.style, &health))
}

fn autopilot_state(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    permit(state, call, Access::Read)?;
    let id = server_id(state);
    let server = json!({
        "ID": id,
        "Name": state.node_name,
        "Address": state.server_address(),
        "NodeStatus": "alive",
        "Version": super::VERSION,
        "LastContact": "0s",
        "LastTerm": TERM,
        "LastIndex": state.index(),
        "Healthy": true,
        "StableSince": state.start_date(),
        "ReadReplica": false,
        "Status": "leader",
        "Meta": {"consul-network-segment": "", "consul-version": super::VERSION},
        "NodeType": "voter",
    });
    let all = json!({
        "Healthy": true,
        "FailureTolerance": 0,
        "OptimisticFailureTolerance": 0,
        "Servers": {id: server},
        "Leader": id,
        "Voters": [id],
    });
    Ok(Reply::json(call.style, &all))
}

fn usage_index(state: &State) -> u64 {
    state.catalog.services_newest.max(state.catalog.nodes_newest)
}

static USAGE: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::Services, Topic::Nodes],
    index: |state, _| ResultIndex::new(usage_index(state)),
    answer: |state, call| {
        permit(state, call, Access::Read)?;
        let instances = || state.catalog.nodes().flat_map(|record| record.services.values());
        let names: BTreeSet<_> = instances().map(|service| service.name.to_lowercase()).collect();
        let of_kind = |kind: &str| instances().filter(|service| service.kind == kind).count();
        let native = instances().filter(|service| service.is_connect_native()).count();
        let is_billed = |name: &str, kind: &str| kind.is_empty() && name != "consul";
        let billed = instances().filter(|service| is_billed(&service.name, &service.kind));
        let usage = json!({
            "Services": names.len(),
            "ServiceInstances": instances().count(),
            "ConnectServiceInstances": {
                "api-gateway": of_kind("api-gateway"),
                "connect-native": native,
                "connect-proxy": of_kind("connect-proxy"),
                "ingress-gateway": of_kind("ingress-gateway"),
                "mesh-gateway": of_kind("mesh-gateway"),
                "terminating-gateway": of_kind("terminating-gateway"),
            },
            "BillableServiceInstances": billed.count(),
            "Nodes": state.catalog.nodes().count(),
        });
        let datacenter = state.settings.datacenter.as_str();
        let answer = json!({
            "Usage": {datacenter: usage},
            "Index": usage_index(state),
            "LastContact": 0,
            "KnownLeader": true,
            "ConsistencyLevel": match () {
                () if call.query.has("stale") => "stale",
                () if call.query.has("consistent") => "consistent",
                () => "leader",
            },
            "NotModified": false,
            "Backend": 0,
            "ResultsFilteredByACLs": false,
        });
        Ok(Reply::json(call.style, &answer))
    },
    headers: Headers::Catalog { cache: false },
};
