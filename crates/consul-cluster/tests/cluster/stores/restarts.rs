//! Machines that are restarted under storages that do not survive that, and old copies of disks: what a disk has stays
//! until others have it, and what all disks still have is the store.

use super::*;
use consul_api::api::kv;
use consul_api::request::Args;
use consul_cluster::stores::Survives;
use consul_replication::message::Action;
use consul_replication::record::Record;
use std::sync::atomic::Ordering::Relaxed;

/// The shards of the stores.
const SHARDS: u32 = 8;

/// Nodes whose storages survive the process, and their disks.
struct Machines {
    cases: Cases,
    replicas: usize,
    disks: Vec<Arc<Disk>>,
    nodes: Vec<Process>,
}

impl Machines {
    /// Starts nodes, and fills their store.
    fn filled(replicas: usize, nodes: usize) -> Self {
        let disks = (0..nodes).map(|_| Disk::new()).collect();
        let mut machines = Machines { cases: Cases::new(), replicas, disks, nodes: Vec::new() };
        machines.start();
        machines.is_whole(&[]);
        machines.cases.fill(&machines.nodes[0], "before");
        machines.cases.world.wait(Duration::from_secs(5));
        machines
    }

    fn start_one(&self, number: usize) -> Process {
        let options =
            Options { replicas: self.replicas, ..Cases::options(&format!("n{}", number + 1)) };
        let store = StoreOptions {
            survives: Survives::Process,
            drop_after: Duration::from_secs(5),
            repair_every: Duration::from_secs(30),
            ..StoreOptions::new("points", &options)
        };
        self.cases.start_with(options, store, &self.disks[number])
    }

    fn start(&mut self) {
        self.nodes = (0..self.disks.len()).map(|number| self.start_one(number)).collect();
    }

    fn kill_all(&self) {
        self.nodes.iter().for_each(|node| self.cases.kill(node));
    }

    /// Lets the machine of a disk have been restarted since.
    fn reboot(&self, disk: &Disk) {
        self.cases.world.run(async {
            let mark = disk.kept("disk").await.expect("memory").expect("a mark");
            let mut mark: serde_json::Value = serde_json::from_slice(&mark).expect("a document");
            if mark.get("boot").is_some() {
                mark["boot"] = "another".into();
            }
            disk.keep("disk", mark.to_string().into()).await.expect("memory");
        });
    }

    /// Kills all processes, and restarts their machines.
    fn reboot_all(&self) {
        self.kill_all();
        self.disks.iter().for_each(|disk| self.reboot(disk));
    }

    /// The events about disks in doubt that a node has for its program.
    fn doubts(node: &Process) -> Vec<String> {
        let events = std::iter::from_fn(|| node.cluster.poll_event());
        events.filter(|it| it.name() == "disk_in_doubt").map(|it| it.detail()).collect()
    }

    fn count(disk: &Disk) -> usize {
        disk.records(SHARDS).len()
    }

    /// Waits until each shard has N replicas that count; none of these disks has fewer records than before at any
    /// moment.
    fn is_whole(&self, keeping: &[usize]) {
        let before: Vec<usize> = keeping.iter().map(|it| Self::count(&self.disks[*it])).collect();
        self.cases.wait_until(90, || {
            for (number, before) in keeping.iter().zip(&before) {
                let now = Self::count(&self.disks[*number]);
                assert!(now >= *before, "n{} has {now} of {before} records", number + 1);
            }
            let running = self.nodes.iter().filter(|node| node.store.holder().is_some());
            running.clone().count() > 0 && running.clone().all(|it| it.is_settled(self.replicas))
        });
    }

    /// A disk with all that another one has, but for some records.
    fn copy_but(&self, disk: &Disk, is_lost: impl Fn(usize) -> bool) -> Arc<Disk> {
        let copy = self.cases.copy_of(disk);
        self.cases.world.run(async {
            for shard in 0..SHARDS {
                let records = disk.scan(shard, Range::all(), 1000).await.expect("memory");
                let number = |id: &[u8]| {
                    let id = String::from_utf8_lossy(id);
                    id.rsplit_once('-').and_then(|(_, number)| number.parse().ok())
                };
                let stays = records.into_iter().filter(|it| !number(&it.id).is_some_and(&is_lost));
                copy.apply(shard, stays.collect()).await.expect("memory");
            }
        });
        copy
    }

    /// Deletes the keys of the store in Consul, as it is done for a backup.
    fn delete_keys(&self) {
        let client = self.cases.world.client();
        for key in ["members/points/", "maps/points"] {
            let key = format!("{}{key}", Cases::options("n1").shards_prefix);
            let api = if key.ends_with('/') { &kv::DELETE_TREE } else { &kv::DELETE };
            self.cases.world.run(client.call(api, &Args::new().arg(key))).expect("deleted");
        }
    }

    /// Whether nothing goes on without an operator.
    fn waits_for_a_word(&self) {
        let running = || self.nodes.iter().all(|it| it.store.holder().is_some());
        self.cases.wait_until(60, running);
        self.cases.world.wait(Duration::from_secs(20));
        let (range, deadline) = (Range::all(), self.cases.deadline(2));
        let read = self.nodes[0].store.read(b"before-1", &range, 1, deadline);
        self.cases.world.run(read).expect_err("too many disks lack something");
    }

    fn accept_all(&self) {
        for shard in 0..SHARDS {
            let accepted = self.nodes[0].store.accept_loss(shard);
            self.cases.world.run(accepted).expect("a word");
        }
    }

    /// Whether each disk that keeps a shard has each record of it.
    fn all_have(&self, what: &str) {
        self.nodes.iter().for_each(|node| self.cases.has(node, what));
    }
}

/// As where disks were not mounted: the nodes start empty, an operator gives the old ones up, and a minute or a day later
/// they are there again, with all their records.
#[test]
#[ignore = "computes long: make test-all"]
fn disks_that_come_back_after_their_loss_was_accepted_bring_their_records() {
    for (kept, wait_s) in [(0, 5), (0, 200), (1, 5), (1, 200)] {
        let mut machines = Machines::filled(3, 3);
        machines.kill_all();
        let old = machines.disks.clone();
        for disk in &mut machines.disks[kept..] {
            *disk = Disk::new();
        }
        machines.start();
        machines.waits_for_a_word();
        machines.accept_all();
        machines.is_whole(&[]);
        machines.cases.fill(&machines.nodes[0], "after");
        // Repairs purge what was deleted, and prove from then on that what a replica lacks was.
        machines.cases.world.wait(Duration::from_secs(wait_s));
        for (number, disk) in old.into_iter().enumerate().skip(kept) {
            machines.cases.kill(&machines.nodes[number]);
            machines.disks[number] = disk;
            machines.nodes[number] = machines.start_one(number);
            machines.is_whole(&[number]);
            machines.cases.world.wait(Duration::from_secs(60));
        }
        machines.all_have("before");
        machines.all_have("after");
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_restart_of_all_machines_erases_nothing() {
    for (replicas, nodes) in [(1, 1), (1, 3), (2, 2), (3, 3), (3, 5), (5, 5)] {
        let mut machines = Machines::filled(replicas, nodes);
        for turn in ["first", "second"] {
            machines.reboot_all();
            machines.start();
            machines.is_whole(&(0..nodes).collect::<Vec<_>>());
            machines.all_have("before");
            machines.cases.fill(&machines.nodes[0], turn);
        }
        machines.all_have("first");
    }
}

/// Each disk has lost another part of what came last.
#[test]
fn a_restart_of_all_machines_keeps_what_one_disk_still_has() {
    for replicas in [2, 3] {
        let mut machines = Machines::filled(replicas, replicas);
        machines.kill_all();
        machines.disks = (0..replicas)
            .map(|at| machines.copy_but(&machines.disks[at], |number| number % replicas == at))
            .collect();
        machines.reboot_all();
        machines.start();
        machines.is_whole(&(0..replicas).collect::<Vec<_>>());
        machines.all_have("before");
        machines.disks.iter().for_each(|disk| assert!(Machines::count(disk) >= 40));
    }
}

#[test]
fn machines_that_are_restarted_one_after_another_keep_their_records() {
    let mut machines = Machines::filled(3, 3);
    for number in 0..3 {
        machines.cases.kill(&machines.nodes[number]);
        machines.reboot(&machines.disks[number]);
        machines.nodes[number] = machines.start_one(number);
        machines.cases.wait_until(60, || {
            assert!(Machines::count(&machines.disks[number]) >= 40, "it was erased");
            !machines.nodes[(number + 1) % 3].is_settled(3)
        });
        machines.is_whole(&[0, 1, 2]);
        machines.disks.iter().for_each(|disk| assert!(Machines::count(disk) >= 40));
        machines.all_have("before");
        let restarted = "points: the machine was restarted, which the storage does not survive";
        for (at, node) in machines.nodes.iter().enumerate() {
            let expected: &[&str] = if at == number { &[restarted] } else { &[] };
            assert_eq!(Machines::doubts(node), expected, "n{}", at + 1);
        }
    }
}

#[test]
fn a_restarted_machine_beside_a_lost_disk_keeps_what_it_has() {
    for lost in [0, 2] {
        let mut machines = Machines::filled(3, 3);
        machines.kill_all();
        let restarted = machines.copy_but(&machines.disks[1], |_| false);
        let other = 2 - lost;
        // The records that the other one has missed.
        machines.disks[other] = machines.copy_but(&machines.disks[other], |number| number % 2 == 0);
        (machines.disks[lost], machines.disks[1]) = (Disk::new(), restarted);
        machines.reboot(&machines.disks[1]);
        machines.start();
        machines.is_whole(&[other, 1]);
        machines.all_have("before");
    }
}

/// A disk that may come back has perhaps the records that the others have lost.
#[test]
fn restarted_machines_wait_for_a_node_that_is_down() {
    let mut machines = Machines::filled(3, 3);
    machines.reboot_all();
    machines.nodes = vec![machines.start_one(0), machines.start_one(1)];
    machines.cases.wait_until(60, || machines.nodes.iter().all(|it| it.store.holder().is_some()));
    machines.cases.world.wait(Duration::from_secs(20));
    let (range, deadline) = (Range::all(), machines.cases.deadline(2));
    let read = machines.nodes[0].store.read(b"before-1", &range, 1, deadline);
    machines.cases.world.run(read).expect_err("two that may lack something prove nothing");
    machines.nodes.push(machines.start_one(2));
    machines.is_whole(&[0, 1, 2]);
    machines.all_have("before");
}

#[test]
fn an_accepted_loss_takes_what_restarted_machines_have() {
    let mut machines = Machines::filled(3, 3);
    machines.kill_all();
    machines.disks[0] = machines.copy_but(&machines.disks[0], |number| number % 2 == 0);
    machines.disks[1] = machines.copy_but(&machines.disks[1], |number| number % 2 == 1);
    machines.reboot_all();
    machines.nodes = vec![machines.start_one(0), machines.start_one(1)];
    machines.waits_for_a_word();
    machines.accept_all();
    machines.is_whole(&[0, 1]);
    machines.all_have("before");
}

/// The documented backup: the copies were made while the nodes ran, and the machines were restarted since.
#[test]
#[ignore = "computes long: make test-all"]
fn a_backup_is_put_back_on_restarted_machines() {
    for keys_are_deleted in [true, false] {
        let mut machines = Machines::filled(3, 3);
        let copies: Vec<_> =
            machines.disks.iter().map(|disk| machines.copy_but(disk, |_| false)).collect();
        machines.kill_all();
        for _ in 0..2 {
            machines.start();
            machines.cases.world.wait(Duration::from_secs(20));
            machines.kill_all();
        }
        machines.disks = copies;
        machines.disks.iter().for_each(|disk| machines.reboot(disk));
        if keys_are_deleted {
            machines.delete_keys();
        }
        machines.start();
        if !keys_are_deleted {
            machines.waits_for_a_word();
            machines.accept_all();
        }
        machines.is_whole(&[0, 1, 2]);
        machines.all_have("before");
    }
}

/// Copies are made one after the other, and what was deleted between two of them is purged in the meantime.
#[test]
#[ignore = "computes long: make test-all"]
fn what_a_backup_of_different_times_brings_back_stays_deleted() {
    for old in [vec![0], vec![1], vec![2], vec![0, 1], vec![0, 2], vec![1, 2]] {
        let mut machines = Machines::filled(3, 3);
        let cases = &machines.cases;
        // A first purge.
        cases.world.wait(Duration::from_secs(120));
        let copies: Vec<_> =
            old.iter().map(|it| machines.copy_but(&machines.disks[*it], |_| false)).collect();
        let name = |number: usize| format!("before-{number}");
        for number in 0..20 {
            let key = Bytes::from(name(number));
            let deadline = cases.deadline(10);
            let deleted = machines.nodes[0].store.write(&key, vec![(key.clone(), None)], deadline);
            cases.world.run(deleted).expect("a quorum");
        }
        cases.wait_until(200, || machines.disks.iter().all(|disk| Machines::count(disk) == 20));
        machines.kill_all();
        for (number, copy) in old.iter().zip(copies) {
            machines.disks[*number] = copy;
        }
        machines.delete_keys();
        machines.start();
        machines.is_whole(&[]);
        machines.cases.world.wait(Duration::from_secs(60));
        for _ in 0..3 {
            for node in &machines.nodes {
                for number in 0..40 {
                    let found = machines.cases.read(node, &name(number));
                    assert_eq!(found.is_some(), number >= 20, "{old:?}: {}", name(number));
                }
            }
        }
        let is_purged = || machines.disks.iter().all(|disk| Machines::count(disk) == 20);
        machines.cases.wait_until(300, is_purged);
    }
}

/// More than W - 1 disks lack what they have acknowledged: only an operator takes what is left.
#[test]
#[ignore = "computes long: make test-all"]
fn as_many_old_disks_as_lost_ones_need_the_word_of_an_operator() {
    for (are_restarted, is_wiped) in [(false, false), (true, false), (false, true), (true, true)] {
        for old in [vec![0], vec![2], vec![0, 1], vec![1, 2], vec![0, 1, 2]] {
            let mut machines = Machines::filled(3, 3);
            let copy = |number: &usize| machines.copy_but(&machines.disks[*number], |_| false);
            let copies: Vec<_> = old.iter().map(copy).collect();
            machines.kill_all();
            machines.start();
            machines.is_whole(&[0, 1, 2]);
            // The last one is away while the others take more, unless it alone is old.
            let is_away = old.len() > 1;
            if is_away {
                machines.cases.kill(&machines.nodes[2]);
            }
            machines.cases.fill(&machines.nodes[0], "after");
            machines.cases.world.wait(Duration::from_secs(2));
            machines.kill_all();
            for (number, copy) in old.iter().zip(copies) {
                machines.disks[*number] = copy;
            }
            if are_restarted {
                machines.disks.iter().for_each(|disk| machines.reboot(disk));
            }
            if is_wiped {
                machines.cases.world.agent.restart(Retained::Nothing);
            }
            machines.start();
            // Without Consul's data nobody knows more than three copies do.
            let is_known = !is_wiped || old.len() < 3;
            if is_away && is_known {
                machines.waits_for_a_word();
                machines.accept_all();
            }
            machines.is_whole(&[0, 1, 2]);
            for (number, node) in machines.nodes.iter().enumerate().filter(|_| !is_wiped) {
                let is_old = old.contains(&number);
                let doubts = Machines::doubts(node);
                assert_eq!(doubts.len(), usize::from(is_old || are_restarted), "{doubts:?}");
                assert_eq!(doubts.iter().any(|it| it.ends_with("old copy")), is_old, "{doubts:?}");
            }
            machines.all_have("before");
            if !is_away {
                machines.all_have("after");
            }
        }
    }
}

/// A new id that is in no map yet does not show an old copy.
#[test]
#[ignore = "computes long: make test-all"]
fn machines_that_are_restarted_again_and_again_are_not_old() {
    for lives_ms in [0, 20, 100, 300, 1000, 3000] {
        let mut machines = Machines::filled(3, 3);
        for _ in 0..3 {
            machines.reboot_all();
            machines.nodes = vec![machines.start_one(0), machines.start_one(1)];
            machines.cases.world.wait(Duration::from_millis(lives_ms));
        }
        machines.reboot_all();
        machines.disks[2] = Disk::new();
        machines.start();
        machines.is_whole(&[0, 1]);
        machines.all_have("before");
    }
}

/// Consul is set back to before the restart, so that its map does not have the new id.
#[test]
#[ignore = "computes long: make test-all"]
fn a_machine_that_is_restarted_after_consul_went_back_is_not_old() {
    for restarts in [1, 2] {
        for waits_ms in [0, 500, 3000] {
            let mut machines = Machines::filled(3, 3);
            let backup = machines.cases.world.agent.back_up();
            for _ in 0..restarts {
                machines.reboot_all();
                machines.start();
                machines.is_whole(&[0, 1, 2]);
            }
            machines.cases.fill(&machines.nodes[0], "after");
            machines.cases.world.agent.restore_snapshot(&backup);
            machines.cases.world.wait(Duration::from_millis(waits_ms));
            machines.kill_all();
            machines.disks[1] = Disk::new();
            machines.reboot(&machines.disks[0]);
            machines.start();
            machines.is_whole(&[0, 2]);
            machines.all_have("before");
            machines.all_have("after");
        }
    }
}

#[test]
fn a_storage_that_was_flushed_by_a_stop_survives_a_restart_of_the_machine() {
    for flushes in [true, false] {
        let mut machines = Machines::filled(3, 3);
        machines.disks.iter().for_each(|disk| disk.flushes.store(flushes, Relaxed));
        for node in &machines.nodes {
            machines.cases.kill(node);
            machines.cases.world.run(node.store.close()).expect("memory");
            machines.cases.world.run(node.cluster.leave()).expect("a graceful stop");
        }
        machines.disks.iter().for_each(|disk| machines.reboot(disk));
        let epochs = |node: &Process| -> Vec<_> {
            node.store.status().iter().map(|shard| shard.holders.clone()).collect()
        };
        machines.start();
        machines
            .cases
            .wait_until(60, || machines.nodes.iter().all(|it| it.store.holder().is_some()));
        let was_in_doubt = (0..200).any(|_| {
            machines.cases.world.wait(Duration::from_millis(100));
            epochs(&machines.nodes[0]).iter().any(|holders| holders.len() < 3)
        });
        assert_eq!(was_in_doubt, !flushes);
        machines
            .nodes
            .iter()
            .for_each(|it| assert_eq!(Machines::doubts(it).len(), usize::from(!flushes)));
        machines.is_whole(&[0, 1, 2]);
        machines.all_have("before");
    }
    // A start puts the machine's start back.
    let mut machines = Machines::filled(3, 3);
    machines.disks.iter().for_each(|disk| disk.flushes.store(true, Relaxed));
    for node in &machines.nodes {
        machines.cases.kill(node);
        machines.cases.world.run(node.store.close()).expect("memory");
    }
    machines.start();
    machines.is_whole(&[0, 1, 2]);
    for disk in &machines.disks {
        let mark = machines.cases.world.run(disk.kept("disk")).expect("memory").expect("a mark");
        assert!(String::from_utf8_lossy(&mark).contains("\"boot\":"));
    }
}

/// Records that are being stored when a node stops are flushed with the rest.
#[test]
fn a_stop_flushes_only_after_the_writes_that_run() {
    let machines = Machines::filled(3, 3);
    let (world, node, disk) = (&machines.cases.world, &machines.nodes[0], &machines.disks[0]);
    disk.flushes.store(true, Relaxed);
    let slow = (world.clock.clone(), Duration::from_secs(3));
    *disk.slow_apply.lock().expect("no panic") = Some(slow);
    let (key, store) = (Bytes::from_static(b"late"), &node.store);
    let shard = store.shard_of(&key);
    let record = Record {
        id: key.clone(),
        version: store.router().clock.next(),
        data: Some(Bytes::from_static(b"late")),
    };
    let known = store.router().entries.get(shard).expect("a map");
    let request = known.request(shard, Action::Write(vec![record]));
    let holder = store.holder().expect("it is open");
    let stored = world.clock.spawn(async move { drop(holder.serve(request).await) });
    world.wait(Duration::from_secs(1));
    machines.cases.kill(node);
    world.run(store.close()).expect("memory");
    assert!(disk.records(SHARDS).iter().any(|it| it.id == key), "it was not flushed");
    world.clock.cancel(stored);
}

/// It may have written since, and its machine may have been restarted.
#[test]
fn a_stop_flushes_no_disk_that_another_process_has_opened() {
    let machines = Machines::filled(3, 3);
    let (world, disk) = (&machines.cases.world, &machines.disks[0]);
    disk.flushes.store(true, Relaxed);
    machines.cases.kill(&machines.nodes[0]);
    let mark = || world.run(disk.kept("disk")).expect("memory").expect("a mark");
    let mut other: serde_json::Value = serde_json::from_slice(&mark()).expect("a document");
    other["opening"]["id"] = 7.into();
    other["opening"]["starts"] = 99.into();
    world.run(disk.keep("disk", other.to_string().into())).expect("memory");
    let before = mark();
    let why = world.run(machines.nodes[0].store.close()).expect_err("it is another one's");
    assert_eq!(why.kind(), Kind::Conflict, "{why}");
    assert_eq!(mark(), before);
}

/// A record that was deleted, and purged, while the disk was another one.
#[test]
#[ignore = "computes long: make test-all"]
fn an_old_disk_brings_no_deleted_record_back() {
    let mut machines = Machines::filled(3, 3);
    let old = machines.copy_but(&machines.disks[1], |_| false);
    let (key, deadline) = ("before-7", machines.cases.deadline(10));
    let deletion = vec![(Bytes::from(key), None)];
    let deleted = machines.nodes[0].store.write(key.as_bytes(), deletion, deadline);
    machines.cases.world.run(deleted).expect("a quorum");
    // A minute, and two repairs.
    machines.cases.world.wait(Duration::from_secs(150));
    machines.cases.kill(&machines.nodes[1]);
    let is_it = |disk: &Disk| disk.records(SHARDS).iter().any(|it| it.id == key.as_bytes());
    assert!(is_it(&old) && !is_it(&machines.disks[0]), "it was purged");
    machines.disks[1] = old;
    machines.reboot(&machines.disks[1]);
    machines.nodes[1] = machines.start_one(1);
    machines.cases.wait_until(60, || !machines.nodes[0].is_settled(3));
    machines.is_whole(&[0, 2]);
    assert!(!is_it(&machines.disks[1]));
    machines.cases.kill(&machines.nodes[0]);
    assert_eq!(machines.cases.read(&machines.nodes[1], key), None);
}
