//! Which routes are bound to which listeners of API gateways, and the status of both.
//!
//! Consul's leader finds this out in a controller, shortly after a write. Here it is part of the write, in the same steps: each entry
//! that changes is looked at again, until nothing changes.
//!
//! Source: the package `gateways` of Consul's server, and what Consul 1.21 answers.

use super::discovery::protocol_of_chain;
use super::kinds::{API_GATEWAY, BOUND, HTTP_ROUTE, INLINE_CERTIFICATE, TCP_ROUTE};
use super::routes::member;
use super::shape::{Member as M, Shape};
use super::table::{Entry, EntryTable};
use crate::go;
use crate::http::decode::Json;
use crate::store::State;
use crate::store::watch::Topic;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

pub(super) static SHAPE: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name").always(),
    M::free("Listeners"),
    M::free("Services"),
    M::texts("Meta"),
]);

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reference {
    kind: String,
    name: String,
    section_name: String,
}

impl Reference {
    fn new(kind: &str, name: &str, section: &str) -> Self {
        let [kind, name, section_name] = [kind, name, section].map(str::to_owned);
        Self { kind, name, section_name }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
    resource: Reference,
    last_transition_time: String,
}

impl Condition {
    fn new(kind: &str, status: bool, reason: &str, message: &str, resource: Reference) -> Self {
        let status = if status { "True" } else { "False" };
        let [kind, status, reason, message] = [kind, status, reason, message].map(str::to_owned);
        let last_transition_time = String::new();
        Self { r#type: kind, status, reason, message, resource, last_transition_time }
    }

    fn bound(parent: Reference) -> Self {
        Self::new("Bound", true, "Bound", "successfully bound route", parent)
    }

    fn unbound(parent: Reference, why: &str) -> Self {
        Self::new("Bound", false, "FailedToBind", why, parent)
    }

    fn no_gateway(parent: Reference) -> Self {
        Self::new("Bound", false, "GatewayNotFound", "gateway was not found", parent)
    }

    fn conflict(gateway: &str, listener: &str, is_conflict: bool) -> Self {
        let (reason, message) = match is_conflict {
            true => {
                let why = "TCP-based listeners currently only support binding a single route";
                ("RouteConflict", why)
            }
            false => ("NoConflict", "listener has no route conflicts"),
        };
        let resource = Reference::new(API_GATEWAY, gateway, listener);
        Self::new("Conflicted", is_conflict, reason, message, resource)
    }

    /// Whether both speak of the same.
    fn is_about(&self, other: &Self) -> bool {
        (&self.r#type, &self.resource) == (&other.r#type, &other.resource)
    }

    fn says(&self, other: &Self) -> bool {
        self.is_about(other)
            && (&self.status, &self.reason, &self.message)
                == (&other.status, &other.reason, &other.message)
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    conditions: Option<Vec<Condition>>,
}

impl Status {
    fn of(entry: &Json) -> Self {
        read(entry.at("Status"))
    }

    fn set(&mut self, condition: Condition) {
        let conditions = self.conditions.get_or_insert_default();
        match conditions.iter_mut().find(|present| present.is_about(&condition)) {
            Some(present) if present.says(&condition) => {}
            Some(present) => *present = condition,
            None => conditions.push(condition),
        }
    }

    fn remove(&mut self, condition: &Condition) {
        self.conditions.get_or_insert_default().retain(|present| !present.is_about(condition));
    }

    fn is_accepted(&self) -> bool {
        let mut conditions = self.conditions.iter().flatten();
        conditions.any(|it| {
            it.r#type == "Accepted" && it.status == "True" && it.resource == Reference::default()
        })
    }

    fn says(&self, other: &Self) -> bool {
        let [one, other] = [self, other].map(|status| status.conditions.as_deref().unwrap_or(&[]));
        one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.says(other))
    }
}

/// An entry of the kind that only Consul writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Bound {
    kind: String,
    name: String,
    listeners: Vec<Listener>,
    /// The routes to each service.
    services: BTreeMap<String, Vec<Reference>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listener {
    name: String,
    routes: Option<Vec<Reference>>,
    certificates: Option<Vec<Reference>>,
}

impl Bound {
    /// Whether both say the same, in any order.
    fn is_same(&self, other: &Self) -> bool {
        let sorted = |bound: &Self| {
            let mut listeners = bound.listeners.clone();
            listeners.sort();
            for listener in &mut listeners {
                listener.routes.get_or_insert_default().sort();
                listener.certificates.get_or_insert_default().sort();
            }
            listeners
        };
        sorted(self) == sorted(other) && self.services == other.services
    }

    /// Unbinds a route from all listeners; returns those to which it was bound.
    fn unbind(&mut self, route: &Reference) -> Vec<String> {
        let mut unbound = Vec::new();
        for listener in &mut self.listeners {
            if let Some(routes) = &mut listener.routes
                && let Some(place) = routes.iter().position(|present| present == route)
            {
                routes.remove(place);
                unbound.push(listener.name.clone());
            }
        }
        unbound
    }

    /// Whether more than one route is bound to a listener of TCP.
    fn conflicts(&self, gateway: &Json) -> Vec<Condition> {
        let listeners = gateway.at("Listeners").items().iter();
        let of = |listener: &Json| {
            let name = listener.at("Name").as_text();
            let bound = self.listeners.iter().find(|bound| bound.name == name);
            let routes = bound.and_then(|bound| bound.routes.as_ref()).map_or(0, Vec::len);
            let is_conflict = listener.at("Protocol").as_text() == "tcp" && routes > 1;
            Condition::conflict(&self.name, name, is_conflict)
        };
        listeners.map(of).collect()
    }
}

/// A part of an entry, which this module has written.
fn read<T: for<'de> Deserialize<'de> + Default>(json: &Json) -> T {
    serde_json::from_value(json.into()).unwrap_or_default()
}

fn written(value: &impl Serialize) -> Json {
    let text = serde_json::to_vec(value).unwrap_or_default();
    Json::read(&text).unwrap_or(Json::Null)
}

/// A route, as far as it is bound.
struct Route {
    reference: Reference,
    protocol: &'static str,
    parents: Vec<Reference>,
    services: Vec<String>,
    hosts: Vec<String>,
    status: Status,
}

impl Route {
    fn of(kind: &str, name: &str, entry: &Entry) -> Self {
        let entry = &entry.body;
        let name_of = |service: &Json| service.at("Name").as_text().to_owned();
        let services =
            |of: &Json| -> Vec<String> { of.at("Services").items().iter().map(name_of).collect() };
        let is_http = kind == HTTP_ROUTE;
        Self {
            reference: Reference::new(kind, name, ""),
            protocol: if is_http { "http" } else { "tcp" },
            parents: entry.at("Parents").items().iter().map(read).collect(),
            services: match is_http {
                true => entry.at("Rules").items().iter().flat_map(services).collect(),
                false => services(entry),
            },
            hosts: entry.at("Hostnames").texts().map(str::to_owned).collect(),
            status: Status::of(entry),
        }
    }

    /// Whether a listener of HTTP has a name of the route. A route without names has all.
    fn has_host_of(&self, listener: &Json) -> bool {
        let host = listener.at("Hostname").as_text();
        let is_wildcard = host.is_empty() || host.contains('*');
        let end = host.strip_prefix('*').unwrap_or(host);
        let end = end.strip_prefix('.').unwrap_or(end);
        let is_meant = |own: &String| if is_wildcard { own.ends_with(end) } else { own == end };
        self.protocol != "http" || self.hosts.is_empty() || self.hosts.iter().any(is_meant)
    }

    /// Binds the route to a listener, if a parent of it says so.
    fn bind_to(
        &self,
        listener: &mut Listener,
        gateway: &str,
        settings: &Json,
        is_accepted: bool,
        section: &str,
    ) -> Result<bool, String> {
        let (own, name) = (&self.reference.name, settings.at("Name").as_text());
        if !section.is_empty() && section != name {
            return Ok(false);
        }
        let failed = format!("failed to bind route to gateway {gateway}");
        if !is_accepted {
            return Err(format!("{failed}: gateway has not been accepted"));
        }
        if !self.status.is_accepted() {
            return Err(format!("{failed}: route has not been accepted"));
        }
        if !self.has_host_of(settings) {
            return Err(format!(
                "{failed}: listener {name} is does not have any hostnames that match the route"
            ));
        }
        let protocol = self.protocol;
        if settings.at("Protocol").as_text() == protocol {
            let routes = listener.routes.get_or_insert_default();
            if !routes.contains(&self.reference) {
                routes.push(self.reference.clone());
            }
            return Ok(true);
        }
        match section.is_empty() {
            true => Ok(false),
            false => Err(format!(
                "failed to bind route {own} to gateway {gateway}: listener {name} is not a {protocol} listener"
            )),
        }
    }

    /// Binds the route to a gateway again: whether that changes the gateway's bindings, and a condition for each parent that names
    /// the gateway.
    fn bind(&self, gateway: &Json, bound: &mut Bound) -> (bool, Vec<Condition>) {
        let before = bound.unbind(&self.reference);
        let is_accepted = Status::of(gateway).is_accepted();
        let name = bound.name.clone();
        let (mut after, mut conditions, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
        let is_meant = |parent: &&Reference| parent.kind == API_GATEWAY && parent.name == name;
        for parent in self.parents.iter().filter(is_meant) {
            let (mut is_bound, mut error) = (false, None);
            for (listener, settings) in
                bound.listeners.iter_mut().zip(gateway.at("Listeners").items())
            {
                match self.bind_to(listener, &name, settings, is_accepted, &parent.section_name) {
                    Ok(true) => {
                        is_bound = true;
                        after.push(listener.name.clone());
                    }
                    Ok(false) => {}
                    Err(why) => error = Some(why),
                }
            }
            if is_bound {
                for service in &self.services {
                    let routes = bound.services.entry(service.clone()).or_default();
                    if !routes.contains(&self.reference) {
                        routes.push(self.reference.clone());
                    }
                }
                conditions.push(Condition::bound(parent.clone()));
            }
            let error = error.or_else(|| {
                let (own, section) = (&self.reference.name, &parent.section_name);
                (!is_bound).then(|| {
                    format!(
                        "failed to bind route {own} to gateway {name} with listener '{section}'"
                    )
                })
            });
            wrong.extend(error.map(|why| Condition::unbound(parent.clone(), &why)));
        }
        conditions.append(&mut wrong);
        let is_changed = before.iter().any(|name| !after.contains(name))
            || after.iter().any(|name| !before.contains(name));
        (is_changed, conditions)
    }
}

/// The gateway's bindings in the table, if they are those of its listeners.
fn bound_of(entries: &EntryTable, gateway: &str, settings: &Json) -> Option<Bound> {
    let bound: Option<Bound> = read(&entries.get(BOUND, gateway)?.body);
    let listeners = settings.at("Listeners").items().iter();
    let names = listeners.map(|listener| listener.at("Name").as_text());
    bound.filter(|bound| bound.listeners.iter().map(|it| it.name.as_str()).eq(names))
}

fn routes(entries: &EntryTable) -> impl Iterator<Item = Route> {
    [HTTP_ROUTE, TCP_ROUTE].into_iter().flat_map(move |kind| {
        entries.of_kind(kind).map(move |(name, entry)| Route::of(kind, name, entry))
    })
}

fn gateways(entries: &EntryTable) -> impl Iterator<Item = (&str, &Json)> {
    entries.of_kind(API_GATEWAY).map(|(name, entry)| (name, &entry.body))
}

/// The kinds on which any route can depend: gateways, and those of which discovery chains consist.
const OF_ALL_ROUTES: [&str; 6] = [
    API_GATEWAY,
    "proxy-defaults",
    "service-defaults",
    "service-resolver",
    "service-router",
    "service-splitter",
];

/// The entries that have changed, and are looked at next.
type Changed = VecDeque<(String, String)>;

impl State {
    /// Brings bindings and status up to date after an entry was written or deleted.
    pub(super) fn bind_routes(&mut self, kind: &str, name: &str) {
        let mut changed = Changed::new();
        push(&mut changed, kind, name);
        if OF_ALL_ROUTES.contains(&kind) {
            for route in routes(&self.entries) {
                push(&mut changed, &route.reference.kind, &route.reference.name);
            }
        }
        self.bind_changed(&mut changed);
    }

    fn bind_changed(&mut self, changed: &mut Changed) {
        while let Some((kind, name)) = changed.pop_front() {
            let is_there = self.entries.get(&kind, &name).is_some();
            match (kind.as_str(), is_there) {
                (API_GATEWAY, true) => self.bind_gateway(&name, changed),
                (API_GATEWAY, false) => self.remove_bound(&name, changed),
                (BOUND, false) => self.unbind_gateway(&name, changed),
                (HTTP_ROUTE | TCP_ROUTE, true) => self.bind_route(&kind, &name, changed),
                (HTTP_ROUTE | TCP_ROUTE, false) => self.unbind_route(&kind, &name, changed),
                (INLINE_CERTIFICATE, _) => {
                    for (gateway, entry) in gateways(&self.entries) {
                        let listeners = entry.at("Listeners").items().iter();
                        let mut certificates =
                            listeners.flat_map(|it| it.at("TLS").at("Certificates").items());
                        if certificates.any(|it| {
                            it.at("Kind").as_text() == kind && it.at("Name").as_text() == name
                        }) {
                            push(changed, API_GATEWAY, gateway);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Looks at a gateway: its certificates, and all routes to it.
    fn bind_gateway(&mut self, name: &str, changed: &mut Changed) {
        let Some(gateway) = self.entries.get(API_GATEWAY, name) else { return };
        let gateway = gateway.body.clone();
        let before: Option<Bound> =
            self.entries.get(BOUND, name).and_then(|entry| read(&entry.body));
        let mut bound = Bound {
            kind: BOUND.to_owned(),
            name: gateway.at("Name").as_text().to_owned(),
            listeners: Vec::new(),
            services: before.as_ref().map_or_else(BTreeMap::new, |bound| bound.services.clone()),
        };
        let mut status = Status::default();
        let mut is_valid = true;
        for listener in gateway.at("Listeners").items() {
            let (listener, resolved) = self.bound_listener(&bound.name, listener);
            is_valid &= resolved.status == "True";
            bound.listeners.push(listener);
            status.set(resolved);
        }
        let (reason, message) = match is_valid {
            true => ("Accepted", "gateway is valid"),
            false => ("InvalidCertificates", "gateway references invalid certificates"),
        };
        status.set(Condition::new("Accepted", is_valid, reason, message, Reference::default()));
        let mut of_routes = Vec::new();
        for route in routes(&self.entries) {
            let mut status = route.status.clone();
            let (_, conditions) = route.bind(&gateway, &mut bound);
            for condition in &conditions {
                status.remove(condition);
            }
            conditions.into_iter().for_each(|condition| status.set(condition));
            of_routes.push((route.reference, status));
        }
        bound.conflicts(&gateway).into_iter().for_each(|condition| status.set(condition));
        self.write_status(&Reference::new(API_GATEWAY, name, ""), status, changed);
        for (route, status) in of_routes {
            self.write_status(&route, status, changed);
        }
        if !before.is_some_and(|before| before.is_same(&bound)) {
            self.put_bound(&bound, changed);
        }
    }

    /// A listener without routes, and whether it has all its certificates.
    fn bound_listener(&self, gateway: &str, listener: &Json) -> (Listener, Condition) {
        let (mut certificates, mut missing) = (None, None);
        for certificate in listener.at("TLS").at("Certificates").items() {
            let certificate: Reference = read(certificate);
            match self.entries.get(&certificate.kind, &certificate.name) {
                Some(_) => certificates.get_or_insert_with(Vec::new).push(certificate),
                None => {
                    let name = go::quoted(&certificate.name);
                    missing = Some(format!("certificate {name} not found"));
                }
            }
        }
        let (reason, message) = match &missing {
            Some(why) => ("InvalidCertificateRef", why.as_str()),
            None => ("ResolvedRefs", "resolved refs"),
        };
        let name = listener.at("Name").as_text().to_owned();
        let resource = Reference::new(API_GATEWAY, gateway, &name);
        let resolved = Condition::new("ResolvedRefs", missing.is_none(), reason, message, resource);
        (Listener { name, routes: None, certificates }, resolved)
    }

    /// Looks at a route: the services to which it leads, and its parents.
    fn bind_route(&mut self, kind: &str, name: &str, changed: &mut Changed) {
        let Some(entry) = self.entries.get(kind, name) else { return };
        let route = Route::of(kind, name, entry);
        let mut status = Status::default();
        let mut accepted = |why: Option<(&str, &str)>| {
            let is_accepted = why.is_none();
            let (reason, message) = why.unwrap_or(("Accepted", "route is valid"));
            let resource = Reference::default();
            status.set(Condition::new("Accepted", is_accepted, reason, message, resource));
        };
        for service in &route.services {
            let why = match protocol_of_chain(&self.entries, service) {
                Ok(protocol) if protocol == route.protocol => None,
                Ok(_) => Some("route protocol does not match targeted service protocol".to_owned()),
                Err(why) => Some(why),
            };
            accepted(why.as_deref().map(|why| ("InvalidDiscoveryChain", why)));
        }
        if route.services.is_empty() {
            let why = "route must target at least one upstream service";
            accepted(Some(("NoUpstreamServicesTargeted", why)));
        }
        let (mut bounds, mut of_gateways, mut found) = (Vec::new(), Vec::new(), Vec::new());
        for (gateway, settings) in gateways(&self.entries) {
            let Some(mut bound) = bound_of(&self.entries, gateway, settings) else { continue };
            let (is_changed, mut conditions) = route.bind(settings, &mut bound);
            found.append(&mut conditions);
            let mut status = Status::of(settings);
            bound.conflicts(settings).into_iter().for_each(|condition| status.set(condition));
            of_gateways.push((Reference::new(API_GATEWAY, gateway, ""), status));
            if is_changed {
                bounds.push(bound);
            }
        }
        for parent in &route.parents {
            if !found.iter().any(|condition| condition.resource == *parent) {
                found.push(Condition::no_gateway(parent.clone()));
            }
        }
        found.into_iter().for_each(|condition| status.set(condition));
        for (gateway, status) in of_gateways {
            self.write_status(&gateway, status, changed);
        }
        self.write_status(&route.reference, status, changed);
        for bound in bounds {
            self.put_bound(&bound, changed);
        }
    }

    /// Unbinds a deleted route.
    fn unbind_route(&mut self, kind: &str, name: &str, changed: &mut Changed) {
        let route = Reference::new(kind, name, "");
        let mut bounds = Vec::new();
        for (gateway, settings) in gateways(&self.entries) {
            let Some(mut bound) = bound_of(&self.entries, gateway, settings) else { continue };
            if !bound.unbind(&route).is_empty() {
                bound.services.values_mut().for_each(|routes| routes.retain(|it| *it != route));
                bound.services.retain(|_, routes| !routes.is_empty());
                bounds.push(bound);
            }
        }
        for bound in bounds {
            self.put_bound(&bound, changed);
        }
    }

    /// Tells the routes to a deleted gateway.
    fn unbind_gateway(&mut self, name: &str, changed: &mut Changed) {
        let mut of_routes = Vec::new();
        for route in routes(&self.entries) {
            let mut status = route.status;
            for parent in route.parents {
                if parent.kind == API_GATEWAY && parent.name == name {
                    status.set(Condition::no_gateway(parent));
                }
            }
            of_routes.push((route.reference, status));
        }
        for (route, status) in of_routes {
            self.write_status(&route, status, changed);
        }
    }

    /// Writes the status of an entry, if it says something else.
    fn write_status(&mut self, of: &Reference, mut status: Status, changed: &mut Changed) {
        let Some(entry) = self.entries.get(&of.kind, &of.name) else { return };
        let mut body = entry.body.clone();
        let now = self.date(std::time::Duration::ZERO);
        let conditions = status.conditions.get_or_insert_default();
        conditions.sort_by(|one, other| {
            (&one.r#type, &one.resource).cmp(&(&other.r#type, &other.resource))
        });
        if status.says(&Status::of(&body)) {
            return;
        }
        for condition in status.conditions.iter_mut().flatten() {
            if condition.last_transition_time.is_empty() {
                condition.last_transition_time.clone_from(&now);
            }
        }
        if let Some(member) = member(&mut body, "Status") {
            *member = written(&status);
        }
        self.put(&of.kind, &of.name, body, changed);
    }

    fn remove_bound(&mut self, name: &str, changed: &mut Changed) {
        if self.entries.get(BOUND, name).is_some() {
            let index = self.next_index();
            self.entries.remove(BOUND, name, index);
            push(changed, BOUND, name);
        }
    }

    fn put_bound(&mut self, bound: &Bound, changed: &mut Changed) {
        self.put(BOUND, &bound.name, written(bound), changed);
    }

    fn put(&mut self, kind: &str, name: &str, body: Json, changed: &mut Changed) {
        let index = self.next_index();
        self.entries.put(kind, name, body, index);
        self.touch(Topic::Entries);
        push(changed, kind, name);
    }
}

fn push(changed: &mut Changed, kind: &str, name: &str) {
    let next = (kind.to_owned(), name.to_owned());
    if !changed.contains(&next) {
        changed.push_back(next);
    }
}

/// The entry with the status of the present one, and whether it has any.
pub(super) fn with_status(mut entry: Json, present: Option<&Entry>) -> (Json, bool) {
    let status = member(&mut entry, "Status");
    let has_status = status.is_some();
    if let Some(status) = status {
        let of_present = present.map(|present| present.body.at("Status").clone());
        *status = of_present.unwrap_or_else(|| written(&Status::default()));
    }
    (entry, has_status)
}

#[cfg(test)]
mod tests {
    use crate::control::testing::World;

    #[test]
    fn the_protocol_of_all_proxies_counts_in_any_case() {
        let world = World::new();
        world.put(
            "config",
            r#"{"Kind":"http-route","Name":"r","Rules":[{"Services":[{"Name":"web"}]}]}"#,
        );
        for (protocol, reason) in [("HTTP", "Accepted"), ("tcp", "InvalidDiscoveryChain")] {
            let config = format!(r#"{{"protocol":"{protocol}"}}"#);
            let all = format!(r#"{{"Kind":"proxy-defaults","Name":"global","Config":{config}}}"#);
            assert_eq!(world.put("config", &all).text(), "true");
            let route = world.get("config/http-route/r").json();
            assert_eq!(route["Status"]["Conditions"][0]["Reason"], reason);
        }
    }
}
