//! Reads nodes, services and checks from request bodies, for registrations and transactions.

use super::proxy::{self, Reader};
use crate::go;
use crate::http::decode::{Json, Object};
use crate::http::fields::Kind;
use crate::store::catalog::{Address, Check, Definition, Node, Service, TextMap, Weights};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

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

/// A node, whose metadata is the field `meta`; `types` are the types of its id and its locality.
pub(super) fn node(given: &Object<'_>, meta: &str, types: [&str; 2]) -> Result<Node, String> {
    let [id, place] = types;
    Ok(Node {
        id: given.text_of("ID", id)?,
        node: given.text("Node")?,
        address: given.text("Address")?,
        datacenter: given.text("Datacenter")?,
        tagged_addresses: given.text_map("TaggedAddresses")?,
        meta: given.text_map(meta)?,
        locality: locality(given, place)?,
        ..Node::default()
    })
}

/// The locality of a node or a service, without empty fields.
pub(crate) fn locality(given: &Object<'_>, go_type: &str) -> Result<Option<Value>, String> {
    let Some(given) = given.inner("Locality", go_type)? else { return Ok(None) };
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

/// The names of the types of a service's fields in errors.
pub(super) struct ServiceTypes {
    pub kind: &'static str,
    pub address: &'static str,
    pub weights: &'static str,
    pub reader: Reader,
}

/// A service as it was given, without defaults.
pub(super) fn service(given: &Object<'_>, types: &ServiceTypes) -> Result<Service, String> {
    Ok(Service {
        kind: given.text_of("Kind", types.kind)?,
        id: given.text("ID")?,
        name: given.text("Service")?,
        tags: given.texts("Tags")?,
        address: given.text("Address")?,
        tagged_addresses: addresses(given, "TaggedAddresses", types.address)?,
        meta: given.text_map("Meta")?,
        port: given.int("Port")?,
        weights: weights(given, types.weights)?,
        enable_tag_override: given.flag("EnableTagOverride")?,
        proxy: proxy::read(given, types.reader)?,
        modify_index: given.uint("ModifyIndex")?,
        ..Service::default()
    })
}

/// A check as it was given, without defaults.
pub(super) fn check(
    given: &Object<'_>,
    id_type: &str,
    definition_type: &str,
) -> Result<Check, String> {
    given.refuse_null("Definition", definition_type)?;
    let definition = given.inner("Definition", definition_type)?;
    let definition = definition.map(|given| read_definition(&given)).transpose()?;
    Ok(Check {
        node: given.text("Node")?,
        check_id: given.text_of("CheckID", id_type)?,
        name: given.text("Name")?,
        status: given.text("Status")?,
        notes: given.text("Notes")?,
        output: given.text("Output")?,
        service_id: given.text("ServiceID")?,
        service_name: given.text("ServiceName")?,
        service_tags: given.texts("ServiceTags")?,
        kind: given.text("Type")?,
        exposed_port: given.int("ExposedPort")?,
        definition: definition.unwrap_or_default(),
        modify_index: given.uint("ModifyIndex")?,
        ..Check::default()
    })
}

/// The fields of a check's definition in the order of replies.
const DURATIONS: &[&str] = &["Interval", "Timeout", "DeregisterCriticalServiceAfter"];
const DEFINITION_FIELDS: &[(&str, Kind)] = &[
    ("HTTP", Kind::Text),
    ("TLSServerName", Kind::Text),
    ("TLSSkipVerify", Kind::Flag),
    ("Header", Kind::TextLists),
    ("Method", Kind::Text),
    ("Body", Kind::Text),
    ("DisableRedirects", Kind::Flag),
    ("TCP", Kind::Text),
    ("TCPUseTLS", Kind::Flag),
    ("UDP", Kind::Text),
    ("H2PING", Kind::Text),
    ("OSService", Kind::Text),
    ("H2PingUseTLS", Kind::Flag),
    ("ScriptArgs", Kind::Texts),
    ("DockerContainerID", Kind::Text),
    ("Shell", Kind::Text),
    ("GRPC", Kind::Text),
    ("GRPCUseTLS", Kind::Flag),
    ("AliasNode", Kind::Text),
    ("AliasService", Kind::Text),
    ("SessionName", Kind::Text),
];

/// A check's definition, with its fields in the order of replies.
fn read_definition(given: &Object<'_>) -> Result<Definition, String> {
    let mut shown = Vec::new();
    for name in DURATIONS {
        let nanos = duration(given, name)?;
        if nanos != 0 {
            shown.push(((*name).to_owned(), Value::from(go::signed_duration_text(nanos))));
        }
    }
    for (name, kind) in DEFINITION_FIELDS {
        let value = Value::from(&kind.read(given, name)?);
        let is_nothing = value.is_null() || value == false || value == "" || is_empty(&value);
        if !is_nothing {
            shown.push(((*name).to_owned(), value));
        }
    }
    match duration(given, "TTL")? {
        0 => {}
        nanos => shown.push(("TTL".to_owned(), Value::from(nanos))),
    }
    Ok(Definition(shown))
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

fn duration(given: &Object<'_>, name: &str) -> Result<i64, String> {
    match given.get(name) {
        Some(Json::Text(text)) => go::duration(text),
        Some(Json::Number(number)) => Ok(go::int(number)),
        _ => Ok(0),
    }
}

/// The tagged addresses of a service.
pub(crate) fn addresses(
    given: &Object<'_>,
    field: &str,
    go_type: &str,
) -> Result<BTreeMap<String, Address>, String> {
    let map = format!("map[string]{go_type}");
    let members = given.object(field, &map)?.unwrap_or_default();
    let read = |(name, json): &(String, Json)| {
        let given = given.nested(field, json, go_type)?;
        given.check_known(&["Address", "Port"])?;
        Ok((name.clone(), Address { address: given.text("Address")?, port: given.int("Port")? }))
    };
    members.iter().map(read).collect()
}

/// The weights of a service, by default 1 and 1.
pub(crate) fn weights(given: &Object<'_>, go_type: &str) -> Result<Weights, String> {
    match given.inner("Weights", go_type)? {
        Some(given) => {
            given.check_known(&["Passing", "Warning"])?;
            Ok(Weights { passing: given.int("Passing")?, warning: given.int("Warning")? })
        }
        None => Ok(Weights::default()),
    }
}

pub(crate) const CONNECT: &str = "struct { SidecarServiceSnake *structs.ServiceDefinition \"json:\\\"sidecar_service\\\"\"; *structs.Alias }";

pub(crate) const LOCALITY: &str = "structs.Locality";

/// Refuses the addresses that stand for all of a host's, as Consul writes them.
pub(crate) fn check_address(address: &str) -> Result<(), &'static str> {
    match address {
        "0.0.0.0" | "::" | "[::]" => Err("Invalid service address"),
        _ => Ok(()),
    }
}

/// Validates a service's weights.
pub(crate) fn check_weights(weights: Weights) -> Result<(), &'static str> {
    const MAX: i64 = 65535;
    match weights {
        Weights { passing, .. } if passing < 1 => Err("Passing must be greater than 0"),
        Weights { warning, .. } if warning < 0 => Err("Warning must be greater or equal than 0"),
        Weights { passing, warning } if passing > MAX || warning > MAX => {
            Err("DNS Weight must be between 0 and 65535")
        }
        _ => Ok(()),
    }
}

/// The weights that the catalog keeps: 1 and 1 for a service that the agent would refuse.
pub(super) fn kept_weights(given: Weights) -> Weights {
    check_weights(given).map_or_else(|_| Weights::default(), |()| given)
}

/// Validates the metadata of a service of this kind, or with an empty one of a node.
pub(crate) fn check_meta(kind: &str, meta: Option<&TextMap>) -> Result<(), String> {
    let is_reserved = |key: &str| {
        key.starts_with("consul-") && (kind, key) != ("mesh-gateway", "consul-wan-federation")
    };
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
        } else if is_reserved(key) {
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
