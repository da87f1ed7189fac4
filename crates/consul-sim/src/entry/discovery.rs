//! `/v1/discovery-chain`: the routes, splits and resolvers on the way to a service, compiled from its entries.
//!
//! Source: "Discovery chain" in Consul's documentation of the mesh, and what Consul 1.21 answers.

use super::chain;
use super::table::EntryTable;
use crate::acl::{Access, Resource, content_hash};
use crate::blocking::{Headers, Read, ResultIndex};
use crate::go;
use crate::http::decode::{Json, Object};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::watch::Topic;
use consul_api::api::connect as wire;
use consul_api::table::{Endpoint, Verb};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::DISCOVERY_CHAIN, Handler::Read(&CHAIN)),
    Route(&WITH_OVERRIDES, Handler::Read(&CHAIN)),
];

/// The same read, with what a proxy overrides in its body.
static WITH_OVERRIDES: Endpoint = Endpoint { method: Verb::Post, ..wire::DISCOVERY_CHAIN };

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The kinds of entries that a chain consists of, in the order in which requests pass them.
const ROUTER: &str = "service-router";
const SPLITTER: &str = "service-splitter";
const RESOLVER: &str = "service-resolver";

static CHAIN: Read = Read {
    check: |call| {
        call.required_rest("Missing chain name")?;
        Overrides::of(call).map(drop)
    },
    topics: |_| vec![Topic::Entries],
    index: |state, call| ResultIndex {
        value: state.entries.newest(),
        missing: !has_entries(&state.entries, &call.rest_text()),
    },
    answer,
    headers: Headers::Catalog { cache: true },
};

/// Whether the chain of a service depends on entries. Else the entries of other services do not wake its readers.
fn has_entries(entries: &EntryTable, service: &str) -> bool {
    let of_service = ["service-defaults", ROUTER, SPLITTER, RESOLVER];
    of_service.iter().any(|kind| entries.get(kind, service).is_some())
        || entries.get("proxy-defaults", "global").is_some()
}

fn answer(state: &State, call: &Call) -> Result<Reply, Refusal> {
    if !state.connect {
        return Err(Refusal::server("Connect must be enabled in order to use this endpoint"));
    }
    let service = call.rest_text();
    state.authority(call).check(Resource::Service, &service, Access::Read)?;
    let datacenter = match call.query.get("compile-dc") {
        "" => state.settings.datacenter.as_str(),
        given => given,
    };
    let mut compiler = Compiler {
        entries: &state.entries,
        trust_domain: format!("{}.consul", state.settings.cluster_id),
        datacenter,
        overrides: Overrides::of(call)?,
        is_overridden: Overrides::default(),
        nodes: BTreeMap::new(),
        targets: BTreeMap::new(),
    };
    let chain = compiler.chain(state, &service).map_err(Refusal::server)?;
    Ok(Reply::json(call.style, &Answer { chain }))
}

/// What a proxy sets for all targets of a chain; empty values set nothing.
#[derive(Default)]
struct Overrides {
    mode: String,
    protocol: String,
    timeout: Duration,
}

impl Overrides {
    fn of(call: &Call) -> Result<Self, Refusal> {
        if call.endpoint.method != Verb::Post {
            return Ok(Self::default());
        }
        let failed = |why: String| Refusal::bad(format!("Request decoding failed: {why}"));
        let json = Json::read(&call.body).map_err(failed)?;
        let members = match &json {
            Json::Object(members) => members.as_slice(),
            Json::Null => &[],
            other => return Err(failed(other.value_type_error("map[string]interface {}"))),
        };
        let given = Object::of_members(members, "");
        let named = |name: &str, snake: &str| given.get(name).or_else(|| given.get(snake));
        let text = |value: Option<&Json>| value.map_or("", Json::as_text).to_owned();
        let timeout = match named("OverrideConnectTimeout", "override_connect_timeout") {
            Some(Json::Text(text)) => go::duration(text).map_err(|why| {
                failed(format!(
                    "1 error(s) decoding:\n\n* error decoding 'OverrideConnectTimeout': {why}"
                ))
            })?,
            Some(value) => value.as_int(),
            None => 0,
        };
        let gateway = named("OverrideMeshGateway", "override_mesh_gateway");
        let mode = match gateway {
            Some(Json::Object(members)) => text(Object::of_members(members, "").get("Mode")),
            _ => String::new(),
        };
        if !["", "none", "local", "remote"].contains(&mode.as_str()) {
            return Err(Refusal::bad("Invalid OverrideMeshGateway.Mode parameter"));
        }
        Ok(Self {
            mode,
            protocol: text(named("OverrideProtocol", "override_protocol")),
            timeout: Duration::from_nanos(timeout.try_into().unwrap_or(0)),
        })
    }

    fn is_empty(&self) -> bool {
        self.mode.is_empty() && self.protocol.is_empty() && self.timeout.is_zero()
    }

    /// A hash, whose only meaning is whether it changes.
    fn hash(&self) -> String {
        let texts = [self.mode.as_str(), self.protocol.as_str(), &go::duration_text(self.timeout)];
        content_hash(texts.into_iter())
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// Whether requests of a protocol can be routed and split.
fn is_like_http(protocol: &str) -> bool {
    matches!(protocol, "http" | "http2" | "grpc")
}

/// What a chain leads to, before its settings are known.
#[derive(Clone, PartialEq)]
struct Place {
    service: String,
    subset: String,
    datacenter: String,
    /// The other cluster; empty for this one.
    peer: String,
}

impl Place {
    fn id(&self) -> String {
        let Self { service, subset, datacenter, peer } = self;
        match (peer.as_str(), subset.as_str()) {
            ("", "") => format!("{service}.default.default.{datacenter}"),
            ("", subset) => format!("{subset}.{service}.default.default.{datacenter}"),
            (peer, _) => format!("{service}.default.default.external.{peer}"),
        }
    }

    /// The place to which a redirect or failover leads from this one.
    fn changed_by(&self, reference: &Json) -> Self {
        let text = |name: &str| reference.at(name).as_text();
        let or = |new: &str, present: &str| if new.is_empty() { present } else { new }.to_owned();
        let service = or(text("Service"), &self.service);
        // Subsets are those of one service.
        let subset = if service == self.service { self.subset.as_str() } else { "" };
        let peer = text("Peer").to_owned();
        let datacenter = match peer.is_empty() {
            true => or(text("Datacenter"), &self.datacenter),
            false => String::new(),
        };
        Self { subset: or(text("ServiceSubset"), subset), service, datacenter, peer }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer<'a> {
    chain: Chain<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Chain<'a> {
    service_name: String,
    namespace: &'static str,
    partition: &'static str,
    datacenter: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    customization_hash: String,
    #[serde(skip_serializing_if = "is_false")]
    default: bool,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_meta: Option<Json>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    envoy_extensions: Vec<Extension<'a>>,
    start_node: String,
    nodes: BTreeMap<String, Node>,
    targets: BTreeMap<String, Target>,
    #[serde(rename = "AutoVirtualIPs")]
    automatic_addresses: Option<[String; 1]>,
    #[serde(rename = "ManualVirtualIPs")]
    manual_addresses: Option<[&'static str; 0]>,
}

/// An extension of Envoy, with all its members.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Extension<'a> {
    name: &'a str,
    required: bool,
    /// By name, in this order.
    arguments: Value,
    consul_version: &'a str,
    envoy_version: &'a str,
}

impl<'a> Extension<'a> {
    fn new(given: &'a Json) -> Self {
        Self {
            name: given.at("Name").as_text(),
            required: given.at("Required").is_true(),
            arguments: given.at("Arguments").into(),
            consul_version: given.at("ConsulVersion").as_text(),
            envoy_version: given.at("EnvoyVersion").as_text(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    r#type: &'static str,
    name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Step>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    splits: Vec<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolver: Option<Resolver>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_balancer: Option<Json>,
}

/// A route or a split.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Step {
    definition: Json,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<Json>,
    next_node: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Resolver {
    connect_timeout: String,
    #[serde(skip_serializing_if = "is_false")]
    default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_timeout: Option<u64>,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    failover: Option<Failover>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Failover {
    targets: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Json>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Target {
    connect_timeout: String,
    #[serde(rename = "ID")]
    id: String,
    service: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    service_subset: String,
    namespace: &'static str,
    partition: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    datacenter: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    peer: String,
    mesh_gateway: Value,
    subset: Json,
    transparent_proxy: Value,
    #[serde(skip_serializing_if = "is_false")]
    external: bool,
    #[serde(rename = "SNI", skip_serializing_if = "String::is_empty")]
    sni: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// A member of an entry, if it is given.
fn member<'a>(entry: Option<&'a Json>, name: &str) -> Option<&'a Json> {
    entry.map(|entry| entry.at(name)).filter(|value| **value != Json::Null)
}

/// A duration of an entry; zero if it is not given.
fn time(entry: Option<&Json>, name: &str) -> Duration {
    let nanos = member(entry, name).and_then(|value| go::duration(value.as_text()).ok());
    Duration::from_nanos(nanos.and_then(|nanos| nanos.try_into().ok()).unwrap_or(0))
}

struct Compiler<'a> {
    entries: &'a EntryTable,
    trust_domain: String,
    datacenter: &'a str,
    overrides: Overrides,
    /// Those that made a difference.
    is_overridden: Overrides,
    nodes: BTreeMap<String, Node>,
    targets: BTreeMap<String, Target>,
}

impl<'a> Compiler<'a> {
    fn entry(&self, kind: &str, name: &str) -> Option<&'a Json> {
        self.entries.get(kind, name).map(|entry| &entry.body)
    }

    fn chain(&mut self, state: &State, service: &str) -> Result<Chain<'a>, String> {
        let start_node = self.start(service)?;
        let own = self.entry("service-defaults", service);
        let all = self.entry("proxy-defaults", "global");
        let extensions = [all, own].into_iter().flat_map(|entry| member(entry, "EnvoyExtensions"));
        let mut protocol = chain::protocol(self.entries, service).to_lowercase();
        if !self.overrides.protocol.is_empty() && self.overrides.protocol != protocol {
            protocol.clone_from(&self.overrides.protocol);
            self.is_overridden.protocol.clone_from(&self.overrides.protocol);
        }
        let starts_at_own = |resolver: &Resolver| {
            let target = self.targets.get(&resolver.target);
            resolver.default && target.is_some_and(|target| target.service == service)
        };
        let resolver = self.nodes.get(&start_node).and_then(|node| node.resolver.as_ref());
        let overridden = &self.is_overridden;
        Ok(Chain {
            service_name: service.to_owned(),
            namespace: "default",
            partition: "default",
            datacenter: self.datacenter.to_owned(),
            customization_hash: match overridden.is_empty() {
                true => String::new(),
                false => overridden.hash(),
            },
            default: resolver.is_some_and(starts_at_own),
            protocol,
            service_meta: member(own, "Meta").cloned(),
            envoy_extensions: extensions.flat_map(Json::items).map(Extension::new).collect(),
            start_node,
            nodes: std::mem::take(&mut self.nodes),
            targets: std::mem::take(&mut self.targets),
            automatic_addresses: state
                .catalog
                .virtual_address(service)
                .map(|address| [address.to_string()]),
            manual_addresses: state.catalog.virtual_address(service).map(|_| []),
        })
    }

    /// The entry of a kind that routes or splits, unless the overridden protocol has no requests.
    fn advanced(&mut self, kind: &str, service: &str) -> Option<&'a Json> {
        let entry = self.entry(kind, service)?;
        let protocol = &self.overrides.protocol;
        if protocol.is_empty() || is_like_http(protocol) {
            return Some(entry);
        }
        self.is_overridden.protocol.clone_from(protocol);
        None
    }

    fn at(&self, service: &str, subset: &str) -> Place {
        Place {
            service: service.to_owned(),
            subset: subset.to_owned(),
            datacenter: self.datacenter.to_owned(),
            peer: String::new(),
        }
    }

    /// Compiles the first node; returns its key.
    fn start(&mut self, service: &str) -> Result<String, String> {
        let Some(router) = self.advanced(ROUTER, service) else {
            return self.splitter_or_resolver(service);
        };
        let mut routes = Vec::new();
        for route in router.at("Routes").items() {
            let destination = route.at("Destination");
            let to = match destination.at("Service").as_text() {
                "" => service,
                to => to,
            };
            let next_node = match destination.at("ServiceSubset").as_text() {
                "" => self.splitter_or_resolver(to)?,
                subset => self.resolver(self.at(to, subset))?,
            };
            routes.push(Step { definition: route.clone(), weight: None, next_node });
        }
        // All other requests go to the service itself.
        let definition = object([
            ("Match", object([("HTTP", object([("PathPrefix", Json::Text("/".to_owned()))]))])),
            (
                "Destination",
                object([
                    ("Service", Json::Text(service.to_owned())),
                    ("Namespace", Json::Text("default".to_owned())),
                    ("Partition", Json::Text("default".to_owned())),
                ]),
            ),
        ]);
        let next_node = self.splitter_or_resolver(service)?;
        routes.push(Step { definition, weight: None, next_node });
        let name = format!("{service}.default.default");
        let key = format!("router:{name}");
        let node = Node {
            r#type: "router",
            name,
            routes,
            splits: Vec::new(),
            resolver: None,
            load_balancer: None,
        };
        self.nodes.insert(key.clone(), node);
        Ok(key)
    }

    fn splitter_or_resolver(&mut self, service: &str) -> Result<String, String> {
        let Some(splitter) = self.advanced(SPLITTER, service) else {
            return self.resolver(self.at(service, ""));
        };
        let name = format!("{service}.default.default");
        let key = format!("splitter:{name}");
        if self.nodes.contains_key(&key) {
            return Ok(key);
        }
        let (mut splits, mut load_balancer) = (Vec::new(), None);
        for split in splitter.at("Splits").items() {
            let to = match split.at("Service").as_text() {
                "" => service,
                to => to,
            };
            let subset = split.at("ServiceSubset").as_text();
            if to != service && subset.is_empty() && self.advanced(SPLITTER, to).is_some() {
                let (service, to) = (go::quoted(service), go::quoted(to));
                return Err(format!(
                    "consul-sim does not compile the splitter {service}, which leads to the splitter {to}"
                ));
            }
            let next_node = self.resolver(self.at(to, subset))?;
            let balancer = self.nodes.get(&next_node).and_then(|node| node.load_balancer.as_ref());
            let is_hashed = |balancer: &&Json| {
                matches!(balancer.at("Policy").as_text(), "ring_hash" | "maglev")
            };
            load_balancer = load_balancer.or_else(|| balancer.filter(is_hashed).cloned());
            let weight = Some(split.at("Weight").clone());
            splits.push(Step { definition: split.clone(), weight, next_node });
        }
        let node = Node {
            r#type: "splitter",
            name,
            routes: Vec::new(),
            splits,
            resolver: None,
            load_balancer,
        };
        self.nodes.insert(key.clone(), node);
        Ok(key)
    }

    /// The place to which redirects and default subsets lead from this one.
    fn resolved(&self, mut place: Place) -> Result<Place, String> {
        let mut seen = Vec::new();
        loop {
            let id = place.id();
            let is_circle = seen.contains(&id);
            seen.push(id);
            if is_circle {
                let circle = seen.join(" -> ");
                return Err(format!("detected circular resolver redirect: [{circle}]"));
            }
            let entry = self.entry(RESOLVER, &place.service).filter(|_| place.peer.is_empty());
            let redirected = member(entry, "Redirect").map(|to| place.changed_by(to));
            let default = member(entry, "DefaultSubset").map_or("", Json::as_text);
            place = match redirected.filter(|redirected| *redirected != place) {
                Some(redirected) => redirected,
                None if place.subset.is_empty() && !default.is_empty() => {
                    Place { subset: default.to_owned(), ..place }
                }
                None => return Ok(place),
            };
        }
    }

    /// Compiles the resolver of a place; returns its key.
    fn resolver(&mut self, place: Place) -> Result<String, String> {
        let place = self.resolved(place)?;
        let target = place.id();
        let key = format!("resolver:{target}");
        if self.nodes.contains_key(&key) {
            return Ok(key);
        }
        let entry = self.entry(RESOLVER, &place.service).filter(|_| place.peer.is_empty());
        let connect_timeout = self.target(&place)?;
        let request = time(entry, "RequestTimeout");
        let resolver = Resolver {
            connect_timeout,
            default: is_default(entry),
            request_timeout: (!request.is_zero()).then(|| nanos(request)),
            target: target.clone(),
            failover: self.failover(entry, &place)?,
        };
        let node = Node {
            r#type: "resolver",
            name: target,
            routes: Vec::new(),
            splits: Vec::new(),
            resolver: Some(resolver),
            load_balancer: member(entry, "LoadBalancer").cloned(),
        };
        self.nodes.insert(key.clone(), node);
        Ok(key)
    }

    fn failover(
        &mut self,
        entry: Option<&'a Json>,
        place: &Place,
    ) -> Result<Option<Failover>, String> {
        let failovers = member(entry, "Failover").map_or(&[][..], Json::members);
        let of = |subset: &str| failovers.iter().find(|(name, _)| name == subset);
        let Some((_, failover)) = of(&place.subset).or_else(|| of("*")) else { return Ok(None) };
        let places: Vec<Place> = match (failover.at("Datacenters"), failover.at("Targets")) {
            (Json::List(datacenters), _) if !datacenters.is_empty() => datacenters
                .iter()
                .map(|datacenter| Place {
                    datacenter: datacenter.as_text().to_owned(),
                    ..place.changed_by(failover)
                })
                .collect(),
            (_, Json::List(targets)) if !targets.is_empty() => {
                targets.iter().map(|target| place.changed_by(target)).collect()
            }
            _ => vec![place.changed_by(failover)],
        };
        let mut targets = Vec::new();
        for other in places.into_iter().filter(|other| other != place) {
            let other = self.resolved(other)?;
            self.target(&other)?;
            targets.push(other.id());
        }
        let policy = member(self.entry("proxy-defaults", "global"), "FailoverPolicy").cloned();
        Ok((!targets.is_empty()).then_some(Failover { targets, policy }))
    }

    /// Adds a target; returns its timeout as text.
    fn target(&mut self, place: &Place) -> Result<String, String> {
        let is_here = place.peer.is_empty();
        let of_service = |kind: &str| self.entry(kind, &place.service).filter(|_| is_here);
        let (resolver, own) = (of_service(RESOLVER), of_service("service-defaults"));
        let all = self.entry("proxy-defaults", "global");
        let subset = match place.subset.as_str() {
            "" => Some(Json::Object(Vec::new())),
            name => {
                let subsets = member(resolver, "Subsets").map_or(&[][..], Json::members);
                let found = subsets.iter().find(|(known, _)| known == name);
                found.map(|(_, subset)| subset.clone())
            }
        };
        let subset = subset.ok_or_else(|| {
            let (service, subset) = (go::quoted(&place.service), go::quoted(&place.subset));
            format!("service {service} does not have a subset named {subset}")
        })?;
        let mut timeout = time(resolver, "ConnectTimeout");
        if timeout.is_zero() {
            timeout = DEFAULT_TIMEOUT;
        }
        if !self.overrides.timeout.is_zero() && self.overrides.timeout != timeout {
            timeout = self.overrides.timeout;
            self.is_overridden.timeout = timeout;
        }
        let external = member(own, "ExternalSNI").map_or("", Json::as_text).to_owned();
        let is_external = !external.is_empty();
        let (mut mode, mut is_direct) = (String::new(), false);
        if !is_external {
            for entry in [own, all].into_iter().flatten() {
                if mode.is_empty() {
                    entry.at("MeshGateway").at("Mode").as_text().clone_into(&mut mode);
                }
                is_direct |= entry.at("TransparentProxy").at("DialedDirectly").is_true();
            }
            if !self.overrides.mode.is_empty() && self.overrides.mode != mode {
                mode.clone_from(&self.overrides.mode);
                self.is_overridden.mode.clone_from(&mode);
            }
        }
        let name = match is_here {
            true => {
                let Place { service, subset, datacenter, .. } = place;
                let prefix = if subset.is_empty() { String::new() } else { format!("{subset}.") };
                format!("{prefix}{service}.default.{datacenter}.internal.{}", self.trust_domain)
            }
            false => String::new(),
        };
        let timeout = go::duration_text(timeout);
        let target = Target {
            connect_timeout: timeout.clone(),
            id: place.id(),
            service: place.service.clone(),
            service_subset: place.subset.clone(),
            namespace: "default",
            partition: "default",
            datacenter: place.datacenter.clone(),
            peer: place.peer.clone(),
            mesh_gateway: if mode.is_empty() { json!({}) } else { json!({ "Mode": mode }) },
            subset,
            transparent_proxy: match is_direct {
                true => json!({"DialedDirectly": true}),
                false => json!({}),
            },
            external: is_external,
            sni: if is_external { external } else { name.clone() },
            name,
        };
        self.targets.insert(target.id.clone(), target);
        Ok(timeout)
    }
}

fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::Object(members.map(|(name, value)| (name.to_owned(), value)).into())
}

/// Whether a resolver has no settings.
fn is_default(entry: Option<&Json>) -> bool {
    let names = [
        "DefaultSubset",
        "Subsets",
        "Redirect",
        "Failover",
        "ConnectTimeout",
        "RequestTimeout",
        "LoadBalancer",
    ];
    names.iter().all(|name| member(entry, name).is_none())
}
