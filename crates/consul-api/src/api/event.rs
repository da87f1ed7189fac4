//! User events: `/v1/event`.

use crate::table::*;

pub static FIRE: Endpoint = Endpoint {
    form: Form::Object(&[
        has("ID", Form::Text),
        has("Name", Form::Name),
        has("Payload", Form::Bytes),
    ]),
    positional: &[
        path("name", Shape::Text, "The event's name."),
        body("payload", Shape::Payload, "Bytes sent with the event, up to about 400.").optional(),
    ],
    options: &[&[
        query("dc", "dc", Shape::Text, "The datacenter; default: the agent's own."),
        query(
            "node",
            "node",
            Shape::Text,
            "Only nodes whose name matches this regular expression.",
        ),
        query(
            "service",
            "service",
            Shape::Text,
            "Only nodes with a service whose name matches this regular expression.",
        ),
        query(
            "tag",
            "tag",
            Shape::Text,
            "Only services with a tag that matches this regular expression.",
        ),
    ]],
    repeat: Repeat::Once,
    reply: Reply::Events,
    ..Endpoint::write("event_fire", "/v1/event/fire/{name}", "Sends a small message to all agents.")
};

pub static LIST: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[
        has("ID", Form::Text),
        has("Name", Form::Given("name")),
        has("Payload", Form::Bytes),
    ])),
    options: &[&[query("name", "name", Shape::Text, "Only events of this name.")], BLOCKING],
    reply: Reply::Events,
    items: Items::By(&[&["ID"]]),
    local: true,
    ..Endpoint::read(
        "event_list",
        "/v1/event/list",
        "Lists the last events that reached this agent, up to 256; the index is a hash.",
    )
};

pub const ENDPOINTS: &[&Endpoint] = &[&FIRE, &LIST];
