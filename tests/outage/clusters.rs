//! A cluster's nodes on three real Consul servers that die, stop, restart, or lose data. At all
//! times there is at most one leader and every key has a node, owners stay, and the epoch only
//! grows.

#![allow(clippy::print_stdout)] // what was measured is part of the answer

use crate::support::PATIENCE;
use crate::support::cluster::Cluster as Servers;
use crate::support::consul;
use crate::support::islands::{self, Islands};
use crate::support::trials::Trials;
use bytes::Bytes;
use consul_api::error::Error;
use consul_api::request::Defaults;
use consul_client::transport::Transport;
use consul_client::transport::http::HttpTransport;
use consul_client::{Client, Settings};
use consul_cluster::{Cluster, Options};
use consul_process::clock::{BoxFuture, SystemClock};
use http::{Method, Request, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The limit for the recovery after an outage: sessions with the TTL of 10 s end after twice that
/// time, then come a lock delay and a watch's pause.
const HEALED_WITHIN: Duration = Duration::from_secs(60);

/// The interval at which a Consul server tries to reach a failed one (Serf's reconnect interval).
const REJOIN: Duration = Duration::from_secs(30);

/// The maximum of requests per second of a node: in an outage it retries on each of three agents,
/// and it tries to acquire a lock during its delay. An idle node makes three, the leader seven.
const MOST_REQUESTS: f64 = 100.0;

type Outage = fn(&mut Servers, &Nodes);

const OUTAGES: &[(&str, Outage)] = &[
    ("the_raft_leader_is_killed", |servers, _| {
        let leader = servers.wait_for_leader();
        servers.kill(leader);
        std::thread::sleep(Duration::from_secs(6));
        servers.restart(leader);
    }),
    ("the_raft_leader_is_stopped", |servers, _| {
        let leader = servers.wait_for_leader();
        servers.stop(leader);
        std::thread::sleep(Duration::from_secs(6));
        servers.cont(leader);
    }),
    ("all_servers_start_again", |servers, _| restart_all(servers, |_| {})),
    ("all_data_is_wiped", |servers, _| {
        restart_all(servers, |servers| (0..3).for_each(|server| servers.wipe(server)));
    }),
    ("an_old_snapshot_is_restored", |servers, nodes| {
        let leader = servers.wait_for_leader();
        let url = format!("http://{}", servers.address(leader));
        let old = nodes.epoch();
        let snapshot =
            nodes.runtime.block_on(request(&url, Method::GET, "/v1/snapshot", Bytes::new()));
        // Consul will lose all changes after the snapshot.
        let fourth = nodes.start(servers, "n4", 0);
        nodes.runtime.block_on(async {
            let has_changed = async {
                while nodes.epoch() == old {
                    sleep(Duration::from_millis(50)).await;
                }
            };
            timeout(PATIENCE, has_changed).await.expect("a map with the fourth");
            drop(fourth);
            request(&url, Method::PUT, "/v1/snapshot", snapshot).await;
        });
        nodes.stay_live(Duration::from_secs(20));
    }),
];

/// The longest come first, so that none of them runs alone at the end.
pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let versions = ["1.21", "1.8"].map(|version| {
        (version, consul::is_missing(version, &format!("a cluster on Consul {version}")))
    });
    for (version, missing) in versions {
        trials.add_unless(
            missing,
            format!("fifty_idle_nodes_cost_no_raft_write [{version}]"),
            move || Servers::start(3, version).map(|servers| idle(&servers)),
        );
    }
    let [(newest, missing), _] = versions;
    let no_islands = islands::are_missing();
    if let Some(why) = &no_islands {
        consul::say_skipped("an isolated leader", why);
    }
    trials.add_unless(
        missing || no_islands.is_some(),
        format!("the_raft_leader_is_isolated_with_the_clusters_leader [{newest}]"),
        move || Islands::start(newest).map(|islands| isolated(&islands)),
    );
    for (version, missing) in versions {
        // The older version only in long runs: each outage takes most of a minute.
        if version == newest || std::env::var_os("OUTAGES_ON_ALL").is_some() {
            for (name, outage) in OUTAGES {
                trials.add_unless(missing, format!("{name} [{version}]"), move || {
                    Servers::start(3, version)
                        .map(|mut servers| live_through(&mut servers, *outage))
                });
            }
        }
    }
    trials
}

fn restart_all(servers: &mut Servers, between: fn(&Servers)) {
    (0..3).for_each(|server| servers.kill(server));
    between(servers);
    std::thread::sleep(Duration::from_secs(3));
    (0..3).for_each(|server| servers.restart(server));
}

/// Runs an outage and observes the cluster all the time.
fn live_through(servers: &mut Servers, outage: Outage) {
    let nodes = Nodes::new();
    for (place, id) in ["n1", "n2", "n3"].into_iter().enumerate() {
        nodes.start(servers, id, place);
    }
    nodes.wait_until_well("at first", PATIENCE);
    let watching = nodes.watch();
    let begun = Instant::now();
    outage(servers, &nodes);
    let over = Instant::now();
    nodes.wait_until_well("after the outage", HEALED_WITHIN);
    let (healed, took) = (over.elapsed(), begun.elapsed());
    // The recovery lasts.
    std::thread::sleep(Duration::from_secs(3));
    nodes.wait_until_well("in the end", Duration::from_secs(5));
    watching.abort();
    let seen = nodes.seen.lock().expect("no panic elsewhere");
    assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
    let requests = nodes.requests.load(Ordering::Relaxed);
    let rate = requests as f64 / took.as_secs_f64() / nodes.all().len() as f64;
    println!(
        "well again {:.1} s after; {} leaderships, epoch {}, {rate:.1} requests a second from each node",
        healed.as_secs_f64(),
        seen.tokens.len(),
        nodes.epoch()
    );
    assert!(rate < MOST_REQUESTS, "{rate:.1} requests a second from each node");
}

fn isolated(islands: &Islands) {
    let nodes = Nodes::new();
    for place in 0..3 {
        nodes.start_at(&[islands.url(place)], &format!("n{}", place + 1));
    }
    nodes.wait_until_well("at first", PATIENCE);
    let url = islands.url(0);
    let said = request(&url, Method::GET, "/v1/status/leader", Bytes::new());
    let said = nodes.runtime.block_on(said);
    let raft_leader = islands.place_of(&String::from_utf8_lossy(&said)).expect("a server");
    let own = Arc::clone(&nodes.all()[raft_leader]);
    let begun = Instant::now();
    while !own.is_leader() {
        assert!(begun.elapsed() < PATIENCE, "the node does not lead");
        nodes.all().iter().for_each(|node| node.hand_over());
        std::thread::sleep(Duration::from_millis(500));
    }
    nodes.wait_until_well("before", PATIENCE);
    let watching = nodes.watch();
    let token = own.lease().expect("it leads").token();
    islands.cut_off(raft_leader);
    let cut_off = Instant::now();
    let until = |is_so: &dyn Fn() -> bool| {
        while !is_so() {
            assert!(cut_off.elapsed() < HEALED_WITHIN, "{:?}", own.state());
            std::thread::sleep(Duration::from_millis(10));
        }
        cut_off.elapsed()
    };
    let stopped = until(&|| !own.is_leader());
    let lease = own.options().profile.lease;
    assert!(stopped < lease + Duration::from_secs(1), "it led for {stopped:?}");
    let others = || nodes.all().into_iter().filter(|node| !Arc::ptr_eq(node, &own));
    let followed = until(&|| others().any(|node| node.is_leader()));
    let next = others().find_map(|node| node.lease()).expect("one leads");
    assert!(next.token() > token);
    islands.reconnect(raft_leader);
    nodes.wait_until_well("in the end", HEALED_WITHIN + 2 * REJOIN);
    watching.abort();
    let seen = nodes.seen.lock().expect("no panic elsewhere");
    assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
    println!(
        "isolated: it stopped leading after {:.1} s, another leads after {:.1} s",
        stopped.as_secs_f64(),
        followed.as_secs_f64()
    );
}

/// Nodes in this process, and an observer that sees all of them at once.
struct Nodes {
    runtime: Runtime,
    nodes: Arc<Mutex<Vec<Arc<Cluster>>>>,
    requests: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// The fencing tokens of leaderships, with their nodes.
    tokens: BTreeMap<u64, String>,
    epochs: BTreeMap<String, u64>,
    /// The nodes that each node knew.
    known: BTreeMap<String, BTreeSet<String>>,
    wrong: BTreeSet<String>,
}

impl Nodes {
    fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Nodes {
            runtime: runtime.expect("a runtime"),
            nodes: Arc::default(),
            requests: Arc::default(),
            seen: Arc::default(),
        }
    }

    fn all(&self) -> Vec<Arc<Cluster>> {
        self.nodes.lock().expect("no panic elsewhere").clone()
    }

    /// Starts a node whose first endpoint is one of the servers; the others are the next endpoints.
    fn start(&self, servers: &Servers, id: &str, own: usize) -> Arc<Cluster> {
        let url = |place| format!("http://{}", servers.address((own + place) % 3));
        self.start_at(&[url(0), url(1), url(2)], id)
    }

    /// Starts a node with these endpoints.
    fn start_at(&self, urls: &[String], id: &str) -> Arc<Cluster> {
        let _context = self.runtime.enter();
        let client = || {
            let transports = urls.iter().map(|url| {
                let options = consul_client::transport::Options::default();
                let transport = HttpTransport::new(url, &options).expect("a transport");
                let requests = Arc::clone(&self.requests);
                Arc::new(Counted { transport, requests }) as Arc<dyn Transport>
            });
            let settings = Settings {
                timeout: Duration::from_secs(5),
                retry_count: 3,
                defaults: Defaults::default(),
            };
            let clock = Arc::new(SystemClock::new());
            let rng = fastrand::Rng::new();
            Arc::new(Client::new(transports.collect(), settings, clock, rng))
        };
        let options = Options::new(id, "127.0.0.1:9000");
        let node = Cluster::new(client(), client(), options).expect("good options");
        let running = Arc::clone(&node);
        self.runtime.spawn(async move { running.run().await });
        self.nodes.lock().expect("no panic elsewhere").push(Arc::clone(&node));
        node
    }

    fn epoch(&self) -> u64 {
        let epoch = |node: &Arc<Cluster>| node.snapshot().map.as_ref().map_or(0, |map| map.epoch());
        self.all().iter().map(epoch).max().unwrap_or(0)
    }

    /// Waits until all nodes agree on members, leader and map.
    fn wait_until_well(&self, when: &str, limit: Duration) {
        let is_well = || {
            let nodes = self.all();
            let one = nodes[0].snapshot();
            let leaders = nodes.iter().filter(|node| node.is_leader()).count();
            let agree = nodes.iter().all(|node| {
                let snapshot = node.snapshot();
                snapshot.live().count() == nodes.len()
                    && snapshot.is_connected
                    && snapshot.leader == one.leader
                    && snapshot.map == one.map
            });
            let has_all = one
                .map
                .as_ref()
                .is_some_and(|map| nodes.iter().all(|node| map.has(&node.options().node_id)));
            leaders == 1 && agree && one.leader.is_some() && has_all
        };
        let well = async {
            while !is_well() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        if self.runtime.block_on(async { timeout(limit, well).await }).is_err() {
            let states = self.all().into_iter().map(|node| {
                let snapshot = node.snapshot();
                let epoch = snapshot.map.as_ref().map(|map| map.epoch());
                let live: Vec<_> = snapshot.live().map(|node| node.record.id.clone()).collect();
                (node.state(), live, epoch, snapshot.is_connected, snapshot.leader.clone())
            });
            panic!("{when}: not recovered after {limit:?}: {:#?}", states.collect::<Vec<_>>());
        }
    }

    /// Lets this time pass; meanwhile all nodes see all of them as live.
    fn stay_live(&self, time: Duration) {
        let (begun, nodes) = (Instant::now(), self.all());
        while begun.elapsed() < time {
            for node in &nodes {
                let snapshot = node.snapshot();
                let live: Vec<_> = snapshot.live().map(|node| &node.record.id).collect();
                let (id, after) = (&node.options().node_id, begun.elapsed());
                assert_eq!(live.len(), nodes.len(), "{id} sees {live:?} after {after:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Checks the invariants all the time.
    fn watch(&self) -> JoinHandle<()> {
        let (nodes, seen) = (Arc::clone(&self.nodes), Arc::clone(&self.seen));
        let owners: Vec<_> = keys().map(|key| owners_of(&self.all()[0], &key)).collect();
        self.runtime.spawn(async move {
            loop {
                {
                    let nodes = nodes.lock().expect("no panic elsewhere").clone();
                    let mut seen = seen.lock().expect("no panic elsewhere");
                    let leaders: Vec<_> = nodes.iter().filter(|node| node.is_leader()).collect();
                    if leaders.len() > 1 {
                        // The nodes were asked at different moments: check once more.
                        let still = leaders.iter().filter(|node| node.is_leader()).count();
                        if still > 1 {
                            seen.wrong.insert(format!("{still} leaders at once"));
                        }
                    }
                    for node in &nodes {
                        let id = node.options().node_id.clone();
                        let now: BTreeSet<_> = node.snapshot().nodes.keys().cloned().collect();
                        let before = seen.known.insert(id.clone(), now.clone()).unwrap_or_default();
                        if !before.is_subset(&now) {
                            seen.wrong.insert(format!("{id} knows {now:?} after {before:?}"));
                        }
                        if let Some(lease) = node.lease() {
                            seen.tokens.insert(lease.token(), id.clone());
                        }
                        let Some(map) = node.snapshot().map.clone() else { continue };
                        let before = seen.epochs.insert(id.clone(), map.epoch()).unwrap_or(0);
                        if before > map.epoch() {
                            seen.wrong
                                .insert(format!("{id}: epoch {} after {before}", map.epoch()));
                        }
                    }
                    for (key, before) in keys().zip(&owners) {
                        for node in nodes.iter().filter(|node| node.snapshot().map.is_some()) {
                            // A new node gets shards; nothing else moves any.
                            let now = owners_of(node, &key);
                            if now.iter().any(|id| !before.contains(id) && id != "n4") {
                                seen.wrong.insert(format!("{before:?} had {key:?}, then {now:?}"));
                            }
                        }
                    }
                }
                sleep(Duration::from_millis(20)).await;
            }
        })
    }
}

fn keys() -> impl Iterator<Item = String> {
    (0..20).map(|number| format!("metric-{number}"))
}

/// The nodes that have the shard of a key.
fn owners_of(node: &Cluster, key: &str) -> BTreeSet<String> {
    let snapshot = node.snapshot();
    let map = snapshot.map.as_ref().expect("a map");
    map.nodes_of(map.shard_of(key.as_bytes())).map(|(id, _)| id.to_owned()).collect()
}

/// A transport whose requests are counted.
#[derive(Debug)]
struct Counted {
    transport: HttpTransport,
    requests: Arc<AtomicU64>,
}

impl Transport for Counted {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.transport.send(request)
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

async fn request(url: &str, method: Method, path: &str, body: Bytes) -> Bytes {
    send(url, method, path, body).await.into_body()
}

async fn send(url: &str, method: Method, path: &str, body: Bytes) -> Response<Bytes> {
    let options = consul_client::transport::Options::default();
    let transport = HttpTransport::new(url, &options).expect("a transport");
    let request = Request::builder().method(method).uri(path).body(body);
    let answer = transport.send(request.expect("a request")).await.expect("an answer");
    assert!(answer.status().is_success(), "{answer:?}");
    answer
}

/// The index of the last entry in the Raft log.
fn raft_index(nodes: &Nodes, servers: &Servers) -> u64 {
    let url = format!("http://{}", servers.address(servers.wait_for_leader()));
    let itself = request(&url, Method::GET, "/v1/agent/self", Bytes::new());
    let itself: serde_json::Value =
        serde_json::from_slice(&nodes.runtime.block_on(itself)).expect("a JSON document");
    let index = itself["Stats"]["raft"]["last_log_index"].as_str().expect("an index");
    index.parse().expect("a number")
}

fn idle(servers: &Servers) {
    const NODES: usize = 50;
    const SPAN: Duration = Duration::from_secs(15);
    let nodes = Nodes::new();
    let writes = |nodes: &Nodes| {
        let before = raft_index(nodes, servers);
        std::thread::sleep(SPAN);
        raft_index(nodes, servers) - before
    };
    let alone = writes(&nodes);
    for number in 0..NODES {
        nodes.start(servers, &format!("n{number}"), number % 3);
    }
    nodes.wait_until_well("at first", PATIENCE);
    std::thread::sleep(Duration::from_secs(3));
    // On a busy machine a beat can be late, so that its check fails and passes again.
    for _ in 0..3 {
        let before = (nodes.requests.load(Ordering::Relaxed), indexes(&nodes, servers));
        let idle = writes(&nodes);
        let requests = nodes.requests.load(Ordering::Relaxed) - before.0;
        let rate = requests as f64 / SPAN.as_secs_f64() / NODES as f64;
        println!(
            "{NODES} idle nodes: {rate:.2} requests a second from each; Raft entries in {SPAN:?}: {idle}, without them {alone}"
        );
        assert!(rate < 10.0, "{rate}");
        if indexes(&nodes, servers) == before.1 {
            return;
        }
    }
    panic!("something was written all the time");
}

/// The indexes of the data that nodes can write. The servers write other entries of the Raft log
/// themselves, such as the coordinates of their nodes.
fn indexes(nodes: &Nodes, servers: &Servers) -> Vec<String> {
    let url = format!("http://{}", servers.address(servers.wait_for_leader()));
    let paths = ["/v1/kv/?recurse", "/v1/session/list", "/v1/health/state/any"];
    let index = |path| {
        let answer = nodes.runtime.block_on(send(&url, Method::GET, path, Bytes::new()));
        answer.headers()["x-consul-index"].to_str().expect("a number").to_owned()
    };
    paths.map(index).to_vec()
}
