//! Reads and validates the definitions of services and checks that are registered with the agent.

use super::checks::{CheckTls, Probe, Schedule};
use super::local::{Alias, LocalCheck};
use super::sidecar::{self, Sidecar};
use crate::catalog::body::{
    self, addresses, check_address, check_meta, check_weights, locality, weights,
};
use crate::catalog::proxy::{self, Reader};
use crate::go;
use crate::http::decode::{GoType, Json, Object, decode_error};
use crate::http::reply::Refusal;
use crate::settings::Settings;
use crate::store::State;
use crate::store::catalog::{Address, Check, Service};
use consul_api::api::agent::STATUSES;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const SERVICE: GoType = GoType {
    value: "struct { EnableTagOverrideSnake bool \"json:\\\"enable_tag_override\\\"\"; TaggedAddressesSnake map[string]structs.ServiceAddress \"json:\\\"tagged_addresses\\\"\"; *structs.Alias }",
    fields: ".Alias.",
};
/// Go's name for the type of a service's check has all fields of a check.
const EMBEDDED: &str = "struct { Interval interface {} }";
const ADDRESS: &str = "structs.ServiceAddress";
const OWN: GoType = GoType { value: EMBEDDED, fields: ".Alias." };

/// Fields of several words also have a form with underscores.
const SERVICE_FIELDS: &[&str] = &[
    "Kind",
    "ID",
    "Name",
    "Tags",
    "Address",
    "TaggedAddresses",
    "tagged_addresses",
    "Meta",
    "Port",
    "SocketPath",
    "Check",
    "Checks",
    "Weights",
    "Token",
    "EnableTagOverride",
    "enable_tag_override",
    "Proxy",
    "Connect",
    "Locality",
];

const CHECK_FIELDS: &[&str] = &[
    "Name",
    "Notes",
    "Status",
    "TTL",
    "Interval",
    "Timeout",
    "HTTP",
    "Method",
    "Header",
    "Body",
    "DisableRedirects",
    "TCP",
    "TCPUseTLS",
    "tcp_use_tls",
    "UDP",
    "GRPC",
    "GRPCUseTLS",
    "grpc_use_tls",
    "H2PING",
    "H2PingUseTLS",
    "h2ping_use_tls",
    "OSService",
    "Args",
    "ScriptArgs",
    "script_args",
    "DockerContainerID",
    "docker_container_id",
    "Shell",
    "AliasNode",
    "AliasService",
    "TLSServerName",
    "tls_server_name",
    "TLSSkipVerify",
    "tls_skip_verify",
    "OutputMaxSize",
    "SuccessBeforePassing",
    "FailuresBeforeWarning",
    "FailuresBeforeCritical",
    "DeregisterCriticalServiceAfter",
    "deregister_critical_service_after",
    "ServiceID",
    "service_id",
];

/// Only the check of a service has the first members, and only other checks have the last.
const OF_A_SERVICES_CHECK: &[&str] = &["ProxyHTTP", "ProxyGRPC"];
const DISABLE_REDIRECTS: &str = "disable_redirects";

/// The shortest interval and the default timeout of a check. Source: `Interval` and `Timeout`
/// there; the first is fixed in the agent.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The shortest time after which a critical service is deregistered. Source:
/// `DeregisterCriticalServiceAfter` there.
const MIN_DEREGISTER_AFTER: Duration = Duration::from_secs(60);

/// Where a definition comes from, which decides whether it may run programs.
#[derive(Clone, Copy)]
pub(crate) enum Origin {
    Request,
    /// A configuration file.
    File,
}

/// The service of a body and, if it asks for one, its sidecar, each with its checks.
pub(crate) fn services(
    json: &Json,
    state: &State,
    origin: Origin,
) -> Result<Vec<(Service, Vec<LocalCheck>)>, Refusal> {
    let given = Object::of_body(json, SERVICE)?;
    let (service, checks, sidecar) = read_service(&given).map_err(decode_error)?;
    if service.name.is_empty() {
        return Err(Refusal::bad("Missing service name"));
    }
    check_address(&service.address).map_err(Refusal::bad)?;
    check_weights(service.weights)
        .map_err(|why| Refusal::bad(format!("Invalid Weights: {why}")))?;
    check_meta(&service.kind, service.meta.as_ref())
        .map_err(|why| Refusal::bad(format!("Invalid Service Meta: {why}")))?;
    proxy::check(&service, sidecar.as_ref().map(|it| it.mistakes.as_slice()))
        .map_err(|why| Refusal::bad(format!("Validation failed: {why}")))?;
    for check in &checks {
        check.validate().map_err(|why| Refusal::bad(format!("Invalid check: {why}")))?;
    }
    if checks.iter().any(|check| !check.status.is_empty() && !is_status(&check.status)) {
        return Err(Refusal::bad("Status for checks must 'passing', 'warning', 'critical'"));
    }
    let sidecar = sidecar.map(|given| beside(given, &service, state)).transpose()?;
    [Some((service, checks)), sidecar]
        .into_iter()
        .flatten()
        .map(|(mut service, checks)| {
            add_own_addresses(&mut service);
            let checks = finish_checks(checks, &service, state, origin)?;
            Ok((service, checks))
        })
        .collect()
}

/// The sidecar of a service, with its port and its checks.
fn beside(
    given: Sidecar,
    service: &Service,
    state: &State,
) -> Result<(Service, Vec<GivenCheck>), Refusal> {
    let (mut sidecar, mut checks) = given.beside(service);
    check_meta(&sidecar.kind, sidecar.meta.as_ref())
        .map_err(|why| Refusal::bad(format!("Invalid SidecarService: {why}")))?;
    for check in &checks {
        let refused = |why| Refusal::bad(format!("Invalid check in sidecar_service: {why}"));
        check.validate().map_err(refused)?;
    }
    proxy::check(&sidecar, None)
        .map_err(|why| Refusal::bad(format!("Failed Validation: {why}")))?;
    if sidecar.port < 1 {
        sidecar.port = sidecar::port(state, &sidecar.id).map_err(Refusal::server)?;
    }
    if checks.is_empty() {
        checks = sidecar::default_checks(&sidecar, &service.id);
    }
    Ok((sidecar, checks))
}

fn finish_checks(
    checks: Vec<GivenCheck>,
    service: &Service,
    state: &State,
    origin: Origin,
) -> Result<Vec<LocalCheck>, Refusal> {
    for check in &checks {
        check.refuse_what_cannot_run(origin, &state.settings)?;
    }
    let count = checks.len();
    let named = checks.into_iter().enumerate().map(|(place, mut check)| {
        if check.id.is_empty() {
            check.id = format!("service:{}", service.id);
            if count > 1 {
                check.id += &format!(":{}", place + 1);
            }
        }
        if check.name.is_empty() {
            check.name = format!("Service '{}' check", service.name);
        }
        check.interval_text = text_of_given(check.interval);
        check.timeout_text = text_of_given(check.timeout);
        check.finish(state, Some(service))
    });
    Ok(named.collect())
}

/// A duration of a service's check as replies show it.
fn text_of_given(nanos: i64) -> String {
    match nanos {
        0 => String::new(),
        nanos => go::signed_duration_text(nanos),
    }
}

/// The check of a body.
pub(crate) fn check(json: &Json, state: &State, origin: Origin) -> Result<LocalCheck, Refusal> {
    let given = Object::of_body(json, OWN)?;
    let mut check = read_check(&given, "ID", &["Token"]).map_err(decode_error)?;
    if check.name.is_empty() {
        return Err(Refusal::bad("Missing check name"));
    }
    if !check.status.is_empty() && !is_status(&check.status) {
        return Err(Refusal::bad("Bad check status"));
    }
    check.validate().map_err(|why| Refusal::bad(format!("Invalid check: {why}")))?;
    check.refuse_what_cannot_run(origin, &state.settings)?;
    let service = match check.service_id.as_str() {
        "" => None,
        id => Some(state.local.services.get(id).ok_or_else(|| {
            Refusal::unknown(format!("ServiceID {} does not exist", go::quoted(id)))
        })?),
    };
    if check.id.is_empty() {
        check.id.clone_from(&check.name);
    }
    check.interval_text = go::signed_duration_text(check.interval);
    check.timeout_text = go::signed_duration_text(check.timeout);
    Ok(check.finish(state, service))
}

/// Whether the text is passing, warning or critical.
pub(super) fn is_status(text: &str) -> bool {
    STATUSES.contains(&text)
}

/// A service, its checks and its sidecar as they were given.
pub(super) fn read_service(
    given: &Object<'_>,
) -> Result<(Service, Vec<GivenCheck>, Option<Sidecar>), String> {
    given.check_known(SERVICE_FIELDS)?;
    let name = given.text("Name")?;
    let id = given.text("ID")?;
    let address = given.text("Address")?;
    let port = given.int("Port")?;
    let mut tagged_addresses = addresses(given, "TaggedAddresses", ADDRESS)?;
    tagged_addresses.append(&mut addresses(given, "tagged_addresses", ADDRESS)?);
    given.text("Token")?;
    let (connect, sidecar) = sidecar::read(given)?;
    let service = Service {
        kind: given.text_of("Kind", "structs.ServiceKind")?,
        id: if id.is_empty() { name.clone() } else { id },
        name,
        tags: given.texts("Tags")?,
        address,
        tagged_addresses,
        meta: given.text_map("Meta")?,
        port,
        socket_path: given.text("SocketPath")?,
        weights: weights(given, "structs.Weights")?,
        enable_tag_override: given.flag("EnableTagOverride")?
            || given.flag("enable_tag_override")?,
        proxy: proxy::read(given, Reader::Agent)?,
        connect,
        locality: locality(given, body::LOCALITY)?,
        ..Service::default()
    };
    let mut checks = Vec::new();
    if let Some(check) = given.inner("Check", EMBEDDED)? {
        let definition = read_check(&check, "CheckID", OF_A_SERVICES_CHECK)?;
        // A check whose every field has its zero value is none.
        if !check.is_zero(is_time) {
            checks.push(definition);
        }
    }
    for json in given.list("Checks", "structs.CheckTypes")?.unwrap_or_default() {
        let check = given.nested("Checks", json, EMBEDDED)?;
        checks.push(read_check(&check, "CheckID", OF_A_SERVICES_CHECK)?);
    }
    Ok((service, checks, sidecar))
}

/// An IP address is also a tagged address, by its version.
fn add_own_addresses(service: &mut Service) {
    let Ok(ip) = service.address.parse::<IpAddr>() else { return };
    let version = if ip.to_canonical().is_ipv4() { "ipv4" } else { "ipv6" };
    for side in ["lan", "wan"] {
        let own = Address { address: service.address.clone(), port: service.port };
        service.tagged_addresses.entry(format!("{side}_{version}")).or_insert(own);
    }
}

/// A check as its definition describes it.
#[derive(Default)]
pub(super) struct GivenCheck {
    id: String,
    name: String,
    notes: String,
    status: String,
    /// Durations are in nanoseconds.
    ttl: i64,
    interval: i64,
    timeout: i64,
    interval_text: String,
    timeout_text: String,
    kind: &'static str,
    service_id: String,
    output_max_size: i64,
    success_before_passing: i64,
    failures_before_warning: i64,
    failures_before_critical: i64,
    deregister_after: i64,
    probe: Option<Probe>,
    alias_node: String,
    alias_service: String,
}

/// `id` is the name of the field with the check's id, `more` are fields that have no effect.
fn read_check(given: &Object<'_>, id: &str, more: &[&str]) -> Result<GivenCheck, String> {
    let redirects = (id == "ID").then_some(DISABLE_REDIRECTS);
    given.check_known(&[CHECK_FIELDS, &[id], more, redirects.as_slice()].concat())?;
    for name in more {
        given.text(name)?;
    }
    let after = match duration(given, "DeregisterCriticalServiceAfter")? {
        0 => duration(given, "deregister_critical_service_after")?,
        nanos => nanos,
    };
    Ok(GivenCheck {
        id: given.text_of(id, "types.CheckID")?,
        name: given.text("Name")?,
        notes: given.text("Notes")?,
        status: given.text("Status")?,
        ttl: duration(given, "TTL")?,
        interval: duration(given, "Interval")?,
        timeout: duration(given, "Timeout")?,
        interval_text: String::new(),
        timeout_text: String::new(),
        kind: kind(given)?,
        service_id: either(given, "ServiceID", "service_id")?,
        output_max_size: given.int("OutputMaxSize")?,
        success_before_passing: given.int("SuccessBeforePassing")?,
        failures_before_warning: given.int("FailuresBeforeWarning")?,
        failures_before_critical: given.int("FailuresBeforeCritical")?,
        deregister_after: after,
        probe: probe(given)?,
        alias_node: given.text("AliasNode")?,
        alias_service: given.text("AliasService")?,
    })
}

/// A text under one of two names.
fn either(given: &Object<'_>, name: &str, other: &str) -> Result<String, String> {
    match given.text(name)? {
        text if text.is_empty() => given.text(other),
        text => Ok(text),
    }
}

/// The program of the check, with its arguments.
fn arguments(given: &Object<'_>) -> Result<Vec<String>, String> {
    for name in ["Args", "ScriptArgs", "script_args"] {
        match given.texts(name)? {
            Some(arguments) if !arguments.is_empty() => return Ok(arguments),
            _ => {}
        }
    }
    Ok(Vec::new())
}

/// The agent's work for the check; `None` for kinds that only others change.
fn probe(given: &Object<'_>) -> Result<Option<Probe>, String> {
    let headers = headers(given)?;
    let method = given.text("Method")?;
    let body = given.text("Body")?;
    let tls = CheckTls {
        server_name: either(given, "TLSServerName", "tls_server_name")?,
        skip_verify: given.flag("TLSSkipVerify")? || given.flag("tls_skip_verify")?,
    };
    let with_tls = |names: [&str; 2], by_default: bool| -> Result<Option<CheckTls>, String> {
        let is_given = names.iter().any(|name| given.has(name));
        let is_on = given.flag(names[0])? || given.flag(names[1])? || (by_default && !is_given);
        Ok(is_on.then(|| tls.clone()))
    };
    Ok(Some(match kind(given)? {
        "http" => Probe::Http {
            url: given.text("HTTP")?,
            method: if method.is_empty() { "GET".to_owned() } else { method },
            headers,
            body,
            follows: !given.flag("DisableRedirects")? && !given.flag(DISABLE_REDIRECTS)?,
            tls,
        },
        TCP => Probe::Tcp {
            address: given.text("TCP")?,
            tls: with_tls(["TCPUseTLS", "tcp_use_tls"], false)?,
        },
        "udp" => Probe::Udp(given.text("UDP")?),
        "grpc" => Probe::Grpc {
            target: given.text("GRPC")?,
            tls: with_tls(["GRPCUseTLS", "grpc_use_tls"], false)?,
        },
        "h2ping" => Probe::H2Ping {
            address: given.text("H2PING")?,
            tls: with_tls(["H2PingUseTLS", "h2ping_use_tls"], true)?,
        },
        SCRIPT => Probe::Script(arguments(given)?),
        _ => return Ok(None),
    }))
}

fn headers(given: &Object<'_>) -> Result<Vec<(String, String)>, String> {
    let mut headers = Vec::new();
    for (name, values) in given.text_lists("Header")?.unwrap_or_default() {
        headers.extend(values.into_iter().flatten().map(|value| (name.clone(), value)));
    }
    Ok(headers)
}

/// Whether the field of a check is a duration.
fn is_time(field: &str) -> bool {
    ["TTL", "Interval", "Timeout", "DeregisterCriticalServiceAfter"]
        .iter()
        .any(|name| name.eq_ignore_ascii_case(&field.replace('_', "")))
}

/// A duration in nanoseconds: a Go string, or a number of nanoseconds.
fn duration(given: &Object<'_>, name: &str) -> Result<i64, String> {
    Ok(match given.get(name) {
        Some(Json::Text(text)) => go::duration(text)?,
        Some(Json::Number(number)) => go::int(number),
        _ => 0,
    })
}

/// The length of a duration; none if it is not positive.
fn length(nanos: i64) -> Option<Duration> {
    u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos)
}

const TTL: &str = "ttl";
const ALIAS: &str = "alias";
const TCP: &str = "tcp";
const SCRIPT: &str = "script";
const DOCKER: &str = "docker";
const OS_SERVICE: &str = "os_service";

fn kind(given: &Object<'_>) -> Result<&'static str, String> {
    if !arguments(given)?.is_empty() {
        let container = either(given, "DockerContainerID", "docker_container_id")?;
        return Ok(if container.is_empty() { SCRIPT } else { DOCKER });
    }
    for (field, kind) in [
        ("HTTP", "http"),
        ("TCP", TCP),
        ("UDP", "udp"),
        ("GRPC", "grpc"),
        ("H2PING", "h2ping"),
        ("OSService", OS_SERVICE),
        ("AliasNode", ALIAS),
        ("AliasService", ALIAS),
    ] {
        if !given.text(field)?.is_empty() {
            return Ok(kind);
        }
    }
    Ok(TTL)
}

impl GivenCheck {
    /// A check of a TCP address; `interval` is in nanoseconds.
    pub fn tcp(name: &str, address: String, interval: i64) -> Self {
        let probe = Some(Probe::Tcp { address, tls: None });
        Self { name: name.to_owned(), kind: TCP, interval, probe, ..Self::default() }
    }

    /// A check that mirrors a service.
    pub fn alias(name: String, service: &str) -> Self {
        Self { name, kind: ALIAS, alias_service: service.to_owned(), ..Self::default() }
    }

    fn validate(&self) -> Result<(), String> {
        let runs = !matches!(self.kind, TTL | ALIAS);
        let why = if self.interval > 0 && self.ttl > 0 {
            "Interval and TTL cannot both be specified"
        } else if runs && self.interval <= 0 {
            "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks"
        } else if self.kind == ALIAS && self.ttl > 0 {
            "TTL must be not be set for Alias checks"
        } else if self.kind == TTL && self.ttl <= 0 {
            "TTL must be > 0 for TTL checks"
        } else if self.output_max_size < 0 {
            "MaxOutputMaxSize must be positive"
        } else if self.failures_before_warning > self.failures_before_critical {
            "FailuresBeforeWarning can't be higher than FailuresBeforeCritical"
        } else {
            return Ok(());
        };
        Err(why.to_owned())
    }

    fn refuse_what_cannot_run(&self, origin: Origin, settings: &Settings) -> Result<(), Refusal> {
        match (self.kind, origin) {
            (SCRIPT, _) if settings.enable_script_checks => Ok(()),
            (SCRIPT, Origin::File) if settings.enable_local_script_checks => Ok(()),
            (SCRIPT, Origin::Request) => Err(Refusal::server(
                "Scripts are disabled on this agent from remote calls; to enable, configure \
                 'enable_script_checks' to true",
            )),
            (SCRIPT, Origin::File) => Err(Refusal::server(
                "Scripts are disabled on this agent; to enable, configure 'enable_script_checks' \
                 or 'enable_local_script_checks' to true",
            )),
            (DOCKER, _) => Err(Refusal::server("a simulated agent runs no Docker checks")),
            (OS_SERVICE, _) => Err(Refusal::server("not implemented")),
            _ => Ok(()),
        }
    }

    fn finish(self, state: &State, service: Option<&Service>) -> LocalCheck {
        let most = match self.output_max_size {
            0 => state.settings.check_output_max_size,
            size => size,
        };
        LocalCheck {
            check: Check {
                node: state.node_name.clone(),
                check_id: self.id,
                name: self.name,
                status: if self.status.is_empty() { "critical".to_owned() } else { self.status },
                notes: self.notes,
                service_id: service.map(|service| service.id.clone()).unwrap_or_default(),
                service_name: service.map(|service| service.name.clone()).unwrap_or_default(),
                service_tags: service.and_then(|service| service.tags.clone()),
                kind: self.kind.to_owned(),
                interval: self.interval_text,
                timeout: self.timeout_text,
                ..Check::default()
            },
            token: None,
            schedule: self.probe.map(|probe| Schedule {
                probe: Arc::new(probe),
                interval: length(self.interval).map_or(MIN_INTERVAL, |it| it.max(MIN_INTERVAL)),
                timeout: length(self.timeout).unwrap_or(DEFAULT_TIMEOUT),
                success_before_passing: self.success_before_passing,
                // The default is the threshold of critical.
                failures_before_warning: match self.failures_before_warning {
                    0 => self.failures_before_critical,
                    count => count,
                },
                failures_before_critical: self.failures_before_critical,
                // The first result counts immediately.
                successes: self.success_before_passing,
                failures: self.failures_before_critical,
                generation: 0,
                next: None,
            }),
            alias: (self.kind == ALIAS)
                .then_some(Alias { node: self.alias_node, service: self.alias_service }),
            ttl: (self.kind == TTL).then(|| length(self.ttl).unwrap_or_default()),
            told: String::new(),
            output_max_size: usize::try_from(most).unwrap_or(usize::MAX),
            deregister_after: length(self.deregister_after).map(|it| it.max(MIN_DEREGISTER_AFTER)),
            critical_since: None,
            expires: None,
            deferred: None,
        }
    }
}
