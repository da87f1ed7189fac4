//! An etcd in memory at the HTTP level, with faults. Its answers are byte for byte etcd's, which
//! `recorded.rs` sees to.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_migrate::etcd::streaming::{Parts, Streaming};
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
    pub writes: u64,
    pub lease: u64,
}

type Keys = BTreeMap<Vec<u8>, Entry>;

/// The permissions of a role, in the order of their keys: each with its key and its end, and its kind.
pub type Permissions = Vec<((Vec<u8>, Vec<u8>), String)>;

/// As etcd does: it looks for the key by a binary search, and replaces what that finds if it has the same end. Otherwise it
/// adds a permission, also beside one of the same range.
fn grant(permissions: &mut Permissions, range: (Vec<u8>, Vec<u8>), kind: &str) {
    let place = permissions.partition_point(|(other, _)| other.0 < range.0);
    match permissions.get_mut(place) {
        Some((other, found)) if *other == range => kind.clone_into(found),
        _ => {
            permissions.push((range, kind.to_owned()));
            permissions.sort_by(|(one, _), (other, _)| one.0.cmp(&other.0));
        }
    }
}

/// The thing between the program and the requests that change roles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RolesBy {
    Itself,
    /// A proxy that sends each twice, and answers with the first or the second answer.
    First,
    Second,
    /// A connection that loses the first answer to each; the next one to the same passes.
    Losing,
    /// The same, between two losses.
    Lost,
}

/// The thing between the program and transactions that change keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TxnsBy {
    Itself,
    /// The first answer is lost.
    Losing,
    /// The first one arrives once more, after this time.
    Twice(Duration),
    /// The first one has no answer at once, and arrives after this time.
    Late(Duration),
    /// The same, and it is never answered.
    Silent(Duration),
}

/// The result of a request with a void token, in place of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Void {
    Closed,
    Empty,
    BadGateway,
}

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
    /// How many watches there were, and up to which of them something between lets nothing through.
    watches: u64,
    held_up: u64,
    has_users: bool,
    /// How many logins there were, up to which of them their tokens are void, and what a request with one of these gets.
    logins: usize,
    void: usize,
    void_by: Void,
    /// Whether only root may raise and lift alarms, as on 3.7; the test's requests are then from another user.
    alarms_are_roots: bool,
    /// The roles of each user, and the permissions of each role.
    users: BTreeMap<String, BTreeSet<String>>,
    roles: BTreeMap<String, Permissions>,
    /// The thing between the program and the requests that change roles.
    roles_by: RolesBy,
    txns_by: TxnsBy,
    /// The answer of another program to all requests.
    other: Option<(u16, &'static str)>,
    /// The same to all watches.
    other_watch: Option<(u16, &'static str)>,
    /// That of its oldest server.
    version: &'static str,
    /// The operations of a transaction, and the bytes of a request, that it takes.
    limits: (usize, usize),
    /// The largest body that something before it lets through, and its answer to larger ones, with status 413.
    bodies: Option<(usize, &'static str)>,
    /// Whether watches are told each change in a line of its own, and have nothing ready before they are asked.
    is_one_by_one: bool,
    /// How long each request takes beside, and the counts of ranges that were asked for.
    slow: Duration,
    counts: u64,
    /// Changes of roles are made one after the other: until when the last one is made.
    changes_until: Instant,
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
            watches: 0,
            held_up: 0,
            has_users: false,
            logins: 0,
            void: 0,
            void_by: Void::Closed,
            alarms_are_roots: false,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            roles_by: RolesBy::Itself,
            txns_by: TxnsBy::Itself,
            other: None,
            other_watch: None,
            version: "3.4.0",
            limits: (128, 1536 << 10),
            bodies: None,
            is_one_by_one: false,
            slow: Duration::ZERO,
            changes_until: Instant::default(),
            counts: 0,
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

    /// As `--max-txn-ops` and `--max-request-bytes` do.
    pub fn limit(&self, operations: usize, bytes: usize) {
        self.state().limits = (operations, bytes);
    }

    /// Lets something before it refuse larger bodies by this text.
    pub fn limit_bodies(&self, bodies: Option<(usize, &'static str)>) {
        self.state().bodies = bodies;
    }

    /// Tells watches each change in a line of its own, each after the connection had its turn.
    pub fn tell_one_by_one(&self) {
        self.state().is_one_by_one = true;
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

    /// From now on each request takes this time longer. Returns how many counts of ranges were asked for until now.
    pub fn be_slow(&self, slow: Duration) -> u64 {
        let mut state = self.state();
        state.slow = slow;
        state.counts
    }

    /// Tells watches without events more often how far it is.
    pub fn notify_every(&self, time: Duration) {
        self.state().notifies = time;
    }

    /// Cuts the connections of all watches.
    pub fn cut_watches(&self) {
        self.state().cuts += 1;
    }

    /// Lets nothing of the present watches through any more, or also nothing of those to come, while all else is answered.
    pub fn hold_watches_up(&self, has_later: bool) {
        let mut state = self.state();
        state.held_up = if has_later { u64::MAX } else { state.watches };
    }

    /// Lets all through again.
    pub fn let_watches_through(&self) {
        self.state().held_up = 0;
    }

    /// Has access control, which lets each request through: the test's requests are from a user.
    pub fn have_users(&self, version: &'static str) {
        let mut state = self.state();
        (state.has_users, state.version) = (true, version);
    }

    /// Has no access control any more.
    pub fn have_no_users(&self) {
        self.state().has_users = false;
    }

    /// All tokens of now are void.
    pub fn end_tokens(&self, by: Void) {
        let mut state = self.state();
        (state.void, state.void_by) = (state.logins, by);
    }

    /// Lets the user of the test's requests raise and lift no alarm any more.
    pub fn keep_alarms_for_root(&self) {
        self.state().alarms_are_roots = true;
    }

    /// Is a cluster of this version.
    pub fn be(&self, version: &'static str) {
        self.state().version = version;
    }

    /// Gives a role a permission.
    pub fn permit(&self, role: &str, kind: &str, key: &str, end: &str) {
        let mut state = self.state();
        let permissions = state.roles.entry(role.to_owned()).or_default();
        grant(permissions, (key.into(), end.into()), kind);
    }

    /// From now on this is between the program and the requests that change roles.
    pub fn change_roles_by(&self, by: RolesBy) {
        self.state().roles_by = by;
    }

    /// This is between the program and its next transaction that changes keys.
    pub fn change_by(&self, by: TxnsBy) {
        self.state().txns_by = by;
    }

    /// Takes all permissions of a range from a role.
    pub fn forbid(&self, role: &str, key: &str, end: &str) {
        let range = (key.into(), end.into());
        self.state().roles.get_mut(role).unwrap().retain(|(other, _)| *other != range);
    }

    /// The permissions that a role has.
    pub fn permissions(&self, role: &str) -> Permissions {
        self.state().roles[role].clone()
    }

    /// The kinds of permissions that a role has.
    pub fn permitted(&self, role: &str) -> Vec<String> {
        self.permissions(role).into_iter().map(|(_, kind)| kind).collect()
    }

    /// Applies changes as a program whose user has a role; returns whether they were taken.
    pub fn write_as(&self, role: &str, changes: &[Change]) -> bool {
        let may = |key: &[u8]| {
            let state = self.state();
            state.roles[role].iter().any(|(range, kind)| kind != "READ" && is_in(range, key))
        };
        changes.iter().all(|(key, _)| may(key)) && self.write(changes)
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

    /// Goes back to an earlier revision, as from a snapshot: without alarms, and without its present watches.
    pub fn restore(&self, revision: u64) {
        let mut state = self.state();
        state.keys = state.at(revision).clone();
        state.events.retain(|event| event.revision <= revision);
        state.before = (0, Keys::new());
        state.revision = revision;
        state.alarms.clear();
        state.cuts += 1;
    }

    /// Forgets the history before the present revision.
    pub fn compact(&self) {
        let mut state = self.state();
        state.compacted = state.revision;
    }

    async fn answer(&self, path: &str, body: &[u8]) -> Result<Response<Parts>, Error> {
        let other = {
            let state = self.state();
            let too_large = state.bodies.filter(|(most, _)| body.len() > *most);
            let other = state.other.or(state.other_watch.filter(|_| path.ends_with("/watch")));
            too_large.map(|(_, text)| (413, text)).or(other)
        };
        if let Some((status, text)) = other {
            let parts: Parts = Box::pin(stream::iter([Ok(Bytes::from_static(text.as_bytes()))]));
            return Ok(Response::builder().status(status).body(parts).unwrap());
        }
        let fault = self.state().fault();
        let broken = || Error::new(Kind::Connect, "fake: connection reset").retryable();
        match fault {
            Some(0) => return Err(broken().not_sent()),
            Some(1) => return Ok(self.state().refused(503, "unavailable", 14)),
            Some(2) => self.clock.sleep(Duration::from_millis(700)).await,
            _ => {}
        }
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        if path == "/v3/watch" {
            return Ok(Response::new(self.watch(&asked["create_request"])));
        }
        // A mark alone is none.
        if asked["success"].as_array().is_some_and(|all| all.len() > 1) {
            let by = std::mem::replace(&mut self.state().txns_by, TxnsBy::Itself);
            if let TxnsBy::Twice(after) | TxnsBy::Late(after) | TxnsBy::Silent(after) = by {
                let (fake, asked) = (self.clone(), asked.clone());
                self.clock.spawn(async move {
                    fake.clock.sleep(after).await;
                    let _ = fake.state().request("/v3/kv/txn", &asked);
                });
            }
            match by {
                TxnsBy::Losing => {
                    let _ = self.state().request(path, &asked);
                    return Err(broken());
                }
                TxnsBy::Late(_) => return Err(broken()),
                TxnsBy::Silent(_) => std::future::pending().await,
                TxnsBy::Itself | TxnsBy::Twice(_) => {}
            }
        }
        let changes_role = path.ends_with("role/grant") || path.ends_with("role/revoke");
        if changes_role {
            let begins = self.state().begin_change(self.clock.now());
            self.clock.sleep_until(begins).await;
        }
        let answer = {
            let state = &mut *self.state();
            let answer = state.request(path, &asked);
            match state.roles_by {
                RolesBy::First if changes_role => {
                    let _ = state.request(path, &asked);
                    answer
                }
                RolesBy::Second if changes_role => state.request(path, &asked),
                RolesBy::Losing if changes_role => {
                    state.roles_by = RolesBy::Lost;
                    return Err(broken());
                }
                RolesBy::Lost if changes_role => {
                    state.roles_by = RolesBy::Losing;
                    answer
                }
                _ => answer,
            }
        };
        // A request takes some time, in which others come.
        let pause = {
            let mut state = self.state();
            let is_of_range = asked["range_end"].as_str().is_some_and(|end| !end.is_empty());
            state.counts += u64::from(asked["count_only"] == true && is_of_range);
            Duration::from_millis(state.rng.u64(0..4)) + state.slow
        };
        self.clock.sleep(pause).await;
        match fault {
            Some(3) => Err(broken()),
            _ => Ok(answer),
        }
    }

    fn watch(&self, asked: &Value) -> Parts {
        assert_eq!(asked["progress_notify"], true);
        let (now, mut state) = (self.clock.now(), self.state());
        state.watches += 1;
        let mut follow = Follow {
            fake: self.clone(),
            range: range(asked),
            next: number(&asked["start_revision"]),
            is_synced: false,
            unsent: VecDeque::new(),
            is_over: false,
            notified: now,
            cuts: state.cuts,
            number: state.watches,
        };
        follow.add(&state.line(json!({ "header": state.header(), "created": true })));
        drop(state);
        Box::pin(stream::unfold(follow, |mut follow| async move {
            let part = follow.part().await?;
            Some((part, follow))
        }))
    }
}

impl Streaming for Fake {
    fn open(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Parts>, Error>> {
        let token = request.headers().get("authorization").map(|token| token.as_bytes().len());
        let by = token.and_then(|token| self.state().is_void(token));
        Box::pin(async move {
            match by {
                None => self.answer(request.uri().path(), request.body()).await,
                Some(Void::Closed) => {
                    Err(Error::new(Kind::Connect, "fake: connection closed").retryable())
                }
                Some(Void::Empty) => Ok(Response::new(Box::pin(stream::empty()) as Parts)),
                Some(Void::BadGateway) => {
                    let parts: Parts = Box::pin(stream::empty());
                    Ok(Response::builder().status(502).body(parts).unwrap())
                }
            }
        })
    }

    fn call<'a>(
        &'a self,
        method: &'a str,
        token: Option<&'a str>,
        message: &'a [u8],
    ) -> BoxFuture<'a, Option<Bytes>> {
        assert_eq!(method, "/etcdserverpb.KV/Range");
        let is_void = token.is_some_and(|token| self.state().is_void(token.len()).is_some());
        Box::pin(async move {
            if is_void || !self.state().has_grpc {
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

/// The messages of gRPC that say the same as the gateway's.
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
    /// When the next change of a role begins.
    fn begin_change(&mut self, now: Instant) -> Instant {
        let begins = self.changes_until.max(now);
        self.changes_until = begins + self.slow;
        begins
    }

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
            let before = self.keys.get(key);
            let created = before.map_or(revision, |entry| entry.created);
            let writes = before.map_or(1, |entry| entry.writes + 1);
            let entry = value.clone().map(|(value, lease)| Entry {
                value,
                created,
                changed: revision,
                writes,
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

    /// The limit that a transaction exceeds, in the words of etcd.
    fn exceeded(&self, asked: &Value) -> Option<&'static str> {
        let changes: Vec<Change> = asked["success"].as_array()?.iter().map(change).collect();
        let size =
            |(key, value): &Change| 2 * key.len() + value.as_ref().map_or(0, |it| it.0.len());
        match changes.iter().map(size).sum::<usize>() {
            _ if changes.len() > self.limits.0 => {
                Some("etcdserver: too many operations in txn request")
            }
            bytes if bytes > self.limits.1 => Some("etcdserver: request is too large"),
            _ => None,
        }
    }

    fn request(&mut self, path: &str, asked: &Value) -> Response<Parts> {
        let header = self.header();
        if path == "/v3/kv/txn"
            && let Some(limit) = self.exceeded(asked)
        {
            return self.refused(400, limit, 3);
        }
        match path {
            "/v3/maintenance/status" => self.status(),
            "/v3/kv/range" => self.range(asked, &header),
            "/v3/kv/txn" if !self.holds(&asked["compare"]) => {
                self.whole(&json!({ "header": header }))
            }
            "/v3/kv/txn" => {
                let operations = asked["success"].as_array().unwrap();
                let changes: Vec<Change> =
                    operations.iter().flat_map(|it| self.changes(it)).collect();
                if changes.iter().any(|(_, value)| value.is_some()) && !self.alarms.is_empty() {
                    return self.refused(429, "mvcc: database space exceeded", 8);
                }
                let has = |(key, _): &Change| self.keys.contains_key(key);
                let had: Vec<bool> = changes.iter().map(has).collect();
                self.apply(&changes);
                let header = json!({ "revision": self.revision.to_string() });
                let response = |((_, value), had): (&Change, bool)| match value {
                    Some(_) => json!({ "response_put": { "header": header } }),
                    None => {
                        let deleted = u64::from(had).to_string();
                        json!({ "response_delete_range": { "header": header, "deleted": deleted } })
                    }
                };
                let responses: Vec<Value> = changes.iter().zip(had).map(response).collect();
                self.whole(&json!({
                    "header": self.header(), "succeeded": true, "responses": responses,
                }))
            }
            "/v3/kv/deleterange" => {
                let range = range(asked);
                let keys = self.keys.keys().filter(|key| is_in(&range, key));
                let changes: Vec<Change> = keys.map(|key| (key.clone(), None)).collect();
                self.apply(&changes);
                let deleted = changes.len().to_string();
                self.whole(&json!({ "header": self.header(), "deleted": deleted }))
            }
            "/v3/kv/compaction" => {
                self.compacted = number(&asked["revision"]);
                self.whole(&json!({ "header": header }))
            }
            "/v3/maintenance/alarm" => self.alarm(asked),
            "/version" => self.versions(),
            path => self.auth(path.strip_prefix("/v3/auth/").unwrap(), asked),
        }
    }

    fn is(&self, minor: u8) -> bool {
        self.version.starts_with(&format!("3.{minor}."))
    }

    /// The answer of a server of another version than the cluster's about itself.
    fn versions(&self) -> Response<Parts> {
        let storage = if self.is(6) { "3.6.0" } else { "" };
        let versions = json!({
            "etcdserver": self.own_version(), "etcdcluster": self.version, "storage": storage,
        });
        answer(200, text(&without_zeros(versions), self.is(4), ","))
    }

    /// That of the recordings.
    fn own_version(&self) -> &'static str {
        match self.version {
            "3.4.0" => "3.4.23",
            "3.5.0" => "3.5.35",
            "3.6.0" => "3.6.8",
            _ => "3.9.9",
        }
    }

    fn status(&self) -> Response<Parts> {
        let mut status = json!({
            "header": self.header(), "version": self.own_version(), "dbSize": "8", "leader": "1", "raftIndex": "4",
            "raftTerm": "2", "raftAppliedIndex": "4", "dbSizeInUse": "8",
        });
        if self.is(6) {
            status["storageVersion"] = "3.6.0".into();
            status["dbSizeQuota"] = "2147483648".into();
            status["downgradeInfo"] = json!({});
        }
        self.whole(&status)
    }

    /// A token is as long as it has a number.
    fn is_void(&self, token: usize) -> Option<Void> {
        (token <= self.void).then_some(self.void_by)
    }

    /// Users and roles. The requests of the program are from a user with the role root.
    fn auth(&mut self, what: &str, asked: &Value) -> Response<Parts> {
        let name = |field: &str| asked[field].as_str().unwrap_or_default().to_owned();
        let permission = |of: &Value| (bytes(&of["key"]), bytes(&of["range_end"]));
        let mut said = json!({});
        match what {
            "authenticate" if !self.has_users => {
                return self.refused(self.precondition(), "authentication is not enabled", 9);
            }
            "authenticate" if name("password") == "pw" => {
                self.logins += 1;
                said["token"] = "t".repeat(self.logins).into();
            }
            "authenticate" => {
                return self.refused(400, "authentication failed, invalid user ID or password", 3);
            }
            "enable" => self.has_users = true,
            "user/add" => _ = self.users.entry(name("name")).or_default(),
            "user/grant" => _ = self.users.entry(name("user")).or_default().insert(name("role")),
            "user/list" => said["users"] = self.users.keys().cloned().collect(),
            "user/get" => {
                said["roles"] = self.users[&name("name")].iter().cloned().collect::<Value>();
            }
            "role/add" => _ = self.roles.entry(name("name")).or_default(),
            "role/list" => said["roles"] = self.roles.keys().cloned().collect(),
            "role/grant" => {
                let (kind, range) = (&asked["perm"]["permType"], permission(&asked["perm"]));
                let role = self.roles.get_mut(&name("name")).unwrap();
                grant(role, range, kind.as_str().unwrap_or("READ"));
            }
            "role/get" | "role/revoke" => {
                let role = name("role");
                let Some(permissions) = self.roles.get_mut(&role) else {
                    return self.refused(self.precondition(), "role name not found", 9);
                };
                if what == "role/get" {
                    let shown = |((key, end), kind): &((Vec<u8>, Vec<u8>), String)| {
                        let kind = if kind == "READ" { "" } else { kind };
                        let (key, end) = (BASE64.encode(key), BASE64.encode(end));
                        json!({ "permType": kind, "key": key, "range_end": end })
                    };
                    said["perm"] = permissions.iter().map(shown).collect();
                } else {
                    let (range, before) = (permission(asked), permissions.len());
                    permissions.retain(|(other, _)| *other != range);
                    if permissions.len() == before {
                        let why = "permission is not granted to the role";
                        return self.refused(self.precondition(), why, 9);
                    }
                }
            }
            other => panic!("{other}"),
        }
        said["header"] = self.header();
        self.whole(&said)
    }

    /// The status of what the state does not allow.
    fn precondition(&self) -> u16 {
        if self.is(4) { 412 } else { 400 }
    }

    fn refused(&self, status: u16, message: &str, code: u16) -> Response<Parts> {
        let message = format!("etcdserver: {message}");
        let error = if self.is(6) { "" } else { &message };
        let said = without_zeros(json!({ "error": error, "message": message, "code": code }));
        answer(status, self.text(&said))
    }

    fn whole(&self, said: &Value) -> Response<Parts> {
        answer(200, self.text(&without_zeros(said.clone())))
    }

    /// A line of a watch.
    fn line(&self, said: Value) -> String {
        text(&without_zeros(json!({ "result": said })), self.is(4), ",")
    }

    fn text(&self, said: &Value) -> String {
        text(said, self.is(4), if self.is(6) { ", " } else { "," })
    }

    /// The changes of an operation; a deletion may be of a range.
    fn changes(&self, operation: &Value) -> Vec<Change> {
        let deleted = &operation["requestDeleteRange"];
        if deleted["range_end"].as_str().is_none_or(str::is_empty) {
            return vec![change(operation)];
        }
        let range = range(deleted);
        let keys = self.keys.keys().filter(|key| is_in(&range, key));
        keys.map(|key| (key.clone(), None)).collect()
    }

    /// Whether the keys were changed last in the revisions that a transaction says.
    fn holds(&self, compares: &Value) -> bool {
        compares.as_array().into_iter().flatten().all(|compare| {
            let (key, wanted) = (bytes(&compare["key"]), number(&compare["mod_revision"]));
            match (&compare["target"], &compare["result"]) {
                (target, result) if *target == "MOD" && *result == "EQUAL" => {
                    self.keys.get(&key).map_or(0, |entry| entry.changed) == wanted
                }
                (target, result) if *target == "MOD" && *result == "LESS" => {
                    let end = bytes(&compare["range_end"]);
                    self.keys.range(key..end).all(|(_, entry)| entry.changed < wanted)
                }
                other => panic!("{other:?}"),
            }
        })
    }

    fn range(&mut self, asked: &Value, header: &Value) -> Response<Parts> {
        let revision = match number(&asked["revision"]) {
            0 => self.revision,
            given => given,
        };
        if revision < self.compacted {
            return self.refused(400, "mvcc: required revision has been compacted", 11);
        }
        if revision > self.revision {
            return self.refused(400, "mvcc: required revision is a future revision", 11);
        }
        let range = range(asked);
        let mut found: Vec<_> =
            self.at(revision).iter().filter(|(key, _)| is_in(&range, key)).collect();
        let count = found.len();
        let since = number(&asked["min_mod_revision"]);
        found.retain(|(_, entry)| entry.changed >= since);
        match number(&asked["limit"]) as usize {
            _ if asked["count_only"] == true => found.clear(),
            0 => {}
            limit => found.truncate(limit),
        }
        let more = asked["count_only"] != true && since == 0 && found.len() < count;
        let mut kvs: Vec<Value> =
            found.iter().map(|(key, entry)| shown(key, Some(entry), 0)).collect();
        if asked["keys_only"] == true {
            kvs.iter_mut().for_each(|kv| kv["value"] = "".into());
        }
        let said =
            json!({ "header": header, "kvs": kvs, "more": more, "count": count.to_string() });
        self.whole(&said)
    }

    fn alarm(&mut self, asked: &Value) -> Response<Parts> {
        if self.alarms_are_roots && asked["action"] != "GET" {
            return self.refused(403, "permission denied", 7);
        }
        let member = number(&asked["memberID"]);
        let told: Vec<u64> = match asked["action"].as_str().unwrap() {
            "ACTIVATE" => {
                self.alarms.insert(member);
                vec![member]
            }
            "DEACTIVATE" => self.alarms.take(&member).into_iter().collect(),
            _ => self.alarms.iter().copied().collect(),
        };
        let told = told.iter().map(|it| json!({ "memberID": it.to_string(), "alarm": "NOSPACE" }));
        let mut said = json!({ "alarms": told.collect::<Vec<_>>() });
        if !self.is(4) {
            said["header"] = self.header();
        }
        self.whole(&said)
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
    /// Whether it has told all up to the present revision: from then on it is told each change before a compaction.
    is_synced: bool,
    unsent: VecDeque<u8>,
    is_over: bool,
    /// When it was told something last.
    notified: Instant,
    /// How many times watches were cut before.
    cuts: u64,
    number: u64,
}

impl Follow {
    /// Some bytes, which need not end with a line.
    async fn part(&mut self) -> Option<Result<Bytes, Error>> {
        while self.unsent.is_empty() || self.is_held_up() {
            if self.is_over {
                return None;
            }
            self.take_lines();
            if self.unsent.is_empty() || self.is_held_up() {
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
        let mut count = count.min(self.unsent.len());
        if self.fake.state().is_one_by_one {
            count = self.unsent.iter().position(|byte| *byte == b'\n').map_or(count, |at| at + 1);
            self.fake.clock.sleep(Duration::from_micros(10)).await;
        }
        Some(Ok(self.unsent.drain(..count).collect::<Vec<u8>>().into()))
    }

    fn is_held_up(&self) -> bool {
        let state = self.fake.state();
        self.number <= state.held_up && self.cuts == state.cuts
    }

    fn add(&mut self, line: &str) {
        self.unsent.extend(line.bytes());
        self.unsent.push_back(b'\n');
        self.notified = self.fake.clock.now();
    }

    fn take_lines(&mut self) {
        let fake = self.fake.clone();
        let state = &mut *fake.state();
        if self.next < state.compacted {
            self.is_over = true;
            // The revision in its header is 0.
            let compacted = state.compacted.to_string();
            return self.add(&state.line(json!({
                "header": state.header_of(0), "canceled": true, "compact_revision": compacted,
            })));
        }
        // A compaction removes the deletions of its own revision, too, from which etcd takes a watch.
        let is_gone = |event: &Event| {
            !self.is_synced && event.entry.is_none() && event.revision <= state.compacted
        };
        let is_new = |event: &&Event| {
            event.revision >= self.next && is_in(&self.range, &event.key) && !is_gone(event)
        };
        let events: Vec<Event> = state.events.iter().filter(is_new).cloned().collect();
        let mut rest = &events[..];
        while !rest.is_empty() {
            // A line has some whole revisions, or a part of one.
            let most = if state.is_one_by_one { 1 } else { rest.len() };
            let (now, later) = rest.split_at(state.rng.usize(1..=most));
            let is_part = later
                .first()
                .is_some_and(|next| Some(next.revision) == now.last().map(|it| it.revision));
            let told: Vec<Value> = now.iter().map(told).collect();
            let line = json!({ "header": state.header(), "events": told, "fragment": is_part });
            self.add(&state.line(line));
            rest = later;
        }
        (self.next, self.is_synced) = (state.revision + 1, true);
        let is_due = fake.clock.now() >= self.notified + state.notifies;
        if events.is_empty() && (is_due || state.cuts > self.cuts) {
            self.add(&state.line(json!({ "header": state.header() })));
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
            "key": BASE64.encode(key), "value": BASE64.encode(&entry.value), "version": entry.writes.to_string(),
            "create_revision": entry.created.to_string(), "mod_revision": entry.changed.to_string(),
            "lease": entry.lease.to_string(),
        }),
    }
}

fn change(operation: &Value) -> Change {
    match operation.get("requestPut") {
        Some(put) => {
            (bytes(&put["key"]), Some((bytes(&put["value"]).into(), number(&put["lease"]))))
        }
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

fn answer(status: u16, said: String) -> Response<Parts> {
    let parts: Parts = Box::pin(stream::iter([Ok(Bytes::from(said))]));
    Response::builder().status(status).body(parts).unwrap()
}

/// The fields in the order of etcd's messages.
const ORDER: &[&str] = &[
    "header",
    "result",
    "cluster_id",
    "member_id",
    "revision",
    "raft_term",
    "succeeded",
    "responses",
    "deleted",
    "created",
    "canceled",
    "compact_revision",
    "fragment",
    "events",
    "type",
    "kv",
    "kvs",
    "more",
    "count",
    "permType",
    "key",
    "create_revision",
    "mod_revision",
    "version",
    "value",
    "lease",
    "range_end",
    "dbSize",
    "leader",
    "raftIndex",
    "raftTerm",
    "raftAppliedIndex",
    "dbSizeInUse",
    "storageVersion",
    "dbSizeQuota",
    "downgradeInfo",
    "memberID",
    "alarm",
    "alarms",
    "roles",
    "users",
    "perm",
    "token",
    "etcdserver",
    "etcdcluster",
    "storage",
    "response_put",
    "response_delete_range",
    "error",
    "code",
    "message",
];

/// The text of a message; in that of an error of 3.4 the code is last.
fn text(said: &Value, code_is_last: bool, comma: &str) -> String {
    match said {
        Value::Object(members) => {
            let place = |name: &str| match name {
                "code" if code_is_last => ORDER.len(),
                name => ORDER.iter().position(|it| *it == name).unwrap_or_else(|| panic!("{name}")),
            };
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| place(name));
            let member = |(name, value): (&String, &Value)| {
                format!("\"{name}\":{}", text(value, code_is_last, comma))
            };
            format!("{{{}}}", members.into_iter().map(member).collect::<Vec<_>>().join(comma))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|it| text(it, code_is_last, comma)).collect();
            format!("[{}]", items.join(comma))
        }
        other => other.to_string(),
    }
}
