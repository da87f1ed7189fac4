//! A real Consul agent: so many requests at a time, answers up to a size, and in words what went
//! wrong. How the agent is reached is in `plain.rs` and `https.rs`.

use super::https::Https;
use super::plain::Plain;
use super::{Options, Transport, tls};
use crate::clock::BoxFuture;
use crate::error::{Error, Kind};
use ::http::header::{AUTHORIZATION, USER_AGENT};
use ::http::{HeaderMap, HeaderValue, Request, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Body;
use std::error::Error as StdError;
use std::fmt;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How the client calls itself.
const CLIENT: &str = concat!("consul_ffi/", env!("CARGO_PKG_VERSION"));

/// The largest answer that is taken: above it are only lists that no Lua program could hold, and
/// endpoints that never stop sending. It is some 365 KV values of the largest size, 512 KiB, which
/// are 683 KiB each in JSON.
const MAX_REPLY_BYTES: usize = 256 << 20;

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

/// Why there is no whole answer.
pub(super) struct Failure {
    pub(super) cause: Box<dyn StdError + Send + Sync>,
    /// Whether the agent can have seen the request.
    pub(super) sent: bool,
}

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

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let _turn = self.turn().await?;
        let failed = |failure| self.failed(failure);
        match &self.channel {
            Channel::Plain(plain) => {
                let (mut connection, answer) = plain.send(request).await.map_err(failed)?;
                let answer = connection.drive(self.read(answer)).await?;
                plain.keep(connection);
                Ok(answer)
            }
            Channel::Https(https) => self.read(https.send(request).await.map_err(failed)?).await,
        }
    }

    /// Reads an answer's body up to its end or [`MAX_REPLY_BYTES`].
    async fn read<B>(&self, answer: Response<B>) -> Result<Response<Bytes>, Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let (head, mut body) = answer.into_parts();
        let too_large = || {
            let limit_mib = MAX_REPLY_BYTES >> 20;
            let message = format!("{}: the answer is larger than {limit_mib} MiB", self.endpoint);
            Error::new(Kind::TooLarge, message)
        };
        if body.size_hint().lower() > MAX_REPLY_BYTES as u64 {
            return Err(too_large());
        }
        // Most bodies are one chunk, which then need not be copied.
        let Some(first) = self.chunk(&mut body).await? else {
            return Ok(Response::from_parts(head, Bytes::new()));
        };
        let Some(second) = self.chunk(&mut body).await? else {
            return Ok(Response::from_parts(head, first));
        };
        let mut whole = BytesMut::from(first);
        whole.extend_from_slice(&second);
        while let Some(chunk) = self.chunk(&mut body).await? {
            if whole.len() + chunk.len() > MAX_REPLY_BYTES {
                return Err(too_large());
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(Response::from_parts(head, whole.freeze()))
    }

    async fn chunk<B>(&self, body: &mut B) -> Result<Option<Bytes>, Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        loop {
            match body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(self.failed(Failure { cause: error.into(), sent: true }));
                }
                // What is no data is a trailer.
                Some(Ok(frame)) => {
                    if let Ok(chunk) = frame.into_data() {
                        return Ok(Some(chunk));
                    }
                }
            }
        }
    }

    fn failed(&self, Failure { cause, sent }: Failure) -> Error {
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
        Box::pin(self.exchange(request))
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
