//! The I/O of checks: of all kinds in `consul-sim`; in the module TCP and HTTP without TLS, so that it stays small.

#[cfg(feature = "server")]
pub(crate) mod all;
#[cfg(feature = "server")]
mod http2;
#[cfg(feature = "server")]
mod script;
#[cfg(feature = "server")]
mod tls;

use super::checks::{Probe, ProbeResult, Prober};
use bytes::Bytes;
use consul_client::transport::http1::{ReceiveBuffer, RequestHeads, ResponseParser};
use consul_process::clock::BoxFuture;
use consul_process::os::Stream;
use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, REFERER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

/// The part of an answer's body that is read.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Connects to the server of a URL.
type Connect<'a> =
    &'a (dyn Fn(Uri) -> BoxFuture<'a, Result<Box<dyn Stream>, String>> + Send + Sync);

/// Probes through the sockets of the machine, without TLS.
#[derive(Debug)]
pub(crate) struct SocketProber;

impl Prober for SocketProber {
    fn probe<'a>(&'a self, probe: &'a Probe) -> BoxFuture<'a, ProbeResult> {
        Box::pin(async move {
            let found = match probe {
                Probe::Tcp { address, tls: None } => {
                    dial(address).await.map(|_| ProbeResult::Connected)
                }
                Probe::Http { url, .. } if url.starts_with("http://") => {
                    answer(probe, &|uri| Box::pin(connect(uri))).await
                }
                _ => Ok(ProbeResult::NotRun),
            };
            found.unwrap_or_else(ProbeResult::Failed)
        })
    }
}

async fn connect(uri: Uri) -> Result<Box<dyn Stream>, String> {
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(host)) => {
            let stream = dial(&address_of(&uri, host, 80)?).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        }
        (_, None) => Err("http: no Host in request URL".to_owned()),
        _ => Err("checks run without TLS in the module's simulated agent".to_owned()),
    }
}

fn address_of(uri: &Uri, host: &str, default_port: u16) -> Result<String, String> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    match (uri.port_u16(), place.strip_prefix(host).and_then(|port| port.strip_prefix(':'))) {
        (Some(port), _) => Ok(format!("{host}:{port}")),
        (None, Some(port)) if !port.is_empty() => {
            Err(format!("dial tcp: address {port}: invalid port"))
        }
        _ => Ok(format!("{host}:{default_port}")),
    }
}

async fn dial(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("dial tcp {address}: connect: connection refused")
        }
        _ => format!("dial tcp {address}: {error}"),
    })
}

/// How many redirects are followed. Source: `CheckRedirect` of Go's `net/http`.
const MAX_REDIRECTS: usize = 10;

/// The answer to the request of a check, also where redirects lead to.
async fn answer(probe: &Probe, connect: Connect<'_>) -> Result<ProbeResult, String> {
    let Probe::Http { url, method, headers, body, follows, .. } = probe else {
        return Ok(ProbeResult::NotRun);
    };
    let (mut url, mut method, mut body) = (url.clone(), method.clone(), body.clone());
    let (mut referer, mut count) = (None, 0);
    loop {
        count += 1;
        let answered = exchange(&url, &method, headers, &body, referer.as_ref(), connect).await;
        let (status, answer) = match answered {
            Err(why) if count > 1 => return Ok(ProbeResult::Redirected { url, why }),
            answered => answered?,
        };
        let code = answer.status().as_u16();
        let target = answer.headers().get(LOCATION).and_then(|target| target.to_str().ok());
        match (code, target) {
            (301..=303 | 307 | 308, Some(target)) if *follows => {
                if count == MAX_REDIRECTS {
                    let why = format!("stopped after {MAX_REDIRECTS} redirects");
                    return Ok(ProbeResult::Redirected { url: target.to_owned(), why });
                }
                let mut base = Url::parse(&url).map_err(|error| error.to_string())?;
                let next = base.join(target).map_err(|error| error.to_string())?;
                let is_hidden = base.scheme() == "https" && next.scheme() == "http";
                let _ = (base.set_username(""), base.set_password(None));
                referer = HeaderValue::from_str(base.as_str()).ok().filter(|_| !is_hidden);
                url = next.into();
                if code < 307 && method != "HEAD" {
                    "GET".clone_into(&mut method);
                    body.clear();
                }
            }
            _ => {
                let body = answer.into_body().to_vec();
                return Ok(ProbeResult::Answered { code, status, body });
            }
        }
    }
}

/// The answer to one request, and its status line.
async fn exchange(
    url: &str,
    method: &str,
    headers: &[(String, String)],
    body: &str,
    referer: Option<&HeaderValue>,
    connect: Connect<'_>,
) -> Result<(String, Response<Bytes>), String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let mut defaults = default_headers(&uri)?;
    if let Some(referer) = referer {
        defaults.insert(REFERER, referer.clone());
    }
    let heads = RequestHeads::new("", &defaults);
    let mut request = Request::builder().method(method).uri(uri.clone());
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Bytes::copy_from_slice(body.as_bytes()));
    let request = request.map_err(|error| format!("net/http: {error}"))?;
    let mut stream = connect(uri).await?;
    let text = |error: io::Error| error.to_string();
    stream.write_all(&heads.encode(&request)).await.map_err(text)?;
    stream.write_all(request.body()).await.map_err(text)?;
    let (mut buffer, mut answer) = (ReceiveBuffer::new(), ResponseParser::new(usize::MAX));
    while !answer.is_complete() && answer.body().len() < MAX_BODY_BYTES {
        match stream.read(buffer.room()).await.map_err(text)? {
            // A body that was cut off does not change the state.
            0 => break,
            count => buffer.parse(count, &mut answer).map_err(|error| error.to_string())?,
        }
    }
    let status = answer.status_line().ok_or_else(|| "EOF".to_owned())?;
    Ok((status, answer.finish().0))
}

/// The headers that Consul sends unless the check has its own.
fn default_headers(uri: &Uri) -> Result<HeaderMap, String> {
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let host = HeaderValue::from_str(host).map_err(|error| error.to_string())?;
    Ok(HeaderMap::from_iter([
        (HOST, host),
        (USER_AGENT, HeaderValue::from_static("Consul Health Check")),
        (ACCEPT, HeaderValue::from_static("text/plain, text/*, */*")),
        (CONNECTION, HeaderValue::from_static("close")),
    ]))
}
