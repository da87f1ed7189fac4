//! Maps after changes of members: the rules that they keep, and the fewest moves.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

fn member(number: usize, zone: usize, weight: f64) -> Member {
    Member {
        id: format!("node-{number:03}"),
        zone: format!("zone-{zone}"),
        weight,
        ready: None,
        is_down: false,
    }
}

/// The fair share of each eligible node: within each zone, and among the zones, the same for each unit
/// of weight, with at most one replica of a shard for a node and `most` for a zone.
fn fair_shares(members: &[&Member], replicas: usize, shards: usize) -> Vec<f64> {
    let most = most_of_a_zone(members, replicas) as f64;
    let shards = shards as f64;
    let zones = zones(members);
    let of_zone = |zone: &&str| -> Vec<usize> {
        (0..members.len()).filter(|place| members[*place].zone == *zone).collect()
    };
    let weight = |place: &usize| members[*place].weight;
    let part = |zone: &&str| {
        let places = of_zone(zone);
        (places.iter().map(weight).sum(), shards * most.min(places.len() as f64))
    };
    let zone_shares = poured(shards * replicas as f64, &zones.iter().map(part).collect::<Vec<_>>());
    let mut shares = vec![0.0; members.len()];
    for (zone, share) in zones.iter().zip(zone_shares) {
        let places = of_zone(zone);
        let parts: Vec<_> = places.iter().map(|place| (weight(place), shards)).collect();
        for (place, share) in places.into_iter().zip(poured(share, &parts)) {
            shares[place] = share;
        }
    }
    shares
}

/// The amount in each of several connected vessels, of a width and a capacity, after `total` is poured
/// in; found by a binary search for the level.
fn poured(total: f64, vessels: &[(f64, f64)]) -> Vec<f64> {
    let at = |level: f64| vessels.iter().map(move |(width, full)| (level * width).min(*full));
    let (mut low, mut high) = (0.0, 1.0);
    while at(high).sum::<f64>() < total * (1.0 - 1e-12) {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        *(if at(middle).sum::<f64>() < total { &mut low } else { &mut high }) = middle;
    }
    at(high).collect()
}

fn zones<'a>(members: &[&'a Member]) -> Vec<&'a str> {
    let zones: BTreeSet<&str> = members.iter().map(|member| member.zone.as_str()).collect();
    zones.into_iter().collect()
}

/// The least possible maximum of a shard's replicas in one zone.
fn most_of_a_zone(members: &[&Member], replicas: usize) -> usize {
    let sizes = |zone: &&str| members.iter().filter(|member| member.zone == *zone).count();
    let sizes: Vec<usize> = zones(members).iter().map(sizes).collect();
    let enough = |most: &usize| sizes.iter().map(|size| size.min(most)).sum::<usize>() >= replicas;
    (1..).find(enough).unwrap()
}

/// The members that can have shards, sorted by id.
fn eligible(members: &[Member]) -> Vec<&Member> {
    let mut eligible: Vec<&Member> = members.iter().filter(|member| member.weight > 0.0).collect();
    eligible.sort_by_key(|member| &member.id);
    eligible
}

fn floor_and_ceiling(share: f64) -> RangeInclusive<usize> {
    (share + 1e-4).floor() as usize..=(share - 1e-4).ceil() as usize
}

/// For each shard the indexes of its nodes among `members`.
fn places(map: &ShardMap, members: &[&Member]) -> Assignment {
    let place = |(id, _): (&str, _)| members.iter().position(|member| member.id == id);
    (0..map.shard_count()).map(|shard| map.nodes_of(shard).filter_map(place).collect()).collect()
}

fn counted(places: impl Iterator<Item = usize>, count: usize) -> Vec<usize> {
    let mut counts = vec![0; count];
    places.for_each(|place| counts[place] += 1);
    counts
}

/// Asserts the rules for every map on these members.
fn check(map: &ShardMap, members: &[Member]) {
    let members = eligible(members);
    let replicas = map.replicas().min(members.len());
    let most = most_of_a_zone(&members, replicas);
    let places = places(map, &members);
    for (shard, places) in places.iter().enumerate() {
        assert_eq!(map.nodes_of(shard).count(), replicas);
        assert_eq!(
            places.iter().collect::<BTreeSet<_>>().len(),
            replicas,
            "a node twice, or not a member"
        );
        let mut by_zone = BTreeMap::<&str, usize>::new();
        places.iter().for_each(|place| *by_zone.entry(&members[*place].zone).or_default() += 1);
        assert!(by_zone.values().all(|count| *count <= most), "{by_zone:?}, at most {most}");
    }
    let shares = fair_shares(&members, replicas, map.shard_count());
    let loads = counted(places.iter().flatten().copied(), members.len());
    let led = counted(places.iter().map(|places| places[0]), members.len());
    for (place, member) in members.iter().enumerate() {
        let (load, share) = (loads[place], shares[place]);
        assert!(floor_and_ceiling(share).contains(&load), "{load} on {member:?}, {share}");
        assert_eq!(map.shards_of(&member.id).len(), load);
        let share = load as f64 / replicas as f64;
        assert!(
            floor_and_ceiling(share).contains(&led[place]),
            "{} led by {member:?}, {share}",
            led[place]
        );
    }
}

/// Whether another map within the rules makes fewer moves: exactly if the residual network of the
/// assignment (shard, zone of a shard, node, zone, all) has a cycle of negative cost (M. Klein, "A
/// primal method for minimal cost flows", 1967).
fn could_be_cheaper(before: &ShardMap, after: &ShardMap, members: &[Member]) -> bool {
    let members = eligible(members);
    let zones = zones(&members);
    let zone: Vec<usize> =
        members.iter().map(|m| zones.iter().position(|zone| *zone == m.zone).unwrap()).collect();
    let (shards, replicas) = (after.shard_count(), after.replicas().min(members.len()));
    let shares = fair_shares(&members, replicas, shards);
    let zone_share =
        |z: usize| -> f64 { (0..members.len()).filter(|n| zone[*n] == z).map(|n| shares[n]).sum() };
    let (held, now) = (places(before, &members), places(after, &members));
    let loads = counted(now.iter().flatten().copied(), members.len());
    let zone_loads = counted(now.iter().flatten().map(|node| zone[*node]), zones.len());

    // The edges of the residual network (from, to, cost); vertices are numbered.
    let shard = |s: usize| s;
    let of_zone = |s: usize, z: usize| shards + s * zones.len() + z;
    let node = |n: usize| shards * (1 + zones.len()) + n;
    let whole_zone = |z: usize| node(members.len()) + z;
    let all = whole_zone(zones.len());
    let mut changes: Vec<(usize, usize, i32)> = Vec::new();
    let mut bounded = |from: usize, to: usize, flow: usize, range: RangeInclusive<usize>| {
        changes.extend((flow < *range.end()).then_some((from, to, 0)));
        changes.extend((flow > *range.start()).then_some((to, from, 0)));
    };
    for (z, load) in zone_loads.iter().enumerate() {
        let of_one = floor_and_ceiling(zone_share(z) / shards as f64);
        for (s, nodes) in now.iter().enumerate() {
            let count = nodes.iter().filter(|node| zone[**node] == z).count();
            bounded(shard(s), of_zone(s, z), count, of_one.clone());
        }
        bounded(whole_zone(z), all, *load, floor_and_ceiling(zone_share(z)));
    }
    for (n, share) in shares.iter().enumerate() {
        bounded(node(n), whole_zone(zone[n]), loads[n], floor_and_ceiling(*share));
    }
    for (s, (held, now)) in held.iter().zip(&now).enumerate() {
        for (n, zone) in zone.iter().enumerate() {
            let cost = i32::from(!held.contains(&n));
            changes.push(if now.contains(&n) {
                (node(n), of_zone(s, *zone), -cost)
            } else {
                (of_zone(s, *zone), node(n), cost)
            });
        }
    }
    // Bellman-Ford: the distances converge unless there is a negative cycle.
    let mut distance = vec![0; all + 1];
    let converges = (0..=all).any(|_| {
        let mut is_unchanged = true;
        for (from, to, cost) in &changes {
            if distance[*from] + cost < distance[*to] {
                distance[*to] = distance[*from] + cost;
                is_unchanged = false;
            }
        }
        is_unchanged
    });
    !converges
}

fn moved(before: &ShardMap, after: &ShardMap) -> usize {
    let nodes = |map: &ShardMap, shard| -> Vec<String> {
        map.nodes_of(shard).map(|(id, _)| id.to_owned()).collect()
    };
    let of_shard = |shard| {
        let before = nodes(before, shard);
        nodes(after, shard).iter().filter(|id| !before.contains(id)).count()
    };
    (0..before.shard_count()).map(of_shard).sum()
}

/// The checked map after a change, and the number of its moves.
fn next(map: &ShardMap, members: &[Member]) -> (ShardMap, usize) {
    let Some((next, moves)) = map.rebalanced(members, 7) else {
        check(map, members);
        return (map.clone(), 0);
    };
    check(&next, members);
    assert_eq!((next.epoch(), next.token()), (map.epoch() + 1, 7));
    assert_eq!(moves, moved(map, &next));
    assert_eq!(ShardMap::decode(&next.encode()).unwrap(), next);
    (next, moves)
}

#[test]
fn a_map_that_is_put_back_has_the_epoch_and_the_token_of_the_leader_that_does_it() {
    let map = ShardMap::first(4, 2, &super::members(3), 17);
    let again = map.clone().with_epoch(9).with_token(18);
    assert_eq!((again.epoch(), again.token()), (9, 18));
    assert_eq!((&again.nodes, &again.shards), (&map.nodes, &map.shards));
}

#[test]
fn a_single_change_makes_as_few_moves_as_any_map_could() {
    let mut rng = fastrand::Rng::with_seed(1);
    for count in [3, 4, 5, 7, 10, 20, 50, 200] {
        for (zones, replicas) in [(1, 1), (1, 3), (2, 3), (3, 2), (3, 3), (5, 3)] {
            let any = |number| member(number, number % zones, [1.0, 1.0, 2.0][number * 7 % 3]);
            let members: Vec<Member> = (0..count).map(any).collect();
            let shards = if count < 50 { 64 } else { 256 };
            let map = ShardMap::first(shards, replicas, &members, 1);
            check(&map, &members);
            let (at, zone) = (rng.usize(..count), rng.usize(..zones));
            let weight = [0.5, 1.5, 3.0][rng.usize(..3)];
            for change in ["join", "leave", "weight", "drain"] {
                let mut members = members.clone();
                match change {
                    "join" => members.push(member(999, zone, 1.0)),
                    "leave" => drop(members.remove(at)),
                    "weight" => members[at].weight = weight,
                    _ => members[at].weight = 0.0,
                }
                let (after, _) = next(&map, &members);
                assert!(
                    !could_be_cheaper(&map, &after, &members),
                    "{change} at {count} nodes in {zones} zones, {replicas} replicas"
                );
            }
        }
    }
}

#[test]
fn each_of_many_changes_makes_as_few_moves_as_any_map_could() {
    let mut rng = fastrand::Rng::with_seed(2);
    for _ in 0..60 {
        let (zones, replicas) = (rng.usize(1..5), rng.usize(1..4));
        let any = |rng: &mut fastrand::Rng| {
            member(rng.usize(..1000), rng.usize(..zones), [0.0, 0.5, 1.0, 1.0, 2.0][rng.usize(..5)])
        };
        let mut members: Vec<Member> = (0..rng.usize(1..12)).map(|_| any(&mut rng)).collect();
        members.push(member(1000, 0, 1.0)); // a member that can always have shards
        let mut map = ShardMap::first(rng.usize(1..60), replicas, &members, 1);
        for _ in 0..5 {
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..members.len());
                match rng.usize(..3) {
                    0 => members.insert(at, any(&mut rng)),
                    1 if members[at].id != "node-1000" => drop(members.remove(at)),
                    _ if members[at].id != "node-1000" => members[at] = any(&mut rng),
                    _ => {}
                }
            }
            members.sort_by(|a, b| a.id.cmp(&b.id));
            members.dedup_by(|a, b| a.id == b.id);
            let (after, _) = next(&map, &members);
            assert!(!could_be_cheaper(&map, &after, &members), "{members:?}: {map:?}");
            assert_eq!(after.rebalanced(&members, 8), None, "not stable");
            members.reverse();
            let again = map.rebalanced(&members, 7).map_or(map.clone(), |(again, _)| again);
            assert_eq!(again, after, "another order of members, another map");
            map = after;
        }
    }
}

#[test]
fn the_check_detects_a_needless_move() {
    let members: Vec<Member> = (0..6).map(|number| member(number, number % 3, 1.0)).collect();
    let map = ShardMap::first(24, 2, &members, 1);
    assert!(!could_be_cheaper(&map, &map, &members));
    // Two shards swap nodes of the same zone.
    let mut other = map.clone();
    let pair = (0..24 * 24).map(|pair| (pair / 24, pair % 24)).find(|(one, two)| {
        let has = |shard: usize, node| map.shards[shard].iter().any(|replica| replica.node == node);
        has(*one, 0) && !has(*one, 3) && has(*two, 3) && !has(*two, 0)
    });
    let (one, two) = pair.unwrap();
    for (shard, from, to) in [(one, 0, 3), (two, 3, 0)] {
        other.shards[shard].iter_mut().find(|replica| replica.node == from).unwrap().node = to;
    }
    assert!(could_be_cheaper(&map, &other, &members));
}

#[test]
fn nothing_changes_without_a_reason() {
    let mut members = members(7);
    let map = ShardMap::first(64, 2, &members, 1);
    members.reverse();
    assert_eq!(map.rebalanced(&members, 2), None);
    members.push(Member {
        id: "idle".to_owned(),
        zone: "zone-1".to_owned(),
        weight: 0.0,
        ready: None,
        is_down: false,
    });
    assert_eq!(map.rebalanced(&members, 2), None);
    members.push(members[0].clone());
    assert_eq!(map.rebalanced(&members, 2), None, "a member named twice");
}

#[test]
fn without_eligible_members_shards_stay_where_they_are() {
    let map = ShardMap::first(8, 2, &members(3), 1);
    assert_eq!(map.rebalanced(&[], 2), None);
    let empty = ShardMap::first(8, 2, &[member(1, 1, f64::NAN)], 1);
    assert_eq!(ShardMap::decode(&empty.encode()).unwrap(), empty);
    assert_eq!(empty.nodes_of(0).count(), 0);
    let (next, moves) = empty.rebalanced(&members(3), 2).unwrap();
    check(&next, &members(3));
    assert_eq!(moves, 16);
}

#[test]
fn primaries_are_spread_evenly() {
    let members = members(3);
    let map = ShardMap::first(1024, 3, &members, 1);
    let led =
        |id: &str| (0..1024).filter(|shard| map.nodes_of(*shard).next().unwrap().0 == id).count();
    assert_eq!([led("node-1"), led("node-2"), led("node-3")], [342, 341, 341]);
}

#[test]
fn a_member_that_is_down_keeps_its_shards_and_gets_no_more_if_the_others_can_take_them() {
    let load = |map: &ShardMap, id: &str| map.shards_of(id).len();
    for (count, replicas) in [(3, 1), (4, 2), (5, 2), (7, 3)] {
        let mut members: Vec<Member> = (0..count).map(|number| member(number, 0, 1.0)).collect();
        let map = ShardMap::first(60, replicas, &members, 1);
        members[0].is_down = true;
        assert_eq!(map.rebalanced(&members, 1), None, "nothing moves because a member is down");
        let (leaving, down) = (members.remove(1), members[0].id.clone());
        let (next, moves) = map.rebalanced(&members, 1).expect("another map");
        assert_eq!(next.shards_of(&down), map.shards_of(&down));
        assert_eq!(moves, load(&map, &leaving.id));
        assert_eq!(next.rebalanced(&members, 1), None, "not stable");
        members[0].is_down = false;
        let (back, _) = next.rebalanced(&members, 1).expect("it gets its part when it is back");
        assert!(load(&back, &down) > load(&map, &down));
    }
    // Two replicas on two members: the other member cannot take both.
    let mut members: Vec<Member> = (0..3).map(|number| member(number, 0, 1.0)).collect();
    let map = ShardMap::first(60, 2, &members, 1);
    members[0].is_down = true;
    members.remove(1);
    let (next, _) = map.rebalanced(&members, 1).expect("another map");
    assert_eq!(load(&next, &members[0].id), 60);
}
