//! The seams to the other nodes, and what a process knows of the map.

use super::map::{Entry, NodeId};
use super::message::{Reply, Request};
use crate::clock::{BoxFuture, Clock};
use crate::error::Error;
use crate::sync::lock;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// The way to the nodes, the own one among them.
pub trait Peers: Send + Sync {
    /// Sends a request to a node and waits for its answer, up to a time limit of its own.
    fn ask(&self, node: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>>;
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

/// The newest entries that a process knows.
#[derive(Default)]
pub struct Entries {
    known: Mutex<BTreeMap<u32, Arc<Entry>>>,
    changes: watch::Sender<u64>,
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").finish_non_exhaustive()
    }
}

impl Entries {
    /// The entry of a shard.
    pub fn get(&self, shard: u32) -> Option<Arc<Entry>> {
        lock(&self.known).get(&shard).cloned()
    }

    /// Learns an entry, unless a newer one is known. Returns whether it is new.
    pub fn learn(&self, shard: u32, entry: &Entry) -> bool {
        let mut known = lock(&self.known);
        let is_new = known.get(&shard).is_none_or(|old| old.epoch < entry.epoch);
        if is_new {
            known.insert(shard, Arc::new(entry.clone()));
            drop(known);
            self.changes.send_modify(|count| *count += 1);
        }
        is_new
    }

    /// Signals each new entry.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
