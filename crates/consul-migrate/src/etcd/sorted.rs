//! The keys of a range in the order of their names in Consul, which have no leading slash.

use super::{Etcd, KeyValue, Pages, Range, Refused};
use bytes::Bytes;
use std::collections::VecDeque;

/// Both forms of keys, with a leading slash and without, merged.
#[derive(Debug)]
pub struct Sorted<'a> {
    slashed: Part<'a>,
    bare: Part<'a>,
}

impl<'a> Sorted<'a> {
    /// The keys that begin with a prefix, at a revision.
    pub fn new(etcd: &'a Etcd, prefix: &[u8], revision: u64, page: u64) -> Self {
        let part = |ranges: Vec<Range>| {
            let pages = ranges.into_iter().map(|range| Pages::new(etcd, range, revision, page));
            Part { pages: pages.collect(), ready: VecDeque::new() }
        };
        let (slashed, bare) = by_form(prefix);
        Sorted { slashed: part(slashed), bare: part(bare) }
    }

    /// The next key. Of two with one name in Consul the one with the slash comes first.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn next(&mut self) -> Result<Option<KeyValue>, Refused> {
        self.slashed.fill().await?;
        self.bare.fill().await?;
        let first = match (self.slashed.ready.front(), self.bare.ready.front()) {
            (Some(slashed), Some(bare)) if slashed.key.0[1..] <= bare.key.0[..] => {
                &mut self.slashed
            }
            (Some(_), None) => &mut self.slashed,
            _ => &mut self.bare,
        };
        Ok(first.ready.pop_front())
    }
}

/// The ranges of the keys that begin with a prefix: those with a leading slash, and the others.
pub fn by_form(prefix: &[u8]) -> (Vec<Range>, Vec<Range>) {
    let of = |start: &'static [u8], end: &'static [u8]| Range {
        start: Bytes::from_static(start),
        end: Bytes::from_static(end),
    };
    match prefix.first() {
        Some(b'/') => (vec![Range::prefix(prefix)], Vec::new()),
        Some(_) => (Vec::new(), vec![Range::prefix(prefix)]),
        None => (vec![of(b"/", b"0")], vec![of(b"\0", b"/"), of(b"0", b"\0")]),
    }
}

/// The keys of ranges that follow each other.
#[derive(Debug)]
struct Part<'a> {
    pages: VecDeque<Pages<'a>>,
    ready: VecDeque<KeyValue>,
}

impl Part<'_> {
    /// Reads until a key is ready, or there is none any more.
    async fn fill(&mut self) -> Result<(), Refused> {
        while self.ready.is_empty() {
            let Some(pages) = self.pages.front_mut() else { return Ok(()) };
            match pages.next().await? {
                Some(page) => self.ready = page.kvs.into(),
                None => _ = self.pages.pop_front(),
            }
        }
        Ok(())
    }
}
