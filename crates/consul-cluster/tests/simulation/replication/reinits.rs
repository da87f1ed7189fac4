//! An operator who has nodes make their replicas again.

use super::Scenario;
use super::nodes::name;
use consul_cluster::stores::reinit;
use consul_replication::transfer::Transfer;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// The promise bears one loss less from the beginning of a try to its end; also if the process ends in between, which may
/// have given up its replica. Then that is a loss until all shards are whole.
struct Try<'a> {
    scenario: &'a Scenario,
    is_refused: bool,
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        let Scenario { giving_up, losses, .. } = self.scenario;
        giving_up.set(giving_up.get() - 1);
        losses.set(losses.get() + usize::from(!self.is_refused));
    }
}

impl Scenario {
    /// A node gives up replicas from time to time, also while others do so and soon after a disk was lost: the protocol
    /// alone says whether it may.
    pub async fn give_up_replicas(&self, transfer: &Transfer) {
        let world = &self.world;
        loop {
            world.sleep(world.millis(500..12_000)).await;
            if self.calm.get() {
                return;
            }
            let shard = world.number(0..u64::from(self.shards)) as u32;
            // The map of a node may be older than what its replica knows.
            let known = transfer.holder.state(shard).await.entry;
            let map = self.register.borrow().map().map(|map| map.shards[shard as usize].clone());
            let learned = if world.chance(0.5) { known } else { map };
            let Some(entry) = learned else { continue };
            self.giving_up.set(self.giving_up.get() + 1);
            let mut attempt = Try { scenario: self, is_refused: false };
            let given_up = transfer.give_up(shard, &entry).await;
            world.note(|| format!("shard {shard} is given up: {given_up:?}"));
            attempt.is_refused = !matches!(given_up, Ok(true));
            world.count("replicas given up", u64::from(!attempt.is_refused));
            world.count("replicas kept", u64::from(attempt.is_refused));
        }
    }

    /// Orders real nodes to make all of their replicas again. Each order ends in time.
    pub async fn order_reinits(self: &Rc<Self>) {
        let world = &self.world;
        let nodes = self.processes.borrow().len() as u64;
        let cluster = |node: usize| self.processes.borrow()[node].wired.clone();
        let all = BTreeSet::new();
        let mut is_first = true;
        while world.now() + Duration::from_secs(10) < self.disrupted_for() {
            world.sleep(world.millis(3000..20_000)).await;
            let (from, to) = (world.number(0..nodes) as usize, world.number(0..nodes) as usize);
            let Some((cluster, _)) = cluster(from) else { continue };
            let order = async {
                let found = reinit::find(&cluster, &name(to), None, &all).await?;
                reinit::ask(&cluster, &name(to), &found).await
            };
            let ordered = tokio::select! {
                biased;
                ordered = order => ordered.map_err(|why| why.to_string()),
                () = world.sleep(Duration::from_secs(10)) => Err("no answer".to_owned()),
            };
            // A node that has taken the order gives up replicas at any time from now on.
            self.giving_up.set(self.giving_up.get() + usize::from(std::mem::take(&mut is_first)));
            world.note(|| format!("node {to} is to make its replicas again: {ordered:?}"));
            world.count("orders", u64::from(ordered.is_ok()));
            world.count("refused orders", u64::from(ordered.is_err()));
        }
        world.sleep(self.end() - Duration::from_secs(5) - world.now()).await;
        let Some((cluster, _)) = cluster(0) else { return };
        for node in 0..nodes as usize {
            let left = reinit::find(&cluster, &name(node), None, &all).await;
            let left = left.into_iter().flatten().filter_map(|(_, it)| it.remaking);
            for order in left.filter(|order| order.left > 0) {
                world.violation(|| format!("node {node} has not ended an order: {order:?}"));
            }
        }
    }
}
