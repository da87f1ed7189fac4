//! The cut-over under writers, interrupted and to its end, and the way back.

use super::etcd::{Etcd, Gateway, text};
use super::program::{PATIENCE, Running, Servers};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const KEYS: usize = 3000;

/// Writers never wait longer than this for an interrupted cut-over, on a busy machine.
const MOST_REFUSED: Duration = Duration::from_secs(60);

pub fn run(version: &'static str) {
    let servers = Servers::start("cutover", version);
    let value = |place: usize| (format!("/app/{place:04}"), place.to_string());
    servers.etcd.gateway().fill((0..KEYS).map(value));
    servers.run(&["cutover", "--yes"]).ends(1, &["there is no job"]);
    servers.run(&["copy"]).ok();
    servers.run(&["rollback", "--yes"]).ends(1, &["not cut over"]);
    servers.run(&["cutover"]).ends(2, &["--yes"]);
    cannot_tell(&servers);
    let (is_over, longest) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _over = super::storm::Over(&is_over);
        for seed in 0..3 {
            let (etcd, is_over, longest) = (&servers.etcd, &is_over, &longest);
            scope.spawn(move || write(etcd, seed, is_over, longest));
        }
        for (signal, status) in [("INT", 130), ("TERM", 130), ("HUP", 130), ("QUIT", 130)] {
            interrupted(&servers, signal).ends(status, &["not cut over: etcd takes writes again"]);
            assert_eq!(alarms(&servers.etcd.gateway()), 0);
        }
        interrupted(&servers, "KILL");
        assert_eq!(alarms(&servers.etcd.gateway()), 1, "nothing was there to lift it");
        servers.run(&["status"]).ends(0, &["a cut-over was killed; now it takes them again"]);
        assert_eq!(alarms(&servers.etcd.gateway()), 0);
        interrupted(&servers, "KILL");
        let mut tail = servers.start_run(&["tail"]);
        let end = Instant::now() + PATIENCE;
        while alarms(&servers.etcd.gateway()) > 0 {
            assert!(Instant::now() < end && !tail.has_ended(), "the alarm is not lifted");
        }
        let run = servers.run(&["cutover", "--yes", "--take-over", "--within", "300"]);
        assert!(run.ok().contains("writers were stopped for"));
        tail.end().ends(4, &["undid what a cut-over had stopped"]);
        thread::sleep(Duration::from_millis(200));
    });
    let longest = Duration::from_millis(longest.load(Ordering::Relaxed));
    assert!(longest < MOST_REFUSED, "{longest:?}");
    is_switched(&servers);
    goes_back(&servers);
}

/// A difference that cannot be told, because the disk is full.
fn cannot_tell(servers: &Servers) {
    servers.consul().send("PUT", "/v1/kv/app/0003", "changed").unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let cutover = servers.program(&["cutover", "--yes", "--within", "300"]).stdout(full).output();
    let cutover = cutover.unwrap();
    assert_eq!(cutover.status.code(), Some(1), "{cutover:?}");
    let said = String::from_utf8(cutover.stderr).unwrap();
    for words in ["the output cannot be written", "not cut over: etcd takes writes again"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(alarms(&servers.etcd.gateway()), 0);
    servers.consul().send("PUT", "/v1/kv/app/0003", "3").unwrap();
}

/// A writer that goes on after a refusal; notes for how long it was refused before it could write again.
fn write(etcd: &Etcd, seed: u64, is_over: &AtomicBool, longest: &AtomicU64) {
    let (gateway, mut rng) = (etcd.gateway(), fastrand::Rng::with_seed(seed));
    let mut refused: Option<Instant> = None;
    while !is_over.load(Ordering::Relaxed) {
        let key = format!("/app/{:04}", rng.usize(..KEYS));
        let value = rng.u64(..).to_string();
        match try_put(&gateway, key.as_bytes(), value.as_bytes()) {
            200 => {
                let time = refused.take().map_or(Duration::ZERO, |since| since.elapsed());
                longest.fetch_max(time.as_millis() as u64, Ordering::Relaxed);
            }
            429 => _ = refused.get_or_insert_with(Instant::now),
            other => panic!("HTTP {other}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn try_put(gateway: &Gateway, key: &[u8], value: &[u8]) -> u16 {
    let body = json!({ "key": text(key), "value": text(value) }).to_string();
    gateway.send("POST", "/v3/kv/put", body).unwrap().0
}

pub fn alarms(gateway: &Gateway) -> usize {
    let said = gateway.post("maintenance/alarm", json!({ "action": "GET" }));
    said["alarms"].as_array().map_or(0, Vec::len)
}

/// A cut-over that gets a signal while the alarm is on.
fn interrupted(servers: &Servers, signal: &str) -> super::program::Run {
    let gateway = servers.etcd.gateway();
    for _ in 0..10 {
        let mut cutover =
            servers.start_run(&["cutover", "--yes", "--take-over", "--within", "300"]);
        let end = Instant::now() + PATIENCE;
        while alarms(&gateway) == 0 && !cutover.has_ended() {
            assert!(Instant::now() < end, "the alarm is not raised");
        }
        cutover.signal(signal);
        let run = cutover.end();
        if run.status != 0 {
            return run;
        }
        // The signal came after its end.
        servers.run(&["rollback", "--yes"]).ok();
    }
    panic!("each cut-over came to its end");
}

fn is_switched(servers: &Servers) {
    let gateway = servers.etcd.gateway();
    assert_eq!(try_put(&gateway, b"/app/late", b"v"), 429);
    servers.run(&["verify"]).ends(0, &["0 missing, 0 extra, 0 different"]);
    servers.run(&["status"]).ends(0, &["cut over", "refuses writes since the cut-over"]);
    servers.run(&["cutover", "--yes"]).ends(1, &["cut over already"]);
    servers.run(&["copy", "--again"]).ends(1, &["nothing is copied again"]);

    // Deletions go on, but not of what programs have changed in Consul.
    let consul = servers.consul();
    consul.send("PUT", "/v1/kv/app/0001", "of Consul").unwrap();
    let mut tail = servers.start_run(&["tail"]);
    for key in [&b"/app/0001"[..], b"/app/0002"] {
        gateway.delete(key);
    }
    let end = Instant::now() + PATIENCE;
    while servers.stored("app/0002").is_some() {
        assert!(Instant::now() < end && !tail.has_ended(), "the deletion is not applied");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(servers.stored("app/0001").unwrap(), b"of Consul");
    tail.signal("TERM");
    assert_eq!(tail.end().status, 130);
    assert_eq!(alarms(&gateway), 1, "the freeze of a cut-over that is done stays");
}

fn goes_back(servers: &Servers) {
    let (consul, gateway) = (servers.consul(), servers.etcd.gateway());
    let on = gateway.post("maintenance/alarm", json!({ "action": "GET" }));
    let member = &on["alarms"][0]["memberID"];
    let lift = json!({ "action": "DEACTIVATE", "memberID": member, "alarm": "NOSPACE" });
    gateway.post("maintenance/alarm", lift);
    servers.run(&["status"]).ends(0, &["etcd TAKES WRITES although the job is cut over"]);

    // A key that a session holds stays as it is.
    let (_, session) = consul.send("PUT", "/v1/session/create", "{}").unwrap();
    let session: Value = serde_json::from_slice(&session).unwrap();
    let session = session["ID"].as_str().unwrap();
    let (unheld, in_etcd) = (servers.stored("app/0010").unwrap(), value(&gateway, b"/app/0010"));
    let (_, is_held) =
        consul.send("PUT", &format!("/v1/kv/app/0010?acquire={session}"), "held").unwrap();
    assert_eq!(is_held.trim_ascii(), b"true");
    consul.send("PUT", "/v1/kv/app/0003", "changed").unwrap();
    consul.send("PUT", "/v1/kv/app/new", "new").unwrap();
    consul.send("DELETE", "/v1/kv/app/0004", "").unwrap();
    let said = servers.run(&["rollback", "--dry-run"]).ok();
    assert!(said.contains("would set 3 keys of etcd and delete 1 key"), "{said}");
    assert_eq!(value(&gateway, b"/app/new"), None);
    servers.run(&["rollback"]).ends(2, &["--yes"]);
    let said = servers.run(&["rollback", "--yes"]).ok();
    assert!(said.contains("set 3 keys of etcd and deleted 1 key"), "{said}");
    let left = "with a session or a lease: 1 key\n  /app/0010: a session holds it in Consul\n";
    assert!(said.contains(left), "{said}");
    assert_eq!(value(&gateway, b"/app/0010"), in_etcd);
    consul.send("PUT", &format!("/v1/session/destroy/{session}"), "").unwrap();
    consul.send("PUT", "/v1/kv/app/0010", unheld).unwrap();
    for (key, wanted) in [("0001", "of Consul"), ("0003", "changed"), ("new", "new")] {
        let found = value(&gateway, format!("/app/{key}").as_bytes()).unwrap();
        assert_eq!(found, text(wanted.as_bytes()), "{key}");
    }
    assert_eq!(value(&gateway, b"/app/0004"), None);
    assert_eq!(alarms(&gateway), 0);
    servers.run(&["verify"]).ends(0, &["0 missing, 0 extra, 0 different"]);

    // The job can go on as before.
    let tail: Running = servers.start_run(&["tail"]);
    gateway.put(b"/app/after", b"1");
    servers.wait_for_tail();
    drop(tail);
    assert_eq!(servers.stored("app/after").unwrap(), b"1");
    is_finished(servers);
}

fn is_finished(servers: &Servers) {
    let gateway = servers.etcd.gateway();
    servers.run(&["finish", "--yes"]).ends(1, &["not cut over"]);
    servers.run(&["cutover", "--yes", "--take-over", "--within", "300"]).ok();
    servers.run(&["finish"]).ends(2, &["--yes"]);
    servers
        .run(&["finish", "--yes"])
        .ends(0, &["finished: etcd takes writes again", "of the job, and"]);
    assert_eq!((alarms(&gateway), try_put(&gateway, b"/app/late", b"v")), (0, 200));
    let (_, keys) = servers.consul().send("GET", "/v1/kv/?recurse", "").unwrap();
    let keys: Value = serde_json::from_slice(&keys).unwrap();
    for key in keys.as_array().unwrap() {
        let name = key["Key"].as_str().unwrap();
        assert!(key["Flags"] == 0 && !name.starts_with("_migrate/"), "{key}");
    }
    servers.run(&["status"]).ends(1, &["there is no job"]);
}

/// The value of a key of etcd, in base64.
pub fn value(gateway: &Gateway, key: &[u8]) -> Option<String> {
    let found = gateway.post("kv/range", json!({ "key": text(key) }));
    let kv: &Value = found["kvs"].get(0)?;
    Some(kv["value"].as_str().unwrap_or_default().to_owned())
}
