//! Requests to any path, for what has no method of its own.

use super::table::*;

const PARAMS: Param = Param::new(
    "params",
    Shape::Any,
    Place::QueryMembers,
    "The query's parameters; true stands for a parameter without a value.",
)
.optional();

const POSITIONAL: &[Param] = &[
    path("path", Shape::EncodedPath, "The path as it goes to the server: `/v1/…`, encoded."),
    body("body", Shape::Payload, "The body.").optional(),
];

const fn row(method: Verb, repeat: Repeat) -> Endpoint {
    Endpoint {
        method,
        positional: POSITIONAL,
        options: &[&[PARAMS]],
        repeat,
        reply: Reply::Body,
        ..Endpoint::read("http_request", "{path}", "Sends any request and gives the answer's body.")
    }
}

static GET: Endpoint = row(Verb::Get, Repeat::Read);
static PUT: Endpoint = row(Verb::Put, Repeat::Once);
static POST: Endpoint = row(Verb::Post, Repeat::Once);
static DELETE: Endpoint = row(Verb::Delete, Repeat::Once);

/// The row for a request with this HTTP method, or `None` when Consul has no such method.
pub fn endpoint(method: &str) -> Option<&'static Endpoint> {
    match method.to_ascii_uppercase().as_str() {
        "GET" => Some(&GET),
        "PUT" => Some(&PUT),
        "POST" => Some(&POST),
        "DELETE" => Some(&DELETE),
        _ => None,
    }
}
