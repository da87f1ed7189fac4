//! A cluster through its Rust API, on the simulated agent and a clock that the test advances.
//! Random histories are in `simulation`, the specs of the Lua API in `spec`.

use crate::support::between::{ANSWERS, Between};
use crate::support::lines::logged;
use crate::support::world::World;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use consul_api::api::{agent, health, kv, session};
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Defaults};
use consul_api::value::Value;
use consul_client::transport::Transport;
use consul_client::{Client, Settings};
use consul_cluster::{Cluster, Event, Mode, Options};
use consul_process::clock::{BoxFuture, Clock as _, ManualClock, TaskId};
use consul_sim::{self as simulate, Agent, SimTransport};
use http::{Method, Request, Response, StatusCode};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::Level;

/// A running node.
pub struct Process {
    pub cluster: Arc<Cluster>,
    task: TaskId,
    end: Arc<Mutex<Option<Error>>>,
}

impl World {
    /// Starts a node; it runs until it is killed or stopped.
    pub fn start(&self, options: Options) -> Process {
        self.start_with(self.client(), options)
    }

    /// The same with this client.
    pub fn start_with(&self, client: Arc<Client>, options: Options) -> Process {
        let cluster =
            Cluster::new(Arc::clone(&client), client, options).expect("options that fit together");
        let end = Arc::new(Mutex::new(None));
        let (running, ended) = (Arc::clone(&cluster), Arc::clone(&end));
        let task = self.clock.spawn(async move {
            let why = running.run().await;
            *ended.lock().expect("no panic elsewhere") = Some(why);
        });
        Process { cluster, task, end }
    }

    pub fn node(&self, id: &str) -> Process {
        self.start(node(id))
    }

    /// Starts the nodes `n1` to `n<count>`.
    pub fn nodes(&self, count: usize) -> Vec<Process> {
        let nodes: Vec<_> = (1..=count).map(|n| self.node(&format!("n{n}"))).collect();
        self.run(async {
            for node in &nodes {
                node.cluster.started().await.expect("nothing is refused");
            }
        });
        nodes
    }

    pub fn kill(&self, process: &Process) {
        self.clock.cancel(process.task);
    }

    pub fn stop(&self, process: &Process) {
        self.clock.cancel(process.task);
        self.run(process.cluster.leave()).expect("a graceful stop");
    }

    pub fn read(&self, key: &str) -> Option<String> {
        let client = self.client();
        let answer = self.run(client.call(&kv::GET, &Args::new().arg(key))).expect("an answer");
        match answer.value {
            Value::Bytes(bytes) => Some(String::from_utf8(bytes).expect("a text")),
            _ => None,
        }
    }

    /// The indexes of all data that a cluster writes.
    fn indexes(&self) -> [Option<u64>; 3] {
        let client = self.client();
        let reads = [
            (&kv::LIST, Args::new().arg("")),
            (&session::LIST, Args::new()),
            (&health::STATE, Args::new().arg("any")),
        ];
        reads.map(|(endpoint, args)| {
            self.run(client.call(endpoint, &args)).expect("an answer").meta.index
        })
    }

    pub fn write(&self, key: &str, value: &str) {
        let client = self.client();
        let args = Args::new().arg(key).arg(value.as_bytes().to_vec());
        self.run(client.call(&kv::PUT, &args)).expect("a write");
    }
}

pub fn node(id: &str) -> Options {
    Options::new(id, "127.0.0.1:9000")
}

impl Process {
    pub fn why(&self) -> Option<Error> {
        self.end.lock().expect("no panic elsewhere").clone()
    }

    pub fn events(&self) -> Vec<Event> {
        std::iter::from_fn(|| self.cluster.poll_event()).collect()
    }

    pub fn epoch(&self) -> u64 {
        self.cluster.snapshot().map.as_ref().map_or(0, |map| map.epoch())
    }
}

pub fn leaders(nodes: &[Process]) -> Vec<&Process> {
    nodes.iter().filter(|node| node.cluster.is_leader()).collect()
}

/// The names of the nodes with shards, in the map of one node.
pub fn owners(process: &Process) -> BTreeSet<String> {
    let snapshot = process.cluster.snapshot();
    let map = snapshot.map.as_ref().expect("a map");
    let of = |shard| map.nodes_of(shard).map(|(id, _)| id.to_owned()).collect::<Vec<_>>();
    (0..map.shard_count()).flat_map(of).collect()
}

#[test]
fn three_nodes_agree_on_members_leader_and_map() {
    let world = World::new();
    let nodes = world.nodes(3);
    world.wait(Duration::from_secs(5));
    assert_eq!(leaders(&nodes).len(), 1);
    let leader = leaders(&nodes)[0].cluster.options().node_id.clone();
    for node in &nodes {
        let snapshot = node.cluster.snapshot();
        assert_eq!(snapshot.live().count(), 3);
        assert_eq!(snapshot.leader.as_ref().expect("a leader").node_id, leader);
        assert_eq!(owners(node).len(), 3);
        assert_eq!(snapshot.map, nodes[0].cluster.snapshot().map);
        let key = b"metrics/cpu";
        let replicas = snapshot.replicas_for(key, 2);
        assert_eq!(replicas.len(), 2);
        assert_eq!(snapshot.node_for(key).expect("a node").record.id, replicas[0].record.id);
    }
}

#[test]
fn one_node_sees_itself() {
    let world = World::new();
    let nodes = world.nodes(1);
    let snapshot = nodes[0].cluster.snapshot();
    assert_eq!(snapshot.nodes.len(), 1);
    assert_eq!(snapshot.node_for(b"any").expect("itself").record.id, "n1");
    world.wait(Duration::from_secs(3));
    assert!(nodes[0].cluster.is_leader());
    assert_eq!(nodes[0].cluster.state(), "leader");
    assert_eq!(owners(&nodes[0]), BTreeSet::from(["n1".to_owned()]));
}

#[test]
fn a_killed_leader_is_replaced_within_takeover_ms_and_its_shards_stay() {
    let world = World::new();
    let start = |n: usize| {
        world.start(Options {
            replace_after: Duration::from_secs(20),
            forget_after: Duration::from_secs(60),
            ..node(&format!("n{n}"))
        })
    };
    let nodes: Vec<_> = (1..=3).map(start).collect();
    world.wait(Duration::from_secs(5));
    let place = nodes.iter().position(|node| node.cluster.is_leader()).expect("a leader");
    let profile = nodes[place].cluster.options().profile.clone();
    world.kill(&nodes[place]);
    let (others, killed): (Vec<_>, Vec<_>) = (0..3).partition(|other| *other != place);
    let (epoch, killed) = (nodes[others[0]].epoch(), &nodes[killed[0]]);
    world.wait(profile.takeover() + Duration::from_millis(500));
    let new = others.iter().filter(|other| nodes[**other].cluster.is_leader());
    assert_eq!(new.count(), 1);
    world.wait(Duration::from_secs(5));
    let one = &nodes[others[0]];
    let id = &killed.cluster.options().node_id;
    assert_eq!(one.epoch(), epoch, "nothing moves before replace_after");
    assert!(owners(one).contains(id));
    // But requests go to live nodes.
    let snapshot = one.cluster.snapshot();
    assert!((0..100).all(|key: u32| {
        snapshot.node_for(&key.to_le_bytes()).expect("a node").record.id != *id
    }));
    world.wait(Duration::from_secs(15));
    assert_eq!(owners(one).len(), 2);
    world.wait(Duration::from_secs(45));
    assert_eq!(one.cluster.snapshot().nodes.len(), 2, "it is forgotten");
}

#[test]
fn a_change_during_the_pause_after_a_loss_is_made_right_after_it() {
    for change_ms in [5250, 5500, 5750] {
        let world = World::new();
        let start = |n: usize| {
            world.start(Options { replace_after: Duration::from_secs(2), ..node(&format!("n{n}")) })
        };
        let nodes: Vec<_> = (1..=3).map(start).collect();
        world.wait(Duration::from_secs(5));
        let place = nodes.iter().position(|node| !node.cluster.is_leader()).expect("a follower");
        world.kill(&nodes[place]);
        world.wait(Duration::from_millis(4500));
        // The agent restarts, and the map does not change for 6 s after that. Shortly before their
        // end a node changes its mode.
        world.agent.restart(simulate::Retained::Disk);
        world.wait(Duration::from_millis(change_ms));
        let other = (0..3).find(|other| *other != place && !nodes[*other].cluster.is_leader());
        let other = &nodes[other.expect("the other follower")].cluster;
        let id = &other.options().node_id;
        world.run(other.set_mode(id, Mode::Maintenance)).expect("an order");
        world.wait(Duration::from_secs(7));
        assert_eq!(owners(leaders(&nodes)[0]).len(), 2, "{change_ms} ms");
    }
}

#[test]
fn a_node_that_is_killed_and_returns_keeps_its_shards() {
    let world = World::new();
    let mut nodes = world.nodes(3);
    world.wait(Duration::from_secs(5));
    let epoch = nodes[0].epoch();
    let place = nodes.iter().position(|node| !node.cluster.is_leader()).expect("a follower");
    world.kill(&nodes[place]);
    let id = nodes[place].cluster.options().node_id.clone();
    world.wait(Duration::from_secs(1));
    nodes[place] = world.node(&id);
    world.run(nodes[place].cluster.started()).expect("nothing is refused");
    world.wait(Duration::from_secs(30));
    assert!(nodes.iter().all(|node| node.epoch() == epoch));
    assert_eq!(nodes[0].cluster.snapshot().live().count(), 3);
}

#[test]
fn a_stopped_node_is_gone_at_once_and_its_shards_move() {
    let world = World::new();
    let nodes = world.nodes(3);
    world.wait(Duration::from_secs(5));
    let place = nodes.iter().position(|node| node.cluster.is_leader()).expect("a leader");
    let epoch = nodes[place].epoch();
    world.stop(&nodes[place]);
    world.wait(Duration::from_secs(3));
    let others: Vec<&Process> =
        nodes.iter().enumerate().filter(|(n, _)| *n != place).map(|(_, node)| node).collect();
    assert_eq!(others.iter().filter(|node| node.cluster.is_leader()).count(), 1);
    for node in others {
        assert_eq!(node.cluster.snapshot().nodes.len(), 2);
        assert_eq!(owners(node).len(), 2);
        // A new leader skips the epochs of maps that it may not know.
        assert!((epoch + 1001..=epoch + 2000).contains(&node.epoch()), "{}", node.epoch());
    }
}

#[test]
fn a_second_node_of_the_same_name_is_refused() {
    let world = World::new();
    let first = world.nodes(1);
    let second = world.start(Options { node_address: "10.0.0.9:1".into(), ..node("n1") });
    world.wait(Duration::from_secs(8));
    let why = second.why().expect("an end");
    assert_eq!(why.kind(), Kind::Conflict);
    assert!(why.message().contains("the node at 127.0.0.1:9000 has it"), "{why}");
    assert!(first[0].why().is_none());
    assert!(first[0].cluster.is_leader());
}

#[test]
fn a_node_whose_name_was_taken_ends_and_takes_nothing_from_the_new_one() {
    let world = World::new();
    logged(Level::ERROR, Arc::new(world.clock.clone()), |lines| {
        name_taken(&world);
        let said = lines.text();
        assert!(said.contains("the node has ended") && said.contains("is taken"), "{said}");
        assert_eq!(lines.count("the node has ended"), 1);
    });
}

fn name_taken(world: &World) {
    let first = world.nodes(1);
    // Cut off for longer than the TTL of its check, it is down for all others.
    let clients = vec!["0".to_owned()];
    let fault = simulate::Fault { clients, partition: true, ..simulate::Fault::default() };
    world.agent.add_fault(fault);
    world.wait(Duration::from_secs(6));
    let second = world.node("n1");
    world.run(second.cluster.started()).expect("nothing is refused");
    world.agent.clear_faults();
    world.wait(Duration::from_secs(20));
    let why = first[0].why().expect("an end");
    assert!(why.message().contains("node_id \"n1\" is taken"), "{why}");
    world.run(first[0].cluster.leave()).expect("a graceful stop");
    world.wait(Duration::from_millis(100));
    assert!(second.why().is_none());
    assert_eq!(second.cluster.snapshot().live().count(), 1);
    assert!(second.cluster.is_leader());
}

/// Changes an answer of Consul to a request; `None`: it stays.
type Change = Box<dyn FnMut(&str, &Response<Bytes>) -> Option<Response<Bytes>> + Send>;

/// Another agent, and the clock of its answers.
type Elsewhere = (Arc<SimTransport>, ManualClock);

/// A transport to an agent, and what goes wrong on the way.
#[derive(Clone)]
pub struct Behind {
    consul: Arc<SimTransport>,
    change: Arc<Mutex<Option<Change>>>,
    /// The agent that gets the reads, and the clock of their waits.
    reads: Arc<Mutex<Option<Elsewhere>>>,
    /// Where the path of a change begins whose answer is lost.
    lost: Arc<Mutex<Option<&'static str>>>,
}

impl std::fmt::Debug for Behind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Behind")
    }
}

impl Behind {
    pub fn new(world: &World) -> Self {
        let consul = Arc::new(SimTransport::new(Arc::clone(&world.agent), "simulated"));
        Behind { consul, change: Arc::default(), reads: Arc::default(), lost: Arc::default() }
    }

    /// Changes answers to reads: by their path with the query, and the answer.
    pub fn change(
        &self,
        change: impl FnMut(&str, &Response<Bytes>) -> Option<Response<Bytes>> + Send + 'static,
    ) {
        *self.change.lock().expect("no panic") = Some(Box::new(change));
    }

    /// Loses the answer to the next change of what begins so, which takes effect.
    pub fn lose_an_answer(&self, path: &'static str) {
        *self.lost.lock().expect("no panic") = Some(path);
    }

    /// Sends reads to another agent.
    pub fn read_from(&self, world: &World, agent: &Arc<Agent>) {
        let other = Arc::new(SimTransport::new(Arc::clone(agent), "another"));
        *self.reads.lock().expect("no panic") = Some((other, world.clock.clone()));
    }

    pub fn restore(&self) {
        *self.change.lock().expect("no panic") = None;
        *self.reads.lock().expect("no panic") = None;
    }

    pub fn client(&self, world: &World, defaults: Defaults) -> Arc<Client> {
        let settings = Settings { timeout: Duration::from_secs(5), retry_count: 3, defaults };
        let rng = fastrand::Rng::with_seed(7);
        let clock = Arc::new(world.clock.clone());
        Arc::new(Client::new(vec![Arc::new(self.clone())], settings, clock, rng))
    }
}

impl Transport for Behind {
    fn endpoint(&self) -> &str {
        "behind"
    }

    fn send(&self, mut request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let other = self.reads.lock().expect("no panic").clone();
        let is_read = request.method() == Method::GET;
        let target = request.uri().to_string();
        Box::pin(async move {
            if let Some((other, clock)) = other.filter(|_| is_read) {
                // The indexes of another Consul have nothing to do with ours: its answers come at once.
                let (path, query) = target.split_once('?').unwrap_or((&target, ""));
                let query = query.split('&').filter(|part| !part.starts_with("index="));
                let target = format!("{path}?{}", query.collect::<Vec<_>>().join("&"));
                *request.uri_mut() = target.parse().expect("a target");
                clock.sleep(Duration::from_millis(50)).await;
                return other.send(request).await;
            }
            let answer = self.consul.send(request).await?;
            let is_lost = |path: &mut &str| !is_read && target.starts_with(*path);
            if self.lost.lock().expect("no panic").take_if(is_lost).is_some() {
                return Err(Error::new(Kind::Connect, "the connection was cut").retryable());
            }
            let mut change = self.change.lock().expect("no panic");
            let changed = change.as_mut().filter(|_| is_read).and_then(|it| it(&target, &answer));
            Ok(changed.unwrap_or(answer))
        })
    }
}

/// The same headers, with another status, index and body.
pub fn altered(
    answer: &Response<Bytes>,
    status: u16,
    index: impl FnOnce(u64) -> u64,
    body: impl Into<Bytes>,
) -> Response<Bytes> {
    let mut headers = answer.headers().clone();
    let old = headers.get("x-consul-index").and_then(|it| it.to_str().ok()?.parse().ok());
    headers.insert("x-consul-index", index(old.unwrap_or(1)).into());
    let mut altered = Response::builder().status(status).body(body.into()).expect("a response");
    *altered.headers_mut() = headers;
    altered
}

/// The answer to the read of a key, with another value.
pub fn with_value(
    answer: &Response<Bytes>,
    change: impl FnOnce(&str) -> String,
) -> Response<Bytes> {
    let mut entries: serde_json::Value = serde_json::from_slice(answer.body()).expect("JSON");
    let text = STANDARD.decode(entries[0]["Value"].as_str().expect("a value")).expect("base64");
    let text = change(std::str::from_utf8(&text).expect("a text"));
    entries[0]["Value"] = STANDARD.encode(text).into();
    let index = entries[0]["ModifyIndex"].as_u64().expect("an index") + 1;
    entries[0]["ModifyIndex"] = index.into();
    altered(answer, 200, |_| index, entries.to_string())
}

/// The record of a later start of the node.
fn of_later_start(record: &str) -> String {
    let mut record: serde_json::Value = serde_json::from_str(record).expect("a record");
    let started = record["started_ms"].as_u64().expect("a time");
    record["started_ms"] = (started + 1000).into();
    record["incarnation"] = "ffffffffffffffff".into();
    record.to_string()
}

/// Three nodes; the first is behind all that can go wrong.
pub fn behind(world: &World) -> (Behind, Vec<Process>) {
    let between = Behind::new(world);
    let first = world.start_with(between.client(world, Defaults::default()), node("n1"));
    world.run(first.cluster.started()).expect("nothing is refused");
    let mut nodes = vec![first];
    nodes.extend(["n2", "n3"].map(|id| world.node(id)));
    world.wait(Duration::from_secs(8));
    nodes.iter().for_each(|node| drop(node.events()));
    (between, nodes)
}

#[test]
#[ignore = "computes long: make test-all"]
fn answers_that_show_another_node_in_its_key_for_a_while_do_not_end_a_node() {
    type Other = fn(&str) -> String;
    let others: [Other; 3] = [of_later_start, |_| "of another program".into(), |_| String::new()];
    for (place, other) in others.into_iter().enumerate() {
        // One answer; each second one; all for as long as other servers may answer.
        for (each, most, seconds) in [(1, 1, 30), (2, 1000, 30), (1, 1000, 2)] {
            let what = format!("{place}: each {each}, up to {most}");
            let world = World::new();
            let (between, nodes) = behind(&world);
            let (mut seen, mut left) = (0, most);
            between.change(move |target, answer| {
                let is_own = target.starts_with("/v1/kv/tsdb/cluster/nodes/n1");
                seen += u32::from(is_own);
                (is_own && left > 0 && seen % each == 0).then(|| {
                    left -= 1;
                    with_value(answer, other)
                })
            });
            world.wait(Duration::from_secs(seconds));
            between.restore();
            world.wait(Duration::from_secs(20));
            for node in &nodes {
                assert!(node.why().is_none(), "{what}: {:?}", node.why());
                assert_eq!(node.cluster.snapshot().live().count(), 3, "{what}");
                let events = node.events();
                let is_left = |event: &Event| matches!(event, Event::NodeLeft(_));
                assert!(!events.iter().any(is_left), "{what}: {events:?}");
            }
        }
    }
}

#[test]
fn a_cache_that_answers_each_read_of_its_key_does_not_end_a_node() {
    let world = World::new();
    let (between, nodes) = behind(&world);
    between.change(|target, answer| {
        target
            .starts_with("/v1/kv/tsdb/cluster/nodes/n1")
            .then(|| with_value(answer, of_later_start))
    });
    world.wait(Duration::from_secs(120));
    assert!(nodes[0].why().is_none(), "{:?}", nodes[0].why());
}

/// Reads go to the servers of another datacenter, where a cluster of the same names runs.
#[test]
#[ignore = "computes long: make test-all"]
fn reads_from_another_datacenter_for_seconds_end_no_node_and_take_none_away() {
    for (shards, settled) in [(1024, true), (64, true), (64, false)] {
        let what = format!("{shards} shards, settled: {settled}");
        let world = World::new();
        let options = simulate::Options {
            clock: Arc::new(world.clock.clone()),
            seed: 2,
            ..Default::default()
        };
        let other = Arc::new(Agent::new(options));
        let timers = Arc::clone(&other);
        world.clock.spawn(async move { match timers.run_timers().await {} });
        let between = Behind::new(&world);
        let client = || between.client(&world, Defaults::default());
        let ids = ["n1", "n2", "n3"];
        let mut nodes: Vec<_> = ids.map(|id| world.start_with(client(), node(id))).into();
        world.wait(Duration::from_secs(1));
        let elsewhere = Behind {
            consul: Arc::new(SimTransport::new(Arc::clone(&other), "o")),
            ..Behind::new(&world)
        };
        let there = ids.map(|id| {
            let client = elsewhere.client(&world, Defaults::default());
            world.start_with(client, Options { shards, ..node(id) })
        });
        world.wait(Duration::from_secs(10));
        assert!(there.iter().all(|node| node.cluster.snapshot().live().count() == 3), "{what}");
        if !settled {
            world.stop(&nodes.remove(2));
            nodes.push(world.start_with(client(), node("n3")));
            world.run(nodes[2].cluster.started()).expect("nothing is refused");
        }
        nodes.iter().for_each(|node| drop(node.events()));
        between.read_from(&world, &other);
        world.wait(Duration::from_secs(2));
        between.restore();
        world.wait(Duration::from_secs(30));
        for node in &nodes {
            assert!(node.why().is_none(), "{what}: {:?}", node.why());
            let events = node.events();
            let is_left = |event: &Event| matches!(event, Event::NodeLeft(_));
            assert!(!events.iter().any(is_left), "{what}: {events:?}");
            let snapshot = node.cluster.snapshot();
            assert_eq!(snapshot.live().count(), 3, "{what}");
            assert_eq!(snapshot.map.as_ref().expect("a map").shard_count(), 1024, "{what}");
        }
        assert_eq!(leaders(&nodes).len(), 1, "{what}");
    }
}

/// A list of the nodes' keys, or of their instances, without the ones of some nodes.
fn without(answer: &Response<Bytes>, ids: &[&str], index: u64) -> Response<Bytes> {
    let entries: Vec<serde_json::Value> = serde_json::from_slice(answer.body()).unwrap_or_default();
    let is_left = |entry: &serde_json::Value| {
        let name = entry["Key"].as_str().or(entry["Service"]["ID"].as_str()).unwrap_or_default();
        !ids.iter().any(|id| name.ends_with(id))
    };
    let is_keys = answer.headers().get("x-consul-query-backend").is_none()
        || entries.iter().any(|entry| entry["Key"].is_string());
    let left: Vec<_> = entries.into_iter().filter(is_left).collect();
    match left.is_empty() && is_keys {
        true => altered(answer, 404, |old| old + index, ""),
        false => {
            let text = serde_json::to_string(&left).expect("JSON");
            altered(answer, 200, |old| old + index, text)
        }
    }
}

const LISTS: [&str; 2] = ["/v1/kv/tsdb/cluster/nodes/?", "/v1/health/service/tsdb-cluster-nodes"];

fn is_list(target: &str, lists: &[&str]) -> bool {
    lists.iter().any(|list| target.starts_with(list))
}

/// Three nodes behind the same, which is right.
fn all_behind(world: &World) -> (Behind, Vec<Process>) {
    let between = Behind::new(world);
    let start = |id| world.start_with(between.client(world, Defaults::default()), node(id));
    let nodes: Vec<_> = ["n1", "n2", "n3"].map(start).into();
    world.wait(Duration::from_secs(8));
    assert_eq!(leaders(&nodes).len(), 1);
    nodes.iter().for_each(|node| drop(node.events()));
    (between, nodes)
}

fn nobody_left(nodes: &[Process], what: &str) {
    for node in nodes {
        let events = node.events();
        let is_left = |event: &Event| matches!(event, Event::NodeLeft(_) | Event::Stopped(_));
        assert!(!events.iter().any(is_left), "{what}: {events:?}");
        assert_eq!(node.cluster.snapshot().live().count(), 3, "{what}");
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn what_acls_hide_stays_and_is_seen_again_within_seconds() {
    let hidden: [&[&str]; 3] = [&["n1", "n2", "n3"], &["n3"], &["n1", "n2"]];
    for list in [&LISTS[..1], &LISTS[1..], &LISTS[..]] {
        for ids in hidden {
            let what = format!("{list:?} without {ids:?}");
            let world = World::new();
            let (between, nodes) = all_behind(&world);
            between.change(move |target, answer| {
                is_list(target, list).then(|| {
                    let mut answer = without(answer, ids, 0);
                    let name = "x-consul-results-filtered-by-acls";
                    answer.headers_mut().insert(name, "true".parse().expect("a header"));
                    answer
                })
            });
            // Longer than the waits of the lists.
            world.wait(Duration::from_secs(45));
            nobody_left(&nodes, &what);
            assert!(leaders(&nodes).is_empty(), "{what}: a node leads that does not see all");
            between.restore();
            // The waits would last for 20 s.
            world.wait(Duration::from_secs(8));
            nobody_left(&nodes, &what);
            assert_eq!(leaders(&nodes).len(), 1, "{what}");
        }
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_list_without_the_node_itself_is_believed_when_it_stays_so() {
    let lacking: [&[&str]; 3] = [&["n1", "n2", "n3"], &["n1"], &["n1", "n2"]];
    for list in [&LISTS[..1], &LISTS[1..], &LISTS[..]] {
        for ids in lacking {
            // One answer; all of two seconds.
            for (most, lasts) in [(1, Duration::MAX), (usize::MAX, Duration::from_secs(2))] {
                let what = format!("{list:?} without {ids:?}, {most}");
                let world = World::new();
                let (between, nodes) = behind(&world);
                let (clock, mut left, mut begun) = (world.clock.clone(), most, None);
                between.change(move |target, answer| {
                    if left == 0 || !is_list(target, list) {
                        return None;
                    }
                    let begun = *begun.get_or_insert(clock.now());
                    (clock.now() - begun < lasts).then(|| {
                        left -= 1;
                        without(answer, ids, 1)
                    })
                });
                for _ in 0..400 {
                    world.wait(Duration::from_millis(100));
                    let live = nodes[0].cluster.snapshot().live().count();
                    assert_eq!(live, 3, "{what}");
                }
                nobody_left(&nodes, &what);
            }
        }
    }
    // It stays so: an operator has to see that, and a node that does not see itself does not lead.
    for list in [&LISTS[..1], &LISTS[1..]] {
        let world = World::new();
        let (between, nodes) = behind(&world);
        assert!(nodes[0].cluster.is_leader());
        between.change(move |target, answer| {
            is_list(target, list).then(|| without(answer, &["n1", "n2", "n3"], 1))
        });
        world.wait(Duration::from_secs(30));
        assert_eq!(nodes[0].cluster.snapshot().live().count(), 0, "{list:?}");
        assert!(!nodes[0].cluster.is_leader(), "{list:?}");
        between.restore();
        world.wait(Duration::from_secs(30));
        assert!(nodes.iter().all(|node| node.cluster.snapshot().live().count() == 3), "{list:?}");
        assert_eq!(leaders(&nodes).len(), 1, "{list:?}");
    }
}

#[test]
fn other_cluster_options_and_keys_of_other_programs_are_refused() {
    let world = World::new();
    let _first = world.nodes(1);
    let second = world.start(Options { shards: 512, ..node("n2") });
    world.write("other/config", "mine");
    let third = world.start(Options { config_key: "other/config".into(), ..node("n3") });
    world.write("tsdb/cluster/nodes/n4", "mine");
    let fourth = world.node("n4");
    world.wait(Duration::from_secs(1));
    for (process, why) in [
        (second, "shards = 1024 and replicas = 2 (key tsdb/cluster/config)"),
        (third, "the key other/config holds another program's data"),
        (fourth, "tsdb/cluster/nodes/n4 holds another program's data, not a node's record"),
    ] {
        let error = process.why().expect("an end");
        assert!(error.kind() == Kind::Conflict && error.message().contains(why), "{error}");
    }
    assert_eq!(world.read("tsdb/cluster/nodes/n4").as_deref(), Some("mine"));
}

#[test]
fn a_drained_node_gives_its_shards_and_the_leadership_away() {
    let world = World::new();
    let nodes = world.nodes(3);
    world.wait(Duration::from_secs(5));
    let place = nodes.iter().position(|node| node.cluster.is_leader()).expect("a leader");
    let (leader, other) = (&nodes[place], &nodes[(place + 1) % 3]);
    let id = leader.cluster.options().node_id.clone();
    world.run(other.cluster.set_mode(&id, Mode::Draining)).expect("an order");
    world.wait(Duration::from_secs(5));
    assert!(!leader.cluster.is_leader());
    assert_eq!(leader.cluster.state(), "draining");
    assert_eq!(leaders(&nodes).len(), 1);
    assert!(!owners(other).contains(&id));
    world.run(other.cluster.set_mode(&id, Mode::Active)).expect("an order");
    world.wait(Duration::from_secs(5));
    assert!(owners(other).contains(&id));
    let error = world.run(other.cluster.set_mode("n9", Mode::Active)).expect_err("no such node");
    assert_eq!(error.kind(), Kind::NotFound);
}

#[test]
fn a_node_that_died_goes_on_in_the_mode_that_an_operator_has_given_it() {
    for (mode, state) in [(Mode::Draining, "draining"), (Mode::Maintenance, "maintenance")] {
        let world = World::new();
        let nodes = world.nodes(3);
        world.wait(Duration::from_secs(5));
        world.run(nodes[0].cluster.set_mode("n3", mode)).expect("an order");
        world.wait(Duration::from_secs(5));
        world.kill(&nodes[2]);
        let again = world.node("n3");
        world.run(again.cluster.started()).expect("nothing is refused");
        world.wait(Duration::from_secs(5));
        assert_eq!(again.cluster.state(), state);
        let seen = nodes[0].cluster.snapshot();
        assert_eq!(seen.nodes["n3"].record.mode, mode, "and no write of its own has ended it");
        world.run(nodes[0].cluster.set_mode("n3", Mode::Active)).expect("an order");
        world.wait(Duration::from_secs(5));
        assert_eq!(again.cluster.state(), "follower");
    }
}

#[test]
fn a_shard_is_initializing_on_a_node_until_its_program_has_the_data() {
    let world = World::new();
    let start = |id: &str| world.start(Options { hand_off: true, ..node(id) });
    let states = |node: &Process| -> Vec<String> {
        let map = node.cluster.snapshot().map.clone().expect("a map");
        let of = |shard: usize| map.nodes_of(shard).map(|(id, state)| format!("{id} {state:?}"));
        (0..map.shard_count()).flat_map(|shard| of(shard).collect::<Vec<_>>()).collect()
    };
    let waiting = |node: &Process| -> Vec<usize> {
        let snapshot = node.cluster.snapshot();
        let map = snapshot.map.as_ref().expect("a map");
        let waiting = map.initializing(&node.cluster.options().node_id);
        waiting.into_iter().map(|(shard, _)| shard).collect()
    };
    let first = [start("n1"), start("n2")];
    world.wait(Duration::from_secs(5));
    // The first node had all shards.
    assert_eq!((waiting(&first[0]).len(), waiting(&first[1]).len()), (0, 1024));
    world.run(first[1].cluster.shards_ready(&waiting(&first[1]))).expect("an order");
    world.wait(Duration::from_secs(5));
    let third = start("n3");
    world.wait(Duration::from_secs(5));
    let new = waiting(&third);
    let snapshot = third.cluster.snapshot();
    let map = snapshot.map.as_ref().expect("a map");
    // Two thirds of 1024 shards.
    assert!((682..=683).contains(&new.len()), "{}", new.len());
    for shard in &new {
        // The old replicas stay, and the primary has the data.
        assert_eq!(map.nodes_of(*shard).count(), 3);
        let first = map.nodes_of(*shard).next().expect("a replica").0;
        assert_ne!(first, "n3");
    }
    world.run(third.cluster.shards_ready(&new[..100])).expect("an order");
    world.wait(Duration::from_secs(5));
    assert_eq!(waiting(&third), new[100..]);
    world.run(third.cluster.shards_ready(&new)).expect("an order");
    world.wait(Duration::from_secs(5));
    let states = states(&first[1]);
    assert_eq!(states.len(), 2048);
    assert!(states.iter().all(|state| state.ends_with("Available")));
    // The node's key no longer has the earlier report.
    let key = world.read("tsdb/cluster/nodes/n3").expect("a key");
    assert!(key.contains("\"ready\":[]"), "{key}");
}

#[test]
fn the_leadership_is_handed_over() {
    let world = World::new();
    let nodes = world.nodes(3);
    world.wait(Duration::from_secs(2));
    let before = leaders(&nodes)[0].cluster.options().node_id.clone();
    leaders(&nodes)[0].cluster.hand_over();
    world.wait(Duration::from_millis(100));
    assert_eq!(leaders(&nodes).len(), 1);
    assert_ne!(leaders(&nodes)[0].cluster.options().node_id, before);
}

#[test]
fn the_map_is_frozen_while_too_many_nodes_are_missing_or_until_thaw() {
    let world = World::new();
    let start = |n: usize| {
        world.start(Options { replace_after: Duration::from_secs(20), ..node(&format!("n{n}")) })
    };
    let mut nodes: Vec<_> = (1..=5).map(start).collect();
    world.wait(Duration::from_secs(5));
    let epoch = nodes[0].epoch();
    let gone: Vec<usize> = (0..5).filter(|n| !nodes[*n].cluster.is_leader()).take(2).collect();
    gone.iter().for_each(|n| world.kill(&nodes[*n]));
    world.wait(Duration::from_secs(30));
    let left = (0..5).find(|n| !gone.contains(n)).expect("a live node");
    let frozen = &nodes[left].cluster.snapshot().frozen;
    assert_eq!(frozen.len(), 2);
    assert!(nodes[left].events().contains(&Event::Frozen(frozen.clone())));
    assert_eq!(nodes[left].epoch(), epoch);
    // One of them is back, so the map is no longer frozen.
    let back = gone[0];
    nodes[back] = start(back + 1);
    world.wait(Duration::from_secs(10));
    assert!(nodes[left].cluster.snapshot().frozen.is_empty());
    assert_eq!(owners(&nodes[left]).len(), 4);
    // Two more die, and an operator calls thaw.
    let gone: Vec<usize> = (0..5)
        .filter(|n| !gone[1..].contains(n) && !nodes[*n].cluster.is_leader() && *n != left)
        .take(2)
        .collect();
    gone.iter().for_each(|n| world.kill(&nodes[*n]));
    world.wait(Duration::from_secs(30));
    let frozen = nodes[left].cluster.snapshot().frozen.clone();
    assert_eq!(frozen.len(), 2);
    // Who was shown one of them accepts the loss of that one alone.
    let order = nodes[left].cluster.thaw_while(None, Some(&frozen[..1]));
    let refused = world.run(order).expect_err("another has vanished");
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(refused.message().starts_with(&frozen[1]), "{refused}");
    world.wait(Duration::from_secs(5));
    assert_eq!(nodes[left].cluster.snapshot().frozen, frozen);
    world.run(nodes[left].cluster.thaw_while(None, Some(&frozen))).expect("an order");
    world.wait(Duration::from_secs(30));
    assert!(nodes[left].cluster.snapshot().frozen.is_empty());
    assert_eq!(owners(&nodes[left]).len(), 2);
}

#[test]
fn nodes_that_stop_gracefully_do_not_freeze_the_map() {
    let world = World::new();
    let nodes = world.nodes(3);
    world.wait(Duration::from_secs(5));
    let left = nodes.iter().position(|node| node.cluster.is_leader()).expect("a leader");
    let ids = |n: &usize| nodes[*n].cluster.options().node_id.clone();
    let gone: Vec<usize> = (0..3).filter(|n| *n != left).collect();
    gone.iter().for_each(|n| world.kill(&nodes[*n]));
    for id in gone.iter().map(ids) {
        let path = format!("/v1/agent/service/deregister/tsdb-cluster-nodes-{id}");
        world.send("PUT", &path, "");
    }
    world.wait(Duration::from_millis(500));
    for id in gone.iter().map(ids) {
        world.send("DELETE", &format!("/v1/kv/tsdb/cluster/nodes/{id}"), "");
    }
    world.wait(Duration::from_secs(5));
    assert_eq!(owners(&nodes[left]).len(), 1);
    let events = nodes[left].events();
    assert!(!events.iter().any(|event| matches!(event, Event::Frozen(_))), "{events:?}");
}

#[test]
fn below_min_nodes_the_map_stays_as_it_is() {
    let world = World::new();
    let start = |n: usize| {
        world.start(Options {
            min_nodes: 3,
            replace_after: Duration::ZERO,
            ..node(&format!("n{n}"))
        })
    };
    let nodes: Vec<_> = (1..=2).map(start).collect();
    world.wait(Duration::from_secs(5));
    assert!(nodes[0].cluster.snapshot().map.is_none());
    assert!(nodes[0].cluster.snapshot().node_for(b"key").is_some());
    let third = start(3);
    world.wait(Duration::from_secs(5));
    assert_eq!(owners(&nodes[0]).len(), 3);
    let epoch = nodes[0].epoch();
    world.stop(&third);
    world.wait(Duration::from_secs(30));
    assert_eq!(nodes[0].epoch(), epoch);
}

#[test]
fn a_map_that_consul_has_lost_is_put_back_and_its_epoch_only_grows() {
    let world = World::new();
    let nodes = world.nodes(3);
    world.wait(Duration::from_secs(5));
    let epoch = nodes[0].epoch();
    let client = world.client();
    let old = world.read("tsdb/cluster/shards/map").expect("a map");
    let all = Args::new().arg("tsdb/cluster/");
    world.run(client.call(&kv::DELETE_TREE, &all)).expect("a deletion");
    world.wait(Duration::from_secs(30));
    let new = world.read("tsdb/cluster/shards/map").expect("a map");
    let shards = |text: &str| text[text.find("\"nodes\"").expect("its nodes")..].to_owned();
    assert_eq!(shards(&new), shards(&old));
    for node in &nodes {
        let snapshot = node.cluster.snapshot();
        // For any other loss of Consul, the map is newer.
        assert!((epoch + 1001..=epoch + 2000).contains(&node.epoch()), "{}", node.epoch());
        assert_eq!(snapshot.map, nodes[0].cluster.snapshot().map);
        assert_eq!(snapshot.live().count(), 3);
    }
    assert_eq!(leaders(&nodes).len(), 1);
    let epoch = nodes[0].epoch();
    let _fourth = world.node("n4");
    world.wait(Duration::from_secs(5));
    assert!(nodes[0].epoch() > epoch);
}

/// Also while nothing moves: an operator is told for 5 s at most.
#[test]
#[ignore = "computes long: make test-all"]
fn a_document_that_is_not_a_map_is_moved_aside_and_replaced_at_once() {
    let (map, epoch_key) = ("tsdb/cluster/shards/map", "tsdb/cluster/shards/epoch");
    let values = [(map, Some("not ours")), (map, Some("{}")), (map, Some("")), (map, None)];
    let values = values.into_iter().chain([(epoch_key, Some("not ours")), (epoch_key, None)]);
    for ((key, value), is_paused) in values.flat_map(|it| [(it, false), (it, true)]) {
        let what = format!("{key}: {value:?}, paused: {is_paused}");
        let world = World::new();
        let nodes = world.nodes(2);
        world.wait(Duration::from_secs(5));
        let epoch = nodes[0].epoch();
        let operator = crate::requests::look(&world);
        if is_paused {
            world.run(operator.pause_moves(None, "ada", "")).expect("it is ordered");
            world.wait(Duration::from_secs(3));
        }
        match value {
            Some(value) => world.write(key, value),
            None => world.send("DELETE", &format!("/v1/kv/{key}"), ""),
        }
        let seen = crate::requests::look(&world).snapshot();
        let is_unread = value.is_some();
        assert_eq!(!seen.unreadable.is_empty(), is_unread, "{what}: told at once");
        world.wait(Duration::from_secs(5));
        let seen = crate::requests::look(&world).snapshot();
        assert!(seen.unreadable.is_empty() && seen.map.is_some(), "{what}: {:?}", seen.unreadable);
        let is_whole = |node: &Process| node.epoch() >= epoch && owners(node).len() == 2;
        assert!(nodes.iter().all(is_whole), "{what}");
        let client = world.client();
        let found = world.run(client.call(&kv::LIST, &Args::new().arg(format!("{map}."))));
        let found = found.expect("an answer").value;
        let values: Vec<_> = found.items().iter().filter_map(|entry| entry.get("Value")).collect();
        match value.filter(|_| key == map) {
            Some(value) if !value.is_empty() => {
                assert_eq!(values, [&Value::Bytes(value.as_bytes().to_vec())], "{what}");
            }
            _ => {}
        }
    }
}

#[test]
fn a_node_that_cannot_join_logs_it_at_once_and_once_a_minute() {
    let world = World::new();
    let fails_with = |status: u16| {
        world.agent.clear_faults();
        let status = StatusCode::from_u16(status).ok();
        world.agent.add_fault(simulate::Fault { status, status_chance: 1.0, ..Default::default() });
    };
    logged(Level::WARN, Arc::new(world.clock.clone()), |lines| {
        let logged = || lines.count("not joined yet");
        fails_with(500);
        let node = world.node("n1");
        world.wait(Duration::from_secs(50));
        assert_eq!(logged(), 1);
        world.wait(Duration::from_secs(120));
        assert_eq!(logged(), 3);
        fails_with(503);
        world.wait(Duration::from_secs(20));
        assert_eq!(logged(), 4);
        world.agent.clear_faults();
        world.run(node.cluster.started()).expect("nothing is refused");
        assert_eq!(logged(), 4);
    });
}

#[test]
fn while_consul_is_unreachable_no_node_leads_and_the_last_map_routes() {
    let world = World::new();
    let nodes = world.nodes(2);
    world.wait(Duration::from_secs(5));
    nodes.iter().for_each(|node| drop(node.events()));
    let owner = nodes[0].cluster.snapshot().node_for(b"key").expect("a node").record.id.clone();
    world.agent.add_fault(simulate::Fault { partition: true, ..simulate::Fault::default() });
    world.wait(Duration::from_secs(25));
    for node in &nodes {
        assert!(!node.cluster.is_leader());
        let snapshot = node.cluster.snapshot();
        assert!(!snapshot.is_connected && snapshot.leader.is_none());
        assert_eq!(snapshot.node_for(b"key").expect("a node").record.id, owner);
    }
    world.agent.clear_faults();
    world.wait(Duration::from_secs(30));
    assert_eq!(leaders(&nodes).len(), 1);
    assert!(nodes.iter().all(|node| node.cluster.snapshot().is_connected));
}

#[test]
fn an_idle_cluster_writes_nothing() {
    let world = World::new();
    let _nodes = world.nodes(5);
    world.wait(Duration::from_secs(10));
    let before = world.indexes();
    world.wait(Duration::from_secs(40));
    assert_eq!(world.indexes(), before);
}

/// The paths that another program answers, and for how many seconds it answers all or each second of them. A check has a
/// TTL of 3 s and a beat of 0.5 s, which goes through `/v1/agent/`: without any beat Consul itself has the node as failed
/// after 2.5 s, as when it is unreachable. An empty answer with 200 is Consul's to a beat, so that of those the same half can be
/// lost, without a sign.
const REPLACED: &[(&str, [u64; 2])] = &[
    ("/v1/kv/", [10, 10]),
    ("/v1/health/", [10, 10]),
    ("/v1/session/", [10, 10]),
    ("/v1/agent/", [2, 10]),
    ("/v1/txn", [10, 10]),
    ("/v1/catalog/", [10, 10]),
    ("/", [2, 10]),
];

#[test]
#[ignore = "computes long: make test-all"]
fn answers_of_another_program_change_neither_members_nor_leader_nor_map() {
    for answer in ANSWERS {
        // Each answer of Consul, and each second one, is replaced.
        let cases =
            REPLACED.iter().flat_map(|(path, [all, half])| [(path, 1, all), (path, 2, half)]);
        for (path, each, seconds) in cases {
            let what = format!("{path} {answer:?}, each {each}");
            let world = World::new();
            let between = Between::new(&world.agent, "between").each(each);
            let start = |id: &str| {
                let settings = Settings {
                    timeout: Duration::from_secs(5),
                    retry_count: 3,
                    defaults: Defaults::default(),
                };
                let rng = fastrand::Rng::with_seed(u64::from(id.as_bytes()[1]));
                let clock = Arc::new(world.clock.clone());
                let transport = Arc::new(between.clone());
                let client = Client::new(vec![transport], settings, clock, rng);
                world.start_with(Arc::new(client), node(id))
            };
            let nodes: Vec<_> = ["n1", "n2", "n3"].map(start).into();
            world.run(async {
                for node in &nodes {
                    node.cluster.started().await.expect("nothing is refused");
                }
            });
            world.wait(Duration::from_secs(5));
            let before: Vec<_> = nodes.iter().map(Process::epoch).collect();
            let leader = leaders(&nodes)[0].cluster.options().node_id.clone();
            nodes.iter().for_each(|node| drop(node.events()));
            between.set(Some((path, *answer)));
            let loses_beats = *answer == (200, "") && *path == "/";
            world.wait(Duration::from_secs(if loses_beats { 2 } else { *seconds }));
            for node in &nodes {
                assert_eq!(node.cluster.snapshot().live().count(), 3, "{what}");
            }
            between.set(None);
            world.wait(Duration::from_secs(20));
            for (node, before) in nodes.iter().zip(before) {
                let events = node.events();
                let has_left = |event: &Event| matches!(event, Event::NodeLeft(_));
                assert!(!events.iter().any(has_left), "{what}: {events:?}");
                let other = |event: &Event| matches!(event, Event::LeaderChanged(Some(other)) if *other != leader);
                assert!(!events.iter().any(other), "{what}: {events:?}");
                let snapshot = node.cluster.snapshot();
                assert!(snapshot.is_connected, "{what}");
                assert_eq!((snapshot.live().count(), node.epoch()), (3, before), "{what}");
            }
            assert_eq!(leaders(&nodes)[0].cluster.options().node_id, leader, "{what}");
        }
    }
}

/// consul maint, a check of the agent's disk, maintenance of one instance: the processes run, and the leader leads.
#[test]
#[ignore = "computes long: make test-all"]
fn checks_that_say_nothing_of_a_process_end_no_node() {
    let disk = ["Name", "TTL", "Status"].map(str::to_owned);
    let disk = disk.into_iter().zip(["disk", "1h", "critical"].map(Value::from)).collect();
    let maintenance = || Args::new().arg(true).opt("reason", "upgrade");
    let service = Args::new().arg(node("n2").service_id()).arg(true).opt("reason", "upgrade");
    let troubles = [
        (&agent::MAINTENANCE, maintenance(), "Node Maintenance Mode: upgrade"),
        (&agent::CHECK_REGISTER, Args::new().arg(Value::Map(disk)), "disk: "),
        (&agent::SERVICE_MAINTENANCE, service, "Service Maintenance Mode: upgrade"),
    ];
    for (endpoint, args, output) in troubles {
        let world = World::new();
        let nodes = world.nodes(3);
        world.wait(Duration::from_secs(5));
        nodes.iter().for_each(|node| drop(node.events()));
        let leader = leaders(&nodes)[0].cluster.options().node_id.clone();
        world.run(world.client().call(endpoint, &args)).expect("a critical check");
        world.wait(Duration::from_secs(60));
        for node in &nodes {
            assert_eq!(node.events(), [], "{output}");
            let snapshot = node.cluster.snapshot();
            assert_eq!(snapshot.live().count(), 3, "{output}");
            assert_eq!(snapshot.nodes["n2"].complaint.output, output);
        }
        assert_eq!(leaders(&nodes)[0].cluster.options().node_id, leader, "{output}");
        let fourth = world.node("n4");
        world.run(fourth.cluster.started()).expect("a start beside a critical check");
    }
}

/// As the folders that Consul's own page makes.
#[test]
fn a_key_that_is_no_nodes_is_said_once_for_as_long_as_it_stays() {
    let keys = ["tsdb/cluster/nodes/", "tsdb/cluster/nodes/n1/", "tsdb/cluster/nodes/x"];
    let world = World::new();
    let node = world.node("n1");
    world.wait(Duration::from_secs(5));
    let said = |during: &dyn Fn()| {
        let mut text = String::new();
        logged(Level::WARN, Arc::new(world.clock.clone()), |lines| {
            during();
            text = lines.text();
        });
        text.matches("not a node's key").count()
    };
    let change = |world: &World| {
        for _ in 0..10 {
            world.run(node.cluster.set_mode("n1", Mode::Maintenance)).expect("a mode");
            world.wait(Duration::from_secs(2));
            world.run(node.cluster.set_mode("n1", Mode::Active)).expect("a mode");
            world.wait(Duration::from_secs(2));
        }
    };
    for key in keys {
        let first = said(&|| {
            world.write(key, "");
            world.wait(Duration::from_secs(20));
        });
        assert_eq!(first, 1, "{key}");
        assert_eq!(said(&|| change(&world)), 0, "{key}");
    }
    // Another key that comes back is logged again.
    world.send("DELETE", &format!("/v1/kv/{}", keys[0]), "");
    world.wait(Duration::from_secs(20));
    let again = said(&|| {
        world.write(keys[0], "");
        world.wait(Duration::from_secs(20));
    });
    assert_eq!(again, 1);
}
