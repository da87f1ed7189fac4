//! etcd through its JSON gateway.

mod bound;
mod change;
pub mod grpc;
mod message;
mod pages;
mod protobuf;
mod roles;
mod sorted;
pub mod streaming;
#[cfg(test)]
mod tests;
mod users;
mod watch;

pub use change::{BEGUN, Change};
pub use message::{Base64, Event, EventKind, KeyValue};
pub use pages::{Page, Pages};
pub use roles::Right;
pub use sorted::{Sorted, by_form};
pub use watch::{Changes, Watch};

use crate::Report;
use crate::silence::Silence;
use bytes::{Bytes, BytesMut};
use consul_api::error::{Error, Kind};
use consul_api::response::{excerpt, redirection};
use consul_process::clock::Clock;
use consul_process::sync::lock;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use http::header::{CONTENT_ENCODING, LOCATION};
use http::{Request, Response};
use message::{Answer, Header, Int, RangeRequest, RangeResponse, Refusal, TokenResponse, decode};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use streaming::{Parts, Streaming};

/// The prefixes of the gateway's paths: from 3.4, of 3.3, of 3.2.
const PREFIXES: &[&str] = &["/v3", "/v3beta", "/v3alpha"];

/// The largest answer; a page above it is read again in smaller ones.
const MAX_ANSWER: usize = 24 << 20;

/// The same of an answer that has one key, whose value no smaller page divides.
const MAX_OF_ONE: usize = 512 << 20;

/// The answer of a cluster without access control to a user.
const WITHOUT_USERS: &str = "authentication is not enabled";

/// The pauses between attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// The time limit of the first attempt on each server if there are several, but for requests that read many keys: one may
/// be stuck while the others answer. Later attempts, and those on the only server, have the whole time.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a request to etcd has no result.
#[derive(Debug)]
pub enum Refused {
    /// The revision is compacted: it cannot be read any more.
    Compacted,
    /// The answer would be too large: the page must be smaller.
    TooLarge,
    /// An alarm is on, while which etcd takes no writes.
    Alarm(Error),
    /// The transaction has more operations or bytes than etcd, or what is before it, takes; its operator chooses these limits.
    Oversized(Error),
    /// Anything else.
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Failed(error)
    }
}

impl Refused {
    /// The error of a request that none of the special cases can help.
    pub fn into_error(self) -> Error {
        let text = match self {
            Refused::Alarm(error) | Refused::Oversized(error) | Refused::Failed(error) => {
                return error;
            }
            Refused::Compacted => "etcd: the revision is compacted",
            Refused::TooLarge => "etcd: the answer is too large, also for one key",
        };
        Error::new(Kind::Http, text)
    }
}

/// A user of etcd.
#[derive(Clone)]
pub struct Login {
    /// The name in etcd's access control.
    pub name: String,
    /// The password in plain text, which etcd exchanges for a token.
    pub password: String,
}

/// Without the password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A client of one etcd cluster through several servers.
#[derive(Debug)]
pub struct Etcd {
    servers: Vec<Arc<dyn Streaming>>,
    login: Option<Login>,
    /// Says of an error what the program calls the options of connections.
    words: fn(Error) -> Error,
    clock: Arc<dyn Clock>,
    silence: Silence,
    /// The time limit of one attempt.
    timeout: Duration,
    longest_line: usize,
    /// The prefix of the keys, for messages.
    keys: String,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    server: usize,
    /// How often another server was chosen.
    failures: u64,
    /// The id in the first answer.
    cluster: Option<u64>,
    /// The servers that cannot be used as they are, since one was last.
    unusable: BTreeSet<usize>,
    /// The servers that have told that they are of this cluster, since they were last left.
    known: BTreeSet<usize>,
    prefix: Option<&'static str>,
    token: Option<Token>,
    /// Whether a request was sent that gives a right back to a role.
    gives_back: bool,
}

struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Which cluster it is, and how far.
#[derive(Clone, Debug)]
pub struct Status {
    /// The ID of the cluster in decimal digits; `0` if a proxy has left it out.
    pub cluster_id: String,
    /// The current revision of the cluster.
    pub revision: u64,
}

/// The keys from `start` on and before `end`; an end of one zero byte is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first key that the range can have.
    pub start: Bytes,
    /// The first key beyond the range; if empty, the range is the key `start` alone.
    pub end: Bytes,
}

impl Range {
    /// The key alone.
    pub fn one(key: &Bytes) -> Self {
        Range { start: key.clone(), end: Bytes::new() }
    }

    /// All keys that begin with a prefix.
    pub fn prefix(prefix: &[u8]) -> Self {
        let start = if prefix.is_empty() {
            Bytes::from_static(b"\0")
        } else {
            Bytes::copy_from_slice(prefix)
        };
        Range { start, end: after(prefix) }
    }
}

/// The first key after all that begin with a prefix.
fn after(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte < 0xff);
    let Some(last) = kept else { return Bytes::from_static(b"\0") };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

impl Etcd {
    /// Nothing is sent yet.
    pub fn new(
        servers: Vec<Arc<dyn Streaming>>,
        login: Option<Login>,
        clock: Arc<dyn Clock>,
        timeout: Duration,
        patience: Duration,
    ) -> Self {
        let silence = Silence::new("etcd", Arc::clone(&clock), patience);
        let keys = String::new();
        let longest_line = watch::MAX_LINE;
        let (words, now): (fn(Error) -> Error, _) = (|error| error, Mutex::default());
        Etcd { servers, login, words, clock, silence, timeout, longest_line, keys, now }
    }

    /// Has errors of the connections name their options as the program calls them.
    #[must_use]
    pub fn in_words(self, words: fn(Error) -> Error) -> Self {
        Etcd { words, ..self }
    }

    /// The longest line of a watch that is read, in bytes; by default 64 MiB.
    #[must_use]
    pub fn reading_lines_up_to(self, bytes: usize) -> Self {
        Etcd { longest_line: bytes, ..self }
    }

    /// Reports while no server answers.
    #[must_use]
    pub fn reporting(mut self, report: Arc<dyn Report>) -> Self {
        self.silence.report_to(report);
        self
    }

    /// From now on repeats requests until a server answers.
    pub fn wait_without_end(&self) {
        self.silence.wait_without_end();
    }

    /// The clock of the time limits of requests and the pauses between attempts.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// For how long a request is repeated while no server answers.
    pub fn patience(&self) -> Duration {
        self.silence.patience()
    }

    /// Has messages about a missing right name the prefix of the keys; empty is all keys.
    #[must_use]
    pub fn with_prefix(self, prefix: &str) -> Self {
        Etcd { keys: prefix.to_owned(), ..self }
    }

    /// The cluster, by a linearizable read of this key alone, which takes no other right: some versions tell their own
    /// status to root alone.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn status(&self, key: &Bytes) -> Result<Status, Refused> {
        let header = self.counted(&Range::one(key), 0).await?.header;
        Ok(Status { cluster_id: header.cluster_id.0.to_string(), revision: header.revision.0 })
    }

    /// One answer of up to `limit` keys of a range at a revision; 0 is the current one.
    async fn range(
        &self,
        range: &Range,
        limit: u64,
        revision: u64,
    ) -> Result<RangeResponse, Refused> {
        let answer = async {
            if let Some(answer) = self.range_by_grpc(range, limit, revision).await {
                return Ok(answer);
            }
            let asked = RangeRequest {
                key: Base64(range.start.clone()),
                range_end: Base64(range.end.clone()),
                limit: Int(limit),
                revision: Int(revision),
                ..RangeRequest::default()
            };
            let most = if limit == 1 || range.end.is_empty() { MAX_OF_ONE } else { MAX_ANSWER };
            self.ask_within(self.first_limit(range), most, "kv/range", &asked).await
        };
        self.silence.tell(answer).await
    }

    /// Without the gateway, which takes etcd five times as much of its processor's time. `None` if it does not
    /// answer so: the gateway has the reason.
    async fn range_by_grpc(
        &self,
        range: &Range,
        limit: u64,
        revision: u64,
    ) -> Option<RangeResponse> {
        let token = match &self.login {
            // The gateway gets it.
            Some(_) => Some(lock(&self.now).token.as_ref()?.0.clone()),
            None => None,
        };
        let asked = protobuf::range_request(range, limit, revision);
        let server = Arc::clone(&self.servers[self.at()]);
        let answer = server.call("/etcdserverpb.KV/Range", token.as_deref(), &asked).await?;
        let answer = protobuf::range_response(&answer)?;
        self.is_of_cluster(&answer.header).then_some(answer)
    }

    /// The key at a revision; 0 is the current one.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn get(&self, key: &Bytes, revision: u64) -> Result<Option<KeyValue>, Refused> {
        Ok(self.range(&Range::one(key), 0, revision).await?.kvs.into_iter().next())
    }

    /// The first key of a range, as it is now.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn first(&self, range: &Range) -> Result<Option<KeyValue>, Refused> {
        Ok(self.range(range, 1, 0).await?.kvs.into_iter().next())
    }

    /// The first keys of a range that were set at a revision or since, up to `most`, without their values.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn set_since(
        &self,
        range: &Range,
        revision: u64,
        most: u64,
    ) -> Result<Vec<KeyValue>, Refused> {
        let asked = RangeRequest {
            key: Base64(range.start.clone()),
            range_end: Base64(range.end.clone()),
            limit: Int(most),
            min_mod_revision: Int(revision),
            keys_only: true,
            ..RangeRequest::default()
        };
        let answer: RangeResponse =
            self.ask_within(self.timeout, MAX_ANSWER, "kv/range", &asked).await?;
        Ok(answer.kvs)
    }

    /// The number of keys of a range, and the revision at which it was counted.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn count(&self, range: &Range, revision: u64) -> Result<(u64, u64), Refused> {
        let answer = self.counted(range, revision).await?;
        Ok((answer.count.0, answer.header.revision.0))
    }

    async fn counted(&self, range: &Range, revision: u64) -> Result<RangeResponse, Refused> {
        let asked = RangeRequest {
            key: Base64(range.start.clone()),
            range_end: Base64(range.end.clone()),
            revision: Int(revision),
            count_only: true,
            ..RangeRequest::default()
        };
        let limit = self.first_limit(range);
        let answer: RangeResponse = self.ask_within(limit, MAX_ANSWER, "kv/range", &asked).await?;
        match answer.header.revision.0 {
            // The first one is 1; with 0 a later read would be one of another moment.
            0 => {
                let endpoint = self.endpoint(self.at());
                let message =
                    format!("{endpoint}: kv/range: the answer has no revision, which etcd's has");
                Err(Error::new(Kind::Decode, message).with_endpoint(endpoint).into())
            }
            _ => Ok(answer),
        }
    }

    /// The current revision of the cluster, by a linearizable read of this key alone: etcd visits all keys of a range to
    /// count them.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn revision(&self, key: &Bytes) -> Result<u64, Refused> {
        Ok(self.count(&Range::one(key), 0).await?.1)
    }

    /// Sends a request that may be repeated, and decodes the answer.
    async fn ask<T: Answer>(&self, what: &str, body: &impl serde::Serialize) -> Result<T, Refused> {
        self.ask_within(FIRST_TIMEOUT, MAX_ANSWER, what, body).await
    }

    /// The same with other limits: the time of the first attempts, and the size of the answer.
    async fn ask_within<T: Answer>(
        &self,
        first: Duration,
        most: usize,
        what: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, Refused> {
        let body = encoded(body)?;
        // It is large, and within others.
        let asked = Box::pin(self.ask_patiently((first, most), what, &body));
        self.silence.tell(asked).await
    }

    async fn ask_patiently<T: Answer>(
        &self,
        (first, most): (Duration, usize),
        what: &str,
        body: &Bytes,
    ) -> Result<T, Refused> {
        let begun = self.clock.now();
        let mut attempt = 0;
        loop {
            let is_first = self.servers.len() > 1 && attempt < self.servers.len();
            let limit = if is_first { first.min(self.timeout) } else { self.timeout };
            // Other requests may choose another server meanwhile.
            let at = self.at();
            let answer = self.in_time(limit, at, what, self.answer(at, what, body, most)).await;
            let error = match answer.and_then(|answer| self.decoded::<T>(at, what, &answer)) {
                Ok(answer) => {
                    lock(&self.now).unusable.clear();
                    self.check_cluster(at, answer.header())?;
                    return Ok(answer);
                }
                Err(Refused::Failed(error)) if error.is_retryable() => error,
                Err(refused) => return Err(refused),
            };
            if self.clock.now() - begun >= self.patience() {
                return Err(error.into());
            }
            self.silence.failed(error.message());
            self.forget_token();
            self.leave(at);
            self.clock.sleep(PAUSE).await;
            attempt += 1;
        }
    }

    /// The time limit of the first attempts to read a range: etcd visits all keys of one to count them.
    fn first_limit(&self, range: &Range) -> Duration {
        if range.end.is_empty() { FIRST_TIMEOUT } else { self.timeout }
    }

    fn decoded<T: for<'de> Deserialize<'de>>(
        &self,
        at: usize,
        what: &str,
        answer: &[u8],
    ) -> Result<T, Refused> {
        decode(answer).map_err(|error| {
            let (endpoint, said) = (self.endpoint(at), shown(answer));
            let message = format!("{endpoint}: {what}: the answer is not etcd's: {error}{said}");
            self.foreign(at, message).into()
        })
    }

    /// The error of an answer that is not etcd's.
    fn foreign(&self, at: usize, message: String) -> Error {
        self.of_server(at, Error::new(Kind::Decode, message).with_endpoint(self.endpoint(at)))
    }

    /// The result of an attempt within its time limit.
    async fn in_time<R>(
        &self,
        limit: Duration,
        at: usize,
        what: &str,
        attempt: impl Future<Output = Result<R, Refused>>,
    ) -> Result<R, Refused> {
        match select(pin!(attempt), self.clock.sleep(limit)).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => {
                let ms = limit.as_millis();
                let message = format!("{}: {what}: no answer within {ms} ms", self.endpoint(at));
                Err(Error::new(Kind::Timeout, message).retryable().into())
            }
        }
    }

    /// The whole answer to a request.
    async fn answer(
        &self,
        at: usize,
        what: &str,
        body: &Bytes,
        most: usize,
    ) -> Result<Bytes, Refused> {
        let answer = self.open(at, what, body).await?;
        whole_up_to(most, answer.into_body()).await
    }

    /// Sends a request; an answer that is not a success is an error. With a token that etcd does not accept
    /// any more it authenticates again, once.
    async fn open(&self, at: usize, what: &str, body: &Bytes) -> Result<Response<Parts>, Refused> {
        let prefix = self.prefix(at).await?;
        let path = format!("{prefix}/{what}");
        let mut token = self.token(at, prefix).await?;
        if changes(what) && !self.is_known(at) {
            self.ask_for_cluster(at, prefix, token.as_deref()).await?;
            token = self.token(at, prefix).await?;
        }
        let answer = self.send(at, &path, body, token.as_deref()).await?;
        let (status, refusal) = match refusal_of(answer).await? {
            Ok(answer) => return Ok(answer),
            Err(refused) => refused,
        };
        if !(self.login.is_some() && is_old_token(status, &refusal)) {
            return Err(self.refused(at, what, status, &refusal));
        }
        lock(&self.now).token = None;
        let token = self.token(at, prefix).await?;
        let answer = self.send(at, &path, body, token.as_deref()).await?;
        match refusal_of(answer).await? {
            Ok(answer) => Ok(answer),
            // Users or roles have changed once more meanwhile.
            Err((status, refusal)) if has_old_token(&refusal) => {
                lock(&self.now).token = None;
                let error = self.refused(at, what, status, &refusal).into_error();
                Err(error.retryable().into())
            }
            Err((status, refusal)) => Err(self.refused(at, what, status, &refusal)),
        }
    }

    /// Whether a server is one of the cluster: what would change another cluster is not sent.
    fn is_known(&self, at: usize) -> bool {
        self.servers.len() == 1 || lock(&self.now).known.contains(&at)
    }

    /// Asks a server for its cluster, by a read that takes no other right.
    async fn ask_for_cluster(
        &self,
        at: usize,
        prefix: &str,
        token: Option<&str>,
    ) -> Result<(), Refused> {
        let key = Base64(Range::prefix(self.keys.as_bytes()).start);
        let asked = RangeRequest { key, count_only: true, ..RangeRequest::default() };
        let path = format!("{prefix}/kv/range");
        let answer = self.send(at, &path, &encoded(&asked)?, token).await?;
        let answer = match refusal_of(answer).await? {
            Ok(answer) => whole(answer.into_body()).await?,
            Err((status, refusal)) if is_old_token(status, &refusal) && token.is_some() => {
                // The next attempt has another one.
                lock(&self.now).token = None;
                let error = self.refused(at, "kv/range", status, &refusal).into_error();
                return Err(error.retryable().into());
            }
            Err((status, refusal)) => return Err(self.refused(at, "kv/range", status, &refusal)),
        };
        let answer: RangeResponse = self.decoded(at, "kv/range", &answer)?;
        self.check_cluster(at, &answer.header)?;
        lock(&self.now).known.insert(at);
        Ok(())
    }

    async fn send(
        &self,
        at: usize,
        path: &str,
        body: &Bytes,
        token: Option<&str>,
    ) -> Result<Response<Parts>, Error> {
        let mut request = Request::post(path).header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request
            .body(body.clone())
            .map_err(|error| Error::argument(format!("etcd: {error}")))?;
        let answer = self.servers[at].open(request).await.map_err(|error| match error.kind() {
            Kind::Tls => self.of_server(at, (self.words)(error)),
            _ => error,
        })?;
        match answer.headers().get(CONTENT_ENCODING) {
            Some(coding) if coding != "identity" => {
                let coding = coding.to_str().unwrap_or("…");
                let endpoint = self.endpoint(at);
                let message =
                    format!("{endpoint}: the answer has Content-Encoding: {coding}, not requested");
                Err(self.foreign(at, message))
            }
            _ => Ok(answer),
        }
    }

    /// The server of the next request.
    fn at(&self) -> usize {
        lock(&self.now).server
    }

    fn endpoint(&self, at: usize) -> &str {
        self.servers[at].endpoint()
    }

    /// The current revision of the cluster, by a linearizable read, and whether the server of the last request has answered
    /// it; another one is used if not.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn revision_on_this_server(&self, range: &Range) -> Result<(u64, bool), Refused> {
        let before = lock(&self.now).failures;
        let revision = self.revision(&range.start).await?;
        Ok((revision, lock(&self.now).failures == before))
    }

    fn is_of_cluster(&self, header: &Header) -> bool {
        // A proxy of etcd does not always say it.
        let id = header.cluster_id.0;
        id == 0 || *lock(&self.now).cluster.get_or_insert(id) == id
    }

    /// Refuses an answer of another cluster than the first one, and leaves the server.
    fn check_cluster(&self, at: usize, header: &Header) -> Result<(), Refused> {
        if self.is_of_cluster(header) {
            return Ok(());
        }
        let message = format!(
            "{}: it is a server of the etcd cluster {}, and those before are of another one: --etcd must name servers of one \
             cluster; or etcd was replaced meanwhile",
            self.endpoint(at),
            header.cluster_id.0
        );
        self.leave(at);
        Err(Error::new(Kind::Config, message).into())
    }

    /// Lets the next request go to another server than this one, on which a request has failed. Of several that fail at once
    /// only the first one chooses: otherwise as many as there are servers would come back to it.
    fn leave(&self, at: usize) {
        let mut now = lock(&self.now);
        now.known.remove(&at);
        now.failures += 1;
        if now.server == at {
            now.server = (at + 1) % self.servers.len();
        }
    }

    /// The prefix of the gateway's paths on this cluster.
    async fn prefix(&self, at: usize) -> Result<&'static str, Refused> {
        if let Some(prefix) = lock(&self.now).prefix {
            return Ok(prefix);
        }
        let mut said = String::new();
        for prefix in PREFIXES {
            let path = format!("{prefix}/maintenance/status");
            let answer = self.send(at, &path, &Bytes::from_static(b"{}"), None).await?;
            if answer.status() != 404 {
                lock(&self.now).prefix = Some(prefix);
                return Ok(prefix);
            }
            said = excerpt(&whole(answer.into_body()).await?);
        }
        let error = self.without_gateway(at, &said).await;
        Err(self.of_server(at, error).into())
    }

    /// Why a server has none of the gateway's paths, and its answer to the last of them.
    async fn without_gateway(&self, at: usize, said: &str) -> Error {
        let endpoint = self.endpoint(at);
        let version = match self.versions(at).await {
            Ok(versions) => versions,
            Err(error) => return error,
        };
        let text = match version["etcdserver"].as_str() {
            Some(version) if version.starts_with("2.") => format!(
                "{endpoint} is etcd {version}, which has only the API v2: upgrade it to 3.2 or later first"
            ),
            Some(version) => format!(
                "{endpoint} is etcd {version}, whose JSON gateway is off: start it with --enable-grpc-gateway"
            ),
            None => {
                let says =
                    if said.is_empty() { String::new() } else { format!(", and says {said:?}") };
                let text = format!(
                    "{endpoint} is not an etcd server: it has neither /v3 nor /version{says}"
                );
                return Error::new(Kind::Decode, text).with_endpoint(endpoint);
            }
        };
        Error::new(Kind::Unsupported, text)
    }

    /// The addresses of its servers.
    pub fn addresses(&self) -> Vec<&str> {
        self.servers.iter().map(|server| server.endpoint()).collect()
    }

    /// The ID of its cluster in decimal digits, once a server has told it.
    pub fn cluster_id(&self) -> Option<String> {
        lock(&self.now).cluster.map(|id| id.to_string())
    }

    /// The version of one server, which anyone may ask for; `None` without an answer.
    pub async fn version(&self) -> Option<String> {
        let at = self.at();
        let versions = async { Ok(self.versions(at).await?) };
        let versions = self.in_time(FIRST_TIMEOUT, at, "version", versions);
        let versions = self.silence.tell(versions).await.ok()?;
        Some(versions["etcdserver"].as_str()?.to_owned())
    }

    /// The answer of `/version`; null if that is not JSON.
    async fn versions(&self, at: usize) -> Result<serde_json::Value, Error> {
        let request = Request::get("/version").body(Bytes::new()).unwrap_or_default();
        let answer = self.servers[at].open(request).await?;
        let text = whole(answer.into_body()).await.unwrap_or_default();
        Ok(serde_json::from_slice(&text).unwrap_or_default())
    }

    /// The token of the user; `None` without a user.
    async fn token(&self, at: usize, prefix: &str) -> Result<Option<String>, Refused> {
        let Some(login) = &self.login else { return Ok(None) };
        if let Some(Token(token)) = &lock(&self.now).token {
            return Ok(Some(token.clone()));
        }
        let body = encoded(&json!({ "name": login.name, "password": login.password }))?;
        let path = format!("{prefix}/auth/authenticate");
        let answer = self.send(at, &path, &body, None).await?;
        let answer = match refusal_of(answer).await? {
            Ok(answer) => whole(answer.into_body()).await?,
            // A cluster without authentication has nothing to log in to.
            Err((_, refusal)) if refusal.text().contains(WITHOUT_USERS) => {
                return Ok(None);
            }
            Err((status, refusal)) => {
                return Err(self.refused(at, "authenticate", status, &refusal));
            }
        };
        let token: TokenResponse = self.decoded(at, "authenticate", &answer)?;
        lock(&self.now).token = Some(Token(token.token.clone()));
        Ok(Some(token.token))
    }

    /// Has the next request log in: some versions close the connection of a token that is void, or answer nothing.
    fn forget_token(&self) {
        lock(&self.now).token = None;
    }

    /// The lack of a user whose request etcd refuses.
    fn lacks(&self, what: &str) -> String {
        let right = match what {
            "kv/range" | "watch" => "to read",
            what if what.starts_with("kv/") => "to write",
            what => return format!(": {what} is for users with the role root"),
        };
        match self.keys.as_str() {
            "" => format!(
                ": the user lacks the right {right} all keys; one whose role is for a prefix needs --etcd-prefix"
            ),
            prefix => {
                format!(": the user lacks the right {right} all keys that begin with {prefix:?}")
            }
        }
    }

    /// The error of what is one server's own, as an answer of another program, or a certificate that is not trusted. Others
    /// of the list are asked then, and once etcd has answered, also this one later: something is wrong for a while.
    fn of_server(&self, at: usize, error: Error) -> Error {
        let mut now = lock(&self.now);
        now.unusable.insert(at);
        let is_last = now.cluster.is_none() && now.unusable.len() == self.servers.len();
        if is_last { error } else { error.retryable() }
    }

    fn refused(&self, at: usize, what: &str, status: u16, refusal: &Refusal) -> Refused {
        let text = refusal.text();
        let says = |words: &str| text.contains(words);
        let code = refusal.code();
        if is_compacted(text) {
            return Refused::Compacted;
        } else if says("database space exceeded") {
            let message = format!("{}: {what}: {text}: an alarm is on", self.endpoint(at));
            return Refused::Alarm(Error::new(Kind::Http, message).with_status(status));
        } else if code == 8 && (says("larger than max") || says("message too large")) {
            return Refused::TooLarge;
        }
        let hint = if says("authentication failed") {
            ": the user or the password is wrong"
        } else if says("user name is empty") {
            ": it requires a user (--etcd-user)"
        } else if code == 7 || says("permission denied") {
            &self.lacks(what)
        } else {
            ""
        };
        let kind = match (code, status) {
            _ if !hint.is_empty() => Kind::PermissionDenied,
            (16, _) => Kind::PermissionDenied,
            (8, _) => Kind::RateLimited,
            (_, 413) => Kind::TooLarge,
            // 1 is what the gateway of a server says that stops: its own client of gRPC is closed.
            (1 | 4 | 14, _) | (_, 408 | 499 | 502..=504) => Kind::NoLeader,
            // Of what is before etcd: its own have a code.
            (0, 429) => Kind::RateLimited,
            (0, 500..) => Kind::NoLeader,
            // But for one of its gateway.
            (0, _) if !says("CommonName of client") => Kind::Decode,
            _ => Kind::Http,
        };
        let endpoint = self.endpoint(at);
        let message = format!("{endpoint}: {what}: {text}{hint} (HTTP {status})");
        let error = Error::new(kind, message).with_status(status).with_endpoint(endpoint);
        // Also of what is before etcd, whatever it says.
        if status == 413 || says("too many operations") || says("request is too large") {
            return Refused::Oversized(error);
        }
        let is_transient = matches!(kind, Kind::NoLeader | Kind::RateLimited)
            // A member that is behind: another one may have it.
            || says("future revision")
            || says("leader changed")
            || says("no leader")
            || says("request timed out");
        Refused::Failed(match is_transient {
            true => error.retryable(),
            // Of a member that joins: etcd before 3.6 says it by code 14.
            false if code == 0 || says("not supported for learner") => self.of_server(at, error),
            false => error,
        })
    }
}

/// Whether a request can change something.
fn changes(what: &str) -> bool {
    ![
        "kv/range",
        "watch",
        "auth/authenticate",
        "auth/role/list",
        "auth/role/get",
        "auth/user/list",
        "auth/user/get",
    ]
    .contains(&what)
}

fn is_compacted(text: &str) -> bool {
    text.contains("has been compacted")
}

fn is_old_token(status: u16, refusal: &Refusal) -> bool {
    status == 401 || has_old_token(refusal)
}

/// The same by etcd's own words.
fn has_old_token(refusal: &Refusal) -> bool {
    let text = refusal.text();
    refusal.code() == 16
        || text.contains("invalid auth token")
        || text.contains("revision of auth store is old")
        // Of older servers.
        || text.contains("revision in header is old")
}

fn encoded(body: &impl serde::Serialize) -> Result<Bytes, Error> {
    let body =
        serde_json::to_vec(body).map_err(|error| Error::argument(format!("etcd: {error}")))?;
    Ok(body.into())
}

type OrRefusal = Result<Response<Parts>, (u16, Refusal)>;

/// Distinguishes a success and a refusal, whose body is read.
async fn refusal_of(answer: Response<Parts>) -> Result<OrRefusal, Refused> {
    let status = answer.status();
    if status.is_success() {
        return Ok(Ok(answer));
    }
    let is_redirect = status.is_redirection() && answer.headers().contains_key(LOCATION);
    let redirection = is_redirect.then(|| redirection(answer.headers()));
    let body = whole(answer.into_body()).await?;
    let mut refusal: Refusal = serde_json::from_slice(&body).unwrap_or_default();
    if let Some(redirection) = redirection {
        refusal.message = redirection;
    } else if refusal.text().is_empty() {
        // It is not etcd's JSON: etcd itself, or a program between, has answered in another form.
        refusal.message = excerpt(&body);
    }
    if refusal.text().is_empty() {
        refusal.message = status.canonical_reason().unwrap_or("refused").to_owned();
    }
    Ok(Err((status.as_u16(), refusal)))
}

/// The beginning of what cannot be etcd's JSON, for messages; of an object nothing, since it can have values of keys.
fn shown(answer: &[u8]) -> String {
    match answer.trim_ascii_start() {
        [] | [b'{', ..] => String::new(),
        text => format!(": {:?}", excerpt(text)),
    }
}

/// Reads a whole body.
async fn whole(parts: Parts) -> Result<Bytes, Refused> {
    whole_up_to(MAX_ANSWER, parts).await
}

async fn whole_up_to(most: usize, mut parts: Parts) -> Result<Bytes, Refused> {
    let mut whole = BytesMut::new();
    while let Some(part) = parts.next().await {
        let part = part?;
        if whole.len() + part.len() > most {
            return Err(Refused::TooLarge);
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}
