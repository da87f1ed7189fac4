//! What locks and semaphores have in common while a process waits for one: a session that is kept
//! for the moment at which it is needed, a limit of time, errors that are waited out.

use super::presence::{Behavior, Entered, Presence, Registration, Session};
use super::{Grant, Lease};
use crate::clock::BoxFuture;
use crate::error::{Error, Kind};
use crate::wire::duration;
use crate::wire::request::Args;
use crate::wire::response::Answer;
use crate::wire::table::Endpoint;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// How long one waiting query lasts; the session that is to take what it waits for is renewed before
/// each, so this must be well below the shortest TTL.
const WATCH: Duration = Duration::from_secs(5);

/// The pause after an error that may pass.
const ERROR_PAUSE_MS: Range<f64> = 100.0..300.0;

/// Whether somebody who waits waits on: whatever troubles a server may be over later.
pub fn may_pass(error: &Error) -> bool {
    error.retryable() || error.status().is_some_and(|status| status >= 500)
}

/// How long to wait for a lock or a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: when it cannot be had, that is the answer.
    Once,
    /// This long.
    For(Duration),
    /// Until it is there.
    Forever,
}

/// A process that waits.
pub(super) struct Contender<'a> {
    pub presence: &'a Arc<Presence>,
    pub key: &'a str,
    kind: &'static str,
    behavior: Behavior,
    wait: Wait,
    entered: Entered,
    session: Option<(Registration, Session)>,
    /// Who was last seen to be in the way.
    pub obstacle: String,
    /// The last error that was waited out.
    borne: Option<Error>,
}

impl<'a> Contender<'a> {
    pub fn new(
        presence: &'a Arc<Presence>,
        (kind, behavior): (&'static str, Behavior),
        key: &'a str,
        wait: Wait,
    ) -> Result<Self, Error> {
        Ok(Self {
            presence,
            key,
            kind,
            behavior,
            wait,
            entered: presence.enter(kind, key)?,
            session: None,
            obstacle: String::new(),
            borne: None,
        })
    }

    /// Completes when the wait is over.
    pub fn limit(&self) -> BoxFuture<'static, ()> {
        let clock = self.presence.client().clock();
        clock.sleep_until_any(self.limit_of_time().map(|limit| clock.now() + limit))
    }

    fn limit_of_time(&self) -> Option<Duration> {
        match self.wait {
            Wait::Once => Some(self.presence.client().settings().timeout),
            Wait::For(wait) => Some(wait),
            Wait::Forever => None,
        }
    }

    /// The lease of what was granted, or why nothing was; no session is left behind then, as far as
    /// Consul can be reached.
    pub async fn conclude(
        mut self,
        outcome: Option<Result<Grant, Error>>,
    ) -> Result<Arc<Lease>, Error> {
        match (outcome, self.session.take()) {
            (Some(Ok(grant)), Some(session)) => {
                Ok(Lease::new(self.presence, self.key, session, grant, self.entered))
            }
            (outcome, session) => {
                if let Some((_, session)) = session {
                    let _ = session.end().await;
                }
                match outcome {
                    Some(Err(error)) => Err(error),
                    _ => Err(self.timed_out()),
                }
            }
        }
    }

    /// Whether the answer is wanted at once, whatever it is.
    pub fn tries_once(&self) -> bool {
        self.wait == Wait::Once
    }

    /// The id of the session that is to hold what is waited for.
    pub async fn session(&mut self) -> Result<String, Error> {
        let registration = self.presence.registered().await?;
        if let Some((made, session)) = &self.session
            && *made == registration
        {
            return Ok(session.id().to_owned());
        }
        let name = format!("{} {}", self.kind, self.key);
        let session = self.presence.session(registration, name, self.behavior).await?;
        let id = session.id().to_owned();
        self.session = Some((registration, session));
        Ok(id)
    }

    /// Reads what is waited for; with an index, waits until it changes.
    pub async fn look(
        &self,
        endpoint: &'static Endpoint,
        args: Args,
        index: Option<u64>,
    ) -> Result<Answer, Error> {
        let Some(index) = index else { return self.presence.client().call(endpoint, &args).await };
        let args = args.opt("index", index).opt("wait", duration::format(WATCH));
        self.presence.waiting().call(endpoint, &args).await
    }

    /// Whether this is the session of the contender.
    pub fn is_mine(&self, session: &str) -> bool {
        self.session.as_ref().is_some_and(|(_, mine)| mine.id() == session)
    }

    pub fn forget_session(&mut self) {
        self.session = None;
    }

    /// Keeps the session of a failed attempt for the next one.
    pub async fn renew(&mut self) {
        if let Some((_, session)) = &self.session
            && let Err(error) = self.presence.renew(session.id()).await
            && error.kind() == Kind::SessionInvalid
        {
            self.session = None;
        }
    }

    /// Waits a little after an error that may pass, unless nothing is to be waited for.
    pub async fn bear(&mut self, error: Error) -> Result<(), Error> {
        if self.tries_once() || !may_pass(&error) {
            return Err(error.context(&self.name()));
        }
        tracing::info!(kind = self.kind, key = self.key, %error, "tried again");
        self.borne = Some(error);
        self.pause(ERROR_PAUSE_MS).await;
        Ok(())
    }

    /// Waits by chance within these bounds.
    pub async fn pause(&self, bounds_ms: Range<f64>) {
        let client = self.presence.client();
        let ms = bounds_ms.start + (bounds_ms.end - bounds_ms.start) * client.chance();
        client.clock().sleep(Duration::from_secs_f64(ms / 1e3)).await;
    }

    /// Why it cannot be had; [`Contender::bear`] says of what.
    pub fn conflict(&self, why: &str) -> Error {
        Error::new(Kind::Conflict, why).with_maybe_applied(false)
    }

    fn timed_out(&self) -> Error {
        let why = match (self.obstacle.as_str(), &self.borne) {
            ("", None) => String::new(),
            ("", Some(error)) => format!("; last: {error}"),
            (obstacle, _) => format!("; {obstacle}"),
        };
        let ms = self.limit_of_time().unwrap_or_default().as_millis();
        let message = format!("{}: not acquired within {ms} ms{why}", self.name());
        Error::new(Kind::Timeout, message).transient()
    }

    fn name(&self) -> String {
        format!("{} {:?}", self.kind, self.key)
    }
}
