//! A real Consul agent over HTTP or HTTPS, on a TCP port or a unix socket.

use super::pool::{Pool, Target};
use super::{Options, Transport, tls};
use crate::clock::BoxFuture;
use crate::error::{Error, Kind};
use ::http::header::{AUTHORIZATION, HOST, USER_AGENT};
use ::http::{HeaderMap, HeaderValue, Request, Response, Uri};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use rustls::pki_types::{DnsName, ServerName};
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How the client calls itself.
const AGENT: &str = concat!("consul_ffi/", env!("CARGO_PKG_VERSION"));

/// The largest answer that is taken: above it are only lists that no Lua program could hold, and
/// endpoints that never stop sending. It is some 365 KV values of the largest size, 512 KiB, which
/// are 683 KiB each in JSON.
const MAX_REPLY_BYTES: usize = 256 << 20;

/// One endpoint of a real agent, with a pool of kept-alive connections.
pub struct HttpTransport {
    endpoint: String,
    pool: Arc<Pool>,
    /// What a request's path is put behind.
    prefix: String,
    /// What every request says that does not say otherwise.
    headers: HeaderMap,
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
        let refuse = |why: &str| Error::new(Kind::Config, format!("{endpoint}: {why}")).not_sent();
        let (target, host, prefix) = match endpoint.strip_prefix("unix://") {
            // The host that the official client names too.
            Some(path) => (Target::Unix(path.into()), "localhost".to_owned(), String::new()),
            None => {
                let url: Uri = endpoint.parse().map_err(|error| refuse(&format!("{error}")))?;
                let host = url.host().ok_or_else(|| refuse("it has no host"))?;
                let tls = match endpoint.starts_with("https://") {
                    true => {
                        Some((Arc::new(tls::config(&options.tls)?), server_name(host, options)?))
                    }
                    false => None,
                };
                let port = url.port().map_or(String::new(), |port| format!(":{port}"));
                let prefix = url.path().trim_end_matches('/').to_owned();
                (Target::Tcp(url.clone(), tls), format!("{host}{port}"), prefix)
            }
        };
        let mut headers = HeaderMap::new();
        headers.insert(
            HOST,
            HeaderValue::from_str(&host).map_err(|error| refuse(&error.to_string()))?,
        );
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(authorization) = &options.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(Self {
            endpoint: endpoint.to_owned(),
            pool: Pool::new(target, options),
            prefix,
            headers,
            turns: Semaphore::new(options.max_connections),
            options: options.clone(),
        })
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
        let mut request = self.addressed(request)?;
        let (connection, answer) = loop {
            let kept = self.pool.kept().await;
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.pool.connect().await.map_err(|error| self.failed(&*error, false))?,
            };
            match connection.try_send_request(request).await {
                Ok(answer) => break (connection, answer),
                Err(mut error) => match error.take_message() {
                    // The server closed the kept connection before anything was sent on it.
                    Some(unsent) if is_kept => request = unsent,
                    unsent => return Err(self.failed(error.error(), unsent.is_none())),
                },
            }
        };
        let (parts, body) = answer.into_parts();
        let body = self.body(body).await?;
        self.pool.keep(connection);
        Ok(Response::from_parts(parts, body))
    }

    /// The request as this endpoint gets it.
    fn addressed(&self, request: Request<Bytes>) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = request.map(Full::new);
        if !self.prefix.is_empty() {
            let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
            *request.uri_mut() = format!("{}{target}", self.prefix).parse().map_err(|error| {
                Error::new(Kind::Config, format!("{}: {error}", self.endpoint)).not_sent()
            })?;
        }
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        Ok(request)
    }

    /// Reads a body up to its end or [`MAX_REPLY_BYTES`].
    async fn body(&self, mut body: Incoming) -> Result<Bytes, Error> {
        let too_large = || {
            let limit_mib = MAX_REPLY_BYTES >> 20;
            let message = format!("{}: the answer is larger than {limit_mib} MiB", self.endpoint);
            Error::new(Kind::TooLarge, message)
        };
        if body.size_hint().lower() > MAX_REPLY_BYTES as u64 {
            return Err(too_large());
        }
        // Most bodies are one chunk, which then need not be copied.
        let Some(first) = self.chunk(&mut body).await? else { return Ok(Bytes::new()) };
        let Some(second) = self.chunk(&mut body).await? else { return Ok(first) };
        let mut whole = BytesMut::from(first);
        whole.extend_from_slice(&second);
        while let Some(chunk) = self.chunk(&mut body).await? {
            if whole.len() + chunk.len() > MAX_REPLY_BYTES {
                return Err(too_large());
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    async fn chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>, Error> {
        loop {
            match body.frame().await {
                None => return Ok(None),
                // What is no data is a trailer.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
                Some(Err(error)) => return Err(self.failed(&error, true)),
            }
        }
    }

    fn failed(&self, error: &(dyn StdError + 'static), sent: bool) -> Error {
        let of_tls = chain(error).find_map(|cause| cause.downcast_ref::<rustls::Error>());
        let (kind, sent, why) = match of_tls {
            Some(cause) => {
                let sent = sent && !tls::refuses_certificate(cause);
                (Kind::Tls, sent, tls::reason(cause))
            }
            None => (Kind::Connect, sent, reasons(error)),
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

/// The name that the server's certificate must be for.
fn server_name(host: &str, options: &Options) -> Result<ServerName<'static>, Error> {
    let refuse = |message: String| Error::new(Kind::Config, message).not_sent();
    match &options.tls.server_name {
        Some(name) => DnsName::try_from(name.clone())
            .map(ServerName::DnsName)
            .map_err(|_| refuse(format!("tls_server_name is {name:?}: it must be a host name"))),
        None => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            ServerName::try_from(bare.to_owned())
                .map_err(|error| refuse(format!("the host {host}: {error}")))
        }
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

/// An error and its causes as one line, each once.
fn reasons(error: &(dyn StdError + 'static)) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in chain(error) {
        let text = cause.to_string();
        if !causes.iter().any(|known| known.contains(&text)) {
            causes.push(text);
        }
    }
    causes.join(": ")
}
