//! The crash guard: a process holds a lock and comes to its end, in each way in which it can.

#![allow(clippy::unwrap_used)] // a test that panics has failed
#![allow(unsafe_code)] // forks, and what a program does that goes wrong

#[allow(dead_code)]
#[path = "support/answering.rs"]
mod answering;
#[allow(dead_code)]
#[path = "support/authority.rs"]
mod authority;
#[allow(dead_code)]
#[path = "support/consul.rs"]
mod consul;
#[allow(dead_code)]
#[path = "support/holder.rs"]
mod holder;
#[allow(dead_code)]
#[path = "support/proxy.rs"]
mod proxy;

use answering::Server;
use authority::{Authority, Folder};
use bytes::Bytes;
use consul::RealConsul;
use consul_ffi::client::coordination::lock::{self, LockOptions};
use consul_ffi::client::coordination::semaphore::{self, SemaphoreOptions};
use consul_ffi::client::coordination::{Deed, Guard, Presence, Profile, Service, Wait};
use consul_ffi::clock::BoxFuture;
use consul_ffi::config::Config;
use consul_ffi::connect::connect;
use consul_ffi::error::Error;
use consul_ffi::guard::{Connection, Keeper};
use consul_ffi::transport::TlsOptions;
use consul_ffi::wire::value::Value;
use holder::{Holder, Orders, What, now_ns};
use http::Request;
use libtest_mimic::{Arguments, Failed, Trial};
use proxy::{Network, Proxy};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const GUARD: &str = env!("CARGO_BIN_EXE_consul-guard");

/// What is at once on a loaded machine; without a guard it takes more than five seconds.
const AT_ONCE: Duration = Duration::from_millis(1000);

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

type Run = fn(&World);

fn main() {
    if holder::is_one(act) {
        return;
    }
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
        ("a_consul_that_is_away_is_asked_again", consul_away),
        ("a_killed_lua_program_has_no_locks", lua_killed),
        ("a_guard_shows_no_secret_and_has_nothing_of_the_process", inherits_nothing),
    ];
    let alone: &[(&str, fn())] = &[
        ("a_guard_speaks_tls_and_shows_its_certificate", over_tls),
        ("a_guard_speaks_through_a_unix_socket", over_unix_socket),
        ("what_is_given_up_is_withdrawn_from_the_guard", withdrawn),
        ("a_guard_that_cannot_be_had_is_an_error_that_says_where", not_found),
    ];
    let sim = option_env!("CARGO_BIN_EXE_consul-sim");
    let mut trials: Vec<_> = alone
        .iter()
        .map(|(name, run)| {
            let run = *run;
            Trial::test(*name, move || {
                run();
                Ok(())
            })
        })
        .collect();
    let missing = consul::is_missing("1.21", "the crash guard on Consul 1.21");
    for target in ["consul-sim", "1.21"] {
        let is_missing = if target == "1.21" { missing } else { sim.is_none() };
        let world = if is_missing { None } else { Some(Arc::new(World::start(target, sim))) };
        for (place, (name, run)) in everywhere.iter().enumerate() {
            // Their differences are in what frees a key; the rest is the same.
            if target == "1.21" && place > 8 {
                continue;
            }
            let (world, run) = (world.clone(), *run);
            let trial = Trial::test(format!("{name} [{target}]"), move || {
                run(world.as_ref().ok_or_else(|| Failed::from("it is missing"))?);
                Ok(())
            });
            trials.push(trial.with_ignored_flag(is_missing));
        }
    }
    let mut arguments = Arguments::from_args();
    // They wait most of the time.
    arguments.test_threads = arguments.test_threads.or(Some(4));
    libtest_mimic::run(&arguments, trials).exit();
}

/// A server with ACLs.
struct World {
    consul: RealConsul,
}

impl World {
    fn start(target: &str, sim: Option<&str>) -> World {
        let consul = match (target, sim) {
            ("consul-sim", Some(program)) => RealConsul::start_program_with_acl(program, "deny"),
            _ => RealConsul::start_with_acl(target, "deny"),
        };
        World { consul: consul.expect("it starts") }
    }

    fn url(&self) -> String {
        format!("http://{}", self.consul.address)
    }

    fn holder_at(&self, url: &str, key: &str, guard: Option<&str>) -> Holder {
        let token = Some(self.consul.token.as_str());
        Holder::start(&Orders { guard, token, ..Orders::new(url, key) })
    }

    /// A process that holds the lock and has a guard, and one that waits for it.
    fn two(&self, key: &str) -> (Holder, Holder) {
        let mut first = self.holder_at(&self.url(), key, Some(GUARD));
        first.wait_for("held");
        let next = self.holder_at(&self.url(), key, None);
        // It waits once it has seen that the key is held.
        thread::sleep(Duration::from_millis(300));
        (first, next)
    }

    /// The session that holds a key; none when it is free.
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

/// What a holder does on command, besides releasing its lock.
fn act(word: &str) {
    match word {
        "exec" => panic!("{}", Command::new("sleep").arg("60").exec()),
        "exit" => std::process::exit(0),
        "close" => {
            // The runtime has others, which are older.
            let line = (3..100).rfind(|fd| is_unix_socket(*fd)).unwrap();
            // SAFETY: none, for a program that closes what is not its own is what is tested.
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

/// How long the next one waited for the lock.
fn waited(next: &mut Holder, since_ns: u128) -> Duration {
    let held = next.wait_for("held");
    Duration::from_nanos(held.at_ns.saturating_sub(since_ns) as u64)
}

/// The ids of the guards of a process: command lines can be read.
fn guards(of: &Holder) -> Vec<u32> {
    let wanted = format!("{GUARD}\0{}\0", of.process.id());
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
    let orders = Orders { what: What::Permit, token, ..Orders::new(&url, "permits") };
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
    // What the guards left was taken away by those who came after.
    let mut keys = world.get("/v1/kv/permits?keys");
    keys.as_array_mut().unwrap().retain(|key| key != "permits/.lock");
    assert_eq!(keys.as_array().unwrap().len(), 1, "{keys}");
}

/// With the module of `make build`, and the guard beside it.
fn lua_killed(world: &World) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lua/luajit");
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
        local lock = assert(client:lock('lua'))
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
    // Ctrl-C and an end of the service reach every process of the group or the service.
    for name in ["INT", "TERM", "HUP"] {
        signal(the_guard(&first), name);
    }
    thread::sleep(Profile::standard().check_ttl + Duration::from_millis(500));
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
    let lock_delay = Profile::standard().lock_delay;
    assert!(took > lock_delay && took < lock_delay + AT_ONCE * 2, "{took:?}");
}

fn closes_all(world: &World) {
    let (mut first, mut next) = world.two("closes_all");
    first.command("close");
    let took = waited(&mut next, now_ns());
    let lock_delay = Profile::standard().lock_delay;
    assert!(took > lock_delay && took < lock_delay + AT_ONCE * 5, "{took:?}");
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

/// A guard that does not listen is found out only when it is told so much that the socket is full.
fn stopped(world: &World) {
    let connection = Connection {
        endpoints: vec![world.url()],
        authorization: None,
        token_file: None,
        tls: TlsOptions::default(),
    };
    let keeper = Keeper::new(Some(Path::new(GUARD)), connection).unwrap();
    run(keeper.start()).unwrap();
    let me = format!("{GUARD}\0{}\0", std::process::id());
    let mine = || {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let is_mine = |id: &u32| {
            fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| line == me.as_bytes())
        };
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(is_mine).collect::<Vec<u32>>()
    };
    let guard = *mine().last().unwrap();
    signal(guard, "STOP");
    let request = Request::put("/v1/session/destroy/none").body(vec![b' '; 1 << 20].into());
    keeper.entrust(Deed::EndSession, 0, &request.unwrap());
    run(keeper.keep());
    assert!(mine().iter().any(|found| *found > guard), "{:?}", mine());
    signal(guard, "KILL");
}

fn both_killed(world: &World) {
    let (mut first, mut next) = world.two("both_killed");
    signal(the_guard(&first), "KILL");
    let took = waited(&mut next, first.kill());
    let profile = Profile::standard();
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
    for name in ["cmdline", "environ"] {
        let text = fs::read(of_guard(name)).unwrap();
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains(&world.consul.token), "{name}: {text}");
    }
    let environ = fs::read(of_guard("environ")).unwrap();
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
    // It goes on trying for some seconds, and whoever reads what the process says is not held up.
    proxy.set(Network::Refuse);
    let killed = Instant::now();
    first.signal("KILL");
    first.wait_for_end();
    assert!(killed.elapsed() < AT_ONCE);
    assert!(!guards(&first).is_empty(), "the guard has nothing to do, so this tests nothing");
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work)
}

/// Has a guard end a session there, by the end of its line.
fn ends_a_session(connection: Connection) {
    let keeper = Keeper::new(Some(Path::new(GUARD)), connection).unwrap();
    run(keeper.start()).unwrap();
    let request = Request::put("/v1/session/destroy/s?ns=n").header("X-Consul-Token", "secret");
    keeper.entrust(Deed::EndSession, 0, &request.body(Bytes::new()).unwrap());
    let request = Request::put("/v1/txn").body(Bytes::from("[]")).unwrap();
    keeper.entrust(Deed::Release, 0, &request);
    let withdrawn = Request::put("/withdrawn").body(Bytes::new()).unwrap();
    let number = keeper.entrust(Deed::Deregister, 0, &withdrawn);
    keeper.withdraw(number);
}

/// The process lives, so nothing but the session's end is asked for.
fn sees_the_end_of_the_session(server: &Server) -> String {
    within(PATIENCE, "a request", || !server.heads().is_empty());
    thread::sleep(Duration::from_millis(100));
    let heads = server.heads();
    assert_eq!(heads.len(), 1, "{heads:?}");
    let head = heads[0].to_lowercase();
    assert!(head.contains("x-consul-token: secret\r\n"), "{head}");
    assert!(head.contains("authorization: basic czpw\r\n"), "{head}");
    heads[0].clone()
}

fn over_tls() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let folder = Folder::new();
    let (identity, client) = (servers.sign(&["server.dc1.consul"]), clients.sign(&["client"]));
    let server = Server::tls(identity.server(Some(&clients)));
    let connection = |ca: &str| Connection {
        endpoints: vec!["https://127.0.0.1:1".to_owned(), format!("https://{}/p", server.address)],
        authorization: Some("Basic czpw".to_owned()),
        token_file: None,
        tls: TlsOptions {
            ca_file: Some(folder.file("ca.pem", ca).into()),
            cert_file: Some(folder.file("client.pem", &client.certificate).into()),
            key_file: Some(folder.file("client.key", &client.key).into()),
            server_name: Some("server.dc1.consul".to_owned()),
            ..TlsOptions::default()
        },
    };
    ends_a_session(connection(&servers.pem()));
    let head = sees_the_end_of_the_session(&server);
    assert!(head.starts_with("PUT /p/v1/session/destroy/s?ns=n HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: {}\r\n", server.address)), "{head}");
    assert_eq!(server.server_names(), ["server.dc1.consul"]);

    let unusable = connection("no certificate");
    let keeper = Keeper::new(Some(Path::new(GUARD)), unusable).unwrap();
    let error = run(keeper.start()).unwrap_err();
    assert!(error.message().contains("tls_ca_file: "), "{error}");
}

fn over_unix_socket() {
    let folder = Folder::new();
    let server = Server::unix(&folder.path("socket"));
    ends_a_session(Connection {
        endpoints: vec![format!("unix://{}", server.address)],
        authorization: Some("Basic czpw".to_owned()),
        token_file: None,
        tls: TlsOptions::default(),
    });
    sees_the_end_of_the_session(&server);
}

/// A guard that only takes notes.
#[derive(Debug, Default)]
struct Notes {
    entrusted: Mutex<BTreeMap<u64, (Deed, String)>>,
    numbers: AtomicU64,
}

impl Notes {
    /// What is entrusted, each by its deed and its target.
    fn list(&self) -> Vec<(Deed, String)> {
        let mut list: Vec<_> = self.entrusted.lock().unwrap().values().cloned().collect();
        list.sort();
        list
    }
}

impl Guard for Notes {
    fn start(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn keep(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn entrust(&self, deed: Deed, _: usize, request: &Request<Bytes>) -> u64 {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let path = request.uri().path().split('/').take(4).collect::<Vec<_>>().join("/");
        self.entrusted.lock().unwrap().insert(number, (deed, path));
        number
    }

    fn withdraw(&self, number: u64) {
        self.entrusted.lock().unwrap().remove(&number);
    }
}

fn withdrawn() {
    let config = Config::new(&[("simulate".to_owned(), "withdrawn".into())], |_| None).unwrap();
    let notes = Arc::new(Notes::default());
    let client = Arc::new(connect(&config).unwrap().with_guard(Arc::clone(&notes) as _));
    let service = Service::of_a_process(&client);
    let presence = Presence::new(Arc::clone(&client), client, Profile::standard(), service);
    let [release, end, deregister] = [
        (Deed::Release, "/v1/txn"),
        (Deed::EndSession, "/v1/session/destroy"),
        (Deed::Deregister, "/v1/agent/service"),
    ]
    .map(|(deed, path)| (deed, path.to_owned()));
    let work = async {
        let options = LockOptions { value: None, wait: Wait::Once };
        let lease = lock::acquire(&presence, "a", &options).await.unwrap();
        assert_eq!(notes.list(), [release.clone(), end.clone(), deregister.clone()]);
        lease.release().await.unwrap();
        assert_eq!(notes.list(), std::slice::from_ref(&deregister));

        let options = SemaphoreOptions { limit: 1, value: Vec::new(), wait: Wait::Once };
        let lease = semaphore::acquire(&presence, "s", &options).await.unwrap();
        assert_eq!(notes.list(), [release.clone(), end.clone(), deregister.clone()]);
        lease.release().await.unwrap();
        assert_eq!(notes.list(), std::slice::from_ref(&deregister));

        // Dropped without a release, its session is ended in the background.
        drop(lock::acquire(&presence, "b", &LockOptions { value: None, wait: Wait::Once }).await);
        while notes.list().len() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        presence.withdraw().await.unwrap();
        assert_eq!(notes.list(), []);
    };
    run(async {
        tokio::select! {
            never = presence.run() => match never {},
            () = work => {}
            () = tokio::time::sleep(PATIENCE) => panic!("left: {:?}", notes.list()),
        }
    });
}

fn not_found() {
    let error = |given: &[(&str, Value)]| {
        let given: Vec<_> =
            given.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let config = Config::new(&given, |_| None).unwrap();
        connect(&config).expect_err("there is no guard").message().to_owned()
    };
    let said = error(&[("guard", true.into()), ("guard_program", "/no/such/guard".into())]);
    assert_eq!(said, "guard: there is no program /no/such/guard");
    let folder = std::env::current_exe().unwrap().parent().unwrap().display().to_string();
    let said = error(&[("guard", true.into())]);
    let [beside, tree] = ["consul-guard", "../../../bin/consul-guard"];
    assert_eq!(said, format!("guard: there is no program {folder}/{beside}, nor {folder}/{tree}"));

    for (program, why) in [
        ("/bin/true", "it ended without a word"),
        ("/bin/echo", "it ended without a word"),
        ("/dev/null", "there is no program /dev/null"),
    ] {
        let connection = Connection {
            endpoints: Vec::new(),
            authorization: None,
            token_file: None,
            tls: TlsOptions::default(),
        };
        let outcome = Keeper::new(Some(Path::new(program)), connection)
            .and_then(|keeper| run(keeper.start()));
        let error = outcome.unwrap_err();
        assert!(error.message().contains(why), "{error}");
    }
}
