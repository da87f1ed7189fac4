//! The end of a session that is given up: by a release, a hand-over, an attempt or wait that ends without
//! the lock, garbage, or a stop. Consul keeps what the session holds until it has answered, because the
//! process lives and its check passes, so each end is made again until it is answered. A refusal may come from a
//! program between, or last for a moment: a refused request is made again as long as the session can live.

use super::guard::Deferred;
use super::lease::Claim;
use super::presence::Presence;
use super::profile::SESSION_TTL_MULTIPLIER;
use super::{lock, semaphore};
use consul_api::error::{Error, Kind};
use consul_process::clock::Instant;
use consul_process::sync::lock as locked;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// How many sessions are ended at a time, so that the beats have their share of the connections.
const MAX_AT_A_TIME: usize = 12;

/// How many more whose first try had no answer are tried again at a time.
const MAX_AGAIN: usize = 4;

/// The turns of the ends of sessions, each for one try: a key without answers holds up no other.
#[derive(Debug)]
pub(super) struct EndTurns {
    first: Semaphore,
    again: Semaphore,
}

impl Default for EndTurns {
    fn default() -> Self {
        Self { first: Semaphore::new(MAX_AT_A_TIME), again: Semaphore::new(MAX_AGAIN) }
    }
}

/// The possible hold of a session under which its holder does not act any more.
#[derive(Debug)]
pub(super) struct Holding {
    /// The key of the lock, or the prefix of the semaphore.
    pub key: String,
    pub claim: Claim,
    /// The release by the guard process.
    pub deferred: Option<Deferred>,
}

impl Holding {
    /// Frees it, so that a waiter can have it at once.
    async fn free(&self, presence: &Presence, session: &str, limit: Duration) -> Result<(), Error> {
        match &self.claim {
            Claim::Lock(value) => lock::release(presence, &self.key, session, value, limit).await,
            Claim::Permit { .. } => semaphore::release(presence, &self.key, session, limit).await,
        }
    }
}

/// A session that is given up, until Consul has answered that.
#[derive(Debug)]
pub(super) struct Ending {
    /// Grows with each session that this process gives up.
    number: u64,
    session: String,
    begun: Instant,
    held: Option<Holding>,
    /// The same by the guard process.
    deferred: Mutex<[Option<Deferred>; 2]>,
    progress: watch::Sender<Progress>,
    /// Only one task at a time sends its requests.
    turn: tokio::sync::Mutex<()>,
    /// Whether a request whose answer was lost may have freed what it holds.
    maybe_freed: AtomicBool,
}

#[derive(Debug, Default)]
struct Progress {
    freed: Option<Result<(), Error>>,
    /// The first error after which its requests were made again.
    failure: Option<Error>,
    is_over: bool,
}

impl Ending {
    pub fn new(
        number: u64,
        session: String,
        begun: Instant,
        mut held: Option<Holding>,
        deferred: Option<Deferred>,
    ) -> Arc<Self> {
        let unlock = held.as_mut().and_then(|held| held.deferred.take());
        let deferred = Mutex::new([unlock, deferred]);
        let (progress, turn, maybe_freed) = Default::default();
        Arc::new(Self { number, session, begun, held, deferred, progress, turn, maybe_freed })
    }

    /// Whether Consul has freed what the session held; `None`: that is not known yet.
    pub fn freed(&self) -> Option<Result<(), Error>> {
        self.progress.borrow().freed.clone()
    }

    /// Why it is not over yet.
    pub fn failure(&self) -> Option<Error> {
        self.progress.borrow().failure.clone()
    }

    fn is_over(&self) -> bool {
        self.progress.borrow().is_over
    }
}

impl Presence {
    /// Ends all sessions that are given up, forever.
    pub(super) async fn end_given_up(&self) -> Infallible {
        let mut given_up = self.given_up.subscribe();
        let (mut ending, mut next) = (FuturesUnordered::new(), 0);
        loop {
            let waiting = given_up.borrow_and_update().clone();
            let first = next;
            for it in waiting.into_iter().filter(|it| it.number >= first) {
                next = it.number + 1;
                ending.push(async move { self.end_in_turns(&it).await });
            }
            tokio::select! {
                biased;
                Some(()) = ending.next() => {}
                // The sender lives as long as `self`.
                _ = given_up.changed() => {}
            }
        }
    }

    /// Ends a session that is given up, and waits for that until `limit`.
    pub(super) async fn end_until(&self, ending: &Ending, limit: Instant) {
        tokio::select! {
            biased;
            () = self.end(ending) => {}
            () = self.client().clock().sleep_until(limit) => {}
        }
    }

    /// Sends the requests that end a session until they are answered. The time limit of one and a pause
    /// together are shorter than the TTL of the check, so that others wait no longer than after the death of
    /// this process.
    async fn end(&self, ending: &Ending) {
        let _turn = ending.turn.lock().await;
        while !ending.is_over() && !self.has_ended(ending, self.end_timeout()).await {
            self.client().clock().sleep(self.profile().beat).await;
        }
    }

    /// The same in turns with others: a pause keeps none of them waiting, nor do requests that have had no answer before.
    async fn end_in_turns(&self, ending: &Ending) {
        let (mut turns, mut limit) = (&self.end_turns.first, self.profile().proof_timeout());
        while !ending.is_over() {
            let place = turns.acquire().await;
            let Ok(turn) = ending.turn.try_lock() else {
                // A release waits for it meanwhile.
                drop(place);
                drop(ending.turn.lock().await);
                continue;
            };
            if ending.is_over() || self.has_ended(ending, limit).await {
                return;
            }
            drop((turn, place));
            self.client().clock().sleep(self.profile().beat).await;
            (turns, limit) = (&self.end_turns.again, self.end_timeout());
        }
    }

    /// Sends the requests that end a session once, each with this time limit. Returns whether it is over.
    async fn has_ended(&self, ending: &Ending, limit: Duration) -> bool {
        match self.try_to_end(ending, limit).await {
            Err(error)
                if !is_final(&error) && (error.is_transient() || !self.has_expired(ending)) =>
            {
                tracing::info!(%error, "a session is not ended yet; it is tried again");
                ending.progress.send_modify(|it| {
                    it.failure.get_or_insert(error);
                });
                return false;
            }
            Err(error) => {
                tracing::info!(%error, "a session could not be ended; its TTL has ended it");
                ending.progress.send_modify(|it| {
                    it.freed.get_or_insert(Err(error));
                });
            }
            Ok(()) => {}
        }
        *locked(&ending.deferred) = [None, None];
        ending.progress.send_modify(|it| it.is_over = true);
        self.given_up.send_modify(|all| all.retain(|it| it.number != ending.number));
        true
    }

    /// Whether the session has ended by itself, because nothing renews it. Consul ends it no later than two TTLs
    /// after the last renewal.
    ///
    /// Source: "Session Design" in Consul's documentation, and `SessionTTLMultiplier` in its source.
    fn has_expired(&self, ending: &Ending) -> bool {
        self.client().clock().now()
            >= ending.begun + self.profile().session_ttl * SESSION_TTL_MULTIPLIER
    }

    async fn try_to_end(&self, ending: &Ending, limit: Duration) -> Result<(), Error> {
        let note = |freed| ending.progress.send_modify(|it| it.freed = Some(freed));
        let mut refused = None;
        if let Some(held) = ending.held.as_ref().filter(|_| ending.freed().is_none()) {
            let before = ending.maybe_freed.swap(true, Ordering::Relaxed);
            match held.free(self, &ending.session, limit).await {
                Ok(()) => note(Ok(())),
                // It is not held: an earlier request has freed it.
                Err(error) if error.kind() == Kind::TxnFailed && before => note(Ok(())),
                Err(error) => {
                    let maybe_freed = before || error.maybe_applied();
                    ending.maybe_freed.store(maybe_freed, Ordering::Relaxed);
                    let error = error.with_maybe_applied(maybe_freed);
                    if is_final(&error) {
                        note(Err(error));
                    } else if error.is_transient() || !self.is_refused_for_long(ending) {
                        return Err(error);
                    } else {
                        refused = Some(error);
                    }
                }
            }
        }
        self.destroy(&ending.session).await?;
        if let Some(error) = refused {
            note(Err(error));
        }
        Ok(())
    }

    /// Whether the end of the session shall free what it holds: for others that takes no longer than the death of
    /// this process.
    fn is_refused_for_long(&self, ending: &Ending) -> bool {
        self.client().clock().now() >= ending.begun + self.profile().check_ttl
    }
}

/// Whether a repetition cannot succeed either: Consul says that it is not held any more.
fn is_final(error: &Error) -> bool {
    matches!(error.kind(), Kind::TxnFailed | Kind::SessionInvalid)
}
