//! Where a node keeps its records: a trait, and a storage in memory.

use super::clock::VersionClock;
use super::record::{Range, Record, Version};
use bytes::Bytes;
use consul_api::error::Error;
use consul_process::clock::BoxFuture;
use consul_process::sync::lock;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;
use std::time::Duration;

/// The functions of an engine that keeps the records of a node's shards.
///
/// The values of [`Storage::keep`] must be on the same disk as the records, and as durable: a promise that
/// outlives the records, or records that outlive a promise, lose writes.
pub trait Storage: Send + Sync {
    /// Stores each record, unless there is one with its id that it does not replace
    /// ([`Record::replaces`]). Completes when the records are as durable as the engine says, and returns
    /// the index and the version of each record that was kept instead. May be repeated.
    fn apply(
        &self,
        shard: u32,
        records: Vec<Record>,
    ) -> BoxFuture<'_, Result<Vec<(usize, Version)>, Error>>;

    /// Up to `limit` (1 or more) records of a range, deleted ones too, in the order of ids.
    fn scan(
        &self,
        shard: u32,
        range: Range,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>>;

    /// Removes deleted records with a version below this one for good. It runs beside [`Storage::apply`] and
    /// [`Storage::scan`]: of an id that has another record when it is removed, that one stays.
    fn purge(&self, shard: u32, below: Version) -> BoxFuture<'_, Result<(), Error>>;

    /// Removes all records of a shard.
    fn drop_shard(&self, shard: u32) -> BoxFuture<'_, Result<(), Error>>;

    /// Stores bytes under a name, in place of earlier ones.
    fn keep(&self, name: &str, value: Bytes) -> BoxFuture<'_, Result<(), Error>>;

    /// The bytes stored under a name.
    fn kept(&self, name: &str) -> BoxFuture<'_, Result<Option<Bytes>, Error>>;

    /// Makes all that was stored survive the machine, if it does not anyway, before the node stops. Returns whether
    /// that can be done.
    fn flush(&self) -> BoxFuture<'_, Result<bool, Error>>;
}

/// About the most bytes of the records in a message.
pub const PAGE_BYTES: usize = 1 << 20;

/// The records of a page's first scan, and how many times as many as are known a later one asks for. Their
/// sizes tell how many more fit; the sizes of few records tell little.
const FIRST_SCAN: usize = 2;
const GROWTH: usize = 4;

/// The bytes that a message has so far.
#[derive(Debug, Default)]
pub(super) struct Message(usize);

impl Message {
    /// Whether this many bytes fit too. The first ones always do.
    pub fn takes(&mut self, bytes: usize) -> bool {
        let is_first = self.0 == 0;
        self.0 += bytes;
        is_first || self.0 <= PAGE_BYTES
    }

    /// How many more records to ask for by the sizes of those that it has.
    fn fit(&self, known: usize) -> usize {
        let average = (self.0 / known.max(1)).max(1);
        (PAGE_BYTES.saturating_sub(self.0) / average).min(GROWTH * known)
    }
}

/// Reads a storage in short steps: a request that is answered by a step has a time limit.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    storage: &'a dyn Storage,
    clock: &'a VersionClock,
    /// About how long a step takes at most.
    time: Duration,
}

impl<'a> Reader<'a> {
    /// One whose steps take about this long at most. A step is at least one scan, of a few records.
    pub fn new(storage: &'a dyn Storage, clock: &'a VersionClock, time: Duration) -> Self {
        Reader { storage, clock, time }
    }

    /// How many more records fit into the time of a step that begins now, when this many were scanned.
    fn fit(self) -> impl Fn(usize) -> usize {
        let begun = self.clock.unix_ms();
        move |known| {
            let elapsed_ms = u128::from(self.clock.unix_ms().saturating_sub(begun));
            let left_ms = self.time.as_millis().saturating_sub(elapsed_ms);
            match (known as u128 * left_ms).checked_div(elapsed_ms) {
                Some(more) => more as usize,
                None => usize::MAX,
            }
        }
    }

    /// A page of a range: up to `limit` (1 or more) records that fit into a message; whether there are no more.
    ///
    /// # Errors
    /// Errors of the storage.
    pub async fn page(
        self,
        shard: u32,
        mut range: Range,
        limit: usize,
    ) -> Result<(Vec<Record>, bool), Error> {
        let fit = self.fit();
        let mut page: Vec<Record> = Vec::new();
        let mut message = Message::default();
        while page.len() < limit {
            let count = match page.len() {
                0 => FIRST_SCAN,
                known => message.fit(known).min(fit(known)),
            };
            let count = count.min(limit - page.len());
            if count == 0 {
                break;
            }
            let found = self.storage.scan(shard, range.clone(), count).await?;
            let is_last = found.len() < count;
            for record in found {
                if !message.takes(record.size()) {
                    return Ok((page, false));
                }
                page.push(record);
            }
            if is_last {
                return Ok((page, true));
            }
            range.after = page.last().map(|record| record.id.clone());
        }
        Ok((page, false))
    }

    /// The records of the first of these ids, which are in their order, as many as fit into a message; the number of these
    /// ids. While most of what a scan finds is wanted, the next one asks for more at once.
    ///
    /// # Errors
    /// Errors of the storage.
    pub async fn records(self, shard: u32, ids: &[Bytes]) -> Result<(Vec<Record>, usize), Error> {
        let fit = self.fit();
        let mut records: Vec<Record> = Vec::new();
        let mut message = Message::default();
        let (mut ahead, mut rest, mut scanned) = (1, ids, 0);
        while let (Some(first), Some(last)) = (rest.first(), rest.last()) {
            let mut count = ahead;
            if !records.is_empty() {
                let more = message.fit(records.len()).max(1).min(fit(scanned));
                if more == 0 {
                    break;
                }
                count = count.min(more);
            }
            let to = behind(if count == 1 { first } else { last });
            let range = Range { from: first.clone(), to: Some(to), after: None };
            let found = self.storage.scan(shard, range, count).await?;
            // The scan's knowledge of ids ends with its last record, if it was full.
            let end = found.last().filter(|_| found.len() == count).map(|it| it.id.clone());
            let end = if count == 1 { Some(first.clone()) } else { end };
            let before = records.len();
            let total = found.len();
            scanned += total;
            let mut found = found.into_iter().peekable();
            while let Some(id) = rest.first().filter(|id| end.as_ref().is_none_or(|end| *id <= end))
            {
                while found.next_if(|record| record.id < *id).is_some() {}
                if let Some(record) = found.next_if(|record| record.id == *id) {
                    if !message.takes(record.size()) {
                        return Ok((records, ids.len() - rest.len()));
                    }
                    records.push(record);
                }
                rest = &rest[1..];
            }
            let is_dense = (records.len() - before) * 2 >= total;
            let next = if is_dense { ahead * GROWTH } else { ahead / GROWTH };
            ahead = next.clamp(1, rest.len().max(1));
        }
        Ok((records, ids.len() - rest.len()))
    }
}

/// The first id behind this one.
pub(super) fn behind(id: &Bytes) -> Bytes {
    [id, &b"\0"[..]].concat().into()
}

/// A storage in memory, which ends with the process.
#[derive(Debug, Default)]
pub struct Memory {
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    shards: BTreeMap<u32, BTreeMap<Bytes, (Version, Option<Bytes>)>>,
    kept: BTreeMap<String, Bytes>,
}

impl Memory {
    /// An empty storage.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Content {
    fn apply(&mut self, shard: u32, records: Vec<Record>) -> Vec<(usize, Version)> {
        let shard = self.shards.entry(shard).or_default();
        let mut kept = Vec::new();
        for (index, record) in records.into_iter().enumerate() {
            let Record { id, version, data } = record;
            match shard.get(&id) {
                Some((old, bytes)) if (version, &data) <= (*old, bytes) => {
                    if (version, &data) != (*old, bytes) {
                        kept.push((index, *old));
                    }
                }
                _ => _ = shard.insert(id, (version, data)),
            }
        }
        kept
    }

    fn scan(&self, shard: u32, range: &Range, limit: usize) -> Vec<Record> {
        let Some(shard) = self.shards.get(&shard) else { return Vec::new() };
        let start = match &range.after {
            Some(after) if *after >= range.from => Bound::Excluded(after),
            _ => Bound::Included(&range.from),
        };
        let end = range.to.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        if let (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end)) =
            (start, end)
            && start >= end
        {
            return Vec::new();
        }
        let of_range = shard.range::<Bytes, _>((start, end)).take(limit);
        let record = |(id, (version, data)): (&Bytes, &(Version, Option<Bytes>))| Record {
            id: id.clone(),
            version: *version,
            data: data.clone(),
        };
        of_range.map(record).collect()
    }
}

impl Storage for Memory {
    fn apply(
        &self,
        shard: u32,
        records: Vec<Record>,
    ) -> BoxFuture<'_, Result<Vec<(usize, Version)>, Error>> {
        Box::pin(async move { Ok(lock(&self.content).apply(shard, records)) })
    }

    fn scan(
        &self,
        shard: u32,
        range: Range,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>> {
        Box::pin(async move { Ok(lock(&self.content).scan(shard, &range, limit)) })
    }

    fn purge(&self, shard: u32, below: Version) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            if let Some(shard) = lock(&self.content).shards.get_mut(&shard) {
                shard.retain(|_, (version, data)| data.is_some() || *version >= below);
            }
            Ok(())
        })
    }

    fn drop_shard(&self, shard: u32) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            lock(&self.content).shards.remove(&shard);
            Ok(())
        })
    }

    fn keep(&self, name: &str, value: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        let name = name.to_owned();
        Box::pin(async move {
            lock(&self.content).kept.insert(name, value);
            Ok(())
        })
    }

    fn kept(&self, name: &str) -> BoxFuture<'_, Result<Option<Bytes>, Error>> {
        let name = name.to_owned();
        Box::pin(async move { Ok(lock(&self.content).kept.get(&name).cloned()) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(async { Ok(false) })
    }
}
