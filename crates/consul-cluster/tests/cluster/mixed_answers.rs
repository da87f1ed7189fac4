//! A program between a node and Consul mixes answers: a cache that does not mark its own, and the map of another
//! cluster with the same keys.

use crate::nodes::{altered, behind, leaders, node, with_value};
use crate::support::lines::logged;
use crate::support::world::World;
use bytes::Bytes;
use consul_api::error::Error;
use consul_client::transport::Transport;
use consul_cluster::Event;
use consul_process::clock::BoxFuture;
use consul_process::clock::Clock as _;
use consul_sim::SimTransport;
use http::{Request, Response};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::Level;

/// Its session ends at any time between two renewals.
#[test]
#[ignore = "computes long: make test-all"]
fn behind_a_cache_that_marks_nothing_there_are_not_two_leaders() {
    for offset_ms in (0..3000).step_by(250) {
        let world = World::new();
        let (between, nodes) = behind(&world);
        assert!(nodes[0].cluster.is_leader());
        let cached = Arc::new(Mutex::new(BTreeMap::new()));
        let clock = world.clock.clone();
        between.change(move |target, answer| {
            if !target.starts_with("/v1/kv/tsdb/cluster/leader") || target.contains("index=") {
                return None;
            }
            let now = clock.now();
            let mut cached = cached.lock().expect("no panic");
            let fresh = altered(answer, answer.status().as_u16(), |it| it, answer.body().clone());
            let (at, kept): &(_, Response<Bytes>) =
                cached.entry(target.to_owned()).or_insert((now, fresh));
            let is_kept = now - *at < Duration::from_secs(10);
            is_kept.then(|| altered(kept, kept.status().as_u16(), |it| it, kept.body().clone()))
        });
        world.wait(Duration::from_millis(offset_ms));
        let session = nodes[0].cluster.snapshot().leader.clone().expect("a leader").session_id;
        world.send("PUT", &format!("/v1/session/destroy/{session}"), "");
        for _ in 0..1500 {
            world.wait(Duration::from_millis(10));
            assert!(leaders(&nodes).len() <= 1, "after {offset_ms} ms: {:?}", world.clock);
        }
    }
}

/// As of a cluster of other machines that has the same keys: its epochs are higher, lower or the same, of the announcement and
/// of the map.
#[test]
#[ignore = "computes long: make test-all"]
fn the_map_of_another_cluster_in_one_answer_is_not_adopted() {
    for epochs in [[1, 1], [2, 2], [5000, 5000], [1, 5000], [5000, 1]] {
        for answers in [1, 3] {
            let world = World::new();
            let (between, nodes) = behind(&world);
            let before = nodes[0].cluster.snapshot().map.clone().expect("a map");
            let stored = world.read("tsdb/cluster/shards/map");
            nodes.iter().for_each(|node| drop(node.events()));
            let mut left = [answers, answers];
            between.change(move |target, answer| {
                let keys = ["/v1/kv/tsdb/cluster/shards/epoch", "/v1/kv/tsdb/cluster/shards/map"];
                let key = keys.iter().position(|key| target.starts_with(key))?;
                left[key] = usize::checked_sub(left[key], 1)?;
                Some(with_value(answer, |text| {
                    let mut value: serde_json::Value = serde_json::from_str(text).expect("JSON");
                    value["epoch"] = epochs[key].into();
                    match key {
                        0 => value["digest"] = "0".into(),
                        _ => value["shards"].as_array_mut().expect("shards").reverse(),
                    }
                    value.to_string()
                }))
            });
            // Its watch of the announcement is answered.
            world.send("PUT", "/v1/kv/tsdb/cluster/shards/epoch?flags=1", &{
                world.read("tsdb/cluster/shards/epoch").expect("an announcement")
            });
            for _ in 0..600 {
                world.wait(Duration::from_millis(50));
                for node in &nodes {
                    let map = node.cluster.snapshot().map.clone();
                    assert!(map.as_ref() == Some(&before), "the map of epochs {epochs:?}");
                }
            }
            assert_eq!(world.read("tsdb/cluster/shards/map"), stored);
        }
    }
}

/// Of a cache, or of a server that is cut off from the others: no reason to write it again or to doubt who has it.
#[test]
#[ignore = "computes long: make test-all"]
fn what_the_leader_did_not_answer_says_nothing_of_a_nodes_key() {
    for (name, value) in [
        ("x-consul-knownleader", "false"),
        ("x-consul-lastcontact", "5000"),
        ("x-cache", "HIT"),
        ("age", "10"),
    ] {
        let world = World::new();
        let (between, nodes) = behind(&world);
        logged(Level::WARN, Arc::new(world.clock.clone()), |lines| {
            between.change(move |target, answer| {
                if !target.starts_with("/v1/kv/tsdb/cluster/nodes/n1") {
                    return None;
                }
                let mut gone = altered(answer, 404, |index| index, "");
                gone.headers_mut().insert(name, value.parse().expect("a header"));
                Some(gone)
            });
            world.wait(Duration::from_secs(60));
            assert_eq!(lines.text(), "", "{name}");
        });
        assert!(nodes[0].why().is_none(), "{:?}", nodes[0].why());
    }
}

/// One of several servers behind a balancer that does not work: it gets each request of some number.
#[derive(Debug)]
struct OneBroken {
    consul: SimTransport,
    /// 0: none.
    each: AtomicUsize,
    requests: AtomicUsize,
    breaks: Breaks,
}

#[derive(Clone, Copy, Debug)]
enum Breaks {
    /// Consul's error of a server that reaches no other one.
    BeforeItActs,
    /// A page, after Consul has done what was asked.
    AfterIt,
}

impl OneBroken {
    fn new(world: &World, each: usize, breaks: Breaks) -> Arc<Self> {
        let consul = SimTransport::new(Arc::clone(&world.agent), "simulated");
        Arc::new(OneBroken { consul, each: each.into(), requests: AtomicUsize::new(0), breaks })
    }
}

impl Transport for OneBroken {
    fn endpoint(&self) -> &str {
        "one-broken"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let (each, number) =
            (self.each.load(Ordering::Relaxed), self.requests.fetch_add(1, Ordering::Relaxed) + 1);
        let answer = |status, text: &'static str| {
            Response::builder().status(status).body(text.into()).expect("a response")
        };
        match (each > 0 && number.is_multiple_of(each), self.breaks) {
            (false, _) => self.consul.send(request),
            (true, Breaks::BeforeItActs) => {
                Box::pin(async move { Ok(answer(500, "rpc error making call: EOF")) })
            }
            (true, Breaks::AfterIt) => Box::pin(async move {
                self.consul.send(request).await?;
                Ok(answer(200, "<html><body>maintenance</body></html>"))
            }),
        }
    }
}

/// For any order of requests, none of a start meets the broken one each time.
#[test]
fn a_node_starts_where_one_of_some_servers_does_not_work() {
    for breaks in [Breaks::BeforeItActs, Breaks::AfterIt] {
        for each in 2..=9 {
            let world = World::new();
            let broken = OneBroken::new(&world, each, breaks);
            let nodes: Vec<_> = ["n1", "n2"]
                .into_iter()
                .map(|id| world.start_with(world.client_over(broken.clone(), 3), node(id)))
                .collect();
            world.wait(Duration::from_secs(10));
            for node in &nodes {
                let known = node.cluster.snapshot().nodes.len();
                assert_eq!(known, nodes.len(), "each {each}, {breaks:?}: {:?}", node.why());
            }
            assert_eq!(leaders(&nodes).len(), 1, "each {each}, {breaks:?}");
        }
    }
}

/// For any order of requests, the check does not meet the broken one each time.
#[test]
#[ignore = "computes long: make test-all"]
fn a_node_stays_live_where_one_of_some_servers_does_not_work() {
    for each in 3..=6 {
        let world = World::new();
        let broken = OneBroken::new(&world, 0, Breaks::BeforeItActs);
        let first = world.start_with(world.client_over(broken.clone(), 3), node("n1"));
        world.run(first.cluster.started()).expect("nothing is refused");
        let mut nodes = vec![first];
        nodes.extend(["n2", "n3"].map(|id| world.node(id)));
        world.wait(Duration::from_secs(8));
        assert!(nodes[0].cluster.is_leader());
        nodes.iter().for_each(|node| drop(node.events()));
        broken.each.store(each, Ordering::Relaxed);
        world.wait(Duration::from_secs(60));
        let events: Vec<Event> = nodes.iter().flat_map(|node| node.events()).collect();
        let is_bad = |event: &&Event| {
            matches!(event, Event::NodeLeft(_) | Event::LeaderChanged(_) | Event::Stopped(_))
        };
        assert_eq!(events.iter().find(is_bad), None, "each {each}");
    }
}
