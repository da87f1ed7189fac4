//! The invariants that hold at all times, and the state that the cluster must reach after disruptions.

use super::{DISRUPTED_FOR, FIRST_EPOCHS_BELOW, Scenario, name};
use crate::world::{Node, Report};
use consul_cluster::shard_map::{Member, ShardMap};
use consul_cluster::{self as cluster, Mode, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Scenario {
    /// Checks the state of all nodes after every step.
    pub fn observe(&self) {
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
        if now >= DISRUPTED_FOR && self.recovered.get().is_none() && self.check_healthy().is_ok() {
            self.recovered.set(Some(now));
            self.world.note(|| "the cluster has recovered".to_owned());
        }
    }

    fn elected(&self, node: Node, token: u64) {
        self.world.note(|| format!("{} leads with token {token}", name(node)));
        self.world.count("elections", 1);
        let before = self.leader.replace(Some((node, token)));
        self.world.count("failovers", before.is_some_and(|(other, _)| other != node).into());
        if self.is_after_data_loss() {
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

    /// Checks a change of a node's snapshot.
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
        let may_be_another = self.is_after_data_loss()
            || (map.epoch() < FIRST_EPOCHS_BELOW
                && self.world.now() <= self.first_maps_until.get());
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

    /// The members with shards as the leader knows them, taken from the processes: the first node that
    /// sees the map may not know all members yet.
    fn members(&self, map: &ShardMap) -> Vec<Member> {
        let processes = self.processes.borrow();
        let all = processes.iter().enumerate().map(|(node, process)| Member {
            id: name(node),
            zone: self.zone(node),
            weight: process.weight,
            ready: None,
            is_down: process.cluster.is_none(),
        });
        all.filter(|member| map.has(&member.id)).collect()
    }

    pub fn zone(&self, node: Node) -> String {
        format!("z{}", node as u64 % self.zones)
    }

    /// Checks a new map, and its changes to the last one.
    fn new_map(&self, last: Option<&ShardMap>, map: &ShardMap) {
        let mut fence = self.fence.borrow_mut();
        if map.token() < fence.mapped && self.world.now() > self.excused_until.get() {
            let (token, mapped) = (map.token(), fence.mapped);
            self.world.violation(|| {
                format!("the map {} has the token {token} after {mapped}", map.epoch())
            });
        }
        if !self.is_after_data_loss() {
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
        // After a change of weight it is unknown here whether the leader had learned of it.
        if !self.has_reweighed.get() {
            let mut members = self.members(map);
            let fewest = |members: &[Member]| last.rebalanced(members, 0).map_or(0, |it| it.1);
            // The leader may not have known yet which members are down.
            let as_they_are = fewest(&members);
            members.iter_mut().for_each(|member| member.is_down = false);
            let fewest = fewest(&members).max(as_they_are);
            if moves > fewest {
                let epoch = map.epoch();
                self.world.violation(|| format!("map {epoch}: {moves} moves, {fewest} are enough"));
            }
        }
    }

    /// Ends the history and returns its report.
    pub fn finish(&self) -> Report {
        if let Err(why) = self.check_healthy() {
            self.world.violation(|| format!("the cluster has not recovered at the end: {why}"));
        }
        let report = self.world.end();
        self.processes.borrow_mut().clear();
        report
    }

    /// Checks that the cluster has one leader, that all nodes agree on members and map, and that the map
    /// is fair.
    pub fn check_healthy(&self) -> Result<(), String> {
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
            return Err(format!("there are {} leaders", leaders.len()));
        }
        for (node, cluster) in &running {
            let name = name(*node);
            let snapshot = cluster.snapshot();
            let live: BTreeSet<String> =
                snapshot.live().map(|node| node.record.id.clone()).collect();
            if live != ids {
                return Err(format!("{name} sees {live:?} as live, not {ids:?}"));
            }
            let named = snapshot.leader.as_ref().map(|leader| leader.node_id.clone());
            if named != leaders.first().map(|(leader, _)| self::name(*leader)) {
                return Err(format!("{name} sees {named:?} as the leader"));
            }
            let known = |snapshot: &Snapshot| -> Vec<_> {
                snapshot.nodes.values().map(|node| Arc::clone(&node.record)).collect()
            };
            if known(&snapshot) != known(&one) {
                return Err(format!("{name} and the first node know different members"));
            }
            if snapshot.map != one.map || snapshot.frozen != one.frozen || !snapshot.is_connected {
                return Err(format!("{name} and the first node have different maps"));
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
}

/// The number of replicas on nodes that did not have the shard before.
fn moves(last: &ShardMap, map: &ShardMap) -> usize {
    let new = |shard: usize| {
        let before: BTreeSet<_> = last.nodes_of(shard).map(|(id, _)| id).collect();
        map.nodes_of(shard).filter(|(id, _)| !before.contains(id)).count()
    };
    (0..map.shard_count()).map(new).sum()
}

fn member(node: &cluster::Node) -> Member {
    let record = &node.record;
    Member {
        id: record.id.clone(),
        zone: record.zone.clone(),
        weight: record.weight,
        ready: None,
        is_down: false,
    }
}

/// The fair share of each node, rounded down and up, if all are in one zone.
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
