//! The report of a process to an operator about its cluster, by its own knowledge and by what the nodes tell.

use crate::data_plane::world::{Node, World, keyed};
use crate::support::PATIENCE;
use consul_cluster::data_plane::{Body, CallOptions, ClusterKey};
use consul_cluster::observe::overview::{NodeState, Overview};
use consul_cluster::observe::report::{Overviews, SERVICE};
use consul_cluster::{Mode, Options};
use consul_sim::Fault;
use serde_json::{Value, json};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn overviews(node: &Node) -> Arc<Overviews> {
    Overviews::new(Arc::clone(&node.cluster), Some(Arc::clone(&node.plane)))
}

fn named(id: &str) -> Options {
    Options { zone: format!("zone of {id}"), ..keyed(id) }
}

type Looking = (Node, Arc<Overviews>);

/// Three nodes that answer reports, and an observer.
fn cluster(world: &World) -> ([Looking; 3], Looking) {
    let nodes = ["n1", "n2", "n3"].map(|id| {
        let node = world.node_with(named(id), drop);
        world.settle();
        let overviews = overviews(&node);
        (node, overviews)
    });
    let observer = Options { cluster_key: named("").cluster_key, ..Options::observer("operator") };
    let observer = world.node_with(observer, drop);
    world.settle();
    let asking = overviews(&observer);
    (nodes, (observer, asking))
}

fn look(world: &World, overviews: &Overviews) -> Arc<Overview> {
    world.runtime.block_on(overviews.overview())
}

fn problems(overview: &Overview) -> Vec<(&str, &str)> {
    overview.problems.iter().map(|it| (it.problem, it.of.as_str())).collect()
}

#[test]
fn an_observer_gathers_what_the_nodes_tell() {
    let world = World::new();
    let (nodes, (_observer, asking)) = cluster(&world);
    let overview = look(&world, &asking);
    let shown: Value = serde_json::to_value(&*overview).expect("a document");
    assert_eq!(shown["version"], 1);
    assert_eq!(shown["told_by"], Value::Null);
    assert_eq!(shown["in_touch"], true);
    assert_eq!(shown["prefix"], "tsdb/cluster/");
    let leader = nodes.iter().find(|(node, _)| node.cluster.is_leader()).expect("a leader");
    let lease = leader.0.cluster.lease().expect("a lease");
    assert_eq!(shown["leader"]["node_id"], leader.0.cluster.options().node_id);
    assert_eq!(shown["leader"]["token"], lease.token());
    assert_eq!(shown["leader"]["lease_ms"], lease.remaining().as_millis() as u64);
    assert_eq!(shown["frozen"], json!([]));
    let ids: Vec<&Value> =
        shown["nodes"].as_array().expect("nodes").iter().map(|it| &it["id"]).collect();
    assert_eq!(ids, ["n1", "n2", "n3"]);
    for node in shown["nodes"].as_array().expect("nodes") {
        assert_eq!(
            (&node["state"], &node["mode"], &node["weight"]),
            (&json!("live"), &json!("active"), &json!(1.0))
        );
        assert_eq!((&node["map_lag"], &node["silent"]), (&json!(0), &Value::Null), "{node}");
        assert_eq!(node["map_epoch"], shown["map"]["epoch"]);
        let count = |name: &str| node[name].as_u64().expect("a number");
        assert!(count("primaries").abs_diff(1024 / 3) <= 1, "{node}");
        assert!((count("primaries") + count("replicas")).abs_diff(2048 / 3) <= 1, "{node}");
    }
    let map = &shown["map"];
    assert_eq!(
        (&map["shards"], &map["replicas"], &map["nodes"]),
        (&json!(1024), &json!(2), &json!(ids))
    );
    let snapshot = asking.cluster().snapshot();
    let places = snapshot.map.as_ref().expect("a map").nodes_of(7);
    let places: Vec<Value> =
        places.map(|(id, _)| json!([ids.iter().position(|it| *it == id), "a"])).collect();
    assert_eq!(map["placement"][7], json!(places));
    assert_eq!(map["placement"].as_array().expect("shards").len(), 1024);
    let endpoints = shown["endpoints"].as_array().expect("endpoints");
    let tellers: Vec<&Value> = endpoints.iter().map(|it| &it["told_by"]).collect();
    assert_eq!(tellers, ["n1", "n2", "n3", "operator"]);
    assert!(
        endpoints.iter().all(|it| it["state"] == "ok" && it["latency_ms"].is_number()),
        "{endpoints:?}"
    );
    assert_eq!(problems(&overview), []);
    let own = look(&world, &nodes[1].1);
    assert_eq!(own.told_by.as_deref(), Some("n2"));
    // A node does not compare its clock with its own.
    let (own, overview) = (own.steady(), overview.steady());
    assert_eq!((&own.nodes, &own.leader), (&overview.nodes, &overview.leader));
    assert!(own.map == overview.map, "both have the same map");
}

#[test]
fn an_event_that_several_nodes_notice_is_one_and_no_start_repeats_old_ones() {
    let world = World::new();
    let (nodes, (_observer, asking)) = cluster(&world);
    let overview = look(&world, &asking);
    let of = |name: &str| -> Vec<&str> {
        let found = overview.events.iter().filter(|it| it.event == name);
        found.map(|it| it.detail.as_str()).collect()
    };
    assert_eq!(of("leader_changed"), ["n1"], "{:?}", overview.events);
    assert_eq!(of("node_joined"), ["n1", "n2", "n3"]);
    let joined = overview.events.iter().find(|it| it.detail == "n3").expect("n3 has joined");
    assert!(joined.seq > 0 && joined.at_ms > 0 && joined.at_ms <= overview.at_ms);
    world.simulated.run(nodes[0].0.cluster.set_mode("n2", Mode::Draining)).expect("a mode");
    world.settle();
    std::thread::sleep(Duration::from_secs(1));
    let later = look(&world, &asking);
    let changes: Vec<_> = later.events.iter().filter(|it| it.event == "shards_changed").collect();
    assert!(changes.len() > of("shards_changed").len());
    let newest = changes.last().map(|it| it.detail.clone());
    assert_eq!(newest, later.map.as_ref().map(|map| map.epoch.to_string()));
    assert_eq!(problems(&later), [("node_draining", "n2")]);
}

/// Whether a request has arrived there, and not only a connection.
fn has_a_question(mut connection: &TcpStream) -> bool {
    connection.set_nonblocking(true).expect("it can be set");
    let mut request = [0; 64];
    connection.read(&mut request).is_ok_and(|length| length > 0)
}

#[test]
fn a_node_that_does_not_answer_delays_an_overview_by_a_bounded_time() {
    let world = World::new();
    let (_nodes, (_observer, asking)) = cluster(&world);
    // It accepts connections, and answers nothing.
    let deaf = TcpListener::bind("127.0.0.1:0").expect("a port");
    // The observer may ask it before it is looked at.
    let begun = Instant::now();
    world.member("deaf", &deaf.local_addr().expect("an address").to_string());
    let overview = look(&world, &asking);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(problems(&overview), [("node_silent", "deaf")]);
    let silent = |id: &str| {
        let node = overview.nodes.iter().find(|it| it.id == id).expect("a node");
        (node.state, node.silent.is_some(), node.map_lag)
    };
    assert_eq!(silent("deaf"), (NodeState::Live, true, None));
    assert_eq!(silent("n1"), (NodeState::Live, false, Some(0)));
    deaf.set_nonblocking(true).expect("it can be set");
    let asked = || {
        let connections = std::iter::from_fn(|| deaf.accept().ok());
        connections.filter(|(connection, _)| has_a_question(connection)).count() as u64
    };
    let first = asked();
    look(&world, &asking);
    // It is asked once a second, and the two may take longer on a busy machine.
    let (again, seconds) = (asked(), begun.elapsed().as_secs());
    assert!(
        first > 0 && again <= first * seconds,
        "asked {first} and {again} times in {seconds} s"
    );
}

#[test]
fn a_node_of_another_key_is_told_from_one_that_does_not_answer() {
    let world = World::new();
    let (_nodes, (_observer, asking)) = cluster(&world);
    let key = Some(ClusterKey::new("a secret of another cluster"));
    let _foreign = world.node_with(Options { cluster_key: key, ..named("n4") }, drop);
    world.settle();
    let overview = look(&world, &asking);
    assert_eq!(problems(&overview), [("key_refused", "n4")]);
}

#[test]
fn a_node_of_an_earlier_release_has_no_report_and_that_is_no_problem() {
    let world = World::new();
    let _older = world.node_with(named("n1"), drop);
    let node = world.node_with(named("n2"), drop);
    world.settle();
    let overview = look(&world, &overviews(&node));
    assert_eq!(problems(&overview), []);
    assert_eq!(overview.nodes.iter().map(|it| it.map_lag).collect::<Vec<_>>(), [None, Some(0)]);
}

#[test]
fn an_observer_is_not_the_member_that_has_its_name() {
    let world = World::new();
    let node = world.node_with(named("consul-ha"), drop);
    world.settle();
    let _answering = overviews(&node);
    let observer = Options { cluster_key: named("").cluster_key, ..Options::observer("consul-ha") };
    let observer = world.node_with(observer, drop);
    world.settle();
    let overview = look(&world, &overviews(&observer));
    assert_eq!(overview.told_by, None);
    let [member] = overview.nodes.as_slice() else { panic!("{:?}", overview.nodes) };
    let epoch = overview.map.as_ref().map(|map| map.epoch);
    assert_eq!((member.id.as_str(), member.state), ("consul-ha", NodeState::Live));
    assert!(
        epoch.is_some() && member.map_epoch == epoch,
        "it is asked over the data plane: {member:?}"
    );
    assert_eq!((member.silent.as_deref(), member.map_lag), (None, Some(0)));
    let tellers: Vec<&str> = overview.endpoints.iter().map(|it| it.told_by.as_str()).collect();
    assert_eq!(tellers, ["consul-ha", "consul-ha (observer)"]);
    let lease = node.cluster.lease().expect("it leads").remaining().as_millis() as u64;
    let leader = overview.leader.as_ref().expect("a leader");
    assert_eq!((leader.node_id.as_str(), leader.lease_ms), ("consul-ha", Some(lease)));
    assert_eq!(observer.cluster.state(), "observer");
    assert_eq!(problems(&overview), []);
}

#[test]
fn what_nodes_told_before_they_went_down_is_not_shown() {
    let world = World::new();
    let (_nodes, (_observer, asking)) = cluster(&world);
    assert_eq!(look(&world, &asking).endpoints.len(), 4);
    for id in ["n1", "n2", "n3"] {
        let check = json!({
            "Name": id, "ServiceID": format!("tsdb-cluster-nodes-{id}"), "TTL": "1h", "Status": "critical",
        });
        world.simulated.send("PUT", "/v1/agent/check/register", &check.to_string());
    }
    world.settle();
    std::thread::sleep(Duration::from_secs(1));
    let overview = look(&world, &asking);
    for node in &overview.nodes {
        assert_eq!((node.state, node.map_epoch), (NodeState::Down, None), "{node:?}");
        assert!(node.down_for_ms.is_some() && node.silent.is_none(), "{node:?}");
    }
    let tellers: Vec<&str> = overview.endpoints.iter().map(|it| it.told_by.as_str()).collect();
    assert_eq!(tellers, ["operator"]);
    assert!(!overview.events.is_empty(), "what has happened stays");
}

#[test]
fn a_node_that_was_started_again_tells_its_events_from_the_first_one() {
    let world = World::new();
    let (nodes, _observer) = cluster(&world);
    let told_after = |incarnation: &str, seq: u64| -> Vec<u64> {
        let question = json!({ "incarnation": incarnation, "seq": seq }).to_string();
        let options = CallOptions { of_service: true, ..CallOptions::default() };
        let question = Body::json(question);
        let asked = nodes[0].0.plane.call("n3", SERVICE, &question, &options);
        let reply = world.runtime.block_on(asked).expect("a report");
        let report: Value = serde_json::from_slice(&reply.bytes).expect("JSON");
        let events = report["events"].as_array().expect("events").iter();
        events.map(|it| it["seq"].as_u64().expect("a number")).collect()
    };
    let start = nodes[0].0.cluster.snapshot().nodes["n3"].record.incarnation.clone();
    let all = told_after(&start, 0);
    let last = *all.last().expect("it has joined");
    assert_eq!((all[0], told_after(&start, last)), (1, vec![]));
    assert_eq!(told_after("of its earlier start", last), all);
}

#[test]
fn what_is_announced_with_the_map_is_told_after_one_look() {
    let world = World::new();
    let announced = r#"{"epoch":7,"digest":"0","frozen":["n2"],"restored":true}"#;
    world.simulated.write("tsdb/cluster/shards/epoch", announced);
    let observer = world.cluster(Options::observer("operator"));
    world.simulated.run(observer.look()).expect("an answer");
    let overview = look(&world, &Overviews::new(observer, None));
    assert!(overview.in_touch && overview.restored);
    assert_eq!(problems(&overview), [("no_leader", ""), ("frozen", ""), ("map_restored", "")]);
}

#[test]
fn a_process_that_is_cut_off_says_so_and_shows_what_it_knew() {
    let world = World::new();
    let (_nodes, (_observer, asking)) = cluster(&world);
    let epoch = |overview: &Overview| overview.map.as_ref().map(|map| map.epoch);
    let before = epoch(&look(&world, &asking));
    world.simulated.agent.add_fault(Fault { partition: true, ..Fault::default() });
    world.simulated.wait(Duration::from_secs(60));
    std::thread::sleep(Duration::from_secs(1));
    let overview = look(&world, &asking);
    assert!(!overview.in_touch);
    assert_eq!(problems(&overview)[0], ("not_in_touch", ""));
    assert_eq!((overview.nodes.len(), epoch(&overview)), (3, before));
}

#[test]
fn without_a_raft_leader_an_operator_sees_what_a_server_has_heard_last() {
    let world = World::new();
    let (_nodes, _observer) = cluster(&world);
    world.simulated.agent.add_fault(Fault { no_leader: true, ..Fault::default() });
    let operator = world.cluster(Options::observer("operator"));
    world.simulated.run(operator.look_also_back()).expect("an answer of a server without a leader");
    let overview = look(&world, &Overviews::new(operator, None));
    assert!(!overview.in_touch && overview.age_ms.is_some());
    assert_eq!(problems(&overview)[0], ("no_raft_leader", ""));
    let live = overview.nodes.iter().filter(|node| node.state == NodeState::Live).count();
    assert!(live == 3 && overview.map.is_some() && overview.leader.is_some(), "{overview:?}");
    world.simulated.agent.clear_faults();
    let operator = world.cluster(Options::observer("operator"));
    world.simulated.run(operator.look_also_back()).expect("an answer");
    assert_eq!(look(&world, &Overviews::new(operator, None)).age_ms, None);
}
