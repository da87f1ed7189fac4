//! Nodes that leave, one after the other.

use super::*;
use consul_cluster::Mode;

/// The next leader knows nothing of its own about the node that has left.
#[test]
fn a_node_leaves_after_another_one_and_a_new_process_of_the_leader() {
    let cases = Cases::new();
    let start = |n: usize, disk: &Arc<Disk>| {
        // A leader is young for so long that nothing is decided by its age.
        let replace_after = Duration::from_secs(1 << 20);
        let forget_after = Duration::from_secs(1 << 21);
        let options = Options { replace_after, forget_after, ..Cases::options(&format!("n{n}")) };
        let store = StoreOptions::new("points", &options);
        cases.start_with(options, store, disk)
    };
    let mut nodes: Vec<Process> = (1..=5).map(|n| start(n, &Disk::new())).collect();
    cases.wait_until(30, || nodes.iter().all(|it| it.is_settled(3)));
    cases.fill(&nodes[0], "before");
    let begun = cases.world.clock.now();
    let leader = nodes.iter().position(|it| it.cluster.is_leader()).expect("a leader");
    let others: Vec<usize> = (0..5).filter(|it| *it != leader).collect();
    let leave = |nodes: &[Process], number: usize, at: usize| {
        let id = nodes[number].cluster.options().node_id.clone();
        let is_there =
            || nodes[at].cluster.snapshot().nodes.get(&id).is_some_and(|node| node.is_live);
        cases.world.run(nodes[at].cluster.ask_leave(None, &id)).expect("a node");
        cases.wait_until(60, || !is_there());
        cases.kill(&nodes[number]);
    };
    leave(&nodes, others[0], others[2]);
    cases.kill(&nodes[leader]);
    nodes[leader] = start(leader + 1, &nodes[leader].disk);
    leave(&nodes, others[1], others[2]);
    let took = cases.world.clock.now() - begun;
    assert!(took < Duration::from_secs(60), "{took:?}");
    let stay = &nodes[others[2]];
    cases.wait_until(60, || stay.is_settled(3) && stay.holders().len() == 3);
    cases.has(stay, "before");
}

/// The moves of a drain wait for the replicas of the node that died, whose places only their targets can get.
#[test]
fn a_node_that_dies_is_replaced_although_another_one_was_about_to_be_drained() {
    for (count, is_drained) in [(4, false), (5, false), (5, true)] {
        let (cases, nodes) = Cases::filled(count);
        cases.wait_until(60, || nodes[0].is_settled(3) && nodes[0].holders().len() == count);
        cases.kill(&nodes[0]);
        let mode = |mode| {
            cases.world.run(nodes[1].cluster.set_mode("n4", mode)).expect("the right to do so");
        };
        mode(Mode::Draining);
        cases.world.wait(Duration::from_secs(30));
        if !is_drained {
            mode(Mode::Active);
        }
        cases.wait_until(400, || {
            let held = nodes[1].holders();
            nodes[1].is_settled(3) && !held.contains("n1") && !(is_drained && held.contains("n4"))
        });
        cases.has(&nodes[1], "before");
    }
}
