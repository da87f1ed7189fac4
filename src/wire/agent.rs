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
];
