//! The verbs that change something, and their effect on the cluster.

use crate::permissions;
use crate::program::Run;
use crate::support::authority::Folder;
use crate::support::proxy::{Network, Proxy};
use crate::system::{DEAF, System};
use consul_api::api::kv;
use consul_api::request::Args;
use consul_api::value::Value;
use serde_json::json;
use std::thread;
use std::time::Duration;

/// How long Consul is lost for a wait.
const LOSS: Duration = Duration::from_secs(3);

pub fn run(system: &System) {
    refusals(system);
    numbers(system);
    drain(system);
    obstacles(system);
    maintenance(system);
    stopped(system);
    set_weight(system);
    weights_of_many(system);
    foreign_values(system);
    overwritten_weights(system);
    pause(system);
    forget_store(system);
    hand_over(system);
    hand_over_through_an_outage(system);
    leave(system);
    frozen_and_forgotten(system);
}

fn epoch(system: &System) -> u64 {
    system.run(&["shards", "--json"]).json()["map"]["epoch"].as_u64().unwrap()
}

fn refusals(system: &System) {
    for verb in ["drain", "maintenance", "forget", "leave", "hand-over"] {
        system.run(&[verb, "n11"]).refused(1, &["unknown node \"n11\"", "did you mean \"n1\"?"]);
        let epoch = (epoch(system) + 1).to_string();
        let refused = system.run(&[verb, "n1", "--expect-epoch", &epoch]);
        refused.refused(1, &["the shard map has epoch", &epoch]);
    }
    assert_eq!(system.node("n1")["mode"], "active");
    system.run(&["forget", "n1"]).refused(1, &["n1 is live"]);
    system.run(&["accept-loss", "point", "0"]).refused(1, &["did you mean \"points\"?"]);
    system.run(&["accept-loss", "points", "8"]).refused(2, &["from 0 to 7"]);
    system.run(&["accept-loss", "points", "0"]).refused(1, &["no replica of shard 0 is missing"]);
    system.run(&["accept-loss", "points", "0", "--expect-epoch", "1"]).refused(1, &["has version"]);
    assert_eq!(system.run(&["thaw"]).ok(), "the shard map was not frozen\n");
    let thawed = system.run(&["thaw", "--json"]).json();
    assert_eq!(thawed, json!({ "was_frozen_by": [], "dry_run": false }));
}

/// The store gets another replica while it is used, and gives it back.
fn numbers(system: &System) {
    let store = || system.run(&["shards", "--json"]).json()["stores"][0].clone();
    let of = |store: &serde_json::Value| {
        ["replicas", "write_quorum", "read_quorum"].map(|it| store[it].as_u64().unwrap())
    };
    let before = of(&store());
    let set = |more: &[&str]| system.run(&[&["store-set", "points"], more].concat());
    system.run(&["store-set", "point", "--replicas", "2"]).refused(1, &["did you mean"]);
    system.run(&["store-set", "points"]).refused(2, &["--replicas <N>"]);
    set(&["--replicas", "9", "--write-quorum", "5", "--read-quorum", "5"])
        .refused(1, &["would need 9 nodes for its replicas"]);
    set(&["--write-quorum", "9"]).refused(2, &["write_quorum is 9: it must be from 1 to replicas"]);
    let few = ["--replicas", "3", "--write-quorum", "1", "--read-quorum", "2"];
    set(&few).refused(2, &["together they must be more than replicas"]);
    set(&["--replicas", "3", "--expect-epoch", "1"]).refused(1, &["has version"]);
    let three = ["--replicas", "3", "--write-quorum", "2", "--read-quorum", "2"];
    let dry = set(&[&three[..], &["--dry-run"]].concat()).ok();
    assert!(dry.starts_with("would be done: store points gets N/W/R 3/2/2 in place of "), "{dry}");
    assert_eq!(of(&store()), before);
    let json = set(&[&three[..], &["--json"]].concat()).json();
    let wanted = json!({ "replicas": 3, "write_quorum": 2, "read_quorum": 2 });
    assert_eq!(json["wanted"], wanted);
    let is_done = |numbers: [u64; 3]| {
        let store = store();
        of(&store) == numbers && store["changing"].is_null()
    };
    system.wait_for("three replicas", || is_done([3, 2, 2]));
    assert!(set(&three).ok().contains("is to have N/W/R 3/2/2, as before"));
    remake(system);
    let [replicas, write, read] = before.map(|number| number.to_string());
    let back = ["--replicas", &replicas, "--write-quorum", &write, "--read-quorum", &read];
    set(&back).ok();
    system.wait_for("the numbers of before", || is_done(before));
}

/// Each of three nodes has each shard.
fn remake(system: &System) {
    system.run(&["reinit", "n11"]).refused(1, &["did you mean \"n1\"?"]);
    system.run(&["reinit", "n3", "point"]).refused(1, &["did you mean \"points\"?"]);
    system.run(&["reinit", "n3", "points", "--shard", "8"]).refused(2, &["no replica of shard 8"]);
    system.run(&["reinit", "n3", "--shard", "1"]).refused(2, &["<STORE>"]);
    let dry = || system.run(&["reinit", "n3", "--dry-run"]);
    let may_begin = || dry().status == 0;
    system.wait_for("nothing is in the way", may_begin);
    let would = "would be done: n3 makes 8 replicas of points again, one after the other\n";
    assert_eq!(dry().ok(), would);
    system.run(&["reinit", "n3"]).refused(2, &["--yes"]);
    assert_eq!(system.run(&["reinit", "n3", "--off"]).ok(), "n3 makes no replica again\n");
    system.run(&["pause"]).ok();
    system.run(&["reinit", "n3", "--yes"]).refused(1, &["moves are paused by", "resume"]);
    system.run(&["resume"]).ok();
    let reader = permissions::reader(system);
    for how in ["--dry-run", "--yes"] {
        let run = system.run_as(&reader, &["reinit", "n3", how]);
        run.refused(5, &["key:write", "\"ha/nodes/n3\""]);
    }
    // No other right is needed.
    let writer = permissions::writer(system, r#"key "ha/nodes/n3" { policy = "write" }"#);
    let run = system.run_as(&writer, &["reinit", "n3", "--yes", "--wait", "--limit", "120"]);
    assert!(run.err.contains("replicas of n3: "), "progress: {run:?}");
    assert_eq!(run.ok(), "n3 has made its replicas of points again\n");
    let one = ["reinit", "n3", "points", "--shard", "5", "--yes", "--json"];
    assert_eq!(system.run(&one).json()["stores"], json!({ "points": [5] }));
    // It is the same order, or there is none any more.
    system.run(&["reinit", "n3", "points", "--shard", "5", "--yes", "--wait"]).ok();
}

fn drain(system: &System) {
    let dry = system.run(&["drain", "n3", "--wait", "--dry-run"]).ok();
    assert_eq!(dry, "would be done: n3 drains\n");
    assert_eq!(system.node("n3")["mode"], "active");
    let epoch = epoch(system).to_string();
    let run = system.run(&["drain", "n3", "--wait", "--limit", "60", "--expect-epoch", &epoch]);
    assert!(run.err.contains("shards of n3: "), "progress: {run:?}");
    assert_eq!(run.ok(), "n3 has no shard\n");
    let node = system.node("n3");
    assert_eq!((&node["mode"], &node["replicas"]), (&"draining".into(), &0.into()));
    system.run(&["drain", "n2"]).ok();
    let ended = system.run(&["drain", "n3", "--off", "--json"]).json();
    assert_eq!((&ended["node"], &ended["mode"]), (&"n3".into(), &"active".into()));
    // No map names n3 yet, and the shards of n2 can go nowhere else.
    system.run(&["drain", "n3", "--wait"]).refused(1, &["store points needs 2 nodes"]);
    system.run(&["drain", "n2", "--off"]).ok();
    system.wait_for("n3 has shards", || system.node("n3")["replicas"].as_u64() > Some(0));
}

/// A drain that cannot end, and modes that do not end each other.
fn obstacles(system: &System) {
    system.run(&["drain", "n2"]).ok();
    system
        .run(&["drain", "n3", "--wait"])
        .refused(1, &["store points needs 2 nodes", "1 would be left"]);
    system.run(&["leave", "n3"]).refused(1, &["store points needs 2 nodes", "1 would be left"]);
    assert_eq!(system.node("n3")["mode"], "active", "it was not asked");
    system.run(&["drain", "n3"]).ok();
    let why = system.run(&["why"]);
    assert_eq!(why.status, 1, "{why:?}");
    let stuck = "drain: store points needs 2 nodes for its replicas; others that may have them: 1";
    assert!(why.out.contains(stuck), "{why:?}");
    system.run(&["drain", "n3", "--off"]).ok();
    system.run(&["maintenance", "n2"]).refused(1, &["n2 drains: `consul-ha drain n2 --off`"]);
    system
        .run(&["maintenance", "n2", "--off"])
        .refused(1, &["n2 drains: `consul-ha drain n2 --off`"]);
    system.run(&["drain", "n2", "--off"]).ok();
    let mut before = 0;
    system.wait_for("the map stays", || {
        thread::sleep(Duration::from_millis(500));
        let last = std::mem::replace(&mut before, epoch(system));
        last == before
    });
}

fn maintenance(system: &System) {
    let before = system.traces();
    let table = system.follow(&["nodes", "--watch", "1"]);
    table.wait_for(&["n2 ", "active", "live"]);
    let json = system.follow(&["nodes", "--watch", "1", "--json"]);
    json.wait_for(&["{", "\"n2\""]);
    system.run(&["maintenance", "n2"]).ok();
    assert_eq!(system.node("n2")["mode"], "maintenance");
    table.wait_for(&["n2 ", "maintenance"]);
    json.wait_for(&["\"mode\":\"maintenance\""]);
    system.run(&["drain", "n2", "--off"]).refused(1, &["`consul-ha maintenance n2 --off`"]);
    let ended = system.run(&["maintenance", "n2", "--off", "--json"]).json();
    assert_eq!(ended, json!({ "node": "n2", "mode": "active", "dry_run": false }));
    assert_eq!(system.node("n2")["mode"], "active");
    let [keys, checks, sessions] = system.traces();
    assert_eq!([&keys, &checks], [&before[0], &before[1]], "the program is not a member");
    assert!(sessions.iter().all(|id| before[2].contains(id)), "{sessions:?}, and {before:?}");
}

/// The mode of a node that is stopped, in a key beside the nodes' keys.
fn stopped(system: &System) {
    let keep = |mode: &str| system.put("ha/nodes/n9/mode", &json!({ "mode": mode }).to_string());
    keep("draining");
    let nodes = system.run(&["nodes"]).ok();
    assert!(nodes.contains("\nstopped: n9, draining when it starts"), "{nodes}");
    assert!(!nodes.contains("\nn9 "), "{nodes}");
    assert_eq!(system.run(&["nodes", "--json"]).json()["kept_modes"], json!({ "n9": "draining" }));
    let why = system.run(&["why"]).out;
    assert!(why.contains("n9 is stopped, and drains when it starts"), "{why}");
    system.run(&["maintenance", "n9"]).refused(1, &["n9 drains"]);
    system.run(&["drain", "n9", "--wait"]).refused(1, &["n9 is stopped"]);
    system.run(&["leave", "n9"]).refused(1, &["n9 is stopped"]);
    stopped_with_rights(system, keep);
    let dry = system.run(&["drain", "n9", "--off", "--dry-run"]).ok();
    assert_eq!(dry, "would be done: n9 gets shards again, when it starts\n");
    let ended = system.run(&["drain", "n9", "--off"]).ok();
    assert_eq!(ended, "n9 gets shards again, when it starts\n");
    system.run(&["drain", "n9", "--off"]).refused(1, &["unknown node \"n9\""]);
    keep("maintenance");
    assert_eq!(system.run(&["forget", "n9", "--yes"]).ok(), "n9 is not a member any more\n");
    system.run(&["forget", "n9"]).refused(1, &["unknown node \"n9\""]);
}

/// The right to the key of its mode is enough, and no other one is; a dry run knows that.
fn stopped_with_rights(system: &System, keep: impl Fn(&str)) {
    let writer =
        |key: &str| permissions::writer(system, &format!(r#"key "{key}" {{ policy = "write" }}"#));
    let (of_mode, of_node) = (writer("ha/nodes/n9/mode"), writer("ha/nodes/n9"));
    for (mode, verb) in [
        ("draining", &["drain", "n9"][..]),
        ("draining", &["drain", "n9", "--off"]),
        ("maintenance", &["maintenance", "n9"]),
        ("maintenance", &["maintenance", "n9", "--off"]),
        ("draining", &["forget", "n9"]),
    ] {
        keep(mode);
        let yes: &[&str] = if verb[0] == "forget" { &["--yes"] } else { &[] };
        let ways = [&["--dry-run"][..], yes].map(|way| [verb, way].concat());
        for way in &ways {
            let run = system.run_as(&of_node, way);
            run.refused(5, &["key:write", "\"ha/nodes/n9/mode\""]);
        }
        let kept = system.run(&["nodes", "--json"]).json()["kept_modes"].clone();
        assert_eq!(kept, json!({ "n9": mode }), "{verb:?}");
        for way in &ways {
            system.run_as(&of_mode, way).ok();
        }
    }
    keep("draining");
}

fn set_weight(system: &System) {
    let dry = system.run(&["set-weight", "n2", "0.5", "--dry-run"]).ok();
    assert_eq!(dry, "would be done: n2 has weight 0.5\n");
    assert_eq!(system.node("n2")["weight"], 1.0);
    assert_eq!(system.run(&["set-weight", "n2", "0.5"]).ok(), "n2 has weight 0.5\n");
    assert_eq!(system.node("n2")["weight"], 0.5, "the node has taken it");
    let nodes = system.run(&["nodes"]).ok();
    assert!(nodes.contains("\nweight of n2: 0.5, set by an operator"), "{nodes}");
    assert_eq!(system.run(&["nodes", "--json"]).json()["weights"], json!({ "n2": 0.5 }));
    assert!(!system.run(&["doctor"]).out.contains("foreign_key"));
    let ended = system.run(&["set-weight", "n2", "--off", "--json"]).json();
    assert_eq!(ended, json!({ "node": "n2", "weight": null, "before": 0.5, "dry_run": false }));
    assert_eq!(system.node("n2")["weight"], 1.0, "the node has taken it");
    assert_eq!(system.run(&["set-weight", "n2", "1e-320"]).ok(), "n2 has weight 1e-320\n");
    system.run(&["set-weight", "n2", "--off"]).ok();
    for weight in ["-1", "NaN", "inf", "much"] {
        let line = ["set-weight", "n2", "--", weight];
        system.run(&line).refused(2, &["a number from 0 on"]);
    }
    system.run(&["set-weight", "n2"]).refused(2, &["WEIGHT"]);
    system.run(&["set-weight", "n22", "1"]).refused(1, &["did you mean \"n2\"?"]);
    system.run(&["set-weight", "n2", "1", "--expect-epoch", "9999"]).refused(1, &["has epoch"]);
}

/// Each sees its own weight taken, or that another operator has set one since.
fn weights_of_many(system: &System) {
    let set = |number: usize| {
        let (node, weight) = (format!("n{}", number % 2 + 1), format!("{}", number + 1));
        system.run(&["set-weight", &node, &weight])
    };
    let runs: Vec<Run> = std::thread::scope(|scope| {
        let set = &set;
        let runs: Vec<_> = (0..8).map(|number| scope.spawn(move || set(number))).collect();
        runs.into_iter().map(|run| run.join().expect("a run")).collect()
    });
    assert!(runs.iter().any(|run| run.status == 0), "{runs:?}");
    for run in runs {
        let is_replaced =
            run.status == 1 && run.err.contains("another operator has changed the weight of n");
        assert!(run.status == 0 || is_replaced, "{run:?}");
    }
    for node in ["n1", "n2"] {
        system.run(&["set-weight", node, "--off"]).ok();
        assert_eq!(system.node(node)["weight"], 1.0, "the node has taken it");
    }
}

/// Weights over which another program writes count as before, and are written again when its value is gone.
fn overwritten_weights(system: &System) {
    system.run(&["set-weight", "n2", "0.5"]).ok();
    system.put("ha/nodes/all/weights", "my own notes");
    system.wait_for("it is named", || system.run(&["why"]).out.contains("all/weights"));
    thread::sleep(Duration::from_secs(1));
    assert_eq!(system.node("n2")["weight"], 0.5);
    system.call(&kv::DELETE, Args::new().arg("ha/nodes/all/weights"));
    let weights = || system.run(&["nodes", "--json"]).json()["weights"].clone();
    system.wait_for("the weights are back", || weights() == json!({ "n2": 0.5 }));
    assert_eq!(system.node("n2")["weight"], 0.5);
    system.run(&["set-weight", "n2", "--off"]).ok();
}

/// Another program's values are left alone, and named with the command that makes room.
fn foreign_values(system: &System) {
    for (key, verb) in [
        ("ha/nodes/all/weights", &["set-weight", "n1", "2"][..]),
        ("ha/shards/leaders", &["history"]),
    ] {
        let before = system.call(&kv::GET, Args::new().arg(key));
        system.put(key, "my own notes");
        let words = format!("{key} has another program's value");
        let command = format!("`consul kv delete {key}`");
        system.run(verb).refused(1, &[&words, &command]);
        let doctor = system.run(&["doctor"]);
        assert_eq!(doctor.out.matches(&command).count(), 1, "{doctor:?}");
        if verb[0] == "set-weight" {
            let why = system.run(&["why"]);
            assert_eq!(why.out.matches(&command).count(), 1, "{why:?}");
        }
        let stays = system.call(&kv::GET, Args::new().arg(key));
        assert_eq!(stays, Value::Bytes(b"my own notes".to_vec()), "{key}");
        match before {
            Value::Bytes(before) => system.put(key, std::str::from_utf8(&before).unwrap()),
            _ => _ = system.call(&kv::DELETE, Args::new().arg(key)),
        }
    }
}

fn pause(system: &System) {
    assert_eq!(system.run(&["resume"]).ok(), "moves of shards were not paused\n");
    let dry = system.run(&["pause", "--dry-run", "--json"]).json();
    assert!(dry["was_paused"].is_null() && dry["dry_run"] == true, "{dry}");
    let paused = system.run(&["pause", "--by", "ada", "--why", "new racks"]).ok();
    assert!(paused.starts_with("all automatic moves of shards are paused"), "{paused}");
    let again = system.run(&["pause", "--by", "bob"]).ok();
    assert_eq!(again, "they were paused already, by ada\n");
    let why = system.run(&["why"]).out;
    assert!(why.contains("paused for 0 min, by ada: new racks"), "{why}");
    assert!(why.contains("`consul-ha resume`"), "{why}");
    let nodes = system.run(&["nodes"]).ok();
    assert!(nodes.contains("\npaused by ada: no shard moves"), "{nodes}");
    assert_eq!(system.run(&["nodes", "--json"]).json()["paused"]["why"], "new racks");
    system.run(&["drain", "n2", "--wait"]).refused(1, &["moves are paused by ada"]);
    let dry = system.run(&["resume", "--dry-run", "--json"]).json();
    assert_eq!((&dry["was_paused"]["by"], &dry["dry_run"]), (&"ada".into(), &true.into()));
    let resumed = system.run(&["resume"]).ok();
    assert_eq!(resumed, "shards move again; they were paused by ada\n");
    assert!(!system.run(&["why"]).out.contains("paused"));
}

/// A store that a program had by mistake.
fn forget_store(system: &System) {
    system.run(&["forget-store", "point", "--yes"]).refused(1, &["did you mean \"points\"?"]);
    system.run(&["forget-store", "points", "--yes"]).refused(1, &["have store points open"]);
    let keys = || {
        let all = system.traces()[0].clone();
        all.into_iter().filter(|key| key.contains("/other")).collect::<Vec<_>>()
    };
    system.put("ha/shards/waiting/other", "n8 opens its storage");
    system.put("ha/shards/members/other/nodes/n8", "{}");
    let why = system.run(&["why"]);
    assert!(why.out.contains("`consul-ha forget-store other`"), "{why:?}");
    let dry = system.run(&["forget-store", "other", "--dry-run"]).ok();
    assert!(dry.contains("stay on the disks of n8"), "{dry}");
    system.run(&["forget-store", "other"]).refused(2, &["--yes"]);
    assert_eq!(keys().len(), 2, "nothing was changed");
    let forgotten = system.run(&["forget-store", "other", "--yes", "--json"]).json();
    assert_eq!(forgotten["disks"], json!(["n8"]));
    assert_eq!(keys(), ["ha/shards/forgotten/other"]);
    system.run(&["forget-store", "other", "--yes"]).refused(1, &["unknown store \"other\""]);
}

fn leader(system: &System) -> String {
    let json = system.run(&["leader", "--json"]).json();
    json["leader"]["node_id"].as_str().unwrap().to_owned()
}

fn hand_over(system: &System) {
    let from = leader(system);
    let to = if from == "n1" { "n2" } else { "n1" };
    let dry = system.run(&["hand-over", to, "--dry-run"]).ok();
    assert_eq!(dry, format!("would be done: {from} hands over to {to}\n"));
    system.run(&["maintenance", to]).ok();
    system.run(&["hand-over", to]).refused(1, &["is not live and active"]);
    system.run(&["maintenance", to, "--off"]).ok();
    let (text, json) =
        (system.follow(&["events", "-f"]), system.follow(&["events", "-f", "--json"]));
    text.wait_for(&["  leader_changed ", &from]);
    json.wait_for(&["\"event\":\"leader_changed\"", &from]);
    let epoch = epoch(system).to_string();
    let done = system.run(&["hand-over", to, "--expect-epoch", &epoch]).ok();
    assert_eq!(done, format!("{to} is the leader\n"));
    assert_eq!(leader(system), to);
    let told = text.wait_for(&[&format!("  leader_changed {to}")]);
    assert!(told.starts_with("20") && told.contains(":"), "{told}");
    let told = json.wait_for(&["\"event\":\"leader_changed\"", &format!("\"detail\":\"{to}\"")]);
    thread::sleep(Duration::from_secs(2));
    assert!(!json.lines().contains(&told), "an event is told once");
    assert_eq!(system.run(&["hand-over", to]).ok(), format!("{to} is the leader\n"));
    let json = system.run(&["hand-over", "--json"]).json();
    assert_eq!(json["from"], to);
    assert_eq!(json["leader"], leader(system));
    assert_ne!(json["leader"], to);
}

/// Consul is lost after the leader was asked.
fn hand_over_through_an_outage(system: &System) {
    let from = leader(system);
    let proxy = Proxy::new(system.address());
    let json = thread::scope(|scope| {
        let hands_over = scope.spawn(|| {
            system.run(&["hand-over", "--limit", "60", "--json", "--http-addr", &proxy.address])
        });
        system.wait_for("the leader is asked", || leads(system) != from);
        proxy.set(Network::Refuse);
        thread::sleep(LOSS);
        proxy.set(Network::Good);
        hands_over.join().unwrap().json()
    });
    assert_eq!(json["from"], from);
    assert_ne!(json["leader"], from);
}

/// The node in the leader's key.
fn leads(system: &System) -> String {
    let claim = system.call(&kv::GET, Args::new().arg("ha/leader"));
    let Value::Bytes(claim) = claim else { return String::new() };
    let claim: serde_json::Value = serde_json::from_slice(&claim).unwrap_or_default();
    claim["node_id"].as_str().unwrap_or_default().to_owned()
}

/// A node that hangs lives for Consul until its check expires.
fn hung(system: &System) {
    system.stop_node(DEAF);
    system
        .run(&["leave", DEAF, "--limit", "1"])
        .refused(4, &["n4 has not acted within 1 s: it hangs, ", "the request is withdrawn"]);
    let key = system.call(&kv::GET, Args::new().arg("ha/nodes/n4"));
    let Value::Bytes(record) = key else { panic!("{key:?}") };
    assert!(!String::from_utf8_lossy(&record).contains("leave"), "it was withdrawn");
}

fn leave(system: &System) {
    let dry = system.run(&["leave", "n3", "--dry-run"]).ok();
    assert_eq!(dry, "would be done: n3 hands over its shards and stops\n");
    // A short loss of Consul during the wait does not end it.
    let proxy = Proxy::new(system.address());
    let json = thread::scope(|scope| {
        let leaves = scope.spawn(|| {
            let leave = ["leave", "n3", "--wait", "--limit", "60", "--json", "--http-addr"];
            system.run(&[&leave[..], &[&proxy.address]].concat())
        });
        system.wait_for("n3 drains", || {
            let node = system.node("n3");
            node["mode"] == "draining" || node.is_null()
        });
        proxy.set(Network::Refuse);
        thread::sleep(LOSS);
        proxy.set(Network::Good);
        leaves.join().unwrap().json()
    });
    assert_eq!(json["node"], "n3");
    assert!(system.node("n3").is_null());
    system.wait_for("n3 stops", || !system.is_running("n3"));
    system.start_node("n3");
    system.wait_for("n3 has shards", || system.node("n3")["replicas"].as_u64() > Some(0));
}

/// A loss that is accepted on one node.
fn of_nodes(system: &System) {
    let loss = ["accept-loss", "points", "0", "--dry-run", "--json"];
    let all = system.run(&loss).json()["lost"].clone();
    let one = all[0].as_str().unwrap();
    let of_one = system.run(&[&loss[..], &["--node", one]].concat()).json();
    assert_eq!(of_one["lost"], json!([one]));
    let other = system.run(&[&loss[..], &["--node", one, "--node", "n1"]].concat());
    other.refused(1, &["no replica of shard 0 is missing on node \"n1\""]);
}

/// A lost node that answers at its data address is not given up.
fn that_answers(system: &System) {
    let key = "ha/nodes/n3";
    let Value::Bytes(before) = system.call(&kv::GET, Args::new().arg(key)) else {
        panic!("no key")
    };
    let elsewhere = system.start_node_elsewhere("n3");
    system.put(key, &elsewhere);
    let stores = system.run(&["shards", "--json"]).json()["stores"].clone();
    let at_risk = stores[0]["at_risk"].as_array().unwrap().clone();
    let is_of_n3 =
        |it: &&serde_json::Value| it["missing"].as_array().unwrap().contains(&"n3".into());
    let shard = at_risk.iter().find(is_of_n3).expect("a shard of n3")["shard"].to_string();
    let folder = Folder::new();
    let other_key = folder.file("other.key", "the secret of another cluster");
    let operators = [
        (&[][..], "n3 lives: it answers at its data address"),
        (
            &["--cluster-key-file", &other_key],
            "may be n3, a node of another cluster or another program",
        ),
    ];
    for verb in [&["thaw"][..], &["forget", "n3"], &["accept-loss", "points", &shard]] {
        for (key, why) in operators {
            for how in ["--yes", "--dry-run"] {
                let run = system.run(&[verb, key, &[how]].concat());
                run.refused(1, &[why, "--force"]);
            }
        }
        system.run(&[verb, &["--force", "--dry-run"]].concat()).ok();
    }
    // It is far from the operator: its answers take longer than a node waits for another one.
    let mut record: serde_json::Value = serde_json::from_str(&elsewhere).unwrap();
    let proxy = Proxy::new(record["data_address"].as_str().unwrap());
    proxy.set(Network::Delay(Duration::from_millis(300)));
    record["data_address"] = proxy.address.as_str().into();
    system.put(key, &record.to_string());
    system.run(&["forget", "n3", "--yes"]).refused(1, &["n3 lives", "--force"]);
    system.stop_node("n3");
    system.put(key, std::str::from_utf8(&before).unwrap());
}

/// When all nodes are gone.
pub fn without_leader(system: &System) {
    hung(system);
    ["n1", "n5"].iter().for_each(|id| system.stop_node(id));
    system.wait_for("there is no leader", || system.run(&["leader"]).status == 1);
    let json = json!({ "leader": null, "age_ms": null });
    let shown: serde_json::Value =
        serde_json::from_str(&system.run(&["leader", "--json"]).out).unwrap();
    assert_eq!(shown, json);
    let doctor = system.run(&["doctor"]);
    assert!(doctor.out.contains("\nno_leader: the cluster has no leader"), "{doctor:?}");
    assert_eq!(doctor.status, 1);
    system.wait_for("n1 is down", || {
        let why = system.run(&["why"]);
        why.status == 1 && why.out.contains("error: n1 is down")
    });
    let waited = system.run(&["why", "--wait", "--limit", "1"]);
    assert!(waited.out.contains("error: n1 "), "{waited:?}");
    waited.refused(4, &["not all is well after 1 s"]);
    system.run(&["hand-over"]).refused(1, &["there is no leader"]);
    system.run(&["leave", "n1"]).refused(1, &["n1 is down: `consul-ha forget n1`"]);
}

/// A map that two lost members have frozen, on a node that its program has stopped.
fn frozen_and_forgotten(system: &System) {
    system.stop_node("n2");
    system.stop_node("n3");
    system.wait_for("the map is frozen", || {
        let frozen = &system.run(&["nodes", "--json"]).json()["frozen"];
        frozen.as_array().is_some_and(|it| it.len() == 2)
    });
    assert!(system.run(&["nodes"]).ok().contains("frozen: n2, n3 vanished"));
    system.run(&["drain", "n1", "--wait"]).refused(1, &["no other node is live and active"]);
    permissions::frozen(system);
    that_answers(system);
    let lost = system.run(&["accept-loss", "points", "0", "--dry-run"]).ok();
    assert!(lost.starts_with("would be done: accepted: the loss of the replicas of shard 0"));
    of_nodes(system);
    let accepted = |key: &String| key.contains("/accepted/");
    assert!(!system.traces()[0].iter().any(accepted), "nothing was accepted");
    let lost = system.run(&["accept-loss", "points", "0", "--yes", "--json"]).json();
    assert!(!lost["lost"].as_array().unwrap().is_empty());
    let dry = system.run(&["thaw", "--dry-run"]).ok();
    assert_eq!(dry, "would be done: the shard map is thawed; lost: n2, n3\n");
    let other = (epoch(system) + 1).to_string();
    system.run(&["thaw", "--expect-epoch", &other]).refused(1, &["the shard map has epoch"]);
    let epoch = epoch(system).to_string();
    let thawed = system.run(&["thaw", "--yes", "--expect-epoch", &epoch]).ok();
    assert_eq!(thawed, "the shard map is thawed; lost: n2, n3\n", "the dry run did not thaw it");
    assert_eq!(system.run(&["nodes", "--json"]).json()["frozen"].as_array().unwrap().len(), 0);
    let dry = system.run(&["forget", "n3", "--dry-run", "--json"]).json();
    assert_eq!(dry, json!({ "node": "n3", "registered_services": [], "dry_run": true }));
    assert_eq!(system.node("n3")["state"], "down");
    let forgotten = system.run(&["forget", "n3", "--yes"]);
    assert!(
        forgotten.err.contains("`consul services deregister -id=ha-nodes-n3`"),
        "{forgotten:?}"
    );
    assert_eq!(forgotten.ok(), "n3 is not a member any more\n");
    assert!(system.node("n3").is_null());
}
