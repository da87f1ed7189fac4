//! How far the copies of a node are, and about how many records its shards have. For people: it decides
//! nothing, and begins with the process.

use bytes::Bytes;
use consul_process::sync::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// The counts of a node's shards.
#[derive(Debug, Default)]
pub struct Progress(Mutex<BTreeMap<u32, Counts>>);

/// The most comparisons of a shard that are counted at a time.
const COMPARISONS: usize = 16;

#[derive(Clone, Debug, Default)]
struct Counts {
    /// The records at the last comparison, and the records written since; some of them replace others.
    records: Option<u64>,
    /// The records of comparisons that are being made, by the last id of the part before.
    compared: BTreeMap<Bytes, u64>,
    /// The epoch that planned the change for which records were copied, and their number.
    taken: (u64, u64),
}

impl Progress {
    fn change(&self, shard: u32, change: impl FnOnce(&mut Counts)) {
        change(lock(&self.0).entry(shard).or_default());
    }

    fn of(&self, shard: u32) -> Counts {
        lock(&self.0).get(&shard).cloned().unwrap_or_default()
    }

    /// Notes that a comparison has counted the records of a part of a shard, after an id and up to another one.
    pub(super) fn counted(
        &self,
        shard: u32,
        after: Option<Bytes>,
        records: usize,
        through: Option<Bytes>,
    ) {
        self.change(shard, |counts| {
            let before = after.map_or(Some(0), |after| counts.compared.remove(&after));
            let Some(sum) = before.map(|before| before + records as u64) else { return };
            match through {
                Some(through) => {
                    counts.compared.insert(through, sum);
                    // Some were not made to their end.
                    while counts.compared.len() > COMPARISONS {
                        counts.compared.pop_first();
                    }
                }
                None => counts.records = Some(sum),
            }
        });
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
        let end = |id: &'static str| Some(Bytes::from_static(id.as_bytes()));
        progress.counted(7, None, 60, end("m"));
        // Another node compares too, and does not end.
        progress.counted(7, None, 50, end("l"));
        assert_eq!(progress.records(7), None, "it has more");
        progress.counted(7, end("m"), 40, None);
        progress.wrote(7, 5);
        assert_eq!((progress.records(7), progress.records(8)), (Some(105), None));
        progress.took(7, 3, 10);
        progress.took(7, 3, 10);
        assert_eq!((progress.taken(7, 3), progress.taken(7, 4)), (20, 0));
        progress.took(7, 4, 1);
        assert_eq!((progress.taken(7, 3), progress.taken(7, 4)), (0, 1));
    }
}
