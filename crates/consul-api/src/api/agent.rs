//! The local agent's services and checks: `/v1/agent`.

use super::catalog::PASSIVE_HEALTH_CHECK;
use crate::table::*;

pub const STATUSES: &[&str] = &["passing", "warning", "critical"];

pub const WEIGHTS: &[Field] = &[
    field("Passing", Shape::Uint, "the weight while all checks pass; default 1"),
    field("Warning", Shape::Uint, "the weight while a check warns; default 1"),
];

pub const ADDRESSES: &[Field] =
    &[field("Address", Shape::Text, "the address"), field("Port", Shape::Port, "the port")];

/// The fields of every definition of a check; `id_field` is the name of the field with its id.
const fn check_fields(id_field: &'static str) -> [Field; 33] {
    [
        field(id_field, Shape::Name, "the check's id"),
        field("Name", Shape::Name, "its name"),
        field("Notes", Shape::TextOrEmpty, "a description"),
        field("Status", Shape::OneOf(STATUSES), "the initial state; default critical"),
        field("TTL", DURATION, "critical if it is not updated for this long"),
        field("Interval", DURATION, "how often it runs"),
        field("Timeout", DURATION, "the time limit of one run; default 10 s"),
        field("HTTP", Shape::Text, "a URL to request"),
        field("Method", Shape::Text, "the HTTP method; default GET"),
        field("Header", Shape::TextListMap, "HTTP headers"),
        field("Body", Shape::TextOrEmpty, "the HTTP body"),
        field("DisableRedirects", Shape::Bool, "do not follow redirects: a redirect is critical"),
        field("TCP", Shape::Text, "an address to connect to, host:port"),
        field("TCPUseTLS", Shape::Bool, "use TLS (from 1.16)"),
        field("UDP", Shape::Text, "an address to send a datagram to (from 1.13)"),
        field("GRPC", Shape::Text, "a gRPC health service, host:port/service"),
        field("GRPCUseTLS", Shape::Bool, "use TLS"),
        field("H2PING", Shape::Text, "an address to ping with HTTP/2 (from 1.10)"),
        field("H2PingUseTLS", Shape::Bool, "use TLS"),
        field("OSService", Shape::Text, "an operating system service (from 1.14)"),
        field("Args", Shape::TextList, "a command to run, if the agent allows scripts"),
        field("DockerContainerID", Shape::Text, "the container to run the command in"),
        field("Shell", Shape::Text, "the shell to run it with"),
        field("AliasNode", Shape::Text, "mirror this node's state"),
        field("AliasService", Shape::Text, "mirror this instance's state"),
        field("TLSServerName", Shape::Text, "the host name that the certificate must be for"),
        field("TLSSkipVerify", Shape::Bool, "do not verify the certificate"),
        field(
            "OutputMaxSize",
            Shape::Uint,
            "the most bytes of output that are stored; default 4096",
        ),
        field(
            "SuccessBeforePassing",
            Shape::Uint,
            "the number of successes in a row before it is passing",
        ),
        field(
            "FailuresBeforeWarning",
            Shape::Uint,
            "the number of failures in a row before it is warning",
        ),
        field(
            "FailuresBeforeCritical",
            Shape::Uint,
            "the number of failures in a row before it is critical",
        ),
        field(
            "DeregisterCriticalServiceAfter",
            DURATION,
            "deregister the instance after it was critical for this long; at least 1 minute",
        ),
        field("Namespace", Shape::Text, "the namespace (Consul Enterprise)"),
    ]
}

const EMBEDDED_CHECK: &[Field] = &check_fields("CheckID");

/// Of a proxy and of a sidecar, which is a service.
///
/// Source: `AgentServiceConnectProxyConfig` and `AgentServiceRegistration` in Consul's folder api.
const MESH: FreeForm = FreeForm {
    durations: &[
        "BaseEjectionTime",
        "DeregisterCriticalServiceAfter",
        "Interval",
        "TTL",
        "Timeout",
    ],
    // The program's own value there, as Consul keeps it.
    answered_in_nanoseconds: PASSIVE_HEALTH_CHECK,
    nanoseconds: &[],
    lists: &[
        "Args",
        "Checks",
        "EnvoyExtensions",
        "Header.*",
        "Paths",
        "SNI",
        "ScriptArgs",
        "SpiffeID",
        "Tags",
        "Upstreams",
    ],
    names: &[
        "Check.CheckID",
        "Check.Name",
        "Checks.CheckID",
        "Checks.Name",
        "SidecarService.ID",
        "SidecarService.Name",
    ],
    by_name: &["Header", "TaggedAddresses"],
    kept: &["Config"],
    opaque: &["Arguments", "Meta"],
};

const SERVICE_DEFINITION: &[Field] = &[
    field("Name", Shape::Name, "the service's name"),
    field("ID", Shape::Name, "the instance's id; default: its name"),
    field("Tags", Shape::TextList, "tags"),
    field("Meta", Shape::TextMap, "metadata, up to 64 pairs"),
    field("Address", Shape::TextOrEmpty, "the address; default: the agent's"),
    field("Port", Shape::Port, "the port"),
    field("SocketPath", Shape::Text, "a unix socket instead of a port (from 1.10)"),
    field("TaggedAddresses", Shape::ObjectMap(ADDRESSES), "other addresses, by name"),
    field("Weights", Shape::Object(WEIGHTS), "its weights"),
    field("EnableTagOverride", Shape::Bool, "whether the catalog may change the tags"),
    field("Check", Shape::Object(EMBEDDED_CHECK), "its check"),
    field("Checks", Shape::Objects(EMBEDDED_CHECK), "several checks"),
    field("Kind", Shape::TextOrEmpty, "the kind of mesh service"),
    field("Proxy", Shape::Free(&MESH), "the definition of a mesh proxy"),
    field("Connect", Shape::Free(&MESH), "the mesh configuration"),
    field("Locality", Shape::Free(&FreeForm::UNKNOWN), "region and zone (from 1.16)"),
    field("Namespace", Shape::Text, "the namespace (Consul Enterprise)"),
    field("Partition", Shape::Text, "the admin partition (Consul Enterprise)"),
];

const OWN_CHECK: [Field; 33] = check_fields("ID");

const CHECK_DEFINITION: &[Field] = &{
    let mut fields = [const {
        field("ServiceID", Shape::Text, "the instance that the check is for; default: the node")
    }; 34];
    let mut place = 0;
    while place < OWN_CHECK.len() {
        fields[place + 1] = OWN_CHECK[place];
        place += 1;
    }
    fields
};

const CHECK_UPDATE: &[Field] = &[
    field("Status", Shape::OneOf(STATUSES), "the state"),
    field("Output", Shape::TextOrEmpty, "the output of the check"),
];

const SERVICE_ID: Param =
    path("service_id", Shape::Text, "The instance's id (not the service's name).");
const CHECK_ID: Param = path("check_id", Shape::Text, "The check's id (not its name).");
const NOTE: &[Param] = &[query("note", "note", Shape::Text, "The output of the check.")];
const ENTERPRISE: &[Param] = &[
    query("namespace", "ns", Shape::Text, "The namespace (Consul Enterprise)."),
    query("partition", "partition", Shape::Text, "The admin partition (Consul Enterprise)."),
];

const ENABLE: &[Param] =
    &[Param::new("enable", Shape::Bool, Location::Query("enable"), "True: on; false: off.")];
const REASON: &[Param] = &[query("reason", "reason", Shape::Text, "The reason, as a text.")];

const TOKEN: &[Field] =
    &[field("Token", Shape::TextOrEmpty, "the token's secret; empty: no token")];

const AUTHORIZATION: &[Field] = &[
    field("Target", Shape::Text, "the called service"),
    field("ClientCertURI", Shape::Text, "the caller's certificate's URI"),
    field("ClientCertSerial", Shape::Text, "the caller's certificate's serial number"),
];

/// How the 404 about an unknown instance begins.
const UNKNOWN_SERVICE: &[&str] = &["Unknown service", "No service registered with ID"];

/// Of updates: the second is of checks without a TTL too, which 1.8.7 tells by the same text.
const UNKNOWN_CHECK: &[&str] = &["Unknown check", "CheckID \""];

/// A read that the agent answers by itself.
const fn read(name: &'static str, path: &'static str, doc: &'static str) -> Endpoint {
    Endpoint { local: true, ..Endpoint::read(name, path, doc) }
}

/// A write that the agent does by itself.
const fn write(name: &'static str, path: &'static str, doc: &'static str) -> Endpoint {
    Endpoint { local: true, ..Endpoint::write(name, path, doc) }
}

pub static SELF: Endpoint = Endpoint {
    form: Form::Object(&[
        has("Config", Form::Object(&[has("NodeName", Form::Text)])),
        has("Member", Form::Object(&[has("Name", Form::Text)])),
    ]),
    ..read("agent_self", "/v1/agent/self", "The agent's configuration and state.")
};

pub static SERVICES: Endpoint = Endpoint {
    form: Form::Map(&Form::Object(&[has("ID", Form::Text), has("Service", Form::Text)])),
    options: &[ENTERPRISE],
    filter: Some(Entries::AgentService),
    ..read(
        "agent_services",
        "/v1/agent/services",
        "The instances registered with this agent, by id.",
    )
};

pub static SERVICE: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Name), has("Service", Form::Text)]),
    missing: &["unknown service ID: "],
    positional: &[SERVICE_ID],
    options: &[
        &[
            query("hash", "hash", Shape::Text, "Wait until the content hash is not this one."),
            BLOCKING_WAIT,
        ],
        ENTERPRISE,
    ],
    absent: Absent::Null,
    ..read(
        "agent_service",
        "/v1/agent/service/{service_id}",
        "Reads one instance of this agent; nil if it does not exist.",
    )
};

const BLOCKING_WAIT: Param = query(
    "wait",
    "wait",
    Shape::Duration { min_s: 0, max_s: 600 },
    "The longest wait; Consul adds up to a sixteenth. Default 5 minutes.",
);

pub static CHECKS: Endpoint = Endpoint {
    form: Form::Map(&Form::Object(&[has("CheckID", Form::Text), has("Status", Form::Text)])),
    options: &[ENTERPRISE],
    filter: Some(Entries::AgentCheck),
    ..read("agent_checks", "/v1/agent/checks", "The checks registered with this agent, by id.")
};

pub static SERVICE_REGISTER: Endpoint = Endpoint {
    positional: &[body("definition", Shape::Object(SERVICE_DEFINITION), "The instance.")],
    options: &[
        &[query(
            "replace_existing_checks",
            "replace-existing-checks",
            Shape::Flag,
            "Remove the instance's checks that the definition does not name.",
        )],
        ENTERPRISE,
    ],
    ..write(
        "agent_service_register",
        "/v1/agent/service/register",
        "Registers an instance with this agent, or changes it.",
    )
};

pub static SERVICE_DEREGISTER: Endpoint = Endpoint {
    missing: UNKNOWN_SERVICE,
    positional: &[SERVICE_ID],
    options: &[ENTERPRISE],
    absent: Absent::Done,
    ..write(
        "agent_service_deregister",
        "/v1/agent/service/deregister/{service_id}",
        "Removes an instance and its checks from this agent; succeeds also if it does not exist.",
    )
};

pub static CHECK_REGISTER: Endpoint = Endpoint {
    missing: &["ServiceID "],
    positional: &[body("definition", Shape::Object(CHECK_DEFINITION), "The check.")],
    options: &[ENTERPRISE],
    ..write(
        "agent_check_register",
        "/v1/agent/check/register",
        "Registers a check with this agent, or changes it.",
    )
};

pub static CHECK_DEREGISTER: Endpoint = Endpoint {
    missing: &["Unknown check"],
    positional: &[CHECK_ID],
    options: &[ENTERPRISE],
    absent: Absent::Done,
    ..write(
        "agent_check_deregister",
        "/v1/agent/check/deregister/{check_id}",
        "Removes a check from this agent; succeeds also if it does not exist.",
    )
};

pub static CHECK_PASS: Endpoint = Endpoint {
    missing: UNKNOWN_CHECK,
    positional: &[CHECK_ID],
    options: &[NOTE, ENTERPRISE],
    ..write(
        "agent_check_pass",
        "/v1/agent/check/pass/{check_id}",
        "Sets a TTL check to passing and restarts its TTL.",
    )
};

pub static CHECK_WARN: Endpoint = Endpoint {
    missing: UNKNOWN_CHECK,
    positional: &[CHECK_ID],
    options: &[NOTE, ENTERPRISE],
    ..write(
        "agent_check_warn",
        "/v1/agent/check/warn/{check_id}",
        "Sets a TTL check to warning and restarts its TTL.",
    )
};

pub static CHECK_FAIL: Endpoint = Endpoint {
    missing: UNKNOWN_CHECK,
    positional: &[CHECK_ID],
    options: &[NOTE, ENTERPRISE],
    ..write(
        "agent_check_fail",
        "/v1/agent/check/fail/{check_id}",
        "Sets a TTL check to critical and restarts its TTL.",
    )
};

pub static CHECK_UPDATE_STATUS: Endpoint = Endpoint {
    missing: UNKNOWN_CHECK,
    positional: &[
        CHECK_ID,
        body("update", Shape::Object(CHECK_UPDATE), "The state and the output."),
    ],
    options: &[ENTERPRISE],
    ..write(
        "agent_check_update",
        "/v1/agent/check/update/{check_id}",
        "Sets a TTL check to a state and restarts its TTL.",
    )
};

pub static HEALTH_SERVICE_ID: Endpoint = Endpoint {
    form: Form::Object(&[
        has("AggregatedStatus", Form::Text),
        has("Service", Form::Object(&[has("ID", Form::Name)])),
    ]),
    missing: &["ServiceId "],
    positional: &[SERVICE_ID],
    options: &[ENTERPRISE],
    absent: Absent::Null,
    also_success: HEALTH_STATUSES,
    ..read(
        "agent_health_service_id",
        "/v1/agent/health/service/id/{service_id}",
        "The aggregated health of one instance of this agent; nil if it does not exist.",
    )
};

pub static HEALTH_SERVICE_NAME: Endpoint = Endpoint {
    form: Form::Some(&Form::List(&Form::Object(&[
        has("AggregatedStatus", Form::Text),
        has("Service", Form::Object(&[has("Service", Form::Name)])),
    ]))),
    missing: &["ServiceName "],
    positional: &[path("service", Shape::Text, "The service's name.")],
    options: &[ENTERPRISE],
    absent: Absent::EmptyList,
    also_success: HEALTH_STATUSES,
    ..read(
        "agent_health_service_name",
        "/v1/agent/health/service/name/{service}",
        "The aggregated health of this agent's instances of a service.",
    )
};

/// Here 429 means warning and 503 critical.
const HEALTH_STATUSES: &[u16] = &[429, 503];

pub static SERVICE_MAINTENANCE: Endpoint = Endpoint {
    missing: UNKNOWN_SERVICE,
    positional: &[SERVICE_ID, ENABLE[0]],
    options: &[REASON, ENTERPRISE],
    ..write(
        "agent_service_maintenance",
        "/v1/agent/service/maintenance/{service_id}",
        "Turns the maintenance mode of an instance on or off: a critical check.",
    )
};

pub static MAINTENANCE: Endpoint = Endpoint {
    positional: ENABLE,
    options: &[REASON],
    ..write(
        "agent_maintenance",
        "/v1/agent/maintenance",
        "Turns the maintenance mode of the node on or off: a critical check.",
    )
};

pub static MEMBERS: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("Name", Form::Text), has("Addr", Form::Text)])),
    options: &[&[
        // The server only checks whether the value is empty.
        query("wan", "wan=1", Shape::Flag, "The pool of servers of all datacenters."),
        query("segment", "segment", Shape::Text, "The network segment (Consul Enterprise)."),
    ]],
    filter: Some(Entries::Member),
    enterprise: Enterprise::OfMembers,
    ..read("agent_members", "/v1/agent/members", "The members of the gossip pool.")
};

pub static METRICS: Endpoint = Endpoint {
    form: Form::Object(&[
        has("Timestamp", Form::Text),
        has("Gauges", Form::OrNull(&Form::List(&Form::Any))),
    ]),
    ..read("agent_metrics", "/v1/agent/metrics", "The agent's metrics of the last interval.")
};

pub static HOST: Endpoint = Endpoint {
    form: Form::Object(&[has("Memory", Form::Any), has("CPU", Form::Any), has("Host", Form::Any)]),
    ..read("agent_host", "/v1/agent/host", "The agent's host: memory, processors, disks.")
};

pub static VERSION: Endpoint = Endpoint {
    form: Form::Object(&[has("SHA", Form::Text), has("HumanVersion", Form::Text)]),
    since: Some("1.16"),
    ..read("agent_version", "/v1/agent/version", "The agent's version.")
};

pub static RELOAD: Endpoint = write(
    "agent_reload",
    "/v1/agent/reload",
    "Makes the agent read its configuration files again.",
);

pub static JOIN: Endpoint = Endpoint {
    positional: &[path("address", Shape::Text, "The address of a member.")],
    options: &[&[query(
        "wan",
        "wan=1",
        Shape::Flag,
        "Join the pool of servers of all datacenters.",
    )]],
    ..write("agent_join", "/v1/agent/join/{address}", "Makes the agent join a cluster.")
};

pub static LEAVE: Endpoint = Endpoint {
    repeat: Repeat::Once,
    ..write("agent_leave", "/v1/agent/leave", "Makes the agent leave the cluster and exit.")
};

pub static FORCE_LEAVE: Endpoint = Endpoint {
    positional: &[path("node", Shape::Text, "The member's name.")],
    options: &[&[
        query("prune", "prune", Shape::Flag, "Remove the member from the list, too."),
        query("wan", "wan", Shape::Flag, "In the pool of servers of all datacenters (from 1.11)."),
    ]],
    enterprise: Enterprise::OfMembers,
    ..write("agent_force_leave", "/v1/agent/force-leave/{node}", "Marks a failed member as left.")
};

pub static TOKEN_UPDATE: Endpoint = Endpoint {
    missing: &["Token \""],
    positional: &[
        path(
            "kind",
            Shape::Segment,
            "Which token: default, agent, agent_recovery, replication and others.",
        ),
        body("token", Shape::Object(TOKEN), "The token."),
    ],
    needs_acl: true,
    ..write("agent_token", "/v1/agent/token/{kind}", "Sets one of the agent's own tokens.")
};

pub static CONNECT_AUTHORIZE: Endpoint = Endpoint {
    form: Form::Object(&[has("Authorized", Form::Bool)]),
    method: Verb::Post,
    positional: &[body("connection", Shape::Object(AUTHORIZATION), "The connection.")],
    options: &[ENTERPRISE],
    repeat: Repeat::Read,
    ..read(
        "agent_connect_authorize",
        "/v1/agent/connect/authorize",
        "Reports whether a mesh connection is allowed.",
    )
};

pub static CONNECT_CA_ROOTS: Endpoint = Endpoint {
    form: Form::Object(&[
        has("ActiveRootID", Form::Text),
        has("Roots", Form::OrNull(&Form::List(&Form::Object(&[has("ID", Form::Text)])))),
    ]),
    options: &[&[SCOPE[0]], BLOCKING],
    ..read(
        "agent_connect_ca_roots",
        "/v1/agent/connect/ca/roots",
        "The mesh's root certificates, from the agent's cache.",
    )
};

pub static CONNECT_CA_LEAF: Endpoint = Endpoint {
    form: Form::Object(&[
        has("SerialNumber", Form::Text),
        has("CertPEM", Form::Text),
        has("Service", Form::Name),
    ]),
    positional: &[path("service", Shape::Text, "The service's name.")],
    options: &[ENTERPRISE, BLOCKING],
    secret: true,
    ..read(
        "agent_connect_ca_leaf",
        "/v1/agent/connect/ca/leaf/{service}",
        "A service's mesh certificate with its private key.",
    )
};

pub const ENDPOINTS: &[&Endpoint] = &[
    &SELF,
    &SERVICES,
    &SERVICE,
    &CHECKS,
    &SERVICE_REGISTER,
    &SERVICE_DEREGISTER,
    &CHECK_REGISTER,
    &CHECK_DEREGISTER,
    &CHECK_PASS,
    &CHECK_WARN,
    &CHECK_FAIL,
    &CHECK_UPDATE_STATUS,
    &HEALTH_SERVICE_ID,
    &HEALTH_SERVICE_NAME,
    &SERVICE_MAINTENANCE,
    &MAINTENANCE,
    &MEMBERS,
    &METRICS,
    &HOST,
    &VERSION,
    &RELOAD,
    &JOIN,
    &LEAVE,
    &FORCE_LEAVE,
    &TOKEN_UPDATE,
    &CONNECT_AUTHORIZE,
    &CONNECT_CA_ROOTS,
    &CONNECT_CA_LEAF,
];
