//! How far a tail is behind etcd.

use consul_process::clock::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// The looks that are remembered: with more, the time is a little too long.
const LOOKS: usize = 1000;

/// The known revisions and times of etcd.
#[derive(Debug, Default)]
pub struct Lag {
    /// The times at which etcd had these revisions; the first may be applied.
    looks: VecDeque<(Instant, u64)>,
}

impl Lag {
    /// etcd has this revision now.
    pub fn look(&mut self, now: Instant, revision: u64) {
        if self.looks.len() == LOOKS {
            // Every other one is enough.
            let mut place = 0..;
            self.looks.retain(|_| place.next().is_some_and(|place| place % 2 == 0));
        }
        self.looks.push_back((now, revision));
    }

    /// The revisions after the one up to which all is applied, and since when etcd has one of them at most.
    pub fn behind(&mut self, now: Instant, applied: u64) -> (u64, Duration) {
        while self.looks.get(1).is_some_and(|(_, revision)| *revision <= applied) {
            self.looks.pop_front();
        }
        let last = self.looks.back().map_or(0, |(_, revision)| *revision);
        match (last.saturating_sub(applied), self.looks.front()) {
            (0, _) | (_, None) => (0, Duration::ZERO),
            (revisions, Some((since, _))) => (revisions, now - *since),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consul_process::clock::{Clock as _, ManualClock};

    #[test]
    fn the_lag_is_in_revisions_and_since_the_look_before_them() {
        let begun = ManualClock::new().now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut lag = Lag::default();
        assert_eq!(lag.behind(at(0), 5), (0, Duration::ZERO));
        for (second, revision) in [(1, 10), (2, 20), (3, 20), (4, 40)] {
            lag.look(at(second), revision);
        }
        // It began behind: since when is not known, but since the first look.
        assert_eq!(lag.behind(at(4), 5), (35, Duration::from_secs(3)));
        assert_eq!(lag.behind(at(4), 15), (25, Duration::from_secs(3)));
        assert_eq!(lag.behind(at(5), 25), (15, Duration::from_secs(2)));
        assert_eq!(lag.behind(at(5), 40), (0, Duration::ZERO));
        assert_eq!(lag.behind(at(9), 50), (0, Duration::ZERO));
        for second in 10..5000 {
            lag.look(at(second), 100 + second);
        }
        let (revisions, time) = lag.behind(at(5000), 100 + 4000);
        assert_eq!(revisions, 999);
        assert!((1000..1100).contains(&time.as_secs()), "{time:?}");
    }
}
