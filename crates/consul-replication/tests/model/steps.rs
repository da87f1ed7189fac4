//! The steps of the protocol and of what happens to it.
//!
//! Modelled: entries of the shard map in Consul with an epoch each; moves, failovers, their
//! commits and cancels, one turned into another; nodes and clients that learn any entry late or
//! never, and ask with it at any time; the seal of a source, fences, marks of wholeness, drops; a
//! lost disk; Consul that goes back by one entry or loses all, and the leader that then asks the nodes;
//! some may be silent.
//!
//! Left out, and why no loss is missed by it:
//! - More copies of a record than a trace needs. A loss is a read that does not find a record, and
//!   no step depends on a record's presence but the refusal of an older version. So a write reaches
//!   only the replicas whose acknowledgements count, in one epoch; a target takes no writes and
//!   copies once; repair does nothing.
//! - Reads as steps. After each step every replica that can serve a read does so, for all reads that
//!   began since the acknowledgement; a quorum of answers without the record in one epoch is a loss.
//! - A seal before the copy that it is for. Between the two the source only refuses, so a trace with
//!   an earlier seal loses nothing that the same trace with a later one does not.
//! - The steps between a Consul that goes back and the entry that is put back: a node that is asked,
//!   and so fenced, early does less than a node that is asked late.
//! - That a move seals its source only when the other replicas know of it: without it the protocol does more.
//! - What needs deletes, clocks, time or more than one lost disk to go wrong: requests that still run
//!   at a seal or a fence, versions, tombstones, that a target begins empty, that a replaced node
//!   drops its copy late. That is for a simulation.

use std::fmt;

use crate::rules::{Model, Rule};
use crate::state::{
    Entries, FENCED, NODES, Node, REPLICAS, Settled, State, WRITE_QUORUM, bit, holds,
};

/// The outcome of a step.
pub enum Outcome {
    /// A state, and whether it used up a change.
    State(State, bool),
    /// A read did not find an acknowledged version.
    Loss,
}

/// Gives the outcomes of steps to a search, with the steps' names if it wants them.
pub struct Steps<'a> {
    pub model: &'a Model,
    pub names: Option<Vec<String>>,
    pub outcomes: Vec<Outcome>,
}

impl Steps<'_> {
    fn add(&mut self, mut state: State, is_change: bool, name: fmt::Arguments<'_>) {
        let outcome = match state.settle(self.model) {
            Settled::Loss => Outcome::Loss,
            Settled::Useless => return,
            Settled::State => Outcome::State(state, is_change),
        };
        self.outcomes.push(outcome);
        if let Some(names) = &mut self.names {
            names.push(name.to_string());
        }
    }
}

/// The steps from one state.
impl State {
    pub fn steps(&self, may_change: bool, steps: &mut Steps<'_>) {
        if self.answer > 0 {
            self.put_back(steps);
        } else {
            if may_change {
                self.change_the_map(steps);
            }
            if self.previous > 0 {
                self.go_back(steps);
            }
            if steps.model.limits.silent && !self.was_set_back {
                self.lose_the_map(steps);
            }
        }
        for node in 0..NODES {
            self.learn_any(node, steps);
            self.write(node, steps);
            self.copy(node, steps);
            self.drop_replaced(node, steps);
            if steps.model.limits.lost_disk && !self.has_lost_disk {
                self.lose_disk(node, steps);
            }
            if !steps.model.has(Rule::SealIsStored) && self.nodes[node].sealed {
                let mut state = *self;
                state.nodes[node].sealed = false;
                steps.add(state, false, format_args!("{node} restarts and forgets its seal"));
            }
        }
    }

    /// Adds an entry with the content of `from`, and lets `edit` change it.
    fn publish(&self, from: u8, edit: impl FnOnce(&mut [Node; NODES], Entries)) -> State {
        let mut state = *self;
        let new = bit(state.len);
        for node in &mut state.nodes {
            for mask in [
                &mut node.holder,
                &mut node.leaving,
                &mut node.gone,
                &mut node.target,
                &mut node.named,
            ] {
                if holds(*mask, from) {
                    *mask |= new;
                }
            }
        }
        edit(&mut state.nodes, new);
        state.change[usize::from(state.len)] = state.len;
        state.previous = if state.was_set_back { 0 } else { state.consul + 1 };
        state.consul = state.len;
        state.len += 1;
        state
    }

    fn find(&self, of: impl Fn(&Node) -> bool) -> Option<usize> {
        self.nodes.iter().position(of)
    }

    /// The leader's steps with the entry in Consul: plan, commit, cancel, or turn one change
    /// into another.
    fn change_the_map(&self, steps: &mut Steps<'_>) {
        let entry = self.consul;
        let target = self.find(|node| holds(node.target, entry));
        let replaced = self.find(|node| holds(node.leaving | node.gone, entry));
        if let (Some(from), Some(to)) = (replaced, target) {
            if holds(self.nodes[to].reported, entry) {
                let disk = holds(self.nodes[to].reported_disk, entry);
                let state = self.publish(entry, |nodes, new| {
                    for node in &mut nodes[..] {
                        node.leaving &= !new;
                        node.gone &= !new;
                        node.target &= !new;
                    }
                    nodes[from].named &= !new;
                    nodes[to].holder |= new;
                    nodes[to].named = nodes[to].named & !new | if disk { new } else { 0 };
                });
                steps.add(state, true, format_args!("the leader commits {from} to {to}"));
            }
            if from != to {
                let state = self.publish(entry, |nodes, new| {
                    nodes[from].leaving &= !new;
                    nodes[from].gone &= !new;
                    nodes[from].holder |= new;
                    nodes[to].target &= !new;
                });
                steps.add(state, true, format_args!("the leader cancels {from} to {to}"));
            }
        }
        for from in 0..NODES {
            let node = &self.nodes[from];
            let may_be_replaced =
                if replaced.is_some() { replaced == Some(from) } else { holds(node.holder, entry) };
            if !may_be_replaced {
                continue;
            }
            for to in 0..NODES {
                let is_free = !holds(self.nodes[to].member(), entry)
                    || (holds(self.nodes[to].target, entry) && from != to);
                if is_free && replaced.is_none() {
                    let state = self.publish(entry, |nodes, new| {
                        nodes[from].holder &= !new;
                        nodes[from].leaving |= new;
                        nodes[to].target |= new;
                    });
                    steps.add(
                        state,
                        true,
                        format_args!("the leader plans the move {from} to {to}"),
                    );
                }
                let has_new_disk = from == to
                    && node.disk != node.named >> entry & 1
                    && !holds(node.target, entry);
                let is_same = holds(node.gone, entry) && target == Some(to);
                if has_new_disk || is_free && !is_same {
                    let state = self.publish(entry, |nodes, new| {
                        for node in &mut nodes[..] {
                            node.target &= !new;
                        }
                        nodes[from].holder &= !new;
                        nodes[from].leaving &= !new;
                        nodes[from].gone |= new;
                        nodes[to].target |= new;
                    });
                    steps.add(
                        state,
                        true,
                        format_args!("the leader plans the failover {from} to {to}"),
                    );
                }
            }
        }
    }

    /// Consul goes back by one entry. The leader notices, fences all holders and targets of the old
    /// entry and of the newer ones that they know, and puts the newest back in a new epoch. The
    /// steps between are one: a node that is fenced early does less than a node that is fenced late.
    fn go_back(&self, steps: &mut Steps<'_>) {
        let mut state = *self;
        state.consul = self.previous - 1;
        state.was_set_back = true;
        state.previous = 0;
        if !steps.model.has(Rule::AskAfterSetBack) {
            steps.add(state, false, format_args!("Consul goes back by one entry"));
            return;
        }
        let (is_asked, newest) = self.asked(state.consul);
        state.answer = newest + 1;
        if steps.model.has(Rule::FenceWhenAsked) {
            for (node, is_asked) in state.nodes.iter_mut().zip(is_asked) {
                if is_asked {
                    node.fence = self.len;
                }
            }
            state.put_back(steps);
        } else {
            steps.add(
                state,
                false,
                format_args!("Consul goes back by one entry; the newest is {newest}"),
            );
        }
    }

    /// The nodes that the leader asks when Consul has an old entry: its members, and the members of each newer entry
    /// that an asked node knows; and the newest of these entries.
    fn asked(&self, old: u8) -> ([bool; NODES], u8) {
        let mut entries = bit(old);
        loop {
            let is_asked = self.nodes.map(|node| node.member() & entries != 0);
            let known = self
                .nodes
                .iter()
                .zip(is_asked)
                .filter(|(node, is_asked)| *is_asked && node.known > old);
            let found = known.fold(entries, |all, (node, _)| all | bit(node.known - 1));
            if found == entries {
                return (is_asked, entries.ilog2() as u8);
            }
            entries = found;
        }
    }

    /// Consul loses all entries. The nodes that are not silent put back the newest that they know, whose members the
    /// leader asks: each promises to execute nothing older. The entry is put back in a new epoch if all could be asked,
    /// or else enough of its replicas.
    fn lose_the_map(&self, steps: &mut Steps<'_>) {
        for silent in 0..1_u8 << NODES {
            let asked: [bool; NODES] = std::array::from_fn(|node| silent >> node & 1 == 0);
            let others = self.nodes.iter().zip(asked).filter(|(_, is_asked)| *is_asked);
            let known = others.map(|(node, _)| node.known).max();
            let Some(entry) = known.and_then(|known| known.checked_sub(1)) else { continue };
            if !self.may_put_back(entry, asked, steps.model) {
                continue;
            }
            let mut state = *self;
            state.was_set_back = true;
            state.answer = entry + 1;
            for (node, is_asked) in state.nodes.iter_mut().zip(asked) {
                if is_asked && holds(node.member(), entry) {
                    node.fence = self.len;
                }
            }
            state.put_back(steps);
        }
    }

    /// Whether an entry may be put back that these nodes were asked about.
    fn may_put_back(&self, entry: u8, asked: [bool; NODES], model: &Model) -> bool {
        let members = self.nodes.iter().zip(asked).filter(|(node, _)| holds(node.member(), entry));
        let is_replaced = |node: &Node| holds(node.leaving | node.gone, entry);
        let mut silent = members.clone().filter(|(_, is_asked)| !is_asked);
        let waits = silent.clone().any(|(node, _)| is_replaced(node));
        if model.has(Rule::SilentAreNotReplaced) && waits {
            return false;
        }
        let promises = |node: &Node| {
            holds(node.holder, entry)
                && (node.is_whole(entry, model) || !model.has(Rule::PromisersAreWhole))
        };
        let count = members.filter(|(node, is_asked)| *is_asked && promises(node)).count();
        let enough = if model.has(Rule::EnoughPromise) { FENCED } else { FENCED - 1 };
        count >= enough || silent.next().is_none()
    }

    fn put_back(&self, steps: &mut Steps<'_>) {
        let from = self.answer - 1;
        let work = self.change[usize::from(from)] + 1;
        let mut state = self.publish(from, |nodes, new| {
            for node in nodes {
                if holds(node.copied, from) {
                    node.copied |= new;
                }
                if holds(node.target, from) && node.work == work && node.whole {
                    node.complete(new.ilog2() as u8);
                }
            }
        });
        state.change[usize::from(state.consul)] = self.change[usize::from(from)];
        state.answer = 0;
        steps.add(
            state,
            false,
            format_args!("Consul went back; the leader puts {from} back as {}", state.consul),
        );
    }

    /// A node may learn any newer entry that was ever published: from Consul, or from a caller.
    fn learn_any(&self, index: usize, steps: &mut Steps<'_>) {
        for entry in self.nodes[index].known..self.len {
            if !self.nodes[index].may_learn(entry, steps.model) {
                continue;
            }
            let mut state = *self;
            state.learn(index, entry);
            steps.add(state, false, format_args!("{index} learns {entry}"));
        }
    }

    /// A replica takes a version and acknowledges it. Versions go to one epoch each; others would
    /// only add copies.
    fn write(&self, index: usize, steps: &mut Steps<'_>) {
        for version in 0..steps.model.limits.writes {
            let place = usize::from(version);
            let node = &self.nodes[index];
            if self.acknowledged >> version & 1 != 0 || node.version > version + 1 {
                continue;
            }
            let begun = self.nodes.iter().fold(0, |all, node| all | node.acks[place]);
            for epoch in 0..self.len {
                let is_other = begun != 0
                    && !holds(begun, epoch)
                    && steps.model.has(Rule::CountWithinOneEpoch);
                if is_other || !node.executes(epoch, steps.model) || holds(node.acks[place], epoch)
                {
                    continue;
                }
                let mut state = *self;
                state.nodes[index].version = version + 1;
                state.nodes[index].acks[place] |= bit(epoch);
                let count: u32 = if steps.model.has(Rule::CountWithinOneEpoch) {
                    state.nodes.iter().map(|node| u32::from(holds(node.acks[place], epoch))).sum()
                } else {
                    state.nodes.iter().map(|node| node.acks[place].count_ones()).sum()
                };
                if count as usize >= WRITE_QUORUM {
                    state.acknowledged |= 1 << version;
                    for node in &mut state.nodes {
                        node.acks[place] = 0;
                    }
                }
                steps.add(
                    state,
                    false,
                    format_args!("{index} takes version {} in epoch {epoch}", version + 1),
                );
            }
        }
    }

    /// A target copies: the leaving one, which is sealed by then, or each of the others, which it
    /// fences.
    fn copy(&self, index: usize, steps: &mut Steps<'_>) {
        let node = &self.nodes[index];
        let Some(entry) = node.known.checked_sub(1) else { return };
        if !holds(node.target, entry) || node.work != self.change[usize::from(entry)] + 1 {
            return;
        }
        if let Some(source) = self.find(|node| holds(node.leaving, entry)) {
            let from = &self.nodes[source];
            let is_done = node.whole && holds(node.reported, entry);
            if !from.knows(entry) || !from.is_whole(entry, steps.model) || is_done {
                return;
            }
            let mut state = *self;
            state.nodes[source].sealed = steps.model.has(Rule::Seal);
            state.nodes[index].version = node.version.max(from.version);
            state.nodes[index].complete(entry);
            steps.add(
                state,
                false,
                format_args!("{source} is sealed, {index} copies it in epoch {entry}"),
            );
            return;
        }
        for other in 0..NODES {
            let from = &self.nodes[other];
            let answers = holds(from.holder, entry)
                && from.is_whole(entry, steps.model)
                && from.fence <= entry
                && from.known <= entry + 1
                && !holds(from.copied, entry);
            if !answers {
                continue;
            }
            let mut state = *self;
            let is_first = !self.nodes.iter().any(|node| holds(node.copied, entry));
            if steps.model.has(Rule::Fence) && (is_first || steps.model.has(Rule::FenceTwo)) {
                // By the knowledge of the entry it refuses older ones.
                state.learn(other, entry);
            }
            state.nodes[other].copied |= bit(entry);
            if is_first || steps.model.has(Rule::CopyTwo) {
                state.nodes[index].version = node.version.max(from.version);
            }
            if state.nodes.iter().filter(|node| holds(node.copied, entry)).count() >= FENCED {
                state.nodes[index].complete(entry);
            }
            steps.add(
                state,
                false,
                format_args!("{index} fences and copies {other} in epoch {entry}"),
            );
        }
    }

    /// A node that the map no longer names drops its copy: a cancelled target at once, a replaced one when all replicas
    /// have what it has.
    fn drop_replaced(&self, index: usize, steps: &mut Steps<'_>) {
        let node = &self.nodes[index];
        let Some(entry) = node.known.checked_sub(1) else { return };
        if holds(node.member(), entry) || !node.is_whole_or_has_data() {
            return;
        }
        let mut state = *self;
        if node.work == 0 {
            let is_present =
                |node: &Node| holds(node.holder, entry) && node.executes(entry, steps.model);
            if self.nodes.iter().filter(|node| is_present(node)).count() < REPLICAS {
                return;
            }
            for other in state.nodes.iter_mut().filter(|node| holds(node.holder, entry)) {
                other.version = other.version.max(node.version);
            }
        }
        state.nodes[index].drop_copy();
        state.nodes[index].work = 0;
        steps.add(state, false, format_args!("{index} drops its copy"));
    }

    fn lose_disk(&self, index: usize, steps: &mut Steps<'_>) {
        let mut state = *self;
        state.has_lost_disk = true;
        state.forget_copies(index);
        let node = &mut state.nodes[index];
        node.drop_copy();
        (node.disk, node.sealed, node.fence, node.known, node.work) = (1, false, 0, 0, 0);
        steps.add(state, false, format_args!("{index} loses its disk"));
    }
}
