//! Lookups in the hash ring, compared with a binary search in the same points and with the crate
//! `hashring`. `make bench` runs it; it fails when the ring takes more than half of the binary
//! search's time.

#![allow(clippy::print_stdout)] // prints its results

mod figures;

use consul_api::ring::{POINTS, Ring, hash};
use figures::{mark, median};
use hashring::HashRing;
use std::hint::black_box;
use std::time::Instant;
use twox_hash::XxHash3_64;

/// The limit of the ring's time, as a fraction of the binary search's.
const BOUND: f64 = 0.5;

/// The number of keys looked up in a round.
const KEYS: usize = 100_000;

/// The number of rounds; each measures all ways.
const ROUNDS: usize = 41;

fn main() {
    println!("nanoseconds for a lookup, the median of {ROUNDS} rounds of {KEYS} random keys:");
    if [10, 100, 1000].map(compare).contains(&false) {
        std::process::exit(1);
    }
}

/// The obvious implementation: the same points in one sorted list.
struct Sorted {
    points: Vec<(u64, u32)>,
}

impl Sorted {
    fn new(ids: &[String]) -> Self {
        let mut points = Vec::new();
        for (index, id) in ids.iter().enumerate() {
            for k in 0..POINTS {
                let point = XxHash3_64::oneshot(&[id.as_bytes(), &k.to_le_bytes()].concat());
                points.push((point, index as u32));
            }
        }
        points.sort_unstable();
        Sorted { points }
    }

    fn owner_of(&self, hash: u64) -> Option<usize> {
        let first = self.points.partition_point(|(point, _)| *point < hash);
        let owner = self.points.get(first).or(self.points.first());
        owner.map(|(_, index)| *index as usize)
    }
}

/// A node's point, for the crate `hashring`.
#[derive(Clone, Hash)]
struct VirtualNode<'a> {
    id: &'a str,
    k: u32,
    index: usize,
}

fn compare(nodes: usize) -> bool {
    let ids: Vec<_> = (1..=nodes).map(|number| format!("node-{number}")).collect();
    let weighted: Vec<_> = ids.iter().map(|id| (id, 1.0)).collect();
    let (ring, sorted) = (Ring::new(&weighted), Sorted::new(&ids));
    let mut other = HashRing::new();
    let virtual_nodes = |(index, id)| (0..POINTS).map(move |k| VirtualNode { id, k, index });
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
            time(|| keys.iter().filter_map(|key| Some(other.get(key)?.index)).sum()),
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
    println!("    ratio {ratio:.2}{bound}{}", mark(holds));
    println!("  by a key: ring {of_key:.1}, the crate hashring {of_crate:.1}");
    holds
}

/// The nanoseconds per key of a function that looks up all keys.
fn time(look_up: impl Fn() -> usize) -> f64 {
    let begun = Instant::now();
    black_box(look_up());
    begun.elapsed().as_secs_f64() * 1e9 / KEYS as f64
}
