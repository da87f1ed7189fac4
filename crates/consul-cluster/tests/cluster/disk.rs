//! A storage of replicated shards in memory that counts its scans, and that can be made to fail.

use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::clock::{BoxFuture, Clock as _, ManualClock};
use consul_replication::record::{Range, Record, Version};
use consul_replication::storage::{Memory, Storage};
use futures_util::FutureExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

#[derive(Default)]
pub struct Disk {
    memory: Memory,
    /// The number of scans, and of the bytes of the records that they found.
    pub scans: AtomicUsize,
    pub scanned: AtomicUsize,
    /// Whether it stores nothing.
    pub is_full: AtomicBool,
    /// The function that fails, unknown to the others.
    pub broken: Mutex<Option<&'static str>>,
    /// Whether that function has done its work when it fails, and how many of its calls do not fail.
    pub fails_late: AtomicBool,
    pub works_before: AtomicUsize,
    /// Whether nothing of it returns.
    hangs: watch::Sender<bool>,
    /// Whether it can be flushed.
    pub flushes: AtomicBool,
    /// How long it takes to read what was kept, by which clock.
    slow: Mutex<Option<(ManualClock, Duration)>>,
    /// The same for a scan, for each record that it finds, for a purge, and for the moment at which records are there.
    pub slow_scan: Mutex<Option<(ManualClock, Duration)>>,
    pub slow_record: Mutex<Option<(ManualClock, Duration)>>,
    pub slow_purge: Mutex<Option<(ManualClock, Duration)>>,
    pub slow_apply: Mutex<Option<(ManualClock, Duration)>>,
}

impl Disk {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Lets it take this long to read what was kept.
    pub fn be_slow(&self, clock: &ManualClock, time: Duration) {
        *self.slow.lock().expect("no panic elsewhere") = Some((clock.clone(), time));
    }

    /// Lets nothing of it return until it is called with `false`.
    pub fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }

    async fn begin(&self, function: &str) -> Result<(), Error> {
        // The sender is here.
        _ = self.hangs.subscribe().wait_for(|hangs| !hangs).await;
        if self.is_full.load(Relaxed) && ["apply", "keep"].contains(&function) {
            return Err(Error::new(Kind::NotReady, "the disk is full"));
        }
        self.check(function, false)
    }

    /// After a change.
    fn end<T>(&self, function: &str, done: T) -> Result<T, Error> {
        self.check(function, true).map(|()| done)
    }

    fn check(&self, function: &str, is_late: bool) -> Result<(), Error> {
        let is_broken = *self.broken.lock().expect("no panic elsewhere") == Some(function);
        let is_due = is_broken && self.fails_late.load(Relaxed) == is_late;
        let works = |left: usize| left.checked_sub(1);
        match is_due && self.works_before.fetch_update(Relaxed, Relaxed, works).is_err() {
            true => Err(Error::new(Kind::Http, format!("{function} is broken"))),
            false => Ok(()),
        }
    }

    /// All records of the first shards, also deleted ones.
    pub fn records(&self, shards: u32) -> Vec<Record> {
        let scan = |shard| self.memory.scan(shard, Range::all(), usize::MAX).now_or_never();
        let records = (0..shards).map(|shard| scan(shard).expect("no wait").expect("memory"));
        records.flatten().collect()
    }
}

impl Storage for Disk {
    fn apply(
        &self,
        shard: u32,
        records: Vec<Record>,
    ) -> BoxFuture<'_, Result<Vec<(usize, Version)>, Error>> {
        let slow = self.slow_apply.lock().expect("no panic elsewhere").clone();
        Box::pin(async move {
            self.begin("apply").await?;
            if let Some((clock, time)) = slow {
                clock.sleep(time).await;
            }
            self.end("apply", self.memory.apply(shard, records).await?)
        })
    }

    fn scan(
        &self,
        shard: u32,
        range: Range,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>> {
        let slow = self.slow_scan.lock().expect("no panic elsewhere").clone();
        let slow_record = self.slow_record.lock().expect("no panic elsewhere").clone();
        Box::pin(async move {
            self.begin("scan").await?;
            if let Some((clock, time)) = slow {
                clock.sleep(time).await;
            }
            let found = self.memory.scan(shard, range, limit).await?;
            if let Some((clock, time)) = slow_record {
                clock.sleep(time * found.len() as u32).await;
            }
            self.scans.fetch_add(1, Relaxed);
            self.scanned.fetch_add(found.iter().map(Record::size).sum(), Relaxed);
            Ok(found)
        })
    }

    fn purge(&self, shard: u32, below: Version) -> BoxFuture<'_, Result<(), Error>> {
        let slow = self.slow_purge.lock().expect("no panic elsewhere").clone();
        Box::pin(async move {
            self.begin("purge").await?;
            if let Some((clock, time)) = slow {
                clock.sleep(time).await;
            }
            self.end("purge", self.memory.purge(shard, below).await?)
        })
    }

    fn drop_shard(&self, shard: u32) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.begin("drop").await?;
            self.end("drop", self.memory.drop_shard(shard).await?)
        })
    }

    fn keep(&self, name: &str, value: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        let keep = self.memory.keep(name, value);
        Box::pin(async move {
            self.begin("keep").await?;
            self.end("keep", keep.await?)
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<bool, Error>> {
        let flushes = self.flushes.load(Relaxed);
        Box::pin(async move { Ok(flushes) })
    }

    fn kept(&self, name: &str) -> BoxFuture<'_, Result<Option<Bytes>, Error>> {
        let slow = self.slow.lock().expect("no panic elsewhere").clone();
        let kept = self.memory.kept(name);
        Box::pin(async move {
            self.begin("kept").await?;
            if let Some((clock, time)) = slow {
                clock.sleep(time).await;
            }
            kept.await
        })
    }
}
