//! The election of a leader, on the simulated agent and a clock that the test moves.

use crate::support::world::World;
use consul_api::api::session;
use consul_api::request::Args;
use consul_client::coordination::lock::LOCK_FLAGS;
use consul_cluster::{Cluster, Options};
use consul_process::clock::Clock;
use consul_sim::Fault;
use std::sync::Arc;
use std::time::Duration;

/// A leader's key that a session holds, with these flags; and a node that starts then.
fn node_beside(world: &World, flags: u64) -> Arc<Cluster> {
    let options = Options::new("n1", "127.0.0.1:1");
    let client = world.client();
    let id = world.run(client.call(&session::CREATE, &Args::new())).expect("an answer").value;
    let id = id.as_str().expect("an id");
    let path = format!("/v1/kv/{}?acquire={id}&flags={flags}", options.leader_key);
    world.send("PUT", &path, r#"{"node_id":"x","address":"127.0.0.1:2"}"#);
    let node = Cluster::new(Arc::clone(&client), client, options).expect("good options");
    let running = Arc::clone(&node);
    world.clock.spawn(async move { drop(running.run().await) });
    node
}

#[test]
fn a_key_without_the_flags_of_a_lock_names_no_leader() {
    let world = World::new();
    let node = node_beside(&world, LOCK_FLAGS);
    world.run(node.started()).expect("there is a leader");
    let leader = node.snapshot().leader.clone().expect("the holder of the lock");
    assert_eq!(leader.node_id, "x");

    let world = World::new();
    let node = node_beside(&world, 0);
    world.wait(Duration::from_secs(10));
    assert_eq!((node.state(), node.snapshot().leader.clone()), ("candidate", None));
}

/// The others wait no longer than after the leader's death, counted from the end of the outage.
#[test]
fn a_leader_that_steps_down_behind_a_broken_connection_is_replaced_in_time() {
    for fault in [
        Fault { drop_before: 1.0, ..Fault::default() },
        Fault { drop_after: 1.0, ..Fault::default() },
        Fault { partition: true, ..Fault::default() },
    ] {
        for is_stop in [false, true] {
            let world = World::new();
            let nodes = world.nodes(2);
            world.wait(Duration::from_secs(5));
            // The first node has the first client of this world.
            let place = nodes.iter().position(|node| node.cluster.is_leader()).expect("a leader");
            let other = &nodes[1 - place].cluster;
            world.agent.add_fault(Fault { clients: vec![place.to_string()], ..fault.clone() });
            let cluster = Arc::clone(&nodes[place].cluster);
            if is_stop {
                world.kill(&nodes[place]);
                world.clock.spawn(async move { drop(cluster.leave().await) });
            } else {
                cluster.hand_over();
            }
            world.wait(Duration::from_millis(500));
            world.agent.clear_faults();
            let healed = world.clock.now();
            while !other.is_leader() {
                world.wait(Duration::from_millis(10));
                let took = world.clock.now() - healed;
                let takeover = other.options().profile.takeover();
                assert!(took <= takeover, "{fault:?}, stop: {is_stop}: {took:?}");
            }
        }
    }
}
