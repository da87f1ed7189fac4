//! The verbs that only show, and what no verb leaves behind.

use crate::program::Run;
use crate::system::System;

pub fn run(system: &System) {
    let before = system.traces();
    nodes(system);
    shards(system);
    leader(system);
    locks(system);
    completion();
    unreachable();
    assert_eq!(system.traces(), before, "the program is not a member");
}

fn nodes(system: &System) {
    let table = system.run(&["nodes"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NODE  ADDRESS"), "{table}");
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[1].starts_with("n1    127.0.0.1:9000  zone-n1  active  live"), "{table}");
    assert!(!table.contains('\x1b'), "no colour: {table}");
    let json = system.run(&["nodes", "--json"]).json();
    let nodes = json["nodes"].as_array().unwrap();
    let primaries: u64 = nodes.iter().map(|node| node["primaries"].as_u64().unwrap()).sum();
    assert_eq!(primaries, 16);
    assert_eq!(nodes[0]["mode"], "active");
}

fn shards(system: &System) {
    let json = system.run(&["shards", "--json"]).json();
    assert_eq!((&json["shards"], &json["replicas"]), (&16.into(), &2.into()));
    assert_eq!(json["listed"].as_array().unwrap().len(), 16);
    let table = system.run(&["shards"]).ok();
    assert!(table.starts_with(&format!("epoch {}, 16 shards", json["epoch"])), "{table}");
    let of_key = system.run(&["shards", "user:1", "--json"]).json();
    let shard = of_key["shard"].as_u64().unwrap() as usize;
    assert_eq!(of_key["replicas"], json["listed"][shard]["replicas"]);
    assert_eq!(of_key["requests_go_to"], of_key["replicas"][0]["node"]);
    let of_node = system.run(&["shards", "--node", "n2"]).ok();
    assert!(of_node.lines().skip(3).all(|line| line.contains("n2")), "{of_node}");
    system.run(&["shards", "--node", "n22"]).refused(1, &["did you mean \"n2\"?"]);
}

fn leader(system: &System) {
    let json = system.run(&["leader", "--json"]).json();
    let leader = json["leader"]["node_id"].as_str().unwrap();
    let text = system.run(&["leader"]).ok();
    assert!(text.starts_with(&format!("{leader} at 127.0.0.1:9000, elected ")), "{text}");
}

fn locks(system: &System) {
    let json = system.run(&["locks", "ha/", "--json"]).json();
    let lock = &json["locks"][0];
    assert_eq!((&lock["key"], &lock["kind"]), (&"ha/leader".into(), &"lock".into()));
    assert!(lock["token"].as_u64() > Some(0));
    let table = system.run(&["locks"]).ok();
    assert!(table.contains("ha/leader  lock  held"), "{table}");
    assert_eq!(system.run(&["locks", "user/"]).ok(), "no locks\n");
}

fn completion() {
    for (shell, part) in [("bash", "_consul__ha()"), ("zsh", "#compdef"), ("fish", "complete -c")] {
        let script = Run::of(&["completion", shell], &[]).ok();
        assert!(script.contains(part) && script.contains("accept-loss"), "{shell}");
    }
}

fn unreachable() {
    let run = || Run::of(&["nodes", "--json"], &[("CONSUL_HTTP_ADDR", "127.0.0.1:1")]);
    assert!(run().out.contains("\"kind\":\"connect\""), "{:?}", run());
    run().refused(3, &["127.0.0.1:1"]);
    Run::of(&["nodess"], &[]).refused(2, &["'nodes'"]);
    let tls = [("CONSUL_HTTP_ADDR", "127.0.0.1:1")];
    Run::of(&["nodes", "--ca-file", "x.pem"], &tls).refused(2, &["no endpoint uses TLS"]);
}
