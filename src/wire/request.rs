//! From a call's arguments to a request.

use super::duration;
use super::kv;
use super::shape::{At, payload, unknown};
use super::table::{Endpoint, Param, Place, Repeat, Shape};
use super::value::Value;
use crate::error::Error;
use bytes::Bytes;
use http::Uri;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Everything but the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// A key's slashes separate segments for the server too.
const ESCAPED_IN_KEY: &AsciiSet = &ESCAPED.remove(b'/');

/// How long Consul waits in a blocking query that names no wait.
///
/// Source: "Blocking Queries" in Consul's HTTP API reference.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(300);

/// A call's arguments: positional ones, then options by name.
#[derive(Clone, Debug, Default)]
pub struct Args {
    positional: Vec<Value>,
    options: Vec<(Cow<'static, str>, Value)>,
}

impl Args {
    /// No arguments.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same arguments and one more positional one.
    pub fn arg(mut self, value: impl Into<Value>) -> Self {
        self.positional.push(value.into());
        self
    }

    /// The same arguments and one more option.
    pub fn opt(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        self.options.push((name.into(), value.into()));
        self
    }

    /// Takes out the options of these names, which belong to what makes the calls.
    ///
    /// # Errors
    /// [`Error::misuse`] for an option that is neither one of them nor the endpoint's.
    pub fn take(
        &mut self,
        own: &[&'static str],
        endpoint: &Endpoint,
    ) -> Result<Vec<(&'static str, Value)>, Error> {
        let mut taken = Vec::new();
        for (name, value) in std::mem::take(&mut self.options) {
            if let Some(own) = own.iter().find(|own| **own == name) {
                taken.push((*own, value));
            } else if endpoint.all_options().any(|param| param.name == name) {
                self.options.push((name, value));
            } else {
                let theirs = endpoint.all_options().map(|param| param.name);
                let known: Vec<_> = own.iter().copied().chain(theirs).collect();
                return Err(Error::misuse(unknown("option", &name, &known)));
            }
        }
        Ok(taken)
    }

    /// Whether the option was given.
    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(given, value)| given == name && *value != Value::Null)
    }
}

/// What a client adds to every request that does not say it itself.
#[derive(Clone, Default)]
pub struct Defaults {
    /// The value of the option `dc`.
    pub dc: Option<String>,
    /// The value of the option `namespace`.
    pub namespace: Option<String>,
    /// The value of the option `partition`.
    pub partition: Option<String>,
    /// The value of the option `token`.
    pub token: Option<String>,
    /// `stale` or `consistent`, for reads that take it.
    pub consistency: Option<&'static str>,
    /// The value of the option `stale_if_error`.
    pub stale_if_error: bool,
    /// Whether a key's leading slash is taken off instead of refused.
    pub strip_leading_slash: bool,
}

impl Defaults {
    fn of(&self, param: &Param, args: &Args) -> Option<Value> {
        let text = |text: &Option<String>| text.clone().map(Value::from);
        match param.name {
            "dc" => text(&self.dc),
            "namespace" => text(&self.namespace),
            "partition" => text(&self.partition),
            "token" => text(&self.token),
            "stale_if_error" => Some(Value::Bool(self.stale_if_error)),
            name if Some(name) == self.consistency => {
                let said = args.has("stale") || args.has("consistent") || args.has("cached");
                (!said).then_some(Value::Bool(true))
            }
            _ => None,
        }
    }
}

/// A request that is ready to be sent, with what is needed to understand its answer.
#[derive(Clone)]
pub struct Request {
    /// The row it was made from.
    pub endpoint: &'static Endpoint,
    /// The method and its main argument, for messages: `kv_put "a/b"`.
    pub label: String,
    /// The request itself.
    pub http: http::Request<Bytes>,
    /// Whether it may be sent again when its fate is unknown.
    pub repeat: Repeat,
    /// Why Consul answers `false`, when it does.
    pub refusal: &'static str,
    /// The longest that the server waits by itself before it answers.
    pub server_wait: Duration,
    /// The whole time the call may take, when the call says it.
    pub timeout: Option<Duration>,
    /// Whether any server may answer when the leader does not.
    pub stale_if_error: bool,
    /// What it does to a lock, when its fate may be looked up.
    pub lock_step: Option<LockStep>,
}

/// What a write does to the lock on its key, with the session that does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockStep {
    /// It takes the lock.
    Acquire(String),
    /// It gives the lock up.
    Release(String),
}

/// Without the token.
impl fmt::Debug for Defaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Defaults")
            .field("dc", &self.dc)
            .field("namespace", &self.namespace)
            .field("partition", &self.partition)
            .field("token", &self.token.as_ref().map(|_| "<hidden>"))
            .field("consistency", &self.consistency)
            .field("stale_if_error", &self.stale_if_error)
            .field("strip_leading_slash", &self.strip_leading_slash)
            .finish()
    }
}

/// Without headers and body, in which there can be tokens.
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

impl Endpoint {
    /// Checks the arguments and builds the request.
    ///
    /// # Errors
    /// [`Error::misuse`] for a wrong type, a missing argument or an unknown option;
    /// [`Error::argument`] for a right type with an unacceptable value.
    pub fn request(&'static self, args: &Args, defaults: &Defaults) -> Result<Request, Error> {
        self.build(args, defaults).map_err(|error| error.context(self.name))
    }

    fn build(&'static self, args: &Args, defaults: &Defaults) -> Result<Request, Error> {
        self.check_names(args)?;
        let mut draft = Draft::new(self);
        for (place, param) in self.positional.iter().enumerate() {
            let value = args.positional.get(place).unwrap_or(&Value::Null);
            if *value != Value::Null {
                let value = match defaults.strip_leading_slash {
                    true => Cow::Owned(param.kind.without_leading_slash(value)),
                    false => Cow::Borrowed(value),
                };
                draft.add(param, &value)?;
            } else if is_optional_object(param) {
                // Some endpoints refuse a body with nothing in it.
                draft.add(param, &Value::Map(Vec::new()))?;
            } else if !param.optional {
                return Err(Error::misuse(format!(
                    "argument #{} ({}) is missing: {} is needed",
                    place + 1,
                    param.name,
                    param.kind.wanted()
                )));
            }
        }
        for param in self.all_options() {
            let given = args.options.iter().find(|(name, _)| name == param.name).map(|(_, v)| v);
            match given.filter(|value| **value != Value::Null) {
                Some(value) => draft.add(param, value)?,
                None => {
                    if let Some(value) = defaults.of(param, args) {
                        draft.add(param, &value)?;
                    }
                }
            }
        }
        draft.finish()
    }

    fn check_names(&self, args: &Args) -> Result<(), Error> {
        if args.positional.len() > self.positional.len() {
            return Err(Error::misuse(format!(
                "takes {} and then a table of options, but got {} arguments",
                counted(self.positional.len(), "argument"),
                args.positional.len()
            )));
        }
        for (name, _) in &args.options {
            if !self.all_options().any(|param| param.name == name) {
                let known: Vec<_> = self.all_options().map(|param| param.name).collect();
                return Err(Error::misuse(unknown("option", name, &known)));
            }
        }
        if args.has("stale") && args.has("consistent") {
            return Err(Error::argument("the options stale and consistent contradict each other"));
        }
        if args.has("cached") && args.has("consistent") {
            return Err(Error::argument("the options cached and consistent contradict each other"));
        }
        if args.has("stale_if_error") && args.has("consistent") {
            return Err(Error::argument(
                "the options stale_if_error and consistent contradict each other",
            ));
        }
        let guards =
            self.all_options().filter(|param| param.guards.is_some() && args.has(param.name));
        let guards: Vec<_> = guards.map(|param| param.name).collect();
        match guards.as_slice() {
            [first, second, ..] => {
                Err(Error::argument(format!("the options {first} and {second} exclude each other")))
            }
            _ => Ok(()),
        }
    }
}

fn is_optional_object(param: &Param) -> bool {
    param.optional && param.place == Place::Body && matches!(param.kind, Shape::Object(_))
}

fn counted(number: usize, noun: &str) -> String {
    match number {
        0 => format!("no {noun}"),
        1 => format!("one {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

impl Request {
    /// The request as it is sent when `waited` of the time that the server may wait is over, and as
    /// a stale read with `stale`.
    pub fn to_send(&self, waited: Duration, stale: bool) -> http::Request<Bytes> {
        let mut http = self.http.clone();
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
                // A read that does not wait is answered as one whose wait is over.
                Duration::ZERO => {
                    query.retain(|pair| !pair.starts_with("index=") && !pair.starts_with("hash="));
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

    /// The linearizable read of the key of a [`LockStep`], which shows who holds the lock.
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
            refusal: "",
            server_wait: Duration::ZERO,
            timeout: None,
            stale_if_error: false,
            lock_step: None,
        }
    }
}

fn with_query(target: &Uri, query: &str) -> Uri {
    let mark = if query.is_empty() { "" } else { "?" };
    // What is made of the parts of a valid one is valid.
    format!("{}{mark}{query}", target.path()).parse().unwrap_or_else(|_| target.clone())
}

/// Adds a text as it reads in a message. Most are plain, and then there is nothing to format.
fn push_quoted(label: &mut String, text: &str) {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        label.reserve(text.len() + 2);
        label.push('"');
        label.push_str(text);
        label.push('"');
    } else {
        label.push_str(&format!("{text:?}"));
    }
}

/// A request in the making.
struct Draft {
    endpoint: &'static Endpoint,
    label: String,
    path: String,
    query: Vec<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    is_json: bool,
    guard: Option<&'static str>,
    blocks: bool,
    wait: Duration,
    timeout: Option<Duration>,
    retry: bool,
    stale_if_error: bool,
    lock_step: Option<LockStep>,
}

impl Draft {
    fn new(endpoint: &'static Endpoint) -> Self {
        let fixed = endpoint.fixed_query;
        Draft {
            endpoint,
            label: endpoint.name.to_owned(),
            path: endpoint.path.to_owned(),
            query: if fixed.is_empty() { Vec::new() } else { vec![fixed.to_owned()] },
            headers: Vec::new(),
            body: Bytes::new(),
            is_json: false,
            guard: None,
            blocks: false,
            wait: DEFAULT_WAIT,
            timeout: None,
            retry: true,
            stale_if_error: false,
            lock_step: None,
        }
    }

    fn add(&mut self, param: &'static Param, value: &Value) -> Result<(), Error> {
        let at = At::top(param.name);
        if param.guards.is_some() {
            self.guard = param.guards;
        }
        match param.place {
            Place::Path => {
                let text = param.kind.path_text(value, &at)?;
                // A query can hold a token.
                let shown = match param.kind {
                    Shape::EncodedPath => text.split('?').next().unwrap_or_default(),
                    _ => &text,
                };
                self.label.push(' ');
                push_quoted(&mut self.label, shown);
                let segment: Cow<str> = match param.kind {
                    Shape::EncodedPath => text.into(),
                    Shape::Key | Shape::KeyPrefix => {
                        utf8_percent_encode(&text, ESCAPED_IN_KEY).into()
                    }
                    _ => utf8_percent_encode(&text, ESCAPED).into(),
                };
                let is_place = |at: &usize| {
                    let rest = self.path[at + 1..].strip_prefix(param.name);
                    rest.is_some_and(|rest| rest.starts_with('}'))
                };
                let places = self.path.match_indices('{').map(|(at, _)| at);
                if let Some(at) = { places }.find(is_place) {
                    let end = at + param.name.len() + 2;
                    self.path.replace_range(at..end, &segment);
                }
            }
            Place::Query(name) => self.add_query(param, name, value, &at)?,
            Place::QueryMembers => self.add_query_members(param, value, &at)?,
            Place::Header(name) => {
                let text = param.kind.text(value, &at)?;
                let mut header = HeaderValue::from_str(&text).map_err(|_| {
                    Error::argument(format!(
                        "{} has a character that no header can hold",
                        param.name
                    ))
                })?;
                header.set_sensitive(true);
                self.headers.push((HeaderName::from_static(name), header));
            }
            Place::Body => self.add_body(param, value, &at)?,
            Place::Call => match param.name {
                "timeout_ms" => self.timeout = Some(param.kind.duration(value, &at)?),
                "stale_if_error" => self.stale_if_error = param.kind.boolean(value, &at)?,
                _ => self.retry = param.kind.boolean(value, &at)?,
            },
        }
        Ok(())
    }

    fn add_query(
        &mut self,
        param: &Param,
        name: &str,
        value: &Value,
        at: &At,
    ) -> Result<(), Error> {
        let pair = |text: &str| format!("{name}={}", utf8_percent_encode(text, ESCAPED));
        match param.kind {
            Shape::Flag => {
                if param.kind.boolean(value, at)? {
                    self.query.push(name.to_owned());
                }
            }
            Shape::Bool => self.query.push(pair(&param.kind.boolean(value, at)?.to_string())),
            Shape::Uint => {
                let number = param.kind.uint(value, at)?;
                self.blocks |= name == "index" && number > 0;
                self.query.push(pair(&number.to_string()));
            }
            Shape::Duration { .. } => {
                let duration = param.kind.duration(value, at)?;
                if name == "wait" && !duration.is_zero() {
                    self.wait = duration;
                }
                self.query.push(pair(&duration::format(duration)));
            }
            Shape::TextList => {
                let texts = param.kind.texts(value, at)?;
                self.query.extend(texts.iter().map(|text| pair(text)));
            }
            Shape::TextMap => {
                let members = param.kind.members(value, at)?;
                for (key, member) in members {
                    let text = Shape::TextOrEmpty.text(member, &at.member(key))?;
                    self.query.push(pair(&format!("{key}:{text}")));
                }
            }
            _ => {
                let text = param.kind.text(value, at)?;
                self.blocks |= name == "hash";
                self.query.push(pair(&text));
                self.lock_step = match name {
                    "acquire" => Some(LockStep::Acquire(text)),
                    "release" => Some(LockStep::Release(text)),
                    _ => self.lock_step.take(),
                };
            }
        }
        Ok(())
    }

    fn add_query_members(&mut self, param: &Param, value: &Value, at: &At) -> Result<(), Error> {
        for (name, member) in param.kind.members(value, at)? {
            let escaped = utf8_percent_encode(name, ESCAPED);
            match member {
                Value::Bool(true) => self.query.push(escaped.to_string()),
                // Many parameters act by their presence, whatever their value.
                Value::Bool(false) | Value::Null => {}
                _ => {
                    let text = payload(member, &at.member(name))?;
                    let text = percent_encode(&text, ESCAPED);
                    self.query.push(format!("{escaped}={text}"));
                }
            }
        }
        Ok(())
    }

    fn add_body(&mut self, param: &Param, value: &Value, at: &At) -> Result<(), Error> {
        if let Shape::Payload = param.kind {
            self.body = payload(value, at)?.into();
            return Ok(());
        }
        let json = param.kind.json(value, at)?;
        self.body = serde_json::to_vec(&json)
            .map_err(|error| Error::argument(format!("{} cannot be JSON: {error}", param.name)))?
            .into();
        self.is_json = true;
        Ok(())
    }

    fn finish(self) -> Result<Request, Error> {
        let mut target = self.path;
        for pair in &self.query {
            target.push(if target.contains('?') { '&' } else { '?' });
            target.push_str(pair);
        }
        let mut http = http::Request::new(self.body);
        *http.method_mut() = self.endpoint.method.into();
        *http.uri_mut() = Uri::try_from(target).map_err(|error| {
            Error::argument(format!("the request has no valid address: {error}"))
        })?;
        if self.is_json {
            let json = HeaderValue::from_static("application/json");
            http.headers_mut().insert(CONTENT_TYPE, json);
        }
        http.headers_mut().extend(self.headers);
        let repeat = match self.guard {
            Some(_) => Repeat::Once,
            None => self.endpoint.repeat,
        };
        Ok(Request {
            endpoint: self.endpoint,
            label: self.label,
            http,
            repeat: if self.retry { repeat } else { Repeat::Once },
            refusal: self.guard.unwrap_or("Consul answered false"),
            server_wait: if self.blocks { self.wait } else { Duration::ZERO },
            timeout: self.timeout,
            stale_if_error: self.stale_if_error
                && self.retry
                && !self.query.iter().any(|pair| pair == "stale" || pair == "consistent"),
            lock_step: self.lock_step.filter(|_| self.retry),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{endpoint, endpoints};
    use super::*;
    use proptest::prelude::*;

    fn build(method: &str, args: Args) -> Result<Request, Error> {
        endpoint(method).unwrap().request(&args, &Defaults::default())
    }

    fn target(method: &str, args: Args) -> String {
        build(method, args).unwrap().http.uri().to_string()
    }

    #[test]
    fn a_path_is_escaped_but_a_keys_slashes_are_not() {
        assert_eq!(
            target("kv_get", Args::new().arg("a b/é?#%+&=:;")),
            "/v1/kv/a%20b/%C3%A9%3F%23%25%2B%26%3D%3A%3B"
        );
        assert_eq!(
            target("agent_service", Args::new().arg("a/b c")),
            "/v1/agent/service/a%2Fb%20c"
        );
    }

    #[test]
    fn flags_are_sent_by_presence_or_not_at_all() {
        let key = || Args::new().arg("k");
        assert_eq!(target("kv_get", key().opt("stale", true)), "/v1/kv/k?stale");
        assert_eq!(target("kv_get", key().opt("stale", false)), "/v1/kv/k");
        assert_eq!(target("kv_list", key()), "/v1/kv/k?recurse");
    }

    #[test]
    fn lists_and_maps_are_repeated_parameters() {
        let tags = Value::List(vec!["a".into(), "b&c".into()]);
        let meta = Value::Map(vec![("zone".into(), "z 1".into())]);
        let args = Args::new().arg("web").opt("tag", tags).opt("node_meta", meta);
        assert_eq!(
            target("catalog_service", args),
            "/v1/catalog/service/web?tag=a&tag=b%26c&node-meta=zone%3Az%201"
        );
    }

    #[test]
    fn a_guarded_write_is_never_repeated() {
        let put = || Args::new().arg("k").arg("v");
        assert_eq!(build("kv_put", put()).unwrap().repeat, Repeat::Idempotent);
        assert_eq!(build("kv_put", put().opt("cas", 1)).unwrap().repeat, Repeat::Once);
        assert_eq!(build("kv_put", put().opt("acquire", "s")).unwrap().repeat, Repeat::Once);
        assert_eq!(build("kv_put", put().opt("retry", false)).unwrap().repeat, Repeat::Once);
        let none = Value::List(Vec::new());
        assert_eq!(build("txn", Args::new().arg(none)).unwrap().repeat, Repeat::Once);
    }

    #[test]
    fn only_a_blocking_query_waits_on_the_server() {
        let get = |args: Args| build("kv_get", args).unwrap().server_wait;
        let key = || Args::new().arg("k");
        assert_eq!(get(key()), Duration::ZERO);
        assert_eq!(get(key().opt("wait", "10s")), Duration::ZERO);
        assert_eq!(get(key().opt("index", 0)), Duration::ZERO);
        assert_eq!(get(key().opt("index", 5)), DEFAULT_WAIT);
        // Consul takes 0 for its default.
        assert_eq!(get(key().opt("index", 5).opt("wait", 0)), DEFAULT_WAIT);
        assert_eq!(get(key().opt("index", 5).opt("wait", 1.5)), Duration::from_millis(1500));
    }

    #[test]
    fn a_token_goes_into_a_header_that_is_never_shown() {
        let defaults = Defaults { token: Some("s3cret".into()), ..Defaults::default() };
        let request =
            endpoint("kv_get").unwrap().request(&Args::new().arg("k"), &defaults).unwrap();
        assert_eq!(request.http.headers()["x-consul-token"], "s3cret");
        assert!(!format!("{request:?}").contains("s3cret"));
        assert_eq!(request.http.uri(), "/v1/kv/k");
    }

    #[test]
    fn a_clients_consistency_gives_way_to_the_calls() {
        let defaults = Defaults { consistency: Some("stale"), ..Defaults::default() };
        let target = |args: Args| {
            let request = endpoint("kv_get").unwrap().request(&args, &defaults).unwrap();
            request.http.uri().to_string()
        };
        assert_eq!(target(Args::new().arg("k")), "/v1/kv/k?stale");
        assert_eq!(target(Args::new().arg("k").opt("consistent", true)), "/v1/kv/k?consistent");
    }

    #[test]
    fn a_request_waits_only_for_what_is_left_of_its_wait() {
        let sent = |method: &str, args: Args, waited_ms: u64| {
            let request = build(method, args).unwrap();
            request.to_send(Duration::from_millis(waited_ms), false).uri().to_string()
        };
        let key = || Args::new().arg("k");
        let blocking = || key().opt("index", 5).opt("wait", "10s").opt("dc", "a");
        assert_eq!(sent("kv_get", blocking(), 0), "/v1/kv/k?dc=a&index=5&wait=10s");
        assert_eq!(sent("kv_get", blocking(), 2500), "/v1/kv/k?dc=a&index=5&wait=7500ms");
        assert_eq!(sent("kv_get", blocking(), 10_000), "/v1/kv/k?dc=a");
        assert_eq!(sent("kv_get", key().opt("index", 5), 1000), "/v1/kv/k?index=5&wait=299000ms");
        assert_eq!(sent("kv_get", key().opt("wait", "10s"), 2500), "/v1/kv/k?wait=10s");
        assert_eq!(sent("agent_service", key().opt("hash", "h"), 300_000), "/v1/agent/service/k");
    }

    #[test]
    fn stale_if_error_is_for_reads_that_do_not_say_how_fresh_they_are() {
        let falls_back = |args: Args, consistency: Option<&'static str>| {
            let defaults = Defaults { stale_if_error: true, consistency, ..Defaults::default() };
            endpoint("kv_get").unwrap().request(&args, &defaults).unwrap().stale_if_error
        };
        let key = || Args::new().arg("k");
        assert!(falls_back(key(), None));
        assert!(!falls_back(key(), Some("stale")));
        assert!(!falls_back(key(), Some("consistent")));
        assert!(!falls_back(key().opt("consistent", true), None));
        assert!(!falls_back(key().opt("stale_if_error", false), None));
        assert!(!falls_back(key().opt("retry", false), None));
        let request = build("kv_list", key().opt("stale_if_error", true)).unwrap();
        assert_eq!(request.to_send(Duration::ZERO, false).uri(), "/v1/kv/k?recurse");
        assert_eq!(request.to_send(Duration::ZERO, true).uri(), "/v1/kv/k?recurse&stale");
        let both = key().opt("stale_if_error", true).opt("consistent", true);
        assert!(build("kv_get", both).unwrap_err().message().contains("contradict"));
    }

    #[test]
    fn the_lookup_of_a_lock_reads_the_same_key_with_the_same_rights() {
        let defaults = Defaults { token: Some("s3cret".into()), ..Defaults::default() };
        let args = Args::new().arg("a b").arg("v").opt("acquire", "s 1").opt("dc", "far");
        let request = endpoint("kv_put").unwrap().request(&args, &defaults).unwrap();
        assert_eq!(request.lock_step, Some(LockStep::Acquire("s 1".into())));
        let lookup = request.lock_lookup();
        assert_eq!(lookup.http.method(), http::Method::GET);
        assert_eq!(lookup.http.uri(), "/v1/kv/a%20b?consistent&dc=far");
        assert_eq!(lookup.http.headers()["x-consul-token"], "s3cret");
        let never = args.opt("retry", false);
        let request = endpoint("kv_put").unwrap().request(&never, &defaults).unwrap();
        assert_eq!(request.lock_step, None);
    }

    #[test]
    fn a_body_is_checked_field_by_field() {
        let check = Value::Map(vec![("ttl".into(), 90.into()), ("check_id".into(), "c".into())]);
        let service = Value::Map(vec![("name".into(), "web".into()), ("check".into(), check)]);
        let request = build("agent_service_register", Args::new().arg(service)).unwrap();
        let body: serde_json::Value = serde_json::from_slice(request.http.body()).unwrap();
        let wanted = serde_json::json!({"Name": "web", "Check": {"TTL": "90s", "CheckID": "c"}});
        assert_eq!(body, wanted);
    }

    #[test]
    fn a_field_in_two_spellings_is_misuse() {
        let twice = Value::Map(vec![("Name".into(), "a".into()), ("name".into(), "b".into())]);
        assert!(build("session_create", Args::new().arg(twice)).unwrap_err().is_misuse());
    }

    /// Values that some shape takes and others do not.
    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            Just(Value::Foreign("a function")),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::Float),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bytes),
            prop_oneof!["a", "10s", "/k", "a//b", "..", "", "passing", "5", "release", "set"]
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            let name = prop_oneof![Just("Name"), Just("KV"), Just("ttl"), Just("x"), Just("Verb")];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
                prop::collection::vec((name.prop_map(str::to_owned), inner), 0..4)
                    .prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever is passed: a request, or an error that names the method; never a panic.
        #[test]
        fn any_arguments_give_a_request_or_a_named_error(
            method in prop::sample::select(endpoints().collect::<Vec<_>>()),
            positional in prop::collection::vec(any_value(), 0..4),
            options in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 0..3),
        ) {
            let mut args = positional.into_iter().fold(Args::new(), Args::arg);
            let names: Vec<_> = method.all_options().map(|param| param.name).collect();
            for (index, value) in options {
                args = args.opt(*index.get(&names), value);
            }
            if let Err(error) = method.request(&args, &Defaults::default()) {
                prop_assert!(error.message().starts_with(method.name), "{error}");
                prop_assert_eq!(error.kind(), crate::error::Kind::Argument);
                prop_assert!(!error.maybe_applied());
            }
        }
    }

    #[test]
    fn every_parameter_of_every_method_refuses_a_foreign_value_by_name() {
        for method in endpoints() {
            for place in 0..method.positional.len() {
                let mut args = Args::new();
                for param in &method.positional[..place] {
                    args = args.arg(good(&param.kind));
                }
                let error = method
                    .request(&args.arg(Value::Foreign("a function")), &Defaults::default())
                    .unwrap_err();
                assert!(error.is_misuse(), "{error}");
                assert!(error.message().contains(method.positional[place].name), "{error}");
                assert!(error.message().contains("a function"), "{error}");
            }
            for param in method.all_options() {
                let args =
                    method.positional.iter().fold(Args::new(), |args, p| args.arg(good(&p.kind)));
                let args = args.opt(param.name, Value::Foreign("a function"));
                let error = method.request(&args, &Defaults::default()).unwrap_err();
                assert!(error.is_misuse(), "{error}");
                assert!(error.message().contains(param.name), "{error}");
            }
        }
    }

    /// A value that the shape takes.
    fn good(shape: &Shape) -> Value {
        match shape {
            Shape::Object(_) | Shape::Any => Value::Map(Vec::new()),
            Shape::Objects(_) => Value::List(Vec::new()),
            Shape::OneOf(names) => names[0].into(),
            Shape::Bool | Shape::Flag => true.into(),
            Shape::Uint | Shape::Int => 1.into(),
            _ => "a".into(),
        }
    }
}
