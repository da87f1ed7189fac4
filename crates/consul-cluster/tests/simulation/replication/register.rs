//! The data in Consul: the map, written with check-and-set, and the nodes' reports.

use super::nodes::name;
use crate::world::Node;
use consul_replication::map::{ChangeKind, Disk, NodeId};
use consul_replication::plan::Map;
use consul_replication::state::Report;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How many maps it goes back by at once.
pub const MOST_MAPS_BACK: usize = 5;

#[derive(Default)]
pub struct Register {
    history: Vec<Map>,
    /// The last maps that were written, also those that it has forgotten.
    recent: VecDeque<Map>,
    /// The last words of each node: its disk, its report, and when it was last seen.
    pub nodes: BTreeMap<Node, Said>,
    /// The records that the target of each change had copied when it last made progress, and when that was.
    pub progress: BTreeMap<(u32, u64), (u64, Duration)>,
    counts: BTreeMap<&'static str, u64>,
    /// Whether it went back, and the holders must be asked.
    pub went_back: bool,
    /// When all nodes were away while it went back.
    pub restarted: Option<Duration>,
    /// Whether its leader has not written since: the next map is far beyond all that it may have lost.
    pub is_first: bool,
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

    /// The last maps that were written, more than it goes back by at once.
    pub fn recent(&self) -> impl Iterator<Item = &Map> {
        self.recent.iter()
    }

    /// Goes back by up to `maps` maps. If that is not told, only a node that knows newer entries can tell it.
    pub fn go_back(&mut self, maps: usize, is_told: bool) {
        let left = self.history.len().saturating_sub(maps).max(1);
        self.history.truncate(left);
        self.went_back = is_told;
        self.is_first = true;
    }

    /// The shards whose newer entries nodes know, and not the map, with these nodes.
    pub fn newer(&self) -> BTreeMap<u32, BTreeSet<NodeId>> {
        let mut newer: BTreeMap<u32, BTreeSet<NodeId>> = BTreeMap::new();
        for (node, said) in &self.nodes {
            for (shard, epoch) in &said.report.newer {
                let entry = self.map().and_then(|map| map.shards.get(*shard as usize));
                if entry.is_some_and(|entry| *epoch > entry.epoch) {
                    newer.entry(*shard).or_default().insert(name(*node));
                }
            }
        }
        newer
    }

    pub fn epoch(&self, shard: u32) -> u64 {
        let entry = self.map().and_then(|map| map.shards.get(shard as usize));
        entry.map_or(u64::MAX, |entry| entry.epoch)
    }

    /// Writes the next map if the current one has this version.
    pub fn write(&mut self, expected: u64, next: Map) -> bool {
        if self.map().map_or(0, |map| map.version) != expected {
            return false;
        }
        self.count(&next);
        self.recent.push_back(next.clone());
        if self.recent.len() > 2 * MOST_MAPS_BACK {
            self.recent.pop_front();
        }
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
