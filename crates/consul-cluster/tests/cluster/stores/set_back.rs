//! Consul goes back to an older state while all nodes are away. Nodes keep the entry of a shard before they use it, and
//! the map only seconds later, so that all maps on the disks may be older than the entries.

use super::*;
use consul_cluster::Mode;
use consul_cluster::stores::leave;
use consul_sim::Backup;

impl Cases {
    fn map_on(&self, disk: &Disk) -> Bytes {
        self.world.run(disk.kept("map")).expect("memory").expect("a map")
    }
}

/// Moves to `n4` are planned, Consul is backed up, the moves end. Without `n1` some shards are written that `n4` and one
/// other node hold alone. Then all die, and Consul goes back.
fn after_a_move(restart: impl Fn(&Cases, &[Process]) -> Vec<Process>) {
    let (cases, mut nodes) = Cases::filled(3);
    nodes.push(cases.start("n4", &Disk::new()));
    cases.wait_until(30, || nodes[0].store.status().iter().any(|it| !it.targets.is_empty()));
    let backup = cases.world.agent.back_up();
    let maps: Vec<Bytes> = nodes[..3].iter().map(|it| cases.map_on(&it.disk)).collect();
    cases.wait_until(60, || nodes[0].is_settled(3) && nodes[0].holders().contains("n4"));
    cases.kill(&nodes[0]);
    cases.fill(&nodes[1], "late");
    nodes.iter().for_each(|node| cases.kill(node));
    cases.world.agent.restore_snapshot(&backup);
    cases.world.run(async {
        for (node, map) in nodes.iter().zip(maps) {
            node.disk.keep("map", map).await.expect("memory");
        }
    });
    let back = restart(&cases, &nodes);
    cases.world.run(back[3].store.ready()).expect("a map");
    cases.wait_until(120, || back[3].is_settled(3));
    for node in &back {
        cases.has(node, "late");
        cases.has(node, "before");
    }
}

#[test]
fn nothing_is_lost_if_all_come_back() {
    after_a_move(|cases, nodes| {
        let start = |(number, node): (usize, &Process)| {
            cases.start(&format!("n{}", number + 1), &node.disk)
        };
        nodes.iter().enumerate().map(start).collect()
    });
}

#[test]
fn nothing_is_lost_with_a_disk_of_another_holder() {
    for lost in [1, 2] {
        after_a_move(|cases, nodes| {
            let start = |(number, node): (usize, &Process)| {
                let disk = if number == lost { Disk::new() } else { Arc::clone(&node.disk) };
                cases.start(&format!("n{}", number + 1), &disk)
            };
            nodes.iter().enumerate().map(start).collect()
        });
    }
}

/// `n3` drains, and no other node can take its replicas. Consul loses its data, or what was written since a backup: until
/// nodes put the map back, its maps name nobody.
fn while_a_node_leaves(lose: impl Fn(&Cases, &Backup)) {
    let cases = Cases::new();
    let backup = cases.world.agent.back_up();
    let nodes = cases.nodes(3);
    cases.fill(&nodes[0], "before");
    cases.world.run(nodes[0].cluster.ask_leave(None, "n3")).expect("a node");
    for _ in 0..10 {
        cases.world.wait(Duration::from_millis(20_300));
        lose(&cases, &backup);
        cases.wait_until(60, || {
            let snapshot = nodes[0].cluster.snapshot();
            snapshot.leader.is_some()
                && ["n1", "n2", "n3"].iter().all(|it| snapshot.nodes.contains_key(*it))
        });
    }
    let is_live = || nodes[0].cluster.snapshot().nodes.get("n3").is_some_and(|it| it.is_live);
    assert!(is_live(), "it has stopped with its replicas");
    let _fourth = cases.start("n4", &Disk::new());
    cases.wait_until(120, || !is_live());
    cases.has(&nodes[0], "before");
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_node_that_leaves_stays_when_consul_loses_its_data() {
    while_a_node_leaves(|cases, _| cases.world.agent.restart(Retained::Nothing));
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_node_that_leaves_stays_when_consul_goes_back_before_the_first_map() {
    while_a_node_leaves(|cases, backup| cases.world.agent.restore_snapshot(backup));
}

/// Only its entries are newer than Consul's map, which does not name it.
#[test]
fn a_node_whose_disk_knows_that_consul_went_back_does_not_leave() {
    let (cases, nodes) = Cases::filled(3);
    cases.world.wait(Duration::from_secs(10));
    let (backup, map) = (cases.world.agent.back_up(), cases.map_on(&nodes[0].disk));
    let fourth = cases.start("n4", &Disk::new());
    cases.wait_until(60, || fourth.is_settled(3) && fourth.holders().contains("n4"));
    nodes.iter().chain([&fourth]).for_each(|node| cases.kill(node));
    cases.world.agent.restore_snapshot(&backup);
    cases.world.run(fourth.disk.keep("map", map)).expect("memory");
    let back = cases.start("n4", &fourth.disk);
    for _ in 0..300 {
        cases.world.wait(Duration::from_millis(100));
        assert!(!cases.world.run(leave::holds_none(&back.cluster)).expect("Consul answers"));
    }
}

/// Before enough nodes of a shard are back, the new leader cannot know whether Consul went back.
#[test]
fn a_leader_that_has_just_started_changes_a_shard_when_enough_of_its_nodes_are_back() {
    let (cases, nodes) = Cases::filled(3);
    nodes.iter().for_each(|node| cases.kill(node));
    cases.world.wait(Duration::from_secs(30));
    let first = cases.start("n1", &nodes[0].disk);
    let others = ["n4", "n5"].map(|id| cases.start(id, &Disk::new()));
    cases.world.run(others[0].store.ready()).expect("a map");
    cases.world.run(first.cluster.set_mode("n1", Mode::Draining)).expect("the right to do so");
    let epochs = || first.store.status().iter().map(|it| it.epoch).collect::<Vec<_>>();
    let before = epochs();
    cases.world.wait(Duration::from_secs(25));
    assert_eq!(epochs(), before, "n2 and n3 have not said what they know");
    let _back = [1, 2].map(|it: usize| cases.start(&format!("n{}", it + 1), &nodes[it].disk));
    cases.wait_until(20, || !first.holders().contains("n1"));
    // The gap leaves room for the maps that Consul may have lost.
    assert!(epochs().iter().all(|epoch| *epoch > before.iter().max().expect("shards") + 1000));
    cases.has(&others[0], "before");
}
