//! The crash guard: a process holds a lock and ends, in every possible way.

#![allow(clippy::unwrap_used)] // a test that panics has failed
#![allow(unsafe_code)] // forks, and what a program does that goes wrong

mod of_this_process;

use crate::holder::{Holder, Orders, What, now_ns};
use crate::support::PATIENCE;
use crate::support::authority::Folder;
use crate::support::consul::{self, RealConsul};
use crate::support::program;
use crate::support::proxy::{Network, Proxy};
use crate::support::trials::Trials;
use consul_client::coordination::{Guard, Profile, ReleaseStep};
use consul_client::transport::Options;
use consul_guard::{Connection, GuardProcess};
use http::Request;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use std::{fs, thread};

const GUARD: &str = env!("CARGO_BIN_EXE_consul-guard");

/// The profile with the longest times.
const PROFILE: &str = "wan";

fn profile() -> Profile {
    Profile::named(PROFILE).unwrap()
}

/// The limit for "at once" on a loaded machine: less than the lock delay, which passes if the key is not
/// unlocked. Without a guard it takes 13 seconds.
const AT_ONCE: Duration = Duration::from_secs(5);

type Run = fn(&World);

pub fn trials() -> Trials {
    let everywhere: &[(&str, Run)] = &[
        ("a_killed_process_has_no_locks", killed),
        ("a_killed_process_has_no_permits", permits),
        ("locks_stay_as_long_as_their_process_lives", lives),
        ("a_process_that_releases_its_lock_has_no_guard", released),
        ("a_forked_child_keeps_no_lock_of_its_dead_parent", parent_dies),
        ("a_forked_child_takes_no_lock_from_its_parent", child_dies),
        ("a_process_that_ends_in_order_has_no_locks", ends),
        ("after_exec_others_wait_for_the_lock_delay", execs),
        ("a_process_that_closes_the_line_has_its_lock_taken_with_its_delay", closes_all),
        ("a_guard_that_is_gone_is_replaced", replaced),
        ("a_stopped_guard_is_replaced", stopped),
        ("without_process_and_guard_the_check_expires", both_killed),
        ("an_unreachable_consul_is_asked_again", consul_away),
        ("a_killed_lua_program_has_no_locks", lua_killed),
        ("a_guard_shows_no_secret_and_has_nothing_of_the_process", inherits_nothing),
    ];
    let mut trials = Trials::of(module_path!());
    of_this_process::add_to(&mut trials);
    // The versions differ only in what frees a key.
    for (version, count) in [(consul::SIM, everywhere.len()), ("1.21", 9)] {
        let missing = consul::is_missing(version, &format!("the crash guard on Consul {version}"));
        let world = Arc::new(LazyLock::new(move || World::start(version)));
        for (name, run) in &everywhere[..count] {
            let world = Arc::clone(&world);
            trials.add_unless(missing, format!("{name} [{version}]"), move || run(&world));
        }
    }
    trials
}

/// A server with ACLs.
struct World {
    consul: RealConsul,
}

impl World {
    fn start(version: &str) -> World {
        World { consul: RealConsul::start_with_acl(version, "deny").expect("it starts") }
    }

    fn url(&self) -> String {
        format!("http://{}", self.consul.address)
    }

    fn holder_at(&self, url: &str, key: &str, guard: Option<&str>) -> Holder {
        let token = Some(self.consul.token.as_str());
        Holder::start(&Orders { guard, token, profile: PROFILE, ..Orders::new(url, key) })
    }

    /// A process with a guard that holds the lock, and a waiter.
    fn two(&self, key: &str) -> (Holder, Holder) {
        let mut first = self.holder_at(&self.url(), key, Some(GUARD));
        first.wait_for("held");
        let next = self.holder_at(&self.url(), key, None);
        // It waits once it has seen that the key is held.
        thread::sleep(Duration::from_millis(300));
        (first, next)
    }

    /// The session that holds a key; `None` if it is free.
    fn session(&self, key: &str) -> Option<String> {
        self.get(&format!("/v1/kv/{key}"))[0]["Session"].as_str().map(str::to_owned)
    }

    fn get(&self, target: &str) -> serde_json::Value {
        let mut stream = TcpStream::connect(&self.consul.address).unwrap();
        let token = &self.consul.token;
        write!(stream, "GET {target} HTTP/1.0\r\nX-Consul-Token: {token}\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (_, body) = reply.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).expect(&reply)
    }
}

/// The commands of a holder, besides the release of its lock.
pub fn act(word: &str) {
    match word {
        "exec" => panic!("{}", Command::new("sleep").arg("60").exec()),
        "exit" => std::process::exit(0),
        "close" => {
            // The runtime has others, which are older.
            let line = (3..100).rfind(|fd| is_unix_socket(*fd)).unwrap();
            // SAFETY: none; the test is a program that closes descriptors of others.
            unsafe { libc::close(line) };
        }
        _ => {
            let seconds = word.strip_prefix("fork ").unwrap().parse().unwrap();
            // SAFETY: the child calls nothing but sleep and _exit.
            unsafe {
                if libc::fork() == 0 {
                    libc::close(1);
                    libc::sleep(seconds);
                    libc::_exit(0);
                }
            }
        }
    }
}

fn is_unix_socket(fd: i32) -> bool {
    let mut name = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    let mut length = size_of_val(&name) as libc::socklen_t;
    // SAFETY: the structure is as long as it says, and outlives the call.
    let found = unsafe { libc::getsockname(fd, &raw mut name, &raw mut length) };
    found == 0 && i32::from(name.sa_family) == libc::AF_UNIX
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work)
}

/// The time that the waiter waited for the lock.
fn waited(next: &mut Holder, since_ns: u128) -> Duration {
    let held = next.wait_for("held");
    Duration::from_nanos(held.at_ns.saturating_sub(since_ns) as u64)
}

/// The ids of the guards of a process: command lines can be read.
fn guards(of: &Holder) -> Vec<u32> {
    guards_of(GUARD, of.process.id())
}

fn guards_of(program: &str, process: u32) -> Vec<u32> {
    let wanted = format!("{program}\0{process}\0");
    let is_guard = |id: &u32| {
        fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| line == wanted.as_bytes())
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(is_guard).collect()
}

fn the_guard(of: &Holder) -> u32 {
    let guards = guards(of);
    assert_eq!(guards.len(), 1, "{guards:?}");
    guards[0]
}

fn signal(id: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status();
    assert!(status.unwrap().success());
}

#[track_caller]
fn within(limit: Duration, what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn killed(world: &World) {
    let (mut first, mut next) = world.two("killed");
    let guard = the_guard(&first);
    let took = waited(&mut next, first.kill());
    assert!(took < AT_ONCE, "{took:?}");
    within(PATIENCE, "the guard ends", || !Path::new(&format!("/proc/{guard}")).exists());
}

fn permits(world: &World) {
    let token = Some(world.consul.token.as_str());
    let url = world.url();
    let what = What::Permit;
    let orders = Orders { what, token, profile: PROFILE, ..Orders::new(&url, "permits") };
    let mut next = None;
    for _ in 0..3 {
        let mut first = next.take().unwrap_or_else(|| {
            let mut first = Holder::start(&Orders { guard: Some(GUARD), ..orders.clone() });
            first.wait_for("held");
            first
        });
        let mut second = Holder::start(&Orders { guard: Some(GUARD), ..orders.clone() });
        thread::sleep(Duration::from_millis(300));
        let took = waited(&mut second, first.kill());
        assert!(took < AT_ONCE, "{took:?}");
        next = Some(second);
    }
    // The next contenders removed the keys that the guards had left.
    let mut keys = world.get("/v1/kv/permits?keys");
    keys.as_array_mut().unwrap().retain(|key| key != "permits/.lock");
    assert_eq!(keys.as_array().unwrap().len(), 1, "{keys}");
}

/// With the module of `make build`, and the guard beside it.
fn lua_killed(world: &World) {
    let folder = program::modules().join("luajit");
    let module = folder.join("consul_ffi.so");
    assert!(module.exists(), "make build-luajit makes {}", module.display());
    let mut first = Command::new("luajit")
        .arg("-")
        .current_dir("/")
        .env("LUA_CPATH", folder.join("?.so"))
        .env("CONSUL_HTTP_ADDR", &world.consul.address)
        .env("CONSUL_HTTP_TOKEN", &world.consul.token)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let program = "local client = require('consul_ffi').new({ guard = true })
        local lock = assert(client:lock('lua', { profile = 'wan' }))
        assert(lock:acquire())
        print('held') io.flush()
        client:kv_get('lua', { index = 1000000000, wait = '60s' })";
    first.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
    let mut said = [0; 5];
    first.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let mut next = world.holder_at(&world.url(), "lua", None);
    thread::sleep(Duration::from_millis(300));
    let since = now_ns();
    first.kill().unwrap();
    first.wait().unwrap();
    let took = waited(&mut next, since);
    assert!(took < AT_ONCE, "{took:?}");
}

fn lives(world: &World) {
    let (first, _next) = world.two("lives");
    let session = world.session("lives");
    assert!(session.is_some());
    // Ctrl-C and the stop of a service reach every process of the group or the service.
    for name in ["INT", "TERM", "HUP"] {
        signal(the_guard(&first), name);
    }
    thread::sleep(profile().check_ttl + Duration::from_millis(500));
    assert_eq!(world.session("lives"), session);
    the_guard(&first);
}

fn released(world: &World) {
    let (mut first, mut next) = world.two("released");
    let guard = the_guard(&first);
    let parent = fs::read_to_string(format!("/proc/{guard}/stat")).unwrap();
    let parent = parent.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().to_owned();
    assert_ne!(parent, first.process.id().to_string(), "its end would be its parent's business");
    first.command("release");
    let begun = first.wait_for("releases").at_ns;
    let took = waited(&mut next, begun);
    assert!(took < AT_ONCE, "{took:?}");
    first.wait_for_end();
    within(PATIENCE, "the guard ends", || guards(&first).is_empty());
}

fn parent_dies(world: &World) {
    let (mut first, mut next) = world.two("parent_dies");
    first.command("fork 15");
    thread::sleep(Duration::from_millis(200));
    let took = waited(&mut next, first.kill());
    assert!(took < AT_ONCE, "{took:?}");
}

fn child_dies(world: &World) {
    let (mut first, _next) = world.two("child_dies");
    let session = world.session("child_dies");
    first.command("fork 0");
    thread::sleep(Duration::from_millis(1500));
    assert!(session.is_some());
    assert_eq!(world.session("child_dies"), session);
    the_guard(&first);
}

fn ends(world: &World) {
    let (mut first, mut next) = world.two("ends");
    first.command("exit");
    let took = waited(&mut next, now_ns());
    assert!(took < AT_ONCE, "{took:?}");
}

fn execs(world: &World) {
    let (mut first, mut next) = world.two("execs");
    first.command("exec");
    let took = waited(&mut next, now_ns());
    let lock_delay = profile().lock_delay;
    assert!(took > lock_delay && took < lock_delay + AT_ONCE, "{took:?}");
}

fn closes_all(world: &World) {
    let (mut first, mut next) = world.two("closes_all");
    first.command("close");
    let took = waited(&mut next, now_ns());
    let lock_delay = profile().lock_delay;
    assert!(took > lock_delay && took < lock_delay + AT_ONCE * 3, "{took:?}");
}

fn replaced(world: &World) {
    let (mut first, mut next) = world.two("replaced");
    let session = world.session("replaced");
    let guard = the_guard(&first);
    signal(guard, "KILL");
    let is_another = || guards(&first).iter().any(|found| *found != guard);
    within(PATIENCE, "another guard", is_another);
    thread::sleep(Duration::from_millis(200));
    assert!(session.is_some());
    assert_eq!(world.session("replaced"), session);
    let took = waited(&mut next, first.kill());
    assert!(took < AT_ONCE, "{took:?}");
}

/// A guard that does not answer is replaced, and a guard that does not read already when the socket is full.
fn stopped(world: &World) {
    let connection =
        Connection { endpoints: vec![world.url()], token_file: None, http: Options::default() };
    // Of another program than the guards of other tests in this process.
    let folder = Folder::new();
    let program = folder.path("consul-guard");
    symlink(GUARD, &program).unwrap();
    let guard = GuardProcess::new(Some(&program), connection).unwrap();
    run(guard.start()).unwrap();
    let me = format!("{}\0{}\0", program.display(), std::process::id());
    let mine = || {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let is_mine = |id: &u32| {
            fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| line == me.as_bytes())
        };
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(is_mine).collect::<Vec<u32>>()
    };
    let [stopped] = mine()[..] else { panic!("{:?}", mine()) };
    signal(stopped, "STOP");
    let request = Request::put("/v1/session/destroy/none").body(vec![b' '; 1 << 20].into());
    guard.defer(ReleaseStep::EndSession, 0, &request.unwrap());
    run(guard.replace_dead());
    let another = *mine().iter().find(|found| **found != stopped).expect("another guard");
    signal(another, "STOP");
    within(PATIENCE, "a third guard", || {
        run(guard.replace_dead());
        mine().iter().any(|found| ![stopped, another].contains(found))
    });
    [stopped, another].iter().for_each(|guard| signal(*guard, "KILL"));
}

fn both_killed(world: &World) {
    let (mut first, mut next) = world.two("both_killed");
    signal(the_guard(&first), "KILL");
    let took = waited(&mut next, first.kill());
    let profile = profile();
    assert!(took > profile.lock_delay, "{took:?}");
    assert!(took < profile.check_ttl + profile.lock_delay + AT_ONCE * 2, "{took:?}");
}

fn consul_away(world: &World) {
    let proxy = Proxy::new(&world.consul.address);
    let mut first = world.holder_at(&proxy.url(), "away", Some(GUARD));
    first.wait_for("held");
    let mut next = world.holder_at(&world.url(), "away", None);
    thread::sleep(Duration::from_millis(300));
    proxy.set(Network::Refuse);
    first.kill();
    thread::sleep(Duration::from_millis(500));
    assert!(world.session("away").is_some());
    let back = now_ns();
    proxy.set(Network::Good);
    let took = waited(&mut next, back);
    assert!(took < AT_ONCE, "{took:?}");
}

fn inherits_nothing(world: &World) {
    let proxy = Proxy::new(&world.consul.address);
    let mut first = world.holder_at(&proxy.url(), "inherits", Some(GUARD));
    first.wait_for("held");
    let guard = the_guard(&first);
    let of_guard = |name: &str| format!("/proc/{guard}/{name}");
    let shown = fs::read_to_string(of_guard("cmdline")).unwrap();
    assert!(!shown.contains(&world.consul.token), "{shown}");
    // For another user than root this is as if it belonged to root.
    let environ = match fs::read(of_guard("environ")) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return,
        environ => environ.unwrap(),
    };
    let names = environ.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    assert!(names.into_iter().all(|entry| entry.starts_with(b"SSL_CERT_")));
    assert_eq!(fs::read_link(of_guard("cwd")).unwrap(), Path::new("/"));
    let names = fs::read_dir(of_guard("fd")).unwrap().flatten().map(|entry| entry.path());
    let open: Vec<_> = names.map(|name| fs::read_link(name).unwrap()).collect();
    let ours = |path: &&std::path::PathBuf| {
        let path = path.to_string_lossy();
        path != "/dev/null" && !path.starts_with("socket:") && !path.contains("pidfd")
    };
    assert_eq!(open.iter().filter(ours).collect::<Vec<_>>(), Vec::<&std::path::PathBuf>::new());
    // It retries for some seconds, and does not delay a reader of the process's output.
    proxy.set(Network::Refuse);
    let killed = Instant::now();
    first.signal("KILL");
    first.wait_for_end();
    assert!(killed.elapsed() < AT_ONCE);
    assert!(!guards(&first).is_empty(), "the guard has nothing to do, so this tests nothing");
}
