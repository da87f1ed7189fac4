//! Which nodes get which shards: loads as the weights say, replicas apart, and as little moved as
//! that allows.
//!
//! Every node's load is its fair share, rounded down or up, and so is every zone's. Which of the two
//! follows from what a node has already, and then the replicas that are too many somewhere go where
//! there are too few: each alone where that is possible, else by the shortest chain of moves (an
//! augmenting path, as in R. Ahuja, T. Magnanti and J. Orlin, "Network Flows", 1993, chapter 6).

use super::shares::{Shares, rounded};
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::RangeInclusive;

/// A node that can have shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its share beside the others'; above 0.
    pub weight: f64,
    /// Replicas of a shard are in different zones as long as there are enough of them.
    pub zone: String,
    /// How many replicas it may have at most, if the others can have the rest.
    pub most: usize,
}

/// For each shard the candidates, by their places, that hold its replicas, the first of them first.
pub type Assignment = Vec<Vec<usize>>;

/// Places `replicas` of each shard, or as many as there are candidates. What is in `before` and can
/// stay, stays; the order within a shard too.
pub fn rebalance(candidates: &[Candidate], replicas: usize, before: &Assignment) -> Assignment {
    let replicas = replicas.min(candidates.len());
    if replicas == 0 {
        return vec![Vec::new(); before.len()];
    }
    let mut plan = Plan::new(candidates, replicas, before);
    plan.fill();
    plan.even_out();
    if moves(before, &plan.assignment) > plan.least_moves() {
        plan.take_back();
    }
    plan.assignment
}

/// How many moves are looked at, at most, in search of some that are needless; about a second. Only
/// hundreds of nodes at once, in zones that are short of places, ever come near it.
const MOST_EFFORT: u64 = 20_000_000;

/// How many replicas of `after` are on candidates that did not have the shard in `before`.
pub fn moves(before: &Assignment, after: &Assignment) -> usize {
    let new = |(before, after): (&Vec<usize>, &Vec<usize>)| {
        after.iter().filter(|place| !before.contains(place)).count()
    };
    before.iter().zip(after).map(new).sum()
}

struct Plan {
    replicas: usize,
    /// Of each candidate, by place.
    zone: Vec<usize>,
    /// How many replicas each candidate may have.
    range: Vec<RangeInclusive<usize>>,
    zone_range: Vec<RangeInclusive<usize>>,
    /// How many replicas each candidate is to have.
    quota: Vec<usize>,
    /// How many replicas of one shard may and should be in a zone.
    per_shard: Vec<RangeInclusive<usize>>,
    before: Assignment,
    assignment: Assignment,
    /// How many moves were looked at.
    effort: Cell<u64>,
    /// The shards of each candidate.
    held: Vec<Vec<usize>>,
}

impl Plan {
    fn new(candidates: &[Candidate], replicas: usize, before: &Assignment) -> Self {
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
            before: before.clone(),
            assignment: Vec::new(),
            effort: Cell::new(0),
            held: vec![Vec::new(); candidates.len()],
            zone: shares.zone.clone(),
        };
        plan.keep(&shares.of_candidate);
        let loads: Vec<usize> = plan.held.iter().map(Vec::len).collect();
        plan.quota = shares.quotas(before.len() * replicas, &loads);
        plan
    }

    /// Keeps what is valid: no candidate twice, not too many in all nor in a zone; what is too many
    /// goes from those that have most beyond their share.
    fn keep(&mut self, share: &[f64]) {
        let mut loads = vec![0.0; share.len()];
        for shard in &self.before {
            shard.iter().for_each(|place| loads[*place] += 1.0);
        }
        for shard in 0..self.before.len() {
            let mut kept: Vec<usize> = Vec::new();
            for place in &self.before[shard] {
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

    /// Whether a shard's replica may go to a candidate, from another or anew.
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
        // Replicas that are still to be placed must find the zones that have too few of the shard.
        let missing = self.replicas - places.len() + usize::from(from.is_some());
        let needed: usize = (0..self.per_shard.len())
            .map(|z| self.per_shard[z].start().saturating_sub(self.count(places, z)))
            .sum();
        let is_needed = self.count(places, zone) < *self.per_shard[zone].start();
        leaves_enough
            && (is_needed || missing > needed)
            && self.count(places, zone) < *self.per_shard[zone].end()
    }

    /// How many more replicas a candidate is to have.
    fn room(&self, place: usize) -> usize {
        self.quota[place].saturating_sub(self.held[place].len())
    }

    fn put(&mut self, Step { shard, from, to }: Step) {
        let places = &mut self.assignment[shard];
        match from.and_then(|from| places.iter().position(|place| *place == from)) {
            Some(position) => places[position] = to,
            None => places.push(to),
        }
        if let Some(from) = from {
            self.held[from].retain(|held| *held != shard);
        }
        self.held[to].push(shard);
    }

    /// Places what is missing.
    fn fill(&mut self) {
        let mut roomy = self.roomy();
        let mut left = Vec::new();
        for shard in 0..self.assignment.len() {
            while self.assignment[shard].len() < self.replicas {
                if !self.put_where_room_is(shard, None, &mut roomy) {
                    left.push(shard);
                    break;
                }
            }
        }
        for shard in left {
            while self.assignment[shard].len() < self.replicas {
                let firsts = (0..self.quota.len()).filter(|to| self.fits(shard, None, *to));
                let firsts = firsts.map(|to| Step { shard, from: None, to }).collect();
                if !self.push_on(firsts) {
                    break;
                }
            }
        }
    }

    /// Moves replicas from candidates that have too many to those that have too few.
    fn even_out(&mut self) {
        let mut roomy = self.roomy();
        for from in 0..self.quota.len() {
            for shard in self.held[from].clone() {
                if self.held[from].len() > self.quota[from] {
                    self.put_where_room_is(shard, Some(from), &mut roomy);
                }
            }
            while self.held[from].len() > self.quota[from] {
                let firsts =
                    (0..self.quota.len()).filter_map(|to| self.cheapest(from, to)).collect();
                if !self.push_on(firsts) {
                    break;
                }
                roomy = self.roomy();
            }
        }
    }

    /// The candidates that have room, those with most of it first.
    fn roomy(&self) -> Roomy {
        let all = (0..self.quota.len()).map(|place| (Reverse(self.room(place)), place));
        all.filter(|(room, _)| room.0 > 0).collect()
    }

    /// Puts a replica where most room is; false when it fits nowhere.
    fn put_where_room_is(&mut self, shard: usize, from: Option<usize>, roomy: &mut Roomy) -> bool {
        let mut fitting = roomy.iter().filter(|(_, to)| self.fits(shard, from, *to));
        let Some(&(room, to)) = fitting.next() else { return false };
        self.put(Step { shard, from, to });
        roomy.remove(&(room, to));
        if self.room(to) > 0 {
            roomy.insert((Reverse(self.room(to)), to));
        }
        true
    }

    /// No assignment with the right loads moves less.
    fn least_moves(&self) -> usize {
        let mut loads = vec![0usize; self.range.len()];
        self.before.iter().flatten().for_each(|place| loads[*place] += 1);
        let ranges = || self.range.iter().zip(&loads);
        let lacking: usize =
            ranges().map(|(range, load)| range.start().saturating_sub(*load)).sum();
        let kept: usize = ranges().map(|(range, load)| *load.min(range.end())).sum();
        lacking.max((self.before.len() * self.replicas).saturating_sub(kept))
    }

    /// Takes moves back that another choice of what is rounded up, or of what went where, makes
    /// needless: a replica returns, and what it pushes on is under way anyway.
    fn take_back(&mut self) {
        let begun = self.effort.get();
        for shard in 0..self.assignment.len() {
            for from in self.assignment[shard].clone() {
                if self.before[shard].contains(&from) || self.effort.get() - begun > MOST_EFFORT {
                    continue;
                }
                let back =
                    self.before[shard].iter().map(|to| Step { shard, from: Some(from), to: *to });
                let firsts = back.filter(|step| self.fits(shard, step.from, step.to)).collect();
                let others = self.chain(firsts, |at| at == from, Some(0));
                others.into_iter().flatten().for_each(|step| self.put(step));
            }
        }
    }

    /// Makes the cheapest chain of moves that begins with one of `firsts` and ends where there is
    /// room: what is put somewhere pushes another replica on from there.
    fn push_on(&mut self, firsts: Vec<Step>) -> bool {
        let chain = self.chain(firsts, |at| self.room(at) > 0, None);
        let is_found = chain.is_some();
        chain.into_iter().flatten().for_each(|step| self.put(step));
        is_found
    }

    /// The steps of the cheapest chain that ends so, the last first: it makes the room for the one
    /// before it. With a limit, which its cost stays below, a candidate or a zone may also keep what
    /// it gets and another give for it, as far as the rounding of their shares allows.
    fn chain(
        &self,
        firsts: Vec<Step>,
        ends: impl Fn(usize) -> bool,
        below: Option<i32>,
    ) -> Option<Vec<Step>> {
        let candidates = self.quota.len();
        let all_zones = candidates + self.zone_range.len();
        let mut search = Search { reached: vec![None; all_zones + 1], queue: BinaryHeap::new() };
        let limit = below.unwrap_or(i32::MAX);
        for step in firsts.into_iter().filter(|step| self.cost(*step) < limit) {
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
                for to in self.may_give_instead(at).filter(|to| !is_behind(*to)) {
                    search.reach(to, cost, ends(to), Hop { by: Some(at), step: None });
                }
            }
        }
        None
    }

    /// Where one may be given for one that is kept here. Behind the candidates are the zones, and
    /// behind those all zones together.
    fn may_give_instead(&self, at: usize) -> Box<dyn Iterator<Item = usize> + '_> {
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

    /// What a step adds to the moves: one that is under way already goes on for nothing.
    fn cost(&self, Step { shard, from, to }: Step) -> i32 {
        let was = |place: usize| self.before[shard].contains(&place);
        i32::from(from.is_none_or(was)) - i32::from(was(to))
    }
}

/// One replica of a shard that goes somewhere, from elsewhere or anew.
#[derive(Clone, Copy, Debug)]
struct Step {
    shard: usize,
    from: Option<usize>,
    to: usize,
}

/// How a place was reached: from another one, by a move or because it may give instead.
#[derive(Clone, Copy, Debug)]
struct Hop {
    by: Option<usize>,
    step: Option<Step>,
}

/// Candidates with how much room they have.
type Roomy = BTreeSet<(Reverse<usize>, usize)>;

/// A search for the cheapest way.
struct Search {
    reached: Vec<Option<(i32, Hop)>>,
    /// The cheapest first, and of those the ones where the search ends.
    queue: BinaryHeap<(Reverse<i32>, bool, Reverse<usize>)>,
}

impl Search {
    fn reach(&mut self, place: usize, cost: i32, is_end: bool, hop: Hop) {
        if self.reached[place].is_none_or(|(known, _)| cost < known) {
            self.reached[place] = Some((cost, hop));
            self.queue.push((Reverse(cost), is_end, Reverse(place)));
        }
    }

    /// The way to a place, the last hop first.
    fn trace(&self, place: usize) -> Option<Vec<(usize, Hop)>> {
        let mut hops: Vec<(usize, Hop)> = Vec::new();
        let mut at = Some(place);
        while let Some(place) = at {
            // A cheaper way that was found later must not make a circle.
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
