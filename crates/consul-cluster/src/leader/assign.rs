//! The leader's work: assigns shards to nodes, removes nodes that are gone, and freezes the map when
//! too many nodes vanish at once.

use super::fitness;
use crate::Cluster;
use crate::nodes::kept_mode;
use crate::nodes::node::{Mode, Node};
use crate::nodes::settings;
use crate::pauses::REFUSED_PAUSE;
use crate::shard_map::publication::{self, Announcement, Content};
use crate::shard_map::{Member, ShardMap};
use crate::snapshot::Snapshot;
use consul_api::error::{Error, Kind};
use consul_client::coordination::{Lease, delete_unchanged};
use consul_process::clock::Instant;
use std::convert::Infallible;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

/// The shortest time between two maps, so that many changes at once make few maps.
const MIN_MAP_INTERVAL: Duration = Duration::from_secs(1);

/// How often the stored map is read back if nothing changes: another program's value is not there for long.
const AUDIT_INTERVAL: Duration = Duration::from_secs(4);

/// Members that vanish within this time count as vanished at once.
const MASS_FAILURE_WINDOW: Duration = Duration::from_secs(60);

/// A node that leaves gracefully may be listed for this long without its service.
const LEAVE_GRACE: Duration = Duration::from_secs(1);

/// The state of the leader's work during one leadership.
struct Duty<'a> {
    cluster: &'a Cluster,
    lease: &'a Lease,
    audited: Instant,
    /// Whether other nodes may know newer maps that Consul has lost: before this leader's first map,
    /// since the loss may be the cause of its election, and after a write with an unknown outcome.
    may_be_behind: bool,
}

/// Does the leader's work until this future is dropped.
pub(crate) async fn run(cluster: &Cluster, lease: &Lease) -> Infallible {
    let mut duty = Duty { cluster, lease, audited: cluster.now(), may_be_behind: true };
    let mut changes = cluster.changes();
    loop {
        let snapshot = Arc::clone(&changes.borrow_and_update());
        let begun = cluster.now();
        let failed = duty.reconcile(&snapshot).await.err();
        let mut due = duty.next_deadline(&snapshot, begun);
        if let Some(error) = failed {
            tracing::info!(%error, "the leader's work failed; it is retried");
            due = due.min(begun + REFUSED_PAUSE);
        }
        cluster.sleep_until(begun + MIN_MAP_INTERVAL).await;
        tokio::select! {
            biased;
            _ = changes.changed() => {}
            () = cluster.sleep_until(due) => {}
        }
    }
}

impl Duty<'_> {
    /// The next time after `checked` at which work is due without a change of the snapshot.
    fn next_deadline(&self, snapshot: &Snapshot, checked: Instant) -> Instant {
        let options = self.cluster.options();
        let of_nodes = snapshot.nodes.values().filter_map(|node| node.down_since);
        let of_nodes = of_nodes
            .flat_map(|since| [since + options.replace_after, since + options.forget_after]);
        let vanished = snapshot.nodes.values().filter_map(|node| node.vanished_at);
        let of_nodes = of_nodes.chain(vanished.map(|at| at + LEAVE_GRACE));
        let others = [self.audited + AUDIT_INTERVAL, self.cluster.hold_off_until()];
        of_nodes.chain(others).filter(|at| *at > checked).min().unwrap_or(checked + AUDIT_INTERVAL)
    }

    async fn reconcile(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let now = self.cluster.now();
        if !snapshot.nodes.contains_key(&self.cluster.options().node_id)
            || now < self.cluster.hold_off_until()
        {
            // Consul may have lost data that another node is about to restore.
            return Ok(());
        }
        if self.freeze(snapshot, now).await? {
            return Ok(());
        }
        if snapshot.paused.is_none() {
            self.forget(snapshot, now).await?;
        }
        let is_due = now >= self.audited + AUDIT_INTERVAL;
        if is_due || self.needs_change(snapshot) {
            self.publish(snapshot).await?;
            self.audited = now;
        }
        Ok(())
    }

    /// Freezes the map when too many members have vanished at once, and thaws it when they are back.
    /// Returns true if it did either, or must wait to see which of them leave gracefully.
    async fn freeze(&self, snapshot: &Snapshot, now: Instant) -> Result<bool, Error> {
        let limit = (snapshot.nodes.len() / 3).max(1);
        let is_missing = |node: &&Node| match snapshot.frozen.as_slice() {
            [] => node.vanished_at.is_some_and(|at| now < at + MASS_FAILURE_WINDOW),
            frozen => !node.is_live && frozen.contains(&node.record.id),
        };
        let missing = snapshot.nodes.values().filter(is_missing);
        let mut frozen: Vec<String> = missing.map(|node| node.record.id.clone()).collect();
        if frozen.len() <= limit {
            frozen.clear();
        } else if snapshot.frozen.is_empty() {
            let mut vanished = snapshot.nodes.values().filter_map(|node| node.vanished_at);
            if vanished.any(|at| now < at + LEAVE_GRACE) {
                return Ok(true);
            }
        }
        let Some(map) = snapshot.map.as_ref().filter(|_| frozen != snapshot.frozen) else {
            return Ok(false);
        };
        if snapshot.frozen.is_empty() {
            tracing::error!(?frozen, "too many nodes vanished at once; the shard map is frozen");
        }
        let announcement =
            Announcement { restored: snapshot.is_restored, ..Announcement::of(map, &frozen) };
        let operation = publication::announce(self.cluster.options(), &announcement);
        fitness::write(self.cluster, self.lease, [operation]).await?;
        publication::apply_frozen(self.cluster, frozen);
        Ok(true)
    }

    /// Removes the keys of nodes that were down for `forget_after`.
    async fn forget(&self, snapshot: &Snapshot, now: Instant) -> Result<(), Error> {
        let options = self.cluster.options();
        let is_due =
            |node: &&Node| node.down_since.is_some_and(|since| now >= since + options.forget_after);
        for node in snapshot.nodes.values().filter(is_due) {
            let id = &node.record.id;
            let delete = delete_unchanged(&options.node_key(id), node.modify_index);
            let operations =
                iter::once(delete).chain(kept_mode::keep(options, id, node.record.mode));
            match fitness::write(self.cluster, self.lease, operations).await {
                Ok(_) => tracing::warn!(node = id, "removed: it was down for too long"),
                // The node is back and has written its key.
                Err(error) if error.kind() == Kind::TxnFailed => {}
                // The map is published nevertheless.
                Err(error) if error.kind() == Kind::PermissionDenied => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn may_change(&self, snapshot: &Snapshot) -> bool {
        self.may_write(snapshot) && !self.is_paused(snapshot)
    }

    fn is_paused(&self, snapshot: &Snapshot) -> bool {
        snapshot.paused.is_some() && snapshot.map.is_some()
    }

    fn may_write(&self, snapshot: &Snapshot) -> bool {
        let live = snapshot.live().count();
        let newest = snapshot.live().map(|node| node.record.map_epoch).max().unwrap_or(0);
        let known = snapshot.map.as_ref().map_or(0, |map| map.epoch());
        // A live node with a newer map than this one is about to restore it.
        live >= self.cluster.options().min_nodes && snapshot.frozen.is_empty() && newest <= known
    }

    fn needs_change(&self, snapshot: &Snapshot) -> bool {
        if !self.may_change(snapshot) {
            return false;
        }
        match &snapshot.map {
            Some(map) => {
                self.is_from_before_a_loss(snapshot, map)
                    || map.rebalanced(&self.members(snapshot, map), 0).is_some()
            }
            None => self.candidates(snapshot).any(|node| node.record.mode != Mode::Draining),
        }
    }

    /// Whether Consul has lost data since this map was made: it had lost the map, or an earlier leader with
    /// this map had a higher fencing token. The epoch is raised then, so that the pair of epoch and token
    /// only grows.
    fn is_from_before_a_loss(&self, snapshot: &Snapshot, map: &ShardMap) -> bool {
        snapshot.is_restored || (map.epoch(), self.lease.token()) < self.cluster.newest_leadership()
    }

    /// The nodes that may have shards: the live ones, and those down for less than `replace_after`.
    fn candidates<'s>(&'s self, snapshot: &'s Snapshot) -> impl Iterator<Item = &'s Node> {
        let now = self.cluster.now();
        let is_candidate = move |node: &&Node| {
            let replace_after = self.cluster.options().replace_after;
            node.down_since.is_none_or(|since| now < since + replace_after)
        };
        let nodes = snapshot.nodes.values();
        nodes.filter(is_candidate)
    }

    /// The members for the next map: the candidates without those that are down and have no shards.
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
                is_down: !node.is_live,
            })
            .collect()
    }

    /// Writes the next map if the assignment changes or the stored document is not a map.
    async fn publish(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let options = self.cluster.options();
        let stored = publication::read(self.cluster.client(), options).await?;
        if matches!(&stored.map, Content::Map(map) if settings::is_foreign(self.cluster, map)) {
            // This node puts its own map back, or ends.
            return Ok(());
        }
        let token = self.lease.token();
        let held = snapshot.map.as_deref();
        let stored_map = match &stored.map {
            Content::Map(map) => Some(map),
            _ => None,
        };
        let stored_epoch = stored_map.map_or(0, ShardMap::epoch);
        let newest = match held {
            Some(held) if held.epoch() > stored_epoch => Some(held),
            _ => stored_map,
        };
        let is_lost = newest.is_some_and(|newest| {
            newest.epoch() > stored_epoch || self.is_from_before_a_loss(snapshot, newest)
        });
        let is_corrupt = matches!(stored.map, Content::Corrupt(..));
        let is_gone = matches!(stored.map, Content::Absent);
        let next = match newest {
            // A pause stops moves, not the return of the map, and not the epoch that shows its loss.
            Some(map) if self.is_paused(snapshot) && self.may_write(snapshot) => match is_lost {
                true => Some(map.clone().with_token(token)),
                false => (is_corrupt || is_gone).then(|| map.clone()),
            },
            _ if !self.may_change(snapshot) => None,
            Some(map) => match map.rebalanced(&self.members(snapshot, map), token) {
                Some((next, moves)) => {
                    tracing::info!(epoch = next.epoch(), moves, "new shard map");
                    Some(next)
                }
                None if is_lost => Some(map.clone().with_token(token)),
                None => is_corrupt.then(|| map.clone()),
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
                let epoch = self.cluster.beyond(next.epoch());
                next.with_epoch(epoch)
            }
            Some(next) => next,
            None => {
                // No change is needed; a newer map in Consul is adopted.
                if let Content::Map(map) = stored.map
                    && held != Some(&map)
                {
                    publication::confirm(self.cluster, stored.index).await?;
                    publication::adopt(self.cluster, map);
                }
                return Ok(());
            }
        };
        let announcement = Announcement::of(&next, &snapshot.frozen);
        let operations = publication::replacement(options, &stored, &next, &announcement);
        self.may_be_behind = true;
        fitness::write(self.cluster, self.lease, operations).await?;
        self.may_be_behind = false;
        publication::apply_restored(self.cluster, false);
        publication::adopt(self.cluster, next);
        Ok(())
    }
}
