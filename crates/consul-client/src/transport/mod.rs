//! The interface between the client and a Consul agent: an HTTP request goes in, an HTTP response
//! comes out. Real agents, the simulated agent and all test doubles implement it.

pub mod blocking_read;
pub mod crypto;
pub mod event_loop;
pub mod http;
pub mod http1;
pub mod https;
mod plain;
pub mod tls;
pub mod token_file;

use ::http::header::{AUTHORIZATION, USER_AGENT};
use ::http::{HeaderMap, HeaderValue, Request, Response};
use bytes::Bytes;
use consul_api::error::Error;
use consul_process::clock::BoxFuture;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The header `User-Agent`.
const CLIENT: &str = concat!("consul_ffi/", env!("CARGO_PKG_VERSION"));

/// The connections to an endpoint by default.
const MAX_CONNECTIONS: usize = 64;

/// The way to one agent or server.
///
/// The request's URI is a path and a query (`/v1/kv/a?raw`), already percent-encoded; scheme, host
/// and credentials of the connection belong to the transport. The future may be dropped at any
/// time, which abandons the request.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Sends one request and reads the whole response. A response of any status is `Ok`. `Err`
    /// means that there was no complete response; [`Error::maybe_applied`] reports whether the
    /// server can have seen the request.
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>>;

    /// Closes the connections that carry no request. The client calls it after an answer that was not
    /// the answer to its request: more such answers may be on the connection that it came from.
    fn close_idle(&self) {}

    /// Closes the connections that carry no request, and from now on each one after its answer, because its client was closed
    /// and may exist for long.
    fn close(&self) {}

    /// The endpoint's name for messages, without credentials: `http://127.0.0.1:8500`.
    fn endpoint(&self) -> &str;

    /// How often the token that it adds to requests without one has changed; `None` if it adds none.
    fn token_changes(&self) -> Option<u64> {
        None
    }

    /// Which of its certificates expires first, and when; `None`: it has none.
    fn expiry(&self) -> Option<Expiry> {
        None
    }

    /// How many requests may be on their way; others wait.
    fn max_in_flight(&self) -> usize {
        MAX_CONNECTIONS
    }
}

/// The end of certificates for connections to Consul.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry {
    /// When they expire, in Unix seconds.
    pub at_s: u64,
    /// The option that names them: `tls_cert_file`, or `tls_ca_file` or `tls_ca_path`, whose last authority expires.
    pub option: &'static str,
}

/// The lack of a complete response.
pub struct Failure {
    /// Why there is none.
    pub cause: Cause,
    /// Whether the agent can have seen the request.
    pub sent: bool,
}

/// The error of a connection.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Options of the connections to a real agent. The guard process gets all of them.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Options {
    /// The time limit for one connection, the TLS handshake included.
    pub connect_timeout: Duration,
    /// How many requests may be in flight, each on a connection of its own.
    pub max_connections: usize,
    /// How many idle connections are kept.
    pub max_idle_connections: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// The header `Authorization` of every request, marked as sensitive.
    #[serde(with = "sensitive")]
    pub authorization: Option<HeaderValue>,
    /// For `https://` endpoints.
    pub tls: TlsOptions,
}

/// Options of TLS: the trusted authorities and the client's own certificate.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TlsOptions {
    /// Whether the server's certificate is checked.
    pub verify: bool,
    /// A PEM file of trusted authorities.
    pub ca_file: Option<PathBuf>,
    /// A folder of such files. Without both, the system's authorities are trusted.
    pub ca_path: Option<PathBuf>,
    /// A PEM file with the client's certificate and its chain.
    pub cert_file: Option<PathBuf>,
    /// A PEM file with the key of the client's certificate.
    pub key_file: Option<PathBuf>,
    /// The host name or address that the server's certificate must be for, instead of the endpoint's host.
    pub server_name: Option<String>,
}

impl TlsOptions {
    /// The server's name if it is an address, in brackets or without.
    pub fn server_address(&self) -> Option<IpAddr> {
        let name = self.server_name.as_deref()?;
        let inner = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        inner.map_or_else(|| name.parse().ok(), |it| it.parse().map(IpAddr::V6).ok())
    }

    /// The name that the certificate of this host must be for.
    pub fn name_for(&self, host: &str) -> String {
        match (&self.server_name, self.server_address()) {
            (Some(name), None) => name.clone(),
            // The configuration checks it for the address.
            _ => host.to_owned(),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connect_timeout: Duration::from_millis(2000),
            // An agent refuses more than 200 connections from one address.
            max_connections: MAX_CONNECTIONS,
            max_idle_connections: 64,
            idle_timeout: Duration::from_millis(90_000),
            authorization: None,
            tls: TlsOptions::default(),
        }
    }
}

impl Options {
    /// The headers that they add to every request.
    pub fn headers(&self) -> HeaderMap {
        let authorization = self.authorization.iter().map(|value| (AUTHORIZATION, value.clone()));
        authorization.chain([(USER_AGENT, HeaderValue::from_static(CLIENT))]).collect()
    }
}

/// The value of a header as text, and as a sensitive one again.
mod sensitive {
    use http::HeaderValue;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &Option<HeaderValue>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = value.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()));
        text.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<HeaderValue>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let mut value = HeaderValue::from_str(&text).map_err(D::Error::custom)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl TlsOptions {
    /// Whether any file is named.
    pub fn has_files(&self) -> bool {
        [&self.ca_file, &self.ca_path, &self.cert_file, &self.key_file]
            .into_iter()
            .any(Option::is_some)
    }
}

impl Default for TlsOptions {
    fn default() -> Self {
        TlsOptions {
            verify: true,
            ca_file: None,
            ca_path: None,
            cert_file: None,
            key_file: None,
            server_name: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_the_same_after_json() {
        let mut authorization = HeaderValue::from_static("Basic czpw");
        authorization.set_sensitive(true);
        let tls =
            TlsOptions { server_name: Some("server.dc1.consul".into()), ..Default::default() };
        let options = Options { authorization: Some(authorization), tls, ..Options::default() };
        for options in [options, Options::default()] {
            let text = serde_json::to_string(&options).expect("JSON");
            let read: Options = serde_json::from_str(&text).expect("options");
            assert_eq!(format!("{read:?}"), format!("{options:?}"));
            assert_eq!(read.headers(), options.headers());
        }
    }
}
