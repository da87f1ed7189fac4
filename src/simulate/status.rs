//! Raft status: one server, which is the leader.

use super::SERVER_ADDRESS;
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::store::State;
use crate::wire::api::status as wire;

pub(super) static ROUTES: &[Route] =
    &[Route(&wire::LEADER, Handler::Checked(leader)), Route(&wire::PEERS, Handler::Checked(peers))];

fn leader(_: &mut State, call: &Call) -> Result<Reply, Refusal> {
    Ok(Reply::json(call.style, &SERVER_ADDRESS))
}

fn peers(_: &mut State, call: &Call) -> Result<Reply, Refusal> {
    Ok(Reply::json(call.style, &[SERVER_ADDRESS]))
}
