//! A client whose requests all agents refuse because of their limits (status 429). Its waiting queries pause then, so that
//! the connections and the rate that are left are for its calls. No I/O and no clock.

use consul_process::clock::Instant;
use std::time::Duration;

/// The pause after the first refusal; it doubles with each that follows a pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The refusals of a client.
#[derive(Debug, Default)]
pub struct Refusals {
    /// The number of pauses since the agent last answered after one.
    pauses: u32,
    /// When the last one began and ends.
    pause: Option<(Instant, Instant)>,
}

impl Refusals {
    /// Notes a refusal of an attempt that began at `begun`: a pause of at least `at_least` follows. Returns whether it is
    /// the first one.
    pub fn record(&mut self, begun: Instant, now: Instant, at_least: Duration) -> bool {
        // Attempts that were on their way when a pause began belong to the refusal before it.
        if self.pause.is_some_and(|(_, ends)| begun < ends) {
            return false;
        }
        let length = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(16)).min(MAX_PAUSE);
        self.pause = Some((now, now + length.max(at_least.min(MAX_PAUSE))));
        self.pauses = self.pauses.saturating_add(1);
        self.pauses == 1
    }

    /// Notes an answer to an attempt that began at `begun`. Returns whether it is the first one after refusals.
    pub fn record_answer(&mut self, begun: Instant) -> bool {
        let is_over = self.pause.is_some_and(|(_, ends)| begun >= ends);
        if is_over {
            *self = Refusals::default();
        }
        is_over
    }

    /// When a waiting query may be sent: within the half of the pause's length that follows it, for a random `fraction`
    /// from 0 to 1, so that not all are sent at once. `None`: now.
    pub fn pause_ends(&self, fraction: impl FnOnce() -> f64) -> Option<Instant> {
        self.pause.map(|(begun, ends)| ends + (ends - begun).mul_f64(fraction() / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Instant {
        Instant::from_origin(Duration::from_secs_f64(seconds))
    }

    fn refuse(refusals: &mut Refusals, begun: f64) -> bool {
        refusals.record(at(begun), at(begun + 0.001), Duration::ZERO)
    }

    #[test]
    fn refusals_of_attempts_that_began_before_the_end_of_a_pause_count_as_one() {
        let mut refusals = Refusals::default();
        assert!(refuse(&mut refusals, 1.0));
        for begun in [0.9, 1.0, 1.5, 1.999] {
            assert!(!refuse(&mut refusals, begun));
        }
        assert_eq!(refusals.pause_ends(|| 0.0), Some(at(2.001)));
        assert_eq!(refusals.pause_ends(|| 1.0), Some(at(2.501)));
    }

    #[test]
    fn a_pause_doubles_up_to_30_s() {
        let mut refusals = Refusals::default();
        let mut begun = 0.0;
        for length in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            refuse(&mut refusals, begun);
            assert_eq!(refusals.pause_ends(|| 0.0), Some(at(begun + 0.001 + length)));
            begun += 0.001 + length;
        }
    }

    #[test]
    fn a_pause_is_as_long_as_the_agent_says_up_to_30_s() {
        for (said, length) in [(5, 5.0), (3600, 30.0)] {
            let mut refusals = Refusals::default();
            refusals.record(at(0.0), at(0.0), Duration::from_secs(said));
            assert_eq!(refusals.pause_ends(|| 0.0), Some(at(length)));
        }
    }

    #[test]
    fn an_answer_ends_it_only_if_it_was_asked_for_after_the_pause() {
        let mut refusals = Refusals::default();
        refuse(&mut refusals, 0.0);
        assert!(!refusals.record_answer(at(0.5)));
        assert!(refusals.record_answer(at(1.5)));
        assert!(!refusals.record_answer(at(2.0)));
        assert_eq!(refusals.pause_ends(|| 1.0), None);
        assert!(refuse(&mut refusals, 3.0));
        assert_eq!(refusals.pause_ends(|| 0.0), Some(at(4.001)));
    }
}
