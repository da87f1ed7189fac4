//! Sessions: `/v1/session`.

use crate::table::*;

/// The shortest and the longest TTL of a session, in seconds.
///
/// Source: Consul's HTTP reference of sessions.
pub const TTL_RANGE_S: (u64, u64) = (10, 86_400);

/// The longest lock delay that a server applies, in seconds. It accepts longer ones and truncates them.
pub const MAX_LOCK_DELAY_S: u64 = 60;

const SERVICE_CHECK: &[Field] = &[field("ID", Shape::Text, "the check's id")];

const SESSION: &[Field] = &[
    field("Name", Shape::TextOrEmpty, "a description"),
    field("Node", Shape::Text, "the node it belongs to; default: the agent's"),
    field(
        "LockDelay",
        Shape::Duration { min_s: 0, max_s: MAX_LOCK_DELAY_S },
        "how long no session can acquire a lock after this session ended without a release; default 15 s, 0: none",
    ),
    field(
        "Behavior",
        Shape::OneOf(&["release", "delete"]),
        "what happens to locked keys when the session ends; default release",
    ),
    field(
        "TTL",
        Shape::Duration { min_s: TTL_RANGE_S.0, max_s: TTL_RANGE_S.1 },
        "how long it lives without a renewal: at least this, at most twice this",
    ),
    field(
        "NodeChecks",
        Shape::TextList,
        "node checks that end it when they are critical; default serfHealth, {}: none",
    ),
    field(
        "ServiceChecks",
        Shape::Objects(SERVICE_CHECK),
        "service checks that end it when they are critical",
    ),
    field("Checks", Shape::TextList, "node checks, as before Consul 1.7"),
];

const ID: Param = path("session", Shape::Segment, "The session's id.");

pub static CREATE: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Some(&Form::Text))]),
    positional: &[body("definition", Shape::Object(SESSION), "The session.").optional()],
    options: &[SCOPE],
    repeat: Repeat::Once,
    reply: Reply::Member("ID"),
    ..Endpoint::write(
        "session_create",
        "/v1/session/create",
        "Creates a session and returns its id.",
    )
};

pub static DESTROY: Endpoint = Endpoint {
    positional: &[ID],
    options: &[SCOPE],
    reply: Reply::Applied,
    ..Endpoint::write(
        "session_destroy",
        "/v1/session/destroy/{session}",
        "Ends a session; its locks are released, or their keys deleted, by its Behavior.",
    )
};

pub static RENEW: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("ID", Form::Name), has("Node", Form::Text)])),
    missing: &["Session id '"],
    positional: &[ID],
    options: &[SCOPE],
    reply: Reply::FirstItem,
    absent: Absent::SessionInvalid,
    ..Endpoint::write(
        "session_renew",
        "/v1/session/renew/{session}",
        "Renews a session: its TTL starts again.",
    )
};

pub static INFO: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("ID", Form::Name), has("Node", Form::Text)])),
    positional: &[ID],
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    reply: Reply::FirstItem,
    ..Endpoint::read(
        "session_info",
        "/v1/session/info/{session}",
        "Reads one session; nil if it does not exist.",
    )
};

pub static NODE: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("ID", Form::Text), has("Node", Form::Name)])),
    positional: &[path("node", Shape::Text, "The node's name.")],
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    items: Items::By(&[&["ID"]]),
    ..Endpoint::read("session_node", "/v1/session/node/{node}", "Lists the sessions of one node.")
};

pub static LIST: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("ID", Form::Text), has("Node", Form::Text)])),
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    items: Items::By(&[&["ID"]]),
    ..Endpoint::read("session_list", "/v1/session/list", "Lists all sessions.")
};

pub const ENDPOINTS: &[&Endpoint] = &[&CREATE, &DESTROY, &RENEW, &INFO, &NODE, &LIST];
