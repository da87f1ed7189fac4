//! Which replicas a read asks first, and when it asks another one: R at first, the fastest of late; one more
//! after the time within which 95 of 100 recent answers came.

use super::map::NodeId;
use consul_process::sync::lock;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

/// The answers whose times are known.
const RECENT: usize = 100;

/// The time after which another replica is asked while no answer is known.
const FIRST_PATIENCE: Duration = Duration::from_millis(100);

/// The part of the reads that may ask another replica, and the most that they save up.
const SAVED_PER_READ: f64 = 0.1;
const MAX_SAVED: f64 = 10.0;

/// A read that has waited this many times as long, and at least this long, asks another replica in any
/// case: a replica that no longer answers must not hold up a burst of reads.
const LATE_FACTOR: u32 = 10;
const LEAST_LATE: Duration = Duration::from_millis(250);

/// The part of an answer's time in the estimate of its node.
const WEIGHT: f64 = 0.2;

/// The factor by which an estimate shrinks with each read that skips the node, so that it is asked again.
const FADING: f64 = 0.98;

/// The times of recent reads.
#[derive(Debug, Default)]
pub struct ReadTimes(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    recent: VecDeque<Duration>,
    nodes: BTreeMap<NodeId, Duration>,
    saved: f64,
}

impl ReadTimes {
    /// Puts the replicas for a read, which asks the first `count` of them, into their order.
    pub(super) fn begin(&self, places: &mut [(usize, NodeId)], count: usize) {
        let mut times = lock(&self.0);
        times.saved = (times.saved + SAVED_PER_READ).min(MAX_SAVED);
        places.sort_by(|(_, one), (_, other)| times.nodes.get(one).cmp(&times.nodes.get(other)));
        for (_, node) in places.iter().skip(count) {
            if let Some(time) = times.nodes.get_mut(node) {
                *time = time.mul_f64(FADING);
            }
        }
    }

    /// How long a read waits before it asks another replica, if it may, and before it does in any case.
    pub(super) fn patience(&self) -> (Duration, Duration) {
        let mut recent: Vec<Duration> = lock(&self.0).recent.iter().copied().collect();
        let place = recent.len() * 95 / 100;
        let patience = match recent.is_empty() {
            true => FIRST_PATIENCE,
            false => *recent.select_nth_unstable(place).1,
        };
        (patience, (patience * LATE_FACTOR).max(LEAST_LATE))
    }

    /// Whether one more read may ask another replica.
    pub(super) fn may_ask_another(&self) -> bool {
        let mut times = lock(&self.0);
        let may = times.saved >= 1.0;
        times.saved -= f64::from(u8::from(may));
        may
    }

    /// Notes that a node answered after this time.
    pub(super) fn answered(&self, node: &NodeId, time: Duration) {
        let mut times = lock(&self.0);
        if times.recent.len() == RECENT {
            times.recent.pop_front();
        }
        times.recent.push_back(time);
        let estimate = times.nodes.entry(node.clone()).or_insert(time);
        *estimate = estimate.mul_f64(1.0 - WEIGHT) + time.mul_f64(WEIGHT);
    }

    /// Notes that a node had not answered after this time.
    pub(super) fn is_silent(&self, node: &NodeId, time: Duration) {
        let mut times = lock(&self.0);
        let estimate = times.nodes.entry(node.clone()).or_default();
        *estimate = time.max(*estimate);
    }
}
