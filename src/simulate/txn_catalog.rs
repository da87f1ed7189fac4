//! Operations on nodes, services and checks in transactions.

use super::acl::{Access, Authority, Resource};
use super::decode::{GoType, Object};
use super::definition::{addresses, check_meta, weights};
use super::registration::{check_node_id, check_node_name, put_node, read_definition};
use super::reply::Refusal;
use super::store::State;
use super::store::catalog::{Check, Definition, Node, Service, Weights};
use super::views::NodeService;
use super::{DATACENTER, go, proxy};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::net::IpAddr;

/// One operation on something of the catalog. What it names may be no more than an id.
pub(super) struct Operation {
    verb: String,
    subject: Subject,
}

enum Subject {
    Node(Node),
    Service { node: String, service: Service },
    Check(Check),
}

/// What an operation found or left.
#[derive(Serialize)]
pub(super) enum Found {
    Node(Node),
    #[serde(serialize_with = "as_node_service")]
    Service(Service),
    Check(Check),
}

fn as_node_service<S: Serializer>(service: &Service, serializer: S) -> Result<S::Ok, S::Error> {
    NodeService::from(service).serialize(serializer)
}

impl Operation {
    /// The operation that a member of a transaction's item describes; `None` for another member.
    pub fn decode(item: &Object<'_>) -> Result<Option<Self>, String> {
        if let Some(members) = item.object("Node", "api.NodeTxnOp")? {
            let given = Object::of_members(members, "NodeTxnOp.Node.");
            given.check_known(&["Verb", "Node"])?;
            let node = given.object("Node", "api.Node")?.unwrap_or_default();
            let node = read_node(&Object::of_members(node, "Node.Node.Node."))?;
            return Ok(Some(Self { verb: given.text("Verb")?, subject: Subject::Node(node) }));
        }
        if let Some(members) = item.object("Service", "api.ServiceTxnOp")? {
            let given = Object::of_members(members, "ServiceTxnOp.Service.");
            given.check_known(&["Verb", "Node", "Service"])?;
            let service = given.object("Service", "api.AgentService")?.unwrap_or_default();
            let service =
                read_service(&Object::of_members(service, "AgentService.Service.Service."))?;
            let subject = Subject::Service { node: given.text("Node")?, service };
            return Ok(Some(Self { verb: given.text("Verb")?, subject }));
        }
        if let Some(members) = item.object("Check", "api.CheckTxnOp")? {
            let given = Object::of_members(members, "CheckTxnOp.Check.");
            given.check_known(&["Verb", "Check"])?;
            let check = given.object("Check", "api.HealthCheck")?.unwrap_or_default();
            let check = read_check(&Object::of_members(check, "HealthCheck.Check.Check."))?;
            return Ok(Some(Self { verb: given.text("Verb")?, subject: Subject::Check(check) }));
        }
        Ok(None)
    }

    /// Whether it counts as a write: all but reads do, unknown verbs too.
    pub fn writes(&self) -> bool {
        self.verb != "get"
    }

    /// The node that it concerns.
    pub fn node(&self) -> &str {
        match &self.subject {
            Subject::Node(node) => &node.node,
            Subject::Service { node, .. } => node,
            Subject::Check(check) => &check.node,
        }
    }

    /// Completes what was left out, and refuses what a server refuses before it applies anything.
    pub fn prepare(&mut self) -> Result<(), String> {
        let known = ["set", "cas", "delete", "delete-cas"].contains(&self.verb.as_str());
        if !known && self.writes() {
            let what = match self.subject {
                Subject::Node(_) => "node",
                Subject::Service { .. } => "service",
                Subject::Check(_) => "check",
            };
            return Err(format!("unknown {what} operation: {}", self.verb));
        }
        match &mut self.subject {
            _ if !known => Ok(()),
            Subject::Node(node) => match (node.node.as_str(), node.id.as_str()) {
                ("", _) => Err("Must provide node".to_owned()),
                (_, "") => Ok(()),
                (_, id) => check_node_id(id),
            },
            Subject::Service { service, .. } => {
                proxy::check(service)?;
                complete_service(service)
            }
            Subject::Check(check) => {
                if check.check_id.is_empty() {
                    check.check_id.clone_from(&check.name);
                }
                Ok(())
            }
        }
    }

    /// Refuses a caller without the right. What is got is left out of the results instead.
    pub fn permit(&self, state: &State, authority: &Authority) -> Result<(), Refusal> {
        match &self.subject {
            _ if !self.writes() => Ok(()),
            Subject::Node(node) => authority.check(Resource::Node, &node.node, Access::Write),
            Subject::Service { node, service } => {
                let present = state.catalog.service(node, &service.id);
                for name in [Some(service), present].into_iter().flatten().map(|one| &one.name) {
                    authority.check(Resource::Service, name, Access::Write)?;
                }
                Ok(())
            }
            Subject::Check(check) if check.service_id.is_empty() => {
                authority.check(Resource::Node, &check.node, Access::Write)
            }
            Subject::Check(check) => {
                let service = state.catalog.service(&check.node, &check.service_id);
                let name = service.map_or(&check.service_name, |service| &service.name);
                authority.check(Resource::Service, name, Access::Write)
            }
        }
    }

    /// Whether the caller may see what the operation found.
    pub fn sees(&self, authority: &Authority, found: &Found) -> bool {
        match found {
            Found::Node(node) => authority.sees(Resource::Node, &node.node),
            Found::Service(service) => authority.sees_instance(self.node(), &service.name),
            Found::Check(check) => authority.sees_check(check),
        }
    }

    /// Applies it to the state.
    pub fn apply(&self, state: &mut State, index: u64) -> Result<Option<Found>, String> {
        match &self.subject {
            Subject::Node(node) => self.apply_to_node(state, node, index),
            Subject::Service { node, service } => {
                self.apply_to_service(state, node, service, index)
            }
            Subject::Check(check) => self.apply_to_check(state, check, index),
        }
    }

    fn apply_to_node(
        &self,
        state: &mut State,
        node: &Node,
        index: u64,
    ) -> Result<Option<Found>, String> {
        let name = go::quoted(&node.node);
        let present = state.catalog.node(&node.node).map(|record| record.node.modify_index);
        match self.verb.as_str() {
            "cas" if !may_set(present, node.modify_index) => {
                return Err(format!("failed to set node {name}, index is stale"));
            }
            "set" | "cas" => match check_node_name(state, node) {
                Ok(()) => put_node(state, node.clone(), index),
                Err(why) if self.verb == "set" => return Err(why),
                // Consul forgets why a compare-and-set failed.
                Err(_) => {}
            },
            "delete-cas" if present != Some(node.modify_index) => {
                return Err(format!("failed to delete node {name}, index is stale"));
            }
            "delete" | "delete-cas" => {
                state.delete_node(&node.node, index);
                return Ok(None);
            }
            _ => {}
        }
        let found = match node.id.as_str() {
            "" => state.catalog.node(&node.node),
            id => state.catalog.node_by_id(id),
        };
        match found {
            Some(record) => Ok(Some(Found::Node(record.node.clone()))),
            None if self.verb == "cas" => Ok(None),
            None => Err(format!("node {name} doesn't exist")),
        }
    }

    fn apply_to_service(
        &self,
        state: &mut State,
        node: &str,
        service: &Service,
        index: u64,
    ) -> Result<Option<Found>, String> {
        let place = || format!("service {} on node {}", go::quoted(&service.id), go::quoted(node));
        let present = state.catalog.service(node, &service.id).map(|present| present.modify_index);
        match self.verb.as_str() {
            "cas" if !may_set(present, service.modify_index) => {
                return Err(format!("failed to set {}, index is stale", place()));
            }
            "set" | "cas" => {
                check_meta(service.meta.as_ref()).map_err(|why| {
                    let id = &service.id;
                    format!("Invalid Service Meta for node {node} and serviceID {id}: {why}")
                })?;
                state.ensure_service(node, service.clone(), index)?;
            }
            "delete-cas" if present != Some(service.modify_index) => {
                return Err(format!("failed to delete {}, index is stale", place()));
            }
            "delete" | "delete-cas" => {
                state.delete_service(node, &service.id, index);
                return Ok(None);
            }
            _ => {}
        }
        match state.catalog.service(node, &service.id) {
            Some(found) => {
                let tags = filled(&found.tags);
                Ok(Some(Found::Service(Service { tags, ..found.clone() })))
            }
            None => Err(format!("{} doesn't exist", place())),
        }
    }

    fn apply_to_check(
        &self,
        state: &mut State,
        check: &Check,
        index: u64,
    ) -> Result<Option<Found>, String> {
        if check.node.is_empty() || check.check_id.is_empty() {
            let lookup = match self.verb.as_str() {
                "set" => "failed health check lookup: ",
                "delete" => "check lookup failed: ",
                "delete-cas" => "check lookup failed: failed check lookup: ",
                _ => "failed check lookup: ",
            };
            let why = "index error: object is missing a value for this index";
            return Err(format!("{lookup}{why}"));
        }
        let (node, id) = (&check.node, &check.check_id);
        let place = || format!("check {} on node {}", go::quoted(id), go::quoted(node));
        let present = state.catalog.check(node, id).map(|present| present.modify_index);
        match self.verb.as_str() {
            "cas" if !may_set(present, check.modify_index) => {
                return Err(format!("failed to set {}, index is stale", place()));
            }
            "set" => state.ensure_check(check.clone(), index)?,
            // Consul forgets why a compare-and-set failed, and finds nothing instead.
            "cas" if state.ensure_check(check.clone(), index).is_err() => return Ok(None),
            "delete-cas" if present != Some(check.modify_index) => {
                return Err(format!("failed to delete {}, index is stale", place()));
            }
            "delete" | "delete-cas" => {
                state.delete_check(node, id, index);
                return Ok(None);
            }
            _ => {}
        }
        match state.catalog.check(node, id) {
            Some(found) => {
                let service_tags = filled(&found.service_tags);
                Ok(Some(Found::Check(Check { service_tags, ..found.clone() })))
            }
            None => Err(format!("{} doesn't exist", place())),
        }
    }
}

/// Whether a compare-and-set may go on; the index 0 stands for what does not exist.
fn may_set(present: Option<u64>, expected: u64) -> bool {
    match present {
        Some(index) => expected != 0 && expected == index,
        None => expected == 0,
    }
}

/// No tags are null in transactions, where other reads say an empty list.
fn filled(tags: &Option<Vec<String>>) -> Option<Vec<String>> {
    tags.clone().filter(|tags| !tags.is_empty())
}

fn complete_service(service: &mut Service) -> Result<(), String> {
    if service.id.is_empty() {
        service.id.clone_from(&service.name);
    } else if service.name.is_empty() {
        return Err(
            "Must provide service name (Service.Service) when service ID is provided".to_owned()
        );
    }
    if service.address.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
        return Err("Invalid service address".to_owned());
    }
    if (service.weights.passing, service.weights.warning) == (0, 0) {
        service.weights = Weights { passing: 1, warning: 1 };
    }
    Ok(())
}

fn read_node(given: &Object<'_>) -> Result<Node, String> {
    given.check_known(&[
        "ID",
        "Node",
        "Address",
        "Datacenter",
        "TaggedAddresses",
        "Meta",
        "CreateIndex",
        "ModifyIndex",
        "Partition",
        "PeerName",
        "Locality",
    ])?;
    Ok(Node {
        id: given.text("ID")?,
        node: given.text("Node")?,
        address: given.text("Address")?,
        datacenter: match given.text("Datacenter")? {
            name if name.is_empty() => DATACENTER.to_owned(),
            name => name,
        },
        tagged_addresses: given.text_map("TaggedAddresses")?,
        meta: given.text_map("Meta")?,
        create_index: 0,
        modify_index: given.uint("ModifyIndex")?,
    })
}

fn read_service(given: &Object<'_>) -> Result<Service, String> {
    const WEIGHTS: GoType =
        GoType { value: "api.AgentWeights", fields: "AgentWeights.Service.Service.Weights." };
    given.check_known(&[
        "Kind",
        "ID",
        "Service",
        "Tags",
        "Meta",
        "Port",
        "Address",
        "SocketPath",
        "TaggedAddresses",
        "Weights",
        "EnableTagOverride",
        "CreateIndex",
        "ModifyIndex",
        "ContentHash",
        "Proxy",
        "Connect",
        "PeerName",
        "Namespace",
        "Partition",
        "Datacenter",
        "Locality",
    ])?;
    Ok(Service {
        node: String::new(),
        kind: given.text("Kind")?,
        id: given.text("ID")?,
        name: given.text("Service")?,
        tags: Some(given.texts("Tags")?.unwrap_or_default()),
        address: given.text("Address")?,
        tagged_addresses: addresses(given, "TaggedAddresses")?,
        meta: given.text_map("Meta")?,
        port: given.int("Port")?,
        // A transaction takes neither a socket nor what is native to the mesh over.
        socket_path: String::new(),
        weights: weights(given, WEIGHTS)?,
        enable_tag_override: given.flag("EnableTagOverride")?,
        proxy: given.get("Proxy").map(Value::from),
        connect: None,
        locality: None,
        create_index: 0,
        modify_index: given.uint("ModifyIndex")?,
    })
}

fn read_check(given: &Object<'_>) -> Result<Check, String> {
    given.check_known(&[
        "Node",
        "CheckID",
        "Name",
        "Status",
        "Notes",
        "Output",
        "ServiceID",
        "ServiceName",
        "ServiceTags",
        "Type",
        "Namespace",
        "Partition",
        "ExposedPort",
        "PeerName",
        "Definition",
        "CreateIndex",
        "ModifyIndex",
    ])?;
    let definition = match given.object("Definition", "api.HealthCheckDefinition")? {
        Some(members) => {
            read_definition(&Object::of_members(members, "HealthCheck.Check.Check.Definition."))?
        }
        None => Definition::default(),
    };
    Ok(Check {
        node: given.text("Node")?,
        check_id: given.text("CheckID")?,
        name: given.text("Name")?,
        status: given.text("Status")?,
        notes: given.text("Notes")?,
        output: given.text("Output")?,
        service_id: given.text("ServiceID")?,
        service_name: given.text("ServiceName")?,
        service_tags: Some(given.texts("ServiceTags")?.unwrap_or_default()),
        kind: given.text("Type")?,
        interval: String::new(),
        timeout: String::new(),
        exposed_port: given.int("ExposedPort")?,
        definition,
        create_index: 0,
        modify_index: given.uint("ModifyIndex")?,
    })
}
