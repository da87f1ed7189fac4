//! N, W and R that an operator changes.

use super::{Cases, Disk, Process, Quorums, StoreOptions};
use consul_api::error::{Error, Kind};
use consul_cluster::Event;
use consul_cluster::stores::outside::{self, NumbersChange};
use consul_process::clock::Clock as _;
use std::sync::Arc;
use std::time::Duration;

impl Cases {
    /// Starts a node whose program has these options.
    fn start_of(&self, number: usize, quorums: Quorums, disk: &Arc<Disk>) -> Process {
        let options = Self::options(&format!("n{number}"));
        let (repair_every, drop_after) = (Duration::from_secs(30), Duration::from_secs(5));
        let name = StoreOptions::new("points", &options);
        let store = StoreOptions { quorums, repair_every, drop_after, ..name };
        self.start_with(options, store, disk)
    }

    pub(super) fn set(&self, at: &Process, (replicas, write, read): (usize, usize, usize)) {
        let change =
            NumbersChange { replicas: Some(replicas), write: Some(write), read: Some(read) };
        self.world.run(set_numbers(at, change)).expect("the right to do so");
    }

    /// Writes until the store has these numbers; no write may fail.
    fn write_until(&self, at: &Process, replicas: usize, what: &str) -> usize {
        let end = self.deadline(120);
        for number in 0.. {
            self.write(at, &format!("{what}-{number}"), what).expect("a quorum");
            self.world.wait(Duration::from_millis(100));
            if number > 20 && at.has_numbers(replicas) {
                return number;
            }
            assert!(self.world.clock.now() < end, "{:?}", at.store.status());
        }
        unreachable!("the loop has no other end")
    }

    fn has_all(&self, at: &Process, what: &str, last: usize) {
        for number in 0..=last {
            let key = format!("{what}-{number}");
            assert_eq!(self.read(at, &key).as_deref(), Some(what), "{key}");
        }
    }
}

impl Process {
    fn has_numbers(&self, replicas: usize) -> bool {
        self.is_settled(replicas) && self.store.status().iter().all(|it| !it.is_changing)
    }
}

async fn set_numbers(at: &Process, change: NumbersChange) -> Result<(), Error> {
    let shown = outside::numbers(&at.cluster, "points", change, None).await?;
    outside::set_numbers(&at.cluster, "points", &shown, None).await
}

const TWO: Quorums = Quorums { replicas: 2, write: 2, read: 2 };

#[test]
fn a_store_grows_from_two_replicas_to_three_and_shrinks_again_while_a_node_is_killed() {
    let cases = Cases::new();
    let mut nodes: Vec<Process> =
        (1..=3).map(|number| cases.start_of(number, TWO, &Disk::new())).collect();
    cases.wait_until(60, || nodes[0].has_numbers(2));
    cases.fill(&nodes[0], "before");
    cases.set(&nodes[1], (3, 2, 2));
    let last = cases.write_until(&nodes[0], 3, "grows");
    // Three replicas with W 2 bear that one is away.
    cases.kill(&nodes[2]);
    cases.fill(&nodes[0], "away");
    cases.set(&nodes[1], (2, 2, 2));
    cases.world.wait(Duration::from_secs(2));
    nodes[2] = cases.start_of(3, TWO, &nodes[2].disk);
    let end = cases.write_until(&nodes[0], 2, "shrinks");
    for node in &nodes {
        cases.has(node, "before");
        cases.has_all(node, "grows", last);
        cases.has(node, "away");
        cases.has_all(node, "shrinks", end);
    }
    cases.world.wait(Duration::from_secs(60));
    let records = |node: &Process| node.disk.records(8).len();
    let total: usize = nodes.iter().map(records).sum();
    assert_eq!(total, 2 * (40 + last + 1 + 40 + end + 1), "what is not a replica is dropped");
}

#[test]
fn the_replica_of_a_node_that_stays_away_is_the_one_that_is_removed() {
    let (cases, nodes) = Cases::filled(3);
    cases.kill(&nodes[2]);
    cases.set(&nodes[1], (2, 2, 2));
    let last = cases.write_until(&nodes[0], 2, "shrinks");
    cases.has(&nodes[1], "before");
    cases.has_all(&nodes[1], "shrinks", last);
    assert!(!nodes[0].holders().contains("n3"));
}

#[test]
fn a_change_goes_on_with_another_leader_and_can_be_taken_back() {
    let cases = Cases::new();
    let start = |number| cases.start_of(number, TWO, &Disk::new());
    let mut nodes: Vec<Process> = (1..=2).map(start).collect();
    cases.wait_until(60, || nodes[0].has_numbers(2));
    cases.fill(&nodes[0], "before");
    cases.set(&nodes[0], (3, 2, 2));
    // The third node has not started.
    cases.world.wait(Duration::from_secs(20));
    assert!(!nodes[0].has_numbers(3));
    cases.fill(&nodes[1], "waits");
    cases.set(&nodes[0], (2, 2, 2));
    cases.wait_until(60, || nodes[1].has_numbers(2));
    cases.set(&nodes[0], (3, 2, 2));
    nodes.push(start(3));
    let leader = nodes[0].cluster.snapshot().leader.clone().expect("a leader").node_id;
    let of_leader = nodes.iter().position(|it| it.cluster.options().node_id == leader);
    let of_leader = of_leader.expect("one of them");
    cases.kill(&nodes[of_leader]);
    cases.world.wait(Duration::from_secs(5));
    nodes[of_leader] = cases.start_of(of_leader + 1, TWO, &nodes[of_leader].disk);
    cases.wait_until(120, || nodes[1].has_numbers(3));
    cases.has(&nodes[2], "before");
    cases.has(&nodes[2], "waits");
}

#[test]
fn one_replica_becomes_three_and_one_again() {
    let cases = Cases::new();
    let one = Quorums { replicas: 1, write: 1, read: 1 };
    let nodes = [1, 2, 3].map(|number| cases.start_of(number, one, &Disk::new()));
    cases.wait_until(60, || nodes[0].has_numbers(1));
    cases.fill(&nodes[0], "before");
    cases.set(&nodes[0], (3, 2, 2));
    let grown = cases.write_until(&nodes[0], 3, "grows");
    cases.set(&nodes[0], (1, 1, 1));
    let shrunk = cases.write_until(&nodes[0], 1, "shrinks");
    cases.has(&nodes[1], "before");
    cases.has_all(&nodes[1], "grows", grown);
    cases.has_all(&nodes[1], "shrinks", shrunk);
}

/// In a rolling restart some programs have the new options and some the old ones.
#[test]
fn the_numbers_of_the_map_count_and_not_those_of_a_program() {
    let (cases, mut nodes) = Cases::filled(3);
    let other = Quorums { replicas: 3, write: 3, read: 1 };
    cases.kill(&nodes[2]);
    nodes[2] = cases.start_of(3, other, &nodes[2].disk);
    cases.world.run(nodes[2].store.ready()).expect("a map");
    cases.wait_until(60, || nodes.iter().all(|node| node.has_numbers(3)));
    // With W 3 it would fail, and with R 1 it would miss what n3 has not got.
    cases.kill(&nodes[1]);
    cases.write(&nodes[2], "key", "value").expect("a quorum of two");
    assert_eq!(cases.read(&nodes[0], "key").as_deref(), Some("value"));
}

#[test]
fn numbers_that_do_not_fit_together_are_refused_and_a_change_is_told() {
    let (cases, nodes) = Cases::filled(3);
    let set = |replicas, write, read| {
        let change = NumbersChange { replicas, write, read };
        cases.world.run(set_numbers(&nodes[0], change))
    };
    for (change, why) in [
        ((None, Some(1), None), "together they must be more than replicas"),
        ((Some(2), Some(3), None), "write_quorum is 3: it must be from 1 to replicas"),
        ((Some(17), None, None), "replicas is 17: it must be from 1 to 16"),
    ] {
        let error = set(change.0, change.1, change.2).expect_err(why);
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.message().contains(why), "{error}");
    }
    while nodes[1].cluster.poll_event().is_some() {}
    set(None, Some(3), None).expect("the right to do so");
    cases.world.wait(Duration::from_secs(1));
    cases.wait_until(60, || nodes[1].has_numbers(3));
    let told = std::iter::from_fn(|| nodes[1].cluster.poll_event());
    let told: Vec<Event> = told.filter(|it| !matches!(it, Event::ShardsChanged(_))).collect();
    let what = "points: replicas = 3, write_quorum = 3, read_quorum = 2";
    assert_eq!(told, [Event::StoreChanges(what.into()), Event::StoreChanged(what.into())]);
    assert!(cases.said("wanted/numbers").is_none(), "the leader has taken it");
}

#[test]
#[ignore = "computes long: make test-all"]
fn of_two_operators_at_once_none_is_lost_silently() {
    let change = |(replicas, write, read)| NumbersChange { replicas, write, read };
    let changes = [
        (Some(2), None, None),
        (None, Some(3), None),
        (None, None, Some(3)),
        (Some(4), Some(3), Some(3)),
        (Some(2), Some(2), Some(1)),
    ]
    .map(change);
    let pairs = changes.iter().flat_map(|a| changes.iter().map(move |b| (*a, *b)));
    for ((a, b), pause_ms) in pairs.flat_map(|pair| [(pair, 0), (pair, 30_000)]) {
        let (cases, nodes) = Cases::filled(4);
        let at = |node: usize| &nodes[node].cluster;
        let shown = cases.world.run(async {
            [
                outside::numbers(at(0), "points", a, None).await.expect("the store"),
                outside::numbers(at(1), "points", b, None).await.expect("the store"),
            ]
        });
        let set = |node: usize| outside::set_numbers(at(node), "points", &shown[node], None);
        let done = match pause_ms {
            0 => cases.world.run(async { tokio::join!(set(0), set(1)) }),
            // The leader has taken the first ones.
            _ => {
                let first = cases.world.run(set(0));
                cases.world.wait(Duration::from_millis(pause_ms));
                (first, cases.world.run(set(1)))
            }
        };
        let now = outside::numbers(at(0), "points", NumbersChange::default(), None);
        let now = cases.world.run(now).expect("the store").now;
        let what = format!("{a:?} beside {b:?}: {now:?} after {pause_ms} ms: {done:?}");
        for (done, shown) in [done.0, done.1].iter().zip(shown) {
            match done {
                Ok(()) => assert_eq!(now, shown.wanted, "{what}"),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Conflict, "{what}");
                    let Quorums { replicas, write, read } = now;
                    let numbers = format!("N/W/R {replicas}/{write}/{read} meanwhile");
                    assert!(error.message().contains(&numbers), "{what}");
                }
            }
        }
        assert_ne!(now, shown[0].now, "one of them wins: {what}");
    }
}
