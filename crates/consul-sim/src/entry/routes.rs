//! API gateways and the routes to them: their members, what Consul adds, and what it refuses.

use super::check::METHODS;
use super::kinds::API_GATEWAY;
use super::shape::{Member as M, Shape};
use crate::go;
use crate::http::decode::Json;
use std::collections::{BTreeMap, BTreeSet};

static REFERENCE: Shape =
    Shape(&[M::text("Kind").always(), M::text("Name").always(), M::text("SectionName").always()]);

static CONDITION: Shape = Shape(&[
    M::text("Type"),
    M::text("Status"),
    M::text("Reason"),
    M::text("Message"),
    M::optional("Resource", &REFERENCE),
    M::text("LastTransitionTime"),
]);

static STATUS: Shape = Shape(&[M::list("Conditions", &CONDITION).always()]);

/// Only Consul Enterprise has a member in it.
static JWT: Shape = Shape(&[]);

static POLICY: Shape = Shape(&[M::optional("JWT", &JWT)]);

pub(super) static GATEWAY: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name").always(),
    M::list(
        "Listeners",
        &Shape(&[
            M::text("Name").always(),
            M::text("Hostname").always(),
            M::count("Port").always(),
            M::text("Protocol").always(),
            M::object(
                "TLS",
                &Shape(&[
                    M::list("Certificates", &REFERENCE).always(),
                    M::text("MaxVersion").always(),
                    M::text("MinVersion").always(),
                    M::plain("CipherSuites").always(),
                ]),
            )
            .always(),
            M::optional("Override", &POLICY),
            M::optional("Default", &POLICY),
        ]),
    )
    .always(),
    M::object("Status", &STATUS).always(),
    M::texts("Meta"),
]);

static MATCHER: Shape =
    Shape(&[M::text("Match").always(), M::text("Name").always(), M::text("Value").always()]);

static HEADER_FILTER: Shape =
    Shape(&[M::texts("Add").always(), M::plain("Remove").always(), M::texts("Set").always()]);

static RESPONSE_FILTERS: Shape = Shape(&[M::list("Headers", &HEADER_FILTER).always()]);

static FILTERS: Shape = Shape(&[
    M::list("Headers", &HEADER_FILTER).always(),
    M::optional("URLRewrite", &Shape(&[M::text("Path").always()])).always(),
    M::optional(
        "RetryFilter",
        &Shape(&[
            M::count("NumRetries").always(),
            M::plain("RetryOn").always(),
            M::plain("RetryOnStatusCodes").always(),
            M::flag("RetryOnConnectFailure").always(),
        ]),
    )
    .always(),
    M::optional(
        "TimeoutFilter",
        &Shape(&[M::nanos("RequestTimeout").always(), M::nanos("IdleTimeout").always()]),
    )
    .always(),
    M::optional("JWT", &JWT).always(),
]);

pub(super) static HTTP: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name").always(),
    M::list("Parents", &REFERENCE).always(),
    M::list(
        "Rules",
        &Shape(&[
            M::object("Filters", &FILTERS).always(),
            M::object("ResponseFilters", &RESPONSE_FILTERS).always(),
            M::list(
                "Matches",
                &Shape(&[
                    M::list("Headers", &MATCHER).always(),
                    M::text("Method").always(),
                    M::object(
                        "Path",
                        &Shape(&[M::text("Match").always(), M::text("Value").always()]),
                    )
                    .always(),
                    M::list("Query", &MATCHER).always(),
                ]),
            )
            .always(),
            M::list(
                "Services",
                &Shape(&[
                    M::text("Name").always(),
                    M::count("Weight").always(),
                    M::object("Filters", &FILTERS).always(),
                    M::object("ResponseFilters", &RESPONSE_FILTERS).always(),
                ]),
            )
            .always(),
        ]),
    )
    .always(),
    M::plain("Hostnames").always(),
    M::texts("Meta"),
    M::object("Status", &STATUS).always(),
]);

pub(super) static TCP: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name").always(),
    M::list("Parents", &REFERENCE).always(),
    M::list("Services", &Shape(&[M::text("Name").always()])).always(),
    M::texts("Meta"),
    M::object("Status", &STATUS).always(),
]);

/// A gateway or a route with what Consul adds. Its status is not a caller's to write.
pub(super) fn completed(mut entry: Json) -> Json {
    if let Some(status) = member(&mut entry, "Status") {
        *status = Json::Object(vec![("Conditions".to_owned(), Json::Null)]);
    }
    for listener in items(&mut entry, "Listeners") {
        change(listener, "Protocol", |protocol| protocol.to_lowercase());
        if let Some(tls) = member(listener, "TLS") {
            for certificate in items(tls, "Certificates") {
                change(certificate, "Kind", |kind| or(kind, "inline-certificate"));
            }
        }
    }
    for parent in items(&mut entry, "Parents") {
        change(parent, "Kind", |kind| or(kind, API_GATEWAY));
    }
    for rule in items(&mut entry, "Rules") {
        for matched in items(rule, "Matches") {
            change(matched, "Method", |method| method.to_uppercase());
            if let Some(path) = member(matched, "Path")
                && path.at("Match").as_text().is_empty()
            {
                change(path, "Match", |_| "prefix".to_owned());
                change(path, "Value", |_| "/".to_owned());
            }
        }
        for service in items(rule, "Services") {
            if let Some(weight) = member(service, "Weight")
                && weight.as_int() <= 0
            {
                *weight = Json::Number(1.into());
            }
        }
    }
    entry
}

fn or(text: &str, default: &str) -> String {
    if text.is_empty() { default } else { text }.to_owned()
}

pub(super) fn member<'a>(object: &'a mut Json, name: &str) -> Option<&'a mut Json> {
    let Json::Object(members) = object else { return None };
    members.iter_mut().find(|(known, _)| known == name).map(|(_, value)| value)
}

fn items<'a>(object: &'a mut Json, name: &str) -> impl Iterator<Item = &'a mut Json> {
    let list = match member(object, name) {
        Some(Json::List(items)) => Some(items),
        _ => None,
    };
    list.into_iter().flatten()
}

fn change(object: &mut Json, name: &str, new: impl FnOnce(&str) -> String) {
    if let Some(Json::Text(text)) = member(object, name) {
        *text = new(text);
    }
}

pub(super) fn check_gateway(entry: &Json) -> Result<(), String> {
    let listeners = entry.at("Listeners").items();
    if listeners.is_empty() {
        return Err("api gateway must have at least one listener".to_owned());
    }
    let (mut names, mut ports) = (BTreeSet::new(), BTreeMap::new());
    for listener in listeners {
        let name = listener.at("Name").as_text();
        if !is_listener_name(name) {
            return Err(format!(
                "listener name {} is invalid, must be at least 1 character and contain only letters, \
                 numbers, or dashes",
                go::quoted(name)
            ));
        }
        if !names.insert(name) {
            return Err(format!("found multiple listeners with the name {}", go::quoted(name)));
        }
    }
    for listener in listeners {
        let settings =
            |listener: &Json| [listener.at("Hostname"), listener.at("Protocol")].map(Json::clone);
        let before = ports.insert(listener.at("Port").as_int(), listener);
        if let Some(before) = before.filter(|before| settings(before) != settings(listener)) {
            let [one, other] = [before, listener].map(|it| go::quoted(it.at("Name").as_text()));
            return Err(format!("listeners {one} and {other} cannot be merged"));
        }
    }
    listeners.iter().try_for_each(check_listener)
}

/// Whether a name consists of labels of lower-case letters, digits and inner dashes, with dots between them.
fn is_listener_name(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.split('.').all(|label| {
        label.starts_with(is_word)
            && label.ends_with(is_word)
            && label.chars().all(|c| is_word(c) || c == '-')
    })
}

fn check_listener(listener: &Json) -> Result<(), String> {
    let (protocol, host) = (listener.at("Protocol").as_text(), listener.at("Hostname").as_text());
    let port = listener.at("Port").as_int();
    match protocol {
        "http" => {}
        "tcp" if host.is_empty() => {}
        "tcp" => return Err("hostname specification is not supported when using TCP".to_owned()),
        other => {
            return Err(format!(
                "unsupported listener protocol {}, must be one of 'tcp', or 'http'",
                go::quoted(other)
            ));
        }
    }
    if !(1..=65_535).contains(&port) {
        return Err(format!("listener port {port} not in the range 1-65535"));
    }
    if host.strip_prefix("*.").unwrap_or(host).contains('*') {
        return Err(format!(
            "host {} is not valid, a wildcard specifier is only allowed as the left-most label",
            go::quoted(host)
        ));
    }
    let tls = listener.at("TLS");
    for certificate in tls.at("Certificates").items() {
        let kind = certificate.at("Kind").as_text();
        if !["inline-certificate", "file-system-certificate"].contains(&kind) {
            return Err(format!(
                "unsupported certificate kind: {}, must be 'file-system-certificate' or 'inline-certificate'",
                go::quoted(kind)
            ));
        }
        if certificate.at("Name").as_text().is_empty() {
            return Err("certificate reference must have a name".to_owned());
        }
    }
    check_tls(tls)
}

/// The versions of TLS, the lowest in front.
const VERSIONS: [&str; 4] = ["TLSv1_0", "TLSv1_1", "TLSv1_2", "TLSv1_3"];

/// The cipher suites of TLS 1.2 that Envoy has.
///
/// Source: `TLSCipherSuite` in Consul's package `types`.
const SUITES: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
];

/// Refuses a version of TLS that Consul does not know; an empty one is the default.
fn check_tls_version(version: &str) -> Result<(), String> {
    if ["", "TLS_AUTO"].contains(&version) || VERSIONS.contains(&version) {
        return Ok(());
    }
    Err(format!(
        "no matching TLS version found for {version}, please specify one of [TLS_AUTO, {}]",
        VERSIONS.join(", ")
    ))
}

fn check_tls(tls: &Json) -> Result<(), String> {
    let (lowest, highest) = (tls.at("MinVersion").as_text(), tls.at("MaxVersion").as_text());
    check_tls_version(lowest)?;
    check_tls_version(highest)?;
    let [lower, upper] =
        [lowest, highest].map(|version| VERSIONS.iter().position(|known| *known == version));
    if let (Some(lower), Some(upper)) = (lower, upper)
        && upper < lower
    {
        return Err(format!(
            "configuring max version {highest} less than the configured min version {lowest} is invalid"
        ));
    }
    let suites = tls.at("CipherSuites");
    if !suites.items().is_empty() && lowest == "TLSv1_3" {
        return Err(format!(
            "configuring CipherSuites is only applicable to connections negotiated with TLS 1.2 or \
             earlier, TLSMinVersion is set to {lowest}"
        ));
    }
    let unknown: Vec<_> = suites.texts().filter(|suite| !SUITES.contains(suite)).collect();
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(format!("no matching Envoy TLS cipher suite found for {}", unknown.join(","))),
    }
}

pub(super) fn check_http(entry: &Json) -> Result<(), String> {
    for host in entry.at("Hostnames").texts() {
        let quoted = go::quoted(host);
        if !is_host(host) {
            return Err(format!("host {quoted} must be a valid DNS hostname"));
        }
        if host.contains('*') {
            return Err(format!("host {quoted} must not be a wildcard"));
        }
    }
    check_parents(entry)?;
    for (place, rule) in entry.at("Rules").items().iter().enumerate() {
        for (index, matched) in rule.at("Matches").items().iter().enumerate() {
            check_match(matched).map_err(|why| format!("Rule[{place}], Match[{index}], {why}"))?;
        }
    }
    Ok(())
}

fn check_match(matched: &Json) -> Result<(), String> {
    const HEADER: &[&str] = &["exact", "prefix", "regex", "suffix", "present"];
    let method = matched.at("Method").as_text();
    if !method.is_empty() && !METHODS.contains(&method) {
        return Err(format!("Method contains an invalid method {}", go::quoted(method)));
    }
    let ways = [
        ("Query", &["exact", "present", "regex"] as &[_], "present, exact, or regex"),
        ("Headers", HEADER, "present, exact, prefix, suffix, or regex"),
    ];
    for (member, ways, said) in ways {
        for (place, matcher) in matched.at(member).items().iter().enumerate() {
            if matcher.at("Name").as_text().is_empty() {
                return Err(format!("{member}[{place}], missing required Name field"));
            }
            if !ways.contains(&matcher.at("Match").as_text()) {
                return Err(format!("{member}[{place}], match type should be one of {said}"));
            }
        }
    }
    let (way, path) = (matched.at("Path").at("Match"), matched.at("Path").at("Value").as_text());
    match way.as_text() {
        "regex" => Ok(()),
        "exact" | "prefix" if path.starts_with('/') => Ok(()),
        way @ ("exact" | "prefix") => {
            Err(format!("Path, {way} type match doesn't start with '/': {}", go::quoted(path)))
        }
        _ => Err("Path, match type should be one of exact, prefix, or regex".to_owned()),
    }
}

pub(super) fn check_tcp(entry: &Json) -> Result<(), String> {
    if entry.at("Services").items().len() > 1 {
        return Err("tcp-route currently only supports one service".to_owned());
    }
    check_parents(entry)
}

fn check_parents(entry: &Json) -> Result<(), String> {
    let mut seen: Vec<&Json> = Vec::new();
    for parent in entry.at("Parents").items() {
        let kind = parent.at("Kind").as_text();
        if kind != API_GATEWAY {
            return Err(format!(
                "unsupported parent kind: {}, must be 'api-gateway'",
                go::quoted(kind)
            ));
        }
        if seen.contains(&parent) {
            return Err("route parents must be unique".to_owned());
        }
        seen.push(parent);
    }
    Ok(())
}

/// Whether a text is a name in DNS: labels of up to 63 bytes, 256 in all.
pub(super) fn is_host(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    text == "." || name.len() < 256 && name.split('.').all(|label| (1..64).contains(&label.len()))
}
