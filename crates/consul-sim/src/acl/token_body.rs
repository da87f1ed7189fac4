//! Reads tokens from request bodies.

use super::table::{NodeIdentity, ServiceIdentity};
use super::templates::Templated;
use crate::go;
use crate::http::decode::{GoType, Json, Object, with_hint};
use crate::http::reply::Refusal;
use crate::http::request::Call;
use std::time::Duration;

const TOKEN: GoType = GoType {
    value: "struct { ExpirationTTL interface {}; Hash string; *structs.Alias }",
    fields: ".Alias.",
};

/// The id and the name of a policy or role; one of them is given.
pub(super) type Link = (String, String);

/// A token of a request body.
pub(super) struct Given {
    pub accessor: String,
    pub secret: String,
    pub description: String,
    pub policies: Vec<Link>,
    pub roles: Vec<Link>,
    pub services: Vec<ServiceIdentity>,
    pub nodes: Vec<NodeIdentity>,
    pub templates: Vec<Templated>,
    pub local: bool,
    pub method: String,
    /// Since 1970.
    pub expires: Option<Duration>,
    /// In nanoseconds.
    pub ttl: i64,
}

pub(super) fn decode(call: &Call) -> Result<Given, Refusal> {
    let read = || -> Result<Given, String> {
        let json = Json::read(&call.body)?;
        let given = Object::new(&json, TOKEN)?;
        given.check_known(&[
            "AccessorID",
            "SecretID",
            "Description",
            "Policies",
            "Roles",
            "ServiceIdentities",
            "NodeIdentities",
            "TemplatedPolicies",
            "Local",
            "AuthMethod",
            "ExpirationTime",
            "ExpirationTTL",
            "CreateTime",
            "Hash",
            "CreateIndex",
            "ModifyIndex",
        ])?;
        time(&given, "CreateTime")?;
        Ok(Given {
            accessor: given.text("AccessorID")?,
            secret: given.text("SecretID")?,
            description: given.text("Description")?,
            policies: links(&given, "Policies", "structs.ACLTokenPolicyLink")?,
            roles: links(&given, "Roles", "structs.ACLTokenRoleLink")?,
            services: services(&given)?,
            nodes: nodes(&given)?,
            templates: Templated::read_all(&given)?,
            local: given.flag("Local")?,
            method: given.text("AuthMethod")?,
            expires: time(&given, "ExpirationTime")?,
            ttl: ttl(&given)?,
        })
    };
    read().map_err(|why| Refusal::bad(format!("Token decoding failed: {}", with_hint(why))))
}

fn time(given: &Object<'_>, name: &str) -> Result<Option<Duration>, String> {
    match given.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(text)) => go::date(text),
        Some(_) => Err("Time.UnmarshalJSON: input is not a JSON string".to_owned()),
    }
}

fn ttl(given: &Object<'_>) -> Result<i64, String> {
    match given.get("ExpirationTTL") {
        Some(Json::Text(text)) => go::duration(text),
        Some(Json::Number(number)) => Ok(go::int(number)),
        _ => Ok(0),
    }
}

pub(super) fn links(given: &Object<'_>, name: &str, go_type: &str) -> Result<Vec<Link>, String> {
    let items = given.list(name, &format!("[]{go_type}"))?.unwrap_or_default();
    let read = |item: &Json| {
        let link = given.nested(name, item, go_type)?;
        link.check_known(&["ID", "Name"])?;
        Ok((link.text("ID")?, link.text("Name")?))
    };
    items.iter().map(read).collect()
}

/// The services as which a token may act, each one once.
pub(super) fn services(given: &Object<'_>) -> Result<Vec<ServiceIdentity>, String> {
    let items = given.list("ServiceIdentities", "structs.ACLServiceIdentities")?;
    let read = |item: &Json| -> Result<ServiceIdentity, String> {
        let item = given.nested("ServiceIdentities", item, "structs.ACLServiceIdentity")?;
        item.check_known(&["ServiceName", "Datacenters"])?;
        Ok(ServiceIdentity { name: item.text("ServiceName")?, datacenters: datacenters(&item)? })
    };
    let mut services: Vec<ServiceIdentity> = Vec::new();
    for service in items.unwrap_or_default().iter().map(read) {
        let service = service?;
        match services.iter_mut().find(|known| known.name == service.name) {
            Some(known) => join(&mut known.datacenters, service.datacenters),
            None => services.push(service),
        }
    }
    Ok(services)
}

/// The datacenters of an identity in their order; `None` if it names none.
fn datacenters(identity: &Object<'_>) -> Result<Option<Vec<String>>, String> {
    let mut names = identity.texts("Datacenters")?.unwrap_or_default();
    names.sort_unstable();
    Ok((!names.is_empty()).then_some(names))
}

/// Adds what one list has more than another.
fn join(known: &mut Option<Vec<String>>, others: Option<Vec<String>>) {
    let mut rest = known.clone().unwrap_or_default();
    for name in others.unwrap_or_default() {
        match rest.iter().position(|known| *known == name) {
            Some(place) => drop(rest.swap_remove(place)),
            None => known.get_or_insert_default().push(name),
        }
    }
    known.iter_mut().for_each(|names| names.sort_unstable());
}

/// The nodes as which a token may act, each one once.
pub(super) fn nodes(given: &Object<'_>) -> Result<Vec<NodeIdentity>, String> {
    let items = given.list("NodeIdentities", "structs.ACLNodeIdentities")?;
    let read = |item: &Json| -> Result<NodeIdentity, String> {
        let item = given.nested("NodeIdentities", item, "structs.ACLNodeIdentity")?;
        item.check_known(&["NodeName", "Datacenter"])?;
        Ok(NodeIdentity { name: item.text("NodeName")?, datacenter: item.text("Datacenter")? })
    };
    let mut nodes = Vec::new();
    for node in items.unwrap_or_default().iter().map(read) {
        let node = node?;
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

/// Refuses identities without a name or with a wrong one; `on` is what has them.
pub(super) fn check_identities(
    services: &[ServiceIdentity],
    nodes: &[NodeIdentity],
    on: &str,
    is_local: bool,
) -> Result<(), Refusal> {
    const ALLOWED: &str = "Only lowercase alphanumeric characters, '-' and '_' are allowed";
    for ServiceIdentity { name, datacenters } in services {
        let quoted = go::quoted(name);
        let why = if name.is_empty() {
            format!("Service identity is missing the service name field on this {on}")
        } else if is_local && datacenters.is_some() {
            format!(
                "Service identity {quoted} cannot specify a list of datacenters on a local {on}"
            )
        } else if is_identity(name) {
            continue;
        } else {
            format!("Service identity {quoted} has an invalid name. {ALLOWED}")
        };
        return Err(Refusal::server(why));
    }
    for node in nodes {
        let why = match (node.name.as_str(), node.datacenter.as_str()) {
            ("", _) => format!("Node identity is missing the node name field on this {on}"),
            (_, "") => format!("Node identity is missing the datacenter field on this {on}"),
            (name, _) if is_identity(name) => continue,
            _ => format!("Node identity has an invalid name. {ALLOWED}"),
        };
        return Err(Refusal::server(why));
    }
    Ok(())
}

pub(super) fn is_identity(name: &str) -> bool {
    const MAX: usize = 256;
    let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= MAX
        && name.starts_with(is_end)
        && name.ends_with(is_end)
        && name.chars().all(|c| is_end(c) || c == '-' || c == '_')
}
