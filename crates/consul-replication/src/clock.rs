//! The clock that gives writes their versions.

use super::map::NodeId;
use super::record::{HybridTime, Version};
use consul_api::error::{Error, Kind};
use consul_process::clock::Instant;
use consul_process::sync::lock;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Gives versions that are higher than all that this process has given or seen.
///
/// If the machine's clock was set back so far that other nodes would refuse such versions, it goes on from
/// the machine's clock under another writer number, as a new process would. A write that meets a newer
/// version is not acknowledged below it.
pub struct VersionClock {
    unix_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    max_skew: Duration,
    given: Mutex<Given>,
    /// The time of each node at its last answer, and when that came.
    heard: Mutex<BTreeMap<NodeId, (u64, Instant)>>,
    /// How many milliseconds the clock of each node was ahead of this machine's when it was compared last.
    ahead_ms: Mutex<BTreeMap<NodeId, i64>>,
}

/// The versions that later ones must differ from.
struct Given {
    last: HybridTime,
    writer: u64,
}

impl fmt::Debug for VersionClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VersionClock").finish_non_exhaustive()
    }
}

impl VersionClock {
    /// A clock that reads Unix milliseconds from `unix_ms`. `writer` is a random number of this process;
    /// versions further than `max_skew` ahead are refused.
    pub fn new(
        unix_ms: impl Fn() -> u64 + Send + Sync + 'static,
        max_skew: Duration,
        writer: u64,
    ) -> Self {
        let given = Mutex::new(Given { last: HybridTime::default(), writer });
        let (unix_ms, heard, ahead_ms) = (Arc::new(unix_ms), Mutex::default(), Mutex::default());
        VersionClock { unix_ms, max_skew, given, heard, ahead_ms }
    }

    /// The next version.
    pub fn next(&self) -> Version {
        let (mut given, now) = self.read();
        given.last = given.last.next().max(now);
        Version::new(given.last, given.writer)
    }

    /// The time of this process: that of the machine, or of the highest version if that is later.
    pub fn now(&self) -> HybridTime {
        let (given, now) = self.read();
        given.last.max(now)
    }

    /// The highest given version that is not too far ahead of the machine's clock, and its time.
    fn read(&self) -> (MutexGuard<'_, Given>, HybridTime) {
        let mut given = lock(&self.given);
        let now = (self.unix_ms)();
        let ahead = Duration::from_millis(given.last.ms().saturating_sub(now));
        if ahead > self.max_skew {
            tracing::warn!(ms = ahead.as_millis(), "the machine's clock was set back");
            // It may come to the same times again.
            *given = Given { last: HybridTime::default(), writer: given.writer.wrapping_add(1) };
        }
        (given, HybridTime::from_ms(now))
    }

    /// This machine's time, in Unix milliseconds.
    pub(super) fn unix_ms(&self) -> u64 {
        (self.unix_ms)()
    }

    /// Whether the time of a version is past by this machine's clock.
    pub fn is_past(&self, version: Version) -> bool {
        version.time().ms() <= (self.unix_ms)()
    }

    /// Makes all later versions higher than one of another process.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it is too far ahead of this machine's clock, which says that one of the two
    /// clocks is wrong.
    pub fn observe(&self, time: HybridTime) -> Result<(), Error> {
        let now = (self.unix_ms)();
        if time.ms() > self.allowed(now) {
            return Err(self.conflict(time.ms() - now));
        }
        let mut given = lock(&self.given);
        given.last = given.last.max(time);
        Ok(())
    }

    /// The refusal of a version that is this far ahead of a machine's clock.
    pub(super) fn conflict(&self, ahead_ms: u64) -> Error {
        let most = self.max_skew.as_millis();
        let why = format!(
            "a version is {ahead_ms} ms ahead of this machine's clock, up to {most} ms are allowed (max_skew_s)"
        );
        Error::new(Kind::Conflict, why)
    }

    /// The last millisecond that a clock with this time believes.
    pub(super) fn allowed(&self, time_ms: u64) -> u64 {
        time_ms.saturating_add(self.max_skew.as_millis() as u64)
    }

    /// Whether a version is too far ahead of this machine's clock.
    pub fn is_ahead(&self, version: Version) -> bool {
        version.time().ms() > self.allowed((self.unix_ms)())
    }

    /// A version above a replica's. If that is too far ahead of this machine's clock, later versions
    /// are none the higher.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if there is none above.
    pub fn above(&self, version: Version) -> Result<Version, Error> {
        if self.observe(version.time()).is_ok() {
            return Ok(self.next());
        }
        let writer = lock(&self.given).writer;
        let next = Version::new(version.time().next(), writer);
        let none = || Error::new(Kind::Conflict, "a record has the last version that there is");
        (next > version).then_some(next).ok_or_else(none)
    }

    /// Notes the time of a node in an answer that has come now.
    pub(super) fn hear(&self, node: &NodeId, time: HybridTime, now: Instant) {
        self.compare(node, time);
        lock(&self.heard).insert(node.clone(), (time.ms(), now));
    }

    /// Compares the time of a node in an answer that has come now with this machine's.
    pub(super) fn compare(&self, node: &NodeId, time: HybridTime) {
        let ahead_ms = time.ms() as i64 - (self.unix_ms)() as i64;
        lock(&self.ahead_ms).insert(node.clone(), ahead_ms);
    }

    /// Whether a version is too far ahead of this machine's clock, or of most of the clocks of these nodes and this one, as
    /// they were compared last: this clock may be the one ahead.
    pub(super) fn is_unbelieved<'a>(
        &self,
        version: Version,
        others: impl Iterator<Item = &'a NodeId>,
    ) -> bool {
        let now = (self.unix_ms)();
        let compared = lock(&self.ahead_ms);
        let others = others.filter_map(|node| compared.get(node));
        let mut times: Vec<u64> = others.map(|ms| now.saturating_add_signed(*ms)).collect();
        times.push(now);
        times.sort_unstable();
        let middle = times[times.len() / 2];
        version.time().ms() > self.allowed(middle.min(now))
    }

    /// The time of a node now, and when it was heard.
    pub(super) fn heard(&self, node: &NodeId, now: Instant) -> Option<(u64, Instant)> {
        let (ms, at) = lock(&self.heard).get(node).copied()?;
        Some((ms.saturating_add((now - at).as_millis() as u64), at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const HOUR_MS: u64 = 3_600_000;
    const NOON_MS: u64 = 1_700_000_000_000;

    /// A clock with a skew of up to a minute, and what its machine shows.
    fn clock() -> (VersionClock, Arc<AtomicU64>) {
        let machine = Arc::new(AtomicU64::new(NOON_MS));
        let unix_ms = Arc::clone(&machine);
        let unix_ms = move || unix_ms.load(Ordering::Relaxed);
        (VersionClock::new(unix_ms, Duration::from_secs(60), 7), machine)
    }

    #[test]
    fn a_machine_that_was_behind_and_is_set_right_takes_the_versions_of_others() {
        let (clock, machine) = clock();
        let other = HybridTime::from_ms(NOON_MS + HOUR_MS);
        let given = clock.next();
        assert_eq!(clock.observe(other).expect_err("an hour ahead").kind(), Kind::Conflict);
        machine.fetch_add(HOUR_MS, Ordering::Relaxed);
        clock.observe(other).expect("the machine's time");
        assert!(clock.next() > given && clock.now() >= other);
    }

    #[test]
    fn versions_do_not_go_back_with_the_machine_within_the_skew() {
        let (clock, machine) = clock();
        let given = clock.next();
        machine.fetch_sub(60_000, Ordering::Relaxed);
        assert!(clock.now() >= given.time());
        assert!(clock.next() > given);
    }

    #[test]
    fn a_machine_that_was_an_hour_ahead_gives_other_versions_when_it_comes_there_again() {
        let (clock, machine) = clock();
        let given = [clock.next(), clock.next()];
        machine.fetch_sub(HOUR_MS, Ordering::Relaxed);
        let right = HybridTime::from_ms(NOON_MS - HOUR_MS);
        assert_eq!(clock.now(), right);
        assert_eq!(clock.next().time(), right);
        machine.fetch_add(HOUR_MS, Ordering::Relaxed);
        let again = [clock.next(), clock.next()];
        assert_eq!(again.map(Version::time), given.map(Version::time));
        assert!(given.iter().all(|version| !again.contains(version)));
    }
}
