//! Operating the servers: `/v1/operator`, `/v1/snapshot`.

use crate::table::*;

const DC: &[Param] = &[SCOPE[0]];
const STALE: &[Param] = &[CONSISTENCY[0]];
const KEY: &[Field] = &[field("Key", Shape::Text, "the gossip key, base64")];
const RING: &[Param] = &[query(
    "relay_factor",
    "relay-factor",
    Shape::Uint,
    "The number of nodes that relay each answer, 0 to 5.",
)];
const KEY_BODY: Param = body("key", Shape::Object(KEY), "The key.");
const AUTOPILOT: FreeForm = FreeForm {
    durations: &["LastContactThreshold", "ServerStabilizationTime"],
    ..FreeForm::UNKNOWN
};
const CONFIGURATION: Param = body("configuration", Shape::Free(&AUTOPILOT), "The configuration.");
const CAS: &[Param] =
    &[query("cas", "cas", Shape::Uint, "Write only if it has this modify index.")
        .guards("it has another modify index")];
/// Here 429 means unhealthy.
const UNHEALTHY: &[u16] = &[429];

pub static RAFT_CONFIGURATION: Endpoint = Endpoint {
    form: Form::Object(&[
        has(
            "Servers",
            Form::List(&Form::Object(&[has("ID", Form::Text), has("Address", Form::Text)])),
        ),
        has("Index", Form::Number),
    ]),
    options: &[STALE, DC],
    ..Endpoint::read(
        "operator_raft_configuration",
        "/v1/operator/raft/configuration",
        "The Raft peers.",
    )
};

pub static RAFT_PEER_REMOVE: Endpoint = Endpoint {
    method: Verb::Delete,
    options: &[
        &[
            query("id", "id", Shape::Text, "The peer's id."),
            query("address", "address", Shape::Text, "The peer's address."),
        ],
        DC,
    ],
    ..Endpoint::write(
        "operator_raft_peer_delete",
        "/v1/operator/raft/peer",
        "Removes a Raft peer, by id or address.",
    )
};

pub static TRANSFER_LEADER: Endpoint = Endpoint {
    form: Form::Object(&[has("Success", Form::Bool)]),
    missing: &["Failed to transfer Leader: "],
    method: Verb::Post,
    options: &[&[query("id", "id", Shape::Text, "The server to move to.")], DC],
    repeat: Repeat::Once,
    reply: Reply::Json,
    since: Some("1.15"),
    ..Endpoint::write(
        "operator_raft_transfer_leader",
        "/v1/operator/raft/transfer-leader",
        "Moves the Raft leadership to another server.",
    )
};

pub static AUTOPILOT_CONFIGURATION: Endpoint = Endpoint {
    form: Form::Object(&[has("CleanupDeadServers", Form::Bool), has("ModifyIndex", Form::Number)]),
    options: &[STALE, DC],
    ..Endpoint::read(
        "operator_autopilot_configuration",
        "/v1/operator/autopilot/configuration",
        "The configuration of autopilot.",
    )
};

pub static AUTOPILOT_CONFIGURATION_UPDATE: Endpoint = Endpoint {
    positional: &[CONFIGURATION],
    options: &[CAS, DC],
    reply: Reply::Applied,
    ..Endpoint::write(
        "operator_autopilot_configuration_update",
        "/v1/operator/autopilot/configuration",
        "Replaces the configuration of autopilot.",
    )
};

pub static AUTOPILOT_HEALTH: Endpoint = Endpoint {
    form: Form::Object(&[
        has("Healthy", Form::Bool),
        has("Servers", Form::OrNull(&Form::List(&Form::Object(&[has("ID", Form::Text)])))),
    ]),
    options: &[DC],
    also_success: UNHEALTHY,
    ..Endpoint::read(
        "operator_autopilot_health",
        "/v1/operator/autopilot/health",
        "The health of the servers.",
    )
};

pub static AUTOPILOT_STATE: Endpoint = Endpoint {
    form: Form::Object(&[
        has("Healthy", Form::Bool),
        has("Servers", Form::OrNull(&Form::Map(&Form::Object(&[has("ID", Form::Text)])))),
    ]),
    options: &[STALE, DC],
    since: Some("1.9"),
    ..Endpoint::read(
        "operator_autopilot_state",
        "/v1/operator/autopilot/state",
        "The state of autopilot.",
    )
};

pub static KEYRING_LIST: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[
        has("Datacenter", Form::Text),
        has("Keys", Form::OrNull(&Form::Map(&Form::Number))),
    ])),
    options: &[
        &[query("local_only", "local-only", Shape::Bool, "Only the keys of this agent.")],
        RING,
    ],
    secret: true,
    ..Endpoint::read("operator_keyring_list", "/v1/operator/keyring", "Lists the gossip keys.")
};

pub static KEYRING_INSTALL: Endpoint = Endpoint {
    method: Verb::Post,
    positional: &[KEY_BODY],
    options: &[RING],
    ..Endpoint::write("operator_keyring_install", "/v1/operator/keyring", "Adds a gossip key.")
};

pub static KEYRING_USE: Endpoint = Endpoint {
    positional: &[KEY_BODY],
    options: &[RING],
    ..Endpoint::write(
        "operator_keyring_use",
        "/v1/operator/keyring",
        "Selects the gossip key to encrypt with.",
    )
};

pub static KEYRING_REMOVE: Endpoint = Endpoint {
    method: Verb::Delete,
    positional: &[KEY_BODY],
    options: &[RING],
    ..Endpoint::write("operator_keyring_remove", "/v1/operator/keyring", "Removes a gossip key.")
};

pub static USAGE: Endpoint = Endpoint {
    form: Form::Object(&[has("Usage", Form::Map(&Form::Any))]),
    options: &[&[query("global", "global", Shape::Flag, "Of all datacenters.")], STALE, DC],
    since: Some("1.15"),
    ..Endpoint::read(
        "operator_usage",
        "/v1/operator/usage",
        "The numbers of nodes, services and instances.",
    )
};

pub static SNAPSHOT_SAVE: Endpoint = Endpoint {
    options: &[STALE, DC],
    reply: Reply::Archive,
    secret: true,
    ..Endpoint::read("snapshot_save", "/v1/snapshot", "The servers' whole state as bytes (gzip).")
};

pub static SNAPSHOT_RESTORE: Endpoint = Endpoint {
    positional: &[body("snapshot", Shape::Payload, "The bytes that snapshot_save returned.")],
    options: &[DC],
    repeat: Repeat::Once,
    ..Endpoint::write("snapshot_restore", "/v1/snapshot", "Replaces the servers' whole state.")
};

pub const ENDPOINTS: &[&Endpoint] = &[
    &RAFT_CONFIGURATION,
    &RAFT_PEER_REMOVE,
    &TRANSFER_LEADER,
    &AUTOPILOT_CONFIGURATION,
    &AUTOPILOT_CONFIGURATION_UPDATE,
    &AUTOPILOT_HEALTH,
    &AUTOPILOT_STATE,
    &KEYRING_LIST,
    &KEYRING_INSTALL,
    &KEYRING_USE,
    &KEYRING_REMOVE,
    &USAGE,
    &SNAPSHOT_SAVE,
    &SNAPSHOT_RESTORE,
];
