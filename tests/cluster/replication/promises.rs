//! What a replica promises and refuses, and what the leader believes after Consul went back.

use super::failover::{Net, OF_THREE, change, now, place, record};
use consul_ffi::cluster::replication::map::{ChangeKind, Entry, Place, Slot};
use consul_ffi::cluster::replication::message::{Action, NotReady, Outcome};
use consul_ffi::cluster::replication::record::{HybridTime, Version};
use consul_ffi::cluster::replication::recover;

#[test]
fn a_node_learns_no_entry_below_its_promise() {
    let (net, mut entry) = Net::of_three("acknowledged");
    let known =
        |net: &Net| match net.ask_now("a", &Entry { epoch: 0, slots: Vec::new() }, Action::Recover)
        {
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
    _ = net.start("d", 4, OF_THREE);
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
    let target = net.start("d", 4, OF_THREE);
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

#[test]
fn after_consul_went_back_the_newest_entry_counts() {
    let (net, first) = Net::of_three("acknowledged");
    // One that a node knows and Consul has lost, and one that only Consul knows.
    let mut newer = Entry { epoch: 5, ..first.clone() };
    newer.slots[2].change = change(ChangeKind::Move, "d", 5);
    _ = net.start("d", 4, OF_THREE);
    _ = net.ask_now("b", &newer, Action::Ping);
    let found = now(recover::newest(&net, 0, &first, 100, false)).expect("all answer");
    assert_eq!(found, Entry { epoch: 100, ..newer });
    let mut newest = Entry { epoch: 101, ..first };
    newest.slots[1].change = change(ChangeKind::Failover, "d", 101);
    let found = now(recover::newest(&net, 0, &newest, 200, false)).expect("all answer");
    assert_eq!(found, Entry { epoch: 200, ..newest });
}

#[test]
fn nobody_promises_anything_while_one_does_not_answer() {
    let (net, entry) = Net::of_three("acknowledged");
    net.set_silent("c", true);
    now(recover::newest(&net, 0, &entry, 100, false)).expect_err("c does not answer");
    for node in ["a", "b"] {
        assert_eq!(net.ask_now(node, &entry, Action::Ping).expect("an answer"), Outcome::Done);
    }
    now(recover::newest(&net, 0, &entry, 100, true)).expect("by the word of an operator");
}
