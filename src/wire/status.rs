//! The servers' Raft status: `/v1/status`.

use super::table::*;

const DC: &[Param] = &[query("dc", "dc", Shape::Text, "The datacenter; default: the agent's own.")];

/// The Raft leader's address.
pub static LEADER: Endpoint = Endpoint {
    options: &[DC],
    ..Endpoint::read(
        "status_leader",
        "/v1/status/leader",
        "The Raft leader's address, as \"ip:port\"; empty when there is none.",
    )
};

/// The Raft peers' addresses.
pub static PEERS: Endpoint = Endpoint {
    options: &[DC],
    ..Endpoint::read("status_peers", "/v1/status/peers", "The addresses of all Raft peers.")
};

/// This area's rows.
pub const ENDPOINTS: &[&Endpoint] = &[&LEADER, &PEERS];
