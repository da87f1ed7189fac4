//! The module inside C programs: short-lived Lua states, threads, forks, signals, an engine without
//! memory. The programs are in `tests/host`; each runs on each engine.

#![allow(clippy::unwrap_used)] // a test that panics has failed
#![deny(dead_code)] // a test that is not listed

use consul_test_support as support;

use crate::support::PATIENCE;
use crate::support::consul::{self, RealConsul};
use crate::support::program;
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A Lua engine: its interpreter, the folder of its module from `make build`, its headers and
/// library.
struct Engine {
    interpreter: &'static str,
    flavour: &'static str,
    headers: &'static str,
    library: &'static str,
}

const ENGINES: &[Engine] = &[
    Engine {
        interpreter: "luajit",
        flavour: "luajit",
        headers: "luajit-2.1",
        library: "luajit-5.1",
    },
    Engine { interpreter: "lua5.1", flavour: "5.1", headers: "lua5.1", library: "lua5.1" },
    Engine { interpreter: "lua5.4", flavour: "5.4", headers: "lua5.4", library: "lua5.4" },
];

type Run = fn(&Engine) -> Result<(), Failed>;

const TESTS: &[(&str, Run)] = &[
    ("states_end_with_clients_open", states_end_with_clients_open),
    ("states_end_with_calls_in_flight [long]", states_end_with_calls_in_flight),
    ("a_name_look_up_holds_no_end_up", a_name_look_up_holds_no_end_up),
    ("two_threads_have_a_state_each", two_threads_have_a_state_each),
    ("two_threads_have_calls_in_flight [long]", two_threads_have_calls_in_flight),
    ("parent_and_children_go_on_simulated", parent_and_children_go_on_simulated),
    ("parent_and_children_share_no_connection", parent_and_children_share_no_connection),
    ("children_have_none_of_their_parents_handles", children_have_none_of_their_parents_handles),
    ("children_have_none_of_their_parents_watches", children_have_none_of_their_parents_watches),
    ("children_have_none_of_their_parents_servers", children_have_none_of_their_parents_servers),
    ("a_state_that_ends_closes_its_servers", a_state_that_ends_closes_its_servers),
    ("a_state_waits_for_the_last_work_of_all_its_objects_together", last_work),
    ("handles_share_no_connection_with_children", handles_share_no_connection_with_children),
    ("ctrl_c_ends_a_long_wait_for_a_handle", ctrl_c_ends_a_long_wait_for_a_handle),
    ("states_end_with_log_functions", states_end_with_log_functions),
    ("threads_with_log_functions_take_each_others_lines", threads_with_log_functions),
    ("children_have_their_parents_log_function", children_have_their_parents_log_function),
    ("finalizers_call_log_functions", finalizers_call_log_functions),
    ("children_begin_with_numbers_of_zero", children_begin_with_zeros),
    ("scrapes_leave_memory_and_descriptors_as_they_were", scrapes_leave_memory_and_descriptors),
    ("abandoned_waits_leave_nothing", abandoned_waits_leave_nothing),
    ("ctrl_c_ends_a_long_wait_on_a_socket", ctrl_c_ends_a_long_wait_on_a_socket),
    ("ctrl_c_ends_a_long_wait_simulated", ctrl_c_ends_a_long_wait_simulated),
    ("an_engine_without_memory_says_so", an_engine_without_memory_says_so),
    ("refused_memory_never_ends_the_process", refused_memory_never_ends_the_process),
    ("a_broken_put_does_not_end_the_process", a_broken_put_does_not_end_the_process),
];

fn main() {
    support::trials::run(2, &[trials]);
}

fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    for engine in ENGINES {
        for (name, run) in TESTS {
            trials.add(format!("{name} [{}]", engine.interpreter), move || run(engine));
        }
    }
    let missing = consul::is_missing(consul::SIM, "locks and clusters in other programs");
    for engine in ENGINES {
        for (name, program) in [
            ("children_have_none_of_their_parents_locks", &["run", "fork/locks.lua"][..]),
            ("children_have_services_of_their_own", &["run", "fork/services.lua"]),
            ("a_state_that_ends_gives_its_locks_up", &["states", "72", "locks.lua"]),
            ("children_have_none_of_their_parents_nodes", &["run", "fork/cluster.lua"]),
            ("a_state_that_ends_leaves_its_cluster", &["states", "10", "cluster.lua"]),
        ] {
            let name = format!("{name} [{}]", engine.interpreter);
            trials.add_unless(missing, name, move || with_consul(engine, program));
        }
    }
    trials
}

/// Runs a program whose clients find an agent by their environment.
fn with_consul(engine: &Engine, program: &[&str]) -> Result<(), Failed> {
    let server = RealConsul::start(consul::SIM)?;
    succeeds(engine.host()?.args(program).env("CONSUL_HTTP_ADDR", &server.address))
}

fn states_end_with_clients_open(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["states", "200", "use.lua"]))
}

fn states_end_with_calls_in_flight(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["states", "200", "handles.lua"]))
}

fn two_threads_have_calls_in_flight(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["threads", "50", "handles.lua"]))
}

fn states_end_with_log_functions(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["states", "50", "log.lua"]))
}

fn threads_with_log_functions(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["threads", "20", "log.lua"]))
}

fn children_have_their_parents_log_function(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["run", "fork/log.lua"]))
}

fn a_name_look_up_holds_no_end_up(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["run", "lookup.lua"]))
}

fn two_threads_have_a_state_each(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["threads", "50", "use.lua"]))
}

fn an_engine_without_memory_says_so(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["memory", "memory.lua"]))
}

/// Refuses memory while the module is loaded and while the first object of each class is created.
/// `REFUSE_STRIDE=1` leaves no point out (`make soak`).
fn refused_memory_never_ends_the_process(engine: &Engine) -> Result<(), Failed> {
    let stride = std::env::var("REFUSE_STRIDE").unwrap_or_else(|_| "37".to_owned());
    succeeds_within(
        engine.host()?.args(["refuse", "refuse.lua", &stride]),
        Duration::from_secs(1800),
    )
}

fn parent_and_children_go_on_simulated(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["run", "fork/calls.lua"]))
}

fn parent_and_children_share_no_connection(engine: &Engine) -> Result<(), Failed> {
    let server = CountingServer::start();
    succeeds(engine.host()?.args(["run", "fork/calls.lua", &server.url]))?;
    let connections = server.connections_by_user()?;
    let one_each = ["child", "grandchild", "hooked", "nephew", "parent"];
    let expected = BTreeMap::from(one_each.map(|user| (user.to_owned(), 1)));
    if connections == expected {
        return Ok(());
    }
    Err(format!("connections by user: {connections:?}").into())
}

fn children_have_none_of_their_parents_handles(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["run", "fork/handles.lua"]))
}

fn children_have_none_of_their_parents_watches(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["run", "fork/watches.lua"]))
}

fn children_have_none_of_their_parents_servers(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["run", "fork/status.lua"]))
}

fn finalizers_call_log_functions(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["states", "20", "log_finalizer.lua"]))
}

fn children_begin_with_zeros(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["run", "fork/metrics.lua"]))
}

fn scrapes_leave_memory_and_descriptors(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["run", "scrapes.lua"]))
}

fn a_state_that_ends_closes_its_servers(engine: &Engine) -> Result<(), Failed> {
    succeeds(engine.host()?.args(["states", "12", "status.lua"]))
}

/// The limit is 1 s for all 15 clients and 30 locks; with one for each the end would take at least 15 s.
fn last_work(engine: &Engine) -> Result<(), Failed> {
    let begun = Instant::now();
    succeeds(engine.host()?.args(["run", "last_work.lua"]))?;
    let took = begun.elapsed();
    if took < Duration::from_secs(10) { Ok(()) } else { Err(format!("{took:?}").into()) }
}

fn handles_share_no_connection_with_children(engine: &Engine) -> Result<(), Failed> {
    let server = CountingServer::start();
    succeeds(engine.host()?.args(["run", "fork/handles.lua", &server.url]))?;
    let connections = server.connections_by_user()?;
    if connections.get("child") == Some(&1) && connections.get("grandchild") == Some(&1) {
        return Ok(());
    }
    Err(format!("connections by user: {connections:?}").into())
}

fn abandoned_waits_leave_nothing(engine: &Engine) -> Result<(), Failed> {
    let server = CountingServer::start();
    succeeds(engine.host()?.args(["run", "abandoned.lua", &server.url]))
}

fn ctrl_c_ends_a_long_wait_on_a_socket(engine: &Engine) -> Result<(), Failed> {
    // The kernel accepts the connection; no process answers.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}", silent.local_addr()?);
    let program = format!("client = consul_ffi.new({{ endpoint = '{endpoint}' }}) {LONG_CALL}");
    ctrl_c_ends_a_long_wait(engine, &program)
}

fn ctrl_c_ends_a_long_wait_simulated(engine: &Engine) -> Result<(), Failed> {
    let program = format!("client = consul_ffi.new({{ simulate = true }}) {LONG_CALL}");
    ctrl_c_ends_a_long_wait(engine, &program)
}

fn ctrl_c_ends_a_long_wait_for_a_handle(engine: &Engine) -> Result<(), Failed> {
    ctrl_c_ends_a_long_wait(
        engine,
        "client = consul_ffi.new({ simulate = true }) \
         client:start('kv_get', 'k', { index = 1000, wait = '10m' }):wait()",
    )
}

const LONG_CALL: &str = "client:kv_get('k', { index = 1000, wait = '10m' })";

/// A hook runs every 50 ms. The call would take ten minutes.
fn ctrl_c_ends_a_long_wait(engine: &Engine, work: &str) -> Result<(), Failed> {
    let program = format!(
        "consul_ffi = require('consul_ffi') \
         print('waiting') io.stdout:flush() \
         {work} \
         print('not interrupted')"
    );
    let mut child = engine
        .interpreter()
        .args(["-e", &program])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line)?;
    thread::sleep(Duration::from_millis(200));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    let output = output_within(child, PATIENCE)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !killed.success() || output.status.code() != Some(1) || !said.contains("interrupted!") {
        return Err(format!("{line}{} {said}", output.status).into());
    }
    Ok(())
}

fn a_broken_put_does_not_end_the_process(engine: &Engine) -> Result<(), Failed> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // With data unread the connection is reset, and the rest of the body has nowhere to go.
            let _ = stream.read(&mut [0; 1000]);
        }
    });
    let program = format!(
        "local client = require('consul_ffi').new({{ endpoint = '{endpoint}', timeout = 2000 }}) \
         local body = ('x'):rep(16 * 1024 * 1024) \
         for _ = 1, 20 do \
             local success, _, err = client:http_request('PUT', '/v1/kv/k', body) \
             assert(success == false and err.kind == 'connect', err.message) \
         end \
         print('alive')"
    );
    let mut command = engine.interpreter();
    let child = command.args(["-e", &program]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = output_within(child.spawn()?, PATIENCE)?;
    if output.status.success() && output.stdout == b"alive\n" {
        return Ok(());
    }
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

impl Engine {
    fn interpreter(&self) -> Command {
        self.with_module(Command::new(self.interpreter))
    }

    /// The C program, compiled for this engine.
    fn host(&self) -> Result<Command, Failed> {
        let source = folder().join("host.c");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("host-{}", self.flavour));
        // Tests run concurrently: each compiles its own file and moves it there.
        let own = program.with_extension(format!("{:?}", thread::current().id()));
        let output = Command::new("cc")
            .args(["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&own, &source])
            .arg(format!("-I/usr/include/{}", self.headers))
            .args([&format!("-l{}", self.library), "-lm", "-ldl", "-lpthread"])
            .output()?;
        if !output.status.success() {
            return Err(format!("cc: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        std::fs::rename(&own, &program)?;
        Ok(self.with_module(Command::new(program)))
    }

    fn with_module(&self, mut command: Command) -> Command {
        let module = program::modules().join(self.flavour).join("consul_ffi.so");
        assert!(module.exists(), "make build-{} makes {}", self.flavour, module.display());
        command
            .env("LUA_CPATH", module.with_file_name("?.so"))
            .env("LUA_PATH", "./?.lua")
            .env_remove("LUA_PATH_5_4")
            .env_remove("LUA_CPATH_5_4")
            .env_remove("CONSUL_HTTP_ADDR")
            .current_dir(folder())
            .process_group(0);
        command
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host")
}

fn succeeds(command: &mut Command) -> Result<(), Failed> {
    succeeds_within(command, Duration::from_secs(1200))
}

fn succeeds_within(command: &mut Command, limit: Duration) -> Result<(), Failed> {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let output = output_within(child, limit)?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// The output of a program; a hanging one is ended and fails.
fn output_within(mut child: Child, limit: Duration) -> Result<Output, Failed> {
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > limit {
            // With its own children, which hold its output too.
            Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status()?;
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("it still ran after {limit:?}: {said}").into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(child.wait_with_output()?)
}

/// A server that keeps its connections alive and records the user of each: the last part of the
/// path.
struct CountingServer {
    url: String,
    users: Arc<Mutex<Vec<BTreeSet<String>>>>,
}

impl CountingServer {
    fn start() -> CountingServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let users = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&users);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let place = {
                    let mut noted = noted.lock().unwrap();
                    noted.push(BTreeSet::new());
                    noted.len() - 1
                };
                let noted = Arc::clone(&noted);
                thread::spawn(move || {
                    answer(stream, |user| {
                        noted.lock().unwrap()[place].insert(user);
                    })
                });
            }
        });
        CountingServer { url, users }
    }

    /// How many connections each user had.
    ///
    /// # Errors
    /// When one connection had several users.
    fn connections_by_user(&self) -> Result<BTreeMap<String, usize>, Failed> {
        let mut connections = BTreeMap::new();
        for users in self.users.lock().unwrap().iter() {
            if users.len() > 1 {
                return Err(format!("one connection has many users: {users:?}").into());
            }
            users.iter().for_each(|user| *connections.entry(user.clone()).or_insert(0) += 1);
        }
        Ok(connections)
    }
}

/// Answers every request with the key that it names; a blocking query after a while.
fn answer(mut stream: TcpStream, note: impl Fn(String)) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    while let Some(Ok(first)) = lines.next() {
        let path = first.split(' ').nth(1).unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let key = path.rsplit('/').next().unwrap_or_default();
        note(key.to_owned());
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        if query.contains("index=") {
            thread::sleep(Duration::from_millis(300));
        }
        let body = format!(
            r#"[{{"Key":"{key}","Value":"dg==","Flags":0,"LockIndex":0,"CreateIndex":7,"ModifyIndex":7}}]"#
        );
        let length = body.len();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Consul-Index: 7";
        let reply = format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}");
        if stream.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}
