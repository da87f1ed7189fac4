//! How often requests came and how long they took: what `agent/metrics` has of them.

use consul_process::clock::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// The interval of the numbers, as Consul's.
const INTERVAL: Duration = Duration::from_secs(10);

/// The requests of one method for one endpoint, in milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub count: u64,
    pub sum: f64,
    pub squares: f64,
    pub min: f64,
    pub max: f64,
}

impl Sample {
    fn add(&mut self, value: f64) {
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.count += 1;
        self.sum += value;
        self.squares += value * value;
    }

    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// The standard deviation.
    pub fn deviation(&self) -> f64 {
        let count = self.count as f64;
        match self.count {
            0 | 1 => 0.0,
            _ => ((count * self.squares - self.sum * self.sum) / (count * (count - 1.0)))
                .max(0.0)
                .sqrt(),
        }
    }

    /// Per second of an interval.
    pub fn rate(&self) -> f64 {
        self.sum / INTERVAL.as_secs_f64()
    }
}

/// By method, and path up to its first parameter.
type All = BTreeMap<(&'static str, &'static str), Sample>;

/// The samples of all requests, in this interval and in the previous one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    interval: u128,
    pub all: All,
    now: All,
    before: All,
}

impl Samples {
    pub fn add(&mut self, method: &'static str, path: &'static str, took: Duration, at: Instant) {
        self.turn(at);
        let millis = took.as_secs_f64() * 1000.0;
        for samples in [&mut self.all, &mut self.now] {
            samples.entry((method, path)).or_default().add(millis);
        }
    }

    fn turn(&mut self, at: Instant) {
        let interval = number(at);
        if interval != self.interval {
            let ended = std::mem::take(&mut self.now);
            self.before = if interval == self.interval + 1 { ended } else { All::new() };
            self.interval = interval;
        }
    }

    /// The last whole interval, or the first one: when it began, as the time since the clock's origin, and its samples.
    pub fn last(&mut self, at: Instant) -> (Duration, &All) {
        self.turn(at);
        let (shown, samples) = match self.interval {
            0 => (0, &self.now),
            interval => (interval - 1, &self.before),
        };
        (INTERVAL * u32::try_from(shown).unwrap_or(u32::MAX), samples)
    }
}

fn number(at: Instant) -> u128 {
    at.since_origin().as_nanos() / INTERVAL.as_nanos()
}
