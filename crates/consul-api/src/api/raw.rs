//! Requests to any path, also to endpoints without a row.

use crate::table::*;

const PARAMS: Param = Param::new(
    "params",
    Shape::Any,
    Location::QueryMembers,
    "The query's parameters; true stands for a parameter without a value, and a list repeats it: `{ tag = { \"a\", \"b\" } }` is `tag=a&tag=b`.",
)
.optional();

const FULL_RESPONSE: Param = call(
    "full_response",
    Shape::Bool,
    "True: the value is a table of `status`, `headers` and `body`, whatever status Consul gave it.",
);

const POSITIONAL: &[Param] = &[
    path(
        "path",
        Shape::EncodedPath,
        "The path as it is sent: `/v1/…`, percent-encoded; what a URI cannot have, such as `#`, is escaped.",
    ),
    body("body", Shape::Payload, "The body.").optional(),
];

const fn row(method: Verb, repeat: Repeat) -> Endpoint {
    Endpoint {
        method,
        positional: POSITIONAL,
        options: match method {
            Verb::Get => &[&[PARAMS, FULL_RESPONSE], SCOPE, CONSISTENCY],
            _ => &[&[PARAMS, FULL_RESPONSE], SCOPE],
        },
        repeat,
        reply: Reply::Body,
        ..Endpoint::read(
            "http_request",
            "{path}",
            "Sends any request and returns the answer's body.",
        )
    }
}

static GET: Endpoint = row(Verb::Get, Repeat::Read);
static PUT: Endpoint = row(Verb::Put, Repeat::Once);
static POST: Endpoint = row(Verb::Post, Repeat::Once);
static DELETE: Endpoint = row(Verb::Delete, Repeat::Once);

/// The row for a request with this HTTP method; `None`: Consul does not use the method.
pub fn endpoint(method: &str) -> Option<&'static Endpoint> {
    match method.to_ascii_uppercase().as_str() {
        "GET" => Some(&GET),
        "PUT" => Some(&PUT),
        "POST" => Some(&POST),
        "DELETE" => Some(&DELETE),
        _ => None,
    }
}
