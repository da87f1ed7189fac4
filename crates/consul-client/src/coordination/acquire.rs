//! The common part of acquiring a lock or a permit: a session that is ready when it is needed, a
//! time limit, and errors that are tolerated.

use super::ending::Holding;
use super::guard::Deferred;
use super::lease::Claim;
use super::presence::{Behavior, InUse, Presence, Registration, Session};
use super::waits::{ERROR_PAUSE_MS, Turn};
use super::{Grant, Lease, Operation, transaction};
use consul_api::api::txn;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::Answer;
use consul_api::table::Endpoint;
use consul_api::value::Value;
use consul_process::clock::{BoxFuture, Instant};
use consul_process::sync::lock;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a wait fails until the log says so at WARN: its reason may never end, as another datacenter's.
const SAID_AFTER: Duration = Duration::from_secs(3);

/// The random pause after an attempt of less than [`SHORT_ATTEMPT`]: a lost race, or a session that ended.
pub(super) const RETRY_PAUSE_MS: Range<f64> = 20.0..50.0;
const SHORT_ATTEMPT: Duration = Duration::from_millis(50);

/// The shortest and the longest pause between two attempts during a lock delay, which are halves of the time until its end;
/// the last one before it ends up to so long after it. An attempt costs no Raft write.
const DELAY_PAUSE: (Duration, Duration) = (Duration::from_millis(30), Duration::from_millis(200));
const AFTER_DELAY: Duration = Duration::from_millis(4);

/// A contender makes a session at least this long after the last one, which doubles with each of them up
/// to [`MAX_SESSION_INTERVAL`], until one has lasted that long.
const MIN_SESSION_INTERVAL: Duration = Duration::from_secs(1);
const MAX_SESSION_INTERVAL: Duration = Duration::from_secs(10);

/// The wait of a contender while others of its client have the turns.
pub(super) const IN_TURN: &str = "its request has to wait for those of other locks of this client";

/// The aim of a contender's wait, in the words of an error.
#[derive(Debug, Default)]
pub(super) struct Step(Mutex<&'static str>);

impl Step {
    pub fn set(&self, what: &'static str) {
        *lock(&self.0) = what;
    }
}

/// How long to wait for a lock or a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// One try; a lock that is not free is an error.
    Once,
    /// Up to this long.
    For(Duration),
    /// Without a limit.
    Forever,
}

/// A process that tries to acquire a lock or a permit.
pub(super) struct Contender<'a> {
    pub presence: &'a Arc<Presence>,
    pub key: &'a str,
    kind: &'static str,
    behavior: Behavior,
    wait: Wait,
    begun: Instant,
    in_use: InUse,
    session: Option<(Registration, Session)>,
    /// When the session has to be renewed.
    renewal: Instant,
    /// When the last session was made, and how long before the next one.
    session_made: Option<(Instant, Duration)>,
    /// Which sessions held it at the last read, for the error message.
    pub obstacle: String,
    /// Since when attempts are refused because of a lock delay.
    delayed: Option<Instant>,
    /// Whether the last attempt has paused.
    has_paused: bool,
    /// How it waits for changes.
    turn: Option<Turn>,
    last_error: Option<Error>,
    /// The aim of its wait.
    step: Arc<Step>,
    /// While each attempt fails.
    fails_since: Option<Fails>,
}

#[derive(Clone, Copy)]
struct Fails {
    since: Instant,
    /// Whether the log has it at WARN.
    is_said: bool,
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
            begun: presence.client().clock().now(),
            in_use: presence.mark_in_use(kind, key)?,
            session: None,
            renewal: presence.client().clock().now(),
            session_made: None,
            obstacle: String::new(),
            delayed: None,
            has_paused: false,
            turn: None,
            last_error: None,
            step: Arc::default(),
            fails_since: None,
        })
    }

    /// Completes when the wait is over.
    pub fn timeout(&self) -> BoxFuture<'static, ()> {
        let limit = self.time_limit().map(|limit| self.begun + limit);
        self.presence.client().clock().sleep_until_any(limit)
    }

    fn time_limit(&self) -> Option<Duration> {
        match self.wait {
            Wait::Once => Some(self.presence.client().settings().timeout),
            Wait::For(wait) => Some(wait),
            Wait::Forever => None,
        }
    }

    /// Turns a grant into a lease. Without one, gives up the session and returns the error; `None` is a
    /// timeout. The rest of the time limit is for the end of the session.
    pub async fn finish(
        mut self,
        outcome: Option<Result<Grant, Error>>,
    ) -> Result<Arc<Lease>, Error> {
        match (outcome, self.session.take()) {
            (Some(Ok(grant)), Some(session)) => {
                self.presence.forget_changed(&self.name());
                Ok(Lease::new(self.presence, self.key, session, grant, self.in_use))
            }
            (outcome, session) => {
                // An earlier request may have been applied, for any last error; without a request that could take it,
                // nothing was.
                let maybe_taken = session.as_ref().is_some_and(|(_, own)| own.held.is_some());
                let error = match outcome {
                    Some(Err(error)) => error,
                    _ => self.timed_out(),
                };
                let error = error.with_maybe_applied(maybe_taken);
                if let Some((_, session)) = session {
                    let timeout = self.presence.client().settings().timeout;
                    let limit = match self.time_limit() {
                        Some(limit) => self.begun + limit,
                        None => self.now() + timeout,
                    };
                    self.presence.end_until(&session.give_up(), limit).await;
                }
                Err(error)
            }
        }
    }

    /// Notes what it waits for from now on, which is the reason of a timeout if nothing else is.
    pub fn note_step(&self, what: &'static str) {
        self.step.set(what);
    }

    pub fn tries_once(&self) -> bool {
        self.wait == Wait::Once
    }

    /// The id of a session of the current registration, created when there is none yet.
    pub async fn session(&mut self) -> Result<String, Error> {
        if let Some((made, session)) = &self.session
            && self.presence.registration() == Some(*made)
        {
            return Ok(session.id().to_owned());
        }
        let registration = self.presence.registered().await?;
        let mut interval = MIN_SESSION_INTERVAL;
        if let Some((made, last_interval)) = self.session_made {
            if self.now() - made < MAX_SESSION_INTERVAL {
                interval = (last_interval * 2).min(MAX_SESSION_INTERVAL);
            }
            self.presence.client().clock().sleep_until(made + last_interval).await;
        }
        let name = format!("{} {}", self.kind, self.key);
        let session = self
            .presence
            .session(registration, name, self.behavior, Arc::clone(&self.step))
            .await?;
        self.session_made = Some((self.now(), interval));
        self.renewal = self.now() + self.presence.profile().renew_interval();
        let id = session.id().to_owned();
        self.session = Some((registration, session));
        Ok(id)
    }

    /// Sends the transaction that makes the session a holder. It may be one from then on, unless Consul
    /// refuses that.
    pub async fn take(
        &mut self,
        claim: Claim,
        deferred: Option<Deferred>,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Result<Value, Error> {
        let (presence, args, mut before) = (self.presence, transaction(operations), None);
        self.step.set(IN_TURN);
        let begins = || {
            before = self.note_held(claim, deferred);
            self.step.set("Consul has not answered the transaction that takes it");
            Ok(())
        };
        let call = (&txn::TXN, args);
        let taken = presence.call_in_turns(presence.client(), call, begins).await;
        if let (Err(error), Some((_, session))) = (&taken, &mut self.session)
            && !error.maybe_applied()
        {
            session.held = before;
            self.step.set("Consul has refused each transaction that takes it");
        }
        taken.map(|answer| answer.value)
    }

    /// Whether its key, which another client has changed, has had this index for so long that nobody can hold it.
    pub fn has_stayed(&mut self, modify_index: u64) -> bool {
        self.presence.has_stayed(&self.name(), modify_index)
    }

    /// Whether a lease that begins then is over, since the calls took so long.
    pub fn is_late(&self, begun: Instant) -> bool {
        self.now() - begun >= self.presence.profile().lease
    }

    /// Notes what the session holds or may hold; returns what was noted before.
    pub fn note_held(&mut self, claim: Claim, deferred: Option<Deferred>) -> Option<Holding> {
        let (_, session) = self.session.as_mut()?;
        session.held.replace(Holding { key: self.key.to_owned(), claim, deferred })
    }

    /// Waits for a change of the key since it had this modify index if the query for that is shared; otherwise returns the
    /// index for [`Contender::read`], which waits itself.
    pub async fn wait(
        &mut self,
        index: u64,
        modify_index: Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let turn = match self.turn.take() {
            Some(turn) => turn,
            None => self.presence.waits.begin(self.key, modify_index.is_some())?,
        };
        let changed = match (&turn, modify_index) {
            (Turn::Shared(shared), Some(modify_index)) => {
                let mut changed = pin!(shared.changed(self.key, modify_index));
                loop {
                    tokio::select! {
                        biased;
                        () = &mut changed => break,
                        () = self.presence.client().clock().sleep(self.presence.profile().query_wait()) => self.renew_session().await,
                    }
                }
                None
            }
            _ => Some(index),
        };
        self.turn = Some(turn);
        Ok(changed)
    }

    /// Reads the lock or semaphore; with an index, after a change or [`Profile::query_wait`].
    pub async fn read(
        &self,
        endpoint: &'static Endpoint,
        args: Args,
        index: Option<u64>,
    ) -> Result<Answer, Error> {
        let Some(index) = index else {
            self.step.set(IN_TURN);
            let begins = || {
                self.step.set("Consul has not answered a read");
                Ok(())
            };
            // An answer that was lost without a sign delays no takeover for the client's whole time limit.
            let is_lost = |error: &Error| error.kind() == Kind::Timeout;
            let client = self.presence.client();
            let call = self.presence.in_turns(args, begins, is_lost, |args| {
                Box::pin(async move { client.read_past_caches(endpoint, &args).await })
            });
            return call.await;
        };
        let args = self.presence.waiting(args, index);
        self.presence.blocking_client().read_past_caches(endpoint, &args).await
    }

    /// The id of its session, if it has one.
    pub fn session_id(&self) -> Option<&str> {
        self.session.as_ref().map(|(_, own)| own.id())
    }

    /// The end of an attempt, or why Consul refuses meanwhile to register this process, which then gets no session. A
    /// process with a session needs no registration.
    pub async fn unless_refused<'c, T>(
        &'c mut self,
        attempt: impl AsyncFnOnce(&'c mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let presence = self.session.is_none().then(|| Arc::clone(self.presence));
        let refused = async {
            match &presence {
                Some(presence) => presence.refused().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            attempted = attempt(self) => attempted,
            error = refused => Err(error),
        }
    }

    pub fn forget_session(&mut self) {
        self.session = None;
    }

    /// Keeps the session of a failed attempt alive for the next one, which may wait for [`Profile::query_wait`]: it is renewed when
    /// that is due before the end of such a wait, however soon the waits end.
    pub async fn renew_session(&mut self) {
        let Some((_, session)) = &self.session else { return };
        let profile = self.presence.profile();
        let (usual, begun) = (profile.renew_interval(), self.now());
        if begun + self.presence.profile().query_wait().min(usual / 2) < self.renewal {
            return;
        }
        match self.presence.renew_waiting(session.id()).await {
            Ok(next) => self.renewal = begun + next,
            Err(error) if error.kind() == Kind::SessionInvalid => self.session = None,
            Err(_) => self.renewal = begun + usual,
        }
    }

    /// Pauses after a transient error; any other one, or that of a single try, is returned.
    pub async fn tolerate(&mut self, error: Error) -> Result<(), Error> {
        if self.tries_once() || !error.is_transient() {
            return Err(error.context(&self.name()));
        }
        let now = self.now();
        match self.fails_since {
            Some(Fails { since, is_said: false }) if now - since >= SAID_AFTER => {
                tracing::warn!(kind = self.kind, key = self.key, %error, "still not acquired");
                self.fails_since = Some(Fails { since, is_said: true });
            }
            Some(_) => tracing::debug!(kind = self.kind, key = self.key, %error, "acquire failed"),
            None => {
                tracing::info!(kind = self.kind, key = self.key, %error, "acquire failed, retrying");
                self.fails_since = Some(Fails { since: now, is_said: false });
            }
        }
        self.last_error = Some(error);
        self.pause(ERROR_PAUSE_MS).await;
        Ok(())
    }

    pub fn now(&self) -> Instant {
        self.presence.client().clock().now()
    }

    /// Sleeps for a random time within these bounds.
    pub async fn pause(&self, bounds_ms: Range<f64>) {
        self.presence.client().pause(bounds_ms).await;
    }

    /// Pauses after an attempt that a lock delay has refused. A delay that began when the wait did ends after its own
    /// length at the latest, so attempts are the more frequent the nearer that is; a longer delay is another profile's.
    pub async fn pause_in_delay(&mut self) {
        if self.obstacle.is_empty() {
            "its last holder lost it, and the lock delay is not over"
                .clone_into(&mut self.obstacle);
        }
        let now = self.now();
        let since = *self.delayed.get_or_insert(now);
        let end = since + self.presence.profile().lock_delay;
        let away = if now < end { end - now } else { now - end };
        let chance = self.presence.client().random_fraction();
        let pause = match away / 2 {
            short if now < end && short < DELAY_PAUSE.0 => away + AFTER_DELAY.mul_f64(chance),
            half => half.clamp(DELAY_PAUSE.0, DELAY_PAUSE.1).mul_f64(0.75 + 0.5 * chance),
        };
        self.presence.client().clock().sleep(pause).await;
        self.has_paused = true;
        self.renew_session().await;
    }

    /// Whether a lock delay has refused the last attempt.
    pub fn is_delayed(&self) -> bool {
        self.delayed.is_some()
    }

    /// The next lock delay that refuses an attempt is another one.
    pub fn forget_delay(&mut self) {
        self.delayed = None;
    }

    /// Pauses after an attempt that began at `begun` and was short, so that no answers can cause a
    /// loop without a pause. `waits_next`: the next attempt is the first that waits for a change.
    pub async fn pause_after(&mut self, begun: Instant, waits_next: bool) {
        self.fails_since = None;
        let has_paused = std::mem::take(&mut self.has_paused);
        if !waits_next && !has_paused && self.now() - begun < SHORT_ATTEMPT {
            self.pause(RETRY_PAUSE_MS).await;
        }
    }

    /// Notes what is in the way, which is the error of a single try.
    pub fn held_up(&mut self, obstacle: impl Into<String>) -> Result<(), Error> {
        self.obstacle = obstacle.into();
        match self.tries_once() {
            true => Err(self.conflict(&self.obstacle)),
            false => Ok(()),
        }
    }

    /// A conflict; [`Contender::tolerate`] adds the name of the lock or semaphore.
    pub fn conflict(&self, why: &str) -> Error {
        Error::new(Kind::Conflict, why).with_maybe_applied(false)
    }

    fn timed_out(&self) -> Error {
        let mut whys = Vec::new();
        if !self.obstacle.is_empty() {
            whys.push(self.obstacle.clone());
        }
        if let Some(error) = &self.last_error
            && (whys.is_empty() || self.fails_since.is_some())
        {
            whys.push(format!("last: {error}"));
        }
        if whys.is_empty() {
            whys.push(match (self.presence.registration(), self.presence.registration_error()) {
                (None, Some(error)) => format!("this process is not registered: {error}"),
                (None, None) => "this process is not registered yet".to_owned(),
                (Some(_), _) => (*lock(&self.step.0)).to_owned(),
            });
        }
        let ms = self.time_limit().unwrap_or_default().as_millis();
        let message = format!("{}: not acquired within {ms} ms; {}", self.name(), whys.join("; "));
        Error::new(Kind::Timeout, message).retryable()
    }

    fn name(&self) -> String {
        format!("{} {:?}", self.kind, self.key)
    }
}
