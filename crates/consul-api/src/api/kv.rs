//! The key-value store: `/v1/kv`.

use crate::table::*;

/// The largest value that an agent accepts by default, in bytes.
///
/// Source: `limits.kv_max_value_size` in Consul's agent configuration reference.
pub const MAX_VALUE_BYTES: usize = 524_288;

const KEY: Param = path("key", Shape::Key, "The key.");
const PREFIX: Param =
    path("key", Shape::KeyPrefix, "The prefix, as plain text: `/` has no special meaning.");

/// The members of an entry.
const fn entry(key: Form) -> [Member; 6] {
    [
        has("Key", key),
        has("Value", Form::Bytes),
        has("Flags", Form::Number),
        has("LockIndex", Form::Number),
        has("CreateIndex", Form::Number),
        has("ModifyIndex", Form::Number),
    ]
}

/// An entry of any key.
pub const ENTRY: Form = Form::Object(&entry(Form::Text));

/// The option of the calls that can delete every key.
pub const EVERYTHING: &[Param] = &[call(
    "everything",
    Shape::Bool,
    "Must be true to delete the tree of the empty prefix, which is every key.",
)];

pub static GET: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&entry(Form::Key))),
    missing_header: Some("x-consul-index"),
    positional: &[KEY],
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    reply: Reply::KvValue,
    absent: Absent::Null,
    ..Endpoint::read("kv_get", "/v1/kv/{key}", "Reads one key; nil if it does not exist.")
};

pub static LIST: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&entry(Form::Under))),
    missing_header: Some("x-consul-index"),
    positional: &[PREFIX],
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    fixed_query: "recurse",
    reply: Reply::KvEntries,
    absent: Absent::EmptyList,
    items: Items::By(&[&["Key"]]),
    ..Endpoint::read("kv_list", "/v1/kv/{key}", "Reads all entries whose key begins with a prefix.")
};

pub static KEYS: Endpoint = Endpoint {
    form: Form::Some(&Form::List(&Form::Under)),
    missing_header: Some("x-consul-index"),
    positional: &[PREFIX],
    options: &[
        &[query(
            "separator",
            "separator",
            Shape::Text,
            "Truncate keys after the first occurrence of this text behind the prefix, as directories.",
        )],
        SCOPE,
        CONSISTENCY,
        BLOCKING,
    ],
    fixed_query: "keys",
    absent: Absent::EmptyList,
    items: Items::Texts,
    ..Endpoint::read("kv_keys", "/v1/kv/{key}", "Lists the keys that begin with a prefix.")
};

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
            query("flags", "flags", Shape::Uint, "A number stored with the value."),
            query(
                "cas",
                "cas",
                Shape::Uint,
                "Write only if the key has this modify index; 0: only if it does not exist.",
            )
            .guards("the key has another modify index"),
            query(
                "acquire",
                "acquire",
                Shape::Text,
                "Write the value and acquire the lock on the key for this session.",
            )
            .guards("another session holds the lock, or its lock delay is not over"),
            query(
                "release",
                "release",
                Shape::Text,
                "Write the value and release this session's lock on the key.",
            )
            .guards("this session does not hold the lock"),
        ],
        SCOPE,
    ],
    reply: Reply::Applied,
    ..Endpoint::write("kv_put", "/v1/kv/{key}", "Writes one key.")
};

pub static DELETE: Endpoint = Endpoint {
    method: Verb::Delete,
    positional: &[KEY],
    options: &[
        &[query("cas", "cas", Shape::Uint, "Delete only if the key has this modify index.")
            .guards("the key has another modify index")],
        SCOPE,
    ],
    reply: Reply::Applied,
    ..Endpoint::write(
        "kv_delete",
        "/v1/kv/{key}",
        "Deletes one key, not those that begin with it; succeeds also if it does not exist.",
    )
};

pub static DELETE_TREE: Endpoint = Endpoint {
    method: Verb::Delete,
    positional: &[PREFIX],
    options: &[EVERYTHING, SCOPE],
    fixed_query: "recurse",
    reply: Reply::Applied,
    ..Endpoint::write(
        "kv_delete_tree",
        "/v1/kv/{key}",
        "Deletes all keys that begin with a prefix. The empty prefix, which is every key, requires the option `everything`.",
    )
};

pub const ENDPOINTS: &[&Endpoint] = &[&GET, &LIST, &KEYS, &PUT, &DELETE, &DELETE_TREE];
