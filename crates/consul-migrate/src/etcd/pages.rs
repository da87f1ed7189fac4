//! All keys of a range at one revision, page by page.

use super::bound::Bound;
use super::{Etcd, KeyValue, Range, Refused};
use bytes::Bytes;

/// The keys of the first page.
const FIRST: u64 = 1000;

/// The size of a page's keys and values that the next page is to have.
const WANTED_BYTES: usize = 2 << 20;

/// The keys of one page, in bytewise order.
#[derive(Debug)]
pub struct Page {
    /// One key or more, each with its value.
    pub kvs: Vec<KeyValue>,
    /// Where the next page starts, if there is one; `None` after the last one.
    pub next: Option<Bytes>,
}

/// Reads pages one after the other, at one revision.
#[derive(Debug)]
pub struct Pages<'a> {
    etcd: &'a Etcd,
    /// The rest of the range.
    bound: Box<Bound>,
    revision: u64,
    limit: u64,
    most: u64,
}

impl<'a> Pages<'a> {
    /// Pages of up to `most` keys.
    pub fn new(etcd: &'a Etcd, range: Range, revision: u64, most: u64) -> Self {
        Pages { etcd, bound: Box::new(Bound::new(range)), revision, limit: FIRST.min(most), most }
    }

    /// The next page; `None` after the last one.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn next(&mut self) -> Result<Option<Page>, Refused> {
        while let Some(range) = self.bound.range() {
            let answer = match self.etcd.range(range, self.limit, self.revision).await {
                Err(Refused::TooLarge) if self.limit > 1 => {
                    self.limit /= 2;
                    continue;
                }
                answer => answer?,
            };
            self.adapt(&answer.kvs);
            self.bound.answered(&answer.kvs, answer.more, answer.count.0, self.limit);
            if !answer.kvs.is_empty() {
                let next = self.bound.range().map(|range| range.start.clone());
                return Ok(Some(Page { kvs: answer.kvs, next }));
            }
        }
        Ok(None)
    }

    /// Chooses the size of the next page by the sizes of the keys in this one.
    fn adapt(&mut self, kvs: &[KeyValue]) {
        let size: usize = kvs.iter().map(KeyValue::size).sum();
        if let Some(each) = size.checked_div(kvs.len()) {
            let fitting = (WANTED_BYTES / each.max(1)) as u64;
            self.limit = fitting.clamp(1, self.most);
        }
    }
}
