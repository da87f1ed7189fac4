//! The fields that can be selected in the entries of each answer, and their types.
//!
//! Consul derives them from its Go structs. So a field that the JSON omits because it is empty can
//! be selected, and some in the JSON cannot, such as CreateIndex, a check's Definition or a proxy's
//! Config.

use consul_api::table::Entries;

/// The schema of an answer's entries.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(super) fields: &'static [Field],
    /// Whether an expression is validated only when there is an entry to filter.
    pub(super) is_checked_late: bool,
}

/// The schema of these entries.
pub(crate) fn of(entries: Entries) -> &'static Schema {
    match entries {
        Entries::AgentService => &AGENT_SERVICES,
        Entries::AgentCheck => &AGENT_CHECKS,
        Entries::Member => &MEMBERS,
        Entries::Node => &NODES,
        Entries::ServiceNode => &CATALOG_SERVICES,
        Entries::NodeService => &NODE_SERVICES,
        Entries::Check => &CHECKS,
        Entries::Instance => &INSTANCES,
        Entries::ConfigEntry => &CONFIG_ENTRIES,
        Entries::Intention => &INTENTIONS,
    }
}

/// A field's name and type.
pub(super) type Field = (&'static str, Type);

/// The type of a selected value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Type {
    Text,
    Bool,
    Int,
    /// An unsigned integer up to a maximum.
    Uint(u64),
    Texts,
    /// An IP address, which is a list of bytes.
    Bytes,
    /// Values by names that users choose.
    Map(&'static Type),
    /// Fields, whose values are zero if the JSON has none.
    Struct(&'static [Field]),
    /// Fields of a value that may be absent.
    Optional(&'static [Field]),
    /// A list of values with fields.
    Structs(&'static [Field]),
}

use Type::{Bool, Bytes, Int, Map, Optional, Struct, Structs, Text, Texts, Uint};

/// `agent/services`.
pub(super) static AGENT_SERVICES: Schema = checked_early(&AGENT_SERVICE);

/// `agent/checks`. Consul passes no type when it parses the filter, so nothing is validated before
/// the first check is filtered.
pub(super) static AGENT_CHECKS: Schema = Schema { fields: &CHECK, is_checked_late: true };

/// `agent/members`.
pub(crate) static MEMBERS: Schema = checked_early(&MEMBER);

/// `catalog/nodes`.
pub(crate) static NODES: Schema = checked_early(&NODE);

/// `catalog/service`, `catalog/connect`, and `catalog/services`, which filters the same entries
/// before it lists their names.
pub(super) static CATALOG_SERVICES: Schema = checked_early(&SERVICE_NODE);

/// `catalog/node` and `catalog/node-services`: the services.
pub(crate) static NODE_SERVICES: Schema = checked_early(&SERVICE);

/// `health/node`, `health/checks` and `health/state`.
pub(crate) static CHECKS: Schema = checked_early(&CHECK);

/// `health/service`, `health/connect` and `health/ingress`.
pub(crate) static INSTANCES: Schema = checked_early(&INSTANCE);

/// `config`: only its service defaults can be filtered.
static CONFIG_ENTRIES: Schema = checked_early(&SERVICE_DEFAULTS);

/// `connect/intentions`.
static INTENTIONS: Schema = checked_early(&INTENTION);

/// The variables of an identity that logs in.
pub(crate) static IDENTITIES: Schema = checked_early(&[("value", TEXT_MAP), ("list", Map(&Texts))]);

/// The account of a service of Kubernetes that logs in.
pub(crate) static SERVICE_ACCOUNTS: Schema = checked_early(&[(
    "serviceaccount",
    Struct(&[("namespace", Text), ("name", Text), ("uid", Text)]),
)]);

const fn checked_early(fields: &'static [Field]) -> Schema {
    Schema { fields, is_checked_late: false }
}

const TEXT_MAP: Type = Map(&Text);

static SERVICE_DEFAULTS: [Field; 14] = [
    ("Kind", Text),
    ("Name", Text),
    ("Protocol", Text),
    ("Mode", Text),
    ("TransparentProxy", Struct(&TRANSPARENT_PROXY)),
    ("MutualTLSMode", Text),
    ("MeshGateway", MESH_GATEWAY),
    ("Expose", Struct(&EXPOSE)),
    ("ExternalSNI", Text),
    ("MaxInboundConnections", Int),
    ("LocalConnectTimeoutMs", Int),
    ("LocalRequestTimeoutMs", Int),
    ("BalanceInboundConnections", Text),
    ("Meta", TEXT_MAP),
];

static INTENTION: [Field; 14] = [
    ("ID", Text),
    ("Description", Text),
    ("SourcePeer", Text),
    ("SourcePartition", Text),
    ("SourceSamenessGroup", Text),
    ("SourceNS", Text),
    ("SourceName", Text),
    ("DestinationPartition", Text),
    ("DestinationNS", Text),
    ("DestinationName", Text),
    ("SourceType", Text),
    ("Action", Text),
    ("Meta", TEXT_MAP),
    ("Precedence", Int),
];

static MEMBER: [Field; 11] = [
    ("Name", Text),
    ("Addr", Bytes),
    ("Port", Uint(u16::MAX as u64)),
    ("Tags", TEXT_MAP),
    ("Status", Int),
    ("ProtocolMin", BYTE),
    ("ProtocolMax", BYTE),
    ("ProtocolCur", BYTE),
    ("DelegateMin", BYTE),
    ("DelegateMax", BYTE),
    ("DelegateCur", BYTE),
];
const BYTE: Type = Uint(u8::MAX as u64);

static NODE: [Field; 8] = [
    ("ID", Text),
    ("Node", Text),
    ("Address", Text),
    ("Datacenter", Text),
    ("Partition", Text),
    ("PeerName", Text),
    ("TaggedAddresses", TEXT_MAP),
    ("Meta", TEXT_MAP),
];

static CHECK: [Field; 14] = [
    ("Node", Text),
    ("CheckID", Text),
    ("Name", Text),
    ("Status", Text),
    ("Notes", Text),
    ("Output", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", Texts),
    ("Type", Text),
    ("Interval", Text),
    ("Timeout", Text),
    ("ExposedPort", Int),
    ("PeerName", Text),
];

static INSTANCE: [Field; 3] =
    [("Node", Optional(&NODE)), ("Service", Optional(&SERVICE)), ("Checks", Structs(&CHECK))];

static SERVICE: [Field; 14] = service(Struct(&PROXY), Struct(&CONNECT));
static AGENT_SERVICE: [Field; 14] = service(Optional(&AGENT_PROXY), Optional(&CONNECT));

const fn service(proxy: Type, connect: Type) -> [Field; 14] {
    [
        ("Kind", Text),
        ("ID", Text),
        ("Service", Text),
        ("Tags", Texts),
        ("Address", Text),
        ("TaggedAddresses", ADDRESSES),
        ("Meta", TEXT_MAP),
        ("Port", Int),
        ("SocketPath", Text),
        ("Weights", Struct(&WEIGHTS)),
        ("EnableTagOverride", Bool),
        ("Proxy", proxy),
        ("Connect", connect),
        ("PeerName", Text),
    ]
}

static SERVICE_NODE: [Field; 20] = [
    ("ID", Text),
    ("Node", Text),
    ("Address", Text),
    ("Datacenter", Text),
    ("TaggedAddresses", TEXT_MAP),
    ("NodeMeta", TEXT_MAP),
    ("ServiceKind", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", Texts),
    ("ServiceAddress", Text),
    ("ServiceTaggedAddresses", ADDRESSES),
    ("ServiceWeights", Struct(&WEIGHTS)),
    ("ServiceMeta", TEXT_MAP),
    ("ServicePort", Int),
    ("ServiceSocketPath", Text),
    ("ServiceEnableTagOverride", Bool),
    ("ServiceProxy", Struct(&PROXY)),
    ("ServiceConnect", Struct(&CONNECT)),
    ("PeerName", Text),
];

const ADDRESSES: Type = Map(&Struct(&[("Address", Text), ("Port", Int)]));
static WEIGHTS: [Field; 2] = [("Passing", Int), ("Warning", Int)];
static CONNECT: [Field; 1] = [("Native", Bool)];

static PROXY: [Field; 12] = proxy(Struct(&TRANSPARENT_PROXY), Struct(&ACCESS_LOGS));
static AGENT_PROXY: [Field; 12] = proxy(Optional(&TRANSPARENT_PROXY), Optional(&ACCESS_LOGS));

const fn proxy(transparent_proxy: Type, access_logs: Type) -> [Field; 12] {
    [
        ("EnvoyExtensions", Structs(&ENVOY_EXTENSION)),
        ("DestinationServiceName", Text),
        ("DestinationServiceID", Text),
        ("LocalServiceAddress", Text),
        ("LocalServicePort", Int),
        ("LocalServiceSocketPath", Text),
        ("Mode", Text),
        ("Upstreams", Structs(&UPSTREAM)),
        ("MeshGateway", MESH_GATEWAY),
        ("Expose", Struct(&EXPOSE)),
        ("TransparentProxy", transparent_proxy),
        ("AccessLogs", access_logs),
    ]
}

const MESH_GATEWAY: Type = Struct(&[("Mode", Text)]);
static TRANSPARENT_PROXY: [Field; 2] = [("OutboundListenerPort", Int), ("DialedDirectly", Bool)];
static ENVOY_EXTENSION: [Field; 4] =
    [("Name", Text), ("Required", Bool), ("ConsulVersion", Text), ("EnvoyVersion", Text)];

static ACCESS_LOGS: [Field; 6] = [
    ("Enabled", Bool),
    ("DisableListenerLogs", Bool),
    ("Type", Text),
    ("Path", Text),
    ("JSONFormat", Text),
    ("TextFormat", Text),
];

static UPSTREAM: [Field; 11] = [
    ("DestinationType", Text),
    ("DestinationNamespace", Text),
    ("DestinationPartition", Text),
    ("DestinationPeer", Text),
    ("DestinationName", Text),
    ("Datacenter", Text),
    ("LocalBindAddress", Text),
    ("LocalBindPort", Int),
    ("LocalBindSocketPath", Text),
    ("LocalBindSocketMode", Text),
    ("MeshGateway", MESH_GATEWAY),
];

static EXPOSE: [Field; 2] = [("Checks", Bool), ("Paths", Structs(&EXPOSED_PATH))];
static EXPOSED_PATH: [Field; 5] = [
    ("ListenerPort", Int),
    ("Path", Text),
    ("LocalPathPort", Int),
    ("Protocol", Text),
    ("ParsedFromCheck", Bool),
];
