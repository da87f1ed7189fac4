//! Values of options that are more than a type: addresses, URLs, paths, secrets.

use consul_api::error::Error;
use consul_api::table::Shape;
use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
use consul_client::transport::https::OVER_SOCKET;
use http::HeaderValue;
use std::ffi::OsString;
use std::net::Ipv6Addr;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The longest path of a unix socket in bytes.
///
/// Source: unix(7): `sun_path` has 108 bytes; the last one ends the string.
const LONGEST_SOCKET_PATH: usize = 107;

/// An address to which others can connect.
pub fn address(value: &Value, at: &ValuePath) -> Result<String, Error> {
    let text = Shape::Text.text(value, at)?;
    let is_host = |host: &str| {
        let is_ipv6 = host.starts_with('[') && host.ends_with(']');
        let refused =
            |c: char| c == '/' || c.is_whitespace() || c.is_control() || c == ':' && !is_ipv6;
        !host.is_empty() && !host.contains(refused)
    };
    match text.rsplit_once(':') {
        Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok_and(|it| it > 0) => {
            Ok(text)
        }
        _ => Err(at.bad_value(value, "it must be `host:port` with a port from 1 to 65535")),
    }
}

pub fn path(value: &Value, at: &ValuePath) -> Result<PathBuf, Error> {
    match value {
        Value::Bytes(path) if path.is_empty() => Err(at.bad_value(value, "it must not be empty")),
        Value::Bytes(path) => Ok(OsString::from_vec(path.clone()).into()),
        _ => Err(at.wrong_type_text("a path", value)),
    }
}

/// A secret that a header can hold.
pub fn printable(value: &Value, at: &ValuePath) -> Result<String, Error> {
    let text = secret(value).filter(|text| HeaderValue::from_str(text).is_ok());
    text.ok_or_else(|| at.secret("a string of printable characters"))
}

pub fn secret(value: &Value) -> Option<String> {
    match value {
        Value::Bytes(bytes) => String::from_utf8(bytes.clone()).ok(),
        _ => None,
    }
}

/// Why a text is not the address of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAnAddress {
    /// It has credentials: what shows it would show the password.
    Credentials,
    /// Anything else.
    Because(&'static str),
}

/// The URL of an endpoint with a scheme and without a trailing slash.
pub fn endpoint(text: &str, at: &ValuePath) -> Result<String, Error> {
    url(text).map_err(|why| match why {
        NotAnAddress::Because(why) => at.bad_value(&text.into(), why),
        NotAnAddress::Credentials => {
            at.secret("a URL without credentials, which the option http_auth takes")
        }
    })
}

const BARE_IPV6: &str = "an IPv6 address is written in brackets, such as [::1]";

/// Whether the host of a URL is an IPv6 address without the brackets, with a zone or without.
fn is_bare_ipv6(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '%']).next().unwrap_or_default();
    host.parse::<Ipv6Addr>().is_ok()
}

/// Why nothing can be connected to under this name.
fn unusable(host: &str) -> Option<&'static str> {
    if let Some(inside) = host.strip_prefix('[') {
        let address = inside.strip_suffix(']').unwrap_or(inside);
        return match address.split_once('%') {
            Some((address, _)) if address.parse::<Ipv6Addr>().is_ok() => Some(
                "an IPv6 address with a zone (%…) is not supported: use another address, or a name",
            ),
            _ if address.parse::<Ipv6Addr>().is_err() => {
                Some("in brackets there must be an IPv6 address")
            }
            _ => None,
        };
    }
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name = host.strip_suffix('.').unwrap_or(host);
    // Source: RFC 1035, 2.3.4.
    match name.split('.').any(|label| label.is_empty() || label.len() > 63) || name.len() > 253 {
        _ if !host.chars().all(is_of_name) => {
            Some("the host must have letters, digits, `-`, `_` and `.` only")
        }
        true => {
            Some("no host name has more than 253 characters, or between dots none or more than 63")
        }
        false => None,
    }
}

/// The URL of a server, `host:port` or a URL already, with a scheme and without a trailing slash.
///
/// # Errors
/// Why it is none.
pub fn url(text: &str) -> Result<String, NotAnAddress> {
    let refuse = |why| Err(NotAnAddress::Because(why));
    let socket = text.strip_prefix("unix://").or_else(|| text.strip_prefix(OVER_SOCKET));
    if let Some(path) = socket {
        return match path {
            _ if !path.starts_with('/') => {
                refuse("the path of a socket must begin with `/`: unix:///path")
            }
            _ if path.len() > LONGEST_SOCKET_PATH => {
                refuse("the path of a socket may have up to 107 bytes")
            }
            _ if path.contains('\0') => refuse("a path must not have zero bytes"),
            _ => Ok(text.to_owned()),
        };
    }
    if text.starts_with("unix:") || text.starts_with(['/', '.']) {
        return refuse("a unix socket is written unix:///path");
    }
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    // Other messages would show the password.
    if url.contains('@') {
        return Err(NotAnAddress::Credentials);
    }
    let Ok(uri) = url.parse::<http::Uri>() else {
        return refuse(if is_bare_ipv6(&url) { BARE_IPV6 } else { "it is not a URL" });
    };
    let scheme = match uri.scheme_str() {
        Some(scheme @ ("http" | "https")) => scheme,
        _ => return refuse("the scheme must be http, https, unix or https+unix"),
    };
    let authority = match uri.authority() {
        Some(authority) if !authority.host().is_empty() => authority,
        _ => return refuse("it has no host"),
    };
    match unusable(authority.host()) {
        // Also with a port: that can be a part of such an address.
        _ if is_bare_ipv6(&url) => return refuse(BARE_IPV6),
        Some(why) => return refuse(why),
        None => {}
    }
    let names_port = authority.as_str().len() > authority.host().len();
    if names_port && authority.port_u16().is_none_or(|port| port == 0) {
        return refuse("the port must be from 1 to 65535");
    }
    if uri.query().is_some() {
        return refuse("it must not have a query");
    }
    Ok(format!("{scheme}://{authority}{}", uri.path().trim_end_matches('/')))
}
