//! From an answer to the call's value and metadata, or to an error of a documented kind.

use super::request::Request;
use super::table::{Absent, Endpoint, Reply};
use super::tape::{Base64, Item, Tape};
use super::value::Value;
use crate::error::{Error, Kind, RefusedOperation};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response, StatusCode, header};
use serde::Deserialize;
use std::time::Duration;

/// What a successful call gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The value.
    pub value: Value,
    /// What the answer says about itself.
    pub meta: Meta,
}

/// What an answer says about itself besides its value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// The index to wait for a change from (`X-Consul-Index`).
    pub index: Option<u64>,
    /// Whether the servers had a leader; false for streamed answers too, so never a reason to
    /// distrust one.
    pub known_leader: Option<bool>,
    /// How long ago the answering server heard from the leader, in milliseconds.
    pub last_contact_ms: Option<u64>,
    /// The hash to wait for a change of an agent's service from.
    pub content_hash: Option<String>,
    /// `HIT` or `MISS` for a cached read.
    pub cache: Option<String>,
    /// The age of a cached answer in seconds.
    pub age_s: Option<u64>,
    /// Which of the server's two ways of waiting answered.
    pub backend: Option<String>,
    /// The one KV entry that was read, without its value.
    pub entry: Option<EntryMeta>,
    /// How long the call took in milliseconds, all attempts together.
    pub request_ms: f64,
    /// The endpoint that answered.
    pub endpoint: String,
    /// How many times the request was sent.
    pub attempts: u32,
    /// Whether any server may be its source, because the leader did not answer (`stale_if_error`).
    pub stale: bool,
}

/// A KV entry without key and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryMeta {
    /// The number stored beside the value.
    pub flags: u64,
    /// The session that holds the lock.
    pub session: Option<String>,
    /// How many times the lock was taken.
    pub lock_index: u64,
    /// The index at which the key came to be.
    pub create_index: u64,
    /// The index of the last change.
    pub modify_index: u64,
}

/// The headers that say something about an answer, of which a transport need keep no other.
pub static HEADERS: [HeaderName; 13] = [
    HeaderName::from_static("x-consul-index"),
    HeaderName::from_static("x-consul-knownleader"),
    HeaderName::from_static("x-consul-lastcontact"),
    HeaderName::from_static("x-consul-contenthash"),
    HeaderName::from_static("x-consul-query-backend"),
    HeaderName::from_static("x-consul-reason"),
    HeaderName::from_static("x-cache"),
    header::AGE,
    header::ALLOW,
    header::CONTENT_TYPE,
    header::LOCATION,
    header::RETRY_AFTER,
    header::VARY,
];

impl Meta {
    /// The index from which to wait for the next change, after a query that waited from `last`; none
    /// when it is to be looked anew, because there is none or it went back.
    ///
    /// Source: "Blocking Queries" in Consul's HTTP API reference.
    pub fn next_index(&self, last: Option<u64>) -> Option<u64> {
        let next = self.index?.max(1);
        last.is_none_or(|last| next >= last).then_some(next)
    }

    fn of(headers: &HeaderMap) -> Self {
        let mut meta = Meta::default();
        // One look at each header is faster than a look-up for each name.
        for (name, value) in headers {
            let Ok(text) = value.to_str() else { continue };
            match name.as_str() {
                "x-consul-index" => meta.index = text.parse().ok(),
                "x-consul-knownleader" => meta.known_leader = Some(text == "true"),
                "x-consul-lastcontact" => meta.last_contact_ms = text.parse().ok(),
                "x-consul-contenthash" => meta.content_hash = Some(text.to_owned()),
                "x-cache" => meta.cache = Some(text.to_owned()),
                "age" => meta.age_s = text.parse().ok(),
                "x-consul-query-backend" => meta.backend = Some(text.to_owned()),
                _ => {}
            }
        }
        meta
    }
}

impl EntryMeta {
    /// `None` when it is no entry.
    fn of(entry: &Tape) -> Option<Self> {
        let (mut flags, mut lock_index, mut create_index, mut modify_index) = Default::default();
        let mut session = None;
        for (name, member) in entry.members() {
            let number = match member {
                Item::Int(number) => u64::try_from(number).ok(),
                Item::Uint(number) => Some(number),
                _ => None,
            };
            match (name, member) {
                (b"Flags", _) => flags = number,
                (b"LockIndex", _) => lock_index = number,
                (b"CreateIndex", _) => create_index = number,
                (b"ModifyIndex", _) => modify_index = number,
                (b"Session", Item::Bytes(id)) => {
                    session = Some(String::from_utf8_lossy(id).into_owned());
                }
                _ => {}
            }
        }
        Some(EntryMeta {
            flags: flags?,
            session,
            lock_index: lock_index?,
            create_index: create_index?,
            modify_index: modify_index?,
        })
    }
}

/// A success whose body is still to be read.
#[derive(Clone, Debug)]
pub struct Success {
    endpoint: &'static Endpoint,
    label: String,
    /// None: what the row takes a 404 for.
    body: Option<Bytes>,
    /// What the answer says about itself. The entry is in the body.
    pub meta: Meta,
}

impl Request {
    /// Tells a success from a refusal, so that a call can be decided on before its answer is read.
    ///
    /// # Errors
    /// Whatever the server refused, by kind: with a status, or with the `false` of a write that was
    /// not done.
    pub fn check(&self, response: Response<Bytes>) -> Result<Success, Error> {
        let status = response.status();
        let meta = Meta::of(response.headers());
        let body = if status.is_success() || self.endpoint.also_success.contains(&status.as_u16()) {
            self.refuse_page(&response)?;
            if self.endpoint.reply == Reply::Applied {
                self.check_applied(response.body())?;
            }
            Some(response.into_body())
        } else {
            let is_absent = status == StatusCode::NOT_FOUND && !is_unknown_endpoint(&response);
            if !is_absent || absent_value(self.endpoint).is_none() {
                return Err(self.refused(&response));
            }
            self.refuse_page(&response)?;
            None
        };
        Ok(Success { endpoint: self.endpoint, label: self.label.clone(), body, meta })
    }

    /// Refuses a web page, which no operation answers with: else a portal's page would be the success
    /// of an operation that answers with nothing, and a web server's 404 a key that does not exist.
    fn refuse_page(&self, response: &Response<Bytes>) -> Result<(), Error> {
        let content = response.headers().get(header::CONTENT_TYPE);
        let is_page = content.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
        match is_page && self.endpoint.reply != Reply::Body {
            true => {
                let body = response.body();
                Err(not_understood(self.endpoint, &self.label, "it is a web page", body))
            }
            false => Ok(()),
        }
    }

    fn check_applied(&self, body: &Bytes) -> Result<(), Error> {
        match body.trim_ascii() {
            b"true" => Ok(()),
            b"false" => Err(Error::new(
                Kind::Conflict,
                format!("{}: not done: {}", self.label, self.refusal),
            )
            .with_maybe_applied(false)
            .with_status(200)),
            _ => {
                let why = "true or false was expected";
                Err(not_understood(self.endpoint, &self.label, why, body))
            }
        }
    }
}

/// What a 404 is to this endpoint, unless it is an error.
fn absent_value(endpoint: &Endpoint) -> Option<Tape> {
    match endpoint.absent {
        Absent::Null => Some(Tape::null()),
        Absent::EmptyList => Some(Tape::empty_list()),
        Absent::Done => Some(Tape::done()),
        Absent::Error | Absent::SessionInvalid => None,
    }
}

impl Success {
    /// Reads the body into a value.
    ///
    /// # Errors
    /// [`Kind::Decode`] for what is no answer of Consul's.
    pub fn answer(self) -> Result<Answer, Error> {
        let (tape, meta) = self.read()?;
        Ok(Answer { value: tape.value(), meta })
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`Kind::Decode`] for what is no answer of Consul's.
    pub fn read(mut self) -> Result<(Tape, Meta), Error> {
        let tape = match self.body.take() {
            None => absent_value(self.endpoint).unwrap_or_else(Tape::null),
            Some(body) => self.tape(body).map_err(|error| {
                error.with_endpoint(&self.meta.endpoint).with_attempts(self.meta.attempts)
            })?,
        };
        Ok((tape, self.meta))
    }

    fn tape(&mut self, body: Bytes) -> Result<Tape, Error> {
        let json = |base64| {
            Tape::of_json(body.clone(), base64)
                .map_err(|error| self.not_understood(&error.to_string(), &body))
        };
        match self.endpoint.reply {
            Reply::Done | Reply::Applied => Ok(Tape::done()),
            Reply::Body => Ok(Tape::of_bytes(body)),
            Reply::Json => json(Base64::Nowhere),
            Reply::KvEntries | Reply::Events => json(Base64::InEntries),
            Reply::Member(name) => json(Base64::Nowhere)?
                .into_member(name)
                .filter(|member| matches!(member.top(), Item::Bytes(_)))
                .ok_or_else(|| {
                    self.not_understood(&format!("an object with {name} was expected"), &body)
                }),
            Reply::FirstItem => json(Base64::Nowhere)?
                .into_first()
                .ok_or_else(|| self.not_understood("a list was expected", &body)),
            Reply::Txn => {
                let outcome = json(Base64::InResults)?;
                if !matches!(outcome.top(), Item::Map(_)) {
                    return Err(self.not_understood("a transaction's results were expected", &body));
                }
                let results = outcome.into_member("Results");
                let is_list = |results: &Tape| matches!(results.top(), Item::List(_));
                Ok(results.filter(is_list).unwrap_or_else(Tape::empty_list))
            }
            Reply::KvValue => {
                let entries = json(Base64::InEntries)?;
                let entry = entries
                    .into_first()
                    .ok_or_else(|| self.not_understood("a list was expected", &body))?;
                if entry.top() == Item::Null {
                    return Ok(entry);
                }
                let meta = EntryMeta::of(&entry)
                    .ok_or_else(|| self.not_understood("an entry was expected", &body))?;
                self.meta.entry = Some(meta);
                Ok(entry.into_member("Value").unwrap_or_else(|| Tape::of_bytes(Bytes::new())))
            }
        }
    }

    fn not_understood(&self, why: &str, body: &Bytes) -> Error {
        not_understood(self.endpoint, &self.label, why, body)
    }
}

fn not_understood(endpoint: &Endpoint, label: &str, why: &str, body: &Bytes) -> Error {
    // Answers about tokens have secrets in them.
    let begins = match endpoint.path.starts_with("/v1/acl/") {
        true => String::new(),
        false => format!("; it begins {}", excerpt(body)),
    };
    Error::new(Kind::Decode, format!("{label}: the answer is not what Consul sends: {why}{begins}"))
}

impl Request {
    /// The error that a status other than success means.
    fn refused(&self, response: &Response<Bytes>) -> Error {
        let status = response.status().as_u16();
        let text = String::from_utf8_lossy(response.body());
        let text = text.trim();
        if let (409, Reply::Txn) = (status, self.endpoint.reply) {
            return self.txn_refused(response.body());
        }
        let kind = match self.misses_acl_object(response, text) {
            true => Kind::NotFound,
            false => self.kind_of(status, text, is_unknown_endpoint(response)),
        };
        let said = match (kind, text) {
            (Kind::Unsupported, _) if status == 404 => match self.endpoint.since {
                Some(version) => {
                    format!("this server does not know it; it came with Consul {version}")
                }
                None => "this server does not know it".to_owned(),
            },
            (Kind::SessionInvalid, "") => "the session does not exist".to_owned(),
            _ if response.status().is_redirection() => redirection(response.headers()),
            (_, "") => response.status().canonical_reason().unwrap_or("no reason given").to_owned(),
            _ => excerpt(response.body()),
        };
        let error = Error::new(kind, format!("{}: {said} (HTTP {status})", self.label))
            .with_status(status)
            .with_maybe_applied(maybe_applied(status, text));
        if is_transient(status, text) { error.transient() } else { error }
    }

    /// Whether a refusal means that the token or policy that the call names does not exist, and not
    /// the token that the call is made with. Newer servers say which one it is. 1.8.7 has the same
    /// words for both, but knows its leader only when it got as far as to look for the object.
    fn misses_acl_object(&self, response: &Response<Bytes>, text: &str) -> bool {
        let names_one = !self.endpoint.positional.is_empty();
        let has_looked =
            response.headers().get("x-consul-knownleader").is_some_and(|known| known == "true");
        names_one
            && response.status() == StatusCode::FORBIDDEN
            && (text.contains("does not exist: ACL not found")
                || has_looked && text == "ACL not found")
    }

    fn kind_of(&self, status: u16, text: &str, unknown_endpoint: bool) -> Kind {
        let says = |words: &[&str]| contains_any(text, words);
        match status {
            // How servers written in Go answer on a port for TLS.
            400 if says(&["HTTP request to an HTTPS server"]) => Kind::Tls,
            300..=400 => Kind::Argument,
            401 | 405 => Kind::Unsupported,
            403 | 500 if says(&["ACL not found"]) => Kind::AclNotFound,
            403 => Kind::PermissionDenied,
            404 if unknown_endpoint => Kind::Unsupported,
            404 if self.endpoint.absent == Absent::SessionInvalid => Kind::SessionInvalid,
            404 => Kind::NotFound,
            413 => Kind::TooLarge,
            429 => Kind::RateLimited,
            503 if says(&[RATE_LIMITED]) => Kind::RateLimited,
            500 if says(NO_LEADER) => Kind::NoLeader,
            500 if says(&[NO_SERVERS]) => Kind::Connect,
            500 if says(&["invalid session", "missing session", "failed session lookup"]) => {
                Kind::SessionInvalid
            }
            // How 1.8.7 says what newer servers say with 404.
            500 if says(&["Cannot find token", "cannot find policy", "cannot find role"]) => {
                Kind::NotFound
            }
            500 if says(&["does not have associated TTL", "Unknown check", "Unknown service"])
                || text.starts_with("ServiceID ") && text.ends_with("does not exist") =>
            {
                Kind::NotFound
            }
            _ => Kind::Http,
        }
    }

    fn txn_refused(&self, body: &Bytes) -> Error {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Refusal {
            errors: Option<Vec<Refused>>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Refused {
            op_index: usize,
            what: String,
        }
        let refused: Vec<RefusedOperation> = match serde_json::from_slice::<Refusal>(body) {
            Ok(refusal) => refusal.errors.unwrap_or_default(),
            Err(error) => {
                return not_understood(self.endpoint, &self.label, &error.to_string(), body);
            }
        }
        .into_iter()
        .map(|refused| RefusedOperation { index: refused.op_index, what: refused.what })
        .collect();
        let reasons: Vec<_> = refused
            .iter()
            .map(|refused| format!("operation {}: {}", refused.index + 1, refused.what))
            .collect();
        let message = format!("{}: nothing was applied: {}", self.label, reasons.join("; "));
        Error::new(Kind::TxnFailed, message)
            .with_status(409)
            .with_maybe_applied(false)
            .with_refused(refused)
    }
}

/// How long the server wants to be left alone, when it refuses a request for now and says so.
///
/// Consul says nothing; what stands before it may. A date is not understood.
pub fn retry_after(response: &Response<Bytes>) -> Duration {
    if response.status().is_success() {
        return Duration::ZERO;
    }
    let header = response.headers().get(header::RETRY_AFTER);
    let seconds = header.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// What a redirect says, without the query, which can hold what no message may show.
fn redirection(headers: &HeaderMap) -> String {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let aim = match location.and_then(|location| location.split('?').next()) {
        Some(path) => excerpt(path.as_bytes()),
        None => "another path".to_owned(),
    };
    format!("the server redirects to {aim}, which is not followed")
}

/// Whether a 404 means that the server has no such endpoint. 1.8.7 says it with an empty answer
/// that lacks the header `Vary`, which every endpoint that it knows sends.
fn is_unknown_endpoint(response: &Response<Bytes>) -> bool {
    response.status() == StatusCode::NOT_FOUND
        && (response.body().starts_with(b"Invalid URL path")
            || response.body().is_empty() && !response.headers().contains_key(header::VARY))
}

/// What a server says when it has no leader to pass the request on to, or is a leader no more or
/// not yet. The request changed nothing.
///
/// Source: `canRetry` in Consul's agent/consul/rpc.go ("always safe to retry since no state could
/// have been changed"), agent/structs/errors.go, and `ErrNotLeader` in Raft's api.go.
const NO_LEADER: &[&str] = &[
    "No cluster leader",
    "Raft leader not found",
    "node is not the leader",
    "leadership transfer in progress",
    "Not ready to serve consistent reads",
];

/// What an agent says that has lost all servers. The request changed nothing.
const NO_SERVERS: &str = "No known Consul servers";

/// What a server says that limits its rate, with 429, and with 503 for what only the leader can do.
/// The request changed nothing.
///
/// Source: `ErrRetryElsewhere` and `ErrRetryLater` in Consul's agent/consul/rate/handler.go.
const RATE_LIMITED: &str = "rate limit exceeded";

/// What an agent says that could not reach the server that it would have asked. The request changed
/// nothing.
///
/// Source: `ConnPool.rpc` in Consul's agent/pool/pool.go.
const NOT_PASSED_ON: &str = "rpc error getting client";

/// What leaves open whether the request took effect.
const LOST_TRACK: &[&str] = &["leadership lost while committing log", "rpc error"];

/// Whether the same request may succeed a little later.
///
/// The texts are matched by containing: newer servers put words before them.
fn is_transient(status: u16, text: &str) -> bool {
    match status {
        429 | 502 | 503 | 504 => true,
        500 => {
            text.contains(NO_SERVERS)
                || contains_any(text, NO_LEADER)
                || contains_any(text, LOST_TRACK)
        }
        _ => false,
    }
}

/// Whether a request that was refused like this can have taken effect all the same.
fn maybe_applied(status: u16, text: &str) -> bool {
    match status {
        500 if text.contains("leadership lost") => true,
        500 => {
            let nothing_done = [NO_SERVERS, NOT_PASSED_ON, "invalid session", "missing session"];
            !contains_any(text, NO_LEADER) && !contains_any(text, &nothing_done)
        }
        503 => !text.contains(RATE_LIMITED),
        _ => status > 500,
    }
}

fn contains_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

/// The beginning of a body as one line of a message.
fn excerpt(body: &[u8]) -> String {
    const SHOWN_CHARS: usize = 300;
    let text = String::from_utf8_lossy(body);
    let line: Vec<&str> = text.split_whitespace().collect();
    let line = line.join(" ");
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::super::endpoint;
    use super::super::request::{Args, Defaults};
    use super::*;

    fn request(method: &str) -> Request {
        let row = endpoint(method).expect("the method exists");
        let args = row.positional.iter().filter(|param| !param.optional).fold(
            Args::new(),
            |args, param| match param.kind {
                super::super::table::Shape::Objects(_) => args.arg(Value::List(Vec::new())),
                super::super::table::Shape::Object(_) => args.arg(Value::Map(Vec::new())),
                _ => args.arg("a"),
            },
        );
        row.request(&args, &Defaults::default()).expect("the arguments are good")
    }

    fn respond(method: &str, status: u16, body: &str) -> Result<Answer, Error> {
        let response = Response::builder()
            .status(status)
            .header("vary", "Accept-Encoding")
            .body(Bytes::copy_from_slice(body.as_bytes()))
            .expect("a response");
        request(method).check(response)?.answer()
    }

    #[test]
    fn an_error_has_its_kind_on_both_versions() {
        for (method, status, body, kind) in [
            ("kv_put", 400, "Missing key name", Kind::Argument),
            ("acl_token_list", 401, "ACL support disabled", Kind::Unsupported),
            ("kv_get", 403, "ACL not found", Kind::AclNotFound),
            ("acl_token_read", 403, "token does not exist: ACL not found", Kind::NotFound),
            ("acl_token_self", 403, "token does not exist: ACL not found", Kind::AclNotFound),
            ("acl_token_read", 403, "ACL not found", Kind::AclNotFound),
            ("acl_token_update", 500, "Cannot find token \"x\"", Kind::NotFound),
            ("acl_policy_update", 500, "cannot find policy x", Kind::NotFound),
            ("event_fire", 500, "ACL not found", Kind::AclNotFound),
            ("kv_get", 403, "Permission denied: anonymous token lacks …", Kind::PermissionDenied),
            ("agent_check_pass", 404, "Unknown check ID \"x\"", Kind::NotFound),
            ("agent_check_pass", 500, "CheckID \"x\" does not have associated TTL", Kind::NotFound),
            ("session_renew", 404, "Session id 'x' not found", Kind::SessionInvalid),
            ("session_renew", 500, "failed session lookup: index error", Kind::SessionInvalid),
            ("kv_put", 500, "raft apply failed: invalid session \"x\"", Kind::SessionInvalid),
            ("kv_put", 500, "invalid session \"x\"", Kind::SessionInvalid),
            ("kv_put", 413, "Request body(1) too large", Kind::TooLarge),
            (
                "kv_get",
                429,
                "Your IP is issuing too many concurrent connections",
                Kind::RateLimited,
            ),
            ("kv_get", 500, "No cluster leader", Kind::NoLeader),
            ("kv_get", 500, "No known Consul servers", Kind::Connect),
            ("kv_put", 503, "rate limit exceeded for operation …", Kind::RateLimited),
            ("kv_get", 500, "something else", Kind::Http),
            (
                "kv_get",
                404,
                "Invalid URL path: not a recognized HTTP API endpoint",
                Kind::Unsupported,
            ),
            ("kv_put", 307, "", Kind::Argument),
        ] {
            let error = respond(method, status, body).unwrap_err();
            assert_eq!(error.kind(), kind, "{method} {status} {body}");
            assert_eq!(error.status(), Some(status));
            assert!(error.message().starts_with(method), "{error}");
        }
    }

    #[test]
    fn a_missing_policy_is_told_from_a_missing_token_on_1_8() {
        for (known_leader, kind) in [("true", Kind::NotFound), ("false", Kind::AclNotFound)] {
            let response = Response::builder()
                .status(403)
                .header("x-consul-knownleader", known_leader)
                .body(Bytes::from_static(b"ACL not found"))
                .expect("a response");
            let error = request("acl_policy_read").check(response).unwrap_err();
            assert_eq!(error.kind(), kind);
        }
    }

    #[test]
    fn an_answer_about_tokens_is_never_shown() {
        let error = respond("acl_token_self", 200, r#"{"SecretID": "s3cret""#).unwrap_err();
        assert!(!error.message().contains("s3cret"), "{error}");
    }

    #[test]
    fn a_refusal_says_whether_it_may_pass_and_whether_the_request_can_have_been_applied() {
        for (status, body, transient, maybe_applied) in [
            (500, "No cluster leader", true, false),
            (500, "rpc error making call: No cluster leader", true, false),
            (500, "Raft leader not found in server lookup mapping", true, false),
            (500, "node is not the leader", true, false),
            (500, "Not ready to serve consistent reads", true, false),
            (500, "raft apply failed: leadership lost while committing log", true, true),
            (500, "rpc error making call: leadership lost while committing log", true, true),
            (500, "rpc error making call: EOF", true, true),
            (500, "rpc error getting client: failed to get conn: refused", true, false),
            (500, "No known Consul servers", true, false),
            (429, "Your IP is issuing too many concurrent connections", true, false),
            (503, "rate limit exceeded for operation that can only be …", true, false),
            (503, "", true, true),
            (502, "<html>Bad Gateway</html>", true, true),
            (504, "", true, true),
            (500, "Failed to create boolean expression evaluator: …", false, true),
            (500, "raft apply failed: invalid session \"x\"", false, false),
            (403, "Permission denied", false, false),
            (400, "Invalid wait time", false, false),
        ] {
            let error = respond("kv_put", status, body).unwrap_err();
            assert_eq!(error.retryable(), transient, "{status} {body}");
            assert_eq!(error.maybe_applied(), maybe_applied, "{status} {body}");
        }
        let lost = respond("kv_put", 200, "false").unwrap_err();
        assert!(!lost.maybe_applied() && !lost.retryable());
    }

    #[test]
    fn a_web_page_is_neither_a_success_without_a_value_nor_an_absent_key() {
        for (method, status) in [("agent_service_register", 200), ("kv_get", 404)] {
            let page = Response::builder()
                .status(status)
                .header("content-type", "text/html; charset=utf-8")
                .body(Bytes::from_static(b"<html>Please log in</html>"))
                .expect("a response");
            let error = request(method).check(page).unwrap_err();
            assert_eq!(error.kind(), Kind::Decode);
            assert!(error.message().contains("Please log in"), "{error}");
        }
    }

    #[test]
    fn an_answer_that_is_not_consuls_is_told_by_its_beginning() {
        for (method, body) in [
            ("kv_get", "<html>It works!</html>"),
            (
                "kv_get",
                r#"[{"Key":"a","Value":"%%%","Flags":0,"LockIndex":0,"CreateIndex":1,"ModifyIndex":1}]"#,
            ),
            ("kv_list", r#"[{"Key":"a","Value":"%%%"}]"#),
            ("kv_put", "maybe"),
            ("session_create", "{}"),
            ("catalog_nodes", "[{"),
            ("txn", "[]"),
        ] {
            let error = respond(method, 200, body).unwrap_err();
            assert_eq!(error.kind(), Kind::Decode, "{method} {body}");
            assert!(error.message().contains(&body[..2]), "{error}");
        }
    }

    #[test]
    fn agent_health_is_data_whatever_its_status() {
        for status in [200, 429, 503] {
            let body = r#"{"AggregatedStatus":"warning"}"#;
            let answer = respond("agent_health_service_id", status, body).unwrap();
            assert_eq!(answer.value.get("AggregatedStatus"), Some(&"warning".into()));
        }
        assert_eq!(respond("agent_health_service_id", 404, "{}").unwrap().value, Value::Null);
    }

    #[test]
    fn large_integers_are_exact() {
        let answer =
            respond("catalog_nodes", 200, "[18446744073709551615, 9007199254740993]").unwrap();
        let wanted = Value::List(vec![Value::Uint(u64::MAX), Value::Int(9_007_199_254_740_993)]);
        assert_eq!(answer.value, wanted);
    }
}
