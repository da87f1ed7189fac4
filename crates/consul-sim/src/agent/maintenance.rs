//! Maintenance mode of the agent's node and services: a critical check.

use super::known_service;
use super::local::LocalCheck;
use crate::acl::{Access, Resource};
use crate::go;
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::catalog::{Check, Service};
use consul_api::api::agent as wire;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::SERVICE_MAINTENANCE, Handler::Now(service)),
    Route(&wire::MAINTENANCE, Handler::Now(node)),
];

/// The id of the node's check, and the prefix of the ids of the services' checks.
pub(super) const NODE_MAINTENANCE: &str = "_node_maintenance";
pub(crate) const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

fn service(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    if call.rest.is_empty() {
        return Err(Refusal::bad("Missing service ID"));
    }
    let enable = enable(call)?;
    let id = known_service(state, call)?;
    let service = state.local.services.get(&id).cloned();
    let check_id = format!("{SERVICE_MAINTENANCE}{id}");
    switch(state, call, enable, &check_id, service.as_ref());
    Ok(Reply::done())
}

fn node(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let enable = enable(call)?;
    state.authority(call).check(Resource::Node, &state.node_name, Access::Write)?;
    switch(state, call, enable, NODE_MAINTENANCE, None);
    Ok(Reply::done())
}

fn enable(call: &Call) -> Result<bool, Refusal> {
    if !call.query.has("enable") {
        return Err(Refusal::bad("Missing value for enable"));
    }
    let text = call.query.get("enable");
    go::boolean(text)
        .ok_or_else(|| Refusal::bad(format!("Invalid value for enable: {}", go::quoted(text))))
}

/// Turns the mode on or off. The reason of a mode that is already on stays.
fn switch(state: &mut State, call: &Call, enable: bool, id: &str, service: Option<&Service>) {
    match (enable, state.local.checks.contains_key(id)) {
        (true, false) => {
            let check = check(state, call, id, service);
            let token = state.given_secret(call);
            state.register_check(LocalCheck { token, ..check });
        }
        (false, true) => state.deregister_check(id),
        _ => {}
    }
}

fn check(state: &State, call: &Call, id: &str, service: Option<&Service>) -> LocalCheck {
    let (what, name) = match service {
        Some(_) => ("service", "Service Maintenance Mode"),
        None => ("node", "Node Maintenance Mode"),
    };
    let notes = match call.query.get("reason") {
        "" => format!(
            "Maintenance mode is enabled for this {what}, but no reason was provided. This is a \
             default message."
        ),
        reason => reason.to_owned(),
    };
    LocalCheck::without_timers(Check {
        node: state.node_name.clone(),
        check_id: id.to_owned(),
        name: name.to_owned(),
        status: "critical".to_owned(),
        notes,
        service_id: service.map(|service| service.id.clone()).unwrap_or_default(),
        service_name: service.map(|service| service.name.clone()).unwrap_or_default(),
        service_tags: service.and_then(|service| service.tags.clone()),
        kind: "maintenance".to_owned(),
        ..Check::default()
    })
}
