//! consul_ffi compared with other clients in one run. `benches/clients.sh` builds the clients and runs
//! this on the stub and on a Consul.
//!
//!     clients FOLDER [stub|consul]
//!
//! FOLDER has the programs that benches/clients.sh built. Each client is a process that takes commands
//! (benches/clients/worker.lua lists them). In a round every client gets the same command, one after the
//! other. The ratio of two clients is the median of the ratios of their times within a round, so that
//! other load on the machine affects both; all bounds are such ratios. Exit status 1: a bound does not
//! hold.

#![allow(clippy::print_stdout)] // prints its results

#[path = "../figures/mod.rs"]
mod figures;

use figures::{mark, median};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::{env, fs};

const RAW: &str = "raw socket";
const OURS: &str = "consul_ffi";
const CURL: &str = "libcurl by FFI";
const SOCKET: &str = "LuaSocket";
const GO: &str = "Go api";

/// A limit of the ratio of two clients' times, and the ratio that is the goal.
struct Bound {
    client: &'static str,
    baseline: &'static str,
    at_most: f64,
    aim: f64,
}

const fn bound(client: &'static str, baseline: &'static str, at_most: f64, aim: f64) -> Bound {
    Bound { client, baseline, at_most, aim }
}

fn main() {
    // cargo adds `--bench`.
    let arguments: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    let [folder, target] = arguments.as_slice() else {
        panic!("usage: clients FOLDER stub|consul");
    };
    let folder = PathBuf::from(folder);
    let holds = match target.as_str() {
        "stub" => on_stub(&folder),
        _ => {
            let address = env::var("CONSUL_HTTP_ADDR").expect("CONSUL_HTTP_ADDR");
            let version = env::var("CONSUL_VERSION").unwrap_or_default();
            on(
                &folder,
                &format!("Consul {version}"),
                &address,
                &[
                    bound(OURS, RAW, 1.5, 1.35),
                    bound(OURS, GO, 1.0, 1.0),
                    bound(OURS, CURL, 1.05, 1.0),
                ],
                &[bound(OURS, GO, 1.0, 0.5)],
            )
        }
    };
    if !holds {
        println!("A bound does not hold.");
        std::process::exit(1);
    }
}

fn on_stub(folder: &Path) -> bool {
    let bodies = folder.join("bodies");
    write_bodies(&bodies).expect("the bodies are written");
    let mut stub = Command::new(folder.join("stub"))
        .arg(&bodies)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the stub runs");
    let mut port = String::new();
    BufReader::new(stub.stdout.take().expect("its output")).read_line(&mut port).expect("a port");
    let address = format!("127.0.0.1:{}", port.trim());
    let bounds =
        [bound(OURS, RAW, 1.75, 1.55), bound(OURS, GO, 1.0, 1.0), bound(OURS, CURL, 1.0, 1.0)];
    let holds = on(folder, "the stub", &address, &bounds, &[bound(OURS, GO, 1.0 / 1.5, 0.5)]);
    let decodes = decoding(folder, &address);
    drop(stub.stdin.take());
    let _ = stub.wait();
    holds && decodes
}

/// Measures sequential calls, batches and a fixed rate; returns whether the bounds hold.
fn on(folder: &Path, what: &str, address: &str, of_reads: &[Bound], of_batches: &[Bound]) -> bool {
    let mut clients = Worker::all(folder, address);
    for client in &mut clients {
        client.ask("put 100");
        client.ask("get 500");
    }
    // Long enough for warm CPU caches during most of a client's turn.
    let reads = rounds(&mut clients, 41, |_| Some("get 2000".to_owned()));
    let mut holds = table(&format!("kv_get on {what}"), &reads, 2000.0, of_reads);
    let writes = rounds(&mut clients, 21, |_| Some("put 1000".to_owned()));
    table(&format!("kv_put on {what}"), &writes, 1000.0, &[]);
    for limit in [16, 64] {
        let command = format!("batch 10000 {limit}");
        let batches =
            rounds(&mut clients, 7, |name| [OURS, GO].contains(&name).then(|| command.clone()));
        let bounds = if limit == 64 { of_batches } else { &[] };
        let title = format!("10,000 reads, {limit} at a time, on {what}");
        holds &= table(&title, &batches, 10_000.0, bounds);
    }
    println!("\n10,000 reads a second for 30 s on {what}, delay after each read's due time in ms");
    println!("  {:<16}{:>9}{:>9}{:>9}{:>9}", "", "p50", "p99", "p99.9", "longest");
    for client in clients.iter_mut().filter(|client| [OURS, GO].contains(&client.name)) {
        print!("  {:<16}", client.name);
        client.ask("paced 10000 30").iter().for_each(|late| print!("{:>9.3}", late * 1e3));
        println!();
    }
    println!("  (an earlier guide to deployment promised a p99 below 5 ms)");
    holds
}

/// Measures the additional time for Lua values over fetching the same body as text, compared with
/// lua-cjson, which leaves the values of keys in base64.
fn decoding(folder: &Path, address: &str) -> bool {
    let mut client = Worker::start(OURS, folder, address).expect("the module was built");
    let mut holds = true;
    for (what, path) in [
        ("a listing of 5,000 keys", "/v1/kv/list?recurse"),
        ("a health reply of 2,000 instances", "/v1/health/service/web"),
    ] {
        let mut times: Times = Times::new();
        for _ in 0..21 {
            let figures = client.ask(&format!("decode {path}"));
            times.entry(OURS).or_default().push(figures[1] - figures[0]);
            times.entry("lua-cjson").or_default().push(figures[2]);
        }
        let bounds = [bound(OURS, "lua-cjson", 1.0, 0.7)];
        holds &= table(&format!("{what} into Lua values"), &times, 1.0, &bounds);
    }
    holds
}

/// Seconds, by client, in the order of the rounds.
type Times = BTreeMap<&'static str, Vec<f64>>;

fn rounds(clients: &mut [Worker], count: usize, command: impl Fn(&str) -> Option<String>) -> Times {
    let mut times = Times::new();
    for round in 0..count {
        // Each client is the first one equally often.
        let mut turns: Vec<usize> = (0..clients.len()).collect();
        turns.rotate_left(round % clients.len());
        for turn in turns {
            let client = &mut clients[turn];
            if let Some(command) = command(client.name) {
                let seconds = client.ask(&command)[0];
                times.entry(client.name).or_default().push(seconds);
            }
        }
    }
    times
}

/// Prints the median time of an operation and the ratio to the baseline; returns whether the bounds
/// hold.
fn table(title: &str, times: &Times, operations: f64, bounds: &[Bound]) -> bool {
    println!("\n{title}, median of {} rounds", times.values().map(Vec::len).max().unwrap_or(0));
    for (name, seconds) in times {
        print!("  {name:<16}{:>12.2} µs", median(seconds.clone()) / operations * 1e6);
        if let Some(baseline) = times.get(RAW).or_else(|| times.get(GO)) {
            print!("{:>9.2}", ratio(seconds, baseline));
        }
        println!();
    }
    let mut all_hold = true;
    for bound in bounds {
        let (Some(client), Some(baseline)) = (times.get(bound.client), times.get(bound.baseline))
        else {
            continue;
        };
        let ratio = ratio(client, baseline);
        let holds = ratio <= bound.at_most;
        all_hold &= holds;
        println!(
            "  {} / {}: {ratio:.2} (at most {:.2}, aim {:.2}){}",
            bound.client,
            bound.baseline,
            bound.at_most,
            bound.aim,
            mark(holds)
        );
    }
    all_hold
}

fn ratio(times: &[f64], baseline: &[f64]) -> f64 {
    median(times.iter().zip(baseline).map(|(time, other)| time / other).collect())
}

/// A client's process.
struct Worker {
    name: &'static str,
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn all(folder: &Path, address: &str) -> Vec<Worker> {
        let start = |name| Worker::start(name, folder, address);
        [RAW, OURS, CURL, SOCKET, GO].into_iter().filter_map(start).collect()
    }

    /// `None` when it was not built; benches/clients.sh has printed why.
    fn start(name: &'static str, folder: &Path, address: &str) -> Option<Worker> {
        let lua = |client| {
            let mut command = Command::new("luajit");
            command.arg("benches/clients/worker.lua").arg(client).arg(address);
            command.env("LUA_CPATH", format!("{}/?.so;;", folder.display()));
            command
        };
        let mut command = match name {
            RAW => lua("raw"),
            OURS => lua("consul_ffi"),
            CURL => lua("libcurl"),
            SOCKET => lua("luasocket"),
            _ => {
                let program = folder.join("go-client");
                if !program.exists() {
                    return None;
                }
                let mut command = Command::new(program);
                command.arg(address);
                command
            }
        };
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = piped.spawn().expect("the client runs");
        let commands = process.stdin.take().expect("its input");
        let answers = BufReader::new(process.stdout.take().expect("its output"));
        Some(Worker { name, process, commands, answers })
    }

    fn ask(&mut self, command: &str) -> Vec<f64> {
        writeln!(self.commands, "{command}").expect("the client listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the client answers");
        let figures: Vec<f64> = answer.split_whitespace().flat_map(str::parse).collect();
        assert!(!figures.is_empty(), "{} failed at {command:?}", self.name);
        figures
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes the bodies that the stub serves, in the form of Consul 1.21's.
fn write_bodies(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let entry = |key: &str| {
        let value = "dnZ2".repeat(33) + "dg==";
        format!(
            r#"{{"LockIndex":0,"Key":"{key}","Flags":0,"Value":"{value}","CreateIndex":17,"ModifyIndex":42}}"#
        )
    };
    fs::write(folder.join("kv"), format!("[{}]", entry("bench/key")))?;
    let entries: Vec<String> = (0..5000).map(|i| entry(&format!("list/{i:05}"))).collect();
    fs::write(folder.join("kv_list"), format!("[{}]", entries.join(",")))?;
    let instance = include_str!("instance.json").trim();
    let instances: Vec<String> =
        (0..2000).map(|i| instance.replace("NUMBER", &format!("{i:04}"))).collect();
    fs::write(folder.join("health"), format!("[{}]", instances.join(",")))
}
