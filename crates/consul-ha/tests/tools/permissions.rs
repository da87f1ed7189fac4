//! Refusals for lack of a right, which name it.

use crate::states;
use crate::system::System;

/// A token that may read all that the program shows, and change nothing.
pub fn reader(system: &System) -> String {
    writer(system, "")
}

/// The same, with these further rules.
pub fn writer(system: &System, rules: &str) -> String {
    let reads = r#"key_prefix "ha/" { policy = "read" } service_prefix "" { policy = "read" }
        node_prefix "" { policy = "read" }"#;
    system.token(&format!("{reads} {rules}"))
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
        let dry = system.run_as(&reader, &[&verb[..], &["--dry-run"]].concat());
        assert_eq!(dry.out, "", "{dry:?}");
        dry.refused(5, &["it would be refused", "key:write", "ha/nodes/n1"]);
    }
    let leader = system.run(&["leader", "--json"]).json()["leader"]["node_id"].clone();
    let key = format!("ha/nodes/{}", leader.as_str().unwrap());
    system.run_as(&reader, &["hand-over"]).refused(5, &["key:write", &key]);
    system.run_as(&reader, &["hand-over", "--dry-run"]).refused(5, &["key:write", &key]);
    dry_runs(system, &reader);
    assert_eq!(system.node("n1")["mode"], "active");
    let blind = system.token(r#"service_prefix "" { policy = "read" }"#);
    system.run_as(&blind, &["nodes"]).refused(5, &["key:read", "ha/nodes/"]);
    system.run_as("not-a-token", &["nodes"]).refused(5, &["ACL not found"]);
}

/// Each verb that changes something, with the status of its dry run without the right to change anything: 1 where the cluster
/// is not so that it can do something, and 0 where there is nothing to do, for which it needs no right.
const CHANGES: [(&[&str], i32, &str); 13] = [
    (&["drain", "n1"], 5, "ha/nodes/n1"),
    (&["maintenance", "n1"], 5, "ha/nodes/n1"),
    (&["hand-over"], 5, "ha/nodes/"),
    (&["leave", "n1"], 5, "ha/nodes/n1"),
    (&["thaw"], 0, "the shard map was not frozen"),
    (&["pause"], 5, "ha/nodes/all/paused"),
    (&["resume"], 0, "moves of shards were not paused"),
    (&["forget", "n1"], 1, "n1 is live"),
    (&["accept-loss", "points", "0"], 1, "no replica of shard 0 is missing"),
    (&["store-set", "points", "--write-quorum", "1"], 5, "ha/shards/members/points/wanted"),
    (&["forget-store", "points"], 1, "have store points open"),
    (&["reinit", "n1"], 1, "`consul-ha store-set points` gives the store other numbers"),
    (&["set-weight", "n1", "2"], 5, "ha/nodes/all/weights"),
];

/// A dry run knows the rights, and changes nothing.
fn dry_runs(system: &System, reader: &str) {
    for (verb, help) in states::verbs() {
        let changes = CHANGES.iter().any(|(line, ..)| line[0] == verb);
        assert_eq!(changes, help.contains("--dry-run"), "{verb} changes something");
    }
    for (line, status, words) in CHANGES {
        let dry = system.run_as(reader, &[line, &["--dry-run"]].concat());
        if status == 0 {
            assert_eq!(dry.ok(), format!("{words}\n"), "{line:?}");
            continue;
        }
        assert_eq!(dry.out, "", "{line:?}: {dry:?}");
        let words = if status == 5 { vec!["key:write", words] } else { vec![words] };
        dry.refused(status, &words);
    }
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
        let yes = if verb[0] == "store-set" { &[][..] } else { &["--yes"] };
        system.run_as(&reader, &[verb, yes].concat()).refused(5, &["key:write", key]);
        let dry = system.run_as(&reader, &[verb, &["--dry-run"]].concat());
        dry.refused(5, &["it would be refused", "key:write", key]);
    }
    assert_eq!(system.run(&["nodes", "--json"]).json()["frozen"].as_array().unwrap().len(), 2);
    assert!(!system.node("n3").is_null());
}
