//! What the leader does for all: lays shards on nodes, forgets nodes that are gone, and stops when
//! too much happens at once.

use super::Cluster;
use super::membership::{Mode, Node};
use super::publication::{self, Announcement, Document};
use super::shard_map::{Member, ShardMap};
use super::snapshot::Snapshot;
use crate::client::coordination::{Lease, Operation};
use crate::clock::Instant;
use crate::error::{Error, Kind};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// The shortest time from one map to the next, so that many changes make few maps.
const PAUSE: Duration = Duration::from_secs(1);

/// How often the stored map is looked at, besides before each change.
const AUDIT: Duration = Duration::from_secs(60);

/// Members that vanish within this time do so at once.
const AT_ONCE: Duration = Duration::from_secs(60);

/// How long a node that leaves in order may be known without its service.
const LEAVING: Duration = Duration::from_secs(1);

/// By how much the epoch grows at least, and less than twice that, when Consul has lost maps or may
/// have: more than the number of those that may have been lost.
const EPOCH_GAP: u64 = 1000;

/// A leader at work.
struct Work<'a> {
    cluster: &'a Cluster,
    lease: &'a Lease,
    audited: Instant,
    /// Whether Consul may have lost maps that other nodes know and this one does not: before its first
    /// map, since its leadership may come from the loss, and after one whose write it does not know the
    /// outcome of.
    may_be_behind: bool,
}

/// What a leader does until it is ended.
pub(super) async fn work(cluster: &Cluster, lease: &Lease) -> Infallible {
    let mut work = Work { cluster, lease, audited: cluster.now(), may_be_behind: true };
    let mut changes = cluster.changes();
    loop {
        let snapshot = Arc::clone(&changes.borrow_and_update());
        let begun = cluster.now();
        if let Err(error) = work.act(&snapshot).await {
            tracing::info!(%error, "the leader tries again");
        }
        cluster.sleep_until(begun + PAUSE).await;
        let due = work.next_deadline(&snapshot, begun);
        tokio::select! {
            _ = changes.changed() => {}
            () = cluster.sleep_until(due) => {}
        }
    }
}

impl Work<'_> {
    /// When something is due that nothing else announces, and was not yet when it was looked last.
    fn next_deadline(&self, snapshot: &Snapshot, looked: Instant) -> Instant {
        let options = self.cluster.options();
        let of_nodes = snapshot.nodes.values().filter_map(|node| node.down_since);
        let of_nodes = of_nodes
            .flat_map(|since| [since + options.replace_after, since + options.forget_after]);
        let vanished = snapshot.nodes.values().filter_map(|node| node.vanished);
        let of_nodes = of_nodes.chain(vanished.map(|since| since + LEAVING));
        let others = [self.audited + AUDIT, self.cluster.unsettled_until()];
        of_nodes.chain(others).filter(|at| *at > looked).min().unwrap_or(looked + AUDIT)
    }

    async fn act(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let now = self.cluster.now();
        if !snapshot.nodes.contains_key(&self.cluster.options().node_id)
            || now < self.cluster.unsettled_until()
        {
            // Consul has lost data, and perhaps not yet been told by all what they know.
            return Ok(());
        }
        if self.freeze(snapshot, now).await? {
            return Ok(());
        }
        self.forget(snapshot, now).await?;
        let is_due = now >= self.audited + AUDIT;
        if is_due || self.wants_change(snapshot) {
            self.publish(snapshot).await?;
            self.audited = now;
        }
        Ok(())
    }

    /// Freezes the map when too many members have vanished at once, and thaws it when they are back;
    /// whether it did either, or has yet to see which of them leave in order.
    async fn freeze(&self, snapshot: &Snapshot, now: Instant) -> Result<bool, Error> {
        let limit = (snapshot.nodes.len() / 3).max(1);
        let is_missing = |node: &&Node| match snapshot.frozen.as_slice() {
            [] => node.vanished.is_some_and(|since| now < since + AT_ONCE),
            frozen => !node.is_live && frozen.contains(&node.record.id),
        };
        let missing = snapshot.nodes.values().filter(is_missing);
        let mut frozen: Vec<String> = missing.map(|node| node.record.id.clone()).collect();
        if frozen.len() <= limit {
            frozen.clear();
        } else if snapshot.frozen.is_empty() {
            let mut vanished = snapshot.nodes.values().filter_map(|node| node.vanished);
            if vanished.any(|since| now < since + LEAVING) {
                return Ok(true);
            }
        }
        let Some(map) = snapshot.map.as_ref().filter(|_| frozen != snapshot.frozen) else {
            return Ok(false);
        };
        if snapshot.frozen.is_empty() {
            tracing::error!(?frozen, "too many nodes are gone at once; the shard map is frozen");
        }
        let announcement = Announcement::of(map, &frozen);
        let operation = publication::announce(self.cluster.options(), &announcement);
        self.lease.fenced([operation]).await?;
        self.cluster.take_frozen(frozen);
        Ok(true)
    }

    /// Takes the keys of nodes away that are gone for long.
    async fn forget(&self, snapshot: &Snapshot, now: Instant) -> Result<(), Error> {
        let options = self.cluster.options();
        let is_due =
            |node: &&Node| node.down_since.is_some_and(|since| now >= since + options.forget_after);
        for node in snapshot.nodes.values().filter(is_due) {
            let id = &node.record.id;
            let delete: Operation = vec![
                ("Verb", "delete-cas".into()),
                ("Key", options.node_key(id).into()),
                ("Index", node.modify_index.into()),
            ];
            match self.lease.fenced([delete]).await {
                Ok(_) => tracing::warn!(node = id, "forgotten: it was down for too long"),
                // It has come back and written its key.
                Err(error) if error.kind() == Kind::TxnFailed => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn may_change(&self, snapshot: &Snapshot) -> bool {
        let live = snapshot.live().count();
        let newest = snapshot.live().map(|node| node.record.map_epoch).max().unwrap_or(0);
        let known = snapshot.map.as_ref().map_or(0, |map| map.epoch());
        // Whoever has a newer map than Consul puts it back.
        live >= self.cluster.options().min_nodes && snapshot.frozen.is_empty() && newest <= known
    }

    fn wants_change(&self, snapshot: &Snapshot) -> bool {
        if !self.may_change(snapshot) {
            return false;
        }
        match &snapshot.map {
            Some(map) => map.rebalanced(&self.members(snapshot, map), 0).is_some(),
            None => self.candidates(snapshot).any(|node| node.record.mode != Mode::Draining),
        }
    }

    /// Those that may have shards or have them: who lives, and who is away for a short time.
    fn candidates<'s>(&'s self, snapshot: &'s Snapshot) -> impl Iterator<Item = &'s Node> {
        let now = self.cluster.now();
        let is_here = move |node: &&Node| {
            let replace_after = self.cluster.options().replace_after;
            node.down_since.is_none_or(|since| now < since + replace_after)
        };
        let nodes = snapshot.nodes.values();
        nodes.filter(is_here)
    }

    /// The candidates for the next map. One that was never live gets nothing until it is.
    fn members(&self, snapshot: &Snapshot, map: &ShardMap) -> Vec<Member> {
        let candidates = self.candidates(snapshot);
        candidates
            .filter(|node| node.is_live || map.has(&node.record.id))
            .map(|node| Member {
                id: node.record.id.clone(),
                zone: node.record.zone.clone(),
                weight: match node.record.mode {
                    Mode::Draining => 0.0,
                    _ => node.record.weight,
                },
                ready: node.record.ready.clone(),
                is_away: !node.is_live,
            })
            .collect()
    }

    /// Writes the next map, if one is due or what is stored is none.
    async fn publish(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let options = self.cluster.options();
        let stored = publication::read(self.cluster.client(), options).await?;
        let token = self.lease.token();
        let held = snapshot.map.as_deref();
        let stored_map = match &stored.map {
            Document::Map(map) => Some(map),
            _ => None,
        };
        let stored_epoch = stored_map.map_or(0, ShardMap::epoch);
        let newest = match held {
            Some(held) if held.epoch() > stored_epoch => Some(held),
            _ => stored_map,
        };
        let is_lost = newest.is_some_and(|newest| newest.epoch() > stored_epoch);
        let next = match newest {
            _ if !self.may_change(snapshot) => None,
            Some(map) => match map.rebalanced(&self.members(snapshot, map), token) {
                Some((next, moves)) => {
                    tracing::info!(epoch = next.epoch(), moves, "the shard map changes");
                    Some(next)
                }
                None => matches!(stored.map, Document::Garbled(..)).then(|| map.clone()),
            },
            None => {
                let empty = ShardMap::first(options.shards, options.replicas, &[], token);
                let members = self.members(snapshot, &empty);
                let first = ShardMap::first(options.shards, options.replicas, &members, token);
                members.iter().any(|member| member.weight > 0.0).then_some(first)
            }
        };
        let next = match next {
            Some(next) if is_lost || (self.may_be_behind && newest.is_some()) => {
                let chance = self.cluster.client().chance();
                let epoch = next.epoch() + EPOCH_GAP + (chance * EPOCH_GAP as f64) as u64;
                next.with_epoch(epoch)
            }
            Some(next) => next,
            None => {
                // Nothing is to change; what another has written since is taken over.
                if let Document::Map(map) = stored.map {
                    self.cluster.adopt(map);
                }
                return Ok(());
            }
        };
        let operations = publication::replacement(options, &stored, &next, &snapshot.frozen);
        self.may_be_behind = true;
        self.lease.fenced(operations).await?;
        self.may_be_behind = false;
        self.cluster.adopt(next);
        Ok(())
    }
}
