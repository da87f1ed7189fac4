//! Network coordinates: `/v1/coordinate`.

use crate::table::*;

const UPDATE_FIELDS: &[Field] = &[
    field("Node", Shape::Name, "the node's name"),
    field("Segment", Shape::TextOrEmpty, "the network segment (Consul Enterprise)"),
    field(
        "Coord",
        Shape::Free(&FreeForm { lists: &["Vec"], ..FreeForm::UNKNOWN }),
        "the coordinate: Vec, Error, Adjustment, Height",
    ),
];

const SEGMENT: &[Param] =
    &[query("segment", "segment", Shape::Text, "The network segment (Consul Enterprise).")];

pub static DATACENTERS: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[
        has("Datacenter", Form::Text),
        has("Coordinates", Form::OrNull(&Form::List(&Form::Any))),
    ])),
    ..Endpoint::read(
        "coordinate_datacenters",
        "/v1/coordinate/datacenters",
        "The coordinates of the servers of all datacenters.",
    )
};

pub static NODES_LIST: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("Node", Form::Text), has("Coord", Form::Any)])),
    options: &[SEGMENT, SCOPE, CONSISTENCY, BLOCKING],
    enterprise: Enterprise::OfNodes,
    ..Endpoint::read("coordinate_nodes", "/v1/coordinate/nodes", "The coordinates of all nodes.")
};

pub static NODE: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("Node", Form::Name), has("Coord", Form::Any)])),
    missing_header: Some("vary"),
    positional: &[path("node", Shape::Text, "The node's name.")],
    options: &[SEGMENT, SCOPE, CONSISTENCY, BLOCKING],
    absent: Absent::EmptyList,
    enterprise: Enterprise::OfNodes,
    ..Endpoint::read(
        "coordinate_node",
        "/v1/coordinate/node/{node}",
        "The coordinates of one node.",
    )
};

pub static UPDATE: Endpoint = Endpoint {
    positional: &[body("update", Shape::Object(UPDATE_FIELDS), "The node and its coordinate.")],
    options: &[SCOPE],
    ..Endpoint::write("coordinate_update", "/v1/coordinate/update", "Sets a node's coordinate.")
};

pub const ENDPOINTS: &[&Endpoint] = &[&DATACENTERS, &NODES_LIST, &NODE, &UPDATE];
