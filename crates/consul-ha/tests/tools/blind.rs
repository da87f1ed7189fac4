//! Consul 1.8.7 does not tell that ACLs hide instances.

use crate::program::{PATIENCE, Run, Server};
use crate::support::consul::RealConsul;
use crate::system::{client, object, token};
use consul_api::api::{agent, kv};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_client::Client;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

const NODE: &str =
    r#"{"id":"n1","address":"127.0.0.1:1","weight":1,"started_ms":1,"incarnation":"i1"}"#;

const FROZEN: &str = r#"{"epoch":7,"digest":"0","frozen":["n2"]}"#;

const MAP: &str =
    r#"{"format":1,"epoch":7,"token":1,"replicas":1,"nodes":["n1","n9"],"shards":[[0],[1]]}"#;

const KEYS: &str =
    r#"key_prefix "ha/" { policy = "write" } session_prefix "" { policy = "write" } "#;
const READS: &str = r#"key_prefix "ha/" { policy = "read" } "#;
const SERVICES: &str = r#"service_prefix "" { policy = "write" } "#;
const NODES: &str = r#"node_prefix "" { policy = "read" } "#;

/// A live node, as Consul has it.
async fn register(client: &Client) {
    let node = Args::new().arg("ha/nodes/n1").arg(NODE.as_bytes().to_vec());
    client.call(&kv::PUT, &node).await.expect("a key");
    let service = object(&[
        ("Name", "ha-nodes".into()),
        ("ID", "ha-nodes-n1".into()),
        ("Meta", object(&[("incarnation", "i1".into())])),
    ]);
    client.call(&agent::SERVICE_REGISTER, &Args::new().arg(service)).await.expect("a service");
}

/// A refusal of Consul 1.8.7 names no right, and consul-ha does.
fn names_rights(run: &impl Fn(&[&str], &[&str]) -> Run) {
    let reader = [READS, SERVICES, NODES];
    for (verb, lacks) in [
        (&["drain", "n1"][..], "the token lacks key:write on \"ha/nodes/n1\""),
        (&["maintenance", "n1"], "the token lacks key:write on \"ha/nodes/n1\""),
        // The client names what a transaction lacks.
        (
            &["drain", "n1", "--expect-epoch", "7"],
            "lacks permission 'key:write' on \"ha/nodes/n1\"",
        ),
    ] {
        run(&reader, verb).refused(5, &[lacks]);
        let dry = run(&reader, &[verb, &["--dry-run"]].concat());
        dry.refused(5, &["the token lacks key:write on \"ha/nodes/n1\""]);
    }
    let denied = |key: &str| format!(r#"{KEYS} key "{key}" {{ policy = "deny" }} "#);
    for key in ["ha/shards/epoch", "ha/shards/map"] {
        let lacks = format!("the token lacks key:read on \"{key}\"");
        for verb in [&["nodes"][..], &["why"], &["thaw"], &["maintenance", "n1"]] {
            run(&[&denied(key), SERVICES, NODES], verb).refused(5, &[&lacks]);
        }
    }
    run(&[&denied("ha/shards/maps/points"), SERVICES, NODES], &["accept-loss", "points", "0"])
        .refused(5, &["the token lacks key:read on \"ha/shards/maps/points\""]);
    run(&reader, &["thaw", "--yes"])
        .refused(5, &["the token lacks key:write on \"ha/shards/epoch\""]);
    let deaf = [READS, SERVICES, NODES, r#"key "ha/leader" { policy = "deny" }"#];
    for verb in [&["leader"][..], &["drain", "n1"], &["hand-over"], &["accept-loss", "points", "0"]]
    {
        run(&deaf, verb).refused(5, &["key:read on \"ha/leader\""]);
    }
    let locks = run(&reader, &["locks", "ha/"]).ok();
    assert!(locks.contains("the token lacks session:read on \"\""), "{locks}");
    let locks = run(&reader, &["locks", "--json"]).json();
    let lacks = ["key:read on \"\"", "session:read on \"\""];
    assert_eq!(locks["token_lacks"], serde_json::json!(lacks));
}

/// A rule that hides the map of one store, about which a node says something.
fn hides_a_store(run: &impl Fn(&[&str], &[&str]) -> Run) {
    let of_one = format!(r#"{READS} key "ha/shards/maps/points" {{ policy = "deny" }} "#);
    let lacks = "the token lacks key:read on \"ha/shards/maps/points\"";
    for verb in [&["shards"][..], &["shards", "--json"], &["why"], &["drain", "n1", "--dry-run"]] {
        let said = run(&[&of_one, SERVICES, NODES], verb);
        let said = format!("{}{}", said.out, said.err).replace("\\\"", "\"");
        assert!(said.contains(lacks), "{verb:?}: {said}");
    }
    // A store that has no map yet is none that is hidden.
    let said = run(&[READS, SERVICES, NODES], &["shards"]).ok();
    assert!(!said.contains("not all stores are known"), "{said}");
}

/// Rules that hide keys: of all nodes, since the rule is about the prefix as a name, or of one node.
fn hides_keys(run: &impl Fn(&[&str], &[&str]) -> Run) {
    let exact = r#"key "ha/nodes/" { policy = "read" } key "ha/leader" { policy = "read" }
        key_prefix "ha/shards/" { policy = "read" } "#;
    let of_one = format!(r#"{READS} key "ha/nodes/n1" {{ policy = "deny" }} "#);
    let of_mapped = format!(r#"{READS} key "ha/nodes/n9" {{ policy = "deny" }} "#);
    let all = [READS, SERVICES, NODES];
    assert!(!run(&all, &["nodes"]).ok().contains("n9"), "it is in the map alone");
    for (keys, key) in [(exact, "ha/nodes/"), (&of_one, "ha/nodes/n1"), (&of_mapped, "ha/nodes/n9")]
    {
        let lacks = format!("the token lacks key:read on \"{key}\"");
        for verb in [&["why"][..], &["nodes"], &["drain", "n1", "--dry-run"]] {
            run(&[keys, SERVICES, NODES], verb).refused(5, &[&lacks]);
        }
        let doctor = run(&[keys, SERVICES, NODES], &["doctor", "--as", "observer"]);
        assert!(doctor.status == 1 && doctor.out.contains(&lacks), "{doctor:?}");
        assert!(!doctor.out.contains("deregister"), "{doctor:?}");
    }
}

/// An observer that runs says that nodes may be hidden from it.
fn serves(token: &str, address: &str) {
    let server = Server::start(&[
        ("CONSUL_HTTP_ADDR", address),
        ("CONSUL_HTTP_TOKEN", token),
        ("CONSUL_HA_PREFIX", "ha/"),
    ]);
    let end = Instant::now() + PATIENCE;
    let problem = loop {
        let document = server.cluster();
        let found = document["problems"]
            .as_array()
            .and_then(|all| all.iter().find(|it| it["problem"] == "hidden_by_acl").cloned());
        match found {
            Some(found) => break found,
            None => assert!(Instant::now() < end, "{document}"),
        }
        thread::sleep(Duration::from_millis(100));
    };
    let text = "ACLs may hide nodes from this process: the token lacks node:read on \"\"";
    assert_eq!((&problem["text"], &problem["level"]), (&text.into(), &"error".into()));
    let hidden = "consul_ffi_cluster_hidden{cluster=\"ha/nodes/\",node=\"consul-ha\"} 1";
    let metrics = server.get("/metrics");
    assert!(metrics.contains(hidden), "{metrics}");
}

pub fn removes_no_live_node() {
    let consul = RealConsul::start_with_acl("1.8", "deny").expect("it is there");
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let admin = client(&consul.address, &consul.token);
    runtime.block_on(register(&admin));
    let frozen = Args::new().arg("ha/shards/epoch").arg(FROZEN.as_bytes().to_vec());
    runtime.block_on(admin.call(&kv::PUT, &frozen)).expect("a key");
    let run = |rules: &[&str], arguments: &[&str]| {
        let token = runtime.block_on(token(&admin, &rules.concat()));
        let environment = [
            ("CONSUL_HTTP_ADDR", consul.address.as_str()),
            ("CONSUL_HTTP_TOKEN", token.as_str()),
            ("CONSUL_HA_PREFIX", "ha/"),
        ];
        Run::of(arguments, &environment)
    };
    let all = [KEYS, SERVICES, NODES];
    run(&all, &["forget", "n1"]).refused(1, &["n1 is live"]);
    for verb in [&["forget", "n1"][..], &["leave", "n1"], &["why"], &["nodes"]] {
        run(&[KEYS, SERVICES], verb).refused(5, &["node:read on \"\""]);
        run(&[KEYS, NODES], verb).refused(5, &["service:read on \"ha-nodes\""]);
    }
    run(&[SERVICES, NODES], &["nodes"]).refused(5, &["key:read on \"ha/nodes/\""]);
    names_rights(&run);
    let map = Args::new().arg("ha/shards/map").arg(MAP.as_bytes().to_vec());
    runtime.block_on(admin.call(&kv::PUT, &map)).expect("a key");
    let said = Args::new().arg("ha/shards/members/points/nodes/n1").arg("{}");
    runtime.block_on(admin.call(&kv::PUT, &said)).expect("a key");
    hides_a_store(&run);
    let gone = Args::new().arg("ha/shards/members/points/nodes/n1");
    runtime.block_on(admin.call(&kv::DELETE, &gone)).expect("no key");
    hides_keys(&run);
    serves(&runtime.block_on(token(&admin, &[KEYS, SERVICES].concat())), &consul.address);
    let doctor = run(&[KEYS, SERVICES], &["doctor"]).out;
    assert!(doctor.contains("lacks node:read on "), "{doctor}");
    let key = runtime.block_on(admin.call(&kv::GET, &Args::new().arg("ha/nodes/n1")));
    assert!(matches!(key.unwrap().value, Value::Bytes(_)), "the node is a member");
}
