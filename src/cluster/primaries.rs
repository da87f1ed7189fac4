//! Which replica of each shard is the primary: as many of each node's as its load gives it, and few
//! change.
//!
//! If each shard were shared out among its replicas in equal parts, the parts of a node would be its
//! share. Shards have one primary only, so a node has its share rounded down or up; that this is
//! always possible is what the theorem of integral flows says (R. Ahuja, T. Magnanti and J. Orlin,
//! "Network Flows", 1993, chapter 6). Where one has too many, the primary goes on along the shortest
//! way to one that has too few.

use super::shares::rounded;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// The primary of each shard, out of those places that are in `shards` for it; `before` is who it
/// was. None where there is nobody.
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
        led: vec![Vec::new(); nodes],
    };
    for (shard, before) in before.iter().enumerate() {
        if let Some(node) = before.filter(|node| shards[shard].contains(node)) {
            choice.appoint(shard, node);
        }
    }
    for (shard, replicas) in shards.iter().enumerate() {
        let lack = |node: &usize| share[*node] - choice.led[*node].len() as f64;
        let most = replicas.iter().max_by(|a, b| lack(a).total_cmp(&lack(b)).then(b.cmp(a)));
        if let (None, Some(node)) = (choice.primary[shard], most) {
            choice.appoint(shard, *node);
        }
    }
    choice.even_out();
    choice.primary
}

struct Choice<'a> {
    shards: &'a [Vec<usize>],
    /// How many shards each node may be the primary of.
    range: Vec<RangeInclusive<usize>>,
    primary: Vec<Option<usize>>,
    /// The shards that each node is the primary of.
    led: Vec<Vec<usize>>,
}

impl Choice<'_> {
    fn appoint(&mut self, shard: usize, node: usize) {
        if let Some(before) = self.primary[shard].replace(node) {
            self.led[before].retain(|led| *led != shard);
        }
        self.led[node].push(shard);
    }

    fn even_out(&mut self) {
        type Is = fn(&RangeInclusive<usize>, usize) -> bool;
        let (too_many, too_few): (Is, Is) =
            (|range, led| led > *range.end(), |range, led| led < *range.start());
        let (can_give, can_take): (Is, Is) =
            (|range, led| led > *range.start(), |range, led| led < *range.end());
        for (gives, takes) in [(too_many, too_few), (too_many, can_take), (can_give, too_few)] {
            while let Some(way) = self.way(gives, takes) {
                way.into_iter().for_each(|(shard, node)| self.appoint(shard, node));
            }
        }
    }

    /// The shards that change their primary, and to whom, on the shortest way from a node that gives
    /// one to a node that takes one.
    fn way(
        &self,
        gives: fn(&RangeInclusive<usize>, usize) -> bool,
        takes: fn(&RangeInclusive<usize>, usize) -> bool,
    ) -> Option<Vec<(usize, usize)>> {
        let is = |what: fn(&RangeInclusive<usize>, usize) -> bool, node: usize| {
            what(&self.range[node], self.led[node].len())
        };
        let nodes = self.led.len();
        let mut queue: VecDeque<usize> = (0..nodes).filter(|node| is(gives, *node)).collect();
        let mut is_known = vec![false; nodes];
        queue.iter().for_each(|node| is_known[*node] = true);
        // The shard by which a node was reached, and from whom it comes.
        let mut by: Vec<Option<(usize, usize)>> = vec![None; nodes];
        while let Some(from) = queue.pop_front() {
            for shard in &self.led[from] {
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
