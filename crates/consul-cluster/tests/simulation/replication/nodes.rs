//! The nodes, the leader, and what happens to them.

use super::network::{Disk as Storage, Way};
use super::register::{MOST_MAPS_BACK, Said};
use super::{START_MS, STORE, Scenario};
use crate::world::{Disruption, ENVIRONMENT, Node, World};
use consul_cluster::Cluster;
use consul_cluster::stores::Store;
use consul_replication::holder::Holder;
use consul_replication::map::{Disk, NodeId, Place};
use consul_replication::peers::{Entries, Known};
use consul_replication::plan::{Accepted, Map, Member, Planner, Presence};
use consul_replication::record::{HybridTime, Record, Version};
use consul_replication::recover::{Inquiry, is_newest};
use consul_replication::rules::Rule;
use consul_replication::state::{Doubt, Report};
use consul_replication::transfer::Transfer;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A node whose words are older than this is down.
pub const TTL: Duration = Duration::from_millis(2500);

/// The leader cancels a change without progress after this time.
const MOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The number of the leader's process, which is on no node.
const LEADER: Node = 99;

pub struct Process {
    is_running: bool,
    holder: Option<Arc<Holder>>,
    /// The node's cluster and store, if it is a real one.
    pub wired: Option<(Arc<Cluster>, Arc<Store>)>,
    pub storage: Arc<Storage>,
    pub disk: Disk,
    /// Whether the machine was restarted since the disk was opened.
    pub was_rebooted: bool,
    pub skew_ms: i64,
    pub weight: f64,
}

impl Process {
    pub fn new(world: &World, _: Node, skewed: bool) -> Self {
        let usual_ms = [2, 2, 2, 20, 100][world.number(0..5) as usize];
        let most = if skewed { 3_600_000 } else { 1000 };
        Process {
            is_running: false,
            holder: None,
            wired: None,
            storage: Storage::new(&world.clock, world.number(0..u64::MAX), usual_ms),
            disk: Disk(world.number(1..u64::MAX)),
            was_rebooted: false,
            skew_ms: world.number(0..2 * most as u64) as i64 - most,
            weight: 1.0,
        }
    }

    /// The records of a shard that are not deleted.
    pub fn live_records(&self, shard: u32) -> Vec<Record> {
        let all = self.storage.shard(shard).records.into_iter();
        all.filter(|record| record.data.is_some()).collect()
    }
}

pub fn name(node: Node) -> NodeId {
    format!("node-{node}").into()
}

pub fn number(name: &str) -> Node {
    name.strip_prefix("node-").and_then(|number| number.parse().ok()).expect("a node's name")
}

impl Scenario {
    /// Starts a node's process.
    pub fn start(self: &Rc<Self>, node: Node) {
        if std::mem::replace(&mut self.processes.borrow_mut()[node].is_running, true) {
            return;
        }
        if self.wired {
            return self.start_wired(node);
        }
        let (storage, disk, skew, was_rebooted) = {
            let process = &self.processes.borrow()[node];
            let Process { disk, skew_ms, was_rebooted, .. } = *process;
            (Arc::clone(&process.storage), disk, skew_ms, was_rebooted)
        };
        let scenario = Rc::clone(self);
        self.world.spawn(node, async move {
            let clock = scenario.version_clock(skew);
            let holder = Holder::new(name(node), disk, storage, clock, scenario.rules);
            holder.belongs_to(STORE);
            for shard in 0..scenario.shards {
                let loaded = match was_rebooted {
                    true => holder.load_doubted(shard, Doubt::Restarted).await,
                    false => holder.load(shard).await,
                };
                loaded.expect("what was kept");
            }
            scenario.processes.borrow_mut()[node].was_rebooted = false;
            let holder = Arc::new(holder);
            scenario.processes.borrow_mut()[node].holder = Some(Arc::clone(&holder));
            scenario.run(node, holder);
        });
    }

    pub fn kill(&self, node: Node) {
        self.world.kill(node);
        let process = &mut self.processes.borrow_mut()[node];
        process.holder = None;
        process.wired = None;
        process.is_running = false;
        self.forget_equal(node);
    }

    /// A node's replicas while it runs.
    pub fn holder(&self, node: Node) -> Option<Arc<Holder>> {
        let process = &self.processes.borrow()[node];
        match &process.wired {
            Some((_, store)) => store.holder(),
            None => process.holder.clone(),
        }
    }

    fn sees_consul(&self, node: Node) -> bool {
        !self.cut_from_consul.borrow().contains(&node)
    }

    /// The tasks of a node.
    fn run(self: &Rc<Self>, node: Node, holder: Arc<Holder>) {
        let entries = Arc::new(Entries::default());
        let transfer = Transfer {
            holder: Arc::clone(&holder),
            peers: Arc::new(self.way(node)),
            page: self.page,
        };
        let (scenario, of_node) = (Rc::clone(self), Arc::clone(&holder));
        let learned = Arc::clone(&entries);
        // Some nodes are always late.
        let learns_within_ms = [200, 400, 1200][self.world.number(0..3) as usize];
        self.world.spawn(node, async move {
            loop {
                scenario.world.sleep(scenario.world.millis(10..learns_within_ms)).await;
                if scenario.sees_consul(node) {
                    scenario.exchange(node, &of_node, &learned).await;
                }
            }
        });
        for shard in 0..self.shards {
            let (scenario, transfer) = (Rc::clone(self), transfer.clone());
            self.world.spawn(node, async move {
                loop {
                    scenario.world.sleep(scenario.world.millis(20..400)).await;
                    match transfer.pursue(shard).await {
                        Ok(true) => scenario.world.count("copies", 1),
                        Ok(false) => {}
                        Err(why) => scenario.world.note(|| format!("node {node} copies: {why}")),
                    }
                }
            });
        }
        let (scenario, keeper) = (Rc::clone(self), transfer.clone());
        self.world.spawn(node, async move { scenario.repair(&keeper).await });
        if self.numbers_change {
            let (scenario, transfer) = (Rc::clone(self), transfer.clone());
            self.world.spawn(node, async move { scenario.equalize(node, &transfer).await });
        }
        let scenario = Rc::clone(self);
        self.world.spawn(node, async move { scenario.drop_unnamed(&transfer, &entries).await });
    }

    /// Learns the map, and reports.
    async fn exchange(&self, node: Node, holder: &Holder, entries: &Entries) {
        let map = self.register.borrow().map().cloned();
        for (shard, entry) in map.iter().flat_map(|map| &map.shards).enumerate() {
            // Some entries are learned late.
            if self.world.chance(0.9) {
                entries.learn(Some(STORE), shard as u32, entry);
                if let Err(why) = holder.learn(shard as u32, entry).await {
                    self.world.note(|| format!("node {node} learns: {why}"));
                }
            }
        }
        let report = holder.report(|shard| self.register.borrow().epoch(shard)).await;
        let report = Report { equal: self.found_equal(node), ..report };
        self.world.sleep(self.delay()).await;
        if self.sees_consul(node) {
            let weight = self.processes.borrow()[node].weight;
            let (disk, copied, seen) = (holder.disk(), holder.taken(), self.world.now());
            let said = Said { disk, weight, report, copied, seen };
            self.register.borrow_mut().nodes.insert(node, said);
        }
    }

    /// Repairs the shards whose first counting replica the node has, and half as often the shards that nobody else
    /// compares with its own.
    async fn repair(&self, transfer: &Transfer) {
        let (world, holder) = (&self.world, &transfer.holder);
        let mut is_second = false;
        loop {
            world.sleep(self.repair_every.mul_f64(0.5 + world.fraction())).await;
            is_second = !is_second;
            for shard in 0..self.shards {
                let Some(entry) = holder.state(shard).await.entry else { continue };
                let own = holder.node();
                let is_first = entry.counting().next().is_some_and(|(_, it)| it.node == *own);
                let may_repair = is_second && entry.counting_at(own).is_some();
                if !is_first && (!may_repair || holder.take_compared(shard)) {
                    continue;
                }
                let age = world.number(0..3000);
                let now = START_MS + world.now().as_millis() as u64;
                let below = Version::first_of(HybridTime::from_ms(now.saturating_sub(age)));
                match transfer.repair(shard, below).await {
                    Ok((compared, is_whole)) => {
                        let repaired = compared.fetched + compared.sent + compared.deleted;
                        world.count("repaired records", repaired as u64);
                        if is_whole {
                            world.count("repairs", 1);
                            self.note_whole(|| self.is_whole());
                        }
                    }
                    Err(why) => world.note(|| format!("repair of shard {shard}: {why}")),
                }
            }
        }
    }

    /// Drops what the map does not give to the node.
    async fn drop_unnamed(&self, transfer: &Transfer, entries: &Entries) {
        let mut since: BTreeMap<u32, Duration> = BTreeMap::new();
        loop {
            self.world.sleep(Duration::from_millis(250)).await;
            for shard in 0..self.shards {
                let Some(Known { entry, .. }) = entries.get(shard) else { continue };
                if entry.names(transfer.holder.node()) {
                    since.remove(&shard);
                    continue;
                }
                let now = self.world.now();
                if now - *since.entry(shard).or_insert(now) >= self.drop_after {
                    match transfer.drop_unnamed(shard, &entry).await {
                        Ok(_) => self.world.count("drops", 1),
                        Err(why) => self.world.note(|| format!("drop of shard {shard}: {why}")),
                    }
                    since.remove(&shard);
                }
            }
        }
    }

    /// The leader, who may be replaced at any time; the check-and-set keeps two of them apart.
    pub fn lead(self: &Rc<Self>) {
        let scenario = Rc::clone(self);
        let way = self.way(LEADER);
        self.world.spawn(ENVIRONMENT, async move {
            loop {
                scenario.world.sleep(scenario.world.millis(50..400)).await;
                let (map, went_back, is_first, newer) = {
                    let register = scenario.register.borrow();
                    let newer = if scenario.is_told { BTreeMap::new() } else { register.newer() };
                    (register.map().cloned(), register.went_back, register.is_first, newer)
                };
                let next = match &map {
                    Some(map) if went_back || !newer.is_empty() => {
                        scenario.recovered(map, &way, went_back, &newer).await
                    }
                    Some(map) if !scenario.is_told => {
                        let gap = if is_first { scenario.gap() } else { 0 };
                        let from = Map { version: map.version + gap, ..map.clone() };
                        let next = scenario.next_map(Some(&from));
                        next.map(|next| scenario.keep_what_may_be_old(map, next))
                            .filter(|next| next.shards != map.shards)
                    }
                    map => scenario.next_map(map.as_ref()),
                };
                scenario.world.sleep(scenario.delay()).await;
                if let Some(next) = next {
                    let expected = map.map_or(0, |map| map.version);
                    scenario.world.note(|| format!("the leader publishes {next:?}"));
                    let mut register = scenario.register.borrow_mut();
                    if register.went_back == went_back && register.write(expected, next) {
                        register.went_back = false;
                        register.is_first = false;
                    }
                }
            }
        });
    }

    /// Keeps the entries that may be old: Consul may have gone back while all nodes were away.
    fn keep_what_may_be_old(&self, map: &Map, mut next: Map) -> Map {
        let register = self.register.borrow();
        let Some(at) = register.restarted.filter(|at| self.world.now() - *at < self.replace_after)
        else {
            return next;
        };
        let said = |node: &NodeId| register.nodes.get(&number(node)).filter(|it| it.seen > at);
        for (shard, (new, old)) in next.shards.iter_mut().zip(&map.shards).enumerate() {
            let has = |place: &Place| {
                said(&place.node).is_some_and(|it| {
                    it.disk == place.disk && !it.report.missing.contains(&(shard as u32))
                })
            };
            if !is_newest(old, has, |node| said(node).is_some()) {
                new.clone_from(old);
            }
        }
        next
    }

    /// How far the next map is beyond the last one when maps may be lost.
    fn gap(&self) -> u64 {
        self.world.number(1000..2000)
    }

    /// The newest map that the nodes know, after Consul went back: of all shards if that is told, else of those
    /// that nodes know to be newer.
    async fn recovered(
        &self,
        map: &Map,
        way: &Way,
        went_back: bool,
        newer: &BTreeMap<u32, BTreeSet<NodeId>>,
    ) -> Option<Map> {
        let version = map.version + self.gap();
        let mut next = if went_back { map.raised(version) } else { map.clone() };
        let none = BTreeSet::new();
        let disks: BTreeMap<Node, Disk> = {
            let register = self.register.borrow();
            register.nodes.iter().map(|(node, said)| (*node, said.disk)).collect()
        };
        if self.rules.has(Rule::AskAfterSetBack) {
            for (shard, entry) in map.shards.iter().enumerate() {
                let knowing = newer.get(&(shard as u32));
                if !went_back && knowing.is_none() {
                    continue;
                }
                let inquiry = Inquiry {
                    peers: way,
                    store: Some(STORE),
                    shard: shard as u32,
                    has: &|place: &Place| disks.get(&number(&place.node)) == Some(&place.disk),
                    knowing: knowing.unwrap_or(&none),
                    skips_silent: false,
                };
                match inquiry.newest(entry, version).await {
                    Ok(newest) => next.shards[shard] = newest,
                    Err(why) => {
                        self.world.note(|| format!("shard {shard} is not recovered: {why}"));
                        return None;
                    }
                }
            }
        }
        next.version = next.shards.iter().map(|entry| entry.epoch).max()?;
        Some(next)
    }

    fn next_map(&self, map: Option<&Map>) -> Option<Map> {
        let now = self.world.now();
        let members: Vec<Member> = {
            let register = self.register.borrow();
            let member = |(node, said): (&Node, &Said)| Member {
                id: name(*node),
                zone: String::new(),
                weight: said.weight,
                disk: said.disk,
                presence: match now.saturating_sub(said.seen) {
                    silent if silent < TTL => Presence::Live,
                    silent if silent < self.replace_after && !self.stop_is_leave => Presence::Down,
                    // Without a second replica that must answer, each failover needs a person.
                    _ if self.wanted.get().sizes().least() == 1 => Presence::Down,
                    _ => Presence::Gone,
                },
                is_failing: false,
                to_remake: BTreeSet::new(),
                report: said.report.clone(),
            };
            register.nodes.iter().map(member).collect()
        };
        let stuck = self.stuck(map, now);
        let planner = Planner {
            members: &members,
            quorums: self.wanted.get(),
            may_plan: true,
            stuck: &stuck,
            accepted: &Accepted::new(),
            now: Default::default(),
            rules: self.rules,
        };
        match map {
            Some(map) => map.next(&planner),
            None if members.len() < self.wanted.get().replicas => None,
            None => Some(Map::first(self.shards as usize, 1, &planner)),
        }
    }

    /// The changes that have made no progress for too long.
    fn stuck(&self, map: Option<&Map>, now: Duration) -> BTreeSet<(u32, u64)> {
        let register = &mut *self.register.borrow_mut();
        let shards = map.iter().flat_map(|map| &map.shards).enumerate();
        let changes: BTreeMap<(u32, u64), NodeId> = shards
            .flat_map(|(shard, entry)| {
                let changes = entry.slots.iter().filter_map(|slot| slot.change.as_ref());
                changes.map(move |change| ((shard as u32, change.since), change.to.clone()))
            })
            .collect();
        register.progress.retain(|change, _| changes.contains_key(change));
        let mut stuck = BTreeSet::new();
        for (change, to) in changes {
            let copied = register.nodes.get(&number(&to)).map_or(0, |said| said.copied);
            let progress = register.progress.entry(change).or_insert((copied, now));
            if progress.0 != copied {
                *progress = (copied, now);
            }
            if now - progress.1 > MOVE_TIMEOUT {
                stuck.insert(change);
            }
        }
        stuck
    }

    /// Whether the shards have N equal replicas and no change in progress.
    fn is_whole(&self) -> bool {
        let register = self.register.borrow();
        let Some(map) = register.map() else { return false };
        let processes = self.processes.borrow();
        map.shards.iter().enumerate().all(|(shard, entry)| {
            let copies: Vec<_> = entry
                .counting()
                .filter(|(_, place)| processes[number(&place.node)].disk == place.disk)
                .map(|(_, place)| processes[number(&place.node)].live_records(shard as u32))
                .collect();
            copies.len() == entry.slots.len()
                && entry.slots.iter().all(|slot| slot.change.is_none())
                && copies.windows(2).all(|pair| pair[0] == pair[1])
                && entry.counting().all(|(_, it)| self.is_marked(&it.node, shard as u32))
        })
    }

    /// Sometimes a node that takes part in a change of the map.
    fn in_a_change(&self) -> Option<Node> {
        if self.world.chance(0.4) {
            return None;
        }
        if self.wired {
            return self.in_a_wired_change();
        }
        let register = self.register.borrow();
        let slots = register.map()?.shards.iter().flat_map(|entry| &entry.slots);
        let changing = slots.filter(|slot| slot.change.is_some());
        let members: Vec<Node> = changing
            .flat_map(|slot| slot.holder.iter().map(|it| &it.node).chain(slot.target()))
            .map(|node| number(node))
            .collect();
        let count = members.len() as u64;
        (count > 0).then(|| members[self.world.number(0..count) as usize])
    }

    /// One random disruption.
    pub async fn disrupt(self: &Rc<Self>) {
        let world = &self.world;
        let nodes = self.processes.borrow().len();
        let node = self.in_a_change().unwrap_or_else(|| world.number(0..nodes as u64) as usize);
        let lasts = world.millis(100..9000);
        // The kinds that change the map are more frequent.
        let kinds =
            [0, 1, 2, 3, 4, 4, 5, 5, 6, 7, 8, 8, 8, 8, 9, 9, 9, 10, 10, 11, 12, 12, 13, 13, 13, 13];
        // The last ones are orders that only a real node takes.
        let kind = kinds[world.number(0..if self.wired { 26 } else { 22 }) as usize];
        world.note(|| format!("disruption {kind} of node {node} for {lasts:?}"));
        match kind {
            5 | 8 | 10 | 13 if self.wired => self.disrupt_wired(kind, node, lasts).await,
            0 | 1 => {
                world.count("kills", 1);
                self.kill(node);
                world.sleep(if kind == 0 { lasts.mul_f64(0.05) } else { lasts }).await;
                self.start(node);
            }
            2 => {
                world.disrupt(Disruption::Pause, node);
                world.sleep(lasts).await;
                world.heal(Disruption::Pause, node);
            }
            3 => {
                let other = world.number(0..nodes as u64) as usize;
                self.cuts.borrow_mut().insert((node, other));
                world.sleep(lasts).await;
                self.cuts.borrow_mut().remove(&(node, other));
            }
            4 => {
                let others = (0..nodes).chain(super::CLIENTS..super::CLIENTS + 5);
                let cuts: Vec<_> = others.filter(|it| *it != node).map(|it| (node, it)).collect();
                self.cuts.borrow_mut().extend(&cuts);
                world.sleep(lasts).await;
                cuts.iter().for_each(|cut| _ = self.cuts.borrow_mut().remove(cut));
            }
            5 => {
                self.cut_from_consul.borrow_mut().insert(node);
                world.sleep(lasts).await;
                self.cut_from_consul.borrow_mut().remove(&node);
            }
            6 => {
                let storage = Arc::clone(&self.processes.borrow()[node].storage);
                *storage.slowness_ms.lock().expect("no panic") = 300;
                world.sleep(lasts).await;
                storage.be_usual();
            }
            7 => {
                self.longest_delay_ms.set(1500);
                self.lossy.set(true);
                world.sleep(lasts).await;
                self.longest_delay_ms.set(5);
                self.lossy.set(false);
            }
            8 => {
                self.processes.borrow_mut()[node].weight = 0.0;
                world.sleep(lasts).await;
                self.processes.borrow_mut()[node].weight = 1.0;
            }
            9 => self.lose_disk(node, lasts).await,
            10 if !self.is_told => self.go_back_untold(lasts).await,
            10 => {
                world.count("set backs", 1);
                let maps = world.number(1..MOST_MAPS_BACK as u64 + 1) as usize;
                self.register.borrow_mut().go_back(maps, true);
            }
            12 => self.lose_what_was_copied(lasts).await,
            _ => {
                for node in 0..nodes {
                    self.kill(node);
                }
                world.sleep(lasts.mul_f64(0.2)).await;
                (0..nodes).for_each(|node| self.start(node));
            }
        }
    }

    /// Consul goes back while all nodes are away. Reports of nodes since then are lost too.
    async fn go_back_untold(self: &Rc<Self>, lasts: Duration) {
        let nodes = self.processes.borrow().len();
        (0..nodes).for_each(|node| self.kill(node));
        self.world.count("set backs", 1);
        {
            let register = &mut *self.register.borrow_mut();
            register.go_back(self.world.number(1..3) as usize, false);
            register.restarted = Some(self.world.now());
            for said in register.nodes.values_mut() {
                said.report = Report::default();
                said.seen = self.world.now();
            }
        }
        self.world.sleep(lasts.mul_f64(0.1)).await;
        (0..nodes).for_each(|node| self.start(node));
    }

    /// Ends all disruptions.
    pub fn heal(self: &Rc<Self>) {
        self.calm.set(true);
        self.cuts.borrow_mut().clear();
        self.cut_from_consul.borrow_mut().clear();
        self.longest_delay_ms.set(5);
        self.lossy.set(false);
        let nodes = self.processes.borrow().len();
        for node in 0..nodes {
            self.world.heal(Disruption::Pause, node);
            self.world.heal(Disruption::CutOff, node);
            let storage = Arc::clone(&self.processes.borrow()[node].storage);
            storage.be_usual();
            self.start(node);
        }
        if self.wired {
            self.undrain();
        }
    }
}
