//! The cost of a page of a replica for its storage.

use crate::disk::Disk;
use bytes::Bytes;
use consul_replication::clock::VersionClock;
use consul_replication::holder::Holder;
use consul_replication::map::{self, Entry, Place, Slot};
use consul_replication::message::{Action, Outcome, Request};
use consul_replication::record::{HybridTime, Range, Record, Version};
use consul_replication::rules::Rules;
use consul_replication::storage::{PAGE_BYTES, Storage as _};
use futures_util::FutureExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The cost of reading all records in pages.
struct Cost {
    pages: usize,
    scans: usize,
    /// The bytes that were scanned for each byte that was returned.
    scanned: f64,
}

/// Reads records of these sizes in pages of up to 1,000.
fn cost(sizes: impl Iterator<Item = usize>) -> Cost {
    let storage = Arc::new(Disk::default());
    let version = Version::first_of(HybridTime::from_ms(1));
    let record = |(number, size): (usize, usize)| Record {
        id: format!("{number:08}").into(),
        version,
        data: Some(vec![0; size].into()),
    };
    let records: Vec<Record> = sizes.enumerate().map(record).collect();
    let ids: Vec<Bytes> = records.iter().map(|record| record.id.clone()).collect();
    storage.apply(0, records).now_or_never().expect("memory does not wait").expect("room");
    let clock = VersionClock::new(|| 0, std::time::Duration::from_secs(1), 1);
    let own: Arc<Disk> = Arc::clone(&storage);
    let holder = Holder::new("n1".into(), map::Disk(1), own, Arc::new(clock), Rules::default());
    let place = Place { node: "n1".into(), disk: map::Disk(1), is_first: true };
    let entry = Entry::new(1, vec![Slot::of(place)]);
    let (mut pages, mut read, mut returned) = (0, Vec::new(), 0);
    loop {
        let range = Range { after: read.last().cloned(), ..Range::all() };
        let action = Action::Read { range, limit: 1000 };
        let reply = holder.serve(Request { store: None, shard: 0, entry: entry.clone(), action });
        let reply = reply.now_or_never().expect("memory does not wait");
        let Outcome::Page { records, is_last, .. } = reply.outcome else {
            panic!("a page: {:?}", reply.outcome)
        };
        let bytes: usize = records.iter().map(Record::size).sum();
        assert!(bytes <= PAGE_BYTES || records.len() == 1, "{bytes} in {} records", records.len());
        pages += 1;
        returned += bytes;
        read.extend(records.into_iter().map(|record| record.id));
        if is_last {
            break;
        }
    }
    assert_eq!(read, ids);
    let scanned = storage.scanned.load(Relaxed) as f64 / returned as f64;
    Cost { pages, scans: storage.scans.load(Relaxed), scanned }
}

#[test]
fn a_page_scans_about_twice_what_it_returns_whatever_the_size_of_records() {
    for size in [10, 100, 1000, 10_000, 100_000, 300_000, 600_000, 1 << 20] {
        let bytes = 20 * PAGE_BYTES;
        let Cost { pages, scans, scanned } = cost((0..(bytes / size).min(5000)).map(|_| size));
        assert!(scanned <= 2.1, "records of {size} bytes: {scanned:.1} times scanned");
        assert!(scans <= 7 * pages, "records of {size} bytes: {scans} scans for {pages} pages");
    }
}

#[test]
fn pages_of_records_of_any_size_scan_about_twice_what_they_return() {
    let mut rng = fastrand::Rng::with_seed(1);
    let sizes: Vec<usize> =
        (0..1000).map(|_| 10_f64.powf(1.0 + 5.0 * rng.f64()) as usize).collect();
    let Cost { scanned, .. } = cost(sizes.into_iter());
    assert!(scanned <= 2.2, "{scanned:.1} times scanned");
    // Small ones, but for one in 50.
    let Cost { scanned, .. } =
        cost((0..3000).map(|it| if it % 50 == 49 { 1_000_000 } else { 100 }));
    assert!(scanned <= 2.2, "{scanned:.1} times scanned");
}

/// A replica with these records.
fn replica(records: Vec<Record>) -> (Arc<Disk>, Holder) {
    let disk = Arc::new(Disk::default());
    disk.apply(0, records).now_or_never().expect("memory does not wait").expect("room");
    let clock = VersionClock::new(|| 0, std::time::Duration::from_secs(1), 1);
    let own: Arc<Disk> = Arc::clone(&disk);
    let holder = Holder::new("n1".into(), map::Disk(1), own, Arc::new(clock), Rules::default());
    (disk, holder)
}

fn record(number: usize, size: usize) -> Record {
    let version = Version::first_of(HybridTime::from_ms(1));
    Record { id: format!("{number:08}").into(), version, data: Some(vec![0; size].into()) }
}

/// The records of a replica with these ids, asked for until all are there.
fn records_of(holder: &Holder, ids: &[Bytes]) -> Vec<Record> {
    let (mut found, mut rest) = (Vec::new(), ids);
    while !rest.is_empty() {
        let asked = holder.reader().records(0, rest).now_or_never();
        let (records, count) = asked.expect("memory does not wait").expect("memory");
        let bytes: usize = records.iter().map(Record::size).sum();
        assert!(count > 0 && (bytes <= PAGE_BYTES || records.len() == 1), "{count}, {bytes} bytes");
        found.extend(records);
        rest = &rest[count..];
    }
    found
}

#[test]
fn the_records_of_ids_are_found_whatever_is_between_them() {
    for seed in 0..500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (there, asked) = (rng.f64(), rng.f64());
        let large = rng.f64() * 0.05;
        let mut records = Vec::new();
        for number in 0..rng.usize(1..400) {
            if rng.f64() < there {
                let size = if rng.f64() < large { rng.usize(1..PAGE_BYTES) } else { 10 };
                records.push(record(number, size));
            }
        }
        let ids: Vec<Bytes> =
            (0..420).filter(|_| rng.f64() < asked).map(|it| record(it, 0).id).collect();
        let wanted: Vec<Record> =
            records.iter().filter(|it| ids.contains(&it.id)).cloned().collect();
        let (_, holder) = replica(records);
        assert!(records_of(&holder, &ids) == wanted, "seed {seed}");
    }
}

#[test]
fn records_that_lie_together_take_few_scans_and_others_little_more_than_their_bytes() {
    let records: Vec<Record> = (0..10_000).map(|number| record(number, 100)).collect();
    let (mut scans, mut scanned) = (Vec::new(), Vec::new());
    for apart in [1, 10, 1000] {
        let (disk, holder) = replica(records.clone());
        let ids: Vec<Bytes> = records.iter().step_by(apart).map(|it| it.id.clone()).collect();
        let bytes: usize = records_of(&holder, &ids).iter().map(Record::size).sum();
        scans.push(disk.scans.load(Relaxed) as f64 / ids.len() as f64);
        scanned.push(disk.scanned.load(Relaxed) as f64 / bytes as f64);
    }
    assert!(scans[0] < 0.01 && scans[1] <= 1.0 && scans[2] <= 1.0, "{scans:?}");
    assert!(scanned.iter().all(|it| *it <= 3.0), "{scanned:?}");
}
