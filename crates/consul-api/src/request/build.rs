//! Builds a request: checks the arguments by the row, and puts each into its location.

use super::{AllHeaders, Args, DEFAULT_WAIT, Defaults, LockStep, Request};
use crate as wire;
use crate::api::txn;
use crate::error::Error;
use crate::table::{Endpoint, Location, Param, Repeat, Reply, Shape, Verb};
use crate::value::shape::{ValuePath, payload, unknown};
use crate::value::{Value, duration};
use bytes::Bytes;
use http::Uri;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use percent_encoding::{
    AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode,
};
use std::borrow::Cow;
use std::time::Duration;

/// Everything but the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Slashes of a key separate segments for the server, too.
const ESCAPED_IN_KEY: &AsciiSet = &ESCAPED.remove(b'/');

impl Endpoint {
    /// Checks the arguments and builds the request.
    ///
    /// # Errors
    /// [`Error::misuse`] for a wrong type, a missing argument or an unknown option;
    /// [`Error::argument`] for an invalid value of a right type.
    pub fn request(&'static self, args: &Args, defaults: &Defaults) -> Result<Request, Error> {
        self.build(args, defaults).map_err(|error| error.context(self.name))
    }

    fn build(&'static self, args: &Args, defaults: &Defaults) -> Result<Request, Error> {
        self.check_names(args)?;
        let mut builder = Builder::new(self);
        for (place, param) in self.positional.iter().enumerate() {
            let value = args.positional.get(place).unwrap_or(&Value::Null);
            if *value != Value::Null {
                let value = match defaults.strip_leading_slash {
                    true => Cow::Owned(param.kind.without_leading_slash(value)),
                    false => Cow::Borrowed(value),
                };
                builder.add(param, &value)?;
            } else if is_optional_object(param) {
                // Some endpoints refuse an empty body.
                builder.add(param, &Value::Map(Vec::new()))?;
            } else if !param.optional {
                return Err(Error::misuse(format!(
                    "argument #{} ({}) is missing: {} is required",
                    place + 1,
                    param.name,
                    param.kind.expected()
                )));
            }
        }
        for param in self.all_options() {
            let given = args.options.iter().find(|(name, _)| name == param.name).map(|(_, v)| v);
            match given.filter(|value| **value != Value::Null) {
                Some(value) => builder.add(param, value)?,
                // The query's token counts, and of an empty one the header, also that of a token file.
                None if param.name == "token" && builder.is_given(param) => {
                    builder.add(param, &Value::from(""))?;
                }
                None => {
                    let default = defaults.of(param, args);
                    if let Some(value) = default.filter(|_| !builder.is_given(param)) {
                        builder.add(param, &value)?;
                    }
                }
            }
        }
        builder.finish()
    }

    fn check_names(&self, args: &Args) -> Result<(), Error> {
        if args.positional.len() > self.positional.len() {
            return Err(Error::misuse(format!(
                "takes {} and then a table of options, got {} arguments",
                counted(self.positional.len(), "argument"),
                args.positional.len()
            )));
        }
        if args.options.is_empty() {
            return Ok(());
        }
        for (name, _) in &args.options {
            if !self.all_options().any(|param| param.name == name) {
                let known: Vec<_> = self.all_options().map(|param| param.name).collect();
                return Err(Error::misuse(unknown("option", name, &known)));
            }
        }
        for other in ["stale", "cached", "stale_if_error"] {
            if args.is_true(other) && args.is_true("consistent") {
                return Err(contradiction(other, "consistent"));
            }
        }
        let guards =
            self.all_options().filter(|param| param.guards.is_some() && args.has(param.name));
        let guards: Vec<_> = guards.map(|param| param.name).collect();
        match guards.as_slice() {
            [first, second, ..] => Err(contradiction(first, second)),
            _ => Ok(()),
        }
    }
}

fn contradiction(one: &str, other: &str) -> Error {
    Error::argument(format!("the options {one} and {other} contradict each other"))
}

fn is_optional_object(param: &Param) -> bool {
    param.optional && matches!(param.kind, Shape::Object(_))
}

fn counted(number: usize, noun: &str) -> String {
    match number {
        0 => format!("no {noun}"),
        1 => format!("one {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// A copy with room for an argument of usual length.
fn with_room(text: &str) -> String {
    let mut copy = String::with_capacity(text.len() + 64);
    copy.push_str(text);
    copy
}

/// Adds a text in quotes. Most texts are plain and need no escaping.
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

/// The name of a parameter in a query.
fn name_of(pair: &str) -> Vec<u8> {
    percent_decode_str(pair.split('=').next().unwrap_or_default()).collect()
}

/// Has a query with a wait of nothing not wait at all: Consul takes it for its default of five minutes.
fn drop_no_wait(target: &mut String) {
    let Some((path, query)) = target.split_once('?') else { return };
    let is_nothing = |pair: &str| {
        let wait = pair.split_once('=').filter(|_| name_of(pair) == b"wait").map(|(_, wait)| wait);
        wait.is_some_and(|wait| {
            let wait = percent_decode_str(wait).decode_utf8_lossy();
            wait.starts_with('-') || duration::parse(&wait).is_some_and(|it| it.is_zero())
        })
    };
    if !query.split('&').any(is_nothing) {
        return;
    }
    let waits =
        |pair: &&str| ["wait", "index", "hash"].iter().any(|it| name_of(pair) == it.as_bytes());
    let left: Vec<&str> = query.split('&').filter(|pair| !waits(pair)).collect();
    let separator = if left.is_empty() { "" } else { "?" };
    *target = format!("{path}{separator}{}", left.join("&"));
}

/// An unfinished request.
struct Builder {
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
    secret: bool,
    full_response: bool,
    /// The empty prefix of a tree to delete, for messages.
    deletes_everything: Option<String>,
    may_delete_everything: bool,
}

impl Builder {
    fn new(endpoint: &'static Endpoint) -> Self {
        let fixed = endpoint.fixed_query;
        Builder {
            endpoint,
            label: with_room(endpoint.name),
            path: with_room(endpoint.path),
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
            secret: endpoint.secret,
            full_response: false,
            deletes_everything: None,
            may_delete_everything: false,
        }
    }

    /// Whether the query that the caller wrote by itself has a parameter, or another one in contradiction to it.
    fn is_given(&self, param: &Param) -> bool {
        if self.endpoint.reply != Reply::Body {
            return false;
        }
        let has = |wanted: &str| {
            let written = self.path.split_once('?').map_or("", |(_, query)| query).split('&');
            let mut names = written.chain(self.query.iter().map(String::as_str)).map(name_of);
            names.any(|name| name == wanted.as_bytes())
        };
        match (param.name, param.location) {
            ("stale" | "consistent" | "stale_if_error", _) => {
                ["stale", "consistent", "cached"].into_iter().any(has)
            }
            (_, Location::Query(name)) => has(name),
            ("token", _) => has("token"),
            _ => false,
        }
    }

    fn add(&mut self, param: &'static Param, value: &Value) -> Result<(), Error> {
        let at = ValuePath::top(param.name);
        if param.guards.is_some() {
            self.guard = param.guards;
        }
        match param.location {
            Location::Path => {
                let text = param.kind.path_text(value, &at)?;
                if text.is_empty() && self.endpoint.method == Verb::Delete {
                    self.deletes_everything = Some(param.name.to_owned());
                }
                let shown = match param.kind {
                    Shape::EncodedPath => {
                        // Without the query, which can hold a token.
                        let path = text.split('?').next().unwrap_or_default();
                        self.secret = wire::is_secret(path);
                        path
                    }
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
                if !matches!(param.kind, Shape::Key | Shape::KeyPrefix | Shape::EncodedPath) {
                    self.check_route().map_err(|why| at.bad_value(value, &why))?;
                }
            }
            Location::Query(name) => self.add_query(param, name, value, &at)?,
            Location::QueryMembers => self.add_query_members(param, value, &at)?,
            Location::Header(name) => {
                let text = param.kind.text(value, &at)?;
                let mut header = HeaderValue::from_str(&text).map_err(|_| {
                    Error::argument(format!(
                        "{} has a character that is invalid in a header",
                        param.name
                    ))
                })?;
                header.set_sensitive(true);
                self.headers.push((HeaderName::from_static(name), header));
            }
            Location::Body => self.add_body(param, value, &at)?,
            Location::Call => match param.name {
                "timeout_ms" => self.timeout = Some(param.kind.duration(value, &at)?),
                "everything" => self.may_delete_everything = param.kind.boolean(value, &at)?,
                "full_response" => self.full_response = param.kind.boolean(value, &at)?,
                "stale_if_error" => self.stale_if_error = param.kind.boolean(value, &at)?,
                _ => self.retry = param.kind.boolean(value, &at)?,
            },
        }
        Ok(())
    }

    /// Refuses a path that Consul, which reads `%2F` as a `/`, takes for one of another endpoint.
    fn check_route(&self) -> Result<(), String> {
        let plain = percent_decode_str(&self.path).decode_utf8_lossy();
        match self.endpoint.routed_elsewhere(&plain) {
            Some(other) => Err(format!("Consul takes the path {plain} for one of {}", other.name)),
            None => Ok(()),
        }
    }

    fn add_query(
        &mut self,
        param: &Param,
        name: &str,
        value: &Value,
        at: &ValuePath,
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
                if name == "wait" {
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

    fn add_query_members(
        &mut self,
        param: &Param,
        value: &Value,
        at: &ValuePath,
    ) -> Result<(), Error> {
        for (name, member) in param.kind.members(value, at)? {
            let escaped = utf8_percent_encode(name, ESCAPED);
            match member {
                Value::Bool(true) => self.query.push(escaped.to_string()),
                // Many parameters have an effect with any value, also `false`.
                Value::Bool(false) | Value::Null => {}
                // As Go's `url.Values` has several values of a name. Consul finds nothing for a list as JSON.
                Value::List(items) => {
                    for (place, item) in items.iter().enumerate() {
                        let at = at.member(name);
                        let text = scalar(item, &at.member(&(place + 1).to_string()))?;
                        self.query.push(format!("{escaped}={}", percent_encode(&text, ESCAPED)));
                    }
                }
                // An empty table is an empty list.
                Value::Map(members) if members.is_empty() => {}
                Value::Map(_) => {
                    scalar(member, &at.member(name))?;
                }
                _ => {
                    let text = payload(member, &at.member(name))?;
                    let text = percent_encode(&text, ESCAPED);
                    self.query.push(format!("{escaped}={text}"));
                }
            }
        }
        Ok(())
    }

    fn add_body(&mut self, param: &Param, value: &Value, at: &ValuePath) -> Result<(), Error> {
        if let Shape::Payload = param.kind {
            self.body = payload(value, at)?.into();
            return Ok(());
        }
        let json = param.kind.json(value, at)?;
        if self.endpoint.reply == Reply::Txn {
            let operation = txn::deletes_everything(&json);
            self.deletes_everything =
                operation.map(|place| format!("{}.{}.KV.Key", param.name, place + 1));
        }
        self.body = serde_json::to_vec(&json)
            .map_err(|error| {
                Error::argument(format!("{} cannot be written as JSON: {error}", param.name))
            })?
            .into();
        self.is_json = true;
        Ok(())
    }

    fn finish(self) -> Result<Request, Error> {
        if let (Some(prefix), false) = (&self.deletes_everything, self.may_delete_everything) {
            return Err(Error::argument(format!(
                "{prefix} is empty, which would delete every key; if that is intended, pass the option everything = true"
            )));
        }
        let mut target = self.path;
        for pair in &self.query {
            target.push(if target.contains('?') { '&' } else { '?' });
            target.push_str(pair);
        }
        drop_no_wait(&mut target);
        let mut http = http::Request::new(self.body);
        *http.method_mut() = self.endpoint.method.into();
        *http.uri_mut() = Uri::try_from(target).map_err(|error| {
            Error::argument(format!("the path or the query is invalid: {error}"))
        })?;
        if self.is_json {
            let json = HeaderValue::from_static("application/json");
            http.headers_mut().insert(CONTENT_TYPE, json);
        }
        http.headers_mut().extend(self.headers);
        if self.full_response {
            http.extensions_mut().insert(AllHeaders);
        }
        let repeat = match self.guard {
            Some(_) => Repeat::Once,
            None => self.endpoint.repeat,
        };
        Ok(Request {
            endpoint: self.endpoint,
            label: self.label,
            http,
            repeat: if self.retry { repeat } else { Repeat::Once },
            guard: self.guard,
            server_wait: if self.blocks { self.wait } else { Duration::ZERO },
            timeout: self.timeout,
            stale_if_error: self.stale_if_error
                && self.retry
                && !self.query.iter().any(|pair| pair == "stale" || pair == "consistent"),
            lock_step: self.lock_step.filter(|_| self.retry),
            secret: self.secret,
            full_response: self.full_response,
        })
    }
}

/// The bytes of a value that is not a table.
fn scalar(value: &Value, at: &ValuePath) -> Result<Vec<u8>, Error> {
    match value {
        Value::List(_) | Value::Map(_) => {
            Err(at.wrong_type_text("a string, a number, a boolean or a list of these", value))
        }
        _ => payload(value, at),
    }
}
