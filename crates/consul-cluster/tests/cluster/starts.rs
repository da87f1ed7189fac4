//! Two starts of one node: which of them stays does not depend on the times of day that their machines show. A start that
//! lives alone goes on; of two that live, the start ends whose name the other has taken, while it was down for all.

use crate::nodes::{Process, node};
use crate::support::world::World;
use bytes::Bytes;
use consul_api::error::Error;
use consul_client::coordination::Profile;
use consul_client::transport::Transport;
use consul_cluster::Options;
use consul_process::clock::{BoxFuture, WallClock};
use consul_sim::{Fault, Retained, SimTransport};
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// How the clock of the other start differs from that of the one before.
#[derive(Clone, Copy, Debug)]
enum Clock {
    Equal,
    Ahead,
    Behind,
}

const CLOCKS: [Clock; 3] = [Clock::Equal, Clock::Ahead, Clock::Behind];

impl Clock {
    /// `n1` with this clock.
    fn n1(self, world: &World) -> Process {
        let unix = match self {
            Clock::Equal => DAY,
            Clock::Ahead => DAY + HOUR,
            Clock::Behind => DAY - HOUR,
        };
        world.start(Options { wall_clock: WallClock::from_origin(unix), ..node("n1") })
    }
}

const N1: &str = "tsdb/cluster/nodes/n1";

fn send(world: &World, method: &str, path: &str, body: Bytes) -> Bytes {
    let request = Request::builder().method(method).uri(path).body(body).expect("a request");
    let answer = world.agent.handle(request).now_or_never().expect("at once");
    assert_eq!(answer.status(), StatusCode::OK, "{method} {path}");
    answer.into_body()
}

/// The cluster has two live nodes; one leads, and none of these has ended.
fn check(nodes: &[&Process], what: &str) {
    for node in nodes {
        assert_eq!(node.why().map(|why| why.to_string()), None, "{what}");
        let snapshot = node.cluster.snapshot();
        let live: Vec<_> = snapshot.live().map(|node| node.record.id.as_str()).collect();
        assert_eq!(live, ["n1", "n2"], "{what}");
        assert!(snapshot.leader.is_some(), "{what}");
    }
    assert_eq!(nodes.iter().filter(|node| node.cluster.is_leader()).count(), 1, "{what}");
}

/// The first start's record is put back while it lives: an operator writes it, or has changed its time.
#[test]
fn a_record_of_the_same_start_ends_nobody() {
    for clock in CLOCKS {
        let world = World::new();
        let (first, other) = (clock.n1(&world), world.node("n2"));
        world.wait(Duration::from_secs(5));
        let record = world.read(N1).expect("a record");
        for times in [record.clone(), record.replace("\"started_ms\":", "\"started_ms\":9")] {
            world.write(N1, &times);
            world.wait(Duration::from_secs(15));
            check(&[&first, &other], &format!("{clock:?}"));
        }
    }
}

/// The change of Consul's data before the snapshot is restored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    None,
    /// The servers' data are lost: they count modify indexes from 1 again.
    Wiped,
    /// Somebody has deleted the cluster's keys.
    Deleted,
}

impl Loss {
    fn happen(self, world: &World) {
        match self {
            Loss::None => {}
            Loss::Wiped => world.agent.restart(Retained::Nothing),
            Loss::Deleted => drop(send(world, "DELETE", "/v1/kv/tsdb/?recurse", Bytes::new())),
        }
    }
}

const LOSSES: [Loss; 3] = [Loss::None, Loss::Wiped, Loss::Deleted];

#[test]
#[ignore = "computes long: make test-all"]
fn a_restored_snapshot_of_an_earlier_start_ends_nobody() {
    for clock in CLOCKS {
        for is_killed in [false, true] {
            for (loss, later_s) in [
                (Loss::None, 0),
                (Loss::Wiped, 0),
                (Loss::Wiped, 3),
                (Loss::Wiped, 15),
                (Loss::Deleted, 2),
            ] {
                let what = format!("{clock:?}, killed: {is_killed}, {loss:?} {later_s} s before");
                let world = World::new();
                let (first, other) = (clock.n1(&world), world.node("n2"));
                world.wait(Duration::from_secs(8));
                let snapshot = send(&world, "GET", "/v1/snapshot", Bytes::new());
                match is_killed {
                    true => world.kill(&first),
                    false => world.stop(&first),
                }
                world.wait(Duration::from_secs(8));
                let second = Clock::Equal.n1(&world);
                world.wait(Duration::from_secs(10));
                check(&[&second, &other], &what);
                loss.happen(&world);
                world.wait(Duration::from_secs(later_s));
                // Some put it back twice.
                for _ in 0..2 {
                    send(&world, "PUT", "/v1/snapshot", snapshot.clone());
                    world.wait(Duration::from_secs(45));
                    check(&[&second, &other], &what);
                }
            }
        }
    }
}

/// Another start's record and instance, which passes forever: a snapshot has brought them back, at an agent that is gone.
fn phantom(world: &World) {
    let mut record: serde_json::Value =
        serde_json::from_str(&world.read(N1).expect("a record")).expect("JSON");
    record["incarnation"] = "feedfeedfeedfeed".into();
    let service = serde_json::json!({
        "ID": "tsdb-cluster-nodes-n1",
        "Service": "tsdb-cluster-nodes",
        "Meta": { "incarnation": "feedfeedfeedfeed", "nodes_prefix": "tsdb/cluster/nodes/" },
    });
    let check = serde_json::json!({
        "Name": "beats", "CheckID": "service:tsdb-cluster-nodes-n1", "Status": "passing",
        "ServiceID": "tsdb-cluster-nodes-n1",
    });
    let body = serde_json::json!({
        "Node": "gone", "Address": "127.0.0.9", "Service": service, "Check": check,
    });
    send(world, "PUT", "/v1/catalog/register", Bytes::from(body.to_string()));
    world.write(N1, &record.to_string());
}

#[test]
fn an_instance_that_passes_and_answers_nothing_ends_nobody() {
    for loss in LOSSES {
        let world = World::new();
        let (first, other) = (Clock::Equal.n1(&world), world.node("n2"));
        world.wait(Duration::from_secs(8));
        loss.happen(&world);
        if loss != Loss::None {
            world.wait(Duration::from_secs(2));
        }
        phantom(&world);
        world.wait(Duration::from_secs(20));
        check(&[&first, &other], &format!("{loss:?}"));
    }
}

/// The record of a node with this id in another Consul.
#[test]
#[ignore = "computes long: make test-all"]
fn an_imported_record_ends_nobody() {
    for clock in CLOCKS {
        for is_cut_off in [false, true] {
            let what = format!("{clock:?}, cut off: {is_cut_off}");
            let elsewhere = World::new();
            let far = clock.n1(&elsewhere);
            elsewhere.wait(Duration::from_secs(5));
            let record = elsewhere.read(N1).expect("a record");
            elsewhere.stop(&far);
            let world = World::new();
            let (first, other) = (Clock::Equal.n1(&world), world.node("n2"));
            world.wait(Duration::from_secs(8));
            // It may be down for Consul when that is imported.
            if is_cut_off {
                cut_off(&world);
            }
            let mut record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
            record["incarnation"] = "feedfeedfeedfeed".into();
            world.write(N1, &record.to_string());
            world.wait(Duration::from_secs(2));
            world.agent.clear_faults();
            world.wait(Duration::from_secs(30));
            check(&[&first, &other], &what);
        }
    }
}

/// A tool that copies another cluster's keys again and again.
#[test]
#[ignore = "computes long: make test-all"]
fn records_that_are_imported_again_and_again_end_nobody() {
    for every_s in [1, 2, 3, 5, 8] {
        let world = World::new();
        let (first, other) = (Clock::Equal.n1(&world), world.node("n2"));
        world.wait(Duration::from_secs(8));
        let record = world.read(N1).expect("a record");
        let mut record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
        record["incarnation"] = "feedfeedfeedfeed".into();
        for _ in 0..30 / every_s {
            world.write(N1, &record.to_string());
            world.wait(Duration::from_secs(every_s));
        }
        world.wait(Duration::from_secs(20));
        check(&[&first, &other], &format!("every {every_s} s"));
    }
}

/// Cuts off the node that has started first for so long that it is down for all others.
fn cut_off(world: &World) {
    let fault = Fault { clients: vec!["0".to_owned()], partition: true, ..Fault::default() };
    world.agent.add_fault(fault);
    world.wait(Duration::from_secs(8));
}

#[test]
#[ignore = "computes long: make test-all"]
fn of_two_processes_that_start_at_the_same_time_only_the_one_that_stays_has_started() {
    for later_ms in [0, 1, 3, 10, 30, 50, 100, 200, 300, 500, 1000] {
        for has_run in [false, true] {
            let what = format!("{later_ms} ms later, the key of an earlier start: {has_run}");
            let world = World::new();
            let other = world.node("n2");
            if has_run {
                let before = world.node("n1");
                world.wait(Duration::from_secs(5));
                world.kill(&before);
            }
            world.wait(Duration::from_secs(5));
            let start = || {
                let process = Clock::Equal.n1(&world);
                let (cluster, said) =
                    (Arc::clone(&process.cluster), Arc::new(AtomicBool::new(false)));
                let started = Arc::clone(&said);
                world.clock.spawn(async move {
                    started.store(cluster.started().await.is_ok(), Ordering::Relaxed);
                });
                (process, said)
            };
            let first = start();
            world.wait(Duration::from_millis(later_ms));
            let second = start();
            world.wait(Duration::from_secs(20));
            let (ended, stays): (Vec<_>, Vec<_>) =
                [first, second].into_iter().partition(|(process, _)| process.why().is_some());
            assert_eq!((ended.len(), stays.len()), (1, 1), "{what}");
            let why = ended[0].0.why().expect("it has ended");
            assert!(why.message().contains("node_id \"n1\" is taken"), "{what}: {why}");
            assert!(!ended[0].1.load(Ordering::Relaxed), "{what}: it had started");
            assert!(stays[0].1.load(Ordering::Relaxed), "{what}: it has not started");
            check(&[&stays[0].0, &other], &what);
        }
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn of_two_processes_that_live_the_one_ends_that_was_down_for_all() {
    for first_clock in CLOCKS {
        for second_clock in CLOCKS {
            for (loss, later_s) in [
                (Loss::None, 0),
                (Loss::None, 3),
                (Loss::None, 30),
                (Loss::Wiped, 3),
                (Loss::Deleted, 3),
            ] {
                let what =
                    format!("{first_clock:?}, {second_clock:?}, {loss:?}, {later_s} s later");
                let world = World::new();
                let (first, other) = (first_clock.n1(&world), world.node("n2"));
                world.wait(Duration::from_secs(5));
                cut_off(&world);
                let second = second_clock.n1(&world);
                world.run(second.cluster.started()).expect("nothing is refused");
                loss.happen(&world);
                world.wait(Duration::from_secs(later_s));
                world.agent.clear_faults();
                world.wait(Duration::from_secs(30));
                let why = first.why().unwrap_or_else(|| panic!("{what}: it has not ended"));
                assert!(why.message().contains("node_id \"n1\" is taken"), "{what}: {why}");
                check(&[&second, &other], &what);
                // A third one is refused, whatever it shows.
                let third = first_clock.n1(&world);
                world.wait(Duration::from_secs(10));
                let why = third.why().unwrap_or_else(|| panic!("{what}: a third was let in"));
                assert!(why.message().contains("node_id \"n1\" is taken"), "{what}: {why}");
                world.wait(Duration::from_secs(10));
                check(&[&second, &other], &what);
            }
        }
    }
}

/// A transport that counts the writes of the name.
#[derive(Debug)]
struct Counting {
    consul: SimTransport,
    writes: AtomicUsize,
}

impl Transport for Counting {
    fn endpoint(&self) -> &str {
        "counting"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let is_write = request.method() == "PUT" && request.uri().path().ends_with(N1);
        self.writes.fetch_add(usize::from(is_write), Ordering::Relaxed);
        self.consul.send(request)
    }
}

/// A start whose earlier one is down for all costs one write until it has the name: with a slow Consul each takes its time.
#[test]
fn a_start_asks_only_one_that_is_listed_as_live() {
    for (down_for, expected) in [(Duration::from_secs(20), 1), (Duration::from_millis(100), 2)] {
        let world = World::new();
        let first = world.node("n1");
        world.run(first.cluster.started()).expect("nothing is refused");
        world.kill(&first);
        world.wait(down_for);
        let consul = SimTransport::new(Arc::clone(&world.agent), "simulated");
        let counting = Arc::new(Counting { consul, writes: AtomicUsize::new(0) });
        let transport = Arc::clone(&counting);
        let second = world.start_with(world.client_over(transport, 3), node("n1"));
        world.run(second.cluster.started()).expect("nothing is refused");
        assert_eq!(counting.writes.load(Ordering::Relaxed), expected, "{down_for:?}");
    }
}

/// An agent that answers what it knows itself at once; what it asks the servers takes long.
#[derive(Debug)]
struct Agent {
    itself: SimTransport,
    servers: SimTransport,
    asked: AtomicUsize,
}

impl Agent {
    fn new(world: &World) -> Arc<Agent> {
        let [itself, servers] = ["itself", "servers"]
            .map(|it| SimTransport::new(Arc::clone(&world.agent), "agent").for_client(it));
        Arc::new(Agent { itself, servers, asked: AtomicUsize::new(0) })
    }
}

impl Transport for Agent {
    fn endpoint(&self) -> &str {
        "agent"
    }

    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        if request.uri().path().starts_with("/v1/agent/") {
            return self.itself.send(request);
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.servers.send(request)
    }
}

/// Servers that answer later than a node waits before it asks again, but within the limit of a call, are not taken for silent ones.
#[test]
fn a_node_joins_behind_a_quick_agent_with_slow_servers() {
    for profile in [Profile::fast(), Profile::standard(), Profile::wan()] {
        for ms in [100, 1200, 2000, 4000] {
            let what = format!("{}, {ms} ms", profile.name);
            let world = World::new();
            let agents = [(); 2].map(|()| Agent::new(&world));
            let start = |id, agent: &Arc<Agent>| {
                let client = world.client_over(Arc::clone(agent) as _, 3);
                world.start_with(client, Options { profile: profile.clone(), ..node(id) })
            };
            let first = start("n1", &agents[0]);
            world.wait(Duration::from_secs(10));
            let (clients, latency) = (vec!["servers".to_owned()], Duration::from_millis(ms));
            world.agent.add_fault(Fault { clients, latency, ..Fault::default() });
            let second = start("n2", &agents[1]);
            world.wait(Duration::from_secs(40));
            for _ in 0..60 {
                world.wait(Duration::from_secs(1));
                let snapshot = first.cluster.snapshot();
                assert!(snapshot.nodes.get("n2").is_some_and(|it| it.is_live), "{what}");
            }
            assert_eq!(second.why().map(|why| why.to_string()), None, "{what}");
            let asked = agents.map(|it| it.asked.load(Ordering::Relaxed));
            assert!(asked.into_iter().max() < Some(1300), "{what}: {asked:?} requests in 110 s");
        }
    }
}
