//! The places of a shard's replicas: its entry in the map of a store.
//!
//! A shard has N slots. A slot changes hands in two ways: a move copies the one replica that leaves, a
//! failover copies the union of others. Each is planned in one epoch and committed or cancelled in a
//! later one, and each change of an entry gives it a new epoch.

use super::record::Version;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The name of a node.
pub type NodeId = Arc<str>;

/// The random id of a disk: a node whose records are lost comes back with another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Disk(pub u64);

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The random id of a store, given with its first map: two stores of one name are distinguished by it, and so
/// are their disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(pub u64);

impl StoreId {
    /// Whether these are two stores. One without an id may be any: a release before ids has made its map.
    pub fn differ(one: Option<StoreId>, other: Option<StoreId>) -> bool {
        one.zip(other).is_some_and(|(one, other)| one != other)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The places of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The version of the map that changed this entry last. Requests name it, and are executed only
    /// where it is the same.
    pub epoch: u64,
    /// The N slots.
    pub slots: Vec<Slot>,
    /// W and R.
    pub quorums: Sizes,
    /// While N, W or R of the store change: the sizes that count for what was written and answered until now, in older
    /// entries too (see [`numbers`](super::numbers)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changing: Option<Sizes>,
    /// Below this version a replica's horizon does not prove that what it lacks was deleted: the replicas were made
    /// without others, whose loss an operator has accepted, and one of those may come back with its records.
    #[serde(default, skip_serializing_if = "Version::is_lowest")]
    pub unproven: Version,
}

/// The sizes of a shard's quorums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sizes {
    /// W: how many replicas store a write before it is acknowledged.
    pub write: usize,
    /// R: how many replicas answer a read.
    pub read: usize,
}

impl Sizes {
    /// A majority of this many replicas for each.
    pub fn majorities(replicas: usize) -> Self {
        let majority = replicas / 2 + 1;
        Sizes { write: majority, read: majority }
    }

    /// The larger of each.
    pub fn max(self, other: Sizes) -> Self {
        Sizes { write: self.write.max(other.write), read: self.read.max(other.read) }
    }

    /// The smaller one of the two.
    pub fn least(self) -> usize {
        self.write.min(self.read)
    }
}

/// One of the N places of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The node whose replica counts, unless a failover replaces it; `None`: it never had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Place>,
    /// The change that was planned and is not committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
}

/// A replica: a node, and the disk on which it is whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// Its disk.
    pub disk: Disk,
    /// Whether it is of the first map, so that it begins empty on a disk that knows nothing of the shard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_first: bool,
}

/// A planned change of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// How.
    pub kind: ChangeKind,
    /// The node that gets the slot.
    pub to: NodeId,
    /// The epoch that planned it, which distinguishes it from earlier ones.
    pub since: u64,
    /// The nodes that a failover does not wait for: they are down or have lost their replicas, and an
    /// operator has accepted that what only they had is lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<NodeId>,
    /// Whether a failover brings together what all holders have that it waits for, also those that may lack
    /// something: too few are whole, and nobody else has more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unites: bool,
}

/// How a slot changes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The holder is copied, and counts until it is sealed.
    Move,
    /// The holder is gone and does not count; others are fenced and copied.
    Failover,
}

impl Change {
    /// A change that was planned in this epoch.
    pub fn new(kind: ChangeKind, to: NodeId, since: u64) -> Self {
        Change { kind, to, since, lost: Vec::new(), unites: false }
    }

    /// Whether a failover ends without a quorum of whole replicas, as soon as it has the remaining records.
    pub fn takes_what_is_left(&self) -> bool {
        self.unites || !self.lost.is_empty()
    }
}

impl Slot {
    /// The slot of a replica without a change.
    pub fn of(place: Place) -> Self {
        Slot { holder: Some(place), change: None }
    }

    /// The replica that counts, if it is whole and not sealed.
    pub fn counting(&self) -> Option<&Place> {
        let is_gone = self.change.as_ref().is_some_and(|it| it.kind == ChangeKind::Failover);
        self.holder.as_ref().filter(|_| !is_gone)
    }

    /// The target of a change.
    pub fn target(&self) -> Option<&NodeId> {
        self.change.as_ref().map(|change| &change.to)
    }

    /// Whether a node is its holder, or the target of its change.
    pub fn names(&self, node: &str) -> bool {
        let holder = self.holder.as_ref().map(|place| &place.node);
        holder.into_iter().chain(self.target()).any(|member| &**member == node)
    }

    /// Whether it never had a holder.
    pub fn is_vacant(&self) -> bool {
        self.holder.is_none()
    }
}

impl Entry {
    /// An entry without accepted losses, with majorities for writes and reads.
    pub fn new(epoch: u64, slots: Vec<Slot>) -> Self {
        let quorums = Sizes::majorities(slots.len());
        Entry { epoch, slots, quorums, changing: None, unproven: Version::default() }
    }

    /// The same entry with other quorums.
    pub fn with_quorums(self, quorums: Sizes) -> Self {
        Entry { quorums, ..self }
    }

    /// The smallest quorums that may have been in use until now: each acknowledged write is on W of them at
    /// least, and an older entry needs R for a read.
    pub fn lasting(&self) -> Sizes {
        self.changing.unwrap_or(self.quorums)
    }

    /// The slots that never had a replica: nothing was written to them.
    pub fn vacant(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_vacant()).count()
    }

    /// How many other slots a failover fences, vacant ones among them: without these no quorum is left in older epochs.
    pub fn fenced(&self) -> usize {
        (self.slots.len() + 1).saturating_sub(self.lasting().least())
    }

    /// How many other slots a failover copies, vacant ones among them: each acknowledged write is on one of these.
    pub fn copied(&self) -> usize {
        (self.slots.len() + 1).saturating_sub(self.lasting().write)
    }

    /// The replicas that count, with the numbers of their slots.
    pub fn counting(&self) -> impl Iterator<Item = (usize, &Place)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(number, slot)| Some((number, slot.counting()?)))
    }

    /// The replica of a node that counts.
    pub fn counting_at(&self, node: &str) -> Option<&Place> {
        self.slots.iter().filter_map(Slot::counting).find(|place| &*place.node == node)
    }

    /// The slot that a node is the target for, and its change.
    pub fn change_to(&self, node: &str) -> Option<(&Slot, &Change)> {
        let mut slots = self.slots.iter().filter_map(|slot| Some((slot, slot.change.as_ref()?)));
        slots.find(|(_, change)| &*change.to == node)
    }

    /// Whether a node is a holder, also a holder that is being replaced, or a target.
    pub fn names(&self, node: &str) -> bool {
        self.slots.iter().any(|slot| slot.names(node))
    }

    /// The holders, those that are being replaced, and the targets.
    pub fn members(&self) -> impl Iterator<Item = &NodeId> {
        self.slots.iter().flat_map(|slot| {
            slot.holder.iter().map(|place| &place.node).chain(slot.change.iter().map(|it| &it.to))
        })
    }

    /// Whether a failover of it brings together what all holders have.
    pub fn unites(&self) -> bool {
        self.slots.iter().filter_map(|slot| slot.change.as_ref()).any(|change| change.unites)
    }

    /// The failover that replaces the replica of a node on this disk.
    pub fn failover_from(&self, node: &str, disk: Disk) -> Option<&Change> {
        let is_holder = |place: &Place| &*place.node == node && place.disk == disk;
        let slot = self.slots.iter().find(|slot| slot.holder.as_ref().is_some_and(is_holder))?;
        slot.change.as_ref().filter(|change| change.kind == ChangeKind::Failover)
    }

    /// The move that copies the replica of a node.
    pub fn move_from(&self, node: &str) -> Option<&Change> {
        let is_source = |slot: &&Slot| slot.holder.as_ref().is_some_and(|it| &*it.node == node);
        let slot = self.slots.iter().find(is_source)?;
        slot.change.as_ref().filter(|change| change.kind == ChangeKind::Move)
    }
}

/// The numbers of replicas: N, the write quorum W and the read quorum R.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorums {
    /// N, 1 or more.
    pub replicas: usize,
    /// W, 1 to N.
    pub write: usize,
    /// R, 1 to N; W + R is more than N.
    pub read: usize,
}

impl Quorums {
    /// Majorities of this many replicas for writes and reads.
    pub fn majorities(replicas: usize) -> Self {
        let Sizes { write, read } = Sizes::majorities(replicas);
        Quorums { replicas, write, read }
    }

    /// W and R.
    pub fn sizes(self) -> Sizes {
        Sizes { write: self.write, read: self.read }
    }
}
