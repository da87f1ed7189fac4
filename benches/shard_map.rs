//! The cost of a shard map: encoding, decoding, rebalancing, and the time until 100 nodes have a new one.
//! `make bench` runs it; it fails when a bound does not hold.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // prints its results

mod figures;

#[allow(dead_code)]
use consul_test_support::consul;

use bytes::Bytes;
use consul::RealConsul;
use consul_api::error::Error;
use consul_api::request::Defaults;
use consul_client::transport::http::HttpTransport;
use consul_client::transport::{self, Transport};
use consul_client::{Client, Settings};
use consul_cluster::shard_map::{Member, ShardMap};
use consul_cluster::{Cluster, Event, Mode, Options};
use consul_process::clock::{BoxFuture, SystemClock};
use consul_sim::{self as simulate, Agent, SimTransport};
use figures::{figure, median};
use http::{Request, Response};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const NODES: usize = 100;
const CHANGES: usize = 10;

fn main() {
    let mut results = vec![document(1024, 2, 50, 5.0), document(16_384, 3, 1000, 100.0)];
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let agent = Arc::new(Agent::new(simulate::Options::default()));
    let timers = Arc::clone(&agent);
    runtime.spawn(async move { timers.run_timers().await });
    let simulated = |_| Arc::new(SimTransport::new(Arc::clone(&agent), "simulated")) as _;
    results.push(runtime.block_on(publication("the simulated agent", simulated)));

    // All nodes have the same address, and each has several connections.
    let config = std::env::temp_dir().join(format!("consul_ffi-bench-{}.hcl", std::process::id()));
    std::fs::write(&config, "limits { http_max_conns_per_client = 5000 }").unwrap();
    match RealConsul::start_with_config("1.21", config.to_str().unwrap()) {
        Ok(consul) => {
            let url = format!("http://{}", consul.address);
            let real = |_| {
                let transport = HttpTransport::new(&url, &transport::Options::default());
                Arc::new(transport.unwrap()) as _
            };
            results.push(runtime.block_on(publication("Consul 1.21", real)));
        }
        Err(why) => consul::say_skipped("a shard map's way through Consul 1.21", &why),
    }
    std::fs::remove_file(&config).unwrap();
    if results.contains(&false) {
        std::process::exit(1);
    }
}

/// The median time of twenty runs in milliseconds.
fn median_ms<R>(mut work: impl FnMut() -> R) -> f64 {
    let times = (0..20)
        .map(|_| {
            let begun = Instant::now();
            std::hint::black_box(work());
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    median(times)
}

/// Encodes, decodes and rebalances a map; returns whether all bounds hold.
fn document(shards: usize, replicas: usize, nodes: usize, most_ms: f64) -> bool {
    let member = |number: usize| Member {
        id: format!("node-{number}"),
        zone: format!("zone-{}", number % 3),
        weight: 1.0,
        ready: None,
        is_down: false,
    };
    let members: Vec<Member> = (0..nodes).map(member).collect();
    let map = ShardMap::first(shards, replicas, &members, 1);
    let bytes = map.encode();
    println!("{shards} shards with {replicas} replicas each on {nodes} nodes:");
    let results = [
        figure("the document", bytes.len() as f64 / 1e3, 380.0, "kB"),
        figure("encode", median_ms(|| map.encode()), most_ms, "ms"),
        figure("decode and validate", median_ms(|| ShardMap::decode(&bytes)), most_ms, "ms"),
        figure(
            "rebalance without a change",
            median_ms(|| map.rebalanced(&members, 2)),
            10.0 * most_ms,
            "ms",
        ),
        figure(
            "rebalance after a node has left",
            median_ms(|| map.rebalanced(&members[1..], 2)),
            2000.0,
            "ms",
        ),
    ];
    !results.contains(&false)
}

/// A transport that records when the last transaction was sent, which writes the map.
#[derive(Debug)]
struct Recording {
    inner: Arc<dyn Transport>,
    written: Arc<Mutex<Option<Instant>>>,
}

impl Transport for Recording {
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

/// Measures the time until the last of 100 nodes has a new map; returns whether the bounds hold. Each
/// node watches the announcement, waits a random time and reads the map.
async fn publication(place: &str, transport: impl Fn(usize) -> Arc<dyn Transport>) -> bool {
    let written = Arc::new(Mutex::new(None));
    let (reports, mut maps) = mpsc::unbounded_channel();
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let client = || {
            let transport = Recording { inner: transport(number), written: Arc::clone(&written) };
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
        let (running, watched, reports) =
            (Arc::clone(&cluster), Arc::clone(&cluster), reports.clone());
        tokio::spawn(async move { running.run().await });
        tokio::spawn(async move {
            loop {
                if let Event::ShardsChanged(epoch) = watched.next_event().await {
                    let _ = reports.send((epoch, Instant::now()));
                }
            }
        });
        nodes.push(cluster);
    }
    for node in &nodes {
        node.started().await.expect("nothing is refused");
    }
    // Until all nodes have the last map after the joins.
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
        let (_, known) = last.expect("all nodes get the map");
        times.push((known - written.lock().unwrap().unwrap()).as_secs_f64() * 1e3);
    }
    println!("{NODES} nodes on {place}, {CHANGES} changes of the map:");
    let longest = times.iter().copied().fold(0.0, f64::max);
    let is_fast = figure("from the write to the last node, median", median(times), 500.0, "ms");
    is_fast & figure("from the write to the last node, longest", longest, 2000.0, "ms")
}
