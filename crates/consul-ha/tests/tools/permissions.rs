//! Refusals for lack of a right, which name it.

use crate::system::System;

/// A token that may read all that the program shows, and change nothing.
fn reader(system: &System) -> String {
    let reads = r#"key_prefix "ha/" { policy = "read" } service_prefix "" { policy = "read" }
        node_prefix "" { policy = "read" }"#;
    system.token(reads)
}

pub fn run(system: &System) {
    let reader = reader(system);
    system.run_as(&reader, &["nodes"]).ok();
    for verb in [
        &["drain", "n1"][..],
        &["maintenance", "n1"],
        &["leave", "n1"],
        &["drain", "n1", "--expect-epoch"],
    ] {
        let epoch = system.run(&["shards", "--json"]).json()["map"]["epoch"].to_string();
        let mut verb = verb.to_vec();
        if verb.ends_with(&["--expect-epoch"]) {
            verb.push(&epoch);
        }
        let run = system.run_as(&reader, &verb);
        assert!(!run.err.contains(&reader), "{run:?}");
        run.refused(5, &["key:write", "ha/nodes/n1"]);
        system.run_as(&reader, &[&verb[..], &["--dry-run"]].concat()).ok();
    }
    let leader = system.run(&["leader", "--json"]).json()["leader"]["node_id"].clone();
    let key = format!("ha/nodes/{}", leader.as_str().unwrap());
    system.run_as(&reader, &["hand-over"]).refused(5, &["key:write", &key]);
    system.run_as(&reader, &["hand-over", "--dry-run"]).ok();
    assert_eq!(system.node("n1")["mode"], "active");
    let blind = system.token(r#"service_prefix "" { policy = "read" }"#);
    system.run_as(&blind, &["nodes"]).refused(5, &["key:read", "ha/nodes/"]);
    system.run_as("not-a-token", &["nodes"]).refused(5, &["ACL not found"]);
}

/// The verbs that have nothing to do until nodes are lost: n2 and n3 are, and have frozen the map.
pub fn frozen(system: &System) {
    let reader = reader(system);
    for (verb, key) in [
        (&["thaw"][..], "ha/shards/"),
        (&["forget", "n3"], "ha/nodes/n3"),
        (&["accept-loss", "points", "0"], "ha/shards/"),
        (&["store-set", "points", "--write-quorum", "1"], "ha/shards/members/points/wanted"),
    ] {
        system.run_as(&reader, verb).refused(5, &["key:write", key]);
    }
    assert_eq!(system.run(&["nodes", "--json"]).json()["frozen"].as_array().unwrap().len(), 2);
    assert!(!system.node("n3").is_null());
}
