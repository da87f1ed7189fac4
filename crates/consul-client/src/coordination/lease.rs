//! Leases: for how long a holder may act, and how it learns of a loss.

use super::ending::{Ending, Holding};
use super::guard::Deferred;
use super::presence::{InUse, Presence, Registration, Session};
use super::profile::SESSION_TTL_MULTIPLIER;
use super::proofs::MAX_OPERATIONS;
use super::{Grant, Operation, Proof, modify_index, semaphore, set, transact};
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_process::clock::Instant;
use consul_process::metrics::{ClaimNumbers, Held, numbers};
use consul_process::sync::lock;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// The kind of a lease.
#[derive(Clone, Debug)]
pub(super) enum Claim {
    /// A lock, with the value of its key.
    Lock(Vec<u8>),
    /// A permit of a semaphore with this limit.
    Permit { limit: u64 },
}

/// A change of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The last proof has expired: the holder must not act any more, unless [`Event::Resumed`]
    /// follows.
    Suspended,
    /// There is a new proof of the same grant: it was held all the time.
    Resumed,
    /// It is lost, for this reason. No event follows.
    Lost(String),
}

/// A granted lock, or a granted permit of a semaphore. It lasts as long as [`Lease::keep`] runs and
/// the session lives.
///
/// Dropping it ends its session, and others wait for the lock delay. After [`Lease::release`] they
/// can acquire it at once.
#[derive(Debug)]
pub struct Lease {
    this: Weak<Lease>,
    presence: Arc<Presence>,
    registration: Registration,
    claim: Claim,
    key: String,
    session_id: String,
    /// The session, and its release by the guard process.
    session: Mutex<Option<(Session, Option<Deferred>)>>,
    token: u64,
    /// The end of the last proof, in nanoseconds since the clock's origin.
    until: AtomicU64,
    /// When the grant was requested.
    begun: Instant,
    /// Why the last request for a proof gave none.
    no_proof: Mutex<Option<String>>,
    extended: Notify,
    ended: OnceLock<Ended>,
    /// Its release, until it has succeeded or the lock was lost before.
    ending: Mutex<Option<Arc<Ending>>>,
    finished: Notify,
    events: Mutex<VecDeque<Event>>,
    event: Notify,
    in_use: Mutex<Option<(InUse, Held)>>,
    numbers: &'static ClaimNumbers,
    proving: watch::Sender<Proving>,
}

/// How a lease is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proving {
    /// It is not kept.
    Not,
    /// In a transaction with others.
    Together,
    /// By reads of its own.
    Alone(Alone),
}

/// Why a lease is proven alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alone {
    /// A transaction does not show it as held: reads find out why, and only another transaction can prove it.
    Refused,
    /// No transaction is answered by Consul.
    Unanswered,
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
        (registration, mut session): (Registration, Session),
        grant: Grant,
        in_use: InUse,
    ) -> Arc<Self> {
        // Until its release the holder acts under it.
        let (claim, deferred) = match session.held.take() {
            Some(held) => (held.claim, held.deferred),
            None => (Claim::Permit { limit: 1 }, None),
        };
        let numbers = match claim {
            Claim::Lock(_) => &numbers().locks,
            Claim::Permit { .. } => &numbers().permits,
        };
        numbers.acquired.add_one();
        let lease = |this: &Weak<Lease>| Self {
            this: this.clone(),
            presence: Arc::clone(presence),
            numbers,
            registration,
            claim,
            key: key.to_owned(),
            session_id: session.id().to_owned(),
            session: Mutex::new(Some((session, deferred))),
            token: grant.token,
            until: AtomicU64::new(0),
            begun: grant.begun,
            no_proof: Mutex::default(),
            extended: Notify::new(),
            ended: OnceLock::new(),
            ending: Mutex::default(),
            finished: Notify::new(),
            events: Mutex::default(),
            event: Notify::new(),
            in_use: Mutex::new(Some((in_use, numbers.held.hold()))),
            proving: watch::Sender::new(Proving::Not),
        };
        let lease = Arc::new_cyclic(lease);
        lease.extend(grant.begun);
        lease
    }

    /// The lock's key, or the semaphore's prefix.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The id of the session that holds it.
    pub fn session(&self) -> &str {
        &self.session_id
    }

    /// The fencing token, which grows with every grant of this key to any process. A resource that
    /// remembers the highest token and refuses lower ones is safe from former holders.
    ///
    /// Source: M. Kleppmann, "How to do distributed locking", 2016.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether the holder may act now. This makes no request: it is true until a moment that the
    /// last proof has fixed.
    pub fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Whether it was lost or released, which is final.
    pub fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// How long the holder may act without a further proof.
    pub fn remaining(&self) -> Duration {
        if self.ended.get().is_some() {
            return Duration::ZERO;
        }
        self.until() - self.now()
    }

    /// Waits for the next event; `None` after [`Event::Lost`] or a release.
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

    /// The next event, if there is one already.
    pub fn poll_event(&self) -> Option<Event> {
        lock(&self.events).pop_front()
    }

    /// Renews its session and proves it, until it is lost or released. Returns the loss, or `None`
    /// after a release.
    ///
    /// [`Event::Suspended`] comes on time whether Consul answers or not.
    pub async fn keep(&self) -> Option<Event> {
        let _kept = Kept::begin(self);
        let why = tokio::select! {
            biased;
            () = self.finished.notified() => return None,
            why = self.prove_alone() => why,
            why = self.renew_repeatedly() => why,
            never = self.watch_deadline() => match never {},
            () = self.presence.moved_from(self.registration) => {
                "this process had to register with another agent".to_owned()
            }
        };
        self.lose(why)
    }

    /// Releases it, so that a waiter can have it at once.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when it is not held any more, and nothing was changed; otherwise Consul's
    /// error. After an error with an unknown outcome it is not held either; the release goes on in the
    /// background, and this can be called again to wait for it. That is so too while something refuses the
    /// requests; when Consul has ended the session instead, the error is that of the refusal.
    pub async fn release(&self) -> Result<(), Error> {
        self.release_leaving(None).await
    }

    /// Releases a lock as [`Lease::release`] does; its key then has this value.
    ///
    /// # Errors
    /// As [`Lease::release`].
    pub async fn release_leaving(&self, left: Option<&[u8]>) -> Result<(), Error> {
        let ending = self.begin_release(left)?;
        let timeout = self.presence.client().settings().timeout;
        self.presence.end_until(&ending, self.now() + timeout).await;
        drop(lock(&self.in_use).take());
        let Some(freed) = ending.freed() else {
            let error = ending.failure().unwrap_or_else(|| {
                let why = format!("no answer within {} ms", timeout.as_millis());
                Error::new(Kind::Timeout, why).retryable()
            });
            let error = error.with_note("it goes on in the background").with_maybe_applied(true);
            return Err(error.context(&format!("release of {}", self.name())));
        };
        if freed.as_ref().err().is_none_or(|error| error.kind() == Kind::TxnFailed) {
            lock(&self.ending).take();
        }
        match freed {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == Kind::TxnFailed => {
                let why = "it was lost before it could be released";
                Err(self.conflict(why).with_maybe_applied(false))
            }
            Err(error) => Err(error.context(&format!("release of {}", self.name()))),
        }
    }

    /// Releases it in the background, and waits for nothing.
    pub fn give_up(&self) {
        if self.begin_release(None).is_ok() {
            drop(lock(&self.in_use).take());
        }
    }

    /// Begins the release, or returns the one whose outcome is not known yet.
    fn begin_release(&self, left: Option<&[u8]>) -> Result<Arc<Ending>, Error> {
        let mut begun = lock(&self.ending);
        if let Some(ending) = &*begun {
            return Ok(Arc::clone(ending));
        }
        if self.ended.set(Ended::Released).is_err() {
            return Err(self.not_held());
        }
        self.numbers.released.add_one();
        self.finish();
        let (mut session, deferred) = lock(&self.session).take().ok_or_else(|| self.not_held())?;
        let claim = match (&self.claim, left) {
            (Claim::Lock(_), Some(left)) => Claim::Lock(left.to_vec()),
            (claim, _) => claim.clone(),
        };
        session.held = Some(Holding { key: self.key.clone(), claim, deferred });
        Ok(Arc::clone(begun.insert(session.give_up())))
    }

    /// Writes another key in one transaction with the check that this is held. Returns the modify
    /// index of the write.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when it is not held, and nothing was written; otherwise Consul's error.
    /// The write is sent once, with the time limit `in_flight` of the profile.
    pub async fn fenced_put(&self, key: &str, value: Vec<u8>) -> Result<u64, Error> {
        if key == self.held_key() {
            return Err(Error::argument(format!(
                "fenced_put: {key:?} is the key of {} itself; a write would end it",
                self.name()
            )));
        }
        let results = self.fenced([set(key, value)]).await?;
        modify_index(&results).ok_or_else(|| {
            let why = "fenced_put: the answer is not Consul's: the write has no index";
            Error::new(Kind::Decode, why)
        })
    }

    /// Applies operations on keys in one transaction with the check that this is held. Returns
    /// their results.
    ///
    /// # Errors
    /// As [`Lease::fenced_put`]; [`Kind::TxnFailed`] when it is held and Consul refused one of the
    /// operations.
    pub async fn fenced(
        &self,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Result<Value, Error> {
        if !self.is_held() {
            return Err(self.not_held());
        }
        let holds = super::holds(&self.held_key(), &self.session_id);
        let in_flight = self.presence.profile().in_flight;
        let operations = std::iter::once(holds).chain(operations);
        match transact(self.presence.client(), operations, Some(in_flight)).await {
            Ok(results) => Ok(results),
            Err(error)
                if error.kind() == Kind::TxnFailed
                    && error.refused().iter().any(|refused| refused.index == 0) =>
            {
                let why = "it is not held any more";
                Err(self.conflict(why).with_maybe_applied(false))
            }
            Err(error) => Err(error),
        }
    }

    /// The key that the session holds.
    fn held_key(&self) -> String {
        match self.claim {
            Claim::Lock(_) => self.key.clone(),
            Claim::Permit { .. } => semaphore::contender_key(&self.key, &self.session_id),
        }
    }

    /// When the grant was requested.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    pub(super) fn is_proven_together(&self) -> bool {
        *self.proving.borrow() == Proving::Together
    }

    /// Has it proven by reads of its own until one shows it as held.
    pub(super) fn look_alone(&self, why: Alone) {
        self.proving.send_if_modified(|proving| {
            let is_together = *proving == Proving::Together;
            if is_together {
                *proving = Proving::Alone(why);
            }
            is_together
        });
    }

    /// The operations that Consul refuses unless the session holds it, for [`Lease::is_shown_by`].
    pub(super) fn proof(&self) -> impl Iterator<Item = Operation> {
        let holds = super::holds(&self.held_key(), &self.session_id);
        let document = match self.claim {
            Claim::Lock(_) => None,
            Claim::Permit { .. } => Some(semaphore::get_document(&self.key)),
        };
        std::iter::once(holds).chain(document)
    }

    /// How many operations [`Lease::proof`] has.
    pub(super) fn proof_size(&self) -> usize {
        match self.claim {
            Claim::Lock(_) => 1,
            Claim::Permit { .. } => 2,
        }
    }

    /// Whether the results of [`Lease::proof`], by their keys, show it as held.
    pub(super) fn is_shown_by<'a>(&self, result: impl Fn(&str) -> Option<&'a Value>) -> bool {
        let Some(held) = result(&self.held_key()) else { return false };
        let session = held.get("Session").and_then(Value::as_str);
        session == Some(&self.session_id)
            && match self.claim {
                Claim::Lock(_) => {
                    let token = held.get(self.presence.token_member());
                    token.and_then(Value::as_u64) == Some(self.token)
                }
                Claim::Permit { .. } => result(&semaphore::lock_key(&self.key))
                    .is_some_and(|document| semaphore::names_holder(document, &self.session_id)),
            }
    }

    /// Proves it by reads of its own while transactions with others do not. Returns why it is lost.
    async fn prove_alone(&self) -> String {
        let usual = self.presence.profile().proof_interval();
        let (mut before, mut is_doubted, mut refused_since) = (None, false, None);
        let mut without_document = None;
        loop {
            let why_alone = self.is_alone().await;
            let begun = self.now();
            let looked = match self.look().await {
                Ok(Proof::NoDocument(lost)) => {
                    let seen = without_document.filter(|(index, _)| *index == lost.index);
                    let (_, since) = *without_document.insert(seen.unwrap_or((lost.index, begun)));
                    self.restore_document(lost, since).await
                }
                looked => looked,
            };
            let outcome = match looked {
                Ok(Proof::Held) => Ok(None),
                Ok(Proof::NoDocument(lost)) => Err(lost.why.message().to_owned()),
                // Consul that was restored from a snapshot goes on to show that state.
                Ok(Proof::Before(index, why))
                    if before.replace(index).is_none_or(|it| index < it) =>
                {
                    Err(format!("at index {index}, before the grant: {why}"))
                }
                Ok(Proof::Before(_, why) | Proof::Lost(why)) => match self.is_lost().await {
                    Ok(true) => Ok(Some(why)),
                    Ok(false) => Err(format!("a transaction does not confirm it: {why}")),
                    Err(error) => {
                        self.note_failure(&error);
                        self.sleep_until(begun + usual).await;
                        continue;
                    }
                },
                Err(error) if error.kind() == Kind::NoLeader && error.status().is_none() => {
                    Err(error.message().to_owned())
                }
                Err(error) => {
                    self.note_failure(&error);
                    if is_refused(&error)
                        && begun - *refused_since.get_or_insert(begun) >= self.longest_session()
                    {
                        return format!("Consul refuses its token: {error}");
                    }
                    let is_over = refused_since.map(|since| since + self.longest_session());
                    let is_over = is_over.filter(|at| *at > self.now());
                    let next = begun + self.pause_alone();
                    self.sleep_until(is_over.map_or(next, |at| at.min(next))).await;
                    continue;
                }
            };
            match outcome {
                Ok(None) => {
                    (before, is_doubted, refused_since) = (None, false, None);
                    without_document = None;
                    if why_alone == Alone::Unanswered {
                        self.extend_by_proof(begun);
                    }
                    self.proving.send_replace(Proving::Together);
                    self.presence.proofs.rejoin();
                    continue;
                }
                Ok(Some(why)) => return why.to_owned(),
                Err(why) if std::mem::replace(&mut is_doubted, true) => {
                    tracing::debug!(key = self.key, why, "no proof");
                }
                Err(why) => {
                    tracing::warn!(
                        key = self.key,
                        why,
                        "an answer is not believed; it is asked again"
                    );
                }
            }
            self.sleep_until(begun + usual).await;
        }
    }

    /// The pause after a failed read of its own: the longer the more leases there are, since each may make them.
    fn pause_alone(&self) -> Duration {
        let (profile, leases) = (self.presence.profile(), self.presence.proofs.count());
        let usual = profile.proof_interval();
        let pause = usual * leases.div_ceil(MAX_OPERATIONS) as u32;
        pause.clamp(usual, usual.max(profile.lease / 2))
    }

    /// Writes the document of its semaphore again, when that is settled; of several holders one succeeds. The error says why
    /// it is not proven.
    async fn restore_document(
        &self,
        lost: semaphore::Lost,
        since: Instant,
    ) -> Result<Proof, Error> {
        let Claim::Permit { limit } = self.claim else { return Err(lost.why) };
        if self.now() - since < self.presence.profile().settled_after() {
            return Err(lost.why);
        }
        let own = (self.session_id.as_str(), limit);
        match semaphore::write_again(&self.presence, &self.key, own, &lost).await {
            Ok(()) => {
                let why = lost.why.message();
                tracing::warn!(prefix = self.key, why, "a semaphore's document is written again");
                Err(lost.why)
            }
            Err(error) if error.kind() == Kind::TxnFailed => Err(lost.why),
            Err(error) => Err(error),
        }
    }

    fn note_failure(&self, error: &Error) {
        tracing::info!(key = self.key, %error, "no proof");
        self.note_no_proof(error);
    }

    /// Notes why a proof has failed.
    pub(super) fn note_no_proof(&self, error: &Error) {
        *lock(&self.no_proof) = Some(error.to_string());
    }

    /// The longest time for which Consul keeps a session that is not renewed.
    fn longest_session(&self) -> Duration {
        self.presence.profile().session_ttl * SESSION_TTL_MULTIPLIER
    }

    /// Completes while it is proven alone.
    async fn is_alone(&self) -> Alone {
        let mut proving = self.proving.subscribe();
        loop {
            if let Proving::Alone(why) = *proving.borrow_and_update() {
                return why;
            }
            // The sender lives as long as `self`.
            let _ = proving.changed().await;
        }
    }

    /// Looks at it alone, in turns with others.
    async fn look(&self) -> Result<Proof, Error> {
        let _turn = self.presence.proofs.alone.acquire().await;
        self.prove().await
    }

    async fn prove(&self) -> Result<Proof, Error> {
        let (presence, key, session) = (&self.presence, &self.key, &self.session_id);
        match self.claim {
            Claim::Lock(_) => super::lock::prove(presence, key, session, self.token).await,
            Claim::Permit { .. } => semaphore::prove(presence, key, session, self.token).await,
        }
    }

    /// Whether a transaction shows too that it is lost.
    async fn is_lost(&self) -> Result<bool, Error> {
        let (presence, key, session) = (&self.presence, &self.key, &self.session_id);
        match self.claim {
            Claim::Lock(_) => super::lock::is_lost(presence, key, session, self.token).await,
            Claim::Permit { .. } => semaphore::is_lost(presence, key, session).await,
        }
    }

    async fn renew_repeatedly(&self) -> String {
        let usual = self.presence.profile().renew_interval();
        let mut interval = usual;
        loop {
            self.sleep_until(self.now() + interval).await;
            let begun = self.now();
            interval = match self.presence.renew_held(&self.session_id).await {
                Ok(next) => {
                    if !self.presence.renewal_is_no_proof() {
                        self.extend(begun);
                    }
                    next
                }
                Err(error) if error.kind() == Kind::SessionInvalid => match self.is_lost().await {
                    Ok(true) => return "its session ended".to_owned(),
                    Ok(false) => {
                        tracing::warn!(
                            key = self.key,
                            %error,
                            "an answer is not believed: a transaction shows that the session lives"
                        );
                        usual
                    }
                    // The proofs show whether it is held.
                    Err(error) => {
                        tracing::info!(key = self.key, %error, "session not renewed");
                        self.presence.profile().proof_interval()
                    }
                },
                Err(error) => {
                    tracing::info!(key = self.key, %error, "session not renewed");
                    usual
                }
            }
        }
    }

    async fn watch_deadline(&self) -> Infallible {
        loop {
            let extended = self.extended.notified();
            let until = self.until();
            let now = self.now();
            if now < until {
                // A timer stops while the machine is suspended, so the clock is read again at short
                // intervals.
                self.sleep_until(until.min(now + self.presence.profile().proof_interval())).await;
                continue;
            }
            self.numbers.suspended.add_one();
            self.push_event(Event::Suspended);
            let why = lock(&self.no_proof).clone().unwrap_or_else(|| "no answer".to_owned());
            tracing::warn!(key = self.key, why, "suspended: no proof within the lease");
            extended.await;
            self.push_event(Event::Resumed);
            tracing::warn!(key = self.key, "resumed: there is a proof again");
        }
    }

    /// Extends the lease by a proof that was requested at `begun` and has just been answered.
    pub(super) fn extend_by_proof(&self, begun: Instant) {
        self.extend(self.presence.lease_start(begun, self.now()));
    }

    /// Extends the lease by a proof that was requested at `begun`.
    fn extend(&self, begun: Instant) {
        let until = begun + self.presence.profile().lease;
        let until_ns = u64::try_from(until.since_origin().as_nanos()).unwrap_or(u64::MAX);
        self.until.fetch_max(until_ns, Ordering::AcqRel);
        lock(&self.no_proof).take();
        if until > self.now() {
            self.extended.notify_waiters();
        }
    }

    fn lose(&self, why: String) -> Option<Event> {
        if self.ended.set(Ended::Lost(why.clone())).is_err() {
            return None;
        }
        self.numbers.lost.add_one();
        tracing::warn!(key = self.key, why, "lost");
        drop(lock(&self.session).take());
        drop(lock(&self.in_use).take());
        let event = Event::Lost(why);
        self.push_event(event.clone());
        self.finish();
        Some(event)
    }

    fn finish(&self) {
        self.finished.notify_one();
        self.event.notify_waiters();
    }

    fn push_event(&self, event: Event) {
        lock(&self.events).push_back(event);
        self.event.notify_waiters();
    }

    fn not_held(&self) -> Error {
        match self.ended.get() {
            Some(Ended::Released) => self.conflict("it was released").not_sent(),
            Some(Ended::Lost(why)) => self.conflict(&format!("it was lost: {why}")).not_sent(),
            None => self.conflict("it is suspended: no proof within the lease").not_sent(),
        }
    }

    fn conflict(&self, why: &str) -> Error {
        Error::new(Kind::Conflict, format!("{}: {why}", self.name()))
    }

    fn name(&self) -> String {
        let kind = match self.claim {
            Claim::Lock(_) => "lock",
            Claim::Permit { .. } => "semaphore",
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

/// Whether Consul refuses the token, which a further request does not change.
fn is_refused(error: &Error) -> bool {
    matches!(error.kind(), Kind::AclNotFound | Kind::PermissionDenied)
}

/// A lease that is kept, until it is dropped.
struct Kept<'a>(&'a Lease);

impl<'a> Kept<'a> {
    fn begin(lease: &'a Lease) -> Self {
        lease.proving.send_replace(Proving::Together);
        lease.presence.proofs.add(Weak::clone(&lease.this));
        Kept(lease)
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.0.proving.send_replace(Proving::Not);
    }
}
