//! The leader's work for all replicated stores of the cluster: it alone changes their maps.

use super::document::{MemberRecord, StoreMap};
use super::eligible_nodes::KeyChecks;
use super::next_map::View;
use super::reports::{StoreReports, log_acceptance, parse};
use super::{accepted_key, map_key, members_prefix, read_map, wanted_key};
use crate::Snapshot;
use crate::cluster::Cluster;
use crate::leader::fitness;
use crate::pauses::WAIT;
use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_client::coordination::{Lease, Operation, delete_unchanged, set, unchanged};
use consul_process::clock::Instant;
use consul_process::sync::lock;
use consul_replication::map::{Entry, NodeId};
use consul_replication::peers::Peers;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// How often the leader looks at a store about which no node reports anything new.
const INTERVAL: Duration = Duration::from_millis(500);

/// The shortest time between two looks, so that reports of the same moment make one map.
const PAUSE: Duration = Duration::from_millis(250);

/// The shortest time between two maps that plan changes. Commits and cancels do not wait for it.
pub(super) const PLAN_PAUSE: Duration = Duration::from_secs(1);

/// How long the leader waits for the report of a live node before it counts it as down.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(15);

/// How long the leader trusts what it knows of a map's key.
const AUDIT_INTERVAL: Duration = Duration::from_secs(5);

/// How many accepted losses change in a transaction, each with up to two of its 64 operations.
const ACCEPTANCES_AT_ONCE: usize = 16;

/// The way to the nodes of a store of this name.
pub type Reach = Arc<dyn Fn(&str) -> Arc<dyn Peers> + Send + Sync>;

/// Does the leader's work while this node is the leader; never completes.
pub async fn run(cluster: &Cluster, reach: &Reach) -> Infallible {
    let mut changes = cluster.changes();
    let history = ProcessHistory { started: cluster.now(), reported_once: Mutex::default() };
    loop {
        if let Some(lease) = cluster.lease().filter(|lease| lease.is_held()) {
            lead(cluster, &lease, reach, &history).await;
        }
        tokio::select! {
            biased;
            _ = changes.changed() => {}
            () = cluster.client().clock().sleep(INTERVAL) => {}
        }
    }
}

/// Leads until the lease has ended.
async fn lead(cluster: &Cluster, lease: &Arc<Lease>, reach: &Reach, history: &ProcessHistory) {
    cluster.note_refusing(Vec::new());
    cluster.note_unreached(Vec::new());
    lock(&cluster.failing).clear();
    let (reports, news) = (Mutex::new(None), Notify::new());
    let prefix = members_prefix(cluster.options());
    let watched = cluster.observe(&kv::LIST, &prefix, WAIT, |state| {
        if let Ok(state) = state {
            *lock(&reports) = Some(parse(&prefix, &state));
            news.notify_one();
        }
        async {}
    });
    let mut duty = Duty {
        cluster,
        lease,
        reach,
        history,
        begun: cluster.now(),
        begun_ms: cluster.unix_ms(),
        silent_since: BTreeMap::new(),
        key_checks: KeyChecks::default(),
        stores: BTreeMap::new(),
    };
    let work = async {
        loop {
            let all = lock(&reports).clone();
            for (store, reports) in all.iter().flatten() {
                let done = match &reports.forget {
                    Some((request, index)) => duty.forget(store, reports, (request, *index)).await,
                    None => duty.reconcile(store, reports).await,
                };
                if let Err(error) = done {
                    duty.stores.remove(store);
                    tracing::warn!(store, %error, "the leader's work for a store is tried again");
                }
            }
            cluster.client().clock().sleep(PAUSE).await;
            tokio::select! {
                biased;
                () = news.notified() => {}
                () = cluster.client().clock().sleep(INTERVAL) => {}
            }
            if cluster.lease().is_none_or(|it| !Arc::ptr_eq(&it, lease)) {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        _ = watched => {}
        () = work => {}
    }
}

/// The memory of a process over all its leaderships.
pub(super) struct ProcessHistory {
    /// When it began to stand for leader.
    pub(super) started: Instant,
    /// The nodes of each store that have reported to it as the leader.
    pub(super) reported_once: Mutex<BTreeSet<(String, NodeId)>>,
}

/// The state of the leader's work during one leadership.
pub(super) struct Duty<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) lease: &'a Lease,
    pub(super) reach: &'a Reach,
    pub(super) history: &'a ProcessHistory,
    pub(super) begun: Instant,
    /// The Unix milliseconds at that moment.
    begun_ms: u64,
    /// Since when each live node has not reported to this leader.
    pub(super) silent_since: BTreeMap<(String, NodeId), Instant>,
    pub(super) key_checks: KeyChecks,
    pub(super) stores: BTreeMap<String, StoreState>,
}

/// The leader's state of its work for one store.
pub(super) struct StoreState {
    /// The map that was read last; `None`: Consul has none.
    pub(super) stored: Option<StoreMap>,
    /// The nodes in that map.
    pub(super) nodes: BTreeSet<NodeId>,
    /// The modify index of the map's key; 0: it does not exist.
    index: u64,
    /// When the key was read; `None`: it has to be read again.
    read_at: Option<Instant>,
    /// The map with the highest version that this leader has seen.
    newest_seen: Option<StoreMap>,
    /// Whether it has written a map yet: others may know newer ones that Consul has lost.
    pub(super) has_written: bool,
    /// When changes were planned last.
    pub(super) planned_at: Instant,
    /// When the holders of shards whose entries may be old were asked last.
    pub(super) asked_at: Option<Instant>,
    /// The reason why the first map waits, as it was shown last.
    pub(super) waits_for: Option<String>,
    /// The nodes whose disks are copies that have lived on elsewhere, with those that contradict each.
    copies: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// The reports and the snapshot that led to no change, when nothing was planned.
    idle_with: Option<(Arc<StoreReports>, Arc<Snapshot>)>,
    /// The progress of each change, and when it was first seen or last grew.
    pub(super) progress: BTreeMap<(u32, u64), (u64, Instant)>,
}

impl Duty<'_> {
    async fn reconcile(&mut self, store: &str, reports: &Arc<StoreReports>) -> Result<(), Error> {
        let now = self.cluster.now();
        if now < self.cluster.hold_off_until() {
            // Consul may have lost data that another node is about to restore.
            return Ok(());
        }
        let snapshot = self.cluster.snapshot();
        self.note_failing(store, reports, &snapshot);
        self.check_keys(store, reports, &snapshot, now).await;
        let Some(mut live) = self.eligible(store, reports, &snapshot, now) else { return Ok(()) };
        self.read(store, now).await?;
        let Some(state) = self.stores.get_mut(store) else { return Ok(()) };
        let version = state.stored.as_ref().map_or(0, |it| it.map.version);
        let newest = state.newest_seen.as_ref().map_or(0, |it| it.map.version);
        if newest > version {
            // Consul went back: what this leader knows is put back, and then the nodes are asked.
            let put_back = state.newest_seen.as_ref().map(StoreMap::put_back);
            return match put_back {
                Some(map) => self.publish(store, map).await,
                None => Ok(()),
            };
        }
        let reports = reports.of(state.stored.as_ref().and_then(|stored| stored.id));
        let copies = state.stored.as_ref().map(|stored| reports.copies(stored, &live));
        let copies = copies.unwrap_or_default();
        if state.copies != copies {
            for (node, others) in &copies {
                tracing::warn!(
                    store,
                    %node,
                    ?others,
                    "a node's disk is a copy that has lived on elsewhere: it is left out"
                );
            }
        }
        live.retain(|node| !copies.contains_key(node));
        let reports = &reports.without(&copies);
        state.copies = copies;
        let of_live = reports.members.iter().filter(|(node, _)| live.contains(*node));
        let seen = match state.stored {
            // A node that is down may know a map too.
            None => reports.members.values().map(|(record, _)| record.seen).max(),
            Some(_) => of_live.map(|(_, (record, _))| record.seen).max(),
        };
        if seen.unwrap_or(0) > version {
            // A node with a newer map is about to put it back.
            if state.stored.is_some() {
                return Ok(());
            }
            let nodes = reports.members.iter().filter(|(_, (record, _))| record.seen > 0);
            let nodes: Vec<&str> = nodes.map(|(node, _)| &**node).collect();
            let why = format!("{} has the map that Consul has lost", nodes.join(" or "));
            return self.show_wait(store, why).await;
        }
        let Some(stored) = state.stored.clone() else {
            return self.begin(store, reports, &live, &snapshot).await;
        };
        let (live, shared) = (reports.agreeing(&live, stored.shared, false), stored.shared);
        let view = View { shared, reports, live: &live, snapshot: &snapshot, now };
        let is_same = |(old, before): &(Arc<StoreReports>, Arc<Snapshot>)| {
            Arc::ptr_eq(old, reports) && Arc::ptr_eq(before, &snapshot)
        };
        let is_quiet =
            stored.is_quiet() && reports.acceptances.is_empty() && reports.wanted.is_none();
        if is_quiet && state.idle_with.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        state.idle_with = None;
        if self.apply_acceptances(store, &view).await? {
            return Ok(());
        }
        match self.next(store, &stored, &view).await {
            Some(next) => self.publish(store, next).await?,
            None => self.note_idle(store, reports, &snapshot),
        }
        self.tidy(store, reports, &snapshot).await
    }

    /// Notes whose storage fails, by the report of its current start.
    fn note_failing(&self, store: &str, reports: &StoreReports, snapshot: &Snapshot) {
        let fails = |(node, (record, _)): (&NodeId, &(MemberRecord, u64))| {
            let live = snapshot.nodes.get(&**node).filter(|it| it.is_live);
            let is_of_start = live.is_some_and(|it| it.record.incarnation == record.incarnation);
            (record.is_failing && is_of_start).then(|| node.to_string())
        };
        self.cluster.note_failing(store, reports.members.iter().filter_map(fails).collect());
    }

    /// Notes that what is known now leads to no change; soon after a plan, another one may be due. It holds until the watch
    /// of the members' keys answers again, after at most `WAIT`.
    fn note_idle(&mut self, store: &str, reports: &Arc<StoreReports>, snapshot: &Arc<Snapshot>) {
        let now = self.cluster.now();
        if let Some(state) = self.stores.get_mut(store)
            && now >= state.planned_at + PLAN_PAUSE
        {
            state.idle_with = Some((Arc::clone(reports), Arc::clone(snapshot)));
        }
    }

    /// Reads the map of a store, unless it is state.
    async fn read(&mut self, store: &str, now: Instant) -> Result<(), Error> {
        let is_fresh =
            |state: &StoreState| state.read_at.is_some_and(|at| now < at + AUDIT_INTERVAL);
        if self.stores.get(store).is_some_and(is_fresh) {
            return Ok(());
        }
        let (stored, index) = read_map(self.cluster, store).await?;
        let state = self.stores.entry(store.to_owned()).or_insert_with(|| StoreState {
            stored: None,
            nodes: BTreeSet::new(),
            index: 0,
            read_at: None,
            newest_seen: None,
            has_written: false,
            planned_at: Instant::default(),
            asked_at: None,
            waits_for: None,
            idle_with: None,
            copies: BTreeMap::new(),
            progress: BTreeMap::new(),
        });
        let version = |map: &Option<StoreMap>| map.as_ref().map_or(0, |map| map.map.version);
        if version(&stored) > version(&state.newest_seen) {
            state.newest_seen.clone_from(&stored);
        }
        let nodes = stored.iter().flat_map(|it| &it.map.shards).flat_map(Entry::members);
        state.nodes = BTreeSet::from_iter(nodes.cloned());
        (state.stored, state.index, state.read_at) = (stored, index, Some(now));
        Ok(())
    }

    /// The Unix milliseconds by the clock with which this leadership began: a clock that is set while a node
    /// is down does not change how long it has been down.
    pub(super) fn unix_ms(&self) -> u64 {
        let led = self.cluster.now() - self.begun;
        self.begun_ms.saturating_add(led.as_millis() as u64)
    }

    pub(super) async fn publish(&mut self, store: &str, map: StoreMap) -> Result<(), Error> {
        let Some(state) = self.stores.get_mut(store) else { return Ok(()) };
        let key = map_key(self.cluster.options(), store);
        let operations = [unchanged(&key, state.index), set(&key, map.encode())];
        state.has_written = true;
        // Read again whatever the outcome is.
        state.read_at = None;
        let written = fitness::write(self.cluster, self.lease, operations).await;
        tracing::debug!(store, version = map.map.version, ok = written.is_ok(), "a store's map");
        match written {
            Ok(_) => {
                state.newest_seen = Some(map);
                Ok(())
            }
            Err(error) if error.kind() == Kind::TxnFailed => Ok(()),
            Err(error) => Err(error.context(&key)),
        }
    }

    /// Reduces the losses that operators have accepted to the replicas that are still missing, and deletes the keys of
    /// losses without any. Returns whether a key has changed, and with it the plan.
    async fn apply_acceptances(&self, store: &str, view: &View<'_>) -> Result<bool, Error> {
        let Some(state) = self.stores.get(store) else { return Ok(false) };
        // Before the holders have reported what they know, the entries may name other nodes.
        let Some(map) = state.stored.as_ref().filter(|map| map.unrecovered.is_empty()) else {
            return Ok(false);
        };
        let members = self.members(view, Some(map), &state.nodes);
        let mut operations: Vec<Vec<Operation>> = Vec::new();
        for (&shard, acceptance) in &view.reports.acceptances {
            if let Some(lost) = acceptance.still_missing(&map.map.missing(shard, &members)) {
                if acceptance.lost.is_none() {
                    log_acceptance(store, shard, &lost);
                }
                let key = accepted_key(self.cluster.options(), store, shard);
                operations.push(acceptance.replace(&key, &lost));
            }
        }
        for operations in operations.chunks(ACCEPTANCES_AT_ONCE) {
            self.change(operations.concat()).await?;
        }
        Ok(!operations.is_empty())
    }

    /// Removes the records of nodes that have left.
    async fn tidy(
        &self,
        store: &str,
        reports: &StoreReports,
        snapshot: &Snapshot,
    ) -> Result<(), Error> {
        let Some(state) = self.stores.get(store) else { return Ok(()) };
        let Some(map) = state.stored.as_ref().filter(|map| map.unrecovered.is_empty()) else {
            return Ok(());
        };
        let prefix = format!("{}{store}/", members_prefix(self.cluster.options()));
        let mut removed: Vec<Operation> = Vec::new();
        let forget_ms = self.cluster.options().forget_after.as_millis() as u64;
        for (node, (_, index)) in &reports.members {
            let is_in_map = state.nodes.contains(node);
            let is_old = map.down.get(node).is_some_and(|at| self.unix_ms() >= at + forget_ms);
            if !is_in_map && is_old && !snapshot.nodes.contains_key(&**node) {
                let key = format!("{prefix}nodes/{node}");
                removed.push(delete_unchanged(&key, *index));
            }
        }
        if let Some((_, index)) = reports.wanted.filter(|(wanted, _)| wanted.is_done(map)) {
            removed.push(delete_unchanged(&wanted_key(self.cluster.options(), store), index));
        }
        for (node, (_, index)) in &reports.openings {
            if !snapshot.nodes.contains_key(&**node) {
                removed.push(delete_unchanged(&format!("{prefix}opening/{node}"), *index));
            }
        }
        // A transaction has up to 64 operations.
        removed.truncate(32);
        if removed.is_empty() {
            return Ok(());
        }
        self.change(removed).await
    }

    /// Changes keys, unless somebody else has changed one of them.
    pub(super) async fn change(&self, operations: Vec<Operation>) -> Result<(), Error> {
        match fitness::write(self.cluster, self.lease, operations).await {
            Err(error) if error.kind() != Kind::TxnFailed => Err(error),
            _ => Ok(()),
        }
    }
}
