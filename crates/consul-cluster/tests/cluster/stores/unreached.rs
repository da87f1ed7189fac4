//! Nodes that live by their sessions, and whose data addresses others cannot reach.

use super::*;
use consul_cluster::Mode;

impl Cases {
    fn cut(&self, node: &str, callers: Option<Callers>) {
        let mut cut = self.network.cut.lock().expect("no panic elsewhere");
        match callers {
            Some(callers) => _ = cut.insert(node.into(), callers),
            None => _ = cut.remove(node),
        }
    }

    /// Who leads, which is known.
    fn leader(&self, nodes: &[Process]) -> NodeId {
        let leader = || nodes[0].cluster.snapshot().leader.clone();
        self.wait_until(30, || leader().is_some());
        leader().expect("a leader").node_id.as_str().into()
    }
}

/// The shards whose replica a node has or gets.
fn shards(of: &str, by: &Process) -> BTreeSet<u32> {
    let has = |it: &&ShardStatus| {
        it.holders.iter().any(|node| &**node == of) || it.targets.iter().any(|it| &*it.0 == of)
    };
    by.store.status().iter().filter(has).map(|it| it.shard).collect()
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_node_that_comes_and_cannot_be_reached_gets_no_replicas() {
    for (flaps, by_leader_only) in [(false, false), (false, true), (true, false), (true, true)] {
        let (cases, nodes) = Cases::filled(3);
        let leader = cases.leader(&nodes);
        let callers = || match by_leader_only {
            true => Callers::One(leader.clone()),
            false => Callers::All,
        };
        cases.cut("n4", Some(callers()));
        let _fourth = cases.start("n4", &Disk::new());
        for turn in 0..60 {
            cases.world.wait(Duration::from_secs(1));
            // It can be reached for a moment, but not by two checks.
            cases.cut("n4", (!flaps || turn % 7 != 0).then(callers));
            assert_eq!(shards("n4", &nodes[0]), BTreeSet::new(), "{turn} s, {flaps}");
        }
        assert!(nodes[0].is_settled(3));
        cases.cut("n4", None);
        cases.wait_until(120, || !shards("n4", &nodes[0]).is_empty() && nodes[0].is_settled(3));
        cases.has(&nodes[0], "before");
    }
}

#[test]
fn a_node_that_could_never_be_reached_is_not_in_the_first_map() {
    let cases = Cases::new();
    cases.cut("n4", Some(Callers::All));
    let nodes = cases.nodes(5);
    cases.wait_until(60, || nodes[0].is_settled(3));
    assert_eq!(shards("n4", &nodes[0]), BTreeSet::new());
}

#[test]
fn a_node_that_cannot_be_reached_any_more_keeps_its_replicas_and_gets_no_others() {
    let (cases, nodes) = Cases::filled(5);
    let leader = cases.leader(&nodes);
    let cut = nodes.iter().position(|it| it.cluster.options().node_id != *leader).expect("one");
    let drained = nodes.iter().rposition(|it| it.cluster.options().node_id != *leader);
    let [cut_id, drained_id] =
        [cut, drained.expect("one")].map(|it| nodes[it].cluster.options().node_id.clone());
    cases.cut(&cut_id, Some(Callers::All));
    cases.world.wait(Duration::from_secs(40));
    let by = nodes.iter().position(|it| it.cluster.options().node_id == *leader).expect("it");
    let before = shards(&cut_id, &nodes[by]);
    assert!(!before.is_empty(), "it keeps what it has");
    let drain = nodes[by].cluster.set_mode(&drained_id, Mode::Draining);
    cases.world.run(drain).expect("the right to do so");
    for _ in 0..120 {
        cases.world.wait(Duration::from_millis(500));
        let now = shards(&cut_id, &nodes[by]);
        assert!(now.is_subset(&before), "{now:?} after {before:?}");
    }
    assert_eq!(shards(&cut_id, &nodes[by]), before, "it keeps what it has");
    cases.cut(&cut_id, None);
    cases.wait_until(180, || shards(&drained_id, &nodes[by]).is_empty());
    cases.has(&nodes[by], "before");
}
