//! A node's replicas: what it knows of each shard, what it has promised, and the requests that it
//! executes.
//!
//! A promise (a seal, a fence, a mark that a replica is whole) is stored before it is answered, and it
//! waits for the requests that run: their acknowledgements count in the time before it.

mod report;

use super::clock::VersionClock;
use super::digest::{self, Part};
use super::map::{Disk, Entry, NodeId, StoreId};
use super::message::{Action, NotReady, Outcome, Reply, Request};
use super::progress::Progress;
use super::record::{Range, Record, Version};
use super::rules::{Rule, Rules};
use super::state::{Doubt, State, Work};
use super::storage::{Reader, Storage};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::sync::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::{RwLock, RwLockWriteGuard};

/// Why nothing changes after [`Holder::close`].
const STOPPED: &str = "the node was stopped";

/// A quarter of the time limit of requests, unless another one is set.
const STEP_TIME: Duration = Duration::from_millis(1250);

/// The replicas of one node.
pub struct Holder {
    node: NodeId,
    disk: Disk,
    store: OnceLock<StoreId>,
    storage: Arc<dyn Storage>,
    clock: Arc<VersionClock>,
    shards: Mutex<BTreeMap<u32, Arc<RwLock<State>>>>,
    taken: AtomicU64,
    is_closed: AtomicBool,
    progress: Progress,
    /// The shards that other nodes have compared with their own replicas.
    compared: Mutex<BTreeSet<u32>>,
    /// The comparisons for the changes that it is the target for.
    comparisons: Mutex<BTreeMap<u32, Comparisons>>,
    /// The shards whose replicas it is about to give up.
    giving_up: Mutex<BTreeSet<u32>>,
    /// The shards whose replicas it is to make again from the others.
    to_remake: Mutex<BTreeSet<u32>>,
    /// The horizons of the shards.
    horizons: Mutex<BTreeMap<u32, Version>>,
    rules: Rules,
    step_time: Duration,
}

/// The comparisons for a change. An attempt that fails makes them again, which brings it no farther.
#[derive(Default)]
struct Comparisons {
    /// The epoch that planned the change.
    since: u64,
    /// How many comparisons with each source the present attempt has begun.
    begun: BTreeMap<NodeId, usize>,
    /// How far the comparison of this number with a source has come in any attempt, in records.
    farthest: BTreeMap<(NodeId, usize), u64>,
}

/// A comparison for a copy, which may store nothing.
pub(super) struct CountedComparison<'a> {
    holder: &'a Holder,
    shard: u32,
    of: (NodeId, usize),
    compared: u64,
}

impl CountedComparison<'_> {
    /// Notes that this many records, or a part without any, were compared.
    pub(super) fn compared(&mut self, records: usize) {
        self.compared += records.max(1) as u64;
        let mut comparisons = lock(&self.holder.comparisons);
        let farthest = &mut comparisons.entry(self.shard).or_default().farthest;
        let farthest = farthest.entry(self.of.clone()).or_default();
        let new = self.compared.saturating_sub(*farthest);
        *farthest += new;
        self.holder.taken.fetch_add(new, Ordering::Relaxed);
    }

    /// Notes that all were. Records that come later do not count as progress.
    pub(super) fn ends(self) {
        let mut comparisons = lock(&self.holder.comparisons);
        comparisons.entry(self.shard).or_default().farthest.insert(self.of, u64::MAX);
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holder").field("node", &self.node).field("disk", &self.disk).finish()
    }
}

impl Holder {
    /// The replicas of a node on this disk. [`Holder::load`] reads what it has kept.
    pub fn new(
        node: NodeId,
        disk: Disk,
        storage: Arc<dyn Storage>,
        clock: Arc<VersionClock>,
        rules: Rules,
    ) -> Self {
        let (store, shards, taken, is_closed) = Default::default();
        let (progress, compared, comparisons, giving_up, to_remake, horizons) = Default::default();
        Holder {
            node,
            disk,
            store,
            storage,
            clock,
            shards,
            taken,
            is_closed,
            progress,
            compared,
            comparisons,
            giving_up,
            to_remake,
            horizons,
            rules,
            step_time: STEP_TIME,
        }
    }

    /// The same, where a step of the work on a shard begins no scan after this time. The requests of each have a time limit.
    pub fn with_steps(self, step_time: Duration) -> Self {
        Holder { step_time, ..self }
    }

    /// The node's name.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Its disk.
    pub fn disk(&self) -> Disk {
        self.disk
    }

    /// The store whose records it has, once that is known.
    pub fn store(&self) -> Option<StoreId> {
        self.store.get().copied()
    }

    /// Says which store that is: requests about another one are refused from now on.
    pub fn belongs_to(&self, store: StoreId) {
        self.store.get_or_init(|| store);
    }

    /// Its storage.
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Reads its storage in steps.
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(self.storage(), &self.clock, self.step_time)
    }

    /// The rules in force.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// How far its copies are.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Below this version all N replicas of a shard were equal once; `None`: that is not known of any.
    pub fn horizon(&self, shard: u32) -> Option<Version> {
        lock(&self.horizons).get(&shard).copied().filter(|horizon| !horizon.is_lowest())
    }

    /// Whether another node has compared its replica of a shard with this one since this was last asked.
    pub fn take_compared(&self, shard: u32) -> bool {
        lock(&self.compared).remove(&shard)
    }

    /// Its clock.
    pub fn clock(&self) -> &VersionClock {
        &self.clock
    }

    fn name_of(shard: u32) -> String {
        format!("shard/{shard}")
    }

    /// Reads what the disk has kept of a shard.
    ///
    /// # Errors
    /// Errors of the storage, and [`Kind::Decode`] if a later release has written it.
    pub async fn load(&self, shard: u32) -> Result<(), Error> {
        let kept = self.storage.kept(&Self::name_of(shard)).await?;
        let Some(bytes) = kept else { return Ok(()) };
        let mut state = State::decode(&bytes).map_err(|why| {
            let why = format!("shard {shard}: what was kept of it cannot be read: {why}");
            Error::new(Kind::Decode, why)
        })?;
        if !self.rules.has(Rule::SealIsStored) {
            state.sealed_for = None;
        }
        lock(&self.horizons).insert(shard, state.horizon);
        lock(&self.shards).insert(shard, Arc::new(RwLock::new(state)));
        Ok(())
    }

    /// The same, of a disk that may lack something: its replica does not count any more, and what it has stays.
    ///
    /// # Errors
    /// As [`Holder::load`].
    pub async fn load_doubted(&self, shard: u32, doubt: Doubt) -> Result<(), Error> {
        self.load(shard).await?;
        let Some(cell) = lock(&self.shards).get(&shard).cloned() else { return Ok(()) };
        let mut state = cell.write().await;
        let change = state.entry.as_ref().and_then(|entry| entry.change_to(&self.node));
        let work = change.map(|(_, change)| Work { since: change.since, ..Work::default() });
        self.change(shard, &mut state, |state| {
            state.doubt = match (state.doubt, state.is_whole, &state.work) {
                (Some(known), ..) => Some(known.max(doubt)),
                (None, true, _) => Some(doubt),
                (None, false, Some(_)) => Some(Doubt::Partial),
                (None, false, None) => None,
            };
            (state.is_whole, state.sealed_for, state.work) = (false, None, work);
            if state.doubt == Some(Doubt::Partial) {
                // Its knowledge of deletions is from a replica that it may not have copied to the end.
                (state.floor, state.horizon) = Default::default();
            }
        })
        .await
    }

    fn shard(&self, shard: u32) -> Arc<RwLock<State>> {
        Arc::clone(lock(&self.shards).entry(shard).or_default())
    }

    /// The shards that it knows something of.
    pub fn shards(&self) -> Vec<u32> {
        lock(&self.shards).keys().copied().collect()
    }

    /// A copy of the state of a shard. Waits for a change of it that runs.
    pub async fn state(&self, shard: u32) -> State {
        self.shard(shard).read().await.clone()
    }

    /// Executes nothing from now on, and waits for the requests that run.
    pub async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        for shard in self.shards() {
            drop(self.shard(shard).write().await);
        }
    }

    /// Stores a changed state, which is in force after that.
    async fn change(
        &self,
        shard: u32,
        state: &mut RwLockWriteGuard<'_, State>,
        change: impl FnOnce(&mut State),
    ) -> Result<(), Error> {
        let mut next = State::clone(state);
        change(&mut next);
        if next == **state {
            return Ok(());
        }
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Closed, STOPPED).with_maybe_applied(false));
        }
        self.storage.keep(&Self::name_of(shard), next.encode().into()).await?;
        lock(&self.horizons).insert(shard, next.horizon);
        **state = next;
        Ok(())
    }

    /// Whether the entry means this disk.
    fn is_named(&self, entry: &Entry) -> bool {
        entry
            .counting_at(&self.node)
            .is_some_and(|place| place.disk == self.disk || !self.rules.has(Rule::NameTheDisk))
    }

    fn is_whole(&self, state: &State, entry: &Entry) -> bool {
        (state.is_whole || !self.rules.has(Rule::Mark)) && self.is_named(entry)
    }

    /// A seal is void with a newer entry in which the replica does not leave, or leaves for another move.
    fn is_sealed(&self, state: &State, entry: &Entry) -> bool {
        let leaves_since = entry.move_from(&self.node).map(|change| change.since);
        leaves_since.is_some() && leaves_since == state.sealed_for
    }

    /// Why the replica does not count.
    fn refusal(&self, state: &State, entry: &Entry) -> Option<NotReady> {
        if state.fence > entry.epoch {
            return Some(NotReady::Fenced);
        }
        if entry.counting_at(&self.node).is_none() {
            let is_early = !self.rules.has(Rule::TargetCountsLate)
                && entry.change_to(&self.node).is_some()
                && state.work.is_some();
            return (!is_early).then_some(NotReady::NotAHolder);
        }
        if !self.is_whole(state, entry) {
            return Some(NotReady::NotWhole);
        }
        self.is_sealed(state, entry).then_some(NotReady::Sealed)
    }

    /// Learns the entry of a shard, unless it knows a newer one.
    ///
    /// # Errors
    /// Errors of the storage.
    pub async fn learn(&self, shard: u32, entry: &Entry) -> Result<(), Error> {
        let cell = self.shard(shard);
        let is_known = |state: &State| {
            state.fence > entry.epoch
                || state.entry.as_ref().is_some_and(|known| known.epoch >= entry.epoch)
        };
        if is_known(&*cell.read().await) {
            return Ok(());
        }
        let mut state = cell.write().await;
        if is_known(&state) {
            return Ok(());
        }
        // A node that is back with its replica says so, and keeps it.
        let has_returned = state.is_whole && entry.failover_from(&self.node, self.disk).is_some();
        let change = entry.change_to(&self.node).filter(|_| !has_returned);
        let work = change.map(|(_, change)| change.since);
        let is_new_work = work.is_some() && work != state.work.as_ref().map(|work| work.since);
        // A replica that was whole may have what nobody else has.
        let is_kept =
            self.rules.has(Rule::KeepDoubted) && (state.is_whole || state.doubt.is_some());
        if is_new_work {
            self.change(shard, &mut state, |state| {
                state.doubt = is_kept.then(|| state.doubt.unwrap_or(Doubt::Old));
                state.is_whole = false;
                state.work = None;
            })
            .await?;
            // The rest of an earlier copy would come back to life.
            if self.rules.has(Rule::TargetBeginsEmpty) && !is_kept {
                self.storage.drop_shard(shard).await?;
            }
        }
        let is_first = entry.counting_at(&self.node).is_some_and(|place| place.is_first);
        let is_named = self.is_named(entry);
        let begins = is_first && state.entry.is_none() && is_named;
        self.change(shard, &mut state, |state| {
            state.entry = Some(entry.clone());
            state.is_whole |= begins;
            if state.is_whole && is_named {
                state.doubt = None;
                state.counted_under = entry.unproven;
            }
            match work {
                Some(since) if is_new_work => {
                    if !is_kept {
                        state.floor = Version::default();
                        state.horizon = Version::default();
                    }
                    state.work = Some(Work { since, ..Work::default() });
                }
                Some(_) => {}
                None => state.work = None,
            }
        })
        .await
    }

    /// Answers a request. It must run to its end: a storage that still works for a request whose
    /// future was dropped could change records after a seal.
    pub async fn serve(&self, request: Request) -> Reply {
        let outcome = self
            .execute(request)
            .await
            .unwrap_or_else(|error| Outcome::Failed(error.message().to_owned()));
        Reply { time: self.clock.now(), outcome }
    }

    async fn execute(&self, request: Request) -> Result<Outcome, Error> {
        let Request { store, shard, entry, action } = request;
        if let Some(own) = self.store().filter(|own| self.refuses(store, *own)) {
            return Ok(Outcome::OtherStore(own));
        }
        if let Action::Recover = action {
            return self.recover(shard, entry.epoch).await;
        }
        self.learn(shard, &entry).await?;
        match action {
            Action::Write(records) => self.write(shard, &entry, records).await,
            Action::Seal => self.seal(shard, &entry).await,
            Action::Fence => self.fence(shard, &entry).await,
            Action::Floor { below } => self.raise_floor(shard, &entry, below).await,
            Action::Purge { below } => self.purge(shard, &entry, below).await,
            Action::Repair(records) => self.repair(shard, &entry, records).await,
            action => self.read(shard, &entry, action).await,
        }
    }

    /// Whether a request is about another store, whose epochs say nothing about this one's.
    fn refuses(&self, store: Option<StoreId>, own: StoreId) -> bool {
        self.rules.has(Rule::RefuseOtherStores) && StoreId::differ(store, Some(own))
    }

    /// The refusal of a request by a caller with this entry, if the request is not to be executed.
    fn stale(&self, state: &State, entry: &Entry) -> Option<Outcome> {
        if self.is_closed.load(Ordering::Acquire) {
            return Some(Outcome::Failed(STOPPED.into()));
        }
        match &state.entry {
            Some(known) if known.epoch > entry.epoch => {
                let is_refused = self.rules.has(Rule::RefuseOtherEpochs);
                is_refused.then(|| Outcome::Stale(known.clone()))
            }
            _ => None,
        }
    }

    /// The refusal of a request to a replica that does not count, or by a caller with an older entry.
    fn refused(&self, state: &State, entry: &Entry) -> Option<Outcome> {
        self.stale(state, entry).or_else(|| self.refusal(state, entry).map(Outcome::NotReady))
    }

    async fn write(
        &self,
        shard: u32,
        entry: &Entry,
        records: Vec<Record>,
    ) -> Result<Outcome, Error> {
        let cell = self.shard(shard);
        let state = cell.read().await;
        if let Some(refused) = self.refused(&state, entry) {
            return Ok(refused);
        }
        for record in &records {
            let time = record.version.time();
            if let Err(error) = self.clock.observe(time) {
                // A replica that had such a version already is not frozen until that time.
                let kept = self.one(shard, record.id.clone()).await?;
                if kept.is_none_or(|kept| kept.version.time().next() < time) {
                    return Err(error);
                }
            }
        }
        let floor = state.floor;
        if self.rules.has(Rule::WaitForRunning) {
            self.store_above(shard, floor, Version::default(), records).await
        } else {
            drop(state);
            self.store_above(shard, floor, Version::default(), records).await
        }
    }

    /// Stores the records that are not below a version; those below `unproven` anyway.
    async fn store_above(
        &self,
        shard: u32,
        floor: Version,
        unproven: Version,
        records: Vec<Record>,
    ) -> Result<Outcome, Error> {
        let is_old = |record: &Record| {
            (unproven..floor).contains(&record.version) && self.rules.has(Rule::Horizon)
        };
        let old = records.iter().enumerate().filter(|(_, it)| is_old(it));
        let mut overtaken: Vec<(usize, Version)> = old.map(|(index, _)| (index, floor)).collect();
        let (places, records): (Vec<usize>, Vec<Record>) =
            records.into_iter().enumerate().filter(|(_, it)| !is_old(it)).unzip();
        let count = records.len() as u64;
        let kept = self.storage.apply(shard, records).await?;
        self.progress.wrote(shard, count);
        let newer = kept.into_iter().filter_map(|(at, version)| Some((*places.get(at)?, version)));
        overtaken.extend(newer);
        Ok(Outcome::Stored { overtaken })
    }

    /// Whether this node does not take a version by a repair: it is too far ahead of its clock, or of most of the
    /// replicas'.
    pub(super) fn disbelieves(&self, entry: &Entry, version: Version) -> bool {
        let others = entry.counting().map(|(_, place)| &place.node);
        self.clock.is_unbelieved(version, others.filter(|node| **node != self.node))
    }

    /// Stores records that another replica has and this one lacks, but for those that are too far ahead of this
    /// node's clock, or of most of the others'.
    async fn repair(
        &self,
        shard: u32,
        entry: &Entry,
        records: Vec<Record>,
    ) -> Result<Outcome, Error> {
        let cell = self.shard(shard);
        let state = cell.read().await;
        if let Some(refused) = self.refused(&state, entry) {
            return Ok(refused);
        }
        let believed = records.into_iter().filter(|it| !self.disbelieves(entry, it.version));
        let believed = believed.collect();
        // A record that comes back after an accepted loss was not deleted.
        self.store_above(shard, state.horizon, entry.unproven, believed).await
    }

    async fn read(&self, shard: u32, entry: &Entry, action: Action) -> Result<Outcome, Error> {
        let cell = self.shard(shard);
        let state = cell.read().await;
        let refused = match action {
            Action::Read { .. } | Action::Ping => self.refused(&state, entry),
            _ => self.stale(&state, entry).or_else(|| {
                let is_taken = state.doubt.is_some() && entry.unites();
                let counts = state.is_whole || is_taken || !self.rules.has(Rule::Mark);
                let is_copied = matches!(action, Action::Copy { .. });
                let why = match counts {
                    false => NotReady::NotWhole,
                    true if is_copied && self.is_to_remake(shard) => NotReady::ToRemake,
                    true => return None,
                };
                Some(Outcome::NotReady(why))
            }),
        };
        if let Some(refused) = refused {
            return Ok(refused);
        }
        let horizon = state.proved_horizon();
        Ok(match action {
            Action::Read { range, limit } => self.page(shard, range, limit, horizon).await?,
            Action::Copy { after, limit } => {
                let range = Range { after, ..Range::all() };
                self.page(shard, range, limit, horizon).await?
            }
            Action::Sums { bits, horizon: other, after, through } => {
                let horizon = horizon.max(other);
                let limit = digest::OTHER_PAGE;
                let part = Part::read(self.reader(), shard, after.clone(), through, limit).await?;
                self.progress.counted(shard, after, part.count(horizon), part.through.clone());
                if part.through.is_none() {
                    lock(&self.compared).insert(shard);
                }
                Outcome::Sums { sums: part.sums(bits, horizon), horizon, through: part.through }
            }
            Action::Versions { bits, buckets, horizon, after, through } => {
                let of = (bits, &buckets[..]);
                let (versions, is_last) =
                    digest::versions(self.reader(), shard, of, horizon, after, through).await?;
                Outcome::Versions { versions, is_last }
            }
            Action::Fetch(ids) => {
                let (records, count) = self.reader().records(shard, &ids).await?;
                Outcome::Page { records, is_last: count == ids.len(), horizon }
            }
            _ => Outcome::Done,
        })
    }

    async fn page(
        &self,
        shard: u32,
        range: Range,
        limit: usize,
        horizon: Version,
    ) -> Result<Outcome, Error> {
        let (records, is_last) = self.reader().page(shard, range, limit.max(1)).await?;
        Ok(Outcome::Page { records, is_last, horizon })
    }

    /// The record of an id.
    async fn one(&self, shard: u32, id: Bytes) -> Result<Option<Record>, Error> {
        Ok(self.reader().records(shard, &[id]).await?.0.pop())
    }

    /// Whether the replica counts, or is sealed for a move.
    pub async fn counts(&self, shard: u32, entry: &Entry) -> bool {
        let cell = self.shard(shard);
        let state = cell.read().await;
        matches!(self.refusal(&state, entry), None | Some(NotReady::Sealed))
    }

    /// Stores a record that the replica of a shard has, if it has one: nothing changes by it.
    ///
    /// # Errors
    /// Errors of the storage.
    pub async fn store_again(&self, shard: u32) -> Result<(), Error> {
        let cell = self.shard(shard);
        let _unchanged = cell.read().await;
        let records = self.storage.scan(shard, Range::all(), 1).await?;
        self.storage.apply(shard, records).await.map(|_| ())
    }

    async fn seal(&self, shard: u32, entry: &Entry) -> Result<Outcome, Error> {
        let cell = self.shard(shard);
        let mut state = cell.write().await;
        if let Some(stale) = self.stale(&state, entry) {
            return Ok(stale);
        }
        if state.fence > entry.epoch {
            return Ok(Outcome::NotReady(NotReady::Fenced));
        }
        let may_leave = self.is_whole(&state, entry) && !self.is_to_remake(shard);
        let Some(change) = entry.move_from(&self.node).filter(|_| may_leave) else {
            return Ok(Outcome::NotReady(NotReady::NotWhole));
        };
        if self.rules.has(Rule::Seal) {
            self.change(shard, &mut state, |state| state.sealed_for = Some(change.since)).await?;
        }
        Ok(Outcome::Done)
    }

    async fn fence(&self, shard: u32, entry: &Entry) -> Result<Outcome, Error> {
        let cell = self.shard(shard);
        let state = cell.read().await;
        if let Some(stale) = self.stale(&state, entry) {
            return Ok(stale);
        }
        let stays = !lock(&self.giving_up).contains(&shard) && state.fence <= entry.epoch;
        let is_whole = stays && self.is_whole(&state, entry);
        let is_taken = is_whole || stays && state.doubt.is_some() && entry.unites();
        Ok(match is_whole {
            _ if is_taken && self.is_to_remake(shard) => Outcome::NotReady(NotReady::ToRemake),
            true => Outcome::Done,
            false => Outcome::NotReady(NotReady::NotWhole),
        })
    }

    /// Executes nothing below an epoch from now on, and says the newest entry.
    async fn recover(&self, shard: u32, epoch: u64) -> Result<Outcome, Error> {
        let cell = self.shard(shard);
        let mut state = cell.write().await;
        if self.is_closed.load(Ordering::Acquire) {
            return Ok(Outcome::Failed(STOPPED.into()));
        }
        let fence = state.fence;
        self.change(shard, &mut state, |state| state.fence = fence.max(epoch)).await?;
        Ok(Outcome::Known { entry: state.entry.clone(), fence })
    }

    async fn purge(&self, shard: u32, entry: &Entry, below: Version) -> Result<Outcome, Error> {
        let cell = self.shard(shard);
        let mut state = cell.write().await;
        if let Some(refused) = self.refused(&state, entry).or_else(|| self.early(below)) {
            return Ok(refused);
        }
        self.change(shard, &mut state, |state| {
            state.horizon = state.horizon.max(below);
        })
        .await?;
        // It may take long in a large shard, and no request needs the purged records.
        let _unchanged = state.downgrade();
        self.storage.purge(shard, below).await?;
        Ok(Outcome::Done)
    }

    /// The refusal of a floor or a horizon in the future of this machine's clock: its own writes would be
    /// refused until then.
    fn early(&self, below: Version) -> Option<Outcome> {
        (!self.clock.is_past(below)).then(|| {
            let why =
                "the version is in the future of this node's clock: one of the two clocks is wrong";
            Outcome::Failed(why.into())
        })
    }

    /// Refuses writes below a version from now on, so that a comparison that begins after this sees all
    /// of them.
    async fn raise_floor(
        &self,
        shard: u32,
        entry: &Entry,
        below: Version,
    ) -> Result<Outcome, Error> {
        let cell = self.shard(shard);
        let mut state = cell.write().await;
        if let Some(refused) = self.refused(&state, entry).or_else(|| self.early(below)) {
            return Ok(refused);
        }
        self.change(shard, &mut state, |state| state.floor = state.floor.max(below)).await?;
        Ok(Outcome::Done)
    }

    /// Stores records that were copied for a change, and how far the copy is.
    ///
    /// # Errors
    /// Errors of the storage.
    pub async fn take(
        &self,
        shard: u32,
        since: u64,
        records: Vec<Record>,
        progress: impl FnOnce(&mut Work),
        horizon: Version,
    ) -> Result<bool, Error> {
        let cell = self.shard(shard);
        let mut state = cell.write().await;
        if state.work.as_ref().is_none_or(|work| work.since != since) {
            return Ok(false);
        }
        let count = records.len() as u64;
        self.storage.apply(shard, records).await?;
        self.taken.fetch_add(count, Ordering::Relaxed);
        self.progress.took(shard, since, count);
        self.change(shard, &mut state, |state| {
            state.floor = state.floor.max(horizon);
            state.horizon = state.horizon.max(horizon);
            if let Some(work) = &mut state.work {
                progress(work);
            }
        })
        .await?;
        Ok(true)
    }

    /// Deletes records of a replica that is being copied, if another one says that they were deleted below its horizon;
    /// [`Holder::purge_removed`] removes the rest of them.
    ///
    /// # Errors
    /// Errors of the storage.
    pub async fn remove(&self, shard: u32, since: u64, records: &[Record]) -> Result<(), Error> {
        let cell = self.shard(shard);
        let state = cell.write().await;
        if records.is_empty() || state.work.as_ref().is_none_or(|work| work.since != since) {
            return Ok(());
        }
        let deletion = |it: &Record| {
            let (id, version) = (it.id.clone(), it.version.next());
            Record { id, version, data: None }
        };
        self.storage.apply(shard, records.iter().map(deletion).collect()).await.map(|_| ())
    }

    /// Removes what [`Holder::remove`] has deleted for good.
    ///
    /// # Errors
    /// Errors of the storage.
    pub async fn purge_removed(
        &self,
        shard: u32,
        since: u64,
        horizon: Version,
    ) -> Result<(), Error> {
        let cell = self.shard(shard);
        let state = cell.write().await;
        match state.work.as_ref().is_some_and(|work| work.since == since) {
            true => self.storage.purge(shard, horizon).await,
            false => Ok(()),
        }
    }

    /// Begins the attempts of a change again: its comparisons with each source are counted from the first one on.
    pub(super) fn begin_attempt(&self, shard: u32, since: u64) {
        let mut comparisons = lock(&self.comparisons);
        let of_shard = comparisons.entry(shard).or_default();
        if of_shard.since != since {
            *of_shard = Comparisons { since, ..Comparisons::default() };
        }
        of_shard.begun.clear();
    }

    /// Begins a comparison with a source for a copy.
    pub(super) fn begin_comparison(&self, shard: u32, source: &NodeId) -> CountedComparison<'_> {
        let mut comparisons = lock(&self.comparisons);
        let begun = comparisons.entry(shard).or_default().begun.entry(source.clone()).or_default();
        *begun += 1;
        CountedComparison { holder: self, shard, of: (source.clone(), *begun), compared: 0 }
    }

    /// The number of records that were copied to this node, or compared for a copy for the first time, since its start.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Marks the replica as whole, since everything is copied.
    ///
    /// # Errors
    /// Errors of the storage.
    pub async fn finish(&self, shard: u32, since: u64) -> Result<(), Error> {
        let cell = self.shard(shard);
        let mut state = cell.write().await;
        if state.work.as_ref().is_none_or(|work| work.since != since) {
            return Ok(());
        }
        self.change(shard, &mut state, |state| {
            state.is_whole = true;
            if let Some(work) = &mut state.work {
                work.is_done = true;
            }
        })
        .await
    }

    /// Says to all that ask for a whole replica of a shard that this one is none, as long as the result lives.
    pub(super) fn about_to_give_up(&self, shard: u32) -> impl Drop + '_ {
        struct Ends<'a>(&'a Mutex<BTreeSet<u32>>, u32);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                lock(self.0).remove(&self.1);
            }
        }
        lock(&self.giving_up).insert(shard);
        Ends(&self.giving_up, shard)
    }

    /// Sets the shards whose replicas it is to make again: no move gets the end of one from now on, and a failover takes
    /// from them only what the other replicas lack.
    pub fn set_to_remake(&self, shards: &BTreeSet<u32>) {
        lock(&self.to_remake).clone_from(shards);
    }

    fn is_to_remake(&self, shard: u32) -> bool {
        lock(&self.to_remake).contains(&shard)
    }

    /// Whether the replica of a shard is not the node's any more, as far as `newest` and the node know, or a move has got
    /// what it has.
    pub async fn has_left(&self, shard: u32, newest: &Entry) -> bool {
        let state = self.state(shard).await;
        let entry = state.newest(newest);
        !entry.names(&self.node) || self.is_sealed(&state, entry)
    }

    /// Gives up a replica that counts in the entry of this epoch: from then on it is lost, and the failover that the
    /// leader begins drops the records. Whether it was given up.
    ///
    /// # Errors
    /// Errors of the storage.
    pub(super) async fn give_up(&self, shard: u32, epoch: u64) -> Result<bool, Error> {
        let cell = self.shard(shard);
        let mut state = cell.write().await;
        let counts = |entry: &Entry| entry.epoch == epoch && self.refusal(&state, entry).is_none();
        if !state.entry.as_ref().is_some_and(counts) {
            return Ok(false);
        }
        let kept = self
            .change(shard, &mut state, |state| {
                state.is_whole = false;
                state.work = None;
            })
            .await;
        if let Err(error) = &kept
            && error.kind() != Kind::Closed
        {
            // The disk may have it nevertheless. Others rely on this replica only if the next start finds it whole.
            let before = state.encode().into();
            if self.storage.keep(&Self::name_of(shard), before).await.is_err() {
                state.is_whole = false;
            }
        }
        kept.map(|()| true)
    }

    /// Drops what the node has of a shard that no entry gives it, if `newest` still does not name it.
    ///
    /// # Errors
    /// Errors of the storage.
    pub async fn drop_unnamed(&self, shard: u32, newest: &Entry) -> Result<bool, Error> {
        let cell = self.shard(shard);
        let mut state = cell.write().await;
        let is_named = |entry: &Entry| entry.names(&self.node);
        let checks = self.rules.has(Rule::CheckBeforeDrop);
        if checks && (is_named(newest) || state.entry.as_ref().is_some_and(is_named)) {
            return Ok(false);
        }
        self.change(shard, &mut state, |state| {
            state.is_whole = false;
            state.doubt = None;
            state.work = None;
            state.floor = Version::default();
            state.horizon = Version::default();
        })
        .await?;
        self.storage.drop_shard(shard).await?;
        Ok(true)
    }
}
