//! `/v1/operator`: the only server, as Raft and autopilot see it, and the numbers of services.

use super::acl::{Access, Resource};
use super::blocking::{Headers, Read, ResultIndex};
use super::go;
use super::http::decode::{GoType, Json, Object};
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::store::State;
use super::store::watch::Topic;
use consul_api::api::operator as wire;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::RAFT_CONFIGURATION, Handler::Checked(raft)),
    Route(&wire::RAFT_PEER_REMOVE, Handler::Now(remove_peer)),
    Route(&wire::TRANSFER_LEADER, Handler::Now(transfer_leader)),
    Route(&wire::AUTOPILOT_CONFIGURATION, Handler::Checked(autopilot)),
    Route(&wire::AUTOPILOT_CONFIGURATION_UPDATE, Handler::Now(update_autopilot)),
    Route(&wire::AUTOPILOT_HEALTH, Handler::Checked(health)),
    Route(&wire::AUTOPILOT_STATE, Handler::Checked(autopilot_state)),
    Route(&wire::USAGE, Handler::Read(&USAGE)),
];

/// The configuration of autopilot. It is stored and read, and has no effect on the only server.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct Autopilot {
    /// The members in the order of replies.
    given: Vec<(String, Json)>,
    create_index: u64,
    modify_index: u64,
}

impl Default for Autopilot {
    fn default() -> Self {
        /// The index of the entry with which a server writes its own configuration.
        const FIRST_INDEX: u64 = 4;
        let given = configuration(&Json::Null).unwrap_or_default();
        Self { given, create_index: FIRST_INDEX, modify_index: FIRST_INDEX }
    }
}

fn permit(state: &State, call: &Call, access: Access) -> Result<(), Refusal> {
    state.authority(call).check(Resource::Operator, "", access)
}

/// The id of the server, which is that of its node.
pub(super) fn server_id(state: &State) -> &str {
    state.catalog.node(&state.node_name).map_or("", |record| &record.node.id)
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

fn remove_peer(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let (id, address) = (call.query.get("id"), call.query.get("address"));
    let (what, given) = match (id, address) {
        ("", "") => {
            return Err(Refusal::bad(
                "Must specify either ?id with the server's ID or ?address with IP:port of peer to remove",
            ));
        }
        ("", address) => ("address", address),
        (id, "") => ("id", id),
        _ => return Err(Refusal::bad("Must specify only one of ?id or ?address")),
    };
    permit(state, call, Access::Write)?;
    if given == server_id(state) || given == state.server_address() {
        return Err(Refusal::server("need at least one voter in configuration: {[]}"));
    }
    let given = go::quoted(given);
    Err(Refusal::server(format!("{what} {given} was not found in the Raft configuration")))
}

fn transfer_leader(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    permit(state, call, Access::Write)?;
    Err(Refusal::server("cannot find peer"))
}

const CONFIGURATION: GoType =
    GoType { value: "api.AutopilotConfiguration", fields: "AutopilotConfiguration." };

/// The complete configuration of a body.
fn configuration(body: &Json) -> Result<Vec<(String, Json)>, String> {
    let given = Object::new(body, CONFIGURATION)?;
    given.check_known(&[
        "CleanupDeadServers",
        "LastContactThreshold",
        "MaxTrailingLogs",
        "MinQuorum",
        "ServerStabilizationTime",
        "RedundancyZoneTag",
        "DisableUpgradeMigration",
        "UpgradeVersionTag",
        "CreateIndex",
        "ModifyIndex",
    ])?;
    let time = |name: &str, default: &str| -> Result<Json, String> {
        let text = match given.get(name) {
            Some(Json::Number(nanos)) => {
                go::duration_text(Duration::from_nanos(nanos.as_u64().unwrap_or(0)))
            }
            Some(Json::Text(text)) => {
                let nanos = go::duration(text)?;
                go::duration_text(Duration::from_nanos(nanos.unsigned_abs()))
            }
            _ => default.to_owned(),
        };
        Ok(Json::Text(text))
    };
    let number = |name: &str, default: u64| -> Result<Json, String> {
        let number = given.uint(name)?;
        Ok(Json::Number(if number == 0 { default } else { number }.into()))
    };
    let cleanup = !given.has("CleanupDeadServers") || given.flag("CleanupDeadServers")?;
    let members = [
        ("CleanupDeadServers", Json::Bool(cleanup)),
        ("LastContactThreshold", time("LastContactThreshold", "200ms")?),
        ("MaxTrailingLogs", number("MaxTrailingLogs", 250)?),
        ("MinQuorum", number("MinQuorum", 0)?),
        ("ServerStabilizationTime", time("ServerStabilizationTime", "10s")?),
        ("RedundancyZoneTag", Json::Text(given.text("RedundancyZoneTag")?)),
        ("DisableUpgradeMigration", Json::Bool(given.flag("DisableUpgradeMigration")?)),
        ("UpgradeVersionTag", Json::Text(given.text("UpgradeVersionTag")?)),
    ];
    Ok(members.map(|(name, value)| (name.to_owned(), value)).into())
}

fn autopilot(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    permit(state, call, Access::Read)?;
    let stored = &state.autopilot;
    let number = |index: u64| Json::Number(index.into());
    let indexes = [
        ("CreateIndex".to_owned(), number(stored.create_index)),
        ("ModifyIndex".to_owned(), number(stored.modify_index)),
    ];
    let members = stored.given.iter().cloned().chain(indexes).collect();
    Ok(Reply::json(call.style, &Json::Object(members)))
}

fn update_autopilot(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let read = || configuration(&Json::read(&call.body)?);
    let given =
        read().map_err(|why| Refusal::bad(format!("Error parsing autopilot config: {why}")))?;
    let expected = match call.query.get("cas") {
        "" => None,
        text => Some(go::uint(text).map_err(|_| {
            let text = go::quoted(text);
            Refusal::bad(format!(
                "Error parsing cas value: strconv.ParseUint: parsing {text}: invalid syntax"
            ))
        })?),
    };
    permit(state, call, Access::Write)?;
    let index = state.next_index();
    let applies = expected.is_none_or(|expected| expected == state.autopilot.modify_index);
    if applies {
        state.autopilot.given = given;
        state.autopilot.modify_index = index;
    }
    Ok(Reply::json(call.style, &applies))
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
    topics: |_| vec![Topic::Services, Topic::Nodes],
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
            "ConsistencyLevel": "leader",
            "NotModified": false,
            "Backend": 0,
            "ResultsFilteredByACLs": false,
        });
        Ok(Reply::json(call.style, &answer))
    },
    headers: Headers::Catalog { cache: false },
};
