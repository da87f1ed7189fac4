//! What is to be done for this process when it is gone, and who does it.

use crate::clock::BoxFuture;
use crate::error::Error;
use bytes::Bytes;
use http::Request;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Somebody outside of this process who makes calls for it when it is gone.
pub trait Guard: fmt::Debug + Send + Sync {
    /// Sees to it that somebody is there.
    ///
    /// # Errors
    /// [`crate::error::Kind::Config`] when nobody can be had.
    fn start(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Sees to it that whoever was there once is replaced when gone; a failure is logged.
    fn keep(&self) -> BoxFuture<'_, ()>;

    /// Entrusts a request, for the endpoint in this place of the client's list first. Gives the
    /// number by which it is withdrawn.
    fn entrust(&self, deed: Deed, home: usize, request: &Request<Bytes>) -> u64;

    /// The request of this number is not to be made any more.
    fn withdraw(&self, number: u64);
}

/// What a request does, in the order in which they are to be made.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Deed {
    /// It frees what a session holds, for others to have at once.
    Release,
    /// It ends a session; what that holds still is kept from others for the lock delay.
    EndSession,
    /// It takes the process out of the catalog.
    Deregister,
}

impl Deed {
    /// Whether it is right only when nobody can act upon a lease any more.
    pub fn needs_the_end(self) -> bool {
        self == Deed::Release
    }
}

/// A request that was entrusted, until this is dropped.
#[derive(Debug)]
pub(super) struct Entrusted {
    guard: Arc<dyn Guard>,
    number: u64,
}

impl Entrusted {
    pub fn new(guard: &Arc<dyn Guard>, deed: Deed, home: usize, request: &Request<Bytes>) -> Self {
        let number = guard.entrust(deed, home, request);
        Self { guard: Arc::clone(guard), number }
    }
}

impl Drop for Entrusted {
    fn drop(&mut self) {
        self.guard.withdraw(self.number);
    }
}
