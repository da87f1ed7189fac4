//! Raft status: one server, which is the leader.

use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::store::State;
use consul_api::api::status as wire;

pub(super) static ROUTES: &[Route] =
    &[Route(&wire::LEADER, Handler::Checked(leader)), Route(&wire::PEERS, Handler::Checked(peers))];

fn leader(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    Ok(Reply::json(call.style, &state.server_address()))
}

fn peers(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    Ok(Reply::json(call.style, &[state.server_address()]))
}
