//! The key-value store: `/v1/kv`.

use super::table::*;

/// The largest value that an agent takes by default, in bytes.
///
/// Source: `limits.kv_max_value_size` in Consul's agent configuration reference.
pub const MAX_VALUE_BYTES: usize = 524_288;

const KEY: Param = path("key", Shape::Key, "The key.");
const PREFIX: Param =
    path("key", Shape::KeyPrefix, "The prefix: plain text, of which `/` is no special part.");

/// Reads one key.
pub static GET: Endpoint = Endpoint {
    positional: &[KEY],
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    reply: Reply::KvValue,
    absent: Absent::Null,
    ..Endpoint::read("kv_get", "/v1/kv/{key}", "Reads one key; nil when it does not exist.")
};

/// Reads every key under a prefix.
pub static LIST: Endpoint = Endpoint {
    positional: &[PREFIX],
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    fixed_query: "recurse",
    reply: Reply::KvEntries,
    absent: Absent::EmptyList,
    ..Endpoint::read("kv_list", "/v1/kv/{key}", "Reads all entries whose key begins with a prefix.")
};

/// Lists the keys under a prefix.
pub static KEYS: Endpoint = Endpoint {
    positional: &[PREFIX],
    options: &[
        &[query(
            "separator",
            "separator",
            Shape::Text,
            "Cut keys after this text beyond the prefix.",
        )],
        SCOPE,
        CONSISTENCY,
        BLOCKING,
    ],
    fixed_query: "keys",
    absent: Absent::EmptyList,
    ..Endpoint::read("kv_keys", "/v1/kv/{key}", "Lists the keys that begin with a prefix.")
};

/// Writes one key.
pub static PUT: Endpoint = Endpoint {
    positional: &[
        KEY,
        body(
            "value",
            Shape::Payload,
            "The value: a string of bytes; a number or boolean is stored as its text, a table as JSON.",
        ),
    ],
    options: &[
        &[
            query("flags", "flags", Shape::Uint, "A number that is stored beside the value."),
            query(
                "cas",
                "cas",
                Shape::Uint,
                "Write only if the key's modify index is this; 0: only if it does not exist.",
            )
            .guards("the key's modify index is another"),
            query("acquire", "acquire", Shape::Text, "Write and lock the key with this session.")
                .guards("another session holds the lock or its lock delay is not over"),
            query(
                "release",
                "release",
                Shape::Text,
                "Write and give up this session's lock on the key.",
            )
            .guards("this session does not hold the lock"),
        ],
        SCOPE,
    ],
    reply: Reply::Applied,
    ..Endpoint::write("kv_put", "/v1/kv/{key}", "Writes one key.")
};

/// Deletes one key.
pub static DELETE: Endpoint = Endpoint {
    method: Verb::Delete,
    positional: &[KEY],
    options: &[
        &[query("cas", "cas", Shape::Uint, "Delete only if the key's modify index is this.")
            .guards("the key's modify index is another")],
        SCOPE,
    ],
    reply: Reply::Applied,
    ..Endpoint::write(
        "kv_delete",
        "/v1/kv/{key}",
        "Deletes one key, and no other that begins with it; a missing one is deleted already.",
    )
};

/// Deletes every key under a prefix.
pub static DELETE_TREE: Endpoint = Endpoint {
    method: Verb::Delete,
    positional: &[PREFIX],
    options: &[SCOPE],
    fixed_query: "recurse",
    reply: Reply::Applied,
    ..Endpoint::write(
        "kv_delete_tree",
        "/v1/kv/{key}",
        "Deletes all keys that begin with a prefix; the empty prefix means every key.",
    )
};

/// This area's rows.
pub const ENDPOINTS: &[&Endpoint] = &[&GET, &LIST, &KEYS, &PUT, &DELETE, &DELETE_TREE];
