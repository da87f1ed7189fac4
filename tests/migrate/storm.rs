//! Six writers, a tool that is killed at random moments, and no difference at the end.

use super::etcd::Etcd;
use super::program::{Running, Servers};
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
    let size = size();
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
        under_kills(&servers, &size)
    });
    servers.wait_for_tail();
    tail.kill();
    assert!(writes.load(Ordering::Relaxed) > 100, "the writers were too slow");
    let said = servers.run(&["verify"]).ok();
    assert!(said.contains("0 missing, 0 extra, 0 different"), "{said}");
}

/// Ends the writers, also after a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs copy and then tail, and kills the tool at random moments. Returns the last run.
fn under_kills(servers: &Servers, size: &Size) -> Running {
    let (begun, mut kills) = (Instant::now(), 0);
    let mut tool = servers.start_run(&["copy"]);
    let (mut rng, mut is_copy) = (fastrand::Rng::with_seed(7), true);
    loop {
        thread::sleep(Duration::from_millis(rng.u64(50..800)));
        let is_begun = servers.record() != serde_json::Value::Null;
        if kills < size.kills && is_begun {
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
