//! The numbers of a store.

use super::document::StoreMap;
use super::{ShardAtRisk, ShardStatus, Store};
use consul_api::error::Error;
use consul_process::clock::Instant;
use consul_process::metrics::{OperationNumbers, Page, Source, table};
use consul_process::sync::lock;
use consul_replication::map::{ChangeKind, Slot};
use std::collections::BTreeSet;
use std::time::Duration;

/// A repair is overdue after this many times [`StoreOptions::repair_every`](super::StoreOptions::repair_every).
const OVERDUE: u32 = 3;

impl Store {
    /// Counts an operation that has ended, with the records of its success.
    pub(super) fn count<T>(
        &self,
        numbers: &OperationNumbers,
        begun: Instant,
        outcome: &Result<T, Error>,
        records: impl FnOnce(&T) -> usize,
    ) {
        numbers.outcomes.add(outcome);
        numbers.durations.add(self.cluster.now() - begun);
        if let Ok(done) = outcome {
            numbers.records.add(records(done) as u64);
        }
    }

    /// The nodes whose storage fails, as far as this process knows: its own, and as the leader all.
    fn failing(&self) -> BTreeSet<String> {
        let own = self.fault().map(|_| self.cluster.options().node_id.clone());
        let known = match self.cluster.lease() {
            Some(_) => self.cluster.failing(&self.options.name),
            None => BTreeSet::new(),
        };
        known.into_iter().chain(own).collect()
    }
}

impl Source for Store {
    fn write(&self, page: &mut Page) {
        let options = self.cluster.options();
        let labels = &[options.nodes_prefix.as_str(), self.options.name.as_str()];
        let shards = self.status();
        let of_kind = |kind| {
            let targets = shards.iter().flat_map(|shard| &shard.targets);
            targets.filter(|(_, it)| *it == kind).count() as f64
        };
        let is_usable = self.checked().is_ok() && !shards.is_empty();
        let is_failing = self.fault().is_some_and(|fault| !fault.functions.is_empty());
        let own = options.node_id.as_str();
        let mapped_since = *lock(&self.mapped_since);
        let mapped = mapped_since.map_or(Duration::ZERO, |since| self.cluster.now() - since);
        let is_overdue = |shard: &&ShardStatus| {
            let age = shard.repaired.unwrap_or(mapped);
            let is_held = shard.holders.iter().any(|node| **node == *own);
            is_held && age > OVERDUE * self.options.repair_every
        };
        let unrepaired = match self.holder() {
            Some(_) => shards.iter().filter(is_overdue).count() as f64,
            None => 0.0,
        };
        let map = self.map.borrow().clone();
        let snapshot = self.cluster.snapshot();
        let failing = self.failing();
        let is_live = |node: &str| self.may_live(&snapshot, node);
        let is_there = |node: &str| is_live(node) && !failing.contains(node);
        let of_shard = |map: &StoreMap, it| ShardAtRisk::of(map, it, is_there, is_live);
        let lacking: Vec<ShardAtRisk> =
            map.iter().flat_map(|map| map.entries().filter_map(|it| of_shard(map, it.0))).collect();
        let vacant = map.as_deref().map_or(0, StoreMap::vacant);
        // A live node has lost it, and gets it again by itself.
        let is_coming = |shard: u32, node: &str| {
            let entry = map.as_ref().and_then(|map| map.map.shards.get(shard as usize));
            let change = entry.and_then(|entry| entry.change_to(node));
            let is_own = |slot: &Slot| slot.holder.as_ref().is_some_and(|it| *it.node == *node);
            is_live(node) && change.is_some_and(|(slot, _)| is_own(slot))
        };
        let missing =
            |it: &ShardAtRisk| it.missing.iter().filter(|node| !is_coming(it.shard, node)).count();
        let missing = vacant + lacking.iter().map(missing).sum::<usize>();
        let short: BTreeSet<u32> =
            lacking.iter().filter(|it| it.is_short()).map(|it| it.shard).collect();
        let is_short = |it: &&ShardStatus| it.is_at_risk || short.contains(&it.shard);
        let at_risk = shards.iter().filter(is_short).count() as f64;
        // Several nodes of one process see the same map.
        for (metric, level) in [
            (&table::STORE_AT_RISK, at_risk),
            (&table::STORE_UNREPAIRED, unrepaired),
            (&table::STORE_MISSING, missing as f64),
            (&table::STORE_MOVING, of_kind(ChangeKind::Move)),
            (&table::STORE_REPLACED, of_kind(ChangeKind::Failover)),
            (&table::STORE_STORAGE_FAILING, f64::from(is_failing)),
        ] {
            page.at_least(metric, labels, level);
        }
        page.at_most(&table::STORE_USABLE, labels, f64::from(is_usable));
    }
}
