//! Disks that are lost, that belong to another node, or that are older than they should be.

use super::*;
use consul_cluster::stores::Survives;
use consul_replication::record::Record;
use consul_sim::Fault;

/// The id of an opening by another process.
const OTHER: u64 = 7;

impl Cases {
    /// A process of n2 that dies this time after it has opened its disk.
    fn open_briefly(&self, disk: &Arc<Disk>, lives: Duration) {
        let mark = || self.world.run(disk.kept("disk")).expect("memory");
        let before = mark();
        let opened = self.start("n2", disk);
        while mark() == before {
            self.world.wait(Duration::from_millis(1));
        }
        self.world.wait(lives);
        self.kill(&opened);
    }

    /// Starts a store that does not end with its node, as in a program.
    fn start_apart(&self, id: &str, disk: &Arc<Disk>) -> Arc<Store> {
        let options = Cases::options(id);
        let store = StoreOptions::new("points", &options);
        let client = self.world.client();
        let cluster = Cluster::new(Arc::clone(&client), client, options).expect("options");
        let (peers, runtime) = (Arc::new(self.network.clone()), Arc::new(self.network.clone()));
        let storage = Some(Arc::clone(disk) as Arc<dyn Storage>);
        let store = Store::new(Arc::clone(&cluster), peers, runtime, storage, store);
        let store = store.expect("options");
        let running = Arc::clone(&store);
        self.world.clock.spawn(async move { _ = running.run().await });
        self.world.clock.spawn(async move { _ = cluster.run().await });
        store
    }

    /// Lets the mark of a disk be that of another process, which has opened it since.
    fn open_elsewhere(&self, disk: &Disk) {
        self.world.run(async {
            let mark = disk.kept("disk").await.expect("memory").expect("a mark");
            let mut mark: serde_json::Value = serde_json::from_slice(&mark).expect("a document");
            let last = mark["opening"]["id"].take();
            mark["before"] = serde_json::json!([last]);
            mark["opening"] = serde_json::json!({ "starts": 2, "id": OTHER });
            disk.keep("disk", mark.to_string().into()).await.expect("memory");
        });
    }

    fn is_of_the_other_process(&self, disk: &Disk) -> bool {
        let mark = self.world.run(disk.kept("disk")).expect("memory").expect("a mark");
        let mark: serde_json::Value = serde_json::from_slice(&mark).expect("a document");
        mark["opening"]["id"] == OTHER
    }

    /// Waits until a node that counts as empty has its replicas again, and then has all without another node.
    fn is_whole_without(&self, other: &Process, node: &Process) {
        self.is_filled_again(node);
        self.kill(other);
        self.has(node, "before");
        self.has(node, "after");
    }
}

/// Three nodes, the process of n2 that has opened its disk again, and a copy of that disk from before, which
/// lacks what was written since.
pub(super) fn with_an_old_copy() -> (Cases, Vec<Process>, Process, Arc<Disk>) {
    let (cases, nodes) = Cases::filled(3);
    let copy = cases.copy_of(&nodes[1].disk);
    cases.kill(&nodes[1]);
    let again = cases.start("n2", &nodes[1].disk);
    cases.world.wait(Duration::from_secs(20));
    cases.fill(&nodes[0], "after");
    (cases, nodes, again, copy)
}

#[test]
fn a_disk_that_is_lost_is_replaced_from_the_others() {
    let (cases, nodes) = Cases::filled(3);
    cases.kill(&nodes[1]);
    let back = cases.start("n2", &Disk::new());
    cases.is_filled_again(&back);
    cases.kill(&nodes[0]);
    cases.has(&back, "before");
}

#[test]
fn a_node_whose_disk_is_lost_says_so_before_the_leader_does() {
    // When the leader looks depends on all that came before.
    let says_so_first = (0..10).any(|phase: u64| {
        let (cases, nodes) = Cases::filled(3);
        cases.world.wait(Duration::from_millis(100 * phase));
        cases.kill(&nodes[1]);
        let back = cases.start("n2", &Disk::new());
        cases.world.run(back.store.ready()).expect("a map");
        while back.store.holder().is_none() {
            cases.world.wait(Duration::from_millis(1));
        }
        let is_first = nodes[0].is_settled(3);
        assert_eq!(back.holders(), set(&["n1", "n3"]));
        is_first
    });
    assert!(says_so_first, "the leader always knows it first");
}

#[test]
fn an_old_copy_of_a_disk_counts_as_lost() {
    let (cases, nodes, again, copy) = with_an_old_copy();
    cases.kill(&again);
    let old = cases.start("n2", &copy);
    cases.is_whole_without(&nodes[0], &old);
}

/// Its number of openings is then higher than that of the disk that it is a copy of.
#[test]
fn an_old_copy_of_a_disk_counts_as_lost_also_when_it_is_opened_again_and_again() {
    let (cases, nodes, again, copy) = with_an_old_copy();
    cases.kill(&again);
    for _ in 0..3 {
        cases.open_briefly(&copy, Duration::ZERO);
    }
    let old = cases.start("n2", &copy);
    cases.is_whole_without(&nodes[0], &old);
}

/// A process that dies as soon as it has opened its disk, and whose opening the leader may have seen.
#[test]
fn a_disk_that_is_opened_again_and_again_is_not_lost() {
    let (cases, nodes) = Cases::filled(3);
    let disk = &nodes[1].disk;
    cases.kill(&nodes[1]);
    for lives_ms in [0, 50, 150, 400, 1000, 3000] {
        cases.open_briefly(disk, Duration::from_millis(lives_ms));
    }
    let back = cases.start("n2", disk);
    cases.wait_until(20, || back.store.holder().is_some());
    assert!(nodes[0].is_settled(3), "{:?}", nodes[0].store.status());
    cases.world.wait(Duration::from_secs(20));
    cases.kill(&nodes[0]);
    cases.has(&back, "before");
}

#[test]
fn an_old_copy_of_a_disk_counts_as_lost_although_the_node_had_another_disk_since() {
    let (cases, nodes, again, copy) = with_an_old_copy();
    cases.kill(&again);
    // So short that no slot gets another disk.
    let other = cases.start("n2", &Disk::new());
    cases.world.wait(Duration::from_millis(300));
    cases.kill(&other);
    let old = cases.start("n2", &copy);
    cases.is_whole_without(&nodes[0], &old);
}

#[test]
fn an_old_copy_of_a_disk_counts_as_lost_although_consul_was_wiped() {
    let (cases, nodes, again, copy) = with_an_old_copy();
    nodes.iter().chain([&again]).for_each(|node| cases.kill(node));
    cases.world.agent.restart(Retained::Nothing);
    let old = cases.start("n2", &copy);
    let others = ["n1", "n3"].map(|id| {
        let disk = if id == "n1" { &nodes[0].disk } else { &nodes[2].disk };
        cases.start(id, disk)
    });
    cases.is_whole_without(&others[0], &old);
}

/// Its node puts back the map that the copy has, before others come who know a later opening of the disk.
#[test]
#[ignore = "computes long: make test-all"]
fn an_old_copy_of_a_disk_counts_as_lost_although_consul_was_wiped_and_its_node_is_first() {
    for ahead_s in [0, 1, 2, 4, 8, 15, 40] {
        for openings in [0, 2] {
            let (cases, nodes, again, copy) = with_an_old_copy();
            nodes.iter().chain([&again]).for_each(|node| cases.kill(node));
            cases.world.agent.restart(Retained::Nothing);
            for _ in 0..openings {
                cases.open_briefly(&copy, Duration::from_secs(2));
            }
            let old = cases.start("n2", &copy);
            cases.world.wait(Duration::from_secs(ahead_s));
            // n1 is away: of the live disks that of n3 alone has what was written after the copy.
            let other = cases.start("n3", &nodes[2].disk);
            for _ in 0..200 {
                cases.world.wait(Duration::from_millis(100));
                for key in ["after-1", "after-7"] {
                    let (range, deadline) = (Range::all(), cases.deadline(1));
                    let read = other.store.read(key.as_bytes(), &range, 1, deadline);
                    if let Ok(page) = cases.world.run(read) {
                        assert!(
                            !page.records.is_empty(),
                            "{ahead_s} s, {openings}: a complete read without {key}"
                        );
                    }
                }
            }
            let first = cases.start("n1", &nodes[0].disk);
            cases.is_whole_without(&first, &old);
        }
    }
}

#[test]
fn a_replica_does_not_count_before_its_disk_is_known_to_be_the_newest() {
    let (cases, nodes, again, copy) = with_an_old_copy();
    nodes[1..].iter().chain([&again]).for_each(|node| cases.kill(node));
    // The old copy and n1 are two of three replicas, and n3 and n2 have each acknowledged write.
    let _old = cases.start("n2", &copy);
    let read = |key: &str| {
        let (range, deadline) = (Range::all(), cases.deadline(1));
        cases.world.run(nodes[0].store.read(key.as_bytes(), &range, 1, deadline)).is_ok()
    };
    for number in 0..20 {
        assert!(!read(&format!("after-{number}")), "a complete read");
    }
}

#[test]
fn a_storage_belongs_to_one_store_of_one_node() {
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    let options = Cases::options("n1");
    let other = StoreOptions::new("others", &options);
    cases.kill(&nodes[0]);
    let taken = cases.start_with(options, other, &nodes[0].disk);
    let why = cases.world.run(taken.store.ready()).expect_err("a storage of another store");
    assert!(why.message().contains("the records of store \"points\" of node \"n1\""), "{why}");
}

#[test]
fn a_process_without_the_name_of_its_node_does_not_touch_the_store() {
    let (cases, nodes) = Cases::filled(3);
    let disk = Disk::new();
    let _second = cases.start_apart("n1", &disk);
    cases.world.wait(Duration::from_secs(30));
    assert_eq!(cases.world.run(disk.kept("disk")).expect("memory"), None);
    assert!(nodes[0].is_settled(3));
    cases.fill(&nodes[0], "after");
}

/// Records that survive the process only are lost with the machine.
#[test]
fn a_disk_that_does_not_survive_the_machine_counts_as_lost_after_its_restart() {
    let cases = Cases::new();
    let start = |id: &str, disk: &Arc<Disk>| {
        let options = Cases::options(id);
        let survives = Survives::Process;
        let store = StoreOptions { survives, ..StoreOptions::new("points", &options) };
        cases.start_with(options, store, disk)
    };
    let nodes = ["n1", "n2", "n3"].map(|id| start(id, &Disk::new()));
    cases.world.run(nodes[0].store.ready()).expect("a map");
    cases.fill(&nodes[0], "before");
    // A process that is started again has its disk.
    cases.kill(&nodes[1]);
    let again = start("n2", &nodes[1].disk);
    cases.world.run(again.store.ready()).expect("a map");
    for _ in 0..200 {
        cases.world.wait(Duration::from_millis(100));
        assert!(again.is_settled(3));
    }
    cases.kill(&again);
    let disk = &nodes[1].disk;
    cases.world.run(async {
        let mark = disk.kept("disk").await.expect("memory").expect("a mark");
        let mark = String::from_utf8(mark.to_vec()).expect("a text");
        let (before, boot) = mark.split_once("\"boot\":\"").expect("the machine's start");
        let (_, after) = boot.split_once('"').expect("its end");
        let other = format!("{before}\"boot\":\"another\"{after}");
        disk.keep("disk", other.into()).await.expect("memory");
    });
    let back = start("n2", disk);
    cases.world.run(back.store.ready()).expect("a map");
    cases.wait_until(40, || !back.is_settled(3));
    cases.wait_until(60, || back.is_settled(3));
    cases.kill(&nodes[0]);
    cases.has(&back, "before");
}

/// Operators may set another durability, for all nodes at once.
#[test]
fn disks_whose_storages_survive_more_or_less_from_now_on_are_not_lost() {
    let cases = Cases::new();
    let disks = [(); 3].map(|()| Disk::new());
    let start = |number: usize, survives: Survives| {
        let options = Cases::options(&format!("n{}", number + 1));
        let store = StoreOptions { survives, ..StoreOptions::new("points", &options) };
        cases.start_with(options, store, &disks[number])
    };
    let mut filled = false;
    for survives in [Survives::Machine, Survives::Process, Survives::Machine] {
        let nodes = [0, 1, 2].map(|number| start(number, survives));
        cases.world.run(nodes[0].store.ready()).expect("a map");
        if !filled {
            cases.fill(&nodes[0], "before");
            filled = true;
        }
        cases.world.wait(Duration::from_secs(20));
        assert!(nodes[2].is_settled(3), "{:?}", nodes[2].store.status());
        cases.has(&nodes[1], "before");
        nodes.iter().for_each(|node| cases.kill(node));
    }
}

#[test]
fn two_copies_of_a_disk_that_were_opened_equally_often_are_distinguished() {
    let (cases, nodes) = Cases::filled(3);
    cases.kill(&nodes[1]);
    let copy = cases.copy_of(&nodes[1].disk);
    let again = cases.start("n2", &nodes[1].disk);
    cases.world.wait(Duration::from_secs(20));
    cases.fill(&nodes[0], "after");
    cases.kill(&again);
    let old = cases.start("n2", &copy);
    cases.is_filled_again(&old);
    cases.kill(&nodes[0]);
    cases.has(&old, "after");
}

#[test]
fn what_ends_with_the_process_counts_as_lost_after_its_restart() {
    let (cases, nodes) = Cases::filled(3);
    cases.kill(&nodes[1]);
    let options = Cases::options("n2");
    let survives = Survives::Nothing;
    let store = StoreOptions { survives, ..StoreOptions::new("points", &options) };
    let back = cases.start_with(options, store, &nodes[1].disk);
    cases.is_filled_again(&back);
}

/// The other process takes the node's name when this one has ended.
#[test]
fn a_new_disk_that_another_process_has_opened_since_is_left_to_that_one() {
    let cases = Cases::new();
    let first = cases.start("n1", &Disk::new());
    cases.world.wait(Duration::from_secs(5));
    cases.open_elsewhere(&first.disk);
    let _others = ["n2", "n3"].map(|id| cases.start(id, &Disk::new()));
    cases.world.run(first.store.ready()).expect("a map");
    cases.world.wait(Duration::from_secs(10));
    assert!(cases.is_of_the_other_process(&first.disk));
    assert!(first.store.holder().is_none());
}

/// A process without Consul has lost the node's name to another one, which has its disk too.
#[test]
fn a_disk_that_another_process_has_opened_since_is_left_to_that_one() {
    let cases = Cases::new();
    let disk = Disk::new();
    let others = ["n1", "n3"].map(|id| cases.start(id, &Disk::new()));
    let first = cases.start_apart("n2", &disk);
    cases.wait_until(30, || others[0].is_settled(3));
    cases.fill(&others[0], "before");
    // The client of that process.
    let clients = vec!["2".to_owned()];
    cases.world.agent.add_fault(Fault { clients, partition: true, ..Fault::default() });
    cases.world.wait(Duration::from_secs(45));
    let second = cases.start("n2", &disk);
    cases.wait_until(60, || second.store.holder().is_some());
    cases.fill(&second, "after");
    cases.world.agent.clear_faults();
    cases.wait_until(60, || first.checked().is_err());
    let why = first.checked().expect_err("the disk of another process");
    assert!(why.message().contains("another process has opened the storage"), "{why}");
    cases.world.wait(Duration::from_secs(20));
    assert!(second.is_settled(3));
    cases.kill(&others[0]);
    cases.has(&second, "before");
    cases.has(&second, "after");
}

/// It gives records of shards that the node does not have any more to the nodes that have them, and drops them then.
#[test]
fn an_old_disk_is_emptied_when_others_have_what_it_has() {
    let (cases, nodes) = Cases::filled(4);
    let copy = cases.copy_of(&nodes[3].disk);
    cases.world.run(async {
        for shard in 0..8 {
            let records = nodes[3].disk.scan(shard, Range::all(), 100).await.expect("memory");
            copy.apply(shard, records).await.expect("memory");
        }
    });
    assert!(!copy.records(8).is_empty());
    cases.kill(&nodes[3]);
    let again = cases.start("n4", &nodes[3].disk);
    cases.wait_until(60, || again.store.holder().is_some());
    let drain = nodes[0].cluster.set_mode("n4", consul_cluster::Mode::Draining);
    cases.world.run(drain).expect("the right to do so");
    cases.wait_until(60, || again.store.holds_none());
    cases.kill(&again);
    // A record that nobody else has, in a shard that this disk has.
    let shard = (0..8).find(|shard| {
        let records = cases.world.run(nodes[3].disk.kept(&format!("shard/{shard}")));
        records.expect("memory").is_some()
    });
    let shard = shard.expect("one of the 8 shards");
    let version = copy.records(8).into_iter().map(|record| record.version).max();
    let (id, data) = (Bytes::from("only-here"), Some(Bytes::from("x")));
    let only = Record { id: id.clone(), version: version.expect("records"), data };
    cases.world.run(copy.apply(shard, vec![only])).expect("memory");
    let old = cases.start("n4", &copy);
    cases.wait_until(60, || old.store.holder().is_some());
    let drain = nodes[0].cluster.set_mode("n4", consul_cluster::Mode::Draining);
    cases.world.run(drain).expect("the right to do so");
    cases.wait_until(120, || copy.records(8).is_empty());
    let others = nodes[..3].iter().map(|node| node.disk.records(8));
    let have = others.filter(|records| records.iter().any(|record| record.id == id));
    assert_eq!(have.count(), 3);
}
