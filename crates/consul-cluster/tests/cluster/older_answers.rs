//! One answer of Consul that is older than those before it, or lacks a part of a list, as behind a cache or a
//! load balancer: nobody leaves, no shard moves, and no node takes the name of another.

use crate::nodes::{Process, node};
use crate::support::world::World;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::Defaults;
use consul_client::transport::Transport;
use consul_client::{Client, Settings};
use consul_cluster::Event;
use consul_process::clock::BoxFuture;
use consul_sim::SimTransport;
use http::{Request, Response};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The lists of all nodes: of their keys, and of their services.
const LISTS: [&str; 2] = ["/v1/kv/tsdb/cluster/nodes/", "/v1/health/service/tsdb-cluster"];

/// The lack of the next answer about a path: the items with this text, or all.
type Lacks = Arc<Mutex<Option<(&'static str, String)>>>;

#[derive(Debug)]
struct Older {
    consul: SimTransport,
    lacks: Lacks,
}

impl Transport for Older {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let path = request.uri().path().to_owned();
        Box::pin(async move {
            let response = self.consul.send(request).await?;
            let mut lacks = self.lacks.lock().expect("no panic");
            let items = serde_json::from_slice(response.body());
            let (true, Ok(Value::Array(mut items))) =
                (lacks.as_ref().is_some_and(|(of, _)| path.starts_with(of)), items)
            else {
                return Ok(response);
            };
            let (_, text) = lacks.take().expect("it is there");
            items.retain(|item| !item.to_string().contains(&text));
            Ok(response.map(|_| Bytes::from(Value::from(items).to_string())))
        })
    }

    fn endpoint(&self) -> &str {
        "older"
    }
}

fn start(world: &World, id: &str, seed: u64) -> (Process, Lacks) {
    let lacks = Lacks::default();
    let settings =
        Settings { timeout: Duration::from_secs(5), retry_count: 3, defaults: Defaults::default() };
    let consul = SimTransport::new(Arc::clone(&world.agent), "simulated");
    let transport = Arc::new(Older { consul, lacks: Arc::clone(&lacks) });
    let (clock, rng) = (Arc::new(world.clock.clone()), fastrand::Rng::with_seed(seed));
    let client = Client::new(vec![transport], settings, clock, rng);
    (world.start_with(Arc::new(client), node(id)), lacks)
}

#[test]
#[ignore = "computes long: make test-all"]
fn one_list_that_lacks_a_node_moves_no_shards() {
    for list in LISTS {
        for of in 0..3 {
            let world = World::new();
            let nodes = [("n1", 1), ("n2", 2), ("n3", 3)].map(|(id, seed)| start(&world, id, seed));
            world.wait(Duration::from_secs(10));
            let before: Vec<u64> = nodes.iter().map(|(node, _)| node.epoch()).collect();
            nodes.iter().for_each(|(node, _)| drop(node.events()));
            let other = format!("n{}", (of + 1) % 3 + 1);
            *nodes[of].1.lock().expect("no panic") = Some((list, format!("{other}\"")));
            // Both lists change, so that there are answers.
            world.write("tsdb/cluster/nodes/other", "x");
            let service = r#"{"Name": "tsdb-cluster-nodes", "ID": "other"}"#;
            world.send("PUT", "/v1/agent/service/register", service);
            world.wait(Duration::from_secs(30));
            assert!(nodes[of].1.lock().expect("no panic").is_none(), "{list}: no such answer");
            for ((node, _), before) in nodes.iter().zip(before) {
                let events = node.events();
                let has_left = events.iter().any(|event| matches!(event, Event::NodeLeft(_)));
                assert!(!has_left, "{list} of n{}: {events:?}", of + 1);
                assert_eq!(node.epoch(), before, "{list} of n{}: {events:?}", of + 1);
            }
        }
    }
}

#[test]
fn one_list_without_a_live_node_gives_its_name_to_nobody() {
    let world = World::new();
    let (first, _) = start(&world, "n1", 1);
    let (_second, _) = start(&world, "n2", 2);
    world.wait(Duration::from_secs(10));
    let (duplicate, lacks) = start(&world, "n1", 3);
    *lacks.lock().expect("no panic") = Some((LISTS[1], String::new()));
    world.wait(Duration::from_secs(30));
    assert!(lacks.lock().expect("no panic").is_none(), "no such answer");
    let why = duplicate.why().expect("it is refused");
    assert!(why.kind() == Kind::Conflict && why.message().contains("is taken"), "{why}");
    assert!(first.why().is_none(), "{:?}", first.why());
}
