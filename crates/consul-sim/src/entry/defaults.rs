//! The required members of the defaults of a service and of all proxies.

use super::shape::errors;
use crate::go;
use crate::http::decode::Json;
use std::collections::BTreeSet;

pub(super) fn check_service(name: &str, entry: &Json) -> Result<(), String> {
    if name == "*" {
        return Err(
            "service-defaults name must be the name of a service, and not a wildcard".to_owned()
        );
    }
    let mut wrong = Vec::new();
    wrong.extend(wrong_meta(entry));
    let balance = entry.at("BalanceInboundConnections").as_text();
    if !["", "exact_balance"].contains(&balance) {
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
    // It is told alone, and only here.
    check_mutual_tls(entry)?;
    for upstream in upstreams.at("Overrides").items() {
        match upstream.at("Name").as_text() {
            "" => wrong.push("error in upstream override for :: Name is required".to_owned()),
            "*" => {
                let why = "error in upstream override for *:: Wildcard name is not supported";
                wrong.push(why.to_owned());
            }
            _ => {}
        }
    }
    if !upstreams.at("Defaults").at("Name").as_text().is_empty() {
        wrong.push("error in upstream defaults: Name must be empty".to_owned());
    }
    if *destination != Json::Null {
        add_wrong_destination(destination, &mut wrong);
    }
    if *entry.at("RateLimits") != Json::Null {
        let why = "invalid rate_limits config. Rate limiting is a consul enterprise feature";
        wrong.push(why.to_owned());
    }
    errors(&wrong)
}

/// Why the metadata of an entry are refused.
pub(super) fn wrong_meta(entry: &Json) -> Option<String> {
    const MOST: usize = 64;
    let is_too_long = entry.at("Meta").members().len() > MOST;
    is_too_long.then(|| format!("Meta exceeds maximum element count {MOST}"))
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

pub(super) fn check_mutual_tls(entry: &Json) -> Result<(), String> {
    match entry.at("MutualTLSMode").as_text() {
        "" | "strict" | "permissive" => Ok(()),
        mode => Err(format!(
            "Invalid MutualTLSMode {}. Must be one of \"\", \"strict\", or \"permissive\".",
            go::quoted(mode)
        )),
    }
}

pub(super) fn check_access_logs(logs: &Json) -> Result<(), String> {
    let text = |name: &str| logs.at(name).as_text();
    let why = match (text("Type"), text("Path"), text("JSONFormat")) {
        ("" | "stdout" | "stderr", path, _) if !path.is_empty() => {
            "path is only valid for file type access logs".to_owned()
        }
        ("file", "", _) => "path must be specified when using file type access logs".to_owned(),
        ("" | "stdout" | "stderr" | "file", _, json) => {
            let read = Some(json).filter(|json| !json.is_empty()).map(Json::read_whole);
            match read {
                Some(_) if !text("TextFormat").is_empty() => {
                    "cannot specify both access log JSONFormat and TextFormat".to_owned()
                }
                Some(Err(why)) => format!("invalid access log json for JSON format: {why}"),
                _ => return Ok(()),
            }
        }
        (kind, ..) => format!("invalid access log type: {kind}"),
    };
    Err(why)
}
