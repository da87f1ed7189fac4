//! The simulated agent and a real Consul 1.21 answer the same random requests alike: the same
//! statuses, the same bodies up to ids, and indexes in the same relative order.
//!
//! `SEQUENCES=5000 cargo test --package consul-sim --test simulated random` runs more of them,
//! `SEED=17 …` repeats one. A difference is printed with its seed, its step and both answers.

mod steps;

use crate::support::consul::{self, RealConsul};
use crate::support::trials::Trials;
use bytes::Bytes;
use consul_client::transport::http::HttpTransport;
use consul_client::transport::{self, Transport};
use consul_sim::{Agent, Options, SimTransport};
use http::{Request, Response};
use libtest_mimic::Failed;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use steps::{NODES, SERVICES, Step};

const STEPS: usize = 100;
/// How many sequences are played in `make test-all`.
const SEQUENCES: u64 = 200;
/// How many sequences with a difference are reported.
const SHOWN: usize = 20;
/// How often a sequence is played until its indexes have one order on both sides. Consul's agent writes the changes of
/// a request to its services and checks to the catalog in the random order of a map of Go.
const TRIES: usize = 100;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let missing = consul::is_missing("1.21", "random requests on Consul 1.21");
    trials.add_unless(missing, "random_requests_are_answered_alike [1.21]", all);
    trials
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn all() -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let first = number("FIRST").unwrap_or(0);
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("SEQUENCES").unwrap_or(SEQUENCES),
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
        let mut differences = Vec::new();
        for seed in seeds {
            let mut outcome = pair.sequence(seed).await;
            for _ in 1..TRIES {
                let Err(Difference { is_of_order: true, .. }) = outcome else { break };
                outcome = pair.sequence(seed).await;
            }
            differences.extend(outcome.err().map(|difference| difference.text));
        }
        match differences.len() {
            0 => Ok(()),
            count => {
                differences.truncate(number("SHOWN").map_or(SHOWN, |count| count as usize));
                Err(format!("{count} differences\n{}", differences.join("\n")).into())
            }
        }
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
    /// The ids of the sessions that the sequence created, in the order of their creation.
    sessions: Vec<String>,
    /// The hashes of services in the order of their appearance. Each side computes them in its own
    /// way, but the same content has the same hash.
    hashes: Vec<String>,
    /// The port of the server, which its service `consul` has.
    port: u64,
    /// The newest index when the server was ready: the order of its earlier writes is random.
    beginning: u64,
}

struct Difference {
    text: String,
    /// The answers are alike, apart from the order of their indexes.
    is_of_order: bool,
}

/// An answer in comparable form.
#[derive(Debug, PartialEq)]
struct Seen {
    status: u16,
    headers: BTreeMap<&'static str, String>,
    body: Value,
}

/// The headers of answers that are compared: those that the transport keeps, apart from indexes.
const HEADERS: &[&str] = &[
    "content-type",
    "x-consul-default-acl-policy",
    "x-consul-knownleader",
    "x-consul-query-backend",
    "x-consul-results-filtered-by-acls",
];

/// The parts of texts that differ, by what is before and after them.
const TEXTS: &[(&str, &str)] = &[
    // Why a regular expression or a date cannot be read.
    ("error parsing regexp: ", "\n"),
    ("parsing time ", "\n"),
];

impl Side {
    async fn new(transport: Box<dyn Transport>) -> Side {
        let mut side = Side {
            transport,
            symbols: HashMap::new(),
            sessions: Vec::new(),
            hashes: Vec::new(),
            port: 0,
            beginning: 0,
        };
        let own = side.read("/v1/agent/self").await;
        for (pointer, symbol) in [("/Config/NodeName", NODE), ("/Config/NodeID", "<node id>")] {
            let name = own.pointer(pointer).and_then(Value::as_str).expect(pointer);
            side.symbols.insert(name.to_owned(), symbol.to_owned());
        }
        let port = own.pointer("/Member/Tags/port").and_then(Value::as_str);
        side.port = port.and_then(|port| port.parse().ok()).expect("a server has a port");
        // The agent registers itself in the catalog a little after the server is ready.
        while !side.read("/v1/catalog/nodes").await.to_string().contains("lan_ipv4") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        side.write("PUT", "/v1/kv/beginning".to_owned(), "").await;
        let key = side.read("/v1/kv/beginning").await;
        // Until a service was removed, the index of reads of an unknown one has other rules.
        let body = json!({"Node": "early", "Address": "10.0.0.1", "Service": {"Service": "early"}});
        for target in ["/v1/catalog/register", "/v1/catalog/deregister"] {
            let body = if target.ends_with("deregister") {
                json!({"Node": "early"})
            } else {
                body.clone()
            };
            side.write("PUT", target.to_owned(), &body.to_string()).await;
        }
        side.beginning = key[0]["ModifyIndex"].as_u64().expect("a key has an index");
        side
    }

    /// The answer to a read, as JSON.
    async fn read(&self, target: &str) -> Value {
        let body = self.write("GET", target.to_owned(), "").await;
        serde_json::from_slice(&body).unwrap_or_default()
    }

    async fn write(&self, method: &'static str, target: String, body: &str) -> Bytes {
        let step = Step::new(method, target, body);
        self.ask(&step).await.map(Response::into_body).unwrap_or_default()
    }

    /// `None` if the server closes the connection without an answer.
    async fn ask(&self, step: &Step) -> Option<Response<Bytes>> {
        let fill = |text: &str| self.fill(text);
        let request = Request::builder().method(step.method).uri(fill(&step.target));
        let request = request.body(Bytes::from(fill(&step.body))).expect("the step is well-formed");
        self.transport.send(request).await.ok()
    }

    /// Puts this side's ids where a step says `{session0}`.
    fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        while let Some(at) = text.find("{session") {
            let after = &text[at + "{session".len()..];
            let Some((place, _)) = after.split_once('}') else { break };
            let length = "{session}".len() + place.len();
            let own = place.parse().ok().and_then(|place: usize| self.sessions.get(place));
            let id = own.map_or(UNKNOWN, String::as_str).to_owned();
            text.replace_range(at..at + length, &id);
        }
        text
    }

    /// Keeps the id of the session that an answer says was created.
    fn keep(&mut self, step: &Step, body: &Value) {
        if step.target.starts_with("/v1/session/create") && self.sessions.len() < MAX_CREATED {
            self.sessions.extend(body.get("ID").and_then(Value::as_str).map(str::to_owned));
        }
    }

    /// The answer in comparable form, with the indexes in it in the order of their appearance.
    async fn see(&mut self, step: &Step) -> Option<(Seen, Vec<u64>)> {
        let answer = self.ask(step).await?;
        let text = |name: &str| {
            Some(String::from_utf8_lossy(answer.headers().get(name)?.as_bytes()).into_owned())
        };
        let index = text("x-consul-index").and_then(|text| text.parse().ok());
        // The index of events is a hash of a random id.
        let index = index.filter(|_| !step.target.starts_with("/v1/event/"));
        let mut indexes: Vec<u64> = index.into_iter().collect();
        let mut headers: BTreeMap<_, _> =
            HEADERS.iter().filter_map(|name| Some((*name, text(name)?))).collect();
        let status = answer.status().as_u16();
        let text = String::from_utf8_lossy(answer.body()).trim().to_owned();
        let mut body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        self.keep(step, &body);
        for header in headers.values_mut() {
            *header = self.symbolic(header);
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
            if let Value::Array(items) = &mut body {
                items.sort_by_key(Value::to_string);
            }
        }
        for index in &mut indexes {
            if *index < self.beginning {
                *index = 0;
            }
        }
        Some((Seen { status, headers, body }, indexes))
    }

    fn normalise(&mut self, value: &mut Value, indexes: &mut Vec<u64>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members.iter_mut() {
                    if matches!(name.as_str(), "CreateIndex" | "ModifyIndex") {
                        indexes.extend(member.take().as_u64());
                    } else if matches!(name.as_str(), "Port" | "ServicePort")
                        && member.as_u64() == Some(self.port)
                    {
                        *member = "<port>".into();
                    } else if name == "LTime" {
                        // The earlier events of the sides differ.
                        *member = (member.as_u64() > Some(0)).into();
                    } else if matches!(name.as_str(), "ContentHash" | "Hash") {
                        *member = self.number_of_hash(&member.to_string()).into();
                    } else {
                        self.normalise(member, indexes);
                    }
                }
            }
            Value::Array(items) => {
                // Sessions are listed in the order of their ids, which are random.
                let is_by_id = items.len() > 1 && items[0].get("LockDelay").is_some();
                if is_by_id {
                    items.sort_by_cached_key(|item| {
                        let mut item = item.clone();
                        self.normalise(&mut item, &mut Vec::new());
                        item.to_string()
                    });
                }
                items.iter_mut().for_each(|item| self.normalise(item, indexes));
                if is_by_id {
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
            let known = self.sessions.iter().position(|known| *known == id);
            let symbol = match (self.symbols.get(&id), known) {
                (Some(symbol), _) => symbol.clone(),
                (None, Some(place)) => format!("<session {place}>"),
                (None, None) => "<id>".to_owned(),
            };
            text.replace_range(at..at + UUID_LENGTH, &symbol);
        }
        if let Some(symbol) = self.symbols.get(&text) {
            return symbol.clone();
        }
        for (before, after) in TEXTS {
            if let Some((kept, rest)) = text.split_once(before) {
                let end = rest.find(after).unwrap_or(rest.len());
                text = format!("{kept}{before}…{}", &rest[end..]);
            }
        }
        // The names of the node in a text.
        for (name, symbol) in &self.symbols {
            if symbol == NODE {
                text = text
                    .replace(&format!("\"{name}\""), symbol)
                    .replace(&format!("'{name}'"), symbol);
            }
        }
        text
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
const MAX_CREATED: usize = 40;
const NODE: &str = "<node>";
const UNKNOWN: &str = "5d2c1b1e-0000-4000-8000-000000000000";

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
    async fn sequence(&mut self, seed: u64) -> Result<(), Difference> {
        let mut rng = fastrand::Rng::with_seed(seed);
        for side in [&mut self.real, &mut self.simulated] {
            side.sessions.clear();
            side.hashes.clear();
        }
        let mut outcome = Ok(());
        for place in 0..STEPS {
            let step = Step::random(&mut rng, seed);
            if let Err(Difference { text, is_of_order }) = self.step(&step).await {
                let Step { method, target, body } = &step;
                let text = format!("seed {seed}, step {place}: {method} {target} {body}\n{text}");
                outcome = Err(Difference { text, is_of_order });
                break;
            }
        }
        for side in [&self.real, &self.simulated] {
            side.tidy(seed).await;
        }
        outcome
    }

    async fn step(&mut self, step: &Step) -> Result<(), Difference> {
        let without =
            |who| Difference { text: format!("{who} gave no answer"), is_of_order: false };
        // A handler of Consul panics at null in the place of an object, and closes the connection.
        let Some(mut real) = self.real.see(step).await else { return Ok(()) };
        let simulated =
            self.simulated.see(step).await.ok_or_else(|| without("the simulated agent"))?;
        let mut attempt = 0;
        loop {
            let difference = match real.0 == simulated.0 {
                true => match self.relate(&real.1, &simulated.1) {
                    Ok(()) => return Ok(()),
                    Err(why) => Difference {
                        text: format!("{why}\n  in {}", real.0.body),
                        is_of_order: true,
                    },
                },
                false => Difference { text: real.0.difference(&simulated.0), is_of_order: false },
            };
            // A real agent writes to the catalog in the background, within milliseconds.
            if step.method != "GET" || attempt == 6 {
                return Err(difference);
            }
            tokio::time::sleep(Duration::from_millis(4 << attempt)).await;
            attempt += 1;
            real = self.real.see(step).await.ok_or_else(|| without("Consul"))?;
        }
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
            // The order of the writes before the server was ready is random.
            let is_early = (*real == 0, *simulated == 0);
            if is_early == (true, true) {
                continue;
            }
            let fits = is_early == (false, false)
                && same.is_none_or(|known| known == *simulated)
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
}

impl Seen {
    fn difference(&self, simulated: &Seen) -> String {
        let Seen { status, headers, body } = self;
        let mut text = format!(
            "  real:      {status} {body}\n  simulated: {} {}",
            simulated.status, simulated.body
        );
        if *headers != simulated.headers {
            text += &format!("\n  headers:   {headers:?}, {:?}", simulated.headers);
        }
        text
    }
}

impl Side {
    /// Cleans up after a sequence, so that the next one starts with an empty Consul.
    async fn tidy(&self, seed: u64) {
        self.write("DELETE", format!("/v1/kv/r{seed}/?recurse"), "").await;
        for session in &self.sessions {
            self.write("PUT", format!("/v1/session/destroy/{session}"), "").await;
        }
        for name in SERVICES {
            self.write("PUT", format!("/v1/agent/service/deregister/{name}"), "").await;
        }
        for node in NODES.iter().chain(&["none"]) {
            let body = json!({"Node": node}).to_string();
            self.write("PUT", "/v1/catalog/deregister".to_owned(), &body).await;
        }
    }
}
