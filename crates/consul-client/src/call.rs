//! One call: attempts within its time budget, on one endpoint after the other.
//!
//! [`Client::call`] builds a request from arguments, [`Client::execute`] runs a request that is
//! built already. A run makes attempts; an attempt sends the request through one transport.

use super::{Client, counted};
use crate::transport::token_file::TOKEN;
use consul_api::error::{Error, Kind};
use consul_api::request::Request;
use consul_api::response::{Success, retry_after};
use consul_api::table::Repeat;
use consul_process::clock::Instant;
use consul_process::metrics::EndpointNumbers;
use futures_util::future::{Either, select};
use std::ops::Range;
use std::pin::pin;
use std::time::Duration;
use tokio::task::unconstrained;

/// The limit of the first pause between two attempts; it doubles with each pause.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Consul adds up to this part of the wait to a blocking query, so that clients do not all return
/// at once.
///
/// Source: "Blocking Queries" in Consul's HTTP API reference.
const JITTER_PART: u32 = 16;

/// The shortest time limit of an attempt, as far as the budget allows it. An endpoint that did not
/// answer within less is not taken to have failed.
const MIN_ATTEMPT_TIMEOUT: Duration = Duration::from_millis(100);

impl Client {
    /// Runs a request to its outcome; the body of the answer is not decoded yet.
    ///
    /// # Errors
    /// Errors of the transport or the server, after the retries that the endpoint allows.
    pub async fn execute(&self, request: &Request) -> Result<Success, Error> {
        self.execute_with(request, self.settings.retry_count).await
    }

    /// [`Client::execute`] with this many retries.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub(super) async fn execute_with(
        &self,
        request: &Request,
        retries: u32,
    ) -> Result<Success, Error> {
        let start = self.clock.now();
        let numbers = counted::of(request.endpoint);
        let outcome = self.outcome(request, retries, start, numbers).await;
        numbers.requests.add(&outcome);
        if request.server_wait.is_zero() {
            numbers.durations.add(match &outcome {
                Ok(success) => Duration::from_nanos((success.meta.request_ms * 1e6) as u64),
                Err(_) => self.clock.now() - start,
            });
        }
        outcome
    }

    async fn outcome(
        &self,
        request: &Request,
        retries: u32,
        start: Instant,
        numbers: &'static EndpointNumbers,
    ) -> Result<Success, Error> {
        let deadline = start + self.budget(request);
        let error = match Run::new(self, request, numbers, start..deadline, retries).end().await {
            Ok(success) => return Ok(success),
            Err(error) => error,
        };
        match &request.lock_step {
            Some(step) if error.maybe_applied() => {
                // Boxed: few calls need it, and it would enlarge the future of each.
                let lookup = self.look_up_outcome(request, step, deadline, error);
                let mut success = Box::pin(lookup).await?;
                success.meta.request_ms = (self.clock.now() - start).as_secs_f64() * 1e3;
                Ok(success)
            }
            _ => Err(error),
        }
    }

    /// Makes attempts until one succeeds, the deadline is near or a retry is not allowed.
    pub(super) async fn attempt_until(
        &self,
        deadline: Instant,
        request: &Request,
        retries: u32,
    ) -> Result<Success, Error> {
        let numbers = counted::of(request.endpoint);
        Run::new(self, request, numbers, self.clock.now()..deadline, retries).end().await
    }

    /// The time limit of a call, all attempts and pauses included.
    pub fn budget(&self, request: &Request) -> Duration {
        match request.timeout {
            Some(timeout) => timeout,
            None => self.settings.timeout + with_jitter(request.server_wait),
        }
    }

    /// Sleeps for a random time within these bounds.
    pub async fn pause(&self, bounds_ms: Range<f64>) {
        let ms = bounds_ms.start + (bounds_ms.end - bounds_ms.start) * self.random_fraction();
        self.clock.sleep(Duration::from_secs_f64(ms / 1e3)).await;
    }

    /// A random pause up to a limit that doubles with every pause ("full jitter").
    ///
    /// Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    fn backoff(&self, pauses: u32) -> Duration {
        let limit = FIRST_BACKOFF.saturating_mul(1 << pauses.min(16)).min(MAX_BACKOFF);
        limit.mul_f64(self.random_fraction())
    }
}

/// The longest time that a server takes for a blocking query with this wait.
fn with_jitter(wait: Duration) -> Duration {
    wait + wait / JITTER_PART
}

/// The state of a request between its attempts.
///
/// With `stale_if_error` it has two stages: first the leader is asked, then any server.
struct Run<'a> {
    client: &'a Client,
    request: &'a Request,
    numbers: &'static EndpointNumbers,
    retries: u32,
    start: Instant,
    deadline: Instant,
    stage_end: Instant,
    is_stale: bool,
    /// The endpoints that were asked in this round; the next round begins after all were.
    asked: Vec<usize>,
    stage_attempts: u32,
    /// The attempts of all stages.
    attempts: u32,
    pauses: u32,
    /// The time that the last answer asked to wait before a retry (`Retry-After`).
    retry_after: Duration,
    maybe_applied: bool,
}

impl<'a> Run<'a> {
    fn new(
        client: &'a Client,
        request: &'a Request,
        numbers: &'static EndpointNumbers,
        time: Range<Instant>,
        retries: u32,
    ) -> Self {
        let Range { start, end: deadline } = time;
        let mut stage_end = deadline;
        if request.stale_if_error {
            let server_time = with_jitter(request.server_wait);
            let rest = (deadline - start).saturating_sub(server_time);
            stage_end = deadline.min(start + server_time + rest / 2);
        }
        Run {
            client,
            request,
            numbers,
            retries,
            start,
            deadline,
            stage_end,
            is_stale: false,
            asked: Vec::new(),
            stage_attempts: 0,
            attempts: 0,
            pauses: 0,
            retry_after: Duration::ZERO,
            maybe_applied: false,
        }
    }

    /// Makes attempts to the end.
    async fn end(mut self) -> Result<Success, Error> {
        loop {
            let error = match self.attempt().await {
                Ok(success) => return Ok(success),
                Err(error) => error,
            };
            self.log_failure(&error);
            match self.pause_after(&error) {
                Some(pause) if pause.is_zero() => {}
                Some(pause) => self.client.clock.sleep(pause).await,
                None if self.may_become_stale(&error) => self.become_stale(),
                None => {
                    if is_silence(&error) {
                        self.note_time(self.start, false);
                    }
                    return Err(self.final_error(error));
                }
            }
        }
    }

    /// Asks the best endpoint that was not asked yet, within its share of the remaining time.
    async fn attempt(&mut self) -> Result<Success, Error> {
        let client = self.client;
        let begun = client.clock.now();
        if self.asked.len() == client.transports.len() {
            self.asked.clear();
        }
        let elapsed = begun - self.start;
        let wait = self.request.server_wait.saturating_sub(elapsed);
        let limit = self.attempt_timeout(begun, wait);
        // A probe may get no answer. A request that is sent once, or that waits for long, cannot
        // afford that.
        let may_probe = self.request.repeat != Repeat::Once && wait.is_zero();
        let index = client.endpoints().pick(begun, &self.asked, may_probe);
        self.stage_attempts += 1;
        self.attempts += 1;
        self.numbers.attempts.add_one();
        let transport = &*client.transports[index];
        let answer = transport.send(self.request.to_send(elapsed, self.is_stale));
        // Lazily, so that an answer that is there at once costs no timer. Unconstrained, because the
        // reads of an answer without end would leave it nothing of the task's budget.
        let timer = async { client.clock.sleep_until(begun + limit).await };
        let timer = pin!(unconstrained(timer));
        self.retry_after = Duration::ZERO;
        let outcome = match select(answer, timer).await {
            Either::Left((Ok(response), _)) => {
                self.retry_after = retry_after(&response);
                self.request.check(response)
            }
            Either::Left((Err(error), _)) => Err(error.context(&self.request.label)),
            Either::Right(_) => Err(self.no_answer(transport.endpoint(), limit)),
        };
        match outcome {
            Ok(mut success) => {
                self.record_success(index);
                self.record_answer(begun);
                let now = client.clock.now();
                if self.request.server_wait.is_zero() {
                    client.endpoints().record_latency(index, now - begun);
                }
                let elapsed = now - self.start;
                success.meta.request_ms = elapsed.as_secs_f64() * 1e3;
                success.meta.endpoint = transport.endpoint().to_owned();
                success.meta.attempts = self.attempts;
                success.meta.stale = self.is_stale;
                success.meta.has_token = match self.request.http.headers().get(TOKEN) {
                    Some(token) => !token.is_empty(),
                    None => transport.token_changes().is_some(),
                };
                let attempts = self.attempts;
                let row = self.request.endpoint;
                tracing::debug!(call = row.name, request = row.template(), attempts, "answered");
                Ok(success)
            }
            Err(error) => {
                self.asked.push(index);
                let error = error.with_endpoint(transport.endpoint()).with_attempts(self.attempts);
                let error = error.with_subject(self.request.subject());
                if is_endpoint_failure(&error) {
                    let had_time = limit >= MIN_ATTEMPT_TIMEOUT && limit > with_jitter(wait);
                    if error.kind() != Kind::Timeout || had_time {
                        self.record_failure(index, begun, &error);
                    }
                    match error.kind() {
                        Kind::RateLimited => self.record_refusal(begun, &error),
                        Kind::Decode => {
                            transport.close_idle();
                            self.warn_of_another(index, &error);
                        }
                        _ => {}
                    }
                } else if error.status().is_some() {
                    self.record_success(index);
                    self.record_answer(begun);
                }
                Err(error)
            }
        }
    }

    /// The time limit of an attempt in which the server waits for `wait`. The remaining time is
    /// divided among the endpoints that were not asked yet, so that an endpoint without an answer leaves time for the
    /// others. A request that is not repeated after a timeout gets all of it, or half when its outcome can be looked
    /// up.
    fn attempt_timeout(&self, now: Instant, wait: Duration) -> Duration {
        let left = self.stage_end - now;
        if self.request.repeat == Repeat::Once {
            return if self.request.lock_step.is_some() { left / 2 } else { left };
        }
        let others = self.client.transports.len() - self.asked.len();
        let attempts_left = self.max_attempts().saturating_sub(self.stage_attempts).max(1);
        let parts = (others as u32).clamp(1, attempts_left);
        let server_time = with_jitter(wait);
        let rest = left.saturating_sub(server_time);
        let share = rest / parts;
        let share = self.client.patience().map_or(share, |patience| patience.min(share));
        (server_time + share.max(MIN_ATTEMPT_TIMEOUT)).min(left)
    }

    /// The attempts of a stage: each endpoint once, and then the retries.
    fn max_attempts(&self) -> u32 {
        (self.client.transports.len() as u32).saturating_add(self.retries)
    }

    fn no_answer(&self, endpoint: &str, limit: Duration) -> Error {
        let label = &self.request.label;
        let ms = (limit.as_secs_f64() * 1e3).round().max(1.0);
        let message = format!("{label}: no answer from {endpoint} within {ms} ms");
        Error::new(Kind::Timeout, message).retryable()
    }

    /// The pause before the next attempt; `None` when there is no further attempt in this stage.
    fn pause_after(&mut self, error: &Error) -> Option<Duration> {
        self.maybe_applied |= error.maybe_applied();
        if self.request.repeat == Repeat::Once && self.maybe_applied {
            return None;
        }
        let has_unasked = (self.stage_attempts as usize) < self.client.transports.len();
        let fails_over = is_endpoint_failure(error) && has_unasked;
        // Behind one address there can be several servers, and one of them answers for Consul.
        let may_succeed = error.is_retryable() || error.kind() == Kind::Decode || fails_over;
        // A silence is asked through to the end of the time limit: each attempt was a pause.
        let is_silence = is_silence(error) && self.client.patience().is_some();
        if !may_succeed || self.stage_attempts >= self.max_attempts() && !is_silence {
            return None;
        }
        if self.request.stale_if_error && !self.is_stale && is_leader_failure(error) {
            return None;
        }
        let mut pause = Duration::ZERO;
        if !fails_over && !is_silence || error.kind() == Kind::RateLimited {
            pause = self.client.backoff(self.pauses);
            self.pauses += 1;
        }
        if !has_unasked {
            pause = pause.max(self.retry_after);
        }
        (self.client.clock.now() + pause < self.stage_end).then_some(pause)
    }

    /// Whether the remaining time goes to a read that any server may answer.
    fn may_become_stale(&self, error: &Error) -> bool {
        self.request.stale_if_error
            && !self.is_stale
            && error.is_retryable()
            && self.client.clock.now() < self.deadline
    }

    fn become_stale(&mut self) {
        let call = self.request.endpoint.name;
        tracing::info!(call, "the leader does not answer: any server may");
        self.is_stale = true;
        self.stage_end = self.deadline;
        self.asked.clear();
        self.stage_attempts = 0;
    }

    /// The error of the call when this was the error of its last attempt.
    fn final_error(&self, error: Error) -> Error {
        let changes = self.request.endpoint.repeat != Repeat::Read;
        let was_sent = error.maybe_applied();
        let mut error = error.with_maybe_applied(changes && self.maybe_applied);
        if self.attempts > 1 {
            let elapsed_ms = (self.client.clock.now() - self.start).as_millis();
            error =
                error.with_note(&format!("after {} attempts in {elapsed_ms} ms", self.attempts));
        }
        let has_api_path = |endpoint: &str| endpoint.ends_with("/v1");
        match error.kind() {
            Kind::Connect if error.status().is_none() && !self.client.endpoints_from.is_empty() => {
                let from = &self.client.endpoints_from;
                // After the first part there is a hint for an address without a server.
                let origin = from.split("; ").next().unwrap_or_default();
                error.with_note(if was_sent { origin } else { from })
            }
            Kind::Unsupported | Kind::Decode if error.endpoint().is_some_and(has_api_path) => error.with_note(
                "the endpoint ends in /v1, with which every path begins already: leave it out there",
            ),
            _ => error,
        }
    }

    fn log_failure(&self, error: &Error) {
        let (row, attempts) = (self.request.endpoint, self.attempts);
        tracing::debug!(
            call = row.name,
            request = row.template(),
            attempts,
            error = error.logged(),
            "failed"
        );
    }

    fn record_success(&self, index: usize) {
        let was_benched = self.client.endpoints().record_success(index);
        if was_benched && self.client.transports.len() > 1 {
            let endpoint = self.client.transports[index].endpoint();
            tracing::info!(endpoint, "the endpoint answers again");
        }
    }

    /// Notes how long a request that may be repeated has taken since then, the server's wait not counted.
    fn note_time(&self, since: Instant, is_answered: bool) {
        if self.request.repeat != Repeat::Once {
            let wait = with_jitter(self.request.server_wait);
            self.client.note_time(since, wait, is_answered);
        }
    }

    fn record_answer(&self, begun: Instant) {
        self.note_time(begun, true);
        if self.client.refusals().record_answer(begun) {
            tracing::info!("Consul answers again: waiting queries go on");
        }
    }

    fn record_refusal(&self, begun: Instant, error: &Error) {
        let (client, now) = (self.client, self.client.clock.now());
        let mut all = 0..client.transports.len();
        if all.all(|index| client.endpoints().is_benched(index, now))
            && client.refusals().record(begun, now, self.retry_after)
        {
            let error = error.logged();
            tracing::warn!(
                error,
                "Consul refuses requests because of its limits: waiting queries pause"
            );
        }
    }

    /// Says that something else answers in Consul's place. Watches and locks go on without an error.
    fn warn_of_another(&self, index: usize, error: &Error) {
        let (client, now) = (self.client, self.client.clock.now());
        if client.endpoints().may_warn_of_another(index, now) {
            let endpoint = client.transports[index].endpoint();
            let error = error.logged();
            tracing::warn!(endpoint, error, "an answer is not Consul's");
        }
    }

    fn record_failure(&self, index: usize, begun: Instant, error: &Error) {
        let client = self.client;
        let (now, fraction) = (client.clock.now(), client.random_fraction());
        let was_good =
            client.endpoints().record_failure(index, begun, now, fraction, self.retry_after);
        // Of another program's answers the log tells in each minute.
        if was_good && client.transports.len() > 1 && error.kind() != Kind::Decode {
            let endpoint = client.transports[index].endpoint();
            let error = error.logged();
            tracing::warn!(endpoint, error, "the endpoint failed and is not used for a while");
        }
    }
}

/// Whether a failure is the endpoint's own, not the cluster's or the request's.
pub fn is_endpoint_failure(error: &Error) -> bool {
    match error.kind() {
        Kind::Connect | Kind::Tls | Kind::RateLimited | Kind::Decode => true,
        // A request that was not sent waited for a connection of our own limit.
        Kind::Timeout => error.maybe_applied(),
        // Of a proxy that demands credentials.
        Kind::PermissionDenied => error.status() == Some(401),
        // Of proxies that got no answer from Consul: its own with which a retry can help have 500.
        _ => error.is_retryable() && !matches!(error.status(), None | Some(500)),
    }
}

/// Whether a request that was sent had no answer within its time.
fn is_silence(error: &Error) -> bool {
    error.kind() == Kind::Timeout && error.status().is_none() && error.maybe_applied()
}

/// Whether the agent reports that it has no leader, or no connection to the leader.
fn is_leader_failure(error: &Error) -> bool {
    error.is_retryable() && error.status() == Some(500) && !is_endpoint_failure(error)
}
