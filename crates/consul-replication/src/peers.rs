//! The seams to the other nodes, and what a process knows of the map.

use super::map::{Entry, NodeId, StoreId};
use super::message::{Action, Reply, Request};
use consul_api::error::Error;
use consul_process::clock::{BoxFuture, Clock};
use consul_process::sync::lock;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, watch};

/// The way to the nodes, the own one among them.
pub trait Peers: Send + Sync {
    /// Sends a request to a node and waits for its answer, up to a time limit of its own.
    fn ask(&self, node: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>>;

    /// Finds out whether a node and this one accept each other's signatures, if requests have any. An error of the
    /// kind [`Kind::PermissionDenied`](consul_api::error::Kind) says that they do not.
    fn check_key(&self, _node: &NodeId) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}

/// Time, and tasks in the background.
pub trait Runtime: Send + Sync {
    /// The clock of time limits and pauses.
    fn clock(&self) -> &dyn Clock;

    /// Runs a task in the background.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// A random number from 0 to 1.
    fn fraction(&self) -> f64;
}

/// An entry of a shard, and its store.
#[derive(Clone, Debug)]
pub struct Known {
    /// The store.
    pub store: Option<StoreId>,
    /// The entry.
    pub entry: Arc<Entry>,
}

impl Known {
    /// A request by this entry.
    pub fn request(&self, shard: u32, action: Action) -> Request {
        Request { store: self.store, shard, entry: Entry::clone(&self.entry), action }
    }
}

/// The newest entries that a process knows, all of one store.
#[derive(Default)]
pub struct Entries {
    all: Mutex<All>,
    changes: watch::Sender<u64>,
    suspicions: Notify,
}

#[derive(Default)]
struct All {
    store: Option<StoreId>,
    shards: BTreeMap<u32, Arc<Entry>>,
}

impl All {
    /// Takes an entry, unless a newer one is known. Returns whether it is new.
    fn take(&mut self, shard: u32, entry: &Entry) -> bool {
        let is_new = self.shards.get(&shard).is_none_or(|old| old.epoch < entry.epoch);
        if is_new {
            self.shards.insert(shard, Arc::new(entry.clone()));
        }
        is_new
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").finish_non_exhaustive()
    }
}

impl Entries {
    /// The known state of a shard.
    pub fn get(&self, shard: u32) -> Option<Known> {
        let all = lock(&self.all);
        let entry = all.shards.get(&shard).cloned()?;
        Some(Known { store: all.store, entry })
    }

    /// Learns the entries of a map. Entries of another store are forgotten, since its epochs say nothing about
    /// this one's.
    pub fn adopt<'a>(
        &self,
        store: Option<StoreId>,
        entries: impl Iterator<Item = (u32, &'a Entry)>,
    ) {
        let mut all = lock(&self.all);
        if StoreId::differ(all.store, store) {
            all.shards.clear();
        }
        all.store = store.or(all.store);
        let new = entries.filter(|(shard, entry)| all.take(*shard, entry)).count();
        drop(all);
        if new > 0 {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Learns an entry that a node of a store knows, unless a newer one is known. Returns whether it is new.
    pub fn learn(&self, store: Option<StoreId>, shard: u32, entry: &Entry) -> bool {
        let mut all = lock(&self.all);
        let is_new = !StoreId::differ(all.store, store) && all.take(shard, entry);
        drop(all);
        if is_new {
            self.changes.send_modify(|count| *count += 1);
        }
        is_new
    }

    /// Signals new entries.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Notes that a node has records of another store: the map has to be read again.
    pub fn suspect(&self) {
        self.suspicions.notify_one();
    }

    /// Completes when that was noted.
    pub async fn suspected(&self) {
        self.suspicions.notified().await;
    }
}
