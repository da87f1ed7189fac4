//! What a storage does not do: it is told to operators, and ends by itself when the storage works again.

use super::member::Member;
use super::{Store, Watched};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::clock::BoxFuture;
use consul_process::metrics::StoreNumbers;
use consul_process::sync::lock;
use consul_replication::record::{Range, Record, Version};
use consul_replication::storage::Storage;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often it is tried whether a storage that has failed works again.
const PROBE_PAUSE: Duration = Duration::from_secs(2);

/// The records of a scan that tries that.
const PROBED: usize = 1000;

/// The name under which it is tried.
const PROBE: &str = "probe";

/// What a node cannot do for a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreFault {
    /// The store.
    pub store: String,
    /// The functions of its storage that fail; empty: the store cannot be used at all.
    pub functions: Vec<String>,
    /// Why.
    pub why: String,
}

/// What a call of a storage is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Shard(u32),
    /// What is kept under a name.
    Name(String),
}

/// What has failed and did not work since.
struct Failed {
    why: String,
    /// The bytes that were to be kept.
    size: usize,
}

/// A storage, and what of it fails.
pub(super) struct WatchedStorage {
    storage: Arc<dyn Storage>,
    numbers: &'static StoreNumbers,
    failed: Mutex<BTreeMap<(&'static str, Of), Failed>>,
}

impl WatchedStorage {
    pub fn new(storage: Arc<dyn Storage>, numbers: &'static StoreNumbers) -> Arc<Self> {
        Arc::new(WatchedStorage { storage, numbers, failed: Mutex::default() })
    }

    /// Notes how a call has ended.
    fn note<T>(&self, function: &'static str, of: Of, size: usize, outcome: &Result<T, Error>) {
        let mut failed = lock(&self.failed);
        match outcome {
            Ok(_) => _ = failed.remove(&(function, of)),
            // The node was stopped.
            Err(error) if error.kind() == Kind::Closed => {}
            Err(error) => {
                self.numbers.storage_errors.add(function);
                let why = error.message().to_owned();
                failed.insert((function, of), Failed { why, size });
            }
        }
    }

    /// The functions that fail, and why the last of them does.
    pub fn fault(&self) -> Option<(Vec<String>, String)> {
        let failed = lock(&self.failed);
        let functions = BTreeSet::from_iter(failed.keys().map(|(function, _)| *function));
        let (_, Failed { why, .. }) = failed.iter().next()?;
        Some((functions.into_iter().map(str::to_owned).collect(), why.clone()))
    }

    /// The first thing that fails of each function.
    fn first(&self) -> BTreeMap<&'static str, (Of, usize)> {
        let failed = lock(&self.failed);
        let all = failed.iter().rev();
        BTreeMap::from_iter(all.map(|((function, of), it)| (*function, (of.clone(), it.size))))
    }

    /// Forgets what has failed of a function.
    fn forget(&self, function: &str) {
        lock(&self.failed).retain(|(other, _), _| *other != function);
    }
}

impl Storage for WatchedStorage {
    fn apply(
        &self,
        shard: u32,
        records: Vec<Record>,
    ) -> BoxFuture<'_, Result<Vec<(usize, Version)>, Error>> {
        Box::pin(async move {
            let outcome = self.storage.apply(shard, records).await;
            self.note("apply", Of::Shard(shard), 0, &outcome);
            outcome
        })
    }

    fn scan(
        &self,
        shard: u32,
        range: Range,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>> {
        Box::pin(async move {
            let outcome = self.storage.scan(shard, range, limit).await;
            self.note("scan", Of::Shard(shard), 0, &outcome);
            outcome
        })
    }

    fn purge(&self, shard: u32, below: Version) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let outcome = self.storage.purge(shard, below).await;
            self.note("purge", Of::Shard(shard), 0, &outcome);
            outcome
        })
    }

    fn drop_shard(&self, shard: u32) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let outcome = self.storage.drop_shard(shard).await;
            self.note("drop", Of::Shard(shard), 0, &outcome);
            outcome
        })
    }

    fn keep(&self, name: &str, value: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        let (of, size) = (Of::Name(name.to_owned()), value.len());
        let keep = self.storage.keep(name, value);
        Box::pin(async move {
            let outcome = keep.await;
            self.note("keep", of, size, &outcome);
            outcome
        })
    }

    fn kept(&self, name: &str) -> BoxFuture<'_, Result<Option<Bytes>, Error>> {
        let of = Of::Name(name.to_owned());
        let kept = self.storage.kept(name);
        Box::pin(async move {
            let outcome = kept.await;
            self.note("kept", of, 0, &outcome);
            outcome
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<bool, Error>> {
        self.storage.flush()
    }
}

impl Store {
    /// What this process cannot do for the store.
    pub fn fault(&self) -> Option<StoreFault> {
        let (functions, why) = match self.checked() {
            Err(error) => (Vec::new(), error.message().to_owned()),
            Ok(()) => self.storage.as_ref()?.fault()?,
        };
        Some(StoreFault { store: self.options.name.clone(), functions, why })
    }

    /// Whether this process does for the store all that the map gives it to do: its replicas are there.
    ///
    /// # Errors
    /// The reason why it does not.
    pub fn serves(&self) -> Result<(), String> {
        let not = |why: String| Err(format!("store {}: {why}", self.options.name));
        match self.fault() {
            Some(StoreFault { functions, why, .. }) if functions.is_empty() => {
                return not(format!("it cannot be used: {why}"));
            }
            Some(StoreFault { functions, why, .. }) => {
                return not(format!("its storage fails in {}: {why}", functions.join(", ")));
            }
            None if self.storage.is_none() => return Ok(()),
            None => {}
        }
        let Some(member) = lock(&self.member).clone() else {
            return not("its storage is not open yet".to_owned());
        };
        // A store whose first map waits for other nodes gives nothing to anybody.
        if self.map.borrow().is_none() {
            return match self.has_no_map() {
                true => Ok(()),
                false => not("it is not known yet whether it has a map".to_owned()),
            };
        }
        match member.lacking().map(|lacking| lacking.len()) {
            None => not("the leader has not confirmed its storage yet".to_owned()),
            Some(0) => Ok(()),
            Some(1) => not("one of its replicas is missing".to_owned()),
            Some(count) => not(format!("{count} of its replicas are missing")),
        }
    }
}

impl Member {
    /// Tries whether what has failed of the storage works again, since nothing may call it by itself.
    pub(super) async fn probe(&self, store: &Store, storage: &Watched) -> Infallible {
        loop {
            store.sleep(PROBE_PAUSE).await;
            for (function, (of, size)) in storage.first() {
                self.try_again(store, storage, function, of, size).await;
            }
        }
    }

    async fn try_again(
        &self,
        store: &Store,
        storage: &Watched,
        function: &'static str,
        of: Of,
        size: usize,
    ) {
        let outcome = match (function, of) {
            // As one that has no room, which may take what it has already.
            ("apply", Of::Shard(shard)) => match storage.keep(PROBE, vec![0; 1].into()).await {
                Ok(()) => self.transfer.holder.store_again(shard).await,
                failed => failed,
            },
            ("scan", Of::Shard(shard)) => {
                storage.scan(shard, Range::all(), PROBED).await.map(|_| ())
            }
            ("purge", Of::Shard(shard)) => storage.purge(shard, Version::default()).await,
            // It is tried again as long as it is to be done.
            ("drop", Of::Shard(shard)) => {
                if !self.is_to_drop(store, shard) {
                    storage.forget("drop");
                }
                return;
            }
            ("keep", _) => {
                let kept = storage.keep(PROBE, vec![0; size].into()).await;
                if kept.is_ok() {
                    storage.forget("keep");
                }
                kept
            }
            (_, Of::Name(name)) => storage.kept(&name).await.map(|_| ()),
            _ => return,
        };
        if let Err(error) = outcome {
            tracing::debug!(store = store.options.name, function, %error, "a storage still fails");
        }
    }

    /// Whether a drop of a shard is still to be done: the map gives the node no replica of it that counts.
    fn is_to_drop(&self, store: &Store, shard: u32) -> bool {
        let map = store.map.borrow().clone();
        let entry = map.as_ref().and_then(|map| map.map.shards.get(shard as usize));
        entry.is_none_or(|entry| entry.counting_at(self.transfer.holder.node()).is_none())
    }
}
