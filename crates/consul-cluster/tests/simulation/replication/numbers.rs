//! An operator who changes N, W and R of the store.

use super::Scenario;
use super::nodes::number;
use crate::world::{Node, World};
use consul_cluster::stores::outside;
use consul_replication::map::{Entry, Quorums};
use consul_replication::state::Equal;
use consul_replication::transfer::Transfer;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Numbers that fit together, of up to `most` replicas.
pub fn random(world: &World, most: usize, are_symmetric: bool) -> Quorums {
    let replicas = world.number(1..most as u64 + 1) as usize;
    let majority = replicas / 2 + 1;
    if are_symmetric {
        let both = world.number(majority as u64..replicas as u64 + 1) as usize;
        return Quorums { replicas, write: both, read: both };
    }
    let write = world.number(1..replicas as u64 + 1) as usize;
    let least = replicas - write + 1;
    let read = world.number(least as u64..replicas as u64 + 1) as usize;
    Quorums { replicas, write, read }
}

impl Scenario {
    /// Wants other numbers from time to time, also before the last ones are reached.
    pub async fn change_numbers(self: &Rc<Self>) {
        let end = self.disrupted_for();
        loop {
            let longest = if self.wired { 40_000 } else { 15_000 };
            self.world.sleep(self.world.millis(500..longest)).await;
            if self.world.now() > end {
                return;
            }
            let most = self.processes.borrow().len().min(4);
            let wanted = random(&self.world, most, self.are_symmetric);
            if !self.bears_losses(wanted) {
                continue;
            }
            self.world.note(|| format!("an operator wants {wanted:?}"));
            if self.wired {
                self.want_wired(wanted).await;
            } else {
                self.world.count("other numbers", 1);
                self.wanted.set(wanted);
            }
        }
    }

    /// Wants them by the key that the leader reads.
    async fn want_wired(&self, wanted: Quorums) {
        let cluster = self.processes.borrow().iter().find_map(|it| it.wired.clone());
        let Some((cluster, store)) = cluster else { return };
        let Quorums { replicas, write, read } = wanted;
        let change = outside::NumbersChange {
            replicas: Some(replicas),
            write: Some(write),
            read: Some(read),
        };
        let name = &store.options().name;
        let set = async {
            let shown = outside::numbers(&cluster, name, change, None).await?;
            outside::set_numbers(&cluster, name, &shown, None).await
        };
        match set.await {
            Ok(_) => self.world.count("other numbers", 1),
            Err(why) => self.world.note(|| format!("they are not wanted: {why}")),
        }
    }

    /// How many disks may be lost between two moments when all shards are whole.
    pub fn most_losses(&self) -> usize {
        let of_all = |wanted: Quorums| wanted.sizes().least();
        if !self.numbers_change {
            // A replica that was given up counts as lost.
            return (of_all(self.quorums) - 1).saturating_sub(self.nodes_with_orders());
        }
        // Nobody tells how far real nodes are with a change.
        if self.wired {
            return 0;
        }
        let wanted = self.wanted.get();
        let counted = |entry: &Entry| {
            let is_removed = entry.slots.len() > wanted.replicas;
            entry.lasting().least().saturating_sub(usize::from(is_removed))
        };
        let register = self.register.borrow();
        // A map that Consul has forgotten may come back, and one before the last may be what it goes back to.
        let entries = register.recent().flat_map(|map| &map.shards);
        entries.map(counted).min().unwrap_or(1).min(of_all(wanted)).saturating_sub(1)
    }

    /// Whether the disks that are lost now may be lost too with these numbers: until all shards are whole again the
    /// smallest ones count, and one less while a replica is removed.
    fn bears_losses(&self, wanted: Quorums) -> bool {
        let register = self.register.borrow();
        let most = register.map().iter().flat_map(|map| &map.shards).map(|it| it.slots.len()).max();
        let is_removed = most.is_some_and(|most| most > wanted.replicas);
        let losses = self.losses.get();
        losses == 0 || !is_removed && wanted.sizes().least() > losses
    }

    /// Makes the replicas of the shards equal whose numbers change and whose first one the node has.
    pub async fn equalize(&self, node: Node, transfer: &Transfer) {
        let (world, own) = (&self.world, transfer.holder.node().clone());
        loop {
            world.sleep(world.millis(100..600)).await;
            for shard in 0..self.shards {
                let entry =
                    self.register.borrow().map().map(|it| it.shards[shard as usize].clone());
                let Some(entry) = entry.filter(Entry::waits_for_equal_replicas) else { continue };
                let is_there = |node: &str| self.holder(number(node)).is_some();
                let mut there = entry.counting().filter(|(_, it)| is_there(&it.node));
                if there.next().is_none_or(|(_, place)| place.node != own) {
                    continue;
                }
                match transfer.equalize(shard, &entry).await {
                    Ok((_, without)) => {
                        world.count("shards made equal", 1);
                        let equal = Equal { shard, epoch: entry.epoch, without };
                        self.equal.borrow_mut().insert((node, shard), equal);
                    }
                    Err(why) => world.note(|| format!("shard {shard} is not equal: {why}")),
                }
            }
        }
    }

    /// The replicas that a node has found to be equal since its start.
    pub fn found_equal(&self, node: Node) -> Vec<Equal> {
        let equal = self.equal.borrow();
        let own = equal.range((node, 0)..=(node, u32::MAX));
        own.map(|(_, equal)| equal.clone()).collect()
    }

    pub fn forget_equal(&self, node: Node) {
        self.equal.borrow_mut().retain(|(of, _), _| *of != node);
    }
}

/// The replicas that each node has found to be equal, by node and shard.
pub type AllEqual = BTreeMap<(Node, u32), Equal>;
