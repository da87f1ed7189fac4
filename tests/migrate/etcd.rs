//! Real etcd servers, and requests to their JSON gateway.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use consul_ffi::transport::Options;
use consul_ffi::transport::streaming::{Streaming, StreamingHttp};
use futures_util::StreamExt;
use http::Request;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Why there is no etcd here; `None` if there is.
pub fn missing() -> Option<String> {
    let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
    found.err().map(|error| format!("etcd: {error} (scripts/install-deps.sh installs it)"))
}

/// A server with one member; it ends when this is dropped.
pub struct Etcd {
    process: Child,
    folder: PathBuf,
    /// Its URL.
    pub url: String,
}

impl Etcd {
    pub fn start(name: &str) -> Etcd {
        Etcd::with(name, &[])
    }

    pub fn with(name: &str, options: &[&str]) -> Etcd {
        let folder = std::env::temp_dir().join(format!("migrate-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let ports: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let urls = ports.iter().map(|port| format!("http://{}", port.local_addr().unwrap()));
        let [url, peer] = urls.collect::<Vec<_>>().try_into().unwrap();
        drop(ports);
        let process = Command::new("etcd")
            .args(["--data-dir", folder.to_str().unwrap(), "--unsafe-no-fsync"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--max-txn-ops", "128"])
            .args(["--initial-cluster-token", name, "--max-request-bytes", "4000000"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let etcd = Etcd { process, folder, url };
        etcd.wait();
        etcd
    }

    fn wait(&self) {
        let (gateway, end) = (self.gateway(), Instant::now() + Duration::from_secs(60));
        // Without the gateway there is still the version.
        while gateway.send("GET", "/version", Bytes::new()).is_none() {
            assert!(Instant::now() < end, "etcd did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A connection of its own.
    pub fn gateway(&self) -> Gateway {
        Gateway::new(&self.url)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A client of one server, for one thread.
pub struct Gateway {
    runtime: tokio::runtime::Runtime,
    server: StreamingHttp,
}

impl Gateway {
    pub fn new(url: &str) -> Gateway {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Gateway { runtime, server: StreamingHttp::new(url, &Options::default()).unwrap() }
    }

    /// The status and the answer; `None` without one.
    pub fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Option<(u16, Vec<u8>)> {
        let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
        self.runtime.block_on(async {
            let answer = self.server.open(request).await.ok()?;
            let (status, mut body) = (answer.status().as_u16(), answer.into_body());
            let mut whole = Vec::new();
            while let Some(part) = body.next().await {
                whole.extend_from_slice(&part.ok()?);
            }
            Some((status, whole))
        })
    }

    #[track_caller]
    pub fn post(&self, what: &str, body: Value) -> Value {
        let (status, answer) = self.send("POST", &format!("/v3/{what}"), body.to_string()).unwrap();
        assert_eq!(status, 200, "{what}: {}", String::from_utf8_lossy(&answer));
        serde_json::from_slice(&answer).unwrap()
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
