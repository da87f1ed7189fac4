//! Registrations in the catalog itself, past any agent.

use super::DATACENTER;
use super::acl::{Access, Authority, Resource};
use super::decode::{GoType, Json, Object, body, undecodable};
use super::definition::{addresses, check_meta, weights};
use super::go;
use super::proxy;
use super::reply::{Refusal, Reply};
use super::request::Call;
use super::store::State;
use super::store::catalog::{Check, Definition, Node, Service};
use serde_json::Value;

const REGISTRATION: GoType =
    GoType { value: "structs.RegisterRequest", fields: "RegisterRequest." };
const SERVICE: GoType = GoType { value: "structs.NodeService", fields: "NodeService.Service." };
const WEIGHTS: GoType = GoType { value: "structs.Weights", fields: "Weights.Service.Weights." };
const CHECK: GoType = GoType { value: "structs.HealthCheck", fields: "HealthCheck.Check." };
const DEREGISTRATION: GoType =
    GoType { value: "structs.DeregisterRequest", fields: "DeregisterRequest." };

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

const SERVICE_FIELDS: &[&str] = &[
    "Kind",
    "ID",
    "Service",
    "Tags",
    "Address",
    "TaggedAddresses",
    "Meta",
    "Port",
    "SocketPath",
    "Weights",
    "EnableTagOverride",
    "Proxy",
    "Connect",
    "Locality",
    "PeerName",
    "CreateIndex",
    "ModifyIndex",
];

const CHECK_FIELDS: &[&str] = &[
    "Node",
    "CheckID",
    "Name",
    "Status",
    "Notes",
    "Output",
    "ServiceID",
    "ServiceName",
    "ServiceTags",
    "Type",
    "Interval",
    "Timeout",
    "ExposedPort",
    "Definition",
    "PeerName",
    "CreateIndex",
    "ModifyIndex",
];

/// What is to be registered.
struct Registration {
    node: Node,
    skip_node_update: bool,
    peer: String,
    service: Option<Service>,
    checks: Vec<Check>,
}

pub(super) fn register(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let json = body(&call.body)?;
    let given = Object::of_body(&json, REGISTRATION)?;
    let registration = read(&given).map_err(undecodable)?;
    let authority = state.authority(call);
    authority.known()?;
    check(&registration).map_err(Refusal::server)?;
    check_datacenter(&registration.node.datacenter)?;
    permit(state, &authority, &registration)?;
    check_references(state, &registration).map_err(Refusal::server)?;
    let index = state.next_index();
    check_applicable(state, &registration).map_err(Refusal::server)?;
    apply(state, registration, index).map_err(Refusal::server)?;
    Ok(Reply::json(call.style, &true))
}

pub(super) fn deregister(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let json = body(&call.body)?;
    let given = Object::of_body(&json, DEREGISTRATION)?;
    let text = |name: &str| given.text(name).map_err(undecodable);
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
        .map_err(undecodable)?;
    text("Address")?;
    let (node, service, check) = (text("Node")?, text("ServiceID")?, text("CheckID")?);
    if node.is_empty() {
        return Err(Refusal::server("Must provide node"));
    }
    check_datacenter(&text("Datacenter")?)?;
    permit_removal(state, &state.authority(call), &node, &service, &check)?;
    let index = state.next_index();
    if !service.is_empty() {
        state.delete_service(&node, &service, index);
    } else if !check.is_empty() {
        state.delete_check(&node, &check, index);
    } else {
        state.delete_node(&node, index);
    }
    notice(state, &node);
    Ok(Reply::json(call.style, &true))
}

/// Refuses a caller who may not register this: a service wants the right to its name, and to the
/// name that it had; a node wants it when it changes; a check is its service's or else its node's.
fn permit(state: &State, authority: &Authority, new: &Registration) -> Result<(), Refusal> {
    let node = &new.node.node;
    if let Some(service) = &new.service {
        authority.check(Resource::Service, &service.name, Access::Write)?;
        if let Some(present) = state.catalog.service(node, &service.id) {
            authority.check(Resource::Service, &present.name, Access::Write)?;
        }
    }
    if !new.skip_node_update && !state.has_node(&new.node) {
        authority.check(Resource::Node, node, Access::Write)?;
    }
    for check in &new.checks {
        let own = new.service.as_ref().filter(|service| service.id == check.service_id);
        match own.or_else(|| state.catalog.service(node, &check.service_id)) {
            Some(service) => authority.check(Resource::Service, &service.name, Access::Write)?,
            None => authority.check(Resource::Node, node, Access::Write)?,
        }
    }
    Ok(())
}

/// Refuses a caller who may not deregister this. The right to the node is enough for all on it.
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

/// The agent corrects what others did to its own node.
pub(super) fn notice(state: &mut State, node: &str) {
    if node.eq_ignore_ascii_case(&state.node_name) {
        state.sync_later();
    }
}

fn check_datacenter(name: &str) -> Result<(), Refusal> {
    match name {
        "" | DATACENTER => Ok(()),
        _ => Err(Refusal::server("No path to datacenter")),
    }
}

fn read(given: &Object<'_>) -> Result<Registration, String> {
    given.check_known(FIELDS)?;
    let node = Node {
        id: given.text("ID")?,
        node: given.text("Node")?,
        address: given.text("Address")?,
        datacenter: match given.text("Datacenter")? {
            name if name.is_empty() => DATACENTER.to_owned(),
            name => name,
        },
        tagged_addresses: given.text_map("TaggedAddresses")?,
        meta: given.text_map("NodeMeta")?,
        create_index: 0,
        modify_index: 0,
    };
    let service = match given.get("Service") {
        Some(json) => Some(read_service(&Object::new(json, SERVICE)?)?),
        None => None,
    };
    let several = given.list("Checks", "structs.HealthChecks")?.unwrap_or_default();
    let checks = given.get("Check").into_iter().chain(several);
    let checks = checks.map(|json| read_check(&Object::new(json, CHECK)?, &node.node));
    Ok(Registration {
        checks: checks.collect::<Result<_, _>>()?,
        skip_node_update: given.flag("SkipNodeUpdate")?,
        peer: given.text("PeerName")?,
        node,
        service,
    })
}

/// A service as catalog registrations write it.
pub(super) fn read_service(given: &Object<'_>) -> Result<Service, String> {
    given.check_known(SERVICE_FIELDS)?;
    let name = given.text("Service")?;
    let id = given.text("ID")?;
    Ok(Service {
        node: String::new(),
        kind: given.text("Kind")?,
        id: if id.is_empty() { name.clone() } else { id },
        name,
        tags: Some(given.texts("Tags")?.unwrap_or_default()),
        address: given.text("Address")?,
        tagged_addresses: addresses(given, "TaggedAddresses")?,
        meta: given.text_map("Meta")?,
        port: given.int("Port")?,
        socket_path: given.text("SocketPath")?,
        weights: weights(given, WEIGHTS)?,
        enable_tag_override: given.flag("EnableTagOverride")?,
        proxy: given.get("Proxy").map(Value::from),
        connect: given.get("Connect").map(Value::from),
        locality: given.get("Locality").map(Value::from),
        create_index: 0,
        modify_index: given.uint("ModifyIndex")?,
    })
}

/// A check as catalog registrations write it; `node` is its node when it names none.
pub(super) fn read_check(given: &Object<'_>, node: &str) -> Result<Check, String> {
    given.check_known(CHECK_FIELDS)?;
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    let name = given.text("Name")?;
    let definition = match given.object("Definition", "structs.HealthCheckDefinition")? {
        Some(members) => {
            read_definition(&Object::of_members(members, "HealthCheck.Check.Definition."))?
        }
        None => Definition::default(),
    };
    Ok(Check {
        node: or(given.text("Node")?, node),
        check_id: or(given.text("CheckID")?, &name),
        name,
        status: or(given.text("Status")?, "critical"),
        notes: given.text("Notes")?,
        output: given.text("Output")?,
        service_id: given.text("ServiceID")?,
        service_name: given.text("ServiceName")?,
        service_tags: Some(given.texts("ServiceTags")?.unwrap_or_default()),
        kind: or(given.text("Type")?, kind_of(&definition)),
        interval: given.text("Interval")?,
        timeout: given.text("Timeout")?,
        exposed_port: given.int("ExposedPort")?,
        definition,
        create_index: 0,
        modify_index: given.uint("ModifyIndex")?,
    })
}

/// The fields of a definition in the order in which they are shown.
const DURATIONS: &[&str] = &["Interval", "Timeout", "DeregisterCriticalServiceAfter"];
const DEFINITION: &[&str] = &[
    "HTTP",
    "TLSServerName",
    "TLSSkipVerify",
    "Header",
    "Method",
    "Body",
    "DisableRedirects",
    "TCP",
    "TCPUseTLS",
    "UDP",
    "H2PING",
    "OSService",
    "H2PingUseTLS",
    "ScriptArgs",
    "DockerContainerID",
    "Shell",
    "GRPC",
    "GRPCUseTLS",
    "AliasNode",
    "AliasService",
    "SessionName",
];

/// A check's definition, in the order in which its fields are shown.
pub(super) fn read_definition(given: &Object<'_>) -> Result<Definition, String> {
    let mut shown = Vec::new();
    for name in DURATIONS {
        let nanos = duration(given, name)?;
        if nanos != 0 {
            let length = std::time::Duration::from_nanos(nanos.unsigned_abs());
            shown.push((*name, Value::from(go::duration_text(length))));
        }
    }
    for name in DEFINITION {
        let is_nothing = |value: &Value| *value == false || *value == "" || *value == 0;
        let value = given.get(name).map(Value::from);
        shown.extend(value.filter(|value| !is_nothing(value)).map(|value| (*name, value)));
    }
    match duration(given, "TTL")? {
        0 => {}
        nanos => shown.push(("TTL", Value::from(nanos))),
    }
    Ok(Definition(shown))
}

fn duration(given: &Object<'_>, name: &str) -> Result<i64, String> {
    match given.get(name) {
        Some(Json::Text(text)) if !text.is_empty() => go::duration(text),
        Some(Json::Number(number)) => Ok(number.as_i64().unwrap_or(0)),
        _ => Ok(0),
    }
}

/// The kind of check that a definition makes.
fn kind_of(definition: &Definition) -> &'static str {
    const KINDS: &[(&str, &str)] = &[
        ("GRPC", "grpc"),
        ("HTTP", "http"),
        ("TCP", "tcp"),
        ("UDP", "udp"),
        ("H2PING", "h2ping"),
        ("OSService", "os_service"),
        ("ScriptArgs", "script"),
        ("AliasNode", "alias"),
        ("AliasService", "alias"),
        ("TTL", "ttl"),
    ];
    let has = |field: &str| definition.0.iter().any(|(name, _)| *name == field);
    KINDS.iter().find(|(field, _)| has(field)).map_or("", |(_, kind)| kind)
}

/// Looks at what a server refuses before it writes to its log.
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
    proxy::check(service)?;
    if service.name.is_empty() && !service.id.is_empty() {
        return Err(
            "Must provide service name (Service.Service) when service ID is provided".to_owned()
        );
    }
    Ok(())
}

/// Refuses a node's id that is no UUID.
pub(super) fn check_node_id(id: &str) -> Result<(), String> {
    const UUID_LENGTH: usize = 36;
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let why = if id.len() != UUID_LENGTH {
        "uuid string is wrong length".to_owned()
    } else if DASHES.iter().any(|place| id.as_bytes().get(*place) != Some(&b'-')) {
        "uuid is improperly formatted".to_owned()
    } else {
        match id.chars().find(|c| *c != '-' && !c.is_ascii_hexdigit()) {
            Some(c) => format!("encoding/hex: invalid byte: U+{:04X} '{c}'", u32::from(c)),
            None => return Ok(()),
        }
    };
    Err(format!("Bad node ID: {why}"))
}

/// Looks at what the checks of a registration refer to.
fn check_references(state: &State, registration: &Registration) -> Result<(), String> {
    let Registration { node, service, checks, .. } = registration;
    for check in checks {
        if !check.node.eq_ignore_ascii_case(&node.node) {
            return Err(format!(
                "Node '{}' for check '{}' doesn't match register request node '{}'",
                check.node, check.check_id, node.node
            ));
        }
        let is_new = |service: &Service| service.id.eq_ignore_ascii_case(&check.service_id);
        let is_known = check.service_id.is_empty()
            || service.as_ref().is_some_and(is_new)
            || state.catalog.service(&node.node, &check.service_id).is_some();
        if !is_known {
            return Err(format!(
                "Unknown service ID '{}' for check ID '{}'",
                check.service_id, check.check_id
            ));
        }
    }
    Ok(())
}

/// Looks at what a server refuses when it applies its log: all of it before any of it is applied.
fn check_applicable(state: &State, registration: &Registration) -> Result<(), String> {
    let Registration { node, service, checks, .. } = registration;
    check_node_name(state, node).map_err(|why| format!("failed inserting node: {why}"))?;
    if let Some(service) = service {
        check_meta(service.meta.as_ref()).map_err(|why| {
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

/// A name is reserved as long as the node that has it, with another id, is alive.
pub(super) fn check_node_name(state: &State, node: &Node) -> Result<(), String> {
    let Some(present) = state.catalog.node(&node.node) else { return Ok(()) };
    let is_alive = present.checks.get(&super::SERF_HEALTH.to_lowercase());
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
    notice(state, &name);
    Ok(())
}

/// Puts a node in. One with the same id and another name goes, with everything on it.
pub(super) fn put_node(state: &mut State, mut node: Node, index: u64) {
    let same_id = state.catalog.node_by_id(&node.id).map(|record| &record.node);
    let renamed = same_id.filter(|before| !before.node.eq_ignore_ascii_case(&node.node)).cloned();
    if let Some(before) = renamed {
        node.create_index = before.create_index;
        state.delete_node(&before.node, index);
    }
    state.ensure_node(node, index);
}
