//! Real etcd servers, and requests to their JSON gateway.

use super::program::PATIENCE;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use consul_client::transport::{Options, TlsOptions};
use consul_migrate::etcd::streaming::{Streaming, StreamingHttp};
use futures_util::StreamExt;
use http::Request;
use serde_json::{Value, json};
use std::cell::Cell;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How many folders of servers there have been.
static FOLDERS: AtomicUsize = AtomicUsize::new(0);

/// The server of most tests: the one on PATH, or that of the version in the variable `ETCD`.
fn program() -> Result<PathBuf, String> {
    if let Ok(version) = std::env::var("ETCD") {
        return binary(&version);
    }
    let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
    match found {
        Ok(_) => Ok("etcd".into()),
        Err(error) => Err(format!("etcd: {error} (scripts/install-deps.sh installs it)")),
    }
}

/// The server of this version (`3.4` to `3.7`), which is fetched if it is missing. `Err` says why it is not available
/// here.
pub fn binary(version: &str) -> Result<PathBuf, String> {
    let script = Path::new(crate::support::root()).join("scripts/etcd.sh");
    let output = Command::new(script).arg(version).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("etcd {version}: {said}"));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Why there is no etcd here; `None` if there is.
pub fn missing() -> Option<String> {
    program().err()
}

/// A server with its cluster's other members, if there are any; they end when this is dropped.
pub struct Etcd {
    process: Mutex<Child>,
    arguments: Vec<String>,
    program: PathBuf,
    folder: PathBuf,
    /// Its URL.
    pub url: String,
    others: Vec<Etcd>,
    access: Access,
}

/// How the test itself gets in.
#[derive(Clone, Default)]
pub struct Access {
    pub tls: TlsOptions,
    /// The user and the password.
    pub login: Option<(&'static str, &'static str)>,
}

impl Etcd {
    pub fn start(name: &str) -> Etcd {
        Etcd::with(name, &[])
    }

    pub fn with(name: &str, options: &[&str]) -> Etcd {
        Etcd::of(program().unwrap(), name, options, Access::default())
    }

    /// With TLS if the access has files for it.
    pub fn of(program: PathBuf, name: &str, options: &[&str], access: Access) -> Etcd {
        let [etcd] = Etcd::members::<1>(&program, name, options, &access);
        etcd.wait();
        etcd
    }

    /// A cluster of three members.
    pub fn cluster(name: &str) -> Etcd {
        let [mut etcd, second, third] =
            Etcd::members(&program().unwrap(), name, &[], &Access::default());
        etcd.others = vec![second, third];
        etcd.wait();
        etcd
    }

    fn members<const N: usize>(
        program: &Path,
        name: &str,
        options: &[&str],
        access: &Access,
    ) -> [Etcd; N] {
        let ports: Vec<_> = (0..2 * N).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let has_tls = access.tls.has_files();
        let url = |(place, port): (usize, &TcpListener)| {
            let scheme = if has_tls && place < N { "https" } else { "http" };
            format!("{scheme}://{}", port.local_addr().unwrap())
        };
        let urls: Vec<_> = ports.iter().enumerate().map(url).collect();
        drop(ports);
        let (clients, peers) = urls.split_at(N);
        let member = |place: usize| format!("{name}-{place}={}", peers[place]);
        let all = (0..N).map(member).collect::<Vec<_>>().join(",");
        std::array::from_fn(|place| {
            let (of_test, url, peer) = (std::process::id(), &clients[place], &peers[place]);
            // Several tests may have one name at the same time.
            let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
            let folder = std::env::temp_dir().join(format!("migrate-{of_test}-{name}-{number}"));
            let _ = std::fs::remove_dir_all(&folder);
            let own_name = format!("{name}-{place}");
            let arguments = [
                &["--name", &own_name, "--initial-cluster", &all][..],
                &["--data-dir", folder.to_str().unwrap(), "--unsafe-no-fsync"],
                &["--listen-client-urls", url, "--advertise-client-urls", url],
                &["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
                &["--initial-cluster-token", name, "--max-txn-ops", "128"],
                &["--max-request-bytes", "4000000"],
                options,
            ];
            let arguments: Vec<_> = arguments.concat().iter().map(|it| (*it).to_owned()).collect();
            let process = Mutex::new(spawn(program, &arguments));
            Etcd {
                process,
                arguments,
                program: program.to_owned(),
                folder,
                url: url.clone(),
                others: Vec::new(),
                access: access.clone(),
            }
        })
    }

    /// Loses all keys of the cluster: its id stays the same, as after a restore of an older state.
    pub fn lose_all(&self) {
        self.kill();
        std::fs::remove_dir_all(&self.folder).unwrap();
        *self.process.lock().unwrap() = spawn(&self.program, &self.arguments);
        self.wait();
    }

    /// Starts it again if it has ended by itself, and returns whether it had.
    pub fn is_revived(&self) -> bool {
        let is_revived = self.is_started_again();
        if is_revived {
            self.wait();
        }
        is_revived
    }

    fn is_started_again(&self) -> bool {
        let mut process = self.process.lock().unwrap();
        let has_ended = matches!(process.try_wait(), Ok(Some(_)));
        if has_ended {
            *process = spawn(&self.program, &self.arguments);
        }
        has_ended
    }

    fn wait(&self) {
        let end = Instant::now() + PATIENCE;
        for member in self.all() {
            let gateway = Gateway::with(&[&member.url], &self.access);
            // Without the gateway there is still the version.
            while gateway.send("GET", "/version", Bytes::new()).is_none() {
                assert!(Instant::now() < end, "etcd did not start");
                std::thread::sleep(Duration::from_millis(50));
                // Another program may have had one of its ports for a moment.
                member.is_started_again();
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Etcd> {
        std::iter::once(self).chain(&self.others)
    }

    /// The URLs of all members.
    pub fn urls(&self) -> String {
        self.all().map(|member| member.url.as_str()).collect::<Vec<_>>().join(",")
    }

    /// A connection of its own.
    pub fn gateway(&self) -> Gateway {
        let urls = self.all().map(|member| member.url.as_str()).collect::<Vec<_>>();
        Gateway::with(&urls, &self.access)
    }

    /// Adds `root`, the user of the test itself from now on, and users whose role has rights (`READ`, `WRITE`,
    /// `READWRITE`) for the keys that begin with `/app/`, or none. All have this password.
    pub fn require_users(&mut self, password: &'static str, users: &[(&str, Option<&str>)]) {
        let gateway = self.gateway();
        let post = |what: &str, body| _ = gateway.post(what, body);
        for (name, right) in [("root", None)].iter().chain(users) {
            post("auth/user/add", json!({ "name": name, "password": password }));
            post("auth/role/add", json!({ "name": name }));
            post("auth/user/grant", json!({ "user": name, "role": name }));
            if let Some(right) = right {
                let (key, end) = (text(b"/app/"), text(b"/app0"));
                let perm = json!({ "permType": right, "key": key, "range_end": end });
                post("auth/role/grant", json!({ "name": name, "perm": perm }));
            }
        }
        post("auth/enable", json!({}));
        self.access.login = Some(("root", password));
    }

    /// Kills the leader.
    pub fn kill_leader(&self) {
        let is_leader = |member: &&Etcd| {
            let status = Gateway::new(&[&member.url]).post("maintenance/status", json!({}));
            status["leader"] == status["header"]["member_id"]
        };
        self.all().find(is_leader).expect("a leader").kill();
    }

    fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn spawn(program: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new(program);
    let none = Stdio::null;
    command.args(arguments).stdin(none()).stdout(none()).stderr(none()).spawn().unwrap()
}

/// A client of one cluster, for one thread.
pub struct Gateway {
    runtime: tokio::runtime::Runtime,
    servers: Vec<StreamingHttp>,
    /// The server of the next request.
    next: Cell<usize>,
    login: Option<(&'static str, &'static str)>,
}

impl Gateway {
    pub fn new(urls: &[&str]) -> Gateway {
        Gateway::with(urls, &Access::default())
    }

    pub fn with(urls: &[&str], access: &Access) -> Gateway {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = |url: &&str| {
            let tls =
                if url.starts_with("https") { access.tls.clone() } else { TlsOptions::default() };
            StreamingHttp::new(url, &Options { tls, ..Options::default() }).unwrap()
        };
        let servers = urls.iter().map(server).collect();
        Gateway { runtime, servers, next: Cell::new(0), login: access.login }
    }

    /// The status and the answer; `None` without one.
    pub fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Option<(u16, Vec<u8>)> {
        let Some((name, password)) = self.login else { return self.ask(None, method, path, body) };
        let asked = json!({ "name": name, "password": password }).to_string();
        let (_, said) = self.ask(None, "POST", "/v3/auth/authenticate", asked)?;
        let said: Value = serde_json::from_slice(&said).unwrap();
        self.ask(said["token"].as_str(), method, path, body)
    }

    fn ask(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Option<(u16, Vec<u8>)> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request.body(body.into()).unwrap();
        let server = &self.servers[self.next.get()];
        self.runtime.block_on(async {
            let answer = server.open(request).await.ok()?;
            let (status, mut body) = (answer.status().as_u16(), answer.into_body());
            let mut whole = Vec::new();
            while let Some(part) = body.next().await {
                whole.extend_from_slice(&part.ok()?);
            }
            Some((status, whole))
        })
    }

    /// The answer of a success. A cluster is asked until a member answers so: a leader may be killed.
    #[track_caller]
    pub fn post(&self, what: &str, body: Value) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let (path, text) = (format!("/v3/{what}"), body.to_string());
            let found = self.send("POST", &path, text);
            if let Some((200, answer)) = &found {
                return serde_json::from_slice(answer).unwrap();
            }
            let said = found.map(|(status, said)| (status, String::from_utf8(said)));
            let may_repeat = self.servers.len() > 1;
            assert!(may_repeat && Instant::now() < end, "{what}: {said:?}");
            self.next.set((self.next.get() + 1) % self.servers.len());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn put(&self, key: &[u8], value: &[u8]) {
        self.post("kv/put", json!({ "key": text(key), "value": text(value) }));
    }

    pub fn delete(&self, key: &[u8]) {
        self.post("kv/deleterange", json!({ "key": text(key) }));
    }

    /// Sets and deletes several keys in one revision.
    pub fn txn(&self, changes: &[(String, Option<String>)]) {
        let operations = changes.iter().map(|(key, value)| match value {
            Some(value) => {
                let put = json!({ "key": text(key.as_bytes()), "value": text(value.as_bytes()) });
                json!({ "requestPut": put })
            }
            None => json!({ "requestDeleteRange": { "key": text(key.as_bytes()) } }),
        });
        self.post("kv/txn", json!({ "success": operations.collect::<Vec<_>>() }));
    }

    /// Sets many keys, in few transactions.
    pub fn fill(&self, keys: impl IntoIterator<Item = (String, String)>) {
        let all: Vec<_> = keys.into_iter().map(|(key, value)| (key, Some(value))).collect();
        all.chunks(100).for_each(|some| self.txn(some));
    }

    pub fn revision(&self) -> u64 {
        let answer = self.post("kv/range", json!({ "key": "AA==", "count_only": true }));
        answer["header"]["revision"].as_str().unwrap().parse().unwrap()
    }

    /// Forgets all revisions but the present one.
    pub fn compact(&self) {
        let revision = self.revision().to_string();
        self.post("kv/compaction", json!({ "revision": revision, "physical": true }));
    }
}

pub fn text(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}
