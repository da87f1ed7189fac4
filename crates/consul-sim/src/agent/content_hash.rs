//! The hash of a service's definition, which is Consul's for the same definition.
//!
//! Source: the types `AgentService` and those of its fields in HashiCorp's Go client.

use crate::structure::{Struct, Type};
use serde_json::Value;

/// The hash of a service in the form of replies.
pub(super) fn of(service: &Value) -> String {
    format!("{:x}", SERVICE.hash(service))
}

static SERVICE: Struct = Struct(
    "AgentService",
    &[
        ("Kind", Type::Text),
        ("ID", Type::Text),
        ("Service", Type::Text),
        ("Tags", Type::List(&Type::Text)),
        ("Meta", Type::Map(&Type::Text)),
        ("Port", Type::Int),
        ("Address", Type::Text),
        ("SocketPath", Type::Text),
        ("TaggedAddresses", Type::Map(&Type::Struct(&ADDRESS))),
        ("Weights", Type::Struct(&WEIGHTS)),
        ("EnableTagOverride", Type::Flag),
        ("CreateIndex", Type::Int),
        ("ModifyIndex", Type::Int),
        ("ContentHash", Type::Text),
        ("Proxy", Type::Optional(&PROXY)),
        ("Connect", Type::Optional(&CONNECT)),
        ("PeerName", Type::Text),
    ],
);

static ADDRESS: Struct = Struct("ServiceAddress", &[("Address", Type::Text), ("Port", Type::Int)]);

static WEIGHTS: Struct = Struct("AgentWeights", &[("Passing", Type::Int), ("Warning", Type::Int)]);

/// A sidecar is registered by itself, so a service never has its definition.
static CONNECT: Struct =
    Struct("AgentServiceConnect", &[("Native", Type::Flag), ("SidecarService", Type::Any)]);

static PROXY: Struct = Struct(
    "AgentServiceConnectProxyConfig",
    &[
        ("EnvoyExtensions", Type::List(&Type::Any)),
        ("DestinationServiceName", Type::Text),
        ("DestinationServiceID", Type::Text),
        ("LocalServiceAddress", Type::Text),
        ("LocalServicePort", Type::Int),
        ("LocalServiceSocketPath", Type::Text),
        ("Mode", Type::Text),
        ("TransparentProxy", Type::Optional(&TRANSPARENT)),
        ("Config", Type::Map(&Type::Any)),
        ("Upstreams", Type::List(&Type::Struct(&UPSTREAM))),
        ("MeshGateway", Type::Struct(&MESH_GATEWAY)),
        ("Expose", Type::Struct(&EXPOSE)),
        ("AccessLogs", Type::Optional(&ACCESS_LOGS)),
    ],
);

static TRANSPARENT: Struct = Struct(
    "TransparentProxyConfig",
    &[("OutboundListenerPort", Type::Int), ("DialedDirectly", Type::Flag)],
);

static MESH_GATEWAY: Struct = Struct("MeshGatewayConfig", &[("Mode", Type::Text)]);

static UPSTREAM: Struct = Struct(
    "Upstream",
    &[
        ("DestinationType", Type::Text),
        ("DestinationPartition", Type::Text),
        ("DestinationNamespace", Type::Text),
        ("DestinationPeer", Type::Text),
        ("DestinationName", Type::Text),
        ("Datacenter", Type::Text),
        ("LocalBindAddress", Type::Text),
        ("LocalBindPort", Type::Int),
        ("LocalBindSocketPath", Type::Text),
        ("LocalBindSocketMode", Type::Text),
        ("Config", Type::Map(&Type::Any)),
        ("MeshGateway", Type::Struct(&MESH_GATEWAY)),
        ("CentrallyConfigured", Type::Flag),
    ],
);

static EXPOSE: Struct = Struct(
    "ExposeConfig",
    &[("Checks", Type::Flag), ("Paths", Type::List(&Type::Struct(&EXPOSED_PATH)))],
);

static EXPOSED_PATH: Struct = Struct(
    "ExposePath",
    &[
        ("ListenerPort", Type::Int),
        ("Path", Type::Text),
        ("LocalPathPort", Type::Int),
        ("Protocol", Type::Text),
        ("ParsedFromCheck", Type::Flag),
    ],
);

static ACCESS_LOGS: Struct = Struct(
    "AccessLogsConfig",
    &[
        ("Enabled", Type::Flag),
        ("DisableListenerLogs", Type::Flag),
        ("Type", Type::Text),
        ("Path", Type::Text),
        ("JSONFormat", Type::Text),
        ("TextFormat", Type::Text),
    ],
);
