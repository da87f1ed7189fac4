//! The orders of operators outlive stops, crashes, wipes of Consul and changes of the leader.

use crate::nodes::{Process, leaders, node, owners};
use crate::requests::look;
use crate::support::world::World;
use consul_api::error::Kind;
use consul_cluster::{Cluster, Forgotten, KEPT_LEADERS, Mode, Options, past_leaders};
use consul_sim::Retained;
use std::sync::Arc;
use std::time::Duration;

const KEPT: &str = "tsdb/cluster/nodes/n3/mode";
const PAUSE: &str = "tsdb/cluster/nodes/all/paused";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn options(id: &str) -> Options {
    Options { replace_after: secs(20), forget_after: secs(30), ..node(id) }
}

fn three() -> (World, Vec<Process>) {
    let world = World::new();
    let nodes = ["n1", "n2", "n3"].map(|id| world.start(options(id))).into();
    world.wait(secs(10));
    (world, nodes)
}

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stopped,
    Killed,
    /// The node is down for so long that the leader removes its key.
    Forgotten,
    /// Consul loses its data while it is stopped.
    StoppedThenWiped,
    KilledThenWiped,
}

const ENDS: [End; 5] =
    [End::Stopped, End::Killed, End::Forgotten, End::StoppedThenWiped, End::KilledThenWiped];

const MODES: [(Mode, &str); 2] = [(Mode::Draining, "draining"), (Mode::Maintenance, "maintenance")];

impl End {
    fn of(self, world: &World, process: &Process) {
        match self {
            End::Stopped | End::StoppedThenWiped => world.stop(process),
            End::Killed | End::Forgotten | End::KilledThenWiped => world.kill(process),
        }
        match self {
            End::Stopped | End::Killed => world.wait(secs(15)),
            End::Forgotten => world.wait(secs(60)),
            End::StoppedThenWiped | End::KilledThenWiped => {
                world.wait(secs(15));
                world.agent.restart(Retained::Nothing);
                world.wait(secs(40));
            }
        }
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_mode_outlives_each_end_of_the_node_until_it_is_undone() {
    for (mode, state) in MODES {
        for end in ENDS {
            let what = format!("{state}, {end:?}");
            let (world, mut nodes) = three();
            world.run(nodes[0].cluster.set_mode("n3", mode)).expect("an order");
            world.wait(secs(5));
            end.of(&world, &nodes.pop().expect("n3"));
            let observed = look(&world).snapshot();
            if end == End::Killed {
                assert!(world.read(KEPT).is_none(), "{what}: its own key has it");
            } else {
                assert_eq!(observed.kept_modes.get("n3"), Some(&mode), "{what}");
                assert!(!observed.nodes.contains_key("n3"), "{what}: a mode is not a node");
                assert_eq!(nodes[0].cluster.snapshot().kept_modes, observed.kept_modes, "{what}");
            }
            let again = world.start(options("n3"));
            world.run(again.cluster.started()).expect("nothing is refused");
            world.wait(secs(5));
            assert_eq!(again.cluster.state(), state, "{what}");
            assert_eq!(world.read(KEPT), None, "{what}: its own key has it again");
            assert_eq!(owners(&nodes[0]).contains("n3"), mode == Mode::Maintenance, "{what}");
            world.run(nodes[0].cluster.set_mode("n3", Mode::Active)).expect("an order");
            world.wait(secs(5));
            assert_eq!(again.cluster.state(), "follower", "{what}");
            world.stop(&again);
            assert_eq!(world.read(KEPT), None, "{what}: an active node keeps nothing");
        }
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_mode_is_undone_changed_or_forgotten_while_the_node_is_stopped() {
    for (mode, _) in MODES {
        for end in ENDS {
            for change in [None, Some(Mode::Active), Some(Mode::Draining), Some(Mode::Maintenance)]
            {
                let what = format!("{mode:?}, {end:?}, then {change:?}");
                let (world, mut nodes) = three();
                world.run(nodes[0].cluster.set_mode("n3", mode)).expect("an order");
                world.wait(secs(5));
                end.of(&world, &nodes.pop().expect("n3"));
                let operator = look(&world);
                match change {
                    Some(change) => {
                        world.run(operator.set_mode("n3", change)).expect("an order");
                    }
                    None => {
                        let forgotten = world.run(operator.forget(None, "n3")).expect("an answer");
                        assert!(matches!(forgotten, Forgotten::Removed(_)), "{what}");
                        let again = world.run(operator.forget(None, "n3")).expect_err("it is gone");
                        assert_eq!(again.kind(), Kind::NotFound, "{what}");
                    }
                }
                // Lost keys of Consul are put back for a minute.
                world.wait(secs(if change.is_none() { 70 } else { 5 }));
                let again = world.start(options("n3"));
                world.run(again.cluster.started()).expect("nothing is refused");
                world.wait(secs(5));
                let expected = change.unwrap_or(Mode::Active);
                assert_eq!(again.cluster.mode(), expected, "{what}");
                assert_eq!(world.read(KEPT), None, "{what}");
            }
        }
    }
    let (world, _nodes) = three();
    let unknown = world.run(look(&world).set_mode("n9", Mode::Active)).expect_err("no such node");
    assert_eq!(unknown.kind(), Kind::NotFound);
}

#[test]
fn a_node_that_was_asked_to_leave_comes_back_as_it_was_before() {
    for before in Mode::ALL {
        let (world, nodes) = three();
        world.run(nodes[0].cluster.set_mode("n3", before)).expect("an order");
        world.wait(secs(5));
        world.run(look(&world).ask_leave(None, "n3")).expect("a node");
        world.wait(secs(30));
        assert!(nodes[2].why().is_some(), "{before:?}: it has left");
        let again = world.start(options("n3"));
        world.run(again.cluster.started()).expect("nothing is refused");
        world.wait(secs(5));
        assert_eq!(again.cluster.mode(), before);
    }
}

#[test]
fn keys_without_a_mode_are_ignored() {
    let (world, nodes) = three();
    world.stop(&nodes[2]);
    for value in ["", "draining", r#"{"mode":"gone"}"#, r#"{"mode":"active"}"#] {
        world.write(KEPT, value);
        world.wait(secs(2));
        assert!(nodes[0].cluster.snapshot().kept_modes.is_empty(), "{value}");
    }
    let again = world.start(options("n3"));
    world.run(again.cluster.started()).expect("nothing is refused");
    assert_eq!(again.cluster.mode(), Mode::Active);
}

#[test]
fn no_shard_moves_during_a_pause_and_leaders_are_elected() {
    let world = World::new();
    let mut nodes: Vec<_> = ["n1", "n2", "n3"].map(|id| world.start(options(id))).into();
    world.wait(secs(10));
    let operator = look(&world);
    assert_eq!(
        world.run(operator.pause_moves(None, "ada", "a move of racks")).expect("done"),
        None
    );
    let second =
        world.run(operator.pause_moves(None, "bob", "")).expect("done").expect("the first");
    assert_eq!((second.by.as_str(), second.why.as_str()), ("ada", "a move of racks"));
    world.wait(secs(2));
    let epoch = nodes[0].epoch();
    let place = nodes.iter().position(|node| node.cluster.is_leader()).expect("a leader");
    let dead = nodes.remove(place);
    world.kill(&dead);
    nodes.push(world.start(options("n4")));
    world.wait(secs(100));
    assert_eq!(leaders(&nodes).len(), 1, "another node leads");
    let snapshot = nodes[0].cluster.snapshot();
    assert_eq!(snapshot.paused.as_ref().expect("a pause").by, "ada");
    assert_eq!(nodes[0].epoch(), epoch, "no shard has moved");
    let id = &dead.cluster.options().node_id;
    assert!(snapshot.nodes.contains_key(id), "no node is forgotten");
    world.agent.restart(Retained::Nothing);
    world.wait(secs(40));
    assert!(world.read(PAUSE).is_some(), "it is put back");
    let ended = world.run(look(&world).resume_moves(None)).expect("done").expect("the pause");
    assert_eq!(ended.by, "ada");
    assert_eq!(world.run(look(&world).resume_moves(None)).expect("done"), None);
    world.wait(secs(30));
    assert!(owners(&nodes[0]).contains("n4") && !owners(&nodes[0]).contains(id));
    world.write(PAUSE, "not a document");
    world.wait(secs(2));
    assert!(nodes[0].cluster.snapshot().paused.is_some(), "what cannot be read pauses too");
}

/// The weight in the key of n3; `None`: there is no key.
fn weight_of_n3(world: &World) -> Option<f64> {
    look(world).snapshot().nodes.get("n3").map(|node| node.record.weight)
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_weight_that_is_set_outlives_each_end_of_the_node_until_it_is_undone() {
    for end in ENDS {
        let (world, mut nodes) = three();
        let set =
            |weight| world.run(look(&world).set_weight(None, "n3", weight)).expect("an order");
        assert_eq!(set(Some(0.0)), None, "{end:?}");
        world.wait(secs(5));
        assert_eq!(weight_of_n3(&world), Some(0.0), "{end:?}: the node has taken it");
        world.wait(secs(30));
        assert!(!owners(&nodes[0]).contains("n3"), "{end:?}: no shards");
        end.of(&world, &nodes.pop().expect("n3"));
        let epoch = nodes[0].epoch();
        let again = world.start(options("n3"));
        world.run(again.cluster.started()).expect("nothing is refused");
        assert_eq!(weight_of_n3(&world), Some(0.0), "{end:?}: it starts with it");
        world.wait(secs(30));
        assert!(!owners(&nodes[0]).contains("n3"), "{end:?}");
        assert_eq!(nodes[0].epoch(), epoch, "{end:?}: nothing has moved");
        assert_eq!(set(None), Some(0.0), "{end:?}");
        world.wait(secs(30));
        assert_eq!(weight_of_n3(&world), Some(1.0), "{end:?}: that of its configuration");
        assert!(owners(&nodes[0]).contains("n3"), "{end:?}");
    }
}

#[test]
fn a_weight_that_cannot_be_is_refused_and_others_in_the_key_are_ignored() {
    let (world, _nodes) = three();
    for weight in [-1.0, f64::NAN, f64::INFINITY] {
        let refused = world.run(look(&world).set_weight(None, "n3", Some(weight)));
        assert_eq!(refused.expect_err("not a weight").kind(), Kind::Argument, "{weight}");
    }
    let unknown = world.run(look(&world).set_weight(None, "n9", Some(1.0)));
    assert_eq!(unknown.expect_err("no such node").kind(), Kind::NotFound);
    let key = "tsdb/cluster/nodes/all/weights";
    for value in ["", "[]", "{\"n3\":-1}", "{\"n3\":\"2\"}", "{\"n3\":1e999}"] {
        world.write(key, value);
        world.wait(secs(5));
        assert_eq!(weight_of_n3(&world), Some(1.0), "{value}");
    }
    world.write(key, "{\"n3\":2.5,\"n2\":-1}");
    world.wait(secs(5));
    assert_eq!(weight_of_n3(&world), Some(2.5), "one that is wrong leaves the others");
}

#[test]
#[ignore = "computes long: make test-all"]
fn weights_that_are_overwritten_or_deleted_count_as_before_and_are_written_again() {
    let (world, nodes) = three();
    let key = "tsdb/cluster/nodes/all/weights";
    world.run(look(&world).set_weight(None, "n3", Some(0.5))).expect("it is set");
    world.wait(secs(30));
    let epoch = nodes[0].epoch();
    for value in ["my own notes", "[]", "1", "null"] {
        world.write(key, value);
        world.wait(secs(30));
        assert_eq!(weight_of_n3(&world), Some(0.5), "{value}");
        assert_eq!(world.read(key).as_deref(), Some(value), "it stays");
        world.send("DELETE", &format!("/v1/kv/{key}"), "");
        world.wait(secs(30));
        assert_eq!(world.read(key).as_deref(), Some(r#"{"n3":0.5}"#), "after {value}");
        assert_eq!((weight_of_n3(&world), nodes[0].epoch()), (Some(0.5), epoch), "{value}");
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_weight_that_is_set_while_the_key_is_gone_leaves_the_others() {
    let key = "tsdb/cluster/nodes/all/weights";
    for (id, weight, left) in [
        ("n2", Some(2.0), r#"{"n2":2.0,"n3":0.5}"#),
        ("n2", None, r#"{"n3":0.5}"#),
        ("n1", Some(3.0), r#"{"n1":3.0,"n2":1.5,"n3":0.5}"#),
    ] {
        let (world, _nodes) = three();
        for (id, weight) in [("n2", 1.5), ("n3", 0.5)] {
            world.run(look(&world).set_weight(None, id, Some(weight))).expect("it is set");
        }
        world.wait(secs(30));
        world.send("DELETE", &format!("/v1/kv/{key}"), "");
        world.run(look(&world).set_weight(None, id, weight)).expect("it is set");
        world.wait(secs(60));
        assert_eq!(world.read(key).as_deref(), Some(left), "{id}: {weight:?}");
        assert_eq!(weight_of_n3(&world), Some(0.5), "{id}: {weight:?}");
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn what_an_operator_ends_while_the_key_of_the_weights_is_gone_stays_ended() {
    let (world, nodes) = three();
    for after in [0, 200, 1000, 10_000] {
        let operator = look(&world);
        world.run(operator.set_weight(None, "n3", Some(0.5))).expect("it is set");
        world.run(operator.pause_moves(None, "an operator", "")).expect("it is ordered");
        world.wait(secs(30));
        world.send("DELETE", "/v1/kv/tsdb/cluster/nodes/all/weights", "");
        world.wait(Duration::from_millis(after));
        let ended = world.run(look(&world).resume_moves(None)).expect("it is ended");
        assert!(ended.is_some(), "{after} ms");
        world.wait(secs(60));
        assert_eq!(world.read("tsdb/cluster/nodes/all/paused"), None, "{after} ms");
        assert!(nodes.iter().all(|it| it.cluster.snapshot().paused.is_none()), "{after} ms");
        assert_eq!(weight_of_n3(&world), Some(0.5), "{after} ms");
    }
}

#[test]
fn the_history_of_leaders_outlives_restarts_and_has_an_end() {
    const KEY: &str = "tsdb/cluster/shards/leaders";
    let (world, mut nodes) = three();
    let history = || world.run(past_leaders(&look(&world))).expect("an answer").leaders;
    let leads = |nodes: &[Process]| leaders(nodes)[0].cluster.options().node_id.clone();
    let first = leads(&nodes);
    assert_eq!(history().iter().map(|it| &it.node_id).collect::<Vec<_>>(), [&first]);
    let place = nodes.iter().position(|node| node.cluster.is_leader()).expect("a leader");
    world.kill(&nodes.remove(place));
    world.wait(secs(30));
    let second = leads(&nodes);
    assert_eq!(history().iter().map(|it| &it.node_id).collect::<Vec<_>>(), [&first, &second]);
    nodes.iter().for_each(|node| world.stop(node));
    let again = world.start(options("n1"));
    world.wait(secs(30));
    let all = history();
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!(all[2].node_id, "n1");
    assert!(all.windows(2).all(|it| it[0].token < it[1].token), "{all:?}");
    world.stop(&again);
    let many: Vec<_> = std::iter::repeat_n(all[0].clone(), KEPT_LEADERS).collect();
    world.write(KEY, &serde_json::to_string(&many).expect("documents"));
    let _again = world.start(options("n2"));
    world.wait(secs(30));
    assert_eq!(history().len(), KEPT_LEADERS);
    assert_eq!(history().last().expect("one").node_id, "n2");
}

/// An order of an operator.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Mode(Mode),
    Weight(&'static str, Option<f64>),
    Pause(&'static str),
}

const ORDERS: [Order; 9] = [
    Order::Mode(Mode::Active),
    Order::Mode(Mode::Draining),
    Order::Mode(Mode::Maintenance),
    Order::Weight("n3", Some(2.0)),
    Order::Weight("n3", Some(3.0)),
    Order::Weight("n3", None),
    Order::Weight("n2", Some(2.0)),
    Order::Pause("ada"),
    Order::Pause("grace"),
];

impl Order {
    /// Gives it as `consul-ha` does. `false`: the operator is told that it is not done.
    async fn give(self, operator: &Cluster) -> bool {
        match self {
            Order::Mode(mode) => {
                let snapshot = operator.snapshot();
                let kept = snapshot.kept_modes.get("n3").copied().unwrap_or_default();
                let seen = Some(snapshot.nodes.get("n3").map_or(kept, |node| node.record.mode));
                operator.set_mode_while(None, "n3", seen, mode).await.is_ok()
            }
            Order::Weight(id, weight) => operator.set_weight(None, id, weight).await.is_ok(),
            Order::Pause(by) => operator.pause_moves(None, by, "").await.expect("Consul").is_none(),
        }
    }

    fn is_in_force(self, world: &World) -> bool {
        let snapshot = look(world).snapshot();
        match self {
            Order::Mode(mode) => match snapshot.nodes.get("n3") {
                Some(node) => node.record.mode == mode,
                None => snapshot.kept_modes.get("n3").copied().unwrap_or_default() == mode,
            },
            Order::Weight(id, weight) => snapshot.weights.get(id).copied() == weight,
            Order::Pause(by) => snapshot.paused.as_ref().is_some_and(|it| it.by == by),
        }
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn of_two_operators_who_have_seen_the_same_none_is_lost_silently() {
    for is_stopped in [false, true] {
        let pairs = ORDERS.iter().flat_map(|a| ORDERS.iter().map(move |b| (*a, *b)));
        for (a, b) in pairs.filter(|(a, b)| a != b) {
            for at_once in [true, false] {
                let (world, nodes) = three();
                world.run(look(&world).set_weight(None, "n3", Some(0.5))).expect("it is set");
                if is_stopped {
                    world.stop(&nodes[2]);
                    let kept = r#"{"mode":"maintenance"}"#;
                    world.write(KEPT, kept);
                }
                world.wait(secs(10));
                if a.is_in_force(&world) || b.is_in_force(&world) {
                    continue;
                }
                let (one, other) = (look(&world), look(&world));
                let (first, second) = match at_once {
                    true => world.run(async { tokio::join!(a.give(&one), b.give(&other)) }),
                    false => world.run(async { (a.give(&one).await, b.give(&other).await) }),
                };
                let what = format!("{a:?} beside {b:?}, at once: {at_once}, {is_stopped}");
                assert!(first || second, "{what}: nobody wins");
                for (order, is_done) in [(a, first), (b, second)] {
                    assert!(!is_done || order.is_in_force(&world), "{what}: {order:?} is lost");
                }
            }
        }
    }
}

/// As by `consul kv delete -recurse`. The key of the pause alone is what `resume` deletes.
#[test]
#[ignore = "computes long: make test-all"]
fn no_order_ends_with_the_deletion_of_a_subtree() {
    for gone in ["tsdb/", "tsdb/cluster/", "tsdb/cluster/nodes/", "tsdb/cluster/nodes/n"] {
        let (world, mut nodes) = three();
        let by = Arc::clone(&nodes[0].cluster);
        world.run(by.set_mode("n3", Mode::Draining)).expect("an order");
        world.run(by.set_mode("n2", Mode::Maintenance)).expect("an order");
        world.run(by.pause_moves(None, "ada", "")).expect("an order");
        world.run(by.set_weight(None, "n3", Some(2.0))).expect("an order");
        world.wait(secs(5));
        world.stop(&nodes.remove(1));
        world.wait(secs(15));
        let before = look(&world).snapshot();
        world.send("DELETE", &format!("/v1/kv/{gone}?recurse"), "");
        world.wait(secs(70));
        let after = look(&world).snapshot();
        assert_eq!(after.nodes["n3"].record.mode, Mode::Draining, "{gone}");
        assert_eq!(after.kept_modes, [("n2".to_owned(), Mode::Maintenance)].into(), "{gone}");
        assert_eq!(after.paused, before.paused, "{gone}");
        assert!(after.paused.is_some(), "{gone}");
        assert_eq!(after.weights, [("n3".to_owned(), 2.0)].into(), "{gone}");
    }
}

/// The orders of an operator, and what observers show of them.
fn orders(world: &World) -> (Mode, Mode, Option<Mode>, bool, Option<f64>) {
    let seen = look(world).snapshot();
    let mode = |id: &str| seen.nodes.get(id).map(|it| it.record.mode);
    let of_down = mode("n3").or_else(|| seen.kept_modes.get("n3").copied());
    let (n1, n2) = (mode("n1").expect("n1"), mode("n2").expect("n2"));
    (n1, n2, of_down, seen.paused.is_some(), seen.weights.get("n1").copied())
}

fn give(world: &World, by: &Cluster, given: bool) {
    let mode = |mode| if given { mode } else { Mode::Active };
    world.run(by.set_mode("n1", mode(Mode::Draining))).expect("an order");
    world.run(by.set_mode("n2", mode(Mode::Maintenance))).expect("an order");
    world.run(by.set_mode("n3", mode(Mode::Maintenance))).expect("an order");
    world.run(by.set_weight(None, "n1", given.then_some(2.0))).expect("an order");
    match given {
        true => _ = world.run(by.pause_moves(None, "ada", "")).expect("an order"),
        false => _ = world.run(by.resume_moves(None)).expect("an order"),
    }
}

/// Not only a Consul without data is from before an order, also a Consul that a snapshot has set back. Each order was given, or
/// ended, after the snapshot.
#[test]
fn no_order_ends_or_comes_back_with_the_restore_of_an_older_snapshot() {
    for given in [true, false] {
        for end in [None, Some(End::Stopped), Some(End::Killed)] {
            let what = format!("given {given}, n3 {end:?}");
            let (world, mut nodes) = three();
            nodes.push(world.start(options("n4")));
            world.wait(secs(10));
            give(&world, &look(&world), !given);
            world.wait(secs(5));
            let snapshot = world.agent.back_up();
            give(&world, &look(&world), given);
            world.wait(secs(5));
            if let Some(end) = end {
                end.of(&world, &nodes.remove(2));
            }
            let before = orders(&world);
            assert_eq!(before.3, given, "{what}");
            world.agent.restore_snapshot(&snapshot);
            world.wait(secs(60));
            // A pause stops moves alone: the map has the epoch that shows the loss.
            assert!(!look(&world).snapshot().is_restored, "{what}");
            let mut after = orders(&world);
            // A node that was stopped is there again.
            after.2 = after.2.filter(|mode| before.2.is_some() || *mode != Mode::Active);
            assert_eq!(after, before, "{what}");
            if end.is_some() {
                let again = world.start(options("n3"));
                world.run(again.cluster.started()).expect("nothing is refused");
                assert_eq!(again.cluster.mode(), before.2.unwrap_or_default(), "{what}");
            }
        }
    }
}

/// A Consul without data counts from the start: an order there is not older than the node's key was, be it given as soon as that
/// is there again.
#[test]
fn an_order_after_a_wipe_counts_although_its_index_is_lower() {
    for is_at_once in [false, true] {
        let world = World::new();
        for number in 0..1000 {
            world.send("PUT", &format!("/v1/kv/other/{number}"), "");
        }
        let nodes = ["n1", "n2"].map(|id| world.start(options(id)));
        world.wait(secs(10));
        world.agent.restart(Retained::Nothing);
        match is_at_once {
            true => {
                while world.read("tsdb/cluster/nodes/n2").is_none() {
                    world.wait(Duration::from_millis(1));
                }
                let order = r#""mode":"maintenance""#;
                let record = world.read("tsdb/cluster/nodes/n2").expect("it is there");
                let record = record.replace(r#""mode":"active""#, order);
                world.write("tsdb/cluster/nodes/n2", &record);
            }
            false => {
                world.wait(secs(40));
                world.run(look(&world).set_mode("n2", Mode::Maintenance)).expect("an order");
            }
        }
        world.wait(secs(5));
        let seen = look(&world).snapshot();
        assert!(seen.nodes["n2"].modify_index < 1000);
        assert_eq!(seen.nodes["n2"].record.mode, Mode::Maintenance, "at once: {is_at_once}");
        assert_eq!(nodes[1].cluster.mode(), Mode::Maintenance, "at once: {is_at_once}");
    }
}

/// No node has seen the restore yet; the index of the order shows that it is newer.
#[test]
fn an_order_right_after_a_restore_counts() {
    let (world, nodes) = three();
    world.kill(&nodes[2]);
    world.wait(secs(15));
    let record = world.read("tsdb/cluster/nodes/n3").expect("it is down");
    world.agent.restore_snapshot(&world.agent.back_up());
    world.write(PAUSE, r#"{"by":"ada","since_ms":1,"why":""}"#);
    world.write("tsdb/cluster/nodes/all/weights", r#"{"n1":2.0}"#);
    let record = record.replace(r#""mode":"active""#, r#""mode":"draining""#);
    world.write("tsdb/cluster/nodes/n3", &record);
    world.wait(secs(14));
    let given = (Mode::Active, Mode::Active, Some(Mode::Draining), true, Some(2.0));
    assert_eq!(orders(&world), given);
}
