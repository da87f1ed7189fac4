//! Health of nodes and services: `/v1/health`.

use super::table::*;

/// What tells instances apart, and checks.
const INSTANCE: &[&[&str]] = &[&["Node", "Node"], &["Service", "ID"]];
const CHECK: &[&[&str]] = &[&["Node"], &["CheckID"]];

const SERVICE_NAME: Param = path("service", Shape::Text, "The service's name.");

/// Options of reads of a service's instances.
const INSTANCES: &[Param] = &[
    query("tag", "tag", Shape::TextList, "Only instances that have all these tags."),
    query("passing", "passing", Shape::Bool, "Only instances all of whose checks pass."),
];

const SERVICE_OPTIONS: &[&[Param]] =
    &[INSTANCES, CACHED, NODES, FILTER, PEER, MESH, SCOPE, CONSISTENCY, BLOCKING];

/// A service's instances with their nodes and checks.
pub static SERVICE: Endpoint = Endpoint {
    positional: &[SERVICE_NAME],
    options: SERVICE_OPTIONS,
    items: Items::By(INSTANCE),
    ..Endpoint::read(
        "health_service",
        "/v1/health/service/{service}",
        "Lists a service's instances, each with its node and checks.",
    )
};

/// A service's mesh-capable instances.
pub static CONNECT: Endpoint = Endpoint {
    positional: &[SERVICE_NAME],
    options: SERVICE_OPTIONS,
    items: Items::By(INSTANCE),
    ..Endpoint::read(
        "health_connect",
        "/v1/health/connect/{service}",
        "Lists the mesh-capable instances of a service, each with its node and checks.",
    )
};

/// The ingress gateways of a service.
pub static INGRESS: Endpoint = Endpoint {
    positional: &[SERVICE_NAME],
    options: SERVICE_OPTIONS,
    items: Items::By(INSTANCE),
    ..Endpoint::read(
        "health_ingress",
        "/v1/health/ingress/{service}",
        "Lists the ingress gateways of a service, each with its node and checks.",
    )
};

/// The checks of a node.
pub static NODE: Endpoint = Endpoint {
    positional: &[path("node", Shape::Text, "The node's name.")],
    options: &[FILTER, PEER, SCOPE, CONSISTENCY, BLOCKING],
    items: Items::By(CHECK),
    ..Endpoint::read("health_node", "/v1/health/node/{node}", "Lists the checks of one node.")
};

/// The checks of a service.
pub static CHECKS: Endpoint = Endpoint {
    positional: &[SERVICE_NAME],
    options: &[NODES, FILTER, PEER, SCOPE, CONSISTENCY, BLOCKING],
    items: Items::By(CHECK),
    ..Endpoint::read(
        "health_checks",
        "/v1/health/checks/{service}",
        "Lists the checks of a service's instances.",
    )
};

/// The checks in one state.
pub static STATE: Endpoint = Endpoint {
    positional: &[path(
        "state",
        Shape::OneOf(&["any", "passing", "warning", "critical"]),
        "The state, or any.",
    )],
    options: &[NODES, FILTER, PEER, SCOPE, CONSISTENCY, BLOCKING],
    items: Items::By(CHECK),
    ..Endpoint::read("health_state", "/v1/health/state/{state}", "Lists the checks in one state.")
};

/// This area's rows.
pub const ENDPOINTS: &[&Endpoint] = &[&SERVICE, &CONNECT, &INGRESS, &NODE, &CHECKS, &STATE];
