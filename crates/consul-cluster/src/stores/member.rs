//! The work of a node for a store whose records it keeps: it learns the map, copies, repairs and drops
//! replicas, and reports.

use super::disk::DiskMark;
use super::document::{FORMAT, MemberRecord, Opening, Remaking, StoreMap};
use super::reinit::Order;
use super::{Store, Survives, Watched, is_live, member_key};
use crate::event::Event;
use crate::keys;
use crate::pauses::PAUSE;
use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_process::clock::Instant;
use consul_process::os;
use consul_process::sync::lock;
use consul_replication::holder::Holder;
use consul_replication::map::{ChangeKind, Disk, Entry, Place};
use consul_replication::record::{HybridTime, Version};
use consul_replication::rules::Rules;
use consul_replication::state::{Doubt, Equal, Report};
use consul_replication::storage::Storage;
use consul_replication::transfer::{Compared, Transfer};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// The name under which a disk keeps its own id.
const DISK: &str = "disk";

/// The name under which a disk keeps the newest map.
const MAP: &str = "map";

/// How often a node looks for work that nothing has announced.
const INTERVAL: Duration = Duration::from_secs(1);

/// The shortest time between two reports.
const REPORT_PAUSE: Duration = Duration::from_millis(100);

/// The shortest time between two times that the map is kept.
const KEEP_PAUSE: Duration = Duration::from_secs(5);

/// The pause before a node that could not get what it has missed tries again.
const CATCH_UP_PAUSE: Duration = Duration::from_secs(5);

/// The most copies into a node at the same time.
const MAX_COPIES: usize = 2;

/// The records of a page of a copy.
const PAGE: usize = 1000;

/// Deleted records are purged when they are older, so that few writes on their way are refused.
pub(super) const PURGE_AGE: Duration = Duration::from_secs(60);

impl Store {
    /// Why a disk may lack something that another process has opened before; `lost`: and since.
    async fn doubt(&self, mark: &DiskMark, lost: Option<&DiskMark>) -> Doubt {
        if let Err(error) = self.learn_stored().await {
            let store = &self.options.name;
            tracing::info!(store, %error, "how old the disk is cannot be compared with the map in Consul");
        }
        let map = self.map.borrow().clone();
        let is_last = map.is_none_or(|map| mark.is_last(&map));
        match lost.is_none() && is_last {
            true => Doubt::Restarted,
            false => Doubt::Old,
        }
    }

    /// Whether [`Store::close`] has something to do.
    pub fn has_to_close(&self) -> bool {
        let member = lock(&self.member).clone();
        member.is_some_and(|member| lock(&member.mark).boot.is_some())
    }

    /// Ends the work of this node's storage for good, after [`Store::run`] has ended: what it can flush survives the
    /// machine.
    ///
    /// # Errors
    /// Errors of the storage.
    pub async fn close(&self) -> Result<(), Error> {
        let member = lock(&self.member).clone();
        match member {
            Some(member) => member.close().await,
            None => Ok(()),
        }
    }
}

/// How a process has a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// The leader has not seen this opening yet.
    Open,
    /// This opening is the last one.
    Ours,
    /// Another opening is the last one: this disk is an old copy, or another process has it.
    Lost,
}

fn taken() -> Error {
    let why = "another process has opened the storage";
    Error::new(Kind::Conflict, why).with_maybe_applied(false)
}

/// Refuses a storage that has the records of another store, or of another node.
fn check_owner(mark: &DiskMark, store: &str, node: &str) -> Result<(), Error> {
    if mark.store == store && mark.node == node {
        return Ok(());
    }
    let why = format!(
        "the storage has the records of store {:?} of node {:?}: each store of each node needs one of its own",
        mark.store, mark.node
    );
    Err(Error::new(Kind::Conflict, why).with_maybe_applied(false))
}

/// The sign by which a later opening knows whether the storage has survived; none if it survives the machine.
fn boot(
    survives: Survives,
    this_boot: Option<String>,
    random: impl FnOnce() -> u64,
) -> Option<String> {
    match (survives, this_boot) {
        (Survives::Machine, _) => None,
        (Survives::Process, Some(boot)) => Some(boot),
        // Nothing will tell whether the machine was started since.
        _ => Some(format!("process {:016x}", random())),
    }
}

/// Learns the map that the disk has kept. The openings in it.
async fn learn_kept_map(
    store: &Store,
    storage: &dyn Storage,
) -> Result<BTreeMap<Disk, Opening>, Error> {
    let Some(map) = storage.kept(MAP).await? else { return Ok(BTreeMap::new()) };
    let map = StoreMap::decode(&map)?;
    store.check_disk(map.id)?;
    let known = map.openings.clone();
    store.check_branch(&known).await?;
    store.adopt_kept(map)?;
    store.restore().await;
    Ok(known)
}

pub(super) struct Member {
    pub transfer: Transfer,
    /// The mark that the disk has kept. Its id is set by the first map.
    mark: Mutex<DiskMark>,
    /// The openings in the map that the disk had kept.
    known: BTreeMap<Disk, Opening>,
    /// Whether no other process can have a later copy of the disk.
    is_new: bool,
    is_confirmed: AtomicBool,
    /// The shards whose replicas the map gives to the node, and that are not there.
    lacking: Mutex<Option<BTreeSet<u32>>>,
    /// The shards whose replicas were equal in an entry while their numbers change.
    equal: Mutex<BTreeMap<u32, Equal>>,
    /// An operator's order to make replicas again that the disk had kept.
    pub kept_order: Option<Order>,
    /// How far it is with replicas that an operator has it make again.
    pub remaking: Mutex<Option<Remaking>>,
    /// Signals that there is something to report.
    news: Notify,
}

impl Member {
    /// Opens the storage of a store: finds out whether it is the disk that the node had before. `lost` is
    /// the mark of this process's last opening, if that was an old copy; `tried` are the openings since, which
    /// the storage may have kept although it failed.
    pub async fn open(
        store: &Store,
        storage: Arc<dyn Storage>,
        lost: Option<&DiskMark>,
        tried: &mut Vec<Opening>,
    ) -> Result<Arc<Self>, Error> {
        let (options, cluster) = (&store.options, &store.cluster);
        let this_boot = os::boot_id();
        let random = || cluster.client().random_u64();
        let boot = boot(options.survives, this_boot.clone(), random);
        let mark = storage.kept(DISK).await?.as_deref().map(DiskMark::decode).transpose()?;
        let (name, node) = (&options.name, &cluster.options().node_id);
        mark.as_ref().map_or(Ok(()), |mark| check_owner(mark, name, node))?;
        let opened = mark.as_ref().map(|mark| mark.opening);
        let is_ours = |own: &DiskMark| {
            opened.is_some_and(|opened| opened == own.opening || tried.contains(&opened))
        };
        if lost.is_some_and(|lost| !is_ours(lost)) {
            return Err(taken());
        }
        let id = mark.as_ref().and_then(|mark| mark.id);
        store.check_disk(id)?;
        store.check_not_forgotten(id).await?;
        // Reading what was kept of the shards may take long: the others learn before that what this disk knows.
        let known = learn_kept_map(store, &*storage).await?;
        let is_whole = |mark: &&DiskMark| {
            let is_same = mark.boot.is_none() || mark.boot == this_boot;
            is_same && options.survives != Survives::Nothing
        };
        let current = mark.as_ref().filter(|_| lost.is_none()).filter(is_whole);
        let next = match (&mark, current) {
            (_, Some(mark)) => mark.opened_again(random),
            (Some(mark), None) => mark.replaced(random),
            (None, None) => DiskMark::new(name, node, random),
        };
        let (next, disk) = (DiskMark { boot, ..next }, next.disk);
        let node = node.as_str().into();
        let clock = Arc::clone(&store.clock);
        let holder = Holder::new(node, disk, Arc::clone(&storage), clock, Rules::default())
            .with_steps(options.timeout / 4);
        if let Some(id) = id {
            holder.belongs_to(id);
        }
        let kept_order = Order::kept(&*storage, disk).await?;
        if let Some(order) = &kept_order {
            holder.set_to_remake(&order.left);
        }
        let doubt = match (&mark, current) {
            (Some(mark), None) => Some(store.doubt(mark, lost).await),
            _ => None,
        };
        for shard in (0..options.shards).filter(|_| mark.is_some()) {
            match doubt {
                None => holder.load(shard).await?,
                Some(doubt) => holder.load_doubted(shard, doubt).await?,
            }
        }
        if let (Some(doubt), Some(mark)) = (doubt, &mark) {
            let (disk, why) = (
                mark.disk,
                match doubt {
                    Doubt::Restarted => {
                        "the machine was restarted, which the storage does not survive"
                    }
                    _ => "the storage is an old copy",
                },
            );
            store.numbers.doubted.add_one();
            cluster.emit(Event::DiskInDoubt(format!("{name}: {why}")));
            tracing::warn!(
                store = name, %disk,
                "{why}: it may lack records, does not count before it has those of others, and keeps what it has"
            );
        }
        tried.push(next.opening);
        storage.keep(DISK, next.encode().into()).await?;
        let transfer =
            Transfer { holder: Arc::new(holder), peers: Arc::clone(&store.peers), page: PAGE };
        let (is_new, is_confirmed, news) =
            (current.is_none(), AtomicBool::default(), Notify::new());
        let (lacking, equal) = Default::default();
        let remaking = Mutex::new(kept_order.as_ref().map(|order| order.remaking("")));
        let mark = Mutex::new(next);
        Ok(Arc::new(Member {
            transfer,
            mark,
            known,
            is_new,
            is_confirmed,
            lacking,
            equal,
            kept_order,
            remaking,
            news,
        }))
    }

    /// Ends the work with the disk, after which the process serves no requests. Records that the storage can flush
    /// survive the machine from then on.
    ///
    /// # Errors
    /// Errors of the storage.
    async fn close(&self) -> Result<(), Error> {
        self.is_confirmed.store(false, Ordering::Release);
        let mark = lock(&self.mark).clone();
        if mark.boot.is_none() {
            return Ok(());
        }
        let holder = self.holder();
        holder.close().await;
        if !holder.storage().flush().await? {
            return Ok(());
        }
        let kept =
            holder.storage().kept(DISK).await?.as_deref().map(DiskMark::decode).transpose()?;
        if kept.is_some_and(|kept| kept.opening != mark.opening) {
            return Err(taken());
        }
        let mark = DiskMark { boot: None, ..mark };
        holder.storage().keep(DISK, mark.encode().into()).await
    }

    /// The openings in the map that the disk had kept.
    pub fn known(&self) -> &BTreeMap<Disk, Opening> {
        &self.known
    }

    /// Whether the replicas of the disk may be used.
    pub fn is_confirmed(&self) -> bool {
        self.is_confirmed.load(Ordering::Acquire)
    }

    /// Whether a replica is of the first map and on the disk that this process has opened as a new one: it has all that there
    /// is.
    pub fn is_first(&self, place: &Place) -> bool {
        self.is_new && place.is_first && place.disk == self.transfer.holder.disk()
    }

    /// The shards whose replicas the map gives to the node, and that are not there; `None`: that is not known
    /// yet.
    pub fn lacking(&self) -> Option<BTreeSet<u32>> {
        lock(&self.lacking).clone().filter(|_| self.is_confirmed())
    }

    /// Has a report written soon.
    pub fn tell_news(&self) {
        self.news.notify_one();
    }

    /// Looks at these replicas.
    async fn look_at_replicas(&self, store: &Store) {
        if !self.is_confirmed() {
            return;
        }
        let own = self.holder().node();
        let map = store.map.borrow().clone();
        let mut lacking = BTreeSet::new();
        for (shard, entry) in map.iter().flat_map(|map| map.entries()) {
            let is_made_again = entry.slots.iter().any(|slot| {
                let change = slot.change.as_ref().filter(|it| it.kind == ChangeKind::Failover);
                let was_here = slot.holder.as_ref().is_some_and(|place| place.node == *own);
                change.is_some_and(|change| was_here || change.to == *own)
            });
            let counts = entry.counting_at(own).is_some();
            let is_there = !counts || self.holder().counts(shard, entry).await;
            lacking.extend((is_made_again || !is_there).then_some(shard));
        }
        *lock(&self.lacking) = Some(lacking);
    }

    fn claim(&self, map: Option<&StoreMap>) -> Claim {
        let mark = lock(&self.mark);
        match map.and_then(|map| map.openings.get(&mark.disk)) {
            Some(last) if *last == mark.opening => Claim::Ours,
            Some(last) if !mark.opening.follows(&mark.before, *last) => Claim::Lost,
            _ => Claim::Open,
        }
    }

    /// Completes when the map says this about the disk.
    async fn claimed(&self, store: &Store, claim: Claim) {
        let mut maps = store.map.subscribe();
        // The sender lives as long as the store.
        _ = maps.wait_for(|map| self.claim(map.as_deref()) == claim).await;
    }

    /// Does the node's work, until another opening of the disk is known to be the last one; returns the mark
    /// of this one.
    pub async fn run(&self, store: &Store, storage: &Watched) -> DiskMark {
        let work = async {
            if !self.is_new {
                self.claimed(store, Claim::Ours).await;
            }
            self.take_id(store).await;
            self.is_confirmed.store(true, Ordering::Release);
            self.news.notify_one();
            tokio::select! {
                biased;
                never = self.learn(store) => match never {},
                never = self.copy(store) => match never {},
                never = self.repair(store) => match never {},
                never = self.equalize(store) => match never {},
                never = self.drop_unnamed(store) => match never {},
                never = self.make_again(store) => match never {},
                never = self.keep_map(store) => match never {},
            }
        };
        tokio::select! {
            biased;
            () = self.claimed(store, Claim::Lost) => {}
            never = self.report(store) => match never {},
            never = self.probe(store, storage) => match never {},
            never = work => match never {},
        }
        self.is_confirmed.store(false, Ordering::Release);
        lock(&self.mark).clone()
    }

    /// Completes when the disk has kept which store it belongs to, before which it takes no records.
    async fn take_id(&self, store: &Store) {
        let mut maps = store.map.subscribe();
        while lock(&self.mark).id.is_none() {
            // The sender lives as long as the store.
            let Ok(map) = maps.wait_for(Option::is_some).await.map(|map| map.clone()) else {
                return;
            };
            let Some(map) = map else { continue };
            match self.keep(&map).await {
                Ok(()) if map.id.is_none() => return,
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(store = store.options.name, %error, "the map was not kept");
                    store.sleep(PAUSE).await;
                }
            }
        }
    }

    /// Keeps a map on the disk, and then which store it is of.
    async fn keep(&self, map: &StoreMap) -> Result<(), Error> {
        let storage = self.holder().storage();
        storage.keep(MAP, map.encode().into()).await?;
        let before = lock(&self.mark).clone();
        let Some(id) = map.id.filter(|_| before.id.is_none()) else { return Ok(()) };
        let kept = storage.kept(DISK).await?.as_deref().map(DiskMark::decode).transpose()?;
        if kept.is_some_and(|kept| kept.opening != before.opening) {
            return Err(taken());
        }
        let mark = DiskMark { id: Some(id), ..before };
        storage.keep(DISK, mark.encode().into()).await?;
        *lock(&self.mark) = mark;
        self.holder().belongs_to(id);
        Ok(())
    }

    fn holder(&self) -> &Holder {
        &self.transfer.holder
    }

    /// Learns the entries that concern this node.
    async fn learn(&self, store: &Store) -> Infallible {
        let mut changes = store.map.subscribe();
        let mut learned: Option<Arc<StoreMap>> = None;
        loop {
            let map = changes.borrow_and_update().clone();
            let mut has_failed = false;
            let known = self.holder().shards();
            for (shard, entry) in map.iter().flat_map(|map| map.entries()) {
                let before = learned.as_ref().and_then(|map| map.map.shards.get(shard as usize));
                let concerns = entry.names(self.holder().node()) || known.contains(&shard);
                if before == Some(entry) || !concerns {
                    continue;
                }
                if let Err(error) = self.holder().learn(shard, entry).await {
                    tracing::warn!(store = store.options.name, shard, %error, "an entry was not kept");
                    has_failed = true;
                }
            }
            self.news.notify_one();
            if has_failed {
                store.sleep(PAUSE).await;
                continue;
            }
            learned = map;
            _ = changes.changed().await;
        }
    }

    /// Writes the node's record whenever it changes, and again when Consul has lost it.
    async fn report(&self, store: &Store) -> Infallible {
        let cluster = &store.cluster;
        let client = cluster.client();
        let key = member_key(cluster.options(), &store.options.name, &cluster.options().node_id);
        let mut leaders = cluster.changes();
        let mut maps = store.map.subscribe();
        let mut written: Option<(MemberRecord, Instant)> = None;
        loop {
            leaders.mark_unchanged();
            maps.mark_unchanged();
            self.look_at_replicas(store).await;
            let record = self.record(store, written.as_ref()).await;
            let now = client.clock().now();
            let is_same = written.as_ref().is_some_and(|(last, _)| *last == record);
            let outcome = match &written {
                Some((_, at)) if is_same && now < *at + cluster.options().heartbeat_interval => {
                    None
                }
                _ => Some(self.write(store, &key, &record, is_same).await),
            };
            match outcome {
                Some(Ok(())) => {
                    let is_first = written.replace((record, now)).is_none();
                    if is_first {
                        store.end_announcement().await;
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(store = store.options.name, %error, "the report was not written");
                }
                None => {}
            }
            store.sleep(REPORT_PAUSE).await;
            tokio::select! {
                biased;
                () = self.news.notified() => {}
                _ = leaders.changed() => {}
                _ = maps.changed() => {}
                () = store.sleep(INTERVAL) => {}
            }
        }
    }

    /// Writes the record; a record that was written before only if Consul does not have it.
    async fn write(
        &self,
        store: &Store,
        key: &str,
        record: &MemberRecord,
        was_written: bool,
    ) -> Result<(), Error> {
        let client = store.cluster.client();
        let bytes = record.encode();
        if was_written {
            let stored = keys::read(client, key).await?;
            if stored.is_some_and(|(stored, _)| stored == bytes) {
                return Ok(());
            }
        }
        let args = Args::new().arg(key).arg(bytes);
        client.call(&kv::PUT, &args).await.map(|_| ())
    }

    /// The record to report. The count of copied records alone is reported only after a page, and so
    /// often that a slow copy does not look like a copy without progress.
    async fn record(&self, store: &Store, last: Option<&(MemberRecord, Instant)>) -> MemberRecord {
        let cluster = &store.cluster;
        let holder = self.holder();
        let copied = holder.taken();
        let leader = cluster.snapshot().leader.as_ref().map(|it| it.session_id.clone());
        let map = store.map.borrow().clone();
        let seen = map.as_ref().map_or(0, |map| map.map.version);
        let epoch = |shard: u32| {
            let entry = map.as_ref().and_then(|map| map.map.shards.get(shard as usize));
            entry.map_or(u64::MAX, |entry| entry.epoch)
        };
        let mut report = holder.report(epoch).await;
        report.equal = lock(&self.equal).values().cloned().collect();
        report.equal.retain(|it| it.epoch == epoch(it.shard));
        let mark = lock(&self.mark).clone();
        let is_current = |(disk, opening): &(&Disk, &Opening)| {
            map.as_ref().is_some_and(|map| map.openings.get(disk) == Some(opening))
        };
        let known = self.known.iter().filter(|it| *it.0 != mark.disk && !is_current(it));
        let known = known.map(|(disk, opening)| (*disk, *opening)).collect();
        let record = MemberRecord {
            format: FORMAT,
            id: mark.id,
            shared: store.options.shared(),
            incarnation: cluster.incarnation.clone(),
            leader: leader.unwrap_or_default(),
            seen,
            disk: mark.disk,
            opening: mark.opening,
            before: mark.before,
            earlier_disks: mark.earlier_disks,
            known,
            zone: cluster.options().zone.clone(),
            weight: cluster.options().weight,
            move_timeout_s: store.options.move_timeout.as_secs(),
            copied,
            is_failing: store.fault().is_some(),
            remaking: lock(&self.remaking).clone(),
            report: match self.is_confirmed() {
                true => report,
                false => {
                    Report { newer: report.newer, doubted: report.doubted, ..Report::default() }
                }
            },
        };
        match last {
            Some((last, at))
                if copied < last.copied + PAGE as u64
                    && store.cluster.now() < *at + store.options.move_timeout / 4 =>
            {
                MemberRecord { copied: last.copied, ..record }
            }
            _ => record,
        }
    }

    /// Copies the replicas whose target this node is.
    async fn copy(&self, store: &Store) -> Infallible {
        let own = self.holder().node().clone();
        let mut maps = store.map.subscribe();
        let mut running = FuturesUnordered::new();
        let mut shards: BTreeMap<u32, Instant> = BTreeMap::new();
        loop {
            let map = maps.borrow_and_update().clone();
            let now = store.cluster.now();
            let targets = map.iter().flat_map(|map| map.entries());
            let targets = targets.filter(|(_, entry)| entry.change_to(&own).is_some());
            let mut waits = false;
            for (shard, _) in targets {
                if running.len() >= MAX_COPIES {
                    break;
                }
                waits = true;
                if shards.get(&shard).is_some_and(|until| *until > now) {
                    continue;
                }
                let work = self.holder().state(shard).await.work;
                if work.is_some_and(|work| !work.is_done) {
                    // Not again while it runs.
                    shards.insert(shard, Instant::from_origin(Duration::MAX));
                    running.push(async move { (shard, self.transfer.pursue(shard).await) });
                }
            }
            tokio::select! {
                biased;
                Some((shard, outcome)) = running.next() => {
                    let pause = match outcome {
                        Ok(has_copied) => {
                            store.numbers.copies.add(has_copied.into());
                            Duration::ZERO
                        }
                        Err(error) => {
                            tracing::debug!(store = store.options.name, shard, %error, "a copy waits");
                            PAUSE
                        }
                    };
                    shards.insert(shard, store.cluster.now() + pause);
                    self.news.notify_one();
                }
                _ = maps.changed() => {}
                () = store.sleep(PAUSE / 5), if waits => {}
            }
        }
    }

    /// Compares the replicas of the shards whose first holder this node is, and of others if nobody else has compared
    /// them with its own meanwhile: the first one may be away. After its start it compares the replicas of all its
    /// shards, since it may have missed writes.
    async fn repair(&self, store: &Store) -> Infallible {
        let own = self.holder().node().clone();
        let mut due: BTreeMap<u32, Instant> = BTreeMap::new();
        let start = store.cluster.now();
        let mut catches_up: Vec<Option<Instant>> = vec![Some(start); store.options.shards as usize];
        loop {
            store.sleep(INTERVAL / 4).await;
            let every = store.options.repair_every;
            let map = store.map.borrow().clone();
            for (shard, entry) in map.iter().flat_map(|map| map.entries()) {
                if entry.counting_at(&own).is_none() {
                    continue;
                }
                let now = store.cluster.now();
                let at = due.entry(shard).or_insert_with(|| {
                    let fraction = store.cluster.client().random_fraction();
                    now + every.mul_f64(0.5 + fraction / 2.0)
                });
                let catches_up = &mut catches_up[shard as usize];
                let outcome = if catches_up.is_some_and(|at| now >= at) {
                    let outcome = self.catch_up(shard, entry).await;
                    *catches_up = outcome.is_err().then(|| now + CATCH_UP_PAUSE);
                    outcome
                } else if now >= *at {
                    *at = now + every;
                    let is_first = entry.counting().next().is_some_and(|(_, it)| it.node == own);
                    if self.holder().take_compared(shard) && !is_first {
                        continue;
                    }
                    let age_ms = PURGE_AGE.as_millis() as u64;
                    let below = store.cluster.unix_ms().saturating_sub(age_ms);
                    let below = Version::first_of(HybridTime::from_ms(below));
                    self.transfer.repair(shard, below).await.map(|(compared, _)| compared)
                } else {
                    continue;
                };
                match outcome {
                    Ok(compared) => {
                        store.numbers.repairs.add(compared.comparisons as u64);
                        let repaired = compared.fetched + compared.sent + compared.deleted;
                        store.numbers.repaired_records.add(repaired as u64);
                    }
                    Err(error) => {
                        tracing::debug!(store = store.options.name, shard, %error, "a repair waits");
                    }
                }
            }
        }
    }

    /// Makes the replicas of the shards equal whose numbers change, as each step of that needs: of shards whose first
    /// present holder this node is.
    async fn equalize(&self, store: &Store) -> Infallible {
        let own = self.holder().node().clone();
        let mut tried: BTreeMap<u32, Instant> = BTreeMap::new();
        loop {
            store.sleep(INTERVAL / 4).await;
            let (map, snapshot) = (store.map.borrow().clone(), store.cluster.snapshot());
            let changing = map.iter().flat_map(|map| map.entries());
            for (shard, entry) in changing.filter(|(_, entry)| entry.waits_for_equal_replicas()) {
                let mut live = entry.counting().filter(|(_, it)| is_live(&snapshot, &it.node));
                let is_first = live.next().is_some_and(|(_, place)| place.node == own);
                let now = store.cluster.now();
                let is_early = tried.get(&shard).is_some_and(|at| now < *at + CATCH_UP_PAUSE);
                let known = lock(&self.equal).get(&shard).cloned();
                let is_done =
                    known.is_some_and(|it| it.epoch == entry.epoch && it.without.is_empty());
                if !is_first || is_done || is_early {
                    continue;
                }
                match self.transfer.equalize(shard, entry).await {
                    Ok((compared, without)) => {
                        store.numbers.repairs.add(compared.comparisons as u64);
                        if !without.is_empty() {
                            tried.insert(shard, store.cluster.now());
                        }
                        let equal = Equal { shard, epoch: entry.epoch, without };
                        lock(&self.equal).insert(shard, equal);
                        self.news.notify_one();
                    }
                    Err(error) => {
                        tried.insert(shard, store.cluster.now());
                        tracing::debug!(store = store.options.name, shard, %error, "a comparison waits");
                    }
                }
            }
        }
    }

    /// Gets from another replica what this one has missed.
    async fn catch_up(&self, shard: u32, entry: &Entry) -> Result<Compared, Error> {
        let own = self.holder().node();
        let mut outcome = Ok(Compared::default());
        for (_, other) in entry.counting().filter(|(_, place)| place.node != *own) {
            outcome = self.transfer.reconcile(shard, entry, &other.node).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Drops what the map does not give to the node any more.
    async fn drop_unnamed(&self, store: &Store) -> Infallible {
        let own = self.holder().node().clone();
        let mut since: BTreeMap<u32, Instant> = BTreeMap::new();
        loop {
            store.sleep(INTERVAL).await;
            let known = self.holder().shards();
            let map = store.map.borrow().clone();
            for (shard, entry) in map.iter().flat_map(|map| map.entries()) {
                if entry.names(&own) || !known.contains(&shard) {
                    since.remove(&shard);
                    continue;
                }
                let now = store.cluster.now();
                if now < *since.entry(shard).or_insert(now) + store.options.drop_after {
                    continue;
                }
                match self.transfer.drop_unnamed(shard, entry).await {
                    Ok(true) => _ = since.insert(shard, Instant::from_origin(Duration::MAX)),
                    Ok(false) => _ = since.remove(&shard),
                    Err(error) => {
                        tracing::debug!(store = store.options.name, shard, %error, "a drop waits");
                        since.insert(shard, now);
                    }
                }
            }
        }
    }

    /// Keeps the newest map on the disk, for a Consul that loses it.
    async fn keep_map(&self, store: &Store) -> Infallible {
        let mut changes = store.map.subscribe();
        loop {
            let map = changes.borrow_and_update().clone();
            if let Some(map) = map {
                if let Err(error) = self.keep(&map).await {
                    tracing::warn!(store = store.options.name, %error, "the map was not kept");
                }
                store.sleep(KEEP_PAUSE).await;
            }
            _ = changes.changed().await;
        }
    }
}
