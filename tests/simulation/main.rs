//! Histories under a virtual clock and a seed: locks and clusters under every fault that we could
//! think of.
//!
//!     make dst SEEDS=500
//!     make dst SEED=17                       one of them, shown
//!     BROKEN=NoLockDelay make dst SEED=0     the same without one rule
//!     SEMAPHORE=1 make dst SEED=17           one of a semaphore
//!     CLUSTER=1 make dst SEED=17             one of a cluster
//!     NODES=1000 make dst SEEDS=1            with so many nodes in the cluster of many

#![allow(clippy::print_stdout)]

mod broken;
mod cluster;
mod locks;
mod world;

use broken::Broken;
use libtest_mimic::{Arguments, Failed, Trial};
use std::time::Instant;
use world::Report;

const DEFAULT_SEEDS: u64 = 500;

/// What many nodes cost grows with their square.
const DEFAULT_NODES: u64 = 100;

/// Most of a semaphore is what a lock is.
const SEEDS_TO_ONE_OF_A_SEMAPHORE: u64 = 4;

/// Seeds above those of `make test` that once found something.
const FOUND: [u64; 3] = [552, 2266, 5301];
const FOUND_IN_CLUSTERS: [u64; 14] =
    [975, 1290, 2085, 2835, 3277, 4477, 6093, 7340, 8052, 10172, 13369, 14782, 16075, 17739];

/// A rule that is left out must show within this many seeds.
const SEEDS_TO_FIND: u64 = 500;

/// What a history is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Lock,
    Semaphore,
    Cluster,
}

fn play(seed: u64, what: What, broken: Option<Broken>, traced: bool) -> Report {
    match what {
        What::Lock => locks::play(seed, false, broken, traced),
        What::Semaphore => locks::play(seed, true, broken, traced),
        What::Cluster => cluster::play(seed, broken, traced),
    }
}

fn main() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let is_set = |name: &str| std::env::var_os(name).is_some();
    if let Some(seed) = number("SEED") {
        let broken = std::env::var("BROKEN").ok();
        let broken = broken.map(|name| Broken::named(&name).expect("a rule's name"));
        let what = match () {
            () if is_set("CLUSTER") => What::Cluster,
            () if is_set("SEMAPHORE") => What::Semaphore,
            () => What::Lock,
        };
        return replay(seed, what, broken);
    }
    let seeds = number("SEEDS").unwrap_or(DEFAULT_SEEDS);
    let mut arguments = Arguments::from_args();
    // Each uses all processors.
    arguments.test_threads = Some(1);
    let semaphores = seeds.div_ceil(SEEDS_TO_ONE_OF_A_SEMAPHORE);
    let mut trials = vec![
        Trial::test("locks_are_safe_and_come_back", move || all_are_safe(0..seeds, What::Lock)),
        Trial::test("what_seeds_once_found_stays_mended", || all_are_safe(FOUND, What::Lock)),
        Trial::test("semaphores_are_safe_and_come_back", move || {
            all_are_safe(0..semaphores, What::Semaphore)
        }),
        Trial::test("clusters_are_safe_and_come_back", move || {
            all_are_safe(0..seeds, What::Cluster)
        }),
        Trial::test("what_seeds_once_found_in_clusters_stays_mended", || {
            all_are_safe(FOUND_IN_CLUSTERS, What::Cluster)
        }),
        Trial::test("the_same_seed_gives_the_same_trace", the_same_trace),
        Trial::test("many_nodes_agree_when_one_in_ten_has_died", move || {
            many_agree(number("NODES").unwrap_or(DEFAULT_NODES) as usize)
        }),
    ];
    trials.extend(Broken::OF_LOCKS.iter().map(|rule| {
        Trial::test(format!("a_rule_is_needed::{rule:?}"), || is_found(What::Lock, *rule))
    }));
    let of_both = Broken::OF_LOCKS.iter().filter(|rule| **rule != Broken::NoLockDelay);
    trials.extend(of_both.chain(Broken::OF_CLUSTERS).map(|rule| {
        let name = format!("a_rule_is_needed_by_clusters::{rule:?}");
        Trial::test(name, || is_found(What::Cluster, *rule))
    }));
    libtest_mimic::run(&arguments, trials).exit();
}

fn replay(seed: u64, what: What, broken: Option<Broken>) {
    let report = play(seed, what, broken, true);
    for line in &report.trace {
        println!("{line}");
    }
    println!("{}; violations: {:?}", report.summary(), report.violations);
    std::process::exit(i32::from(!report.violations.is_empty()));
}

fn all_are_safe(seeds: impl IntoIterator<Item = u64>, what: What) -> Result<(), Failed> {
    let begun = Instant::now();
    let seeds: Vec<u64> = seeds.into_iter().collect();
    let reports = on_all_processors(&seeds, |seed| play(seed, what, None, false));
    let mut total = Report::default();
    let mut bad = Vec::new();
    for (seed, report) in reports {
        total.add(&report);
        if let Some(violation) = report.violations.first() {
            bad.push(format!("seed {seed}: {violation}"));
        }
    }
    let seeds = seeds.len();
    let rate = seeds as f64 / begun.elapsed().as_secs_f64();
    let count = bad.len();
    println!(
        "{seeds} seeds, {rate:.1} seeds per second: {}; {count} seeds with violations",
        total.summary()
    );
    match count {
        0 => Ok(()),
        _ => {
            bad.truncate(10);
            let first = bad.join("\n");
            Err(format!("{count} of {seeds} seeds; replay with SEED=…\n{first}").into())
        }
    }
}

fn the_same_trace() -> Result<(), Failed> {
    for what in [What::Lock, What::Semaphore, What::Cluster] {
        let [first, second] = [(); 2].map(|()| play(1, what, None, true).trace);
        if first != second || first.is_empty() {
            return Err(format!("{what:?}: two traces").into());
        }
    }
    Ok(())
}

/// Many nodes come at once, one in ten dies, and all agree with few maps and the fewest moves.
fn many_agree(nodes: usize) -> Result<(), Failed> {
    const MOST_MAPS: u64 = 8;
    let reports = on_all_processors(&[1, 1], |seed| cluster::play_many(nodes, seed));
    let report = &reports[0].1;
    println!("{nodes} nodes: {}", report.summary());
    if let Some(violation) = report.violations.first() {
        return Err(violation.clone().into());
    }
    if report.trace != reports[1].1.trace {
        return Err("the same seed has given two traces".into());
    }
    match report.counted("maps") {
        ..=MOST_MAPS => Ok(()),
        maps => Err(format!("{maps} maps").into()),
    }
}

fn is_found(what: What, rule: Broken) -> Result<(), Failed> {
    for seed in 0..SEEDS_TO_FIND {
        let report = play(seed, what, Some(rule), false);
        if let Some(violation) = report.violations.first() {
            println!("{rule:?}: seed {seed}: {violation}");
            return Ok(());
        }
    }
    Err(format!("{SEEDS_TO_FIND} seeds without a violation").into())
}

fn on_all_processors<R: Send>(seeds: &[u64], play: impl Fn(u64) -> R + Sync) -> Vec<(u64, R)> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let results = std::sync::Mutex::new(Vec::new());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(&seed) = seeds.get(place) else { return };
                    let result = play(seed);
                    results.lock().expect("results").push((seed, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("results");
    results.sort_by_key(|(seed, _)| *seed);
    results
}
