//! Where the request of a check goes, as Go reads a URL and writes it into a request.

use crate::go::{self, OF_A_PATH};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use percent_encoding::{percent_decode_str, percent_encode};

/// The bytes that a path may have besides. Source: `validEncoded` there.
const ALSO_VALID: &[u8] = b"!'()*[]%";

pub(super) struct Target {
    pub uri: Uri,
    /// The name and password of the URL.
    pub authorization: Option<HeaderValue>,
}

/// The parts of a URL with an authority; the query has its question mark.
struct Parts<'a> {
    scheme: &'a str,
    authority: &'a str,
    path: &'a str,
    query: &'a str,
    fragment: &'a str,
}

fn parts(url: &str) -> Option<Parts<'_>> {
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (scheme, rest) = url.split_once("://")?;
    let (authority, place) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (path, query) = place.split_at(place.find('?').unwrap_or(place.len()));
    Some(Parts { scheme, authority, path, query, fragment })
}

/// Refuses a URL that Go does not read, so that there is no request.
pub(super) fn check(url: &str) -> Result<(), String> {
    let texts = parts(url).map_or([""; 2], |it| [it.path, it.fragment]);
    texts.into_iter().try_for_each(check_escapes)
}

pub(super) fn target(url: &str) -> Result<Target, String> {
    check(url)?;
    let Some(Parts { scheme, authority, path, query, .. }) = parts(url) else {
        let url = url.split('#').next().unwrap_or_default();
        let uri = url.parse().map_err(|error| format!("{error}"))?;
        return Ok(Target { uri, authorization: None });
    };
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let path = match path {
        "" => "/".to_owned(),
        path if path.bytes().all(is_valid) => path.to_owned(),
        path => {
            let path: Vec<u8> = percent_decode_str(path).collect();
            percent_encode(&path, OF_A_PATH).to_string()
        }
    };
    let uri = format!("{scheme}://{host}{path}{query}").parse();
    let uri = uri.map_err(|error| format!("{error}"))?;
    Ok(Target { uri, authorization: user.and_then(basic) })
}

/// Whether a path that has the byte is sent as it was written.
fn is_valid(byte: u8) -> bool {
    ALSO_VALID.contains(&byte) || percent_encode(&[byte], OF_A_PATH).all(|same| same.len() == 1)
}

fn check_escapes(text: &str) -> Result<(), String> {
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    for (place, _) in text.match_indices('%') {
        let rest = &text[place..];
        if !is_hex(rest.as_bytes().get(1)) || !is_hex(rest.as_bytes().get(2)) {
            let shown: String = rest.chars().take(3).collect();
            return Err(format!("invalid URL escape {}", go::quoted(&shown)));
        }
    }
    Ok(())
}

/// The header for `name:password`.
fn basic(user: &str) -> Option<HeaderValue> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let plain = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let pair = [plain(name), plain(password)].join(&b':');
    HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_becomes_the_request_that_go_sends() {
        for (url, uri, authorization) in [
            ("http://a:1", "http://a:1/", None),
            ("http://a?q=1", "http://a/?q=1", None),
            ("http://a/b c/\u{e9}#x", "http://a/b%20c/%C3%A9", None),
            ("http://a/b!'()*[]%2F", "http://a/b!'()*[]%2F", None),
            ("http://a/ %2F", "http://a/%20/", None),
            ("http://u:p%40x@a/", "http://a/", Some("Basic dTpwQHg=")),
            ("http://u@a/", "http://a/", Some("Basic dTo=")),
        ] {
            let target = target(url).expect("a URL");
            assert_eq!(target.uri.to_string(), uri, "{url}");
            let given = target.authorization.as_ref().and_then(|value| value.to_str().ok());
            assert_eq!(given, authorization, "{url}");
        }
        for (url, escape) in [("http://a/%zz", "%zz"), ("http://a/b%", "%"), ("http://a/#%1", "%1")]
        {
            let why = target(url).err();
            assert_eq!(why, Some(format!("invalid URL escape \"{escape}\"")), "{url}");
        }
    }
}
