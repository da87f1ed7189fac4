//! Replicas that are initializing or leaving: no replica with the data is dropped too early.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A map of one shard with two replicas, on the nodes `a`, `b` and `c`.
fn map_of(shard: &str) -> ShardMap {
    let head = r#"{"format":1,"epoch":1,"token":1,"replicas":2,"nodes":["a","b","c"]"#;
    decoded(&format!("{head},\"shards\":[{shard}]}}")).unwrap()
}

/// The shard's replicas in the next map, if `c` reports `ready`.
fn next_of(shard: &str, ids: &[&str], ready: &[(usize, u64)]) -> Vec<(String, ReplicaState)> {
    let map = map_of(shard);
    let member = |id: &&str| Member {
        id: (*id).to_owned(),
        zone: String::new(),
        weight: 1.0,
        ready: (*id == "c").then(|| ready.to_vec()),
        is_down: false,
    };
    let members: Vec<Member> = ids.iter().map(member).collect();
    let next = map.rebalanced(&members, 1).map_or(map, |(next, _)| next);
    assert_eq!(ShardMap::decode(&next.encode()).unwrap(), next);
    assert!(next.rebalanced(&members, 1).is_none(), "not stable");
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
    // Reports of another assignment or another shard do not count.
    assert_eq!(next_of(MOVING, &all, &[(0, 9), (1, 1)]), still);
    assert_eq!(next_of(MOVING, &all, &[(0, 1)]), [is("a", Available), is("c", Available)]);
}

#[test]
fn a_replica_with_the_data_is_the_source_and_is_not_dropped() {
    use ReplicaState::{Available, Initializing};
    // A new replica copies from the staying one.
    let copied = |source| Initializing { source, since: 2 };
    assert_eq!(next_of("[0]", &["a", "c"], &[]), [is("a", Available), is("c", copied(0))]);
    // The source is gone: another becomes the source.
    let on_a = Initializing { source: 0, since: 1 };
    assert_eq!(next_of(MOVING, &["a", "c"], &[]), [is("a", Available), is("c", on_a)]);
    // No replica has the data any more.
    assert_eq!(next_of(MOVING, &["c"], &[]), [is("c", Available)]);
    // A leaving replica is to stay.
    assert_eq!(
        next_of(r#"[0,{"node":1,"leaving":true}]"#, &["a", "b"], &[]),
        [is("a", Available), is("b", Available)]
    );
    // Without `ready` a node has the shard at once, and the previous holder is dropped.
    assert_eq!(next_of("[2]", &["a", "b"], &[]), [is("a", Available), is("b", Available)]);
}

#[test]
fn a_draining_node_keeps_its_shards_until_others_have_the_data() {
    use ReplicaState::{Available, Initializing, Leaving};
    let map = map_of("[0,1]");
    let member = |id: &str, weight, ready: &[(usize, u64)]| Member {
        id: id.to_owned(),
        zone: String::new(),
        weight,
        ready: Some(ready.to_vec()),
        is_down: false,
    };
    let members = |ready: &[(usize, u64)]| {
        [member("a", 1.0, &[]), member("b", 0.0, &[]), member("c", 1.0, ready)]
    };
    let (next, moves) = map.rebalanced(&members(&[]), 1).unwrap();
    let nodes: Vec<_> = next.nodes_of(0).collect();
    // It copies from the replica that it replaces.
    let copied = Initializing { source: 1, since: 2 };
    assert_eq!((nodes, moves), (vec![("a", Available), ("c", copied), ("b", Leaving)], 1));
    assert_eq!(next.initializing("c"), [(0, 2)]);
    let (last, moves) = next.rebalanced(&members(&[(0, 2)]), 1).unwrap();
    let nodes: Vec<_> = last.nodes_of(0).collect();
    assert_eq!((nodes, moves), (vec![("a", Available), ("c", Available)], 0));
    assert_eq!(last.initializing("c"), []);
}

/// The nodes that certainly have a shard's data: available in the map, or in `before` and leaving.
fn with_data(map: &ShardMap, shard: usize, before: &BTreeSet<String>) -> BTreeSet<String> {
    let is_with_data = |(id, state): &(&str, ReplicaState)| match state {
        ReplicaState::Initializing { .. } => false,
        ReplicaState::Leaving => before.contains(*id),
        ReplicaState::Available => true,
    };
    map.nodes_of(shard).filter(is_with_data).map(|(id, _)| id.to_owned()).collect()
}

proptest! {
    /// Nodes join, leave, drain and copy data in any order. Each step has for each node: whether it is
    /// a member, whether it drains, whether it has the data of its initializing shards.
    #[test]
    fn a_replica_with_the_data_is_kept_as_long_as_its_node_is_a_member(
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
                    is_down: false,
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
                    prop_assert!(!has.is_empty(), "no node has the data of shard {}", shard);
                    prop_assert!(has.is_subset(&there), "{:?} of {:?} have shard {}", has, there, shard);
                }
                *data = has;
            }
            map = next;
        }
    }
}
