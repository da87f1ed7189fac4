//! Locks whose holder knows, without asking, whether it may still act.
//!
//! A lock is a key that a session holds, as for every other Consul client. What is added is a lease:
//! the holder believes in its lock for a bounded time from the start of its last linearizable proof,
//! and the session's lock delay is longer than that. Every grant has a fencing token. The protocol,
//! its assumptions and its limits are in docs/coordination.md.

use super::presence::{Entered, Presence, Registration, Session, map};
use crate::clock::Instant;
use crate::error::{Error, Kind};
use crate::wire::request::Args;
use crate::wire::response::EntryMeta;
use crate::wire::value::Value;
use crate::wire::{kv, txn};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The flags of a key that is a lock, by which clients know each other's.
///
/// Source: `LockFlagValue` in the package `api` of Consul's Go client.
pub const LOCK_FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;

/// How long one waiting query for a lock to become free lasts; the session that is to take it is
/// renewed before each, so this must be well below the shortest TTL.
const WATCH: Duration = Duration::from_secs(5);

/// Within these bounds, by chance, it is asked again during a lock delay; such an attempt costs no
/// Raft write.
const DELAY_POLL_MS: Range<f64> = 20.0..50.0;

/// The pause after an error that may pass.
const ERROR_PAUSE_MS: Range<f64> = 100.0..300.0;

/// How long to wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: when it is held by another, that is the answer.
    Once,
    /// This long.
    For(Duration),
    /// Until it is there.
    Forever,
}

/// How a lock is taken.
#[derive(Clone, Debug)]
pub struct LockOptions {
    /// The value of the key while it is held, for people and programs to read; none: the key keeps
    /// the value it has.
    pub value: Option<Vec<u8>>,
    /// How long to wait.
    pub wait: Wait,
}

/// What happens to a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The time of the last proof is over: nothing may be done under the lock any more, unless
    /// [`Event::Resumed`] follows.
    Suspended,
    /// There is a proof again, of the same grant: nobody else had the lock meanwhile.
    Resumed,
    /// The lock is gone, for this reason. Nothing follows.
    Lost(String),
}

/// A lock that was granted. It lasts as long as [`Lease::keep`] runs and Consul agrees.
///
/// Dropping it gives the lock up; others wait for the lock delay then. [`Lease::release`] lets them
/// have it at once.
#[derive(Debug)]
pub struct Lease {
    presence: Arc<Presence>,
    registration: Registration,
    key: String,
    session_id: String,
    session: Mutex<Option<Session>>,
    token: u64,
    value: Vec<u8>,
    /// The moment up to which the last proof counts, in nanoseconds since the clock's origin.
    until: AtomicU64,
    /// When the last proof was asked for.
    proved: Mutex<Instant>,
    extended: Notify,
    ended: OnceLock<Ended>,
    finished: Notify,
    events: Mutex<VecDeque<Event>>,
    event: Notify,
    /// That this process holds the key, or waits for it.
    _entered: Entered,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    Released,
    Lost(String),
}

/// What a read shows of a lock's key.
struct Seen {
    entry: Option<EntryMeta>,
    value: Vec<u8>,
    index: Option<u64>,
}

impl Seen {
    fn holder(&self) -> Option<&str> {
        self.entry.as_ref().and_then(|entry| entry.session.as_deref())
    }
}

/// A lock that Consul gave to a session.
struct Grant {
    token: u64,
    value: Vec<u8>,
    /// When the write or the read that proves it was begun.
    begun: Instant,
}

/// What became of one attempt to lock the key.
enum Attempt {
    Granted(Grant),
    /// The key is not what it was when it was looked at.
    Changed,
    /// A lock that was lost is kept from everybody for a while.
    Delayed,
    SessionGone,
}

/// Acquires the lock on `key`.
///
/// # Errors
/// [`Kind::Conflict`] when it is held by another and was not to be waited for, when this process
/// holds it or waits for it already, and when the key is no lock; [`Kind::Timeout`] when the wait is
/// over; else what Consul refused. Whatever the error, no session is left behind, as far as Consul
/// can be reached.
pub async fn acquire(
    presence: &Arc<Presence>,
    key: &str,
    options: &LockOptions,
) -> Result<Arc<Lease>, Error> {
    let clock = presence.client().clock();
    let entered = presence.enter(key)?;
    let timeout = match options.wait {
        Wait::Once => Some(presence.client().settings().timeout),
        Wait::For(wait) => Some(wait),
        Wait::Forever => None,
    };
    let mut competitor = Competitor {
        presence,
        key,
        options,
        session: None,
        seen_holder: String::new(),
        borne: None,
    };
    let over = async {
        match timeout {
            Some(timeout) => clock.sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        biased;
        outcome = competitor.compete() => Some(outcome),
        () = over => None,
    };
    match (outcome, competitor.session.take()) {
        (Some(Ok(grant)), Some((registration, session))) => {
            Ok(Arc::new(Lease::new(presence, registration, key, session, grant, entered)))
        }
        (outcome, session) => {
            if let Some((_, session)) = session {
                let _ = session.end().await;
            }
            match outcome {
                Some(Err(error)) => Err(error),
                _ => Err(competitor.timed_out(timeout.unwrap_or_default())),
            }
        }
    }
}

struct Competitor<'a> {
    presence: &'a Arc<Presence>,
    key: &'a str,
    options: &'a LockOptions,
    session: Option<(Registration, Session)>,
    seen_holder: String,
    /// The last error that was waited out.
    borne: Option<Error>,
}

impl Competitor<'_> {
    async fn compete(&mut self) -> Result<Grant, Error> {
        let once = self.options.wait == Wait::Once;
        let mut index = None;
        loop {
            let seen = match look(self.presence, self.key, index).await {
                Ok(seen) => seen,
                Err(error) => {
                    self.bear(error).await?;
                    continue;
                }
            };
            if let Some(entry) = &seen.entry
                && entry.flags != LOCK_FLAGS
            {
                return Err(self.conflict("the key exists and is no lock"));
            }
            if let Some(holder) = seen.holder().map(str::to_owned) {
                if self.session.as_ref().is_some_and(|(_, session)| session.id() == holder) {
                    // An attempt that seemed to fail arrived after all.
                    if let Attempt::Granted(grant) = self.settle(&holder).await? {
                        return Ok(grant);
                    }
                    continue;
                }
                if once {
                    return Err(self.conflict(&format!("session {holder} holds it")));
                }
                // An index that goes back is one of a server that lost its memory.
                index = seen.index.filter(|next| index.is_none_or(|last| *next >= last));
                self.seen_holder = holder;
                self.renew().await;
                continue;
            }
            index = None;
            self.seen_holder.clear();
            match self.attempt(&seen).await {
                Ok(Attempt::Granted(grant)) => return Ok(grant),
                Ok(Attempt::Changed) => {}
                Ok(Attempt::SessionGone) => self.session = None,
                Ok(Attempt::Delayed) if once => {
                    return Err(self.conflict("it was lost and its lock delay is not over"));
                }
                Ok(Attempt::Delayed) => self.pause(DELAY_POLL_MS).await,
                Err(error) => self.bear(error).await?,
            }
        }
    }

    /// Keeps the session of a failed attempt for the next one.
    async fn renew(&mut self) {
        if let Some((_, session)) = &self.session
            && let Err(error) = self.presence.renew(session.id()).await
            && error.kind() == Kind::SessionInvalid
        {
            self.session = None;
        }
    }

    /// One attempt to lock the key that was seen free.
    async fn attempt(&mut self, seen: &Seen) -> Result<Attempt, Error> {
        let registration = self.presence.registered().await;
        if self.session.as_ref().is_some_and(|(made, _)| *made != registration) {
            self.session = None;
        }
        if self.session.is_none() {
            let name = format!("lock {}", self.key);
            let session = self.presence.session(registration, name).await?;
            self.session = Some((registration, session));
        }
        let Some((_, session)) = &self.session else { return Ok(Attempt::SessionGone) };
        let value = self.options.value.as_ref().unwrap_or(&seen.value);
        let unchanged = match &seen.entry {
            Some(entry) => vec![
                ("Verb", "check-index".into()),
                ("Key", self.key.into()),
                ("Index", entry.modify_index.into()),
            ],
            None => vec![("Verb", "check-not-exists".into()), ("Key", self.key.into())],
        };
        let lock = vec![
            ("Verb", "lock".into()),
            ("Key", self.key.into()),
            ("Value", value.clone().into()),
            ("Flags", LOCK_FLAGS.into()),
            ("Session", session.id().into()),
        ];
        let begun = self.presence.client().clock().now();
        match transact(self.presence, [unchanged, lock], None).await {
            Ok(results) => {
                let token =
                    results.items().last().and_then(|result| result.get("KV")).and_then(|entry| {
                        entry.get(self.presence.rules().token_member()).and_then(Value::as_u64)
                    });
                match token {
                    Some(token) => {
                        Ok(Attempt::Granted(Grant { token, value: value.clone(), begun }))
                    }
                    None => Err(Error::new(
                        Kind::Decode,
                        format!("lock {:?}: the answer does not tell the key's index", self.key),
                    )),
                }
            }
            Err(error) => {
                let says = |word: &str| error.message().contains(word);
                match error.kind() {
                    Kind::TxnFailed if says("due to lock delay") => Ok(Attempt::Delayed),
                    Kind::TxnFailed | Kind::SessionInvalid
                        if says("invalid session") || says("missing session") =>
                    {
                        Ok(Attempt::SessionGone)
                    }
                    Kind::TxnFailed => Ok(Attempt::Changed),
                    _ if error.maybe_applied() => {
                        let session = session.id().to_owned();
                        self.settle(&session).await
                    }
                    _ => Err(error),
                }
            }
        }
    }

    /// Finds out whether an attempt whose answer was lost succeeded.
    async fn settle(&mut self, session: &str) -> Result<Attempt, Error> {
        loop {
            let begun = self.presence.client().clock().now();
            match prove(self.presence, self.key).await {
                Ok(Seen { entry: Some(entry), value, .. })
                    if entry.session.as_deref() == Some(session) =>
                {
                    let token = self.presence.rules().token_of(&entry);
                    return Ok(Attempt::Granted(Grant { token, value, begun }));
                }
                Ok(_) => return Ok(Attempt::Changed),
                Err(error) => self.bear(error).await?,
            }
        }
    }

    /// Waits a little after an error that may pass, unless nothing is to be waited for.
    async fn bear(&mut self, error: Error) -> Result<(), Error> {
        if self.options.wait == Wait::Once || !error.retryable() {
            return Err(error.context(&format!("lock {:?}", self.key)));
        }
        tracing::info!(key = self.key, %error, "the lock is tried again");
        self.borne = Some(error);
        self.pause(ERROR_PAUSE_MS).await;
        Ok(())
    }

    async fn pause(&self, bounds_ms: Range<f64>) {
        let client = self.presence.client();
        let ms = bounds_ms.start + (bounds_ms.end - bounds_ms.start) * client.chance();
        client.clock().sleep(Duration::from_secs_f64(ms / 1e3)).await;
    }

    fn conflict(&self, why: &str) -> Error {
        Error::new(Kind::Conflict, format!("lock {:?}: {why}", self.key))
    }

    fn timed_out(&self, timeout: Duration) -> Error {
        let why = match (self.seen_holder.as_str(), &self.borne) {
            ("", None) => String::new(),
            ("", Some(error)) => format!("; last: {error}"),
            (holder, _) => format!("; session {holder} holds it"),
        };
        Error::new(
            Kind::Timeout,
            format!("lock {:?}: not acquired within {} ms{why}", self.key, timeout.as_millis()),
        )
        .transient()
    }
}

impl Lease {
    fn new(
        presence: &Arc<Presence>,
        registration: Registration,
        key: &str,
        session: Session,
        grant: Grant,
        entered: Entered,
    ) -> Self {
        let lease = Self {
            presence: Arc::clone(presence),
            registration,
            key: key.to_owned(),
            session_id: session.id().to_owned(),
            session: Mutex::new(Some(session)),
            token: grant.token,
            value: grant.value,
            until: AtomicU64::new(0),
            proved: Mutex::new(grant.begun),
            extended: Notify::new(),
            ended: OnceLock::new(),
            finished: Notify::new(),
            events: Mutex::default(),
            event: Notify::new(),
            _entered: entered,
        };
        lease.extend(grant.begun);
        lease
    }

    /// The lock's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The id of the session that holds it.
    pub fn session(&self) -> &str {
        &self.session_id
    }

    /// The fencing token: grows with every grant of this lock, whoever gets it. A resource that
    /// remembers the highest token and refuses lower ones is safe from holders of the past.
    ///
    /// Source: M. Kleppmann, "How to do distributed locking", 2016.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether it may be acted upon now. This asks nobody: it is true up to a moment that was fixed
    /// by the last proof.
    pub fn is_held(&self) -> bool {
        self.ended.get().is_none() && self.remaining() > Duration::ZERO
    }

    /// How long it may be acted upon without a further proof.
    pub fn remaining(&self) -> Duration {
        if self.ended.get().is_some() {
            return Duration::ZERO;
        }
        self.until() - self.now()
    }

    /// The next thing that happens to it, in order; none after [`Event::Lost`] or a release.
    pub async fn next_event(&self) -> Option<Event> {
        loop {
            let happened = self.event.notified();
            if let Some(event) = self.poll_event() {
                return Some(event);
            }
            if self.ended.get().is_some() {
                return None;
            }
            happened.await;
        }
    }

    /// The next thing that has happened to it.
    pub fn poll_event(&self) -> Option<Event> {
        lock(&self.events).pop_front()
    }

    /// Keeps the lock by proving it again and again, until it is lost or released; says which.
    ///
    /// The end of the lease is announced at its moment, whether Consul answers or not.
    pub async fn keep(&self) -> Option<Event> {
        let why = tokio::select! {
            biased;
            () = self.finished.notified() => return None,
            why = self.prove_repeatedly() => why,
            why = self.renew_repeatedly() => why,
            never = self.announce_deadlines() => match never {},
            () = self.presence.left(self.registration) => {
                "this process had to register with another agent".to_owned()
            }
        };
        self.lose(why)
    }

    /// Gives the lock up, so that the next one has it at once.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when it is not held any more; then nothing was changed. Else what Consul
    /// refused; the lock is given up all the same, but others wait for the lock delay.
    pub async fn release(&self) -> Result<(), Error> {
        if self.ended.set(Ended::Released).is_err() {
            return Err(self.not_held());
        }
        self.finish();
        let unlock = vec![
            ("Verb", "unlock".into()),
            ("Key", self.key.as_str().into()),
            ("Value", self.value.clone().into()),
            ("Flags", LOCK_FLAGS.into()),
            ("Session", self.session_id.as_str().into()),
        ];
        let unlocked = transact(&self.presence, [unlock], None).await;
        let session = lock(&self.session).take();
        if let Some(session) = session {
            let _ = session.end().await;
        }
        match unlocked {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == Kind::TxnFailed => {
                Err(self.conflict("it was lost before it could be released"))
            }
            Err(error) => Err(error.context(&format!("release of lock {:?}", self.key))),
        }
    }

    /// Writes another key on condition that this lock is held, which Consul itself checks. Gives the
    /// modify index of the write.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when the lock is not held, and nothing was written; else what Consul
    /// refused. The write is sent once, and its time is the profile's bound for one in flight.
    pub async fn fenced_put(&self, key: &str, value: Vec<u8>) -> Result<u64, Error> {
        if key == self.key {
            return Err(Error::argument(format!(
                "fenced_put: {key:?} is the lock's own key, and to write it ends the lock"
            )));
        }
        if !self.is_held() {
            return Err(self.not_held());
        }
        let holds = vec![
            ("Verb", "check-session".into()),
            ("Key", self.key.as_str().into()),
            ("Session", self.session_id.as_str().into()),
        ];
        let set = vec![("Verb", "set".into()), ("Key", key.into()), ("Value", value.into())];
        let in_flight = self.presence.profile().in_flight;
        match transact(&self.presence, [holds, set], Some(in_flight)).await {
            Ok(results) => Ok(results
                .items()
                .last()
                .and_then(|result| result.get("KV")?.get("ModifyIndex")?.as_u64())
                .unwrap_or_default()),
            Err(error) if error.kind() == Kind::TxnFailed => {
                Err(self.conflict("Consul says that it is not held any more"))
            }
            Err(error) => Err(error),
        }
    }

    async fn prove_repeatedly(&self) -> String {
        loop {
            let last = *lock(&self.proved);
            self.clock_sleep_until(last + self.presence.profile().proof_interval()).await;
            let begun = self.now();
            *lock(&self.proved) = begun;
            match prove(&self.presence, &self.key).await {
                Ok(seen) => match self.refutation(&seen) {
                    None => self.extend(self.presence.rules().counts_from(begun, self.now())),
                    Some(why) => return why,
                },
                Err(error) => tracing::info!(key = self.key, %error, "no proof of the lock"),
            }
        }
    }

    /// Why a linearizable read shows that this grant is over.
    fn refutation(&self, seen: &Seen) -> Option<String> {
        let why = match &seen.entry {
            None => "its key was deleted",
            Some(entry) => match entry.session.as_deref() {
                None => "Consul took it away: its session is over",
                Some(session) if session != self.session_id => "another session holds it",
                Some(_) if self.presence.rules().token_of(entry) != self.token => {
                    "its key was written by somebody else"
                }
                Some(_) => return None,
            },
        };
        Some(why.to_owned())
    }

    async fn renew_repeatedly(&self) -> String {
        loop {
            let interval = self.presence.profile().renew_interval();
            self.presence.client().clock().sleep(interval).await;
            let begun = self.now();
            match self.presence.renew(&self.session_id).await {
                Ok(()) if self.presence.rules().renewal_is_no_proof => {}
                Ok(()) => self.extend(begun),
                Err(error) if error.kind() == Kind::SessionInvalid => {
                    return "its session is over".to_owned();
                }
                Err(error) => tracing::info!(key = self.key, %error, "session not renewed"),
            }
        }
    }

    async fn announce_deadlines(&self) -> Infallible {
        loop {
            let extended = self.extended.notified();
            let until = self.until();
            if self.now() < until {
                self.clock_sleep_until(until).await;
                continue;
            }
            self.announce(Event::Suspended);
            tracing::warn!(key = self.key, "the lock is suspended: Consul gives no proof of it");
            extended.await;
            self.announce(Event::Resumed);
            tracing::warn!(key = self.key, "the lock is proved again");
        }
    }

    /// Takes a proof that was asked for at `begun`.
    fn extend(&self, begun: Instant) {
        let until = begun + self.presence.profile().lease;
        let until_ns = u64::try_from(until.since_origin().as_nanos()).unwrap_or(u64::MAX);
        self.until.fetch_max(until_ns, Ordering::AcqRel);
        if until > self.now() {
            self.extended.notify_waiters();
        }
    }

    fn lose(&self, why: String) -> Option<Event> {
        if self.ended.set(Ended::Lost(why.clone())).is_err() {
            return None;
        }
        tracing::warn!(key = self.key, why, "the lock is lost");
        let event = Event::Lost(why);
        self.announce(event.clone());
        self.finish();
        drop(lock(&self.session).take());
        Some(event)
    }

    fn finish(&self) {
        self.finished.notify_one();
        self.event.notify_waiters();
    }

    fn announce(&self, event: Event) {
        lock(&self.events).push_back(event);
        self.event.notify_waiters();
    }

    fn not_held(&self) -> Error {
        match self.ended.get() {
            Some(Ended::Released) => self.conflict("it was released").not_sent(),
            Some(Ended::Lost(why)) => self.conflict(&format!("it was lost: {why}")).not_sent(),
            None => self.conflict("it is suspended: Consul gives no proof of it").not_sent(),
        }
    }

    fn conflict(&self, why: &str) -> Error {
        Error::new(Kind::Conflict, format!("lock {:?}: {why}", self.key))
    }

    fn until(&self) -> Instant {
        Instant::from_origin(Duration::from_nanos(self.until.load(Ordering::Acquire)))
    }

    fn now(&self) -> Instant {
        self.presence.client().clock().now()
    }

    async fn clock_sleep_until(&self, deadline: Instant) {
        self.presence.client().clock().sleep_until(deadline).await;
    }
}

/// Looks at a lock's key; with an index, waits until it changes.
async fn look(presence: &Presence, key: &str, index: Option<u64>) -> Result<Seen, Error> {
    let mut args = Args::new().arg(key);
    if let Some(index) = index {
        args = args.opt("index", index).opt("wait", format!("{}s", WATCH.as_secs()));
    }
    read(presence, args).await
}

/// Reads a lock's key so that the answer is true at some moment since now.
///
/// A default read is not: a leader that is cut off from the others answers it for a while.
async fn prove(presence: &Presence, key: &str) -> Result<Seen, Error> {
    let timeout_ms = presence.profile().proof_timeout().as_millis() as u64;
    let args = Args::new().arg(key).opt("consistent", true).opt("timeout_ms", timeout_ms);
    read(presence, args).await
}

async fn read(presence: &Presence, args: Args) -> Result<Seen, Error> {
    let answer = presence.client().call(&kv::GET, &args).await?;
    let value = match answer.value {
        Value::Bytes(bytes) => bytes,
        _ => Vec::new(),
    };
    let index = answer.meta.index.map(|index| index.max(1));
    Ok(Seen { entry: answer.meta.entry, value, index })
}

/// Applies operations on keys together or not at all; the results.
async fn transact<const N: usize>(
    presence: &Presence,
    operations: [Vec<(&str, Value)>; N],
    timeout: Option<Duration>,
) -> Result<Value, Error> {
    let operations = operations.map(|operation| map(vec![("KV", map(operation))]));
    let mut args = Args::new().arg(Value::List(operations.into()));
    if let Some(timeout) = timeout {
        args = args.opt("timeout_ms", timeout.as_millis() as u64);
    }
    presence.client().call(&txn::TXN, &args).await.map(|answer| answer.value)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
