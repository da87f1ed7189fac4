//! The numbers of a store as Prometheus reads them: the alert rules are about them.

use super::{Cases, Disk, Process};
use consul_cluster::stores::StoreOptions;
use consul_process::clock::Clock as _;
use consul_process::metrics::{Format, Page, Source, text};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Other tests of this process have a store of their own.
const STORE: &str = "of-numbers";
const STORE_OF_FAULTS: &str = "of-faults";
const STORE_OF_REPAIRS: &str = "of-repairs";
const STORE_OF_FEW: &str = "of-few";

fn start(cases: &Cases, store: &str, id: &str) -> Process {
    let options = Cases::options(id);
    let store = StoreOptions::new(store, &options);
    cases.start_with(options, store, &Disk::new())
}

fn number(page: &str, metric: &str) -> f64 {
    number_of(STORE, page, metric)
}

/// A number of a store, `store_usable` for example, in a page of the metrics.
fn number_of(store: &str, page: &str, metric: &str) -> f64 {
    let labels = format!("cluster=\"tsdb/cluster/nodes/\",store=\"{store}\"");
    let name = format!("consul_ffi_store_{metric}{{{labels}}} ");
    let found = page.lines().find_map(|line| line.strip_prefix(&name));
    found.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {metric}"))
}

fn all(page: &str) -> [f64; 4] {
    ["shards_at_risk", "replicas_moving", "replicas_replaced", "usable"].map(|it| number(page, it))
}

/// The page of these nodes alone: that of the process has the clusters of all other tests.
fn page_of(nodes: &[Process]) -> String {
    let mut page = Page::default();
    nodes.iter().for_each(|node| Source::write(&*node.store, &mut page));
    page.text(Format::Prometheus)
}

#[test]
fn replicas_that_no_node_is_there_for_are_missing_in_the_numbers() {
    let cases = Cases::new();
    let nodes = ["n1", "n2"].map(|id| start(&cases, STORE_OF_FEW, id));
    let missing = || number_of(STORE_OF_FEW, &page_of(&nodes), "replicas_missing");
    cases.wait_until(120, || missing() == f64::from(nodes[0].store.options().shards));
    let third = start(&cases, STORE_OF_FEW, "n3");
    cases.wait_until(120, || missing() == 0.0 && third.is_settled(3));
}

#[test]
#[ignore = "computes long: make test-all"]
fn the_numbers_of_a_store_tell_moves_repairs_and_risks_apart() {
    let cases = Cases::new();
    let first = start(&cases, STORE, "n1");
    cases.world.wait(Duration::from_secs(5));
    assert_eq!(all(&text(Format::Prometheus)), [0.0; 4], "two nodes are missing for a map");
    let mut nodes = vec![first, start(&cases, STORE, "n2"), start(&cases, STORE, "n3")];
    cases.wait_until(60, || nodes.iter().all(|it| it.is_settled(3)));
    assert_eq!(all(&text(Format::Prometheus)), [0.0, 0.0, 0.0, 1.0]);
    nodes.push(start(&cases, STORE, "n4"));
    cases.wait_until(60, || number(&page_of(&nodes), "replicas_moving") > 0.0);
    assert_eq!(number(&page_of(&nodes), "replicas_replaced"), 0.0);
    cases.wait_until(120, || all(&page_of(&nodes)) == [0.0, 0.0, 0.0, 1.0]);
    cases.kill(&nodes[3]);
    cases.wait_until(120, || number(&page_of(&nodes), "replicas_replaced") > 0.0);
    assert_eq!(number(&page_of(&nodes), "replicas_moving"), 0.0);
    cases.wait_until(120, || all(&page_of(&nodes)) == [0.0, 0.0, 0.0, 1.0]);
    assert_eq!(number(&page_of(&nodes), "replicas_missing"), 0.0, "others have them");
    cases.kill(&nodes[2]);
    // The gauge does not end with the membership of the node.
    cases.wait_until(60, || number(&page_of(&nodes), "replicas_missing") == 8.0);
    cases.world.run(nodes[0].cluster.forget(None, "n3")).expect("it is down");
    cases.world.wait(Duration::from_secs(20));
    assert_eq!(number(&page_of(&nodes), "replicas_missing"), 8.0);
    assert_eq!(number(&page_of(&nodes), "shards_at_risk"), 0.0);
    cases.kill(&nodes[1]);
    cases.wait_until(60, || number(&page_of(&nodes), "shards_at_risk") == 8.0);
}

/// The leader knows whose storage fails, and each node its own.
#[test]
fn replicas_whose_storage_fails_are_missing_in_the_numbers() {
    let cases = Cases::new();
    let nodes: Vec<Process> =
        ["n1", "n2", "n3"].map(|id| start(&cases, STORE_OF_FAULTS, id)).into();
    cases.wait_until(60, || nodes.iter().all(|it| it.is_settled(3)));
    let numbers = || {
        let page = page_of(&nodes);
        ["replicas_missing", "shards_at_risk"].map(|it| number_of(STORE_OF_FAULTS, &page, it))
    };
    assert_eq!(numbers(), [0.0, 0.0]);
    let fill = |nodes: &[Process], is_full: bool| {
        nodes.iter().for_each(|node| node.disk.is_full.store(is_full, Relaxed));
        cases.write(&nodes[0], "a", "data")
    };
    fill(&nodes[2..], true).expect("two others take it");
    cases.wait_until(10, || numbers() == [8.0, 0.0]);
    fill(&nodes[1..], true).expect_err("one is left");
    cases.wait_until(10, || numbers() == [16.0, 8.0]);
    fill(&nodes, false).expect("all have room");
    cases.wait_until(20, || numbers() == [0.0, 0.0]);
}

/// Each node tells how long ago all replicas of its shards were equal, also after a restart; a replica that is away ends
/// that.
#[test]
#[ignore = "computes long: make test-all"]
fn the_time_since_a_repair_is_told_and_counted_when_it_is_overdue() {
    let cases = Cases::new();
    let start = |id: &str, disk: &std::sync::Arc<Disk>| {
        let options = Cases::options(id);
        let every = Duration::from_secs(30);
        let store =
            StoreOptions { repair_every: every, ..StoreOptions::new(STORE_OF_REPAIRS, &options) };
        cases.start_with(options, store, disk)
    };
    let nodes = ["n1", "n2", "n3"].map(|id| start(id, &Disk::new()));
    cases.world.run(nodes[0].store.ready()).expect("a map");
    let ago = |node: &Process| node.store.status().iter().map(|it| it.repaired).collect::<Vec<_>>();
    let unrepaired = |nodes: &[Process]| {
        let mut page = Page::default();
        nodes.iter().for_each(|node| Source::write(&*node.store, &mut page));
        let page = page.text(Format::Prometheus);
        let labels = format!("cluster=\"tsdb/cluster/nodes/\",store=\"{STORE_OF_REPAIRS}\"");
        let name = format!("consul_ffi_store_shards_unrepaired{{{labels}}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)).expect("the metric").to_owned()
    };
    assert!(nodes.iter().all(|node| ago(node).iter().all(Option::is_none)));
    for _ in 0..30 {
        cases.world.wait(Duration::from_secs(10));
        assert_eq!(unrepaired(&nodes), "0");
    }
    let is_fresh = |it: &Option<Duration>| it.is_some_and(|ago| ago <= Duration::from_secs(35));
    assert!(nodes.iter().all(|node| ago(node).iter().all(is_fresh)), "{:?}", ago(&nodes[0]));
    cases.kill(&nodes[1]);
    let began = cases.world.clock.now();
    cases.wait_until(100, || unrepaired(&nodes[..1]) == "8");
    // It was killed up to 30 s after the last repair.
    assert!(cases.world.clock.now() - began >= Duration::from_secs(55));
    // The knowledge outlives the process.
    cases.kill(&nodes[0]);
    let again = start("n1", &nodes[0].disk);
    cases.world.run(again.store.ready()).expect("a map");
    cases.wait_until(20, || again.store.holder().is_some());
    assert!(ago(&again).iter().all(|it| it.is_some_and(|ago| ago >= Duration::from_secs(55))));
    let back = start("n2", &nodes[1].disk);
    cases.wait_until(90, || {
        unrepaired(std::slice::from_ref(&again)) == "0" && ago(&back).iter().all(is_fresh)
    });
}
