//! Replies: status, headers and body, and JSON as Go writes it.

use crate::log::Monitor;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use std::io;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The number of headers for which a reply has room at once: enough for most reads.
const MOST_HEADERS: usize = 12;

/// The bytes for which JSON has room at once: enough for a key with a short value.
const MOST_OF_A_KEY: usize = 256;

/// The first byte of the characters that separate lines, and of others.
const LINE_SEPARATORS: u8 = 0xe2;

/// The layout of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Compact,
    /// By four spaces, as an agent in dev mode writes it.
    Indented,
    /// The same with a newline at the end, as `?pretty` requests.
    IndentedLine,
}

/// A reply before it becomes an HTTP response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The log that follows the body without an end.
    pub monitor: Option<Monitor>,
}

impl Reply {
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::with_capacity(MOST_HEADERS),
            body: Bytes::new(),
            monitor: None,
        }
    }

    /// A success with no body.
    pub fn done() -> Self {
        Self::empty(StatusCode::OK).with(CONTENT_TYPE, JSON)
    }

    /// A success with a JSON body.
    pub fn json(style: Style, value: &impl Serialize) -> Self {
        Self::json_with(StatusCode::OK, style, value)
    }

    /// Any status with a JSON body.
    pub fn json_with(status: StatusCode, style: Style, value: &impl Serialize) -> Self {
        match to_json(style, value) {
            Ok(body) => Self { body: body.into(), ..Self::empty(status).with(CONTENT_TYPE, JSON) },
            Err(why) => Refusal::server(why.to_string()).into(),
        }
    }

    /// Any status with a text.
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self { body: text.into().into(), ..Self::empty(status).with(CONTENT_TYPE, TEXT) }
    }

    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// As [`Reply::with`], with a value that is known to be valid.
    pub fn with_text(self, name: &'static str, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => self.with(HeaderName::from_static(name), value),
            Err(_) => self,
        }
    }
}

impl From<Reply> for Response<Bytes> {
    fn from(reply: Reply) -> Self {
        let mut response = Response::new(reply.body);
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        if let Some(monitor) = reply.monitor {
            response.extensions_mut().insert(monitor);
        }
        response
    }
}

/// An error reply: a status and a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub text: String,
}

impl Refusal {
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// 400, for a request that the agent itself refuses.
    pub fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// 500, which Consul returns for most invalid input that a server finds.
    pub fn server(text: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    /// 404.
    pub fn unknown(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Reply::text(refusal.status, refusal.text)
    }
}

/// `value` as JSON, written as Go's encoder writes it.
fn to_json(style: Style, value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(MOST_OF_A_KEY);
    let indented = (style != Style::Compact).then(|| PrettyFormatter::with_indent(b"    "));
    let formatter = GoFormatter { indented };
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
    if style == Style::IndentedLine {
        out.push(b'\n');
    }
    Ok(out)
}

/// Escapes in strings the characters that Go's encoder escapes for HTML and JavaScript. One type for all
/// layouts, since what writes a value is in the module once for each type of formatter.
///
/// Source: the documentation of `json.Marshal` in Go's standard library.
struct GoFormatter {
    /// `None`: compact.
    indented: Option<PrettyFormatter<'static>>,
}

/// Methods that the layout's own formatter has.
macro_rules! of_layout {
    ($($method:ident($($argument:ident: $type:ty)?);)+) => {$(
        fn $method<W: ?Sized + io::Write>(&mut self, out: &mut W $(, $argument: $type)?) -> io::Result<()> {
            match &mut self.indented {
                Some(indented) => indented.$method(out $(, $argument)?),
                None => CompactFormatter.$method(out $(, $argument)?),
            }
        }
    )+};
}

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        text: &str,
    ) -> io::Result<()> {
        let is_plain = |byte| !matches!(byte, b'<' | b'>' | b'&' | LINE_SEPARATORS);
        if text.bytes().all(is_plain) {
            return out.write_all(text.as_bytes());
        }
        let mut written = 0;
        for (place, c) in text.char_indices() {
            if matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') {
                out.write_all(&text.as_bytes()[written..place])?;
                write!(out, "\\u{:04x}", u32::from(c))?;
                written = place + c.len_utf8();
            }
        }
        out.write_all(&text.as_bytes()[written..])
    }

    of_layout! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        begin_object_value();
        end_object_value();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        let json = to_json(Style::Compact, &"<a>&\u{2028}\"\n\u{e4}").expect("JSON");
        let expected = "\"\\u003ca\\u003e\\u0026\\u2028\\\"\\n\u{e4}\"";
        assert_eq!(String::from_utf8(json).expect("UTF-8"), expected);
    }

    #[test]
    fn pretty_is_four_spaces_and_a_newline_at_the_end() {
        let list = ["a"];
        assert_eq!(to_json(Style::IndentedLine, &list).expect("JSON"), b"[\n    \"a\"\n]\n");
        assert_eq!(to_json(Style::Indented, &list).expect("JSON"), b"[\n    \"a\"\n]");
        assert_eq!(to_json(Style::Compact, &list).expect("JSON"), b"[\"a\"]");
    }
}
