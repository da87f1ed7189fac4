//! The next map of a store, in steps: each takes a map and returns it with one thing brought up to date.

use super::document::StoreMap;
use super::leader::{ANSWER_TIME, Duty, PLAN_PAUSE, StoreState};
use super::options::Shared;
use super::reports::StoreReports;
use crate::{Mode, Snapshot};
use consul_api::error::Error;
use consul_process::clock::{BoxFuture, Instant};
use consul_process::metrics;
use consul_process::sync::lock;
use consul_replication::map::{Disk, Entry, NodeId, Place, StoreId};
use consul_replication::plan::{Accepted, Map, Member, Planner, Presence};
use consul_replication::record::{HybridTime, Version};
use consul_replication::recover::{Inquiry, is_newest};
use consul_replication::rules::Rules;
use futures_util::stream::{self, StreamExt as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The pause before the leader asks again after Consul went back.
const RECOVER_PAUSE: Duration = Duration::from_secs(2);

/// The shards whose holders are asked at the same time.
const CONCURRENT_ASKS: usize = 32;

/// The leader's view of a store and its nodes at one moment.
pub(super) struct View<'a> {
    /// The options that the nodes of the store agree on.
    pub shared: Shared,
    pub reports: &'a StoreReports,
    /// The eligible nodes that have these options.
    pub live: &'a BTreeSet<NodeId>,
    pub snapshot: &'a Snapshot,
    pub now: Instant,
}

/// The answer for one shard whose entry may be old: its newest entry.
type Recovered = (u32, Result<Entry, Error>);

/// The limits of the changes of a plan.
struct Limits<'a> {
    /// Whether Consul may have gone back before this process had seen all nodes.
    is_young: bool,
    /// Whether a node has reported to this process before.
    has_reported: &'a dyn Fn(&NodeId) -> bool,
}

/// The same map with an id: a release before ids has written it without one. A node's disk may know the id.
fn with_id(map: StoreMap, view: &View<'_>, random: impl FnOnce() -> u64) -> StoreMap {
    let known = || view.reports.records().find_map(|record| record.id);
    let id = map.id.or_else(known).unwrap_or_else(|| StoreId(random()));
    StoreMap { id: Some(id), ..map }
}

/// The same map with N, W and R as an operator wants them.
fn with_wanted(mut map: StoreMap, view: &View<'_>, store: &str) -> StoreMap {
    let Some((wanted, _)) = view.reports.wanted.filter(|(wanted, _)| !wanted.is_done(&map)) else {
        return map;
    };
    let before = map.shared;
    map.shared = map.shared.with(wanted.quorums());
    tracing::info!(store, %before, wanted = %map.shared, "the numbers of a store change");
    map
}

/// The same map with the nodes that are down, each since when, and the openings of the disks. `nodes` are those in the
/// map.
fn with_down_times(
    mut map: StoreMap,
    view: &View<'_>,
    nodes: &BTreeSet<NodeId>,
    now_ms: u64,
) -> StoreMap {
    let down = nodes.iter().chain(view.reports.members.keys());
    let down = down.filter(|node| !view.live.contains(*node));
    // The leader that has seen one go down first may have had a clock that was ahead.
    let since = |node: &NodeId| map.down.get(node).map_or(now_ms, |at| now_ms.min(*at));
    map.down = BTreeMap::from_iter(down.map(|node| (node.clone(), since(node))));
    map.note_openings(view.reports.records());
    map
}

/// The same map, with shards as unrecovered if nodes know newer entries, and these nodes.
fn with_unrecovered(
    mut map: StoreMap,
    view: &View<'_>,
    store: &str,
) -> (StoreMap, BTreeMap<u32, BTreeSet<NodeId>>) {
    let newer = view.reports.newer(view.live, &map.map);
    if let Some((shard, nodes)) = newer.iter().find(|(shard, _)| !map.unrecovered.contains(shard)) {
        tracing::warn!(
            store,
            shard,
            ?nodes,
            "Consul has an older map than nodes: their entries are put back"
        );
    }
    map.unrecovered.extend(newer.keys());
    (map, newer)
}

/// The same map with the entries that the holders of unrecovered shards have answered.
fn recovered(mut map: StoreMap, answers: Vec<Recovered>, store: &str) -> StoreMap {
    for (shard, answer) in answers {
        match answer {
            Ok(entry) => {
                map.map.version = map.map.version.max(entry.epoch);
                map.map.shards[shard as usize] = entry;
                map.unrecovered.remove(&shard);
            }
            Err(error) => {
                tracing::warn!(store, shard, %error, "its entry may be old and stays as it is");
            }
        }
    }
    map
}

/// The planner's next map, in which nothing changes of a shard before its holders have reported what they know; `None`
/// if it plans nothing.
fn planned(
    map: &StoreMap,
    view: &View<'_>,
    planner: &Planner<'_>,
    limits: &Limits<'_>,
) -> Option<Map> {
    let mut next = map.map.next(planner)?;
    for (shard, (new, old)) in next.shards.iter_mut().zip(&map.map.shards).enumerate() {
        let shard = shard as u32;
        let is_known = || {
            let has = |it: &Place| view.live.contains(&it.node) && view.reports.has(shard, it);
            let has = |it: &Place| has(it) || (limits.has_reported)(&it.node);
            let lives = |node: &NodeId| view.live.contains(node) || (limits.has_reported)(node);
            is_newest(old, has, lives)
        };
        let may_be_old = limits.is_young && !view.reports.acceptances.contains_key(&shard);
        if new != old && (map.unrecovered.contains(&shard) || may_be_old && !is_known()) {
            new.clone_from(old);
        }
    }
    Some(next)
}

/// The map with a version above that of the stored one; `None` if nothing else has changed.
fn numbered(mut map: StoreMap, stored: &StoreMap) -> Option<StoreMap> {
    let version = std::mem::replace(&mut map.map.version, stored.map.version);
    if map == *stored {
        return None;
    }
    map.map.version = version.max(stored.map.version + 1);
    Some(map)
}

/// Logs and counts the shards whose remaining records are brought together by a change.
fn note_united(cluster: &str, store: &str, next: &Map, before: &Map) {
    for (shard, (new, old)) in next.shards.iter().zip(&before.shards).enumerate() {
        if new.unites() && !old.unites() {
            metrics::numbers().store(cluster, store).united.add_one();
            tracing::warn!(
                store,
                shard,
                "too few replicas are whole: all that the others still have is brought together"
            );
        }
    }
}

impl Duty<'_> {
    /// The next map; `None` if nothing changes.
    pub(super) async fn next(
        &mut self,
        store: &str,
        stored: &StoreMap,
        view: &View<'_>,
    ) -> Option<StoreMap> {
        let nodes = self.stores.get(store)?.nodes.clone();
        let map = with_id(stored.clone(), view, || self.cluster.client().random_u64());
        let map = with_wanted(map, view, store);
        let map = with_down_times(map, view, &nodes, self.unix_ms());
        let (map, newer) = with_unrecovered(map, view, store);
        let map = self.with_recovered(store, map, view, &newer).await;
        let map = self.with_plan(store, map, view, &nodes)?;
        numbered(map, stored)
    }

    /// The same map with the changes that are due.
    fn with_plan(
        &mut self,
        store: &str,
        mut map: StoreMap,
        view: &View<'_>,
        nodes: &BTreeSet<NodeId>,
    ) -> Option<StoreMap> {
        let members = self.members(view, Some(&map), nodes);
        let options = self.cluster.options();
        let is_outvoted = self.is_outvoted(view.snapshot);
        let unix_ms = self.unix_ms();
        let state = self.stores.get_mut(store)?;
        let may_plan = !view.snapshot.moves_nothing()
            && !is_outvoted
            && view.snapshot.live().count() >= options.min_nodes
            && view.now >= state.planned_at + PLAN_PAUSE;
        let stuck = state.stuck(&map.map, view.reports, view.now);
        let accepted = view.reports.accepted();
        let planner = planner(&members, map.shared, may_plan, &stuck, &accepted, unix_ms);
        // No epoch is given to two entries, also if Consul went back.
        if !state.has_written {
            map.map.version = self.cluster.beyond(map.map.version);
        }
        let reported_once = lock(&self.history.reported_once);
        let limits = Limits {
            // Consul may have gone back while all nodes were away.
            is_young: view.now - self.history.started < options.replace_after,
            has_reported: &|node| reported_once.contains(&(store.to_owned(), node.clone())),
        };
        if let Some(next) = planned(&map, view, &planner, &limits) {
            note_united(&self.cluster.options().nodes_prefix, store, &next, &map.map);
            if next.shards != map.map.shards {
                map.map = next;
            }
            if may_plan {
                state.planned_at = view.now;
            }
        }
        Some(map)
    }

    /// Asks the holders of the shards whose entries may be old, and puts back the newest ones.
    async fn with_recovered(
        &mut self,
        store: &str,
        map: StoreMap,
        view: &View<'_>,
        newer: &BTreeMap<u32, BTreeSet<NodeId>>,
    ) -> StoreMap {
        let now = self.cluster.now();
        let Some(state) = self.stores.get_mut(store) else { return map };
        let is_early = state.asked_at.is_some_and(|at| now < at + RECOVER_PAUSE);
        if map.unrecovered.is_empty() || is_early {
            return map;
        }
        state.asked_at = Some(now);
        let version = self.cluster.beyond(map.map.version);
        let (peers, id) = ((self.reach)(store), map.id);
        let none = BTreeSet::new();
        let mut asks: Vec<BoxFuture<'_, Recovered>> = Vec::new();
        let current = &map;
        for shard in map.unrecovered.iter().copied() {
            let (entry, peers) = (map.map.shards[shard as usize].clone(), Arc::clone(&peers));
            let knowing = newer.get(&shard).unwrap_or(&none);
            let accepted = view.reports.acceptances.get(&shard);
            let skips_silent = accepted.is_some_and(|acceptance| acceptance.lost.is_none());
            asks.push(Box::pin(async move {
                let is_confirmed = |node: &NodeId| {
                    let record = view.reports.members.get(node).map(|(record, _)| record);
                    record.is_some_and(|record| record.is_confirmed(current))
                };
                let has = |place: &Place| {
                    let is_there = view.live.contains(&place.node) && is_confirmed(&place.node);
                    is_there && view.reports.has(shard, place)
                };
                let has = &has;
                let (store, peers) = (id, &*peers);
                let inquiry = Inquiry { peers, store, shard, has, knowing, skips_silent };
                (shard, inquiry.newest(&entry, version).await)
            }));
        }
        let answers: Vec<_> = stream::iter(asks).buffer_unordered(CONCURRENT_ASKS).collect().await;
        recovered(map, answers, store)
    }

    /// The nodes for a plan: without those that are down and have no shards. `nodes` are those in `map`.
    pub(super) fn members(
        &self,
        view: &View<'_>,
        map: Option<&StoreMap>,
        nodes: &BTreeSet<NodeId>,
    ) -> Vec<Member> {
        let none = BTreeMap::new();
        let down = map.map_or(&none, |map| &map.down);
        let replace_after_ms = self.cluster.options().replace_after.as_millis() as u64;
        let now_ms = self.unix_ms();
        // Without a second replica that must answer, each failover needs a person.
        let may_replace = view.shared.write_quorum.min(view.shared.read_quorum) > 1;
        let presence = |node: &NodeId| match (view.live.contains(node), down.get(node)) {
            (true, _) => Presence::Live,
            (false, Some(since)) if may_replace && now_ms >= since + replace_after_ms => {
                Presence::Gone
            }
            _ => Presence::Down,
        };
        let member = |id: &NodeId| {
            let record = view.reports.members.get(id).map(|(record, _)| record);
            let weight = match view.snapshot.nodes.get(&**id) {
                Some(node) if node.record.mode == Mode::Draining => 0.0,
                Some(node) => node.record.weight,
                None => record.map_or(1.0, |record| record.weight),
            };
            Member {
                id: id.clone(),
                zone: record.map(|record| record.zone.clone()).unwrap_or_default(),
                weight,
                disk: record.map_or(Disk(0), |record| record.disk),
                presence: presence(id),
                is_failing: record.is_some_and(|record| record.is_failing)
                    || self.key_checks.is_unreached(id, view.snapshot),
                to_remake: record
                    .and_then(|record| Some(record.remaking.as_ref()?.to_remake.clone()))
                    .unwrap_or_default(),
                report: match (record, map) {
                    (Some(record), Some(map)) => record.report(id, map),
                    (record, _) => record.map(|it| it.report.clone()).unwrap_or_default(),
                },
            }
        };
        view.live.union(nodes).map(member).collect()
    }
}

impl StoreState {
    /// The changes whose targets have made no progress for the time that they may take.
    fn stuck(&mut self, map: &Map, reports: &StoreReports, now: Instant) -> BTreeSet<(u32, u64)> {
        let mut changes: BTreeMap<(u32, u64), NodeId> = BTreeMap::new();
        for (shard, entry) in map.shards.iter().enumerate() {
            for change in entry.slots.iter().filter_map(|slot| slot.change.as_ref()) {
                changes.insert((shard as u32, change.since), change.to.clone());
            }
        }
        self.progress.retain(|change, _| changes.contains_key(change));
        let mut stuck = BTreeSet::new();
        for (change, to) in changes {
            let record = reports.members.get(&to).map(|(record, _)| record);
            let made = record.map_or(0, |it| it.copied + it.report.finished.len() as u64);
            let limit = record.map_or(ANSWER_TIME, |it| Duration::from_secs(it.move_timeout_s));
            let seen = self.progress.entry(change).or_insert((made, now));
            if seen.0 != made {
                *seen = (made, now);
            }
            if now >= seen.1 + limit {
                stuck.insert(change);
            }
        }
        stuck
    }
}

/// How far the clocks of nodes may be ahead of the leader's where a loss is accepted: an hour, more than any `max_skew_s` that
/// makes sense.
const FURTHEST_AHEAD_MS: u64 = 3_600_000;

pub(super) fn planner<'a>(
    members: &'a [Member],
    shared: Shared,
    may_plan: bool,
    stuck: &'a BTreeSet<(u32, u64)>,
    accepted: &'a Accepted,
    unix_ms: u64,
) -> Planner<'a> {
    let now = Version::first_of(HybridTime::from_ms(unix_ms + FURTHEST_AHEAD_MS));
    let (quorums, rules) = (shared.quorums(), Rules::default());
    Planner { members, quorums, may_plan, stuck, accepted, now, rules }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::document::MemberRecord;
    use crate::stores::reports::LossAcceptance;

    /// Two shards on the disk 1 of n1.
    const MAP: &str = r#"{"format":1,"shared":{"shards":2,"replicas":1,"write_quorum":1,"read_quorum":1},"version":9,
        "openings":{},"nodes":["n1"],"places":[{"node":"n1","disk":1}],"shards":[[0,[0],[]],[0,[0],[]]]}"#;

    fn map() -> StoreMap {
        StoreMap::decode(MAP.as_bytes()).expect("a map")
    }

    fn record(disk: u64) -> MemberRecord {
        let record = format!(
            r#"{{"format":1,"shared":{{"shards":2,"replicas":1,"write_quorum":1,"read_quorum":1}},"incarnation":"",
            "leader":"","seen":0,"disk":{disk},"opening":{{"starts":1,"id":1}},"zone":"","weight":1.0,"copied":0,
            "move_timeout_s":60,"report":{{"finished":[],"missing":[],"returned":[],"fenced":[]}}}}"#
        );
        MemberRecord::decode(record.as_bytes()).expect("a record")
    }

    fn reports(records: impl IntoIterator<Item = (&'static str, MemberRecord)>) -> StoreReports {
        let members = records.into_iter().map(|(node, record)| (node.into(), (record, 1)));
        StoreReports { members: members.collect(), ..StoreReports::default() }
    }

    fn nodes<const N: usize>(names: [&str; N]) -> BTreeSet<NodeId> {
        names.map(NodeId::from).into()
    }

    /// The result of `of` for the view of these reports and live nodes.
    fn viewed<T>(
        reports: &StoreReports,
        live: &BTreeSet<NodeId>,
        of: impl FnOnce(&View<'_>) -> T,
    ) -> T {
        let (snapshot, now) = (Snapshot::default(), Instant::default());
        of(&View { shared: map().shared, reports, live, snapshot: &snapshot, now })
    }

    #[test]
    fn a_map_without_an_id_gets_that_of_a_disk_or_a_random_one() {
        let with_disk = MemberRecord { id: Some(StoreId(7)), ..record(1) };
        let of_map = StoreMap { id: Some(StoreId(3)), ..map() };
        for (map, record, id) in
            [(map(), record(1), 5), (map(), with_disk.clone(), 7), (of_map, with_disk, 3)]
        {
            let map =
                viewed(&reports([("n1", record)]), &nodes([]), |view| with_id(map, view, || 5));
            assert_eq!(map.id, Some(StoreId(id)));
        }
    }

    #[test]
    fn a_node_is_down_since_it_was_first_seen_down() {
        let down = [("n1", 40), ("n2", 900), ("n4", 10)].map(|(id, at)| (NodeId::from(id), at));
        let map = StoreMap { down: down.into(), ..map() };
        let reports = reports([("n2", record(2)), ("n3", record(3)), ("n4", record(4))]);
        let map = viewed(&reports, &nodes(["n4"]), |view| {
            with_down_times(map, view, &nodes(["n1"]), 100)
        });
        // The clock of the leader that wrote 900 was ahead; n4 is back.
        let expected = [("n1", 40), ("n2", 100), ("n3", 100)];
        assert_eq!(map.down, expected.map(|(id, at)| (NodeId::from(id), at)).into());
        assert_eq!(map.openings.len(), 3, "those of the disks that report");
    }

    #[test]
    fn shards_of_which_live_nodes_know_newer_entries_are_unrecovered() {
        let mut newer = record(1);
        newer.report.newer = vec![(1, 12)];
        let reports = reports([("n1", newer)]);
        for (live, shards) in [(nodes(["n1"]), vec![1]), (nodes([]), Vec::new())] {
            let (map, knowing) =
                viewed(&reports, &live, |view| with_unrecovered(map(), view, "points"));
            assert_eq!(Vec::from_iter(map.unrecovered), shards);
            assert_eq!(Vec::from_iter(knowing.into_keys()), shards);
        }
    }

    #[test]
    fn answered_entries_are_put_back_and_the_others_stay_unrecovered() {
        let before = StoreMap { unrecovered: [0, 1].into(), ..map() };
        let entry = Entry { epoch: 50, ..before.map.shards[0].clone() };
        let answers = vec![(0, Ok(entry.clone())), (1, Err(Error::misuse("no answer")))];
        let map = recovered(before.clone(), answers, "points");
        assert_eq!((&map.map.shards[0], map.map.version), (&entry, 50));
        assert_eq!(map.map.shards[1], before.map.shards[1]);
        assert_eq!(map.unrecovered, [1].into());
    }

    #[test]
    fn a_shard_changes_only_when_its_holders_are_known() {
        let (empty, reported) = (reports([]), reports([("n1", record(1)), ("n2", record(2))]));
        let mut accepted = reports([]);
        let acceptance = |shard| (shard, LossAcceptance { index: 1, lost: None });
        accepted.acceptances = [0, 1].map(acceptance).into();
        let unrecovered = StoreMap { unrecovered: [0, 1].into(), ..map() };
        for (map, reports, is_young, was_seen, changes, case) in [
            (map(), &empty, false, false, true, "a process that has seen all for long"),
            (map(), &empty, true, false, false, "the holder has not reported"),
            (map(), &empty, true, true, true, "it reported to an earlier leadership"),
            (map(), &reported, true, false, true, "it has reported"),
            (map(), &accepted, true, false, true, "the loss is accepted"),
            (unrecovered, &reported, false, true, false, "the entries may be old"),
        ] {
            // n1 drains.
            let member = |id: &str, disk, weight| Member {
                id: id.into(),
                zone: String::new(),
                weight,
                disk: Disk(disk),
                presence: Presence::Live,
                is_failing: false,
                to_remake: BTreeSet::new(),
                report: Default::default(),
            };
            let members = [member("n1", 1, 0.0), member("n2", 2, 1.0)];
            let (stuck, lost) = Default::default();
            let planner = planner(&members, map.shared, true, &stuck, &lost, 0);
            let limits = Limits { is_young, has_reported: &|_| was_seen };
            let next = viewed(reports, &nodes(["n1", "n2"]), |view| {
                planned(&map, view, &planner, &limits)
            });
            let is_changed = next.is_some_and(|next| next.shards != map.map.shards);
            assert_eq!(is_changed, changes, "{case}");
        }
    }

    #[test]
    fn a_map_gets_a_higher_version_only_with_another_change() {
        let mut next = map();
        next.map.version = 30;
        assert_eq!(numbered(next.clone(), &map()), None);
        next.unrecovered.insert(0);
        assert_eq!(numbered(next.clone(), &map()).map(|map| map.map.version), Some(30));
        next.map.version = 9;
        assert_eq!(numbered(next, &map()).map(|map| map.map.version), Some(10));
    }
}
