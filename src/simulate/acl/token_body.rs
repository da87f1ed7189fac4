//! Reads tokens from request bodies.

use super::{NodeIdentity, ServiceIdentity};
use crate::simulate::go;
use crate::simulate::http::decode::{GoType, Json, Object};
use crate::simulate::http::reply::Refusal;
use crate::simulate::http::request::Call;
use std::time::Duration;

const TOKEN: GoType = GoType { value: "struct { *structs.Alias }", fields: ".Alias." };
const LINK: GoType = GoType { value: "structs.ACLTokenPolicyLink", fields: ".Alias.Policies." };

/// The id and the name of a policy or role, of which one is given.
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
    pub has_templates: bool,
    pub local: bool,
    pub method: String,
    pub expires: String,
    pub ttl: Duration,
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
        Ok(Given {
            accessor: given.text("AccessorID")?,
            secret: given.text("SecretID")?,
            description: given.text("Description")?,
            policies: links(&given, "Policies")?,
            roles: links(&given, "Roles")?,
            services: services(&given)?,
            nodes: nodes(&given)?,
            has_templates: has_templates(&given)?,
            local: given.flag("Local")?,
            method: given.text("AuthMethod")?,
            expires: given.text("ExpirationTime")?,
            ttl: ttl(&given)?,
        })
    };
    read().map_err(|why| Refusal::bad(format!("Token decoding failed: {why}")))
}

fn ttl(given: &Object<'_>) -> Result<Duration, String> {
    let nanos = match given.get("ExpirationTTL") {
        Some(Json::Text(text)) if !text.is_empty() => go::duration(text)?,
        Some(Json::Number(_)) => given.int("ExpirationTTL")?,
        _ => 0,
    };
    Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}

pub(super) fn has_templates(given: &Object<'_>) -> Result<bool, String> {
    let templates = given.list("TemplatedPolicies", "structs.ACLTemplatedPolicies")?;
    Ok(templates.is_some_and(|templates| !templates.is_empty()))
}

pub(super) fn links(given: &Object<'_>, name: &str) -> Result<Vec<Link>, String> {
    let items = given.list(name, "[]structs.ACLTokenPolicyLink")?.unwrap_or_default();
    let read = |item: &Json| {
        let link = Object::new(item, LINK)?;
        Ok((link.text("ID")?, link.text("Name")?))
    };
    items.iter().map(read).collect()
}

/// The services as which a token may act, each one once.
pub(super) fn services(given: &Object<'_>) -> Result<Vec<ServiceIdentity>, String> {
    let items = given.list("ServiceIdentities", "structs.ACLServiceIdentities")?;
    let read = |item: &Json| -> Result<ServiceIdentity, String> {
        let item = Object::new(item, LINK)?;
        Ok(ServiceIdentity {
            name: item.text("ServiceName")?,
            datacenters: item.texts("Datacenters")?.filter(|names| !names.is_empty()),
        })
    };
    let mut services: Vec<ServiceIdentity> = Vec::new();
    for service in items.unwrap_or_default().iter().map(read) {
        let service = service?;
        match services.iter_mut().find(|known| known.name == service.name) {
            Some(known) => {
                for datacenter in service.datacenters.unwrap_or_default() {
                    let all = known.datacenters.get_or_insert_default();
                    if !all.contains(&datacenter) {
                        all.push(datacenter);
                    }
                }
            }
            None => services.push(service),
        }
    }
    Ok(services)
}

pub(super) fn nodes(given: &Object<'_>) -> Result<Vec<NodeIdentity>, String> {
    let items = given.list("NodeIdentities", "structs.ACLNodeIdentities")?;
    let read = |item: &Json| {
        let item = Object::new(item, LINK)?;
        Ok(NodeIdentity { name: item.text("NodeName")?, datacenter: item.text("Datacenter")? })
    };
    items.unwrap_or_default().iter().map(read).collect()
}
