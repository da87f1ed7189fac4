//! The guard of this process, which stays alive.

use super::{GUARD, PATIENCE, guards_of, run, within};
use crate::support::answering::Server;
use crate::support::authority::{Authority, Folder};
use crate::support::trials::Trials;
use bytes::Bytes;
use consul_api::error::Error;
use consul_api::value::Value;
use consul_client::coordination::lock::{self, LockOptions};
use consul_client::coordination::semaphore::{self, SemaphoreOptions};
use consul_client::coordination::{Guard, Presence, Profile, ReleaseStep, Service, Wait};
use consul_client::transport::{Options, TlsOptions};
use consul_config::Config;
use consul_config::connect::connect;
use consul_guard::{Connection, GuardProcess};
use consul_process::clock::BoxFuture;
use http::{HeaderValue, Request};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub fn add_to(trials: &mut Trials) {
    trials.add("a_guard_speaks_tls_and_shows_its_certificate", over_tls);
    trials.add("a_guard_speaks_through_a_unix_socket", over_unix_socket);
    trials.add("a_guard_speaks_with_tls_through_a_unix_socket", over_unix_socket_with_tls);
    trials.add("a_process_has_one_guard_for_all_its_clients", one_for_all);
    trials.add("a_guard_that_another_client_starts_again_has_the_requests_of_all", restarted);
    trials.add("clients_of_one_guard_reach_their_own_consul", own_consul);
    trials.add("what_is_given_up_is_withdrawn_from_the_guard", withdrawn);
    trials.add("a_guard_that_cannot_be_had_is_an_error_that_says_where", not_found);
    trials.add("a_guard_cannot_be_read_by_its_own_user", hidden);
    trials.add("a_guard_reads_the_files_of_tls_again", reads_files_again);
    trials.add("a_guard_believes_no_answer_that_is_not_consuls", believes_no_other);
}

/// Lets a guard end a session at this endpoint, by closing its socket.
fn ends_a_session(connection: Connection) {
    drop(guard_of_a_session(connection));
}

/// A guard that ends a session when it is dropped.
fn guard_of_a_session(connection: Connection) -> Arc<GuardProcess> {
    guard_of_a_session_by(Path::new(GUARD), connection)
}

fn guard_of_a_session_by(program: &Path, connection: Connection) -> Arc<GuardProcess> {
    let guard = GuardProcess::new(Some(program), connection).unwrap();
    run(guard.start()).unwrap();
    let request = Request::put("/v1/session/destroy/s?ns=n").header("X-Consul-Token", "secret");
    guard.defer(ReleaseStep::EndSession, 0, &request.body(Bytes::new()).unwrap());
    let request = Request::put("/v1/txn").body(Bytes::from("[]")).unwrap();
    guard.defer(ReleaseStep::Unlock, 0, &request);
    let cancelled = Request::put("/cancelled").body(Bytes::new()).unwrap();
    let number = guard.defer(ReleaseStep::Deregister, 0, &cancelled);
    guard.cancel(number);
    guard
}

/// The process is alive, so the guard only ends the session.
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
        token_file: None,
        http: Options {
            authorization: Some(HeaderValue::from_static("Basic czpw")),
            tls: TlsOptions {
                ca_file: Some(folder.file("ca.pem", ca).into()),
                cert_file: Some(folder.file("client.pem", &client.certificate).into()),
                key_file: Some(folder.file("client.key", &client.key).into()),
                server_name: Some("server.dc1.consul".to_owned()),
                ..TlsOptions::default()
            },
            ..Options::default()
        },
    };
    ends_a_session(connection(&servers.pem()));
    let head = sees_the_end_of_the_session(&server);
    assert!(head.starts_with("PUT /p/v1/session/destroy/s?ns=n HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nHost: {}\r\n", server.address)), "{head}");
    assert_eq!(server.server_names(), ["server.dc1.consul"]);

    let unusable = connection("no certificate");
    let guard = GuardProcess::new(Some(Path::new(GUARD)), unusable).unwrap();
    let error = run(guard.start()).unwrap_err();
    assert!(error.message().contains("tls_ca_file: "), "{error}");
}

fn reads_files_again() {
    let (authority, folder) = (Authority::new("authority"), Folder::new());
    let server = Server::tls(authority.sign(&["127.0.0.1"]).server(Some(&authority)));
    let write = |by: &Authority| {
        let client = by.sign(&["client"]);
        let certificate = folder.file("client.pem", &client.certificate);
        (certificate.into(), folder.file("client.key", &client.key).into())
    };
    let (cert_file, key_file) = write(&Authority::new("old"));
    let guard = guard_of_a_session(Connection {
        endpoints: vec![format!("https://{}", server.address)],
        token_file: None,
        http: Options {
            authorization: Some(HeaderValue::from_static("Basic czpw")),
            tls: TlsOptions {
                ca_file: Some(folder.file("ca.pem", authority.pem()).into()),
                cert_file: Some(cert_file),
                key_file: Some(key_file),
                ..TlsOptions::default()
            },
            ..Options::default()
        },
    });
    write(&authority);
    // The files are read at most once a second.
    thread::sleep(Duration::from_millis(1100));
    drop(guard);
    sees_the_end_of_the_session(&server);
}

/// The user that a guard runs as here: root can read every process.
const NOBODY: u32 = 65534;

/// The exit status and the output of a command, as the user of the guard.
fn as_its_user(program: &str, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(program);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.args(arguments).current_dir("/").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn is_root() -> bool {
    // SAFETY: the call has no arguments.
    unsafe { libc::geteuid() == 0 }
}

fn hidden() {
    let folder = Folder::new();
    let program = folder.path("as-nobody");
    let guard = folder.path("consul-guard");
    fs::copy(GUARD, &guard).unwrap();
    let user = if is_root() {
        format!("/usr/bin/setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups ")
    } else {
        String::new()
    };
    fs::write(&program, format!("#!/bin/sh\nexec {user}{} \"$@\"\n", guard.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let process = guard_of_a_session_by(
        &program,
        Connection {
            endpoints: vec!["http://127.0.0.1:1".to_owned()],
            token_file: None,
            http: Options {
                authorization: Some(HeaderValue::from_static("Basic s3cret")),
                ..Options::default()
            },
        },
    );
    let wanted = format!("{}\0{}\0", guard.display(), std::process::id());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let line = |id: &u32| fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let ids: Vec<_> = ids.filter(|id| line(id) == wanted.as_bytes()).collect();
    let [id] = ids[..] else { panic!("{ids:?}") };
    for name in ["environ", "mem", "maps", "auxv"] {
        let (is_read, text) = as_its_user("head", &["-c", "1", &format!("/proc/{id}/{name}")]);
        assert!(!is_read && text.contains("Permission denied"), "{name}: {text}");
    }
    let (is_read, text) = as_its_user("ls", &[&format!("/proc/{id}/fd")]);
    assert!(!is_read && text.contains("Permission denied"), "{text}");
    // An ordinary process of the user can be read.
    let (is_read, text) =
        as_its_user("sh", &["-c", "sleep 60 & head -c 1 /proc/$!/environ; s=$?; kill $!; exit $s"]);
    assert!(is_read, "{text}");
    drop(process);
}

fn over_unix_socket() {
    let folder = Folder::new();
    let server = Server::unix(&folder.path("socket"));
    ends_a_session(Connection {
        endpoints: vec![format!("unix://{}", server.address)],
        token_file: None,
        http: Options {
            authorization: Some(HeaderValue::from_static("Basic czpw")),
            ..Options::default()
        },
    });
    sees_the_end_of_the_session(&server);
}

fn over_unix_socket_with_tls() {
    let (folder, authority) = (Folder::new(), Authority::new("authority"));
    let config = authority.sign(&["localhost"]).server(None);
    let server = Server::unix_tls(&folder.path("socket"), config);
    let ca_file = Some(folder.file("ca.pem", authority.pem()).into());
    ends_a_session(Connection {
        endpoints: vec![format!("https+unix://{}", server.address)],
        token_file: None,
        http: Options {
            authorization: Some(HeaderValue::from_static("Basic czpw")),
            tls: TlsOptions { ca_file, ..TlsOptions::default() },
            ..Options::default()
        },
    });
    sees_the_end_of_the_session(&server);
}

fn plain(address: &str) -> Connection {
    Connection {
        endpoints: vec![format!("http://{address}")],
        token_file: None,
        http: Options {
            authorization: Some(HeaderValue::from_static("Basic czpw")),
            ..Options::default()
        },
    }
}

/// More clients than the process may have descriptors that are closed on fork.
fn one_for_all() {
    let folder = Folder::new();
    // A name of its own, because other tests of this process have a guard too.
    let program = folder.path("guard");
    std::os::unix::fs::symlink(GUARD, &program).unwrap();
    let client = || GuardProcess::new(Some(&program), plain("127.0.0.1:1")).unwrap();
    let clients: Vec<_> = (0..100).map(|_| client()).collect();
    clients.iter().for_each(|client| run(client.start()).unwrap());
    let guards = || guards_of(&program.display().to_string(), std::process::id()).len();
    assert_eq!(guards(), 1);
    drop(clients);
    within(PATIENCE, "the guard ends", || guards() == 0);
}

fn restarted() {
    let folder = Folder::new();
    let program = folder.path("guard");
    std::os::unix::fs::symlink(GUARD, &program).unwrap();
    let guards = || guards_of(&program.display().to_string(), std::process::id());
    let (one, two) = (Server::plain(), Server::plain());
    let first = guard_of_a_session_by(&program, plain(&one.address));
    let [id] = guards()[..] else { panic!("{:?}", guards()) };
    // SAFETY: the process is the guard of this one.
    assert_eq!(unsafe { libc::kill(id.cast_signed(), libc::SIGKILL) }, 0);
    within(PATIENCE, "the guard ends", || !guards().contains(&id));
    let second = guard_of_a_session_by(&program, plain(&two.address));
    assert_eq!(guards().len(), 1);
    for (guard, server, other) in [(second, &two, &one), (first, &one, &two)] {
        let before = other.heads().len();
        drop(guard);
        sees_the_end_of_the_session(server);
        assert_eq!(other.heads().len(), before);
    }
}

fn own_consul() {
    let (one, two) = (Server::plain(), Server::plain());
    // This one never answers, and holds up no other.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent =
        GuardProcess::new(Some(Path::new(GUARD)), plain(&silent.local_addr().unwrap().to_string()));
    let silent = silent.unwrap();
    run(silent.start()).unwrap();
    let request = Request::put("/v1/session/destroy/s").body(Bytes::new()).unwrap();
    silent.defer(ReleaseStep::EndSession, 0, &request);
    let other = GuardProcess::new(Some(Path::new(GUARD)), plain(&two.address)).unwrap();
    run(other.start()).unwrap();
    drop(silent);
    ends_a_session(plain(&one.address));
    sees_the_end_of_the_session(&one);
    assert_eq!(two.heads(), [""; 0]);
    let request = Request::put("/v1/session/destroy/t").header("X-Consul-Token", "secret");
    other.defer(ReleaseStep::EndSession, 0, &request.body(Bytes::new()).unwrap());
    drop(other);
    assert!(sees_the_end_of_the_session(&two).starts_with("PUT /v1/session/destroy/t "));
    assert_eq!(one.heads().len(), 1);
}

/// A guard that only records its messages.
#[derive(Debug, Default)]
struct Notes {
    deferred: Mutex<BTreeMap<u64, (ReleaseStep, String)>>,
    numbers: AtomicU64,
}

impl Notes {
    /// The deferred requests, each by its step and its target.
    fn list(&self) -> Vec<(ReleaseStep, String)> {
        let mut list: Vec<_> = self.deferred.lock().unwrap().values().cloned().collect();
        list.sort();
        list
    }
}

impl Guard for Notes {
    fn start(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn replace_dead(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn defer(&self, step: ReleaseStep, _: usize, request: &Request<Bytes>) -> u64 {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let path = request.uri().path().split('/').take(4).collect::<Vec<_>>().join("/");
        self.deferred.lock().unwrap().insert(number, (step, path));
        number
    }

    fn cancel(&self, number: u64) {
        self.deferred.lock().unwrap().remove(&number);
    }
}

fn withdrawn() {
    let config = Config::new(&[("simulate".to_owned(), "withdrawn".into())], |_| None).unwrap();
    let notes = Arc::new(Notes::default());
    let client = Arc::new(connect(&config).unwrap().with_guard(Arc::clone(&notes) as _));
    let service = Service::for_process(&client);
    let presence = Presence::new(Arc::clone(&client), client, Profile::standard(), service);
    let [release, end, deregister] = [
        (ReleaseStep::Unlock, "/v1/txn"),
        (ReleaseStep::EndSession, "/v1/session/destroy"),
        (ReleaseStep::Deregister, "/v1/agent/service"),
    ]
    .map(|(step, path)| (step, path.to_owned()));
    let work = async {
        let options = LockOptions { value: None, wait: Wait::Once, is_own: false };
        let lease = lock::acquire(&presence, "a", &options).await.unwrap();
        assert_eq!(notes.list(), [release.clone(), end.clone(), deregister.clone()]);
        lease.release().await.unwrap();
        assert_eq!(notes.list(), std::slice::from_ref(&deregister));

        let options = SemaphoreOptions { limit: 1, value: Vec::new(), wait: Wait::Once };
        let lease = semaphore::acquire(&presence, "s", &options).await.unwrap();
        assert_eq!(notes.list(), [release.clone(), end.clone(), deregister.clone()]);
        lease.release().await.unwrap();
        assert_eq!(notes.list(), std::slice::from_ref(&deregister));

        // After a drop without a release the session is ended in the background.
        drop(
            lock::acquire(
                &presence,
                "b",
                &LockOptions { value: None, wait: Wait::Once, is_own: false },
            )
            .await,
        );
        while notes.list().len() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        presence.deregister().await.unwrap();
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
    assert_eq!(said, format!("guard: there is no program {folder}/consul-guard"));

    for (program, why) in [
        ("/bin/true", "it ended without an answer"),
        ("/bin/echo", "it ended without an answer"),
        ("/dev/null", "there is no program /dev/null"),
    ] {
        let connection =
            Connection { endpoints: Vec::new(), token_file: None, http: Options::default() };
        let outcome = GuardProcess::new(Some(Path::new(program)), connection)
            .and_then(|guard| run(guard.start()));
        let error = outcome.unwrap_err();
        assert!(error.message().contains(why), "{error}");
    }
}

/// A proxy answers for a while, in each of these ways: the request is sent again until Consul answers.
fn believes_no_other() {
    const OTHERS: [(&str, &str); 12] = [
        ("200 OK", ""),
        ("200 OK\r\nContent-Type: text/html", "<html>log in</html>"),
        ("200 OK", r#"{"error":"please log in"}"#),
        ("204 No Content", ""),
        ("206 Partial Content", "tr"),
        ("302 Found\r\nLocation: https://login.example/", ""),
        ("307 Temporary Redirect\r\nLocation: /v1/session/destroy/s", ""),
        ("401 Unauthorized\r\nWWW-Authenticate: Basic", ""),
        ("403 Forbidden", "<html>blocked</html>"),
        ("404 Not Found", "404 page not found"),
        ("408 Request Timeout", ""),
        ("429 Too Many Requests", ""),
    ];
    let server = |answers: &[(&str, &str)]| Server::after(answers);
    let connection = |endpoints: Vec<String>| Connection {
        endpoints,
        token_file: None,
        http: Options {
            authorization: Some(HeaderValue::from_static("Basic czpw")),
            ..Options::default()
        },
    };
    for other in OTHERS {
        let one = server(&[other]);
        ends_a_session(connection(vec![format!("http://{}", one.address)]));
        within(PATIENCE, other.0, || one.heads().len() >= 2);
        thread::sleep(Duration::from_millis(300));
        assert_eq!(one.heads().len(), 2, "{other:?}");
    }
    // The next endpoint is asked at once.
    let (wrong, good) = (server(&[OTHERS[1]; 100]), server(&[]));
    ends_a_session(connection(
        [&wrong, &good].map(|server| format!("http://{}", server.address)).to_vec(),
    ));
    within(PATIENCE, "the second endpoint", || good.heads().len() == 1);
    // A refusal of Consul ends it.
    let refuses = server(&[("403 Forbidden", "Permission denied"); 100]);
    ends_a_session(connection(vec![format!("http://{}", refuses.address)]));
    within(PATIENCE, "a request", || !refuses.heads().is_empty());
    thread::sleep(Duration::from_millis(500));
    assert_eq!(refuses.heads().len(), 1);
}
