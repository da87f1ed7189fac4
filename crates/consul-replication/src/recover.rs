//! The leader's work before it changes an entry after Consul lost its data or went back in time. It learns that
//! from a node that knows a newer map, or a newer entry of a shard: entries are on the disks before they are used, the
//! map a few seconds later.
//!
//! Nodes and clients may go on with entries that Consul has lost. So each holder and target of the entry,
//! and of each newer entry that one of them knows, promises to execute nothing in older epochs, and says the
//! newest entry that it knows. That one is put back in a new epoch.
//!
//! Nodes that do not answer may know newer entries. They cannot have brought a quorum together in one of them,
//! nor ended a change of another slot, if the others that promise leave neither a quorum nor what a failover
//! fences. So these are enough: holders of slots without a change, with the disks that the entry names, as many as a
//! failover fences and as the smaller quorum has. The silent holders must have slots without a change too: a holder
//! that was being replaced may have dropped its replica since. With fewer the entry stays as it is until they answer,
//! or an operator decides.

use super::map::{Entry, NodeId, Place, StoreId};
use super::message::{Action, Outcome, Request};
use super::peers::Peers;
use consul_api::error::{Error, Kind};
use std::collections::{BTreeMap, BTreeSet};

/// How far beyond all epochs that it learns of the leader goes when nodes are silent: farther than maps
/// that only these have seen can go.
const LEAP: u64 = 1_000_000;

/// How the leader asks about a shard.
pub struct Inquiry<'a> {
    /// The way to the nodes.
    pub peers: &'a dyn Peers,
    /// The store.
    pub store: Option<StoreId>,
    /// The shard.
    pub shard: u32,
    /// Whether a node has reported that it has this disk, and not that the replica is missing.
    pub has: &'a (dyn Fn(&Place) -> bool + Sync),
    /// The nodes that have reported a newer entry.
    pub knowing: &'a BTreeSet<NodeId>,
    /// By the word of an operator: whether silent nodes are left out, however many they are.
    pub skips_silent: bool,
}

/// The answers.
struct Heard {
    /// The newest entry, in the epoch that was promised; if none was, in its own.
    newest: Entry,
    /// The highest epoch that somebody knows or has promised.
    highest: u64,
    /// The nodes that did not answer.
    silent: BTreeMap<NodeId, Error>,
}

/// Whether no write can have been acknowledged in a newer entry of a shard that begins with the end of its changes,
/// when none of the nodes that live knows one: such an entry is on the disks of a quorum of writes before it is used,
/// and so few of its holders are away that each quorum has a living one.
pub fn is_newest(
    entry: &Entry,
    has: impl Fn(&Place) -> bool,
    lives: impl Fn(&NodeId) -> bool,
) -> bool {
    let mut holders = 0;
    let mut live = 0;
    for slot in &entry.slots {
        let Some(place) = &slot.holder else { continue };
        holders += 1;
        live += usize::from(match &slot.change {
            Some(change) => lives(&change.to),
            None => has(place),
        });
    }
    // While the numbers change, newer entries may have smaller quorums.
    let write = if entry.changing.is_some() { 1 } else { entry.quorums.write };
    live + write > holders
}

impl Inquiry<'_> {
    /// Finds the newest entry of the shard, whose entry in Consul is `stored`, and returns it with a new epoch of at
    /// least `epoch`.
    ///
    /// A node that answers, and then cannot promise, such as with a full disk, is silent from then on: it may know entries
    /// of the epoch that it was asked about, so the others are asked again for one far beyond.
    ///
    /// # Errors
    /// [`Kind::NotReady`] or errors of the call if too few nodes answer. If they were silent from the beginning,
    /// no other node has promised anything, and all go on with the entry that they know.
    pub async fn newest(&self, stored: &Entry, epoch: u64) -> Result<Entry, Error> {
        let mut silent = BTreeMap::new();
        loop {
            let known = self.promising(stored.clone(), 0, silent).await?;
            let is_silent = !known.silent.is_empty();
            let epoch = if is_silent { epoch.max(known.highest + LEAP) } else { epoch };
            let before = known.silent.len();
            let promised = self.promising(known.newest, epoch, known.silent).await?;
            if promised.silent.len() == before || self.skips_silent {
                return Ok(promised.newest);
            }
            silent = promised.silent;
        }
    }

    /// Asks all nodes that the entry names or that a newer one names; each promises to execute
    /// nothing below `epoch`, or below a higher one if others have promised that; with 0 they promise nothing.
    async fn promising(
        &self,
        stored: Entry,
        epoch: u64,
        mut silent: BTreeMap<NodeId, Error>,
    ) -> Result<Heard, Error> {
        let beyond = if silent.is_empty() { 1 } else { LEAP };
        let (mut highest, mut found, mut epoch) = (stored.epoch, stored, epoch);
        let mut asked: BTreeSet<NodeId> = BTreeSet::from_iter(silent.keys().cloned());
        let mut members = BTreeSet::from_iter(found.members().chain(self.knowing).cloned());
        while let Some(node) = members.difference(&asked).next().cloned() {
            let entry = Entry { epoch, ..found.clone() };
            let (entry, fence) = match self.ask(&node, entry).await {
                Ok(answer) => answer,
                Err(why) => {
                    asked.insert(node.clone());
                    silent.insert(node, why);
                    continue;
                }
            };
            let known = entry.as_ref().map_or(0, |entry| entry.epoch);
            highest = highest.max(fence).max(known);
            if epoch > 0 && highest >= epoch {
                // An epoch that was given before: all are asked again with a higher one.
                epoch = highest + beyond;
                asked = BTreeSet::from_iter(silent.keys().cloned());
            }
            asked.insert(node);
            if let Some(entry) = entry {
                members.extend(entry.members().cloned());
                if entry.epoch > found.epoch {
                    found = entry;
                }
            }
        }
        if !self.skips_silent
            && !self.is_enough(&found, &silent).await
            && let Some(why) = silent.values().next()
        {
            return Err(why.clone());
        }
        let newest = Entry { epoch: epoch.max(found.epoch), ..found };
        Ok(Heard { newest, highest, silent })
    }

    /// Asks a node: the newest entry that it knows, and the epoch below which it has promised to execute nothing.
    async fn ask(&self, node: &NodeId, entry: Entry) -> Result<(Option<Entry>, u64), Error> {
        let (store, shard) = (self.store, self.shard);
        let request = Request { store, shard, entry, action: Action::Recover };
        match self.peers.ask(node, request).await?.outcome {
            Outcome::Known { entry, fence } => Ok((entry, fence)),
            _ => {
                let why = format!("shard {shard}: node {node:?} does not say which entry it knows");
                Err(Error::new(Kind::NotReady, why).retryable())
            }
        }
    }

    /// Whether those that have answered are enough for the newest entry that they know.
    async fn is_enough(&self, newest: &Entry, silent: &BTreeMap<NodeId, Error>) -> bool {
        if silent.is_empty() {
            return true;
        }
        // While the numbers change, a newer entry may have smaller quorums.
        if silent.keys().any(|node| self.knowing.contains(node)) || newest.changing.is_some() {
            return false;
        }
        let mut count = 0;
        for slot in &newest.slots {
            let Some(place) = &slot.holder else { continue };
            let is_silent = silent.contains_key(&place.node);
            if is_silent && slot.change.is_some() {
                return false;
            }
            if !is_silent && slot.change.is_none() && self.is_whole(place, newest).await {
                count += 1;
            }
        }
        count >= newest.fenced().max(newest.quorums.least())
    }

    /// Whether a replica is still on the disk of its node's promise: a new disk has forgotten that.
    async fn is_whole(&self, place: &Place, entry: &Entry) -> bool {
        if !(self.has)(place) {
            return false;
        }
        // Only a whole replica answers this request, and a promise does not refuse it.
        let action = Action::Fetch(Vec::new());
        let (store, shard) = (self.store, self.shard);
        let request = Request { store, shard, entry: entry.clone(), action };
        let reply = self.peers.ask(&place.node, request).await;
        reply.is_ok_and(|reply| matches!(reply.outcome, Outcome::Page { .. }))
    }
}
