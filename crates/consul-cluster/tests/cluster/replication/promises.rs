//! The promises and refusals of a replica, and the belief of the leader after Consul went back.

use super::failover::{Net, change, now, place, record};
use consul_api::error::{Error, Kind};
use consul_process::clock::BoxFuture;
use consul_replication::map::{ChangeKind, Entry, NodeId, Place, Slot, StoreId};
use consul_replication::message::{Action, NotReady, Outcome, Reply, Request};
use consul_replication::peers::Peers;
use consul_replication::record::{HybridTime, Record, Version};
use consul_replication::recover::Inquiry;
use consul_replication::transfer::Transfer;
use std::collections::BTreeSet;
use std::sync::Arc;

#[test]
fn a_node_learns_no_entry_below_its_promise() {
    let (net, mut entry) = Net::of_three("acknowledged");
    let known = |net: &Net| match net.ask_now("a", &Entry::new(0, Vec::new()), Action::Recover) {
        Ok(Outcome::Known { entry, .. }) => entry.map(|entry| entry.epoch),
        other => panic!("{other:?}"),
    };
    entry.epoch = 10;
    _ = net.ask_now("a", &entry, Action::Recover);
    assert_eq!(known(&net), Some(1));
    entry.epoch = 5;
    let refused = net.ask_now("a", &entry, Action::Ping);
    assert_eq!(refused.expect("an answer"), Outcome::NotReady(NotReady::Fenced));
    assert_eq!(known(&net), Some(1));
}

#[test]
fn a_replica_that_is_not_whole_is_not_copied() {
    let (net, mut entry) = Net::of_three("acknowledged");
    _ = net.start("d", 4);
    entry.epoch = 2;
    entry.slots[2] = Slot::of(Place { is_first: false, ..place("d", 4) });
    let copy = net.ask_now("d", &entry, Action::Copy { after: None, limit: 10 });
    assert_eq!(copy.expect("an answer"), Outcome::NotReady(NotReady::NotWhole));
}

#[test]
fn a_repair_does_not_bring_back_what_was_purged() {
    let (net, entry) = Net::of_three("acknowledged");
    let below = Version::first_of(HybridTime::from_ms(1000));
    assert_eq!(
        net.ask_now("a", &entry, Action::Purge { below }).expect("an answer"),
        Outcome::Done
    );
    let old = net.ask_now("a", &entry, Action::Repair(vec![record("deleted")]));
    assert_eq!(old.expect("an answer"), Outcome::Stored { overtaken: vec![(0, below)] });
    assert_eq!(net.ids("a", &entry), ["acknowledged"]);
}

#[test]
fn a_floor_in_the_future_is_refused() {
    let (net, entry) = Net::of_three("acknowledged");
    let below = Version::first_of(HybridTime::from_ms(1_700_000_000_001));
    for action in [Action::Floor { below }, Action::Purge { below }] {
        match net.ask_now("a", &entry, action).expect("an answer") {
            Outcome::Failed(why) => assert!(why.contains("in the future"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_move_does_not_seal_its_source_while_the_others_do_not_answer() {
    let (net, mut entry) = Net::of_three("acknowledged");
    let target = net.start("d", 4);
    entry.epoch = 2;
    entry.slots[0].change = change(ChangeKind::Move, "d", 2);
    now(target.holder.learn(0, &entry)).expect("memory");
    net.set_silent("c", true);
    now(target.pursue(0)).expect_err("one of the two others");
    let ping = net.ask_now("a", &entry, Action::Ping).expect("an answer");
    assert_eq!(ping, Outcome::Done, "a is not sealed");
    net.set_silent("c", false);
    assert!(now(target.pursue(0)).expect("all answer"));
}

static NOBODY: BTreeSet<NodeId> = BTreeSet::new();

fn inquiry(net: &Net) -> Inquiry<'_> {
    Inquiry {
        peers: net,
        store: None,
        shard: 0,
        has: &|_| true,
        knowing: &NOBODY,
        skips_silent: false,
    }
}

#[test]
fn after_consul_went_back_the_newest_entry_counts() {
    let (net, first) = Net::of_three("acknowledged");
    // An entry that a node knows and Consul has lost, and an entry that only Consul knows.
    let mut newer = Entry { epoch: 5, ..first.clone() };
    newer.slots[2].change = change(ChangeKind::Move, "d", 5);
    _ = net.start("d", 4);
    _ = net.ask_now("b", &newer, Action::Ping);
    let found = now(inquiry(&net).newest(&first, 100)).expect("all answer");
    assert_eq!(found, Entry { epoch: 100, ..newer });
    let mut newest = Entry { epoch: 101, ..first };
    newest.slots[1].change = change(ChangeKind::Failover, "d", 101);
    let found = now(inquiry(&net).newest(&newest, 200)).expect("all answer");
    assert_eq!(found, Entry { epoch: 200, ..newest });
}

#[test]
fn nobody_promises_anything_while_too_few_answer() {
    let (net, entry) = Net::of_three("acknowledged");
    net.set_silent("b", true);
    net.set_silent("c", true);
    now(inquiry(&net).newest(&entry, 100)).expect_err("one of three replicas");
    assert_eq!(net.ask_now("a", &entry, Action::Ping).expect("an answer"), Outcome::Done);
    let word = Inquiry { skips_silent: true, ..inquiry(&net) };
    now(word.newest(&entry, 100)).expect("by the word of an operator");
}

#[test]
fn one_of_three_may_be_silent_after_consul_went_back() {
    let (net, entry) = Net::of_three("acknowledged");
    // Another leader has begun, and died with c.
    for node in ["a", "b"] {
        _ = net.ask_now(node, &Entry { epoch: 100, ..entry.clone() }, Action::Recover);
    }
    net.set_silent("c", true);
    let found = now(inquiry(&net).newest(&entry, 100)).expect("two of three replicas");
    // The entry that only c has seen is far below.
    assert_eq!(found, Entry { epoch: 1_000_100, ..entry.clone() });
    assert_eq!(net.ids("a", &found), ["acknowledged"]);
    let lost = Inquiry { has: &|place: &Place| &*place.node != "a", ..inquiry(&net) };
    now(lost.newest(&entry, 100)).expect_err("a has another disk by now");
}

#[test]
fn a_replica_on_a_new_disk_has_forgotten_what_it_knew() {
    let (net, entry) = Net::of_three("acknowledged");
    net.set_silent("c", true);
    // The leader has not seen it yet.
    _ = net.start("b", 4);
    now(inquiry(&net).newest(&entry, 100)).expect_err("one of three replicas");
}

#[test]
fn a_silent_node_that_is_being_replaced_is_waited_for() {
    for (node, is_enough) in [("c", false), ("b", false), ("d", true)] {
        let (net, mut entry) = Net::of_three("acknowledged");
        _ = net.start("d", 4);
        entry.slots[2].change = change(ChangeKind::Move, "d", 1);
        net.set_silent(node, true);
        let found = now(inquiry(&net).newest(&entry, 100));
        assert_eq!(found.is_ok(), is_enough, "{node} is silent: {found:?}");
    }
}

/// Not even an entry of a high epoch, which would be promised in the name of the store that the node has.
#[test]
fn a_request_about_another_store_is_refused_and_leaves_nothing_behind() {
    let (net, entry) = Net::of_three("acknowledged");
    let holder = Arc::clone(&net.holders.lock().expect("no panic")["a"]);
    let own = StoreId(1);
    holder.belongs_to(own);
    let before = now(holder.state(0));
    let entry = Entry { epoch: 1_000_000, ..entry };
    let records = vec![record("other")];
    for action in [Action::Ping, Action::Recover, Action::Fence, Action::Write(records)] {
        let ask = |store| Request { store, shard: 0, entry: entry.clone(), action: action.clone() };
        let reply = now(holder.serve(ask(Some(StoreId(2)))));
        assert_eq!(reply.outcome, Outcome::OtherStore(own));
        assert_eq!(now(holder.state(0)), before);
    }
    let request = Request { store: Some(own), shard: 0, entry, action: Action::Ping };
    assert_eq!(now(holder.serve(request)).outcome, Outcome::Done);
}

/// Else a new move would stop the replica at its beginning, until it ends.
#[test]
fn a_seal_for_a_move_that_was_cancelled_does_not_hold_in_the_next_one() {
    let (net, mut entry) = Net::of_three("acknowledged");
    let ping = |entry: &Entry| net.ask_now("a", entry, Action::Ping).expect("an answer");
    entry.epoch = 2;
    entry.slots[0].change = change(ChangeKind::Move, "d", 2);
    assert_eq!(net.ask_now("a", &entry, Action::Seal).expect("an answer"), Outcome::Done);
    assert_eq!(ping(&entry), Outcome::NotReady(NotReady::Sealed));
    entry.epoch = 3;
    assert_eq!(ping(&entry), Outcome::NotReady(NotReady::Sealed), "another slot has changed");
    for (epoch, next) in [(4, None), (5, change(ChangeKind::Move, "d", 5))] {
        entry.epoch = epoch;
        entry.slots[0].change = next;
        assert_eq!(ping(&entry), Outcome::Done, "epoch {epoch}");
    }
}

#[test]
fn a_node_seals_and_fences_nothing_below_its_promise() {
    let (net, mut entry) = Net::of_three("acknowledged");
    entry.epoch = 2;
    entry.slots[0].change = change(ChangeKind::Move, "d", 2);
    assert_eq!(net.ask_now("a", &entry, Action::Ping).expect("an answer"), Outcome::Done);
    _ = net.ask_now("a", &Entry { epoch: 10, ..entry.clone() }, Action::Recover);
    for action in [Action::Seal, Action::Fence] {
        let outcome = net.ask_now("a", &entry, action.clone()).expect("an answer");
        assert!(matches!(outcome, Outcome::NotReady(_)), "{action:?}: {outcome:?}");
    }
    entry.epoch = 10;
    assert_eq!(net.ask_now("a", &entry, Action::Ping).expect("an answer"), Outcome::Done);
}

/// The first map gives replicas that begin empty, but not on a disk that has had the shard.
#[test]
fn a_node_that_has_dropped_a_shard_is_not_whole_when_consul_goes_back_to_the_first_map() {
    let (net, first) = Net::of_three("acknowledged");
    let mut moved = Entry { epoch: 2, ..first.clone() };
    moved.slots[0] = Slot::of(Place { is_first: false, ..place("d", 4) });
    let holder = Arc::clone(&net.holders.lock().expect("no panic")["a"]);
    now(holder.learn(0, &moved)).expect("memory");
    assert!(now(holder.drop_unnamed(0, &moved)).expect("memory"));
    let back = Entry { epoch: 3, ..first };
    let ping = net.ask_now("a", &back, Action::Ping).expect("an answer");
    assert_eq!(ping, Outcome::NotReady(NotReady::NotWhole));
}

/// A node that has its disk and not the shard is not a survivor that is back.
#[test]
fn a_failover_to_the_node_that_has_dropped_the_shard_copies_it() {
    let (net, mut entry) = Net::of_three("acknowledged");
    let target = net.start("d", 4);
    entry.epoch = 2;
    entry.slots[0] = Slot::of(Place { is_first: false, ..place("d", 4) });
    assert_eq!(
        net.ask_now("d", &entry, Action::Ping).expect("an answer"),
        Outcome::NotReady(NotReady::NotWhole)
    );
    entry.epoch = 3;
    entry.slots[0].change = change(ChangeKind::Failover, "d", 3);
    now(target.holder.learn(0, &entry)).expect("memory");
    assert!(now(target.pursue(0)).expect("the others answer"));
    entry.epoch = 4;
    entry.slots[0].change = None;
    assert_eq!(net.ids("d", &entry), ["acknowledged"]);
}

#[test]
fn a_record_too_far_in_the_future_is_refused() {
    let (net, entry) = Net::of_three("acknowledged");
    let at = |ms| Record { version: Version::first_of(HybridTime::from_ms(ms)), ..record("new") };
    let write = |record| net.ask_now("a", &entry, Action::Write(vec![record])).expect("an answer");
    match write(at(1_700_000_010_001)) {
        Outcome::Failed(why) => assert!(why.contains("ahead"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(write(at(1_700_000_010_000)), Outcome::Stored { overtaken: Vec::new() });
}

/// Those below the floor do not shift the places of the others.
#[test]
fn each_record_that_was_overtaken_is_named_by_its_place() {
    let (net, entry) = Net::of_three("acknowledged");
    let at = |id, ms| Record { version: Version::first_of(HybridTime::from_ms(ms)), ..record(id) };
    let stored = Outcome::Stored { overtaken: Vec::new() };
    let write = |records| net.ask_now("a", &entry, Action::Write(records)).expect("an answer");
    assert_eq!(write(vec![at("newer", 3000)]), stored);
    let below = Version::first_of(HybridTime::from_ms(1000));
    assert_eq!(
        net.ask_now("a", &entry, Action::Floor { below }).expect("an answer"),
        Outcome::Done
    );
    let outcome = write(vec![at("old", 999), at("new", 2000), at("newer", 2000), at("old too", 1)]);
    let Outcome::Stored { mut overtaken } = outcome else { panic!("{outcome:?}") };
    overtaken.sort();
    let newer = Version::first_of(HybridTime::from_ms(3000));
    assert_eq!(overtaken, [(0, below), (2, newer), (3, below)]);
    assert_eq!(net.ids("a", &entry), ["acknowledged", "new", "newer"]);
}

impl Net {
    fn transfer(&self, node: &str) -> Transfer {
        let holder = Arc::clone(&self.holders.lock().expect("no panic")[node]);
        Transfer { holder, peers: Arc::new(self.clone()), page: 1000 }
    }
}

fn deletion(id: &'static str, ms: u64) -> Record {
    Record { version: Version::first_of(HybridTime::from_ms(ms)), data: None, ..record(id) }
}

/// The target may have copied what was deleted since.
#[test]
fn a_repair_during_a_move_purges_nothing() {
    let (net, mut entry) = Net::of_three("deleted");
    let below = Version::first_of(HybridTime::from_ms(1000));
    for node in ["a", "b", "c"] {
        assert!(net.stores(node, &entry, &[deletion("deleted", 2)]));
    }
    entry.epoch = 2;
    entry.slots[2].change = change(ChangeKind::Move, "d", 2);
    now(net.transfer("a").holder.learn(0, &entry)).expect("memory");
    now(net.transfer("a").repair(0, below)).expect("all answer");
    assert_eq!(net.ids("a", &entry), ["deleted"], "the deletion itself");
    entry.epoch = 3;
    entry.slots[2].change = None;
    now(net.transfer("a").holder.learn(0, &entry)).expect("memory");
    now(net.transfer("a").repair(0, below)).expect("all answer");
    assert!(net.ids("a", &entry).is_empty());
}

/// The node that repairs gets it from the last one, and has compared itself with the others before.
#[test]
fn a_deletion_that_one_replica_has_is_on_all_before_it_is_purged() {
    let (net, entry) = Net::of_three("deleted");
    assert!(net.stores("c", &entry, &[deletion("deleted", 2)]));
    let below = Version::first_of(HybridTime::from_ms(1000));
    now(net.transfer("a").repair(0, below)).expect("all answer");
    for node in ["a", "b", "c"] {
        assert!(net.ids(node, &entry).is_empty(), "{node} has it again");
    }
}

/// So a late delivery, or a copy that was away, brings nothing back.
#[test]
fn a_target_refuses_what_its_source_refuses() {
    let (net, mut entry) = Net::of_three("acknowledged");
    let below = Version::first_of(HybridTime::from_ms(1000));
    for node in ["a", "b", "c"] {
        _ = net.ask_now(node, &entry, Action::Purge { below });
    }
    let target = net.start("d", 4);
    entry.epoch = 2;
    entry.slots[0].change = change(ChangeKind::Move, "d", 2);
    now(target.holder.learn(0, &entry)).expect("memory");
    assert!(now(target.pursue(0)).expect("all answer"));
    entry.epoch = 3;
    entry.slots[0] = Slot::of(Place { is_first: false, ..place("d", 4) });
    for action in [Action::Repair(vec![record("purged")]), Action::Write(vec![record("purged")])] {
        let outcome = net.ask_now("d", &entry, action.clone()).expect("an answer");
        assert_eq!(outcome, Outcome::Stored { overtaken: vec![(0, below)] }, "{action:?}");
    }
    assert_eq!(net.ids("d", &entry), ["acknowledged"]);
}

#[test]
fn a_shard_is_not_dropped_by_an_older_entry_or_without_all_replicas() {
    let (net, first) = Net::of_three("acknowledged");
    _ = net.start("d", 4);
    let mut moved = Entry { epoch: 2, ..first.clone() };
    moved.slots[0] = Slot::of(Place { is_first: false, ..place("d", 4) });
    let back = Entry { epoch: 3, ..first };
    let of_a = net.transfer("a");
    now(of_a.holder.learn(0, &back)).expect("memory");
    assert!(!now(of_a.holder.drop_unnamed(0, &moved)).expect("memory"), "it knows a newer entry");
    assert_eq!(net.ids("a", &back), ["acknowledged"]);
    moved.epoch = 4;
    moved.slots[0] = Slot::default();
    now(of_a.holder.learn(0, &moved)).expect("memory");
    assert!(!now(of_a.drop_unnamed(0, &moved)).expect("all answer"), "there are two others");
    assert!(now(of_a.holder.state(0)).is_whole);
}

#[test]
fn a_leader_goes_beyond_all_epochs_that_others_may_have_promised() {
    let (net, entry) = Net::of_three("acknowledged");
    net.set_silent("c", true);
    let found = now(inquiry(&net).newest(&entry, 100)).expect("two of three replicas");
    assert_eq!(found.epoch, 1_000_001, "what only c has seen is far below");
    let knowing = BTreeSet::from([NodeId::from("c")]);
    let asking = Inquiry { knowing: &knowing, ..inquiry(&net) };
    now(asking.newest(&entry, 100)).expect_err("c has said that it knows a newer entry");
    let (net, entry) = Net::of_three("acknowledged");
    _ = net.ask_now("b", &Entry { epoch: 100, ..entry.clone() }, Action::Recover);
    let found = now(inquiry(&net).newest(&entry, 100)).expect("all answer");
    assert_eq!(found.epoch, 101, "another leader may have given 100");
}

/// Nodes; c answers once.
struct SilentThen(Net);

impl Peers for SilentThen {
    fn ask(&self, node: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>> {
        let answer = self.0.ask(node, request);
        if **node == *"c" {
            self.0.set_silent("c", true);
        }
        answer
    }
}

#[test]
fn a_leader_goes_far_beyond_what_it_asked_for_when_a_node_becomes_silent_meanwhile() {
    let (net, entry) = Net::of_three("acknowledged");
    let peers = SilentThen(net.clone());
    let asking = Inquiry { peers: &peers, ..inquiry(&net) };
    let found = now(asking.newest(&entry, 100)).expect("two of three replicas");
    assert_eq!(found.epoch, 1_000_100, "c may know entries of 100 since");
    net.set_silent("b", true);
    now(asking.newest(&entry, 100)).expect_err("one of three replicas");
}

/// Nodes; the disk of c is full: it says what it knows, and can promise nothing.
struct PromisesNothing(Net);

impl Peers for PromisesNothing {
    fn ask(&self, node: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>> {
        match (&**node, &request.action, request.entry.epoch) {
            ("c", Action::Recover, 1..) => {
                Box::pin(async { Err(Error::new(Kind::NotReady, "the disk is full")) })
            }
            _ => self.0.ask(node, request),
        }
    }
}

#[test]
fn a_node_that_cannot_promise_holds_up_nobody() {
    let (net, entry) = Net::of_three("acknowledged");
    let peers = PromisesNothing(net.clone());
    let asking = Inquiry { peers: &peers, ..inquiry(&net) };
    let found = now(asking.newest(&entry, 100)).expect("two of three replicas");
    assert_eq!(found, Entry { epoch: found.epoch, ..entry.clone() });
    assert_eq!(found.epoch, 1_000_100);
    for node in ["a", "b"] {
        assert_eq!(net.ask_now(node, &found, Action::Ping).expect("an answer"), Outcome::Done);
    }
    let lost = Inquiry { has: &|place: &Place| &*place.node != "a", ..asking };
    now(lost.newest(&entry, 100)).expect_err("a has another disk by now");
}

/// No move gets the end of a replica that is to be made again, unless it had that before.
#[test]
fn a_replica_that_is_to_be_made_again_is_not_sealed() {
    for is_late in [false, true] {
        let (net, mut entry) = Net::of_three("acknowledged");
        let target = net.start("d", 4);
        entry.epoch = 2;
        entry.slots[0].change = change(ChangeKind::Move, "d", 2);
        now(target.holder.learn(0, &entry)).expect("memory");
        let holder = Arc::clone(&net.holders.lock().expect("no panic")["a"]);
        if is_late {
            now(target.pursue(0)).expect("it moves");
        }
        holder.set_to_remake(&[0].into());
        let moved = now(target.pursue(0));
        assert_eq!((moved.is_ok(), now(holder.has_left(0, &entry))), (is_late, is_late));
        // Nothing but this keeps it: the next entry has another move, or none.
        holder.set_to_remake(&BTreeSet::new());
        entry.epoch = 3;
        entry.slots[0].change = change(ChangeKind::Move, "d", 3);
        assert!(!now(holder.has_left(0, &entry)));
        now(target.holder.learn(0, &entry)).expect("memory");
        assert!(now(target.pursue(0)).expect("it moves"));
        assert!(now(holder.has_left(0, &entry)));
    }
}
