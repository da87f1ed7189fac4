//! One call: attempts within one budget of time, on one endpoint after the other.

use super::Client;
use crate::clock::Instant;
use crate::error::{Error, Kind};
use crate::wire::request::Request;
use crate::wire::response::{Success, retry_after};
use crate::wire::table::Repeat;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::time::Duration;

/// The first pause between two attempts; it doubles up to the longest one.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// Consul adds up to this part of the wait to a blocking query, so that clients do not all return
/// at once.
///
/// Source: "Blocking Queries" in Consul's HTTP API reference.
const JITTER_PART: u32 = 16;

/// No attempt gets less than this, as long as the budget has it; and silence that lasts no longer
/// says nothing about an endpoint.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(100);

impl Client {
    /// Makes a call whose request is built already, and leaves its answer to be read.
    ///
    /// # Errors
    /// Whatever the transport or the server refused, after the retries that the endpoint allows.
    pub async fn perform(&self, request: &Request) -> Result<Success, Error> {
        let start = self.clock.now();
        let deadline = start + self.budget(request);
        let error = match self.make(request, deadline, self.settings.retry_count).await {
            Ok(success) => return Ok(success),
            Err(error) => error,
        };
        match &request.lock_step {
            Some(step) if error.maybe_applied() => {
                // In a box, since few calls need room for it.
                let mut success = Box::pin(self.settle(request, step, deadline, error)).await?;
                success.meta.request_ms = (self.clock.now() - start).as_secs_f64() * 1e3;
                Ok(success)
            }
            _ => Err(error),
        }
    }

    /// Makes a call within the time until `deadline`, with so many retries.
    pub(super) async fn make(
        &self,
        request: &Request,
        deadline: Instant,
        retries: u32,
    ) -> Result<Success, Error> {
        let mut call = Call::new(self, request, deadline, retries);
        loop {
            let error = match call.attempt().await {
                Ok(success) => return Ok(success),
                Err(error) => error,
            };
            tracing::debug!(call = request.label, attempts = call.attempts, %error, "failed");
            match call.pause_after(&error) {
                Some(pause) if pause.is_zero() => {}
                Some(pause) => self.clock.sleep(pause).await,
                None if call.may_turn_stale(&error) => call.turn_stale(),
                None => return Err(call.outcome_of(error)),
            }
        }
    }

    /// The whole time that a call may take, all attempts together.
    pub fn budget(&self, request: &Request) -> Duration {
        match request.timeout {
            Some(timeout) => timeout,
            None => self.settings.timeout + with_jitter(request.server_wait),
        }
    }

    /// A random pause up to a limit that doubles with every pause ("full jitter").
    ///
    /// Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    fn backoff(&self, pauses: u32) -> Duration {
        let limit = FIRST_BACKOFF.saturating_mul(1 << pauses.min(16)).min(LONGEST_BACKOFF);
        limit.mul_f64(self.chance())
    }
}

/// The longest that a server takes which was asked to wait so long.
fn with_jitter(wait: Duration) -> Duration {
    wait + wait / JITTER_PART
}

/// A call on its way.
struct Call<'a> {
    client: &'a Client,
    request: &'a Request,
    retries: u32,
    start: Instant,
    /// When the call must be over.
    deadline: Instant,
    /// When its present stage must be over: with `stale_if_error`, first that which asks the leader.
    stage_end: Instant,
    is_stale: bool,
    /// The endpoints that were asked in this round; a round is over when all were.
    asked: Vec<usize>,
    /// How many attempts this stage had.
    tries: u32,
    /// How many attempts the call had.
    attempts: u32,
    pauses: u32,
    /// What the last answer said about when to come again (`Retry-After`).
    not_before: Duration,
    maybe_applied: bool,
}

impl<'a> Call<'a> {
    fn new(client: &'a Client, request: &'a Request, deadline: Instant, retries: u32) -> Self {
        let start = client.clock.now();
        let mut stage_end = deadline;
        if request.stale_if_error {
            let at_the_server = with_jitter(request.server_wait);
            let ours = (deadline - start).saturating_sub(at_the_server);
            stage_end = deadline.min(start + at_the_server + ours / 2);
        }
        Call {
            client,
            request,
            retries,
            start,
            deadline,
            stage_end,
            is_stale: false,
            asked: Vec::new(),
            tries: 0,
            attempts: 0,
            pauses: 0,
            not_before: Duration::ZERO,
            maybe_applied: false,
        }
    }

    /// Asks one endpoint, within its share of the time that is left.
    async fn attempt(&mut self) -> Result<Success, Error> {
        let client = self.client;
        let begun = client.clock.now();
        if self.asked.len() == client.transports.len() {
            self.asked.clear();
        }
        let waited = begun - self.start;
        let wait = self.request.server_wait.saturating_sub(waited);
        let limit = self.share(begun, wait);
        // A probe may be answered by silence, which what must not be repeated or waits for long
        // cannot afford.
        let may_probe = self.request.repeat != Repeat::Once && wait.is_zero();
        let index = client.endpoints().pick(begun, &self.asked, may_probe);
        self.tries += 1;
        self.attempts += 1;
        let transport = &*client.transports[index];
        let answer = transport.send(self.request.to_send(waited, self.is_stale));
        // A timer is made only for an answer that is not there at once.
        let silence = pin!(async { client.clock.sleep_until(begun + limit).await });
        self.not_before = Duration::ZERO;
        let outcome = match select(answer, silence).await {
            Either::Left((Ok(response), _)) => {
                self.not_before = retry_after(&response);
                self.request.check(response)
            }
            Either::Left((Err(error), _)) => Err(error.context(&self.request.label)),
            Either::Right(_) => Err(self.silence(transport.endpoint(), limit)),
        };
        match outcome {
            Ok(mut success) => {
                self.note_answer(index);
                let took = client.clock.now() - self.start;
                success.meta.request_ms = took.as_secs_f64() * 1e3;
                success.meta.endpoint = transport.endpoint().to_owned();
                success.meta.attempts = self.attempts;
                success.meta.stale = self.is_stale;
                let attempts = self.attempts;
                tracing::debug!(call = self.request.label, attempts, "answered");
                Ok(success)
            }
            Err(error) => {
                self.asked.push(index);
                let error = error.with_endpoint(transport.endpoint()).with_attempts(self.attempts);
                if is_endpoints_own(&error) {
                    if error.kind() != Kind::Timeout || limit >= SHORTEST_ATTEMPT {
                        self.note_failure(index, begun, &error);
                    }
                } else if error.status().is_some() {
                    self.note_answer(index);
                }
                Err(error)
            }
        }
    }

    /// How long one attempt may take that has the server wait for `wait`. What is left is divided
    /// among the endpoints that were not asked yet, so that one which never answers leaves time for
    /// the others; but what is not repeated after silence gets all, or half when its fate is to be
    /// looked up.
    fn share(&self, now: Instant, wait: Duration) -> Duration {
        let left = self.stage_end - now;
        if self.request.repeat == Repeat::Once {
            return if self.request.lock_step.is_some() { left / 2 } else { left };
        }
        let others = self.client.transports.len() - self.asked.len();
        let tries_left = self.most_tries().saturating_sub(self.tries).max(1);
        let parts = (others as u32).clamp(1, tries_left);
        let at_the_server = with_jitter(wait);
        let ours = left.saturating_sub(at_the_server);
        (at_the_server + (ours / parts).max(SHORTEST_ATTEMPT)).min(left)
    }

    /// Each endpoint once, and then the retries.
    fn most_tries(&self) -> u32 {
        (self.client.transports.len() as u32).saturating_add(self.retries)
    }

    fn silence(&self, endpoint: &str, limit: Duration) -> Error {
        let label = &self.request.label;
        let ms = (limit.as_secs_f64() * 1e3).round();
        let message = format!("{label}: no answer from {endpoint} within {ms} ms");
        Error::new(Kind::Timeout, message).transient()
    }

    /// How long to wait before the next attempt, when there is one after this failure.
    fn pause_after(&mut self, error: &Error) -> Option<Duration> {
        self.maybe_applied |= error.maybe_applied();
        if self.request.repeat == Repeat::Once && self.maybe_applied {
            return None;
        }
        let has_unasked = (self.tries as usize) < self.client.transports.len();
        let is_elsewhere = is_endpoints_own(error) && has_unasked;
        if !(error.retryable() || is_elsewhere) || self.tries >= self.most_tries() {
            return None;
        }
        if self.request.stale_if_error && !self.is_stale && is_leaders_trouble(error) {
            return None;
        }
        let mut pause = Duration::ZERO;
        if !is_elsewhere || error.kind() == Kind::RateLimited {
            pause = self.client.backoff(self.pauses);
            self.pauses += 1;
        }
        if !has_unasked {
            pause = pause.max(self.not_before);
        }
        (self.client.clock.now() + pause < self.stage_end).then_some(pause)
    }

    /// Whether the rest of the time goes to a read that any server may answer.
    fn may_turn_stale(&self, error: &Error) -> bool {
        self.request.stale_if_error
            && !self.is_stale
            && error.retryable()
            && self.client.clock.now() < self.deadline
    }

    fn turn_stale(&mut self) {
        tracing::info!(call = self.request.label, "the leader does not answer: any server may");
        self.is_stale = true;
        self.stage_end = self.deadline;
        self.asked.clear();
        self.tries = 0;
    }

    /// The call's outcome when this was the last attempt's.
    fn outcome_of(&self, error: Error) -> Error {
        let changes = self.request.endpoint.repeat != Repeat::Read;
        let error = error.with_maybe_applied(changes && self.maybe_applied);
        if self.attempts < 2 {
            return error;
        }
        let took_ms = (self.client.clock.now() - self.start).as_millis();
        error.with_note(&format!("after {} attempts in {took_ms} ms", self.attempts))
    }

    fn note_answer(&self, index: usize) {
        let was_benched = self.client.endpoints().worked(index);
        if was_benched && self.client.transports.len() > 1 {
            let endpoint = self.client.transports[index].endpoint();
            tracing::info!(endpoint, "answers again");
        }
    }

    fn note_failure(&self, index: usize, begun: Instant, error: &Error) {
        let client = self.client;
        let (now, chance) = (client.clock.now(), client.chance());
        let was_good = client.endpoints().failed(index, begun, now, chance, self.not_before);
        if was_good && client.transports.len() > 1 {
            let endpoint = client.transports[index].endpoint();
            tracing::warn!(endpoint, %error, "is left alone for a while");
        }
    }
}

/// Whether a failure says something about the endpoint and not about the cluster or the request.
fn is_endpoints_own(error: &Error) -> bool {
    match error.kind() {
        Kind::Connect | Kind::Tls | Kind::RateLimited => true,
        // What was not sent waited for a connection of our own limit.
        Kind::Timeout => error.maybe_applied(),
        _ => matches!(error.status(), Some(502..=504)),
    }
}

/// Whether a failure is the lack of a leader, or the loss of the way to it.
fn is_leaders_trouble(error: &Error) -> bool {
    error.retryable() && error.status() == Some(500) && !is_endpoints_own(error)
}
