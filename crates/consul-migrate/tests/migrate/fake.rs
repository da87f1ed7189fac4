//! An etcd in memory at the HTTP level, with faults. What it says is as etcd says it: what is zero, false or empty is left
//! out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_migrate::streaming::{Parts, Streaming};
use consul_process::clock::{BoxFuture, Clock, Instant, ManualClock};
use futures_util::StreamExt;
use futures_util::stream;
use http::{Request, Response};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A key at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub value: Bytes,
    pub created: u64,
    pub changed: u64,
    pub lease: u64,
}

type Keys = BTreeMap<Vec<u8>, Entry>;

#[derive(Clone, Debug)]
struct Event {
    revision: u64,
    key: Vec<u8>,
    /// `None`: deleted.
    entry: Option<Entry>,
}

#[derive(Debug)]
struct State {
    cluster: u64,
    revision: u64,
    compacted: u64,
    events: Vec<Event>,
    keys: Keys,
    /// The keys at the earlier revision that was asked last.
    before: (u64, Keys),
    alarms: BTreeSet<u64>,
    rng: fastrand::Rng,
    /// How many of a hundred requests have a fault.
    faults: u8,
    /// Whether it speaks gRPC beside HTTP.
    has_grpc: bool,
    /// How often a watch is told how far etcd is, if it has no events.
    notifies: Duration,
    /// How many times all watches were cut.
    cuts: u64,
    has_users: bool,
    /// The answer of another program to all requests.
    other: Option<(u16, &'static str)>,
    /// The same to all watches.
    other_watch: Option<(u16, &'static str)>,
    /// That of its oldest server.
    version: &'static str,
}

/// That of etcd by default.
const NOTIFIES: Duration = Duration::from_secs(600);

/// A put, or without a value a deletion; the number is the lease.
pub type Change = (Vec<u8>, Option<(Bytes, u64)>);

#[derive(Clone, Debug)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    clock: ManualClock,
}

impl Fake {
    pub fn new(clock: &ManualClock, seed: u64, faults: u8) -> Fake {
        let rng = fastrand::Rng::with_seed(seed);
        let state = State {
            cluster: 7,
            revision: 1,
            compacted: 0,
            events: Vec::new(),
            keys: Keys::new(),
            before: (0, Keys::new()),
            alarms: BTreeSet::new(),
            rng,
            faults,
            has_grpc: false,
            notifies: NOTIFIES,
            cuts: 0,
            has_users: false,
            other: None,
            other_watch: None,
            version: "3.4.0",
        };
        Fake { state: Arc::new(Mutex::new(state)), clock: clock.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The keys at a revision.
    pub fn at(&self, revision: u64) -> Keys {
        self.state().at(revision).clone()
    }

    pub fn revision(&self) -> u64 {
        self.state().revision
    }

    pub fn alarms(&self) -> BTreeSet<u64> {
        self.state().alarms.clone()
    }

    pub fn raise(&self, alarm: u64) {
        self.state().alarms.insert(alarm);
    }

    /// Lifts all alarms, as a program that does not know of the job.
    pub fn lift(&self) {
        self.state().alarms.clear();
    }

    /// Makes it a server of another cluster.
    pub fn belong_to(&self, cluster: u64) {
        self.state().cluster = cluster;
    }

    pub fn speak_grpc(&self) {
        self.state().has_grpc = true;
    }

    /// Tells watches without events more often how far it is.
    pub fn notify_every(&self, time: Duration) {
        self.state().notifies = time;
    }

    /// Cuts the connections of all watches.
    pub fn cut_watches(&self) {
        self.state().cuts += 1;
    }

    /// Has access control, which lets each request through: those of the test are from a user.
    pub fn have_users(&self, version: &'static str) {
        let mut state = self.state();
        (state.has_users, state.version) = (true, version);
    }

    /// Lets another program answer in its place, or not any more.
    pub fn answer_as(&self, other: Option<(u16, &'static str)>) {
        self.state().other = other;
    }

    /// The same for watches alone.
    pub fn answer_watches_as(&self, other: Option<(u16, &'static str)>) {
        self.state().other_watch = other;
    }

    /// From now on no request has a fault.
    pub fn heal(&self) {
        self.state().faults = 0;
    }

    /// Applies changes in one revision, as a program; returns whether they were taken.
    pub fn write(&self, changes: &[Change]) -> bool {
        let mut state = self.state();
        let has_put = changes.iter().any(|(_, value)| value.is_some());
        let is_refused = has_put && !state.alarms.is_empty();
        if !is_refused {
            state.apply(changes);
        }
        !is_refused
    }

    /// Forgets the history before the present revision.
    pub fn compact(&self) {
        let mut state = self.state();
        state.compacted = state.revision;
    }

    async fn answer(&self, path: &str, body: &[u8]) -> Result<Response<Parts>, Error> {
        let other = {
            let state = self.state();
            state.other.or(state.other_watch.filter(|_| path.ends_with("/watch")))
        };
        if let Some((status, text)) = other {
            let parts: Parts = Box::pin(stream::iter([Ok(Bytes::from_static(text.as_bytes()))]));
            return Ok(Response::builder().status(status).body(parts).unwrap());
        }
        let fault = self.state().fault();
        let broken = || Error::new(Kind::Connect, "fake: connection reset").retryable();
        match fault {
            Some(0) => return Err(broken().not_sent()),
            Some(1) => return Ok(whole(503, &json!({ "message": "unavailable", "code": 14 }))),
            Some(2) => self.clock.sleep(Duration::from_millis(700)).await,
            _ => {}
        }
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        if path == "/v3/watch" {
            return Ok(Response::new(self.watch(&asked["create_request"])));
        }
        let answer = self.state().request(path, &asked);
        // A request takes some time, in which others come.
        let pause = self.state().rng.u64(0..4);
        self.clock.sleep(Duration::from_millis(pause)).await;
        match fault {
            Some(3) => Err(broken()),
            _ => Ok(answer),
        }
    }

    fn watch(&self, asked: &Value) -> Parts {
        assert_eq!(asked["progress_notify"], true);
        let (now, state) = (self.clock.now(), self.state());
        let mut follow = Follow {
            fake: self.clone(),
            range: range(asked),
            next: number(&asked["start_revision"]),
            unsent: VecDeque::new(),
            is_over: false,
            notified: now,
            cuts: state.cuts,
        };
        follow.add(json!({ "header": state.header(), "created": true }));
        drop(state);
        Box::pin(stream::unfold(follow, |mut follow| async move {
            let part = follow.part().await?;
            Some((part, follow))
        }))
    }
}

impl Streaming for Fake {
    fn open(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Parts>, Error>> {
        Box::pin(async move { self.answer(request.uri().path(), request.body()).await })
    }

    fn call<'a>(
        &'a self,
        method: &'a str,
        _: Option<&'a str>,
        message: &'a [u8],
    ) -> BoxFuture<'a, Option<Bytes>> {
        assert_eq!(method, "/etcdserverpb.KV/Range");
        Box::pin(async move {
            if !self.state().has_grpc {
                return None;
            }
            let asked = protobuf::asked(message).to_string();
            let answer = self.answer("/v3/kv/range", asked.as_bytes()).await.ok()?;
            if answer.status() != 200 {
                return None;
            }
            let said = answer.into_body().next().await?.ok()?;
            Some(protobuf::said(&serde_json::from_slice(&said).unwrap()).into())
        })
    }

    fn endpoint(&self) -> &str {
        "fake"
    }
}

/// The messages of gRPC that say the same as those of the gateway.
mod protobuf {
    use super::{BASE64, bytes, number};
    use base64::Engine as _;
    use serde_json::{Value, json};

    pub fn asked(mut message: &[u8]) -> Value {
        let mut asked = json!({});
        while !message.is_empty() {
            let tag = take_number(&mut message);
            let content = take_number(&mut message);
            let name = ["key", "range_end", "limit", "revision"][(tag >> 3) as usize - 1];
            asked[name] = match tag & 7 {
                0 => content.to_string().into(),
                _ => {
                    // Real servers take an empty end that is there for none.
                    assert_ne!(content, 0, "{name}");
                    let (text, rest) = message.split_at(content as usize);
                    message = rest;
                    BASE64.encode(text).into()
                }
            };
        }
        asked
    }

    fn take_number(message: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = message.split_first().unwrap();
            *message = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                break;
            }
        }
        number
    }

    /// The answer to a range.
    pub fn said(answer: &Value) -> Vec<u8> {
        let mut message = Vec::new();
        let header = numbers(&answer["header"], &[(1, "cluster_id"), (3, "revision")]);
        add(&mut message, 1, &header);
        for kv in answer["kvs"].as_array().into_iter().flatten() {
            const NUMBERS: [(u8, &str); 4] =
                [(2, "create_revision"), (3, "mod_revision"), (4, "version"), (6, "lease")];
            let mut entry = numbers(kv, &NUMBERS);
            add(&mut entry, 1, &bytes(&kv["key"]));
            add(&mut entry, 5, &bytes(&kv["value"]));
            add(&mut message, 2, &entry);
        }
        message.extend([3 << 3, u8::from(answer["more"] == true)]);
        message.extend(numbers(answer, &[(4, "count")]));
        message
    }

    fn numbers(of: &Value, fields: &[(u8, &str)]) -> Vec<u8> {
        let mut message = Vec::new();
        for (field, name) in fields {
            message.push(field << 3);
            put_number(&mut message, number(&of[name]));
        }
        message
    }

    fn add(message: &mut Vec<u8>, field: u8, content: &[u8]) {
        message.push((field << 3) | 2);
        put_number(message, content.len() as u64);
        message.extend(content);
    }

    fn put_number(message: &mut Vec<u8>, mut rest: u64) {
        while rest >= 0x80 {
            message.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        message.push(rest as u8);
    }
}

impl State {
    fn fault(&mut self) -> Option<u8> {
        (self.rng.u8(..100) < self.faults).then(|| self.rng.u8(..4))
    }

    fn at(&mut self, revision: u64) -> &Keys {
        if revision >= self.revision {
            return &self.keys;
        }
        if self.before.0 != revision {
            let events = self.events.iter().take_while(|event| event.revision <= revision);
            self.before = (revision, Keys::new());
            events.for_each(|event| event.apply(&mut self.before.1));
        }
        &self.before.1
    }

    fn apply(&mut self, changes: &[Change]) {
        let is_change = |(key, value): &&Change| value.is_some() || self.keys.contains_key(key);
        let real: Vec<&Change> = changes.iter().filter(is_change).collect();
        if real.is_empty() {
            return;
        }
        self.revision += 1;
        for (key, value) in real {
            let revision = self.revision;
            let created = self.keys.get(key).map_or(revision, |entry| entry.created);
            let entry = value.clone().map(|(value, lease)| Entry {
                value,
                created,
                changed: revision,
                lease,
            });
            let event = Event { revision, key: key.clone(), entry };
            event.apply(&mut self.keys);
            self.events.push(event);
        }
    }

    fn header(&self) -> Value {
        self.header_of(self.revision)
    }

    fn header_of(&self, revision: u64) -> Value {
        json!({
            "cluster_id": self.cluster.to_string(), "member_id": "1", "revision": revision.to_string(), "raft_term": "2",
        })
    }

    fn request(&mut self, path: &str, asked: &Value) -> Response<Parts> {
        let header = self.header();
        match path {
            "/v3/maintenance/status" => {
                whole(200, &json!({ "header": header, "version": "3.4.0" }))
            }
            "/v3/kv/range" => self.range(asked, &header),
            "/v3/kv/txn" if !self.holds(&asked["compare"]) => {
                whole(200, &json!({ "header": header }))
            }
            "/v3/kv/txn" => {
                let changes: Vec<Change> =
                    asked["success"].as_array().unwrap().iter().map(change).collect();
                if changes.iter().any(|(_, value)| value.is_some()) && !self.alarms.is_empty() {
                    return refused("etcdserver: mvcc: database space exceeded", 8);
                }
                self.apply(&changes);
                whole(200, &json!({ "header": self.header(), "succeeded": true }))
            }
            "/v3/kv/deleterange" => {
                let range = range(asked);
                let keys = self.keys.keys().filter(|key| is_in(&range, key));
                let changes: Vec<Change> = keys.map(|key| (key.clone(), None)).collect();
                self.apply(&changes);
                whole(200, &json!({ "header": header }))
            }
            "/v3/maintenance/alarm" => self.alarm(asked),
            "/version" => {
                whole(200, &json!({ "etcdserver": "3.9.9", "etcdcluster": self.version }))
            }
            "/v3/auth/authenticate" if self.has_users => {
                refused("etcdserver: authentication failed, invalid user ID or password", 3)
            }
            "/v3/auth/authenticate" => refused("etcdserver: authentication is not enabled", 9),
            other => panic!("{other}"),
        }
    }

    /// Whether the keys were changed last in the revisions that a transaction says.
    fn holds(&self, compares: &Value) -> bool {
        compares.as_array().into_iter().flatten().all(|compare| {
            let changed = self.keys.get(&bytes(&compare["key"])).map_or(0, |entry| entry.changed);
            assert_eq!((&compare["target"], &compare["result"]), (&json!("MOD"), &json!("EQUAL")));
            changed == number(&compare["mod_revision"])
        })
    }

    fn range(&mut self, asked: &Value, header: &Value) -> Response<Parts> {
        let revision = match number(&asked["revision"]) {
            0 => self.revision,
            given => given,
        };
        if revision < self.compacted {
            return refused("etcdserver: mvcc: required revision has been compacted", 11);
        }
        let range = range(asked);
        let mut found: Vec<_> =
            self.at(revision).iter().filter(|(key, _)| is_in(&range, key)).collect();
        let count = found.len();
        match number(&asked["limit"]) as usize {
            _ if asked["count_only"] == true => found.clear(),
            0 => {}
            limit => found.truncate(limit),
        }
        let more = found.len() < count;
        let kvs: Vec<Value> = found.iter().map(|(key, entry)| shown(key, Some(entry), 0)).collect();
        whole(
            200,
            &json!({ "header": header, "kvs": kvs, "more": more, "count": count.to_string() }),
        )
    }

    fn alarm(&mut self, asked: &Value) -> Response<Parts> {
        let member = number(&asked["memberID"]);
        match asked["action"].as_str().unwrap() {
            "ACTIVATE" => _ = self.alarms.insert(member),
            "DEACTIVATE" => _ = self.alarms.remove(&member),
            _ => {}
        }
        let on = self
            .alarms
            .iter()
            .map(|member| json!({ "memberID": member.to_string(), "alarm": "NOSPACE" }));
        whole(200, &json!({ "header": self.header(), "alarms": on.collect::<Vec<_>>() }))
    }
}

impl Event {
    fn apply(&self, keys: &mut Keys) {
        match &self.entry {
            Some(entry) => _ = keys.insert(self.key.clone(), entry.clone()),
            None => _ = keys.remove(&self.key),
        }
    }
}

/// A watch on its way.
struct Follow {
    fake: Fake,
    range: (Vec<u8>, Vec<u8>),
    next: u64,
    unsent: VecDeque<u8>,
    is_over: bool,
    /// When it was told something last.
    notified: Instant,
    /// How many times watches were cut before.
    cuts: u64,
}

impl Follow {
    /// Some bytes, which need not end with a line.
    async fn part(&mut self) -> Option<Result<Bytes, Error>> {
        while self.unsent.is_empty() {
            if self.is_over {
                return None;
            }
            self.take_lines();
            if self.unsent.is_empty() {
                self.fake.clock.sleep(Duration::from_millis(20)).await;
            }
        }
        let (is_broken, count) = {
            let state = &mut *self.fake.state();
            let is_broken = state.fault() == Some(0) || state.cuts > self.cuts;
            (is_broken, state.rng.choice([7, 300, 100_000]).unwrap())
        };
        if is_broken {
            self.is_over = true;
            self.unsent.clear();
            return Some(Err(Error::new(Kind::Connect, "fake: the watch is broken").retryable()));
        }
        let count = count.min(self.unsent.len());
        Some(Ok(self.unsent.drain(..count).collect::<Vec<u8>>().into()))
    }

    fn add(&mut self, line: Value) {
        self.unsent.extend(without_zeros(json!({ "result": line })).to_string().bytes());
        self.unsent.push_back(b'\n');
        self.notified = self.fake.clock.now();
    }

    fn take_lines(&mut self) {
        let fake = self.fake.clone();
        let state = &mut *fake.state();
        if self.next < state.compacted {
            self.is_over = true;
            // The revision in its header is 0.
            return self.add(json!({
                "header": state.header_of(0), "canceled": true, "compact_revision": state.compacted.to_string(),
            }));
        }
        // A compaction removes the deletions of its own revision, too, from which etcd takes a watch.
        let is_gone = |event: &Event| event.entry.is_none() && event.revision <= state.compacted;
        let is_new = |event: &&Event| {
            event.revision >= self.next && is_in(&self.range, &event.key) && !is_gone(event)
        };
        let events: Vec<Event> = state.events.iter().filter(is_new).cloned().collect();
        let mut rest = &events[..];
        while !rest.is_empty() {
            // A line has some whole revisions, or a part of one.
            let (now, later) = rest.split_at(state.rng.usize(1..=rest.len()));
            let is_part = later
                .first()
                .is_some_and(|next| Some(next.revision) == now.last().map(|it| it.revision));
            let told: Vec<Value> = now.iter().map(told).collect();
            self.add(json!({ "header": state.header(), "events": told, "fragment": is_part }));
            rest = later;
        }
        self.next = state.revision + 1;
        let is_due = fake.clock.now() >= self.notified + state.notifies;
        if events.is_empty() && (is_due || state.cuts > self.cuts) {
            self.add(json!({ "header": state.header() }));
        }
    }
}

fn told(event: &Event) -> Value {
    let kv = shown(&event.key, event.entry.as_ref(), event.revision);
    match event.entry {
        Some(_) => json!({ "kv": kv }),
        None => json!({ "type": "DELETE", "kv": kv }),
    }
}

fn shown(key: &[u8], entry: Option<&Entry>, deleted: u64) -> Value {
    match entry {
        None => json!({ "key": BASE64.encode(key), "mod_revision": deleted.to_string() }),
        Some(entry) => json!({
            "key": BASE64.encode(key), "value": BASE64.encode(&entry.value), "version": "1",
            "create_revision": entry.created.to_string(), "mod_revision": entry.changed.to_string(),
            "lease": entry.lease.to_string(),
        }),
    }
}

fn change(operation: &Value) -> Change {
    match operation.get("requestPut") {
        Some(put) => (bytes(&put["key"]), Some((bytes(&put["value"]).into(), 0))),
        None => (bytes(&operation["requestDeleteRange"]["key"]), None),
    }
}

fn bytes(text: &Value) -> Vec<u8> {
    BASE64.decode(text.as_str().unwrap_or_default()).unwrap()
}

fn number(text: &Value) -> u64 {
    text.as_str().map_or(0, |text| text.parse().unwrap())
}

fn range(asked: &Value) -> (Vec<u8>, Vec<u8>) {
    (bytes(&asked["key"]), bytes(&asked["range_end"]))
}

fn is_in((start, end): &(Vec<u8>, Vec<u8>), key: &[u8]) -> bool {
    match &end[..] {
        [] => key == start,
        [0] => key >= &start[..],
        end => key >= &start[..] && key < end,
    }
}

/// As the JSON of protobuf, which leaves out what is zero, false or empty, but no message.
fn without_zeros(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            *members = std::mem::take(members)
                .into_iter()
                .map(|(name, value)| (name, without_zeros(value)))
                .filter(|(_, value)| {
                    ![json!(false), json!(0), json!("0"), json!(""), json!([])].contains(value)
                })
                .collect();
        }
        Value::Array(items) => {
            items.iter_mut().for_each(|item| *item = without_zeros(item.take()));
        }
        _ => {}
    }
    value
}

fn whole(status: u16, body: &Value) -> Response<Parts> {
    let body = Bytes::from(without_zeros(body.clone()).to_string());
    let parts: Parts = Box::pin(stream::iter([Ok(body)]));
    Response::builder().status(status).body(parts).unwrap()
}

fn refused(message: &str, code: u16) -> Response<Parts> {
    let status = if code == 8 { 429 } else { 400 };
    whole(status, &json!({ "message": message, "error": message, "code": code }))
}
