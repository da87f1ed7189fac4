//! A node is ready when all of its replicas are there, and tells what its storage does not do.

use super::disks::with_an_old_copy;
use super::*;
use consul_cluster::Mode;
use std::sync::atomic::Ordering;

impl Cases {
    fn break_it(&self, disk: &Disk, function: Option<&'static str>) {
        *disk.broken.lock().expect("no panic") = function;
    }

    /// Waits until a node says that its storage fails in this function, and no other does.
    fn is_told(&self, node: &Process, function: &str) {
        self.wait_until(120, || {
            node.store.fault().is_some_and(|fault| fault.functions == [function])
        });
        let fault = node.store.fault().expect("one");
        assert_eq!(fault.store, "points");
        assert!(fault.why.contains(&format!("{function} is broken")), "{}", fault.why);
        let why = node.store.serves().expect_err("it is not ready");
        assert!(why.contains(&format!("its storage fails in {function}: ")), "{why}");
        let text = consul_process::metrics::text(consul_process::metrics::Format::Prometheus);
        let counted = format!(
            "consul_ffi_store_storage_errors_total{{cluster=\"tsdb/cluster/nodes/\",store=\"points\",\
             function=\"{function}\"}}"
        );
        assert!(text.contains(&counted), "no {counted}");
    }

    /// Waits until a node is ready again, although nobody writes.
    fn ends(&self, node: &Process) {
        self.wait_until(60, || node.store.fault().is_none());
        self.wait_until(60, || node.store.serves().is_ok());
    }

    fn why_not(&self, node: &Process) -> String {
        node.store.serves().expect_err("it is not ready")
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_function_that_fails_is_told_until_it_works_again() {
    for function in ["apply", "scan", "keep", "purge"] {
        let (cases, nodes) = Cases::filled(3);
        cases.wait_until(60, || nodes.iter().all(|node| node.store.serves().is_ok()));
        cases.break_it(&nodes[2].disk, Some(function));
        if function == "apply" {
            cases.fill(&nodes[0], "meanwhile");
        }
        cases.is_told(&nodes[2], function);
        assert!(nodes[..2].iter().all(|node| node.store.serves().is_ok()), "{function}");
        cases.world.wait(Duration::from_secs(60));
        cases.is_told(&nodes[2], function);
        cases.break_it(&nodes[2].disk, None);
        cases.ends(&nodes[2]);
    }
}

/// As a storage that reports an error of its disk after the change: nobody but this process has opened it.
#[test]
#[ignore = "computes long: make test-all"]
fn a_storage_that_fails_after_its_work_is_used_again_when_it_works() {
    for function in ["keep", "apply", "drop"] {
        // An old copy is opened a second time once the map says that it is one.
        for works_before in 0..8 {
            let (cases, nodes, again, copy) = with_an_old_copy();
            cases.kill(&again);
            copy.fails_late.store(true, Ordering::Relaxed);
            copy.works_before.store(works_before, Ordering::Relaxed);
            cases.break_it(&copy, Some(function));
            let back = cases.start("n2", &copy);
            cases.world.wait(Duration::from_secs(30));
            cases.break_it(&copy, None);
            cases.wait_until(120, || back.store.checked().is_err() || back.is_settled(3));
            let fails = (function, works_before);
            assert!(back.store.checked().is_ok(), "{fails:?}: {:?}", back.store.checked());
            cases.ends(&back);
            cases.kill(&nodes[0]);
            cases.has(&back, "before");
            cases.has(&back, "after");
        }
    }
}

#[test]
fn a_function_that_fails_while_a_storage_is_opened_or_a_shard_dropped_is_told() {
    let (cases, nodes) = Cases::filled(3);
    cases.kill(&nodes[2]);
    cases.break_it(&nodes[2].disk, Some("kept"));
    let third = cases.start("n3", &nodes[2].disk);
    cases.is_told(&third, "kept");
    cases.break_it(&nodes[2].disk, None);
    cases.ends(&third);
    // A target begins with a drop.
    let disk = Disk::new();
    cases.break_it(&disk, Some("drop"));
    let fourth = cases.start("n4", &disk);
    cases.is_told(&fourth, "drop");
    cases.break_it(&disk, None);
    cases.ends(&fourth);
    cases.wait_until(120, || fourth.is_settled(3) && fourth.holders().contains("n4"));
}

/// It keeps what it has, gets nothing, and takes part again when it works.
#[test]
fn a_node_whose_storage_fails_gets_no_more_shards_until_it_works() {
    let (cases, nodes) = Cases::filled(4);
    cases.wait_until(120, || nodes.iter().all(|node| node.is_settled(3)));
    let shards_of = |id: &str| {
        let has = |it: &&ShardStatus| {
            let targets = it.targets.iter().map(|(node, _)| node);
            it.holders.iter().chain(targets).any(|node| **node == *id)
        };
        let status = nodes[0].store.status();
        BTreeSet::from_iter(status.iter().filter(has).map(|it| it.shard))
    };
    let before = shards_of("n4");
    assert!(!before.is_empty() && before.len() < 8, "{before:?}");
    cases.break_it(&nodes[3].disk, Some("apply"));
    cases.fill(&nodes[0], "meanwhile");
    cases.is_told(&nodes[3], "apply");
    cases.world.wait(Duration::from_secs(5));
    let set = |mode| {
        let set = nodes[0].cluster.set_mode("n3", mode);
        cases.world.run(set).expect("the right to do so");
    };
    set(Mode::Draining);
    for _ in 0..60 {
        cases.world.wait(Duration::from_secs(1));
        assert!(shards_of("n4").is_subset(&before), "{:?}", shards_of("n4"));
    }
    assert!(!shards_of("n3").is_empty(), "nobody else can take them");
    cases.break_it(&nodes[3].disk, None);
    cases.wait_until(120, || shards_of("n3").is_empty());
    assert_eq!(shards_of("n4").len(), 8);
    cases.has(&nodes[3], "meanwhile");
}

/// As the storage of a program whose disk or lock never answers: nothing of it returns.
#[test]
#[ignore = "computes long: make test-all"]
fn a_storage_that_hangs_is_told_within_5_s_until_it_answers_again() {
    let (cases, nodes) = Cases::filled(3);
    cases.wait_until(60, || nodes.iter().all(|node| node.store.serves().is_ok()));
    // A storage that nobody has asked anything is well.
    nodes[2].disk.hang(true);
    assert!(nodes[2].store.fault().is_none());
    cases.fill(&nodes[0], "meanwhile");
    cases.world.wait(Duration::from_secs(5));
    for _ in 0..2 {
        let fault = nodes[2].store.fault().expect("it is told");
        assert_eq!(fault.functions.len(), 1, "{fault:?}");
        assert!(fault.why.starts_with("it has not returned for "), "{fault:?}");
        assert!(cases.why_not(&nodes[2]).contains("it has not returned for "));
        assert!(nodes[..2].iter().all(|node| node.store.serves().is_ok()));
        // Nobody waits any longer for the first of these calls.
        cases.world.wait(Duration::from_secs(60));
    }
    nodes[2].disk.hang(false);
    cases.ends(&nodes[2]);
    // Nor does a call that its caller has left count forever, where nothing else is called.
    cases.world.wait(Duration::from_secs(60));
    assert!(nodes[2].store.fault().is_none());
}

#[test]
fn a_node_is_ready_when_all_that_the_map_gives_it_is_there() {
    let cases = Cases::new();
    let disk = Disk::new();
    disk.be_slow(&cases.world.clock, Duration::from_secs(3));
    let first = cases.start("n1", &disk);
    assert!(cases.why_not(&first).contains("its storage is not open yet"));
    // Nobody waits for others that wait for it: there is no map, so nothing is missing.
    cases.wait_until(30, || first.store.serves().is_ok());
    let rest = ["n2", "n3"].map(|id| cases.start(id, &Disk::new()));
    cases.world.run(first.store.ready()).expect("a map");
    let nodes: Vec<Process> = [first].into_iter().chain(rest).collect();
    cases.wait_until(60, || nodes.iter().all(|node| node.store.serves().is_ok()));
    cases.fill(&nodes[0], "before");
    // A node that is away is not missing on the others.
    cases.kill(&nodes[2]);
    cases.world.wait(Duration::from_secs(10));
    assert!(nodes[..2].iter().all(|node| node.store.serves().is_ok()));
    // Its disk is lost: it is ready when its replicas are made again.
    let third = cases.start("n3", &Disk::new());
    let mut reasons = BTreeSet::new();
    while !third.is_settled(3) || third.store.serves().is_err() {
        match third.store.serves() {
            Err(why) => _ = reasons.insert(why),
            Ok(()) => assert!(third.is_settled(3), "{reasons:?}"),
        }
        cases.world.wait(Duration::from_millis(50));
    }
    assert!(reasons.iter().any(|why| why.contains("of its replicas are missing")), "{reasons:?}");
    // A node that has nothing yet, one with another number of shards, and an observer.
    let fourth = cases.start("n4", &Disk::new());
    cases.wait_until(30, || fourth.store.serves().is_ok());
    let options = Cases::options("n5");
    let shards = options.shards as u32 + 1;
    let other = StoreOptions { shards, ..StoreOptions::new("points", &options) };
    let other = cases.start_with(options, other, &Disk::new());
    cases.wait_until(30, || other.store.checked().is_err());
    let why = cases.why_not(&other);
    assert!(why.contains("it cannot be used: ") && why.contains("shards = "), "{why}");
    let fault = other.store.fault().expect("one");
    assert!(fault.functions.is_empty() && !fault.is_of_map, "{fault:?}");
    let observer = cases.observe("o");
    assert_eq!(observer.serves(), Ok(()));
}

/// Nothing but `ready` is waited for between two nodes, also where each restart loses a disk.
#[test]
fn a_rolling_restart_that_waits_for_ready_loses_nothing_and_fails_no_write() {
    for loses_disks in [false, true] {
        let (cases, mut nodes) = Cases::filled(3);
        cases.wait_until(60, || nodes.iter().all(|node| node.store.serves().is_ok()));
        let mut number = 0;
        for place in 0..3 {
            cases.kill(&nodes[place]);
            let writer = (place + 1) % 3;
            let mut write = |nodes: &[Process]| {
                number += 1;
                let key = format!("turn-{number}");
                cases.write(&nodes[writer], &key, "turn").expect("a quorum");
            };
            (0..5).for_each(|_| write(&nodes));
            let disk = if loses_disks { Disk::new() } else { Arc::clone(&nodes[place].disk) };
            nodes[place] = cases.start(&format!("n{}", place + 1), &disk);
            let limit = cases.deadline(300);
            while nodes[place].store.serves().is_err() {
                assert!(cases.world.clock.now() < limit, "{}", cases.why_not(&nodes[place]));
                write(&nodes);
                cases.world.wait(Duration::from_millis(100));
            }
        }
        for node in &nodes {
            cases.has(node, "before");
            for number in 1..=number {
                let key = format!("turn-{number}");
                assert_eq!(cases.read(node, &key).as_deref(), Some("turn"), "{key}");
            }
        }
    }
}

/// A full disk is what a node is drained for. It may not even keep that it has been replaced.
#[test]
#[ignore = "computes long: make test-all"]
fn a_node_whose_storage_fails_can_be_drained() {
    for function in ["apply", "drop", "keep", "purge", "scan"] {
        let (cases, nodes) = Cases::filled(4);
        cases.wait_until(120, || nodes.iter().all(|node| node.is_settled(3)));
        assert!(nodes[0].holders().contains("n4"), "{function}");
        cases.break_it(&nodes[3].disk, Some(function));
        cases.fill(&nodes[0], "meanwhile");
        cases.world.wait(Duration::from_secs(5));
        let drain = nodes[0].cluster.set_mode("n4", Mode::Draining);
        cases.world.run(drain).expect("the right to do so");
        cases.wait_until(120, || !nodes[0].holders().contains("n4"));
        cases.wait_until(60, || nodes[..3].iter().all(|node| node.is_settled(3)));
        // The rest has all without it.
        cases.kill(&nodes[3]);
        cases.has(&nodes[0], "before");
        cases.has(&nodes[0], "meanwhile");
    }
}
