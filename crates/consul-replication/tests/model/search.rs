//! The search: all states, level by level of the changes that were used up, in each level depth first.
//! A state of an earlier level has the same future and more, so later levels leave it out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use crate::rules::{Limits, Model, Rule};
use crate::state::State;
use crate::steps::{Outcome, Steps};

pub struct Report {
    states: usize,
    time: Duration,
    pub has_loss: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} states in {:.1} s", self.states, self.time.as_secs_f64())
    }
}

/// Searches until a loss is found, or to the end.
pub fn search(limits: Limits, without: Option<Rule>) -> Report {
    let model = Model { limits, without };
    let started = Instant::now();
    let mut seen = Fingerprints::default();
    let mut level = vec![State::initial()];
    seen.insert(level[0].fingerprint());
    let mut has_loss = false;
    let mut steps = Steps { model: &model, names: None, outcomes: Vec::new() };
    'search: for changes in 0..=limits.changes {
        let mut next = Vec::new();
        let mut next_seen = Fingerprints::default();
        while let Some(state) = level.pop() {
            state.steps(changes < limits.changes, &mut steps);
            for outcome in steps.outcomes.drain(..) {
                match outcome {
                    Outcome::Loss => {
                        has_loss = true;
                        break 'search;
                    }
                    Outcome::State(state, true) => {
                        let fingerprint = state.fingerprint();
                        if !seen.contains(&fingerprint) && next_seen.insert(fingerprint) {
                            next.push(state);
                        }
                    }
                    Outcome::State(state, false) => {
                        if seen.insert(state.fingerprint()) {
                            level.push(state);
                        }
                    }
                }
            }
        }
        level = next;
        level.retain(|state| seen.insert(state.fingerprint()));
    }
    Report { states: seen.len(), time: started.elapsed(), has_loss }
}

/// The steps to the nearest loss; empty without one.
pub fn shortest_loss(limits: Limits, without: Option<Rule>) -> Vec<String> {
    let model = &Model { limits, without };
    let initial = State::initial();
    let root = (initial.fingerprint(), 0);
    let mut before: HashMap<(u64, u8), ((u64, u8), String)> = HashMap::new();
    let mut queue = VecDeque::from([(initial, 0)]);
    while let Some((state, changes)) = queue.pop_front() {
        let at = (state.fingerprint(), changes);
        let mut steps = Steps { model, names: Some(Vec::new()), outcomes: Vec::new() };
        state.steps(changes < model.limits.changes, &mut steps);
        let names = steps.names.unwrap_or_default();
        for (outcome, name) in steps.outcomes.into_iter().zip(names) {
            match outcome {
                Outcome::Loss => {
                    let mut trace = vec![name];
                    let mut at = at;
                    while at != root {
                        let (previous, name) = &before[&at];
                        trace.push(name.clone());
                        at = *previous;
                    }
                    trace.reverse();
                    return trace;
                }
                Outcome::State(state, is_change) => {
                    let changes = changes + u8::from(is_change);
                    let key = (state.fingerprint(), changes);
                    if key != root && !before.contains_key(&key) {
                        before.insert(key, (at, name));
                        queue.push_back((state, changes));
                    }
                }
            }
        }
    }
    Vec::new()
}

type Fingerprints = HashSet<u64, BuildHasherDefault<Unchanged>>;

/// A fingerprint is a hash already.
#[derive(Default)]
struct Unchanged(u64);

impl Hasher for Unchanged {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints are numbers")
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
