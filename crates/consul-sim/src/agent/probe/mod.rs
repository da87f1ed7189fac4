//! The I/O of checks.

mod http2;
mod script;
mod target;
mod tls;

use super::checks::{CheckTls, Probe, ProbeResult, Prober};
use crate::go;
use bytes::Bytes;
use consul_client::transport::http1::{ReceiveBuffer, RequestHeads, ResponseParser};
use consul_process::clock::BoxFuture;
use consul_process::os::Stream;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, LOCATION, REFERER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use std::io;
use target::Target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use url::Url;

/// The part of an answer's body that is read.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Probes with all that the machine has.
#[derive(Debug)]
pub(crate) struct MachineProber;

impl Prober for MachineProber {
    fn probe<'a>(&'a self, probe: &'a Probe) -> BoxFuture<'a, ProbeResult> {
        Box::pin(async move { run(probe).await.unwrap_or_else(ProbeResult::Failed) })
    }
}

async fn run(probe: &Probe) -> Result<ProbeResult, String> {
    match probe {
        Probe::Tcp { address, tls } => {
            stream(address, tls.as_ref(), &[]).await.map(|_| ProbeResult::Connected)
        }
        Probe::Http { .. } => answer(probe).await,
        Probe::Udp(address) => udp(address).await,
        Probe::Grpc { target, tls } => http2::grpc(target, tls.as_ref()).await,
        Probe::H2Ping { address, tls } => http2::ping(address, tls.as_ref()).await,
        Probe::Script(arguments) => script::run(arguments).await,
    }
}

/// A connection, with TLS if the check has it, for one of these protocols.
async fn stream(
    address: &str,
    tls: Option<&CheckTls>,
    protocols: &[&[u8]],
) -> Result<Box<dyn Stream>, String> {
    let stream = dial(address).await?;
    match tls {
        None => Ok(Box::new(stream)),
        Some(tls) => tls::shake_hands(stream, address, tls, protocols).await,
    }
}

/// Connects to the server of a URL.
async fn connect(uri: &Uri, tls: &CheckTls) -> Result<Box<dyn Stream>, String> {
    match (uri.scheme_str(), uri.host()) {
        (_, None) => Err("http: no Host in request URL".to_owned()),
        (Some("http"), Some(host)) => stream(&address_of(uri, host, 80)?, None, &[]).await,
        (Some("https"), Some(host)) => {
            stream(&address_of(uri, host, 443)?, Some(tls), &[b"http/1.1"]).await
        }
        (scheme, _) => {
            let scheme = go::quoted(scheme.unwrap_or_default());
            Err(format!("unsupported protocol scheme {scheme}"))
        }
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
async fn answer(probe: &Probe) -> Result<ProbeResult, String> {
    let Probe::Http { url, method, headers, body, follows, tls, .. } = probe else {
        return Ok(ProbeResult::NotRun);
    };
    if let Err(why) = target::check(url) {
        let output = format!("parse {url:?}: {why}");
        return Ok(ProbeResult::Said { status: "critical", output });
    }
    let (mut url, mut method, mut body) = (url.clone(), method.clone(), body.clone());
    let (mut referer, mut count) = (None, 0);
    loop {
        count += 1;
        let answered = exchange(&url, &method, headers, &body, referer.as_ref(), tls).await;
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
    tls: &CheckTls,
) -> Result<(String, Response<Bytes>), String> {
    let Target { uri, authorization } = target::target(url)?;
    let mut defaults = default_headers(&uri)?;
    if let Some(authorization) = authorization {
        defaults.insert(AUTHORIZATION, authorization);
    }
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
    let mut stream = connect(&uri, tls).await?;
    let text = |error: io::Error| error.to_string();
    stream.write_all(&heads.encode(&request)).await.map_err(text)?;
    stream.write_all(request.body()).await.map_err(text)?;
    let (mut buffer, mut answer) = (ReceiveBuffer::default(), ResponseParser::new(usize::MAX));
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

/// Whether a port answers, or at least does not refuse.
async fn udp(address: &str) -> Result<ProbeResult, String> {
    let failed = |error: io::Error| format!("dial udp {address}: {error}");
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await.map_err(failed)?;
    socket.connect(address).await.map_err(failed)?;
    let own = socket.local_addr().map_err(failed)?;
    socket.send(b"").await.map_err(failed)?;
    match socket.recv(&mut [0; 1]).await {
        Ok(_) => Ok(ProbeResult::Connected),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(format!("read udp {own}->{address}: read: connection refused"))
        }
        Err(error) => Err(format!("read udp {own}->{address}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    /// A port that is none must not be that of the scheme, where another program may answer.
    #[test]
    fn a_url_that_leads_nowhere_is_refused_as_consul_does() {
        for (url, error) in [
            ("http://127.0.0.1:99999/", "dial tcp: address 99999: invalid port"),
            ("https://a@[::1]:99999/", "dial tcp: address 99999: invalid port"),
            ("ftp://127.0.0.1/", "unsupported protocol scheme \"ftp\""),
            ("127.0.0.1", "unsupported protocol scheme \"\""),
        ] {
            let uri: Uri = url.parse().expect("a URI");
            let refused = connect(&uri, &CheckTls::default()).now_or_never();
            assert_eq!(refused.expect("at once").err().as_deref(), Some(error), "{url}");
        }
    }
}
