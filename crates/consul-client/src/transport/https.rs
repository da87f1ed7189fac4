//! Connections with TLS, by reqwest.

use super::http::chain;
use super::http1::{MAX_REPLY_BYTES, TooLarge};
use super::tls::{self, TlsConfig, TlsFiles};
use super::{Cause, Expiry, Failure, Options, blocking_read};
use ::http::header::HOST;
use ::http::{HeaderMap, HeaderValue, Request, Response, Uri};
use bytes::{Bytes, BytesMut};
use consul_api::error::{Error, Kind};
use consul_process::clock::SystemClock;
use http_body_util::BodyExt as _;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How the endpoint of a unix socket with TLS begins.
pub const OVER_SOCKET: &str = "https+unix://";

/// The place of a unix socket in a URL, and the name that its certificate needs without `tls_server_name`.
const LOCALHOST: &str = "https://localhost";

/// The pool of connections to one agent. A new one takes its place when a file of the TLS options
/// changes.
pub struct Https {
    client: TlsConfig<reqwest::Client>,
    /// How many idle connections a pool keeps that is made now.
    max_idle: Arc<AtomicUsize>,
    /// The URL before the path of a request.
    base: String,
}

impl Https {
    /// A pool for `https://…` without a trailing slash, or `https+unix:///path`. Nothing is connected yet; the files that
    /// the options name are read now.
    ///
    /// # Errors
    /// [`Kind::Config`] when the URL is not valid or a file cannot be used.
    pub fn new(endpoint: &str, mut headers: HeaderMap, options: &Options) -> Result<Self, Error> {
        let refuse =
            |why: String| Error::new(Kind::Config, format!("{endpoint}: {why}")).not_sent();
        let socket = endpoint.strip_prefix(OVER_SOCKET).map(PathBuf::from);
        let url = match &socket {
            None => endpoint,
            Some(_) => LOCALHOST,
        };
        let (mut base, mut real) = (url.to_owned(), None);
        if let (Some(name), None) = (&options.tls.server_name, options.tls.server_address()) {
            let url = url.parse::<Uri>().map_err(|error| refuse(error.to_string()))?;
            real = Some(Arc::new(RealHost::of(&url)));
            base = renamed(&url, name).ok_or_else(|| {
                let message =
                    format!("tls_server_name is {name:?}: it must be a host name or an IP address");
                Error::new(Kind::Config, message).not_sent()
            })?;
            if let Some(authority) = url.authority() {
                let host = HeaderValue::from_str(authority.as_str());
                headers.insert(HOST, host.map_err(|error| refuse(error.to_string()))?);
            }
        }
        let (endpoint, of_pool) = (endpoint.to_owned(), options.clone());
        let max_idle = Arc::new(AtomicUsize::new(options.max_idle_connections));
        let kept = Arc::clone(&max_idle);
        let pool = move |tls| {
            let mut builder = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                // An agent is local or on the same network.
                .no_proxy()
                .connect_timeout(of_pool.connect_timeout)
                .pool_max_idle_per_host(kept.load(Ordering::Relaxed))
                .pool_idle_timeout(of_pool.idle_timeout)
                .tcp_nodelay(true)
                .tls_backend_preconfigured(tls)
                .default_headers(headers.clone());
            if let Some(real) = &real {
                builder = builder.dns_resolver(Arc::clone(real));
            }
            if let Some(path) = &socket {
                builder = builder.unix_socket(path.as_path());
            }
            builder.build().map_err(|error| {
                let why = format!("{endpoint}: {}", error.without_url());
                Error::new(Kind::Config, why).not_sent()
            })
        };
        let client = tls::config(&options.tls, Arc::new(SystemClock::new()), pool)?;
        Ok(Https { client, max_idle, base })
    }

    /// Which of its certificates expires first.
    pub fn expiry(&self) -> Option<Expiry> {
        self.client.look(TlsFiles::expiry)
    }

    /// Closes the connections that carry no request.
    pub fn close_idle(&self) {
        self.client.renew();
    }

    /// Closes them, and keeps none from now on.
    pub fn close(&self) {
        self.max_idle.store(0, Ordering::Relaxed);
        self.close_idle();
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Failure> {
        let (head, body) = self.open(request).await?.into_parts();
        Ok(Response::from_parts(head, read(body).await?))
    }

    /// Sends a request; the body of the answer is not read yet.
    pub async fn open(&self, request: Request<Bytes>) -> Result<Response<reqwest::Body>, Failure> {
        // Only the connection's task, after a turn of the runtime, notices that the server has closed
        // it or sent something. The first poll may be outside of the runtime, where there is no turn.
        if blocking_read::take() {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        let (parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let url = format!("{}{target}", self.base).parse();
        let url = url.map_err(|error| Failure { cause: Box::from(error), sent: false })?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        if !body.is_empty() {
            *request.body_mut() = Some(body.into());
        }
        let answer = self.client.current().execute(request).await.map_err(failure)?;
        Ok(Response::<reqwest::Body>::from(answer))
    }
}

/// Reads the next part of a body; `None` at its end.
pub async fn next_part(body: &mut reqwest::Body) -> Result<Option<Bytes>, Failure> {
    while let Some(frame) = body.frame().await {
        // Frames without data are trailers.
        if let Ok(part) = frame.map_err(failure)?.into_data() {
            return Ok(Some(part));
        }
    }
    Ok(None)
}

/// Reads a whole body of up to [`MAX_REPLY_BYTES`].
async fn read(mut body: reqwest::Body) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(part) = next_part(&mut body).await? {
        if part.len() > MAX_REPLY_BYTES - whole.len() {
            return Err(Failure { cause: TooLarge.into(), sent: true });
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

fn failure(error: reqwest::Error) -> Failure {
    let sent = !error.is_connect() && !error.is_builder();
    // The query of a URL can hold secrets.
    let error = error.without_url();
    let broken = if sent { None } else { broken_handshake(&error) };
    Failure { cause: broken.unwrap_or_else(|| error.into()), sent }
}

/// The error of a connection that was made and broke before it could carry a request.
fn broken_handshake(error: &reqwest::Error) -> Option<Cause> {
    // A connection that cannot be made is refused, unreachable or late.
    let breaks = |kind| {
        use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        matches!(kind, ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof)
    };
    let mut found = chain(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    let why = found.find(|cause| breaks(cause.kind()))?;
    Some(format!("the TLS handshake broke off: {why}: does it speak TLS?").into())
}

/// The endpoint's URL with another host name, from which TLS takes the name to check; [`RealHost`]
/// resolves it. `None` when it is not a host name.
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
            // The port is replaced by that of the URL.
            let found: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
