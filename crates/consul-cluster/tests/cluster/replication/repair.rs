//! What a repair of a large shard sends.

use bytes::Bytes;
use consul_api::error::Error;
use consul_process::clock::{BoxFuture, ManualClock};
use consul_replication::clock::VersionClock;
use consul_replication::holder::Holder;
use consul_replication::map::{Disk, Entry, NodeId, Place, Quorums, Slot};
use consul_replication::message::{Reply, Request};
use consul_replication::peers::Peers;
use consul_replication::record::{HybridTime, Range, Record, Version};
use consul_replication::rules::Rules;
use consul_replication::storage::{Memory, Storage as _};
use consul_replication::transfer::Transfer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const RECORDS: usize = 100_000;
const DIFFERING: usize = 100;

/// Two nodes, and the bytes of what they send each other.
#[derive(Clone, Default)]
struct Pair {
    holders: BTreeMap<NodeId, Arc<Holder>>,
    sent: Arc<AtomicUsize>,
}

impl Peers for Pair {
    fn ask(&self, node: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>> {
        let (holder, sent) = (Arc::clone(&self.holders[node]), Arc::clone(&self.sent));
        let is_remote = &**node != "n1";
        Box::pin(async move {
            let asked = request.encode().len();
            let reply = holder.serve(request).await;
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

#[test]
fn a_repair_sends_little_more_than_what_differs() {
    let clock = ManualClock::new();
    let place = |node: &str| Place { node: node.into(), disk: Disk(1), is_first: true };
    let slots = ["n1", "n2"].map(|node| Slot::of(place(node))).to_vec();
    let entry = Entry::new(1, slots);
    let disks = ["n1", "n2"].map(|node| (node, Arc::new(Memory::new())));
    let mut pair = Pair::default();
    for (node, disk) in &disks {
        let versions = VersionClock::new(|| 1000, Duration::from_secs(60), 1);
        let (disk, rules) = (Arc::clone(disk), Rules::default());
        let holder = Holder::new((*node).into(), Disk(1), disk, Arc::new(versions), rules);
        pair.holders.insert((*node).into(), Arc::new(holder));
    }
    let work = async {
        for holder in pair.holders.values() {
            holder.learn(0, &entry).await.expect("memory");
        }
        for (_, disk) in &disks {
            let records = (0..RECORDS).map(|number| record(number, 10)).collect();
            disk.apply(0, records).await.expect("memory");
        }
        let every = RECORDS / DIFFERING;
        let newer = (0..DIFFERING).map(|it| record(it * every + it * 7 % every, 20)).collect();
        disks[1].1.apply(0, newer).await.expect("memory");
        let transfer = Transfer {
            holder: Arc::clone(&pair.holders["n1"]),
            peers: Arc::new(pair.clone()),
            quorums: Quorums { replicas: 2, write: 2, read: 1 },
            page: 1000,
        };
        let repaired = transfer.repair(0, Version::default()).await;
        let (compared, is_whole) = repaired.expect("memory");
        assert!(is_whole);
        assert_eq!((compared.fetched, compared.sent), (DIFFERING, 0));
        let all = |disk: Arc<Memory>| async move {
            disk.scan(0, Range::all(), usize::MAX).await.expect("memory")
        };
        assert!(all(Arc::clone(&disks[0].1)).await == all(Arc::clone(&disks[1].1)).await);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(clock.drive(work));
    let whole: usize = record(0, 10).id.len() + 100 + 16;
    let (sent, whole) = (pair.sent.load(Ordering::Relaxed), whole * RECORDS);
    assert!(sent * 50 <= whole, "{sent} of {whole} bytes");
}
