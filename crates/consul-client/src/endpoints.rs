//! The health of a client's endpoints, and which of them a call asks next. No I/O and no clock.

use consul_process::clock::Instant;
use consul_process::metrics::{Held, numbers};
use std::time::Duration;

/// The longest time for which an endpoint is benched after its first failure; it doubles with every
/// further failure in a row.
const FIRST_BENCH: Duration = Duration::from_secs(1);
const MAX_BENCH: Duration = Duration::from_secs(60);

/// The shortest time between two warnings that something else answers at an endpoint.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The weight of one answer's time in an endpoint's latency.
///
/// Source: the smoothed round-trip time of TCP, RFC 6298, section 2.
const LATENCY_GAIN: f64 = 0.125;

/// An endpoint of a client, as its calls found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointHealth {
    /// Its URL, or the name of a simulated agent.
    pub address: String,
    /// Whether calls skip it, because it failed.
    pub is_benched: bool,
    /// The mean time of its recent answers, without answers to blocking queries; `None`: no answer yet.
    pub latency: Option<Duration>,
}

/// The endpoints of a client, by their index in its list.
///
/// A call asks the first endpoint in the list that is not benched, so a client stays with an
/// endpoint while it works, and returns to an earlier endpoint after its recovery. An endpoint that
/// fails is benched. The first call after that is its probe; until the probe has its answer, other
/// calls still skip the endpoint.
#[derive(Debug)]
pub struct Endpoints {
    benches: Vec<Option<Bench>>,
    latencies: Vec<Option<Duration>>,
    /// When the log last reported that something else answers in Consul's place.
    warned: Vec<Option<Instant>>,
    /// Count the benched ones that have no good one before them.
    held: Vec<Option<Held>>,
}

#[derive(Clone, Copy, Debug)]
struct Bench {
    failures: u32,
    since: Instant,
    until: Instant,
}

impl Endpoints {
    /// `count` endpoints, none of them benched.
    pub fn new(count: usize) -> Self {
        let held = (0..count).map(|_| None).collect();
        let (benches, latencies, warned) =
            (vec![None; count], vec![None; count], vec![None; count]);
        Endpoints { benches, latencies, warned, held }
    }

    /// The endpoint to ask now, of those that are not in `asked`; of all, when all are.
    ///
    /// First come the good ones, and with `may_probe` those whose bench is over, both in the list's
    /// order; then the benched ones, the one whose bench ends first at the front. When the result
    /// is a probe, other calls do not get the same endpoint until its bench would end again.
    pub fn pick(&mut self, now: Instant, asked: &[usize], may_probe: bool) -> usize {
        let rank = |index: usize| {
            let (is_benched, until) = match &self.benches[index] {
                None => (false, Instant::default()),
                Some(bench) if may_probe && bench.until <= now => (false, Instant::default()),
                Some(bench) => (true, bench.until),
            };
            (asked.contains(&index), is_benched, until, index)
        };
        let picked = (0..self.benches.len()).min_by_key(|index| rank(*index)).unwrap_or(0);
        if let Some(Some(bench)) = self.benches.get_mut(picked)
            && bench.until <= now
        {
            bench.until = now + max_bench(bench.failures);
        }
        // An endpoint that would be asked again is not avoided any more, also if no call comes to it.
        let mut is_needed = true;
        for (bench, held) in self.benches.iter().zip(&mut self.held) {
            match is_needed && bench.is_some_and(|bench| bench.until > now) {
                true => _ = held.get_or_insert_with(|| numbers().benched.hold()),
                false => *held = None,
            }
            is_needed &= bench.is_some();
        }
        picked
    }

    /// Ends the bench of an endpoint that answered; returns whether there was one.
    pub fn record_success(&mut self, index: usize) -> bool {
        // It gets all calls: those after it are not avoided, and nothing but a call would tell that they work.
        self.held[index..].fill_with(|| None);
        self.benches[index].take().is_some()
    }

    /// Notes how long an endpoint took for an answer.
    pub fn record_latency(&mut self, index: usize, took: Duration) {
        let latency = &mut self.latencies[index];
        *latency = Some(match *latency {
            Some(mean) => mean.mul_f64(1.0 - LATENCY_GAIN) + took.mul_f64(LATENCY_GAIN),
            None => took,
        });
    }

    /// Whether the log may say that something else answers in Consul's place.
    pub fn may_warn_of_another(&mut self, index: usize, now: Instant) -> bool {
        let last = &mut self.warned[index];
        let may = last.is_none_or(|last| now - last >= WARNING_INTERVAL);
        if may {
            *last = Some(now);
        }
        may
    }

    /// The mean time of an endpoint's recent answers.
    pub fn latency(&self, index: usize) -> Option<Duration> {
        self.latencies[index]
    }

    /// Whether calls skip an endpoint at this moment.
    pub fn is_benched(&self, index: usize, now: Instant) -> bool {
        self.benches[index].is_some_and(|bench| bench.until > now)
    }

    /// Benches an endpoint that failed an attempt begun at `begun`: for the time that its failures
    /// in a row amount to, times a factor from 0.5 to 1 for a random `fraction` from 0 to 1, but
    /// not for less than `at_least`. Returns whether it was good until now.
    pub fn record_failure(
        &mut self,
        index: usize,
        begun: Instant,
        now: Instant,
        fraction: f64,
        at_least: Duration,
    ) -> bool {
        let known = self.benches[index];
        // Calls that failed at the same time count as one failure.
        if known.is_some_and(|bench| bench.since >= begun) {
            return false;
        }
        let failures = known.map_or(0, |bench| bench.failures).saturating_add(1);
        // From half of the time, because full jitter would leave some benches of no length.
        let jittered = max_bench(failures).mul_f64(0.5 + fraction / 2.0);
        let length = jittered.max(at_least.min(MAX_BENCH));
        self.benches[index] = Some(Bench { failures, since: now, until: now + length });
        numbers().endpoint_failures.add_one();
        if self.benches[..index].iter().all(Option::is_some) {
            self.held[index].get_or_insert_with(|| numbers().benched.hold());
        }
        known.is_none()
    }
}

fn max_bench(failures: u32) -> Duration {
    FIRST_BENCH.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(MAX_BENCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: f64) -> Instant {
        Instant::from_origin(Duration::from_secs_f64(seconds))
    }

    fn fail(endpoints: &mut Endpoints, index: usize, seconds: f64) -> bool {
        endpoints.record_failure(index, at(seconds), at(seconds + 0.001), 1.0, Duration::ZERO)
    }

    #[test]
    fn the_first_of_the_list_is_asked_as_long_as_it_works() {
        let mut endpoints = Endpoints::new(3);
        assert_eq!(endpoints.pick(at(1.0), &[], true), 0);
        endpoints.record_success(0);
        assert_eq!(endpoints.pick(at(2.0), &[], true), 0);
        assert_eq!(endpoints.pick(at(2.0), &[0], true), 1);
        assert_eq!(endpoints.pick(at(2.0), &[0, 1, 2], true), 0);
    }

    #[test]
    fn a_benched_one_gets_one_call_as_its_probe_when_its_time_is_over() {
        let mut endpoints = Endpoints::new(2);
        assert!(fail(&mut endpoints, 0, 1.0));
        assert_eq!(endpoints.pick(at(1.5), &[], true), 1);
        assert_eq!(endpoints.pick(at(2.1), &[], false), 1, "this call must not be a probe");
        assert_eq!(endpoints.pick(at(2.1), &[], true), 0);
        assert_eq!(endpoints.pick(at(2.1), &[], true), 1, "the probe is under way");
        assert!(endpoints.record_success(0));
        assert_eq!(endpoints.pick(at(2.2), &[], true), 0);
    }

    #[test]
    fn one_that_no_call_comes_to_is_not_avoided_for_ever() {
        let mut endpoints = Endpoints::new(2);
        let avoided = |it: &Endpoints| it.held.iter().map(Option::is_some).collect::<Vec<_>>();
        fail(&mut endpoints, 0, 1.0);
        fail(&mut endpoints, 1, 1.0);
        assert_eq!(avoided(&endpoints), [true, true]);
        endpoints.record_success(1);
        assert_eq!(avoided(&endpoints), [true, false]);
        fail(&mut endpoints, 1, 1.1);
        assert_eq!(avoided(&endpoints), [true, true]);
        endpoints.record_success(0);
        assert_eq!(avoided(&endpoints), [false, false], "also if no call follows");
        endpoints.pick(at(1.5), &[], true);
        fail(&mut endpoints, 1, 1.6);
        assert_eq!(avoided(&endpoints), [false, false], "the first one gets all calls");
        // The first one has no second one before it: it is avoided until its probe is answered.
        fail(&mut endpoints, 0, 3.0);
        assert_eq!(endpoints.pick(at(4.1), &[], true), 0);
        assert_eq!(avoided(&endpoints), [true, false]);
    }

    #[test]
    fn a_probe_that_is_given_up_is_made_again_later() {
        let mut endpoints = Endpoints::new(2);
        fail(&mut endpoints, 0, 1.0);
        assert_eq!(endpoints.pick(at(2.1), &[], true), 0);
        assert_eq!(endpoints.pick(at(3.2), &[], true), 0);
    }

    #[test]
    fn when_all_are_benched_the_one_that_is_due_soonest_is_asked() {
        let mut endpoints = Endpoints::new(3);
        for (index, seconds) in [(0, 1.2), (1, 1.0), (2, 1.1)] {
            fail(&mut endpoints, index, seconds);
        }
        assert_eq!(endpoints.pick(at(1.5), &[], true), 1);
        assert_eq!(endpoints.pick(at(1.5), &[1], true), 2);
    }

    #[test]
    fn the_latency_of_an_endpoint_follows_its_answers_slowly() {
        let mut endpoints = Endpoints::new(2);
        let ms = Duration::from_millis;
        assert_eq!(endpoints.latency(1), None);
        endpoints.record_latency(1, ms(8));
        endpoints.record_latency(1, ms(16));
        assert_eq!((endpoints.latency(0), endpoints.latency(1)), (None, Some(ms(9))));
    }

    #[test]
    fn each_endpoint_may_be_warned_of_once_a_minute() {
        let mut endpoints = Endpoints::new(2);
        let mut may = |index, seconds| endpoints.may_warn_of_another(index, at(seconds));
        assert!(may(0, 1.0) && may(1, 2.0) && !may(0, 60.9) && may(0, 61.0) && !may(1, 61.0));
    }

    #[test]
    fn calls_that_fail_together_are_one_failure() {
        let mut endpoints = Endpoints::new(2);
        assert!(endpoints.record_failure(0, at(1.0), at(1.5), 1.0, Duration::ZERO));
        for _ in 0..64 {
            assert!(!endpoints.record_failure(0, at(1.2), at(1.6), 1.0, Duration::ZERO));
        }
        assert_eq!(endpoints.pick(at(2.6), &[], true), 0, "one failure is one second");
    }

    #[test]
    fn a_server_may_say_how_long_but_not_forever() {
        let mut endpoints = Endpoints::new(2);
        endpoints.record_failure(0, at(1.0), at(1.0), 0.0, Duration::from_secs(20));
        assert_eq!(endpoints.pick(at(20.9), &[], true), 1);
        assert_eq!(endpoints.pick(at(21.1), &[], true), 0);
        endpoints.record_success(0);
        endpoints.record_failure(0, at(30.0), at(30.0), 0.0, Duration::from_secs(86_400));
        assert_eq!(endpoints.pick(at(90.1), &[], true), 0);
    }

    /// An event in the life of the endpoints.
    #[derive(Clone, Debug)]
    enum Event {
        Pass(f64),
        Fail(usize, f64),
        Work(usize),
        Pick(bool),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0.0..100.0).prop_map(Event::Pass),
            ((0..4usize), 0.0..1.0).prop_map(|(index, fraction)| Event::Fail(index, fraction)),
            (0..4usize).prop_map(Event::Work),
            any::<bool>().prop_map(Event::Pick),
        ]
    }

    proptest! {
        /// After any events, a call asks each endpoint before it asks one twice, good ones before
        /// benched ones; and no bench is longer than the maximum.
        #[test]
        fn every_endpoint_is_asked_once_best_first(
            count in 1..5usize,
            events in prop::collection::vec(event(), 0..60),
        ) {
            let mut endpoints = Endpoints::new(count);
            let mut now = at(0.0);
            for event in events {
                match event {
                    Event::Pass(seconds) => now = now + Duration::from_secs_f64(seconds),
                    Event::Fail(index, fraction) => {
                        endpoints.record_failure(index % count, now, now, fraction, Duration::ZERO);
                    }
                    Event::Work(index) => {
                        endpoints.record_success(index % count);
                    }
                    Event::Pick(may_probe) => {
                        endpoints.pick(now, &[], may_probe);
                    }
                }
                for bench in endpoints.benches.iter().flatten() {
                    prop_assert!(bench.until - now <= MAX_BENCH);
                }
            }
            let mut asked = Vec::new();
            let mut benched_before = false;
            while asked.len() < count {
                let good = |index: &usize| endpoints.benches[*index].is_none_or(|b| b.until <= now);
                let is_good: Vec<_> = (0..count).filter(good).collect();
                let picked = endpoints.pick(now, &asked, true);
                prop_assert!(!asked.contains(&picked));
                prop_assert!(!(benched_before && is_good.contains(&picked)));
                benched_before |= !is_good.contains(&picked);
                asked.push(picked);
            }
            now = now + MAX_BENCH;
            prop_assert_eq!(endpoints.pick(now, &[], true), 0, "in the end all come back");
        }
    }
}
