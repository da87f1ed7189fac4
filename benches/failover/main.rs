//! The time without a holder of a lock, or without a leader of a cluster, after the holder is gone.
//! `benches/failover.sh` builds the programs that this needs, and runs it.
//!
//!     failover GUARD GO ROUNDS GO_ROUNDS
//!
//! GUARD is the program consul-guard, GO the program in benches/failover/go. Each round runs each case
//! once, on each version of Consul: a process holds a lock and writes under it, another waits for the
//! lock, the holder stops or fails, and the time from then to the first write of the next holder is
//! measured. Each write is of a new key, so that Consul's indexes show afterwards whether a write of the
//! old holder came after one of the new. Exit status 1: a bound does not hold.

#![allow(clippy::print_stdout, clippy::print_stderr)] // prints its results

#[allow(dead_code)]
use consul_test_support::cluster;
#[allow(dead_code)]
use consul_test_support::consul;
#[allow(dead_code)]
#[path = "../../crates/consul-guard/tests/coordination/holder.rs"]
mod holder;
#[allow(dead_code)]
use consul_test_support::proxy;

use cluster::Cluster;
use consul::RealConsul;
use holder::{Holder, Orders, What, now_ns};
use proxy::{Network, Proxy};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

/// Lets a process wait for the lock; random, because the holder beats every 400 or 500 ms.
fn wait_random_time() {
    thread::sleep(Duration::from_millis(fastrand::u64(400..1400)));
}

/// The time for writes that the old holder had begun, once it runs again.
const LATE_WRITES: Duration = Duration::from_millis(700);

/// The end of the holder's hold.
#[derive(Clone, Copy, PartialEq)]
enum Cause {
    /// It releases the lock.
    Release,
    /// SIGKILL.
    Kill,
    /// SIGSTOP, then SIGCONT when the next holder has written.
    Stop,
    /// All its packets are dropped, until the next holder has written.
    Drop,
}

/// A row of the table.
struct Case {
    name: &'static str,
    cause: Cause,
    profile: &'static str,
    /// Whether the holder has a guard process.
    guard: bool,
    what: What,
    bound: Duration,
}

const fn case(
    name: &'static str,
    cause: Cause,
    (profile, guard): (&'static str, bool),
    bound_ms: u64,
) -> Case {
    Case { name, cause, profile, guard, what: What::Lock, bound: Duration::from_millis(bound_ms) }
}

/// The same for the leadership of a cluster.
const fn leader(name: &'static str, cause: Cause, guard: bool, bound_ms: u64) -> Case {
    Case { what: What::Leadership, ..case(name, cause, ("default", guard), bound_ms) }
}

/// Cases of milliseconds, which run one after the other.
const SHORT: &[Case] = &[
    case("hand-over", Cause::Release, ("default", false), 50),
    case("SIGKILL, with the guard", Cause::Kill, ("default", true), 100),
    leader("leader: stop", Cause::Release, false, 50),
    leader("leader: SIGKILL, with the guard", Cause::Kill, true, 100),
];

/// Cases that wait for timers, which run concurrently.
const LONG: &[Case] = &[
    case("SIGKILL", Cause::Kill, ("default", false), 5500),
    case("SIGSTOP", Cause::Stop, ("default", false), 5500),
    case("dropped packets", Cause::Drop, ("default", false), 5500),
    case("SIGKILL, fast", Cause::Kill, ("fast", false), 3500),
    case("SIGSTOP, fast", Cause::Stop, ("fast", false), 3500),
    case("dropped packets, fast", Cause::Drop, ("fast", false), 3500),
    leader("leader: SIGKILL", Cause::Kill, false, 5500),
    leader("leader: SIGSTOP", Cause::Stop, false, 5500),
    leader("leader: dropped packets", Cause::Drop, false, 5500),
];

const AGENT_KILLED: &str = "agent killed";
const AGENT_BOUND: Duration = Duration::from_secs(10);

/// The cases of the Go client, without bounds.
const GO_SHORT: &[(&str, Cause, &str)] = &[("Go, hand-over", Cause::Release, "defaults")];
const GO_LONG: &[(&str, Cause, &str)] = &[
    ("Go, SIGKILL", Cause::Kill, "defaults"),
    ("Go, SIGKILL, TTL 10 s, no lock-delay", Cause::Kill, "short"),
];

fn main() -> ExitCode {
    if holder::is_one(|word| panic!("unknown command {word}")) {
        return ExitCode::SUCCESS;
    }
    // cargo adds `--bench`.
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [guard, go, rounds, go_rounds] = arguments.as_slice() else {
        panic!("usage: failover GUARD GO ROUNDS GO_ROUNDS");
    };
    let programs = Programs {
        guard,
        go: Some(Path::new(go)).filter(|program| program.exists()),
        rounds: rounds.parse().expect("a number of rounds"),
        go_rounds: go_rounds.parse().expect("a number of rounds"),
    };
    let mut columns = Vec::new();
    for version in ["1.21", "1.8"] {
        if !consul::is_missing(version, &format!("failover on Consul {version}")) {
            columns.push((version, measure(version, &programs)));
        }
    }
    if table(&columns) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The programs, and how often each case runs.
struct Programs<'a> {
    guard: &'a str,
    go: Option<&'a Path>,
    rounds: usize,
    go_rounds: usize,
}

/// The results on one version of Consul.
#[derive(Default)]
struct Column {
    times: Mutex<BTreeMap<&'static str, Vec<Duration>>>,
    /// The number of writes of old holders after one of the next.
    late_writes: Mutex<usize>,
}

impl Column {
    fn add(&self, name: &'static str, (time, late): (Duration, usize)) {
        self.times.lock().expect("no panic").entry(name).or_default().push(time);
        *self.late_writes.lock().expect("no panic") += late;
    }

    /// The median and the longest time of a row, and the number of times.
    fn of(&self, name: &str) -> Option<(Duration, Duration, usize)> {
        let mut times = self.times.lock().expect("no panic").get(name)?.clone();
        times.sort();
        Some((times[times.len() / 2], *times.last()?, times.len()))
    }
}

fn measure(version: &str, programs: &Programs) -> Column {
    let column = Column::default();
    let consul = RealConsul::start(version).expect("it starts");
    let mut cluster = Cluster::start_with_clients(3, 1, version).expect("they start");
    let address = &consul.address;
    let add = |name, outcome| column.add(name, outcome);
    thread::scope(|scope| {
        for (name, cause, profile) in GO_LONG {
            scope.spawn(move || {
                for round in 0..programs.go_rounds {
                    let Some(go) = programs.go else { return };
                    let key = format!("go/{profile}/{round}");
                    add(name, of_go(go, address, &key, (*cause, profile)));
                }
            });
        }
        for round in 0..programs.rounds {
            for case in SHORT {
                add(case.name, run(case, address, programs.guard, round));
            }
            for (name, cause, profile) in GO_SHORT {
                if let Some(go) = programs.go {
                    add(
                        name,
                        of_go(go, address, &format!("go/release/{round}"), (*cause, profile)),
                    );
                }
            }
            thread::scope(|scope| {
                for case in LONG {
                    scope.spawn(move || add(case.name, run(case, address, programs.guard, round)));
                }
                // On this thread, because a restarted agent ends with the thread that started it.
                add(AGENT_KILLED, agent_killed(&mut cluster, round));
            });
            eprintln!("Consul {version}: round {} of {}", round + 1, programs.rounds);
        }
    });
    column
}

/// Runs a case; returns the time without a holder, and the number of late writes of the old one.
fn run(case: &Case, address: &str, guard: &str, round: usize) -> (Duration, usize) {
    let name = case.name.replace([' ', ',', ':'], "-");
    let [key, old, new] = ["lock", "old", "new"].map(|what| format!("{name}/{round}/{what}"));
    let proxy = Proxy::new(address);
    let url = format!("http://{address}");
    let of_first = if case.cause == Cause::Drop { proxy.url() } else { url.clone() };
    let orders = Orders { profile: case.profile, what: case.what, ..Orders::new(&of_first, &key) };
    let guard = case.guard.then_some(guard);
    let mut first = Holder::start(&Orders { guard, writes: Some(&old), ..orders.clone() });
    first.wait_for("writes");
    let mut next = Holder::start(&Orders { url: &url, writes: Some(&new), ..orders });
    wait_random_time();
    let since = match case.cause {
        Cause::Release => {
            first.command("release");
            first.wait_for("releases").at_ns
        }
        Cause::Kill => first.kill(),
        Cause::Stop => {
            let now = now_ns();
            first.signal("STOP");
            now
        }
        Cause::Drop => {
            let now = now_ns();
            proxy.set(Network::BlackHole);
            now
        }
    };
    let time = until_it_writes(&mut next, since);
    match case.cause {
        Cause::Stop => first.signal("CONT"),
        Cause::Drop => proxy.set(Network::Good),
        Cause::Release | Cause::Kill => {}
    }
    if matches!(case.cause, Cause::Stop | Cause::Drop) {
        thread::sleep(LATE_WRITES);
    }
    (time, late_writes(address, &old, &new))
}

/// Kills the agent of the holder, but neither the holder nor one of the three servers.
fn agent_killed(cluster: &mut Cluster, round: usize) -> (Duration, usize) {
    const AGENT: usize = 3;
    let server = cluster.address(0);
    let [key, old, new] = ["lock", "old", "new"].map(|what| format!("agent/{round}/{what}"));
    let [of_agent, of_server] =
        [cluster.address(AGENT), server.clone()].map(|address| format!("http://{address}"));
    let mut first = Holder::start(&Orders { writes: Some(&old), ..Orders::new(&of_agent, &key) });
    first.wait_for("writes");
    let mut next = Holder::start(&Orders { writes: Some(&new), ..Orders::new(&of_server, &key) });
    wait_random_time();
    let since = now_ns();
    cluster.kill(AGENT);
    let time = until_it_writes(&mut next, since);
    cluster.restart(AGENT);
    cluster.wait_until_healthy(AGENT);
    thread::sleep(LATE_WRITES);
    (time, late_writes(&server, &old, &new))
}

/// The same for a program with the Go client, which has no fenced writes.
fn of_go(
    go: &Path,
    address: &str,
    key: &str,
    (cause, profile): (Cause, &str),
) -> (Duration, usize) {
    let url = format!("http://{address}");
    let orders = Orders { profile, writes: Some(key), ..Orders::new(&url, key) };
    let mut first = Holder::of(go, &orders);
    first.wait_for("writes");
    let mut next = Holder::of(go, &orders);
    wait_random_time();
    let since = if cause == Cause::Kill {
        first.kill()
    } else {
        first.command("release");
        first.wait_for("releases").at_ns
    };
    (until_it_writes(&mut next, since), 0)
}

fn until_it_writes(next: &mut Holder, since_ns: u128) -> Duration {
    let nanos = next.wait_for("writes").at_ns.saturating_sub(since_ns);
    Duration::from_nanos(u64::try_from(nanos).expect("a short time"))
}

/// The number of writes of the old holder that Consul applied after the first write of the next one.
fn late_writes(address: &str, old: &str, new: &str) -> usize {
    let first = indexes(address, new).into_iter().min().expect("it wrote");
    let old = indexes(address, old);
    assert!(!old.is_empty(), "the old holder wrote nothing, so this shows nothing");
    old.into_iter().filter(|index| *index > first).count()
}

/// The modify indexes of the keys with a prefix, one per write.
fn indexes(address: &str, prefix: &str) -> Vec<u64> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET /v1/kv/{prefix}/?recurse&consistent HTTP/1.0\r\n\r\n").expect("it reads");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("it answers");
    let (_, body) = reply.split_once("\r\n\r\n").expect("an answer");
    let entries: Vec<serde_json::Value> = serde_json::from_str(body).expect("a list");
    entries.iter().filter_map(|entry| entry["ModifyIndex"].as_u64()).collect()
}

/// Prints the table for docs/benchmarks.md; returns whether all bounds hold.
fn table(columns: &[(&str, Column)]) -> bool {
    let mut holds = true;
    let cells = |texts: Vec<String>| println!("| {} |", texts.join(" | "));
    let mut head = vec!["to the next holder's first write".to_owned(), "at most".to_owned()];
    head.extend(columns.iter().map(|(version, _)| format!("Consul {version}")));
    let line = format!("|{}", "---|".repeat(head.len()));
    println!();
    cells(head);
    println!("{line}");
    let ours = SHORT.iter().chain(LONG).map(|case| (case.name, Some(case.bound)));
    let go = GO_SHORT.iter().chain(GO_LONG).map(|(name, ..)| (*name, None));
    for (name, bound) in ours.chain([(AGENT_KILLED, Some(AGENT_BOUND))]).chain(go) {
        let mut row = vec![name.to_owned(), bound.map_or(String::new(), shown)];
        for (_, column) in columns {
            row.push(match column.of(name) {
                None => "SKIPPED".to_owned(),
                Some((median, longest, count)) => {
                    let is_missed = bound.is_some_and(|bound| median > bound);
                    holds &= !is_missed;
                    let missed = if is_missed { " **missed**" } else { "" };
                    format!("{}{missed} (longest {}, of {count})", shown(median), shown(longest))
                }
            });
        }
        cells(row);
    }
    let mut row = vec!["late writes of the old holder".to_owned(), "0".to_owned()];
    for (_, column) in columns {
        let late = *column.late_writes.lock().expect("no panic");
        holds &= late == 0;
        row.push(late.to_string());
    }
    cells(row);
    println!();
    if !holds {
        println!("A bound does not hold.");
    }
    holds
}

fn shown(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}
