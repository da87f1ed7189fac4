//! The choice of the primary of each shard: in proportion to the load of each node, with few changes.
//!
//! If each shard were divided equally among its replicas, the sum of a node's parts would be its share
//! of primaries. A shard has a single primary, so each node gets its share rounded down or up, which is
//! always possible (integral flow theorem; R. Ahuja, T. Magnanti and J. Orlin, "Network Flows", 1993,
//! chapter 6). A node with too many primaries passes one on along the shortest path to a node with too
//! few.

use super::shares::rounded;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// The primary of each shard, chosen from its replicas in `shards`; `before` has the previous
/// primaries. `None` for a shard without replicas.
pub fn primaries(shards: &[Vec<usize>], before: &[Option<usize>]) -> Vec<Option<usize>> {
    let nodes = shards.iter().flatten().max().map_or(0, |last| last + 1);
    let mut share = vec![0.0; nodes];
    for replicas in shards {
        replicas.iter().for_each(|node| share[*node] += 1.0 / replicas.len() as f64);
    }
    let mut choice = Choice {
        shards,
        range: share.iter().map(|share| rounded(*share)).collect(),
        primary: vec![None; shards.len()],
        primary_of: vec![Vec::new(); nodes],
    };
    for (shard, before) in before.iter().enumerate() {
        if let Some(node) = before.filter(|node| shards[shard].contains(node)) {
            choice.set_primary(shard, node);
        }
    }
    for (shard, replicas) in shards.iter().enumerate() {
        let lack = |node: &usize| share[*node] - choice.primary_of[*node].len() as f64;
        let neediest = replicas.iter().max_by(|a, b| lack(a).total_cmp(&lack(b)).then(b.cmp(a)));
        if let (None, Some(node)) = (choice.primary[shard], neediest) {
            choice.set_primary(shard, *node);
        }
    }
    choice.even_out();
    choice.primary
}

struct Choice<'a> {
    shards: &'a [Vec<usize>],
    /// The allowed number of primaries on each node.
    range: Vec<RangeInclusive<usize>>,
    primary: Vec<Option<usize>>,
    /// The shards whose primary each node is.
    primary_of: Vec<Vec<usize>>,
}

impl Choice<'_> {
    fn set_primary(&mut self, shard: usize, node: usize) {
        if let Some(before) = self.primary[shard].replace(node) {
            self.primary_of[before].retain(|other| *other != shard);
        }
        self.primary_of[node].push(shard);
    }

    fn even_out(&mut self) {
        type Is = fn(&RangeInclusive<usize>, usize) -> bool;
        let (too_many, too_few): (Is, Is) =
            (|range, count| count > *range.end(), |range, count| count < *range.start());
        let (can_give, can_take): (Is, Is) =
            (|range, count| count > *range.start(), |range, count| count < *range.end());
        for (gives, takes) in [(too_many, too_few), (too_many, can_take), (can_give, too_few)] {
            while let Some(path) = self.path(gives, takes) {
                path.into_iter().for_each(|(shard, node)| self.set_primary(shard, node));
            }
        }
    }

    /// The shards that change their primary, each with its new primary, on the shortest path from a node
    /// that gives a primary to a node that takes one.
    fn path(
        &self,
        gives: fn(&RangeInclusive<usize>, usize) -> bool,
        takes: fn(&RangeInclusive<usize>, usize) -> bool,
    ) -> Option<Vec<(usize, usize)>> {
        let is = |what: fn(&RangeInclusive<usize>, usize) -> bool, node: usize| {
            what(&self.range[node], self.primary_of[node].len())
        };
        let nodes = self.primary_of.len();
        let mut queue: VecDeque<usize> = (0..nodes).filter(|node| is(gives, *node)).collect();
        let mut is_known = vec![false; nodes];
        queue.iter().for_each(|node| is_known[*node] = true);
        // The shard through which a node was reached, and its primary.
        let mut by: Vec<Option<(usize, usize)>> = vec![None; nodes];
        while let Some(from) = queue.pop_front() {
            for shard in &self.primary_of[from] {
                for to in &self.shards[*shard] {
                    if std::mem::replace(&mut is_known[*to], true) {
                        continue;
                    }
                    by[*to] = Some((*shard, from));
                    if is(takes, *to) {
                        let back = |(_, _, from): &(usize, usize, usize)| {
                            by[*from].map(|(shard, before)| (shard, *from, before))
                        };
                        let last = Some((*shard, *to, from));
                        let steps = std::iter::successors(last, back);
                        return Some(steps.map(|(shard, to, _)| (shard, to)).collect());
                    }
                    queue.push_back(*to);
                }
            }
        }
        None
    }
}
