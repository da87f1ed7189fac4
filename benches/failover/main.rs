//! How long nobody holds a lock, or leads a cluster, when its holder goes: `benches/failover.sh` builds what this needs
//! and runs it.
//!
//!     failover GUARD GO ROUNDS GO_ROUNDS
//!
//! GUARD is the program consul-guard, GO the program in benches/failover/go. In each round each case
//! is played once, on each version of Consul: a process holds a lock and writes under it, another
//! waits for the lock, something happens to the first, and the time from then to the other's first
//! write is taken. Each write is of a new key, so that Consul itself can be asked afterwards whether
//! a write of the first came after one of the second. Exit status 1: a bound does not hold.

#![allow(clippy::print_stdout, clippy::print_stderr)] // printing is what it is for

#[allow(dead_code)]
#[path = "../../tests/support/cluster.rs"]
mod cluster;
#[allow(dead_code)]
#[path = "../../tests/support/consul.rs"]
mod consul;
#[allow(dead_code)]
#[path = "../../tests/support/holder.rs"]
mod holder;
#[allow(dead_code)]
#[path = "../../tests/support/proxy.rs"]
mod proxy;

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

/// How long a process waits for the lock before something happens to its holder: by chance, because
/// the holder beats every 400 or 500 ms.
fn wait_a_while() {
    thread::sleep(Duration::from_millis(fastrand::u64(400..1400)));
}

/// How long the old holder has for what it had begun, once it can go on.
const COMES_BACK: Duration = Duration::from_millis(700);

/// What happens to the holder.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// It releases the lock.
    Release,
    /// It gets SIGKILL.
    Kill,
    /// It gets SIGSTOP, and SIGCONT when the other has written.
    Stop,
    /// Nothing that it sends or is sent arrives, until the other has written.
    Drop,
}

/// A row of the table.
struct Case {
    name: &'static str,
    fate: Fate,
    profile: &'static str,
    /// Whether there is a guard.
    guard: bool,
    what: What,
    bound: Duration,
}

const fn case(
    name: &'static str,
    fate: Fate,
    (profile, guard): (&'static str, bool),
    bound_ms: u64,
) -> Case {
    Case { name, fate, profile, guard, what: What::Lock, bound: Duration::from_millis(bound_ms) }
}

/// The same of a cluster's leadership.
const fn leader(name: &'static str, fate: Fate, guard: bool, bound_ms: u64) -> Case {
    Case { what: What::Leadership, ..case(name, fate, ("default", guard), bound_ms) }
}

/// One after the other, because they take milliseconds.
const SHORT: &[Case] = &[
    case("hand-over", Fate::Release, ("default", false), 50),
    case("SIGKILL, with the guard", Fate::Kill, ("default", true), 100),
    leader("leader: stop", Fate::Release, false, 50),
    leader("leader: SIGKILL, with the guard", Fate::Kill, true, 100),
];

/// All at once, because they wait for timers.
const LONG: &[Case] = &[
    case("SIGKILL", Fate::Kill, ("default", false), 5500),
    case("SIGSTOP", Fate::Stop, ("default", false), 5500),
    case("dropped packets", Fate::Drop, ("default", false), 5500),
    case("SIGKILL, fast", Fate::Kill, ("fast", false), 3500),
    case("SIGSTOP, fast", Fate::Stop, ("fast", false), 3500),
    case("dropped packets, fast", Fate::Drop, ("fast", false), 3500),
    leader("leader: SIGKILL", Fate::Kill, false, 5500),
    leader("leader: SIGSTOP", Fate::Stop, false, 5500),
    leader("leader: dropped packets", Fate::Drop, false, 5500),
];

const AGENT_KILLED: &str = "agent killed";
const AGENT_BOUND: Duration = Duration::from_secs(10);

/// What is measured of the Go client, which needs no bound.
const GO_SHORT: &[(&str, Fate, &str)] = &[("Go, hand-over", Fate::Release, "defaults")];
const GO_LONG: &[(&str, Fate, &str)] = &[
    ("Go, SIGKILL", Fate::Kill, "defaults"),
    ("Go, SIGKILL, TTL 10 s, no lock-delay", Fate::Kill, "short"),
];

fn main() -> ExitCode {
    if holder::is_one(|word| panic!("{word} is no command")) {
        return ExitCode::SUCCESS;
    }
    // cargo adds an argument of its own.
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

/// What is run, and how often.
struct Programs<'a> {
    guard: &'a str,
    go: Option<&'a Path>,
    rounds: usize,
    go_rounds: usize,
}

/// What was measured on one version.
#[derive(Default)]
struct Column {
    times: Mutex<BTreeMap<&'static str, Vec<Duration>>>,
    /// How many writes of an old holder came after one of the new.
    strays: Mutex<usize>,
}

impl Column {
    fn add(&self, name: &'static str, (time, strays): (Duration, usize)) {
        self.times.lock().expect("no panic").entry(name).or_default().push(time);
        *self.strays.lock().expect("no panic") += strays;
    }

    /// The median and the longest of a row, and of how many.
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
        for (name, fate, profile) in GO_LONG {
            scope.spawn(move || {
                for round in 0..programs.go_rounds {
                    let Some(go) = programs.go else { return };
                    let key = format!("go/{profile}/{round}");
                    add(name, of_go(go, address, &key, (*fate, profile)));
                }
            });
        }
        for round in 0..programs.rounds {
            for case in SHORT {
                add(case.name, play(case, address, programs.guard, round));
            }
            for (name, fate, profile) in GO_SHORT {
                if let Some(go) = programs.go {
                    add(name, of_go(go, address, &format!("go/release/{round}"), (*fate, profile)));
                }
            }
            thread::scope(|scope| {
                for case in LONG {
                    scope.spawn(move || add(case.name, play(case, address, programs.guard, round)));
                }
                // On this thread, with which the agent ends that is started here.
                add(AGENT_KILLED, agent_killed(&mut cluster, round));
            });
            eprintln!("Consul {version}: round {} of {}", round + 1, programs.rounds);
        }
    });
    column
}

/// Plays a case; the time without a holder, and how many writes of the old one came too late.
fn play(case: &Case, address: &str, guard: &str, round: usize) -> (Duration, usize) {
    let name = case.name.replace([' ', ',', ':'], "-");
    let [key, old, new] = ["lock", "old", "new"].map(|what| format!("{name}/{round}/{what}"));
    let proxy = Proxy::new(address);
    let url = format!("http://{address}");
    let of_first = if case.fate == Fate::Drop { proxy.url() } else { url.clone() };
    let orders = Orders { profile: case.profile, what: case.what, ..Orders::new(&of_first, &key) };
    let guard = case.guard.then_some(guard);
    let mut first = Holder::start(&Orders { guard, writes: Some(&old), ..orders.clone() });
    first.wait_for("writes");
    let mut next = Holder::start(&Orders { url: &url, writes: Some(&new), ..orders });
    wait_a_while();
    let since = match case.fate {
        Fate::Release => {
            first.command("release");
            first.wait_for("releases").at_ns
        }
        Fate::Kill => first.kill(),
        Fate::Stop => {
            let now = now_ns();
            first.signal("STOP");
            now
        }
        Fate::Drop => {
            let now = now_ns();
            proxy.set(Network::BlackHole);
            now
        }
    };
    let time = until_it_writes(&mut next, since);
    match case.fate {
        Fate::Stop => first.signal("CONT"),
        Fate::Drop => proxy.set(Network::Good),
        Fate::Release | Fate::Kill => {}
    }
    if matches!(case.fate, Fate::Stop | Fate::Drop) {
        thread::sleep(COMES_BACK);
    }
    (time, strays(address, &old, &new))
}

/// The agent of the holder is killed, beside three servers; the holder itself lives.
fn agent_killed(cluster: &mut Cluster, round: usize) -> (Duration, usize) {
    const AGENT: usize = 3;
    let server = cluster.address(0);
    let [key, old, new] = ["lock", "old", "new"].map(|what| format!("agent/{round}/{what}"));
    let [of_agent, of_server] =
        [cluster.address(AGENT), server.clone()].map(|address| format!("http://{address}"));
    let mut first = Holder::start(&Orders { writes: Some(&old), ..Orders::new(&of_agent, &key) });
    first.wait_for("writes");
    let mut next = Holder::start(&Orders { writes: Some(&new), ..Orders::new(&of_server, &key) });
    wait_a_while();
    let since = now_ns();
    cluster.kill(AGENT);
    let time = until_it_writes(&mut next, since);
    cluster.restart(AGENT);
    cluster.wait_until_healthy(AGENT);
    thread::sleep(COMES_BACK);
    (time, strays(&server, &old, &new))
}

/// The same of a program with the Go client, which has no fenced writes.
fn of_go(go: &Path, address: &str, key: &str, (fate, profile): (Fate, &str)) -> (Duration, usize) {
    let url = format!("http://{address}");
    let orders = Orders { profile, writes: Some(key), ..Orders::new(&url, key) };
    let mut first = Holder::of(go, &orders);
    first.wait_for("writes");
    let mut next = Holder::of(go, &orders);
    wait_a_while();
    let since = if fate == Fate::Kill {
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

/// How many writes of the old holder Consul took after the first of the new one.
fn strays(address: &str, old: &str, new: &str) -> usize {
    let first = indexes(address, new).into_iter().min().expect("it wrote");
    let old = indexes(address, old);
    assert!(!old.is_empty(), "the old holder wrote nothing, so this shows nothing");
    old.into_iter().filter(|index| *index > first).count()
}

/// The indexes of the writes under a prefix, each of a key of its own.
fn indexes(address: &str, prefix: &str) -> Vec<u64> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET /v1/kv/{prefix}/?recurse&consistent HTTP/1.0\r\n\r\n").expect("it reads");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("it answers");
    let (_, body) = reply.split_once("\r\n\r\n").expect("an answer");
    let entries: Vec<serde_json::Value> = serde_json::from_str(body).expect("a list");
    entries.iter().filter_map(|entry| entry["ModifyIndex"].as_u64()).collect()
}

/// Prints the table, as it stands in docs/benchmarks.md; whether every bound holds.
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
        let strays = *column.strays.lock().expect("no panic");
        holds &= strays == 0;
        row.push(strays.to_string());
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
