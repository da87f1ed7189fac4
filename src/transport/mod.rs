//! The one seam between the client and a Consul: an HTTP-shaped request goes in, an HTTP-shaped
//! response comes out. A real agent, the simulated agent and every test double implement it.

pub mod http;
mod http1;
mod https;
pub mod in_place;
mod plain;
pub(crate) mod tls;
pub mod token_file;

use crate::clock::BoxFuture;
use crate::error::Error;
use ::http::{HeaderValue, Request, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// One Consul endpoint that answers requests.
///
/// The request's URI is a path and a query (`/v1/kv/a?raw`), already percent-encoded; scheme, host
/// and credentials of the connection are the transport's own. The future may be dropped at any
/// time: that abandons the request.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Sends one request and reads the whole response. An answer with any status is `Ok`; an `Err`
    /// says that there was no complete answer, and its [`Error::maybe_applied`] whether the server
    /// can have seen the request.
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>>;

    /// The endpoint's name for messages, without credentials: `http://127.0.0.1:8500`.
    fn endpoint(&self) -> &str;
}

/// How a real agent is connected to.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long making one connection may take, the TLS handshake included.
    pub connect_timeout: Duration,
    /// How many requests may be under way at a time, each on a connection of its own.
    pub max_connections: usize,
    /// How many connections are kept for later requests.
    pub max_idle_connections: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// The header `Authorization` of every request; it is marked as sensitive.
    pub authorization: Option<HeaderValue>,
    /// How TLS is done with `https://` endpoints.
    pub tls: TlsOptions,
}

/// How TLS is done: whom to trust, and how to show who one is oneself.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TlsOptions {
    /// Whether the server's certificate is checked.
    pub verify: bool,
    /// A PEM file of trusted authorities.
    pub ca_file: Option<PathBuf>,
    /// A folder of such files. Without either the system's authorities are trusted.
    pub ca_path: Option<PathBuf>,
    /// A PEM file with the client's certificate and those that signed it.
    pub cert_file: Option<PathBuf>,
    /// A PEM file with the key of the client's certificate.
    pub key_file: Option<PathBuf>,
    /// The host name that the server's certificate must be for, instead of the endpoint's host.
    pub server_name: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connect_timeout: Duration::from_millis(2000),
            // An agent refuses more than 200 connections from one address.
            max_connections: 64,
            max_idle_connections: 64,
            idle_timeout: Duration::from_millis(90_000),
            authorization: None,
            tls: TlsOptions::default(),
        }
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
