//! The settings that all nodes share, while keys of the cluster vanish: a node with other settings never gets in,
//! each node of the cluster can restart, and the keys are put back.

use crate::nodes::{Process, leaders, node};
use crate::requests::look;
use crate::support::world::World;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::Defaults;
use consul_client::transport::Transport;
use consul_client::{Client, Settings};
use consul_cluster::Options;
use consul_cluster::observe::report::Overviews;
use consul_process::clock::BoxFuture;
use consul_sim::{Agent, Retained, SimTransport};
use futures_util::FutureExt as _;
use http::{Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const CONFIG: &str = "tsdb/cluster/config";

/// Keys and subtrees of a cluster.
const GONE: &[&str] = &[
    CONFIG,
    "tsdb/cluster/leader",
    "tsdb/cluster/nodes/n1",
    "tsdb/cluster/nodes/n2",
    "tsdb/cluster/nodes/?recurse",
    "tsdb/cluster/shards/map",
    "tsdb/cluster/shards/epoch",
    "tsdb/cluster/shards/?recurse",
    "tsdb/cluster/?recurse",
];

/// How long after the loss the others start.
const MOMENTS_MS: &[u64] = &[0, 100, 700, 3000, 10_000];

fn wrong(number: usize) -> Options {
    let id = format!("wrong{number}");
    match number {
        0 => Options { shards: 64, ..node(&id) },
        _ => Options { replicas: 1, ..node(&id) },
    }
}

/// Nodes with other settings start at this time after a loss, and another one of the cluster then or later: a
/// Consul that has lost everything shows nothing of the cluster until its living nodes are back.
fn start_after(
    world: &World,
    lose: impl FnOnce(&World),
    moment: Duration,
    third_later: bool,
    what: &str,
) {
    let mut nodes = world.nodes(2);
    world.wait(Duration::from_secs(8));
    let stored = world.read(CONFIG).expect("the settings");
    lose(world);
    world.wait(moment);
    let strangers = [0, 1].map(|number| world.start(wrong(number)));
    if third_later {
        world.wait(Duration::from_secs(40));
    }
    nodes.push(world.node("n3"));
    world.wait(Duration::from_secs(40));
    for stranger in &strangers {
        let why = stranger.why().unwrap_or_else(|| panic!("{what}: a wrong node runs"));
        assert_eq!(why.kind(), Kind::Conflict, "{what}: {why}");
        assert!(why.message().contains("shards = 1024 and replicas = 2"), "{what}: {why}");
    }
    check(world, &nodes, &stored, what);
    for node in &mut nodes {
        let id = node.cluster.options().node_id.clone();
        world.stop(node);
        *node = world.node(&id);
        let started = world.run(node.cluster.started());
        started.unwrap_or_else(|error| panic!("{what}: restart of {id}: {error}"));
        world.wait(Duration::from_secs(8));
    }
    check(world, &nodes, &stored, what);
}

fn check(world: &World, nodes: &[Process], stored: &str, what: &str) {
    assert_eq!(world.read(CONFIG).as_deref(), Some(stored), "{what}");
    assert_eq!(leaders(nodes).len(), 1, "{what}");
    for node in nodes {
        assert!(node.why().is_none(), "{what}: {:?}", node.why());
        let snapshot = node.cluster.snapshot();
        let map = snapshot.map.as_ref().expect("a map");
        assert_eq!((map.shard_count(), map.replicas()), (1024, 2), "{what}");
        let live: Vec<_> = snapshot.live().map(|node| node.record.id.as_str()).collect();
        assert_eq!(live, ["n1", "n2", "n3"], "{what}");
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn keys_that_are_gone_are_put_back_and_let_no_other_settings_in() {
    for gone in GONE {
        for moment_ms in MOMENTS_MS {
            let what = format!("{gone} after {moment_ms} ms");
            let lose = |world: &World| world.send("DELETE", &format!("/v1/kv/{gone}"), "");
            start_after(&World::new(), lose, Duration::from_millis(*moment_ms), false, &what);
        }
    }
}

/// A key of the cluster that holds something else is put back, or named with what puts it back; no node ends for it.
#[test]
#[ignore = "computes long: make test-all"]
fn whatever_the_keys_of_a_cluster_hold_its_nodes_go_on() {
    const CONTENTS: &[&str] = &[
        "another program's",
        "",
        "{}",
        "null",
        "[]",
        r#"{"id":"n2"}"#,
        r#"{"shards":64,"replicas":2}"#,
        r#"{"node_id":"n9"}"#,
    ];
    let world = World::new();
    let nodes = world.nodes(3);
    world.wait(Duration::from_secs(8));
    for key in GONE.iter().filter(|key| !key.ends_with("?recurse")) {
        for content in CONTENTS {
            world.write(key, content);
            world.wait(Duration::from_secs(20));
            for node in &nodes {
                assert_eq!(node.why().map(|why| why.to_string()), None, "{key}: {content}");
                let snapshot = node.cluster.snapshot();
                assert_eq!(snapshot.live().count(), 3, "{key}: {content}");
                assert!(snapshot.leader.is_some(), "{key}: {content}");
            }
            if world.read(key).as_deref() != Some(content) {
                continue;
            }
            let overviews = Overviews::new(look(&world), None);
            let problems = &world.run(overviews.overview()).problems;
            let named = problems.iter().find(|problem| problem.text.contains(*key));
            let named = named.unwrap_or_else(|| panic!("{key}: {content}: {problems:?}"));
            assert!(named.cure.contains("delete the key that ends in `epoch`"), "{named:?}");
            world.send("DELETE", "/v1/kv/tsdb/cluster/shards/epoch", "");
            world.wait(Duration::from_secs(20));
            assert!(world.read(key).is_some_and(|it| it != *content), "{key}: {content}");
        }
    }
}

/// The leader looks at the map every few seconds, and nodes at the other keys sooner.
#[test]
#[ignore = "computes long: make test-all"]
fn each_key_and_subtree_that_is_gone_is_back_after_a_minute() {
    const KEYS: [&str; 6] = [
        CONFIG,
        "tsdb/cluster/leader",
        "tsdb/cluster/nodes/n1",
        "tsdb/cluster/nodes/n2",
        "tsdb/cluster/shards/map",
        "tsdb/cluster/shards/epoch",
    ];
    let world = World::new();
    let nodes = world.nodes(2);
    world.wait(Duration::from_secs(8));
    for gone in GONE {
        world.send("DELETE", &format!("/v1/kv/{gone}"), "");
        world.wait(Duration::from_secs(70));
        for key in KEYS {
            assert!(world.read(key).is_some(), "{key} after the loss of {gone}");
        }
        assert!(nodes.iter().all(|node| node.why().is_none()), "{gone}");
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_wipe_lets_no_other_settings_in() {
    for moment_ms in MOMENTS_MS {
        let what = format!("wiped {moment_ms} ms ago");
        let lose = |world: &World| world.agent.restart(Retained::Nothing);
        start_after(&World::new(), lose, Duration::from_millis(*moment_ms), true, &what);
    }
}

/// As after a wrong node got in, or an operator's mistake.
#[test]
fn a_config_key_that_differs_from_the_map_keeps_no_node_of_the_cluster_away() {
    let world = World::new();
    let nodes = world.nodes(2);
    world.wait(Duration::from_secs(8));
    let stored = world.read(CONFIG).expect("the settings");
    let other = r#"{"shards":64,"replicas":2}"#;
    world.write(CONFIG, other);
    let third = world.node("n3");
    world.run(third.cluster.started()).expect("it has the settings of the map");
    for changed in [other, "another program's"] {
        world.write(CONFIG, changed);
        world.wait(Duration::from_secs(1));
        assert_eq!(world.read(CONFIG).as_deref(), Some(&*stored));
    }
    // While no node runs that could put it back, the map alone decides.
    nodes.iter().chain([&third]).for_each(|node| world.stop(node));
    world.write(CONFIG, other);
    let stranger = world.start(wrong(0));
    world.wait(Duration::from_secs(20));
    assert_eq!(stranger.why().expect("an end").kind(), Kind::Conflict);
    let first = world.node("n1");
    world.run(first.cluster.started()).expect("it has the settings of the map");
    assert_eq!(world.read(CONFIG).as_deref(), Some(&*stored));
}

/// Anything but settings, while no node runs: an emptied key is written again; for other data the message has the command.
#[test]
fn a_config_key_without_settings_is_written_again_or_named_with_its_cure() {
    for content in ["", "{}", "x", "null", "[]"] {
        for has_map in [true, false] {
            let world = World::new();
            let nodes = world.nodes(2);
            world.wait(Duration::from_secs(8));
            let stored = world.read(CONFIG).expect("the settings");
            nodes.iter().for_each(|node| world.stop(node));
            if !has_map {
                world.send("DELETE", "/v1/kv/tsdb/cluster/shards/?recurse", "");
            }
            world.write(CONFIG, content);
            let first = world.node("n1");
            if content.is_empty() {
                let started = world.run(first.cluster.started());
                started.unwrap_or_else(|error| panic!("{content:?}: {error}"));
                assert_eq!(world.read(CONFIG).as_deref(), Some(&*stored), "{content:?}");
            } else {
                world.wait(Duration::from_secs(1));
                let why = first.why().expect("it is not known whose key it is");
                let cure = format!("consul kv delete {CONFIG}");
                assert!(why.message().contains(&cure), "{content:?}: {why}");
                assert_eq!(world.read(CONFIG).as_deref(), Some(content));
            }
        }
    }
}

/// Somebody changes the key once more whenever a node is about to put it back, so often.
#[derive(Debug)]
struct Quicker {
    transport: SimTransport,
    agent: Arc<Agent>,
    times: AtomicUsize,
}

impl Transport for Quicker {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let text = String::from_utf8_lossy(request.body());
        let puts_back = request.uri().path() == "/v1/txn" && text.contains(CONFIG);
        let left = self.times.load(Ordering::Relaxed);
        if puts_back && left > 0 {
            self.times.store(left - 1, Ordering::Relaxed);
            let other = format!(r#"{{"shards":{left},"replicas":1}}"#);
            let other = Request::put(format!("/v1/kv/{CONFIG}")).body(other.into());
            _ = self.agent.handle(other.expect("a request")).now_or_never().expect("at once");
        }
        self.transport.send(request)
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

#[test]
fn a_config_key_that_changes_while_it_is_put_back_is_put_back_again() {
    for times in [1, 2, 5] {
        let world = World::new();
        let agent = Arc::clone(&world.agent);
        let transport = SimTransport::new(Arc::clone(&agent), "simulated");
        let quicker = Arc::new(Quicker { transport, agent, times: AtomicUsize::new(0) });
        let timeout = Duration::from_secs(5);
        let settings = Settings { timeout, retry_count: 3, defaults: Defaults::default() };
        let rng = fastrand::Rng::with_seed(1);
        let transports: Vec<Arc<dyn Transport>> = vec![Arc::clone(&quicker) as _];
        let client = Client::new(transports, settings, Arc::new(world.clock.clone()), rng);
        let node = world.start_with(Arc::new(client), node("n1"));
        world.run(node.cluster.started()).expect("the first node");
        world.wait(Duration::from_secs(8));
        let stored = world.read(CONFIG).expect("the settings");
        quicker.times.store(times, Ordering::Relaxed);
        world.write(CONFIG, r#"{"shards":64,"replicas":2}"#);
        world.wait(Duration::from_secs(5));
        assert_eq!(quicker.times.load(Ordering::Relaxed), 0);
        assert_eq!(world.read(CONFIG).as_deref(), Some(&*stored), "{times} times");
        assert!(node.why().is_none());
    }
}
