//! What the leader does before it changes an entry after Consul lost its data or went back in time.
//!
//! Nodes and clients may go on with entries that Consul has lost. So each holder and target of the entry,
//! and of each newer entry that one of them knows, promises to execute nothing in older epochs, and says the
//! newest entry that it knows. That one is put back in a new epoch. A node that cannot answer blocks the
//! entry until an operator decides.

use super::map::{Entry, NodeId};
use super::message::{Action, Outcome, Request};
use super::peers::Peers;
use crate::error::{Error, Kind};
use crate::ordered;
use std::collections::BTreeSet;

/// Finds the newest entry of a shard, of which Consul has `stored`, and returns it with a new epoch of at
/// least `epoch`. With `skips_silent`, by the word of an operator, nodes that do not answer are left out.
///
/// # Errors
/// [`Kind::NotReady`] if a node that must be asked does not answer. If it was silent from the beginning,
/// no other node has promised anything, and all go on with the entry that they know.
pub async fn newest(
    peers: &dyn Peers,
    shard: u32,
    stored: &Entry,
    epoch: u64,
    skips_silent: bool,
) -> Result<Entry, Error> {
    let asked = Asked { peers, shard, skips_silent };
    let newest = asked.promising(stored.clone(), 0).await?;
    asked.promising(newest, epoch).await
}

/// How the nodes are asked.
struct Asked<'a> {
    peers: &'a dyn Peers,
    shard: u32,
    skips_silent: bool,
}

impl Asked<'_> {
    /// Asks all nodes that the entry names or that a newer one names, each of which promises to execute
    /// nothing below `epoch`, and returns the newest entry in an epoch above all promises; with 0 they
    /// promise nothing, and it keeps its epoch.
    async fn promising(&self, stored: Entry, epoch: u64) -> Result<Entry, Error> {
        let shard = self.shard;
        let mut found_at = stored.epoch;
        let mut newest = Entry { epoch, ..stored };
        let mut asked: BTreeSet<NodeId> = BTreeSet::new();
        let mut members = ordered::set(newest.members().cloned());
        while let Some(node) = members.difference(&asked).next().cloned() {
            let request = Request { shard, entry: newest.clone(), action: Action::Recover };
            let reply = match self.peers.ask(&node, request).await {
                Err(_) if self.skips_silent => {
                    asked.insert(node);
                    continue;
                }
                reply => reply?,
            };
            let Outcome::Known { entry, fence } = reply.outcome else {
                let why = format!("shard {shard}: node {node:?} does not say which entry it knows");
                return Err(Error::new(Kind::NotReady, why).retryable());
            };
            let known = entry.as_ref().map_or(0, |entry| entry.epoch);
            if epoch > 0 && fence.max(known) >= newest.epoch {
                // An epoch that was given before: all are asked again with a higher one.
                newest.epoch = fence.max(known) + 1;
                asked.clear();
            }
            asked.insert(node);
            if let Some(entry) = entry {
                members.extend(entry.members().cloned());
                if entry.epoch > found_at {
                    found_at = entry.epoch;
                    newest.slots = entry.slots;
                }
            }
        }
        Ok(Entry { epoch: newest.epoch.max(found_at), ..newest })
    }
}
