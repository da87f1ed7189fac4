//! The documents of replicated stores in Consul: the map of a store, and what each node reports.

use super::Shared;
use consul_api::error::{Error, Kind};
use consul_replication::map::{Change, ChangeKind, Disk, Entry, NodeId, Place, Slot, StoreId};
use consul_replication::plan::Map;
use consul_replication::state::Report;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of the formats.
pub(super) const FORMAT: u32 = 1;

/// The map of a store, as its key has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StoreMap {
    /// Which store it is; `None`: a release before ids has written it.
    pub id: Option<StoreId>,
    /// What all nodes must agree on.
    pub shared: Shared,
    /// The entries of the shards.
    pub map: Map,
    /// The nodes that are down, since when, in Unix milliseconds by the clock of the leader that saw it.
    pub down: BTreeMap<NodeId, u64>,
    /// The shards whose entries may be old, since Consul went back: the leader has yet to ask their holders.
    pub unrecovered: BTreeSet<u32>,
    /// The last known opening of each disk that a slot or a node's record names.
    pub openings: BTreeMap<Disk, Opening>,
}

impl StoreMap {
    /// Whether a shard's entry names a node, as a holder or as the target of a change.
    pub fn names(&self, node: &str) -> bool {
        self.map.shards.iter().any(|entry| entry.names(node))
    }
}

/// One opening of a disk by a process. An old copy of a disk was opened less often, or by another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Opening {
    /// How often the disk has been opened, this time included.
    pub starts: u64,
    /// A random number of the process.
    pub id: u64,
}

impl Opening {
    /// Whether this opening, before which the disk was opened with the ids `before`, came after that one. Of
    /// openings before those it is assumed.
    pub fn follows(self, before: &[u64], other: Opening) -> bool {
        let ago = self.starts.saturating_sub(other.starts) as usize;
        match before.len().checked_sub(ago) {
            _ if ago == 0 => false,
            Some(place) => before[place] == other.id,
            None => true,
        }
    }
}

/// A shard: the map's version less its epoch, the index of the place of each slot, and the changes.
type ShardDocument = (u64, Vec<Option<usize>>, Vec<ChangeDocument>);

/// A change: the slot, whether it is a failover, the index of the target among the nodes, the map's version
/// less the epoch that planned it, and the nodes that it does not wait for.
type ChangeDocument = (usize, u8, usize, u64, Vec<usize>);

/// The map as JSON, short enough for a transaction with 8,192 shards.
#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<StoreId>,
    shared: Shared,
    version: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    down: BTreeMap<NodeId, u64>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    unrecovered: BTreeSet<u32>,
    openings: BTreeMap<Disk, Opening>,
    nodes: Vec<NodeId>,
    places: Vec<Place>,
    shards: Vec<ShardDocument>,
}

/// The distinct values of a list, each with its index.
fn indexed<T: Ord>(values: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let distinct = BTreeSet::from_iter(values).into_iter().enumerate();
    BTreeMap::from_iter(distinct.map(|(index, value)| (value, index)))
}

impl StoreMap {
    /// The document of the key.
    pub fn encode(&self) -> Vec<u8> {
        let slots = || self.map.shards.iter().flat_map(|entry| &entry.slots);
        let changes = slots().filter_map(|slot| slot.change.as_ref());
        let nodes = indexed(changes.flat_map(|it| it.lost.iter().chain([&it.to])));
        let places = indexed(slots().filter_map(|slot| slot.holder.as_ref()));
        let age = |epoch: u64| self.map.version.saturating_sub(epoch);
        let change = |(number, slot): (usize, &Slot)| -> Option<ChangeDocument> {
            let Change { kind, to, since, lost } = slot.change.as_ref()?;
            let is_failover = u8::from(*kind == ChangeKind::Failover);
            Some((
                number,
                is_failover,
                nodes[to],
                age(*since),
                lost.iter().map(|it| nodes[it]).collect(),
            ))
        };
        let shard = |entry: &Entry| -> ShardDocument {
            let holders = entry.slots.iter().map(|slot| slot.holder.as_ref().map(|it| places[it]));
            let changes = entry.slots.iter().enumerate().filter_map(change);
            (age(entry.epoch), holders.collect(), changes.collect())
        };
        let document = Document {
            format: FORMAT,
            id: self.id,
            shared: self.shared,
            version: self.map.version,
            down: self.down.clone(),
            unrecovered: self.unrecovered.clone(),
            openings: self.openings.clone(),
            shards: self.map.shards.iter().map(shard).collect(),
            nodes: nodes.into_keys().cloned().collect(),
            places: places.into_keys().cloned().collect(),
        };
        // Numbers and strings can always be encoded.
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// Reads the document.
    ///
    /// # Errors
    /// [`Kind::Decode`] if it is not one, [`Kind::Unsupported`] if it is one of another release.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let document: Document = read(bytes)?;
        let shards = document.shards.iter().map(|shard| document.entry(shard));
        let shards: Option<Vec<Entry>> = shards.collect();
        let Shared { shards: count, replicas, .. } = document.shared;
        let fits = |shards: &Vec<Entry>| {
            shards.len() == count as usize && shards.iter().all(|it| it.slots.len() == replicas)
        };
        let is_known = document.unrecovered.iter().all(|shard| *shard < count);
        let Some(shards) = shards.filter(fits).filter(|_| is_known) else {
            return Err(undecodable("its shards are not those that it says"));
        };
        Ok(StoreMap {
            id: document.id,
            shared: document.shared,
            map: Map { version: document.version, shards },
            down: document.down,
            unrecovered: document.unrecovered,
            openings: document.openings,
        })
    }

    /// The entries with the numbers of their shards.
    pub fn entries(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.map.shards.iter().enumerate().map(|(shard, entry)| (shard as u32, entry))
    }

    /// The replicas of a shard that are known to be missing; `None`: it is not known who has them.
    pub fn missing(&self, shard: u32, is_live: impl Fn(&str) -> bool) -> Option<BTreeSet<Place>> {
        let is_known = !self.unrecovered.contains(&shard);
        let entry = self.map.shards.get(shard as usize).filter(|_| is_known)?;
        let is_missing = |slot: &&Slot| {
            let node = slot.holder.as_ref().map(|place| &place.node);
            slot.counting().is_none()
                || node.is_some_and(|node| self.down.contains_key(node) || !is_live(node))
        };
        let missing = entry.slots.iter().filter(is_missing);
        Some(BTreeSet::from_iter(missing.filter_map(|slot| slot.holder.clone())))
    }

    /// Whether nothing is planned, and no node is down.
    pub fn is_quiet(&self) -> bool {
        let mut slots = self.map.shards.iter().flat_map(|entry| &entry.slots);
        self.down.is_empty() && self.unrecovered.is_empty() && slots.all(|it| it.change.is_none())
    }

    /// Notes the openings of disks, unless it knows later ones, and forgets the disks that nothing names.
    pub fn note_openings<'a>(&mut self, records: impl Iterator<Item = &'a MemberRecord> + Clone) {
        for record in records.clone() {
            let known = self.openings.entry(record.disk).or_insert(record.opening);
            if record.opening.follows(&record.before, *known) {
                *known = record.opening;
            }
        }
        let holders = self.map.shards.iter().flat_map(|entry| &entry.slots);
        let disks = holders.filter_map(|slot| slot.holder.as_ref()).map(|place| place.disk);
        let named = BTreeSet::from_iter(disks.chain(records.map(|record| record.disk)));
        self.openings.retain(|disk, _| named.contains(disk));
    }

    /// The same map, to be put back after Consul has lost it.
    pub fn put_back(&self) -> Self {
        StoreMap { unrecovered: BTreeSet::from_iter(0..self.shared.shards), ..self.clone() }
    }
}

impl Document {
    /// The entry of a shard; `None` if an index is that of nothing.
    fn entry(&self, (age, holders, changes): &ShardDocument) -> Option<Entry> {
        let place = |index: Option<usize>| match index {
            Some(index) => self.places.get(index).cloned().map(Some),
            None => Some(None),
        };
        let holders = holders.iter().map(|index| place(*index));
        let slots = holders.map(|it| it.map(|holder| Slot { holder, change: None }));
        let mut slots = slots.collect::<Option<Vec<_>>>()?;
        for (number, is_failover, to, age, lost) in changes {
            let kind = if *is_failover == 1 { ChangeKind::Failover } else { ChangeKind::Move };
            let node = |index: &usize| self.nodes.get(*index).cloned();
            let lost = lost.iter().map(node).collect::<Option<_>>()?;
            let since = self.version.checked_sub(*age)?;
            slots.get_mut(*number)?.change = Some(Change { kind, to: node(to)?, since, lost });
        }
        Some(Entry { epoch: self.version.checked_sub(*age)?, slots })
    }
}

/// What a node tells the leader about its replicas of one store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct MemberRecord {
    pub format: u32,
    /// The store whose disk the node has; `None`: a new disk, or one of a release before ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<StoreId>,
    /// The configuration of the store on that node.
    pub shared: Shared,
    /// The start of the node that has written it.
    pub incarnation: String,
    /// The leader's session, as the node knows it: the leader waits for the report of each live node.
    pub leader: String,
    /// The version of the newest map that the node knows; 0: none.
    pub seen: u64,
    /// The disk of its records.
    pub disk: Disk,
    /// By which opening it has that disk: it serves requests when the map names it.
    pub opening: Opening,
    /// The ids of the openings before that, the last one at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<u64>,
    /// The node's zone.
    pub zone: String,
    /// Its share of the shards.
    pub weight: f64,
    /// The records that it has copied since its start, which shows that a copy makes progress.
    pub copied: u64,
    /// The time without progress after which a change is cancelled, in seconds.
    pub move_timeout_s: u64,
    /// The state of its shards.
    pub report: Report,
}

impl MemberRecord {
    /// The document of the key.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the document.
    ///
    /// # Errors
    /// [`Kind::Decode`] if it is not one, [`Kind::Unsupported`] if it is one of another release.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        read(bytes)
    }
}

/// A node's announcement before its storage is open: the leader makes no first map without its report, since its
/// disk may have one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announcement {
    pub format: u32,
    /// The start of the node that has written it.
    pub incarnation: String,
}

impl Announcement {
    /// The document of the key.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the document.
    ///
    /// # Errors
    /// [`Kind::Decode`] if it is not one, [`Kind::Unsupported`] if it is one of another release.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        read(bytes)
    }
}

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
    /// Whether it was not opened since, as far as a map knows. One that knows none of its ids, but another disk of the
    /// node, says that the node had that one since.
    pub fn is_last(&self, map: &StoreMap) -> bool {
        let last = |disk: &Disk| map.openings.get(disk).copied();
        if let Some(last) = last(&self.disk) {
            return last == self.opening || self.opening.follows(&self.before, last);
        }
        let mut earlier = self.earlier_disks.iter().rev();
        if let Some((own, last)) = earlier.find_map(|(disk, own)| Some((*own, last(disk)?))) {
            return last == own || last.starts < own.starts;
        }
        let slots = map.map.shards.iter().flat_map(|entry| &entry.slots);
        let mut holders = slots.filter_map(|slot| slot.holder.as_ref());
        holders.all(|place| *place.node != *self.node)
    }

    /// What is kept.
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

/// Reads a document, of which a later release may have written another format.
fn read<D: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<D, Error> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let format: Format =
        serde_json::from_slice(bytes).map_err(|it| undecodable(&it.to_string()))?;
    if format.format != FORMAT {
        let why = format!("its format is {}, this release supports {FORMAT}", format.format);
        return Err(Error::new(Kind::Unsupported, format!("the document cannot be read: {why}")));
    }
    serde_json::from_slice(bytes).map_err(|error| undecodable(&error.to_string()))
}

fn undecodable(why: &str) -> Error {
    Error::new(Kind::Decode, format!("the document cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::options::{MAX_REPLICAS, MAX_SHARDS, StoreOptions};
    use consul_replication::map::Quorums;
    use consul_replication::plan::{MAX_CHANGES, Member, Planner, Presence};

    /// What base64 leaves of the 512 KiB of a transaction, less what stands around it.
    const MOST: usize = 512 * 1024 / 4 * 3 - 1024;

    #[test]
    fn the_largest_map_with_the_most_changes_fits_into_a_transaction() {
        let node = |number| Member {
            id: format!("node-{number}.of-a-rack.of-a-data-center.example.com").into(),
            zone: String::new(),
            weight: 1.0,
            disk: Disk(u64::MAX - number),
            presence: Presence::Live,
            report: Report::default(),
        };
        let members: Vec<Member> = (0..100).map(node).collect();
        let (stuck, accepted) = Default::default();
        for shards in [MAX_SHARDS, 1536] {
            let replicas = MAX_REPLICAS / shards as usize;
            let (planner, version) = (
                Planner {
                    members: &members,
                    quorums: Quorums::majorities(replicas),
                    may_plan: true,
                    stuck: &stuck,
                    accepted: &accepted,
                },
                1_700_000_000_000,
            );
            let mut map = Map::first(shards as usize, version, &planner);
            map.version += 10_000_000;
            let since = map.version - 100_000;
            let slots = map.shards.iter_mut().flat_map(|entry| &mut entry.slots);
            for slot in slots.take(MAX_CHANGES) {
                let to = members[99].id.clone();
                slot.change = Some(Change::new(ChangeKind::Failover, to, since));
            }
            let shared = Shared { shards, replicas, write_quorum: replicas, read_quorum: replicas };
            let opening = Opening { starts: 1000, id: u64::MAX };
            let map = StoreMap {
                id: Some(StoreId(u64::MAX)),
                shared,
                map,
                down: members.iter().map(|it| (it.id.clone(), version)).collect(),
                unrecovered: (0..shards).collect(),
                openings: members.iter().map(|it| (it.disk, opening)).collect(),
            };
            let bytes = map.encode();
            assert!(bytes.len() <= MOST, "{} bytes", bytes.len());
            assert_eq!(StoreMap::decode(&bytes).expect("what was encoded"), map);
        }
    }

    #[test]
    fn more_replicas_than_fit_are_refused() {
        let cluster = crate::Options::new("n1", "127.0.0.1:9000");
        let quorums = Quorums::majorities(16);
        let store = StoreOptions { shards: 1537, quorums, ..StoreOptions::new("points", &cluster) };
        let why = store.check().expect_err("24,592 replicas");
        assert!(why.message().contains("shards is 1537 and replicas is 16"), "{why}");
    }

    #[test]
    fn indexes_of_nothing_are_refused() {
        let text = |changes: &str| {
            format!(
                r#"{{"format":1,"shared":{{"shards":1,"replicas":1,"write_quorum":1,"read_quorum":1}},"version":9,
                "openings":{{}},"nodes":["n1"],"places":[{{"node":"n1","disk":1}}],"shards":[[0,[0],{changes}]]}}"#
            )
        };
        StoreMap::decode(text("[[0,1,0,2,[]]]").as_bytes()).expect("a map");
        for changes in ["[[1,1,0,2,[]]]", "[[0,1,1,2,[]]]", "[[0,1,0,10,[]]]", "[[0,1,0,2,[7]]]"] {
            let why = StoreMap::decode(text(changes).as_bytes()).expect_err(changes);
            assert_eq!(why.kind(), Kind::Decode, "{why}");
        }
    }

    #[test]
    fn the_opening_of_an_old_copy_is_not_noted() {
        let map = r#"{"format":1,"shared":{"shards":1,"replicas":1,"write_quorum":1,"read_quorum":1},"version":9,
            "openings":{"1":{"starts":3,"id":30}},"nodes":["n1"],"places":[{"node":"n1","disk":1}],"shards":[[0,[0],[]]]}"#;
        let mut map = StoreMap::decode(map.as_bytes()).expect("a map");
        let record = |starts: u64, id: u64, before: Vec<u64>| MemberRecord {
            format: FORMAT,
            id: None,
            shared: map.shared,
            incarnation: String::new(),
            leader: String::new(),
            seen: 9,
            disk: Disk(1),
            opening: Opening { starts, id },
            before,
            zone: String::new(),
            weight: 1.0,
            copied: 0,
            move_timeout_s: 60,
            report: Report::default(),
        };
        let (copy, next) = (record(4, 41, vec![10, 20, 31]), record(4, 40, vec![10, 20, 30]));
        for (record, noted) in [(copy, 30), (next, 40)] {
            map.note_openings([&record].into_iter());
            assert_eq!(map.openings[&Disk(1)].id, noted);
        }
    }
}
