//! Blocking queries: reads that wait until their result is newer than the caller's index.

use super::Agent;
use super::go;
use super::http::reply::{Refusal, Reply};
use super::http::request::{Call, Query};
use super::settings::Settings;
use super::store::State;
use super::store::kv::Near;
use super::store::watch::Topic;
use consul_process::clock::Instant;
use futures_util::future::{Either, select};
use http::header::{CACHE_CONTROL, HeaderName};
use http::{HeaderValue, StatusCode};
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A wait is up to a 16th longer, so that many queries do not end together.
const JITTER_PART: u32 = 16;

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
const QUERY_BACKEND: HeaderName = HeaderName::from_static("x-consul-query-backend");

/// The consistency mode of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consistency {
    Leader,
    Stale,
    Consistent,
}

impl Consistency {
    pub fn name(self) -> &'static str {
        match self {
            Consistency::Leader => "leader",
            Consistency::Stale => "stale",
            Consistency::Consistent => "consistent",
        }
    }
}

/// The parameters that all reads have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadOptions {
    /// The index that the caller has; 0 if it does not want to wait.
    pub index: u64,
    pub wait: Duration,
    pub consistency: Consistency,
    pub cached: bool,
}

impl ReadOptions {
    /// Reads the parameters and refuses invalid ones.
    pub fn parse(call: &Call, settings: &Settings) -> Result<Self, Refusal> {
        let consistency = consistency(&call.query)?;
        check_cache_control(call.header(&CACHE_CONTROL))?;
        Ok(Self { consistency, ..Self::waiting(call, settings)? })
    }

    /// The limits of a call without any.
    pub fn default_of(settings: &Settings) -> Self {
        let (wait, consistency) = (settings.default_query_time, Consistency::Leader);
        Self { index: 0, wait, consistency, cached: false }
    }

    /// Only the time to wait, as the agent reads it for its own data.
    pub fn waiting(call: &Call, settings: &Settings) -> Result<Self, Refusal> {
        let wait = match call.query.get("wait") {
            "" => 0,
            text => go::duration(text).map_err(|_| Refusal::bad("Invalid wait time"))?,
        };
        let index = match call.query.get("index") {
            "" => 0,
            text => go::uint(text).map_err(|_| Refusal::bad("Invalid index"))?,
        };
        let wait = match u64::try_from(wait) {
            Ok(nanos) if nanos > 0 => Duration::from_nanos(nanos).min(settings.max_query_time),
            _ => settings.default_query_time,
        };
        let consistency = Consistency::Leader;
        Ok(Self { index, wait, consistency, cached: call.query.has("cached") })
    }
}

pub(crate) fn consistency(query: &Query) -> Result<Consistency, Refusal> {
    let conflict = |with: &str| {
        let text = format!("Cannot specify ?{with} with ?consistent, conflicting semantics.");
        Err(Refusal::bad(text))
    };
    let mut stale = query.has("stale");
    let max_stale = query.get("max_stale");
    if !max_stale.is_empty() {
        let refuse = |_| Refusal::bad(format!("Invalid max_stale value {}", go::quoted(max_stale)));
        stale |= go::duration(max_stale).map_err(refuse)? > 0;
    }
    match (stale, query.has("consistent")) {
        (true, true) => conflict("stale"),
        (_, true) if query.has("cached") => conflict("cached"),
        (_, true) => Ok(Consistency::Consistent),
        (true, false) => Ok(Consistency::Stale),
        (false, false) => Ok(Consistency::Leader),
    }
}

pub(crate) fn check_cache_control(header: &str) -> Result<(), Refusal> {
    for directive in header.to_ascii_lowercase().split(',').map(str::trim) {
        let number =
            directive.strip_prefix("max-age=").or(directive.strip_prefix("stale-if-error="));
        if number.is_some_and(|text| text.parse::<i64>().is_err()) {
            return Err(Refusal::bad("Invalid Cache-Control header."));
        }
    }
    Ok(())
}

/// The parameter for proxies with the defaults of services and proxies in them. The streaming backend does not know it.
pub(crate) const MERGE: &str = "merge-central-config";

/// The index of a result, against which a blocking query compares the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResultIndex {
    /// `X-Consul-Index` of the reply.
    pub value: u64,
    /// Whether the requested entry does not exist. Its index is then that of its table, whose other
    /// changes do not wake the query.
    pub missing: bool,
    /// The index at which the result itself last changed, where other changes of its table do not end a wait.
    pub changed: u64,
    /// The mark of the server's tree where the query waits, by [`tree::mark`]: nothing else wakes it. 0: its topics alone do.
    ///
    /// [`tree::mark`]: crate::store::tree::mark
    pub mark: u64,
    /// Where the server waits for a missing key, whose answer at the end of the wait has the index of the last change there.
    pub near: Option<Near>,
}

impl ResultIndex {
    /// The index of an entry that exists, or of a list.
    pub fn new(value: u64) -> Self {
        Self { value, missing: false, changed: value, mark: 0, near: None }
    }
}

/// A read that can wait. Its index is computed apart from its answer, so that a check for news does
/// not build a body.
pub(super) struct Read {
    /// Refuses a request that the agent refuses before it asks a server.
    pub check: fn(&Call) -> Result<(), Refusal>,
    /// The topics whose changes wake a waiting query.
    pub topics: fn(&State, &Call) -> Vec<Topic>,
    pub index: fn(&State, &Call) -> ResultIndex,
    pub answer: fn(&State, &Call) -> Result<Reply, Refusal>,
    pub headers: Headers,
}

impl Read {
    fn reply(&self, state: &State, call: &Call) -> Reply {
        (self.answer)(state, call).unwrap_or_else(Reply::from)
    }
}

/// A read that never waits, and may change state outside of the Raft log. Its index is always 1.
pub(super) struct Once {
    /// As of [`Read`].
    pub check: fn(&Call) -> Result<(), Refusal>,
    pub answer: fn(&mut State, &Call) -> Result<Reply, Refusal>,
    pub headers: Headers,
}

/// A read that can wait until the hash of its content differs from the caller's.
pub(super) struct HashedRead {
    /// The parameter with the caller's hash.
    pub parameter: &'static str,
    pub topics: fn(&State, &Call) -> Vec<Topic>,
    /// The current hash; `None` if there is nothing to wait for.
    pub hash: fn(&State, &Call) -> Option<String>,
    pub answer: fn(&State, &Call) -> Result<Reply, Refusal>,
}

/// The headers of a read in addition to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Headers {
    /// Keys: none.
    Plain,
    /// Sessions: errors have the index headers too.
    Deferred,
    /// Reads that the agent always answers from its cache.
    Cached,
    /// Coordinates of a node: a missing one has no headers at all.
    OfSuccess,
    /// Catalog and health: errors have the index headers too, and the effective consistency is
    /// reported.
    Catalog {
        /// Whether the agent's cache can answer.
        cache: bool,
    },
    /// Instances with their health: as in the catalog, and an error has no index.
    Instances {
        /// Whether blocking and cached reads are answered by the streaming backend.
        streams: bool,
    },
    /// Configuration entries: a missing one has the same headers, other errors have none.
    Entry,
    /// Prepared queries: as queries of the catalog, and a missing one has the index headers of an error.
    Query {
        /// Whether the agent's cache can answer.
        cache: bool,
    },
}

impl Agent {
    /// Answers a read, after a wait if the caller already has the current index.
    pub(super) async fn read(&self, read: &Read, call: &Call, options: &ReadOptions) -> Reply {
        let streams = streams(read, call, options);
        // The streaming backend adds no jitter.
        let jitter = if streams { Duration::ZERO } else { options.wait / JITTER_PART };
        let mut seen = options.index;
        let mut was_missing = false;
        let mut started = None;
        let mut index = ResultIndex::new(0);
        // As the token had rights at the last change.
        let mut last = None;
        let news = |state: &mut State| {
            if state.acl.is_enabled() {
                match allowed(read, state, call) {
                    ControlFlow::Continue(reply) => last = Some(reply),
                    ControlFlow::Break(refusal) => return Some(refusal),
                }
            }
            let now = (read.index)(state, call);
            // The change is not where the query waits.
            if now.mark != 0 && now.mark == index.mark {
                return None;
            }
            index = now;
            let started = *started.get_or_insert(index.value);
            if was_missing && index.missing || index.changed <= started && index.value > started {
                seen = index.value;
            }
            was_missing = index.missing;
            let is_news = options.index == 0 || index.value > seen;
            is_news.then(|| last.take().unwrap_or_else(|| read.reply(state, call)))
        };
        // A stream ends with its token.
        let token = streams.then_some(Topic::Tokens);
        let topics = |state: &State| (read.topics)(state, call).into_iter().chain(token).collect();
        let reply = match self.wait_for(topics, options.wait, jitter, news).await {
            Ok(reply) => reply,
            Err(Ended::Restored) => self.with(|state| {
                state.before_restore(|state| last.unwrap_or_else(|| read.reply(state, call)))
            }),
            Err(Ended::Time) => self.with(|state| {
                if let Some(near) = &index.near {
                    index.value = index.value.max(state.kv.newest_near(near));
                }
                last.unwrap_or_else(|| read.reply(state, call))
            }),
        };
        if is_error(&reply) && !is_missing_entry(read.headers, &reply) {
            return failed(read.headers, reply);
        }
        let reply = reply_headers(reply, read.headers, options, index.value, streams);
        if read.headers == Headers::Cached {
            return self.with(|state| cache_headers(reply, state, call, true));
        }
        let caches =
            matches!(read.headers, Headers::Catalog { cache: true } | Headers::Instances { .. });
        if caches && (options.cached || streams) {
            return self.with(|state| cache_headers(reply, state, call, options.cached));
        }
        reply
    }

    /// Answers a read that never waits.
    pub(super) fn read_once(&self, once: &Once, call: &Call, options: &ReadOptions) -> Reply {
        self.with(|state| {
            let reply = (once.answer)(state, call).unwrap_or_else(Reply::from);
            if is_error(&reply) {
                return failed(once.headers, reply);
            }
            let reply = reply_headers(reply, once.headers, options, 1, false);
            match once.headers {
                Headers::Query { cache: true } if options.cached => {
                    cache_headers(reply, state, call, true)
                }
                _ => reply,
            }
        })
    }

    /// Answers a read of the agent, after a wait if the caller already has the current content.
    pub(super) async fn read_hashed(
        &self,
        read: &HashedRead,
        call: &Call,
        options: &ReadOptions,
    ) -> Result<Reply, Refusal> {
        let seen = call.query.get(read.parameter);
        let news = |state: &mut State| {
            let hash = (read.hash)(state, call);
            let is_news = seen.is_empty() || hash.is_none_or(|hash| hash != seen);
            is_news.then(|| (read.answer)(state, call))
        };
        let jitter = options.wait / JITTER_PART;
        let topics = |state: &State| (read.topics)(state, call);
        match self.wait_for(topics, options.wait, jitter, news).await {
            Ok(reply) => reply,
            Err(_) => self.with(|state| (read.answer)(state, call)),
        }
    }

    /// Waits until `news` returns a value; it is called at once and after each change of one of the
    /// topics.
    async fn wait_for<R>(
        &self,
        topics: impl FnOnce(&State) -> Vec<Topic>,
        wait: Duration,
        jitter: Duration,
        mut news: impl FnMut(&mut State) -> Option<R>,
    ) -> Result<R, Ended> {
        let begun = self.with(|state| match news(state) {
            Some(reply) => Err(reply),
            None => {
                let (topics, waiter) = (topics(state), Arc::new(Notify::new()));
                let deadline = state.now + wait + jitter.mul_f64(state.rng.f64());
                let id = state.watches.add(&topics, &waiter);
                Ok((deadline, waiter, state.restores, Subscription { agent: self, topics, id }))
            }
        });
        let (deadline, waiter, restores, _subscription) = match begun {
            Ok(begun) => begun,
            Err(reply) => return Ok(reply),
        };
        while self.woken(&waiter, deadline).await {
            let reply = self.with(|state| match state.restores == restores {
                true => news(state).map(Ok),
                false => Some(Err(Ended::Restored)),
            });
            if let Some(reply) = reply {
                return reply;
            }
        }
        Err(Ended::Time)
    }

    /// Waits for a change; false if the deadline comes first.
    async fn woken(&self, waiter: &Notify, deadline: Instant) -> bool {
        let change = pin!(waiter.notified());
        matches!(select(change, self.clock.sleep_until(deadline)).await, Either::Left(_))
    }
}

/// Why a wait ends without news.
enum Ended {
    /// Its time, with the jitter, is over.
    Time,
    /// A snapshot was restored: the query has what it has found before.
    Restored,
}

/// Removes the waiter when its query ends or is abandoned.
struct Subscription<'a> {
    agent: &'a Agent,
    topics: Vec<Topic>,
    id: u64,
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.agent.lock().watches.remove(&self.topics, self.id);
    }
}

/// Whether the streaming backend answers. It does so for reads of a service's health that wait or
/// may come from the cache, unless they are sorted by distance.
fn streams(read: &Read, call: &Call, options: &ReadOptions) -> bool {
    matches!(read.headers, Headers::Instances { streams: true })
        && (options.index > 0 || options.cached)
        && call.query.get("near").is_empty()
        && !call.query.has(MERGE)
}

/// The reply to a caller; that to one without the permission breaks the wait.
fn allowed(read: &Read, state: &State, call: &Call) -> ControlFlow<Reply, Reply> {
    let reply = read.reply(state, call);
    if is_missing_entry(read.headers, &reply) {
        return ControlFlow::Continue(reply);
    }
    if is_error(&reply) {
        return ControlFlow::Break(reply);
    }
    // The roots of the mesh are public, whatever token the request has.
    let is_open = call.endpoint.path.ends_with("/ca/roots");
    match state.authority(call).known() {
        Err(refusal) if !is_open => ControlFlow::Break(refusal.into()),
        _ => ControlFlow::Continue(reply),
    }
}

/// Whether the reply is an error. An empty result alone is not one.
fn is_error(reply: &Reply) -> bool {
    !reply.status.is_success() && !reply.body.is_empty()
}

/// Whether an entry does not exist, for which a query waits.
fn is_missing_entry(headers: Headers, reply: &Reply) -> bool {
    headers == Headers::Entry && reply.status == StatusCode::NOT_FOUND
}

fn reply_headers(
    reply: Reply,
    headers: Headers,
    options: &ReadOptions,
    index: u64,
    streams: bool,
) -> Reply {
    let mut reply = reply;
    if streams {
        // The streaming backend does not report filtered entries.
        reply.headers.remove("x-consul-results-filtered-by-acls");
    }
    if headers == Headers::OfSuccess && !reply.status.is_success() {
        return reply;
    }
    let backend = HeaderValue::from_static(if streams { "streaming" } else { "blocking-query" });
    let reply = index_headers(reply, index, !streams).with(QUERY_BACKEND, backend);
    match headers {
        Headers::Plain
        | Headers::Deferred
        | Headers::Cached
        | Headers::OfSuccess
        | Headers::Entry => reply,
        Headers::Catalog { .. } | Headers::Instances { .. } | Headers::Query { .. } => {
            reply.with_text("x-consul-effective-consistency", options.consistency.name())
        }
    }
}

/// Adds, if the caller asked for it, whether the agent's cache had the answer. The cache keeps its
/// copies current, so their age is 0.
pub(super) fn cache_headers(reply: Reply, state: &mut State, call: &Call, asked: bool) -> Reply {
    let read = format!("{} {} {}", call.endpoint.name, call.rest_text(), call.query.identity());
    let token = state.given_secret(call);
    let is_new = state.cached.insert((token, read));
    if asked { from_cache(reply, is_new) } else { reply }
}

/// Says whether the agent's cache had the answer.
pub(super) fn from_cache(reply: Reply, is_new: bool) -> Reply {
    match is_new {
        true => reply.with_text("x-cache", "MISS"),
        false => reply.with_text("x-cache", "HIT").with_text("age", "0"),
    }
}

pub(super) fn index_headers(reply: Reply, index: u64, known_leader: bool) -> Reply {
    let known_leader = if known_leader { "true" } else { "false" };
    reply
        .with(INDEX, HeaderValue::from(index.max(1)))
        .with(KNOWN_LEADER, HeaderValue::from_static(known_leader))
        .with(LAST_CONTACT, HeaderValue::from_static("0"))
}

/// The reply of a read that a server refused: most reads set the index headers all the same.
pub(super) fn failed(headers: Headers, reply: impl Into<Reply>) -> Reply {
    let reply = reply.into();
    let has_none = matches!(headers, Headers::Plain | Headers::Entry | Headers::Instances { .. });
    // A missing entry is not an error of the server.
    let is_query = matches!(headers, Headers::Query { .. });
    if has_none || reply.status == StatusCode::NOT_FOUND && !is_query {
        return reply;
    }
    let backend = HeaderValue::from_static("blocking-query");
    index_headers(reply, 1, false).with(QUERY_BACKEND, backend)
}

#[cfg(test)]
mod tests {
    use super::super::control::testing::World;
    use std::time::Duration;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn invalid_parameters_are_refused() {
        let world = World::new();
        for (query, text) in [
            ("wait=abc", "Invalid wait time"),
            ("wait=10", "Invalid wait time"),
            ("index=abc", "Invalid index"),
            ("index=-1", "Invalid index"),
            ("stale&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics."),
            (
                "max_stale=10s&consistent",
                "Cannot specify ?stale with ?consistent, conflicting semantics.",
            ),
            (
                "cached&consistent",
                "Cannot specify ?cached with ?consistent, conflicting semantics.",
            ),
            ("max_stale=x", "Invalid max_stale value \"x\""),
        ] {
            let answer = world.get(&format!("kv/a?{query}"));
            assert_eq!((answer.status(), answer.text()), (400, text));
        }
        assert_eq!(world.get("kv/a?wait=&index=").status(), 404);
    }

    #[test]
    fn a_query_waits_only_for_what_is_newer() {
        let world = World::new();
        world.put("kv/a", "1");
        let index = world.get("kv/a").index();
        assert_eq!(world.get("kv/a?index=0").status(), 200);
        assert_eq!(world.get(&format!("kv/a?index={}", index - 1)).status(), 200);
        assert!(world.watch(&format!("kv/a?index={index}")).waits());
    }

    #[test]
    fn a_wait_ends_within_a_sixteenth_more_with_the_newest_index_near_its_key() {
        let world = World::new();
        world.put("kv/other", "1");
        let index = world.get("kv/none").index();
        let mut watch = world.watch(&format!("kv/none?index={index}&wait=16s"));
        world.put("kv/other", "2");
        world.advance(SECOND * 16 - MILLISECOND);
        assert!(watch.waits());
        world.advance(SECOND + MILLISECOND);
        let answer = watch.answer().expect("the time is over");
        assert_eq!((answer.status(), answer.index()), (404, index + 1));
        assert_eq!(world.get("kv/none").index(), index + 1);
    }

    #[test]
    fn an_index_from_the_future_waits_out_though_the_key_changes() {
        let world = World::new();
        world.put("kv/a", "1");
        let mut watch = world.watch("kv/a?index=1000&wait=1s");
        world.put("kv/a", "2");
        assert!(watch.waits());
        world.advance(SECOND * 2);
        let answer = watch.answer().expect("the time is over");
        assert_eq!((answer.status(), answer.index()), (200, world.get("kv/a").index()));
    }

    #[test]
    fn a_key_wakes_when_it_comes_changes_and_goes() {
        let world = World::new();
        world.put("kv/k1x", "1");
        let watch = |world: &World| {
            world.watch(&format!("kv/k1?index={}&wait=5s", world.get("kv/k1").index()))
        };
        let mut created = watch(&world);
        world.put("kv/k1x", "2");
        world.put("kv/k", "2");
        assert!(created.waits());
        world.put("kv/k1", "1");
        assert_eq!(created.answer().expect("woken").status(), 200);
        let mut changed = watch(&world);
        world.put("kv/k1", "2");
        assert_eq!(changed.answer().expect("woken").status(), 200);
        let mut deleted = watch(&world);
        world.delete("kv/k1");
        let deleted = deleted.answer().expect("woken");
        assert_eq!((deleted.status(), deleted.index()), (404, world.get("kv/k1").index()));
    }

    #[test]
    fn a_prefix_wakes_for_every_change_under_it_even_when_only_keys_are_listed() {
        let world = World::new();
        world.put("kv/p/a/1", "1");
        let index = world.get("kv/p/?keys").index();
        let mut keys = world.watch(&format!("kv/p/?keys&separator=/&index={index}"));
        let mut entries = world.watch(&format!("kv/p/?recurse&index={index}"));
        let mut sibling = world.watch(&format!("kv/p/b?recurse&index={}", index + 1));
        world.put("kv/p/a/1", "2");
        assert_eq!(keys.answer().expect("woken").text(), r#"["p/a/"]"#);
        assert_eq!(entries.answer().expect("woken").index(), index + 1);
        assert!(sibling.waits());
    }

    #[test]
    fn a_deleted_tree_wakes_the_watchers_of_its_keys() {
        let world = World::new();
        world.put("kv/p/a", "1");
        let index = world.get("kv/p/a").index();
        let mut key = world.watch(&format!("kv/p/a?index={index}"));
        let mut below = world.watch(&format!("kv/p/a?recurse&index={index}"));
        world.delete("kv/p?recurse");
        assert_eq!(key.answer().expect("woken").status(), 404);
        assert_eq!(below.answer().expect("woken").index(), index + 1);
    }

    #[test]
    fn an_abandoned_wait_leaves_nothing_behind() {
        let world = World::new();
        world.put("kv/a", "1");
        let mut watch = world.watch("kv/a?index=1000");
        assert!(watch.waits());
        assert_eq!(world.agent.lock().watches.topics(), 1);
        drop(watch);
        assert_eq!(world.agent.lock().watches.topics(), 0);
    }

    #[test]
    fn a_wait_of_zero_is_five_minutes_and_the_longest_is_ten() {
        let world = World::new();
        world.put("kv/a", "1");
        let mut zero = world.watch("kv/a?index=1000&wait=0s");
        let mut long = world.watch("kv/a?index=1000&wait=24h");
        world.advance(SECOND * 299);
        assert!(zero.waits() && long.waits());
        world.advance(SECOND * 20);
        assert!(!zero.waits() && long.waits());
        world.advance(SECOND * 320);
        assert!(!long.waits());
    }

    #[test]
    fn one_waiting_call_drives_the_timers_for_all() {
        let world = World::new();
        let id = world.session(r#"{"TTL":"10s"}"#);
        world.put(&format!("kv/l?acquire={id}"), "");
        let index = world.get("kv/l").index();
        let mut watches: Vec<_> =
            (0..3).map(|_| world.watch(&format!("kv/l?index={index}"))).collect();
        drop(watches.remove(0));
        assert!(watches.iter_mut().all(|watch| watch.waits()));
        world.clock.advance(SECOND * 20);
        assert!(!watches[0].waits() && !watches[1].waits());
    }

    #[test]
    fn the_same_seed_and_requests_give_the_same_trace() {
        let trace = || {
            let world = World::with_seed(7);
            let id = world.session("");
            let mut watch = world.watch("kv/a?index=5&wait=16s");
            let mut waited = 0;
            while watch.waits() {
                world.advance(MILLISECOND);
                waited += 1;
            }
            (id, waited)
        };
        assert_eq!(trace(), trace());
    }
}
