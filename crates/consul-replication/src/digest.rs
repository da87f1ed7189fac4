//! The comparison of two replicas: sums of their records by buckets of ids, so that only what differs is
//! sent.

use super::record::{OVERHEAD, Range, Record, Version};
use super::storage::{self, Message, Storage};
use bytes::Bytes;
use consul_api::error::Error;
use std::collections::BTreeSet;
use std::collections::HashMap;
use twox_hash::XxHash3_64;

/// The records of a page.
const PAGE: usize = 1000;

/// The records of a bucket, about.
const RECORDS_PER_BUCKET: u64 = 16;

/// The most bits of a bucket's number.
const MAX_BITS: u32 = 18;

/// The sums of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    count: u64,
    /// The sums of the smallest buckets, those of [`MAX_BITS`], that are not empty.
    smallest: HashMap<u32, u64>,
}

impl Sums {
    /// The number of records.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The bits of bucket numbers for this number of records.
    pub fn bits(&self) -> u32 {
        (self.count / RECORDS_PER_BUCKET).next_power_of_two().ilog2().min(MAX_BITS)
    }

    /// The sum of each of 2^bits buckets, of which there are up to 2^18.
    pub fn of_buckets(&self, bits: u32) -> Vec<u64> {
        let bits = bits.min(MAX_BITS);
        let mut sums = vec![0_u64; 1 << bits];
        for (number, sum) in &self.smallest {
            let place = &mut sums[(number >> (MAX_BITS - bits)) as usize];
            *place = place.wrapping_add(*sum);
        }
        sums
    }
}

/// The number of an id's bucket, one of 2^bits.
fn bucket(id: &[u8], bits: u32) -> u32 {
    let smallest = XxHash3_64::oneshot(id) >> (u64::BITS - MAX_BITS);
    smallest as u32 >> (MAX_BITS - bits.min(MAX_BITS))
}

fn sum(record: &Record) -> u64 {
    let mut bytes = Vec::with_capacity(record.id.len() + 33);
    bytes.extend_from_slice(record.version.to_string().as_bytes());
    bytes.push(u8::from(record.data.is_some()));
    bytes.extend_from_slice(&record.id);
    XxHash3_64::oneshot(&bytes)
}

/// Calls `visit` with each record of a shard after an id, but for deleted ones below the horizon, until it
/// returns false. Returns whether it never did.
async fn for_each(
    storage: &dyn Storage,
    shard: u32,
    horizon: Version,
    after: Option<Bytes>,
    mut visit: impl FnMut(Record) -> bool,
) -> Result<bool, Error> {
    let mut range = Range { after, ..Range::all() };
    loop {
        let (page, is_last) = storage::page(storage, shard, range.clone(), PAGE).await?;
        range.after = page.last().map(|record| record.id.clone());
        let mut compared = page.into_iter().filter(|it| it.data.is_some() || it.version >= horizon);
        if !compared.all(&mut visit) {
            return Ok(false);
        }
        if is_last {
            return Ok(true);
        }
    }
}

/// The sums of a shard.
pub async fn sums(storage: &dyn Storage, shard: u32, horizon: Version) -> Result<Sums, Error> {
    let mut sums = Sums::default();
    for_each(storage, shard, horizon, None, |record| {
        sums.count += 1;
        let place = sums.smallest.entry(bucket(&record.id, MAX_BITS)).or_default();
        *place = place.wrapping_add(sum(&record));
        true
    })
    .await?;
    Ok(sums)
}

/// The ids and versions of the records in some buckets of 2^bits, after an id; as many as fit into a
/// message, and whether there are no more.
pub async fn versions(
    storage: &dyn Storage,
    shard: u32,
    horizon: Version,
    bits: u32,
    buckets: &[u32],
    after: Option<Bytes>,
) -> Result<(Vec<(Bytes, Version)>, bool), Error> {
    let buckets = BTreeSet::from_iter(buckets.iter().copied());
    let mut found = Vec::new();
    let mut message = Message::default();
    let is_last = for_each(storage, shard, horizon, after, |record| {
        if !buckets.contains(&bucket(&record.id, bits)) {
            return true;
        }
        let fits = message.takes(OVERHEAD + record.id.len());
        if fits {
            found.push((record.id, record.version));
        }
        fits
    })
    .await?;
    Ok((found, is_last))
}

/// The numbers of the buckets that differ.
pub fn differing(ours: &[u64], theirs: &[u64]) -> Vec<u32> {
    let pairs = ours.iter().zip(theirs).enumerate();
    pairs.filter(|(_, (a, b))| a != b).map(|(number, _)| number as u32).collect()
}
