//! The verbs that only show, and what no verb leaves behind.

use crate::program::{PRINTED, Run};
use crate::system::System;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

pub fn run(system: &System) {
    let before = system.traces();
    nodes(system);
    shards(system);
    leader(system);
    locks(system);
    assert_eq!(system.run(&["why"]).ok(), "all is well\n");
    assert_eq!(system.run(&["why", "--wait"]).ok(), "all is well\n");
    let events = system.run(&["events"]).ok();
    assert!(events.contains("  leader_changed n"), "{events}");
    let event = system.run(&["events", "--json"]).ok();
    assert!(event.starts_with("{\"at_ms\":"), "{event}");
    serve(system);
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
    let map = &json["map"];
    assert_eq!((&map["shards"], &map["replicas"]), (&16.into(), &2.into()));
    assert_eq!(json["listed"].as_array().unwrap().len(), 16);
    assert_eq!(json["stores"][0]["name"], "points");
    let table = system.run(&["shards"]).ok();
    assert!(table.starts_with(&format!("epoch {}, 16 shards", map["epoch"])), "{table}");
    let of_key = system.run(&["shards", "user:1", "--json"]).json();
    let shard = of_key["shard"].as_u64().unwrap() as usize;
    let primary = map["placement"][shard][0][0].as_u64().unwrap() as usize;
    assert_eq!(of_key["replicas"][0]["node"], map["nodes"][primary]);
    assert!(table.contains("STORE   SHARDS  N/W/R") && table.contains("\npoints"), "{table}");
    assert_eq!(of_key["requests_go_to"], of_key["replicas"][0]["node"]);
    let of_node = system.run(&["shards", "--node", "n2"]).ok();
    let listed = of_node.lines().skip(3).take_while(|line| !line.is_empty());
    assert!(listed.clone().count() > 0 && listed.clone().all(|line| line.contains("n2")));
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
    assert_eq!(lock["token"], system.run(&["leader", "--json"]).json()["leader"]["token"]);
    let table = system.run(&["locks"]).ok();
    assert!(table.contains("ha/leader  lock  held"), "{table}");
    assert_eq!(system.run(&["locks", "user/"]).ok(), "no locks\n");
}

/// The page's server shows the whole cluster, and nobody needs a key of it.
fn serve(system: &System) {
    let mut server = system.serve();
    let address = server.url.strip_prefix("http://").unwrap().trim_end_matches('/');
    let get = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        PRINTED.lock().unwrap().push_str(&answer);
        answer
    };
    let knows_all = || {
        let answer = get("/cluster");
        let document = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let document: Value = serde_json::from_str(document).unwrap_or_default();
        let nodes = document["nodes"].as_array().map_or(0, Vec::len);
        nodes == 3 && document["leader"].is_object() && document["stores"][0]["name"] == "points"
    };
    system.wait_for("the server knows the cluster", knows_all);
    assert!(get("/").contains("<!doctype html>"));
    assert!(get("/metrics").starts_with("HTTP/1.0 200"));
    server.stop();
}

fn completion() {
    for (shell, part) in [("bash", "_consul__ha()"), ("zsh", "#compdef"), ("fish", "complete -c")] {
        let script = Run::of(&["completion", shell], &[]).ok();
        assert!(script.contains(part) && script.contains("hand-over"), "{shell}");
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
