//! The shard of a key, and the JSON document of a map.

use super::*;
use proptest::prelude::*;

/// A change of one of these makes nodes of different releases route differently.
#[test]
fn the_shard_of_a_key_is_the_same_in_every_release() {
    let shards = |count| {
        let map = ShardMap::first(count, 1, &members(1), 1);
        ["", "a", "abc", "stocks/AAPL/20241012", "\u{e4}"].map(|key| map.shard_of(key.as_bytes()))
    };
    assert_eq!(shards(1), [0; 5]);
    assert_eq!(shards(1024), [180, 923, 482, 673, 336]);
    assert_eq!(shards(65_536), [11526, 59078, 30895, 43094, 21552]);
}

#[test]
fn the_document_is_json_in_this_form() {
    let map = ShardMap::first(4, 2, &members(3), 17);
    let text = r#"{"format":1,"epoch":1,"token":17,"replicas":2,"nodes":["node-1","node-2","node-3"],"shards":[[2,1],[0,2],[1,0],[0,2]]}"#;
    assert_eq!(String::from_utf8(map.encode()).unwrap(), text);
    assert_eq!(decoded(text), Ok(map));
}

#[test]
fn the_document_shows_replicas_that_move() {
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
    let map = ShardMap::first(16_384, 3, &members(1000), u64::MAX).with_epoch(MAX_EPOCH);
    let bytes = map.encode();
    assert!(bytes.len() < 380_000, "{} bytes", bytes.len());
    assert_eq!(ShardMap::decode(&bytes).unwrap(), map);
}

#[test]
fn fields_of_a_later_release_are_ignored() {
    let text = r#"{"format":1,"epoch":2,"token":3,"replicas":1,"nodes":["a"],"shards":[[{"node":0,"heat":7}]],"by":{"id":"a"}}"#;
    assert_eq!(decoded(text).unwrap().nodes_of(0).next(), Some(("a", ReplicaState::Available)));
}

#[test]
fn a_document_that_is_not_a_map_is_refused_with_the_reason() {
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
        (with("format", "2"), "format is 2, this release supports 1"),
        (r#"{"format":3,"layout":[]}"#.to_owned(), "format is 3"),
        (with("epoch", ""), "missing field `epoch`"),
        (with("epoch", "0"), "epoch is 0: it must be from 1 to 9007199254740991"),
        (with("epoch", "9007199254740992"), "epoch is 9007199254740992"),
        (with("epoch", "-1"), "invalid value: integer `-1`"),
        (with("token", "1.5"), "invalid type: floating point `1.5`"),
        (with("replicas", "0"), "replicas is 0: it must be 1 or more"),
        (with("nodes", r#"["","b","c"]"#), "a node has an empty id"),
        (with("nodes", r#"["a","b","b"]"#), "nodes are not sorted: `b` before `b`"),
        (with("nodes", r#"["a","c","b"]"#), "nodes are not sorted: `c` before `b`"),
        (with("shards", "[]"), "it has 0 shards: it must have 1 to 65536"),
        (with("shards", "[[0],[3]]"), "shard 1 is on node 3, but there are only 3 (from 0)"),
        (with("shards", "[[0,1,0]]"), "shard 0 is twice on node 0"),
        (with("shards", "[[-1]]"), "a replica is neither a node's index nor an object"),
        (with("shards", r#"[["a"]]"#), "a replica is neither a node's index nor an object"),
        (
            with("shards", r#"[[{"node":0,"source":1,"leaving":true},1]]"#),
            "a replica is both leaving and initializing (it has a source)",
        ),
        (
            with("shards", r#"[[0,{"node":1,"source":2}]]"#),
            "shard 0 is copied to node 1 from node 2, which does not have the data",
        ),
        (
            with("shards", r#"[[{"node":1,"source":1}]]"#),
            "shard 0 is copied to node 1 from node 1, which does not have the data",
        ),
    ] {
        let message = decoded(&text).unwrap_err();
        assert!(message.starts_with("invalid shard map: "), "{message}");
        assert!(message.contains(why), "{text}: {message}");
    }
    let many = format!("[[0]{}]", ",[0]".repeat(MAX_SHARDS));
    let message = decoded(&with("shards", &many)).unwrap_err();
    assert!(message.contains("it has 65537 shards"), "{message}");
}

fn any_map() -> impl Strategy<Value = ShardMap> {
    let ids = prop::collection::btree_set("[a-zäöü\"\\\\\u{1}]{1,8}", 1..6);
    let shard = prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8), 0..5);
    let shards = prop::collection::vec(shard, 1..20);
    (1..=MAX_EPOCH, any::<u64>(), 1_usize..4, ids, shards).prop_map(
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
            Err(error) => prop_assert!(error.message().len() > "invalid shard map: ".len()),
        }
    }

    #[test]
    fn the_beginning_of_a_document_is_refused(map in any_map(), end in any::<prop::sample::Index>()) {
        let bytes = map.encode();
        prop_assert!(ShardMap::decode(&bytes[..end.index(bytes.len())]).is_err());
    }
}
