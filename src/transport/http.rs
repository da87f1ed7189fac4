//! A real Consul agent: so many requests at a time, answers up to a size, and in words what went
//! wrong. How the agent is reached is in `plain.rs` and `https.rs`.

use super::https::Https;
use super::plain::Plain;
use super::{Options, Transport, tls};
use crate::clock::BoxFuture;
use crate::error::{Error, Kind};
use ::http::header::{AUTHORIZATION, USER_AGENT};
use ::http::{HeaderMap, HeaderValue, Request, Response};
use bytes::Bytes;
use std::error::Error as StdError;
use std::fmt;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How the client calls itself.
const CLIENT: &str = concat!("consul_ffi/", env!("CARGO_PKG_VERSION"));

/// The largest answer that is taken: above it are only lists that no Lua program could hold, and
/// endpoints that never stop sending. It is some 365 KV values of the largest size, 512 KiB, which
/// are 683 KiB each in JSON.
pub(super) const MAX_REPLY_BYTES: usize = 256 << 20;

/// One endpoint of a real agent, with a pool of kept-alive connections.
pub struct HttpTransport {
    endpoint: String,
    channel: Channel,
    /// One permit for each request that may be under way.
    turns: Semaphore,
    options: Options,
}

enum Channel {
    Plain(Plain),
    Https(Https),
}

pub(super) type Cause = Box<dyn StdError + Send + Sync>;

/// Why there is no whole answer.
pub(super) struct Failure {
    pub(super) cause: Cause,
    /// Whether the agent can have seen the request.
    pub(super) sent: bool,
}

/// An answer above [`MAX_REPLY_BYTES`].
#[derive(Debug)]
pub(super) struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer is larger than {} MiB", MAX_REPLY_BYTES >> 20)
    }
}

impl StdError for TooLarge {}

impl HttpTransport {
    /// A transport to `endpoint`, `http://…` or `https://…` without a trailing slash, or
    /// `unix:///path`. Nothing is sent yet; the files that the options name are read now.
    ///
    /// # Errors
    /// [`Kind::Config`] when the URL is not one or a file cannot be used.
    pub fn new(endpoint: &str, options: &Options) -> Result<Self, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(CLIENT));
        if let Some(authorization) = &options.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let channel = match endpoint.starts_with("https://") {
            true => Https::new(endpoint, headers, options).map(Channel::Https)?,
            false => Plain::new(endpoint, headers, options).map(Channel::Plain)?,
        };
        let turns = Semaphore::new(options.max_connections);
        Ok(Self { endpoint: endpoint.to_owned(), channel, turns, options: options.clone() })
    }

    /// The permit for one request, which holds it until its answer is read.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Error> {
        if let Ok(turn) = self.turns.try_acquire() {
            return Ok(turn);
        }
        let Options { connect_timeout, max_connections, .. } = self.options;
        match tokio::time::timeout(connect_timeout, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Error::new(
                Kind::Timeout,
                format!(
                    "{}: as many requests as max_connections allows ({max_connections}) are under \
                     way, and none ended within {} ms",
                    self.endpoint,
                    connect_timeout.as_millis()
                ),
            )
            .transient()
            .not_sent()),
        }
    }

    fn failed(&self, Failure { cause, sent }: Failure) -> Error {
        if cause.is::<TooLarge>() {
            return Error::new(Kind::TooLarge, format!("{}: {cause}", self.endpoint));
        }
        let of_tls = chain(&*cause).find_map(|cause| cause.downcast_ref::<rustls::Error>());
        let (kind, sent, why) = match of_tls {
            Some(cause) => {
                let sent = sent && !tls::refuses_certificate(cause);
                (Kind::Tls, sent, tls::reason(cause))
            }
            None => (Kind::Connect, sent, reasons(&*cause)),
        };
        let error =
            Error::new(kind, format!("{}: {why}", self.endpoint)).with_endpoint(&self.endpoint);
        let error = if kind == Kind::Connect { error.transient() } else { error };
        if sent { error } else { error.not_sent() }
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        // A block and no function, in which the request would take its room twice.
        Box::pin(async move {
            let _turn = self.turn().await?;
            let answer = match &self.channel {
                Channel::Plain(plain) => plain.send(&request).await,
                Channel::Https(https) => https.send(request).await,
            };
            answer.map_err(|failure| self.failed(failure))
        })
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpTransport").field(&self.endpoint).finish()
    }
}

fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
        // An io::Error hides the error that it was made from, so step into it.
        match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    }
    std::iter::successors(Some(error), |error| cause(*error))
}

/// The causes of an error as one line, each once.
fn reasons(error: &(dyn StdError + 'static)) -> String {
    // Words of the HTTP clients for where it happened, which the causes say better.
    const PLACES: &[&str] =
        &["client error", "error sending request", "error decoding", "request or response body"];
    let texts: Vec<String> = chain(error).map(ToString::to_string).collect();
    let mut causes: Vec<&str> = Vec::new();
    for (place, text) in texts.iter().enumerate() {
        let is_place = PLACES.iter().any(|name| text.starts_with(name));
        let is_last = place + 1 == texts.len();
        if (is_last || !is_place) && !causes.iter().any(|known| known.contains(text.as_str())) {
            causes.push(text);
        }
    }
    causes.join(": ")
}
