//! The etcd in memory says byte for byte what real ones say: each of its answers was recorded from etcd 3.4, 3.5 and 3.6.
//!
//!     RECORD=3.5.0 PATH=FOLDER_OF_ETCD:$PATH cargo test … --test migrate recorded
//!
//! records the answers of the etcd on the path. A release of 3.6 may write its spaces otherwise than another one.

use super::etcd::{Etcd, text};
use super::fake::Fake;
use super::program::PATIENCE;
use bytes::Bytes;
use consul_client::transport::Options;
use consul_migrate::etcd::streaming::{Streaming, StreamingHttp};
use consul_process::clock::ManualClock;
use futures_util::StreamExt;
use http::Request;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// The clusters of the recordings, by version.
const VERSIONS: [&str; 3] = ["3.4.0", "3.5.0", "3.6.0"];

/// How often real servers tell an idle watch how far they are.
const NOTIFIES: [&str; 2] = [
    "--experimental-watch-progress-notify-interval=300ms",
    "--watch-progress-notify-interval=300ms",
];

/// An answer: its status, and its body or the first lines of it.
#[derive(Debug, PartialEq, Deserialize, Serialize)]
struct Recorded {
    path: String,
    asked: Value,
    status: u16,
    said: Vec<String>,
}

/// The requests in their order, each with the lines that are read of a watch; 0: the whole answer.
fn script() -> Vec<(&'static str, Value, usize)> {
    let all = json!({ "key": "AA==", "range_end": "AA==" });
    let with = |more: Value| {
        let mut all = all.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let put = |key: &str, value: &str| json!({ "requestPut": { "key": text(key.as_bytes()), "value": text(value.as_bytes()) } });
    let delete = |key: &str| json!({ "requestDeleteRange": { "key": text(key.as_bytes()) } });
    let compare = |revision: &str| json!([{ "key": text(b"/a"), "target": "MOD", "result": "EQUAL", "mod_revision": revision }]);
    let watch = |from: &str| {
        json!({ "create_request": with(json!({
        "start_revision": from, "fragment": true, "progress_notify": true,
    })) })
    };
    let alarm = |action: &str, member: &str| json!({ "action": action, "memberID": member, "alarm": "NOSPACE" });
    let permit = |kind: &str, key: &str, end: &str| {
        json!({
            "name": "app", "perm": { "permType": kind, "key": text(key.as_bytes()), "range_end": text(end.as_bytes()) },
        })
    };
    let revoke = json!({ "role": "app", "key": text(b"/w"), "range_end": "AA==" });
    vec![
        ("/version", Value::Null, 0),
        ("/v3/maintenance/status", json!({}), 0),
        ("/v3/kv/range", all.clone(), 0),
        ("/v3/kv/txn", json!({ "success": [put("/a", "1"), put("/b", "")] }), 0),
        ("/v3/kv/txn", json!({ "compare": compare("9"), "success": [put("/a", "2")] }), 0),
        (
            "/v3/kv/txn",
            json!({ "compare": compare("2"), "success": [put("/a", "2"), delete("/b"), delete("/none")] }),
            0,
        ),
        ("/v3/kv/range", all.clone(), 0),
        ("/v3/kv/range", with(json!({ "revision": "2", "limit": "1" })), 0),
        ("/v3/kv/range", with(json!({ "revision": "2", "limit": "2" })), 0),
        ("/v3/kv/range", with(json!({ "count_only": true })), 0),
        (
            "/v3/kv/range",
            with(json!({ "min_mod_revision": "3", "keys_only": true, "limit": "9" })),
            0,
        ),
        (
            "/v3/kv/range",
            with(json!({ "min_mod_revision": "4", "keys_only": true, "limit": "9" })),
            0,
        ),
        ("/v3/kv/range", json!({ "key": text(b"/none") }), 0),
        ("/v3/kv/range", with(json!({ "revision": "99" })), 0),
        ("/v3/kv/deleterange", json!({ "key": text(b"/none"), "range_end": "" }), 0),
        ("/v3/kv/txn", json!({ "success": [put("/c", "3")] }), 0),
        ("/v3/watch", watch("4"), 3),
        ("/v3/kv/deleterange", json!({ "key": text(b"/c") }), 0),
        ("/v3/watch", watch("5"), 3),
        ("/v3/kv/compaction", json!({ "revision": "4" }), 0),
        ("/v3/kv/range", with(json!({ "revision": "3" })), 0),
        ("/v3/watch", watch("2"), 2),
        ("/v3/maintenance/alarm", alarm("GET", "0"), 0),
        ("/v3/maintenance/alarm", alarm("ACTIVATE", "77"), 0),
        ("/v3/maintenance/alarm", alarm("ACTIVATE", "77"), 0),
        ("/v3/maintenance/alarm", alarm("GET", "0"), 0),
        ("/v3/kv/txn", json!({ "success": [put("/c", "3")] }), 0),
        ("/v3/kv/txn", json!({ "success": [delete("/none")] }), 0),
        ("/v3/maintenance/alarm", alarm("DEACTIVATE", "77"), 0),
        ("/v3/maintenance/alarm", alarm("DEACTIVATE", "77"), 0),
        ("/v3/auth/authenticate", json!({ "name": "", "password": "" }), 0),
        ("/v3/auth/role/list", json!({}), 0),
        ("/v3/auth/user/add", json!({ "name": "root", "password": "pw" }), 0),
        ("/v3/auth/role/add", json!({ "name": "root" }), 0),
        ("/v3/auth/user/grant", json!({ "user": "root", "role": "root" }), 0),
        ("/v3/auth/role/add", json!({ "name": "app" }), 0),
        ("/v3/auth/role/grant", permit("READWRITE", "/a", "/b"), 0),
        ("/v3/auth/role/grant", permit("READ", "/r", ""), 0),
        ("/v3/auth/role/grant", permit("WRITE", "/w", "\0"), 0),
        ("/v3/auth/enable", json!({}), 0),
        ("/v3/auth/authenticate", json!({ "name": "", "password": "" }), 0),
        ("/v3/auth/authenticate", json!({ "name": "root", "password": "pw" }), 0),
        ("/v3/auth/user/list", json!({}), 0),
        ("/v3/auth/user/get", json!({ "name": "root" }), 0),
        ("/v3/auth/role/list", json!({}), 0),
        ("/v3/auth/role/get", json!({ "role": "app" }), 0),
        ("/v3/auth/role/get", json!({ "role": "none" }), 0),
        ("/v3/auth/role/grant", permit("READ", "/a", "/b"), 0),
        ("/v3/auth/role/revoke", revoke.clone(), 0),
        ("/v3/auth/role/revoke", revoke, 0),
        ("/v3/auth/role/get", json!({ "role": "app" }), 0),
    ]
}

/// All answers of a new server.
async fn played(server: &dyn Streaming) -> Vec<Recorded> {
    let mut played = Vec::new();
    let mut token = String::new();
    for (path, asked, lines) in script() {
        let body = if asked.is_null() { String::new() } else { asked.to_string() };
        let method = if asked.is_null() { "GET" } else { "POST" };
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header("authorization", &token);
        }
        let request = request.body(Bytes::from(body)).unwrap();
        let answer = server.open(request).await.unwrap();
        let status = answer.status().as_u16();
        let (mut body, mut whole) = (answer.into_body(), Vec::new());
        let is_read = |whole: &[u8]| lines > 0 && whole.split(|it| *it == b'\n').count() > lines;
        while !is_read(&whole)
            && let Some(part) = body.next().await
        {
            whole.extend(part.unwrap());
        }
        let whole = String::from_utf8(whole).unwrap();
        if path == "/v3/auth/authenticate" && status == 200 {
            let said: Value = serde_json::from_str(&whole).unwrap();
            token = said["token"].as_str().unwrap().to_owned();
        }
        let said = match lines {
            0 => vec![normal(whole)],
            lines => whole.lines().take(lines).map(|line| normal(line.to_owned())).collect(),
        };
        played.push(Recorded { path: path.to_owned(), asked, status, said });
    }
    played
}

/// Without what each server has of its own, and each moment.
fn normal(said: String) -> String {
    const OWN: [(&str, &str); 10] = [
        ("cluster_id", "7"),
        ("member_id", "1"),
        ("raft_term", "2"),
        ("leader", "1"),
        ("raftIndex", "4"),
        ("raftTerm", "2"),
        ("raftAppliedIndex", "4"),
        ("dbSize", "8"),
        ("dbSizeInUse", "8"),
        ("token", "t"),
    ];
    OWN.iter().fold(said, |said, (name, value)| {
        let begin = format!("\"{name}\":\"");
        let mut parts = said.split(&begin);
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |said, part| {
            let rest = &part[part.find('"').unwrap()..];
            format!("{said}{begin}{value}{rest}")
        })
    })
}

fn file(version: &str) -> PathBuf {
    let name = format!("{}.jsonl", version.trim_end_matches(".0"));
    [env!("CARGO_MANIFEST_DIR"), "tests/migrate/recorded", &name].iter().collect()
}

fn recording(version: &str) -> Vec<Recorded> {
    let text = std::fs::read_to_string(file(version)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn assert_same(found: &[Recorded], wanted: &[Recorded], version: &str) {
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!(found, wanted, "{version}");
    }
    assert_eq!(found.len(), wanted.len());
}

pub fn by_the_one_in_memory() {
    for version in VERSIONS {
        let clock = ManualClock::new();
        let fake = Fake::new(&clock, 1, 0);
        fake.be(version);
        fake.notify_every(Duration::from_millis(300));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = runtime.block_on(clock.drive(played(&fake)));
        assert_same(&found, &recording(version), version);
    }
}

/// The recordings are as the etcd on this machine answers, whatever its patch is.
pub fn by_a_real_one() {
    let to_record = std::env::var("RECORD").ok();
    let flag = NOTIFIES[usize::from(to_record.as_deref() == Some("3.6.0"))];
    let etcd = Etcd::with("recorded", &[flag]);
    let server = StreamingHttp::new(&etcd.url, &Options::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let played = async { tokio::time::timeout(PATIENCE, played(&server)).await };
    let mut found = runtime.block_on(played).expect("the lines of each watch");
    if let Some(version) = to_record {
        let lines = found.iter().map(|it| serde_json::to_string(it).unwrap() + "\n");
        std::fs::create_dir_all(file(&version).parent().unwrap()).unwrap();
        return std::fs::write(file(&version), lines.collect::<String>()).unwrap();
    }
    let said: Value = serde_json::from_str(&found[0].said[0]).unwrap();
    let version = said["etcdcluster"].as_str().unwrap();
    let Some(version) = VERSIONS.iter().find(|it| **it == version) else { return };
    let mut wanted = recording(version);
    for recorded in found.iter_mut().chain(&mut wanted) {
        let is_own = recorded.path == "/version" || recorded.path.ends_with("/status");
        recorded.said.iter_mut().for_each(|said| *said = said.replace(", \"", ",\""));
        recorded.said.retain(|_| !is_own);
    }
    assert_same(&found, &wanted, version);
}
