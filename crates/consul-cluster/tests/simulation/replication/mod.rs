//! Histories of replicated shards: writes and reads of clients while nodes stop, die, lose their disks,
//! are cut off, and the map moves their shards.

pub mod checker;
mod directed;
mod losses;
mod network;
mod nodes;
mod numbers;
mod register;
mod restarts;
mod wired;

use crate::world::{ENVIRONMENT, Node, Report, World};
use bytes::Bytes;
use checker::{Checker, Place, WriteId};
use consul_process::clock::Instant;
use consul_replication::clock::VersionClock;
use consul_replication::map::{NodeId, Quorums, StoreId};
use consul_replication::message::{Action, Outcome, Request};
use consul_replication::peers::Entries;
use consul_replication::quorum::Router;
use consul_replication::record::Range;
use consul_replication::rules::{Rule, Rules};
pub use directed::Story;
use network::{Sent, Way};
use nodes::Process;
use register::Register;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long disruptions go on, and how long after that everything must be whole again.
const DISRUPTED_FOR: Duration = Duration::from_secs(60);
const RECOVERS_WITHIN: Duration = Duration::from_secs(60);

/// How long clients go on after the disruptions.
const CLIENTS_GO_ON: Duration = Duration::from_secs(30);

/// The first number of a client; nodes have smaller ones.
const CLIENTS: Node = 100;

/// The time of the machines' clocks at the start, in Unix milliseconds.
const START_MS: u64 = 1_700_000_000_000;

/// The store of all histories.
const STORE: StoreId = StoreId(1);

pub struct Scenario {
    world: Rc<World>,
    quorums: Quorums,
    /// N, W and R as an operator wants them now.
    wanted: Cell<Quorums>,
    /// Whether an operator changes these at random moments, and whether W and R are always the same.
    numbers_change: bool,
    are_symmetric: bool,
    shards: u32,
    rules: Rules,
    stop_is_leave: bool,
    replace_after: Duration,
    drop_after: Duration,
    repair_every: Duration,
    max_skew: Duration,
    page: usize,
    processes: RefCell<Vec<Process>>,
    register: RefCell<Register>,
    checker: RefCell<Checker>,
    /// The writes that each client makes now.
    current: RefCell<BTreeMap<Node, BTreeMap<Place, WriteId>>>,
    out: mpsc::UnboundedSender<Sent>,
    /// Pairs of processes that do not reach each other.
    cuts: RefCell<BTreeSet<(Node, Node)>>,
    /// Nodes that do not reach Consul.
    cut_from_consul: RefCell<BTreeSet<Node>>,
    longest_delay_ms: Cell<u64>,
    lossy: Cell<bool>,
    /// The replicas that nodes have found to be equal while numbers change.
    equal: RefCell<numbers::AllEqual>,
    /// Disks that were lost since all shards were whole.
    losses: Cell<usize>,
    calm: Cell<bool>,
    /// Whether nodes are restarted in turn, so that no write may fail.
    restarts: Cell<bool>,
    /// Whether the register says when it went back.
    is_told: bool,
    /// Whether the nodes are real ones, on the simulated agent.
    wired: bool,
    /// The changes that were seen in progress on real nodes: shard, epoch and target.
    changes: RefCell<BTreeSet<(u32, u64, NodeId)>>,
}

/// The parts that make the map and bring it to the nodes, and the events of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A register with check-and-set, which says when it went back.
    Register,
    /// The same, but it does not say it: it goes back while all nodes are away.
    Untold,
    /// As the first one, and machines are restarted under disks that do not survive that, all of them too.
    Reboots,
    /// The same, and nothing happens but a rolling restart.
    Restarts,
    /// The same, and nothing happens but that a disk loses a part of what was copied to it.
    LostCopy,
    /// The same, and this alone happens.
    Directed(Story),
    /// The nodes of a cluster on the simulated agent, and their leader.
    Wired,
    /// As the first one, and an operator changes N, W and R.
    Numbers,
    /// The same on the nodes of a cluster.
    WiredNumbers,
}

/// Plays the history of one seed.
pub fn play(seed: u64, kind: Kind, omitted: Option<Rule>, traced: bool) -> Report {
    let world = World::new(seed, traced);
    let (out, mut sent) = mpsc::unbounded_channel();
    let scenario = Scenario::new(&world, out, kind, omitted);
    let pump = Rc::clone(&scenario);
    world.spawn(ENVIRONMENT, async move {
        while let Some(sent) = sent.recv().await {
            pump.deliver(sent);
        }
    });
    let nodes = scenario.processes.borrow().len();
    (0..nodes).for_each(|node| scenario.start(node));
    if !scenario.wired {
        scenario.lead();
    }
    for client in 0..world.number(2..5) as usize {
        scenario.run_client(CLIENTS + client);
    }
    let directed = Rc::clone(&scenario);
    let disruptions = match kind {
        Kind::Register | Kind::Untold | Kind::Reboots | Kind::Wired => world.number(6..26),
        Kind::Numbers | Kind::WiredNumbers => {
            world.spawn(ENVIRONMENT, async move { directed.change_numbers().await });
            world.number(3..16)
        }
        Kind::Restarts => {
            world.spawn(ENVIRONMENT, async move { directed.restart_in_turn().await });
            0
        }
        Kind::LostCopy => {
            world.spawn(ENVIRONMENT, async move { directed.lose_what_was_copied_alone().await });
            0
        }
        Kind::Directed(story) => {
            world.spawn(ENVIRONMENT, async move { directed.tell(story).await });
            0
        }
    };
    for _ in 0..disruptions {
        let begins = world.millis(3000..scenario.disrupted_for().as_millis() as u64 - 6000);
        let scenario = Rc::clone(&scenario);
        world.spawn(ENVIRONMENT, async move {
            scenario.world.sleep(begins).await;
            match kind == Kind::Reboots && scenario.world.chance(0.5) {
                true => scenario.reboot().await,
                false => scenario.disrupt().await,
            }
        });
    }
    let end = Rc::clone(&scenario);
    world.spawn(ENVIRONMENT, async move {
        end.world.sleep(end.disrupted_for()).await;
        end.heal();
    });
    world.run(scenario.end(), || {});
    scenario.check_end();
    for (what, count) in scenario.register.borrow().counts() {
        world.count(what, count);
    }
    drop(scenario);
    world.end()
}

impl Scenario {
    fn new(
        world: &Rc<World>,
        out: mpsc::UnboundedSender<Sent>,
        kind: Kind,
        omitted: Option<Rule>,
    ) -> Rc<Self> {
        let wired = matches!(kind, Kind::Wired | Kind::WiredNumbers);
        let numbers_change = matches!(kind, Kind::Numbers | Kind::WiredNumbers);
        let are_symmetric = numbers_change && world.chance(0.7);
        let replicas = [1, 2, 3, 3, 3, 3, 4, 5][world.number(0..8) as usize];
        // Every pair of quorums that overlap.
        let write = world.number(1..replicas as u64 + 1) as usize;
        let least = replicas - write + 1;
        let read = world.number(least as u64..replicas as u64 + 1) as usize;
        let majority = replicas / 2 + 1;
        let is_directed = matches!(kind, Kind::Directed(_) | Kind::Restarts | Kind::LostCopy);
        let quorums = if let Kind::Directed(story) = kind {
            story.quorums()
        } else if numbers_change {
            numbers::random(world, 4, are_symmetric)
        } else if is_directed {
            Quorums { replicas: 3, write: 2, read: 2 }
        } else if world.chance(0.6) {
            Quorums { replicas, write: majority, read: majority }
        } else {
            Quorums { replicas, write, read }
        };
        let least = if numbers_change { 3.max(quorums.replicas) } else { quorums.replicas };
        let nodes = least + world.number(u64::from(is_directed)..3) as usize;
        let skewed = world.chance(0.3);
        let processes = (0..nodes).map(|node| Process::new(world, node, skewed)).collect();
        Rc::new(Scenario {
            world: Rc::clone(world),
            quorums,
            wanted: Cell::new(quorums),
            numbers_change,
            are_symmetric,
            shards: match kind {
                Kind::Directed(_) => 1,
                _ => world.number(1..4) as u32,
            },
            rules: omitted.map_or_else(Rules::default, Rules::without),
            stop_is_leave: omitted == Some(Rule::StopIsNotLeave),
            // Without a second replica that must answer, each failover needs a person.
            replace_after: match quorums.write.min(quorums.read) {
                1 if !numbers_change => Duration::MAX,
                _ if is_directed => world.millis(6000..20_000),
                _ if wired => world.millis(5000..20_000),
                _ => world.millis(2000..8000),
            },
            drop_after: world.millis(100..6000),
            repair_every: world.millis(1000..6000),
            max_skew: Duration::from_secs(if skewed { 3 * 3600 } else { 10 }),
            page: world.number(1..6) as usize,
            processes: RefCell::new(processes),
            register: RefCell::default(),
            checker: RefCell::new(Checker::new(match numbers_change {
                true => are_symmetric,
                false => 2 * quorums.write > quorums.replicas,
            })),
            current: RefCell::default(),
            out,
            cuts: RefCell::default(),
            cut_from_consul: RefCell::default(),
            longest_delay_ms: Cell::new(5),
            lossy: Cell::new(false),
            equal: RefCell::default(),
            losses: Cell::default(),
            calm: Cell::new(false),
            restarts: Cell::new(false),
            is_told: kind != Kind::Untold,
            wired,
            changes: RefCell::default(),
        })
    }

    fn disrupted_for(&self) -> Duration {
        if self.wired { wired::DISRUPTED_FOR } else { DISRUPTED_FOR }
    }

    fn end(&self) -> Duration {
        if self.wired {
            wired::DISRUPTED_FOR + wired::RECOVERS_WITHIN
        } else {
            DISRUPTED_FOR + RECOVERS_WITHIN
        }
    }

    fn way(&self, owner: Node) -> Way {
        let seed = self.world.number(0..u64::MAX);
        Way {
            owner,
            clock: self.world.clock.clone(),
            out: self.out.clone(),
            rng: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
        }
    }

    fn version_clock(&self, skew_ms: i64) -> Arc<VersionClock> {
        let clock = self.world.clock.clone();
        let unix_ms = move || {
            let now = consul_process::clock::Clock::now(&clock).since_origin().as_millis() as u64;
            (START_MS + now).saturating_add_signed(skew_ms)
        };
        Arc::new(VersionClock::new(unix_ms, self.max_skew, self.world.number(0..u64::MAX)))
    }

    fn delay(&self) -> Duration {
        let longest = Duration::from_millis(self.longest_delay_ms.get());
        Duration::from_micros(200) + longest.mul_f64(self.world.fraction().powi(3))
    }

    fn is_cut(&self, a: Node, b: Node) -> bool {
        let cuts = self.cuts.borrow();
        cuts.contains(&(a, b)) || cuts.contains(&(b, a))
    }

    fn loses(&self) -> bool {
        self.lossy.get() && self.world.chance(0.15)
    }

    /// Brings what a process has sent to where it goes.
    fn deliver(self: &Rc<Self>, sent: Sent) {
        match sent {
            Sent::Task { owner, task } => self.world.spawn(owner, task),
            Sent::Request { from, to, request, reply } => {
                let to = nodes::number(&to);
                self.world.note(|| {
                    let (shard, epoch) = (request.shard, request.entry.epoch);
                    let action = format!("{:?}", request.action);
                    let action = action.split([' ', '(']).next().unwrap_or_default().to_owned();
                    format!("{from} asks {to} about shard {shard} in epoch {epoch}: {action}")
                });
                self.note_writes(from, &request);
                let reads = matches!(request.action, Action::Read { .. });
                self.world.count("read requests", u64::from(reads));
                let again = (self.lossy.get() && self.world.chance(0.1)).then(|| request.clone());
                if self.is_cut(from, to) || self.loses() {
                    self.world.spawn(ENVIRONMENT, hold(reply));
                } else {
                    self.pass_on(from, to, *request, reply, 1);
                }
                if let Some(again) = again {
                    let (reply, _) = oneshot::channel();
                    self.pass_on(from, to, *again, reply, 20);
                }
            }
        }
    }

    fn pass_on(
        self: &Rc<Self>,
        from: Node,
        to: Node,
        request: Request,
        reply: oneshot::Sender<consul_replication::message::Reply>,
        times: u32,
    ) {
        let scenario = Rc::clone(self);
        self.world.spawn(ENVIRONMENT, async move {
            scenario.world.sleep(scenario.delay() * times).await;
            let holder = scenario.holder(to);
            let Some(holder) = holder else { return };
            let serving = Rc::clone(&scenario);
            scenario.world.spawn(to, async move {
                let answer = holder.serve(request.clone()).await;
                serving.note_stored(to, &request, &answer.outcome);
                serving.check_seal(to, &request, &answer.outcome);
                serving.world.sleep(serving.delay()).await;
                if serving.is_cut(from, to) || serving.loses() {
                    return hold(reply).await;
                }
                _ = reply.send(answer);
            });
        });
    }

    fn note_writes(&self, from: Node, request: &Request) {
        let current = self.current.borrow();
        let (Action::Write(records), Some(writes)) = (&request.action, current.get(&from)) else {
            return;
        };
        for record in records {
            let place = (request.shard, record.id.to_vec());
            if let Some(write) = writes.get(&place) {
                self.checker.borrow_mut().sent(&place, *write, record.version);
            }
        }
    }

    fn note_stored(&self, node: Node, request: &Request, outcome: &Outcome) {
        let (Action::Write(records), Outcome::Stored { overtaken }) = (&request.action, outcome)
        else {
            return;
        };
        for (index, record) in records.iter().enumerate() {
            let place = (request.shard, record.id.to_vec());
            if overtaken.iter().any(|(at, _)| *at == index) {
                self.checker.borrow_mut().overtaken(&place, record.version);
                continue;
            }
            let at = (request.entry.epoch, node);
            let now = self.world.now();
            let quorum = request.entry.quorums.write;
            self.checker.borrow_mut().stored(&place, record.version, at, quorum, now);
        }
    }

    /// A move may not copy what an operator has made again.
    fn check_seal(&self, node: Node, request: &Request, outcome: &Outcome) {
        let is_sealed = matches!((&request.action, outcome), (Action::Seal, Outcome::Done));
        let shard = request.shard;
        if is_sealed && self.to_remake(node).contains(&shard) {
            self.world.violation(|| format!("a move copies shard {shard} of {node} all the same"));
        }
    }

    /// A client that writes and reads, with its own clock and its own, often old, map.
    fn run_client(self: &Rc<Self>, client: Node) {
        let scenario = Rc::clone(self);
        let skew = if self.max_skew > Duration::from_secs(60) {
            self.world.number(0..7_200_000) as i64 - 3_600_000
        } else {
            self.world.number(0..2000) as i64 - 1000
        };
        let router = if self.wired {
            self.gateway(client, skew)
        } else {
            Router {
                entries: Arc::new(Entries::default()),
                peers: Arc::new(self.way(client)),
                runtime: Arc::new(self.way(client)),
                clock: self.version_clock(skew),
                times: Arc::default(),
                rules: self.rules,
            }
        };
        let learns = !self.wired && self.world.chance(0.6);
        self.world.spawn(client, async move {
            let world = &scenario.world;
            loop {
                let knows_none = router.entries.get(0).is_none();
                if !scenario.wired && (knows_none || (learns && world.chance(0.2))) {
                    scenario.learn_map(&router.entries);
                }
                world.sleep(world.millis(5..200)).await;
                if world.now() > scenario.disrupted_for() + CLIENTS_GO_ON {
                    return;
                }
                if knows_none {
                    continue;
                }
                let shard = world.number(0..u64::from(scenario.shards)) as u32;
                let limit = world.millis(500..5000);
                let deadline = Instant::from_origin(world.now() + limit);
                if world.chance(0.5) {
                    scenario.write(client, &router, shard, deadline).await;
                } else {
                    scenario.read(&router, shard, deadline).await;
                }
            }
        });
    }

    fn learn_map(&self, entries: &Entries) {
        if let Some(map) = self.register.borrow().map() {
            for (shard, entry) in map.shards.iter().enumerate() {
                entries.learn(Some(STORE), shard as u32, entry);
            }
        }
    }

    async fn write(&self, client: Node, router: &Router, shard: u32, deadline: Instant) {
        let world = &self.world;
        let count = if world.chance(0.3) { world.number(2..6) } else { 1 };
        let ids: BTreeSet<u64> = (0..count).map(|_| world.number(0..12)).collect();
        self.write_ids(client, router, shard, ids, deadline).await;
    }

    async fn write_ids(
        &self,
        client: Node,
        router: &Router,
        shard: u32,
        ids: BTreeSet<u64>,
        deadline: Instant,
    ) {
        let world = &self.world;
        let mut records = Vec::new();
        let mut writes = BTreeMap::new();
        for id in ids {
            let id = format!("id{id:02}").into_bytes();
            let place = (shard, id.clone());
            let number = world.number(0..u64::MAX);
            let data = (!world.chance(0.25)).then(|| format!("{number:x}").into_bytes());
            let now = world.now();
            let write = self.checker.borrow_mut().begin(place.clone(), data.clone(), now);
            writes.insert(place, write);
            records.push((Bytes::from(id), data.map(Bytes::from)));
        }
        self.current.borrow_mut().insert(client, writes.clone());
        let shown = records.clone();
        let outcome = router.write(shard, records, deadline).await;
        world.note(|| format!("client {client} writes {shown:?} of shard {shard}: {outcome:?}"));
        match outcome {
            Ok(_) => {
                world.count("writes", 1);
                let mut checker = self.checker.borrow_mut();
                writes
                    .iter()
                    .for_each(|(place, write)| checker.acknowledge(place, *write, world.now()));
            }
            Err(why) => {
                world.count("failed writes", 1);
                if self.restarts.get() {
                    world.violation(|| format!("a write failed in a rolling restart: {why}"));
                }
            }
        }
    }

    async fn read(&self, router: &Router, shard: u32, deadline: Instant) {
        let world = &self.world;
        let begun = world.now();
        let mut range = Range::all();
        let limit = world.number(1..8) as usize;
        let ids = self.checker.borrow().ids(shard);
        loop {
            let page = match router.page(shard, &range, limit, deadline).await {
                Ok(page) => page,
                Err(why) => {
                    world.note(|| format!("read of shard {shard}: {why}"));
                    return world.count("incomplete reads", 1);
                }
            };
            for id in &ids {
                let is_in =
                    range.contains(id) && page.next.as_ref().is_none_or(|end| id[..] <= end[..]);
                if !is_in {
                    continue;
                }
                let found = page.records.iter().find(|record| record.id == id[..]);
                let place = (shard, id.clone());
                if let Err(why) = self.checker.borrow().read(&place, found, begun) {
                    world.violation(|| why);
                }
            }
            world.count("reads", 1);
            match page.next {
                Some(next) => range = range.after(next),
                None => return,
            }
        }
    }

    /// Everything must be whole: no change in progress, N equal copies, nothing missing.
    fn check_end(&self) {
        if self.wired {
            return self.check_wired_end();
        }
        let register = self.register.borrow();
        let Some(map) = register.map() else {
            return self.world.violation(|| "there is no map".to_owned());
        };
        let processes = self.processes.borrow();
        for (shard, entry) in map.shards.iter().enumerate() {
            let shard = shard as u32;
            let is_settled = entry.slots.iter().all(|it| it.change.is_none() && !it.is_vacant());
            if !is_settled || !entry.has(self.wanted.get()) {
                self.world.violation(|| format!("shard {shard} is not settled: {entry:?}"));
                continue;
            }
            let copies: Vec<_> = entry
                .counting()
                .map(|(_, place)| processes[nodes::number(&place.node)].live_records(shard))
                .collect();
            if copies.windows(2).any(|pair| pair[0] != pair[1]) {
                self.world.violation(|| format!("shard {shard} has different copies: {copies:?}"));
            }
        }
    }
}

async fn hold<T>(value: T) {
    std::future::pending::<()>().await;
    drop(value);
}

/// The rule with this name.
pub fn rule(name: &str) -> Option<Rule> {
    let mut all = RULES.iter().map(|(rule, ..)| *rule);
    all.find(|rule| format!("{rule:?}") == name)
}

/// The rules, each with a history that shows it to be needed and a seed that finds a violation without it. That
/// acknowledgements count within one epoch is shown by the model of crates/consul-replication/tests/model: since a write asks first whether a
/// quorum answers, none of these histories divides one between two epochs.
pub const RULES: &[(Rule, Kind, u64)] = &[
    (Rule::RefuseOtherEpochs, Kind::Register, 14),
    (Rule::RefuseOtherStores, Kind::Directed(Story::EarlierStore), 0),
    (Rule::Seal, Kind::Register, 3),
    (Rule::SealIsStored, Kind::Register, 361),
    (Rule::WaitForRunning, Kind::Reboots, 574),
    (Rule::FenceEnough, Kind::Directed(Story::LateReader), 0),
    (Rule::CopyUnion, Kind::Directed(Story::LossBesideAGap), 0),
    (Rule::TargetCountsLate, Kind::Register, 14),
    (Rule::TargetBeginsEmpty, Kind::Register, 852),
    (Rule::KeepDoubted, Kind::Reboots, 0),
    (Rule::HorizonDecides, Kind::Reboots, 0),
    (Rule::Mark, Kind::LostCopy, 0),
    (Rule::NameTheDisk, Kind::Register, 469),
    (Rule::CheckBeforeDrop, Kind::Register, 883),
    (Rule::OneVersion, Kind::Register, 114),
    (Rule::RepeatAboveNewer, Kind::Register, 0),
    (Rule::Horizon, Kind::Register, 13),
    (Rule::PurgeAfterRepair, Kind::Register, 27),
    (Rule::StopIsNotLeave, Kind::Restarts, 0),
    (Rule::AskAfterSetBack, Kind::Register, 1),
    (Rule::SayIncomplete, Kind::Register, 8),
    (Rule::EqualBeforeNumbers, Kind::Numbers, 11),
];
