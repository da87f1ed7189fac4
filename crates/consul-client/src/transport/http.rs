//! The transport to a real Consul agent: a limit of requests in flight, a limit of the size of
//! answers, and errors with their causes. The connections are in `plain.rs` and `https.rs`.

use super::http1::TooLarge;
use super::https::Https;
use super::plain::Plain;
use super::{Expiry, Failure, Options, Transport, tls};
use ::http::{Request, Response};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::clock::BoxFuture;
use consul_process::os;
use std::error::Error as StdError;
use std::fmt;
use tokio::sync::{Semaphore, SemaphorePermit};

/// One endpoint of a real agent, with a pool of kept-alive connections.
pub struct HttpTransport {
    endpoint: String,
    channel: Channel,
    permits: Semaphore,
    options: Options,
}

enum Channel {
    Plain(Plain),
    Https(Box<Https>),
}

impl HttpTransport {
    /// A transport to `endpoint`, `http://…` or `https://…` without a trailing slash, or
    /// `unix:///path` or `https+unix:///path`. Nothing is sent yet; the files that the options name are read now.
    ///
    /// # Errors
    /// [`Kind::Config`] when the URL is not valid or a file cannot be used.
    pub fn new(endpoint: &str, options: &Options) -> Result<Self, Error> {
        let channel = match endpoint.starts_with("https") {
            true => Channel::Https(Box::new(Https::new(endpoint, options.headers(), options)?)),
            false => Plain::new(endpoint, options).map(Channel::Plain)?,
        };
        let permits = Semaphore::new(options.max_connections);
        Ok(Self { endpoint: endpoint.to_owned(), channel, permits, options: options.clone() })
    }

    /// Waits for a permit, which a request holds until its answer is read.
    async fn permit(&self) -> Result<SemaphorePermit<'_>, Error> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        let Options { connect_timeout, max_connections, .. } = self.options;
        match tokio::time::timeout(connect_timeout, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::new(
                Kind::Timeout,
                format!(
                    "{}: max_connections is {max_connections}, and no request in flight ended within {} ms",
                    self.endpoint,
                    connect_timeout.as_millis()
                ),
            )
            .retryable()
            .not_sent()),
        }
    }
}

/// The error of a request to `endpoint` without a complete answer.
pub fn error(endpoint: &str, Failure { cause, sent }: Failure) -> Error {
    if cause.is::<TooLarge>() {
        return Error::new(Kind::TooLarge, format!("{endpoint}: {cause}"));
    }
    let tls_error = chain(&*cause).find_map(|cause| cause.downcast_ref::<rustls::Error>());
    let (kind, sent, why) = match tls_error {
        Some(cause) => {
            let sent = sent && !tls::refuses_certificate(cause);
            (Kind::Tls, sent, tls::reason(cause))
        }
        None => (Kind::Connect, sent, reasons(&*cause)),
    };
    let error = Error::new(kind, format!("{endpoint}: {why}")).with_endpoint(endpoint);
    let mut causes = chain(&*cause).filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    let error = match causes.find_map(os::cure_of) {
        Some(cure) => error.with_note(cure),
        None => error,
    };
    let error = if kind == Kind::Connect { error.retryable() } else { error };
    if sent { error } else { error.not_sent() }
}

impl Transport for HttpTransport {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        // A block, not an async fn, whose future would hold the request twice.
        Box::pin(async move {
            let _permit = self.permit().await?;
            let answer = match &self.channel {
                Channel::Plain(plain) => plain.send(&request).await,
                // Boxed: otherwise a request over plain HTTP would have a future of the same size.
                Channel::Https(https) => Box::pin(https.send(request)).await,
            };
            answer.map_err(|failure| error(&self.endpoint, failure))
        })
    }

    fn expiry(&self) -> Option<Expiry> {
        match &self.channel {
            Channel::Plain(_) => None,
            Channel::Https(https) => https.expiry(),
        }
    }

    fn max_in_flight(&self) -> usize {
        self.options.max_connections
    }

    fn close_idle(&self) {
        match &self.channel {
            Channel::Plain(plain) => plain.close_idle(),
            Channel::Https(https) => https.close_idle(),
        }
    }

    fn close(&self) {
        match &self.channel {
            Channel::Plain(plain) => plain.close(),
            Channel::Https(https) => https.close(),
        }
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

/// An error and its causes.
pub(super) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
        // The source of an io::Error is the source of the error that it wraps, not that error.
        match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    }
    std::iter::successors(Some(error), |error| cause(*error))
}

/// The distinct causes of an error, in one line.
fn reasons(error: &(dyn StdError + 'static)) -> String {
    // Phrases of the HTTP clients that only say where it happened.
    const PLACES: &[&str] =
        &["client error", "error sending request", "error decoding", "request or response body"];
    // rustls names a page of its manual.
    let is_cut = |error: &(dyn StdError + 'static)| {
        let error = error.downcast_ref::<std::io::Error>();
        error.is_some_and(|it| it.to_string().contains("without sending TLS close_notify"))
    };
    if chain(error).any(is_cut) {
        return "the connection ended before the end of the answer, or without the end of TLS (close_notify) that shows that \
                it is whole"
            .to_owned();
    }
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
