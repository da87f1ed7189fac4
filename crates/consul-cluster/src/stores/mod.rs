//! Replicated stores: the records of a program on the nodes of a cluster (see
//! [`consul_replication`] for the protocol).
//!
//! A store has a map in Consul, which only the leader changes ([`leader`]). Each node that keeps records
//! of the store writes a record of its own, from which the leader learns which copies are done.

mod branch;
mod disk;
mod document;
mod eligible_nodes;
mod faults;
mod first_map;
pub mod forget;
mod identity;
pub mod leader;
pub mod leave;
mod lists;
mod member;
mod next_map;
mod numbers;
mod options;
pub mod outside;
mod overview;
pub mod reinit;
pub mod remote;
mod reports;

use super::shard_map::shard_of;
use super::{Event, Options, Snapshot, keys};
use crate::cluster::Cluster;
use crate::pauses::{PAUSE, WAIT};
use bytes::Bytes;
use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_process::clock::Instant;
use consul_process::metrics::{self, Registered, StoreNumbers};
use consul_process::sync::lock;
use consul_replication::clock::VersionClock;
use consul_replication::holder::Holder;
use consul_replication::map::{ChangeKind, Entry, NodeId, Place, StoreId};
use consul_replication::peers::{Entries, Peers, Runtime};
use consul_replication::quorum::{Page, Router};
use consul_replication::record::{Range, Version};
use consul_replication::rules::Rules;
use consul_replication::storage::Storage;
use document::StoreMap;
use faults::WatchedStorage;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use member::Member;
use options::Shared;
use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::watch;

pub use consul_replication::map::Quorums;
pub use faults::StoreFault;
pub use options::{MAX_SHARDS, StoreOptions, Survives};
pub(super) use overview::StoreMaps;
pub use overview::{
    CopyReport, NumbersChanging, ShardAtRisk, ShardMoving, ShardRepairing, StoreOverview,
    UnreadStores,
};

/// The shards that one call writes at the same time.
const CONCURRENT_WRITES: usize = 32;

/// The kinds of errors after which a storage is not opened again.
const LASTING: [Kind; 3] = [Kind::Conflict, Kind::Decode, Kind::Unsupported];

/// The key of a store's map.
fn map_key(cluster: &Options, store: &str) -> String {
    format!("{}maps/{store}", cluster.shards_prefix)
}

/// The map of a store as Consul has it, and the modify index of its key; 0: it does not exist.
async fn read_map(cluster: &Cluster, store: &str) -> Result<(Option<StoreMap>, u64), Error> {
    let key = map_key(cluster.options(), store);
    let Some((bytes, index)) = keys::read(cluster.client(), &key).await? else {
        return Ok((None, 0));
    };
    let map = StoreMap::decode(&bytes).map_err(|error| error.context(&key))?;
    Ok((Some(map), index))
}

/// The prefix of the nodes' reports about stores, and of the losses that operators have accepted.
fn members_prefix(cluster: &Options) -> String {
    format!("{}members/", cluster.shards_prefix)
}

/// The key of a node's report about a store.
fn member_key(cluster: &Options, store: &str, node: &str) -> String {
    format!("{}{store}/nodes/{node}", members_prefix(cluster))
}

/// The key by which this node announces that it opens its storage.
fn announcement_key(cluster: &Options, store: &str) -> String {
    format!("{}{store}/opening/{}", members_prefix(cluster), cluster.node_id)
}

/// The key of what the first map of a store waits for.
fn waiting_key(cluster: &Options, store: &str) -> String {
    format!("{}waiting/{store}", cluster.shards_prefix)
}

/// The key by which an operator accepts the loss of what cannot be reached of a shard.
fn accepted_key(cluster: &Options, store: &str, shard: u32) -> String {
    format!("{}{store}/accepted/{shard}", members_prefix(cluster))
}

/// The key by which an operator says which numbers a store is to have.
fn wanted_key(cluster: &Options, store: &str) -> String {
    format!("{}{store}/wanted/numbers", members_prefix(cluster))
}

fn is_live(snapshot: &Snapshot, node: &str) -> bool {
    snapshot.nodes.get(node).is_some_and(|it| it.is_live)
}

/// The storage of a node with records.
type Watched = Arc<WatchedStorage>;

/// A replicated store in one process: reads and writes, and the node's replicas if it keeps any.
pub struct Store {
    this: Weak<Store>,
    /// When this process has seen its first map.
    mapped_since: Mutex<Option<Instant>>,
    cluster: Arc<Cluster>,
    numbers: &'static StoreNumbers,
    options: StoreOptions,
    peers: Arc<dyn Peers>,
    storage: Option<Watched>,
    clock: Arc<VersionClock>,
    router: Router,
    /// The newest map that this process knows. [`Store::adopt`] sets it, together with the router's entries.
    map: watch::Sender<Option<Arc<StoreMap>>>,
    /// How many stores of this name the process has seen maps of; locked while the map and the entries are set.
    stores_seen: Mutex<u64>,
    /// Its work as a node with records; `None` before the storage is open, and without one.
    member: Mutex<Option<Arc<Member>>>,
    /// Which store of this name it is: the id that this process has seen first, with a storage.
    id: Mutex<Option<StoreId>>,
    /// The reason why the first map waits.
    waits_for: Mutex<Option<String>>,
    /// Whether Consul has answered that there is no map.
    is_without_map: AtomicBool,
    /// Whether the current map is that of the disk, and Consul has not shown one yet.
    is_map_of_disk: AtomicBool,
    /// Whether the map in Consul could not be read the last time.
    is_map_unread: AtomicBool,
    /// Why it cannot be used.
    failure: Mutex<Option<Error>>,
    /// Has its numbers shown from its run on, as long as it exists.
    shown: Mutex<Option<Registered>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("name", &self.options.name).finish_non_exhaustive()
    }
}

/// The id of a record, and its bytes; without bytes it is deleted.
pub type Write = (Bytes, Option<Bytes>);

/// The outcome of [`Store::adopt`] for a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adopted {
    /// It is the current one.
    Current,
    /// A newer one of the same store is known.
    Older,
    /// It is the map of another store, and may be that of an earlier one: it has to be read again.
    Unverified,
}

/// A shard as this process knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// Its number.
    pub shard: u32,
    /// The epoch of its entry.
    pub epoch: u64,
    /// How many replicas it is to have now.
    pub replicas: usize,
    /// Whether it has not N, W and R of the store yet, which an operator has changed.
    pub is_changing: bool,
    /// The nodes whose replicas count.
    pub holders: Vec<NodeId>,
    /// The nodes that get a replica, each with whether it replaces a lost one.
    pub targets: Vec<(NodeId, ChangeKind)>,
    /// Whether so few nodes with replicas that count are live that no failover can copy all acknowledged
    /// writes before one comes back.
    pub is_at_risk: bool,
    /// Whether it is not known who has it, since Consul went back: nothing of it changes before enough of its
    /// nodes have reported what they know, or an operator accepts the loss of those that cannot.
    pub is_unrecovered: bool,
    /// How long ago a repair that found all N replicas equal began; `None`: there was none yet that this process's
    /// replica knows of, or it has none.
    pub repaired: Option<Duration>,
}

impl Store {
    /// A store; [`Store::run`] does its work in the background. Without a storage this process keeps no
    /// records: it only reads and writes.
    ///
    /// # Errors
    /// [`Kind::Config`] if the options contradict each other, or the process is an observer with a storage.
    pub fn new(
        cluster: Arc<Cluster>,
        peers: Arc<dyn Peers>,
        runtime: Arc<dyn Runtime>,
        storage: Option<Arc<dyn Storage>>,
        options: StoreOptions,
    ) -> Result<Arc<Self>, Error> {
        options.check()?;
        if storage.is_some() && cluster.options().observer {
            let why = "an observer keeps no records: leave the storage out";
            return Err(Error::new(Kind::Config, why).not_sent());
        }
        let time = Arc::clone(cluster.client().clock());
        let wall_clock = cluster.options().wall_clock.clone();
        let unix_ms = move || wall_clock.unix_ms(time.now());
        let writer = cluster.client().random_u64();
        let clock = Arc::new(VersionClock::new(unix_ms, options.max_skew, writer));
        let router = Router {
            entries: Arc::new(Entries::default()),
            peers: Arc::clone(&peers),
            runtime,
            clock: Arc::clone(&clock),
            times: Arc::default(),
            rules: Rules::default(),
        };
        let numbers = metrics::numbers().store(&cluster.options().nodes_prefix, &options.name);
        let storage = storage.map(|storage| {
            let clock = Arc::clone(cluster.client().clock());
            WatchedStorage::new(storage, numbers, clock)
        });
        Ok(Arc::new_cyclic(|this| {
            leave::note(&cluster, this.clone());
            Store {
                this: this.clone(),
                mapped_since: Mutex::default(),
                cluster,
                numbers,
                options,
                peers,
                storage,
                clock,
                router,
                map: watch::Sender::default(),
                stores_seen: Mutex::default(),
                member: Mutex::default(),
                id: Mutex::default(),
                waits_for: Mutex::default(),
                is_without_map: AtomicBool::default(),
                is_map_of_disk: AtomicBool::default(),
                is_map_unread: AtomicBool::default(),
                failure: Mutex::default(),
                shown: Mutex::default(),
            }
        }))
    }

    /// The options given to [`Store::new`].
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// This node's replicas; `None` before the storage is open and the leader has confirmed that it is not
    /// an old copy, and without one.
    pub fn holder(&self) -> Option<Arc<Holder>> {
        let member = lock(&self.member).clone().filter(|member| member.is_confirmed())?;
        Some(Arc::clone(&member.transfer.holder))
    }

    /// Runs the store until a permanent error, which is returned; all calls fail with it from then on.
    pub async fn run(&self) -> Error {
        // Also after a permanent error: it is not usable then.
        *lock(&self.shown) = Some(metrics::register(self.this.clone() as _));
        let why = self.participate().await.context(&format!("store {:?}", self.options.name));
        tracing::error!(%why, "a store cannot be used");
        // It answers no requests of others either.
        *lock(&self.member) = None;
        if why.kind() == Kind::Conflict {
            self.end_reports_if_forgotten().await;
        }
        *lock(&self.failure) = Some(why.clone());
        // Wakes those that wait for a map.
        self.map.send_modify(|_| ());
        why
    }

    async fn participate(&self) -> Error {
        let key = map_key(self.cluster.options(), &self.options.name);
        let (failed, mut failure) = watch::channel(None);
        let failed = &failed;
        let map = self.cluster.observe(&kv::GET, &key, WAIT, |state| async move {
            let found = match state.map(|state| state.answer.value) {
                Ok(Value::Bytes(bytes)) => match self.noted(StoreMap::decode(&bytes)) {
                    Err(error) if error.kind() == Kind::Decode => {
                        let store = &self.options.name;
                        return tracing::warn!(store, %error, "the map in Consul is ignored");
                    }
                    decoded => decoded.map(Some),
                },
                Ok(_) => Ok(None),
                // The server does not take the name of the store in a key.
                Err(error) if error.kind() == Kind::Argument && self.map.borrow().is_none() => {
                    Err(error)
                }
                // An outage: what is known stays.
                Err(_) => return,
            };
            let applied = match found {
                Ok(found) => self.apply(found).await,
                Err(why) => Err(why),
            };
            if let Err(why) = applied {
                failed.send_replace(Some(why));
            }
        });
        let work = async {
            match &self.storage {
                Some(storage) => self.keep_records(storage).await,
                None => pending().await,
            }
        };
        let why = async {
            let why = failure.wait_for(Option::is_some).await;
            why.ok().and_then(|why| why.clone()).unwrap_or_else(|| Error::misuse("no reason"))
        };
        tokio::select! {
            biased;
            why = why => why,
            why = map => why,
            why = work => why,
            why = self.verify_map() => why,
            why = self.watch_branch() => why,
            () = async { self.learn_why_it_waits().await; pending().await } => Error::misuse("no reason"),
        }
    }

    /// Does the work of a node with records, until a permanent error.
    async fn keep_records(&self, storage: &Watched) -> Error {
        // Another process may have the node's name, and its disk.
        let id = &self.cluster.options().node_id;
        let has_joined = |snapshot: &Arc<Snapshot>| {
            snapshot.nodes.get(id).is_some_and(|node| self.cluster.is_me(&node.record))
        };
        // The sender lives as long as the cluster.
        _ = self.cluster.changes().wait_for(has_joined).await;
        let (mut lost, mut tried) = (None, Vec::new());
        loop {
            let opened = tokio::select! {
                biased;
                never = self.announce() => match never {},
                opened = Member::open(self, Arc::clone(storage) as _, lost.as_ref(), &mut tried) => opened,
            };
            match opened {
                Ok(member) => {
                    tried.clear();
                    *lock(&self.member) = Some(Arc::clone(&member));
                    lost = Some(member.run(self, storage).await);
                }
                Err(why) if LASTING.contains(&why.kind()) => return why,
                Err(error) => {
                    let store = &self.options.name;
                    tracing::warn!(store, %error, "the storage was not opened; it is tried again");
                    self.sleep(PAUSE).await;
                }
            }
        }
    }

    /// Applies what the map's key has.
    async fn apply(&self, mut found: Option<StoreMap>) -> Result<(), Error> {
        self.is_without_map.store(found.is_none(), Ordering::Release);
        loop {
            let adopted = match found {
                Some(found) => self.adopt(found, None)?,
                None => Adopted::Older,
            };
            if adopted == Adopted::Current {
                self.is_map_of_disk.store(false, Ordering::Release);
            }
            if adopted == Adopted::Unverified {
                self.router.entries.suspect();
            }
            // Nodes with records put it back.
            let current = self.map.borrow().clone().filter(|_| self.storage.is_some());
            let Some(current) = current.filter(|_| adopted == Adopted::Older) else {
                return Ok(());
            };
            match self.check_not_forgotten(current.id).await {
                Err(why) if why.kind() == Kind::Conflict => return Err(why),
                Err(error) => tracing::debug!(%error, "it is not known which stores are forgotten"),
                Ok(()) => {}
            }
            found = match self.put_back(&current).await {
                Ok(now) => Some(now),
                Err(why) if why.kind() == Kind::Conflict && self.has_map_of_disk() => {
                    return Err(why);
                }
                Err(error) => {
                    let store = &self.options.name;
                    tracing::info!(store, %error, "the map was not put back; it is tried again");
                    self.sleep(PAUSE).await;
                    None
                }
            };
        }
    }

    /// Makes a map, with its entries, the current one unless it is. `stores_seen` is the number of stores seen before
    /// the map was read, by a linearizable read; `None`: it was read in another way. A map of another store than the
    /// current one's is only believed if it was read after that one was adopted: a late answer is that of an earlier
    /// store.
    fn adopt(&self, map: StoreMap, stores_seen: Option<u64>) -> Result<Adopted, Error> {
        let mut all_seen = lock(&self.stores_seen);
        let current = self.map.borrow().clone();
        let is_other = current.as_ref().is_some_and(|it| StoreId::differ(it.id, map.id));
        if is_other && stores_seen != Some(*all_seen) {
            return Ok(Adopted::Unverified);
        }
        self.check_map(map.id)?;
        if current.as_ref().is_some_and(|it| !is_other && map.map.version < it.map.version) {
            return Ok(Adopted::Older);
        }
        let (ours, theirs) = (self.options.shared(), map.shared);
        if ours.shards != theirs.shards {
            let why = format!(
                "the store has shards = {}; this process has {}: set the same, or another name for another store",
                theirs.shards, ours.shards
            );
            return Err(Error::new(Kind::Conflict, why).with_maybe_applied(false));
        }
        self.note_numbers(current.as_deref().filter(|_| !is_other), &map);
        if is_other || current.is_none() {
            *all_seen += 1;
            lock(&self.mapped_since).get_or_insert(self.cluster.now());
        }
        self.router.entries.adopt(map.id, map.entries());
        if current.as_deref() != Some(&map) {
            self.map.send_replace(Some(Arc::new(map)));
        }
        Ok(Adopted::Current)
    }

    /// Tells the program when N, W or R of the store begin to change and when they have changed, and logs if its own options
    /// are not those that count.
    fn note_numbers(&self, before: Option<&StoreMap>, map: &StoreMap) {
        let (store, options) = (self.options.name.as_str(), self.options.shared());
        let is_new = before.is_none_or(|before| before.shared != map.shared);
        if is_new && map.shared != options {
            let counts = map.shared;
            tracing::info!(
                store,
                %counts,
                %options,
                "the numbers of the store's map count, not those of this process's options"
            );
        }
        let Some(before) = before else { return };
        let is_changing = map.changing() > 0;
        if is_changing && before.shared != map.shared {
            self.cluster.emit(Event::StoreChanges(format!("{store}: {}", map.shared)));
        } else if !is_changing && before.changing() > 0 {
            self.cluster.emit(Event::StoreChanged(format!("{store}: {}", map.shared)));
        }
    }

    /// Learns the map that Consul has, if it has one.
    ///
    /// # Errors
    /// The reason why the store cannot be used; otherwise errors of the call.
    pub async fn refresh(&self) -> Result<(), Error> {
        self.checked()?;
        let store = format!("store {:?}", self.options.name);
        self.learn_stored().await.map_err(|error| error.context(&store))
    }

    async fn learn_stored(&self) -> Result<(), Error> {
        loop {
            let stores_seen = *lock(&self.stores_seen);
            let read = read_map(&self.cluster, &self.options.name).await;
            let Some(stored) = self.noted(read)?.0 else { return Ok(()) };
            if self.adopt(stored, Some(stores_seen))? != Adopted::Unverified {
                return Ok(());
            }
        }
    }

    /// Notes whether the map in Consul could be read.
    fn noted<T>(&self, read: Result<T, Error>) -> Result<T, Error> {
        match &read {
            Ok(_) => self.is_map_unread.store(false, Ordering::Release),
            Err(why) if [Kind::Decode, Kind::Unsupported].contains(&why.kind()) => {
                self.is_map_unread.store(true, Ordering::Release);
            }
            Err(_) => {}
        }
        read
    }

    /// Writes this process's map again, which Consul has lost; returns what is stored then.
    async fn put_back(&self, current: &StoreMap) -> Result<StoreMap, Error> {
        if self.has_map_of_disk() {
            // Nodes that have lived on here come first with theirs.
            self.sleep(branch::LIVING_FIRST).await;
            self.check_branch(&current.openings).await?;
        }
        let client = self.cluster.client();
        // Not all nodes at once.
        self.sleep(PAUSE.mul_f64(client.random_fraction())).await;
        let (store, version) = (&self.options.name, current.map.version);
        let (stored, index) = read_map(&self.cluster, store).await?;
        if let Some(stored) =
            stored.filter(|stored| stored.map.version >= version || self.is_foreign(stored.id))
        {
            return Ok(stored);
        }
        tracing::warn!(store, version, "Consul has lost the map of a store; it is put back");
        let put_back = current.put_back();
        let key = map_key(self.cluster.options(), store);
        keys::write(client, &key, put_back.encode(), index).await?;
        Ok(put_back)
    }

    /// Whether Consul has no map of the store.
    fn has_no_map(&self) -> bool {
        self.is_without_map.load(Ordering::Acquire)
    }

    async fn sleep(&self, duration: Duration) {
        self.cluster.client().clock().sleep(duration).await;
    }

    /// Whether the store can be used.
    ///
    /// # Errors
    /// The reason why it cannot.
    pub fn checked(&self) -> Result<(), Error> {
        lock(&self.failure).clone().map_or(Ok(()), Err)
    }

    /// Reads and writes by the number of a shard.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Completes when this process knows where the shards are.
    ///
    /// # Errors
    /// The reason why the store cannot be used.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut changes = self.map.subscribe();
        loop {
            self.checked()?;
            if changes.borrow_and_update().is_some() {
                return Ok(());
            }
            // The sender lives as long as `self`.
            _ = changes.changed().await;
        }
    }

    /// The shard of a key.
    pub fn shard_of(&self, key: &[u8]) -> u32 {
        shard_of(key, self.options.shards as usize) as u32
    }

    /// Writes records into the shard of a key; without bytes a record is deleted, and of two records with
    /// one id the last one counts. Completes when W replicas have them.
    ///
    /// # Errors
    /// As [`Router::write`], and the reason why the store cannot be used.
    pub async fn write(
        &self,
        key: &[u8],
        records: Vec<Write>,
        deadline: Instant,
    ) -> Result<Version, Error> {
        self.checked()?;
        self.write_shard(self.shard_of(key), records, deadline).await
    }

    async fn write_shard(
        &self,
        shard: u32,
        records: Vec<Write>,
        deadline: Instant,
    ) -> Result<Version, Error> {
        let records = BTreeMap::from_iter(records);
        let (begun, count) = (self.cluster.now(), records.len());
        let is_deletion = count > 0 && records.values().all(Option::is_none);
        let outcome = self.router.write(shard, records.into_iter().collect(), deadline).await;
        let numbers = match is_deletion {
            true => &self.numbers.deletions,
            false => &self.numbers.writes,
        };
        self.count(numbers, begun, &outcome, |_| count);
        outcome.map_err(|error| self.with_wait(error))
    }

    /// Writes records of several keys, for each shard at once.
    ///
    /// # Errors
    /// As [`Store::write`], for the first shard that fails; the records of others may be stored.
    pub async fn write_many(
        &self,
        writes: Vec<(Bytes, Vec<Write>)>,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.checked()?;
        let mut by_shard: BTreeMap<u32, Vec<Write>> = BTreeMap::new();
        for (key, records) in writes {
            by_shard.entry(self.shard_of(&key)).or_default().extend(records);
        }
        let is_one = by_shard.len() == 1;
        let writes =
            by_shard.into_iter().map(|(shard, records)| self.write_shard(shard, records, deadline));
        let written = stream::iter(writes)
            .buffer_unordered(CONCURRENT_WRITES)
            .try_for_each(async |_| Ok(()))
            .await;
        written.map_err(|error| if is_one { error } else { error.with_maybe_applied(true) })
    }

    /// Reads a page of the records in the shard of a key.
    ///
    /// # Errors
    /// As [`Router::read`], and the reason why the store cannot be used.
    pub async fn read(
        &self,
        key: &[u8],
        range: &Range,
        limit: usize,
        deadline: Instant,
    ) -> Result<Page, Error> {
        self.checked()?;
        let begun = self.cluster.now();
        let outcome = self.router.read(self.shard_of(key), range, limit, deadline).await;
        self.count(&self.numbers.reads, begun, &outcome, |page| page.records.len());
        outcome.map_err(|error| self.with_wait(error))
    }

    /// The shards as this process knows them; empty without a map. Makes no request.
    pub fn status(&self) -> Vec<ShardStatus> {
        let map = self.map.borrow().clone();
        let shards = map.iter().flat_map(|map| map.entries());
        let snapshot = self.cluster.snapshot();
        let own = self.cluster.options().node_id.as_str();
        let holder = self.holder();
        let disk = holder.as_ref().map(|holder| holder.disk());
        let is_shut = self.storage.is_some() && disk.is_none() || self.fault().is_some();
        let is_there = |node: &str| self.may_live(&snapshot, node) && !(is_shut && node == own);
        // Of its own disk it knows that the map names another one before the leader does.
        let counts = |place: &Place| *place.node != *own || disk.is_none_or(|it| it == place.disk);
        let status = |(shard, entry)| ShardStatus {
            repaired: holder.as_ref().and_then(|holder| self.repaired(holder, shard, entry)),
            is_unrecovered: map.as_ref().is_some_and(|map| map.unrecovered.contains(&shard)),
            is_changing: map.as_ref().is_some_and(|map| !entry.has(map.shared.quorums())),
            ..self.shard_status(shard, entry, &is_there, &counts)
        };
        shards.map(status).collect()
    }

    fn may_live(&self, snapshot: &Snapshot, node: &str) -> bool {
        snapshot.nodes.get(node).is_some_and(|node| self.cluster.may_live(node))
    }

    /// How long ago the last whole repair of a shard began, as the replica of this process knows: the repair has purged
    /// what was deleted that long before.
    fn repaired(&self, holder: &Holder, shard: u32, entry: &Entry) -> Option<Duration> {
        entry.counting_at(holder.node())?;
        let purged_ms = holder.horizon(shard)?.time().ms();
        let begun = Duration::from_millis(purged_ms) + member::PURGE_AGE;
        Some(Duration::from_millis(self.cluster.unix_ms()).saturating_sub(begun))
    }

    fn shard_status(
        &self,
        shard: u32,
        entry: &Entry,
        is_there: &impl Fn(&str) -> bool,
        counts: &impl Fn(&Place) -> bool,
    ) -> ShardStatus {
        let holders = entry.counting().filter(|(_, place)| counts(place));
        let holders: Vec<NodeId> = holders.map(|(_, place)| place.node.clone()).collect();
        let live = holders.iter().filter(|node| is_there(node)).count();
        let changes = entry.slots.iter().filter_map(|slot| slot.change.as_ref());
        ShardStatus {
            shard,
            epoch: entry.epoch,
            is_at_risk: live + entry.vacant() < entry.fenced(),
            is_unrecovered: false,
            is_changing: false,
            replicas: entry.slots.len(),
            repaired: None,
            holders,
            targets: changes.map(|change| (change.to.clone(), change.kind)).collect(),
        }
    }

    /// The number of a shard.
    ///
    /// # Errors
    /// [`Kind::Argument`] for a shard that does not exist.
    pub fn check_shard(&self, shard: u64) -> Result<u32, Error> {
        let number = u32::try_from(shard).ok().filter(|shard| *shard < self.options.shards);
        number.ok_or_else(|| {
            let most = self.options.shards - 1;
            Error::argument(format!("shard is {shard}: it must be from 0 to {most}"))
        })
    }

    /// Ends work on Consul's keys at a deadline.
    ///
    /// # Errors
    /// [`Kind::Timeout`] if it has not ended by then; otherwise its own.
    pub async fn by<T>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = self.router.runtime.clock().sleep_until(deadline) => {
                let why = "Consul has not answered within the time limit";
                Err(Error::new(Kind::Timeout, why).with_maybe_applied(true))
            }
        }
    }

    /// Lets the failovers of a shard do without the replicas that are known to be missing now, although
    /// acknowledged writes may be lost.
    ///
    /// # Errors
    /// [`Kind::Argument`] for a shard that does not exist; errors of the call.
    pub async fn accept_loss(&self, shard: u32) -> Result<(), Error> {
        let shard = self.check_shard(shard.into())?;
        let map = self.map.borrow().clone();
        let shard = (map.as_deref(), shard);
        outside::accept(&self.cluster, &self.options.name, shard, &[], None).await.map(|_| ())
    }
}
