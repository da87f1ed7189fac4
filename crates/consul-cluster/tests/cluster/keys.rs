//! Older documents in the keys of a cluster.

use crate::nodes::{Process, owners};
use crate::support::lines::logged;
use crate::support::world::World;
use consul_cluster::{Event, Mode};
use std::sync::Arc;
use std::time::Duration;
use tracing::Level;

#[test]
fn a_map_one_epoch_older_is_never_taken() {
    let world = World::new();
    let nodes = world.nodes(3);
    world.wait(Duration::from_secs(5));
    let keys = ["tsdb/cluster/shards/map", "tsdb/cluster/shards/epoch"];
    let change = |mode| {
        let other = nodes.iter().find(|node| !node.cluster.is_leader()).expect("a follower");
        let id = other.cluster.options().node_id.clone();
        world.run(other.cluster.set_mode(&id, mode)).expect("an order");
        world.wait(Duration::from_secs(5));
    };
    change(Mode::Draining);
    let (epoch, old) = (nodes[0].epoch(), keys.map(|key| world.read(key).expect("a document")));
    change(Mode::Active);
    assert_eq!(nodes[0].epoch(), epoch + 1);
    nodes.iter().for_each(|node| drop(node.events()));
    for (key, document) in keys.iter().zip(&old) {
        world.write(key, document);
    }
    for _ in 0..200 {
        world.wait(Duration::from_millis(50));
        assert!(nodes.iter().all(|node| node.epoch() > epoch && owners(node).len() == 3));
    }
    assert!(!nodes.iter().flat_map(Process::events).any(|it| it == Event::ShardsChanged(epoch)));
}

/// As an operator writes it: another mode, no mode of ours, in the node's key.
#[test]
fn an_unknown_mode_is_read_as_active_and_named_in_the_log() {
    let world = World::new();
    let nodes = world.nodes(3);
    world.wait(Duration::from_secs(5));
    let mut text = String::new();
    logged(Level::WARN, Arc::new(world.clock.clone()), |lines| {
        for mode in [r#""drain""#, "7", "null"] {
            for node in &nodes {
                let key = format!("tsdb/cluster/nodes/{}", node.cluster.options().node_id);
                let document = world.read(&key).expect("a document");
                let mistyped = document.replace(r#""mode":"active""#, &format!(r#""mode":{mode}"#));
                assert_ne!(mistyped, document);
                world.write(&key, &mistyped);
            }
            world.wait(Duration::from_secs(30));
            for node in &nodes {
                let snapshot = node.cluster.snapshot();
                assert_eq!(snapshot.live().filter(|it| it.status() == "up").count(), 3, "{mode}");
                assert_eq!(owners(node).len(), 3);
            }
        }
        text = lines.text();
    });
    let line = text.lines().find(|line| line.contains("unknown")).expect("a line");
    assert!(line.contains("active, draining, maintenance") && line.contains("drain"), "{line}");
    // The node writes its own key again, so that it shows what is in force.
    let written = world.read("tsdb/cluster/nodes/n1").expect("a document");
    assert!(written.contains(r#""mode":"active""#));
}
