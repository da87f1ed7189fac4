//! The circuit breaker of a peer: while the peer does not answer, calls to it fail at once. Without I/O.

use consul_api::error::{Error, Kind};
use consul_process::clock::Instant;
use consul_process::metrics::{ClusterNumbers, Held};
use consul_process::sync::lock;
use std::sync::Mutex;
use std::time::Duration;

/// A peer is avoided after this many failures in a row ...
pub(super) const FAILURES: u32 = 3;

/// ... if the first of them began at least this long ago: a process that is started again is not avoided.
const LEAST_TIME: Duration = Duration::from_secs(1);

/// A peer is avoided for a random time between these, then one call tries it.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Whether calls to a peer are made.
#[derive(Debug, Default)]
pub(super) struct Circuit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The failures since the last sign of life.
    failures: u32,
    /// When the first of them began.
    since: Instant,
    /// The reason of the last one.
    why: String,
    /// None: calls are made.
    avoided: Option<Avoided>,
}

#[derive(Debug)]
struct Avoided {
    since: Instant,
    until: Instant,
    /// Whether a call tries the peer now.
    is_tried: bool,
    /// Counts it.
    _held: Held,
}

/// A call that may be made.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    circuit: &'a Circuit,
    /// Whether it is the one call that tries a peer that was avoided.
    pub is_trial: bool,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        // A trial that was given up decides nothing; the next call tries.
        if self.is_trial
            && let Some(avoided) = &mut lock(&self.circuit.0).avoided
        {
            avoided.is_tried = false;
        }
    }
}

impl Circuit {
    /// Lets a call through.
    ///
    /// # Errors
    /// [`Kind::Connect`] while the peer is avoided, with the time and the reason.
    pub fn enter(&self, now: Instant) -> Result<Pass<'_>, Error> {
        let mut state = lock(&self.0);
        let State { failures, why, .. } = &*state;
        let failures = format!("{failures} failures in a row, the last one: {why}");
        let Some(avoided) = &mut state.avoided else {
            return Ok(Pass { circuit: self, is_trial: false });
        };
        if now >= avoided.until && !avoided.is_tried {
            avoided.is_tried = true;
            return Ok(Pass { circuit: self, is_trial: true });
        }
        let next = match avoided.is_tried {
            true => "another call tries it now".to_owned(),
            false => format!("a call tries it in {} ms", (avoided.until - now).as_millis()),
        };
        let so_far = (now - avoided.since).as_millis();
        let why = format!("it has been avoided for {so_far} ms ({failures}); {next}");
        Err(Error::new(Kind::Connect, why).retryable().not_sent())
    }

    /// Notes that the peer could not be reached by an attempt that began and ended at these times. `random` is from 0
    /// to 1. Returns whether the peer is avoided from now on.
    pub fn failed(
        &self,
        (began, now): (Instant, Instant),
        why: &str,
        random: f64,
        numbers: &'static ClusterNumbers,
    ) -> bool {
        let mut state = lock(&self.0);
        if state.failures == 0 {
            state.since = began;
        }
        state.failures = state.failures.saturating_add(1);
        why.clone_into(&mut state.why);
        let until = now + SHORTEST_PAUSE + (LONGEST_PAUSE - SHORTEST_PAUSE).mul_f64(random);
        if let Some(avoided) = &mut state.avoided {
            (avoided.until, avoided.is_tried) = (until, false);
            return false;
        }
        let is_avoided = state.failures >= FAILURES && now - state.since >= LEAST_TIME;
        if is_avoided {
            numbers.avoidances.add_one();
            let _held = numbers.avoided.hold();
            state.avoided = Some(Avoided { since: now, until, is_tried: false, _held });
        }
        is_avoided
    }

    /// Notes a sign of life of the peer. Returns whether it was avoided until now.
    pub fn answered(&self) -> bool {
        let mut state = lock(&self.0);
        state.failures = 0;
        state.avoided.take().is_some()
    }

    /// Whether the peer is avoided, or tried after that.
    pub fn is_open(&self) -> bool {
        lock(&self.0).avoided.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consul_process::metrics::numbers;

    fn at(ms: u64) -> Instant {
        Instant::default() + Duration::from_millis(ms)
    }

    fn note(circuit: &Circuit, (began, ended): (u64, u64), why: &str, random: f64) -> bool {
        circuit.failed((at(began), at(ended)), why, random, numbers().cluster("nodes"))
    }

    /// A circuit with failures that begin and end at these times.
    fn failed(times: &[(u64, u64)]) -> Circuit {
        let circuit = Circuit::default();
        times.iter().for_each(|(began, now)| _ = note(&circuit, (*began, *now), "why", 0.5));
        circuit
    }

    #[test]
    fn a_peer_is_avoided_after_three_failures_in_a_row_that_take_a_second() {
        assert!(!failed(&[(0, 1000), (1000, 2000)]).is_open());
        assert!(failed(&[(0, 900), (900, 1800), (1800, 2700)]).is_open());
        let fast: Vec<_> = (0..99).map(|number| (number * 10, number * 10)).collect();
        assert!(!failed(&fast).is_open(), "a restart takes a moment");
        assert!(failed(&[&fast[..], &[(1000, 1000)]].concat()).is_open());
        let circuit = failed(&[(0, 1000), (1000, 2000)]);
        assert!(!circuit.answered());
        assert!(!note(&circuit, (3000, 4000), "why", 0.5), "not in a row");
        assert!(circuit.enter(at(4000)).is_ok());
    }

    #[test]
    fn one_call_tries_after_the_pause_and_its_outcome_counts() {
        let circuit = failed(&[(0, 900), (900, 1800), (1800, 2700)]);
        let error = circuit.enter(at(3000)).expect_err("an avoided peer");
        assert_eq!((error.kind(), error.is_retryable()), (Kind::Connect, true));
        assert!(!error.maybe_applied());
        assert_eq!(
            error.message(),
            "it has been avoided for 300 ms (3 failures in a row, the last one: why); a call tries it in 1200 ms"
        );
        assert!(circuit.enter(at(4199)).is_err());
        let trial = circuit.enter(at(4200)).expect("the pause is over");
        assert!(trial.is_trial);
        let error = circuit.enter(at(4200)).expect_err("a second call");
        assert!(error.message().ends_with("another call tries it now"), "{error}");
        drop(trial);
        let trial = circuit.enter(at(4300)).expect("the first trial was given up");
        assert!(!note(&circuit, (4300, 5300), "still", 0.0), "it was avoided before");
        drop(trial);
        assert!(circuit.enter(at(6299)).is_err());
        assert!(circuit.enter(at(6300)).expect("the next pause is over").is_trial);
        assert!(circuit.answered());
        assert!(!circuit.enter(at(6300)).expect("a peer that answers").is_trial);
    }

    #[test]
    fn the_pause_is_between_its_bounds() {
        for (random, pause) in [(0.0, 1000), (1.0, 2000)] {
            let circuit = Circuit::default();
            for _ in 0..FAILURES {
                note(&circuit, (0, 1000), "why", random);
            }
            assert!(circuit.enter(at(1000 + pause - 1)).is_err());
            assert!(circuit.enter(at(1000 + pause)).is_ok());
        }
    }
}
