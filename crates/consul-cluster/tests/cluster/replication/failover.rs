//! Failovers of a shard while its other replicas change or do not answer.

use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::clock::BoxFuture;
use consul_replication::clock::VersionClock;
use consul_replication::holder::Holder;
use consul_replication::map::{Change, ChangeKind, Disk, Entry, NodeId, Place, Sizes, Slot};
use consul_replication::message::{Action, Outcome, Reply, Request};
use consul_replication::peers::Peers;
use consul_replication::record::{HybridTime, Range, Record, Version};
use consul_replication::rules::Rules;
use consul_replication::storage::{Memory, Storage};
use consul_replication::transfer::Transfer;
use futures_util::FutureExt as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Nodes in memory; some do not answer.
#[derive(Clone, Default)]
pub struct Net {
    pub holders: Arc<Mutex<BTreeMap<NodeId, Arc<Holder>>>>,
    silent: Arc<Mutex<BTreeSet<NodeId>>>,
    /// How many more pages of copies some nodes answer.
    pages_left: Arc<Mutex<BTreeMap<NodeId, usize>>>,
    /// The records that are written to a node before it is sealed.
    before_seal: Arc<Mutex<Vec<Record>>>,
}

impl Peers for Net {
    fn ask(&self, node: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>> {
        let is_silent = self.silent.lock().expect("no panic").contains(node);
        let is_copy = matches!(request.action, Action::Copy { .. });
        let mut pages_left = self.pages_left.lock().expect("no panic");
        let left = pages_left.get_mut(node).filter(|_| is_copy);
        let refuses = left.as_ref().is_some_and(|left| **left == 0);
        if let Some(left) = left {
            *left = left.saturating_sub(1);
        }
        let holder = self.holders.lock().expect("no panic").get(node).cloned();
        let mut written = Vec::new();
        if let Action::Seal = request.action {
            written.append(&mut self.before_seal.lock().expect("no panic"));
        }
        Box::pin(async move {
            if let (Some(holder), false) = (&holder, written.is_empty()) {
                let action = Action::Write(written);
                let entry = request.entry.clone();
                let Request { store, shard, .. } = request;
                holder.serve(Request { store, shard, entry, action }).await;
            }
            match holder.filter(|_| !is_silent && !refuses) {
                Some(holder) => Ok(holder.serve(request).await),
                None => Err(Error::new(Kind::Connect, "it is down").retryable()),
            }
        })
    }
}

/// The names of nodes.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

pub fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory does not wait")
}

pub fn place(node: &str, disk: u64) -> Place {
    Place { node: node.into(), disk: Disk(disk), is_first: true }
}

pub fn change(kind: ChangeKind, to: &str, since: u64) -> Option<Change> {
    Some(Change::new(kind, to.into(), since))
}

pub fn record(id: &'static str) -> Record {
    let version = Version::first_of(HybridTime::from_ms(1));
    let data = Some(Bytes::from_static(b"data"));
    Record { id: Bytes::from_static(id.as_bytes()), version, data }
}

impl Net {
    /// Three nodes, a, b and c, whose replicas have a record.
    pub fn of_three(id: &'static str) -> (Self, Entry) {
        Net::of(3, Sizes::majorities(3), id)
    }

    /// Nodes from a on, whose replicas have a record.
    fn of(replicas: usize, quorums: Sizes, id: &'static str) -> (Self, Entry) {
        let net = Net::default();
        let names = &NAMES[..replicas];
        let slot = |(node, disk): (&&str, u64)| {
            _ = net.start(node, disk);
            Slot::of(place(node, disk))
        };
        let slots = names.iter().zip(1..).map(slot).collect();
        let entry = Entry::new(1, slots).with_quorums(quorums);
        for node in names {
            assert!(net.stores(node, &entry, &[record(id)]));
        }
        (net, entry)
    }

    /// A node, or the same one with a new and empty disk.
    pub fn start(&self, node: &str, disk: u64) -> Transfer {
        let ms = || 1_700_000_000_000;
        let clock = Arc::new(VersionClock::new(ms, Duration::from_secs(10), disk));
        let storage = Arc::new(Memory::new());
        let holder = Holder::new(node.into(), Disk(disk), storage, clock, Rules::default());
        let holder = Arc::new(holder);
        self.holders.lock().expect("no panic").insert(node.into(), Arc::clone(&holder));
        Transfer { holder, peers: Arc::new(self.clone()), page: 1000 }
    }

    pub fn ask_now(&self, node: &str, entry: &Entry, action: Action) -> Result<Outcome, Error> {
        let request = Request { store: None, shard: 0, entry: entry.clone(), action };
        now(self.ask(&node.into(), request)).map(|reply| reply.outcome)
    }

    pub fn stores(&self, node: &str, entry: &Entry, records: &[Record]) -> bool {
        let stored = self.ask_now(node, entry, Action::Write(records.to_vec()));
        stored.is_ok_and(|it| it == Outcome::Stored { overtaken: Vec::new() })
    }

    /// The ids that a read of a node finds; an error if it does not count.
    pub fn ids(&self, node: &str, entry: &Entry) -> Vec<Bytes> {
        self.records(node, entry).into_iter().map(|it| it.id).collect()
    }

    fn records(&self, node: &str, entry: &Entry) -> Vec<Record> {
        let read = Action::Read { range: Range::all(), limit: 1000 };
        match self.ask_now(node, entry, read) {
            Ok(Outcome::Page { records, .. }) => records,
            other => panic!("{node} does not count: {other:?}"),
        }
    }

    fn holder(&self, node: &str) -> Arc<Holder> {
        Arc::clone(&self.holders.lock().expect("no panic")[node])
    }

    /// Lets a node answer this many more pages of copies, or all.
    pub fn let_pages(&self, node: &str, pages: Option<usize>) {
        let mut pages_left = self.pages_left.lock().expect("no panic");
        match pages {
            Some(pages) => _ = pages_left.insert(node.into(), pages),
            None => _ = pages_left.remove(node),
        }
    }

    pub fn set_silent(&self, node: &str, is_silent: bool) {
        let mut silent = self.silent.lock().expect("no panic");
        if is_silent {
            silent.insert(node.into());
        } else {
            silent.remove(node);
        }
    }
}

/// A slot that changes hands counts once for a failover, for any node that has it.
#[test]
fn a_failover_during_which_a_move_ends_copies_enough_slots() {
    let net = Net::default();
    let [_a, _b, _c, e] =
        [("a", 1), ("b", 2), ("c", 3), ("e", 5)].map(|(node, disk)| net.start(node, disk));
    let slots = [("a", 1), ("b", 2), ("c", 3)].map(|(node, disk)| Slot::of(place(node, disk)));
    let mut entry = Entry::new(1, slots.to_vec());
    for node in ["a", "b", "c"] {
        _ = net.ask_now(node, &entry, Action::Ping);
    }
    // A quorum of two, without the second slot.
    assert!(net.stores("a", &entry, &[record("acknowledged")]));
    assert!(net.stores("c", &entry, &[record("acknowledged")]));
    // The second slot moves, and its target is ready.
    entry.epoch = 2;
    entry.slots[1].change = change(ChangeKind::Move, "e", 2);
    now(e.holder.learn(0, &entry)).expect("memory");
    assert!(now(e.pursue(0)).expect("all answer"));
    // The first one's disk is lost, the only one; the third does not answer for a moment.
    let a = net.start("a", 9);
    net.set_silent("c", true);
    entry.epoch = 3;
    entry.slots[0].change = change(ChangeKind::Failover, "a", 3);
    now(a.holder.learn(0, &entry)).expect("memory");
    now(a.pursue(0)).expect_err("one of two slots");
    // The leader commits the move.
    entry.epoch = 4;
    entry.slots[1] = Slot::of(Place { is_first: false, ..place("e", 5) });
    now(a.holder.learn(0, &entry)).expect("memory");
    let pursued = now(a.pursue(0));
    if let Ok(true) = pursued {
        entry.epoch = 5;
        entry.slots[0] = Slot::of(Place { is_first: false, ..place("a", 9) });
        let (of_a, of_e) = (net.ids("a", &entry), net.ids("e", &entry));
        panic!("a complete read of a quorum, a and e, finds {of_a:?} and {of_e:?}");
    }
    net.set_silent("c", false);
    assert!(now(a.pursue(0)).expect("all answer"));
    entry.epoch = 5;
    entry.slots[0] = Slot::of(Place { is_first: false, ..place("a", 9) });
    assert_eq!(net.ids("a", &entry), ["acknowledged"]);
}

/// With W 3 of 4, two of the others are enough to copy.
#[test]
fn a_failover_does_not_wait_for_ever_for_a_replica_that_it_has_fenced() {
    let net = Net::default();
    let names = [("a", 1), ("b", 2), ("c", 3), ("d", 4)];
    let _nodes = names.map(|(node, disk)| net.start(node, disk));
    let slots = names.map(|(node, disk)| Slot::of(place(node, disk)));
    let quorums = Sizes { write: 3, read: 2 };
    let mut entry = Entry::new(1, slots.to_vec()).with_quorums(quorums);
    for node in ["a", "b", "c", "d"] {
        assert!(net.stores(node, &entry, &[record("acknowledged")]));
    }
    net.set_silent("a", true);
    let target = net.start("x", 7);
    entry.epoch = 2;
    entry.slots[0].change = change(ChangeKind::Failover, "x", 2);
    now(target.holder.learn(0, &entry)).expect("memory");
    // It is fenced, and then it dies for good.
    net.pages_left.lock().expect("no panic").insert("b".into(), 0);
    _ = now(target.pursue(0));
    net.set_silent("b", true);
    let pursued = now(target.pursue(0));
    // Another one replaces it, which copies c and d.
    let other = net.start("y", 8);
    entry.epoch = 3;
    entry.slots[1] = Slot::of(Place { is_first: false, ..place("y", 8) });
    _ = other;
    now(target.holder.learn(0, &entry)).expect("memory");
    let again = now(target.pursue(0));
    assert!(pursued.is_ok() || again.is_ok(), "c and d are enough: {pursued:?}, then {again:?}");
}

/// An operator's word is about nodes that cannot be reached, not about one request that failed.
#[test]
fn after_an_accepted_loss_a_survivor_that_fails_to_answer_once_is_copied() {
    let (net, mut entry) = Net::of_three("acknowledged");
    // a and b are gone; c has everything, and one request to it fails.
    for node in ["a", "b", "c"] {
        net.set_silent(node, true);
    }
    let target = net.start("x", 7);
    entry.epoch = 2;
    entry.slots[0].change =
        change(ChangeKind::Failover, "x", 2).map(|it| Change { lost: vec!["b".into()], ..it });
    now(target.holder.learn(0, &entry)).expect("memory");
    let first = now(target.pursue(0));
    net.set_silent("c", false);
    let second = now(target.pursue(0));
    entry.epoch = 3;
    entry.slots[0] = Slot::of(Place { is_first: false, ..place("x", 7) });
    let found = net.ids("x", &entry);
    assert_eq!(found, ["acknowledged"], "{first:?}, then {second:?}");
}

/// The word for one replica is not for another replica that is lost later.
#[test]
fn after_an_accepted_loss_a_failover_waits_for_what_is_lost_later() {
    let (net, mut entry) = Net::of_three("acknowledged");
    let target = net.start("x", 7);
    entry.epoch = 2;
    entry.slots[0].change =
        change(ChangeKind::Failover, "x", 2).map(|it| Change { lost: vec!["a".into()], ..it });
    entry.slots[1].change = change(ChangeKind::Failover, "b", 2);
    now(target.holder.learn(0, &entry)).expect("memory");
    assert!(now(target.pursue(0)).is_err(), "c alone may not have what b had");
    entry.epoch = 3;
    entry.slots[1].change = None;
    now(target.holder.learn(0, &entry)).expect("memory");
    assert!(now(target.pursue(0)).is_ok(), "b is back");
}

/// When a node is told to make its replica again, as the failover of another one sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ordered {
    Before,
    /// The others do not answer for a moment.
    BeforeTheOthersAnswer,
    WhenAllAreFenced,
    /// The others are lost, and an operator has accepted that.
    AndItAloneIsLeft,
}

/// Its records may be wrong, and no version shows that.
#[test]
fn a_failover_takes_of_a_replica_that_is_to_be_made_again_what_the_others_lack() {
    use Ordered::{AndItAloneIsLeft, Before, BeforeTheOthersAnswer, WhenAllAreFenced};
    let numbers = [(3, 2, 2), (4, 2, 3), (4, 3, 2), (4, 3, 3), (5, 2, 4), (5, 3, 3), (5, 4, 2)];
    for (replicas, write, read) in numbers {
        // The first slot is that of a lost replica, or of one more.
        for is_vacant in [false, true] {
            let slots = replicas + usize::from(is_vacant);
            for (remade, in_doubt) in NAMES.iter().enumerate().take(slots).skip(1) {
                for ordered in [Before, BeforeTheOthersAnswer, WhenAllAreFenced, AndItAloneIsLeft] {
                    let case =
                        format!("{replicas} {write} {read} {remade} {is_vacant} {ordered:?}");
                    let (net, mut entry) = Net::of(slots, Sizes { write, read }, "of all");
                    let others = (1..slots).filter(|it| *it != remade).map(|it| NAMES[it]);
                    let others = Vec::from_iter(others);
                    let wrong =
                        Record { data: Some(Bytes::from_static(b"wrong")), ..record("of all") };
                    assert!(net.stores(in_doubt, &entry, std::slice::from_ref(&wrong)));
                    // A quorum, with the replica that is lost.
                    let some = &others[..write - if is_vacant { 1 } else { 2 }];
                    for name in ["a", *in_doubt].iter().chain(some) {
                        assert!(net.stores(name, &entry, &[record("of a quorum")]));
                    }
                    let is_silent =
                        |names: &[&str], is| names.iter().for_each(|it| net.set_silent(it, is));
                    let let_pages = |pages| NAMES.iter().for_each(|it| net.let_pages(it, pages));
                    let order = || net.holder(in_doubt).set_to_remake(&[0].into());
                    is_silent(&["a"], true);
                    let target = net.start("x", 9);
                    entry.epoch = 2;
                    entry.slots[0].change = change(ChangeKind::Failover, "x", 2);
                    if is_vacant {
                        entry.slots[0].holder = None;
                    }
                    let learn = |entry: &Entry| now(target.holder.learn(0, entry)).expect("memory");
                    learn(&entry);
                    if ordered == WhenAllAreFenced {
                        let_pages(Some(0));
                        now(target.pursue(0)).expect_err("nobody is copied");
                        let_pages(None);
                    }
                    order();
                    if matches!(ordered, BeforeTheOthersAnswer | AndItAloneIsLeft) {
                        is_silent(&others, true);
                        now(target.pursue(0)).expect_err("the others are away");
                        let taken = now(target.holder.storage().scan(0, Range::all(), 9));
                        assert_eq!(taken.expect("memory"), [], "{case}");
                    }
                    match ordered {
                        AndItAloneIsLeft => {
                            let lost = others.iter().chain(&["a"]).map(|it| NodeId::from(*it));
                            let lost = lost.collect();
                            entry.epoch = 3;
                            entry.slots[0].change = change(ChangeKind::Failover, "x", 2)
                                .map(|it| Change { lost, ..it });
                            learn(&entry);
                        }
                        _ => is_silent(&others, false),
                    }
                    assert!(now(target.pursue(0)).expect(&case), "{case}");
                    entry.epoch = 4;
                    entry.slots[0] = Slot::of(Place { is_first: false, ..place("x", 9) });
                    learn(&entry);
                    let of_all = match ordered {
                        AndItAloneIsLeft => wrong,
                        _ => record("of all"),
                    };
                    let found = net.records("x", &entry);
                    assert_eq!(found, [record("of a quorum"), of_all], "{case}");
                }
            }
        }
    }
}

/// How far the copy of another replica is says nothing about this one.
#[test]
fn a_copy_that_breaks_off_does_not_shorten_that_of_the_next_replica() {
    let (net, mut entry) = Net::of_three("of all");
    assert!(net.stores("c", &entry, &[record("and of c")]));
    let target = Transfer { page: 1, ..net.start("x", 7) };
    entry.epoch = 2;
    entry.slots[0].change = change(ChangeKind::Failover, "x", 2);
    now(target.holder.learn(0, &entry)).expect("memory");
    net.pages_left.lock().expect("no panic").insert("b".into(), 1);
    now(target.pursue(0)).expect_err("b stops answering after a page");
    net.pages_left.lock().expect("no panic").clear();
    assert!(now(target.pursue(0)).expect("all answer"));
    entry.epoch = 3;
    entry.slots[0] = Slot::of(Place { is_first: false, ..place("x", 7) });
    assert_eq!(net.ids("x", &entry), ["and of c", "of all"]);
}

/// The leader ends a change without progress; a target that compares the same again makes none.
#[test]
fn attempts_that_fail_at_the_same_place_are_no_progress() {
    let (net, mut entry) = Net::of_three("before");
    let target = net.start("e", 5);
    entry.epoch = 2;
    entry.slots[1].change = change(ChangeKind::Move, "e", 2);
    now(target.holder.learn(0, &entry)).expect("memory");
    net.set_silent("c", true);
    now(target.pursue(0)).expect_err("one of the others is away");
    let first = target.holder.taken();
    assert!(first > 1, "the record, and its comparison");
    for _ in 0..5 {
        now(target.pursue(0)).expect_err("one of the others is away");
    }
    assert_eq!(target.holder.taken(), first);
    // A record that is written meanwhile is copied, which counts; that there is one more to compare does not.
    assert!(net.stores("b", &entry, &[record("meanwhile")]));
    now(target.pursue(0)).expect_err("one of the others is away");
    now(target.pursue(0)).expect_err("one of the others is away");
    assert_eq!(target.holder.taken(), first + 1);
    // After the seal it compares once more, and that counts.
    net.set_silent("c", false);
    assert!(now(target.pursue(0)).expect("all answer"));
    assert!(target.holder.taken() > first + 1);
}

/// The target has all that its source acknowledges until it is sealed.
#[test]
fn a_move_has_what_was_written_until_the_seal() {
    let (net, mut entry) = Net::of_three("before");
    let target = net.start("e", 5);
    entry.epoch = 2;
    entry.slots[1].change = change(ChangeKind::Move, "e", 2);
    now(target.holder.learn(0, &entry)).expect("memory");
    // One of the others is away: the rest has no quorum without the source, which must not be sealed.
    net.set_silent("c", true);
    now(target.pursue(0)).expect_err("one of the others is away");
    assert!(net.stores("b", &entry, &[record("meanwhile")]), "it is sealed");
    net.set_silent("c", false);
    net.before_seal.lock().expect("no panic").push(record("late"));
    assert!(now(target.pursue(0)).expect("all answer"));
    assert!(!net.stores("b", &entry, &[record("too-late")]), "it is not sealed");
    entry.epoch = 3;
    entry.slots[1] = Slot::of(Place { is_first: false, ..place("e", 5) });
    assert_eq!(net.ids("e", &entry), ["before", "late", "meanwhile"]);
}

/// Another node gives up its replica, if it may, after it has answered the first node that it is whole.
struct Racing {
    net: Net,
    other: Transfer,
    entry: Entry,
    is_over: Mutex<bool>,
    other_has: Mutex<bool>,
}

impl Peers for Racing {
    fn ask(&self, node: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>> {
        let reply = now(self.net.ask(node, request));
        let is_first = !std::mem::replace(&mut *self.is_over.lock().expect("no panic"), true);
        if is_first && *node == *self.other.holder.node() {
            let given = now(self.other.give_up(0, &self.entry)).is_ok_and(|given| given);
            *self.other_has.lock().expect("no panic") = given;
        }
        Box::pin(async { reply })
    }
}

fn has_given_up(transfer: &Transfer, entry: &Entry) -> bool {
    now(transfer.give_up(0, entry)).is_ok_and(|given| given)
}

#[test]
fn of_two_nodes_that_ask_each_other_one_gives_up_its_replica() {
    for to_remake in [&[][..], &["a"], &["b"], &["a", "b"], &["a", "b", "c"]] {
        let (net, entry) = Net::of_three("x");
        to_remake.iter().for_each(|it| net.holder(it).set_to_remake(&[0].into()));
        let transfer = |node: &str| {
            let holder = net.holder(node);
            Transfer { holder, peers: Arc::new(net.clone()), page: 1000 }
        };
        let (is_over, other_has) = Default::default();
        let racing = Arc::new(Racing {
            net: net.clone(),
            other: transfer("b"),
            entry: entry.clone(),
            is_over,
            other_has,
        });
        let first = Transfer { peers: Arc::clone(&racing) as _, ..transfer("a") };
        assert!(has_given_up(&first, &entry));
        assert!(!*racing.other_has.lock().expect("no panic"), "two of three");
        // Later neither, as long as the first one has not made it again.
        assert!(!has_given_up(&transfer("b"), &entry));
        assert!(!has_given_up(&transfer("c"), &entry));
        assert_eq!(net.ids("b", &entry), net.ids("c", &entry));
    }
}

#[test]
fn a_replica_is_given_up_only_if_all_others_say_that_they_are_whole() {
    let changed = |net: &Net, entry: &Entry| net.set_silent("c", entry.epoch > 0);
    let lost = |net: &Net, _: &Entry| _ = net.start("c", 9);
    type Case = (&'static str, fn(&Net, &Entry), fn(&mut Entry), bool);
    let cases: [Case; 7] = [
        ("all are there", |_, _| {}, |_| {}, true),
        ("one does not answer", changed, |_| {}, false),
        ("one has another disk", lost, |_| {}, false),
        ("one moves", |_, _| {}, |it| it.slots[1].change = change(ChangeKind::Move, "d", 1), false),
        (
            "one is lost",
            |_, _| {},
            |it| it.slots[1].change = change(ChangeKind::Failover, "b", 1),
            false,
        ),
        ("a failover needs all", |_, _| {}, |it| it.quorums = Sizes { write: 3, read: 1 }, false),
        ("the entry is newer than what the node knows", |_, _| {}, |it| it.epoch = 2, false),
    ];
    for (case, happens, differs, may) in cases {
        let (net, mut entry) = Net::of_three("x");
        happens(&net, &entry);
        differs(&mut entry);
        let holder = net.holder("a");
        let transfer = Transfer { holder, peers: Arc::new(net.clone()), page: 1000 };
        assert_eq!(has_given_up(&transfer, &entry), may, "{case}");
    }
}

/// A disk that reports of its next marks that they are not kept; some are nevertheless.
#[derive(Default)]
struct Failing {
    memory: Memory,
    /// Of each that fails, whether it is kept.
    next: Mutex<Vec<bool>>,
}

impl Storage for Failing {
    fn apply(
        &self,
        shard: u32,
        records: Vec<Record>,
    ) -> BoxFuture<'_, Result<Vec<(usize, Version)>, Error>> {
        self.memory.apply(shard, records)
    }

    fn scan(
        &self,
        shard: u32,
        range: Range,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>> {
        self.memory.scan(shard, range, limit)
    }

    fn purge(&self, shard: u32, below: Version) -> BoxFuture<'_, Result<(), Error>> {
        self.memory.purge(shard, below)
    }

    fn drop_shard(&self, shard: u32) -> BoxFuture<'_, Result<(), Error>> {
        self.memory.drop_shard(shard)
    }

    fn keep(&self, name: &str, value: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        let is_kept = self.next.lock().expect("no panic").pop();
        let kept = is_kept.unwrap_or(true).then(|| self.memory.keep(name, value));
        Box::pin(async move {
            if let Some(kept) = kept {
                kept.await?;
            }
            let why = || Error::new(Kind::NotReady, "the disk is full");
            if is_kept.is_some() { Err(why()) } else { Ok(()) }
        })
    }

    fn kept(&self, name: &str) -> BoxFuture<'_, Result<Option<Bytes>, Error>> {
        self.memory.kept(name)
    }

    fn flush(&self) -> BoxFuture<'_, Result<bool, Error>> {
        self.memory.flush()
    }
}

/// The disk may have what it has not confirmed, and the process may end at any time: two of three would be given up.
#[test]
fn no_other_replica_is_given_up_beside_one_that_the_next_start_does_not_find_whole() {
    for next in [&[true][..], &[false], &[true, true], &[false, true], &[true, false], &[false; 2]]
    {
        let (net, entry) = Net::of_three("x");
        let storage = Arc::new(Failing::default());
        let start = || {
            let ms = || 1_700_000_000_000;
            let clock = Arc::new(VersionClock::new(ms, Duration::from_secs(10), 1));
            let storage = Arc::clone(&storage) as Arc<dyn Storage>;
            let holder = Holder::new("a".into(), Disk(1), storage, clock, Rules::default());
            now(holder.load(0)).expect("what was kept");
            let holder = Arc::new(holder);
            net.holders.lock().expect("no panic").insert("a".into(), Arc::clone(&holder));
            holder
        };
        let holder = start();
        assert!(net.stores("a", &entry, &[record("x")]));
        *storage.next.lock().expect("no panic") = next.to_vec();
        let first = Transfer { holder, peers: Arc::new(net.clone()), page: 1000 };
        assert!(!has_given_up(&first, &entry), "{next:?}");
        let holder = Arc::clone(&net.holders.lock().expect("no panic")["b"]);
        let other = Transfer { holder, peers: Arc::new(net.clone()), page: 1000 };
        let other_has = has_given_up(&other, &entry);
        let is_whole = now(start().state(0)).is_whole;
        assert!(is_whole || !other_has, "{next:?}: two of three");
    }
}

/// On the same disk, so that only its word tells: others would wait for what it had, and no loss of it could be accepted.
#[test]
fn a_replica_that_was_given_up_is_missing_also_when_another_node_is_to_get_it() {
    let (net, entry) = Net::of_three("x");
    let holder = Arc::clone(&net.holders.lock().expect("no panic")["a"]);
    let transfer = Transfer { holder, peers: Arc::new(net.clone()), page: 1000 };
    let missing = || now(transfer.holder.report(|_| 0)).missing;
    assert_eq!(missing(), [0_u32; 0]);
    assert!(has_given_up(&transfer, &entry));
    assert_eq!(missing(), [0]);
    for (epoch, to) in [(2, "d"), (3, "a")] {
        let mut entry = Entry { epoch, ..entry.clone() };
        entry.slots[0].change = change(ChangeKind::Failover, to, epoch);
        now(transfer.holder.learn(0, &entry)).expect("memory");
        assert_eq!(missing(), [0], "{to}");
    }
    assert!(now(transfer.pursue(0)).expect("all answer"));
    let report = now(transfer.holder.report(|_| 0));
    assert_eq!((report.missing.len(), report.finished), (0, vec![(0, 3)]));
}
