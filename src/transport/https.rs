//! An agent with TLS, by reqwest.

use super::http::{Failure, MAX_REPLY_BYTES, TooLarge};
use super::{Options, tls};
use crate::error::{Error, Kind};
use ::http::header::HOST;
use ::http::{HeaderMap, HeaderValue, Request, Response, Uri};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::sync::Arc;

/// The connections to one agent.
pub(super) struct Https {
    client: reqwest::Client,
    /// What a request's path is put behind.
    base: String,
}

impl Https {
    /// Connections to `https://…` without a trailing slash; none is made yet, the files that the
    /// options name are read now.
    ///
    /// # Errors
    /// [`Kind::Config`] when the URL is not one or a file cannot be used.
    pub(super) fn new(
        endpoint: &str,
        mut headers: HeaderMap,
        options: &Options,
    ) -> Result<Self, Error> {
        let refuse =
            |why: String| Error::new(Kind::Config, format!("{endpoint}: {why}")).not_sent();
        let mut base = endpoint.to_owned();
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // An agent is local or on the same network.
            .no_proxy()
            .connect_timeout(options.connect_timeout)
            .pool_max_idle_per_host(options.max_idle_connections)
            .pool_idle_timeout(options.idle_timeout)
            .tcp_nodelay(true)
            .tls_backend_preconfigured(tls::config(&options.tls)?);
        if let Some(name) = &options.tls.server_name {
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
        let client = builder.default_headers(headers).build();
        let client = client.map_err(|error| refuse(error.without_url().to_string()))?;
        Ok(Https { client, base })
    }

    /// Sends a request and reads its answer.
    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Failure> {
        // A connection that the server closed meanwhile is noticed only when its task runs.
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
        let answer = self.client.execute(request).await.map_err(failure)?;
        let (head, body) = Response::<reqwest::Body>::from(answer).into_parts();
        Ok(Response::from_parts(head, read(body).await?))
    }
}

/// Reads a body up to its end or [`MAX_REPLY_BYTES`].
async fn read(mut body: reqwest::Body) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // What is no data is a trailer.
        let Ok(part) = frame.map_err(failure)?.into_data() else { continue };
        if part.len() > MAX_REPLY_BYTES - whole.len() {
            return Err(Failure { cause: TooLarge.into(), sent: true });
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

fn failure(error: reqwest::Error) -> Failure {
    let sent = !error.is_connect() && !error.is_builder();
    // The query can hold what a program must not find in its logs.
    Failure { cause: error.without_url().into(), sent }
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
