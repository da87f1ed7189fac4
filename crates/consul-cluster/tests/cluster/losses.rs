//! Consul forgets: it is wiped, or restored from a snapshot, while nodes run.

use crate::nodes::{Process, leaders, node, owners};
use crate::support::world::World;
use consul_api::api::health;
use consul_api::request::Args;
use consul_cluster::{Event, Options};
use consul_sim::Retained;
use std::collections::BTreeSet;
use std::time::Duration;

/// The pause between two looks at all nodes.
const STEP: Duration = Duration::from_millis(50);

/// Lets this time pass; meanwhile each node sees these and no others as live, and routes keys to them.
fn all_see(world: &World, nodes: &[Process], ids: &[&str], time: Duration) {
    for _ in 0..time.as_millis() / STEP.as_millis() {
        world.wait(STEP);
        for process in nodes {
            let snapshot = process.cluster.snapshot();
            let live: Vec<_> = snapshot.live().map(|node| node.record.id.as_str()).collect();
            let id = &process.cluster.options().node_id;
            assert_eq!(live, ids, "{id} at {:?}", world.clock);
            assert!(snapshot.node_for(b"any").is_some());
        }
    }
}

/// The instances that Consul lists as passing.
fn registered(world: &World) -> usize {
    let client = world.client();
    let args = Args::new().arg("tsdb-cluster-nodes").opt("passing", true);
    world.run(client.call(&health::SERVICE, &args)).expect("an answer").value.items().len()
}

fn started(world: &World, count: usize) -> Vec<Process> {
    let nodes = world.nodes(count);
    world.wait(Duration::from_secs(5));
    nodes
}

#[test]
fn a_node_that_joined_after_the_snapshot_is_registered_again_at_once() {
    let world = World::new();
    let mut nodes = started(&world, 3);
    let snapshot = world.agent.back_up();
    nodes.push(world.node("n4"));
    world.wait(Duration::from_secs(10));
    world.agent.restore_snapshot(&snapshot);
    all_see(&world, &nodes, &["n1", "n2", "n3", "n4"], Duration::from_secs(2));
    assert_eq!(registered(&world), 4);
    all_see(&world, &nodes, &["n1", "n2", "n3", "n4"], Duration::from_secs(30));
    let left = |event: &Event| matches!(event, Event::NodeLeft(_) | Event::Stopped(_));
    assert!(!nodes.iter().flat_map(Process::events).any(|event| left(&event)));
    assert!(leaders(&nodes).len() == 1 && owners(&nodes[0]).contains("n4"));
}

#[test]
fn a_node_that_has_restarted_since_the_snapshot_goes_on() {
    let world = World::new();
    let mut nodes = started(&world, 3);
    let snapshot = world.agent.back_up();
    world.kill(&nodes[2]);
    world.wait(Duration::from_secs(1));
    nodes[2] = world.node("n3");
    world.run(nodes[2].cluster.started()).expect("a start");
    world.wait(Duration::from_secs(5));
    world.agent.restore_snapshot(&snapshot);
    all_see(&world, &nodes, &["n1", "n2", "n3"], Duration::from_secs(30));
    assert!(nodes.iter().all(|node| node.why().is_none()));
    let key = &nodes[0].cluster.snapshot().nodes["n3"].record.incarnation;
    assert_eq!(*key, nodes[2].cluster.snapshot().nodes["n3"].record.incarnation);
    assert_eq!(registered(&world), 3);
}

#[test]
fn a_wipe_takes_no_node_away_and_raises_the_epoch() {
    let world = World::new();
    let nodes = started(&world, 3);
    let epochs = || nodes.iter().map(Process::epoch).collect::<BTreeSet<_>>();
    let before = epochs();
    // A leader that has not changed the map, with a higher token than one on fresh servers.
    (0..100).for_each(|_| world.send("PUT", "/v1/kv/other", "value"));
    leaders(&nodes)[0].cluster.hand_over();
    world.wait(Duration::from_secs(5));
    assert_eq!(epochs(), before);
    world.agent.restart(Retained::Nothing);
    all_see(&world, &nodes, &["n1", "n2", "n3"], Duration::from_secs(30));
    assert_eq!(registered(&world), 3);
    let after = epochs();
    assert_eq!(after.len(), 1);
    assert!(after.first() > before.last(), "{after:?} after {before:?}");
    let leader = leaders(&nodes)[0];
    assert_eq!(owners(leader).len(), 3);
    // Once, and not again by the next leader.
    leader.cluster.hand_over();
    world.wait(Duration::from_secs(70));
    assert_eq!(epochs(), after);
}

#[test]
fn a_node_that_died_with_consuls_data_is_dropped_after_a_while() {
    let world = World::new();
    let mut nodes = started(&world, 3);
    world.agent.restart(Retained::Nothing);
    let dead = nodes.pop().expect("a node");
    world.kill(&dead);
    world.wait(Duration::from_secs(1));
    assert!(nodes[0].cluster.snapshot().nodes.contains_key("n3"));
    world.wait(Duration::from_secs(14));
    assert!(!nodes[0].cluster.snapshot().nodes.contains_key("n3"));
    assert!(nodes[0].events().contains(&Event::NodeLeft("n3".to_owned())));
    world.wait(Duration::from_secs(15));
    assert_eq!(owners(&nodes[0]), BTreeSet::from(["n1".to_owned(), "n2".to_owned()]));
}

#[test]
fn a_node_alone_routes_to_itself_throughout_a_wipe() {
    let world = World::new();
    let nodes = [world.start(Options { weight: 2.0, ..node("n1") })];
    world.run(nodes[0].cluster.started()).expect("a start");
    world.wait(Duration::from_secs(5));
    world.agent.restart(Retained::Nothing);
    all_see(&world, &nodes, &["n1"], Duration::from_secs(30));
}

/// An operator deregisters nodes from the catalog, or the agent's node, and the agent still has them.
#[test]
fn nodes_that_were_deregistered_from_the_catalog_are_back_at_once() {
    for what in ["node", "service", "check"] {
        let world = World::new();
        let nodes = started(&world, 3);
        let instances = world.get("/v1/health/service/tsdb-cluster-nodes").expect("instances");
        let name = instances.split("\"Node\":\"").nth(1).and_then(|it| it.split('"').next());
        let name = name.expect("the agent's node");
        let rest = match what {
            "service" => r#","ServiceID":"tsdb-cluster-nodes-n1""#,
            "check" => r#","CheckID":"service:tsdb-cluster-nodes-n1""#,
            _ => "",
        };
        let gone = format!("{{\"Node\":\"{name}\"{rest}}}");
        world.send("PUT", "/v1/catalog/deregister", &gone);
        world.wait(Duration::from_secs(8));
        assert_eq!(registered(&world), 3, "{what}");
        assert_eq!(leaders(&nodes).len(), 1, "{what}");
        assert!(nodes.iter().all(|node| owners(node).len() == 3), "{what}");
    }
}
