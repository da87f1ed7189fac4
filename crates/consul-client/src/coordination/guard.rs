//! Requests that a guard process sends for this process after its death.

use bytes::Bytes;
use consul_api::error::Error;
use consul_process::clock::BoxFuture;
use http::Request;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A guard process: holds requests of this process, and sends them when this process is dead.
pub trait Guard: fmt::Debug + Send + Sync {
    /// Starts the guard process, unless it runs.
    ///
    /// # Errors
    /// [`consul_api::error::Kind::Config`] when it cannot be started.
    fn start(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Replaces a guard process that was started and has died; a failure is logged.
    fn replace_dead(&self) -> BoxFuture<'_, ()>;

    /// Hands over a request, to be sent to the endpoint at this index of the client's list first.
    /// Returns the number by which it is cancelled.
    fn defer(&self, step: ReleaseStep, endpoint: usize, request: &Request<Bytes>) -> u64;

    /// Takes back the request of this number.
    fn cancel(&self, number: u64);
}

/// The purpose of a deferred request, in the order in which they are sent.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum ReleaseStep {
    /// Frees the key of a session, so that others can acquire it at once.
    Unlock,
    /// Ends a session; keys that it still holds are kept from others for the lock delay.
    EndSession,
    /// Removes the service of the process from the catalog.
    Deregister,
}

impl ReleaseStep {
    /// Whether the step is safe only when the process cannot act under its lease any more.
    pub fn requires_exit(self) -> bool {
        self == ReleaseStep::Unlock
    }
}

/// A deferred request; dropping this cancels it.
#[derive(Debug)]
pub(super) struct Deferred {
    guard: Arc<dyn Guard>,
    number: u64,
}

impl Deferred {
    pub fn new(
        guard: &Arc<dyn Guard>,
        step: ReleaseStep,
        endpoint: usize,
        request: &Request<Bytes>,
    ) -> Self {
        let number = guard.defer(step, endpoint, request);
        Self { guard: Arc::clone(guard), number }
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        self.guard.cancel(self.number);
    }
}
