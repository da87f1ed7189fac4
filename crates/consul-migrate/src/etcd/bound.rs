//! The ranges of the requests that read all keys of a range.
//!
//! etcd visits all keys of the range that a request names, to count them, also those beyond its limit. With one range
//! for all pages the visits grow with the square of the number of keys, so a request names a range of some pages: its
//! width is guessed from the keys that were read, and the count in the answer tells how good the guess was. Ranges
//! without keys are followed by wider ones, by factors that grow up to the widths of gaps before: so a gap takes few
//! requests, also a gap that begins below a long common prefix.

use super::{KeyValue, Range, after};
use bytes::{BufMut as _, Bytes, BytesMut};
use std::collections::BTreeMap;

/// The pages that a range is to have, and the most.
const PAGES: u64 = 1;
const MOST_PAGES: u64 = 2;

/// The bytes of a key that make its position.
const BYTES: u32 = 15;

/// How much wider a range is than one with keys before it, at most.
const MOST_GROWTH: u128 = 16;

/// By which power of two a range is wider than the first one without keys before it.
const GROWTH: u32 = 1;

/// The rest of a range, and the part of it that the next request names.
#[derive(Debug)]
pub struct Bound {
    range: Range,
    /// The end of all.
    last: Bytes,
    is_over: bool,
    /// Keys have their positions in the bytes from this one on; those before it are alike.
    depth: usize,
    /// The width of the present range, in positions.
    width: u128,
    /// The keys that were read of it.
    read: u64,
    /// Where the first range without keys before the present one begins.
    empty: Option<Bytes>,
    /// By which power of two the next range is wider if the present one has no keys.
    growth: u32,
    /// For each depth the width of its last gap.
    gaps: BTreeMap<usize, u128>,
}

impl Bound {
    pub fn new(range: Range) -> Self {
        Bound {
            last: range.end.clone(),
            range,
            is_over: false,
            depth: 0,
            width: 1,
            read: 0,
            empty: None,
            growth: GROWTH,
            gaps: BTreeMap::new(),
        }
    }

    /// The range of the next request; `None` when all is read.
    pub fn range(&self) -> Option<&Range> {
        (!self.is_over).then_some(&self.range)
    }

    /// Goes on after a page, after which the range has `more` keys or none: `count` is their number with the page's keys.
    pub fn answered(&mut self, kvs: &[KeyValue], more: bool, count: u64, limit: u64) {
        self.add(kvs);
        if let Some(last) = kvs.last().filter(|_| more) {
            if let [first, .., last] = kvs
                && count > MOST_PAGES * limit
            {
                (self.depth, self.width) = distance(&first.key.0, &last.key.0);
                self.read = kvs.len() as u64;
                self.go_on(last.key.0.clone(), limit);
            }
            self.range.start = successor(&last.key.0);
        } else if self.range.end == self.last {
            self.is_over = true;
        } else {
            let end = self.range.end.clone();
            self.go_on(end.clone(), limit);
            self.range.start = end;
        }
    }

    /// Counts the keys of a page. The first one after a gap tells its width.
    fn add(&mut self, kvs: &[KeyValue]) {
        self.read += kvs.len() as u64;
        if let Some(first) = kvs.first()
            && let Some(from) = self.empty.take()
        {
            let (depth, width) = distance(&from, &first.key.0);
            self.gaps.insert(depth, width);
            self.growth = GROWTH;
        }
    }

    /// Chooses the end of the range that begins after `from`.
    fn go_on(&mut self, from: Bytes, limit: u64) {
        if self.read > 0 {
            let widest = self.width.saturating_mul(MOST_GROWTH);
            let per_key = self.width / u128::from(self.read);
            self.width = per_key.saturating_mul(u128::from(PAGES * limit)).clamp(1, widest);
        } else {
            self.empty.get_or_insert(self.range.start.clone());
            self.widen();
        }
        self.read = 0;
        let next = self.beyond(&from);
        let is_before_last = self.last[..] == *b"\0" || next < self.last;
        self.range.end =
            if next[..] != *b"\0" && is_before_last { next } else { self.last.clone() };
    }

    /// Makes the next range wider than the present one, which had no keys.
    fn widen(&mut self) {
        let power = |depth, width: u128| i64::from(width.ilog2()) - 8 * depth as i64;
        let now = power(self.depth, self.width);
        let bits = self.width.ilog2() + self.growth;
        // A width above all positions has them begin some bytes before.
        let bytes = (bits + 1).saturating_sub(8 * BYTES).div_ceil(8);
        let next = match self.depth.checked_sub(bytes as usize) {
            Some(depth) => (depth, 1 << (bits - 8 * bytes)),
            None => (0, 1 << (8 * BYTES)),
        };
        let wanted = now + i64::from(self.growth);
        let mut gaps = self.gaps.iter().rev().map(|(depth, width)| (*depth, *width));
        let gap = gaps.find(|(depth, width)| (now + 1..wanted).contains(&power(*depth, *width)));
        self.growth = if gap.is_some() { GROWTH } else { self.growth.saturating_mul(2) };
        (self.depth, self.width) = gap.unwrap_or(next);
    }

    /// The end of a range of the present width.
    fn beyond(&mut self, from: &[u8]) -> Bytes {
        let depth = self.depth.min(from.len());
        let end = position(from, depth).saturating_add(self.width);
        if end < 1 << (8 * BYTES) {
            return [&from[..depth], &end.to_be_bytes()[1..]].concat().into();
        }
        // All keys with these bytes, and then positions begin some bytes before.
        let next = after(&from[..depth]);
        let bits = 8 * (depth + 1 - next.len()) as u32;
        self.depth = next.len() - 1;
        self.width = self.width.checked_shr(bits).unwrap_or(0).max(1);
        next
    }
}

/// The depth at which two keys differ, and how far they are apart: one at least, also if they differ in zero bytes alone.
fn distance(one: &[u8], other: &[u8]) -> (usize, u128) {
    let depth = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    (depth, position(other, depth).saturating_sub(position(one, depth)).max(1))
}

/// The first key after this one.
fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.put_u8(0);
    next.freeze()
}

fn position(key: &[u8], depth: usize) -> u128 {
    let mut bytes = [0; 16];
    for (byte, place) in key.iter().skip(depth).zip(&mut bytes[1..]) {
        *place = *byte;
    }
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    type Keys = BTreeSet<Vec<u8>>;

    /// Reads keys in pages; returns the keys, the requests and the keys that etcd visits.
    fn read(keys: &Keys, limit: usize, start: &[u8], end: &[u8]) -> (Vec<Vec<u8>>, usize, usize) {
        let [start, end] = [start, end].map(Bytes::copy_from_slice);
        let mut bound = Bound::new(Range { start, end });
        let (mut found, mut requests, mut visits) = (Vec::new(), 0, 0);
        while let Some(Range { start, end }) = bound.range() {
            assert!(end[..] == *b"\0" || start <= end, "{start:?} {end:?}");
            let range: Vec<_> = keys
                .range(start.to_vec()..)
                .take_while(|key| end[..] == *b"\0" || key[..] < end[..])
                .collect();
            let page: Vec<_> = range
                .iter()
                .take(limit)
                .map(|key| {
                    let mut kv = KeyValue::default();
                    kv.key.0 = Bytes::copy_from_slice(key);
                    kv
                })
                .collect();
            (requests, visits) = (requests + 1, visits + range.len());
            found.extend(page.iter().map(|kv| kv.key.0.to_vec()));
            let more = page.len() < range.len();
            bound.answered(&page, more, range.len() as u64, limit as u64);
        }
        (found, requests, visits)
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let part =
            prop_oneof!["[0-9]{1,6}", "[a-c]{1,3}", "(long/){1,9}"].prop_map(String::into_bytes);
        let odd = prop::collection::vec(prop_oneof![Just(0), Just(0xff), any::<u8>()], 1..20);
        prop::collection::vec(prop_oneof![9 => part, 1 => odd], 1..4)
            .prop_map(|parts| parts.join(&b'/'))
    }

    #[test]
    fn keys_that_differ_in_zero_bytes_alone_are_read() {
        let keys: Keys = (0..40).map(|zeros| [b"a".to_vec(), vec![0; zeros]].concat()).collect();
        let (found, ..) = read(&keys, 2, b"\0", b"\0");
        assert_eq!(found, keys.into_iter().collect::<Vec<_>>());
    }

    /// A case that the property below has found.
    #[test]
    fn a_few_short_keys_are_read() {
        let keys: Keys = ["0", "00", "1", "5", "a", "b", "long/"].map(|key| key.into()).into();
        let (found, ..) = read(&keys, 3, b"\0", b"\0");
        assert_eq!(found, keys.into_iter().collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn all_keys_are_read_once(keys in prop::collection::btree_set(key(), 0..300), limit in 1_usize..20) {
            let (found, ..) = read(&keys, limit, b"\0", b"\0");
            prop_assert_eq!(found, keys.into_iter().collect::<Vec<_>>());
        }
    }

    /// Numbers that are spread over directories, that are in few, and one directory among others.
    #[test]
    fn etcd_visits_few_keys_more_than_it_returns() {
        let spread = (0..100_000).map(|n| format!("/app/{:02}/{n:06}", n % 50)).collect::<Vec<_>>();
        let few = (0..100_000).map(|n| format!("/{}/{n}", n / 30_000)).collect();
        let many = (0..100_000).map(|n| format!("/registry/{}/pod-{n}/spec", n / 7)).collect();
        let among = (0..100_000)
            .map(|n| if n % 500 == 0 { format!("/{n}") } else { format!("/m/{n:x}") })
            .collect();
        for names in [spread, few, many, among] {
            assert_read(names, 5000, 300, 4);
        }
    }

    /// After each directory the next key is many bytes before in its name.
    #[test]
    fn a_gap_below_a_long_common_prefix_takes_few_requests() {
        let deep = |length: usize| {
            let names = (0..25_000).map(|n| format!("/{}/{n:05}", "x".repeat(length)));
            names.chain((0..10).map(|n| format!("/z{n}"))).collect()
        };
        let directory = |n: u32| {
            format!(
                "{:x}",
                u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) | 1 << 127
            )
        };
        let scattered = (0..100_000)
            .map(|n| format!("/registry/{}/{:05x}", directory(n % 30), n / 30))
            .collect();
        let nested = (0..100_000)
            .map(|n| format!("/registry/{}/{}/{:05x}", directory(n % 5), directory(n % 35), n / 35))
            .collect();
        assert_read(deep(60), 5000, 40, 4);
        assert_read(deep(1000), 5000, 40, 4);
        assert_read(scattered, 500, 1000, 8);
        assert_read(nested, 500, 1000, 8);
    }

    fn assert_read(names: Vec<String>, limit: usize, most_requests: usize, most_visits: usize) {
        let keys: Keys = names.into_iter().map(String::into_bytes).collect();
        let (found, requests, visits) = read(&keys, limit, b"/", b"0");
        assert_eq!(found.len(), keys.len());
        assert!(requests <= most_requests, "{requests}");
        assert!(visits <= most_visits * keys.len(), "{visits}");
    }
}
