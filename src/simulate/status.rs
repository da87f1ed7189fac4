//! The servers' Raft status: one server, which leads.

use super::SERVER_ADDRESS;
use super::reply::{Refusal, Reply};
use super::request::Call;
use super::route::{Handler, Route};
use super::store::State;
use crate::wire::status as wire;

pub(super) static ROUTES: &[Route] =
    &[Route(&wire::LEADER, Handler::Checked(leader)), Route(&wire::PEERS, Handler::Checked(peers))];

fn leader(_: &mut State, call: &Call) -> Result<Reply, Refusal> {
    Ok(Reply::json(call.style, &SERVER_ADDRESS))
}

fn peers(_: &mut State, call: &Call) -> Result<Reply, Refusal> {
    Ok(Reply::json(call.style, &[SERVER_ADDRESS]))
}
