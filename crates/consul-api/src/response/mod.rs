//! Answers: their value and metadata, or an error.

mod meta;
mod refusal;
mod txn;

pub use meta::{EntryMeta, HEADERS, Meta};
pub use refusal::{redirection, retry_after};

use super::request::Request;
use super::table::{Absent, Endpoint, Form, Location, Param, Reply, Verb};
use super::tape::{Item, NotTheAnswer, Tape};
use super::value::Value;
use super::value::shape::same_name;
use crate::error::{Error, Kind, RefusedOperation};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;
use std::slice;

/// The result of a successful call.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The value.
    pub value: Value,
    /// The metadata.
    pub meta: Meta,
}

/// A success, decoded: an answer of another form is refused before its connection is used again.
#[derive(Clone)]
pub struct Success {
    tape: Tape,
    /// The metadata.
    pub meta: Meta,
}

/// Without the body, which can hold a secret.
impl fmt::Debug for Success {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Success").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl Success {
    /// The value with its metadata.
    pub fn answer(self) -> Answer {
        Answer { value: self.tape.value(), meta: self.meta }
    }

    /// The value as it was read, and the metadata.
    pub fn read(self) -> (Tape, Meta) {
        (self.tape, self.meta)
    }
}

impl Request {
    /// Distinguishes success and failure, and decodes a success.
    ///
    /// # Errors
    /// A refusal of the server, by a status or by the `false` of a conditional write;
    /// [`Kind::Decode`] if this is not Consul's answer to the request.
    pub fn check(&self, response: Response<Bytes>) -> Result<Success, Error> {
        let mut meta = Meta::of(response.headers());
        // In this order: to find the endpoint and to check the answer takes as long as the rest.
        if !self.is_callers(&response)
            && let Some(error) = self.known().and_then(|known| known.check(response.clone()).err())
            && error.kind() == Kind::Decode
        {
            return Err(error);
        }
        self.refuse_encoding(&response)?;
        if self.full_response {
            return Ok(Success { tape: Tape::from(&whole(response)), meta });
        }
        let (endpoint, status) = (self.endpoint, response.status());
        // Consul has no other status of a success; what a path without a row answers is not known.
        let is_success = status == StatusCode::OK
            || status.is_success() && endpoint.reply == Reply::Body
            || endpoint.also_success.contains(&status.as_u16());
        if is_success {
            let decoded = self.decode(response.body(), &mut meta);
            // The failure of a proxy, with a status that would be a success.
            return match decoded {
                Err(error) if error.kind() == Kind::Decode && !status.is_success() => {
                    Err(self.refused(&response))
                }
                decoded => Ok(Success { tape: decoded?, meta }),
            };
        }
        let absent = absent_value(endpoint);
        if let Some(tape) = absent.filter(|_| self.is_missing(&response)) {
            return Ok(Success { tape, meta });
        }
        let error = self.refused(&response);
        // Some deletions answer with another status than 404.
        match endpoint.absent == Absent::Done && error.kind() == Kind::NotFound {
            true => Ok(Success { tape: Tape::done(), meta }),
            false => Err(error),
        }
    }

    /// The request to any path as that of the endpoint that the path is of.
    fn known(&self) -> Option<Request> {
        let is_raw = self.endpoint.reply == Reply::Body;
        let at = || crate::endpoint_at(self.http.method(), self.http.uri());
        let is_text = || percent_decode_str(self.http.uri().path()).decode_utf8().is_ok();
        let endpoint = is_raw.then(at).flatten().filter(|_| is_text())?;
        let query = self.http.uri().query().unwrap_or_default();
        let is_there = |param: &&Param| match param.location {
            Location::Query(name) => query.split('&').any(|it| it.split('=').next() == Some(name)),
            _ => false,
        };
        let guard = endpoint.all_options().filter(is_there).find_map(|param| param.guards);
        let secret = self.secret || endpoint.secret;
        Some(Request { endpoint, guard, secret, full_response: false, ..self.clone() })
    }

    /// Whether an answer to a request to any path is a success that the caller reads by himself: a whole answer with something
    /// in it, as programs for lua-resty-consul do, whose own tests have answers of any form.
    fn is_callers(&self, response: &Response<Bytes>) -> bool {
        let body = response.body().trim_ascii();
        let is_something = ![&b""[..], b"[]", b"{}", b"null"].contains(&body);
        self.full_response && response.status() == StatusCode::OK && is_something
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

    /// The value in a body.
    fn decode(&self, body: &Bytes, meta: &mut Meta) -> Result<Tape, Error> {
        match self.endpoint.reply {
            Reply::Applied => self.check_applied(body).map(|()| Tape::done()),
            Reply::Done if self.guard.is_some() => self.check_applied(body).map(|()| Tape::done()),
            Reply::Body => Ok(Tape::of_bytes(body.clone())),
            Reply::Archive if body.starts_with(GZIP) => Ok(Tape::of_bytes(body.clone())),
            Reply::Archive => Err(self.not_understood("expected an archive", body)),
            Reply::Done if self.endpoint.form == Form::Nothing => match body.is_empty() {
                true => Ok(Tape::done()),
                false => Err(self.not_understood("expected no body", body)),
            },
            Reply::Done => self.json(body, meta).map(|_| Tape::done()),
            Reply::KvEntries => match self.json(body, meta)? {
                // Consul answers 404.
                none if none.top() == Item::List(0) => {
                    Err(self.not_understood("expected entries", body))
                }
                entries => Ok(entries),
            },
            Reply::Json | Reply::Events => self.json(body, meta),
            Reply::Member(name) => self.json(body, meta)?.into_member(name).ok_or_else(|| {
                self.not_understood(&format!("expected an object with {name}"), body)
            }),
            Reply::FirstItem => {
                let list = self.json(body, meta)?;
                // Only a query has the answer that there is none.
                let is_none = list.top() == Item::List(0) && !self.endpoint.can_block();
                let first = list.into_first().filter(|_| !is_none);
                first.ok_or_else(|| self.not_understood("expected a list of one", body))
            }
            Reply::Txn => {
                let results = self.json(body, meta)?.into_member("Results");
                let mut results = match results {
                    Some(results) if results.top() != Item::Null => results,
                    _ => Tape::empty_list(),
                };
                match txn::take_results(&mut results, self.http.body()) {
                    Some(left_out) if left_out.is_empty() => Ok(results),
                    Some(left_out) => Err(self.left_out(&left_out)),
                    None => {
                        let why = "its results are not those of the operations";
                        Err(self.not_understood(why, body))
                    }
                }
            }
            Reply::KvValue => {
                let entries = self.json(body, meta)?;
                let entry =
                    (entries.top() == Item::List(1)).then(|| entries.into_first()).flatten();
                let found = entry.as_ref().and_then(EntryMeta::of);
                let (Some(entry), Some(found)) = (entry, found) else {
                    return Err(self.not_understood("expected one entry", body));
                };
                meta.entry = Some(found);
                Ok(entry.into_member("Value").unwrap_or_else(|| Tape::of_bytes(Bytes::new())))
            }
        }
    }

    /// The JSON of a body, which has the form that the row declares. An endpoint with blocking queries has an index,
    /// and by it an answer that there is nothing is told from another program's.
    fn json(&self, body: &Bytes, meta: &Meta) -> Result<Tape, Error> {
        let path = self.endpoint.subject(self.http.uri().path());
        let subject: Cow<[u8]> = percent_decode_str(path).into();
        let sent = OnceCell::new();
        let given = |name: &str| match name.starts_with(|first: char| first.is_ascii_uppercase()) {
            true => given_in(sent.get_or_init(|| self.sent()), name),
            false => self.given(name),
        };
        let tape = Tape::of_answer(body.clone(), &self.endpoint.form, &subject, &given);
        let tape = tape.map_err(|why| match why {
            // Without what it says, which is not the caller's.
            NotTheAnswer::AboutAnother(_) if self.secret => {
                self.strange("the answer is about another one".to_owned())
            }
            NotTheAnswer::AboutAnother(other) => {
                let noun = if self.endpoint.path.ends_with("{key}") { "the key " } else { "" };
                self.strange(format!("the answer is about {noun}{other:?}"))
            }
            NotTheAnswer::Invalid(why) => self.not_understood(&why, body),
        })?;
        let asked = || sent.get_or_init(|| self.sent()).as_array().map(Vec::len);
        // Each question of a list has an answer.
        if self.endpoint.method == Verb::Post
            && asked().is_some_and(|asked| tape.top() != Item::List(asked))
        {
            return Err(self.not_understood("it does not have an answer for each question", body));
        }
        let is_empty = matches!(tape.top(), Item::Null | Item::List(0) | Item::Map(0));
        if is_empty && meta.index.is_none() && self.endpoint.can_block() {
            return Err(self.not_understood("it is empty and has no X-Consul-Index", body));
        }
        Ok(tape)
    }

    /// The values of a parameter in the path or the query; of the end of an intention without its namespace. There are
    /// none if it is missing, or stands for all.
    fn given(&self, name: &str) -> Vec<String> {
        let uri = self.http.uri();
        let of_path =
            self.endpoint.segments(uri.path()).map(|(name, it)| -> (&str, &str) { (name, it) });
        let pairs = uri.query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
        let decoded = |it: &str| percent_decode_str(it).decode_utf8_lossy().into_owned();
        let of_path = of_path.filter(|(found, _)| *found == name).map(|(_, it)| decoded(it));
        let pairs = pairs.filter(|(found, _)| *found == name);
        let all = of_path.chain(pairs.map(|(_, it)| decoded(&it.replace('+', " "))));
        let all = all.filter(|it| !(it.is_empty() || name == "state" && it == "any"));
        match name {
            "source" | "destination" => {
                all.filter_map(|it| it.rsplit('/').next().map(str::to_owned)).collect()
            }
            _ => all.collect(),
        }
    }

    /// The request's body, if it is JSON.
    fn sent(&self) -> serde_json::Value {
        serde_json::from_slice(self.http.body()).unwrap_or_default()
    }

    fn check_applied(&self, body: &Bytes) -> Result<(), Error> {
        match body.trim_ascii() {
            b"true" => Ok(()),
            b"false" => Err(Error::new(
                Kind::Conflict,
                format!(
                    "{}: not applied: {}",
                    self.label,
                    self.guard.unwrap_or("Consul answered false")
                ),
            )
            .with_maybe_applied(false)
            .with_status(200)),
            _ => Err(self.not_understood("expected true or false", body)),
        }
    }

    /// The error of a transaction that Consul applied only in part.
    fn left_out(&self, operations: &[usize]) -> Error {
        let why = "its check's node or service does not exist";
        let refused =
            operations.iter().map(|index| RefusedOperation { index: *index, what: why.into() });
        let numbers: Vec<_> = operations.iter().map(|index| (index + 1).to_string()).collect();
        let numbers = numbers.join(", ");
        Error::new(
            Kind::Conflict,
            format!(
                "{}: Consul left operation {numbers} out, and applied the others: {why}",
                self.label
            ),
        )
        .with_status(200)
        .with_refused(refused.collect())
    }

    fn not_understood(&self, why: &str, body: &Bytes) -> Error {
        let begins = match self.secret || body.is_empty() {
            true => String::new(),
            false => format!("; it begins with {}", self.shown_of_another(body)),
        };
        self.strange(format!("the answer is not Consul's: {why}{begins}"))
    }

    /// The error of an answer that is not Consul's to this request: its endpoint is not one, or is behind something
    /// that confuses answers.
    fn strange(&self, why: String) -> Error {
        Error::new(Kind::Decode, format!("{}: {why}", self.label))
    }
}

/// The values of a field of the object that was sent, or of each in its list.
fn given_in(sent: &serde_json::Value, name: &str) -> Vec<String> {
    let objects = match sent {
        serde_json::Value::Array(items) => &items[..],
        object => slice::from_ref(object),
    };
    let members = objects.iter().filter_map(serde_json::Value::as_object).flatten();
    let values = members.filter(|(it, _)| same_name(name, it)).filter_map(|(_, it)| it.as_str());
    values.map(str::to_owned).collect()
}

/// How a file of gzip begins.
///
/// Source: RFC 1952, section 2.3.1.
const GZIP: &[u8] = &[0x1f, 0x8b];

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

/// The most bytes of an answer that is an error which are looked at: Consul's texts are shorter.
const BEGINNING: usize = 64 * 1024;

fn beginning(body: &[u8]) -> &[u8] {
    &body[..body.len().min(BEGINNING)]
}

/// The beginning of a body, in one line, for messages.
pub fn excerpt(body: &[u8]) -> String {
    const SHOWN_CHARS: usize = 300;
    let text = String::from_utf8_lossy(beginning(body));
    let line: Vec<&str> = text.split_whitespace().collect();
    let line = line.join(" ");
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line,
    }
}

#[cfg(test)]
mod tests;
