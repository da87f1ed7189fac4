//! Watches: a repeated blocking query whose answers are reported as changes.

use super::{Client, counted};
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Request};
use consul_api::response::{Answer, EntryMeta, Meta};
use consul_api::table::{Endpoint, Items, Reply};
use consul_api::value::{Value, duration};
use consul_process::clock::Instant;
use consul_process::metrics::{EndpointNumbers, Held};
use futures_util::stream::{self, Stream, StreamExt, unfold};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The longest pause after the first failure; it doubles with each failure, and a random part of up
/// to half is left out.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The longest wait after an answer without items; it doubles with each more.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// How often it is asked again whether some of what there was is gone.
const MAX_LOOKS: u32 = 5;

/// The pause before a query that cannot block, because the last answer had no index.
const PAUSE_WITHOUT_INDEX: Duration = Duration::from_secs(1);

/// The options of a watch.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// How long one query blocks on the server.
    pub wait: Duration,
    /// The maximum number of queries per second.
    pub rate_per_s: f64,
}

/// With Consul's jitter of a sixteenth the wait ends before proxies and load balancers end an idle request, which many do
/// after 60 s.
impl Default for WatchOptions {
    fn default() -> Self {
        Self { wait: Duration::from_secs(50), rate_per_s: 20.0 }
    }
}

/// A change that a watch reports.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The whole value at the start.
    Initial(Value),
    /// An item is new or has changed.
    Put {
        /// The item; empty when the whole value is one item.
        id: String,
        /// Its value.
        value: Value,
    },
    /// An item was removed.
    Delete {
        /// The item; empty when the whole value is one item.
        id: String,
        /// Its last value.
        value: Value,
    },
    /// The whole value after an outage, or after the index of the servers went back. The changes in
    /// between are not reported one by one.
    Resynchronised(Value),
}

/// A state of the watched value.
#[derive(Clone, Debug)]
pub struct State {
    /// The whole value, with its metadata.
    pub answer: Answer,
    /// Whether changes since the previous state can have been missed: a query failed in between or has ended before its
    /// time, or the index of the servers went back.
    pub is_resynchronised: bool,
    /// Whether an error was reported before it.
    pub is_after_error: bool,
}

/// Watches the value that an endpoint reads. Each item of the stream is a change with the metadata
/// of its answer, or the error at the start of an outage, after which the watch continues by
/// itself.
///
/// A state that is replaced by a newer one before it was read is not reported. The latest state
/// always is, and none is reported twice. Queries are made only while the stream is polled.
///
/// # Errors
/// [`Error::misuse`] when the endpoint has no blocking queries or an argument is set by the watch
/// itself; otherwise an unacceptable argument.
pub fn watch(
    client: Arc<Client>,
    endpoint: &'static Endpoint,
    args: Args,
    options: WatchOptions,
) -> Result<impl Stream<Item = Result<(Change, Meta), Error>> + Send, Error> {
    let mut known = None;
    let watcher = Watcher::new(client, endpoint, args, options)?;
    let states = states_of(watcher);
    Ok(states.flat_map(move |state| {
        stream::iter(match state {
            Ok(state) => changes(endpoint, &mut known, state),
            Err(error) => vec![Err(error)],
        })
    }))
}

/// Like [`watch`], but with whole states; two in a row can be equal.
///
/// # Errors
/// As [`watch`].
pub fn states(
    client: Arc<Client>,
    endpoint: &'static Endpoint,
    args: Args,
    options: WatchOptions,
) -> Result<impl Stream<Item = Result<State, Error>> + Send, Error> {
    Ok(states_of(Watcher::new(client, endpoint, args, options)?))
}

fn states_of(watcher: Watcher) -> impl Stream<Item = Result<State, Error>> + Send {
    unfold(watcher, |mut watcher| async move {
        let state = watcher.next().await;
        Some((state, watcher))
    })
}

struct Watcher {
    client: Arc<Client>,
    numbers: &'static EndpointNumbers,
    /// Counts it.
    _runs: Held,
    /// Counts it while it gets no answer.
    fails: Option<Held>,
    endpoint: &'static Endpoint,
    args: Args,
    wait: Duration,
    /// The longest wait of the next query.
    longest_wait: Duration,
    /// The ids of the items in the last answer; a value has the id "".
    items: BTreeSet<String>,
    /// The shortest time between the starts of two queries.
    pause: Duration,
    /// The option that makes a query block: `index` or `hash`.
    blocks_on: &'static str,
    /// The position of the last answer, which the next query waits for a change of.
    position: Option<Position>,
    last_query: Option<Instant>,
    /// Whether the last answer had a position; `None` before the first answer.
    last_had_position: Option<bool>,
    /// Whether a blocking query has failed since the last answer, or has ended with it before its time.
    has_failed_blocking: bool,
    /// How many other queries have failed since the last answer.
    failures: u32,
}

/// The view of an answer on the items that there were.
struct Look {
    /// Whether its server is behind what was reported.
    is_before: bool,
    /// The ids of those that it lacks.
    lacks: BTreeSet<String>,
}

impl Look {
    /// Whether all that it lacks was gone before, too.
    fn agrees_with(&self, before: &Look) -> bool {
        self.is_before == before.is_before && self.lacks.is_subset(&before.lacks)
    }
}

/// Whether the answer is that of a server that knows no leader. A stream's answers do not say whether there is one.
pub(super) fn is_leaderless(meta: &Meta) -> bool {
    meta.known_leader == Some(false) && !meta.is_streamed()
}

/// The position of an answer in the history of its value.
#[derive(Clone, Debug, PartialEq)]
enum Position {
    Index(u64),
    Hash(String),
}

impl Watcher {
    /// # Errors
    /// As [`watch`].
    fn new(
        client: Arc<Client>,
        endpoint: &'static Endpoint,
        args: Args,
        options: WatchOptions,
    ) -> Result<Self, Error> {
        let blocks_on = ["index", "hash"]
            .into_iter()
            .find(|name| endpoint.all_options().any(|param| param.name == *name))
            .ok_or_else(|| {
                Error::misuse(format!("{}: it has no blocking queries", endpoint.name))
            })?;
        for taken in [blocks_on, "wait", "timeout_ms", "retry"] {
            if args.has(taken) {
                return Err(Error::misuse(format!(
                    "{}: the watch sets {taken} itself; leave it out",
                    endpoint.name
                )));
            }
        }
        let rate = options.rate_per_s;
        let pause = Some(rate).filter(|rate| rate.is_finite() && *rate > 0.0);
        let pause = pause.and_then(|rate| Duration::try_from_secs_f64(1.0 / rate).ok());
        let pause = pause
            .ok_or_else(|| Error::argument(format!("rate_per_s is {rate}: it must be above 0")))?;
        if options.wait.is_zero() {
            return Err(Error::argument("wait is 0: it must be above 0"));
        }
        client.request(endpoint, &args.clone().opt("wait", duration::format(options.wait)))?;
        let numbers = counted::of(endpoint);
        Ok(Watcher {
            client,
            numbers,
            _runs: numbers.watches.hold(),
            fails: None,
            endpoint,
            args,
            wait: options.wait,
            longest_wait: options.wait,
            items: BTreeSet::new(),
            pause,
            blocks_on,
            position: None,
            last_query: None,
            last_had_position: None,
            has_failed_blocking: false,
            failures: 0,
        })
    }

    async fn next(&mut self) -> Result<State, Error> {
        let call = self.endpoint.name;
        loop {
            self.pause().await;
            self.last_query = Some(self.client.clock().now());
            let blocks = self.blocks();
            let error = match self.ask_twice().await {
                Ok(answer) => {
                    self.numbers.watch_updates.add_one();
                    self.fails = None;
                    let is_abandoned = blocks && self.is_abandoned(&answer);
                    self.note_items(&answer);
                    let state = self.take(answer);
                    self.has_failed_blocking = is_abandoned;
                    return Ok(state);
                }
                Err(error) => {
                    self.numbers.watch_failures.add_one();
                    self.fails.get_or_insert_with(|| self.numbers.watches_failing.hold());
                    error
                }
            };
            if self.blocks() {
                // The next query does not block: it may reach an agent whose index has started
                // again, where it would wait for a change that has happened already.
                tracing::debug!(call, error = error.logged(), "a watch starts again");
                self.has_failed_blocking = true;
                continue;
            }
            self.failures = self.failures.saturating_add(1);
            if self.failures == 1 {
                // The client says once for all of its watches that it is refused, or that another program answers.
                if !matches!(error.kind(), Kind::RateLimited | Kind::Decode) {
                    let error = error.logged();
                    tracing::warn!(call, error, "a watch fails and goes on trying");
                }
                return Err(error);
            }
            tracing::debug!(call, error = error.logged(), "a watch still fails");
        }
    }

    /// Sends the next query, and while an answer lacks some of what there was others that do not wait: it may be that of
    /// another server or of a cache, or a late one to another request. An item that two in a row lack is gone.
    ///
    /// # Errors
    /// Errors of a query; [`Kind::NoLeader`] if a server that knows no leader lacks something, or no two answers agree.
    async fn ask_twice(&self) -> Result<Answer, Error> {
        let mut answer = self.ask(self.client.past_caches(self.request(&self.query())?)).await?;
        let mut look = self.look(&answer);
        for number in 0.. {
            if look.lacks.is_empty() && (number == 0 || !look.is_before) {
                return Ok(answer);
            }
            if number == MAX_LOOKS {
                return Err(self.not_believed("its answers contradict each other"));
            }
            self.client.clock().sleep(FIRST_PAUSE * number).await;
            let again = self.args.clone().without(super::OF_AGENTS_CACHE);
            answer = self.ask(self.client.past_caches(self.request(&again)?)).await?;
            let last = std::mem::replace(&mut look, self.look(&answer));
            if look.agrees_with(&last) {
                break;
            }
        }
        match !look.lacks.is_empty() && is_leaderless(&answer.meta) {
            true => Err(self.not_believed("something is gone, of a server that knows no leader")),
            false => Ok(answer),
        }
    }

    /// The view of an answer on the items that there were. Old events give way to new ones.
    fn look(&self, answer: &Answer) -> Look {
        let mut lacks = BTreeSet::new();
        if self.endpoint.reply != Reply::Events && !self.items.is_empty() {
            lacks = self.items.difference(&self.ids(&answer.value)).cloned().collect();
        }
        Look { is_before: self.is_before(answer), lacks }
    }

    fn not_believed(&self, why: &str) -> Error {
        Error::new(Kind::NoLeader, format!("{}: {why}", self.endpoint.name)).retryable()
    }

    fn ids(&self, value: &Value) -> BTreeSet<String> {
        each(self.endpoint.items, value).into_iter().map(|(id, _)| id).collect()
    }

    fn request(&self, args: &Args) -> Result<Request, Error> {
        self.client.request(self.endpoint, args)
    }

    /// Whether an answer has a lower index than the last one.
    fn is_before(&self, answer: &Answer) -> bool {
        match (&self.position, answer.meta.index) {
            (Some(Position::Index(last)), Some(index)) => index < *last && !self.is_unordered(),
            _ => false,
        }
    }

    /// Whether a query that waits has ended before its time without a change. Consul answers so when a snapshot is restored,
    /// with what it has found before, and the indexes that follow are lower for a while: a query that waits would miss that.
    fn is_abandoned(&self, answer: &Answer) -> bool {
        let index = answer.meta.index.map(Position::Index);
        let now = self.client.clock().now();
        let has_waited =
            self.last_query.is_some_and(|begun| now - begun >= self.wait.min(self.longest_wait));
        !has_waited && index.is_some() && index == self.position && !self.is_unordered()
    }

    /// Sends a query; without retries while the client is refused, which has its own pauses.
    async fn ask(&self, request: Request) -> Result<Answer, Error> {
        let client = &self.client;
        let is_refused = client.refusal_ends().is_some();
        let retries = if is_refused { 0 } else { client.settings().retry_count };
        Ok(client.execute_with(&request, retries).await?.answer())
    }

    /// After an answer without items the next waits are short at first: an index of another server can be far above those
    /// that follow, and a query with it waits to its end.
    fn note_items(&mut self, answer: &Answer) {
        let had_items = !self.items.is_empty();
        self.items = self.ids(&answer.value);
        let now = self.client.clock().now();
        let has_waited = self.last_query.is_some_and(|begun| now - begun >= self.longest_wait);
        self.longest_wait = match (!self.items.is_empty(), had_items) {
            (true, _) => self.wait,
            (false, true) => FIRST_WAIT,
            (false, false) if has_waited => self.longest_wait.saturating_mul(2),
            (false, false) => self.longest_wait,
        };
    }

    /// Whether the next query waits for a change.
    fn blocks(&self) -> bool {
        self.position.is_some() && !self.has_failed_blocking && self.failures == 0
    }

    fn query(&self) -> Args {
        let args = self.args.clone();
        let Some(position) = self.position.as_ref().filter(|_| self.blocks()) else { return args };
        let args = match position {
            Position::Index(index) => args.opt(self.blocks_on, *index),
            Position::Hash(hash) => args.opt(self.blocks_on, hash.as_str()),
        };
        let wait = self.wait.min(self.longest_wait);
        let args = args.opt("wait", duration::format(wait)).opt("retry", false);
        match self.client.patience() {
            // A server adds up to a sixteenth.
            Some(patience) => {
                args.opt("timeout_ms", (wait + wait / 16 + patience).as_millis() as u64)
            }
            None => args,
        }
    }

    /// Limits the rate, and backs off after failures of its own and refusals of its client.
    async fn pause(&self) {
        let clock = self.client.clock();
        if let Some(last) = self.last_query {
            clock.sleep_until(last + self.pause).await;
        }
        if self.last_had_position == Some(false) {
            clock.sleep(PAUSE_WITHOUT_INDEX).await;
        }
        if self.failures > 0 {
            let doublings = (self.failures - 1).min(16);
            let limit = FIRST_PAUSE.saturating_mul(1 << doublings).min(MAX_PAUSE);
            clock.sleep(limit.mul_f64(0.5 + self.client.random_fraction() / 2.0)).await;
        }
        if let Some(ends) = self.client.refusal_ends() {
            clock.sleep_until(ends).await;
        }
    }

    fn take(&mut self, answer: Answer) -> State {
        let last = match self.position {
            Some(Position::Index(last)) if !self.is_unordered() => Some(last),
            _ => None,
        };
        let meta = &answer.meta;
        let (has_position, position) = match self.blocks_on {
            "hash" => (meta.content_hash.is_some(), meta.content_hash.clone().map(Position::Hash)),
            _ => (meta.index.is_some(), meta.next_index(last).map(Position::Index)),
        };
        let went_back = has_position && position.is_none();
        let is_after_error = std::mem::take(&mut self.failures) > 0;
        if is_after_error {
            tracing::info!(call = self.endpoint.name, "a watch works again");
            self.has_failed_blocking = true;
        }
        let is_first = self.last_had_position.replace(has_position).is_none();
        let is_resynchronised =
            (std::mem::take(&mut self.has_failed_blocking) || went_back) && !is_first;
        self.position = position;
        State { answer, is_resynchronised, is_after_error }
    }

    /// The index of events is derived from their ids, so it does not grow steadily.
    fn is_unordered(&self) -> bool {
        self.endpoint.reply == Reply::Events
    }
}

/// The state that was reported last.
struct Known {
    parts: BTreeMap<String, Value>,
    /// The metadata of a single key.
    entry: Option<EntryMeta>,
    index: Option<u64>,
    hash: Option<String>,
    /// Whether the answer left out what the token may not read.
    is_filtered: bool,
    /// The items that are kept although the token may not read them any more.
    hidden: BTreeSet<String>,
}

impl Known {
    /// Whether another state is this one, and no other one was between them; one with a lower index is that of a server that
    /// is behind.
    fn is_still(&self, now: &Known) -> bool {
        (self.is_at(now) || self.is_ahead_of(now))
            && self.parts == now.parts
            && self.entry == now.entry
    }

    /// Whether another state has a lower index.
    fn is_ahead_of(&self, now: &Known) -> bool {
        now.index.is_some() && now.index < self.index
    }

    /// Whether nothing was written between this state and another.
    fn is_at(&self, now: &Known) -> bool {
        let has_position = self.index.is_some() || self.hash.is_some();
        has_position && (self.index, &self.hash) == (now.index, &now.hash)
    }

    /// Remembers the events of a state before, which another server's list can lack, and which are not reported again.
    fn remember(&mut self, before: &Known) {
        const MOST: usize = 4096;
        let places = MOST.saturating_sub(self.parts.len());
        let time = |event: &Value| event.get("LTime").and_then(Value::as_u64);
        let mut old: Vec<_> =
            before.parts.iter().filter(|(id, _)| !self.parts.contains_key(*id)).collect();
        old.sort_by_key(|(_, event)| std::cmp::Reverse(time(event)));
        let old = old.into_iter().take(places).map(|(id, event)| (id.clone(), event.clone()));
        let old: Vec<_> = old.collect();
        self.parts.extend(old);
    }

    /// Whether the token may not read an item any more that another state lacks. While the answers before left
    /// out something too, only their index tells: a deletion raises it.
    fn hides(&self, id: &str, now: &Known) -> bool {
        // After the index went back, what there was before shows nothing.
        now.is_filtered
            && !self.is_ahead_of(now)
            && (!self.is_filtered || self.is_at(now) || self.hidden.contains(id))
    }
}

/// The changes from the known state to a new one.
fn changes(
    endpoint: &Endpoint,
    known: &mut Option<Known>,
    state: State,
) -> Vec<Result<(Change, Meta), Error>> {
    let Answer { value, meta } = state.answer;
    let (parts, order) = parts(endpoint.items, &value);
    let mut now = Known {
        parts,
        entry: meta.entry.clone(),
        index: meta.index,
        hash: meta.content_hash.clone(),
        is_filtered: meta.filtered_by_acl == Some(true),
        hidden: BTreeSet::new(),
    };
    let (mut changes, mut lost) = (Vec::new(), None);
    match known {
        None => changes.push(Change::Initial(value)),
        Some(known) => {
            // An event that is not listed any more is old, not removed.
            let can_go = endpoint.reply != Reply::Events;
            let gone = known.parts.iter().filter(|(id, _)| can_go && !now.parts.contains_key(*id));
            let gone = gone.map(|(id, value)| (id.clone(), value.clone()));
            let (kept, deleted): (Vec<_>, Vec<_>) = gone.partition(|(id, _)| known.hides(id, &now));
            if !kept.is_empty() && known.hidden.is_empty() {
                lost = Some(no_longer_readable(endpoint, kept.len()));
            }
            now.hidden = kept.iter().map(|(id, _)| id.clone()).collect();
            now.parts.extend(kept.iter().cloned());
            if !can_go {
                now.remember(known);
            }
            if !state.is_resynchronised {
                for id in order {
                    let value = &now.parts[&id];
                    if known.parts.get(&id) != Some(value) || known.entry != now.entry {
                        changes.push(Change::Put { value: value.clone(), id });
                    }
                }
                let delete = |(id, value)| Change::Delete { id, value };
                changes.extend(deleted.into_iter().map(delete));
            } else if state.is_after_error || !known.is_still(&now) {
                // Else a proxy ended the wait, and nothing else happened.
                changes.push(Change::Resynchronised(with_kept(endpoint.items, value, kept)));
            }
        }
    }
    *known = Some(now);
    let changes = changes.into_iter().map(|change| Ok((change, meta.clone())));
    changes.chain(lost.map(Err)).collect()
}

/// A value with the items that are kept although the answer left them out.
fn with_kept(items: Items, value: Value, kept: Vec<(String, Value)>) -> Value {
    if kept.is_empty() {
        return value;
    }
    let values = kept.iter().map(|(_, value)| value.clone());
    match (items, value) {
        (Items::By(_) | Items::Texts, Value::List(items)) => {
            Value::List(items.into_iter().chain(values).collect())
        }
        (Items::By(_) | Items::Texts, _) => Value::List(values.collect()),
        (Items::Named, Value::Map(members)) => {
            Value::Map(members.into_iter().chain(kept).collect())
        }
        (Items::Named, _) => Value::Map(kept),
        (_, whole) => kept.into_iter().next().map_or(whole, |(_, value)| value),
    }
}

/// The error of a watch whose token lost a permission.
fn no_longer_readable(endpoint: &Endpoint, count: usize) -> Error {
    let what = match count {
        1 => "an item".to_owned(),
        _ => format!("{count} items"),
    };
    let why = format!("the token may not read {what} any more that the watch has reported");
    Error::new(Kind::PermissionDenied, format!("{}: {why}, and keeps", endpoint.name))
}

/// The items of a value with their ids. A value that is one item has the id "", and an absent one has no items.
fn each(items: Items, value: &Value) -> Vec<(String, &Value)> {
    let id = |item: &Value| match items {
        Items::By(members) => {
            members.iter().map(|path| text(item, path)).collect::<Vec<_>>().join("/")
        }
        _ => text(item, &[]),
    };
    match (items, value) {
        (_, Value::Null) => Vec::new(),
        (Items::By(_) | Items::Texts, Value::List(items)) => {
            items.iter().map(|item| (id(item), item)).collect()
        }
        (Items::Named, Value::Map(members)) => {
            members.iter().map(|(name, value)| (name.clone(), value)).collect()
        }
        (_, whole) => vec![(String::new(), whole)],
    }
}

/// The items of a value by their ids, and the ids in the value's order.
fn parts(items: Items, value: &Value) -> (BTreeMap<String, Value>, Vec<String>) {
    let each = each(items, value);
    let (mut parts, mut order) = (BTreeMap::new(), Vec::with_capacity(each.len()));
    for (id, value) in each {
        if parts.insert(id.clone(), value.clone()).is_none() {
            order.push(id);
        }
    }
    (parts, order)
}

fn text(item: &Value, path: &[&str]) -> String {
    let found = path.iter().try_fold(item, |value, name| value.get(name));
    found.and_then(Value::as_str).unwrap_or_default().to_owned()
}
