//! Routes: which handler answers an endpoint. Each area lists its own.

use super::reply::{Refusal, Reply};
use super::request::Call;
use crate::blocking::{HashedRead, Once, Read};
use crate::store::State;
use consul_api::table::Endpoint;

/// An endpoint of the table, and its handler.
pub(crate) struct Route(pub &'static Endpoint, pub Handler);

/// How an endpoint is answered.
pub(crate) enum Handler {
    /// At once.
    Now(fn(&mut State, &Call) -> Result<Reply, Refusal>),
    /// At once, after a check of the parameters of reads, which have no effect here.
    Checked(fn(&mut State, &Call) -> Result<Reply, Refusal>),
    /// As a read that can wait.
    Read(&'static Read),
    /// As a read that never waits.
    Once(&'static Once),
    /// As a read of the agent that can wait for a change of the content hash.
    Hashed(&'static HashedRead),
}
