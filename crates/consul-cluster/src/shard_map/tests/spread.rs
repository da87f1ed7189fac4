//! How evenly shards are spread over pairs of nodes, and what a lost node costs.

#![allow(clippy::print_stdout)] // the figures of the documentation

use super::*;

const SHARDS: usize = 1024;

fn member(number: usize, zones: usize, ready: Option<Vec<(usize, u64)>>) -> Member {
    let (id, zone) = (format!("node-{number:02}"), format!("zone-{}", number % zones));
    Member { id, zone, weight: 1.0, ready, is_down: false }
}

/// The replicas on a node that are there to stay.
fn held(map: &ShardMap, node: &str) -> usize {
    let is_held = |shard: &usize| {
        map.nodes_of(*shard).any(|(id, state)| id == node && state != ReplicaState::Leaving)
    };
    (0..map.shard_count()).filter(is_held).count()
}

/// The mean, least and largest number of common shards of two members in different zones, or of any two
/// if there is one zone.
fn pairs(map: &ShardMap, members: &[Member]) -> (f64, usize, usize) {
    let mut common = vec![0; members.len() * members.len()];
    for shard in 0..map.shard_count() {
        let staying = map.nodes_of(shard).filter(|(_, state)| *state != ReplicaState::Leaving);
        let places: Vec<usize> = staying
            .map(|(id, _)| members.iter().position(|member| member.id == id).unwrap())
            .collect();
        for one in &places {
            places.iter().for_each(|other| common[one * members.len() + other] += 1);
        }
    }
    let is_one_zone = members.iter().all(|member| member.zone == members[0].zone);
    let all = (0..common.len()).map(|pair| (pair / members.len(), pair % members.len()));
    let counted: Vec<usize> = all
        .filter(|(one, other)| {
            one < other && (is_one_zone || members[*one].zone != members[*other].zone)
        })
        .map(|(one, other)| common[one * members.len() + other])
        .collect();
    let mean = counted.iter().sum::<usize>() as f64 / counted.len() as f64;
    (mean, *counted.iter().min().unwrap(), *counted.iter().max().unwrap())
}

/// Asserts that all pairs are within a part of the mean, or a number if that is more.
fn assert_even(map: &ShardMap, members: &[Member], part: f64, number: f64, what: &str) {
    let (mean, least, most) = pairs(map, members);
    let off = (mean * part).max(number);
    println!("{what}: two nodes have {least} to {most} shards in common, {mean:.1} on average");
    assert!(least as f64 >= mean - off && most as f64 <= mean + off, "{what}: {least} to {most}");
}

#[test]
fn any_two_nodes_of_a_first_map_share_about_as_many_shards() {
    for (zones, replicas) in [(1, 2), (1, 3), (1, 5), (3, 3)] {
        for count in [6, 7, 8, 9, 10, 11, 12, 20, 21, 50] {
            if count % zones > 0 {
                continue;
            }
            let members: Vec<Member> = (0..count).map(|it| member(it, zones, None)).collect();
            let map = ShardMap::first(SHARDS, replicas, &members, 1);
            let what = format!("{replicas} replicas on {count} nodes in {zones} zones");
            assert_even(&map, &members, 0.2, 4.0, &what);
        }
    }
}

/// Random joins and leaves, also while the data of earlier ones are still copied.
#[test]
fn nodes_come_and_go_and_each_costs_only_its_replicas_and_pairs_stay_even() {
    for (seed, replicas, has_data) in [(1, 3, false), (2, 3, true), (3, 2, false), (4, 2, true)] {
        let mut rng = fastrand::Rng::with_seed(seed);
        let ready = || has_data.then(Vec::new);
        let mut members: Vec<Member> =
            (0..rng.usize(6..=12)).map(|it| member(it, 1, ready())).collect();
        let mut map = ShardMap::first(SHARDS, replicas, &members, 1);
        for step in 0..20 {
            for member in members.iter_mut().filter(|_| has_data) {
                let mut copied = map.initializing(&member.id);
                copied.retain(|_| rng.u8(..3) > 0);
                member.ready = Some(copied);
            }
            let joins = members.len() == 6 || (members.len() < 12 && rng.bool());
            let lost = rng.usize(..members.len());
            let lost = (!joins).then(|| members.remove(lost).id);
            members.extend(joins.then(|| member(50 + step, 1, ready())));
            let (next, moves) = map.rebalanced(&members, 1).unwrap();
            let most = match &lost {
                Some(lost) => held(&map, lost),
                None => held(&next, &format!("node-{}", 50 + step)),
            };
            assert!(moves <= most, "seed {seed}, step {step}: {moves} moves for {most} replicas");
            assert!(has_data || moves == most, "too few moves are counted");
            map = next;
        }
        let what = format!("{replicas} replicas, {} nodes after 20 changes", members.len());
        assert_even(&map, &members, 0.35, 6.0, &what);
    }
}

#[test]
fn a_lost_node_of_those_that_joined_one_by_one_costs_its_replicas() {
    let mut members = vec![member(0, 1, None)];
    let mut map = ShardMap::first(SHARDS, 3, &members, 1);
    for number in 1..7 {
        members.push(member(number, 1, None));
        (map, _) = map.rebalanced(&members, 1).unwrap();
        for lost in 0..=number {
            let mut others = members.clone();
            let id = others.remove(lost).id;
            let expected = if members.len() > 3 { held(&map, &id) } else { 0 };
            let (_, moves) = map.rebalanced(&others, 1).unwrap();
            assert_eq!(moves, expected, "{id} of {} is lost", members.len());
            others.insert(lost, Member { weight: 0.0, ..members[lost].clone() });
            let (_, moves) = map.rebalanced(&others, 1).unwrap();
            assert_eq!(moves, expected, "{id} of {} drains", members.len());
        }
    }
}

#[test]
fn a_node_whose_drain_is_cancelled_takes_back_what_it_still_has() {
    let mut members: Vec<Member> = (0..5).map(|it| member(it, 1, Some(Vec::new()))).collect();
    let map = ShardMap::first(SHARDS, 3, &members, 1);
    let held = held(&map, "node-02");
    members[2].weight = 0.0;
    let (draining, moves) = map.rebalanced(&members, 1).unwrap();
    assert_eq!(moves, held);
    members[2].weight = 1.0;
    let (back, moves) = draining.rebalanced(&members, 1).unwrap();
    assert_eq!(back.initializing("node-02").len(), moves);
    assert!(moves * 20 < held, "{moves} moves back of {held}");
    assert_eq!(back.rebalanced(&members, 1), None, "not stable");
}

#[test]
fn four_of_nine_nodes_hold_as_many_shards_completely_as_at_random() {
    let members: Vec<Member> = (0..9).map(|it| member(it, 1, None)).collect();
    let map = ShardMap::first(SHARDS, 3, &members, 1);
    let holders = |shard| {
        map.nodes_of(shard).fold(0_u32, |set, (id, _)| {
            set | 1 << members.iter().position(|member| member.id == id).unwrap()
        })
    };
    let holders: Vec<u32> = (0..SHARDS).map(holders).collect();
    let lost: Vec<usize> = (0..1_u32 << 9)
        .filter(|killed| killed.count_ones() == 4)
        .map(|killed| holders.iter().filter(|set| **set & !killed == 0).count())
        .collect();
    let (least, most) = (lost.iter().min().unwrap(), lost.iter().max().unwrap());
    println!("any four of nine nodes hold {least} to {most} of {SHARDS} shards completely");
    let at_random = SHARDS as f64 * 4.0 / 84.0;
    assert!(*least as f64 > 0.5 * at_random && (*most as f64) < 1.5 * at_random);
}

#[test]
fn the_data_of_a_lost_node_are_copied_from_all_others() {
    let members: Vec<Member> = (0..9).map(|it| member(it, 1, Some(Vec::new()))).collect();
    let map = ShardMap::first(SHARDS, 3, &members, 1);
    let others = &members[1..];
    let replaced: Vec<Member> =
        others.iter().cloned().chain([member(9, 1, Some(Vec::new()))]).collect();
    for (members, targets) in [(others, 8), (&replaced, 1)] {
        let (next, _) = map.rebalanced(members, 1).unwrap();
        let copies = |source: &str| {
            let states = (0..SHARDS).flat_map(|shard| next.nodes_of(shard));
            let is_copied = |state: &ReplicaState| {
                matches!(state, ReplicaState::Initializing { source: place, .. }
                    if next.node(*place) == Some(source))
            };
            states.filter(|(_, state)| is_copied(state)).count()
        };
        let sources: Vec<usize> = others.iter().map(|member| copies(&member.id)).collect();
        let copied: Vec<usize> =
            members.iter().map(|member| next.initializing(&member.id).len()).collect();
        println!("a node of {} replicas is lost: copied {copied:?}", held(&map, "node-00"));
        println!("  from {sources:?}");
        let even = sources.iter().sum::<usize>() as f64 / 8.0;
        assert!(sources.iter().all(|it| (0.5 * even..1.5 * even).contains(&(*it as f64))));
        // Another node may get one, since loads are rounded.
        assert_eq!(copied.iter().filter(|copied| **copied > 1).count(), targets);
    }
}
