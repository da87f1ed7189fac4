//! The clock that gives writes their versions.

use super::record::{HybridTime, Version};
use crate::error::{Error, Kind};
use crate::sync::lock;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Gives versions that are higher than all that this process has given or seen.
pub struct VersionClock {
    unix_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    max_skew: Duration,
    writer: u64,
    last: Mutex<HybridTime>,
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
        VersionClock { unix_ms: Arc::new(unix_ms), max_skew, writer, last: Mutex::default() }
    }

    /// The next version.
    pub fn next(&self) -> Version {
        let mut last = lock(&self.last);
        *last = last.next().max(HybridTime::from_ms((self.unix_ms)()));
        Version::new(*last, self.writer)
    }

    /// The time of this process, which no later version of it is below.
    pub fn now(&self) -> HybridTime {
        (*lock(&self.last)).max(HybridTime::from_ms((self.unix_ms)()))
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
        let ahead = Duration::from_millis(time.ms().saturating_sub(now));
        if ahead > self.max_skew {
            let why = format!(
                "a version is {} ms ahead of this machine's clock, up to {} ms are allowed (max_skew_s)",
                ahead.as_millis(),
                self.max_skew.as_millis()
            );
            return Err(Error::new(Kind::Conflict, why));
        }
        let mut last = lock(&self.last);
        *last = (*last).max(time);
        Ok(())
    }
}
