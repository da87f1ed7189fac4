//! How long the ring takes to say who owns a key, beside a binary search in the same points and
//! beside the crate `hashring`. Run by `make bench`; every figure that it prints was measured in the
//! run, and it fails when the ring takes more than half of the binary search's time.

#![allow(clippy::print_stdout)] // printing is what it is for

use consul_ffi::ring::{POINTS, Ring, hash};
use hashring::HashRing;
use std::hint::black_box;
use std::time::Instant;
use twox_hash::XxHash3_64;

/// How much of the binary search's time the ring may take.
const BOUND: f64 = 0.5;

/// How many keys are looked up in a round.
const KEYS: usize = 100_000;

/// How many rounds there are; in each, all take their turn.
const ROUNDS: usize = 41;

fn main() {
    println!("nanoseconds for a lookup, the median of {ROUNDS} rounds of {KEYS} random keys:");
    let fits = [10, 100, 1000].map(compare);
    if fits.contains(&false) {
        std::process::exit(1);
    }
}

/// The ring as one would write it first: the same points in one sorted list.
struct Sorted {
    points: Vec<(u64, u32)>,
}

impl Sorted {
    fn new(ids: &[String]) -> Self {
        let mut points = Vec::new();
        for (place, id) in ids.iter().enumerate() {
            for k in 0..POINTS {
                let point = XxHash3_64::oneshot(&[id.as_bytes(), &k.to_le_bytes()].concat());
                points.push((point, place as u32));
            }
        }
        points.sort_unstable();
        Sorted { points }
    }

    fn owner_of(&self, hash: u64) -> Option<usize> {
        let first = self.points.partition_point(|(point, _)| *point < hash);
        let owner = self.points.get(first).or(self.points.first());
        owner.map(|(_, place)| *place as usize)
    }
}

/// A node's point, as the crate wants to be given it.
#[derive(Clone, Hash)]
struct VirtualNode<'a> {
    id: &'a str,
    k: u32,
    place: usize,
}

fn compare(nodes: usize) -> bool {
    let ids: Vec<_> = (1..=nodes).map(|number| format!("node-{number}")).collect();
    let weighted: Vec<_> = ids.iter().map(|id| (id, 1.0)).collect();
    let (ring, sorted) = (Ring::new(&weighted), Sorted::new(&ids));
    let mut other = HashRing::new();
    let virtual_nodes = |(place, id)| (0..POINTS).map(move |k| VirtualNode { id, k, place });
    let ids = ids.iter().map(String::as_str).enumerate();
    other.batch_add(ids.flat_map(virtual_nodes).collect());
    let mut rng = fastrand::Rng::with_seed(1);
    let keys: Vec<_> = (0..KEYS).map(|_| format!("stock-{:08}", rng.u32(..100_000_000))).collect();
    let hashes: Vec<_> = keys.iter().map(|key| hash(key.as_bytes())).collect();
    for hash in &hashes {
        assert_eq!(ring.owner_of(*hash), sorted.owner_of(*hash));
    }
    let mut times = [const { Vec::new() }; 4];
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let round = [
            time(|| hashes.iter().filter_map(|hash| ring.owner_of(*hash)).sum()),
            time(|| hashes.iter().filter_map(|hash| sorted.owner_of(*hash)).sum()),
            time(|| keys.iter().filter_map(|key| ring.owner(key.as_bytes())).sum()),
            time(|| keys.iter().filter_map(|key| Some(other.get(key)?.place)).sum()),
        ];
        ratios.push(round[0] / round[1]);
        times.iter_mut().zip(round).for_each(|(times, time)| times.push(time));
    }
    let [found, searched, of_key, of_crate] = times.map(median);
    let ratio = median(ratios);
    let is_bound = nodes >= 100;
    let holds = !is_bound || ratio <= BOUND;
    println!("{nodes} nodes, {} points:", nodes * POINTS as usize);
    println!("  by a key's hash: ring {found:.1}, binary search {searched:.1}");
    let bound = if is_bound { format!(" (at most {BOUND})") } else { String::new() };
    println!("    ratio {ratio:.2}{bound}{}", if holds { "" } else { "  TOO MUCH" });
    println!("  by a key: ring {of_key:.1}, the crate hashring {of_crate:.1}");
    holds
}

/// Nanoseconds for each key of what looks all of them up.
fn time(look_up: impl Fn() -> usize) -> f64 {
    let begun = Instant::now();
    black_box(look_up());
    begun.elapsed().as_secs_f64() * 1e9 / KEYS as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
