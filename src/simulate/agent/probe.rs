//! The network side of checks: a TCP connection, or one HTTP request without TLS.

use super::checks::{Probe, ProbeResult, Prober};
use crate::clock::BoxFuture;
use crate::transport::http1::{ReceiveBuffer, RequestHeads, ResponseParser};
use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Uri};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The part of an answer's body that is read.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Probes through the sockets of the machine.
#[derive(Debug)]
pub(crate) struct SocketProber;

impl Prober for SocketProber {
    fn probe<'a>(&'a self, probe: &'a Probe) -> BoxFuture<'a, ProbeResult> {
        Box::pin(async move {
            let found = match probe {
                Probe::Tcp(address) => connect(address).await.map(|_| ProbeResult::Connected),
                Probe::Http { url, method, headers, body } => {
                    exchange(url, method, headers, body).await
                }
            };
            found.unwrap_or_else(ProbeResult::Failed)
        })
    }
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("dial tcp {address}: connect: connection refused")
        }
        _ => format!("dial tcp {address}: {error}"),
    })
}

async fn exchange(
    url: &str,
    method: &str,
    headers: &[(String, String)],
    body: &str,
) -> Result<ProbeResult, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let host = uri.host().ok_or("http: no Host in request URL")?.to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let heads = RequestHeads::new("", &default_headers(&uri)?);
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Bytes::copy_from_slice(body.as_bytes()));
    let request = request.map_err(|error| format!("net/http: {error}"))?;
    let mut stream = connect(&format!("{host}:{port}")).await?;
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
    let status = answer.status().zip(answer.status_line());
    let (code, status) = status.ok_or_else(|| "EOF".to_owned())?;
    Ok(ProbeResult::Answered {
        code: code.as_u16(),
        status,
        body: answer.finish().0.body().to_vec(),
    })
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
