//! Two clusters that Consul has under one name, since names of services have `-` for `/`: each tells the other's nodes from
//! its own, and says whose they are.

use crate::nodes::{Process, leaders, node};
use crate::support::lines::logged;
use crate::support::world::World;
use consul_api::error::Kind;
use consul_cluster::Options;
use consul_process::clock::Clock as _;
use std::sync::Arc;
use std::time::Duration;
use tracing::Level;

fn of(prefix: &str, id: &str) -> Options {
    let under = |name: &str| format!("{prefix}{name}");
    Options {
        leader_key: under("leader"),
        nodes_prefix: under("nodes/"),
        shards_prefix: under("shards/"),
        config_key: under("config"),
        ..node(id)
    }
}

fn start(world: &World, prefix: &str, ids: &[&str]) -> Vec<Process> {
    ids.iter().map(|id| world.start(of(prefix, id))).collect()
}

fn check(nodes: &[Process], ids: &[&str], what: &str) {
    for node in nodes {
        assert_eq!(node.why().map(|why| why.to_string()), None, "{what}");
        let snapshot = node.cluster.snapshot();
        let live: Vec<_> = snapshot.live().map(|node| node.record.id.as_str()).collect();
        assert_eq!(live, ids, "{what}");
    }
    assert_eq!(leaders(nodes).len(), 1, "{what}");
}

const PAIRS: [[&str; 2]; 3] =
    [["prod/eu/", "prod-eu/"], ["prod-eu/", "prod/eu/"], ["a/b/c/", "a-b/c/"]];

#[test]
fn two_clusters_of_one_service_name_work_side_by_side() {
    for [one, other] in PAIRS {
        let what = format!("{one} and {other}");
        let world = World::new();
        let first = start(&world, one, &["n1", "n2"]);
        world.wait(Duration::from_secs(8));
        let second = start(&world, other, &["m1", "m2"]);
        world.wait(Duration::from_secs(10));
        check(&first, &["n1", "n2"], &what);
        check(&second, &["m1", "m2"], &what);
        for (nodes, theirs) in [(&first, other), (&second, one)] {
            let shown = &nodes[0].cluster.snapshot();
            let shown: Vec<_> = shown.other_clusters().collect();
            assert_eq!(shown, [format!("{theirs}nodes/")], "{what}");
        }
        // Of a cluster that ends, nothing is left in the other.
        second.iter().for_each(|node| world.stop(node));
        world.wait(Duration::from_secs(5));
        assert_eq!(first[0].cluster.snapshot().other_clusters().count(), 0, "{what}");
        check(&first, &["n1", "n2"], &what);
    }
}

/// Pairs of nodes of two clusters whose instances have one id.
fn pairs() -> Vec<(Options, Options)> {
    let cases = PAIRS.map(|[one, other]| (of(one, "n1"), of(other, "n1")));
    let nested = |prefix: &str, id| Options { nodes_prefix: prefix.to_owned(), ..of("z/", id) };
    let own = |options: Options| Options {
        leader_key: "y/leader".to_owned(),
        shards_prefix: "y/shards/".to_owned(),
        config_key: "y/config".to_owned(),
        ..options
    };
    let nested = [
        (nested("a/nodes/", "x-y"), own(nested("a/nodes/x/", "y"))),
        (nested("a/nodes/x/", "y"), own(nested("a/nodes/", "x-y"))),
    ];
    // The agent has two instances of these, and the catalog one.
    let by_case = [
        (of("prod/", "n1"), of("Prod/", "n1")),
        (of("Prod/", "n1"), of("prod/", "n1")),
        (of("a/b/", "n1"), of("A-b/", "N1")),
        (of("a/", "n1"), of("a/", "N1")),
        (of("a/", "N1"), of("a/", "n1")),
    ];
    cases.into_iter().chain(nested).chain(by_case).collect()
}

/// Whose node has the id, as the error tells a node of the other options.
fn whose(options: &Options, other: &Options) -> String {
    match options.nodes_prefix == other.nodes_prefix {
        true => "this cluster".to_owned(),
        false => format!("nodes_prefix {:?}", options.nodes_prefix),
    }
}

/// The same id of an instance at one agent, also when the names of the services differ, or the case of letters.
#[test]
fn a_node_whose_instance_is_that_of_another_cluster_is_refused_and_names_it() {
    for (first, second) in pairs() {
        let what = format!("{} and {}", first.nodes_prefix, second.nodes_prefix);
        let folded = [&first, &second].map(|it| it.service_id().to_lowercase());
        assert_eq!(folded[0], folded[1], "{what}");
        let world = World::new();
        let (whose, id) = (whose(&first, &second), first.node_id.clone());
        let lives = [world.start(first)];
        world.wait(Duration::from_secs(8));
        for _ in 0..2 {
            let refused = world.start(second.clone());
            world.wait(Duration::from_secs(10));
            let why = refused.why().unwrap_or_else(|| panic!("{what}: it was let in"));
            assert_eq!(why.kind(), Kind::Conflict, "{what}");
            assert!(why.message().contains(&whose), "{what}: {why}");
            check(&lives, &[&id], &what);
        }
        // The id is free once that node is gone, however it ended.
        world.kill(&lives[0]);
        world.wait(Duration::from_secs(10));
        let id = second.node_id.clone();
        let (begun, later) = (world.clock.now(), [world.start(second)]);
        world.run(later[0].cluster.started()).expect("the other one is dead");
        let took = world.clock.now() - begun;
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
        world.wait(Duration::from_secs(10));
        check(&later, &[&id], &what);
    }
}

/// As when a machine boots: neither finds the other when it looks before it registers.
#[test]
#[ignore = "computes long: make test-all"]
fn of_two_clusters_that_start_at_the_same_moment_one_keeps_the_id() {
    for (first, second) in pairs() {
        for later_ms in [0, 1, 10, 100, 300, 1000] {
            let what =
                format!("{} and {}, {later_ms} ms later", first.nodes_prefix, second.nodes_prefix);
            let world = World::new();
            let one = world.start(first.clone());
            world.wait(Duration::from_millis(later_ms));
            let other = world.start(second.clone());
            world.wait(Duration::from_secs(20));
            let (ended, stays): (Vec<_>, Vec<_>) =
                [one, other].into_iter().partition(|process| process.why().is_some());
            assert_eq!((ended.len(), stays.len()), (1, 1), "{what}");
            let why = ended[0].why().expect("it has ended");
            assert_eq!(why.kind(), Kind::Conflict, "{what}");
            let (stay, other) = (stays[0].cluster.options(), ended[0].cluster.options());
            assert!(why.message().contains(&whose(stay, other)), "{what}: {why}");
            let id = stay.node_id.clone();
            check(&stays, &[&id], &what);
            // It does so for good.
            world.wait(Duration::from_secs(120));
            check(&stays, &[&id], &what);
        }
    }
}

/// Another program's service, which no node can end, has the id of the node's instance, or the same for Consul.
#[test]
fn a_program_that_registers_the_id_of_a_node_is_named_and_the_node_outlives_it() {
    for id in ["prod-nodes-n1", "Prod-nodes-n1", "PROD-NODES-N1"] {
        let world = World::new();
        logged(Level::WARN, Arc::new(world.clock.clone()), |lines| {
            let nodes = start(&world, "prod/", &["n1"]);
            world.wait(Duration::from_secs(8));
            for time in 0..60 {
                // An agent writes only what has changed to the catalog.
                let tags = [time.to_string()];
                let body = serde_json::json!({ "ID": id, "Name": "web", "Tags": tags });
                world.send("PUT", "/v1/agent/service/register", &body.to_string());
                world.wait(Duration::from_millis(500));
            }
            assert_eq!(nodes[0].why().map(|why| why.to_string()), None, "{id}");
            assert!(lines.count("the service \"web\"") > 0, "{id}: {}", lines.text());
            let told = lines.count("does not list the instance of this node");
            assert_eq!(told, 1, "{id}: {}", lines.text());
            if id != "prod-nodes-n1" {
                world.send("PUT", &format!("/v1/agent/service/deregister/{id}"), "");
            }
            world.wait(Duration::from_secs(20));
            check(&nodes, &["n1"], id);
        });
    }
}

/// Instances of a release that does not mark them are nodes of the cluster, as before.
#[test]
fn a_cluster_goes_on_with_nodes_that_do_not_tell_their_cluster() {
    let world = World::new();
    let nodes = start(&world, "prod/eu/", &["n1", "n2", "n3"]);
    world.wait(Duration::from_secs(8));
    for id in ["n1", "n2"] {
        let path = format!("/v1/agent/service/prod-eu-nodes-{id}");
        let service = world.get(&path).expect("an instance");
        let service: serde_json::Value = serde_json::from_str(&service).expect("JSON");
        let incarnation = &service["Meta"]["incarnation"];
        let body = serde_json::json!({
            "ID": service["ID"], "Name": service["Service"], "Meta": { "incarnation": incarnation },
        });
        world.send("PUT", "/v1/agent/service/register", &body.to_string());
    }
    world.wait(Duration::from_secs(10));
    check(&nodes, &["n1", "n2", "n3"], "without marks");
    // One of them is upgraded.
    world.stop(&nodes[0]);
    let again = start(&world, "prod/eu/", &["n1"]);
    world.wait(Duration::from_secs(10));
    assert_eq!(again[0].why().map(|why| why.to_string()), None);
    assert_eq!(again[0].cluster.snapshot().live().count(), 3);
}
