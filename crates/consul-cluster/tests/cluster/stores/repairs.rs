//! The records that a node gets after it has missed them, and the ones that it purges and drops.

use super::*;
use consul_cluster::Mode;
use consul_replication::record::{HybridTime, Record, Version};

const SHARDS: u32 = 8;
const DAY: Duration = Duration::from_secs(86_400);

impl Cases {
    /// Starts a node that compares its replicas this often.
    fn start_repairing(&self, id: &str, repair_every: Duration, disk: &Arc<Disk>) -> Process {
        let options = Cases::options(id);
        let store = StoreOptions { repair_every, ..StoreOptions::new("points", &options) };
        self.start_with(options, store, disk)
    }

    fn three_repairing(&self, repair_every: Duration) -> [Process; 3] {
        let start = |id| self.start_repairing(id, repair_every, &Disk::new());
        let nodes = ["n1", "n2", "n3"].map(start);
        self.world.run(nodes[0].store.ready()).expect("a map");
        nodes
    }

    fn set_mode_of_n4(&self, nodes: &[Process], mode: Mode) {
        let set = nodes[0].cluster.set_mode("n4", mode);
        self.world.run(set).expect("the right to do so");
    }

    fn drain_n4(&self, nodes: &[Process]) {
        self.set_mode_of_n4(nodes, Mode::Draining);
        self.wait_until(60, || nodes[3].store.holds_none());
    }
}

impl Process {
    fn records(&self) -> Vec<Record> {
        self.disk.records(SHARDS)
    }

    fn count(&self) -> usize {
        self.records().len()
    }

    /// Takes all records from its disk.
    fn forget(&self, cases: &Cases) {
        cases.world.run(async {
            for shard in 0..SHARDS {
                self.disk.drop_shard(shard).await.expect("memory");
            }
        });
    }
}

#[test]
fn a_node_that_was_away_gets_what_it_missed_before_the_next_repair() {
    let cases = Cases::new();
    let nodes = cases.three_repairing(DAY);
    cases.world.wait(Duration::from_secs(20));
    cases.kill(&nodes[2]);
    cases.fill(&nodes[0], "meanwhile");
    // At first nobody answers.
    let others = ["n1", "n2"].map(NodeId::from);
    let stores =
        |id: &NodeId| cases.network.stores.lock().expect("no panic").remove(id).expect("it runs");
    let silent = others.each_ref().map(stores);
    let back = cases.start_repairing("n3", DAY, &nodes[2].disk);
    cases.world.wait(Duration::from_secs(20));
    assert_eq!(back.count(), 0);
    cases.network.stores.lock().expect("no panic").extend(others.into_iter().zip(silent));
    cases.wait_until(20, || back.count() == 40);
}

#[test]
fn a_replica_that_lacks_records_gets_them_by_the_next_repair() {
    let cases = Cases::new();
    let nodes = cases.three_repairing(Duration::from_secs(30));
    cases.fill(&nodes[0], "before");
    cases.world.wait(Duration::from_secs(20));
    nodes[2].forget(&cases);
    cases.wait_until(60, || nodes[2].count() == 40);
}

/// For each replica that is away, also the comparing one, and for each other that lacks something.
#[test]
#[ignore = "computes long: make test-all"]
fn the_replicas_that_are_there_become_equal() {
    for away in 0..3 {
        for lacking in (0..3).filter(|it| *it != away) {
            let cases = Cases::new();
            let nodes = cases.three_repairing(Duration::from_secs(30));
            cases.world.wait(Duration::from_secs(20));
            cases.kill(&nodes[away]);
            cases.fill(&nodes[lacking], "meanwhile");
            let deletion = vec![(Bytes::from("meanwhile-0"), None)];
            let deleted = nodes[lacking].store.write(b"meanwhile-0", deletion, cases.deadline(10));
            cases.world.run(deleted).expect("a quorum");
            nodes[lacking].forget(&cases);
            let there: Vec<&Process> =
                (0..3).filter(|it| *it != away).map(|it| &nodes[it]).collect();
            let is_equal = || there[0].records() == there[1].records();
            cases.wait_until(70, || nodes[lacking].count() == 40 && is_equal());
            // The absent one knows nothing of the deletion.
            cases.world.wait(Duration::from_secs(200));
            assert!(is_equal() && there[0].count() == 40);
            assert_eq!(there[0].records().iter().filter(|it| it.data.is_none()).count(), 1);
        }
    }
}

/// Two that cannot call each other, and a third one between them.
#[test]
#[ignore = "computes long: make test-all"]
fn replicas_of_which_two_cannot_reach_each_other_become_equal() {
    for between in 0..3 {
        let cases = Cases::new();
        let nodes = cases.three_repairing(Duration::from_secs(30));
        cases.world.wait(Duration::from_secs(20));
        {
            let mut keys = cases.network.keys.lock().expect("no panic");
            let ends = [&["one"][..], &["two"][..]];
            let others = (0..3).filter(|it| *it != between).zip(ends);
            let all = others.chain([(between, &["one", "two"][..])]);
            keys.extend(all.map(|(it, of)| (NodeId::from(format!("n{}", it + 1).as_str()), of)));
        }
        cases.fill(&nodes[between], "meanwhile");
        let ends: Vec<&Process> = (0..3).filter(|it| *it != between).map(|it| &nodes[it]).collect();
        for lacking in ends {
            lacking.forget(&cases);
            cases.wait_until(70, || lacking.records() == nodes[between].records());
            assert_eq!(lacking.count(), 40);
        }
    }
}

/// A disk that has lost old records proves nothing: the others keep them, also after repairs.
#[test]
#[ignore = "computes long: make test-all"]
fn records_that_a_disk_has_lost_are_deleted_nowhere() {
    for lost in 0..3 {
        let cases = Cases::new();
        let nodes = cases.three_repairing(Duration::from_secs(30));
        cases.fill(&nodes[0], "before");
        // They are older than the horizons.
        cases.world.wait(Duration::from_secs(200));
        nodes[lost].forget(&cases);
        cases.world.wait(Duration::from_secs(200));
        for other in (0..3).filter(|it| *it != lost) {
            let records = nodes[other].records();
            assert!(records.len() == 40 && records.iter().all(|it| it.data.is_some()));
        }
        cases.has(&nodes[lost], "before");
    }
}

#[test]
fn a_replica_that_lacks_records_gets_those_that_are_read() {
    let cases = Cases::new();
    let start = |id: &str| {
        let options = Cases::options(id);
        let quorums = Quorums { replicas: 3, write: 1, read: 3 };
        let store =
            StoreOptions { quorums, repair_every: DAY, ..StoreOptions::new("points", &options) };
        cases.start_with(options, store, &Disk::new())
    };
    let nodes = ["n1", "n2", "n3"].map(start);
    cases.world.run(nodes[0].store.ready()).expect("a map");
    cases.fill(&nodes[0], "before");
    cases.world.wait(Duration::from_secs(20));
    nodes[2].forget(&cases);
    cases.has(&nodes[0], "before");
    cases.wait_until(2, || nodes[2].count() == 40);
}

/// A write that succeeds in the end, while replicas need some time to store it.
#[test]
#[ignore = "computes long: make test-all"]
fn reads_after_each_other_do_not_go_back_during_a_write() {
    for slow in [vec![0], vec![2], vec![0, 1], vec![1, 2], vec![0, 2]] {
        for delay_ms in [20, 150, 400] {
            let cases = Cases::new();
            let nodes = cases.three_repairing(DAY);
            cases.write(&nodes[0], "key", "old").expect("a quorum");
            cases.world.wait(Duration::from_secs(20));
            for place in &slow {
                let slow = (cases.world.clock.clone(), Duration::from_millis(delay_ms));
                *nodes[*place].disk.slow_apply.lock().expect("no panic") = Some(slow);
            }
            let (store, deadline) = (Arc::clone(&nodes[0].store), cases.deadline(10));
            let is_written = Arc::new(Mutex::new(false));
            let written = Arc::clone(&is_written);
            cases.world.clock.spawn(async move {
                let records = vec![(Bytes::from("key"), Some(Bytes::from("new")))];
                store.write(b"key", records, deadline).await.expect("a quorum");
                *written.lock().expect("no panic") = true;
            });
            let mut seen = Vec::new();
            for number in 0..300 {
                seen.push(cases.read(&nodes[number % 3], "key").expect("it was written"));
                cases.world.wait(Duration::from_millis(5));
            }
            assert!(*is_written.lock().expect("no panic"));
            assert!(
                seen.is_sorted_by(|a, b| a == b || a == "old"),
                "{slow:?} {delay_ms}: {seen:?}"
            );
            assert_eq!(seen.last().map(String::as_str), Some("new"));
        }
    }
}

/// The same while replicas fail to store it for some time.
#[test]
#[ignore = "computes long: make test-all"]
fn reads_after_each_other_do_not_go_back_while_storages_fail() {
    for failing in [vec![1, 2], vec![0, 1], vec![0, 2]] {
        for fails in [1, 4] {
            let cases = Cases::new();
            let nodes = cases.three_repairing(DAY);
            cases.write(&nodes[0], "key", "old").expect("a quorum");
            cases.world.wait(Duration::from_secs(20));
            let break_them = |function| {
                for place in &failing {
                    *nodes[*place].disk.broken.lock().expect("no panic") = function;
                }
            };
            break_them(Some("apply"));
            let (store, deadline) = (Arc::clone(&nodes[0].store), cases.deadline(10));
            cases.world.clock.spawn(async move {
                let records = vec![(Bytes::from("key"), Some(Bytes::from("new")))];
                store.write(b"key", records, deadline).await.expect("a quorum");
            });
            // Reads begin meanwhile, and the storages work again before one has waited for its longest time.
            let mut seen = Vec::new();
            let reads: Vec<_> = (0..3)
                .map(|place| {
                    let (store, deadline) = (Arc::clone(&nodes[place].store), cases.deadline(10));
                    let range = Range { from: Bytes::from("key"), ..Range::all() };
                    async move { store.read(b"key", &range, 1, deadline).await }
                })
                .collect();
            let clock = cases.world.clock.clone();
            cases.world.run(async {
                let end = async {
                    clock.sleep(Duration::from_millis(100 * fails)).await;
                    break_them(None);
                };
                let each = async {
                    for read in reads {
                        let page = read.await.expect("a complete read");
                        let data = page.records.into_iter().next().and_then(|it| it.data);
                        seen.push(data.expect("it was written"));
                    }
                };
                futures_util::join!(end, each);
            });
            for number in 0..30 {
                seen.push(cases.read(&nodes[number % 3], "key").expect("it was written").into());
            }
            assert!(
                seen.is_sorted_by(|a, b| a == b || a == "old"),
                "{failing:?} {fails}: {seen:?}"
            );
        }
    }
}

#[test]
fn a_deleted_record_is_purged_by_a_repair_when_it_is_a_minute_old() {
    let cases = Cases::new();
    let nodes = cases.three_repairing(Duration::from_secs(10));
    cases.write(&nodes[0], "gone", "x").expect("a quorum");
    let deletion = vec![(Bytes::from("gone"), None)];
    let deleted = nodes[0].store.write(b"gone", deletion, cases.deadline(10));
    cases.world.run(deleted).expect("a quorum");
    cases.world.wait(Duration::from_secs(50));
    assert!(nodes.iter().all(|node| node.count() == 1));
    cases.wait_until(60, || nodes.iter().all(|node| node.count() == 0));
}

/// Four nodes that keep what was moved away for a minute.
fn dropping_after_a_minute() -> (Cases, [Process; 4]) {
    let cases = Cases::new();
    let start = |n: usize| {
        let options = Cases::options(&format!("n{n}"));
        let drop_after = Duration::from_secs(60);
        let store =
            StoreOptions { drop_after, repair_every: DAY, ..StoreOptions::new("points", &options) };
        cases.start_with(options, store, &Disk::new())
    };
    let nodes = [1, 2, 3, 4].map(start);
    cases.world.run(nodes[0].store.ready()).expect("a map");
    cases.fill(&nodes[0], "before");
    (cases, nodes)
}

#[test]
fn what_was_moved_away_is_dropped_later_and_given_to_the_others_before() {
    let (cases, nodes) = dropping_after_a_minute();
    cases.drain_n4(&nodes);
    let left = nodes[3].disk.records(SHARDS);
    assert!(!left.is_empty());
    // A record that only the node has that is to drop it.
    let version = Version::new(HybridTime::from_ms(left[0].version.time().ms() + 1), 1);
    let id = left[0].id.clone();
    let newer = Record { id: id.clone(), version, data: Some("newer".into()) };
    let shard = nodes[3].store.shard_of(&id);
    cases.world.run(nodes[3].disk.apply(shard, vec![newer])).expect("memory");
    cases.world.wait(Duration::from_secs(20));
    assert_eq!(nodes[3].count(), left.len());
    cases.wait_until(80, || nodes[3].count() == 0);
    let key = String::from_utf8(id.to_vec()).expect("a text");
    assert_eq!(cases.read(&nodes[1], &key).as_deref(), Some("newer"));
}

#[test]
#[ignore = "computes long: make test-all"]
fn what_is_moved_away_again_is_dropped_again_and_as_late() {
    let (cases, nodes) = dropping_after_a_minute();
    for _ in 0..3 {
        cases.drain_n4(&nodes);
        cases.world.wait(Duration::from_secs(50));
        assert!(nodes[3].count() > 0);
        cases.wait_until(60, || nodes[3].count() == 0);
        cases.set_mode_of_n4(&nodes, Mode::Active);
        cases.wait_until(60, || nodes[3].is_settled(3) && nodes[3].count() > 0);
    }
}
