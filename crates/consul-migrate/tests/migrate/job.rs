//! One instance at a time, and what a comparison finds.

use super::program::{PATIENCE, Running, Servers};
use std::time::{Duration, Instant};

pub fn run(version: &'static str) {
    let mut servers = Servers::start("job", version);
    let key = |place: usize| (format!("/app/{place:04}"), place.to_string());
    servers.etcd.gateway().fill((0..2000).map(key));
    servers.run(&["tail"]).ends(1, &["there is no job", "begin it with copy"]);
    servers.run(&["copy", "--txn", "64"]).ok();
    servers.run(&["copy"]).ends(1, &["copied already"]);
    servers.run(&["--job", "other", "copy"]).ends(1, &["nothing was written", "--replace"]);
    let words = ["Consul has keys in their place already", "a copy would be refused"];
    servers.run(&["--job", "other", "plan"]).ends(1, &words);
    replaces(&servers);
    is_taken_from_elsewhere(&servers);
    finds_each_difference(&servers);
    super::grpc::run(&mut servers);
    is_held_by_one(&servers);
    survives_compaction(&servers);
    survives_compaction_beside_others(&servers);
}

/// A copy that begins where Consul has keys leaves none that etcd does not have.
fn replaces(servers: &Servers) {
    let consul = servers.consul();
    consul.send("PUT", "/v1/kv/fresh/of-another", "x").unwrap();
    let fresh = ["--job", "fresh", "--consul-prefix", "fresh/"];
    servers.run(&[&fresh[..], &["copy", "--replace"]].concat()).ends(2, &["use --yes"]);
    assert!(servers.stored("fresh/of-another").is_some());
    let words = ["--replace deletes 1 key of Consul that etcd does not have", "fresh/of-another"];
    servers.run(&[&fresh[..], &["copy", "--replace", "--yes"]].concat()).ends(0, &words);
    assert_eq!(servers.stored("fresh/of-another"), None);
    servers.run(&[&fresh[..], &["verify"]].concat()).ends(0, &["compared 2000 keys"]);
    // Not by none.
    consul.send("PUT", "/v1/kv/fresh/ap/of-another", "x").unwrap();
    let wrong = [
        "--job",
        "wrong",
        "--etcd-prefix",
        "/ap/",
        "--consul-prefix",
        "fresh/",
        "copy",
        "--replace",
        "--yes",
    ];
    let words = ["nothing was written: --replace would delete all keys", "\"/app/\""];
    servers.run(&wrong).ends(1, &words);
    assert!(servers.stored("fresh/ap/of-another").is_some());
    consul.send("DELETE", "/v1/kv/fresh/?recurse", "").unwrap();
}

/// An instance on another machine that has no beat any more is replaced.
fn is_taken_from_elsewhere(servers: &Servers) {
    let holder = r#"{"id":"1","host":"elsewhere","boot":"b","process":4194304,"verb":"tail"}"#;
    servers.consul().send("PUT", "/v1/kv/_migrate/etcd/holder", holder).unwrap();
    servers.run(&["status"]).ends(0, &["process 4194304 on elsewhere (tail) holds it"]);
    servers.run(&["copy"]).ends(1, &["copied already"]);
    servers.run(&["status"]).ends(0, &["no instance holds it"]);
}

fn finds_each_difference(servers: &Servers) {
    let consul = servers.consul();
    let put = |key: &str, value: &str| {
        assert_eq!(consul.send("PUT", &format!("/v1/kv/{key}"), value.to_owned()).unwrap().0, 200);
    };
    put("app/0007", "8");
    put("app/extra", "e");
    consul.send("DELETE", "/v1/kv/app/1999", "").unwrap();
    servers.run(&["verify"]).ends(
        1,
        &[
            "1 missing, 1 extra, 1 different",
            "different: app/0007",
            "extra: app/extra",
            "missing: app/1999",
        ],
    );
    put("app/0007", "7");
    put("app/1999", "1999");
    consul.send("DELETE", "/v1/kv/app/extra", "").unwrap();
    servers.run(&["verify", "--txn", "64"]).ok();
}

fn is_held_by_one(servers: &Servers) {
    let mut first = servers.start_run(&["tail", "--txn", "64"]);
    servers
        .etcd
        .gateway()
        .fill((0..300).map(|place| (format!("/app/{place:04}"), place.to_string())));
    servers.etcd.gateway().put(b"/app/new", b"1");
    servers.wait_for_tail();
    servers.run(&["tail"]).ends(4, &["another instance holds the job", "process", "(tail)"]);
    assert!(!first.has_ended());
    let second = servers.start_run(&["tail", "--take-over"]);
    first.end().ends(4, &["another instance holds the job"]);
    servers.etcd.gateway().put(b"/app/new", b"2");
    servers.wait_for_tail();
    assert_eq!(servers.stored("app/new").unwrap(), b"2");
    is_not_replaced_in_vain(servers, second);
}

/// A refusal that needs only reading leaves the instance that runs.
fn is_not_replaced_in_vain(servers: &Servers, mut tail: Running) {
    let all: [(&[&str], &str); 5] = [
        (&["rollback", "--yes", "--take-over"], "not cut over"),
        (&["finish", "--yes", "--take-over"], "not cut over"),
        (&["--on", "path-key=skip", "cutover", "--yes", "--take-over"], "can no longer change"),
        (&["cutover", "--freeze", "roles", "--yes", "--take-over"], "etcd has no users"),
        (&["--consul-prefix", "x/", "cutover", "--yes", "--take-over"], "began with"),
    ];
    servers.run(&["--on", "path-key=encode", "copy", "--take-over"]).ends(1, &["copied already"]);
    tail.kill();
    let mut tail = servers.start_run(&["tail"]);
    servers.etcd.gateway().put(b"/app/new", b"3");
    servers.wait_for_tail();
    for (arguments, why) in all {
        servers.run(arguments).ends(1, &[why]);
        assert!(!tail.has_ended(), "{arguments:?}");
    }
    servers.etcd.gateway().put(b"/app/new", b"4");
    servers.wait_for_tail();
    assert!(!tail.has_ended() && servers.stored("app/new").unwrap() == b"4");
}

/// The keys of a job with a prefix rest, while others change and are compacted: the watch meets that, no other read.
fn survives_compaction_beside_others(servers: &Servers) {
    let gateway = servers.etcd.gateway();
    gateway.put(b"/idle/a", b"1");
    gateway.put(b"/idle/gone", b"1");
    let idle = |verb: &'static str| {
        ["--job", "idle", "--etcd-prefix", "/idle/", "--consul-prefix", "of-idle/", verb]
    };
    servers.run(&idle("copy")).ok();
    gateway.delete(b"/idle/gone");
    gateway.put(b"/app/busy", b"1");
    gateway.compact();
    for round in ["2", "3"] {
        gateway.put(b"/idle/a", round.as_bytes());
        let mut tail = servers.start_run(&idle("tail"));
        let end = Instant::now() + PATIENCE;
        let is_there = || servers.stored("of-idle/idle/a").unwrap() == round.as_bytes();
        while !is_there() || servers.stored("of-idle/idle/gone").is_some() {
            assert!(Instant::now() < end && !tail.has_ended(), "{:?}", tail.end());
            std::thread::sleep(Duration::from_millis(50));
        }
        tail.signal("TERM");
        let tail = tail.end();
        assert_eq!(tail.status, 130, "{tail:?}");
        let is_copied = tail.err.contains("copying a new snapshot");
        assert_eq!(is_copied, round == "2", "{tail:?}");
    }
    gateway.put(b"/app/busy", b"2");
    gateway.put(b"/idle/a", b"4");
    gateway.compact();
    let said = servers.run(&[&idle("cutover")[..], &["--yes", "--within", "300"]].concat());
    said.ends(0, &["copying a new snapshot", ": etcd has compacted", "cut over: 1 key"]);
    servers.run(&[&idle("rollback")[..], &["--yes"]].concat()).ok();
}

/// Changes that are compacted before the tail reads them: a new snapshot, and no key too many.
fn survives_compaction(servers: &Servers) {
    let gateway = servers.etcd.gateway();
    for place in 0..100 {
        gateway.delete(format!("/app/{place:04}").as_bytes());
    }
    gateway.put(b"/app/0500", b"changed");
    let consul = servers.consul();
    let others = ["app/0007", "app/of-consul", "others/a"];
    for key in others {
        consul.send("PUT", &format!("/v1/kv/{key}"), "of another program").unwrap();
    }
    gateway.compact();
    gateway.put(b"/app/after", b"1");
    let tail = servers.start_run(&["tail"]);
    servers.wait_for_tail();
    tail.signal("TERM");
    let said = [
        "copying a new snapshot",
        ": etcd has compacted",
        "Consul has 3 keys",
        "such as app/0007: they stay",
    ];
    tail.end().ends(130, &said);
    for key in others {
        assert_eq!(servers.stored(key).unwrap(), b"of another program", "{key}");
    }
    servers.run(&["verify"]).ends(1, &["compared 1902 keys", "0 missing, 3 extra, 0 different"]);
    servers.run(&["copy", "--again"]).ends(0, &["copying a new snapshot", ": --again", "3 keys"]);
    assert_eq!(servers.stored("others/a").unwrap(), b"of another program");
    servers.run(&["copy", "--again", "--replace", "--yes"]).ok();
    servers.run(&["verify"]).ends(0, &["compared 1902 keys", "0 missing, 0 extra, 0 different"]);
}
