//! Random requests from a seed: valid ones, broken ones, and ones with ids from earlier answers.

use super::{MANAGEMENT, STATUSES};
use bytes::Bytes;
use consul_api as wire;
use fastrand::Rng;
use http::{Request, Response, Uri};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The source of the requests.
pub struct Random {
    pub rng: Rng,
    /// Ids from answers: of sessions, tokens and policies.
    ids: Vec<String>,
}

const NAMES: &[&str] = &[
    "",
    "a",
    "b/c",
    "a/",
    "web",
    "web-1",
    "db",
    "sim",
    "n1",
    "consul",
    "serfHealth",
    "service:web",
    "passing",
    "warning",
    "critical",
    "any",
    "self",
    "none",
    "reader",
    "..",
    "%2F",
    "%2e%2e",
    "%00",
    "%FF",
    "%C3%A4",
    "%",
    "%zz",
    "+",
    "*",
    "~",
    "{}",
];

const VERBS: &[&str] = &["GET", "GET", "GET", "PUT", "PUT", "PUT", "DELETE", "POST", "FROB"];

const PARAMETERS: &[&str] = &[
    "index",
    "wait",
    "hash",
    "stale",
    "consistent",
    "cached",
    "pretty",
    "recurse",
    "keys",
    "raw",
    "separator",
    "cas",
    "flags",
    "acquire",
    "release",
    "dc",
    "ns",
    "partition",
    "near",
    "node-meta",
    "tag",
    "passing",
    "filter",
    "filter",
    "filter",
    "token",
    "reason",
    "enable",
    "note",
    "status",
    "type",
    "wan",
    "name",
    "node",
    "service",
    "replace-existing-checks",
    "policy",
    "role",
];

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "2",
    "20",
    "-1",
    "18446744073709551615",
    "18446744073709551616",
    "1.5",
    "1e9",
    "x",
    "0x10",
    "007",
];

const TIMES: &[&str] = &[
    "0",
    "1",
    "1ms",
    "5s",
    "10s",
    "1m30s",
    "10m",
    "1h",
    "90000h",
    "-5s",
    "1e3s",
    "s",
    "99999999999h",
];

const FILTER: &[&str] = &[
    "Node",
    "Node.Node",
    "Node.Meta.rack",
    "Meta",
    "Meta.version",
    "Tags",
    "ServiceTags",
    "Service",
    "Service.Port",
    "Service.Tags",
    "Checks",
    "Checks.Status",
    "Status",
    "ID",
    "Port",
    "==",
    "!=",
    "in",
    "not in",
    "contains",
    "matches",
    "not matches",
    "is empty",
    "is not empty",
    "and",
    "or",
    "not",
    "(",
    ")",
    "\"a\"",
    "\"web\"",
    "\"(\"",
    "\"[a-\"",
    "\"^a*$\"",
    "`raw`",
    "1",
    "-1",
    "1.5",
    "true",
    ".",
    "\"",
    "\\",
];

const FIELDS: &[&str] = &[
    "ID",
    "Name",
    "Node",
    "Address",
    "Datacenter",
    "Service",
    "Services",
    "ServiceID",
    "Tags",
    "Port",
    "Meta",
    "NodeMeta",
    "TaggedAddresses",
    "Weights",
    "Check",
    "Checks",
    "CheckID",
    "Status",
    "TTL",
    "HTTP",
    "TCP",
    "Interval",
    "Timeout",
    "Notes",
    "Output",
    "Definition",
    "DeregisterCriticalServiceAfter",
    "SuccessBeforePassing",
    "EnableTagOverride",
    "Kind",
    "Proxy",
    "Connect",
    "SkipNodeUpdate",
    "Behavior",
    "LockDelay",
    "NodeChecks",
    "ServiceChecks",
    "KV",
    "Verb",
    "Key",
    "Value",
    "Flags",
    "Index",
    "Session",
    "Description",
    "Rules",
    "Policies",
    "Roles",
    "Local",
    "AccessorID",
    "SecretID",
    "ExpirationTTL",
    "Passing",
    "Warning",
    "Payload",
    "Coord",
    "Vec",
    "Error",
    "name",
    "check_id",
    "nonsense",
    "",
];

const OPERATIONS: &[&str] = &[
    "set",
    "cas",
    "lock",
    "unlock",
    "get",
    "get-tree",
    "get-or-empty",
    "check-index",
    "check-session",
    "check-not-exists",
    "delete",
    "delete-tree",
    "delete-cas",
    "frob",
    "",
];

const TEXTS: &[&str] = &[
    "",
    "a",
    "web",
    "sim",
    "n1",
    "consul",
    "passing",
    "critical",
    "release",
    "delete",
    "10s",
    "30s",
    "1h",
    "-1s",
    "127.0.0.1",
    "YQ==",
    "!",
    "\u{0}",
    "\u{e4}",
    "reader",
    "key_prefix \"\" { policy = \"write\" }",
    "key \"a\" { policy = \"deny\" ",
    "dc1",
    "dc2",
    "http://127.0.0.1:1/",
    "11111111-2222-3333-4444-555555555555",
];

impl Random {
    pub fn new(seed: u64) -> Random {
        Random { rng: Rng::with_seed(seed), ids: Vec::new() }
    }

    pub fn one_in(&mut self, many: usize) -> bool {
        self.rng.usize(..many) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.rng.usize(..from.len())]
    }

    /// An id from an answer, or something else.
    fn id(&mut self) -> String {
        match self.ids.len() {
            0 => self.pick(NAMES).to_owned(),
            _ if self.one_in(4) => self.pick(NAMES).to_owned(),
            known => self.ids[self.rng.usize(..known)].clone(),
        }
    }

    pub fn request(&mut self) -> Option<Request<Bytes>> {
        let endpoints: Vec<_> = wire::endpoints().collect();
        // The rows of one area are next to each other; some areas get more requests.
        let many = if self.one_in(2) { endpoints.len().min(60) } else { endpoints.len() };
        let endpoint = endpoints[self.rng.usize(..many)];
        let method = if self.one_in(8) {
            self.pick(VERBS)
        } else {
            &http::Method::from(endpoint.method).to_string()
        };
        let target = self.target(endpoint.path);
        let mut request = Request::builder().method(method).uri(Uri::try_from(target).ok()?);
        let token = if self.one_in(3) { self.id() } else { MANAGEMENT.to_owned() };
        request = request.header("X-Consul-Token", token);
        if self.one_in(10) {
            let name =
                ["Cache-Control", "Transfer-Encoding", "X-Consul-Namespace", "Authorization"];
            let name = self.pick(&name);
            let value = self.bytes(20);
            request = request.header(name, value);
        }
        let body = self.body(endpoint.path);
        request.body(body.into()).ok()
    }

    fn target(&mut self, path: &str) -> Vec<u8> {
        let mut target = String::new();
        for segment in path.trim_start_matches('/').split('/') {
            let segment = match segment.starts_with('{') {
                true if self.one_in(2) => self.id(),
                true => self.pick(NAMES).to_owned(),
                false if self.one_in(100) => self.pick(NAMES).to_owned(),
                false => segment.to_owned(),
            };
            target.push('/');
            target.push_str(&segment);
        }
        for place in 0..self.rng.usize(..4) {
            target.push(if place == 0 { '?' } else { '&' });
            let name = self.pick(PARAMETERS);
            target.push_str(name);
            if self.one_in(10) {
                continue;
            }
            let value = match self.rng.u8(..5) {
                _ if name == "filter" => self.filter(),
                _ if name == "wait" => self.pick(TIMES).to_owned(),
                0 => self.id(),
                1 => self.pick(NAMES).to_owned(),
                _ => self.pick(NUMBERS).to_owned(),
            };
            target.push('=');
            target.push_str(&value);
        }
        self.broken(target.into_bytes(), 20)
    }

    fn filter(&mut self) -> String {
        let text = match self.rng.u8(..20) {
            0 => "(".repeat(self.rng.usize(..3000)),
            1 => "not ".repeat(self.rng.usize(..3000)),
            2 => format!("Node matches \"{}\"", "(".repeat(self.rng.usize(..3000))),
            3 => format!("Node matches \"{}\"", "(a{1000}){1000}".repeat(self.rng.usize(..3))),
            4..10 => {
                let (name, value) =
                    (self.pick(&FILTER[..15]), self.pick(&["\"a\"", "\"web\"", "1"]));
                format!("{name} {} {value}", self.pick(&["==", "!=", "contains", "matches"]))
            }
            _ => {
                let words: Vec<_> = (0..self.rng.usize(..12)).map(|_| self.pick(FILTER)).collect();
                words.join(" ")
            }
        };
        percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string()
    }

    fn body(&mut self, path: &str) -> Vec<u8> {
        if self.one_in(4) {
            return self.bytes(40);
        }
        let value = match path {
            "/v1/txn" => {
                let operations = (0..self.rng.usize(1..6)).map(|_| self.operation());
                operations.collect::<Vec<_>>().into()
            }
            "/v1/agent/service/register" if !self.one_in(3) => {
                json!({"ID": self.text(), "Name": self.text(), "Port": self.rng.u16(..),
                    "Check": self.check_definition(), "Tags": [self.text()]})
            }
            "/v1/catalog/register" if !self.one_in(3) => {
                json!({"Node": self.text(), "Address": "127.0.0.1", "Service": self.json(2),
                    "Check": self.json(2), "NodeMeta": {"rack": self.text()}})
            }
            "/v1/session/create" if !self.one_in(3) => {
                json!({"TTL": self.pick(TIMES), "LockDelay": self.pick(TIMES),
                    "Behavior": self.pick(&["delete", "release", ""])})
            }
            _ if self.one_in(30) => {
                let depth = self.rng.usize(..5000);
                let open = self.pick(&["[", "{\"Check\":"]);
                return open.repeat(depth).into_bytes();
            }
            _ => self.json(4),
        };
        self.broken(value.to_string().into_bytes(), 10)
    }

    fn operation(&mut self) -> Value {
        match self.rng.u8(..8) {
            0 => json!({"Node": {"Verb": self.pick(OPERATIONS), "Node": self.json(2)}}),
            1 => json!({"Service": {"Verb": self.pick(OPERATIONS), "Node": self.text(),
                "Service": self.json(2)}}),
            2 => json!({"Check": {"Verb": self.pick(OPERATIONS), "Check": self.json(2)}}),
            3 => self.json(3),
            _ => json!({"KV": {"Verb": self.pick(OPERATIONS), "Key": self.text(),
                "Value": self.text(), "Index": self.rng.u8(..30), "Session": self.id()}}),
        }
    }

    fn check_definition(&mut self) -> Value {
        let [interval, timeout] = [self.pick(TIMES), self.pick(TIMES)];
        match self.rng.u8(..4) {
            0 => json!({"TTL": interval, "Status": self.text()}),
            1 => json!({"TCP": "127.0.0.1:1", "Interval": interval, "Timeout": timeout}),
            2 => {
                json!({"HTTP": "http://127.0.0.1:1/", "Interval": interval, "Method": self.text()})
            }
            _ => self.json(2),
        }
    }

    fn text(&mut self) -> String {
        if self.one_in(6) { self.id() } else { self.pick(TEXTS).to_owned() }
    }

    fn json(&mut self, depth: usize) -> Value {
        let kinds = if depth == 0 { 6 } else { 12 };
        match self.rng.u8(..kinds) {
            0 => Value::Null,
            1 => self.rng.bool().into(),
            2 => self.rng.i64(-2..70).into(),
            3 => [json!(u64::MAX), json!(i64::MIN), json!(1e300), json!(0.5)][self.rng.usize(..4)]
                .clone(),
            4 | 5 => self.text().into(),
            6 | 7 => (0..self.rng.usize(..4)).map(|_| self.json(depth - 1)).collect(),
            _ => {
                let mut object = Map::new();
                for _ in 0..self.rng.usize(..7) {
                    object.insert(self.pick(FIELDS).to_owned(), self.json(depth - 1));
                }
                object.into()
            }
        }
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.rng.usize(..most)).map(|_| self.rng.u8(..)).collect()
    }

    /// Cuts one in `many` short, or changes a byte of it.
    fn broken(&mut self, mut text: Vec<u8>, many: usize) -> Vec<u8> {
        if !text.is_empty() && self.one_in(many) {
            let place = self.rng.usize(..text.len());
            match self.rng.bool() {
                true => text.truncate(place),
                false => text[place] = self.rng.u8(..),
            }
        }
        text
    }

    /// Checks an answer, and keeps the ids in it.
    pub fn check(&mut self, answer: &Response<Bytes>, seen: &mut BTreeMap<u16, usize>) {
        let status = answer.status().as_u16();
        assert!(STATUSES.contains(&status), "{answer:?}");
        *seen.entry(status).or_default() += 1;
        if let Some(index) = answer.headers().get("x-consul-index") {
            assert_ne!(index, "0", "{answer:?}");
        }
        let is_json = answer.headers().get("content-type").is_some_and(|t| t == "application/json");
        if status != 200 || !is_json || answer.body().is_empty() {
            return;
        }
        let body: Value = serde_json::from_slice(answer.body()).expect("the body is JSON");
        for name in ["ID", "AccessorID", "SecretID", "Session"] {
            let of = body.as_array().and_then(|list| list.first()).unwrap_or(&body);
            if let Some(id) = of.get(name).and_then(Value::as_str) {
                self.ids.push(id.to_owned());
            }
        }
        if self.ids.len() > 50 {
            self.ids.drain(..25);
        }
    }
}
