//! The faults of a storage: operators see each, and it ends by itself when the storage works again.

use super::member::Member;
use super::{Store, Watched};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::clock::{BoxFuture, Clock, Instant};
use consul_process::metrics::StoreNumbers;
use consul_process::sync::lock;
use consul_replication::record::{Range, Record, Version};
use consul_replication::storage::Storage;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often it is tried whether a storage that has failed works again.
const PROBE_PAUSE: Duration = Duration::from_secs(2);

/// How long a storage may answer nothing before it counts as hanging: with the time until the nodes are asked
/// again, an operator knows within 5 s.
const HANG: Duration = Duration::from_secs(4);

/// The records of a scan that tries that.
const PROBED: usize = 1000;

/// The name under which it is tried.
const PROBE: &str = "probe";

/// A fault of a node for a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreFault {
    /// The store.
    pub store: String,
    /// The functions of its storage that fail; empty: the store cannot be used at all.
    pub functions: Vec<String>,
    /// Why.
    pub why: String,
    /// Whether it cannot be used because the store's map in Consul cannot be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_of_map: bool,
}

/// The subject of a call of a storage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Shard(u32),
    /// A value that is kept under a name.
    Name(String),
}

/// A function that has failed and did not work since.
struct Failed {
    why: String,
    /// The bytes that were to be kept.
    size: usize,
}

/// A storage, and what of it fails.
pub(super) struct WatchedStorage {
    storage: Arc<dyn Storage>,
    numbers: &'static StoreNumbers,
    clock: Arc<dyn Clock>,
    failed: Mutex<BTreeMap<(&'static str, Of), Failed>>,
    calls: Mutex<Calls>,
}

/// The calls of a storage that have not returned.
#[derive(Default)]
struct Calls {
    running: usize,
    /// The function that was called first since any has returned, and when; also if its caller does not wait any longer.
    unanswered: Option<(&'static str, Instant)>,
}

/// A call of a storage, until it returns or its caller does not wait any longer.
struct Running<'a>(&'a Mutex<Calls>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(self.0).running -= 1;
    }
}

impl WatchedStorage {
    pub fn new(
        storage: Arc<dyn Storage>,
        numbers: &'static StoreNumbers,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let (failed, calls) = (Mutex::default(), Mutex::default());
        Arc::new(WatchedStorage { storage, numbers, clock, failed, calls })
    }

    /// Waits for a call, and notes how it ends.
    async fn watched<T>(
        &self,
        (function, of, size): (&'static str, Of, usize),
        call: BoxFuture<'_, Result<T, Error>>,
    ) -> Result<T, Error> {
        let running = self.begin(function);
        let outcome = call.await;
        if let Some(running) = running {
            drop(running);
            self.note_answer(function);
        }
        self.note(function, of, size, &outcome);
        outcome
    }

    /// `None` for a function that may take long.
    fn begin(&self, function: &'static str) -> Option<Running<'_>> {
        if ["drop", "purge"].contains(&function) {
            return None;
        }
        let mut calls = lock(&self.calls);
        calls.running += 1;
        calls.unanswered.get_or_insert_with(|| (function, self.clock.now()));
        Some(Running(&self.calls))
    }

    /// Notes that a call has returned: those that still run count from now on.
    fn note_answer(&self, function: &'static str) {
        let mut calls = lock(&self.calls);
        calls.unanswered = (calls.running > 0).then(|| (function, self.clock.now()));
    }

    /// The function whose calls have not returned for [`HANG`].
    fn hangs(&self) -> Option<(&'static str, Duration)> {
        let (function, since) = lock(&self.calls).unanswered?;
        let waited = self.clock.now() - since;
        (waited >= HANG).then_some((function, waited))
    }

    /// Whether nobody waits any longer for a call that has not returned.
    fn is_left(&self) -> bool {
        let calls = lock(&self.calls);
        calls.running == 0 && calls.unanswered.is_some()
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

    /// The functions that fail, and why the last of them does; or the function that does not return.
    pub fn fault(&self) -> Option<(Vec<String>, String)> {
        if let Some((function, waited)) = self.hangs() {
            let why = format!("it has not returned for {} s", waited.as_secs());
            return Some((vec![function.to_owned()], why));
        }
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
        let call = self.storage.apply(shard, records);
        Box::pin(self.watched(("apply", Of::Shard(shard), 0), call))
    }

    fn scan(
        &self,
        shard: u32,
        range: Range,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>> {
        let call = self.storage.scan(shard, range, limit);
        Box::pin(self.watched(("scan", Of::Shard(shard), 0), call))
    }

    fn purge(&self, shard: u32, below: Version) -> BoxFuture<'_, Result<(), Error>> {
        let call = self.storage.purge(shard, below);
        Box::pin(self.watched(("purge", Of::Shard(shard), 0), call))
    }

    fn drop_shard(&self, shard: u32) -> BoxFuture<'_, Result<(), Error>> {
        let call = self.storage.drop_shard(shard);
        Box::pin(self.watched(("drop", Of::Shard(shard), 0), call))
    }

    fn keep(&self, name: &str, value: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        let (of, size) = (Of::Name(name.to_owned()), value.len());
        let call = self.storage.keep(name, value);
        Box::pin(self.watched(("keep", of, size), call))
    }

    fn kept(&self, name: &str) -> BoxFuture<'_, Result<Option<Bytes>, Error>> {
        let of = Of::Name(name.to_owned());
        let call = self.storage.kept(name);
        Box::pin(self.watched(("kept", of, 0), call))
    }

    fn flush(&self) -> BoxFuture<'_, Result<bool, Error>> {
        self.storage.flush()
    }
}

impl Store {
    /// The fault of this process for the store.
    pub fn fault(&self) -> Option<StoreFault> {
        let store = self.options.name.clone();
        if let Err(error) = self.checked() {
            let is_unread = self.is_map_unread.load(Ordering::Acquire);
            let is_of_map = is_unread && error.kind() == Kind::Unsupported;
            let why = error.message().to_owned();
            return Some(StoreFault { store, functions: Vec::new(), why, is_of_map });
        }
        let (functions, why) = self.storage.as_ref()?.fault()?;
        Some(StoreFault { store, functions, why, is_of_map: false })
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
            if storage.is_left() {
                _ = storage.kept(PROBE).await;
            }
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
            // A storage without room may still take a record that it has already.
            ("apply", Of::Shard(shard)) => {
                match storage.keep(PROBE, vec![0; size.max(1)].into()).await {
                    Ok(()) => self.transfer.holder.store_again(shard).await,
                    failed => failed,
                }
            }
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
