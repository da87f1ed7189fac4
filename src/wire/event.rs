//! User events: `/v1/event`.

use super::table::*;

/// Fires an event.
pub static FIRE: Endpoint = Endpoint {
    positional: &[
        path("name", Shape::Text, "The event's name."),
        body("payload", Shape::Payload, "Bytes that go with it; about 400 at most.").optional(),
    ],
    options: &[&[
        query("dc", "dc", Shape::Text, "The datacenter; default: the agent's own."),
        query(
            "node",
            "node",
            Shape::Text,
            "Only nodes whose name matches this regular expression.",
        ),
        query("service", "service", Shape::Text, "Only nodes with a service that matches this."),
        query("tag", "tag", Shape::Text, "Only services with a tag that matches this."),
    ]],
    repeat: Repeat::Once,
    reply: Reply::Events,
    ..Endpoint::write("event_fire", "/v1/event/fire/{name}", "Sends a small message to all agents.")
};

/// The recent events.
pub static LIST: Endpoint = Endpoint {
    options: &[&[query("name", "name", Shape::Text, "Only events of this name.")], BLOCKING],
    reply: Reply::Events,
    items: Items::By(&[&["ID"]]),
    ..Endpoint::read(
        "event_list",
        "/v1/event/list",
        "Lists the last events that reached this agent, 256 at most; the index is a hash.",
    )
};

/// This area's rows.
pub const ENDPOINTS: &[&Endpoint] = &[&FIRE, &LIST];
