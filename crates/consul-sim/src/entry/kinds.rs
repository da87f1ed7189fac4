//! The kinds of entries: their members, and which permission each needs.
//!
//! The members of most kinds are checked. Entries of the others are stored as they are given.

use super::shape::{Member, Shape};
use crate::acl::Resource;

/// One kind.
pub(super) struct Kind {
    pub name: &'static str,
    /// `None`: the entry is stored as it is given.
    pub shape: Option<&'static Shape>,
    /// The only name of an entry of this kind, if there is only one.
    pub only_name: Option<&'static str>,
    /// The resource that a reader must be allowed to read; `None`: all may read.
    pub reads: Option<Resource>,
    pub writes: Resource,
}

impl Kind {
    const fn of_service(name: &'static str, shape: &'static Shape) -> Self {
        let (reads, writes) = (Some(Resource::Service), Resource::Service);
        Self { name, shape: Some(shape), only_name: None, reads, writes }
    }

    /// A kind whose entries are stored as they are given.
    const fn stored(name: &'static str) -> Self {
        let (reads, writes) = (Some(Resource::Service), Resource::Mesh);
        Self { name, shape: None, only_name: None, reads, writes }
    }

    /// A stored kind that only those who may read the mesh's entries read.
    const fn of_the_mesh(name: &'static str) -> Self {
        Self { reads: Some(Resource::Mesh), ..Self::stored(name) }
    }
}

/// The kinds whose entries have the name of a service in the mesh.
pub(super) const OF_THE_MESH: &[&str] =
    &["service-defaults", "service-resolver", "service-splitter", "service-router", INTENTIONS];

pub(super) const INTENTIONS: &str = "service-intentions";

pub(super) const EXPORTED: &str = "exported-services";

/// By name, as a list of all entries has them.
static KINDS: &[Kind] = &[
    Kind::stored("api-gateway"),
    Kind {
        only_name: Some("default"),
        shape: Some(&EXPORTED_SERVICES),
        ..Kind::of_the_mesh(EXPORTED)
    },
    Kind::of_the_mesh("file-system-certificate"),
    Kind::of_the_mesh("http-route"),
    Kind::stored("ingress-gateway"),
    Kind::of_the_mesh("inline-certificate"),
    Kind::of_the_mesh("jwt-provider"),
    Kind { only_name: Some("mesh"), reads: None, shape: Some(&MESH), ..Kind::stored("mesh") },
    Kind {
        only_name: Some("global"),
        reads: None,
        writes: Resource::Mesh,
        ..Kind::of_service("proxy-defaults", &PROXY_DEFAULTS)
    },
    Kind::stored("sameness-group"),
    Kind::of_service("service-defaults", &SERVICE_DEFAULTS),
    Kind {
        reads: Some(Resource::Intention),
        writes: Resource::Intention,
        ..Kind::of_service(INTENTIONS, &SERVICE_INTENTIONS)
    },
    Kind::of_service("service-resolver", &SERVICE_RESOLVER),
    Kind::of_service("service-router", &SERVICE_ROUTER),
    Kind::of_service("service-splitter", &SERVICE_SPLITTER),
    Kind::of_the_mesh("tcp-route"),
    Kind::stored("terminating-gateway"),
];

/// All kinds.
pub(super) fn all() -> &'static [Kind] {
    KINDS
}

/// The kind of this name.
pub(super) fn of_name(name: &str) -> Result<&'static Kind, String> {
    let found = KINDS.iter().find(|kind| kind.name == name);
    found.ok_or_else(|| format!("invalid config entry kind: {name}"))
}

use Member as M;

static MESH: Shape = Shape(&[
    M::text("Kind"),
    M::object("TransparentProxy", &Shape(&[M::flag("MeshDestinationsOnly").always()])).always(),
    M::flag("AllowEnablingPermissiveMutualTLS"),
    M::free("TLS"),
    M::free("HTTP"),
    M::free("Peering"),
    M::flag("ValidateClusters"),
    M::config("Meta"),
]);

static EXPORTED_SERVICES: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name"),
    M::list(
        "Services",
        &Shape(&[
            M::text("Name").always(),
            M::text("Namespace"),
            M::list(
                "Consumers",
                &Shape(&[M::text("Partition"), M::text("Peer"), M::text("SamenessGroup")]),
            ),
        ]),
    ),
    M::config("Meta"),
]);

static MODE: Shape = Shape(&[M::text("Mode")]);

static EXPOSE: Shape = Shape(&[
    M::plain("Checks"),
    M::list(
        "Paths",
        &Shape(&[
            M::count("ListenerPort"),
            M::text("Path"),
            M::count("LocalPathPort"),
            M::text("Protocol"),
            M::plain("ParsedFromCheck"),
        ]),
    ),
]);

static TRANSPARENT: Shape = Shape(&[M::count("OutboundListenerPort"), M::plain("DialedDirectly")]);

static UPSTREAM: Shape = Shape(&[
    M::text("Name"),
    M::text("Peer").always(),
    M::text("EnvoyListenerJSON"),
    M::text("EnvoyClusterJSON"),
    M::text("Protocol"),
    M::count("ConnectTimeoutMs"),
    M::object(
        "Limits",
        &Shape(&[
            M::count("MaxConnections"),
            M::count("MaxPendingRequests"),
            M::count("MaxConcurrentRequests"),
        ]),
    ),
    M::object(
        "PassiveHealthCheck",
        &Shape(&[
            M::nanos("Interval"),
            M::count("MaxFailures"),
            M::count("EnforcingConsecutive5xx"),
            M::count("MaxEjectionPercent"),
            M::nanos("BaseEjectionTime"),
        ]),
    ),
    M::object("MeshGateway", &MODE).always(),
    M::text("BalanceOutboundConnections"),
]);

static SERVICE_DEFAULTS: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name"),
    M::text("Protocol").always(),
    M::text("Mode"),
    M::object("TransparentProxy", &TRANSPARENT).always(),
    M::text("MutualTLSMode"),
    M::object("MeshGateway", &MODE).always(),
    M::object("Expose", &EXPOSE).always(),
    M::text("ExternalSNI"),
    M::object(
        "UpstreamConfig",
        &Shape(&[M::object("Defaults", &UPSTREAM), M::list("Overrides", &UPSTREAM)]),
    ),
    M::object("Destination", &Shape(&[M::plain("Addresses"), M::count("Port")])),
    M::count("MaxInboundConnections"),
    M::count("LocalConnectTimeoutMs"),
    M::count("LocalRequestTimeoutMs"),
    M::text("BalanceInboundConnections"),
    M::free("RateLimits"),
    M::list("EnvoyExtensions", &EXTENSION),
    M::config("Meta"),
]);

static EXTENSION: Shape = Shape(&[
    M::text("Name").always(),
    M::flag("Required").always(),
    M::config("Arguments").always(),
    M::text("ConsulVersion").always(),
    M::text("EnvoyVersion").always(),
]);

static PROXY_DEFAULTS: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name"),
    M::config("Config").always(),
    M::text("Mode"),
    M::object("TransparentProxy", &TRANSPARENT).always(),
    M::text("MutualTLSMode"),
    M::object("MeshGateway", &MODE).always(),
    M::object("Expose", &EXPOSE).always(),
    M::object(
        "AccessLogs",
        &Shape(&[
            M::plain("Enabled"),
            M::plain("DisableListenerLogs"),
            M::text("Type"),
            M::text("Path"),
            M::text("JSONFormat"),
            M::text("TextFormat"),
        ]),
    )
    .always(),
    M::list("EnvoyExtensions", &EXTENSION),
    M::object("FailoverPolicy", &Shape(&[M::text("Mode"), M::plain("Regions")])),
    M::free("PrioritizeByLocality"),
    M::config("Meta"),
]);

static SERVICE_RESOLVER: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name"),
    M::text("DefaultSubset"),
    M::map("Subsets", &Shape(&[M::text("Filter"), M::plain("OnlyPassing")])),
    M::object(
        "Redirect",
        &Shape(&[
            M::text("Service"),
            M::text("ServiceSubset"),
            M::text("Namespace"),
            M::text("Partition"),
            M::text("Datacenter"),
            M::text("Peer"),
            M::text("SamenessGroup"),
        ]),
    ),
    M::map(
        "Failover",
        &Shape(&[
            M::text("Service"),
            M::text("ServiceSubset"),
            M::text("Namespace"),
            M::plain("Datacenters"),
            M::list("Targets", &SERVICE_RESOLVER_TARGET),
            M::object("Policy", &Shape(&[M::text("Mode"), M::plain("Regions")])),
            M::text("SamenessGroup"),
        ]),
    ),
    M::free("PrioritizeByLocality"),
    M::time("ConnectTimeout"),
    M::time("RequestTimeout"),
    M::object(
        "LoadBalancer",
        &Shape(&[
            M::text("Policy"),
            M::object(
                "RingHashConfig",
                &Shape(&[M::count("MinimumRingSize"), M::count("MaximumRingSize")]),
            ),
            M::object("LeastRequestConfig", &Shape(&[M::count("ChoiceCount")])),
            M::list("HashPolicies", &HASH_POLICY),
        ]),
    ),
    M::config("Meta"),
]);

static SERVICE_RESOLVER_TARGET: Shape = Shape(&[
    M::text("Service"),
    M::text("ServiceSubset"),
    M::text("Partition"),
    M::text("Namespace"),
    M::text("Datacenter"),
    M::text("Peer"),
]);

static HASH_POLICY: Shape = Shape(&[
    M::text("Field"),
    M::text("FieldValue"),
    M::object("CookieConfig", &Shape(&[M::plain("Session"), M::nanos("TTL"), M::text("Path")])),
    M::plain("SourceIP"),
    M::plain("Terminal"),
]);

static HEADERS: Shape = Shape(&[M::free("Add"), M::free("Set"), M::plain("Remove")]);

static SERVICE_SPLITTER: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name"),
    M::list(
        "Splits",
        &Shape(&[
            M::plain("Weight").always(),
            M::text("Service"),
            M::text("ServiceSubset"),
            M::text("Namespace"),
            M::text("Partition"),
            M::object("RequestHeaders", &HEADERS),
            M::object("ResponseHeaders", &HEADERS),
        ]),
    )
    .always(),
    M::config("Meta"),
]);

static HTTP_HEADER: Shape = Shape(&[
    M::text("Name"),
    M::plain("Present"),
    M::text("Exact"),
    M::text("Prefix"),
    M::text("Suffix"),
    M::text("Contains"),
    M::text("Regex"),
    M::plain("Invert"),
    M::plain("IgnoreCase"),
]);

static SERVICE_ROUTER: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name"),
    M::list(
        "Routes",
        &Shape(&[
            M::object("Match", &Shape(&[M::object("HTTP", &ROUTE_MATCH)])),
            M::object("Destination", &ROUTE_DESTINATION),
        ]),
    )
    .always(),
    M::config("Meta"),
]);

static ROUTE_MATCH: Shape = Shape(&[
    M::text("PathExact"),
    M::text("PathPrefix"),
    M::text("PathRegex"),
    M::plain("CaseInsensitive"),
    M::list("Header", &HTTP_HEADER),
    M::list(
        "QueryParam",
        &Shape(&[M::text("Name"), M::plain("Present"), M::text("Exact"), M::text("Regex")]),
    ),
    M::plain("Methods"),
]);

static ROUTE_DESTINATION: Shape = Shape(&[
    M::time("RequestTimeout"),
    M::time("IdleTimeout"),
    M::text("Service"),
    M::text("ServiceSubset"),
    M::text("Namespace"),
    M::text("Partition"),
    M::text("PrefixRewrite"),
    M::count("NumRetries"),
    M::plain("RetryOnConnectFailure"),
    M::plain("RetryOn"),
    M::plain("RetryOnStatusCodes"),
    M::object("RequestHeaders", &HEADERS),
    M::object("ResponseHeaders", &HEADERS),
]);

static SERVICE_INTENTIONS: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name"),
    M::free("JWT"),
    M::list(
        "Sources",
        &Shape(&[
            M::text("Name"),
            M::text("Peer"),
            M::text("Partition"),
            M::text("SamenessGroup"),
            M::text("Action"),
            M::list(
                "Permissions",
                &Shape(&[M::text("Action"), M::object("HTTP", &INTENTION_HTTP), M::free("JWT")]),
            ),
            M::count("Precedence"),
            M::text("LegacyID"),
            M::text("Type"),
            M::text("Description"),
            M::free("LegacyMeta"),
            M::text("LegacyCreateTime"),
            M::text("LegacyUpdateTime"),
        ]),
    ),
    M::config("Meta"),
]);

static INTENTION_HTTP: Shape = Shape(&[
    M::text("PathExact"),
    M::text("PathPrefix"),
    M::text("PathRegex"),
    M::list("Header", &HTTP_HEADER),
    M::plain("Methods"),
]);
