//! Timers: events at a set time.

use super::session::SessionId;
use consul_process::clock::Instant;
use std::collections::BTreeMap;

/// The event of a timer.
#[derive(Clone, Debug)]
pub(crate) enum Timer {
    /// A session was not renewed for twice its TTL.
    SessionExpires(SessionId),
    /// A TTL check had no update for its TTL.
    CheckExpires(String),
    /// A check that the agent runs is due.
    RunCheck(String),
    /// A changed output of a check is written to the catalog.
    SyncCheck(String),
    /// The agent compares the catalog with its local state.
    Sync,
    /// The agent deregisters services that were critical for too long.
    ReapCritical,
    /// A lock delay is over.
    LockDelayEnds(Box<[u8]>),
    /// The collected updates of coordinates are written.
    ApplyCoordinates,
    /// The oldest tombstones are reaped.
    ReapTombstones,
    /// The token with this accessor id expires.
    TokenExpires(String),
}

impl Timer {
    /// Whether it is a timer of the agent's services and checks, not of the servers.
    fn is_of_agent(&self) -> bool {
        use Timer::*;
        matches!(self, CheckExpires(_) | RunCheck(_) | SyncCheck(_) | Sync | ReapCritical)
    }
}

/// Identifies a timer, to cancel it.
pub(crate) type TimerKey = (Instant, u64);

/// The pending timers, by their time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeMap<TimerKey, Timer>,
    next_id: u64,
    earlier: bool,
}

impl Timers {
    pub fn set(&mut self, at: Instant, timer: Timer) -> TimerKey {
        self.earlier |= self.next_deadline().is_none_or(|next| at < next);
        self.next_id += 1;
        let key = (at, self.next_id);
        self.queue.insert(key, timer);
        key
    }

    pub fn cancel(&mut self, key: TimerKey) {
        self.queue.remove(&key);
    }

    /// Removes the server's timers.
    pub fn keep_those_of_the_agent(&mut self) {
        self.queue.retain(|_, timer| timer.is_of_agent());
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    /// Removes and returns the first timer that is due at `now`.
    pub fn take_due(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        let first = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((at, _), timer) = first.remove_entry();
        Some((at, timer))
    }

    /// Whether a timer was set before all others since the last call.
    pub fn take_earlier(&mut self) -> bool {
        std::mem::take(&mut self.earlier)
    }
}
