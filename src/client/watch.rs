//! Watches: a blocking query, repeated, whose answers become changes.

use super::Client;
use crate::clock::Instant;
use crate::error::Error;
use crate::wire::duration;
use crate::wire::request::Args;
use crate::wire::response::{Answer, EntryMeta, Meta};
use crate::wire::table::{Endpoint, Items, Reply};
use crate::wire::value::Value;
use futures_util::stream::{self, Stream, StreamExt, unfold};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The first pause after a failure; it doubles up to the longest one, and is cut short by chance.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The pause before a query that cannot wait, because the last answer had no index to wait from.
const PAUSE_WITHOUT_INDEX: Duration = Duration::from_secs(1);

/// How a watch goes about it.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// The longest that one query waits on the server.
    pub wait: Duration,
    /// The most states that are asked for in a second.
    pub rate_per_s: f64,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self { wait: Duration::from_secs(60), rate_per_s: 20.0 }
    }
}

/// What a watch saw.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// What there is at the beginning: the whole value.
    Initial(Value),
    /// Something is new, or other than it was.
    Put {
        /// Which thing; empty when the whole value is one.
        id: String,
        /// What it is now.
        value: Value,
    },
    /// Something is no more.
    Delete {
        /// Which thing; empty when the whole value is one.
        id: String,
        /// What it was.
        value: Value,
    },
    /// What there is after an outage, a restart of the servers' index included: the whole value.
    /// Changes in between are not told one by one.
    Resynchronised(Value),
}

/// What an endpoint gave to read, when there was something new.
#[derive(Clone, Debug)]
pub struct State {
    /// The whole value, with what the answer said of itself.
    pub answer: Answer,
    /// Whether anything can have happened since the state before: a query failed in between, or the
    /// servers' index went back.
    pub is_resynchronised: bool,
}

/// Watches what an endpoint reads. Each item is a change with what its answer said of itself, or the
/// error that begins an outage; after that the watch goes on by itself.
///
/// A state that is overtaken by a newer one before it could be asked for is not told; the last one
/// always is, and none is told twice. Nothing is asked while nobody takes what there is to tell.
///
/// # Errors
/// [`Error::misuse`] when the endpoint has no blocking queries or an argument is the watch's own;
/// else what makes the arguments unacceptable.
pub fn watch(
    client: Arc<Client>,
    endpoint: &'static Endpoint,
    args: Args,
    options: WatchOptions,
) -> Result<impl Stream<Item = Result<(Change, Meta), Error>> + Send, Error> {
    let mut known = None;
    Ok(states(client, endpoint, args, options)?.flat_map(move |state| {
        stream::iter(match state {
            Ok(state) => changes(endpoint, &mut known, state),
            Err(error) => vec![Err(error)],
        })
    }))
}

/// As [`watch`], but gives whole states, of which two in a row can be equal.
///
/// # Errors
/// As [`watch`].
pub fn states(
    client: Arc<Client>,
    endpoint: &'static Endpoint,
    args: Args,
    options: WatchOptions,
) -> Result<impl Stream<Item = Result<State, Error>> + Send, Error> {
    let waits_by = ["index", "hash"]
        .into_iter()
        .find(|name| endpoint.all_options().any(|param| param.name == *name))
        .ok_or_else(|| Error::misuse(format!("{}: it has no blocking queries", endpoint.name)))?;
    for taken in [waits_by, "wait", "timeout_ms", "retry"] {
        if args.has(taken) {
            return Err(Error::misuse(format!(
                "{}: {taken} is the watch's own; leave it out",
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
    let watcher = Watcher {
        client,
        endpoint,
        args,
        wait: options.wait,
        pause,
        waits_by,
        seen: None,
        asked: None,
        answered: None,
        is_broken: false,
        failures: 0,
    };
    Ok(unfold(watcher, |mut watcher| async move {
        let state = watcher.next().await;
        Some((state, watcher))
    }))
}

struct Watcher {
    client: Arc<Client>,
    endpoint: &'static Endpoint,
    args: Args,
    wait: Duration,
    /// The shortest time from one query to the next.
    pause: Duration,
    waits_by: &'static str,
    /// What the next query waits for a change from.
    seen: Option<Mark>,
    /// When the last query was begun.
    asked: Option<Instant>,
    /// Whether the last answer said where it stood; none before the first one.
    answered: Option<bool>,
    /// Whether a query that waited for a change has failed since the last answer.
    is_broken: bool,
    /// How many others have failed since the last answer.
    failures: u32,
}

/// What a query waits for a change from.
#[derive(Clone, Debug, PartialEq)]
enum Mark {
    Index(u64),
    Hash(String),
}

impl Watcher {
    async fn next(&mut self) -> Result<State, Error> {
        loop {
            self.pause().await;
            self.asked = Some(self.client.clock().now());
            match self.client.call(self.endpoint, &self.query()).await {
                Ok(answer) => return Ok(self.take(answer)),
                Err(error) if self.waits() => {
                    // Sent again it could wait at an agent that began its index anew, and for what
                    // has long happened. So it begins anew too.
                    tracing::debug!(call = self.endpoint.name, %error, "a watch asks anew");
                    self.is_broken = true;
                }
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    if self.failures == 1 {
                        tracing::warn!(call = self.endpoint.name, %error, "a watch is cut off");
                        return Err(error);
                    }
                    tracing::debug!(call = self.endpoint.name, %error, "a watch is still cut off");
                }
            }
        }
    }

    /// Whether the next query waits for a change.
    fn waits(&self) -> bool {
        self.seen.is_some() && !self.is_broken && self.failures == 0
    }

    fn query(&self) -> Args {
        let args = self.args.clone();
        let Some(mark) = self.seen.as_ref().filter(|_| self.waits()) else { return args };
        let args = match mark {
            Mark::Index(index) => args.opt(self.waits_by, *index),
            Mark::Hash(hash) => args.opt(self.waits_by, hash.as_str()),
        };
        args.opt("wait", duration::format(self.wait)).opt("retry", false)
    }

    /// Keeps to the rate, and leaves Consul in peace after failures.
    async fn pause(&self) {
        let clock = self.client.clock();
        if let Some(asked) = self.asked {
            clock.sleep_until(asked + self.pause).await;
        }
        if self.answered == Some(false) {
            clock.sleep(PAUSE_WITHOUT_INDEX).await;
        }
        if self.failures > 0 {
            let doublings = (self.failures - 1).min(16);
            let limit = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
            clock.sleep(limit.mul_f64(0.5 + self.client.chance() / 2.0)).await;
        }
    }

    fn take(&mut self, answer: Answer) -> State {
        let last = match self.seen {
            Some(Mark::Index(last)) if !self.is_unordered() => Some(last),
            _ => None,
        };
        let meta = &answer.meta;
        let (is_marked, mark) = match self.waits_by {
            "hash" => (meta.content_hash.is_some(), meta.content_hash.clone().map(Mark::Hash)),
            _ => (meta.index.is_some(), meta.next_index(last).map(Mark::Index)),
        };
        let went_back = is_marked && mark.is_none();
        if std::mem::take(&mut self.failures) > 0 {
            tracing::info!(call = self.endpoint.name, "a watch goes on");
            self.is_broken = true;
        }
        let is_first = self.answered.replace(is_marked).is_none();
        let is_resynchronised = (std::mem::take(&mut self.is_broken) || went_back) && !is_first;
        self.seen = mark;
        State { answer, is_resynchronised }
    }

    /// The index of events is made of their ids: it goes up and down.
    fn is_unordered(&self) -> bool {
        self.endpoint.reply == Reply::Events
    }
}

/// What was told last.
struct Known {
    parts: BTreeMap<String, Value>,
    /// What else there is to know of a single key.
    entry: Option<EntryMeta>,
}

/// What there is to tell of a state, after what is known already.
fn changes(
    endpoint: &Endpoint,
    known: &mut Option<Known>,
    state: State,
) -> Vec<Result<(Change, Meta), Error>> {
    let Answer { value, meta } = state.answer;
    let now = Known { parts: parts(endpoint.items, &value), entry: meta.entry.clone() };
    let mut changes = Vec::new();
    match known {
        None => changes.push(Change::Initial(value)),
        Some(_) if state.is_resynchronised => changes.push(Change::Resynchronised(value)),
        Some(known) => {
            for (id, value) in &now.parts {
                if known.parts.get(id) != Some(value) || known.entry != now.entry {
                    changes.push(Change::Put { id: id.clone(), value: value.clone() });
                }
            }
            // Events are forgotten, not taken back.
            let can_go = endpoint.reply != Reply::Events;
            for (id, value) in &known.parts {
                if can_go && !now.parts.contains_key(id) {
                    changes.push(Change::Delete { id: id.clone(), value: value.clone() });
                }
            }
        }
    }
    *known = Some(now);
    changes.into_iter().map(|change| Ok((change, meta.clone()))).collect()
}

/// The things that a value consists of, by what tells them apart. A value that is one thing has the
/// id "", and none when it is absent.
fn parts(items: Items, value: &Value) -> BTreeMap<String, Value> {
    let id = |item: &Value| match items {
        Items::By(members) => {
            members.iter().map(|path| text(item, path)).collect::<Vec<_>>().join("/")
        }
        _ => text(item, &[]),
    };
    match (items, value) {
        (_, Value::Null) => BTreeMap::new(),
        (Items::By(_) | Items::Texts, Value::List(items)) => {
            items.iter().map(|item| (id(item), item.clone())).collect()
        }
        (Items::Named, Value::Map(members)) => members.iter().cloned().collect(),
        (_, whole) => BTreeMap::from([(String::new(), whole.clone())]),
    }
}

fn text(item: &Value, path: &[&str]) -> String {
    let found = path.iter().try_fold(item, |value, name| value.get(name));
    found.and_then(Value::as_str).unwrap_or_default().to_owned()
}
