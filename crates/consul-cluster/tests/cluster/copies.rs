//! Keys of a cluster that an operator copies to another cluster's names, as `consul kv import` with another prefix does: that
//! cluster stays what it is, and so does the copied one.

use crate::nodes::{Process, leaders, node, owners};
use crate::support::world::World;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use consul_cluster::{Mode, Options};
use std::collections::BTreeSet;
use std::time::Duration;

const FROM: &str = "tsdb/cluster/";
const TO: &str = "other/cluster/";

/// The other cluster.
#[derive(Clone, Copy, Debug)]
struct Other {
    /// How its nodes are named: as in the copied one, or not.
    names: [&'static str; 3],
    shards: usize,
}

impl Other {
    fn options(self, place: usize) -> Options {
        let under = |name: &str| format!("{TO}{name}");
        Options {
            leader_key: under("leader"),
            nodes_prefix: under("nodes/"),
            shards_prefix: under("shards/"),
            config_key: under("config"),
            shards: self.shards,
            ..node(self.names[place])
        }
    }

    fn start(self, world: &World) -> Vec<Process> {
        (0..3).map(|place| world.start(self.options(place))).collect()
    }
}

const OTHERS: [Other; 3] = [
    Other { names: ["n1", "n2", "n3"], shards: 1024 },
    Other { names: ["m1", "m2", "m3"], shards: 1024 },
    Other { names: ["m1", "m2", "n3"], shards: 64 },
];

/// Each key below the prefix: its name there, value and flags.
fn keys(world: &World) -> Vec<(String, String, u64)> {
    let all = world.get(&format!("/v1/kv/{FROM}?recurse")).expect("keys");
    let all: Vec<serde_json::Value> = serde_json::from_str(&all).expect("a list");
    let entry = |it: &serde_json::Value| {
        let name = it["Key"].as_str()?.strip_prefix(FROM)?.to_owned();
        let value = STANDARD.decode(it["Value"].as_str().unwrap_or_default()).ok()?;
        Some((name, String::from_utf8(value).ok()?, it["Flags"].as_u64()?))
    };
    all.iter().map(|it| entry(it).expect("an entry")).collect()
}

fn copy(world: &World, keys: &[(String, String, u64)]) {
    for (name, value, flags) in keys {
        world.send("PUT", &format!("/v1/kv/{TO}{name}?flags={flags}"), value);
    }
}

fn check(nodes: &[Process], names: &[&str], shards: usize, what: &str) {
    for node in nodes {
        let id = &node.cluster.options().node_id;
        assert_eq!(node.why().map(|why| why.to_string()), None, "{what}: {id}");
        let snapshot = node.cluster.snapshot();
        let live: Vec<_> = snapshot.live().map(|node| node.record.id.as_str()).collect();
        assert_eq!(live, names, "{what}: {id}");
        let map = snapshot.map.as_ref().expect("a map");
        assert_eq!((map.shard_count(), map.replicas()), (shards, 2), "{what}: {id}");
        let names: BTreeSet<String> = names.iter().map(|id| (*id).to_owned()).collect();
        assert_eq!(owners(node), names, "{what}: {id}");
        let leader = snapshot.leader.as_ref().map(|leader| leader.node_id.as_str());
        let leads = leaders(nodes).first().map(|it| it.cluster.options().node_id.as_str());
        assert!(leader.is_some() && leader == leads, "{what}: {id}: {leader:?} and {leads:?}");
    }
    assert_eq!(leaders(nodes).len(), 1, "{what}");
}

/// A cluster in which one node drains and another was stopped in maintenance, so that each kind of key is there.
fn first(world: &World) -> Vec<Process> {
    let mut nodes = world.nodes(4);
    world.wait(Duration::from_secs(5));
    let set_mode = |id: &str, mode| world.run(nodes[0].cluster.set_mode(id, mode));
    set_mode("n4", Mode::Maintenance).expect("the right to do so");
    world.wait(Duration::from_secs(8));
    let stopped = nodes.pop().expect("a node");
    world.stop(&stopped);
    world.wait(Duration::from_secs(8));
    nodes
}

/// The records of other starts of the nodes, as of a cluster with the same names in another Consul: older and newer ones, of
/// one node and of all.
#[test]
#[ignore = "computes long: make test-all"]
fn records_of_other_starts_end_no_node_that_lives() {
    for is_newer in [false, true] {
        for ids in [&["n1"][..], &["n2"], &["n1", "n2", "n3"]] {
            for times in [1, 3] {
                let what = format!("newer: {is_newer}, {ids:?}, {times} times");
                let world = World::new();
                world.wait(Duration::from_secs(1));
                let nodes = world.nodes(3);
                world.wait(Duration::from_secs(8));
                for time in 0..times {
                    for id in ids {
                        let key = format!("tsdb/cluster/nodes/{id}");
                        let record = world.read(&key).expect("a record");
                        let mut record: serde_json::Value =
                            serde_json::from_str(&record).expect("JSON");
                        record["incarnation"] = format!("of another cluster {time}").into();
                        let started = record["started_ms"].as_u64().expect("a time");
                        let other = if is_newer { started + 9000 } else { started - 1 };
                        record["started_ms"] = other.into();
                        world.write(&key, &record.to_string());
                    }
                    world.wait(Duration::from_secs(20));
                }
                check(&nodes, &["n1", "n2", "n3"], 1024, &what);
                let restarted = world.read("tsdb/cluster/nodes/n1").expect("a record");
                assert!(!restarted.contains("of another cluster"), "{what}");
            }
        }
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_key_that_is_copied_to_another_cluster_changes_neither() {
    const NAMES: [&str; 3] = ["n1", "n2", "n3"];
    for other in OTHERS {
        let world = World::new();
        let nodes = first(&world);
        let others = other.start(&world);
        world.wait(Duration::from_secs(8));
        check(&others, &other.names, other.shards, "at first");
        let keys = keys(&world);
        let epochs = || nodes.iter().map(Process::epoch).collect::<Vec<_>>();
        let before = epochs();
        let each = keys.chunks(1).chain([&keys[..]]);
        for copied in each {
            let names: Vec<_> = copied.iter().map(|(name, ..)| name.as_str()).collect();
            let what = format!("{other:?}: {names:?}");
            copy(&world, copied);
            world.wait(Duration::from_secs(40));
            check(&others, &other.names, other.shards, &what);
            check(&nodes, &NAMES, 1024, &what);
            assert_eq!(epochs(), before, "{what}");
        }
    }
}
