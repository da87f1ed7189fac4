//! Answers: their value and metadata, or an error.

mod meta;
mod refusal;
mod txn;

pub use meta::{EntryMeta, HEADERS, Meta};
pub use refusal::retry_after;

use super::request::Request;
use super::table::{Absent, Endpoint, Reply};
use super::tape::{Base64, Item, Keys, NotEntries, Tape};
use super::value::Value;
use crate::error::{Error, Kind};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, Uri, header};
use percent_encoding::percent_decode_str;
use refusal::is_unknown_endpoint;
use std::borrow::Cow;
use std::fmt;

/// The result of a successful call.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The value.
    pub value: Value,
    /// The metadata.
    pub meta: Meta,
}

/// A success. Its body is decoded when it is read, except for that of a single key: an answer about
/// another key is refused before its connection is used again.
#[derive(Clone)]
pub struct Success {
    endpoint: &'static Endpoint,
    label: String,
    secret: bool,
    target: Uri,
    body: Body,
    /// The operations of a transaction, as they were sent.
    operations: Option<Bytes>,
    /// The metadata, without those of an entry in the body.
    pub meta: Meta,
}

#[derive(Clone)]
enum Body {
    /// Of a failure that the row declares a success, such as a 404.
    Absent,
    Received(Bytes),
    Decoded(Tape),
}

/// Without the body, which can hold a secret.
impl fmt::Debug for Success {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Success")
            .field("label", &self.label)
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

impl Request {
    /// Distinguishes success and failure, so that a retry can be decided before the answer is decoded.
    ///
    /// # Errors
    /// A refusal of the server, by a status or by the `false` of a conditional write;
    /// [`Kind::Decode`] if it is evident that this is not the answer to the request.
    pub fn check(&self, response: Response<Bytes>) -> Result<Success, Error> {
        let meta = Meta::of(response.headers());
        if self.full_response {
            return Ok(self.success(Body::Decoded(Tape::from(&whole(response))), meta));
        }
        self.refuse_encoding(&response)?;
        let status = response.status();
        let body = if status.is_success() || self.endpoint.also_success.contains(&status.as_u16()) {
            self.refuse_page(&response)?;
            if self.endpoint.reply == Reply::Applied {
                self.check_applied(response.body())?;
            }
            Body::Received(response.into_body())
        } else {
            let is_absent = status == StatusCode::NOT_FOUND && !is_unknown_endpoint(&response);
            if !is_absent || absent_value(self.endpoint).is_none() {
                let error = self.refused(&response);
                // Some deletions answer with another status than 404.
                if self.endpoint.absent != Absent::Done || error.kind() != Kind::NotFound {
                    return Err(error);
                }
            }
            self.refuse_page(&response)?;
            Body::Absent
        };
        let mut success = self.success(body, meta);
        if self.endpoint.reply == Reply::KvValue {
            success.decode()?;
        }
        Ok(success)
    }

    fn success(&self, body: Body, meta: Meta) -> Success {
        let Request { endpoint, secret, .. } = *self;
        let (label, target) = (self.label.clone(), self.http.uri().clone());
        let operations = (endpoint.reply == Reply::Txn).then(|| self.http.body().clone());
        Success { endpoint, label, secret, target, body, operations, meta }
    }

    /// Refuses a body that is compressed, which only a faulty proxy does: requests do not accept it.
    fn refuse_encoding(&self, response: &Response<Bytes>) -> Result<(), Error> {
        let coding = response.headers().get(header::CONTENT_ENCODING);
        let Some(coding) = coding.filter(|coding| *coding != "identity") else { return Ok(()) };
        let coding = excerpt(coding.as_bytes());
        let message =
            format!("{}: the answer has Content-Encoding: {coding}, not requested", self.label);
        Err(Error::new(Kind::Decode, message).with_status(response.status().as_u16()))
    }

    /// Refuses a web page, which is never an answer of Consul. Otherwise the page of a captive portal
    /// would be the success of an operation without a value, and a web server's 404 an absent key.
    fn refuse_page(&self, response: &Response<Bytes>) -> Result<(), Error> {
        let content = response.headers().get(header::CONTENT_TYPE);
        let is_page = content.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
        match is_page && self.endpoint.reply != Reply::Body {
            true => Err(self.not_understood("it is a web page", response.body())),
            false => Ok(()),
        }
    }

    fn check_applied(&self, body: &Bytes) -> Result<(), Error> {
        match body.trim_ascii() {
            b"true" => Ok(()),
            b"false" => Err(Error::new(
                Kind::Conflict,
                format!("{}: not applied: {}", self.label, self.refusal),
            )
            .with_maybe_applied(false)
            .with_status(200)),
            _ => Err(self.not_understood("expected true or false", body)),
        }
    }

    fn not_understood(&self, why: &str, body: &Bytes) -> Error {
        not_understood(self.secret, &self.label, why, body)
    }
}

/// The value of a request with `full_response`: the header's names in lower case, the values of a repeated one
/// joined, as RFC 9110 allows.
fn whole(response: Response<Bytes>) -> Value {
    let headers = response.headers();
    let joined = |name: &HeaderName| {
        let values: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        (name.to_string(), Value::Bytes(values.join(&b", "[..])))
    };
    let headers = Value::Map(headers.keys().map(joined).collect());
    let status = u64::from(response.status().as_u16());
    Value::Map(vec![
        ("status".into(), status.into()),
        ("headers".into(), headers),
        ("body".into(), Value::Bytes(response.into_body().into())),
    ])
}

/// The value of a 404; `None`: it is an error.
fn absent_value(endpoint: &Endpoint) -> Option<Tape> {
    match endpoint.absent {
        Absent::Null => Some(Tape::null()),
        Absent::EmptyList => Some(Tape::empty_list()),
        Absent::Done => Some(Tape::done()),
        Absent::Error | Absent::SessionInvalid => None,
    }
}

impl Success {
    /// Decodes the body into a value.
    ///
    /// # Errors
    /// [`Kind::Decode`] if it is not an answer of Consul.
    pub fn answer(self) -> Result<Answer, Error> {
        let (tape, meta) = self.read()?;
        Ok(Answer { value: tape.value(), meta })
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// [`Kind::Decode`] if it is not an answer of Consul.
    pub fn read(mut self) -> Result<(Tape, Meta), Error> {
        self.decode().map_err(|error| {
            error.with_endpoint(&self.meta.endpoint).with_attempts(self.meta.attempts)
        })?;
        let tape = match self.body {
            Body::Decoded(tape) => tape,
            Body::Absent | Body::Received(_) => {
                absent_value(self.endpoint).unwrap_or_else(Tape::null)
            }
        };
        Ok((tape, self.meta))
    }

    fn decode(&mut self) -> Result<(), Error> {
        if let Body::Received(body) = &self.body {
            self.body = Body::Decoded(self.tape(body.clone())?);
        }
        Ok(())
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
            Reply::Events => json(Base64::InEntries),
            Reply::KvEntries => self.entries(&body, Keys::Under(&self.key())),
            Reply::Member(name) => json(Base64::Nowhere)?
                .into_member(name)
                .filter(|member| matches!(member.top(), Item::Bytes(_)))
                .ok_or_else(|| {
                    self.not_understood(&format!("expected an object with {name}"), &body)
                }),
            Reply::FirstItem => json(Base64::Nowhere)?
                .into_first()
                .ok_or_else(|| self.not_understood("expected a list", &body)),
            Reply::Txn => {
                let outcome = json(Base64::InResults)?;
                if !matches!(outcome.top(), Item::Map(_)) {
                    return Err(self.not_understood("expected the results of a transaction", &body));
                }
                let results = outcome.into_member("Results");
                let is_list = |results: &Tape| matches!(results.top(), Item::List(_));
                let mut results = results.filter(is_list).unwrap_or_else(Tape::empty_list);
                txn::remove_values(&mut results, self.operations.as_deref().unwrap_or_default());
                Ok(results)
            }
            Reply::KvValue => {
                let entries = self.entries(&body, Keys::One(&self.key()))?;
                let entry =
                    (entries.top() == Item::List(1)).then(|| entries.into_first()).flatten();
                let meta = entry.as_ref().and_then(EntryMeta::of);
                let (Some(entry), Some(meta)) = (entry, meta) else {
                    return Err(self.not_understood("expected one entry", &body));
                };
                self.meta.entry = Some(meta);
                Ok(entry.into_member("Value").unwrap_or_else(|| Tape::of_bytes(Bytes::new())))
            }
        }
    }

    fn entries(&self, body: &Bytes, keys: Keys) -> Result<Tape, Error> {
        Tape::of_entries(body.clone(), keys).map_err(|error| match error {
            // Without the entry, which is none of the caller's.
            NotEntries::OtherKey(key) => {
                let message = format!("{}: the answer is about the key {key:?}", self.label);
                Error::new(Kind::Decode, message)
            }
            NotEntries::Invalid(why) => self.not_understood(&why, body),
        })
    }

    /// The key or prefix that the request names.
    fn key(&self) -> Cow<'_, [u8]> {
        let path = self.endpoint.path;
        let before = path.strip_suffix("{key}").unwrap_or(path);
        percent_decode_str(self.target.path().strip_prefix(before).unwrap_or_default()).into()
    }

    fn not_understood(&self, why: &str, body: &Bytes) -> Error {
        not_understood(self.secret, &self.label, why, body)
    }
}

fn not_understood(secret: bool, label: &str, why: &str, body: &Bytes) -> Error {
    let begins = match secret {
        true => String::new(),
        false => format!("; it begins with {}", excerpt(body)),
    };
    Error::new(Kind::Decode, format!("{label}: the answer is not Consul's: {why}{begins}"))
}

/// The beginning of a body, in one line.
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
mod tests;
