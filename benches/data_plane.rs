//! Calls between nodes, compared with hyper alone: the same number of callers, each with its own
//! connection, on the same runtime. `make bench` runs it; it fails when a bound does not hold.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // prints its results

mod figures;

use bytes::Bytes;
use consul_api::request::Defaults;
use consul_client::{Client, Settings};
use consul_cluster::data_plane::{Body, CallOptions, ClusterKey, DataPlane, Request};
use consul_cluster::{Cluster, Options};
use consul_process::clock::SystemClock;
use consul_sim::{self as simulate, Agent, SimTransport};
use figures::mark;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// The number of concurrent callers and of their connections.
const CALLERS: usize = 4;
const CALLS_PER_CALLER: usize = 2_000;
/// All ways are measured in each round, so that other load on the machine affects them alike.
const ROUNDS: usize = 5;
const BODY: [u8; 200] = [b'x'; 200];

trait Caller {
    async fn call(&mut self);
}

struct HyperCaller(SendRequest<Full<Bytes>>);

impl Caller for HyperCaller {
    async fn call(&mut self) {
        let request = http::Request::post("/v1/call").header("host", "a");
        let request = request.body(Full::from(&BODY[..])).unwrap();
        self.0.ready().await.unwrap();
        let reply = self.0.send_request(request).await.unwrap();
        assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), BODY[..]);
    }
}

struct NodeCaller(Arc<DataPlane>);

impl Caller for NodeCaller {
    async fn call(&mut self) {
        let body = Body::bytes(&BODY[..]);
        let reply = self.0.call("n2", "echo", &body, &CallOptions::default()).await.unwrap();
        assert_eq!(reply.bytes, BODY[..]);
    }
}

/// The time of all calls together, and the times of the single calls.
async fn measure<C: Caller>(callers: &mut [C]) -> (Duration, Vec<Duration>) {
    let begun = Instant::now();
    let times = callers.iter_mut().map(async |caller| {
        let mut times = Vec::with_capacity(CALLS_PER_CALLER);
        for _ in 0..CALLS_PER_CALLER {
            let begun = Instant::now();
            caller.call().await;
            times.push(begun.elapsed());
        }
        times
    });
    let times = join_all(times).await.concat();
    (begun.elapsed(), times)
}

#[derive(Clone, Copy)]
struct Speed {
    /// Calls per second.
    rate: f64,
    /// The 99th percentile of the calls' times.
    p99: Duration,
}

fn speed((all, mut times): (Duration, Vec<Duration>)) -> Speed {
    times.sort();
    Speed { rate: times.len() as f64 / all.as_secs_f64(), p99: times[times.len() * 99 / 100] }
}

/// The medians of the rounds' rates and percentiles.
fn median_speed(mut speeds: Vec<Speed>) -> Speed {
    speeds.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    let rate = speeds[speeds.len() / 2].rate;
    speeds.sort_by_key(|speed| speed.p99);
    Speed { rate, p99: speeds[speeds.len() / 2].p99 }
}

async fn hyper_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let echo = service_fn(async |request: http::Request<hyper::body::Incoming>| {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                Ok::<_, Infallible>(http::Response::new(Full::new(body)))
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), echo));
        }
    });
    address
}

async fn hyper_callers() -> Vec<HyperCaller> {
    let address = hyper_server().await;
    let callers = (0..CALLERS).map(async |_| {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let io = TokioIo::new(stream);
        let (requests, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        HyperCaller(requests)
    });
    join_all(callers).await
}

/// A started node with the handler `echo`.
async fn node(agent: &Arc<Agent>, id: &str, key: Option<&str>) -> (Arc<Cluster>, Arc<DataPlane>) {
    let transport = Arc::new(SimTransport::new(Arc::clone(agent), "simulated"));
    let settings =
        Settings { timeout: Duration::from_secs(5), retry_count: 3, defaults: Defaults::default() };
    let (clock, rng) = (Arc::new(SystemClock::new()), fastrand::Rng::new());
    let client = Arc::new(Client::new(vec![transport], settings, clock, rng));
    let cluster_key = key.map(ClusterKey::new);
    let options = Options { cluster_key, ..Options::new(id, "127.0.0.1:9000") };
    let cluster = Cluster::new(Arc::clone(&client), client, options).unwrap();
    let echo = |request: Request| {
        let Some(request) = request.begin() else { return };
        let body = request.body.clone();
        request.reply(Ok(body));
    };
    let plane = DataPlane::new(Arc::clone(&cluster), echo).unwrap();
    plane.set_handler("echo", true);
    tokio::spawn(Arc::clone(&plane).serve());
    let running = Arc::clone(&cluster);
    tokio::spawn(async move { running.run().await });
    cluster.started().await.expect("nothing is refused");
    let polls = Arc::clone(&plane);
    tokio::spawn(async move {
        loop {
            polls.poll();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    (cluster, plane)
}

async fn node_callers(key: Option<&str>) -> Vec<NodeCaller> {
    let agent = Arc::new(Agent::new(simulate::Options::default()));
    let timers = Arc::clone(&agent);
    tokio::spawn(async move { timers.run_timers().await });
    let (cluster, plane) = node(&agent, "n1", key).await;
    let (other, _) = node(&agent, "n2", key).await;
    while cluster.snapshot().live().count() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The node must run as long as the runtime.
    std::mem::forget(other);
    (0..CALLERS).map(|_| NodeCaller(Arc::clone(&plane))).collect()
}

fn main() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let all_hold = runtime.block_on(async {
        let mut hyper = hyper_callers().await;
        let mut unsigned = node_callers(None).await;
        let mut signed = node_callers(Some("a secret of the cluster")).await;
        let (mut alone, mut without_key, mut with_key) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            alone.push(speed(measure(&mut hyper).await));
            without_key.push(speed(measure(&mut unsigned).await));
            with_key.push(speed(measure(&mut signed).await));
        }
        let alone = median_speed(alone);
        println!("{CALLERS} callers, requests and replies of {} bytes", BODY.len());
        let (without_key, with_key) = (median_speed(without_key), median_speed(with_key));
        let holds = [("hyper alone", alone), ("calls", without_key), ("signed calls", with_key)]
            .map(|(what, speed)| {
                let rate = speed.rate / alone.rate;
                let p99 = speed.p99.as_secs_f64() / alone.p99.as_secs_f64();
                let holds = rate >= 0.5 && p99 <= 3.0;
                println!(
                    "{what:<13} {:>7.0}/s ({rate:.2}, at least 0.50)  p99 {:>5} µs ({p99:.2}, at most 3.00){}",
                    speed.rate,
                    speed.p99.as_micros(),
                    mark(holds)
                );
                holds
            });
        !holds.contains(&false)
    });
    runtime.shutdown_background();
    if !all_hold {
        std::process::exit(1);
    }
}
