//! Disks that are lost, that belong to another node, or that are older than they should be.

use super::*;
use consul_ffi::cluster::stores::Survives;

#[test]
fn a_disk_that_is_lost_is_replaced_from_the_others() {
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    cases.fill(&nodes[0], "before");
    cases.kill(&nodes[1]);
    let back = cases.start("n2", &Disk::new());
    cases.is_filled_again(&back);
    cases.kill(&nodes[0]);
    cases.has(&back, "before");
}

#[test]
fn an_old_copy_of_a_disk_counts_as_lost() {
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    cases.fill(&nodes[0], "before");
    let copy = cases.copy_of(&nodes[1].disk);
    cases.kill(&nodes[1]);
    let again = cases.start("n2", &nodes[1].disk);
    cases.world.wait(Duration::from_secs(20));
    cases.fill(&nodes[0], "after");
    cases.kill(&again);
    let old = cases.start("n2", &copy);
    cases.is_filled_again(&old);
    cases.kill(&nodes[0]);
    cases.has(&old, "before");
    cases.has(&old, "after");
}

/// Its number of openings is then higher than that of the disk that it is a copy of.
#[test]
fn an_old_copy_of_a_disk_counts_as_lost_also_when_it_is_opened_again_and_again() {
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    cases.fill(&nodes[0], "before");
    let copy = cases.copy_of(&nodes[1].disk);
    cases.kill(&nodes[1]);
    let again = cases.start("n2", &nodes[1].disk);
    cases.world.wait(Duration::from_secs(20));
    cases.fill(&nodes[0], "after");
    cases.kill(&again);
    let mark = || cases.world.run(copy.kept("disk")).expect("memory");
    for _ in 0..3 {
        let before = mark();
        let opened = cases.start("n2", &copy);
        while mark() == before {
            cases.world.wait(Duration::from_millis(1));
        }
        cases.kill(&opened);
    }
    let old = cases.start("n2", &copy);
    cases.is_filled_again(&old);
    cases.kill(&nodes[0]);
    cases.has(&old, "before");
    cases.has(&old, "after");
}

/// A process that dies as soon as it has opened its disk, and whose opening the leader may have seen.
#[test]
fn a_disk_that_is_opened_again_and_again_is_not_lost() {
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    cases.fill(&nodes[0], "before");
    let disk = &nodes[1].disk;
    cases.kill(&nodes[1]);
    let mark = || cases.world.run(disk.kept("disk")).expect("memory");
    for lives_ms in [0, 50, 150, 400, 1000, 3000] {
        let before = mark();
        let opened = cases.start("n2", disk);
        while mark() == before {
            cases.world.wait(Duration::from_millis(1));
        }
        cases.world.wait(Duration::from_millis(lives_ms));
        cases.kill(&opened);
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
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    cases.fill(&nodes[0], "before");
    let copy = cases.copy_of(&nodes[1].disk);
    cases.kill(&nodes[1]);
    let again = cases.start("n2", &nodes[1].disk);
    cases.world.wait(Duration::from_secs(20));
    cases.fill(&nodes[0], "after");
    cases.kill(&again);
    // So short that no slot gets another disk.
    let other = cases.start("n2", &Disk::new());
    cases.world.wait(Duration::from_millis(300));
    cases.kill(&other);
    let old = cases.start("n2", &copy);
    cases.is_filled_again(&old);
    cases.kill(&nodes[0]);
    cases.has(&old, "before");
    cases.has(&old, "after");
}

#[test]
fn an_old_copy_of_a_disk_counts_as_lost_although_consul_was_wiped() {
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    cases.fill(&nodes[0], "before");
    let copy = cases.copy_of(&nodes[1].disk);
    cases.kill(&nodes[1]);
    let again = cases.start("n2", &nodes[1].disk);
    cases.world.wait(Duration::from_secs(20));
    cases.fill(&nodes[0], "after");
    nodes.iter().chain([&again]).for_each(|node| cases.kill(node));
    cases.world.agent.restart(Retained::Nothing);
    let old = cases.start("n2", &copy);
    let others = ["n1", "n3"].map(|id| {
        let disk = if id == "n1" { &nodes[0].disk } else { &nodes[2].disk };
        cases.start(id, disk)
    });
    cases.is_filled_again(&old);
    cases.kill(&others[0]);
    cases.has(&old, "before");
    cases.has(&old, "after");
}

#[test]
fn a_replica_does_not_count_before_its_disk_is_known_to_be_the_newest() {
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    cases.fill(&nodes[0], "before");
    let copy = cases.copy_of(&nodes[1].disk);
    cases.kill(&nodes[1]);
    let again = cases.start("n2", &nodes[1].disk);
    cases.world.wait(Duration::from_secs(20));
    cases.fill(&nodes[0], "after");
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
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    cases.fill(&nodes[0], "before");
    let disk = Disk::new();
    let options = Cases::options("n1");
    let store = StoreOptions::new("points", &options);
    let client = cases.world.client();
    let cluster = Cluster::new(Arc::clone(&client), client, options).expect("options");
    let (peers, runtime) = (Arc::new(cases.network.clone()), Arc::new(cases.network.clone()));
    let storage = Some(Arc::clone(&disk) as Arc<dyn Storage>);
    let second = Store::new(Arc::clone(&cluster), peers, runtime, storage, store);
    let second = second.expect("options");
    cases.world.clock.spawn(async move { _ = second.run().await });
    let running = Arc::clone(&cluster);
    cases.world.clock.spawn(async move { _ = running.run().await });
    cases.world.wait(Duration::from_secs(30));
    assert_eq!(cases.world.run(disk.kept("disk")).expect("memory"), None);
    assert!(nodes[0].is_settled(3));
    cases.fill(&nodes[0], "after");
}

/// What survives the process only is lost with the machine.
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
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    cases.fill(&nodes[0], "before");
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
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    cases.fill(&nodes[0], "before");
    cases.kill(&nodes[1]);
    let options = Cases::options("n2");
    let survives = Survives::Nothing;
    let store = StoreOptions { survives, ..StoreOptions::new("points", &options) };
    let back = cases.start_with(options, store, &nodes[1].disk);
    cases.is_filled_again(&back);
}
