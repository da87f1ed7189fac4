//! Older documents in the keys of a cluster.

use crate::nodes::{Process, node, owners};
use crate::support::lines::logged;
use crate::support::world::World;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_client::transport::Transport;
use consul_cluster::{Event, Mode};
use consul_process::clock::BoxFuture;
use consul_sim::SimTransport;
use http::{Method, Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// The way to an agent on which a change of a node's key is lost, and another program writes the key in its place.
#[derive(Debug)]
struct Overtaken {
    consul: SimTransport,
    is_due: AtomicBool,
}

const OF_N2: &str = "/v1/kv/tsdb/cluster/nodes/n2";

impl Transport for Overtaken {
    fn endpoint(&self) -> &str {
        "overtaken"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let is_change = request.method() == Method::PUT && request.uri().path() == OF_N2;
        if !is_change || !self.is_due.swap(false, Ordering::Relaxed) {
            return self.consul.send(request);
        }
        let request = |method, target: String, body| {
            let request = Request::builder().method(method).uri(target).body(body);
            self.consul.send(request.expect("a request"))
        };
        Box::pin(async move {
            let stored = request(Method::GET, format!("{OF_N2}?raw"), Bytes::new()).await?;
            request(Method::PUT, format!("{OF_N2}?flags=7"), stored.into_body()).await?;
            Err(Error::new(Kind::Connect, "the connection was cut").retryable())
        })
    }
}

#[test]
fn a_change_that_was_lost_while_another_wrote_the_key_is_made_again() {
    let world = World::new();
    let consul = SimTransport::new(Arc::clone(&world.agent), "simulated");
    let transport = Arc::new(Overtaken { consul, is_due: AtomicBool::new(false) });
    let first = world.start_with(world.client_over(transport.clone(), 3), node("n1"));
    let _second = world.node("n2");
    world.wait(Duration::from_secs(5));
    transport.is_due.store(true, Ordering::Relaxed);
    world.run(first.cluster.set_mode("n2", Mode::Draining)).expect("an order");
    assert!(!transport.is_due.load(Ordering::Relaxed), "it was lost");
    let written = world.read("tsdb/cluster/nodes/n2").expect("a document");
    assert!(written.contains(r#""mode":"draining""#), "{written}");
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

/// An operator copies a node's key to another name, as it is or with that name in the record too: that is not a node.
#[test]
#[ignore = "computes long: make test-all"]
fn a_copy_of_a_nodes_key_is_not_a_live_node() {
    for of in ["leader", "follower", "dead"] {
        for is_renamed in [false, true] {
            for flags in ["", "?flags=3304740253564472344"] {
                let what = format!("{of}, renamed: {is_renamed}, flags: {flags:?}");
                let world = World::new();
                let nodes = world.nodes(3);
                world.wait(Duration::from_secs(5));
                let is_wanted = |node: &&Process| node.cluster.is_leader() == (of == "leader");
                let copied = nodes.iter().find(is_wanted).expect("a node");
                let id = copied.cluster.options().node_id.clone();
                if of == "dead" {
                    world.kill(copied);
                    world.wait(Duration::from_secs(10));
                }
                let document = world.read(&format!("tsdb/cluster/nodes/{id}")).expect("a record");
                let named = |id: &str| format!("\"id\":\"{id}\"");
                let document = match is_renamed {
                    true => document.replace(&named(&id), &named("x")),
                    false => document,
                };
                assert_eq!(document.contains(&named("x")), is_renamed, "{what}");
                world.send("PUT", &format!("/v1/kv/tsdb/cluster/nodes/x{flags}"), &document);
                world.wait(Duration::from_secs(30));
                let left = nodes.iter().filter(|node| of != "dead" || !std::ptr::eq(*node, copied));
                for node in left {
                    let snapshot = node.cluster.snapshot();
                    assert!(snapshot.live().all(|node| node.record.id != "x"), "{what}");
                    assert!(!owners(node).contains("x"), "{what}");
                }
            }
        }
    }
}
