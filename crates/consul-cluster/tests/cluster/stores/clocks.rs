//! Machines whose clocks are wrong, and are set right.

use super::*;
use std::sync::atomic::{AtomicI64, Ordering};

const HOUR_S: i64 = 3600;

/// How many seconds the clock of a machine is ahead.
#[derive(Clone)]
struct Machine(Arc<AtomicI64>);

impl Machine {
    fn ahead(seconds: i64) -> Self {
        Machine(Arc::new(AtomicI64::new(seconds)))
    }

    fn set_right(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn options(&self, id: &str) -> Options {
        let ahead_s = Arc::clone(&self.0);
        let unix = move |now: Instant| {
            let noon_s = 1_700_000_000_u64.saturating_add_signed(ahead_s.load(Ordering::Relaxed));
            Duration::from_secs(noon_s) + now.since_origin()
        };
        Options { wall_clock: WallClock::new(unix), ..Cases::options(id) }
    }
}

/// Nodes of machines, with a map.
fn nodes<const N: usize>(cases: &Cases, machines: &[Machine; N]) -> [Process; N] {
    let start = |index: usize| {
        let options = machines[index].options(&format!("n{}", index + 1));
        let repair_every = Duration::from_secs(30);
        let store = StoreOptions { repair_every, ..StoreOptions::new("points", &options) };
        cases.start_with(options, store, &Disk::new())
    };
    let nodes = std::array::from_fn(start);
    nodes.iter().for_each(|node: &Process| cases.world.run(node.store.ready()).expect("a map"));
    nodes
}

/// The messages of 40 writes that failed.
fn refused(cases: &Cases, at: &Process, what: &str) -> Vec<String> {
    let write = |number: u32| cases.write(at, &format!("{what}-{number}"), what).err();
    (0..40).filter_map(write).map(|error| error.message().to_owned()).collect()
}

/// A clock that is wrong refuses its own node's writes, and nobody else's.
#[test]
fn a_node_whose_clock_is_a_day_ahead_does_not_stop_the_writes_of_others() {
    let cases = Cases::new();
    let machines = [24 * HOUR_S, 0, 0].map(Machine::ahead);
    let nodes = nodes(&cases, &machines);
    cases.fill(&nodes[1], "before");
    cases.world.wait(Duration::from_secs(90));
    assert_eq!(refused(&cases, &nodes[1], "after"), [""; 0]);
}

#[test]
fn nodes_that_started_an_hour_behind_take_writes_when_their_clocks_are_right() {
    let cases = Cases::new();
    let machines = [-HOUR_S, -HOUR_S, 0].map(Machine::ahead);
    let nodes = nodes(&cases, &machines);
    let early = refused(&cases, &nodes[2], "early");
    assert_eq!(early.len(), 40);
    assert!(early.iter().all(|it| it.contains("ahead of this machine's clock")), "{early:?}");
    machines.iter().for_each(Machine::set_right);
    nodes.iter().for_each(|node| cases.fill(node, "right"));
    cases.world.wait(Duration::from_secs(90));
    nodes.iter().for_each(|node| cases.fill(node, "later"));
}

#[test]
fn a_node_that_started_an_hour_ahead_writes_when_its_clock_is_right() {
    let cases = Cases::new();
    let machines = [HOUR_S, 0, 0].map(Machine::ahead);
    let nodes = nodes(&cases, &machines);
    assert_eq!(refused(&cases, &nodes[0], "early").len(), 40);
    machines[0].set_right();
    cases.fill(&nodes[0], "right");
    cases.has(&nodes[1], "right");
}

/// What was acknowledged with the wrong time is neither lost nor overwritten by an older version.
#[test]
fn records_of_three_nodes_that_were_ahead_stay_readable() {
    let cases = Cases::new();
    let machines = [120; 3].map(Machine::ahead);
    let nodes = nodes(&cases, &machines);
    cases.fill(&nodes[0], "early");
    machines.iter().for_each(Machine::set_right);
    cases.fill(&nodes[0], "right");
    let why = cases.write(&nodes[0], "early-1", "again").expect_err("a newer version");
    assert!(why.message().contains("ahead of this machine's clock"), "{why}");
    nodes.iter().for_each(|node| cases.has(node, "early"));
    cases.world.wait(Duration::from_secs(120));
    cases.write(&nodes[0], "early-1", "again").expect("a quorum");
    assert_eq!(cases.read(&nodes[1], "early-1").as_deref(), Some("again"));
}

#[test]
fn a_clock_that_is_set_forward_while_a_node_is_down_replaces_it_no_earlier() {
    let cases = Cases::new();
    let machines = [-HOUR_S; 4].map(Machine::ahead);
    let nodes = nodes(&cases, &machines);
    cases.wait_until(90, || nodes[0].holders().contains("n4") && nodes[0].is_settled(3));
    cases.kill(&nodes[3]);
    cases.world.wait(Duration::from_secs(40));
    machines.iter().for_each(Machine::set_right);
    cases.world.wait(Duration::from_secs(20));
    assert!(nodes[0].holders().contains("n4") && nodes[0].is_settled(3));
    cases.wait_until(90, || !nodes[0].holders().contains("n4"));
}
