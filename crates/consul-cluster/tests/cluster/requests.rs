//! The requests of operators to nodes by their keys, on a clock that the test advances.

use crate::nodes::{Behind, Process, behind, owners};
use crate::support::world::World;
use consul_api::error::Kind;
use consul_api::request::Defaults;
use consul_client::Client;
use consul_cluster::nodes::rights::{self, Right};
use consul_cluster::{Cluster, Forgotten, Mode, Options};
use consul_sim::Fault;
use futures_util::future::join;
use std::sync::Arc;
use std::time::Duration;

/// The view of an operator's program.
pub fn look(world: &World) -> Arc<Cluster> {
    look_with(world, world.client())
}

fn look_with(world: &World, client: Arc<Client>) -> Arc<Cluster> {
    let observer = Cluster::new(Arc::clone(&client), client, Options::observer("operator"));
    let observer = observer.expect("good options");
    world.run(observer.look()).expect("an answer");
    observer
}

fn leader(world: &World) -> String {
    look(world).snapshot().leader.as_ref().expect("a leader").node_id.clone()
}

/// A cluster whose leader was killed: it does not take requests any more, and still counts as live.
fn with_a_killed_leader() -> (World, String) {
    let world = World::new();
    let nodes = world.nodes(3);
    world.wait(Duration::from_secs(5));
    let leads = leader(&world);
    let leader = nodes.iter().find(|node| node.cluster.options().node_id == leads).expect("it");
    world.kill(leader);
    (world, leads)
}

/// Changes a node's key as text.
fn edit(world: &World, id: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let key = format!("tsdb/cluster/nodes/{id}");
    let mut record = serde_json::from_str(&world.read(&key).expect("a key")).expect("JSON");
    change(&mut record);
    world.write(&key, &record.to_string());
}

fn request(world: &World, id: &str) -> serde_json::Value {
    let record = world.read(&format!("tsdb/cluster/nodes/{id}")).expect("a key");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    record["request"].clone()
}

#[test]
fn the_named_node_leads_after_a_hand_over() {
    let world = World::new();
    let _nodes = world.nodes(5);
    for to in ["n4", "n2", "n5"] {
        let before = leader(&world);
        if before == to {
            continue;
        }
        world.run(look(&world).ask_hand_over(None, Some(to))).expect("a leader");
        world.wait(Duration::from_secs(10));
        assert_eq!(leader(&world), to);
        assert!(request(&world, &before).is_null(), "it is taken out of the key");
    }
}

#[test]
fn a_successor_that_cannot_lead_only_delays_the_election() {
    let world = World::new();
    let nodes = world.nodes(3);
    let before = leader(&world);
    let to = if before == "n1" { "n2" } else { "n1" };
    let successor = nodes.iter().find(|node| node.cluster.options().node_id == to);
    world.kill(successor.expect("a node"));
    world.run(look(&world).ask_hand_over(None, Some(to))).expect("a leader");
    world.wait(Duration::from_secs(20));
    let after = leader(&world);
    assert!(after != before && after != to, "{before} hands over to {to}: {after}");
}

#[test]
fn a_request_about_another_leadership_or_another_start_has_no_effect() {
    let world = World::new();
    let nodes = world.nodes(2);
    let before = leader(&world);
    edit(&world, &before, |record| {
        record["request"] = serde_json::json!({ "hand_over": { "token": 1 } })
    });
    world.wait(Duration::from_secs(10));
    assert_eq!(leader(&world), before);
    assert!(request(&world, &before).is_null());
    edit(&world, "n1", |record| {
        record["request"] = serde_json::json!({ "leave": { "incarnation": "0" } });
    });
    world.wait(Duration::from_secs(30));
    assert!(nodes.iter().all(|node| node.why().is_none() && node.cluster.mode() == Mode::Active));
    assert!(request(&world, "n1").is_null());
}

#[test]
fn a_request_neither_replaces_nor_withdraws_another_one() {
    let (world, leads) = with_a_killed_leader();
    let operator = look(&world);
    let leave = world.run(operator.ask_leave(None, &leads)).expect("a node");
    let hand_over = world.run(operator.ask_hand_over(None, Some("n9"))).expect("a leader");
    assert!(leave.is_new && hand_over.is_new);
    let other = world.run(operator.ask_hand_over(None, None)).expect_err("another node");
    assert_eq!(other.kind(), Kind::Conflict);
    let same = world.run(operator.ask_hand_over(None, Some("n9"))).expect("the same");
    assert!(!same.is_new);
    let has = |field: &str| !request(&world, &leads)[field].is_null();
    assert!(has("leave") && has("hand_over"));
    assert!(world.run(operator.withdraw(None, &leads, &leave.request)).expect("an answer"));
    assert!(!has("leave") && has("hand_over"));
    assert!(
        !world.run(operator.withdraw(None, &leads, &leave.request)).expect("an answer"),
        "it is gone already"
    );
    assert!(world.run(operator.withdraw(None, &leads, &hand_over.request)).expect("an answer"));
    assert!(request(&world, &leads).is_null());
}

#[test]
fn a_request_that_cannot_be_read_leaves_the_node_a_member() {
    let world = World::new();
    let _nodes = world.nodes(2);
    let unknown = serde_json::json!({ "dance": true });
    for request in [serde_json::json!("leave"), serde_json::json!(7), unknown] {
        edit(&world, "n2", |record| record["request"] = request.clone());
        world.wait(Duration::from_secs(10));
        let snapshot = look(&world).snapshot();
        assert!(snapshot.nodes["n2"].is_live, "{request}");
    }
}

fn ended(node: &Process) -> String {
    node.why().expect("it has ended").message().to_owned()
}

#[test]
fn a_node_that_is_asked_to_leave_stops_without_shards() {
    let world = World::new();
    let nodes = world.nodes(3);
    world.wait(Duration::from_secs(5));
    world.run(look(&world).ask_leave(None, "n3")).expect("a node");
    world.wait(Duration::from_secs(20));
    assert_eq!(ended(&nodes[2]), "an operator asked it to leave");
    let snapshot = look(&world).snapshot();
    assert!(!snapshot.nodes.contains_key("n3"));
    assert!(!snapshot.map.as_ref().expect("a map").has("n3"));
    assert!(snapshot.frozen.is_empty());
    assert!(nodes[..2].iter().all(|node| node.why().is_none()));
}

#[test]
fn a_leave_ends_when_the_node_is_made_active() {
    let world = World::new();
    let nodes = world.nodes(1);
    // Alone it keeps its shards, so it cannot leave.
    world.run(look(&world).ask_leave(None, "n1")).expect("a node");
    world.wait(Duration::from_secs(20));
    assert!(nodes[0].why().is_none());
    assert_eq!(nodes[0].cluster.mode(), Mode::Draining);
    world.run(look(&world).set_mode("n1", Mode::Active)).expect("a node");
    world.wait(Duration::from_secs(20));
    world.node("n2");
    world.wait(Duration::from_secs(20));
    assert!(nodes[0].why().is_none());
    assert_eq!(nodes[0].cluster.mode(), Mode::Active);
    // To drain it later does not stop it: that was not asked for.
    world.run(look(&world).set_mode("n1", Mode::Draining)).expect("a node");
    world.wait(Duration::from_secs(30));
    assert!(!owners(&nodes[0]).contains("n1"));
    assert!(nodes[0].why().is_none());
}

#[test]
fn a_leave_that_the_node_has_not_taken_ends_when_it_is_made_active() {
    let (world, leads) = with_a_killed_leader();
    world.run(look(&world).ask_leave(None, &leads)).expect("a node");
    assert!(request(&world, &leads)["leave"].is_object());
    world.run(look(&world).set_mode(&leads, Mode::Active)).expect("a node");
    assert!(request(&world, &leads).is_null(), "{}", request(&world, &leads));
}

#[test]
fn a_request_about_another_start_does_not_stop_a_node_that_drains() {
    let world = World::new();
    let nodes = world.nodes(2);
    world.run(look(&world).set_mode("n2", Mode::Draining)).expect("a node");
    world.wait(Duration::from_secs(20));
    assert!(!owners(&nodes[0]).contains("n2"));
    edit(&world, "n2", |record| {
        record["request"] = serde_json::json!({ "leave": { "incarnation": "0" } });
    });
    world.wait(Duration::from_secs(20));
    assert!(request(&world, "n2").is_null());
    assert!(nodes[1].why().is_none());
}

#[test]
fn a_node_stays_while_it_cannot_read_whether_a_store_names_it() {
    let world = World::new();
    let nodes = world.nodes(2);
    let map = nodes[0].cluster.options().shards_prefix.clone() + "maps/points";
    world.write(&map, "a map of a later release");
    world.run(look(&world).ask_leave(None, "n2")).expect("a node");
    world.wait(Duration::from_secs(30));
    assert!(nodes[1].why().is_none());
    let key = format!("/v1/kv/{map}");
    world.send("DELETE", &key, "");
    world.wait(Duration::from_secs(10));
    assert_eq!(ended(&nodes[1]), "an operator asked it to leave");
}

#[test]
fn nothing_is_changed_after_another_shard_map_than_the_operators() {
    let world = World::new();
    let nodes = world.nodes(3);
    world.kill(&nodes[2]);
    world.wait(Duration::from_secs(20));
    let operator = look(&world);
    let epoch = nodes[0].epoch();
    let other = world.run(operator.at_epoch(epoch + 1)).expect_err("another epoch");
    assert_eq!(other.kind(), Kind::Conflict);
    let unchanged = world.run(operator.at_epoch(epoch)).expect("its epoch");
    world.node("n4");
    world.wait(Duration::from_secs(10));
    assert!(nodes[0].epoch() > epoch);
    let condition = Some(&unchanged);
    let refused = [
        world.run(operator.set_mode_while(condition, "n1", None, Mode::Draining)),
        world.run(operator.ask_leave(condition, "n2")).map(drop),
        world.run(operator.ask_hand_over(condition, None)).map(drop),
        world.run(operator.forget(condition, "n3")).map(drop),
    ];
    let kinds = refused.map(|refused| refused.expect_err("another map").kind());
    assert_eq!(kinds, [Kind::Conflict; 4]);
    assert!(["n1", "n2"].iter().all(|id| request(&world, id).is_null()));
    let snapshot = look(&world).snapshot();
    assert_eq!(snapshot.nodes["n1"].record.mode, Mode::Active);
    assert!(snapshot.nodes.contains_key("n3"));
}

#[test]
fn only_a_node_that_is_down_is_forgotten() {
    let world = World::new();
    let nodes = world.nodes(3);
    let forget = |id: &str| world.run(look(&world).forget(None, id));
    assert_eq!(forget("n3").expect("an answer"), Forgotten::Live);
    assert!(world.read("tsdb/cluster/nodes/n3").is_some());
    world.kill(&nodes[2]);
    world.wait(Duration::from_secs(20));
    assert!(matches!(forget("n3").expect("an answer"), Forgotten::Removed(_)));
    assert!(world.read("tsdb/cluster/nodes/n3").is_none());
    assert_eq!(forget("n3").expect_err("it is gone").kind(), Kind::NotFound);
}

#[test]
fn an_operator_to_whom_acls_hide_nodes_is_told_so() {
    let (world, management) = World::with_acl();
    let node = world.client_with_rules(
        management,
        r#"key_prefix "" { policy = "write" } service_prefix "" { policy = "write" }
           session_prefix "" { policy = "write" } node_prefix "" { policy = "read" }
           agent_prefix "" { policy = "read" }"#,
    );
    let node = world.start_with(node, crate::nodes::node("n1"));
    world.run(node.cluster.started()).expect("nothing is refused");
    let looks = |rules: &str| {
        let client = world.client_with_rules(management, rules);
        let observer = Cluster::new(Arc::clone(&client), client, Options::observer("operator"));
        world.run(observer.expect("good options").look())
    };
    let error = looks(r#"key_prefix "" { policy = "read" }"#).expect_err("it sees no instance");
    assert_eq!(error.kind(), Kind::PermissionDenied);
    assert!(
        error.message().contains("service:read or node:read; it lacks service:read on "),
        "{error}"
    );
    let rules = r#"key_prefix "" { policy = "read" } service_prefix "" { policy = "read" }
        node_prefix "" { policy = "read" }"#;
    looks(rules).expect("it sees all");
}

#[test]
fn another_change_of_the_node_is_no_change_of_the_shard_map() {
    let world = World::new();
    let nodes = world.nodes(2);
    world.wait(Duration::from_secs(5));
    let operator = look(&world);
    let unchanged = world.run(operator.at_epoch(nodes[0].epoch())).expect("its epoch");
    // Both have read the key when the first one writes it.
    world.agent.add_fault(Fault { latency: Duration::from_millis(10), ..Fault::default() });
    let (first, second) = world.run(join(
        operator.set_mode("n1", Mode::Maintenance),
        operator.set_mode_while(Some(&unchanged), "n1", None, Mode::Active),
    ));
    first.expect("a mode");
    second.expect("the map is the same");
    assert_eq!(look(&world).snapshot().nodes["n1"].record.mode, Mode::Active);
}

#[test]
fn each_right_of_a_long_list_is_asked_for() {
    let (world, management) = World::with_acl();
    let rules = r#"key_prefix "has/" { policy = "read" }"#;
    let client = world.client_with_rules(management, rules);
    let lacks = [0, 70, 129].map(|n| Right::read("key", &format!("lacks/{n}")));
    let has = (0..130).map(|n| Right::read("key", &format!("has/{n}")));
    let mut asked: Vec<Right> = has.collect();
    for (place, right) in [0, 70, 129].into_iter().zip(&lacks) {
        asked[place] = right.clone();
    }
    assert_eq!(world.run(rights::lacking(&client, asked)).expect("an answer"), lacks);
}

/// Behind a balancer that loses the answer to the first change of the key.
#[test]
fn a_request_is_asked_and_withdrawn_although_an_answer_is_lost() {
    let (world, leads) = with_a_killed_leader();
    let between = Behind::new(&world);
    let operator = look_with(&world, between.client(&world, Defaults::default()));
    let lose = || between.lose_an_answer("/v1/kv/tsdb/cluster/nodes/");
    lose();
    let leave = world.run(operator.ask_leave(None, &leads)).expect("a node");
    assert!(leave.is_new);
    lose();
    assert!(world.run(operator.withdraw(None, &leads, &leave.request)).expect("an answer"));
    assert!(request(&world, &leads).is_null());
}

/// The node that takes a request out of its key does what it asks.
#[test]
fn a_node_does_what_it_is_asked_although_an_answer_is_lost() {
    let world = World::new();
    let (between, nodes) = behind(&world);
    between.lose_an_answer("/v1/kv/tsdb/cluster/nodes/n1");
    let operator = look(&world);
    world.run(operator.ask_leave(None, "n1")).expect("a node");
    world.wait(Duration::from_secs(10));
    assert!(nodes[0].why().is_some(), "it has left");
}
