//! Deterministic simulation: histories of locks and clusters with random faults, on a virtual clock and
//! reproducible by seed.
//!
//!     make dst SEEDS=500
//!     FIRST=20000 make dst SEEDS=500         the seeds from 20000 on
//!     make dst SEED=17                       prints the history of one seed
//!     OMIT=NoLockDelay make dst SEED=0     the same without one rule
//!     SEMAPHORE=1 make dst SEED=17           a history of a semaphore
//!     MIXED=1 make dst SEED=17               contenders with different profiles; also of a semaphore
//!     CUSTOM=1 make dst SEED=17              contenders with times of their own; also of a semaphore
//!     SUSPENDED=1 make dst SEED=17           machines that are suspended; also of a semaphore
//!     CLUSTER=1 make dst SEED=17             a history of a cluster
//!     CUTS=1 make dst SEED=17                a connection that breaks at each request of one verb
//!     REPLICATION=1 make dst SEED=17         a history of replicated shards
//!     REPLICATION=1 WIRED=1 make dst SEED=17 the same on the nodes of a cluster
//!     REPLICATION=1 NUMBERS=1 make dst SEED=17 the same with an operator who changes N, W and R (also WIRED=1)
//!     REPLICATION=1 RESTARTS=1 make dst SEED=17 the same with a rolling restart alone
//!     REPLICATION=1 UNTOLD=1 make dst SEED=17    the same with a Consul that goes back and does not say it
//!     REPLICATION=1 LOST_COPY=1 make dst SEED=17 the same with a disk alone that loses a part of a copy
//!     REPLICATION=1 STORY=LateReader make dst SEED=17 the same with one of the told histories
//!     NODES=1000 make dst SEEDS=1            1000 nodes in the test of many nodes

#![allow(clippy::print_stdout)]

mod cluster;
mod cuts;
mod locks;
mod omitted_rule;
mod profiles;
mod replication;
mod world;

use libtest_mimic::{Arguments, Failed, Trial};
use omitted_rule::OmittedRule;
use replication::Story;
use std::time::Instant;
use world::Report;

const DEFAULT_SEEDS: u64 = 500;

/// The cost of the test of many nodes grows with the square of their number.
const DEFAULT_NODES: u64 = 100;

/// Fewer seeds are enough for semaphores and mixed profiles, since most of their code is that of locks.
const SEEDS_PER_SEMAPHORE: u64 = 4;
const SEEDS_PER_MIXTURE: u64 = 8;

/// Each plays a cut at each request of one verb.
const SEEDS_PER_CUTS: u64 = 4;

/// A history of replicated shards on a cluster costs as much as many others.
const SEEDS_PER_WIRED: u64 = 10;

/// The other histories play all that is not about a change of numbers.
const SEEDS_PER_NUMBERS: u64 = 10;

/// Histories of one disruption differ little from each other.
const SEEDS_PER_DIRECTED: u64 = 10;

/// Seeds beyond `make test-all`'s that have found a bug.
const BUG_SEEDS: [u64; 3] = [552, 2266, 5301];
const CLUSTER_BUG_SEEDS: [u64; 14] =
    [975, 1290, 2085, 2835, 3277, 4477, 6093, 7340, 8052, 10172, 13369, 14782, 16075, 17739];

/// Seeds of histories in which N, W and R change that have found a bug, in the protocol or in what they allowed to be lost.
const NUMBERS_BUG_SEEDS: [u64; 10] = [338, 442, 726, 759, 778, 936, 1009, 1102, 1441, 1509];

/// Rules of locks that histories of clusters need too rarely to find a seed; histories of locks show them to be needed.
const RARE_IN_CLUSTERS: [OmittedRule; 3] =
    [OmittedRule::LeaseFromTheReply, OmittedRule::NoLockDelay, OmittedRule::RenewalAsProof];

/// The omission of a rule must cause a violation within this number of seeds.
const MAX_SEEDS_TO_FIND: u64 = 500;

/// The kind of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Lock,
    Semaphore,
    /// The same with a profile of its own for each contender.
    MixedLock,
    MixedSemaphore,
    /// The same with times that no named profile has.
    CustomLock,
    CustomSemaphore,
    /// The same with machines that are suspended.
    SuspendedLock,
    SuspendedSemaphore,
    Cluster,
}

fn play(seed: u64, subject: Subject, omitted: Option<OmittedRule>, traced: bool) -> Report {
    match subject {
        Subject::Cluster => cluster::play(seed, omitted, traced),
        _ => {
            let kind = locks::Kind {
                of_semaphore: matches!(
                    subject,
                    Subject::Semaphore
                        | Subject::MixedSemaphore
                        | Subject::CustomSemaphore
                        | Subject::SuspendedSemaphore
                ),
                is_mixed: matches!(
                    subject,
                    Subject::MixedLock | Subject::MixedSemaphore | Subject::CustomLock
                ),
                is_custom: matches!(subject, Subject::CustomLock | Subject::CustomSemaphore),
                is_suspended: matches!(
                    subject,
                    Subject::SuspendedLock | Subject::SuspendedSemaphore
                ),
            };
            locks::play(seed, kind, omitted, traced)
        }
    }
}

fn main() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let is_set = |name: &str| std::env::var_os(name).is_some();
    if let Some(seed) = number("SEED") {
        if is_set("REPLICATION") {
            let omitted = std::env::var("OMIT").ok();
            let omitted = omitted.map(|name| replication::rule(&name).expect("a rule's name"));
            let kind = match () {
                () if is_set("WIRED") && is_set("NUMBERS") => replication::Kind::WiredNumbers,
                () if is_set("NUMBERS") => replication::Kind::Numbers,
                () if is_set("WIRED") => replication::Kind::Wired,
                () if is_set("REBOOTS") => replication::Kind::Reboots,
                () if is_set("UNTOLD") => replication::Kind::Untold,
                () if is_set("RESTARTS") => replication::Kind::Restarts,
                () if is_set("LOST_COPY") => replication::Kind::LostCopy,
                () if is_set("STORY") => {
                    let name = std::env::var("STORY").expect("a name");
                    let story = Story::ALL.into_iter().find(|it| format!("{it:?}") == name);
                    replication::Kind::Directed(story.expect("a story's name"))
                }
                () => replication::Kind::Register,
            };
            return show(&replication::play(seed, kind, omitted, true));
        }
        if is_set("CUTS") {
            return show(&cuts::play(seed, true));
        }
        let omitted = std::env::var("OMIT").ok();
        let omitted = omitted.map(|name| OmittedRule::named(&name).expect("a rule's name"));
        let subject = match () {
            () if is_set("CLUSTER") => Subject::Cluster,
            () if is_set("SEMAPHORE") && is_set("SUSPENDED") => Subject::SuspendedSemaphore,
            () if is_set("SUSPENDED") => Subject::SuspendedLock,
            () if is_set("SEMAPHORE") && is_set("CUSTOM") => Subject::CustomSemaphore,
            () if is_set("CUSTOM") => Subject::CustomLock,
            () if is_set("SEMAPHORE") && is_set("MIXED") => Subject::MixedSemaphore,
            () if is_set("SEMAPHORE") => Subject::Semaphore,
            () if is_set("MIXED") => Subject::MixedLock,
            () => Subject::Lock,
        };
        return replay(seed, subject, omitted);
    }
    let seeds = number("SEEDS").unwrap_or(DEFAULT_SEEDS);
    let first = number("FIRST").unwrap_or(0);
    let from_first = move |count: u64| first..first + count;
    let mut arguments = Arguments::from_args();
    // Each trial uses all processors.
    arguments.test_threads = Some(1);
    let semaphores = seeds.div_ceil(SEEDS_PER_SEMAPHORE);
    let mixtures = seeds.div_ceil(SEEDS_PER_MIXTURE);
    let mut trials = vec![
        Trial::test("locks_are_safe_and_recover", move || {
            all_are_safe(from_first(seeds), Subject::Lock)
        }),
        Trial::test("seeds_that_found_bugs_pass", || all_are_safe(BUG_SEEDS, Subject::Lock)),
        Trial::test("semaphores_are_safe_and_recover", move || {
            all_are_safe(from_first(semaphores), Subject::Semaphore)
        }),
        Trial::test("locks_with_mixed_profiles_are_safe_and_recover", move || {
            all_are_safe(from_first(mixtures), Subject::MixedLock)
        }),
        Trial::test("semaphores_with_mixed_profiles_are_safe_and_recover", move || {
            all_are_safe(from_first(mixtures), Subject::MixedSemaphore)
        }),
        Trial::test("locks_with_times_of_their_own_are_safe_and_recover", move || {
            all_are_safe(from_first(mixtures), Subject::CustomLock)
        }),
        Trial::test("semaphores_with_times_of_their_own_are_safe_and_recover", move || {
            all_are_safe(from_first(mixtures), Subject::CustomSemaphore)
        }),
        Trial::test("locks_on_machines_that_are_suspended_are_safe_and_recover", move || {
            all_are_safe(from_first(mixtures), Subject::SuspendedLock)
        }),
        Trial::test("semaphores_on_machines_that_are_suspended_are_safe_and_recover", move || {
            all_are_safe(from_first(mixtures), Subject::SuspendedSemaphore)
        }),
        Trial::test("after_a_cut_there_is_a_holder_in_time", move || {
            let seeds = from_first(seeds.div_ceil(SEEDS_PER_CUTS));
            all_pass(seeds, |seed| cuts::play(seed, false))
        }),
        Trial::test("clusters_are_safe_and_recover", move || {
            all_are_safe(from_first(seeds), Subject::Cluster)
        }),
        Trial::test("seeds_that_found_bugs_in_clusters_pass", || {
            all_are_safe(CLUSTER_BUG_SEEDS, Subject::Cluster)
        }),
        Trial::test("replicated_shards_lose_nothing", move || {
            all_lose_nothing(from_first(seeds), replication::Kind::Register)
        }),
        Trial::test("a_consul_that_goes_back_while_all_nodes_are_away_loses_nothing", move || {
            let seeds = from_first(seeds.div_ceil(SEEDS_PER_DIRECTED));
            all_lose_nothing(seeds, replication::Kind::Untold)
        }),
        Trial::test("restarts_of_machines_lose_nothing", move || {
            let seeds = from_first(seeds.div_ceil(SEEDS_PER_DIRECTED));
            all_lose_nothing(seeds, replication::Kind::Reboots)
        }),
        Trial::test("replicated_shards_on_real_nodes_lose_nothing", move || {
            all_lose_nothing(from_first(seeds.div_ceil(SEEDS_PER_WIRED)), replication::Kind::Wired)
        }),
        Trial::test("replicated_shards_lose_nothing_while_n_w_and_r_change", move || {
            let seeds = from_first(seeds.div_ceil(SEEDS_PER_NUMBERS));
            all_lose_nothing(seeds, replication::Kind::Numbers)
        }),
        Trial::test("seeds_that_found_bugs_while_n_w_and_r_change_pass", || {
            all_lose_nothing(NUMBERS_BUG_SEEDS, replication::Kind::Numbers)
        }),
        Trial::test("shards_on_real_nodes_lose_nothing_while_n_w_and_r_change", move || {
            let seeds = from_first(seeds.div_ceil(SEEDS_PER_WIRED));
            all_lose_nothing(seeds, replication::Kind::WiredNumbers)
        }),
        Trial::test("a_rolling_restart_moves_no_replicated_shard_and_fails_no_write", move || {
            all_lose_nothing(
                from_first(seeds.div_ceil(SEEDS_PER_DIRECTED)),
                replication::Kind::Restarts,
            )
        }),
        Trial::test("a_disk_that_loses_a_part_of_a_copy_loses_no_write", move || {
            all_lose_nothing(
                from_first(seeds.div_ceil(SEEDS_PER_DIRECTED)),
                replication::Kind::LostCopy,
            )
        }),
        Trial::test("what_rules_guard_against_loses_no_write", move || {
            Story::ALL.into_iter().try_for_each(|story| {
                let seeds = from_first(seeds.div_ceil(SEEDS_PER_DIRECTED));
                all_lose_nothing(seeds, replication::Kind::Directed(story))
            })
        }),
        Trial::test("the_check_of_replicated_shards_refuses_bad_histories", || {
            Ok(replication::checker::refuses_bad_histories()?)
        }),
        Trial::test("the_same_seed_gives_the_same_trace", the_same_trace),
        Trial::test("many_nodes_agree_when_one_in_ten_has_died", move || {
            many_agree(number("NODES").unwrap_or(DEFAULT_NODES) as usize)
        }),
    ];
    trials.extend(OmittedRule::OF_LOCKS.iter().map(|rule| {
        Trial::test(format!("a_rule_is_needed::{rule:?}"), || is_found(Subject::Lock, *rule))
    }));
    trials.extend(OmittedRule::OF_SEMAPHORES.iter().map(|rule| {
        let name = format!("a_rule_is_needed_by_semaphores::{rule:?}");
        Trial::test(name, || is_found(Subject::MixedSemaphore, *rule))
    }));
    trials.extend(OmittedRule::OF_SUSPENDED.iter().map(|rule| {
        let name = format!("a_rule_is_needed_on_suspended_machines::{rule:?}");
        Trial::test(name, || is_found(Subject::SuspendedLock, *rule))
    }));
    let of_both = OmittedRule::OF_LOCKS.iter().filter(|rule| !RARE_IN_CLUSTERS.contains(rule));
    trials.extend(of_both.chain(OmittedRule::OF_CLUSTERS).map(|rule| {
        let name = format!("a_rule_is_needed_by_clusters::{rule:?}");
        Trial::test(name, || is_found(Subject::Cluster, *rule))
    }));
    trials.extend(replication::RULES.iter().copied().map(|(rule, kind, seed)| {
        let name = format!("a_rule_is_needed_by_replication::{rule:?}");
        Trial::test(name, move || {
            // The seed that is known comes first.
            let seeds = std::iter::once(seed).chain(0..MAX_SEEDS_TO_FIND);
            finds(&format!("{rule:?}"), seeds, |seed| {
                replication::play(seed, kind, Some(rule), false)
            })
        })
    }));
    libtest_mimic::run(&arguments, trials).exit();
}

fn replay(seed: u64, subject: Subject, omitted: Option<OmittedRule>) {
    show(&play(seed, subject, omitted, true));
}

fn show(report: &Report) {
    for line in &report.trace {
        println!("{line}");
    }
    println!("{}; violations: {:?}", report.summary(), report.violations);
    std::process::exit(i32::from(!report.violations.is_empty()));
}

fn all_are_safe(seeds: impl IntoIterator<Item = u64>, subject: Subject) -> Result<(), Failed> {
    all_pass(seeds, |seed| play(seed, subject, None, false))
}

fn all_lose_nothing(
    seeds: impl IntoIterator<Item = u64>,
    kind: replication::Kind,
) -> Result<(), Failed> {
    all_pass(seeds, |seed| replication::play(seed, kind, None, false))
}

fn all_pass(
    seeds: impl IntoIterator<Item = u64>,
    play: impl Fn(u64) -> Report + Sync,
) -> Result<(), Failed> {
    let begun = Instant::now();
    let seeds: Vec<u64> = seeds.into_iter().collect();
    let reports = on_all_processors(&seeds, play);
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
    let same = |what: &str, play: &dyn Fn() -> Report| {
        let [first, second] = [(); 2].map(|()| play().trace);
        let is_same = first == second && !first.is_empty();
        is_same.then_some(()).ok_or_else(|| format!("{what}: one seed, two different traces"))
    };
    for subject in [Subject::Lock, Subject::Semaphore, Subject::Cluster] {
        same(&format!("{subject:?}"), &|| play(1, subject, None, true))?;
    }
    for kind in [replication::Kind::Register, replication::Kind::Wired] {
        same(&format!("replication: {kind:?}"), &|| replication::play(1, kind, None, true))?;
    }
    Ok(())
}

/// Many nodes start at once and one in ten dies; all agree in the end, with few maps and the fewest
/// moves.
fn many_agree(nodes: usize) -> Result<(), Failed> {
    const MAX_MAPS: u64 = 8;
    // One after the other: each takes much memory.
    let [report, again] = [(); 2].map(|()| cluster::play_many(nodes, 1));
    println!("{nodes} nodes: {}", report.summary());
    if let Some(violation) = report.violations.first() {
        return Err(violation.clone().into());
    }
    if report.trace != again.trace {
        return Err("one seed, two different traces".into());
    }
    match report.counted("maps") {
        ..=MAX_MAPS => Ok(()),
        maps => Err(format!("{maps} maps").into()),
    }
}

fn is_found(subject: Subject, rule: OmittedRule) -> Result<(), Failed> {
    let play = |seed| play(seed, subject, Some(rule), false);
    finds(&format!("{rule:?}"), 0..MAX_SEEDS_TO_FIND, play)
}

fn finds(
    rule: &str,
    seeds: impl Iterator<Item = u64>,
    play: impl Fn(u64) -> Report,
) -> Result<(), Failed> {
    for seed in seeds {
        let report = play(seed);
        if let Some(violation) = report.violations.first() {
            println!("{rule}: seed {seed}: {violation}");
            return Ok(());
        }
    }
    Err(format!("{MAX_SEEDS_TO_FIND} seeds without a violation").into())
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
