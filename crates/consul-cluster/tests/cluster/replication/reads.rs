//! Which replicas a read asks, when it asks another one, and what it says without a quorum, on a clock that
//! the tests advance.

use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::clock::{BoxFuture, Clock, Instant, ManualClock};
use consul_replication::clock::VersionClock;
use consul_replication::holder::Holder;
use consul_replication::map::{Change, ChangeKind, Disk, Entry, NodeId, Place, Slot, StoreId};
use consul_replication::message::{Action, NotReady, Outcome, Reply, Request};
use consul_replication::peers::{Entries, Peers, Runtime};
use consul_replication::quorum::Router;
use consul_replication::record::{HybridTime, Range, Record, Version};
use consul_replication::rules::Rules;
use consul_replication::storage::{Memory, Storage as _};
use futures_util::FutureExt as _;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Nodes whose answers take these times; without one, a node refuses at once, with this outcome if it is
/// not that it is sealed.
#[derive(Clone, Default)]
struct Nodes {
    clock: ManualClock,
    times_ms: Arc<Mutex<BTreeMap<NodeId, u64>>>,
    refusals: Arc<Mutex<BTreeMap<NodeId, Outcome>>>,
    /// Whether a node answers so once, and that it is sealed from then on.
    are_once: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<NodeId>>>,
}

/// The answer of a replica that counts: a write begins when enough of them are there.
fn there() -> BoxFuture<'static, Result<Reply, Error>> {
    Box::pin(async { Ok(Reply { time: HybridTime::default(), outcome: Outcome::Done }) })
}

impl Peers for Nodes {
    fn ask(&self, node: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>> {
        if let Action::Ping = request.action {
            return there();
        }
        self.asked.lock().expect("no panic").push(node.clone());
        let ms = self.times_ms.lock().expect("no panic").get(node).copied();
        let answer = self.clock.sleep(Duration::from_millis(ms.unwrap_or(0)));
        let horizon = Version::default();
        let mut refusals = self.refusals.lock().expect("no panic");
        let refusal = match self.are_once.load(Ordering::Relaxed) {
            true => refusals.remove(node),
            false => refusals.get(node).cloned(),
        };
        let outcome = match ms {
            Some(_) => Outcome::Page { records: Vec::new(), is_last: true, horizon },
            None => refusal.unwrap_or(Outcome::NotReady(NotReady::Sealed)),
        };
        Box::pin(async move {
            answer.await;
            Ok(Reply { time: HybridTime::default(), outcome })
        })
    }
}

impl Runtime for Nodes {
    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.clock.spawn(task);
    }

    fn fraction(&self) -> f64 {
        0.5
    }
}

impl Nodes {
    fn take(&self, node: &str, ms: Option<u64>) {
        let mut times = self.times_ms.lock().expect("no panic");
        times.remove(node);
        times.extend(ms.map(|ms| (NodeId::from(node), ms)));
    }

    /// Three replicas that take 10 ms, and a process that reads two of them.
    fn new() -> (Self, Router) {
        let nodes = Nodes::default();
        let slot = |node: &str| {
            nodes.take(node, Some(10));
            Slot::of(Place { node: node.into(), disk: Disk(1), is_first: true })
        };
        let entries = Arc::new(Entries::default());
        entries.learn(None, 0, &Entry::new(1, ["n1", "n2", "n3"].map(slot).into()));
        let router = Router {
            entries,
            peers: Arc::new(nodes.clone()),
            runtime: Arc::new(nodes.clone()),
            clock: Arc::new(VersionClock::new(|| 0, Duration::from_secs(1), 1)),
            times: Arc::default(),
            rules: Rules::default(),
        };
        (nodes, router)
    }

    /// Runs a call, which has a time limit in milliseconds, to its end.
    fn run<T: Send + 'static>(
        &self,
        limit_ms: u64,
        call: impl FnOnce(Instant) -> BoxFuture<'static, T>,
    ) -> T {
        let done = Arc::new(Mutex::new(None));
        let result = Arc::clone(&done);
        let call = call(self.clock.now() + Duration::from_millis(limit_ms));
        self.clock.spawn(async move {
            *result.lock().expect("no panic") = Some(call.await);
        });
        self.clock.run_until_stalled();
        loop {
            if let Some(result) = done.lock().expect("no panic").take() {
                return result;
            }
            self.clock.advance(Duration::from_millis(1));
        }
    }

    /// How many replicas a read has asked, and how long it took.
    fn read(&self, router: &Router) -> (usize, u64) {
        self.asked.lock().expect("no panic").clear();
        let (begun, router) = (self.clock.now(), router.clone());
        let page = self.run(60_000, |deadline| {
            Box::pin(async move { router.read(0, &Range::all(), 10, deadline).await })
        });
        page.expect("a quorum");
        let took = (self.clock.now() - begun).as_millis() as u64;
        (self.asked.lock().expect("no panic").len(), took)
    }
}

#[test]
fn a_read_asks_as_many_replicas_as_it_needs() {
    let (nodes, router) = Nodes::new();
    for _ in 0..100 {
        assert_eq!(nodes.read(&router), (2, 10));
    }
}

/// One node has died while another one was starting.
#[test]
fn a_replica_that_has_refused_is_asked_again_while_another_one_is_silent() {
    let (nodes, router) = Nodes::new();
    nodes.take("n3", Some(50_000));
    nodes.take("n1", None);
    let starting = nodes.clone();
    nodes.clock.spawn(async move {
        starting.clock.sleep(Duration::from_millis(100)).await;
        starting.take("n1", Some(10));
    });
    let (asked, took) = nodes.read(&router);
    assert_eq!(asked, 4);
    assert!((250..=400).contains(&took), "{took} ms");
}

#[test]
fn a_replica_that_refuses_is_replaced_at_once_and_asked_last_from_then_on() {
    let (nodes, router) = Nodes::new();
    nodes.take("n1", None);
    assert_eq!(nodes.read(&router), (3, 10));
    for _ in 0..20 {
        assert_eq!(nodes.read(&router), (2, 10));
    }
}

#[test]
fn a_replica_that_has_become_slow_costs_one_read_some_time() {
    let (nodes, router) = Nodes::new();
    (0..100).for_each(|_| _ = nodes.read(&router));
    for slow in ["n1", "n2", "n3"] {
        nodes.take(slow, Some(5000));
        let reads: Vec<_> = (0..200).map(|_| nodes.read(&router)).collect();
        nodes.take(slow, Some(10));
        // After the time of the other answers another replica is asked.
        assert!(reads.iter().all(|(_, took)| *took <= 20), "{reads:?}");
        let asked_more = reads.iter().filter(|(asked, _)| *asked == 3).count();
        assert!(asked_more <= 20, "{asked_more} of 200 reads asked another replica");
    }
}

#[test]
fn at_most_one_in_ten_reads_asks_another_replica_until_it_is_late() {
    let (nodes, router) = Nodes::new();
    (0..100).for_each(|_| _ = nodes.read(&router));
    // Now the fast ones are slow, the slow ones fast: no order is right for long.
    let mut asked_more = 0;
    for number in 0..500 {
        for (index, node) in ["n1", "n2", "n3"].iter().enumerate() {
            nodes.take(node, Some(if number % 3 == index { 60 } else { 10 }));
        }
        let (asked, took) = nodes.read(&router);
        asked_more += asked - 2;
        assert!(took <= 60, "{took}");
    }
    assert!(asked_more <= 60, "{asked_more} of 500 reads asked another replica");
    // All three stall; the third is asked when the read is late.
    ["n1", "n2", "n3"].iter().for_each(|node| nodes.take(node, Some(5000)));
    assert_eq!(nodes.read(&router), (3, 5000));
}

#[test]
fn a_request_without_a_quorum_names_each_replica_that_does_not_count_and_why() {
    let (nodes, router) = Nodes::new();
    let slot = |node: &str| Slot::of(Place { node: node.into(), disk: Disk(1), is_first: true });
    let mut slots: Vec<Slot> = ["n1", "n2", "n3", "n4"].map(slot).into();
    let (kind, to) = (ChangeKind::Failover, "n6".into());
    slots[3].change = Some(Change::new(kind, to, 2));
    slots.push(Slot::default());
    router.entries.learn(None, 0, &Entry::new(2, slots));
    nodes.take("n1", None);
    let long = Outcome::Failed("no room ".repeat(1000));
    nodes.refusals.lock().expect("no panic").insert("n3".into(), long);
    nodes.take("n2", Some(5000));
    nodes.take("n3", None);
    let reader = router.clone();
    let read = nodes.run(1000, |deadline| {
        Box::pin(async move { reader.read(0, &Range::all(), 10, deadline).await })
    });
    let write = nodes.run(1000, |deadline| {
        Box::pin(async move { router.write(0, vec![("id".into(), None)], deadline).await })
    });
    let no_room = "no room ".repeat(1000);
    for (what, why) in [("read", read.map(drop)), ("write", write.map(drop))] {
        let expected = format!(
            "the {what} of shard 0 has no quorum: 0 of 3 replicas; n1: its replica is sealed for a \
             move; n3: {}; n2: no answer within 1000 ms; n4: it is being replaced by n6; a replica has \
             no node yet",
            &no_room[..196]
        );
        assert_eq!(why.expect_err("no quorum").message(), expected);
    }
}

#[test]
fn a_read_says_which_replicas_it_had_no_time_to_ask() {
    let (nodes, router) = Nodes::new();
    ["n1", "n2", "n3"].iter().for_each(|node| nodes.take(node, Some(5000)));
    let read = nodes.run(50, |deadline| {
        Box::pin(async move { router.read(0, &Range::all(), 10, deadline).await })
    });
    assert_eq!(
        read.expect_err("no quorum").message(),
        "the read of shard 0 has no quorum: 0 of 2 replicas; n1: no answer within 50 ms; n2: no answer \
         within 50 ms; n3: not asked"
    );
}

/// Three nodes with the same records, which answer this many requests.
struct Copies {
    holders: BTreeMap<NodeId, Arc<Holder>>,
    asked: AtomicUsize,
    most: usize,
}

impl Peers for Copies {
    fn ask(&self, node: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>> {
        let is_silent = self.asked.fetch_add(1, Ordering::Relaxed) >= self.most;
        let holder = Arc::clone(&self.holders[node]);
        Box::pin(async move {
            if is_silent {
                std::future::pending::<()>().await;
            }
            Ok(holder.serve(request).await)
        })
    }
}

/// The records that the nodes have, all but the last one deleted.
const DELETED: usize = 20_000;

/// A process that reads from nodes which answer this many requests.
fn with_deleted_records(most: usize) -> (Nodes, Router, Arc<Copies>) {
    let (nodes, router) = Nodes::new();
    let version = Version::first_of(HybridTime::from_ms(1));
    let record = |number: usize| Record {
        id: format!("{number:08}").into(),
        version,
        data: (number == DELETED).then(|| Bytes::from_static(b"data")),
    };
    let holder = |node: &str| {
        let memory = Memory::new();
        let stored = memory.apply(0, (0..=DELETED).map(record).collect());
        stored.now_or_never().expect("memory does not wait").expect("room");
        let clock = Arc::new(VersionClock::new(|| 0, Duration::from_secs(1), 1));
        let rules = Rules::default();
        let holder = Holder::new(node.into(), Disk(1), Arc::new(memory), clock, rules);
        (NodeId::from(node), Arc::new(holder))
    };
    let holders = ["n1", "n2", "n3"].map(holder).into();
    let copies = Arc::new(Copies { holders, asked: AtomicUsize::new(0), most });
    let peers: Arc<dyn Peers> = Arc::clone(&copies) as Arc<dyn Peers>;
    (nodes, Router { peers, ..router }, copies)
}

#[test]
fn a_read_of_one_record_passes_over_deleted_ones_with_few_requests() {
    let (nodes, router, copies) = with_deleted_records(usize::MAX);
    let page = nodes.run(60_000, |deadline| {
        Box::pin(async move { router.read(0, &Range::all(), 1, deadline).await })
    });
    let page = page.expect("a quorum");
    assert_eq!(page.records.len(), 1);
    let asked = copies.asked.load(Ordering::Relaxed);
    assert!(asked < 100, "{asked} requests");
}

#[test]
fn a_read_that_finds_only_deleted_records_until_its_deadline_says_how_far_it_is() {
    let (nodes, router, _) = with_deleted_records(20);
    let read = |range: Range| {
        let router = router.clone();
        nodes.run(1000, |deadline| {
            Box::pin(async move { router.read(0, &range, 1, deadline).await })
        })
    };
    let page = read(Range::all()).expect("a part of the range");
    assert!(page.records.is_empty());
    let next = page.next.expect("the range goes on");
    let error = read(Range::all().after(next)).expect_err("all are silent");
    assert_eq!((error.kind(), error.maybe_applied()), (Kind::NotReady, false));
}

/// By an hour, at any reading of it, on a process whose own replica believes it.
#[test]
fn a_clock_that_is_set_while_a_write_begins_leaves_no_version_of_the_future() {
    const NOW_MS: u64 = 1_700_000_000_000;
    const SKEW: Duration = Duration::from_secs(1);
    let mut written = 0;
    for right in 0..60 {
        let (nodes, router) = Nodes::new();
        let readings = AtomicUsize::new(0);
        let own = Arc::new(VersionClock::new(
            move || match readings.fetch_add(1, Ordering::Relaxed) < right {
                true => NOW_MS,
                false => NOW_MS + 3_600_000,
            },
            SKEW,
            7,
        ));
        let mut disks = Vec::new();
        let mut holder = |node: &str| {
            let memory = Arc::new(Memory::new());
            disks.push(Arc::clone(&memory));
            let clock = match node {
                "n1" => Arc::clone(&own),
                _ => Arc::new(VersionClock::new(|| NOW_MS, SKEW, 1)),
            };
            let holder = Holder::new(node.into(), Disk(1), memory, clock, Rules::default());
            (NodeId::from(node), Arc::new(holder))
        };
        let holders = ["n1", "n2", "n3"].map(&mut holder).into();
        let peers = Arc::new(Copies { holders, asked: AtomicUsize::new(0), most: usize::MAX });
        let router = Router { peers, clock: own, ..router };
        let record = (Bytes::from_static(b"id"), Some(Bytes::from_static(b"data")));
        let outcome = nodes.run(2000, |deadline| {
            Box::pin(async move { router.write(0, vec![record], deadline).await })
        });
        written += usize::from(outcome.is_ok());
        for disk in &disks {
            let scan = disk.scan(0, Range::all(), 10).now_or_never().expect("memory does not wait");
            for record in scan.expect("memory") {
                let ms = record.version.time().ms();
                assert!(ms <= NOW_MS + 2000, "after {right} readings: {ms}, {outcome:?}");
            }
        }
    }
    assert!((1..60).contains(&written), "{written} are before the clock was set");
}

/// Whether a write that fails may have been applied, when two replicas answer with this and one is silent or
/// answers too.
fn write_may_be_applied(outcome: Outcome, one_is_silent: bool) -> bool {
    let (nodes, router) = Nodes::new();
    for node in ["n1", "n2", "n3"] {
        nodes.take(node, None);
        nodes.refusals.lock().expect("no panic").insert(node.into(), outcome.clone());
    }
    if one_is_silent {
        nodes.take("n3", Some(60_000));
    }
    let records = vec![(Bytes::from_static(b"id"), Some(Bytes::from_static(b"data")))];
    let written = nodes
        .run(1000, |deadline| Box::pin(async move { router.write(0, records, deadline).await }));
    written.expect_err("no quorum").maybe_applied()
}

/// A holder of another store of that name says so: what this process knows of the map is old.
#[test]
fn a_refusal_by_another_store_makes_the_caller_read_the_map_again() {
    let (nodes, router) = Nodes::new();
    let slots = router.entries.get(0).expect("an entry").entry.slots.clone();
    let adopt = |store, epoch| {
        let entry = Entry::new(epoch, slots.clone());
        router.entries.adopt(Some(StoreId(store)), [(0, &entry)].into_iter());
    };
    adopt(1, 1_000_000);
    let other = Outcome::OtherStore(StoreId(2));
    for node in ["n1", "n2", "n3"] {
        nodes.take(node, None);
        nodes.refusals.lock().expect("no panic").insert(node.into(), other.clone());
    }
    assert!(router.entries.suspected().now_or_never().is_none(), "nothing was refused yet");
    let reader = router.clone();
    let read = nodes.run(1000, |deadline| {
        Box::pin(async move { reader.read(0, &Range::all(), 10, deadline).await })
    });
    let error = read.expect_err("no quorum");
    assert!(error.message().contains("another store of that name"), "{error}");
    router.entries.suspected().now_or_never().expect("the map has to be read again");
    let late = Entry::new(2_000_000, slots.clone());
    adopt(2, 1);
    assert!(!router.entries.learn(Some(StoreId(1)), 0, &late), "a late answer of the first store");
    let known = router.entries.get(0).expect("the entry of the new store");
    assert_eq!((known.store, known.entry.epoch), (Some(StoreId(2)), 1));
}

#[test]
fn a_write_that_no_replica_can_have_executed_says_so() {
    let sealed = Outcome::NotReady(NotReady::Sealed);
    assert!(!write_may_be_applied(sealed.clone(), false));
    assert!(write_may_be_applied(sealed, true));
    assert!(!write_may_be_applied(Outcome::OtherStore(StoreId(1)), false));
    assert!(write_may_be_applied(Outcome::Failed("the disk is full".into()), false));
}

/// Before all replicas refuse it, one has stored a write, or all have stored the part of it that no newer version had
/// overtaken.
#[test]
fn a_write_that_was_executed_in_part_before_all_refuse_it_may_be_applied() {
    let overtaken = vec![(0, Version::first_of(HybridTime::from_ms(1)))];
    for (stored_on, overtaken) in [(&["n1"][..], vec![]), (&["n1", "n2", "n3"], overtaken)] {
        let (nodes, router) = Nodes::new();
        for node in ["n1", "n2", "n3"] {
            nodes.take(node, None);
        }
        for node in stored_on {
            let stored = Outcome::Stored { overtaken: overtaken.clone() };
            nodes.refusals.lock().expect("no panic").insert((*node).into(), stored);
        }
        nodes.are_once.store(true, Ordering::Relaxed);
        let data = |id: &'static str| (Bytes::from(id), Some(Bytes::from_static(b"data")));
        let records = vec![data("a"), data("b")];
        let written = nodes.run(1000, |deadline| {
            Box::pin(async move { router.write(0, records, deadline).await })
        });
        let error = written.expect_err("all refuse it in the end");
        assert!(error.maybe_applied(), "{stored_on:?}: {error}");
    }
}

/// A network that breaks each connection, before the request is sent or after that.
struct Broken {
    is_sent: bool,
}

impl Peers for Broken {
    fn ask(&self, _: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>> {
        if let Action::Ping = request.action {
            return there();
        }
        let why = Error::new(Kind::Connect, "reset by peer").with_maybe_applied(self.is_sent);
        Box::pin(async { Err(why) })
    }
}

#[test]
fn a_write_whose_answers_are_lost_may_be_applied() {
    for is_sent in [false, true] {
        let (nodes, router) = Nodes::new();
        let router = Router { peers: Arc::new(Broken { is_sent }), ..router };
        let records = vec![(Bytes::from_static(b"id"), Some(Bytes::from_static(b"data")))];
        let written = nodes.run(1000, |deadline| {
            Box::pin(async move { router.write(0, records, deadline).await })
        });
        let error = written.expect_err("no quorum");
        assert_eq!(error.maybe_applied(), is_sent, "{error}");
    }
}
