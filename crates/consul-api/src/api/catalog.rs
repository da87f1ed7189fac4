//! The catalog of nodes and services: `/v1/catalog`.

use super::agent::{ADDRESSES, WEIGHTS};
use crate::table::*;

/// The members that identify an instance.
const INSTANCE: &[&[&str]] = &[&["Node"], &["ServiceID"]];

/// Consul keeps these as they were written, and reads a number as nanoseconds.
pub const PASSIVE_HEALTH_CHECK: &[&str] =
    &["PassiveHealthCheck.BaseEjectionTime", "PassiveHealthCheck.Interval"];

/// Source: `ConnectProxyConfig` in Consul's folder agent/structs.
pub const PROXY: FreeForm = FreeForm {
    durations: &["BaseEjectionTime", "Interval"],
    answered_in_nanoseconds: PASSIVE_HEALTH_CHECK,
    lists: &["EnvoyExtensions", "Paths", "Upstreams"],
    kept: &["Config"],
    opaque: &["Arguments", "Meta"],
    ..FreeForm::UNKNOWN
};

/// Source: `ServiceConnect` in Consul's folder agent/structs. The catalog makes no sidecar.
const CONNECTED: FreeForm = FreeForm { lists: &["SNI", "SpiffeID"], ..FreeForm::UNKNOWN };

/// Source: `NodeService` in Consul's folder agent/structs.
const CATALOG_SERVICE: &[Field] = &[
    field("ID", Shape::Name, "the instance's id; default: its name"),
    field("Service", Shape::Name, "the service's name"),
    field("Tags", Shape::TextList, "tags"),
    field("Meta", Shape::TextMap, "metadata"),
    field("Address", Shape::TextOrEmpty, "the address; default: the node's"),
    field("Port", Shape::Port, "the port"),
    field("TaggedAddresses", Shape::ObjectMap(ADDRESSES), "other addresses, by name"),
    field("Weights", Shape::Object(WEIGHTS), "its weight among the instances"),
    field("EnableTagOverride", Shape::Bool, "whether the catalog may change the tags"),
    field("Kind", Shape::TextOrEmpty, "the kind of mesh service"),
    field("Proxy", Shape::Free(&PROXY), "the definition of a mesh proxy"),
    field("Connect", Shape::Free(&CONNECTED), "the mesh configuration"),
    field("SocketPath", Shape::TextOrEmpty, "a unix socket instead of a port (from 1.10)"),
    field("Locality", Shape::Free(&FreeForm::UNKNOWN), "region and zone (from 1.16)"),
    field("PeerName", Shape::TextOrEmpty, "the peer that it was imported from"),
    field("Namespace", Shape::TextOrEmpty, "the namespace (Consul Enterprise)"),
    field("Partition", Shape::TextOrEmpty, "the admin partition (Consul Enterprise)"),
    field("CreateIndex", Shape::NotSent, "not sent, as it is in what was read"),
    field("ModifyIndex", Shape::NotSent, "not sent"),
];

/// Source: `HealthCheckDefinition` in Consul's folders api and agent/structs.
pub const CHECK_DEFINITION: FreeForm = FreeForm {
    durations: &["DeregisterCriticalServiceAfter", "Interval", "TTL", "Timeout"],
    // Recorded on 1.8.7 and 1.21.0; the others are texts.
    answered_in_nanoseconds: &["TTL"],
    lists: &["Header.*", "ScriptArgs"],
    by_name: &["Header"],
    ..FreeForm::UNKNOWN
};

/// Source: `HealthCheck` in Consul's folder agent/structs.
const CATALOG_CHECK: &[Field] = &[
    field("Node", Shape::Name, "the node's name; default: the one registered"),
    field("CheckID", Shape::Name, "the check's id; default: its name"),
    field("Name", Shape::Name, "the check's name"),
    field("Notes", Shape::TextOrEmpty, "a description"),
    field(
        "Status",
        Shape::OneOf(&["passing", "warning", "critical"]),
        "its state; default critical",
    ),
    field("Output", Shape::TextOrEmpty, "the last output of the check"),
    field("ServiceID", Shape::TextOrEmpty, "the instance that the check is for; default: the node"),
    field("Definition", Shape::Free(&CHECK_DEFINITION), "the check for an external monitor to run"),
    field(
        "Type",
        Shape::TextOrEmpty,
        "how it is checked, such as `http`; default: by `Definition`",
    ),
    field("Interval", Shape::TextOrEmpty, "how often, as a text to show (from 1.10)"),
    field("Timeout", Shape::TextOrEmpty, "its time limit, as a text to show (from 1.10)"),
    field("ExposedPort", Shape::Port, "the port of a proxy that exposes it"),
    field("ServiceName", Shape::TextOrEmpty, "ignored: it is the instance's"),
    field("ServiceTags", Shape::TextList, "ignored: they are the instance's"),
    field("PeerName", Shape::TextOrEmpty, "the peer that it was imported from"),
    field("Namespace", Shape::TextOrEmpty, "the namespace (Consul Enterprise)"),
    field("Partition", Shape::TextOrEmpty, "the admin partition (Consul Enterprise)"),
    field("CreateIndex", Shape::NotSent, "not sent, as it is in what was read"),
    field("ModifyIndex", Shape::NotSent, "not sent"),
];

/// Source: `RegisterRequest` in Consul's folder agent/structs.
const REGISTRATION: &[Field] = &[
    field("Node", Shape::Name, "the node's name"),
    field("Address", Shape::Text, "the node's address"),
    field("ID", Shape::TextOrEmpty, "the node's UUID"),
    field("NodeMeta", Shape::TextMap, "the node's metadata"),
    field("TaggedAddresses", Shape::TextMap, "the node's other addresses, by name"),
    field("Service", Shape::Object(CATALOG_SERVICE), "an instance on the node"),
    field("Check", Shape::Object(CATALOG_CHECK), "a check of the node or the instance"),
    field("Checks", Shape::Objects(CATALOG_CHECK), "several checks"),
    field("SkipNodeUpdate", Shape::Bool, "do not change the node itself"),
    field("Locality", Shape::Free(&FreeForm::UNKNOWN), "the node's region and zone (from 1.16)"),
    field(
        "Datacenter",
        Shape::TextOrEmpty,
        "the datacenter; default: the option `dc`, or the agent's",
    ),
    field("PeerName", Shape::TextOrEmpty, "the peer that the node was imported from"),
    field("Namespace", Shape::TextOrEmpty, "the namespace (Consul Enterprise)"),
    field("Partition", Shape::TextOrEmpty, "the admin partition (Consul Enterprise)"),
];

/// Source: `DeregisterRequest` in Consul's folder agent/structs.
const DEREGISTRATION: &[Field] = &[
    field("Node", Shape::Text, "the node's name"),
    field("ServiceID", Shape::Text, "the instance to remove; without it and `CheckID`: the node"),
    field("CheckID", Shape::Text, "the check to remove"),
    field(
        "Datacenter",
        Shape::TextOrEmpty,
        "the datacenter; default: the option `dc`, or the agent's",
    ),
    field("PeerName", Shape::TextOrEmpty, "the peer that the node was imported from"),
    field("Namespace", Shape::TextOrEmpty, "the namespace (Consul Enterprise)"),
    field("Partition", Shape::TextOrEmpty, "the admin partition (Consul Enterprise)"),
];

pub static REGISTER: Endpoint = Endpoint {
    missing: &["Unknown service"],
    positional: &[body("registration", Shape::Object(REGISTRATION), "What to register.")],
    options: &[SCOPE],
    reply: Reply::Applied,
    ..Endpoint::write(
        "catalog_register",
        "/v1/catalog/register",
        "Registers a node, an instance and checks in the catalog, without an agent.",
    )
};

pub static DEREGISTER: Endpoint = Endpoint {
    positional: &[body("deregistration", Shape::Object(DEREGISTRATION), "What to remove.")],
    options: &[SCOPE],
    reply: Reply::Applied,
    ..Endpoint::write(
        "catalog_deregister",
        "/v1/catalog/deregister",
        "Removes a node, an instance or a check from the catalog.",
    )
};

pub static DATACENTERS: Endpoint = Endpoint {
    form: Form::Some(&Form::List(&Form::Text)),
    options: &[CACHED],
    ..Endpoint::read(
        "catalog_datacenters",
        "/v1/catalog/datacenters",
        "Lists the known datacenters, the nearest first.",
    )
};

pub static NODES_LIST: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("Node", Form::Text), has("Address", Form::Text)])),
    options: &[NODES, PEER, SCOPE, CONSISTENCY, BLOCKING],
    items: Items::By(&[&["Node"]]),
    filter: Some(Entries::Node),
    enterprise: Enterprise::OfNodes,
    ..Endpoint::read("catalog_nodes", "/v1/catalog/nodes", "Lists the nodes.")
};

pub static SERVICES: Endpoint = Endpoint {
    form: Form::Map(&Form::OrNull(&Form::List(&Form::Text))),
    options: &[
        &[query(
            "node_meta",
            "node-meta",
            Shape::TextMap,
            "Only nodes that have all this metadata.",
        )],
        CACHED,
        SCOPE,
        CONSISTENCY,
        BLOCKING,
    ],
    items: Items::Named,
    filter: Some(Entries::ServiceNode),
    ..Endpoint::read(
        "catalog_services",
        "/v1/catalog/services",
        "The tags of each service, by the service's name.",
    )
};

const TAG: &[Param] =
    &[query("tag", "tag", Shape::TextList, "Only instances that have all these tags.")];

const INSTANCES: &[&[Param]] = &[TAG, CACHED, NODES, PEER, MESH, SCOPE, CONSISTENCY, BLOCKING];

pub static SERVICE: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[
        has("Node", Form::Text),
        has("ServiceID", Form::Text),
        has("ServiceName", Form::Name),
    ])),
    positional: &[path("service", Shape::Text, "The service's name.")],
    options: INSTANCES,
    items: Items::By(INSTANCE),
    filter: Some(Entries::ServiceNode),
    ..Endpoint::read(
        "catalog_service",
        "/v1/catalog/service/{service}",
        "Lists a service's instances, regardless of their health.",
    )
};

pub static CONNECT: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[
        has("Node", Form::Text),
        has("ServiceID", Form::Text),
        has("ServiceName", Form::Text),
    ])),
    positional: &[path("service", Shape::Text, "The service's name.")],
    options: INSTANCES,
    items: Items::By(INSTANCE),
    filter: Some(Entries::ServiceNode),
    ..Endpoint::read(
        "catalog_connect",
        "/v1/catalog/connect/{service}",
        "Lists the mesh-capable instances of a service, proxies included.",
    )
};

pub static GATEWAY_SERVICES: Endpoint = Endpoint {
    form: Form::OrNull(&Form::List(&Form::Object(&[
        has("Gateway", Form::Object(&[has("Name", Form::Name)])),
        has("Service", Form::Object(&[has("Name", Form::Text)])),
    ]))),
    positional: &[path("gateway", Shape::Text, "The gateway's name.")],
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    ..Endpoint::read(
        "catalog_gateway_services",
        "/v1/catalog/gateway-services/{gateway}",
        "Lists the services that a gateway serves.",
    )
};

pub static NODE: Endpoint = Endpoint {
    form: Form::OrNull(&Form::Object(&[
        has("Node", Form::Object(&[has("Node", Form::NameOrId), has("Address", Form::Text)])),
        has(
            "Services",
            Form::OrNull(&Form::Map(&Form::Object(&[
                has("ID", Form::Text),
                has("Service", Form::Text),
            ]))),
        ),
    ])),
    positional: &[path("node", Shape::Text, "The node's name, or the beginning of its id.")],
    options: &[PEER, SCOPE, CONSISTENCY, BLOCKING],
    filter: Some(Entries::NodeService),
    ..Endpoint::read(
        "catalog_node",
        "/v1/catalog/node/{node}",
        "Reads a node and its instances by id; nil if it does not exist.",
    )
};

pub static NODE_SERVICES: Endpoint = Endpoint {
    form: Form::Object(&[
        has(
            "Node",
            Form::OrNull(&Form::Object(&[has("Node", Form::NameOrId), has("Address", Form::Text)])),
        ),
        has(
            "Services",
            Form::OrNull(&Form::List(&Form::Object(&[
                has("ID", Form::Text),
                has("Service", Form::Text),
            ]))),
        ),
    ]),
    positional: &[path("node", Shape::Text, "The node's name, or the beginning of its id.")],
    options: &[PEER, MESH, SCOPE, CONSISTENCY, BLOCKING],
    filter: Some(Entries::NodeService),
    ..Endpoint::read(
        "catalog_node_services",
        "/v1/catalog/node-services/{node}",
        "Reads a node and the list of its instances; `Node` is nil if it does not exist.",
    )
};

pub const ENDPOINTS: &[&Endpoint] = &[
    &REGISTER,
    &DEREGISTER,
    &DATACENTERS,
    &NODES_LIST,
    &SERVICES,
    &SERVICE,
    &NODE,
    &NODE_SERVICES,
    &CONNECT,
    &GATEWAY_SERVICES,
];
