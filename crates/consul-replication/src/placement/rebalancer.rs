//! The assignment of shards to nodes: loads in proportion to the weights, replicas in different zones,
//! and the fewest moves that allow both.
//!
//! The load of each node and of each zone is its fair share, rounded down or up; which of the two
//! depends on its present load. Then surplus replicas move to where replicas are missing: directly if
//! possible, otherwise by the cheapest chain of moves (an augmenting path, as in R. Ahuja, T. Magnanti
//! and J. Orlin, "Network Flows", 1993, chapter 6). Of steps that cost the same, the one is made that
//! keeps the numbers of common shards of all pairs even.

use super::Candidate;
use super::pairs::Pairs;
use super::shares::{Shares, rounded};
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::RangeInclusive;

/// For each shard the indexes of the candidates that hold its replicas, in order.
pub type Assignment = Vec<Vec<usize>>;

/// Places `replicas` of each shard, or one on each candidate if there are fewer. Replicas in `before`
/// stay where they can, and in the same order within a shard. `with_data` has these and the ones that are
/// about to go: a replica that is placed where its shard's data still are makes no move.
pub fn rebalance(
    candidates: &[Candidate],
    replicas: usize,
    before: &Assignment,
    with_data: &Assignment,
) -> Assignment {
    let replicas = replicas.min(candidates.len());
    if replicas == 0 {
        return vec![Vec::new(); before.len()];
    }
    let mut plan = Plan::new(candidates, replicas, before, with_data);
    plan.fill();
    plan.even_out();
    if moves(with_data, &plan.assignment) > plan.least_moves() {
        plan.undo_needless_moves();
    }
    plan.assignment
}

/// The most moves examined in the search for needless ones; it takes about a second. Only changes of
/// hundreds of nodes at once, in zones with too little room, come near it.
const MAX_EFFORT: u64 = 20_000_000;

/// The most steps to choose the best from: enough for even pairs, and few for a thousand candidates.
const CHOICES: usize = 16;

/// How much more an uneven load counts than uneven pairs: a candidate that fell behind would get the last
/// shards, whatever their other replicas.
const LOAD_FACTOR: f64 = 16.0;

/// The number of replicas in `after` on candidates that do not have the shard in `before`.
pub fn moves(before: &Assignment, after: &Assignment) -> usize {
    let new = |(before, after): (&Vec<usize>, &Vec<usize>)| {
        after.iter().filter(|place| !before.contains(place)).count()
    };
    before.iter().zip(after).map(new).sum()
}

struct Plan<'a> {
    replicas: usize,
    /// The zone of each candidate.
    zone: Vec<usize>,
    /// The allowed number of replicas on each candidate.
    range: Vec<RangeInclusive<usize>>,
    zone_range: Vec<RangeInclusive<usize>>,
    /// The number of replicas that each candidate is to have.
    quota: Vec<usize>,
    /// The allowed number of replicas of one shard in each zone.
    per_shard: Vec<RangeInclusive<usize>>,
    with_data: &'a Assignment,
    assignment: Assignment,
    /// The number of moves examined.
    effort: Cell<u64>,
    /// The shards of each candidate.
    held: Vec<Vec<usize>>,
    pairs: Pairs,
}

impl<'a> Plan<'a> {
    fn new(
        candidates: &[Candidate],
        replicas: usize,
        before: &Assignment,
        with_data: &'a Assignment,
    ) -> Self {
        let shares = Shares::new(candidates, replicas, before.len());
        let per_shard = |(share, members): (&f64, &Vec<usize>)| {
            let of_one = rounded(share / before.len().max(1) as f64);
            *of_one.start()..=(*of_one.end()).min(members.len())
        };
        let ranges = |shares: &[f64]| shares.iter().map(|share| rounded(*share)).collect();
        let mut plan = Plan {
            replicas,
            range: ranges(&shares.of_candidate),
            zone_range: ranges(&shares.of_zone),
            quota: Vec::new(),
            per_shard: shares.of_zone.iter().zip(&shares.members).map(per_shard).collect(),
            with_data,
            assignment: Vec::new(),
            effort: Cell::new(0),
            held: vec![Vec::new(); candidates.len()],
            zone: shares.zone.clone(),
            pairs: Pairs::new(&[], 0, &[]),
        };
        plan.keep(before, &shares.of_candidate);
        let loads: Vec<usize> = plan.held.iter().map(Vec::len).collect();
        plan.quota = shares.quotas(before.len() * replicas, &loads);
        plan.pairs = Pairs::new(&plan.quota, replicas, &plan.assignment);
        plan
    }

    /// Keeps the valid replicas of `before`: no candidate twice, not too many in total or in a zone.
    /// Surplus replicas are removed from the candidates that exceed their shares most.
    fn keep(&mut self, before: &Assignment, share: &[f64]) {
        let mut loads = vec![0.0; share.len()];
        for shard in before {
            shard.iter().for_each(|place| loads[*place] += 1.0);
        }
        for (shard, places) in before.iter().enumerate() {
            let mut kept: Vec<usize> = Vec::new();
            for place in places {
                if !kept.contains(place) {
                    kept.push(*place);
                }
            }
            loop {
                let crowded = |place: &usize| {
                    let zone = self.zone[*place];
                    kept.len() > self.replicas
                        || self.count(&kept, zone) > *self.per_shard[zone].end()
                };
                let excess = |place: &usize| loads[*place] - share[*place];
                let out = kept.iter().copied().filter(crowded);
                let Some(out) = out.max_by(|a, b| excess(a).total_cmp(&excess(b)).then(b.cmp(a)))
                else {
                    break;
                };
                loads[out] -= 1.0;
                kept.retain(|place| *place != out);
            }
            kept.iter().for_each(|place| self.held[*place].push(shard));
            self.assignment.push(kept);
        }
    }

    fn count(&self, places: &[usize], zone: usize) -> usize {
        places.iter().filter(|place| self.zone[**place] == zone).count()
    }

    /// Whether a replica of a shard may be placed on a candidate: one moved from another, or a new one.
    fn fits(&self, shard: usize, from: Option<usize>, to: usize) -> bool {
        let places = &self.assignment[shard];
        if places.contains(&to) {
            return false;
        }
        let zone = self.zone[to];
        if from.is_some_and(|from| self.zone[from] == zone) {
            return true;
        }
        let leaves_enough = from.is_none_or(|from| {
            let zone = self.zone[from];
            self.count(places, zone) > *self.per_shard[zone].start()
        });
        // Enough of the missing replicas must remain for the zones that have too few of the shard.
        let missing = self.replicas - places.len() + usize::from(from.is_some());
        let needed: usize = (0..self.per_shard.len())
            .map(|z| self.per_shard[z].start().saturating_sub(self.count(places, z)))
            .sum();
        let is_needed = self.count(places, zone) < *self.per_shard[zone].start();
        leaves_enough
            && (is_needed || missing > needed)
            && self.count(places, zone) < *self.per_shard[zone].end()
    }

    /// How many replicas a candidate is below its quota.
    fn room(&self, place: usize) -> usize {
        self.quota[place].saturating_sub(self.held[place].len())
    }

    fn put(&mut self, Step { shard, from, to }: Step) {
        let places = &mut self.assignment[shard];
        if let Some(from) = from {
            self.pairs.remove(from, places);
        }
        match from.and_then(|from| places.iter().position(|place| *place == from)) {
            Some(position) => places[position] = to,
            None => places.push(to),
        }
        self.pairs.add(to, places);
        if let Some(from) = from {
            let held = &mut self.held[from];
            if let Some(at) = held.iter().position(|it| *it == shard) {
                held.swap_remove(at);
            }
        }
        self.held[to].push(shard);
    }

    /// Places the missing replicas.
    fn fill(&mut self) {
        let mut roomy = self.roomy();
        let mut left = Vec::new();
        for shard in 0..self.assignment.len() {
            while self.assignment[shard].len() < self.replicas {
                let to_any = roomy.iter().map(|(.., to)| Step { shard, from: None, to: *to });
                let Some(step) = self.best(to_any) else {
                    left.push(shard);
                    break;
                };
                self.put_where_room_is(step, &mut roomy);
            }
        }
        for shard in left {
            while self.assignment[shard].len() < self.replicas {
                let first_steps = (0..self.quota.len()).filter(|to| self.fits(shard, None, *to));
                let first_steps = first_steps.map(|to| Step { shard, from: None, to }).collect();
                if !self.augment(first_steps) {
                    break;
                }
            }
        }
    }

    /// Moves replicas from candidates that have too many to those that have too few.
    fn even_out(&mut self) {
        let mut roomy = self.roomy();
        for from in 0..self.quota.len() {
            // The choice goes round among all shards of the candidate.
            let mut begin = 0;
            while self.held[from].len() > self.quota[from] {
                let held = &self.held[from];
                begin %= held.len();
                let shards = held[begin..].iter().chain(&held[..begin]);
                let steps = shards.flat_map(|shard| {
                    roomy.iter().map(|(.., to)| Step { shard: *shard, from: Some(from), to: *to })
                });
                let Some(step) = self.best(steps) else { break };
                self.put_where_room_is(step, &mut roomy);
                begin += CHOICES / roomy.len().max(1);
            }
            while self.held[from].len() > self.quota[from] {
                let first_steps =
                    (0..self.quota.len()).filter_map(|to| self.cheapest(from, to)).collect();
                if !self.augment(first_steps) {
                    break;
                }
                roomy = self.roomy();
            }
        }
    }

    /// The best of the first steps that fit: it adds the fewest moves, and keeps the loads and the pairs
    /// most even. A step that brings no two candidates together again is good enough.
    fn best(&self, steps: impl Iterator<Item = Step>) -> Option<Step> {
        let fitting = steps.filter(|step| self.fits(step.shard, step.from, step.to));
        let mut best: Option<(i32, f64, Step)> = None;
        for step in fitting.take(CHOICES) {
            let Step { shard, from, to } = step;
            let pairs = self.pairs.unevenness(&self.assignment[shard], from, to);
            let load = self.held[to].len() as f64 / self.quota[to] as f64;
            let (cost, unevenness) = (self.cost(step), pairs + LOAD_FACTOR * load);
            if best.is_none_or(|(least, evenest, _)| {
                cost.cmp(&least).then(unevenness.total_cmp(&evenest)).is_lt()
            }) {
                best = Some((cost, unevenness, step));
            }
            if from.is_none() && pairs <= 0.0 {
                break;
            }
        }
        best.map(|(.., step)| step)
    }

    /// The candidates that have room, those with the most room first.
    fn roomy(&self) -> Roomy {
        let all = (0..self.quota.len()).filter(|place| self.room(*place) > 0);
        BTreeSet::from_iter(all.map(|place| self.turn(place)))
    }

    /// The turn of a candidate: first those that lack the largest part of their quota (in 65536ths), in an
    /// order that looks random and is another one for each load, so that no candidates stay together.
    fn turn(&self, place: usize) -> Turn {
        let part = ((self.room(place) as u64) << 16) / self.quota[place].max(1) as u64;
        (Reverse(part), scattered(self.held[place].len(), place), place)
    }

    fn put_where_room_is(&mut self, step: Step, roomy: &mut Roomy) {
        roomy.remove(&self.turn(step.to));
        self.put(step);
        if self.room(step.to) > 0 {
            roomy.insert(self.turn(step.to));
        }
    }

    /// A lower bound of the moves of any assignment with the right loads.
    fn least_moves(&self) -> usize {
        let mut loads = vec![0usize; self.range.len()];
        self.with_data.iter().flatten().for_each(|place| loads[*place] += 1);
        let ranges = || self.range.iter().zip(&loads);
        let lacking: usize =
            ranges().map(|(range, load)| range.start().saturating_sub(*load)).sum();
        let kept: usize = ranges().map(|(range, load)| *load.min(range.end())).sum();
        lacking.max((self.with_data.len() * self.replicas).saturating_sub(kept))
    }

    /// Undoes moves that become needless if other shares are rounded up or other replicas move: a
    /// replica returns, and the replicas that it displaces are among those that move anyway.
    fn undo_needless_moves(&mut self) {
        let begun = self.effort.get();
        for shard in 0..self.assignment.len() {
            for from in self.assignment[shard].clone() {
                if self.with_data[shard].contains(&from) || self.effort.get() - begun > MAX_EFFORT {
                    continue;
                }
                let back = self.with_data[shard].iter().map(|to| Step {
                    shard,
                    from: Some(from),
                    to: *to,
                });
                let first_steps =
                    back.filter(|step| self.fits(shard, step.from, step.to)).collect();
                if let Some(chain) = self.chain(first_steps, |at| at == from, Some(0)) {
                    self.follow(&chain);
                }
            }
        }
    }

    /// Makes the cheapest chain of moves that begins with one of `first_steps` and ends at a candidate
    /// with room; each replica displaces the next one of the chain.
    fn augment(&mut self, first_steps: Vec<Step>) -> bool {
        let chain = self.chain(first_steps, |at| self.room(at) > 0, None);
        chain.map(|chain| self.follow(&chain)).is_some()
    }

    /// Makes the steps of a chain, each with the shard that keeps the pairs most even.
    fn follow(&mut self, chain: &[Step]) {
        for step in chain {
            let is_other = |shard: &usize| chain.iter().any(|other| other.shard == *shard);
            let alike = step.from.into_iter().flat_map(|from| &self.held[from]);
            let alike = alike.filter(|shard| **shard == step.shard || !is_other(shard));
            let alike = alike.map(|shard| Step { shard: *shard, ..*step });
            let alike = alike.filter(|other| self.cost(*other) == self.cost(*step));
            let best = self.best(alike).unwrap_or(*step);
            self.put(best);
        }
    }

    /// The steps of the cheapest chain that ends at a place for which `ends` is true; the last step comes
    /// first, since it makes room for the one before it. With a limit `below` for its cost, a candidate
    /// or a zone may also keep the replica that it gets while another gives one up, as far as the
    /// rounding of their shares allows.
    fn chain(
        &self,
        first_steps: Vec<Step>,
        ends: impl Fn(usize) -> bool,
        below: Option<i32>,
    ) -> Option<Vec<Step>> {
        let candidates = self.quota.len();
        let all_zones = candidates + self.zone_range.len();
        let mut search = Search { reached: vec![None; all_zones + 1], queue: BinaryHeap::new() };
        let limit = below.unwrap_or(i32::MAX);
        for step in first_steps.into_iter().filter(|step| self.cost(*step) < limit) {
            let hop = Hop { by: None, step: Some(step) };
            search.reach(step.to, self.cost(step), ends(step.to), hop);
        }
        let mut visits = vec![0; all_zones + 1];
        while let Some((Reverse(cost), is_end, Reverse(at))) = search.queue.pop() {
            let Some(hops) = search.trace(at) else { continue };
            let steps = || hops.iter().filter_map(|(_, hop)| hop.step);
            if is_end {
                return Some(steps().collect());
            }
            visits[at] += 1;
            if visits[at] > 3 {
                continue;
            }
            let is_behind = |place: usize| {
                let is_start = steps().any(|step| step.from == Some(place)) && !ends(place);
                is_start || hops.iter().any(|(known, _)| *known == place)
            };
            if at < candidates {
                for to in (0..candidates).filter(|to| !is_behind(*to)) {
                    let Some(step) = self.cheapest(at, to) else { continue };
                    let cost = cost + self.cost(step);
                    if cost < limit && steps().all(|before| before.shard != step.shard) {
                        let hop = Hop { by: Some(at), step: Some(step) };
                        search.reach(to, cost, ends(to), hop);
                    }
                }
            }
            if below.is_some() {
                for to in self.substitutes(at).filter(|to| !is_behind(*to)) {
                    search.reach(to, cost, ends(to), Hop { by: Some(at), step: None });
                }
            }
        }
        None
    }

    /// The places that may give up a replica if this one keeps one more. Places are the candidates,
    /// after them the zones, and last a place for all zones together.
    fn substitutes(&self, at: usize) -> Box<dyn Iterator<Item = usize> + '_> {
        let candidates = self.quota.len();
        let all_zones = candidates + self.zone_range.len();
        let load = |place: usize| self.held[place].len();
        let zone_load = move |zone: usize| -> usize {
            (0..candidates).filter(|place| self.zone[*place] == zone).map(load).sum()
        };
        if at < candidates {
            let keeps = load(at) < *self.range[at].end();
            return Box::new(keeps.then_some(candidates + self.zone[at]).into_iter());
        }
        if at == all_zones {
            let gives = move |zone: &usize| zone_load(*zone) > *self.zone_range[*zone].start();
            return Box::new(
                (0..all_zones - candidates).filter(gives).map(move |z| candidates + z),
            );
        }
        let zone = at - candidates;
        let keeps = zone_load(zone) < *self.zone_range[zone].end();
        let gives = move |place: &usize| {
            self.zone[*place] == zone && self.held[*place].len() > *self.range[*place].start()
        };
        Box::new((0..candidates).filter(gives).chain(keeps.then_some(all_zones)))
    }

    /// The cheapest single move from one candidate to another.
    fn cheapest(&self, from: usize, to: usize) -> Option<Step> {
        self.effort.set(self.effort.get() + self.held[from].len() as u64);
        let steps =
            self.held[from].iter().map(|shard| Step { shard: *shard, from: Some(from), to });
        steps
            .filter(|step| self.fits(step.shard, step.from, to))
            .min_by_key(|step| self.cost(*step))
    }

    /// The number of moves that a step adds: diverting a replica that moves already costs nothing.
    fn cost(&self, Step { shard, from, to }: Step) -> i32 {
        let was = |place: usize| self.with_data[shard].contains(&place);
        i32::from(from.is_none_or(was)) - i32::from(was(to))
    }
}

/// A replica of a shard that is placed on a candidate, moved from another or new.
#[derive(Clone, Copy, Debug)]
struct Step {
    shard: usize,
    from: Option<usize>,
    to: usize,
}

/// A number for a candidate with a load that looks random, the same on every platform.
fn scattered(load: usize, place: usize) -> u64 {
    let mixed = (load as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (place as u64 + 1);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// How the search reached a place: from another one, by a move or as its substitute.
#[derive(Clone, Copy, Debug)]
struct Hop {
    by: Option<usize>,
    step: Option<Step>,
}

/// The candidates that have room, in the order in which they get replicas.
type Roomy = BTreeSet<Turn>;
type Turn = (Reverse<u64>, u64, usize);

/// A search for the cheapest path.
struct Search {
    reached: Vec<Option<(i32, Hop)>>,
    /// The cheapest place first; of equal ones those where the search ends.
    queue: BinaryHeap<(Reverse<i32>, bool, Reverse<usize>)>,
}

impl Search {
    fn reach(&mut self, place: usize, cost: i32, is_end: bool, hop: Hop) {
        if self.reached[place].is_none_or(|(known, _)| cost < known) {
            self.reached[place] = Some((cost, hop));
            self.queue.push((Reverse(cost), is_end, Reverse(place)));
        }
    }

    /// The path to a place, the last hop first; `None` if it is circular.
    fn trace(&self, place: usize) -> Option<Vec<(usize, Hop)>> {
        let mut hops: Vec<(usize, Hop)> = Vec::new();
        let mut at = Some(place);
        while let Some(place) = at {
            // A cheaper path found later may have closed a circle.
            if hops.iter().any(|(known, _)| *known == place) {
                return None;
            }
            let (_, hop) = self.reached[place]?;
            hops.push((place, hop));
            at = hop.by;
        }
        Some(hops)
    }
}

#[cfg(test)]
mod tests;
