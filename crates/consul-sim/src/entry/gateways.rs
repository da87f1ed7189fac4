//! The services behind gateways, as the entries of gateways name them.

use super::chain;
pub(crate) use super::kinds::INGRESS;
use super::kinds::TERMINATING;
use super::table::Entry;
use crate::http::decode::Json;
use crate::store::State;
use crate::store::catalog::Service;
use serde::Serialize;
use std::collections::BTreeSet;

/// A service behind a gateway, in replies.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GatewayService<'a> {
    pub gateway: Name<'a>,
    pub service: Name<'a>,
    pub gateway_kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<&'a Json>,
    #[serde(skip_serializing_if = "str::is_empty")]
    protocol: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts: Option<&'a Json>,
    #[serde(rename = "CAFile", skip_serializing_if = "Option::is_none")]
    ca_file: Option<&'a Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert_file: Option<&'a Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<&'a Json>,
    #[serde(rename = "SNI", skip_serializing_if = "Option::is_none")]
    sni: Option<&'a Json>,
    #[serde(skip_serializing_if = "is_false")]
    from_wildcard: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    service_kind: &'static str,
    create_index: u64,
    modify_index: u64,
    #[serde(skip_serializing_if = "is_false")]
    auto_host_rewrite: bool,
}

#[derive(Clone, Copy, Serialize)]
pub(crate) struct Name<'a> {
    #[serde(rename = "Name")]
    pub name: &'a str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// The services behind gateways, by the gateway and the service. An entry that names a service has precedence over `*`.
///
/// Source: "Wildcard service specification" in Consul's references of `terminating-gateway` and `ingress-gateway`. A server of
/// Consul 1.21 lets `*` replace an entry's settings when an instance is registered after the entry; that is not simulated.
pub(crate) fn services(state: &State) -> Vec<GatewayService<'_>> {
    let (entries, mut found) = (&state.entries, Vec::new());
    let known = typical_services(state);
    for (gateway, entry) in entries.of_kind(TERMINATING) {
        let linked = entry.body.at("Services").items();
        add(
            &mut found,
            linked,
            &known,
            |_| true,
            |link, name, from_wildcard| GatewayService {
                ca_file: member(link, "CAFile"),
                cert_file: member(link, "CertFile"),
                key_file: member(link, "KeyFile"),
                sni: member(link, "SNI"),
                auto_host_rewrite: member(link, "DisableAutoHostRewrite")
                    != Some(&Json::Bool(true)),
                ..of(gateway, entry, TERMINATING, name, from_wildcard, &known)
            },
        );
    }
    for (gateway, entry) in entries.of_kind(INGRESS) {
        for listener in entry.body.at("Listeners").items() {
            let protocol = listener.at("Protocol").as_text();
            let speaks = |name: &str| chain::protocol(entries, name) == protocol;
            let linked = listener.at("Services").items();
            add(&mut found, linked, &known, speaks, |link, name, from_wildcard| GatewayService {
                port: member(listener, "Port"),
                protocol,
                hosts: member(link, "Hosts"),
                ..of(gateway, entry, INGRESS, name, from_wildcard, &known)
            });
        }
    }
    found
}

/// Adds the services that links name, then those for which `*` stands.
fn add<'a>(
    found: &mut Vec<GatewayService<'a>>,
    links: &'a [Json],
    known: &BTreeSet<&'a str>,
    is_meant: impl Fn(&str) -> bool,
    new: impl Fn(&'a Json, &'a str, bool) -> GatewayService<'a>,
) {
    let name_of = |link: &'a Json| link.at("Name").as_text();
    let named = || links.iter().map(|link| (link, name_of(link))).filter(|(_, name)| *name != "*");
    let mut added: Vec<_> = named().map(|(link, name)| new(link, name, false)).collect();
    if let Some(link) = links.iter().find(|link| name_of(link) == "*") {
        let is_new = |name: &str| named().all(|(_, other)| other != name);
        let others = known.iter().filter(|name| is_new(name) && is_meant(name));
        added.extend(others.map(|name| new(link, name, true)));
    }
    added.sort_by_key(|service| service.service.name);
    found.append(&mut added);
}

fn of<'a>(
    gateway: &'a str,
    entry: &Entry,
    gateway_kind: &'static str,
    service: &'a str,
    from_wildcard: bool,
    known: &BTreeSet<&str>,
) -> GatewayService<'a> {
    GatewayService {
        gateway: Name { name: gateway },
        service: Name { name: service },
        gateway_kind,
        port: None,
        protocol: "",
        hosts: None,
        ca_file: None,
        cert_file: None,
        key_file: None,
        sni: None,
        from_wildcard,
        service_kind: if known.contains(service) { "service" } else { "" },
        create_index: entry.create_index,
        modify_index: entry.modify_index,
        auto_host_rewrite: false,
    }
}

/// The services that `*` stands for: all but proxies, gateways and the servers.
fn typical_services(state: &State) -> BTreeSet<&str> {
    let all = state.catalog.nodes().flat_map(|record| record.services.values());
    let is_typical = |service: &&Service| service.kind.is_empty() && service.name != "consul";
    all.filter(is_typical).map(|service| service.name.as_str()).collect()
}

/// The member of this name, if it is given.
fn member<'a>(object: &'a Json, name: &str) -> Option<&'a Json> {
    Some(object.at(name)).filter(|value| **value != Json::Null)
}
