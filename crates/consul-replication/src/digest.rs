//! The comparison of two replicas, a part of the shard after the other: sums of their records by buckets of ids, so that
//! only what differs is sent.

use super::record::{OVERHEAD, Range, Version};
use super::storage::{Message, Reader, behind};
use bytes::Bytes;
use consul_api::error::Error;
use std::collections::{BTreeMap, BTreeSet};
use twox_hash::XxHash3_64;

/// The records of a part of the replica that compares.
pub const PAGE: usize = 2000;

/// The records of the other one, which may have more between two ids.
pub const OTHER_PAGE: usize = 2 * PAGE;

/// The records of a bucket, about.
const RECORDS_PER_BUCKET: usize = 16;

/// The most bits of a bucket's number.
const MAX_BITS: u32 = 10;

/// A part of a shard: the records that are read in one step, so that a comparison of a large shard, or by a slow storage,
/// is a matter of many short requests.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// The records, each with whether it is deleted.
    records: Vec<(Bytes, Version, bool)>,
    /// The last id of the part, also if no record has it; `None`: it goes on to the end of the shard.
    pub through: Option<Bytes>,
}

impl Part {
    /// The records after an id and up to another one, which is that of the last one of a page if there are more.
    ///
    /// # Errors
    /// Errors of the storage.
    pub async fn read(
        reader: Reader<'_>,
        shard: u32,
        after: Option<Bytes>,
        through: Option<Bytes>,
        limit: usize,
    ) -> Result<Part, Error> {
        let range = Range { after, to: through.as_ref().map(behind), ..Range::all() };
        let (page, is_last) = reader.page(shard, range, limit).await?;
        let last = page.last().map(|record| record.id.clone());
        let records = page.into_iter().map(|it| (it.id, it.version, it.data.is_none())).collect();
        Ok(Part { records, through: if is_last { through } else { last } })
    }

    /// Ends it where another part ends, if that is earlier.
    pub fn cut(&mut self, through: Option<Bytes>) {
        let Some(end) = through else { return };
        if self.through.as_ref().is_none_or(|own| *own > end) {
            self.records.retain(|(id, ..)| *id <= end);
            self.through = Some(end);
        }
    }

    /// The records but for deleted ones below the horizon.
    fn compared(&self, horizon: Version) -> impl Iterator<Item = &(Bytes, Version, bool)> {
        self.records
            .iter()
            .filter(move |(_, version, is_deleted)| !is_deleted || *version >= horizon)
    }

    /// Their number.
    pub fn count(&self, horizon: Version) -> usize {
        self.compared(horizon).count()
    }

    /// The bits of bucket numbers for these records.
    pub fn bits(&self, horizon: Version) -> u32 {
        let buckets = self.count(horizon) / RECORDS_PER_BUCKET;
        buckets.next_power_of_two().ilog2().min(MAX_BITS)
    }

    /// The sum of each of 2^bits buckets, up to 2^10.
    pub fn sums(&self, bits: u32, horizon: Version) -> Vec<u64> {
        let mut sums = vec![0_u64; 1 << bits.min(MAX_BITS)];
        for record in self.compared(horizon) {
            let place = &mut sums[bucket(&record.0, bits) as usize];
            *place = place.wrapping_add(sum(record));
        }
        sums
    }

    /// The versions of the records in some buckets.
    pub fn versions(
        &self,
        bits: u32,
        buckets: &[u32],
        horizon: Version,
    ) -> BTreeMap<Bytes, Version> {
        let buckets = BTreeSet::from_iter(buckets.iter().copied());
        let wanted = self.compared(horizon).filter(|(id, ..)| buckets.contains(&bucket(id, bits)));
        wanted.map(|(id, version, _)| (id.clone(), *version)).collect()
    }
}

/// The number of an id's bucket, one of 2^bits.
fn bucket(id: &[u8], bits: u32) -> u32 {
    let smallest = XxHash3_64::oneshot(id) >> (u64::BITS - MAX_BITS);
    smallest as u32 >> (MAX_BITS - bits.min(MAX_BITS))
}

fn sum((id, version, is_deleted): &(Bytes, Version, bool)) -> u64 {
    let mut bytes = Vec::with_capacity(id.len() + 33);
    bytes.extend_from_slice(version.to_string().as_bytes());
    bytes.push(u8::from(!is_deleted));
    bytes.extend_from_slice(id);
    XxHash3_64::oneshot(&bytes)
}

/// The ids and versions of the records in some buckets of 2^bits, after an id and up to another one; as many as fit into
/// a message, and whether there are no more.
///
/// # Errors
/// Errors of the storage.
pub async fn versions(
    reader: Reader<'_>,
    shard: u32,
    (bits, buckets): (u32, &[u32]),
    horizon: Version,
    mut after: Option<Bytes>,
    through: Option<Bytes>,
) -> Result<(Vec<(Bytes, Version)>, bool), Error> {
    let mut found = Vec::new();
    let mut message = Message::default();
    loop {
        let part = Part::read(reader, shard, after, through.clone(), OTHER_PAGE).await?;
        for (id, version) in part.versions(bits, buckets, horizon) {
            if !message.takes(OVERHEAD + id.len()) {
                return Ok((found, false));
            }
            found.push((id, version));
        }
        if part.through == through {
            return Ok((found, true));
        }
        after = part.through;
    }
}

/// The numbers of the buckets that differ.
pub fn differing(ours: &[u64], theirs: &[u64]) -> Vec<u32> {
    let pairs = ours.iter().zip(theirs).enumerate();
    pairs.filter(|(_, (a, b))| a != b).map(|(number, _)| number as u32).collect()
}
