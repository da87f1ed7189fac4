//! Reads nodes, services and checks from request bodies, for registrations and transactions.

use crate::ordered;
use crate::simulate::go;
use crate::simulate::http::decode::{GoType, Json, Object};
use crate::simulate::store::catalog::{
    Address, Check, Definition, Node, Service, TextMap, Weights,
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

const ADDRESS: GoType =
    GoType { value: "structs.ServiceAddress", fields: ".Alias.TaggedAddresses." };

const LOCALITY: GoType = GoType { value: "structs.Locality", fields: "Locality.Locality." };

/// The limits of metadata. Source: `Meta` in Consul's HTTP reference of services.
const META_MAX_PAIRS: usize = 64;
const META_MAX_KEY: usize = 128;
const META_MAX_VALUE: usize = 512;

pub(super) const SERVICE_FIELDS: &[&str] = &[
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

pub(super) const CHECK_FIELDS: &[&str] = &[
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
    "ExposedPort",
    "Definition",
    "PeerName",
    "CreateIndex",
    "ModifyIndex",
];

/// A node, whose metadata is the field `meta`.
pub(super) fn node(given: &Object<'_>, meta: &str) -> Result<Node, String> {
    Ok(Node {
        id: given.text("ID")?,
        node: given.text("Node")?,
        address: given.text("Address")?,
        datacenter: given.text("Datacenter")?,
        tagged_addresses: given.text_map("TaggedAddresses")?,
        meta: given.text_map(meta)?,
        locality: locality(given)?,
        ..Node::default()
    })
}

/// Where a node is, without what is empty.
fn locality(given: &Object<'_>) -> Result<Option<Value>, String> {
    let Some(json) = given.get("Locality") else { return Ok(None) };
    let given = Object::new(json, LOCALITY)?;
    given.check_known(&["Region", "Zone"])?;
    let mut locality = Map::new();
    for name in ["Region", "Zone"] {
        let text = given.text(name)?;
        if !text.is_empty() {
            locality.insert(name.to_owned(), text.into());
        }
    }
    Ok(Some(Value::Object(locality)))
}

/// A service as it was given, without defaults.
pub(super) fn service(given: &Object<'_>, weights_type: GoType) -> Result<Service, String> {
    Ok(Service {
        kind: given.text("Kind")?,
        id: given.text("ID")?,
        name: given.text("Service")?,
        tags: Some(given.texts("Tags")?.unwrap_or_default()),
        address: given.text("Address")?,
        tagged_addresses: addresses(given, "TaggedAddresses")?,
        meta: given.text_map("Meta")?,
        port: given.int("Port")?,
        weights: weights(given, weights_type)?,
        enable_tag_override: given.flag("EnableTagOverride")?,
        proxy: given.get("Proxy").map(Value::from),
        modify_index: given.uint("ModifyIndex")?,
        ..Service::default()
    })
}

/// A check as it was given, without defaults.
pub(super) fn check(given: &Object<'_>, definition_type: GoType) -> Result<Check, String> {
    let definition = given.object("Definition", definition_type.value)?.unwrap_or_default();
    let definition = Object::of_members(definition, definition_type.fields);
    Ok(Check {
        node: given.text("Node")?,
        check_id: given.text("CheckID")?,
        name: given.text("Name")?,
        status: given.text("Status")?,
        notes: given.text("Notes")?,
        output: given.text("Output")?,
        service_id: given.text("ServiceID")?,
        service_name: given.text("ServiceName")?,
        service_tags: Some(given.texts("ServiceTags")?.unwrap_or_default()),
        kind: given.text("Type")?,
        exposed_port: given.int("ExposedPort")?,
        definition: read_definition(&definition)?,
        modify_index: given.uint("ModifyIndex")?,
        ..Check::default()
    })
}

/// The fields of a check's definition in the order of replies.
const DURATIONS: &[&str] = &["Interval", "Timeout", "DeregisterCriticalServiceAfter"];
const DEFINITION_FIELDS: &[&str] = &[
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

/// A check's definition, with its fields in the order of replies.
fn read_definition(given: &Object<'_>) -> Result<Definition, String> {
    let mut shown = Vec::new();
    for name in DURATIONS {
        let nanos = duration(given, name)?;
        if nanos != 0 {
            let length = Duration::from_nanos(nanos.unsigned_abs());
            shown.push(((*name).to_owned(), Value::from(go::duration_text(length))));
        }
    }
    for name in DEFINITION_FIELDS {
        let is_nothing = |value: &Value| *value == false || *value == "" || *value == 0;
        let value = given.get(name).map(Value::from);
        shown.extend(
            value.filter(|value| !is_nothing(value)).map(|value| ((*name).to_owned(), value)),
        );
    }
    match duration(given, "TTL")? {
        0 => {}
        nanos => shown.push(("TTL".to_owned(), Value::from(nanos))),
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

/// The tagged addresses of a service, with the type names of the agent's body in errors.
pub(crate) fn addresses(
    given: &Object<'_>,
    name: &str,
) -> Result<BTreeMap<String, Address>, String> {
    let members = given.object(name, "map[string]structs.ServiceAddress")?.unwrap_or_default();
    let read = |(name, json): &(String, Json)| {
        let given = Object::new(json, ADDRESS)?;
        Ok((name.clone(), Address { address: given.text("Address")?, port: given.int("Port")? }))
    };
    ordered::try_map(members.iter().map(read))
}

/// The weights of a service, by default 1 and 1.
pub(crate) fn weights(given: &Object<'_>, go_type: GoType) -> Result<Weights, String> {
    match given.get("Weights") {
        Some(json) => {
            let given = Object::new(json, go_type)?;
            Ok(Weights { passing: given.int("Passing")?, warning: given.int("Warning")? })
        }
        None => Ok(Weights::default()),
    }
}

/// Validates a service's metadata.
pub(crate) fn check_meta(meta: Option<&TextMap>) -> Result<(), String> {
    let pairs = meta.into_iter().flatten();
    if pairs.clone().count() > META_MAX_PAIRS {
        return Err(format!(
            "Node metadata cannot contain more than {META_MAX_PAIRS} key/value pairs"
        ));
    }
    for (key, value) in pairs {
        let why = if key.is_empty() {
            "Key cannot be blank".to_owned()
        } else if !key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        {
            "Key contains invalid characters".to_owned()
        } else if key.len() > META_MAX_KEY {
            format!("Key is too long (limit: {META_MAX_KEY} characters)")
        } else if key.starts_with("consul-") {
            "Key prefix 'consul-' is reserved for internal use".to_owned()
        } else if value.len() > META_MAX_VALUE {
            format!("Value is too long (limit: {META_MAX_VALUE} characters)")
        } else {
            continue;
        };
        return Err(format!("Couldn't load metadata pair ('{key}', '{value}'): {why}"));
    }
    Ok(())
}

/// Refuses a node's id that is not a UUID.
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
