//! The leader's work for all replicated stores of the cluster: it alone changes their maps.

use super::counted::Greetings;
use super::document::StoreMap;
use super::said::{Said, parse};
use super::{Shared, accepted_key, map_key, members_prefix, read_map, said};
use crate::cluster::{Cluster, WAIT};
use crate::{Mode, Snapshot};
use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_client::coordination::{Lease, Operation, delete_unchanged, set, unchanged};
use consul_process::clock::{BoxFuture, Instant};
use consul_process::metrics;
use consul_process::sync::lock;
use consul_replication::map::{Disk, Entry, NodeId, Place, StoreId};
use consul_replication::peers::Peers;
use consul_replication::plan::{Accepted, Map, Member, Planner, Presence};
use consul_replication::recover::{Inquiry, is_newest};
use futures_util::stream::{self, StreamExt as _};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// How often the leader looks at a store that nobody reports about.
const INTERVAL: Duration = Duration::from_millis(500);

/// The shortest time between two looks, so that reports of the same moment make one map.
const PAUSE: Duration = Duration::from_millis(250);

/// The shortest time between two maps that plan changes. Commits and cancels do not wait for it.
const PLAN_PAUSE: Duration = Duration::from_secs(1);

/// How long the leader waits for the word of a live node before it counts it as down.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(15);

/// The pause before the leader asks again after Consul went back.
const RECOVER_PAUSE: Duration = Duration::from_secs(2);

/// How long the leader trusts what it knows of a map's key.
const AUDIT_INTERVAL: Duration = Duration::from_secs(5);

/// The shards whose holders are asked at the same time.
const CONCURRENT_ASKS: usize = 32;

/// How many words change in a transaction, each with up to two of its 64 operations.
const WORDS_AT_ONCE: usize = 16;

/// The way to the nodes of a store of this name.
pub type Reach = Arc<dyn Fn(&str) -> Arc<dyn Peers> + Send + Sync>;

/// Does the leader's work while this node is the leader; never completes.
pub async fn run(cluster: &Cluster, reach: &Reach) -> Infallible {
    let mut changes = cluster.changes();
    let life = Life { started: cluster.now(), met: Mutex::default() };
    loop {
        if let Some(lease) = cluster.lease().filter(|lease| lease.is_held()) {
            lead(cluster, &lease, reach, &life).await;
        }
        tokio::select! {
            biased;
            _ = changes.changed() => {}
            () = cluster.client().clock().sleep(INTERVAL) => {}
        }
    }
}

/// Leads until the lease has ended.
async fn lead(cluster: &Cluster, lease: &Arc<Lease>, reach: &Reach, life: &Life) {
    cluster.note_refusing(Vec::new());
    let (said, news) = (Mutex::new(None), Notify::new());
    let prefix = members_prefix(cluster.options());
    let watched = cluster.observe(&kv::LIST, &prefix, WAIT, |state| {
        if let Some(state) = state {
            *lock(&said) = Some(parse(&prefix, &state));
            news.notify_one();
        }
        async {}
    });
    let mut duty = Duty {
        cluster,
        lease,
        reach,
        life,
        begun: cluster.now(),
        begun_ms: cluster.unix_ms(),
        heard: BTreeMap::new(),
        greetings: Greetings::default(),
        stores: BTreeMap::new(),
    };
    let work = async {
        loop {
            let known = lock(&said).clone();
            for (store, said) in known.iter().flatten() {
                if let Err(error) = duty.reconcile(store, said).await {
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

/// What a process knows from all its leaderships.
pub(super) struct Life {
    started: Instant,
    /// The stores' nodes that have given it their word.
    pub(super) met: Mutex<BTreeSet<(String, NodeId)>>,
}

/// The state of the leader's work during one leadership.
pub(super) struct Duty<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) lease: &'a Lease,
    pub(super) reach: &'a Reach,
    pub(super) life: &'a Life,
    pub(super) begun: Instant,
    /// The Unix milliseconds at that moment.
    begun_ms: u64,
    /// Since when each live node has not given its word to this leader.
    pub(super) heard: BTreeMap<(String, NodeId), Instant>,
    pub(super) greetings: Greetings,
    pub(super) stores: BTreeMap<String, Known>,
}

/// What the leader knows of one store.
pub(super) struct Known {
    stored: Option<StoreMap>,
    /// The nodes that it names.
    pub(super) named: BTreeSet<NodeId>,
    /// The modify index of the map's key; 0: it does not exist.
    index: u64,
    /// When; `None`: it has to be read again.
    read_at: Option<Instant>,
    /// The newest map that this leader has seen.
    newest: Option<StoreMap>,
    /// Whether it has written a map yet: others may know newer ones that Consul has lost.
    has_written: bool,
    planned_at: Instant,
    asked_at: Option<Instant>,
    /// What the first map waits for, as it was shown last.
    pub(super) waits_for: Option<String>,
    /// What led to no change, when nothing was planned.
    idle_with: Option<(Arc<Said>, Arc<Snapshot>)>,
    /// When each change was first seen, or its target last made progress.
    progress: BTreeMap<(u32, u64), (u64, Instant)>,
}

impl Duty<'_> {
    async fn reconcile(&mut self, store: &str, said: &Arc<Said>) -> Result<(), Error> {
        let now = self.cluster.now();
        if now < self.cluster.hold_off_until() {
            // Consul may have lost data that another node is about to restore.
            return Ok(());
        }
        let snapshot = self.cluster.snapshot();
        self.greet(store, said, &snapshot, now).await;
        let Some(live) = self.live(store, said, &snapshot, now) else { return Ok(()) };
        self.read(store, now).await?;
        let Some(known) = self.stores.get_mut(store) else { return Ok(()) };
        let version = known.stored.as_ref().map_or(0, |it| it.map.version);
        let newest = known.newest.as_ref().map_or(0, |it| it.map.version);
        if newest > version {
            // Consul went back: what this leader knows is put back, and then the nodes are asked.
            let put_back = known.newest.as_ref().map(StoreMap::put_back);
            return match put_back {
                Some(map) => self.publish(store, map).await,
                None => Ok(()),
            };
        }
        let said = &said.of(known.stored.as_ref().and_then(|stored| stored.id));
        let words = said.members.iter().filter(|(node, _)| live.contains(*node));
        let seen = match known.stored {
            // A node that is down may know a map too.
            None => said.members.values().map(|(record, _)| record.seen).max(),
            Some(_) => words.map(|(_, (record, _))| record.seen).max(),
        };
        if seen.unwrap_or(0) > version {
            // A node with a newer map is about to put it back.
            if known.stored.is_some() {
                return Ok(());
            }
            let nodes = said.members.iter().filter(|(_, (record, _))| record.seen > 0);
            let nodes: Vec<&str> = nodes.map(|(node, _)| &**node).collect();
            let why = format!("{} has the map that Consul has lost", nodes.join(" or "));
            return self.show_wait(store, why).await;
        }
        let Some(stored) = known.stored.clone() else {
            return self.begin(store, said, &live, &snapshot).await;
        };
        let is_same = |(old, before): &(Arc<Said>, Arc<Snapshot>)| {
            Arc::ptr_eq(old, said) && Arc::ptr_eq(before, &snapshot)
        };
        let is_quiet = stored.is_quiet() && said.words.is_empty();
        if is_quiet && known.idle_with.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        known.idle_with = None;
        if self.heed(store, said, &live, &snapshot).await? {
            return Ok(());
        }
        match self.next(store, &stored, said, &live, &snapshot, now).await {
            Some(next) => self.publish(store, next).await?,
            None => self.note_idle(store, said, &snapshot),
        }
        self.tidy(store, said, &snapshot).await
    }

    /// Notes that what is known now leads to no change; soon after a plan, another one may be due. It holds until the watch
    /// of the members' keys answers again, after at most `WAIT`.
    fn note_idle(&mut self, store: &str, said: &Arc<Said>, snapshot: &Arc<Snapshot>) {
        let now = self.cluster.now();
        if let Some(known) = self.stores.get_mut(store)
            && now >= known.planned_at + PLAN_PAUSE
        {
            known.idle_with = Some((Arc::clone(said), Arc::clone(snapshot)));
        }
    }

    /// Reads the map of a store, unless it is known.
    async fn read(&mut self, store: &str, now: Instant) -> Result<(), Error> {
        let is_fresh = |known: &Known| known.read_at.is_some_and(|at| now < at + AUDIT_INTERVAL);
        if self.stores.get(store).is_some_and(is_fresh) {
            return Ok(());
        }
        let (stored, index) = read_map(self.cluster, store).await?;
        let known = self.stores.entry(store.to_owned()).or_insert_with(|| Known {
            stored: None,
            named: BTreeSet::new(),
            index: 0,
            read_at: None,
            newest: None,
            has_written: false,
            planned_at: Instant::default(),
            asked_at: None,
            waits_for: None,
            idle_with: None,
            progress: BTreeMap::new(),
        });
        let version = |map: &Option<StoreMap>| map.as_ref().map_or(0, |map| map.map.version);
        if version(&stored) > version(&known.newest) {
            known.newest.clone_from(&stored);
        }
        let named = stored.iter().flat_map(|it| &it.map.shards).flat_map(Entry::members);
        known.named = BTreeSet::from_iter(named.cloned());
        (known.stored, known.index, known.read_at) = (stored, index, Some(now));
        Ok(())
    }

    /// The Unix milliseconds by the clock with which this leadership began: a clock that is set while a node
    /// is down does not change how long it has been down.
    fn unix_ms(&self) -> u64 {
        let led = self.cluster.now() - self.begun;
        self.begun_ms.saturating_add(led.as_millis() as u64)
    }

    /// The nodes for a plan: without those that are down and have no shards.
    pub(super) fn members(
        &self,
        said: &Said,
        live: &BTreeSet<NodeId>,
        snapshot: &Snapshot,
        shared: Shared,
        down: &BTreeMap<NodeId, u64>,
        named: &BTreeSet<NodeId>,
    ) -> Vec<Member> {
        let replace_after_ms = self.cluster.options().replace_after.as_millis() as u64;
        let now_ms = self.unix_ms();
        // Without a second replica that must answer, each failover needs a person.
        let may_replace = shared.write_quorum.min(shared.read_quorum) > 1;
        let presence = |node: &NodeId| match (live.contains(node), down.get(node)) {
            (true, _) => Presence::Live,
            (false, Some(since)) if may_replace && now_ms >= since + replace_after_ms => {
                Presence::Gone
            }
            _ => Presence::Down,
        };
        let member = |id: &NodeId| {
            let record = said.members.get(id).map(|(record, _)| record);
            let weight = match snapshot.nodes.get(&**id) {
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
                report: record.map(|record| record.report.clone()).unwrap_or_default(),
            }
        };
        live.union(named).map(member).collect()
    }

    /// The next map; `None` if nothing changes.
    async fn next(
        &mut self,
        store: &str,
        stored: &StoreMap,
        said: &Said,
        live: &BTreeSet<NodeId>,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Option<StoreMap> {
        let mut next = stored.clone();
        if next.id.is_none() {
            // A release before ids has written it.
            let id = said.records().find_map(|record| record.id);
            next.id = Some(id.unwrap_or_else(|| StoreId(self.cluster.client().random_u64())));
        }
        let now_ms = self.unix_ms();
        let shared = stored.shared;
        let live = said.agreeing(live, shared);
        let named = self.stores.get(store)?.named.clone();
        let down = named.iter().chain(said.members.keys()).filter(|node| !live.contains(*node));
        // The leader that has seen one go down first may have had a clock that was ahead.
        let since = |node: &NodeId| stored.down.get(node).map_or(now_ms, |at| now_ms.min(*at));
        next.down = BTreeMap::from_iter(down.map(|node| (node.clone(), since(node))));
        next.note_openings(said.records());
        let newer = said.newer(&live, &next.map);
        if let Some((shard, nodes)) =
            newer.iter().find(|(shard, _)| !next.unrecovered.contains(shard))
        {
            tracing::warn!(
                store,
                shard,
                ?nodes,
                "Consul has an older map than nodes: their entries are put back"
            );
        }
        next.unrecovered.extend(newer.keys());
        self.recover(store, &mut next, said, &live, &newer).await;
        let members = self.members(said, &live, snapshot, shared, &next.down, &named);
        let min_nodes = self.cluster.options().min_nodes;
        let is_outvoted = self.is_outvoted(snapshot);
        let known = self.stores.get_mut(store)?;
        let may_plan = snapshot.frozen.is_empty()
            && !is_outvoted
            && snapshot.live().count() >= min_nodes
            && now >= known.planned_at + PLAN_PAUSE;
        // Consul may have gone back while all nodes were away.
        let is_young = now - self.life.started < self.cluster.options().replace_after;
        let stuck = known.stuck(&next.map, said, now);
        let accepted = said.accepted();
        let planner = planner(&members, shared, may_plan, &stuck, &accepted);
        // No epoch is given to two entries, also if Consul went back.
        if !known.has_written {
            next.map.version = self.cluster.beyond(next.map.version);
        }
        if let Some(mut map) = next.map.next(&planner) {
            let met = lock(&self.life.met);
            // Nothing changes before the holders have said what they know.
            for (shard, (new, old)) in map.shards.iter_mut().zip(&next.map.shards).enumerate() {
                let shard = shard as u32;
                let was_met = |node: &NodeId| met.contains(&(store.to_owned(), node.clone()));
                let is_known = || {
                    let has = |it: &Place| live.contains(&it.node) && said.has(shard, it);
                    let has = |it: &Place| has(it) || was_met(&it.node);
                    let lives = |node: &NodeId| live.contains(node) || was_met(node);
                    is_newest(old, shared.quorums(), has, lives)
                };
                let may_be_old = is_young && !said.words.contains_key(&shard);
                if new != old && (next.unrecovered.contains(&shard) || may_be_old && !is_known()) {
                    new.clone_from(old);
                }
            }
            for (shard, (new, old)) in map.shards.iter().zip(&next.map.shards).enumerate() {
                if new.unites() && !old.unites() {
                    metrics::numbers().store(store).united.add_one();
                    tracing::warn!(
                        store,
                        shard,
                        "too few replicas are whole: all that the others still have is brought together"
                    );
                }
            }
            if map.shards != next.map.shards {
                next.map = map;
            }
            if may_plan {
                known.planned_at = now;
            }
        }
        let version = std::mem::replace(&mut next.map.version, stored.map.version);
        if next == *stored {
            return None;
        }
        next.map.version = version.max(stored.map.version + 1);
        Some(next)
    }

    /// Asks the holders of the shards whose entries may be old, and puts back the newest ones.
    async fn recover(
        &mut self,
        store: &str,
        next: &mut StoreMap,
        said: &Said,
        live: &BTreeSet<NodeId>,
        newer: &BTreeMap<u32, BTreeSet<NodeId>>,
    ) {
        let now = self.cluster.now();
        let Some(known) = self.stores.get_mut(store) else { return };
        let is_early = known.asked_at.is_some_and(|at| now < at + RECOVER_PAUSE);
        if next.unrecovered.is_empty() || is_early {
            return;
        }
        known.asked_at = Some(now);
        let version = self.cluster.beyond(next.map.version);
        let (peers, quorums, id) = ((self.reach)(store), next.shared.quorums(), next.id);
        let none = BTreeSet::new();
        let mut asks: Vec<BoxFuture<'_, (u32, Result<Entry, Error>)>> = Vec::new();
        for shard in next.unrecovered.iter().copied() {
            let (entry, peers) = (next.map.shards[shard as usize].clone(), Arc::clone(&peers));
            let knowing = newer.get(&shard).unwrap_or(&none);
            let skips_silent = said.words.get(&shard).is_some_and(|word| word.lost.is_none());
            asks.push(Box::pin(async move {
                let has = |place: &Place| live.contains(&place.node) && said.has(shard, place);
                let has = &has;
                let (store, peers) = (id, &*peers);
                let inquiry = Inquiry { peers, store, shard, quorums, has, knowing, skips_silent };
                (shard, inquiry.newest(&entry, version).await)
            }));
        }
        let answers: Vec<_> = stream::iter(asks).buffer_unordered(CONCURRENT_ASKS).collect().await;
        for (shard, answer) in answers {
            match answer {
                Ok(entry) => {
                    next.map.version = next.map.version.max(entry.epoch);
                    next.map.shards[shard as usize] = entry;
                    next.unrecovered.remove(&shard);
                }
                Err(error) => {
                    tracing::warn!(store, shard, %error, "its entry may be old and stays as it is");
                }
            }
        }
    }

    pub(super) async fn publish(&mut self, store: &str, map: StoreMap) -> Result<(), Error> {
        let Some(known) = self.stores.get_mut(store) else { return Ok(()) };
        let key = map_key(self.cluster.options(), store);
        let operations = [unchanged(&key, known.index), set(&key, map.encode())];
        known.has_written = true;
        // Read again whatever the outcome is.
        known.read_at = None;
        let written = self.lease.fenced(operations).await;
        tracing::debug!(store, version = map.map.version, ok = written.is_ok(), "a store's map");
        match written {
            Ok(_) => {
                known.newest = Some(map);
                Ok(())
            }
            Err(error) if error.kind() == Kind::TxnFailed => Ok(()),
            Err(error) => Err(error.context(&key)),
        }
    }

    /// Makes the words of operators be about what is missing, and removes those that are over. Returns
    /// whether one was changed, and with it what is to be planned.
    async fn heed(
        &self,
        store: &str,
        said: &Said,
        live: &BTreeSet<NodeId>,
        snapshot: &Snapshot,
    ) -> Result<bool, Error> {
        let Some(known) = self.stores.get(store) else { return Ok(false) };
        // Before the holders have said what they know, the entries may name others.
        let Some(map) = known.stored.as_ref().filter(|map| map.unrecovered.is_empty()) else {
            return Ok(false);
        };
        let live = said.agreeing(live, map.shared);
        let members = self.members(said, &live, snapshot, map.shared, &map.down, &known.named);
        let mut operations: Vec<Vec<Operation>> = Vec::new();
        for (&shard, word) in &said.words {
            if let Some(lost) = word.narrowed(&map.map.missing(shard, &members)) {
                if word.lost.is_none() {
                    said::log_word(store, shard, &lost);
                }
                let key = accepted_key(self.cluster.options(), store, shard);
                operations.push(word.write(&key, &lost));
            }
        }
        for operations in operations.chunks(WORDS_AT_ONCE) {
            self.change(operations.concat()).await?;
        }
        Ok(!operations.is_empty())
    }

    /// Removes the records of nodes that have left.
    async fn tidy(&self, store: &str, said: &Said, snapshot: &Snapshot) -> Result<(), Error> {
        let Some(known) = self.stores.get(store) else { return Ok(()) };
        let Some(map) = known.stored.as_ref().filter(|map| map.unrecovered.is_empty()) else {
            return Ok(());
        };
        let prefix = format!("{}{store}/", members_prefix(self.cluster.options()));
        let mut removed: Vec<Operation> = Vec::new();
        let forget_ms = self.cluster.options().forget_after.as_millis() as u64;
        for (node, (_, index)) in &said.members {
            let is_named = known.named.contains(node);
            let is_old = map.down.get(node).is_some_and(|at| self.unix_ms() >= at + forget_ms);
            if !is_named && is_old && !snapshot.nodes.contains_key(&**node) {
                let key = format!("{prefix}nodes/{node}");
                removed.push(delete_unchanged(&key, *index));
            }
        }
        for (node, (_, index)) in &said.openings {
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
        match self.lease.fenced(operations).await {
            Err(error) if error.kind() != Kind::TxnFailed => Err(error),
            _ => Ok(()),
        }
    }
}

impl Known {
    /// The changes whose targets have made no progress for the time that they may take.
    fn stuck(&mut self, map: &Map, said: &Said, now: Instant) -> BTreeSet<(u32, u64)> {
        let mut changes: BTreeMap<(u32, u64), NodeId> = BTreeMap::new();
        for (shard, entry) in map.shards.iter().enumerate() {
            for change in entry.slots.iter().filter_map(|slot| slot.change.as_ref()) {
                changes.insert((shard as u32, change.since), change.to.clone());
            }
        }
        self.progress.retain(|change, _| changes.contains_key(change));
        let mut stuck = BTreeSet::new();
        for (change, to) in changes {
            let record = said.members.get(&to).map(|(record, _)| record);
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

pub(super) fn planner<'a>(
    members: &'a [Member],
    shared: Shared,
    may_plan: bool,
    stuck: &'a BTreeSet<(u32, u64)>,
    accepted: &'a Accepted,
) -> Planner<'a> {
    Planner { members, quorums: shared.quorums(), may_plan, stuck, accepted }
}
