//! Waiters of one client that share a blocking query. It asks for the names below the directory that their keys have in
//! common. There is one such name, the directory itself, so the answer is short, and comes when any key there has
//! changed. A transaction of checks of their indexes then shows whose key that was.

use super::presence::Presence;
use super::proofs::MAX_OPERATIONS;
use super::{linearizable, transaction, unchanged};
use consul_api::api::{kv, txn};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::Answer;
use consul_api::value::duration;
use consul_process::sync::lock;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// How long one blocking query of a waiter lasts at least and at most. The waiter renews its session before each, so
/// this must be well below the shortest TTL of a session.
const QUERY_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// How many of the blocking queries are of one waiter each, before others share.
const MAX_OWN: usize = 16;

/// The time from one look at the keys after a change to the next, so that many changes in a row cost little, and from a new
/// waiter to the look at its key, so that several are looked at together.
const PAUSE: Duration = Duration::from_millis(20);

/// The random pause after a tolerated error.
pub(super) const ERROR_PAUSE_MS: Range<f64> = 100.0..300.0;

/// After an error each waiter looks at its key, so for more of them than this the pause is longer in proportion.
const USUAL_WAITERS: f64 = 20.0;

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

    /// Forgets the group if nobody has it any more.
    fn has_ended(&self, top: &str, group: &Arc<Group>) -> bool {
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

    /// The directory that all keys have in common, with its slash; `None` while nobody waits.
    fn directory(&self) -> Option<String> {
        let waiting = lock(&self.waiting);
        let (first, last) = (waiting.first_key_value()?.0, waiting.last_key_value()?.0);
        // In the order of the keys, all others have what these two have in common.
        let common = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
        let end = first.as_bytes()[..common].iter().rposition(|byte| *byte == b'/')?;
        Some(first[..=end].to_owned())
    }

    /// Whether all keys are below a directory.
    fn is_below(&self, directory: &str) -> bool {
        self.directory().is_some_and(|common| common.starts_with(directory))
    }

    /// The keys and their indexes.
    fn waiting(&self, only_new: bool) -> Vec<(String, u64)> {
        let waiting = lock(&self.waiting);
        let waiting = waiting.iter().filter(|(_, it)| it.is_new || !only_new);
        waiting.map(|(key, it)| (key.clone(), it.modify_index)).collect()
    }

    fn note_unchanged(&self, key: &str, modify_index: u64) {
        if let Some(it) =
            lock(&self.waiting).get_mut(key).filter(|it| it.modify_index == modify_index)
        {
            it.is_new = false;
        }
    }

    fn wake(&self, key: &str) {
        lock(&self.waiting).remove(key);
    }
}

impl Presence {
    /// Watches the keys of waiters that share queries, forever.
    pub(super) async fn watch_for_waiters(&self) -> Infallible {
        let (mut watching, mut watched) = (FuturesUnordered::new(), BTreeSet::new());
        loop {
            let groups = lock(&self.waits.groups).clone();
            for (top, group) in groups {
                if watched.insert(top.clone()) {
                    watching.push(async move {
                        self.watch_group(&top, &group).await;
                        top
                    });
                }
            }
            tokio::select! {
                biased;
                Some(top) = watching.next() => drop(watched.remove(&top)),
                () = self.waits.added.notified() => {}
            }
        }
    }

    async fn watch_group(&self, top: &str, group: &Arc<Group>) {
        while !self.waits.has_ended(top, group) {
            match group.directory() {
                Some(directory) => self.watch_directory(group, &directory).await,
                None => group.joined.notified().await,
            }
        }
    }

    /// Wakes waiters whose keys change, while all of them are below the directory.
    async fn watch_directory(&self, group: &Group, directory: &str) {
        let mut index = None;
        while group.is_below(directory) {
            let mut query = pin!(self.wait_below(directory, index));
            let answer = loop {
                tokio::select! {
                    biased;
                    answer = &mut query => break answer,
                    () = self.wait_for_new(group) => {}
                }
                if !group.is_below(directory) {
                    return;
                }
                self.look_at(group, true).await;
            };
            index = match answer {
                Ok(answer) => answer.meta.next_index(index),
                Err(error) => {
                    tracing::debug!(directory, %error, "a query for waiters failed");
                    self.pause_after_failure(group).await;
                    None
                }
            };
            let next = self.client().clock().now() + PAUSE;
            self.look_at(group, false).await;
            self.client().clock().sleep_until(next).await;
        }
    }

    async fn wait_for_new(&self, group: &Group) {
        group.joined.notified().await;
        self.client().clock().sleep(PAUSE).await;
    }

    /// How long one blocking query of a waiter lasts: an answer that is lost without a sign is missed no longer than until the
    /// limit of the query.
    pub(super) fn query_wait(&self) -> Duration {
        self.profile().check_ttl.clamp(QUERY_WAIT.0, QUERY_WAIT.1)
    }

    /// The arguments of a query that waits for a change since this index.
    pub(super) fn waiting(&self, args: Args, index: u64) -> Args {
        let wait = self.query_wait();
        // A server adds up to a sixteenth.
        let limit = wait + wait / 16 + self.end_timeout();
        let args = args.opt("index", index).opt("wait", duration::format(wait));
        args.opt("timeout_ms", limit.as_millis() as u64)
    }

    /// Waits for a change of any key below a directory.
    async fn wait_below(&self, directory: &str, index: Option<u64>) -> Result<Answer, Error> {
        let args = Args::new().arg(directory.trim_end_matches('/')).opt("separator", "/");
        let args = match index {
            Some(index) => self.waiting(args, index),
            None => args.opt("timeout_ms", self.end_timeout().as_millis() as u64),
        };
        self.blocking_client().read_past_caches(&kv::KEYS, &args).await
    }

    /// Wakes the waiters whose keys have changed. After an error each waiter finds out for itself, after a pause.
    async fn look_at(&self, group: &Group, only_new: bool) {
        let waiting = group.waiting(only_new);
        let parts = waiting.chunks(MAX_OPERATIONS);
        let looked = join_all(parts.map(|part| self.look_at_part(group, part))).await;
        let Some(error) = looked.iter().find_map(|looked| looked.as_ref().err()) else { return };
        tracing::debug!(%error, "a look at the keys of waiters failed");
        self.pause_after_failure(group).await;
        let failed = waiting.chunks(MAX_OPERATIONS).zip(&looked).filter(|(_, it)| it.is_err());
        failed.flat_map(|(part, _)| part).for_each(|(key, _)| group.wake(key));
    }

    async fn pause_after_failure(&self, group: &Group) {
        let factor = (lock(&group.waiting).len() as f64 / USUAL_WAITERS).max(1.0);
        let bounds = ERROR_PAUSE_MS.start * factor..ERROR_PAUSE_MS.end * factor;
        self.client().pause(bounds).await;
    }

    async fn look_at_part(&self, group: &Group, part: &[(String, u64)]) -> Result<(), Error> {
        let operations = part.iter().map(|(key, index)| unchanged(key, *index));
        let args = transaction(operations).opt("timeout_ms", self.end_timeout().as_millis() as u64);
        // On the connections of the others, as the queries may take all of theirs.
        let turn = self.turn().await;
        let answer = self.client().call_past_caches(&txn::TXN, args).await;
        drop(turn);
        let refused: Vec<usize> = match answer.and_then(linearizable) {
            Ok(_) => Vec::new(),
            Err(error) if error.refused().is_empty() => return Err(error),
            Err(error) => error.refused().iter().map(|it| it.index).collect(),
        };
        for (place, (key, index)) in part.iter().enumerate() {
            match refused.contains(&place) {
                true => group.wake(key),
                false => group.note_unchanged(key, *index),
            }
        }
        Ok(())
    }
}
