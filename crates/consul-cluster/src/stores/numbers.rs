//! The numbers of a store.

use super::{ShardStatus, Store, is_live};
use consul_api::error::Error;
use consul_process::clock::Instant;
use consul_process::metrics::{OperationNumbers, Page, Source, table};
use consul_process::sync::lock;
use consul_replication::map::ChangeKind;
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
        let at_risk = shards.iter().filter(|shard| shard.is_at_risk).count() as f64;
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
        let missing = map.as_deref().map_or(0, |map| {
            let of_shard = |shard| map.missing(shard, |node| is_live(&snapshot, node));
            let shards = map.entries().filter_map(|(shard, _)| of_shard(shard));
            map.vacant() + shards.map(|places| places.len()).sum::<usize>()
        });
        // Several nodes of one process see the same map.
        for (metric, level) in [
            (&table::STORE_AT_RISK, at_risk),
            (&table::STORE_UNREPAIRED, unrepaired),
            (&table::STORE_MISSING, missing as f64),
            (&table::STORE_MOVING, of_kind(ChangeKind::Move)),
            (&table::STORE_REPLACED, of_kind(ChangeKind::Failover)),
            (&table::STORE_USABLE, f64::from(is_usable)),
            (&table::STORE_STORAGE_FAILING, f64::from(is_failing)),
        ] {
            page.at_least(metric, labels, level);
        }
    }
}
