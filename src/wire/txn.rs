//! Transactions: `/v1/txn`.

use super::table::*;

/// The most operations that a server of the newest versions takes; before 1.14 it was 64.
///
/// Source: `txn_max_ops` is fixed in the server; the limit is named in Consul's HTTP reference.
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
    field("Value", Shape::Base64, "the bytes to store"),
    field("Flags", Shape::Uint, "the number stored beside the value"),
    field("Index", Shape::Uint, "the modify index to compare with"),
    field("Session", Shape::TextOrEmpty, "the session that locks, unlocks or is checked"),
];

const OPERATION: &[Field] = &[field("KV", Shape::Object(KV_OPERATION), "an operation on a key")];

/// Applies a list of operations together or not at all.
pub static TXN: Endpoint = Endpoint {
    positional: &[body(
        "operations",
        Shape::Objects(OPERATION),
        "The operations, applied in order.",
    )],
    options: &[SCOPE, CONSISTENCY],
    repeat: Repeat::Once,
    reply: Reply::Txn,
    ..Endpoint::write(
        "txn",
        "/v1/txn",
        "Applies all operations or none; deletes and check-not-exists give no result.",
    )
};

/// This area's rows.
pub const ENDPOINTS: &[&Endpoint] = &[&TXN];
