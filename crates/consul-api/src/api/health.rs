//! Health of nodes and services: `/v1/health`.

use crate::table::*;

/// The members that identify an instance, and a check.
const INSTANCE: &[&[&str]] = &[&["Node", "Node"], &["Service", "ID"]];
const CHECK: &[&[&str]] = &[&["Node"], &["CheckID"]];

const SERVICE_NAME: Param = path("service", Shape::Text, "The service's name.");

const INSTANCES: &[Param] = &[
    query("tag", "tag", Shape::TextList, "Only instances that have all these tags."),
    query("passing", "passing", Shape::Bool, "Only instances all of whose checks pass."),
];

const SERVICE_OPTIONS: &[&[Param]] =
    &[INSTANCES, CACHED, NODES, PEER, MESH, SCOPE, CONSISTENCY, BLOCKING];

pub static SERVICE: Endpoint = Endpoint {
    form: Form::Entries(&Form::Object(&[
        has("Node", Form::Object(&[has("Node", Form::Text)])),
        has("Service", Form::Object(&[has("ID", Form::Text), has("Service", Form::Name)])),
    ])),
    positional: &[SERVICE_NAME],
    options: SERVICE_OPTIONS,
    items: Items::By(INSTANCE),
    filter: Some(Entries::Instance),
    ..Endpoint::read(
        "health_service",
        "/v1/health/service/{service}",
        "Lists a service's instances, each with its node and checks.",
    )
};

pub static CONNECT: Endpoint = Endpoint {
    form: Form::Entries(&Form::Object(&[
        has("Node", Form::Object(&[has("Node", Form::Text)])),
        has("Service", Form::Object(&[has("ID", Form::Text), has("Service", Form::Text)])),
    ])),
    positional: &[SERVICE_NAME],
    options: SERVICE_OPTIONS,
    items: Items::By(INSTANCE),
    filter: Some(Entries::Instance),
    ..Endpoint::read(
        "health_connect",
        "/v1/health/connect/{service}",
        "Lists the mesh-capable instances of a service, each with its node and checks.",
    )
};

pub static INGRESS: Endpoint = Endpoint {
    form: Form::Entries(&Form::Object(&[
        has("Node", Form::Object(&[has("Node", Form::Text)])),
        has("Service", Form::Object(&[has("ID", Form::Text), has("Service", Form::Text)])),
    ])),
    positional: &[SERVICE_NAME],
    options: SERVICE_OPTIONS,
    items: Items::By(INSTANCE),
    filter: Some(Entries::Instance),
    ..Endpoint::read(
        "health_ingress",
        "/v1/health/ingress/{service}",
        "Lists the ingress gateways of a service, each with its node and checks.",
    )
};

pub static NODE: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[
        has("Node", Form::Name),
        has("CheckID", Form::Text),
        has("Status", Form::Text),
        has("ServiceName", Form::Text),
    ])),
    positional: &[path("node", Shape::Text, "The node's name.")],
    options: &[PEER, SCOPE, CONSISTENCY, BLOCKING],
    items: Items::By(CHECK),
    filter: Some(Entries::Check),
    ..Endpoint::read("health_node", "/v1/health/node/{node}", "Lists the checks of one node.")
};

pub static CHECKS: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[
        has("Node", Form::Text),
        has("CheckID", Form::Text),
        has("Status", Form::Text),
        has("ServiceName", Form::Name),
    ])),
    positional: &[SERVICE_NAME],
    options: &[NODES, PEER, SCOPE, CONSISTENCY, BLOCKING],
    items: Items::By(CHECK),
    filter: Some(Entries::Check),
    ..Endpoint::read(
        "health_checks",
        "/v1/health/checks/{service}",
        "Lists the checks of a service's instances.",
    )
};

pub static STATE: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[
        has("Node", Form::Text),
        has("CheckID", Form::Text),
        has("Status", Form::Given("state")),
        has("ServiceName", Form::Text),
    ])),
    positional: &[path(
        "state",
        Shape::OneOf(&["any", "passing", "warning", "critical"]),
        "The state, or any.",
    )],
    options: &[NODES, PEER, SCOPE, CONSISTENCY, BLOCKING],
    items: Items::By(CHECK),
    filter: Some(Entries::Check),
    ..Endpoint::read("health_state", "/v1/health/state/{state}", "Lists the checks in one state.")
};

pub const ENDPOINTS: &[&Endpoint] = &[&SERVICE, &CONNECT, &INGRESS, &NODE, &CHECKS, &STATE];
