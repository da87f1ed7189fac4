//! The number of replicas for each candidate and zone: in proportion to the weights, as far as the
//! replicas of one shard can be kept apart, and in whole numbers.

use super::Candidate;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The fair shares of candidates and of their zones, as fractions.
pub(crate) struct Shares {
    /// The zone of each candidate.
    pub zone: Vec<usize>,
    /// The candidates of each zone.
    pub members: Vec<Vec<usize>>,
    pub of_zone: Vec<f64>,
    pub of_candidate: Vec<f64>,
}

impl Shares {
    /// Divides `replicas` replicas of each of `shards` shards; there must be at least as many candidates
    /// as replicas.
    pub fn new(candidates: &[Candidate], replicas: usize, shards: usize) -> Self {
        let names: BTreeMap<&str, usize> = {
            let mut names: Vec<&str> = candidates.iter().map(|c| c.zone.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            BTreeMap::from_iter(names.into_iter().enumerate().map(|(place, name)| (name, place)))
        };
        let zone: Vec<usize> = candidates.iter().map(|c| names[c.zone.as_str()]).collect();
        let mut members = vec![Vec::new(); names.len()];
        zone.iter().enumerate().for_each(|(place, zone)| members[*zone].push(place));

        // The least possible maximum of a shard's replicas in one zone.
        let mut per_zone = 1;
        while members.iter().map(|m| m.len().min(per_zone)).sum::<usize>() < replicas {
            per_zone += 1;
        }
        let total = (shards * replicas) as f64;
        let zones = |own: &[f64]| -> Vec<(f64, f64)> {
            // A candidate limited by `max_replicas` weighs no more than its limit is worth.
            let is_open = |place: &usize| own[*place] == shards as f64;
            let all = || 0..candidates.len();
            let free: f64 = all().filter(is_open).map(|place| candidates[place].weight).sum();
            let held: f64 = all().filter(|place| !is_open(place)).map(|place| own[place]).sum();
            let weight = |place: &usize| {
                let weight = candidates[*place].weight;
                if is_open(place) || held >= total {
                    weight
                } else {
                    weight.min(own[*place] / (total - held) * free)
                }
            };
            let cap = |members: &[usize]| {
                let own: f64 = members.iter().map(|place| own[*place]).sum();
                own.min((shards * members.len().min(per_zone)) as f64)
            };
            members.iter().map(|it| (it.iter().map(weight).sum(), cap(it))).collect()
        };
        let mut own: Vec<f64> =
            candidates.iter().map(|c| c.max_replicas.min(shards) as f64).collect();
        if zones(&own).iter().map(|(_, cap)| cap).sum::<f64>() < total {
            own.fill(shards as f64);
        }
        let of_zone = divided(total, &zones(&own));
        let mut of_candidate = vec![0.0; candidates.len()];
        for (members, share) in members.iter().zip(&of_zone) {
            let parts: Vec<_> = members.iter().map(|p| (candidates[*p].weight, own[*p])).collect();
            for (place, share) in members.iter().zip(divided(*share, &parts)) {
                of_candidate[*place] = share;
            }
        }
        Self { zone, members, of_zone, of_candidate }
    }

    /// The number of replicas out of `total` for each candidate; `loads` has their present numbers.
    pub fn quotas(&self, total: usize, loads: &[usize]) -> Vec<usize> {
        let wanted = |place: &usize| {
            let share = self.of_candidate[*place];
            Target { now: loads[*place], range: rounded(share), share }
        };
        let of_zone = |(members, share): (&Vec<usize>, &f64)| {
            let now = members.iter().map(|place| wanted(place).clamped()).sum();
            Target { now, range: rounded(*share), share: *share }
        };
        let zones: Vec<_> = self.members.iter().zip(&self.of_zone).map(of_zone).collect();
        let mut quotas = vec![0; loads.len()];
        for (members, total) in self.members.iter().zip(whole(total, &zones)) {
            let wanted: Vec<_> = members.iter().map(wanted).collect();
            for (place, quota) in members.iter().zip(whole(total, &wanted)) {
                quotas[*place] = quota;
            }
        }
        quotas
    }
}

/// A share rounded down and up. Rounding errors of floating-point sums do not count as a fraction.
pub(crate) fn rounded(share: f64) -> RangeInclusive<usize> {
    const SLACK: f64 = 1e-6;
    (share + SLACK).floor() as usize..=(share - SLACK).ceil() as usize
}

/// Divides `total` by weight among parts with a weight and a cap. The excess over the cap of a part goes to the other
/// parts. The sum of the caps must be at least `total`.
fn divided(total: f64, parts: &[(f64, f64)]) -> Vec<f64> {
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

/// The replicas that a candidate or a zone has, and should have.
struct Target {
    now: usize,
    range: RangeInclusive<usize>,
    share: f64,
}

impl Target {
    /// The present number, limited to the range.
    fn clamped(&self) -> usize {
        self.now.clamp(*self.range.start(), *self.range.end())
    }

    fn fraction(&self) -> f64 {
        self.share - *self.range.start() as f64
    }
}

/// Whole numbers within the ranges whose sum is `total`, as close as possible to the present ones: the
/// largest fractions are rounded up first and the smallest down first.
fn whole(total: usize, wanted: &[Target]) -> Vec<usize> {
    let mut numbers: Vec<usize> = wanted.iter().map(Target::clamped).collect();
    let mut by_fraction: Vec<usize> = (0..wanted.len()).collect();
    let fraction = |place: &usize| wanted[*place].fraction();
    by_fraction.sort_unstable_by(|a, b| fraction(b).total_cmp(&fraction(a)).then(a.cmp(b)));
    let mut sum: usize = numbers.iter().sum();
    for place in &by_fraction {
        if sum < total && numbers[*place] < *wanted[*place].range.end() {
            numbers[*place] += 1;
            sum += 1;
        }
    }
    for place in by_fraction.iter().rev() {
        if sum > total && numbers[*place] > *wanted[*place].range.start() {
            numbers[*place] -= 1;
            sum -= 1;
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::super::shares::*;

    fn candidates(parts: &[(f64, &str)]) -> Vec<Candidate> {
        let one = |(weight, zone): &(f64, &str)| Candidate {
            weight: *weight,
            zone: (*zone).into(),
            max_replicas: usize::MAX,
        };
        parts.iter().map(one).collect()
    }

    fn wanted(parts: &[(usize, f64)]) -> Vec<Target> {
        let one = |(now, share): &(usize, f64)| Target {
            now: *now,
            range: rounded(*share),
            share: *share,
        };
        parts.iter().map(one).collect()
    }

    #[test]
    fn shares_are_proportional_to_weights() {
        let of = candidates(&[(1.0, "a"), (2.0, "a"), (1.0, "b")]);
        let shares = Shares::new(&of, 1, 8);
        assert_eq!(shares.of_candidate, [2.0, 4.0, 2.0]);
        assert_eq!(shares.of_zone, [6.0, 2.0]);
    }

    #[test]
    fn no_weight_gives_a_candidate_a_shard_twice() {
        let of = candidates(&[(10.0, "a"), (1.0, "a"), (1.0, "a")]);
        assert_eq!(Shares::new(&of, 2, 8).of_candidate, [8.0, 4.0, 4.0]);
    }

    #[test]
    fn replicas_above_the_limit_of_a_candidate_go_to_the_others_if_they_fit() {
        let mut of = candidates(&[(1.0, "a"), (1.0, "a"), (1.0, "b")]);
        of[0].max_replicas = 1;
        assert_eq!(Shares::new(&of, 1, 5).of_candidate, [1.0, 2.0, 2.0]);
        assert_eq!(Shares::new(&of[..2], 2, 7).of_candidate, [7.0, 7.0]);
    }

    #[test]
    fn a_zone_has_no_more_of_a_shard_than_the_others_leave() {
        let of = candidates(&[(1.0, "a"), (1.0, "a"), (1.0, "a"), (1.0, "b")]);
        assert_eq!(Shares::new(&of, 2, 6).of_zone, [6.0, 6.0]);
        assert_eq!(Shares::new(&of, 3, 6).of_zone, [12.0, 6.0]);
    }

    #[test]
    fn rounding_errors_are_not_fractions() {
        assert_eq!(rounded(0.1 + 0.2 + 2.7), 3..=3);
        assert_eq!(rounded(2.5), 2..=3);
    }

    #[test]
    fn the_part_that_already_has_the_larger_number_keeps_it() {
        assert_eq!(whole(5, &wanted(&[(2, 2.5), (3, 2.5)])), [2, 3]);
        assert_eq!(whole(5, &wanted(&[(3, 2.5), (2, 2.5)])), [3, 2]);
        assert_eq!(whole(5, &wanted(&[(9, 2.5), (0, 2.5)])), [3, 2]);
    }

    #[test]
    fn the_largest_fraction_is_rounded_up_first_and_the_smallest_down() {
        assert_eq!(whole(5, &wanted(&[(0, 1.2), (0, 1.9), (0, 1.9)])), [1, 2, 2]);
        assert_eq!(whole(4, &wanted(&[(2, 1.4), (2, 1.3), (2, 1.3)])), [2, 1, 1]);
    }
}
