//! The numbers of a store as Prometheus reads them: the alert rules are about them.

use super::{Cases, Disk, Process};
use consul_cluster::stores::StoreOptions;
use consul_process::metrics::{Format, Page, Source, text};

/// Other tests of this process have a store of their own.
const STORE: &str = "of-numbers";

fn start(cases: &Cases, id: &str) -> Process {
    let options = Cases::options(id);
    let store = StoreOptions::new(STORE, &options);
    cases.start_with(options, store, &Disk::new())
}

/// A number of the store, `store_usable` for example, in a page of the metrics.
fn number(page: &str, metric: &str) -> f64 {
    let name = format!("consul_ffi_store_{metric}{{store=\"{STORE}\"}} ");
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
fn the_numbers_of_a_store_tell_moves_repairs_and_risks_apart() {
    let cases = Cases::new();
    let first = start(&cases, "n1");
    cases.world.wait(std::time::Duration::from_secs(5));
    assert_eq!(all(&text(Format::Prometheus)), [0.0; 4], "two nodes are missing for a map");
    let mut nodes = vec![first, start(&cases, "n2"), start(&cases, "n3")];
    cases.wait_until(60, || nodes.iter().all(|it| it.is_settled(3)));
    assert_eq!(all(&text(Format::Prometheus)), [0.0, 0.0, 0.0, 1.0]);
    nodes.push(start(&cases, "n4"));
    cases.wait_until(60, || number(&page_of(&nodes), "replicas_moving") > 0.0);
    assert_eq!(number(&page_of(&nodes), "replicas_replaced"), 0.0);
    cases.wait_until(120, || all(&page_of(&nodes)) == [0.0, 0.0, 0.0, 1.0]);
    cases.kill(&nodes[3]);
    cases.wait_until(120, || number(&page_of(&nodes), "replicas_replaced") > 0.0);
    assert_eq!(number(&page_of(&nodes), "replicas_moving"), 0.0);
    cases.wait_until(120, || all(&page_of(&nodes)) == [0.0, 0.0, 0.0, 1.0]);
    cases.kill(&nodes[2]);
    cases.kill(&nodes[1]);
    cases.wait_until(60, || number(&page_of(&nodes), "shards_at_risk") == 8.0);
}
