//! Watches: a blocking query, repeated, whose answers become changes.
//!
//! The rules of the index are those of "Blocking Queries" in Consul's HTTP API reference: an index
//! that goes back starts over, one below 1 is never sent.

use super::Client;
use crate::clock::Instant;
use crate::error::Error;
use crate::wire::duration;
use crate::wire::request::Args;
use crate::wire::response::{Answer, EntryMeta, Meta};
use crate::wire::table::{Endpoint, Items, Reply};
use crate::wire::value::Value;
use futures_util::stream::{Stream, unfold};
use std::collections::{BTreeMap, VecDeque};
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

/// Watches what an endpoint reads. Each item is a change with what its answer said of itself, or the
/// error that begins an outage; after that the watch goes on by itself.
///
/// A state that is overtaken by a newer one before it could be asked for is not told; the last one
/// always is, and none is told twice.
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
    let waits_by = ["index", "hash"]
        .into_iter()
        .find(|name| endpoint.all_options().any(|param| param.name == *name))
        .ok_or_else(|| Error::misuse(format!("{}: it has no blocking queries", endpoint.name)))?;
    for taken in [waits_by, "wait", "timeout_ms"] {
        if args.has(taken) {
            return Err(Error::misuse(format!(
                "{}: {taken} is the watch's own; leave it out",
                endpoint.name
            )));
        }
    }
    if !(options.rate_per_s.is_finite() && options.rate_per_s > 0.0) {
        let rate = options.rate_per_s;
        return Err(Error::argument(format!("rate_per_s is {rate}; it must be above 0")));
    }
    client.request(endpoint, &args.clone().opt("wait", duration::format(options.wait)))?;
    let watcher = Watcher {
        client,
        endpoint,
        args,
        options,
        waits_by,
        seen: None,
        known: None,
        asked: None,
        failures: 0,
        changes: VecDeque::new(),
    };
    Ok(unfold(watcher, |mut watcher| async move {
        let next = watcher.next().await;
        Some((next, watcher))
    }))
}

struct Watcher {
    client: Arc<Client>,
    endpoint: &'static Endpoint,
    args: Args,
    options: WatchOptions,
    waits_by: &'static str,
    /// Where the last answer stood.
    seen: Option<Mark>,
    /// What was told last; none before the first answer.
    known: Option<State>,
    /// When the last query was begun.
    asked: Option<Instant>,
    /// How many queries have failed since the last answer.
    failures: u32,
    changes: VecDeque<(Change, Meta)>,
}

/// What a query waits for a change from.
#[derive(Clone, Debug, PartialEq)]
enum Mark {
    Index(u64),
    Hash(String),
}

struct State {
    parts: BTreeMap<String, Value>,
    /// What else there is to know of a single key.
    entry: Option<EntryMeta>,
}

impl Watcher {
    async fn next(&mut self) -> Result<(Change, Meta), Error> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Ok(change);
            }
            self.pause().await;
            self.asked = Some(self.client.clock().now());
            match self.client.call(self.endpoint, &self.query()).await {
                Ok(answer) => self.take(answer),
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    tracing::info!(call = self.endpoint.name, %error, "a watch is cut off");
                    if self.failures == 1 {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn query(&self) -> Args {
        let args = self.args.clone();
        // What happened during an outage is wanted at once.
        let Some(mark) = self.seen.as_ref().filter(|_| self.failures == 0) else { return args };
        let args = match mark {
            Mark::Index(index) => args.opt(self.waits_by, *index),
            Mark::Hash(hash) => args.opt(self.waits_by, hash.as_str()),
        };
        args.opt("wait", duration::format(self.options.wait))
    }

    /// Keeps to the rate, and leaves Consul in peace after failures.
    async fn pause(&self) {
        let clock = self.client.clock();
        if let Some(asked) = self.asked {
            clock.sleep_until(asked + Duration::from_secs_f64(1.0 / self.options.rate_per_s)).await;
        }
        if self.known.is_some() && self.seen.is_none() {
            clock.sleep(PAUSE_WITHOUT_INDEX).await;
        }
        if self.failures > 0 {
            let doublings = (self.failures - 1).min(16);
            let limit = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
            clock.sleep(limit.mul_f64(0.5 + self.client.chance() / 2.0)).await;
        }
    }

    fn take(&mut self, answer: Answer) {
        let mark = match self.waits_by {
            "hash" => answer.meta.content_hash.clone().map(Mark::Hash),
            _ => answer.meta.index.map(|index| Mark::Index(index.max(1))),
        };
        let went_back = matches!(
            (&self.seen, &mark),
            (Some(Mark::Index(last)), Some(Mark::Index(now))) if now < last && !self.is_unordered()
        );
        let was_cut_off = std::mem::take(&mut self.failures) > 0;
        self.seen = mark.filter(|_| !went_back);
        let Answer { value, meta } = answer;
        let now = State { parts: parts(self.endpoint.items, &value), entry: meta.entry.clone() };
        let mut tell = |change| self.changes.push_back((change, meta.clone()));
        match &self.known {
            None => tell(Change::Initial(value)),
            Some(_) if was_cut_off || went_back => tell(Change::Resynchronised(value)),
            Some(known) => {
                for (id, value) in &now.parts {
                    if known.parts.get(id) != Some(value) || known.entry != now.entry {
                        tell(Change::Put { id: id.clone(), value: value.clone() });
                    }
                }
                // Events are forgotten, not taken back.
                let can_go = self.endpoint.reply != Reply::Events;
                for (id, value) in &known.parts {
                    if can_go && !now.parts.contains_key(id) {
                        tell(Change::Delete { id: id.clone(), value: value.clone() });
                    }
                }
            }
        }
        self.known = Some(now);
    }

    /// The index of events is made of their ids: it goes up and down.
    fn is_unordered(&self) -> bool {
        self.endpoint.reply == Reply::Events
    }
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
