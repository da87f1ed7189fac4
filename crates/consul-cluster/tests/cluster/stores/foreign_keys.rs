//! Nodes that were started with another `cluster_key`, or another list of keys.

use super::*;
use crate::support::lines::logged;
use consul_cluster::Mode;
use tracing::Level;

const FOREIGN: &[&str] = &["another"];

impl Cases {
    /// With which keys a node is started from now on.
    fn give_keys(&self, node: &str, keys: &'static [&'static str]) {
        self.network.keys.lock().expect("no panic").insert(node.into(), keys);
    }

    fn restart(&self, process: &Process, keys: &'static [&'static str]) -> Process {
        let id = process.cluster.options().node_id.clone();
        self.kill(process);
        self.give_keys(&id, keys);
        self.start(&id, &process.disk)
    }

    /// Lets a node become the leader.
    fn lead(&self, nodes: &[Process], to: usize) {
        let to = &nodes[to].cluster;
        let asked = to.ask_hand_over(None, Some(&to.options().node_id));
        self.world.run(asked).expect("a leader");
        self.wait_until(60, || to.is_leader());
    }
}

fn epochs(node: &Process) -> Vec<u64> {
    node.store.status().iter().map(|it| it.epoch).collect()
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_node_of_another_key_gets_no_replicas_before_it_has_that_of_the_others() {
    let (cases, nodes) = Cases::filled(3);
    logged(Level::WARN, Arc::new(cases.world.clock.clone()), |lines| {
        cases.give_keys("n4", FOREIGN);
        let foreign = cases.start("n4", &Disk::new());
        for _ in 0..60 {
            cases.world.wait(Duration::from_secs(2));
            assert!(nodes[0].is_settled(3), "{:?}", nodes[0].store.status());
        }
        assert_eq!(nodes[0].holders(), set(&["n1", "n2", "n3"]));
        let text = lines.text();
        let told = text.lines().filter(|it| it.contains("refuse each other's cluster_key"));
        assert_eq!(told.count(), 1, "{text}");
        let _right = cases.restart(&foreign, &["the cluster's"]);
        cases.wait_until(60, || nodes[0].holders().contains("n4") && nodes[0].is_settled(3));
        cases.has(&nodes[2], "before");
    });
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_holder_that_comes_back_with_another_key_is_replaced_like_one_that_is_away() {
    let (cases, mut nodes) = Cases::filled(4);
    cases.world.wait(Duration::from_secs(70));
    let wrong = (0..4).find(|it| !nodes[*it].cluster.is_leader()).expect("a follower");
    let id = nodes[wrong].cluster.options().node_id.clone();
    let other = &nodes[(wrong + 1) % 4];
    let before = epochs(other);
    let foreign = cases.restart(&nodes[wrong], FOREIGN);
    cases.world.wait(Duration::from_secs(40));
    assert_eq!(epochs(other), before, "it may still get the right key");
    cases.fill(other, "meanwhile");
    cases.wait_until(60, || !other.holders().contains(&id) && other.is_settled(3));
    nodes[wrong] = cases.restart(&foreign, &["the cluster's"]);
    cases.wait_until(90, || nodes[wrong].holders().contains(&id) && nodes[wrong].is_settled(3));
    cases.has(&nodes[wrong], "before");
    cases.has(&nodes[wrong], "meanwhile");
}

/// While all is quiet the leader does not plan, and a check of the key is not a report.
#[test]
#[ignore = "computes long: make test-all"]
fn a_holder_with_another_key_whose_key_cannot_be_checked_at_first_is_replaced_too() {
    let (cases, nodes) = Cases::filled(4);
    cases.world.wait(Duration::from_secs(70));
    let wrong = (0..4).find(|it| !nodes[*it].cluster.is_leader()).expect("a follower");
    let id: NodeId = nodes[wrong].cluster.options().node_id.as_str().into();
    let other = &nodes[(wrong + 1) % 4];
    let foreign = cases.restart(&nodes[wrong], FOREIGN);
    cases.network.stores.lock().expect("no panic").remove(&id);
    cases.world.wait(Duration::from_secs(30));
    cases.network.stores.lock().expect("no panic").insert(id.clone(), Arc::clone(&foreign.store));
    cases.wait_until(120, || !other.holders().contains(&*id) && other.is_settled(3));
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_leader_of_another_key_leaves_the_replicas_where_they_are() {
    let (cases, mut nodes) = Cases::filled(4);
    nodes[0] = cases.restart(&nodes[0], FOREIGN);
    cases.world.wait(Duration::from_secs(20));
    cases.lead(&nodes, 0);
    // It would have to copy what is moved, and nobody answers it.
    let set_mode = |mode| cases.world.run(nodes[0].cluster.set_mode("n3", mode));
    set_mode(Mode::Draining).expect("the right to do so");
    let before = epochs(&nodes[1]);
    // Longer than `replace_after`.
    for _ in 0..60 {
        cases.world.wait(Duration::from_secs(2));
        assert!(nodes[0].cluster.is_leader());
        assert_eq!(epochs(&nodes[1]), before);
    }
    cases.fill(&nodes[1], "meanwhile");
    set_mode(Mode::Active).expect("the right to do so");
    cases.lead(&nodes, 1);
    cases.wait_until(120, || !nodes[1].holders().contains("n1") && nodes[1].is_settled(3));
    cases.has(&nodes[2], "before");
    cases.has(&nodes[2], "meanwhile");
}

#[test]
fn the_first_map_is_made_without_a_node_of_another_key() {
    let cases = Cases::new();
    cases.give_keys("n2", FOREIGN);
    let nodes = cases.nodes(4);
    cases.wait_until(30, || nodes[0].is_settled(3));
    assert_eq!(nodes[0].holders(), set(&["n1", "n3", "n4"]));
}

/// Nobody can tell which half has the right one.
#[test]
fn no_first_map_is_made_while_half_of_the_nodes_have_another_key() {
    let cases = Cases::new();
    ["n1", "n2"].iter().for_each(|id| cases.give_keys(id, FOREIGN));
    let nodes: Vec<Process> =
        (1..=4).map(|n| cases.start(&format!("n{n}"), &Disk::new())).collect();
    let says = |it: &Process| it.store.waits_for().is_some_and(|why| why.contains("cluster_key"));
    cases.wait_until(60, || nodes.iter().all(says));
    cases.world.wait(Duration::from_secs(60));
    assert!(nodes.iter().all(|node| node.store.status().is_empty()));
    let _right = [0, 1].map(|it: usize| cases.restart(&nodes[it], &["the cluster's"]));
    cases.wait_until(120, || nodes[2].is_settled(3));
    cases.fill(&nodes[2], "after");
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_rotation_of_the_key_moves_nothing() {
    const OLD: &[&str] = &["the cluster's"];
    const BOTH: &[&str] = &["the cluster's", "new"];
    const NEW: &[&str] = &["new"];
    let (cases, mut nodes) = Cases::filled(4);
    cases.world.wait(Duration::from_secs(70));
    let places = |nodes: &[Process]| {
        let status = nodes[0].store.status().into_iter();
        status.map(|it| (it.holders, it.targets)).collect::<Vec<_>>()
    };
    let before = places(&nodes);
    for (old, new) in [(OLD, BOTH), (BOTH, NEW)] {
        for number in 0..4 {
            cases.give_keys(&format!("n{}", number + 1), old);
            nodes[number] = cases.restart(&nodes[number], new);
            cases.world.run(nodes[number].store.ready()).expect("a map");
            // Longer than `replace_after`, with some nodes before the step and some after it.
            for _ in 0..40 {
                cases.world.wait(Duration::from_secs(2));
                assert_eq!(places(&nodes[..1]), before);
            }
        }
    }
    cases.has(&nodes[3], "before");
}
