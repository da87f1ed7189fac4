//! A horizon says what was deleted only if the replica that has it was whole.

use super::failover::{Net, change, now, place};
use bytes::Bytes;
use consul_api::error::Kind;
use consul_replication::clock::VersionClock;
use consul_replication::holder::Holder;
use consul_replication::map::{ChangeKind, Disk, Entry, Place, Slot};
use consul_replication::message::{Action, NotReady, Outcome};
use consul_replication::record::{HybridTime, Range, Record, Version};
use consul_replication::rules::Rules;
use consul_replication::state::Doubt;
use consul_replication::storage::{Memory, Storage as _};
use consul_replication::transfer::Transfer;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const NODES: [&str; 3] = ["a", "b", "c"];

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

fn version(ms: u64) -> Version {
    Version::first_of(HybridTime::from_ms(ms))
}

fn at(id: &'static str, ms: u64) -> Record {
    Record { id: Bytes::from_static(id.as_bytes()), version: version(ms), data: Some("x".into()) }
}

fn deletion(id: &'static str, ms: u64) -> Record {
    Record { data: None, ..at(id, ms) }
}

/// The ids of a storage that are not deleted.
fn live(storage: &Memory) -> BTreeSet<Bytes> {
    let records = now(storage.scan(0, Range::all(), 1000)).expect("memory");
    records.into_iter().filter(|it| it.data.is_some()).map(|it| it.id).collect()
}

fn ids(ids: &[&'static str]) -> BTreeSet<Bytes> {
    ids.iter().map(|id| Bytes::from_static(id.as_bytes())).collect()
}

fn start_on(net: &Net, node: &str, disk: u64, storage: &Arc<Memory>) -> Transfer {
    let clock = VersionClock::new(|| 1_700_000_000_000, Duration::from_secs(10), disk);
    let storage = Arc::clone(storage) as Arc<_>;
    let holder = Holder::new(node.into(), Disk(disk), storage, Arc::new(clock), Rules::default());
    let holder = Arc::new(holder);
    net.holders.lock().expect("no panic").insert(node.into(), Arc::clone(&holder));
    Transfer { holder, peers: Arc::new(net.clone()), page: 1 }
}

fn purge(net: &Net, node: &str, entry: &Entry) {
    let purged = net.ask_now(node, entry, Action::Purge { below: version(100) });
    assert_eq!(purged.expect("an answer"), Outcome::Done);
}

fn is_later(node: &str, disk: u64) -> Slot {
    Slot::of(Place { is_first: false, ..place(node, disk) })
}

/// Three replicas with equal records; the replicas in `raised` have a horizon. The disk of a is lost, and after some
/// pages of b all machines are restarted.
fn restarted_in_a_copy(raised: usize, pages: usize, order: [usize; 3]) {
    let case = format!("horizons {raised:03b}, {pages} pages, order {order:?}");
    let net = Net::default();
    let mut storages = [(); 3].map(|()| Arc::new(Memory::new()));
    let slots = (0..3).map(|it| Slot::of(place(NODES[it], it as u64 + 1))).collect();
    let mut entry = Entry::new(1, slots);
    for (number, node) in NODES.into_iter().enumerate() {
        _ = start_on(&net, node, number as u64 + 1, &storages[number]);
        let records = [at("1", 10), at("2", 20), at("3", 15), at("4", 120), at("5", 30)];
        assert!(
            net.stores(node, &entry, &records) && net.stores(node, &entry, &[deletion("3", 60)])
        );
    }
    for number in (0..3).filter(|number| raised >> number & 1 == 1) {
        purge(&net, NODES[number], &entry);
    }
    storages[0] = Arc::new(Memory::new());
    let copy = start_on(&net, "a", 9, &storages[0]);
    entry.epoch = 2;
    entry.slots[0].change = change(ChangeKind::Failover, "a", 2);
    net.set_silent("c", true);
    net.let_pages("b", Some(pages));
    now(copy.holder.learn(0, &entry)).expect("memory");
    now(copy.pursue(0)).expect_err("c does not answer");
    net.set_silent("c", false);
    net.let_pages("b", None);

    let nodes = [0, 1, 2].map(|number| {
        let node = start_on(&net, NODES[number], number as u64 + 11, &storages[number]);
        now(node.holder.load_doubted(0, Doubt::Restarted)).expect("memory");
        node
    });
    entry.epoch = 3;
    for (number, slot) in entry.slots.iter_mut().enumerate() {
        let change = slot.change.take().or_else(|| change(ChangeKind::Failover, NODES[number], 3));
        slot.change = change.map(|mut it| {
            it.unites = true;
            it
        });
    }
    for number in order {
        now(nodes[number].holder.learn(0, &entry)).expect("memory");
    }
    for number in order {
        assert!(now(nodes[number].pursue(0)).expect("all answer"), "{case}");
    }
    for (number, storage) in storages.iter().enumerate() {
        assert_eq!(live(storage), ids(&["1", "2", "4", "5"]), "{}: {case}", NODES[number]);
    }
}

#[test]
fn a_copy_that_has_not_ended_proves_no_deletion() {
    for raised in 0..8 {
        for pages in 0..=6 {
            ORDERS.into_iter().for_each(|order| restarted_in_a_copy(raised, pages, order));
        }
    }
}

/// A node that had a replica and gets it back by a move, before it has dropped what it had.
#[test]
fn a_replica_that_returns_brings_no_deleted_record_back() {
    for has_news in [false, true] {
        let net = Net::default();
        let storages = [("a", 1), ("b", 2), ("c", 3), ("e", 5)].map(|(node, disk)| {
            let storage = Arc::new(Memory::new());
            (start_on(&net, node, disk, &storage), storage)
        });
        let with = |third: &str, disk: u64| {
            [Slot::of(place("a", 1)), Slot::of(place("b", 2)), Slot::of(place(third, disk))]
        };
        let mut entry = Entry::new(1, with("e", 5).to_vec());
        for node in ["a", "b", "e"] {
            assert!(net.stores(node, &entry, &[at("1", 10), at("2", 20)]));
        }
        entry = Entry::new(2, with("c", 3).to_vec());
        now(storages[3].0.holder.learn(0, &entry)).expect("memory");
        assert!(net.stores("c", &entry, &[at("1", 10), at("2", 20)]));
        for node in NODES {
            assert!(net.stores(node, &entry, &[deletion("2", 60)]));
            purge(&net, node, &entry);
            assert!(!has_news || net.stores(node, &entry, &[at("3", 120)]));
        }
        entry.epoch = 3;
        entry.slots[2].change = change(ChangeKind::Move, "e", 3);
        now(storages[3].0.holder.learn(0, &entry)).expect("memory");
        assert!(now(storages[3].0.pursue(0)).expect("all answer"));
        entry.epoch = 4;
        entry.slots[2] = is_later("e", 5);
        _ = net.ask_now("e", &entry, Action::Ping);
        let expected = if has_news { ids(&["1", "3"]) } else { ids(&["1"]) };
        assert_eq!(live(&storages[3].1), expected);
    }
}

/// A change that has finished, and that the leader gives up before it counts, leaves the doubt as it was.
#[test]
fn a_replica_is_in_doubt_until_the_map_counts_it() {
    for doubt in [Doubt::Restarted, Doubt::Old, Doubt::Partial] {
        for is_given_up in [false, true] {
            let net = Net::default();
            let storages = NODES.map(|_| Arc::new(Memory::new()));
            let with = |first: Slot| vec![first, Slot::of(place("b", 2)), Slot::of(place("c", 3))];
            let mut entry = Entry::new(1, with(Slot::of(place("a", 1))));
            for (number, node) in NODES.into_iter().enumerate() {
                _ = start_on(&net, node, number as u64 + 1, &storages[number]);
                assert!(net.stores(node, &entry, &[at("1", 10)]));
            }
            let a = start_on(&net, "a", 9, &storages[0]);
            now(a.holder.load_doubted(0, doubt)).expect("memory");
            entry.epoch = 2;
            entry.slots[0].change = change(ChangeKind::Failover, "a", 2);
            now(a.holder.learn(0, &entry)).expect("memory");
            assert!(now(a.pursue(0)).expect("all answer"));
            let doubted = || now(a.holder.report(|_| entry.epoch)).doubted;
            assert_eq!(doubted(), [(0, doubt)]);

            let counts = Entry::new(3, with(is_later("a", 9)));
            let mut other = Entry { epoch: 3, ..entry.clone() };
            other.slots[0].change = change(ChangeKind::Failover, "e", 3);
            let next = if is_given_up { other } else { counts };
            now(a.holder.learn(0, &next)).expect("memory");
            let expected = if is_given_up { vec![(0, doubt)] } else { Vec::new() };
            assert_eq!(doubted(), expected);

            // The next failover to the same node begins with what it has.
            let mut again = Entry { epoch: 4, ..entry.clone() };
            again.slots[0].change = change(ChangeKind::Failover, "a", 4);
            if is_given_up {
                now(a.holder.learn(0, &again)).expect("memory");
                assert_eq!(doubted(), [(0, doubt)]);
                assert!(now(a.pursue(0)).expect("all answer"));
                assert_eq!(live(&storages[0]), ids(&["1"]));
            }
        }
    }
}

/// A machine that is restarted again and again, under disks that are put back.
#[test]
fn a_doubt_becomes_no_smaller() {
    let doubts = [Doubt::Restarted, Doubt::Old, Doubt::Partial];
    for first in doubts {
        for second in doubts {
            let (net, storage) = (Net::default(), Arc::new(Memory::new()));
            let entry = Entry::new(1, vec![Slot::of(place("a", 1))]);
            _ = start_on(&net, "a", 1, &storage);
            assert!(net.stores("a", &entry, &[at("1", 10)]));
            for (disk, doubt) in [(2, first), (3, second)] {
                let again = start_on(&net, "a", disk, &storage);
                now(again.holder.load_doubted(0, doubt)).expect("memory");
                let expected = if disk == 2 { first } else { first.max(second) };
                assert_eq!(now(again.holder.report(|_| 1)).doubted, [(0, expected)]);
            }
        }
    }
}

/// The last records of the storage may be gone, whatever it has kept about the copy.
#[test]
fn a_copy_during_which_the_machine_is_restarted_begins_again() {
    for doubt in [Doubt::Restarted, Doubt::Old] {
        let (net, mut entry) = Net::of_three("of all");
        for node in ["a", "b"] {
            assert!(net.stores(node, &entry, &[at("of two", 10)]));
        }
        let storage = Arc::new(Memory::new());
        let target = start_on(&net, "x", 7, &storage);
        entry.epoch = 2;
        entry.slots[0].change = change(ChangeKind::Failover, "x", 2);
        net.set_silent("c", true);
        now(target.holder.learn(0, &entry)).expect("memory");
        now(target.pursue(0)).expect_err("c does not answer");
        assert_eq!(live(&storage), ids(&["of all", "of two"]), "b was copied");
        now(storage.drop_shard(0)).expect("memory");
        let target = start_on(&net, "x", 8, &storage);
        now(target.holder.load_doubted(0, doubt)).expect("memory");
        net.set_silent("c", false);
        assert!(now(target.pursue(0)).expect("all answer"));
        assert_eq!(live(&storage), ids(&["of all", "of two"]), "{doubt:?}");
    }
}

/// A node that the map does not name any more may be the last one with some records.
#[test]
fn what_is_in_doubt_is_dropped_only_after_all_replicas_have_it() {
    for doubt in [Doubt::Restarted, Doubt::Old, Doubt::Partial] {
        let net = Net::default();
        let nodes = [("a", 1), ("b", 2), ("c", 3), ("d", 4)].map(|(node, disk)| {
            let storage = Arc::new(Memory::new());
            (start_on(&net, node, disk, &storage), storage)
        });
        let with = |epoch, first| {
            let places = [first, ("b", 2), ("c", 3)];
            Entry::new(epoch, places.map(|(node, disk)| Slot::of(place(node, disk))).to_vec())
        };
        assert!(net.stores("d", &with(1, ("d", 4)), &[at("its own", 10)]));
        let storage = &nodes[3].1;
        let d = start_on(&net, "d", 5, storage);
        now(d.holder.load_doubted(0, doubt)).expect("memory");
        let mut entry = with(2, ("a", 1));
        for node in ["a", "b", "c", "d"] {
            _ = net.ask_now(node, &entry, Action::Ping);
        }
        // One of N is away, then it is being replaced: neither may be passed over.
        net.set_silent("c", true);
        now(d.drop_unnamed(0, &entry)).expect_err("c does not answer");
        entry.epoch = 3;
        entry.slots[2].change = change(ChangeKind::Failover, "c", 3);
        assert!(!now(d.drop_unnamed(0, &entry)).expect("it is not asked"));
        assert_eq!(live(storage), ids(&["its own"]));
        net.set_silent("c", false);
        entry.epoch = 4;
        entry.slots[2].change = None;
        assert!(now(d.drop_unnamed(0, &entry)).expect("all answer"), "{doubt:?}");
        assert_eq!(live(storage), ids(&[]));
        assert_eq!(now(d.holder.report(|_| 4)).doubted, [], "there is nothing to doubt");
        for (_, storage) in &nodes[..3] {
            assert_eq!(live(storage), ids(&["its own"]), "{doubt:?}");
        }
    }
}

/// A record of a node when a loss was accepted may be the last copy; a record since then that others lack was deleted.
#[test]
fn only_what_comes_back_after_an_accepted_loss_was_not_deleted() {
    for (counted_since, comes_back) in [(false, true), (true, false)] {
        let net = Net::default();
        let nodes = [("a", 1), ("b", 2), ("c", 3), ("d", 4)].map(|(node, disk)| {
            let storage = Arc::new(Memory::new());
            (start_on(&net, node, disk, &storage), storage)
        });
        let with = |epoch, first: (&str, u64), is_accepted: bool| {
            let places = [first, ("b", 2), ("c", 3)];
            let slots = places.map(|(node, disk)| Slot::of(place(node, disk))).to_vec();
            let unproven = if is_accepted { version(5000) } else { Version::default() };
            Entry { unproven, ..Entry::new(epoch, slots) }
        };
        let before = with(1, ("d", 4), counted_since);
        for node in ["b", "c", "d"] {
            assert!(net.stores(node, &before, &[at("x", 10)]));
        }
        let entry = with(2, ("a", 1), true);
        for node in ["a", "b", "c"] {
            assert!(net.stores(node, &entry, &[deletion("x", 60)]));
            purge(&net, node, &entry);
        }
        let (d, disk) = &nodes[3];
        now(d.holder.learn(0, &entry)).expect("memory");
        assert!(now(d.drop_unnamed(0, &entry)).expect("all answer"));
        assert_eq!(live(disk), ids(&[]));
        for (_, storage) in &nodes[..3] {
            let wanted = if comes_back { ids(&["x"]) } else { ids(&[]) };
            assert_eq!(live(storage), wanted, "counted since: {counted_since}");
        }
    }
}

#[test]
fn a_closed_holder_executes_nothing() {
    let (net, entry) = Net::of_three("before");
    let holder = Arc::clone(&net.holders.lock().expect("no panic")["a"]);
    now(holder.close());
    let before = now(holder.state(0));
    let (after, range) = (None, Range::all());
    for action in [
        Action::Write(vec![at("late", 10)]),
        Action::Repair(vec![at("late", 10)]),
        Action::Read { range, limit: 10 },
        Action::Copy { after, limit: 10 },
        Action::Sums { bits: 1, horizon: Version::default(), after: None, through: None },
        Action::Fetch(vec![Bytes::from_static(b"before")]),
        Action::Floor { below: version(5) },
        Action::Purge { below: version(5) },
        Action::Seal,
        Action::Fence,
        Action::Recover,
        Action::Ping,
    ] {
        let name = format!("{action:?}");
        let later = Entry { epoch: 9, ..entry.clone() };
        let asked = if action == Action::Recover { &later } else { &entry };
        let outcome = net.ask_now("a", asked, action).expect("an answer");
        assert!(matches!(outcome, Outcome::Failed(_)), "{name}: {outcome:?}");
    }
    let later = Entry { epoch: 9, ..entry.clone() };
    assert_eq!(now(holder.learn(0, &later)).expect_err("it is closed").kind(), Kind::Closed);
    assert_eq!(now(holder.state(0)), before);
}

/// Records that it has lost were not deleted, and those that it alone still has are not lost by the others.
#[test]
fn a_replica_that_is_to_be_made_again_proves_no_deletion_and_undoes_none() {
    for raised in 0..4 {
        for is_remade_first in [false, true] {
            let case = format!("horizons {raised:02b}, {is_remade_first}");
            let net = Net::default();
            let storages = [(); 3].map(|()| Arc::new(Memory::new()));
            let slots = (0..3).map(|it| Slot::of(place(NODES[it], it as u64 + 1))).collect();
            let mut entry = Entry::new(1, slots);
            for (number, node) in NODES.into_iter().enumerate() {
                _ = start_on(&net, node, number as u64 + 1, &storages[number]);
                let records = [at("1", 10), at("2", 20), at("3", 15), at("4", 120)];
                assert!(net.stores(node, &entry, &records));
                assert!(net.stores(node, &entry, &[deletion("3", 60)]));
            }
            let (remade, other) = if is_remade_first { (1, 2) } else { (2, 1) };
            for (number, bit) in [(remade, 0), (other, 1)] {
                if raised >> bit & 1 == 1 {
                    purge(&net, NODES[number], &entry);
                }
            }
            let damaged = &storages[remade];
            now(damaged.drop_shard(0)).expect("memory");
            now(damaged.apply(0, vec![at("1", 10), at("3", 15), at("5", 130)])).expect("memory");
            let holder = Arc::clone(&net.holders.lock().expect("no panic")[NODES[remade]]);
            holder.set_to_remake(&[0].into());
            fail_over(&net, &mut entry, &storages[0]);
            let expected = ids(&["1", "2", "4", "5"]);
            assert_eq!(live(&storages[0]), expected, "{case}");
            // Nor does a comparison with the others after that.
            let a = Arc::clone(&net.holders.lock().expect("no panic")["a"]);
            let a = Transfer { holder: a, peers: Arc::new(net.clone()), page: 1 };
            now(a.reconcile(0, &entry, &NODES[other].into())).expect("all answer");
            for number in [0, other] {
                assert_eq!(live(&storages[number]), expected, "{}: {case}", NODES[number]);
            }
        }
    }
}

/// The first of two that are to be made again has lost records, and says that all below its horizon is there.
#[test]
fn of_two_replicas_that_are_to_be_made_again_none_hides_what_the_other_has() {
    for raised in 0..4 {
        for damaged in [1, 2] {
            let case = format!("horizons {raised:02b}, {damaged} is damaged");
            let net = Net::default();
            let storages = [(); 3].map(|()| Arc::new(Memory::new()));
            let slots = (0..3).map(|it| Slot::of(place(NODES[it], it as u64 + 1))).collect();
            let mut entry = Entry::new(1, slots);
            for (number, node) in NODES.into_iter().enumerate() {
                let node_of = start_on(&net, node, number as u64 + 1, &storages[number]);
                node_of.holder.set_to_remake(&[0].into());
                assert!(net.stores(node, &entry, &[at("1", 10), at("2", 20), at("3", 120)]));
            }
            for number in (1..3).filter(|number| raised >> (number - 1) & 1 == 1) {
                purge(&net, NODES[number], &entry);
            }
            now(storages[damaged].drop_shard(0)).expect("memory");
            now(storages[damaged].apply(0, vec![at("1", 10)])).expect("memory");
            fail_over(&net, &mut entry, &storages[0]);
            let a = Arc::clone(&net.holders.lock().expect("no panic")["a"]);
            let a = Transfer { holder: a, peers: Arc::new(net.clone()), page: 1 };
            for number in [1, 2] {
                now(a.reconcile(0, &entry, &NODES[number].into())).expect("all answer");
                assert_eq!(live(&storages[0]), ids(&["1", "2", "3"]), "{case}");
            }
        }
    }
}

/// The disk of a is lost, and replaced by an empty one.
fn fail_over(net: &Net, entry: &mut Entry, storage: &Arc<Memory>) {
    now(storage.drop_shard(0)).expect("memory");
    let fresh = start_on(net, "a", 9, storage);
    entry.epoch = 2;
    entry.slots[0].change = change(ChangeKind::Failover, "a", 2);
    now(fresh.holder.learn(0, entry)).expect("memory");
    assert!(now(fresh.pursue(0)).expect("all answer"));
    entry.epoch = 3;
    entry.slots[0] = is_later("a", 9);
    now(fresh.holder.learn(0, entry)).expect("memory");
}

/// All machines were restarted, so that all replicas are in doubt, and brought together.
#[test]
fn what_is_in_doubt_takes_of_a_replica_that_is_to_be_made_again_what_the_others_lack() {
    let wrong = |it: Record| Record { data: Some("y".into()), ..it };
    for remade in 0..3 {
        for lacks in (0..3).filter(|it| *it != remade) {
            for order in ORDERS {
                let case = format!("{remade} is to be made again, {lacks} lacks it, {order:?}");
                let net = Net::default();
                let storages = [(); 3].map(|()| Arc::new(Memory::new()));
                let slots = (0..3).map(|it| Slot::of(place(NODES[it], it as u64 + 1))).collect();
                let mut entry = Entry::new(1, slots);
                for (number, node) in NODES.into_iter().enumerate() {
                    _ = start_on(&net, node, number as u64 + 1, &storages[number]);
                    let record = match number {
                        _ if number == remade => wrong(at("1", 10)),
                        _ => at("1", 10),
                    };
                    if number != lacks {
                        assert!(net.stores(node, &entry, &[record]));
                    } else {
                        assert!(net.stores(node, &entry, &[at("2", 10)]));
                    }
                }
                assert!(net.stores(NODES[remade], &entry, &[at("3", 10)]));
                let nodes = [0, 1, 2].map(|number| {
                    let node = start_on(&net, NODES[number], number as u64 + 11, &storages[number]);
                    now(node.holder.load_doubted(0, Doubt::Restarted)).expect("memory");
                    node
                });
                nodes[remade].holder.set_to_remake(&[0].into());
                entry.epoch = 2;
                for (number, slot) in entry.slots.iter_mut().enumerate() {
                    slot.change = change(ChangeKind::Failover, NODES[number], 2).map(|mut it| {
                        it.unites = true;
                        it
                    });
                }
                for number in order {
                    now(nodes[number].holder.learn(0, &entry)).expect("memory");
                }
                for number in order {
                    assert!(now(nodes[number].pursue(0)).expect("all answer"), "{case}");
                }
                for number in (0..3).filter(|it| *it != remade) {
                    let found = now(storages[number].scan(0, Range::all(), 9)).expect("memory");
                    let expected = [at("1", 10), at("2", 10), at("3", 10)];
                    assert_eq!(found, expected, "{}: {case}", NODES[number]);
                }
            }
        }
    }
}

/// Of each state of a replica: what it says when it is fenced, and whether it is copied page by page.
#[test]
fn a_replica_that_is_to_be_made_again_says_so_and_is_not_copied_page_by_page() {
    for is_whole in [false, true] {
        for unites in [false, true] {
            for is_to_remake in [false, true] {
                let case = format!("whole: {is_whole}, unites: {unites}, ordered: {is_to_remake}");
                let (net, storage) = (Net::default(), Arc::new(Memory::new()));
                let slots = (0..3).map(|it| Slot::of(place(NODES[it], it as u64 + 1))).collect();
                let mut entry = Entry::new(1, slots);
                _ = start_on(&net, "b", 2, &storage);
                assert!(net.stores("b", &entry, &[at("1", 10)]));
                let b = start_on(&net, "b", 2, &storage);
                now(b.holder.load(0)).expect("memory");
                if !is_whole {
                    now(b.holder.load_doubted(0, Doubt::Restarted)).expect("memory");
                }
                if is_to_remake {
                    b.holder.set_to_remake(&[0].into());
                }
                entry.epoch = 2;
                entry.slots[0].change = change(ChangeKind::Failover, "x", 2).map(|mut it| {
                    it.unites = unites;
                    it
                });
                let fenced = net.ask_now("b", &entry, Action::Fence).expect("an answer");
                let copied = net.ask_now("b", &entry, Action::Copy { after: None, limit: 9 });
                let refused = match copied.expect("an answer") {
                    Outcome::Page { .. } => None,
                    Outcome::NotReady(why) => Some(why),
                    other => panic!("{case}: {other:?}"),
                };
                let (fence, copy) = match (is_whole, unites, is_to_remake) {
                    (true, _, true) | (false, true, true) => {
                        (Outcome::NotReady(NotReady::ToRemake), Some(NotReady::ToRemake))
                    }
                    (true, _, false) => (Outcome::Done, None),
                    (false, true, false) => (Outcome::NotReady(NotReady::NotWhole), None),
                    (false, false, _) => {
                        (Outcome::NotReady(NotReady::NotWhole), Some(NotReady::NotWhole))
                    }
                };
                assert_eq!((fenced, refused), (fence, copy), "{case}");
            }
        }
    }
}
