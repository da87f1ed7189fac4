//! The side that takes requests: a listener, its connections, and what is asked of a request before
//! the program hears of it.

use super::auth;
use super::incoming::Outcome;
use super::wire::{self, Body, CALL_PATH, Head, MAX_HEAD_BYTES, NONCE, NONCE_PATH, Signing};
use super::{DataPlane, LONGEST_CALL};
use crate::error::{Error, Kind};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};

/// How many connections there may be; more are closed at once.
const MOST_CONNECTIONS: usize = 512;

/// How long a connection may be idle, or take for the head of a request.
pub(super) const IDLE: Duration = Duration::from_secs(30);

/// The pause when the process has no descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Takes requests for ever. Connections end with it.
pub(super) async fn serve(plane: Arc<DataPlane>, listener: TcpListener) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) if connections.len() < MOST_CONNECTIONS => {
                connections.spawn(connection(Arc::clone(&plane), stream));
            }
            Ok(_) => tracing::warn!(most = MOST_CONNECTIONS, "too many connections of other nodes"),
            Err(error) => {
                tracing::info!(%error, "a connection of another node was not accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// A connection of another node.
struct Connection {
    nonce: String,
    /// The counter of the last request.
    counter: AtomicU64,
}

async fn connection(plane: Arc<DataPlane>, stream: TcpStream) {
    // A reply is one write; waiting for more would only delay it.
    let _ = stream.set_nodelay(true);
    let Ok(nonce) = auth::nonce() else { return };
    let connection = Connection { nonce, counter: AtomicU64::new(0) };
    let service = service_fn(|request| answer(&plane, &connection, request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of another node ended");
    }
}

async fn answer(
    plane: &DataPlane,
    connection: &Connection,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() == Method::GET && request.uri().path() == NONCE_PATH {
        let mut response = Response::default();
        let nonce = HeaderValue::from_str(&connection.nonce);
        nonce.into_iter().for_each(|nonce| _ = response.headers_mut().insert(NONCE, nonce));
        return Ok(response);
    }
    let counter = match connection.authenticate(plane, &request) {
        Ok(counter) => counter,
        Err(error) => return Ok(wire::response(Err(error))),
    };
    let outcome = take(plane, request).await;
    let body = outcome.as_ref().map_or_else(
        |error| Bytes::copy_from_slice(error.message().as_bytes()),
        |body| body.bytes.clone(),
    );
    let mut response = wire::response(outcome);
    if let Some(key) = &plane.options().cluster_key {
        let signing = Signing { key, nonce: &connection.nonce, counter };
        if let Err(error) = wire::sign(response.headers_mut(), "reply", &body, &signing) {
            response = wire::response(Err(error));
        }
    }
    Ok(response)
}

fn refusal(status: u16, kind: Kind, why: impl Into<String>) -> Error {
    Error::new(kind, why).with_status(status).not_sent()
}

impl Connection {
    /// The counter of a request whose sender has the cluster's key; 0 when there is no key.
    fn authenticate(&self, plane: &DataPlane, request: &Request<Incoming>) -> Result<u64, Error> {
        let Some(key) = &plane.options().cluster_key else { return Ok(0) };
        let counter = wire::is_signed(request.headers(), "request", key, &self.nonce);
        let counter = counter.ok_or_else(|| {
            let why = "it takes only requests that are signed with its cluster_key";
            refusal(401, Kind::PermissionDenied, why)
        })?;
        if self.counter.fetch_max(counter, Ordering::Relaxed) >= counter {
            let why = "the request was made before: its counter is not above the last one";
            return Err(refusal(401, Kind::PermissionDenied, why));
        }
        Ok(counter)
    }
}

/// Reads a request, gives it to the program and waits for the outcome.
async fn take(plane: &DataPlane, request: Request<Incoming>) -> Outcome {
    let arrived = Instant::now();
    if request.method() != Method::POST || request.uri().path() != CALL_PATH {
        return Err(refusal(404, Kind::Unsupported, "there is no such operation"));
    }
    let head = Head::parse(request.headers())?;
    let deadline = arrived + head.deadline.min(LONGEST_CALL);
    let body = timeout_at(deadline.into(), read(plane, request)).await;
    let body = body.unwrap_or_else(|_| {
        Err(refusal(408, Kind::Timeout, "its deadline passed before it was here as a whole"))
    })?;
    let outcome = plane.admit(head, body, deadline)?;
    let outcome = timeout_at(deadline.into(), outcome).await.unwrap_or_else(|_| {
        let why = "its deadline passed before there was a reply";
        Ok(Err(Error::new(Kind::Timeout, why).with_status(504)))
    });
    // What was dropped without a reply was in the hands of a program that has stopped.
    let reply = outcome.unwrap_or_else(|_| {
        Err(Error::new(Kind::Closed, "it was stopped before it replied").with_status(503))
    })?;
    plane.bounded(reply)
}

async fn read(plane: &DataPlane, request: Request<Incoming>) -> Outcome {
    let most = plane.options().max_request_bytes;
    let too_large = || {
        let why = format!("the request is too large: max_request_bytes is {most}");
        refusal(413, Kind::TooLarge, why)
    };
    let (parts, body) = request.into_parts();
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let collected = Limited::new(body, most).collect().await;
    let bytes = collected.map(|collected| collected.to_bytes()).map_err(|error| {
        if error.is::<LengthLimitError>() {
            return too_large();
        }
        refusal(400, Kind::Decode, format!("the request cannot be read: {error}"))
    })?;
    let is_as_signed =
        plane.options().cluster_key.is_none() || wire::is_signed_body(&parts.headers, &bytes);
    if !is_as_signed {
        return Err(refusal(
            401,
            Kind::PermissionDenied,
            "the body is not the one that was signed",
        ));
    }
    Ok(Body::of(bytes, &parts.headers))
}
