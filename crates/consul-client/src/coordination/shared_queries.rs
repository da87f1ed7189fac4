//! The blocking queries that waiters of one client share, and the looks at their keys.

use super::presence::Presence;
use super::proofs::MAX_OPERATIONS;
use super::waits::{ERROR_PAUSE_MS, Group};
use super::{linearizable, transaction, unchanged};
use consul_api::api::{kv, txn};
use consul_api::error::Error;
use consul_api::request::Args;
use consul_api::response::Answer;
use consul_api::value::duration;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// The time from one look at the keys after a change to the next, so that many changes in a row cost little, and from a new
/// waiter to the look at its key, so that several are looked at together.
const PAUSE: Duration = Duration::from_millis(20);

/// After an error each waiter looks at its key, so for more of them than this the pause is longer in proportion.
const USUAL_WAITERS: f64 = 20.0;

impl Presence {
    /// Watches the keys of waiters that share queries, forever.
    pub(super) async fn watch_for_waiters(&self) -> Infallible {
        let (mut watching, mut watched) = (FuturesUnordered::new(), BTreeSet::new());
        loop {
            for (top, group) in self.waits.groups() {
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
                () = self.waits.added() => {}
            }
        }
    }

    async fn watch_group(&self, top: &str, group: &Arc<Group>) {
        while !self.waits.has_ended(top, group) {
            match group.directory() {
                Some(directory) => self.watch_directory(group, &directory).await,
                None => group.joined().await,
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
        group.joined().await;
        self.client().clock().sleep(PAUSE).await;
    }

    /// The arguments of a query that waits for a change since this index.
    pub(super) fn waiting(&self, args: Args, index: u64) -> Args {
        let wait = self.profile().query_wait();
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
        let factor = (group.waiters() as f64 / USUAL_WAITERS).max(1.0);
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
