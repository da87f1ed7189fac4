//! Sessions: `/v1/session`.

use super::table::*;

/// The shortest and the longest TTL of a session, in seconds.
///
/// Source: Consul's HTTP reference of sessions.
pub const TTL_RANGE_S: (u64, u64) = (10, 86_400);

/// The longest lock delay that a server applies, in seconds; it accepts more and cuts it silently.
pub const MAX_LOCK_DELAY_S: u64 = 60;

const SERVICE_CHECK: &[Field] = &[field("ID", Shape::Text, "the check's id")];

const SESSION: &[Field] = &[
    field("Name", Shape::TextOrEmpty, "a name for people"),
    field("Node", Shape::Text, "the node it belongs to; default: the agent's"),
    field(
        "LockDelay",
        Shape::Duration { min_s: 0, max_s: MAX_LOCK_DELAY_S },
        "how long nobody can take a lock that this session lost; default 15 s, 0 is none",
    ),
    field(
        "Behavior",
        Shape::OneOf(&["release", "delete"]),
        "what becomes of its locks; default release",
    ),
    field(
        "TTL",
        Shape::Duration { min_s: TTL_RANGE_S.0, max_s: TTL_RANGE_S.1 },
        "how long it lives without a renewal: at least this, at most twice this",
    ),
    field(
        "NodeChecks",
        Shape::TextList,
        "node checks it dies with; default serfHealth, {} is none",
    ),
    field("ServiceChecks", Shape::Objects(SERVICE_CHECK), "service checks it dies with"),
    field("Checks", Shape::TextList, "checks it dies with, in the form before 1.7"),
];

const ID: Param = path("session", Shape::Text, "The session's id.");

/// Creates a session.
pub static CREATE: Endpoint = Endpoint {
    positional: &[
        body("definition", Shape::Object(SESSION), "What the session is to be.").optional()
    ],
    options: &[SCOPE],
    repeat: Repeat::Once,
    reply: Reply::Member("ID"),
    ..Endpoint::write(
        "session_create",
        "/v1/session/create",
        "Creates a session and returns its id.",
    )
};

/// Ends a session.
pub static DESTROY: Endpoint = Endpoint {
    positional: &[ID],
    options: &[SCOPE],
    reply: Reply::Applied,
    ..Endpoint::write(
        "session_destroy",
        "/v1/session/destroy/{session}",
        "Ends a session; its locks are released or deleted, as it was created for.",
    )
};

/// Renews a session's TTL.
pub static RENEW: Endpoint = Endpoint {
    positional: &[ID],
    options: &[SCOPE],
    reply: Reply::FirstItem,
    absent: Absent::SessionInvalid,
    ..Endpoint::write(
        "session_renew",
        "/v1/session/renew/{session}",
        "Starts a session's TTL anew.",
    )
};

/// Reads one session.
pub static INFO: Endpoint = Endpoint {
    positional: &[ID],
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    reply: Reply::FirstItem,
    ..Endpoint::read(
        "session_info",
        "/v1/session/info/{session}",
        "Reads one session; nil when it does not exist.",
    )
};

/// Lists a node's sessions.
pub static NODE: Endpoint = Endpoint {
    positional: &[path("node", Shape::Text, "The node's name.")],
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    items: Items::By(&[&["ID"]]),
    ..Endpoint::read("session_node", "/v1/session/node/{node}", "Lists the sessions of one node.")
};

/// Lists all sessions.
pub static LIST: Endpoint = Endpoint {
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    items: Items::By(&[&["ID"]]),
    ..Endpoint::read("session_list", "/v1/session/list", "Lists all sessions.")
};

/// This area's rows.
pub const ENDPOINTS: &[&Endpoint] = &[&CREATE, &DESTROY, &RENEW, &INFO, &NODE, &LIST];
