//! The one seam between the client and a Consul: an HTTP-shaped request goes in, an HTTP-shaped
//! response comes out. A real agent, the simulated agent and every test double implement it.

pub mod http;

use crate::clock::BoxFuture;
use crate::error::Error;
use ::http::{Request, Response};
use bytes::Bytes;
use std::fmt;

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
