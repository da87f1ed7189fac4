//! Central configuration: `/v1/config`.

use super::table::*;

const KIND: Param = path("kind", Shape::Text, "The kind: service-defaults, proxy-defaults, ....");
const NAME: Param = path("name", Shape::Text, "The entry's name.");
const CAS: &[Param] = &[query(
    "cas",
    "cas",
    Shape::Uint,
    "Only if the entry's modify index is this; 0: only if it does not exist.",
)
.guards("the entry's modify index is another")];

/// Lists the entries of a kind.
pub static LIST: Endpoint = Endpoint {
    positional: &[KIND],
    options: &[FILTER, SCOPE, CONSISTENCY, BLOCKING],
    ..Endpoint::read("config_list", "/v1/config/{kind}", "Lists the entries of a kind.")
};

/// Reads an entry; nil when it does not exist.
pub static READ: Endpoint = Endpoint {
    positional: &[KIND, NAME],
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    absent: Absent::Null,
    ..Endpoint::read(
        "config_read",
        "/v1/config/{kind}/{name}",
        "Reads an entry; nil when it does not exist.",
    )
};

/// Writes an entry; its Kind and Name are in it.
pub static WRITE: Endpoint = Endpoint {
    positional: &[body("entry", Shape::Any, "The entry.")],
    options: &[CAS, SCOPE],
    reply: Reply::Applied,
    ..Endpoint::write("config_write", "/v1/config", "Writes an entry; its Kind and Name are in it.")
};

/// Deletes an entry; a missing one is gone already.
pub static DELETE: Endpoint = Endpoint {
    method: Verb::Delete,
    positional: &[KIND, NAME],
    options: &[SCOPE],
    reply: Reply::Done,
    ..Endpoint::write(
        "config_delete",
        "/v1/config/{kind}/{name}",
        "Deletes an entry; a missing one is gone already.",
    )
};

/// This area's rows.
pub const ENDPOINTS: &[&Endpoint] = &[&LIST, &READ, &WRITE, &DELETE];
