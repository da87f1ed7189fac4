//! All keys of a range at one revision, page by page.

use super::bound::Bound;
use super::message::RangeResponse;
use super::{Etcd, KeyValue, Range, Refused};
use bytes::{BufMut as _, Bytes, BytesMut};

/// The keys of the first page.
const FIRST: u64 = 1000;

/// The size of a page's keys and values that the next page is to have.
const WANTED_BYTES: usize = 2 << 20;

/// The keys of one page, in bytewise order.
#[derive(Debug)]
pub struct Page {
    pub kvs: Vec<KeyValue>,
    /// Where the next page starts, if there is one; `None` after the last one.
    pub next: Option<Bytes>,
}

/// Reads pages one after the other, at one revision.
#[derive(Debug)]
pub struct Pages<'a> {
    etcd: &'a Etcd,
    /// What is left, up to the bound.
    range: Range,
    bound: Box<Bound>,
    revision: u64,
    limit: u64,
    most: u64,
    is_at_end: bool,
}

impl<'a> Pages<'a> {
    /// Pages of up to `most` keys.
    pub fn new(etcd: &'a Etcd, range: Range, revision: u64, most: u64) -> Self {
        let bound = Box::new(Bound::new(&range.end));
        Pages { etcd, range, bound, revision, limit: FIRST.min(most), most, is_at_end: false }
    }

    /// The next page; `None` after the last one.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn next(&mut self) -> Result<Option<Page>, Refused> {
        while !self.is_at_end {
            let answer = match self.etcd.range(&self.range, self.limit, self.revision).await {
                Err(Refused::TooLarge) if self.limit > 1 => {
                    self.limit /= 2;
                    continue;
                }
                answer => answer?,
            };
            self.go_on(&answer);
            if !answer.kvs.is_empty() {
                let next = (!self.is_at_end).then(|| self.range.start.clone());
                return Ok(Some(Page { kvs: answer.kvs, next }));
            }
        }
        Ok(None)
    }

    /// Chooses what is read next.
    fn go_on(&mut self, answer: &RangeResponse) {
        let kvs = &answer.kvs;
        self.adapt(kvs);
        if let Some(last) = kvs.last().filter(|_| answer.more) {
            self.range.start = successor(&last.key.0);
            self.bound.continued(kvs, answer.count.0, self.limit);
        } else if self.bound.is_last() {
            self.is_at_end = true;
        } else {
            self.range.start = self.bound.end().clone();
            self.bound.ended(kvs, self.limit);
        }
        self.range.end = self.bound.end().clone();
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

/// The first key after this one.
fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.put_u8(0);
    next.freeze()
}
