//! How far the copies of a node are, and about how many records its shards have. For people: it decides
//! nothing, and begins with the process.

use consul_process::sync::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// The counts of a node's shards.
#[derive(Debug, Default)]
pub struct Progress(Mutex<BTreeMap<u32, Counts>>);

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// The records at the last comparison, and those written since, of which some replace others.
    records: Option<u64>,
    /// The epoch that planned the change for which records were copied, and their number.
    taken: (u64, u64),
}

impl Progress {
    fn change(&self, shard: u32, change: impl FnOnce(&mut Counts)) {
        change(lock(&self.0).entry(shard).or_default());
    }

    fn of(&self, shard: u32) -> Counts {
        lock(&self.0).get(&shard).copied().unwrap_or_default()
    }

    /// Notes that a comparison has counted the records of a shard.
    pub(super) fn counted(&self, shard: u32, records: u64) {
        self.change(shard, |counts| counts.records = Some(records));
    }

    /// Notes that this many records were written.
    pub(super) fn wrote(&self, shard: u32, count: u64) {
        self.change(shard, |counts| {
            counts.records = counts.records.map(|records| records + count);
        });
    }

    /// Notes that this many records were copied for the change that this epoch planned.
    pub(super) fn took(&self, shard: u32, since: u64, count: u64) {
        self.change(shard, |counts| {
            let before = if counts.taken.0 == since { counts.taken.1 } else { 0 };
            counts.taken = (since, before + count);
        });
    }

    /// About how many records a shard has; `None`: no comparison has counted them yet.
    pub fn records(&self, shard: u32) -> Option<u64> {
        self.of(shard).records
    }

    /// The records that were copied for the change that this epoch planned.
    pub fn taken(&self, shard: u32, since: u64) -> u64 {
        let (of, count) = self.of(shard).taken;
        if of == since { count } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_change_begins_at_nothing_and_writes_add_to_a_count() {
        let progress = Progress::default();
        progress.wrote(7, 5);
        assert_eq!(progress.records(7), None, "it is not known how many there were before");
        progress.counted(7, 100);
        progress.wrote(7, 5);
        assert_eq!((progress.records(7), progress.records(8)), (Some(105), None));
        progress.took(7, 3, 10);
        progress.took(7, 3, 10);
        assert_eq!((progress.taken(7, 3), progress.taken(7, 4)), (20, 0));
        progress.took(7, 4, 1);
        assert_eq!((progress.taken(7, 3), progress.taken(7, 4)), (0, 1));
    }
}
