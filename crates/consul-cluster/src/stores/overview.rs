//! The stores of a cluster for operators: from their maps in Consul, and from what the nodes tell.

use super::document::{Remaking, StoreMap};
use super::lists::listed;
use super::member::Member;
use super::{Store, map_key, waiting_key};
use crate::Cluster;
use crate::observe::report::Told;
use consul_api::error::Error;
use consul_process::sync::lock;
use consul_replication::map::{ChangeKind, Entry, NodeId, Place, Slot};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A replicated store.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoreOverview {
    /// Its name.
    pub name: String,
    /// The number of shards.
    pub shards: u32,
    /// N.
    pub replicas: usize,
    /// W.
    pub write_quorum: usize,
    /// R.
    pub read_quorum: usize,
    /// The version of its map.
    pub map_version: u64,
    /// The replicas that move from one node to another.
    pub moving: Vec<ShardMoving>,
    /// The new replicas in place of lost ones.
    pub repairing: Vec<ShardRepairing>,
    /// The shards with a missing replica.
    pub at_risk: Vec<ShardAtRisk>,
    /// How many replicas no node has or gets, since there are fewer nodes than the store has replicas.
    pub vacant: usize,
    /// Whether a node that has told has the store open; the problems tell it.
    #[serde(skip)]
    pub is_open: bool,
    /// The nodes that make replicas again by an operator's order; the problems tell it.
    #[serde(skip)]
    pub remaking: BTreeMap<String, Remaking>,
    /// The shards whose holders are not known, since Consul went back; their number in JSON.
    #[serde(serialize_with = "counted")]
    pub unrecovered: BTreeSet<u32>,
    /// The shards that have not N, W and R as they are wanted; `None`: all have them.
    pub changing: Option<NumbersChanging>,
}

fn counted<S: Serializer>(shards: &BTreeSet<u32>, serializer: S) -> Result<S::Ok, S::Error> {
    shards.len().serialize(serializer)
}

/// N, W or R of a store change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NumbersChanging {
    /// How many shards have not the wanted numbers yet.
    pub shards: usize,
    /// The reason why the first of them waits.
    pub waits_for: String,
}

/// A replica that moves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShardMoving {
    /// The shard.
    pub shard: u32,
    /// The node that gets it.
    pub to: String,
    /// The share of the records that is copied, about; `None`: nobody tells.
    pub done: Option<f64>,
}

/// A new replica in place of a lost one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShardRepairing {
    /// The shard.
    pub shard: u32,
    /// The node that gets it.
    pub on: String,
    /// The share of the records that is copied, about; `None`: nobody tells.
    pub done: Option<f64>,
}

/// A shard with a missing replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardAtRisk {
    /// The shard.
    pub shard: u32,
    /// The nodes whose replicas are lost, or that are down.
    pub missing: Vec<String>,
    /// The replicas that are there.
    pub left: usize,
    /// With fewer, no new replica can be made without the loss of acknowledged writes.
    pub needed: usize,
    /// Whether they are enough for writes; the problems tell it.
    #[serde(skip)]
    pub takes_writes: bool,
    /// Whether they are enough for reads, together with those whose storage fails.
    #[serde(skip)]
    pub takes_reads: bool,
}

impl ShardAtRisk {
    /// A shard without some of its replicas; `is_live` may be true also where `is_there` is not, since a storage fails.
    pub(super) fn of(
        map: &StoreMap,
        shard: u32,
        is_there: impl Fn(&str) -> bool,
        is_live: impl Fn(&str) -> bool,
    ) -> Option<Self> {
        let missing = map.missing(shard, is_there)?;
        let entry = map.map.shards.get(shard as usize).filter(|_| !missing.is_empty())?;
        let is_missing = |node: &NodeId| missing.iter().any(|place| place.node == *node);
        let has = |node: &NodeId| !is_missing(node);
        let count =
            |is: &dyn Fn(&NodeId) -> bool| entry.counting().filter(|it| is(&it.1.node)).count();
        let left = count(&has);
        Some(ShardAtRisk {
            shard,
            left,
            needed: entry.fenced().saturating_sub(entry.vacant()),
            takes_writes: left >= entry.quorums.write,
            takes_reads: count(&|node| has(node) || is_live(node)) >= entry.quorums.read,
            missing: missing.iter().map(|place| place.node.to_string()).collect(),
        })
    }

    /// Whether something of it does not work before a replica comes back: writes, reads, or a failover.
    pub fn is_short(&self) -> bool {
        self.left < self.needed || !self.takes_writes || !self.takes_reads
    }
}

/// How far a node is with what it copies for a store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CopyReport {
    /// The store.
    pub store: String,
    /// The shards that it copies: the records that it has, and whether these are all.
    pub copies: BTreeMap<u32, (u64, bool)>,
    /// About how many records its shards have that others copy.
    pub records: BTreeMap<u32, u64>,
    /// The shards whose replica on it does not count by the map.
    #[serde(default)]
    pub lacking: BTreeSet<u32>,
    /// Whether the map names another disk of it for one of these.
    #[serde(default)]
    pub has_other_disk: bool,
    /// How far it is with replicas that an operator has it make again, unless that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaking: Option<Remaking>,
}

impl Store {
    /// How far this node is with its copies.
    pub(crate) async fn copy_report(&self) -> CopyReport {
        let mut report = CopyReport { store: self.options.name.clone(), ..CopyReport::default() };
        let (map, holder) = (self.map.borrow().clone(), self.holder());
        let Some(map) = map else { return report };
        let own = self.cluster.options().node_id.as_str();
        let member = lock(&self.member).clone();
        let lacking = member.as_ref().and_then(|member| member.lacking());
        let remaking = member.as_ref().and_then(|member| lock(&member.remaking).clone());
        let remaking = remaking.filter(|it| it.left > 0);
        report.remaking = remaking.map(Remaking::brief);
        let held = map.entries().filter_map(|(shard, it)| Some((shard, it.counting_at(own)?)));
        // A node begins to serve a moment after it has learned of a store's first map.
        let mapped_since = *lock(&self.mapped_since);
        let is_new = mapped_since.is_some_and(|since| self.cluster.now() < since + BEGINS_WITHIN);
        let begins =
            |it: &Place| is_new && member.as_ref().is_some_and(|member| member.is_first(it));
        let lacks = |(shard, place): &(u32, &Place)| match &lacking {
            Some(lacking) => lacking.contains(shard),
            None => !begins(place),
        };
        report.lacking = held.filter(lacks).map(|(shard, _)| shard).collect();
        // Also a replica in whose place another one is to be made, which may not be possible.
        let slots = || map.map.shards.iter().flat_map(|entry| &entry.slots);
        let is_other = |member: &Arc<Member>| {
            let disk = member.transfer.holder.disk();
            let mut places = slots().filter_map(|slot| slot.holder.as_ref());
            places.any(|place| *place.node == *own && place.disk != disk)
        };
        report.has_other_disk = member.as_ref().is_some_and(is_other);
        let Some(holder) = holder else { return report };
        let progress = holder.progress();
        let is_changed = |entry: &Entry| entry.slots.iter().any(|slot| slot.change.is_some());
        for (shard, entry) in map.entries().filter(|(_, entry)| is_changed(entry)) {
            if let Some((_, change)) = entry.change_to(holder.node()) {
                let work = holder.state(shard).await.work.filter(|it| it.since == change.since);
                let is_done = work.is_some_and(|work| work.is_done);
                report.copies.insert(shard, (progress.taken(shard, change.since), is_done));
            } else if entry.counting_at(holder.node()).is_some() {
                report.records.extend(progress.records(shard).map(|records| (shard, records)));
            }
        }
        report
    }
}

/// The share of a shard's records that a node has copied, for a change of this kind.
fn done(
    told: &BTreeMap<String, Told>,
    store: &str,
    (shard, node): (u32, &str),
    (kind, entry): (ChangeKind, &Entry),
) -> Option<f64> {
    let (taken, is_done) = *told.get(node)?.copies_of(store)?.copies.get(&shard)?;
    if is_done {
        return Some(1.0);
    }
    let counts = told.values().filter_map(|told| told.copies_of(store)?.records.get(&shard));
    let sources = match kind {
        ChangeKind::Move => 1,
        ChangeKind::Failover => entry.copied().saturating_sub(entry.vacant()).max(1) as u64,
    };
    let all = counts.max().filter(|count| **count > 0)? * sources;
    // It compares what it has copied before it is done.
    Some((taken as f64 / all as f64).min(0.99))
}

/// How long a node may take to serve its replicas of a new store.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);

/// How long the maps that were read last count when they cannot be read again.
const USUAL_AGE: Duration = Duration::from_secs(10);

/// Why a process does not know the map of a store, or the maps of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadStores {
    /// The store whose map cannot be read; `None`: the maps could not be asked for.
    pub of: Option<String>,
    /// Why.
    pub why: String,
}

/// The maps of all stores of a cluster.
#[derive(Default)]
pub(crate) struct StoreMaps {
    maps: BTreeMap<String, StoreMap>,
    /// Why some or all of them are not known.
    unread: Vec<UnreadStores>,
    read: Option<Instant>,
    /// The leader's reasons why first maps wait.
    waiting: BTreeMap<String, String>,
}

impl StoreMaps {
    /// Reads them; any server may answer.
    ///
    /// # Errors
    /// Errors of the call; [`Kind::PermissionDenied`] if ACLs hide some.
    pub async fn read(cluster: &Cluster) -> Result<Self, Error> {
        let mut read = StoreMaps { read: Some(Instant::now()), ..StoreMaps::default() };
        let maps = listed(cluster, &map_key(cluster.options(), "")).await?;
        let waiting = listed(cluster, &waiting_key(cluster.options(), "")).await?;
        let waiting = waiting.into_iter().filter(|(name, _)| maps.iter().all(|(it, _)| it != name));
        let waiting = waiting.map(|(name, why)| (name, String::from_utf8_lossy(&why).into_owned()));
        read.waiting = waiting.collect();
        for (name, bytes) in maps {
            match StoreMap::decode(&bytes) {
                Ok(map) => _ = read.maps.insert(name, map),
                Err(error) => {
                    let key = map_key(cluster.options(), &name);
                    let why = error.context(&key).message().to_owned();
                    read.unread.push(UnreadStores { of: Some(name), why });
                }
            }
        }
        Ok(read)
    }

    /// The stores without a map, and what the first one waits for.
    pub fn waiting(&self) -> BTreeMap<String, String> {
        let mut waiting = self.waiting.clone();
        waiting.retain(|store, _| !self.maps.contains_key(store));
        waiting
    }

    /// Notes that they could not be read this time.
    pub fn missed(&mut self, why: &str) {
        tracing::debug!(why, "the maps of stores were not read");
        if self.read.is_none_or(|at| at.elapsed() > USUAL_AGE) {
            self.unread = vec![UnreadStores { of: None, why: why.to_owned() }];
        }
    }

    /// Why some or all of them are not known; empty: all are.
    pub fn unread(&self) -> &[UnreadStores] {
        &self.unread
    }

    /// The stores that the program of a node does not use.
    pub fn unused(&self, told: Option<&Told>) -> BTreeSet<String> {
        let is_without = |name: &&String| told.is_some_and(|told| told.is_without(name));
        self.maps.keys().filter(is_without).cloned().collect()
    }

    /// The stores for which a node has another disk than the map names.
    pub fn of_other_disks(&self, told: Option<&Told>) -> BTreeSet<String> {
        let is_other = |name: &&String| {
            told.and_then(|told| told.copies_of(name)).is_some_and(|it| it.has_other_disk)
        };
        self.maps.keys().filter(is_other).cloned().collect()
    }

    /// How many replicas name a node, as a holder or as the target of a change.
    pub fn held(&self, node: &str) -> usize {
        let held = |map: &StoreMap| map.map.shards.iter().filter(|it| it.names(node)).count();
        self.maps.values().map(held).sum()
    }

    /// The stores.
    pub fn overviews(
        &self,
        is_live: impl Fn(&str) -> bool,
        told: &BTreeMap<String, Told>,
    ) -> Vec<StoreOverview> {
        let overview =
            |(name, map): (&String, &StoreMap)| store_overview(name, map, &is_live, told);
        self.maps.iter().map(overview).collect()
    }
}

fn store_overview(
    name: &str,
    map: &StoreMap,
    is_live: impl Fn(&str) -> bool,
    told: &BTreeMap<String, Told>,
) -> StoreOverview {
    let shared = map.shared;
    let changes = |kind| {
        map.entries().flat_map(move |(shard, entry)| {
            let changes = entry.slots.iter().filter_map(|slot| slot.change.as_ref());
            let of_kind = changes.filter(move |it| it.kind == kind);
            of_kind.map(move |it| (shard, it.to.to_string(), entry))
        })
    };
    let done = |shard, node: &str, of| done(told, name, (shard, node), of);
    let moving = changes(ChangeKind::Move).map(|(shard, to, entry)| {
        let done = done(shard, &to, (ChangeKind::Move, entry));
        ShardMoving { shard, to, done }
    });
    let repairing = changes(ChangeKind::Failover).map(|(shard, on, entry)| {
        let done = done(shard, &on, (ChangeKind::Failover, entry));
        ShardRepairing { shard, on, done }
    });
    let fails = |told: &Told| told.fault_of(name).is_some();
    let at_risk = |(shard, _): (u32, &Entry)| {
        let lacks =
            |told: &Told| told.copies_of(name).is_some_and(|it| it.lacking.contains(&shard));
        let lacks = |told: &Told| lacks(told) || told.is_without(name);
        let has = |node: &str| is_live(node) && !told.get(node).is_some_and(lacks);
        let is_there = |node: &str| has(node) && !told.get(node).is_some_and(fails);
        ShardAtRisk::of(map, shard, is_there, has)
    };
    StoreOverview {
        name: name.to_owned(),
        shards: shared.shards,
        replicas: shared.replicas,
        write_quorum: shared.write_quorum,
        read_quorum: shared.read_quorum,
        map_version: map.map.version,
        moving: moving.collect(),
        repairing: repairing.collect(),
        at_risk: map.entries().filter_map(at_risk).collect(),
        vacant: map.vacant(),
        remaking: told
            .iter()
            .filter_map(|(node, told)| Some((node.clone(), told.remaking(name)?.clone())))
            .collect(),
        is_open: told.values().any(|told| told.copies_of(name).is_some()),
        unrecovered: map.unrecovered.clone(),
        changing: changing(map, is_live),
    }
}

/// How far a change of N, W or R is, and what it waits for.
fn changing(map: &StoreMap, is_live: impl Fn(&str) -> bool) -> Option<NumbersChanging> {
    let wanted = map.shared.quorums();
    let (shard, entry) = map.entries().find(|(_, entry)| !entry.has(wanted))?;
    let changes = || entry.slots.iter().filter(|slot| slot.change.is_some());
    let holders = entry.counting().map(|(_, place)| place.node.to_string());
    let away: Vec<String> = holders.filter(|node| !is_live(node)).collect();
    let waits_for = if map.unrecovered.contains(&shard) {
        format!("it is not known yet who has shard {shard}")
    } else if let Some(to) = changes().find_map(Slot::target) {
        format!("{to} copies shard {shard}")
    } else if entry.vacant() > 0 {
        format!("no node can take one more replica of shard {shard}")
    } else if !away.is_empty() {
        format!("{} with a replica of shard {shard} is away", away.join(", "))
    } else {
        format!("the replicas of shard {shard} are compared")
    };
    Some(NumbersChanging { shards: map.changing(), waits_for })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::StoreFault;
    use crate::stores::options::Shared;
    use consul_replication::map::{Change, Disk};
    use consul_replication::plan::Map;

    fn slot(node: &str, change: Option<Change>) -> Slot {
        let holder = Place { node: node.into(), disk: Disk(1), is_first: false };
        Slot { holder: Some(holder), change }
    }

    /// Three shards of n1, n2 and n3: the second moves from n3 to n4, the third has lost n3 for n4.
    fn map() -> StoreMap {
        let change = |kind| Some(Change::new(kind, "n4".into(), 7));
        let changes = [None, change(ChangeKind::Move), change(ChangeKind::Failover)];
        let entry =
            |change| Entry::new(7, vec![slot("n1", None), slot("n2", None), slot("n3", change)]);
        StoreMap {
            id: None,
            shared: Shared { shards: 3, replicas: 3, write_quorum: 2, read_quorum: 2 },
            map: Map { version: 9, shards: changes.map(entry).into() },
            down: BTreeMap::new(),
            unrecovered: [].into(),
            openings: BTreeMap::new(),
        }
    }

    fn shown(live: &[&str], told: &BTreeMap<String, Told>) -> StoreOverview {
        store_overview("points", &map(), |node| live.contains(&node), told)
    }

    #[test]
    fn a_replica_that_is_gone_or_on_a_node_that_is_down_is_missing() {
        let missing = |live: &[&str]| -> Vec<(u32, Vec<String>, usize)> {
            let shown = shown(live, &BTreeMap::new());
            assert!(shown.at_risk.iter().all(|it| it.needed == 2));
            shown.at_risk.into_iter().map(|it| (it.shard, it.missing, it.left)).collect()
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(missing(&["n1", "n2", "n3", "n4"]), [(2, names(&["n3"]), 2)]);
        assert_eq!(
            missing(&["n1", "n3", "n4"]),
            [(0, names(&["n2"]), 2), (1, names(&["n2"]), 2), (2, names(&["n2", "n3"]), 1)]
        );
    }

    #[test]
    fn a_replica_whose_storage_fails_is_missing() {
        let fault = |store: &str| {
            let fault = StoreFault { store: store.to_owned(), ..StoreFault::default() };
            [("n2".to_owned(), Told::of_fault(fault))].into()
        };
        let maps =
            StoreMaps { maps: [("points".to_owned(), map())].into(), ..StoreMaps::default() };
        let missing = |told: &BTreeMap<String, Told>| -> Vec<Vec<String>> {
            let shown = maps.overviews(|_| true, told).remove(0);
            shown.at_risk.into_iter().map(|it| it.missing).collect()
        };
        assert_eq!(missing(&fault("points")), [vec!["n2"], vec!["n2"], vec!["n2", "n3"]]);
        assert_eq!(missing(&fault("other")), [vec!["n3"]]);
    }

    /// Majorities of four are three, and two are enough for a failover. The records of a storage that fails can be read.
    #[test]
    fn a_shard_without_a_quorum_is_short_also_where_a_failover_could_be() {
        let mut map = map();
        map.map.shards =
            vec![Entry::new(7, ["n1", "n2", "n3", "n4"].map(|it| slot(it, None)).into())];
        let fault = StoreFault { store: "points".to_owned(), ..StoreFault::default() };
        let told = |failing: &[&str]| -> BTreeMap<String, Told> {
            failing.iter().map(|id| ((*id).to_owned(), Told::of_fault(fault.clone()))).collect()
        };
        let seen = |down: &[&str], failing: &[&str]| {
            let live = |node: &str| !down.contains(&node);
            let shown = store_overview("points", &map, live, &told(failing)).at_risk.remove(0);
            (shown.left, shown.needed, shown.takes_writes, shown.takes_reads, shown.is_short())
        };
        assert_eq!(seen(&["n1"], &[]), (3, 2, true, true, false));
        assert_eq!(seen(&["n1", "n2"], &[]), (2, 2, false, false, true));
        assert_eq!(seen(&["n1"], &["n2"]), (2, 2, false, true, true));
        assert_eq!(seen(&[], &["n1", "n2"]), (2, 2, false, true, true));
        assert_eq!(seen(&["n1", "n2", "n3"], &[]), (1, 2, false, false, true));
    }

    #[test]
    fn a_replica_that_does_not_count_by_the_word_of_its_own_node_is_missing() {
        let lacking = |store: &str, shards: &[u32]| {
            let lacking = shards.iter().copied().collect();
            let store = store.to_owned();
            Told::of_copies(CopyReport { store, lacking, ..CopyReport::default() })
        };
        let missing = |told: [(&str, Told); 2]| -> Vec<(u32, Vec<String>, usize)> {
            let told = told.map(|(id, told)| (id.to_owned(), told)).into();
            let shown = shown(&["n1", "n2", "n3", "n4"], &told);
            shown.at_risk.into_iter().map(|it| (it.shard, it.missing, it.left)).collect()
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        // n4 does not hold it yet.
        let told = [("n1", lacking("points", &[0, 2])), ("n4", lacking("points", &[0]))];
        assert_eq!(missing(told), [(0, names(&["n1"]), 2), (2, names(&["n1", "n3"]), 1)]);
        let told = [("n1", lacking("points", &[0])), ("n2", lacking("points", &[0]))];
        assert_eq!(missing(told), [(0, names(&["n1", "n2"]), 1), (2, names(&["n3"]), 2)]);
        let told = [("n1", lacking("other", &[0])), ("n2", lacking("points", &[]))];
        assert_eq!(missing(told), [(2, names(&["n3"]), 2)]);
    }

    #[test]
    fn a_replica_of_a_program_that_does_not_use_the_store_is_missing() {
        let missing = |told: Told| -> Vec<Vec<String>> {
            let shown = shown(&["n1", "n2", "n3", "n4"], &[("n1".to_owned(), told)].into());
            shown.at_risk.into_iter().map(|it| it.missing).collect()
        };
        assert_eq!(
            missing(Told::of_stores(&["other"])),
            [vec!["n1"], vec!["n1"], vec!["n1", "n3"]]
        );
        assert_eq!(missing(Told::of_stores(&["other", "points"])), [vec!["n3"]]);
        assert_eq!(missing(Told::default()), [vec!["n3"]], "an earlier release, or no answer");
    }

    #[test]
    fn a_slot_that_never_had_a_holder_needs_no_replica() {
        let mut map = map();
        map.map.shards[0].slots[1].holder = None;
        let live = |node: &str| node != "n3";
        let shown = store_overview("points", &map, live, &BTreeMap::new());
        let first = shown.at_risk.iter().find(|it| it.shard == 0).expect("n3 is down");
        assert_eq!((first.left, first.needed), (1, 1), "{first:?}");
    }

    #[test]
    fn a_store_is_shown_as_its_map_has_it() {
        let mut map = map();
        map.shared = Shared { shards: 3, replicas: 5, write_quorum: 4, read_quorum: 2 };
        map.unrecovered = [0, 2].into();
        let StoreOverview { shards, replicas, write_quorum, read_quorum, map_version, .. } =
            store_overview("points", &map, |_| true, &BTreeMap::new());
        assert_eq!([shards as usize, replicas, write_quorum, read_quorum], [3, 5, 4, 2]);
        assert_eq!(map_version, 9);
        let live = |_: &str| true;
        assert_eq!(
            store_overview("points", &map, live, &BTreeMap::new()).unrecovered,
            [0, 2].into()
        );
    }

    #[test]
    fn a_store_waits_until_it_has_a_map_and_its_replicas_name_nodes() {
        let waiting = ["points", "other"].map(|store| (store.to_owned(), "n4".to_owned()));
        let maps = StoreMaps {
            maps: [("points".to_owned(), map())].into(),
            waiting: waiting.into(),
            ..StoreMaps::default()
        };
        assert_eq!(maps.waiting(), [("other".to_owned(), "n4".to_owned())].into());
        let held = ["n1", "n3", "n4", "n5"].map(|node| maps.held(node));
        assert_eq!(held, [3, 3, 2, 0], "a target of a change counts");
    }

    #[test]
    fn maps_that_were_read_count_for_some_seconds_when_they_cannot_be_read_again() {
        let missed = |read| {
            let mut maps = StoreMaps { read, ..StoreMaps::default() };
            maps.missed("no answer");
            Vec::from_iter(maps.unread.into_iter().map(|it| it.why))
        };
        assert_eq!(missed(None), ["no answer"]);
        assert_eq!(missed(Some(Instant::now())), [""; 0]);
        let long_ago = Instant::now().checked_sub(USUAL_AGE + Duration::from_secs(1));
        assert_eq!(missed(Some(long_ago.expect("the machine runs for longer"))), ["no answer"]);
    }

    #[test]
    fn the_share_that_is_copied_is_known_when_both_sides_tell() {
        let copies = |taken: [(u64, bool); 2], records: &[(u32, u64)]| {
            let copies = [(1, taken[0]), (2, taken[1])].into();
            let target = CopyReport { store: "points".to_owned(), copies, ..CopyReport::default() };
            let records = records.iter().copied().collect();
            let source =
                CopyReport { store: "points".to_owned(), records, ..CopyReport::default() };
            let told = [("n4", target), ("n1", source)];
            told.map(|(id, copies)| (id.to_owned(), Told::of_copies(copies))).into()
        };
        let done = |told: &BTreeMap<String, Told>| {
            let shown = shown(&["n1", "n2", "n3", "n4"], told);
            let [moving] = &shown.moving[..] else { panic!("{shown:?}") };
            let [repairing] = &shown.repairing[..] else { panic!("{shown:?}") };
            assert_eq!((moving.shard, moving.to.as_str()), (1, "n4"));
            assert_eq!((repairing.shard, repairing.on.as_str()), (2, "n4"));
            (moving.done, repairing.done)
        };
        assert_eq!(done(&BTreeMap::new()), (None, None));
        // A repair copies two of the other replicas.
        let both = [(1, 100), (2, 100)];
        assert_eq!(done(&copies([(50, false), (50, false)], &both)), (Some(0.5), Some(0.25)));
        assert_eq!(done(&copies([(500, false), (3, true)], &both)), (Some(0.99), Some(1.0)));
        assert_eq!(done(&copies([(5, false), (5, false)], &[(1, 0)])), (None, None));
    }
}
