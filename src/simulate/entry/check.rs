//! What an entry of each kind must say.

use super::kinds::{INGRESS, INTENTIONS, Kind, TERMINATING};
use super::shape::one_error;
use crate::simulate::filter::{Filter, schema};
use crate::simulate::go;
use crate::simulate::http::decode::Json;
use crate::wire::table::Entries;
use std::collections::BTreeSet;

/// Refuses an entry that Consul refuses by its members alone.
pub(super) fn check(kind: &Kind, name: &str, entry: &Json) -> Result<(), String> {
    match kind.only_name {
        Some("default") if name != "default" => {
            return Err(format!("{} Name must be \"default\"", kind.name));
        }
        Some(only) if name != only => {
            let name = go::quoted(name);
            return Err(format!("invalid name ({name}), only \"{only}\" is supported"));
        }
        None if name.is_empty() => return Err("Name is required".to_owned()),
        _ => {}
    }
    match kind.name {
        "service-defaults" => service_defaults(name, entry),
        "proxy-defaults" | "service-resolver"
            if *entry.at("PrioritizeByLocality") != Json::Null =>
        {
            Err("Prioritize-by-locality requires Consul Enterprise ".to_owned())
        }
        "service-resolver" => service_resolver(entry),
        "service-splitter" => service_splitter(name, entry),
        "service-router" => service_router(entry),
        INTENTIONS => service_intentions(name, entry),
        "sameness-group" => Err("sameness-groups are an enterprise-only feature".to_owned()),
        "exported-services" => exported_services(entry),
        INGRESS => ingress_gateway(entry),
        TERMINATING => terminating_gateway(entry),
        _ => Ok(()),
    }
}

fn exported_services(entry: &Json) -> Result<(), String> {
    for (place, service) in entry.at("Services").items().iter().enumerate() {
        if service.at("Name").as_text().is_empty() {
            return Err(format!("Services[{place}]: service name cannot be empty"));
        }
        if service.at("Consumers").items().is_empty() {
            return Err(format!("Services[{place}]: must have at least one consumer"));
        }
    }
    Ok(())
}

fn ingress_gateway(entry: &Json) -> Result<(), String> {
    let mut ports = BTreeSet::new();
    for listener in entry.at("Listeners").items() {
        let port = listener.at("Port").as_int();
        if !ports.insert(port) {
            return Err(format!("port {port} declared on two listeners"));
        }
        let protocol = listener.at("Protocol").as_text();
        if !["tcp", "http", "http2", "grpc"].contains(&protocol) {
            return Err(format!(
                "protocol must be 'tcp', 'http', 'http2', or 'grpc'. '{protocol}' is an unsupported protocol"
            ));
        }
        let services = listener.at("Services").items();
        let mut hosts = BTreeSet::new();
        let why = match services {
            [] => {
                let port = listener.at("Port").as_int();
                return Err(format!("No service declared for listener with port {port}"));
            }
            [_, _, ..] if protocol == "tcp" => {
                "Multiple services per listener are only supported for L7 protocols, 'http', 'grpc' and 'http2'"
            }
            _ => services
                .iter()
                .find_map(|service| {
                    let (is_all, own) = (service.at("Name").as_text() == "*", service.at("Hosts"));
                    match () {
                        () if is_all && protocol == "tcp" => {
                            Some("Wildcard service name is only valid for protocol = 'http'")
                        }
                        () if is_all && !own.items().is_empty() => {
                            Some("Associating hosts to a wildcard service is not supported")
                        }
                        () if !own.texts().all(|host| hosts.insert(host)) => {
                            Some("Hosts must be unique within a specific listener")
                        }
                        () => None,
                    }
                })
                .unwrap_or(""),
        };
        if !why.is_empty() {
            let port = listener.at("Port").as_int();
            return Err(format!("{why} (listener on port {port})"));
        }
    }
    Ok(())
}

fn terminating_gateway(entry: &Json) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for service in entry.at("Services").items() {
        let name = service.at("Name").as_text();
        let given =
            ["CAFile", "CertFile", "KeyFile"].map(|file| !service.at(file).as_text().is_empty());
        let quoted = go::quoted(name);
        if name.is_empty() {
            return Err("Service name cannot be blank.".to_owned());
        }
        if !names.insert(name) {
            return Err(format!(
                "Service {quoted} was specified more than once within a namespace"
            ));
        }
        if !matches!(given, [_, false, false] | [true, true, true]) {
            return Err(format!(
                "Service {quoted} must have a CertFile, CAFile, and KeyFile specified for TLS origination"
            ));
        }
    }
    Ok(())
}

fn service_defaults(name: &str, entry: &Json) -> Result<(), String> {
    if name == "*" {
        return Err(
            "service-defaults name must be the name of a service, and not a wildcard".to_owned()
        );
    }
    let refuse = |why: &str| Err(one_error(why));
    let protocol = entry.at("Protocol").as_text();
    if !["", "tcp", "http", "http2", "grpc"].contains(&protocol) {
        return refuse(&format!("invalid value for protocol: {protocol}"));
    }
    let balance = entry.at("BalanceInboundConnections").as_text();
    if !["", "exact_balance"].contains(&balance) {
        return refuse(&format!("invalid value for balance_inbound_connections: {balance}"));
    }
    if *entry.at("RateLimits") != Json::Null {
        return refuse("invalid rate_limits config. Rate limiting is a consul enterprise feature");
    }
    let upstreams = entry.at("UpstreamConfig");
    if !upstreams.at("Defaults").at("Name").as_text().is_empty() {
        return refuse("error in upstream defaults: Name must be empty");
    }
    let mut overrides = upstreams.at("Overrides").items().iter();
    if overrides.any(|upstream| upstream.at("Name").as_text().is_empty()) {
        return refuse("error in upstream override for :: Name is required");
    }
    let destination = entry.at("Destination");
    if *destination == Json::Null {
        return Ok(());
    }
    if destination.at("Addresses").items().is_empty() {
        return refuse("Destination must contain at least one valid address");
    }
    match destination.at("Port").as_int() {
        1..=65_535 => Ok(()),
        port => refuse(&format!("Invalid Port number {port}")),
    }
}

fn service_resolver(entry: &Json) -> Result<(), String> {
    let subsets = entry.at("Subsets");
    for (name, subset) in subsets.members() {
        check_subset(name, subset.at("Filter").as_text())?;
    }
    let is_subset = |name: &str| subsets.members().iter().any(|(known, _)| known == name);
    let default = entry.at("DefaultSubset").as_text();
    if !default.is_empty() && !is_subset(default) {
        return Err(format!("DefaultSubset {} is not a valid subset", go::quoted(default)));
    }
    check_redirect(entry)?;
    for (subset, failover) in entry.at("Failover").members() {
        let refuse = |why: &str| Err(format!("Bad Failover[{}]: {why}", go::quoted(subset)));
        if subset != "*" && !is_subset(subset) {
            return refuse("not a valid subset subset");
        }
        if failover.members().is_empty() {
            return refuse(
                "one of Service, ServiceSubset, Namespace, Targets, SamenessGroup, or Datacenters is required",
            );
        }
        let has = |name: &str| *failover.at(name) != Json::Null;
        if has("Targets") && has("Datacenters") {
            return refuse("Targets cannot be set with Datacenters");
        }
        if !failover.at("Policy").at("Mode").as_text().is_empty() {
            return refuse("Setting failover policies requires Consul Enterprise");
        }
        if has("SamenessGroup") {
            return refuse("Setting SamenessGroup requires Consul Enterprise");
        }
    }
    for time in ["ConnectTimeout", "RequestTimeout"] {
        let given = entry.at(time).as_text();
        if given.starts_with('-') {
            return Err(format!("Bad {time} '{given}', must be >= 0"));
        }
    }
    let policy = entry.at("LoadBalancer").at("Policy").as_text();
    let policies = ["", "random", "round_robin", "least_request", "ring_hash", "maglev"];
    match policies.contains(&policy) {
        true => Ok(()),
        false => Err(format!("Bad LoadBalancer policy: {} is not supported", go::quoted(policy))),
    }
}

fn check_subset(name: &str, filter: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("Subset defined with empty name".to_owned());
    }
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_name = name.len() <= 63
        && name.chars().all(|c| is_word(c) || c == '-')
        && name.starts_with(is_word)
        && name.ends_with(is_word);
    if !is_name {
        return Err(format!(
            "Subset {} is invalid: must be 63 characters or fewer, begin or end with lower case \
             alphanumeric characters, and contain lower case alphanumeric characters or '-' in \
             between",
            go::quoted(name)
        ));
    }
    if filter.is_empty() {
        return Ok(());
    }
    Filter::compile(filter, schema::of(Entries::Instance)).map(|_| ()).map_err(|why| {
        let why = why.trim_start_matches("Failed to create boolean expression evaluator: ");
        format!("Filter for subset {} is not a valid expression: {why}", go::quoted(name))
    })
}

fn check_redirect(entry: &Json) -> Result<(), String> {
    let redirect = entry.at("Redirect");
    let why = match redirect {
        Json::Null => return Ok(()),
        _ if *entry.at("Failover") != Json::Null => "Redirect and Failover cannot both be set",
        _ if redirect.members().is_empty() => "Redirect is empty",
        _ if !redirect.at("Service").as_text().is_empty() => return Ok(()),
        _ if !redirect.at("ServiceSubset").as_text().is_empty() => {
            "Redirect.ServiceSubset defined without Redirect.Service"
        }
        _ => return Ok(()),
    };
    Err(why.to_owned())
}

fn service_splitter(name: &str, entry: &Json) -> Result<(), String> {
    let splits = entry.at("Splits").items();
    if splits.is_empty() {
        return Err("no splits configured".to_owned());
    }
    let mut seen = Vec::new();
    let mut sum = 0.0;
    for split in splits {
        let service = Some(split.at("Service").as_text()).filter(|service| !service.is_empty());
        let service = service.unwrap_or(name);
        let subset = split.at("ServiceSubset").as_text();
        if seen.contains(&(service, subset)) {
            return Err(format!(
                "split destination occurs more than once: service={}, subset={}, namespace=\"\", partition=\"\"",
                go::quoted(service),
                go::quoted(subset)
            ));
        }
        seen.push((service, subset));
        sum += hundredths(split.at("Weight"));
    }
    match sum == 10_000.0 {
        true => Ok(()),
        false => Err(format!("the sum of all split weights must be 100, not {:.6}", sum / 100.0)),
    }
}

/// A weight in hundredths of a percent: Consul knows no smaller parts.
fn hundredths(weight: &Json) -> f64 {
    match weight {
        Json::Number(number) => (number.as_f64().unwrap_or(0.0) * 100.0).round(),
        _ => 0.0,
    }
}

fn service_router(entry: &Json) -> Result<(), String> {
    for (place, route) in entry.at("Routes").items().iter().enumerate() {
        let http = route.at("Match").at("HTTP");
        check_match(http, &format!("Route[{place}] "))?;
        for (index, param) in http.at("QueryParam").items().iter().enumerate() {
            let at = format!("Route[{place}] QueryParam[{index}]");
            check_choice(param, &at, &["Present", "Exact", "Regex"], "Present, Exact, or Regex")?;
        }
        let has = |name: &str| !http.at(name).as_text().is_empty();
        let rewrite = route.at("Destination").at("PrefixRewrite").as_text();
        if !rewrite.is_empty() && !has("PathExact") && !has("PathPrefix") {
            return Err(format!(
                "Route[{place}] cannot make use of PrefixRewrite without configuring either \
                 PathExact or PathPrefix"
            ));
        }
    }
    Ok(())
}

/// What routes and the permissions of intentions have in common; `at` ends with the separator.
fn check_match(http: &Json, at: &str) -> Result<(), String> {
    let paths = ["PathExact", "PathPrefix", "PathRegex"];
    if paths.iter().filter(|name| !http.at(name).as_text().is_empty()).count() > 1 {
        let at = at.trim_end_matches(['.', ' ']);
        return Err(format!(
            "{at} should only contain at most one of PathExact, PathPrefix, or PathRegex"
        ));
    }
    for name in ["PathExact", "PathPrefix"] {
        let path = http.at(name).as_text();
        if !path.is_empty() && !path.starts_with('/') {
            return Err(format!("{at}{name} doesn't start with '/': {}", go::quoted(path)));
        }
    }
    for (index, header) in http.at("Header").items().iter().enumerate() {
        let choices = ["Present", "Exact", "Prefix", "Suffix", "Contains", "Regex"];
        let said = "Present, Exact, Prefix, Suffix, or Regex";
        check_choice(header, &format!("{at}Header[{index}]"), &choices, said)?;
    }
    let mut seen: Vec<&str> = Vec::new();
    for method in http.at("Methods").texts() {
        if seen.contains(&method) {
            return Err(format!("{at}Methods contains {} more than once", go::quoted(method)));
        }
        seen.push(method);
    }
    Ok(())
}

/// Refuses a matcher without a name, or without exactly one of the ways to match.
fn check_choice(matcher: &Json, at: &str, choices: &[&str], said: &str) -> Result<(), String> {
    if matcher.at("Name").as_text().is_empty() {
        return Err(format!("{at} missing required Name field"));
    }
    match choices.iter().filter(|name| *matcher.at(name) != Json::Null).count() {
        1 => Ok(()),
        _ => Err(format!("{at} should only contain one of {said}")),
    }
}

fn service_intentions(name: &str, entry: &Json) -> Result<(), String> {
    check_wildcard(name, "Name")?;
    let sources = entry.at("Sources").items();
    if sources.is_empty() {
        return Err("At least one source is required".to_owned());
    }
    let mut seen: Vec<&str> = Vec::new();
    for (place, source) in sources.iter().enumerate() {
        let at = format!("Sources[{place}]");
        let source_name = source.at("Name").as_text();
        check_source(name, source, &at)?;
        if seen.contains(&source_name) {
            return Err(format!("{at} defines {} more than once", go::quoted(source_name)));
        }
        seen.push(source_name);
    }
    Ok(())
}

fn check_wildcard(name: &str, at: &str) -> Result<(), String> {
    match name != "*" && name.contains('*') {
        true => Err(format!("{at}: wildcard character '*' cannot be used with partial values")),
        false => Ok(()),
    }
}

fn check_source(destination: &str, source: &Json, at: &str) -> Result<(), String> {
    let name = source.at("Name").as_text();
    if name.is_empty() {
        return Err(format!("{at}.Name is required"));
    }
    check_wildcard(name, &format!("{at}.Name"))?;
    let is_action = |action: &Json| matches!(action.as_text(), "allow" | "deny");
    let permissions = source.at("Permissions").items();
    if !permissions.is_empty() {
        if destination == "*" {
            return Err(format!(
                "{at}.Permissions cannot be specified on intentions with wildcarded destinations"
            ));
        }
        if !source.at("Action").as_text().is_empty() {
            return Err(format!("{at}.Action must be omitted if Permissions are specified"));
        }
    } else if !is_action(source.at("Action")) {
        return Err(format!("{at}.Action must be set to 'allow' or 'deny'"));
    }
    for (place, permission) in permissions.iter().enumerate() {
        let at = format!("{at}.Permissions[{place}]");
        if !is_action(permission.at("Action")) {
            return Err(format!("{at}.Action must be set to 'allow' or 'deny'"));
        }
        if *permission.at("HTTP") == Json::Null && *permission.at("JWT") == Json::Null {
            return Err(format!("{at}.HTTP is required"));
        }
        check_match(permission.at("HTTP"), &format!("{at}.HTTP."))?;
    }
    match source.at("Type").as_text() {
        "consul" => Ok(()),
        _ => Err(format!("{at}.Type must be set to 'consul'")),
    }
}
