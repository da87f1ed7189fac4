//! The local agent's services and checks: `/v1/agent`.

use super::table::*;

/// The states of a check.
pub const STATUSES: &[&str] = &["passing", "warning", "critical"];

/// The weights of an instance.
pub const WEIGHTS: &[Field] = &[
    field("Passing", Shape::Uint, "while its checks pass; default 1"),
    field("Warning", Shape::Uint, "while a check warns; default 1"),
];

/// One of an instance's further addresses.
pub const ADDRESSES: &[Field] =
    &[field("Address", Shape::Text, "the address"), field("Port", Shape::Int, "the port")];

/// What every definition of a check can say; `id_field` is the id's name in it.
const fn check_fields(id_field: &'static str) -> [Field; 33] {
    [
        field(id_field, Shape::Text, "the check's id"),
        field("Name", Shape::Text, "its name"),
        field("Notes", Shape::TextOrEmpty, "a note for people"),
        field("Status", Shape::OneOf(STATUSES), "its state at first; default critical"),
        field("TTL", DURATION, "critical when not updated for this long"),
        field("Interval", DURATION, "how often it runs"),
        field("Timeout", DURATION, "how long one run may take; default 10 s"),
        field("HTTP", Shape::Text, "a URL to ask"),
        field("Method", Shape::Text, "the HTTP method; default GET"),
        field("Header", Shape::TextListMap, "HTTP headers"),
        field("Body", Shape::TextOrEmpty, "the HTTP body"),
        field("DisableRedirects", Shape::Bool, "a redirect is a warning"),
        field("TCP", Shape::Text, "an address to connect to, host:port"),
        field("TCPUseTLS", Shape::Bool, "with TLS (from 1.16)"),
        field("UDP", Shape::Text, "an address to send a datagram to (from 1.13)"),
        field("GRPC", Shape::Text, "a gRPC health service, host:port/service"),
        field("GRPCUseTLS", Shape::Bool, "with TLS"),
        field("H2PING", Shape::Text, "an address to ping with HTTP/2 (from 1.10)"),
        field("H2PingUseTLS", Shape::Bool, "with TLS"),
        field("OSService", Shape::Text, "an operating system service (from 1.14)"),
        field("Args", Shape::TextList, "a command to run, where the agent allows scripts"),
        field("DockerContainerID", Shape::Text, "the container to run the command in"),
        field("Shell", Shape::Text, "the shell to run it with"),
        field("AliasNode", Shape::Text, "mirror this node's state"),
        field("AliasService", Shape::Text, "mirror this instance's state"),
        field("TLSServerName", Shape::Text, "the name that the certificate must have"),
        field("TLSSkipVerify", Shape::Bool, "do not verify the certificate"),
        field("OutputMaxSize", Shape::Uint, "how many bytes of output are kept; default 4096"),
        field("SuccessBeforePassing", Shape::Uint, "successes in a row before it is passing"),
        field("FailuresBeforeWarning", Shape::Uint, "failures in a row before it is warning"),
        field("FailuresBeforeCritical", Shape::Uint, "failures in a row before it is critical"),
        field(
            "DeregisterCriticalServiceAfter",
            DURATION,
            "the instance goes after being critical this long; at least 1 minute",
        ),
        field("Namespace", Shape::Text, "the namespace (Consul Enterprise)"),
    ]
}

const EMBEDDED_CHECK: &[Field] = &check_fields("CheckID");

const SERVICE_DEFINITION: &[Field] = &[
    field("Name", Shape::Text, "the service's name"),
    field("ID", Shape::Text, "the instance's id; default: the name"),
    field("Tags", Shape::TextList, "tags"),
    field("Meta", Shape::TextMap, "metadata, at most 64 pairs"),
    field("Address", Shape::TextOrEmpty, "the address; default: the agent's"),
    field("Port", Shape::Int, "the port"),
    field("SocketPath", Shape::Text, "a unix socket instead of a port (from 1.10)"),
    field("TaggedAddresses", Shape::ObjectMap(ADDRESSES), "further addresses by name"),
    field("Weights", Shape::Object(WEIGHTS), "its weight among the instances"),
    field("EnableTagOverride", Shape::Bool, "others may change the tags"),
    field("Check", Shape::Object(EMBEDDED_CHECK), "its check"),
    field("Checks", Shape::Objects(EMBEDDED_CHECK), "several checks"),
    field("Kind", Shape::TextOrEmpty, "the kind of mesh service"),
    field("Proxy", Shape::Any, "the definition of a mesh proxy"),
    field("Connect", Shape::Any, "how it takes part in the mesh"),
    field("Locality", Shape::Any, "region and zone (from 1.16)"),
    field("Namespace", Shape::Text, "the namespace (Consul Enterprise)"),
    field("Partition", Shape::Text, "the admin partition (Consul Enterprise)"),
];

const OWN_CHECK: [Field; 33] = check_fields("ID");

const CHECK_DEFINITION: &[Field] = &{
    let mut fields =
        [const { field("ServiceID", Shape::Text, "the instance it belongs to; none: the node") };
            34];
    let mut place = 0;
    while place < OWN_CHECK.len() {
        fields[place + 1] = OWN_CHECK[place];
        place += 1;
    }
    fields
};

const CHECK_UPDATE: &[Field] = &[
    field("Status", Shape::OneOf(STATUSES), "the state"),
    field("Output", Shape::TextOrEmpty, "what the check says"),
];

const SERVICE_ID: Param =
    path("service_id", Shape::Text, "The instance's id (not the service's name).");
const CHECK_ID: Param = path("check_id", Shape::Text, "The check's id (not its name).");
const NOTE: &[Param] = &[query("note", "note", Shape::Text, "What the check says.")];
const ENTERPRISE: &[Param] = &[
    query("namespace", "ns", Shape::Text, "The namespace (Consul Enterprise)."),
    query("partition", "partition", Shape::Text, "The admin partition (Consul Enterprise)."),
];

const ENABLE: &[Param] = &[Param::new("enable", Shape::Bool, Place::Query("enable"), "On or off.")];
const REASON: &[Param] = &[query("reason", "reason", Shape::Text, "Why, for people.")];

const TOKEN: &[Field] = &[field("Token", Shape::TextOrEmpty, "the token's secret; empty: none")];

const AUTHORIZATION: &[Field] = &[
    field("Target", Shape::Text, "the service that is called"),
    field("ClientCertURI", Shape::Text, "the caller's certificate's URI"),
    field("ClientCertSerial", Shape::Text, "the caller's certificate's serial number"),
];

/// What the agent is and how it is configured.
pub static SELF: Endpoint =
    Endpoint::read("agent_self", "/v1/agent/self", "The agent's configuration and state.");

/// The agent's instances by id.
pub static SERVICES: Endpoint = Endpoint {
    options: &[FILTER, ENTERPRISE],
    ..Endpoint::read(
        "agent_services",
        "/v1/agent/services",
        "The instances registered with this agent, by id.",
    )
};

/// One instance.
pub static SERVICE: Endpoint = Endpoint {
    positional: &[SERVICE_ID],
    options: &[
        &[
            query(
                "hash",
                "hash",
                Shape::Text,
                "Wait until the content is other than this content hash.",
            ),
            BLOCKING_WAIT,
        ],
        ENTERPRISE,
    ],
    absent: Absent::Null,
    ..Endpoint::read(
        "agent_service",
        "/v1/agent/service/{service_id}",
        "Reads one instance of this agent; nil when it does not exist.",
    )
};

const BLOCKING_WAIT: Param = query(
    "wait",
    "wait",
    Shape::Duration { min_s: 0, max_s: 600 },
    "The longest wait; Consul adds up to a sixteenth. Default 5 minutes.",
);

/// The agent's checks by id.
pub static CHECKS: Endpoint = Endpoint {
    options: &[FILTER, ENTERPRISE],
    ..Endpoint::read(
        "agent_checks",
        "/v1/agent/checks",
        "The checks registered with this agent, by id.",
    )
};

/// Registers an instance.
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
    ..Endpoint::write(
        "agent_service_register",
        "/v1/agent/service/register",
        "Registers an instance with this agent, or changes it.",
    )
};

/// Removes an instance.
pub static SERVICE_DEREGISTER: Endpoint = Endpoint {
    positional: &[SERVICE_ID],
    options: &[ENTERPRISE],
    absent: Absent::Done,
    ..Endpoint::write(
        "agent_service_deregister",
        "/v1/agent/service/deregister/{service_id}",
        "Removes an instance and its checks from this agent; a missing one is gone already.",
    )
};

/// Registers a check.
pub static CHECK_REGISTER: Endpoint = Endpoint {
    positional: &[body("definition", Shape::Object(CHECK_DEFINITION), "The check.")],
    options: &[ENTERPRISE],
    ..Endpoint::write(
        "agent_check_register",
        "/v1/agent/check/register",
        "Registers a check with this agent, or changes it.",
    )
};

/// Removes a check.
pub static CHECK_DEREGISTER: Endpoint = Endpoint {
    positional: &[CHECK_ID],
    options: &[ENTERPRISE],
    absent: Absent::Done,
    ..Endpoint::write(
        "agent_check_deregister",
        "/v1/agent/check/deregister/{check_id}",
        "Removes a check from this agent; a missing one is gone already.",
    )
};

/// Sets a TTL check to passing.
pub static CHECK_PASS: Endpoint = Endpoint {
    positional: &[CHECK_ID],
    options: &[NOTE, ENTERPRISE],
    ..Endpoint::write(
        "agent_check_pass",
        "/v1/agent/check/pass/{check_id}",
        "Sets a TTL check to passing and starts its TTL anew.",
    )
};

/// Sets a TTL check to warning.
pub static CHECK_WARN: Endpoint = Endpoint {
    positional: &[CHECK_ID],
    options: &[NOTE, ENTERPRISE],
    ..Endpoint::write(
        "agent_check_warn",
        "/v1/agent/check/warn/{check_id}",
        "Sets a TTL check to warning and starts its TTL anew.",
    )
};

/// Sets a TTL check to critical.
pub static CHECK_FAIL: Endpoint = Endpoint {
    positional: &[CHECK_ID],
    options: &[NOTE, ENTERPRISE],
    ..Endpoint::write(
        "agent_check_fail",
        "/v1/agent/check/fail/{check_id}",
        "Sets a TTL check to critical and starts its TTL anew.",
    )
};

/// Sets a TTL check to a state.
pub static CHECK_UPDATE_STATUS: Endpoint = Endpoint {
    positional: &[
        CHECK_ID,
        body("update", Shape::Object(CHECK_UPDATE), "The state and what it says."),
    ],
    options: &[ENTERPRISE],
    ..Endpoint::write(
        "agent_check_update",
        "/v1/agent/check/update/{check_id}",
        "Sets a TTL check to a state and starts its TTL anew.",
    )
};

/// The health of one instance.
pub static HEALTH_SERVICE_ID: Endpoint = Endpoint {
    positional: &[SERVICE_ID],
    options: &[ENTERPRISE],
    absent: Absent::Null,
    also_success: HEALTH_STATUSES,
    ..Endpoint::read(
        "agent_health_service_id",
        "/v1/agent/health/service/id/{service_id}",
        "The aggregated health of one instance of this agent; nil when it does not exist.",
    )
};

/// The health of a service's instances.
pub static HEALTH_SERVICE_NAME: Endpoint = Endpoint {
    positional: &[path("service", Shape::Text, "The service's name.")],
    options: &[ENTERPRISE],
    absent: Absent::EmptyList,
    also_success: HEALTH_STATUSES,
    ..Endpoint::read(
        "agent_health_service_name",
        "/v1/agent/health/service/name/{service}",
        "The aggregated health of this agent's instances of a service.",
    )
};

/// Here 429 means warning and 503 critical.
const HEALTH_STATUSES: &[u16] = &[429, 503];

/// An instance's maintenance mode.
pub static SERVICE_MAINTENANCE: Endpoint = Endpoint {
    positional: &[SERVICE_ID, ENABLE[0]],
    options: &[REASON, ENTERPRISE],
    ..Endpoint::write(
        "agent_service_maintenance",
        "/v1/agent/service/maintenance/{service_id}",
        "Turns an instance's maintenance mode on or off: a critical check.",
    )
};

/// The node's maintenance mode.
pub static MAINTENANCE: Endpoint = Endpoint {
    positional: ENABLE,
    options: &[REASON],
    ..Endpoint::write(
        "agent_maintenance",
        "/v1/agent/maintenance",
        "Turns the node's maintenance mode on or off: a critical check.",
    )
};

/// The members of the gossip pool.
pub static MEMBERS: Endpoint = Endpoint {
    options: &[
        &[
            // The server looks at whether it is empty, not at what it says.
            query("wan", "wan=1", Shape::Flag, "The pool of servers of all datacenters."),
            query("segment", "segment", Shape::Text, "The network segment (Consul Enterprise)."),
        ],
        FILTER,
    ],
    ..Endpoint::read("agent_members", "/v1/agent/members", "The members of the gossip pool.")
};

/// The agent's metrics.
pub static METRICS: Endpoint = Endpoint::read(
    "agent_metrics",
    "/v1/agent/metrics",
    "The agent's metrics of the last interval.",
);

/// The agent's host.
pub static HOST: Endpoint =
    Endpoint::read("agent_host", "/v1/agent/host", "The agent's host: memory, processors, disks.");

/// The agent's version.
pub static VERSION: Endpoint = Endpoint {
    since: Some("1.16"),
    ..Endpoint::read("agent_version", "/v1/agent/version", "The agent's version.")
};

/// Reads the agent's configuration again.
pub static RELOAD: Endpoint = Endpoint::write(
    "agent_reload",
    "/v1/agent/reload",
    "Makes the agent read its configuration files again.",
);

/// Joins a cluster.
pub static JOIN: Endpoint = Endpoint {
    positional: &[path("address", Shape::Text, "The address of a member.")],
    options: &[&[query(
        "wan",
        "wan=1",
        Shape::Flag,
        "Join the pool of servers of all datacenters.",
    )]],
    ..Endpoint::write("agent_join", "/v1/agent/join/{address}", "Makes the agent join a cluster.")
};

/// Leaves the cluster.
pub static LEAVE: Endpoint = Endpoint {
    repeat: Repeat::Once,
    ..Endpoint::write(
        "agent_leave",
        "/v1/agent/leave",
        "Makes the agent leave the cluster and end.",
    )
};

/// Makes a failed member a left one.
pub static FORCE_LEAVE: Endpoint = Endpoint {
    positional: &[path("node", Shape::Text, "The member's name.")],
    options: &[&[
        query("prune", "prune", Shape::Flag, "Forget the member altogether."),
        query("wan", "wan", Shape::Flag, "In the pool of servers of all datacenters (from 1.11)."),
    ]],
    ..Endpoint::write(
        "agent_force_leave",
        "/v1/agent/force-leave/{node}",
        "Makes a failed member one that has left.",
    )
};

/// Sets one of the agent's own tokens.
pub static TOKEN_UPDATE: Endpoint = Endpoint {
    positional: &[
        path("kind", Shape::Text, "Which one: default, agent, agent_recovery, replication, ...."),
        body("token", Shape::Object(TOKEN), "The token."),
    ],
    ..Endpoint::write(
        "agent_token",
        "/v1/agent/token/{kind}",
        "Sets one of the agent's own tokens.",
    )
};

/// Whether a mesh connection is allowed.
pub static CONNECT_AUTHORIZE: Endpoint = Endpoint {
    method: Verb::Post,
    positional: &[body("connection", Shape::Object(AUTHORIZATION), "The connection.")],
    options: &[ENTERPRISE],
    repeat: Repeat::Read,
    ..Endpoint::read(
        "agent_connect_authorize",
        "/v1/agent/connect/authorize",
        "Whether a mesh connection is allowed.",
    )
};

/// The mesh's root certificates.
pub static CONNECT_CA_ROOTS: Endpoint = Endpoint {
    options: &[BLOCKING],
    ..Endpoint::read(
        "agent_connect_ca_roots",
        "/v1/agent/connect/ca/roots",
        "The mesh's root certificates, as the agent caches them.",
    )
};

/// A service's mesh certificate.
pub static CONNECT_CA_LEAF: Endpoint = Endpoint {
    positional: &[path("service", Shape::Text, "The service's name.")],
    options: &[ENTERPRISE, BLOCKING],
    ..Endpoint::read(
        "agent_connect_ca_leaf",
        "/v1/agent/connect/ca/leaf/{service}",
        "A service's mesh certificate with its private key.",
    )
};

/// This area's rows.
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
