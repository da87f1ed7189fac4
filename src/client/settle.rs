//! What became of an acquire or release whose answer was lost: a linearizable read of the key shows
//! who holds the lock.

use super::Client;
use crate::clock::Instant;
use crate::error::{Error, Kind};
use crate::wire::request::{LockStep, Request};
use crate::wire::response::Success;
use bytes::Bytes;
use http::Response;

impl Client {
    /// Looks up whether the lock is as the write that failed with `error` would have left it.
    ///
    /// A session that holds the lock has acquired it, by this write or before; one that does not
    /// hold it has released it. Anything else leaves the fate open: the request can still be on its
    /// way from the agent to the leader.
    pub(super) async fn settle(
        &self,
        request: &Request,
        step: &LockStep,
        deadline: Instant,
        error: Error,
    ) -> Result<Success, Error> {
        if self.clock.now() >= deadline {
            return Err(error);
        }
        // What lost the answer is often the loss of the leader, which takes longer than some retries.
        let lookup = self.make(&request.lock_lookup(), deadline, u32::MAX).await;
        let (holder, endpoint) = match lookup.and_then(Success::answer) {
            Ok(answer) => (answer.meta.entry.and_then(|entry| entry.session), answer.meta.endpoint),
            Err(lookup) => {
                return Err(error.with_note(&format!("what became of it is unknown: {lookup}")));
            }
        };
        tracing::debug!(call = request.label, %error, ?holder, "looked up");
        let is_done = match step {
            LockStep::Acquire(session) => holder.as_ref() == Some(session),
            LockStep::Release(session) => holder.as_ref() != Some(session),
        };
        if is_done {
            let mut success = request.check(Response::new(Bytes::from_static(b"true")))?;
            success.meta.endpoint = endpoint;
            success.meta.attempts = error.attempts();
            return Ok(success);
        }
        Err(match (step, holder) {
            (LockStep::Acquire(_), Some(_)) => Error::new(
                Kind::Conflict,
                format!("{}: another session holds the lock; before, {error}", request.label),
            )
            .with_endpoint(&endpoint)
            .with_attempts(error.attempts()),
            (LockStep::Acquire(_), None) => error.with_note("after it the lock was free"),
            (LockStep::Release(_), _) => error.with_note("after it the session held the lock"),
        })
    }
}
