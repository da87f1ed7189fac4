//! A real Consul agent over HTTP or HTTPS.

use super::Transport;
use crate::clock::BoxFuture;
use crate::error::{Error, Kind};
use ::http::{Request, Response, Uri};
use bytes::{Bytes, BytesMut};
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// The largest answer that is taken: above it are only lists that no Lua program could hold, and
/// endpoints that never stop sending. It is some 365 KV values of the largest size, 512 KiB, which
/// are 683 KiB each in JSON.
const MAX_REPLY_BYTES: usize = 256 << 20;

/// One endpoint of a real agent, with a pool of kept-alive connections.
pub struct HttpTransport {
    client: reqwest::Client,
    endpoint: String,
}

impl HttpTransport {
    /// A transport to `endpoint`, a URL without a path's trailing slash. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Kind::Config`] when the URL is not one or the TLS set-up fails.
    pub fn new(endpoint: &str, connect_timeout: Duration) -> Result<Self, Error> {
        // The provider is chosen once per process; a second choice is refused and is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(connect_timeout)
            .tcp_nodelay(true)
            .user_agent(concat!("consul_ffi/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| {
                Error::new(Kind::Config, format!("{endpoint}: {}", reasons(&error)))
            })?;
        Ok(Self { client, endpoint: endpoint.to_owned() })
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        // A connection that the server closed meanwhile is noticed only when its task runs.
        tokio::task::yield_now().await;
        let failed = |error: reqwest::Error| self.failed(&error);
        let (mut parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        parts.uri = format!("{}{target}", self.endpoint).parse::<Uri>().map_err(|error| {
            Error::new(Kind::Config, format!("{}{target}: {error}", self.endpoint)).not_sent()
        })?;
        let request =
            reqwest::Request::try_from(Request::from_parts(parts, body)).map_err(failed)?;
        let answer = self.client.execute(request).await.map_err(failed)?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        *response.body_mut() = self.body(answer).await?;
        Ok(response)
    }

    /// Reads a body up to its end or [`MAX_REPLY_BYTES`].
    async fn body(&self, mut answer: reqwest::Response) -> Result<Bytes, Error> {
        let too_large = || {
            let limit_mib = MAX_REPLY_BYTES >> 20;
            let message = format!("{}: the answer is larger than {limit_mib} MiB", self.endpoint);
            Error::new(Kind::TooLarge, message)
        };
        if answer.content_length().is_some_and(|length| length > MAX_REPLY_BYTES as u64) {
            return Err(too_large());
        }
        // Most bodies are one chunk, which then need not be copied.
        let failed = |error: reqwest::Error| self.failed(&error);
        let Some(first) = answer.chunk().await.map_err(failed)? else { return Ok(Bytes::new()) };
        let Some(second) = answer.chunk().await.map_err(failed)? else { return Ok(first) };
        let mut body = BytesMut::from(first);
        body.extend_from_slice(&second);
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_REPLY_BYTES {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    fn failed(&self, error: &reqwest::Error) -> Error {
        let why = reasons(error);
        let is_tls = chain(error).any(|cause| cause.is::<rustls::Error>());
        let (kind, sent) = match () {
            () if is_tls => (Kind::Tls, false),
            () if error.is_connect() => (Kind::Connect, false),
            () if error.is_builder() => (Kind::Config, false),
            () => (Kind::Connect, true),
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

/// The causes of an error as one line, each once; the outermost only repeats the URL.
fn reasons(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in chain(error).skip(1) {
        let text = cause.to_string();
        // hyper's own word for where it happened, which its cause says better.
        if text.starts_with("client error") {
            continue;
        }
        if !causes.iter().any(|known| known.contains(&text)) {
            causes.push(text);
        }
    }
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}
