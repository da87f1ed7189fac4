//! A real Consul agent over HTTP or HTTPS, on a TCP port or a unix socket.

use super::{Options, Transport, tls};
use crate::clock::BoxFuture;
use crate::error::{Error, Kind};
use ::http::header::{AUTHORIZATION, HOST};
use ::http::{HeaderMap, HeaderValue, Request, Response, Uri};
use bytes::{Bytes, BytesMut};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The largest answer that is taken: above it are only lists that no Lua program could hold, and
/// endpoints that never stop sending. It is some 365 KV values of the largest size, 512 KiB, which
/// are 683 KiB each in JSON.
const MAX_REPLY_BYTES: usize = 256 << 20;

/// One endpoint of a real agent, with a pool of kept-alive connections.
pub struct HttpTransport {
    client: reqwest::Client,
    endpoint: String,
    /// What a request's path is put behind.
    base: String,
    /// One permit for each request that may be under way.
    turns: Semaphore,
    options: Options,
}

impl HttpTransport {
    /// A transport to `endpoint`, `http://…` or `https://…` without a trailing slash, or
    /// `unix:///path`. Nothing is sent yet; the files that the options name are read now.
    ///
    /// # Errors
    /// [`Kind::Config`] when the URL is not one or a file cannot be used.
    pub fn new(endpoint: &str, options: &Options) -> Result<Self, Error> {
        let refuse =
            |why: String| Error::new(Kind::Config, format!("{endpoint}: {why}")).not_sent();
        let mut headers = HeaderMap::new();
        if let Some(authorization) = &options.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let mut base = endpoint.to_owned();
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // An agent is local or on the same network.
            .no_proxy()
            .connect_timeout(options.connect_timeout)
            .pool_max_idle_per_host(options.max_idle_connections)
            .pool_idle_timeout(options.idle_timeout)
            .tcp_nodelay(true)
            .user_agent(concat!("consul_ffi/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = endpoint.strip_prefix("unix://") {
            builder = builder.unix_socket(path);
            // The host that the official client names too.
            base = "http://localhost".to_owned();
        }
        let is_https = endpoint.starts_with("https://");
        let tls = if is_https { tls::config(&options.tls)? } else { tls::unused()? };
        if let (true, Some(name)) = (is_https, &options.tls.server_name) {
            let url = endpoint.parse::<Uri>().map_err(|error| refuse(error.to_string()))?;
            let real = RealHost::of(&url);
            base = renamed(&url, name).ok_or_else(|| {
                let message = format!("tls_server_name is {name:?}: it must be a host name");
                Error::new(Kind::Config, message).not_sent()
            })?;
            if let Some(authority) = url.authority() {
                let host = HeaderValue::from_str(authority.as_str());
                headers.insert(HOST, host.map_err(|error| refuse(error.to_string()))?);
            }
            builder = builder.dns_resolver(Arc::new(real));
        }
        let client = builder
            .tls_backend_preconfigured(tls)
            .default_headers(headers)
            .build()
            .map_err(|error| refuse(reasons(&error.without_url())))?;
        let turns = Semaphore::new(options.max_connections);
        Ok(Self { client, endpoint: endpoint.to_owned(), base, turns, options: options.clone() })
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
        // A connection that the server closed meanwhile is noticed only when its task runs.
        tokio::task::yield_now().await;
        let failed = |error: reqwest::Error| self.failed(error);
        let (parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let url = format!("{}{target}", self.base).parse().map_err(|error| {
            Error::new(Kind::Config, format!("{}: {error}", self.endpoint)).not_sent()
        })?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        if !body.is_empty() {
            *request.body_mut() = Some(body.into());
        }
        let mut answer = self.client.execute(request).await.map_err(failed)?;
        let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
        let mut response = Response::new(self.body(answer).await?);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
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
        let failed = |error: reqwest::Error| self.failed(error);
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

    fn failed(&self, error: reqwest::Error) -> Error {
        // The query can hold what a program must not find in its logs.
        let error = error.without_url();
        let of_tls = chain(&error).find_map(|cause| cause.downcast_ref::<rustls::Error>());
        let sent = !error.is_connect() && !error.is_builder();
        let (kind, sent, why) = match of_tls {
            Some(cause) => {
                let sent = sent && !tls::refuses_certificate(cause);
                (Kind::Tls, sent, tls::reason(cause))
            }
            None if error.is_builder() => (Kind::Config, false, reasons(&error)),
            None => (Kind::Connect, sent, reasons(&error)),
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

/// The endpoint's URL with another host name: TLS takes the name to check from the URL, and what it
/// resolves to is [`RealHost`]'s. None when it is no host name.
fn renamed(url: &Uri, name: &str) -> Option<String> {
    rustls::pki_types::DnsName::try_from(name).ok()?;
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    Some(format!("https://{name}{port}{}", url.path().trim_end_matches('/')))
}

/// Resolves every name to the addresses of the endpoint's own host.
struct RealHost(String);

impl RealHost {
    fn of(url: &Uri) -> Self {
        let host = url.host().unwrap_or_default();
        Self(host.trim_start_matches('[').trim_end_matches(']').to_owned())
    }
}

impl Resolve for RealHost {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            // The port is the URL's.
            let found: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
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

/// The causes of an error as one line, each once; the outermost only says that there was one.
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
