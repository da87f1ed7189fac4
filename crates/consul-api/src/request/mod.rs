//! Requests, from the arguments of a call.

mod args;
mod build;

pub use args::{Args, Defaults};

use super::api::kv;
use super::table::{Endpoint, Repeat};
use bytes::Bytes;
use http::Uri;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// How long Consul waits in a blocking query without `wait`.
///
/// Source: "Blocking Queries" in Consul's HTTP API reference.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(300);

/// A request with what the client needs to send it and to read its answer.
#[derive(Clone)]
pub struct Request {
    /// Its row.
    pub endpoint: &'static Endpoint,
    /// The method and its main argument, for messages: `kv_put "a/b"`.
    pub label: String,
    /// The request itself.
    pub http: http::Request<Bytes>,
    /// Whether it may be sent again if it is unknown whether it was applied.
    pub repeat: Repeat,
    /// The reason if Consul answers `false` to a request with a condition; `None`: it has none.
    pub guard: Option<&'static str>,
    /// The longest wait on the server before it answers, without its jitter.
    pub server_wait: Duration,
    /// The option `timeout_ms` of the call.
    pub timeout: Option<Duration>,
    /// Whether any server may answer if the leader does not.
    pub stale_if_error: bool,
    /// Its step on a lock, if its outcome may be looked up.
    pub lock_step: Option<LockStep>,
    /// Whether its answer can hold a secret, so that no message may quote it.
    pub secret: bool,
    /// Whether an answer with any status is a success, with status and headers as part of the value.
    pub full_response: bool,
}

/// Marks a request, as an extension of it, whose answer must keep the headers that the client does not read.
#[derive(Clone, Copy, Debug)]
pub struct AllHeaders;

/// The effect of a write on the lock of its key, with the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockStep {
    /// It acquires the lock.
    Acquire(String),
    /// It releases the lock.
    Release(String),
}

/// Without headers and body, which can hold secrets.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("label", &self.label)
            .field("method", self.http.method())
            .field("uri", self.http.uri())
            .field("repeat", &self.repeat)
            .finish_non_exhaustive()
    }
}

impl Request {
    /// Whether it waits for another state than its query names; also for requests to any path.
    pub fn waits_for_change(&self) -> bool {
        self.http.uri().query().unwrap_or_default().split('&').any(names_a_state)
    }

    /// The request to send after `waited` of the wait on the server is over; with `stale` as a stale
    /// read.
    pub fn to_send(&self, waited: Duration, stale: bool) -> http::Request<Bytes> {
        let mut http = self.http.clone();
        // Only whole milliseconds: a first attempt begins some microseconds after its call.
        let waited = Duration::from_millis(waited.as_millis() as u64);
        let waits_less = !waited.is_zero() && !self.server_wait.is_zero();
        if !waits_less && !stale {
            return http;
        }
        let target = self.http.uri();
        let pairs = target.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty());
        let mut query: Vec<Cow<'_, str>> = pairs.map(Cow::Borrowed).collect();
        if waits_less {
            query.retain(|pair| !pair.starts_with("wait="));
            match self.server_wait.saturating_sub(waited) {
                // Without a wait the answer is the same as at the end of a wait.
                Duration::ZERO => {
                    query.retain(|pair| !names_a_state(pair));
                }
                left => query.push(format!("wait={}ms", left.as_millis().max(1)).into()),
            }
        }
        if stale {
            query.push("stale".into());
        }
        *http.uri_mut() = with_query(target, &query.join("&"));
        http
    }

    /// The text of its path in place of its row's parameters, as it is sent and in plain text.
    pub fn subject(&self) -> Option<(String, String)> {
        let (before, _) = self.endpoint.path.split_once('{')?;
        let sent = self.http.uri().path().strip_prefix(before)?;
        Some((sent.to_owned(), percent_decode_str(sent).decode_utf8_lossy().into_owned()))
    }

    /// The linearizable read of the key of a [`LockStep`], which shows the holder of the lock.
    pub fn lock_lookup(&self) -> Request {
        const KEPT: &[&str] = &["dc=", "ns=", "partition="];
        let target = self.http.uri();
        let pairs = target.query().unwrap_or("").split('&');
        let kept = pairs.filter(|pair| KEPT.iter().any(|name| pair.starts_with(name)));
        let query: Vec<&str> = std::iter::once("consistent").chain(kept).collect();
        let mut http = http::Request::new(Bytes::new());
        *http.headers_mut() = self.http.headers().clone();
        *http.uri_mut() = with_query(target, &query.join("&"));
        Request {
            endpoint: &kv::GET,
            label: self.label.clone(),
            http,
            repeat: Repeat::Read,
            guard: None,
            server_wait: Duration::ZERO,
            timeout: None,
            stale_if_error: false,
            lock_step: None,
            secret: kv::GET.secret,
            full_response: false,
        }
    }
}

/// Whether a parameter of a query makes it a blocking one.
fn names_a_state(pair: &str) -> bool {
    pair.starts_with("index=") || pair.starts_with("hash=")
}

fn with_query(target: &Uri, query: &str) -> Uri {
    let mark = if query.is_empty() { "" } else { "?" };
    // A target built from the parts of a valid one is valid.
    format!("{}{mark}{query}", target.path()).parse().unwrap_or_else(|_| target.clone())
}

#[cfg(test)]
mod bodies;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod tests;
