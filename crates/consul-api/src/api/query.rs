//! Prepared queries: `/v1/query`.

use crate::table::*;

const ID: Param = path("query", Shape::Segment, "The query's id.");
const ID_OR_NAME: Param = path("query", Shape::Text, "The query's id or name.");
/// Source: `PreparedQueryDefinition` in Consul's folder api.
const QUERY: FreeForm = FreeForm {
    durations: &["TTL"],
    lists: &["Tags", "IgnoreCheckIDs", "Datacenters", "Targets"],
    names: &["definition.Name"],
    opaque: &["NodeMeta", "ServiceMeta"],
    ..FreeForm::UNKNOWN
};
const DEFINITION: Param = body("definition", Shape::Free(&QUERY), "The query.");
const DC: &[Param] = &[SCOPE[0]];
const EXECUTION: &[Param] = &[
    query("near", "near", Shape::Text, "Sort by distance from this node, or from `_agent`."),
    query("limit", "limit", Shape::Uint, "The most instances to return."),
    query("connect", "connect", Shape::Bool, "Only mesh-capable instances."),
];

pub static LIST: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("ID", Form::Text), has("Service", Form::Any)])),
    options: &[DC, CONSISTENCY, BLOCKING],
    secret: true,
    ..Endpoint::read("query_list", "/v1/query", "Lists the prepared queries.")
};

pub static CREATE: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Text)]),
    method: Verb::Post,
    positional: &[DEFINITION],
    options: &[DC],
    repeat: Repeat::Once,
    reply: Reply::Member("ID"),
    ..Endpoint::write("query_create", "/v1/query", "Creates a prepared query and returns its id.")
};

pub static READ: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("ID", Form::Name), has("Service", Form::Any)])),
    missing: &["Query not found"],
    positional: &[ID],
    options: &[DC, CONSISTENCY, BLOCKING],
    reply: Reply::FirstItem,
    absent: Absent::Null,
    secret: true,
    ..Endpoint::read(
        "query_read",
        "/v1/query/{query}",
        "Reads a prepared query; nil if it does not exist.",
    )
};

pub static UPDATE: Endpoint = Endpoint {
    missing: &["Query not found", "Cannot modify non-existent prepared query"],
    positional: &[ID, DEFINITION],
    options: &[DC],
    ..Endpoint::write("query_update", "/v1/query/{query}", "Replaces a prepared query.")
};

pub static DELETE: Endpoint = Endpoint {
    missing: &["Query not found", "Cannot modify non-existent prepared query"],
    method: Verb::Delete,
    positional: &[ID],
    options: &[DC],
    absent: Absent::Done,
    ..Endpoint::write(
        "query_delete",
        "/v1/query/{query}",
        "Deletes a prepared query; succeeds also if it does not exist.",
    )
};

pub static EXECUTE: Endpoint = Endpoint {
    form: Form::Object(&[
        has("Service", Form::Text),
        has(
            "Nodes",
            Form::OrNull(&Form::List(&Form::Object(&[
                has("Node", Form::Any),
                has("Service", Form::Any),
            ]))),
        ),
    ]),
    missing: &["Query not found"],
    positional: &[ID_OR_NAME],
    options: &[EXECUTION, CACHED, DC, CONSISTENCY],
    ..Endpoint::read("query_execute", "/v1/query/{query}/execute", "Runs a prepared query.")
};

pub static EXPLAIN: Endpoint = Endpoint {
    form: Form::Object(&[has("Query", Form::Object(&[has("Service", Form::Any)]))]),
    missing: &["Query not found"],
    positional: &[ID_OR_NAME],
    options: &[DC, CONSISTENCY],
    secret: true,
    ..Endpoint::read(
        "query_explain",
        "/v1/query/{query}/explain",
        "Shows the query that a template generates for a name.",
    )
};

pub const ENDPOINTS: &[&Endpoint] = &[&LIST, &CREATE, &READ, &UPDATE, &DELETE, &EXECUTE, &EXPLAIN];
