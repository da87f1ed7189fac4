//! The required members of an entry of each kind.

use super::defaults;
use super::kinds::{EXPORTED, INTENTIONS, Kind};
use super::shape::{errors, one_error};
use crate::filter::{Filter, schema};
use crate::go;
use crate::http::decode::Json;
use consul_api::table::Entries;

/// Refuses an entry that Consul refuses by its members alone.
pub(super) fn check(kind: &Kind, name: &str, entry: &Json) -> Result<(), String> {
    match kind.only_name {
        Some("default") if name != "default" => {
            return Err(format!("{} Name must be \"default\"", kind.name));
        }
        Some(only) if name != only => {
            return Err(only_name(name, only));
        }
        None if name.is_empty() => return Err("Name is required".to_owned()),
        _ => {}
    }
    if kind.name == "service-defaults" {
        return defaults::check_service(name, entry);
    }
    if let Some(why) = defaults::wrong_meta(entry) {
        return Err(one_error(&why));
    }
    match kind.name {
        "proxy-defaults" => {
            defaults::check_access_logs(entry.at("AccessLogs"))?;
            let mode = entry.at("FailoverPolicy").at("Mode").as_text();
            if !["", "sequential", "order-by-locality"].contains(&mode) {
                return Err("Failover-policy mode must be one of '', 'sequential', or \
                            'order-by-locality'"
                    .to_owned());
            }
            check_locality(entry)?;
            defaults::check_mutual_tls(entry)
        }
        "service-resolver" => {
            check_locality(entry)?;
            service_resolver(name, entry)
        }
        "service-splitter" => service_splitter(name, entry),
        "service-router" => service_router(entry),
        INTENTIONS => service_intentions(name, entry),
        EXPORTED => exported_services(entry),
        "jwt-provider" => jwt_provider(entry),
        "api-gateway" => api_gateway(entry),
        "sameness-group" => Err("sameness-groups are an enterprise-only feature".to_owned()),
        _ => Ok(()),
    }
}

fn check_locality(entry: &Json) -> Result<(), String> {
    match entry.at("PrioritizeByLocality").at("Mode").as_text() {
        "" => Ok(()),
        _ => Err("Prioritize-by-locality requires Consul Enterprise ".to_owned()),
    }
}

/// Why a name is refused where there is only one.
pub(super) fn only_name(name: &str, only: &str) -> String {
    format!("invalid name ({}), only \"{only}\" is supported", go::quoted(name))
}

fn service_resolver(own: &str, entry: &Json) -> Result<(), String> {
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
        if failover.members().iter().all(|(name, _)| name == "Policy") {
            return refuse(
                "one of Service, ServiceSubset, Namespace, Targets, SamenessGroup, or Datacenters is required",
            );
        }
        let has = |name: &str| *failover.at(name) != Json::Null;
        check_own_subset(own, failover, &is_subset, "").or_else(|why| refuse(&why))?;
        let beside = ["Service", "ServiceSubset", "Datacenters"];
        if let Some(other) = beside.into_iter().find(|name| has("Targets") && has(name)) {
            return refuse(&format!("Targets cannot be set with {other}"));
        }
        if failover.at("Datacenters").texts().any(str::is_empty) {
            let subset = go::quoted(subset);
            return Err(format!("Bad Failover[{subset}].Datacenters: found empty datacenter"));
        }
        for (place, target) in failover.at("Targets").items().iter().enumerate() {
            let refuse =
                |why| Err(format!("Bad Failover[{}].Targets[{place}]: {why}", go::quoted(subset)));
            let mut others = BESIDE_NO_PEER.iter();
            let is_given = |name: &str| !target.at(name).as_text().is_empty();
            if let Some(other) = others.find(|name| is_given("Peer") && is_given(name)) {
                return refuse(format!("Peer cannot be set with {other}"));
            }
            check_own_subset(own, target, &is_subset, own).or_else(refuse)?;
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
    Ok(())
}

/// The members that a reference to a peer lacks.
const BESIDE_NO_PEER: [&str; 2] = ["ServiceSubset", "Datacenter"];

/// Refuses a subset of the resolver's own service that it does not define; `called` is how the error names the service.
fn check_own_subset(
    own: &str,
    reference: &Json,
    is_subset: &impl Fn(&str) -> bool,
    called: &str,
) -> Result<(), String> {
    let subset = reference.at("ServiceSubset").as_text();
    match ["", own].contains(&reference.at("Service").as_text())
        && !subset.is_empty()
        && !is_subset(subset)
    {
        true => Err(format!(
            "ServiceSubset {} is not a valid subset of {}",
            go::quoted(subset),
            go::quoted(called)
        )),
        false => Ok(()),
    }
}

fn check_subset(name: &str, filter: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("Subset defined with empty name".to_owned());
    }
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_name = name.chars().all(|c| is_word(c) || c == '-')
        && name.starts_with(is_word)
        && name.ends_with(is_word);
    if name.len() > 63 {
        let name = go::quoted(name);
        return Err(format!(
            "Subset {name} is invalid: must be non-empty and 63 characters or fewer"
        ));
    }
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
        _ => "",
    };
    if !why.is_empty() {
        return Err(why.to_owned());
    }
    let has = |name: &&str| !redirect.at(name).as_text().is_empty();
    let of_enterprise = ["SamenessGroup", "Partition", "Namespace"];
    if let Some(name) = of_enterprise.into_iter().find(has) {
        return Err(format!("Redirect: Setting {name} requires Consul Enterprise"));
    }
    let alone = ["ServiceSubset", "Peer"].into_iter().find(has).filter(|_| !has(&"Service"));
    if let Some(name) = alone {
        return Err(format!("Redirect.{name} defined without Redirect.Service"));
    }
    match BESIDE_NO_PEER.into_iter().find(|name| has(&"Peer") && has(name)) {
        Some(other) => Err(format!("Redirect.Peer cannot be set with Redirect.{other}")),
        None => Ok(()),
    }
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
        // A route that changes headers is never a repetition.
        let changes = ["RequestHeaders", "ResponseHeaders"];
        let is_plain = changes.iter().all(|name| *split.at(name) == Json::Null);
        if is_plain && seen.contains(&(service, subset)) {
            return Err(format!(
                "split destination occurs more than once: service={}, subset={}, namespace=\"\", partition=\"\"",
                go::quoted(service),
                go::quoted(subset)
            ));
        }
        if is_plain {
            seen.push((service, subset));
        }
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
        check_match(http, &format!("Route[{place}] "), "Present, Exact, Prefix, Suffix, or Regex")?;
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

const METHODS: &[&str] =
    &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"];

/// The common part of routes and of the permissions of intentions; `at` ends with the separator, `ways` names the ways
/// to match a header.
fn check_match(http: &Json, at: &str, ways: &str) -> Result<(), String> {
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
        check_choice(header, &format!("{at}Header[{index}]"), &choices, ways)?;
    }
    let mut seen: Vec<&str> = Vec::new();
    for method in http.at("Methods").texts() {
        if !METHODS.contains(&method) {
            let method = go::quoted(method);
            return Err(format!("{at}Methods contains an invalid method {method}"));
        }
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

fn api_gateway(entry: &Json) -> Result<(), String> {
    for listener in entry.at("Listeners").items() {
        let (protocol, port) = (listener.at("Protocol").as_text(), listener.at("Port").as_int());
        let protocol = protocol.to_ascii_lowercase();
        if !["tcp", "http"].contains(&protocol.as_str()) {
            let protocol = go::quoted(&protocol);
            return Err(format!(
                "unsupported listener protocol {protocol}, must be one of 'tcp', or 'http'"
            ));
        }
        if !(1..=65_535).contains(&port) {
            return Err(format!("listener port {port} not in the range 1-65535"));
        }
    }
    Ok(())
}

fn jwt_provider(entry: &Json) -> Result<(), String> {
    let others = entry.at("Locations").items().iter().filter(|it| it.members().len() != 1);
    let why = "must set exactly one of: JWT location header, query param or cookie";
    errors(&others.map(|_| why.to_owned()).collect::<Vec<_>>())
}

/// Refuses references to providers of tokens that have no name.
fn check_jwt(jwt: &Json) -> Result<(), String> {
    let names = jwt.at("Providers").items().iter().map(|provider| provider.at("Name").as_text());
    let wrong = names.filter(|name| name.is_empty());
    errors(&wrong.map(|_| "JWT provider name is required".to_owned()).collect::<Vec<_>>())
}

fn service_intentions(name: &str, entry: &Json) -> Result<(), String> {
    check_wildcard(name, "Name")?;
    check_jwt(entry.at("JWT"))?;
    let sources = entry.at("Sources").items();
    if sources.is_empty() {
        return Err("At least one source is required".to_owned());
    }
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (place, source) in sources.iter().enumerate() {
        let at = format!("Sources[{place}]");
        let source_name = source.at("Name").as_text();
        check_source(name, source, &at)?;
        let of_peer = (source_name, source.at("Peer").as_text());
        if seen.contains(&of_peer) {
            return Err(format!("{at} defines {} more than once", go::quoted(source_name)));
        }
        seen.push(of_peer);
    }
    Ok(())
}

fn exported_services(entry: &Json) -> Result<(), String> {
    let services = || entry.at("Services").items().iter().enumerate();
    let is_given = |consumer: &Json, name: &str| !consumer.at(name).as_text().is_empty();
    for (place, service) in services() {
        for (number, consumer) in service.at("Consumers").items().iter().enumerate() {
            let at = format!("Services[{place}].Consumers[{number}]");
            if is_given(consumer, "SamenessGroup") {
                return Err(format!("{at}: sameness-groups are an enterprise-only feature"));
            }
        }
    }
    for (place, service) in services() {
        let at = format!("Services[{place}]");
        let name = service.at("Name").as_text();
        if name.is_empty() {
            return Err(format!("{at}: service name cannot be empty"));
        }
        if service.at("Namespace").as_text() == "*" && name != "*" {
            return Err(format!("{at}: service name must be wildcard if namespace is wildcard"));
        }
        if service.at("Consumers").items().is_empty() {
            return Err(format!("{at}: must have at least one consumer"));
        }
        for (number, consumer) in service.at("Consumers").items().iter().enumerate() {
            let at = format!("{at}.Consumers[{number}]");
            if is_given(consumer, "Peer") && is_given(consumer, "Partition") {
                return Err(format!(
                    "{at}: must define at most one of Peer, Partition, or SamenessGroup"
                ));
            }
            if consumer.at("Partition").as_text() == "*" {
                return Err(format!(
                    "{at}: exporting to all partitions (wildcard) is not supported"
                ));
            }
            if consumer.at("Peer").as_text() == "*" {
                return Err(format!("{at}: exporting to all peers (wildcard) is not supported"));
            }
        }
    }
    Ok(())
}

fn check_wildcard(name: &str, at: &str) -> Result<(), String> {
    match name != "*" && name.contains('*') {
        true => Err(format!("{at}: wildcard character '*' cannot be used with partial values")),
        false => Ok(()),
    }
}

/// The longest description of an intention, in bytes.
pub(super) const LONGEST_DESCRIPTION: usize = 512;

fn check_source(destination: &str, source: &Json, at: &str) -> Result<(), String> {
    let name = source.at("Name").as_text();
    if name.is_empty() {
        return Err(format!("{at}.Name is required"));
    }
    check_wildcard(name, &format!("{at}.Name"))?;
    if source.at("Peer").as_text() == "*" {
        return Err(format!("{at}.Peer: cannot use wildcard '*' in peer"));
    }
    if !source.at("SamenessGroup").as_text().is_empty() {
        return Err(format!(
            "{at}.SamenessGroup: Sameness groups are a Consul Enterprise feature. "
        ));
    }
    if source.at("Description").as_text().len() > LONGEST_DESCRIPTION {
        let why = "Description exceeds maximum length";
        return Err(format!("{at}.{why} {LONGEST_DESCRIPTION}"));
    }
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
        if let Some(why) = match permission.at("HTTP") {
            Json::Null => Some("is required"),
            http if http.members().is_empty() => Some("should not be empty"),
            _ => None,
        } {
            return Err(format!("{at}.HTTP {why}"));
        }
        let ways = "Present, Exact, Prefix, Suffix, Contains, or Regex";
        check_match(permission.at("HTTP"), &format!("{at}.HTTP."), ways)?;
        check_jwt(permission.at("JWT"))?;
    }
    match source.at("Type").as_text() {
        "consul" => Ok(()),
        _ => Err(format!("{at}.Type must be set to 'consul'")),
    }
}
