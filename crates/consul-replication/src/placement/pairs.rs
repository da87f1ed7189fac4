//! How many shards each two candidates have in common, and which choice keeps these numbers even.

/// The shards that candidates have in common, pair by pair.
pub(super) struct Pairs {
    /// For each candidate its common shards with each one before it.
    common: Vec<u32>,
    /// The number of shards that each candidate is to have.
    quota: Vec<f64>,
    /// An even number of common shards for a pair is this part of the product of their quotas.
    even: f64,
}

impl Pairs {
    pub fn new(quota: &[usize], replicas: usize, shards: &[Vec<usize>]) -> Self {
        let even = (replicas as f64 - 1.0) / quota.iter().sum::<usize>() as f64;
        let common = vec![0; index(quota.len(), 0)];
        let quota = quota.iter().map(|quota| (*quota).max(1) as f64).collect();
        let mut pairs = Self { common, quota, even };
        for places in shards {
            for (count, place) in places.iter().enumerate() {
                pairs.add(*place, &places[..count]);
            }
        }
        pairs
    }

    /// Counts a shard of `others` that `place` gets.
    pub fn add(&mut self, place: usize, others: &[usize]) {
        self.change(place, others, |common| *common += 1);
    }

    /// Counts a shard of `others` that `place` gives up.
    pub fn remove(&mut self, place: usize, others: &[usize]) {
        self.change(place, others, |common| *common -= 1);
    }

    fn change(&mut self, place: usize, others: &[usize], change: impl Fn(&mut u32)) {
        for other in others.iter().filter(|other| **other != place) {
            change(&mut self.common[index(place, *other)]);
        }
    }

    /// How much more uneven the pairs become if a shard of `others` moves to a candidate, from another or
    /// new. It is 0 for a new one without a shard in common with the others.
    pub fn unevenness(&self, others: &[usize], from: Option<usize>, to: usize) -> f64 {
        let fullness = |place: usize, other: usize| {
            let common = self.common[index(place, other)];
            f64::from(common) / (self.even * self.quota[place] * self.quota[other])
        };
        let others = others.iter().filter(|other| Some(**other) != from);
        let change =
            |other: &usize| fullness(to, *other) - from.map_or(0.0, |from| fullness(from, *other));
        others.map(change).sum()
    }
}

fn index(one: usize, other: usize) -> usize {
    let (low, high) = (one.min(other), one.max(other));
    high * high.saturating_sub(1) / 2 + low
}
