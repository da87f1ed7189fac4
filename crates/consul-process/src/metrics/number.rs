//! The kinds of numbers. Changing one is a few instructions, without a lock.

use consul_api::error::{Error, Kind};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// Adds this many.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Its count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many of something there are now.
#[derive(Debug, Default)]
pub struct Gauge {
    now: AtomicI64,
    was_used: AtomicBool,
}

impl Gauge {
    /// Counts one more until the result is dropped.
    pub fn hold(&'static self) -> Held {
        self.now.fetch_add(1, Ordering::Relaxed);
        self.was_used.store(true, Ordering::Relaxed);
        Held(self)
    }

    /// How many there are.
    pub fn get(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Whether there has been one.
    pub(super) fn was_used(&self) -> bool {
        self.was_used.load(Ordering::Relaxed)
    }
}

/// An object that a [`Gauge`] counts.
#[must_use]
pub struct Held(&'static Gauge);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The upper bounds of a histogram's buckets, in microseconds: from an answer on the same host to the longest
/// timeouts.
const BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// How long something took, by buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    /// The last one is for longer times than the largest bound.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Adds an observation of this duration.
    pub fn add(&self, duration: Duration) {
        let ns = duration.as_nanos() as u64;
        let bucket = BOUNDS_US.iter().position(|bound| ns <= bound * 1000);
        self.buckets[bucket.unwrap_or(BOUNDS_US.len())].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// The bounds in seconds with the number in each bucket, and the sum in seconds.
    pub(super) fn buckets(&self) -> (Vec<(f64, u64)>, f64) {
        let bounds = BOUNDS_US.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        (bounds.zip(counts).collect(), self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9)
    }
}

/// Why something that claims to be a node of the cluster is refused.
#[derive(Clone, Copy, Debug)]
pub enum Stranger {
    /// A connection without TLS to a node with it.
    NoTls,
    /// A connection with TLS to a node without it.
    Tls,
    /// A handshake that failed.
    Handshake,
    /// A request that no secret of the cluster's key signed.
    Signature,
    /// A request that was seen before.
    Replay,
    /// Too many connections without a valid request.
    Crowd,
}

impl Stranger {
    const NAMES: [&str; 6] = ["no_tls", "tls", "handshake", "signature", "replay", "crowd"];
}

/// How many strangers were refused, by reason.
#[derive(Debug, Default)]
pub struct Strangers([Counter; Stranger::NAMES.len()]);

impl Strangers {
    /// Counts one.
    pub fn refuse(&self, why: Stranger) {
        self.0[why as usize].add_one();
    }

    pub(super) fn counted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Stranger::NAMES.into_iter().zip(self.0.iter().map(Counter::get))
    }
}

/// How often something succeeded, and failed with each kind of error.
#[derive(Debug, Default)]
pub struct Outcomes {
    successes: Counter,
    failures: [Counter; Kind::ALL.len()],
}

impl Outcomes {
    /// Counts one.
    pub fn add<T>(&self, outcome: &Result<T, Error>) {
        self.of(outcome.as_ref().err().map(Error::kind)).add_one();
    }

    /// The counter of this kind; none is a success.
    pub fn of(&self, kind: Option<Kind>) -> &Counter {
        kind.map_or(&self.successes, |kind| &self.failures[kind as usize])
    }

    /// Those that have counted something, by their names.
    pub(super) fn counted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let failures = Kind::ALL.iter().map(|kind| (kind.name(), self.of(Some(*kind)).get()));
        [("ok", self.successes.get())].into_iter().chain(failures).filter(|(_, count)| *count > 0)
    }
}
