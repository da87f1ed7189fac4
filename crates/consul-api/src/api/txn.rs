//! Transactions: `/v1/txn`.

use super::agent::{ADDRESSES, STATUSES, WEIGHTS};
use super::catalog::{CHECK_DEFINITION, PROXY};
use super::kv::{ENTRY, EVERYTHING};
use crate::table::*;

/// The most operations in a transaction; before Consul 1.14 it was 64.
///
/// Source: "Transactions" in Consul's HTTP API reference.
pub const MAX_OPERATIONS: usize = 128;

const KV_VERBS: &[&str] = &[
    "set",
    "cas",
    "lock",
    "unlock",
    "get",
    "get-or-empty",
    "get-tree",
    "check-index",
    "check-session",
    "check-not-exists",
    "delete",
    "delete-tree",
    "delete-cas",
];

const KV_OPERATION: &[Field] = &[
    field("Verb", Shape::OneOf(KV_VERBS), "what to do"),
    field("Key", Shape::KeyPrefix, "the key, or the prefix of a tree"),
    field("Value", Shape::Base64, "what to store, as `kv_put` does"),
    field("Flags", Shape::Uint, "the number stored with the value"),
    field("Index", Shape::Uint, "the modify index to compare with"),
    field("Session", Shape::TextOrEmpty, "the session that locks, unlocks or is checked"),
];

const ENTITY_VERBS: &[&str] = &["set", "cas", "get", "delete", "delete-cas"];

/// Source: `Node` in Consul's folder api, and its file agent/txn_endpoint.go.
const NODE: &[Field] = &[
    field("ID", Shape::TextOrEmpty, "the node's UUID"),
    field("Node", Shape::Name, "the node's name"),
    field("Address", Shape::Text, "the node's address"),
    field("TaggedAddresses", Shape::TextMap, "the node's other addresses, by name"),
    field("Meta", Shape::TextMap, "the node's metadata"),
    field("ModifyIndex", Shape::Uint, "the modify index to compare with"),
    field("Datacenter", Shape::TextOrEmpty, "the datacenter"),
    field("PeerName", Shape::TextOrEmpty, "the peer that it was imported from"),
    field("Locality", Shape::Free(&FreeForm::UNKNOWN), "ignored: `catalog_register` sets it"),
    field("Partition", Shape::TextOrEmpty, "the admin partition (Consul Enterprise)"),
    field("CreateIndex", Shape::NotSent, "not sent, as it is in what was read"),
];

const NODE_OPERATION: &[Field] = &[
    field("Verb", Shape::OneOf(ENTITY_VERBS), "what to do"),
    field("Node", Shape::Object(NODE), "the node"),
];

/// Source: `AgentService` in Consul's folder api, and its file agent/txn_endpoint.go.
const SERVICE: &[Field] = &[
    field("ID", Shape::Name, "the instance's id"),
    field("Service", Shape::Name, "the service's name"),
    field("Tags", Shape::TextList, "tags"),
    field("Meta", Shape::TextMap, "metadata"),
    field("Address", Shape::TextOrEmpty, "the address"),
    field("Port", Shape::Port, "the port"),
    field("TaggedAddresses", Shape::ObjectMap(ADDRESSES), "other addresses, by name"),
    field("Weights", Shape::Object(WEIGHTS), "its weight among the instances"),
    field("EnableTagOverride", Shape::Bool, "whether the catalog may change the tags"),
    field("ModifyIndex", Shape::Uint, "the modify index to compare with"),
    field("Kind", Shape::TextOrEmpty, "the kind of mesh service"),
    field("Proxy", Shape::Free(&PROXY), "the definition of a mesh proxy"),
    field("Connect", Shape::Free(&FreeForm::UNKNOWN), "ignored: `catalog_register` sets it"),
    field("SocketPath", Shape::TextOrEmpty, "ignored: `catalog_register` sets it"),
    field("Locality", Shape::Free(&FreeForm::UNKNOWN), "ignored: `catalog_register` sets it"),
    field("PeerName", Shape::TextOrEmpty, "ignored"),
    field("Namespace", Shape::TextOrEmpty, "the namespace (Consul Enterprise)"),
    field("Partition", Shape::TextOrEmpty, "the admin partition (Consul Enterprise)"),
    field("CreateIndex", Shape::NotSent, "not sent, as it is in what was read"),
];

const SERVICE_OPERATION: &[Field] = &[
    field("Verb", Shape::OneOf(ENTITY_VERBS), "what to do"),
    field("Node", Shape::Name, "the node's name"),
    field("Service", Shape::Object(SERVICE), "the instance"),
];

/// Source: `HealthCheck` in Consul's folder api, and its file agent/txn_endpoint.go.
const CHECK: &[Field] = &[
    field("Node", Shape::Name, "the node's name"),
    field("CheckID", Shape::Name, "the check's id"),
    field("Name", Shape::Name, "the check's name"),
    field("Notes", Shape::TextOrEmpty, "a description"),
    field("Status", Shape::OneOf(STATUSES), "its state"),
    field("Output", Shape::TextOrEmpty, "the last output of the check"),
    field("ServiceID", Shape::TextOrEmpty, "the instance that the check is for; default: the node"),
    field("ModifyIndex", Shape::Uint, "the modify index to compare with"),
    field("Definition", Shape::Free(&CHECK_DEFINITION), "the check for an external monitor to run"),
    field("Type", Shape::TextOrEmpty, "how it is checked, such as `http`"),
    field("ExposedPort", Shape::Port, "the port of a proxy that exposes it"),
    field("ServiceName", Shape::TextOrEmpty, "ignored: it is the instance's"),
    field("ServiceTags", Shape::TextList, "ignored: they are the instance's"),
    field("PeerName", Shape::TextOrEmpty, "the peer that it was imported from"),
    field("Namespace", Shape::TextOrEmpty, "the namespace (Consul Enterprise)"),
    field("Partition", Shape::TextOrEmpty, "the admin partition (Consul Enterprise)"),
    field("Interval", Shape::NotSent, "not sent, as it is in what was read"),
    field("Timeout", Shape::NotSent, "not sent"),
    field("CreateIndex", Shape::NotSent, "not sent"),
];

const CHECK_OPERATION: &[Field] = &[
    field("Verb", Shape::OneOf(ENTITY_VERBS), "what to do"),
    field("Check", Shape::Object(CHECK), "the check"),
];

const OPERATION: &[Field] = &[
    field("KV", Shape::Object(KV_OPERATION), "an operation on a key"),
    field("Node", Shape::Object(NODE_OPERATION), "an operation on a node"),
    field("Service", Shape::Object(SERVICE_OPERATION), "an operation on an instance"),
    field("Check", Shape::Object(CHECK_OPERATION), "an operation on a check"),
];

/// Of the results, each one has one of these members; there are no errors if the transaction was applied.
const RESULTS: Form = Form::Object(&[
    has(
        "Results",
        Form::OrNull(&Form::List(&Form::Object(&[
            may_have("KV", ENTRY),
            may_have("Node", Form::Object(&[has("Node", Form::Text)])),
            may_have("Service", Form::Object(&[has("ID", Form::Text)])),
            may_have("Check", Form::Object(&[has("CheckID", Form::Text)])),
        ]))),
    ),
    has("Errors", Form::OrNull(&Form::List(&Form::Nothing))),
]);

pub static TXN: Endpoint = Endpoint {
    form: RESULTS,
    positional: &[body(
        "operations",
        Shape::Objects(OPERATION),
        "The operations, applied in order.",
    )],
    options: &[EVERYTHING, SCOPE, CONSISTENCY],
    repeat: Repeat::Once,
    reply: Reply::Txn,
    ..Endpoint::write(
        "txn",
        "/v1/txn",
        "Applies all operations or none. Deletes and check-not-exists have no result.",
    )
};

/// The index of the first operation, of those in a body, that deletes every key.
pub fn deletes_everything(operations: &serde_json::Value) -> Option<usize> {
    let empties = |operation: &serde_json::Value| {
        let key = operation["KV"]["Key"].as_str().unwrap_or_default();
        operation["KV"]["Verb"] == "delete-tree" && key.is_empty()
    };
    operations.as_array()?.iter().position(empties)
}

pub const ENDPOINTS: &[&Endpoint] = &[&TXN];
