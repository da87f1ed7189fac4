//! What the defaults of a service and of all proxies must say.

use super::shape::{errors, one_error};
use crate::go;
use crate::http::decode::Json;
use std::collections::BTreeSet;

/// The extensions of Envoy that Consul has.
///
/// Source: the reference of Envoy extensions in Consul's documentation.
const EXTENSIONS: &[&str] = &[
    "builtin/aws/lambda",
    "builtin/ext-authz",
    "builtin/lua",
    "builtin/otel-access-logging",
    "builtin/property-override",
    "builtin/wasm",
];

pub(super) fn check_service(name: &str, entry: &Json) -> Result<(), String> {
    if name == "*" {
        return Err(
            "service-defaults name must be the name of a service, and not a wildcard".to_owned()
        );
    }
    check_mutual_tls(entry)?;
    let mut wrong = Vec::new();
    wrong.extend(wrong_meta(entry));
    let balance = entry.at("BalanceInboundConnections").as_text();
    if !is_balance(balance) {
        wrong.push(format!("invalid value for balance_inbound_connections: {balance}"));
    }
    let protocol = entry.at("Protocol").as_text();
    if !["", "tcp", "http", "http2", "grpc"].contains(&protocol) {
        wrong.push(format!("invalid value for protocol: {protocol}"));
    }
    let (upstreams, destination) = (entry.at("UpstreamConfig"), entry.at("Destination"));
    if *upstreams != Json::Null && *destination != Json::Null {
        wrong.push(
            "UpstreamConfig and Destination are mutually exclusive for service defaults".to_owned(),
        );
        return errors(&wrong);
    }
    for upstream in upstreams.at("Overrides").items() {
        let (name, peer) = (upstream.at("Name").as_text(), upstream.at("Peer").as_text());
        let why = match name {
            "" => Some("Name is required".to_owned()),
            "*" => Some("Wildcard name is not supported".to_owned()),
            _ => wrong_upstream(upstream),
        };
        wrong.extend(why.map(|why| format!("error in upstream override for {name}:{peer}: {why}")));
    }
    let defaults = upstreams.at("Defaults");
    let why = match defaults.at("Name").as_text() {
        "" => wrong_upstream(defaults),
        _ => Some("Name must be empty".to_owned()),
    };
    wrong.extend(why.map(|why| format!("error in upstream defaults: {why}")));
    if *destination != Json::Null {
        add_wrong_destination(destination, &mut wrong);
    }
    if *entry.at("RateLimits") != Json::Null {
        let why = "invalid rate_limits config. Rate limiting is a consul enterprise feature";
        wrong.push(why.to_owned());
    }
    add_wrong_extensions(entry, &mut wrong);
    errors(&wrong)
}

pub(super) fn check_proxies(entry: &Json) -> Result<(), String> {
    let mut wrong = Vec::new();
    add_wrong_extensions(entry, &mut wrong);
    errors(&wrong)?;
    check_access_logs(entry.at("AccessLogs"))?;
    check_mutual_tls(entry)?;
    match entry.at("FailoverPolicy").at("Mode").as_text() {
        "" | "sequential" | "order-by-locality" => Ok(()),
        _ => Err("Failover-policy mode must be one of '', 'sequential', or 'order-by-locality'"
            .to_owned()),
    }
}

/// Why the metadata of an entry are refused.
pub(super) fn wrong_meta(entry: &Json) -> Option<String> {
    const MOST: usize = 64;
    let is_too_long = entry.at("Meta").members().len() > MOST;
    is_too_long.then(|| format!("Meta exceeds maximum element count {MOST}"))
}

fn is_balance(text: &str) -> bool {
    ["", "exact_balance"].contains(&text)
}

fn wrong_upstream(upstream: &Json) -> Option<String> {
    let health = upstream.at("PassiveHealthCheck");
    let is_negative = |time: &str| health.at(time).as_text().starts_with('-');
    let is_percent = |name: &str| (0..=100).contains(&health.at(name).as_int());
    let limits = ["MaxConnections", "MaxPendingRequests", "MaxConcurrentRequests"];
    let balance = upstream.at("BalanceOutboundConnections").as_text();
    let negative = limits.iter().position(|limit| upstream.at("Limits").at(limit).as_int() < 0);
    let why = match () {
        () if is_negative("Interval") => "passive health check interval cannot be negative",
        () if !is_percent("EnforcingConsecutive5xx") => {
            "passive health check enforcing_consecutive_5xx must be a percentage between 0 and 100"
        }
        () if !is_percent("MaxEjectionPercent") => {
            "passive health check max_ejection_percent must be a percentage between 0 and 100"
        }
        () if is_negative("BaseEjectionTime") => {
            "passive health check base_ejection_time cannot be negative"
        }
        () => match negative {
            Some(0) => "max connections cannot be negative",
            Some(1) => "max pending requests cannot be negative",
            Some(_) => "max concurrent requests cannot be negative",
            None if !is_balance(balance) => {
                let why = format!("invalid value for balance_outbound_connections: {balance}");
                return Some(one_error(&why));
            }
            None => return None,
        },
    };
    Some(one_error(why))
}

fn add_wrong_destination(destination: &Json, wrong: &mut Vec<String>) {
    let addresses = destination.at("Addresses");
    if addresses.items().is_empty() {
        wrong.push("Destination must contain at least one valid address".to_owned());
    }
    let mut seen = BTreeSet::new();
    for address in addresses.texts() {
        if !seen.insert(address) {
            wrong.push(format!("Duplicate address '{address}' is not allowed"));
        } else if address.is_empty() || address.contains('*') {
            wrong.push(format!(
                "Destination address '{address}' is invalid Could not validate address {address} \
                 as an IP or Hostname"
            ));
        }
    }
    let port = destination.at("Port").as_int();
    if !(1..=65_535).contains(&port) {
        wrong.push(format!("Invalid Port number {port}"));
    }
}

/// Arguments of extensions are not checked.
fn add_wrong_extensions(entry: &Json, wrong: &mut Vec<String>) {
    for (place, extension) in entry.at("EnvoyExtensions").items().iter().enumerate() {
        let at = format!("invalid EnvoyExtensions[{place}]");
        match extension.at("Name").as_text() {
            "" => wrong.push(format!("{at}: Name is required")),
            name if EXTENSIONS.contains(&name) => {}
            name => wrong.push(format!(
                "{at}[{name}]: name {} is not a built-in extension",
                go::quoted(name)
            )),
        }
    }
}

fn check_mutual_tls(entry: &Json) -> Result<(), String> {
    match entry.at("MutualTLSMode").as_text() {
        "" | "strict" | "permissive" => Ok(()),
        mode => Err(format!(
            "Invalid MutualTLSMode {}. Must be one of \"\", \"strict\", or \"permissive\".",
            go::quoted(mode)
        )),
    }
}

fn check_access_logs(logs: &Json) -> Result<(), String> {
    let text = |name: &str| logs.at(name).as_text();
    let (kind, path) = (text("Type"), text("Path"));
    let why = match kind {
        "" | "stdout" | "stderr" | "file" => match (kind == "file", path.is_empty()) {
            (true, true) => "path must be specified when using file type access logs",
            (false, false) => "path is only valid for file type access logs",
            _ if !text("JSONFormat").is_empty() && !text("TextFormat").is_empty() => {
                "cannot specify both access log JSONFormat and TextFormat"
            }
            _ => "",
        },
        kind => return Err(format!("invalid access log type: {kind}")),
    };
    if !why.is_empty() {
        return Err(why.to_owned());
    }
    let format = text("JSONFormat");
    match Json::read(format.as_bytes()) {
        Err(why) if !format.is_empty() => {
            let why = match why.contains("EOF") {
                true => "unexpected end of JSON input",
                false => why.as_str(),
            };
            Err(format!("invalid access log json for JSON format: {why}"))
        }
        _ => Ok(()),
    }
}
