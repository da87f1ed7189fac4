//! Machines whose clocks are wrong, and are set right.

use super::*;
use consul_replication::message::{Action, Outcome};
use consul_replication::record::{HybridTime, Record, Version};
use std::sync::atomic::{AtomicI64, Ordering};

const HOUR_S: i64 = 3600;

/// A machine that booted in 2099 instead of 2026.
const YEARS_73_S: i64 = 73 * 365 * 24 * HOUR_S;

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
    nodes_with(cases, machines, Quorums::majorities(3))
}

fn nodes_with<const N: usize>(
    cases: &Cases,
    machines: &[Machine; N],
    quorums: Quorums,
) -> [Process; N] {
    let start = |index: usize| start_on(cases, machines, quorums, index, &Disk::new());
    let nodes = std::array::from_fn(start);
    nodes.iter().for_each(|node: &Process| cases.world.run(node.store.ready()).expect("a map"));
    nodes
}

fn start_on(
    cases: &Cases,
    machines: &[Machine],
    quorums: Quorums,
    index: usize,
    disk: &Arc<Disk>,
) -> Process {
    let options = machines[index].options(&format!("n{}", index + 1));
    let repair_every = Duration::from_secs(30);
    let store = StoreOptions { repair_every, quorums, ..StoreOptions::new("points", &options) };
    cases.start_with(options, store, disk)
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

/// A write that was acknowledged with the wrong time is neither lost nor overwritten by an older version.
#[test]
#[ignore = "computes long: make test-all"]
fn records_of_three_nodes_that_were_ahead_stay_readable() {
    let cases = Cases::new();
    let machines = [120; 3].map(Machine::ahead);
    let nodes = nodes(&cases, &machines);
    cases.fill(&nodes[0], "early");
    machines.iter().for_each(Machine::set_right);
    cases.fill(&nodes[0], "right");
    nodes.iter().for_each(|node| cases.has(node, "early"));
    // They are not frozen until those times.
    for (number, text) in ["again", "and again"].into_iter().enumerate() {
        cases.write(&nodes[number], "early-1", text).expect("a quorum");
        nodes
            .iter()
            .for_each(|node| assert_eq!(cases.read(node, "early-1").as_deref(), Some(text)));
    }
    cases.try_delete(&nodes[2], "early-2").expect("a quorum");
    nodes.iter().for_each(|node| assert_eq!(cases.read(node, "early-2"), None));
    cases.world.wait(Duration::from_secs(150));
    nodes.iter().for_each(|node| {
        assert_eq!(cases.read(node, "early-1").as_deref(), Some("and again"));
        assert_eq!(cases.read(node, "early-2"), None);
        assert_eq!(cases.read(node, "early-3").as_deref(), Some("early"));
    });
}

/// The third one has missed them, and takes no version that is ahead of its clock: a read of two finds that only one of
/// them has it, and a copy of the one asks the other.
#[test]
fn records_of_two_nodes_that_were_ahead_stay_readable_beside_others() {
    let cases = Cases::new();
    let machines = [120; 4].map(Machine::ahead);
    let start =
        |index, disk: &Arc<Disk>| start_on(&cases, &machines, Quorums::majorities(3), index, disk);
    let two = [0, 1].map(|index| start(index, &Disk::new()));
    let third = start(2, &Disk::new());
    cases.world.run(third.store.ready()).expect("a map");
    cases.wait_until(60, || two[0].is_settled(3));
    cases.kill(&third);
    cases.fill(&two[0], "early");
    machines.iter().for_each(Machine::set_right);
    let third = start(2, &third.disk);
    cases.wait_until(60, || third.store.serves().is_ok());
    for node in [&two[0], &two[1], &third] {
        cases.has(node, "early");
    }
    assert!(!third.has_on_disk("early"), "both replicas of a quorum are others");
    let fourth = start(3, &Disk::new());
    for node in &two {
        use consul_cluster::Mode;
        let own = &node.cluster.options().node_id;
        let mode = |mode| cases.world.run(third.cluster.set_mode(own, mode)).expect("the right");
        mode(Mode::Draining);
        cases.wait_until(300, || node.store.holds_none() && third.is_settled(3));
        cases.has(&fourth, "early");
        mode(Mode::Active);
        cases.world.wait(Duration::from_secs(20));
    }
}

/// All three have acknowledged it.
#[test]
fn records_of_three_nodes_that_were_ahead_stay_readable_on_the_last_one() {
    let cases = Cases::new();
    let machines = [120; 3].map(Machine::ahead);
    let nodes = nodes_with(&cases, &machines, Quorums { replicas: 3, write: 3, read: 1 });
    cases.fill(&nodes[0], "early");
    machines.iter().for_each(Machine::set_right);
    cases.kill(&nodes[0]);
    cases.kill(&nodes[1]);
    cases.has(&nodes[2], "early");
}

/// Most of the clocks decide which versions are believed.
#[test]
fn a_version_of_the_future_is_not_believed_because_one_clock_is_ahead() {
    for place in 0..3 {
        for wrong in 0..3 {
            let cases = Cases::new();
            let machines =
                [0, 1, 2].map(|it| Machine::ahead(if it == wrong { 24 * HOUR_S } else { 0 }));
            let nodes = nodes(&cases, &machines);
            let right = [(wrong + 1) % 3, (wrong + 2) % 3];
            cases.write(&nodes[right[0]], "key", "first").expect("a quorum");
            cases.world.wait(Duration::from_millis(100));
            cases.plant(&nodes[place], &cases.ahead(HOUR_S, "key"));
            let read = |node: usize| cases.read(&nodes[node], "key");
            assert_eq!(right.map(read), [Some("first".to_owned()), Some("first".to_owned())]);
            cases.write(&nodes[right[1]], "key", "again").expect("a quorum");
            assert_eq!(right.map(read), [Some("again".to_owned()), Some("again".to_owned())]);
        }
    }
}

/// The disk of n1 has a version of the future in its place, and n3 is away.
#[test]
fn a_write_that_one_replica_of_a_quorum_hides_is_not_acknowledged() {
    let cases = Cases::new();
    let nodes = nodes(&cases, &[0; 3].map(Machine::ahead));
    cases.write(&nodes[0], "key", "first").expect("a quorum");
    cases.world.wait(Duration::from_secs(1));
    cases.plant(&nodes[0], &cases.ahead(HOUR_S, "key"));
    cases.kill(&nodes[2]);
    let written = cases.write(&nodes[1], "key", "again").is_ok();
    cases.kill(&nodes[1]);
    let third = cases.start("n3", &nodes[2].disk);
    cases.wait_until(60, || third.store.serves().is_ok());
    assert!(!written || cases.read(&third, "key").as_deref() == Some("again"));
}

impl Cases {
    fn try_delete(&self, at: &Process, key: &str) -> Result<(), Error> {
        let deadline = self.deadline(10);
        let record = (Bytes::from(key.to_owned()), None);
        self.world.run(at.store.write(key.as_bytes(), vec![record], deadline)).map(|_| ())
    }

    /// A record whose version is this many seconds ahead of a right clock.
    fn ahead(&self, seconds: i64, key: &str) -> Record {
        let now_ms = 1_700_000_000_000 + self.world.clock.now().since_origin().as_millis() as u64;
        let time = HybridTime::from_ms(now_ms.saturating_add_signed(seconds * 1000));
        let data = Some(Bytes::from_static(b"refused"));
        Record { id: Bytes::from(key.to_owned()), version: Version::new(time, 1), data }
    }

    /// Puts a record on the disk of a node, as an earlier release could.
    fn plant(&self, at: &Process, record: &Record) {
        let shard = at.store.shard_of(&record.id);
        let applied = at.disk.apply(shard, vec![record.clone()]);
        assert_eq!(self.world.run(applied).expect("memory"), []);
    }

    /// The answer of a node to a request about the shard of a key.
    fn ask(&self, at: &Process, key: &str, action: Action) -> Outcome {
        let (store, shard) = (&at.store, at.store.shard_of(key.as_bytes()));
        let known = store.router().entries.get(shard).expect("a map");
        let holder = store.holder().expect("it is open");
        self.world.run(holder.serve(known.request(shard, action))).outcome
    }
}

impl Process {
    fn has_on_disk(&self, data: &str) -> bool {
        self.disk.records(8).iter().any(|it| it.data.as_deref() == Some(data.as_bytes()))
    }
}

/// The node whose clock is ahead stores it nowhere, not on its own disk either, so nothing can spread.
#[test]
#[ignore = "computes long: make test-all"]
fn a_write_by_a_clock_that_is_ahead_changes_nothing() {
    for ahead_s in [3, HOUR_S, YEARS_73_S] {
        let cases = Cases::new();
        let machines = [0, 0, ahead_s].map(Machine::ahead);
        let nodes = nodes(&cases, &machines);
        cases.fill(&nodes[0], "before");
        for number in 0..10 {
            let key = format!("before-{number}");
            let why = cases.write(&nodes[2], &key, "refused").expect_err("its clock is wrong");
            assert_eq!((why.kind(), why.maybe_applied()), (Kind::Conflict, false), "{why}");
            cases.try_delete(&nodes[2], &key).expect_err("its clock is wrong");
        }
        cases.write(&nodes[2], "new", "refused").expect_err("its clock is wrong");
        for wait_s in [0, 90] {
            cases.world.wait(Duration::from_secs(wait_s));
            nodes.iter().for_each(|node| {
                cases.has(node, "before");
                assert_eq!(cases.read(node, "new"), None);
                assert!(!node.has_on_disk("refused"), "{ahead_s} s ahead");
            });
        }
        nodes[..2].iter().for_each(|node| cases.fill(node, "before"));
        cases.try_delete(&nodes[1], "before-1").expect("a quorum");
        nodes.iter().for_each(|node| assert_eq!(cases.read(node, "before-1"), None));
    }
}

/// Its writes are older than others' writes, which it learns from them; nothing of theirs is lost on it.
#[test]
fn a_node_whose_clock_is_an_hour_behind_hides_and_drops_nothing() {
    let cases = Cases::new();
    let machines = [0, 0, -HOUR_S].map(Machine::ahead);
    let nodes = nodes(&cases, &machines);
    cases.fill(&nodes[0], "before");
    cases.write(&nodes[2], "before-1", "by the one behind").expect("a quorum");
    cases.write(&nodes[2], "new", "by the one behind").expect("a quorum");
    cases.try_delete(&nodes[2], "before-2").expect("a quorum");
    cases.world.wait(Duration::from_secs(90));
    cases.kill(&nodes[1]);
    for node in [&nodes[0], &nodes[2]] {
        for key in ["before-1", "new"] {
            assert_eq!(cases.read(node, key).as_deref(), Some("by the one behind"), "{key}");
        }
        assert_eq!(cases.read(node, "before-2"), None);
        for number in 3..40 {
            let key = format!("before-{number}");
            assert_eq!(cases.read(node, &key).as_deref(), Some("before"), "{key}");
        }
    }
}

/// No door of a healthy replica is open to such a version: not that of a late write, nor that of a repair,
/// alone or among others.
#[test]
fn a_healthy_replica_takes_no_version_of_the_future() {
    for ahead_s in [3, HOUR_S, YEARS_73_S] {
        let cases = Cases::new();
        let nodes = nodes(&cases, &[0, 0, 0].map(Machine::ahead));
        cases.write(&nodes[0], "key", "first").expect("a quorum");
        let good = Record { data: Some("good".into()), ..cases.ahead(0, "good") };
        let bad = cases.ahead(ahead_s, "key");
        for records in [vec![bad.clone()], vec![good, bad]] {
            let refused = cases.ask(&nodes[1], "key", Action::Write(records.clone()));
            assert!(matches!(refused, Outcome::Failed(_)), "{refused:?}");
            cases.ask(&nodes[1], "key", Action::Repair(records));
        }
        assert!(!nodes[1].has_on_disk("refused") && nodes[1].has_on_disk("good"));
        assert_eq!(cases.read(&nodes[1], "key").as_deref(), Some("first"));
    }
}

/// One of an earlier release, or of a disk that was put back.
#[test]
#[ignore = "computes long: make test-all"]
fn a_version_of_the_future_on_one_disk_spreads_by_no_way_and_stops_no_write() {
    for ahead_s in [HOUR_S, YEARS_73_S] {
        for place in 0..3 {
            let cases = Cases::new();
            let four = nodes(&cases, &[0; 4].map(Machine::ahead));
            cases.wait_until(90, || four[0].holders().contains("n4") && four[0].is_settled(3));
            for key in ["kept", "written", "deleted", "batch"] {
                cases.write(&four[0], key, "first").expect("a quorum");
            }
            cases.world.wait(Duration::from_secs(1));
            let status = four[0].store.status();
            for key in ["kept", "written", "deleted", "batch", "new"] {
                let shard = four[0].store.shard_of(key.as_bytes()) as usize;
                let holder = &status[shard].holders[place];
                let at = four.iter().find(|it| *it.cluster.options().node_id == **holder);
                cases.plant(at.expect("a node"), &cases.ahead(ahead_s, key));
            }
            let read = |node, key| cases.read(node, key);
            four.iter().for_each(|node| {
                assert_eq!(read(node, "kept").as_deref(), Some("first"));
                assert_eq!(read(node, "new"), None);
            });
            cases.write(&four[1], "written", "again").expect("a quorum");
            cases.try_delete(&four[1], "deleted").expect("a quorum");
            let batch = ["batch", "beside"].map(|id| (Bytes::from(id), Some(Bytes::from("again"))));
            let written = four[1].store.write(b"batch", batch.to_vec(), cases.deadline(10));
            cases.world.run(written).expect("a quorum");
            // Repairs, then each node in turn gives its replicas to others.
            let check = |what: &str| {
                four.iter().for_each(|node| {
                    assert_eq!(read(node, "kept").as_deref(), Some("first"), "{what}");
                    assert_eq!(read(node, "written").as_deref(), Some("again"), "{what}");
                    assert_eq!(read(node, "batch").as_deref(), Some("again"), "{what}");
                    assert_eq!(read(node, "deleted"), None, "{what}");
                    assert_eq!(read(node, "new"), None, "{what}");
                });
            };
            cases.world.wait(Duration::from_secs(90));
            check("after repairs");
            for node in &four {
                let own = &node.cluster.options().node_id;
                use consul_cluster::Mode;
                let mode = |mode| cases.world.run(four[0].cluster.set_mode(own, mode));
                mode(Mode::Draining).expect("the right to do so");
                cases.wait_until(300, || node.store.holds_none() && four[0].is_settled(3));
                // It drops the records that it gave to others; the refused one was not taken by them.
                cases.wait_until(300, || !node.has_on_disk("refused"));
                mode(Mode::Active).expect("the right to do so");
                check("after a move");
                cases.world.wait(Duration::from_secs(20));
            }
            assert!(!four.iter().any(|node| node.has_on_disk("refused")));
        }
    }
}

/// A replica that is made again is the union of others; one of them has such a version.
#[test]
fn a_failover_does_not_copy_a_version_of_the_future_that_one_disk_has() {
    let cases = Cases::new();
    let three = nodes(&cases, &[0; 3].map(Machine::ahead));
    cases.fill(&three[0], "before");
    cases.world.wait(Duration::from_secs(1));
    for number in 0..10 {
        cases.plant(&three[0], &cases.ahead(HOUR_S, &format!("before-{number}")));
    }
    cases.kill(&three[1]);
    let again = cases.start("n2", &Disk::new());
    cases.is_filled_again(&again);
    assert!(!again.has_on_disk("refused"));
    [&three[0], &again, &three[2]].iter().for_each(|node| cases.has(node, "before"));
}

/// Two nodes that were ahead one after the other have spread it, and a write above it was acknowledged by these two.
#[test]
fn a_version_of_the_future_that_may_be_acknowledged_is_never_passed_over() {
    for place in 0..3 {
        let cases = Cases::new();
        let mut three: Vec<_> = nodes(&cases, &[0; 3].map(Machine::ahead)).into();
        cases.write(&three[0], "key", "first").expect("a quorum");
        cases.write(&three[0], "z", "beside").expect("a quorum");
        cases.world.wait(Duration::from_secs(1));
        let (other, without) = ((place + 1) % 3, (place + 2) % 3);
        for has in [place, other] {
            cases.plant(&three[has], &cases.ahead(HOUR_S, "key"));
        }
        assert_eq!(cases.read(&three[without], "key").as_deref(), Some("refused"));
        let gone = three.remove(place);
        cases.kill(&gone);
        for node in &three {
            let range = Range { from: Bytes::from("key"), ..Range::all() };
            let read = node.store.read(b"key", &range, 1, cases.deadline(10));
            let why = cases.world.run(read).expect_err("the one that is gone may have it");
            assert!(why.message().contains("a version ahead of the clocks"), "{why}");
            assert_eq!(cases.read(node, "z").as_deref(), Some("beside"));
        }
        let id = gone.cluster.options().node_id.clone();
        let again = cases.start(&id, &gone.disk);
        cases.wait_until(90, || again.store.status().len() == 8);
        for node in three.iter().chain([&again]) {
            assert_eq!(cases.read(node, "key").as_deref(), Some("refused"));
        }
    }
}

/// An earlier release has spread it; then it is what there is, and is written over.
#[test]
fn a_version_of_the_future_on_all_disks_can_be_written_and_deleted() {
    for ahead_s in [HOUR_S, YEARS_73_S] {
        let cases = Cases::new();
        let nodes = nodes(&cases, &[0; 3].map(Machine::ahead));
        for key in ["written", "deleted", "batch", "moved"] {
            nodes.iter().for_each(|node| cases.plant(node, &cases.ahead(ahead_s, key)));
        }
        cases.fill(&nodes[0], "usual");
        assert_eq!(cases.read(&nodes[0], "moved").as_deref(), Some("refused"));
        for text in ["again", "and again"] {
            cases.write(&nodes[1], "written", text).expect("a quorum");
            let batch = ["usual-1", "batch"].map(|id| (Bytes::from(id), Some(Bytes::from(text))));
            let written = nodes[1].store.write(b"batch", batch.to_vec(), cases.deadline(10));
            cases.world.run(written).expect("a quorum");
            for node in &nodes {
                assert_eq!(cases.read(node, "written").as_deref(), Some(text));
                assert_eq!(cases.read(node, "batch").as_deref(), Some(text));
            }
        }
        cases.try_delete(&nodes[1], "deleted").expect("a quorum");
        nodes.iter().for_each(|node| assert_eq!(cases.read(node, "deleted"), None));
        // A node that gets the replicas has it too.
        cases.kill(&nodes[2]);
        let again = cases.start("n3", &Disk::new());
        cases.is_filled_again(&again);
        cases.kill(&nodes[0]);
        assert_eq!(cases.read(&again, "written").as_deref(), Some("and again"));
        assert_eq!(cases.read(&again, "deleted"), None);
    }
}

/// The clock of the writer is as far ahead as is allowed; the later write is made by a node that is behind.
#[test]
fn a_write_without_a_quorum_does_not_beat_an_acknowledged_later_one() {
    let cases = Cases::new();
    let nodes = nodes(&cases, &[Machine(Arc::default()), Machine::ahead(-1), Machine::ahead(1)]);
    cases.write(&nodes[0], "key", "first").expect("a quorum");
    cases.world.wait(Duration::from_secs(5));
    cases.kill(&nodes[0]);
    cases.kill(&nodes[1]);
    let why = cases.write(&nodes[2], "key", "failed").expect_err("no quorum");
    assert!(!why.maybe_applied() && why.message().contains("no quorum: 1 of 2"), "{why}");
    cases.try_delete(&nodes[2], "key").expect_err("no quorum");
    assert!(!nodes[2].has_on_disk("failed"));
    assert!(nodes[2].disk.records(8).iter().all(|record| record.data.is_some()));
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
