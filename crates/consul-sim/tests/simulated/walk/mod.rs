//! `consul-sim` and a real Consul 1.21 answer odd requests in random order alike: the same statuses, headers and bodies, up to
//! ids, times and indexes.
//!
//! `SEQUENCES=4000 cargo test --package consul-sim --test simulated walk` plays more of them, `FIRST=8000` other ones, `SEED=17`
//! one. A difference is printed with its seed, its step, both answers and the requests before it, as commands.

mod requests;
mod side;

use crate::support::consul::{self, SIM};
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use serde_json::Value;
use side::{Seen, Side, Step};
use std::collections::BTreeMap;
use std::time::Duration;

const STEPS: usize = 20;
/// How many sequences are played in `make test-all`.
const SEQUENCES: u64 = 60;
/// The status when a server closes the connection instead of an answer.
const CLOSED: u16 = 999;
/// How many requests are printed with a difference.
const SHOWN_BEFORE: usize = 20;
/// How many differences are printed.
const SHOWN: usize = 20;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let missing = consul::is_missing("1.21", "odd requests on Consul 1.21");
    for (name, has_acls) in [("odd_requests", false), ("odd_requests_with_acls", true)] {
        trials.add_unless(missing, format!("{name}_are_answered_alike [1.21]"), move || {
            walk(has_acls)
        });
    }
    trials
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn walk(has_acls: bool) -> Result<(), Failed> {
    let first = number("FIRST").unwrap_or(0);
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("SEQUENCES").unwrap_or(SEQUENCES),
    };
    let mut pair = [Side::start("1.21", has_acls)?, Side::start(SIM, has_acls)?];
    let mut differences = Vec::new();
    for seed in seeds {
        differences.extend(sequence(&mut pair, seed, has_acls));
        pair.iter_mut().for_each(|side| side.tidy(has_acls));
    }
    let shown = differences.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n");
    match differences.len() {
        0 => Ok(()),
        count => Err(format!("{count} differences\n{shown}").into()),
    }
}

/// The differences of a sequence, up to one after which the servers have another state.
fn sequence(pair: &mut [Side; 2], seed: u64, has_acls: bool) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut history, mut found) = (Vec::new(), Vec::new());
    for place in 0..STEPS {
        let step = requests::step(&mut rng, has_acls);
        history.push(step.command(&pair[1]));
        if let Some((real, simulated)) = difference(pair, &step) {
            let history = &history[history.len().saturating_sub(SHOWN_BEFORE)..].join("\n  ");
            found.push(format!(
                "seed {seed}, step {place}\n  {history}\n  1.21: {} {}\n  sim:  {} {}\n  headers {:?} {:?}",
                real.status, real.body, simulated.status, simulated.body, real.headers, simulated.headers
            ));
            if (real.status < 400) != (simulated.status < 400) {
                break;
            }
        }
    }
    found
}

/// Both answers if they differ.
fn difference(pair: &mut [Side; 2], step: &Step) -> Option<(Seen, Seen)> {
    let [real, simulated] = pair;
    for attempt in 0.. {
        let [seen, own] = [real.see(step), simulated.see(step)].map(|seen| {
            seen.unwrap_or_else(|| Seen {
                status: CLOSED,
                headers: BTreeMap::new(),
                body: Value::Null,
            })
        });
        // A handler of Consul panics at null in the place of an object, and changes nothing.
        if seen.status == CLOSED {
            return (own.status < 400).then_some((seen, own));
        }
        if is_alike(step, &seen, &own) {
            return None;
        }
        // The agents write to the catalog in the background.
        if !matches!(&*step.method, "GET" | "HEAD") || attempt == 7 {
            return Some((seen, own));
        }
        std::thread::sleep(Duration::from_millis(4 << attempt));
    }
    None
}

/// Whether the answers are the same but for what docs/consul-sim.md excepts under "Errors", "Empty lists" and "Headers".
fn is_alike(step: &Step, real: &Seen, own: &Seen) -> bool {
    let is_decoding = |body: &Value| {
        let text = body.as_str().unwrap_or_default();
        DECODING.iter().find(|start| text.starts_with(**start))
    };
    let is_same_body = real.body == own.body
        || real.status >= 400
            && is_decoding(&real.body).is_some_and(|start| is_decoding(&own.body) == Some(start));
    // To a caller without the permission 1.21 says that there is no leader.
    let is_hidden =
        step.target.starts_with(b"/v1/catalog/connect/") && real.body == Value::Array(Vec::new());
    // Of instances that are equally bad, 1.21 tells the state of any.
    let is_told = |header: Option<&String>| {
        let mut instances = own.body.as_array().into_iter().flatten();
        header.is_some_and(|it| instances.any(|instance| instance["AggregatedStatus"] == **it))
    };
    let is_same_header = |(name, value): (&String, &String)| {
        let own = own.headers.get(name);
        own == Some(value)
            || is_hidden && name == "x-consul-knownleader"
            || name == "x-consul-reason" && is_told(own) && is_told(Some(value))
    };
    let is_same_headers =
        real.headers.len() == own.headers.len() && real.headers.iter().all(is_same_header);
    real.status == own.status && is_same_body && is_same_headers
}

/// How the errors of Go's decoders begin. After it they name the types of Consul's source.
const DECODING: &[&str] = &[
    "Request decode failed: ",
    "Request decoding failed: ",
    "Failed to parse body: ",
    "Failed to decode request body: ",
];
