use super::super::rebalancer::*;
use std::collections::VecDeque;

fn candidate(weight: f64, zone: usize) -> Candidate {
    Candidate { weight, zone: format!("zone-{zone}"), max_replicas: usize::MAX }
}

/// The assignment that follows `before`, if no other candidate has data.
fn rebalance(candidates: &[Candidate], replicas: usize, before: &Assignment) -> Assignment {
    super::super::rebalancer::rebalance(candidates, replicas, before, before)
}

/// The rules for the assignment that follows `before`.
fn plan<'a>(candidates: &[Candidate], replicas: usize, before: &'a Assignment) -> Plan<'a> {
    Plan::new(candidates, replicas.min(candidates.len()), before, before)
}

/// The least number of moves of any assignment within the rules, by a minimum-cost flow from shards
/// over zones to candidates.
fn fewest_moves(candidates: &[Candidate], replicas: usize, before: &Assignment) -> usize {
    let plan = plan(candidates, replicas, before);
    let (shards, zones, nodes) = (before.len(), plan.per_shard.len(), candidates.len());
    // source, shards, shard×zone, nodes, zones, sink
    let shard = |s: usize| 1 + s;
    let pair = |s: usize, z: usize| 1 + shards + s * zones + z;
    let node = |n: usize| 1 + shards + shards * zones + n;
    let zone = |z: usize| 1 + shards + shards * zones + nodes + z;
    let sink = 1 + shards + shards * zones + nodes + zones;
    let mut flow = Flow::new(sink + 1);
    for (s, held) in before.iter().enumerate() {
        flow.edge(0, shard(s), 0..=plan.replicas, 0);
        for z in 0..zones {
            flow.edge(shard(s), pair(s, z), plan.per_shard[z].clone(), 0);
        }
        for n in 0..nodes {
            let cost = i64::from(!held.contains(&n));
            flow.edge(pair(s, plan.zone[n]), node(n), 0..=1, cost);
        }
    }
    for (n, range) in plan.range.iter().enumerate() {
        flow.edge(node(n), zone(plan.zone[n]), range.clone(), 0);
    }
    for (z, range) in plan.zone_range.iter().enumerate() {
        flow.edge(zone(z), sink, range.clone(), 0);
    }
    flow.cheapest(0, sink, shards * plan.replicas)
}

/// A minimum-cost flow with lower bounds, by successive cheapest paths; small graphs only.
struct Flow {
    edges: Vec<(usize, usize, i64, i64)>, // from, to, capacity left, cost
    at: Vec<Vec<usize>>,
    count: usize,
}

/// The reward for each unit up to a lower bound, larger than any cost.
const NEED: i64 = 1 << 20;

impl Flow {
    fn new(count: usize) -> Self {
        Flow { edges: Vec::new(), at: vec![Vec::new(); count], count }
    }

    fn edge(&mut self, from: usize, to: usize, range: RangeInclusive<usize>, cost: i64) {
        let (low, high) = (*range.start() as i64, *range.end() as i64);
        for (capacity, cost) in [(low, cost - NEED), (high - low, cost)] {
            if capacity > 0 {
                self.at[from].push(self.edges.len());
                self.edges.push((from, to, capacity, cost));
                self.at[to].push(self.edges.len());
                self.edges.push((to, from, 0, -cost));
            }
        }
    }

    /// The cost of a flow of `units` without the rewards of lower bounds, which must all be met.
    fn cheapest(&mut self, source: usize, sink: usize, units: usize) -> usize {
        let mut total = 0;
        for _ in 0..units {
            let mut distance = vec![i64::MAX; self.count];
            let mut by = vec![usize::MAX; self.count];
            let mut queue = VecDeque::from([source]);
            let mut queued = vec![false; self.count];
            distance[source] = 0;
            while let Some(at) = queue.pop_front() {
                queued[at] = false;
                for &edge in &self.at[at] {
                    let (_, to, left, cost) = self.edges[edge];
                    if left > 0 && distance[at] + cost < distance[to] {
                        distance[to] = distance[at] + cost;
                        by[to] = edge;
                        if !queued[to] {
                            queued[to] = true;
                            queue.push_back(to);
                        }
                    }
                }
            }
            assert!(by[sink] != usize::MAX, "not all shards can be placed");
            let mut at = sink;
            while at != source {
                let edge = by[at];
                self.edges[edge].2 -= 1;
                self.edges[edge ^ 1].2 += 1;
                at = self.edges[edge].0;
            }
            total += distance[sink];
        }
        let unmet = |(place, edge): (usize, &(usize, usize, i64, i64))| {
            place % 2 == 0 && edge.3 < -NEED / 2 && edge.2 > 0
        };
        assert!(!self.edges.iter().enumerate().any(unmet), "a lower bound is not met");
        (((total % NEED) + NEED) % NEED) as usize
    }
}

/// Asserts the rules for every assignment.
fn check(candidates: &[Candidate], replicas: usize, after: &Assignment) {
    let plan = plan(candidates, replicas, after);
    let replicas = plan.replicas;
    let mut loads = vec![0; candidates.len()];
    for places in after {
        assert_eq!(places.len(), replicas);
        let mut distinct = places.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), replicas, "a node twice");
        places.iter().for_each(|place| loads[*place] += 1);
        for (zone, range) in plan.per_shard.iter().enumerate() {
            let count = plan.count(places, zone);
            assert!(range.contains(&count), "{count} in zone {zone}, {range:?}: {places:?}");
        }
    }
    for (place, (load, range)) in loads.iter().zip(&plan.range).enumerate() {
        assert!(range.contains(load), "{load} on {place}, {range:?}: {loads:?}");
    }
}

/// The same assignment with the indexes shifted by the removal of a candidate.
fn without(before: &Assignment, gone: usize) -> Assignment {
    let shift =
        |place: &usize| (*place != gone).then_some(if *place > gone { place - 1 } else { *place });
    before.iter().map(|places| places.iter().filter_map(shift).collect()).collect()
}

/// Adds, removes or reweighs one candidate; returns the present assignment by the new indexes.
fn change(
    rng: &mut fastrand::Rng,
    candidates: &mut Vec<Candidate>,
    zones: usize,
    now: &Assignment,
) -> Assignment {
    match rng.usize(..3) {
        0 => candidates.push(candidate(1.0, rng.usize(..zones))),
        1 if candidates.len() > 1 => {
            let gone = rng.usize(..candidates.len());
            candidates.remove(gone);
            return without(now, gone);
        }
        _ => {
            let place = rng.usize(..candidates.len());
            candidates[place].weight = [0.5, 1.0, 1.5, 2.0][rng.usize(..4)];
        }
    }
    now.clone()
}

#[test]
fn a_single_change_moves_no_more_than_it_must() {
    let mut rng = fastrand::Rng::with_seed(1);
    for nodes in [3, 4, 5, 7, 16, 50] {
        for (zones, replicas) in [(1, 1), (1, 2), (1, 3), (3, 3), (5, 3), (2, 3), (3, 2), (5, 2)] {
            let weight = |rng: &mut fastrand::Rng| [1.0, 1.0, 2.0][rng.usize(..3)];
            let mut candidates: Vec<_> =
                (0..nodes).map(|place| candidate(weight(&mut rng), place % zones)).collect();
            let shards = if nodes <= 16 { 24 } else { 256 };
            let mut now = rebalance(&candidates, replicas, &vec![Vec::new(); shards]);
            for _ in 0..4 {
                let before = change(&mut rng, &mut candidates, zones, &now);
                now = rebalance(&candidates, replicas, &before);
                check(&candidates, replicas, &now);
                let made = moves(&before, &now);
                let least = plan(&candidates, replicas, &before).least_moves();
                if nodes <= 16 && made > least {
                    assert_eq!(made, fewest_moves(&candidates, replicas, &before));
                } else if zones == 1 || nodes <= 16 {
                    assert_eq!(made, least);
                }
            }
        }
    }
}

#[test]
fn any_assignment_is_rebalanced_with_the_fewest_moves() {
    let mut rng = fastrand::Rng::with_seed(2);
    for _ in 0..500 {
        let (nodes, zones) = (rng.usize(1..7), rng.usize(1..4));
        let (replicas, shards) = (rng.usize(1..4), rng.usize(1..12));
        let any = |rng: &mut fastrand::Rng| {
            candidate([1.0, 2.0, 0.5][rng.usize(..3)], rng.usize(..zones))
        };
        let candidates: Vec<_> = (0..nodes).map(|_| any(&mut rng)).collect();
        let before: Assignment = (0..shards)
            .map(|_| {
                let mut places: Vec<usize> = (0..nodes).collect();
                rng.shuffle(&mut places);
                places.truncate(rng.usize(..=replicas));
                places
            })
            .collect();
        let after = rebalance(&candidates, replicas, &before);
        check(&candidates, replicas, &after);
        let fewest = fewest_moves(&candidates, replicas, &before);
        assert_eq!(
            moves(&before, &after),
            fewest,
            "{replicas} replicas on {candidates:?}: {before:?}"
        );
        assert!(plan(&candidates, replicas, &before).least_moves() <= fewest);
    }
}

#[test]
fn a_tenth_of_a_thousand_nodes_leaves_and_comes_back() {
    let mut candidates: Vec<_> = (0..1000).map(|place| candidate(1.0, place % 5)).collect();
    let mut now = rebalance(&candidates, 3, &vec![Vec::new(); 16_384]);
    for place in (0..100).rev().map(|k| 10 * k + 3) {
        candidates.remove(place);
        now = without(&now, place);
    }
    let left = rebalance(&candidates, 3, &now);
    check(&candidates, 3, &left);
    assert_eq!(moves(&now, &left), plan(&candidates, 3, &now).least_moves());
    candidates.extend((0..100).map(|_| candidate(1.0, 3)));
    let back = rebalance(&candidates, 3, &left);
    check(&candidates, 3, &back);
}

#[test]
fn nothing_changes_without_a_reason() {
    let candidates: Vec<_> = (0..7).map(|place| candidate(1.0, place % 3)).collect();
    let now = rebalance(&candidates, 2, &vec![Vec::new(); 1024]);
    assert_eq!(rebalance(&candidates, 2, &now), now);
}

#[test]
fn without_candidates_there_are_no_replicas() {
    assert_eq!(rebalance(&[], 3, &vec![vec![]; 2]), vec![Vec::<usize>::new(); 2]);
    assert_eq!(rebalance(&[candidate(1.0, 0)], 3, &vec![vec![]; 2]), vec![vec![0]; 2]);
}
