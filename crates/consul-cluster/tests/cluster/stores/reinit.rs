//! An operator has a node make its replicas again from the others.

use super::*;
use crate::requests::look;
use consul_client::transport::Transport;
use consul_cluster::Mode;
use consul_cluster::stores::reinit::{Remaking, Replicas, ask, end, find, told};
use consul_replication::message::{Action, NotReady, Outcome};
use consul_replication::record::Record;
use consul_sim::SimTransport;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

type Found = BTreeMap<String, Replicas>;

/// A record on one disk alone that is not what was written, although its version is.
const WRONG: &str = "wrong";

impl Cases {
    fn find(&self, node: &str) -> Result<Found, Error> {
        self.find_of(node, None, &[])
    }

    fn find_of(&self, node: &str, store: Option<&str>, shards: &[u32]) -> Result<Found, Error> {
        let shards = shards.iter().copied().collect();
        self.world.run(find(&look(&self.world), node, store, &shards))
    }

    fn order(&self, node: &str) {
        let found = self.find(node).expect("an answer");
        self.world.run(ask(&look(&self.world), node, &found)).expect("nothing is in the way");
    }

    fn remaking(&self, node: &str) -> Option<Remaking> {
        self.find(node).expect("an answer").remove("points")?.remaking
    }

    /// Waits until a node has made all replicas again that it was asked for.
    fn wait_until_made(&self, node: &str) {
        let end = self.deadline(300);
        while self.remaking(node).is_none_or(|it| it.left > 0) {
            assert!(self.world.clock.now() < end, "{:?}", self.remaking(node));
            self.world.wait(Duration::from_millis(500));
        }
    }

    fn pause(&self, at: &Process) {
        self.world.run(at.cluster.pause_moves(None, "ada", "")).expect("the right to do so");
    }

    fn resume(&self, at: &Process) {
        self.world.run(at.cluster.resume_moves(None)).expect("the right to do so");
    }

    /// Waits until a node has no replica to finish, and begins none since moves are paused.
    fn wait_until_paused(&self, node: &str) {
        self.wait_until(60, || self.told(node).is_some_and(|it| it.waits_for.contains("paused")));
    }

    /// The same from a Consul that may have lost all it knew.
    fn wait_until_told_made(&self, node: &str) {
        let told = || self.find(node).ok().and_then(|mut of| of.remove("points")?.remaking);
        self.wait_until(600, || told().is_some_and(|it| it.left == 0));
    }

    /// Gives the records of a disk other data, which no comparison of versions finds.
    fn spoil(&self, disk: &Disk) {
        self.spoil_with(disk, WRONG);
    }

    fn spoil_with(&self, disk: &Disk, data: &'static str) {
        self.world.run(async {
            for shard in 0..8 {
                let records = disk.scan(shard, Range::all(), usize::MAX).await.expect("memory");
                let wrong = |it: Record| Record { data: Some(data.into()), ..it };
                disk.drop_shard(shard).await.expect("memory");
                disk.apply(shard, records.into_iter().map(wrong).collect()).await.expect("memory");
            }
        });
    }

    /// Why the replicas of a node cannot be made again.
    fn obstacles(&self, node: &str) -> Vec<String> {
        let found = self.find(node).expect("an answer").remove("points").expect("the store");
        let refused = self.world.run(ask(
            &look(&self.world),
            node,
            &[("points".to_owned(), found.clone())].into(),
        ));
        match found.obstacles.is_empty() {
            true => _ = refused.expect("nothing is in the way"),
            false => assert_eq!(refused.expect_err("refused").kind(), Kind::Conflict),
        }
        found.obstacles
    }

    fn is_refused(&self, node: &str, why: &str) {
        let obstacles = self.obstacles(node);
        assert!(obstacles.iter().any(|it| it.contains(why)), "{why}: {obstacles:?}");
    }
}

impl Cases {
    fn told(&self, node: &str) -> Option<Remaking> {
        let stores = ["points".to_owned()];
        let told = self.world.run(told(&look(&self.world), node, stores.iter()));
        told.expect("an answer").remove("points")
    }

    /// The shards of a disk with wrong records.
    fn wrong(&self, disk: &Disk) -> BTreeSet<u32> {
        self.having(disk, WRONG)
    }

    fn having(&self, disk: &Disk, data: &str) -> BTreeSet<u32> {
        let is_wrong = |shard: &u32| {
            let records = self.world.run(disk.scan(*shard, Range::all(), usize::MAX));
            let mut records = records.expect("memory").into_iter();
            records.any(|it| it.data.as_deref() == Some(data.as_bytes()))
        };
        (0..8).filter(is_wrong).collect()
    }

    fn let_leave(&self, leaves: Leaves, nodes: &mut Vec<Process>) {
        let one = &nodes[0].cluster;
        match leaves {
            Leaves::Drain => {
                self.world.run(one.set_mode("n3", Mode::Draining)).expect("the right to do so");
            }
            Leaves::Leave => _ = self.world.run(one.ask_leave(None, "n3")).expect("a node"),
            Leaves::Weight => {
                self.world.run(one.set_weight(None, "n3", Some(0.0))).expect("the right to do so");
            }
            Leaves::NewNode => nodes.push(self.start("n5", &Disk::new())),
            Leaves::FewerReplicas => self.set(&nodes[0], (2, 2, 2)),
        }
    }

    fn have_left(&self, leaves: Leaves, nodes: &[Process]) -> bool {
        let held = nodes[0].holders();
        match leaves {
            Leaves::Drain | Leaves::Weight => nodes[0].is_settled(3) && !held.contains("n3"),
            Leaves::Leave => {
                let snapshot = nodes[0].cluster.snapshot();
                nodes[0].is_settled(3) && snapshot.nodes.get("n3").is_none_or(|it| !it.is_live)
            }
            Leaves::NewNode => nodes[0].is_settled(3) && held.contains("n5"),
            Leaves::FewerReplicas => nodes[0].is_settled(2),
        }
    }
}

/// How many replicas are missing at most of any shard, and of how many shards one.
fn missing(node: &Process) -> (usize, usize) {
    let status = node.store.status();
    let missing = || status.iter().map(|it| 3 - it.holders.len());
    (missing().max().unwrap_or_default(), missing().filter(|missing| *missing > 0).count())
}

fn is_right(disk: &Disk) -> bool {
    disk.records(8).iter().all(|it| it.data.as_deref() != Some(WRONG.as_bytes()))
}

#[test]
fn replicas_are_made_again_one_after_the_other_and_no_write_is_refused() {
    let (cases, nodes) = Cases::filled(3);
    cases.wait_until(30, || nodes[0].is_settled(3));
    cases.spoil(&nodes[2].disk);
    cases.order("n3");
    let mut written = 0;
    while written < 20 || cases.remaking("n3").is_none_or(|it| it.left > 0) {
        cases.write(&nodes[0], &format!("meanwhile-{written}"), "x").expect("no write is refused");
        assert_eq!(cases.read(&nodes[1], &format!("meanwhile-{written}")).as_deref(), Some("x"));
        let (of_a_shard, shards) = missing(&nodes[0]);
        assert!(of_a_shard <= 1 && shards <= 1, "{of_a_shard} of one, {shards} shards");
        written += 1;
        assert!(written < 2000, "{:?}", cases.remaking("n3"));
        cases.world.wait(Duration::from_millis(50));
    }
    assert!(nodes[0].is_settled(3));
    assert!(is_right(&nodes[2].disk));
    // Another one is away: what n3 has made again has to be enough.
    cases.kill(&nodes[0]);
    cases.has(&nodes[2], "before");
    for number in 0..written {
        let key = format!("meanwhile-{number}");
        assert_eq!(cases.read(&nodes[2], &key).as_deref(), Some("x"), "{key}");
    }
}

#[test]
fn only_the_shards_that_were_named_are_made_again() {
    let (cases, nodes) = Cases::filled(3);
    cases.wait_until(30, || nodes[0].is_settled(3));
    cases.spoil(&nodes[2].disk);
    let found = cases.find_of("n3", Some("points"), &[2, 5]).expect("an answer");
    cases.world.run(ask(&look(&cases.world), "n3", &found)).expect("nothing is in the way");
    cases.wait_until_made("n3");
    let wrong = |shard: u32| {
        let records = cases.world.run(nodes[2].disk.scan(shard, Range::all(), usize::MAX));
        records.expect("memory").iter().any(|it| it.data.as_deref() == Some(WRONG.as_bytes()))
    };
    let wrong: Vec<u32> = (0..8).filter(|shard| wrong(*shard)).collect();
    assert_eq!(wrong, [0, 1, 3, 4, 6, 7]);
}

#[test]
fn what_does_not_exist_is_refused() {
    let (cases, _nodes) = Cases::filled(3);
    for (node, store, shards, kind, why) in [
        ("n9", None, &[][..], Kind::NotFound, "there is no node \"n9\""),
        ("n1", Some("pionts"), &[], Kind::NotFound, "points"),
        ("n1", Some("points"), &[8], Kind::Argument, "no replica of shard 8"),
    ] {
        let refused = cases.find_of(node, store, shards).expect_err(why);
        assert_eq!(refused.kind(), kind, "{refused}");
        assert!(refused.message().contains(why), "{refused}");
    }
    let spare = cases.start("n4", &Disk::new());
    cases.world.run(spare.store.ready()).expect("a map");
    cases.wait_until(60, || spare.is_settled(3));
}

#[test]
fn nothing_is_given_up_while_another_replica_is_not_sure() {
    let (cases, nodes) = Cases::filled(4);
    cases.wait_until(60, || nodes[0].is_settled(3));
    let set = |node: &str, mode| {
        cases.world.run(nodes[0].cluster.set_mode(node, mode)).expect("the right to do so");
        cases.world.wait(Duration::from_secs(1));
    };
    // Each of these ends before the next one.
    set("n1", Mode::Draining);
    cases.is_refused("n1", "gets a replica of shard");
    set("n1", Mode::Active);
    cases.wait_until(120, || nodes[0].is_settled(3) && nodes[0].holders().len() == 4);
    cases.pause(&nodes[0]);
    cases.world.wait(Duration::from_secs(1));
    cases.is_refused("n1", "moves are paused by ada: `consul-ha resume`");
    cases.resume(&nodes[0]);
    nodes[1].disk.is_full.store(true, Relaxed);
    cases.fill(&nodes[0], "full");
    cases.world.wait(Duration::from_secs(2));
    cases.is_refused("n1", "the storage of n2 fails");
    // Its own storage may fail: that is a reason to make them again.
    let own = cases.find("n2").expect("an answer").remove("points").expect("the store");
    assert!(own.obstacles.is_empty(), "{own:?}");
    nodes[1].disk.is_full.store(false, Relaxed);
    cases.world.wait(Duration::from_secs(10));
    cases.kill(&nodes[1]);
    cases.world.wait(Duration::from_secs(15));
    cases.is_refused("n1", "n2 with a replica of shard");
    cases.is_refused("n2", "n2 is down: start it");
    let back = cases.start("n2", &Disk::new());
    cases.wait_until(60, || nodes[0].store.status().iter().any(|it| it.holders.len() < 3));
    cases.is_refused("n1", "n2");
    cases.wait_until(120, || nodes[0].is_settled(3));
    cases.world.wait(Duration::from_secs(2));
    assert_eq!(cases.obstacles("n1"), Vec::<String>::new());
    cases.world.wait(Duration::from_secs(1));
    cases.is_refused("n3", "n1 makes its replicas of store points again");
    cases.wait_until_made("n1");
    cases.world.run(back.store.ready()).expect("a map");
    cases.has(&nodes[0], "before");
}

#[test]
fn a_store_whose_numbers_do_not_bear_it_is_refused() {
    for (numbers, why) in [
        ((1, 1, 1), "has one replica of each shard"),
        ((2, 2, 1), "write_quorum or read_quorum 1"),
        ((2, 2, 2), "writes of store points need all 2 replicas"),
        ((3, 3, 1), "write_quorum or read_quorum 1"),
        ((3, 3, 2), "writes of store points need all 3 replicas"),
        ((3, 2, 3), "reads of store points need all 3 replicas"),
        ((3, 2, 2), ""),
    ] {
        let (cases, nodes) = Cases::filled(3);
        cases.wait_until(60, || nodes[0].is_settled(3));
        if numbers != (3, 2, 2) {
            cases.set(&nodes[0], numbers);
            cases.is_refused("n1", "the numbers of store points change");
            cases.wait_until(120, || {
                let settled = nodes[0].is_settled(numbers.0);
                settled && nodes[0].store.status().iter().all(|it| !it.is_changing)
            });
            cases.world.wait(Duration::from_secs(2));
        }
        match why {
            "" => assert_eq!(cases.obstacles("n1"), Vec::<String>::new()),
            why => cases.is_refused("n1", why),
        }
    }
}

/// The node, the leader, or all nodes end at some moment of the work, and are started again.
#[test]
fn an_order_outlives_the_processes() {
    for (ends, moments) in [(&[2][..], 8), (&[0], 4), (&[0, 1, 2], 4)] {
        for moment in 0..moments {
            let (cases, mut nodes) = Cases::filled(3);
            cases.wait_until(30, || nodes[0].is_settled(3));
            cases.spoil(&nodes[2].disk);
            cases.order("n3");
            // It has taken the order by then, and may have begun.
            cases.world.wait(Duration::from_millis(1500 + 170 * moment));
            ends.iter().for_each(|at| cases.kill(&nodes[*at]));
            cases.world.wait(Duration::from_secs(if moment % 2 == 0 { 1 } else { 20 }));
            for at in ends {
                nodes[*at] = cases.start(&format!("n{}", at + 1), &nodes[*at].disk);
            }
            cases.wait_until(120, || nodes.iter().all(|it| it.store.holder().is_some()));
            cases.wait_until_made("n3");
            assert!(nodes[0].is_settled(3), "{ends:?} at {moment}");
            assert!(is_right(&nodes[2].disk), "{ends:?} at {moment}");
            cases.kill(&nodes[1]);
            cases.has(&nodes[2], "before");
        }
    }
}

/// For a while no replica counts, and none was made again by that.
#[test]
fn an_order_outlives_a_consul_that_goes_back() {
    for moment in 0..4 {
        let (cases, nodes) = Cases::filled(3);
        cases.wait_until(30, || nodes[0].is_settled(3));
        cases.spoil(&nodes[2].disk);
        let backup = cases.world.agent.back_up();
        cases.order("n3");
        cases.world.wait(Duration::from_millis(1200 + 370 * moment));
        match moment % 2 {
            0 => cases.world.agent.restore_snapshot(&backup),
            _ => cases.world.agent.restart(Retained::Nothing),
        }
        cases.wait_until_told_made("n3");
        cases.wait_until(60, || nodes[0].is_settled(3));
        assert!(is_right(&nodes[2].disk), "at {moment}");
        cases.kill(&nodes[1]);
        cases.has(&nodes[2], "before");
    }
}

/// Others were to get its replicas while it was away, and have not got them.
#[test]
fn a_node_that_is_back_with_its_replicas_goes_on_with_its_order() {
    for moment in 0..4 {
        let (cases, mut nodes) = Cases::filled(4);
        cases.wait_until(60, || nodes[0].is_settled(3) && nodes[0].holders().len() == 4);
        cases.spoil(&nodes[2].disk);
        cases.order("n3");
        cases.world.wait(Duration::from_millis(1200 + 370 * moment));
        cases.kill(&nodes[2]);
        let cut = |cut: bool| {
            let mut all = cases.network.cut.lock().expect("no panic");
            for node in ["n1", "n2", "n4"] {
                match cut {
                    true => _ = all.insert(node.into(), Callers::All),
                    false => _ = all.remove(node),
                }
            }
        };
        cut(true);
        cases.wait_until(150, || {
            let status = nodes[0].store.status();
            status.iter().any(|it| it.targets.iter().any(|(node, _)| &**node != "n3"))
        });
        nodes[2] = cases.start("n3", &nodes[2].disk);
        cases.world.wait(Duration::from_secs(20));
        cut(false);
        cases.wait_until_told_made("n3");
        assert!(is_right(&nodes[2].disk), "at {moment}");
    }
}

#[test]
fn an_order_for_an_earlier_start_or_disk_has_no_effect() {
    let (cases, mut nodes) = Cases::filled(3);
    cases.wait_until(30, || nodes[0].is_settled(3));
    // The node does not take the request any more.
    cases.kill(&nodes[2]);
    cases.spoil(&nodes[2].disk);
    cases.order("n3");
    nodes[2] = cases.start("n3", &nodes[2].disk);
    cases.world.wait(Duration::from_secs(60));
    assert_eq!(cases.remaking("n3"), None);
    assert!(!is_right(&nodes[2].disk), "nothing was made again");
    // It has taken it, and comes back with another disk.
    cases.order("n3");
    cases.world.wait(Duration::from_secs(2));
    assert!(cases.remaking("n3").is_some_and(|it| it.left > 0));
    cases.kill(&nodes[2]);
    nodes[2] = cases.start("n3", &Disk::new());
    cases.is_filled_again(&nodes[2]);
    cases.world.wait(Duration::from_secs(10));
    assert_eq!(cases.remaking("n3"), None);
    cases.has(&nodes[2], "before");
}

/// Each was asked before the other had begun.
#[test]
fn of_two_nodes_at_the_same_time_no_shard_lacks_two_replicas() {
    let (cases, nodes) = Cases::filled(3);
    cases.wait_until(30, || nodes[0].is_settled(3));
    let found = ["n2", "n3"].map(|node| (node, cases.find(node).expect("an answer")));
    for (node, found) in &found {
        cases.world.run(ask(&look(&cases.world), node, found)).expect("nothing is in the way");
    }
    let mut written = 0;
    let is_busy = |node| cases.remaking(node).is_none_or(|it: Remaking| it.left > 0);
    while written < 10 || is_busy("n2") || is_busy("n3") {
        cases.write(&nodes[0], &format!("meanwhile-{written}"), "x").expect("no write is refused");
        assert!(missing(&nodes[0]).0 <= 1);
        written += 1;
        assert!(written < 2000, "{:?} {:?}", cases.remaking("n2"), cases.remaking("n3"));
        cases.world.wait(Duration::from_millis(50));
    }
    assert!(nodes[0].is_settled(3));
    cases.kill(&nodes[0]);
    cases.has(&nodes[1], "before");
}

#[test]
fn an_order_is_ended_after_the_replica_that_was_given_up() {
    let (cases, nodes) = Cases::filled(3);
    cases.wait_until(30, || nodes[0].is_settled(3));
    cases.order("n3");
    cases.wait_until(30, || missing(&nodes[0]).1 == 1);
    let found = cases.find("n3").expect("an answer");
    assert!(found["points"].are_being_made());
    cases.world.run(end(&look(&cases.world), "n3", &found)).expect("an answer");
    cases.wait_until_made("n3");
    assert!(nodes[0].is_settled(3));
    let before = nodes[0].store.status();
    cases.world.wait(Duration::from_secs(20));
    assert_eq!(
        nodes[0].store.status().iter().map(|it| it.epoch).max(),
        before.iter().map(|it| it.epoch).max()
    );
}

#[test]
fn an_order_waits_while_moves_are_paused() {
    let (cases, nodes) = Cases::filled(3);
    cases.wait_until(30, || nodes[0].is_settled(3));
    cases.order("n3");
    cases.wait_until(30, || missing(&nodes[0]).1 == 1);
    cases.pause(&nodes[0]);
    cases.world.wait(Duration::from_secs(25));
    let waits = cases.remaking("n3").expect("an order");
    assert!(waits.left > 0 && waits.waits_for.contains("paused by ada"), "{waits:?}");
    assert!(nodes[0].is_settled(3));
    cases.resume(&nodes[0]);
    cases.wait_until_made("n3");
}

/// It waits, says why, and goes on by itself.
#[test]
fn an_order_waits_while_another_node_is_down() {
    let (cases, mut nodes) = Cases::filled(3);
    cases.wait_until(30, || nodes[0].is_settled(3));
    cases.order("n3");
    cases.wait_until(30, || missing(&nodes[0]).1 == 1);
    cases.kill(&nodes[1]);
    cases.world.wait(Duration::from_secs(25));
    let waits = cases.remaking("n3").expect("an order");
    assert!(waits.left > 0 && waits.waits_for.contains("n2 with a replica of shard"), "{waits:?}");
    assert!(missing(&nodes[0]).1 <= 1);
    nodes[1] = cases.start("n2", &nodes[1].disk);
    cases.wait_until_made("n3");
    cases.has(&nodes[1], "before");
}

/// It is about two of eight replicas; nobody may believe that it is about all.
#[test]
fn an_order_that_is_not_done_is_not_taken_for_another_one() {
    let (cases, nodes) = Cases::filled(3);
    cases.wait_until(30, || nodes[0].is_settled(3));
    let obstacles = |shards: &[u32]| {
        let found = cases.find_of("n3", Some("points"), shards).expect("an answer");
        let asked = cases.world.run(ask(&look(&cases.world), "n3", &found));
        assert_eq!(asked.is_err(), !found["points"].obstacles.is_empty());
        found["points"].obstacles.join("; ")
    };
    assert_eq!(obstacles(&[2, 5]), "");
    cases.wait_until(30, || cases.remaking("n3").is_some_and(|it| it.left > 0));
    let order = cases.remaking("n3").expect("an order").order;
    let other = "n3 makes other replicas of store points again, not that of shard";
    assert!(obstacles(&[]).starts_with(&format!("{other} 0: ")), "{}", obstacles(&[]));
    let of_others = obstacles(&[2, 3]);
    assert!(of_others.starts_with(&format!("{other} 3: ")), "{of_others}");
    assert!(of_others.contains("`consul-ha reinit n3 points --off` ends that"), "{of_others}");
    // These are made, and the order goes on as it is.
    assert_eq!(obstacles(&[5]), "");
    cases.wait_until_made("n3");
    assert_eq!(cases.remaking("n3").expect("an order").order, order);
    assert_eq!(obstacles(&[]), "");
}

#[test]
fn a_replica_that_was_given_up_says_what_it_waits_for() {
    for (full, why) in [(2, "the storage of n3 fails: mend it"), (0, "the storage of n1 fails")] {
        let (cases, nodes) = Cases::filled(3);
        cases.wait_until(30, || nodes[0].is_settled(3));
        cases.order("n3");
        cases.wait_until(30, || missing(&nodes[0]).1 == 1);
        nodes[full].disk.is_full.store(true, Relaxed);
        cases.world.wait(Duration::from_secs(5));
        let waits = cases.remaking("n3").expect("an order");
        assert!(waits.waits_for.starts_with(why), "{why}: {waits:?}");
        nodes[full].disk.is_full.store(false, Relaxed);
        cases.wait_until_made("n3");
        assert!(nodes[0].is_settled(3));
    }
}

/// It will not say any more that it is done.
#[test]
fn the_order_of_a_node_that_is_down_is_in_nobodys_way() {
    let (cases, nodes) = Cases::filled(4);
    cases.wait_until(60, || nodes[0].is_settled(3) && nodes[0].holders().len() == 4);
    cases.order("n4");
    cases.wait_until(30, || cases.remaking("n4").is_some_and(|it| it.left > 1));
    cases.kill(&nodes[3]);
    // The others have its replicas by then.
    cases.wait_until(900, || nodes[0].is_settled(3) && nodes[0].holders().len() == 3);
    cases.world.wait(Duration::from_secs(2));
    assert_eq!(cases.obstacles("n1"), Vec::<String>::new());
    cases.wait_until_made("n1");
}

/// The reason why replicas leave n3.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaves {
    Drain,
    Leave,
    Weight,
    NewNode,
    FewerReplicas,
}

/// When the replicas begin to leave, as the operator's order sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Begins {
    Before,
    AfterTheLook,
    AtTheSameTime,
    WhenItIsTaken,
    InItsMiddle,
}

/// A move copies what the node has, so none may copy a replica that is to be made again; and it has to end nevertheless.
#[test]
fn no_move_copies_a_replica_that_is_to_be_made_again() {
    use Begins::{AfterTheLook, AtTheSameTime, Before, InItsMiddle, WhenItIsTaken};
    use Leaves::{Drain, FewerReplicas, Leave, NewNode, Weight};
    let mut were_late = 0;
    for leaves in [Drain, Leave, Weight, NewNode, FewerReplicas] {
        for begins in [Before, AfterTheLook, AtTheSameTime, WhenItIsTaken, InItsMiddle] {
            // All replicas, the first one, the last one.
            for (from, to) in [(0, 99), (0, 1), (5, 6)] {
                if leaves != Drain && to != 99 && begins != WhenItIsTaken {
                    continue;
                }
                let case = format!("{leaves:?} {begins:?} {from}");
                let (cases, mut nodes) = Cases::filled(4);
                cases.wait_until(60, || nodes[0].is_settled(3) && nodes[0].holders().len() == 4);
                cases.spoil(&nodes[2].disk);
                let all = cases.find("n3").expect("an answer")["points"].shards.clone();
                let shards: Vec<u32> = all.iter().copied().take(to).skip(from).collect();
                if begins == Before {
                    cases.let_leave(leaves, &mut nodes);
                    cases.world.wait(Duration::from_secs(1));
                }
                let found = cases.find_of("n3", Some("points"), &shards).expect("an answer");
                if begins == Before && leaves != NewNode {
                    let obstacles = found["points"].obstacles.join("; ");
                    let moves = obstacles.contains("gets a replica of shard");
                    assert!(moves || obstacles.contains("numbers of store points"), "{case}");
                    continue;
                }
                if begins == AfterTheLook {
                    cases.let_leave(leaves, &mut nodes);
                    cases.world.wait(Duration::from_millis(700 + 100 * from as u64));
                }
                let asked = cases.world.run(ask(&look(&cases.world), "n3", &found));
                if begins == Before && asked.is_err() {
                    continue;
                }
                let order = asked.expect("nothing is in the way").expect("a new order");
                let order = order.request.reinit["points"].order;
                let told = || cases.told("n3").filter(|it| it.order == order);
                match begins {
                    Before | AfterTheLook | AtTheSameTime => {}
                    WhenItIsTaken => cases.wait_until(30, || told().is_some()),
                    InItsMiddle => {
                        cases.wait_until(30, || told().is_some());
                        cases.world.wait(Duration::from_millis(1700));
                    }
                }
                if ![Before, AfterTheLook].contains(&begins) {
                    cases.let_leave(leaves, &mut nodes);
                }
                let (end, mut last) = (cases.deadline(300), told());
                let is_there = || cases.told("n3").is_some();
                // Two nodes have the two replicas of a shard, and none would be left to make one from.
                let cannot = |it: &Remaking| it.waits_for.contains("need all 2 replicas");
                let is_over = |it: &Remaking| it.left == 0 || leaves == FewerReplicas && cannot(it);
                while !last.as_ref().is_some_and(is_over) && (is_there() || last.is_none()) {
                    assert!(cases.world.clock.now() < end, "{case}: {last:?}");
                    cases.world.wait(Duration::from_millis(500));
                    last = told().or(last);
                }
                cases.wait_until(120, || cases.have_left(leaves, &nodes));
                // By then it has dropped what it does not have any more.
                cases.world.wait(Duration::from_secs(20));
                let last = told().or(last).unwrap_or_default();
                let is_right = last.gone.is_empty() && last.left == 0;
                let may_be_late = [AfterTheLook, AtTheSameTime].contains(&begins);
                assert!(is_right || may_be_late, "{case}: {last:?}");
                were_late += last.gone.len();
                let ordered = BTreeSet::from_iter(shards);
                for (at, node) in nodes.iter().enumerate() {
                    let wrong = cases.wrong(&node.disk);
                    let wrong = BTreeSet::from_iter(wrong.intersection(&ordered).copied());
                    let known =
                        if at == 2 { &last.to_remake | &last.gone } else { last.gone.clone() };
                    let is_member = at != 2 || leaves != Leave;
                    assert!(
                        wrong.is_subset(&known) || !is_member,
                        "{case}: n{}: {wrong:?}",
                        at + 1
                    );
                }
                if is_right && to == 99 {
                    cases.has(&nodes[3], "before");
                }
            }
        }
    }
    assert!(were_late > 0, "no move had copied a replica before the order was taken");
}

/// A replica that another node gets meanwhile has what its other sources have, and not what is wrong.
#[test]
fn nothing_wrong_is_copied_when_other_replicas_are_made_meanwhile() {
    for what in
        ["n1 is gone", "the disk of n1 is lost", "one replica more", "n1 is drained and gone"]
    {
        for moment in 0..3 {
            let case = format!("{what} at {moment}");
            let (cases, mut nodes) = Cases::filled(4);
            cases.wait_until(60, || nodes[0].is_settled(3) && nodes[0].holders().len() == 4);
            cases.spoil(&nodes[2].disk);
            cases.order("n3");
            cases.wait_until(30, || cases.told("n3").is_some());
            cases.world.wait(Duration::from_millis(900 * moment));
            // The numbers bear no lost replica beside a replica that is given up.
            cases.pause(&nodes[1]);
            cases.wait_until_paused("n3");
            let mut replicas = 3;
            match what {
                "one replica more" => {
                    cases.set(&nodes[1], (4, 2, 3));
                    replicas = 4;
                }
                "the disk of n1 is lost" => {
                    cases.kill(&nodes[0]);
                    nodes[0] = cases.start("n1", &Disk::new());
                }
                "n1 is gone" => cases.kill(&nodes[0]),
                _ => {
                    let set = nodes[1].cluster.set_mode("n1", Mode::Draining);
                    cases.world.run(set).expect("the right to do so");
                    cases.world.wait(Duration::from_secs(1));
                    cases.kill(&nodes[0]);
                }
            }
            let is_made = || cases.told("n3").is_some_and(|it| it.left == 0);
            cases.resume(&nodes[1]);
            cases.wait_until(900, || is_made() && nodes[1].is_settled(replicas));
            cases.world.wait(Duration::from_secs(20));
            let there = nodes.iter().skip(usize::from(what.contains("gone")));
            for node in there {
                let wrong = cases.wrong(&node.disk);
                assert_eq!(wrong, BTreeSet::new(), "{case}: {}", node.cluster.options().node_id);
            }
            cases.has(&nodes[1], "before");
        }
    }
}

/// The node, or the leader, ends at some moment, and is started again; or an operator pauses moves, or ends the order, after
/// which the moves go on; or the node's disk fails, which then needs nothing of it.
#[test]
fn a_drain_ends_whatever_comes_between() {
    for what in ["n3", "the leader", "a pause", "--off", "a full disk"] {
        for moment in 0..4 {
            let case = format!("{what} at {moment}");
            let (cases, mut nodes) = Cases::filled(4);
            cases.wait_until(60, || nodes[0].is_settled(3) && nodes[0].holders().len() == 4);
            cases.spoil(&nodes[2].disk);
            cases.order("n3");
            cases.wait_until(30, || cases.told("n3").is_some());
            let drains = |mode| {
                let set = nodes[1].cluster.set_mode("n3", mode);
                cases.world.run(set).expect("the right to do so");
            };
            drains(Mode::Draining);
            cases.world.wait(Duration::from_millis(200 + 700 * moment));
            match what {
                "n3" | "the leader" => {
                    let leads = |it: &Process| it.cluster.is_leader();
                    let at = if what == "n3" { Some(2) } else { nodes.iter().position(leads) };
                    let at = at.expect("a leader");
                    cases.kill(&nodes[at]);
                    cases.world.wait(Duration::from_secs(if moment % 2 == 0 { 1 } else { 20 }));
                    nodes[at] = cases.start(&format!("n{}", at + 1), &nodes[at].disk);
                }
                "a pause" => {
                    cases.pause(&nodes[1]);
                    cases.world.wait(Duration::from_secs(25));
                    let told = cases.told("n3").expect("an order");
                    assert!(
                        told.left == 0 || told.waits_for.contains("paused"),
                        "{case}: {told:?}"
                    );
                    cases.resume(&nodes[1]);
                }
                "--off" => {
                    let found = cases.find("n3").expect("an answer");
                    cases.world.run(end(&look(&cases.world), "n3", &found)).expect("an answer");
                }
                _ => nodes[2].disk.is_full.store(true, Relaxed),
            }
            let is_drained = || {
                let told = cases.told("n3");
                let is_done = told.is_some_and(|it| it.left == 0) || what == "a full disk";
                is_done && cases.have_left(Leaves::Drain, &nodes)
            };
            cases.wait_until(400, is_drained);
            cases.world.wait(Duration::from_secs(20));
            if what != "--off" {
                let mut others = nodes.iter().filter(|it| it.cluster.options().node_id != "n3");
                assert!(others.all(|it| is_right(&it.disk)), "{case}");
                cases.has(&nodes[1], "before");
            }
        }
    }
}

/// Its replicas were made on others meanwhile, not copied from it: it has to drop them.
#[test]
fn a_node_that_was_replaced_meanwhile_ends_its_order_when_it_has_dropped_the_rest() {
    let (cases, mut nodes) = Cases::filled(4);
    cases.wait_until(60, || nodes[0].is_settled(3) && nodes[0].holders().len() == 4);
    cases.spoil(&nodes[2].disk);
    cases.order("n3");
    cases.wait_until(30, || cases.told("n3").is_some_and(|it| it.left > 1));
    cases.kill(&nodes[2]);
    cases.wait_until(900, || nodes[0].is_settled(3) && nodes[0].holders().len() == 3);
    nodes[2] = cases.start("n3", &nodes[2].disk);
    cases.wait_until(300, || cases.told("n3").is_some_and(|it| it.left == 0));
    assert_eq!(cases.told("n3").expect("an order").gone, BTreeSet::new());
    cases.wait_until(60, || nodes[0].is_settled(3) && nodes[0].holders().len() == 4);
    assert!(nodes.iter().all(|it| is_right(&it.disk)));
    cases.has(&nodes[2], "before");
}

/// Of two operators who have both seen that nothing was ordered, the second one's order does not replace the first one's.
#[test]
fn of_two_orders_at_the_same_time_none_is_lost() {
    let (cases, nodes) = Cases::filled(3);
    cases.wait_until(30, || nodes[0].is_settled(3));
    cases.spoil(&nodes[2].disk);
    let all: Vec<u32> = (0..8).collect();
    let found = [&all[..4], &all[4..]]
        .map(|shards| cases.find_of("n3", Some("points"), shards).expect("an answer"));
    for found in &found {
        cases.world.run(ask(&look(&cases.world), "n3", found)).expect("nothing is in the way");
        cases.wait_until(30, || cases.remaking("n3").is_some_and(|it| it.left > 0));
    }
    cases.world.wait(Duration::from_secs(2));
    cases.wait_until_made("n3");
    assert!(is_right(&nodes[2].disk));
}

/// Counts the lists that a node asks for of Consul's leader.
#[derive(Debug)]
struct Counted(SimTransport, Arc<AtomicUsize>);

impl Transport for Counted {
    fn endpoint(&self) -> &str {
        self.0.endpoint()
    }

    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<Bytes>, Error>> {
        let query = request.uri().query().unwrap_or_default();
        let is_counted = query.contains("consistent") && query.contains("recurse");
        self.1.fetch_add(usize::from(is_counted), Relaxed);
        self.0.send(request)
    }
}

#[test]
fn an_order_that_waits_asks_consul_seldom_why() {
    for is_given_up in [false, true] {
        let cases = Cases::new();
        let mut nodes = vec![cases.start("n1", &Disk::new()), cases.start("n2", &Disk::new())];
        let lists = Arc::new(AtomicUsize::new(0));
        let transport = SimTransport::new(Arc::clone(&cases.world.agent), "simulated");
        let counted = Arc::new(Counted(transport, Arc::clone(&lists)));
        let client = cases.world.client_over(counted, 3);
        let options = Cases::options("n3");
        let store = StoreOptions::new("points", &options);
        nodes.push(cases.start_on(client, options, store, &Disk::new()));
        cases.wait_until(60, || nodes.iter().all(|it| it.is_settled(3)));
        cases.fill(&nodes[0], "before");
        cases.order("n3");
        match is_given_up {
            true => {
                cases.wait_until(30, || missing(&nodes[0]).1 == 1);
                nodes[0].disk.is_full.store(true, Relaxed);
            }
            false => {
                cases.pause(&nodes[1]);
            }
        }
        let waits = || cases.remaking("n3").is_some_and(|it| !it.waits_for.is_empty());
        cases.wait_until(60, waits);
        cases.world.wait(Duration::from_secs(10));
        let before = lists.load(Relaxed);
        cases.world.wait(Duration::from_secs(60));
        let asked = lists.load(Relaxed) - before;
        assert!((1..=15).contains(&asked), "given up {is_given_up}: {asked} lists in a minute");
        nodes[0].disk.is_full.store(false, Relaxed);
        cases.resume(&nodes[1]);
        cases.wait_until_made("n3");
    }
}

/// A read finds other data under one version, and brings nothing of it to the others.
#[test]
fn no_read_copies_what_is_wrong() {
    for data in [WRONG, "a wrong one that is less"] {
        let (cases, nodes) = Cases::filled(3);
        cases.wait_until(30, || nodes[0].is_settled(3));
        cases.spoil_with(&nodes[2].disk, data);
        cases.order("n3");
        cases.pause(&nodes[0]);
        for _ in 0..3 {
            for node in &nodes {
                for number in 0..40 {
                    _ = cases.read(node, &format!("before-{number}"));
                }
            }
        }
        cases.resume(&nodes[0]);
        cases.wait_until_made("n3");
        for node in &nodes {
            let case = &node.cluster.options().node_id;
            assert_eq!(cases.having(&node.disk, data), BTreeSet::new(), "{data} on {case}");
        }
        cases.has(&nodes[2], "before");
    }
}

/// The node's next process answers by the order that its disk has kept, before it goes on with it.
#[test]
fn an_order_is_known_from_the_start_on() {
    let (cases, mut nodes) = Cases::filled(3);
    cases.wait_until(30, || nodes[0].is_settled(3));
    cases.order("n3");
    cases.wait_until(30, || cases.told("n3").is_some_and(|it| it.left > 0));
    cases.pause(&nodes[0]);
    cases.wait_until_paused("n3");
    let left = cases.told("n3").expect("an order").to_remake;
    cases.kill(&nodes[2]);
    nodes[2] = cases.start("n3", &nodes[2].disk);
    cases.wait_until(60, || nodes[2].store.holder().is_some());
    let holder = nodes[2].store.holder().expect("it is open");
    for shard in 0..8 {
        let entry = cases.world.run(holder.state(shard)).entry.expect("a map");
        let request = Request { store: holder.store(), shard, entry, action: Action::Fence };
        let expected = match left.contains(&shard) {
            true => Outcome::NotReady(NotReady::ToRemake),
            false => Outcome::Done,
        };
        assert_eq!(cases.world.run(holder.serve(request)).outcome, expected, "shard {shard}");
    }
}
