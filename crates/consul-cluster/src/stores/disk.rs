//! The identity of a node's disk and of its state: the mark on the disk, its openings, and what the map knows of them.

use super::document::{FORMAT, MemberRecord, Opening, StoreMap, read};
use consul_api::error::Error;
use consul_replication::map::{Disk, StoreId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::iter;

/// The most openings of a disk that it knows, and the most ids that it had.
const MAX_BEFORE: usize = 16;

/// Which disk the records are on, as it is kept on that disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DiskMark {
    pub format: u32,
    /// The store and the node whose records are on it.
    pub store: String,
    pub node: String,
    /// Which store of that name it is; `None` before the disk has seen its map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<StoreId>,
    /// The disk's random id.
    pub disk: Disk,
    /// Its last opening.
    pub opening: Opening,
    /// The ids of the openings before that, the last one at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<u64>,
    /// The start of the machine, if the records do not survive its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// The ids that it had before the restarts of its machine and their last openings, the last one at the end.
    #[serde(rename = "was", default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_disks: Vec<(Disk, Opening)>,
}

impl DiskMark {
    /// The mark of a new disk of a node.
    pub fn new(store: &str, node: &str, mut random: impl FnMut() -> u64) -> Self {
        DiskMark {
            format: FORMAT,
            store: store.to_owned(),
            node: node.to_owned(),
            id: None,
            disk: Disk(random()),
            opening: Opening { starts: 1, id: random() },
            before: Vec::new(),
            boot: None,
            earlier_disks: Vec::new(),
        }
    }

    /// The mark of the next opening of the same disk.
    pub fn opened_again(&self, mut random: impl FnMut() -> u64) -> Self {
        let before = self.before.iter().copied().chain([self.opening.id]);
        DiskMark {
            opening: Opening { starts: self.opening.starts + 1, id: random() },
            before: last_kept(before),
            ..self.clone()
        }
    }

    /// The mark of the disk when it may lack something, for which it gets another id.
    pub fn replaced(&self, random: impl FnMut() -> u64) -> Self {
        let earlier = self.earlier_disks.iter().copied().chain([(self.disk, self.opening)]);
        DiskMark {
            id: self.id,
            earlier_disks: last_kept(earlier),
            ..DiskMark::new(&self.store, &self.node, random)
        }
    }

    /// Whether it was not opened since, as far as a map knows.
    pub fn is_last(&self, map: &StoreMap) -> bool {
        let earlier = self.earlier_disks.iter().rev().copied();
        let ids = iter::once((self.disk, self.opening)).chain(earlier);
        map.knows_as_last(&self.node, self.disk, &self.before, ids)
    }

    /// The bytes that are kept.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what was kept.
    ///
    /// # Errors
    /// [`Kind::Decode`] if it is not a mark, [`Kind::Unsupported`] if it is one of another release.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        read(bytes)
    }
}

/// The last of these, as many as a disk keeps.
fn last_kept<T>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = all.collect();
    all.drain(..all.len().saturating_sub(MAX_BEFORE));
    all
}

impl StoreMap {
    /// Notes the openings of disks, unless it knows later ones, and forgets the disks that nothing names.
    ///
    /// A map that was put back may know less than those that nodes have kept. Of two openings that do not follow each other
    /// one is that of an old copy, and nobody knows which: the disk has no last opening then.
    pub fn note_openings<'a>(&mut self, records: impl Iterator<Item = &'a MemberRecord> + Clone) {
        for record in records.clone() {
            let known = self.openings.entry(record.disk).or_insert(record.opening);
            if record.opening.follows(&record.before, *known) {
                *known = record.opening;
            }
        }
        for (disk, kept) in records.clone().flat_map(|record| &record.known) {
            let last = self.openings.entry(*disk).or_insert(*kept);
            let own = records.clone().find(|it| it.disk == *disk && it.opening == *last);
            let is_before = match own {
                Some(own) => own.opening == *kept || own.opening.follows(&own.before, *kept),
                None => last == kept || last.starts > kept.starts,
            };
            if !is_before && last.id != Opening::DISPUTED {
                let is_next = own.is_none() && kept.starts > last.starts;
                let starts = last.starts.max(kept.starts);
                *last = if is_next { *kept } else { Opening { starts, id: Opening::DISPUTED } };
            }
        }
        let holders = self.map.shards.iter().flat_map(|entry| &entry.slots);
        let disks = holders.filter_map(|slot| slot.holder.as_ref()).map(|place| place.disk);
        let named = BTreeSet::from_iter(disks.chain(records.map(|record| record.disk)));
        self.openings.retain(|disk, _| named.contains(disk));
    }

    /// Whether a node's disk was not opened since, as far as the map knows: a disk that has the id `now`, and had these ids
    /// with their last openings, the last one first, before which it was opened with the ids `before`. A map that names the
    /// node with an id that the disk never had says that the node had another disk since.
    pub fn knows_as_last(
        &self,
        node: &str,
        now: Disk,
        before: &[u64],
        ids: impl Iterator<Item = (Disk, Opening)> + Clone,
    ) -> bool {
        let slots = self.map.shards.iter().flat_map(|entry| &entry.slots);
        let mut places = slots.filter_map(|slot| slot.holder.as_ref());
        let had = |disk| disk == now || ids.clone().any(|(id, _)| id == disk);
        if places.any(|place| *place.node == *node && !had(place.disk)) {
            return false;
        }
        let befores = iter::once(before).chain(iter::repeat(&[][..]));
        let mut known = ids
            .clone()
            .zip(befores)
            .filter_map(|((disk, own), before)| Some((own, before, *self.openings.get(&disk)?)));
        known.next().is_none_or(|(own, before, last)| last == own || own.follows(before, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::Shared;
    use consul_replication::map::{Entry, Place};
    use consul_replication::state::Report;
    use std::collections::BTreeMap;

    /// A record of a disk that was never opened before.
    fn record(shared: Shared, disk: Disk, opening: Opening) -> MemberRecord {
        MemberRecord {
            format: FORMAT,
            id: None,
            shared,
            incarnation: String::new(),
            leader: String::new(),
            seen: 9,
            disk,
            opening,
            before: Vec::new(),
            earlier_disks: Vec::new(),
            known: BTreeMap::new(),
            zone: String::new(),
            weight: 1.0,
            copied: 0,
            move_timeout_s: 60,
            is_failing: false,
            remaking: None,
            report: Report::default(),
        }
    }

    #[test]
    fn the_opening_of_an_old_copy_is_not_noted() {
        let map = r#"{"format":1,"shared":{"shards":1,"replicas":1,"write_quorum":1,"read_quorum":1},"version":9,
            "openings":{"1":{"starts":3,"id":30}},"nodes":["n1"],"places":[{"node":"n1","disk":1}],"shards":[[0,[0],[]]]}"#;
        let mut map = StoreMap::decode(map.as_bytes()).expect("a map");
        let record = |starts, id, before| MemberRecord {
            before,
            ..record(map.shared, Disk(1), Opening { starts, id })
        };
        let (copy, next) = (record(4, 41, vec![10, 20, 31]), record(4, 40, vec![10, 20, 30]));
        for (record, noted) in [(copy, 30), (next, 40)] {
            map.note_openings([&record].into_iter());
            assert_eq!(map.openings[&Disk(1)].id, noted);
        }
    }

    /// A node's disk over restarts of its process and its machine, and copies of it that are put back.
    struct Node {
        map: StoreMap,
        mark: DiskMark,
        /// How many writes of each shard it has.
        has: [u64; 3],
        copies: Vec<(DiskMark, [u64; 3])>,
    }

    impl Node {
        fn new(random: impl FnMut() -> u64) -> Self {
            let mark = DiskMark::new("points", "n1", random);
            let map = r#"{"format":1,"shared":{"shards":3,"replicas":1,"write_quorum":1,"read_quorum":1},"version":9,
                "openings":{},"nodes":[],"places":[],"shards":[[0,[null],[]],[0,[null],[]],[0,[null],[]]]}"#;
            let map = StoreMap::decode(map.as_bytes()).expect("a map");
            Node { map, mark, has: [0; 3], copies: Vec::new() }
        }

        fn report(&mut self) {
            let DiskMark { disk, opening, before, .. } = self.mark.clone();
            let record = MemberRecord { before, ..record(self.map.shared, disk, opening) };
            self.map.note_openings([&record].into_iter());
        }

        fn serves(&self) -> bool {
            self.map.openings.get(&self.mark.disk) == Some(&self.mark.opening)
        }

        /// A step of its history; fails if an old copy is taken for the last state.
        fn step(&mut self, rng: &mut fastrand::Rng) {
            let (shard, way) = (rng.usize(..3), rng.u8(..8));
            let mut ids = rng.fork();
            let random = || ids.u64(1..);
            let own = Place { node: "n1".into(), disk: self.mark.disk, is_first: false };
            let slot = &self.map.map.shards[shard].slots[0].holder;
            match way {
                0 => self.mark = self.mark.opened_again(random),
                1 => self.mark = self.mark.replaced(random),
                2 => self.report(),
                // It is made whole, or the shard is moved away.
                3 if self.serves() => self.map.map.shards[shard].slots[0].holder = Some(own),
                4 => self.map.map.shards[shard].slots[0].holder = None,
                5 if self.serves() && *slot == Some(own) => self.has[shard] += 1,
                // While no process has it open.
                6 => {
                    self.copies.push((self.mark.clone(), self.has));
                    self.mark = match rng.bool() {
                        true => self.mark.opened_again(random),
                        false => self.mark.replaced(random),
                    };
                }
                7 if !self.copies.is_empty() => {
                    let (mark, has) = self.copies[rng.usize(..self.copies.len())].clone();
                    let mut shards = self.map.entries().zip(has.iter().zip(&self.has));
                    let lacks = |((_, entry), (copy, last)): ((u32, &Entry), (&u64, &u64))| {
                        entry.names("n1") && copy < last
                    };
                    let is_old = shards.any(lacks);
                    assert!(!is_old || !mark.is_last(&self.map), "{mark:?}\n{:?}", self.map);
                    (self.mark, self.has) = (mark.replaced(random), has);
                }
                _ => {}
            }
        }
    }

    /// Calls `step` 60 times in each of these histories.
    fn histories(seeds: u64, step: impl Fn(&mut Node, &mut fastrand::Rng)) {
        for seed in 0..seeds {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut node = Node::new(|| rng.u64(1..));
            for _ in 0..60 {
                step(&mut node, &mut rng);
            }
        }
    }

    #[test]
    fn an_old_copy_is_not_taken_for_the_last_state_of_a_disk() {
        histories(3000, Node::step);
    }

    /// An operator decides only about disks that can be told apart.
    #[test]
    fn a_disk_that_was_only_restarted_is_the_last() {
        histories(1000, |node, rng| {
            node.copies.clear();
            node.step(rng);
            assert!(node.mark.is_last(&node.map), "{:?}\n{:?}", node.mark, node.map);
        });
    }
}
