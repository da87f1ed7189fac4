//! The election of a leader, on the simulated agent and a clock that the test moves.

use crate::nodes::{Process, leaders};
use crate::requests::look;
use crate::support::lines::logged;
use crate::support::world::World;
use bytes::Bytes;
use consul_api::api::session;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_client::Client;
use consul_client::coordination::lock::LOCK_FLAGS;
use consul_client::transport::Transport;
use consul_cluster::nodes::start;
use consul_cluster::observe::overview::Problem;
use consul_cluster::observe::report::Overviews;
use consul_cluster::{Cluster, Event, Options, past_leaders};
use consul_process::clock::{BoxFuture, Clock, ManualClock};
use consul_sim::{Fault, SimTransport};
use http::{Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tracing::Level;

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

/// A transport to the agent with late answers to transactions that write; the first of a `lost` number of them never come.
#[derive(Debug)]
struct Late {
    consul: SimTransport,
    clock: ManualClock,
    delay: Duration,
    lost: AtomicUsize,
}

impl Late {
    fn client(world: &World, delay: Duration, lost: usize) -> Arc<Client> {
        let consul = SimTransport::new(Arc::clone(&world.agent), "simulated");
        let (clock, lost) = (world.clock.clone(), AtomicUsize::new(lost));
        world.client_over(Arc::new(Late { consul, clock, delay, lost }), 0)
    }
}

impl Transport for Late {
    fn endpoint(&self) -> &str {
        "late"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let is_late =
            request.uri().path() == "/v1/txn" && !request.uri().to_string().contains("consistent");
        Box::pin(async move {
            let answer = self.consul.send(request).await;
            if is_late {
                self.clock.sleep(self.delay).await;
                let less = |left: usize| left.checked_sub(1);
                if self.lost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
                    return Err(Error::new(Kind::Connect, "reset").with_maybe_applied(true));
                }
            }
            answer
        })
    }
}

/// The watch of the leader's key can be faster than the answer to the attempt.
#[test]
#[ignore = "computes long: make test-all"]
fn a_node_is_not_named_leader_before_it_knows_that_it_is() {
    // All answers are lost until the attempt has ended, too.
    for lost in [0, 1, 2, 30] {
        for delay_ms in [0, 30, 700, 1500] {
            let world = World::new();
            let client = Late::client(&world, Duration::from_millis(delay_ms), lost);
            let node = Cluster::new(Arc::clone(&client), client, Options::new("n1", "127.0.0.1:1"));
            let node = node.expect("good options");
            let running = Arc::clone(&node);
            world.clock.spawn(async move { drop(running.run().await) });
            let starting = Arc::clone(&node);
            let has_started = Arc::new(AtomicBool::new(false));
            let started = Arc::clone(&has_started);
            world.clock.spawn(async move {
                starting.started().await.expect("nothing is refused");
                assert!(starting.is_leader(), "it has started");
                started.store(true, Ordering::Relaxed);
            });
            for _ in 0..12000 {
                world.wait(Duration::from_millis(10));
                if node.snapshot().leader.is_some() {
                    assert!(node.is_leader(), "delay {delay_ms} ms, {lost} lost");
                }
                while let Some(event) = node.poll_event() {
                    let names_it = matches!(event, Event::LeaderChanged(Some(_)));
                    assert!(!names_it || node.is_leader(), "{event:?}");
                }
            }
            assert!(has_started.load(Ordering::Relaxed), "delay {delay_ms} ms, {lost} lost");
        }
    }
}

/// An operator's change of the leader's key: a command of Consul's, by the leader's session.
type Operation = fn(&World, &str);

fn put_by_operator(world: &World, value: &str, query: &str) {
    world.send("PUT", &format!("/v1/kv/tsdb/cluster/leader{query}"), value);
}

const OPERATIONS: &[(&str, Operation)] = &[
    ("release", |world, session| put_by_operator(world, "", &format!("?release={session}"))),
    ("put", |world, _| put_by_operator(world, "data", "")),
    ("empty", |world, _| put_by_operator(world, "", "")),
    ("put with flags", |world, _| put_by_operator(world, "data", "?flags=7")),
    ("delete", |world, _| {
        world.send("DELETE", "/v1/kv/tsdb/cluster/leader", "");
    }),
    ("delete and put", |world, _| {
        world.send("DELETE", "/v1/kv/tsdb/cluster/leader", "");
        put_by_operator(world, "data", "?flags=7");
    }),
    ("destroy the session", |world, session| {
        world.send("PUT", &format!("/v1/session/destroy/{session}"), "");
    }),
];

/// The state of the nodes during an operator's change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Running,
    /// The leader is cut off, and acts until the end of its lease.
    LeaderCutOff,
    Down,
}

#[test]
#[ignore = "computes long: make test-all"]
fn whatever_is_done_to_the_leaders_key_there_is_a_leader_again() {
    for (name, operate) in OPERATIONS {
        for state in [State::Running, State::LeaderCutOff, State::Down] {
            let world = World::new();
            let mut nodes = world.nodes(2);
            world.wait(Duration::from_secs(6));
            let session = nodes[0].cluster.snapshot().leader.clone().expect("a leader").session_id;
            let leading =
                |nodes: &[Process]| nodes.iter().filter(|node| node.cluster.is_leader()).count();
            match state {
                State::Running => {}
                State::LeaderCutOff => {
                    // The first node has the first client of this world.
                    let place = nodes.iter().position(|it| it.cluster.is_leader());
                    let clients = vec![place.expect("a leader").to_string()];
                    let fault = Fault { clients, partition: true, ..Fault::default() };
                    world.agent.add_fault(fault);
                }
                State::Down => {
                    nodes.iter().for_each(|node| world.stop(node));
                    nodes.clear();
                }
            }
            operate(&world, &session);
            if state == State::Down {
                nodes.push(world.node("n3"));
            }
            let mut both = 0;
            for _ in 0..150 {
                world.wait(Duration::from_millis(100));
                both = both.max(leading(&nodes));
            }
            assert_eq!((leading(&nodes), both), (1, 1), "{name}, {state:?}");
        }
    }
}

/// Its own check passes, and with it its session, which Consul does not end then.
#[test]
fn a_leader_whose_service_is_critical_by_another_check_is_replaced() {
    let world = World::new();
    let nodes = world.nodes(2);
    world.wait(Duration::from_secs(6));
    let first = leaders(&nodes)[0].cluster.options().node_id.clone();
    let instances = world.get("/v1/agent/services").expect("services");
    let instances: serde_json::Value = serde_json::from_str(&instances).expect("a map");
    let mut ids = instances.as_object().expect("a map").keys();
    let id = ids.find(|id| id.contains(&first)).expect("the leader's instance");
    let check =
        serde_json::json!({ "Name": "disk", "ServiceID": id, "TTL": "1h", "Status": "critical" });
    world.send("PUT", "/v1/agent/check/register", &check.to_string());
    let takeover = leaders(&nodes)[0].cluster.options().profile.takeover();
    let end = world.clock.now() + takeover;
    while world.clock.now() < end {
        world.wait(Duration::from_millis(50));
        assert!(leaders(&nodes).len() <= 1);
    }
    let leader = leaders(&nodes)[0].cluster.options().node_id.clone();
    assert_ne!(leader, first);
}

const LEADER: &str = "/v1/kv/tsdb/cluster/leader";

/// Possible values of the leader's key that no leader has written.
const CONTENTS: [&str; 3] = ["", "data", r#"{"node_id":"ghost","address":"127.0.0.1:2"}"#];

/// An operator's view of the leader's key: the problems with their cures, and why a node does not start.
fn told(world: &World) -> (Vec<Problem>, String) {
    let overviews = Overviews::new(look(world), None);
    let mut problems = world.run(overviews.overview()).problems.clone();
    problems.retain(|it| it.problem.contains("leader"));
    let starting = world.node("n3");
    world.wait(Duration::from_secs(2));
    let why = match starting.cluster.snapshot().leader.is_some() {
        true => String::new(),
        false => world.run(start::missing(&starting.cluster)),
    };
    world.stop(&starting);
    (problems, why)
}

/// Each holder and each content: it is named once with the command that cures it, and that helps; or there is a
/// leader again.
#[test]
#[ignore = "computes long: make test-all"]
fn a_leaders_key_of_others_is_named_once_with_its_cure() {
    for holder in ["nobody", "stranger", "node"] {
        for flags in [0, 7, LOCK_FLAGS] {
            for content in CONTENTS {
                let what = format!("{holder}, flags {flags}, {content:?}");
                let world = World::new();
                let clock = Arc::new(world.clock.clone());
                logged(Level::WARN, clock, |lines| {
                    let nodes = world.nodes(2);
                    world.wait(Duration::from_secs(6));
                    let client = world.client();
                    let id = world.run(client.call(&session::CREATE, &Args::new())).expect("one");
                    let id = id.value.as_str().expect("an id").to_owned();
                    let acquire =
                        if holder == "stranger" { format!("&acquire={id}") } else { String::new() };
                    if holder != "node" {
                        world.send("DELETE", LEADER, "");
                    }
                    world.send("PUT", &format!("{LEADER}?flags={flags}{acquire}"), content);
                    world.wait(Duration::from_secs(30));
                    let (problems, why) = told(&world);
                    let said = lines.count("the leader's key is blocked");
                    if holder != "stranger" {
                        assert_eq!((problems, why.as_str(), said), (Vec::new(), "", 0), "{what}");
                        assert_eq!(leaders(&nodes).len(), 1, "{what}");
                        return;
                    }
                    let command = format!("`curl -X PUT …/v1/session/destroy/{id}`");
                    let [problem] = &problems[..] else { panic!("{what}: {problems:?}") };
                    assert!(problem.cure.contains(&command), "{what}: {problem:?}");
                    if flags == LOCK_FLAGS && content == CONTENTS[2] {
                        assert_eq!(
                            (problem.problem, why.as_str(), said),
                            ("leader_unknown", "", 0)
                        );
                    } else {
                        assert_eq!(problem.problem, "leader_key_blocked", "{what}");
                        assert!(
                            problem.text.contains("tsdb/cluster/leader"),
                            "{what}: {problem:?}"
                        );
                        assert_eq!(why.matches(&command).count(), 1, "{what}: {why}");
                        assert!(why.contains("tsdb/cluster/leader"), "{what}: {why}");
                        assert_eq!(said, 2, "{what}: once by each node: {}", lines.text());
                    }
                    world.send("PUT", &format!("/v1/session/destroy/{id}"), "");
                    world.wait(Duration::from_secs(30));
                    assert_eq!(leaders(&nodes).len(), 1, "{what}: the cure");
                    assert_eq!(told(&world).0, [], "{what}");
                });
            }
        }
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_leaders_key_that_a_program_writes_again_and_again_is_named_once_with_its_cure() {
    for flags in [0, 7] {
        for content in CONTENTS {
            let what = format!("flags {flags}, {content:?}");
            let world = World::new();
            let clock = Arc::new(world.clock.clone());
            logged(Level::WARN, clock, |lines| {
                let nodes = world.nodes(2);
                let writes = || {
                    for number in 0..10 {
                        // The same once more would not change the key for Consul.
                        let content = format!("{content}{number}");
                        world.send("PUT", &format!("{LEADER}?flags={flags}"), &content);
                        world.wait(Duration::from_secs(4));
                    }
                };
                writes();
                let (problems, why) = told(&world);
                let [problem] = &problems[..] else { panic!("{what}: {problems:?}") };
                assert_eq!(problem.problem, "leader_key_blocked", "{what}");
                let command = "`consul kv delete tsdb/cluster/leader`";
                assert!(problem.cure.contains(command), "{what}: {problem:?}");
                assert!(why.matches(command).count() == 1, "{what}: {why}");
                writes();
                assert_eq!(
                    lines.count("the leader's key is blocked"),
                    2,
                    "{what}: {}",
                    lines.text()
                );
                world.send("DELETE", LEADER, "");
                world.wait(Duration::from_secs(10));
                assert_eq!(leaders(&nodes).len(), 1, "{what}: the cure");
            });
        }
    }
}

const HISTORY: &str = "tsdb/cluster/shards/leaders";

/// Another program's value stays, and a right can be missing: the leader leads, and says that it is not in the history.
#[test]
#[ignore = "computes long: make test-all"]
fn a_history_that_cannot_be_kept_is_told_and_foreign_values_stay() {
    for content in ["my own notes", "{}", "[1]", "null", r#"[{"node_id":"n1"}]"#] {
        let world = World::new();
        world.write(HISTORY, content);
        let clock = Arc::new(world.clock.clone());
        logged(Level::WARN, clock, |lines| {
            let nodes = world.nodes(2);
            world.wait(Duration::from_secs(30));
            let leader = leaders(&nodes)[0];
            assert_eq!(world.read(HISTORY).as_deref(), Some(content));
            let error = world.run(past_leaders(&look(&world))).expect_err("it is foreign");
            assert!(error.message().contains(&format!("`consul kv delete {HISTORY}`")), "{error}");
            let told = |problem| {
                let overviews = Overviews::new(Arc::clone(&leader.cluster), None);
                let problems = world.run(overviews.overview()).problems.clone();
                problems.into_iter().filter(|it| it.problem == problem).collect::<Vec<_>>()
            };
            let problems = told("history_not_kept");
            assert!(problems.len() == 1 && problems[0].text.contains(HISTORY), "{problems:?}");
            assert_eq!(lines.count("the history of leaders is not kept"), 1, "{}", lines.text());
            world.send("DELETE", &format!("/v1/kv/{HISTORY}"), "");
            world.wait(Duration::from_secs(30));
            assert_eq!(told("history_not_kept"), []);
            let kept = world.run(past_leaders(&look(&world))).expect("a history").leaders;
            assert_eq!(kept.len(), 1);
            // It may be written at any time.
            world.write(HISTORY, content);
            world.wait(Duration::from_secs(6));
            assert_eq!(told("history_not_kept").len(), 1, "{content}");
        });
    }
}

#[test]
fn a_leader_that_may_not_write_the_history_says_so() {
    let (world, management) = World::with_acl();
    let rules = format!(
        r#"key_prefix "" {{ policy = "write" }} session_prefix "" {{ policy = "write" }}
        service_prefix "" {{ policy = "write" }} node_prefix "" {{ policy = "write" }}
        key "{HISTORY}" {{ policy = "read" }}"#
    );
    let client = world.client_with_rules(management, &rules);
    let node = Cluster::new(Arc::clone(&client), client, Options::new("n1", "127.0.0.1:1"));
    let node = node.expect("good options");
    let running = Arc::clone(&node);
    world.clock.spawn(async move { drop(running.run().await) });
    world.wait(Duration::from_secs(20));
    assert!(node.is_leader());
    let problems = world.run(Overviews::new(node, None).overview()).problems.clone();
    let told = problems.iter().find(|it| it.problem == "history_not_kept");
    assert!(told.is_some_and(|it| it.text.contains(HISTORY)), "{problems:?}");
}

/// The weights that operators set share their key with nobody.
#[test]
fn a_foreign_value_in_the_key_of_the_weights_stays() {
    const WEIGHTS: &str = "tsdb/cluster/nodes/all/weights";
    let world = World::new();
    let nodes = world.nodes(2);
    world.wait(Duration::from_secs(6));
    for content in ["my own notes", "[]", "1", "null"] {
        world.write(WEIGHTS, content);
        world.wait(Duration::from_secs(2));
        let set = world.run(nodes[0].cluster.set_weight(None, "n1", Some(2.0)));
        let error = set.expect_err("it is foreign");
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.message().contains(&format!("`consul kv delete {WEIGHTS}`")), "{error}");
        assert_eq!(world.read(WEIGHTS).as_deref(), Some(content));
    }
    world.write(WEIGHTS, r#"{"n1":"much","n9":3.0}"#);
    world.run(nodes[0].cluster.set_weight(None, "n2", Some(2.0))).expect("it is set");
    assert_eq!(world.read(WEIGHTS).as_deref(), Some(r#"{"n1":"much","n2":2.0,"n9":3.0}"#));
}
