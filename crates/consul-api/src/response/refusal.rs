//! Errors of Consul: their kind, whether a retry can help, and whether the request was applied.

use super::{BEGINNING, beginning, excerpt};
use crate::error::{Error, Kind, RefusedOperation};
use crate::request::Request;
use crate::response::Meta;
use crate::table::{Absent, Reply, Shape};
use crate::value::shape::is_printable;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;

impl Request {
    /// The error of an answer that is not a success.
    pub(super) fn refused(&self, response: &Response<Bytes>) -> Error {
        let status = response.status().as_u16();
        let text = String::from_utf8_lossy(beginning(response.body()));
        let text = text.trim();
        if let (409, Reply::Txn) = (status, self.endpoint.reply) {
            return self.txn_refused(response.body());
        }
        if let Some(scheme) = response.headers().get(header::WWW_AUTHENTICATE)
            && status == 401
        {
            let is_basic = scheme.as_bytes().to_ascii_lowercase().starts_with(b"basic");
            let hint = if is_basic { " (set http_auth)" } else { "" };
            let why = format!("a proxy before Consul demands credentials{hint}");
            let error =
                Error::new(Kind::PermissionDenied, format!("{}: {why} (HTTP 401)", self.label));
            return error.with_status(status).with_maybe_applied(false);
        }
        if response.status().is_success()
            || status == 404 && self.is_anothers(response)
            || self.is_foreign(response, text)
        {
            if response.status().is_redirection() {
                return self.strange(redirection(response.headers())).with_status(status);
            }
            let why = format!("Consul does not answer so (HTTP {status})");
            return self.not_understood(&why, response.body()).with_status(status);
        }
        let kind = match self.misses_acl_object(response, text) {
            true => Kind::NotFound,
            false => self.kind_of(status, text, self.is_unknown_endpoint(response)),
        };
        let said = match (kind, text) {
            (Kind::Unsupported, _) if status == 404 => match self.endpoint.since {
                Some(version) => {
                    format!("the server does not support it; it requires Consul {version}")
                }
                None if !self.http.uri().path().starts_with("/v1/") => {
                    "the server does not support it: the paths of Consul's API begin with /v1/"
                        .to_owned()
                }
                None => "the server does not support it".to_owned(),
            },
            (Kind::SessionInvalid, "") => "the session does not exist".to_owned(),
            _ if response.status().is_redirection() => redirection(response.headers()),
            _ if text.is_empty() || self.secret && !is_plain(response.body()) => {
                response.status().canonical_reason().unwrap_or("no reason").to_owned()
            }
            (Kind::NotFound, _) if is_unknown_check(text) && !self.label.contains("service:") => {
                let said = self.shown(response.body());
                format!(
                    "{said} (the own check of a service has the id \"service:<id of the service>\")"
                )
            }
            _ => self.shown(response.body()),
        };
        let error = Error::new(kind, format!("{}: {said} (HTTP {status})", self.label))
            .with_status(status)
            .with_maybe_applied(maybe_applied(status, text) || is_stray(response, kind));
        match is_transient(status, text) && kind != Kind::NotFound {
            true => error.retryable(),
            false => error,
        }
    }

    /// Whether a 404 is neither about an object that does not exist nor about an endpoint that does not.
    fn is_anothers(&self, response: &Response<Bytes>) -> bool {
        // A path without a row may say anything.
        let is_raw = self.endpoint.reply == Reply::Body;
        !is_raw && !self.is_missing(response) && !self.is_unknown_endpoint(response)
    }

    /// Whether what has another status than 404 and a success is another program's: Consul's errors are plain text, it has
    /// few statuses, and its redirects clean a path.
    ///
    /// Source: `wrap` in Consul's agent/http.go, and the other places in the folder agent that set a status.
    fn is_foreign(&self, response: &Response<Bytes>, text: &str) -> bool {
        // A path without a row may say anything; one with a row was checked by that.
        if self.endpoint.reply == Reply::Body {
            return false;
        }
        if response.status().is_redirection() {
            return !self.is_cleaned(response.headers());
        }
        let begins = |words: &[&str]| words.iter().any(|word| text.starts_with(word));
        match response.status().as_u16() {
            // So Consul refuses a path that cannot be printed, which http_request may have.
            400 if text.is_empty() => self.has_printable_path(),
            // And so a query that Go cannot read.
            500 if text.is_empty() => self.has_readable_query(),
            400 | 413 | 415 | 500 => text.is_empty() || is_page(text),
            // Of Go's server.
            431 => !begins(&["431 "]),
            401 => !begins(UNAUTHORIZED),
            403 => is_page(text) || !contains_any(&text.to_lowercase(), FORBIDDEN),
            405 => !begins(&["method "]),
            404 => false,
            status => !is_transient(status, text),
        }
    }

    fn has_printable_path(&self) -> bool {
        let path = percent_decode_str(self.http.uri().path()).decode_utf8_lossy();
        is_printable(&path)
    }

    fn has_readable_query(&self) -> bool {
        let query = self.http.uri().query().unwrap_or_default();
        let mut escapes = query.split('%').skip(1).map(|it| it.as_bytes());
        let is_hex =
            |digits: Option<&[u8]>| digits.is_some_and(|it| it.iter().all(u8::is_ascii_hexdigit));
        !query.contains(';') && escapes.all(|escape| is_hex(escape.get(..2)))
    }

    /// Whether a redirect leads to the request's own path without its empty segments and dots.
    ///
    /// Source: `cleanPath` in Go's net/http/server.go; Consul has no other redirect within its API.
    fn is_cleaned(&self, headers: &HeaderMap) -> bool {
        let decoded = |path: &str| percent_decode_str(path).decode_utf8_lossy().into_owned();
        let asked = decoded(self.http.uri().path());
        redirected_to(headers).map(decoded).is_some_and(|to| to != asked && to == cleaned(&asked))
    }

    /// The beginning of an error of Consul, without the secrets of the request.
    pub(super) fn shown(&self, body: &[u8]) -> String {
        self.without_secrets(body, false)
    }

    /// The beginning of what another program has answered, without the texts of the request's body either: that program may
    /// show all of the request.
    pub(super) fn shown_of_another(&self, body: &[u8]) -> String {
        self.without_secrets(body, true)
    }

    fn without_secrets(&self, body: &[u8], hides_texts: bool) -> String {
        let text = before_headers(String::from_utf8_lossy(beginning(body)).into_owned());
        let sent = self.sent();
        let mut found = Sent::default();
        found.read(&sent, self.endpoint.path == "/v1/operator/keyring");
        let mut hidden = Hidden::default();
        for secret in found.secrets {
            hidden.add(secret, true);
        }
        let values = self.http.headers().values().filter(|value| value.is_sensitive());
        for value in values.filter_map(|value| value.to_str().ok()) {
            hidden.add(value.trim_start_matches("Basic ").trim_start_matches("Bearer "), true);
        }
        let query = self.http.uri().query().unwrap_or_default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            if is_secret(name) {
                hidden.add(value, true);
                hidden.add(&percent_decode_str(value).decode_utf8_lossy(), true);
            }
        }
        // The value of a key, for example.
        if self.endpoint.positional.iter().any(|param| matches!(param.kind, Shape::Payload)) {
            hidden.add(&String::from_utf8_lossy(self.http.body()), hides_texts);
        }
        for other in found.others.into_iter().filter(|_| hides_texts) {
            hidden.add(other, true);
        }
        let text = hidden.removed_from(&text);
        // Where a long answer is cut, a secret can be cut too.
        if body.len() > BEGINNING && text.len() < BEGINNING / 2 {
            return HIDDEN.to_owned();
        }
        excerpt(text.as_bytes())
    }

    /// Whether an answer says that the object does not exist, as the row declares it.
    pub(super) fn is_missing(&self, response: &Response<Bytes>) -> bool {
        if response.status() != StatusCode::NOT_FOUND {
            return false;
        }
        // The reason of an answer with another status than 200 and JSON.
        let reason = response.headers().get("x-consul-reason").map(HeaderValue::as_bytes);
        let text = String::from_utf8_lossy(reason.unwrap_or(response.body()));
        let text = text.trim_start();
        match (text.is_empty(), self.endpoint.missing_header) {
            (true, Some("x-consul-index")) => Meta::of(response.headers()).index.is_some(),
            (true, Some(header)) => response.headers().contains_key(header),
            (true, None) => false,
            (false, _) => self.says_missing(text),
        }
    }

    /// Whether this is one of the texts of the row for an object that does not exist.
    fn says_missing(&self, text: &str) -> bool {
        // An agent that is not a server says so before the text of the server, and that one of another datacenter's.
        let text = text.trim_start_matches("rpc error making call: ");
        // 1.8.7 and newer servers begin some of them with different letters.
        let says = |begin: &&str| {
            let begins = text.get(..begin.len()).is_some_and(|it| it.eq_ignore_ascii_case(begin));
            begins && (!names_one(begin, &text[begin.len()..]) || self.is_named(text))
        };
        self.endpoint.missing.iter().any(says)
    }

    /// Whether a text names what the path has in place of the row's parameters.
    fn is_named(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let mut names = self.endpoint.segments(self.http.uri().path());
        names.all(|(_, name)| {
            let name = percent_decode_str(name).decode_utf8_lossy().to_lowercase();
            let is_part = |c: char| c.is_alphanumeric() || "-_.:".contains(c);
            // Others are written with escapes.
            !name.chars().all(is_part)
                || text.match_indices(&name).any(|(at, _)| {
                    let (before, after) = (&text[..at], &text[at + name.len()..]);
                    !before.ends_with(is_part) && !after.starts_with(is_part)
                })
        })
    }

    /// Whether a 404 means that the server has no such endpoint. 1.8.7 then sends an empty answer without the header
    /// `Vary`, which all of its endpoints send; an answer with an index is from an endpoint.
    fn is_unknown_endpoint(&self, response: &Response<Bytes>) -> bool {
        response.status() == StatusCode::NOT_FOUND
            && (response.body().starts_with(b"Invalid URL path")
                || !self.endpoint.is_in_every_release()
                    && response.body().is_empty()
                    && !response.headers().contains_key(header::VARY)
                    && !response.headers().contains_key("x-consul-index")
                    // Consul sends none: Envoy, which has no route.
                    && !response.headers().contains_key(header::SERVER))
    }

    /// Whether the token or policy that the call names does not exist, rather than the caller's token.
    /// Newer servers say which. 1.8.7 has the same text for both, but sends the header about its leader
    /// only after it has looked for the object.
    fn misses_acl_object(&self, response: &Response<Bytes>, text: &str) -> bool {
        let names_one = self.endpoint.needs_acl && !self.endpoint.positional.is_empty();
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
            // The answer of servers written in Go to plain HTTP on a TLS port.
            400 if says(&["HTTP request to an HTTPS server"]) => Kind::Tls,
            300..=400 => Kind::Argument,
            401 | 405 => Kind::Unsupported,
            403 | 500 if says(&["ACL not found"]) => Kind::AclNotFound,
            403 if says(&[UNKNOWN_IDENTITY]) => Kind::Connect,
            403 => Kind::PermissionDenied,
            404 if unknown_endpoint => Kind::Unsupported,
            404 if self.endpoint.absent == Absent::SessionInvalid => Kind::SessionInvalid,
            404 => Kind::NotFound,
            413 | 431 => Kind::TooLarge,
            429 => Kind::RateLimited,
            503 if says(&[RATE_LIMITED]) => Kind::RateLimited,
            500 if says(NO_LEADER) => Kind::NoLeader,
            500 if says(&[NO_SERVERS]) => Kind::Connect,
            500 if says(&["invalid session", "missing session", "failed session lookup"]) => {
                Kind::SessionInvalid
            }
            500 if says(&[BAD_KEY]) => Kind::Argument,
            // Where newer servers answer with 404; of updates they too.
            500 if self.says_missing(text) => Kind::NotFound,
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
        let sent = self.sent();
        let is_of_these = |refused: &[Refused]| {
            !refused.is_empty() && refused.iter().all(|it| sent.get(it.op_index).is_some())
        };
        let refused = match serde_json::from_slice::<Refusal>(body) {
            Ok(Refusal { errors: Some(refused) }) if is_of_these(&refused) => refused,
            Ok(_) => return self.not_understood("expected its errors", body).with_status(409),
            Err(error) => return self.not_understood(&error.to_string(), body).with_status(409),
        };
        let refused: Vec<RefusedOperation> = refused
            .into_iter()
            .map(|refused| RefusedOperation { index: refused.op_index, what: refused.what })
            .collect();
        let reasons: Vec<_> = refused
            .iter()
            .map(|refused| {
                let lacking = self.lacking_permission(refused).unwrap_or_default();
                format!("operation {}: {}{lacking}", refused.index + 1, refused.what)
            })
            .collect();
        let message = format!("{}: nothing was applied: {}", self.label, reasons.join("; "));
        let is_denied = refused.iter().any(|refused| refused.what.starts_with(DENIED));
        let kind = if is_denied { Kind::PermissionDenied } else { Kind::TxnFailed };
        Error::new(kind, message).with_status(409).with_maybe_applied(false).with_refused(refused)
    }
}

/// The beginning of the reason if the token lacks a permission; older servers say nothing else.
const DENIED: &str = "Permission denied";

impl Request {
    /// The permission that an operation of this transaction was refused for, if the server does not
    /// name it.
    ///
    /// Source: `kvsPreApply`, `vetNodeTxnOp` and `vetServiceTxnOp` in Consul's agent/consul.
    fn lacking_permission(&self, refused: &RefusedOperation) -> Option<String> {
        if refused.what != DENIED {
            return None;
        }
        let operations = self.sent();
        let (area, operation) = operations.get(refused.index)?.as_object()?.iter().next()?;
        let (resource, name) = match area.as_str() {
            "KV" => ("key", operation.get("Key")?),
            "Node" => ("node", operation.get("Node")?.get("Node")?),
            "Service" => ("service", operation.get("Service")?.get("Service")?),
            _ => return None,
        };
        let level = match operation.get("Verb")?.as_str()? {
            "get" | "get-or-empty" | "get-tree" | "check-session" | "check-index" => "read",
            _ => "write",
        };
        Some(format!(": the token lacks permission '{resource}:{level}' on {name}"))
    }
}

/// Whether an agent has no check of the id, or none that a program updates.
fn is_unknown_check(text: &str) -> bool {
    contains_any(text, &["does not have associated TTL", "Unknown check"])
}

/// Whether a text that begins so names the object: `Unknown check ID "a"`, `unknown service ID: a`.
fn names_one(begin: &str, rest: &str) -> bool {
    begin.ends_with([' ', '\'', '"']) || rest.contains(['\'', '"'])
}

/// The header of the token, as a program that repeats a request writes it.
const TOKEN: &str = "x-consul-token";

/// The text in place of a secret.
const HIDDEN: &str = "<hidden>";

/// The least characters of a text that can be a secret, and whose removal leaves a message that can be read.
const LEAST_SECRET: usize = 4;

/// The parts that are removed from a text.
#[derive(Default)]
struct Hidden(BTreeSet<String>);

impl Hidden {
    /// The most bytes of a value that are looked for: a program that repeats a long one begins with its beginning.
    const LOOKED_FOR: usize = 4096;

    /// The most texts that are looked for.
    const MOST: usize = 1000;

    /// Adds a value, as it is and as JSON, a URL and HTML have it; `in_parts`: also its parts of characters that are written
    /// so everywhere.
    fn add(&mut self, value: &str, in_parts: bool) {
        let mut end = value.len().min(Self::LOOKED_FOR);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = &value[..end];
        let in_json = serde_json::to_string(value).unwrap_or_default();
        let in_url = utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
        let in_html = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let quoted = [("&quot;", "&#39;"), ("&#34;", "&#x27;")]
            .map(|(two, one)| in_html.replace('"', two).replace('\'', one));
        let forms = [value, &in_json[1..in_json.len().saturating_sub(1).max(1)], &in_url];
        let is_plain = |c: char| c.is_alphanumeric() || "_-.".contains(c);
        let parts = value.split(|c| !is_plain(c)).filter(|_| in_parts);
        let all = forms.into_iter().chain(quoted.iter().map(String::as_str)).chain(parts);
        for form in all.filter(|form| form.len() >= LEAST_SECRET) {
            if self.0.len() < Self::MOST {
                self.0.insert(form.to_owned());
            }
        }
    }

    /// A text with a mark in the place of each.
    fn removed_from(&self, text: &str) -> String {
        let mut is_hidden = vec![false; text.len()];
        for hidden in &self.0 {
            for (at, found) in text.match_indices(hidden) {
                is_hidden[at..at + found.len()].fill(true);
            }
        }
        let mut shown = String::with_capacity(text.len());
        let mut was_hidden = false;
        for (at, c) in text.char_indices() {
            match (is_hidden[at], was_hidden) {
                (false, _) => shown.push(c),
                (true, false) => shown.push_str(HIDDEN),
                (true, true) => {}
            }
            was_hidden = is_hidden[at];
        }
        shown
    }
}

/// A text up to where it repeats a header with a secret of the request, in whatever form.
fn before_headers(mut text: String) -> String {
    let lower = text.to_ascii_lowercase();
    let authorization = lower.match_indices("authorization").map(|(at, name)| at + name.len());
    // Not the word in a sentence.
    let is_name = |end: &usize| lower[*end..].starts_with([':', '"', '\'', '=', '<', '\\', '[']);
    let token = lower.find(TOKEN).map(|at| at + TOKEN.len());
    if let Some(end) = token.into_iter().chain(authorization.filter(is_name)).min() {
        text.truncate(end);
        text.push(' ');
        text.push_str(HIDDEN);
    }
    text
}

/// The strings in a request's body.
#[derive(Default)]
struct Sent<'a> {
    /// Those whose names say that they are secrets.
    secrets: Vec<&'a str>,
    others: Vec<&'a str>,
}

impl<'a> Sent<'a> {
    fn read(&mut self, value: &'a serde_json::Value, is_within_secret: bool) {
        match value {
            serde_json::Value::Array(items) => {
                items.iter().for_each(|item| self.read(item, is_within_secret));
            }
            serde_json::Value::Object(members) => {
                for (name, member) in members {
                    self.read(member, is_within_secret || is_secret(name));
                }
            }
            serde_json::Value::String(text) if is_within_secret => self.secrets.push(text),
            serde_json::Value::String(text) => self.others.push(text),
            _ => {}
        }
    }
}

/// Whether the name of a member or a parameter says that its value is a secret.
fn is_secret(name: &str) -> bool {
    const ENDS: [&str; 8] =
        ["token", "secret", "secretid", "password", "privatekey", "jwt", "key", "auth"];
    let name = name.to_lowercase();
    // Of a key in a transaction.
    name != "key" && ENDS.iter().any(|end| name.ends_with(end))
}

/// The header `Retry-After` of a failure, in seconds; a date is ignored. Proxies send it, not Consul.
pub fn retry_after(response: &Response<Bytes>) -> Duration {
    if response.status().is_success() {
        return Duration::ZERO;
    }
    let header = response.headers().get(header::RETRY_AFTER);
    let seconds = header.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// The message about a redirect of Consul or etcd, without the query, a name and a password, which can be secrets.
pub fn redirection(headers: &HeaderMap) -> String {
    let target = redirected_to(headers);
    let is_api = |to: &str| to.contains("/v1/") || to.contains("/v3/");
    let leads_to_tls = target.is_some_and(|to| to.starts_with("https://") && is_api(to));
    let hint = if leads_to_tls { " (an endpoint with https:// is meant)" } else { "" };
    let target = match target {
        Some(target) => {
            // Also without a scheme, before a host.
            let slashes = target.find("//").filter(|at| !target[..*at].contains('/'));
            let (scheme, rest) = target.split_at(slashes.map_or(0, |at| at + 2));
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{:?}", excerpt(format!("{scheme}{host}{path}").as_bytes()))
        }
        None => "another path".to_owned(),
    };
    format!("the server redirects to {target}, which is not followed{hint}")
}

/// A path without empty segments and dots; a slash at its end stays.
fn cleaned(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let end = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}

/// Where a redirect leads, without the query.
fn redirected_to(headers: &HeaderMap) -> Option<&str> {
    let location = headers.get(header::LOCATION)?.to_str().ok()?;
    location.split(['?', '#']).next()
}

/// Texts of a server that has no leader to forward the request to, or that is not the leader any more or
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

/// The text of servers from 1.21.5 on for the names of keys that they do not take, each release with its own rule.
///
/// Source: `KVSEndpoint` in Consul's agent/kvs_endpoint.go.
const BAD_KEY: &str = "invalid key name";

/// The text of an agent that has no connection to any server. The request changed nothing.
const NO_SERVERS: &str = "No known Consul servers";

/// The part of a refusal by an agent that cannot ask the servers about a token, or by a server that cannot ask the
/// primary datacenter: it says nothing of the token's rights. The request changed nothing. 1.8 does not tell it from others.
///
/// Source: `missingIdentity` in `ResolveToken` in Consul's agent/consul/acl.go; measured on a client agent of
/// 1.21.0 without a server.
const UNKNOWN_IDENTITY: &str = "AccessorID 'primary-dc-down'";

/// The text of a server that limits the rate of requests, with status 429, or 503 if only the leader could
/// have served it. The request changed nothing.
///
/// Source: `ErrRetryElsewhere` and `ErrRetryLater` in Consul's agent/consul/rate/handler.go.
const RATE_LIMITED: &str = "rate limit exceeded";

/// The text of an agent that could not connect to the server that it selected. The request changed nothing.
///
/// Source: `ConnPool.rpc` in Consul's agent/pool/pool.go.
const NOT_FORWARDED: &str = "rpc error getting client";

/// How the texts of Consul's 401 begin.
const UNAUTHORIZED: &[&str] =
    &["ACL support disabled", "Supplied token does not exist", "Coordinate support disabled"];

/// Words in the texts of Consul's 403, in lower case.
const FORBIDDEN: &[&str] = &[
    "permission denied",
    "acl not found",
    "endpoint is blocked",
    "access is restricted",
    "invalid permissions",
    "a new peering token must be generated",
    "invalid peering",
];

/// Texts that leave open whether the request was applied.
const UNDECIDED: &[&str] = &["leadership lost while committing log", "rpc error"];

/// Whether the same request may succeed a little later. Newer servers put words before the texts.
///
/// Consul never sends 408, 425 and those from 520 on: proxies do that when they got no answer from it.
fn is_transient(status: u16, text: &str) -> bool {
    match status {
        408 | 425 | 429 | 502 | 503 | 504 | 520..=529 => true,
        403 => text.contains(UNKNOWN_IDENTITY),
        500 => {
            text.contains(NO_SERVERS)
                || contains_any(text, NO_LEADER)
                || contains_any(text, UNDECIDED)
        }
        _ => false,
    }
}

/// Whether a request can have been applied although it failed like this.
fn maybe_applied(status: u16, text: &str) -> bool {
    match status {
        500 => {
            let nothing_done =
                [NO_SERVERS, NOT_FORWARDED, BAD_KEY, "invalid session", "missing session"];
            !contains_any(text, NO_LEADER) && !contains_any(text, &nothing_done)
        }
        503 => !text.contains(RATE_LIMITED),
        // A proxy that got no answer in time says so too.
        408 => true,
        _ => status > 500,
    }
}

/// Whether a 400 was sent before Consul looked at a request, and perhaps not at this one: an answer that was left on a
/// connection. Consul's own have its headers.
fn is_stray(response: &Response<Bytes>, kind: Kind) -> bool {
    let is_consuls =
        |name: &HeaderName| *name == header::VARY || name.as_str().starts_with("x-consul-");
    response.status() == StatusCode::BAD_REQUEST
        && kind != Kind::Tls
        && !response.headers().keys().any(is_consuls)
}

/// Whether a text begins as a page or as JSON. Consul's may begin with a name in brackets or braces.
fn is_page(text: &str) -> bool {
    let mut chars = text.chars().filter(|it| !it.is_whitespace());
    match (chars.next(), chars.next()) {
        (Some('<'), _) | (Some('{' | '['), None) => true,
        (Some('{'), Some(next)) => next == '"' || next == '}',
        (Some('['), Some(next)) => next.is_ascii_digit() || "\"{[]-tfn".contains(next),
        _ => false,
    }
}

fn contains_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

/// Whether a body is plain text, as Consul's errors are. Anything else, such as JSON, can be an answer with
/// a wrong status.
fn is_plain(body: &[u8]) -> bool {
    let begins_as_json = body.trim_ascii().first().is_some_and(|byte| b"{[\"".contains(byte));
    str::from_utf8(body).is_ok_and(|text| !begins_as_json && !text.contains("-----BEGIN"))
}
