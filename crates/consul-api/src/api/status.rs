//! The servers' Raft status: `/v1/status`.

use crate::table::*;

const DC: &[Param] = &[query("dc", "dc", Shape::Text, "The datacenter; default: the agent's own.")];

pub static LEADER: Endpoint = Endpoint {
    form: Form::Address,
    options: &[DC],
    ..Endpoint::read(
        "status_leader",
        "/v1/status/leader",
        "The Raft leader's address, as \"ip:port\"; empty if there is none.",
    )
};

pub static PEERS: Endpoint = Endpoint {
    form: Form::List(&Form::Address),
    options: &[DC],
    ..Endpoint::read("status_peers", "/v1/status/peers", "The addresses of all Raft peers.")
};

pub const ENDPOINTS: &[&Endpoint] = &[&LEADER, &PEERS];
