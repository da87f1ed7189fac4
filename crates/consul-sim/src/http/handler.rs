//! Routes: which handler answers an endpoint. Each area lists its own.

use super::reply::{Refusal, Reply};
use super::request::Call;
use crate::blocking::{HashedRead, Headers, Once, Read};
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

/// Which parameters of reads an agent checks.
pub(crate) enum Parameters {
    None,
    /// How long to wait.
    Wait,
    /// All.
    Read,
}

impl Handler {
    pub fn parameters(&self) -> Parameters {
        match self {
            Handler::Now(_) => Parameters::None,
            Handler::Hashed(_) => Parameters::Wait,
            Handler::Checked(_) | Handler::Read(_) | Handler::Once(_) => Parameters::Read,
        }
    }

    /// Refuses what the agent refuses before it asks a server.
    pub fn check(&self, call: &Call) -> Result<(), Refusal> {
        match self {
            Handler::Read(read) => (read.check)(call),
            Handler::Once(once) => (once.check)(call),
            Handler::Now(_) | Handler::Checked(_) | Handler::Hashed(_) => Ok(()),
        }
    }

    /// The headers of its reads.
    pub fn headers(&self) -> Option<Headers> {
        match self {
            Handler::Read(read) => Some(read.headers),
            Handler::Once(once) => Some(once.headers),
            Handler::Now(_) | Handler::Checked(_) | Handler::Hashed(_) => None,
        }
    }
}
