//! Definitions of mesh proxies, and of services that are in the mesh without one.
//!
//! Source of the fields: the reference of proxy configurations in Consul's documentation.

use crate::go;
use crate::http::decode::{Json, Object};
use crate::store::catalog::{CONNECT_PROXY, Service};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Go's names for these types have all their fields.
const PROXY: &str = "struct { DestinationServiceNameSnake string }";
const UPSTREAM: &str = "struct { DestinationTypeSnake string }";

const PROXY_FIELDS: &[&str] = &[
    "DestinationServiceName",
    "DestinationServiceID",
    "LocalServiceAddress",
    "LocalServicePort",
    "LocalServiceSocketPath",
    "Mode",
    "TransparentProxy",
    "Config",
    "Upstreams",
    "MeshGateway",
    "Expose",
    "AccessLogs",
    "EnvoyExtensions",
];

const UPSTREAM_FIELDS: &[&str] = &[
    "DestinationType",
    "DestinationNamespace",
    "DestinationPartition",
    "DestinationPeer",
    "DestinationName",
    "Datacenter",
    "LocalBindAddress",
    "LocalBindPort",
    "LocalBindSocketPath",
    "LocalBindSocketMode",
    "Config",
    "MeshGateway",
    "IngressHosts",
];

const GATEWAYS: &[&str] =
    &["mesh-gateway", "terminating-gateway", "ingress-gateway", "api-gateway"];

/// The fields of a proxy that no gateway has.
const NO_GATEWAYS_FIELDS: &[&str] = &[
    "DestinationServiceName",
    "DestinationServiceID",
    "LocalServiceAddress",
    "LocalServicePort",
    "LocalServiceSocketPath",
    "Upstreams",
];

const DESTINATION_TYPES: &[&str] = &["", "service", "prepared_query"];

/// Members that are objects, with their Go types and fields.
const OBJECTS: &[(&str, &str, &[&str])] = &[
    ("MeshGateway", "structs.MeshGatewayConfig", &["Mode"]),
    ("Expose", "structs.ExposeConfig", &["Checks", "Paths"]),
    (
        "TransparentProxy",
        "structs.TransparentProxyConfig",
        &["OutboundListenerPort", "DialedDirectly"],
    ),
    (
        "AccessLogs",
        "structs.AccessLogsConfig",
        &["Enabled", "DisableListenerLogs", "Type", "Path", "JSONFormat", "TextFormat"],
    ),
];

/// Members that are lists of objects.
const LISTS: &[(&str, &str, &[&str])] = &[
    ("Upstreams", UPSTREAM, UPSTREAM_FIELDS),
    (
        "Paths",
        "structs.ExposePath",
        &["ListenerPort", "Path", "LocalPathPort", "Protocol", "ParsedFromCheck"],
    ),
    (
        "EnvoyExtensions",
        "structs.EnvoyExtension",
        &["Name", "Required", "Arguments", "ConsulVersion", "EnvoyVersion"],
    ),
];

/// The fields that a transaction takes over from a proxy.
const OF_TRANSACTIONS: &[&str] = &[
    "DestinationServiceName",
    "DestinationServiceID",
    "LocalServiceAddress",
    "LocalServicePort",
    "LocalServiceSocketPath",
    "MeshGateway",
    "TransparentProxy",
];

/// Who reads a proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    Agent,
    Catalog,
    Transaction,
}

/// The `Proxy` of a definition, without the members that have the zero value of their type; its fields also have names
/// with underscores.
pub(crate) fn read(given: &Object<'_>, reader: Reader) -> Result<Option<Value>, String> {
    let has_nulls = reader != Reader::Catalog;
    if !has_nulls {
        given.refuse_null("Proxy", PROXY)?;
    }
    let Some(json) = given.get("Proxy") else { return Ok(None) };
    let given = given.nested("Proxy", json, PROXY)?;
    let mut proxy = with_names(&given, json, PROXY_FIELDS, has_nulls)?;
    match reader {
        // The defaults of proxies have its extensions.
        Reader::Agent => drop(proxy.remove("EnvoyExtensions")),
        Reader::Catalog => {}
        Reader::Transaction => proxy.retain(|name, _| OF_TRANSACTIONS.contains(&name.as_str())),
    }
    let upstreams = proxy.get_mut("Upstreams").and_then(Value::as_array_mut);
    for upstream in upstreams.into_iter().flatten().filter_map(Value::as_object_mut) {
        if reader == Reader::Agent {
            upstream.entry("DestinationType").or_insert("service".into());
        }
        upstream.entry("MeshGateway").or_insert(json!({}));
    }
    Ok(Some(Value::Object(proxy)))
}

/// The members of an object under the names that replies have. Without `has_nulls` upstreams and paths are not null.
fn with_names(
    given: &Object<'_>,
    json: &Json,
    fields: &[&str],
    has_nulls: bool,
) -> Result<Map<String, Value>, String> {
    let plain = |name: &str| name.replace('_', "").to_ascii_lowercase();
    let known = |name: &str| fields.iter().find(|field| plain(field) == plain(name));
    let mut named = Map::new();
    let Json::Object(members) = json else { return Ok(named) };
    for (name, value) in members {
        let field =
            known(name).ok_or_else(|| format!("json: unknown field {}", go::quoted(name)))?;
        match *field {
            "LocalServicePort"
            | "LocalBindPort"
            | "ListenerPort"
            | "LocalPathPort"
            | "OutboundListenerPort" => drop(given.int(name)?),
            "Checks"
            | "ParsedFromCheck"
            | "DialedDirectly"
            | "Enabled"
            | "DisableListenerLogs"
            | "Required" => drop(given.flag(name)?),
            "Config" | "Arguments" | "IngressHosts" => {}
            field if OBJECTS.iter().chain(LISTS).any(|(own, ..)| *own == field) => {}
            _ => drop(given.text(name)?),
        }
        let of = |all: &'static [(&str, &'static str, &'static [&'static str])]| {
            all.iter().find(|(own, ..)| own == field)
        };
        let value = if let Some((_, kind, fields)) = of(OBJECTS) {
            with_names(&given.nested(name, value, kind)?, value, fields, has_nulls)?.into()
        } else if let Some((_, kind, fields)) = of(LISTS) {
            let item = |json: &Json| {
                if *json == Json::Null && !has_nulls && *field != "EnvoyExtensions" {
                    return Err(json.field_type_error(field, kind));
                }
                let item = with_names(&given.nested(name, json, kind)?, json, fields, has_nulls)?;
                Ok(if *field == "EnvoyExtensions" { extension(item) } else { item.into() })
            };
            let items = given.list(name, kind)?.unwrap_or_default().iter();
            items.map(item).collect::<Result<Value, String>>()?
        } else {
            value.into()
        };
        if !is_zero(&value) {
            named.insert((*field).to_owned(), value);
        }
    }
    Ok(named)
}

/// An extension of Envoy, with all its members.
fn extension(mut given: Map<String, Value>) -> Value {
    for (name, usual) in [
        ("Name", json!("")),
        ("Required", json!(false)),
        ("Arguments", Value::Null),
        ("ConsulVersion", json!("")),
        ("EnvoyVersion", json!("")),
    ] {
        given.entry(name).or_insert(usual);
    }
    given.into()
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_on) => !is_on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

/// Whether replies show the service's proxy configuration.
pub(crate) fn has_proxy(kind: &str) -> bool {
    kind == CONNECT_PROXY || GATEWAYS.contains(&kind)
}

/// Refuses a proxy without a destination, a gateway with fields of a proxy, and a mesh service without a port
/// or socket. `sidecar` are the mistakes of the sidecar that the definition asks for.
pub(crate) fn check(service: &Service, sidecar: Option<&[&str]>) -> Result<(), String> {
    let mut wrong = Vec::new();
    if service.kind == CONNECT_PROXY {
        check_proxy(service, &mut wrong);
    }
    if GATEWAYS.contains(&service.kind.as_str()) {
        check_gateway(service, sidecar.is_some(), &mut wrong);
    }
    wrong.extend(sidecar.unwrap_or_default().iter().map(|why| (*why).to_owned()));
    if service.is_connect_native() && !has_port(service) {
        wrong.push("Port or SocketPath must be set for a Connect native service.".to_owned());
    }
    let place = service.locality.as_ref();
    if place.is_some_and(|place| place.get("Region").is_none() && place.get("Zone").is_some()) {
        wrong.push("zone cannot be set without region".to_owned());
    }
    let lines: String = wrong.iter().map(|why| format!("\n\t* {why}")).collect();
    match wrong.len() {
        0 => Ok(()),
        1 => Err(format!("1 error occurred:{lines}\n\n")),
        count => Err(format!("{count} errors occurred:{lines}\n\n")),
    }
}

fn has_port(service: &Service) -> bool {
    service.port != 0 || !service.socket_path.is_empty()
}

fn check_proxy(service: &Service, wrong: &mut Vec<String>) {
    // The agent gives a sidecar its port later.
    if !has_port(service) && !service.is_sidecar {
        wrong.push("Port or SocketPath must be set for a connect-proxy".to_owned());
    }
    let destination = match service.proxy_destination().map(str::trim) {
        None | Some("") => "must be non-empty",
        Some("*") => "must not be a wildcard",
        Some(_) => "",
    };
    if !destination.is_empty() {
        wrong
            .push(format!("Proxy.DestinationServiceName {destination} for Connect proxy services"));
    }
    if service.is_connect_native() {
        wrong.push("A Proxy cannot also be Connect Native, only typical services".to_owned());
    }
    let list = |path| {
        let found = service.proxy.as_ref().and_then(|proxy| proxy.pointer(path));
        found.and_then(Value::as_array).map_or(&[][..], Vec::as_slice)
    };
    check_upstreams(list("/Upstreams"), wrong);
    check_exposed(list("/Expose/Paths"), wrong);
}

fn check_exposed(paths: &[Value], wrong: &mut Vec<String>) {
    let mut ports = BTreeSet::new();
    for exposed in paths {
        let text = |name: &str| exposed.get(name).and_then(Value::as_str).unwrap_or_default();
        let port = exposed.get("ListenerPort").and_then(Value::as_i64).unwrap_or_default();
        let (path, protocol) = (text("Path"), text("Protocol"));
        if path.is_empty() {
            wrong.push("expose.paths: empty path exposed".to_owned());
        }
        if !ports.insert(port) {
            wrong.push("expose.paths: duplicate listener ports exposed".to_owned());
        }
        if !(1..=65_535).contains(&port) {
            wrong.push(format!("expose.paths: invalid listener port: {port}"));
        }
        if !["", "http", "http2"].contains(&&*protocol.to_lowercase()) {
            wrong.push(format!(
                "protocol '{}' not supported for path: {path}, must be in: [http http2]",
                protocol.to_lowercase()
            ));
        }
    }
}

fn check_upstreams(upstreams: &[Value], wrong: &mut Vec<String>) {
    let (mut destinations, mut binds) = (BTreeSet::new(), BTreeSet::new());
    for upstream in upstreams {
        let text = |name: &str| upstream.get(name).and_then(Value::as_str).unwrap_or_default();
        let port = upstream.get("LocalBindPort").and_then(Value::as_i64).unwrap_or_default();
        let (kind, name, path) =
            (text("DestinationType"), text("DestinationName"), text("LocalBindSocketPath"));
        let mistake = if !DESTINATION_TYPES.contains(&kind) {
            format!("unknown upstream destination type: {}", go::quoted(kind))
        } else if name.is_empty() {
            "upstream destination name cannot be empty".to_owned()
        } else if name == "*" {
            "upstream destination name cannot be a wildcard".to_owned()
        } else if port == 0 && path.is_empty() {
            "upstream local bind port or local socket path must be defined and nonzero".to_owned()
        } else {
            String::new()
        };
        if !mistake.is_empty() {
            wrong.push(mistake);
            continue;
        }
        let destination = format!(
            "[type={}, name={}, partition={}, namespace={}, peer={}, datacenter={}]",
            go::quoted(if kind.is_empty() { "service" } else { kind }),
            go::quoted(name),
            go::quoted(text("DestinationPartition")),
            go::quoted(text("DestinationNamespace")),
            go::quoted(text("DestinationPeer")),
            go::quoted(text("Datacenter")),
        );
        let address = match text("LocalBindAddress") {
            "" => "127.0.0.1",
            given => given,
        };
        let bind = if path.is_empty() { format!("{address}:{port}") } else { path.to_owned() };
        if destinations.contains(&destination) {
            wrong.push(format!("upstreams cannot contain duplicates of {destination}"));
        } else if binds.contains(&bind) {
            wrong.push(format!(
                "upstreams cannot contain duplicates by local bind address and port or unix path; \
                 {} is specified twice",
                go::quoted(&bind)
            ));
        }
        destinations.insert(destination);
        binds.insert(bind);
    }
}

fn check_gateway(service: &Service, has_sidecar: bool, wrong: &mut Vec<String>) {
    let kind = &service.kind;
    if service.port == 0 && matches!(kind.as_str(), "mesh-gateway" | "terminating-gateway") {
        wrong.push(format!("Port must be non-zero for a {kind}"));
    }
    if has_sidecar {
        wrong.push(format!("A {kind} cannot have a sidecar service defined"));
    }
    let is_given = |name: &&&str| {
        let value = service.proxy.as_ref().and_then(|proxy| proxy.get(**name));
        value.is_some_and(|value| !matches!(value, Value::Null) && *value != 0 && *value != "")
    };
    for name in NO_GATEWAYS_FIELDS.iter().filter(is_given) {
        wrong.push(format!("The Proxy.{name} configuration is invalid for a {kind}"));
    }
}
