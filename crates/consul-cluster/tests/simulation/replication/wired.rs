//! Replicated shards on real nodes: clusters, stores and their leader, on the simulated agent.

use super::nodes::{name, number};
use super::{CLIENTS, START_MS, Scenario};
use crate::world::{Disruption, ENVIRONMENT, Node};
use consul_api::error::Kind;
use consul_cluster::stores::{ShardStatus, Store, StoreOptions, leader, reinit};
use consul_cluster::{Cluster, Mode, Options};
use consul_process::clock::WallClock;
use consul_replication::map::ChangeKind;
use consul_replication::peers::Peers;
use consul_replication::quorum::Router;
use consul_replication::storage::Storage;
use consul_sim::Retained;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long disruptions go on, and how long after that everything must be whole again: up to twice the
/// session's TTL, the lock delay, the leader's wait for the nodes, the time after which a node is replaced,
/// and several changes of a shard in a row.
pub const DISRUPTED_FOR: Duration = Duration::from_secs(120);
pub const RECOVERS_WITHIN: Duration = Duration::from_secs(240);

const STORE: &str = "points";

impl Scenario {
    fn options(&self, id: &str, skew_ms: i64) -> Options {
        let unix = Duration::from_millis(START_MS.saturating_add_signed(skew_ms));
        Options {
            shards: self.shards as usize,
            replicas: self.quorums.replicas,
            replace_after: self.replace_after.min(Duration::from_secs(1 << 30)),
            forget_after: Duration::from_secs(1 << 30),
            wall_clock: WallClock::from_origin(unix),
            ..Options::new(id, "127.0.0.1:9000")
        }
    }

    fn open(
        self: &Rc<Self>,
        owner: Node,
        options: Options,
        storage: Option<Arc<dyn Storage>>,
    ) -> (Arc<Cluster>, Arc<Store>) {
        let (client, _) = self.world.client(owner);
        let store = StoreOptions {
            quorums: self.quorums,
            drop_after: self.drop_after,
            repair_every: self.repair_every,
            move_timeout: Duration::from_secs(10),
            max_skew: self.max_skew,
            ..StoreOptions::new(STORE, &options)
        };
        let cluster = Cluster::new(Arc::clone(&client), client, options).expect("good options");
        let (peers, runtime) = (Arc::new(self.way(owner)), Arc::new(self.way(owner)));
        let store = Store::new(Arc::clone(&cluster), peers, runtime, storage, store);
        (cluster, store.expect("good options"))
    }

    pub fn start_wired(self: &Rc<Self>, node: Node) {
        let (storage, skew_ms, weight) = {
            let process = &self.processes.borrow()[node];
            (Arc::clone(&process.storage), process.skew_ms, process.weight)
        };
        let options = Options { weight, ..self.options(&name(node), skew_ms) };
        let (cluster, store) = self.open(node, options, Some(storage));
        let wired = (Arc::clone(&cluster), Arc::clone(&store));
        self.processes.borrow_mut()[node].wired = Some(wired);
        let peers = self.way(node);
        let scenario = Rc::clone(self);
        self.world.spawn(node, async move {
            let reach: leader::Reach = Arc::new(move |_| Arc::new(peers.clone()) as Arc<dyn Peers>);
            let why = tokio::select! {
                biased;
                why = cluster.run() => why,
                never = leader::run(&cluster, &reach) => match never {},
                why = store.run() => why,
            };
            if why.kind() != Kind::Conflict {
                return scenario.world.violation(|| format!("node {node} has ended: {why}"));
            }
            // Consul went back to a time when another process had the name.
            scenario.world.note(|| format!("node {node} has ended: {why}"));
            let again = Rc::clone(&scenario);
            scenario.world.spawn(ENVIRONMENT, async move {
                again.world.sleep(Duration::from_secs(5)).await;
                again.kill(node);
                again.start(node);
            });
        });
        let scenario = Rc::clone(self);
        self.world.spawn(node, async move {
            loop {
                scenario.world.sleep(Duration::from_millis(200)).await;
                scenario.note_whole(|| scenario.is_whole_and_marked());
                scenario.count_changes();
            }
        });
    }

    /// Counts the changes of shards that are seen in progress.
    fn count_changes(&self) {
        for shard in self.status() {
            for (node, kind) in shard.targets {
                let is_new = self.changes.borrow_mut().insert((shard.shard, shard.epoch, node));
                let what = match kind {
                    ChangeKind::Move => "moves",
                    ChangeKind::Failover => "failovers",
                };
                self.world.count(what, u64::from(is_new));
            }
        }
    }

    /// A process that keeps no records.
    pub fn gateway(self: &Rc<Self>, client: Node, skew_ms: i64) -> Router {
        let id = format!("client-{}", client - CLIENTS);
        let options = Options { observer: true, ..self.options(&id, skew_ms) };
        let (cluster, store) = self.open(client, options, None);
        let router = store.router().clone();
        self.world.spawn(client, async move {
            tokio::select! {
                biased;
                _ = cluster.run() => {}
                _ = store.run() => {}
            }
        });
        router
    }

    /// The shards as the nodes that run know them, in their newest map.
    fn status(&self) -> Vec<ShardStatus> {
        let processes = self.processes.borrow();
        let wired = processes.iter().filter_map(|process| process.wired.as_ref());
        let status = wired.map(|(_, store)| store.status());
        status.max_by_key(|it| it.iter().map(|shard| shard.epoch).max()).unwrap_or_default()
    }

    /// Whether the shards have N equal replicas and no change in progress; or why not.
    fn is_whole_wired(&self) -> Result<(), String> {
        let status = self.status();
        if status.is_empty() {
            return Err("there is no map".to_owned());
        }
        let processes = self.processes.borrow();
        for shard in status {
            let is_full = shard.holders.len() == shard.replicas && !shard.is_changing;
            if !is_full || !shard.targets.is_empty() {
                return Err(format!("shard {} is not settled: {shard:?}", shard.shard));
            }
            let copies: Vec<_> = shard
                .holders
                .iter()
                .map(|node| processes[number(node)].live_records(shard.shard))
                .collect();
            if copies.windows(2).any(|pair| pair[0] != pair[1]) {
                return Err(format!("shard {} has different copies: {copies:?}", shard.shard));
            }
        }
        Ok(())
    }

    /// The same, and all nodes run and have marked their replicas as whole.
    fn is_whole_and_marked(&self) -> bool {
        let all_run = self.processes.borrow().iter().all(|it| it.wired.is_some());
        let all_marked = self
            .status()
            .iter()
            .all(|shard| shard.holders.iter().all(|node| self.is_marked(node, shard.shard)));
        all_run && all_marked && self.is_whole_wired().is_ok()
    }

    pub fn check_wired_end(&self) {
        if let Err(why) = self.is_whole_wired() {
            self.world.violation(|| why);
        }
        // Other numbers may not allow it.
        let nodes = 0..if self.numbers_change { 0 } else { self.processes.borrow().len() };
        for (node, left) in nodes.map(|node| (node, self.to_remake(node))) {
            if !left.is_empty() {
                self.world.violation(|| format!("node {node} has not made {left:?} again"));
            }
        }
    }

    pub fn in_a_wired_change(&self) -> Option<Node> {
        let status = self.status();
        let changing = status.iter().filter(|shard| !shard.targets.is_empty());
        let members: Vec<Node> = changing
            .flat_map(|it| it.holders.iter().chain(it.targets.iter().map(|(node, _)| node)))
            .map(|node| number(node))
            .collect();
        let count = members.len() as u64;
        (count > 0).then(|| members[self.world.number(0..count) as usize])
    }

    /// A disruption that goes through Consul.
    pub async fn disrupt_wired(self: &Rc<Self>, kind: u64, node: Node, lasts: Duration) {
        let world = &self.world;
        match kind {
            5 => {
                world.disrupt(Disruption::CutOff, node);
                world.sleep(lasts).await;
                world.heal(Disruption::CutOff, node);
            }
            8 => {
                let drains = |mode| {
                    let cluster = self.processes.borrow()[node].wired.clone();
                    async move {
                        if let Some((cluster, _)) = cluster {
                            _ = cluster.set_mode(&name(node), mode).await;
                        }
                    }
                };
                world.count("drains", 1);
                drains(Mode::Draining).await;
                world.sleep(lasts * 3).await;
                drains(Mode::Active).await;
            }
            13 => self.order_again(node, lasts).await,
            _ if world.chance(0.2) => {
                world.count("wipes", 1);
                world.agent.restart(Retained::Nothing);
            }
            _ => {
                let backup = world.agent.back_up();
                world.sleep(lasts).await;
                world.count("set backs", 1);
                world.agent.restore_snapshot(&backup);
            }
        }
    }

    /// An operator has a node make its replicas again, all of them or one, and may end that before it is done.
    async fn order_again(&self, node: Node, lasts: Duration) {
        let world = &self.world;
        let operator = world.number(0..self.processes.borrow().len() as u64) as usize;
        let Some((cluster, _)) = self.processes.borrow()[operator].wired.clone() else { return };
        let (id, all) = (name(node), BTreeSet::new());
        let one = [world.number(0..u64::from(self.shards)) as u32].into();
        let shards = if world.chance(0.5) { &all } else { &one };
        let Ok(found) = reinit::find(&cluster, &id, Some(STORE), shards).await else { return };
        if reinit::ask(&cluster, &id, &found).await.is_err() {
            return;
        }
        world.count("orders", 1);
        if !world.chance(0.3) {
            return;
        }
        world.sleep(lasts).await;
        if let Ok(found) = reinit::find(&cluster, &id, Some(STORE), &all).await {
            _ = reinit::end(&cluster, &id, &found).await;
        }
    }

    /// The shards whose replicas a node is to make again.
    pub fn to_remake(&self, node: Node) -> BTreeSet<u32> {
        let storage = Arc::clone(&self.processes.borrow()[node].storage);
        self.holder(node).map(|holder| storage.to_remake(Some(holder.disk()))).unwrap_or_default()
    }

    /// How many nodes are to make replicas again, also nodes that are down.
    pub fn nodes_with_orders(&self) -> usize {
        let processes = self.processes.borrow();
        processes.iter().filter(|it| !it.storage.to_remake(None).is_empty()).count()
    }

    /// Lets nodes that were drained take part again.
    pub fn undrain(self: &Rc<Self>) {
        for node in 0..self.processes.borrow().len() {
            let scenario = Rc::clone(self);
            self.world.spawn(ENVIRONMENT, async move {
                scenario.world.sleep(Duration::from_secs(20)).await;
                let cluster = scenario.processes.borrow()[node].wired.clone();
                if let Some((cluster, _)) = cluster {
                    _ = cluster.set_mode(&name(node), Mode::Active).await;
                }
            });
        }
    }
}
