//! A store that nobody uses any more is forgotten, and no disk brings it back.

use super::*;
use crate::requests::look;
use consul_cluster::stores::forget::{ask, find, withdraw};

const FORGOTTEN: &str = "tsdb/cluster/shards/forgotten/points";

/// A node without a store.
struct Plain {
    node: crate::nodes::Process,
    work: TaskId,
}

impl Cases {
    /// Two nodes without a store, and the nodes of the store, which are stopped.
    fn with_a_store_of_nobody() -> (Cases, [Plain; 2], Vec<Process>) {
        let (cases, nodes) = Cases::filled(3);
        let others = ["n8", "n9"].map(|id| cases.plain(id));
        cases.world.wait(Duration::from_secs(10));
        nodes.iter().for_each(|node| cases.stop(node));
        cases.world.wait(Duration::from_secs(30));
        (cases, others, nodes)
    }

    /// A node without a store, which does the leader's work for stores.
    fn plain(&self, id: &str) -> Plain {
        let node = self.world.start(Self::options(id));
        let (cluster, network) = (Arc::clone(&node.cluster), self.network.of(id));
        let work = self.world.clock.spawn(async move {
            let reach: leader::Reach = Arc::new(move |_| Arc::new(network.clone()));
            match leader::run(&cluster, &reach).await {}
        });
        Plain { node, work }
    }

    fn kill_plain(&self, plain: &Plain) {
        self.world.clock.cancel(plain.work);
        self.world.kill(&plain.node);
    }

    fn keys_of_the_store(&self) -> Vec<String> {
        let listed = self.world.get("/v1/kv/tsdb/cluster/shards/?keys").unwrap_or_default();
        let keys: Vec<String> = serde_json::from_str(&listed).expect("a list");
        keys.into_iter().filter(|key| key.contains("points") && key != FORGOTTEN).collect()
    }

    fn forget(&self) {
        self.world.run(ask(&look(&self.world), "points", "ada")).expect("an answer");
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_store_that_nobody_has_open_is_forgotten_and_comesback_empty() {
    let (cases, _others, nodes) = Cases::with_a_store_of_nobody();
    let found = cases.world.run(find(&look(&cases.world), "points")).expect("an answer");
    let found = found.expect("the store");
    assert!(found.users.is_empty() && found.disks.contains("n1"), "{found:?}");
    cases.forget();
    cases.world.wait(Duration::from_secs(3));
    assert_eq!(cases.keys_of_the_store(), Vec::<String>::new());
    let gone = cases.world.run(find(&look(&cases.world), "points")).expect("an answer");
    assert_eq!(gone, None);
    // The leader does not put it back from its memory.
    cases.world.wait(Duration::from_secs(60));
    assert_eq!(cases.keys_of_the_store(), Vec::<String>::new());
    // An old disk is refused by name, and leaves nothing in Consul.
    let old = cases.start("n1", &nodes[0].disk);
    cases.wait_until(60, || old.store.checked().is_err());
    let why = old.store.checked().expect_err("refused").message().to_owned();
    assert!(why.contains("ada has forgotten") && why.contains(FORGOTTEN), "{why}");
    cases.world.wait(Duration::from_secs(60));
    assert_eq!(cases.keys_of_the_store(), Vec::<String>::new());
    // A new store of the name begins on new disks.
    let fresh = ["n4", "n5", "n6"].map(|id| cases.start(id, &Disk::new()));
    cases.world.run(fresh[0].store.ready()).expect("a first map");
    cases.world.wait(Duration::from_secs(30));
    assert!(fresh.iter().all(|node| node.store.checked().is_ok()));
    // That it is forgotten too brings the earlier one not back.
    cases.stop(&old);
    fresh.iter().for_each(|node| cases.stop(node));
    cases.world.wait(Duration::from_secs(30));
    cases.forget();
    cases.world.wait(Duration::from_secs(3));
    let old = cases.start("n1", &nodes[0].disk);
    cases.wait_until(60, || old.store.checked().is_err());
    cases.world.wait(Duration::from_secs(60));
    assert_eq!(cases.keys_of_the_store(), Vec::<String>::new());
}

#[test]
fn a_store_that_a_live_node_has_open_is_not_forgotten() {
    let (cases, nodes) = Cases::filled(3);
    let found = cases.world.run(find(&look(&cases.world), "points")).expect("an answer");
    assert_eq!(found.expect("the store").users.len(), 3);
    cases.forget();
    cases.world.wait(Duration::from_secs(3));
    let found = cases.world.run(find(&look(&cases.world), "points")).expect("an answer");
    assert!(!found.expect("the store").is_asked, "the leader has refused it");
    cases.has(&nodes[0], "before");
    let unknown = cases.world.run(find(&look(&cases.world), "other")).expect("an answer");
    assert_eq!(unknown, None);
}

#[test]
fn a_change_of_the_leader_in_the_middle_forgets_it_all_the_same() {
    let (cases, others, _nodes) = Cases::with_a_store_of_nobody();
    let leader = others.iter().find(|it| it.node.cluster.is_leader()).expect("a leader");
    cases.kill_plain(leader);
    cases.forget();
    cases.world.wait(Duration::from_secs(2));
    assert!(!cases.keys_of_the_store().is_empty(), "nobody leads");
    cases.world.wait(Duration::from_secs(60));
    assert_eq!(cases.keys_of_the_store(), Vec::<String>::new());
}

#[test]
fn a_request_is_withdrawn() {
    let (cases, others, nodes) = Cases::with_a_store_of_nobody();
    others.iter().for_each(|it| cases.kill_plain(it));
    cases.forget();
    let operator = look(&cases.world);
    let is_asked = || {
        let found = cases.world.run(find(&operator, "points")).expect("an answer");
        found.expect("the store").is_asked
    };
    assert!(is_asked());
    cases.world.run(withdraw(&operator, "points")).expect("an answer");
    assert!(!is_asked());
    let back = [0, 1, 2].map(|at| cases.start(&format!("n{}", at + 1), &nodes[at].disk));
    cases.world.run(back[0].store.ready()).expect("the old map");
    cases.has(&back[0], "before");
}
