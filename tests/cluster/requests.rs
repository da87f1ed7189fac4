//! What operators ask of nodes by their keys, on a clock that the test advances.

use crate::nodes::Process;
use crate::support::world::World;
use consul_ffi::cluster::{Cluster, Mode, Options};
use std::sync::Arc;
use std::time::Duration;

/// What an operator's program sees.
fn look(world: &World) -> Arc<Cluster> {
    let client = world.client();
    let observer = Cluster::new(Arc::clone(&client), client, Options::observer("operator"));
    let observer = observer.expect("good options");
    world.run(observer.look()).expect("an answer");
    observer
}

fn leader(world: &World) -> String {
    look(world).snapshot().leader.as_ref().expect("a leader").node_id.clone()
}

/// Changes a node's key as text.
fn edit(world: &World, id: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let key = format!("tsdb/cluster/nodes/{id}");
    let mut record = serde_json::from_str(&world.read(&key).expect("a key")).expect("JSON");
    change(&mut record);
    world.write(&key, &record.to_string());
}

fn request(world: &World, id: &str) -> serde_json::Value {
    let record = world.read(&format!("tsdb/cluster/nodes/{id}")).expect("a key");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    record["request"].clone()
}

#[test]
fn the_named_node_leads_after_a_hand_over() {
    let world = World::new();
    let _nodes = world.nodes(5);
    for to in ["n4", "n2", "n5"] {
        let before = leader(&world);
        if before == to {
            continue;
        }
        world.run(look(&world).ask_hand_over(None, Some(to))).expect("a leader");
        world.wait(Duration::from_secs(10));
        assert_eq!(leader(&world), to);
        assert!(request(&world, &before).is_null(), "it is taken out of the key");
    }
}

#[test]
fn a_successor_that_cannot_lead_only_delays_the_election() {
    let world = World::new();
    let nodes = world.nodes(3);
    let before = leader(&world);
    let to = if before == "n1" { "n2" } else { "n1" };
    let successor = nodes.iter().find(|node| node.cluster.options().node_id == to);
    world.kill(successor.expect("a node"));
    world.run(look(&world).ask_hand_over(None, Some(to))).expect("a leader");
    world.wait(Duration::from_secs(20));
    let after = leader(&world);
    assert!(after != before && after != to, "{before} hands over to {to}: {after}");
}

#[test]
fn a_request_about_another_leadership_or_another_start_has_no_effect() {
    let world = World::new();
    let nodes = world.nodes(2);
    let before = leader(&world);
    edit(&world, &before, |record| {
        record["request"] = serde_json::json!({ "hand_over": { "token": 1 } })
    });
    world.wait(Duration::from_secs(10));
    assert_eq!(leader(&world), before);
    assert!(request(&world, &before).is_null());
    edit(&world, "n1", |record| {
        record["request"] = serde_json::json!({ "leave": { "incarnation": "0" } });
    });
    world.wait(Duration::from_secs(30));
    assert!(nodes.iter().all(|node| node.why().is_none() && node.cluster.mode() == Mode::Active));
    assert!(request(&world, "n1").is_null());
}

#[test]
fn a_request_that_cannot_be_read_leaves_the_node_a_member() {
    let world = World::new();
    let _nodes = world.nodes(2);
    let unknown = serde_json::json!({ "dance": true });
    for request in [serde_json::json!("leave"), serde_json::json!(7), unknown] {
        edit(&world, "n2", |record| record["request"] = request.clone());
        world.wait(Duration::from_secs(10));
        let snapshot = look(&world).snapshot();
        assert!(snapshot.nodes["n2"].is_live, "{request}");
    }
}

fn ended(node: &Process) -> String {
    node.why().expect("it has ended").message().to_owned()
}

#[test]
fn a_node_that_is_asked_to_leave_stops_without_shards() {
    let world = World::new();
    let nodes = world.nodes(3);
    world.wait(Duration::from_secs(5));
    world.run(look(&world).ask_leave(None, "n3")).expect("a node");
    world.wait(Duration::from_secs(20));
    assert_eq!(ended(&nodes[2]), "an operator asked it to leave");
    let snapshot = look(&world).snapshot();
    assert!(!snapshot.nodes.contains_key("n3"));
    assert!(!snapshot.map.as_ref().expect("a map").has("n3"));
    assert!(snapshot.frozen.is_empty());
    assert!(nodes[..2].iter().all(|node| node.why().is_none()));
}

#[test]
fn a_leave_ends_when_the_node_is_made_active() {
    let world = World::new();
    let nodes = world.nodes(1);
    // Alone it keeps its shards, so it cannot leave.
    world.run(look(&world).ask_leave(None, "n1")).expect("a node");
    world.wait(Duration::from_secs(20));
    assert!(nodes[0].why().is_none());
    assert_eq!(nodes[0].cluster.mode(), Mode::Draining);
    world.run(look(&world).set_mode("n1", Mode::Active)).expect("a node");
    world.wait(Duration::from_secs(20));
    world.node("n2");
    world.wait(Duration::from_secs(20));
    assert!(nodes[0].why().is_none());
    assert_eq!(nodes[0].cluster.mode(), Mode::Active);
}
