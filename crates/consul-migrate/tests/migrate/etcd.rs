//! Real etcd servers, and requests to their JSON gateway.

use super::program::PATIENCE;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use consul_client::transport::Options;
use consul_migrate::streaming::{Streaming, StreamingHttp};
use futures_util::StreamExt;
use http::Request;
use serde_json::{Value, json};
use std::cell::Cell;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Why there is no etcd here; `None` if there is.
pub fn missing() -> Option<String> {
    let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
    found.err().map(|error| format!("etcd: {error} (scripts/install-deps.sh installs it)"))
}

/// A server with its cluster's other members, if there are any; they end when this is dropped.
pub struct Etcd {
    process: Mutex<Child>,
    arguments: Vec<String>,
    folder: PathBuf,
    /// Its URL.
    pub url: String,
    others: Vec<Etcd>,
}

impl Etcd {
    pub fn start(name: &str) -> Etcd {
        Etcd::with(name, &[])
    }

    pub fn with(name: &str, options: &[&str]) -> Etcd {
        let [etcd] = Etcd::members::<1>(name, options);
        etcd.wait();
        etcd
    }

    /// A cluster of three members.
    pub fn cluster(name: &str) -> Etcd {
        let [mut etcd, second, third] = Etcd::members(name, &[]);
        etcd.others = vec![second, third];
        etcd.wait();
        etcd
    }

    fn members<const N: usize>(name: &str, options: &[&str]) -> [Etcd; N] {
        let ports: Vec<_> = (0..2 * N).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let urls: Vec<_> =
            ports.iter().map(|port| format!("http://{}", port.local_addr().unwrap())).collect();
        drop(ports);
        let (clients, peers) = urls.split_at(N);
        let member = |place: usize| format!("{name}-{place}={}", peers[place]);
        let all = (0..N).map(member).collect::<Vec<_>>().join(",");
        std::array::from_fn(|place| {
            let (of_test, url, peer) = (std::process::id(), &clients[place], &peers[place]);
            let folder = std::env::temp_dir().join(format!("migrate-{of_test}-{name}-{place}"));
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
            let process = Mutex::new(spawn(&arguments));
            Etcd { process, arguments, folder, url: url.clone(), others: Vec::new() }
        })
    }

    /// Loses all keys of the cluster: its id stays the same, as after a restore of an older state.
    pub fn lose_all(&self) {
        self.kill();
        std::fs::remove_dir_all(&self.folder).unwrap();
        *self.process.lock().unwrap() = spawn(&self.arguments);
        self.wait();
    }

    fn wait(&self) {
        let end = Instant::now() + PATIENCE;
        for member in self.all() {
            let gateway = Gateway::new(&[&member.url]);
            // Without the gateway there is still the version.
            while gateway.send("GET", "/version", Bytes::new()).is_none() {
                assert!(Instant::now() < end, "etcd did not start");
                std::thread::sleep(Duration::from_millis(50));
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
        Gateway::new(&self.all().map(|member| member.url.as_str()).collect::<Vec<_>>())
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

fn spawn(arguments: &[String]) -> Child {
    let mut command = Command::new("etcd");
    let none = Stdio::null;
    command.args(arguments).stdin(none()).stdout(none()).stderr(none()).spawn().unwrap()
}

/// A client of one cluster, for one thread.
pub struct Gateway {
    runtime: tokio::runtime::Runtime,
    servers: Vec<StreamingHttp>,
    /// The server of the next request.
    next: Cell<usize>,
}

impl Gateway {
    pub fn new(urls: &[&str]) -> Gateway {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = |url: &&str| StreamingHttp::new(url, &Options::default()).unwrap();
        Gateway { runtime, servers: urls.iter().map(server).collect(), next: Cell::new(0) }
    }

    /// The status and the answer; `None` without one.
    pub fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Option<(u16, Vec<u8>)> {
        let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
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
            assert!(self.servers.len() > 1 && Instant::now() < end, "{what}: {said:?}");
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
