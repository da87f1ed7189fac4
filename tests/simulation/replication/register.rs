//! What Consul stores: the map, written with check-and-set, and the nodes' reports.

use crate::world::Node;
use consul_ffi::cluster::replication::map::{ChangeKind, Disk};
use consul_ffi::cluster::replication::plan::Map;
use consul_ffi::cluster::replication::state::Report;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Default)]
pub struct Register {
    history: Vec<Map>,
    /// The last words of each node: its disk, its report, and when it was last seen.
    pub nodes: BTreeMap<Node, Said>,
    /// The records that the target of each change had copied when it last made progress, and when that was.
    pub progress: BTreeMap<(u32, u64), (u64, Duration)>,
    counts: BTreeMap<&'static str, u64>,
    /// Whether it went back, and the holders must be asked.
    pub went_back: bool,
}

#[derive(Clone)]
pub struct Said {
    pub disk: Disk,
    pub weight: f64,
    pub report: Report,
    /// The records that it has copied since its start.
    pub copied: u64,
    pub seen: Duration,
}

impl Register {
    pub fn map(&self) -> Option<&Map> {
        self.history.last()
    }

    /// Goes back by up to `maps` maps.
    pub fn go_back(&mut self, maps: usize) {
        let left = self.history.len().saturating_sub(maps).max(1);
        self.history.truncate(left);
        self.went_back = true;
    }

    /// Writes the next map if the current one has this version.
    pub fn write(&mut self, expected: u64, next: Map) -> bool {
        if self.map().map_or(0, |map| map.version) != expected {
            return false;
        }
        self.count(&next);
        self.history.push(next);
        true
    }

    fn count(&mut self, next: &Map) {
        let Some(map) = self.history.last() else { return };
        for (old, new) in map.shards.iter().zip(&next.shards) {
            for (old, new) in old.slots.iter().zip(&new.slots) {
                let what = match (&old.change, &new.change) {
                    (None, Some(change)) | (Some(_), Some(change)) if old.change != new.change => {
                        match change.kind {
                            ChangeKind::Move => "moves",
                            ChangeKind::Failover => "failovers",
                        }
                    }
                    (Some(_), None) if old.holder == new.holder => "cancels",
                    (Some(_), None) => "commits",
                    _ => continue,
                };
                *self.counts.entry(what).or_default() += 1;
            }
        }
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.clone()
    }
}
