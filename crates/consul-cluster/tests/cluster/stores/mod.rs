//! Replicated stores on a cluster's nodes, which call each other in memory.

mod clocks;
mod copies;
mod disks;
mod faults;
mod foreign_keys;
mod forget;
mod golden;
mod identity;
mod leadership;
mod leaving;
mod numbers;
mod reinit;
mod repairs;
mod replicas;
mod restarts;
mod set_back;
mod told;
mod unreached;

use crate::disk::Disk;
use crate::nodes::node;
use crate::support::world::World;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_client::Client;
use consul_cluster::stores::{ShardStatus, Store, StoreOptions, leader};
use consul_cluster::{Cluster, Options};
use consul_process::clock::{BoxFuture, Clock, Instant, ManualClock, TaskId, WallClock};
use consul_replication::holder::Holder;
use consul_replication::map::{NodeId, Quorums};
use consul_replication::message::{Reply, Request};
use consul_replication::peers::{Peers, Runtime};
use consul_replication::record::Range;
use consul_replication::storage::Storage;
use consul_sim::Retained;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Nodes that have just been started answer once a leader has confirmed them.
const LONGER_THAN_AN_ELECTION_S: u64 = 60;

/// The nodes that can be called: those whose processes run and have a key that the caller has.
#[derive(Clone)]
struct Network {
    clock: ManualClock,
    stores: Arc<Mutex<BTreeMap<NodeId, Arc<Store>>>>,
    /// The caller; empty: an observer.
    own: NodeId,
    /// The keys of the nodes that do not have the cluster's one.
    keys: Arc<Mutex<BTreeMap<NodeId, &'static [&'static str]>>>,
    /// The nodes without the store.
    plain: Arc<Mutex<BTreeSet<NodeId>>>,
    /// The nodes whose data addresses cannot be reached by some callers.
    cut: Arc<Mutex<BTreeMap<NodeId, Callers>>>,
}

/// Who cannot reach a node, although it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Callers {
    All,
    One(NodeId),
}

impl Network {
    fn is_cut(&self, node: &NodeId) -> bool {
        let cut = self.cut.lock().expect("no panic elsewhere");
        let is_meant = |callers: &Callers| match callers {
            Callers::All => self.own != *node,
            Callers::One(caller) => self.own == *caller,
        };
        cut.get(node).is_some_and(is_meant)
    }

    fn holder(&self, node: &NodeId) -> Option<Arc<Holder>> {
        if self.is_cut(node) {
            return None;
        }
        self.stores.lock().expect("no panic elsewhere").get(node)?.holder()
    }

    /// The same network as another process sees it.
    fn of(&self, own: &str) -> Self {
        Network { own: own.into(), ..self.clone() }
    }

    fn check_key(&self, node: &NodeId) -> Result<(), Error> {
        let all = self.keys.lock().expect("no panic elsewhere");
        let keys = |node| all.get(node).copied().unwrap_or(&["the cluster's"]);
        match keys(&self.own).iter().any(|key| keys(node).contains(key)) {
            true => Ok(()),
            false => Err(Error::new(Kind::PermissionDenied, "another cluster_key")),
        }
    }
}

impl Peers for Network {
    fn ask(&self, node: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>> {
        let (holder, checked) = (self.holder(node), self.check_key(node));
        Box::pin(async move {
            let Some(holder) = holder else {
                return Err(Error::new(Kind::Connect, "it is down"));
            };
            checked?;
            Ok(holder.serve(request).await)
        })
    }

    fn check_key(&self, node: &NodeId) -> BoxFuture<'static, Result<(), Error>> {
        let is_open = self.stores.lock().expect("no panic elsewhere").contains_key(node);
        let is_plain = self.plain.lock().expect("no panic elsewhere").contains(node);
        let is_there = !self.is_cut(node) && (is_open || is_plain);
        let checked = match is_there {
            true => self.check_key(node),
            false => Err(Error::new(Kind::Connect, "it is down")),
        };
        Box::pin(async { checked })
    }
}

impl Runtime for Network {
    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.clock.spawn(task);
    }

    fn fraction(&self) -> f64 {
        0.5
    }
}

struct Process {
    cluster: Arc<Cluster>,
    store: Arc<Store>,
    disk: Arc<Disk>,
    task: TaskId,
}

struct Cases {
    world: World,
    network: Network,
}

impl Cases {
    fn new() -> Self {
        Cases::of(World::new())
    }

    fn of(world: World) -> Self {
        let (clock, own) = (world.clock.clone(), "".into());
        let (stores, keys, plain, cut) = Default::default();
        let network = Network { clock, stores, own, keys, plain, cut };
        Cases { world, network }
    }

    fn options(id: &str) -> Options {
        Options {
            shards: 8,
            replicas: 3,
            replace_after: Duration::from_secs(60),
            forget_after: Duration::from_secs(600),
            ..node(id)
        }
    }

    fn start(&self, id: &str, disk: &Arc<Disk>) -> Process {
        let options = Self::options(id);
        let store = StoreOptions {
            drop_after: Duration::from_secs(5),
            repair_every: Duration::from_secs(30),
            ..StoreOptions::new("points", &options)
        };
        self.start_with(options, store, disk)
    }

    fn start_with(&self, options: Options, store: StoreOptions, disk: &Arc<Disk>) -> Process {
        self.start_on(self.world.client(), options, store, disk)
    }

    fn start_on(
        &self,
        client: Arc<Client>,
        options: Options,
        store: StoreOptions,
        disk: &Arc<Disk>,
    ) -> Process {
        let cluster = Cluster::new(Arc::clone(&client), client, options).expect("options");
        self.run(cluster, store, disk)
    }

    /// Lets a node take part, with a store or without one.
    fn run(&self, cluster: Arc<Cluster>, store: StoreOptions, disk: &Arc<Disk>) -> Process {
        let network = self.network.of(&cluster.options().node_id);
        let peers: Arc<dyn Peers> = Arc::new(network.clone());
        let runtime: Arc<dyn Runtime> = Arc::new(network.clone());
        let storage: Arc<dyn Storage> = Arc::clone(disk) as Arc<dyn Storage>;
        let store = Store::new(Arc::clone(&cluster), peers, runtime, Some(storage), store)
            .expect("options");
        let name: NodeId = cluster.options().node_id.as_str().into();
        self.network.stores.lock().expect("no panic").insert(name, Arc::clone(&store));
        let (running, serving) = (Arc::clone(&cluster), Arc::clone(&store));
        let task = self.world.clock.spawn(async move {
            let reach: leader::Reach = Arc::new(move |_| Arc::new(network.clone()));
            tokio::select! {
                biased;
                _ = running.run() => {}
                never = leader::run(&running, &reach) => match never {},
                () = async move { serving.run().await; std::future::pending().await } => {}
            }
        });
        Process { cluster, store, disk: Arc::clone(disk), task }
    }

    /// Starts an observer, which keeps no records.
    fn observe(&self, id: &str) -> Arc<Store> {
        let store = self.observe_with(id, self.world.client());
        self.world.run(store.ready()).expect("a map");
        store
    }

    /// The same with this client; it may have no map yet.
    fn observe_with(&self, id: &str, client: Arc<Client>) -> Arc<Store> {
        let options = Options { observer: true, ..Self::options(id) };
        let store = StoreOptions::new("points", &options);
        let cluster = Cluster::new(Arc::clone(&client), client, options).expect("options");
        let peers: Arc<dyn Peers> = Arc::new(self.network.clone());
        let runtime: Arc<dyn Runtime> = Arc::new(self.network.clone());
        let store = Store::new(Arc::clone(&cluster), peers, runtime, None, store).expect("options");
        let serving = Arc::clone(&store);
        self.world.clock.spawn(async move {
            tokio::select! {
                biased;
                _ = cluster.run() => {}
                () = async move { serving.run().await; std::future::pending().await } => {}
            }
        });
        store
    }

    /// Starts the nodes `n1` to `n<count>`, and waits until the store has its shards on them.
    fn nodes(&self, count: usize) -> Vec<Process> {
        let start = |n| self.start(&format!("n{n}"), &Disk::new());
        let nodes: Vec<Process> = (1..=count).map(start).collect();
        self.world.run(async {
            for node in &nodes {
                node.store.ready().await.expect("a map");
            }
        });
        nodes
    }

    /// The same, with records that one of them has written.
    fn filled(count: usize) -> (Self, Vec<Process>) {
        let cases = Cases::new();
        let nodes = cases.nodes(count);
        cases.fill(&nodes[0], "before");
        (cases, nodes)
    }

    fn kill(&self, process: &Process) {
        self.world.clock.cancel(process.task);
        let name: NodeId = process.cluster.options().node_id.as_str().into();
        self.network.stores.lock().expect("no panic").remove(&name);
    }

    fn stop(&self, process: &Process) {
        self.kill(process);
        self.world.run(process.cluster.leave()).expect("a graceful stop");
    }

    fn deadline(&self, seconds: u64) -> Instant {
        self.world.clock.now() + Duration::from_secs(seconds)
    }

    fn write(&self, at: &Process, key: &str, data: &str) -> Result<(), Error> {
        self.write_within(10, at, key, data)
    }

    fn write_within(&self, limit_s: u64, at: &Process, key: &str, data: &str) -> Result<(), Error> {
        let record = (Bytes::from(key.to_owned()), Some(Bytes::from(data.to_owned())));
        let deadline = self.deadline(limit_s);
        self.world.run(at.store.write(key.as_bytes(), vec![record], deadline)).map(|_| ())
    }

    fn read(&self, at: &Process, key: &str) -> Option<String> {
        let range = Range { from: Bytes::from(key.to_owned()), ..Range::all() };
        let deadline = self.deadline(LONGER_THAN_AN_ELECTION_S);
        let page = self.world.run(at.store.read(key.as_bytes(), &range, 1, deadline));
        let record = page.expect("a complete read").records.into_iter().next();
        let record = record.filter(|record| record.id == key.as_bytes())?;
        record.data.map(|data| String::from_utf8(data.to_vec()).expect("a text"))
    }

    fn fill(&self, at: &Process, what: &str) {
        for number in 0..40 {
            let key = format!("{what}-{number}");
            self.write_within(LONGER_THAN_AN_ELECTION_S, at, &key, what).expect("a quorum");
        }
    }

    fn has(&self, at: &Process, what: &str) {
        for number in 0..40 {
            let key = format!("{what}-{number}");
            assert_eq!(self.read(at, &key).as_deref(), Some(what), "{key}");
        }
    }

    /// The content of a disk now, without its records.
    fn copy_of(&self, disk: &Disk) -> Arc<Disk> {
        let names = ["disk", "map"].map(str::to_owned).into_iter();
        let names = names.chain((0..8).map(|it| format!("shard/{it}")));
        let copy = Disk::new();
        self.world.run(async {
            for name in names {
                if let Some(bytes) = disk.kept(&name).await.expect("memory") {
                    copy.keep(&name, bytes).await.expect("memory");
                }
            }
        });
        copy
    }

    /// Waits until a node that counts as empty has its replicas again.
    fn is_filled_again(&self, node: &Process) {
        self.world.run(node.store.ready()).expect("a map");
        self.wait_until(90, || !node.is_settled(3));
        self.wait_until(60, || node.is_settled(3));
    }

    /// Waits until a condition on the status of the store holds.
    fn wait_until(&self, limit_s: u64, is_so: impl Fn() -> bool) {
        let end = self.deadline(limit_s);
        while !is_so() {
            assert!(self.world.clock.now() < end, "not within {limit_s} s");
            self.world.wait(Duration::from_millis(100));
        }
    }
}

impl Process {
    /// Whether each shard has `replicas` replicas that count, and no change in progress.
    fn is_settled(&self, replicas: usize) -> bool {
        let status = self.store.status();
        let is_settled = |it: &ShardStatus| it.holders.len() == replicas && it.targets.is_empty();
        !status.is_empty() && status.iter().all(is_settled)
    }

    fn holders(&self) -> BTreeSet<String> {
        let status = self.store.status();
        status.iter().flat_map(|it| &it.holders).map(|node| node.to_string()).collect()
    }
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[test]
fn every_node_reads_what_one_has_written() {
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    cases.fill(&nodes[0], "first");
    nodes.iter().for_each(|node| cases.has(node, "first"));
    assert!(nodes[0].is_settled(3));
    cases.write(&nodes[1], "first-1", "second").expect("a quorum");
    assert_eq!(cases.read(&nodes[2], "first-1").as_deref(), Some("second"));
}

#[test]
fn a_node_that_is_away_delays_nothing_and_catches_up() {
    let (cases, nodes) = Cases::filled(3);
    cases.kill(&nodes[2]);
    cases.fill(&nodes[0], "meanwhile");
    let back = cases.start("n3", &nodes[2].disk);
    cases.world.wait(Duration::from_secs(20));
    cases.kill(&nodes[0]);
    cases.has(&back, "before");
    cases.has(&back, "meanwhile");
}

#[test]
fn stopping_is_not_leaving() {
    let cases = Cases::new();
    let nodes = cases.nodes(6);
    cases.fill(&nodes[5], "before");
    for node in &nodes[..3] {
        cases.stop(node);
    }
    cases.world.wait(Duration::from_secs(20));
    assert_eq!(nodes[5].holders().len(), 6, "they keep their shards");
    let back: Vec<Process> =
        (1..=3).map(|n| cases.start(&format!("n{n}"), &nodes[n - 1].disk)).collect();
    cases.world.wait(Duration::from_secs(20));
    cases.has(&back[0], "before");
}

#[test]
fn a_drained_node_hands_over_its_shards_under_load() {
    let (cases, nodes) = Cases::filled(4);
    let drain = nodes[0].cluster.set_mode("n4", consul_cluster::Mode::Draining);
    cases.world.run(drain).expect("the right to do so");
    for turn in 0..300 {
        cases.write(&nodes[0], &format!("turn-{turn}"), "x").expect("no write is refused");
        cases.world.wait(Duration::from_millis(50));
    }
    cases.wait_until(60, || nodes[3].store.holds_none());
    cases.kill(&nodes[3]);
    cases.has(&nodes[1], "before");
}
