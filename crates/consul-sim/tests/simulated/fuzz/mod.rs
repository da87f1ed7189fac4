//! Random requests, whole and broken ones, never make the simulated agent panic, and each gets a
//! status that Consul's answers have.
//!
//! `FUZZ_SECONDS=600 cargo test --package consul-sim --test simulated fuzz` runs for longer,
//! `SEED=17 …` repeats one sequence of requests.

mod requests;

use crate::support::trials::{Trials, add};
use bytes::Bytes;
use consul_process::clock::{BoxFuture, ManualClock};
use consul_sim::acl::{Acl, Secret};
use consul_sim::agent::checks::{Probe, ProbeResult, Prober};
use consul_sim::{Agent, Options};
use futures_util::FutureExt;
use http::{Request, Response};
use requests::Random;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SECONDS: u64 = 3;
const REQUESTS: usize = 400;
/// The maximum of blocking queries that wait at the same time.
const WAITING: usize = 16;
const MANAGEMENT: &str = "b1e5e3f0-1a62-4b5c-9d5f-0c8f3c1f7a11";
const STATUSES: &[u16] = &[200, 307, 400, 401, 403, 404, 405, 409, 413, 429, 500, 503];

thread_local! {
    /// The last requests, for the message of a failure.
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    add!(trials, no_request_makes_the_agent_panic);
    trials
}

fn no_request_makes_the_agent_panic() {
    let mut seen = BTreeMap::new();
    match number("SEED") {
        Some(seed) => run(seed, &mut seen),
        None => {
            let end =
                Instant::now() + Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(SECONDS));
            (0..).take_while(|_| Instant::now() < end).for_each(|seed| run(seed, &mut seen));
        }
    }
    // Most random requests are refused; enough must be accepted.
    let [all, done] = [seen.values().sum(), seen.get(&200).copied().unwrap_or(0)];
    assert!(done * 20 > all, "too few requests got through: {seen:?}");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs one sequence, and prints its seed if it fails.
fn run(seed: u64, seen: &mut BTreeMap<u16, usize>) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| sequence(seed, seen))) {
        let last = LAST.take();
        let last: String = last.chars().take(4000).collect();
        #[allow(clippy::print_stderr)]
        {
            eprintln!("SEED={seed}, the last request:\n{last}");
        }
        resume_unwind(panic);
    }
}

fn sequence(seed: u64, seen: &mut BTreeMap<u16, usize>) {
    let clock = ManualClock::new();
    let acl = Acl {
        enabled: seed.is_multiple_of(3),
        initial_management: Some(Secret::new(MANAGEMENT)),
        ..Acl::default()
    };
    let agent = Agent::new(Options {
        clock: Arc::new(clock.clone()),
        seed,
        acl,
        pretty: seed.is_multiple_of(2),
        prober: Arc::new(NoNetwork),
        ..Options::default()
    });
    let mut random = Random::new(seed);
    let mut waiting: Vec<Pin<Box<dyn Future<Output = Response<Bytes>> + '_>>> = Vec::new();
    for _ in 0..REQUESTS {
        if let Some(request) = random.request() {
            LAST.set(format!("{request:?}"));
            let mut answer: Pin<Box<dyn Future<Output = _>>> = Box::pin(agent.handle(request));
            match answer.as_mut().now_or_never() {
                Some(answer) => random.check(&answer, seen),
                None => waiting.push(answer),
            }
        }
        if random.one_in(20) {
            clock.advance(Duration::from_millis(random.rng.u64(..100_000)));
            // The agent decides which checks are due.
            let _ = agent.run_timers().now_or_never();
        }
        waiting.retain_mut(|query| match query.as_mut().now_or_never() {
            Some(answer) => {
                random.check(&answer, seen);
                false
            }
            None => true,
        });
        while waiting.len() > WAITING {
            // Its client went away.
            drop(waiting.swap_remove(random.rng.usize(..waiting.len())));
        }
    }
    drop(waiting);
    let leader = Request::builder().uri("/v1/status/leader").body(Bytes::new());
    let leader = agent.handle(leader.expect("a request")).now_or_never().expect("an answer");
    assert_eq!(leader.status(), 200);
}

/// Checks of services name random addresses, which do not exist here.
#[derive(Debug)]
struct NoNetwork;

impl Prober for NoNetwork {
    fn probe<'a>(&'a self, probe: &'a Probe) -> BoxFuture<'a, ProbeResult> {
        Box::pin(async move {
            match probe {
                Probe::Tcp { .. } => ProbeResult::Connected,
                _ => ProbeResult::Failed("unreachable".to_owned()),
            }
        })
    }
}
