//! Serves the agent on sockets, for `consul-sim`.

use super::listen::Listener;
use crate::os::Stream;
use crate::simulate::Agent;
use crate::sync::lock;
use bytes::Bytes;
use futures_util::future::select_all;
use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// The largest body, in bytes; the agent's own limits are lower.
const MAX_BODY: usize = 64 << 20;

/// The largest head of a request, in bytes: that of a Go server.
const MAX_HEAD: usize = (1 << 20) + 4096;

/// The most headers of a request, for which each request takes memory. A Go server has no such limit.
const MAX_HEADERS: usize = 1000;

/// The time limit for the head of a request, so that half-open connections are closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The answer to a client with too many connections, before its connection is closed.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\n\
    Content-Type: text/plain\r\nConnection: close\r\nContent-Length: 81\r\n\r\n\
    Your IP is issuing too many concurrent connections, please rate limit your calls\n";

/// Serves the agent forever.
///
/// `connections_per_client` is the limit of connections from one address.
///
/// # Errors
/// When a socket fails.
pub async fn serve(
    agent: Arc<Agent>,
    listeners: Vec<Listener>,
    connections_per_client: usize,
) -> io::Result<Infallible> {
    let timers = Arc::clone(&agent);
    tokio::spawn(async move { timers.run_timers().await });
    let clients = Arc::new(Clients { most: connections_per_client, held: Mutex::default() });
    let each = listeners.into_iter().map(|listener| {
        let (agent, clients) = (Arc::clone(&agent), Arc::clone(&clients));
        Box::pin(async move { accept(&agent, &listener, &clients).await })
    });
    select_all(each).await.0
}

async fn accept(
    agent: &Arc<Agent>,
    listener: &Listener,
    clients: &Arc<Clients>,
) -> io::Result<Infallible> {
    loop {
        let (accepted, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The process has no free file descriptor at the moment.
            Err(error) if error.raw_os_error() == Some(EMFILE) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => return Err(error),
        };
        let agent = Arc::clone(agent);
        let place = address.map(|address| clients.enter(address));
        tokio::spawn(async move {
            let stream = match timeout(HEAD_TIMEOUT, accepted.stream()).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
                Err(_) => return,
            };
            match place {
                Some(None) => refuse(stream).await,
                place => {
                    connection(agent, stream).await;
                    drop(place);
                }
            }
        });
    }
}

const EMFILE: i32 = 24;

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn connection(agent: Arc<Agent>, stream: Box<dyn Stream>) {
    let service = service_fn(|request| answer(Arc::clone(&agent), request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .title_case_headers(true)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn answer(
    agent: Arc<Agent>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let mut response = match refusal(&request) {
        Some(refusal) => refusal,
        None => {
            let (parts, body) = request.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await?.to_bytes();
            agent.handle(Request::from_parts(parts, body)).await.map(Full::new)
        }
    };
    if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
        // Its name in Go.
        response.extensions_mut().insert(ReasonPhrase::from_static(b"Request Entity Too Large"));
    }
    Ok(response)
}

/// The error of a Go server, or of Consul before it reads the body, for an invalid request.
fn refusal(request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
    let hosts = request.headers().get_all(HOST).iter().count();
    let (status, text) = match request.body().size_hint().exact() {
        _ if hosts == 0 && request.version() == Version::HTTP_11 => {
            (StatusCode::BAD_REQUEST, "400 Bad Request: missing required Host header".to_owned())
        }
        _ if hosts > 1 || !request.uri().path().starts_with('/') => {
            (StatusCode::BAD_REQUEST, "400 Bad Request".to_owned())
        }
        Some(length) if length > MAX_BODY as u64 => (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("Request body({length} bytes) too large, max size: {MAX_BODY} bytes."),
        ),
        _ => return None,
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Some(response)
}

async fn refuse(mut stream: Box<dyn Stream>) {
    let _ = stream.write_all(TOO_MANY).await;
    let _ = stream.shutdown().await;
}

/// The number of connections of each client's address.
struct Clients {
    most: usize,
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// One counted connection, released when dropped.
struct Place {
    clients: Arc<Clients>,
    address: IpAddr,
}

impl Clients {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut held = lock(&self.held);
        let count = held.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { clients: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = lock(&self.clients.held);
        if let Some(count) = held.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.address);
            }
        }
    }
}
