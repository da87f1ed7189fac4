//! A request as the handlers see it: the path's parameter, the query, the body.

use super::filter::Filter;
use super::reply::{Refusal, Reply, Style};
use crate::wire::table::Endpoint;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};
use serde::Serialize;

/// One request, routed.
pub(super) struct Call {
    pub endpoint: &'static Endpoint,
    /// What stands in the path behind the route's fixed part, decoded.
    pub rest: Vec<u8>,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub style: Style,
    /// What `filter=` says about the entries of the answer.
    pub filter: Option<Filter>,
}

impl Call {
    /// The entries that the call's filter keeps.
    pub fn select<T: Serialize>(
        &self,
        entries: impl Iterator<Item = T>,
    ) -> Result<Vec<T>, Refusal> {
        let Some(filter) = &self.filter else { return Ok(entries.collect()) };
        let mut kept = Vec::new();
        for entry in entries {
            let json =
                serde_json::to_value(&entry).map_err(|why| Refusal::server(why.to_string()))?;
            if filter.matches(&json).map_err(Refusal::server)? {
                kept.push(entry);
            }
        }
        Ok(kept)
    }

    /// Answers with the entries that the call's filter keeps.
    pub fn list<T: Serialize>(&self, entries: impl Iterator<Item = T>) -> Reply {
        match self.select(entries) {
            Ok(kept) => Reply::json(self.style, &kept),
            Err(refusal) => refusal.into(),
        }
    }

    /// The path's parameter as text.
    pub fn rest_text(&self) -> String {
        lossy(&self.rest)
    }

    /// The path's parameter as text, which must not be empty.
    pub fn named(&self, missing: &str) -> Result<String, Refusal> {
        if self.rest.is_empty() {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, missing));
        }
        Ok(self.rest_text())
    }

    /// The value of a header that is text; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

/// The parameters of a query, decoded, in the order of the URL.
#[derive(Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query as Go's `url.ParseQuery` does; `None` where that gives an error.
    pub fn parse(query: &str) -> Option<Self> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            if pair.contains(';') {
                return None;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((parameter(name)?, parameter(value)?))
        });
        pairs.collect::<Option<Vec<_>>>().map(Self)
    }

    /// Whether the parameter is there, with a value or without.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// The parameter's first value; empty when there is none.
    pub fn get(&self, name: &str) -> &str {
        let first = self.0.iter().find(|(known, _)| known == name);
        first.map_or("", |(_, value)| value.as_str())
    }

    /// All values of a parameter that may be repeated.
    pub fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// What says which thing is read, without what says how.
    pub fn identity(&self) -> String {
        const HOW: &[&str] = &["index", "wait", "stale", "cached", "pretty"];
        let kept = self.0.iter().filter(|(name, _)| !HOW.contains(&name.as_str()));
        Query(kept.cloned().collect()).encoded()
    }

    /// The query written out as Go's `url.Values.Encode` does: sorted by name.
    pub fn encoded(&self) -> String {
        // Go leaves the unreserved characters of RFC 3986 as they are.
        const ESCAPED: &AsciiSet =
            &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');
        let escape = |text: &str| utf8_percent_encode(text, ESCAPED).to_string().replace(' ', "+");
        let mut pairs: Vec<_> = self.0.iter().collect();
        pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
        let written: Vec<_> = pairs
            .into_iter()
            .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
            .collect();
        written.join("&")
    }
}

fn parameter(text: &str) -> Option<String> {
    unescape(text.replace('+', " ").as_bytes()).map(|bytes| lossy(&bytes))
}

/// Percent-decoded bytes; `None` when a `%` is not followed by two hexadecimal digits.
pub(super) fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let whole = text.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(place, _)| {
        text.get(place + 1..place + 3)
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    whole.then(|| percent_decode(text).collect())
}

/// Bytes as text, with one U+FFFD for each byte that is not UTF-8, as Go's JSON encoder writes it.
pub(super) fn lossy(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

/// Text in double quotes as Go's `%q` writes it.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\u{7}' => text.push_str("\\a"),
                '\u{8}' => text.push_str("\\b"),
                '\u{c}' => text.push_str("\\f"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{b}' => text.push_str("\\v"),
                c if c.is_ascii_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if c.is_control() => text.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => text.push(c),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_in_a_query_is_a_space() {
        let query = Query::parse("a=x+y&b=%2B&c").expect("a query");
        assert_eq!((query.get("a"), query.get("b"), query.get("c")), ("x y", "+", ""));
        assert!(query.has("c") && !query.has("d"));
    }

    #[test]
    fn semicolons_and_bad_escapes_are_no_query() {
        for text in ["a;b", "a=%zz", "a=%2", "%"] {
            assert!(Query::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_query_is_written_out_sorted() {
        let query = Query::parse("cas=1&acquire=z%20/z&recurse").expect("a query");
        assert_eq!(query.encoded(), "acquire=z+%2Fz&cas=1&recurse=");
    }

    #[test]
    fn text_is_quoted_as_go_quotes_it() {
        assert_eq!(quoted(b"a\"\\\n\x01\xff\xc3\xa4"), "\"a\\\"\\\\\\n\\x01\\xff\u{e4}\"");
    }

    #[test]
    fn every_byte_that_is_not_utf8_becomes_one_replacement_character() {
        assert_eq!(lossy(b"a\xf0\x9f\x98z"), "a\u{fffd}\u{fffd}\u{fffd}z");
    }
}
