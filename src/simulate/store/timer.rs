//! Timers: what happens by itself when its moment has come.

use super::session::SessionId;
use crate::clock::Instant;
use std::collections::BTreeMap;

/// What a timer does.
#[derive(Clone, Debug)]
pub(in crate::simulate) enum Timer {
    /// A session was not renewed for twice its TTL.
    SessionExpires(SessionId),
    /// A TTL check got no update for its TTL.
    CheckExpires(String),
    /// A check that the agent runs is to be run again.
    RunCheck(String),
    /// A change of a check's output alone is to be written to the catalog.
    SyncCheck(String),
    /// The agent compares the catalog with what it knows.
    Sync,
    /// The agent looks for services that were critical for too long.
    SweepCritical,
    /// A lock delay is over.
    LockDelayEnds(Box<[u8]>),
    /// The collected updates of coordinates are to be written.
    ApplyCoordinates,
    /// The oldest tombstones have served their time.
    ReapTombstones,
    /// A token of this accessor id ends.
    TokenExpires(String),
}

/// Names a timer that was set.
pub(in crate::simulate) type TimerKey = (Instant, u64);

/// The timers that are set, by their moment.
#[derive(Clone, Debug, Default)]
pub(in crate::simulate) struct Timers {
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

    pub fn next_deadline(&self) -> Option<Instant> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    /// Takes out the first timer whose moment is not after `now`.
    pub fn take_due(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        let first = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((at, _), timer) = first.remove_entry();
        Some((at, timer))
    }

    /// Whether a timer was set before all others since this was last asked.
    pub fn take_earlier(&mut self) -> bool {
        std::mem::take(&mut self.earlier)
    }
}
