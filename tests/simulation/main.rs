//! Histories under a virtual clock and a seed: locks under every fault that we could think of.
//!
//!     make dst SEEDS=500
//!     make dst SEED=17                       one of them, shown
//!     BROKEN=NoLockDelay make dst SEED=0     the same without one rule
//!     SEMAPHORE=1 make dst SEED=17           one of a semaphore

#![allow(clippy::print_stdout)]

mod locks;
mod world;

use libtest_mimic::{Arguments, Failed, Trial};
use locks::{Broken, Report, What};
use std::time::Instant;

const DEFAULT_SEEDS: u64 = 500;

/// Most of a semaphore is what a lock is.
const SEEDS_TO_ONE_OF_A_SEMAPHORE: u64 = 4;

/// Seeds above those of `make test` that once found something.
const FOUND: [u64; 3] = [552, 2266, 5301];

/// A rule that is left out must show within this many seeds.
const SEEDS_TO_FIND: u64 = 500;

fn main() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    if let Some(seed) = number("SEED") {
        let broken = std::env::var("BROKEN").ok().map(|name| {
            let named = |rule: &&Broken| format!("{rule:?}") == name;
            *Broken::ALL.iter().find(named).expect("a rule's name")
        });
        let semaphore = std::env::var_os("SEMAPHORE").is_some();
        let what = if semaphore { What::Semaphore } else { What::Lock };
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
    ];
    trials.extend(
        Broken::ALL.iter().map(|rule| {
            Trial::test(format!("a_rule_is_needed::{rule:?}"), move || is_found(*rule))
        }),
    );
    libtest_mimic::run(&arguments, trials).exit();
}

fn replay(seed: u64, what: What, broken: Option<Broken>) {
    let report = locks::play(seed, what, broken, true);
    for line in &report.trace {
        println!("{line}");
    }
    println!("{}; violations: {:?}", summary(&report), report.violations);
    std::process::exit(i32::from(!report.violations.is_empty()));
}

fn all_are_safe(seeds: impl IntoIterator<Item = u64>, what: What) -> Result<(), Failed> {
    let begun = Instant::now();
    let seeds: Vec<u64> = seeds.into_iter().collect();
    let reports = on_all_processors(&seeds, |seed| locks::play(seed, what, None, false));
    let mut total = Report::default();
    let mut bad = Vec::new();
    for (seed, report) in reports {
        total.grants += report.grants;
        total.losses += report.losses;
        total.suspensions += report.suspensions;
        total.writes += report.writes;
        total.refused_writes += report.refused_writes;
        total.requests += report.requests;
        if let Some(violation) = report.violations.first() {
            bad.push(format!("seed {seed}: {violation}"));
        }
    }
    let seeds = seeds.len();
    let rate = seeds as f64 / begun.elapsed().as_secs_f64();
    let count = bad.len();
    println!(
        "{seeds} seeds, {rate:.1} seeds per second: {}; {count} seeds with violations",
        summary(&total)
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

fn is_found(rule: Broken) -> Result<(), Failed> {
    for seed in 0..SEEDS_TO_FIND {
        let report = locks::play(seed, What::Lock, Some(rule), false);
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

fn summary(report: &Report) -> String {
    let Report { grants, losses, suspensions, writes, refused_writes, requests, .. } = report;
    format!(
        "{requests} requests, {grants} grants, {losses} losses, {suspensions} suspensions, \
         {writes} writes, {refused_writes} refused"
    )
}
