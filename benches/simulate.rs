//! The simulated agent with many waiting queries and with many keys. `make bench` runs it; it fails when
//! a bound does not hold.

#![allow(clippy::print_stdout)] // prints its results

mod figures;

use bytes::Bytes;
use consul_sim::{Agent, Options};
use figures::{figure, median};
use futures_util::future::join_all;
use http::{Method, Request, Response};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let results = [runtime.block_on(watchers()), runtime.block_on(keys())];
    if results.contains(&false) {
        std::process::exit(1);
    }
}

async fn send(agent: &Agent, method: Method, path: &str, body: &str) -> Response<Bytes> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let request = Request::builder().method(method).uri(format!("/v1/{path}")).body(body);
    agent.handle(request.expect("a request")).await
}

fn index(response: &Response<Bytes>) -> u64 {
    let header = response.headers().get("x-consul-index").and_then(|value| value.to_str().ok());
    header.and_then(|text| text.parse().ok()).expect("an index")
}

/// 10,000 blocking queries, each on its own key; a write wakes the query on its key.
async fn watchers() -> bool {
    const WATCHERS: usize = 10_000;
    const WRITES: usize = 200;
    let agent = Arc::new(Agent::new(Options::default()));
    let driver = Arc::clone(&agent);
    tokio::spawn(async move { driver.run_timers().await });
    for key in 0..WATCHERS {
        send(&agent, Method::PUT, &format!("kv/k{key}"), "1").await;
    }
    let tasks = (0..WATCHERS).map(|key| {
        let agent = Arc::clone(&agent);
        tokio::spawn(async move {
            let now = send(&agent, Method::GET, &format!("kv/k{key}"), "").await;
            let path = format!("kv/k{key}?index={}&wait=10m", index(&now));
            send(&agent, Method::GET, &path, "").await;
            Instant::now()
        })
    });
    let mut tasks: Vec<_> = tasks.collect();
    while agent.stats().waiting < WATCHERS {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut times = Vec::new();
    for write in 0..WRITES {
        let key = write * (WATCHERS / WRITES);
        let begun = Instant::now();
        send(&agent, Method::PUT, &format!("kv/k{key}"), "2").await;
        let woken = (&mut tasks[key]).await.expect("the watcher lives");
        times.push(woken.duration_since(begun).as_secs_f64() * 1e3);
    }
    let waiting = agent.stats().waiting;
    println!("{WATCHERS} waiting blocking queries, {WRITES} writes:");
    let is_fast =
        figure("from the write to the watcher's answer, median", median(times), 50.0, "ms");
    let too_many = (WATCHERS - WRITES - waiting) as f64;
    let is_exact = figure("watchers woken without a write of their key", too_many, 0.0, "");
    tasks.iter().for_each(|task| task.abort());
    is_fast && is_exact
}

/// A million keys with 100 bytes each, and lists of 100 of them.
async fn keys() -> bool {
    const KEYS: usize = 1_000_000;
    const LISTS: usize = 1_000;
    let before = memory_mib();
    let agent = Agent::new(Options::default());
    let value = "v".repeat(100);
    for first in 0..KEYS / 100 {
        let writes = (0..100).map(|second| {
            let path = format!("kv/app/{first:05}/{second:02}");
            let (agent, value) = (&agent, &value);
            async move { send(agent, Method::PUT, &path, value).await }
        });
        join_all(writes).await;
    }
    println!("{KEYS} keys with 100 bytes each:");
    let is_small = figure("memory", memory_mib() - before, 300.0, "MiB");
    let mut times: Vec<f64> = Vec::new();
    for list in 0..LISTS {
        let path = format!("kv/app/{:05}/?recurse", list * 7);
        let begun = Instant::now();
        let answer = send(&agent, Method::GET, &path, "").await;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        assert_eq!(answer.body().windows(5).filter(|text| text == b"\"Key\"").count(), 100);
    }
    figure("list of a prefix with 100 keys, median", median(times), 1.0, "ms") && is_small
}

/// The resident memory of this process.
fn memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
