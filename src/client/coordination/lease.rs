//! Leases: for how long a holder may believe that it holds, and how it learns that it does not.

use super::guard::Entrusted;
use super::presence::{Entered, Presence, Registration, Session};
use super::{Grant, Operation, modify_index, semaphore, transact};
use crate::clock::Instant;
use crate::error::{Error, Kind};
use crate::sync::lock;
use crate::wire::value::Value;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;

/// What is held.
#[derive(Debug)]
pub(super) enum Claim {
    /// The lock on a key, whose value is this.
    Lock(Vec<u8>),
    /// One of a semaphore's permits.
    Permit,
}

/// What happens to a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The time of the last proof is over: nothing may be done under it any more, unless
    /// [`Event::Resumed`] follows.
    Suspended,
    /// There is a proof again, of the same grant: it was held all the while.
    Resumed,
    /// It is gone, for this reason. Nothing follows.
    Lost(String),
}

/// A lock, or a permit of a semaphore, that was granted. It lasts as long as [`Lease::keep`] runs and Consul agrees.
///
/// Dropping it gives it up; others wait for the lock delay then. [`Lease::release`] lets them
/// have it at once.
#[derive(Debug)]
pub struct Lease {
    presence: Arc<Presence>,
    registration: Registration,
    claim: Claim,
    key: String,
    session_id: String,
    /// The session, and that the guard gives back what it holds.
    session: Mutex<Option<(Session, Option<Entrusted>)>>,
    token: u64,
    /// The moment up to which the last proof counts, in nanoseconds since the clock's origin.
    until: AtomicU64,
    /// When the grant was asked for.
    begun: Instant,
    extended: Notify,
    ended: OnceLock<Ended>,
    finished: Notify,
    events: Mutex<VecDeque<Event>>,
    event: Notify,
    /// That this process holds the key.
    entered: Mutex<Option<Entered>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    Released,
    Lost(String),
}

impl Lease {
    pub(super) fn new(
        presence: &Arc<Presence>,
        key: &str,
        (registration, session): (Registration, Session),
        grant: Grant,
        entered: Entered,
    ) -> Arc<Self> {
        let lease = Self {
            presence: Arc::clone(presence),
            registration,
            claim: grant.claim,
            key: key.to_owned(),
            session_id: session.id().to_owned(),
            session: Mutex::new(Some((session, grant.entrusted))),
            token: grant.token,
            until: AtomicU64::new(0),
            begun: grant.begun,
            extended: Notify::new(),
            ended: OnceLock::new(),
            finished: Notify::new(),
            events: Mutex::default(),
            event: Notify::new(),
            entered: Mutex::new(Some(entered)),
        };
        lease.extend(grant.begun);
        Arc::new(lease)
    }

    /// The lock's key, or the semaphore's prefix.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The id of the session that holds it.
    pub fn session(&self) -> &str {
        &self.session_id
    }

    /// The fencing token: grows with every grant, whoever gets it. A resource that
    /// remembers the highest token and refuses lower ones is safe from holders of the past.
    ///
    /// Source: M. Kleppmann, "How to do distributed locking", 2016.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether it may be acted upon now. This asks nobody: it is true up to a moment that was fixed
    /// by the last proof.
    pub fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Whether it was lost or released.
    pub fn has_ended(&self) -> bool {
        self.ended.get().is_some()
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

    /// Keeps it by proving it again and again, until it is lost or released; says which.
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

    /// Gives it up, so that the next one has it at once.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when it is not held any more; then nothing was changed. Else what Consul
    /// refused; it is given up all the same, but others wait for the lock delay.
    pub async fn release(&self) -> Result<(), Error> {
        if self.ended.set(Ended::Released).is_err() {
            return Err(self.not_held());
        }
        self.finish();
        let released = match &self.claim {
            Claim::Lock(value) => {
                super::lock::release(&self.presence, &self.key, &self.session_id, value).await
            }
            Claim::Permit => semaphore::release(&self.presence, &self.key, &self.session_id).await,
        };
        let session = lock(&self.session).take();
        if let Some((session, _entrusted)) = session {
            let _ = session.end().await;
        }
        drop(lock(&self.entered).take());
        match released {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == Kind::TxnFailed => {
                let why = "it was lost before it could be released";
                Err(self.conflict(why).with_maybe_applied(false))
            }
            Err(error) => Err(error.context(&format!("release of {}", self.name()))),
        }
    }

    /// Writes another key on condition that this is held, which Consul itself checks. Gives the
    /// modify index of the write.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when it is not held, and nothing was written; else what Consul
    /// refused. The write is sent once, and its time is the profile's bound for one in flight.
    pub async fn fenced_put(&self, key: &str, value: Vec<u8>) -> Result<u64, Error> {
        if key == self.held_key() {
            return Err(Error::argument(format!(
                "fenced_put: {key:?} is what {} consists of; to write it ends it",
                self.name()
            )));
        }
        let set = vec![("Verb", "set".into()), ("Key", key.into()), ("Value", value.into())];
        let results = self.fenced([set]).await?;
        Ok(modify_index(&results).unwrap_or_default())
    }

    /// Applies operations on keys, together or not at all, on condition that this is held, which
    /// Consul itself checks. Gives the results.
    ///
    /// # Errors
    /// As [`Lease::fenced_put`]; [`Kind::TxnFailed`] when it is held and one of the operations was
    /// refused.
    pub async fn fenced(
        &self,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Result<Value, Error> {
        if !self.is_held() {
            return Err(self.not_held());
        }
        let holds = vec![
            ("Verb", "check-session".into()),
            ("Key", self.held_key().into()),
            ("Session", self.session_id.as_str().into()),
        ];
        let in_flight = self.presence.profile().in_flight;
        let operations = std::iter::once(holds).chain(operations);
        match transact(self.presence.client(), operations, Some(in_flight)).await {
            Ok(results) => Ok(results),
            Err(error) if error.refused().iter().any(|refused| refused.index == 0) => {
                let why = "Consul says that it is not held any more";
                Err(self.conflict(why).with_maybe_applied(false))
            }
            Err(error) => Err(error),
        }
    }

    /// The key that the session holds.
    fn held_key(&self) -> String {
        match self.claim {
            Claim::Lock(_) => self.key.clone(),
            Claim::Permit => semaphore::contender_key(&self.key, &self.session_id),
        }
    }

    async fn prove_repeatedly(&self) -> String {
        let mut begun = self.begun;
        loop {
            self.sleep_until(begun + self.presence.profile().proof_interval()).await;
            begun = self.now();
            let refutation = match self.claim {
                Claim::Lock(_) => {
                    super::lock::refutation(&self.presence, &self.key, &self.session_id, self.token)
                        .await
                }
                Claim::Permit => {
                    semaphore::refutation(&self.presence, &self.key, &self.session_id).await
                }
            };
            match refutation {
                Ok(None) => self.extend(self.presence.rules().counts_from(begun, self.now())),
                Ok(Some(why)) => return why.to_owned(),
                Err(error) => tracing::info!(key = self.key, %error, "no proof"),
            }
        }
    }

    async fn renew_repeatedly(&self) -> String {
        loop {
            self.sleep_until(self.now() + self.presence.profile().renew_interval()).await;
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
            let now = self.now();
            if now < until {
                // A timer stands still while the machine is suspended, so it is looked again.
                self.sleep_until(until.min(now + self.presence.profile().proof_interval())).await;
                continue;
            }
            self.announce(Event::Suspended);
            tracing::warn!(key = self.key, "suspended: Consul gives no proof");
            extended.await;
            self.announce(Event::Resumed);
            tracing::warn!(key = self.key, "proved again");
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
        tracing::warn!(key = self.key, why, "lost");
        drop(lock(&self.session).take());
        drop(lock(&self.entered).take());
        let event = Event::Lost(why);
        self.announce(event.clone());
        self.finish();
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
        Error::new(Kind::Conflict, format!("{}: {why}", self.name()))
    }

    fn name(&self) -> String {
        let kind = match self.claim {
            Claim::Lock(_) => "lock",
            Claim::Permit => "semaphore",
        };
        format!("{kind} {:?}", self.key)
    }

    fn until(&self) -> Instant {
        Instant::from_origin(Duration::from_nanos(self.until.load(Ordering::Acquire)))
    }

    fn now(&self) -> Instant {
        self.presence.client().clock().now()
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.presence.client().clock().sleep_until(deadline).await;
    }
}
