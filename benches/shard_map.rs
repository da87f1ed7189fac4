//! What a shard map costs: to write it down, to read it, to change it, and until 100 nodes have it.
//! Run by `make bench`; every figure that it prints was measured in the run, and it fails when a
//! bound does not hold.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // printing is what it is for

#[allow(dead_code)]
#[path = "../tests/support/consul.rs"]
mod consul;

use bytes::Bytes;
use consul::RealConsul;
use consul_ffi::client::{Client, Settings};
use consul_ffi::clock::{BoxFuture, SystemClock};
use consul_ffi::cluster::membership::Mode;
use consul_ffi::cluster::shard_map::{Member, ShardMap};
use consul_ffi::cluster::{Cluster, Event, Options};
use consul_ffi::error::Error;
use consul_ffi::simulate::{self, Agent, SimTransport};
use consul_ffi::transport::http::HttpTransport;
use consul_ffi::transport::{self, Transport};
use consul_ffi::wire::request::Defaults;
use http::{Request, Response};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const NODES: usize = 100;
const CHANGES: usize = 10;

fn main() {
    let mut fits = vec![document(1024, 2, 50, 5.0), document(16_384, 3, 1000, 100.0)];
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let agent = Arc::new(Agent::new(simulate::Options::default()));
    let timers = Arc::clone(&agent);
    runtime.spawn(async move { timers.run_timers().await });
    let simulated = |_| Arc::new(SimTransport::new(Arc::clone(&agent), "simulated")) as _;
    fits.push(runtime.block_on(spread("the simulated agent", simulated)));

    // Each node has some connections of its own, and all of them one address.
    let config = std::env::temp_dir().join(format!("consul_ffi-bench-{}.hcl", std::process::id()));
    std::fs::write(&config, "limits { http_max_conns_per_client = 5000 }").unwrap();
    match RealConsul::start_with_config("1.21", config.to_str().unwrap()) {
        Ok(consul) => {
            let url = format!("http://{}", consul.address);
            let real = |_| {
                let transport = HttpTransport::new(&url, &transport::Options::default());
                Arc::new(transport.unwrap()) as _
            };
            fits.push(runtime.block_on(spread("Consul 1.21", real)));
        }
        Err(why) => consul::say_skipped("a shard map's way through Consul 1.21", &why),
    }
    std::fs::remove_file(&config).unwrap();
    if fits.contains(&false) {
        std::process::exit(1);
    }
}

/// Prints a figure beside its bound, and says whether it holds.
fn figure(what: &str, measured: f64, bound: f64, unit: &str) -> bool {
    let holds = measured <= bound;
    let verdict = if holds { "" } else { "  TOO MUCH" };
    println!("  {what:<56} {measured:>10.2} {unit:<3} (at most {bound}){verdict}");
    holds
}

/// The time of one of twenty runs, the median, in milliseconds.
fn median<R>(mut work: impl FnMut() -> R) -> f64 {
    let mut times: Vec<f64> = (0..20)
        .map(|_| {
            let begun = Instant::now();
            std::hint::black_box(work());
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// A map as bytes, and after a node has left.
fn document(shards: usize, replicas: usize, nodes: usize, most_ms: f64) -> bool {
    let member = |number: usize| Member {
        id: format!("node-{number}"),
        zone: format!("zone-{}", number % 3),
        weight: 1.0,
        ready: None,
        is_away: false,
    };
    let members: Vec<Member> = (0..nodes).map(member).collect();
    let map = ShardMap::first(shards, replicas, &members, 1);
    let bytes = map.encode();
    println!("{shards} shards with {replicas} replicas each on {nodes} nodes:");
    let fits = [
        figure("the document", bytes.len() as f64 / 1e3, 380.0, "kB"),
        figure("written", median(|| map.encode()), most_ms, "ms"),
        figure("read and checked", median(|| ShardMap::decode(&bytes)), most_ms, "ms"),
        figure(
            "seen to need no change",
            median(|| map.rebalanced(&members, 2)),
            10.0 * most_ms,
            "ms",
        ),
        figure(
            "changed when a node leaves",
            median(|| map.rebalanced(&members[1..], 2)),
            2000.0,
            "ms",
        ),
    ];
    !fits.contains(&false)
}

/// A transport that says when the last transaction was sent: the map is written by one.
#[derive(Debug)]
struct Noting {
    inner: Arc<dyn Transport>,
    written: Arc<Mutex<Option<Instant>>>,
}

impl Transport for Noting {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        if request.uri().path() == "/v1/txn" {
            *self.written.lock().unwrap() = Some(Instant::now());
        }
        self.inner.send(request)
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }
}

/// How long it takes until the last of many nodes knows a new map: each watches the small key, waits
/// for a time by chance and reads the map.
async fn spread(place: &str, transport: impl Fn(usize) -> Arc<dyn Transport>) -> bool {
    let written = Arc::new(Mutex::new(None));
    let (told, mut maps) = mpsc::unbounded_channel();
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let client = || {
            let transport = Noting { inner: transport(number), written: Arc::clone(&written) };
            let settings = Settings {
                timeout: Duration::from_secs(10),
                retry_count: 3,
                defaults: Defaults::default(),
            };
            let clock = Arc::new(SystemClock::default());
            Arc::new(Client::new(vec![Arc::new(transport)], settings, clock, fastrand::Rng::new()))
        };
        let options = Options::new(format!("node-{number}"), "127.0.0.1:9000");
        let cluster = Cluster::new(client(), client(), options).unwrap();
        let (running, telling, told) = (Arc::clone(&cluster), Arc::clone(&cluster), told.clone());
        tokio::spawn(async move { running.run().await });
        tokio::spawn(async move {
            loop {
                if let Event::ShardsChanged(epoch) = telling.next_event().await {
                    let _ = told.send((epoch, Instant::now()));
                }
            }
        });
        nodes.push(cluster);
    }
    for node in &nodes {
        node.started().await;
    }
    // Until the joins have led to a last map, which all have.
    let quiet = Duration::from_secs(4);
    while tokio::time::timeout(quiet, maps.recv()).await.is_ok() {}

    let mut times = Vec::new();
    for change in 0..CHANGES {
        let mode = if change % 2 == 0 { Mode::Draining } else { Mode::Active };
        nodes[0].set_mode("node-1", mode).await.unwrap();
        let mut last = None;
        for _ in 0..NODES {
            last = tokio::time::timeout(Duration::from_secs(30), maps.recv()).await.ok().flatten();
        }
        let (_, known) = last.expect("a map that all nodes hear of");
        times.push((known - written.lock().unwrap().unwrap()).as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{NODES} nodes on {place}, {CHANGES} changes of the map:");
    let median = figure(
        "from the write to the last node that knows, median",
        times[CHANGES / 2],
        500.0,
        "ms",
    );
    median & figure("the longest", times[CHANGES - 1], 2000.0, "ms")
}
