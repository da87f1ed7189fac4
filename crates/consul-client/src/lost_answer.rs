//! The outcome of an acquire or release whose answer was lost: a linearizable read of the key shows
//! which session holds the lock.

use super::Client;
use super::coordination::linearizable;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::{LockStep, Request};
use consul_api::response::{Answer, Success};
use consul_process::clock::Instant;
use http::Response;
use std::time::Duration;

/// The pause after an answer that is not the leader's.
const PAUSE: Duration = Duration::from_millis(100);

impl Client {
    /// Looks up whether the write that failed with `error` took effect.
    ///
    /// A session that holds the lock has acquired it, by this write or before; a session that does
    /// not hold it has released it. In any other case the outcome stays unknown: the request can
    /// still be on its way from the agent to the leader.
    pub(super) async fn look_up_outcome(
        &self,
        request: &Request,
        step: &LockStep,
        deadline: Instant,
        error: Error,
    ) -> Result<Success, Error> {
        if self.clock.now() >= deadline {
            return Err(error);
        }
        // An answer is often lost because the leader is; an election can outlast some retries.
        let lookup = self.look_up(deadline, request).await;
        let (holder, endpoint) = match lookup {
            Ok(answer) => (answer.meta.entry.and_then(|entry| entry.session), answer.meta.endpoint),
            Err(lookup) => {
                return Err(error.with_note(&format!("the outcome is unknown: {lookup}")));
            }
        };
        let call = request.endpoint.name;
        tracing::debug!(call, error = error.logged(), ?holder, "outcome looked up");
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
            (LockStep::Acquire(_), None) => error.with_note("afterwards the lock was free"),
            (LockStep::Release(_), _) => error.with_note("afterwards the session held the lock"),
        })
    }

    /// Reads the lock, until the leader answers.
    async fn look_up(&self, deadline: Instant, request: &Request) -> Result<Answer, Error> {
        loop {
            let lookup = self.past_caches(request.lock_lookup());
            let answer = self.attempt_until(deadline, &lookup, u32::MAX).await?.answer();
            match linearizable(answer) {
                Err(_) if self.clock.now() + PAUSE < deadline => self.clock.sleep(PAUSE).await,
                answer => return answer,
            }
        }
    }
}
