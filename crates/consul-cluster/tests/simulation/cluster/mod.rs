//! Histories of a cluster: its leader, its members and its shard map.

mod rules;

use crate::omitted_rule::OmittedRule;
use crate::world::{Disruption, ENVIRONMENT, Node, Report, World};
use consul_client::coordination::Profile;
use consul_client::coordination::lock::LOCK_FLAGS;
use consul_cluster::shard_map::ShardMap;
use consul_cluster::{Cluster, Mode, Options, Snapshot};
use consul_sim::{Backup, Retained};
use http::Method;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long disruptions go on, and how long after that the cluster must have recovered: up to twice the
/// session's TTL of 10 s, the lock delay, pauses after failures and the time after which a node is
/// replaced.
const DISRUPTED_FOR: Duration = Duration::from_secs(40);
const RECOVERS_WITHIN: Duration = Duration::from_secs(60);

/// A leader that starts without a map uses epochs below this number; after a loss of data, epochs jump
/// beyond it.
const FIRST_EPOCHS_BELOW: u64 = 1000;

/// The nodes restore their map within this time after Consul has lost data, even under disruptions.
const RESTORED_WITHIN: Duration = Duration::from_secs(15);

/// The latest start of a disruption.
const LAST_DISRUPTION: Duration = Duration::from_secs(34);

struct Scenario {
    world: Rc<World>,
    options: Options,
    omitted: Option<OmittedRule>,
    zones: u64,
    processes: RefCell<Vec<Process>>,
    /// Each map that any node has had, by epoch.
    maps: RefCell<BTreeMap<u64, Arc<ShardMap>>>,
    /// Whether a node has changed its weight.
    has_reweighed: Cell<bool>,
    backup: RefCell<Option<Backup>>,
    fence: RefCell<Fence>,
    /// Two nodes may lead until this time: the lock was removed by a third party, which no client can
    /// know.
    excused_until: Cell<Duration>,
    /// Leases and tokens from before a loss of Consul's data may be in use until this time.
    lost_until: Cell<Duration>,
    /// A leader without a map may write first maps until this time; they are replaced by the map that the
    /// other nodes restore.
    first_maps_until: Cell<Duration>,
    leader: RefCell<Option<(Node, u64)>>,
    /// When the cluster had recovered.
    recovered: Cell<Option<Duration>>,
}

/// The highest tokens since Consul's indexes last started again.
#[derive(Default)]
struct Fence {
    written: u64,
    led: u64,
    led_by: Option<Node>,
    mapped: u64,
}

/// A node's process; `cluster` is `None` while it does not run.
struct Process {
    weight: f64,
    cluster: Option<Arc<Cluster>>,
    seen: Option<Arc<Snapshot>>,
}

/// Plays the history of one seed.
pub fn play(seed: u64, omitted: Option<OmittedRule>, traced: bool) -> Report {
    let world = World::new(seed, traced);
    let nodes = match world.number(0..50) {
        0 => world.number(20..51),
        _ => world.number(3..9),
    };
    let scenario = Scenario::new(&world, nodes as usize, omitted);
    for node in 0..nodes as usize {
        let scenario = Rc::clone(&scenario);
        let begins = world.millis(0..1000);
        world.spawn(ENVIRONMENT, async move {
            scenario.world.sleep(begins).await;
            scenario.start(node);
        });
    }
    for number in 0..world.number(3..12) {
        let scenario = Rc::clone(&scenario);
        let begins = scenario.world.millis(2000..LAST_DISRUPTION.as_millis() as u64);
        world.spawn(ENVIRONMENT, async move {
            scenario.world.sleep(begins).await;
            scenario.disrupt(number).await;
        });
    }
    let observer = Rc::clone(&scenario);
    world.run(DISRUPTED_FOR + RECOVERS_WITHIN, move || observer.observe());
    let recovered =
        scenario.recovered.get().unwrap_or(DISRUPTED_FOR + RECOVERS_WITHIN) - DISRUPTED_FOR;
    world.count("seconds to recover", recovered.as_secs());
    scenario.finish()
}

/// Plays a history in which `nodes` nodes start at once and then one in ten dies.
pub fn play_many(nodes: usize, seed: u64) -> Report {
    const DEATH: Duration = Duration::from_secs(8);
    const END: Duration = Duration::from_secs(40);
    let world = World::new(seed, true);
    let options = Options {
        shards: 2 * nodes,
        replicas: 2,
        replace_after: Duration::from_secs(3),
        ..Options::new("", "10.0.0.1:9000")
    };
    let scenario = Scenario::of(&world, options, vec![1.0; nodes], 1, None);
    (0..nodes).for_each(|node| scenario.start(node));
    let killer = Rc::clone(&scenario);
    world.spawn(ENVIRONMENT, async move {
        killer.world.sleep(DEATH).await;
        let health = killer.check_healthy();
        health.unwrap_or_else(|why| killer.world.violation(|| format!("before a death: {why}")));
        (0..nodes).filter(|node| node % 10 == 3).for_each(|node| killer.kill(node));
    });
    let observer = Rc::clone(&scenario);
    let next = Cell::new(Duration::ZERO);
    world.run(END, move || {
        if observer.world.now() >= next.get() {
            observer.observe();
            next.set(observer.world.now() + Duration::from_millis(100));
        }
    });
    scenario.finish()
}

impl Scenario {
    fn new(world: &Rc<World>, nodes: usize, omitted: Option<OmittedRule>) -> Rc<Self> {
        let options = Options {
            profile: if world.chance(0.5) { Profile::standard() } else { Profile::fast() },
            shards: world.number(2..10) as usize * nodes,
            replicas: world.number(1..4) as usize,
            min_nodes: world.number(1..nodes as u64) as usize,
            replace_after: Duration::from_secs(world.number(0..4) * 3),
            forget_after: Duration::from_secs(if world.chance(0.5) { 15 } else { 3600 }),
            ..Options::new("", "10.0.0.1:9000")
        };
        let weight = |_| if world.chance(0.8) { 1.0 } else { 2.0 };
        let weights = (0..nodes).map(weight).collect();
        let zones = if world.chance(0.5) { 1 } else { world.number(2..4) };
        Self::of(world, options, weights, zones, omitted)
    }

    fn of(
        world: &Rc<World>,
        options: Options,
        weights: Vec<f64>,
        zones: u64,
        omitted: Option<OmittedRule>,
    ) -> Rc<Self> {
        let process = |weight| Process { weight, cluster: None, seen: None };
        Rc::new(Scenario {
            processes: RefCell::new(weights.into_iter().map(process).collect()),
            zones,
            world: Rc::clone(world),
            options,
            omitted,
            maps: RefCell::default(),
            has_reweighed: Cell::new(false),
            backup: RefCell::default(),
            fence: RefCell::default(),
            excused_until: Cell::new(Duration::ZERO),
            lost_until: Cell::new(Duration::ZERO),
            first_maps_until: Cell::new(Duration::ZERO),
            leader: RefCell::default(),
            recovered: Cell::new(None),
        })
    }

    /// Starts a node in a process that a supervisor restarts whenever it ends.
    fn start(self: &Rc<Self>, node: Node) {
        if self.processes.borrow()[node].cluster.is_some() {
            return;
        }
        let (client, _) = self.world.client(node);
        let options = Options {
            node_id: name(node),
            zone: self.zone(node),
            weight: self.processes.borrow()[node].weight,
            ..self.options.clone()
        };
        let cluster = Cluster::new(Arc::clone(&client), client, options).expect("good options");
        let cluster = match self.omitted {
            Some(omitted) => cluster.with_rules(omitted.rules()),
            None => cluster,
        };
        self.processes.borrow_mut()[node].cluster = Some(Arc::clone(&cluster));
        let (scenario, running) = (Rc::clone(self), Arc::clone(&cluster));
        self.world.spawn(node, async move {
            let why = running.run().await;
            scenario.world.note(|| format!("{} ends: {why}", name(node)));
            scenario.forget(node);
            scenario.world.sleep(scenario.world.millis(500..1500)).await;
            scenario.start(node);
        });
        let scenario = Rc::clone(self);
        self.world.spawn(node, async move { scenario.lead(node, &cluster).await });
    }

    /// The program on a node: while it leads, it checks the lease and then writes, which takes time to
    /// arrive.
    async fn lead(self: &Rc<Self>, node: Node, cluster: &Cluster) {
        let world = &self.world;
        loop {
            if let Some(lease) = cluster.lease().filter(|lease| lease.is_held()) {
                world.sleep(world.millis(0..20)).await;
                let scenario = Rc::clone(self);
                let flight = self.options.profile.in_flight.mul_f64(world.fraction() * 0.9);
                let token = lease.token();
                world.spawn(ENVIRONMENT, async move {
                    scenario.world.sleep(flight).await;
                    scenario.write(node, token);
                });
            }
            world.sleep(world.millis(50..400)).await;
        }
    }

    /// A resource that refuses writes with a lower token than it has seen.
    fn write(&self, node: Node, token: u64) {
        let mut fence = self.fence.borrow_mut();
        if token >= fence.written {
            fence.written = token;
            return self.world.count("writes", 1);
        }
        if self.omitted != Some(OmittedRule::NoTokenCheck) {
            return self.world.count("refused writes", 1);
        }
        let written = fence.written;
        self.world.violation(|| format!("{} wrote with {token} after {written}", name(node)));
    }

    fn forget(&self, node: Node) {
        let process = &mut self.processes.borrow_mut()[node];
        process.cluster = None;
        process.seen = None;
    }

    fn kill(&self, node: Node) {
        self.world.kill(node);
        self.forget(node);
    }

    /// Runs one random disruption, which ends before [`DISRUPTED_FOR`] is over.
    async fn disrupt(self: &Rc<Self>, number: u64) {
        let world = &self.world;
        let nodes = self.processes.borrow().len();
        // The leader or a random node.
        let node = match *self.leader.borrow() {
            Some((leader, _)) if world.chance(0.4) => leader,
            _ => world.number(0..nodes as u64) as usize,
        };
        let mut lasts = world.millis(50..6000);
        let kind = world.number(0..20);
        let disruption = match kind {
            0 => Some(Disruption::Pause),
            1 => Some(Disruption::PauseAtAnAnswer),
            2 => Some(Disruption::ServersPause),
            3 => Some(Disruption::CutOff),
            4 | 5 => Some(Disruption::BadNetwork),
            6 => Some(Disruption::NoLeader),
            7 => Some(Disruption::IsolatedLeader),
            _ => None,
        };
        if disruption == Some(Disruption::ServersPause) {
            lasts = lasts.mul_f64(0.4);
        }
        world.note(|| {
            format!("disruption {number}: {kind} {disruption:?} {} for {lasts:?}", name(node))
        });
        let key = format!("/v1/kv/{}", self.options.leader_key);
        match kind {
            0..8 => world.disrupt(disruption.expect("one of these"), node),
            8 | 9 => self.kill(node),
            10 => self.destroy_the_leaders_session().await,
            11 => world.flap_check(&format!("{}-{}", self.options.service(), name(node))).await,
            12 => {
                self.excuse_two_leaders();
                world.ask(Method::DELETE, &key, "").await;
            }
            13 => _ = world.ask(Method::PUT, &format!("{key}?flags={LOCK_FLAGS}"), "x").await,
            14 => {
                self.excuse_two_leaders();
                let keeps = [Retained::Disk, Retained::DiskWithoutSessions];
                world.agent.restart(keeps[usize::from(world.chance(0.5))]);
            }
            15 => {
                self.backup.replace(Some(world.agent.back_up()));
                world.sleep(lasts).await;
                if let Some(backup) = self.backup.take() {
                    world.agent.restore(&backup);
                    self.after_data_loss();
                }
            }
            16 if world.chance(0.5) => {
                world.agent.restart(Retained::Nothing);
                self.after_data_loss();
            }
            16 | 17 => {
                self.leave(node).await;
                if world.chance(0.5) {
                    self.has_reweighed.set(true);
                    self.processes.borrow_mut()[node].weight = world.number(1..4) as f64;
                }
            }
            18 => self.set_mode(node, Mode::Draining).await,
            _ => {
                let cluster = self.processes.borrow()[node].cluster.clone();
                cluster.iter().for_each(|cluster| cluster.hand_over());
            }
        }
        world.sleep(lasts).await;
        world.note(|| format!("disruption {number} is over"));
        match disruption {
            Some(disruption) => world.heal(disruption, node),
            None if kind == 18 => self.set_mode(node, Mode::Active).await,
            // Some nodes never restart.
            None if matches!(kind, 8 | 9 | 16 | 17) && (nodes < 4 || world.chance(0.8)) => {
                self.start(node);
            }
            None => {}
        }
    }

    /// Stops a node gracefully.
    async fn leave(self: &Rc<Self>, node: Node) {
        let Some(cluster) = self.processes.borrow()[node].cluster.clone() else { return };
        self.kill(node);
        let scenario = Rc::clone(self);
        self.world.spawn(node, async move {
            let left = cluster.leave().await;
            scenario.world.note(|| format!("{} has left: {left:?}", name(node)));
        });
    }

    async fn set_mode(self: &Rc<Self>, node: Node, mode: Mode) {
        let Some(cluster) = self.processes.borrow()[node].cluster.clone() else { return };
        let scenario = Rc::clone(self);
        self.world.spawn(ENVIRONMENT, async move {
            // An operator retries.
            for _ in 0..20 {
                let changed = cluster.set_mode(&name(node), mode).await;
                scenario.world.note(|| format!("{} is {}: {changed:?}", name(node), mode.name()));
                if changed.is_ok() {
                    return;
                }
                scenario.world.sleep(Duration::from_secs(1)).await;
            }
        });
    }

    async fn destroy_the_leaders_session(&self) {
        let leader = *self.leader.borrow();
        let cluster = leader.and_then(|(node, _)| self.processes.borrow()[node].cluster.clone());
        if let Some(lease) = cluster.and_then(|cluster| cluster.lease()) {
            let path = format!("/v1/session/destroy/{}", lease.session());
            self.world.ask(Method::PUT, &path, "").await;
        }
    }

    /// Allows two leaders for the length of a lease.
    fn excuse_two_leaders(&self) {
        let lease = self.options.profile.lease.mul_f64(1.02) + Duration::from_millis(1);
        self.excused_until.set(self.excused_until.get().max(self.world.now() + lease));
    }

    fn is_after_data_loss(&self) -> bool {
        self.world.now() <= self.lost_until.get()
    }

    /// Adjusts the expectations after Consul has lost data: indexes and with them tokens start again, and
    /// maps that no node has are forgotten.
    fn after_data_loss(&self) {
        self.excuse_two_leaders();
        self.lost_until.set(self.excused_until.get());
        self.first_maps_until.set(self.world.now() + RESTORED_WITHIN);
        self.fence.take();
        let processes = self.processes.borrow();
        let known = processes.iter().filter_map(|process| process.cluster.as_ref());
        let known = known.filter_map(|cluster| Some(cluster.snapshot().map.as_ref()?.epoch()));
        let newest = known.max().unwrap_or(0);
        self.maps.borrow_mut().retain(|epoch, _| *epoch <= newest);
    }
}

fn name(node: Node) -> String {
    format!("n{node}")
}
