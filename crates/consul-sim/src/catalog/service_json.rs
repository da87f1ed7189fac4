//! Services in replies: each area has its own form.

use super::proxy::has_proxy;
use crate::store::catalog::{Address, Check, Node, Record, Service, TextMap, Weights};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;

type Addresses = BTreeMap<String, Address>;

/// A service in `catalog/node` and `health/service`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NodeService<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: Option<&'a [String]>,
    address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: &'a Addresses,
    meta: Option<&'a TextMap>,
    #[serde(skip_serializing_if = "is_zero")]
    port: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    socket_path: &'a str,
    weights: Weights,
    enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    locality: Option<&'a Value>,
    #[serde(serialize_with = "proxy")]
    proxy: Option<&'a Value>,
    #[serde(serialize_with = "object")]
    connect: Option<&'a Value>,
    peer_name: &'static str,
    create_index: u64,
    modify_index: u64,
}

impl<'a> From<&'a Service> for NodeService<'a> {
    fn from(service: &'a Service) -> Self {
        Self {
            kind: &service.kind,
            id: &service.id,
            service: &service.name,
            tags: Some(service.tags.as_deref().unwrap_or_default()),
            address: &service.address,
            tagged_addresses: &service.tagged_addresses,
            meta: service.meta.as_ref(),
            port: service.port,
            socket_path: &service.socket_path,
            weights: service.weights,
            enable_tag_override: service.enable_tag_override,
            locality: service.locality.as_ref(),
            proxy: service.proxy.as_ref(),
            connect: service.connect.as_ref(),
            peer_name: "",
            create_index: service.create_index,
            modify_index: service.modify_index,
        }
    }
}

impl<'a> NodeService<'a> {
    /// As the catalog has it, which tells no tags from an empty list of them.
    pub fn as_stored(service: &'a Service) -> Self {
        Self { tags: service.tags.as_deref(), ..service.into() }
    }

    pub fn id(&self) -> &'a str {
        self.id
    }
}

/// An instance in `catalog/service`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ServiceNode<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    datacenter: &'a str,
    tagged_addresses: Option<&'a TextMap>,
    node_meta: Option<&'a TextMap>,
    service_kind: &'a str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [String],
    service_address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_tagged_addresses: &'a Addresses,
    service_weights: Weights,
    #[serde(serialize_with = "map_or_empty")]
    service_meta: Option<&'a TextMap>,
    service_port: i64,
    service_socket_path: &'a str,
    service_enable_tag_override: bool,
    #[serde(serialize_with = "proxy")]
    service_proxy: Option<&'a Value>,
    #[serde(serialize_with = "object")]
    service_connect: Option<&'a Value>,
    service_locality: Option<&'a Value>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> ServiceNode<'a> {
    pub fn name(&self) -> &'a str {
        self.service_name
    }

    pub fn node(&self) -> &'a str {
        self.node
    }

    pub fn tags(&self) -> &'a [String] {
        self.service_tags
    }

    pub fn new(node: &'a Node, service: &'a Service) -> Self {
        Self {
            id: &node.id,
            node: &service.node,
            address: &node.address,
            datacenter: &node.datacenter,
            tagged_addresses: node.tagged_addresses.as_ref(),
            node_meta: node.meta.as_ref(),
            service_kind: &service.kind,
            service_id: &service.id,
            service_name: &service.name,
            service_tags: service.tags.as_deref().unwrap_or_default(),
            service_address: &service.address,
            service_tagged_addresses: &service.tagged_addresses,
            service_weights: service.weights,
            service_meta: service.meta.as_ref(),
            service_port: service.port,
            service_socket_path: &service.socket_path,
            service_enable_tag_override: service.enable_tag_override,
            service_proxy: service.proxy.as_ref(),
            service_connect: service.connect.as_ref(),
            service_locality: service.locality.as_ref(),
            create_index: service.create_index,
            modify_index: service.modify_index,
        }
    }
}

/// An instance in `health/service`; the checks of its node come before its own.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Instance<'a> {
    node: &'a Node,
    service: NodeService<'a>,
    checks: Vec<Cow<'a, Check>>,
}

impl<'a> Instance<'a> {
    pub fn node(&self) -> &'a str {
        &self.node.node
    }

    pub fn new(record: &'a Record, service: &'a Service) -> Self {
        let checks = record.checks_of(service).map(Check::shown).collect();
        Self { node: &record.node, service: service.into(), checks }
    }

    /// As the catalog has it, which tells no tags from an empty list of them.
    pub fn as_stored(record: &'a Record, service: &'a Service) -> Self {
        let checks = record.checks_of(service).map(Cow::Borrowed).collect();
        Self { node: &record.node, service: NodeService::as_stored(service), checks }
    }

    /// Whether every check passes.
    pub fn passes(&self) -> bool {
        self.checks.iter().all(|check| check.status == "passing")
    }
}

/// A service in `agent/services`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AgentService<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: &'a [String],
    #[serde(serialize_with = "map_or_empty")]
    meta: Option<&'a TextMap>,
    port: i64,
    address: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    socket_path: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: &'a Addresses,
    weights: Weights,
    enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "local_proxy")]
    proxy: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<&'a Value>,
    datacenter: &'a str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "whole_locality")]
    locality: Option<&'a Value>,
}

/// A locality as the agent shows it, with its empty fields.
fn whole_locality<S: Serializer>(
    locality: &Option<&Value>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = |name: &str| locality.and_then(|it| it.get(name)?.as_str()).unwrap_or_default();
    json!({"Region": text("Region"), "Zone": text("Zone")}).serialize(serializer)
}

impl<'a> AgentService<'a> {
    pub fn new(service: &'a Service, datacenter: &'a str) -> Self {
        Self {
            kind: &service.kind,
            id: &service.id,
            service: &service.name,
            tags: service.tags.as_deref().unwrap_or_default(),
            meta: service.meta.as_ref(),
            port: service.port,
            address: &service.address,
            socket_path: &service.socket_path,
            tagged_addresses: &service.tagged_addresses,
            weights: service.weights,
            enable_tag_override: service.enable_tag_override,
            content_hash: None,
            proxy: has_proxy(&service.kind).then(|| service.proxy.as_ref().unwrap_or(&Value::Null)),
            connect: service.connect.as_ref(),
            datacenter,
            locality: service.locality.as_ref(),
        }
    }

    pub fn id(&self) -> &'a str {
        self.id
    }

    /// Adds a hash of the content.
    pub fn with_hash(mut self, hash: &'a str) -> Self {
        self.content_hash = Some(hash);
        self
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn map_or_empty<S: Serializer>(map: &Option<&TextMap>, serializer: S) -> Result<S::Ok, S::Error> {
    match map {
        Some(map) => map.serialize(serializer),
        None => serializer.serialize_map(Some(0))?.end(),
    }
}

fn object<S: Serializer>(given: &Option<&Value>, serializer: S) -> Result<S::Ok, S::Error> {
    match given {
        Some(value) => value.serialize(serializer),
        None => serializer.serialize_map(Some(0))?.end(),
    }
}

/// The given fields, and the three that a proxy's definition always has in the catalog.
fn proxy<S: Serializer>(given: &Option<&Value>, serializer: S) -> Result<S::Ok, S::Error> {
    let defaults = [("Mode", json!("")), ("MeshGateway", json!({})), ("Expose", json!({}))];
    let mut whole = given.cloned();
    let upstreams = whole.as_mut().and_then(|proxy| proxy.get_mut("Upstreams")?.as_array_mut());
    for upstream in upstreams.into_iter().flatten().filter_map(Value::as_object_mut) {
        for (name, default) in
            [("DestinationType", json!("")), ("Datacenter", json!("")), ("MeshGateway", json!({}))]
        {
            upstream.entry(name).or_insert(default);
        }
    }
    with_defaults(&whole.as_ref(), &defaults, serializer)
}

/// The given fields, and those that the agent always shows.
fn local_proxy<S: Serializer>(given: &Option<&Value>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut whole = given.cloned();
    let paths = whole.as_mut().and_then(|proxy| proxy.pointer_mut("/Expose/Paths")?.as_array_mut());
    for path in paths.into_iter().flatten().filter_map(Value::as_object_mut) {
        path.entry("ParsedFromCheck").or_insert(false.into());
    }
    with_defaults(&whole.as_ref(), &[("MeshGateway", json!({})), ("Expose", json!({}))], serializer)
}

fn with_defaults<S: Serializer>(
    given: &Option<&Value>,
    defaults: &[(&str, Value)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let given = given.and_then(Value::as_object);
    let mut map = serializer.serialize_map(None)?;
    for (name, value) in given.into_iter().flatten() {
        if defaults.iter().all(|(always, _)| always != name) {
            map.serialize_entry(name, value)?;
        }
    }
    for (name, default) in defaults {
        map.serialize_entry(name, given.and_then(|given| given.get(*name)).unwrap_or(default))?;
    }
    map.end()
}
