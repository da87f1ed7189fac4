//! Disks that lose all that they had, or a part of it.

use super::network::{Disk as Storage, OnDisk};
use super::nodes::{name, number};
use super::{CLIENTS, Scenario};
use crate::world::Node;
use consul_replication::map::Disk;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

impl Scenario {
    /// Lets disks be lost again when all shards are whole.
    pub fn note_whole(&self, is_whole: impl FnOnce() -> bool) {
        if self.losses.get() > 0 && is_whole() {
            self.losses.set(0);
        }
    }

    /// Whether the promise allows that one more disk is lost now.
    fn may_lose(&self) -> bool {
        let losses = self.losses.get() + self.giving_up.get();
        losses < self.most_losses() && !self.calm.get()
    }

    /// A node comes back without what it had, if the promise allows it.
    pub async fn lose_disk(self: &Rc<Self>, node: Node, lasts: Duration) {
        if !self.may_lose() {
            return;
        }
        self.losses.set(self.losses.get() + 1);
        self.world.count("lost disks", 1);
        self.lose_disk_now(node);
        self.world.sleep(lasts.mul_f64(0.3)).await;
        self.start(node);
    }

    /// Kills a node, and takes away what it had.
    pub fn lose_disk_now(&self, node: Node) {
        self.kill(node);
        let process = &mut self.processes.borrow_mut()[node];
        let usual_ms = process.storage.usual_ms;
        let seed = self.world.number(0..u64::MAX);
        process.storage = Storage::new(&self.world.clock, seed, usual_ms);
        process.disk = Disk(self.world.number(1..u64::MAX));
        process.was_rebooted = false;
    }

    /// Machines are restarted, up to all at once. One of the disks may lose what came last, if the promise allows it.
    pub async fn reboot(self: &Rc<Self>) {
        let world = &self.world;
        let nodes = self.processes.borrow().len();
        let share = [0.3, 0.7, 1.0][world.number(0..3) as usize];
        let rebooted: Vec<Node> = (0..nodes).filter(|_| world.chance(share)).collect();
        world.count("restarted machines", rebooted.len() as u64);
        let loses = rebooted.first().copied().filter(|_| world.chance(0.5));
        let before = loses.and_then(|node| {
            let storage = Arc::clone(&self.processes.borrow()[node].storage);
            let shards = (0..self.shards).map(|shard| storage.known(shard));
            Some((node, Arc::clone(&storage), shards.collect::<Option<Vec<_>>>()?))
        });
        world.sleep(world.millis(100..12_000)).await;
        rebooted.iter().for_each(|node| self.kill(*node));
        if let Some((node, storage, shards)) = before {
            let is_same = Arc::ptr_eq(&storage, &self.processes.borrow()[node].storage);
            if is_same && self.may_lose() {
                self.losses.set(self.losses.get() + 1);
                world.count("lost ends", 1);
                for (shard, old) in shards.into_iter().enumerate() {
                    storage.restore(shard as u32, old);
                }
            }
        }
        for node in &rebooted {
            let process = &mut self.processes.borrow_mut()[*node];
            process.disk = Disk(world.number(1..u64::MAX));
            process.was_rebooted = true;
        }
        world.sleep(world.millis(100..4000)).await;
        rebooted.iter().for_each(|node| self.start(*node));
    }

    /// A disk gets a shard back as it was in the middle of a copy that has ended since, if the promise allows
    /// it.
    pub async fn lose_what_was_copied(self: &Rc<Self>, lasts: Duration) {
        let world = &self.world;
        let Some((node, shard, storage, copy)) = self.wait_for_a_copy().await else { return };
        world.sleep(lasts).await;
        let is_same = Arc::ptr_eq(&storage, &self.processes.borrow()[node].storage);
        let has_ended = self.is_marked(&name(node), shard);
        if !is_same || !has_ended || !self.may_lose() {
            return;
        }
        self.losses.set(self.losses.get() + 1);
        world.count("lost copies", 1);
        self.kill(node);
        storage.restore(shard, copy);
        world.sleep(lasts.mul_f64(0.1)).await;
        self.start(node);
    }

    /// The same, when of the two other replicas one has missed writes since the copy and one is away.
    pub async fn lose_what_was_copied_alone(self: &Rc<Self>) {
        let world = &self.world;
        // After the moves that follow the first map.
        world.sleep(Duration::from_secs(15)).await;
        self.processes.borrow_mut()[0].weight = 0.0;
        let Some((node, shard, storage, copy)) = self.wait_for_a_copy().await else { return };
        world.sleep(Duration::from_secs(5)).await;
        let register = self.register.borrow().map().cloned();
        let entry = register.map(|map| map.shards[shard as usize].clone());
        let holders = entry.iter().flat_map(|entry| entry.counting());
        let holders: Vec<Node> = holders.map(|(_, place)| number(&place.node)).collect();
        let mut others = holders.iter().copied().filter(|holder| *holder != node);
        let (Some(behind), Some(away), 3) = (others.next(), others.next(), holders.len()) else {
            return;
        };
        let all = (0..self.processes.borrow().len()).chain(CLIENTS..CLIENTS + 5);
        let cuts: Vec<_> = all.filter(|it| *it != behind).map(|it| (behind, it)).collect();
        self.cuts.borrow_mut().extend(&cuts);
        world.sleep(Duration::from_secs(3)).await;
        world.count("lost copies", 1);
        self.kill(node);
        self.kill(away);
        storage.restore(shard, copy);
        cuts.iter().for_each(|cut| _ = self.cuts.borrow_mut().remove(cut));
        self.start(node);
        world.sleep(Duration::from_secs(4)).await;
        self.start(away);
    }

    /// Waits for a copy that a node makes.
    async fn wait_for_a_copy(&self) -> Option<(Node, u32, Arc<Storage>, OnDisk)> {
        let end = self.world.now() + Duration::from_secs(15);
        while self.world.now() < end {
            if let Some(found) = self.unfinished_copy() {
                return Some(found);
            }
            self.world.sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// Whether the mark on a node's disk says that it has all of a shard.
    pub fn is_marked(&self, node: &str, shard: u32) -> bool {
        self.processes.borrow()[number(node)].storage.is_marked(shard)
    }

    /// A copy that a node makes now: node, shard, disk, and what is on it.
    fn unfinished_copy(&self) -> Option<(Node, u32, Arc<Storage>, OnDisk)> {
        let processes = self.processes.borrow();
        let disks = processes.iter().map(|process| &process.storage).enumerate();
        disks.flat_map(|disk| (0..self.shards).map(move |shard| (disk, shard))).find_map(
            |((node, disk), shard)| {
                let is_unfinished = disk.is_being_copied_to(shard);
                is_unfinished.then(|| (node, shard, Arc::clone(disk), disk.shard(shard)))
            },
        )
    }
}
