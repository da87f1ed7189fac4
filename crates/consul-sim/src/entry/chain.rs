//! The points on which entries of different kinds must agree: the protocols of services, and the subsets of their instances.

use super::kinds::INTENTIONS;
use super::table::EntryTable;
use crate::go;
use crate::http::decode::Json;

/// Refuses a table in which routes, splits, redirects and intentions do not fit the services.
pub(super) fn check(entries: &EntryTable) -> Result<(), String> {
    for (service, entry) in entries.of_kind("service-defaults") {
        if !entry.body.at("ExternalSNI").as_text().is_empty() {
            is_external(entries, service)?;
        }
    }
    for (service, entry) in entries.of_kind("service-router") {
        is_advanced(entries, service)?;
        for route in entry.body.at("Routes").items() {
            refers(entries, service, route.at("Destination"))?;
        }
    }
    for (service, entry) in entries.of_kind("service-splitter") {
        is_advanced(entries, service)?;
        for split in entry.body.at("Splits").items() {
            refers(entries, service, split)?;
        }
    }
    for (service, entry) in entries.of_kind("service-resolver") {
        refers(entries, service, entry.body.at("Redirect"))?;
        for (_, failover) in entry.body.at("Failover").members() {
            refers(entries, service, failover)?;
        }
    }
    for (service, entry) in entries.of_kind(INTENTIONS) {
        let mut sources = entry.body.at("Sources").items().iter();
        let has_permissions = sources.any(|source| *source.at("Permissions") != Json::Null);
        let protocol = protocol(entries, service);
        if has_permissions && protocol == "tcp" {
            return Err(format!(
                "service {} has protocol \"tcp\", which is incompatible with L7 intentions permissions",
                go::quoted(service)
            ));
        }
    }
    Ok(())
}

/// The protocol of a service: its own, else that of all proxies.
fn protocol<'a>(entries: &'a EntryTable, service: &str) -> &'a str {
    let own = entries.get("service-defaults", service);
    let own = own.map(|entry| entry.body.at("Protocol").as_text());
    let global = entries.get("proxy-defaults", "global");
    let global = global.map(|entry| entry.body.at("Config").at("protocol").as_text());
    own.or(global).filter(|protocol| !protocol.is_empty()).unwrap_or("tcp")
}

/// Refuses routes and splits of a service whose protocol has no requests.
fn is_advanced(entries: &EntryTable, service: &str) -> Result<(), String> {
    match protocol(entries, service) {
        "tcp" => Err(format!(
            "discovery chain {} uses a protocol \"tcp\" that does not permit advanced routing or \
             splitting behavior",
            go::quoted(service)
        )),
        _ => Ok(()),
    }
}

/// Refuses a resolver that sends requests for an external service elsewhere.
fn is_external(entries: &EntryTable, service: &str) -> Result<(), String> {
    let Some(resolver) = entries.get("service-resolver", service) else { return Ok(()) };
    let parts = [("Redirect", "redirects"), ("Subsets", "subsets"), ("Failover", "failover")];
    match parts.iter().find(|(name, _)| !resolver.body.at(name).members().is_empty()) {
        None => Ok(()),
        Some((_, what)) => Err(format!(
            "service {} has an external SNI set; cannot define {what} for external services",
            go::quoted(service)
        )),
    }
}

/// Refuses a reference to another protocol, or to a subset that the other service does not have.
fn refers(entries: &EntryTable, from: &str, reference: &Json) -> Result<(), String> {
    let to = Some(reference.at("Service").as_text()).filter(|to| !to.is_empty()).unwrap_or(from);
    let (expected, found) = (protocol(entries, from), protocol(entries, to));
    if expected != found {
        return Err(format!(
            "discovery chain {} uses inconsistent protocols; service {} has {} which is not {}",
            go::quoted(from),
            go::quoted(to),
            go::quoted(found),
            go::quoted(expected)
        ));
    }
    let subset = reference.at("ServiceSubset").as_text();
    let resolver = entries.get("service-resolver", to);
    let subsets = resolver.map_or(&[] as &[_], |entry| entry.body.at("Subsets").members());
    match subset.is_empty() || subsets.iter().any(|(name, _)| name == subset) {
        true => Ok(()),
        false => Err(format!(
            "service {} does not have a subset named {}",
            go::quoted(to),
            go::quoted(subset)
        )),
    }
}
