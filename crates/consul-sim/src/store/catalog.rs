//! The catalog's tables: nodes with their services and checks, and the indexes of their reads.
//!
//! Names and ids are looked up in lower case, and listed in the order of their lower-case forms.

use super::watch::Topic;
use crate::http::decode::Json;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// A map of strings in the order of its keys.
pub(crate) type TextMap = BTreeMap<String, String>;

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Node {
    #[serde(rename = "ID")]
    pub id: String,
    pub node: String,
    pub address: String,
    pub datacenter: String,
    pub tagged_addresses: Option<TextMap>,
    pub meta: Option<TextMap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<Value>,
    pub create_index: u64,
    pub modify_index: u64,
}

// A registration does not change the spelling of the node's name, nor all fields.
//
// Source: the `IsSame` methods of the server's structs.

impl Node {
    /// Whether registering it over `other` changes nothing.
    pub fn same_as(&self, other: &Node) -> bool {
        let Node { create_index, modify_index, .. } = *other;
        let Node { node, locality, .. } = other.clone();
        self.node.eq_ignore_ascii_case(&node)
            && Node { node, locality, create_index, modify_index, ..self.clone() } == *other
    }
}

impl Service {
    /// Whether registering it over `other` changes nothing.
    pub fn same_as(&self, other: &Service) -> bool {
        let Service { create_index, modify_index, .. } = *other;
        let Service { node, socket_path, locality, .. } = other.clone();
        let as_other = Service { node, socket_path, locality, ..self.clone() };
        self.node.eq_ignore_ascii_case(&other.node)
            && Service { create_index, modify_index, ..as_other } == *other
    }
}

impl Check {
    /// As most reads show it: with a list of tags, be it empty.
    pub fn shown(&self) -> Cow<'_, Check> {
        match self.service_tags {
            Some(_) => Cow::Borrowed(self),
            None => Cow::Owned(Check { service_tags: Some(Vec::new()), ..self.clone() }),
        }
    }

    /// Whether registering it over `other` changes nothing.
    pub fn same_as(&self, other: &Check) -> bool {
        let Check { create_index, modify_index, exposed_port, .. } = *other;
        let Check { node, kind, interval, timeout, .. } = other.clone();
        let as_other = Check { node, kind, interval, timeout, exposed_port, ..self.clone() };
        self.node.eq_ignore_ascii_case(&other.node)
            && Check { create_index, modify_index, ..as_other } == *other
    }
}

/// A tagged address of a service.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Address {
    pub address: String,
    pub port: i64,
}

/// The share of the traffic of an instance, by its status.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Weights {
    pub passing: i64,
    pub warning: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// One instance of a service.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, serde::Serialize)]
pub(crate) struct Service {
    /// Its node's name as registered; empty for a service of the agent.
    pub node: String,
    pub kind: String,
    pub id: String,
    pub name: String,
    pub tags: Option<Vec<String>>,
    pub address: String,
    pub tagged_addresses: BTreeMap<String, Address>,
    pub meta: Option<TextMap>,
    pub port: i64,
    pub socket_path: String,
    pub weights: Weights,
    pub enable_tag_override: bool,
    pub proxy: Option<Value>,
    pub connect: Option<Value>,
    pub locality: Option<Value>,
    /// Whether the agent has registered it with another service.
    pub is_sidecar: bool,
    pub create_index: u64,
    pub modify_index: u64,
}

/// The network of virtual addresses, 240.0.0.0/4.
const VIRTUAL_NETWORK: u32 = 0xF000_0000;

/// The kind of a service's sidecar or other proxy in the mesh.
pub(crate) const CONNECT_PROXY: &str = "connect-proxy";

impl Service {
    /// The service that a mesh proxy speaks for; `None` if this is not a proxy.
    pub fn proxy_destination(&self) -> Option<&str> {
        if self.kind != CONNECT_PROXY {
            return None;
        }
        self.proxy.as_ref()?.get("DestinationServiceName")?.as_str()
    }

    /// Whether the service is in the mesh without a proxy.
    pub fn is_connect_native(&self) -> bool {
        let native = self.connect.as_ref().and_then(|connect| connect.get("Native"));
        native == Some(&Value::Bool(true))
    }
}

/// One check of a node or of an instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Check {
    pub node: String,
    #[serde(rename = "CheckID")]
    pub check_id: String,
    pub name: String,
    pub status: String,
    pub notes: String,
    pub output: String,
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    pub service_name: String,
    pub service_tags: Option<Vec<String>>,
    #[serde(rename = "Type")]
    pub kind: String,
    pub interval: String,
    pub timeout: String,
    pub exposed_port: i64,
    pub definition: Definition,
    pub create_index: u64,
    pub modify_index: u64,
}

/// The definition of a check that an external monitor registers; empty for the agent's own checks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Definition(pub Vec<(String, Value)>);

impl Serialize for Definition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> serde::Deserialize<'de> for Definition {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Json::deserialize(deserializer)?;
        let members = json.members().iter();
        Ok(Self(members.map(|(name, value)| (name.clone(), value.into())).collect()))
    }
}

/// A node with its services and checks.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(crate) struct Record {
    pub node: Node,
    pub services: BTreeMap<String, Service>,
    pub checks: BTreeMap<String, Check>,
    /// The index of the newest change of the node or its services.
    pub newest: u64,
}

impl Record {
    /// The checks of the node, then the checks of one of its services.
    pub fn checks_of(&self, service: &Service) -> impl Iterator<Item = &Check> {
        let of_node = self.checks.values().filter(|check| check.service_id.is_empty());
        let own = self.checks.values().filter(|check| !check.service_id.is_empty());
        of_node.chain(own.filter(|check| check.service_id.eq_ignore_ascii_case(&service.id)))
    }
}

/// The instances of a service.
#[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
struct Group {
    /// By node and id; empty if the last one got another name.
    instances: BTreeSet<(String, String)>,
    /// The index of the newest change of an instance, its checks or its node.
    newest: u64,
    /// The index at which an instance last got another name; 0 if never.
    #[serde(default)]
    renamed_index: u64,
}

/// The virtual addresses of a service in the mesh.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
struct VirtualAddress {
    /// The number of the first one in the network.
    number: u32,
    /// Whether a configuration entry has the service's name, so that it is kept without instances.
    is_of_entry: bool,
}

/// All nodes, and the indexes of their reads.
#[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
pub(crate) struct CatalogTable {
    nodes: BTreeMap<String, Record>,
    groups: BTreeMap<String, Group>,
    /// The virtual addresses of services in the mesh.
    virtual_addresses: BTreeMap<String, VirtualAddress>,
    /// The index of the list of nodes.
    pub nodes_newest: u64,
    /// The index of the list of services.
    pub services_newest: u64,
    /// The index of the lists of checks.
    pub checks_newest: u64,
    /// The index at which a service last lost its last instance; 0 if never.
    service_removed_index: u64,
    /// The index at which a node was last removed; 0 if never.
    pub node_removed_index: u64,
}

impl CatalogTable {
    pub fn node(&self, name: &str) -> Option<&Record> {
        self.nodes.get(&name.to_lowercase())
    }

    /// The node with this UUID.
    pub fn node_by_id(&self, id: &str) -> Option<&Record> {
        let same_id = |record: &&Record| record.node.id.eq_ignore_ascii_case(id);
        if id.is_empty() { None } else { self.nodes().find(same_id) }
    }

    /// All nodes in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &Record> {
        self.nodes.values()
    }

    pub fn service(&self, node: &str, id: &str) -> Option<&Service> {
        self.node(node)?.services.get(&id.to_lowercase())
    }

    pub fn check(&self, node: &str, id: &str) -> Option<&Check> {
        self.node(node)?.checks.get(&id.to_lowercase())
    }

    /// The instances of a service with their nodes, by node and id.
    pub fn instances(&self, name: &str) -> impl Iterator<Item = (&Record, &Service)> {
        let group = self.groups.get(&name.to_lowercase());
        group.into_iter().flat_map(|group| &group.instances).filter_map(|(node, id)| {
            let record = self.nodes.get(node)?;
            Some((record, record.services.get(id)?))
        })
    }

    /// The instances of a service in the mesh: its proxies, and its own instances that need no
    /// proxy.
    pub fn connect_instances(&self, name: &str) -> impl Iterator<Item = (&Record, &Service)> {
        let name = name.to_lowercase();
        let all = self
            .nodes()
            .flat_map(|record| record.services.values().map(move |service| (record, service)));
        all.filter(move |(_, service)| match service.proxy_destination() {
            Some(destination) => destination.to_lowercase() == name,
            None => service.is_connect_native() && service.name.to_lowercase() == name,
        })
    }

    /// The index of reads of a service's instances. That of an unknown service does not grow with
    /// other services, so that its watchers sleep.
    pub fn service_newest(&self, name: &str) -> u64 {
        match self.groups.get(&name.to_lowercase()) {
            Some(group) if !group.instances.is_empty() => group.newest,
            _ => self.missing_newest(name),
        }
    }

    /// Whether a service has no instances.
    pub fn is_unknown(&self, name: &str) -> bool {
        self.groups.get(&name.to_lowercase()).is_none_or(|group| group.instances.is_empty())
    }

    /// The index at which an instance of a service last got another name, which only the streaming backend tells; 0 if
    /// never.
    pub fn renamed_index(&self, name: &str) -> u64 {
        self.groups.get(&name.to_lowercase()).map_or(0, |group| group.renamed_index)
    }

    /// The index of a read without a result.
    pub fn missing_newest(&self, name: &str) -> u64 {
        match self.service_removed_index {
            0 => self.known_service_newest(name),
            removed => removed,
        }
    }

    /// The index of reads, without regard to removed services.
    pub fn known_service_newest(&self, name: &str) -> u64 {
        let tables = self.nodes_newest.max(self.services_newest).max(self.checks_newest);
        self.groups.get(&name.to_lowercase()).map_or(tables, |group| group.newest)
    }

    /// Adds a node. The caller checks whether it changed.
    pub fn put_node(&mut self, mut node: Node, index: u64, touched: &mut Vec<Topic>) {
        let key = node.node.to_lowercase();
        node.modify_index = index;
        match self.nodes.get_mut(&key) {
            Some(record) => {
                node.create_index = record.node.create_index;
                record.node = node;
                record.newest = index;
            }
            None => {
                // A renamed node keeps its own.
                if node.create_index == 0 {
                    node.create_index = index;
                }
                let (services, checks) = (BTreeMap::new(), BTreeMap::new());
                self.nodes.insert(key.clone(), Record { node, services, checks, newest: index });
            }
        }
        self.nodes_newest = index;
        touched.extend([Topic::Nodes, Topic::Node(key.clone())]);
        for name in self.names_on(&key) {
            self.touch_instances(&name, index, touched);
        }
    }

    /// Gives an instance in the mesh the virtual address of its service.
    pub fn add_virtual_address(&mut self, service: &mut Service) {
        let name = match service.proxy_destination() {
            Some(destination) => destination,
            None if service.is_connect_native() => service.name.as_str(),
            None => return,
        };
        let number = self.virtual_of(name).number;
        let address = Ipv4Addr::from(VIRTUAL_NETWORK | number).to_string();
        let own = Address { address, port: service.port };
        service.tagged_addresses.insert("consul-virtual".to_owned(), own);
    }

    /// The virtual addresses of a service, at first the next free one.
    fn virtual_of(&mut self, service: &str) -> &mut VirtualAddress {
        let taken: BTreeSet<u32> = self.virtual_addresses.values().map(|it| it.number).collect();
        self.virtual_addresses.entry(service.to_lowercase()).or_insert_with(|| VirtualAddress {
            number: (1..).find(|number| !taken.contains(number)).unwrap_or(u32::MAX),
            is_of_entry: false,
        })
    }

    /// Gives a service a virtual address because configuration entries have its name, or no longer.
    pub fn set_virtual_of_entry(&mut self, service: &str, is_of_entry: bool) {
        if is_of_entry {
            self.virtual_of(service).is_of_entry = true;
            return;
        }
        let name = service.to_lowercase();
        // An instance keeps it, also one outside of the mesh; a proxy of the service does not.
        let has_instances = self.groups.get(&name).is_some_and(|group| !group.instances.is_empty());
        match self.virtual_addresses.get_mut(&name) {
            Some(known) if has_instances => known.is_of_entry = false,
            _ => drop(self.virtual_addresses.remove(&name)),
        }
    }

    /// The virtual address of a service in the mesh.
    pub fn virtual_address(&self, service: &str) -> Option<Ipv4Addr> {
        let known = self.virtual_addresses.get(&service.to_lowercase())?;
        Some(Ipv4Addr::from(VIRTUAL_NETWORK | known.number))
    }

    /// Adds an instance to a node that exists.
    pub fn put_service(
        &mut self,
        node: &str,
        mut service: Service,
        index: u64,
        touched: &mut Vec<Topic>,
    ) {
        let node = node.to_lowercase();
        let Some(record) = self.nodes.get_mut(&node) else { return };
        let (id, name) = (service.id.to_lowercase(), service.name.to_lowercase());
        service.modify_index = index;
        service.create_index = record.services.get(&id).map_or(index, |before| before.create_index);
        record.newest = index;
        touch_mesh(&service, touched);
        let before = record.services.insert(id.clone(), service);
        before.iter().for_each(|before| touch_mesh(before, touched));
        self.services_newest = index;
        self.nodes_newest = index;
        let place = (node.clone(), id);
        if let Some(before) = before.map(|before| before.name.to_lowercase())
            && before != name
        {
            self.leave(&before, &place);
            // The index of reads stays as it is, and outlives the last instance.
            if let Some(group) = self.groups.get_mut(&before) {
                group.renamed_index = index;
            }
            touched.extend([Topic::Instances(before.clone()), Topic::Health(before)]);
        }
        self.groups.entry(name.clone()).or_default().instances.insert(place);
        self.touch_instances(&name, index, touched);
        touched.extend([Topic::Services, Topic::Node(node)]);
    }

    /// Removes an instance without checks.
    pub fn remove_service(&mut self, node: &str, id: &str, index: u64, touched: &mut Vec<Topic>) {
        let (node, id) = (node.to_lowercase(), id.to_lowercase());
        let Some(record) = self.nodes.get_mut(&node) else { return };
        let Some(service) = record.services.remove(&id) else { return };
        touch_mesh(&service, touched);
        record.newest = index;
        self.services_newest = index;
        self.nodes_newest = index;
        self.checks_newest = index;
        let name = service.name.to_lowercase();
        if self.leave(&name, &(node.clone(), id)) {
            self.groups.remove(&name);
            self.service_removed_index = index;
            // Under another name it would stay.
            if self.virtual_addresses.get(&name).is_some_and(|known| !known.is_of_entry) {
                self.virtual_addresses.remove(&name);
            }
        }
        self.touch_instances(&name, index, touched);
        touched.extend([Topic::Services, Topic::Node(node)]);
    }

    /// Adds a check to a node, and to a service if it names one, that exist.
    pub fn put_check(&mut self, mut check: Check, index: u64, touched: &mut Vec<Topic>) {
        let (node, id) = (check.node.to_lowercase(), check.check_id.to_lowercase());
        let Some(record) = self.nodes.get_mut(&node) else { return };
        check.modify_index = index;
        check.create_index = record.checks.get(&id).map_or(index, |before| before.create_index);
        touch_check(&check, touched);
        let service = check.service_name.to_lowercase();
        record.checks.insert(id, check);
        self.checks_newest = index;
        self.touch_health(&node, &service, index, touched);
    }

    pub fn remove_check(&mut self, node: &str, id: &str, index: u64, touched: &mut Vec<Topic>) {
        let node = node.to_lowercase();
        let Some(record) = self.nodes.get_mut(&node) else { return };
        let Some(check) = record.checks.remove(&id.to_lowercase()) else { return };
        touch_check(&check, touched);
        self.checks_newest = index;
        if check.service_id.is_empty() {
            self.services_newest = index;
        }
        self.touch_health(&node, &check.service_name.to_lowercase(), index, touched);
    }

    /// Removes a node without services and checks.
    pub fn remove_node(&mut self, name: &str, index: u64, touched: &mut Vec<Topic>) {
        let key = name.to_lowercase();
        if self.nodes.remove(&key).is_some() {
            self.nodes_newest = index;
            self.node_removed_index = index;
            touched.extend([Topic::Nodes, Topic::Node(key)]);
        }
    }

    /// The names of the services on a node.
    fn names_on(&self, node: &str) -> BTreeSet<String> {
        let services = self.nodes.get(node).into_iter().flat_map(|record| record.services.values());
        BTreeSet::from_iter(services.map(|service| service.name.to_lowercase()))
    }

    /// A check of a node affects all its services; a check of an instance only that service.
    fn touch_health(&mut self, node: &str, service: &str, index: u64, touched: &mut Vec<Topic>) {
        let names = match service {
            "" => self.names_on(node),
            name => BTreeSet::from([name.to_owned()]),
        };
        for name in names {
            if let Some(group) = self.groups.get_mut(&name) {
                group.newest = index;
            }
            touched.push(Topic::Health(name));
        }
    }

    fn touch_instances(&mut self, name: &str, index: u64, touched: &mut Vec<Topic>) {
        if let Some(group) = self.groups.get_mut(name) {
            group.newest = index;
        }
        touched.extend([Topic::Instances(name.to_owned()), Topic::Health(name.to_owned())]);
    }

    /// Removes an instance from its service; returns whether it was the last one.
    fn leave(&mut self, name: &str, place: &(String, String)) -> bool {
        let Some(group) = self.groups.get_mut(name) else { return false };
        group.instances.remove(place);
        group.instances.is_empty()
    }
}

fn touch_mesh(service: &Service, touched: &mut Vec<Topic>) {
    let native = service.is_connect_native().then_some(service.name.as_str());
    if let Some(name) = service.proxy_destination().or(native) {
        touched.extend([Topic::Mesh, Topic::MeshOf(name.to_lowercase())]);
    }
}

fn touch_check(check: &Check, touched: &mut Vec<Topic>) {
    touched.push(Topic::Checks);
    if !check.service_name.is_empty() {
        touched.push(Topic::ServiceChecks(check.service_name.to_lowercase()));
    }
}
