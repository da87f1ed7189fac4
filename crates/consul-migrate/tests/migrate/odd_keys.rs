//! Keys that Consul does not take as they are.

use super::etcd::text;
use super::program::Servers;
use serde_json::{Value, json};

/// Each kind with one of its keys.
const KINDS: &[(&str, &[u8])] = &[
    ("empty-key", b"/"),
    ("collision", b"both"),
    ("control-key", b"/with\0nul"),
    ("path-key", b"/a//b/../c"),
    ("url-key", NEWER.as_bytes()),
    ("not-utf8", b"/\xff\xfe"),
    ("reserved-key", b"/_etcd/x"),
    ("large-value", b"/large"),
];

/// Further keys with characters that are not printable.
const UNPRINTABLE: [&str; 3] = ["/zero\u{200b}width", "/no\u{a0}break", "/private\u{e000}"];

/// A key with a character that is newer than the servers, which refuse it in a URL as not printable.
const NEWER: &str = "/newer\u{1faea}";

pub fn run(version: &'static str) {
    let servers = Servers::start("odd", version);
    let gateway = servers.etcd.gateway();
    let large: Vec<u8> = (0..1_500_000_u32).map(|at| (at / 7) as u8).collect();
    for (kind, key) in KINDS {
        let value = if *kind == "large-value" { &large[..] } else { b"odd" };
        gateway.put(key, value);
    }
    for key in UNPRINTABLE {
        gateway.put(key.as_bytes(), b"odd");
    }
    gateway.put(b"/both", b"with a slash");
    gateway.put(b"/empty-value", b"");
    gateway.put(b"/393", &large[..393_000]);
    gateway.put(b"/512", &large[..524_288]);
    let lease = gateway.post("lease/grant", json!({ "TTL": "600" }));
    let leased = json!({ "key": text(b"/leased"), "value": text(b"v"), "lease": lease["ID"] });
    gateway.post("kv/put", leased);

    plan_names_them_all(&servers);
    nothing_is_written(&servers);
    skipped(&servers);
    encoded(&servers, &large);
}

fn plan_names_them_all(servers: &Servers) {
    let run = servers.run(&["plan", "--json"]);
    assert_eq!(run.status, 1, "{run:?}");
    let said: Value = serde_json::from_str(&run.out).unwrap();
    for (kind, key) in KINDS.iter().chain([&("leased", &b"/leased"[..])]) {
        let named = said["survey"]["problems"][kind]["keys"].as_array().unwrap();
        let shown = consul_migrate::mapping::shown::shown(key);
        assert!(named.iter().any(|name| *name == *shown), "{kind}: {named:?}");
    }
    let named = &said["survey"]["problems"]["control-key"]["keys"];
    for key in UNPRINTABLE {
        let status =
            servers.consul().send("GET", &format!("/v1/kv{}", escaped(key)), "").unwrap().0;
        let shown = consul_migrate::mapping::shown::shown(key.as_bytes());
        assert!(
            status == 400 && named.as_array().unwrap().contains(&shown.into()),
            "{key:?}: {status}"
        );
    }
    assert_eq!(said["refused"].as_array().unwrap().len(), KINDS.len(), "{said}");
}

/// The key in a URL.
fn escaped(key: &str) -> String {
    key.bytes()
        .map(|byte| if byte == b'/' { "/".to_owned() } else { format!("%{byte:02X}") })
        .collect()
}

fn nothing_is_written(servers: &Servers) {
    servers.run(&["copy"]).ends(1, &["nothing was written", "path-key"]);
    assert_eq!(servers.record(), Value::Null);
}

fn choices(choice: &str) -> Vec<String> {
    KINDS.iter().map(|(kind, _)| format!("--on={kind}={choice}")).collect()
}

fn skipped(servers: &Servers) {
    let choices = choices("skip");
    let mut arguments = vec!["--job", "skip", "--consul-prefix", "skip/"];
    arguments.extend(choices.iter().map(String::as_str));
    servers.run(&[&arguments[..], &["copy"]].concat()).ok();
    let said = servers.run(&[&arguments[..], &["verify"]].concat()).ok();
    assert!(said.contains("compared 4 keys"), "{said}");
}

fn encoded(servers: &Servers, large: &[u8]) {
    let choices = choices("encode");
    let mut arguments = vec!["--job", "encode", "--consul-prefix", "encode/"];
    arguments.extend(choices.iter().map(String::as_str));
    servers.run(&[&arguments[..], &["copy"]].concat()).ok();
    let said = servers.run(&[&arguments[..], &["verify"]].concat()).ok();
    assert!(said.contains("0 missing, 0 extra, 0 different"), "{said}");
    let stored = |key: &str| servers.stored(key);
    assert_eq!(stored("encode/512").unwrap(), &large[..524_288]);
    assert_eq!(stored("encode/both").unwrap(), b"with a slash");
    assert_eq!(stored("encode/_etcd/626f7468/0000-0001").unwrap(), b"odd");
    let parts =
        (0..5).map(|part| stored(&format!("encode/_etcd/2f6c61726765/{part:04}-0005")).unwrap());
    assert_eq!(parts.collect::<Vec<_>>().concat(), large);
    assert_eq!(stored("encode/leased"), None);

    // While the tail runs, a key can change between its forms.
    let _tail = servers.start_run(&[&arguments[..], &["tail"]].concat());
    let gateway = servers.etcd.gateway();
    gateway.put(b"/large", b"small now");
    gateway.put(b"/512", large);
    gateway.delete(b"both");
    gateway.put(b"/late", &large[..500_000]);
    gateway.put(b"/last", b"v");
    let end = std::time::Instant::now() + super::program::PATIENCE;
    while stored("encode/last").is_none() {
        assert!(std::time::Instant::now() < end, "the tail does not follow");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(stored("encode/large").unwrap(), b"small now");
    assert_eq!(stored("encode/_etcd/2f6c61726765/0000-0005"), None);
    assert_eq!(stored("encode/512"), None);
    assert_eq!(stored("encode/_etcd/626f7468/0000-0001"), None);
    assert_eq!(stored("encode/late").unwrap(), &large[..500_000]);
    servers.run(&[&arguments[..], &["verify"]].concat()).ok();
    comes_back(servers, &arguments, large);
}

/// The way back restores what etcd has lost since the cut-over, also what is encoded in Consul.
fn comes_back(servers: &Servers, arguments: &[&str], large: &[u8]) {
    let run = |more: &[&str]| servers.run(&[arguments, more].concat()).ok();
    run(&["cutover", "--yes", "--take-over"]);
    let gateway = servers.etcd.gateway();
    let lost: [(&[u8], &[u8]); 8] = [
        (b"/", b"odd"),
        (b"/with\0nul", b"odd"),
        (b"/a//b/../c", b"odd"),
        (b"/\xff\xfe", b"odd"),
        (b"/512", large),
        (b"/late", &large[..500_000]),
        (UNPRINTABLE[0].as_bytes(), b"odd"),
        (NEWER.as_bytes(), b"odd"),
    ];
    for (key, _) in lost {
        gateway.delete(key);
    }
    let said = run(&["rollback", "--yes"]);
    assert!(said.contains("set 8 keys of etcd and deleted 0 keys"), "{said}");
    for (key, value) in lost {
        assert!(super::cutover::value(&gateway, key) == Some(text(value)), "{key:?}");
    }
}
