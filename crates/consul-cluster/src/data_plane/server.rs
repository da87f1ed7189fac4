//! The receiving side: the listener, its connections, and the checks of a request before the program
//! gets it.

use super::incoming::Outcome;
use super::strangers::{Connections, Proof};
use super::tls::{self, HANDSHAKE, Member};
use super::wire::{self, Body, Bound, CALL_PATH, Head, MAX_HEAD_BYTES, NONCE_PATH};
use super::{ClusterKey, DataPlane, MAX_CALL_TIME, auth, refusal};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::metrics::Stranger;
use consul_process::os::{self, Stream};
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};

/// How long a connection that has carried a valid request may be idle, or may take to send the head of
/// the next one.
pub(super) const IDLE: Duration = Duration::from_secs(30);

/// The reason why a node with TLS refuses a connection without.
pub(super) const DEMANDS_TLS: &str = "it accepts only connections with TLS: set data_tls";

/// The pause after a failed accept, for example without a free file descriptor.
const PAUSE: Duration = Duration::from_millis(50);

/// How often it is logged that connections cannot be accepted.
const REMINDER: Duration = Duration::from_secs(60);

/// Accepts connections and answers their requests. Dropping this future closes them.
pub(super) async fn serve(plane: Arc<DataPlane>, listener: TcpListener) -> Infallible {
    let connections = Arc::new(Connections::new(plane.cluster.numbers));
    let (mut tasks, mut said) = (JoinSet::new(), None);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((stream, from)) => {
                let proof = connections.admit(from.ip());
                tasks.spawn(connection(Arc::clone(&plane), stream, proof));
            }
            Err(error) => {
                if said.is_none_or(|at: Instant| at.elapsed() >= REMINDER) {
                    said = Some(Instant::now());
                    let cure = os::cure_of(&error).unwrap_or_default();
                    tracing::warn!(%error, cure, "a connection from another node could not be accepted");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// The state of a connection from another node.
struct Connection {
    from: SocketAddr,
    nonce: String,
    /// The counter of the last request.
    counter: AtomicU64,
    proof: Arc<Proof>,
    /// With TLS, the node at the other end.
    member: Option<Member>,
}

async fn connection(plane: Arc<DataPlane>, stream: TcpStream, proof: Proof) {
    // A reply is one write; waiting for more would only delay it.
    let _ = stream.set_nodelay(true);
    let proof = Arc::new(proof);
    tokio::select! {
        () = accept(&plane, stream, Arc::clone(&proof)) => {}
        () = proof.is_missing() => {}
    }
}

/// Serves a connection if it has TLS, or has none, as this node.
async fn accept(plane: &DataPlane, mut stream: TcpStream, proof: Arc<Proof>) {
    let mut first = [0];
    if !matches!(stream.peek(&mut first).await, Ok(1)) {
        return;
    }
    let Ok(from) = stream.peer_addr() else { return };
    match (&plane.tls, first == [HANDSHAKE]) {
        (None, false) => serve_http(plane, Box::new(stream), from, proof, None).await,
        (Some(tls), true) => match tls.current().accept(stream).await {
            Ok((stream, member)) => {
                serve_http(plane, Box::new(stream), from, proof, Some(member)).await;
            }
            Err((error, stream)) => {
                plane.cluster.numbers.strangers.refuse(Stranger::Handshake);
                let error = match tls::reason(&error) {
                    Some(reason) => reason.message().to_owned(),
                    None => error.to_string(),
                };
                tracing::warn!(%from, error, "the TLS handshake of another node failed");
                drain(stream).await;
            }
        },
        (Some(_), false) => {
            plane.cluster.numbers.strangers.refuse(Stranger::NoTls);
            tracing::warn!(%from, "a connection without TLS was refused: its node has no data_tls");
            serve_http(plane, Box::new(stream), from, proof, None).await;
        }
        (None, true) => {
            plane.cluster.numbers.strangers.refuse(Stranger::Tls);
            tracing::warn!(%from, "a connection with TLS was refused: this node has no data_tls");
            // It is not TLS, which tells the other node.
            let _ =
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
            drain(stream).await;
        }
    }
}

/// Reads what comes, so that the other side gets the reason why the connection ends: a close with unread
/// bytes would discard it.
async fn drain(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    while matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {}
}

async fn serve_http(
    plane: &DataPlane,
    stream: Box<dyn Stream>,
    from: SocketAddr,
    proof: Arc<Proof>,
    member: Option<Member>,
) {
    let Ok(nonce) = auth::nonce() else { return };
    let connection = Connection { from, nonce, counter: AtomicU64::new(0), proof, member };
    let service = service_fn(|request| answer(plane, &connection, request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let _ = served.await;
}

async fn answer(
    plane: &DataPlane,
    connection: &Connection,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if plane.tls.is_some() && connection.member.is_none() {
        let mut response = wire::response(Err(refusal(400, Kind::Tls, DEMANDS_TLS)));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return Ok(response);
    }
    if request.method() == Method::GET && request.uri().path() == NONCE_PATH {
        return Ok(wire::nonce_response(&connection.nonce));
    }
    let signed = match connection.authenticate(plane, &request) {
        Ok(signed) => signed,
        Err(error) => return Ok(wire::response(Err(error))),
    };
    let outcome = if connection.proof.give() {
        let outcome = take(plane, request).await;
        plane.cluster.numbers.served.add(&outcome);
        outcome
    } else {
        let why = "too many nodes are connected to it";
        Err(refusal(429, Kind::RateLimited, why).retryable())
    };
    let body = outcome.as_ref().map_or_else(
        |error| Bytes::copy_from_slice(error.message().as_bytes()),
        |body| body.bytes.clone(),
    );
    let mut response = wire::response(outcome);
    if let Some((key, signature)) = signed {
        let bound = Bound::ToRequest(&signature);
        if let Err(error) = wire::sign(response.headers_mut(), &body, &key, bound) {
            response = wire::response(Err(error));
        }
    }
    Ok(response)
}

impl Connection {
    /// Checks that a request has the version of this node, comes from a member, is signed with the cluster's key and is not a
    /// replay; returns the secret that has signed it, which the caller has, and its signature, or none
    /// without a key.
    fn authenticate(
        &self,
        plane: &DataPlane,
        request: &Request<Incoming>,
    ) -> Result<Option<(ClusterKey, String)>, Error> {
        let headers = request.headers();
        wire::check_version(headers).map_err(Error::not_sent)?;
        if let Some((tls, member)) = plane.tls.as_ref().zip(self.member.as_ref()) {
            member.check(tls)?;
        }
        let Some(key) = &plane.options().cluster_key else { return Ok(None) };
        let signer = wire::signer(headers, key, Bound::ToConnection(&self.nonce));
        let Some((signer, signature)) = signer.zip(wire::signature(headers)) else {
            let from = self.from;
            plane.cluster.numbers.strangers.refuse(Stranger::Signature);
            tracing::warn!(%from, "a request was refused: no secret of this node's cluster_key signed it");
            let why = "it accepts only requests signed with its cluster_key";
            return Err(refusal(401, Kind::PermissionDenied, why));
        };
        let counter = wire::counter(headers)?;
        if self.counter.fetch_max(counter, Ordering::Relaxed) >= counter {
            plane.cluster.numbers.strangers.refuse(Stranger::Replay);
            let why = "replayed request: its counter is not above the last one";
            return Err(refusal(401, Kind::PermissionDenied, why));
        }
        Ok(Some((signer, signature.to_owned())))
    }
}

/// Reads a request, passes it to the program and waits for the outcome.
async fn take(plane: &DataPlane, request: Request<Incoming>) -> Outcome {
    let arrived = Instant::now();
    if request.method() != Method::POST || request.uri().path() != CALL_PATH {
        return Err(refusal(404, Kind::Unsupported, "there is no such operation"));
    }
    let head = Head::parse(request.headers())?;
    let deadline = arrived + head.deadline.min(MAX_CALL_TIME);
    let body = timeout_at(deadline.into(), read(plane, request)).await;
    let body = body.unwrap_or_else(|_| {
        Err(refusal(408, Kind::Timeout, "its deadline passed before the whole request arrived"))
    })?;
    let outcome = plane.admit(head, body, deadline)?;
    let outcome = timeout_at(deadline.into(), outcome).await.unwrap_or_else(|_| {
        let why = "its deadline passed before there was a reply";
        Ok(Err(Error::new(Kind::Timeout, why).with_status(504)))
    });
    // A request dropped without a reply was queued in a program that has stopped.
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
        plane.options().cluster_key.is_none() || wire::has_signed_body(&parts.headers, &bytes);
    if !is_as_signed {
        return Err(refusal(
            401,
            Kind::PermissionDenied,
            "the body does not match its signed digest",
        ));
    }
    Ok(Body::of(bytes, &parts.headers))
}
