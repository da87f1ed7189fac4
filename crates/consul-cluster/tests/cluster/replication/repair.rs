//! The requests of a repair of a large shard.

use crate::disk::Disk;
use bytes::Bytes;
use consul_api::error::Error;
use consul_process::clock::{BoxFuture, Clock as _, ManualClock};
use consul_replication::clock::VersionClock;
use consul_replication::holder::Holder;
use consul_replication::map::{
    Change, ChangeKind, Disk as MapDisk, Entry, NodeId, Place, Sizes, Slot,
};
use consul_replication::message::{Action, Outcome, Reply, Request};
use consul_replication::peers::Peers;
use consul_replication::record::{HybridTime, Record, Version};
use consul_replication::rules::Rules;
use consul_replication::storage::Storage as _;
use consul_replication::transfer::Transfer;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const STEP: Duration = Duration::from_secs(1);
const RECORDS: usize = 100_000;
const DIFFERING: usize = 100;

/// Two nodes, and the bytes of what they send each other.
#[derive(Clone)]
struct Pair {
    holders: BTreeMap<NodeId, Arc<Holder>>,
    entry: Entry,
    sent: Arc<AtomicUsize>,
    /// By which the requests are measured.
    clock: ManualClock,
    is_measured: bool,
    /// How long the longest request took.
    longest: Arc<Mutex<Duration>>,
}

impl Peers for Pair {
    fn ask(&self, node: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>> {
        let (holder, sent) = (Arc::clone(&self.holders[node]), Arc::clone(&self.sent));
        let is_remote = &**node != "n1";
        let (clock, is_measured) = (self.clock.clone(), self.is_measured);
        let longest = Arc::clone(&self.longest);
        Box::pin(async move {
            let asked = request.encode().len();
            let begun = clock.now();
            let reply = holder.serve(request).await;
            if is_measured {
                let mut longest = longest.lock().expect("no panic");
                *longest = (*longest).max(clock.now() - begun);
            }
            if is_remote {
                sent.fetch_add(asked + reply.encode().len(), Ordering::Relaxed);
            }
            Ok(reply)
        })
    }
}

fn record(number: usize, ms: u64) -> Record {
    let id = Bytes::from(format!("cpu.load/{number:012}"));
    let version = Version::new(HybridTime::from_ms(ms), 1);
    Record { id, version, data: Some(vec![b'x'; 100].into()) }
}

impl Pair {
    /// The nodes n1 and n2 with these disks, which hold shard 0.
    async fn of(disks: [Arc<Disk>; 2], clock: &ManualClock) -> Pair {
        let place = |node: &str| Place { node: node.into(), disk: MapDisk(1), is_first: true };
        let slots = ["n1", "n2"].map(|node| Slot::of(place(node))).to_vec();
        let quorums = Sizes { write: 2, read: 1 };
        let entry = Entry::new(1, slots).with_quorums(quorums);
        let mut pair = Pair {
            holders: BTreeMap::new(),
            entry: entry.clone(),
            sent: Arc::default(),
            clock: clock.clone(),
            is_measured: false,
            longest: Arc::default(),
        };
        for (node, disk) in ["n1", "n2"].into_iter().zip(disks) {
            pair.start(node, disk).await;
        }
        pair
    }

    async fn start(&mut self, node: &str, disk: Arc<Disk>) {
        let (clock, skew) = (self.clock.clone(), Duration::from_secs(60));
        let unix_ms = move || 1000 + clock.now().since_origin().as_millis() as u64;
        let versions = Arc::new(VersionClock::new(unix_ms, skew, 1));
        let holder = Holder::new(node.into(), MapDisk(1), disk, versions, Rules::default());
        let holder = holder.with_steps(STEP);
        holder.learn(0, &self.entry).await.expect("memory");
        self.holders.insert(node.into(), Arc::new(holder));
    }

    fn request(&self, action: Action) -> Request {
        Request { store: None, shard: 0, entry: self.entry.clone(), action }
    }

    /// The transfer of n1.
    fn transfer(&self) -> Transfer {
        self.transfer_of("n1")
    }

    fn transfer_of(&self, node: &str) -> Transfer {
        Transfer {
            holder: Arc::clone(&self.holders[node]),
            peers: Arc::new(self.clone()),
            page: 1000,
        }
    }
}

fn run(clock: &ManualClock, work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(clock.drive(work));
}

/// Of two replicas of any sizes, by storages that take 100 ms for a scan or a minute for the shard, no request takes longer
/// than the time of a step.
#[test]
#[ignore = "computes long: make test-all"]
fn a_comparison_of_large_shards_is_many_short_requests() {
    const ALL: usize = 10_000;
    let ms = Duration::from_millis;
    for (of_scan, of_record) in [(ms(100), ms(0)), (ms(0), ms(6)), (ms(20), ms(1))] {
        // The records of each; the first one has the later ids.
        for (ours, theirs) in [(ALL, ALL), (0, ALL), (ALL, 0), (100, ALL), (ALL, 1)] {
            let what = format!("{ours} and {theirs}, {of_scan:?} and {of_record:?}");
            let clock = ManualClock::new();
            let disks = [Disk::new(), Disk::new()];
            run(&clock, async {
                let mut pair = Pair::of(disks.clone(), &clock).await;
                for (disk, numbers) in disks.iter().zip([ALL - ours..ALL, 0..theirs]) {
                    let records = numbers.map(|number| record(number, 10)).collect();
                    disk.apply(0, records).await.expect("memory");
                    *disk.slow_scan.lock().expect("no panic") = Some((clock.clone(), of_scan));
                    *disk.slow_record.lock().expect("no panic") = Some((clock.clone(), of_record));
                }
                pair.is_measured = true;
                pair.transfer().repair(0, Version::default()).await.expect("memory");
                let all = disks.each_ref().map(|disk| disk.records(1).len());
                assert_eq!(all, [ALL; 2], "{what}");
                let longest = *pair.longest.lock().expect("no panic");
                // The time of a step and one scan.
                assert!(longest <= STEP + of_scan * 2, "{longest:?} for {what}");
            });
        }
    }
}

/// A storage that removes what was deleted from a large shard for long.
#[test]
fn writes_go_on_during_a_purge() {
    let clock = ManualClock::new();
    let disks = [Disk::new(), Disk::new()];
    run(&clock, async {
        let pair = Pair::of(disks.clone(), &clock).await;
        for disk in &disks {
            *disk.slow_purge.lock().expect("no panic") =
                Some((clock.clone(), Duration::from_secs(60)));
        }
        let below = Version::new(HybridTime::from_ms(100), 1);
        let begun = clock.now();
        let written = async {
            clock.sleep(Duration::from_secs(10)).await;
            let request = pair.request(Action::Write(vec![record(1, 1010)]));
            let reply = pair.ask(&"n2".into(), request).await.expect("an answer");
            assert!(matches!(reply.outcome, Outcome::Stored { .. }), "{reply:?}");
            clock.now() - begun
        };
        let transfer = pair.transfer();
        let (repaired, written) = tokio::join!(transfer.repair(0, below), written);
        repaired.expect("memory");
        assert_eq!(written, Duration::from_secs(10));
        assert!(clock.now() - begun >= Duration::from_secs(60));
    });
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_repair_sends_little_more_than_what_differs() {
    let clock = ManualClock::new();
    let disks = [Disk::new(), Disk::new()];
    let mut sent = 0;
    let work = async {
        let pair = Pair::of(disks.clone(), &clock).await;
        for disk in &disks {
            let records = (0..RECORDS).map(|number| record(number, 10)).collect();
            disk.apply(0, records).await.expect("memory");
        }
        let every = RECORDS / DIFFERING;
        let newer = (0..DIFFERING).map(|it| record(it * every + it * 7 % every, 20)).collect();
        disks[1].apply(0, newer).await.expect("memory");
        let repaired = pair.transfer().repair(0, Version::default()).await;
        let (compared, is_whole) = repaired.expect("memory");
        assert!(is_whole);
        assert_eq!((compared.fetched, compared.sent), (DIFFERING, 0));
        assert!(disks[0].records(1) == disks[1].records(1));
        sent = pair.sent.load(Ordering::Relaxed);
    };
    run(&clock, work);
    let whole: usize = record(0, 10).id.len() + 100 + 16;
    let whole = whole * RECORDS;
    assert!(sent * 50 <= whole, "{sent} of {whole} bytes");
}

/// Makes two replicas of this many records equal, if 1,000 of them are newer on one, 1,000 are there alone and 1,000
/// are deleted; then moves one of them.
fn repair_and_move(count: usize) {
    let clock = ManualClock::new();
    let disks = [Disk::new(), Disk::new()];
    run(&clock, async {
        let mut pair = Pair::of(disks.clone(), &clock).await;
        let apart = count / 1000;
        for (index, disk) in disks.iter().enumerate() {
            for begin in (0..count).step_by(10_000) {
                let numbers = begin..count.min(begin + 10_000);
                let records = numbers.filter_map(|number| match number % apart {
                    1 if index == 0 => Some(record(number, 20)),
                    2 if index == 0 => None,
                    3 => Some(Record { data: None, ..record(number, 20) }),
                    _ => Some(record(number, 10)),
                });
                disk.apply(0, records.collect()).await.expect("memory");
            }
        }
        let repaired = pair.transfer().repair(0, Version::first_of(HybridTime::from_ms(100))).await;
        let (compared, is_whole) = repaired.expect("memory");
        assert_eq!((compared.fetched, compared.sent, is_whole), (1000, 1000, true));
        let left = count - 1000;
        assert!(disks[0].records(1) == disks[1].records(1));
        assert_eq!(disks[0].records(1).len(), left, "deleted records are purged");

        let target = Disk::new();
        pair.entry.epoch = 2;
        pair.entry.slots[1].change = Some(Change::new(ChangeKind::Move, "n3".into(), 2));
        pair.start("n3", Arc::clone(&target)).await;
        let transfer = pair.transfer_of("n3");
        assert!(transfer.pursue(0).await.expect("memory"));
        assert!(target.records(1) == disks[1].records(1));
        assert_eq!(transfer.holder.progress().records(0), Some(left as u64));
    });
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_large_shard_is_repaired_purged_and_moved() {
    repair_and_move(50_000);
}

#[test]
#[ignore = "a minute and 4 GB: scripts/soak.sh large"]
fn a_shard_of_five_million_records_is_repaired_purged_and_moved() {
    repair_and_move(5_000_000);
}
