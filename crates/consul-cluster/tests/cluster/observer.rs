//! An observer, which routes and calls and is not a member, on a clock that the test moves. Its permissions
//! and traces in Consul are in crates/consul-sim/tests/contract.

use crate::nodes::node;
use crate::support::world::World;
use consul_api::api::kv;
use consul_api::request::Args;
use consul_cluster::nodes::start;
use consul_cluster::{Cluster, Options};
use consul_sim::{Fault, Retained};
use std::sync::Arc;
use std::time::Duration;

/// A node or an observer that runs.
fn started(world: &World, options: Options) -> Arc<Cluster> {
    let client = world.client();
    let cluster = Cluster::new(Arc::clone(&client), client, options).expect("valid options");
    let running = Arc::clone(&cluster);
    world.clock.spawn(async move { drop(running.run().await) });
    world.wait(Duration::from_secs(5));
    cluster
}

#[test]
fn an_observer_without_a_cluster_says_what_is_missing() {
    let world = World::new();
    let observer = started(&world, Options::observer("gateway"));
    assert_eq!(world.run(start::missing(&observer)), "the cluster has no nodes");
    assert!(observer.snapshot().node_for(b"key").is_none());
    started(&world, Options::new("n1", "127.0.0.1:9000"));
    world.run(observer.started()).expect("nothing is refused");
    assert_eq!(observer.snapshot().node_for(b"key").expect("a node").record.id, "n1");
}

#[test]
fn an_observer_leaves_it_to_the_nodes_to_put_a_lost_map_back() {
    let world = World::new();
    let node = started(&world, Options::new("n1", "127.0.0.1:9000"));
    let observer = started(&world, Options::observer("gateway"));
    let epoch = || observer.snapshot().map.as_ref().expect("a map").epoch();
    let before = epoch();
    let keys = |client| world.run(async { kv_keys(client).await });
    let reader = world.client();
    // The node is cut off while Consul loses everything.
    let fault = Fault { clients: vec!["0".to_owned()], drop_before: 1.0, ..Fault::default() };
    world.agent.add_fault(fault);
    world.agent.restart(Retained::Nothing);
    world.wait(Duration::from_secs(60));
    assert_eq!(keys(&reader), 0);
    assert_eq!(epoch(), before, "it routes on by what it knows");
    world.agent.clear_faults();
    world.wait(Duration::from_secs(60));
    assert!(keys(&reader) > 0);
    assert_eq!(epoch(), node.snapshot().map.as_ref().expect("a map").epoch());
    assert!(epoch() > before);
}

/// As docs/cluster.md tells an operator who changes the number of shards.
#[test]
fn an_observer_follows_a_cluster_that_has_begun_again() {
    for is_wiped in [false, true] {
        let world = World::new();
        let nodes = world.nodes(3);
        let observer = started(&world, Options::observer("gateway"));
        nodes.iter().for_each(|node| world.stop(node));
        world.wait(Duration::from_secs(30));
        let epoch = observer.snapshot().map.as_ref().expect("a map").epoch();
        match is_wiped {
            true => world.agent.restart(Retained::Nothing),
            false => ["config", "shards/map", "shards/epoch"]
                .iter()
                .for_each(|key| world.send("DELETE", &format!("/v1/kv/tsdb/cluster/{key}"), "")),
        }
        world.wait(Duration::from_secs(10));
        let again = ["n1", "n2", "n3"].map(|id| world.start(Options { shards: 64, ..node(id) }));
        world.wait(Duration::from_secs(60));
        let map = |cluster: &Cluster| cluster.snapshot().map.clone().expect("a map");
        assert!(map(&again[0].cluster).epoch() < epoch, "wiped: {is_wiped}");
        assert_eq!(map(&observer), map(&again[0].cluster), "wiped: {is_wiped}");
    }
}

/// The number of keys in Consul.
async fn kv_keys(client: &consul_client::Client) -> usize {
    match client.call(&kv::KEYS, &Args::new().arg("")).await {
        Ok(keys) => keys.value.items().len(),
        Err(error) => panic!("{error}"),
    }
}
