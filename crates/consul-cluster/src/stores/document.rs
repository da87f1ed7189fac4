//! The documents of replicated stores in Consul: the map of a store, and what each node reports.

use super::Shared;
use super::options::MAX_OF_A_SHARD;
use consul_api::error::{Error, Kind};
use consul_replication::map::{
    Change, ChangeKind, Disk, Entry, NodeId, Place, Sizes, Slot, StoreId,
};
use consul_replication::plan::Map;
use consul_replication::record::Version;
use consul_replication::state::{Doubt, Report};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of the formats.
pub(super) const FORMAT: u32 = 1;

/// The map of a store, as its key has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StoreMap {
    /// Which store it is; `None`: a release before ids has written it.
    pub id: Option<StoreId>,
    /// The number of shards, and N, W and R as they are wanted.
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

/// A shard: the map's version less its epoch, the index of the place of each slot, and the changes.
type ShardDocument = (u64, Vec<Option<usize>>, Vec<ChangeDocument>);

/// A change: the slot, its kind (0: a move, 1: a failover, 2: a change that unites), the index of the target among the
/// nodes, the map's version less the epoch that planned it, and the nodes that it does not wait for.
type ChangeDocument = (usize, u8, usize, u64, Vec<usize>);

/// The character of the first of a map's quorums.
const FIRST_KIND: char = '0';

/// W and R; and while N, W or R change, [`Entry::changing`].
type QuorumsDocument = ((usize, usize), Option<(usize, usize)>);

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
    /// The shards with an accepted loss, by [`Entry::unproven`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unproven: Vec<(Version, Vec<u32>)>,
    /// If a shard's W and R are not as in `shared`, or it changes: all pairs that occur, and for each shard the
    /// character `0` for the first of these, the next one for the second, and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quorums: Option<(Vec<QuorumsDocument>, String)>,
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
            let Change { kind, to, since, lost, unites } = slot.change.as_ref()?;
            let kind = match kind {
                ChangeKind::Move => 0,
                ChangeKind::Failover => 1 + u8::from(*unites),
            };
            Some((number, kind, nodes[to], age(*since), lost.iter().map(|it| nodes[it]).collect()))
        };
        let shard = |entry: &Entry| -> ShardDocument {
            let holders = entry.slots.iter().map(|slot| slot.holder.as_ref().map(|it| places[it]));
            let changes = entry.slots.iter().enumerate().filter_map(change);
            (age(entry.epoch), holders.collect(), changes.collect())
        };
        let mut unproven: BTreeMap<Version, Vec<u32>> = BTreeMap::new();
        for (shard, entry) in self.entries().filter(|(_, it)| it.unproven != Version::default()) {
            unproven.entry(entry.unproven).or_default().push(shard);
        }
        let document = Document {
            format: FORMAT,
            id: self.id,
            shared: self.shared,
            version: self.map.version,
            down: self.down.clone(),
            unrecovered: self.unrecovered.clone(),
            unproven: unproven.into_iter().collect(),
            quorums: self.quorums(),
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
        let count = document.shared.shards;
        let fits = |shards: &Vec<Entry>| {
            let has_slots = |it: &Entry| (1..=MAX_OF_A_SHARD).contains(&it.slots.len());
            shards.len() == count as usize && shards.iter().all(has_slots)
        };
        let is_known = document.unrecovered.iter().all(|shard| *shard < count);
        let Some(mut shards) = shards.filter(fits).filter(|_| is_known) else {
            return Err(undecodable("its shards are not those that it says"));
        };
        for (version, of) in document.unproven {
            for shard in of {
                let entry = shards.get_mut(shard as usize);
                entry.ok_or_else(|| undecodable("it has no such shard"))?.unproven = version;
            }
        }
        if let Some((kinds, of)) = document.quorums {
            let sizes = |(write, read)| Sizes { write, read };
            let kind = |it: char| kinds.get((it as usize).checked_sub(FIRST_KIND as usize)?);
            let kinds: Option<Vec<&QuorumsDocument>> = of.chars().map(kind).collect();
            let kinds = kinds.filter(|kinds| kinds.len() == shards.len());
            let kinds =
                kinds.ok_or_else(|| undecodable("its quorums are not those that it says"))?;
            for (entry, (quorums, changing)) in shards.iter_mut().zip(kinds) {
                (entry.quorums, entry.changing) = (sizes(*quorums), changing.map(sizes));
            }
        }
        let is_possible = |entry: &Entry| {
            let Sizes { write, read } = entry.quorums;
            let least = entry.lasting().least();
            least > 0 && write.max(read) <= entry.slots.len()
        };
        if !shards.iter().all(is_possible) {
            return Err(undecodable("its quorums are not possible"));
        }
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

    /// How many replicas no node has or gets: there are fewer nodes than the store has replicas.
    pub fn vacant(&self) -> usize {
        let slots = self.map.shards.iter().flat_map(|entry| &entry.slots);
        slots.filter(|slot| slot.is_vacant() && slot.change.is_none()).count()
    }

    /// Whether nothing is planned, and no node is down.
    pub fn is_quiet(&self) -> bool {
        let mut slots = self.map.shards.iter().flat_map(|entry| &entry.slots);
        let is_planned = slots.any(|it| it.change.is_some()) || self.changing() > 0;
        self.down.is_empty() && self.unrecovered.is_empty() && !is_planned
    }

    /// The W and R of the document.
    fn quorums(&self) -> Option<(Vec<QuorumsDocument>, String)> {
        if self.map.shards.iter().all(|entry| self.is_usual(entry)) {
            return None;
        }
        let pair = |Sizes { write, read }: Sizes| (write, read);
        let kind = |entry: &Entry| (pair(entry.quorums), entry.changing.map(pair));
        let kinds = indexed(self.map.shards.iter().map(kind));
        let sign = |entry: &Entry| char::from_u32(FIRST_KIND as u32 + kinds[&kind(entry)] as u32);
        // There are fewer than there are shards, and all of these have a character.
        let signs = self.map.shards.iter().filter_map(sign).collect();
        Some((kinds.into_keys().collect(), signs))
    }

    /// Whether a shard has W and R as they are wanted, and nothing of N, W and R changes.
    fn is_usual(&self, entry: &Entry) -> bool {
        entry.quorums == self.shared.quorums().sizes() && entry.changing.is_none()
    }

    /// How many shards have not N, W and R as they are wanted.
    pub fn changing(&self) -> usize {
        let wanted = self.shared.quorums();
        self.map.shards.iter().filter(|entry| !entry.has(wanted)).count()
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
        for (number, kind, to, age, lost) in changes {
            let (kind, unites) = match kind {
                0 => (ChangeKind::Move, false),
                1 => (ChangeKind::Failover, false),
                2 => (ChangeKind::Failover, true),
                _ => return None,
            };
            let node = |index: &usize| self.nodes.get(*index).cloned();
            let lost = lost.iter().map(node).collect::<Option<_>>()?;
            let since = self.version.checked_sub(*age)?;
            slots.get_mut(*number)?.change =
                Some(Change { kind, to: node(to)?, since, lost, unites });
        }
        let quorums = self.shared.quorums().sizes();
        Some(Entry::new(self.version.checked_sub(*age)?, slots).with_quorums(quorums))
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
    /// The id of no opening: of the disk's openings that are known none is the last.
    pub const DISPUTED: u64 = 0;

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

/// How far a node is with an order to make its replicas of a store again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaking {
    /// Which order it is.
    pub order: u64,
    /// How many replicas are left; 0: all were made again.
    pub left: usize,
    /// The shards that the order is about, while some are left.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub shards: BTreeSet<u32>,
    /// The shards that are left: no move copies their replicas. An older release does not tell them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub to_remake: BTreeSet<u32>,
    /// The shards whose replicas other nodes had copied by moves when this one took the order.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub gone: BTreeSet<u32>,
    /// Why the next one waits; empty: it does not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waits_for: String,
}

impl Remaking {
    /// The same without the shards.
    pub(crate) fn brief(self) -> Self {
        let Remaking { order, left, waits_for, .. } = self;
        Remaking { order, left, waits_for, ..Remaking::default() }
    }
}

/// The report of a node to the leader about its replicas of one store.
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
    /// The ids that the disk had before restarts of its machine, as its mark has them.
    #[serde(rename = "was", default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_disks: Vec<(Disk, Opening)>,
    /// The openings in the map that the disk had kept, but for those that the current map has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub known: BTreeMap<Disk, Opening>,
    /// The node's zone.
    pub zone: String,
    /// Its share of the shards.
    pub weight: f64,
    /// The records that it has copied, or compared for a copy, since its start, which shows that a copy makes progress.
    pub copied: u64,
    /// The time without progress after which a change is cancelled, in seconds.
    pub move_timeout_s: u64,
    /// Whether its storage fails, so that it gets no more shards.
    #[serde(rename = "fails", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_failing: bool,
    /// How far it is with replicas that an operator has it make again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaking: Option<Remaking>,
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

    /// Whether its opening is the last one of the disk.
    pub fn is_confirmed(&self, map: &StoreMap) -> bool {
        map.openings.get(&self.disk) == Some(&self.opening)
    }

    /// Its report, as this map knows it: a disk that was an old copy before its machine was restarted is one still.
    pub fn report(&self, node: &str, map: &StoreMap) -> Report {
        let mut report = self.report.clone();
        let ids = self.earlier_disks.iter().rev().copied();
        if !self.earlier_disks.is_empty() && !map.knows_as_last(node, self.disk, &[], ids) {
            report.doubted.iter_mut().for_each(|(_, doubt)| *doubt = Doubt::Old);
        }
        report
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

/// Reads a document, which a later release may have written in another format.
pub(super) fn read<D: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<D, Error> {
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
    use std::str::FromStr as _;

    /// The room that base64 leaves of the 512 KiB of a transaction, less the text around it.
    const MOST: usize = 512 * 1024 / 4 * 3 - 1024;

    #[test]
    fn the_largest_map_with_the_most_changes_fits_into_a_transaction() {
        let node = |number| Member {
            id: format!("node-{number}.of-a-rack.of-a-data-center.example.com").into(),
            zone: String::new(),
            weight: 1.0,
            disk: Disk(u64::MAX - number),
            presence: Presence::Live,
            is_failing: false,
            to_remake: BTreeSet::new(),
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
                    now: Default::default(),
                    rules: Default::default(),
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
            let mut map = StoreMap {
                id: Some(StoreId(u64::MAX)),
                shared,
                map,
                down: members.iter().map(|it| (it.id.clone(), version)).collect(),
                unrecovered: (0..shards).collect(),
                openings: members.iter().map(|it| (it.disk, opening)).collect(),
            };
            for (number, entry) in (0..).zip(&mut map.map.shards) {
                (entry.quorums, entry.changing) =
                    (Sizes::majorities(replicas), Some(entry.quorums));
                // Some losses were accepted at other times.
                entry.unproven = Version::from_str(&format!("{:032x}", u128::MAX - number % 16))
                    .expect("a version");
            }
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
}
