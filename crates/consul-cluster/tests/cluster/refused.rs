//! A leader to whom Consul refuses what a leader writes, on the simulated agent and a clock that the test moves.

use crate::nodes::{Process, leaders, node, owners};
use crate::support::lines::{Lines, logged};
use crate::support::world::World;
use consul_cluster::Options;
use std::sync::Arc;
use std::time::Duration;
use tracing::Level;

const ALL: &str = r#"key_prefix "" { policy = "write" } session_prefix "" { policy = "write" }
    service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }"#;

const REFUSED: &str = "a leader's write is refused";

/// A write that a leader has to make: the rule that refuses it, and what makes it due.
struct Write {
    what: &'static str,
    refused: &'static str,
    cause: fn(&Scene),
}

const WRITES: &[Write] = &[
    Write {
        what: "tsdb/cluster/shards/map",
        refused: r#"key "tsdb/cluster/shards/map" { policy = "read" }"#,
        cause: |scene| scene.world.stop(scene.others()[2]),
    },
    Write {
        what: "tsdb/cluster/shards/epoch",
        refused: r#"key "tsdb/cluster/shards/epoch" { policy = "read" }"#,
        cause: |scene| scene.others()[1..].iter().for_each(|node| scene.world.kill(node)),
    },
    Write {
        what: "tsdb/cluster/nodes/",
        refused: r#"key_prefix "tsdb/cluster/nodes/" { policy = "read" }"#,
        cause: |scene| scene.world.kill(scene.others()[2]),
    },
    Write {
        what: "tsdb/cluster/config",
        refused: r#"key "tsdb/cluster/config" { policy = "read" }"#,
        cause: |scene| {
            let path = format!("/v1/kv/tsdb/cluster/config?token={}", scene.management);
            scene.world.send("PUT", &path, "{}");
        },
    },
];

/// Nodes, each with a token of its own.
struct Scene {
    world: World,
    management: &'static str,
    nodes: Vec<Process>,
}

impl Scene {
    fn new(nodes: usize) -> Self {
        let (world, management) = World::with_acl();
        let start = |number: usize| {
            let client = world.client_with_rules(management, ALL);
            let forget_after = Duration::from_secs(40);
            let replace_after = Duration::from_secs(30);
            let options =
                Options { shards: 16, replace_after, forget_after, ..node(&format!("n{number}")) };
            world.start_with(client, options)
        };
        let nodes: Vec<Process> = (1..=nodes).map(start).collect();
        world.wait(Duration::from_secs(10));
        let scene = Scene { world, management, nodes };
        assert_eq!(leaders(&scene.nodes).len(), 1);
        scene
    }

    fn leader(&self) -> &Process {
        leaders(&self.nodes)[0]
    }

    /// The nodes that do not lead, at the beginning.
    fn others(&self) -> Vec<&Process> {
        self.nodes.iter().filter(|node| !node.cluster.is_leader()).collect()
    }

    /// Gives the token of a node these rules.
    fn set_rules(&self, node: &Process, rules: &str) {
        let place = self.nodes.iter().position(|it| Arc::ptr_eq(&it.cluster, &node.cluster));
        // Each has a client that made its token and one of its own.
        let name = format!("rules-{}", place.expect("a node") * 2 + 1);
        let path = |of: &str| format!("/v1/acl/policy/{of}?token={}", self.management);
        let policy = self.world.get(&path(&format!("name/{name}"))).expect("a policy");
        let policy: serde_json::Value = serde_json::from_str(&policy).expect("a policy");
        let body = serde_json::json!({ "Name": name, "Rules": rules }).to_string();
        self.world.send("PUT", &path(policy["ID"].as_str().expect("an id")), &body);
    }
}

fn logs(scene: &Scene, work: impl FnOnce(&Lines)) {
    logged(Level::WARN, Arc::new(scene.world.clock.clone()), work);
}

/// Why a node may not lead, as another node sees it.
fn seen(by: &Process, node: &Process) -> Option<String> {
    let snapshot = by.cluster.snapshot();
    snapshot.nodes.get(&node.cluster.options().node_id)?.record.cannot_lead.clone()
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_leader_that_may_not_do_its_work_says_so_and_hands_over() {
    for Write { what, refused, cause } in WRITES {
        let scene = Scene::new(4);
        logs(&scene, |lines| {
            let first = scene.leader();
            scene.set_rules(first, &format!("{ALL} {refused}"));
            let next = scene.others()[0];
            cause(&scene);
            let mut refused_for = Duration::ZERO;
            for _ in 0..700 {
                scene.world.wait(Duration::from_millis(100));
                if lines.count(REFUSED) > 0 {
                    refused_for += Duration::from_millis(100);
                }
                if refused_for == Duration::from_secs(5) {
                    let shown = first.cluster.snapshot().cannot_lead.clone().expect(what);
                    assert!(shown.contains("key:write") && shown.contains(what), "{shown}");
                    if *what != "tsdb/cluster/nodes/" {
                        assert_eq!(seen(next, first), Some(shown), "{what}");
                    }
                }
            }
            assert!(refused_for > Duration::from_secs(5), "{what}: {}", lines.text());
            assert_eq!(lines.count(REFUSED), 1, "{what}: {}", lines.text());
            assert!(lines.text().contains("key:write"), "{what}: {}", lines.text());
            assert_eq!(leaders(&scene.nodes).len(), 1, "{what}");
            assert!(!first.cluster.is_leader(), "{what}: {}", lines.text());
            scene.set_rules(first, ALL);
            scene.world.wait(Duration::from_secs(60));
            assert_eq!((seen(next, first), &first.cluster.snapshot().cannot_lead), (None, &None));
        });
    }
}

#[test]
fn a_lone_node_that_may_not_do_a_leaders_work_leads_and_says_so() {
    let scene = Scene::new(1);
    logs(&scene, |lines| {
        let lone = scene.leader();
        let token = lone.cluster.lease().expect("it leads").token();
        for refusals in 1..=2 {
            scene.set_rules(lone, &format!("{ALL} {}", WRITES[3].refused));
            (WRITES[3].cause)(&scene);
            scene.world.wait(Duration::from_secs(60));
            assert_eq!(lines.count(REFUSED), refusals, "{}", lines.text());
            assert!(lone.cluster.is_leader() && lone.cluster.snapshot().cannot_lead.is_some());
            scene.set_rules(lone, ALL);
            scene.world.wait(Duration::from_secs(10));
            assert_eq!(lone.cluster.snapshot().cannot_lead, None);
        }
        assert_eq!(lone.cluster.lease().expect("it leads").token(), token);
    });
}

#[test]
#[ignore = "computes long: make test-all"]
fn nodes_that_all_lack_a_leaders_right_do_not_take_turns() {
    let scene = Scene::new(4);
    for node in &scene.nodes {
        scene.set_rules(node, &format!("{ALL} {}", WRITES[0].refused));
    }
    scene.world.stop(scene.others()[2]);
    let (mut terms, mut last, mut without) = (0, 0, 0);
    for _ in 0..660 {
        scene.world.wait(Duration::from_secs(1));
        let leading = leaders(&scene.nodes);
        let token = leading.first().and_then(|node| node.cluster.lease()).map(|it| it.token());
        without += u32::from(token.is_none());
        if let Some(token) = token.filter(|token| *token != last) {
            (terms, last) = (terms + 1, token);
        }
    }
    assert!(terms <= 4, "{terms} terms in 11 minutes");
    assert!(without <= 30, "{without} seconds without a leader");
    scene.nodes.iter().for_each(|node| scene.set_rules(node, ALL));
    scene.world.wait(Duration::from_secs(60));
    assert_eq!((leaders(&scene.nodes).len(), owners(scene.leader()).len()), (1, 3));
}

#[test]
fn a_lone_node_hands_over_to_nobody() {
    let world = World::new();
    let nodes = world.nodes(1);
    world.wait(Duration::from_secs(5));
    let token = nodes[0].cluster.lease().expect("it leads").token();
    nodes[0].cluster.hand_over();
    for _ in 0..100 {
        world.wait(Duration::from_millis(100));
        assert_eq!(nodes[0].cluster.lease().map(|lease| lease.token()), Some(token));
    }
    // It does so when there is another one.
    let other = world.node("n2");
    world.wait(Duration::from_secs(5));
    assert!(nodes[0].cluster.is_leader());
    nodes[0].cluster.hand_over();
    world.wait(Duration::from_secs(5));
    assert!(other.cluster.is_leader());
}

/// The agent of a node whose token was narrowed reports its beats all the same.
#[test]
fn a_node_that_may_not_write_its_key_keeps_its_name() {
    let scene = Scene::new(2);
    let first = &scene.nodes[0];
    scene.set_rules(first, &format!(r#"{ALL} key "tsdb/cluster/nodes/n1" {{ policy = "read" }}"#));
    let client = scene.world.client_with_rules(scene.management, ALL);
    let second = scene.world.start_with(client, Options { shards: 16, ..node("n1") });
    scene.world.wait(Duration::from_secs(30));
    let why = second.why().expect("it is refused").to_string();
    assert!(why.contains("is taken"), "{why}");
    scene.set_rules(first, ALL);
    scene.world.wait(Duration::from_secs(15));
    assert_eq!(leaders(&scene.nodes).len(), 1);
    for node in &scene.nodes {
        assert_eq!(node.why().map(|why| why.to_string()), None);
        assert_eq!(node.cluster.snapshot().live().count(), 2);
    }
}

#[test]
fn a_leader_leads_on_although_it_may_not_write_lost_weights_again() {
    const KEY: &str = "tsdb/cluster/nodes/all/weights";
    let scene = Scene::new(3);
    for node in &scene.nodes {
        scene.set_rules(node, &format!(r#"{ALL} key "{KEY}" {{ policy = "read" }}"#));
    }
    let path = format!("/v1/kv/{KEY}?token={}", scene.management);
    scene.world.send("PUT", &path, r#"{"n3":0.5}"#);
    scene.world.wait(Duration::from_secs(30));
    let id = scene.leader().cluster.options().node_id.clone();
    logs(&scene, |lines| {
        scene.world.send("DELETE", &path, "");
        for _ in 0..90 {
            scene.world.wait(Duration::from_secs(1));
            assert_eq!(scene.leader().cluster.options().node_id, id, "{}", lines.text());
            assert_eq!(seen(&scene.nodes[0], scene.leader()), None);
            let weight = scene.nodes[0].cluster.snapshot().nodes["n3"].record.weight;
            assert_eq!(weight, 0.5, "it counts as before");
        }
        assert_eq!(lines.count(REFUSED), 0, "{}", lines.text());
    });
}
