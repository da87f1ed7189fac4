//! The sidecar: the mesh proxy that a service's definition lets the agent register with it.
//!
//! Source: "Deploy sidecar services" in Consul's documentation, for names, ports and checks.

use super::definition::{self, GivenCheck};
use crate::catalog::body;
use crate::http::decode::Object;
use crate::store::State;
use crate::store::catalog::{CONNECT_PROXY, Service};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

const SIDECAR: &str = "struct { EnableTagOverrideSnake bool }";

const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The sidecar in a service's definition.
pub(super) struct Sidecar {
    service: Service,
    checks: Vec<GivenCheck>,
    /// The mistakes that a sidecar may not have.
    pub mistakes: Vec<&'static str>,
}

/// The id of the sidecar of the service with this id.
pub(super) fn id_of(service: &str) -> String {
    format!("{service}-sidecar-proxy")
}

/// The `Connect` of a service's definition: what replies show of it, and the sidecar.
pub(super) fn read(given: &Object<'_>) -> Result<(Option<Value>, Option<Sidecar>), String> {
    let Some(connect) = given.inner("Connect", body::CONNECT)? else { return Ok((None, None)) };
    let shown = connect.flag("Native")?.then(|| json!({ "Native": true }));
    let Some(json) = connect.get("SidecarService").or_else(|| connect.get("sidecar_service"))
    else {
        return Ok((shown, None));
    };
    let given = connect.nested("SidecarService", json, SIDECAR)?;
    let (service, checks, nested) = definition::read_service(&given)?;
    let mut mistakes = Vec::new();
    if !given.text("ID")?.is_empty() {
        mistakes.push("A SidecarService cannot specify an ID as this is managed by the agent");
    }
    if nested.is_some() {
        mistakes.push("A SidecarService cannot have a nested SidecarService");
    }
    Ok((shown, Some(Sidecar { service, checks, mistakes })))
}

impl Sidecar {
    /// The sidecar beside its service, without a port unless one was given, and its checks if some were given.
    pub fn beside(self, service: &Service) -> (Service, Vec<GivenCheck>) {
        let mut own = self.service;
        own.id = id_of(&service.id);
        own.kind = CONNECT_PROXY.to_owned();
        own.is_sidecar = true;
        if own.name.is_empty() {
            own.name = id_of(&service.name);
        }
        if own.address.is_empty() {
            own.address.clone_from(&service.address);
        }
        if own.tags.as_ref().is_none_or(Vec::is_empty) {
            own.tags.clone_from(&service.tags);
        }
        if own.meta.as_ref().is_none_or(|meta| meta.is_empty()) {
            own.meta.clone_from(&service.meta);
        }
        if own.locality.is_none() {
            own.locality.clone_from(&service.locality);
        }
        own.proxy = Some(Value::Object(proxy(own.proxy.take(), service)));
        (own, self.checks)
    }
}

/// The configuration of the proxy, which is given in parts.
fn proxy(given: Option<Value>, service: &Service) -> Map<String, Value> {
    let mut proxy = match given {
        Some(Value::Object(given)) => given,
        _ => Map::new(),
    };
    let mut set_default = |name: &str, value: Value| {
        let is_set = proxy.get(name).is_some_and(|given| *given != "" && *given != 0);
        if !is_set && value != 0 {
            proxy.insert(name.to_owned(), value);
        }
    };
    set_default("DestinationServiceName", service.name.as_str().into());
    set_default("DestinationServiceID", service.id.as_str().into());
    if service.socket_path.is_empty() {
        set_default("LocalServiceAddress", "127.0.0.1".into());
        set_default("LocalServicePort", service.port.into());
    } else {
        set_default("LocalServiceSocketPath", service.socket_path.as_str().into());
    }
    proxy
}

/// The port of a sidecar without a given one: its present port, else the first free one.
pub(super) fn port(state: &State, id: &str) -> Result<i64, String> {
    let services = &state.local.services;
    let range = &state.settings.ports.sidecars;
    if *range.start() < 1 || *range.end() < 1 {
        let why = "no port provided for sidecar_service and auto-assignment disabled in config";
        return Err(why.to_owned());
    }
    let before = services.get(id).filter(|it| it.is_sidecar).map(|it| it.port);
    if let Some(port) = before.filter(|port| range.contains(port)) {
        return Ok(port);
    }
    let taken: BTreeSet<i64> = services.values().map(|service| service.port).collect();
    let mut ports = range.clone();
    ports.find(|port| !taken.contains(port)).ok_or_else(|| {
        format!(
            "no port provided for sidecar_service and none left in the configured range [{}, {}]",
            range.start(),
            range.end()
        )
    })
}

/// The checks of a sidecar to which none were given: its port, and the health of its service.
pub(super) fn default_checks(sidecar: &Service, service: &str) -> Vec<GivenCheck> {
    let local = sidecar.proxy.as_ref().and_then(|proxy| proxy.get("LocalServiceAddress"));
    let host = match sidecar.address.as_str() {
        "" => local.and_then(Value::as_str).unwrap_or_default(),
        own => own,
    };
    let address = match host.parse() {
        Ok(ip) => SocketAddr::new(ip, u16::try_from(sidecar.port).unwrap_or(0)).to_string(),
        Err(_) => format!("{host}:{}", sidecar.port),
    };
    let interval = i64::try_from(CHECK_INTERVAL.as_nanos()).unwrap_or(i64::MAX);
    vec![
        GivenCheck::tcp("Connect Sidecar Listening", address, interval),
        GivenCheck::alias(format!("Connect Sidecar Aliasing {service}"), service),
    ]
}
