//! A request as the handlers see it: the path's parameter, the query, the body.

use super::reply::{Refusal, Style};
use crate::filter::Filter;
use crate::go::{self, lossy};
use crate::settings::Settings;
use bytes::Bytes;
use consul_api::table::Endpoint;
use http::{HeaderMap, HeaderName, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};
use serde::Serialize;
use std::borrow::Cow;

/// Why a request has a part of its body only, in Go's words. A handler that decodes JSON takes the part if it is a
/// whole value.
#[derive(Clone, Copy)]
pub(crate) struct Cut(pub &'static str);

/// One request, routed.
pub(crate) struct Call {
    pub endpoint: &'static Endpoint,
    /// The path after the fixed part of the route, decoded.
    pub rest: Vec<u8>,
    pub query: Query,
    pub headers: HeaderMap,
    /// The part of the body that has come.
    pub body: Bytes,
    pub cut: Option<Cut>,
    pub style: Style,
    /// The filter that `filter=` sets for the entries of the answer.
    pub filter: Option<Filter>,
}

impl Call {
    /// Refuses other datacenters.
    pub fn check_datacenter(&self, settings: &Settings) -> Result<(), Refusal> {
        let asked = [self.query.get("datacenter"), self.query.get("dc")];
        match asked.into_iter().find(|name| !name.is_empty()) {
            Some(name) if name != settings.datacenter => {
                Err(Refusal::server("No path to datacenter"))
            }
            _ => Ok(()),
        }
    }

    /// The entries that the filter keeps.
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

    /// Refuses a body that is cut.
    pub fn check_whole(&self) -> Result<(), Refusal> {
        self.cut.map_or(Ok(()), |Cut(why)| Err(Refusal::server(why)))
    }

    pub fn rest_text(&self) -> String {
        lossy(&self.rest)
    }

    /// As [`Call::rest_text`], or a 400 with the text `missing` if it is empty.
    pub fn required_rest(&self, missing: &str) -> Result<String, Refusal> {
        if self.rest.is_empty() {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, missing));
        }
        Ok(self.rest_text())
    }

    /// The value of a header; empty if it is absent.
    pub fn header(&self, name: &HeaderName) -> &str {
        let value = self.headers.get(name).map(|value| std::str::from_utf8(value.as_bytes()));
        // Nothing here knows a word that is not UTF-8.
        value.map_or("", |text| text.unwrap_or("\u{fffd}"))
    }
}

/// The parameters of a query, decoded.
#[derive(Default)]
pub(crate) struct Query {
    /// In the order of the URL.
    pairs: Vec<(String, String)>,
    /// Whether the filter has bytes that are not UTF-8.
    has_broken_filter: bool,
}

impl Query {
    /// Reads a query as Go's `url.ParseQuery` does; `None` if that returns an error.
    pub fn parse(query: &str) -> Option<Self> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            if pair.contains(';') {
                return None;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((parameter(name)?, parameter(value)?))
        });
        let has_broken_filter = query.split('&').filter_map(|it| it.strip_prefix("filter=")).any(
            |value| matches!(unescape(value.as_bytes()), Some(it) if std::str::from_utf8(&it).is_err()),
        );
        Some(Self { pairs: pairs.collect::<Option<_>>()?, has_broken_filter })
    }

    /// Whether the filter has bytes that are not UTF-8.
    pub fn has_broken_filter(&self) -> bool {
        self.has_broken_filter
    }

    /// Whether the parameter is present, with a value or without.
    pub fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(known, _)| known == name)
    }

    /// The parameter's first value; empty if absent.
    pub fn get(&self, name: &str) -> &str {
        let first = self.pairs.iter().find(|(known, _)| known == name);
        first.map_or("", |(_, value)| value.as_str())
    }

    /// All values of a repeated parameter.
    pub fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The parameters that select a result, without those about waiting and layout.
    pub fn identity(&self) -> String {
        const HOW: &[&str] = &["index", "wait", "stale", "cached", "pretty"];
        let kept = self.pairs.iter().filter(|(name, _)| !HOW.contains(&name.as_str()));
        Query { pairs: kept.cloned().collect(), has_broken_filter: false }.encoded()
    }

    /// The query as Go's `url.Values.Encode` writes it: sorted by name.
    pub fn encoded(&self) -> String {
        // Go leaves the unreserved characters of RFC 3986 as they are.
        const ESCAPED: &AsciiSet =
            &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');
        let escape = |text: &str| utf8_percent_encode(text, ESCAPED).to_string().replace(' ', "+");
        let mut pairs: Vec<_> = self.pairs.iter().collect();
        pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
        let written: Vec<_> = pairs
            .into_iter()
            .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
            .collect();
        written.join("&")
    }
}

/// A text without the escapes of a query, as Go's `url.QueryUnescape` reads it.
///
/// # Errors
/// Go's text for a `%` that is not followed by two hexadecimal digits.
pub(crate) fn query_unescape(text: &str) -> Result<String, String> {
    parameter(text).ok_or_else(|| {
        let is_wrong = |rest: &&str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() < 2;
        let mut rests = text.match_indices('%').map(|(place, _)| &text[place + 1..]);
        let rest = rests.find(is_wrong).unwrap_or_default();
        let shown: String = rest.chars().take(2).collect();
        format!("invalid URL escape {}", go::quoted(format!("%{shown}")))
    })
}

fn parameter(text: &str) -> Option<String> {
    unescape(text.replace('+', " ").as_bytes()).map(|bytes| lossy(&bytes))
}

/// Percent-decoded bytes; `None` if a `%` is not followed by two hexadecimal digits.
pub(crate) fn unescape(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !text.contains(&b'%') {
        return Some(text.into());
    }
    let whole = text.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(place, _)| {
        text.get(place + 1..place + 3)
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    whole.then(|| percent_decode(text).into())
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
    fn semicolons_and_bad_escapes_are_invalid() {
        for text in ["a;b", "a=%zz", "a=%2", "%"] {
            assert!(Query::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_query_is_written_out_sorted() {
        let query = Query::parse("cas=1&acquire=z%20/z&recurse").expect("a query");
        assert_eq!(query.encoded(), "acquire=z+%2Fz&cas=1&recurse=");
    }
}
