//! The work of the leader, and its waits.

use super::*;
use crate::support::lines::logged;
use consul_cluster::Mode;
use consul_cluster::stores::ShardStatus;
use consul_replication::map::Entry;
use consul_replication::message::Action;
use consul_sim::Fault;
use std::sync::atomic::Ordering;
use tracing::Level;

/// Where nodes and operators say something about the store.
const MEMBERS: &str = "/v1/kv/tsdb/cluster/shards/members/points/";

impl Cases {
    /// The word of a node or of an operator.
    pub(super) fn said(&self, what: &str) -> Option<String> {
        self.world.value(&format!("{MEMBERS}{what}"))
    }

    pub(super) fn map(&self) -> String {
        self.world.value("/v1/kv/tsdb/cluster/shards/maps/points").expect("a map")
    }

    fn version(&self) -> u64 {
        let map = self.map();
        let (_, version) = map.split_once("\"version\":").expect("a version");
        let digits = version.split(|it: char| !it.is_ascii_digit()).next();
        digits.and_then(|it| it.parse().ok()).expect("a number")
    }
}

#[test]
fn a_node_that_stays_away_is_replaced() {
    let (cases, nodes) = Cases::filled(5);
    cases.stop(&nodes[4]);
    cases.wait_until(120, || nodes[0].holders() == set(&["n1", "n2", "n3", "n4"]));
    cases.wait_until(60, || nodes[0].is_settled(3));
    cases.has(&nodes[0], "before");
}

#[test]
fn a_wiped_consul_gets_the_map_back_in_new_epochs() {
    let (cases, nodes) = Cases::filled(3);
    let before: Vec<u64> = nodes[0].store.status().iter().map(|it| it.epoch).collect();
    cases.world.agent.restart(Retained::Nothing);
    cases.wait_until(90, || {
        nodes.iter().all(|node| {
            let after = node.store.status();
            after.iter().zip(&before).all(|(after, before)| after.epoch > *before)
        })
    });
    cases.has(&nodes[2], "before");
    cases.fill(&nodes[1], "after");
}

#[test]
fn all_nodes_start_again_on_a_wiped_consul() {
    let (cases, nodes) = Cases::filled(3);
    cases.world.wait(Duration::from_secs(10));
    nodes.iter().for_each(|node| cases.kill(node));
    cases.world.agent.restart(Retained::Nothing);
    let back: Vec<Process> =
        (1..=3).map(|n| cases.start(&format!("n{n}"), &nodes[n - 1].disk)).collect();
    cases.world.wait(Duration::from_secs(60));
    cases.has(&back[1], "before");
}

#[test]
fn a_node_with_another_number_of_shards_is_refused() {
    let cases = Cases::new();
    let _nodes = cases.nodes(3);
    let options = Cases::options("n4");
    let shards = options.shards as u32 + 1;
    let store = StoreOptions { shards, ..StoreOptions::new("points", &options) };
    let other = cases.start_with(options, store, &Disk::new());
    let why = cases.world.run(other.store.ready()).expect_err("another configuration");
    assert_eq!(why.kind(), Kind::Conflict);
    assert!(why.message().contains(&format!("this process has {shards}")), "{why}");
}

/// Nobody knows whether the others have everything: that is for a person to say.
#[test]
#[ignore = "computes long: make test-all"]
fn with_a_read_quorum_of_one_a_node_that_stays_away_is_not_replaced() {
    let cases = Cases::new();
    let start = |n: usize| {
        let options = Cases::options(&format!("n{n}"));
        let quorums = Quorums { replicas: 3, write: 3, read: 1 };
        let store = StoreOptions { quorums, ..StoreOptions::new("points", &options) };
        cases.start_with(options, store, &Disk::new())
    };
    let nodes = [1, 2, 3, 4].map(start);
    cases.wait_until(60, || nodes[0].is_settled(3));
    cases.kill(&nodes[3]);
    cases.world.wait(Duration::from_secs(150));
    assert!(nodes[0].is_settled(3), "{:?}", nodes[0].store.status());
    assert!(nodes[0].holders().contains("n4"));
    // Its record has its weight and its zone, by which the others have their shards.
    cases.world.wait(Duration::from_secs(600));
    assert!(cases.said("nodes/n4").is_some());
}

#[test]
fn the_first_map_waits_for_min_nodes() {
    let cases = Cases::new();
    let start = |n: usize| {
        let options = Options { min_nodes: 4, ..Cases::options(&format!("n{n}")) };
        let store = StoreOptions::new("points", &options);
        cases.start_with(options, store, &Disk::new())
    };
    let early = [1, 2, 3].map(start);
    cases.world.wait(Duration::from_secs(60));
    assert!(early[0].store.status().is_empty());
    cases.world.run(start(4).store.ready()).expect("a map");
}

#[test]
fn without_enough_replicas_a_read_says_so_until_an_operator_accepts_the_loss() {
    let (cases, nodes) = Cases::filled(4);
    let gone = ["n3", "n4"];
    nodes[2..].iter().for_each(|node| cases.kill(node));
    // Longer than `replace_after`: nothing is planned while the map is frozen.
    cases.world.wait(Duration::from_secs(90));
    assert!(nodes[0].store.status().iter().all(|it| it.targets.is_empty()));
    cases.world.run(nodes[0].cluster.thaw()).expect("the right to write");
    cases.world.wait(Duration::from_secs(10));
    let status = nodes[0].store.status();
    let risky: Vec<u32> = status.iter().filter(|it| it.is_at_risk).map(|it| it.shard).collect();
    assert!(!risky.is_empty(), "{status:?}");
    let range = Range::all();
    let deadline = cases.deadline(2);
    let key = (0..).map(|it: u32| it.to_string());
    let key = key.into_iter().find(|key| nodes[0].store.shard_of(key.as_bytes()) == risky[0]);
    let key = key.expect("a key of each shard");
    let read = nodes[0].store.read(key.as_bytes(), &range, 1, deadline);
    let why = cases.world.run(read).expect_err("one of three replicas");
    assert_eq!(why.kind(), Kind::NotReady);
    for shard in &risky {
        cases.world.run(nodes[0].store.accept_loss(*shard)).expect("the right to write");
    }
    cases.wait_until(120, || {
        let status = nodes[0].store.status();
        risky.iter().all(|shard| !status[*shard as usize].is_at_risk)
    });
    let read = nodes[0].store.read(key.as_bytes(), &range, 1, cases.deadline(5));
    cases.world.run(read).expect("two replicas again");
    let word = format!("accepted/{}", risky[0]);
    assert!(cases.said(&word).is_some(), "two nodes are still away");
    let _back = gone.map(|id| cases.start(id, &Disk::new()));
    cases.wait_until(200, || cases.said(&word).is_none());
}

#[test]
fn an_operator_who_accepts_a_loss_does_not_wait_for_the_time_of_a_replacement() {
    let (cases, nodes) = Cases::filled(4);
    cases.kill(&nodes[3]);
    let status = nodes[0].store.status();
    let holds = |it: &&ShardStatus| it.holders.iter().any(|node| **node == *"n4");
    let shard = status.iter().find(holds).expect("a shard of n4").shard;
    cases.wait_until(30, || cases.map().contains("\"down\":{\"n4\""));
    cases.world.run(nodes[0].store.accept_loss(shard)).expect("the right to write");
    // Less than `replace_after`.
    cases.wait_until(20, || {
        let after = &nodes[0].store.status()[shard as usize];
        after.targets.is_empty() && !holds(&after)
    });
    cases.has(&nodes[0], "before");
}

/// A record that only n2 and n3 have acknowledged is not read as older when the loss of n3 was accepted, and then
/// n2 loses its disk.
fn accept_the_loss_of_n3_and_lose_n2(is_n3_known: bool, change_word: impl Fn(&Cases, u32)) {
    let cases = Cases::new();
    let mut nodes = cases.nodes(3);
    cases.fill(&nodes[0], "x");
    let n1 = cases.network.stores.lock().expect("no panic").remove("n1");
    for number in 0..40 {
        cases.write(&nodes[1], &format!("x-{number}"), "new").expect("n2 and n3");
    }
    cases.kill(&nodes[2]);
    cases.network.stores.lock().expect("no panic").extend(n1.map(|it| ("n1".into(), it)));
    if is_n3_known {
        cases.wait_until(30, || cases.map().contains("\"down\":{\"n3\""));
    }
    for shard in 0..nodes[0].store.options().shards {
        cases.world.run(nodes[0].store.accept_loss(shard)).expect("the right to write");
        change_word(&cases, shard);
    }
    cases.world.wait(Duration::from_millis(if is_n3_known { 1000 } else { 100 }));
    assert_eq!(cases.said("accepted/0").is_some(), is_n3_known);
    cases.kill(&nodes[1]);
    nodes[1] = cases.start("n2", &Disk::new());
    cases.world.wait(Duration::from_secs(50));
    let is_read = |number: &u32| {
        let key = format!("x-{number}");
        let range = Range::all();
        let read = nodes[0].store.read(key.as_bytes(), &range, 100, cases.deadline(1));
        cases.world.run(read).is_ok()
    };
    assert_eq!((0..40).filter(is_read).count(), 0, "read as complete without what n3 has");
    nodes[2] = cases.start("n3", &nodes[2].disk);
    cases.wait_until(60, || nodes[0].is_settled(3));
    for number in 0..40 {
        assert_eq!(cases.read(&nodes[0], &format!("x-{number}")).as_deref(), Some("new"));
    }
    cases.wait_until(10, || cases.said("accepted/0").is_none());
}

#[test]
fn an_accepted_loss_is_not_that_of_a_disk_that_is_lost_later() {
    accept_the_loss_of_n3_and_lose_n2(true, |_, _| {});
}

#[test]
fn an_accepted_loss_of_nothing_that_is_known_does_not_act_later() {
    accept_the_loss_of_n3_and_lose_n2(false, |_, _| {});
}

/// Earlier versions do not say what is missing.
#[test]
fn a_word_of_an_earlier_version_is_about_what_is_missing_when_the_leader_sees_it() {
    accept_the_loss_of_n3_and_lose_n2(true, |cases, shard| {
        cases.world.send("PUT", &format!("{MEMBERS}accepted/{shard}"), "accepted");
    });
}

#[test]
fn an_accepted_loss_of_nothing_is_told() {
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    logged(Level::WARN, Arc::new(cases.world.clock.clone()), |lines| {
        cases.world.run(nodes[0].store.accept_loss(3)).expect("nothing to write");
        cases.world.send("PUT", &format!("{MEMBERS}accepted/4"), "accepted");
        cases.wait_until(5, || cases.said("accepted/4").is_none());
        let text = lines.text();
        let told = text.lines().filter(|line| line.contains("accept_loss had no effect")).count();
        assert_eq!(told, 2, "{text}");
    });
}

/// A leader's clock may be a day ahead.
#[test]
#[ignore = "computes long: make test-all"]
fn a_node_that_went_down_in_the_future_is_replaced_as_others_are() {
    let cases = Cases::new();
    let start = |id: &str, ahead_s: u64, rank_s: u64| {
        let epoch = Duration::from_secs(1_700_000_000 + ahead_s);
        let options = Options { wall_clock: WallClock::from_origin(epoch), ..Cases::options(id) };
        let process =
            cases.start_with(options.clone(), StoreOptions::new("points", &options), &Disk::new());
        cases.world.wait(Duration::from_secs(rank_s));
        process
    };
    let nodes = [
        start("n1", 86_400, 20),
        start("n2", 0, 0),
        start("n3", 0, 0),
        start("n4", 0, 0),
        start("n5", 0, 0),
    ];
    cases.world.run(nodes[1].store.ready()).expect("a map");
    cases.wait_until(60, || nodes[1].is_settled(3) && nodes[1].holders().len() == 5);
    assert!(nodes[0].cluster.is_leader());
    cases.kill(&nodes[4]);
    cases.world.wait(Duration::from_secs(30));
    assert!(cases.map().contains("\"n5\":"), "it is down: {}", cases.map());
    nodes[0].cluster.hand_over();
    cases.wait_until(120, || !nodes[1].holders().contains("n5"));
}

#[test]
fn a_leader_changes_nothing_before_each_live_node_has_given_its_word() {
    let (cases, nodes) = Cases::filled(4);
    cases.world.wait(Duration::from_secs(20));
    // It is back, and its program has not opened the store yet.
    cases.kill(&nodes[2]);
    let client = cases.world.client();
    let silent = Cluster::new(Arc::clone(&client), client, Cases::options("n3")).expect("options");
    let running = Arc::clone(&silent);
    cases.world.clock.spawn(async move { _ = running.run().await });
    cases.world.run(silent.started()).expect("it joins");
    let drain = nodes[0].cluster.set_mode("n4", Mode::Draining);
    cases.world.run(drain).expect("the right to do so");
    for _ in 0..80 {
        cases.world.wait(Duration::from_millis(100));
        assert!(nodes[0].is_settled(3), "n3 has not given its word");
    }
    cases.wait_until(20, || !nodes[0].is_settled(3));
}

/// The word of a node to the last leader is not its word to this one: Consul may have gone back in between.
#[test]
fn a_new_leader_waits_for_the_word_of_a_node_that_has_given_it_to_the_last_one() {
    let (cases, nodes) = Cases::filled(4);
    cases.world.wait(Duration::from_secs(20));
    let leader = nodes.iter().position(|it| it.cluster.is_leader()).expect("a leader");
    let [silent, drained, other] = [1, 2, 3].map(|it| &nodes[(leader + it) % 4]);
    let id = |it: &Process| it.cluster.options().node_id.clone();
    cases.kill(silent);
    cases.world.run(other.cluster.ask_hand_over(None, Some(&id(other)))).expect("a leader");
    cases.wait_until(20, || other.cluster.is_leader());
    let drained = id(drained);
    let drain = other.cluster.set_mode(&drained, Mode::Draining);
    cases.world.run(drain).expect("the right to do so");
    let is_live = || other.cluster.snapshot().nodes.get(&id(silent)).is_some_and(|it| it.is_live);
    let mut waited = 0;
    while is_live() {
        assert!(other.is_settled(3), "it has not given its word");
        cases.world.wait(Duration::from_millis(100));
        waited += 1;
    }
    assert!(waited > 20, "{waited} looks do not tell");
}

#[test]
fn the_first_map_waits_for_as_many_nodes_as_a_shard_has_replicas() {
    let cases = Cases::new();
    let early = ["n1", "n2"].map(|id| cases.start(id, &Disk::new()));
    cases.world.wait(Duration::from_secs(10));
    let late = cases.start("n3", &Disk::new());
    cases.world.run(late.store.ready()).expect("a map");
    assert!(early[0].is_settled(3), "{:?}", early[0].store.status());
}

#[test]
fn a_first_map_of_fewer_nodes_is_filled_when_others_come() {
    let cases = Cases::new();
    let early = ["n1", "n2"].map(|id| cases.start(id, &Disk::new()));
    cases.world.run(early[0].store.ready()).expect("a map");
    cases.fill(&early[0], "before");
    let late = cases.start("n3", &Disk::new());
    cases.is_filled_again(&late);
    cases.kill(&early[0]);
    cases.has(&late, "before");
}

#[test]
fn a_new_leader_leaves_a_gap_for_versions_that_consul_may_have_lost() {
    let cases = Cases::new();
    let nodes = cases.nodes(4);
    cases.world.wait(Duration::from_secs(20));
    let before = cases.version();
    let leader = nodes.iter().find(|node| node.cluster.is_leader()).expect("a leader");
    leader.cluster.hand_over();
    cases.wait_until(60, || {
        !leader.cluster.is_leader() && nodes.iter().any(|it| it.cluster.is_leader())
    });
    let drain = nodes[0].cluster.set_mode("n4", Mode::Draining);
    cases.world.run(drain).expect("the right to do so");
    cases.wait_until(60, || cases.version() > before);
    assert!(cases.version() > before + 999, "{before}, then {}", cases.version());
}

/// Its own copy of the map is old, and so is nothing that Consul has.
#[test]
fn a_leader_with_an_old_map_waits_for_the_nodes_that_know_a_newer_one() {
    let (cases, nodes) = Cases::filled(4);
    cases.world.wait(Duration::from_secs(20));
    let old = cases.world.run(nodes[0].disk.kept("map")).expect("memory").expect("a map");
    let drain = nodes[0].cluster.set_mode("n4", Mode::Draining);
    cases.world.run(drain).expect("the right to do so");
    cases.wait_until(60, || nodes[3].store.holds_none());
    cases.world.wait(Duration::from_secs(20));
    nodes.iter().for_each(|node| cases.kill(node));
    cases.world.agent.restart(Retained::Nothing);
    cases.world.run(nodes[0].disk.keep("map", old)).expect("memory");
    let first = cases.start("n1", &nodes[0].disk);
    let _others = [1, 2].map(|it| cases.start(&format!("n{}", it + 1), &nodes[it].disk));
    cases.wait_until(90, || first.holders() == set(&["n1", "n2", "n3"]));
    cases.has(&first, "before");
}

fn start_with_move_timeout(cases: &Cases, n: usize, move_timeout: Duration) -> Process {
    let options = Cases::options(&format!("n{n}"));
    let store = StoreOptions { move_timeout, ..StoreOptions::new("points", &options) };
    cases.start_with(options, store, &Disk::new())
}

#[test]
fn a_move_without_progress_is_cancelled_and_a_failover_gets_another_target() {
    let cases = Cases::new();
    let start = |n| start_with_move_timeout(&cases, n, Duration::from_secs(10));
    let nodes = [1, 2, 3, 4].map(start);
    cases.world.run(nodes[0].store.ready()).expect("a map");
    cases.fill(&nodes[0], "before");
    let full = start(5);
    cases.wait_until(20, || full.store.holder().is_some());
    full.disk.is_full.store(true, Ordering::Relaxed);
    let to_full = |it: &ShardStatus| it.targets.iter().any(|(node, _)| **node == *"n5");
    cases.wait_until(60, || nodes[0].store.status().iter().any(to_full));
    let planned = nodes[0].store.status().into_iter().find(to_full).expect("a move");
    cases.wait_until(30, || nodes[0].store.status()[planned.shard as usize].epoch > planned.epoch);
    cases.kill(&nodes[3]);
    let holds =
        |id: &'static str| move |it: &ShardStatus| it.holders.iter().any(|node| **node == *id);
    cases.wait_until(200, || !nodes[0].store.status().iter().any(holds("n4")));
    assert!(!nodes[0].store.status().iter().any(holds("n5")), "it stores nothing");
    cases.has(&nodes[0], "before");
}

/// The fourth of four nodes gets its shards within this time and not within a minute, and each is planned once.
fn settles_after_a_minute(cases: &Cases, joined: &Process, within_s: u64) {
    // The shards that the new node is to have, and the epochs that have planned it.
    let planned = Mutex::new(BTreeMap::new());
    let is_settled = || {
        for shard in joined.store.status() {
            if shard.targets.iter().any(|(node, _)| **node == *"n4") {
                let mut planned = planned.lock().expect("no panic");
                let epoch = *planned.entry(shard.shard).or_insert(shard.epoch);
                assert_eq!(shard.epoch, epoch, "shard {} was planned again", shard.shard);
            }
        }
        joined.is_settled(3) && joined.holders().contains("n4")
    };
    cases.wait_until(60, || !is_settled() && !planned.lock().expect("no panic").is_empty());
    let begun = cases.world.clock.now();
    cases.wait_until(within_s, is_settled);
    let took = cases.world.clock.now() - begun;
    assert!(took > Duration::from_secs(60), "{took:?} do not tell");
}

/// Each scan of the sources takes four seconds, so that the copies together take longer than the limit of each.
#[test]
#[ignore = "computes long: make test-all"]
fn a_move_that_makes_progress_is_not_cancelled() {
    let cases = Cases::new();
    let start = |n| start_with_move_timeout(&cases, n, Duration::from_secs(40));
    let nodes = [1, 2, 3].map(start);
    cases.world.run(nodes[0].store.ready()).expect("a map");
    cases.fill(&nodes[0], "before");
    cases.world.wait(Duration::from_secs(20));
    for process in &nodes {
        let slow = (cases.world.clock.clone(), Duration::from_secs(4));
        *process.disk.slow_scan.lock().expect("no panic") = Some(slow);
    }
    let joined = start(4);
    settles_after_a_minute(&cases, &joined, 600);
}

/// Its source and its target are equal when the copy is made, and to find that out takes longer than the limit.
#[test]
#[ignore = "computes long: make test-all"]
fn a_move_whose_comparison_takes_long_is_not_cancelled() {
    let cases = Cases::new();
    let start = |n| start_with_move_timeout(&cases, n, Duration::from_secs(20));
    let nodes = [1, 2, 3].map(start);
    cases.world.run(nodes[0].store.ready()).expect("a map");
    for key in 0..40 {
        let data = Some(Bytes::from_static(b"data"));
        let record = |number| (Bytes::from(format!("{key:03}/{number:03}")), data.clone());
        let records = (0..50).map(record).collect();
        let key = format!("key-{key}");
        let written = nodes[0].store.write(key.as_bytes(), records, cases.deadline(10));
        cases.world.run(written).expect("a quorum");
    }
    cases.world.wait(Duration::from_secs(20));
    let slow = |process: &Process| {
        let slow = (cases.world.clock.clone(), Duration::from_millis(200));
        *process.disk.slow_record.lock().expect("no panic") = Some(slow);
    };
    nodes.iter().for_each(slow);
    let joined = start(4);
    slow(&joined);
    settles_after_a_minute(&cases, &joined, 3000);
}

#[test]
fn lines_about_records_that_cannot_be_read_are_limited() {
    let cases = Cases::new();
    let _nodes = cases.nodes(3);
    let key = "/v1/kv/tsdb/cluster/shards/members/points/nodes/other";
    let map = "/v1/kv/tsdb/cluster/shards/maps/points";
    logged(Level::INFO, Arc::new(cases.world.clock.clone()), |lines| {
        for turn in 0..40 {
            cases.world.send("PUT", key, &format!("not a record {turn}"));
            cases.world.send("PUT", map, &format!("not a map {turn}"));
            cases.world.wait(Duration::from_millis(200));
        }
        cases.world.wait(Duration::from_secs(12));
        cases.world.send("PUT", key, "again");
        cases.world.wait(Duration::from_secs(1));
        let text = lines.text();
        for words in ["not a record of a node", "the map in Consul is ignored"] {
            let of_kind = text.lines().filter(|line| line.contains(words)).count();
            assert!((1..=21).contains(&of_kind), "{words}: {of_kind} lines");
        }
        assert!(text.contains(" left_out="), "{text}");
    });
}

/// A value that is written by mistake stops nothing, and the map is there again when it is removed.
#[test]
fn a_map_in_consul_that_cannot_be_read_is_ignored_until_it_is_removed() {
    let (cases, nodes) = Cases::filled(3);
    cases.world.wait(Duration::from_secs(20));
    let map = "/v1/kv/tsdb/cluster/shards/maps/points";
    cases.world.send("PUT", map, "not a map");
    cases.world.wait(Duration::from_secs(20));
    cases.fill(&nodes[1], "meanwhile");
    cases.world.send("DELETE", map, "");
    cases.world.wait(Duration::from_secs(20));
    assert!(cases.map().contains("\"version\":"), "{}", cases.map());
    cases.fill(&nodes[2], "after");
    cases.has(&nodes[0], "meanwhile");
}

/// A node that is away keeps its shards for `replace_after`, also if Consul has lost what it had reported.
#[test]
fn a_node_whose_report_is_lost_is_not_gone_at_once() {
    let (cases, nodes) = Cases::filled(4);
    cases.world.wait(Duration::from_secs(20));
    let before: Vec<_> = nodes[0].store.status();
    cases.world.send("DELETE", "/v1/kv/tsdb/cluster/shards/members/points/nodes/n4", "");
    for _ in 0..50 {
        cases.world.wait(Duration::from_millis(100));
        let changing = nodes[0].store.status().into_iter().find(|it| !it.targets.is_empty());
        assert!(changing.is_none(), "n4 is live, and is replaced: {changing:?}, was {before:?}");
    }
    assert!(cases.said("nodes/n4").is_some(), "it has written its record again");
}

/// A permission that is missing for some seconds does not end a node's store forever.
#[test]
fn a_refusal_of_consul_that_passes_does_not_end_a_store() {
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    cases.fill(&nodes[1], "before");
    cases.world.wait(Duration::from_secs(20));
    let status = Some(http::StatusCode::FORBIDDEN);
    let clients = vec!["1".to_owned()];
    cases.world.agent.add_fault(Fault { clients, status, status_chance: 1.0, ..Fault::default() });
    cases.world.wait(Duration::from_secs(8));
    cases.world.agent.clear_faults();
    cases.world.wait(Duration::from_secs(60));
    cases.write(&nodes[1], "after", "after").expect("the permission is back");
}

/// An observer's knowledge of a store that has ended must not make the new one unusable.
#[test]
fn an_observer_of_an_earlier_store_does_not_disturb_a_new_one() {
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    let observer = cases.observe("gateway");
    cases.fill(&nodes[0], "before");
    // Something that gives the shards new epochs.
    let before = observer.status();
    cases.world.agent.restart(Retained::Nothing);
    cases.wait_until(90, || {
        observer.status().iter().zip(&before).all(|(after, before)| after.epoch > before.epoch)
    });
    cases.has(&nodes[0], "before");
    cases.world.wait(Duration::from_secs(20));
    // The cluster is made again, with empty disks; the observer goes on.
    nodes.iter().for_each(|node| cases.kill(node));
    cases.world.agent.restart(Retained::Nothing);
    let nodes = cases.nodes(3);
    cases.fill(&nodes[0], "new");
    let range = Range::all();
    let read = observer.read(b"new-1", &range, 1, cases.deadline(2));
    let read = cases.world.run(read);
    for turn in 0..24 {
        let written = cases.write(&nodes[0], "new-1", "again");
        if written.is_ok() && turn > 0 {
            assert_eq!(cases.read(&nodes[0], "new-2").as_deref(), Some("new"));
            return;
        }
        cases.world.wait(Duration::from_secs(5));
    }
    let written = cases.write(&nodes[0], "new-1", "again");
    let status = nodes[0].store.status();
    panic!("after 2 minutes: {written:?}; the observer's read: {read:?}; {status:?}");
}

/// A change of many shards at once fits into what Consul takes.
#[test]
#[ignore = "computes long: make test-all"]
fn the_largest_store_has_shards_moved_to_a_node_that_joins() {
    let cases = Cases::new();
    let start = |id: &str| {
        let options = Options { shards: 8192, ..Cases::options(id) };
        let store = StoreOptions::new("points", &options);
        cases.start_with(options, store, &Disk::new())
    };
    let nodes = ["n1", "n2", "n3"].map(start);
    cases.world.run(nodes[0].store.ready()).expect("a map");
    let joined = start("n4");
    cases.world.run(joined.store.ready()).expect("a map");
    cases.wait_until(40, || joined.store.status().iter().any(|it| !it.targets.is_empty()));
}

/// After Consul lost its data an entry does not change before enough of its holders have reported what they know.
#[test]
#[ignore = "computes long: make test-all"]
fn nodes_that_are_away_when_consul_is_wiped_keep_their_shards_until_they_can_be_asked() {
    let (cases, nodes) = Cases::filled(5);
    cases.world.wait(Duration::from_secs(10));
    nodes[3..].iter().for_each(|node| cases.kill(node));
    cases.world.agent.restart(Retained::Nothing);
    let on_both = || {
        let has = |it: &ShardStatus, id: &str| it.holders.iter().any(|node| **node == *id);
        let status = nodes[0].store.status().into_iter();
        status.filter(|it| has(it, "n4") && has(it, "n5")).collect::<Vec<_>>()
    };
    let before = on_both().len();
    assert!(before > 0);
    // Longer than `replace_after`, and some time for a leader.
    cases.world.wait(Duration::from_secs(150));
    let shards = on_both();
    assert_eq!(shards.len(), before);
    assert!(shards.iter().all(|it| it.is_unrecovered), "{shards:?}");
    // The leader does not write the same map again and again.
    let version = cases.version();
    cases.world.wait(Duration::from_secs(20));
    assert_eq!(cases.version(), version);
    let back = [3, 4].map(|at| cases.start(&format!("n{}", at + 1), &nodes[at].disk));
    cases.wait_until(60, || back.iter().all(|node| node.is_settled(3)));
    cases.has(&back[0], "before");
}

/// The word is about whatever does not answer, also about nodes whose records the leader does not know.
#[test]
#[ignore = "computes long: make test-all"]
fn after_a_wipe_an_operator_ends_the_wait_for_nodes_that_never_come_back() {
    let (cases, nodes) = Cases::filled(5);
    cases.world.wait(Duration::from_secs(10));
    nodes[3..].iter().for_each(|node| cases.kill(node));
    cases.world.agent.restart(Retained::Nothing);
    let unrecovered = || {
        let status = nodes[0].store.status().into_iter().filter(|it| it.is_unrecovered);
        status.map(|it| it.shard).collect::<Vec<_>>()
    };
    cases.world.wait(Duration::from_secs(150));
    let waiting = unrecovered();
    assert!(!waiting.is_empty());
    for shard in waiting {
        cases.world.run(nodes[0].store.accept_loss(shard)).expect("the right to do so");
    }
    cases.wait_until(60, || unrecovered().is_empty());
    cases.wait_until(200, || nodes[0].holders() == set(&["n1", "n2", "n3"]));
    cases.wait_until(60, || nodes[0].is_settled(3));
    cases.has(&nodes[1], "before");
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_node_that_is_away_when_consul_is_wiped_is_replaced() {
    let (cases, nodes) = Cases::filled(5);
    cases.world.wait(Duration::from_secs(10));
    cases.kill(&nodes[4]);
    cases.world.agent.restart(Retained::Nothing);
    cases.wait_until(200, || nodes[0].holders() == set(&["n1", "n2", "n3", "n4"]));
    cases.wait_until(60, || nodes[0].is_settled(3));
    cases.has(&nodes[0], "before");
    cases.fill(&nodes[1], "meanwhile");
    let back = cases.start("n5", &nodes[4].disk);
    cases.wait_until(120, || back.holders().contains("n5") && back.is_settled(3));
    cases.has(&back, "meanwhile");
}

/// Two of three replicas answer also while the third cannot be asked after a wipe.
#[test]
fn a_wiped_consul_while_one_node_is_away_does_not_stop_the_others() {
    let (cases, nodes) = Cases::filled(5);
    cases.world.wait(Duration::from_secs(10));
    cases.kill(&nodes[4]);
    cases.world.agent.restart(Retained::Nothing);
    cases.world.wait(Duration::from_secs(60));
    cases.fill(&nodes[0], "meanwhile");
}

/// It has asked the others what they know of a map that Consul has lost, and they have promised it to execute nothing
/// older.
#[test]
fn a_leader_that_dies_before_it_puts_a_map_back_does_not_stop_the_others() {
    let (cases, mut nodes) = Cases::filled(3);
    cases.world.wait(Duration::from_secs(10));
    let leader = nodes.iter().position(|node| node.cluster.is_leader()).expect("a leader");
    let epoch = cases.version() + 1000;
    cases.kill(&nodes.remove(leader));
    for node in &nodes {
        let holder = node.store.holder().expect("it keeps records");
        for shard in 0..8 {
            let entry = Entry::new(epoch, Vec::new());
            let request = Request { store: None, shard, entry, action: Action::Recover };
            _ = cases.world.run(holder.serve(request));
        }
    }
    cases.world.agent.restart(Retained::Nothing);
    let is_recovered = |node: &Process| node.store.status().iter().all(|it| !it.is_unrecovered);
    cases.world.wait(Duration::from_secs(5));
    cases.wait_until(60, || nodes.iter().all(is_recovered));
    cases.has(&nodes[0], "before");
    cases.fill(&nodes[1], "after");
}

/// The time since which a node is away does not begin again with a new leader.
#[test]
fn a_new_leader_replaces_a_node_as_soon_as_the_last_one_would_have() {
    let cases = Cases::new();
    let nodes = cases.nodes(6);
    cases.world.wait(Duration::from_secs(5));
    let leader = nodes.iter().position(|node| node.cluster.is_leader()).expect("a leader");
    let lost = (leader + 1) % 6;
    let seen = (leader + 2) % 6;
    let lost_id = nodes[lost].cluster.options().node_id.clone();
    cases.kill(&nodes[lost]);
    let died = cases.world.clock.now();
    cases.world.wait(Duration::from_secs(45));
    nodes[leader].cluster.hand_over();
    cases.wait_until(120, || {
        let status = nodes[seen].store.status();
        !status.iter().any(|it| it.holders.iter().any(|node| **node == *lost_id))
    });
    let took = cases.world.clock.now() - died;
    assert!(took < Duration::from_secs(100), "replaced after {took:?}");
}

#[test]
fn the_first_map_can_be_changed_at_once() {
    let cases = Cases::new();
    let nodes = cases.nodes(3);
    let first = nodes[0].store.status();
    cases.kill(&nodes[1]);
    let _back = cases.start("n2", &Disk::new());
    // Less than the 15 s for which a leader waits for a node's word.
    cases.wait_until(10, || {
        nodes[0].store.status().iter().zip(&first).all(|(now, first)| now.epoch > first.epoch)
    });
}

#[test]
fn the_loss_of_the_disks_of_two_nodes_that_are_back_can_be_accepted() {
    let (cases, nodes) = Cases::filled(3);
    nodes[1..].iter().for_each(|node| cases.kill(node));
    let back = ["n2", "n3"].map(|node| cases.start(node, &Disk::new()));
    let is_stuck = |it: &ShardStatus| it.is_at_risk && it.targets.len() == 2;
    cases.wait_until(60, || nodes[0].store.status().iter().all(is_stuck));
    cases.world.wait(Duration::from_secs(20));
    assert!(nodes[0].store.status().iter().all(is_stuck));
    for shard in 0..nodes[0].store.options().shards {
        cases.world.run(nodes[0].store.accept_loss(shard)).expect("the right to write");
    }
    cases.wait_until(60, || nodes[0].is_settled(3));
    cases.has(&back[1], "before");
}

#[test]
fn a_target_whose_disk_was_full_learns_its_shards_when_there_is_room() {
    let (cases, nodes) = Cases::filled(3);
    let full = cases.start("n4", &Disk::new());
    cases.wait_until(20, || full.store.holder().is_some());
    full.disk.is_full.store(true, Ordering::Relaxed);
    cases.wait_until(20, || !nodes[0].is_settled(3));
    cases.world.wait(Duration::from_secs(10));
    assert!(!nodes[0].holders().contains("n4"));
    full.disk.is_full.store(false, Ordering::Relaxed);
    cases.wait_until(30, || nodes[0].holders().contains("n4"));
}

#[test]
fn a_node_that_is_asked_to_leave_stays_while_a_store_names_it() {
    let (cases, nodes) = Cases::filled(3);
    // The shard map does not wait for a fourth node, the store does.
    cases.world.run(nodes[0].cluster.ask_leave(None, "n3")).expect("a node");
    cases.world.wait(Duration::from_secs(60));
    let is_live = || nodes[0].cluster.snapshot().nodes.get("n3").is_some_and(|it| it.is_live);
    assert!(!nodes[0].cluster.snapshot().map.as_ref().expect("a map").has("n3"));
    assert!(is_live());
    assert!(!nodes[2].store.holds_none());
    let _fourth = cases.start("n4", &Disk::new());
    cases.wait_until(60, || !is_live());
    // Its own view ended with it.
    cases.wait_until(5, || !nodes[0].holders().contains("n3"));
    cases.has(&nodes[0], "before");
}
