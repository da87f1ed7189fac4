//! Refusals for lack of a right, which name it.

use crate::system::System;

pub fn run(system: &System) {
    let reads = r#"key_prefix "ha/" { policy = "read" } service_prefix "" { policy = "read" }
        node_prefix "" { policy = "read" }"#;
    let reader = system.token(reads);
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
    assert_eq!(system.node("n1")["mode"], "active");
    let blind = system.token(r#"service_prefix "" { policy = "read" }"#);
    system.run_as(&blind, &["nodes"]).refused(5, &["key:read", "ha/nodes/"]);
    system.run_as("not-a-token", &["nodes"]).refused(5, &["ACL not found"]);
}
