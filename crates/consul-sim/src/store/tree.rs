//! Consul keeps each index as a tree of keys, and a query waits at the node of the tree where its own key ends: what changes below
//! that node wakes it, and so do a new node in front of it and the end of one.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The mark of a tree for a query for the keys that begin with `prefix`: another number after each change that wakes
/// it. The entries are keys with the index of their last change.
pub(crate) fn mark(entries: impl Iterator<Item = (Vec<u8>, u64)>, prefix: &[u8]) -> u64 {
    let mut all: Vec<_> = entries.collect();
    all.sort_unstable();
    let mut below = &all[..];
    // Where the path to the node begins and ends.
    let (mut start, mut end) = (0, 0);
    while let Some(byte) = prefix.get(end) {
        let first = below.partition_point(|(key, _)| key.get(end) < Some(byte));
        let last = below.partition_point(|(key, _)| key.get(end) <= Some(byte));
        let Some((head, tail)) = below[first..last].first().zip(below[first..last].last()) else {
            break;
        };
        below = &below[first..last];
        start = end;
        end = head.0.iter().zip(&tail.0).take_while(|(one, other)| one == other).count();
        if !prefix.starts_with(&head.0[..end]) {
            break;
        }
    }
    let mut hasher = DefaultHasher::new();
    (start, end, below).hash(&mut hasher);
    hasher.finish()
}

/// The key of these parts, each ended as in Consul's indexes.
pub(crate) fn key(parts: &[&str]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.bytes().chain([0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_counts_where_it_divides_the_way_to_a_key() {
        let of = |keys: &[&str], own: &str| {
            mark(keys.iter().map(|name| (key(&[name]), 1)), &key(&[own]))
        };
        let before = ["web", "web-two"];
        // The way to `web` ends at a node of its own; that to `web-two` is divided by `web-three`.
        assert_eq!(of(&before, "web"), of(&["web", "web-two", "web-three"], "web"));
        assert_ne!(of(&before, "web-two"), of(&["web", "web-two", "web-three"], "web-two"));
        assert_ne!(of(&before, "none"), of(&["web", "web-two", "api"], "none"));
        assert_eq!(of(&before, "api"), of(&before, "api"));
    }
}
