//! A consistent hash ring, which assigns each key to one of some nodes. When a node is added or
//! removed, only the keys that it gains or loses change their owner.
//!
//! The ring is the same in every process, on every platform and in every release. A node of weight
//! w has round(160·w) points: point k is the XXH3 hash (64 bits, seed 0) of the node's id followed
//! by k as four bytes, the least significant first. Points are in the order of (point, id, k). A
//! key's hash is the XXH3 hash of its bytes, and its owner is the node of the first point that is
//! not below it, or of the first point of all.
//!
//! ```
//! use consul_api::ring::{Ring, hash};
//!
//! let ring = Ring::new(&[("a", 1.0), ("b", 1.0), ("c", 2.0)]);
//! let owner = ring.owner(b"user:1").expect("a node with points");
//! assert_eq!(ring.owner_of(hash(b"user:1")), Some(owner));
//! // The owner, and another node for a replica.
//! let replicas = ring.replicas(b"user:1", 2);
//! assert_eq!((replicas.len(), replicas[0]), (2, owner));
//! ```

use std::mem;
use twox_hash::XxHash3_64;

/// The default number of points of a node of weight 1.
pub const POINTS: u32 = 160;

/// The hash of a key, which determines its owner on a ring.
pub fn hash(key: &[u8]) -> u64 {
    XxHash3_64::oneshot(key)
}

/// The number of points of a node of this weight on a ring where weight 1 has `points`: 0 unless
/// the weight is a finite number above 0.
pub fn points_of(weight: f64, points: u32) -> u32 {
    if weight.is_finite() { (f64::from(points) * weight).round() as u32 } else { 0 }
}

/// A ring of nodes, each identified by its index in the list that the ring was made from.
#[derive(Clone, Debug)]
pub struct Ring {
    /// The sorted points, and twice the greatest hash, where each search ends.
    points: Vec<u64>,
    /// The owner of each point.
    owners: Vec<u32>,
    /// The index of each bucket's first point. The bucket of a point is its topmost bits.
    buckets: Vec<u32>,
    /// The number of a point's bits below the bits of its bucket.
    shift: u32,
    /// The number of nodes, including those without points.
    nodes: usize,
}

impl Ring {
    /// A ring of nodes by id and weight. A node has no points unless its weight is a finite number
    /// above 0.
    pub fn new<I: AsRef<[u8]>>(nodes: &[(I, f64)]) -> Self {
        Self::with_points(nodes, POINTS)
    }

    /// The same with another number of points for weight 1: with more points, shares are closer to
    /// the weights, and the ring is larger.
    pub fn with_points<I: AsRef<[u8]>>(nodes: &[(I, f64)], points_of_one: u32) -> Self {
        let mut points = Vec::new();
        let mut bytes = Vec::new();
        for (index, (id, weight)) in nodes.iter().enumerate() {
            let id = id.as_ref();
            bytes.clear();
            bytes.extend_from_slice(id);
            for k in 0..points_of(*weight, points_of_one) {
                bytes.truncate(id.len());
                bytes.extend_from_slice(&k.to_le_bytes());
                points.push((hash(&bytes), id, k, index as u32));
            }
        }
        points.sort_unstable();
        // One bucket for each point or two, so that most searches end at the start of a bucket.
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
        let owners = points.iter().map(|(.., index)| *index).collect();
        let points = points.iter().map(|(point, ..)| *point).chain([u64::MAX; 2]).collect();
        Ring { points, owners, buckets, shift, nodes: nodes.len() }
    }

    /// The node that a key belongs to; `None` when no node has a point.
    pub fn owner(&self, key: &[u8]) -> Option<usize> {
        self.owner_of(hash(key))
    }

    /// The node that keys of this [`hash`] belong to; `None` when no node has a point.
    pub fn owner_of(&self, hash: u64) -> Option<usize> {
        let owner = self.owners.get(self.first(hash)).or(self.owners.first());
        owner.map(|index| *index as usize)
    }

    /// The nodes of the first `count` points from the key on, each node once: the owner and then
    /// the nodes for further replicas. Fewer when fewer nodes have points.
    pub fn replicas(&self, key: &[u8], count: usize) -> Vec<usize> {
        let (before, after) = self.owners.split_at(self.first(hash(key)));
        let mut is_found = vec![false; self.nodes];
        let new = |index: &usize| !mem::replace(&mut is_found[*index], true);
        after.iter().chain(before).map(|index| *index as usize).filter(new).take(count).collect()
    }

    /// The index of the first point that is not below a hash; one past the last if there is none.
    fn first(&self, hash: u64) -> usize {
        let start = self.buckets[(hash >> self.shift) as usize] as usize;
        // Points of later buckets are not below the hash. Rarely are more than two of its own
        // bucket, and adding two comparisons is faster than branching on them.
        let is_below = |index: usize| self.points[index] < hash;
        let mut first = start + usize::from(is_below(start)) + usize::from(is_below(start + 1));
        while is_below(first) {
            first += 1;
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The points by the definition of the ring, each with its node.
    fn points_by_the_rule(nodes: &[(String, f64)]) -> Vec<(u64, usize)> {
        let mut points = Vec::new();
        for (index, (id, weight)) in nodes.iter().enumerate() {
            for k in 0..(160.0 * weight).round() as u32 {
                let point = XxHash3_64::oneshot(&[id.as_bytes(), &k.to_le_bytes()].concat());
                points.push((point, id.clone(), k, index));
            }
        }
        points.sort_unstable();
        points.into_iter().map(|(point, .., index)| (point, index)).collect()
    }

    fn owner_by_the_rule(points: &[(u64, usize)], hash: u64) -> Option<usize> {
        let first = points.partition_point(|(point, _)| *point < hash);
        points.get(first).or(points.first()).map(|(_, index)| *index)
    }

    /// All nodes in the order of a walk from a key.
    fn walk_by_the_rule(points: &[(u64, usize)], key: &[u8]) -> Vec<usize> {
        let hash = XxHash3_64::oneshot(key);
        let (after, before): (Vec<_>, Vec<_>) =
            points.iter().partition(|(point, _)| *point >= hash);
        let mut met = Vec::new();
        for (_, index) in after.into_iter().chain(before) {
            if !met.contains(&index) {
                met.push(index);
            }
        }
        met
    }

    fn named(count: usize) -> Vec<(String, f64)> {
        (1..=count).map(|number| (format!("node-{number}"), 1.0)).collect()
    }

    fn any_nodes() -> impl Strategy<Value = Vec<(String, f64)>> {
        prop::collection::btree_map("[a-z]{0,3}", 0.0..4.0_f64, 0..8)
            .prop_map(|nodes| nodes.into_iter().collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        #[test]
        fn owner_and_replicas_are_what_the_rule_says(
            nodes in any_nodes(),
            keys in prop::collection::vec(".{0,9}", 20),
            count in 0..10_usize,
        ) {
            let (ring, points) = (Ring::new(&nodes), points_by_the_rule(&nodes));
            for key in keys {
                let key = key.as_bytes();
                prop_assert_eq!(ring.owner(key), owner_by_the_rule(&points, XxHash3_64::oneshot(key)));
                let mut wanted = walk_by_the_rule(&points, key);
                wanted.truncate(count);
                prop_assert_eq!(ring.replicas(key, count), wanted);
            }
        }

        #[test]
        fn the_owner_changes_right_after_each_point(nodes in any_nodes()) {
            let (ring, points) = (Ring::new(&nodes), points_by_the_rule(&nodes));
            let mut hashes = vec![0, u64::MAX];
            for (point, _) in &points {
                hashes.extend([point.wrapping_sub(1), *point, point.wrapping_add(1)]);
            }
            for hash in hashes {
                prop_assert_eq!(ring.owner_of(hash), owner_by_the_rule(&points, hash));
            }
        }

        #[test]
        fn a_node_that_comes_or_goes_moves_no_key_between_others(
            nodes in any_nodes(),
            one in any::<prop::sample::Index>(),
        ) {
            prop_assume!(!nodes.is_empty());
            let one = one.index(nodes.len());
            let mut rest = nodes.clone();
            rest.remove(one);
            let (with, without) = (Ring::new(&nodes), Ring::new(&rest));
            for key in 0..500_u32 {
                let key = key.to_le_bytes();
                let others: Vec<_> = with.replicas(&key, 4).into_iter().filter(|p| *p != one).collect();
                let index = |index: usize| index + usize::from(index >= one);
                let same: Vec<_> = without.replicas(&key, others.len()).into_iter().map(index).collect();
                prop_assert_eq!(same, others);
            }
        }
    }

    /// The same in every release: a change would move the data of running clusters.
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
        assert_eq!(ring.owners.len(), 800);
        assert_eq!(ring.replicas(b"key-0", 9), [0, 3, 1, 4, 2]);
        let fewer = Ring::with_points(&named(5), 100);
        assert_eq!(owners(&fewer), [0, 4, 1, 1, 3, 0, 4, 3, 3, 2, 4, 1, 4, 0, 3, 4]);
        assert_eq!(fewer.owners.len(), 500);
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
    fn a_ring_without_points_has_no_owner_of_a_key() {
        assert_eq!(Ring::new::<&str>(&[]).owner(b"key"), None);
        let none = [("a", 0.0), ("b", -1.0), ("c", f64::NAN), ("d", f64::INFINITY)];
        assert_eq!(Ring::new(&none).owner(b"key"), None);
        assert!(Ring::new(&none).replicas(b"key", 2).is_empty());
        assert_eq!(Ring::new(&[("a", 0.0), ("b", 1.0)]).owner(b"key"), Some(1));
    }
}
