//! The election of a leader, on the simulated agent and a clock that the test moves.

use crate::support::world::World;
use consul_api::api::session;
use consul_api::request::Args;
use consul_client::coordination::lock::LOCK_FLAGS;
use consul_cluster::{Cluster, Options};
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
