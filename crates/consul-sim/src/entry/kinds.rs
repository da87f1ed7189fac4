//! The kinds of entries: their members, and which permission each needs.
//!
//! The members of most kinds are checked; of gateways and their routes, only their types are.

use super::shape::{Member, Shape, shape_of};
use crate::acl::Resource;
use std::sync::LazyLock;

/// One kind.
pub(super) struct Kind {
    pub name: &'static str,
    shape: Option<&'static Shape>,
    /// The only name of an entry of this kind, if there is only one.
    pub only_name: Option<&'static str>,
    /// The resource that a reader must be allowed to read; `None`: all may read.
    pub reads: Option<Resource>,
    pub writes: Resource,
}

impl Kind {
    /// The members of its entries.
    pub fn shape(&self) -> &Shape {
        let of_gateways = || TYPES.iter().find(|(name, _)| *name == self.name).map(|(_, it)| it);
        self.shape.or_else(of_gateways).unwrap_or(&Shape(&[]))
    }

    const fn of_service(name: &'static str, shape: &'static Shape) -> Self {
        let (reads, writes) = (Some(Resource::Service), Resource::Service);
        Self { name, shape: Some(shape), only_name: None, reads, writes }
    }

    /// A kind whose members have types and are not checked further.
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
    Kind { only_name: Some("mesh"), reads: None, ..Kind::stored("mesh") },
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

macro_rules! status {
    () => {
        " Status:{Conditions:[Type:t! Status:t! Reason:t! Message:t! \
         Resource:{Kind:t! Name:t! SectionName:t!}! LastTransitionTime:t]!}! Meta:m"
    };
}

macro_rules! parents {
    () => {
        "Kind:t Name:t Parents:[Kind:t=api-gateway Name:t! SectionName:t!]!"
    };
}

macro_rules! headers {
    () => {
        "Headers:[Add:m! Remove:s! Set:m!]!"
    };
}

macro_rules! filters {
    () => {
        concat!(
            "Filters:{",
            headers!(),
            " URLRewrite:{Path:t!}? RetryFilter:{NumRetries:u! RetryOn:s! RetryOnStatusCodes:c! \
             RetryOnConnectFailure:b!}? TimeoutFilter:{RequestTimeout:d! IdleTimeout:d!}? JWT:{}?}! \
             ResponseFilters:{",
            headers!(),
            "}!"
        )
    };
}

macro_rules! passive {
    () => {
        " PassiveHealthCheck:{Interval:d MaxFailures:u EnforcingConsecutive5xx:u* MaxEjectionPercent:u* \
         BaseEjectionTime:d*}"
    };
}

macro_rules! tls {
    () => {
        "TLS:{Enabled:b! SDS:{ClusterName:t CertResource:t} TLSMinVersion:t TLSMaxVersion:t CipherSuites:s}"
    };
}

const CERTIFICATE: &str = "Kind:t Name:t Certificate:t! PrivateKey:t! Meta:m";

/// The types of the members of the mesh and of gateways, of their routes and certificates.
///
/// Source: the entries of these kinds in Consul's folder agent/structs.
static TYPES: LazyLock<[(&str, Shape); 10]> = LazyLock::new(|| {
    [
        (
            "api-gateway",
            concat!(
                "Kind:t Name:t Listeners:[Name:t! Hostname:t! Port:n! Protocol:t! TLS:{Certificates:[\
                 Kind:t=inline-certificate Name:t! SectionName:t!]! MinVersion:t! MaxVersion:t! \
                 CipherSuites:s!}! Override:{JWT:{}} Default:{JWT:{}}]!",
                status!()
            ),
        ),
        ("file-system-certificate", CERTIFICATE),
        (
            "http-route",
            concat!(
                parents!(),
                " Rules:[",
                filters!(),
                " Matches:[Headers:[Match:t! Name:t! Value:t!]! Method:t! Path:{Match:t=prefix \
                 Value:t=/}! Query:[Match:t! Name:t! Value:t!]!]! Services:[Name:t! Weight:n=1 ",
                filters!(),
                "]!]! Hostnames:s!",
                status!()
            ),
        ),
        (
            "ingress-gateway",
            concat!(
                "Kind:t Name:t ",
                tls!(),
                "! Listeners:[Port:n! Protocol:t=tcp ",
                tls!(),
                " Services:[Name:t! Hosts:s! TLS:{SDS:{ClusterName:t CertResource:t}} \
                 RequestHeaders:{Add:m Set:m Remove:s} ResponseHeaders:{Add:m Set:m Remove:s} \
                 MaxConnections:u MaxPendingRequests:u MaxConcurrentRequests:u",
                passive!(),
                " Meta:m]!]! Defaults:{MaxConnections:u! MaxPendingRequests:u! MaxConcurrentRequests:u!",
                passive!(),
                "} Meta:m"
            ),
        ),
        ("inline-certificate", CERTIFICATE),
        (
            "jwt-provider",
            "Kind:t Name:t JSONWebKeySet:{Local:{JWKS:t Filename:t} Remote:{URI:t RequestTimeoutMs:n \
             CacheDuration:d FetchAsynchronously:b UseSNI:b RetryPolicy:{NumRetries:n RetryPolicyBackOff:{\
             BaseInterval:d MaxInterval:d}} JWKSCluster:{DiscoveryType:t TLSCertificates:{\
             CaCertificateProviderInstance:{InstanceName:t CertificateName:t} TrustedCA:{Filename:t \
             EnvironmentVariable:t InlineString:t InlineBytes:t}} ConnectTimeout:d}}} Issuer:t \
             Audiences:s Locations:[Header:{Name:t ValuePrefix:t Forward:b} QueryParam:{Name:t} \
             Cookie:{Name:t}] Forwarding:{HeaderName:t PadForwardPayloadHeader:b!} \
             ClockSkewSeconds:n=30 CacheConfig:{Size:n} Meta:m",
        ),
        (
            "mesh",
            "Kind:t TransparentProxy:{MeshDestinationsOnly:b!}! AllowEnablingPermissiveMutualTLS:b \
             ValidateClusters:b TLS:{Incoming:{TLSMinVersion:t TLSMaxVersion:t CipherSuites:s} \
             Outgoing:{TLSMinVersion:t TLSMaxVersion:t CipherSuites:s}} \
             HTTP:{SanitizeXForwardedClientCert:b! Incoming:{RequestNormalization:{\
             InsecureDisablePathNormalization:b! MergeSlashes:b! PathWithEscapedSlashesAction:t! \
             HeadersWithUnderscoresAction:t!}}} Peering:{PeerThroughMeshGateways:b!} Meta:m",
        ),
        (
            "sameness-group",
            "Kind:t Name:t DefaultForFailover:b IncludeLocal:b Members:[Partition:t Peer:t]! Meta:m",
        ),
        ("tcp-route", concat!(parents!(), " Services:[Name:t!]!", status!())),
        (
            "terminating-gateway",
            "Kind:t Name:t Services:[Name:t CAFile:t CertFile:t KeyFile:t SNI:t \
             DisableAutoHostRewrite:b]! Meta:m",
        ),
    ]
    .map(|(name, text)| (name, shape_of(text)))
});

use Member as M;

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
    M::texts("Meta"),
]);

static MODE: Shape = Shape(&[M::text("Mode")]);

static EXPOSE: Shape = Shape(&[
    M::flag("Checks"),
    M::list(
        "Paths",
        &Shape(&[
            M::count("ListenerPort"),
            M::text("Path"),
            M::count("LocalPathPort"),
            M::text("Protocol"),
            M::flag("ParsedFromCheck"),
        ]),
    ),
]);

static TRANSPARENT: Shape = Shape(&[M::count("OutboundListenerPort"), M::flag("DialedDirectly")]);

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
            M::count("MaxConnections").keeps_zero(),
            M::count("MaxPendingRequests").keeps_zero(),
            M::count("MaxConcurrentRequests").keeps_zero(),
        ]),
    ),
    M::object(
        "PassiveHealthCheck",
        &Shape(&[
            M::nanos("Interval"),
            M::unsigned("MaxFailures", 32),
            M::unsigned("EnforcingConsecutive5xx", 32).keeps_zero(),
            M::unsigned("MaxEjectionPercent", 32).keeps_zero(),
            M::nanos("BaseEjectionTime").keeps_zero(),
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
        &Shape(&[M::object("Defaults", &UPSTREAM), M::pointers("Overrides", &UPSTREAM)]),
    ),
    M::object("Destination", &Shape(&[M::lines("Addresses"), M::count("Port")])),
    M::count("MaxInboundConnections"),
    M::count("LocalConnectTimeoutMs"),
    M::count("LocalRequestTimeoutMs"),
    M::text("BalanceInboundConnections"),
    M::object("RateLimits", &Shape(&[M::object("InstanceLevel", &RATE_LIMITS).always()])),
    M::list("EnvoyExtensions", &EXTENSION),
    M::texts("Meta"),
]);

static RATE_LIMITS: Shape = Shape(&[
    M::count("RequestsPerSecond"),
    M::count("RequestsMaxBurst"),
    M::list(
        "Routes",
        &Shape(&[
            M::text("PathExact"),
            M::text("PathPrefix"),
            M::text("PathRegex"),
            M::count("RequestsPerSecond"),
            M::count("RequestsMaxBurst"),
        ]),
    ),
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
    M::text("Protocol").hidden(),
    M::text("Mode"),
    M::object("TransparentProxy", &TRANSPARENT).always(),
    M::text("MutualTLSMode"),
    M::object("MeshGateway", &MODE).always(),
    M::object("Expose", &EXPOSE).always(),
    M::object(
        "AccessLogs",
        &Shape(&[
            M::flag("Enabled"),
            M::flag("DisableListenerLogs"),
            M::text("Type"),
            M::text("Path"),
            M::text("JSONFormat"),
            M::text("TextFormat"),
        ]),
    )
    .always(),
    M::list("EnvoyExtensions", &EXTENSION),
    M::object("FailoverPolicy", &Shape(&[M::text("Mode"), M::lines("Regions")])),
    M::object("PrioritizeByLocality", &MODE),
    M::texts("Meta"),
]);

static SERVICE_RESOLVER: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name"),
    M::text("DefaultSubset"),
    M::map("Subsets", &Shape(&[M::text("Filter"), M::flag("OnlyPassing")])),
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
            M::lines("Datacenters"),
            M::list("Targets", &SERVICE_RESOLVER_TARGET),
            M::object("Policy", &Shape(&[M::text("Mode"), M::lines("Regions")])),
            M::text("SamenessGroup"),
        ]),
    ),
    M::object("PrioritizeByLocality", &MODE),
    M::time("ConnectTimeout"),
    M::time("RequestTimeout"),
    M::object(
        "LoadBalancer",
        &Shape(&[
            M::text("Policy"),
            M::object(
                "RingHashConfig",
                &Shape(&[M::unsigned("MinimumRingSize", 64), M::unsigned("MaximumRingSize", 64)]),
            ),
            M::object("LeastRequestConfig", &Shape(&[M::unsigned("ChoiceCount", 32)])),
            M::list("HashPolicies", &HASH_POLICY),
        ]),
    ),
    M::texts("Meta"),
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
    M::object("CookieConfig", &Shape(&[M::flag("Session"), M::nanos("TTL"), M::text("Path")])),
    M::flag("SourceIP"),
    M::flag("Terminal"),
]);

static HEADERS: Shape = Shape(&[M::texts("Add"), M::texts("Set"), M::lines("Remove")]);

static SERVICE_SPLITTER: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name"),
    M::list(
        "Splits",
        &Shape(&[
            M::float("Weight").always(),
            M::text("Service"),
            M::text("ServiceSubset"),
            M::text("Namespace"),
            M::text("Partition"),
            M::object("RequestHeaders", &HEADERS),
            M::object("ResponseHeaders", &HEADERS),
        ]),
    )
    .always(),
    M::texts("Meta"),
]);

static HTTP_HEADER: Shape = Shape(&[
    M::text("Name"),
    M::flag("Present"),
    M::text("Exact"),
    M::text("Prefix"),
    M::text("Suffix"),
    M::text("Contains"),
    M::text("Regex"),
    M::flag("Invert"),
    M::flag("IgnoreCase"),
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
    M::texts("Meta"),
]);

static ROUTE_MATCH: Shape = Shape(&[
    M::text("PathExact"),
    M::text("PathPrefix"),
    M::text("PathRegex"),
    M::flag("CaseInsensitive"),
    M::list("Header", &HTTP_HEADER),
    M::list(
        "QueryParam",
        &Shape(&[M::text("Name"), M::flag("Present"), M::text("Exact"), M::text("Regex")]),
    ),
    M::lines("Methods"),
]);

static ROUTE_DESTINATION: Shape = Shape(&[
    M::time("RequestTimeout"),
    M::time("IdleTimeout"),
    M::text("Service"),
    M::text("ServiceSubset"),
    M::text("Namespace"),
    M::text("Partition"),
    M::text("PrefixRewrite"),
    M::unsigned("NumRetries", 32),
    M::flag("RetryOnConnectFailure"),
    M::lines("RetryOn"),
    M::counts("RetryOnStatusCodes"),
    M::object("RequestHeaders", &HEADERS),
    M::object("ResponseHeaders", &HEADERS),
]);

static SERVICE_INTENTIONS: Shape = Shape(&[
    M::text("Kind"),
    M::text("Name"),
    M::object("JWT", &JWT),
    M::pointers(
        "Sources",
        &Shape(&[
            M::text("Name"),
            M::text("Peer"),
            M::text("Partition"),
            M::text("SamenessGroup"),
            M::text("Action"),
            M::pointers(
                "Permissions",
                &Shape(&[
                    M::text("Action"),
                    M::object("HTTP", &INTENTION_HTTP),
                    M::object("JWT", &JWT),
                ]),
            ),
            M::count("Precedence"),
            M::text("LegacyID"),
            M::text("Type"),
            M::text("Description"),
            M::texts("LegacyMeta"),
            M::text("LegacyCreateTime"),
            M::text("LegacyUpdateTime"),
        ]),
    ),
    M::texts("Meta"),
]);

static JWT: Shape = Shape(&[M::pointers(
    "Providers",
    &Shape(&[
        M::text("Name"),
        M::pointers("VerifyClaims", &Shape(&[M::lines("Path"), M::text("Value")])),
    ]),
)]);

static INTENTION_HTTP: Shape = Shape(&[
    M::text("PathExact"),
    M::text("PathPrefix"),
    M::text("PathRegex"),
    M::list("Header", &HTTP_HEADER),
    M::lines("Methods"),
]);
