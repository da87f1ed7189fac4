//! Probes over the network: a TCP connection, and one exchange of HTTP in the clear.
//!
//! It is a few lines of HTTP/1.0, whose answers end where the connection does, rather than a client
//! with pools and TLS, so that the agent needs nothing but sockets.

use super::checks::{Finding, Probe, Prober};
use crate::clock::BoxFuture;
use http::Uri;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The most that is read of an answer.
const MOST: u64 = 1 << 20;

/// Probes through the sockets of the machine.
#[derive(Debug)]
pub(super) struct SocketProber;

impl Prober for SocketProber {
    fn probe<'a>(&'a self, probe: &'a Probe) -> BoxFuture<'a, Finding> {
        Box::pin(async move {
            let found = match probe {
                Probe::Tcp(address) => connect(address).await.map(|_| Finding::Connected),
                Probe::Http { url, method, headers, body } => {
                    exchange(url, method, headers, body).await
                }
            };
            found.unwrap_or_else(Finding::Failed)
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
) -> Result<Finding, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let host = uri.host().ok_or("http: no Host in request URL")?;
    let mut stream = connect(&format!("{host}:{}", uri.port_u16().unwrap_or(80))).await?;
    let sent = async {
        stream.write_all(request(&uri, method, headers, body).as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MOST).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = sent.await.map_err(|error| error.to_string())?;
    read(&answer).ok_or_else(|| "EOF".to_owned())
}

fn request(uri: &Uri, method: &str, headers: &[(String, String)], body: &str) -> String {
    let has = |name: &str| headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let mut text = format!("{method} {target} HTTP/1.0\r\n");
    let defaults = [
        ("Host", uri.authority().map_or("", |authority| authority.as_str())),
        ("User-Agent", "Consul Health Check"),
        ("Accept", "text/plain, text/*, */*"),
        ("Connection", "close"),
    ];
    for (name, value) in defaults.into_iter().filter(|(name, _)| !has(name)) {
        text += &format!("{name}: {value}\r\n");
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text + &format!("Content-Length: {}\r\n\r\n{body}", body.len())
}

/// The parts of an answer; `None` when it has no head.
fn read(answer: &[u8]) -> Option<Finding> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let (_, status) = head.lines().next()?.split_once(' ')?;
    let code = status.split(' ').next()?.parse().ok()?;
    let body = answer[end + 4..].to_vec();
    Some(Finding::Answered { code, status: status.to_owned(), body })
}
