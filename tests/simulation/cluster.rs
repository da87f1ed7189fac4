//! Nodes of a cluster: which of them leads, who knows whom, and who has which shards.

use crate::broken::Broken;
use crate::world::{FATE, Harm, Node, Report, World};
use consul_ffi::client::coordination::Profile;
use consul_ffi::client::coordination::lock::LOCK_FLAGS;
use consul_ffi::cluster::membership::{self, Mode};
use consul_ffi::cluster::shard_map::{Member, ShardMap};
use consul_ffi::cluster::{Cluster, Options, Snapshot};
use consul_ffi::simulate::{Backup, Keeps};
use http::Method;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long things go wrong, and how long after that all must be well again: the session's TTL of
/// 10 s is kept up to twice, then come the lock delay, pauses after failures and the time after which
/// a node is replaced.
const TROUBLE: Duration = Duration::from_secs(40);
const HEALED_WITHIN: Duration = Duration::from_secs(60);

/// The maps of a leader that began with none have epochs below this; those of all others leap over it.
const FIRST_MAPS: u64 = 1000;

/// So soon after Consul's data was lost the nodes have put their map back, whatever else goes wrong.
const PUT_BACK_WITHIN: Duration = Duration::from_secs(15);

/// From here on a node that is gone for good is so.
const LAST_DEATH: Duration = Duration::from_secs(34);

struct Scene {
    world: Rc<World>,
    options: Options,
    broken: Option<Broken>,
    zones: u64,
    processes: RefCell<Vec<Process>>,
    /// Each map that was seen, by its epoch.
    maps: RefCell<BTreeMap<u64, Arc<ShardMap>>>,
    /// Whether a node has changed its weight.
    has_reweighed: Cell<bool>,
    backup: RefCell<Option<Backup>>,
    fence: RefCell<Fence>,
    /// Two may lead until then, since what forbids it was taken away: no client can know.
    excused_until: Cell<Duration>,
    /// What was before Consul's data was lost may show until then: a lease and its token.
    lost_until: Cell<Duration>,
    /// A leader that knows no map may lay first ones until then, which give way to what the others put
    /// back.
    first_maps_until: Cell<Duration>,
    leader: RefCell<Option<(Node, u64)>>,
    /// When all was well again.
    healed: Cell<Option<Duration>>,
}

/// What is remembered of tokens, since Consul's indexes began.
#[derive(Default)]
struct Fence {
    written: u64,
    led: u64,
    led_by: Option<Node>,
    mapped: u64,
}

/// A node, whether it runs or not.
struct Process {
    weight: f64,
    cluster: Option<Arc<Cluster>>,
    seen: Option<Arc<Snapshot>>,
}

/// Plays the history of one seed.
pub fn play(seed: u64, broken: Option<Broken>, traced: bool) -> Report {
    let world = World::new(seed, traced);
    let nodes = match world.number(0..50) {
        0 => world.number(20..51),
        _ => world.number(3..9),
    };
    let scene = Scene::new(&world, nodes as usize, broken);
    for node in 0..nodes as usize {
        let scene = Rc::clone(&scene);
        let begins = world.millis(0..1000);
        world.spawn(FATE, async move {
            scene.world.sleep(begins).await;
            scene.start(node);
        });
    }
    for trouble in 0..world.number(3..12) {
        let scene = Rc::clone(&scene);
        let begins = scene.world.millis(2000..LAST_DEATH.as_millis() as u64);
        world.spawn(FATE, async move {
            scene.world.sleep(begins).await;
            scene.trouble(trouble).await;
        });
    }
    let looked = Rc::clone(&scene);
    world.run(TROUBLE + HEALED_WITHIN, move || looked.look());
    let healed = scene.healed.get().unwrap_or(TROUBLE + HEALED_WITHIN) - TROUBLE;
    world.count("seconds to heal", healed.as_secs());
    scene.finish()
}

/// As many nodes as one likes come at once, and then one in ten dies.
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
    let scene = Scene::of(&world, options, vec![1.0; nodes], 1, None);
    (0..nodes).for_each(|node| scene.start(node));
    let killer = Rc::clone(&scene);
    world.spawn(FATE, async move {
        killer.world.sleep(DEATH).await;
        let is_well = killer.is_well();
        is_well.unwrap_or_else(|why| killer.world.violation(|| format!("before a death: {why}")));
        (0..nodes).filter(|node| node % 10 == 3).for_each(|node| killer.kill(node));
    });
    let looked = Rc::clone(&scene);
    let next = Cell::new(Duration::ZERO);
    world.run(END, move || {
        if looked.world.now() >= next.get() {
            looked.look();
            next.set(looked.world.now() + Duration::from_millis(100));
        }
    });
    scene.finish()
}

impl Scene {
    fn new(world: &Rc<World>, nodes: usize, broken: Option<Broken>) -> Rc<Self> {
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
        Self::of(world, options, weights, zones, broken)
    }

    fn of(
        world: &Rc<World>,
        options: Options,
        weights: Vec<f64>,
        zones: u64,
        broken: Option<Broken>,
    ) -> Rc<Self> {
        let process = |weight| Process { weight, cluster: None, seen: None };
        Rc::new(Scene {
            processes: RefCell::new(weights.into_iter().map(process).collect()),
            zones,
            world: Rc::clone(world),
            options,
            broken,
            maps: RefCell::default(),
            has_reweighed: Cell::new(false),
            backup: RefCell::default(),
            fence: RefCell::default(),
            excused_until: Cell::new(Duration::ZERO),
            lost_until: Cell::new(Duration::ZERO),
            first_maps_until: Cell::new(Duration::ZERO),
            leader: RefCell::default(),
            healed: Cell::new(None),
        })
    }

    /// Starts a node as a program does that is started again whenever it ends.
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
        let cluster = match self.broken {
            Some(broken) => cluster.with_rules(broken.rules()),
            None => cluster,
        };
        self.processes.borrow_mut()[node].cluster = Some(Arc::clone(&cluster));
        let (scene, running) = (Rc::clone(self), Arc::clone(&cluster));
        self.world.spawn(node, async move {
            let why = running.run().await;
            scene.world.note(|| format!("{} ends: {why}", name(node)));
            scene.forget(node);
            scene.world.sleep(scene.world.millis(500..1500)).await;
            scene.start(node);
        });
        let scene = Rc::clone(self);
        self.world.spawn(node, async move { scene.lead(node, &cluster).await });
    }

    /// What a program does that leads: it looks, and what it does then takes its time to arrive.
    async fn lead(self: &Rc<Self>, node: Node, cluster: &Cluster) {
        let world = &self.world;
        loop {
            if let Some(lease) = cluster.lease().filter(|lease| lease.is_held()) {
                world.sleep(world.millis(0..20)).await;
                let scene = Rc::clone(self);
                let flight = self.options.profile.in_flight.mul_f64(world.part() * 0.9);
                let token = lease.token();
                world.spawn(FATE, async move {
                    scene.world.sleep(flight).await;
                    scene.write(node, token);
                });
            }
            world.sleep(world.millis(50..400)).await;
        }
    }

    /// A resource that refuses what has a lower token than something before.
    fn write(&self, node: Node, token: u64) {
        let mut fence = self.fence.borrow_mut();
        if token >= fence.written {
            fence.written = token;
            return self.world.count("writes", 1);
        }
        if self.broken != Some(Broken::NoTokenCheck) {
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

    /// Looks at all nodes, at every moment.
    fn look(&self) {
        let now = self.world.now();
        let mut leaders = Vec::new();
        let mut changed = Vec::new();
        for (node, process) in self.processes.borrow_mut().iter_mut().enumerate() {
            let Some(cluster) = &process.cluster else { continue };
            if let Some(lease) = cluster.lease().filter(|lease| lease.is_held()) {
                leaders.push((node, lease.token()));
            }
            let snapshot = cluster.snapshot();
            if process.seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, &snapshot)) {
                changed.push((node, process.seen.replace(Arc::clone(&snapshot)), snapshot));
            }
        }
        if leaders.len() > 1 && now > self.excused_until.get() {
            self.world.violation(|| format!("{leaders:?} (node, token) lead"));
        }
        if let Some(&(node, token)) = leaders.first()
            && *self.leader.borrow() != Some((node, token))
        {
            self.elected(node, token);
        }
        for (node, before, snapshot) in changed {
            self.changed(node, before.as_deref(), &snapshot);
        }
        if now >= TROUBLE && self.healed.get().is_none() && self.is_well().is_ok() {
            self.healed.set(Some(now));
            self.world.note(|| "all is well".to_owned());
        }
    }

    fn elected(&self, node: Node, token: u64) {
        self.world.note(|| format!("{} leads with token {token}", name(node)));
        self.world.count("elections", 1);
        let before = self.leader.replace(Some((node, token)));
        self.world.count("failovers", before.is_some_and(|(other, _)| other != node).into());
        if self.is_of_lost_data() {
            return;
        }
        let mut fence = self.fence.borrow_mut();
        let led = fence.led;
        let goes_on = token == led && fence.led_by == Some(node);
        if token <= led && !goes_on && self.world.now() > self.excused_until.get() {
            self.world.violation(|| format!("{} leads with {token} after {led}", name(node)));
        }
        if token > led {
            (fence.led, fence.led_by) = (token, Some(node));
        }
    }

    /// What a node may come to know.
    fn changed(&self, node: Node, before: Option<&Snapshot>, now: &Snapshot) {
        let epoch = |snapshot: &Snapshot| snapshot.map.as_ref().map_or(0, |map| map.epoch());
        let last = before.map_or(0, epoch);
        if epoch(now) < last {
            let name = name(node);
            self.world.violation(|| format!("{name} saw the epoch {} after {last}", epoch(now)));
        }
        let Some(map) = now.map.as_ref().filter(|map| {
            before.and_then(|before| before.map.as_ref()).is_none_or(|last| !Arc::ptr_eq(last, map))
        }) else {
            return;
        };
        let mut maps = self.maps.borrow_mut();
        let same = maps.entry(map.epoch()).or_insert_with(|| {
            self.world.note(|| format!("{} has the map {}", name(node), map.epoch()));
            self.world.count("maps", 1);
            Arc::clone(map)
        });
        let may_be_another = self.is_of_lost_data()
            || (map.epoch() < FIRST_MAPS && self.world.now() <= self.first_maps_until.get());
        if same != map {
            if !may_be_another {
                let epoch = map.epoch();
                self.world.violation(|| format!("{} has another map {epoch}", name(node)));
            }
            *same = Arc::clone(map);
        } else if Arc::ptr_eq(same, map) {
            let last = maps.range(..map.epoch()).next_back().map(|(_, map)| Arc::clone(map));
            drop(maps);
            self.new_map(last.as_deref(), map);
        }
    }

    /// Those that have shards, as the leader knows them: whoever sees its map first may not yet have
    /// heard of all.
    fn members(&self, map: &ShardMap) -> Vec<Member> {
        let processes = self.processes.borrow();
        let all = processes.iter().enumerate().map(|(node, process)| Member {
            id: name(node),
            zone: self.zone(node),
            weight: process.weight,
            ready: None,
            is_away: process.cluster.is_none(),
        });
        all.filter(|member| map.has(&member.id)).collect()
    }

    fn zone(&self, node: Node) -> String {
        format!("z{}", node as u64 % self.zones)
    }

    /// What each map must be, and what it may change.
    fn new_map(&self, last: Option<&ShardMap>, map: &ShardMap) {
        let mut fence = self.fence.borrow_mut();
        if map.token() < fence.mapped && self.world.now() > self.excused_until.get() {
            let (token, mapped) = (map.token(), fence.mapped);
            self.world.violation(|| {
                format!("the map {} has the token {token} after {mapped}", map.epoch())
            });
        }
        if !self.is_of_lost_data() {
            fence.mapped = fence.mapped.max(map.token());
        }
        let holders = (0..self.processes.borrow().len()).filter(|node| map.has(&name(*node)));
        let most = holders.count().min(map.replicas());
        for shard in 0..map.shard_count() {
            let nodes: Vec<_> = map.nodes_of(shard).map(|(id, _)| id).collect();
            let distinct: BTreeSet<_> = nodes.iter().collect();
            if nodes.is_empty() || nodes.len() != most || distinct.len() != most {
                let epoch = map.epoch();
                self.world.violation(|| format!("map {epoch}, shard {shard}: {nodes:?}"));
            }
        }
        let Some(last) = last.filter(|last| last.epoch() + 1 == map.epoch()) else { return };
        let moves = moves(last, map);
        self.world.count("moves", moves as u64);
        // What another weight asks for is not known here: the leader may have heard of it or not.
        if !self.has_reweighed.get() {
            let mut members = self.members(map);
            let fewest = |members: &[Member]| last.rebalanced(members, 0).map_or(0, |it| it.1);
            // The leader may not have known yet who is away.
            let as_they_are = fewest(&members);
            members.iter_mut().for_each(|member| member.is_away = false);
            let fewest = fewest(&members).max(as_they_are);
            if moves > fewest {
                let epoch = map.epoch();
                self.world.violation(|| format!("map {epoch}: {moves} moves, {fewest} would do"));
            }
        }
    }

    /// Ends the history.
    fn finish(&self) -> Report {
        if let Err(why) = self.is_well() {
            self.world.violation(|| format!("it is not well at the end: {why}"));
        }
        let report = self.world.end();
        self.processes.borrow_mut().clear();
        report
    }

    /// Whether one leads, everybody knows everybody, all have one map, and it is fair.
    fn is_well(&self) -> Result<(), String> {
        let processes = self.processes.borrow();
        let running: Vec<_> = processes
            .iter()
            .enumerate()
            .filter_map(|(node, process)| Some((node, process.cluster.as_ref()?)))
            .collect();
        let Some((_, first)) = running.first() else { return Ok(()) };
        let ids: BTreeSet<String> = running.iter().map(|(node, _)| name(*node)).collect();
        let one = first.snapshot();
        let leaders: Vec<_> = running.iter().filter(|(_, it)| it.is_leader()).collect();
        let may_lead = running.iter().any(|(_, cluster)| cluster.mode() == Mode::Active);
        if leaders.len() != usize::from(may_lead) {
            return Err(format!("{} lead", leaders.len()));
        }
        for (node, cluster) in &running {
            let name = name(*node);
            let snapshot = cluster.snapshot();
            let live: BTreeSet<String> =
                snapshot.live().map(|node| node.record.id.clone()).collect();
            if live != ids {
                return Err(format!("{name} takes {live:?} to live, not {ids:?}"));
            }
            let named = snapshot.leader.as_ref().map(|leader| leader.node_id.clone());
            if named != leaders.first().map(|(leader, _)| self::name(*leader)) {
                return Err(format!("{name} takes {named:?} for the leader"));
            }
            let known = |snapshot: &Snapshot| -> Vec<_> {
                snapshot.nodes.values().map(|node| Arc::clone(&node.record)).collect()
            };
            if known(&snapshot) != known(&one) {
                return Err(format!("{name} and another node know other members"));
            }
            if snapshot.map != one.map || snapshot.frozen != one.frozen || !snapshot.in_touch {
                return Err(format!("{name} has another map than another node"));
            }
        }
        if running.len() < self.options.min_nodes || !one.frozen.is_empty() {
            return Ok(());
        }
        let active = one.live().filter(|node| node.record.mode != Mode::Draining);
        let active: Vec<Member> = active.map(member).collect();
        let Some(map) = &one.map else {
            return if active.is_empty() { Ok(()) } else { Err("there is no map".to_owned()) };
        };
        if active.is_empty() {
            return Ok(());
        }
        if map.rebalanced(&active, 0).is_some() {
            return Err("the map is not as fair as it can be".to_owned());
        }
        if self.zones == 1 {
            for (id, (low, high)) in fair_loads(map, &active) {
                let load = map.shards_of(&id).len();
                if load < low || load > high {
                    return Err(format!("{id} has {load} shards, not {low} to {high}"));
                }
            }
        }
        Ok(())
    }

    /// One thing goes wrong for a while, and is well again before [`TROUBLE`] is over.
    async fn trouble(self: &Rc<Self>, which: u64) {
        let world = &self.world;
        let nodes = self.processes.borrow().len();
        // The one that matters most, or any.
        let node = match *self.leader.borrow() {
            Some((leader, _)) if world.chance(0.4) => leader,
            _ => world.number(0..nodes as u64) as usize,
        };
        let mut lasts = world.millis(50..6000);
        let kind = world.number(0..20);
        let harm = match kind {
            0 => Some(Harm::Pause),
            1 => Some(Harm::PauseAtAnAnswer),
            2 => Some(Harm::ServersPause),
            3 => Some(Harm::CutOff),
            4 | 5 => Some(Harm::BadWeather),
            6 => Some(Harm::NoLeader),
            7 => Some(Harm::IsolatedLeader),
            _ => None,
        };
        if harm == Some(Harm::ServersPause) {
            lasts = lasts.mul_f64(0.4);
        }
        world.note(|| format!("trouble {which}: {kind} {harm:?} {} for {lasts:?}", name(node)));
        let key = format!("/v1/kv/{}", self.options.leader_key);
        match kind {
            0..8 => world.harm(harm.expect("one of these"), node),
            8 | 9 => self.kill(node),
            10 => self.destroy_the_leaders_session().await,
            11 => world.flap_check(&format!("{}-{}", self.options.service(), name(node))).await,
            12 => {
                self.excuse();
                world.ask(Method::DELETE, &key, "").await;
            }
            13 => _ = world.ask(Method::PUT, &format!("{key}?flags={LOCK_FLAGS}"), "x").await,
            14 => {
                self.excuse();
                let keeps = [Keeps::Disk, Keeps::DiskWithoutSessions];
                world.agent.restart(keeps[usize::from(world.chance(0.5))]);
            }
            15 => {
                self.backup.replace(Some(world.agent.back_up()));
                world.sleep(lasts).await;
                if let Some(backup) = self.backup.take() {
                    world.agent.restore(&backup);
                    self.data_is_lost();
                }
            }
            16 if world.chance(0.5) => {
                world.agent.restart(Keeps::Nothing);
                self.data_is_lost();
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
        world.note(|| format!("trouble {which} is over"));
        match harm {
            Some(harm) => world.mend(harm, node),
            None if kind == 18 => self.set_mode(node, Mode::Active).await,
            // Some never come back.
            None if matches!(kind, 8 | 9 | 16 | 17) && (nodes < 4 || world.chance(0.8)) => {
                self.start(node);
            }
            None => {}
        }
    }

    /// Ends a node in order.
    async fn leave(self: &Rc<Self>, node: Node) {
        let Some(cluster) = self.processes.borrow()[node].cluster.clone() else { return };
        self.kill(node);
        let scene = Rc::clone(self);
        self.world.spawn(node, async move {
            let left = cluster.leave().await;
            scene.world.note(|| format!("{} has left: {left:?}", name(node)));
        });
    }

    async fn set_mode(self: &Rc<Self>, node: Node, mode: Mode) {
        let Some(cluster) = self.processes.borrow()[node].cluster.clone() else { return };
        let scene = Rc::clone(self);
        self.world.spawn(FATE, async move {
            // An operator who does not give in.
            for _ in 0..20 {
                let changed = cluster.set_mode(&name(node), mode).await;
                scene.world.note(|| format!("{} is {}: {changed:?}", name(node), mode.name()));
                if changed.is_ok() {
                    return;
                }
                scene.world.sleep(Duration::from_secs(1)).await;
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

    /// For so long an old leader may believe whom nothing holds back.
    fn excuse(&self) {
        let lease = self.options.profile.lease.mul_f64(1.02) + Duration::from_millis(1);
        self.excused_until.set(self.excused_until.get().max(self.world.now() + lease));
    }

    fn is_of_lost_data(&self) -> bool {
        self.world.now() <= self.lost_until.get()
    }

    /// Consul's indexes go back, and with them the tokens. What no node knows was never there.
    fn data_is_lost(&self) {
        self.excuse();
        self.lost_until.set(self.excused_until.get());
        self.first_maps_until.set(self.world.now() + PUT_BACK_WITHIN);
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

/// How many replicas are on a node that did not have the shard.
fn moves(last: &ShardMap, map: &ShardMap) -> usize {
    let new = |shard: usize| {
        let before: BTreeSet<_> = last.nodes_of(shard).map(|(id, _)| id).collect();
        map.nodes_of(shard).filter(|(id, _)| !before.contains(id)).count()
    };
    (0..map.shard_count()).map(new).sum()
}

fn member(node: &membership::Node) -> Member {
    let record = &node.record;
    Member {
        id: record.id.clone(),
        zone: record.zone.clone(),
        weight: record.weight,
        ready: None,
        is_away: false,
    }
}

/// What each node should have, when all are in one zone: its share, rounded down and up.
fn fair_loads(map: &ShardMap, members: &[Member]) -> BTreeMap<String, (usize, usize)> {
    let shards = map.shard_count() as f64;
    let mut open: BTreeMap<&String, f64> =
        members.iter().map(|member| (&member.id, member.weight)).collect();
    let mut left = shards * map.replicas().min(open.len()) as f64;
    let mut shares = BTreeMap::new();
    loop {
        let weight: f64 = open.values().sum();
        let full: Vec<_> = open
            .iter()
            .filter(|(_, own)| left * **own / weight >= shards)
            .map(|(id, _)| *id)
            .collect();
        if full.is_empty() {
            shares.extend(open.iter().map(|(id, own)| (*id, left * own / weight)));
            break;
        }
        for id in full {
            open.remove(id);
            left -= shards;
            shares.insert(id, shards);
        }
    }
    let rounded = |share: f64| ((share + 1e-6).floor() as usize, (share - 1e-6).ceil() as usize);
    shares.into_iter().map(|(id, share)| (id.clone(), rounded(share))).collect()
}
