//! The execution of a prepared query: which instances it finds, and in which order.

use super::table::Query;
use crate::acl::{Authority, Resource, Secret};
use crate::blocking::{Headers, Once};
use crate::catalog::service_json::Instance;
use crate::go;
use crate::http::decode::Json;
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::catalog::{Record, Service, TextMap};
use http::StatusCode;
use serde::Serialize;
use std::num::IntErrorKind;

pub(super) static EXECUTE: Once = Once {
    check: |call| {
        limit(call)?;
        connect(call).map(|_| ())
    },
    // The agent's cache knows no status of an error.
    answer: |state, call| {
        execute(state, call).map_err(|refusal| match refusal.status {
            StatusCode::NOT_FOUND if call.query.has("cached") => Refusal::server(refusal.text),
            _ => refusal,
        })
    },
    headers: Headers::Query { cache: true },
};

/// The most instances of an answer; 0: all.
fn limit(call: &Call) -> Result<usize, Refusal> {
    let text = call.query.get("limit");
    if text.is_empty() {
        return Ok(0);
    }
    let number = text.parse::<i64>().map_err(|error| {
        let why = match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        let text = go::quoted(text);
        Refusal::server(format!("Bad limit: strconv.Atoi: parsing {text}: {why}"))
    })?;
    Ok(usize::try_from(number).unwrap_or(0))
}

/// Whether the caller asks for instances in the mesh.
fn connect(call: &Call) -> Result<bool, Refusal> {
    let text = call.query.get("connect");
    if text.is_empty() {
        return Ok(false);
    }
    go::boolean(text).ok_or_else(|| {
        let text = go::quoted(text);
        Refusal::server(format!(
            "Error parsing 'connect' value: strconv.ParseBool: parsing {text}: invalid syntax"
        ))
    })
}

/// The members about the read itself, which Consul puts into these answers.
pub(super) fn meta(call: &Call, filtered: bool) -> impl Iterator<Item = (String, Json)> {
    let consistency = match (call.query.has("stale"), call.query.has("consistent")) {
        (true, _) => "stale",
        (false, true) => "consistent",
        (false, false) => "leader",
    };
    let number = |number: u64| Json::Number(number.into());
    let members = [
        ("Index", number(1)),
        ("LastContact", number(0)),
        ("KnownLeader", Json::Bool(true)),
        ("ConsistencyLevel", Json::Text(consistency.to_owned())),
        ("NotModified", Json::Bool(false)),
        ("Backend", number(0)),
        ("ResultsFilteredByACLs", Json::Bool(filtered)),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value))
}

fn execute(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let query = state.queries.resolve(&call.rest_text())?;
    let authority = match query.token.as_str() {
        "" => state.authority(call),
        token => state.authority_of(&Secret::new(token)),
    };
    authority.known()?;
    let mut order = state.rng.clone();
    state.rng.u64(..);
    let mut found =
        found(state, &query, &authority, connect(call)?, call.query.get("near"), &mut order);
    if limit(call)? > 0 {
        found.truncate(limit(call)?);
    }
    let place = place(state, &query, found.is_empty());
    let service = query.definition.at("Service").at("Service").as_text();
    let found: Vec<_> =
        found.into_iter().map(|(record, instance)| Instance::as_stored(record, instance)).collect();
    let reply = View {
        service,
        nodes: found,
        dns: query.definition.at("DNS"),
        datacenter: place.datacenter,
        peer_name: place.peer,
        failovers: place.failovers,
        meta: Json::Object(meta(call, authority.has_filtered()).collect()),
    };
    Ok(authority.mark(Reply::json(call.style, &reply)))
}

/// An executed query, with its members in Consul's order.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct View<'a> {
    service: &'a str,
    nodes: Vec<Instance<'a>>,
    #[serde(rename = "DNS")]
    dns: &'a Json,
    datacenter: &'a str,
    peer_name: &'a str,
    failovers: usize,
    #[serde(flatten)]
    meta: Json,
}

/// Where the answer comes from.
struct Place<'a> {
    datacenter: &'a str,
    peer: &'a str,
    failovers: usize,
}

/// An empty answer is looked for elsewhere. There are no other datacenters, and peers have nothing: the last of them is the
/// place of the empty answer.
fn place<'a>(state: &'a State, query: &'a Query, is_empty: bool) -> Place<'a> {
    let service = query.definition.at("Service");
    let targets = service.at("Failover").at("Targets").items();
    let peers: Vec<_> = targets
        .iter()
        .map(|target| target.at("Peer").as_text())
        .filter(|peer| is_empty && !peer.is_empty())
        .collect();
    let own = service.at("Peer").as_text();
    let peer = peers.last().copied().unwrap_or(own);
    let datacenter = if peer.is_empty() { state.settings.datacenter.as_str() } else { "" };
    Place { datacenter, peer, failovers: peers.len() }
}

/// The part of an executed query that DNS needs.
pub(crate) struct Executed<'a> {
    pub found: Vec<(&'a Record, &'a Service)>,
    pub service: String,
    /// How long the answer holds, as the query says; it may be empty.
    pub ttl: String,
}

impl State {
    /// Executes the query of this name or id for DNS.
    pub fn execute_for_dns(
        &self,
        name: &str,
        own: &Authority,
        order: &mut fastrand::Rng,
    ) -> Result<Executed<'_>, Refusal> {
        let query = self.queries.resolve(name)?;
        let of_query = self.authority_of(&Secret::new(query.token.as_str()));
        let authority = if query.token.is_empty() { own } else { &of_query };
        authority.known()?;
        let found = found(self, &query, authority, false, "", order);
        let text = |part: &str, name: &str| query.definition.at(part).at(name).as_text().to_owned();
        Ok(Executed { found, service: text("Service", "Service"), ttl: text("DNS", "TTL") })
    }
}

/// The instances in the order of the answer: at random, or the nearest one first.
fn found<'a>(
    state: &'a State,
    query: &Query,
    authority: &Authority,
    connect: bool,
    near: &str,
    order: &mut fastrand::Rng,
) -> Vec<(&'a Record, &'a Service)> {
    if !query.definition.at("Service").at("Peer").as_text().is_empty() {
        return Vec::new();
    }
    let mut found = instances(state, query, authority, connect);
    order.shuffle(&mut found);
    nearest_first(state, near, query, &mut found);
    found
}

/// The instances that are healthy, that match and that the caller may see.
fn instances<'a>(
    state: &'a State,
    query: &Query,
    authority: &Authority,
    connect: bool,
) -> Vec<(&'a Record, &'a Service)> {
    let service = query.definition.at("Service");
    let name = service.at("Service").as_text();
    let all: Vec<_> = match connect || service.at("Connect").is_true() {
        true => state.catalog.connect_instances(name).collect(),
        false => state.catalog.instances(name).collect(),
    };
    let wanted = all.into_iter().filter(|(record, instance)| {
        is_healthy(service, record, instance)
            && has_all(service.at("NodeMeta"), record.node.meta.as_ref())
            && has_all(service.at("ServiceMeta"), instance.meta.as_ref())
            && has_tags(service, instance)
            && authority.sees(Resource::Node, &record.node.node)
            && authority.sees(Resource::Service, &instance.name)
    });
    wanted.collect()
}

fn is_healthy(query: &Json, record: &Record, instance: &Service) -> bool {
    let ignored = |id: &str| query.at("IgnoreCheckIDs").texts().any(|ignored| ignored == id);
    let only_passing = query.at("OnlyPassing").is_true();
    let own = record.checks.values().filter(|check| {
        check.service_id.is_empty() || check.service_id.eq_ignore_ascii_case(&instance.id)
    });
    own.filter(|check| !ignored(&check.check_id))
        .all(|check| check.status == "passing" || !only_passing && check.status != "critical")
}

fn has_all(wanted: &Json, meta: Option<&TextMap>) -> bool {
    wanted.members().iter().all(|(name, value)| {
        meta.and_then(|meta| meta.get(name)).is_some_and(|present| present == value.as_text())
    })
}

/// Whether an instance has the tags, and none of those with an exclamation mark.
fn has_tags(query: &Json, instance: &Service) -> bool {
    let tags = instance.tags.as_deref().unwrap_or_default();
    let has = |wanted: &str| tags.iter().any(|tag| tag.eq_ignore_ascii_case(wanted));
    query.at("Tags").texts().all(|tag| match tag.strip_prefix('!') {
        Some(unwanted) => !has(unwanted),
        None => has(tag),
    })
}

/// Sorts by the distance from the node that the request names, else from that of the query. That node itself is the first.
fn nearest_first(state: &State, near: &str, query: &Query, found: &mut Vec<(&Record, &Service)>) {
    let from = match near {
        "" => query.definition.at("Service").at("Near").as_text(),
        near => near,
    };
    let from = if from == "_agent" { state.node_name.as_str() } else { from };
    if let Some(coordinate) = state.coordinates.get(from) {
        let distance = |(record, _): &(&Record, &Service)| {
            let other = state.coordinates.get(&record.node.node);
            other.map_or(f64::INFINITY, |other| other.distance(coordinate))
        };
        let mut places: Vec<_> =
            found.drain(..).map(|instance| (distance(&instance), instance)).collect();
        places.sort_by(|one, other| one.0.total_cmp(&other.0));
        found.extend(places.into_iter().map(|(_, instance)| instance));
    }
    /// The local agent is never farther down a sorted answer.
    const DEPTH: usize = 10;
    let own = |(record, _): &(&Record, &Service)| record.node.node.eq_ignore_ascii_case(from);
    if let Some(place) = found.iter().take(DEPTH).position(own) {
        found.swap(0, place);
    }
}
