//! A consistent hash ring: which of some nodes a key belongs to. When a node comes or goes, only
//! keys that it gains or loses change their owner.
//!
//! The ring is the same in every process, on every platform and in every release. A node of weight w
//! has round(160·w) points: point k is the XXH3 hash (64 bits, seed 0) of the node's id followed by k
//! as four bytes, the least significant first. Points are in the order of (point, id, k). A key's
//! hash is the XXH3 hash of its bytes, and its owner is the node of the first point that is not
//! below it, or of the first point of all.

use std::ops::Range;
use twox_hash::XxHash3_64;

/// How many points a node of weight 1 has.
const POINTS: f64 = 160.0;

/// Nodes on a ring, each by its place in the list that the ring was made from.
#[derive(Clone, Debug)]
pub struct Ring {
    /// The points in their order.
    points: Vec<u64>,
    /// The owner of each point.
    owners: Vec<u32>,
    /// Where the points of each bucket begin, and where those of the last one end. A point's bucket
    /// is its topmost bits.
    buckets: Vec<u32>,
    /// How many bits below those of the bucket a point has.
    shift: u32,
}

impl Ring {
    /// A ring of nodes by id and weight. A weight that is no finite number above 0 gives a node no
    /// points.
    pub fn new<I: AsRef<[u8]>>(nodes: &[(I, f64)]) -> Self {
        let mut points = Vec::new();
        let mut bytes = Vec::new();
        for (place, (id, weight)) in nodes.iter().enumerate() {
            let id = id.as_ref();
            bytes.clear();
            bytes.extend_from_slice(id);
            let count = if weight.is_finite() { (POINTS * weight).round() as u32 } else { 0 };
            for k in 0..count {
                bytes.truncate(id.len());
                bytes.extend_from_slice(&k.to_le_bytes());
                points.push((XxHash3_64::oneshot(&bytes), id, k, place as u32));
            }
        }
        points.sort_unstable();
        // One bucket for each point or two: then most keys are where their bucket begins.
        let bits = points.len().next_power_of_two().ilog2().clamp(1, 31);
        let shift = u64::BITS - bits;
        let mut buckets = vec![0; (1 << bits) + 1];
        for (point, ..) in &points {
            buckets[(point >> shift) as usize + 1] += 1;
        }
        let mut before = 0;
        for bucket in &mut buckets {
            before += *bucket;
            *bucket = before;
        }
        let owners = points.iter().map(|(.., place)| *place).collect();
        Ring { points: points.iter().map(|(point, ..)| *point).collect(), owners, buckets, shift }
    }

    /// The place of the node that a key belongs to; none when no node has a point.
    pub fn owner(&self, key: &[u8]) -> Option<usize> {
        let hash = XxHash3_64::oneshot(key);
        let Range { start, end } = self.bucket(hash);
        let below = self.points[start..end].iter().take_while(|point| **point < hash).count();
        // Where a bucket ends the next one begins, and after the last one the first.
        let owner = self.owners.get(start + below).or(self.owners.first());
        owner.map(|place| *place as usize)
    }

    /// Which points have the topmost bits of a hash.
    fn bucket(&self, hash: u64) -> Range<usize> {
        let bucket = (hash >> self.shift) as usize;
        self.buckets[bucket] as usize..self.buckets[bucket + 1] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule as it is written, word for word.
    fn owner_by_the_rule(nodes: &[(String, f64)], key: &[u8]) -> Option<usize> {
        let mut points = Vec::new();
        for (place, (id, weight)) in nodes.iter().enumerate() {
            for k in 0..(160.0 * weight).round() as u32 {
                let point = XxHash3_64::oneshot(&[id.as_bytes(), &k.to_le_bytes()].concat());
                points.push((point, id.clone(), k, place));
            }
        }
        points.sort();
        let hash = XxHash3_64::oneshot(key);
        let owner = points.iter().find(|(point, ..)| *point >= hash).or(points.first());
        owner.map(|(.., place)| *place)
    }

    fn named(count: usize) -> Vec<(String, f64)> {
        (1..=count).map(|number| (format!("node-{number}"), 1.0)).collect()
    }

    fn any_nodes() -> impl Strategy<Value = Vec<(String, f64)>> {
        prop::collection::btree_map("[a-z]{0,3}", 0.0..4.0_f64, 0..8)
            .prop_map(|nodes| nodes.into_iter().collect())
    }

    proptest! {
        #[test]
        fn the_owner_is_what_the_rule_says(nodes in any_nodes(), keys in prop::collection::vec(".{0,9}", 20)) {
            let ring = Ring::new(&nodes);
            for key in keys {
                let key = key.as_bytes();
                prop_assert_eq!(ring.owner(key), owner_by_the_rule(&nodes, key));
            }
        }

        #[test]
        fn only_the_keys_of_a_node_that_goes_move(nodes in any_nodes(), gone in any::<prop::sample::Index>()) {
            prop_assume!(!nodes.is_empty());
            let gone = gone.index(nodes.len());
            let mut rest = nodes.clone();
            rest.remove(gone);
            let (before, after) = (Ring::new(&nodes), Ring::new(&rest));
            for key in 0..500_u32 {
                let key = key.to_le_bytes();
                let owner = before.owner(&key);
                if owner != Some(gone) {
                    let same = after.owner(&key).map(|place| place + usize::from(place >= gone));
                    prop_assert_eq!(same, owner);
                }
            }
        }
    }

    /// The same in every release: who changes one of these moves data of running clusters.
    #[test]
    fn the_hash_and_the_owners_are_these() {
        // Source: the reference implementation, xxhash 0.8.
        assert_eq!(XxHash3_64::oneshot(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(XxHash3_64::oneshot(b"a"), 0xe6c6_32b6_1e96_4e1f);
        assert_eq!(XxHash3_64::oneshot(b"abc"), 0x78af_5f94_892f_3950);
        let ring = Ring::new(&named(5));
        let owners = |ring: &Ring| -> Vec<_> {
            (0..16).map(|key| ring.owner(format!("key-{key}").as_bytes()).unwrap()).collect()
        };
        assert_eq!(owners(&ring), [0, 2, 1, 1, 3, 0, 4, 3, 1, 3, 4, 0, 4, 0, 3, 4]);
        let weighted = [("a", 0.5), ("b", 1.0), ("c", 2.0)];
        assert_eq!((ring.points[0], ring.points[799]), (520385062847264, 18426090444290612763));
        assert_eq!(owners(&Ring::new(&weighted)), [2, 2, 1, 1, 1, 1, 2, 2, 0, 2, 2, 1, 2, 2, 1, 1]);
        assert_eq!(ring.points.len(), 800);
    }

    #[test]
    fn shares_follow_the_weights() {
        let ring = Ring::new(&[("a", 1.0), ("b", 2.0), ("c", 4.0)]);
        let mut counts = [0_u32; 3];
        for key in 0..70_000_u32 {
            counts[ring.owner(&key.to_le_bytes()).unwrap()] += 1;
        }
        for (count, fair) in counts.into_iter().zip([10_000.0, 20_000.0, 40_000.0]) {
            let share = f64::from(count) / fair;
            assert!((0.8..1.2).contains(&share), "{counts:?}");
        }
    }

    #[test]
    fn without_points_nobody_owns_a_key() {
        assert_eq!(Ring::new::<&str>(&[]).owner(b"key"), None);
        let none = [("a", 0.0), ("b", -1.0), ("c", f64::NAN), ("d", f64::INFINITY)];
        assert_eq!(Ring::new(&none).owner(b"key"), None);
        assert_eq!(Ring::new(&[("a", 0.0), ("b", 1.0)]).owner(b"key"), Some(1));
    }
}
