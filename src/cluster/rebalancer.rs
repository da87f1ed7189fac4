//! Which nodes get which shards: loads as the weights say, replicas apart, and as little moved as
//! that allows.
//!
//! Every node's load is its fair share, rounded down or up, and so is every zone's. Which of the two
//! follows from what a node has already, and then the replicas that are too many somewhere go where
//! there are too few: each alone where that is possible, else by the shortest chain of moves (an
//! augmenting path, as in R. Ahuja, T. Magnanti and J. Orlin, "Network Flows", 1993, chapter 6).

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::RangeInclusive;

/// A node that can have shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its share beside the others'; above 0.
    pub weight: f64,
    /// Replicas of a shard are in different zones as long as there are enough of them.
    pub zone: String,
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

/// Divides `total` by weight, no part above its cap; what is above goes to the others.
///
/// The caps' sum must be at least `total`.
fn shares(total: f64, parts: &[(f64, f64)]) -> Vec<f64> {
    let mut shares = vec![None; parts.len()];
    loop {
        let open = |place: &usize| shares[*place].is_none();
        let given: f64 = shares.iter().flatten().sum();
        let weight: f64 = (0..parts.len()).filter(open).map(|place| parts[place].0).sum();
        let share = |place: usize| (total - given) * parts[place].0 / weight;
        let full: Vec<usize> = (0..parts.len())
            .filter(open)
            .filter(|place| share(*place) >= parts[*place].1)
            .collect();
        if full.is_empty() {
            return (0..parts.len())
                .map(|place| shares[place].unwrap_or_else(|| share(place)))
                .collect();
        }
        for place in full {
            shares[place] = Some(parts[place].1);
        }
    }
}

/// A share rounded down and up. What a sum of fractions leaves beside a whole number is no fraction.
fn rounded(share: f64) -> RangeInclusive<usize> {
    const SLACK: f64 = 1e-6;
    (share + SLACK).floor() as usize..=(share - SLACK).ceil() as usize
}

/// Numbers within ranges whose sum is `total`, as close as can be to what there is: they change only
/// as far as the sum demands, the largest fractions up first and the smallest down first.
fn quotas(total: usize, wanted: &[(usize, RangeInclusive<usize>, f64)]) -> Vec<usize> {
    let clamped = |(now, range, _): &(usize, RangeInclusive<usize>, f64)| {
        (*now).clamp(*range.start(), *range.end())
    };
    let mut quotas: Vec<usize> = wanted.iter().map(clamped).collect();
    let mut by_fraction: Vec<usize> = (0..wanted.len()).collect();
    let fraction = |place: &usize| wanted[*place].2 - *wanted[*place].1.start() as f64;
    by_fraction.sort_by(|a, b| fraction(b).total_cmp(&fraction(a)).then(a.cmp(b)));
    let mut sum: usize = quotas.iter().sum();
    for place in &by_fraction {
        if sum < total && quotas[*place] < *wanted[*place].1.end() {
            quotas[*place] += 1;
            sum += 1;
        }
    }
    for place in by_fraction.iter().rev() {
        if sum > total && quotas[*place] > *wanted[*place].1.start() {
            quotas[*place] -= 1;
            sum -= 1;
        }
    }
    quotas
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
        let names: BTreeMap<&str, usize> = {
            let mut names: Vec<&str> = candidates.iter().map(|c| c.zone.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            names.into_iter().enumerate().map(|(place, name)| (name, place)).collect()
        };
        let zone: Vec<usize> = candidates.iter().map(|c| names[c.zone.as_str()]).collect();
        let mut members = vec![Vec::new(); names.len()];
        zone.iter().enumerate().for_each(|(place, zone)| members[*zone].push(place));

        // As few as possible of a shard's replicas in one zone.
        let mut most = 1;
        while members.iter().map(|m| m.len().min(most)).sum::<usize>() < replicas {
            most += 1;
        }
        let shards = before.len() as f64;
        let weight = |z: usize| members[z].iter().map(|place| candidates[*place].weight).sum();
        let cap = |z: usize| shards * members[z].len().min(most) as f64;
        let zones: Vec<(f64, f64)> = (0..members.len()).map(|z| (weight(z), cap(z))).collect();
        let zone_share = shares(shards * replicas as f64, &zones);
        let mut share = vec![0.0; candidates.len()];
        for (z, members) in members.iter().enumerate() {
            let parts: Vec<_> = members.iter().map(|p| (candidates[*p].weight, shards)).collect();
            for (place, of_node) in members.iter().zip(shares(zone_share[z], &parts)) {
                share[*place] = of_node;
            }
        }

        let per_shard = |z: usize| {
            let of_one = rounded(zone_share[z] / shards.max(1.0));
            *of_one.start()..=(*of_one.end()).min(members[z].len())
        };
        let mut plan = Plan {
            replicas,
            range: share.iter().map(|share| rounded(*share)).collect(),
            zone_range: zone_share.iter().map(|share| rounded(*share)).collect(),
            quota: Vec::new(),
            per_shard: (0..members.len()).map(per_shard).collect(),
            before: before.clone(),
            assignment: Vec::new(),
            effort: Cell::new(0),
            held: vec![Vec::new(); candidates.len()],
            zone,
        };
        plan.keep(&share);
        let loads: Vec<usize> = plan.held.iter().map(Vec::len).collect();
        let wanted = |place: &usize| (loads[*place], rounded(share[*place]), share[*place]);
        let of_zone = |(z, members): (usize, &Vec<usize>)| {
            let clamped = |place: &usize| {
                let (now, range, _) = wanted(place);
                now.clamp(*range.start(), *range.end())
            };
            (members.iter().map(clamped).sum(), rounded(zone_share[z]), zone_share[z])
        };
        let zones: Vec<_> = members.iter().enumerate().map(of_zone).collect();
        plan.quota = vec![0; candidates.len()];
        for (members, total) in members.iter().zip(quotas(before.len() * replicas, &zones)) {
            let wanted: Vec<_> = members.iter().map(wanted).collect();
            for (place, quota) in members.iter().zip(quotas(total, &wanted)) {
                plan.quota[*place] = quota;
            }
        }
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
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use super::*;
    use std::collections::VecDeque;

    fn candidate(weight: f64, zone: usize) -> Candidate {
        Candidate { weight, zone: format!("zone-{zone}") }
    }

    fn fair(candidates: &[Candidate], replicas: usize, shards: usize) -> Plan {
        Plan::new(candidates, replicas.min(candidates.len()), &vec![Vec::new(); shards])
    }

    /// The least number of moves that any assignment within the rules takes, by a minimum-cost flow
    /// from shards over zones to candidates.
    fn fewest_moves(candidates: &[Candidate], replicas: usize, before: &Assignment) -> usize {
        let plan = fair(candidates, replicas, before.len());
        let (shards, zones, nodes) = (before.len(), plan.per_shard.len(), candidates.len());
        let share = node_shares(candidates, plan.replicas, shards);
        let zone_share =
            |z: usize| -> f64 { (0..nodes).filter(|n| plan.zone[*n] == z).map(|n| share[n]).sum() };
        // source, shards, shard×zone, nodes, zones, sink
        let shard = |s: usize| 1 + s;
        let pair = |s: usize, z: usize| 1 + shards + s * zones + z;
        let node = |n: usize| 1 + shards + shards * zones + n;
        let zone = |z: usize| 1 + shards + shards * zones + nodes + z;
        let sink = 1 + shards + shards * zones + nodes + zones;
        let mut flow = Flow::new(sink + 1);
        for (s, held) in before.iter().enumerate() {
            flow.edge(0, shard(s), 0..=plan.replicas, 0);
            for z in 0..zones {
                flow.edge(shard(s), pair(s, z), plan.per_shard[z].clone(), 0);
            }
            for n in 0..nodes {
                let cost = i64::from(!held.contains(&n));
                flow.edge(pair(s, plan.zone[n]), node(n), 0..=1, cost);
            }
        }
        for (n, share) in share.iter().enumerate() {
            flow.edge(node(n), zone(plan.zone[n]), rounded(*share), 0);
        }
        for z in 0..zones {
            flow.edge(zone(z), sink, rounded(zone_share(z)), 0);
        }
        flow.cheapest(0, sink, shards * plan.replicas)
    }

    fn node_shares(candidates: &[Candidate], replicas: usize, shards: usize) -> Vec<f64> {
        let mut zones: Vec<&str> = candidates.iter().map(|c| c.zone.as_str()).collect();
        zones.sort_unstable();
        zones.dedup();
        let members = |zone: &str| candidates.iter().filter(|c| c.zone == zone).count();
        let mut most = 1;
        while zones.iter().map(|z| members(z).min(most)).sum::<usize>() < replicas {
            most += 1;
        }
        let weight = |zone: &str| {
            candidates.iter().filter(|c| c.zone == zone).map(|c| c.weight).sum::<f64>()
        };
        let parts: Vec<_> =
            zones.iter().map(|z| (weight(z), (shards * members(z).min(most)) as f64)).collect();
        let of_zones = shares((shards * replicas) as f64, &parts);
        let mut found = vec![0.0; candidates.len()];
        for (zone, share) in zones.iter().zip(of_zones) {
            let places: Vec<usize> =
                (0..candidates.len()).filter(|n| candidates[*n].zone == **zone).collect();
            let parts: Vec<_> =
                places.iter().map(|n| (candidates[*n].weight, shards as f64)).collect();
            for (place, share) in places.iter().zip(shares(share, &parts)) {
                found[*place] = share;
            }
        }
        found
    }

    /// A minimum-cost flow with lower bounds, by successive cheapest paths; small graphs only.
    struct Flow {
        edges: Vec<(usize, usize, i64, i64)>, // from, to, capacity left, cost
        at: Vec<Vec<usize>>,
        count: usize,
    }

    /// What a unit below a lower bound is worth, more than any cost.
    const NEED: i64 = 1 << 20;

    impl Flow {
        fn new(count: usize) -> Self {
            Flow { edges: Vec::new(), at: vec![Vec::new(); count], count }
        }

        fn edge(&mut self, from: usize, to: usize, range: RangeInclusive<usize>, cost: i64) {
            let (low, high) = (*range.start() as i64, *range.end() as i64);
            for (capacity, cost) in [(low, cost - NEED), (high - low, cost)] {
                if capacity > 0 {
                    self.at[from].push(self.edges.len());
                    self.edges.push((from, to, capacity, cost));
                    self.at[to].push(self.edges.len());
                    self.edges.push((to, from, 0, -cost));
                }
            }
        }

        /// The cost of so many units without what lower bounds are worth; they must all be met.
        fn cheapest(&mut self, source: usize, sink: usize, units: usize) -> usize {
            let mut total = 0;
            for _ in 0..units {
                let mut distance = vec![i64::MAX; self.count];
                let mut by = vec![usize::MAX; self.count];
                let mut queue = VecDeque::from([source]);
                let mut queued = vec![false; self.count];
                distance[source] = 0;
                while let Some(at) = queue.pop_front() {
                    queued[at] = false;
                    for &edge in &self.at[at] {
                        let (_, to, left, cost) = self.edges[edge];
                        if left > 0 && distance[at] + cost < distance[to] {
                            distance[to] = distance[at] + cost;
                            by[to] = edge;
                            if !queued[to] {
                                queued[to] = true;
                                queue.push_back(to);
                            }
                        }
                    }
                }
                assert!(by[sink] != usize::MAX, "the shards have no place");
                let mut at = sink;
                while at != source {
                    let edge = by[at];
                    self.edges[edge].2 -= 1;
                    self.edges[edge ^ 1].2 += 1;
                    at = self.edges[edge].0;
                }
                total += distance[sink];
            }
            let unmet = |(place, edge): (usize, &(usize, usize, i64, i64))| {
                place % 2 == 0 && edge.3 < -NEED / 2 && edge.2 > 0
            };
            assert!(!self.edges.iter().enumerate().any(unmet), "a lower bound is not met");
            (((total % NEED) + NEED) % NEED) as usize
        }
    }

    /// What every assignment must be.
    fn check(candidates: &[Candidate], replicas: usize, after: &Assignment) {
        let replicas = replicas.min(candidates.len());
        let share = node_shares(candidates, replicas, after.len());
        let plan = fair(candidates, replicas, after.len());
        let mut loads = vec![0; candidates.len()];
        for places in after {
            assert_eq!(places.len(), replicas);
            let mut distinct = places.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), replicas, "a node twice");
            places.iter().for_each(|place| loads[*place] += 1);
            for (zone, range) in plan.per_shard.iter().enumerate() {
                let count = plan.count(places, zone);
                assert!(range.contains(&count), "{count} in zone {zone}, {range:?}: {places:?}");
            }
        }
        for (place, load) in loads.iter().enumerate() {
            assert!(
                rounded(share[place]).contains(load),
                "{load} on {place}, share {}: {loads:?}",
                share[place]
            );
        }
    }

    /// The same nodes under other places: what a change of members does.
    fn without(before: &Assignment, gone: usize) -> Assignment {
        let shift = |place: &usize| {
            (*place != gone).then_some(if *place > gone { place - 1 } else { *place })
        };
        before.iter().map(|places| places.iter().filter_map(shift).collect()).collect()
    }

    /// No assignment with these loads can move less; where zones are short of places, none can do
    /// that well.
    fn bound(candidates: &[Candidate], replicas: usize, before: &Assignment) -> usize {
        let replicas = replicas.min(candidates.len());
        let share = node_shares(candidates, replicas, before.len());
        let mut loads = vec![0usize; candidates.len()];
        before.iter().flatten().for_each(|place| loads[*place] += 1);
        let total = before.len() * replicas;
        let held: usize = loads.iter().sum();
        let ranges: Vec<_> = share.iter().map(|share| rounded(*share)).collect();
        let lacking: usize =
            ranges.iter().zip(&loads).map(|(r, l)| r.start().saturating_sub(*l)).sum();
        let beyond: usize =
            ranges.iter().zip(&loads).map(|(r, l)| l.saturating_sub(*r.end())).sum();
        lacking.max((total - held.min(total)) + beyond)
    }

    /// Changes one thing; the assignment that was, told of the candidates that are.
    fn change(
        rng: &mut fastrand::Rng,
        candidates: &mut Vec<Candidate>,
        zones: usize,
        now: &Assignment,
    ) -> Assignment {
        match rng.usize(..3) {
            0 => candidates.push(candidate(1.0, rng.usize(..zones))),
            1 if candidates.len() > 1 => {
                let gone = rng.usize(..candidates.len());
                candidates.remove(gone);
                return without(now, gone);
            }
            _ => {
                let place = rng.usize(..candidates.len());
                candidates[place].weight = [0.5, 1.0, 1.5, 2.0][rng.usize(..4)];
            }
        }
        now.clone()
    }

    #[test]
    fn a_single_change_moves_no_more_than_it_must() {
        let mut rng = fastrand::Rng::with_seed(1);
        for nodes in [3, 4, 5, 7, 16, 50] {
            for (zones, replicas) in
                [(1, 1), (1, 2), (1, 3), (3, 3), (5, 3), (2, 3), (3, 2), (5, 2)]
            {
                let weight = |rng: &mut fastrand::Rng| [1.0, 1.0, 2.0][rng.usize(..3)];
                let mut candidates: Vec<_> =
                    (0..nodes).map(|place| candidate(weight(&mut rng), place % zones)).collect();
                let shards = if nodes <= 16 { 24 } else { 256 };
                let mut now = rebalance(&candidates, replicas, &vec![Vec::new(); shards]);
                for _ in 0..4 {
                    let before = change(&mut rng, &mut candidates, zones, &now);
                    now = rebalance(&candidates, replicas, &before);
                    check(&candidates, replicas, &now);
                    let made = moves(&before, &now);
                    let least = bound(&candidates, replicas, &before);
                    if nodes <= 16 && made > least {
                        assert_eq!(made, fewest_moves(&candidates, replicas, &before));
                    } else if zones == 1 || nodes <= 16 {
                        assert_eq!(made, least);
                    }
                }
            }
        }
    }

    #[test]
    fn whatever_there_was_the_fewest_moves_are_made() {
        let mut rng = fastrand::Rng::with_seed(2);
        for _ in 0..500 {
            let (nodes, zones) = (rng.usize(1..7), rng.usize(1..4));
            let (replicas, shards) = (rng.usize(1..4), rng.usize(1..12));
            let any = |rng: &mut fastrand::Rng| {
                candidate([1.0, 2.0, 0.5][rng.usize(..3)], rng.usize(..zones))
            };
            let candidates: Vec<_> = (0..nodes).map(|_| any(&mut rng)).collect();
            let before: Assignment = (0..shards)
                .map(|_| {
                    let mut places: Vec<usize> = (0..nodes).collect();
                    rng.shuffle(&mut places);
                    places.truncate(rng.usize(..=replicas));
                    places
                })
                .collect();
            let after = rebalance(&candidates, replicas, &before);
            check(&candidates, replicas, &after);
            assert_eq!(
                moves(&before, &after),
                fewest_moves(&candidates, replicas, &before),
                "{replicas} replicas on {candidates:?}: {before:?}"
            );
        }
    }

    #[test]
    fn a_tenth_of_a_thousand_nodes_leaves_and_comes_back() {
        let mut candidates: Vec<_> = (0..1000).map(|place| candidate(1.0, place % 5)).collect();
        let mut now = rebalance(&candidates, 3, &vec![Vec::new(); 16_384]);
        for place in (0..100).rev().map(|k| 10 * k + 3) {
            candidates.remove(place);
            now = without(&now, place);
        }
        let left = rebalance(&candidates, 3, &now);
        check(&candidates, 3, &left);
        assert_eq!(moves(&now, &left), bound(&candidates, 3, &now));
        candidates.extend((0..100).map(|_| candidate(1.0, 3)));
        let back = rebalance(&candidates, 3, &left);
        check(&candidates, 3, &back);
    }

    #[test]
    fn nothing_changes_without_a_reason() {
        let candidates: Vec<_> = (0..7).map(|place| candidate(1.0, place % 3)).collect();
        let now = rebalance(&candidates, 2, &vec![Vec::new(); 1024]);
        assert_eq!(rebalance(&candidates, 2, &now), now);
    }

    #[test]
    fn without_candidates_there_are_no_replicas() {
        assert_eq!(rebalance(&[], 3, &vec![vec![]; 2]), vec![Vec::<usize>::new(); 2]);
        assert_eq!(rebalance(&[candidate(1.0, 0)], 3, &vec![vec![]; 2]), vec![vec![0]; 2]);
    }
}
