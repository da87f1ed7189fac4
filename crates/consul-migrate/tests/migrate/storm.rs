//! Six writers, a tool that is killed at random moments, and no difference at the end.

use super::etcd::{Etcd, text};
use super::program::{Running, Servers};
use crate::support::cluster::Cluster;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The size of a storm: small in each run of the tests, large with `LONG`.
struct Size {
    keys: usize,
    kills: usize,
    /// How long the writers go on at least.
    time: Duration,
}

fn size() -> Size {
    match std::env::var_os("LONG") {
        Some(_) => Size { keys: 100_000, kills: 20, time: Duration::from_secs(60) },
        None => Size { keys: 5000, kills: 3, time: Duration::from_secs(4) },
    }
}

pub fn run(version: &'static str) {
    let servers = Servers::start("storm", version);
    thread::scope(|scope| {
        scope.spawn(|| naive_copy(&servers));
        storm(&servers, &size(), || ());
    });
    assert_ne!(naive(&servers), 0, "the storm does not show what a naive copy loses");
    is_equal(&servers);
}

/// Three servers of each, whose leaders are killed in the middle.
pub fn run_without_leaders(version: &'static str) {
    let mut consul = Cluster::start(3, version).unwrap();
    let addresses = (0..3).map(|index| consul.address(index)).collect();
    let servers = Servers::of(Etcd::cluster("leaders"), addresses);
    let size = Size { keys: 20_000, kills: 6, time: Duration::from_secs(30) };
    storm(&servers, &size, || {
        let leader = consul.wait_for_leader();
        consul.kill(leader);
        servers.etcd.kill_leader();
    });
    is_equal(&servers);
}

/// Writers, and a tool that is killed; `in_the_middle` happens after half of the kills.
fn storm(servers: &Servers, size: &Size, in_the_middle: impl FnOnce()) {
    let value =
        |place: usize| (format!("/app/{:02}/{place:06}", place % 50), format!("{place:>200}"));
    servers.etcd.gateway().fill((0..size.keys).map(value));
    let (is_over, writes) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut tail = thread::scope(|scope| {
        let _over = Over(&is_over);
        for seed in 0..6 {
            let (etcd, is_over, writes, keys) = (&servers.etcd, &is_over, &writes, size.keys);
            scope.spawn(move || write(etcd, seed, keys, is_over, writes));
        }
        under_kills(servers, size, in_the_middle)
    });
    servers.wait_for_tail();
    tail.kill();
    assert!(writes.load(Ordering::Relaxed) > 100, "the writers were too slow");
}

fn is_equal(servers: &Servers) {
    let said = servers.run(&["verify"]).ok();
    assert!(said.contains("0 missing, 0 extra, 0 different"), "{said}");
}

/// The control: a loop over all keys, page by page, as they are at that moment.
fn naive_copy(servers: &Servers) {
    let (etcd, consul) = (servers.etcd.gateway(), servers.consul());
    // A job does not begin where Consul has keys.
    while servers.record() == Value::Null {
        thread::sleep(Duration::from_millis(20));
    }
    let mut next = text(b"\0");
    loop {
        let page =
            etcd.post("kv/range", json!({ "key": next, "range_end": "AA==", "limit": "64" }));
        let kvs = page["kvs"].as_array().cloned().unwrap_or_default();
        let Some(last) = kvs.last() else { return };
        next = text(&[&bytes(&last["key"])[..], &[0]].concat());
        let set = |kv: &Value| {
            let key = String::from_utf8(bytes(&kv["key"])).unwrap();
            json!({ "KV": { "Verb": "set", "Key": format!("naive{key}"), "Value": kv["value"] } })
        };
        let body = Value::Array(kvs.iter().map(set).collect()).to_string();
        assert_eq!(consul.send("PUT", "/v1/txn", body).unwrap().0, 200);
    }
}

/// In how many keys the naive copy differs; it is deleted then.
fn naive(servers: &Servers) -> usize {
    let (etcd, consul) = (servers.etcd.gateway(), servers.consul());
    let all = etcd.post("kv/range", json!({ "key": "AA==", "range_end": "AA==" }));
    let kvs = all["kvs"].as_array().unwrap().iter();
    let name = |kv: &Value| format!("naive{}", String::from_utf8(bytes(&kv["key"])).unwrap());
    let wanted: HashSet<_> = kvs.map(|kv| (name(kv), kv["value"].clone())).collect();
    let (_, body) = consul.send("GET", "/v1/kv/naive/?recurse", "").unwrap();
    let found: Vec<Value> = serde_json::from_slice(&body).unwrap();
    let name = |kv: &Value| kv["Key"].as_str().unwrap().to_owned();
    let found: HashSet<_> = found.iter().map(|kv| (name(kv), kv["Value"].clone())).collect();
    consul.send("DELETE", "/v1/kv/naive/?recurse", "").unwrap();
    wanted.symmetric_difference(&found).count()
}

fn bytes(text: &Value) -> Vec<u8> {
    BASE64.decode(text.as_str().unwrap()).unwrap()
}

/// Ends the writers, also after a panic.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs copy and then tail, and kills the tool at random moments. Returns the last run.
fn under_kills(servers: &Servers, size: &Size, in_the_middle: impl FnOnce()) -> Running {
    let mut in_the_middle = Some(in_the_middle);
    let (begun, mut kills) = (Instant::now(), 0);
    let mut tool = servers.start_run(&["copy"]);
    let (mut rng, mut is_copy) = (fastrand::Rng::with_seed(7), true);
    loop {
        thread::sleep(Duration::from_millis(rng.u64(50..800)));
        let is_begun = servers.record() != serde_json::Value::Null;
        if kills < size.kills && is_begun {
            if kills == size.kills / 2
                && let Some(happens) = in_the_middle.take()
            {
                happens();
            }
            tool.kill();
            kills += 1;
        } else if !tool.has_ended() {
            if kills == size.kills && !is_copy && begun.elapsed() > size.time {
                return tool;
            }
            continue;
        }
        is_copy = servers.record()["phase"] != "tail";
        tool = servers.start_run(&[if is_copy { "copy" } else { "tail" }]);
        assert!(begun.elapsed() < Duration::from_secs(600), "the copy does not end");
    }
}

fn write(etcd: &Etcd, seed: u64, keys: usize, is_over: &AtomicBool, writes: &AtomicU64) {
    let (gateway, mut rng) = (etcd.gateway(), fastrand::Rng::with_seed(seed));
    while !is_over.load(Ordering::Relaxed) {
        let key = |rng: &mut fastrand::Rng| {
            let place = rng.usize(..keys);
            format!("/app/{:02}/{place:06}", place % 50)
        };
        match rng.u8(..10) {
            0..5 => gateway.put(key(&mut rng).as_bytes(), rng.u64(..).to_string().as_bytes()),
            5..7 => gateway.delete(key(&mut rng).as_bytes()),
            _ => {
                let count = rng.choice([2, 20, 120]).unwrap();
                let some: std::collections::BTreeSet<_> =
                    (0..count).map(|_| key(&mut rng)).collect();
                let change = |key| (key, rng.bool().then(|| rng.u64(..).to_string()));
                gateway.txn(&some.into_iter().map(change).collect::<Vec<_>>());
            }
        }
        writes.fetch_add(1, Ordering::Relaxed);
        // Two cores: the tool is to get ahead of the writers in the end.
        thread::sleep(Duration::from_millis(5));
    }
}
