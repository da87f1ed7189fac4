//! Waiters of one client that share a blocking query. It asks for the names below the directory that their keys have in
//! common. There is one such name, the directory itself, so the answer is short, and comes when any key there has
//! changed. A transaction of checks of their indexes then shows whose key that was.

use consul_api::error::{Error, Kind};
use consul_process::sync::lock;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// How many of the blocking queries are of one waiter each, before others share.
const MAX_OWN: usize = 16;

/// The random pause after a tolerated error.
pub(super) const ERROR_PAUSE_MS: Range<f64> = 100.0..300.0;

/// The blocking queries of a presence's waiters.
#[derive(Debug)]
pub(super) struct Waits {
    limit: usize,
    queries: Arc<Semaphore>,
    /// By the first directory of their keys.
    groups: Mutex<BTreeMap<String, Arc<Group>>>,
    added: Notify,
}

/// How a waiter waits, from its first query to the end of its wait.
#[derive(Debug)]
pub(super) enum Turn {
    /// By queries of its own.
    Own {
        _query: OwnedSemaphorePermit,
    },
    Shared(Shared),
}

impl Waits {
    pub fn new(limit: usize) -> Self {
        let queries = Arc::new(Semaphore::new(limit));
        Self { limit, queries, groups: Mutex::default(), added: Notify::new() }
    }

    /// Begins a wait for a key, or for keys below a prefix, which cannot be shared.
    ///
    /// # Errors
    /// [`Kind::Config`] if there are as many queries as the client has connections.
    pub fn begin(&self, key: &str, can_share: bool) -> Result<Turn, Error> {
        let top = key.find('/').filter(|end| can_share && *end > 0).map(|end| &key[..=end]);
        let used = self.limit.saturating_sub(self.queries.available_permits());
        let permit = || Arc::clone(&self.queries).try_acquire_owned();
        if (top.is_none() || used < MAX_OWN.min(self.limit / 2))
            && let Ok(permit) = permit()
        {
            return Ok(Turn::Own { _query: permit });
        }
        if let Some(top) = top {
            let mut groups = lock(&self.groups);
            if let Some(group) = groups.get(top) {
                return Ok(Turn::Shared(Shared(Some(Arc::clone(group)))));
            }
            if let Ok(permit) = permit() {
                let group = Arc::new(Group::new(permit));
                groups.insert(top.to_owned(), Arc::clone(&group));
                self.added.notify_one();
                return Ok(Turn::Shared(Shared(Some(group))));
            }
        }
        let message = format!(
            "{} blocking queries of this client wait for locks and semaphores, which is its max_connections: \
             locks share them if their keys have a common directory",
            self.limit
        );
        Err(Error::new(Kind::Config, message).not_sent())
    }

    pub fn groups(&self) -> BTreeMap<String, Arc<Group>> {
        lock(&self.groups).clone()
    }

    /// Waits for a new group.
    pub async fn added(&self) {
        self.added.notified().await;
    }

    /// Forgets the group if nobody has it any more.
    pub fn has_ended(&self, top: &str, group: &Arc<Group>) -> bool {
        let mut groups = lock(&self.groups);
        // The map's and the caller's.
        let has_ended = Arc::strong_count(group) <= 2;
        if has_ended {
            groups.remove(top);
        }
        has_ended
    }
}

/// A waiter's part in a group.
#[derive(Debug)]
pub(super) struct Shared(Option<Arc<Group>>);

impl Shared {
    /// Waits until the key may have changed since it had this modify index.
    pub async fn changed(&self, key: &str, modify_index: u64) {
        let Some(group) = &self.0 else { return };
        let (wakes, woken) = oneshot::channel();
        let waiting = Waiting { modify_index, is_new: true, _wakes: wakes };
        lock(&group.waiting).insert(key.to_owned(), waiting);
        group.joined.notify_one();
        let _left = Left(group, key);
        let _ = woken.await;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            let joined = Arc::clone(&group.joined);
            drop(group);
            // It may have been the last.
            joined.notify_one();
        }
    }
}

struct Left<'a>(&'a Group, &'a str);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        lock(&self.0.waiting).remove(self.1);
    }
}

/// Waiters with one blocking query.
#[derive(Debug)]
pub(super) struct Group {
    /// By their keys.
    waiting: Mutex<BTreeMap<String, Waiting>>,
    joined: Arc<Notify>,
    _query: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Waiting {
    /// That of the key, as the waiter has read it.
    modify_index: u64,
    /// Whether no transaction has looked since.
    is_new: bool,
    /// Wakes the waiter when it is dropped.
    _wakes: oneshot::Sender<Infallible>,
}

impl Group {
    fn new(query: OwnedSemaphorePermit) -> Self {
        Self { waiting: Mutex::default(), joined: Arc::default(), _query: query }
    }

    /// Waits until a waiter has come or gone.
    pub async fn joined(&self) {
        self.joined.notified().await;
    }

    pub fn waiters(&self) -> usize {
        lock(&self.waiting).len()
    }

    /// The directory that all keys have in common, with its slash; `None` while nobody waits.
    pub fn directory(&self) -> Option<String> {
        let waiting = lock(&self.waiting);
        let (first, last) = (waiting.first_key_value()?.0, waiting.last_key_value()?.0);
        // In the order of the keys, all others have what these two have in common.
        let common = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
        let end = first.as_bytes()[..common].iter().rposition(|byte| *byte == b'/')?;
        Some(first[..=end].to_owned())
    }

    /// Whether all keys are below a directory.
    pub fn is_below(&self, directory: &str) -> bool {
        self.directory().is_some_and(|common| common.starts_with(directory))
    }

    /// The keys and their indexes.
    pub fn waiting(&self, only_new: bool) -> Vec<(String, u64)> {
        let waiting = lock(&self.waiting);
        let waiting = waiting.iter().filter(|(_, it)| it.is_new || !only_new);
        waiting.map(|(key, it)| (key.clone(), it.modify_index)).collect()
    }

    pub fn note_unchanged(&self, key: &str, modify_index: u64) {
        if let Some(it) =
            lock(&self.waiting).get_mut(key).filter(|it| it.modify_index == modify_index)
        {
            it.is_new = false;
        }
    }

    pub fn wake(&self, key: &str) {
        lock(&self.waiting).remove(key);
    }
}
