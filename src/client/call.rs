//! One call: attempts within one budget of time, on one endpoint after the other.

use super::Client;
use crate::clock::Instant;
use crate::error::{Error, Kind};
use crate::transport::Transport;
use crate::wire::request::Request;
use crate::wire::response::Success;
use crate::wire::table::Repeat;
use futures_util::future::{Either, select};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The first pause between two attempts; it doubles up to the longest one.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// Consul adds up to this part of the wait to a blocking query, so that clients do not all return
/// at once.
///
/// Source: "Blocking Queries" in Consul's HTTP API reference.
const JITTER_PART: u32 = 16;

impl Client {
    /// Makes a call whose request is built already, and leaves its answer to be read.
    ///
    /// # Errors
    /// Whatever the transport or the server refused, after the retries that the endpoint allows.
    pub async fn perform(&self, request: &Request) -> Result<Success, Error> {
        let start = self.clock.now();
        let budget = self.budget(request);
        let deadline = start + budget;
        let mut attempts = 0;
        loop {
            let turn = self.preferred.load(Ordering::Relaxed);
            let transport = &*self.transports[turn % self.transports.len()];
            attempts += 1;
            let error = match self.attempt(transport, request, deadline, budget).await {
                Ok(mut success) => {
                    success.meta.request_ms = (self.clock.now() - start).as_secs_f64() * 1e3;
                    success.meta.endpoint = transport.endpoint().to_owned();
                    success.meta.attempts = attempts;
                    tracing::debug!(call = request.label, attempts, "answered");
                    return Ok(success);
                }
                Err(error) => error.with_endpoint(transport.endpoint()).with_attempts(attempts),
            };
            tracing::debug!(call = request.label, attempts, %error, "failed");
            if !error.retryable() || error.kind() == Kind::Timeout {
                return Err(error);
            }
            // Another call may have moved on already: then its choice stands.
            let next = turn.wrapping_add(1);
            let _ =
                self.preferred.compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed);
            let pause = self.backoff(attempts);
            let may_repeat = request.repeat != Repeat::Once || !error.maybe_sent();
            if !may_repeat
                || attempts > self.settings.retry_count
                || self.clock.now() + pause >= deadline
            {
                return Err(error);
            }
            self.clock.sleep(pause).await;
        }
    }

    async fn attempt(
        &self,
        transport: &dyn Transport,
        request: &Request,
        deadline: Instant,
        budget: Duration,
    ) -> Result<Success, Error> {
        let answer = transport.send(request.http.clone());
        match select(answer, self.clock.sleep_until(deadline)).await {
            Either::Left((response, _)) => match response {
                Ok(response) => request.check(response),
                Err(error) => Err(error.context(&request.label)),
            },
            Either::Right(_) => Err(Error::new(
                Kind::Timeout,
                format!(
                    "{}: no answer from {} within {} ms",
                    request.label,
                    transport.endpoint(),
                    budget.as_millis()
                ),
            )
            .transient()),
        }
    }

    /// The whole time that a call may take, all attempts together.
    pub fn budget(&self, request: &Request) -> Duration {
        let wait = request.server_wait;
        match request.timeout {
            Some(timeout) => timeout,
            None => self.settings.timeout + wait + wait / JITTER_PART,
        }
    }

    /// A random pause up to a limit that doubles with every attempt ("full jitter").
    ///
    /// Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    fn backoff(&self, attempts: u32) -> Duration {
        let limit = FIRST_BACKOFF.saturating_mul(1 << (attempts - 1).min(16)).min(LONGEST_BACKOFF);
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        limit.mul_f64(rng.f64())
    }
}
