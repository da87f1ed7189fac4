use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

fn members(count: usize) -> Vec<Member> {
    (1..=count)
        .map(|number| Member {
            id: format!("node-{number}"),
            zone: format!("zone-{}", number % 3),
            weight: 1.0,
            ready: None,
            is_away: false,
        })
        .collect()
}

fn decoded(text: &str) -> Result<ShardMap, String> {
    ShardMap::decode(text.as_bytes()).map_err(|error| {
        assert_eq!(error.kind(), Kind::Decode);
        error.message().to_owned()
    })
}

/// The same in every release: who changes one of these makes nodes of different releases
/// disagree.
#[test]
fn keys_are_in_these_shards() {
    let shards = |count| {
        let map = ShardMap::first(count, 1, &members(1), 1);
        ["", "a", "abc", "stocks/AAPL/20241012", "\u{e4}"].map(|key| map.shard_of(key.as_bytes()))
    };
    assert_eq!(shards(1), [0; 5]);
    assert_eq!(shards(1024), [180, 923, 482, 673, 336]);
    assert_eq!(shards(65_536), [11526, 59078, 30895, 43094, 21552]);
}

#[test]
fn the_document_reads_so() {
    let map = ShardMap::first(4, 2, &members(3), 17);
    let text = r#"{"format":1,"epoch":1,"token":17,"replicas":2,"nodes":["node-1","node-2","node-3"],"shards":[[0,2],[1,0],[2,0],[2,1]]}"#;
    assert_eq!(String::from_utf8(map.encode()).unwrap(), text);
    assert_eq!(decoded(text), Ok(map));
}

#[test]
fn replicas_that_move_say_so() {
    let text = r#"{"format":1,"epoch":9,"token":5,"replicas":2,"nodes":["a","b","c"],"shards":[[0,{"node":2,"source":1,"since":8},{"node":1,"leaving":true}]]}"#;
    let map = decoded(text).unwrap();
    let nodes: Vec<_> = map.nodes_of(0).collect();
    assert_eq!(
        nodes,
        [
            ("a", ReplicaState::Available),
            ("c", ReplicaState::Initializing { source: 1, since: 8 }),
            ("b", ReplicaState::Leaving)
        ]
    );
    assert_eq!(map.encode(), text.as_bytes());
    assert_eq!(map.shards_of("b"), [0]);
    assert_eq!(map.shards_of("d"), Vec::<usize>::new());
    assert_eq!(map.nodes_of(1).count(), 0);
}

#[test]
fn sixteen_thousand_shards_on_a_thousand_nodes_fit_into_a_transaction() {
    let map = ShardMap::first(16_384, 3, &members(1000), u64::MAX).with_epoch(LAST_EPOCH);
    let bytes = map.encode();
    assert!(bytes.len() < 380_000, "{} bytes", bytes.len());
    assert_eq!(ShardMap::decode(&bytes).unwrap(), map);
}

#[test]
fn what_a_later_release_adds_is_ignored() {
    let text = r#"{"format":1,"epoch":2,"token":3,"replicas":1,"nodes":["a"],"shards":[[{"node":0,"heat":7}]],"by":{"id":"a"}}"#;
    assert_eq!(decoded(text).unwrap().nodes_of(0).next(), Some(("a", ReplicaState::Available)));
}

#[test]
fn a_document_that_is_no_map_is_refused_with_the_reason() {
    let with = |member: &str, value: &str| {
        let mut members = [
            ("format", "1"),
            ("epoch", "1"),
            ("token", "1"),
            ("replicas", "2"),
            ("nodes", r#"["a","b","c"]"#),
            ("shards", "[[0,1],[1,2]]"),
        ];
        members.iter_mut().filter(|known| known.0 == member).for_each(|known| known.1 = value);
        let members = members.iter().filter(|known| !known.1.is_empty());
        let members: Vec<_> = members.map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    };
    assert!(decoded(&with("epoch", "7")).is_ok());
    for (text, why) in [
        (String::new(), "EOF while parsing a value"),
        ("hello".to_owned(), "expected value"),
        ("{}".to_owned(), "missing field `format`"),
        (with("format", "2"), "its format is 2, of another release; this one knows 1"),
        (r#"{"format":3,"layout":[]}"#.to_owned(), "its format is 3"),
        (with("epoch", ""), "missing field `epoch`"),
        (with("epoch", "0"), "its epoch is 0, not from 1 to 9007199254740991"),
        (with("epoch", "9007199254740992"), "its epoch is 9007199254740992"),
        (with("epoch", "-1"), "invalid value: integer `-1`"),
        (with("token", "1.5"), "invalid type: floating point `1.5`"),
        (with("replicas", "0"), "it wants 0 replicas"),
        (with("nodes", r#"["","b","c"]"#), "one of its nodes has an empty id"),
        (with("nodes", r#"["a","b","b"]"#), "its nodes are not in order: `b` before `b`"),
        (with("nodes", r#"["a","c","b"]"#), "its nodes are not in order: `c` before `b`"),
        (with("shards", "[]"), "it has 0 shards, not from 1 to 65536"),
        (with("shards", "[[0],[3]]"), "its shard 1 is on node 3 of 3, counted from 0"),
        (with("shards", "[[0,1,0]]"), "its shard 0 is twice on node 0"),
        (with("shards", "[[-1]]"), "a replica is neither a node's place nor an object"),
        (with("shards", r#"[["a"]]"#), "a replica is neither a node's place nor an object"),
        (
            with("shards", r#"[[{"node":0,"source":1,"leaving":true},1]]"#),
            "a replica is leaving and has a source",
        ),
        (
            with("shards", r#"[[0,{"node":1,"source":2}]]"#),
            "its shard 0 is copied to node 1 from node 2, which does not have it",
        ),
        (
            with("shards", r#"[[{"node":1,"source":1}]]"#),
            "its shard 0 is copied to node 1 from node 1, which does not have it",
        ),
    ] {
        let message = decoded(&text).unwrap_err();
        assert!(message.starts_with("no shard map: "), "{message}");
        assert!(message.contains(why), "{text}: {message}");
    }
    let many = format!("[[0]{}]", ",[0]".repeat(MOST_SHARDS));
    let message = decoded(&with("shards", &many)).unwrap_err();
    assert!(message.contains("it has 65537 shards"), "{message}");
}

fn any_map() -> impl Strategy<Value = ShardMap> {
    let ids = prop::collection::btree_set("[a-zäöü\"\\\\\u{1}]{1,8}", 1..6);
    let shard = prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8), 0..5);
    let shards = prop::collection::vec(shard, 1..20);
    (1..=LAST_EPOCH, any::<u64>(), 1_usize..4, ids, shards).prop_map(
        |(epoch, token, replicas, nodes, shards)| {
            let nodes: Vec<String> = nodes.into_iter().collect();
            let shard = |shard: Vec<(prop::sample::Index, u8)>| {
                let mut made: Vec<Replica> = Vec::new();
                for (node, state) in shard {
                    let node = node.index(nodes.len());
                    let state = match (state, made.first()) {
                        (1, Some(first)) => {
                            ReplicaState::Initializing { source: first.node, since: 1 }
                        }
                        (2, _) => ReplicaState::Leaving,
                        _ => ReplicaState::Available,
                    };
                    if made.iter().all(|replica| replica.node != node) {
                        made.push(Replica { node, state });
                    }
                }
                made
            };
            let shards = shards.into_iter().map(shard).collect();
            ShardMap { epoch, token, replicas, nodes, shards }
        },
    )
}

proptest! {
    #[test]
    fn a_map_is_what_its_document_says(map in any_map()) {
        prop_assert_eq!(ShardMap::decode(&map.encode()).unwrap(), map);
    }

    #[test]
    fn a_mutilated_document_is_a_map_or_refused(
        map in any_map(),
        at in any::<prop::sample::Index>(),
        put in prop::collection::vec(any::<u8>(), 0..4),
        without in 0_usize..8,
    ) {
        let mut bytes = map.encode();
        let from = at.index(bytes.len());
        let to = bytes.len().min(from + without);
        bytes.splice(from..to, put);
        match ShardMap::decode(&bytes) {
            Ok(other) => prop_assert_eq!(ShardMap::decode(&other.encode()).unwrap(), other),
            Err(error) => prop_assert!(error.message().len() > "no shard map: ".len()),
        }
    }

    #[test]
    fn the_beginning_of_a_document_is_refused(map in any_map(), end in any::<prop::sample::Index>()) {
        let bytes = map.encode();
        prop_assert!(ShardMap::decode(&bytes[..end.index(bytes.len())]).is_err());
    }
}

/// How much each node that can have shards should have: within each zone, and among the zones, the
/// same for each unit of weight, but of no shard more than one for a node nor more than `most` for a
/// zone.
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

/// How much is in each vessel of a width and a height's end, by `total` poured into all: the level is
/// searched for.
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

/// How many replicas of a shard must be in one zone at least, somewhere.
fn most_of_a_zone(members: &[&Member], replicas: usize) -> usize {
    let sizes = |zone: &&str| members.iter().filter(|member| member.zone == *zone).count();
    let sizes: Vec<usize> = zones(members).iter().map(sizes).collect();
    let enough = |most: &usize| sizes.iter().map(|size| size.min(most)).sum::<usize>() >= replicas;
    (1..).find(enough).unwrap()
}

/// Those that can have shards, in the order of their ids.
fn able(members: &[Member]) -> Vec<&Member> {
    let mut able: Vec<&Member> = members.iter().filter(|member| member.weight > 0.0).collect();
    able.sort_by_key(|member| &member.id);
    able
}

fn floor_and_ceiling(share: f64) -> RangeInclusive<usize> {
    (share + 1e-4).floor() as usize..=(share - 1e-4).ceil() as usize
}

/// For each shard its nodes, by their places among those.
fn places(map: &ShardMap, members: &[&Member]) -> Assignment {
    let place = |(id, _): (&str, _)| members.iter().position(|member| member.id == id);
    (0..map.shard_count()).map(|shard| map.nodes_of(shard).filter_map(place).collect()).collect()
}

fn counted(places: impl Iterator<Item = usize>, count: usize) -> Vec<usize> {
    let mut counts = vec![0; count];
    places.for_each(|place| counts[place] += 1);
    counts
}

/// What every map on these members must be.
fn check(map: &ShardMap, members: &[Member]) {
    let members = able(members);
    let replicas = map.replicas().min(members.len());
    let most = most_of_a_zone(&members, replicas);
    let places = places(map, &members);
    for (shard, places) in places.iter().enumerate() {
        assert_eq!(map.nodes_of(shard).count(), replicas);
        assert_eq!(
            places.iter().collect::<BTreeSet<_>>().len(),
            replicas,
            "a stranger or a node twice"
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

/// Whether another map within the rules makes fewer moves: exactly when, in the network that maps
/// flow through (shard, zone of a shard, node, zone, all), some changes in a circle cost less than
/// nothing (M. Klein, "A primal method for minimal cost flows", 1967).
fn could_be_cheaper(before: &ShardMap, after: &ShardMap, members: &[Member]) -> bool {
    let members = able(members);
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

    // From, to, cost: what can be changed. A place of the network is a number.
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
    // Distances settle unless there is such a circle.
    let mut distance = vec![0; all + 1];
    let settles = (0..=all).any(|_| {
        let mut is_settled = true;
        for (from, to, cost) in &changes {
            if distance[*from] + cost < distance[*to] {
                distance[*to] = distance[*from] + cost;
                is_settled = false;
            }
        }
        is_settled
    });
    !settles
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

/// The map after a change, checked, and how many moves it made.
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

fn member(number: usize, zone: usize, weight: f64) -> Member {
    Member {
        id: format!("node-{number:03}"),
        zone: format!("zone-{zone}"),
        weight,
        ready: None,
        is_away: false,
    }
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
fn nor_does_any_run_of_changes() {
    let mut rng = fastrand::Rng::with_seed(2);
    for _ in 0..60 {
        let (zones, replicas) = (rng.usize(1..5), rng.usize(1..4));
        let any = |rng: &mut fastrand::Rng| {
            member(rng.usize(..1000), rng.usize(..zones), [0.0, 0.5, 1.0, 1.0, 2.0][rng.usize(..5)])
        };
        let mut members: Vec<Member> = (0..rng.usize(1..12)).map(|_| any(&mut rng)).collect();
        members.push(member(1000, 0, 1.0)); // somebody who can have shards
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
            assert_eq!(after.rebalanced(&members, 8), None, "not settled");
            members.reverse();
            let again = map.rebalanced(&members, 7).map_or(map.clone(), |(again, _)| again);
            assert_eq!(again, after, "another order of members, another map");
            map = after;
        }
    }
}

#[test]
fn a_needless_move_would_be_noticed() {
    let members: Vec<Member> = (0..6).map(|number| member(number, number % 3, 1.0)).collect();
    let map = ShardMap::first(24, 2, &members, 1);
    assert!(!could_be_cheaper(&map, &map, &members));
    // Two shards exchange a node for a node of the same zone.
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
        is_away: false,
    });
    assert_eq!(map.rebalanced(&members, 2), None);
    members.push(members[0].clone());
    assert_eq!(map.rebalanced(&members, 2), None, "a member named twice");
}

#[test]
fn with_nobody_to_give_them_to_shards_stay_where_they_were() {
    let map = ShardMap::first(8, 2, &members(3), 1);
    assert_eq!(map.rebalanced(&[], 2), None);
    let nobody = ShardMap::first(8, 2, &[member(1, 1, f64::NAN)], 1);
    assert_eq!(ShardMap::decode(&nobody.encode()).unwrap(), nobody);
    assert_eq!(nobody.nodes_of(0).count(), 0);
    let (next, moves) = nobody.rebalanced(&members(3), 2).unwrap();
    check(&next, &members(3));
    assert_eq!(moves, 16);
}

#[test]
fn each_node_is_the_primary_of_its_part() {
    let members = members(3);
    let map = ShardMap::first(1024, 3, &members, 1);
    let led =
        |id: &str| (0..1024).filter(|shard| map.nodes_of(*shard).next().unwrap().0 == id).count();
    assert_eq!([led("node-1"), led("node-2"), led("node-3")], [342, 341, 341]);
}

/// A map of one shard with two replicas, on the nodes `a`, `b` and `c`.
fn map_of(shard: &str) -> ShardMap {
    let head = r#"{"format":1,"epoch":1,"token":1,"replicas":2,"nodes":["a","b","c"]"#;
    decoded(&format!("{head},\"shards\":[{shard}]}}")).unwrap()
}

/// The shard's replicas in the next map, when `c` is ready with this.
fn next_of(shard: &str, ids: &[&str], ready: &[(usize, u64)]) -> Vec<(String, ReplicaState)> {
    let map = map_of(shard);
    let member = |id: &&str| Member {
        id: (*id).to_owned(),
        zone: String::new(),
        weight: 1.0,
        ready: (*id == "c").then(|| ready.to_vec()),
        is_away: false,
    };
    let members: Vec<Member> = ids.iter().map(member).collect();
    let next = map.rebalanced(&members, 1).map_or(map, |(next, _)| next);
    assert_eq!(ShardMap::decode(&next.encode()).unwrap(), next);
    assert!(next.rebalanced(&members, 1).is_none(), "it does not come to rest");
    next.nodes_of(0).map(|(id, state)| (id.to_owned(), state)).collect()
}

fn is(id: &str, state: ReplicaState) -> (String, ReplicaState) {
    (id.to_owned(), state)
}

const MOVING: &str = r#"[0,{"node":2,"source":1,"since":1},{"node":1,"leaving":true}]"#;

#[test]
fn a_replica_is_initializing_until_its_node_has_the_data() {
    use ReplicaState::{Available, Initializing, Leaving};
    let still =
        [is("a", Available), is("c", Initializing { source: 1, since: 1 }), is("b", Leaving)];
    let all = ["a", "b", "c"];
    assert_eq!(next_of(MOVING, &all, &[]), still);
    // What it was ready with another time, or of another shard, is not meant.
    assert_eq!(next_of(MOVING, &all, &[(0, 9), (1, 1)]), still);
    assert_eq!(next_of(MOVING, &all, &[(0, 1)]), [is("a", Available), is("c", Available)]);
}

#[test]
fn who_has_the_data_gives_them_and_is_not_dropped() {
    use ReplicaState::{Available, Initializing};
    // A new replica, from who stays.
    let copied = |source| Initializing { source, since: 2 };
    assert_eq!(next_of("[0]", &["a", "c"], &[]), [is("a", Available), is("c", copied(0))]);
    // The source is gone: another gives the data.
    let on_a = Initializing { source: 0, since: 1 };
    assert_eq!(next_of(MOVING, &["a", "c"], &[]), [is("a", Available), is("c", on_a)]);
    // Nobody has them any more.
    assert_eq!(next_of(MOVING, &["c"], &[]), [is("c", Available)]);
    // Who was leaving is to stay.
    assert_eq!(
        next_of(r#"[0,{"node":1,"leaving":true}]"#, &["a", "b"], &[]),
        [is("a", Available), is("b", Available)]
    );
    // Who has no data to get has the shard at once, and who had it is dropped.
    assert_eq!(next_of("[2]", &["a", "b"], &[]), [is("a", Available), is("b", Available)]);
}

#[test]
fn a_node_that_gives_its_shards_away_keeps_them_until_others_have_the_data() {
    use ReplicaState::{Available, Initializing, Leaving};
    let map = map_of("[0,1]");
    let member = |id: &str, weight, ready: &[(usize, u64)]| Member {
        id: id.to_owned(),
        zone: String::new(),
        weight,
        ready: Some(ready.to_vec()),
        is_away: false,
    };
    let members = |ready: &[(usize, u64)]| {
        [member("a", 1.0, &[]), member("b", 0.0, &[]), member("c", 1.0, ready)]
    };
    let (next, moves) = map.rebalanced(&members(&[]), 1).unwrap();
    let nodes: Vec<_> = next.nodes_of(0).collect();
    // From the one that it takes the place of.
    let copied = Initializing { source: 1, since: 2 };
    assert_eq!((nodes, moves), (vec![("a", Available), ("c", copied), ("b", Leaving)], 1));
    assert_eq!(next.initializing("c"), [(0, 2)]);
    let (last, moves) = next.rebalanced(&members(&[(0, 2)]), 1).unwrap();
    let nodes: Vec<_> = last.nodes_of(0).collect();
    assert_eq!((nodes, moves), (vec![("a", Available), ("c", Available)], 0));
    assert_eq!(last.initializing("c"), []);
}

/// Who has a shard's data for certain: those that the map called available, or that were ready.
fn with_data(map: &ShardMap, shard: usize, before: &BTreeSet<String>) -> BTreeSet<String> {
    let is_with_data = |(id, state): &(&str, ReplicaState)| match state {
        ReplicaState::Initializing { .. } => false,
        ReplicaState::Leaving => before.contains(*id),
        ReplicaState::Available => true,
    };
    map.nodes_of(shard).filter(is_with_data).map(|(id, _)| id.to_owned()).collect()
}

proptest! {
    /// Nodes come, go, drain and get data in any order. `steps` has a draw for each node: whether it
    /// is there, whether it gives its shards away, whether it is ready with what it waits for.
    #[test]
    fn whatever_happens_who_has_the_data_is_kept_while_it_is_there(
        steps in prop::collection::vec(prop::collection::vec((0..4_u8, 0..4_u8, any::<bool>()), 5), 1..12),
    ) {
        const SHARDS: usize = 7;
        let members = |map: Option<&ShardMap>, step: &[(u8, u8, bool)]| -> Vec<Member> {
            let member = |(number, (here, drains, is_ready)): (usize, &(u8, u8, bool))| {
                let id = format!("node-{number}");
                let waits = map.map_or_else(Vec::new, |map| map.initializing(&id));
                let ready = Some(if *is_ready { waits } else { Vec::new() });
                let weight = if *drains == 0 { 0.0 } else { 1.0 };
                (*here > 0).then_some(Member {
                    id,
                    zone: String::new(),
                    weight,
                    ready,
                    is_away: false,
                })
            };
            step.iter().enumerate().filter_map(member).collect()
        };
        let all: Vec<(u8, u8, bool)> = vec![(1, 1, false); 5];
        let mut map = ShardMap::first(SHARDS, 2, &members(None, &all), 1);
        let mut data: Vec<BTreeSet<String>> =
            (0..SHARDS).map(|shard| with_data(&map, shard, &BTreeSet::new())).collect();
        for step in &steps {
            let members = members(Some(&map), step);
            let Some((next, _)) = map.rebalanced(&members, 1) else { continue };
            prop_assert_eq!(&ShardMap::decode(&next.encode()).unwrap(), &next);
            for (shard, data) in data.iter_mut().enumerate() {
                let got = members.iter().filter(|member| {
                    let waited = map.initializing(&member.id).into_iter().find(|it| it.0 == shard);
                    waited.is_some_and(|it| member.ready.iter().flatten().any(|ready| *ready == it))
                });
                data.extend(got.map(|member| member.id.clone()));
                let there: BTreeSet<String> = members
                    .iter()
                    .map(|member| member.id.clone())
                    .filter(|id| data.contains(id))
                    .collect();
                let has = with_data(&next, shard, &there);
                if !there.is_empty() {
                    prop_assert!(!has.is_empty(), "nobody has shard {}'s data", shard);
                    prop_assert!(has.is_subset(&there), "{:?} of {:?} have shard {}", has, there, shard);
                }
                *data = has;
            }
            map = next;
        }
    }
}

#[test]
fn a_member_that_is_away_keeps_its_shards_and_gets_none_if_the_others_can_have_them() {
    let load = |map: &ShardMap, id: &str| map.shards_of(id).len();
    for (count, replicas) in [(3, 1), (4, 2), (5, 2), (7, 3)] {
        let mut members: Vec<Member> = (0..count).map(|number| member(number, 0, 1.0)).collect();
        let map = ShardMap::first(60, replicas, &members, 1);
        members[0].is_away = true;
        assert_eq!(map.rebalanced(&members, 1), None, "nothing moves because it is away");
        let (leaving, away) = (members.remove(1), members[0].id.clone());
        let (next, moves) = map.rebalanced(&members, 1).expect("another map");
        assert_eq!(next.shards_of(&away), map.shards_of(&away));
        assert_eq!(moves, load(&map, &leaving.id));
        assert_eq!(next.rebalanced(&members, 1), None, "it comes to rest");
        members[0].is_away = false;
        let (back, _) = next.rebalanced(&members, 1).expect("it gets its part when it is back");
        assert!(load(&back, &away) > load(&map, &away));
    }
    // Two replicas on two members: the others cannot have them.
    let mut members: Vec<Member> = (0..3).map(|number| member(number, 0, 1.0)).collect();
    let map = ShardMap::first(60, 2, &members, 1);
    members[0].is_away = true;
    members.remove(1);
    let (next, _) = map.rebalanced(&members, 1).expect("another map");
    assert_eq!(load(&next, &members[0].id), 60);
}
