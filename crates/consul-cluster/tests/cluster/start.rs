//! The messages of a node that cannot start, on the simulated agent and a clock that the test moves.

use crate::support::between::{INVALID_KEY_NAME, WithoutColons};
use crate::support::world::World;
use consul_api::error::Kind;
use consul_cluster::nodes::start;
use consul_cluster::{Cluster, Options};
use consul_process::clock::Clock;
use consul_sim::Fault;
use std::sync::Arc;
use std::time::Duration;

/// The lack of a node after 5 s whose token has these rules.
fn missing(rules: &str) -> String {
    let (world, node) = started(rules);
    world.run(start::missing(&node))
}

/// A node whose token has these rules, 5 s after its start.
fn started(rules: &str) -> (World, Arc<Cluster>) {
    let (world, management) = World::with_acl();
    let client = world.client_with_rules(management, rules);
    let options = Options::new("n1", "127.0.0.1:9000");
    let node = Cluster::new(Arc::clone(&client), client, options).expect("valid options");
    let running = Arc::clone(&node);
    world.clock.spawn(async move { drop(running.run().await) });
    world.wait(Duration::from_secs(5));
    (world, node)
}

#[test]
fn a_node_whose_name_the_server_does_not_take_in_a_key_says_so() {
    let world = World::new();
    let client = WithoutColons::new(&world.agent).client(Arc::new(world.clock.clone()));
    for (id, is_refused) in [("10.0.0.1:9000", true), ("10.0.0.1", false)] {
        let options = Options::new(id, "127.0.0.1:9000");
        let node = Cluster::new(Arc::clone(&client), Arc::clone(&client), options);
        let node = node.expect("valid options");
        let running = Arc::clone(&node);
        world.clock.spawn(async move { drop(running.run().await) });
        world.wait(Duration::from_secs(5));
        let missing = world.run(start::missing(&node));
        assert_eq!(missing.contains("its key is not written"), is_refused, "{missing}");
        assert_eq!(missing.contains("invalid key name"), is_refused, "{missing}");
    }
}

#[test]
fn a_start_ends_at_once_when_the_server_does_not_take_the_name_of_a_key() {
    type Change = fn(&mut Options);
    let of_members: [Change; 5] = [
        |it| it.node_id = "10.0.0.1:9000".into(),
        |it| it.leader_key = "tsdb:c/leader".into(),
        |it| it.nodes_prefix = "tsdb:c/nodes/".into(),
        |it| it.shards_prefix = "tsdb:c/shards/".into(),
        |it| it.config_key = "tsdb:c/config".into(),
    ];
    let of_observers = &of_members[1..4];
    let members = of_members.iter().map(|change| (Options::new("n1", "127.0.0.1:9000"), change));
    let observers = of_observers.iter().map(|change| (Options::observer("o1"), change));
    for (mut options, change) in members.chain(observers) {
        change(&mut options);
        let world = World::new();
        let server = WithoutColons::new(&world.agent);
        let client = server.client(Arc::new(world.clock.clone()));
        let node = Cluster::new(Arc::clone(&client), client, options).expect("valid options");
        let begun = world.clock.now();
        let end = begun + Duration::from_secs(10);
        let error = world.run(async {
            tokio::select! {
                biased;
                error = node.run() => error,
                started = node.started() => started.expect_err("a refusal"),
                () = world.clock.sleep_until(end) => panic!("{:?} is not refused", node.options()),
            }
        });
        let what = format!("{error}: {:?}", node.options());
        assert_eq!(error.kind(), Kind::Argument, "{what}");
        assert!(error.message().contains(INVALID_KEY_NAME), "{what}");
        assert!(world.clock.now() - begun < Duration::from_secs(1), "{what}");
        assert_eq!(server.refused(), 1, "{what}");
        let missing = world.run(start::missing(&node));
        assert!(missing.contains(INVALID_KEY_NAME), "{missing}: {what}");
    }
}

/// Whether a node leads that runs with these rules beside another that sees everything, and the leader.
fn leads(rules: &str) -> (&'static str, Option<String>) {
    let (world, management) = World::with_acl();
    let mut nodes = Vec::new();
    for (id, rules) in [("n1", rules), ("n2", ALL)] {
        let client = world.client_with_rules(management, rules);
        let options = Options::new(id, "127.0.0.1:9000");
        let node = Cluster::new(Arc::clone(&client), client, options).expect("valid options");
        let running = Arc::clone(&node);
        world.clock.spawn(async move { drop(running.run().await) });
        world.wait(Duration::from_secs(5));
        nodes.push(node);
    }
    world.wait(Duration::from_secs(60));
    let leader = nodes[1].snapshot().leader.clone().map(|leader| leader.node_id);
    (nodes[0].state(), leader)
}

const ALL: &str = r#"key_prefix "" { policy = "write" } session_prefix "" { policy = "write" }
    service_prefix "" { policy = "write" } node_prefix "" { policy = "write" }"#;

#[test]
fn a_node_that_does_not_see_all_nodes_does_not_lead() {
    let of_keys = format!(
        r#"{ALL} key_prefix "tsdb/cluster/nodes/" {{ policy = "deny" }}
        key "tsdb/cluster/nodes/n1" {{ policy = "write" }}"#
    );
    assert_eq!(leads(ALL), ("leader", Some("n1".to_owned())));
    assert_eq!(leads(&of_keys), ("follower", Some("n2".to_owned())));
}

const KEYS: &str = r#"key_prefix "" { policy = "write" } session_prefix "" { policy = "write" }"#;

#[test]
fn a_node_that_may_not_read_its_catalog_entry_says_that_acls_hide_it() {
    let why = missing(&format!(r#"{KEYS} service_prefix "" {{ policy = "write" }}"#));
    let hint = "its check does not pass; instances are hidden by ACLs";
    assert!(why.starts_with(hint) && why.contains("node:read"), "{why}");
}

#[test]
fn a_node_that_may_not_register_names_the_permission() {
    let (world, node) = started(&format!(r#"{KEYS} node_prefix "" {{ policy = "read" }}"#));
    let error = world.run(node.started()).expect_err("a refusal");
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    assert!(error.message().contains("'service:write'"), "{error}");
    let why = world.run(start::missing(&node));
    assert!(why.contains("its service is not registered: "), "{why}");
    assert!(why.contains("Permission denied") && why.contains("'service:write'"), "{why}");
}

#[test]
fn a_start_takes_no_longer_than_its_limit_however_consul_answers() {
    let ms = Duration::from_millis;
    let slow = |latency| Fault { latency, ..Fault::default() };
    let faults = [
        Fault { partition: true, ..Fault::default() },
        Fault { drop_before: 1.0, ..Fault::default() },
        Fault { no_leader: true, ..Fault::default() },
        slow(ms(90)),
        slow(ms(900)),
        slow(ms(1100)),
    ];
    for fault in faults {
        for limit in [ms(1), ms(500), ms(3000), ms(10_000)] {
            let world = World::new();
            let client = world.client();
            let options = Options::new("n1", "127.0.0.1:9000");
            let node = Cluster::new(Arc::clone(&client), client, options).expect("valid options");
            let what = format!("{limit:?} {fault:?}");
            world.agent.add_fault(fault.clone());
            let begun = world.clock.now();
            let why = world.run(start::missing_after(&node, limit));
            assert_eq!(world.clock.now() - begun, limit, "{what}: {why}");
            assert!(!why.is_empty(), "{what}");
        }
    }
}
