//! Where the range of a request ends.
//!
//! etcd visits all keys of the range that a request names, to count them, also those beyond its limit. With one range
//! for all pages the visits grow with the square of the number of keys, so a request names a range of some pages: its
//! width is guessed from the keys that were read, and the count in the answer tells how good the guess was.

use super::{KeyValue, after};
use bytes::Bytes;

/// The pages that a range is to have, and the most.
const PAGES: u64 = 1;
const MOST_PAGES: u64 = 2;

/// The bytes of a key that make its position.
const BYTES: u32 = 15;

/// How much wider a range is than the one before, at most.
const GROWTH: u128 = 16;

/// The end of the next request's range.
#[derive(Debug)]
pub struct Bound {
    /// The end of all.
    last: Bytes,
    now: Bytes,
    /// Keys have their positions in the bytes from this one on; those before it are alike.
    depth: usize,
    /// The width of the present range, in positions, and that of the last one with keys.
    width: u128,
    usual: u128,
    /// The keys that were read of it.
    read: u64,
}

impl Bound {
    pub fn new(end: &Bytes) -> Self {
        Bound { last: end.clone(), now: end.clone(), depth: 0, width: 1, usual: 1, read: 0 }
    }

    pub fn end(&self) -> &Bytes {
        &self.now
    }

    pub fn is_last(&self) -> bool {
        self.now == self.last
    }

    /// The range goes on after this page: `count` is the number of its keys from the page's first one on.
    pub fn continued(&mut self, kvs: &[KeyValue], count: u64, limit: u64) {
        self.read += kvs.len() as u64;
        let [first, .., last] = kvs else { return };
        if count <= MOST_PAGES * limit {
            return;
        }
        let (first, last) = (&first.key.0, &last.key.0);
        self.depth = first.iter().zip(last).take_while(|(one, other)| one == other).count();
        // One, also for keys that differ in zero bytes alone.
        self.width = position(last, self.depth).saturating_sub(position(first, self.depth)).max(1);
        self.read = kvs.len() as u64;
        self.go_on(&last.clone(), limit);
    }

    /// The range ends with this page; the next one begins where it ended.
    pub fn ended(&mut self, kvs: &[KeyValue], limit: u64) {
        self.read += kvs.len() as u64;
        self.go_on(&self.now.clone(), limit);
    }

    fn go_on(&mut self, from: &Bytes, limit: u64) {
        let widest = self.width.saturating_mul(GROWTH);
        if self.read > 0 {
            let per_key = self.width / u128::from(self.read);
            self.usual = per_key.saturating_mul(u128::from(PAGES * limit)).clamp(1, widest);
        }
        self.width = if self.read > 0 { self.usual } else { widest };
        self.read = 0;
        let next = self.beyond(from);
        let is_before_last = self.last[..] == *b"\0" || next < self.last;
        self.now = if next[..] != *b"\0" && is_before_last { next } else { self.last.clone() };
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
        let bits = 8 * (self.depth + 1 - next.len()) as u32;
        self.depth = next.len() - 1;
        self.usual = self.usual.checked_shr(bits).unwrap_or(0).max(GROWTH);
        self.width = self.usual / GROWTH;
        next
    }
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

    /// Reads keys in pages as [`super::super::Pages`] does; returns the keys, the requests and the keys that etcd visits.
    fn read(keys: &Keys, limit: usize, start: &[u8], end: &[u8]) -> (Vec<Vec<u8>>, usize, usize) {
        let mut start = start.to_vec();
        let mut bound = Bound::new(&Bytes::copy_from_slice(end));
        let (mut found, mut requests, mut visits) = (Vec::new(), 0, 0);
        loop {
            let end = bound.end().clone();
            assert!(end[..] == *b"\0" || start[..] <= end[..], "{start:?} {end:?}");
            let range: Vec<_> = keys
                .range(start.clone()..)
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
            if page.len() < range.len() {
                start = [&page[page.len() - 1].key.0[..], b"\0"].concat();
                bound.continued(&page, range.len() as u64, limit as u64);
            } else if bound.is_last() {
                return (found, requests, visits);
            } else {
                start = end.to_vec();
                bound.ended(&page, limit as u64);
            }
        }
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
            let keys: Keys = names.into_iter().map(String::into_bytes).collect();
            let (found, requests, visits) = read(&keys, 5000, b"/", b"0");
            assert_eq!(found.len(), keys.len());
            assert!(requests <= 300, "{requests}");
            assert!(visits <= 4 * keys.len(), "{visits}");
        }
    }
}
