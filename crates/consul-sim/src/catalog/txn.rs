//! Transactions: operations on nodes, services and checks.

use super::body::{self, check_meta, check_node_id};
use super::proxy::{self, Reader};
use super::registration::{check_node_name, put_node};
use super::service_json::NodeService;
use crate::acl::{Access, Authority, Resource};
use crate::go;
use crate::http::decode::Object;
use crate::http::reply::Refusal;
use crate::store::State;
use crate::store::catalog::{Check, Node, Service};
use serde::{Serialize, Serializer};

const SERVICE_TYPES: body::ServiceTypes = body::ServiceTypes {
    kind: "api.ServiceKind",
    address: "api.ServiceAddress",
    weights: "api.AgentWeights",
    reader: Reader::Transaction,
};
const DEFINITION: &str = "struct { IntervalDuration interface {}; TimeoutDuration interface {}; DeregisterCriticalServiceAfterDuration interface {}; *api.Alias }";

/// One operation. Its subject may be no more than an id.
pub(crate) struct Operation {
    verb: String,
    subject: Subject,
}

enum Subject {
    Node(Node),
    Service { node: String, service: Service },
    Check(Check),
}

/// The result of an operation.
#[derive(Serialize)]
pub(crate) enum Found {
    Node(Node),
    #[serde(serialize_with = "as_node_service")]
    Service(Service),
    Check(Check),
}

fn as_node_service<S: Serializer>(service: &Service, serializer: S) -> Result<S::Ok, S::Error> {
    NodeService::as_stored(service).serialize(serializer)
}

impl Operation {
    /// The operation of a transaction's item; `None` if the item has none of the catalog.
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

    /// Whether it counts as a write: all verbs but `get` do, unknown ones too.
    pub fn writes(&self) -> bool {
        self.verb != "get"
    }

    pub fn node(&self) -> &str {
        match &self.subject {
            Subject::Node(node) => &node.node,
            Subject::Service { node, .. } => node,
            Subject::Check(check) => &check.node,
        }
    }

    /// Sets defaults, or returns the error of a server before it applies anything.
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
                proxy::check(service, None)?;
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

    /// Refuses a caller without the permission. Results of reads are filtered instead.
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

    /// Whether the caller may see the result, which of a service and its checks the node does not decide.
    pub fn sees(authority: &Authority, found: &Found) -> bool {
        match found {
            Found::Node(node) => authority.sees(Resource::Node, &node.node),
            Found::Service(service) => authority.sees(Resource::Service, &service.name),
            Found::Check(check) if check.service_name.is_empty() => {
                authority.sees(Resource::Node, &check.node)
            }
            Found::Check(check) => authority.sees(Resource::Service, &check.service_name),
        }
    }

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
                // Consul ignores the error of a compare-and-set.
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
                check_meta(&service.kind, service.meta.as_ref()).map_err(|why| {
                    let id = &service.id;
                    format!("Invalid Service Meta for node {node} and serviceID {id}: {why}")
                })?;
                state.ensure_service(node, service.clone(), index)?;
            }
            "delete-cas" if present != Some(service.modify_index) => {
                return Err(format!("failed to delete {}, index is stale", place()));
            }
            "delete" | "delete-cas" => {
                state.check_deletable(node, &service.id)?;
                state.delete_service(node, &service.id, index);
                return Ok(None);
            }
            _ => {}
        }
        match state.catalog.service(node, &service.id) {
            Some(found) => Ok(Some(Found::Service(found.clone()))),
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
            // Consul ignores the error of a compare-and-set, and returns no result.
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
            Some(found) => Ok(Some(Found::Check(found.clone()))),
            None => Err(format!("{} doesn't exist", place())),
        }
    }
}

/// Whether the index of a compare-and-set matches; 0 means that the entry must not exist.
fn may_set(present: Option<u64>, expected: u64) -> bool {
    match present {
        Some(index) => expected != 0 && expected == index,
        None => expected == 0,
    }
}

fn complete_service(service: &mut Service) -> Result<(), String> {
    if service.id.is_empty() {
        service.id.clone_from(&service.name);
    } else if service.name.is_empty() {
        return Err(
            "Must provide service name (Service.Service) when service ID is provided".to_owned()
        );
    }
    body::check_address(&service.address)?;
    service.weights = body::kept_weights(service.weights);
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
    // A transaction ignores the locality, as it does a service's.
    let node = body::node(given, "Meta", ["string", "api.Locality"])?;
    Ok(Node { locality: None, modify_index: given.uint("ModifyIndex")?, ..node })
}

/// A transaction ignores a service's socket, connect and locality.
fn read_service(given: &Object<'_>) -> Result<Service, String> {
    const MORE: &[&str] = &["ContentHash", "Namespace", "Partition", "Datacenter"];
    given.check_known(&[body::SERVICE_FIELDS, MORE].concat())?;
    body::service(given, &SERVICE_TYPES)
}

fn read_check(given: &Object<'_>) -> Result<Check, String> {
    given.check_known(&[body::CHECK_FIELDS, &["Namespace", "Partition"]].concat())?;
    body::check(given, "string", DEFINITION)
}
