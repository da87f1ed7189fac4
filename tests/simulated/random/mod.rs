//! The simulated agent and a real Consul 1.21 answer the same random requests alike: the same
//! statuses, the same bodies up to ids, and indexes in the same relative order.
//!
//! `SEQUENCES=5000 cargo test --no-default-features --test simulated random` runs more of them,
//! `SEED=17 …` repeats one. A difference is printed with its seed, its step and both answers.

mod steps;

use crate::support::consul::{self, RealConsul};
use crate::support::trials::Trials;
use bytes::Bytes;
use consul_ffi::simulate::{Agent, Options, SimTransport};
use consul_ffi::transport::http::HttpTransport;
use consul_ffi::transport::{self, Transport};
use http::Request;
use libtest_mimic::Failed;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use steps::{NODES, SERVICES, Step};

const STEPS: usize = 100;
const SEQUENCES: u64 = 200;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let missing = consul::is_missing("1.21", "random requests on Consul 1.21");
    trials.add_unless(missing, "random_requests_are_answered_alike", all);
    trials
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn all() -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEQUENCES").unwrap_or(SEQUENCES),
    };
    let server = RealConsul::start("1.21")?;
    let address = format!("http://{}", server.address);
    let real = HttpTransport::new(&address, &transport::Options::default())?;
    let agent = Arc::new(Agent::new(Options::default()));
    let simulated = SimTransport::new(agent, "simulated");
    runtime.block_on(async {
        let mut pair = Pair {
            real: Side::new(Box::new(real)).await,
            simulated: Side::new(Box::new(simulated)).await,
            indexes: BTreeMap::new(),
        };
        for seed in seeds {
            pair.sequence(seed).await?;
        }
        Ok(())
    })
}

/// The real server and the simulated agent, which have seen the same requests.
struct Pair {
    real: Side,
    simulated: Side,
    /// Every index that was seen on the real side with its counterpart.
    indexes: BTreeMap<u64, u64>,
}

/// One of the two servers.
struct Side {
    transport: Box<dyn Transport>,
    /// The symbols that replace the ids and names of this side in the comparison.
    symbols: HashMap<String, String>,
    /// The ids of sessions in the order of their creation.
    sessions: Vec<String>,
    /// The hashes of services in the order of their appearance. Each side computes them in its own
    /// way, but the same content has the same hash.
    hashes: Vec<String>,
    /// The newest index when the server was ready: the order of its earlier writes is random.
    beginning: u64,
}

/// An answer in comparable form.
#[derive(Debug, PartialEq)]
struct Seen {
    status: u16,
    body: Value,
}

impl Side {
    async fn new(transport: Box<dyn Transport>) -> Side {
        let (sessions, hashes) = (Vec::new(), Vec::new());
        let mut side = Side { transport, symbols: HashMap::new(), sessions, hashes, beginning: 0 };
        let (_, body, _) = side.ask(&Step::get("/v1/agent/self")).await;
        let own: Value = serde_json::from_slice(&body).expect("the agent says who it is");
        for (pointer, symbol) in [("/Config/NodeName", "<node>"), ("/Config/NodeID", "<node id>")] {
            let name = own.pointer(pointer).and_then(Value::as_str).expect(pointer);
            side.symbols.insert(name.to_owned(), symbol.to_owned());
        }
        // The agent registers itself in the catalog a little after the server is ready.
        let nodes = Step::get("/v1/catalog/nodes");
        while !String::from_utf8_lossy(&side.ask(&nodes).await.1).contains("lan_ipv4") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mark = Step::new("PUT", "/v1/kv/beginning".to_owned(), "");
        side.ask(&mark).await;
        let (_, _, index) = side.ask(&Step::get(&mark.target)).await;
        side.beginning = index.expect("a key has an index");
        side
    }

    async fn ask(&self, step: &Step) -> (u16, Bytes, Option<u64>) {
        let fill = |text: &str| self.fill(text);
        let request = Request::builder()
            .method(step.method)
            .uri(fill(&step.target))
            .body(Bytes::from(fill(&step.body)))
            .expect("the step is well-formed");
        let answer = self.transport.send(request).await.expect("an answer");
        let index = answer.headers().get("x-consul-index");
        let index = index.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        (answer.status().as_u16(), answer.into_body(), index)
    }

    /// Puts this side's ids where a step says `{session N}`.
    fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for place in 0..MAX_SESSIONS {
            let id = self.sessions.get(place).map_or(UNKNOWN_SESSION, String::as_str);
            text = text.replace(&format!("{{session{place}}}"), id);
        }
        text
    }

    /// The answer in comparable form, with the indexes in it in the order of their appearance.
    async fn see(&mut self, step: &Step) -> (Seen, Vec<u64>) {
        let (status, body, index) = self.ask(step).await;
        // The index of events is a hash of a random id.
        let index = index.filter(|_| !step.target.starts_with("/v1/event/"));
        let mut indexes: Vec<u64> = index.into_iter().collect();
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        let mut body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        if let Some(id) = body.get("ID").and_then(Value::as_str)
            && step.target.starts_with("/v1/session/create")
            && self.sessions.len() < MAX_SESSIONS
        {
            self.sessions.push(id.to_owned());
        }
        self.normalise(&mut body, &mut indexes);
        // Consul keeps these in maps, whose order is random.
        if ["/v1/catalog/services", "/v1/agent/health/service/id/"]
            .iter()
            .any(|target| step.target.starts_with(target))
        {
            sort_lists(&mut body);
        }
        if step.target.starts_with("/v1/agent/health/service/name/") {
            body.as_array_mut().into_iter().flatten().for_each(sort_lists);
        }
        for index in &mut indexes {
            if *index < self.beginning {
                *index = 0;
            }
        }
        (Seen { status, body }, indexes)
    }

    fn normalise(&mut self, value: &mut Value, indexes: &mut Vec<u64>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members.iter_mut() {
                    if matches!(name.as_str(), "CreateIndex" | "ModifyIndex") {
                        indexes.extend(member.take().as_u64());
                    } else if name == "LTime" {
                        // The earlier events of the sides differ.
                        *member = (member.as_u64() > Some(0)).into();
                    } else if name == "ContentHash" {
                        *member = self.number_of_hash(&member.to_string()).into();
                    } else {
                        self.normalise(member, indexes);
                    }
                }
            }
            Value::Array(items) => {
                items.iter_mut().for_each(|item| self.normalise(item, indexes));
                // Sessions are listed in the order of their ids, which are random.
                if items.len() > 1 && items[0].get("LockDelay").is_some() {
                    items.sort_by_key(Value::to_string);
                    indexes.truncate(1);
                }
            }
            Value::String(text) => {
                *text = self.symbolic(text);
                indexes.extend(take_index(text));
            }
            _ => {}
        }
    }

    fn number_of_hash(&mut self, hash: &str) -> usize {
        let known = self.hashes.iter().position(|known| known == hash);
        known.unwrap_or_else(|| {
            self.hashes.push(hash.to_owned());
            self.hashes.len() - 1
        })
    }

    /// The text with a symbol for each id, numbered in the order of their appearance.
    fn symbolic(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        while let Some(at) = find_uuid(&text) {
            let id = text[at..at + UUID_LENGTH].to_owned();
            let known = self.sessions.iter().position(|session| *session == id);
            let symbol = match (self.symbols.get(&id), known) {
                (Some(symbol), _) => symbol.clone(),
                (None, Some(place)) => format!("<session {place}>"),
                (None, None) => "<id>".to_owned(),
            };
            text.replace_range(at..at + UUID_LENGTH, &symbol);
        }
        match self.symbols.get(&text) {
            Some(symbol) => symbol.clone(),
            None => text,
        }
    }
}

/// Takes the index out of a transaction's refusal.
fn take_index(text: &mut String) -> Option<u64> {
    const BEFORE: &str = "current modify index ";
    let start = text.find(BEFORE)? + BEFORE.len();
    let end = text[start..].find(' ').map_or(text.len(), |length| start + length);
    let index = text[start..end].parse().ok();
    text.replace_range(start..end, "<index>");
    index
}

fn sort_lists(value: &mut Value) {
    for list in value.as_object_mut().into_iter().flat_map(|members| members.values_mut()) {
        if let Value::Array(items) = list {
            items.sort_by_key(Value::to_string);
        }
    }
}

const UUID_LENGTH: usize = 36;
const MAX_SESSIONS: usize = 40;
const UNKNOWN_SESSION: &str = "5d2c1b1e-0000-4000-8000-000000000000";

fn find_uuid(text: &str) -> Option<usize> {
    let is_uuid = |bytes: &[u8]| {
        bytes.iter().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    };
    text.as_bytes().windows(UUID_LENGTH).position(is_uuid)
}

impl Pair {
    async fn sequence(&mut self, seed: u64) -> Result<(), Failed> {
        let mut rng = fastrand::Rng::with_seed(seed);
        for side in [&mut self.real, &mut self.simulated] {
            side.sessions.clear();
        }
        for place in 0..STEPS {
            let step = Step::random(&mut rng, seed);
            if let Err(why) = self.step(&step).await {
                let Step { method, target, body } = &step;
                let message = format!("seed {seed}, step {place}: {method} {target} {body}\n{why}");
                return Err(message.into());
            }
        }
        self.tidy(seed).await;
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        let (simulated, simulated_indexes) = self.simulated.see(step).await;
        let mut difference = String::new();
        // A real agent writes to the catalog in the background, within milliseconds.
        for attempt in 0..6 {
            let (real, real_indexes) = self.real.see(step).await;
            if real == simulated {
                match self.relate(&real_indexes, &simulated_indexes) {
                    Ok(()) => return Ok(()),
                    Err(why) => difference = format!("{why}\n  in {}", real.body),
                }
            } else {
                difference = format!(
                    "  real:      {} {}\n  simulated: {} {}",
                    real.status, real.body, simulated.status, simulated.body
                );
            }
            if step.method != "GET" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(4 << attempt)).await;
        }
        Err(difference)
    }

    /// Checks that the indexes have the same order on both sides.
    fn relate(&mut self, real: &[u64], simulated: &[u64]) -> Result<(), String> {
        let shown = format!("  indexes real {real:?}, simulated {simulated:?}");
        if real.len() != simulated.len() {
            return Err(format!("another number of indexes\n{shown}"));
        }
        let mut added = Vec::new();
        for (real, simulated) in real.iter().zip(simulated) {
            let before = self.indexes.range(..real).next_back().map(|(_, simulated)| *simulated);
            let after = self.indexes.range(real + 1..).next().map(|(_, simulated)| *simulated);
            let same = self.indexes.get(real).copied();
            let fits = same.is_none_or(|known| known == *simulated)
                && before.is_none_or(|before| before < *simulated)
                && after.is_none_or(|after| *simulated < after);
            if !fits {
                self.indexes.retain(|index, _| !added.contains(index));
                return Err(format!(
                    "another order of indexes: {real} is {simulated}, known as {same:?}, \
                     between {before:?} and {after:?}\n{shown}"
                ));
            }
            if same.is_none() {
                self.indexes.insert(*real, *simulated);
                added.push(*real);
            }
        }
        Ok(())
    }

    /// Cleans up after a sequence, so that the next one starts with an empty Consul.
    async fn tidy(&mut self, seed: u64) {
        let mut steps = vec![Step::new("DELETE", format!("/v1/kv/r{seed}/?recurse"), "")];
        let sessions = 0..self.real.sessions.len();
        steps.extend(
            sessions.map(|place| {
                Step::new("PUT", format!("/v1/session/destroy/{{session{place}}}"), "")
            }),
        );
        for name in SERVICES {
            let target = format!("/v1/agent/service/deregister/{name}");
            steps.push(Step::new("PUT", target, ""));
        }
        for node in NODES.iter().chain(&["none"]) {
            let body = json!({"Node": node}).to_string();
            steps.push(Step::new("PUT", "/v1/catalog/deregister".to_owned(), &body));
        }
        for step in steps {
            let _ = (self.real.ask(&step).await, self.simulated.ask(&step).await);
        }
    }
}
