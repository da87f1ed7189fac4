//! The leader's part: what the next map is, given what the nodes report.
//!
//! Changes are committed or cancelled whenever they can be; new ones are planned unless the map is
//! frozen. Each shard has at most one move at a time.

use super::map::{Change, ChangeKind, Disk, Entry, NodeId, Place, Quorums, Sizes, Slot};
use super::record::Version;
use super::rules::{Rule, Rules};
use super::state::{Doubt, Report};
use crate::placement::Candidate;
use crate::placement::rebalancer::{self, Assignment};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

/// The map of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// Its version, which grows with each change.
    pub version: u64,
    /// The entries of the shards.
    pub shards: Vec<Entry>,
}

/// A node as the leader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name.
    pub id: NodeId,
    /// Replicas of a shard are in different zones if there are enough zones.
    pub zone: String,
    /// Its share of the shards relative to the others; 0: it gets none, and those that it has move away.
    pub weight: f64,
    /// The disk that it has now.
    pub disk: Disk,
    /// Whether it is there.
    pub presence: Presence,
    /// Whether its storage fails: it gets no other replicas, and keeps those that it has unless it drains.
    pub is_failing: bool,
    /// The shards whose replicas it makes again from the others, since an operator doubts its records: no move copies these.
    pub to_remake: BTreeSet<u32>,
    /// Its last report.
    pub report: Report,
}

impl Member {
    fn place(&self, is_first: bool) -> Place {
        Place { node: self.id.clone(), disk: self.disk, is_first }
    }

    /// Whether it is there with this replica.
    fn has(&self, shard: u32, place: &Place) -> bool {
        self.presence == Presence::Live
            && self.disk == place.disk
            && !self.report.missing.contains(&shard)
    }

    /// Why what it has of a shard may lack something; `None`: it is whole, or has nothing.
    fn doubt(&self, shard: u32) -> Option<Doubt> {
        let mut doubted = self.report.doubted.iter();
        doubted.find(|(it, _)| *it == shard).map(|(_, doubt)| *doubt)
    }
}

/// Whether a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is there.
    Live,
    /// It is down for less than `replace_after`: nobody gets its slots.
    Down,
    /// It is down for longer: others get its slots.
    Gone,
}

/// The input of a plan.
#[derive(Debug)]
pub struct Planner<'a> {
    /// The nodes.
    pub members: &'a [Member],
    /// N, W and R as they are wanted.
    pub quorums: Quorums,
    /// Whether new changes may be planned: not while the map is frozen.
    pub may_plan: bool,
    /// The changes that make no progress: the shard and the epoch that planned it.
    pub stuck: &'a BTreeSet<(u32, u64)>,
    /// The replicas of each shard whose loss an operator has accepted.
    pub accepted: &'a Accepted,
    /// Above the versions of all writes until now.
    pub now: Version,
    /// The rules in force.
    pub rules: Rules,
}

/// The replicas of each shard whose loss an operator has accepted: those that were missing then.
pub type Accepted = BTreeMap<u32, BTreeSet<Place>>;

impl Map {
    /// The first map, of this version: its shards are empty.
    pub fn first(shards: usize, version: u64, planner: &Planner<'_>) -> Self {
        let empty = vec![Vec::new(); shards];
        let (candidates, members) = Plan::of(planner).candidates(|_| usize::MAX);
        let placed = rebalancer::rebalance(&candidates, planner.quorums.replicas, &empty, &empty);
        let entry = |places: Vec<usize>| {
            let slot = |place: usize| Slot::of(members[place].place(true));
            let mut slots: Vec<Slot> = places.into_iter().map(slot).collect();
            slots.resize_with(planner.quorums.replicas, Slot::default);
            Entry::new(version, slots).with_quorums(planner.quorums.sizes())
        };
        Map { version, shards: placed.into_iter().map(entry).collect() }
    }

    /// The next map; `None` if nothing changes.
    pub fn next(&self, planner: &Planner<'_>) -> Option<Map> {
        let plan = Plan::of(planner);
        let in_progress =
            self.shards.iter().flat_map(|it| &it.slots).filter(|it| it.change.is_some());
        plan.budget.set(MAX_CHANGES.saturating_sub(in_progress.count()));
        let fences = plan.fences();
        let version = self.version.max(fences.values().copied().max().unwrap_or(0)) + 1;
        let settled = self.shards.iter().enumerate();
        let mut entries: Vec<Entry> =
            settled.map(|(shard, entry)| plan.settled(shard as u32, entry, version)).collect();
        if planner.may_plan {
            plan.place(&mut entries, version);
            plan.replace(&mut entries, version);
        }
        for (shard, entry) in entries.iter_mut().enumerate() {
            plan.note_losses(shard as u32, entry);
        }
        let shards = self.shards.iter().enumerate().zip(entries).map(|((shard, entry), next)| {
            let fence = fences.get(&(shard as u32)).copied().unwrap_or(0);
            if *entry == next && fence <= entry.epoch {
                entry.clone()
            } else {
                let next = Entry { epoch: version, ..next };
                let shard = shard as u32;
                match plan.accepts(shard, &entry.slots) || plan.accepts(shard, &next.slots) {
                    true => Entry { unproven: next.unproven.max(planner.now), ..next },
                    false => next,
                }
            }
        });
        let next = Map { version, shards: shards.collect() };
        (next.shards != self.shards).then_some(next)
    }

    /// The replicas of a shard that are missing: their nodes are away, or have lost them.
    pub fn missing(&self, shard: u32, members: &[Member]) -> BTreeSet<Place> {
        let member = |id: &NodeId| members.iter().find(|member| member.id == *id);
        let slots = self.shards.get(shard as usize).into_iter().flat_map(|entry| &entry.slots);
        let holders = slots.filter_map(|slot| slot.holder.as_ref());
        let is_missing =
            |place: &&Place| !member(&place.node).is_some_and(|it| it.has(shard, place));
        BTreeSet::from_iter(holders.filter(is_missing).cloned())
    }

    /// The same map with new epochs for all entries, after Consul went back.
    pub fn raised(&self, version: u64) -> Map {
        let raised = |entry: &Entry| Entry { epoch: version, ..entry.clone() };
        Map { version, shards: self.shards.iter().map(raised).collect() }
    }
}

/// The most changes in progress at the same time, so that the map fits into a transaction of Consul.
pub const MAX_CHANGES: usize = 4096;

/// A plan that is being made.
struct Plan<'a> {
    planner: &'a Planner<'a>,
    members: BTreeMap<&'a str, &'a Member>,
    /// How many changes may begin.
    budget: Cell<usize>,
}

impl<'a> Plan<'a> {
    fn of(planner: &'a Planner<'a>) -> Self {
        let members =
            BTreeMap::from_iter(planner.members.iter().map(|member| (&*member.id, member)));
        Plan { planner, members, budget: Cell::new(MAX_CHANGES) }
    }

    /// Whether another change may begin, which then counts.
    fn may_begin(&self) -> bool {
        let budget = self.budget.get();
        self.budget.set(budget.saturating_sub(1));
        budget > 0
    }

    fn member(&self, id: &str) -> Option<&'a Member> {
        self.members.get(id).copied()
    }

    /// The highest fence of each shard: a node that was asked after Consul went back, and whose answer was
    /// not used, executes nothing before the entry is above it.
    fn fences(&self) -> BTreeMap<u32, u64> {
        let mut fences = BTreeMap::new();
        for (shard, fence) in self.members.values().flat_map(|member| &member.report.fenced) {
            let highest = fences.entry(*shard).or_insert(0);
            *highest = (*fence).max(*highest);
        }
        fences
    }

    fn presence(&self, id: &str) -> Presence {
        self.member(id).map_or(Presence::Gone, |member| member.presence)
    }

    /// The nodes that may have slots; one whose storage fails as many as are `given`.
    fn candidates(&self, given: impl Fn(&NodeId) -> usize) -> (Vec<Candidate>, Vec<&'a Member>) {
        let is_candidate = |it: &&Member| it.weight > 0.0 && it.presence != Presence::Gone;
        let members: Vec<&Member> = self.planner.members.iter().filter(is_candidate).collect();
        let candidate = |member: &&Member| Candidate {
            weight: member.weight,
            zone: member.zone.clone(),
            max_replicas: if member.is_failing { given(&member.id) } else { usize::MAX },
        };
        (members.iter().map(candidate).collect(), members)
    }

    /// Whether a holder is there with the disk that its slot names.
    fn is_whole(&self, shard: u32, slot: &Slot) -> bool {
        let Some(holder) = &slot.holder else { return false };
        self.member(&holder.node).is_some_and(|member| member.has(shard, holder))
    }

    /// Whether the holder that a failover replaces is back with its replica.
    fn has_returned(&self, shard: u32, slot: &Slot, change: &Change) -> bool {
        let holder = slot.holder.as_ref().and_then(|place| self.member(&place.node));
        holder.is_some_and(|member| {
            member.presence == Presence::Live
                && member.report.returned.contains(&(shard, change.since))
        })
    }

    /// Whether a slot may leave its holder without its help: it is to have none, its storage fails, and enough others work.
    /// As for a node that is gone, two replicas have to answer each read and each write: this one may not learn that it
    /// has been replaced.
    fn is_spared(&self, shard: u32, slot: &Slot, entry: &Entry) -> bool {
        let member = |slot: &Slot| slot.holder.as_ref().and_then(|place| self.member(&place.node));
        let leaves = member(slot).is_some_and(|it| it.weight == 0.0 && it.is_failing);
        let works = |other: &&Slot| member(other).is_some_and(|it| !it.is_failing);
        let Sizes { write, read } = entry.quorums;
        leaves && write.min(read) > 1 && self.finds_enough(shard, entry, slot, works)
    }

    /// Whether a holder is there and is to make its replica again: it gives it up by itself, and nothing copies it before.
    fn is_remade(&self, shard: u32, slot: &Slot) -> bool {
        let holder = slot.holder.as_ref().and_then(|place| self.member(&place.node));
        self.is_whole(shard, slot) && holder.is_some_and(|it| it.to_remake.contains(&shard))
    }

    /// Whether a holder's data are lost: it is there without them.
    fn is_lost(&self, shard: u32, slot: &Slot) -> bool {
        let Some(holder) = &slot.holder else { return false };
        let is_there = self.presence(&holder.node) == Presence::Live;
        is_there && !self.is_whole(shard, slot)
    }

    /// The entry after commits, cancels, and failovers that cannot wait.
    fn settled(&self, shard: u32, entry: &Entry, version: u64) -> Entry {
        let slots = entry.slots.iter();
        let slots = slots.map(|slot| self.settled_slot(shard, slot, entry, version)).collect();
        let mut next = Entry { slots, ..entry.clone() };
        next.quorums = entry.grown(next.slots.len() - next.vacant());
        next
    }

    fn settled_slot(&self, shard: u32, slot: &Slot, entry: &Entry, version: u64) -> Slot {
        let failover = |to: &NodeId| {
            let change = Change::new(ChangeKind::Failover, to.clone(), version);
            Slot { change: Some(change), ..slot.clone() }
        };
        let Some(change) = &slot.change else {
            // A disk that is lost is replaced on the same node.
            return match &slot.holder {
                Some(holder) if self.is_lost(shard, slot) && self.may_begin() => {
                    failover(&holder.node)
                }
                _ => slot.clone(),
            };
        };
        let target = self.member(&change.to);
        let has_finished =
            target.is_some_and(|it| it.report.finished.contains(&(shard, change.since)));
        if let Some(target) = target.filter(|_| has_finished) {
            return Slot::of(target.place(false));
        }
        let is_stuck = self.planner.stuck.contains(&(shard, change.since));
        let is_out = self.is_out(&change.to);
        let cancelled = Slot { change: None, ..slot.clone() };
        match change.kind {
            ChangeKind::Move if self.is_lost(shard, slot) || self.is_gone(slot) => {
                failover(&change.to)
            }
            ChangeKind::Move if is_stuck && !is_out && self.is_spared(shard, slot, entry) => {
                failover(&change.to)
            }
            ChangeKind::Move if is_out || is_stuck || self.is_remade(shard, slot) => cancelled,
            // A replica that is lost is made before another one moves: the move may wait for it, and have its only target.
            ChangeKind::Move if self.planner.may_plan && self.lacks(entry) => cancelled,
            ChangeKind::Failover
                if self.has_returned(shard, slot, change)
                    && !self.is_spared(shard, slot, entry) =>
            {
                cancelled
            }
            // Another target is chosen among all.
            ChangeKind::Failover
                if self.planner.may_plan && (is_out || self.has_failed(shard, change, entry)) =>
            {
                self.substitute(shard, slot, change).map_or_else(|| slot.clone(), failover)
            }
            _ => slot.clone(),
        }
    }

    /// The holder itself, if it is back without its data. With them it cannot be one, since a target begins
    /// empty.
    fn substitute<'b>(&self, shard: u32, slot: &'b Slot, change: &Change) -> Option<&'b NodeId> {
        let holder = slot.holder.as_ref()?;
        let is_lost = self.is_lost(shard, slot) && holder.node != change.to;
        is_lost.then_some(&holder.node)
    }

    /// Whether a node is not to get a replica: it is not there, or is to have none.
    fn is_out(&self, id: &str) -> bool {
        self.member(id).is_none_or(|it| it.presence != Presence::Live || it.weight == 0.0)
    }

    /// Whether a replica of a shard is gone, and nobody makes it.
    fn lacks(&self, entry: &Entry) -> bool {
        entry.slots.iter().any(|slot| slot.change.is_none() && self.is_gone(slot))
    }

    fn is_gone(&self, slot: &Slot) -> bool {
        slot.holder.as_ref().is_some_and(|it| self.presence(&it.node) == Presence::Gone)
    }

    /// Whether the target of a failover makes no progress although all replicas that it copies are there.
    fn has_failed(&self, shard: u32, change: &Change, entry: &Entry) -> bool {
        let slots = &entry.slots;
        let has_source = |slot: &&Slot| slot.target() == Some(&change.to);
        let waits = slots.iter().find(has_source).is_some_and(|slot| {
            !change.takes_what_is_left() && !self.finds_enough(shard, entry, slot, |_| true)
        });
        change.kind == ChangeKind::Failover
            && !waits
            && self.planner.stuck.contains(&(shard, change.since))
            && slots.iter().filter(|it| it.counting().is_some()).all(|it| self.is_whole(shard, it))
    }

    /// Begins failovers whose targets the balance of loads does not give: for a target that has failed, and
    /// for a node that is down, by the word of an operator.
    fn replace(&self, entries: &mut [Entry], version: u64) {
        for shard in 0..entries.len() {
            let entry = &entries[shard];
            let is_surplus = entry.slots.len() > self.planner.quorums.replicas;
            let is_due = |slot: &Slot| match (&slot.holder, &slot.change) {
                (Some(holder), None) => match self.presence(&holder.node) {
                    Presence::Down => self.is_accepted(shard as u32, holder),
                    Presence::Gone => is_surplus,
                    Presence::Live => false,
                },
                (_, Some(change)) => self.has_failed(shard as u32, change, entry),
                (None, None) => false,
            };
            let due = entry.slots.iter().position(is_due);
            let Some((number, to)) =
                due.and_then(|number| Some((number, self.spare(shard, entries)?)))
            else {
                continue;
            };
            let change = Change::new(ChangeKind::Failover, to, version);
            entries[shard].slots[number].change = Some(change);
        }
    }

    /// The live node with the fewest replicas for its weight that has no part in a shard.
    fn spare(&self, shard: usize, entries: &[Entry]) -> Option<NodeId> {
        let is_fit = |it: &&Member| {
            let is_named = entries[shard].names(&it.id);
            it.presence == Presence::Live && it.weight > 0.0 && !it.is_failing && !is_named
        };
        let slots = || entries.iter().flat_map(|entry| &entry.slots);
        let load = |member: &Member| {
            slots().filter(|slot| slot.names(&member.id)).count() as f64 / member.weight
        };
        let fit = self.planner.members.iter().filter(is_fit);
        let spare = fit.min_by(|one, other| load(one).total_cmp(&load(other)));
        spare.map(|member| member.id.clone())
    }

    /// Whether an operator has accepted the loss of a replica.
    fn is_accepted(&self, shard: u32, place: &Place) -> bool {
        self.planner.accepted.get(&shard).is_some_and(|lost| lost.contains(place))
    }

    /// Whether failovers of a shard end by the word of an operator, and what is lost with it may come back.
    fn accepts(&self, shard: u32, slots: &[Slot]) -> bool {
        let mut changes = slots.iter().filter_map(|slot| slot.change.as_ref());
        let mut holders = slots.iter().filter_map(|slot| slot.holder.as_ref());
        changes.any(Change::takes_what_is_left) && holders.any(|it| self.is_accepted(shard, it))
    }

    /// Why what the node of a slot has of a shard may lack something, if it is there.
    fn doubt(&self, shard: u32, place: &Place) -> Option<Doubt> {
        let member = self.member(&place.node).filter(|it| it.presence == Presence::Live);
        member.and_then(|member| member.doubt(shard))
    }

    /// Whether a failover of a slot finds as many whole replicas in others that are fit as it has to fence.
    fn finds_enough(
        &self,
        shard: u32,
        entry: &Entry,
        slot: &Slot,
        is_fit: impl Fn(&&Slot) -> bool,
    ) -> bool {
        let is_other = |other: &&Slot| !std::ptr::eq(*other, slot);
        let counts = |other: &&Slot| other.counting().is_some() && self.is_whole(shard, other);
        let found = entry.slots.iter().filter(is_other).filter(counts).filter(is_fit).count();
        found + entry.vacant() >= entry.fenced()
    }

    /// The nodes without which the failovers of a shard bring together what all others have, also those that may
    /// lack something: too few are whole, and nobody who may come back has more. `None` as long as that is not so.
    ///
    /// Of disks that are lost, also those that are older than they were, there may be as many as the promise allows, if
    /// no machine was restarted; beyond that an operator decides.
    fn united_without(&self, shard: u32, entry: &Entry) -> Option<Vec<NodeId>> {
        let mut due = entry
            .slots
            .iter()
            .filter(|slot| slot.change.as_ref().is_some_and(|it| it.kind == ChangeKind::Failover));
        if due.all(|slot| self.finds_enough(shard, entry, slot, |_| true)) {
            return None;
        }
        let (mut without, mut present, mut lost, mut doubted) = (Vec::new(), 0, 0, 0);
        for slot in &entry.slots {
            let Some(place) = &slot.holder else {
                present += 1;
                continue;
            };
            let is_accepted = self.is_accepted(shard, place);
            let doubt = self.doubt(shard, place);
            doubted += usize::from(doubt.is_some());
            match (self.presence(&place.node), doubt) {
                (Presence::Live, _) if self.is_whole(shard, slot) => present += 1,
                (Presence::Live, Some(Doubt::Restarted)) => present += 1,
                (Presence::Live, Some(Doubt::Old | Doubt::Partial)) => {
                    lost += usize::from(!is_accepted);
                }
                (Presence::Live, None) => {
                    lost += usize::from(!is_accepted);
                    without.push(place.node.clone());
                }
                _ if is_accepted => without.push(place.node.clone()),
                _ => return None,
            }
        }
        let is_enough = lost == 0 || present >= entry.fenced();
        (doubted > 0 && is_enough).then_some(without)
    }

    /// Notes in the failovers of a shard which nodes they do not wait for: the ones that are down or have
    /// lost their replicas, as far as an operator has accepted that; and whether they bring together what all
    /// others have.
    fn note_losses(&self, shard: u32, entry: &mut Entry) {
        let united_without = self.united_without(shard, entry);
        let lost = entry.slots.iter().filter(|slot| !self.is_whole(shard, slot));
        let lost = lost.filter_map(|slot| slot.holder.as_ref());
        let lost = lost.filter(|place| self.doubt(shard, place).is_none());
        let lost = lost.filter(|place| self.is_accepted(shard, place));
        let lost: Vec<NodeId> = lost.map(|place| place.node.clone()).collect();
        for Slot { holder, change } in &mut entry.slots {
            let change = change.as_mut().filter(|change| change.kind == ChangeKind::Failover);
            let Some(change) = change else { continue };
            let is_accepted = holder.as_ref().is_none_or(|it| self.is_accepted(shard, it));
            change.unites = united_without.is_some();
            change.lost = match &united_without {
                Some(nodes) => nodes.clone(),
                None if is_accepted => lost.clone(),
                None => Vec::new(),
            };
        }
    }

    /// Plans the changes that make the loads even, fill slots, and empty the nodes without weight; and the next steps to N,
    /// W and R as they are wanted.
    fn place(&self, entries: &mut [Entry], version: u64) {
        let after_change = |slot: &Slot| -> Option<NodeId> {
            slot.target().cloned().or_else(|| slot.holder.as_ref().map(|it| it.node.clone()))
        };
        let has = |node: &NodeId| {
            let slots = entries.iter().flat_map(|entry| &entry.slots);
            slots.filter_map(after_change).filter(|it| it == node).count()
        };
        let (candidates, members) = self.candidates(has);
        let places = members.iter().enumerate().map(|(place, it)| (&*it.id, place));
        let index: BTreeMap<&str, usize> = BTreeMap::from_iter(places);
        let before: Assignment = entries
            .iter()
            .map(|entry| {
                let nodes = entry.slots.iter().filter_map(after_change);
                nodes.filter_map(|node| index.get(&*node).copied()).collect()
            })
            .collect();
        let replicas = self.planner.quorums.replicas;
        let after = rebalancer::rebalance(&candidates, replicas, &before, &before);
        let placed = before.iter().zip(&after);
        for ((shard, entry), (before, after)) in entries.iter_mut().enumerate().zip(placed) {
            let mut added: Vec<NodeId> = after
                .iter()
                .filter(|place| !before.contains(place))
                .filter(|place| members[**place].presence == Presence::Live)
                .filter(|place| !members[**place].is_failing)
                .map(|place| members[*place].id.clone())
                .collect();
            let is_placed =
                |node: &NodeId| index.get(&**node).is_some_and(|place| after.contains(place));
            let away: Vec<NodeId> = entry
                .counting()
                .filter(|(_, place)| self.presence(&place.node) != Presence::Live)
                .map(|(_, place)| place.node.clone())
                .collect();
            let remade = entry.slots.iter().filter(|slot| self.is_remade(shard as u32, slot));
            let remade = remade.filter_map(|slot| slot.holder.as_ref());
            let remade = Vec::from_iter(remade.map(|place| place.node.clone()));
            // A replica that is away is removed first, and none beside another absent one; then a replica that is to be made again.
            let leaving = if away.is_empty() { &remade } else { &away };
            let stays = |node: &NodeId| match leaving.is_empty() {
                true => is_placed(node),
                false => !leaving.contains(node),
            };
            let shrinks = entry.slots.len() > self.planner.quorums.replicas;
            let is_only = |left_out: &&[NodeId]| {
                let mut others = away.iter().filter(|node| !left_out.contains(node));
                others.next().is_none() || left_out.is_empty() && others.next().is_none()
            };
            let equal = self.equal(shard as u32, entry).filter(|it| !shrinks || is_only(it));
            if let Some(next) = entry.toward(self.planner.quorums, equal, &stays) {
                *entry = next;
            }
            // No shard moves meanwhile: the next step would wait for that.
            let mut may_move = entry.has(self.planner.quorums)
                && entry.slots.iter().all(|slot| slot.change.is_none());
            // A node that is named anywhere in the entry cannot be a new target.
            added.retain(|node| !entry.names(node));
            for first in [ChangeKind::Failover, ChangeKind::Move] {
                for number in 0..entry.slots.len() {
                    if added.is_empty() {
                        break;
                    }
                    let kind = self.change_of((shard as u32, number), entry, &is_placed, may_move);
                    if kind != Some(first) || !self.may_begin() {
                        continue;
                    }
                    may_move &= first != ChangeKind::Move;
                    entry.slots[number].change = Some(Change::new(first, added.remove(0), version));
                }
            }
        }
    }

    /// Whether replicas of a shard were equal in its entry: the nodes of the others. Each holder that has found it is
    /// right, also a holder that did not reach another then; the holder that reached the most says the most.
    fn equal(&self, shard: u32, entry: &Entry) -> Option<&[NodeId]> {
        if !self.planner.rules.has(Rule::EqualBeforeNumbers) {
            return Some(&[]);
        }
        let members = self.members.values().filter(|member| {
            member.presence == Presence::Live && entry.counting_at(&member.id).is_some()
        });
        let equal = members.flat_map(|member| &member.report.equal);
        let equal = equal.filter(|it| it.shard == shard && it.epoch == entry.epoch);
        equal.map(|it| &it.without[..]).min_by_key(|without| without.len())
    }

    /// Which change of a slot may be planned.
    fn change_of(
        &self,
        (shard, number): (u32, usize),
        entry: &Entry,
        stays: &dyn Fn(&NodeId) -> bool,
        may_move: bool,
    ) -> Option<ChangeKind> {
        let slot = &entry.slots[number];
        match (&slot.holder, &slot.change) {
            (None, None) => Some(ChangeKind::Failover),
            (Some(holder), None) => match self.presence(&holder.node) {
                Presence::Gone => Some(ChangeKind::Failover),
                Presence::Live if stays(&holder.node) => None,
                Presence::Live if self.is_remade(shard, slot) => {
                    self.is_spared(shard, slot, entry).then_some(ChangeKind::Failover)
                }
                Presence::Live => may_move.then_some(ChangeKind::Move),
                Presence::Down => None,
            },
            (_, Some(change)) => {
                let is_failover = change.kind == ChangeKind::Failover;
                (is_failover && self.is_out(&change.to)).then_some(ChangeKind::Failover)
            }
        }
    }
}
