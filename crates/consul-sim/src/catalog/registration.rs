//! `/v1/catalog/register` and `deregister`: changes of the catalog without an agent.

use super::body::{self, check_meta, check_node_id};
use super::proxy::{self, Reader};
use crate::SERF_HEALTH;
use crate::acl::{Access, Authority, Resource};
use crate::go;
use crate::http::decode::{self, GoType, Json, Object, with_hint};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::catalog::{Check, Definition, Node, Service};
use http::StatusCode;
use serde_json::{Value, json};

const REGISTRATION: GoType =
    GoType { value: "structs.RegisterRequest", fields: "RegisterRequest." };
const SERVICE_TYPES: body::ServiceTypes = body::ServiceTypes {
    kind: "structs.ServiceKind",
    address: "structs.ServiceAddress",
    weights: "structs.Weights",
    reader: Reader::Catalog,
};
const DEFINITION: &str = "struct { Interval interface {}; Timeout interface {}; DeregisterCriticalServiceAfter interface {}; TTL interface {}; *structs.Alias }";
const DEREGISTRATION: GoType =
    GoType { value: "struct { Address string; *structs.Alias }", fields: ".Alias." };

const FIELDS: &[&str] = &[
    "Datacenter",
    "ID",
    "Node",
    "Address",
    "TaggedAddresses",
    "NodeMeta",
    "Service",
    "Check",
    "Checks",
    "SkipNodeUpdate",
    "Locality",
    "PeerName",
    "Token",
    "CreateIndex",
    "ModifyIndex",
];

/// The body of a registration.
struct Registration {
    node: Node,
    skip_node_update: bool,
    peer: String,
    service: Option<Service>,
    checks: Vec<Check>,
}

pub(crate) fn register(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let json = decode::body(&call.body)?;
    let given = Object::of_body(&json, REGISTRATION)?;
    let mut registration = read(&given).map_err(decode_error)?;
    check_datacenter(state, &registration.node.datacenter)?;
    let authority = state.authority(call);
    authority.known()?;
    check(&registration).map_err(Refusal::server)?;
    registration.node.datacenter.clone_from(&state.settings.datacenter);
    permit(state, &authority, &registration)?;
    check_references(state, &registration).map_err(Refusal::server)?;
    let index = state.next_index();
    check_applicable(state, &registration).map_err(Refusal::server)?;
    apply(state, registration, index).map_err(Refusal::server)?;
    Ok(Reply::json(call.style, &true))
}

pub(crate) fn deregister(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let json = decode::body(&call.body)?;
    let given = Object::of_body(&json, DEREGISTRATION)?;
    let text = |name: &str| given.text(name).map_err(decode_error);
    given
        .check_known(&[
            "Datacenter",
            "Node",
            "Address",
            "ServiceID",
            "CheckID",
            "PeerName",
            "Token",
        ])
        .map_err(decode_error)?;
    match given.get("Address") {
        None | Some(Json::Text(_)) => {}
        Some(other) => return Err(decode_error(other.field_type_error(".Address", "string"))),
    }
    let (node, service) = (text("Node")?, text("ServiceID")?);
    let check = given.text_of("CheckID", "types.CheckID").map_err(decode_error)?;
    check_datacenter(state, &text("Datacenter")?)?;
    if node.is_empty() {
        return Err(Refusal::server("Must provide node"));
    }
    permit_removal(state, &state.authority(call), &node, &service, &check)?;
    if !service.is_empty() {
        state.check_deletable(&node, &service).map_err(Refusal::server)?;
    }
    let index = state.next_index();
    if !service.is_empty() {
        state.delete_service(&node, &service, index);
    } else if !check.is_empty() {
        state.delete_check(&node, &check, index);
    } else {
        state.delete_node(&node, index);
    }
    state.catalog_changed(&node);
    Ok(Reply::json(call.style, &true))
}

fn decode_error(why: String) -> Refusal {
    decode::decode_error(with_hint(why))
}

/// Refuses a caller without the permissions, in this order: a service needs its new name, a changed node its name, a service
/// that is replaced its present name, a check its service, else its node.
fn permit(state: &State, authority: &Authority, new: &Registration) -> Result<(), Refusal> {
    let node = &new.node.node;
    if let Some(service) = &new.service {
        authority.check(Resource::Service, &service.name, Access::Write)?;
    }
    let is_kept = state.catalog.node(node).is_some_and(|record| {
        let is_same_place = new.node.locality == record.node.locality;
        new.skip_node_update || (is_same_place && new.node.same_as(&record.node))
    });
    if !is_kept {
        authority.check(Resource::Node, node, Access::Write)?;
    }
    let replaced = new.service.as_ref().and_then(|new| state.catalog.service(node, &new.id));
    let may_replace =
        |present: &Service| authority.allows(Resource::Service, &present.name, Access::Write);
    if !replaced.is_none_or(may_replace) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "Permission denied"));
    }
    for check in &new.checks {
        match service_of(state, new, check) {
            Some(service) => authority.check(Resource::Service, &service.name, Access::Write)?,
            None if check.service_id.is_empty() => {
                authority.check(Resource::Node, node, Access::Write)?;
            }
            // An unknown service is an error for any caller.
            None => {}
        }
    }
    Ok(())
}

/// Refuses a caller without the permissions. The permission for the node covers all on it.
fn permit_removal(
    state: &State,
    authority: &Authority,
    node: &str,
    service: &str,
    check: &str,
) -> Result<(), Refusal> {
    authority.known()?;
    let of_node = authority.check(Resource::Node, node, Access::Write);
    if of_node.is_ok() {
        return Ok(());
    }
    let owner = if !service.is_empty() {
        let found = state.catalog.service(node, service);
        let found =
            found.ok_or_else(|| Refusal::server(format!("Unknown service ID '{service}'")))?;
        found.name.as_str()
    } else if !check.is_empty() {
        let found = state.catalog.check(node, check);
        let found = found.ok_or_else(|| Refusal::server(format!("Unknown check ID '{check}'")))?;
        found.service_name.as_str()
    } else {
        ""
    };
    if owner.is_empty() {
        of_node
    } else {
        authority.check(Resource::Service, owner, Access::Write)
    }
}

fn check_datacenter(state: &State, name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name == state.settings.datacenter {
        return Ok(());
    }
    Err(Refusal::server("No path to datacenter"))
}

fn read(given: &Object<'_>) -> Result<Registration, String> {
    given.check_known(FIELDS)?;
    let node = body::node(given, "NodeMeta", ["types.NodeID", body::LOCALITY])?;
    let service = given.inner("Service", "structs.NodeService")?;
    let service = service.map(|service| read_service(&service)).transpose()?;
    let several = given.list("Checks", "structs.HealthChecks")?.unwrap_or_default();
    let one = given.get("Check").into_iter().map(|json| ("Check", json));
    // The single check comes after the others, and counts if it has the id of one.
    let checks = several.iter().map(|json| ("Checks", json)).chain(one);
    let checks = checks.map(|(field, json)| {
        read_check(&given.nested(field, json, "structs.HealthCheck")?, &node.node)
    });
    Ok(Registration {
        checks: checks.collect::<Result<_, _>>()?,
        skip_node_update: given.flag("SkipNodeUpdate")?,
        peer: given.text("PeerName")?,
        node,
        service,
    })
}

fn read_service(given: &Object<'_>) -> Result<Service, String> {
    given.check_known(body::SERVICE_FIELDS)?;
    let service = body::service(given, &SERVICE_TYPES)?;
    Ok(Service {
        weights: body::kept_weights(service.weights),
        id: or(service.id, &service.name),
        socket_path: given.text("SocketPath")?,
        connect: connect(given)?,
        locality: body::locality(given, body::LOCALITY)?,
        ..service
    })
}

fn connect(given: &Object<'_>) -> Result<Option<Value>, String> {
    let Some(connect) = given.inner("Connect", body::CONNECT)? else { return Ok(None) };
    Ok(connect.flag("Native")?.then(|| json!({"Native": true})))
}

/// `node` is the check's node if it names none.
fn read_check(given: &Object<'_>, node: &str) -> Result<Check, String> {
    given.check_known(&[body::CHECK_FIELDS, &["Interval", "Timeout"]].concat())?;
    let check = body::check(given, "types.CheckID", DEFINITION)?;
    Ok(Check {
        node: or(check.node, node),
        check_id: or(check.check_id, &check.name),
        status: or(check.status, "critical"),
        kind: or(check.kind, kind_of(&check.definition)),
        interval: given.text("Interval")?,
        timeout: given.text("Timeout")?,
        ..check
    })
}

fn or(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}

/// The type of a check with this definition. A check that runs has an interval.
fn kind_of(definition: &Definition) -> &'static str {
    const RUNNING: &[(&str, &str)] = &[
        ("GRPC", "grpc"),
        ("HTTP", "http"),
        ("TCP", "tcp"),
        ("UDP", "udp"),
        ("H2PING", "h2ping"),
        ("OSService", "os_service"),
        ("ScriptArgs", "script"),
    ];
    const OTHERS: &[(&str, &str)] =
        &[("AliasNode", "alias"), ("AliasService", "alias"), ("TTL", "ttl")];
    let given = |field: &str| definition.0.iter().find(|(name, _)| *name == field);
    let interval = given("Interval").and_then(|(_, text)| text.as_str());
    let runs = interval.is_some_and(|text| !text.starts_with('-'));
    let running = if runs { RUNNING } else { &[] };
    let kind = running.iter().chain(OTHERS).find(|(field, _)| given(field).is_some());
    kind.map_or("", |(_, kind)| kind)
}

/// Validates what a server validates before it writes to its log.
fn check(registration: &Registration) -> Result<(), String> {
    let Node { node, address, id, .. } = &registration.node;
    if !registration.peer.is_empty() {
        return Err("cannot register requests with PeerName in them".to_owned());
    }
    if node.is_empty() {
        return Err("Must provide node".to_owned());
    }
    if address.is_empty() && !registration.skip_node_update {
        return Err("Must provide address if SkipNodeUpdate is not set".to_owned());
    }
    if !id.is_empty() {
        check_node_id(id)?;
    }
    let Some(service) = &registration.service else { return Ok(()) };
    proxy::check(service, None)?;
    if service.name.is_empty() && !service.id.is_empty() {
        return Err(
            "Must provide service name (Service.Service) when service ID is provided".to_owned()
        );
    }
    Ok(body::check_address(&service.address)?)
}

/// The service of a check: that of the registration, or one of the node. Here, unlike elsewhere, the spelling counts.
fn service_of<'a>(state: &'a State, new: &'a Registration, check: &Check) -> Option<&'a Service> {
    let is_its = |service: &&Service| service.id == check.service_id;
    let known = || state.catalog.service(&new.node.node, &check.service_id).filter(is_its);
    new.service.as_ref().filter(is_its).or_else(known)
}

/// Requires that the checks belong to the node, and their services exist.
fn check_references(state: &State, registration: &Registration) -> Result<(), String> {
    let Registration { node, checks, .. } = registration;
    for check in checks {
        if !check.node.eq_ignore_ascii_case(&node.node) {
            return Err(format!(
                "Node '{}' for check '{}' doesn't match register request node '{}'",
                check.node, check.check_id, node.node
            ));
        }
        if !check.service_id.is_empty() && service_of(state, registration, check).is_none() {
            return Err(format!(
                "Unknown service ID '{}' for check ID '{}'",
                check.service_id, check.check_id
            ));
        }
    }
    Ok(())
}

/// Validates what a server validates when it applies its log, before any of it is applied.
fn check_applicable(state: &State, registration: &Registration) -> Result<(), String> {
    let Registration { node, service, checks, .. } = registration;
    check_node_name(state, node).map_err(|why| format!("failed inserting node: {why}"))?;
    if let Some(service) = service {
        check_meta(&service.kind, service.meta.as_ref()).map_err(|why| {
            let (node, id) = (&node.node, &service.id);
            format!(
                "failed inserting service: Invalid Service Meta for node {node} and serviceID \
                 {id}: {why}"
            )
        })?;
    }
    match checks.iter().find(|check| check.check_id.is_empty()) {
        Some(_) => Err(format!(
            "failed inserting check on node {}: failed health check lookup: index error: object \
             is missing a value for this index",
            go::quoted(&node.node)
        )),
        None => Ok(()),
    }
}

/// Refuses the name of another node, with another id, that is alive.
pub(super) fn check_node_name(state: &State, node: &Node) -> Result<(), String> {
    let Some(present) = state.catalog.node(&node.node) else { return Ok(()) };
    let is_alive = present.checks.get(&SERF_HEALTH.to_lowercase());
    let is_alive = is_alive.is_some_and(|check| check.status != "critical");
    let Node { id, node: name, address, .. } = &present.node;
    if node.id.is_empty() || id.is_empty() || id.eq_ignore_ascii_case(&node.id) || !is_alive {
        return Ok(());
    }
    let renaming = match state.catalog.node_by_id(&node.id) {
        Some(_) => format!("{} ({})", go::quoted(&node.id), node.address),
        None => go::quoted(&node.id),
    };
    Err(format!(
        "Error while renaming Node ID: {renaming}: Node name {} is reserved by node {id} with name \
         {name} ({address})",
        node.node
    ))
}

fn apply(state: &mut State, registration: Registration, index: u64) -> Result<(), String> {
    let Registration { node, skip_node_update, service, checks, .. } = registration;
    let name = node.node.clone();
    if !skip_node_update || state.catalog.node(&name).is_none() {
        put_node(state, node, index);
    }
    if let Some(service) = service {
        state.ensure_service(&name, service, index)?;
    }
    for check in checks {
        state.ensure_check(check, index)?;
    }
    state.catalog_changed(&name);
    Ok(())
}

/// Adds a node. One with the same id and another name is deleted, with everything on it.
pub(crate) fn put_node(state: &mut State, mut node: Node, index: u64) {
    let same_id = state.catalog.node_by_id(&node.id).map(|record| &record.node);
    let renamed = same_id.filter(|before| !before.node.eq_ignore_ascii_case(&node.node)).cloned();
    if let Some(before) = renamed {
        node.create_index = before.create_index;
        state.delete_node(&before.node, index);
    }
    state.ensure_node(node, index);
}
